//! One Raft group on one node, as a struct: an event goes in, effects come out.
//!
//! ```text
//!   propose ─▶ RawNode ──ready──▶ Send      (a leader's appends leave before its own sync)
//!   Message ─▶    │                Write     (log, vote, snapshot: to the node's one writer)
//!   Tick    ─▶    │                Machine   (what applied entries ask for; the leader's only)
//!   Persisted ────┘                Role
//! ```
//!
//! No actor, no await, no clock, no thread. The log is read synchronously through [`LogStore`]; everything is
//! written through `Write` effects, whose order is the order in which they must reach the disk.
//!
//! A group does not tick while it is idle. Whether the leader's node lives is a fact per node, not per group, and
//! comes in as [`Event::PeerDown`].

use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::{Buf, BufMut, Bytes};
use raft::eraftpb::{Message, MessageType};
use raft::{RawNode, SnapshotStatus, StateRole};

use crate::log::{LogStore, ReplicaState, Write};
use crate::machine::Machine;
use crate::{GroupId, NodeId};
use clock::Clock;
use compaction::restore;
pub use members::{Course, Goal, retire};
use storage::LogView;
pub use types::{Effect, Error, Event, Options, ProposeError, Role, Status, check_version};
use wire::Place;

mod clock;
mod compaction;
mod fresh;
mod members;
pub mod reform;
mod round;
pub mod shell;
mod sound;
mod storage;
#[cfg(test)]
mod tests;
mod types;
mod wire;

/// Bytes before the payload of a normal entry: version and time.
const ENTRY_HEADER_LEN: usize = 10;

/// The version, the time and the payload of a normal entry; `None`: it holds nothing.
fn stamped(data: &[u8]) -> Option<(u16, u64, &[u8])> {
    let (mut header, payload) = data.split_at_checked(ENTRY_HEADER_LEN)?;
    Some((header.get_u16_le(), header.get_u64_le(), payload))
}

const ELECTION_TICKS: usize = 10;
/// Ticks that the members of a new group leave to the one that is to lead it, before they stand in turn.
const FOUNDING_TICKS: u64 = 5;
/// Ticks that a leader goes on after all is settled.
const LINGER_TICKS: u32 = 3;

/// One replica of one group.
pub struct GroupCore<M: Machine> {
    group: GroupId,
    node: NodeId,
    /// The voters, ascending. None: nobody has told this replica yet.
    members: Vec<NodeId>,
    /// Who is sent the log and has no vote, ascending.
    learners: Vec<NodeId>,
    /// The last entry that changed the members, or a later one.
    changed_at: u64,
    /// The entry by which a leader finds out that the change is on enough disks, and those who knew of it before.
    proof: Option<(u64, Vec<NodeId>)>,
    /// It led, was removed, and knows of no leader since.
    has_abdicated: bool,
    /// It is to tell the voters so.
    is_abdicating: bool,
    options: Options,
    raw: RawNode<LogView>,
    machine: M,
    applied: u64,
    /// The newest stamp that this leader has proposed or seen applied.
    stamp_ms: u64,
    /// The group's time, since this replica leads and has looked.
    clock: Option<Clock>,
    /// The newest version among the entries that made the machine's state.
    version: u16,
    role: Role,
    reported: Option<(Role, u64, u64)>,
    /// Messages that must wait for the write with their number.
    waiting: VecDeque<(u64, Vec<Message>)>,
    /// Readies whose write is on its way: their numbers, and the last entry of each.
    writing: VecDeque<(u64, Option<u64>)>,
    log_bytes_since_snapshot: u64,
    /// Payloads that were proposed in this term and are not applied.
    uncommitted_bytes: u64,
    snapshot_bytes: u64,
    /// Peers whose node is not reachable.
    down: Vec<NodeId>,
    /// Peers to which a snapshot was sent and who have not said that they hold it: its index.
    sending: BTreeMap<NodeId, u64>,
    /// Ticks left in which a leader keeps ticking.
    linger: u32,
    /// Ticks without a leader until this replica stands for election.
    campaign_in: u64,
    /// State of [`GroupCore::draw`].
    random: u64,
    /// A snapshot staged for this replica and not yet consumed.
    staged: Option<(u32, u32)>,
    effects: Vec<M::Effect>,
    /// Why this replica cannot go on; told by the next [`GroupCore::poll`].
    failed: Option<Error>,
    /// Entries whose last message the latest round took.
    freed: Vec<u64>,
    /// See [`fresh`].
    fresh: fresh::Freshness,
    /// See [`GroupCore::poll_reform`].
    reforms: bool,
}

