//! A group's replicas on stores in memory, in one thread, everything from a seed.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use bytes::BytesMut;

use super::*;
use crate::log::LogEntry;
use crate::machine::{Meta, RestoreError};

/// Keeps the entries of even payloads live until the payload one above is applied.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Tape {
    pub(super) payloads: Vec<u64>,
    pub(super) live: BTreeMap<u64, u64>,
    pub(super) freed: Vec<u64>,
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
        let mut bytes: &[u8] = chunks.first().ok_or_else(|| RestoreError::Damaged("no chunk".into()))?;
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

    fn live(&self) -> Vec<Range<u64>> {
        self.live.keys().map(|index| *index..index + 1).collect()
    }

    fn take_freed(&mut self, out: &mut Vec<u64>) {
        out.append(&mut self.freed);
    }
}

pub(super) struct Replica {
    pub(super) store: Arc<MemoryStore>,
    pub(super) core: Option<GroupCore<Tape>>,
    /// Handed to the writer, not yet written.
    pub(super) writes: VecDeque<Waiting>,
    /// Leaves with the next that is handed to the writer.
    pub(super) once_stored: Vec<(NodeId, Bytes)>,
}

/// Waits for the writer.
pub(super) struct Waiting {
    pub(super) writes: Vec<Write>,
    pub(super) sync: bool,
    pub(super) number: Option<u64>,
    pub(super) messages: Vec<(NodeId, Bytes)>,
}

impl Replica {
    pub(super) fn new(store: Arc<MemoryStore>) -> Self {
        Self {
            store,
            core: None,
            writes: VecDeque::new(),
            once_stored: Vec::new(),
        }
    }
}

pub(super) enum Packet {
    Raft(Bytes),
    Snapshot {
        message: Bytes,
        chunks: Vec<Bytes>,
        entries: Vec<LogEntry>,
    },
}

/// The cluster around the replicas.
pub(super) struct World {
    /// Those that take part, or are about to.
    pub(super) nodes: Vec<NodeId>,
    /// Those among them that opened a group which others had begun.
    pub(super) joined: Vec<NodeId>,
    pub(super) replicas: BTreeMap<NodeId, Replica>,
    pub(super) packets: Vec<(NodeId, NodeId, Packet)>,
    /// Values whose effect a leader performed: a majority has them.
    pub(super) confirmed: Vec<u64>,
    /// Snapshots that were sent.
    pub(super) snapshots: usize,
    pub(super) generation: u32,
    pub(super) random: u64,
    /// Processes begun.
    pub(super) runs: u64,
    /// Whether a replica of which nothing is stored may have been there before.
    pub(super) fresh: bool,
    /// What new replicas are told of survivors.
    pub(super) reformed: u64,
    /// See [`Options::added_since`].
    pub(super) added_since: u64,
    /// See [`Options::founds_after_ticks`].
    pub(super) founds_after_ticks: u64,
}

pub(super) fn options() -> Options {
    Options {
        snapshot_log_bytes: 600,
        cache_bytes_max: 200,
        ..Options::default()
    }
}

impl World {
    pub(super) fn new(seed: u64) -> Self {
        let mut world = Self {
            nodes: NODES.to_vec(),
            joined: Vec::new(),
            replicas: BTreeMap::new(),
            packets: Vec::new(),
            confirmed: Vec::new(),
            snapshots: 0,
            generation: 1,
            random: seed | 1,
            runs: 0,
            fresh: false,
            reformed: 0,
            added_since: 0,
            founds_after_ticks: 0,
        };
        world.begin();
        world
    }

    /// Three new stores, and a replica on each.
    pub(super) fn begin(&mut self) {
        for node in NODES {
            let store = Arc::new(MemoryStore::new());
            self.replicas.insert(node, Replica::new(store));
            self.open(node);
        }
    }

    pub(super) fn pick(&mut self, below: usize) -> usize {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        (self.random % below as u64) as usize
    }

    pub(super) fn any(&mut self) -> NodeId {
        let at = self.pick(self.nodes.len());
        self.nodes[at]
    }

    pub(super) fn open(&mut self, node: NodeId) {
        let replica = self.replicas.get_mut(&node).expect("a known node");
        let mut effects = Vec::new();
        let store: Arc<dyn LogStore> = replica.store.clone();
        let members: &[NodeId] = if self.joined.contains(&node) { &[] } else { &NODES };
        self.runs += 1;
        let options = Options {
            run: self.runs,
            fresh: self.fresh,
            reformed: self.reformed,
            added_since: self.added_since,
            founds_after_ticks: self.founds_after_ticks,
            ..options()
        };
        let core = GroupCore::open(node, GROUP, members, store, Tape::default(), options, &mut effects)
            .expect("a replica opens on what it wrote");
        replica.core = Some(core);
        self.perform(node, effects);
        self.poll(node);
    }

    pub(super) fn crash(&mut self, node: NodeId) {
        let replica = self.replicas.get_mut(&node).expect("a known node");
        replica.core = None;
        replica.writes.clear();
        replica.store.crash();
        self.lose_all(node);
    }

    /// A packet does not arrive. Of a snapshot its sender is told so.
    pub(super) fn lose(&mut self, index: usize) {
        let (from, to, packet) = self.packets.remove(index);
        if matches!(packet, Packet::Snapshot { .. }) {
            self.event(from, Event::SnapshotSent { to, ok: false });
        }
    }

