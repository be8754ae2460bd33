//! This node's replica of the metadata: applies what the group agreed on, publishes it, and says which queues and
//! exchanges are to run here.
//!
//! ```text
//! MetadataClient ─Submit─▶ MetadataReplica ─▶ leader's log ─▶ apply here ─▶ Round: exchanges ─▶ View ─▶ peers' barriers ─▶ answer
//! ```
//!
//! A change is answered only when every reachable node has applied it: what one node was told holds on all of them.
//! A request is repeated until its answer comes out of the log, so it may be applied twice; changes allow that.
//!
//! No actor and no clock: its shell, `actor.rs`, feeds it what comes, tells it the time and carries its rounds out.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use actix::Message;
use bytes::Bytes;
use tokio::sync::oneshot;
use warren_cluster::group::shell::{GroupShell, Io, Output};
use warren_cluster::group::{self, Error, Event, GroupCore, Options, Role};
use warren_cluster::log::{Write, writer};
use warren_cluster::transport::{Membership, Met, Peer, PeerState, Port};
use warren_cluster::{GroupId, NodeId};
use warren_proto::node::{Barrier, BarrierPassed, node_message::Kind};

use super::client::{MetadataClient, Submit};
use super::{Bootstrap, Change, Effect, Exchange, MetadataMachine, Outcome, Picture, Queue, Request, Run};
use crate::amqp::ReplyCode;
use crate::directory::{Deleted, Directory, Inbound, SessionEvent};
use crate::exchange::actor::Update;

mod nodes;
mod queues;
mod standing;

pub use standing::Conflict;

/// The metadata's group.
pub const GROUP: GroupId = 1;

/// Ticks after which an unanswered request is sent again.
const REPEAT_TICKS: u32 = 5;
/// Ticks after which whoever waits for an answer is told that none came.
const WAIT_TICKS: u32 = 100;
/// Ticks after which an answer no longer waits for nodes that are reachable but do not apply.
const BARRIER_TICKS: u32 = 50;
/// Ticks after which the end of a node's run is asked for again, while the metadata still count it as alive.
const REPEAT_END_TICKS: u32 = 50;
/// Ticks after which queues that may not know it are told again which sessions have ended.
const ENDS_TICKS: u32 = 10;
/// Of so many of these occasions, one is for looking whether a new version of entries can be agreed on.
const RAISE_ROUNDS: u32 = 3;
/// Ticks in which a node that holds nothing begins no cluster, though all others that would begin it hold nothing either.
const FOUNDS_AFTER_TICKS: u64 = 10;
/// Requests of this node that may be waiting.
const WAITING_MAX: usize = 65_536;

/// What the replica needs of the node around it.
pub struct Setup {
    /// The handle on this very replica.
    pub client: MetadataClient,
    /// Where everything is.
    pub directory: Arc<Directory>,
    /// For the group.
    pub io: Io,
    /// The voters that the metadata group began with; none if this node joined it later.
    pub members: Vec<NodeId>,
    /// Other nodes that are known from elsewhere than the metadata.
    pub peers: Vec<Peer>,
    /// The decision by which this node joined; the greatest number if it was part of the cluster from the beginning.
    pub era: u64,
    /// See [`Options::reformed`].
    pub reformed: u64,
    /// Ticks after which a node that holds nothing begins a cluster by itself. Others that know of one are to find it
    /// before: longer than they pause in between.
    pub founds_alone_after_ticks: u64,
    /// What is told to other nodes of the cluster.
    pub membership: Membership,
    /// What an operator decided when the majority was lost, if that was the latest that was decided here.
    pub recovery: Option<Recovery>,
    /// What the first leader ever makes of an empty cluster.
    pub bootstrap: Bootstrap,
    /// This run, its name and its address.
    pub announce: (Run, String, String),
    /// Ticks after which a node that was not reachable counts as ended: its sessions' messages go back.
    pub silent_ticks: u32,
    /// Bounds of the group.
    pub options: Options,
}

/// The cluster goes on with what these nodes hold, and without the others.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Recovery {
    pub survivors: Vec<NodeId>,
    /// See [`Change::Reform`].
    pub until: u64,
    /// What the cluster is called since: once it is, nothing is left to do.
    pub cluster_id: String,
}

