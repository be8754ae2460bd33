//! How many connections and channels vhosts and users have on this node, and what other nodes say of theirs.
//!
//! Limits hold for the whole cluster, and no node keeps count for all. Who opens a connection or a channel where there
//! is a limit is counted on its own node first, then every node that is heard is asked for its count. So of two that
//! come at once on different nodes each sees the other: a limit is never exceeded while the nodes hear each other,
//! though at the limit both may be refused. What a node that is not heard serves does not count. A new limit counts
//! those that are there already, and closes none of them.

use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};

use futures_util::future::LocalBoxFuture;
use rustc_hash::FxHashMap;
use serde::{Deserialize, Serialize};

use crate::name::{UserName, VhostName};

/// What there is of one vhost and one user.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Count {
    /// Connections to the vhost.
    pub vhost: u64,
    /// Connections of the user.
    pub user: u64,
    /// Channels of the user.
    pub channels: u64,
}

impl std::ops::Add for Count {
    type Output = Self;

    fn add(self, other: Self) -> Self {
        Self {
            vhost: self.vhost + other.vhost,
            user: self.user + other.user,
            channels: self.channels + other.channels,
        }
    }
}

/// Asks the other nodes.
pub trait Others: Send + Sync {
    /// The sum of what those say that answer.
    fn count(&self, vhost: VhostName, user: UserName) -> LocalBoxFuture<'static, Count>;
}

#[derive(Debug, Default)]
struct Counts {
    vhosts: FxHashMap<VhostName, u64>,
    /// Connections and channels.
    users: FxHashMap<UserName, (u64, u64)>,
}

/// See the module.
#[derive(Default)]
pub struct Census {
    counts: Mutex<Counts>,
    others: OnceLock<Arc<dyn Others>>,
}

impl Census {
    /// Connects the other nodes; once, at boot. Without it there are none.
    pub fn connect(&self, others: Arc<dyn Others>) {
        assert!(self.others.set(others).is_ok(), "the census is connected once");
    }

    /// Who asks the other nodes.
    pub fn others(&self) -> Option<&Arc<dyn Others>> {
        self.others.get()
    }

    fn counts(&self) -> MutexGuard<'_, Counts> {
        self.counts.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What this node has.
    pub fn count(&self, vhost: &str, user: &str) -> Count {
        let counts = self.counts();
        let (connections, channels) = counts.users.get(user).copied().unwrap_or_default();
        Count {
            vhost: counts.vhosts.get(vhost).copied().unwrap_or_default(),
            user: connections,
            channels,
        }
    }

    /// The channels of all connections to this node.
    pub(crate) fn channels(&self) -> u64 {
        self.counts().users.values().map(|(_, channels)| channels).sum()
    }

    /// A connection counts from now on, until its seat is dropped.
    pub(crate) fn seat(self: &Arc<Self>, vhost: VhostName, user: UserName) -> Seat {
        let mut counts = self.counts();
        *counts.vhosts.entry(vhost.clone()).or_default() += 1;
        counts.users.entry(user.clone()).or_default().0 += 1;
        drop(counts);
        Seat {
            census: Arc::clone(self),
            vhost,
            user,
            channels: 0,
        }
    }
}

/// One connection that counts.
pub(crate) struct Seat {
    census: Arc<Census>,
    vhost: VhostName,
    user: UserName,
    channels: u64,
}

impl Seat {
    /// What this node has of the connection's vhost and user.
    pub(crate) fn count(&self) -> Count {
        self.census.count(&self.vhost, &self.user)
    }

    /// The connection has so many channels.
    pub(crate) fn set_channels(&mut self, channels: usize) {
        let channels = channels as u64;
        if channels != self.channels {
            let mut counts = self.census.counts();
            if let Some((_, all)) = counts.users.get_mut(&self.user) {
                *all = *all + channels - self.channels;
            }
            self.channels = channels;
        }
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.set_channels(0);
        let mut counts = self.census.counts();
        if let Some(all) = counts.vhosts.get_mut(&self.vhost) {
            *all -= 1;
            if *all == 0 {
                counts.vhosts.remove(&self.vhost);
            }
        }
        if let Some((all, _)) = counts.users.get_mut(&self.user) {
            *all -= 1;
            if *all == 0 {
                counts.users.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn who_goes_no_longer_counts() {
        let census = Arc::new(Census::default());
        let mut one = census.seat("v".into(), "u".into());
        let two = census.seat("w".into(), "u".into());
        one.set_channels(3);
        let (vhost, user, channels) = (1, 2, 3);
        assert_eq!(census.count("v", "u"), Count { vhost, user, channels });
        one.set_channels(1);
        drop(two);
        let (user, channels) = (1, 1);
        assert_eq!(census.count("v", "u"), Count { vhost, user, channels });
        drop(one);
        assert_eq!(census.count("v", "u"), Count::default());
        assert!(census.counts().vhosts.is_empty() && census.counts().users.is_empty());
    }
}
