//! Where a stream's reader is, and how far it may go.
//!
//! The reader's place moves with what is accepted; its credit with what the client has settled and the socket has taken.
//! What the leader was told of it is said again until the leader has answered, and all of it once something may be lost.

use std::collections::VecDeque;

use warren_proto::queue;
use warren_proto::record::Delivery;

use super::{Open, QueueClient};

/// Bytes that leaders may send ahead of the client's socket, for all readers of a connection; for each one message more.
const WINDOW_BYTES: u64 = 8 << 20;
/// The same for one reader.
const READER_BYTES_MAX: u64 = 2 << 20;
/// The same for one reader, in messages.
const WINDOW_MAX: u64 = 2_000;
const WINDOW_MIN: u64 = 16;

/// What one of a connection's readers may be sent ahead of the client's socket.
#[derive(Clone, Copy, Debug)]
pub struct Share {
    bytes: u64,
    messages: u64,
}

impl Share {
    /// If there are so many readers.
    pub fn of(readers: usize) -> Self {
        let readers = (readers as u64).max(1);
        Self {
            bytes: (WINDOW_BYTES / readers).clamp(1, READER_BYTES_MAX),
            messages: (WINDOW_MAX * 4 / readers).clamp(WINDOW_MIN, WINDOW_MAX),
        }
    }

    /// Whether so much in the connection's output leaves no room for more.
    pub fn is_over(unwritten: usize) -> bool {
        unwritten as u64 >= WINDOW_BYTES
    }
}

/// One reader.
#[derive(Debug)]
pub(super) struct Reading {
    /// The offset from which on the next message is to be found.
    position: u64,
    prefetch: u64,
    /// Deliveries that came, and their bytes.
    accepted: u64,
    bytes: u64,
    /// The bytes of those that are not written to the socket.
    unwritten: VecDeque<u32>,
    unwritten_bytes: u64,
    /// Of these: settled by the client.
    settled: u64,
    /// The highest delivery that the leader was told it may send.
    granted: u64,
    /// The same in bytes.
    granted_bytes: u64,
    /// It has not said that it knows.
    is_open: bool,
}

impl Reading {
    pub(super) fn new(position: u64, prefetch: u32) -> Self {
        Self {
            position,
            prefetch: u64::from(prefetch).max(1),
            accepted: 0,
            bytes: 0,
            unwritten: VecDeque::new(),
            unwritten_bytes: 0,
            settled: 0,
            granted: 0,
            granted_bytes: 0,
            is_open: false,
        }
    }

    /// Whether the message came before. Its number does not say so: asked twice from the same place, a leader may find
    /// another message there if the first has gone meanwhile.
    pub(super) fn has_passed(&self, delivery: &Delivery) -> bool {
        delivery.seq < self.position
    }

    /// Whether a delivery with the right number, of a message that did not come before, is the next one; then it counts
    /// as come.
    pub(super) fn accept(&mut self, delivery: &Delivery) -> bool {
        let follows = delivery.get_seq <= self.position;
        if follows {
            self.position = delivery.seq + 1;
            self.accepted += 1;
            let len = delivery.payload.len();
            self.bytes += len as u64;
            self.unwritten.push_back(u32::try_from(len).unwrap_or(u32::MAX));
            self.unwritten_bytes += len as u64;
        }
        follows
    }

    /// Nothing before this offset is to come.
    fn passed(&mut self, offset: u64) {
        self.position = self.position.max(offset);
    }

    fn wrote(&mut self) {
        let Some(len) = self.unwritten.pop_front() else { return };
        self.unwritten_bytes = self.unwritten_bytes.saturating_sub(len.into());
        if self.unwritten.is_empty() {
            self.unwritten = VecDeque::new();
        }
    }

    /// The highest delivery that may be sent.
    fn upto(&self, share: Share) -> u64 {
        let written = self.accepted - self.unwritten.len() as u64;
        let upto = (self.settled + self.prefetch).min(written + share.messages);
        upto.max(self.granted)
    }

