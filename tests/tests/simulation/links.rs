//! The network: streams that open, break and are noticed to have broken; what arrives, what is lost, late or doubled.

use warren_cluster::NodeId;
use warren_cluster::liveness;
use warren_cluster::transport::{
    Envelope, Inbox as _, OutgoingSnapshot, PeerState, Port, Side, SnapshotEnd, SnapshotError, SnapshotOffer,
    SnapshotPart,
};

use super::mutation::Mutation;
use super::world::{BEAT_US, Ended, Event, World};

/// Without a sign of life for so long, an end of a stream gives it up.
const GIVEN_UP_US: u64 = 3_000_000;
/// What a link takes while it is not open.
const CLOSED_MAX: usize = 1_024;

impl World {
    /// A run hands an envelope to its link.
    pub(crate) fn send(&mut self, from: NodeId, to: NodeId, envelope: Envelope) {
        let envelope = self.mutated(from, envelope);
        let (low, high) = self.options.latency_us;
        let at_us = self.now_us + self.network.from(low, high);
        let Some(link) = self.links.get_mut(&(from, to)) else {
            return;
        };
        if link.sender == 0 {
            if link.waiting.len() < CLOSED_MAX {
                link.waiting.push_back(envelope);
            }
            return;
        }
        // In order: nothing overtakes on one stream.
        let at_us = link.flying.back().map_or(at_us, |(last, ..)| at_us.max(*last));
        link.flying.push_back((at_us, link.sender, envelope));
        self.at(at_us, Event::Arrive(from, to));
    }

    pub(crate) fn arrive(&mut self, from: NodeId, to: NodeId) {
        let now_us = self.now_us;
        let Some(link) = self.links.get_mut(&(from, to)) else {
            return;
        };
        if link.blocked || link.flying.front().is_none_or(|(at_us, ..)| *at_us > now_us) {
            return;
        }
        let frozen_until_us = self.nodes[&to].frozen_until_us;
        if frozen_until_us > now_us {
            return self.at(frozen_until_us, Event::Arrive(from, to));
        }
        let Some((_, stream, envelope)) = link.flying.pop_front() else {
            return;
        };
        if link.receiver == stream {
            link.heard_us = now_us;
        }
        let current = link.receiver == stream;
        let left = link.sender == stream;
        if left
            && let Some(run) = self.nodes[&from].run.as_ref()
            && run.net.left(to)
        {
            run.inbox.link_writable(to);
            self.after_step(from, Ok(()));
        }
        let Some(number) = self.nodes[&to].run.as_ref().map(|run| run.number) else {
            return;
        };
        if !current {
            return;
        }
        // What a full mailbox may drop, and what may come again after a stream was opened anew.
        if self.mutation == Some(Mutation::LosesEvents) && envelope.port == Port::SESSION && self.network.chance(100) {
            return;
        }
        let loose = envelope.port != Port::SESSION;
        if loose && !self.healed {
            let faults = self.options.faults.clone();
            if self.network.chance(faults.lost) {
                return;
            }
            if self.network.chance(faults.doubled) {
                let delay = self.network.from(1, 50_000);
                self.after(delay, Event::Stray(to, number, from, envelope.clone()));
            }
            if self.network.chance(faults.late) {
                let delay = self.network.from(1, 50_000);
                return self.after(delay, Event::Stray(to, number, from, envelope));
            }
        }
        self.deliver(from, to, envelope);
    }

    pub(crate) fn deliver(&mut self, from: NodeId, to: NodeId, envelope: Envelope) {
        if let Some(run) = self.nodes[&to].run.as_ref()
            && (from == to || run.net.is_peer(from))
        {
            run.inbox.deliver(from, envelope);
        }
        self.after_step(to, Ok(()));
    }

