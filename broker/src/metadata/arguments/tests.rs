use super::*;
use crate::amqp::ShortStr;
use crate::exchange::tests::table;
use crate::metadata::check_new_queue;
use crate::metadata::{DeclareQueue, Placement};

/// What a client is told that declares a new queue `q` with these arguments; nothing if it may.
#[track_caller]
fn check<'a>(kind: Kind, fields: impl IntoIterator<Item = &'a str>, expected: &str) {
    let refused = validate(kind, "q", "/", &table(fields))
        .err()
        .map(|refusal| refusal.to_string());
    assert_eq!(refused.unwrap_or_default(), expected);
}

#[track_caller]
fn check_term(key: &str, value: &str, term: &str) {
    let kind = if CLASSIC_ONLY.contains(&key) {
        Kind::Classic
    } else {
        Kind::Quorum
    };
    let field = format!("{key}={value}");
    let text = format!("invalid arg '{key}' for queue 'q' in vhost '/': {term}");
    check(kind, [field.as_str()], if term.is_empty() { "" } else { &text });
}

const CLASSIC_ONLY: [&str; 2] = ["x-queue-version", "x-queue-mode"];

/// As a RabbitMQ 4.3.6 answered.
#[test]
fn values() {
    check_term("x-message-ttl", "0", "");
    check_term("x-message-ttl", "-1", "{value_negative,-1}");
    check_term("x-message-ttl", "a", "\"expected integer, got longstr\"");
    check_term("x-expires", "0", "{value_zero,0}");
    check_term("x-expires", "-1", "{value_negative,-1}");
    check_term("x-expires", "a", "\"expected integer, got longstr\"");
    check_term("x-expires", "1", "");
    check_term("x-dead-letter-routing-key", "k", "routing_key_but_no_dlx_defined");
    check_term("x-max-length", "-1", "{value_negative,-1}");
    check_term("x-max-length", "0", "");
    check_term("x-max-length-bytes", "true", "\"expected integer, got bool\"");
    check_term("x-overflow", "foo", "invalid_overflow");
    check_term("x-overflow", "1", "{unacceptable_type,signedint}");
    check_term("x-overflow", "reject-publish-dlx", "");
    check_term("x-max-priority", "256", "{max_value_exceeded,256}");
    check_term("x-max-priority", "-1", "{value_negative,-1}");
    check_term("x-max-priority", "255", "");
    check_term("x-single-active-consumer", "a", "{unacceptable_type,longstr}");
    check_term("x-single-active-consumer", "true", "");
    check_term("x-queue-type", "fake", "\"unsupported queue type 'fake'\"");
    check_term("x-queue-type", "stream", "");
    check_term("x-queue-type", "1", "{unacceptable_type,signedint}");
    check_term("x-delivery-limit", "a", "");
    check_term("x-delivery-limit", "-1", "");
    check_term("x-quorum-initial-group-size", "0", "{value_zero,0}");
    check_term("x-queue-leader-locator", "z", "invalid_queue_locator_arg");
    check_term("x-queue-leader-locator", "1", "{unacceptable_type,signedint}");
    check_term("x-queue-leader-locator", "balanced", "");
    check_term("x-dead-letter-strategy", "z", "invalid_dlx_strategy");
    check_term("x-consumer-timeout", "-5", "{value_negative,-5}");
    check_term("x-max-in-memory-length", "-5", "{value_negative,-5}");
    check_term("x-queue-version", "1", "\"unsupported queue version '1'\"");
    check_term("x-queue-version", "2", "");
    check_term("x-queue-mode", "foo", "");
    check_term("foo", "-1", "");
}

/// As a RabbitMQ 4.3.6 answered.
#[test]
fn values_of_streams() {
    let term = |key: &str, value: &str, term: &str| {
        let text = format!("invalid arg '{key}' for queue 'q' in vhost '/': {term}");
        let field = format!("{key}={value}");
        check(Kind::Stream, [field.as_str()], if term.is_empty() { "" } else { &text });
    };
    for value in ["7D", "1Y", "1M", "1m", "1s", "01h", "99999999999999999999Y"] {
        term("x-max-age", value, "");
    }
    for value in ["0s", "h", "-1h", "1H", "1d", "1h1m", " 1h"] {
        term("x-max-age", value, "invalid_max_age");
    }
    term("x-max-age", "5", "{unacceptable_type,signedint}");
    term("x-max-length-bytes", "0", "");
    term("x-max-length-bytes", "-1", "{value_negative,-1}");
    term("x-initial-cluster-size", "0", "{value_zero,0}");
    term("x-initial-cluster-size", "9", "");
    term("x-queue-leader-locator", "z", "invalid_queue_locator_arg");
    term("x-stream-max-segment-size-bytes", "0", "");
    term("x-stream-max-segment-size-bytes", "-1", "{value_negative,-1}");
    term("x-stream-filter-size-bytes", "a", "\"expected integer, got longstr\"");
    let mut segments = table([]);
    segments.insert("x-stream-max-segment-size-bytes", Value::I64(3_000_000_000));
    assert_eq!(validate(Kind::Stream, "q", "/", &segments).err(), None);
    segments.insert("x-stream-max-segment-size-bytes", Value::I64(3_000_000_001));
    let refused = validate(Kind::Stream, "q", "/", &segments).err();
    let text = "Exceeded max value for x-stream-max-segment-size-bytes";
    assert_eq!(refused, Some(Refusal::InvalidSize(text.to_owned())));
    for field in ["x-stream-filter-size-bytes=15", "x-stream-filter-size-bytes=256"] {
        check(Kind::Stream, [field], "Invalid value for x-stream-filter-size-bytes");
    }
    check(Kind::Stream, ["x-stream-filter-size-bytes=16"], "");
    for key in [
        "x-expires",
        "x-message-ttl",
        "x-max-length",
        "x-overflow",
        "x-single-active-consumer",
        "x-delivery-limit",
    ] {
        let text = format!("invalid arg '{key}' for queue 'q' in vhost '/' of queue type rabbit_stream_queue");
        check(Kind::Stream, [format!("{key}=1").as_str()], &text);
    }
}

