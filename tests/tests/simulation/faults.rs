//! What breaks: processes, machines, disks, clocks, links, clients' connections.

use warren_cluster::NodeId;

use super::disk::Store;
use super::mutation::Mutation;
use super::operator::Task;
use super::world::{Ended, Event, World};

/// The shortest pause between two faults.
const PAUSE_MS: u64 = 50;
/// How long nothing breaks after the only node that began the cluster has lost its disk: it may be down for most of it.
const CALM_US: u64 = 12_000_000;

impl World {
    fn any_node(&mut self) -> NodeId {
        let members = self.members.clone();
        *self.faults.pick(&members)
    }

    /// One fault of a kind that this run has, and the next one after a while.
    pub(crate) fn fault(&mut self) {
        if self.healed {
            return;
        }
        if !self.is_assembled() || self.now_us < self.calm_until_us {
            return self.after(200_000, Event::Fault);
        }
        let faults = self.options.faults.clone();
        let kinds = [
            faults.kills,
            faults.power_cuts,
            faults.freezes,
            faults.breaks,
            faults.partitions,
            faults.one_way,
            faults.slow_disks,
            faults.failed_writes,
            faults.clock_jumps,
            faults.connection_deaths,
            faults.lost_disks,
            faults.moves,
            faults.rots,
        ];
        let sum: u64 = kinds.iter().sum();
        if sum == 0 {
            return;
        }
        let pause_ms = self.faults.from(PAUSE_MS, PAUSE_MS + 2 * 60_000 / sum);
        self.after(pause_ms * 1_000, Event::Fault);
        let mut drawn = self.faults.below(sum);
        let mut kind = 0;
        while drawn >= kinds[kind] {
            drawn -= kinds[kind];
            kind += 1;
        }
        let id = self.any_node();
        let now_us = self.now_us;
        match kind {
            0 => self.crash(id, true),
            1 => self.crash(id, false),
            2 => {
                let until_us = now_us + 1_000 * self.faults.from(10, 3_500);
                self.say(|| format!("node {id} stands still until {until_us} us"));
                // What waits for its thaw keeps its order: it is not frozen anew before.
                if let Some(node) = self.nodes.get_mut(&id)
                    && node.frozen_until_us <= now_us
                {
                    node.frozen_until_us = until_us;
                }
            }
            3 => {
                let peer = self.any_node();
                if peer != id {
                    self.say(|| format!("the stream from node {id} to node {peer} breaks"));
                    self.break_link(id, peer, false, 30_000);
                }
            }
            4 => {
                // Some nodes on one side, the rest on the other.
                let sides: Vec<bool> = self.members.iter().map(|_| self.faults.below(2) == 0).collect();
                let members = self.members.clone();
                let mut pairs = Vec::new();
                for (from, side) in members.iter().zip(&sides) {
                    for (to, other) in members.iter().zip(&sides) {
                        if side != other {
                            pairs.push((*from, *to));
                        }
                    }
                }
                self.block(pairs);
            }
            5 => {
                let peer = self.any_node();
                if peer != id {
                    self.block(vec![(id, peer)]);
                }
            }
            6 => {
                let until_us = now_us + 1_000 * self.faults.from(100, 5_000);
                self.say(|| format!("node {id}'s disk is slow until {until_us} us"));
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.slow_until_us = until_us;
                }
            }
            7 => {
                self.say(|| format!("node {id}'s next write fails"));
                if let Some(node) = self.nodes.get_mut(&id)
                    && node.run.is_some()
                {
                    node.store.fail_next_write();
                }
            }
            8 => {
                let by_ms = self.faults.from(0, 4_000) as i64 - 2_000;
                self.say(|| format!("node {id}'s clock jumps by {by_ms} ms"));
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.skew_ms += by_ms;
                }
            }
            9 => {
                let at = self.faults.below(self.seats.len() as u64) as usize;
                self.disconnect(at);
            }
            // One after the other: what two disks held that are lost together may have been nowhere else.
            10 => {
                // Nor while another node is stopped for good, nor where survivors have gone on alone, or are about to.
                let may = !self.has_recovered
                    && !matches!(self.task, Task::Forget(_) | Task::Shrink(..))
                    && (!self.is_only_founder(id) || self.ready_nodes().len() == self.members.len());
                if may && self.is_whole() && self.is_spread(2) {
                    self.lose_disk(id);
                }
            }
            11 => self.move_queue(id),
            // As good as a lost disk, only later.
            _ => {
                let may = !self.has_recovered && self.task == Task::Idle && !self.is_only_founder(id);
                if may && self.is_whole() && self.is_spread(2) {
                    self.rot(id);
                }
            }
        }
    }

    fn is_only_founder(&self, id: NodeId) -> bool {
        self.founders == [id] && !self.nodes[&id].is_late
    }

    /// A record of a node's store is corrupt from now on; mostly the node is to read it soon.
    fn rot(&mut self, id: NodeId) {
        let Some(node) = self.nodes.get(&id) else { return };
        let Some(rot) = node.store.clone().rot(&mut self.faults) else {
            return;
        };
        self.summary.rots += 1;
        self.say(|| format!("node {id}: {rot:?} rots"));
        if self.faults.below(3) > 0 {
            let killed = self.faults.below(2) == 0;
            self.crash(id, killed);
        }
    }

    /// A node loses its power and its disk, and gets a new one.
    pub(crate) fn lose_disk(&mut self, id: NodeId) {
        self.crash(id, false);
        let mutation = self.mutation;
        if let Some(node) = self.nodes.get_mut(&id)
            && node.run.is_none()
        {
            node.store = Store::new(mutation);
            node.recovery = None;
            self.summary.lost_disks += 1;
            self.say(|| format!("the disk of node {id} is lost"));
        }
        if self.is_only_founder(id) {
            // Nobody else is named in its configuration: the others must reach it before it begins anew.
            self.calm();
        }
    }

    /// Nothing breaks for a while, and what was blocked is blocked no more.
    fn calm(&mut self) {
        let now_us = self.now_us;
        self.calm_until_us = now_us + CALM_US;
        let pairs: Vec<_> = self.links.keys().copied().collect();
        for pair in pairs {
            self.unblock(pair);
        }
        for node in self.nodes.values_mut() {
            node.frozen_until_us = node.frozen_until_us.min(now_us);
        }
    }

    /// An operator of node `id` has a queue go elsewhere.
    fn move_queue(&mut self, id: NodeId) {
        let members = self.members.clone();
        // Enough for the loss of one node or disk, where there is one.
        let loses = self.options.loses_node || self.options.faults.lost_disks + self.options.faults.rots > 0;
        let least = if loses { 3.min(members.len() as u64) } else { 1 };
        let count = self.faults.from(least, members.len() as u64) as usize;
        let mut wanted = members;
        while wanted.len() > count {
            let at = self.faults.below(wanted.len() as u64) as usize;
            wanted.remove(at);
        }
        let leader = *self.faults.pick(&wanted);
        let drawn = self.faults.below(u64::from(u32::MAX));
        let Some(run) = self.nodes.get(&id).and_then(|node| node.run.as_ref()) else {
            return;
        };
        if let Some(group) = run.place_any_queue(drawn, wanted.clone(), leader) {
            self.say(|| format!("group {group} is to move to {wanted:?}, led by {leader}"));
        }
        self.after_step(id, Ok(()));
    }

    fn block(&mut self, pairs: Vec<(NodeId, NodeId)>) {
        let for_us = 1_000 * self.faults.from(50, 6_000);
        self.block_for(pairs, for_us);
    }

    pub(crate) fn block_for(&mut self, pairs: Vec<(NodeId, NodeId)>, for_us: u64) {
        self.say(|| format!("nothing passes between {pairs:?} for {for_us} us"));
        for pair in &pairs {
            if let Some(link) = self.links.get_mut(pair) {
                link.blocked = true;
            }
        }
        self.after(for_us, Event::Unblock(pairs));
    }

    /// A node's process ends at once: with `killed`, what it had written is safe with its system; else the power is
    /// gone, and with it what was not synced.
    pub(crate) fn crash(&mut self, id: NodeId, killed: bool) {
        let written = self.faults.below(2) == 0;
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Some(run) = node.run.take() else { return };
        run.disk.abandon(written);
        let unsynced = node.store.memory().unsynced() as u64;
        let kept = if killed {
            unsynced
        } else {
            self.faults.from(0, unsynced)
        };
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.store.reopen(kept as usize);
        node.host_up = killed;
        node.frozen_until_us = 0;
        node.starting = true;
        self.summary.crashes += 1;
        self.say(|| format!("node {id} is gone (killed: {killed}, {kept} of {unsynced} unsynced writes kept)"));
        drop(run);
        for peer in self.nodes.keys().copied().collect::<Vec<_>>() {
            if peer == id {
                continue;
            }
            for (from, to) in [(id, peer), (peer, id)] {
                let len = self.links[&(from, to)].flying.len() as u64;
                let kept = if from == id {
                    self.faults.from(0, len) as usize
                } else {
                    0
                };
                let Some(link) = self.links.get_mut(&(from, to)) else {
                    continue;
                };
                link.flying.truncate(kept);
                link.broken = true;
                let stream = if from == id { link.receiver } else { link.sender };
                if from == id {
                    link.sender = 0;
                    link.waiting.clear();
                } else {
                    link.receiver = 0;
                }
                let Some(run) = self.nodes[&peer].run.as_ref().map(|run| run.number) else {
                    continue;
                };
                // A killed process's system says so at once; a dead machine says nothing.
                let delay = if killed && !self.links[&(id, peer)].blocked {
                    self.faults.from(200, 10_000)
                } else {
                    self.faults.from(1_000_000, 3_000_000)
                };
                let ended = Ended {
                    node: peer,
                    run,
                    from,
                    to,
                    stream,
                    by_peer: killed,
                };
                self.after(delay, Event::Ended(ended));
            }
        }
        for at in 0..self.seats.len() {
            if self.seats[at].server.is_some_and(|(node, ..)| node == id) {
                let connection = self.seats[at].connection;
                let delay = if killed { 500 } else { 1_000_000 };
                self.after(delay, Event::ToClient(at, connection, None));
            }
        }
        let down_ms = if self.healed {
            50
        } else {
            *self.faults.pick(&[5, 50, 300, 2_000, 6_000])
        };
        self.after(1_000 * down_ms, Event::Start(id));
    }

    /// A client's socket is gone, without a word to the broker.
    fn disconnect(&mut self, at: usize) {
        if let Some((node, run, key)) = self.seats[at].server {
            self.say(|| format!("the connection of client {at} dies"));
            self.after(100, Event::FromClient(node, run, key, None));
            let connection = self.seats[at].connection;
            self.after(0, Event::ToClient(at, connection, None));
        }
    }

    /// Bytes for a client, or the end of its socket.
    pub(crate) fn for_client(&mut self, at: usize, connection: u64, bytes: Option<bytes::Bytes>) {
        let now_ms = self.now_ms();
        let seat = &mut self.seats[at];
        if seat.connection != connection || seat.client.is_offline() {
            return;
        }
        match bytes {
            Some(bytes) => seat
                .client
                .hear(&bytes, now_ms, &self.options, &mut self.work, &mut self.checker),
            None => {
                seat.client.disconnected(now_ms);
                seat.server = None;
            }
        }
        self.say_out(at);
    }

    /// What a client wants to send leaves.
    fn say_out(&mut self, at: usize) {
        let seat = &mut self.seats[at];
        let Some((node, run, key)) = seat.server else {
            seat.client.out.clear();
            return;
        };
        if seat.client.out.is_empty() {
            return;
        }
        let bytes = seat.client.out.split().freeze();
        // The same pace always: nothing overtakes on one socket.
        self.after(40, Event::FromClient(node, run, key, Some(bytes)));
    }

    /// A client's turn.
    pub(crate) fn act(&mut self, at: usize) {
        let pause = self.work.from(1_000, 40_000);
        self.after(pause, Event::Act(at));
        let now_ms = self.now_ms();
        if self.seats[at].client.is_offline() {
            return self.connect(at);
        }
        if self.seats[at].client.gives_up(now_ms) {
            return self.disconnect(at);
        }
        let seat = &mut self.seats[at];
        seat.client.act(&self.options, &mut self.work, &mut self.checker);
        self.say_out(at);
    }

    fn connect(&mut self, at: usize) {
        if !self.is_assembled() {
            return;
        }
        let id = {
            let members = self.members.clone();
            *self.work.pick(&members)
        };
        let now_us = self.now_us;
        let now_ms = self.now_ms();
        let key = self.next_session + 1;
        let Some(node) = self.nodes.get_mut(&id) else { return };
        if node.frozen_until_us > now_us {
            return;
        }
        let Some(run) = node.run.as_mut() else { return };
        if !run.is_ready() {
            return;
        }
        self.next_session = key;
        let seat = &mut self.seats[at];
        seat.connection += 1;
        seat.server = Some((id, run.number, key));
        run.accept(key, (at, seat.connection), now_us);
        seat.client.connected(now_ms);
        self.say_out(at);
    }

    /// Mistakes that a mutation makes in what a node sends.
    pub(crate) fn mutated(
        &mut self,
        from: NodeId,
        envelope: warren_cluster::transport::Envelope,
    ) -> warren_cluster::transport::Envelope {
        use bytes::{BufMut as _, BytesMut};
        use prost_raft::Message as _;
        use raft::eraftpb::{Message, MessageType};
        use warren_cluster::transport::{Envelope, Port};

        let Some(mutation) = self.mutation else { return envelope };
        let number = self.nodes[&from].run.as_ref().map_or(0, |run| run.number);
        match (mutation, envelope.port) {
            (Mutation::ConfirmsEarly, Port::QUEUE) => {
                if let Some((batch, events)) = Mutation::early(envelope.to, &envelope.payload)
                    && batch.session.node == from
                {
                    let mut payload = BytesMut::new();
                    payload.put_u64_le(batch.session.incarnation);
                    events.encode(&mut payload);
                    let early = Envelope {
                        port: Port::SESSION,
                        to: batch.session.id,
                        payload: payload.freeze(),
                    };
                    self.after(10, Event::Stray(from, number, from, early));
                }
            }
            (Mutation::RenamesSessions, Port::QUEUE) => {
                if let Some((batch, _)) = Mutation::early(envelope.to, &envelope.payload)
                    && batch.first_seq == 1
                {
                    let doubled = Envelope {
                        payload: Mutation::renamed(&envelope.payload),
                        ..envelope.clone()
                    };
                    self.after(10, Event::Stray(from, number, from, doubled));
                    // Wherever the leader is.
                    for peer in self.members.clone() {
                        if let Some(run) = self.nodes[&peer].run.as_ref().map(|run| run.number) {
                            let doubled = Envelope {
                                payload: Mutation::renamed(&envelope.payload),
                                ..envelope.clone()
                            };
                            self.after(10, Event::Stray(peer, run, from, doubled));
                        }
                    }
                }
            }
            (Mutation::GrantsVotes | Mutation::AcksEarly | Mutation::DoesNotFence, Port::RAFT) => {
                // The message's length and the message; the payloads of its entries follow.
                let (len, rest) = envelope.payload.split_at(4);
                let len = len.try_into().map_or(0, u32::from_le_bytes) as usize;
                let (head, payloads) = rest.split_at(len);
                if len == 0 {
                    return envelope;
                }
                if let Ok(mut message) = Message::decode(head) {
                    match (mutation, message.get_msg_type()) {
                        (Mutation::GrantsVotes, MessageType::MsgRequestVoteResponse) => message.reject = false,
                        (Mutation::AcksEarly, MessageType::MsgAppendResponse) if !message.reject => message.index += 1,
                        // What is decoded and encoded anew is without the fence.
                        (Mutation::DoesNotFence, _) => {}
                        _ => return envelope,
                    }
                    let mut payload = BytesMut::new();
                    payload.put_u32_le(message.encoded_len() as u32);
                    payload.extend_from_slice(&message.encode_to_vec());
                    payload.extend_from_slice(payloads);
                    return Envelope {
                        payload: payload.freeze(),
                        ..envelope
                    };
                }
            }
            _ => {}
        }
        envelope
    }
}
