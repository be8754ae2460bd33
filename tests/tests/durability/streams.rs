//! Streams whose leader dies under a reader, whose nodes all die, and whose replicas missed most of it.

use std::ops::Range;
use std::time::{Duration, Instant};

use warren_tests::amqp::method::{BasicConsume, BasicQos, QueueDeclare};
use warren_tests::amqp::wire::{Table, Value};
use warren_tests::client::{Event, Session, Tags};
use warren_tests::cluster::{Cluster, NODES, PATIENCE, await_some, name};

use crate::load::{body, open, publish, publisher, receipt};

const QUEUE: &str = "stream";
/// In which nothing more arrives, after everything that was to arrive has.
const QUIET: Duration = Duration::from_millis(300);
/// Several snapshots' worth.
const MANY: u64 = 20_000;

fn declare(cluster: &Cluster, arguments: Table) {
    let mut all = Table::from([("x-queue-type", "stream")]);
    all.0.extend(arguments.0);
    let declare = QueueDeclare {
        queue: QUEUE.into(),
        durable: true,
        arguments: all,
        ..Default::default()
    };
    open(cluster, 0)
        .call(&declare, PATIENCE)
        .expect("a whole cluster declares");
}

/// So many at once as the broker takes without waiting for confirms.
fn publish_these(session: &mut Session, numbers: Range<u64>) {
    for first in numbers.clone().step_by(500) {
        let part = first..numbers.end.min(first + 500);
        publish(session, QUEUE, part.map(|number| body(QUEUE, (0, number))));
    }
}

fn reader(cluster: &Cluster, node: usize, prefetch: u16, offset: Value) -> Session {
    let mut session = open(cluster, node);
    let qos = BasicQos {
        prefetch_count: prefetch,
        ..Default::default()
    };
    session.call(&qos, PATIENCE).expect("a channel takes basic.qos");
    let consume = BasicConsume {
        queue: QUEUE.into(),
        arguments: Table::from([("x-stream-offset", offset)]),
        ..Default::default()
    };
    session
        .call(&consume, PATIENCE)
        .expect("a whole cluster serves readers");
    session
}

/// The next messages are these, each once and in order; all but the last few are acknowledged.
#[track_caller]
fn read(session: &mut Session, numbers: Range<u64>) {
    let deadline = Instant::now() + PATIENCE;
    for number in numbers.clone() {
        let left = deadline.saturating_duration_since(Instant::now());
        let tag = match session.next(left).expect("the reader's node lives") {
            Some(Event::Delivered(delivery)) => {
                let receipt = receipt(QUEUE, &delivery);
                assert_eq!((receipt.key, receipt.redelivered), ((0, number), false));
                delivery.tag
            }
            other => panic!("instead of message {number}: {other:?}"),
        };
        if number % 20 == 19 || number + 1 == numbers.end {
            session
                .ack(Tags { tag, multiple: true })
                .expect("the reader's node lives");
        }
    }
}

#[track_caller]
fn nothing_more(session: &mut Session) {
    let more = session.next(QUIET).expect("the reader's node lives");
    assert_eq!(more, None, "a message too much");
}

#[test]
fn a_reader_goes_on_where_it_was_when_the_leader_dies() {
    let mut cluster = Cluster::start();
    declare(&cluster, Table::default());
    let leader = cluster.leader(0, QUEUE);
    let others: Vec<usize> = (0..NODES).filter(|node| *node != leader).collect();
    let mut publisher = publisher(&cluster, others[0]);
    publish_these(&mut publisher, 0..2_000);
    let mut readers: Vec<Session> = others
        .iter()
        .map(|node| reader(&cluster, *node, 50, "first".into()))
        .collect();
    let mut at = 0;
    let mut end = 2_000;
    for round in 0..3 {
        for (reader, lead) in readers.iter_mut().zip(0..) {
            read(reader, at..at + 300 + 7 * lead);
        }
        let killed = Instant::now();
        cluster.kill(leader);
        publish_these(&mut publisher, end..end + 500);
        end += 500;
        for (reader, lead) in readers.iter_mut().zip(0..) {
            read(reader, at + 300 + 7 * lead..at + 600);
        }
        println!(
            "round {round}: {} killed, readers went on within {:.2} s",
            name(leader),
            killed.elapsed().as_secs_f32()
        );
        at += 600;
        cluster.start_node(leader);
        cluster.await_whole();
        let members = cluster.ctl_within(others[0], 30, &["transfer_leadership", QUEUE, &name(leader)]);
        members.expect("the leader may be chosen");
        await_some("it leads again", PATIENCE, || {
            let led = cluster.leader(others[0], QUEUE);
            if led == leader {
                Ok(())
            } else {
                Err(format!("{} leads", name(led)))
            }
        });
    }
    for reader in &mut readers {
        read(reader, at..end);
        nothing_more(reader);
    }
    cluster.finish();
}

