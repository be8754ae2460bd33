//! This node's replica of the metadata: applies what the group agreed on, publishes it, and starts and ends the
//! actors that it calls for.
//!
//! ```text
//! MetadataClient ─Submit─▶ MetadataActor ─▶ leader's log ─▶ apply here ─▶ exchange actors ─▶ View ─▶ peers' barriers ─▶ answer
//! ```
//!
//! A change is answered only when every reachable node has applied it: what one node was told holds on all of them.
//! A request is repeated until its answer comes out of the log, so it may be applied twice; changes allow that.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use bytes::Bytes;
use futures_util::future::join_all;
use rustc_hash::FxHashMap;
use tokio::sync::{oneshot, watch};
use warren_cluster::group::shell::{GroupShell, Io, Output};
use warren_cluster::group::{Event, Options, Role};
use warren_cluster::transport::{PeerState, Port};
use warren_cluster::{GroupId, NodeId};
use warren_proto::node::{Barrier, BarrierPassed, node_message::Kind};

use super::client::{MetadataClient, Submit};
use super::{Bootstrap, Change, Effect, Exchange, MetadataMachine, Outcome, Placement, Queue, Request, Run, View};
use crate::amqp::ReplyCode;
use crate::directory::{Directory, Inbound, SessionEvent};
use crate::exchange::actor::{ExchangeActor, Update};
use crate::queue::actor::{QueueActor, now_ms};
use crate::queue::transient::TransientActor;
use crate::{fatal, mailbox};

/// The metadata's group.
pub const GROUP: GroupId = 1;

const MAILBOX: usize = 4_096;
const TICK: Duration = Duration::from_millis(100);
/// Ticks after which an unanswered request is sent again.
const REPEAT_TICKS: u32 = 5;
/// Ticks after which whoever waits for an answer is told that none came.
const WAIT_TICKS: u32 = 100;
/// Ticks after which an answer no longer waits for nodes that are reachable but do not apply.
const BARRIER_TICKS: u32 = 50;
/// Ticks after which a node that was only silent counts as ended: its sessions' messages go back.
const SILENT_TICKS: u32 = 600;
/// Requests of this node that may be waiting.
const WAITING_MAX: usize = 65_536;

/// What the actor needs of the node around it.
pub struct Environment {
    /// The published picture.
    pub view: View,
    /// Where everything is.
    pub directory: Arc<Directory>,
    /// For the group and for the queues' groups.
    pub io: Io,
    /// The voters of the metadata group: all configured nodes.
    pub members: Vec<NodeId>,
    /// Where queues and exchanges run.
    pub arbiters: Vec<ArbiterHandle>,
    /// What the first leader ever makes of an empty cluster.
    pub bootstrap: Bootstrap,
    /// This run, its name and its address.
    pub announce: (Run, String, String),
    /// Recent log entries that one queue may keep in memory, in bytes.
    pub queue_cache_bytes_max: usize,
    /// Becomes true once this run was taken into the metadata.
    pub ready: watch::Sender<bool>,
}

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

/// Changes of bindings by exchange.
type Updates = BTreeMap<u64, Vec<Update>>;

/// See the module.
pub struct MetadataActor {
    env: Environment,
    client: MetadataClient,
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
    exchanges: FxHashMap<u64, Addr<ExchangeActor>>,
    queues: BTreeSet<GroupId>,
    /// Queues to start once the view shows them.
    declared: Vec<Arc<Queue>>,
    /// Queues whose sessions are to be told, once the view no longer shows them.
    gone: Vec<GroupId>,
    peers: BTreeMap<NodeId, (PeerState, u32)>,
    next_arbiter: usize,
}

/// News about a peer's run, from the transport.
#[derive(Message)]
#[rtype(result = "()")]
pub struct PeerChanged {
    /// The peer.
    pub node: NodeId,
    /// Its state now.
    pub state: PeerState,
}

/// Another node waits for this one to apply an entry, or no longer has to wait for it.
#[derive(Message)]
#[rtype(result = "()")]
pub enum BarrierMessage {
    /// From a node whose client waits.
    Asked(NodeId, Barrier),
    /// From a node that has applied the entry.
    Passed(NodeId, BarrierPassed),
}

