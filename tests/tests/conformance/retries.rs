//! Messages of quorum queues that come back and rest for a while: `x-delayed-retry-type`, `-min` and `-max`.

use std::time::{Duration, Instant};

use warren_tests::amqp::method::*;
use warren_tests::amqp::wire::{Properties, Table, Value};
use warren_tests::amqp::{Client, Delivery};

use crate::case::{Case, ack, counts, differs, drain, fill, since, until_ready, with};

/// How a message comes back.
#[derive(Clone, Copy, Debug, PartialEq)]
enum Back {
    Nack,
    Reject,
}

impl Back {
    fn send(self, client: &mut Client, channel: u16, delivery: &Delivery) {
        let (delivery_tag, requeue) = (delivery.tag, true);
        match self {
            Self::Nack => client.send(
                channel,
                &BasicNack {
                    delivery_tag,
                    requeue,
                    ..Default::default()
                },
            ),
            Self::Reject => client.send(channel, &BasicReject { delivery_tag, requeue }),
        }
    }
}

fn retrying(kind: &str, min_ms: i32, max_ms: i32) -> Table {
    Table::from([
        ("x-delayed-retry-type", Value::from(kind)),
        ("x-delayed-retry-min", min_ms.into()),
        ("x-delayed-retry-max", max_ms.into()),
    ])
}

/// The next message, and how long it let itself be waited for.
#[track_caller]
fn next(client: &mut Client, channel: u16, queue: &str) -> (Delivery, Duration) {
    let began = Instant::now();
    let delivery = client.until("a message", |client| {
        client.get(channel, queue, false).map(|(delivery, _)| delivery)
    });
    (delivery, since(began))
}

#[test]
fn what_comes_back_rests_longer_each_time_up_to_a_limit() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    // All that counts as a failure rests by the number of failures, all else as after the first one.
    for (kind, back, rests) in [
        ("all", Back::Reject, [300, 600, 700]),
        ("all", Back::Nack, [300, 300, 300]),
        ("failed", Back::Reject, [300, 600, 700]),
        ("failed", Back::Nack, [0, 0, 0]),
        ("returned", Back::Reject, [0, 0, 0]),
        ("returned", Back::Nack, [300, 300, 300]),
        ("disabled", Back::Reject, [0, 0, 0]),
    ] {
        let queue = case.queue(&format!("{kind}.{back:?}"));
        client.call(channel, &with(&queue, "quorum", retrying(kind, 300, 700)));
        fill(&mut client, &queue, &["m"]);
        let (mut delivery, _) = next(&mut client, channel, &queue);
        for (number, rest_ms) in rests.into_iter().enumerate() {
            let began = Instant::now();
            back.send(&mut client, channel, &delivery);
            (delivery, _) = next(&mut client, channel, &queue);
            let rested = since(began);
            assert!(
                rested >= Duration::from_millis(rest_ms),
                "{kind} {back:?} {number}: {rested:?}"
            );
            if rest_ms == 0 {
                assert!(
                    rested < Duration::from_millis(250),
                    "{kind} {back:?} {number}: {rested:?}"
                );
            }
            assert!(delivery.redelivered);
        }
        client.send(channel, &ack(delivery.tag));
    }
    client.close();
}

#[test]
fn it_returns_to_its_place_and_counts_towards_the_limit() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.queue("limited");
    let mut arguments = retrying("all", 150, 150);
    arguments.0.push(("x-delivery-limit".to_owned(), Value::I32(1)));
    client.call(channel, &with(&queue, "quorum", arguments));
    fill(&mut client, &queue, &["1", "2", "3"]);
    let (first, _) = next(&mut client, channel, &queue);
    Back::Reject.send(&mut client, channel, &first);
    let (second, _) = next(&mut client, channel, &queue);
    assert_eq!(second.text(), "2", "the first one rests");
    Back::Nack.send(&mut client, channel, &second);
    until_ready(&mut client, channel, &queue, 3);
    let (first, _) = next(&mut client, channel, &queue);
    assert_eq!(first.text(), "1");
    Back::Reject.send(&mut client, channel, &first);
    assert_eq!(drain(&mut client, channel, &queue), ["2", "3"], "it failed too often");
    client.pump(Duration::from_millis(300));
    assert_eq!(counts(&mut client, channel, &queue).0, 0);
    client.close();
}

#[test]
fn what_rests_is_not_ready_and_goes_with_a_purge() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.queue("purged");
    client.call(channel, &with(&queue, "quorum", retrying("all", 600_000, 600_000)));
    fill(&mut client, &queue, &["1", "2"]);
    let (first, _) = next(&mut client, channel, &queue);
    Back::Reject.send(&mut client, channel, &first);
    until_ready(&mut client, channel, &queue, 1);
    let purge = QueuePurge {
        queue: queue.clone(),
        ..Default::default()
    };
    assert_eq!(client.call(channel, &purge).messages, 2);
    client.close();
}

#[test]
fn what_a_lost_connection_held_rests_too() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.queue("lost");
    client.call(channel, &with(&queue, "quorum", retrying("failed", 400, 400)));
    fill(&mut client, &queue, &["m"]);
    let mut other = Client::connect(0);
    let second = other.channel();
    let (held, _) = next(&mut other, second, &queue);
    assert_eq!(held.text(), "m");
    let began = Instant::now();
    other.close();
    let (again, _) = next(&mut client, channel, &queue);
    let rested = since(began);
    assert!(rested >= Duration::from_millis(400), "{rested:?}");
    assert!(again.redelivered);
    client.send(channel, &ack(again.tag));
    client.close();
}

#[test]
fn a_message_that_expires_does_not_rest_longer() {
    if differs("expiry-at-rest") {
        return;
    }
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let target = case.declared(&mut client, channel, "target");
    let queue = case.queue("expiring");
    let mut arguments = retrying("all", 600_000, 600_000);
    arguments.0.extend([
        ("x-dead-letter-exchange".to_owned(), Value::from("")),
        ("x-dead-letter-routing-key".to_owned(), Value::from(target.as_str())),
    ]);
    client.call(channel, &with(&queue, "quorum", arguments));
    client.confirm(channel);
    let properties = Properties {
        expiration: Some("500".into()),
        ..Properties::persistent()
    };
    client.publish(channel, "", &queue, &properties, b"m");
    client.confirmed(channel);
    let (held, _) = next(&mut client, channel, &queue);
    Back::Reject.send(&mut client, channel, &held);
    until_ready(&mut client, channel, &target, 1);
    client.close();
}
