//! Who belongs to a group, and how that changes: through the log, one member at a time.
//!
//! ```text
//!            add           caught up: promote                 remove
//!   (nobody) ───▶ learner ────────────────────▶ voter ───────────────▶ (nobody)
//! ```
//!
//! A leader is told whom the group should consist of, and takes one step after the other towards it; whoever leads
//! next goes on from where the log stands. A leader that should not stay hands leadership over and is removed by its
//! successor.
//!
//! Invariants:
//! - Additions come before removals, and no step leaves the group with fewer than a majority of voters that are
//!   reachable and hold what the leader holds.
//! - Whoever has an entry that changes the members on its disk also has on its disk that the change before it is
//!   committed. A replica therefore never stands for election in a set of members that is two changes old, not even
//!   after its process ended. Two sets that differ by one change share a member in any two of their majorities.
//! - A replica that was removed and deleted what it had leaves its promises behind: its term, its vote, and where its
//!   log ended. A later replica of the group on the same node keeps them.
//! - A fresh replica (see [`super::fresh`]) that is added by a decision of after its beginning is fresh no more once it
//!   has applied that: it then holds everything that was committed before. As long as it is fresh it gets no vote: a few
//!   of them would keep the others from agreeing on anything, also on that they are fresh no more.
//!
//! An entry says beside its change what the members were before it. So a replica that began without knowing the
//! members learns them from the first such entry, or from a snapshot.

use prost_raft::Message as _;
use raft::eraftpb::{ConfChange, ConfChangeType, ConfState, Entry, EntryType, Message, MessageType};
use raft::{Progress, StateRole};

use super::{Effect, Error, GroupCore, LINGER_TICKS, Role};
use crate::log::{LogEntry, LogStore, ReplicaState, Write};
use crate::machine::Machine;
use crate::{GroupId, NodeId};

/// Entries that a replica may lack of the leader's log and still count as caught up.
const LAG_MAX: u64 = 64;
/// The most members that a group can have. Peers' claims beyond it are not believed.
const MEMBERS_MAX: usize = 64;

/// How far a group is from what it should consist of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Course {
    /// It consists of these voters. See [`GroupCore::is_settled`] for whether the others may go.
    Arrived,
    /// A step is on its way, or the next one waits for a replica to catch up or to be reachable.
    Underway,
}

/// What a group should consist of.
#[derive(Clone, Copy, Debug)]
pub struct Goal<'a> {
    /// Its voters.
    pub voters: &'a [NodeId],
    /// Who should lead in the end where that matters; 0: anybody.
    pub leader: NodeId,
    /// The decision that this follows from; later ones have greater numbers.
    pub era: u64,
}

/// The next step of a leader.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Step {
    Change(ConfChangeType, NodeId),
    HandOver(NodeId),
    /// Until something changes elsewhere.
    Wait,
    Done,
}

impl<M: Machine> GroupCore<M> {
    /// Replicas that are sent the log and have no vote.
    pub fn learners(&self) -> &[NodeId] {
        &self.learners
    }

    /// Takes the next step towards the goal, if this replica leads. `may_join` says of a node whether it is reachable and
    /// has a replica that it will not take away again for a reason of before. To be called again after every event
    /// until the group has settled; [`GroupCore::poll`] must follow.
    pub fn steer(&mut self, goal: &Goal<'_>, may_join: &dyn Fn(NodeId) -> bool) -> Course {
        if self.role != Role::Leader {
            return Course::Underway;
        }
        if self.raw.raft.has_pending_conf() || self.raw.raft.lead_transferee.is_some() {
            self.linger = LINGER_TICKS;
            return Course::Underway;
        }
        match self.step(goal, may_join) {
            Step::Change(kind, node) => {
                self.change(kind, node, goal.era);
                Course::Underway
            }
            Step::HandOver(to) => {
                self.hand_over(to);
                Course::Underway
            }
            Step::Wait => Course::Underway,
            Step::Done => Course::Arrived,
        }
    }

