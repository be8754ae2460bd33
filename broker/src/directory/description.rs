//! Replicas and consumers as operators see them.

use warren_cluster::group::Status;
use warren_cluster::{GroupId, NodeId};
use warren_proto::queue;
use warren_proto::record::SessionId;

use crate::queue::machine::{ConsumerRow, Stats};

/// A queue's replica as operators see it.
#[derive(Clone, Debug, Default)]
pub struct Description {
    /// The group.
    pub group: GroupId,
    /// The describing node.
    pub node: NodeId,
    /// `leader`, `follower` or `candidate`.
    pub role: &'static str,
    /// The leader, if known.
    pub leader: Option<NodeId>,
    /// The Raft figures; none for a transient queue.
    pub raft: Option<Status>,
    /// The voters of its group, as this replica knows them; none for a transient queue.
    pub voters: Vec<NodeId>,
    /// Those that are sent its log and have no vote, as this replica knows them.
    pub learners: Vec<NodeId>,
    /// Whether this replica may have lost its log, and has no vote until it has caught up.
    pub is_fresh: bool,
    /// See [`warren_cluster::group::GroupCore::is_pair`].
    pub is_pair: bool,
    /// See [`warren_cluster::group::GroupCore::reformed`].
    pub reformed: u64,
    /// Voters that could lead at once, as the leader sees them.
    pub able: Vec<NodeId>,
    /// Figures of the queue machine.
    pub stats: Stats,
    /// The queue's consumers.
    pub consumers: Vec<ConsumerDescription>,
}

/// A consumer as operators see it.
#[derive(Clone, Debug)]
pub struct ConsumerDescription {
    /// Whose it is.
    pub session: SessionId,
    /// How it was started.
    pub attach: queue::Attach,
    /// Unsettled deliveries.
    pub unsettled: u64,
    /// Whether it is served, and does not wait behind a single active consumer.
    pub is_active: bool,
}

impl From<ConsumerRow<'_>> for ConsumerDescription {
    fn from(row: ConsumerRow<'_>) -> Self {
        Self {
            session: row.session,
            attach: row.attach.clone(),
            unsettled: row.unsettled,
            is_active: row.is_active,
        }
    }
}
