//! The whole of a run: nodes, links and clients on one simulated clock, one event after the other.

use std::collections::BTreeMap;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use warren_broker::metadata::replica::GROUP;
use warren_cluster::log::LogStore as _;
use warren_cluster::transport::{Envelope, OutgoingSnapshot};
use warren_cluster::{GroupId, NodeId, version};

use super::boxes::{Letter, Target};
use super::checker::{Checker, Violation};
use super::client::{Client, Purpose};
use super::disk::Store;
use super::mutation::Mutation;
use super::node::{Node, NodeRun, Turn};
use super::operator::Task;
use super::options::Options;
use super::random::Random;
use super::wire::Link;

/// The time in the world that is told step by step.
pub(crate) static NOW_US: AtomicU64 = AtomicU64::new(0);
/// Raft's and the metadata's tick.
const TICK_US: u64 = 100_000;
/// How often a run looks at its links.
pub(crate) const BEAT_US: u64 = 50_000;
/// After the faults end, everything must have been consumed by then.
const DRAIN_MS: u64 = 150_000;
/// A run that takes more events than this never comes to rest.
const EVENTS_MAX: u64 = 3_000_000;

/// What happens next. Whatever belongs to a run names it: what is meant for a run that has ended is void.
pub(crate) enum Event {
    /// A mailbox holds something.
    Wake(NodeId, u64, Target),
    /// 100 ms have passed.
    Tick(NodeId, u64, Target),
    /// A connection's timer.
    Timer(NodeId, u64, u64),
    /// A queue's timer.
    Ring(NodeId, u64, GroupId),
    /// A run looks at its links.
    Beat(NodeId, u64),
    /// The write that was under way is done.
    Written(NodeId, u64),
    /// The link's first envelope is due.
    Arrive(NodeId, NodeId),
    /// An envelope that came out of turn.
    Stray(NodeId, u64, NodeId, Envelope),
    /// A run tries to open its link to a peer.
    Open(NodeId, u64, NodeId),
    /// An end of a link notices that a stream has ended.
    Ended(Ended),
    /// A snapshot is sent.
    Snapshot(NodeId, u64, NodeId, Box<OutgoingSnapshot>),
    /// A node's process begins.
    Start(NodeId),
    /// Bytes from a client; none: its socket is closed.
    FromClient(NodeId, u64, u64, Option<Bytes>),
    /// Bytes for a client, on the connection with this number; none: the socket is closed.
    ToClient(usize, u64, Option<Bytes>),
    /// A client does something of its own accord.
    Act(usize),
    /// Something breaks.
    Fault,
    /// What was blocked between two nodes is not blocked any more.
    Unblock(Vec<(NodeId, NodeId)>),
    /// An operator looks whether there is anything to do.
    Operate,
    /// The faults end.
    Heal,
}

/// See [`Event::Ended`].
pub(crate) struct Ended {
    pub(crate) node: NodeId,
    pub(crate) run: u64,
    pub(crate) from: NodeId,
    pub(crate) to: NodeId,
    pub(crate) stream: u64,
    pub(crate) by_peer: bool,
}

/// A client and the connection that it has.
pub(crate) struct Seat {
    pub(crate) client: Client,
    /// Counts its connections.
    pub(crate) connection: u64,
    /// Node, run and key of the session at the other end.
    pub(crate) server: Option<(NodeId, u64, u64)>,
}

/// Figures of a run that found nothing.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) events: u64,
    pub(crate) simulated_ms: u64,
    pub(crate) confirmed: u64,
    pub(crate) delivered: u64,
    /// Of these, dead letters.
    pub(crate) letters: u64,
    /// Processes that ended before their time.
    pub(crate) crashes: u64,
    /// Disks that were lost.
    pub(crate) lost_disks: u64,
    /// Records that were corrupt from some time on.
    pub(crate) rots: u64,
    /// Nodes that ended because they read one.
    pub(crate) found_rotten: u64,
    /// Snapshots that replicas took over.
    pub(crate) snapshots: u64,
    /// Nodes that were forgotten.
    pub(crate) forgotten: u64,
    /// How often the cluster went on without its majority.
    pub(crate) recoveries: u64,
    /// Queues that went on with one replica of those that they had.
    pub(crate) shrunk: u64,
    /// Nodes that were turned away, and joined again.
    pub(crate) expelled: u64,
    /// A digest of the order of events.
    pub(crate) trace: u64,
}