    /// Lets liveness know, and does what follows, as the transport does.
    fn live(&mut self, node: NodeId, event: liveness::Event) {
        let now_ms = self.now_ms();
        let Some(run) = self.nodes.get_mut(&node).and_then(|node| node.run.as_mut()) else {
            return;
        };
        let mut effects = Vec::new();
        let mut reopens = Vec::new();
        run.liveness.step(now_ms, event, &mut effects);
        for effect in effects {
            match effect {
                liveness::Effect::Changed(peer, state) => {
                    run.net.set_peer(peer, state);
                    run.inbox.peer_changed(peer, state);
                }
                liveness::Effect::Replaced(peer) => {
                    run.net.reset(peer);
                    run.inbox.link_reset(peer);
                    reopens.push((run.number, peer));
                    for (ends, link) in &mut self.links {
                        if *ends == (node, peer) {
                            link.waiting.clear();
                            link.sender = 0;
                        } else if *ends == (peer, node) {
                            link.receiver = 0;
                        }
                    }
                }
            }
        }
        for (number, peer) in reopens {
            let delay = self.network.from(500, 40_000);
            self.after(delay, Event::Open(node, number, peer));
        }
    }

    /// Mistakes that a mutation makes in the state that a snapshot brings.
    fn spoil_snapshot(&self, from: NodeId, group: u64, parts: &mut Vec<Part>) {
        let Some(mutation) = self.mutation else { return };
        let replica = self.nodes[&from].run.as_ref().and_then(|run| run.queues.get(&group));
        let Some(replica) = replica else { return };
        let (state, entries): (Vec<Part>, Vec<Part>) = std::mem::take(parts)
            .into_iter()
            .partition(|part| matches!(part, Ok(SnapshotPart::State(_))));
        let chunks: Vec<_> = state
            .iter()
            .filter_map(|part| match part {
                Ok(SnapshotPart::State(chunk)) => Some(chunk.clone()),
                _ => None,
            })
            .collect();
        match mutation.spoil_state(replica.core().machine().declared().clone(), &chunks) {
            Some(spoiled) => parts.extend(spoiled.into_iter().map(|chunk| Ok(SnapshotPart::State(chunk)))),
            None => parts.extend(state),
        }
        parts.extend(entries);
    }

    /// A run tries to open its stream to a peer.
    pub(crate) fn open(&mut self, id: NodeId, peer: NodeId) {
        let number = self.nodes[&id].run.as_ref().map_or(0, |run| run.number);
        let is_peer = self.nodes[&id].run.as_ref().is_some_and(|run| run.net.is_peer(peer));
        if self.links[&(id, peer)].sender != 0 || !is_peer {
            return;
        }
        let blocked = self.links[&(id, peer)].blocked || self.links[&(peer, id)].blocked;
        let there = self.nodes[&peer].run.as_ref().map(|run| (run.number, run.incarnation));
        let frozen = self.nodes[&peer].frozen_until_us > self.now_us;
        let retry = self.network.from(20_000, 400_000);
        if blocked || frozen || !self.nodes[&peer].host_up {
            return self.after(retry, Event::Open(id, number, peer));
        }
        let Some((_, incarnation)) = there else {
            self.live(id, liveness::Event::Refused { node: peer });
            self.after_step(id, Ok(()));
            return self.after(retry, Event::Open(id, number, peer));
        };
        let own = self.nodes[&id].run.as_ref().map_or(0, |run| run.incarnation);
        let admits = |world: &Self, node: NodeId, of: NodeId, incarnation: u64| {
            world.nodes[&node]
                .run
                .as_ref()
                .is_some_and(|run| run.liveness.admit(of, incarnation).is_ok())
        };
        if !admits(self, id, peer, incarnation) || !admits(self, peer, id, own) {
            return self.after(retry, Event::Open(id, number, peer));
        }
        if !self.introduce(id, peer) {
            self.after_step(peer, Ok(()));
            self.after_step(id, Ok(()));
            return self.after(retry, Event::Open(id, number, peer));
        }
        // The callee first, then the caller, as the handshake goes.
        let opened = liveness::Event::Opened {
            node: id,
            incarnation: own,
        };
        self.live(peer, opened);
        let now_us = self.now_us;
        let link = self.links.get_mut(&(id, peer)).expect("all pairs have links");
        link.newest += 1;
        link.broken = false;
        let before = std::mem::replace(&mut link.receiver, link.newest);
        let stream = link.newest;
        let follows = std::mem::replace(&mut link.runs, (own, incarnation)) == (own, incarnation) || before != 0;
        link.heard_us = now_us;
        link.answered_us = now_us;
        if follows && let Some(run) = self.nodes[&peer].run.as_ref() {
            run.inbox.link_reset(id);
        }
        if before != 0 {
            // A stream that this end still took for open: superseded.
            self.live(
                peer,
                liveness::Event::Closed {
                    node: id,
                    incarnation: own,
                    by_peer: false,
                },
            );
        }
        self.after_step(peer, Ok(()));
        self.live(
            id,
            liveness::Event::Opened {
                node: peer,
                incarnation,
            },
        );
        let link = self.links.get_mut(&(id, peer)).expect("all pairs have links");
        link.sender = stream;
        let waiting = std::mem::take(&mut link.waiting);
        for envelope in waiting {
            self.send(id, peer, envelope);
        }
        if let Some(run) = self.nodes[&id].run.as_ref() {
            run.inbox.link_writable(peer);
        }
        self.after_step(id, Ok(()));
    }

