//! Every reason to refuse a change, with the reply code and the exact text that clients get.

use super::arguments::Kind;
use super::facts::{Destination, Resource};
use crate::amqp::ReplyCode;
use crate::name::{ExchangeName, QueueName, UserName, VhostName};

/// Why a change was refused. Nothing has changed.
///
/// The texts are RabbitMQ's, since clients match on them. They are `Display`, without the reply code's name.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Refusal {
    #[error("vhost {0} not found")]
    NoVhost(VhostName),
    #[error("vhost '{0}' already exists")]
    VhostExists(VhostName),
    #[error(
        "Cannot delete this virtual host: it is protected from deletion. To lift the protection, inspect and update its \
         metadata"
    )]
    VhostProtected,
    #[error("no {0}")]
    NoExchange(Resource),
    #[error("no {0}")]
    NoQueue(Resource),
    #[error("user '{0}' does not exist")]
    NoUser(UserName),
    #[error("user '{0}' already exists")]
    UserExists(UserName),
    /// Declared before with another value of `field`; the values come ready for the text.
    #[error("inequivalent arg '{field}' for {resource}: received {received} but current is {current}")]
    Inequivalent {
        field: String,
        resource: Resource,
        received: String,
        current: String,
    },
    #[error(
        "cannot obtain exclusive access to locked {0}. It could be originally declared on another connection \
         or the exclusive property value does not match that of the original declaration."
    )]
    Locked(Resource),
    #[error("queue name '{0}' contains reserved prefix 'amq.*'")]
    ReservedQueueName(QueueName),
    #[error("exchange name '{0}' contains reserved prefix 'amq.*'")]
    ReservedExchangeName(ExchangeName),
    #[error("operation not permitted on the default exchange")]
    DefaultExchange,
    #[error("deletion of system {0} not allowed")]
    SystemExchange(Resource),
    #[error("{0} in use")]
    ExchangeInUse(Resource),
    #[error("unknown exchange type '{0}'")]
    UnknownExchangeType(String),
    /// `term` is printed as RabbitMQ prints it.
    #[error("invalid arg '{key}' for {resource}: {term}")]
    InvalidArgument {
        key: String,
        resource: Resource,
        term: String,
    },
    #[error("invalid arg '{key}' for {resource} of queue type {}", .kind.module())]
    UnsupportedArgument {
        key: String,
        resource: Resource,
        kind: Kind,
    },
    /// A size that is out of bounds.
    #[error("{0}")]
    InvalidSize(String),
    #[error("invalid type '{type_name}' for arg '{key}' in {resource}")]
    InvalidArgumentType {
        key: String,
        resource: Resource,
        type_name: &'static str,
    },
    #[error("invalid property '{property}' for {resource}")]
    InvalidProperty { property: &'static str, resource: Resource },
    #[error("Cannot declare a server-named queue for type {}", .0.module())]
    ServerNamed(Kind),
    /// The exchange's type does not take such arguments.
    #[error("{0}")]
    InvalidExchange(String),
    /// The exchange's type does not take such a routing key or such arguments.
    #[error("{0}")]
    InvalidBinding(String),
    #[error("invalid regular expression '{0}'")]
    InvalidPattern(String),
    #[error("Validation failed\n\n{0}")]
    InvalidPolicy(String),
    #[error("Validation failed\n\n{0}")]
    InvalidLimit(String),
    /// There is no policy, or no other parameter, of that name.
    #[error("Parameter does not exist")]
    NoParameter,
    #[error("cannot declare queue '{queue}': queue limit in vhost '{vhost}' ({max}) is reached")]
    QueueLimit {
        queue: QueueName,
        vhost: VhostName,
        max: u64,
    },
    #[error("cannot declare queue '{queue}': queue limit in cluster ({max}) is reached")]
    ClusterQueueLimit { queue: QueueName, max: u64 },
    #[error("cannot declare {exchange}: exchange limit of {max} is reached")]
    ExchangeLimit { exchange: Resource, max: u64 },
    #[error("cannot create vhost '{vhost}': vhost limit of {max} is reached")]
    VhostLimit { vhost: VhostName, max: u64 },
    #[error("a name of {0} bytes is longer than 255 bytes")]
    NameTooLong(usize),
    /// An older node would not know what to make of it.
    #[error(
        "not before every node of the cluster runs a build that knows of it: it needs version {since} of the log's \
         entries, and the nodes have agreed on version {agreed}"
    )]
    NotYet { since: u16, agreed: u16 },
    /// The node is older than what the others have agreed on.
    #[error("node '{node}' supports version {supported} of the log's entries, not version {agreed}")]
    TooOld { node: String, supported: u16, agreed: u16 },
    #[error("node '{0}' counts as running")]
    NodeRuns(String),
    /// A node has come, gone or begun another run since it was asked for.
    #[error("the nodes have changed meanwhile")]
    NodesChanged,
    /// The session's node was declared down before the command was applied.
    #[error("the node of the connection is not part of the cluster at present")]
    NodeDown,
    /// These replicas were not told of a decision on who goes on.
    #[error("{0} has gone on without the majority already, and not with what this node holds of it")]
    GivenUp(Resource),
    #[error("node '{0}' is part of the cluster already")]
    NodeExists(String),
    #[error("the address {0} is that of node '{1}' already")]
    AddressInUse(String, String),
    #[error(
        "node '{0}' was forgotten by the cluster, with its data directory; it may join again with an empty one, and \
         with a clock that is not behind the others'"
    )]
    NodeForgotten(String),
    #[error("node '{node}' is still to hold a replica of {queue}{}", and_more(*.more))]
    NodeInUse {
        /// The node's name.
        node: String,
        /// One of the queues.
        queue: Resource,
        /// How many others there are.
        more: usize,
    },
    /// Written by something that is not this broker.
    #[error("malformed metadata command: {0}")]
    Malformed(&'static str),
}

