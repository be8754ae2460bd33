//! What nodes tell each other of the cluster that each is part of, when they meet.
//!
//! Two nodes of one name and one secret need not be of one cluster: one may have lost its disk and know of none, one may
//! have begun a second cluster, one may have been given up when the others went on without it. Each end says where it
//! stands, and judges the other by it. What an older build does not say is not judged.

use std::collections::BTreeSet;
use std::sync::Arc;

use arc_swap::ArcSwap;

use crate::NodeId;

/// Where a node stands. What it holds of the cluster may be behind.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Standing {
    /// What its cluster has called itself: the same for good up to the first dot. Empty: it knows of none.
    pub cluster_id: String,
    /// The decision by which the cluster went on without a majority; 0: there was none.
    pub reformed: u64,
    /// The cluster's nodes, as far as this one knows.
    pub nodes: BTreeSet<NodeId>,
    /// It knows all that the cluster has agreed on up to the beginning of its run: whoever is none of `nodes` is a
    /// stranger.
    pub is_current: bool,
}

/// How another node stands to this one.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Side {
    /// Of the same cluster, or one of them knows of none.
    Same,
    /// Of another cluster, which has the same name.
    Foreign,
    /// It obeys an earlier decision: it was given up, or was not told that it survives.
    Behind,
    /// It obeys a later decision: this node is behind.
    Ahead,
}

impl Standing {
    /// Whether it counts that node as one of the cluster's; none: it cannot say.
    pub fn counts(&self, node: NodeId) -> Option<bool> {
        let is_one = self.nodes.contains(&node);
        (!self.cluster_id.is_empty() && (is_one || self.is_current)).then_some(is_one)
    }

    /// Judges another node.
    pub fn side_of(&self, met: &Met) -> Side {
        let first = |id: &str| id.split('.').next().unwrap_or_default().to_owned();
        if self.cluster_id.is_empty() || met.cluster_id.is_empty() {
            return Side::Same;
        }
        if first(&self.cluster_id) != first(&met.cluster_id) {
            return Side::Foreign;
        }
        match met.reformed {
            Some(reformed) if reformed < self.reformed => Side::Behind,
            Some(reformed) if reformed > self.reformed => Side::Ahead,
            _ => Side::Same,
        }
    }
}

/// A [`Standing`] that changes. A clone is the same.
#[derive(Clone, Debug, Default)]
pub struct Membership(Arc<ArcSwap<Standing>>);

impl Membership {
    /// As it is now.
    pub fn standing(&self) -> Arc<Standing> {
        self.0.load_full()
    }

    /// It is this from now on. True if it was another.
    pub fn set(&self, standing: Standing) -> bool {
        let changed = *self.0.load_full() != standing;
        if changed {
            self.0.store(Arc::new(standing));
        }
        changed
    }
}

/// What a node that proved itself says of itself and of this one.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Met {
    /// Its id.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// Where its peers reach it, `host:port`; empty: it does not say.
    pub address: String,
    /// The first run that had its data directory; 0: it does not say.
    pub directory: u64,
    /// See [`Standing::cluster_id`].
    pub cluster_id: String,
    /// See [`Standing::reformed`]; none: it does not say.
    pub reformed: Option<u64>,
    /// Whether it counts this node as one of its cluster's; none: it does not say.
    pub counts_us: Option<bool>,
}

#[cfg(test)]
mod tests {
    use super::*;

    fn standing(cluster_id: &str, reformed: u64) -> Standing {
        Standing {
            cluster_id: cluster_id.to_owned(),
            reformed,
            nodes: BTreeSet::from([1, 2]),
            is_current: false,
        }
    }

    fn met(cluster_id: &str, reformed: Option<u64>) -> Met {
        Met {
            cluster_id: cluster_id.to_owned(),
            reformed,
            ..Met::default()
        }
    }

    #[test]
    fn whoever_obeys_another_decision_is_told_from_whoever_says_nothing() {
        let own = standing("id.1.x", 1 << 56);
        for (theirs, side) in [
            (met("", None), Side::Same),
            (met("id", None), Side::Same),
            (met("id.1.x", Some(1 << 56)), Side::Same),
            // It has not applied yet what the cluster is called since.
            (met("id", Some(1 << 56)), Side::Same),
            (met("id", Some(0)), Side::Behind),
            (met("id.2.y", Some(2 << 56)), Side::Ahead),
            (met("other", Some(1 << 56)), Side::Foreign),
            (met("other", None), Side::Foreign),
        ] {
            assert_eq!(own.side_of(&theirs), side, "{theirs:?}");
        }
        assert_eq!(standing("", 0).side_of(&met("id", Some(7))), Side::Same);
    }

    #[test]
    fn only_who_knows_all_calls_another_a_stranger() {
        let own = standing("id", 0);
        assert_eq!((own.counts(1), own.counts(3)), (Some(true), None));
        let current = Standing {
            is_current: true,
            ..own
        };
        assert_eq!((current.counts(1), current.counts(3)), (Some(true), Some(false)));
        assert_eq!(Standing::default().counts(1), None);
    }
}
