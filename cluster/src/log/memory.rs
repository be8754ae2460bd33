//! The contract in memory, with faults on demand: for tests and simulations, where no disk may be touched.

use std::collections::{BTreeMap, BTreeSet};
use std::ops::{Range, RangeInclusive};
use std::sync::{Mutex, MutexGuard, PoisonError};

use bytes::Bytes;

use super::{Error, LogEntry, LogStore, ReplicaState, Write};
use crate::GroupId;

/// A store that forgets on [`MemoryStore::crash`] what was not synced, and fails when told to.
#[derive(Debug, Default)]
pub struct MemoryStore {
    inner: Mutex<Inner>,
}

#[derive(Debug, Default)]
struct Inner {
    now: Content,
    durable: Content,
    /// The lists written since the last sync, in order: what makes `durable` into `now`.
    unsynced: Vec<Vec<Write>>,
    fail_next: Option<Error>,
    /// A failed write leaves the store unusable until it is opened again.
    failed: bool,
    syncs: u64,
}

type EntryKey = (GroupId, u32, u64);
type ChunkKey = (GroupId, u32, u64, u32);

#[derive(Clone, Debug, Default)]
struct Content {
    entries: BTreeMap<EntryKey, LogEntry>,
    states: BTreeMap<GroupId, ReplicaState>,
    chunks: BTreeMap<ChunkKey, Bytes>,
    /// Of these, what is no more what was written. May name what is gone.
    corrupt: BTreeSet<Record>,
}

/// One thing that is stored, written as a whole and removed as a whole.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Record {
    /// A group's replica state.
    State(GroupId),
    /// A generation's entry, by index.
    Entry(GroupId, u32, u64),
    /// A part of the snapshot that a generation has at an index, by number.
    Chunk(GroupId, u32, u64, u32),
}

impl MemoryStore {
    /// An empty store.
    pub fn new() -> Self {
        Self::default()
    }

    /// The next write fails with `error` and changes nothing; so does every later one until [`MemoryStore::crash`].
    pub fn fail_next_write(&self, error: Error) {
        self.lock().fail_next = Some(error);
    }

    /// What a power cut does: every write after the last sync is gone. The store is usable again, as if reopened.
    pub fn crash(&self) {
        self.crash_keeping(0);
    }

    /// A power cut after the first `count` unsynced lists of writes had reached the disk by themselves.
    pub fn crash_keeping(&self, count: usize) {
        let mut guard = self.lock();
        let inner = &mut *guard;
        for write in inner.unsynced.drain(..).take(count).flatten() {
            inner.durable.carry_out(&write);
        }
        inner.now = inner.durable.clone();
        inner.failed = false;
        inner.fail_next = None;
    }

    /// A record rots where it lies: reading it fails from now on, until it is written anew. Nothing if it is not synced.
    pub fn corrupt(&self, record: Record) {
        let mut inner = self.lock();
        if inner.durable.holds(record) {
            inner.now.corrupt.insert(record);
            inner.durable.corrupt.insert(record);
        }
    }

    /// Whether reading anything that is stored would fail.
    pub fn is_corrupt(&self) -> bool {
        let inner = self.lock();
        inner.now.corrupt.iter().any(|record| inner.now.holds(*record))
    }

    /// Lists of writes that a crash would undo.
    pub fn unsynced(&self) -> usize {
        self.lock().unsynced.len()
    }

    /// Synced writes so far.
    pub fn syncs(&self) -> u64 {
        self.lock().syncs
    }

    fn lock(&self) -> MutexGuard<'_, Inner> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Content {
    fn holds(&self, record: Record) -> bool {
        match record {
            Record::State(group) => self.states.contains_key(&group),
            Record::Entry(group, generation, index) => self.entries.contains_key(&(group, generation, index)),
            Record::Chunk(group, generation, at, number) => self.chunks.contains_key(&(group, generation, at, number)),
        }
    }

    /// What is stored as `record`, unless it has rotted.
    fn read<T: Clone>(&self, record: Record, stored: Option<&T>) -> Result<Option<T>, Error> {
        match stored {
            Some(stored) => self.check(record).map(|()| Some(stored.clone())),
            None => Ok(None),
        }
    }

    fn check(&self, record: Record) -> Result<(), Error> {
        if !self.corrupt.contains(&record) {
            return Ok(());
        }
        Err(match record {
            Record::Entry(group, _, index) => Error::Corrupt { group, index },
            Record::State(group) => Error::CorruptRecord {
                group,
                what: "replica state".into(),
            },
            Record::Chunk(group, _, at, number) => Error::CorruptRecord {
                group,
                what: format!("chunk {number} of the snapshot at {at}"),
            },
        })
    }

