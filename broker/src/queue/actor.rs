//! One durable queue on one node: an actor around a Raft replica of the queue machine.
//!
//! The leader's actor folds all commands that wait into one log entry while earlier ones are on their way, performs
//! the machine's effects, and answers sessions wherever they are. A follower's actor only applies.

use std::sync::Arc;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use actix::prelude::*;
use bytes::Bytes;
use warren_cluster::group::shell::{GroupShell, Io, Output};
use warren_cluster::group::{Event, GroupCore, Options, ProposeError, Role};
use warren_cluster::transport::PeerState;
use warren_cluster::{GroupId, NodeId};
use warren_proto::node::{LeaderIs, SessionCheck, node_message::Kind};
use warren_proto::queue;
use warren_proto::record::{Command, SessionId, batches, system};

use super::alarm::{Alarm, Rings};
use super::dead_letters::{DeadLetters, Source};
use super::machine::{Effect, Place, QueueMachine};
use super::outbox::Outbox;
use super::pending::{Bound, Pending};
use crate::directory::{Description, Directory, Inbound, SessionEvent};
use crate::fatal;
use crate::metadata::client::MetadataClient;
use crate::metadata::{Placement, Queue};

/// Messages that may wait in the mailbox.
const MAILBOX: usize = 1_024;
/// Log entries on their way at once: one travels while the next is being gathered.
const ENTRIES_IN_FLIGHT_MAX: u64 = 2;
/// Commands folded into one entry.
const ENTRY_MAX: Bound = Bound {
    bytes: 1 << 20,
    commands: u32::MAX,
};
/// Waiting messages from which on publishes are let in at the pace of consumers that settle: a queue that is consumed
/// stays short, and its messages young.
const BACKLOG_MIN: u64 = 1_000;
/// Commands that may wait for the next entry, in bytes; beyond it batches are dropped and sent again later.
const PENDING_BYTES_MAX: usize = 32 << 20;
/// Questions that may wait for this replica to lead; a session repeats what is not answered.
const RESYNCS_MAX: usize = 4_096;
/// The unit of Raft's timers.
const TICK: Duration = Duration::from_millis(100);

/// See the module.
pub struct QueueActor {
    queue: Arc<Queue>,
    directory: Arc<Directory>,
    metadata: MetadataClient,
    io: Io,
    shell: GroupShell<QueueMachine>,
    outputs: Vec<Output<Effect>>,
    outbox: Outbox,
    dead_letters: DeadLetters,
    alarm: Alarm,
    pending: Pending,
    /// Messages that consumers had settled when the last entry was proposed.
    settled: u64,
    /// Questions that wait until this replica leads in earnest.
    resyncs: Vec<queue::Resync>,
    role: Role,
    term: u64,
    ticking: Option<SpawnHandle>,
    removing: bool,
    /// Whether this replica should lead when the group is new.
    preferred: bool,
}

impl QueueActor {
    /// Opens the replica and starts its actor on `arbiter`.
    pub fn start(
        arbiter: &ArbiterHandle,
        queue: Arc<Queue>,
        directory: Arc<Directory>,
        metadata: MetadataClient,
        io: Io,
        cache_bytes_max: usize,
    ) {
        let new = matches!(io.store.state(queue.group), Ok(None));
        QueueActor::start_in_arbiter(arbiter, move |ctx| {
            ctx.set_mailbox_capacity(MAILBOX);
            let group = queue.group;
            let options = Options {
                cache_bytes_max,
                ..Options::default()
            };
            let machine = QueueMachine::new(super::config(&queue));
            let shell = match GroupShell::open(io.clone(), group, queue.replicas(), machine, options) {
                Ok(shell) => shell,
                Err(error) => fatal::stop(&error),
            };
            let preferred = new && prefers(&queue, io.node);
            let outbox = Outbox::new(group, directory.clone());
            let dead_letters = DeadLetters::new(queue.clone(), directory.clone(), metadata.view().clone());
            Self {
                queue,
                directory,
                metadata,
                io,
                shell,
                outputs: Vec::new(),
                outbox,
                dead_letters,
                alarm: Alarm::default(),
                pending: Pending::default(),
                settled: 0,
                resyncs: Vec::new(),
                role: Role::Follower,
                term: 0,
                ticking: None,
                removing: false,
                preferred,
            }
        });
    }

