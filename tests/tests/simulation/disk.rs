//! A node's disk: the store in memory, and in place of the writer's thread a queue that the simulation works off.

use std::collections::VecDeque;
use std::ops::Range;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};

use bytes::Bytes;
use warren_cluster::GroupId;
use warren_cluster::log::memory::{MemoryStore, Record};
use warren_cluster::log::writer::{Request, Stopped, Submit};
use warren_cluster::log::{Error, LogEntry, LogStore, ReplicaState, Write};

use super::mutation::Mutation;
use super::random::Random;

/// The store as the node sees it, with the mistakes that a mutation makes in it.
pub(crate) struct Store {
    memory: MemoryStore,
    mutation: Option<Mutation>,
    /// The node has read a record that is corrupt.
    has_met_rot: AtomicBool,
    /// A write failed on purpose, and the node is to stop.
    pub(crate) broken: AtomicBool,
}

impl Store {
    pub(crate) fn new(mutation: Option<Mutation>) -> Arc<Self> {
        Arc::new(Self {
            memory: MemoryStore::new(),
            mutation,
            has_met_rot: AtomicBool::new(false),
            broken: AtomicBool::new(false),
        })
    }

    pub(crate) fn memory(&self) -> &MemoryStore {
        &self.memory
    }

    /// The next write fails, and the node with it.
    pub(crate) fn fail_next_write(&self) {
        self.broken.store(true, Ordering::Relaxed);
        self.memory.fail_next_write(Error::Io("made to fail".into()));
    }

    /// Some record rots. None if there is none of the kind that is drawn.
    pub(crate) fn rot(&self, random: &mut Random) -> Option<Record> {
        const HEALTHY: &str = "a healthy store";
        let groups = self.memory.groups().expect(HEALTHY);
        if groups.is_empty() {
            return None;
        }
        let group = *random.pick(&groups);
        let state = self.memory.state(group).expect(HEALTHY)?;
        let generation = state.generation;
        let record = match random.below(4) {
            0 => Record::State(group),
            1 if state.snapshot_chunks > 0 => Record::Chunk(group, generation, state.snapshot_index, 0),
            _ => {
                let entries = self.memory.entries(group, generation, 0..u64::MAX, usize::MAX);
                let entries = entries.expect(HEALTHY);
                if entries.is_empty() {
                    return None;
                }
                Record::Entry(group, generation, random.pick(&entries).index)
            }
        };
        self.memory.corrupt(record);
        self.memory.is_corrupt().then_some(record)
    }

    pub(crate) fn has_met_rot(&self) -> bool {
        self.has_met_rot.load(Ordering::Relaxed)
    }

    /// Notes that something corrupt was read, unless the node goes on, by mistake, as if it had never been written.
    fn note_rot<T: Default>(&self, read: Result<T, Error>) -> Result<T, Error> {
        if !matches!(read, Err(Error::Corrupt { .. } | Error::CorruptRecord { .. })) {
            return read;
        }
        if self.mutation == Some(Mutation::SkipsCorrupt) {
            return Ok(T::default());
        }
        self.has_met_rot.store(true, Ordering::Relaxed);
        read
    }

    /// What a node finds after it was down; `kept` unsynced lists of writes had reached the disk.
    pub(crate) fn reopen(&self, kept: usize) {
        self.memory.crash_keeping(kept);
        self.broken.store(false, Ordering::Relaxed);
        if !matches!(self.mutation, Some(Mutation::ForgetsVote | Mutation::ForgetsTail)) {
            return;
        }
        let groups = self.memory.groups().expect("a healthy store");
        for group in groups {
            let Ok(Some(mut state)) = self.memory.state(group) else {
                continue;
            };
            let mut writes = Vec::new();
            match self.mutation {
                Some(Mutation::ForgetsVote) => {
                    state.vote = 0;
                    state.term = state.term.saturating_sub(1).max(1);
                    writes.push(Write::State { group, state });
                }
                Some(Mutation::ForgetsTail) => {
                    let last = self
                        .memory
                        .last_index(group, state.generation)
                        .expect("a healthy store");
                    if let Some(last) = last.filter(|last| *last > state.snapshot_index + 1) {
                        let forgotten = last..last + 1;
                        writes.push(Write::Remove {
                            group,
                            generation: state.generation,
                            ranges: vec![forgotten],
                        });
                    }
                }
                _ => {}
            }
            if !writes.is_empty() {
                self.memory.write(&writes, true).expect("a healthy store");
            }
        }
    }
}

impl LogStore for Store {
    fn groups(&self) -> Result<Vec<GroupId>, Error> {
        self.memory.groups()
    }

    fn state(&self, group: GroupId) -> Result<Option<ReplicaState>, Error> {
        self.note_rot(self.memory.state(group))
    }

    fn generations(&self, group: GroupId) -> Result<Vec<u32>, Error> {
        self.memory.generations(group)
    }

