//! What the metadata machine knows: plain facts, shared by reference and never changed in place.

use std::{fmt, sync::Arc};

use arc_swap::ArcSwap;
use warren_cluster::{GroupId, NodeId};
use warren_proto::record::SessionId;

use super::arguments::{Arguments, DeadLetterStrategy, Kind, Overflow};
use super::limits::Limits;
use super::policy::Applied;
use super::refusal::Refusal;
use crate::amqp::Table;
use crate::auth::PasswordHash;
use crate::exchange::{self, Matcher, Target};
use crate::name::{ExchangeName, QueueName, RoutingKey, UserName, VhostName};

/// One run of one node: incarnations of a node grow and are never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Run {
    pub node: NodeId,
    pub incarnation: u64,
}

/// Where a queue's state lives.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Placement {
    /// A Raft group.
    Replicated {
        /// Where there may be a replica; not empty.
        replicas: Vec<NodeId>,
        /// The replica that should lead when it can, 0 for any.
        leader: NodeId,
        /// Where the group is on its way to; empty: it is to have all `replicas`.
        wanted: Vec<NodeId>,
        /// Which decision on the set of replicas this is; 0: the declaration.
        era: u64,
        /// The replicas that the group began with, if `era` is not 0.
        founders: Vec<NodeId>,
        /// The decision by which survivors, the `founders` since, went on without a majority; 0: there was none.
        reformed: u64,
    },
    /// In the memory of one run of one node, which it does not survive.
    Transient { home: Run },
}

impl Placement {
    /// Of a new replicated queue.
    pub fn on(replicas: Vec<NodeId>, leader: NodeId) -> Self {
        Self::Replicated {
            replicas,
            leader,
            wanted: Vec::new(),
            era: 0,
            founders: Vec::new(),
            reformed: 0,
        }
    }
}

/// A queue as declared. Its messages and consumers are the queue machine's.
#[derive(Clone, Debug)]
pub struct Queue {
    /// Also names the queue where it is not replicated. Never reused: a redeclared queue is a new one.
    pub group: GroupId,
    pub vhost: VhostName,
    pub name: QueueName,
    pub kind: Kind,
    /// False for every exclusive queue, whatever was asked for.
    pub durable: bool,
    pub auto_delete: bool,
    /// The connection that may use it, and with which it ends.
    pub exclusive_owner: Option<SessionId>,
    /// As the client sent them.
    pub arguments: Table,
    pub policies: Applied,
    /// What `arguments` and `policies` mean together: what the queue obeys, or will.
    pub settings: Arguments,
    /// The id of the command that changed `settings` last; 0: they are what `arguments` alone mean.
    pub configured: u64,
    pub placement: Placement,
    /// Whether it holds what the delayed exchange of its name has taken and not routed yet. Then no name leads to it,
    /// and no client can use it.
    pub is_delay: bool,
}

impl Queue {
    /// What holds the messages of a delayed exchange: a queue from which they go to the exchange's own routes when
    /// their time is over, each until all its targets have it.
    pub(super) fn delay(exchange: &Exchange, placement: Placement) -> Self {
        Self {
            group: exchange.id,
            vhost: exchange.vhost.clone(),
            name: QueueName::from(&*exchange.name),
            kind: Kind::Quorum,
            durable: true,
            auto_delete: false,
            exclusive_owner: None,
            arguments: Table::new(),
            policies: Applied::default(),
            configured: 0,
            settings: Arguments {
                dead_letter_exchange: Some(exchange.name.clone()),
                dead_letter_strategy: DeadLetterStrategy::AtLeastOnce,
                overflow: Overflow::RejectPublish,
                ..Arguments::default()
            },
            placement,
            is_delay: true,
        }
    }

    /// The nodes that shall hold a replica; empty for a transient queue.
    pub fn wanted(&self) -> &[NodeId] {
        match &self.placement {
            Placement::Replicated { wanted, .. } if !wanted.is_empty() => wanted,
            Placement::Replicated { replicas, .. } => replicas,
            Placement::Transient { .. } => &[],
        }
    }

    /// Which decision on the set of replicas its placement is; 0: the declaration.
    pub fn era(&self) -> u64 {
        match &self.placement {
            Placement::Replicated { era, .. } => *era,
            Placement::Transient { .. } => 0,
        }
    }

    /// The decision on the set of replicas that is to be carried out still, if one is.
    pub fn moves(&self) -> Option<u64> {
        match &self.placement {
            Placement::Replicated { wanted, era, .. } if !wanted.is_empty() => Some(*era),
            Placement::Replicated { .. } | Placement::Transient { .. } => None,
        }
    }