    fn group(&self) -> GroupId {
        self.queue.group
    }

    /// Proposes what waits, performs what is due, until nothing is left.
    fn drive(&mut self, ctx: &mut Context<Self>) {
        self.work_off();
        // Once: there may be very many dead letters, and other things to do between them.
        if let Some(buried) = self.bury(ctx) {
            self.pending.push(buried);
            self.work_off();
        }
        self.keep_time(ctx);
        self.arm(ctx);
    }

    fn work_off(&mut self) {
        loop {
            self.propose();
            if let Err(error) = self.shell.poll(&mut self.outputs) {
                fatal::stop(&error);
            }
            if self.outputs.is_empty() {
                let gone = self.outbox.flush();
                if gone.is_empty() {
                    break;
                }
                for session in gone {
                    self.pending.push(system(&Command::SessionDown(session)));
                }
            } else {
                let outputs = std::mem::take(&mut self.outputs);
                self.perform(outputs);
            }
        }
    }

    /// Sends dead letters, and answers the command that buries those that are done with.
    fn bury(&mut self, ctx: &mut Context<Self>) -> Option<Bytes> {
        if self.role != Role::Leader {
            return None;
        }
        let mut source = Log(self.shell.core_mut());
        self.dead_letters
            .work(&mut source, now_ms(), || ctx.address().recipient())
    }

    /// Wakes this actor when the machine, or dead letters on their way, want it.
    fn arm(&mut self, ctx: &mut Context<Self>) {
        if self.role != Role::Leader {
            return self.alarm.stop(ctx);
        }
        let deadline = self.shell.core().machine().next_deadline();
        let tick = self.dead_letters.next_tick_ms(now_ms());
        self.alarm.arm(ctx, deadline, tick, |actor, ctx| {
            let due = actor.alarm.rings(now_ms());
            if due && actor.role == Role::Leader {
                actor.pending.push(system(&Command::Tick));
            }
            actor.dead_letters.tick(now_ms());
            actor.drive(ctx);
        });
    }

    fn propose(&mut self) {
        while !self.pending.is_empty()
            && self.role == Role::Leader
            && self.shell.core().in_flight() < ENTRIES_IN_FLIGHT_MAX
        {
            let machine = self.shell.core().machine();
            let settled = machine.settled_total();
            let since = settled.saturating_sub(self.settled);
            self.settled = settled;
            let backlog = machine.ready_len() >= BACKLOG_MIN;
            let entry = self.pending.take(ENTRY_MAX, backlog.then_some(since));
            match self.shell.propose(&entry, now_ms()) {
                Ok(()) => {}
                Err(ProposeError::Full) => {
                    self.pending.put_back(entry);
                    break;
                }
                // Sessions send again to whoever leads next.
                Err(ProposeError::NotLeader) => {
                    self.pending.clear();
                    break;
                }
            }
        }
    }

    fn perform(&mut self, outputs: Vec<Output<Effect>>) {
        for output in outputs {
            match output {
                Output::Machine(effect) => self.effect(effect),
                Output::Role { role, term, leader } => self.entered(role, term, leader),
                // A follower's state serves nobody yet.
                Output::Restored => {}
            }
        }
    }

    fn effect(&mut self, effect: Effect) {
        let mut log = Log(self.shell.core_mut());
        let gone = self.outbox.add(effect, self.term, |at| log.read(at));
        if gone && !self.removing {
            self.removing = true;
            self.metadata.remove_queue(self.queue.group);
        }
    }