impl MetadataActor {
    /// Opens the replica and starts its actor on the arbiter of the caller; answers the handle on it.
    pub fn start_here(env: Environment) -> (Addr<Self>, MetadataClient) {
        let mut client = None;
        let address = Self::create(|ctx| {
            ctx.set_mailbox_capacity(MAILBOX);
            let handle = MetadataClient::new(env.view.clone(), env.directory.clone(), ctx.address().recipient());
            client = Some(handle.clone());
            let options = Options {
                eager_commit: true,
                effects_everywhere: true,
                ..Options::default()
            };
            let machine = MetadataMachine::new();
            let shell = match GroupShell::open(env.io.clone(), GROUP, &env.members, machine, options) {
                Ok(shell) => shell,
                Err(error) => fatal::stop(&error),
            };
            Self {
                env,
                client: handle,
                shell,
                outputs: Vec::new(),
                pending: Vec::new(),
                role: Role::Follower,
                requests: BTreeMap::new(),
                barriers: BTreeMap::new(),
                next_barrier: 1,
                asked: Vec::new(),
                published: 0,
                exchanges: FxHashMap::default(),
                queues: BTreeSet::new(),
                declared: Vec::new(),
                gone: Vec::new(),
                peers: BTreeMap::new(),
                next_arbiter: 0,
            }
        });
        let client = client.expect("the actor's constructor has run");
        (address, client)
    }

    fn drive(&mut self, ctx: &mut Context<Self>) {
        if self.role == Role::Leader && !self.pending.is_empty() {
            match self.shell.propose(&self.pending, now_ms()) {
                Ok(()) => self.pending.clear(),
                // Requests are repeated by those who made them.
                Err(error) => {
                    tracing::debug!(%error, "metadata changes not proposed");
                    self.pending.clear();
                }
            }
        }
        if let Err(error) = self.shell.poll(&mut self.outputs) {
            fatal::stop(&error);
        }
        if !self.outputs.is_empty() {
            let outputs = std::mem::take(&mut self.outputs);
            self.perform(outputs, ctx);
        }
    }

    /// Everything that follows from applied entries happens here, in order; the mailbox waits meanwhile.
    fn perform(&mut self, outputs: Vec<Output<Effect>>, ctx: &mut Context<Self>) {
        let mut updates = Updates::default();
        let mut answers = Vec::new();
        let mut applied = false;
        for output in outputs {
            match output {
                Output::Role { role, .. } => self.entered(role),
                Output::Restored => {
                    applied = true;
                    self.reconcile(&mut updates);
                }
                Output::Machine(effect) => {
                    applied = true;
                    self.effect(effect, &mut updates, &mut answers);
                }
            }
        }
        let index = self.shell.core().status().applied;
        if !applied {
            // Entries without effects count as well for those who wait for their index.
            self.published = self.published.max(index);
            self.answer_barriers();
            return;
        }
        let picture = self.shell.core().machine().picture().clone();
        let updates = self.send(updates);
        ctx.wait(join_all(updates).into_actor(self).map(move |_, actor, ctx| {
            actor.env.view.publish(picture);
            actor.published = index;
            actor.answer_barriers();
            actor.start_and_end_queues();
            actor.wait_for_peers(index, answers);
            actor.drive(ctx);
        }));
    }

    fn effect(
        &mut self,
        effect: Effect,
        updates: &mut Updates,
        answers: &mut Vec<(oneshot::Sender<Outcome>, Outcome)>,
    ) {
        match effect {
            Effect::Answer { request, outcome } => {
                if request.node == self.env.directory.node()
                    && request.incarnation == self.env.directory.incarnation()
                    && let Some(waiter) = self.requests.remove(&request.id)
                    && let Some(answer) = waiter.answer
                {
                    answers.push((answer, outcome));
                }
            }
            Effect::ExchangeDeclared(exchange) => self.start_exchange(exchange),
            Effect::ExchangeDeleted(exchange) => drop(self.exchanges.remove(&exchange.id)),
            Effect::Bound { exchange, binding } => {
                updates.entry(exchange.id).or_default().push(Update::Bound(binding));
            }
            Effect::Unbound { exchange, binding } => {
                updates.entry(exchange.id).or_default().push(Update::Unbound(binding));
            }
            Effect::QueueDeclared(queue) | Effect::QueuePlaced(queue) => self.declared.push(queue),
            Effect::QueueDeleted(queue) => {
                self.queues.remove(&queue.group);
                self.gone.push(queue.group);
            }
            Effect::NodeUp(run) => {
                if run == self.env.announce.0 {
                    self.env.ready.send_replace(true);
                }
                self.run_ended(Run {
                    node: run.node,
                    incarnation: run.incarnation.saturating_sub(1),
                });
            }
            Effect::NodeDown(run) => {
                self.run_ended(run);
                if run.node == self.env.announce.0.node && run.incarnation >= self.env.announce.0.incarnation {
                    self.rejoin();
                }
            }
            Effect::VhostDeleted(_) | Effect::UserDeleted(_) => {}
        }
    }

