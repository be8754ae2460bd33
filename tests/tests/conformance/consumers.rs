//! Consumers: their names, their turns, their limits and their end.

use std::collections::BTreeMap;
use std::time::Duration;

use warren_tests::amqp::method::*;
use warren_tests::amqp::wire::{Properties, Table, Value};
use warren_tests::amqp::{Client, Login};

use crate::case::{
    Case, ack, consume, counts, delete, differs, drain, durable, fill, in_queue, prefetch, quorum, until_ready, with,
};

/// In which nothing more arrives, after everything that was to arrive has.
const QUIET: Duration = Duration::from_millis(200);

fn cancel(tag: &str) -> BasicCancel {
    BasicCancel {
        consumer_tag: tag.into(),
        nowait: false,
    }
}

fn numbered(count: usize) -> Vec<String> {
    (1..=count).map(|number| number.to_string()).collect()
}

fn fill_numbered(client: &mut Client, queue: &str, count: usize) {
    let bodies = numbered(count);
    fill(client, queue, &bodies.iter().map(String::as_str).collect::<Vec<_>>());
}

#[test]
fn consume_ok_comes_before_the_first_delivery_and_messages_in_order() {
    let case = Case::new();
    let (mut publisher, mut consumer) = (Client::connect(0), Client::connect(1));
    let declaring = publisher.channel();
    let queue = case.declared(&mut publisher, declaring, "ordered");
    fill_numbered(&mut publisher, &queue, 50);
    let channel = consumer.channel();
    consumer.send(channel, &consume(&queue, "mine"));
    assert_eq!(consumer.expect::<BasicConsumeOk>(channel).consumer_tag, "mine");
    for number in 1..=50 {
        let delivery = consumer.delivery(channel);
        assert_eq!((delivery.tag, delivery.text()), (number, number.to_string()));
        assert_eq!((delivery.consumer_tag.as_str(), delivery.redelivered), ("mine", false));
    }
    consumer.send(
        channel,
        &BasicAck {
            delivery_tag: 0,
            multiple: true,
        },
    );
    consumer.close();
    until_ready(&mut publisher, declaring, &queue, 0);
    publisher.close();
}

#[test]
fn a_consumer_without_a_name_gets_one() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.declared(&mut client, channel, "queue");
    let first = client.call(channel, &consume(&queue, "")).consumer_tag;
    let second = client.call(channel, &consume(&queue, "")).consumer_tag;
    assert!(
        first.starts_with("amq.ctag-") && second.starts_with("amq.ctag-"),
        "{first} {second}"
    );
    assert_ne!(first, second);
    client.close();
}

#[test]
fn a_consumer_tag_is_used_once_per_channel() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let (channel, other) = (client.channel(), client.channel());
    let queue = case.declared(&mut client, channel, "queue");
    client.call(channel, &consume(&queue, "tag"));
    client.call(other, &consume(&queue, "tag"));
    client.call(channel, &cancel("tag"));
    client.call(channel, &consume(&queue, "tag"));
    client
        .refused(channel, &consume(&queue, "tag"))
        .connection_error::<BasicConsume>(530, "NOT_ALLOWED - attempt to reuse consumer tag 'tag'");
}

#[test]
fn consumers_take_turns() {
    let case = Case::new();
    let (mut first, mut second) = (Client::connect(0), Client::connect(1));
    let (one, two) = (first.channel(), second.channel());
    let queue = case.declared(&mut first, one, "turns");
    first.call(one, &prefetch(10));
    second.call(two, &prefetch(10));
    first.call(one, &consume(&queue, ""));
    second.call(two, &consume(&queue, ""));
    first.until("both consumers", |client| {
        (counts(client, one, &queue).1 == 2).then_some(())
    });
    fill_numbered(&mut first, &queue, 10);
    let firsts: Vec<String> = (0..5).map(|_| first.delivery(one).text()).collect();
    let seconds: Vec<String> = (0..5).map(|_| second.delivery(two).text()).collect();
    let (odd, even): (Vec<String>, Vec<String>) = numbered(10)
        .into_iter()
        .partition(|number| number.ends_with(['1', '3', '5', '7', '9']));
    assert!(
        (&firsts, &seconds) == (&odd, &even) || (&firsts, &seconds) == (&even, &odd),
        "{firsts:?} {seconds:?}"
    );
    first.close();
    second.close();
}

