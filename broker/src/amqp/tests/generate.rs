//! Random instances of everything that can be on the wire.

use bytes::Bytes;
use proptest::collection::vec;
use proptest::prelude::*;

use crate::amqp::content::Properties;
use crate::amqp::{ShortStr, Table, Value};

/// A strategy for one argument type of a method.
pub(in crate::amqp) trait Generate: Sized {
    fn strategy() -> BoxedStrategy<Self>;
}

macro_rules! generate_any {
    ($($type:ty),*) => {$(
        impl Generate for $type {
            fn strategy() -> BoxedStrategy<Self> {
                any::<$type>().boxed()
            }
        }
    )*};
}

generate_any!(bool, u8, u16, u32, u64);

impl Generate for ShortStr {
    fn strategy() -> BoxedStrategy<Self> {
        // Mostly short; sometimes multi-byte; sometimes as long as can be.
        prop_oneof![
            8 => "[a-z.#*]{0,12}".prop_map(|text| ShortStr::cut(&text)),
            2 => "\\PC{0,20}".prop_map(|text| ShortStr::cut(&text)),
            1 => Just(ShortStr::cut(&"x".repeat(255))),
        ]
        .boxed()
    }
}

impl Generate for Bytes {
    fn strategy() -> BoxedStrategy<Self> {
        vec(any::<u8>(), 0..40).prop_map(Bytes::from).boxed()
    }
}

/// A value of every type that has no parts.
fn scalar() -> BoxedStrategy<Value> {
    prop_oneof![
        any::<bool>().prop_map(Value::Bool),
        any::<i8>().prop_map(Value::I8),
        any::<u8>().prop_map(Value::U8),
        any::<i16>().prop_map(Value::I16),
        any::<u16>().prop_map(Value::U16),
        any::<i32>().prop_map(Value::I32),
        any::<u32>().prop_map(Value::U32),
        any::<i64>().prop_map(Value::I64),
        any::<u32>().prop_map(|bits| Value::F32(f32::from_bits(bits))),
        any::<u64>().prop_map(|bits| Value::F64(f64::from_bits(bits))),
        any::<(u8, u32)>().prop_map(|(scale, value)| Value::Decimal { scale, value }),
        Bytes::strategy().prop_map(Value::LongStr),
        any::<u64>().prop_map(Value::Timestamp),
        Bytes::strategy().prop_map(Value::ByteArray),
        Just(Value::Void),
    ]
    .boxed()
}

impl Generate for Value {
    fn strategy() -> BoxedStrategy<Self> {
        scalar()
            .prop_recursive(4, 32, 6, |inner| {
                prop_oneof![
                    vec(inner.clone(), 0..6).prop_map(Value::Array),
                    vec((ShortStr::strategy(), inner), 0..6).prop_map(|fields| Value::Table(Table(fields))),
                ]
            })
            .boxed()
    }
}

impl Generate for Table {
    fn strategy() -> BoxedStrategy<Self> {
        vec((ShortStr::strategy(), Value::strategy()), 0..6)
            .prop_map(Table)
            .boxed()
    }
}

impl Generate for Properties {
    fn strategy() -> BoxedStrategy<Self> {
        let text = || proptest::option::of(ShortStr::strategy());
        let strings = (
            text(),
            text(),
            text(),
            text(),
            text(),
            text(),
            text(),
            text(),
            text(),
            text(),
        );
        let others = (
            proptest::option::of(Table::strategy()),
            any::<Option<u8>>(),
            any::<Option<u8>>(),
            any::<Option<u64>>(),
        );
        (strings, others)
            .prop_map(
                |(mut strings, (headers, delivery_mode, priority, timestamp))| Properties {
                    content_type: strings.0.take(),
                    content_encoding: strings.1.take(),
                    headers,
                    delivery_mode,
                    priority,
                    correlation_id: strings.2.take(),
                    reply_to: strings.3.take(),
                    expiration: strings.4.take(),
                    message_id: strings.5.take(),
                    timestamp,
                    kind: strings.6.take(),
                    user_id: strings.7.take(),
                    app_id: strings.8.take(),
                    cluster_id: strings.9.take(),
                },
            )
            .boxed()
    }
}
