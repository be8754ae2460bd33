//! Consumers whose node dies, and consumers whose queue's leader does.

use std::time::{Duration, Instant};

use warren_tests::amqp::method::QueueDeclare;
use warren_tests::amqp::wire::{Table, Value};
use warren_tests::client::{Delivery, Event, Session, Tags};
use warren_tests::cluster::{Cluster, NODES, PATIENCE, await_some, name};

use crate::history::{History, Sending, check};
use crate::load::{body, open, publish, publisher, receipt};

const QUEUE: &str = "consumed";
const HELD: usize = 30;
/// In which what is due is delivered, also when a node has just died.
const SOON: Duration = Duration::from_secs(20);
/// In which nothing more arrives, after everything that was to arrive has.
const QUIET: Duration = Duration::from_millis(300);

fn publish_these(session: &mut Session, numbers: std::ops::Range<u64>) {
    publish(session, QUEUE, numbers.map(|number| body(QUEUE, (0, number))));
}

#[track_caller]
fn deliveries(session: &mut Session, count: usize) -> Vec<Delivery> {
    let deadline = Instant::now() + SOON;
    let mut found = Vec::new();
    while found.len() < count {
        let left = deadline.saturating_duration_since(Instant::now());
        match session.next(left).expect("the consumer's node lives") {
            Some(Event::Delivered(delivery)) => found.push(delivery),
            Some(other) => panic!("to a consumer: {other:?}"),
            None => panic!("{} of {count} deliveries within {SOON:?}", found.len()),
        }
    }
    found
}

#[track_caller]
fn await_empty(cluster: &Cluster, node: usize) {
    await_some("the queue is empty", PATIENCE, || {
        let row = cluster.queue(node, QUEUE)?;
        if row["state"] == "running" && row["messages"] == 0 {
            Ok(())
        } else {
            Err(row.to_string())
        }
    });
}

fn numbers(deliveries: &[Delivery]) -> Vec<u64> {
    deliveries
        .iter()
        .map(|delivery| receipt(QUEUE, delivery).key.1)
        .collect()
}

/// `at(leader)` is the consumer's node, which is killed.
fn consumer_dies(what: &str, kind: &str, at: impl Fn(usize) -> usize) {
    let mut cluster = Cluster::start();
    open(&cluster, 0)
        .declare(QUEUE, kind, PATIENCE)
        .expect("a whole cluster declares");
    let leader = cluster.leader(0, QUEUE);
    let node = at(leader);
    let other = (0..NODES)
        .find(|other| *other != node && *other != leader)
        .expect("three nodes");
    let mut publisher = publisher(&cluster, other);
    let (held, count) = (HELD as u64, 2 * HELD as u64);
    publish_these(&mut publisher, 0..count);

    let mut dying = open(&cluster, node);
    dying
        .consume(QUEUE, HELD as u16, PATIENCE)
        .expect("a whole cluster serves consumers");
    let first = deliveries(&mut dying, HELD);
    assert_eq!(numbers(&first), Vec::from_iter(0..held));
    assert!(
        first.iter().all(|delivery| !delivery.redelivered),
        "{what}: a first delivery is flagged"
    );

    let mut living = open(&cluster, other);
    living
        .consume(QUEUE, 0, PATIENCE)
        .expect("a whole cluster serves consumers");
    let fresh = deliveries(&mut living, HELD);
    assert_eq!(numbers(&fresh), Vec::from_iter(held..count));
    let killed = Instant::now();
    cluster.kill(node);
    let returned = deliveries(&mut living, HELD);
    let took = killed.elapsed();
    assert_eq!(
        numbers(&returned),
        Vec::from_iter(0..held),
        "{what}: not what the dead consumer held"
    );
    assert!(
        returned.iter().all(|delivery| delivery.redelivered),
        "{what}: redelivered without the flag"
    );
    let tags = Tags {
        tag: returned[HELD - 1].tag,
        multiple: true,
    };
    living.ack(tags).expect("the consumer's node lives");
    await_empty(&cluster, other);
    let more = living.next(QUIET).expect("the consumer's node lives");
    assert_eq!(more, None, "{what}: delivered once too often");
    println!(
        "{what}: {HELD} unacked messages of a dead consumer were back after {:.2} s",
        took.as_secs_f32()
    );
    drop((publisher, living));
    cluster.start_node(node);
    cluster.await_whole();
    cluster.finish();
}

#[test]
fn what_a_dead_consumer_held_reaches_another_one() {
    consumer_dies("consumer at a follower", "classic", |leader| (leader + 1) % NODES);
}

#[test]
fn what_a_consumer_at_the_dead_leader_held_reaches_another_one() {
    consumer_dies("consumer at the leader", "quorum", |leader| leader);
}

