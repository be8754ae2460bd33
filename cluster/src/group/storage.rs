//! What raft-rs reads: the recent end of the log from memory, older entries from the store.
//!
//! An entry is readable here from the moment it was appended, whether its sync is done or not; the cache therefore
//! keeps every entry until the writer has reported it.
//!
//! raft-rs is shown entries whose payload is only named (see [`super::wire`]); the payloads stay here.

use std::cell::{Cell, RefCell};
use std::collections::{BTreeMap, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use raft::eraftpb::{ConfState, Entry, EntryType, HardState, Snapshot};
use raft::{GetEntriesContext, RaftState, Storage, StorageError};

use super::wire::{self, Place};
use crate::GroupId;
use crate::log::{LogEntry, LogStore, ReplicaState};

/// Entries read back from the store that are kept for the next read of the same entry.
const READ_CACHE_ENTRIES: usize = 8;
/// Runs of entries that are kept until the end of the round: one for each follower, and one to apply.
const RUNS_MAX: usize = 4;
/// Bytes after which the read cache keeps only its newest entry.
const READ_CACHE_BYTES: usize = 2 << 20;

/// One replica's log and the small state that goes with it.
pub(super) struct LogView {
    store: Arc<dyn LogStore>,
    group: GroupId,
    /// Persisted beside the entries; `commit` lags behind raft's.
    pub(super) state: ReplicaState,
    /// The contiguous end of the log, up to `last_index`.
    cache: VecDeque<LogEntry>,
    cache_bytes: usize,
    cache_bytes_max: usize,
    last_index: u64,
    /// Entries up to here are in the store.
    persisted: u64,
    /// The last few entries that were read back, newest at the end.
    reads: VecDeque<LogEntry>,
    /// Runs of entries that raft-rs had read from the store: their payloads are wanted next.
    runs: RefCell<VecDeque<Vec<LogEntry>>>,
    /// Payloads of entries that raft-rs has and that were not appended yet.
    arriving: BTreeMap<Place, Bytes>,
    /// A member wants a snapshot that was taken after it became one, and there is none.
    pub(super) lacks_snapshot: Cell<bool>,
    /// Why a read for raft-rs failed. It got something else instead: it would panic, and the reason would be lost.
    /// What it makes of that must go nowhere.
    failed: Cell<Option<crate::log::Error>>,
}

impl LogView {
    pub(super) fn open(
        store: Arc<dyn LogStore>,
        group: GroupId,
        state: ReplicaState,
        cache_bytes_max: usize,
    ) -> Result<Self, crate::log::Error> {
        let stored = store.last_index(group, state.generation)?.unwrap_or(0);
        let last_index = stored.max(state.snapshot_index);
        Ok(Self {
            store,
            group,
            state,
            cache: VecDeque::new(),
            cache_bytes: 0,
            cache_bytes_max,
            last_index,
            persisted: last_index,
            reads: VecDeque::new(),
            runs: RefCell::default(),
            arriving: BTreeMap::new(),
            lacks_snapshot: Cell::new(false),
            failed: Cell::new(None),
        })
    }

    pub(super) fn store(&self) -> &Arc<dyn LogStore> {
        &self.store
    }

    /// Keeps the payload of an entry that is handed to raft-rs, until it is appended or the round ends.
    pub(super) fn arrives(&mut self, place: Place, payload: Bytes) {
        self.arriving.insert(place, payload);
    }

    /// Nothing that raft-rs says may be believed after an error.
    pub(super) fn check(&self) -> Result<(), crate::log::Error> {
        self.failed.take().map_or(Ok(()), Err)
    }

    /// The round is over: nothing that arrived is wanted any more.
    pub(super) fn round_ends(&mut self) {
        self.arriving.clear();
        self.runs.get_mut().clear();
    }

    /// raft-rs's entries as ours, with the payloads that arrived for them.
    pub(super) fn complete(&mut self, entries: Vec<Entry>) -> Vec<LogEntry> {
        let with_payload = |entry: Entry| {
            let place = Place::of(&entry);
            let data = match wire::named(&entry) {
                None => Bytes::from(entry.data),
                Some(len) => {
                    let payload = self
                        .arriving
                        .remove(&place)
                        .expect("a payload arrives before its entry");
                    assert_eq!(payload.len(), len, "the payload of another entry at {place:?}");
                    payload
                }
            };
            LogEntry {
                index: place.index,
                term: place.term,
                kind: kind(entry.entry_type),
                data,
            }
        };
        entries.into_iter().map(with_payload).collect()
    }

    /// The payload of an entry that raft-rs has.
    pub(super) fn payload(&mut self, place: Place) -> Result<Bytes, crate::log::Error> {
        if let Some(payload) = self.arriving.get(&place) {
            return Ok(payload.clone());
        }
        match self.entry(place.index)? {
            Some(entry) => {
                assert_eq!(
                    entry.term, place.term,
                    "group {}: the log contradicts raft's",
                    self.group
                );
                Ok(entry.data)
            }
            None => Err(crate::log::Error::Missing {
                group: self.group,
                index: place.index,
            }),
        }
    }

    /// Takes `entries` (contiguous, not below the compacted part) as the new end of the log.
    /// Answers the highest index that may be stored now.
    pub(super) fn append(&mut self, entries: &[LogEntry]) -> u64 {
        let stored_last = self.last_index;
        let (Some(first), Some(last)) = (entries.first(), entries.last()) else {
            return stored_last;
        };
        assert!(
            first.index > self.state.compacted_index,
            "an append below the compacted log"
        );
        assert!(first.index <= self.last_index + 1, "an append that leaves a gap");
        while self.cache.back().is_some_and(|entry| entry.index >= first.index) {
            if let Some(entry) = self.cache.pop_back() {
                self.cache_bytes -= entry.data.len();
            }
        }
        self.reads.retain(|entry| entry.index < first.index);
        self.runs.get_mut().clear();
        self.persisted = self.persisted.min(first.index - 1);
        for entry in entries {
            self.cache_bytes += entry.data.len();
            self.cache.push_back(entry.clone());
        }
        self.last_index = last.index;
        stored_last
    }

    /// The writer has stored everything up to `index`.
    pub(super) fn persisted(&mut self, index: u64) {
        self.persisted = self.persisted.max(index.min(self.last_index));
    }

    /// Drops cached entries that are stored and applied, oldest first, down to the bound (or all of them).
    pub(super) fn evict(&mut self, applied: u64, all: bool) {
        let keep = if all { 0 } else { self.cache_bytes_max };
        while self.cache_bytes > keep || all {
            match self.cache.front() {
                Some(entry) if entry.index <= self.persisted && entry.index <= applied => {
                    self.cache_bytes -= entry.data.len();
                    self.cache.pop_front();
                }
                _ => break,
            }
        }
        if all {
            self.reads.clear();
            self.cache.shrink_to_fit();
        }
    }

    /// Replaces everything by a snapshot that was staged under `state.generation`.
    pub(super) fn reset(&mut self, state: ReplicaState) {
        self.cache.clear();
        self.cache_bytes = 0;
        self.reads.clear();
        self.runs.get_mut().clear();
        self.last_index = state.snapshot_index;
        self.persisted = state.snapshot_index;
        self.state = state;
    }

    /// One entry by index, compacted or not, as long as it is kept.
    pub(super) fn entry(&mut self, index: u64) -> Result<Option<LogEntry>, crate::log::Error> {
        if let Some(entry) = self.cached(index) {
            return Ok(Some(entry.clone()));
        }
        if let Some(entry) = self.reads.iter().rev().find(|entry| entry.index == index) {
            return Ok(Some(entry.clone()));
        }
        for run in self.runs.get_mut().iter().rev() {
            let at = run.first().and_then(|first| index.checked_sub(first.index));
            if let Some(entry) = at.and_then(|at| run.get(usize::try_from(at).ok()?)) {
                return Ok(Some(entry.clone()));
            }
        }
        let read = self.store.entry(self.group, self.state.generation, index)?;
        if let Some(entry) = &read {
            self.reads.push_back(entry.clone());
            while self.reads.len() > READ_CACHE_ENTRIES
                || (self.reads.len() > 1
                    && self.reads.iter().map(|entry| entry.data.len()).sum::<usize>() > READ_CACHE_BYTES)
            {
                self.reads.pop_front();
            }
        }
        Ok(read)
    }

    fn cached(&self, index: u64) -> Option<&LogEntry> {
        let first = self.cache.front()?.index;
        self.cache.get(usize::try_from(index.checked_sub(first)?).ok()?)
    }

    fn range(&self, low: u64, high: u64, bytes_max: u64) -> Result<Vec<Entry>, crate::log::Error> {
        let cache_first = self.cache.front().map_or(self.last_index + 1, |entry| entry.index);
        let bytes_max = usize::try_from(bytes_max).unwrap_or(usize::MAX);
        let mut bytes = 0;
        let mut entries = Vec::new();
        if low < cache_first {
            let stored =
                self.store
                    .entries(self.group, self.state.generation, low..high.min(cache_first), bytes_max)?;
            let missing = |index| crate::log::Error::Missing {
                group: self.group,
                index,
            };
            for (expected, entry) in (low..).zip(&stored) {
                if entry.index != expected {
                    return Err(missing(expected));
                }
            }
            // It would ask again for ever.
            if stored.is_empty() && low < high {
                return Err(missing(low));
            }
            bytes = stored.iter().map(|entry| entry.data.len()).sum();
            let whole = low + stored.len() as u64 == high.min(cache_first);
            entries.extend(stored.iter().map(to_raft));
            let mut runs = self.runs.borrow_mut();
            runs.push_back(stored);
            if runs.len() > RUNS_MAX {
                runs.pop_front();
            }
            if !whole {
                return Ok(entries);
            }
        }
        for index in low.max(cache_first)..high {
            let Some(entry) = self.cached(index) else { break };
            bytes += entry.data.len();
            if bytes > bytes_max && !entries.is_empty() {
                break;
            }
            entries.push(to_raft(entry));
        }
        Ok(entries)
    }
}

/// What raft-rs sees of an entry.
fn to_raft(entry: &LogEntry) -> Entry {
    Entry {
        entry_type: i32::from(entry.kind),
        term: entry.term,
        index: entry.index,
        data: if i32::from(entry.kind) == EntryType::EntryNormal as i32 {
            wire::name(&entry.data)
        } else {
            entry.data.to_vec()
        },
        ..Entry::default()
    }
}

fn kind(entry_type: i32) -> u8 {
    u8::try_from(entry_type).expect("raft-rs has three types of entries")
}

impl Storage for LogView {
    fn initial_state(&self) -> raft::Result<RaftState> {
        let state = &self.state;
        let hard_state = HardState {
            term: state.term,
            vote: state.vote,
            commit: state.commit.max(state.snapshot_index),
        };
        let conf_state = ConfState {
            voters: state.voters.clone(),
            learners: state.learners.clone(),
            ..ConfState::default()
        };
        Ok(RaftState::new(hard_state, conf_state))
    }

    fn entries(
        &self,
        low: u64,
        high: u64,
        max_size: impl Into<Option<u64>>,
        _context: GetEntriesContext,
    ) -> raft::Result<Vec<Entry>> {
        if low <= self.state.compacted_index {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        let entries = self.range(low, high, max_size.into().unwrap_or(u64::MAX));
        Ok(entries.unwrap_or_else(|error| {
            self.failed.set(Some(error));
            Vec::new()
        }))
    }

    fn term(&self, index: u64) -> raft::Result<u64> {
        if index == self.state.snapshot_index {
            return Ok(self.state.snapshot_term);
        }
        if index == self.state.compacted_index {
            return Ok(self.state.compacted_term);
        }
        if index < self.state.compacted_index {
            return Err(raft::Error::Store(StorageError::Compacted));
        }
        if index > self.last_index {
            return Err(raft::Error::Store(StorageError::Unavailable));
        }
        if let Some(entry) = self.cached(index) {
            return Ok(entry.term);
        }
        match self.store.entry(self.group, self.state.generation, index) {
            Ok(Some(entry)) => Ok(entry.term),
            read => {
                let missing = crate::log::Error::Missing {
                    group: self.group,
                    index,
                };
                self.failed.set(Some(read.err().unwrap_or(missing)));
                Ok(0)
            }
        }
    }

    fn first_index(&self) -> raft::Result<u64> {
        Ok(self.state.compacted_index + 1)
    }

    fn last_index(&self) -> raft::Result<u64> {
        Ok(self.last_index)
    }

    /// Only the announcement: the state and the live entries travel on a stream of their own.
    fn snapshot(&self, request_index: u64, to: u64) -> raft::Result<Snapshot> {
        let state = &self.state;
        if !state.voters.contains(&to) && !state.learners.contains(&to) {
            // It would not believe it.
            self.lacks_snapshot.set(true);
            return Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        if state.snapshot_index == 0 || state.snapshot_index < request_index {
            return Err(raft::Error::Store(StorageError::SnapshotTemporarilyUnavailable));
        }
        let mut snapshot = Snapshot::default();
        let metadata = snapshot.mut_metadata();
        metadata.index = state.snapshot_index;
        metadata.term = state.snapshot_term;
        metadata.set_conf_state(ConfState {
            voters: state.voters.clone(),
            learners: state.learners.clone(),
            ..ConfState::default()
        });
        Ok(snapshot)
    }
}
