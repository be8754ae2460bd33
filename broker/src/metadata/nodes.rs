//! Which nodes there are: how they join the cluster, are forgotten, and how survivors go on without the others.
//!
//! ```text
//!              JoinNode                NodeUp                        NodeForgotten
//!   (nobody) ───────────▶ known, down ────────▶ a member, up or down ─────────────▶ forgotten
//!       ▲                                                                              │
//!       └────────────── JoinNode with another data directory ──────────────────────────┘
//! ```
//!
//! A node is told from an earlier one of its name by the first run that had its data directory. What is forgotten is the
//! directory: whoever comes with it is turned away for good, also after another node has joined under that name.

use std::collections::BTreeSet;
use std::sync::Arc;

use warren_cluster::{GroupId, NodeId};

use super::apply::node_down;
use super::change::{Change, DeclareExchange, DeclareQueue};
use super::edit::Edit;
use super::facts::{Forgotten, Node, Placement, Queue, Run};
use super::refusal::Refusal;
use super::view::Picture;
use super::{Effect, moves};

/// The version of entries from which on nodes join and are forgotten.
pub(super) const VERSION: u16 = 2;

/// The version of entries from which on no queue is put where a node was forgotten since that was proposed: nothing would
/// ever begin there.
pub(super) const LEFT_OUT_SINCE: u16 = 4;

/// The version of entries from which on a queue does not go on with replicas that an earlier decision has given up.
pub(super) const OBEYED_SINCE: u16 = 4;

/// The most survivors that can go on without a majority: whichever of them leads then holds what either held.
pub const SURVIVORS_MAX: usize = 2;

/// Decisions to go on without a majority are counted above this bit, other decisions on members below it.
const COUNT_BIT: u32 = 56;

/// The number of the metadata's so manyth decision to go on without a majority.
pub fn reform_number(count: u64) -> u64 {
    count << COUNT_BIT
}

/// How often a cluster that is called so has gone on without its majority: `ID`, then `ID.COUNT.SURVIVORS`.
fn count_of(cluster_id: &str) -> u64 {
    let count = cluster_id.split('.').nth(1).and_then(|count| count.parse().ok());
    count.unwrap_or(0)
}

/// The number of the latest decision to go on without a majority, of a cluster that is called so; 0: there was none.
pub fn reform_of(cluster_id: &str) -> u64 {
    reform_number(count_of(cluster_id))
}

/// What the cluster is called after it has gone on with these survivors: the same wherever it is decided, and another
/// for others.
pub fn reformed_id(cluster_id: &str, survivors: u64) -> (String, u64) {
    let first = cluster_id.split('.').next().unwrap_or_default();
    let count = count_of(cluster_id) + 1;
    (format!("{first}.{count}.{survivors:016x}"), reform_number(count))
}

/// See [`super::Change::JoinNode`].
pub(super) fn join(edit: Edit<'_>, node: NodeId, name: String, address: String, directory: u64) -> Result<(), Refusal> {
    if node == 0 || name.is_empty() || address.is_empty() {
        return Err(Refusal::Malformed("a node without a name or an address"));
    }
    if edit.picture.is_forgotten(node, directory) {
        return Err(Refusal::NodeForgotten(name));
    }
    let others = || edit.picture.nodes.iter().filter(|(id, _)| **id != node);
    if others().any(|(_, other)| other.name == name) {
        return Err(Refusal::NodeExists(name));
    }
    if let Some((_, other)) = others().find(|(_, other)| other.address == address) {
        return Err(Refusal::AddressInUse(address, other.name.clone()));
    }
    if let Some(known) = edit.picture.nodes.get(&node) {
        if known.name != name {
            return Err(Refusal::NodeExists(name));
        }
        // It comes back, with its own directory or without it, and is brought up again.
        if edit.picture.comes_back(node, &name, directory) {
            if known.address != address {
                let moved = Node {
                    address,
                    ..Node::clone(known)
                };
                edit.picture.nodes.insert(node, Arc::new(moved));
                edit.out.push(Effect::NodesChanged);
            }
            return Ok(());
        }
    }
    let joined = Node {
        run: Run { node, incarnation: 0 },
        live: false,
        since: edit.id,
        name,
        address,
        draining: false,
        directory,
        first_group: edit.id,
        joined: edit.id,
        // It does not say before it runs; it must know what was agreed on.
        version: edit.picture.version(),
        sessions_from: 0,
    };
    edit.picture.nodes.insert(node, Arc::new(joined));
    edit.out.push(Effect::NodesChanged);
    Ok(())
}

/// Leaves out of what is proposed the nodes that were forgotten meanwhile. Without any other node it is refused.
pub(super) fn leave_out_gone(picture: &Picture, change: &mut Change) {
    let (replicas, leader) = match change {
        Change::DeclareQueue(DeclareQueue {
            placement: Placement::Replicated { replicas, leader, .. },
            ..
        })
        | Change::DeclareExchange(DeclareExchange {
            delays: Some(Placement::Replicated { replicas, leader, .. }),
            ..
        })
        | Change::PlaceQueue { replicas, leader, .. } => (replicas, leader),
        _ => return,
    };
    replicas.retain(|node| !picture.is_gone(*node));
    if picture.is_gone(*leader) {
        *leader = replicas.first().copied().unwrap_or(0);
    }
}