/// What reaches the replica from other nodes, beside its group's messages.
#[derive(Message, Clone, Debug)]
#[rtype(result = "()")]
pub enum News {
    /// About a peer's run, from the transport.
    Peer {
        /// The peer.
        node: NodeId,
        /// Its state now.
        state: PeerState,
    },
    /// What another node says of its cluster.
    Met(Met),
    /// A node waits, for a client's sake, until this one has applied an entry.
    BarrierAsked(NodeId, Barrier),
    /// A node has applied the entry that this one waited for.
    BarrierPassed(NodeId, BarrierPassed),
}

/// What is to become of an exchange's actor.
#[derive(Clone, Debug)]
pub enum ExchangeStep {
    /// Every exchange ends: the whole state was replaced.
    Reset,
    /// This one begins, without bindings.
    Begin(Arc<Exchange>),
    /// The one with this id ends.
    End(u64),
}

/// What applied entries call for. First the exchanges, in order; then their updates, each exchange's in order; once
/// readers see those, [`MetadataReplica::published`].
#[must_use]
pub struct Round {
    /// Exchanges that begin and end.
    pub exchanges: Vec<ExchangeStep>,
    /// Changes of bindings by exchange.
    pub updates: Updates,
    /// What to publish then.
    pub applied: Applied,
}

/// The rest of a [`Round`].
#[must_use]
pub struct Applied {
    picture: Picture,
    index: u64,
    answers: Vec<(oneshot::Sender<Outcome>, Outcome)>,
}

/// Changes of bindings by exchange.
pub type Updates = BTreeMap<u64, Vec<Update>>;

struct Waiter {
    command: Bytes,
    answer: Option<oneshot::Sender<Outcome>>,
    age: u32,
}

/// Answers that wait until `nodes` have applied the entry.
struct Waiting {
    nodes: BTreeSet<NodeId>,
    answers: Vec<(oneshot::Sender<Outcome>, Outcome)>,
    age: u32,
}

/// See the module.
pub struct MetadataReplica {
    setup: Setup,
    shell: GroupShell<MetadataMachine>,
    outputs: Vec<Output<Effect>>,
    pending: Vec<Bytes>,
    role: Role,
    requests: BTreeMap<u64, Waiter>,
    barriers: BTreeMap<u64, Waiting>,
    next_barrier: u64,
    /// Other nodes' barriers that this replica has not reached.
    asked: Vec<(NodeId, Barrier)>,
    /// The log position of the published view.
    published: u64,
    /// The queues that run here, and the decision that brought each of them.
    queues: BTreeMap<GroupId, u64>,
    /// Those that this run has begun, until it has been taken in.
    begun: BTreeSet<GroupId>,
    /// Queues to start, or to tell where they shall be, once the view shows it.
    declared: Vec<Arc<Queue>>,
    /// Queues that are to be told of their settings, once the view shows them.
    configured: Vec<Arc<Queue>>,
    /// Queues to start here as soon as what an earlier replica had is deleted.
    delayed: BTreeMap<GroupId, Arc<Queue>>,
    /// Queues that were deleted while what a removed replica had here was still being deleted: it leaves something.
    dropping: BTreeSet<GroupId>,
    /// Queues that went on without the majority of their replicas, once the view shows it.
    reformed: Vec<GroupId>,
    /// Nodes of which the view will show that they begin to drain, or do not any more.
    drains: Vec<NodeId>,
    /// Which nodes there are may not be what the transport was told.
    nodes_changed: bool,
    /// Queues whose sessions are to be told, once the view no longer shows them.
    gone: Vec<GroupId>,
    peers: BTreeMap<NodeId, PeerState>,
    /// For how many ticks a node that counts as alive was not reachable.
    absent: BTreeMap<NodeId, u32>,
    joined: bool,
    /// See [`Change::NodeUp`].
    sessions_from: u64,
    /// What others have said last of their cluster.
    met: BTreeMap<NodeId, Met>,
    /// Ticks in which nobody counted this node as one of its own.
    uncounted: u32,
    /// See [`MetadataReplica::conflict`].
    conflict: Option<Conflict>,
    ticks: u32,
    /// How often [`ENDS_TICKS`] have passed.
    rounds: u32,
}

