//! Three replicas on stores in memory, one thread, everything from a seed.

use std::collections::{BTreeMap, VecDeque};

use bytes::BytesMut;
use proptest::prelude::*;

use super::*;
use crate::log::LogEntry;
use crate::log::memory::MemoryStore;
use crate::machine::RestoreError;

const GROUP: GroupId = 9;
const NODES: [NodeId; 3] = [1, 2, 3];

/// Keeps the entries of even payloads live until the payload one above is applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct Tape {
    payloads: Vec<u64>,
    live: BTreeMap<u64, u64>,
    freed: Vec<u64>,
}

impl Machine for Tape {
    type Effect = (u64, u64);

    fn apply(&mut self, meta: &Meta, payload: &[u8], out: &mut Vec<(u64, u64)>) {
        let mut bytes = payload;
        while bytes.remaining() >= 8 {
            let value = bytes.get_u64_le();
            self.payloads.push(value);
            if value.is_multiple_of(2) {
                self.live.insert(meta.index, value);
            } else {
                let done: Vec<u64> = self
                    .live
                    .iter()
                    .filter(|(_, live)| **live + 1 == value)
                    .map(|(index, _)| *index)
                    .collect();
                for index in done {
                    self.live.remove(&index);
                    self.freed.push(index);
                }
            }
            out.push((meta.index, value));
        }
    }

    fn snapshot(&self) -> Vec<Bytes> {
        let mut bytes = BytesMut::new();
        bytes.put_u64_le(self.payloads.len() as u64);
        for value in &self.payloads {
            bytes.put_u64_le(*value);
        }
        for (index, value) in &self.live {
            bytes.put_u64_le(*index);
            bytes.put_u64_le(*value);
        }
        vec![bytes.freeze()]
    }

    fn restore(&mut self, chunks: &[Bytes]) -> Result<(), RestoreError> {
        let mut bytes: &[u8] = chunks.first().ok_or_else(|| RestoreError("no chunk".into()))?;
        let count = bytes.get_u64_le();
        self.payloads = (0..count).map(|_| bytes.get_u64_le()).collect();
        self.live = BTreeMap::new();
        while bytes.has_remaining() {
            let index = bytes.get_u64_le();
            self.live.insert(index, bytes.get_u64_le());
        }
        self.freed.clear();
        Ok(())
    }

    fn is_live(&self, index: u64) -> bool {
        self.live.contains_key(&index)
    }

    fn live(&self) -> Vec<u64> {
        self.live.keys().copied().collect()
    }

    fn take_freed(&mut self, out: &mut Vec<u64>) {
        out.append(&mut self.freed);
    }
}

struct Replica {
    store: Arc<MemoryStore>,
    core: Option<GroupCore<Tape>>,
    /// Handed to the writer, not yet written.
    writes: VecDeque<(Vec<Write>, bool, Option<u64>)>,
}

enum Packet {
    Raft(Bytes),
    Snapshot {
        message: Bytes,
        chunks: Vec<Bytes>,
        entries: Vec<LogEntry>,
    },
}

/// The cluster around the replicas.
struct World {
    replicas: BTreeMap<NodeId, Replica>,
    packets: Vec<(NodeId, NodeId, Packet)>,
    /// Values whose effect a leader performed: a majority has them.
    confirmed: Vec<u64>,
    generation: u32,
    random: u64,
}

fn options() -> Options {
    Options {
        snapshot_log_bytes: 600,
        cache_bytes_max: 200,
        ..Options::default()
    }
}

impl World {
    fn new(seed: u64) -> Self {
        let mut world = Self {
            replicas: BTreeMap::new(),
            packets: Vec::new(),
            confirmed: Vec::new(),
            generation: 1,
            random: seed | 1,
        };
        for node in NODES {
            let store = Arc::new(MemoryStore::new());
            world.replicas.insert(
                node,
                Replica {
                    store,
                    core: None,
                    writes: VecDeque::new(),
                },
            );
            world.open(node);
        }
        world
    }