    /// After how many bytes nothing more may be sent.
    fn bytes_upto(&self, share: Share) -> u64 {
        let upto = (self.bytes - self.unwritten_bytes) + share.bytes;
        upto.max(self.granted_bytes)
    }

    /// Whether the leader should hear of more credit: it has none left, or there is much more.
    fn is_due(&self, share: Share) -> bool {
        let more = self.upto(share) - self.granted;
        let more_bytes = self.bytes_upto(share) - self.granted_bytes;
        let left = self.granted > self.accepted;
        let left_bytes = self.granted_bytes > self.bytes;
        let much = more >= self.prefetch.min(share.messages) / 4 || !left;
        let much_bytes = more_bytes >= share.bytes / 4 || !left_bytes;
        (more > 0 && much && (left_bytes || more_bytes > 0)) || (more_bytes > 0 && much_bytes && left)
    }

    fn tell(&mut self, consumer: u32, next: u64, share: Share) -> queue::ResyncConsumer {
        self.granted = self.upto(share);
        self.granted_bytes = self.bytes_upto(share);
        queue::ResyncConsumer {
            consumer,
            next,
            offset: Some(self.position),
            upto: self.granted,
            goes_on: true,
            bytes: self.bytes,
            bytes_upto: self.granted_bytes,
        }
    }

    /// For a leader that may not know the reader, or not where it is.
    pub(super) fn restart(&mut self, consumer: u32, next: u64, share: Share) -> queue::ResyncConsumer {
        self.is_open = false;
        queue::ResyncConsumer {
            goes_on: false,
            ..self.tell(consumer, next, share)
        }
    }
}

impl QueueClient {
    /// One delivery of a stream was written to the client's socket.
    pub fn wrote(&mut self, consumer: u32) {
        if let Some(reading) = self.reading(consumer) {
            reading.wrote();
        }
    }

    pub(super) fn settled(&mut self, consumer: u32) {
        if let Some(reading) = self.reading(consumer) {
            reading.settled = reading.accepted.min(reading.settled + 1);
        }
    }

    fn reading(&mut self, consumer: u32) -> Option<&mut Reading> {
        self.consumers.get_mut(&consumer)?.reading.as_mut()
    }

    /// The leader says that nothing is to come before an offset. True of whatever leader said it, as long as the delivery
    /// that it names is the next one here.
    pub(super) fn reader_passed(&mut self, passed: &queue::ReaderPassed) {
        if let Some(inbound) = self.consumers.get_mut(&passed.consumer)
            && inbound.next == passed.next
            && let Some(reading) = &mut inbound.reading
        {
            reading.passed(passed.offset);
        }
    }

    /// How many readers of a stream it has.
    pub fn readers(&self) -> usize {
        if !self.is_stream {
            return 0;
        }
        let inbound = self.consumers.values();
        inbound.filter(|inbound| inbound.reading.is_some()).count()
    }

    /// What to tell the leader of its readers' credit, if it should hear of it. It may be lost on the way: unless it is
    /// answered, a resync becomes due.
    pub fn take_credit(&mut self, share: Share, now_ms: u64) -> Option<queue::Resync> {
        // A resync says all that there is to say; what came after it follows its answer.
        let waits = self.resync || matches!(self.asked, Some(Open { is_resync: true, .. }));
        if !self.is_stream || waits {
            return None;
        }
        let mut readings = self.consumers.values().filter_map(|inbound| inbound.reading.as_ref());
        if !readings.any(|reading| reading.is_due(share)) {
            return None;
        }
        let mut told = Vec::new();
        for (&consumer, inbound) in &mut self.consumers {
            if let Some(reading) = &mut inbound.reading
                && (reading.is_open || reading.is_due(share))
            {
                reading.is_open = true;
                told.push(reading.tell(consumer, inbound.next, share));
            }
        }
        Some(self.question_beside(told, false, now_ms))
    }

    /// The leader knows all that it was told.
    pub(super) fn credit_arrived(&mut self) {
        for inbound in self.consumers.values_mut() {
            if let Some(reading) = &mut inbound.reading {
                reading.is_open = false;
            }
        }
    }
}