impl MetadataReplica {
    /// Opens the replica. [`MetadataReplica::begin`] must follow.
    pub fn open(setup: Setup) -> Result<Self, Error> {
        let machine = MetadataMachine::new();
        let options = Options {
            // Whether there was a cluster before, only the other members can tell.
            fresh: true,
            founds_after_ticks: match setup.members == [setup.io.node] {
                true => setup.founds_alone_after_ticks,
                false => FOUNDS_AFTER_TICKS,
            },
            era: setup.era,
            reformed: setup.reformed,
            ..setup.options.clone()
        };
        let shell = GroupShell::open(setup.io.clone(), GROUP, &setup.members, machine, options)?;
        check_agreed(&setup, shell.core())?;
        Ok(Self {
            setup,
            shell,
            outputs: Vec::new(),
            pending: Vec::new(),
            role: Role::Follower,
            requests: BTreeMap::new(),
            barriers: BTreeMap::new(),
            next_barrier: 1,
            asked: Vec::new(),
            published: 0,
            queues: BTreeMap::new(),
            begun: BTreeSet::new(),
            declared: Vec::new(),
            configured: Vec::new(),
            delayed: BTreeMap::new(),
            dropping: BTreeSet::new(),
            reformed: Vec::new(),
            drains: Vec::new(),
            nodes_changed: true,
            gone: Vec::new(),
            peers: BTreeMap::new(),
            absent: BTreeMap::new(),
            joined: false,
            sessions_from: 0,
            met: BTreeMap::new(),
            uncounted: 0,
            conflict: None,
            ticks: 0,
            rounds: 0,
        })
    }

    /// Makes this run known to the cluster, and begins with the state as stored.
    pub fn begin(&mut self) -> Round {
        self.shell.look_around();
        if self.shell.core().members() == [self.setup.directory.node()] {
            self.shell.handle(Event::Campaign);
        }
        self.announce();
        let mut round = self.round();
        self.restored(&mut round);
        self.finish(round)
    }

    /// The group inside, for reads.
    pub fn core(&self) -> &GroupCore<MetadataMachine> {
        self.shell.core()
    }

    /// Whether the metadata have taken this run in.
    pub fn has_joined(&self) -> bool {
        self.joined
    }

    /// Does what has become due. The round that comes out must be carried out before anything else goes in.
    pub fn drive(&mut self, now_ms: u64) -> Result<Option<Round>, Error> {
        if self.role == Role::Leader && !self.pending.is_empty() {
            match self.shell.propose(&self.pending, now_ms) {
                Ok(()) => self.pending.clear(),
                // Requests are repeated by those who made them.
                Err(error) => {
                    tracing::debug!(%error, "metadata changes not proposed");
                    self.pending.clear();
                }
            }
        }
        self.shell.poll(&mut self.outputs)?;
        let starts = self.end_delays();
        if self.outputs.is_empty() && !starts {
            return Ok(None);
        }
        let outputs = std::mem::take(&mut self.outputs);
        check_agreed(&self.setup, self.shell.core())?;
        Ok(self.perform(outputs, starts))
    }

    fn round(&self) -> Round {
        Round {
            exchanges: Vec::new(),
            updates: Updates::new(),
            applied: Applied {
                picture: Picture::default(),
                index: 0,
                answers: Vec::new(),
            },
        }
    }

    /// The round as it stands after the last applied entry.
    fn finish(&self, mut round: Round) -> Round {
        round.applied.index = self.shell.core().status().applied;
        round.applied.picture = self.shell.core().machine().picture().clone();
        round
    }

    /// Whether queues can start that could not before. What removed replicas of deleted queues have left goes.
    fn end_delays(&mut self) -> bool {
        let mut ends = false;
        let directory = &self.setup.directory;
        let is_over = |group: &GroupId| !directory.is_retiring(*group);
        let over: Vec<GroupId> = self.dropping.iter().copied().filter(is_over).collect();
        for group in over {
            self.dropping.remove(&group);
            self.drop_legacy(group);
        }
        let directory = &self.setup.directory;
        let declared = &mut self.declared;
        self.delayed.retain(|group, queue| {
            let waits = directory.is_retiring(*group);
            if !waits {
                declared.push(queue.clone());
                ends = true;
            }
            waits
        });
        ends
    }

