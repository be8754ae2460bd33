//! How often the message path asks the allocator: per read of a socket, not per message.

#![allow(clippy::expect_used, reason = "a test")]

use allocation_counter::measure;

#[path = "../benches/rig/mod.rs"]
mod rig;

use rig::{Rig, publishes};

/// Messages in one read of a socket.
const COUNT: usize = 200;

/// Allocations of one turn of a publisher's connection, on the steady path.
fn of_a_turn(body_len: usize, queues: usize) -> u64 {
    let mut rig = Rig::new();
    let publisher = rig.connect();
    let mut bytes = Vec::new();
    for queue in 0..queues {
        let name = format!("queue-{queue}");
        rig.declare(publisher, &name);
        bytes.extend(publishes(COUNT / queues, "", &name, body_len));
    }
    let mut last = 0;
    // What a connection keeps for later turns has its size after some.
    for _ in 0..20 {
        rig.input().extend_from_slice(&bytes);
        let counted = measure(|| rig.take_in(publisher));
        assert!(rig.drop_batches() > COUNT * body_len, "the publishes are on their way");
        last = counted.count_total;
    }
    last
}

#[test]
fn publishes_are_taken_in_without_an_allocation_each() {
    for body_len in [16, 1024] {
        for queues in [1, 10] {
            let allocations = of_a_turn(body_len, queues);
            assert!(
                allocations <= (COUNT / 4 + 4 * queues) as u64,
                "{allocations} allocations for {COUNT} messages of {body_len} B to {queues} queues"
            );
        }
    }
}
