//! Where queues shall be, and how the nodes' part in that changes.
//!
//! ```text
//! PlaceQueue ─▶ replicas: old and new nodes, wanted: the new ones ─▶ the queue's leader changes its group's members
//!            QueueMoved ◀── it consists of the wanted ones ◀──┘
//!                └─▶ replicas: the new nodes; the others delete what they have
//! ```
//!
//! A decision on the set of replicas has a number, its era, so that the end of an earlier move is not taken for that of
//! a later one.

use std::sync::Arc;

use warren_cluster::{GroupId, NodeId};

use super::Effect;
use super::edit::Edit;
use super::facts::{Node, Placement};
use super::refusal::Refusal;

/// More replicas than any queue needs; a group's size is bounded for good.
const REPLICAS_MAX: usize = 32;

/// See [`super::Change::PlaceQueue`]. Of a queue that is not there, or is not replicated, nothing is asked.
pub(super) fn place_queue(
    mut edit: Edit<'_>,
    group: GroupId,
    mut wanted: Vec<NodeId>,
    leader: NodeId,
) -> Result<(), Refusal> {
    let distinct: std::collections::BTreeSet<NodeId> = wanted.iter().copied().collect();
    if wanted.is_empty() || wanted.len() > REPLICAS_MAX || distinct.len() < wanted.len() || distinct.contains(&0) {
        return Err(Refusal::Malformed("a queue without replicas, or with one twice"));
    }
    let Some(known) = edit.picture.queue_by_group(group).cloned() else {
        return Ok(());
    };
    let Placement::Replicated {
        replicas,
        era,
        reformed,
        ..
    } = &known.placement
    else {
        return Ok(());
    };
    let reformed = *reformed;
    let is_new = known
        .wanted()
        .iter()
        .copied()
        .collect::<std::collections::BTreeSet<_>>()
        != distinct;
    let mut all = replicas.clone();
    all.extend(wanted.iter().filter(|node| !replicas.contains(node)));
    let era = if is_new { edit.id } else { *era };
    let founders = if era == 0 {
        Vec::new()
    } else {
        known.founders().to_vec()
    };
    let placement = if all.len() == wanted.len() {
        // Nobody is left.
        Placement::Replicated {
            replicas: std::mem::take(&mut wanted),
            leader,
            wanted,
            era,
            founders,
            reformed,
        }
    } else {
        Placement::Replicated {
            replicas: all,
            leader,
            wanted,
            era,
            founders,
            reformed,
        }
    };
    if placement != known.placement {
        edit.place_queue(group, placement);
    }
    Ok(())
}

/// See [`super::Change::QueueMoved`]. What is said of an earlier decision changes nothing.
pub(super) fn queue_moved(mut edit: Edit<'_>, group: GroupId, of_era: u64) {
    let Some(known) = edit.picture.queue_by_group(group).cloned() else {
        return;
    };
    if let Placement::Replicated {
        leader,
        wanted,
        era,
        founders,
        reformed,
        ..
    } = &known.placement
        && *era == of_era
        && !wanted.is_empty()
    {
        let placement = Placement::Replicated {
            replicas: wanted.clone(),
            leader: *leader,
            wanted: Vec::new(),
            era: *era,
            founders: founders.clone(),
            reformed: *reformed,
        };
        edit.place_queue(group, placement);
    }
}

/// See [`super::Change::DrainNode`].
pub(super) fn drain_node(edit: Edit<'_>, node: NodeId, draining: bool) -> Result<(), Refusal> {
    let known = edit.picture.nodes.get(&node).cloned();
    let known = known.ok_or(Refusal::Malformed("not a node of the cluster"))?;
    if known.draining != draining {
        let changed = Node {
            draining,
            ..Node::clone(&known)
        };
        edit.picture.nodes.insert(node, Arc::new(changed));
        edit.out.push(Effect::NodeDrains(node));
    }
    Ok(())
}