    /// Whether a majority of the voters has on its disks that the latest change of members is committed: only then is
    /// what replicas elsewhere keep not needed any more, whatever ends now. To be asked again after every event;
    /// [`GroupCore::poll`] must follow.
    ///
    /// A voter writes down what it knows to be committed before it stores what it receives later. So the leader waits
    /// until a majority says that it knows, then appends an entry, and waits until the same voters have stored that.
    pub fn is_settled(&mut self) -> bool {
        let raft = &self.raw.raft;
        if self.role != Role::Leader || raft.has_pending_conf() || raft.lead_transferee.is_some() {
            return false;
        }
        self.linger = LINGER_TICKS;
        let is_majority = |count: usize| 2 * count > self.members.len();
        if let Some((index, witnesses)) = &self.proof {
            let has = |voter: &&NodeId| {
                raft.prs()
                    .get(**voter)
                    .is_some_and(|progress| progress.matched >= *index)
            };
            if is_majority(witnesses.iter().filter(has).count()) {
                return true;
            }
            if is_majority(witnesses.iter().filter(|voter| !self.down.contains(voter)).count()) {
                return false;
            }
        }
        let knows = |voter: &NodeId| {
            let progress = raft.prs().get(*voter);
            *voter == self.node || progress.is_some_and(|progress| progress.committed_index >= self.changed_at)
        };
        let witnesses: Vec<NodeId> = self.members.iter().copied().filter(knows).collect();
        if is_majority(witnesses.len()) && self.raw.propose(Vec::new(), Vec::new()).is_ok() {
            self.proof = Some((self.raw.raft.raft_log.last_index(), witnesses));
        }
        false
    }

    /// Hands leadership to that voter once it holds the whole log; given up after a second. Nothing happens if this
    /// replica does not lead, or the other one is no voter.
    pub fn hand_over(&mut self, to: NodeId) {
        if self.raw.raft.state == StateRole::Leader && to != self.node && self.members.contains(&to) {
            self.linger = LINGER_TICKS;
            self.raw.transfer_leader(to);
        }
    }

    /// Whether that replica is reachable, holds all of the log but for its very end, and may vote and lead.
    pub fn has_caught_up(&self, member: NodeId) -> bool {
        let raft = &self.raw.raft;
        let last = raft.raft_log.last_index();
        let progress = raft.prs().get(member);
        // One that may have lost its log says nothing of what is committed.
        let is_whole = |progress: &Progress| progress.matched > 0 && progress.committed_index > 0;
        let has_most = progress.is_some_and(|progress| progress.matched + LAG_MAX >= last && is_whole(progress));
        member == self.node || (has_most && !self.down.contains(&member) && !self.is_readmitting(member))
    }

    /// Whether that node is known not to be reachable.
    pub fn is_down(&self, node: NodeId) -> bool {
        self.down.contains(&node)
    }

    fn step(&self, goal: &Goal<'_>, may_join: &dyn Fn(NodeId) -> bool) -> Step {
        let Goal {
            voters: wanted, leader, ..
        } = *goal;
        let mut waits = false;
        if let Some(learner) = self.learners.iter().find(|learner| !wanted.contains(learner)) {
            return Step::Change(ConfChangeType::RemoveNode, *learner);
        }
        for learner in &self.learners {
            if self.has_caught_up(*learner) && self.stays_able(Some(*learner), None) {
                return Step::Change(ConfChangeType::AddNode, *learner);
            }
            waits = true;
        }
        let is_new = |node: &&NodeId| !self.members.contains(node) && !self.learners.contains(node);
        for new in wanted.iter().filter(is_new) {
            if may_join(*new) {
                return Step::Change(ConfChangeType::AddLearnerNode, *new);
            }
            waits = true;
        }
        if waits {
            return Step::Wait;
        }
        let surplus = |node: &&NodeId| !wanted.contains(node) && **node != self.node;
        // Those that are of no use first.
        let useless = |node: &&NodeId| !self.has_caught_up(**node);
        let mut gone = self.members.iter().filter(surplus).filter(useless);
        if let Some(gone) = gone.next().or_else(|| self.members.iter().find(surplus)) {
            return if self.stays_able(None, Some(*gone)) {
                Step::Change(ConfChangeType::RemoveNode, *gone)
            } else {
                Step::Wait
            };
        }
        if wanted.contains(&self.node) {
            return Step::Done;
        }
        let heir = |node: &&NodeId| **node != self.node && self.has_caught_up(**node);
        let mut heirs = self.members.iter().filter(heir);
        let preferred = heirs.clone().find(|heir| **heir == leader);
        preferred
            .or_else(|| heirs.next())
            .map_or(Step::Wait, |heir| Step::HandOver(*heir))
    }

    /// Whether the voters after this change would have a majority that is reachable and holds the log.
    fn stays_able(&self, added: Option<NodeId>, removed: Option<NodeId>) -> bool {
        let voters = self.members.iter().copied().filter(|voter| Some(*voter) != removed);
        let voters: Vec<NodeId> = voters.chain(added).collect();
        let able = voters.iter().filter(|voter| self.has_caught_up(**voter)).count();
        2 * able > voters.len()
    }

