//! Calls that add nodes to the cluster and remove them from it.

use std::collections::BTreeMap;
use std::sync::Arc;

use tokio::sync::oneshot;
use warren_cluster::NodeId;

use super::members::{BATCH, LOOK, MOVE_TIMEOUT, Move, leader_of, row};
use super::protocol::{JoinedRow, MemberRow, status};
use super::{Failure, Inner, Rows, json, shrink};
use crate::boot::node_id;
use crate::config::Address;
use crate::directory::{Description, Inbound};
use crate::metadata::actor::GROUP;
use crate::metadata::{Change, Picture, Queue, reform_of};

/// A node that was killed a moment ago counts as running still.
const END_TIMEOUT: std::time::Duration = std::time::Duration::from_secs(10);

impl Inner {
    /// A new node is to be part of the cluster, or one that was comes back without what it had.
    pub(super) async fn join(&self, name: String, address: String, directory: u64, seeds: &[MemberRow]) -> Rows {
        let refused = |text: String| Err(Failure::new(status::DATA, text));
        let node = node_id(&name);
        let comes_back = self.view.picture().comes_back(node, &name, directory);
        let group = self.describe_group().await.ok_or_else(Failure::unavailable)?;
        // Without the other one of two nothing can be agreed on: nothing is to be agreed on for it, and that it were
        // forgotten cannot have been.
        let is_needed = comes_back && group.is_pair && group.voters.contains(&node);
        if !is_needed && !self.directory.is_up_to_date() {
            return Err(Failure::new(status::TEMPORARY, "the node is waiting for its cluster"));
        }
        if address
            .parse::<Address>()
            .map_or(true, |address| address.is_unspecified())
        {
            return refused(format!("{address} is not an address that other nodes can reach"));
        }
        let names = self.names();
        if let Some(known) = names.get(&node).filter(|known| **known != name) {
            return refused(format!(
                "the name {name} has the id of node '{known}': choose another one"
            ));
        }
        let picture = self.view.picture();
        for (_, known) in picture.nodes() {
            if known
                .address
                .parse::<Address>()
                .is_ok_and(|address| address.is_unspecified())
            {
                return refused(format!(
                    "node '{}' does not say where it is reached: name it in its cluster.seeds, and start it again",
                    known.name
                ));
            }
        }
        for seed in seeds.iter().filter(|seed| seed.name != name) {
            if !names.values().any(|known| *known == seed.name) {
                let known: Vec<&str> = names.values().map(String::as_str).collect();
                return refused(format!(
                    "cluster.seeds names '{}', which is not part of the cluster of {}",
                    seed.name,
                    known.join(", ")
                ));
            }
        }
        if let Err(early) = picture.check_join()
            && !comes_back
        {
            let away = picture.nodes().filter(|(_, known)| !known.live);
            let away: Vec<&str> = away.map(|(_, known)| known.name.as_str()).collect();
            let text = match away.is_empty() {
                true => early.to_string(),
                false => format!("{early}; start or forget those that do not run: {}", away.join(", ")),
            };
            return Err(Failure::new(status::TEMPORARY, text));
        }
        if group.reformed > reform_of(picture.cluster_id()) {
            let text = "the cluster is about to go on without its majority, and does not know yet who is part of it";
            return Err(Failure::new(status::TEMPORARY, text));
        }
        if self.running().contains(&node) {
            let text = format!("node '{name}' is part of the cluster already, and runs");
            return Err(Failure::new(status::TEMPORARY, text));
        }
        let is_there = |known: &std::sync::Arc<crate::metadata::Node>| known.address == address;
        // What this node knows of one that comes back may be old: agreeing on it says whether it was forgotten.
        let is_sure = is_needed || comes_back && picture.check_join().is_err();
        if !is_sure || !picture.node(node).is_some_and(is_there) {
            self.submit(Change::JoinNode {
                node,
                name: name.clone(),
                address,
                directory,
            })
            .await?;
        }
        let picture = self.view.picture();
        let known = picture.node(node).ok_or_else(Failure::unavailable)?;
        let group = self.describe_group().await.ok_or_else(Failure::unavailable)?;
        let members = picture.nodes().map(|(_, known)| MemberRow {
            name: known.name.clone(),
            address: known.address.clone(),
        });
        tracing::info!(node = name, directory, "a node joins the cluster");
        Ok(vec![json(&JoinedRow {
            cluster_id: picture.cluster_id().to_owned(),
            era: if known.directory == directory && known.joined > 0 {
                known.joined
            } else {
                u64::MAX
            },
            reformed: group.reformed,
            members: members.collect(),
        })])
    }

