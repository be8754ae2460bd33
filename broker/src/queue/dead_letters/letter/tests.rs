use warren_proto::record::{BatchWriter, Command, Origin, Publish, SessionId, batches, put_short_string};

use super::*;
use crate::metadata::{Kind, Placement, Run};
use crate::queue::machine::Place;

/// A message published to `x` with the key `k` as a queue's log holds it.
fn payload(headers: Option<Table>, expiration: Option<&'static str>, bcc: &[&str], origin: bool) -> Bytes {
    let properties = Properties {
        headers,
        message_id: Some(ShortStr::from("id")),
        expiration: expiration.map(ShortStr::from),
        ..Properties::default()
    };
    let mut hidden = Vec::new();
    bcc.iter().for_each(|key| put_short_string(&mut hidden, key.as_bytes()));
    let mut batch = BatchWriter::new(SessionId::default(), 1);
    batch.publish(&Publish {
        exchange: b"x",
        routing_key: b"k",
        properties: &properties.to_bytes(),
        bcc: &hidden,
        origin: origin.then_some(Origin::default()),
        body: &[Bytes::from_static(b"body")],
        ..Publish::default()
    });
    let bytes = batch.finish();
    let batch = batches(&bytes).next().expect("a batch").expect("as written");
    match batch.commands().next() {
        Some(Ok(Command::Publish { payload, .. })) => bytes.slice_ref(payload),
        other => panic!("{other:?}"),
    }
}

fn queue(name: &str, key: Option<&str>) -> Queue {
    let mut arguments = Table::new();
    arguments.insert("x-dead-letter-exchange", long_str("dlx"));
    if let Some(key) = key {
        arguments.insert("x-dead-letter-routing-key", long_str(key));
    }
    Queue {
        group: 1,
        vhost: "/".into(),
        name: name.into(),
        kind: Kind::Classic,
        durable: false,
        auto_delete: false,
        exclusive_owner: None,
        policies: crate::metadata::Applied::default(),
        configured: 0,
        settings: crate::metadata::Arguments::read(Kind::Classic, &arguments),
        arguments,
        placement: Placement::Transient {
            home: Run {
                node: 1,
                incarnation: 1,
            },
        },
        is_delay: false,
    }
}

fn dead(reason: Reason, time_ms: u64) -> Dead {
    let at = Place::default();
    Dead { at, reason, time_ms }
}

fn keys(names: &[&str]) -> Value {
    Value::Array(names.iter().map(|name| long_str(name)).collect())
}

fn table(fields: Vec<(&'static str, Value)>) -> Table {
    Table(
        fields
            .into_iter()
            .map(|(name, value)| (ShortStr::from(name), value))
            .collect(),
    )
}

#[test]
fn a_first_death_is_written_down() {
    let payload = payload(Some(table(vec![("own", Value::I32(1))])), Some("500"), &[], false);
    let letter = Letter::of(&queue("q", None), &dead(Reason::Expired, 12_345), &payload).expect("a message");
    let death = table(vec![
        ("original-expiration", long_str("500")),
        ("count", Value::I64(1)),
        ("reason", long_str("expired")),
        ("queue", long_str("q")),
        ("time", Value::Timestamp(12)),
        ("exchange", long_str("x")),
        ("routing-keys", keys(&["k"])),
    ]);
    let mut expected = vec![
        ("own", Value::I32(1)),
        ("x-death", Value::Array(vec![Value::Table(death)])),
    ];
    for (name, value) in [
        ("x-first-death-exchange", "x"),
        ("x-first-death-queue", "q"),
        ("x-first-death-reason", "expired"),
        ("x-last-death-exchange", "x"),
        ("x-last-death-queue", "q"),
        ("x-last-death-reason", "expired"),
    ] {
        expected.push((name, long_str(value)));
    }
    let properties = Properties::decode(&letter.properties).expect("properties");
    assert_eq!(properties.headers, Some(table(expected)));
    assert_eq!(
        (properties.message_id.as_deref(), properties.expiration),
        (Some("id"), None)
    );
    assert_eq!(letter.routing_keys, ["k"]);
}

#[test]
fn keys_go_on_but_hidden_ones_are_not_shown() {
    let copied = || Some(table(vec![("CC", keys(&["cc"]))]));
    let shown = |letter: &Letter<'_>| {
        let Some(Value::Array(deaths)) = letter.headers.get(DEATHS) else {
            panic!("no history")
        };
        deaths[0]
            .as_table()
            .and_then(|death| death.get("routing-keys"))
            .cloned()
    };
    let first = payload(copied(), None, &["bcc"], false);
    let letter = Letter::of(&queue("q", None), &dead(Reason::MaxLen, 0), &first).expect("a message");
    assert_eq!(letter.routing_keys, ["k", "cc", "bcc"]);
    assert_eq!(shown(&letter), Some(keys(&["k", "cc"])));
    // A dead letter lists all its keys.
    let second = payload(copied(), None, &["cc", "bcc"], true);
    let letter = Letter::of(&queue("q", None), &dead(Reason::MaxLen, 0), &second).expect("a message");
    assert_eq!(letter.routing_keys, ["k", "cc", "bcc"]);
    assert_eq!(shown(&letter), Some(keys(&["k", "cc"])));
    // One that got a new address has that alone.
    let third = payload(copied(), None, &[], true);
    let letter = Letter::of(&queue("q", None), &dead(Reason::MaxLen, 0), &third).expect("a message");
    assert_eq!(letter.routing_keys, ["k"]);
    assert_eq!(shown(&letter), Some(keys(&["k"])));
    let letter = Letter::of(&queue("q", Some("other")), &dead(Reason::MaxLen, 0), &first).expect("a message");
    assert_eq!(letter.routing_keys, ["other"]);
}

