//! Where a new queue's replicas go.

use std::collections::BTreeSet;

use warren_cluster::NodeId;

use super::view::Picture;

/// The replicas that a new queue should have, the one that should lead first: the local node, then those nodes that
/// hold the fewest replicas, live ones before others, lower ids before higher.
///
/// At least one, at most `group_size`, and no more than there are nodes: a queue declared while a node is away, or before
/// one of the cluster's `members` began for the first time, still gets its full set of replicas, which the absent one
/// fills when it comes.
pub fn place(picture: &Picture, local: NodeId, live: &[NodeId], members: &[NodeId], group_size: usize) -> Vec<NodeId> {
    let known = picture.nodes().map(|(node, _)| node);
    let told = live.iter().chain(members).copied();
    let nodes: BTreeSet<NodeId> = known.chain(told).chain([local]).collect();
    let mut nodes: Vec<NodeId> = nodes.into_iter().collect();
    nodes.sort_by_key(|node| {
        (
            *node != local,
            !live.contains(node),
            picture.load(*node).replicas,
            *node,
        )
    });
    nodes.truncate(group_size.max(1));
    nodes
}
