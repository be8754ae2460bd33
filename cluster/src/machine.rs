//! The only seam between a replicated group and what it replicates.

use std::ops::Range;

use bytes::Bytes;

use crate::version;

/// What the log says about an entry beside its payload. Equal on every replica.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Meta {
    /// The entry's place in the log.
    pub index: u64,
    /// The term it was proposed in.
    pub term: u64,
    /// The proposing leader's wall clock, in milliseconds since 1970; never less than that of an earlier entry.
    pub time_ms: u64,
    /// The behaviour that every replica must show from this entry on.
    pub version: u16,
}

/// What a state keeps of the entries that made it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Stamp {
    /// The newest version among them.
    pub version: u16,
    /// The last time.
    pub time_ms: u64,
}

impl Default for Stamp {
    fn default() -> Self {
        Self {
            version: version::FIRST,
            time_ms: 0,
        }
    }
}

/// Why a snapshot is no state of this machine.
#[derive(Debug, thiserror::Error)]
pub enum RestoreError {
    /// It is none of any.
    #[error("machine snapshot cannot be restored: {0}")]
    Damaged(String),
    /// It was made by entries of a version that this build does not know.
    #[error("machine snapshot is of version {0}")]
    Version(u16),
}

/// A deterministic state machine: the same entries give the same state on every node and every build.
///
/// No clock, no randomness, no IO, no knowledge of leadership.
pub trait Machine: 'static {
    /// Plain data that the leader performs (or every node, where a machine says so): perhaps twice, perhaps never.
    type Effect;

    /// Applies one entry. Must accept any bytes: what does not decode is ignored, alike on every replica.
    fn apply(&mut self, meta: &Meta, payload: &[u8], out: &mut Vec<Self::Effect>);

    /// The whole state in chunks of at most 1 MiB, without the bodies that live entries hold.
    fn snapshot(&self) -> Vec<Bytes>;

    /// Replaces the state by one that [`Machine::snapshot`] described.
    fn restore(&mut self, chunks: &[Bytes]) -> Result<(), RestoreError>;

    /// Of the last entry that the state has seen, if the machine keeps it.
    fn stamp(&self) -> Stamp {
        Stamp::default()
    }

    /// Whether the entry at `index` must stay readable after it was compacted.
    fn is_live(&self, index: u64) -> bool;

    /// The entries that must stay readable: ascending ranges of their indexes, which do not overlap.
    fn live(&self) -> Vec<Range<u64>>;

    /// Moves out the entries that ceased to be live since the last call.
    fn take_freed(&mut self, out: &mut Vec<u64>);
}