#[test]
fn largest_expiry() {
    let check = |ms, expected: &str| {
        let table = Table(vec![("x-message-ttl".into(), Value::I64(ms))]);
        let refused = validate(Kind::Classic, "q", "/", &table)
            .err()
            .map(|refusal| refusal.to_string());
        assert_eq!(refused.unwrap_or_default(), expected);
    };
    check(315_360_000_000, "");
    check(
        315_360_000_001,
        "invalid arg 'x-message-ttl' for queue 'q' in vhost '/': {value_too_large,315360000001}",
    );
}

#[test]
fn texts_of_their_own() {
    check(
        Kind::Classic,
        ["x-dead-letter-exchange=1", "x-expires=0"],
        "invalid type 'signedint' for arg 'x-dead-letter-exchange' in queue 'q' in vhost '/'",
    );
    check(
        Kind::Classic,
        ["x-delivery-limit=1"],
        "invalid arg 'x-delivery-limit' for queue 'q' in vhost '/' of queue type rabbit_classic_queue",
    );
    check(
        Kind::Quorum,
        ["x-queue-mode=lazy"],
        "invalid arg 'x-queue-mode' for queue 'q' in vhost '/' of queue type rabbit_quorum_queue",
    );
    // That the type does not know an argument comes before what its value should be, but after other values.
    check(
        Kind::Classic,
        ["x-dead-letter-strategy=foo"],
        "invalid arg 'x-dead-letter-strategy' for queue 'q' in vhost '/' of queue type rabbit_classic_queue",
    );
    check(
        Kind::Classic,
        ["x-delivery-limit=3", "x-max-length=-1"],
        "invalid arg 'x-max-length' for queue 'q' in vhost '/': {value_negative,-1}",
    );
}

#[test]
fn any_integer_will_do() {
    for value in [
        Value::I8(1),
        Value::U8(1),
        Value::I16(1),
        Value::U16(1),
        Value::I32(1),
        Value::U32(1),
        Value::I64(1),
    ] {
        for key in ["x-expires", "x-message-ttl", "x-max-length"] {
            let table = Table(vec![(ShortStr::new(key).expect("short"), value.clone())]);
            let arguments = validate(Kind::Classic, "q", "/", &table).expect("integers of any width");
            assert_eq!(
                arguments.message_ttl_ms.or(arguments.expires_ms).or(arguments.len_max),
                Some(1)
            );
        }
    }
}

#[test]
fn meanings() {
    let read = |kind, fields: &[&str]| validate(kind, "q", "/", &table(fields.iter().copied())).expect("valid");
    assert_eq!(read(Kind::Classic, &[]), Arguments::default());
    let quorum = Arguments {
        delivery_limit: Some(20),
        ..Arguments::default()
    };
    assert_eq!(read(Kind::Quorum, &[]), quorum);
    assert_eq!(read(Kind::Quorum, &["x-delivery-limit=3"]).delivery_limit, Some(3));
    assert_eq!(read(Kind::Quorum, &["x-delivery-limit=0"]).delivery_limit, Some(0));
    assert_eq!(read(Kind::Quorum, &["x-delivery-limit=-1"]).delivery_limit, None);
    assert_eq!(
        read(Kind::Quorum, &["x-overflow=reject-publish-dlx"]).overflow,
        Overflow::DropHead
    );
    assert_eq!(
        read(Kind::Classic, &["x-overflow=reject-publish-dlx"]).overflow,
        Overflow::RejectPublishDlx
    );
    let dead = read(
        Kind::Classic,
        &["x-dead-letter-exchange=", "x-dead-letter-routing-key=k"],
    );
    assert_eq!(dead.dead_letter_exchange, Some("".into()));
    assert_eq!(dead.dead_letter_routing_key, Some("k".into()));
}

