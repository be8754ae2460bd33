//! What a group keeps on disk: the newest snapshot of its machine, the entries after the one before it, and older ones
//! that still hold a live message.

use std::ops::Range;

use raft::StateRole;
use raft::eraftpb::Snapshot;

use super::{Effect, Error, GroupCore, LINGER_TICKS, check_version};
use crate::log::{LogStore, ReplicaState, Write};
use crate::machine::{Machine, RestoreError, Stamp};
use crate::version::Versions;
use crate::{GroupId, NodeId};

/// A snapshot is due when the log has grown by so many times the size of the last one: what is written for snapshots
/// is at most this share of what is written at all.
const SNAPSHOT_SHARE: u64 = 8;

/// How many times as much log as makes a snapshot due is kept for peers that need the one before.
const HOLD_SHARE: u64 = 4;

impl<M: Machine> GroupCore<M> {
    /// Whether a reachable peer needs what the next snapshot takes the place of: the stored one, which it is being sent,
    /// or the entries before it, of which it lacks only the last.
    fn is_needed(&mut self) -> bool {
        let raft = &self.raw.raft;
        if raft.state != StateRole::Leader {
            self.sending.clear();
            return false;
        }
        let progress = |peer: NodeId| raft.prs().get(peer).filter(|_| !self.down.contains(&peer));
        self.sending
            .retain(|peer, index| progress(*peer).is_some_and(|progress| progress.matched < *index));
        let state = &self.raw.store().state;
        !self.sending.is_empty()
            || raft.prs().iter().any(|(peer, progress)| {
                let lacks = (state.compacted_index..state.snapshot_index).contains(&progress.matched);
                lacks && *peer != self.node && !self.down.contains(peer)
            })
    }

    /// Gives back what no live message needs, and stores the machine's state once the log has grown enough.
    pub(super) fn compact(&mut self, out: &mut Vec<Effect<M::Effect>>) {
        let enough = self
            .options
            .snapshot_log_bytes
            .max(SNAPSHOT_SHARE * self.snapshot_bytes);
        let grown = self.log_bytes_since_snapshot;
        let due = grown >= enough
            && self.applied > self.raw.store().state.snapshot_index
            && (grown >= enough.saturating_mul(HOLD_SHARE) || !self.is_needed());
        let group = self.group;
        let state = &self.raw.store().state;
        let (generation, compacted) = (state.generation, state.compacted_index);
        // What the round before freed: this round's effects may still read what this round frees.
        let mut freed = std::mem::take(&mut self.freed);
        self.raw.mut_store().state.freed.clear();
        freed.retain(|index| *index <= compacted);
        freed.sort_unstable();
        let mut writes = Vec::new();
        let ranges = joined(&freed);
        if !ranges.is_empty() {
            writes.push(Write::Remove {
                group,
                generation,
                ranges,
            });
        }
        freed.clear();
        self.machine.take_freed(&mut freed);
        self.freed = freed;
        if due {
            self.store_snapshot(&mut writes);
        }
        if !writes.is_empty() {
            out.push(Effect::Write {
                writes,
                sync: false,
                number: None,
            });
        }
    }

    /// Stores the machine's state for a member that the stored one does not name.
    pub(super) fn renew_snapshot(&mut self, out: &mut Vec<Effect<M::Effect>>) {
        let view = self.raw.mut_store();
        if view.lacks_snapshot.take() && self.applied > view.state.snapshot_index {
            let mut writes = Vec::new();
            self.store_snapshot(&mut writes);
            out.push(Effect::Write {
                writes,
                sync: false,
                number: None,
            });
            // Whoever waits for it is asked again with the next heartbeat.
            self.linger = LINGER_TICKS;
        }
    }

