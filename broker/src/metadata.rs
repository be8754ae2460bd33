//! The metadata machine: vhosts, users, permissions, policies, limits, exchanges, bindings, queues and where they live,
//! nodes.
//!
//! One more replicated machine in one more group, applied on every node, so that routing is a local read everywhere.
//! It is pure: no clock, no randomness, no IO. It knows no Raft, no connection and no message.
//!
//! ```text
//! connection -> Change -> log -> MetadataMachine::apply -> Effect ... on every node
//!                                        |
//!                                        '-> Picture -> View: what connections, exchanges and listings read
//! ```
//!
//! Invariants:
//! - Every binding has both its ends. Deleting an end deletes its bindings.
//! - A group id or exchange id is never used again, so nothing can mistake a redeclared queue for the old one.
//! - A refused change leaves everything as it was.
//! - Effects are facts for every node, not orders to one: only [`Effect::Answer`] concerns a single run of a node.

use std::sync::Arc;

use bytes::Bytes;
use warren_cluster::NodeId;
use warren_cluster::machine::{Machine, Meta, RestoreError};

pub use self::apply::IDS_MAX;
pub use self::arguments::{Arguments, Kind, validate, validate_exchange};
pub use self::change::{
    AddUser, Bind, Bootstrap, Change, DeclareExchange, DeclareQueue, DeleteExchange, DescribeVhost, Parameter, Request,
    SetPermissions, SetTopicPermission,
};
pub use self::checks::{
    check_exchange_declare, check_exchange_name, check_new_queue, check_queue_declare, check_queue_name,
    check_server_named,
};
pub use self::edit::predeclared;
pub use self::facts::{Binding, Destination, Exchange, Forgotten, Node, Placement, Queue, Resource, Run, User, Vhost};
pub use self::limits::{Limits, USER_LIMITS, VHOST_LIMITS};
pub use self::nodes::{SURVIVORS_MAX, reform_number, reform_of, reformed_id};
pub use self::permission::{Access, Permission, TopicPermission, TopicPermissions};
pub use self::placement::{place, place_delays, place_replicas};
pub use self::policy::{Applied, ApplyTo, Definition, Policy, SetPolicy};
pub use self::refusal::Refusal;
pub use self::view::{Load, NoExchange, Picture, View};
use crate::name::{UserName, VhostName};

pub mod actor;
mod apply;
pub mod arguments;
mod change;
mod checks;
pub mod client;
mod edit;
mod facts;
mod limits;
mod moves;
mod nodes;
mod orphans;
mod permission;
mod placement;
pub mod policy;
mod refusal;
pub mod replica;
mod requests;
mod snapshot;
mod view;

/// What became of a change.
#[derive(Clone, Debug)]
pub enum Outcome {
    Done,
    /// The queue, whether it was there before or not.
    Queue(Arc<Queue>),
    Refused(Refusal),
}

/// A fact that follows from an applied entry. Every node gets every one, in this order.
#[derive(Clone, Debug)]
pub enum Effect {
    /// For the waiter of `request`, if this is its node and run.
    Answer {
        request: Request,
        outcome: Outcome,
    },
    VhostDeleted(VhostName),
    UserDeleted(UserName),
    ExchangeDeclared(Arc<Exchange>),
    ExchangeDeleted(Arc<Exchange>),
    Bound {
        exchange: Arc<Exchange>,
        binding: Arc<Binding>,
    },
    Unbound {
        exchange: Arc<Exchange>,
        binding: Arc<Binding>,
    },
    QueueDeclared(Arc<Queue>),
    QueueDeleted(Arc<Queue>),
    /// Its replicas or its preferred leader are others now.
    QueuePlaced(Arc<Queue>),
    /// Its settings are others now.
    QueueConfigured(Arc<Queue>),
    NodeUp(Run),
    NodeDown(Run),
    /// Whether that node drains is not what it was.
    NodeDrains(NodeId),
    /// Which nodes there are, or where they are, is not what it was.
    NodesChanged,
}

/// The machine. Its whole state is a [`Picture`].
#[derive(Clone, Default)]
pub struct MetadataMachine {
    picture: Picture,
}

impl MetadataMachine {
    /// The machine of a cluster that has not been bootstrapped.
    pub fn new() -> Self {
        Self::default()
    }

    /// What to publish. Copying it costs a few reference counts, whatever it holds.
    pub fn picture(&self) -> &Picture {
        &self.picture
    }
}

impl Machine for MetadataMachine {
    type Effect = Effect;

    fn apply(&mut self, meta: &Meta, payload: &[u8], out: &mut Vec<Effect>) {
        apply::apply(&mut self.picture, meta, payload, out);
    }

    fn snapshot(&self) -> Vec<Bytes> {
        snapshot::write(&self.picture)
    }

    fn restore(&mut self, chunks: &[Bytes]) -> Result<(), RestoreError> {
        self.picture = snapshot::read(chunks).map_err(|error| RestoreError::Damaged(error.to_string()))?;
        Ok(())
    }

    /// Commands leave nothing in the log that the state refers to.
    fn is_live(&self, _index: u64) -> bool {
        false
    }

    fn live(&self) -> Vec<std::ops::Range<u64>> {
        Vec::new()
    }

    fn take_freed(&mut self, _out: &mut Vec<u64>) {}
}

#[cfg(test)]
mod tests;