    /// Each end says where it stands and judges the other; whether they come to terms. One that the other refuses for good
    /// ends.
    fn introduce(&mut self, id: NodeId, peer: NodeId) -> bool {
        let (Some(caller), Some(callee)) = (&self.nodes[&id].run, &self.nodes[&peer].run) else {
            return false;
        };
        let says = self.mutation != Some(Mutation::FoundsAnew);
        if says {
            caller.inbox.met(callee.net.says_to(id));
        }
        if caller.net.is_forgotten(peer, self.nodes[&peer].directory) {
            return false;
        }
        let said = caller.net.says_to(peer);
        if says {
            callee.inbox.met(said.clone());
        }
        let side = callee.net.membership.standing().side_of(&said);
        let is_fenced = side == Side::Behind && self.mutation != Some(Mutation::DoesNotFence);
        let is_known = callee.net.is_peer(id);
        if callee.net.is_forgotten(id, self.nodes[&id].directory) || is_known && is_fenced {
            self.expel(id, "is told that it is no part of the cluster any more");
            return false;
        }
        is_known && (matches!(side, Side::Same | Side::Behind) || !says)
    }

    /// A node's peers are others than before.
    pub(crate) fn peers_change(&mut self, id: NodeId, new: Vec<NodeId>, gone: Vec<NodeId>) {
        let Some(number) = self.nodes[&id].run.as_ref().map(|run| run.number) else {
            return;
        };
        for peer in gone {
            self.say(|| format!("node {peer} is no peer of node {id} any more"));
            for (from, to) in [(id, peer), (peer, id)] {
                let link = self.links.get_mut(&(from, to)).expect("all pairs have links");
                let stream = if from == id {
                    link.waiting.clear();
                    std::mem::take(&mut link.sender)
                } else {
                    std::mem::take(&mut link.receiver)
                };
                let other = self.nodes[&peer].run.as_ref().map(|run| run.number);
                if let Some(run) = other.filter(|_| stream != 0) {
                    let ended = Ended {
                        node: peer,
                        run,
                        from,
                        to,
                        stream,
                        by_peer: false,
                    };
                    let delay = self.network.from(200, 10_000);
                    self.after(delay, Event::Ended(ended));
                }
            }
            let Some(run) = self.nodes.get_mut(&id).and_then(|node| node.run.as_mut()) else {
                return;
            };
            run.net.drop_peer(peer);
            if let Some(PeerState::Up { incarnation }) = run.liveness.forget(peer) {
                run.inbox.peer_changed(peer, PeerState::Silent { incarnation });
            }
            run.inbox.link_reset(peer);
        }
        for peer in new {
            let delay = self.network.from(500, 20_000);
            self.after(delay, Event::Open(id, number, peer));
        }
        self.after_step(id, Ok(()));
    }

