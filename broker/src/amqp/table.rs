//! Field tables: ordered names with typed values, nested at most [`DEPTH_MAX`] deep.

use std::cmp::Ordering;
use std::hash::{Hash, Hasher};

use bytes::{BufMut, Bytes, BytesMut};

use super::short_str::ShortStr;
use super::wire::{self, Reader};

pub use super::wire::Error;

/// How many tables and arrays may be inside one another. It bounds the recursion of whoever walks a table.
pub const DEPTH_MAX: usize = 256;

/// Keeps the order of its fields, and even repeated names, as they came.
///
/// Two tables are equal if they hold the same fields, in whatever order: a client's map has no order of its own, and
/// a binding made twice with the same arguments is one binding.
#[derive(Debug, Clone, Default)]
pub struct Table(pub Vec<(ShortStr, Value)>);

/// A field's value. Floats are compared by their bits, so a NaN equals itself.
#[derive(Debug, Clone)]
pub enum Value {
    Bool(bool),
    I8(i8),
    U8(u8),
    I16(i16),
    U16(u16),
    I32(i32),
    U32(u32),
    /// `l` on the wire; `L` is read as well.
    I64(i64),
    F32(f32),
    F64(f64),
    /// `value` divided by ten to the power `scale`.
    Decimal {
        scale: u8,
        value: u32,
    },
    LongStr(Bytes),
    Array(Vec<Value>),
    /// Seconds since 1970.
    Timestamp(u64),
    Table(Table),
    ByteArray(Bytes),
    Void,
}

impl Table {
    pub const fn new() -> Self {
        Self(Vec::new())
    }

    /// Reads a table that is all of `bytes`, its four-octet length included.
    pub fn decode(bytes: &Bytes) -> Result<Self, Error> {
        let mut reader = Reader::new(bytes);
        let table = Self::read(&mut reader)?;
        reader.finish()?;
        Ok(table)
    }

    /// Reads fields that are not preceded by a length, as the response of `AMQPLAIN` has them.
    pub fn decode_fields(bytes: &Bytes) -> Result<Self, Error> {
        read_fields(Reader::new(bytes), DEPTH_MAX)
    }

    pub(super) fn read(reader: &mut Reader<'_>) -> Result<Self, Error> {
        read_fields(reader.nested()?, DEPTH_MAX)
    }

    /// Appends the table, its four-octet length first.
    pub fn encode(&self, out: &mut BytesMut) {
        put_counted(out, |out| {
            for (name, value) in &self.0 {
                wire::put_short_bytes(out, name.as_bytes());
                value.encode(out);
            }
        });
    }

    /// The table as bytes, its length included.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::new();
        self.encode(&mut out);
        out.freeze()
    }

    /// The first field of that name.
    pub fn get(&self, name: &str) -> Option<&Value> {
        self.0.iter().find(|(own, _)| own == name).map(|(_, value)| value)
    }

    pub fn contains(&self, name: &str) -> bool {
        self.get(name).is_some()
    }

    /// Replaces the first field of that name, or appends one.
    pub fn insert(&mut self, name: impl Into<ShortStr>, value: impl Into<Value>) {
        let name = name.into();
        match self.0.iter_mut().find(|(own, _)| *own == name) {
            Some(field) => field.1 = value.into(),
            None => self.0.push((name, value.into())),
        }
    }

    /// Removes every field of that name and returns the first.
    pub fn remove(&mut self, name: &str) -> Option<Value> {
        let at = self.0.iter().position(|(own, _)| own == name)?;
        let (_, value) = self.0.remove(at);
        self.0.retain(|(own, _)| own != name);
        Some(value)
    }

    pub fn iter(&self) -> std::slice::Iter<'_, (ShortStr, Value)> {
        self.0.iter()
    }

    pub fn len(&self) -> usize {
        self.0.len()
    }

    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// The same table in allocations of its own, for keeping: slices of a read buffer hold all of that buffer.
    pub fn detach(&self) -> Self {
        Self(
            self.0
                .iter()
                .map(|(name, value)| (name.detach(), value.detach()))
                .collect(),
        )
    }

    /// By name; fields of one name stay in the order they came.
    fn sorted(&self) -> Vec<&(ShortStr, Value)> {
        let mut fields: Vec<_> = self.0.iter().collect();
        fields.sort_by(|one, other| one.0.cmp(&other.0));
        fields
    }
}

