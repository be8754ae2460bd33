//! A replica that may have lost its log.
//!
//! A node that comes back with an empty disk does not know which entries it had acknowledged and whom it had voted for.
//! If it simply began anew, it could elect a leader that lacks what was committed with its help. It is *fresh* instead,
//! which its state on the disk says too, and a fresh replica
//!
//! - neither votes nor stands for election;
//! - acknowledges only what is known to be committed, so that nothing is committed with its help, and does not say that
//!   it knows, so that no leader relies on it: it is not made a voter, and no other one leaves because of it;
//! - believes no heartbeat about what is committed: it may be meant for the replica that was here before;
//! - tells its peers, again and again, what it has and the number of its run.
//!
//! A leader that hears this forgets what the peer had acknowledged, and appends an entry which names the peer and the
//! run. That entry is committed by a majority of others, none of which can follow an older leader afterwards. Once the
//! replica applies it, it holds everything that was committed before, and is fresh no more. What it may have voted in
//! the term of that leader, it voted for that leader.
//!
//! Of two replicas it votes and acknowledges all the same once the other one, which is not fresh, has said that there are
//! two: nothing was or is decided without that one, which alone may stand for election. It says so only while it knows of
//! nobody who is about to join them; without its help nobody can.
//!
//! A new group, whose replicas are all fresh, begins when each has heard from all of the others that they hold nothing.
//! A replica that knows this already, while nobody was elected yet, says the same of itself when it is told.
//! Where more members may have come since the group began, those that it began with may all be fresh, and be none the
//! wiser: they wait for a while, in which any of the others can say that there is a group ([`GroupCore::await_group`]).

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, BytesMut};
use prost_raft::Message as _;
use raft::eraftpb::{ConfState, Entry, EntryType, Message, MessageType};
use raft::{GetEntriesContext, ProgressTracker, StateRole};

use super::members::decode_members;
use super::wire::{self, Hello};
use super::{Effect, GroupCore, LINGER_TICKS};
use crate::NodeId;
use crate::log::Write;
use crate::machine::Machine;

/// The version of entries that are the group's own: the machine does not see them.
pub(super) const OWN_VERSION: u16 = 0;
/// The kind of an own entry that readmits a replica, followed by `node:u64 run:u64 reformed:u64`, little-endian, and who
/// the members are: raft's ConfState. An older build leaves out what follows the run, and does not mind it.
const READMIT: u8 = 1;
/// The number of the write after which a replica is fresh no more; those of raft-rs count from 1.
pub(super) const ENDED: u64 = u64::MAX;
/// Ticks in which a fresh replica speaks with each, and of which it speaks with one later.
const EAGER_TICKS: u64 = 10;
const PAUSE_TICKS: u64 = 10;
/// Ticks after which what a fresh replica said is no longer true for all that is known: it says it again before.
const HEARD_TICKS: u64 = 20;

/// What a replica knows of fresh ones.
#[derive(Debug, Default)]
pub(super) struct Freshness {
    /// As a fresh replica: ticks since its beginning.
    ticks: u64,
    /// As a fresh replica: when peers last said that they are fresh and hold nothing.
    empty: BTreeMap<NodeId, u64>,
    /// As a leader: the peers that asked to be readmitted.
    readmitting: BTreeMap<NodeId, Readmission>,
    /// The store is to be told that this replica is fresh.
    begins: bool,
    /// The peers are to be told that this replica is fresh.
    greets: bool,
    /// As a fresh replica: who took it for the one that was here before.
    called_by: Option<NodeId>,
    /// Who is to be told what this replica has: the other one of two, which is fresh and does not know that there are two,
    /// or a leader that takes this one for more than it is.
    shown_to: Option<NodeId>,
    /// As a fresh replica: the other one of two, which is not fresh, as it has said itself.
    other: Option<NodeId>,
    /// As a replica that awaits its group: those that it would have begun it with. They may not know better.
    founders: Vec<NodeId>,
    /// It may cease to be fresh: what the store is to say of it is on its way there, or is to be.
    ending: Option<Ending>,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    Unwritten,
    Written,
}

#[derive(Clone, Copy, Debug)]
struct Readmission {
    run: u64,
    term: u64,
    /// Of the entry that readmits it.
    index: u64,
}

impl<M: Machine> GroupCore<M> {
    /// Whether this replica may have lost its log, and has not caught up since.
    pub fn is_fresh(&self) -> bool {
        self.raw.store().state.fresh || self.fresh.ending.is_some()
    }