impl<M: Machine> GroupCore<M> {
    /// Opens the replica: as stored, or new with `members` as its voters, those that the group began with. Where they
    /// are not known it opens without any, and learns them from its leader.
    ///
    /// A new replica's first state is among the first effects of [`GroupCore::poll`].
    pub fn open(
        node: NodeId,
        group: GroupId,
        members: &[NodeId],
        store: Arc<dyn LogStore>,
        mut machine: M,
        options: Options,
        out: &mut Vec<Effect<M::Effect>>,
    ) -> Result<Self, Error> {
        let state = match store.state(group)? {
            Some(state) if !state.removed => state,
            known => {
                let state = match known {
                    // What it had promised was to a group that another one has taken the place of, as far as its build
                    // has said: it may have been to this one, and it votes when it has caught up.
                    Some(state) if state.reformed < options.reformed => ReplicaState {
                        term: state.term,
                        vote: state.vote,
                        voters: members.to_vec(),
                        era: options.era,
                        reformed: options.reformed,
                        fresh: members != [node],
                        ..ReplicaState::default()
                    },
                    Some(state) => ReplicaState {
                        removed: false,
                        // Those that it began with may be there no more, and it must not begin anew with them.
                        voters: if state.fresh { Vec::new() } else { members.to_vec() },
                        era: options.era,
                        reformed: options.reformed.max(state.reformed),
                        ..state
                    },
                    None => ReplicaState {
                        voters: members.to_vec(),
                        // The only one has nobody to catch up with, or must be told that it has.
                        fresh: options.fresh && (members != [node] || options.founds_after_ticks > 0),
                        era: options.era,
                        reformed: options.reformed,
                        ..ReplicaState::default()
                    },
                };
                out.push(Effect::Write {
                    writes: vec![Write::State {
                        group,
                        state: state.clone(),
                    }],
                    sync: true,
                    number: None,
                });
                state
            }
        };
        // What was staged for a run that ended before it took it over.
        let staged = store.generations(group)?.into_iter();
        let left_over: Vec<Write> = staged
            .filter(|generation| *generation != state.generation)
            .map(|generation| Write::DropGeneration { group, generation })
            .collect();
        if !left_over.is_empty() {
            out.push(Effect::Write {
                writes: left_over,
                sync: false,
                number: None,
            });
        }
        let (snapshot_bytes, stamp) = restore(&*store, group, &state, &mut machine, &options.versions)?;
        let (members, learners) = (state.voters.clone(), state.learners.clone());
        let config = raft::Config {
            id: node,
            election_tick: ELECTION_TICKS,
            heartbeat_tick: 1,
            applied: state.snapshot_index,
            max_size_per_msg: options.append_bytes_max,
            max_inflight_msgs: options.appends_in_flight_max,
            check_quorum: true,
            pre_vote: true,
            skip_bcast_commit: !options.eager_commit,
            max_committed_size_per_ready: 8 << 20,
            ..raft::Config::default()
        };
        let applied = state.snapshot_index;
        let freed = state.freed.clone();
        let view = LogView::open(store, group, state, options.cache_bytes_max)?;
        let logger = slog::Logger::root(slog::Discard, slog::o!());
        let raw = RawNode::new(&config, view, &logger).map_err(|source| Error::Raft { group, source })?;
        let mut core = Self {
            group,
            node,
            members,
            learners,
            changed_at: applied,
            proof: None,
            has_abdicated: false,
            is_abdicating: false,
            options,
            raw,
            machine,
            applied,
            stamp_ms: stamp.time_ms,
            clock: None,
            version: stamp.version,
            role: Role::Follower,
            reported: None,
            waiting: VecDeque::new(),
            writing: VecDeque::new(),
            log_bytes_since_snapshot: 0,
            uncommitted_bytes: 0,
            snapshot_bytes,
            down: Vec::new(),
            sending: BTreeMap::new(),
            linger: LINGER_TICKS,
            campaign_in: 0,
            random: (node ^ group.rotate_left(32)).wrapping_mul(0x9e37_79b9_7f4a_7c15) | 1,
            staged: None,
            effects: Vec::new(),
            failed: None,
            freed,
            fresh: fresh::Freshness::default(),
            reforms: false,
        };
        core.await_turn();
        Ok(core)
    }

