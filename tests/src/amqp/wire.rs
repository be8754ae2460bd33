//! AMQP 0-9-1 values as bytes: integers, strings, packed bits, field tables, basic properties.
//!
//! Written apart from the broker's own codec on purpose: a mistake in one must not hide in the other.

/// Arguments being written; consecutive bits share an octet, lowest first.
#[derive(Default)]
pub struct Writer {
    bytes: Vec<u8>,
    bits: u8,
    bit_count: u8,
}

impl Writer {
    /// Appends bytes as they are.
    pub fn raw(&mut self, bytes: &[u8]) {
        self.flush();
        self.bytes.extend_from_slice(bytes);
    }

    fn bit(&mut self, value: bool) {
        if self.bit_count == 8 {
            self.flush();
        }
        self.bits |= u8::from(value) << self.bit_count;
        self.bit_count += 1;
    }

    fn flush(&mut self) {
        if self.bit_count > 0 {
            self.bytes.push(self.bits);
            self.bits = 0;
            self.bit_count = 0;
        }
    }

    /// Everything written so far.
    pub fn finish(mut self) -> Vec<u8> {
        self.flush();
        self.bytes
    }
}

/// Arguments being read; every accessor answers `None` when the bytes run out or do not fit.
pub struct Reader<'a> {
    bytes: &'a [u8],
    bits: u8,
    bit_count: u8,
}

impl<'a> Reader<'a> {
    /// Reads from the start of `bytes`.
    pub fn new(bytes: &'a [u8]) -> Self {
        Self {
            bytes,
            bits: 0,
            bit_count: 0,
        }
    }

    /// Takes the next `count` bytes.
    pub fn raw(&mut self, count: usize) -> Option<&'a [u8]> {
        self.bit_count = 0;
        let (taken, rest) = self.bytes.split_at_checked(count)?;
        self.bytes = rest;
        Some(taken)
    }

    fn bit(&mut self) -> Option<bool> {
        if self.bit_count == 0 {
            self.bits = self.raw(1)?[0];
            self.bit_count = 8;
        }
        let value = self.bits & 1 == 1;
        self.bits >>= 1;
        self.bit_count -= 1;
        Some(value)
    }

    /// Whether every byte was read.
    pub fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }
}

/// A type with one AMQP encoding: `String` is a short string, `Vec<u8>` a long one, `bool` a bit.
pub trait Wire: Sized {
    /// Appends the value.
    fn put(&self, out: &mut Writer);
    /// Reads a value.
    fn take(input: &mut Reader<'_>) -> Option<Self>;
}

macro_rules! integers {
    ($($type:ty),*) => {$(
        impl Wire for $type {
            fn put(&self, out: &mut Writer) {
                out.raw(&self.to_be_bytes());
            }
            fn take(input: &mut Reader<'_>) -> Option<Self> {
                Some(<$type>::from_be_bytes(input.raw(size_of::<$type>())?.try_into().ok()?))
            }
        }
    )*};
}
integers!(u8, i8, u16, i16, u32, i32, u64, i64, f32, f64);

impl Wire for bool {
    fn put(&self, out: &mut Writer) {
        out.bit(*self);
    }
    fn take(input: &mut Reader<'_>) -> Option<Self> {
        input.bit()
    }
}

impl Wire for String {
    fn put(&self, out: &mut Writer) {
        u8::try_from(self.len())
            .expect("a short string holds at most 255 bytes")
            .put(out);
        out.raw(self.as_bytes());
    }
    fn take(input: &mut Reader<'_>) -> Option<Self> {
        let length = u8::take(input)?;
        String::from_utf8(input.raw(length.into())?.to_vec()).ok()
    }
}

impl Wire for Vec<u8> {
    fn put(&self, out: &mut Writer) {
        u32::try_from(self.len())
            .expect("a long string's length fits 32 bits")
            .put(out);
        out.raw(self);
    }
    fn take(input: &mut Reader<'_>) -> Option<Self> {
        let length = u32::take(input)?;
        Some(input.raw(usize::try_from(length).ok()?)?.to_vec())
    }
}

/// A field table in the order it was written.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Table(pub Vec<(String, Value)>);

impl Table {
    /// The first value under `key`.
    pub fn get(&self, key: &str) -> Option<&Value> {
        self.0.iter().find(|(name, _)| name == key).map(|(_, value)| value)
    }

