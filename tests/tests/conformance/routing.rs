//! Which queues a message reaches.

use warren_tests::amqp::Client;
use warren_tests::amqp::method::*;
use warren_tests::amqp::wire::{Properties, Table, Value};

use crate::case::{Case, bind, counts, drain, unbind};

/// Publishes with confirm, so that whatever is routed has arrived.
#[track_caller]
fn publish(client: &mut Client, channel: u16, exchange: &str, key: &str, properties: &Properties) {
    client.publish(channel, exchange, key, properties, key.as_bytes());
    client.confirmed(channel);
}

fn e2e(destination: &str, source: &str, routing_key: &str) -> ExchangeBind {
    ExchangeBind {
        destination: destination.into(),
        source: source.into(),
        routing_key: routing_key.into(),
        ..Default::default()
    }
}

#[test]
fn the_default_exchange_routes_to_the_queue_of_that_name() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    client.confirm(channel);
    let (one, two) = (
        case.declared(&mut client, channel, "one"),
        case.declared(&mut client, channel, "two"),
    );
    publish(&mut client, channel, "", &two, &Properties::default());
    assert_eq!(
        (
            counts(&mut client, channel, &one).0,
            counts(&mut client, channel, &two).0
        ),
        (0, 1)
    );
    client.close();
}

#[test]
fn direct_matches_the_whole_key_and_fanout_ignores_it() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    client.confirm(channel);
    let direct = case.declared_exchange(&mut client, channel, "direct", "direct");
    let fanout = case.declared_exchange(&mut client, channel, "fanout", "fanout");
    let red = case.bound(&mut client, channel, "red", &direct, "red");
    let both = case.bound(&mut client, channel, "both", &direct, "red");
    client.call(channel, &bind(&both, &direct, "blue"));
    let empty = case.bound(&mut client, channel, "empty-key", &direct, "");
    client.call(channel, &bind(&red, &fanout, "ignored"));
    client.call(channel, &bind(&both, &fanout, ""));
    for key in ["red", "blue", "green", "", "RED", "red "] {
        publish(&mut client, channel, &direct, key, &Properties::default());
    }
    publish(&mut client, channel, &fanout, "anything", &Properties::default());
    assert_eq!(drain(&mut client, channel, &red), ["red", "anything"]);
    assert_eq!(drain(&mut client, channel, &both), ["red", "blue", "anything"]);
    assert_eq!(drain(&mut client, channel, &empty), [""]);
    client.close();
}

#[test]
fn a_queue_gets_one_copy_however_many_bindings_match() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    client.confirm(channel);
    let topic = case.declared_exchange(&mut client, channel, "topic", "topic");
    let queue = case.bound(&mut client, channel, "queue", &topic, "a.#");
    for key in ["a.b", "#", "*.b", "a.b"] {
        client.call(channel, &bind(&queue, &topic, key));
    }
    // The same key with other arguments is a binding of its own.
    let noted = QueueBind {
        arguments: Table::from([("note", "second")]),
        ..bind(&queue, &topic, "a.b")
    };
    client.call(channel, &noted);
    publish(&mut client, channel, &topic, "a.b", &Properties::default());
    assert_eq!(drain(&mut client, channel, &queue), ["a.b"]);

    for key in ["a.#", "#", "*.b", "a.b"] {
        client.call(channel, &unbind(&queue, &topic, key));
    }
    publish(&mut client, channel, &topic, "a.b", &Properties::default());
    assert_eq!(
        drain(&mut client, channel, &queue),
        ["a.b"],
        "the binding with arguments is left"
    );
    client.call(
        channel,
        &QueueUnbind {
            arguments: noted.arguments,
            ..unbind(&queue, &topic, "a.b")
        },
    );
    publish(&mut client, channel, &topic, "a.b", &Properties::default());
    assert!(drain(&mut client, channel, &queue).is_empty());
    client.close();
}

