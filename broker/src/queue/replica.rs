//! One durable queue on one node: a Raft replica of the queue machine, and what it does for the queue's sessions.
//!
//! The leader folds all commands that wait into one log entry while earlier ones are on their way, performs the
//! machine's effects, and answers sessions wherever they are. A follower only applies.
//!
//! No actor and no clock: its shell, `actor.rs`, feeds it what comes and tells it the time.

use std::sync::Arc;

use bytes::Bytes;
use warren_cluster::group::shell::{GroupShell, Io, Output};
use warren_cluster::group::{Course, Error, Event, Goal, GroupCore, Options, ProposeError, Role};
use warren_cluster::transport::PeerState;
use warren_cluster::{GroupId, NodeId};
use warren_proto::node::{ReplicaIs, ReplicaQuery, SessionCheck, node_message::Kind};
use warren_proto::queue;
use warren_proto::record::{self, Command, SessionId, batches, system};

use super::Due;
use super::dead_letters::{DeadLetters, Source};
use super::machine::{Effect, Place, QueueMachine, SILENCE};
use super::outbox::Outbox;
use super::pending::{Bound, Demand, Pending};
use super::place::{Pace, Place as Whereabouts, Voter};
use super::readers::{Entries, Readers};
use super::silence::Silence;
use crate::directory::{Description, Directory, Inbound, SessionEvent, Tenure, leader_is};
use crate::mailbox::{Mailbox, Post};
use crate::metadata::client::MetadataClient;
use crate::metadata::{Change, Picture, Queue};

/// Log entries on their way at once: one travels while the next is being gathered.
const ENTRIES_IN_FLIGHT_MAX: u64 = 2;
/// Commands folded into one entry.
const ENTRY_MAX: Bound = Bound {
    bytes: 1 << 20,
    commands: u32::MAX,
};
/// The same in a stream, whose readers look for single messages in it.
const STREAM_ENTRY_MAX: Bound = Bound {
    bytes: 128 << 10,
    ..ENTRY_MAX
};
/// Waiting messages that are enough to keep consumers busy.
const BACKLOG_MIN: u64 = 1_000;
/// Commands that may wait for the next entry, in bytes; beyond it batches are dropped and sent again later.
const PENDING_BYTES_MAX: usize = 32 << 20;
/// How long after a group that went on without a majority may have been told of less than others were it looks again.
const CHECKS_MS: [u64; 3] = [2_000, 10_000, 30_000];
/// Questions that may wait for this replica to lead; a session repeats what is not answered.
const RESYNCS_MAX: usize = 4_096;

/// See the module.
pub struct QueueReplica {
    queue: Arc<Queue>,
    directory: Arc<Directory>,
    metadata: MetadataClient,
    io: Io,
    shell: GroupShell<QueueMachine>,
    outputs: Vec<Output<Effect>>,
    outbox: Outbox,
    dead_letters: DeadLetters,
    /// Where the session of its dead letters hears from their targets.
    letters: Post<SessionEvent>,
    pending: Pending,
    /// Where the readers of a stream are.
    readers: Readers,
    /// Questions that wait until this replica leads in earnest.
    resyncs: Vec<queue::Resync>,
    role: Role,
    term: u64,
    /// The version of the settings that this leader has proposed last.
    configured: u64,
    /// The replica that should lead, if the group is new.
    first_leader: Option<NodeId>,
    place: Whereabouts,
    /// When to look again for sessions that have ended, ascending.
    checks: Vec<u64>,
    silence: Silence,
}