    /// Breaks the stream between two nodes: part of what is on its way is lost, and each end notices in its time.
    pub(crate) fn break_link(&mut self, from: NodeId, to: NodeId, by_peer: bool, notice_us: u64) {
        let kept = {
            let len = self.links[&(from, to)].flying.len() as u64;
            self.faults.from(0, len) as usize
        };
        let Some(link) = self.links.get_mut(&(from, to)) else {
            return;
        };
        if link.newest == 0 || link.broken {
            return;
        }
        link.broken = true;
        link.flying.truncate(kept);
        let stream = link.newest;
        for node in [from, to] {
            let Some(run) = self.nodes[&node].run.as_ref().map(|run| run.number) else {
                continue;
            };
            let delay = self.faults.from(100, notice_us);
            let ended = Ended {
                node,
                run,
                from,
                to,
                stream,
                by_peer,
            };
            self.after(delay, Event::Ended(ended));
        }
    }

    /// An end of a stream notices that it has ended.
    pub(crate) fn ended(&mut self, ended: &Ended) {
        let Ended {
            node,
            run,
            from,
            to,
            stream,
            by_peer,
        } = *ended;
        let peer = if node == from { to } else { from };
        let Some(link) = self.links.get_mut(&(from, to)) else {
            return;
        };
        let end = if node == from {
            &mut link.sender
        } else {
            &mut link.receiver
        };
        if *end != stream {
            return;
        }
        *end = 0;
        let incarnation = self.nodes[&node]
            .run
            .as_ref()
            .and_then(|run| run.liveness.state(peer))
            .map_or(0, PeerState::incarnation);
        self.live(
            node,
            liveness::Event::Closed {
                node: peer,
                incarnation,
                by_peer,
            },
        );
        if let Some(present) = self.nodes[&node].run.as_ref() {
            if node == from {
                present.net.reset(peer);
            }
            present.inbox.link_reset(peer);
        }
        if node == from {
            let delay = self.network.from(500, 40_000);
            self.after(delay, Event::Open(node, run, peer));
        }
        self.after_step(node, Ok(()));
    }

    /// Pings and their absence.
    pub(crate) fn beat(&mut self, id: NodeId) {
        let now_us = self.now_us;
        let number = self.nodes[&id].run.as_ref().map_or(0, |run| run.number);
        for peer in self.nodes.keys().copied().collect::<Vec<_>>() {
            if peer == id {
                continue;
            }
            let there = self.nodes[&peer].frozen_until_us <= now_us;
            let runs = self.nodes[&peer].run.as_ref().map(|run| run.incarnation);
            let clear = !self.links[&(peer, id)].blocked;
            let back = !self.links[&(id, peer)].blocked;
            let inward = self.links.get_mut(&(peer, id)).expect("all pairs have links");
            let mut given_up = Vec::new();
            if inward.receiver != 0 {
                if there && clear && inward.sender == inward.receiver && !inward.broken {
                    inward.heard_us = now_us;
                }
                if now_us > inward.heard_us + GIVEN_UP_US {
                    given_up.push((peer, id, inward.receiver));
                }
            }
            let heard_us = inward.heard_us;
            let open = inward.receiver != 0;
            let outward = self.links.get_mut(&(id, peer)).expect("all pairs have links");
            if outward.sender != 0 {
                if there && clear && back && outward.sender == outward.receiver && !outward.broken {
                    outward.answered_us = now_us;
                }
                if now_us > outward.answered_us + GIVEN_UP_US {
                    given_up.push((id, peer, outward.sender));
                }
            }
            if open && let Some(incarnation) = runs {
                self.live(
                    id,
                    liveness::Event::Heard {
                        node: peer,
                        incarnation,
                        at_ms: heard_us / 1_000,
                    },
                );
            }
            for (from, to, stream) in given_up {
                self.ended(&Ended {
                    node: id,
                    run: number,
                    from,
                    to,
                    stream,
                    by_peer: false,
                });
            }
        }
        self.live(id, liveness::Event::Tick);
        self.after(BEAT_US, Event::Beat(id, number));
        self.after_step(id, Ok(()));
    }