    /// Nothing that is on its way to that node arrives.
    pub(super) fn lose_all(&mut self, node: NodeId) {
        while let Some(index) = self.packets.iter().position(|(_, to, _)| *to == node) {
            self.lose(index);
        }
    }

    pub(super) fn event(&mut self, node: NodeId, event: Event) {
        let replica = self.replicas.get_mut(&node).expect("a known node");
        if let Some(core) = &mut replica.core {
            core.handle(event);
            self.poll(node);
        }
    }

    pub(super) fn propose(&mut self, value: u64) -> bool {
        for node in self.nodes.clone() {
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

    pub(super) fn poll(&mut self, node: NodeId) {
        let replica = self.replicas.get_mut(&node).expect("a known node");
        let Some(core) = &mut replica.core else { return };
        let mut effects = Vec::new();
        core.poll(&mut effects).expect("a healthy store");
        self.perform(node, effects);
    }

    pub(super) fn perform(&mut self, node: NodeId, effects: Vec<Effect<(u64, u64)>>) {
        for effect in effects {
            match effect {
                Effect::Send { to, message } => self.packets.push((node, to, Packet::Raft(message))),
                Effect::SendStored { to, message } => {
                    let replica = self.replicas.get_mut(&node).expect("a known node");
                    replica.once_stored.push((to, message));
                }
                Effect::Write { writes, sync, number } => {
                    let replica = self.replicas.get_mut(&node).expect("a known node");
                    let messages = std::mem::take(&mut replica.once_stored);
                    replica.writes.push_back(Waiting {
                        writes,
                        sync,
                        number,
                        messages,
                    });
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
                    self.snapshots += 1;
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
                        .into_iter()
                        .flatten()
                        .filter_map(|index| store.entry(GROUP, state.generation, index).expect("a healthy store"))
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
                Effect::Role { .. } | Effect::Restored | Effect::Members => {}
            }
        }
    }

    pub(super) fn write(&mut self, node: NodeId) {
        let replica = self.replicas.get_mut(&node).expect("a known node");
        let Some(waiting) = replica.writes.pop_front() else {
            return;
        };
        replica
            .store
            .write(&waiting.writes, waiting.sync)
            .expect("a healthy store");
        let messages = waiting.messages.into_iter();
        self.packets
            .extend(messages.map(|(to, message)| (node, to, Packet::Raft(message))));
        if let Some(number) = waiting.number {
            self.event(node, Event::Persisted(number));
        }
    }

    pub(super) fn receive(&mut self, index: usize) {
        let (from, to, packet) = self.packets.remove(index);
        if self.replicas.get(&to).is_none_or(|replica| replica.core.is_none()) {
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
    pub(super) fn step(&mut self) {
        let node = self.any();
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
    pub(super) fn settle(&mut self) {
        loop {
            for node in self.nodes.clone() {
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
    pub(super) fn heal(&mut self) {
        for node in self.nodes.clone() {
            if self.replicas[&node].core.is_none() {
                self.open(node);
            }
        }
        for node in self.nodes.clone() {
            for peer in self.nodes.clone() {
                self.event(node, Event::PeerUp(peer));
            }
        }
        for _ in 0..400 {
            self.settle();
            if self.agreed() {
                return;
            }
            for node in self.nodes.clone() {
                self.event(node, Event::Tick);
            }
        }
        let states: Vec<_> = self.cores().map(|core| (core.is_fresh(), core.status())).collect();
        panic!("the group did not come to rest: {states:?}");
    }

    /// Writes and delivers until nothing is on its way but to that node, which gets nothing.
    pub(super) fn settle_but(&mut self, node: NodeId) {
        loop {
            for node in self.nodes.clone() {
                while !self.replicas[&node].writes.is_empty() {
                    self.write(node);
                }
            }
            self.packets.retain(|(_, to, _)| *to != node);
            if self.packets.is_empty() {
                return;
            }
            self.receive(0);
        }
    }

    pub(super) fn leader(&self) -> NodeId {
        let leads =
            |(_, replica): &(&NodeId, &Replica)| replica.core.as_ref().is_some_and(|core| core.role() == Role::Leader);
        *self.replicas.iter().find(leads).expect("somebody leads").0
    }

    pub(super) fn cores(&self) -> impl Iterator<Item = &GroupCore<Tape>> {
        self.replicas.values().filter_map(|replica| replica.core.as_ref())
    }

    pub(super) fn agreed(&self) -> bool {
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

    pub(super) fn check(&self) {
        let machine = self.cores().next().expect("a replica").machine();
        for value in &self.confirmed {
            assert!(machine.payloads.contains(value), "confirmed {value} is lost");
        }
        for replica in self.nodes.iter().map(|node| &self.replicas[node]) {
            let core = replica.core.as_ref().expect("all are open");
            let generation = replica
                .store
                .state(GROUP)
                .expect("a healthy store")
                .expect("a state")
                .generation;
            for index in core.machine().live().into_iter().flatten() {
                let entry = replica.store.entry(GROUP, generation, index).expect("a healthy store");
                assert!(entry.is_some(), "the body of live entry {index} is gone");
            }
        }
    }
}
