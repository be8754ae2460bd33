//! Exchanges that choose one of their targets: by a hash of the routing key, of a header or of a property, or by chance.

use std::collections::BTreeMap;

use warren_tests::amqp::Client;
use warren_tests::amqp::method::*;
use warren_tests::amqp::wire::{Properties, Table, Value};

use crate::case::{Case, bind, counts, differs, drain, durable, exchange, unbind};

/// Whether the broker may do without this type.
fn is_plugin(kind: &str) -> bool {
    differs("exchange-plugins") && kind != "x-modulus-hash"
}

fn headers(fields: Table) -> Properties {
    Properties {
        headers: Some(fields),
        ..Properties::persistent()
    }
}

/// Queues bound with these keys.
#[track_caller]
fn queues(case: &Case, client: &mut Client, channel: u16, exchange: &str, keys: &[&str]) -> Vec<String> {
    let bound = keys.iter().enumerate();
    bound
        .map(|(number, key)| case.bound(client, channel, &format!("q{number}"), exchange, key))
        .collect()
}

/// Which of the queues have which bodies.
#[track_caller]
fn taken(client: &mut Client, channel: u16, queues: &[String]) -> BTreeMap<String, usize> {
    let mut all = BTreeMap::new();
    for (number, queue) in queues.iter().enumerate() {
        for body in drain(client, channel, queue) {
            assert_eq!(all.insert(body.clone(), number), None, "{body} went to two queues");
        }
    }
    all
}

#[test]
fn a_consistent_hash_follows_the_routing_key_and_the_weights() {
    if is_plugin("x-consistent-hash") {
        return;
    }
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let name = case.declared_exchange(&mut client, channel, "hash", "x-consistent-hash");
    let queues = queues(&case, &mut client, channel, &name, &["1", "3"]);
    client.confirm(channel);
    // The same by every node.
    let mut other = Client::connect(1);
    let second = other.channel();
    other.confirm(second);
    let mut found = Vec::new();
    for _ in 0..2 {
        for key in 0..400 {
            let (key, properties) = (key.to_string(), Properties::persistent());
            if found.is_empty() {
                client.publish(channel, &name, &key, &properties, key.as_bytes());
            } else {
                other.publish(second, &name, &key, &properties, key.as_bytes());
            }
        }
        client.confirmed(channel);
        other.confirmed(second);
        let taken = taken(&mut client, channel, &queues);
        assert_eq!(taken.len(), 400, "each went somewhere");
        found.push(taken);
    }
    assert_eq!(found[0], found[1]);
    let first = found[0].values().filter(|queue| **queue == 0).count();
    assert!((50..150).contains(&first), "{first} of 400 where 100 are due");
    other.close();
    client.close();
}

#[test]
fn a_consistent_hash_of_a_header_or_a_property_ignores_the_key() {
    if is_plugin("x-consistent-hash") {
        return;
    }
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    client.confirm(channel);
    for (argument, value) in [("hash-header", "account"), ("hash-property", "message_id")] {
        let name = case.exchange(argument);
        let declare = ExchangeDeclare {
            arguments: Table::from([(argument, value)]),
            ..exchange(&name, "x-consistent-hash")
        };
        client.call(channel, &declare);
        let queues: Vec<String> = (0..4)
            .map(|number| case.bound(&mut client, channel, &format!("{argument}.{number}"), &name, "1"))
            .collect();
        for id in 0..40 {
            let properties = Properties {
                message_id: Some(id.to_string()),
                ..headers(Table::from([("account", id)]))
            };
            for key in ["a", "b", "c"] {
                client.publish(channel, &name, key, &properties, format!("{id} {key}").as_bytes());
            }
        }
        client.confirmed(channel);
        let found = taken(&mut client, channel, &queues);
        assert_eq!(found.len(), 120);
        for id in 0..40 {
            let of = |key| found[&format!("{id} {key}")];
            assert_eq!((of("a"), of("b")), (of("b"), of("c")), "{argument} {id}");
        }
        let mut used: Vec<_> = found.values().collect();
        used.sort_unstable();
        used.dedup();
        assert!(used.len() > 1, "all went to one queue");
    }
    client.close();
}

