//! How many connections, channels and queues a vhost or a user may have.

use std::collections::BTreeMap;

use super::refusal::Refusal;

/// What a vhost can be limited in.
pub const VHOST_LIMITS: &[&str] = &[MAX_CONNECTIONS, MAX_QUEUES];
/// What a user can be limited in.
pub const USER_LIMITS: &[&str] = &[MAX_CHANNELS, MAX_CONNECTIONS];

const MAX_CONNECTIONS: &str = "max-connections";
const MAX_CHANNELS: &str = "max-channels";
const MAX_QUEUES: &str = "max-queues";

/// Limits by name. One below 0 is none; 0 refuses all.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Limits(pub BTreeMap<String, i64>);

impl Limits {
    /// Connections at a time, in the whole cluster.
    pub fn connections_max(&self) -> Option<u64> {
        self.of(MAX_CONNECTIONS)
    }

    /// Channels at a time, in the whole cluster.
    pub fn channels_max(&self) -> Option<u64> {
        self.of(MAX_CHANNELS)
    }

    /// Queues of any kind.
    pub fn queues_max(&self) -> Option<u64> {
        self.of(MAX_QUEUES)
    }

    fn of(&self, name: &str) -> Option<u64> {
        self.0.get(name).and_then(|limit| u64::try_from(*limit).ok())
    }

    /// Whether all of them are among `known`. Asked before a change is proposed.
    pub fn check(&self, known: &[&str]) -> Result<(), Refusal> {
        match self.0.keys().find(|name| !known.contains(&name.as_str())) {
            Some(name) => {
                let known = known.join(", ");
                Err(Refusal::InvalidLimit(format!(
                    "<<\"{name}\">> is not a recognised limit; there are {known}"
                )))
            }
            None => Ok(()),
        }
    }
}

impl FromIterator<(String, i64)> for Limits {
    fn from_iter<I: IntoIterator<Item = (String, i64)>>(limits: I) -> Self {
        Self(limits.into_iter().collect())
    }
}