#[test]
fn prefetch_bounds_what_is_unacknowledged() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let (channel, counting) = (client.channel(), client.channel());
    let queue = case.declared(&mut client, channel, "bounded");
    fill_numbered(&mut client, &queue, 10);
    client.call(channel, &prefetch(3));
    client.call(channel, &consume(&queue, ""));
    for number in 1..=3 {
        assert_eq!(client.delivery(channel).tag, number);
    }
    // What is ready has not been sent.
    assert_eq!(counts(&mut client, counting, &queue).0, 7);
    assert!(client.pending(channel).is_empty());
    client.send(channel, &ack(2));
    assert_eq!(client.delivery(channel).tag, 4);
    client.send(
        channel,
        &BasicAck {
            delivery_tag: 4,
            multiple: true,
        },
    );
    for number in 5..=7 {
        assert_eq!(client.delivery(channel).tag, number);
    }
    until_ready(&mut client, counting, &queue, 3);
    // Requeued messages free their place, too.
    client.send(
        channel,
        &BasicNack {
            delivery_tag: 7,
            multiple: true,
            requeue: false,
        },
    );
    for number in 8..=10 {
        assert_eq!(client.delivery(channel).tag, number);
    }
    // basic.get is not bounded by it.
    fill(&mut client, &queue, &["more"]);
    assert_eq!(
        client.get(channel, &queue, false).expect("one is ready").0.text(),
        "more"
    );
    client.close();
}

#[test]
fn prefetch_is_each_consumers_own_and_fixed_when_it_starts() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let (channel, counting) = (client.channel(), client.channel());
    let (first, second, third) = (
        case.declared(&mut client, channel, "first"),
        case.declared(&mut client, channel, "second"),
        case.declared(&mut client, channel, "third"),
    );
    for queue in [&first, &second, &third] {
        fill_numbered(&mut client, queue, 5);
    }
    client.call(channel, &prefetch(2));
    client.call(channel, &consume(&first, "first"));
    client.call(channel, &prefetch(1));
    client.call(channel, &consume(&second, "second"));
    client.call(channel, &prefetch(0));
    client.call(channel, &consume(&third, "third"));
    let mut seen = BTreeMap::new();
    for _ in 0..8 {
        *seen.entry(client.delivery(channel).consumer_tag).or_insert(0) += 1;
    }
    assert_eq!(
        seen,
        BTreeMap::from([("first".into(), 2), ("second".into(), 1), ("third".into(), 5)])
    );
    let ready = [&first, &second, &third].map(|queue| counts(&mut client, counting, queue).0);
    assert_eq!(ready, [3, 4, 0]);
    assert!(client.pending(channel).is_empty());
    client.close();
}

#[test]
fn a_consumer_without_acknowledgements_is_not_bounded() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.declared(&mut client, channel, "no-ack");
    fill_numbered(&mut client, &queue, 20);
    client.call(channel, &prefetch(1));
    client.call(
        channel,
        &BasicConsume {
            no_ack: true,
            ..consume(&queue, "")
        },
    );
    for number in 1..=20 {
        assert_eq!(client.delivery(channel).tag, number);
    }
    client.send(channel, &ack(1));
    client
        .closed(channel)
        .channel_error::<BasicAck>(406, "PRECONDITION_FAILED - unknown delivery tag 1");
    let channel = client.channel();
    assert_eq!(counts(&mut client, channel, &queue), (0, 0));
    client.close();
}

#[test]
fn cancel_ends_deliveries_and_keeps_what_is_unacknowledged() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.declared(&mut client, channel, "cancelled");
    fill_numbered(&mut client, &queue, 3);
    client.call(channel, &prefetch(2));
    client.call(channel, &consume(&queue, "mine"));
    client.delivery(channel);
    client.delivery(channel);
    assert_eq!(client.call(channel, &cancel("mine")).consumer_tag, "mine");
    assert_eq!(
        client.call(channel, &cancel("mine")).consumer_tag,
        "mine",
        "an unknown tag is cancelled already"
    );
    assert_eq!(counts(&mut client, channel, &queue), (1, 0));
    fill(&mut client, &queue, &["4"]);
    client.send(channel, &ack(1));
    assert_eq!(
        counts(&mut client, channel, &queue),
        (2, 0),
        "the acknowledged one is gone, the other still held"
    );
    client.call(
        channel,
        &ChannelClose {
            code: 200,
            ..Default::default()
        },
    );
    let channel = client.channel();
    until_ready(&mut client, channel, &queue, 3);
    assert_eq!(drain(&mut client, channel, &queue), ["2", "3", "4"]);
    client.close();
}

