use super::*;

#[test]
fn messages_are_told_apart_by_their_deduplication_header() {
    let key = |value: Option<Value>| {
        let headers = value.map(|value| Table(vec![("x-deduplication-header".into(), value)]));
        let properties = Properties {
            headers,
            ..Properties::default()
        };
        deduplication_key(&properties.to_bytes())
    };
    let text = |text: &'static str| Some(Value::LongStr(text.into()));
    assert_eq!(key(None), 0);
    assert_eq!(key(text("a")), key(text("a")));
    assert_eq!(key(Some(Value::I8(7))), key(Some(Value::I64(7))));
    let array = || Some(Value::Array(vec![Value::Bool(true)]));
    assert_eq!(key(array()), key(array()));
    let different = [
        key(text("a")),
        key(text("b")),
        key(text("7")),
        key(Some(Value::I32(7))),
        key(array()),
    ];
    let distinct: std::collections::BTreeSet<u128> = different.into_iter().collect();
    assert_eq!(distinct.len(), different.len());
    assert!(!distinct.contains(&0));
    assert_eq!(
        deduplication_key(b"x-deduplication-header"),
        0,
        "what only looks like one"
    );
}
use crate::amqp::ShortStr;

#[test]
fn expirations_are_decimal_milliseconds() {
    let check = |text: &str, expected: Result<u64, &str>| {
        let read = expiration_ms(text).map_err(|fault| fault.text);
        assert_eq!(
            read,
            expected.map_err(|term| format!("invalid expiration '{text}': {term}"))
        );
    };
    check("0", Ok(0));
    check("60000", Ok(60_000));
    check("315360000000", Ok(315_360_000_000));
    check("315360000001", Err("{value_too_large,315360000001}"));
    check("99999999999999999999", Err("{value_too_large,99999999999999999999}"));
    check("-0", Ok(0));
    check("-1", Err("{value_negative,-1}"));
    check("", Err("no_integer"));
    check("abc", Err("no_integer"));
    check("10s", Err("{leftover_string,\"s\"}"));
    check(&"9".repeat(60), Err(&format!("{{value_too_large,{}}}", "9".repeat(60))));
}

fn properties(headers: Table) -> (Bytes, Bytes) {
    let encoded = headers.to_bytes();
    let properties = Properties {
        headers: Some(headers),
        app_id: Some(ShortStr::from("app")),
        ..Properties::default()
    };
    (properties.to_bytes(), encoded)
}

fn keys(keys: &[&str]) -> Value {
    Value::Array(
        keys.iter()
            .map(|key| Value::LongStr(Bytes::copy_from_slice(key.as_bytes())))
            .collect(),
    )
}

#[test]
fn bcc_routes_and_is_not_stored() {
    let mut headers = Table::new();
    headers.insert("CC", keys(&["a"]));
    headers.insert("BCC", keys(&["b", "c"]));
    let (whole, table) = properties(headers);
    let copies = copies(&whole, &table).expect("well formed").expect("some keys");
    assert_eq!(copies.routing_keys, ["a", "b", "c"]);
    let stored = Properties::decode(&copies.properties).expect("well formed");
    let headers = stored.headers.expect("CC is left");
    assert!(headers.contains("CC") && !headers.contains("BCC"));
    assert_eq!(stored.app_id.as_deref(), Some("app"));
}

#[test]
fn other_headers_are_left_alone() {
    let mut headers = Table::new();
    headers.insert("ACCENT", Value::I32(1));
    let (whole, table) = properties(headers);
    assert_eq!(copies(&whole, &table), Ok(None));
}

#[test]
fn cc_must_be_an_array() {
    let mut headers = Table::new();
    headers.insert("CC", Value::I32(1));
    let (whole, table) = properties(headers);
    let fault = copies(&whole, &table).expect_err("not an array");
    assert_eq!(
        fault.text,
        "invalid message: {unacceptable_type_in_header,\"CC\",signedint}"
    );
}

#[test]
fn redeliveries_count_themselves() {
    let (whole, _) = properties(Table::new());
    let count = |properties: &Bytes, name| {
        let headers = Properties::decode(properties)
            .expect("well formed")
            .headers
            .expect("headers");
        headers.get(name).and_then(Value::as_i64)
    };
    let once = redelivery(&whole, 1, 0);
    assert_eq!(
        (count(&once, "x-acquired-count"), count(&once, "x-delivery-count")),
        (Some(1), None)
    );
    let twice = redelivery(&once, 2, 1);
    assert_eq!(
        (count(&twice, "x-acquired-count"), count(&twice, "x-delivery-count")),
        (Some(2), Some(1))
    );
}
