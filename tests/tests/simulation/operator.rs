//! Operators who change which nodes there are while things break: they have nodes forgotten, have the cluster go on
//! without its majority, or a queue without that of its replicas, and start the nodes that were turned away anew.
//!
//! ```text
//! forgets    stop a node ─▶ move its queues ─▶ forget it ─▶ start it as it is: it is turned away
//! recovers   stop all ─▶ write the decision on the survivors ─▶ start them, then the others as they are
//! shrinks    cut most of a queue's nodes off ─▶ the one that is left goes on ─▶ they are heard again
//! ```
//!
//! Whoever is turned away gets an empty disk and joins. What the lost nodes alone held is lost, and not missed.

use std::sync::Arc;

use warren_broker::metadata::replica::{GROUP, Recovery};
use warren_broker::metadata::{Change, MetadataMachine, Picture, Queue, reformed_id};
use warren_cluster::group::Role;
use warren_cluster::group::reform::{reform, replay};
use warren_cluster::log::LogStore as _;
use warren_cluster::{GroupId, NodeId};

use super::client::Purpose;
use super::disk::Store;
use super::node::NodeRun;
use super::world::{Event, World};

/// How often operators look.
const LOOK_US: u64 = 150_000;
/// Looks after which one gives up what cannot be done.
const PATIENCE: u32 = 80;

/// What an operator is about to do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) enum Task {
    #[default]
    Idle,
    /// A node that does not run is to be forgotten.
    Forget(NodeId),
    /// Queues of which nothing is left are deleted, and those that went on alone are to have more replicas again.
    Mend,
    /// The majority of a queue's replicas is not heard; the one on this node is to go on.
    Shrink(GroupId, NodeId),
}

impl World {
    pub(crate) fn begin_operations(&mut self) {
        if self.options.forgets || self.options.recovers || self.options.shrinks {
            let at_ms = self.operations.from(2_500, 6_000);
            self.after(1_000 * at_ms, Event::Operate);
        }
    }

    /// An operator takes the next step.
    pub(crate) fn operate(&mut self) {
        if self.task == Task::Idle && self.healed {
            return;
        }
        self.after(LOOK_US, Event::Operate);
        self.looks += 1;
        match self.task.clone() {
            Task::Idle => {
                self.end_pardons();
                self.choose_task();
            }
            Task::Forget(node) => self.forget(node),
            Task::Mend => self.mend(),
            Task::Shrink(group, node) => self.shrink(group, node),
        }
    }

    fn choose_task(&mut self) {
        if self.looks < 10 || !self.is_assembled() || self.now_us < self.calm_until_us {
            return;
        }
        let drawn = self.operations.below(3);
        let begun = match drawn {
            0 if self.options.forgets => self.begin_forget(),
            1 if self.options.recovers && !self.has_recovered => self.recover(),
            2 if self.options.shrinks => self.begin_shrink(),
            _ => false,
        };
        if begun {
            self.looks = 0;
        }
    }

    /// Any node that runs and has been taken in.
    fn some_run(&mut self) -> Option<NodeId> {
        let ready: Vec<NodeId> = self.ready_nodes();
        (!ready.is_empty()).then(|| *self.operations.pick(&ready))
    }

    pub(crate) fn ready_nodes(&self) -> Vec<NodeId> {
        let is_ready = |id: &NodeId| self.nodes[id].run.as_ref().is_some_and(NodeRun::is_ready);
        self.members.iter().copied().filter(is_ready).collect()
    }

    fn ask(&mut self, id: NodeId, change: Change) {
        if let Some(run) = self.nodes[&id].run.as_ref() {
            run.ask(change);
        }
        self.after_step(id, Ok(()));
    }

    fn begin_forget(&mut self) -> bool {
        if self.members.len() < 3 || self.ready_nodes().len() < self.members.len() || !self.is_whole() {
            return false;
        }
        let members = self.members.clone();
        let id = *self.operations.pick(&members);
        self.say(|| format!("an operator stops node {id}, which is to be forgotten"));
        self.hold(id);
        self.task = Task::Forget(id);
        true
    }

    /// Stops a node, and keeps it from beginning.
    fn hold(&mut self, id: NodeId) {
        self.nodes.get_mut(&id).expect("a known node").held = true;
        self.crash(id, true);
    }

    fn release(&mut self, id: NodeId) {
        let node = self.nodes.get_mut(&id).expect("a known node");
        node.held = false;
        node.starting = true;
        self.after(10_000, Event::Start(id));
    }