    /// A link that was blocked carries again what was held up.
    pub(crate) fn unblock(&mut self, (from, to): (NodeId, NodeId)) {
        let Some(link) = self.links.get_mut(&(from, to)) else {
            return;
        };
        link.blocked = false;
        for _ in 0..link.flying.len() {
            self.after(10, Event::Arrive(from, to));
        }
        let now_us = self.now_us;
        if let Some(link) = self.links.get_mut(&(from, to)) {
            for (at_us, ..) in &mut link.flying {
                *at_us = (*at_us).min(now_us);
            }
        }
    }

    /// A snapshot goes from one node to another.
    pub(crate) fn snapshot(&mut self, from: NodeId, to: NodeId, snapshot: OutgoingSnapshot) {
        let OutgoingSnapshot {
            group,
            message,
            chunks,
            done,
        } = snapshot;
        let name = || format!("node-{to}");
        let broken = |text: &str| Err(SnapshotError::Broken(name(), text.into()));
        let blocked = self.links[&(from, to)].blocked || self.links[&(to, from)].blocked;
        let frozen = self.nodes[&to].frozen_until_us > self.now_us;
        let fault = !self.healed && self.faults.chance(self.options.faults.broken_snapshots);
        let breaks_after = if fault { self.faults.below(3) } else { u64::MAX };
        let mut parts: Vec<_> = chunks.collect();
        if self.mutation == Some(Mutation::DropsLiveEntry) {
            drop_entry(&mut parts);
        }
        self.spoil_snapshot(from, group, &mut parts);
        let result = match self.nodes[&to].run.as_ref() {
            Some(run) if !blocked && !frozen && run.net.is_peer(from) => {
                run.disk.set_inline(true);
                let offer = SnapshotOffer { group, message };
                let result = match run.inbox.snapshot_begin(from, offer) {
                    Err(refused) => Err(SnapshotError::Refused(name(), refused.to_string())),
                    Ok(mut sink) => {
                        let mut end = SnapshotEnd::default();
                        let mut result = Ok(());
                        for (at, part) in (0..).zip(parts) {
                            let taken = match part {
                                Err(error) => {
                                    result = Err(SnapshotError::Source(error));
                                    break;
                                }
                                _ if at >= breaks_after => Err("the stream broke".into()),
                                Ok(SnapshotPart::State(chunk)) => {
                                    end.state_len += chunk.len() as u64;
                                    sink.state(chunk)
                                }
                                Ok(SnapshotPart::Entries(entries)) => {
                                    end.entry_count += entries.len() as u64;
                                    sink.entries(entries)
                                }
                            };
                            if let Err(error) = taken {
                                result = broken(&error.to_string());
                                break;
                            }
                        }
                        match result {
                            Ok(()) => sink
                                .finish(end)
                                .map_err(|error| SnapshotError::Refused(name(), error.to_string())),
                            failed => failed,
                        }
                    }
                };
                run.disk.set_inline(false);
                result
            }
            _ => broken("no way there"),
        };
        self.summary.snapshots += u64::from(result.is_ok());
        self.say(|| format!("a snapshot of group {group} from node {from} to node {to}: {result:?}"));
        done(result);
        self.after_step(to, Ok(()));
        self.after_step(from, Ok(()));
    }
}

type Part = Result<SnapshotPart, warren_cluster::transport::BoxError>;

fn drop_entry(parts: &mut [Part]) {
    for part in parts {
        if let Ok(SnapshotPart::Entries(entries)) = part {
            entries.pop();
            return;
        }
    }
}