/// See the module.
pub(crate) struct World {
    pub(crate) options: Options,
    pub(crate) mutation: Option<Mutation>,
    pub(crate) now_us: u64,
    agenda: BTreeMap<(u64, u64), Event>,
    next: u64,
    pub(crate) nodes: BTreeMap<NodeId, Node>,
    /// Those that begin the cluster.
    pub(crate) founders: Vec<NodeId>,
    /// All that are part of it.
    pub(crate) members: Vec<NodeId>,
    pub(crate) links: BTreeMap<(NodeId, NodeId), Link>,
    pub(crate) seats: Vec<Seat>,
    pub(crate) checker: Checker,
    /// Order and pace of everything.
    pub(crate) pace: Random,
    pub(crate) network: Random,
    pub(crate) faults: Random,
    pub(crate) work: Random,
    pub(crate) runs: u64,
    pub(crate) next_session: u64,
    pub(crate) healed: bool,
    /// What an operator is doing, and for how many looks.
    pub(crate) task: Task,
    pub(crate) looks: u32,
    /// The decision that a queue obeyed when it was asked to go on with one replica: that may be agreed on much later.
    pub(crate) asked: BTreeMap<usize, u64>,
    pub(crate) operations: Random,
    pub(crate) has_recovered: bool,
    /// See [`World::is_assembled`].
    pub(crate) assembled: bool,
    /// Nothing breaks until then.
    pub(crate) calm_until_us: u64,
    /// Does not begin any more.
    pub(crate) gone: Option<NodeId>,
    pub(crate) verbose: bool,
    pub(crate) summary: Summary,
}

impl World {
    pub(crate) fn new(seed: u64, mutation: Option<Mutation>, verbose: bool) -> Self {
        let options = Options::draw(seed, mutation);
        let members: Vec<NodeId> = (1..=options.nodes).collect();
        let founders = if options.founds_alone { vec![1] } else { members.clone() };
        let mut world = Self {
            mutation,
            now_us: 0,
            agenda: BTreeMap::new(),
            next: 0,
            nodes: BTreeMap::new(),
            links: BTreeMap::new(),
            seats: Vec::new(),
            checker: Checker::new(verbose),
            pace: Random::new(seed, 2),
            network: Random::new(seed, 3),
            faults: Random::new(seed, 4),
            work: Random::new(seed, 5),
            runs: 0,
            next_session: 0,
            task: Task::default(),
            looks: 0,
            asked: BTreeMap::new(),
            operations: Random::new(seed, 14),
            has_recovered: false,
            assembled: false,
            calm_until_us: 0,
            healed: false,
            gone: None,
            verbose,
            summary: Summary::default(),
            founders: founders.clone(),
            members: founders.clone(),
            options,
        };
        let mut all = members.clone();
        if world.options.joins {
            all.push(members.len() as u64 + 1);
        }
        for id in &all {
            let skew = world.faults.from(0, 2 * world.options.skew_ms);
            world.nodes.insert(
                *id,
                Node {
                    id: *id,
                    store: Store::new(mutation),
                    incarnation: 0,
                    directory: 0,
                    run: None,
                    skew_ms: skew as i64 - world.options.skew_ms as i64,
                    frozen_until_us: 0,
                    slow_until_us: 0,
                    host_up: true,
                    starting: true,
                    is_late: !founders.contains(id),
                    joined: None,
                    recovery: None,
                    held: false,
                    may_be_expelled: false,
                },
            );
            for other in &all {
                world.links.insert((*id, *other), Link::default());
            }
            if members.contains(id) {
                // Those that join find somebody to ask.
                let late = if founders.contains(id) { 0 } else { 1_500_000 };
                let after = world.pace.from(0, 200_000);
                world.after(late + after, Event::Start(*id));
            } else {
                let after = world.faults.from(1_000, world.options.faulty_ms);
                world.after(1_000 * after, Event::Start(*id));
            }
        }
        world.seat_clients();
        world.begin_operations();
        world.after(1_500_000, Event::Fault);
        world.after(world.options.faulty_ms * 1_000, Event::Heal);
        world
    }