impl QueueReplica {
    /// Opens the replica. [`QueueReplica::begin`] must follow. What comes by `letters` is for
    /// [`QueueReplica::handle_letters`].
    pub fn open(
        queue: Arc<Queue>,
        directory: Arc<Directory>,
        metadata: MetadataClient,
        letters: Post<SessionEvent>,
        io: Io,
        options: Options,
    ) -> Result<Self, Error> {
        let group = queue.group;
        let new = io.store.state(group)?.is_none();
        let machine = QueueMachine::new(super::declared(&queue));
        let picture = metadata.view().picture();
        let fresh = may_have_been_lost(&picture, &io, group);
        let options = Options {
            era: queue.era(),
            reformed: queue.reformed(),
            added_since: added_since(&picture, &io),
            fresh,
            ..options
        };
        // One that may have been here learns from its leader who its group consists of now.
        let founders = if fresh && queue.era() > 0 {
            &[]
        } else {
            queue.founders()
        };
        let mut shell = GroupShell::open(io.clone(), group, founders, machine, options)?;
        shell.core_mut().reform(queue.founders(), queue.reformed());
        if new && shell.core().is_fresh() {
            tracing::warn!(group, queue = %queue.resource(), "the replica on this node may have lost its log, and is brought up by its leader");
        }
        let first_leader = first_leader(&queue).filter(|_| new);
        let outbox = Outbox::new(group, directory.clone());
        let dead_letters = DeadLetters::new(queue.clone(), directory.clone(), metadata.view().clone());
        Ok(Self {
            queue,
            directory,
            metadata,
            io,
            shell,
            outputs: Vec::new(),
            outbox,
            dead_letters,
            letters,
            pending: Pending::default(),
            readers: Readers::default(),
            resyncs: Vec::new(),
            role: Role::Follower,
            term: 0,
            configured: 0,
            first_leader,
            place: Whereabouts::default(),
            checks: Vec::new(),
            silence: Silence::default(),
        })
    }

    /// Makes the replica known under `mailbox`, learns which peers are there, and leads if that is its part.
    pub fn begin(&mut self, mailbox: impl Mailbox<Inbound> + 'static, now_ms: u64) -> Result<(), Error> {
        self.directory.register_queue(self.group(), mailbox);
        self.shell.look_around();
        let is_alone = self.queue.replicas().len() == 1;
        match self.first_leader {
            Some(leader) if leader != self.io.node && !is_alone => self.shell.core_mut().give_way(leader),
            None if !is_alone => {}
            _ => self.shell.handle(Event::Campaign),
        }
        self.drive(now_ms)
    }

    /// Takes in one message and does what follows from it. Must not be called again after [`Inbound::Stop`].
    pub fn handle(&mut self, message: Inbound, now_ms: u64) -> Result<(), Error> {
        match message {
            Inbound::Group(event) => {
                let (up, down) = match event {
                    Event::PeerUp(node) => (Some(node), None),
                    Event::PeerDown(node) => (None, Some(node)),
                    _ => (None, None),
                };
                self.shell.handle(event);
                if let Some(node) = up {
                    self.silence.ended(node);
                    self.reconsider(Pace::Gentle, now_ms);
                }
                if let Some(node) = down {
                    self.silence.began(node, now_ms);
                }
            }
            Inbound::Placed(queue) => {
                self.queue = queue;
                let (survivors, era) = (self.queue.founders().to_vec(), self.queue.reformed());
                self.shell.core_mut().reform(&survivors, era);
                self.reconsider(Pace::Prompt, now_ms);
            }
            Inbound::ReplicaQuery(from) => {
                let (group, era) = (self.group(), self.queue.era());
                self.directory.tell(from, Kind::ReplicaIs(ReplicaIs { group, era }));
            }
            // One that was given up is told so now.
            Inbound::ReplicaIs { era: 0, .. } if self.queue.reformed() > 0 => {
                if self.role == Role::Leader {
                    self.check_sessions(None);
                    self.check_again(now_ms);
                }
            }
            Inbound::ReplicaIs { node, era } => self.place.is_ready(node, era),
            Inbound::Drains(_) => self.reconsider(Pace::Prompt, now_ms),
            Inbound::Retire => {
                self.dead_letters.stop();
                return self.shell.retire(self.directory.clone());
            }
            Inbound::Raft { bytes, .. } => self.shell.handle(Event::Message(bytes)),
            Inbound::Batch { from, bytes, .. } => self.batch(from, bytes),
            Inbound::Resync(request) => self.resync(request)?,
            Inbound::RunEnded { node, incarnation } => {
                // A replica that does not lead asks again when it does: see `check_sessions`.
                if self.role == Role::Leader {
                    self.run_ended(node, incarnation);
                }
            }
            Inbound::LinkReset(node) => {
                self.outbox.reset(node);
                if self.role == Role::Leader {
                    // It may not have been heard there when it said that it leads, and what it sent since is lost.
                    let machine = self.shell.core().machine();
                    if machine.sessions().any(|session| session.node == node) {
                        self.outbox.tell(node);
                    }
                    self.check_sessions(Some(node));
                    self.check_again(now_ms);
                }
            }
            Inbound::LinkWritable(node) => self.outbox.writable(node),
            Inbound::LeaderQuery(from) => self.correct(from),
            Inbound::Configured(queue) => {
                self.obey(queue);
                self.configure();
            }
            Inbound::Describe(answer) => drop(answer.send(self.describe())),
            Inbound::Stop { delete } => {
                self.dead_letters.stop();
                if delete {
                    self.shell.drop_group();
                }
                return Ok(());
            }
        }
        self.drive(now_ms)
    }