    fn forget(&mut self, id: NodeId) {
        let given_up = self.looks > PATIENCE || self.healed;
        let asked = self.some_run();
        let picture = asked.map(|asked| self.picture_of(asked));
        let is_gone = picture.as_ref().is_some_and(|picture| picture.is_gone(id));
        if given_up && !is_gone {
            self.say(|| format!("node {id} is not forgotten"));
            self.task = Task::Idle;
            self.looks = 0;
            return self.release(id);
        }
        let (Some(asked), Some(picture)) = (asked, picture) else {
            return;
        };
        if is_gone {
            self.say(|| format!("node {id} is forgotten, says node {asked}; it is started as it is"));
            self.summary.forgotten += 1;
            self.members.retain(|member| *member != id);
            self.task = Task::Idle;
            self.looks = 0;
            return self.release(id);
        }
        if picture.node(id).is_none_or(|known| known.live) {
            return;
        }
        let others: Vec<NodeId> = self.members.iter().copied().filter(|other| *other != id).collect();
        let queues: Vec<_> = picture
            .all_queues()
            .filter(|queue| queue.replicas().contains(&id))
            .cloned()
            .collect();
        let stays = queues.is_empty();
        for queue in queues.iter().filter(|queue| queue.wanted().contains(&id)) {
            let mut wanted: Vec<NodeId> = queue.wanted().iter().copied().filter(|node| *node != id).collect();
            let spare: Vec<NodeId> = others.iter().copied().filter(|node| !wanted.contains(node)).collect();
            if !spare.is_empty() {
                wanted.push(*self.operations.pick(&spare));
            }
            let leader = wanted[0];
            let group = queue.group;
            let replicas = wanted;
            self.ask(
                asked,
                Change::PlaceQueue {
                    group,
                    replicas,
                    leader,
                },
            );
        }
        if stays {
            self.nodes.get_mut(&id).expect("a known node").may_be_expelled = true;
            self.ask(asked, Change::NodeForgotten { node: id });
        }
    }

    fn picture_of(&self, id: NodeId) -> Arc<Picture> {
        self.nodes[&id].run.as_ref().expect("it runs").picture()
    }

    /// The majority is lost for good, all at once.
    fn recover(&mut self) -> bool {
        let members = self.members.clone();
        if members.len() < 3 || self.ready_nodes().len() < members.len() || !self.is_whole() {
            return false;
        }
        let most = (members.len() - 1).div_euclid(2).min(2) as u64;
        let count = self.operations.from(1, most) as usize;
        let mut left = members.clone();
        while left.len() > count {
            let at = self.operations.below(left.len() as u64) as usize;
            left.remove(at);
        }
        for id in &members {
            self.hold(*id);
        }
        // As `warrenctl recover_lost_majority` does.
        let mut decided = Vec::new();
        for id in &left {
            let store = self.nodes[id].store.clone();
            let state = store
                .state(GROUP)
                .expect("a healthy store")
                .filter(|state| !state.fresh && !state.removed);
            let Some(state) = state else { break };
            let mut machine = MetadataMachine::new();
            replay(&*store, GROUP, &state, &mut machine).expect("a healthy store");
            let picture = machine.picture();
            let voters = picture.nodes().filter(|(_, known)| known.run.incarnation > 0).count();
            let knows = left.iter().all(|other| picture.node(*other).is_some());
            if picture.cluster_id().is_empty() || 2 * left.len() > voters || !knows {
                break;
            }
            let (cluster_id, era) = reformed_id(picture.cluster_id(), left.iter().fold(0, |id, node| id << 8 | node));
            decided.push((*id, store, reform(&state, GROUP, &left, era), cluster_id));
        }
        let is_one = decided.iter().all(|(.., cluster_id)| *cluster_id == decided[0].3);
        if decided.len() < left.len() || !is_one {
            for id in &members {
                self.release(*id);
            }
            return true;
        }
        self.say(|| format!("the cluster goes on with {left:?}, and without the others of {members:?}"));
        self.has_recovered = true;
        self.summary.recoveries += 1;
        for (id, store, writes, cluster_id) in decided {
            store.write(&writes, true).expect("a healthy store");
            self.nodes.get_mut(&id).expect("a known node").recovery = Some(Recovery {
                survivors: left.clone(),
                until: 0,
                cluster_id,
            });
            let pause = self.operations.from(1_000, 500_000);
            self.nodes.get_mut(&id).expect("a known node").held = false;
            self.after(pause, Event::Start(id));
        }
        self.checker.pardon_all();
        for seat in &mut self.seats {
            if seat.client.purpose == Purpose::Read {
                seat.client.position = 0;
            }
        }
        for id in members.iter().copied().filter(|id| !left.contains(id)) {
            let node = self.nodes.get_mut(&id).expect("a known node");
            node.may_be_expelled = true;
            node.held = false;
            let pause = self.operations.from(1_000, 3_000_000);
            self.after(pause, Event::Start(id));
        }
        self.members = left;
        self.task = Task::Mend;
        true
    }