    fn entered(&mut self, role: Role, term: u64, leader: Option<NodeId>) {
        let was = std::mem::replace(&mut self.role, role);
        self.term = term;
        if role != Role::Leader {
            self.dead_letters.stop();
        }
        match role {
            Role::Leader => {
                if was != Role::Leader {
                    tracing::debug!(queue = %self.queue.name, term, "leads");
                    self.directory.announce(self.group(), term);
                    let mut effects = Vec::new();
                    self.shell.core().machine().entered_leader(&mut effects);
                    for request in std::mem::take(&mut self.resyncs) {
                        self.shell.core().machine().resync(&request, &mut effects);
                    }
                    for effect in effects {
                        self.effect(effect);
                    }
                    self.check_sessions(None);
                }
            }
            Role::Elected => {}
            Role::Follower => {
                // Sessions send again to whoever leads next.
                self.pending.clear();
                self.removing = false;
                if leader != Some(self.io.node) {
                    self.directory.leader_is(self.group(), term, leader);
                }
            }
        }
    }

    /// Ends the sessions of runs that are known to have ended, and asks the nodes of the others whether they still exist.
    fn check_sessions(&mut self, only: Option<NodeId>) {
        for (node, state) in self.io.transport.peers() {
            let incarnation = match state {
                PeerState::Dead { incarnation } => incarnation,
                PeerState::Up { incarnation } | PeerState::Silent { incarnation } => incarnation.saturating_sub(1),
            };
            self.run_ended(node, incarnation);
        }
        let mut asked: std::collections::BTreeMap<(NodeId, u64), Vec<u64>> = std::collections::BTreeMap::new();
        let mut gone = Vec::new();
        for session in self.shell.core().machine().sessions() {
            if only.is_some_and(|only| only != session.node) {
                continue;
            }
            if session.node == self.io.node {
                if !self.directory.has_session(session) {
                    gone.push(session);
                }
            } else {
                asked
                    .entry((session.node, session.incarnation))
                    .or_default()
                    .push(session.id);
            }
        }
        for session in gone {
            self.pending.push(system(&Command::SessionDown(session)));
        }
        for ((node, incarnation), ids) in asked {
            let check = SessionCheck {
                group: self.group(),
                incarnation,
                ids,
            };
            self.directory.tell(node, Kind::SessionCheck(check));
        }
    }

    /// The runs of `node` up to `incarnation` have ended, and with them their sessions.
    fn run_ended(&mut self, node: NodeId, incarnation: u64) {
        let of_it = |session: SessionId| session.node == node && session.incarnation <= incarnation;
        if self.shell.core().machine().sessions().any(of_it) {
            self.pending.push(system(&Command::NodeDown { node, incarnation }));
        }
    }

    /// Ticks only while there is something to wait for.
    fn keep_time(&mut self, ctx: &mut Context<Self>) {
        let needed = self.shell.core().is_active() || !self.pending.is_empty();
        match (needed, self.ticking) {
            (true, None) => {
                self.ticking = Some(ctx.run_interval(TICK, |actor, ctx| {
                    actor.shell.handle(Event::Tick);
                    actor.drive(ctx);
                }));
            }
            (false, Some(handle)) => {
                ctx.cancel_future(handle);
                self.ticking = None;
                self.shell.core_mut().rest();
            }
            _ => {}
        }
    }

    fn batch(&mut self, from: NodeId, bytes: Bytes) {
        // An elected replica keeps what comes until it may propose: its followers have told their sessions already.
        if self.role == Role::Follower {
            self.correct(from);
            return;
        }
        if self.pending.bytes() + bytes.len() > PENDING_BYTES_MAX && !self.pending.is_empty() {
            tracing::debug!(queue = %self.queue.name, "too much waits for the log; a batch will be sent again");
            return;
        }
        // What does not decode must not reach the log: the machine would ignore it, and its sender would not know.
        if batches(&bytes).any(|batch| batch.is_err()) {
            tracing::warn!(queue = %self.queue.name, from, "a node sent a malformed batch");
            return;
        }
        self.pending.push(bytes);
    }

    /// Tells a node that asked the wrong replica who leads.
    fn correct(&self, from: NodeId) {
        let status = self.shell.core().status();
        let leader = match self.role {
            Role::Leader => Some(self.io.node),
            Role::Elected => None,
            Role::Follower => status.leader.filter(|leader| *leader != self.io.node),
        };
        if from == self.io.node {
            self.directory.leader_is(self.group(), status.term, leader);
        } else if let Some(leader) = leader {
            self.directory.tell(
                from,
                Kind::LeaderIs(LeaderIs {
                    group: self.group(),
                    term: status.term,
                    leader,
                }),
            );
        }
    }

