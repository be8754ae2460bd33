//! Groups of three replicas, and what happens on their way.

use std::collections::BTreeMap;

use proptest::prelude::*;
use raft::eraftpb::Entry;

use self::world::{Packet, Replica, Tape, Waiting, World, options};
use super::*;
use crate::log::memory::MemoryStore;

mod alone;
mod clock;
mod compaction;
mod fresh;
mod members;
mod reform;
mod versions;
mod world;

const GROUP: GroupId = 9;
const NODES: [NodeId; 3] = [1, 2, 3];

#[test]
fn a_new_group_elects_and_applies() {
    let mut world = World::new(1);
    world.event(1, Event::Campaign);
    world.heal();
    assert!(world.propose(2) && world.propose(3));
    world.heal();
    assert_eq!(world.confirmed, [2, 3]);
    world.check();
}

#[test]
fn followers_elect_at_once_when_the_leaders_node_is_gone() {
    let mut world = World::new(1);
    world.event(1, Event::Campaign);
    world.heal();
    assert!(world.propose(2));
    world.heal();
    world.crash(1);
    // Without any tick: the news alone is enough.
    world.event(3, Event::PeerDown(1));
    world.event(2, Event::PeerDown(1));
    world.settle();
    let leads = world.cores().filter(|core| core.role() == Role::Leader).count();
    assert_eq!(leads, 1, "one of the two that are left leads");
    assert!(world.propose(4));
    world.heal();
    world.check();
}

#[test]
fn an_idle_group_needs_no_ticks() {
    let mut world = World::new(1);
    world.event(1, Event::Campaign);
    world.heal();
    assert!(world.propose(2));
    for _ in 0..10 {
        world.settle();
        for node in NODES {
            world.event(node, Event::Tick);
        }
    }
    assert!(world.agreed(), "all were told that the last entry is committed");
    assert!(
        world.cores().all(|core| !core.is_active()),
        "somebody still wants ticks"
    );
}

#[test]
fn a_leader_ticks_until_its_followers_know_what_is_committed() {
    let mut world = World::new(1);
    world.event(1, Event::Campaign);
    world.heal();
    assert!(world.propose(2));
    world.settle();
    for _ in 0..10 {
        world.event(1, Event::Tick);
        // Nothing reaches the third any more, and nobody is told so.
        world.packets.retain(|(_, to, _)| *to != 3);
        world.settle();
    }
    assert!(!world.agreed(), "the third cannot know yet");
    assert!(world.replicas[&1].core.as_ref().is_some_and(GroupCore::is_active));
    world.event(1, Event::Tick);
    world.settle();
    assert!(world.agreed(), "the next heartbeat tells it");
}

#[test]
fn a_replica_that_was_away_long_gets_a_snapshot_with_the_live_entries() {
    let mut world = World::new(1);
    world.event(1, Event::Campaign);
    world.heal();
    world.crash(3);
    for node in [1, 2] {
        world.event(node, Event::PeerDown(3));
    }
    assert!(world.propose(1_000), "a value that stays live");
    for value in 0..200 {
        assert!(world.propose(value));
        world.settle();
    }
    world.heal();
    let third = world.replicas[&3].core.as_ref().expect("it is open");
    assert!(
        third.status().snapshot_index > 0,
        "it caught up without a snapshot: the log was not compacted"
    );
    assert!(
        world.replicas[&3]
            .store
            .state(GROUP)
            .expect("healthy")
            .expect("a state")
            .generation
            > 0
    );
    world.check();
}

/// A group in which the third was away until its peers had stored snapshots, and is back. Nothing is on its way.
fn with_one_far_behind() -> World {
    let mut world = World::new(1);
    world.event(1, Event::Campaign);
    world.heal();
    world.crash(3);
    for node in [1, 2] {
        world.event(node, Event::PeerDown(3));
    }
    // None of them stays live: the state is small, and stored often.
    for value in 0..60 {
        assert!(world.propose(2 * value + 1));
        world.settle();
    }
    world.open(3);
    world.packets.clear();
    world
}

