//! Survivors that go on without a majority: what an operator decides when the others are gone for good.
//!
//! What was committed with the help of those others only may be lost; what a survivor holds is kept, committed or not.
//! The decision has a number, its era, which is greater than that of every change of members before it, and the group
//! then consists of exactly the voters that it names. Invariants:
//! - All survivors obey the same decision: at most two of them, so that whichever leads next holds what either held.
//! - A survivor that lost its disk, then or since, does not go on: it is brought up by another one, or never.
//! - What entries of earlier eras say of the members is void, on every replica alike: those that come later are told of
//!   the decision when they begin.
//! - The others never come back: who removes them from the group keeps them away. Until they know, they are fenced off:
//!   messages carry the number, and a replica hears nobody who obeys an earlier decision, nor, while it holds anything,
//!   who obeys a later one, of which it is to be told by whoever owns it.

use raft::eraftpb::{ConfState, EntryType};

use super::compaction::restore;
use super::{Effect, Error, GroupCore, check_version, fresh, stamped};
use crate::log::{LogStore, ReplicaState, Write};
use crate::machine::{Machine, Meta};
use crate::version::Versions;
use crate::{GroupId, NodeId};

impl<M: Machine> GroupCore<M> {
    /// The decision by which survivors went on without a majority; 0: there was none.
    pub fn reformed(&self) -> u64 {
        self.raw.store().state.reformed
    }

    /// Whether to hear a peer that obeys that decision; none: its build does not say.
    pub(super) fn passes_fence(&mut self, from: NodeId, reformed: Option<u64>) -> bool {
        let own = self.reformed();
        let passes = match reformed {
            Some(theirs) if theirs < own => false,
            Some(theirs) if theirs > own => self.await_group(theirs),
            _ => true,
        };
        if !passes {
            tracing::debug!(
                group = self.group,
                from,
                reformed,
                own,
                "a peer obeys another decision on who goes on without the majority"
            );
        }
        passes
    }

    /// What the machine says of that decision: this replica joined its group without being told. What it knows of the
    /// members stays, until the log says more. [`GroupCore::poll`] must follow.
    pub fn learn_reformed(&mut self, reformed: u64) {
        if reformed > self.reformed() {
            self.raw.mut_store().state.reformed = reformed;
            self.reforms = true;
        }
    }

    /// From now on the group consists of these voters, whatever it was. Nothing happens if this replica is none of them,
    /// or knows of that decision. [`GroupCore::poll`] must follow.
    pub fn reform(&mut self, voters: &[NodeId], era: u64) {
        if era <= self.reformed() || !voters.contains(&self.node) {
            return;
        }
        // One that lost its disk hears of the decision as of any other: others hold by now what this one held then.
        if self.await_group(era) {
            return;
        }
        tracing::warn!(
            group = self.group,
            ?voters,
            before = ?self.members,
            "the group goes on without a majority: what only the others held is lost"
        );
        let raft = &mut self.raw.raft;
        let term = raft.term;
        raft.become_follower(term, raft::INVALID_ID);
        self.adopt(&ConfState {
            voters: voters.to_vec(),
            ..ConfState::default()
        });
        let state = &mut self.raw.mut_store().state;
        *state = ReplicaState {
            fresh: state.fresh,
            ..reformed(state, voters, era)
        };
        self.forget_others();
        self.reforms = true;
    }

    /// What follows from [`GroupCore::reform`].
    pub(super) fn poll_reform(&mut self, out: &mut Vec<Effect<M::Effect>>) {
        if !std::mem::take(&mut self.reforms) {
            return;
        }
        self.members_changed(out);
        self.await_turn();
        out.push(Effect::Write {
            writes: vec![Write::State {
                group: self.group,
                state: self.raw.store().state.clone(),
            }],
            sync: true,
            number: None,
        });
    }
}

fn reformed(state: &ReplicaState, voters: &[NodeId], era: u64) -> ReplicaState {
    let mut voters = voters.to_vec();
    voters.sort_unstable();
    ReplicaState {
        voters,
        learners: Vec::new(),
        reformed: era,
        // There is nobody left to whom anything was promised.
        promised_index: 0,
        promised_term: 0,
        ..state.clone()
    }
}

/// What is to be written so that the replica of `group`, which does not run, goes on with these voters.
pub fn reform(state: &ReplicaState, group: GroupId, voters: &[NodeId], era: u64) -> Vec<Write> {
    let state = reformed(state, voters, era);
    vec![Write::State { group, state }]
}

/// Brings the machine of a replica that does not run to the end of its log, committed or not. Answers where that is.
pub fn replay<M: Machine>(
    store: &dyn LogStore,
    group: GroupId,
    state: &ReplicaState,
    machine: &mut M,
) -> Result<u64, Error> {
    let versions = Versions::default();
    restore(store, group, state, machine, &versions)?;
    let last = store.last_index(group, state.generation)?.unwrap_or(0);
    let mut effects = Vec::new();
    for index in state.snapshot_index + 1..=last {
        let Some(entry) = store.entry(group, state.generation, index)? else {
            return Err(crate::log::Error::Missing { group, index }.into());
        };
        if i32::from(entry.kind) != EntryType::EntryNormal as i32 {
            continue;
        }
        let Some((version, time_ms, payload)) = stamped(&entry.data).filter(|stamped| stamped.0 != fresh::OWN_VERSION)
        else {
            continue;
        };
        check_version(group, index, version, &versions)?;
        let meta = Meta {
            index,
            term: entry.term,
            time_ms,
            version,
        };
        machine.apply(&meta, payload, &mut effects);
        effects.clear();
    }
    Ok(last.max(state.snapshot_index))
}