/// Whether that node may be forgotten.
pub(super) fn check_forget(picture: &Picture, node: NodeId) -> Result<(), Refusal> {
    if let Some(known) = picture.nodes.get(&node).filter(|known| known.live) {
        return Err(Refusal::NodeRuns(known.name.clone()));
    }
    let mut queues = picture.all_queues().filter(|queue| queue.replicas().contains(&node));
    let Some(first) = queues.next() else { return Ok(()) };
    let name = picture.node(node).map(|known| known.name.clone());
    Err(Refusal::NodeInUse {
        node: name.unwrap_or_else(|| node.to_string()),
        queue: first.resource(),
        more: queues.count(),
    })
}

/// Removes a node, with every data directory that it had up to that run or to its last one.
pub(super) fn forget(edit: &mut Edit<'_>, node: NodeId, until: u64) {
    let Some(known) = edit.picture.nodes.get(&node).cloned() else {
        return;
    };
    let all = Run {
        node,
        incarnation: u64::MAX,
    };
    node_down(
        Edit {
            picture: edit.picture,
            out: edit.out,
            id: edit.id,
        },
        all,
    );
    edit.picture.nodes.remove(&node);
    edit.picture.requests.forget(node);
    let earlier = edit.picture.forgotten.get(&node).map_or(0, |earlier| earlier.until);
    let forgotten = Forgotten {
        name: known.name.clone(),
        until: until.max(known.run.incarnation).max(known.directory).max(earlier),
        at: edit.id,
    };
    edit.picture.forgotten.insert(node, Arc::new(forgotten));
    edit.out.push(Effect::NodesChanged);
}

/// See [`super::Change::Reform`].
pub(super) fn reform(mut edit: Edit<'_>, survivors: &[NodeId], until: u64, cluster_id: String) -> Result<(), Refusal> {
    let left: BTreeSet<NodeId> = survivors.iter().copied().collect();
    if left.is_empty() || left.len() > SURVIVORS_MAX {
        return Err(Refusal::Malformed("one or two survivors"));
    }
    let gone: Vec<NodeId> = edit
        .picture
        .nodes
        .keys()
        .copied()
        .filter(|node| !left.contains(node))
        .collect();
    if gone.is_empty() {
        return Ok(());
    }
    for node in gone {
        forget(&mut edit, node, until);
    }
    let queues: Vec<_> = edit
        .picture
        .all_queues()
        .filter(|queue| !queue.is_transient())
        .cloned()
        .collect();
    for queue in queues {
        let replicas = queue.replicas();
        let there: Vec<NodeId> = replicas.iter().copied().filter(|node| left.contains(node)).collect();
        if there.len() == replicas.len() {
            continue;
        }
        if there.is_empty() {
            lose_queue(&mut edit, &queue);
            continue;
        }
        if queue.moves().is_none() && 2 * there.len() > replicas.len() {
            let leader = leader_among(queue.preferred_leader(), &there);
            let edit = Edit {
                picture: edit.picture,
                out: edit.out,
                id: edit.id,
            };
            moves::place_queue(edit, queue.group, there, leader)?;
        } else {
            reform_queue(&mut edit, queue.group, &there, None)?;
        }
    }
    edit.picture.cluster_id = cluster_id;
    Ok(())
}

/// Nothing is left of a queue: no node begins a replica of it, also if one comes back under its old name.
fn lose_queue(edit: &mut Edit<'_>, queue: &Queue) {
    let placement = Placement::Replicated {
        replicas: queue.replicas().to_vec(),
        leader: 0,
        wanted: Vec::new(),
        era: edit.id,
        founders: Vec::new(),
        reformed: edit.id,
    };
    edit.place_queue(queue.group, placement);
}

/// See [`super::Change::ReformQueue`]. Of a queue that is not there nothing is asked.
pub(super) fn reform_queue(
    edit: &mut Edit<'_>,
    group: GroupId,
    survivors: &[NodeId],
    obeyed: Option<u64>,
) -> Result<(), Refusal> {
    let Some(queue) = edit.picture.queue_by_group(group).cloned() else {
        return Ok(());
    };
    let distinct: BTreeSet<NodeId> = survivors.iter().copied().collect();
    let are_there = survivors.iter().all(|node| queue.replicas().contains(node));
    if survivors.is_empty() || survivors.len() > SURVIVORS_MAX || distinct.len() < survivors.len() || !are_there {
        return Err(Refusal::Malformed("one or two of the queue's replicas"));
    }
    if obeyed.is_some_and(|obeyed| obeyed != queue.reformed()) {
        return Err(Refusal::GivenUp(queue.resource()));
    }
    let placement = Placement::Replicated {
        replicas: survivors.to_vec(),
        leader: leader_among(queue.preferred_leader(), survivors),
        wanted: Vec::new(),
        era: edit.id,
        founders: survivors.to_vec(),
        reformed: edit.id,
    };
    edit.place_queue(group, placement);
    Ok(())
}

fn leader_among(preferred: NodeId, nodes: &[NodeId]) -> NodeId {
    if nodes.contains(&preferred) {
        preferred
    } else {
        nodes.first().copied().unwrap_or(0)
    }
}