    /// The pairs without the length in front, as the AMQPLAIN mechanism sends them.
    pub fn body(&self) -> Vec<u8> {
        let mut out = Writer::default();
        for (name, value) in &self.0 {
            name.put(&mut out);
            value.put(&mut out);
        }
        out.finish()
    }
}

impl<K: Into<String>, V: Into<Value>, const N: usize> From<[(K, V); N]> for Table {
    fn from(pairs: [(K, V); N]) -> Self {
        Self(
            pairs
                .into_iter()
                .map(|(key, value)| (key.into(), value.into()))
                .collect(),
        )
    }
}

impl Wire for Table {
    fn put(&self, out: &mut Writer) {
        self.body().put(out);
    }
    fn take(input: &mut Reader<'_>) -> Option<Self> {
        let body = Vec::<u8>::take(input)?;
        let mut reader = Reader::new(&body);
        let mut pairs = Vec::new();
        while !reader.is_empty() {
            pairs.push((String::take(&mut reader)?, Value::take(&mut reader)?));
        }
        Some(Self(pairs))
    }
}

/// A field table's value, with the letter that precedes it on the wire.
#[derive(Debug, Clone, PartialEq)]
pub enum Value {
    /// `t`
    Bool(bool),
    /// `b`
    I8(i8),
    /// `B`
    U8(u8),
    /// `s`
    I16(i16),
    /// `u`
    U16(u16),
    /// `I`
    I32(i32),
    /// `i`
    U32(u32),
    /// `l`
    I64(i64),
    /// `L`, which RabbitMQ reads as signed
    UpperI64(i64),
    /// `f`
    F32(f32),
    /// `d`
    F64(f64),
    /// `D`
    Decimal(u8, u32),
    /// `S`
    Text(Vec<u8>),
    /// `A`
    Array(Vec<Value>),
    /// `T`, seconds
    Timestamp(u64),
    /// `F`
    Table(Table),
    /// `x`
    Bytes(Vec<u8>),
    /// `V`
    Void,
}

impl From<&str> for Value {
    fn from(text: &str) -> Self {
        Self::Text(text.as_bytes().to_vec())
    }
}

impl From<i32> for Value {
    fn from(number: i32) -> Self {
        Self::I32(number)
    }
}

impl From<bool> for Value {
    fn from(value: bool) -> Self {
        Self::Bool(value)
    }
}

impl From<Table> for Value {
    fn from(table: Table) -> Self {
        Self::Table(table)
    }
}

impl Wire for Value {
    fn put(&self, out: &mut Writer) {
        fn tagged(out: &mut Writer, tag: u8, value: &impl Wire) {
            out.raw(&[tag]);
            value.put(out);
        }
        match self {
            Self::Bool(value) => tagged(out, b't', &u8::from(*value)),
            Self::I8(value) => tagged(out, b'b', value),
            Self::U8(value) => tagged(out, b'B', value),
            Self::I16(value) => tagged(out, b's', value),
            Self::U16(value) => tagged(out, b'u', value),
            Self::I32(value) => tagged(out, b'I', value),
            Self::U32(value) => tagged(out, b'i', value),
            Self::I64(value) => tagged(out, b'l', value),
            Self::UpperI64(value) => tagged(out, b'L', value),
            Self::F32(value) => tagged(out, b'f', value),
            Self::F64(value) => tagged(out, b'd', value),
            Self::Decimal(scale, value) => {
                tagged(out, b'D', scale);
                value.put(out);
            }
            Self::Text(value) => tagged(out, b'S', value),
            Self::Array(values) => {
                let mut inner = Writer::default();
                values.iter().for_each(|value| value.put(&mut inner));
                tagged(out, b'A', &inner.finish());
            }
            Self::Timestamp(value) => tagged(out, b'T', value),
            Self::Table(value) => tagged(out, b'F', value),
            Self::Bytes(value) => tagged(out, b'x', value),
            Self::Void => out.raw(b"V"),
        }
    }

    fn take(input: &mut Reader<'_>) -> Option<Self> {
        Some(match u8::take(input)? {
            b't' => Self::Bool(u8::take(input)? != 0),
            b'b' => Self::I8(i8::take(input)?),
            b'B' => Self::U8(u8::take(input)?),
            b's' => Self::I16(i16::take(input)?),
            b'u' => Self::U16(u16::take(input)?),
            b'I' => Self::I32(i32::take(input)?),
            b'i' => Self::U32(u32::take(input)?),
            b'l' => Self::I64(i64::take(input)?),
            b'L' => Self::UpperI64(i64::take(input)?),
            b'f' => Self::F32(f32::take(input)?),
            b'd' => Self::F64(f64::take(input)?),
            b'D' => Self::Decimal(u8::take(input)?, u32::take(input)?),
            b'S' => Self::Text(Vec::take(input)?),
            b'A' => {
                let body = Vec::<u8>::take(input)?;
                let mut reader = Reader::new(&body);
                let mut values = Vec::new();
                while !reader.is_empty() {
                    values.push(Self::take(&mut reader)?);
                }
                Self::Array(values)
            }
            b'T' => Self::Timestamp(u64::take(input)?),
            b'F' => Self::Table(Table::take(input)?),
            b'x' => Self::Bytes(Vec::take(input)?),
            b'V' => Self::Void,
            _ => return None,
        })
    }
}

macro_rules! properties {
    ($($bit:literal $field:ident: $type:ty),* $(,)?) => {
        /// The properties of a message; absent ones take no room on the wire.
        #[derive(Debug, Clone, Default, PartialEq)]
        #[allow(missing_docs, reason = "the field names are the specification's")]
        pub struct Properties { $(pub $field: Option<$type>),* }

        impl Wire for Properties {
            fn put(&self, out: &mut Writer) {
                let mut flags = 0u16;
                $(if self.$field.is_some() { flags |= 1 << $bit; })*
                flags.put(out);
                $(if let Some(value) = &self.$field { value.put(out); })*
            }
            fn take(input: &mut Reader<'_>) -> Option<Self> {
                let flags = u16::take(input)?;
                let mut properties = Self::default();
                $(if flags & (1 << $bit) != 0 { properties.$field = Some(<$type>::take(input)?); })*
                Some(properties)
            }
        }
    };
}

properties! {
    15 content_type: String,
    14 content_encoding: String,
    13 headers: Table,
    12 delivery_mode: u8,
    11 priority: u8,
    10 correlation_id: String,
    9 reply_to: String,
    8 expiration: String,
    7 message_id: String,
    6 timestamp: u64,
    5 kind: String,
    4 user_id: String,
    3 app_id: String,
    2 cluster_id: String,
}

impl Properties {
    /// A message that outlives its broker.
    pub fn persistent() -> Self {
        Self {
            delivery_mode: Some(2),
            ..Self::default()
        }
    }

    /// Flags and values as they travel in a content header.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Writer::default();
        self.put(&mut out);
        out.finish()
    }
}