    fn perform(&mut self, outputs: Vec<Output<Effect>>, mut applied: bool) -> Option<Round> {
        let mut round = self.round();
        for output in outputs {
            match output {
                Output::Role { role, .. } => self.entered(role),
                Output::Members => {}
                Output::Restored => {
                    applied = true;
                    self.restored(&mut round);
                    self.find_own_run();
                }
                Output::Machine(effect) => {
                    applied = true;
                    self.effect(effect, &mut round);
                }
            }
        }
        if applied {
            return Some(self.finish(round));
        }
        // Entries without effects count as well for those who wait for their index.
        self.published = self.published.max(self.shell.core().status().applied);
        self.answer_barriers();
        None
    }

    /// Publishes what a round applied. Answers the queues to start here; [`MetadataReplica::drive`] must follow.
    pub fn published(&mut self, applied: Applied) -> Vec<Arc<Queue>> {
        let Applied {
            picture,
            index,
            answers,
        } = applied;
        self.agree(picture.version());
        self.setup.client.view().publish(picture);
        self.take_stand();
        self.published = index;
        self.answer_barriers();
        if std::mem::take(&mut self.nodes_changed) {
            self.tell_nodes();
        }
        let started = self.start_and_end_queues();
        self.wait_for_peers(index, answers);
        started
    }

    fn effect(&mut self, effect: Effect, round: &mut Round) {
        match effect {
            Effect::Answer { request, outcome } => {
                if request.node == self.setup.directory.node()
                    && request.incarnation == self.setup.directory.incarnation()
                    && let Some(waiter) = self.requests.remove(&request.id)
                    && let Some(answer) = waiter.answer
                {
                    round.applied.answers.push((answer, outcome));
                }
            }
            Effect::ExchangeDeclared(exchange) => round.exchanges.push(ExchangeStep::Begin(exchange)),
            Effect::ExchangeDeleted(exchange) => round.exchanges.push(ExchangeStep::End(exchange.id)),
            Effect::Bound { exchange, binding } => {
                let updates = round.updates.entry(exchange.id).or_default();
                updates.push(Update::Bound(binding));
            }
            Effect::Unbound { exchange, binding } => {
                let updates = round.updates.entry(exchange.id).or_default();
                updates.push(Update::Unbound(binding));
            }
            Effect::QueueDeclared(queue) | Effect::QueuePlaced(queue) => {
                let known = self.setup.client.view().queue_by_group(queue.group);
                if known.is_some_and(|known| known.reformed() < queue.reformed()) {
                    self.reformed.push(queue.group);
                }
                self.declared.push(queue);
            }
            Effect::QueueConfigured(queue) => self.configured.push(queue),
            Effect::QueueDeleted(queue) => {
                self.delayed.remove(&queue.group);
                if self.queues.remove(&queue.group).is_none() && !queue.is_transient() {
                    self.drop_legacy(queue.group);
                }
                // One that comes and goes in one round never starts.
                self.declared.retain(|declared| declared.group != queue.group);
                self.gone.push(queue.group);
            }
            Effect::NodeDrains(node) => self.drains.push(node),
            Effect::NodesChanged => self.nodes_changed = true,
            Effect::NodeUp(run) => {
                if run == self.setup.announce.0 {
                    self.has_been_taken_in();
                }
                let known = self.shell.core().machine().picture();
                let known = known.nodes().find(|(_, node)| node.run == run);
                let from = known.map_or(0, |(_, node)| node.sessions_from);
                self.setup.directory.run_returned(run.node, run.incarnation, from);
                self.run_ended(Run {
                    node: run.node,
                    incarnation: run.incarnation.saturating_sub(1),
                });
                // It may be the one that was waited for.
                self.raise_version();
            }
            Effect::NodeDown(run) => {
                self.run_ended(run);
                if run.node == self.setup.announce.0.node && run.incarnation >= self.setup.announce.0.incarnation {
                    self.rejoin();
                }
            }
            Effect::VhostDeleted(name) => self.close_connections(&Deleted::Vhost(name)),
            Effect::UserDeleted(name) => self.close_connections(&Deleted::User(name)),
        }
    }

