//! Queues: one state machine, two shells around it, and a session's side.
//!
//! ```text
//!   connection ── QueueClient ──batch──▶ QueueActor      ── log ──▶ QueueMachine (replicated)
//!                      ▲                 TransientActor  ─────────▶ QueueMachine (in memory, on one node)
//!                      └────Events───────┘
//! ```

use std::ops::Range;

use bytes::Bytes;
use warren_cluster::machine::{Machine, Meta, RestoreError, Stamp};

use crate::metadata::Queue;
use crate::metadata::arguments::{Arguments, Overflow};
use machine::{Effect, QueueMachine};

pub mod actor;
mod alarm;
pub mod client;
mod dead_letters;
pub mod machine;
mod outbox;
mod pending;
mod place;
mod readers;
pub mod replica;
mod silence;
pub mod transient;

pub use alarm::Due;

/// What the machine must know of its queue from the first entry on: what it was declared with, which is the same
/// whenever and wherever a replica begins.
pub(crate) fn declared(queue: &Queue) -> machine::Config {
    // What holds the messages of a delayed exchange has no arguments, and no policy.
    if queue.is_delay {
        return config(queue);
    }
    config_of(queue, &Arguments::read(queue.kind, &queue.arguments))
}

/// What the machine is to obey as things are now.
pub(crate) fn config(queue: &Queue) -> machine::Config {
    config_of(queue, &queue.settings)
}

fn config_of(queue: &Queue, settings: &Arguments) -> machine::Config {
    machine::Config {
        kind: match queue.kind {
            crate::metadata::Kind::Classic => machine::Kind::Classic,
            crate::metadata::Kind::Quorum => machine::Kind::Quorum,
            crate::metadata::Kind::Stream => machine::Kind::Stream,
        },
        delivery_limit: settings.delivery_limit,
        message_ttl_ms: settings.message_ttl_ms,
        expires_ms: settings.expires_ms,
        len_max: settings.len_max,
        bytes_max: settings.bytes_max,
        overflow: match settings.overflow {
            Overflow::DropHead => machine::Overflow::DropHead,
            Overflow::RejectPublish => machine::Overflow::RejectPublish,
            Overflow::RejectPublishDlx => machine::Overflow::RejectPublishDlx,
        },
        dead_letters: settings.dead_letter_exchange.is_some(),
        single_active_consumer: settings.single_active_consumer,
        priority_max: settings.priority_max,
        auto_delete: queue.auto_delete,
        deduplicates: queue.settings.deduplicates,
        age_max_ms: settings.age_max_ms,
        segment_bytes: settings.segment_bytes,
        retry: settings.delayed_retry.map(|retry| machine::Retry {
            failed: retry.failed,
            returned: retry.returned,
            min_ms: retry.min_ms,
            max_ms: retry.max_ms,
        }),
    }
}

impl Machine for QueueMachine {
    type Effect = Effect;

    fn apply(&mut self, meta: &Meta, payload: &[u8], out: &mut Vec<Effect>) {
        QueueMachine::apply(self, meta, payload, out);
    }

    fn snapshot(&self) -> Vec<Bytes> {
        QueueMachine::snapshot(self)
    }

    fn restore(&mut self, chunks: &[Bytes]) -> Result<(), RestoreError> {
        *self = QueueMachine::restore(self.declared().clone(), chunks).map_err(|error| match error {
            machine::RestoreError::Version(version) => RestoreError::Version(version),
            error => RestoreError::Damaged(error.to_string()),
        })?;
        Ok(())
    }

    fn stamp(&self) -> Stamp {
        QueueMachine::stamp(self)
    }

    fn is_live(&self, index: u64) -> bool {
        QueueMachine::is_live(self, index)
    }

    fn live(&self) -> Vec<Range<u64>> {
        QueueMachine::live(self)
    }

    fn take_freed(&mut self, out: &mut Vec<u64>) {
        QueueMachine::take_freed(self, out);
    }
}
