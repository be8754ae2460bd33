//! Nodes that a queue's replica does not hear, and since when: their sessions hold what they hold for so long only.
//!
//! Every replica keeps track, so that a new leader need not begin anew. Pure: it is told the time.

use std::collections::BTreeMap;

use warren_cluster::NodeId;

#[derive(Clone, Copy, Debug)]
struct Silent {
    since_ms: u64,
    /// The queue was told.
    is_told: bool,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Silence {
    nodes: BTreeMap<NodeId, Silent>,
}

impl Silence {
    /// The node is not heard any more.
    pub(super) fn began(&mut self, node: NodeId, now_ms: u64) {
        let silent = Silent {
            since_ms: now_ms,
            is_told: false,
        };
        self.nodes.entry(node).or_insert(silent);
    }

    /// The node is heard.
    pub(super) fn ended(&mut self, node: NodeId) {
        self.nodes.remove(&node);
    }

    /// This replica leads from now on: what another one told the queue may not have come to be.
    pub(super) fn leads(&mut self) {
        for silent in self.nodes.values_mut() {
            silent.is_told = false;
        }
    }

    /// When [`Silence::due`] has something to say, if the queue waits for `patience_ms`.
    pub(super) fn look_ms(&self, patience_ms: u64) -> Option<u64> {
        let waited_for = self.nodes.values().filter(|silent| !silent.is_told);
        waited_for
            .map(|silent| silent.since_ms.saturating_add(patience_ms))
            .min()
    }

    /// The nodes that were silent for so long; each is named once.
    pub(super) fn due(&mut self, patience_ms: u64, now_ms: u64) -> Vec<NodeId> {
        let mut due = Vec::new();
        for (node, silent) in &mut self.nodes {
            if !silent.is_told && silent.since_ms.saturating_add(patience_ms) <= now_ms {
                silent.is_told = true;
                due.push(*node);
            }
        }
        due
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_node_is_named_once_for_each_silence() {
        let mut silence = Silence::default();
        assert_eq!(silence.look_ms(500), None);
        silence.began(2, 1_000);
        // Heard of twice, it began at the first time.
        silence.began(2, 1_400);
        silence.began(3, 1_200);
        assert_eq!(silence.look_ms(500), Some(1_500));
        assert!(silence.due(500, 1_499).is_empty());
        assert_eq!(silence.due(500, 1_500), [2]);
        assert_eq!(silence.look_ms(500), Some(1_700));
        silence.ended(3);
        assert_eq!(silence.look_ms(500), None);
        assert!(silence.due(500, 9_000).is_empty());
        silence.ended(2);
        silence.began(2, 9_000);
        assert_eq!(silence.due(500, 9_500), [2]);
    }

    #[test]
    fn a_new_leader_says_it_once_more() {
        let mut silence = Silence::default();
        silence.began(2, 1_000);
        assert_eq!(silence.due(0, 1_000), [2]);
        silence.leads();
        assert_eq!(silence.look_ms(u64::MAX), Some(u64::MAX));
        assert_eq!(silence.due(100, 1_100), [2]);
    }
}