    fn change(&mut self, kind: ConfChangeType, node: NodeId, era: u64) {
        let before = ConfState {
            voters: self.members.clone(),
            learners: self.learners.clone(),
            ..ConfState::default()
        };
        let mut change = ConfChange {
            node_id: node,
            id: era.max(self.reformed()),
            context: before.encode_to_vec(),
            ..ConfChange::default()
        };
        change.set_change_type(kind);
        self.linger = LINGER_TICKS;
        match self.raw.propose_conf_change(Vec::new(), change) {
            Ok(()) => tracing::info!(
                group = self.group,
                member = node,
                ?kind,
                "changes the members of a group"
            ),
            // It is proposed again after the next event.
            Err(error) => tracing::debug!(group = self.group, %error, "a change of members was not proposed"),
        }
    }

    /// Carries out a committed change of members. One that does not fit changes nothing, alike on every replica.
    pub(super) fn apply_change(&mut self, entry: &Entry, out: &mut Vec<Effect<M::Effect>>) {
        let Some((change, before)) = decode(entry.entry_type, &entry.data) else {
            tracing::warn!(group = self.group, index = entry.index, "not a change of members");
            return;
        };
        let is_void = change.id < self.reformed();
        let is_known = !self.members.is_empty() || !self.learners.is_empty();
        // What a replica that was told late of a decision took for changes was void.
        let is_led_astray = self.reformed() > 0 && (self.members != before.voters || self.learners != before.learners);
        if !is_void && (!is_known || is_led_astray) {
            self.adopt(&before);
        }
        if !is_void && let Err(error) = self.raw.apply_conf_change(&change) {
            tracing::warn!(group = self.group, index = entry.index, %error, "a change of members that does not fit");
        }
        self.changed_at = entry.index;
        self.members_changed(out);
        let is_added =
            !is_void && change.node_id == self.node && change.get_change_type() != ConfChangeType::RemoveNode;
        let since = self.raw.store().state.era.max(self.options.added_since);
        if is_added && change.id > 0 && change.id >= since && self.is_fresh() {
            // It was added since it began, so it holds everything that was committed before.
            self.end_freshness();
        }
        // Known for good before anybody acts upon it: see the module.
        let state = &mut self.raw.mut_store().state;
        state.commit = state.commit.max(entry.index);
        out.push(Effect::Write {
            writes: vec![Write::State {
                group: self.group,
                state: state.clone(),
            }],
            sync: true,
            number: None,
        });
    }

    /// Has raft-rs take these for the members, whoever they were.
    pub(super) fn adopt(&mut self, members: &ConfState) {
        use ConfChangeType::{AddLearnerNode, AddNode, RemoveNode};
        let ConfState { voters, learners, .. } = members;
        let now = self.raw.raft.prs().conf().to_conf_state();
        let new = |nodes: &[NodeId], of: &[NodeId], kind: ConfChangeType| -> Vec<(ConfChangeType, NodeId)> {
            let new = nodes.iter().filter(|node| !of.contains(node));
            new.map(|node| (kind, *node)).collect()
        };
        let mut changes = new(voters, &now.voters, AddNode);
        changes.extend(new(learners, &now.learners, AddLearnerNode));
        // Last: of voters there must be one at any time.
        changes.extend(new(
            &[now.voters, now.learners].concat(),
            &[&voters[..], learners].concat(),
            RemoveNode,
        ));
        for (kind, node_id) in changes {
            let mut change = ConfChange {
                node_id,
                ..ConfChange::default()
            };
            change.set_change_type(kind);
            if let Err(error) = self.raw.apply_conf_change(&change) {
                tracing::warn!(group = self.group, %error, "members that do not fit");
            }
        }
    }

    /// Takes over who raft-rs has for members now.
    pub(super) fn members_changed(&mut self, out: &mut Vec<Effect<M::Effect>>) {
        let now = self.raw.raft.prs().conf().to_conf_state();
        self.members = now.voters;
        self.learners = now.learners;
        self.proof = None;
        self.members.sort_unstable();
        self.learners.sort_unstable();
        let raft = &mut self.raw.raft;
        if !raft.promotable() && raft.state != StateRole::Follower {
            // It leads, or stands for election, in a group that it is no voter of any more.
            self.has_abdicated = raft.state == StateRole::Leader;
            let term = raft.term;
            raft.become_follower(term, raft::INVALID_ID);
        }
        let is_gone = |leader: NodeId| leader != self.node && !self.members.contains(&leader);
        if self.leader().is_some_and(is_gone) {
            self.forget_leader();
        }
        out.push(Effect::Members);
    }

