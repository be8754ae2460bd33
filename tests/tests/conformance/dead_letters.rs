//! Where messages go that die in a queue, and what they tell of it.

use warren_tests::amqp::method::*;
use warren_tests::amqp::wire::{Properties, Table, Value};
use warren_tests::amqp::{Client, Delivery};

use crate::case::{Case, ack, bind, consume, counts, differs, drain, fill, prefetch, until_ready, with};

fn headers(pairs: Vec<(&str, Value)>) -> Table {
    Table(
        pairs
            .into_iter()
            .map(|(name, value)| (name.to_owned(), value))
            .collect(),
    )
}

fn dead_letters_to(exchange: &str, routing_key: Option<&str>) -> Table {
    let mut arguments = Table::from([("x-dead-letter-exchange", exchange)]);
    if let Some(key) = routing_key {
        arguments.0.extend(Table::from([("x-dead-letter-routing-key", key)]).0);
    }
    arguments
}

fn keys(names: &[&str]) -> Value {
    Value::Array(names.iter().map(|name| Value::from(*name)).collect())
}

/// The history of a message, newest death first: each as reason, queue, count, exchange and routing keys.
#[track_caller]
fn deaths(properties: &Properties) -> Vec<(String, String, i64, String, Value)> {
    let Some(Value::Array(deaths)) = properties.headers.as_ref().and_then(|headers| headers.get("x-death")) else {
        panic!("no history: {properties:?}")
    };
    let text = |death: &Table, name: &str| match death.get(name) {
        Some(Value::Text(text)) => String::from_utf8_lossy(text).into_owned(),
        other => panic!("{name} is {other:?}"),
    };
    deaths
        .iter()
        .map(|death| {
            let Value::Table(death) = death else {
                panic!("{death:?}")
            };
            let Some(Value::I64(count)) = death.get("count") else {
                panic!("count is {:?}", death.get("count"))
            };
            assert!(matches!(death.get("time"), Some(Value::Timestamp(_))));
            (
                text(death, "reason"),
                text(death, "queue"),
                *count,
                text(death, "exchange"),
                death.get("routing-keys").expect("routing keys").clone(),
            )
        })
        .collect()
}

#[test]
fn a_rejected_message_goes_to_the_exchange_with_its_history() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    for kind in ["classic", "quorum"] {
        let exchange = case.declared_exchange(&mut client, channel, &format!("x{kind}"), "direct");
        let dlx = case.declared_exchange(&mut client, channel, &format!("dlx{kind}"), "direct");
        let queue = case.queue(kind);
        client.call(channel, &with(&queue, kind, dead_letters_to(&dlx, None)));
        client.call(channel, &bind(&queue, &exchange, "key"));
        let dead = case.bound(&mut client, channel, &format!("dead{kind}"), &dlx, "key");
        let properties = Properties {
            headers: Some(headers(vec![("own", Value::I32(7))])),
            message_id: Some("id".into()),
            expiration: Some("600000".into()),
            ..Properties::persistent()
        };
        client.publish(channel, &exchange, "key", &properties, b"rejected");
        client.call(channel, &consume(&queue, "c"));
        let delivery = client.delivery(channel);
        let reject = BasicReject {
            delivery_tag: delivery.tag,
            requeue: false,
        };
        client.send(channel, &reject);
        until_ready(&mut client, channel, &dead, 1);
        let (dead, _) = client.get(channel, &dead, true).expect("the dead letter");
        let redelivered = differs("dead-letter-redelivered");
        assert_eq!((dead.text().as_str(), dead.redelivered), ("rejected", redelivered));
        assert_eq!(
            (dead.exchange.as_str(), dead.routing_key.as_str()),
            (dlx.as_str(), "key")
        );
        let properties = dead.content.properties();
        assert_eq!(
            (properties.message_id.as_deref(), properties.expiration.as_deref()),
            (Some("id"), None)
        );
        let expected = ("rejected".into(), queue.clone(), 1, exchange.clone(), keys(&["key"]));
        assert_eq!(deaths(&properties), [expected]);
        let headers = properties.headers.expect("headers");
        assert_eq!(headers.get("own"), Some(&Value::I32(7)));
        for (name, value) in [("reason", "rejected"), ("queue", &queue), ("exchange", &exchange)] {
            for which in ["first", "last"] {
                assert_eq!(headers.get(&format!("x-{which}-death-{name}")), Some(&value.into()));
            }
        }
        let Some(Value::Array(death)) = headers.get("x-death") else {
            panic!("checked above")
        };
        let Value::Table(death) = &death[0] else {
            panic!("checked above")
        };
        let names: Vec<&str> = death.0.iter().map(|(name, _)| name.as_str()).collect();
        let order = [
            "original-expiration",
            "count",
            "reason",
            "queue",
            "time",
            "exchange",
            "routing-keys",
        ];
        assert_eq!(names, order);
        assert_eq!(death.get("original-expiration"), Some(&"600000".into()));
        client.call(
            channel,
            &BasicCancel {
                consumer_tag: "c".into(),
                ..Default::default()
            },
        );
    }
    client.close();
}

