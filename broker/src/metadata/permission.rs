//! What a user may do in a vhost: three regular expressions over the names of queues and exchanges, and for topic
//! exchanges two more over routing keys.

use std::collections::BTreeMap;
use std::fmt;

use regex::Regex;

use super::refusal::Refusal;
use crate::name::ExchangeName;

/// The kinds of access that operations ask for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Access {
    /// Create and delete.
    Configure,
    /// Publish to, bind to.
    Write,
    /// Consume from, bind from.
    Read,
}

impl fmt::Display for Access {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Configure => "configure",
            Self::Write => "write",
            Self::Read => "read",
        })
    }
}

/// Permissions of one user in one vhost.
#[derive(Clone, Debug)]
pub struct Permission {
    configure: Pattern,
    write: Pattern,
    read: Pattern,
}

/// An expression that is looked for anywhere in a name. The empty one matches only the empty name.
#[derive(Clone, Debug)]
struct Pattern {
    text: String,
    /// `None` if the text is no regular expression: then it matches nothing.
    regex: Option<Regex>,
}

/// Larger compiled expressions are refused, so that a permission cannot exhaust memory.
const COMPILED_LEN_MAX: usize = 1 << 20;

impl Pattern {
    fn new(text: &str) -> Self {
        let source = if text.is_empty() { "^$" } else { text };
        let regex = regex::RegexBuilder::new(source)
            .size_limit(COMPILED_LEN_MAX)
            .build()
            .ok();
        Self {
            text: text.to_owned(),
            regex,
        }
    }
}

impl Permission {
    /// Takes any text, so that a log written by another build always applies; see [`Permission::check`].
    pub fn new(configure: &str, write: &str, read: &str) -> Self {
        Self {
            configure: Pattern::new(configure),
            write: Pattern::new(write),
            read: Pattern::new(read),
        }
    }

    /// Whether every text is a regular expression. Asked before a change is proposed.
    pub fn check(&self) -> Result<(), Refusal> {
        for pattern in [&self.configure, &self.write, &self.read] {
            if pattern.regex.is_none() {
                return Err(Refusal::InvalidPattern(pattern.text.clone()));
            }
        }
        Ok(())
    }

    /// Whether `access` to the queue or exchange `name` is granted. The default exchange is asked for by the name
    /// `amq.default`.
    pub fn allows(&self, access: Access, name: &str) -> bool {
        self.pattern(access)
            .regex
            .as_ref()
            .is_some_and(|regex| regex.is_match(name))
    }

    /// The expression's text, for listings.
    pub fn text(&self, access: Access) -> &str {
        &self.pattern(access).text
    }

    fn pattern(&self, access: Access) -> &Pattern {
        match access {
            Access::Configure => &self.configure,
            Access::Write => &self.write,
            Access::Read => &self.read,
        }
    }
}

/// The routing keys that a user may publish with to one topic exchange, and bind to it with.
#[derive(Clone, Debug)]
pub struct TopicPermission {
    write: Topic,
    read: Topic,
}

/// An expression in which `{username}` and `{vhost}` stand for the user's and the vhost's name.
#[derive(Clone, Debug)]
struct Topic {
    text: String,
    pattern: Pattern,
}

impl Topic {
    fn new(text: &str, user: &str, vhost: &str) -> Self {
        // Clients of this protocol have no `client_id`: it stands for itself.
        let filled = text
            .replace("{username}", &regex::escape(user))
            .replace("{vhost}", &regex::escape(vhost))
            .replace("{client_id}", r"\{client_id\}");
        Self {
            text: text.to_owned(),
            pattern: Pattern::new(&filled),
        }
    }
}

impl TopicPermission {
    /// Takes any text, as [`Permission::new`] does.
    pub fn new(user: &str, vhost: &str, write: &str, read: &str) -> Self {
        Self {
            write: Topic::new(write, user, vhost),
            read: Topic::new(read, user, vhost),
        }
    }

    /// Whether both texts are regular expressions. Asked before a change is proposed.
    pub fn check(&self) -> Result<(), Refusal> {
        for topic in [&self.write, &self.read] {
            if topic.pattern.regex.is_none() {
                return Err(Refusal::InvalidPattern(topic.text.clone()));
            }
        }
        Ok(())
    }

    /// The expression as it was set.
    pub fn text(&self, access: Access) -> &str {
        &self.topic(access).text
    }

    fn allows(&self, access: Access, routing_key: &str) -> bool {
        let regex = self.topic(access).pattern.regex.as_ref();
        regex.is_some_and(|regex| regex.is_match(routing_key))
    }

    fn topic(&self, access: Access) -> &Topic {
        match access {
            Access::Read => &self.read,
            Access::Write | Access::Configure => &self.write,
        }
    }
}

/// What a user may do with topic exchanges of a vhost. One that is not named may be used with any routing key.
#[derive(Clone, Debug, Default)]
pub struct TopicPermissions(pub(super) BTreeMap<ExchangeName, TopicPermission>);

impl TopicPermissions {
    /// Whether the topic exchange may be published to, or bound to, with that key.
    pub fn allows(&self, access: Access, exchange: &str, routing_key: &str) -> bool {
        let permission = self.0.get(exchange);
        permission.is_none_or(|permission| permission.allows(access, routing_key))
    }

    /// By exchange.
    pub fn iter(&self) -> impl Iterator<Item = (&ExchangeName, &TopicPermission)> {
        self.0.iter()
    }
}

impl PartialEq for Permission {
    fn eq(&self, other: &Self) -> bool {
        [Access::Configure, Access::Write, Access::Read]
            .into_iter()
            .all(|access| self.text(access) == other.text(access))
    }
}

impl Eq for Permission {}