/// What is done to the leader, and undone.
fn leader_changes(what: &str, kind: &str, take: impl Fn(&mut Cluster, usize), back: impl Fn(&mut Cluster, usize)) {
    let mut cluster = Cluster::start();
    open(&cluster, 0)
        .declare(QUEUE, kind, PATIENCE)
        .expect("a whole cluster declares");
    let leader = cluster.leader(0, QUEUE);
    let (at, other) = ((leader + 1) % NODES, (leader + 2) % NODES);
    let mut publisher = publisher(&cluster, other);
    let mut consumer = open(&cluster, at);
    consumer
        .consume(QUEUE, 100, PATIENCE)
        .expect("a whole cluster serves consumers");
    let held = HELD as u64;
    let mut receipts = Vec::new();

    publish_these(&mut publisher, 0..held);
    let before = deliveries(&mut consumer, HELD);
    let gone = Instant::now();
    take(&mut cluster, leader);
    // Confirmed through the change, delivered after it, and what was held before can still be acknowledged.
    publish_these(&mut publisher, held..2 * held);
    let confirmed = gone.elapsed();
    let after = deliveries(&mut consumer, HELD);
    let delivered = gone.elapsed();
    for delivery in &before {
        let tags = Tags {
            tag: delivery.tag,
            multiple: false,
        };
        consumer.ack(tags).expect("the consumer's node lives");
    }
    let tags = Tags {
        tag: after[HELD - 1].tag,
        multiple: true,
    };
    consumer.ack(tags).expect("the consumer's node lives");
    await_empty(&cluster, at);
    back(&mut cluster, leader);
    cluster.await_whole();
    publish_these(&mut publisher, 2 * held..3 * held);
    let last = deliveries(&mut consumer, HELD);
    let tags = Tags {
        tag: last[HELD - 1].tag,
        multiple: true,
    };
    consumer.ack(tags).expect("the consumer's node lives");
    await_empty(&cluster, at);
    assert_eq!(
        consumer.next(QUIET).expect("the consumer's node lives"),
        None,
        "{what}: the consumer noticed"
    );
    let consumers = cluster.queue(at, QUEUE).map(|row| row["consumers"].clone());
    assert_eq!(consumers, Ok(1.into()), "{what}: consumers at the end");

    receipts.extend(
        before
            .iter()
            .chain(&after)
            .chain(&last)
            .map(|delivery| receipt(QUEUE, delivery)),
    );
    let sendings = (0..3 * held)
        .map(|message| Sending {
            message,
            channel: 0,
            confirmed: true,
        })
        .collect();
    let history = History {
        sendings: [(0, sendings)].into(),
        receipts: vec![receipts],
    };
    let summary = check(&history).unwrap_or_else(|violations| panic!("{what}: {violations:?}"));
    assert_eq!(
        (summary.deliveries, summary.redelivered),
        (3 * HELD, 0),
        "{what}: delivered again"
    );
    println!(
        "{what}: {} led; confirms again after {:.2} s, deliveries after {:.2} s; {summary}",
        name(leader),
        confirmed.as_secs_f32(),
        delivered.as_secs_f32()
    );
    drop((publisher, consumer));
    cluster.finish();
}

#[test]
fn a_consumer_does_not_notice_that_the_leader_was_killed() {
    leader_changes("leader killed", "classic", Cluster::kill, Cluster::start_node);
}

#[test]
fn a_consumer_does_not_notice_that_the_leader_stood_still() {
    leader_changes("leader frozen", "quorum", Cluster::freeze, Cluster::thaw);
}

/// A node that stands still is given up for dead after a minute; a queue may wait for less.
#[test]
fn what_a_silent_consumer_held_reaches_another_one_after_the_queues_patience() {
    let mut cluster = Cluster::start();
    let declare = QueueDeclare {
        queue: QUEUE.into(),
        durable: true,
        arguments: Table::from([
            ("x-queue-type", Value::from("quorum")),
            ("x-consumer-disconnected-timeout", 1_000.into()),
            // A failed delivery would be the last.
            ("x-delivery-limit", 0.into()),
        ]),
        ..Default::default()
    };
    open(&cluster, 0)
        .call(&declare, PATIENCE)
        .expect("a whole cluster declares");
    let leader = cluster.leader(0, QUEUE);
    let (node, other) = ((leader + 1) % NODES, (leader + 2) % NODES);
    let mut publisher = publisher(&cluster, other);
    let held = HELD as u64;
    publish_these(&mut publisher, 0..held);
    let mut silent = open(&cluster, node);
    silent
        .consume(QUEUE, HELD as u16, PATIENCE)
        .expect("a whole cluster serves consumers");
    let first = deliveries(&mut silent, HELD);
    assert_eq!(numbers(&first), Vec::from_iter(0..held));
    let mut living = open(&cluster, other);
    living
        .consume(QUEUE, 0, PATIENCE)
        .expect("a whole cluster serves consumers");
    let began = Instant::now();
    cluster.freeze(node);
    let returned = deliveries(&mut living, HELD);
    let took = began.elapsed();
    assert_eq!(numbers(&returned), Vec::from_iter(0..held));
    assert!(returned.iter().all(|delivery| delivery.redelivered));
    assert!(took >= Duration::from_secs(1), "it waits for a second: {took:?}");
    cluster.thaw(node);
    // The consumer is told, its connection goes on, and what it settles now is settled no more.
    match silent.next(SOON).expect("its connection goes on") {
        Some(Event::Cancelled(_)) => {}
        other => panic!("instead of the consumer's end: {other:?}"),
    }
    let all = |deliveries: &[Delivery]| Tags {
        tag: deliveries[HELD - 1].tag,
        multiple: true,
    };
    silent.ack(all(&first)).expect("its connection goes on");
    silent
        .declare("another", "quorum", PATIENCE)
        .expect("its connection goes on");
    let row = cluster.queue(other, QUEUE).expect("a whole cluster lists");
    assert_eq!(row["messages"], held, "{row}");
    living.ack(all(&returned)).expect("the consumer's node lives");
    await_empty(&cluster, other);
    println!(
        "a second and {:.2} s until a silent node's messages were back",
        took.as_secs_f32() - 1.0
    );
    drop((publisher, silent, living));
    cluster.finish();
}
