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
use machine::{Effect, QueueMachine};

pub mod actor;
pub mod client;
pub mod machine;
mod outbox;
mod pending;
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
