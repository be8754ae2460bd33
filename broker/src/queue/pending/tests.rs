use warren_proto::record::{BatchWriter, Command, Outcome, Publish, Run};

use super::*;

const ALL: Bound = Bound {
    bytes: 10_000,
    commands: u32::MAX,
};

fn session(id: u64) -> SessionId {
    SessionId {
        node: 1,
        incarnation: 1,
        id,
    }
}

fn publish(id: u64, first_seq: u64) -> Bytes {
    let body = [Bytes::from_static(&[0; 100])];
    let mut batch = BatchWriter::new(session(id), first_seq);
    batch.publish(&Publish {
        persistent: true,
        priority: None,
        ttl_ms: None,
        origin: None,
        bcc: &[],
        exchange: b"",
        routing_key: b"q",
        properties: &[0, 0],
        body: &body,
    });
    batch.finish()
}

fn settle(id: u64, first_seq: u64) -> Bytes {
    let mut batch = BatchWriter::new(session(id), first_seq);
    batch.settle(Outcome::Ack, &[Run { first: 1, len: 1 }]);
    batch.finish()
}

#[test]
fn consumers_go_before_publishers() {
    let mut pending = Pending::default();
    let batches = [publish(1, 1), publish(2, 1), settle(3, 1)];
    for batch in &batches {
        pending.push(batch.clone());
    }
    assert_eq!(
        pending.take(ALL, None),
        [batches[2].clone(), batches[0].clone(), batches[1].clone()]
    );
    assert!(pending.is_empty() && pending.bytes() == 0);
}

#[test]
fn a_session_that_publishes_keeps_its_order() {
    let mut pending = Pending::default();
    let batches = [publish(1, 1), settle(1, 2), settle(2, 1)];
    for batch in &batches {
        pending.push(batch.clone());
    }
    assert_eq!(
        pending.take(ALL, None),
        [batches[2].clone(), batches[0].clone(), batches[1].clone()]
    );
}

#[test]
fn publishers_go_at_the_consumers_pace_but_never_wait_for_ever() {
    let mut pending = Pending::default();
    for seq in 1..=8 {
        pending.push(publish(1, seq));
    }
    let mut taken = Vec::new();
    for seq in 1..=6 {
        pending.push(settle(2, seq));
        let settled = if seq == 2 { 2 } else { 0 };
        taken.push(pending.take(ALL, Some(settled)).len() - 1);
    }
    assert_eq!(
        taken,
        [0, 2, 0, 0, 0, 1],
        "two were settled; the fourth entry without publishes is one too many"
    );
    assert_eq!(pending.take(ALL, Some(0)).len(), 1, "an entry is never empty");
    for seq in 9..=20 {
        pending.push(publish(1, seq));
    }
    let quiet: Vec<usize> = (0..8).map(|_| pending.take(ALL, Some(0)).len()).collect();
    assert_eq!(quiet, [1, 1, 1, 1, 1, 1, 1, 9], "nobody settles any more");
}

#[test]
fn what_is_put_back_comes_first_again() {
    let mut pending = Pending::default();
    for batch in [publish(1, 1), settle(2, 1), publish(1, 2)] {
        pending.push(batch);
    }
    let waiting = pending.bytes();
    let entry = pending.take(ALL, None);
    pending.push(publish(1, 3));
    pending.put_back(entry.clone());
    assert_eq!(pending.bytes(), waiting + publish(1, 3).len());
    assert_eq!(pending.take(ALL, None), [&entry[..], &[publish(1, 3)]].concat());
}

#[test]
fn what_belongs_to_no_session_is_urgent() {
    let mut pending = Pending::default();
    pending.push(publish(1, 1));
    let down = record::system(&Command::SessionDown(session(9)));
    pending.push(down.clone());
    assert_eq!(pending.take(ALL, None)[0], down);
}