    /// After the survivors went on.
    fn mend(&mut self) {
        let Some(asked) = self.some_run() else { return };
        let picture = self.picture_of(asked);
        let lost: Vec<GroupId> = picture
            .all_queues()
            .filter(|queue| queue.is_lost())
            .map(|queue| queue.group)
            .collect();
        for group in &lost {
            self.say(|| format!("group {group} is deleted: nothing is left of it"));
            self.ask(asked, Change::DeleteQueue { group: *group });
        }
        if self.members.len() < self.options.nodes as usize {
            return;
        }
        let few: Vec<GroupId> = picture
            .all_queues()
            .filter(|queue| !queue.is_transient() && !queue.is_lost() && queue.wanted().len() < 3)
            .map(|queue| queue.group)
            .collect();
        for group in &few {
            let replicas: Vec<NodeId> = self.members.iter().copied().take(3).collect();
            let leader = replicas[0];
            let group = *group;
            self.ask(
                asked,
                Change::PlaceQueue {
                    group,
                    replicas,
                    leader,
                },
            );
        }
        if lost.is_empty() && few.is_empty() {
            self.task = Task::Idle;
            self.looks = 0;
        }
    }

    /// Most of a queue's nodes are cut off from all others, or stopped.
    fn begin_shrink(&mut self) -> bool {
        let Some(asked) = self.some_run() else { return false };
        if self.members.len() < 5 || !self.is_whole() {
            return false;
        }
        let picture = self.picture_of(asked);
        let is_plain = |name: &str| {
            let at: Option<usize> = name.strip_prefix("queue-").and_then(|at| at.parse().ok());
            at.is_some_and(|at| self.options.queues[at].letters.is_none())
        };
        let queues: Vec<_> = picture
            .all_queues()
            .filter(|queue| queue.replicas().len() == 3 && queue.moves().is_none() && is_plain(&queue.name))
            .cloned()
            .collect();
        if queues.is_empty() {
            return false;
        }
        let queue = self.operations.pick(&queues).clone();
        let replicas = queue.replicas().to_vec();
        let own = *self.operations.pick(&replicas);
        let away: Vec<NodeId> = replicas.iter().copied().filter(|node| *node != own).collect();
        let for_us = 1_000 * self.operations.from(2_000, 9_000);
        self.say(|| format!("{away:?} are cut off, and with them most of group {}", queue.group));
        let mut pairs = Vec::new();
        for node in &away {
            for other in self.nodes.keys().copied().filter(|other| !away.contains(other)) {
                pairs.extend([(*node, other), (other, *node)]);
            }
        }
        self.block_for(pairs, for_us);
        self.task = Task::Shrink(queue.group, own);
        true
    }

    /// As `warrenctl force_shrink_member_to_current_member` does.
    fn shrink(&mut self, group: GroupId, own: NodeId) {
        if self.looks > PATIENCE / 2 || self.healed {
            self.task = Task::Idle;
            self.looks = 0;
            return;
        }
        let Some(run) = self.nodes[&own].run.as_ref().filter(|run| run.is_ready()) else {
            return;
        };
        let picture = run.picture();
        let Some(queue) = picture.queue_by_group(group).cloned() else {
            return self.end_shrink();
        };
        if queue.founders() == [own] && queue.reformed() > 0 {
            self.say(|| format!("group {group} goes on with node {own}"));
            self.summary.shrunk += 1;
            return self.end_shrink();
        }
        let hears = |node: NodeId| node == own || run.liveness.state(node).is_some_and(|state| state.is_up());
        let heard = queue.replicas().iter().filter(|node| hears(**node)).count();
        let here = run.queues.get(&group).filter(|replica| !replica.core().is_fresh());
        let Some(here) = here.filter(|_| 2 * heard <= queue.replicas().len()) else {
            return;
        };
        let (last_index, obeyed) = (here.core().status().last_index, here.core().reformed());
        let holds_more = |node: &&NodeId| {
            let other = self.nodes[node].run.as_ref().and_then(|run| run.queues.get(&group));
            hears(**node) && other.is_some_and(|other| other.core().status().commit > last_index)
        };
        if queue.replicas().iter().find(holds_more).is_some() {
            return;
        }
        if !self.looks.is_multiple_of(8) {
            // What was asked for may be on its way.
            return;
        }
        let at = queue
            .name
            .as_str()
            .strip_prefix("queue-")
            .and_then(|at| at.parse().ok());
        let at: usize = at.expect("a queue of the workload");
        self.asked.insert(at, obeyed);
        self.checker.pardon(at);
        let change = Change::ReformQueue {
            group,
            survivors: vec![own],
            obeyed: Some(obeyed),
        };
        self.ask(own, change);
    }