    /// The metadata's replica here.
    async fn describe_group(&self) -> Option<Description> {
        let (answer_tx, answer) = oneshot::channel();
        self.directory.mailbox(GROUP)?.always(Inbound::Describe(answer_tx));
        answer.await.ok()
    }

    /// Removes a node that does not run for good: what it holds of queues goes elsewhere first.
    pub(super) async fn forget(&self, name: &str) -> Rows {
        let refused = |text: String| Err(Failure::new(status::SOFTWARE, text));
        let picture = self.view.picture();
        let Some((node, _)) = picture.nodes().find(|(_, known)| known.name == name) else {
            return refused("The node selected is not in the cluster.".to_owned());
        };
        if self.running().contains(&node) {
            return refused(format!(
                "Warren on node {name} must be stopped before it can be removed"
            ));
        }
        picture
            .check_forget(node)
            .map_err(|refusal| Failure::new(status::SOFTWARE, refusal.to_string()))?;
        self.await_end(node, name).await?;
        let rows = self.move_away(&picture, node, name).await?;
        self.submit(Change::NodeForgotten { node }).await?;
        tracing::warn!(node = name, "the node was removed from the cluster");
        let until = tokio::time::Instant::now() + MOVE_TIMEOUT;
        while self
            .describe_group()
            .await
            .is_some_and(|group| group.voters.contains(&node))
        {
            if tokio::time::Instant::now() > until {
                let text = "the node is forgotten, and votes on the metadata until more of the others can be reached";
                return Err(Failure::new(status::TEMPORARY, text));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(rows)
    }

    /// Others may hear a node that this one does not.
    async fn await_end(&self, node: NodeId, name: &str) -> Result<(), Failure> {
        let until = tokio::time::Instant::now() + END_TIMEOUT;
        while self.view.picture().node(node).is_some_and(|known| known.live) {
            if tokio::time::Instant::now() > until {
                let text =
                    format!("node {name} counts as running: stop it, or wait until none has heard it for a minute");
                return Err(Failure::new(status::TEMPORARY, text));
            }
            tokio::time::sleep(LOOK).await;
        }
        Ok(())
    }

    /// Brings the replicas that are on that node elsewhere; all, or it fails.
    async fn move_away(&self, picture: &Picture, node: NodeId, name: &str) -> Rows {
        let there: Vec<Arc<Queue>> = picture
            .all_queues()
            .filter(|queue| queue.replicas().contains(&node))
            .cloned()
            .collect();
        let named = |queue: &&Arc<Queue>| format!("'{}' in vhost '{}'", queue.name, queue.vhost);
        let list = |queues: &[&Arc<Queue>]| {
            let some: Vec<String> = queues.iter().take(20).map(named).collect();
            some.join(", ")
        };
        let only: Vec<&Arc<Queue>> = there.iter().filter(|queue| queue.wanted() == [node]).collect();
        if !only.is_empty() {
            let text = format!(
                "{} queue(s) have their only replica on node {name}; start it, or delete them: {}",
                only.len(),
                list(&only)
            );
            return Err(Failure::new(status::SOFTWARE, text));
        }
        let replicas = self.replicas_of(there.iter().map(|queue| queue.group).collect()).await;
        // A leader that has nothing to do does not notice that the others are gone.
        let leads = |queue: &&Arc<Queue>| {
            let known = replicas.get(&queue.group).map_or(&[][..], Vec::as_slice);
            leader_of(known).is_some() && self.hears_most_of(queue)
        };
        let stuck: Vec<&Arc<Queue>> = there.iter().filter(|queue| !leads(queue)).collect();
        if !stuck.is_empty() {
            let text = format!(
                "{} queue(s) have no majority of their replicas and cannot leave node {name}; start it, or have them go \
                 on with what is left (force_shrink_member_to_current_member), or delete them: {}",
                stuck.len(),
                list(&stuck)
            );
            return Err(Failure::new(status::SOFTWARE, text));
        }
        let mut load: BTreeMap<NodeId, usize> = self
            .running()
            .into_iter()
            .filter(|other| picture.node(*other).is_some_and(|known| known.live && !known.draining))
            .map(|other| (other, picture.load(other).replicas))
            .collect();
        let moves: Vec<Move> = there.iter().map(|queue| elsewhere(queue, node, &mut load)).collect();
        let mut rows = Vec::new();
        let mut failed = None;
        for batch in moves.chunks(BATCH) {
            let placed = futures_util::future::join_all(batch.iter().map(|change| self.place_one(change, true))).await;
            for (change, result) in batch.iter().zip(placed) {
                rows.push(json(&row(&change.queue, change.wanted.len(), "ok")));
                failed = result.err().map(|failure| (change.queue.clone(), failure)).or(failed);
            }
        }
        match failed {
            None => Ok(rows),
            Some((queue, failure)) => Err(Failure::new(
                failure.status,
                format!(
                    "the node is not forgotten yet; call again. Queue {}: {}",
                    named(&&queue),
                    failure.text
                ),
            )),
        }
    }

    /// Whether the nodes of a majority of the queue's replicas run, as far as this one hears.
    fn hears_most_of(&self, queue: &Queue) -> bool {
        shrink::hears_most(queue.replicas(), &self.running())
    }

    /// The replica of a queue that is here goes on alone: the majority of them is lost for good.
    pub(super) async fn force_shrink(&self, vhost: &str, name: &str) -> Rows {
        let queue = self.queue(vhost, name, status::DATA)?;
        let own = self.directory.node();
        let text = |why: &str| format!("queue '{name}' in vhost '{vhost}': {why}");
        let running = self.running();
        let replicas = self.replicas_of(vec![queue.group]).await.remove(&queue.group);
        let replicas = replicas.unwrap_or_default();
        shrink::check(own, queue.replicas(), &running, &replicas).map_err(|refusal| {
            let why = match refusal {
                shrink::Refusal::HeldElsewhere(node) => {
                    format!("node {} holds more of it: call it there", self.name_of(node))
                }
                other => other.to_string(),
            };
            Failure::new(refusal.status(), text(&why))
        })?;
        tracing::warn!(queue = %queue.resource(), "an operator has the queue go on with the replica on this node");
        let group = queue.group;
        self.submit(Change::ReformQueue {
            group,
            survivors: vec![own],
            obeyed: replicas
                .iter()
                .find(|replica| replica.node == own)
                .map(|here| here.reformed),
        })
        .await
    }
}

/// Where a queue's replicas shall be without that node: the one that holds the fewest takes its place, if there is one.
fn elsewhere(queue: &Arc<Queue>, node: NodeId, load: &mut BTreeMap<NodeId, usize>) -> Move {
    let mut wanted: Vec<NodeId> = queue.wanted().iter().copied().filter(|other| *other != node).collect();
    if queue.wanted().contains(&node) {
        let others = load.iter().filter(|(other, _)| !wanted.contains(other));
        let next = others
            .min_by_key(|(other, replicas)| (**replicas, **other))
            .map(|(other, _)| *other);
        if let Some(next) = next {
            *load.entry(next).or_default() += 1;
            wanted.push(next);
        }
    }
    let leader = match queue.preferred_leader() {
        leader if wanted.contains(&leader) => leader,
        _ => wanted.first().copied().unwrap_or(0),
    };
    Move {
        queue: queue.clone(),
        wanted,
        leader,
    }
}
