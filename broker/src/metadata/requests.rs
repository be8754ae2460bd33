//! Which requests have been applied: a request that is asked for again is not done again.
//!
//! Requesters repeat what they got no answer to, so a command may come out of the log twice, the second time long
//! after the first was answered and others have built on it. Each run of a node numbers its requests from 1, so what
//! has to be remembered is the highest number below which all have been applied, and those above it.

use imbl::{OrdMap, OrdSet};
use warren_cluster::NodeId;

use super::change::Request;

/// How many numbers above a missing one are remembered. Whoever is that far behind counts as applied.
const AHEAD_MAX: usize = 1 << 16;

/// By node; only the latest run that asked for something. What an older one asks for comes too late.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Requests {
    pub(super) nodes: OrdMap<NodeId, Applied>,
}

#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Applied {
    pub(super) incarnation: u64,
    /// Every number up to this one has been applied.
    pub(super) floor: u64,
    /// All above `floor + 1`.
    pub(super) ahead: OrdSet<u64>,
}

impl Requests {
    /// Whether the request has not been seen yet; from now on it has. Those of node 0 are never remembered.
    pub(super) fn first_time(&mut self, request: Request) -> bool {
        if request.node == 0 {
            return true;
        }
        let applied = self.nodes.entry(request.node).or_default();
        if request.incarnation < applied.incarnation {
            return false;
        }
        if request.incarnation > applied.incarnation {
            *applied = Applied {
                incarnation: request.incarnation,
                ..Applied::default()
            };
        }
        applied.first_time(request.id)
    }

    pub(super) fn forget(&mut self, node: NodeId) {
        self.nodes.remove(&node);
    }
}

impl Applied {
    fn first_time(&mut self, id: u64) -> bool {
        if id <= self.floor || self.ahead.insert(id).is_some() {
            return false;
        }
        if self.ahead.len() > AHEAD_MAX {
            self.floor = self.ahead.get_min().map_or(self.floor, |first| first - 1);
        }
        while self.ahead.remove(&(self.floor + 1)).is_some() {
            self.floor += 1;
        }
        true
    }
}
