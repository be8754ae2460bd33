//! Where this connection's recent publishes went: exchange and routing key to queues.
//!
//! An entry holds as long as the metadata's routing version does. Messages that are not routed by their key alone are
//! not kept.

use std::sync::Arc;

use rustc_hash::{FxHashMap, FxHashSet};

use crate::metadata::{Destination, Picture};
use crate::name::ExchangeName;

/// Beyond this many entries all are forgotten.
const ENTRIES_MAX: usize = 16_384;

/// See the module.
#[derive(Debug, Default)]
pub(crate) struct Routes {
    version: u64,
    entries: FxHashMap<Box<[u8]>, Arc<[u64]>>,
    key: Vec<u8>,
    /// Exchanges whose routes depend on more than the key; computed when first asked for.
    unkept: Option<FxHashSet<ExchangeName>>,
}

impl Routes {
    /// Forgets what another version said.
    pub(crate) fn validate(&mut self, version: u64) {
        if self.version != version {
            self.version = version;
            self.entries.clear();
            self.unkept = None;
        }
    }

    /// The groups that a message with this address goes to, if known.
    pub(crate) fn get(&mut self, exchange: &str, routing_key: &str) -> Option<Arc<[u64]>> {
        self.set_key(exchange, routing_key);
        self.entries.get(&self.key[..]).cloned()
    }

    /// Remembers where a message with this address goes.
    pub(crate) fn insert(&mut self, exchange: &str, routing_key: &str, groups: Arc<[u64]>) {
        if self.entries.len() >= ENTRIES_MAX {
            self.entries.clear();
        }
        self.set_key(exchange, routing_key);
        self.entries.insert(self.key.clone().into_boxed_slice(), groups);
    }

    /// Whether a message published to `exchange` may come by an exchange that looks at more than its key.
    pub(crate) fn looks_beyond_the_key(&mut self, picture: &Picture, vhost: &str, exchange: &str) -> bool {
        if exchange.is_empty() {
            return false;
        }
        self.unkept
            .get_or_insert_with(|| beyond_the_key(picture, vhost))
            .contains(exchange)
    }

    fn set_key(&mut self, exchange: &str, routing_key: &str) {
        self.key.clear();
        // A short string has at most 255 bytes, so its length tells where it ends.
        self.key.push(exchange.len() as u8);
        self.key.extend_from_slice(exchange.as_bytes());
        self.key.extend_from_slice(routing_key.as_bytes());
    }
}

/// Every exchange that looks at more than the key, and every exchange that leads to one.
fn beyond_the_key(picture: &Picture, vhost: &str) -> FxHashSet<ExchangeName> {
    let mut beyond = FxHashSet::default();
    let mut found: Vec<ExchangeName> = picture
        .exchanges(vhost)
        .filter(|exchange| exchange.looks_beyond_the_key())
        .map(|exchange| exchange.name.clone())
        .collect();
    while let Some(name) = found.pop() {
        let destination = Destination::Exchange(name.clone());
        let sources = picture.bindings_to(vhost, &destination).map(|binding| &binding.source);
        found.extend(sources.filter(|source| !beyond.contains(*source)).cloned());
        let diverting = picture
            .exchanges(vhost)
            .filter(|exchange| exchange.alternate.as_ref() == Some(&name));
        found.extend(
            diverting
                .map(|exchange| &exchange.name)
                .filter(|source| !beyond.contains(*source))
                .cloned(),
        );
        beyond.insert(name);
    }
    beyond
}
