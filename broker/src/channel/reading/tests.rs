use bytes::Bytes;

use super::*;

fn check(value: impl Into<Value>, expected: Option<At>) {
    let value = value.into();
    assert_eq!(position(&value), expected, "{value:?}");
}

#[test]
fn positions() {
    check("first", Some(At::First(true)));
    check("last", Some(At::Last(true)));
    check("next", Some(At::Next(true)));
    check(Value::I32(7), Some(At::Offset(7)));
    check(Value::I64(i64::MAX), Some(At::Offset(i64::MAX as u64)));
    check(Value::I8(-1), Some(At::Offset(0)));
    check(Value::Timestamp(3), Some(At::TimeMs(3_000)));
    check(Value::Timestamp(u64::MAX), Some(At::TimeMs(u64::MAX)));
    check("1h", Some(At::AgeMs(3_600_000)));
    check("2D", Some(At::AgeMs(2 * 86_400_000)));
    check("1M", Some(At::AgeMs(30 * 86_400_000)));
    check("90s", Some(At::AgeMs(90_000)));
    for text in ["", "5", "First", "0s", "h", "-1h", "1H", "1h1m"] {
        check(text, None);
    }
    check(Value::LongStr(Bytes::from_static(b"\xff")), None);
    check(Value::Bool(true), None);
    check(Value::Void, None);
    check(Value::F64(1.5), None);
}
