//! Direct: the routing key equals the binding's.

use imbl::OrdMap;

use super::{Target, Targets};
use crate::name::RoutingKey;

/// Targets by routing key. Ordered rather than hashed: clients choose the keys, and no choice makes a tree slow.
#[derive(Clone, Debug, Default)]
pub struct Direct {
    keys: OrdMap<RoutingKey, Targets>,
}

impl Direct {
    pub(super) fn bind(&mut self, routing_key: &str, target: &Target) {
        match self.keys.get_mut(routing_key) {
            Some(targets) => targets.add(target),
            None => {
                let mut targets = Targets::default();
                targets.add(target);
                self.keys.insert(routing_key.into(), targets);
            }
        }
    }

    pub(super) fn unbind(&mut self, routing_key: &str, target: &Target) {
        if let Some(targets) = self.keys.get_mut(routing_key) {
            targets.remove(target);
            if targets.is_empty() {
                self.keys.remove(routing_key);
            }
        }
    }

    pub(super) fn matches(&self, routing_key: &str, out: &mut Vec<Target>) {
        if let Some(targets) = self.keys.get(routing_key) {
            targets.extend(out);
        }
    }
}