    /// The machine, for reads.
    pub fn machine(&self) -> &M {
        &self.machine
    }

    /// The machine, for its own bookkeeping outside the replicated state.
    pub fn machine_mut(&mut self) -> &mut M {
        &mut self.machine
    }

    /// The voters.
    pub fn members(&self) -> &[NodeId] {
        &self.members
    }

    /// This replica's role.
    pub fn role(&self) -> Role {
        self.role
    }

    /// Figures for operators.
    pub fn status(&self) -> Status {
        let raft = &self.raw.raft;
        Status {
            role: self.role,
            leader: self.leader(),
            term: raft.term,
            last_index: raft.raft_log.last_index(),
            commit: raft.raft_log.committed,
            applied: self.applied,
            snapshot_index: self.raw.store().state.snapshot_index,
        }
    }

    /// The leader of the current term, if known.
    pub fn leader(&self) -> Option<NodeId> {
        match self.raw.raft.leader_id {
            raft::INVALID_ID => None,
            leader => Some(leader),
        }
    }

    /// Entries proposed by this leader and not yet applied.
    pub fn in_flight(&self) -> u64 {
        self.raw.raft.raft_log.last_index().saturating_sub(self.applied)
    }

    /// Whether [`Event::Tick`] is needed.
    pub fn is_active(&self) -> bool {
        let raft = &self.raw.raft;
        let leads_on = self.linger > 0 || raft.lead_transferee.is_some();
        let stands = raft.promotable() || self.has_abdicated;
        (self.leader().is_none() && stands) || self.is_fresh() || (raft.state == StateRole::Leader && leads_on)
    }

    /// The payload of an entry that is live or recent.
    pub fn payload(&mut self, index: u64) -> Result<Option<Bytes>, Error> {
        Ok(self.stamped_payload(index)?.map(|(_, payload)| payload))
    }

    /// The same, and its time: see [`Meta::time_ms`].
    pub fn stamped_payload(&mut self, index: u64) -> Result<Option<(u64, Bytes)>, Error> {
        let entry = self.raw.mut_store().entry(index)?;
        Ok(entry.and_then(|entry| {
            let (_, time_ms, payload) = stamped(&entry.data)?;
            Some((time_ms, entry.data.slice_ref(payload)))
        }))
    }

    /// Appends one entry whose payload is `parts` in order, stamped with the version agreed on and with the group's time,
    /// where `now_ms` is that of this node.
    pub fn propose(&mut self, parts: &[Bytes], now_ms: u64) -> Result<(), ProposeError> {
        let time_ms = self.clock(now_ms).time_ms();
        let version = self.options.versions.agreed().max(self.version);
        self.append(version, parts, time_ms)
    }

    /// When the group's time will be `time_ms`, by this node's clock, which shows `now_ms`; as long as this replica leads.
    pub fn comes_ms(&mut self, time_ms: u64, now_ms: u64) -> u64 {
        self.clock(now_ms).comes_ms(time_ms)
    }

    /// The group's clock. It runs from the first look of a leader on.
    fn clock(&mut self, now_ms: u64) -> Clock {
        let clock = self.clock.unwrap_or_else(|| Clock::new(now_ms, self.stamp_ms));
        let clock = clock.at(now_ms);
        if self.role == Role::Leader {
            self.clock = Some(clock);
        }
        clock
    }

