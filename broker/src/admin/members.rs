//! Calls that say where queues' replicas shall be and which of them should lead. They change the metadata; the queues'
//! leaders carry it out.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use regex::Regex;
use warren_cluster::NodeId;

use super::local::Replica;
use super::protocol::{BalanceRow, Growth, MoveRow, QueueKind, status};
use super::{Failure, Inner, Rows, json};
use crate::metadata::{Change, Kind, Queue};

/// How long a call waits for a queue to have moved. It goes on moving after that.
pub(super) const MOVE_TIMEOUT: Duration = Duration::from_secs(30);
/// How often it looks.
pub(super) const LOOK: Duration = Duration::from_millis(50);
/// Why a queue's only replica stays where it is.
const LAST_NODE: &str = "the last node cannot be removed";
/// Changes of metadata that are under way at once for one call.
pub(super) const BATCH: usize = 256;

/// Which queues a call is about.
struct Selection {
    vhost: Regex,
    queue: Regex,
}

impl Selection {
    fn new(vhost: &str, queue: &str) -> Result<Self, Failure> {
        let compile = |pattern: &str| {
            Regex::new(pattern).map_err(|error| Failure::new(status::DATA, format!("not a pattern: {error}")))
        };
        Ok(Self {
            vhost: compile(vhost)?,
            queue: compile(queue)?,
        })
    }

    fn holds(&self, queue: &Queue) -> bool {
        !queue.is_transient() && self.vhost.is_match(&queue.vhost) && self.queue.is_match(&queue.name)
    }
}

/// What a call has to do with one queue.
pub(super) struct Move {
    pub(super) queue: Arc<Queue>,
    pub(super) wanted: Vec<NodeId>,
    pub(super) leader: NodeId,
}

impl Inner {
    /// The node of that name, if it is one of the cluster.
    pub(super) fn node_named(&self, name: &str) -> Result<NodeId, Failure> {
        let known = self.names().into_iter().find(|(_, own)| own == name);
        known
            .map(|(node, _)| node)
            .ok_or_else(|| Failure::new(status::USAGE, format!("node {name} is not a member of the cluster")))
    }

    fn running_node(&self, name: &str) -> Result<NodeId, Failure> {
        let node = self.node_named(name)?;
        if self.running().contains(&node) {
            return Ok(node);
        }
        Err(Failure::new(
            status::UNAVAILABLE,
            format!("node '{name}' is not running"),
        ))
    }

    fn replicated(&self, vhost: &str, name: &str) -> Result<Arc<Queue>, Failure> {
        let missing = || format!("queue '{name}' was not found in virtual host '{vhost}'");
        let queue = self.view.queue(vhost, name);
        let queue = queue.ok_or_else(|| Failure::new(status::DATA, missing()))?;
        if queue.is_transient() {
            let text = format!("queue '{name}' in vhost '{vhost}' is transient: it has no replicas");
            return Err(Failure::new(status::DATA, text));
        }
        Ok(queue)
    }

    pub(super) async fn add_member(&self, vhost: &str, name: &str, node: &str) -> Rows {
        let queue = self.replicated(vhost, name)?;
        let node = self.running_node(node)?;
        match grown(&queue, node) {
            Some(change) => self.place(change, false).await,
            None => Ok(Vec::new()),
        }
    }

    pub(super) async fn delete_member(&self, vhost: &str, name: &str, node: &str) -> Rows {
        let queue = self.replicated(vhost, name)?;
        let node = self.node_named(node)?;
        if !queue.wanted().contains(&node) {
            return Ok(Vec::new());
        }
        match shrunk(&queue, node) {
            Some(change) => self.place(change, true).await,
            None => Err(Failure::new(status::UNAVAILABLE, LAST_NODE)),
        }
    }