impl Value {
    /// RabbitMQ's name of the type, as its error texts spell it.
    pub fn type_name(&self) -> &'static str {
        match self {
            Self::Bool(_) => "bool",
            Self::I8(_) => "byte",
            Self::U8(_) => "unsignedbyte",
            Self::I16(_) => "short",
            Self::U16(_) => "unsignedshort",
            Self::I32(_) => "signedint",
            Self::U32(_) => "unsignedint",
            Self::I64(_) => "long",
            Self::F32(_) => "float",
            Self::F64(_) => "double",
            Self::Decimal { .. } => "decimal",
            Self::LongStr(_) => "longstr",
            Self::Array(_) => "array",
            Self::Timestamp(_) => "timestamp",
            Self::Table(_) => "table",
            Self::ByteArray(_) => "binary",
            Self::Void => "void",
        }
    }

    /// The octet that stands for the type on the wire.
    pub const fn tag(&self) -> u8 {
        match self {
            Self::Bool(_) => b't',
            Self::I8(_) => b'b',
            Self::U8(_) => b'B',
            Self::I16(_) => b's',
            Self::U16(_) => b'u',
            Self::I32(_) => b'I',
            Self::U32(_) => b'i',
            Self::I64(_) => b'l',
            Self::F32(_) => b'f',
            Self::F64(_) => b'd',
            Self::Decimal { .. } => b'D',
            Self::LongStr(_) => b'S',
            Self::Array(_) => b'A',
            Self::Timestamp(_) => b'T',
            Self::Table(_) => b'F',
            Self::ByteArray(_) => b'x',
            Self::Void => b'V',
        }
    }

    /// A long string that is UTF-8.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::LongStr(text) => std::str::from_utf8(text).ok(),
            _ => None,
        }
    }

    /// An integer of any width.
    pub fn as_i64(&self) -> Option<i64> {
        match *self {
            Self::I8(value) => Some(value.into()),
            Self::U8(value) => Some(value.into()),
            Self::I16(value) => Some(value.into()),
            Self::U16(value) => Some(value.into()),
            Self::I32(value) => Some(value.into()),
            Self::U32(value) => Some(value.into()),
            Self::I64(value) => Some(value),
            _ => None,
        }
    }

    pub fn as_bool(&self) -> Option<bool> {
        match *self {
            Self::Bool(value) => Some(value),
            _ => None,
        }
    }

    pub fn as_table(&self) -> Option<&Table> {
        match self {
            Self::Table(table) => Some(table),
            _ => None,
        }
    }

    pub fn as_array(&self) -> Option<&[Value]> {
        match self {
            Self::Array(values) => Some(values),
            _ => None,
        }
    }

    /// See [`Table::detach`].
    pub fn detach(&self) -> Self {
        match self {
            Self::LongStr(bytes) => Self::LongStr(Bytes::copy_from_slice(bytes)),
            Self::ByteArray(bytes) => Self::ByteArray(Bytes::copy_from_slice(bytes)),
            Self::Array(values) => Self::Array(values.iter().map(Self::detach).collect()),
            Self::Table(table) => Self::Table(table.detach()),
            _ => self.clone(),
        }
    }

    /// Appends the type's octet and the value.
    pub fn encode(&self, out: &mut BytesMut) {
        out.put_u8(self.tag());
        match self {
            Self::Bool(value) => out.put_u8(u8::from(*value)),
            Self::I8(value) => out.put_i8(*value),
            Self::U8(value) => out.put_u8(*value),
            Self::I16(value) => out.put_i16(*value),
            Self::U16(value) => out.put_u16(*value),
            Self::I32(value) => out.put_i32(*value),
            Self::U32(value) => out.put_u32(*value),
            Self::I64(value) => out.put_i64(*value),
            Self::F32(value) => out.put_f32(*value),
            Self::F64(value) => out.put_f64(*value),
            Self::Decimal { scale, value } => {
                out.put_u8(*scale);
                out.put_u32(*value);
            }
            Self::LongStr(bytes) | Self::ByteArray(bytes) => wire::put_long_bytes(out, bytes),
            Self::Array(values) => put_counted(out, |out| values.iter().for_each(|value| value.encode(out))),
            Self::Timestamp(seconds) => out.put_u64(*seconds),
            Self::Table(table) => table.encode(out),
            Self::Void => {}
        }
    }

    fn read(reader: &mut Reader<'_>, depth_left: usize) -> Result<Self, Error> {
        Ok(match reader.octet()? {
            b't' => Self::Bool(reader.octet()? != 0),
            b'b' => Self::I8(reader.octet()?.cast_signed()),
            b'B' => Self::U8(reader.octet()?),
            b's' => Self::I16(reader.short()?.cast_signed()),
            b'u' => Self::U16(reader.short()?),
            b'I' => Self::I32(reader.long()?.cast_signed()),
            b'i' => Self::U32(reader.long()?),
            b'l' | b'L' => Self::I64(reader.long_long()?.cast_signed()),
            b'f' => Self::F32(f32::from_bits(reader.long()?)),
            b'd' => Self::F64(f64::from_bits(reader.long_long()?)),
            b'D' => Self::Decimal {
                scale: reader.octet()?,
                value: reader.long()?,
            },
            b'S' => Self::LongStr(reader.long_str()?),
            b'A' => {
                let mut nested = reader.nested()?;
                let depth_left = depth_left.checked_sub(1).ok_or(Error::TooDeep)?;
                let mut values = Vec::new();
                while !nested.is_at_end() {
                    values.push(Self::read(&mut nested, depth_left)?);
                }
                Self::Array(values)
            }
            b'T' => Self::Timestamp(reader.long_long()?),
            b'F' => Self::Table(read_fields(reader.nested()?, depth_left)?),
            b'x' => Self::ByteArray(reader.long_str()?),
            b'V' => Self::Void,
            other => return Err(Error::UnknownFieldType(other)),
        })
    }
}

