//! Where a queue's group should be and who should lead it, as its leader sees it: what is left to do, and when.
//!
//! Pure: it is told the time, and answers what the replica should try next.

use std::collections::BTreeMap;

use warren_cluster::NodeId;

use crate::metadata::{Picture, Queue};

/// A returned node is given this long to come to rest before leadership goes back to it.
const SETTLE_MS: u64 = 2_000;
/// Queues that hand over for the same reason do so one after the other, within this time.
const SPREAD_MS: u64 = 3_000;
/// The same where an operator waits for it.
const PROMPT_MS: u64 = 300;
/// A node that does not say that it has its replica is asked again after this long.
const ASK_MS: u64 = 200;
/// An attempt that came to nothing is repeated after this long.
const AGAIN_MS: u64 = 5_000;

/// A voter of the group, as its leader sees it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Voter {
    pub(super) node: NodeId,
    /// Reachable.
    pub(super) is_up: bool,
    /// It could lead at once.
    pub(super) is_able: bool,
}

/// How soon leadership goes to whom it should.
#[derive(Clone, Copy, Debug)]
pub(super) enum Pace {
    /// An operator has asked for it.
    Prompt,
    /// A node has just come back, or just lost it.
    Gentle,
}

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Place {
    /// The group may not consist of what it should.
    moves: bool,
    /// When to look whether another replica should lead.
    look_ms: Option<u64>,
    /// Nodes that have their replica, and the decision that they know of.
    ready: BTreeMap<NodeId, u64>,
    /// When nodes that are not ready are asked again.
    ask_ms: Option<u64>,
}

impl Place {
    /// Something may be otherwise than before: a new leader, a new placement, a node that is there again.
    pub(super) fn changed(&mut self, queue: &Queue, own: NodeId, drains: bool, pace: Pace, now_ms: u64) {
        self.moves = true;
        if !drains && [0, own].contains(&queue.preferred_leader()) {
            return;
        }
        // Spread by the queue, so that not all of them elect at once.
        let spread = queue.group.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 32;
        let at_ms = match pace {
            Pace::Prompt => now_ms + spread % PROMPT_MS,
            Pace::Gentle if drains => now_ms + spread % PROMPT_MS,
            Pace::Gentle => now_ms + SETTLE_MS + spread % SPREAD_MS,
        };
        self.look_ms = Some(self.look_ms.map_or(at_ms, |known| known.min(at_ms)));
    }

    /// Whether its group is to be steered.
    pub(super) fn moves(&self) -> bool {
        self.moves
    }

    /// The group is what it should be.
    pub(super) fn settled(&mut self) {
        self.moves = false;
        self.ask_ms = None;
        self.ready.clear();
    }

    /// When [`Place::heir`] or [`Place::unready`] is wanted.
    pub(super) fn look_ms(&self) -> Option<u64> {
        self.look_ms.into_iter().chain(self.ask_ms).min()
    }

    /// A node has a replica and knows of this decision.
    pub(super) fn is_ready(&mut self, node: NodeId, era: u64) {
        self.ready.insert(node, era);
    }

    /// Nodes whose replica may become one of the group: those that follow the same decision, and so will not take it
    /// away for an earlier one.
    pub(super) fn ready(&self, queue: &Queue) -> Vec<NodeId> {
        let wanted = queue.wanted().iter().copied();
        let ready = |node: &NodeId| self.ready.get(node) == Some(&queue.era());
        wanted.filter(ready).collect()
    }

    /// Nodes that are to be asked now whether they have their replica.
    pub(super) fn unready(&mut self, queue: &Queue, known: impl Fn(NodeId) -> bool, now_ms: u64) -> Vec<NodeId> {
        let ready = self.ready(queue);
        let missing = queue.wanted().iter().copied();
        let missing: Vec<NodeId> = missing.filter(|node| !known(*node) && !ready.contains(node)).collect();
        if missing.is_empty() {
            self.ask_ms = None;
            return missing;
        }
        if self.ask_ms.is_some_and(|ask_ms| ask_ms > now_ms) {
            return Vec::new();
        }
        self.ask_ms = Some(now_ms + ASK_MS);
        missing
    }

    /// The replica that should lead in this one's stead, once it is time to hand over.
    pub(super) fn heir(
        &mut self,
        queue: &Queue,
        picture: &Picture,
        own: NodeId,
        voters: &[Voter],
        now_ms: u64,
    ) -> Option<NodeId> {
        self.look_ms.take_if(|look_ms| *look_ms <= now_ms)?;
        let drains = |node: NodeId| picture.nodes().any(|(id, known)| id == node && known.draining);
        let is_preferred = |voter: &&Voter| voter.node == queue.preferred_leader();
        let all = drains(own);
        let may =
            |voter: &&Voter| voter.node != own && voter.is_up && !drains(voter.node) && (all || is_preferred(voter));
        let heirs: Vec<&Voter> = voters.iter().filter(may).collect();
        if !heirs.is_empty() {
            // One that lags behind is looked at again, and one that did not take it. Whoever is away will be heard of.
            self.look_ms = Some(now_ms + AGAIN_MS);
        }
        // Each queue begins elsewhere.
        let first = usize::try_from(queue.group % heirs.len().max(1) as u64).unwrap_or(0);
        let mut able = heirs
            .iter()
            .copied()
            .cycle()
            .skip(first)
            .take(heirs.len())
            .filter(|voter| voter.is_able);
        let preferred = able.clone().find(is_preferred);
        preferred.or_else(|| able.next()).map(|voter| voter.node)
    }
}