    /// Tells the voters that a leader which was removed leads no more: without ticks, they would follow it for ever.
    /// What they answer is of no interest.
    pub(super) fn abdicate(&mut self, out: &mut Vec<Effect<M::Effect>>) -> Result<(), Error> {
        if !std::mem::take(&mut self.is_abdicating) {
            return Ok(());
        }
        let log = &self.raw.raft.raft_log;
        let mut message = Message {
            from: self.node,
            term: self.raw.raft.term + 1,
            index: log.last_index(),
            log_term: log.last_term(),
            ..Message::default()
        };
        message.set_msg_type(MessageType::MsgRequestPreVote);
        for voter in self.members.clone() {
            let message = Message {
                to: voter,
                ..message.clone()
            };
            self.send(message, out)?;
        }
        Ok(())
    }

    /// Whether what an earlier replica of this node has promised lets this one vote for whoever sent that: only for one
    /// whose log reaches as far.
    pub(super) fn may_vote_for(&self, candidate: &Message) -> bool {
        let state = &self.raw.store().state;
        (candidate.log_term, candidate.index) >= (state.promised_term, state.promised_index)
    }

    /// What is to be written when this replica was removed from its group. It must not be used after it.
    pub fn retire(&self) -> Result<Vec<Write>, Error> {
        let log = &self.raw.raft.raft_log;
        let state = &self.raw.store().state;
        let writes = legacy(self.group, state, log.last_index(), log.last_term());
        self.raw.store().check()?;
        Ok(writes)
    }

    /// What is kept beside entries of which one changes the members: see the module.
    pub(super) fn note_changes(&mut self, entries: &[LogEntry], writes: &mut Vec<Write>) {
        if entries
            .iter()
            .all(|entry| i32::from(entry.kind) == EntryType::EntryNormal as i32)
        {
            return;
        }
        writes.push(Write::State {
            group: self.group,
            state: self.raw.store().state.clone(),
        });
    }
}

/// A change and the members before it, if that is what the entry holds.
fn decode(entry_type: i32, data: &[u8]) -> Option<(ConfChange, ConfState)> {
    if entry_type != EntryType::EntryConfChange as i32 {
        return None;
    }
    let change = ConfChange::decode(data).ok()?;
    // To ask for a kind that there is not would end the process.
    ConfChangeType::from_i32(change.change_type)?;
    let before = decode_members(&change.context)?;
    (change.node_id != 0).then_some((change, before))
}

/// Who the members are, as an entry says; none if that cannot be.
pub(super) fn decode_members(bytes: &[u8]) -> Option<ConfState> {
    let members = ConfState::decode(bytes).ok()?;
    let count = members.voters.len() + members.learners.len();
    let named = || members.voters.iter().chain(&members.learners);
    (count <= MEMBERS_MAX && named().all(|node| *node != 0)).then_some(members)
}

/// What a removed replica leaves behind in place of all that the store holds of it.
fn legacy(group: GroupId, state: &ReplicaState, last_index: u64, last_term: u64) -> Vec<Write> {
    let ended = (last_term, last_index).max((state.promised_term, state.promised_index));
    let state = ReplicaState {
        term: state.term,
        vote: state.vote,
        promised_term: ended.0,
        promised_index: ended.1,
        removed: true,
        reformed: state.reformed,
        // A replica that did not know what it had promised leaves nothing that could be relied on.
        fresh: state.fresh,
        ..ReplicaState::default()
    };
    vec![Write::DropGroup { group }, Write::State { group, state }]
}

/// What is to be written when the replica of `group`, which does not run, was removed from its group; nothing if there
/// is none, or it was written before.
pub fn retire(store: &dyn LogStore, group: GroupId) -> Result<Vec<Write>, crate::log::Error> {
    let Some(state) = store.state(group)?.filter(|state| !state.removed) else {
        return Ok(Vec::new());
    };
    let last = match store.last_index(group, state.generation)? {
        Some(index) if index > state.snapshot_index => store.entry(group, state.generation, index)?,
        _ => None,
    };
    let (index, term) = last.map_or((state.snapshot_index, state.snapshot_term), |entry| {
        (entry.index, entry.term)
    });
    Ok(legacy(group, &state, index, term))
}