#[test]
fn every_way_to_die_has_its_reason() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let dead = case.declared(&mut client, channel, "dead");
    let to_dead = || dead_letters_to("", Some(&dead));
    let next = |client: &mut Client| {
        until_ready(client, channel, &dead, 1);
        let (delivery, _) = client.get(channel, &dead, true).expect("a dead letter");
        let deaths = deaths(&delivery.content.properties());
        (delivery.text(), deaths[0].0.clone())
    };
    let mut arguments = to_dead();
    arguments.0.extend(Table::from([("x-message-ttl", 50)]).0);
    let expiring = case.queue("expiring");
    client.call(channel, &with(&expiring, "classic", arguments));
    fill(&mut client, &expiring, &["old"]);
    assert_eq!(next(&mut client), ("old".into(), "expired".into()));

    let mut arguments = to_dead();
    arguments.0.extend(Table::from([("x-max-length", 1)]).0);
    let full = case.queue("full");
    client.call(channel, &with(&full, "classic", arguments));
    fill(&mut client, &full, &["first", "second"]);
    assert_eq!(next(&mut client), ("first".into(), "maxlen".into()));

    let mut arguments = to_dead();
    arguments.0.extend(Table::from([("x-delivery-limit", 1)]).0);
    let limited = case.queue("limited");
    client.call(channel, &with(&limited, "quorum", arguments));
    fill(&mut client, &limited, &["poison"]);
    client.call(channel, &consume(&limited, ""));
    for attempt in 0..2 {
        let delivery = client.delivery(channel);
        let counted = delivery.content.properties().headers;
        let count = |name: &str| counted.as_ref().and_then(|headers| headers.get(name).cloned());
        let expected = (attempt > 0).then_some(Value::I64(attempt));
        assert_eq!(count("x-delivery-count"), expected, "attempt {attempt}");
        assert_eq!(count("x-acquired-count"), expected, "attempt {attempt}");
        let reject = BasicReject {
            delivery_tag: delivery.tag,
            requeue: true,
        };
        client.send(channel, &reject);
    }
    assert_eq!(next(&mut client), ("poison".into(), "delivery_limit".into()));
    client.close();
}

