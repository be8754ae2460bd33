//! What a node keeps of its groups: log entries, replica states and machine snapshots, in one [`LogStore`].
//!
//! Knows no Raft rule: the caller says what is replaced and what may go. Knows nothing of what entries hold.
//!
//! Invariants:
//! - An entry, a state or a chunk is returned exactly as it was written, or the read fails naming it.
//! - A synced write survives a crash, and with it every write before it.
//! - After a crash the store holds what some prefix of its writes left, never half of one.

use std::ops::Range;
use std::path::PathBuf;

use bytes::Bytes;
pub use warren_proto::transport::ReplicaState;

use crate::GroupId;

mod keys;
pub mod memory;
pub mod rocks;
pub mod writer;

/// One entry of a group's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LogEntry {
    /// Its place in the log, counted from 1.
    pub index: u64,
    /// The term it was proposed in.
    pub term: u64,
    /// The caller's entry type; opaque here.
    pub kind: u8,
    /// The caller's payload; opaque here.
    pub data: Bytes,
}

/// One change to the store. A list of them is carried out in order.
#[derive(Clone, Debug, PartialEq)]
pub enum Write {
    /// Stores entries, which ascend without gaps.
    ///
    /// Every entry from the first one's index up to `stored_last` that was stored before is removed: a conflicting
    /// tail goes, also where it was longer than what replaces it. Does nothing when `entries` is empty.
    Append {
        /// The group.
        group: GroupId,
        /// The set of entries that they belong to.
        generation: u32,
        /// What to store.
        entries: Vec<LogEntry>,
        /// The highest index that may be stored in this generation now, 0 if none. Too high only costs time;
        /// too low lets the replaced entry come back once the new one is removed.
        stored_last: u64,
    },
    /// Replaces the replica's state. The first one makes the group known to [`LogStore::groups`].
    State {
        /// The group.
        group: GroupId,
        /// The whole new state.
        state: ReplicaState,
    },
    /// Removes entries. Indexes that hold nothing are allowed.
    Remove {
        /// The group.
        group: GroupId,
        /// The set of entries that they belong to.
        generation: u32,
        /// First index inclusive, last exclusive.
        ranges: Vec<Range<u64>>,
    },
    /// Stores or replaces one part of a machine snapshot.
    SnapshotChunk {
        /// The group.
        group: GroupId,
        /// The generation that the snapshot belongs to.
        generation: u32,
        /// The last entry that it covers.
        snapshot_index: u64,
        /// Counted from 0.
        number: u32,
        /// Opaque here.
        data: Bytes,
    },
    /// Removes every chunk of one machine snapshot.
    RemoveSnapshot {
        /// The group.
        group: GroupId,
        /// The generation that the snapshot belongs to.
        generation: u32,
        /// The last entry that it covers.
        snapshot_index: u64,
    },
    /// Removes a generation's entries and snapshots. Its number may be used again.
    DropGeneration {
        /// The group.
        group: GroupId,
        /// The generation.
        generation: u32,
    },
    /// Removes everything that is kept of a group.
    DropGroup {
        /// The group.
        group: GroupId,
    },
}

/// A wider range is removed as one record, a narrower one entry by entry.
const REMOVED_SINGLY_MAX: u64 = 1 << 16;

impl Write {
    /// About how many bytes it brings to the disk.
    pub fn len(&self) -> usize {
        const RECORD: usize = 40;
        match self {
            Self::Append { entries, .. } => entries.iter().map(|entry| RECORD + entry.data.len()).sum(),
            Self::State { state, .. } => RECORD + 8 * (state.voters.len() + state.learners.len()),
            Self::Remove { ranges, .. } => {
                let entries = |range: &Range<u64>| range.end.saturating_sub(range.start).min(REMOVED_SINGLY_MAX);
                ranges.iter().map(|range| RECORD * entries(range) as usize).sum()
            }
            Self::SnapshotChunk { data, .. } => RECORD + data.len(),
            Self::RemoveSnapshot { .. } | Self::DropGeneration { .. } | Self::DropGroup { .. } => RECORD,
        }
    }

    /// Whether it brings nothing to the disk.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }
}

