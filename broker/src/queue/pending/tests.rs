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
        pending.take(ALL, FREE),
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
        pending.take(ALL, FREE),
        [batches[2].clone(), batches[0].clone(), batches[1].clone()]
    );
}

/// No consumer was ever heard of.
const FREE: Demand = Demand {
    now_ms: 0,
    settled: 0,
    backlog: false,
};

/// Lets publishers of batches of one and a consumer go at it for `ms`, an entry each; answers how many publishes were
/// let in during the last half. `settle` says how many messages are settled in a millisecond.
fn let_in(ms: u64, settle: u64, backlog: bool, offered_per_ms: u64) -> u64 {
    let mut pending = Pending::default();
    let mut seq = 1;
    let mut late = 0;
    for now_ms in 1..=ms {
        for _ in 0..offered_per_ms {
            pending.push(publish(1, seq));
            seq += 1;
        }
        let demand = Demand {
            now_ms,
            settled: now_ms * settle,
            backlog,
        };
        let most = Bound {
            bytes: 10_000_000,
            commands: u32::MAX,
        };
        let taken = pending.take(most, demand).len() as u64;
        if now_ms > ms / 2 {
            late += taken;
        }
    }
    late
}

#[test]
fn publishers_go_at_the_pace_of_consumers_that_nearly_keep_up() {
    let half_ms = 500;
    assert_eq!(let_in(1_000, 64, true, 100) / half_ms, 56, "seven eighths");
    assert_eq!(let_in(1_000, 64, false, 100) / half_ms, 100, "nothing waits");
    assert_eq!(let_in(1_000, 0, true, 100) / half_ms, 100, "nobody consumes");
    assert_eq!(
        let_in(1_000, 5, true, 100) / half_ms,
        100,
        "consumers are slow: the queue is there to buffer"
    );
    assert_eq!(
        let_in(1_000, 1, true, 5) / half_ms,
        5,
        "what is under the floor is never held back"
    );
}

#[test]
fn publishes_that_wait_go_soon() {
    waiting_publishes_go(60);
}

#[test]
fn publishes_that_wait_go_soon_by_a_clock_that_was_set_back() {
    waiting_publishes_go(3_600_000);
}

/// All that waits goes, although no consumer settles any more, after the clock read `first_ms` and then 60.
fn waiting_publishes_go(first_ms: u64) {
    let mut pending = Pending::default();
    let mut demand = Demand {
        now_ms: first_ms - 59,
        settled: 1_000,
        backlog: true,
    };
    assert!(pending.take(ALL, demand).is_empty());
    demand.now_ms = first_ms;
    demand.settled = 2_000;
    assert!(pending.take(ALL, demand).is_empty(), "consumers keep up from here on");
    demand.now_ms = 60;
    for seq in 1..=3_000 {
        pending.push(publish(1, seq));
    }
    let all = Bound {
        bytes: 10_000_000,
        commands: u32::MAX,
    };
    let mut taken = 0;
    while taken < 3_000 {
        let wait_ms = pending.wait_ms();
        assert!((1..=20).contains(&wait_ms), "{wait_ms}");
        demand.now_ms += wait_ms;
        let entry = pending.take(all, demand);
        assert!(
            !entry.is_empty() || demand.now_ms < 500,
            "what waits goes within its time"
        );
        taken += entry.len();
    }
}

#[test]
fn what_is_put_back_comes_first_again() {
    let mut pending = Pending::default();
    for batch in [publish(1, 1), settle(2, 1), publish(1, 2)] {
        pending.push(batch);
    }
    let waiting = pending.bytes();
    let entry = pending.take(ALL, FREE);
    pending.push(publish(1, 3));
    pending.put_back(entry.clone());
    assert_eq!(pending.bytes(), waiting + publish(1, 3).len());
    assert_eq!(pending.take(ALL, FREE), entry);
    assert_eq!(pending.take(ALL, FREE), [publish(1, 3)]);
    assert!(pending.is_empty() && pending.bytes() == 0);
}

#[test]
fn what_belongs_to_no_session_is_urgent() {
    let mut pending = Pending::default();
    pending.push(publish(1, 1));
    let down = record::system(&Command::SessionDown(session(9)));
    pending.push(down.clone());
    assert_eq!(pending.take(ALL, FREE)[0], down);
}

#[test]
fn the_end_of_a_session_does_not_overtake_what_it_sent() {
    let ends = [
        Command::SessionDown(session(1)),
        Command::NodeDown {
            node: 1,
            incarnation: 1,
        },
    ];
    for end in ends {
        let mut pending = Pending::default();
        let batches = [publish(1, 1), record::system(&end), settle(3, 1)];
        for batch in &batches {
            pending.push(batch.clone());
        }
        assert_eq!(
            pending.take(ALL, FREE),
            [batches[2].clone(), batches[0].clone(), batches[1].clone()]
        );
    }
}