/// What a closed channel had counts as failed, delivered or got; so does what a closed connection had.
#[test]
fn a_channel_that_closes_with_a_message_fails_it() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let dead = case.declared(&mut client, channel, "dead");
    let mut arguments = dead_letters_to("", Some(&dead));
    arguments.0.extend(Table::from([("x-delivery-limit", 2)]).0);
    let limited = case.queue("limited");
    client.call(channel, &with(&limited, "quorum", arguments));
    fill(&mut client, &limited, &["poison", "next"]);
    let count = |delivery: &Delivery| {
        let headers = delivery.content.properties().headers;
        headers.and_then(|headers| headers.get("x-delivery-count").cloned())
    };
    let close = ChannelClose::default();

    let closing = client.channel();
    client.call(closing, &prefetch(1));
    client.call(closing, &consume(&limited, ""));
    assert_eq!(count(&client.delivery(closing)), None);
    client.call(closing, &close);

    let closing = client.channel();
    until_ready(&mut client, channel, &limited, 2);
    let (delivery, _) = client.get(closing, &limited, false).expect("it came back");
    assert_eq!(count(&delivery), Some(Value::I64(1)));
    let (next, _) = client.get(channel, &limited, true).expect("it stayed");
    assert_eq!((next.text(), next.redelivered), ("next".into(), false));
    client.call(closing, &close);

    let mut other = Client::connect(0);
    let closing = other.channel();
    until_ready(&mut client, channel, &limited, 1);
    let (delivery, _) = other.get(closing, &limited, false).expect("it came back");
    assert_eq!(count(&delivery), Some(Value::I64(2)));
    other.close();

    until_ready(&mut client, channel, &dead, 1);
    let (delivery, _) = client.get(channel, &dead, true).expect("a dead letter");
    assert_eq!(deaths(&delivery.content.properties())[0].0, "delivery_limit");
    client.close();
}

#[test]
fn purge_and_delete_are_no_deaths() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let dead = case.declared(&mut client, channel, "dead");
    let queue = case.queue("queue");
    client.call(channel, &with(&queue, "classic", dead_letters_to("", Some(&dead))));
    fill(&mut client, &queue, &["purged"]);
    let purge = QueuePurge {
        queue: queue.clone(),
        ..Default::default()
    };
    client.call(channel, &purge);
    fill(&mut client, &queue, &["deleted"]);
    client.call(channel, &crate::case::delete(&queue));
    // What dies afterwards comes alone.
    let last = case.queue("last");
    let mut arguments = dead_letters_to("", Some(&dead));
    arguments.0.extend(Table::from([("x-max-length", 0)]).0);
    client.call(channel, &with(&last, "classic", arguments));
    fill(&mut client, &last, &["dropped"]);
    until_ready(&mut client, channel, &dead, 1);
    assert_eq!(drain(&mut client, channel, &dead), ["dropped"]);
    client.close();
}

#[test]
fn the_exchange_may_be_missing() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.queue("queue");
    let mut arguments = dead_letters_to("no such exchange", None);
    arguments.0.extend(Table::from([("x-max-length", 1)]).0);
    client.call(channel, &with(&queue, "classic", arguments));
    fill(&mut client, &queue, &["lost", "kept"]);
    assert_eq!(drain(&mut client, channel, &queue), ["kept"]);
    client.close();
}

#[test]
fn copies_travel_along_and_hidden_ones_stay_hidden() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let dlx = case.declared_exchange(&mut client, channel, "dlx", "direct");
    let queue = case.queue("queue");
    let mut arguments = dead_letters_to(&dlx, None);
    arguments.0.extend(Table::from([("x-max-length", 0)]).0);
    client.call(channel, &with(&queue, "classic", arguments));
    let by_copy = case.bound(&mut client, channel, "copy", &dlx, "cc");
    let by_hidden = case.bound(&mut client, channel, "hidden", &dlx, "bcc");
    let properties = Properties {
        headers: Some(headers(vec![("CC", keys(&["cc"])), ("BCC", keys(&["bcc"]))])),
        ..Properties::persistent()
    };
    client.publish(channel, "", &queue, &properties, b"copied");
    for target in [&by_copy, &by_hidden] {
        until_ready(&mut client, channel, target, 1);
        let (dead, _) = client.get(channel, target, true).expect("the dead letter");
        assert_eq!(dead.routing_key, queue);
        let properties = dead.content.properties();
        assert_eq!(deaths(&properties)[0].4, keys(&[&queue, "cc"]));
        let headers = properties.headers.expect("headers");
        assert_eq!((headers.get("CC"), headers.get("BCC")), (Some(&keys(&["cc"])), None));
    }
    client.close();
}

