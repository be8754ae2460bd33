//! Batches that wait for the next log entry, those of consumers before those of publishers.
//!
//! The batches of one session keep their order: they are numbered without gaps.

use std::collections::VecDeque;

use bytes::Bytes;
use warren_proto::record::{self, Command, SessionId};

use pace::Pace;

/// How much of something goes into one entry; a single larger batch still goes.
#[derive(Clone, Copy, Debug)]
pub(super) struct Bound {
    pub(super) bytes: usize,
    pub(super) commands: u32,
}

mod pace;

pub(super) use pace::Demand;

#[derive(Default)]
pub(super) struct Pending {
    /// Settlements, consumers' coming and going, system commands.
    urgent: VecDeque<Bytes>,
    /// Publishes, and whatever their sessions sent after them.
    bulk: VecDeque<Bytes>,
    /// The session of each batch in `bulk`, and its commands.
    bulk_of: VecDeque<(SessionId, u32)>,
    bytes: usize,
    /// An entry that could not be proposed; it goes first.
    returned: Vec<Bytes>,
    pace: Pace,
}

impl Pending {
    pub(super) fn is_empty(&self) -> bool {
        self.urgent.is_empty() && self.bulk.is_empty() && self.returned.is_empty()
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
        if publishes > 0 || self.follows_bulk(session) || self.ends_bulk(session, &batch) {
            self.bulk.push_back(batch);
            self.bulk_of.push_back((session, publishes));
        } else {
            self.urgent.push_back(batch);
        }
    }

    /// Whether the batch says that a session has ended of which something waits: it would begin anew with that.
    fn ends_bulk(&self, session: SessionId, batch: &Bytes) -> bool {
        if session != SessionId::SYSTEM || self.bulk.is_empty() {
            return false;
        }
        let commands = || {
            record::batches(batch)
                .flatten()
                .flat_map(|batch| batch.commands().flatten())
        };
        self.bulk_of.iter().any(|(other, _)| {
            commands().any(|command| match command {
                Command::SessionDown(ended) => ended == *other,
                Command::NodeDown { node, incarnation } => other.node == node && other.incarnation <= incarnation,
                _ => false,
            })
        })
    }

    fn follows_bulk(&self, session: SessionId) -> bool {
        self.bulk_of.iter().any(|(other, _)| *other == session)
    }

    /// The batches of the next entry: at most `most` in all, at least one of those that may go.
    ///
    /// Nothing although something waits: publishes wait for consumers, for [`Pending::wait_ms`] at most.
    pub(super) fn take(&mut self, most: Bound, demand: Demand) -> Vec<Bytes> {
        self.pace.heard(demand);
        if !self.returned.is_empty() {
            let entry = std::mem::take(&mut self.returned);
            self.bytes -= entry.iter().map(Bytes::len).sum::<usize>();
            return entry;
        }
        let most = self.pace.entry_max(most);
        let mut entry = Vec::new();
        let mut bytes = 0;
        while let Some(batch) = self.urgent.front()
            && (bytes == 0 || bytes + batch.len() <= most.bytes)
        {
            bytes += batch.len();
            entry.extend(self.urgent.pop_front());
        }
        let mut publishes = 0;
        while let (Some(batch), Some((_, commands))) = (self.bulk.front(), self.bulk_of.front()) {
            let (len, commands) = (batch.len(), *commands);
            let fits = bytes == 0 || (bytes + len <= most.bytes && publishes + commands <= most.commands);
            if !fits || !self.pace.lets_in(commands) {
                break;
            }
            publishes += commands;
            bytes += len;
            entry.extend(self.bulk.pop_front());
            self.bulk_of.pop_front();
        }
        self.bytes -= bytes;
        entry
    }

    /// Milliseconds after which publishes that wait for consumers may go.
    pub(super) fn wait_ms(&self) -> u64 {
        self.pace.wait_ms()
    }

    /// Undoes the last [`Pending::take`].
    pub(super) fn put_back(&mut self, entry: Vec<Bytes>) {
        self.bytes += entry.iter().map(Bytes::len).sum::<usize>();
        self.returned = entry;
    }
}

#[cfg(test)]
mod tests;
