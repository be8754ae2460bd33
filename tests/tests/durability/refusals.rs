//! Publishes that a full queue refuses while its leader is killed: what was nacked is not in it, and what was acked is.

use std::collections::BTreeSet;
use std::time::Instant;

use warren_tests::amqp::method::QueueDeclare;
use warren_tests::amqp::wire::{Table, Value};
use warren_tests::client::{Event, Session, Tags};
use warren_tests::cluster::{Cluster, PATIENCE, name};

const QUEUE: &str = "refusals";
const LEN_MAX: i32 = 300;
const ROUNDS: usize = 4;
/// Publishes of each round; the queue has room for half of them, and is emptied after it.
const EACH: u64 = 600;

fn publish(session: &mut Session, messages: u64) {
    for _ in 0..messages {
        let body = (session.published() + 1).to_string();
        session.publish(QUEUE, body.as_bytes()).expect("its node is not killed");
    }
}

/// Waits until everything published is answered; what was taken.
fn answered(session: &mut Session, from: u64) -> BTreeSet<u64> {
    let mut open: BTreeSet<u64> = (from..=session.published()).collect();
    let mut taken = BTreeSet::new();
    let deadline = Instant::now() + PATIENCE;
    while !open.is_empty() {
        let event = session.next(PATIENCE).expect("its node is not killed");
        let (tags, is_taken) = match event {
            Some(Event::Confirmed(tags)) => (tags, true),
            Some(Event::Nacked(tags)) => (tags, false),
            other => panic!("{other:?} with {} open", open.len()),
        };
        let Tags { tag, multiple } = tags;
        let named: Vec<u64> = match multiple {
            true => open.range(..=tag).copied().collect(),
            false => vec![tag],
        };
        for tag in named {
            assert!(open.remove(&tag), "publish {tag} was answered twice");
            if is_taken {
                taken.insert(tag);
            }
        }
        assert!(Instant::now() < deadline, "{} open", open.len());
    }
    taken
}

#[test]
fn a_nack_stays_a_nack_whoever_leads() {
    let mut cluster = Cluster::start();
    let mut elsewhere = Session::open(&cluster.address(1), PATIENCE).expect("a whole cluster serves");
    let declare = QueueDeclare {
        queue: QUEUE.into(),
        durable: true,
        arguments: Table(vec![
            ("x-queue-type".into(), "quorum".into()),
            ("x-max-length".into(), Value::I32(LEN_MAX)),
            ("x-overflow".into(), "reject-publish".into()),
        ]),
        ..Default::default()
    };
    elsewhere.call(&declare, PATIENCE).expect("a whole cluster declares");
    elsewhere.close(PATIENCE).expect("a whole cluster closes");
    // The client keeps to the first node, which is not killed.
    let mut session = Session::open(&cluster.address(0), PATIENCE).expect("a whole cluster serves");
    session.confirm(PATIENCE).expect("confirms");
    for round in 0..ROUNDS {
        let from = session.published() + 1;
        let leader = cluster.leader(0, QUEUE);
        let node = if leader == 0 { 1 + round % 2 } else { leader };
        publish(&mut session, EACH / 2);
        cluster.kill(node);
        publish(&mut session, EACH / 2);
        let taken = answered(&mut session, from);
        println!("round {round}: {} killed, {} taken of {EACH}", name(node), taken.len());
        assert_eq!(
            taken.len(),
            LEN_MAX as usize,
            "the queue was empty and has so much room"
        );
        let mut consumer = Session::open(&cluster.address(0), PATIENCE).expect("its node is not killed");
        consumer.consume(QUEUE, 0, PATIENCE).expect("the queue has a leader");
        let mut there = BTreeSet::new();
        while there.len() < taken.len() {
            let event = consumer.next(PATIENCE).expect("its node is not killed");
            let Some(Event::Delivered(delivery)) = event else {
                panic!("{} of {} messages, then {event:?}", there.len(), taken.len())
            };
            let number = std::str::from_utf8(&delivery.body)
                .ok()
                .and_then(|text| text.parse().ok());
            assert!(there.insert(number.expect("a number was published")), "twice there");
            let tags = Tags {
                tag: delivery.tag,
                multiple: false,
            };
            consumer.ack(tags).expect("its node is not killed");
        }
        assert_eq!(there, taken);
        consumer.close(PATIENCE).expect("its node is not killed");
        cluster.start_node(node);
        cluster.await_whole();
    }
    session.close(PATIENCE).expect("a whole cluster closes");
    cluster.finish();
}