#[test]
fn what_a_snapshot_under_way_needs_is_kept() {
    let mut world = with_one_far_behind();
    world.event(1, Event::PeerUp(3));
    let mut value = 121;
    while world.snapshots == 0 {
        let raft = |packet: &(NodeId, NodeId, Packet)| matches!(packet.2, Packet::Raft(_));
        while let Some(index) = world.packets.iter().position(raft) {
            world.receive(index);
        }
        for node in NODES {
            while !world.replicas[&node].writes.is_empty() {
                world.write(node);
            }
        }
        world.event(1, Event::Tick);
    }
    // The transfer takes as long as some snapshots would.
    let away = world
        .packets
        .iter()
        .position(|packet| matches!(packet.2, Packet::Snapshot { .. }));
    let transfer = world.packets.remove(away.expect("a snapshot is on its way"));
    for _ in 0..150 {
        assert!(world.propose(value));
        value += 2;
        world.settle();
    }
    world.packets.push(transfer);
    // And the third is slow to take in what comes after it.
    for _ in 0..130 {
        assert!(world.propose(value));
        value += 2;
        let index = world.packets.iter().position(|(_, to, _)| *to == 3);
        index.into_iter().for_each(|index| world.receive(index));
        let on = |packet: &(NodeId, NodeId, Packet)| packet.1 != 3;
        while let Some(index) = world.packets.iter().position(on) {
            world.receive(index);
        }
        world.write(3);
        for node in [1, 2] {
            while !world.replicas[&node].writes.is_empty() {
                world.write(node);
            }
        }
    }
    world.heal();
    world.check();
    assert_eq!(world.snapshots, 1, "the first one was of no use");
}

#[test]
fn a_peer_that_is_gone_is_not_there_again_because_its_link_was_reset() {
    let mut world = World::new(1);
    world.event(1, Event::Campaign);
    world.heal();
    world.event(1, Event::PeerDown(3));
    world.event(1, Event::LinkReset(3));
    assert!(world.propose(2));
    let appends = world.packets.iter().filter(|(_, to, packet)| {
        let Packet::Raft(message) = packet else { return false };
        let message = wire::decode(message.clone()).expect("well-formed").message;
        *to == 3 && message.get_msg_type() == MessageType::MsgAppend
    });
    assert_eq!(appends.count(), 0, "it is not there");
    world.event(1, Event::PeerUp(3));
    world.heal();
    world.check();
}

#[test]
fn a_late_word_of_a_leader_that_is_gone_does_not_bring_it_back() {
    let mut world = World::new(1);
    world.event(1, Event::Campaign);
    world.heal();
    assert!(world.propose(2));
    let late: Vec<Bytes> = world
        .packets
        .iter()
        .filter_map(|(_, to, packet)| match packet {
            Packet::Raft(message) if *to != 1 => Some(message.clone()),
            _ => None,
        })
        .collect();
    world.crash(1);
    for node in [2, 3] {
        world.event(node, Event::PeerDown(1));
    }
    world.packets.clear();
    for (node, message) in [2, 3].into_iter().zip(late) {
        world.event(node, Event::Message(message));
    }
    for _ in 0..20 {
        for node in [2, 3] {
            world.event(node, Event::Tick);
        }
        world.settle();
    }
    assert!(world.cores().any(|core| core.role() == Role::Leader), "nobody stands");
}

#[test]
fn what_was_staged_for_a_run_that_ended_goes() {
    let mut world = World::new(1);
    world.event(1, Event::Campaign);
    world.heal();
    let chunk = Write::SnapshotChunk {
        group: GROUP,
        generation: 77,
        snapshot_index: 5,
        number: 0,
        data: Bytes::from_static(b"half of it"),
    };
    world.replicas[&2].store.write(&[chunk], true).expect("a healthy store");
    world.crash(2);
    world.open(2);
    world.settle();
    assert_eq!(world.replicas[&2].store.generations(GROUP), Ok(vec![0]));
}

/// Messages as a peer could put them together: small numbers, so that they hit something.
fn any_message() -> impl Strategy<Value = Message> {
    let number = || prop_oneof![0u64..12, Just(u64::MAX), Just(u64::MAX / 4)];
    let entry = (0u64..12, 0u64..6, -1i32..4, 0usize..4).prop_map(|(index, term, kind, len)| Entry {
        index,
        term,
        entry_type: kind,
        data: vec![0; len + len % 2],
        ..Entry::default()
    });
    let members = (
        proptest::collection::vec(0u64..5, 0..4),
        proptest::collection::vec(0u64..5, 0..2),
        proptest::collection::vec(0u64..5, 0..2),
    );
    let head = (-1i32..20, number(), number(), number(), number(), number());
    let rest = (
        number(),
        any::<bool>(),
        proptest::collection::vec(entry, 0..3),
        any::<bool>(),
    );
    (head, rest, number(), number(), members).prop_map(|(head, rest, index, term, members)| {
        let mut message = Message {
            from: 2,
            to: 1,
            msg_type: head.0,
            term: head.1,
            index: head.2,
            log_term: head.3,
            commit: head.4,
            commit_term: head.5,
            reject_hint: rest.0,
            reject: rest.1,
            entries: rest.2,
            ..Message::default()
        };
        if rest.3 {
            // Entries in their places, or hardly any would come through.
            for (at, entry) in message.entries.iter_mut().enumerate() {
                entry.index = message.index.wrapping_add(at as u64 + 1);
                entry.term = entry.term.max(1);
            }
        }
        let metadata = message.mut_snapshot().mut_metadata();
        metadata.index = index;
        metadata.term = term;
        let state = metadata.mut_conf_state();
        (state.voters, state.learners, state.voters_outgoing) = members;
        message
    })
}

