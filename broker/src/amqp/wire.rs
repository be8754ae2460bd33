//! Reading and writing the elementary types, with the packing of bits, for methods, tables and properties alike.

use bytes::{BufMut, Bytes, BytesMut};

use super::short_str::{self, LEN_MAX, ShortStr};
use super::table::Table;

/// How bytes fail to be what they should be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("it ends too early")]
    Truncated,
    #[error("bytes are left over after its last field")]
    Trailing,
    #[error("Malformed UTF-8 in shortstr")]
    MalformedUtf8,
    #[error("unknown field type {0}")]
    UnknownFieldType(u8),
    #[error("tables are nested more than {} deep", super::table::DEPTH_MAX)]
    TooDeep,
    #[error("unknown property flags")]
    UnknownFlags,
}

impl From<short_str::Error> for Error {
    fn from(_: short_str::Error) -> Self {
        // The length octet cannot announce too much, so it is the text.
        Self::MalformedUtf8
    }
}

/// A position in a buffer. Each read checks what is left first.
pub(super) struct Reader<'a> {
    source: &'a Bytes,
    at: usize,
    /// Exclusive; at most `source.len()`.
    end: usize,
    bits: u8,
    /// The next bit's mask; 0 if the next bit starts a new octet.
    bit: u8,
}

impl<'a> Reader<'a> {
    pub(super) fn new(source: &'a Bytes) -> Self {
        Self {
            source,
            at: 0,
            end: source.len(),
            bits: 0,
            bit: 0,
        }
    }

    pub(super) fn at(&self) -> usize {
        self.at
    }

    pub(super) fn is_at_end(&self) -> bool {
        self.at == self.end
    }

    pub(super) fn finish(&self) -> Result<(), Error> {
        if self.is_at_end() { Ok(()) } else { Err(Error::Trailing) }
    }

    /// Takes the next `len` bytes and returns where they start.
    pub(super) fn skip(&mut self, len: usize) -> Result<usize, Error> {
        self.bit = 0;
        if len > self.end - self.at {
            return Err(Error::Truncated);
        }
        let start = self.at;
        self.at += len;
        Ok(start)
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], Error> {
        let start = self.skip(N)?;
        let mut array = [0; N];
        array.copy_from_slice(&self.source[start..start + N]);
        Ok(array)
    }

    pub(super) fn octet(&mut self) -> Result<u8, Error> {
        self.array().map(u8::from_be_bytes)
    }

    pub(super) fn short(&mut self) -> Result<u16, Error> {
        self.array().map(u16::from_be_bytes)
    }

    pub(super) fn long(&mut self) -> Result<u32, Error> {
        self.array().map(u32::from_be_bytes)
    }

    pub(super) fn long_long(&mut self) -> Result<u64, Error> {
        self.array().map(u64::from_be_bytes)
    }

    /// Consecutive bits share an octet, the first in its lowest bit.
    pub(super) fn bit(&mut self) -> Result<bool, Error> {
        if self.bit == 0 {
            self.bits = self.octet()?;
            self.bit = 1;
        }
        let set = self.bits & self.bit != 0;
        self.bit <<= 1;
        Ok(set)
    }

    fn slice(&mut self, len: usize) -> Result<Bytes, Error> {
        let start = self.skip(len)?;
        Ok(self.source.slice(start..start + len))
    }

    /// What follows a one-octet length, unchecked.
    pub(super) fn short_bytes(&mut self) -> Result<Bytes, Error> {
        let len = self.octet()?;
        self.slice(len.into())
    }

    pub(super) fn short_str(&mut self) -> Result<ShortStr, Error> {
        Ok(ShortStr::try_from(self.short_bytes()?)?)
    }

    pub(super) fn long_str(&mut self) -> Result<Bytes, Error> {
        let len = self.long()?;
        self.slice(len as usize)
    }

    /// Moves past a short string without looking into it.
    pub(super) fn skip_short_str(&mut self) -> Result<(), Error> {
        let len = self.octet()?;
        self.skip(len.into()).map(drop)
    }

    /// Moves past a short string that must be UTF-8.
    pub(super) fn check_short_str(&mut self) -> Result<(), Error> {
        let len = usize::from(self.octet()?);
        let start = self.skip(len)?;
        match std::str::from_utf8(&self.source[start..start + len]) {
            Ok(_) => Ok(()),
            Err(_) => Err(Error::MalformedUtf8),
        }
    }

    /// A reader confined to the part that follows a four-octet length; `self` moves past it.
    pub(super) fn nested(&mut self) -> Result<Self, Error> {
        let len = self.long()? as usize;
        let at = self.skip(len)?;
        Ok(Self {
            source: self.source,
            at,
            end: at + len,
            bits: 0,
            bit: 0,
        })
    }
}

/// The counterpart of [`Reader`], which only bits need: it remembers the octet they are being packed into.
pub(super) struct Writer<'a> {
    pub(super) out: &'a mut BytesMut,
    /// The mask of the next bit in the last octet of `out`; 0 if the next bit starts a new octet.
    bit: u8,
}

impl<'a> Writer<'a> {
    pub(super) fn new(out: &'a mut BytesMut) -> Self {
        Self { out, bit: 0 }
    }

    pub(super) fn put_bit(&mut self, set: bool) {
        if self.bit == 0 {
            self.out.put_u8(0);
            self.bit = 1;
        }
        if set && let Some(octet) = self.out.last_mut() {
            *octet |= self.bit;
        }
        self.bit <<= 1;
    }

    /// The buffer, for anything but a bit.
    pub(super) fn whole(&mut self) -> &mut BytesMut {
        self.bit = 0;
        self.out
    }
}

/// Appends a short string; more than 255 bytes, which no checked name has, would be cut rather than break the stream.
pub(super) fn put_short_bytes(out: &mut BytesMut, bytes: &[u8]) {
    let bytes = &bytes[..bytes.len().min(LEN_MAX)];
    out.put_u8(bytes.len() as u8);
    out.put_slice(bytes);
}

pub(super) fn put_long_bytes(out: &mut BytesMut, bytes: &[u8]) {
    let len = u32::try_from(bytes.len()).expect("no string is built near four gigabytes");
    out.put_u32(len);
    out.put_slice(bytes);
}

/// One argument of a method; each Rust type stands for exactly one wire type.
pub(super) trait Field: Sized {
    fn read(reader: &mut Reader<'_>) -> Result<Self, Error>;
    fn write(&self, writer: &mut Writer<'_>);
}

macro_rules! fields {
    ($($field:ty: |$reader:ident| $read:expr, |$value:ident, $writer:ident| $write:expr;)*) => {$(
        impl Field for $field {
            #[inline]
            fn read($reader: &mut Reader<'_>) -> Result<Self, Error> {
                $read
            }

            #[inline]
            fn write(&self, $writer: &mut Writer<'_>) {
                let $value = self;
                $write
            }
        }
    )*};
}

fields! {
    bool: |reader| reader.bit(), |value, writer| writer.put_bit(*value);
    u8: |reader| reader.octet(), |value, writer| writer.whole().put_u8(*value);
    u16: |reader| reader.short(), |value, writer| writer.whole().put_u16(*value);
    u32: |reader| reader.long(), |value, writer| writer.whole().put_u32(*value);
    u64: |reader| reader.long_long(), |value, writer| writer.whole().put_u64(*value);
    ShortStr: |reader| reader.short_str(), |value, writer| put_short_bytes(writer.whole(), value.as_bytes());
    Bytes: |reader| reader.long_str(), |value, writer| put_long_bytes(writer.whole(), value);
    Table: |reader| Table::read(reader), |value, writer| value.encode(writer.whole());
}