    fn seat_clients(&mut self) {
        let queues = self.options.queues.len();
        let mut purposes = vec![Purpose::Publish; self.options.publishers as usize];
        purposes.extend((0..self.options.consumers as usize).map(|at| Purpose::Consume(at % queues)));
        purposes.extend((0..self.options.getters as usize).map(|at| Purpose::Get(at % queues)));
        let letters = (0..queues).filter(|queue| self.options.queues[*queue].letters.is_some());
        purposes.extend(letters.map(Purpose::Letters));
        let deleted = (0..queues).filter(|queue| self.options.queues[*queue].deleted);
        purposes.extend(deleted.map(Purpose::Delete));
        if self.options.stream {
            purposes.extend([Purpose::Read; 2]);
        }
        for purpose in purposes {
            self.seat(purpose);
        }
    }

    fn seat(&mut self, purpose: Purpose) {
        let at = self.seats.len();
        self.seats.push(Seat {
            client: Client::new(at as u64, purpose),
            connection: 0,
            server: None,
        });
        self.after(1_000, Event::Act(at));
    }

    pub(crate) fn now_ms(&self) -> u64 {
        self.now_us / 1_000
    }

    pub(crate) fn say(&self, what: impl FnOnce() -> String) {
        if self.verbose {
            println!("{:>9} us  {}", self.now_us, what());
        }
    }

    /// Puts an event on the agenda.
    pub(crate) fn after(&mut self, delay_us: u64, event: Event) {
        self.at(self.now_us + delay_us, event);
    }

    pub(crate) fn at(&mut self, at_us: u64, event: Event) {
        self.next += 1;
        self.agenda.insert((at_us.max(self.now_us), self.next), event);
    }

    /// Runs to the end.
    pub(crate) fn run(mut self) -> Result<Summary, Violation> {
        while let Some(((at_us, _), event)) = self.agenda.pop_first() {
            self.now_us = at_us;
            if self.verbose {
                NOW_US.store(at_us, Ordering::Relaxed);
            }
            self.summary.events += 1;
            if self.summary.events > EVENTS_MAX {
                self.checker.fail(format!("no rest after {EVENTS_MAX} events"));
            }
            self.step(event);
            if let Some(violation) = self.checker.violation.take() {
                return Err(violation);
            }
            if self.healed && self.summary.events.is_multiple_of(64) && self.is_at_rest() {
                break;
            }
            if self.now_ms() > self.options.faulty_ms + DRAIN_MS {
                return Err(Violation(format!("not at rest in time: {}", self.unrest())));
            }
        }
        self.finish();
        if let Some(violation) = self.checker.violation.take() {
            return Err(violation);
        }
        self.summary.simulated_ms = self.now_ms();
        self.summary.confirmed = self.checker.confirmed;
        self.summary.delivered = self.checker.delivered;
        self.summary.letters = self.checker.letters;
        Ok(self.summary)
    }

    /// The run that an event is meant for, if it is still there and not frozen; else the event waits or is void.
    fn present(&mut self, node: NodeId, run: u64, event: Event) -> Option<Event> {
        let now_us = self.now_us;
        let place = self.nodes.get(&node)?;
        if place.run.as_ref().is_none_or(|present| present.number != run) {
            return None;
        }
        if place.frozen_until_us > now_us {
            let until_us = place.frozen_until_us;
            self.at(until_us, event);
            return None;
        }
        self.summary.trace = (self.summary.trace ^ now_us ^ (node << 56)).wrapping_mul(0x0100_0000_01b3);
        Some(event)
    }