    fn append(&mut self, version: u16, parts: &[Bytes], time_ms: u64) -> Result<(), ProposeError> {
        if self.raw.raft.state != StateRole::Leader {
            return Err(ProposeError::NotLeader);
        }
        let len: usize = parts.iter().map(Bytes::len).sum();
        if self.uncommitted_bytes > 0 && self.uncommitted_bytes + len as u64 > self.options.uncommitted_bytes_max {
            return Err(ProposeError::Full);
        }
        let mut data = Vec::with_capacity(ENTRY_HEADER_LEN + len);
        data.put_u16_le(version);
        let time_ms = time_ms.max(self.stamp_ms);
        data.put_u64_le(time_ms);
        for part in parts {
            data.extend_from_slice(part);
        }
        self.linger = LINGER_TICKS;
        // Refused only while leadership is being handed over.
        if self.raw.propose(Vec::new(), wire::name(&data)).is_err() {
            return Err(ProposeError::Full);
        }
        self.stamp_ms = time_ms;
        self.uncommitted_bytes += len as u64;
        let place = Place {
            index: self.raw.raft.raft_log.last_index(),
            term: self.raw.raft.term,
        };
        self.raw.mut_store().arrives(place, data.into());
        Ok(())
    }

    /// Takes one event in. [`GroupCore::poll`] must follow.
    pub fn handle(&mut self, event: Event) {
        match event {
            Event::Message(bytes) => self.message(&bytes, false),
            Event::Persisted(number) => self.persisted(number),
            Event::Tick => self.tick(),
            Event::PeerDown(peer) => self.peer_down(peer),
            Event::PeerUp(peer) => {
                self.down.retain(|down| *down != peer);
                self.lost_sight(peer);
            }
            Event::LinkReset(peer) => self.lost_sight(peer),
            Event::Campaign => self.campaign(),
            Event::SnapshotStaged {
                message,
                generation,
                chunks,
            } => {
                self.staged = Some((generation, chunks));
                self.message(&message, true);
            }
            Event::SnapshotSent { to, ok } => {
                if !ok {
                    self.sending.remove(&to);
                }
                self.raw.report_snapshot(
                    to,
                    if ok {
                        SnapshotStatus::Finish
                    } else {
                        SnapshotStatus::Failure
                    },
                );
                self.linger = LINGER_TICKS;
            }
            Event::TransferLeader(to) => self.hand_over(to),
        }
    }

    fn message(&mut self, bytes: &Bytes, staged: bool) {
        if let Some(hello) = wire::decode_hello(bytes) {
            self.hello(&hello);
            return;
        }
        let decoded = wire::decode(bytes.clone()).filter(|decoded| sound::is_sound(&decoded.message));
        let Some(wire::Decoded {
            mut message,
            payloads,
            reformed,
        }) = decoded
        else {
            tracing::warn!(group = self.group, "a peer sent bytes that are no Raft message");
            return;
        };
        if !self.passes_fence(message.from, reformed) {
            return;
        }
        // Who leads, or stands, may have become a member with an entry that this replica lacks.
        let known = message.from != self.node && message.to == self.node;
        let raft = &self.raw.raft;
        let true_here = sound::can_be(&message, raft.term, raft.state, &raft.raft_log);
        if !known || !true_here || (message.get_msg_type() == MessageType::MsgSnapshot) != staged {
            tracing::warn!(
                group = self.group,
                from = message.from,
                "a peer sent a message that is not for us"
            );
            return;
        }
        if self.is_fresh() {
            if self.is_deaf_to(&message) {
                self.greet(message.from);
                return;
            }
            self.mistrust(&mut message);
        }
        let last_index = self.raw.raft.raft_log.last_index();
        if message.get_msg_type() == MessageType::MsgHeartbeat && message.commit > last_index {
            if message.commit <= self.raw.store().state.promised_index {
                // It was meant for an earlier replica of this node, which was removed. The leader may not have heard of it.
                self.show(message.from);
                return;
            }
            if last_index == 0 {
                // Its queue was deleted here before, which this node does not know yet, or its disk was lost unnoticed.
                self.turn_fresh();
                return;
            }
            // A leader never names a commit index beyond what its follower had acknowledged.
            self.failed = Some(Error::Lost {
                group: self.group,
                last_index,
                commit: message.commit,
            });
            return;
        }
        if message.get_msg_type() == MessageType::MsgTimeoutNow && !self.may_stand() {
            // The leader that wanted to be followed takes its office back.
            return;
        }
        let stands = matches!(
            message.get_msg_type(),
            MessageType::MsgRequestPreVote | MessageType::MsgRequestVote
        );
        if stands && self.leader() == Some(message.from) {
            // Whoever stands for election leads no more. Without ticks, nothing else would end its lease here.
            self.raw.raft.leader_id = raft::INVALID_ID;
            self.await_turn();
        } else if stands && self.raw.raft.state == StateRole::Leader {
            // A peer that lost sight of an idle leader would ask for ever.
            self.linger = LINGER_TICKS;
            self.raw.ping();
        }
        if stands && !self.may_vote_for(&message) {
            return;
        }
        if stands {
            self.defer(&mut message);
        }
        for (place, payload) in payloads {
            self.raw.mut_store().arrives(place, payload);
        }
        let from = message.from;
        // A refused step is a stale or foreign message: Raft tolerates its loss.
        if let Err(error) = self.raw.step(message) {
            tracing::debug!(group = self.group, %error, "message ignored");
        }
        if self.is_fresh() {
            self.adopt_vote();
        }
        if self.leader() == Some(from) && self.down.contains(&from) {
            // A late word of a leader whose node is gone: nobody would tell of its end again.
            self.forget_leader();
        }
    }