#[test]
fn topic_patterns_match_by_words() {
    let table: [(&str, &[&str], &[&str]); 16] = [
        (
            "*.orange.*",
            &["quick.orange.rabbit", "lazy.orange.elephant"],
            &["orange", "quick.orange", "a.orange.b.c"],
        ),
        (
            "lazy.#",
            &["lazy", "lazy.fox", "lazy.pink.rabbit"],
            &["quick.lazy", "lazyfox"],
        ),
        ("*.*.rabbit", &["a.b.rabbit"], &["rabbit", "a.rabbit", "a.b.c.rabbit"]),
        ("#", &["", "a", "a.b.c"], &[]),
        // An empty key has no words; an empty word between dots is one.
        ("*", &["a"], &["a.b", ""]),
        ("a.*", &["a.b", "a."], &["a", "a.b.c", "b.a"]),
        ("a.#.b", &["a.b", "a.x.b", "a.x.y.b", "a.b.b"], &["a", "b", "a.b.c"]),
        ("#.b", &["b", "a.b", "b.b"], &["b.c"]),
        ("#.a.#", &["a", "x.a", "a.x", "x.a.x"], &["x", ""]),
        ("*.#", &["a", "a.b", "a.b.c"], &[""]),
        ("#.*", &["a", "a.b"], &[""]),
        ("", &[""], &["a", "."]),
        (".", &["."], &["", "a", ".."]),
        ("a..b", &["a..b"], &["a.b", "a.x.b"]),
        ("a.*.b", &["a..b", "a.x.b"], &["a.b"]),
        ("key*", &["key*"], &["keys", "key"]),
    ];
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    client.confirm(channel);
    let topic = case.declared_exchange(&mut client, channel, "topic", "topic");
    let all = case.bound(&mut client, channel, "all", &topic, "#");
    let queue = case.declared(&mut client, channel, "queue");
    for (pattern, matching, others) in table {
        client.call(channel, &bind(&queue, &topic, pattern));
        for key in matching.iter().chain(others) {
            publish(&mut client, channel, &topic, key, &Properties::default());
        }
        assert_eq!(
            drain(&mut client, channel, &queue),
            matching,
            "what {pattern} let through"
        );
        client.call(channel, &unbind(&queue, &topic, pattern));
    }
    let published: usize = table
        .iter()
        .map(|(_, matching, others)| matching.len() + others.len())
        .sum();
    assert_eq!(drain(&mut client, channel, &all).len(), published);
    client.close();
}

#[test]
fn a_topic_pattern_may_hold_two_hashes_at_most() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let topic = case.declared_exchange(&mut client, channel, "topic", "topic");
    let queue = case.bound(&mut client, channel, "queue", &topic, "#.a.#");
    client
        .refused(channel, &bind(&queue, &topic, "#.a.#.b.#"))
        .channel_error::<QueueBind>(
            406,
            "PRECONDITION_FAILED - Topic binding key '#.a.#.b.#' uses 3 '#' wildcards, at most 2 are allowed",
        );
    client.close();
}

