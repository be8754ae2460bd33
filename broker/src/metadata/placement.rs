//! Where a new queue's replicas go.

use std::collections::BTreeSet;

use warren_cluster::NodeId;

use super::arguments::{Arguments, Kind, LeaderLocator};
use super::change::DeclareQueue;
use super::facts::Placement;
use super::view::Picture;

/// The replicas that a new queue should have, the one that should lead first: the local node, then those nodes that
/// hold the fewest replicas, live ones before others, lower ids before higher.
///
/// At least one, at most `group_size`, and no more than there are nodes: a queue declared while a node is away, or before
/// one of the cluster's `members` began for the first time, still gets its full set of replicas, which the absent one
/// fills when it comes.
pub fn place(picture: &Picture, local: NodeId, live: &[NodeId], members: &[NodeId], group_size: usize) -> Vec<NodeId> {
    // One that has joined and never ran may never come.
    let known = picture
        .nodes()
        .filter(|(_, node)| node.run.incarnation > 0)
        .map(|(node, _)| node);
    let told = live.iter().chain(members).copied();
    let mut nodes: BTreeSet<NodeId> = known.chain(told).chain([local]).collect();
    nodes.retain(|node| !picture.is_gone(*node));
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

/// Where a new replicated queue goes that `local`'s client declares. The local node leads, unless leaders are to be
/// balanced. `group_size` is for a queue that does not say.
pub fn place_replicas(
    picture: &Picture,
    local: NodeId,
    members: &[NodeId],
    group_size: usize,
    declare: &DeclareQueue,
) -> Placement {
    let kind = Kind::of(&declare.arguments);
    let policies = picture.policies_of_queue(&declare.vhost, kind, &declare.name);
    let Arguments {
        group_size: wanted,
        leader_locator,
        ..
    } = policies.settings(kind, &declare.arguments);
    let group_size = wanted.map_or(group_size, |size| size as usize);
    placed(picture, local, members, group_size, leader_locator)
}

/// Where goes what an exchange delays that `local`'s client declares. The local node leads.
pub fn place_delays(picture: &Picture, local: NodeId, members: &[NodeId], group_size: usize) -> Placement {
    placed(picture, local, members, group_size, LeaderLocator::ClientLocal)
}

fn placed(
    picture: &Picture,
    local: NodeId,
    members: &[NodeId],
    group_size: usize,
    leader_locator: LeaderLocator,
) -> Placement {
    let live: Vec<_> = picture
        .nodes()
        .filter(|(_, node)| node.live)
        .map(|(id, _)| id)
        .collect();
    let replicas = place(picture, local, &live, members, group_size);
    let leader = match leader_locator {
        LeaderLocator::ClientLocal => replicas.first().copied(),
        LeaderLocator::Balanced => replicas
            .iter()
            .copied()
            .filter(|node| live.contains(node))
            .min_by_key(|node| (picture.load(*node).leaders, *node)),
    };
    Placement::on(replicas, leader.unwrap_or(0))
}