    fn step(&mut self, event: Event) {
        let event = match &event {
            Event::Wake(node, run, _)
            | Event::Tick(node, run, _)
            | Event::Timer(node, run, _)
            | Event::Ring(node, run, _)
            | Event::Beat(node, run)
            | Event::Written(node, run)
            | Event::Stray(node, run, ..)
            | Event::Open(node, run, _)
            | Event::Snapshot(node, run, ..)
            | Event::FromClient(node, run, ..) => {
                let (node, run) = (*node, *run);
                self.present(node, run, event)
            }
            Event::Ended(ended) => {
                let (node, run) = (ended.node, ended.run);
                self.present(node, run, event)
            }
            _ => Some(event),
        };
        let Some(event) = event else { return };
        match event {
            Event::Wake(node, _, target) => self.wake(node, target),
            Event::Tick(node, _, target) => self.tick(node, target),
            Event::Timer(node, _, key) => {
                let due = self.nodes[&node]
                    .run
                    .as_ref()
                    .and_then(|run| run.sessions.get(&key)?.timer_us);
                // The timer may have been set anew meanwhile.
                if due.is_some_and(|due| due <= self.now_us) {
                    self.turn(node, key, Turn::Tick);
                }
            }
            Event::Ring(node, _, group) => self.ring(node, group),
            Event::Beat(node, _) => self.beat(node),
            Event::Written(node, _) => {
                if let Some(run) = &self.nodes[&node].run {
                    run.disk.finish();
                }
                self.after_step(node, Ok(()));
            }
            Event::Arrive(from, to) => self.arrive(from, to),
            Event::Stray(node, _, from, envelope) => self.deliver(from, node, envelope),
            Event::Open(node, _, peer) => self.open(node, peer),
            Event::Ended(ended) => self.ended(&ended),
            Event::Snapshot(node, _, to, snapshot) => self.snapshot(node, to, *snapshot),
            Event::Start(node) => self.start(node),
            Event::FromClient(node, _, key, bytes) => {
                let turn = bytes.map_or(Turn::Lost, Turn::Bytes);
                self.turn(node, key, turn);
            }
            Event::ToClient(at, connection, bytes) => self.for_client(at, connection, bytes),
            Event::Act(at) => self.act(at),
            Event::Fault => self.fault(),
            Event::Unblock(pairs) => {
                for pair in pairs {
                    self.unblock(pair);
                }
            }
            Event::Operate => self.operate(),
            Event::Heal => self.heal(),
        }
    }

    fn start(&mut self, id: NodeId) {
        let number = self.runs + 1;
        let now_us = self.now_us;
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.starting = false;
        if node.run.is_some() || self.gone == Some(id) || node.held {
            return;
        }
        let wall_ms = node.wall_ms(now_us);
        if self.mutation != Some(Mutation::ReusesIncarnation) || node.incarnation == 0 {
            node.incarnation = (node.incarnation + 1).max(wall_ms);
        }
        let is_empty = node.store.groups().expect("a healthy store").is_empty();
        let is_late = node.is_late;
        // It keeps its number while it asks.
        let asks = is_late && node.directory > 0 && node.joined.is_none_or(|joined| joined.directory != node.directory);
        if is_empty && !asks && (self.mutation != Some(Mutation::HidesLoss) || node.directory == 0) {
            node.directory = node.incarnation;
        }
        let directory = node.directory;
        if is_late && is_empty && !self.may_begin(id, directory) {
            let after = self.pace.from(100_000, 1_000_000);
            return self.after(after, Event::Start(id));
        }
        let Some(node) = self.nodes.get_mut(&id) else { return };
        node.host_up = true;
        self.runs = number;
        let founders: &[NodeId] = if is_late { &[] } else { &self.founders };
        // Those that its configuration names, or those that there were when it joined.
        let known: &[NodeId] = if is_late { &self.members } else { &self.founders };
        let started = NodeRun::start(node, number, known, founders, &self.options, wall_ms);
        let result = match started {
            Ok(run) => {
                node.run = Some(run);
                Ok(())
            }
            Err(error) => Err(error),
        };
        self.say(|| format!("node {id} starts as run {number}"));
        self.reset_streams(id);
        let peers = self.nodes[&id].run.as_ref().map(|run| run.net.peer_ids());
        for peer in peers.unwrap_or_default() {
            let delay = self.network.from(1_000, 20_000);
            self.after(delay, Event::Open(id, number, peer));
        }
        self.after(BEAT_US, Event::Beat(id, number));
        self.after(TICK_US, Event::Tick(id, number, Target::Metadata));
        self.after_step(id, result);
    }