    /// Looks which queues that went on alone have all their replicas again, and nobody who was cut off.
    fn end_pardons(&mut self) {
        let runs = self.nodes.values().filter_map(|node| node.run.as_ref());
        let Some((_, picture)) = runs.map(NodeRun::applied).max_by_key(|(applied, _)| *applied) else {
            return;
        };
        let is_mended = |at: &usize| {
            let Some(queue) = picture.queue("/", &format!("queue-{at}")) else {
                return false;
            };
            let obeys = |id: &NodeId| {
                let run = self.nodes[id].run.as_ref().filter(|run| run.is_ready());
                run.is_some_and(|run| {
                    let here = run.queues.get(&queue.group).map(|replica| replica.core());
                    here.is_some() == queue.replicas().contains(id)
                        && here.is_none_or(|core| core.reformed() == queue.reformed() && !core.is_fresh())
                })
            };
            let is_whole = queue.moves().is_none() && queue.replicas().len() >= 3 && queue.reformed() > 0;
            let is_done = self.asked.get(at).is_none_or(|obeyed| queue.reformed() > *obeyed);
            is_done && is_whole && self.members.iter().all(obeys)
        };
        let mended: Vec<usize> = self.checker.pardoned().filter(is_mended).collect();
        if !mended.is_empty() {
            self.say(|| format!("queues {mended:?} are whole again"));
            self.checker.end_pardons(&mended);
        }
    }

    fn end_shrink(&mut self) {
        // It is to have more replicas again, also on those that were given up.
        self.task = Task::Mend;
        self.looks = 0;
    }

    /// A node was turned away for good. Its operator gives it an empty disk, and has it join.
    pub(crate) fn expel(&mut self, id: NodeId, why: &str) {
        self.say(|| format!("node {id} {why}"));
        let node = &self.nodes[&id];
        if !node.may_be_expelled {
            return self.checker.fail(format!("node {id} {why}, and was never to go"));
        }
        self.summary.expelled += 1;
        self.members.retain(|member| *member != id);
        self.crash(id, true);
        let mutation = self.mutation;
        let node = self.nodes.get_mut(&id).expect("a known node");
        node.store = Store::new(mutation);
        node.directory = 0;
        node.joined = None;
        node.recovery = None;
        node.is_late = true;
        // Whoever asked for it to be forgotten may have asked more than once.
        node.may_be_expelled = self.options.forgets;
    }

    /// Whether every group has a leader that knows of so many voters.
    pub(crate) fn is_spread(&self, least: usize) -> bool {
        let runs = || self.nodes.values().filter_map(|node| node.run.as_ref());
        let leads = runs().find(|run| run.metadata.core().role() == Role::Leader);
        let Some(leads) = leads else { return false };
        // While a third one is about to join, each of two is needed. One that is forgotten counts until it votes no more.
        let is_safe = |members: &[NodeId], learners: &[NodeId]| {
            let is_there = |node: &NodeId| self.members.contains(node);
            members.iter().all(is_there) && members.len() >= least && (members.len() > 2 || learners.is_empty())
        };
        let queues = leads.applied().1.all_queues().filter(|queue| !queue.is_transient());
        let is_led = |queue: &Arc<Queue>| {
            let replicas = runs()
                .filter_map(|run| run.queues.get(&queue.group))
                .map(|replica| replica.core());
            let mut leaders = replicas.filter(|core| core.role() == Role::Leader).peekable();
            let is_settled = queue.moves().is_none() && queue.replicas().len() >= least;
            // Those that were given up may not know it yet.
            leaders.peek().is_some()
                && is_settled
                && leaders.all(|core| is_safe(core.members(), core.learners()) && core.reformed() == queue.reformed())
        };
        let core = leads.metadata.core();
        is_safe(core.members(), core.learners()) && queues.into_iter().all(is_led)
    }

    /// Whether all nodes have come that the cluster is to have; clients and faults wait for it.
    pub(crate) fn is_assembled(&mut self) -> bool {
        let is_one = |id: &NodeId| self.nodes[id].run.as_ref().is_some_and(NodeRun::is_ready);
        self.assembled |= !self.options.founds_alone
            || self.members.len() >= self.options.nodes as usize
                && self.members.iter().all(is_one)
                && self.is_spread(self.options.nodes as usize);
        self.assembled
    }
}