    /// Tells every connection of this node; those that it concerns close.
    fn close_connections(&self, deleted: &Deleted) {
        for session in self.setup.directory.session_mailboxes().0 {
            // Deleting is an operator's work, and most connections do nothing.
            session.always(SessionEvent::Deleted(deleted.clone()));
        }
    }

    /// The others have given this run up: what its clients held was given to others.
    fn rejoin(&mut self) {
        tracing::warn!("the cluster counted this node as down; its clients' sessions have ended");
        let (sessions, next) = self.setup.directory.session_mailboxes();
        // What they sent may still be on its way when this run counts as alive again.
        self.sessions_from = next;
        for session in sessions {
            // One message for each connection, which ends with it.
            let text = "the node was cut off from its cluster".into();
            session.always(SessionEvent::Close {
                code: ReplyCode::ConnectionForced,
                text,
            });
        }
        self.announce();
    }

    fn announce(&self) {
        let (run, name, address) = self.setup.announce.clone();
        self.setup.client.submit_later(Change::NodeUp {
            run,
            name,
            address,
            directory: self.setup.io.directory,
            version: self.setup.io.versions.supported(),
            sessions_from: self.sessions_from,
        });
    }

    fn write(&self, writes: Vec<Write>, done: Option<writer::Done>) {
        // A stopped writer has reported why; the node is on its way down.
        let _ = self.setup.io.writer.submit(writer::Request {
            writes,
            sync: done.is_some(),
            done,
        });
    }

    /// The state came as a whole: what it says of this run was not told as entries.
    fn find_own_run(&mut self) {
        let own = self.setup.announce.0;
        let picture = self.shell.core().machine().picture();
        let known = picture.nodes().find(|(id, _)| *id == own.node);
        let known = known.map(|(_, node)| (node.run.incarnation, node.live));
        match known {
            Some((incarnation, true)) if incarnation == own.incarnation => self.has_been_taken_in(),
            Some((incarnation, _)) if incarnation >= own.incarnation => self.rejoin(),
            // Its announcement is repeated until it is answered.
            Some(_) | None => {}
        }
    }

    fn run_ended(&self, run: Run) {
        self.setup.directory.run_concluded(run.node, run.incarnation);
        for mailbox in self.setup.directory.mailboxes() {
            mailbox.always(Inbound::RunEnded {
                node: run.node,
                incarnation: run.incarnation,
            });
        }
    }

    /// What a state that came as a whole has changed, as if its entries had come one by one.
    fn restored(&mut self, round: &mut Round) {
        let picture = self.shell.core().machine().picture().clone();
        let mut effects = Vec::new();
        picture.changes_since(&self.setup.client.view().picture(), &mut effects);
        // What earlier entries of this round have changed is among it.
        round.exchanges = vec![ExchangeStep::Reset];
        round.updates.clear();
        self.declared.clear();
        self.configured.clear();
        for effect in effects {
            if !matches!(effect, Effect::ExchangeDeleted(_)) {
                self.effect(effect, round);
            }
        }
        for (id, node) in picture.nodes() {
            let (directory, incarnation) = (&self.setup.directory, node.run.incarnation);
            if node.live {
                directory.run_returned(id, incarnation, node.sessions_from);
            } else {
                directory.run_concluded(id, incarnation);
            }
        }
    }

    fn entered(&mut self, role: Role) {
        let was = std::mem::replace(&mut self.role, role);
        if role != Role::Leader || was == Role::Leader {
            return;
        }
        tracing::info!("leads the cluster's metadata");
        if !self.shell.core().machine().picture().is_bootstrapped() {
            self.setup
                .client
                .submit_later(Change::Bootstrap(self.setup.bootstrap.clone()));
        }
        if let Some(recovery) = self.recovers(self.shell.core().machine().picture()) {
            let Recovery {
                survivors,
                until,
                cluster_id,
            } = recovery.clone();
            tracing::warn!(?survivors, "has the cluster go on without the nodes that were lost");
            self.setup.client.submit_later(Change::Reform {
                survivors,
                until,
                cluster_id,
            });
        }
        // What it was not told of as leader is found by its ticks.
        self.absent.clear();
    }