    /// A replica that holds nothing learns that it had held something.
    pub(super) fn turn_fresh(&mut self) {
        tracing::warn!(
            group = self.group,
            "the replica held entries that are no more, and is brought up again"
        );
        self.raw.mut_store().state.fresh = true;
        self.fresh.begins = true;
        self.fresh.greets = true;
    }

    /// A tick of a fresh replica.
    pub(super) fn tick_fresh(&mut self) {
        self.fresh.ticks += 1;
        let ticks = self.fresh.ticks;
        if self.options.founds_after_ticks > 0 {
            self.found();
        }
        // All replicas of a node may be fresh at once.
        if self.fresh.ending.is_none() && (ticks <= EAGER_TICKS || ticks.is_multiple_of(PAUSE_TICKS)) {
            self.fresh.greets = true;
        }
    }

    /// Whether nothing is decided without the only other member, which holds all that was.
    fn is_half(&self) -> bool {
        self.members.len() == 2 && self.fresh.other.is_some_and(|other| self.members.contains(&other))
    }

    /// Whether the group has two voters and can have got no third one without this replica's knowing.
    pub fn is_pair(&self) -> bool {
        let state = &self.raw.store().state;
        !self.is_fresh()
            && !self.lacks_promised()
            && self.members.len() == 2
            && self.members.contains(&self.node)
            && self.applied >= state.commit
            // With one that has no vote the other may have it agreed on that it has.
            && (self.learners.is_empty() || !self.has_unapplied_change())
    }

    /// Whether the log holds a change of members that this replica has not applied, be it committed or not.
    fn has_unapplied_change(&self) -> bool {
        let log = &self.raw.raft.raft_log;
        let rest = log.slice(
            self.applied + 1,
            log.last_index() + 1,
            None,
            GetEntriesContext::empty(false),
        );
        // What cannot be read may be one.
        rest.map_or(true, |rest| {
            let is_change = |entry: &Entry| entry.entry_type != EntryType::EntryNormal as i32;
            rest.len() as u64 + self.applied < log.last_index() || rest.iter().any(is_change)
        })
    }

    /// What a fresh replica does not hear. True: the message is not for raft-rs.
    pub(super) fn is_deaf_to(&self, message: &Message) -> bool {
        let kind = message.get_msg_type();
        matches!(kind, MessageType::MsgRequestVote | MessageType::MsgRequestPreVote) && !self.is_half()
    }

    /// Whoever asks a fresh replica for its vote learns that it is one.
    pub(super) fn greet(&mut self, candidate: NodeId) {
        if self.fresh.ending.is_none() {
            self.fresh.greets = true;
            self.fresh.called_by = Some(candidate);
        }
    }

    /// Whether an earlier replica of this node, which was removed, has promised what is not in the log.
    pub(super) fn lacks_promised(&self) -> bool {
        let log = &self.raw.raft.raft_log;
        let state = &self.raw.store().state;
        (log.last_term(), log.last_index()) < (state.promised_term, state.promised_index)
    }

    /// Without a leader, a replica that lacks what the one before it has promised tells all of it: an idle leader that takes
    /// it for that one would never say a word.
    pub(super) fn call_for_promised(&mut self) {
        self.fresh.greets |= !self.is_fresh() && self.lacks_promised();
    }

    /// A leader learns what this replica has, be it fresh or not.
    pub(super) fn show(&mut self, leader: NodeId) {
        self.fresh.shown_to = Some(leader);
    }

    /// A heartbeat says what the replica that was here before had acknowledged. This one may hold other entries in the
    /// same places: it learns what is committed with entries only.
    pub(super) fn mistrust(&mut self, message: &mut Message) {
        if message.get_msg_type() == MessageType::MsgHeartbeat {
            let log = &self.raw.raft.raft_log;
            if message.commit > log.last_index() && self.fresh.ending.is_none() {
                self.fresh.greets = true;
                self.fresh.called_by = Some(message.from);
            }
            message.commit = message.commit.min(log.committed);
        }
    }

    /// Of two replicas the other one holds all that was decided. What this one holds beyond that, the other sent as a leader
    /// whose own disk did not get it: it does not keep the other from leading again. Unless somebody is about to join them,
    /// who may have decided it with this one.
    pub(super) fn defer(&self, message: &mut Message) {
        let log = &self.raw.raft.raft_log;
        let own = (log.last_term(), log.last_index());
        if self.is_fresh()
            && self.is_half()
            && self.fresh.other == Some(message.from)
            && (message.log_term, message.index) < own
            && !self.has_unapplied_change()
        {
            (message.log_term, message.index) = own;
        }
    }