#[test]
fn a_message_that_dies_again_counts_and_comes_to_the_front() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let (work, wait) = (case.queue("work"), case.queue("wait"));
    client.call(channel, &with(&work, "classic", dead_letters_to("", Some(&wait))));
    let mut arguments = dead_letters_to("", Some(&work));
    arguments.0.extend(Table::from([("x-message-ttl", 20)]).0);
    client.call(channel, &with(&wait, "classic", arguments));
    client.call(channel, &consume(&work, ""));
    // A history that a client made up is none.
    let made_up = Value::Array(vec![Value::Table(headers(vec![
        ("queue", "made up".into()),
        ("reason", "rejected".into()),
        ("count", Value::I64(9)),
    ]))]);
    let properties = Properties {
        headers: Some(headers(vec![("x-death", made_up)])),
        ..Properties::persistent()
    };
    client.publish(channel, "", &work, &properties, b"retried");
    for round in 0..4 {
        let delivery = client.delivery(channel);
        if round > 0 {
            let properties = delivery.content.properties();
            let history = deaths(&properties);
            let expected = [
                ("expired".to_owned(), wait.clone(), round, String::new(), keys(&[&wait])),
                (
                    "rejected".to_owned(),
                    work.clone(),
                    round,
                    String::new(),
                    keys(&[&work]),
                ),
            ];
            assert_eq!(history, expected);
            let headers = properties.headers.expect("headers");
            assert_eq!(headers.get("x-first-death-queue"), Some(&work.as_str().into()));
            assert_eq!(headers.get("x-last-death-queue"), Some(&wait.as_str().into()));
        }
        let nack = BasicNack {
            delivery_tag: delivery.tag,
            multiple: false,
            requeue: false,
        };
        client.send(channel, &nack);
    }
    client.close();
}

#[test]
fn a_circle_without_a_rejection_ends() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let (one, two) = (case.queue("one"), case.queue("two"));
    for (queue, other) in [(&one, &two), (&two, &one)] {
        let mut arguments = dead_letters_to("", Some(other));
        arguments.0.extend(Table::from([("x-message-ttl", 20)]).0);
        client.call(channel, &with(queue, "classic", arguments));
    }
    let dead = case.declared(&mut client, channel, "dead");
    let mut arguments = dead_letters_to("", Some(&dead));
    arguments.0.extend(Table::from([("x-message-ttl", 400)]).0);
    let clock = case.queue("clock");
    client.call(channel, &with(&clock, "classic", arguments));
    fill(&mut client, &one, &["circling"]);
    fill(&mut client, &clock, &["later"]);
    until_ready(&mut client, channel, &dead, 1);
    assert_eq!(
        counts(&mut client, channel, &one).0 + counts(&mut client, channel, &two).0,
        0
    );
    client.close();
}

#[test]
fn at_least_once_waits_for_a_target() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let dlx = case.declared_exchange(&mut client, channel, "dlx", "fanout");
    let queue = case.queue("queue");
    let mut arguments = dead_letters_to(&dlx, None);
    arguments.0.extend(
        Table::from([
            ("x-dead-letter-strategy", "at-least-once"),
            ("x-overflow", "reject-publish"),
        ])
        .0,
    );
    client.call(channel, &with(&queue, "quorum", arguments));
    fill(&mut client, &queue, &["waits"]);
    let (taken, _) = client.get(channel, &queue, false).expect("it has just come");
    let reject = BasicReject {
        delivery_tag: taken.tag,
        requeue: false,
    };
    client.send(channel, &reject);
    assert_eq!(counts(&mut client, channel, &queue).0, 0);
    // Nothing was bound when it died. A full target comes first.
    if !differs("at-least-once-retry") {
        let full = case.queue("full");
        let mut arguments = Table::from([("x-overflow", "reject-publish")]);
        arguments.0.extend(Table::from([("x-max-length", 1)]).0);
        client.call(channel, &with(&full, "classic", arguments));
        fill(&mut client, &full, &["in the way"]);
        client.call(channel, &bind(&full, &dlx, ""));
        let roomy = case.bound(&mut client, channel, "roomy", &dlx, "");
        until_ready(&mut client, channel, &roomy, 1);
        assert_eq!(drain(&mut client, channel, &full), ["in the way"]);
        until_ready(&mut client, channel, &full, 1);
        assert_eq!(drain(&mut client, channel, &full), ["waits"]);
        // It came once to the one that had room.
        assert_eq!(drain(&mut client, channel, &roomy), ["waits"]);
    }
    client.close();
}