#[test]
fn what_is_confirmed_is_read_after_all_nodes_died() {
    let mut cluster = Cluster::start();
    declare(&cluster, Table::default());
    let mut before = publisher(&cluster, 0);
    publish_these(&mut before, 0..MANY);
    cluster.kill_all(&[0, 1, 2]);
    for node in 0..NODES {
        cluster.spawn(node);
    }
    cluster.await_whole();
    let mut after = publisher(&cluster, 1);
    publish_these(&mut after, MANY..MANY + 100);
    for (node, start) in [(0, 0), (1, MANY / 2 + 3), (2, MANY + 50)] {
        let mut reader = reader(&cluster, node, 1_000, Value::I64(start as i64));
        read(&mut reader, start..MANY + 100);
        nothing_more(&mut reader);
    }
    cluster.finish();
}

#[test]
fn a_node_that_missed_most_of_a_stream_serves_all_of_it() {
    let mut cluster = Cluster::start();
    declare(&cluster, Table::default());
    let leader = cluster.leader(0, QUEUE);
    let late = (leader + 1) % NODES;
    let other = (leader + 2) % NODES;
    let mut publisher = publisher(&cluster, other);
    publish_these(&mut publisher, 0..1_000);
    cluster.kill(late);
    publish_these(&mut publisher, 1_000..MANY);
    cluster.start_node(late);
    cluster.await_whole();
    let moved = cluster.ctl_within(other, 30, &["transfer_leadership", QUEUE, &name(late)]);
    moved.expect("the leader may be chosen");
    await_some("it leads", PATIENCE, || {
        let led = cluster.leader(other, QUEUE);
        if led == late {
            Ok(())
        } else {
            Err(format!("{} leads", name(led)))
        }
    });
    let mut reader = reader(&cluster, other, 1_000, "first".into());
    read(&mut reader, 0..MANY);
    nothing_more(&mut reader);
    cluster.finish();
}

#[test]
fn what_retention_drops_is_given_back_and_stays_gone() {
    let mut cluster = Cluster::start();
    let arguments = Table::from([
        ("x-max-length-bytes", 2_000_000),
        ("x-stream-max-segment-size-bytes", 500_000),
    ]);
    declare(&cluster, arguments);
    let mut before = publisher(&cluster, 0);
    publish_these(&mut before, 0..MANY);
    let held = |cluster: &Cluster| {
        let row = cluster.queue(0, QUEUE).expect("it is listed");
        row["messages"].as_u64().expect("a number")
    };
    let messages = held(&cluster);
    assert!(messages < MANY / 2, "{messages} of {MANY} are there");
    cluster.kill_all(&[0, 1, 2]);
    for node in 0..NODES {
        cluster.spawn(node);
    }
    cluster.await_whole();
    await_some("it is led", PATIENCE, || {
        let row = cluster.queue(0, QUEUE)?;
        if row["messages"] == messages {
            Ok(())
        } else {
            Err(row.to_string())
        }
    });
    let mut reader = reader(&cluster, 1, 1_000, "first".into());
    read(&mut reader, MANY - messages..MANY);
    nothing_more(&mut reader);
    cluster.finish();
}