    /// The replicas that its group began with; empty for a transient queue.
    pub fn founders(&self) -> &[NodeId] {
        match &self.placement {
            Placement::Replicated { replicas, era: 0, .. } => replicas,
            Placement::Replicated { founders, .. } => founders,
            Placement::Transient { .. } => &[],
        }
    }

    /// The decision by which survivors went on without a majority; 0: there was none.
    pub fn reformed(&self) -> u64 {
        match &self.placement {
            Placement::Replicated { reformed, .. } => *reformed,
            Placement::Transient { .. } => 0,
        }
    }

    /// Whether all replicas were lost for good, with all that the queue held.
    pub fn is_lost(&self) -> bool {
        self.reformed() > 0 && self.founders().is_empty()
    }

    /// The replica that should lead when it can, 0 for any.
    pub fn preferred_leader(&self) -> NodeId {
        match &self.placement {
            Placement::Replicated { leader, .. } => *leader,
            Placement::Transient { .. } => 0,
        }
    }

    /// The nodes that may hold a replica; empty for a transient queue.
    pub fn replicas(&self) -> &[NodeId] {
        match &self.placement {
            Placement::Replicated { replicas, .. } => replicas,
            Placement::Transient { .. } => &[],
        }
    }

    /// The run that a transient queue lives in.
    pub fn home(&self) -> Option<Run> {
        match self.placement {
            Placement::Replicated { .. } => None,
            Placement::Transient { home } => Some(home),
        }
    }

    pub fn is_transient(&self) -> bool {
        self.home().is_some()
    }

    /// Whether `session` may use the queue at all; 405 for anybody but an exclusive queue's owner.
    pub fn check_access(&self, session: SessionId) -> Result<(), Refusal> {
        match self.exclusive_owner {
            Some(owner) if owner != session => Err(Refusal::Locked(self.resource())),
            _ => Ok(()),
        }
    }

    pub fn resource(&self) -> Resource {
        Resource::queue(&self.vhost, &self.name)
    }
}

/// An exchange as declared, with the routes that this node's exchange actor has published for it.
pub struct Exchange {
    /// Never reused: a redeclared exchange is a new one.
    pub id: u64,
    pub vhost: VhostName,
    pub name: ExchangeName,
    pub kind: exchange::Kind,
    pub durable: bool,
    pub auto_delete: bool,
    /// Only other exchanges may publish to it.
    pub internal: bool,
    pub arguments: Table,
    pub policies: Applied,
    /// Where messages go that no binding of this exchange wants, by arguments or policy.
    pub alternate: Option<ExchangeName>,
    /// Shared by all versions of the exchange.
    routes: Arc<ArcSwap<Matcher>>,
}

impl Exchange {
    #[expect(clippy::too_many_arguments, reason = "one argument for each declared fact")]
    pub(super) fn new(
        id: u64,
        vhost: VhostName,
        name: ExchangeName,
        kind: exchange::Kind,
        durable: bool,
        auto_delete: bool,
        internal: bool,
        arguments: Table,
    ) -> Self {
        let alternate = super::arguments::alternate_exchange(&arguments);
        let routes = Arc::new(ArcSwap::from_pointee(Matcher::new(kind, &arguments)));
        Self {
            id,
            vhost,
            name,
            kind,
            durable,
            auto_delete,
            internal,
            arguments,
            policies: Applied::default(),
            alternate,
            routes,
        }
    }

    /// The same exchange with those policies.
    pub(super) fn with_policies(&self, policies: Applied) -> Self {
        let own = super::arguments::alternate_exchange(&self.arguments);
        Self {
            id: self.id,
            vhost: self.vhost.clone(),
            name: self.name.clone(),
            kind: self.kind,
            durable: self.durable,
            auto_delete: self.auto_delete,
            internal: self.internal,
            arguments: self.arguments.clone(),
            alternate: own.or_else(|| policies.alternate_exchange()),
            policies,
            routes: self.routes.clone(),
        }
    }

    /// The routes as they are now. A reader that keeps them holds an older picture, never a torn one.
    pub fn routes(&self) -> Arc<Matcher> {
        self.routes.load_full()
    }

    pub(super) fn with_routes<T>(&self, read: impl FnOnce(&Matcher) -> T) -> T {
        read(&self.routes.load())
    }