    fn tick(&mut self) {
        if self.raw.raft.state == StateRole::Leader {
            self.raw.tick();
            self.linger = if self.settled() {
                self.linger.saturating_sub(1)
            } else {
                LINGER_TICKS
            };
        } else if self.is_fresh() {
            self.tick_fresh();
        } else if self.leader().is_none() && (self.raw.raft.promotable() || self.has_abdicated) {
            // Elections are timed here, not by raft-rs: it knows nothing of nodes and draws from a clock of its own.
            if self.campaign_in == 0 {
                self.campaign();
                self.call_for_promised();
                self.is_abdicating = self.has_abdicated;
                self.campaign_in = self.draw() % (2 * self.members.len() as u64 + 1);
            } else {
                self.campaign_in -= 1;
            }
        }
    }

    /// A number that differs between members and from draw to draw.
    fn draw(&mut self) -> u64 {
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        self.random
    }

    /// Members stand for election in turn at first, so that they seldom split the vote.
    fn await_turn(&mut self) {
        let up = self.members.iter().filter(|member| !self.down.contains(member));
        let rank = up.take_while(|member| **member != self.node).count();
        self.campaign_in = rank as u64;
    }

    /// Another member is to lead this group, which may be new: lets it stand first, if its node is there.
    ///
    /// The members open their replicas one after the other, and whoever is early is not heard by the late.
    pub fn give_way(&mut self, to: NodeId) {
        if self.raw.raft.term == 0 && !self.down.contains(&to) {
            self.campaign_in += FOUNDING_TICKS;
        }
    }

    /// Whether all of the log is committed and applied, and every reachable follower has said that it holds it and
    /// knows so.
    fn settled(&self) -> bool {
        let raft = &self.raw.raft;
        let last = raft.raft_log.last_index();
        let knows = |progress: &raft::Progress| progress.matched == last && progress.committed_index == last;
        raft.raft_log.committed == last
            && self.applied == last
            && raft
                .prs()
                .iter()
                .all(|(peer, progress)| *peer == self.node || knows(progress) || self.down.contains(peer))
    }

    fn campaign(&mut self) {
        if self.raw.raft.state != StateRole::Leader
            && self.raw.raft.promotable()
            && self.may_stand()
            && let Err(error) = self.raw.campaign()
        {
            tracing::debug!(group = self.group, %error, "cannot campaign");
        }
    }

    fn peer_down(&mut self, peer: NodeId) {
        if peer == self.node {
            return;
        }
        if !self.down.contains(&peer) {
            self.down.push(peer);
        }
        self.raw.report_unreachable(peer);
        if self.leader() == Some(peer) {
            self.forget_leader();
            if self.campaign_in == 0 {
                self.campaign();
            }
        }
    }