    /// Stores the machine's state, and gives back the entries before the last one that it stored.
    fn store_snapshot(&mut self, writes: &mut Vec<Write>) {
        let group = self.group;
        let generation = self.raw.store().state.generation;
        let chunks = self.machine.snapshot();
        let old = self.raw.store().state.clone();
        let term = self.raw.raft.raft_log.term(self.applied).unwrap_or(old.snapshot_term);
        self.snapshot_bytes = chunks.iter().map(|chunk| chunk.len() as u64).sum();
        let view = self.raw.mut_store();
        let state = &mut view.state;
        state.snapshot_index = self.applied;
        state.snapshot_term = term;
        state.snapshot_chunks = chunks.len() as u32;
        state.voters.clone_from(&self.members);
        state.learners.clone_from(&self.learners);
        state.commit = state.commit.max(self.applied);
        // Entries since the previous snapshot stay, so that a replica that was away briefly needs only the log.
        state.compacted_index = old.snapshot_index;
        state.compacted_term = old.snapshot_term;
        // The round after removes them, and may be that of another process.
        state.freed.clone_from(&self.freed);
        state.freed.retain(|index| *index <= old.snapshot_index);
        let state = state.clone();
        for (number, data) in chunks.into_iter().enumerate() {
            let number = number as u32;
            writes.push(Write::SnapshotChunk {
                group,
                generation,
                snapshot_index: self.applied,
                number,
                data,
            });
        }
        if old.snapshot_index > 0 {
            writes.push(Write::RemoveSnapshot {
                group,
                generation,
                snapshot_index: old.snapshot_index,
            });
        }
        let mut live = self.machine.live();
        live.extend(joined(&self.freed));
        live.sort_unstable_by_key(|range| range.start);
        let ranges = gaps(old.compacted_index + 1..state.compacted_index + 1, &live);
        if !ranges.is_empty() {
            writes.push(Write::Remove {
                group,
                generation,
                ranges,
            });
        }
        writes.push(Write::State { group, state });
        self.log_bytes_since_snapshot = 0;
    }

    /// Takes over the staged state that `snapshot` announced.
    pub(super) fn install(&mut self, snapshot: &Snapshot, writes: &mut Vec<Write>) -> Result<(), Error> {
        let metadata = snapshot.get_metadata();
        let (generation, chunks) = self
            .staged
            .take()
            .expect("raft-rs accepts only a snapshot that was staged");
        let view = self.raw.mut_store();
        let old = view.state.clone();
        let state = ReplicaState {
            commit: metadata.index,
            snapshot_index: metadata.index,
            snapshot_term: metadata.term,
            compacted_index: metadata.index,
            compacted_term: metadata.term,
            voters: metadata.get_conf_state().voters.clone(),
            learners: metadata.get_conf_state().learners.clone(),
            generation,
            snapshot_chunks: chunks,
            freed: Vec::new(),
            ..old
        };
        let store = view.store().clone();
        let versions = &self.options.versions;
        let (snapshot_bytes, stamp) = restore(&*store, self.group, &state, &mut self.machine, versions)?;
        self.snapshot_bytes = snapshot_bytes;
        self.stamp_ms = self.stamp_ms.max(stamp.time_ms);
        self.version = self.version.max(stamp.version);
        view.reset(state.clone());
        self.applied = metadata.index;
        self.changed_at = metadata.index;
        self.log_bytes_since_snapshot = 0;
        writes.push(Write::State {
            group: self.group,
            state,
        });
        writes.push(Write::DropGeneration {
            group: self.group,
            generation: old.generation,
        });
        Ok(())
    }
}

/// Reads the stored snapshot into the machine, if there is one. Answers its size in bytes, and what it has seen: of a
/// version that this node knows.
pub(super) fn restore<M: Machine>(
    store: &dyn LogStore,
    group: GroupId,
    state: &ReplicaState,
    machine: &mut M,
    versions: &Versions,
) -> Result<(u64, Stamp), Error> {
    let index = state.snapshot_index;
    if index == 0 {
        return Ok((0, Stamp::default()));
    }
    let mut parts = Vec::with_capacity(state.snapshot_chunks as usize);
    for chunk in 0..state.snapshot_chunks {
        let part = store.snapshot_chunk(group, state.generation, index, chunk)?;
        parts.push(part.ok_or(Error::SnapshotMissing { group, index, chunk })?);
    }
    if let Err(source) = machine.restore(&parts) {
        if let RestoreError::Version(version) = source {
            check_version(group, index, version, versions)?;
        }
        return Err(Error::Restore { group, source });
    }
    let stamp = machine.stamp();
    check_version(group, index, stamp.version, versions)?;
    Ok((parts.iter().map(|part| part.len() as u64).sum(), stamp))
}

/// Ascending numbers as ranges.
fn joined(numbers: &[u64]) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for number in numbers {
        match ranges.last_mut() {
            Some(range) if range.end == *number => range.end += 1,
            _ => ranges.push(*number..*number + 1),
        }
    }
    ranges
}

/// The parts of `whole` that hold none of `kept` (by their starts, ascending; they may overlap).
fn gaps(whole: Range<u64>, kept: &[Range<u64>]) -> Vec<Range<u64>> {
    let mut ranges = Vec::new();
    let mut start = whole.start;
    for range in kept.iter().take_while(|range| range.start < whole.end) {
        if start < range.start {
            ranges.push(start..range.start);
        }
        start = start.max(range.end);
    }
    if start < whole.end {
        ranges.push(start..whole.end);
    }
    ranges
}
