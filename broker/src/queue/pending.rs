//! Batches that wait for the next log entry, those of consumers before those of publishers.
//!
//! The batches of one session keep their order: they are numbered without gaps.

use std::collections::VecDeque;

use bytes::Bytes;
use warren_proto::record::{self, SessionId};

/// How much of something goes into one entry; a single larger batch still goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    pub(super) bytes: usize,
    pub(super) commands: u32,
}

/// Settled messages that are remembered for publishes to come.
const ALLOWANCE_MAX: u32 = 2_048;
/// Entries that may pass without publishes while consumers settle.
const SKIPPED_MAX: u32 = 3;

/// Entries after which consumers that were not heard of do not hold publishers back.
const QUIET_MAX: u32 = 8;

pub(super) struct Pending {
    /// Settlements, consumers' coming and going, system commands.
    urgent: VecDeque<Bytes>,
    /// Publishes, and whatever their sessions sent after them.
    bulk: VecDeque<Bytes>,
    /// The session of each batch in `bulk`, and its commands.
    bulk_of: VecDeque<(SessionId, u32)>,
    bytes: usize,
    /// Entries since the last one with urgent batches.
    quiet: u32,
    /// Publishes that may go in beside consumers, for what those settled.
    allowance: u32,
    /// Entries since the last one with publishes.
    skipped: u32,
}

impl Default for Pending {
    fn default() -> Self {
        Self {
            urgent: VecDeque::new(),
            bulk: VecDeque::new(),
            bulk_of: VecDeque::new(),
            bytes: 0,
            quiet: QUIET_MAX + 1,
            allowance: 0,
            skipped: 0,
        }
    }
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.urgent.is_empty() && self.bulk.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    pub(super) fn push(&mut self, batch: Bytes) {
        self.bytes += batch.len();
        let (session, publishes) = record::peek(&batch);
        if publishes > 0 || self.follows_bulk(session) {
            self.bulk.push_back(batch);
            self.bulk_of.push_back((session, publishes));
        } else {
            self.urgent.push_back(batch);
        }
    }

    fn follows_bulk(&self, session: SessionId) -> bool {
        self.bulk_of.iter().any(|(other, _)| *other == session)
    }

    /// The batches of the next entry: at most `most` in all, at least one.
    ///
    /// With `settled`, the messages that consumers settled since the last entry, publishes are let in at about the rate
    /// at which consumers settle, while they do. However slow that is, every few entries take a batch of publishes.
    pub(super) fn take(&mut self, most: Bound, settled: Option<u64>) -> Vec<Bytes> {
        self.quiet = if self.urgent.is_empty() {
            self.quiet.saturating_add(1)
        } else {
            0
        };
        let limited = settled.is_some() && self.quiet <= QUIET_MAX;
        let settled = u32::try_from(settled.unwrap_or(0)).unwrap_or(ALLOWANCE_MAX);
        self.allowance = self.allowance.saturating_add(settled).min(ALLOWANCE_MAX);
        let mut entry = Vec::new();
        let mut bytes = 0;
        while let Some(batch) = self.urgent.front()
            && (bytes == 0 || bytes + batch.len() <= most.bytes)
        {
            bytes += batch.len();
            entry.extend(self.urgent.pop_front());
        }
        let mut bulk = Bound { bytes: 0, commands: 0 };
        while let (Some(batch), Some((_, commands))) = (self.bulk.front(), self.bulk_of.front()) {
            let (len, commands) = (batch.len(), *commands);
            let fits = bytes == 0 || (bytes + len <= most.bytes && bulk.commands + commands <= most.commands);
            let due = bulk.bytes == 0 && (entry.is_empty() || self.skipped >= SKIPPED_MAX);
            if !fits || (limited && self.allowance < commands && !due) {
                break;
            }
            self.allowance = self.allowance.saturating_sub(commands);
            bulk.bytes += len;
            bulk.commands += commands;
            bytes += len;
            entry.extend(self.bulk.pop_front());
            self.bulk_of.pop_front();
        }
        self.skipped = if bulk.bytes == 0 {
            self.skipped.saturating_add(1)
        } else {
            0
        };
        self.bytes -= bytes;
        entry
    }

    /// Undoes the last [`Pending::take`].
    pub(super) fn put_back(&mut self, entry: Vec<Bytes>) {
        for batch in entry.into_iter().rev() {
            self.bytes += batch.len();
            let (session, publishes) = record::peek(&batch);
            if publishes > 0 || self.follows_bulk(session) {
                self.bulk.push_front(batch);
                self.bulk_of.push_front((session, publishes));
            } else {
                self.urgent.push_front(batch);
            }
        }
    }
}

#[cfg(test)]
mod tests;