    /// A machine that is back knows nothing of the streams that it had, and says so to whoever still sends on them.
    fn reset_streams(&mut self, id: NodeId) {
        for peer in self
            .nodes
            .keys()
            .copied()
            .filter(|peer| *peer != id)
            .collect::<Vec<_>>()
        {
            let Some(run) = self.nodes[&peer].run.as_ref().map(|run| run.number) else {
                continue;
            };
            if self.links[&(id, peer)].blocked || self.links[&(peer, id)].blocked {
                continue;
            }
            for (from, to) in [(id, peer), (peer, id)] {
                let link = &self.links[&(from, to)];
                let stream = if from == id { link.receiver } else { link.sender };
                if stream == 0 {
                    continue;
                }
                let ended = Ended {
                    node: peer,
                    run,
                    from,
                    to,
                    stream,
                    by_peer: true,
                };
                let delay = self.network.from(1_000, 150_000);
                self.after(delay, Event::Ended(ended));
            }
        }
    }

    /// A node without a disk asks to be part of the cluster; whether it was told that it is.
    fn may_begin(&mut self, id: NodeId, directory: u64) -> bool {
        let asked = self.members.clone();
        let asked = *self.faults.pick(&asked);
        let Some(run) = self.nodes.get(&asked).and_then(|node| node.run.as_ref()) else {
            return false;
        };
        if run.picture().is_forgotten(id, directory) {
            // Its clock is behind that of one that was there before: its operator sees to both.
            if let Some(node) = self.nodes.get_mut(&id) {
                node.directory = 0;
                node.skew_ms += 5_000;
            }
            return false;
        }
        let runs = self.nodes.values().filter_map(|node| node.run.as_ref());
        let latest = runs.map(|run| run.applied().0).max();
        if !run.is_needed(id) && (!run.is_up_to_date() || Some(run.applied().0) < latest) {
            // It has the joining agreed on, and answers when it has applied that.
            return false;
        }
        match run.has_joined(id, directory) {
            Some(joined) => {
                self.say(|| format!("node {id} has joined, says node {asked}"));
                if let Some(node) = self.nodes.get_mut(&id) {
                    node.joined = Some(joined);
                    node.may_be_expelled = self.options.forgets;
                }
                if !self.members.contains(&id) {
                    self.members.push(id);
                }
                true
            }
            None => {
                run.ask_to_join(id, directory);
                self.after_step(asked, Ok(()));
                false
            }
        }
    }

    /// One letter of one mailbox.
    fn wake(&mut self, id: NodeId, target: Target) {
        let now_us = self.now_us;
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let wall_ms = node.wall_ms(now_us);
        let Some(run) = node.run.as_mut() else { return };
        let (letter, more) = run.boxes.take(target);
        if more {
            let (number, delay) = (run.number, self.pace.from(1, 30));
            self.after(delay, Event::Wake(id, number, target));
        }
        let Some(letter) = letter else { return };
        let letter = match (target, letter) {
            (Target::Session(key), Letter::Session(event)) => return self.turn(id, key, Turn::Event(event)),
            (_, letter) => letter,
        };
        let run = self.nodes.get_mut(&id).and_then(|node| node.run.as_mut());
        let result = run.map_or(Ok(()), |run| run.letter(target, letter, wall_ms));
        self.look(id, target);
        self.after_step(id, result);
    }

    fn tick(&mut self, id: NodeId, target: Target) {
        let now_us = self.now_us;
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let wall_ms = node.wall_ms(now_us);
        let Some(run) = node.run.as_mut() else { return };
        let number = run.number;
        let result = match target {
            Target::Metadata => {
                self.after(TICK_US, Event::Tick(id, number, target));
                let run = self.nodes.get_mut(&id).and_then(|node| node.run.as_mut());
                run.map_or(Ok(()), |run| run.tick_metadata(wall_ms))
            }
            Target::Queue(group) => {
                run.ticking.remove(&group);
                match run.queues.get_mut(&group) {
                    Some(replica) => replica.tick(wall_ms),
                    None => Ok(()),
                }
            }
            Target::Session(_) => Ok(()),
        };
        self.look(id, target);
        self.after_step(id, result);
    }

    /// A queue's timer has run out.
    fn ring(&mut self, id: NodeId, group: GroupId) {
        let now_us = self.now_us;
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let wall_ms = node.wall_ms(now_us);
        let Some(run) = node.run.as_mut() else { return };
        let result = run.ring(group, wall_ms, now_us);
        self.look(id, Target::Queue(group));
        self.after_step(id, result);
    }

