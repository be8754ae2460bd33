//! What the actors of queues and of the metadata take in, and how much of it may wait before them.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use actix::prelude::*;
use bytes::Bytes;
use tokio::sync::oneshot;
use warren_cluster::NodeId;
use warren_cluster::group::Event;
use warren_proto::queue;

use super::Description;
use crate::mailbox::{Mailbox, Refused};
use crate::metadata::Queue;

/// Bytes of batches that may wait in one mailbox, and as many of Raft messages.
pub(super) const WAITING_BYTES_MAX: usize = 32 << 20;

/// What a queue's or the metadata's actor takes in.
#[derive(Message)]
#[rtype(result = "()")]
pub enum Inbound {
    /// For its Raft group.
    Group(Event),
    /// Commands for its machine.
    Batch {
        /// The node that the sender is on: where a wrong address is corrected.
        from: NodeId,
        /// As in `record.rs`; metadata commands for the metadata group.
        bytes: Bytes,
        /// What it takes of the room before the actor.
        room: Room,
    },
    /// A Raft message for its group.
    Raft {
        /// Opaque.
        bytes: Bytes,
        /// What it takes of the room before the actor.
        room: Room,
    },
    /// A session asks what is checked out to it.
    Resync(queue::Resync),
    /// A node's run has certainly ended.
    RunEnded {
        /// The node.
        node: NodeId,
        /// All its runs up to this one.
        incarnation: u64,
    },
    /// Messages to and from that node may have been lost.
    LinkReset(NodeId),
    /// The link to that node has room again.
    LinkWritable(NodeId),
    /// Somebody asks who leads.
    LeaderQuery(NodeId),
    /// The queue's settings are others now.
    Configured(Arc<Queue>),
    /// The queue shall have these replicas and this leader.
    Placed(Arc<Queue>),
    /// A node begins to drain, or does not any more.
    Drains(NodeId),
    /// The queue's leader asks whether this replica knows that it is one.
    ReplicaQuery(NodeId),
    /// A node has a replica, and knows of this decision on it.
    ReplicaIs {
        /// The node.
        node: NodeId,
        /// The decision.
        era: u64,
    },
    /// The replica is no part of its group any more: end, and leave nothing but what binds a later one.
    Retire,
    /// Describe yourself for operators.
    Describe(oneshot::Sender<Description>),
    /// End; with `delete`, leave nothing behind.
    Stop {
        /// Whether the queue was deleted.
        delete: bool,
    },
}

impl Inbound {
    /// Commands for its machine.
    pub fn batch(from: NodeId, bytes: Bytes) -> Self {
        let room = Room::default();
        Self::Batch { from, bytes, room }
    }

    /// A Raft message for its group.
    pub fn raft(bytes: Bytes) -> Self {
        let room = Room::default();
        Self::Raft { bytes, room }
    }
}

/// Bytes that wait before an actor, given back when the message is dropped.
#[derive(Debug, Default)]
pub struct Room(Option<(Arc<AtomicUsize>, usize)>);

impl Room {
    /// Takes so much of what `most` leaves; whatever its size, one message fits where nothing waits.
    fn take(waiting: &Arc<AtomicUsize>, bytes: usize, most: usize) -> Option<Self> {
        let fits = |before: usize| (before == 0 || before + bytes <= most).then_some(before + bytes);
        waiting.fetch_update(Ordering::Relaxed, Ordering::Relaxed, fits).ok()?;
        Some(Self(Some((waiting.clone(), bytes))))
    }
}

impl Drop for Room {
    fn drop(&mut self) {
        if let Some((waiting, bytes)) = self.0.take() {
            waiting.fetch_sub(bytes, Ordering::Relaxed);
        }
    }
}

/// An actor's mailbox that also bounds the bytes in it, each kind apart: what is refused is sent again.
#[derive(Debug)]
pub(super) struct Bounded<M> {
    mailbox: M,
    batches: Arc<AtomicUsize>,
    raft: Arc<AtomicUsize>,
}

impl<M: Mailbox<Inbound>> Bounded<M> {
    pub(super) fn new(mailbox: M) -> Self {
        Self {
            mailbox,
            batches: Arc::default(),
            raft: Arc::default(),
        }
    }
}

impl<M: Mailbox<Inbound>> Mailbox<Inbound> for Bounded<M> {
    fn offer(&self, mut message: Inbound) -> Result<(), Refused> {
        let (room, bytes, waiting) = match &mut message {
            Inbound::Batch { bytes, room, .. } => (room, bytes, &self.batches),
            Inbound::Raft { bytes, room } => (room, bytes, &self.raft),
            _ => return self.mailbox.offer(message),
        };
        *room = Room::take(waiting, bytes.len(), WAITING_BYTES_MAX).ok_or(Refused::Full)?;
        self.mailbox.offer(message)
    }

    fn always(&self, message: Inbound) {
        self.mailbox.always(message);
    }
}
