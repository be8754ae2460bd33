//! What may be asked of the metadata machine, and its form in the log.

use warren_cluster::{GroupId, NodeId, version};
use warren_proto::record::SessionId;

use super::arguments::Kind;
use super::facts::{Destination, Placement, Run};
use super::limits::Limits;
use super::nodes;
use super::policy::SetPolicy;
use crate::amqp::Table;
use crate::auth::PasswordHash;
use crate::name::{ExchangeName, QueueName, RoutingKey, UserName, VhostName};

pub(super) mod codec;

/// The version of entries from which on a vhost can be protected from deletion.
const PROTECTED_SINCE: u16 = 3;

/// A change of the metadata. Proposed anywhere, applied everywhere.
#[derive(Clone, Debug, PartialEq)]
pub enum Change {
    /// Has no effect on a cluster that has been bootstrapped.
    Bootstrap(Bootstrap),
    AddVhost(DescribeVhost),
    /// Replaces what a vhost says about itself.
    SetVhost(DescribeVhost),
    /// Deletes everything in it as well.
    DeleteVhost {
        name: VhostName,
    },
    AddUser(AddUser),
    ChangePassword {
        name: UserName,
        password: Option<PasswordHash>,
    },
    SetTags {
        name: UserName,
        tags: Vec<String>,
    },
    DeleteUser {
        name: UserName,
    },
    SetPermissions(SetPermissions),
    ClearPermissions {
        user: UserName,
        vhost: VhostName,
    },
    DeclareExchange(DeclareExchange),
    DeleteExchange(DeleteExchange),
    DeclareQueue(DeclareQueue),
    /// The queue has ended or shall end; done as well if it is not there.
    DeleteQueue {
        group: GroupId,
    },
    /// Says which replicas a replicated queue shall have, and which of them should lead (0: any). Its leader brings its
    /// group there.
    PlaceQueue {
        group: GroupId,
        replicas: Vec<NodeId>,
        leader: NodeId,
    },
    /// The queue's group consists of the replicas that were wanted with this decision, and of no others.
    QueueMoved {
        group: GroupId,
        era: u64,
    },
    /// Whether queues should be led, and clients be served, elsewhere, until the node's next run.
    DrainNode {
        node: NodeId,
        draining: bool,
    },
    Bind(Bind),
    Unbind(Bind),
    NodeUp {
        run: Run,
        name: String,
        address: String,
        /// The first run that had the data directory; 0: not known.
        directory: u64,
        /// The newest version of entries that the node applies.
        version: u16,
        /// Sessions of this run with lower numbers have ended: it was counted as down while they were open.
        sessions_from: u64,
    },
    /// Each of these runs applies entries of that version, and leaders may stamp it, if there are no others.
    RaiseVersion {
        version: u16,
        nodes: Vec<Run>,
    },
    /// Every run of `run.node` up to `run.incarnation` has ended.
    NodeDown {
        run: Run,
    },
    /// The node is to be part of the cluster from now on. Asked for twice, it is done once.
    JoinNode {
        node: NodeId,
        name: String,
        address: String,
        /// The first run that had its data directory.
        directory: u64,
    },
    /// The cluster goes on with what these nodes hold, and without the others.
    Reform {
        survivors: Vec<NodeId>,
        /// Of the others, data directories are meant whose first run is not greater.
        until: u64,
        /// A new one.
        cluster_id: String,
    },
    /// The queue goes on with what these of its replicas hold, at most two.
    ReformQueue {
        group: GroupId,
        survivors: Vec<NodeId>,
        /// The decision of this kind that their replicas obey, if the build says so: where the queue has obeyed another one
        /// since, these replicas were given up by it.
        obeyed: Option<u64>,
    },
    /// The node is no longer part of the cluster, for good. Refused while queues have replicas there.
    NodeForgotten {
        node: NodeId,
    },
    /// Deletes the session's exclusive queues.
    SessionEnded {
        session: SessionId,
    },
    /// Replaces the one of that name, if there is any.
    SetPolicy(SetPolicy),
    ClearPolicy {
        vhost: VhostName,
        name: String,
        operator: bool,
    },
    /// Replaces all that the vhost has.
    SetVhostLimits {
        vhost: VhostName,
        limits: Limits,
    },
    /// Replaces all that the user has.
    SetUserLimits {
        user: UserName,
        limits: Limits,
    },
    SetTopicPermission(SetTopicPermission),
    /// Of all exchanges if none is named.
    ClearTopicPermission {
        user: UserName,
        vhost: VhostName,
        exchange: Option<ExchangeName>,
    },
    SetParameter(Parameter),
    ClearParameter {
        vhost: VhostName,
        component: String,
        name: String,
    },
}