/// Takes in whatever comes: an error ends the node for a reason that it gives.
fn survives(world: &mut World, events: Vec<Event>) {
    for event in events {
        let core = world.replicas.get_mut(&1).and_then(|replica| replica.core.as_mut());
        let core = core.expect("it is open");
        core.handle(event);
        let mut effects = Vec::new();
        if core.poll(&mut effects).is_err() {
            return;
        }
        world.packets.clear();
        world.perform(1, effects);
        while !world.replicas[&1].writes.is_empty() {
            world.write(1);
        }
        world.event(1, Event::Tick);
    }
}

proptest! {
    #[test]
    fn no_message_of_a_peer_ends_the_process(
        messages in proptest::collection::vec((any_message(), any::<bool>()), 1..12),
        leads in any::<bool>(),
    ) {
        let mut world = World::new(3);
        world.event(if leads { 1 } else { 2 }, Event::Campaign);
        world.heal();
        for value in 0..3 {
            prop_assert!(world.propose(value));
            world.settle();
        }
        let events = messages.into_iter().map(|(message, staged)| {
            let bytes = wire::encode(&message, 0, |_| Ok::<_, std::convert::Infallible>(Bytes::new()));
            let mut bytes = bytes.expect("nothing is looked up").to_vec();
            for entry in &message.entries {
                bytes.resize(bytes.len() + wire::named(entry).unwrap_or(0), 7);
            }
            let message = Bytes::from(bytes);
            if staged {
                let store = &world.replicas[&1].store;
                let chunk = Write::SnapshotChunk {
                    group: GROUP,
                    generation: 50,
                    snapshot_index: snapshot_index(&message).unwrap_or(1),
                    number: 0,
                    data: Tape::default().snapshot().remove(0),
                };
                store.write(&[chunk], true).expect("a healthy store");
                Event::SnapshotStaged { message, generation: 50, chunks: 1 }
            } else {
                Event::Message(message)
            }
        });
        let events = events.collect();
        survives(&mut world, events);
    }

    #[test]
    fn no_bytes_of_a_peer_end_the_process(bytes in proptest::collection::vec(any::<u8>(), 0..64), flips in any::<u64>()) {
        let mut world = World::new(3);
        world.event(2, Event::Campaign);
        world.heal();
        prop_assert!(world.propose(1));
        // Real messages with a byte changed, and bytes that are none.
        let mut events: Vec<Event> = Vec::new();
        for (_, to, packet) in world.packets.drain(..) {
            if let (1, Packet::Raft(message)) = (to, packet) {
                let mut message = message.to_vec();
                let at = flips as usize % message.len();
                message[at] ^= (flips >> 32) as u8;
                events.push(Event::Message(message.into()));
            }
        }
        events.push(Event::Message(bytes.into()));
        survives(&mut world, events);
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    #[test]
    fn what_was_confirmed_survives_loss_reordering_and_crashes(seed in 1u64.., steps in 50usize..1_500) {
        let mut world = World::new(seed);
        let mut value = 0;
        for _ in 0..steps {
            match world.pick(40) {
                0 => {
                    let node = NODES[world.pick(3)];
                    if world.replicas[&node].core.is_some() {
                        world.crash(node);
                        for peer in NODES {
                            world.event(peer, Event::PeerDown(node));
                        }
                    } else {
                        world.open(node);
                        for peer in NODES {
                            world.event(peer, Event::PeerUp(node));
                        }
                    }
                }
                1 if !world.packets.is_empty() => {
                    let lost = world.pick(world.packets.len());
                    world.lose(lost);
                }
                2 => {
                    // A false alarm.
                    let (node, peer) = (NODES[world.pick(3)], NODES[world.pick(3)]);
                    world.event(node, Event::PeerDown(peer));
                    world.event(node, Event::PeerUp(peer));
                }
                3 => {
                    let (node, to) = (NODES[world.pick(3)], NODES[world.pick(3)]);
                    world.event(node, Event::TransferLeader(to));
                }
                4..12 => {
                    if world.propose(value) {
                        value += 1;
                    }
                }
                _ => world.step(),
            }
        }
        world.heal();
        world.check();
    }
}