    pub(super) async fn transfer_leadership(&self, vhost: &str, name: &str, node: &str) -> Rows {
        let queue = self.replicated(vhost, name)?;
        let node = self.running_node(node)?;
        if !queue.wanted().contains(&node) {
            let text = format!("queue '{name}' in vhost '{vhost}': the node has no replica of it");
            return Err(Failure::new(status::DATA, text));
        }
        let wanted = queue.wanted().to_vec();
        let group = queue.group;
        self.place(
            Move {
                queue,
                wanted,
                leader: node,
            },
            false,
        )
        .await?;
        let until = tokio::time::Instant::now() + MOVE_TIMEOUT;
        loop {
            let replicas = self.replicas_of(vec![group]).await.remove(&group).unwrap_or_default();
            if leader_of(&replicas).is_some_and(|leader| leader.node == node) {
                return Ok(Vec::new());
            }
            if tokio::time::Instant::now() > until {
                let text = "the node does not lead the queue yet; it will once it has caught up";
                return Err(Failure::new(status::TEMPORARY, text));
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    pub(super) async fn grow(&self, node: &str, growth: Growth, vhost: &str, queue: &str) -> Rows {
        let node = self.running_node(node)?;
        let selection = Selection::new(vhost, queue)?;
        let fits = |queue: &Queue| growth == Growth::All || queue.wanted().len().is_multiple_of(2);
        let picture = self.view.picture();
        let chosen = picture
            .all_queues()
            .filter(|queue| selection.holds(queue) && fits(queue));
        let moves = chosen.filter_map(|queue| grown(queue, node)).collect();
        let placed = self.place_all(moves, false).await;
        Ok(placed.into_iter().map(|(_, row)| row).collect())
    }

    pub(super) async fn shrink(&self, node: &str, errors_only: bool) -> Rows {
        let unknown = |failure: Failure| Failure::new(status::UNAVAILABLE, failure.text);
        let node = self.node_named(node).map_err(unknown)?;
        let picture = self.view.picture();
        let there = |queue: &&Arc<Queue>| queue.wanted().contains(&node);
        let mut rows = Vec::new();
        let mut moves = Vec::new();
        for queue in picture.all_queues().filter(there) {
            match shrunk(queue, node) {
                Some(change) => moves.push(change),
                None => rows.push(json(&row(queue, 1, &format!("error: {LAST_NODE}")))),
            }
        }
        let placed = self.place_all(moves, true).await;
        rows.extend(
            placed
                .into_iter()
                .filter(|(is_done, _)| !(errors_only && *is_done))
                .map(|(_, row)| row),
        );
        Ok(rows)
    }

    /// Spreads leaders evenly: as long as one node leads more queues than its share, the shortest of them goes to the
    /// replica that leads the fewest.
    pub(super) async fn rebalance(&self, kind: QueueKind, vhost: &str, queue: &str) -> Rows {
        if self.balancing.swap(true, Ordering::Acquire) {
            return Err(Failure::new(status::TEMPORARY, "a rebalance is in progress"));
        }
        let result = self.rebalance_alone(kind, vhost, queue).await;
        self.balancing.store(false, Ordering::Release);
        result
    }

    async fn rebalance_alone(&self, kind: QueueKind, vhost: &str, queue: &str) -> Rows {
        let selection = Selection::new(vhost, queue)?;
        let picture = self.view.picture();
        let running = self.running();
        let drains = |node: NodeId| picture.nodes().any(|(id, known)| id == node && known.draining);
        let nodes: Vec<NodeId> = running.into_iter().filter(|node| !drains(*node)).collect();
        let replicas = self.replicas_of(Vec::new()).await;
        let chosen = |queue: &&Arc<Queue>| selection.holds(queue) && kind.holds(queue.kind);
        let mut led: Vec<Led> = Vec::new();
        for queue in picture.all_queues().filter(chosen) {
            let found = replicas.get(&queue.group).map_or(&[][..], Vec::as_slice);
            if let Some(leader) = leader_of(found) {
                led.push(Led {
                    queue: queue.clone(),
                    leader: leader.node,
                    len: leader.last_index.unwrap_or(0) - leader.snapshot_index.unwrap_or(0),
                });
            }
        }
        balance(&mut led, &nodes);
        let other = |led: &&Led| led.queue.preferred_leader() != led.leader;
        let moves = led.iter().filter(other).map(|led| Move {
            queue: led.queue.clone(),
            wanted: led.queue.wanted().to_vec(),
            leader: led.leader,
        });
        self.place_all(moves.collect(), false).await;
        let count = |node: NodeId, kind: Kind| {
            let of = |led: &&Led| led.leader == node && led.queue.kind == kind;
            led.iter().filter(of).count() as u64
        };
        let rows = nodes.iter().map(|node| BalanceRow {
            node: self.name_of(*node),
            quorum: count(*node, Kind::Quorum),
            classic: count(*node, Kind::Classic),
            stream: count(*node, Kind::Stream),
        });
        Ok(rows.map(|row| json(&row)).collect())
    }

    pub(super) async fn drain(&self, draining: bool) -> Rows {
        let node = self.directory.node();
        self.submit(Change::DrainNode { node, draining }).await?;
        if !draining {
            return Ok(Vec::new());
        }
        let until = tokio::time::Instant::now() + MOVE_TIMEOUT;
        loop {
            let led = self.led_here().await;
            if led == 0 {
                return Ok(Vec::new());
            }
            if tokio::time::Instant::now() > until {
                // Those that nobody else can lead stay.
                tracing::warn!(led, "drains, and still leads queues that no other node can lead");
                return Ok(Vec::new());
            }
            tokio::time::sleep(LOOK).await;
        }
    }

    /// Queues that this node leads although another one could.
    async fn led_here(&self) -> usize {
        let here = self.replicas(&[]).await;
        let own = self.directory.node();
        let goes = |replica: &&Replica| replica.role == "leader" && replica.able.iter().any(|node| *node != own);
        here.iter().filter(goes).count()
    }

    /// Fails if a queue with a replica here could not go on without this node.
    pub(super) async fn check_quorum(&self) -> Rows {
        let own = self.directory.node();
        let replicas = self.replicas_of(Vec::new()).await;
        let picture = self.view.picture();
        let mut critical = Vec::new();
        for queue in picture.all_queues().filter(|queue| queue.replicas().contains(&own)) {
            let found = replicas.get(&queue.group).map_or(&[][..], Vec::as_slice);
            let goes_on = leader_of(found).is_some_and(|leader| {
                let others = leader.able.iter().filter(|node| **node != own).count();
                let is_voter = leader.voters.contains(&own);
                !is_voter || 2 * others > leader.voters.len()
            });
            // Whoever has one replica has asked for it.
            if !goes_on && queue.wanted().len() > 1 {
                critical.push(format!("{} in vhost '{}'", queue.name, queue.vhost));
            }
        }
        if critical.is_empty() {
            return Ok(Vec::new());
        }
        let text = format!(
            "Node {} is critical: {} queue(s) would lose their quorum without it: {}",
            self.facts.name,
            critical.len(),
            critical.iter().take(20).cloned().collect::<Vec<_>>().join(", ")
        );
        Err(Failure::new(status::UNAVAILABLE, text))
    }

    async fn place(&self, change: Move, waits: bool) -> Rows {
        match self.place_one(&change, waits).await {
            Ok(()) => Ok(Vec::new()),
            Err(failure) => Err(failure),
        }
    }

    pub(super) async fn place_one(&self, change: &Move, waits: bool) -> Result<(), Failure> {
        let group = change.queue.group;
        self.submit(Change::PlaceQueue {
            group,
            replicas: change.wanted.clone(),
            leader: change.leader,
        })
        .await?;
        let until = tokio::time::Instant::now() + MOVE_TIMEOUT;
        while waits
            && self
                .view
                .queue_by_group(group)
                .is_some_and(|queue| queue.moves().is_some())
        {
            if tokio::time::Instant::now() > until {
                let text = "the queue has not moved yet; it will once its replicas can be reached";
                return Err(Failure::new(status::TEMPORARY, text));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// For each whether it was done, and its row.
    async fn place_all(&self, moves: Vec<Move>, waits: bool) -> Vec<(bool, String)> {
        let mut rows = Vec::new();
        for batch in moves.chunks(BATCH) {
            let placed = futures_util::future::join_all(batch.iter().map(|change| self.place_one(change, waits))).await;
            for (change, result) in batch.iter().zip(placed) {
                let is_done = result.is_ok();
                let result = result.map_or_else(|failure| format!("error: {}", failure.text), |()| "ok".to_owned());
                rows.push((is_done, json(&row(&change.queue, change.wanted.len(), &result))));
            }
        }
        rows
    }
}

pub(super) fn row(queue: &Queue, size: usize, result: &str) -> MoveRow {
    MoveRow {
        vhost: queue.vhost.to_string(),
        name: queue.name.to_string(),
        size: size as u64,
        result: result.to_owned(),
    }
}

fn grown(queue: &Arc<Queue>, node: NodeId) -> Option<Move> {
    let mut wanted = queue.wanted().to_vec();
    if wanted.contains(&node) {
        return None;
    }
    wanted.push(node);
    Some(Move {
        wanted,
        leader: queue.preferred_leader(),
        queue: queue.clone(),
    })
}

/// None if nothing would be left.
fn shrunk(queue: &Arc<Queue>, node: NodeId) -> Option<Move> {
    let wanted: Vec<NodeId> = queue.wanted().iter().copied().filter(|other| *other != node).collect();
    let first = *wanted.first()?;
    let leader = match queue.preferred_leader() {
        leader if leader == node => first,
        leader => leader,
    };
    Some(Move {
        wanted,
        leader,
        queue: queue.clone(),
    })
}

pub(super) fn leader_of(replicas: &[Replica]) -> Option<&Replica> {
    let leaders = replicas.iter().filter(|replica| replica.role == "leader");
    leaders.max_by_key(|replica| replica.term)
}

/// A queue and who leads it.
struct Led {
    queue: Arc<Queue>,
    leader: NodeId,
    /// Log entries since the last snapshot.
    len: u64,
}

/// Gives leaders to other replicas until no node has more than its share, or nothing helps.
fn balance(led: &mut [Led], nodes: &[NodeId]) {
    let share = led.len().div_ceil(nodes.len().max(1));
    led.sort_by_key(|led| led.len);
    let mut counts: BTreeMap<NodeId, usize> = nodes.iter().map(|node| (*node, 0)).collect();
    for led in led.iter() {
        *counts.entry(led.leader).or_default() += 1;
    }
    for led in led.iter_mut() {
        let is_draining = !nodes.contains(&led.leader);
        let own = counts.get(&led.leader).copied().unwrap_or(0);
        if own <= share && !is_draining {
            continue;
        }
        let others = led.queue.wanted().iter().copied().filter(|node| nodes.contains(node));
        let least = others.min_by_key(|node| (counts.get(node).copied().unwrap_or(0), *node));
        if let Some(least) = least
            && least != led.leader
            && (is_draining || counts.get(&least).copied().unwrap_or(0) + 1 < own)
        {
            *counts.entry(led.leader).or_default() -= 1;
            *counts.entry(least).or_default() += 1;
            led.leader = least;
        }
    }
}

#[cfg(test)]
mod tests;