    fn last_index(&self, group: GroupId, generation: u32) -> Result<Option<u64>, Error> {
        self.memory.last_index(group, generation)
    }

    fn entries(
        &self,
        group: GroupId,
        generation: u32,
        range: Range<u64>,
        bytes_max: usize,
    ) -> Result<Vec<LogEntry>, Error> {
        let read = self.memory.entries(group, generation, range.clone(), bytes_max);
        if let (Some(Mutation::SkipsCorrupt), Err(Error::Corrupt { index, .. })) = (self.mutation, &read) {
            let mut entries = self.memory.entries(group, generation, range.start..*index, bytes_max)?;
            entries.extend(
                self.memory
                    .entries(group, generation, index + 1..range.end, bytes_max)?,
            );
            return Ok(entries);
        }
        self.note_rot(read)
    }

    fn entry(&self, group: GroupId, generation: u32, index: u64) -> Result<Option<LogEntry>, Error> {
        self.note_rot(self.memory.entry(group, generation, index))
    }

    fn snapshot_chunk(
        &self,
        group: GroupId,
        generation: u32,
        snapshot_index: u64,
        number: u32,
    ) -> Result<Option<Bytes>, Error> {
        let chunk = self.memory.snapshot_chunk(group, generation, snapshot_index, number);
        self.note_rot(chunk)
    }

    fn write(&self, writes: &[Write], sync: bool) -> Result<(), Error> {
        let mut writes = writes.to_vec();
        if let Some(mutation) = self.mutation {
            mutation.spoil_writes(&mut writes);
        }
        self.memory
            .write(&writes, sync && self.mutation != Some(Mutation::NeverSyncs))
    }

    fn disk_usage(&self) -> Result<u64, Error> {
        self.memory.disk_usage()
    }
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<Request>,
    /// How many of them the write that is under way takes.
    writing: usize,
}

/// In place of the log writer's thread.
pub(crate) struct Disk {
    store: Arc<Store>,
    /// Requests are carried out at once: a thread of the node waits for the disk.
    inline: AtomicBool,
    /// A write failed: the node stops.
    failed: AtomicBool,
    queue: Mutex<Queue>,
}

impl Disk {
    pub(crate) fn new(store: Arc<Store>) -> Arc<Self> {
        Arc::new(Self {
            store,
            inline: AtomicBool::new(false),
            failed: AtomicBool::new(false),
            queue: Mutex::default(),
        })
    }

    /// Takes what waits into one write. True if there is any and none was under way.
    pub(crate) fn begin(&self) -> bool {
        let mut queue = self.queue.lock().expect("one thread");
        if queue.writing > 0 || queue.waiting.is_empty() {
            return false;
        }
        queue.writing = queue.waiting.len();
        true
    }

    /// The write that is under way is done: reports its requests.
    pub(crate) fn finish(&self) {
        if self.carry_out().is_err() {
            self.failed.store(true, Ordering::Relaxed);
        }
    }

    pub(crate) fn has_failed(&self) -> bool {
        self.failed.load(Ordering::Relaxed)
    }

    fn carry_out(&self) -> Result<(), Error> {
        let batch: Vec<Request> = {
            let mut queue = self.queue.lock().expect("one thread");
            let count = std::mem::take(&mut queue.writing);
            queue.waiting.drain(..count).collect()
        };
        let mut writes = Vec::new();
        let mut done = Vec::new();
        let mut sync = false;
        for request in batch {
            writes.extend(request.writes);
            done.extend(request.done);
            sync |= request.sync;
        }
        if sync || !writes.is_empty() {
            self.store.write(&writes, sync)?;
        }
        for done in done {
            done.listener.persisted(done.group, done.number);
        }
        Ok(())
    }

    /// While `inline`, a request is carried out before [`Submit::submit`] returns.
    pub(crate) fn set_inline(&self, inline: bool) {
        self.inline.store(inline, Ordering::Relaxed);
    }

    /// The node is gone: what was being written may have reached the disk unsynced.
    pub(crate) fn abandon(&self, written: bool) {
        let mut queue = self.queue.lock().expect("one thread");
        let count = std::mem::take(&mut queue.writing);
        let batch: Vec<Request> = queue.waiting.drain(..).take(count).collect();
        if written {
            let writes: Vec<Write> = batch.into_iter().flat_map(|request| request.writes).collect();
            // A store that failed takes nothing more.
            let _ = self.store.write(&writes, false);
        }
    }
}

impl Submit for Disk {
    fn submit(&self, request: Request) -> Result<(), Stopped> {
        self.queue.lock().expect("one thread").waiting.push_back(request);
        if self.inline.load(Ordering::Relaxed) {
            // Everything before it goes first, also what is being written.
            {
                let mut queue = self.queue.lock().expect("one thread");
                queue.writing = queue.waiting.len();
            }
            self.finish();
            if self.has_failed() {
                return Err(Stopped);
            }
        }
        Ok(())
    }
}