    /// The checker looks at a replica that may have moved.
    fn look(&mut self, id: NodeId, target: Target) {
        if !self.members.contains(&id) {
            // What was given up or forgotten goes its own way until it knows.
            return;
        }
        let Some(run) = self.nodes.get(&id).and_then(|node| node.run.as_ref()) else {
            return;
        };
        match target {
            Target::Metadata => {
                self.checker.group(id, GROUP, run.metadata.core());
            }
            Target::Queue(group) => {
                if let Some(replica) = run.queues.get(&group) {
                    self.checker.queue(id, replica);
                }
            }
            Target::Session(_) => {}
        }
    }

    /// A turn of a connection.
    fn turn(&mut self, id: NodeId, key: u64, turn: Turn) {
        let now_us = self.now_us;
        let Some(run) = self.nodes.get_mut(&id).and_then(|node| node.run.as_mut()) else {
            return;
        };
        let number = run.number;
        let client = run.sessions.get(&key).and_then(|session| session.client);
        let turned = run.turn(key, turn, now_us);
        if let Some(due_us) = run.sessions.get(&key).and_then(|session| session.timer_us) {
            self.at(due_us, Event::Timer(id, number, key));
        }
        if let Some((at, connection)) = client {
            if !turned.output.is_empty() {
                // The same pace always: nothing overtakes on one socket.
                self.after(40, Event::ToClient(at, connection, Some(turned.output.freeze())));
            }
            if turned.hung_up || turned.over {
                self.after(100, Event::ToClient(at, connection, None));
                if let Some(session) = self.session(id, key) {
                    session.client = None;
                }
            }
        }
        self.after_step(id, Ok(()));
    }

    fn session(&mut self, id: NodeId, key: u64) -> Option<&mut super::node::Session> {
        self.nodes.get_mut(&id)?.run.as_mut()?.sessions.get_mut(&key)
    }

    /// Collects what a step of a node has brought about.
    pub(crate) fn after_step(&mut self, id: NodeId, result: Result<(), warren_cluster::group::Error>) {
        let now_us = self.now_us;
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let made_to_fail = node.store.broken.load(std::sync::atomic::Ordering::Relaxed);
        let failed = node.run.as_ref().is_some_and(|run| run.disk.has_failed());
        if (result.is_err() || failed) && node.store.has_met_rot() {
            // It says so and ends; its operator gives it an empty disk.
            self.summary.found_rotten += 1;
            return self.lose_disk(id);
        }
        if let Err(error) = result {
            if !made_to_fail {
                return self.checker.fail(format!("node {id} stops: {error}"));
            }
            return self.crash(id, true);
        }
        if failed {
            if !made_to_fail {
                return self.checker.fail(format!("node {id} stops: its disk failed"));
            }
            return self.crash(id, true);
        }
        let slow = node.slow_until_us > now_us;
        let wall_ms = node.wall_ms(now_us);
        let Some(run) = &mut node.run else { return };
        if let Some(conflict) = run
            .metadata
            .conflict()
            .filter(|_| self.mutation != Some(Mutation::DoesNotFence))
        {
            let why = format!("ends: {conflict}");
            return self.expel(id, &why);
        }
        if run.metadata.is_forgotten() {
            return self.expel(id, "has applied that it was forgotten");
        }
        let (new, gone) = run.net.take_changes();
        if !new.is_empty() || !gone.is_empty() {
            return self.peers_change(id, new, gone);
        }
        let Some(node) = self.nodes.get_mut(&id) else { return };
        let Some(run) = &mut node.run else { return };
        let number = run.number;
        let out = run.net.take_out();
        let snapshots = run.net.take_snapshots();
        let filled = run.boxes.take_filled();
        let waiting = run.waiting_sessions();
        let needs: Vec<_> = run
            .queues
            .iter_mut()
            .filter_map(|(group, replica)| {
                let look = replica.wakes(wall_ms).and_then(|(_, look)| look);
                (replica.needs_ticks() || look.is_some()).then_some(*group)
            })
            .collect();
        let writes = run.disk.begin();
        let wall_ms = node.wall_ms(now_us);
        let run = self.nodes.get_mut(&id).and_then(|node| node.run.as_mut());
        let rings = run.map(|run| run.alarms(wall_ms, now_us)).unwrap_or_default();
        for (at_us, group) in rings {
            self.at(at_us, Event::Ring(id, number, group));
        }
        for (to, envelope) in out {
            self.send(id, to, envelope);
        }
        for (to, snapshot) in snapshots {
            let delay = self.network.from(100, 20_000);
            self.after(delay, Event::Snapshot(id, number, to, Box::new(snapshot)));
        }
        for target in filled {
            let delay = if self.pace.chance(200) {
                self.pace.from(1_000, 20_000)
            } else {
                self.pace.from(2, 60)
            };
            self.after(delay, Event::Wake(id, number, target));
        }
        for key in waiting {
            // An answer of the metadata comes without a letter.
            let answered = self.session(id, key).is_some_and(|session| session.has_answer());
            if answered {
                self.turn(id, key, Turn::Look);
            }
        }
        for group in needs {
            let run = self.nodes.get_mut(&id).and_then(|node| node.run.as_mut());
            if run.is_some_and(|run| run.ticking.insert(group)) {
                self.after(TICK_US, Event::Tick(id, number, Target::Queue(group)));
            }
        }
        if writes {
            let (low, high) = self.options.disk_us;
            let delay = if slow {
                self.pace.from(20_000, 400_000)
            } else {
                self.pace.from(low, high)
            };
            self.after(delay, Event::Written(id, number));
        }
    }

