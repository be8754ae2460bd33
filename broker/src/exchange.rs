//! Exchanges: which destinations get a message, by the exchange's type and its bindings.
//!
//! A [`Matcher`] is the routing state of one exchange. Copies share what they have in common, so its owner (the
//! exchange's actor) changes a copy and publishes it while connections go on routing by an older one.
//! Nothing here knows of vhosts, connections or messages beyond what routing looks at: see [`Arrival`].
//!
//! An exchange of type `x-delayed-message` has the matcher of another type, which its arguments name. That a message
//! waits before it gets there is the picture's and the channel's to see to.

use std::str::FromStr;

use bytes::Bytes;
use warren_cluster::GroupId;

pub use self::direct::Direct;
pub use self::fanout::Fanout;
pub use self::hashed::{ConsistentHash, ModulusHash};
pub use self::headers::Headers;
pub use self::random::Random;
pub use self::targets::Targets;
pub use self::topic::Topic;
use crate::amqp::{Table, Value};
use crate::name::ExchangeName;

pub mod actor;
mod direct;
mod fanout;
mod hashed;
mod headers;
mod line;
mod random;
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
    ConsistentHash,
    ModulusHash,
    Random,
    /// Holds messages back before it routes them as another type would.
    Delayed,
}

impl Kind {
    pub const ALL: [Self; 8] = [
        Self::Direct,
        Self::Fanout,
        Self::Topic,
        Self::Headers,
        Self::ConsistentHash,
        Self::ModulusHash,
        Self::Random,
        Self::Delayed,
    ];

    /// As declarations and listings spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Direct => "direct",
            Self::Fanout => "fanout",
            Self::Topic => "topic",
            Self::Headers => "headers",
            Self::ConsistentHash => "x-consistent-hash",
            Self::ModulusHash => "x-modulus-hash",
            Self::Random => "x-random",
            Self::Delayed => "x-delayed-message",
        }
    }

    /// How an exchange of this type and these arguments routes. Never [`Kind::Delayed`]: of one whose arguments do not
    /// say, it is direct.
    pub fn matching(self, arguments: &Table) -> Self {
        if self != Self::Delayed {
            return self;
        }
        let named = arguments.get(DELAYED_TYPE).and_then(Value::as_str);
        let named = named.and_then(|name| name.parse().ok());
        named.filter(|kind| *kind != Self::Delayed).unwrap_or(Self::Direct)
    }
}

/// The header that says how long a delayed exchange holds a message back, in milliseconds.
pub const DELAY: &str = "x-delay";

/// The longest time: ten years, as for expiry. Longer ones are cut to it.
const DELAY_MS_MAX: u64 = 315_360_000_000;

/// The argument that names how a delayed exchange routes.
const DELAYED_TYPE: &str = "x-delayed-type";

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

/// What routing looks at of a message.
#[derive(Clone, Copy, Debug)]
pub struct Arrival<'a> {
    /// The publish's own, then those of CC and BCC. One or more.
    pub routing_keys: &'a [&'a str],
    /// `None`: it has none.
    pub headers: Option<&'a Table>,
    /// As the client sent them.
    pub properties: &'a Bytes,
    /// A number drawn for this message.
    pub draw: u64,
}

impl<'a> Arrival<'a> {
    /// How long a delayed exchange is to hold the message back, in milliseconds; `None`: not at all. A time that is
    /// not above 0 means that it was held back before.
    pub fn delay_ms(&self) -> Option<u64> {
        let delay = self.headers?.get(DELAY)?.as_i64()?;
        u64::try_from(delay)
            .ok()
            .filter(|delay| *delay > 0)
            .map(|delay| delay.min(DELAY_MS_MAX))
    }

    /// Of a message of which only the keys matter.
    pub fn by_key(routing_keys: &'a [&'a str]) -> Self {
        static NOTHING: Bytes = Bytes::new();
        Self {
            routing_keys,
            headers: None,
            properties: &NOTHING,
            draw: 0,
        }
    }
}

/// The bindings of one exchange, arranged for matching.
#[derive(Clone, Debug)]
pub enum Matcher {
    Direct(Direct),
    Fanout(Fanout),
    Topic(Topic),
    Headers(Headers),
    ConsistentHash(ConsistentHash),
    ModulusHash(ModulusHash),
    Random(Random),
}