    /// The others have given this run up: what its clients held was given to others.
    fn rejoin(&mut self) {
        tracing::warn!("the cluster counted this node as down; its clients' sessions have ended");
        for session in self.env.directory.session_mailboxes() {
            // One message for each connection, which ends with it.
            let text = "the node was cut off from its cluster".into();
            mailbox::always(
                &session,
                SessionEvent::Close {
                    code: ReplyCode::ConnectionForced,
                    text,
                },
            );
        }
        self.announce();
    }

    fn announce(&self) {
        let (run, name, address) = self.env.announce.clone();
        self.client.submit_later(Change::NodeUp { run, name, address });
    }

    fn run_ended(&self, run: Run) {
        for mailbox in self.env.directory.mailboxes() {
            mailbox::always(
                &mailbox,
                Inbound::RunEnded {
                    node: run.node,
                    incarnation: run.incarnation,
                },
            );
        }
    }

    /// Makes exchange actors agree with a state that came as a whole.
    fn reconcile(&mut self, updates: &mut Updates) {
        let picture = self.shell.core().machine().picture().clone();
        self.exchanges.clear();
        let vhosts: Vec<_> = picture.vhosts().map(|vhost| vhost.name.clone()).collect();
        for vhost in vhosts {
            for exchange in picture.exchanges(&vhost) {
                self.start_exchange(exchange.clone());
                let bound = picture
                    .bindings_from(&vhost, &exchange.name)
                    .cloned()
                    .map(Update::Bound);
                updates.entry(exchange.id).or_default().extend(bound);
            }
        }
        let kept: BTreeSet<GroupId> = picture.all_queues().map(|queue| queue.group).collect();
        self.gone.extend(self.queues.difference(&kept));
        self.queues.retain(|group| kept.contains(group));
        self.declared = picture.all_queues().cloned().collect();
    }

    /// Starts the actors of this node's queues that do not run yet, and ends those of queues that are no more.
    fn start_and_end_queues(&mut self) {
        for group in std::mem::take(&mut self.gone) {
            self.env.directory.queue_gone(group);
        }
        let node = self.env.directory.node();
        let run = self.env.announce.0;
        for queue in std::mem::take(&mut self.declared) {
            let here = match &queue.placement {
                Placement::Replicated { replicas, .. } => replicas.contains(&node),
                Placement::Transient { home } => *home == run,
            };
            if here && self.queues.insert(queue.group) {
                self.start_queue(queue);
            }
        }
    }

    fn start_queue(&mut self, queue: Arc<Queue>) {
        let arbiter = self.arbiter();
        let directory = self.env.directory.clone();
        if queue.is_transient() {
            TransientActor::start(&arbiter, queue, directory, self.client.clone());
        } else {
            let io = self.env.io.clone();
            QueueActor::start(
                &arbiter,
                queue,
                directory,
                self.client.clone(),
                io,
                self.env.queue_cache_bytes_max,
            );
        }
    }

    fn start_exchange(&mut self, exchange: Arc<Exchange>) {
        let arbiter = self.arbiter();
        let id = exchange.id;
        let actor = ExchangeActor::start(&arbiter, exchange);
        self.exchanges.insert(id, actor);
    }

    /// Hands each exchange its changes in order; done once readers see them.
    fn send(&self, updates: Updates) -> Vec<impl Future<Output = ()> + use<>> {
        let known = updates
            .into_iter()
            .filter_map(|(id, updates)| Some((self.exchanges.get(&id)?.clone(), updates)));
        known
            .map(|(actor, updates)| async move {
                for update in updates {
                    if actor.send(update).await.is_err() {
                        return;
                    }
                }
            })
            .collect()
    }

    fn arbiter(&mut self) -> ArbiterHandle {
        self.next_arbiter += 1;
        self.env.arbiters[self.next_arbiter % self.env.arbiters.len()].clone()
    }

    fn entered(&mut self, role: Role) {
        let was = std::mem::replace(&mut self.role, role);
        if role != Role::Leader || was == Role::Leader {
            return;
        }
        tracing::info!("leads the cluster's metadata");
        if !self.shell.core().machine().picture().is_bootstrapped() {
            self.client.submit_later(Change::Bootstrap(self.env.bootstrap.clone()));
        }
        let ended: Vec<_> = self
            .peers
            .iter()
            .filter_map(|(node, (state, _))| match state {
                PeerState::Dead { incarnation } => Some(Run {
                    node: *node,
                    incarnation: *incarnation,
                }),
                PeerState::Up { .. } | PeerState::Silent { .. } => None,
            })
            .collect();
        for run in ended {
            self.client.submit_later(Change::NodeDown { run });
        }
    }

