//! Every argument that is checked, of every type and outside every bound: the exact refusal, and what is taken.

use warren_tests::amqp::method::*;
use warren_tests::amqp::wire::{Properties, Table, Value};
use warren_tests::amqp::{Client, Closed};

use crate::case::{Case, differs, durable, exchange, in_exchange, in_queue, with};

/// What a declaration of a queue with one argument is answered; `None`: it is taken.
#[track_caller]
fn declared(case: &Case, client: &mut Client, kind: &str, key: &str, value: Value) -> Option<(String, Closed)> {
    static COUNT: std::sync::atomic::AtomicU32 = std::sync::atomic::AtomicU32::new(0);
    let count = COUNT.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
    let queue = case.queue(&count.to_string());
    let channel = client.channel();
    let arguments = Table(vec![(key.into(), value)]);
    let declare = if key == "x-queue-type" {
        QueueDeclare {
            arguments,
            ..durable(&queue)
        }
    } else {
        with(&queue, kind, arguments)
    };
    let refused = client.try_call(channel, &declare);
    if refused.is_ok() {
        client.call(channel, &crate::case::delete(&queue));
        client.call(
            channel,
            &ChannelClose {
                code: 200,
                ..Default::default()
            },
        );
    }
    refused.err().map(|closed| (in_queue(&queue), closed))
}

/// The value is refused with this term, or taken if the term is empty.
#[track_caller]
pub(crate) fn check(case: &Case, client: &mut Client, kind: &str, key: &str, value: Value, term: &str) {
    let what = format!("{kind} {key}={value:?}");
    match declared(case, client, kind, key, value) {
        None => assert_eq!(term, "", "{what} was taken"),
        Some((queue, closed)) => {
            let text = if term.starts_with("of queue type") {
                format!("PRECONDITION_FAILED - invalid arg '{key}' for {queue} {term}")
            } else if term.starts_with("Exceeded") || term.starts_with("Invalid") {
                format!("PRECONDITION_FAILED - {term}")
            } else if term.starts_with("invalid type") {
                format!("PRECONDITION_FAILED - {term} in {queue}")
            } else {
                format!("PRECONDITION_FAILED - invalid arg '{key}' for {queue}: {term}")
            };
            assert_eq!((closed.hard, closed.code, closed.text), (false, 406, text), "{what}");
        }
    }
}

const TOO_LONG: i64 = 315_360_000_001;

#[test]
fn integers_are_bounded_and_of_any_width() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let widths = |n: u8| {
        [
            Value::I8(n.cast_signed()),
            Value::U8(n),
            Value::I16(n.into()),
            Value::U16(n.into()),
            Value::I32(n.into()),
            Value::U32(n.into()),
            Value::I64(n.into()),
            Value::UpperI64(n.into()),
        ]
    };
    let (widths, longer) = (widths(7), widths(127));
    let negative = |n: i32| (Value::I32(n), format!("{{value_negative,{n}}}"));
    let zero = || (Value::I32(0), "{value_zero,0}".to_owned());
    let long = || (Value::I64(TOO_LONG), format!("{{value_too_large,{TOO_LONG}}}"));
    let no_integer = [
        (Value::from("7"), "\"expected integer, got longstr\""),
        (Value::from(true), "\"expected integer, got bool\""),
        (Value::F64(7.0), "\"expected integer, got double\""),
    ];
    for (kind, key, refused) in [
        ("classic", "x-message-ttl", vec![negative(-1), long()]),
        ("quorum", "x-message-ttl", vec![negative(-1), long()]),
        ("classic", "x-expires", vec![negative(-5), zero(), long()]),
        ("quorum", "x-expires", vec![negative(-5), zero(), long()]),
        ("classic", "x-max-length", vec![negative(-1)]),
        ("quorum", "x-max-length", vec![negative(-1)]),
        ("classic", "x-max-length-bytes", vec![negative(-1)]),
        ("quorum", "x-max-length-bytes", vec![negative(-1)]),
        (
            "classic",
            "x-max-priority",
            vec![negative(-1), (Value::I32(256), "{max_value_exceeded,256}".to_owned())],
        ),
        ("quorum", "x-quorum-initial-group-size", vec![negative(-1), zero()]),
        ("quorum", "x-consumer-timeout", vec![negative(-1)]),
        ("quorum", "x-consumer-disconnected-timeout", vec![negative(-1)]),
        ("quorum", "x-max-in-memory-length", vec![negative(-1)]),
        ("quorum", "x-max-in-memory-bytes", vec![negative(-1)]),
    ] {
        // A queue that is to expire must live until its declaration is answered.
        let widths = if key == "x-expires" { &longer } else { &widths };
        for width in widths {
            check(&case, &mut client, kind, key, width.clone(), "");
        }
        for (value, term) in refused {
            check(&case, &mut client, kind, key, value, &term);
        }
        for (value, term) in &no_integer {
            check(&case, &mut client, kind, key, value.clone(), term);
        }
    }
    for key in ["x-message-ttl", "x-max-length", "x-max-length-bytes", "x-max-priority"] {
        check(&case, &mut client, "classic", key, Value::I32(0), "");
    }
    for key in ["x-message-ttl", "x-expires"] {
        check(&case, &mut client, "classic", key, Value::I64(TOO_LONG - 1), "");
    }
    client.close();
}

