//! Tables: every type, nesting and its bound, equality.

use std::hash::BuildHasher;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::generate::Generate;
use crate::amqp::table::{DEPTH_MAX, Error, Table, Value};

#[track_caller]
fn check_bytes(value: Value, expected: &[u8]) {
    let mut out = BytesMut::new();
    value.encode(&mut out);
    assert_eq!(&out[..], expected, "{value:?}");
    let table = Table(vec![("k".into(), value.clone())]);
    assert_eq!(Table::decode(&table.to_bytes()), Ok(table));
    // And once more with everything inside a table and an array.
    let nested = Table(vec![(
        "n".into(),
        Value::Array(vec![Value::Table(Table(vec![("k".into(), value)]))]),
    )]);
    assert_eq!(Table::decode(&nested.to_bytes()), Ok(nested));
}

#[test]
fn each_type_has_its_octet() {
    check_bytes(Value::Bool(true), b"t\x01");
    check_bytes(Value::I8(-1), b"b\xff");
    check_bytes(Value::U8(255), b"B\xff");
    check_bytes(Value::I16(-2), b"s\xff\xfe");
    check_bytes(Value::U16(0xfffe), b"u\xff\xfe");
    check_bytes(Value::I32(-2), b"I\xff\xff\xff\xfe");
    check_bytes(Value::U32(0xffff_fffe), b"i\xff\xff\xff\xfe");
    check_bytes(Value::I64(-2), b"l\xff\xff\xff\xff\xff\xff\xff\xfe");
    check_bytes(Value::F32(1.5), b"f\x3f\xc0\x00\x00");
    check_bytes(Value::F64(-1.5), b"d\xbf\xf8\x00\x00\x00\x00\x00\x00");
    check_bytes(Value::F64(f64::NAN), b"d\x7f\xf8\x00\x00\x00\x00\x00\x00");
    check_bytes(Value::Decimal { scale: 2, value: 314 }, b"D\x02\x00\x00\x01\x3a");
    check_bytes(
        Value::LongStr(Bytes::from_static(b"\xff\x00")),
        b"S\x00\x00\x00\x02\xff\x00",
    );
    check_bytes(
        Value::Array(vec![Value::Void, Value::Bool(false)]),
        b"A\x00\x00\x00\x03Vt\x00",
    );
    check_bytes(Value::Array(vec![]), b"A\x00\x00\x00\x00");
    check_bytes(Value::Timestamp(1 << 33), b"T\x00\x00\x00\x02\x00\x00\x00\x00");
    check_bytes(
        Value::Table(Table(vec![("a".into(), Value::Void)])),
        b"F\x00\x00\x00\x03\x01aV",
    );
    check_bytes(Value::ByteArray(Bytes::from_static(b"x")), b"x\x00\x00\x00\x01x");
    check_bytes(Value::Void, b"V");
}

#[test]
fn capital_l_is_read_as_a_signed_long_and_written_small() {
    let bytes = Bytes::from_static(b"\x00\x00\x00\x0b\x01kL\xff\xff\xff\xff\xff\xff\xff\xff");
    let table = Table::decode(&bytes).expect("a table");
    assert_eq!(table.get("k"), Some(&Value::I64(-1)));
    assert_eq!(table.to_bytes()[6], b'l');
}

#[test]
fn any_byte_but_zero_is_true() {
    let table = Table::decode(&Bytes::from_static(b"\x00\x00\x00\x04\x01kt\x07")).expect("a table");
    assert_eq!(table.get("k"), Some(&Value::Bool(true)));
}

/// A table inside a table and so on, or arrays in the innermost table; `depth` of them in all.
pub(super) fn nested(depth: usize, is_array: bool) -> Table {
    let mut value = Value::Void;
    for _ in 1..depth {
        value = if is_array {
            Value::Array(vec![value])
        } else {
            Value::Table(Table(vec![("n".into(), value)]))
        };
    }
    Table(vec![("n".into(), value)])
}

#[test]
fn nesting_is_bounded() {
    for is_array in [false, true] {
        let deepest = nested(DEPTH_MAX, is_array);
        assert_eq!(Table::decode(&deepest.to_bytes()), Ok(deepest));
        assert_eq!(
            Table::decode(&nested(DEPTH_MAX + 1, is_array).to_bytes()),
            Err(Error::TooDeep)
        );
    }
}

/// What may come is followed down on any thread's stack, whatever is done with it.
#[test]
fn the_deepest_tables_need_little_stack() {
    let work = || {
        for is_array in [false, true] {
            let bytes = nested(DEPTH_MAX, is_array).to_bytes();
            let table = Table::decode(&bytes).expect("not too deep");
            let copy = table.detach();
            assert_eq!(table, copy);
            assert_eq!(copy.to_bytes(), bytes);
            assert!(!format!("{:?}", copy.clone()).is_empty());
        }
    };
    let small = std::thread::Builder::new().stack_size(512 << 10).spawn(work);
    small.expect("a thread starts").join().expect("the stack suffices");
}

