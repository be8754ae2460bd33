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

#[derive(Default)]
pub(super) struct Pending {
    /// Settlements, consumers' coming and going, system commands.
    urgent: VecDeque<Bytes>,
    /// Publishes, and whatever their sessions sent after them.
    bulk: VecDeque<Bytes>,
    /// The session of each batch in `bulk`, and its commands.
    bulk_of: VecDeque<(SessionId, u32)>,
    bytes: usize,
    /// Whether the last entry taken held urgent batches.
    consumers: bool,
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

    /// The batches of the next entry: at most `most` in all, and no more of publishes than `beside` where consumers were
    /// heard of in this entry or the one before. At least one batch.
    pub(super) fn take(&mut self, most: Bound, beside: Bound) -> Vec<Bytes> {
        let heard = !self.urgent.is_empty();
        let bulk_most = if heard || self.consumers { beside } else { most };
        self.consumers = heard;
        let mut entry = Vec::new();
        let mut bytes = 0;
        while let Some(batch) = self.urgent.front()
            && (bytes == 0 || bytes + batch.len() <= most.bytes)
        {
            bytes += batch.len();
            entry.extend(self.urgent.pop_front());
        }
        let mut bulk = Bound { bytes: 0, commands: 0 };
        while let (Some(batch), Some((_, commands))) = (self.bulk.front(), self.bulk_of.front())
            && (bulk.bytes == 0
                || (bulk.bytes + batch.len() <= bulk_most.bytes
                    && bulk.commands + commands <= bulk_most.commands
                    && bytes + batch.len() <= most.bytes))
        {
            bulk.bytes += batch.len();
            bulk.commands += commands;
            bytes += batch.len();
            entry.extend(self.bulk.pop_front());
            self.bulk_of.pop_front();
        }
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