fn read_fields(mut reader: Reader<'_>, depth_left: usize) -> Result<Table, Error> {
    let depth_left = depth_left.checked_sub(1).ok_or(Error::TooDeep)?;
    let mut fields = Vec::new();
    while !reader.is_at_end() {
        fields.push((reader.short_str()?, Value::read(&mut reader, depth_left)?));
    }
    Ok(Table(fields))
}

/// Moves `reader` past a table that [`Table::read`] would accept, building nothing.
pub(super) fn check(reader: &mut Reader<'_>) -> Result<(), Error> {
    check_fields(reader.nested()?, DEPTH_MAX)
}

fn check_fields(mut reader: Reader<'_>, depth_left: usize) -> Result<(), Error> {
    let depth_left = depth_left.checked_sub(1).ok_or(Error::TooDeep)?;
    while !reader.is_at_end() {
        reader.check_short_str()?;
        check_value(&mut reader, depth_left)?;
    }
    Ok(())
}

fn check_value(reader: &mut Reader<'_>, depth_left: usize) -> Result<(), Error> {
    let len = match reader.octet()? {
        b'V' => 0,
        b't' | b'b' | b'B' => 1,
        b's' | b'u' => 2,
        b'I' | b'i' | b'f' => 4,
        b'D' => 5,
        b'l' | b'L' | b'd' | b'T' => 8,
        b'S' | b'x' => reader.long()? as usize,
        b'F' => return check_fields(reader.nested()?, depth_left),
        b'A' => {
            let mut nested = reader.nested()?;
            let depth_left = depth_left.checked_sub(1).ok_or(Error::TooDeep)?;
            while !nested.is_at_end() {
                check_value(&mut nested, depth_left)?;
            }
            return Ok(());
        }
        other => return Err(Error::UnknownFieldType(other)),
    };
    reader.skip(len).map(drop)
}

/// Appends what `fill` writes, its length in four octets first.
fn put_counted(out: &mut BytesMut, fill: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    out.put_u32(0);
    fill(out);
    let len = u32::try_from(out.len() - start - 4).expect("no table is built near four gigabytes");
    out[start..start + 4].copy_from_slice(&len.to_be_bytes());
}

impl PartialEq for Table {
    fn eq(&self, other: &Self) -> bool {
        // Values are compared once whichever way it goes: twice per level would be exponential in the nesting.
        self.0.len() == other.0.len()
            && if self.0.iter().zip(&other.0).all(|(one, other)| one.0 == other.0) {
                self.0 == other.0
            } else {
                self.sorted() == other.sorted()
            }
    }
}

impl Eq for Table {}

impl PartialOrd for Table {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Some total order that agrees with equality, for use as a key.
impl Ord for Table {
    fn cmp(&self, other: &Self) -> Ordering {
        self.sorted().cmp(&other.sorted())
    }
}

impl Hash for Table {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.sorted().hash(state);
    }
}

