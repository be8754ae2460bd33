//! What a user may do in a vhost: three regular expressions over the names of queues and exchanges.

use std::fmt;

use regex::Regex;

use super::refusal::Refusal;

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

impl PartialEq for Permission {
    fn eq(&self, other: &Self) -> bool {
        [Access::Configure, Access::Write, Access::Read]
            .into_iter()
            .all(|access| self.text(access) == other.text(access))
    }
}

impl Eq for Permission {}
