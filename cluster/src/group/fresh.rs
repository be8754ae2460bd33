//! A replica that may have lost its log.
//!
//! A node that comes back with an empty disk does not know which entries it had acknowledged and whom it had voted for.
//! If it simply began anew, it could elect a leader that lacks what was committed with its help. It is *fresh* instead,
//! which its state on the disk says too, and a fresh replica
//!
//! - neither votes nor stands for election;
//! - acknowledges only what is known to be committed, so that nothing is committed with its help;
//! - believes no heartbeat about what is committed: it may be meant for the replica that was here before;
//! - tells its peers, again and again, what it has and the number of its run.
//!
//! A leader that hears this forgets what the peer had acknowledged, and appends an entry which names the peer and the
//! run. That entry is committed by a majority of others, none of which can follow an older leader afterwards. Once the
//! replica applies it, it holds everything that was committed before, and is fresh no more. What it may have voted in
//! the term of that leader, it voted for that leader.
//!
//! In a cluster of two nodes it votes and acknowledges all the same: nothing was or is decided without the other replica,
//! which alone may stand for election. In a larger one a group of two may have got a third member that it knows nothing of.
//!
//! A new group, whose replicas are all fresh, begins when each has heard from all of the others that they hold nothing.
//! A replica that knows this already, while nobody was elected yet, says the same of itself when it is told.

use std::collections::BTreeMap;

use bytes::{Buf, BufMut, BytesMut};
use raft::StateRole;
use raft::eraftpb::{Message, MessageType};

use super::wire::{self, Hello};
use super::{Effect, GroupCore};
use crate::NodeId;
use crate::log::Write;
use crate::machine::Machine;

/// The version of entries that are the group's own: the machine does not see them.
pub(super) const OWN_VERSION: u16 = 0;
/// The kind of an own entry that readmits a replica, followed by `node:u64 run:u64`, little-endian.
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
        // All replicas of a node may be fresh at once.
        if self.fresh.ending.is_none() && (ticks <= EAGER_TICKS || ticks.is_multiple_of(PAUSE_TICKS)) {
            self.fresh.greets = true;
        }
    }

    /// Whether nothing is decided without the only other member.
    fn is_half(&self) -> bool {
        self.options.two_nodes && self.members.len() == 2
    }

    /// What a fresh replica does not hear. True: the message is not for raft-rs.
    pub(super) fn is_deaf_to(&self, message: &Message) -> bool {
        let kind = message.get_msg_type();
        matches!(kind, MessageType::MsgRequestVote | MessageType::MsgRequestPreVote) && !self.is_half()
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

    /// A fresh replica that hears a term's leader takes it that it had voted for it.
    pub(super) fn adopt_vote(&mut self) {
        let raft = &mut self.raw.raft;
        if raft.leader_id != raft::INVALID_ID && raft.vote == raft::INVALID_ID {
            raft.vote = raft.leader_id;
        }
    }

    /// What a fresh replica may say: it holds nothing that is not committed anyway.
    pub(super) fn restrain(&self, message: &mut Message) {
        if message.get_msg_type() == MessageType::MsgAppendResponse && !message.reject && !self.is_half() {
            message.index = message.index.min(self.raw.raft.raft_log.committed);
        }
    }

    /// A peer says that it is fresh.
    pub(super) fn hello(&mut self, hello: &Hello) {
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
        let raft = &self.raw.raft;
        if self.is_fresh() {
            self.peer_is_fresh(hello);
        } else if !hello.is_fresh {
            // An answer that is no longer waited for.
        } else if raft.term == 0 && raft.raft_log.last_index() == 0 {
            // The group has not begun, and the peer may not know yet that this replica waits for nobody.
            self.fresh.greets = true;
        } else if self.raw.raft.state == StateRole::Leader {
            self.readmit(hello);
        }
    }

    fn peer_is_fresh(&mut self, hello: &Hello) {
        let now = self.fresh.ticks;
        if hello.last_index > 0 {
            self.fresh.empty.remove(&hello.from);
        } else {
            self.fresh.empty.insert(hello.from, now);
        }
        let heard = |member: &NodeId| self.fresh.empty.get(member).is_some_and(|at| at + HEARD_TICKS >= now);
        let mut others = self.members.iter().filter(|member| **member != self.node);
        if self.raw.raft.raft_log.last_index() == 0 && others.all(heard) {
            // Others may still have to hear it from this one.
            self.fresh.greets = true;
            self.end_freshness();
        }
    }

    fn readmit(&mut self, hello: &Hello) {
        let term = self.raw.raft.term;
        let known = self.fresh.readmitting.get(&hello.from);
        let known = known.filter(|known| (known.run, known.term) == (hello.run, term));
        if known.is_some_and(|known| hello.applied < known.index) {
            return;
        }
        if known.is_none() {
            let readmission = Readmission {
                run: hello.run,
                term,
                index: 0,
            };
            self.fresh.readmitting.insert(hello.from, readmission);
            self.sending.remove(&hello.from);
            let last_index = self.raw.raft.raft_log.last_index();
            let Some(progress) = self.raw.raft.mut_prs().get_mut(hello.from) else {
                return;
            };
            // Its acknowledgements were for a log that is no more.
            progress.matched = 0;
            progress.committed_index = 0;
            progress.become_probe();
            progress.next_idx = hello.last_index.min(last_index) + 1;
            tracing::warn!(
                group = self.group,
                peer = hello.from,
                "a replica lost its log, and is brought up again"
            );
        }
        // Where there was an entry before, a snapshot went past it.
        let mut payload = BytesMut::with_capacity(17);
        payload.put_u8(READMIT);
        payload.put_u64_le(hello.from);
        payload.put_u64_le(hello.run);
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
    pub(super) fn apply_own(&mut self, mut payload: &[u8]) {
        let Ok(READMIT) = payload.try_get_u8() else { return };
        let (Ok(node), Ok(run)) = (payload.try_get_u64_le(), payload.try_get_u64_le()) else {
            return;
        };
        if (node, run) == (self.node, self.options.run) && self.is_fresh() {
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
        if std::mem::take(&mut self.fresh.greets) {
            let hello = Hello {
                from: self.node,
                run: self.options.run,
                last_index: self.raw.raft.raft_log.last_index(),
                applied: self.applied,
                is_fresh: self.is_fresh(),
            };
            let message = wire::encode_hello(&hello);
            let leader = self.leader();
            let is_told = |member: &NodeId| leader.is_none_or(|leader| leader == *member);
            // Whoever takes this one for a member may not be known to it as one.
            let caller = self.fresh.called_by.filter(|caller| !self.members.contains(caller));
            let told = self.members.iter().filter(|member| is_told(member)).chain(&caller);
            for to in told.filter(|to| **to != self.node) {
                out.push(Effect::Send {
                    to: *to,
                    message: message.clone(),
                });
            }
        }
    }
}