#[test]
fn words_are_words_that_are_known() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let both = ["classic", "quorum"];
    let locators = ["client-local", "balanced", "random", "least-leaders", "min-masters"];
    let strategies = ["at-most-once", "at-least-once"];
    let overflows = ["drop-head", "reject-publish", "reject-publish-dlx"];
    for (kinds, key, known, term) in [
        (&both[..], "x-overflow", &overflows[..], "invalid_overflow"),
        (
            &both[1..],
            "x-dead-letter-strategy",
            &strategies[..],
            "invalid_dlx_strategy",
        ),
        (
            &both[..],
            "x-queue-leader-locator",
            &locators[..],
            "invalid_queue_locator_arg",
        ),
    ] {
        for kind in kinds {
            for word in known {
                check(&case, &mut client, kind, key, Value::from(*word), "");
            }
            check(&case, &mut client, kind, key, Value::from("sometimes"), term);
            check(&case, &mut client, kind, key, Value::from(""), term);
            check(
                &case,
                &mut client,
                kind,
                key,
                Value::I32(1),
                "{unacceptable_type,signedint}",
            );
            check(
                &case,
                &mut client,
                kind,
                key,
                Value::from(true),
                "{unacceptable_type,bool}",
            );
        }
    }
    for kind in both {
        let key = "x-single-active-consumer";
        check(&case, &mut client, kind, key, Value::from(false), "");
        check(
            &case,
            &mut client,
            kind,
            key,
            Value::from("true"),
            "{unacceptable_type,longstr}",
        );
        check(
            &case,
            &mut client,
            kind,
            key,
            Value::I32(1),
            "{unacceptable_type,signedint}",
        );
        let key = "x-dead-letter-exchange";
        check(&case, &mut client, kind, key, Value::from(""), "");
        check(&case, &mut client, kind, key, Value::from("nowhere at all"), "");
        let text = |name: &str| format!("invalid type '{name}' for arg 'x-dead-letter-exchange'");
        check(&case, &mut client, kind, key, Value::I32(1), &text("signedint"));
        check(&case, &mut client, kind, key, Value::from(true), &text("bool"));
        let key = "x-dead-letter-routing-key";
        check(
            &case,
            &mut client,
            kind,
            key,
            Value::from("k"),
            "routing_key_but_no_dlx_defined",
        );
        check(
            &case,
            &mut client,
            kind,
            key,
            Value::I32(1),
            "{unacceptable_type,signedint}",
        );
    }
    for limit in [-1, 0, 5] {
        check(&case, &mut client, "quorum", "x-delivery-limit", Value::I32(limit), "");
    }
    client.close();
}

#[test]
fn types_of_queues_are_known_and_know_their_arguments() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let queue = case.queue("typed");
    for (value, term) in [
        (Value::from("fake"), "\"unsupported queue type 'fake'\""),
        (Value::I32(1), "{unacceptable_type,signedint}"),
    ] {
        let channel = client.channel();
        let declare = QueueDeclare {
            arguments: Table(vec![("x-queue-type".into(), value)]),
            ..durable(&queue)
        };
        let text = format!(
            "PRECONDITION_FAILED - invalid arg 'x-queue-type' for {}: {term}",
            in_queue(&queue)
        );
        client
            .refused(channel, &declare)
            .channel_error::<QueueDeclare>(406, &text);
    }
    let classic = "of queue type rabbit_classic_queue";
    for key in [
        "x-delivery-limit",
        "x-quorum-initial-group-size",
        "x-consumer-timeout",
        "x-consumer-disconnected-timeout",
        "x-delayed-retry-min",
        "x-max-in-memory-length",
    ] {
        check(&case, &mut client, "classic", key, Value::I32(1), classic);
    }
    for key in ["x-dead-letter-strategy", "x-delayed-retry-type", "x-max-age"] {
        check(&case, &mut client, "classic", key, Value::from("any"), classic);
    }
    let quorum = "of queue type rabbit_quorum_queue";
    check(
        &case,
        &mut client,
        "quorum",
        "x-queue-mode",
        Value::from("lazy"),
        quorum,
    );
    check(&case, &mut client, "quorum", "x-max-age", Value::from("1D"), quorum);
    let levels = if differs("quorum-max-priority") { quorum } else { "" };
    check(&case, &mut client, "quorum", "x-max-priority", Value::I32(10), levels);
    // What no type knows is nobody's business.
    for kind in ["classic", "quorum"] {
        check(&case, &mut client, kind, "x-note", Value::I32(-1), "");
        check(&case, &mut client, kind, "x-ha-policy", Value::from("all"), "");
    }
    client.close();
}