    /// 100 ms have passed. Needed while [`QueueReplica::needs_ticks`].
    pub fn tick(&mut self, now_ms: u64) -> Result<(), Error> {
        self.shell.handle(Event::Tick);
        self.drive(now_ms)
    }

    /// Whether there is something to wait for.
    pub fn needs_ticks(&self) -> bool {
        self.shell.core().is_active() || !self.pending.is_empty()
    }

    /// When [`QueueReplica::wake`] is wanted, if at all: when the machine has something due, and when something on its
    /// way or held back is to be looked after.
    pub fn wakes(&mut self, now_ms: u64) -> Option<(Option<Due>, Option<u64>)> {
        if self.role != Role::Leader {
            return None;
        }
        let held_back = !self.pending.is_empty() && self.shell.core().in_flight() < ENTRIES_IN_FLIGHT_MAX;
        let publishes = held_back.then(|| now_ms + self.pending.wait_ms());
        let letters = self.dead_letters.next_tick_ms(now_ms);
        let reads = self.readers.has_more().then_some(now_ms);
        let checks = self.checks.first().map(|at_ms| (*at_ms).max(now_ms));
        let look = publishes
            .into_iter()
            .chain(letters)
            .chain(checks)
            .chain(reads)
            .chain(
                self.patience_ms()
                    .and_then(|patience_ms| self.silence.look_ms(patience_ms)),
            )
            .chain(self.place.look_ms())
            .min();
        let core = self.shell.core_mut();
        let deadline_ms = core.machine().next_deadline();
        let due = deadline_ms.map(|deadline_ms| Due {
            deadline_ms,
            at_ms: core.comes_ms(deadline_ms, now_ms),
        });
        Some((due, look))
    }

    /// A time of [`QueueReplica::wakes`] has come; `is_due` if it is the machine's, and no entry for it is on its way.
    pub fn wake(&mut self, is_due: bool, now_ms: u64) -> Result<(), Error> {
        if is_due && self.role == Role::Leader {
            self.pending.push(system(&Command::Tick));
        }
        if self.checks.first().is_some_and(|at_ms| *at_ms <= now_ms) {
            self.checks.retain(|at_ms| *at_ms > now_ms);
            self.check_sessions(None);
        }
        self.dead_letters.tick(now_ms);
        self.drive(now_ms)
    }

    /// A group that went on without a majority looks again for sessions that have ended: those that were given up may have
    /// been told, and have answered, before they knew.
    fn check_again(&mut self, now_ms: u64) {
        if self.queue.reformed() > 0 {
            self.checks = CHECKS_MS.map(|pause_ms| now_ms + pause_ms).to_vec();
        }
    }

    /// Takes in what a target of dead letters has to say.
    pub fn handle_letters(&mut self, event: SessionEvent, now_ms: u64) -> Result<(), Error> {
        self.dead_letters.on_event(event, now_ms);
        self.drive(now_ms)
    }