    fn pick(&mut self, below: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % below as u64) as usize
    }

    fn open(&mut self, node: NodeId) {
        let replica = self.replicas.get_mut(&node).expect("a known node");
        let mut effects = Vec::new();
        let store: Arc<dyn LogStore> = replica.store.clone();
        let core = GroupCore::open(node, GROUP, &NODES, store, Tape::default(), options(), &mut effects)
            .expect("a replica opens on what it wrote");
        replica.core = Some(core);
        self.perform(node, effects);
        self.poll(node);
    }

    fn crash(&mut self, node: NodeId) {
        let replica = self.replicas.get_mut(&node).expect("a known node");
        replica.core = None;
        replica.writes.clear();
        replica.store.crash();
        self.packets.retain(|(_, to, _)| *to != node);
    }

    fn event(&mut self, node: NodeId, event: Event) {
        let replica = self.replicas.get_mut(&node).expect("a known node");
        if let Some(core) = &mut replica.core {
            core.handle(event);
            self.poll(node);
        }
    }

    fn propose(&mut self, value: u64) -> bool {
        for node in NODES {
            let replica = self.replicas.get_mut(&node).expect("a known node");
            if let Some(core) = &mut replica.core
                && core.role() == Role::Leader
                && core.propose(&[Bytes::copy_from_slice(&value.to_le_bytes())], 5).is_ok()
            {
                self.poll(node);
                return true;
            }
        }
        false
    }

    fn poll(&mut self, node: NodeId) {
        let replica = self.replicas.get_mut(&node).expect("a known node");
        let Some(core) = &mut replica.core else { return };
        let mut effects = Vec::new();
        core.poll(&mut effects).expect("a healthy store");
        self.perform(node, effects);
    }

    fn perform(&mut self, node: NodeId, effects: Vec<Effect<(u64, u64)>>) {
        for effect in effects {
            match effect {
                Effect::Send { to, message } => self.packets.push((node, to, Packet::Raft(message))),
                Effect::Write { writes, sync, number } => {
                    let replica = self.replicas.get_mut(&node).expect("a known node");
                    replica.writes.push_back((writes, sync, number));
                }
                Effect::Machine((index, value)) => {
                    self.confirmed.push(value);
                    let replica = self.replicas.get_mut(&node).expect("a known node");
                    let core = replica.core.as_mut().expect("it has just been polled");
                    let payload = core
                        .payload(index)
                        .expect("a healthy store")
                        .expect("an applied entry is readable");
                    assert!(payload.chunks(8).any(|chunk| chunk == value.to_le_bytes()));
                }
                Effect::SendSnapshot {
                    to,
                    message,
                    state,
                    live,
                } => {
                    let store = self.replicas[&node].store.clone();
                    let chunks = (0..state.snapshot_chunks)
                        .map(|n| store.snapshot_chunk(GROUP, state.generation, state.snapshot_index, n))
                        .collect::<Result<Option<Vec<_>>, _>>()
                        .expect("a healthy store");
                    // Not yet written: the transfer fails and is tried again.
                    let Some(chunks) = chunks else {
                        self.event(node, Event::SnapshotSent { to, ok: false });
                        continue;
                    };
                    let entries = live
                        .iter()
                        .filter_map(|index| store.entry(GROUP, state.generation, *index).expect("a healthy store"))
                        .collect();
                    self.packets.push((
                        node,
                        to,
                        Packet::Snapshot {
                            message,
                            chunks,
                            entries,
                        },
                    ));
                }
                Effect::Role { .. } | Effect::Restored => {}
            }
        }
    }

    fn write(&mut self, node: NodeId) {
        let replica = self.replicas.get_mut(&node).expect("a known node");
        let Some((writes, sync, number)) = replica.writes.pop_front() else {
            return;
        };
        replica.store.write(&writes, sync).expect("a healthy store");
        if let Some(number) = number {
            self.event(node, Event::Persisted(number));
        }
    }

    fn receive(&mut self, index: usize) {
        let (from, to, packet) = self.packets.remove(index);
        if self.replicas[&to].core.is_none() {
            return;
        }
        match packet {
            Packet::Raft(message) => self.event(to, Event::Message(message)),
            Packet::Snapshot {
                message,
                chunks,
                entries,
            } => {
                let generation = self.generation;
                self.generation += 1;
                let snapshot_index = snapshot_index(&message).expect("it announces a snapshot");
                let mut writes: Vec<Write> = entries
                    .into_iter()
                    .map(|entry| Write::Append {
                        group: GROUP,
                        generation,
                        entries: vec![entry],
                        stored_last: 0,
                    })
                    .collect();
                let count = chunks.len() as u32;
                for (number, data) in (0..).zip(chunks) {
                    writes.push(Write::SnapshotChunk {
                        group: GROUP,
                        generation,
                        snapshot_index,
                        number,
                        data,
                    });
                }
                let store = self.replicas[&to].store.clone();
                store.write(&writes, true).expect("a healthy store");
                self.event(
                    to,
                    Event::SnapshotStaged {
                        message,
                        generation,
                        chunks: count,
                    },
                );
                self.event(from, Event::SnapshotSent { to, ok: true });
            }
        }
    }

    /// One random step among those that are possible.
    fn step(&mut self) {
        let node = NODES[self.pick(3)];
        match self.pick(10) {
            0 => self.event(node, Event::Tick),
            1..4 => self.write(node),
            _ if !self.packets.is_empty() => {
                let index = self.pick(self.packets.len().min(4));
                self.receive(index);
            }
            _ => {}
        }
    }

    /// Writes and delivers until nothing is on its way.
    fn settle(&mut self) {
        loop {
            for node in NODES {
                while !self.replicas[&node].writes.is_empty() {
                    self.write(node);
                }
            }
            if self.packets.is_empty() {
                return;
            }
            self.receive(0);
        }
    }

    /// Everything works from here on: until all replicas agree.
    fn heal(&mut self) {
        for node in NODES {
            if self.replicas[&node].core.is_none() {
                self.open(node);
            }
        }
        for node in NODES {
            for peer in NODES {
                self.event(node, Event::PeerUp(peer));
            }
        }
        for _ in 0..400 {
            self.settle();
            if self.agreed() {
                return;
            }
            for node in NODES {
                self.event(node, Event::Tick);
            }
        }
        let states: Vec<_> = self.cores().map(|core| core.status()).collect();
        panic!("the group did not come to rest: {states:?}");
    }

    fn cores(&self) -> impl Iterator<Item = &GroupCore<Tape>> {
        self.replicas.values().filter_map(|replica| replica.core.as_ref())
    }

    fn agreed(&self) -> bool {
        let leader = self.cores().any(|core| core.role() == Role::Leader);
        let first = self.cores().next().map(|core| core.machine().clone());
        leader
            && self
                .cores()
                .all(|core| Some(core.machine().payloads.clone()) == first.as_ref().map(|m| m.payloads.clone()))
            && self.cores().all(|core| core.status().applied == core.status().commit)
            && self
                .cores()
                .map(|core| core.status().commit)
                .collect::<std::collections::BTreeSet<_>>()
                .len()
                == 1
    }

    fn check(&self) {
        let machine = self.cores().next().expect("a replica").machine();
        for value in &self.confirmed {
            assert!(machine.payloads.contains(value), "confirmed {value} is lost");
        }
        for replica in self.replicas.values() {
            let core = replica.core.as_ref().expect("all are open");
            let generation = replica
                .store
                .state(GROUP)
                .expect("a healthy store")
                .expect("a state")
                .generation;
            for index in core.machine().live() {
                let entry = replica.store.entry(GROUP, generation, index).expect("a healthy store");
                assert!(entry.is_some(), "the body of live entry {index} is gone");
            }
        }
    }
}

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
                    world.packets.remove(lost);
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