#[test]
fn a_quorum_queue_is_durable_and_shared_and_stays() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let queue = case.queue("shape");
    let good = crate::case::quorum(&queue);
    for (declare, property) in [
        (
            QueueDeclare {
                durable: false,
                ..good.clone()
            },
            "non-durable",
        ),
        (
            QueueDeclare {
                auto_delete: true,
                ..good.clone()
            },
            "auto-delete",
        ),
        (
            QueueDeclare {
                exclusive: true,
                ..good
            },
            "exclusive-owner",
        ),
    ] {
        let channel = client.channel();
        let text = format!(
            "PRECONDITION_FAILED - invalid property '{property}' for {}",
            in_queue(&queue)
        );
        client
            .refused(channel, &declare)
            .channel_error::<QueueDeclare>(406, &text);
    }
    client.close();
}

#[test]
fn another_width_is_the_same_declaration_and_another_number_is_not() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let queue = case.queue("widths");
    let declare = |value: Value| with(&queue, "classic", Table(vec![("x-expires".into(), value)]));
    let channel = client.channel();
    client.call(channel, &declare(Value::I32(60_000)));
    for same in [Value::I64(60_000), Value::U32(60_000), Value::U16(60_000)] {
        client.call(channel, &declare(same));
    }
    for (other, text) in [
        (declare(Value::I32(60_001)), "received '60001' but current is '60000'"),
        (
            durable(&queue),
            "received none but current is the value '60000' of type 'signedint'",
        ),
    ] {
        let channel = client.channel();
        let text = format!(
            "PRECONDITION_FAILED - inequivalent arg 'x-expires' for {}: {text}",
            in_queue(&queue)
        );
        client
            .refused(channel, &other)
            .channel_error::<QueueDeclare>(406, &text);
    }
    client.close();
}

#[test]
fn consumers_and_exchanges_have_theirs() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    for kind in ["classic", "quorum"] {
        let queue = case.queue(kind);
        client.call(channel, &with(&queue, kind, Table::default()));
        for (value, name) in [(Value::from("high"), "longstr"), (Value::from(true), "bool")] {
            let channel = client.channel();
            let consume = BasicConsume {
                arguments: Table(vec![("x-priority".into(), value)]),
                ..crate::case::consume(&queue, "")
            };
            let text = format!(
                "PRECONDITION_FAILED - invalid arg 'x-priority' for {}: \"expected integer, got {name}\"",
                in_queue(&queue)
            );
            client
                .refused(channel, &consume)
                .channel_error::<BasicConsume>(406, &text);
        }
        let consume = BasicConsume {
            arguments: Table(vec![
                ("x-priority".into(), Value::I64(-3)),
                ("x-cancel-on-ha-failover".into(), Value::from(true)),
                ("x-note".into(), Value::from("any")),
            ]),
            ..crate::case::consume(&queue, "")
        };
        client.call(channel, &consume);
    }
    for (value, name) in [(Value::I32(1), "signedint"), (Value::from(true), "bool")] {
        let channel = client.channel();
        let name_of = case.exchange(name);
        let declare = ExchangeDeclare {
            arguments: Table(vec![("alternate-exchange".into(), value)]),
            ..exchange(&name_of, "direct")
        };
        let text = format!(
            "PRECONDITION_FAILED - invalid type '{name}' for arg 'alternate-exchange' in {}",
            in_exchange(&name_of)
        );
        client
            .refused(channel, &declare)
            .channel_error::<ExchangeDeclare>(406, &text);
    }
    client.close();
}

#[test]
fn copies_are_for_lists_of_names() {
    let case = Case::new();
    let mut client = Client::connect(0);
    for key in ["CC", "BCC"] {
        let channel = client.channel();
        let queue = case.declared(&mut client, channel, key);
        let properties = Properties {
            headers: Some(Table::from([(key, 1)])),
            ..Properties::persistent()
        };
        client.publish(channel, "", &queue, &properties, b"copied");
        let text =
            format!("PRECONDITION_FAILED - invalid message: {{unacceptable_type_in_header,\"{key}\",signedint}}");
        client.closed(channel).channel_error::<BasicPublish>(406, &text);
    }
    client.close();
}