#[test]
fn an_exclusive_consumer_is_the_only_one() {
    let case = Case::new();
    let (mut client, mut other) = (Client::connect(0), Client::connect(1));
    let channel = client.channel();
    for quorum_type in if differs("exclusive-consumer") {
        vec![false]
    } else {
        vec![false, true]
    } {
        let queue = case.queue(if quorum_type { "quorum" } else { "classic" });
        client.call(channel, &if quorum_type { quorum(&queue) } else { durable(&queue) });
        let only = |tag: &str| BasicConsume {
            exclusive: true,
            ..consume(&queue, tag)
        };
        let text = format!("ACCESS_REFUSED - {} in exclusive use", in_queue(&queue));
        client.call(channel, &only("only"));
        for attempt in [consume(&queue, ""), only("")] {
            let channel = other.channel();
            other
                .refused(channel, &attempt)
                .channel_error::<BasicConsume>(403, &text);
        }
        client.call(channel, &cancel("only"));
        let ordinary = other.channel();
        other.call(ordinary, &consume(&queue, "ordinary"));
        let refused = client.channel();
        client
            .refused(refused, &only("late"))
            .channel_error::<BasicConsume>(403, &text);
        other.call(ordinary, &cancel("ordinary"));
        client.call(channel, &only("again"));
        client.call(channel, &cancel("again"));
    }
    client.close();
    other.close();
}

#[test]
fn deleting_a_queue_cancels_its_consumers() {
    let case = Case::new();
    let (mut client, mut other) = (Client::connect(0), Client::connect(1));
    let (channel, deleting) = (client.channel(), other.channel());
    let queue = case.declared(&mut client, channel, "deleted");
    client.call(channel, &consume(&queue, "mine"));
    other.call(deleting, &delete(&queue));
    let cancelled = client.expect::<BasicCancel>(channel);
    assert_eq!(
        cancelled,
        BasicCancel {
            consumer_tag: "mine".into(),
            nowait: true
        }
    );
    // An answer is taken, though none is asked for.
    if !differs("cancel-ok-from-client") {
        client.send(
            channel,
            &BasicCancelOk {
                consumer_tag: "mine".into(),
            },
        );
    }
    let queue = case.declared(&mut client, channel, "next");
    client.call(channel, &consume(&queue, "mine"));
    client.close();

    // A client that does not know of it is spared.
    let mut old = Login {
        properties: Table::default(),
        ..Login::default()
    }
    .connect();
    let channel = old.channel();
    let queue = case.declared(&mut old, channel, "unannounced");
    old.call(channel, &consume(&queue, "mine"));
    other.call(deleting, &delete(&queue));
    old.until("the queue to go", |old| {
        let probe = old.channel();
        old.try_call(probe, &crate::case::passive(&queue))
            .is_err()
            .then_some(())
    });
    old.pump(Duration::from_millis(10));
    assert!(old.pending(channel).is_empty());
    old.close();
    other.close();
}

#[test]
fn no_local_is_accepted_and_without_effect() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.declared(&mut client, channel, "local");
    client.call(
        channel,
        &BasicConsume {
            no_local: true,
            ..consume(&queue, "")
        },
    );
    client.publish(channel, "", &queue, &Properties::default(), b"to myself");
    assert_eq!(client.delivery(channel).text(), "to myself");
    client.close();
}

#[test]
fn messages_go_to_who_has_room_for_them() {
    let case = Case::new();
    let (mut idle, mut busy) = (Client::connect(0), Client::connect(1));
    let (free, full) = (idle.channel(), busy.channel());
    let queue = case.declared(&mut idle, free, "fair");
    busy.call(full, &prefetch(1));
    busy.call(full, &consume(&queue, ""));
    fill(&mut idle, &queue, &["held"]);
    busy.delivery(full);
    idle.call(free, &prefetch(1));
    idle.call(free, &consume(&queue, ""));
    let publishing = idle.channel();
    idle.confirm(publishing);
    for number in 1..=10 {
        idle.publish(
            publishing,
            "",
            &queue,
            &Properties::persistent(),
            number.to_string().as_bytes(),
        );
        let delivery = idle.delivery(free);
        assert_eq!(delivery.text(), number.to_string());
        idle.send(free, &ack(delivery.tag));
    }
    assert!(busy.pending(full).is_empty());
    idle.close();
    busy.close();
}

#[test]
fn a_consumer_of_higher_priority_comes_first() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let (low, high) = (client.channel(), client.channel());
    let queue = case.declared(&mut client, low, "priorities");
    let with = |tag: &str, priority: i32| BasicConsume {
        arguments: Table::from([("x-priority", Value::I32(priority))]),
        ..consume(&queue, tag)
    };
    for channel in [low, high] {
        client.call(channel, &prefetch(2));
    }
    client.call(low, &with("low", -1));
    client.call(high, &with("high", 5));
    fill_numbered(&mut client, &queue, 4);
    assert_eq!([client.delivery(high).text(), client.delivery(high).text()], ["1", "2"]);
    assert_eq!([client.delivery(low).text(), client.delivery(low).text()], ["3", "4"]);
    client.close();
}