    /// Answers once every reachable peer has applied `index`.
    fn wait_for_peers(&mut self, index: u64, answers: Vec<(oneshot::Sender<Outcome>, Outcome)>) {
        if answers.is_empty() {
            return;
        }
        let core = self.shell.core();
        let picture = core.machine().picture();
        // One that is about to join serves no client yet.
        let serves = |node: NodeId| core.members().contains(&node) || picture.node(node).is_some_and(|node| node.live);
        let nodes: BTreeSet<NodeId> = self
            .peers
            .iter()
            .filter(|(node, state)| state.is_up() && serves(**node))
            .map(|(node, _)| *node)
            .collect();
        if nodes.is_empty() {
            respond(answers);
            return;
        }
        let request = self.next_barrier;
        self.next_barrier += 1;
        for node in &nodes {
            self.setup
                .directory
                .tell(*node, Kind::Barrier(Barrier { index, request }));
        }
        self.barriers.insert(request, Waiting { nodes, answers, age: 0 });
    }

    fn passed(&mut self, node: NodeId, request: u64) {
        let Some(waiting) = self.barriers.get_mut(&request) else {
            return;
        };
        waiting.nodes.remove(&node);
        if waiting.nodes.is_empty()
            && let Some(waiting) = self.barriers.remove(&request)
        {
            respond(waiting.answers);
        }
    }

    fn answer_barriers(&mut self) {
        let published = self.published;
        let directory = &self.setup.directory;
        self.asked.retain(|(node, barrier)| {
            let reached = barrier.index <= published;
            if reached {
                directory.tell(
                    *node,
                    Kind::BarrierPassed(BarrierPassed {
                        request: barrier.request,
                    }),
                );
            }
            !reached
        });
    }

    fn forward(&mut self, command: Bytes) {
        match self.shell.core().leader() {
            Some(leader) if leader == self.setup.directory.node() => self.pending.push(command),
            Some(leader) => {
                // What the link does not take is sent again by the next ticks.
                let _ = self.setup.directory.post(leader, Port::METADATA, GROUP, command);
            }
            None => {}
        }
    }

    /// 100 ms have passed. [`MetadataReplica::drive`] must follow.
    pub fn tick(&mut self) {
        self.ticks += 1;
        if self.ticks >= ENDS_TICKS {
            self.ticks = 0;
            self.setup.directory.repeat_ends();
            self.hand_over();
            self.rounds += 1;
            if self.rounds.is_multiple_of(RAISE_ROUNDS) {
                self.raise_version();
            }
        }
        let mut again = Vec::new();
        self.requests.retain(|_, waiter| {
            waiter.age += 1;
            if waiter.age % REPEAT_TICKS == 0 {
                again.push(waiter.command.clone());
            }
            waiter.answer.is_none() || waiter.age < WAIT_TICKS
        });
        for command in again {
            self.forward(command);
        }
        let mut late = Vec::new();
        for (request, waiting) in &mut self.barriers {
            waiting.age += 1;
            if waiting.age >= BARRIER_TICKS {
                late.push(*request);
            }
        }
        for request in late {
            if let Some(waiting) = self.barriers.remove(&request) {
                tracing::warn!(nodes = ?waiting.nodes, "nodes are slow to apply a metadata change");
                respond(waiting.answers);
            }
        }
        self.watch_nodes();
        self.look_for_cluster();
        self.shell.handle(Event::Tick);
        self.steer();
    }

    /// Has the end of runs that still count as alive agreed on: of those that have certainly ended, and of those that
    /// this node could not reach for long, whether it ever could or not.
    fn watch_nodes(&mut self) {
        let picture = self.setup.client.view().picture();
        let own = self.setup.directory.node();
        let mut absent = std::mem::take(&mut self.absent);
        absent.retain(|id, _| picture.nodes().any(|(node, known)| node == *id && known.live));
        for (id, known) in picture.nodes().filter(|(id, known)| known.live && *id != own) {
            let run = known.run;
            let ended = match self.peers.get(&id) {
                Some(PeerState::Up { .. }) => {
                    absent.remove(&id);
                    continue;
                }
                Some(PeerState::Dead { incarnation }) => *incarnation >= run.incarnation,
                Some(PeerState::Silent { .. }) | None => false,
            };
            let ticks = absent.entry(id).or_default();
            *ticks = ticks.saturating_add(1);
            let since = if ended {
                ticks.saturating_sub(1)
            } else if *ticks >= self.setup.silent_ticks {
                *ticks - self.setup.silent_ticks
            } else {
                continue;
            };
            if since % REPEAT_END_TICKS == 0 {
                self.end_run(run);
            }
        }
        self.absent = absent;
    }

