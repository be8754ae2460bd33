//! Whether a world that is left alone has come to rest, and what is looked at then.

use warren_broker::metadata::replica::GROUP;
use warren_cluster::NodeId;
use warren_cluster::log::LogStore as _;
use warren_proto::record::SessionId;

use super::client::Purpose;
use super::node::NodeRun;
use super::operator::Task;
use super::world::World;

impl World {
    /// Whether a node runs, and holds every replica that it should hold as if its disk had never been lost.
    pub(super) fn has_all(&self, id: NodeId) -> bool {
        let node = &self.nodes[&id];
        let Some(run) = &node.run else { return false };
        let holds = |group| {
            let state = node.store.memory().state(group).expect("a healthy store");
            state.is_some_and(|state| !state.fresh)
        };
        let waits = run.metadata.core().is_fresh() || run.queues.values().any(|replica| replica.core().is_fresh());
        !node.store.memory().is_corrupt()
            && run.is_ready()
            && !waits
            && holds(GROUP)
            && run.groups().into_iter().all(holds)
    }

    /// Whether every node's disk holds what it ever held, or has got it back.
    pub(crate) fn is_whole(&self) -> bool {
        if self.nodes.values().any(|node| node.store.memory().is_corrupt()) {
            return false;
        }
        // A node may not know of a queue yet of which it is to have a replica.
        let pictures = self
            .nodes
            .values()
            .filter_map(|node| node.run.as_ref())
            .map(NodeRun::applied);
        let latest = pictures.max_by_key(|(applied, _)| *applied);
        let missing = latest.is_some_and(|(_, picture)| {
            picture.all_queues().filter(|queue| !queue.is_transient()).any(|queue| {
                let is_whole = |node: &NodeId| {
                    let state = self.nodes[node]
                        .store
                        .memory()
                        .state(queue.group)
                        .expect("a healthy store");
                    state.is_some_and(|state| !state.fresh && !state.removed)
                };
                !queue.is_lost() && !queue.replicas().iter().all(is_whole)
            })
        });
        !missing
            && self
                .nodes
                .values()
                .filter(|node| self.members.contains(&node.id))
                .all(|node| {
                    if node.run.is_some() {
                        return self.has_all(node.id);
                    }
                    let groups = node.store.groups().expect("a healthy store");
                    let states = groups
                        .iter()
                        .filter_map(|group| node.store.memory().state(*group).expect("a healthy store"));
                    !groups.is_empty() && states.into_iter().all(|state| !state.fresh)
                })
    }

    pub(super) fn is_at_rest(&self) -> bool {
        self.unrest().is_empty()
    }