/// What a client is told that declares `q` with the second arguments while it has the first.
#[track_caller]
fn check_again(kind: Kind, current: &[&str], received: &[&str], expected: &str) {
    let (current, received) = (table(current.iter().copied()), table(received.iter().copied()));
    let resource = || Resource::queue("/", "q");
    let refused = check_queue_arguments(kind, &current, &received, resource)
        .err()
        .map(|refusal| refusal.to_string());
    let refused = refused.unwrap_or_default();
    assert_eq!(refused.strip_prefix("inequivalent arg ").unwrap_or(&refused), expected);
}

/// As a RabbitMQ 4.3.6 answered.
#[test]
fn equivalence() {
    let ttl = ["x-message-ttl=100"];
    check_again(
        Kind::Classic,
        &ttl,
        &[],
        "'x-message-ttl' for queue 'q' in vhost '/': \
         received none but current is the value '100' of type 'signedint'",
    );
    check_again(
        Kind::Classic,
        &[],
        &ttl,
        "'x-message-ttl' for queue 'q' in vhost '/': \
         received the value '100' of type 'signedint' but current is none",
    );
    check_again(
        Kind::Classic,
        &ttl,
        &["x-message-ttl=200"],
        "'x-message-ttl' for queue 'q' in vhost '/': received '200' but current is '100'",
    );
    check_again(
        Kind::Classic,
        &["x-dead-letter-exchange=d"],
        &["x-dead-letter-exchange=e"],
        "'x-dead-letter-exchange' for queue 'q' in vhost '/': received 'e' but current is 'd'",
    );
    check_again(
        Kind::Classic,
        &["x-single-active-consumer=true"],
        &["x-single-active-consumer=false"],
        "'x-single-active-consumer' for queue 'q' in vhost '/': received 'false' but current is 'true'",
    );
    check_again(
        Kind::Classic,
        &[],
        &["x-queue-type=quorum"],
        "'x-queue-type' for queue 'q' in vhost '/': received 'quorum' but current is 'classic'",
    );
    check_again(
        Kind::Quorum,
        &["x-queue-type=quorum"],
        &[],
        "'x-queue-type' for queue 'q' in vhost '/': received 'classic' but current is 'quorum'",
    );
    check_again(Kind::Classic, &[], &["x-queue-type=classic"], "");
    check_again(Kind::Classic, &[], &["foo=1", "x-delivery-limit=2"], "");
    check_again(Kind::Stream, &["x-max-age=1h"], &["x-max-age=60m"], "");
    check_again(
        Kind::Stream,
        &["x-max-age=1h"],
        &[],
        "'x-max-age' for queue 'q' in vhost '/': \
         received none but current is the value '3600000' of type 'longstr'",
    );
}

#[test]
fn equivalence_is_of_values() {
    let check = |one: Value, other: Value, equal: bool| {
        let table = |value| Table(vec![("x-message-ttl".into(), value)]);
        let resource = || Resource::queue("/", "q");
        let checked = check_queue_arguments(Kind::Classic, &table(one), &table(other), resource);
        assert_eq!(checked.is_ok(), equal, "{checked:?}");
    };
    check(Value::I32(100), Value::I64(100), true);
    check(Value::I8(100), Value::U32(100), true);
    check(Value::F32(0.5), Value::F64(0.5), true);
    check(Value::I32(1), Value::F64(1.0), false);
    check(Value::I32(100), Value::LongStr("100".into()), false);
}

#[test]
fn quorum_queues_have_one_shape() {
    let check = |durable, exclusive: bool, auto_delete, field: &'static str, expected: &str| {
        let declare = DeclareQueue {
            vhost: "/".into(),
            name: "q".into(),
            durable,
            auto_delete,
            exclusive_owner: exclusive.then(Default::default),
            arguments: table(["x-queue-type=quorum", field]),
            placement: Placement::on(vec![1], 1),
        };
        let refused = check_new_queue(&declare).err().map(|refusal| refusal.to_string());
        assert_eq!(refused.unwrap_or_default(), expected);
    };
    check(true, false, false, "foo=1", "");
    check(
        true,
        true,
        false,
        "foo=1",
        "invalid property 'exclusive-owner' for queue 'q' in vhost '/'",
    );
    check(
        true,
        false,
        true,
        "foo=1",
        "invalid property 'auto-delete' for queue 'q' in vhost '/'",
    );
    check(
        false,
        false,
        false,
        "foo=1",
        "invalid property 'non-durable' for queue 'q' in vhost '/'",
    );
    check(
        false,
        true,
        true,
        "foo=1",
        "invalid property 'auto-delete' for queue 'q' in vhost '/'",
    );
    let text = "invalid arg 'x-max-length' for queue 'q' in vhost '/': {value_negative,-1}";
    check(false, false, false, "x-max-length=-1", text);
}