    /// Gives back the memory of a queue that has nothing to do.
    pub fn rest(&mut self) {
        self.readers.rest();
        self.shell.core_mut().rest();
    }

    /// The group inside, for reads.
    pub fn core(&self) -> &GroupCore<QueueMachine> {
        self.shell.core()
    }

    /// The queue.
    pub fn queue(&self) -> &Arc<Queue> {
        &self.queue
    }

    fn group(&self) -> GroupId {
        self.queue.group
    }

    /// Proposes what waits, performs what is due, until nothing is left.
    fn drive(&mut self, now_ms: u64) -> Result<(), Error> {
        self.hand_over(now_ms);
        self.take_from_silent(now_ms);
        self.work_off(now_ms)?;
        // Once: there may be very many dead letters, and other things to do between them.
        if let Some(buried) = self.bury(now_ms)? {
            self.pending.push(buried);
            self.work_off(now_ms)?;
        }
        Ok(())
    }

    /// Sends dead letters; the command that buries those that are done with.
    fn bury(&mut self, now_ms: u64) -> Result<Option<Bytes>, Error> {
        // The session of its letters is one of this run: nobody would end it if the run were never heard of.
        if self.role != Role::Leader || !self.directory.is_up_to_date() {
            return Ok(None);
        }
        let mut log = Log::of(&mut self.shell);
        let buried = self.dead_letters.work(&mut log, now_ms, &self.letters);
        log.end()?;
        Ok(buried)
    }

    fn work_off(&mut self, now_ms: u64) -> Result<(), Error> {
        loop {
            self.propose(now_ms);
            self.steer(now_ms);
            self.shell.poll(&mut self.outputs)?;
            if self.outputs.is_empty() {
                self.pay()?;
                self.read_on(now_ms)?;
                let gone = self.outbox.flush();
                if gone.is_empty() {
                    if self.outbox.take_ended() {
                        self.metadata.remove_queue(self.queue.group);
                    }
                    return Ok(());
                }
                for session in gone {
                    self.pending.push(system(&Command::SessionDown(session)));
                }
            } else {
                let outputs = std::mem::take(&mut self.outputs);
                self.perform(outputs, now_ms)?;
            }
        }
    }

    /// Sends what links had no room for.
    fn pay(&mut self) -> Result<(), Error> {
        if !self.outbox.can_pay() {
            return Ok(());
        }
        let mut log = Log::of(&mut self.shell);
        self.outbox.pay(|at| log.read(at));
        log.end()
    }

    /// Sends a stream's readers what they may have.
    fn read_on(&mut self, now_ms: u64) -> Result<(), Error> {
        if self.role != Role::Leader || self.shell.core().machine().stream().is_none() {
            return Ok(());
        }
        let (outbox, term) = (&mut self.outbox, self.term);
        let stalled = outbox.stalled();
        let mut log = Log::of(&mut self.shell);
        let is_stalled = |node| stalled.contains(&node);
        self.readers.work(&mut log, now_ms, is_stalled, |effect, payload| {
            outbox.add_read(effect, term, payload);
        });
        log.end()
    }