    /// A fresh replica that hears a term's leader takes it that it had voted for it.
    pub(super) fn adopt_vote(&mut self) {
        let raft = &mut self.raw.raft;
        if raft.leader_id != raft::INVALID_ID && raft.vote == raft::INVALID_ID {
            raft.vote = raft.leader_id;
        }
    }

    /// What a fresh replica may say: it holds nothing that is not committed anyway. It does not say either what it knows
    /// to be committed, so that nobody counts on it before it is whole: see [`GroupCore::has_caught_up`].
    pub(super) fn restrain(&self, message: &mut Message) {
        let kind = message.get_msg_type();
        if self.is_half() {
            return;
        }
        if kind == MessageType::MsgAppendResponse && !message.reject {
            message.index = message.index.min(self.raw.raft.raft_log.committed);
        }
        if matches!(kind, MessageType::MsgAppendResponse | MessageType::MsgHeartbeatResponse) {
            message.commit = 0;
        }
    }

    /// A peer says that it is fresh.
    pub(super) fn hello(&mut self, hello: &Hello) {
        let mut pair = [hello.from, self.node];
        pair.sort_unstable();
        let holds_nothing = self.is_fresh() && self.raw.raft.raft_log.last_index() == 0;
        // Those that it was told of are those that the group began with: the others may have left it since.
        if holds_nothing && hello.is_pair && self.members != pair && hello.from != self.node {
            self.adopt(&ConfState {
                voters: pair.to_vec(),
                ..ConfState::default()
            });
            self.members = pair.to_vec();
            self.raw.mut_store().state.voters.clone_from(&self.members);
            self.fresh.begins = true;
        }
        let is_member = self.members.contains(&hello.from) || self.learners.contains(&hello.from);
        if !is_member || hello.from == self.node {
            tracing::debug!(
                group = self.group,
                from = hello.from,
                "a stranger asks to be readmitted"
            );
            return;
        }
        if hello.is_fresh && self.leader() == Some(hello.from) {
            // It leads no more.
            self.forget_leader();
        }
        if hello.is_fresh && self.is_pair() && self.members.contains(&hello.from) {
            self.show(hello.from);
        }
        let raft = &self.raw.raft;
        if self.is_fresh() {
            if hello.is_pair {
                self.fresh.other = Some(hello.from);
            }
            self.peer_is_fresh(hello);
        } else if !hello.is_fresh {
            self.follow_back(hello);
        } else if raft.term == 0 && raft.raft_log.last_index() == 0 {
            // The group has not begun, and the peer may not know yet that this replica waits for nobody.
            self.fresh.greets = true;
        } else if self.raw.raft.state == StateRole::Leader {
            self.readmit(hello);
        }
    }

    /// A replica that is not fresh says what it has. Where that is less than it had acknowledged, it is one that was removed
    /// and placed again before the group knew: the one before it keeps what it promised, and this one needs all of it.
    fn follow_back(&mut self, hello: &Hello) {
        let raft = &self.raw.raft;
        let matched = raft.prs().get(hello.from).map_or(0, |progress| progress.matched);
        // That it has one entry may be said by one that has nothing.
        let lacks = matched > hello.last_index || hello.last_index == 1 && matched > 0;
        if raft.state == StateRole::Leader && lacks && self.start_over(hello) {
            self.linger = LINGER_TICKS;
            self.raw.ping();
            tracing::info!(
                group = self.group,
                peer = hello.from,
                "a replica began anew, and is brought up"
            );
        }
    }

    /// Forgets what a peer had acknowledged, and goes on from what it says that it has. False if it is no member.
    fn start_over(&mut self, hello: &Hello) -> bool {
        self.sending.remove(&hello.from);
        let last_index = self.raw.raft.raft_log.last_index();
        let Some(progress) = self.raw.raft.mut_prs().get_mut(hello.from) else {
            return false;
        };
        // Its acknowledgements were for a log that is no more.
        progress.matched = 0;
        progress.committed_index = 0;
        progress.become_probe();
        progress.next_idx = hello.last_index.min(last_index) + 1;
        true
    }

