//! What the machine tells about itself. Reading changes nothing.

use warren_proto::queue;
use warren_proto::record::SessionId;

use super::{Config, QueueMachine};

/// Counts of one queue.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Messages that wait.
    pub ready: u64,
    /// Messages held by sessions.
    pub unacked: u64,
    /// Messages that came back and rest before they wait again.
    pub resting: u64,
    /// Messages that died and wait to be taken to the dead-letter exchange.
    pub dead: u64,
    /// Publish payload bytes of the messages that wait.
    pub ready_bytes: u64,
    /// Publish payload bytes of the messages held by sessions.
    pub unacked_bytes: u64,
    /// Consumers, cancelled ones excluded.
    pub consumers: u64,
    /// Sessions that have sent something and not ended.
    pub sessions: u64,
    /// The queue was deleted, or its last consumer went and it was declared so.
    pub ended: bool,
    /// Since the queue began.
    pub totals: Totals,
}

/// Events since a queue began.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Totals {
    /// Messages enqueued.
    pub published: u64,
    /// Messages handed to consumers.
    pub delivered: u64,
    /// Messages handed out by get.
    pub got: u64,
    /// Messages handed out by either that had been handed out before.
    pub redelivered: u64,
    /// Messages settled by ack, or handed to a get without acknowledgement.
    pub acked: u64,
    /// Messages settled by reject or nack without requeue.
    pub discarded: u64,
    /// Messages that came back.
    pub requeued: u64,
    /// Messages that failed too often.
    pub dropped: u64,
    /// Messages purged.
    pub purged: u64,
    /// Batches that were ignored, in part or whole, because they did not decode or broke the rules of their sender.
    pub malformed: u64,
    /// Messages whose time was over.
    pub expired: u64,
    /// Messages that were more than the queue may hold.
    pub overflowed: u64,
    /// Publishes that the queue refused.
    pub refused: u64,
    /// Messages that died and had to go to an exchange.
    pub dead_lettered: u64,
    /// Of these, those that need not wait any longer.
    pub buried: u64,
}

/// One consumer as `list_consumers` shows it.
#[derive(Clone, Copy, Debug)]
pub struct ConsumerRow<'a> {
    /// Whose it is.
    pub session: SessionId,
    /// How it was started.
    pub attach: &'a queue::Attach,
    /// Unsettled deliveries.
    pub unsettled: u64,
    /// Whether it would get a message now.
    pub has_credit: bool,
    /// Whether it is served at all: with a single active consumer only one is.
    pub is_active: bool,
}

impl QueueMachine {
    /// Messages that consumers settled since the queue began.
    pub fn settled_total(&self) -> u64 {
        self.totals.acked + self.totals.discarded
    }

    /// Messages that wait.
    pub fn ready_len(&self) -> u64 {
        self.ready.len() as u64
    }

    /// What the queue obeys.
    pub fn config(&self) -> &Config {
        &self.config
    }

    /// What the queue was declared with.
    pub fn declared(&self) -> &Config {
        &self.declared
    }

    /// The sessions that have sent something and not ended, ascending.
    pub fn sessions(&self) -> impl Iterator<Item = SessionId> {
        self.slots.keys().copied()
    }

    /// The number of a session's last applied command; 0 if it is unknown.
    pub fn last_seq(&self, session: SessionId) -> u64 {
        self.slots.get(&session).map_or(0, |slot| self.sessions[*slot].last_seq)
    }

    /// The consumers in the order of their attachment.
    pub fn consumers(&self) -> impl Iterator<Item = ConsumerRow<'_>> {
        self.consumers
            .in_order()
            .into_iter()
            .filter(|(_, consumer)| !consumer.cancelled)
            .map(|(_, consumer)| ConsumerRow {
                session: self.sessions[consumer.session].id,
                attach: &consumer.attach,
                unsettled: consumer.unsettled,
                has_credit: consumer.has_credit(),
                is_active: !consumer.waits,
            })
    }

    /// Counts.
    pub fn stats(&self) -> Stats {
        Stats {
            ready: self
                .stream
                .as_ref()
                .map_or(self.ready.len() as u64, |stream| stream.len()),
            unacked: self.held.len() as u64,
            resting: self.resting.len() as u64,
            dead: self.dead.len() as u64,
            ready_bytes: match &self.stream {
                None => self.ready.bytes(),
                Some(stream) => stream.bytes(),
            },
            unacked_bytes: self.held_bytes,
            consumers: self.consumers.len() as u64,
            sessions: self.slots.len() as u64,
            ended: self.ended,
            totals: self.totals,
        }
    }
}