impl PartialEq for Value {
    fn eq(&self, other: &Self) -> bool {
        match (self, other) {
            // Not through the order: telling tables apart is cheaper than sorting them.
            (Self::Table(one), Self::Table(other)) => one == other,
            (Self::Array(one), Self::Array(other)) => one == other,
            _ => self.cmp(other).is_eq(),
        }
    }
}

impl Eq for Value {}

impl PartialOrd for Value {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

/// Values of different types are ordered by type: 1 in two octets is not 1 in four.
impl Ord for Value {
    fn cmp(&self, other: &Self) -> Ordering {
        match (self, other) {
            (Self::Bool(one), Self::Bool(other)) => one.cmp(other),
            (Self::I8(one), Self::I8(other)) => one.cmp(other),
            (Self::U8(one), Self::U8(other)) => one.cmp(other),
            (Self::I16(one), Self::I16(other)) => one.cmp(other),
            (Self::U16(one), Self::U16(other)) => one.cmp(other),
            (Self::I32(one), Self::I32(other)) => one.cmp(other),
            (Self::U32(one), Self::U32(other)) => one.cmp(other),
            (Self::I64(one), Self::I64(other)) => one.cmp(other),
            (Self::F32(one), Self::F32(other)) => one.to_bits().cmp(&other.to_bits()),
            (Self::F64(one), Self::F64(other)) => one.to_bits().cmp(&other.to_bits()),
            (Self::Decimal { scale: a, value: b }, Self::Decimal { scale: c, value: d }) => (a, b).cmp(&(c, d)),
            (Self::LongStr(one), Self::LongStr(other)) => one.cmp(other),
            (Self::ByteArray(one), Self::ByteArray(other)) => one.cmp(other),
            (Self::Array(one), Self::Array(other)) => one.cmp(other),
            (Self::Timestamp(one), Self::Timestamp(other)) => one.cmp(other),
            (Self::Table(one), Self::Table(other)) => one.cmp(other),
            _ => self.tag().cmp(&other.tag()),
        }
    }
}

impl Hash for Value {
    fn hash<H: Hasher>(&self, state: &mut H) {
        self.tag().hash(state);
        match self {
            Self::Bool(value) => value.hash(state),
            Self::I8(value) => value.hash(state),
            Self::U8(value) => value.hash(state),
            Self::I16(value) => value.hash(state),
            Self::U16(value) => value.hash(state),
            Self::I32(value) => value.hash(state),
            Self::U32(value) => value.hash(state),
            Self::I64(value) => value.hash(state),
            Self::F32(value) => value.to_bits().hash(state),
            Self::F64(value) => value.to_bits().hash(state),
            Self::Decimal { scale, value } => (scale, value).hash(state),
            Self::LongStr(bytes) | Self::ByteArray(bytes) => bytes.hash(state),
            Self::Array(values) => values.hash(state),
            Self::Timestamp(seconds) => seconds.hash(state),
            Self::Table(table) => table.hash(state),
            Self::Void => {}
        }
    }
}

impl FromIterator<(ShortStr, Value)> for Table {
    fn from_iter<I: IntoIterator<Item = (ShortStr, Value)>>(fields: I) -> Self {
        Self(fields.into_iter().collect())
    }
}

impl<'a> IntoIterator for &'a Table {
    type Item = &'a (ShortStr, Value);
    type IntoIter = std::slice::Iter<'a, (ShortStr, Value)>;

    fn into_iter(self) -> Self::IntoIter {
        self.0.iter()
    }
}

macro_rules! value_from {
    ($($from:ty => |$value:ident| $to:expr;)*) => {$(
        impl From<$from> for Value {
            fn from($value: $from) -> Self {
                $to
            }
        }
    )*};
}

value_from! {
    bool => |value| Self::Bool(value);
    i8 => |value| Self::I8(value);
    u8 => |value| Self::U8(value);
    i16 => |value| Self::I16(value);
    u16 => |value| Self::U16(value);
    i32 => |value| Self::I32(value);
    u32 => |value| Self::U32(value);
    i64 => |value| Self::I64(value);
    f64 => |value| Self::F64(value);
    &'static str => |text| Self::LongStr(Bytes::from_static(text.as_bytes()));
    String => |text| Self::LongStr(Bytes::from(text));
    ShortStr => |text| Self::LongStr(text.into_bytes());
    Bytes => |bytes| Self::LongStr(bytes);
    Table => |table| Self::Table(table);
    Vec<Value> => |values| Self::Array(values);
}