    fn peer_is_fresh(&mut self, hello: &Hello) {
        let now = self.fresh.ticks;
        if hello.last_index > 0 {
            self.fresh.empty.remove(&hello.from);
        } else {
            self.fresh.empty.insert(hello.from, now);
        }
        self.found();
    }

    /// Begins a new group if all others have said that they hold nothing, and nobody that there is one.
    fn found(&mut self) {
        let now = self.fresh.ticks;
        if now < self.options.founds_after_ticks || self.fresh.ending.is_some() || !self.members.contains(&self.node) {
            return;
        }
        let heard = |member: &NodeId| self.fresh.empty.get(member).is_some_and(|at| at + HEARD_TICKS >= now);
        let mut others = self.members.iter().filter(|member| **member != self.node);
        if self.raw.raft.raft_log.last_index() == 0 && others.all(heard) {
            // Others may still have to hear it from this one.
            self.fresh.greets = true;
            self.end_freshness();
        }
    }

    /// Somebody who must know says that the group was begun, and that this node has a replica in it. One that holds
    /// nothing does not begin it anew, whoever it was told that it begins with: it waits until a leader brings it up.
    /// `reformed` is the decision that the group obeys. False if this replica is not fresh, or holds something.
    ///
    /// [`GroupCore::poll`] must follow.
    pub fn await_group(&mut self, reformed: u64) -> bool {
        let holds_nothing = self.raw.raft.raft_log.last_index() == 0 && self.applied == 0;
        if !self.raw.store().state.fresh || self.fresh.ending.is_some() || !holds_nothing {
            return false;
        }
        let state = &mut self.raw.mut_store().state;
        if !self.members.is_empty() || state.reformed < reformed {
            tracing::warn!(
                group = self.group,
                reformed,
                "the group was begun already: the replica holds nothing of it, and waits to be brought up"
            );
            state.reformed = state.reformed.max(reformed);
            state.voters.clear();
            state.learners.clear();
            self.fresh.founders = std::mem::take(&mut self.members);
            self.learners.clear();
            *self.raw.raft.mut_prs() = ProgressTracker::new(self.options.appends_in_flight_max);
            self.raw.raft.post_conf_change();
            self.fresh.other = None;
            self.fresh.begins = true;
            self.fresh.greets = true;
        }
        true
    }

    /// The group goes on with other members: what was heard of the others is void.
    pub(super) fn forget_others(&mut self) {
        self.fresh.other = None;
        self.fresh.shown_to = None;
        self.fresh.empty.clear();
        self.fresh.readmitting.clear();
        self.fresh.founders.clear();
    }

    /// Whether that member has said in this term that it is fresh, and not shown since that it knows of its readmission.
    pub(super) fn is_readmitting(&self, member: NodeId) -> bool {
        let raft = &self.raw.raft;
        let readmission = self
            .fresh
            .readmitting
            .get(&member)
            .filter(|known| known.term == raft.term);
        readmission.is_some_and(|known| {
            let knows = raft.prs().get(member).map_or(0, |progress| progress.committed_index);
            known.index == 0 || knows < known.index
        })
    }

    fn readmit(&mut self, hello: &Hello) {
        let term = self.raw.raft.term;
        let known = self.fresh.readmitting.get(&hello.from);
        let known = known.filter(|known| (known.run, known.term) == (hello.run, term));
        if let Some(known) = known.filter(|known| hello.applied < known.index) {
            let progress = self.raw.raft.prs().get(hello.from);
            if progress.is_some_and(|progress| progress.matched >= known.index) {
                // One of two holds it all, and believes no heartbeat that it is committed.
                self.raw.raft.send_append(hello.from);
            }
            return;
        }
        if known.is_none() {
            let readmission = Readmission {
                run: hello.run,
                term,
                index: 0,
            };
            self.fresh.readmitting.insert(hello.from, readmission);
            if !self.start_over(hello) {
                return;
            }
            tracing::warn!(
                group = self.group,
                peer = hello.from,
                "a replica lost its log, and is brought up again"
            );
        }
        // Where there was an entry before, a snapshot went past it.
        let members = ConfState {
            voters: self.members.clone(),
            learners: self.learners.clone(),
            ..ConfState::default()
        };
        let mut payload = BytesMut::with_capacity(25 + members.encoded_len());
        payload.put_u8(READMIT);
        payload.put_u64_le(hello.from);
        payload.put_u64_le(hello.run);
        payload.put_u64_le(self.reformed());
        payload.put_slice(&members.encode_to_vec());
        if self.append(OWN_VERSION, &[payload.freeze()], self.stamp_ms).is_ok() {
            let readmission = Readmission {
                run: hello.run,
                term,
                index: self.raw.raft.raft_log.last_index(),
            };
            self.fresh.readmitting.insert(hello.from, readmission);
        }
    }