    fn describe(&self) -> Description {
        let status = self.shell.core().status();
        let machine = self.shell.core().machine();
        let role = match (status.role, status.leader) {
            (Role::Leader | Role::Elected, _) => "leader",
            (Role::Follower, Some(_)) => "follower",
            (Role::Follower, None) => "candidate",
        };
        Description {
            group: self.group(),
            node: self.io.node,
            role,
            leader: status.leader,
            raft: Some(status),
            stats: machine.stats(),
            consumers: machine.consumers().map(Into::into).collect(),
        }
    }

    fn resync(&mut self, request: queue::Resync) {
        if self.role != Role::Leader {
            if self.resyncs.len() < RESYNCS_MAX {
                self.resyncs.push(request);
            }
            return;
        }
        let mut effects = Vec::new();
        self.shell.core().machine().resync(&request, &mut effects);
        for effect in effects {
            self.effect(effect);
        }
    }
}

/// Where messages' bytes are.
struct Log<'a>(&'a mut GroupCore<QueueMachine>);

impl Source for Log<'_> {
    fn machine(&self) -> &QueueMachine {
        self.0.machine()
    }

    fn read(&mut self, at: Place) -> Option<Bytes> {
        match self.0.payload(at.index) {
            Ok(payload) => {
                let start = at.offset as usize;
                let end = start + at.len as usize;
                payload
                    .filter(|payload| payload.len() >= end)
                    .map(|payload| payload.slice(start..end))
            }
            Err(error) => fatal::stop(&error),
        }
    }
}

/// Whether `node` should lead the queue's group when it begins.
fn prefers(queue: &Queue, node: NodeId) -> bool {
    match &queue.placement {
        Placement::Replicated { replicas, leader: 0 } => replicas.first() == Some(&node),
        Placement::Replicated { leader, .. } => *leader == node,
        Placement::Transient { .. } => false,
    }
}

/// The wall clock, in milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

impl Rings for QueueActor {
    fn alarm(&mut self) -> &mut Alarm {
        &mut self.alarm
    }
}

impl Actor for QueueActor {
    type Context = Context<Self>;

    fn started(&mut self, ctx: &mut Self::Context) {
        self.directory.register(self.group(), ctx.address().recipient());
        for (node, state) in self.io.transport.peers() {
            if !matches!(state, PeerState::Up { .. }) {
                self.shell.handle(Event::PeerDown(node));
            }
        }
        if self.preferred || self.queue.replicas().len() == 1 {
            self.shell.handle(Event::Campaign);
        }
        self.drive(ctx);
    }
}

impl Handler<Inbound> for QueueActor {
    type Result = ();

    fn handle(&mut self, message: Inbound, ctx: &mut Self::Context) {
        match message {
            Inbound::Group(event) => self.shell.handle(event),
            Inbound::Batch { from, bytes } => self.batch(from, bytes),
            Inbound::Resync(request) => self.resync(request),
            Inbound::RunEnded { node, incarnation } => {
                // A replica that does not lead asks again when it does: see `check_sessions`.
                if self.role == Role::Leader {
                    self.run_ended(node, incarnation);
                }
            }
            Inbound::LinkReset(node) => {
                self.outbox.reset(node);
                if self.role == Role::Leader {
                    self.check_sessions(Some(node));
                }
            }
            Inbound::LinkWritable(node) => self.outbox.writable(node),
            Inbound::LeaderQuery(from) => self.correct(from),
            Inbound::Describe(answer) => drop(answer.send(self.describe())),
            Inbound::Stop { delete } => {
                self.dead_letters.stop();
                if delete {
                    self.shell.drop_group();
                }
                ctx.stop();
                return;
            }
        }
        self.drive(ctx);
    }
}

impl Handler<SessionEvent> for QueueActor {
    type Result = ();

    /// To the session of its dead letters.
    fn handle(&mut self, event: SessionEvent, ctx: &mut Self::Context) {
        self.dead_letters.on_event(event, now_ms());
        self.drive(ctx);
    }
}