    /// What is not yet as it must be; empty if everything is.
    pub(super) fn unrest(&self) -> String {
        let mut unrest = String::new();
        if self.task != Task::Idle {
            unrest += &format!("an operator is at {:?}; ", self.task);
        }
        let machines = self.nodes.values().filter_map(|node| node.run.as_ref());
        let machines = machines.flat_map(|run| run.queues.values().map(|replica| replica.core().machine()));
        let read_to = machines
            .filter_map(|machine| machine.stream())
            .map(|stream| stream.next())
            .max();
        for seat in &self.seats {
            let reads = seat.client.purpose == Purpose::Read && Some(seat.client.position) < read_to;
            if !seat.client.is_at_rest() || reads {
                unrest += &format!("{}; ", seat.client.describe());
                let session = seat
                    .server
                    .and_then(|(id, _, key)| self.nodes[&id].run.as_ref()?.sessions.get(&key));
                if let Some(session) = session {
                    unrest += &format!("its connection: {:?}; ", session.core.describe());
                }
            }
        }
        for (id, node) in self.nodes.iter().filter(|(id, _)| self.gone != Some(**id)) {
            let Some(run) = &node.run else {
                unrest += &format!("node {id} is down; ");
                continue;
            };
            if !run.is_ready() {
                unrest += &format!("node {id} has not joined; ");
            }
            if !self.has_all(*id) {
                unrest += &format!("node {id} has not got back what its disk held; ");
            }
            let core = run.metadata.core();
            let is_leader = core.role() == warren_cluster::group::Role::Leader;
            if is_leader && self.gone.is_none() && core.members().len() != self.nodes.len() {
                unrest += &format!(
                    "the metadata are kept by {:?} and {:?}; ",
                    core.members(),
                    core.learners()
                );
            }
            for group in run.left_over() {
                unrest += &format!("node {id} keeps group {group}, whose queue is no more; ");
            }
            for (group, replica) in &run.queues {
                let machine = replica.core().machine();
                for session in machine.sessions().filter(|session| !self.has_session(*session)) {
                    unrest += &format!("group {group} knows {session:?}, which is no more; ");
                }
                let mut stats = machine.stats();
                if machine.stream().is_some() {
                    // What is read stays.
                    stats.ready = 0;
                }
                let status = replica.core().status();
                let leads = self.leader_of(*group);
                let top = self.commit_of(*group);
                if leads != 1 {
                    let core = replica.core();
                    unrest += &format!(
                        "node {id} takes group {group} for {:?} and {:?}, fresh: {}, of {:?}; ",
                        core.members(),
                        core.learners(),
                        core.is_fresh(),
                        replica.queue().placement
                    );
                }
                if stats.ready + stats.unacked + stats.dead > 0 || leads != 1 || status.applied != top {
                    unrest += &format!("node {id} group {group} ({leads} leaders): {status:?} {stats:?}");
                    for row in machine.consumers() {
                        unrest += &format!(" consumer of {:?}: {} unsettled", row.session, row.unsettled);
                    }
                    unrest += "; ";
                }
                let core = replica.core();
                // Its own queue: what the metadata say by now.
                let reformed = run.picture().queue_by_group(*group).map_or(0, |queue| queue.reformed());
                if core.reformed() != reformed {
                    unrest += &format!(
                        "node {id} group {group} obeys decision {}, and not {reformed}; ",
                        core.reformed()
                    );
                }
                if status.role == warren_cluster::group::Role::Leader
                    && self.replicas(*group).any(|other| other.core().status().applied != top)
                {
                    let peers: Vec<_> = core
                        .members()
                        .iter()
                        .map(|peer| {
                            (
                                *peer,
                                core.is_down(*peer),
                                core.has_caught_up(*peer),
                                replica.needs_ticks(),
                            )
                        })
                        .collect();
                    unrest += &format!("node {id} leads group {group}: {status:?}, peers {peers:?}; ");
                }
                if leads == 1 && self.gone.is_none() && status.role == warren_cluster::group::Role::Leader {
                    let mut wanted = replica.queue().wanted().to_vec();
                    wanted.sort_unstable();
                    let mut members = core.members().to_vec();
                    members.sort_unstable();
                    if members != wanted || !core.learners().is_empty() || replica.queue().moves().is_some() {
                        unrest += &format!(
                            "group {group} is not where it should be: {:?} and {:?} of {:?}; ",
                            core.members(),
                            core.learners(),
                            replica.queue().placement
                        );
                    }
                }
            }
        }
        unrest
    }

    pub(super) fn has_session(&self, session: SessionId) -> bool {
        let run = self.nodes.get(&session.node).and_then(|node| node.run.as_ref());
        run.is_some_and(|run| run.has_session(session))
    }

    pub(super) fn replicas(&self, group: u64) -> impl Iterator<Item = &warren_broker::queue::replica::QueueReplica> {
        let runs = self.nodes.values().filter_map(|node| node.run.as_ref());
        runs.filter_map(move |run| run.queues.get(&group))
    }

    pub(super) fn leader_of(&self, group: u64) -> usize {
        use warren_cluster::group::Role;
        self.replicas(group)
            .filter(|replica| replica.core().role() == Role::Leader)
            .count()
    }

    pub(super) fn commit_of(&self, group: u64) -> u64 {
        self.replicas(group)
            .map(|replica| replica.core().status().last_index)
            .max()
            .unwrap_or(0)
    }

    /// What must hold once everything is at rest.
    pub(super) fn finish(&mut self) {
        for (id, node) in &self.nodes {
            let Some(run) = &node.run else { continue };
            for (group, replica) in &run.queues {
                let core = replica.core();
                self.checker.compare(*group, *id, core);
                self.checker.round_trip(*group, core.machine());
                let dropped = core.machine().stats().totals.dropped;
                let queue = replica
                    .queue()
                    .name
                    .as_str()
                    .strip_prefix("queue-")
                    .and_then(|at| at.parse().ok());
                if let Some(queue) = queue {
                    self.checker.dropped.insert(queue, dropped);
                }
            }
        }
        self.checker.end(&self.options);
    }
}