    /// An own entry was committed.
    pub(super) fn apply_own(&mut self, mut payload: &[u8], out: &mut Vec<Effect<M::Effect>>) {
        let Ok(READMIT) = payload.try_get_u8() else { return };
        let (Ok(node), Ok(run)) = (payload.try_get_u64_le(), payload.try_get_u64_le()) else {
            return;
        };
        if self.members.is_empty()
            && self.learners.is_empty()
            && payload
                .try_get_u64_le()
                .is_ok_and(|reformed| reformed >= self.reformed())
            && let Some(members) = decode_members(payload).filter(|members| !members.voters.is_empty())
        {
            // A change between the two comes with the members before it.
            self.adopt(&members);
            self.members_changed(out);
            self.raw.mut_store().state.voters.clone_from(&self.members);
            self.raw.mut_store().state.learners.clone_from(&self.learners);
            self.fresh.begins = true;
        }
        // A leader of an older build does not say who the members are: another one is to readmit it.
        let knows_members = !self.members.is_empty() || !self.learners.is_empty();
        if (node, run) == (self.node, self.options.run) && self.is_fresh() && knows_members {
            tracing::info!(group = self.group, "the replica has caught up and votes again");
            self.end_freshness();
        }
    }

    /// Not before the store knows: peers that were promised something by this replica count on it after a crash too.
    pub(super) fn end_freshness(&mut self) {
        if self.fresh.ending.is_none() {
            self.raw.mut_store().state.fresh = false;
            self.fresh.ending = Some(Ending::Unwritten);
        }
    }

    /// The store knows.
    pub(super) fn freshness_ended(&mut self) {
        self.fresh.ending = None;
        self.await_turn();
    }

    /// What follows for the disk and the peers.
    pub(super) fn poll_freshness(&mut self, out: &mut Vec<Effect<M::Effect>>) {
        let ends = self.fresh.ending == Some(Ending::Unwritten);
        if std::mem::take(&mut self.fresh.begins) || ends {
            if ends {
                self.fresh.ending = Some(Ending::Written);
            }
            out.push(Effect::Write {
                writes: vec![Write::State {
                    group: self.group,
                    state: self.raw.store().state.clone(),
                }],
                sync: true,
                number: ends.then_some(ENDED),
            });
        }
        let shown_to = self.fresh.shown_to.take();
        if shown_to.is_none() && !self.fresh.greets {
            return;
        }
        // See `await_group`: it does not know the members yet, and others may not know that there are any.
        let awaits = self.is_fresh() && self.members.is_empty() && !self.fresh.founders.is_empty();
        let has_promised = !self.is_fresh() && self.raw.store().state.promised_index > 0;
        let hello = Hello {
            from: self.node,
            run: self.options.run,
            // With whoever says 0 a new group can begin.
            last_index: self
                .raw
                .raft
                .raft_log
                .last_index()
                .max(u64::from(awaits || has_promised)),
            applied: self.applied,
            is_fresh: self.is_fresh(),
            is_pair: self.is_pair(),
        };
        let message = wire::encode_hello(&hello);
        if let Some(to) = shown_to {
            let message = message.clone();
            out.push(Effect::Send { to, message });
        }
        if std::mem::take(&mut self.fresh.greets) {
            let leader = self.leader();
            let is_told = |member: &NodeId| leader.is_none_or(|leader| leader == *member);
            // Whoever takes this one for a member may not be known to it as one, nor whoever sends it what is committed.
            let caller = self.fresh.called_by.filter(|caller| !self.members.contains(caller));
            let sends = leader.filter(|_| self.members.is_empty() && self.raw.raft.raft_log.last_index() > 0);
            let sends = sends.filter(|leader| caller != Some(*leader));
            let founders = self
                .fresh
                .founders
                .iter()
                .filter(|founder| awaits && sends != Some(**founder));
            let members = self.members.iter().filter(|member| is_told(member));
            let told = members.chain(founders).chain(&caller).chain(&sends);
            for to in told.filter(|to| **to != self.node) {
                out.push(Effect::Send {
                    to: *to,
                    message: message.clone(),
                });
            }
        }
    }
}