#[test]
fn headers_are_matched_as_the_binding_asks() {
    type Pairs = Vec<(&'static str, Value)>;
    let table = |pairs: &Pairs| {
        Table(
            pairs
                .iter()
                .map(|(key, value)| ((*key).to_owned(), value.clone()))
                .collect(),
        )
    };
    let (red, five) = (Value::from("red"), Value::I32(5));
    let binding = |mode: Option<&str>, pairs: Pairs| -> Table {
        let mut arguments = table(&pairs);
        if let Some(mode) = mode {
            arguments.0.push(("x-match".into(), Value::from(mode)));
        }
        arguments
    };
    let both: Pairs = vec![("colour", red.clone()), ("size", five.clone())];
    let colour: Pairs = vec![("colour", red.clone())];
    let size: Pairs = vec![("size", five.clone())];
    let wide: Pairs = vec![("colour", red), ("size", Value::I64(5)), ("more", Value::Bool(true))];
    let blue: Pairs = vec![("colour", Value::from("blue")), ("size", five)];
    let dashed: Pairs = vec![("x-note", Value::from("yes"))];
    let none: Pairs = vec![];
    let present: Pairs = vec![("colour", Value::Void)];

    // Binding, and for every message in turn whether it passes.
    let messages = [&both, &colour, &size, &wide, &blue, &dashed, &none];
    let cases: [(Table, [bool; 7]); 10] = [
        (
            binding(Some("all"), both.clone()),
            [true, false, false, true, false, false, false],
        ),
        (
            binding(None, both.clone()),
            [true, false, false, true, false, false, false],
        ),
        (
            binding(Some("any"), both.clone()),
            [true, true, true, true, true, false, false],
        ),
        (binding(Some("all"), none.clone()), [true; 7]),
        (binding(Some("any"), none.clone()), [false; 7]),
        (
            binding(Some("all"), present.clone()),
            [true, true, false, true, true, false, false],
        ),
        (binding(Some("all"), dashed.clone()), [true; 7]),
        (binding(Some("any"), dashed.clone()), [false; 7]),
        (
            binding(Some("all-with-x"), dashed.clone()),
            [false, false, false, false, false, true, false],
        ),
        (
            binding(Some("any-with-x"), dashed.clone()),
            [false, false, false, false, false, true, false],
        ),
    ];
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    client.confirm(channel);
    let exchange = case.declared_exchange(&mut client, channel, "headers", "headers");
    let queue = case.declared(&mut client, channel, "queue");
    for (arguments, passes) in cases {
        client.call(
            channel,
            &QueueBind {
                arguments: arguments.clone(),
                ..bind(&queue, &exchange, "ignored")
            },
        );
        for (index, headers) in messages.iter().enumerate() {
            let properties = Properties {
                headers: Some(table(headers)),
                ..Default::default()
            };
            client.publish(channel, &exchange, "", &properties, index.to_string().as_bytes());
        }
        client.confirmed(channel);
        let expected: Vec<String> = (0..passes.len())
            .filter(|index| passes[*index])
            .map(|index| index.to_string())
            .collect();
        assert_eq!(drain(&mut client, channel, &queue), expected, "{arguments:?}");
        client.call(
            channel,
            &QueueUnbind {
                arguments,
                ..unbind(&queue, &exchange, "ignored")
            },
        );
    }
    // Without any headers at all.
    client.call(
        channel,
        &QueueBind {
            arguments: binding(Some("all"), none),
            ..bind(&queue, &exchange, "")
        },
    );
    publish(&mut client, channel, &exchange, "bare", &Properties::default());
    assert_eq!(drain(&mut client, channel, &queue), ["bare"]);
    client.close();
}

#[test]
fn a_headers_binding_with_a_wrong_mode_is_refused() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.declared(&mut client, channel, "queue");
    let with = |mode: Value| QueueBind {
        arguments: Table::from([("x-match", mode)]),
        ..bind(&queue, "amq.headers", "")
    };
    let no_word =
        |term: &str| format!("Invalid x-match field value {term}; expected all, any, all-with-x, or any-with-x");
    let no_text =
        |kind: &str, term: &str| format!("Invalid x-match field type {kind} (value {term}); expected longstr");
    for (mode, text) in [
        (Value::from("some"), no_word("<<\"some\">>")),
        (Value::from(""), no_word("<<>>")),
        (Value::I32(1), no_text("signedint", "1")),
        (Value::from(true), no_text("bool", "true")),
        (Value::Void, no_text("void", "undefined")),
        (Value::Timestamp(1_577_836_800), no_text("timestamp", "1577836800")),
        (Value::Array(vec![1.into()]), no_text("array", "[{signedint,1}]")),
    ] {
        let text = format!("PRECONDITION_FAILED - {text}");
        let channel = client.channel();
        client
            .refused(channel, &with(mode))
            .channel_error::<QueueBind>(406, &text);
    }
    client.close();
}

