//! Consumers whose node dies, and consumers whose queue's leader does.

use std::time::{Duration, Instant};

use warren_tests::client::{Delivery, Event, Session, Tags};
use warren_tests::cluster::{Cluster, NODES, PATIENCE, await_some, name};

use crate::history::{History, Sending, check};
use crate::load::{body, receipt};

const QUEUE: &str = "consumed";
const HELD: usize = 30;
/// In which what is due is delivered, also when a node has just died.
const SOON: Duration = Duration::from_secs(20);
/// In which nothing more arrives, after everything that was to arrive has.
const QUIET: Duration = Duration::from_millis(300);

fn open(cluster: &Cluster, node: usize) -> Session {
    Session::open(&cluster.address(node), PATIENCE)
        .unwrap_or_else(|end| panic!("{} takes no client: {end}", name(node)))
}

/// Publishes and has all confirmed, however often the leader moves.
fn publish(session: &mut Session, numbers: std::ops::Range<u64>) {
    let mut last = 0;
    for number in numbers {
        last = session
            .publish(QUEUE, &body(QUEUE, (0, number)))
            .expect("the publisher's node lives");
    }
    let mut confirmed = 0;
    let deadline = Instant::now() + PATIENCE;
    while confirmed < last {
        let left = deadline.saturating_duration_since(Instant::now());
        match session.next(left).expect("the publisher's node lives") {
            // In order, as one publisher's are to one queue.
            Some(Event::Confirmed(tags)) => confirmed = tags.tag,
            other => panic!("instead of a confirm: {other:?}"),
        }
    }
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
    let mut publisher = open(&cluster, other);
    publisher.confirm(PATIENCE).expect("a channel takes confirm.select");
    let (held, count) = (HELD as u64, 2 * HELD as u64);
    publish(&mut publisher, 0..count);

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
    let mut publisher = open(&cluster, other);
    publisher.confirm(PATIENCE).expect("a channel takes confirm.select");
    let mut consumer = open(&cluster, at);
    consumer
        .consume(QUEUE, 100, PATIENCE)
        .expect("a whole cluster serves consumers");
    let held = HELD as u64;
    let mut receipts = Vec::new();

    publish(&mut publisher, 0..held);
    let before = deliveries(&mut consumer, HELD);
    let gone = Instant::now();
    take(&mut cluster, leader);
    // Confirmed through the change, delivered after it, and what was held before can still be acknowledged.
    publish(&mut publisher, held..2 * held);
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
    publish(&mut publisher, 2 * held..3 * held);
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