impl Matcher {
    /// Without bindings.
    pub fn new(kind: Kind, arguments: &Table) -> Self {
        match kind.matching(arguments) {
            Kind::Direct | Kind::Delayed => Self::Direct(Direct::default()),
            Kind::Fanout => Self::Fanout(Fanout::default()),
            Kind::Topic => Self::Topic(Topic::default()),
            Kind::Headers => Self::Headers(Headers::default()),
            Kind::ConsistentHash => Self::ConsistentHash(ConsistentHash::new(arguments)),
            Kind::ModulusHash => Self::ModulusHash(ModulusHash::default()),
            Kind::Random => Self::Random(Random::default()),
        }
    }

    /// Adds a binding that is not there yet.
    pub fn bind(&mut self, routing_key: &str, arguments: &Table, target: &Target) {
        match self {
            Self::Direct(direct) => direct.bind(routing_key, target),
            Self::Fanout(fanout) => fanout.bind(target),
            Self::Topic(topic) => topic.bind(routing_key, target),
            Self::Headers(headers) => headers.bind(arguments, target),
            Self::ConsistentHash(hash) => hash.bind(routing_key, target),
            Self::ModulusHash(hash) => hash.bind(target),
            Self::Random(random) => random.bind(target),
        }
    }

    /// Removes a binding that is there.
    pub fn unbind(&mut self, routing_key: &str, arguments: &Table, target: &Target) {
        match self {
            Self::Direct(direct) => direct.unbind(routing_key, target),
            Self::Fanout(fanout) => fanout.unbind(target),
            Self::Topic(topic) => topic.unbind(routing_key, target),
            Self::Headers(headers) => headers.unbind(arguments, target),
            Self::ConsistentHash(hash) => hash.unbind(routing_key, target),
            Self::ModulusHash(hash) => hash.unbind(target),
            Self::Random(random) => random.unbind(target),
        }
    }

    /// Appends the targets of every binding that matches; one may be named several times.
    pub fn matches(&self, arrival: &Arrival<'_>, out: &mut Vec<Target>) {
        let keys = arrival.routing_keys.iter();
        match self {
            Self::Direct(direct) => keys.for_each(|key| direct.matches(key, out)),
            Self::Fanout(fanout) => fanout.matches(out),
            Self::Topic(topic) => keys.for_each(|key| topic.matches(key, out)),
            Self::Headers(rules) => rules.matches(arrival.headers, out),
            Self::ConsistentHash(hash) => hash.matches(arrival, out),
            Self::ModulusHash(hash) => hash.matches(arrival, out),
            Self::Random(random) => random.matches(arrival, out),
        }
    }

    /// Whether messages with the same routing key may go to different targets.
    pub fn looks_beyond_the_key(&self) -> bool {
        match self {
            Self::Direct(_) | Self::Fanout(_) | Self::Topic(_) | Self::ModulusHash(_) => false,
            Self::Headers(_) | Self::Random(_) => true,
            Self::ConsistentHash(hash) => hash.looks_beyond_the_key(),
        }
    }
}

/// Why an exchange cannot be declared with these arguments; the text that clients get.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidArguments(pub String);

/// Whether an exchange of type `kind` takes such arguments.
pub fn validate_arguments(kind: Kind, arguments: &Table) -> Result<(), InvalidArguments> {
    match kind {
        Kind::Direct | Kind::Fanout | Kind::Topic | Kind::Headers | Kind::ModulusHash | Kind::Random => Ok(()),
        Kind::ConsistentHash => hashed::validate_arguments(arguments),
        Kind::Delayed => match arguments.get(DELAYED_TYPE).and_then(Value::as_str) {
            None => Err(InvalidArguments(format!(
                "Invalid argument, '{DELAYED_TYPE}' must be an existing exchange type"
            ))),
            Some(name) => match name.parse() {
                Err(UnknownKind) => Err(InvalidArguments(format!("unknown exchange type '{name}'"))),
                Ok(Kind::Delayed) => Err(InvalidArguments(format!(
                    "Invalid argument, '{name}' can't be used for '{DELAYED_TYPE}'"
                ))),
                Ok(kind) => validate_arguments(kind, arguments),
            },
        },
    }
}

/// Why a binding does not suit its exchange's type; the text that clients get.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct InvalidBinding(pub String);

/// Whether an exchange that routes as type `kind` takes such a binding.
pub fn validate_binding(kind: Kind, routing_key: &str, arguments: &Table) -> Result<(), InvalidBinding> {
    match kind {
        Kind::Direct | Kind::Fanout | Kind::ModulusHash | Kind::Random | Kind::Delayed => Ok(()),
        Kind::Topic => topic::validate(routing_key),
        Kind::Headers => headers::validate(arguments),
        Kind::ConsistentHash => hashed::validate_binding(routing_key),
    }
}

#[cfg(test)]
pub(crate) mod tests;
