//! Queues: one state machine, two shells around it, and a session's side.
//!
//! ```text
//!   connection ── QueueClient ──batch──▶ QueueActor      ── log ──▶ QueueMachine (replicated)
//!                      ▲                 TransientActor  ─────────▶ QueueMachine (in memory, on one node)
//!                      └────Events───────┘
//! ```

use bytes::Bytes;
use warren_cluster::machine::{Machine, Meta, RestoreError};

use crate::metadata::Queue;
use crate::metadata::arguments::Overflow;
use machine::{Effect, QueueMachine};

pub mod actor;
mod alarm;
pub mod client;
mod dead_letters;
pub mod machine;
mod outbox;
mod pending;
mod place;
pub mod replica;
pub mod transient;

/// What the machine must know of its queue from the first entry on.
pub(crate) fn config(queue: &Queue) -> machine::Config {
    machine::Config {
        kind: match queue.kind {
            crate::metadata::Kind::Classic => machine::Kind::Classic,
            crate::metadata::Kind::Quorum => machine::Kind::Quorum,
        },
        delivery_limit: queue.settings.delivery_limit,
        message_ttl_ms: queue.settings.message_ttl_ms,
        expires_ms: queue.settings.expires_ms,
        len_max: queue.settings.len_max,
        bytes_max: queue.settings.bytes_max,
        overflow: match queue.settings.overflow {
            Overflow::DropHead => machine::Overflow::DropHead,
            Overflow::RejectPublish => machine::Overflow::RejectPublish,
            Overflow::RejectPublishDlx => machine::Overflow::RejectPublishDlx,
        },
        dead_letters: queue.settings.dead_letter_exchange.is_some(),
        single_active_consumer: queue.settings.single_active_consumer,
        priority_max: queue.settings.priority_max,
        auto_delete: queue.auto_delete,
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
        *self =
            QueueMachine::restore(self.config().clone(), chunks).map_err(|error| RestoreError(error.to_string()))?;
        Ok(())
    }

    fn is_live(&self, index: u64) -> bool {
        QueueMachine::is_live(self, index)
    }

    fn live(&self) -> Vec<u64> {
        QueueMachine::live(self).collect()
    }

    fn take_freed(&mut self, out: &mut Vec<u64>) {
        QueueMachine::take_freed(self, out);
    }
}