    fn propose(&mut self, now_ms: u64) {
        while !self.pending.is_empty()
            && self.role == Role::Leader
            && self.shell.core().in_flight() < ENTRIES_IN_FLIGHT_MAX
        {
            let machine = self.shell.core().machine();
            let demand = Demand {
                now_ms,
                settled: machine.settled_total(),
                backlog: machine.ready_len() >= BACKLOG_MIN,
            };
            let most = match machine.stream() {
                Some(_) => STREAM_ENTRY_MAX,
                None => ENTRY_MAX,
            };
            let entry = self.pending.take(most, demand);
            if entry.is_empty() {
                break;
            }
            match self.shell.propose(&entry, now_ms) {
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

    /// Something may be otherwise than this replica last saw it: where the group should be, or who should lead it.
    fn reconsider(&mut self, pace: Pace, now_ms: u64) {
        let picture = self.metadata.view().picture();
        let own = self.io.node;
        let drains = picture.nodes().any(|(node, known)| node == own && known.draining);
        self.place.changed(&self.queue, own, drains, pace, now_ms);
    }

    /// Brings the group to where it should be, one step at a time.
    fn steer(&mut self, now_ms: u64) {
        if self.role != Role::Leader || !self.place.moves() || !self.directory.is_up_to_date() {
            return;
        }
        let core = self.shell.core();
        let is_known = |node| core.members().contains(&node) || core.learners().contains(&node) || core.is_down(node);
        let group = self.group();
        for node in self.place.unready(&self.queue, is_known, now_ms) {
            self.directory.tell(node, Kind::ReplicaQuery(ReplicaQuery { group }));
        }
        let ready = self.place.ready(&self.queue);
        let goal = Goal {
            voters: self.queue.wanted(),
            leader: self.queue.preferred_leader(),
            era: self.queue.era(),
        };
        let course = self.shell.steer(&goal, &ready);
        if course == Course::Underway {
            return;
        }
        if let Some(era) = self.queue.moves() {
            if !self.shell.core_mut().is_settled() {
                return;
            }
            tracing::info!(queue = %self.queue.name, replicas = ?self.queue.wanted(), "has moved");
            self.metadata.submit_later(Change::QueueMoved { group, era });
        }
        self.place.settled();
    }

    /// Lets another replica lead that should.
    fn hand_over(&mut self, now_ms: u64) {
        let is_due = self.place.look_ms().is_some_and(|look_ms| look_ms <= now_ms);
        if self.role != Role::Leader || !is_due || !self.directory.is_up_to_date() {
            return;
        }
        let core = self.shell.core();
        let picture = self.metadata.view().picture();
        let voter = |node: &NodeId| Voter {
            node: *node,
            is_up: !core.is_down(*node),
            is_able: core.has_caught_up(*node),
        };
        let voters: Vec<Voter> = core.members().iter().map(voter).collect();
        let heir = self.place.heir(&self.queue, &picture, self.io.node, &voters, now_ms);
        if let Some(heir) = heir {
            tracing::debug!(queue = %self.queue.name, heir, "hands leadership over");
            self.shell.handle(Event::TransferLeader(heir));
        }
    }

    fn perform(&mut self, outputs: Vec<Output<Effect>>, now_ms: u64) -> Result<(), Error> {
        for output in outputs {
            match output {
                Output::Machine(effect) => self.effect(effect)?,
                Output::Role { role, term, leader } => self.entered(role, term, leader, now_ms)?,
                // A follower's state serves nobody yet.
                Output::Restored | Output::Members => {}
            }
        }
        Ok(())
    }

    fn effect(&mut self, effect: Effect) -> Result<(), Error> {
        let mut log = Log::of(&mut self.shell);
        self.outbox.add(effect, self.term, |at| log.read(at));
        log.end()
    }

    fn entered(&mut self, role: Role, term: u64, leader: Option<NodeId>, now_ms: u64) -> Result<(), Error> {
        let was = std::mem::replace(&mut self.role, role);
        self.term = term;
        if role != Role::Leader {
            self.dead_letters.stop();
            self.readers.clear();
            self.outbox.abdicate();
        }
        match role {
            Role::Leader => {
                if was != Role::Leader {
                    tracing::debug!(queue = %self.queue.name, term, "leads");
                    self.outbox.lead(self.tenure(term));
                    self.reconsider(Pace::Gentle, now_ms);
                    let mut effects = Vec::new();
                    self.shell.core().machine().entered_leader(&mut effects);
                    for request in std::mem::take(&mut self.resyncs) {
                        self.readers.ask(&request, self.shell.core().machine());
                        self.shell.core().machine().resync(&request, &mut effects);
                    }
                    for effect in effects {
                        self.effect(effect)?;
                    }
                    self.check_sessions(None);
                    self.check_again(now_ms);
                    self.listen(now_ms);
                    self.configured = 0;
                    if let Some(queue) = self.metadata.view().queue_by_group(self.group()) {
                        self.obey(queue);
                    }
                    self.configure();
                }
            }
            Role::Elected => {}
            Role::Follower => {
                // Sessions send again to whoever leads next.
                self.pending.clear();
                if leader != Some(self.io.node) {
                    self.directory.leader_is(self.group(), self.tenure(term), leader);
                }
            }
        }
        Ok(())
    }

    /// Takes note of the queue as the metadata have it now.
    fn obey(&mut self, queue: Arc<Queue>) {
        if queue.configured >= self.queue.configured {
            self.queue = queue;
            self.dead_letters.obey(self.queue.clone());
        }
    }

    /// Has the machine obey the settings of the metadata. Every leader sees to it anew; the machine takes each version
    /// once, and none after a later one.
    fn configure(&mut self) {
        let version = self.queue.configured;
        let known = self.shell.core().machine().config_version().max(self.configured);
        if self.role == Role::Leader && version > known {
            self.configured = version;
            let configure = super::config(&self.queue).to_proto(version);
            self.pending.push(system(&Command::Configure(configure)));
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
        for (node, incarnation) in self.directory.ended_runs() {
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
        // What waits or is on its way may begin a session yet.
        let is_busy = !self.pending.is_empty() || self.shell.core().in_flight() > 0;
        if is_busy || self.shell.core().machine().sessions().any(of_it) {
            self.pending.push(system(&Command::NodeDown { node, incarnation }));
        }
    }

    /// How long the queue waits for a node that is silent, if its word on that is known to all replicas.
    fn patience_ms(&self) -> Option<u64> {
        let is_known = self.io.versions.agreed() >= SILENCE;
        self.queue.settings.disconnected_timeout_ms.filter(|_| is_known)
    }

    /// A new leader looks whom it does not hear.
    fn listen(&mut self, now_ms: u64) {
        self.silence.leads();
        let peers = self.io.transport.peers();
        let is_up = |node| peers.iter().any(|(peer, state)| *peer == node && state.is_up());
        for session in self.shell.core().machine().sessions() {
            if session.node != self.io.node && !is_up(session.node) {
                self.silence.began(session.node, now_ms);
            }
        }
    }

    /// Takes back what sessions hold whose nodes were silent for too long.
    fn take_from_silent(&mut self, now_ms: u64) {
        let Some(patience_ms) = self.patience_ms().filter(|_| self.role == Role::Leader) else {
            return;
        };
        for node in self.silence.due(patience_ms, now_ms) {
            let sessions = self.shell.core().machine().sessions();
            let runs = sessions.filter(|session| session.node == node);
            let known = runs.map(|session| session.incarnation).max();
            if let Some(incarnation) = known.or_else(|| self.incarnation_on_the_way(node)) {
                tracing::info!(queue = %self.queue.name, node, "waits no longer for a node that is silent");
                self.pending.push(system(&Command::NodeSilent { node, incarnation }));
            }
        }
    }

    /// The run of a node of which the queue may learn with what is on its way.
    fn incarnation_on_the_way(&self, node: NodeId) -> Option<u64> {
        if self.pending.is_empty() && self.shell.core().in_flight() == 0 {
            return None;
        }
        let peers = self.io.transport.peers();
        let known = peers.into_iter().find(|(peer, _)| *peer == node);
        known.map(|(_, state)| match state {
            PeerState::Up { incarnation } | PeerState::Silent { incarnation } | PeerState::Dead { incarnation } => {
                incarnation
            }
        })
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
        // What arrives late of a run that has ended would begin a session that nobody ends.
        if self.directory.has_ended(record::peek(&bytes).0) {
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
            self.directory.leader_is(self.group(), self.tenure(status.term), leader);
        } else if let Some(leader) = leader {
            let tenure = self.tenure(status.term);
            self.directory.tell(from, leader_is(self.group(), tenure, leader));
        }
    }

    fn tenure(&self, term: u64) -> Tenure {
        (self.shell.core().reformed(), term)
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
            voters: self.shell.core().members().to_vec(),
            learners: self.shell.core().learners().to_vec(),
            is_fresh: self.shell.core().is_fresh(),
            is_pair: self.shell.core().is_pair(),
            reformed: self.shell.core().reformed(),
            able: self.able(),
            stats: machine.stats(),
            consumers: machine.consumers().map(Into::into).collect(),
        }
    }

    fn able(&self) -> Vec<NodeId> {
        let core = self.shell.core();
        let able = core
            .members()
            .iter()
            .copied()
            .filter(|member| core.has_caught_up(*member));
        if self.role == Role::Leader {
            able.collect()
        } else {
            Vec::new()
        }
    }

    fn resync(&mut self, request: queue::Resync) -> Result<(), Error> {
        if self.role != Role::Leader {
            if self.role == Role::Follower {
                // It may send nothing else by which it would learn.
                self.correct(request.node);
            }
            // A session that asks again has had no answer: its last question is enough.
            self.resyncs.retain(|waiting| waiting.session() != request.session());
            if self.resyncs.len() < RESYNCS_MAX {
                self.resyncs.push(request);
            }
            return Ok(());
        }
        let mut effects = Vec::new();
        self.outbox.asked_again(request.session());
        self.readers.ask(&request, self.shell.core().machine());
        self.shell.core().machine().resync(&request, &mut effects);
        let mut log = Log::of(&mut self.shell);
        for effect in effects {
            self.outbox.add_again(effect, self.term, |at| log.read(at));
        }
        log.end()
    }
}

/// Where messages' bytes are. Keeps the first error.
struct Log<'a> {
    core: &'a mut GroupCore<QueueMachine>,
    failed: Option<Error>,
}

impl<'a> Log<'a> {
    fn of(shell: &'a mut GroupShell<QueueMachine>) -> Self {
        Self {
            core: shell.core_mut(),
            failed: None,
        }
    }

    fn end(self) -> Result<(), Error> {
        self.failed.map_or(Ok(()), Err)
    }
}

impl Source for Log<'_> {
    fn machine(&self) -> &QueueMachine {
        self.core.machine()
    }

    fn read(&mut self, at: Place) -> Option<Bytes> {
        match self.core.payload(at.index) {
            Ok(payload) => {
                let start = at.offset as usize;
                let end = start + at.len as usize;
                payload
                    .filter(|payload| payload.len() >= end)
                    .map(|payload| payload.slice(start..end))
            }
            Err(error) => {
                self.failed.get_or_insert(error);
                None
            }
        }
    }
}

impl Entries for Log<'_> {
    fn machine(&self) -> &QueueMachine {
        self.core.machine()
    }

    fn entry(&mut self, index: u64) -> Option<(u64, Bytes)> {
        match self.core.stamped_payload(index) {
            Ok(entry) => entry,
            Err(error) => {
                self.failed.get_or_insert(error);
                None
            }
        }
    }
}

/// Whether `node` should lead the queue's group when it begins.
fn first_leader(queue: &Queue) -> Option<NodeId> {
    match queue.preferred_leader() {
        0 => queue.replicas().first().copied(),
        leader => Some(leader),
    }
}

/// From which decision on an addition to a group is one of a replica that this node has. By an earlier one a replica was
/// added that was in a directory which it has no more.
fn added_since(picture: &Picture, io: &Io) -> u64 {
    match picture.node(io.node) {
        Some(known) if known.directory == io.directory => known.first_group,
        // Not known yet: whoever leads says when the replica has caught up.
        _ => u64::MAX,
    }
}

/// Whether this node may have held that group before, on a disk that it has no more.
fn may_have_been_lost(picture: &Picture, io: &Io, group: GroupId) -> bool {
    match picture.nodes().find(|(node, _)| *node == io.node) {
        Some((_, known)) if known.directory == io.directory => group < known.first_group,
        // What is known of this node is older than its directory, and so is the group.
        _ => true,
    }
}