#[test]
fn what_a_consistent_hash_cannot_be_is_406() {
    if is_plugin("x-consistent-hash") {
        return;
    }
    let case = Case::new();
    let mut client = Client::connect(0);
    for (arguments, text) in [
        (
            Table::from([("hash-header", "h"), ("hash-property", "message_id")]),
            "hash-header and hash-property are mutually exclusive",
        ),
        (
            Table::from([("hash-property", "app_id")]),
            "Unsupported property: app_id",
        ),
    ] {
        let channel = client.channel();
        let declare = ExchangeDeclare {
            arguments,
            ..exchange(&case.exchange("refused"), "x-consistent-hash")
        };
        let text = format!("PRECONDITION_FAILED - {text}");
        client
            .refused(channel, &declare)
            .channel_error::<ExchangeDeclare>(406, &text);
    }
    let channel = client.channel();
    let name = case.declared_exchange(&mut client, channel, "hash", "x-consistent-hash");
    let queue = case.queue("bound");
    client.call(channel, &durable(&queue));
    for (key, text) in [
        ("heavy", "The binding key must be an integer: <<\"heavy\">>"),
        ("0", "The binding key must be greater than 0"),
        ("-1", "The binding key must be greater than 0"),
    ] {
        let channel = client.channel();
        let text = format!("PRECONDITION_FAILED - {text}");
        client
            .refused(channel, &bind(&queue, &name, key))
            .channel_error::<QueueBind>(406, &text);
    }
    client.close();
}

#[test]
fn a_modulus_hash_follows_the_routing_key() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let name = case.declared_exchange(&mut client, channel, "modulus", "x-modulus-hash");
    let queues = queues(&case, &mut client, channel, &name, &["", "any", "#"]);
    client.confirm(channel);
    for round in 0..2 {
        for key in 0..60 {
            let body = format!("{key} {round}");
            client.publish(
                channel,
                &name,
                &key.to_string(),
                &Properties::persistent(),
                body.as_bytes(),
            );
        }
    }
    client.confirmed(channel);
    let found = taken(&mut client, channel, &queues);
    assert_eq!(found.len(), 120);
    for key in 0..60 {
        assert_eq!(found[&format!("{key} 0")], found[&format!("{key} 1")]);
    }
    for queue in 0..3 {
        let share = found.values().filter(|found| **found == queue).count();
        assert!(share > 10, "{share} of 120 where 40 are due");
    }
    client.close();
}

#[test]
fn a_random_exchange_takes_one_target_each_time() {
    if is_plugin("x-random") {
        return;
    }
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let name = case.declared_exchange(&mut client, channel, "random", "x-random");
    let queues = queues(&case, &mut client, channel, &name, &["", "any"]);
    client.confirm(channel);
    for number in 0..200 {
        client.publish(
            channel,
            &name,
            "one key",
            &Properties::persistent(),
            number.to_string().as_bytes(),
        );
    }
    client.confirmed(channel);
    let found = taken(&mut client, channel, &queues);
    assert_eq!(found.len(), 200);
    for queue in 0..2 {
        let share = found.values().filter(|found| **found == queue).count();
        assert!(share > 40, "{share} of 200 where 100 are due");
    }
    client.close();
}

#[test]
fn what_chooses_one_target_works_between_exchanges_and_without_targets() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    client.confirm(channel);
    for kind in ["x-consistent-hash", "x-modulus-hash", "x-random"] {
        if is_plugin(kind) {
            continue;
        }
        let front = case.declared_exchange(&mut client, channel, &format!("{kind}.front"), "fanout");
        let name = case.declared_exchange(&mut client, channel, kind, kind);
        let last = case.declared_exchange(&mut client, channel, &format!("{kind}.last"), "direct");
        for (destination, source, key) in [(&name, &front, ""), (&last, &name, "7")] {
            client.call(
                channel,
                &ExchangeBind {
                    destination: destination.clone(),
                    source: source.clone(),
                    routing_key: key.into(),
                    ..Default::default()
                },
            );
        }
        let queue = case.bound(&mut client, channel, kind, &last, "k");
        client.publish(channel, &front, "k", &Properties::persistent(), b"");
        client.confirmed(channel);
        assert_eq!(counts(&mut client, channel, &queue).0, 1, "{kind}");

        let lonely = case.declared_exchange(&mut client, channel, &format!("{kind}.lonely"), kind);
        let queue = case.bound(&mut client, channel, &format!("{kind}.unbound"), &lonely, "5");
        client.call(channel, &unbind(&queue, &lonely, "5"));
        client.publish(channel, &lonely, "k", &Properties::persistent(), b"");
        client.confirmed(channel);
        assert_eq!(counts(&mut client, channel, &queue).0, 0, "{kind}");
    }
    client.close();
}

#[test]
fn further_keys_do_not_make_further_copies() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    client.confirm(channel);
    for kind in ["x-consistent-hash", "x-modulus-hash", "x-random"] {
        if is_plugin(kind) {
            continue;
        }
        let name = case.declared_exchange(&mut client, channel, kind, kind);
        let queues: Vec<String> = (0..3)
            .map(|number| case.bound(&mut client, channel, &format!("{kind}.{number}"), &name, "1"))
            .collect();
        let copies = Value::Array(vec!["b".into(), "c".into(), "d".into()]);
        client.publish(channel, &name, "a", &headers(Table::from([("CC", copies)])), b"");
        client.confirmed(channel);
        let ready = queues.iter().map(|queue| counts(&mut client, channel, queue).0);
        assert_eq!(ready.sum::<u32>(), 1, "{kind}");
    }
    client.close();
}