impl Change {
    /// The version of entries from which on it is known. Before it was agreed on, the change is refused: some node
    /// would not know what to make of it.
    pub fn since(&self) -> u16 {
        match self {
            Self::DeclareQueue(declare) => Kind::of(&declare.arguments).since(),
            Self::AddVhost(describe) | Self::SetVhost(describe) if describe.is_protected => PROTECTED_SINCE,
            Self::JoinNode { .. } | Self::ReformQueue { .. } => nodes::VERSION,
            // Nobody can wait for nodes that are lost: see `Picture::check_forget` for what is known before, and as to
            // `Reform`, only its survivors are left.
            _ => version::FIRST,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Bootstrap {
    pub cluster_id: String,
    pub vhost: VhostName,
    /// Gets every permission in `vhost`.
    pub user: AddUser,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DescribeVhost {
    pub name: VhostName,
    pub description: String,
    pub tags: Vec<String>,
    /// Empty: classic.
    pub default_queue_type: String,
    /// It cannot be deleted.
    pub is_protected: bool,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AddUser {
    pub name: UserName,
    /// `None`: no login with a password.
    pub password: Option<PasswordHash>,
    pub tags: Vec<String>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetPermissions {
    pub user: UserName,
    pub vhost: VhostName,
    pub configure: String,
    pub write: String,
    pub read: String,
}

/// Which routing keys a user may publish with to a topic exchange, and bind to it with.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SetTopicPermission {
    pub user: UserName,
    pub vhost: VhostName,
    pub exchange: ExchangeName,
    pub write: String,
    pub read: String,
}

/// A value that is kept for others. Without a vhost and a component it is one of the whole cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Parameter {
    pub vhost: VhostName,
    pub component: String,
    pub name: String,
    /// JSON.
    pub value: String,
}

#[derive(Clone, Debug, PartialEq)]
pub struct DeclareExchange {
    pub vhost: VhostName,
    pub name: ExchangeName,
    /// `direct`, `fanout`, `topic`, `headers`, ...; unknown ones are refused.
    pub kind: String,
    pub durable: bool,
    pub auto_delete: bool,
    pub internal: bool,
    pub arguments: Table,
    /// Where a delayed exchange keeps what is not due; others have none. Only looked at if the exchange is new.
    pub delays: Option<Placement>,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub struct DeleteExchange {
    pub vhost: VhostName,
    pub name: ExchangeName,
    pub if_unused: bool,
}

#[derive(Clone, Debug, PartialEq)]
pub struct DeclareQueue {
    pub vhost: VhostName,
    /// Server-chosen names are chosen before.
    pub name: QueueName,
    /// As asked for; an exclusive queue is stored as not durable.
    pub durable: bool,
    pub auto_delete: bool,
    /// The asking session if it asked for an exclusive queue.
    pub exclusive_owner: Option<SessionId>,
    /// With `x-queue-type` filled in where the vhost has a default; absent means classic.
    pub arguments: Table,
    /// Only looked at if the queue is new. See [`DeclareQueue::is_transient`] for which kind it must be.
    pub placement: Placement,
}

impl DeclareQueue {
    /// Whether the queue lives and dies with one run of one node instead of being replicated.
    pub fn is_transient(&self) -> bool {
        !self.durable || self.exclusive_owner.is_some()
    }
}

#[derive(Clone, Debug, PartialEq)]
pub struct Bind {
    pub vhost: VhostName,
    pub source: ExchangeName,
    pub destination: Destination,
    pub routing_key: RoutingKey,
    pub arguments: Table,
    /// Who asks, for the check of exclusive queues; [`SessionId::SYSTEM`] passes it only for shared ones.
    pub session: SessionId,
}

/// Names the waiting requester of a command: every node applies it, only that run of that node has the waiter.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Request {
    pub node: NodeId,
    pub incarnation: u64,
    pub id: u64,
}