fn and_more(more: usize) -> String {
    match more {
        0 => String::new(),
        _ => format!(" and of {more} other queue(s)"),
    }
}

impl Refusal {
    /// The reply code and the explanation that follows its name in the reply text.
    pub fn fault(&self) -> (ReplyCode, String) {
        let code = match self {
            Self::NoExchange(_) | Self::NoQueue(_) | Self::NoUser(_) | Self::NoParameter => ReplyCode::NotFound,
            Self::Locked(_) => ReplyCode::ResourceLocked,
            Self::ReservedQueueName(_)
            | Self::ReservedExchangeName(_)
            | Self::DefaultExchange
            | Self::SystemExchange(_) => ReplyCode::AccessRefused,
            Self::NoVhost(_) => ReplyCode::NotAllowed,
            Self::NodeDown
            | Self::Malformed(_)
            | Self::NodeExists(_)
            | Self::AddressInUse(..)
            | Self::NodeForgotten(_)
            | Self::NodeInUse { .. } => ReplyCode::InternalError,
            Self::VhostExists(_)
            | Self::VhostProtected
            | Self::UserExists(_)
            | Self::Inequivalent { .. }
            | Self::ExchangeInUse(_)
            | Self::UnknownExchangeType(_)
            | Self::InvalidArgument { .. }
            | Self::UnsupportedArgument { .. }
            | Self::InvalidArgumentType { .. }
            | Self::InvalidSize(_)
            | Self::InvalidProperty { .. }
            | Self::ServerNamed(_)
            | Self::InvalidExchange(_)
            | Self::InvalidBinding(_)
            | Self::InvalidPattern(_)
            | Self::InvalidPolicy(_)
            | Self::InvalidLimit(_)
            | Self::QueueLimit { .. }
            | Self::ClusterQueueLimit { .. }
            | Self::ExchangeLimit { .. }
            | Self::VhostLimit { .. }
            | Self::NameTooLong(_)
            | Self::NotYet { .. }
            | Self::TooOld { .. }
            | Self::NodeRuns(_)
            | Self::NodesChanged
            | Self::GivenUp(_) => ReplyCode::PreconditionFailed,
        };
        (code, self.to_string())
    }

    pub(super) fn no_destination(vhost: &str, destination: &Destination) -> Self {
        match destination {
            Destination::Queue(name) => Self::NoQueue(Resource::queue(vhost, name)),
            Destination::Exchange(name) => Self::NoExchange(Resource::exchange(vhost, name)),
        }
    }
}