#[test]
fn many_dead_letters_keep_their_order() {
    const COUNT: usize = 3_000;
    let case = Case::new();
    let mut client = Client::connect(0);
    let (channel, consuming) = (client.channel(), client.channel());
    for (strategy, overflow) in [("at-most-once", "drop-head"), ("at-least-once", "reject-publish")] {
        let dead = case.declared(&mut client, channel, &format!("dead-{strategy}"));
        let queue = case.queue(strategy);
        let mut arguments = dead_letters_to("", Some(&dead));
        arguments
            .0
            .extend(Table::from([("x-dead-letter-strategy", strategy), ("x-overflow", overflow)]).0);
        client.call(channel, &with(&queue, "quorum", arguments));
        let bodies: Vec<String> = (0..COUNT).map(|number| number.to_string()).collect();
        fill(
            &mut client,
            &queue,
            &bodies.iter().map(String::as_str).collect::<Vec<_>>(),
        );
        client.call(consuming, &prefetch(100));
        client.call(consuming, &consume(&queue, ""));
        for number in 1..=COUNT {
            let delivery = client.delivery(consuming);
            if number % 50 == 0 {
                let nack = BasicNack {
                    delivery_tag: delivery.tag,
                    multiple: true,
                    requeue: false,
                };
                client.send(consuming, &nack);
            }
        }
        until_ready(&mut client, channel, &dead, COUNT as u32);
        assert_eq!(drain(&mut client, channel, &dead), bodies, "{strategy}");
    }
    client.close();
}

#[test]
fn transient_queues_have_dead_letters_too() {
    let case = Case::new();
    let mut client = Client::connect(1);
    let channel = client.channel();
    let dead = case.declared(&mut client, channel, "dead");
    let queue = case.queue("exclusive");
    let declare = QueueDeclare {
        arguments: dead_letters_to("", Some(&dead)),
        ..crate::case::exclusive(&queue)
    };
    client.call(channel, &declare);
    client.publish(channel, "", &queue, &Properties::default(), b"passed on");
    let (taken, _) = client.get(channel, &queue, false).expect("it has just come");
    let reject = BasicReject {
        delivery_tag: taken.tag,
        requeue: false,
    };
    client.send(channel, &reject);
    client.call(channel, &consume(&dead, ""));
    let delivery = client.delivery(channel);
    assert_eq!(delivery.text(), "passed on");
    client.send(channel, &ack(delivery.tag));
    client.close();
}

#[test]
fn bad_arguments_are_refused() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let queue = case.queue("bad");
    let mut refused = |kind: &str, arguments: Table, text: &str| {
        let channel = client.channel();
        let text = format!(
            "PRECONDITION_FAILED - {}",
            text.replace("{q}", &crate::case::in_queue(&queue))
        );
        client
            .refused(channel, &with(&queue, kind, arguments))
            .channel_error::<QueueDeclare>(406, &text);
    };
    refused(
        "classic",
        Table::from([("x-dead-letter-exchange", 1)]),
        "invalid type 'signedint' for arg 'x-dead-letter-exchange' in {q}",
    );
    refused(
        "classic",
        Table::from([("x-dead-letter-routing-key", "key")]),
        "invalid arg 'x-dead-letter-routing-key' for {q}: routing_key_but_no_dlx_defined",
    );
    refused(
        "quorum",
        Table::from([("x-dead-letter-strategy", "sometimes")]),
        "invalid arg 'x-dead-letter-strategy' for {q}: invalid_dlx_strategy",
    );
    refused(
        "classic",
        Table::from([("x-dead-letter-strategy", "at-most-once")]),
        "invalid arg 'x-dead-letter-strategy' for {q} of queue type rabbit_classic_queue",
    );
    client.close();
}