    /// Takes in one message. [`MetadataReplica::drive`] must follow.
    pub fn handle(&mut self, message: Inbound) {
        match message {
            Inbound::Group(event) => self.shell.handle(event),
            Inbound::Raft { bytes, .. } => self.shell.handle(Event::Message(bytes)),
            Inbound::Batch { bytes, .. } => {
                if self.role == Role::Leader {
                    self.pending.push(bytes);
                }
            }
            Inbound::Describe(answer) => {
                let status = self.shell.core().status();
                let description = crate::directory::Description {
                    group: GROUP,
                    node: self.setup.directory.node(),
                    role: if self.role == Role::Leader {
                        "leader"
                    } else {
                        "follower"
                    },
                    leader: status.leader,
                    raft: Some(status),
                    voters: self.shell.core().members().to_vec(),
                    learners: self.shell.core().learners().to_vec(),
                    is_fresh: self.shell.core().is_fresh(),
                    is_pair: self.shell.core().is_pair(),
                    reformed: self.shell.core().reformed(),
                    ..crate::directory::Description::default()
                };
                let _ = answer.send(description);
            }
            Inbound::Stop { .. }
            | Inbound::Resync(_)
            | Inbound::RunEnded { .. }
            | Inbound::LinkReset(_)
            | Inbound::LinkWritable(_)
            | Inbound::LeaderQuery(_)
            | Inbound::Configured(_)
            | Inbound::Placed(_)
            | Inbound::ReplicaQuery(_)
            | Inbound::ReplicaIs { .. }
            | Inbound::Drains(_)
            | Inbound::Retire => {}
        }
    }

    /// Somebody on this node wants a change. [`MetadataReplica::drive`] must follow.
    pub fn submit(&mut self, message: Submit) {
        let Submit {
            request: Request { id, .. },
            command,
            answer,
        } = message;
        if self.requests.len() >= WAITING_MAX {
            // Dropping the answer tells the waiter.
            return;
        }
        self.requests.insert(
            id,
            Waiter {
                command: command.clone(),
                answer,
                age: 0,
            },
        );
        self.forward(command);
    }

    /// Takes in what was heard from another node. [`MetadataReplica::drive`] must follow.
    pub fn news(&mut self, news: News) {
        match news {
            News::Peer { node, state } => self.peer_changed(node, state),
            News::Met(met) => self.meets(met),
            News::BarrierAsked(node, barrier) => {
                self.asked.push((node, barrier));
                self.answer_barriers();
            }
            News::BarrierPassed(node, passed) => self.passed(node, passed.request),
        }
    }

    fn peer_changed(&mut self, node: NodeId, state: PeerState) {
        self.peers.insert(node, state);
        if !matches!(state, PeerState::Up { .. }) {
            let waiting: Vec<u64> = self.barriers.keys().copied().collect();
            for request in waiting {
                self.passed(node, request);
            }
        }
        if let PeerState::Dead { incarnation } = state {
            self.end_run(Run { node, incarnation });
        }
    }

    fn end_run(&self, run: Run) {
        if self.role == Role::Leader {
            self.setup.client.submit_later(Change::NodeDown { run });
        }
    }
}

fn respond(answers: Vec<(oneshot::Sender<Outcome>, Outcome)>) {
    for (answer, outcome) in answers {
        // Whoever asked may have gone.
        let _ = answer.send(outcome);
    }
}

/// What the cluster has agreed on must be known here: a leader may stamp it from now on.
fn check_agreed(setup: &Setup, core: &GroupCore<MetadataMachine>) -> Result<(), Error> {
    let agreed = core.machine().picture().version();
    group::check_version(GROUP, core.status().applied, agreed, &setup.io.versions)
}