/// A frame of nothing but opening tables must not use up the stack.
#[test]
fn nesting_is_refused_without_following_it_down() {
    let mut bytes = vec![];
    for level in 0..100_000_u32 {
        bytes.extend_from_slice(&((100_000 - level) * 6 - 4).to_be_bytes());
        bytes.extend_from_slice(if level == 99_999 { b"\0V" } else { b"\0F" });
    }
    assert_eq!(Table::decode(&bytes.into()), Err(Error::TooDeep));
}

#[test]
fn comparing_deep_tables_takes_no_time() {
    let with_leaf = |leaf: i64| {
        let mut table = Table(vec![("a".into(), Value::I64(leaf)), ("b".into(), Value::Void)]);
        for _ in 1..DEPTH_MAX {
            table = Table(vec![("a".into(), Value::Table(table)), ("b".into(), Value::Void)]);
        }
        table
    };
    let mut reordered = with_leaf(2);
    reordered.0.reverse();
    assert_eq!(with_leaf(2), reordered);
    assert_ne!(with_leaf(1), reordered);
    assert_ne!(with_leaf(1), with_leaf(2));
    assert!(with_leaf(1) < with_leaf(2));
}

#[test]
fn lengths_are_not_believed() {
    for bytes in [
        &b"\xff\xff\xff\xff"[..],
        b"\x00\x00\x00\x08\x01kS\xff\xff\xff\xffx",
        b"\x00\x00\x00\x08\x01kA\xff\xff\xff\xffV",
        b"\x00\x00\x00\x08\x01kF\x00\x00\x00\x02V",
        b"\x00\x00\x00\x02\x05k",
        b"\x00\x00\x00",
        b"",
    ] {
        assert_eq!(
            Table::decode(&Bytes::copy_from_slice(bytes)),
            Err(Error::Truncated),
            "{bytes:?}"
        );
    }
    // A value may not reach past the table it is in, though there are bytes.
    let past = Bytes::from_static(b"\x00\x00\x00\x03\x01kt\x01");
    assert_eq!(Table::decode(&past), Err(Error::Truncated));
    assert_eq!(
        Table::decode(&Bytes::from_static(b"\x00\x00\x00\x00V")),
        Err(Error::Trailing)
    );
}

#[test]
fn unknown_types_are_named() {
    // `U` is the specification's letter for a short integer, which RabbitMQ does not read either.
    for tag in (0..=u8::MAX).filter(|tag| !b"tbBsuIilLfdDSATFxV".contains(tag)) {
        let bytes = Bytes::from(vec![0, 0, 0, 5, 1, b'k', tag, 0, 0]);
        assert_eq!(Table::decode(&bytes), Err(Error::UnknownFieldType(tag)));
    }
}

#[test]
fn fields_without_a_length_are_what_amqplain_sends() {
    let table = Table::decode_fields(&Bytes::from_static(
        b"\x05LOGINS\x00\x00\x00\x05guest\x08PASSWORDS\x00\x00\x00\x01x",
    ));
    let table = table.expect("fields");
    assert_eq!(table.get("LOGIN").and_then(Value::as_str), Some("guest"));
    assert_eq!(table.get("PASSWORD").and_then(Value::as_str), Some("x"));
}

#[test]
fn fields_are_replaced_and_removed_by_name() {
    let mut table = Table::new();
    table.insert("a", 1);
    table.insert("b", "two");
    table.insert("a", true);
    assert_eq!(
        table,
        Table(vec![("a".into(), Value::Bool(true)), ("b".into(), "two".into())])
    );
    assert_eq!(table.remove("a"), Some(Value::Bool(true)));
    assert_eq!(table.remove("a"), None);
    assert_eq!(table.len(), 1);
}

#[test]
fn types_and_bits_tell_values_apart() {
    assert_ne!(Value::I32(1), Value::I64(1));
    assert_ne!(Value::F64(0.0), Value::F64(-0.0));
    assert_eq!(Value::F64(f64::NAN), Value::F64(f64::NAN));
    assert_ne!(
        Value::LongStr(Bytes::from_static(b"a")),
        Value::ByteArray(Bytes::from_static(b"a"))
    );
    assert_eq!(
        [Value::I8(-3), Value::U32(7), Value::Void].map(|value| value.as_i64()),
        [Some(-3), Some(7), None]
    );
}

proptest! {
    #[test]
    fn any_table_survives_the_round_trip_and_keeps_its_order(table in Table::strategy()) {
        let bytes = table.to_bytes();
        let decoded = Table::decode(&bytes).expect("a table");
        prop_assert_eq!(decoded.to_bytes(), &bytes);
        prop_assert_eq!(table.detach().to_bytes(), bytes);
        prop_assert_eq!(decoded, table);
    }

    #[test]
    fn order_is_no_difference(table in Table::strategy(), other in Table::strategy(), seed in any::<u64>()) {
        // Fields of one name keep their places among each other.
        let mut shuffled = table.clone();
        let state = std::hash::RandomState::new();
        shuffled.0.sort_by_cached_key(|(name, _)| state.hash_one((seed, name)));
        prop_assert_eq!(&table, &shuffled);
        prop_assert!(table.cmp(&shuffled).is_eq());
        prop_assert_eq!(state.hash_one(&table), state.hash_one(&shuffled));
        prop_assert_eq!(table == other, table.cmp(&other).is_eq());
        prop_assert_eq!(table.cmp(&other), other.cmp(&table).reverse());
    }
}