/// Where a node's groups are kept.
///
/// Writes are atomic: all of a list or nothing of it. They take effect in the order of the calls, and reads see a
/// write as soon as the call has returned. With `sync`, it and every earlier write are on the disk by then; without,
/// a crash may undo it together with every write after it. A failed write leaves it open whether it happened: the
/// caller must stop using the store, and open it again.
///
/// Reads may run on any thread at any time, and beside one write they see all of it or nothing of it only within one
/// call. A group or generation that nothing was written to reads as empty. Index ranges include their start and
/// exclude their end.
pub trait LogStore: Send + Sync + 'static {
    /// Every group with a state, ascending.
    fn groups(&self) -> Result<Vec<GroupId>, Error>;

    /// The last state written; none if there is none or the group was dropped.
    fn state(&self, group: GroupId) -> Result<Option<ReplicaState>, Error>;

    /// Every generation of the group that an entry or a chunk is stored under, ascending.
    fn generations(&self, group: GroupId) -> Result<Vec<u32>, Error>;

    /// The highest stored entry.
    fn last_index(&self, group: GroupId, generation: u32) -> Result<Option<u64>, Error>;

    /// Stored entries in `range`, ascending; indexes that hold nothing are skipped.
    ///
    /// Stops before the entry that would bring the sum of the data over `bytes_max`, but returns at least one entry
    /// if the range holds any.
    fn entries(
        &self,
        group: GroupId,
        generation: u32,
        range: Range<u64>,
        bytes_max: usize,
    ) -> Result<Vec<LogEntry>, Error>;

    /// One entry.
    fn entry(&self, group: GroupId, generation: u32, index: u64) -> Result<Option<LogEntry>, Error>;

    /// One part of a machine snapshot.
    fn snapshot_chunk(
        &self,
        group: GroupId,
        generation: u32,
        snapshot_index: u64,
        number: u32,
    ) -> Result<Option<Bytes>, Error>;

    /// Carries out `writes` in order: all or nothing. An empty list with `sync` makes earlier writes durable.
    fn write(&self, writes: &[Write], sync: bool) -> Result<(), Error>;

    /// How many bytes of disk the store takes now, what is removed but not yet given back included.
    fn disk_usage(&self) -> Result<u64, Error>;
}

/// Whose store it is. Recorded at the first opening, compared at every later one.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The cluster's name.
    pub cluster: String,
    /// The node's name within it.
    pub node: String,
}

/// Why a store cannot be opened, read or written. None of them is cured by trying again.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The directory cannot be made, listed or written to.
    #[error("the data directory {path} cannot be used: {reason}")]
    Unusable {
        /// The directory.
        path: PathBuf,
        /// What the operating system said.
        reason: String,
    },
    /// Another process, or this one, has it open.
    #[error("the data directory {path} is in use by another process")]
    Locked {
        /// The directory.
        path: PathBuf,
    },
    /// The directory holds something else than a store.
    #[error("the data directory {path} does not hold a Warren store: {reason}")]
    Foreign {
        /// The directory.
        path: PathBuf,
        /// What was found.
        reason: String,
    },
    /// The store belongs to another cluster or node.
    #[error(
        "the data directory {path} belongs to node {:?} of cluster {:?}, not to node {:?} of cluster {:?}",
        found.node, found.cluster, expected.node, expected.cluster
    )]
    WrongIdentity {
        /// The directory.
        path: PathBuf,
        /// Who wrote it.
        found: Identity,
        /// Who opens it.
        expected: Identity,
    },
    /// An entry that must be there is not.
    #[error("group {group}: entry {index} is missing from the log")]
    Missing {
        /// The group.
        group: GroupId,
        /// The entry.
        index: u64,
    },
    /// The store was written by a later version.
    #[error("the data directory {path} has format version {found}; this version reads up to {supported}")]
    NewerFormat {
        /// The directory.
        path: PathBuf,
        /// Its version.
        found: u32,
        /// The highest version understood.
        supported: u32,
    },
    /// The store as a whole does not open or read.
    #[error("the store in {path} is damaged: {reason}")]
    Damaged {
        /// The directory.
        path: PathBuf,
        /// What the storage engine said.
        reason: String,
    },
    /// An entry is not what was written.
    #[error("entry {index} of group {group} is corrupt")]
    Corrupt {
        /// The group.
        group: GroupId,
        /// The entry's index.
        index: u64,
    },
    /// A replica's state or a chunk of its snapshot is not what was written.
    #[error("the {what} of group {group} is corrupt")]
    CorruptRecord {
        /// The group.
        group: GroupId,
        /// Which record.
        what: String,
    },
    /// Reading or writing failed.
    #[error("the store failed: {0}")]
    Io(String),
}

#[cfg(test)]
mod suite;