    /// The lease that this replica grants its leader ends with the leader's node.
    fn forget_leader(&mut self) {
        self.raw.raft.election_elapsed = ELECTION_TICKS;
        self.raw.raft.leader_id = raft::INVALID_ID;
        self.await_turn();
    }

    /// What a leader had sent to that peer may not have come: asks it where it stands.
    fn lost_sight(&mut self, peer: NodeId) {
        let there = self.raw.raft.prs().get(peer).is_some() && !self.down.contains(&peer);
        if self.raw.raft.state == StateRole::Leader && there {
            self.raw.report_unreachable(peer);
            self.linger = LINGER_TICKS;
            self.raw.ping();
        }
    }

    fn persisted(&mut self, number: u64) {
        if number == fresh::ENDED {
            self.freshness_ended();
            return;
        }
        let mut last_entry = None;
        while let Some((written, last)) = self.writing.front().copied() {
            if written > number {
                break;
            }
            last_entry = last.or(last_entry);
            self.writing.pop_front();
        }
        if let Some(last) = last_entry {
            self.raw.mut_store().persisted(last);
        }
        self.raw.on_persist_ready(number);
        // A snapshot counts as applied once it is on the disk.
        let log = &self.raw.raft.raft_log;
        let applied = self.applied.min(log.committed).min(log.persisted);
        if applied > log.applied {
            self.raw.advance_apply_to(applied);
        }
    }

    /// Whether raft-rs may be made to stand for election: it reads the entries between what it counts as applied and
    /// what is committed, and after a snapshot that is not on the disk yet it would look for them before the log's
    /// beginning.
    ///
    /// And what an earlier replica of this node has promised must be in its log.
    fn may_stand(&self) -> bool {
        let log = &self.raw.raft.raft_log;
        let state = &self.raw.store().state;
        // Whoever needs only its own vote leads at once, with what is on its disk.
        let is_stored = self.members.len() > 1 || log.last_index() == log.persisted;
        !self.is_fresh()
            && !self.members.is_empty()
            && is_stored
            && log.applied >= state.compacted_index
            && !self.lacks_promised()
    }

    fn report_role(&mut self, out: &mut Vec<Effect<M::Effect>>) {
        if self.staged.is_some() {
            // raft-rs did not want the staged snapshot: it was overtaken by the log.
            if let Some((generation, _)) = self.staged.take() {
                out.push(Effect::Write {
                    writes: vec![Write::DropGeneration {
                        group: self.group,
                        generation,
                    }],
                    sync: false,
                    number: None,
                });
            }
        }
        self.has_abdicated &= self.raw.raft.leader_id == raft::INVALID_ID && !self.raw.raft.promotable();
        let raft = &self.raw.raft;
        self.role = if raft.state != StateRole::Leader {
            Role::Follower
        } else if self.role == Role::Leader || raft.raft_log.term(self.applied).is_ok_and(|term| term == raft.term) {
            Role::Leader
        } else {
            Role::Elected
        };
        let now = (self.role, raft.term, raft.leader_id);
        if self.role != Role::Leader {
            self.proof = None;
            self.clock = None;
        }
        if self.reported != Some(now) {
            if raft.state == StateRole::Leader {
                self.linger = LINGER_TICKS;
            }
            if self.reported.is_none_or(|(_, term, _)| term != raft.term) {
                self.uncommitted_bytes = 0;
            }
            self.reported = Some(now);
            out.push(Effect::Role {
                role: self.role,
                term: raft.term,
                leader: self.leader(),
            });
        }
    }

    /// Gives back the memory of a group that has nothing to do.
    pub fn rest(&mut self) {
        let applied = self.applied;
        self.raw.mut_store().evict(applied, true);
        self.effects.shrink_to_fit();
        self.freed.shrink_to_fit();
    }
}

/// The index of the snapshot that an encoded Raft message announces; none if it announces none.
pub fn snapshot_index(message: &[u8]) -> Option<u64> {
    let message = wire::decode(Bytes::copy_from_slice(message))?.message;
    match message.get_msg_type() {
        MessageType::MsgSnapshot => Some(message.get_snapshot().get_metadata().index),
        _ => None,
    }
}
