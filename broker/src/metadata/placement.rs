//! Where a new queue's replicas go.

use std::collections::BTreeMap;

use warren_cluster::NodeId;

use super::view::Picture;

/// The replicas that a new queue should have, the one that should lead first: the local node, then those nodes that
/// hold the fewest replicas, live ones before others, lower ids before higher.
///
/// At least one, at most `group_size`, and no more than there are nodes: a queue declared while a node is away still
/// gets its full set of replicas, which the absent one fills when it returns.
pub fn place(picture: &Picture, local: NodeId, live: &[NodeId], group_size: usize) -> Vec<NodeId> {
    let mut load: BTreeMap<NodeId, usize> = picture.nodes().map(|(node, _)| (node, 0)).collect();
    for node in live.iter().chain([&local]) {
        load.entry(*node).or_default();
    }
    for queue in picture.all_queues() {
        for replica in queue.replicas() {
            if let Some(count) = load.get_mut(replica) {
                *count += 1;
            }
        }
    }
    let mut nodes: Vec<NodeId> = load.keys().copied().collect();
    nodes.sort_by_key(|node| (*node != local, !live.contains(node), load[node], *node));
    nodes.truncate(group_size.max(1));
    nodes
}