#[test]
fn a_lost_connection_hands_its_messages_to_the_others() {
    let case = Case::new();
    let (mut lost, mut other) = (Client::connect(0), Client::connect(1));
    let (first, second) = (lost.channel(), other.channel());
    let queue = case.declared(&mut lost, first, "lost");
    lost.call(first, &consume(&queue, ""));
    fill_numbered(&mut other, &queue, 3);
    for _ in 0..3 {
        lost.delivery(first);
    }
    other.call(second, &consume(&queue, ""));
    lost.send(first, &ack(2));
    // Wait until the acknowledgement has been taken, then vanish.
    lost.call(first, &prefetch(1));
    lost.socket.abandon();
    for text in ["1", "3"] {
        let delivery = other.delivery(second);
        assert_eq!((delivery.text().as_str(), delivery.redelivered), (text, true));
    }
    other.close();
}

#[test]
fn a_global_prefetch_bounds_all_consumers_of_the_channel_together() {
    let case = Case::new();
    let (mut client, mut other) = (Client::connect(1), Client::connect(0));
    let setup = other.channel();
    let kinds: &[&str] = if differs("global-prefetch") {
        &["classic"]
    } else {
        &["classic", "quorum"]
    };
    for kind in kinds {
        let channel = client.channel();
        let queues = ["one", "two"].map(|label| case.queue(&format!("{kind}.{label}")));
        for queue in &queues {
            other.call(setup, &with(queue, kind, Table::default()));
            fill(&mut other, queue, &["1", "2", "3", "4"]);
        }
        let global = |prefetch_count| BasicQos {
            global: true,
            ..prefetch(prefetch_count)
        };
        client.call(channel, &global(3));
        for queue in &queues {
            client.call(channel, &consume(queue, queue));
        }
        let mut tags: Vec<u64> = (0..3).map(|_| client.delivery(channel).tag).collect();
        client.pump(QUIET);
        assert!(
            client.pending(channel).is_empty(),
            "{kind}: more than the channel may hold"
        );
        // What is got does not count.
        let third = case.queue(&format!("{kind}.three"));
        other.call(setup, &with(&third, kind, Table::default()));
        fill(&mut other, &third, &["got"]);
        let (got, _) = client.get(channel, &third, false).expect("a message");
        assert_eq!(got.text(), "got");
        // Room for as many as are settled, and for more when the limit is raised.
        client.send(channel, &ack(tags.remove(0)));
        tags.push(client.delivery(channel).tag);
        client.call(channel, &global(4));
        tags.push(client.delivery(channel).tag);
        client.pump(QUIET);
        assert!(
            client.pending(channel).is_empty(),
            "{kind}: more than the channel may hold"
        );
        assert_eq!(tags.len(), 4);
        let close = ChannelClose {
            code: 200,
            ..Default::default()
        };
        client.call(channel, &close);
        other.until("all are back", |other| {
            let ready = queues.iter().map(|queue| counts(other, setup, queue).0).sum::<u32>();
            (ready == 7).then_some(())
        });
    }
    client.close();
    other.close();
}

#[test]
fn what_waits_for_room_in_a_channel_goes_to_others_when_its_consumer_ends() {
    let case = Case::new();
    let (mut client, mut other) = (Client::connect(1), Client::connect(0));
    let (channel, setup) = (client.channel(), other.channel());
    let queues = ["one", "two"].map(|label| case.declared(&mut other, setup, label));
    let global = BasicQos {
        global: true,
        ..prefetch(1)
    };
    client.call(channel, &global);
    fill(&mut other, &queues[0], &["held"]);
    client.call(channel, &consume(&queues[0], "one"));
    let held = client.delivery(channel);
    client.call(channel, &consume(&queues[1], "two"));
    fill(&mut other, &queues[1], &["waits"]);
    client.call(
        channel,
        &BasicCancel {
            consumer_tag: "two".into(),
            ..Default::default()
        },
    );
    other.call(setup, &consume(&queues[1], "three"));
    assert_eq!(other.delivery(setup).text(), "waits");
    client.send(channel, &ack(held.tag));
    fill(&mut other, &queues[0], &["next"]);
    assert_eq!(client.delivery(channel).text(), "next");
    client.close();
    other.close();
}