    /// Replaces the routes. For the one owner of this exchange's bindings on this node.
    pub(crate) fn publish_routes(&self, matcher: Arc<Matcher>) {
        self.routes.store(matcher);
    }

    /// The group that holds what a delayed exchange delays.
    pub fn delay_group(&self) -> Option<GroupId> {
        (self.kind == exchange::Kind::Delayed).then_some(self.id)
    }

    /// Whether messages with the same routing key may go to different targets.
    pub fn looks_beyond_the_key(&self) -> bool {
        self.kind == exchange::Kind::Delayed || self.with_routes(Matcher::looks_beyond_the_key)
    }

    pub fn resource(&self) -> Resource {
        Resource::exchange(&self.vhost, &self.name)
    }
}

impl fmt::Debug for Exchange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Exchange")
            .field("id", &self.id)
            .field("name", &self.resource().to_string())
            .field("kind", &self.kind)
            .finish_non_exhaustive()
    }
}

/// The receiving end of a binding, by name.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Destination {
    Queue(QueueName),
    Exchange(ExchangeName),
}

impl Destination {
    pub fn name(&self) -> &str {
        match self {
            Self::Queue(name) => name,
            Self::Exchange(name) => name,
        }
    }

    /// `queue` or `exchange`, as listings spell it.
    pub fn kind(&self) -> &'static str {
        match self {
            Self::Queue(_) => "queue",
            Self::Exchange(_) => "exchange",
        }
    }
}

/// A rule of an exchange. Two bindings are one if their ends, routing keys and arguments are equal.
#[derive(Clone, Debug)]
pub struct Binding {
    pub vhost: VhostName,
    pub source: ExchangeName,
    pub destination: Destination,
    /// The destination as routing names it.
    pub target: Target,
    pub routing_key: RoutingKey,
    pub arguments: Table,
}

/// A vhost's own facts; what it holds is listed by the view.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Vhost {
    pub name: VhostName,
    pub description: String,
    pub tags: Vec<String>,
    /// What a durable, shared queue becomes that names no type; empty: classic.
    pub default_queue_type: String,
    /// It cannot be deleted.
    pub is_protected: bool,
    pub limits: Limits,
}

/// Somebody who may connect.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct User {
    pub name: UserName,
    /// Absent: no login with a password.
    pub password: Option<PasswordHash>,
    /// Rights outside AMQP: `administrator`, `monitoring`, `impersonator`, ...
    pub tags: Vec<String>,
    pub limits: Limits,
}

impl User {
    /// Whether `password` is this user's. Takes the same time wherever it differs; a blank password never is.
    pub fn verify_password(&self, password: &[u8]) -> bool {
        !password.is_empty() && self.password.as_ref().is_some_and(|hash| hash.verify(password))
    }

    pub fn has_tag(&self, tag: &str) -> bool {
        self.tags.iter().any(|own| own == tag)
    }
}

/// A node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Node {
    /// Its latest run.
    pub run: Run,
    /// Whether that run is thought to be alive.
    pub live: bool,
    /// The log position since which the cluster is known to have been continuously alive, as this run witnessed it.
    pub since: u64,
    pub name: String,
    pub address: String,
    /// Queues should be led, and clients be served, elsewhere.
    pub draining: bool,
    /// The first run that had its data directory; 0: not known.
    pub directory: u64,
    /// Groups before this one are older than its data directory: if it holds nothing of them, it may have lost it.
    pub first_group: GroupId,
    /// The command by which it joined; 0: the cluster began with it.
    pub joined: u64,
    /// The newest version of entries that it applies.
    pub version: u16,
    /// Sessions of its run with lower numbers have ended.
    pub sessions_from: u64,
}

/// A node that was removed for good.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Forgotten {
    pub name: String,
    /// The last run whose data directory is meant: with a later one it may join again.
    pub until: u64,
    /// The command that removed it.
    pub at: u64,
}

/// How replies and errors name a queue or an exchange: `queue 'q' in vhost '/'`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Resource {
    kind: &'static str,
    vhost: VhostName,
    name: Arc<str>,
}

impl Resource {
    pub fn queue(vhost: &str, name: &str) -> Self {
        Self {
            kind: "queue",
            vhost: vhost.into(),
            name: name.into(),
        }
    }

    pub fn exchange(vhost: &str, name: &str) -> Self {
        Self {
            kind: "exchange",
            vhost: vhost.into(),
            name: name.into(),
        }
    }
}

impl fmt::Display for Resource {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} '{}' in vhost '{}'", self.kind, self.name, self.vhost)
    }
}
