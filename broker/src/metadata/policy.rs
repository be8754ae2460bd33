//! Policies: settings for all queues and exchanges of a vhost whose names match, set and changed while they live.
//!
//! ```text
//!   arguments of the queue ──┐
//!   its policy ──────────────┼─ merge ─▶ the settings that it obeys
//!   its operator policy ─────┘
//! ```
//!
//! Exactly one policy of users and at most one of operators applies: of those that match the one of the highest
//! priority, and of several such the one whose name comes first. One that holds a key which a queue's type does not
//! support is passed over for that queue as a whole.

use std::fmt;
use std::sync::Arc;

use regex::Regex;
use serde_json::{Map, Value};

use super::arguments::{Arguments, Kind};
use super::refusal::Refusal;
use crate::amqp::Table;
use crate::name::{ExchangeName, VhostName};

mod keys;
mod merge;

pub use self::keys::{check_definition, is_operators};

/// The keys and values of a policy, as JSON has them.
pub type Definition = Map<String, Value>;

/// Larger compiled expressions are refused, so that a policy cannot exhaust memory.
const COMPILED_LEN_MAX: usize = 1 << 20;

/// What a policy is for.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum ApplyTo {
    #[default]
    All,
    Queues,
    ClassicQueues,
    QuorumQueues,
    Streams,
    Exchanges,
}

impl ApplyTo {
    const ALL: [Self; 6] = [
        Self::All,
        Self::Queues,
        Self::ClassicQueues,
        Self::QuorumQueues,
        Self::Streams,
        Self::Exchanges,
    ];

    pub fn name(self) -> &'static str {
        match self {
            Self::All => "all",
            Self::Queues => "queues",
            Self::ClassicQueues => "classic_queues",
            Self::QuorumQueues => "quorum_queues",
            Self::Streams => "streams",
            Self::Exchanges => "exchanges",
        }
    }

    pub fn from_name(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|apply_to| apply_to.name() == name)
    }

    /// What is said of another name; the two blanks are RabbitMQ's.
    pub fn unrecognised(name: &str) -> String {
        format!(
            "apply-to '{name}' unrecognised; should be one of: 'queues', 'classic_queues',  'quorum_queues', 'streams', \
             'exchanges', or 'all'"
        )
    }

    fn takes_queue(self, kind: Kind) -> bool {
        match self {
            Self::All | Self::Queues => true,
            Self::ClassicQueues => kind == Kind::Classic,
            Self::QuorumQueues => kind == Kind::Quorum,
            Self::Streams => kind == Kind::Stream,
            Self::Exchanges => false,
        }
    }

    fn takes_exchange(self) -> bool {
        matches!(self, Self::All | Self::Exchanges)
    }
}

/// As it was set.
#[derive(Clone, Debug, PartialEq)]
pub struct SetPolicy {
    pub vhost: VhostName,
    pub name: String,
    /// Of an operator; such ones have names of their own.
    pub operator: bool,
    /// Looked for anywhere in a name.
    pub pattern: String,
    pub apply_to: ApplyTo,
    pub priority: i64,
    pub definition: Definition,
}

impl SetPolicy {
    /// Whether it can be set. Asked before a change is proposed.
    pub fn check(&self) -> Result<(), Refusal> {
        let invalid = |reason: String| Err(Refusal::InvalidPolicy(reason));
        if self.name.is_empty() {
            return invalid("a policy needs a name".to_owned());
        }
        if let Err(error) = compile(&self.pattern) {
            return invalid(format!("pattern should be regular expression but is invalid: {error}"));
        }
        check_definition(&self.definition, self.operator).or_else(invalid)
    }
}

/// A policy that can be matched.
#[derive(Clone)]
pub struct Policy {
    pub set: SetPolicy,
    /// `None` if the pattern is no regular expression: then it matches nothing.
    regex: Option<Regex>,
}

impl Policy {
    /// Takes any pattern, so that a log written by another build always applies; see [`SetPolicy::check`].
    pub fn new(set: SetPolicy) -> Self {
        let regex = compile(&set.pattern).ok();
        Self { set, regex }
    }

    fn matches(&self, name: &str) -> bool {
        self.regex.as_ref().is_some_and(|regex| regex.is_match(name))
    }

    fn matches_queue(&self, kind: Kind, name: &str) -> bool {
        self.set.apply_to.takes_queue(kind)
            && !self.set.definition.keys().any(|key| keys::is_unsupported(key, kind))
            && self.matches(name)
    }

    fn matches_exchange(&self, name: &str) -> bool {
        self.set.apply_to.takes_exchange() && self.matches(name)
    }
}

impl fmt::Debug for Policy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.set.fmt(f)
    }
}

fn compile(pattern: &str) -> Result<Regex, regex::Error> {
    regex::RegexBuilder::new(pattern).size_limit(COMPILED_LEN_MAX).build()
}

/// The policies that apply to one queue or exchange.
#[derive(Clone, Debug, Default)]
pub struct Applied {
    pub user: Option<Arc<Policy>>,
    pub operator: Option<Arc<Policy>>,
}

impl Applied {
    /// Those of `policies`, which are a vhost's in the order of their names, that apply to a queue.
    pub(super) fn to_queue<'a>(policies: impl Iterator<Item = &'a Arc<Policy>>, kind: Kind, name: &str) -> Self {
        Self::of(policies, |policy| policy.matches_queue(kind, name))
    }

    /// The same for an exchange.
    pub(super) fn to_exchange<'a>(policies: impl Iterator<Item = &'a Arc<Policy>>, name: &str) -> Self {
        Self::of(policies, |policy| policy.matches_exchange(name))
    }

    fn of<'a>(policies: impl Iterator<Item = &'a Arc<Policy>>, matches: impl Fn(&Policy) -> bool) -> Self {
        let mut applied = Self::default();
        for policy in policies.filter(|policy| matches(policy)) {
            let best = if policy.set.operator {
                &mut applied.operator
            } else {
                &mut applied.user
            };
            // Of several alike the first.
            if best.as_ref().is_none_or(|best| best.set.priority < policy.set.priority) {
                *best = Some(Arc::clone(policy));
            }
        }
        applied
    }

    pub fn is_none(&self) -> bool {
        self.user.is_none() && self.operator.is_none()
    }

    /// What both say together.
    pub fn definition(&self) -> Definition {
        let of = |policy: &Option<Arc<Policy>>| policy.as_ref().map(|policy| policy.set.definition.clone());
        merge::definitions(
            of(&self.user).unwrap_or_default(),
            of(&self.operator).unwrap_or_default(),
        )
    }

    /// What a queue of these arguments obeys.
    pub fn settings(&self, kind: Kind, arguments: &Table) -> Arguments {
        let settings = Arguments::read(kind, arguments);
        if self.is_none() {
            return settings;
        }
        merge::settings(settings, kind, arguments, &self.definition())
    }

    /// Where messages go that an exchange has no binding for, unless its arguments say so.
    pub(super) fn alternate_exchange(&self) -> Option<ExchangeName> {
        let definition = self.definition();
        definition.get("alternate-exchange")?.as_str().map(ExchangeName::from)
    }

    /// Whether they are the very same ones.
    pub(super) fn is_same(&self, other: &Self) -> bool {
        let same = |one: &Option<Arc<Policy>>, other: &Option<Arc<Policy>>| match (one, other) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        };
        same(&self.user, &other.user) && same(&self.operator, &other.operator)
    }
}

#[cfg(test)]
mod tests;
