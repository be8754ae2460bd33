//! Exchanges: which destinations get a message, by the exchange's type and its bindings.
//!
//! A [`Matcher`] is the routing state of one exchange. Copies share what they have in common, so its owner (the
//! exchange's actor) changes a copy and publishes it while connections go on routing by an older one.
//! Nothing here knows of vhosts, connections or messages beyond their routing key and headers.

use std::str::FromStr;

use warren_cluster::GroupId;

pub use self::direct::Direct;
pub use self::fanout::Fanout;
pub use self::headers::Headers;
pub use self::targets::Targets;
pub use self::topic::Topic;
use crate::amqp::Table;
use crate::name::ExchangeName;

pub mod actor;
mod direct;
mod fanout;
mod headers;
mod targets;
pub(crate) mod term;
mod topic;

/// The type of an exchange.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    Direct,
    Fanout,
    Topic,
    Headers,
}

impl Kind {
    pub const ALL: [Self; 4] = [Self::Direct, Self::Fanout, Self::Topic, Self::Headers];

    /// As declarations and listings spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Fanout => "fanout",
            Self::Topic => "topic",
            Self::Headers => "headers",
        }
    }
}

/// No exchange type has that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("unknown exchange type")]
pub struct UnknownKind;

impl FromStr for Kind {
    type Err = UnknownKind;

    fn from_str(name: &str) -> Result<Self, UnknownKind> {
        Self::ALL
            .into_iter()
            .find(|kind| kind.name() == name)
            .ok_or(UnknownKind)
    }
}

/// Where a binding leads.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Target {
    Queue(GroupId),
    /// Of the same vhost.
    Exchange(ExchangeName),
}

/// The bindings of one exchange, arranged for matching.
#[derive(Clone, Debug)]
pub enum Matcher {
    Direct(Direct),
    Fanout(Fanout),
    Topic(Topic),
    Headers(Headers),
}

impl Matcher {
    /// Without bindings.
    pub fn new(kind: Kind) -> Self {
        match kind {
            Kind::Direct => Self::Direct(Direct::default()),
            Kind::Fanout => Self::Fanout(Fanout::default()),
            Kind::Topic => Self::Topic(Topic::default()),
            Kind::Headers => Self::Headers(Headers::default()),
        }
    }

    /// Adds a binding that is not there yet.
    pub fn bind(&mut self, routing_key: &str, arguments: &Table, target: &Target) {
        match self {
            Self::Direct(direct) => direct.bind(routing_key, target),
            Self::Fanout(fanout) => fanout.bind(target),
            Self::Topic(topic) => topic.bind(routing_key, target),
            Self::Headers(headers) => headers.bind(arguments, target),
        }
    }

    /// Removes a binding that is there.
    pub fn unbind(&mut self, routing_key: &str, arguments: &Table, target: &Target) {
        match self {
            Self::Direct(direct) => direct.unbind(routing_key, target),
            Self::Fanout(fanout) => fanout.unbind(target),
            Self::Topic(topic) => topic.unbind(routing_key, target),
            Self::Headers(headers) => headers.unbind(arguments, target),
        }
    }

    /// Appends the targets of every binding that matches; one may be named several times.
    pub fn matches(&self, routing_key: &str, headers: Option<&Table>, out: &mut Vec<Target>) {
        match self {
            Self::Direct(direct) => direct.matches(routing_key, out),
            Self::Fanout(fanout) => fanout.matches(out),
            Self::Topic(topic) => topic.matches(routing_key, out),
            Self::Headers(rules) => rules.matches(headers, out),
        }
    }
}

/// Why a binding does not suit its exchange's type; the text that clients get.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidBinding(pub String);

/// Whether an exchange of type `kind` takes such a binding.
pub fn validate_binding(kind: Kind, routing_key: &str, arguments: &Table) -> Result<(), InvalidBinding> {
    match kind {
        Kind::Direct | Kind::Fanout => Ok(()),
        Kind::Topic => topic::validate(routing_key),
        Kind::Headers => headers::validate(arguments),
    }
}

#[cfg(test)]
pub(crate) mod tests;