    /// Answers once every reachable peer has applied `index`.
    fn wait_for_peers(&mut self, index: u64, answers: Vec<(oneshot::Sender<Outcome>, Outcome)>) {
        if answers.is_empty() {
            return;
        }
        let nodes: BTreeSet<NodeId> = self
            .peers
            .iter()
            .filter(|(_, (state, _))| matches!(state, PeerState::Up { .. }))
            .map(|(node, _)| *node)
            .collect();
        if nodes.is_empty() {
            respond(answers);
            return;
        }
        let request = self.next_barrier;
        self.next_barrier += 1;
        for node in &nodes {
            self.env
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
        let directory = &self.env.directory;
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
            Some(leader) if leader == self.env.directory.node() => self.pending.push(command),
            Some(leader) => {
                // What the link does not take is sent again by the next ticks.
                let _ = self.env.directory.post(leader, Port::METADATA, GROUP, command);
            }
            None => {}
        }
    }

    fn tick(&mut self, ctx: &mut Context<Self>) {
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
        let mut ended = Vec::new();
        for (node, (state, ticks)) in &mut self.peers {
            *ticks = ticks.saturating_add(1);
            if let PeerState::Silent { incarnation } = state
                && *ticks == SILENT_TICKS
            {
                ended.push(Run {
                    node: *node,
                    incarnation: *incarnation,
                });
            }
        }
        for run in ended {
            self.end_run(run);
        }
        self.shell.handle(Event::Tick);
        self.drive(ctx);
    }

    fn end_run(&self, run: Run) {
        if self.role == Role::Leader {
            self.client.submit_later(Change::NodeDown { run });
        }
    }
}

fn respond(answers: Vec<(oneshot::Sender<Outcome>, Outcome)>) {
    for (answer, outcome) in answers {
        // Whoever asked may have gone.
        let _ = answer.send(outcome);
    }
}

impl Actor for MetadataActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.env.directory.register(GROUP, ctx.address().recipient());
        ctx.run_interval(TICK, |actor, ctx| actor.tick(ctx));
        if self.env.members.len() == 1 {
            self.shell.handle(Event::Campaign);
        }
        self.announce();
        let mut updates = Updates::default();
        self.reconcile(&mut updates);
        let index = self.shell.core().status().applied;
        let picture = self.shell.core().machine().picture().clone();
        let updates = self.send(updates);
        ctx.wait(join_all(updates).into_actor(self).map(move |_, actor, ctx| {
            actor.env.view.publish(picture);
            actor.published = index;
            actor.start_and_end_queues();
            actor.drive(ctx);
        }));
    }
}

impl Handler<Inbound> for MetadataActor {
    type Result = ();

    fn handle(&mut self, message: Inbound, ctx: &mut Self::Context) {
        match message {
            Inbound::Group(event) => self.shell.handle(event),
            Inbound::Batch { bytes, .. } => {
                if self.role == Role::Leader {
                    self.pending.push(bytes);
                }
            }
            Inbound::Describe(answer) => {
                let status = self.shell.core().status();
                let description = crate::directory::Description {
                    group: GROUP,
                    node: self.env.directory.node(),
                    role: if self.role == Role::Leader {
                        "leader"
                    } else {
                        "follower"
                    },
                    leader: status.leader,
                    raft: Some(status),
                    ..crate::directory::Description::default()
                };
                let _ = answer.send(description);
            }
            Inbound::Stop { .. } => {
                ctx.stop();
                return;
            }
            Inbound::Resync(_)
            | Inbound::RunEnded { .. }
            | Inbound::LinkReset(_)
            | Inbound::LinkWritable(_)
            | Inbound::LeaderQuery(_) => {}
        }
        self.drive(ctx);
    }
}

impl Handler<Submit> for MetadataActor {
    type Result = ();

    fn handle(&mut self, message: Submit, ctx: &mut Self::Context) {
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
        self.drive(ctx);
    }
}

impl Handler<PeerChanged> for MetadataActor {
    type Result = ();

    fn handle(&mut self, message: PeerChanged, ctx: &mut Self::Context) {
        let PeerChanged { node, state } = message;
        self.peers.insert(node, (state, 0));
        if !matches!(state, PeerState::Up { .. }) {
            let waiting: Vec<u64> = self.barriers.keys().copied().collect();
            for request in waiting {
                self.passed(node, request);
            }
        }
        if let PeerState::Dead { incarnation } = state {
            self.end_run(Run { node, incarnation });
        }
        self.drive(ctx);
    }
}

impl Handler<BarrierMessage> for MetadataActor {
    type Result = ();

    fn handle(&mut self, message: BarrierMessage, _: &mut Self::Context) {
        match message {
            BarrierMessage::Asked(node, barrier) => {
                self.asked.push((node, barrier));
                self.answer_barriers();
            }
            BarrierMessage::Passed(node, passed) => self.passed(node, passed.request),
        }
    }
}
