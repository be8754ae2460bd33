//! Whether the replica of a queue on one node may go on alone, as far as that node can find out.
//!
//! It may while the majority is lost, and with what holds the most. Others that run on unheard are fenced off by the
//! group, and what they confirm meanwhile is lost.

use warren_cluster::NodeId;

use super::local::Replica;
use super::protocol::status;

/// Why not.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Refusal {
    #[error("the node has no replica of it")]
    NotHere,
    #[error("the nodes of a majority of its replicas run: see shrink and delete_member")]
    MajorityRuns,
    #[error("what the node held of it is lost, and nothing would be left")]
    LostHere,
    #[error("node {0} holds more of it: call it there")]
    HeldElsewhere(NodeId),
}

impl Refusal {
    pub(super) fn status(self) -> u8 {
        match self {
            Self::NotHere => status::DATA,
            Self::MajorityRuns | Self::LostHere | Self::HeldElsewhere(_) => status::SOFTWARE,
        }
    }
}

/// Whether the nodes of a majority of these replicas are among those that are heard.
pub(super) fn hears_most(replicas: &[NodeId], running: &[NodeId]) -> bool {
    let heard = replicas.iter().filter(|node| running.contains(node)).count();
    2 * heard > replicas.len()
}

/// `replicas`: where the queue is. `running`: the nodes that are heard, this one among them. `known`: the replicas as
/// those nodes describe them.
pub(super) fn check(own: NodeId, replicas: &[NodeId], running: &[NodeId], known: &[Replica]) -> Result<(), Refusal> {
    if !replicas.contains(&own) {
        return Err(Refusal::NotHere);
    }
    if hears_most(replicas, running) {
        return Err(Refusal::MajorityRuns);
    }
    let is_whole = |replica: &&Replica| !replica.is_fresh && replica.last_index.is_some();
    let here = known.iter().find(|replica| replica.node == own);
    let here = here.filter(is_whole).ok_or(Refusal::LostHere)?;
    // Of several that are left, the one that knows of the most that was confirmed is to go on.
    let holds_less = |other: &&Replica| other.commit > here.last_index;
    match known.iter().find(holds_less) {
        Some(other) => Err(Refusal::HeldElsewhere(other.node)),
        None => Ok(()),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn replica(node: NodeId, last_index: u64, commit: u64) -> Replica {
        Replica {
            node,
            last_index: Some(last_index),
            commit: Some(commit),
            ..Replica::default()
        }
    }

    #[test]
    fn the_last_replica_that_is_whole_goes_on() {
        assert_eq!(check(1, &[1, 2, 3], &[1, 4], &[replica(1, 9, 7)]), Ok(()));
        // Of two out of five, the other one knows of nothing that was confirmed and is not here.
        let both = [replica(1, 9, 7), replica(2, 12, 9)];
        assert_eq!(check(1, &[1, 2, 3, 4, 5], &[1, 2], &both), Ok(()));
    }

    #[test]
    fn where_a_majority_runs_nothing_is_lost() {
        let here = [replica(1, 9, 7)];
        for running in [&[1, 2][..], &[1, 2, 3], &[2, 3]] {
            assert_eq!(check(1, &[1, 2, 3], running, &here), Err(Refusal::MajorityRuns));
        }
        // Half of them is no majority.
        assert_eq!(check(1, &[1, 2], &[1], &here), Ok(()));
    }

    #[test]
    fn what_was_lost_does_not_go_on() {
        let fresh = Replica {
            is_fresh: true,
            ..replica(1, 0, 0)
        };
        assert_eq!(check(1, &[1, 2, 3], &[1], &[fresh]), Err(Refusal::LostHere));
        assert_eq!(check(1, &[1, 2, 3], &[1], &[]), Err(Refusal::LostHere));
        assert_eq!(check(4, &[1, 2, 3], &[4], &[]), Err(Refusal::NotHere));
    }

    #[test]
    fn the_one_that_holds_more_goes_on() {
        let both = [replica(1, 9, 7), replica(2, 12, 10)];
        let all = [1, 2, 3, 4, 5];
        assert_eq!(check(1, &all, &[1, 2], &both), Err(Refusal::HeldElsewhere(2)));
        assert_eq!(check(2, &all, &[1, 2], &both), Ok(()));
    }

    #[test]
    fn refusals_have_the_status_that_scripts_know() {
        assert_eq!(Refusal::NotHere.status(), status::DATA);
        assert_eq!(Refusal::MajorityRuns.status(), status::SOFTWARE);
    }
}