#[test]
fn exchanges_bound_to_exchanges_are_walked_once_each() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    client.confirm(channel);
    let first = case.declared_exchange(&mut client, channel, "first", "fanout");
    let second = case.declared_exchange(&mut client, channel, "second", "topic");
    let third = case.declared_exchange(&mut client, channel, "third", "direct");
    let topic = case.bound(&mut client, channel, "topic", &second, "a.*");
    let direct = case.bound(&mut client, channel, "direct", &third, "a.b");
    client.call(channel, &bind(&topic, &first, ""));
    client.call(channel, &e2e(&second, &first, "not used by fanout"));
    client.call(channel, &e2e(&third, &second, "#"));
    // A cycle does no harm.
    client.call(channel, &e2e(&first, &third, "a.b"));
    publish(&mut client, channel, &first, "a.b", &Properties::default());
    assert_eq!(drain(&mut client, channel, &topic), ["a.b"]);
    assert_eq!(drain(&mut client, channel, &direct), ["a.b"]);
    publish(&mut client, channel, &third, "a.b", &Properties::default());
    assert_eq!(drain(&mut client, channel, &topic), ["a.b"]);

    let unbind = ExchangeUnbind {
        destination: second.clone(),
        source: first.clone(),
        routing_key: "not used by fanout".into(),
        ..Default::default()
    };
    client.call(channel, &unbind);
    drain(&mut client, channel, &direct);
    publish(&mut client, channel, &first, "a.b", &Properties::default());
    assert_eq!(drain(&mut client, channel, &topic), ["a.b"]);
    assert!(drain(&mut client, channel, &direct).is_empty());
    client.close();
}

#[test]
fn what_no_queue_takes_goes_to_the_alternate_exchange() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    client.confirm(channel);
    let (main, middle) = (case.exchange("main"), case.exchange("middle"));
    let last = case.declared_exchange(&mut client, channel, "last", "fanout");
    let with_alternate = |name: &str, alternate: &str| ExchangeDeclare {
        arguments: Table::from([("alternate-exchange", alternate)]),
        ..crate::case::exchange(name, "direct")
    };
    client.call(channel, &with_alternate(&main, &middle));
    client.call(channel, &with_alternate(&middle, &last));
    let taken = case.bound(&mut client, channel, "taken", &main, "taken");
    let rest = case.bound(&mut client, channel, "rest", &last, "");
    let mandatory = |key: &str| BasicPublish {
        exchange: main.clone(),
        routing_key: key.into(),
        mandatory: true,
        ..Default::default()
    };
    for key in ["taken", "other"] {
        client.publish_with(channel, &mandatory(key), &Properties::default(), key.as_bytes());
    }
    client.confirmed(channel);
    assert!(client.pending(channel).is_empty(), "an alternate route is a route");
    assert_eq!(drain(&mut client, channel, &taken), ["taken"]);
    assert_eq!(drain(&mut client, channel, &rest), ["other"]);
    // An alternate that is not there takes nothing, and that is no error.
    client.call(
        channel,
        &ExchangeDelete {
            exchange: middle,
            ..Default::default()
        },
    );
    client.publish_with(channel, &mandatory("other"), &Properties::default(), b"lost");
    assert_eq!(client.expect::<BasicReturn>(channel).code, 312);
    client.confirmed(channel);
    client.close();
}

#[test]
fn an_unroutable_mandatory_message_comes_back_before_its_confirm() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    client.confirm(channel);
    let fanout = case.declared_exchange(&mut client, channel, "fanout", "fanout");
    for round in 1..=20 {
        let publish = BasicPublish {
            exchange: fanout.clone(),
            routing_key: format!("key {round}"),
            mandatory: true,
            ..Default::default()
        };
        client.publish_with(channel, &publish, &Properties::persistent(), b"unroutable");
        let (returned, content) = client.expect_content::<BasicReturn>(channel);
        assert_eq!((returned.code, returned.text.as_str()), (312, "NO_ROUTE"));
        assert_eq!(
            (returned.exchange, returned.routing_key),
            (fanout.clone(), format!("key {round}"))
        );
        assert_eq!(content.text(), "unroutable");
        assert_eq!(client.expect::<BasicAck>(channel).delivery_tag, round);
    }
    // Without the flag it is dropped and confirmed all the same.
    client.publish(channel, &fanout, "", &Properties::persistent(), b"dropped");
    assert_eq!(client.expect::<BasicAck>(channel).delivery_tag, 21);
    // And with a queue it is not returned.
    let queue = case.bound(&mut client, channel, "queue", &fanout, "");
    let publish = BasicPublish {
        exchange: fanout,
        mandatory: true,
        ..Default::default()
    };
    client.publish_with(channel, &publish, &Properties::persistent(), b"routed");
    assert_eq!(client.expect::<BasicAck>(channel).delivery_tag, 22);
    assert_eq!(drain(&mut client, channel, &queue), ["routed"]);
    client.close();
}
