//! Direct: the routing key equals the binding's.

use imbl::HashMap;

use super::{Target, Targets};
use crate::name::RoutingKey;

/// Targets by routing key. Hashed with a key of this process, so that no choice of routing keys makes it slow, and
/// never walked, so that the order does not matter.
#[derive(Clone, Debug, Default)]
pub struct Direct {
    keys: HashMap<RoutingKey, Targets>,
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