    fn carry_out(&mut self, write: &Write) {
        match write {
            Write::Append {
                group,
                generation,
                entries,
                stored_last,
            } => {
                let Some(first) = entries.first() else { return };
                self.remove_entries((*group, *generation, first.index)..=(*group, *generation, *stored_last));
                for entry in entries {
                    self.corrupt.remove(&Record::Entry(*group, *generation, entry.index));
                    self.entries.insert((*group, *generation, entry.index), entry.clone());
                }
            }
            Write::State { group, state } => {
                self.corrupt.remove(&Record::State(*group));
                self.states.insert(*group, state.clone());
            }
            Write::Remove {
                group,
                generation,
                ranges,
            } => {
                for range in ranges.iter().filter(|range| !range.is_empty()) {
                    self.remove_entries((*group, *generation, range.start)..=(*group, *generation, range.end - 1));
                }
            }
            Write::SnapshotChunk {
                group,
                generation,
                snapshot_index,
                number,
                data,
            } => {
                self.corrupt
                    .remove(&Record::Chunk(*group, *generation, *snapshot_index, *number));
                self.chunks
                    .insert((*group, *generation, *snapshot_index, *number), data.clone());
            }
            Write::RemoveSnapshot {
                group,
                generation,
                snapshot_index,
            } => {
                self.chunks
                    .retain(|key, _| (key.0, key.1, key.2) != (*group, *generation, *snapshot_index));
            }
            Write::DropGeneration { group, generation } => {
                self.remove_entries((*group, *generation, 0)..=(*group, *generation, u64::MAX));
                self.chunks.retain(|key, _| (key.0, key.1) != (*group, *generation));
            }
            Write::DropGroup { group } => {
                self.remove_entries((*group, 0, 0)..=(*group, u32::MAX, u64::MAX));
                self.chunks.retain(|key, _| key.0 != *group);
                self.states.remove(group);
            }
        }
    }

    fn remove_entries(&mut self, range: RangeInclusive<EntryKey>) {
        if range.is_empty() {
            return;
        }
        let keys: Vec<EntryKey> = self.entries.range(range).map(|(key, _)| *key).collect();
        for key in keys {
            self.entries.remove(&key);
        }
    }
}

impl LogStore for MemoryStore {
    fn groups(&self) -> Result<Vec<GroupId>, Error> {
        Ok(self.lock().now.states.keys().copied().collect())
    }

    fn state(&self, group: GroupId) -> Result<Option<ReplicaState>, Error> {
        let now = &self.lock().now;
        now.read(Record::State(group), now.states.get(&group))
    }

    fn generations(&self, group: GroupId) -> Result<Vec<u32>, Error> {
        let inner = self.lock();
        let entries = inner.now.entries.keys().map(|key| (key.0, key.1));
        let chunks = inner.now.chunks.keys().map(|key| (key.0, key.1));
        let found: BTreeSet<u32> = entries
            .chain(chunks)
            .filter(|(other, _)| *other == group)
            .map(|(_, generation)| generation)
            .collect();
        Ok(found.into_iter().collect())
    }

    fn last_index(&self, group: GroupId, generation: u32) -> Result<Option<u64>, Error> {
        let range = (group, generation, 0)..=(group, generation, u64::MAX);
        Ok(self.lock().now.entries.range(range).next_back().map(|(key, _)| key.2))
    }

    fn entries(
        &self,
        group: GroupId,
        generation: u32,
        range: Range<u64>,
        bytes_max: usize,
    ) -> Result<Vec<LogEntry>, Error> {
        let mut found: Vec<LogEntry> = Vec::new();
        if range.is_empty() {
            return Ok(found);
        }
        let mut bytes = 0;
        let inner = self.lock();
        let range = (group, generation, range.start)..(group, generation, range.end);
        for entry in inner.now.entries.range(range).map(|(_, entry)| entry) {
            bytes += entry.data.len();
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            inner.now.check(Record::Entry(group, generation, entry.index))?;
            found.push(entry.clone());
        }
        Ok(found)
    }

    fn entry(&self, group: GroupId, generation: u32, index: u64) -> Result<Option<LogEntry>, Error> {
        let now = &self.lock().now;
        let stored = now.entries.get(&(group, generation, index));
        now.read(Record::Entry(group, generation, index), stored)
    }

    fn snapshot_chunk(
        &self,
        group: GroupId,
        generation: u32,
        snapshot_index: u64,
        number: u32,
    ) -> Result<Option<Bytes>, Error> {
        let now = &self.lock().now;
        let stored = now.chunks.get(&(group, generation, snapshot_index, number));
        now.read(Record::Chunk(group, generation, snapshot_index, number), stored)
    }

    fn write(&self, writes: &[Write], sync: bool) -> Result<(), Error> {
        let mut guard = self.lock();
        let inner = &mut *guard;
        if let Some(error) = inner.fail_next.take() {
            inner.failed = true;
            return Err(error);
        }
        if inner.failed {
            return Err(Error::Io("an earlier write failed".into()));
        }
        for write in writes {
            inner.now.carry_out(write);
        }
        inner.unsynced.push(writes.to_vec());
        if sync {
            for write in inner.unsynced.drain(..).flatten() {
                inner.durable.carry_out(&write);
            }
            inner.syncs += 1;
        }
        Ok(())
    }

    fn disk_usage(&self) -> Result<u64, Error> {
        let inner = self.lock();
        let entries: usize = inner.now.entries.values().map(|entry| entry.data.len()).sum();
        let chunks: usize = inner.now.chunks.values().map(Bytes::len).sum();
        Ok((entries + chunks) as u64)
    }
}

#[cfg(test)]
mod tests;
