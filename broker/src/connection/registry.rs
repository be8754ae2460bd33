//! Every client connection of this node, for listings and for the end.

use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use actix::prelude::*;
use futures_util::future::join_all;
use rustc_hash::FxHashMap;
use warren_proto::record::SessionId;

use super::actor::{ConnectionActor, Describe, ShortageChanged};
use super::describe::Description;
use crate::alarms::Shortage;
use crate::amqp::ReplyCode;
use crate::directory::SessionEvent;
use crate::mailbox;

/// A connection that does not describe itself within this time is left out.
const DESCRIBE_TIMEOUT: Duration = Duration::from_secs(2);

/// See the module. Clones are the same registry.
#[derive(Clone, Default)]
pub struct Registry {
    connections: Arc<Mutex<FxHashMap<u64, Addr<ConnectionActor>>>>,
    /// Those of all registries of the node.
    total: Total,
}

/// How many connections a node has, whichever listener they came by. Clones count together.
#[derive(Clone, Default)]
pub struct Total(Arc<AtomicUsize>);

impl Total {
    /// The number of connections, those included that are ending.
    pub fn count(&self) -> usize {
        self.0.load(Ordering::Relaxed)
    }
}

impl Registry {
    /// An empty registry, whose connections count in `total`.
    pub fn new(total: Total) -> Self {
        Self {
            connections: Arc::default(),
            total,
        }
    }

    fn connections(&self) -> MutexGuard<'_, FxHashMap<u64, Addr<ConnectionActor>>> {
        self.connections.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn insert(&self, session: SessionId, connection: Addr<ConnectionActor>) {
        if self.connections().insert(session.id, connection).is_none() {
            self.total.0.fetch_add(1, Ordering::Relaxed);
        }
    }

    pub(super) fn remove(&self, session: SessionId) {
        if self.connections().remove(&session.id).is_some() {
            self.total.0.fetch_sub(1, Ordering::Relaxed);
        }
    }

    /// How many connections there are, those included that are ending.
    pub fn len(&self) -> usize {
        self.connections().len()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.connections().is_empty()
    }

    /// Every connection with its channels, by session.
    pub async fn describe(&self) -> Vec<Description> {
        let connections: Vec<_> = self.connections().values().cloned().collect();
        let asked = connections
            .iter()
            .map(|connection| connection.send(Describe).timeout(DESCRIBE_TIMEOUT));
        let mut described: Vec<Description> = join_all(asked)
            .await
            .into_iter()
            .filter_map(|described| described.ok().flatten())
            .collect();
        described.sort_unstable_by_key(|described| described.connection.session);
        described
    }

    /// Closes one connection; gives false if there is none with that number.
    pub fn close(&self, session: u64, code: ReplyCode, text: &str) -> bool {
        let Some(connection) = self.connections().get(&session).cloned() else {
            return false;
        };
        mailbox::always_to(
            &connection,
            SessionEvent::Close {
                code,
                text: text.to_owned(),
            },
        );
        true
    }

    /// Tells all connections what the cluster is short of now.
    pub fn tell(&self, shortage: Shortage) {
        let connections: Vec<_> = self.connections().values().cloned().collect();
        for connection in connections {
            // One message per connection and change, of which there is at most one a second.
            mailbox::always_to(&connection, ShortageChanged(shortage));
        }
    }

    /// Closes all connections.
    pub fn close_all(&self, code: ReplyCode, text: &str) {
        let connections: Vec<_> = self.connections().values().cloned().collect();
        for connection in connections {
            // One message per connection at the end of its life.
            mailbox::always_to(
                &connection,
                SessionEvent::Close {
                    code,
                    text: text.to_owned(),
                },
            );
        }
    }
}