    /// The faults end: everything works from here on, and all must be consumed.
    fn heal(&mut self) {
        self.healed = true;
        self.say(|| "everything works from here on".into());
        let now_us = self.now_us;
        let pairs: Vec<_> = self.links.keys().copied().collect();
        for pair in pairs {
            self.unblock(pair);
        }
        let options = &self.options;
        // A queue that was declared before all were there may have two replicas.
        let is_growing = options.joins || options.founds_alone;
        let is_changing = options.forgets || options.recovers || options.shrinks || is_growing;
        // Nobody joins, or is forgotten, before all have agreed on entries that say so.
        let mut runs = self.nodes.values().filter_map(|node| node.run.as_ref());
        let is_agreed = runs.any(|run| run.picture().version() == version::LATEST);
        let is_large = is_agreed && self.members.len() >= self.options.nodes as usize && self.task == Task::Idle;
        if self.options.loses_node && (!is_changing || is_large && self.is_spread(3)) {
            self.lose_node();
        }
        // Whatever has rotted and was not read is found now.
        let rotten: Vec<NodeId> = self
            .nodes
            .values()
            .filter(|node| node.store.memory().is_corrupt() && self.gone != Some(node.id))
            .map(|node| node.id)
            .collect();
        for id in rotten {
            self.lose_disk(id);
        }
        let ids: Vec<NodeId> = self.nodes.keys().copied().collect();
        for id in ids {
            if let Some(node) = self.nodes.get_mut(&id) {
                node.slow_until_us = now_us;
                if node.run.is_none() && !node.starting && !node.held {
                    node.starting = true;
                    self.after(10_000, Event::Start(id));
                }
            }
        }
        let consumed: Vec<usize> = self
            .seats
            .iter()
            .filter_map(|seat| match seat.client.purpose {
                Purpose::Consume(queue) => Some(queue),
                _ => None,
            })
            .collect();
        for queue in 0..self.options.queues.len() {
            if !consumed.contains(&queue) {
                self.seat(Purpose::Consume(queue));
            }
        }
        for seat in &mut self.seats {
            seat.client.draining = true;
        }
    }

    /// A node is gone for good, and some of the others will never have seen it.
    fn lose_node(&mut self) {
        let members = self.members.clone();
        let mut id = *self.faults.pick(&members);
        let broken: Vec<NodeId> = members
            .iter()
            .copied()
            .filter(|member| !self.has_all(*member))
            .collect();
        match broken[..] {
            [] => {}
            // What its disk had held is on the others.
            [only] => id = only,
            _ => return,
        }
        self.gone = Some(id);
        self.say(|| format!("node {id} will not come back"));
        for node in members {
            if node == id || self.faults.below(2) == 0 {
                let killed = self.faults.below(2) == 0;
                self.crash(node, killed);
            }
        }
    }
}