#[test]
fn a_history_grows_and_tells_circles() {
    let die = |headers: Option<Table>, origin, name: &str, reason| {
        let payload = payload(headers, None, &[], origin);
        let queue = queue(name, None);
        let letter = Letter::of(&queue, &dead(reason, 1_000), &payload).expect("a message");
        let circles = ["a", "b", "c"].map(|target| letter.turns_in_circles(target, reason));
        (letter.headers, circles)
    };
    let summary = |headers: &Table| -> Vec<String> {
        let deaths = headers.get(DEATHS).and_then(Value::as_array).unwrap_or_default();
        let one = |death: &Table| {
            let count = death.get("count").and_then(Value::as_i64).unwrap_or(0);
            format!("{} {} {count}", field(death, "queue"), field(death, "reason"))
        };
        deaths.iter().filter_map(Value::as_table).map(one).collect()
    };
    let (headers, circles) = die(None, false, "a", Reason::Expired);
    assert_eq!(circles, [true, false, false]);
    let (headers, circles) = die(Some(headers), true, "b", Reason::MaxLen);
    assert_eq!(circles, [true, true, false]);
    assert_eq!(summary(&headers), ["b maxlen 1", "a expired 1"]);
    let (headers, circles) = die(Some(headers), true, "a", Reason::Expired);
    assert_eq!(circles, [true, true, false]);
    assert_eq!(summary(&headers), ["a expired 2", "b maxlen 1"]);
    // Whatever was before a rejection is no circle, and a rejection itself never.
    let (headers, circles) = die(Some(headers), true, "c", Reason::Rejected);
    assert_eq!(circles, [false; 3]);
    let (headers, circles) = die(Some(headers), true, "b", Reason::DeliveryLimit);
    assert_eq!(circles, [false, true, false]);
    assert_eq!(
        summary(&headers),
        ["b delivery_limit 1", "c rejected 1", "a expired 2", "b maxlen 1"]
    );
    let first = headers.get("x-first-death-queue").and_then(Value::as_str);
    let last = headers.get("x-last-death-queue").and_then(Value::as_str);
    assert_eq!((first, last), (Some("a"), Some("b")));
    // Published once more by a client it is another message.
    let (headers, circles) = die(Some(headers), false, "c", Reason::Expired);
    assert_eq!(summary(&headers), ["c expired 1"]);
    assert_eq!(circles, [false, false, true]);
    assert_eq!(headers.get("x-first-death-queue").and_then(Value::as_str), Some("c"));
}

#[test]
fn bytes_that_are_no_message_are_no_letter() {
    let bytes = Bytes::from_static(&[0, 0, 200]);
    assert!(Letter::of(&queue("q", None), &dead(Reason::Expired, 0), &bytes).is_none());
}

#[test]
fn what_was_held_back_goes_on_as_it_was_published() {
    let headers = table(vec![
        ("x-delay", Value::U32(5_000)),
        ("CC", keys(&["c"])),
        ("own", Value::I32(1)),
    ]);
    let payload = payload(Some(headers), Some("500"), &["b"], false);
    let letter = Letter::of_due(&payload).expect("a message");
    assert_eq!(letter.routing_keys, ["k", "c", "b"]);
    assert_eq!(letter.ttl_ms, Some(500), "its own time begins where it arrives");
    assert_eq!(letter.headers.get("x-delay"), Some(&Value::I64(-5_000)));
    assert_eq!(letter.headers.get("own"), Some(&Value::I32(1)));
    assert!(letter.headers.get("x-death").is_none());
    let properties = Properties::decode(&letter.properties).expect("well formed");
    assert_eq!(properties.headers.as_ref(), Some(&letter.headers));
    assert_eq!(properties.expiration.as_deref(), Some("500"));
    assert_eq!(properties.message_id.as_deref(), Some("id"));
}

#[test]
fn the_time_of_what_was_held_back_never_counts_again() {
    for delay in [Value::I64(i64::MIN), Value::I64(-1), Value::LongStr("x".into())] {
        let payload = payload(Some(table(vec![("x-delay", delay)])), None, &[], false);
        let letter = Letter::of_due(&payload).expect("a message");
        let delay = letter.headers.get("x-delay").and_then(Value::as_i64);
        assert!(delay.is_some_and(|delay| delay <= 0), "{delay:?}");
    }
    assert!(Letter::of_due(&Bytes::from_static(b"no message")).is_none());
}
