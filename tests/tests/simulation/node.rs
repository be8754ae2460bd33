//! One node: what outlives a crash, and one run of the production code around its mailboxes, disk and links.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use tokio::sync::oneshot;
use warren_broker::admin::Forwarded;
use warren_broker::auth::{Algorithm, PasswordHash};
use warren_broker::boot;
use warren_broker::connection::census::Count;
use warren_broker::connection::way::Way;
use warren_broker::connection::{Connection, Effect, Ends, Limits};
use warren_broker::directory::{Directory, Inbound, SessionEvent};
use warren_broker::metadata::client::MetadataClient;
use warren_broker::metadata::replica::{GROUP, MetadataReplica, Recovery, Round, Setup};
use warren_broker::metadata::{AddUser, Bootstrap, Change, Outcome, Picture, Queue, Run, View, reform_of};
use warren_broker::node::NodeInbox;
use warren_broker::queue::Due;
use warren_broker::queue::client::ChannelId;
use warren_broker::queue::replica::QueueReplica;
use warren_cluster::group::shell::Io;
use warren_cluster::group::{Error, Options as GroupOptions};
use warren_cluster::liveness::{self, Liveness};
use warren_cluster::transport::{Peer, Transport};
use warren_cluster::version::Versions;
use warren_cluster::{GroupId, NodeId};
use warren_proto::node::{AdminForward, AdminRows};
use warren_proto::record::SessionId;

use super::boxes::{Boxes, Letter, Target};
use super::disk::{Disk, Store};
use super::options::Options;
use super::wire::Net;

/// Milliseconds since 1970 when the simulation begins.
const EPOCH_MS: u64 = 1_700_000_000_000;

/// A deadline for which an entry was asked is not asked for again within this time.
const ASKED_AGAIN_MS: u64 = 1_000;

/// A queue's timer, as its actor keeps it.
#[derive(Default)]
struct Alarm {
    /// On the simulation's clock.
    armed_us: Option<u64>,
    due: Option<Due>,
    asked: Option<(u64, u64)>,
}

/// What outlives a crash.
pub(crate) struct Node {
    pub(crate) id: NodeId,
    pub(crate) store: Arc<Store>,
    pub(crate) incarnation: u64,
    /// The first run that had its disk.
    pub(crate) directory: u64,
    pub(crate) run: Option<NodeRun>,
    /// Its wall clock is so far from the simulation's.
    pub(crate) skew_ms: i64,
    /// It does nothing until then.
    pub(crate) frozen_until_us: u64,
    /// Its disk is slow until then.
    pub(crate) slow_until_us: u64,
    /// Its machine answers, even if the process is not there.
    pub(crate) host_up: bool,
    /// How long the next beginning of the process takes; none is under way while it runs.
    pub(crate) starting: bool,
    /// It does not begin the cluster: it joins those that have.
    pub(crate) is_late: bool,
    /// The directory that has joined a cluster which others had begun, and how.
    pub(crate) joined: Option<Joined>,
    /// What an operator decided on it when the majority was lost.
    pub(crate) recovery: Option<Recovery>,
    /// An operator keeps it from beginning.
    pub(crate) held: bool,
    /// The cluster may tell it that it is no part of it.
    pub(crate) may_be_expelled: bool,
}

/// What a node was told that has joined.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Joined {
    pub(crate) directory: u64,
    pub(crate) era: u64,
    pub(crate) reformed: u64,
}

impl Node {
    pub(crate) fn wall_ms(&self, now_us: u64) -> u64 {
        (EPOCH_MS + now_us / 1_000).saturating_add_signed(self.skew_ms)
    }
}

/// Operators are not simulated.
struct NoOperators;

impl Forwarded for NoOperators {
    fn asked(&self, _: NodeId, _: AdminForward) {}

    fn answered(&self, _: NodeId, _: AdminRows) {}
}

/// One client's connection, as its actor would keep it.
pub(crate) struct Session {
    pub(crate) core: Connection,
    way: Way,
    input: BytesMut,
    outcomes: Vec<(Option<ChannelId>, oneshot::Receiver<Outcome>)>,
    /// The client at the other end of the socket, and which of its connections; none when the socket is gone.
    pub(crate) client: Option<(usize, u64)>,
    pub(crate) timer_us: Option<u64>,
    begun_us: u64,
}

/// What came of a turn of a session.
#[derive(Default)]
pub(crate) struct Turned {
    pub(crate) output: BytesMut,
    pub(crate) hung_up: bool,
    pub(crate) over: bool,
}

/// One process.
pub(crate) struct NodeRun {
    /// Counts the runs of all nodes.
    pub(crate) number: u64,
    pub(crate) incarnation: u64,
    pub(crate) boxes: Arc<Boxes>,
    pub(crate) disk: Arc<Disk>,
    pub(crate) net: Arc<Net>,
    pub(crate) inbox: Arc<NodeInbox>,
    pub(crate) liveness: Liveness,
    pub(crate) metadata: MetadataReplica,
    pub(crate) queues: BTreeMap<GroupId, QueueReplica>,
    pub(crate) sessions: BTreeMap<u64, Session>,
    /// Queues whose ticks are under way.
    pub(crate) ticking: std::collections::BTreeSet<GroupId>,
    alarms: BTreeMap<GroupId, Alarm>,
    directory: Arc<Directory>,
    client: MetadataClient,
    members: Vec<NodeId>,
    view: View,
    io: Io,
    options: GroupOptions,
}

fn bootstrap(run: u64) -> Bootstrap {
    Bootstrap {
        cluster_id: format!("simulation-{run}"),
        vhost: "/".into(),
        user: AddUser {
            name: "guest".into(),
            password: Some(PasswordHash::new(Algorithm::Sha256, [1, 2, 3, 4], b"guest")),
            tags: vec!["administrator".into()],
        },
    }
}

impl NodeRun {
    /// Starts a process on what `node` has stored.
    pub(crate) fn start(
        node: &Node,
        number: u64,
        known: &[NodeId],
        members: &[NodeId],
        options: &Options,
        wall_ms: u64,
    ) -> Result<Self, Error> {
        let id = node.id;
        let incarnation = node.incarnation;
        let view = View::new();
        let directory = Arc::new(Directory::new(id, incarnation, view.clone()));
        let inbox = Arc::new(NodeInbox::new(
            directory.clone(),
            node.store.clone(),
            boot::generation(incarnation),
        ));
        let boxes = Boxes::new(options.mailbox);
        let disk = Disk::new(node.store.clone());
        // Those that were lost must not be heard before it is agreed on that they are.
        let recovery = node.recovery.as_ref();
        let is_left = |other: &NodeId| recovery.is_none_or(|recovery| recovery.survivors.contains(other));
        let peer = |other: &NodeId| Peer {
            node: *other,
            name: format!("node-{other}"),
            address: format!("node-{other}:1"),
        };
        let peers: Vec<Peer> = known.iter().filter(|other| **other != id).map(peer).collect();
        let first: Vec<Peer> = peers.iter().filter(|peer| is_left(&peer.node)).cloned().collect();
        let net = Net::new(options.link, id, node.directory, &first);
        let transport: Arc<dyn Transport> = net.clone();
        directory.set_transport(transport.clone());
        let io = Io {
            node: id,
            run: incarnation,
            directory: node.directory,
            versions: Versions::default(),
            store: node.store.clone(),
            writer: disk.clone(),
            transport,
            events: inbox.clone(),
        };
        let slot = boxes.slot(Target::Metadata);
        let client = MetadataClient::new(view.clone(), directory.clone(), slot.clone());
        let group = GroupOptions {
            cache_bytes_max: options.cache_bytes,
            snapshot_log_bytes: options.snapshot_log_bytes,
            append_bytes_max: 20_000,
            appends_in_flight_max: 8,
            uncommitted_bytes_max: 200_000,
            ..GroupOptions::default()
        };
        let setup = Setup {
            client: client.clone(),
            directory: directory.clone(),
            io: io.clone(),
            members: members.to_vec(),
            peers,
            era: match node.joined {
                Some(joined) if joined.directory == node.directory => joined.era,
                _ => u64::MAX,
            },
            reformed: node.joined.map_or(0, |joined| joined.reformed),
            founds_alone_after_ticks: 10,
            membership: net.membership.clone(),
            recovery: node.recovery.clone().map(|recovery| Recovery {
                until: incarnation,
                ..recovery
            }),
            bootstrap: bootstrap(number),
            announce: (
                Run { node: id, incarnation },
                format!("node-{id}"),
                format!("node-{id}:1"),
            ),
            silent_ticks: options.silent_ticks,
            options: GroupOptions {
                eager_commit: true,
                effects_everywhere: true,
                ..group.clone()
            },
        };
        let metadata = MetadataReplica::open(setup)?;
        inbox.connect(disk.clone(), slot.clone(), Arc::new(NoOperators));
        directory.register(GROUP, slot);
        let mut run = Self {
            number,
            incarnation,
            boxes,
            disk,
            net,
            inbox,
            liveness: Liveness::new(liveness::Options {
                silence_ms: 1_000,
                broken_ms: 1_000,
                stall_ms: 500,
            }),
            metadata,
            queues: BTreeMap::new(),
            sessions: BTreeMap::new(),
            ticking: std::collections::BTreeSet::new(),
            alarms: BTreeMap::new(),
            directory,
            client,
            members: members.to_vec(),
            view,
            io,
            options: group,
        };
        let round = run.metadata.begin();
        run.carry_out(round, wall_ms)?;
        Ok(run)
    }

    /// Whether clients are let in.
    pub(crate) fn is_ready(&self) -> bool {
        self.metadata.has_joined()
    }

    /// Carries rounds out until none is left. Exchanges other than the default one are not simulated.
    fn carry_out(&mut self, round: Round, wall_ms: u64) -> Result<(), Error> {
        let mut next = Some(round);
        while let Some(round) = next {
            for queue in self.metadata.published(round.applied) {
                // Its actor begins on another thread, and other things may happen before.
                self.boxes.begin(queue);
            }
            next = self.metadata.drive(wall_ms)?;
        }
        Ok(())
    }

    fn drive(&mut self, wall_ms: u64) -> Result<(), Error> {
        match self.metadata.drive(wall_ms)? {
            Some(round) => self.carry_out(round, wall_ms),
            None => Ok(()),
        }
    }

    /// A queue's actor begins.
    fn begin(&mut self, queue: Arc<Queue>, wall_ms: u64) -> Result<(), Error> {
        let group = queue.group;
        let slot = self.boxes.slot(Target::Queue(group));
        let replica = QueueReplica::open(
            queue,
            self.directory.clone(),
            self.client.clone(),
            Arc::new(slot.clone()),
            self.io.clone(),
            self.options.clone(),
        )?;
        self.queues.entry(group).or_insert(replica).begin(slot, wall_ms)
    }

    /// Whether a client's session is open on this run.
    pub(crate) fn has_session(&self, session: SessionId) -> bool {
        self.directory.has_session(session)
    }

    /// Queues' groups that have a replica here, as far as this node knows.
    pub(crate) fn groups(&self) -> Vec<GroupId> {
        let picture = self.view.picture();
        let here = picture
            .queues("/")
            .filter(|queue| queue.replicas().contains(&self.io.node));
        here.map(|queue| queue.group).collect()
    }

    /// Groups that are stored here although their queues are no more, or are elsewhere.
    pub(crate) fn left_over(&self) -> Vec<GroupId> {
        let picture = self.metadata.core().machine().picture();
        let mut groups = self.io.store.groups().expect("a healthy store");
        let own = self.io.node;
        groups.retain(|group| match picture.queue_by_group(*group) {
            Some(queue) if !queue.replicas().contains(&own) => {
                let state = self.io.store.state(*group).expect("a healthy store");
                !state.is_some_and(|state| state.removed)
            }
            Some(_) => false,
            None => *group != GROUP,
        });
        groups
    }

    /// Whether it knows all that was agreed on before it started.
    pub(crate) fn is_up_to_date(&self) -> bool {
        self.directory.is_up_to_date()
    }

    /// Whether that node is part of the cluster as far as this one knows: by which decision, or the greatest number if
    /// it was before, with another directory.
    pub(crate) fn has_joined(&self, node: NodeId, directory: u64) -> Option<Joined> {
        let picture = self.view.picture();
        let known = picture.node(node)?;
        if self.metadata.core().reformed() > reform_of(picture.cluster_id()) {
            // Who is part of the cluster is about to be decided.
            return None;
        }
        let era = match known.directory == directory {
            true if known.joined > 0 => known.joined,
            true => u64::MAX,
            false if known.run.incarnation > 0 && !picture.is_forgotten(node, directory) => u64::MAX,
            false => return None,
        };
        Some(Joined {
            directory,
            era,
            reformed: self.metadata.core().reformed(),
        })
    }

    /// How far it has applied the metadata, and what they are there.
    pub(crate) fn applied(&self) -> (u64, &Picture) {
        let core = self.metadata.core();
        (core.status().applied, core.machine().picture())
    }

    /// What this node knows of the cluster.
    pub(crate) fn picture(&self) -> Arc<Picture> {
        self.view.picture()
    }

    /// An operator asks for a change; asked for again until it is done.
    pub(crate) fn ask(&self, change: Change) {
        self.client.submit_later(change);
    }

    /// Whether nothing can be agreed on without that node.
    pub(crate) fn is_needed(&self, node: NodeId) -> bool {
        let core = self.metadata.core();
        core.is_pair() && core.members().contains(&node)
    }

    /// A new node is to be part of the cluster.
    pub(crate) fn ask_to_join(&self, node: NodeId, directory: u64) {
        self.client.submit_later(Change::JoinNode {
            node,
            name: format!("node-{node}"),
            address: format!("node-{node}:1"),
            directory,
        });
    }

    /// Has one of the replicated queues move, if there is any; answers which.
    pub(crate) fn place_any_queue(&self, drawn: u64, replicas: Vec<NodeId>, leader: NodeId) -> Option<GroupId> {
        let picture = self.view.picture();
        let groups: Vec<GroupId> = picture
            .all_queues()
            .filter(|queue| !queue.is_transient())
            .map(|queue| queue.group)
            .collect();
        let group = *groups.get(drawn as usize % groups.len().max(1))?;
        self.client.submit_later(Change::PlaceQueue {
            group,
            replicas,
            leader,
        });
        Some(group)
    }

    /// The metadata's or a queue's actor takes one letter.
    pub(crate) fn letter(&mut self, target: Target, letter: Letter, wall_ms: u64) -> Result<(), Error> {
        match (target, letter) {
            (Target::Metadata, Letter::Inbound(message)) => self.metadata.handle(message),
            (Target::Metadata, Letter::Submit(message)) => self.metadata.submit(message),
            (Target::Metadata, Letter::News(news)) => self.metadata.news(news),
            (Target::Queue(_), Letter::Begin(queue)) => return self.begin(queue, wall_ms),
            (Target::Queue(group), Letter::Inbound(message)) => {
                let ends = matches!(message, Inbound::Stop { .. } | Inbound::Retire);
                if let Some(replica) = self.queues.get_mut(&group) {
                    replica.handle(message, wall_ms)?;
                }
                if ends {
                    self.queues.remove(&group);
                    self.boxes.close(target);
                }
                return Ok(());
            }
            (Target::Queue(group), Letter::Session(event)) => {
                if let Some(replica) = self.queues.get_mut(&group) {
                    replica.handle_letters(event, wall_ms)?;
                }
                return Ok(());
            }
            _ => return Ok(()),
        }
        self.drive(wall_ms)
    }

    /// Sets the queues' timers; answers those that are new: when they run out, and whose they are.
    pub(crate) fn alarms(&mut self, wall_ms: u64, now_us: u64) -> Vec<(u64, GroupId)> {
        let Self { queues, alarms, .. } = self;
        let mut rings = Vec::new();
        for (group, replica) in queues {
            let Some((due, look)) = replica.wakes(wall_ms) else {
                alarms.remove(group);
                continue;
            };
            let alarm = alarms.entry(*group).or_default();
            alarm.due = due;
            let entry = due.map(|due| match alarm.asked {
                Some((asked, at_ms)) if asked == due.deadline_ms => (at_ms + ASKED_AGAIN_MS).max(due.at_ms),
                _ => due.at_ms,
            });
            let Some(due_ms) = entry.into_iter().chain(look).min() else {
                continue;
            };
            let due_us = now_us + 1_000 * due_ms.saturating_sub(wall_ms).max(1);
            // One that runs out earlier sets the next.
            if alarm
                .armed_us
                .is_none_or(|armed_us| armed_us <= now_us || due_us < armed_us)
            {
                alarm.armed_us = Some(due_us);
                rings.push((due_us, *group));
            }
        }
        rings
    }

    /// A queue's timer has run out.
    pub(crate) fn ring(&mut self, group: GroupId, wall_ms: u64, now_us: u64) -> Result<(), Error> {
        let (Some(replica), Some(alarm)) = (self.queues.get_mut(&group), self.alarms.get_mut(&group)) else {
            return Ok(());
        };
        if alarm.armed_us != Some(now_us) {
            // Another was set in its place.
            return Ok(());
        }
        alarm.armed_us = None;
        let due = alarm.due.filter(|due| due.at_ms <= wall_ms);
        let is_due = due.is_some_and(|due| {
            let asked = alarm.asked;
            !asked.is_some_and(|(asked, at_ms)| asked == due.deadline_ms && wall_ms < at_ms + ASKED_AGAIN_MS)
        });
        if is_due {
            alarm.asked = due.map(|due| (due.deadline_ms, wall_ms));
        }
        replica.wake(is_due, wall_ms)
    }

    /// 100 ms have passed for the metadata.
    pub(crate) fn tick_metadata(&mut self, wall_ms: u64) -> Result<(), Error> {
        self.metadata.tick();
        self.drive(wall_ms)
    }

    /// A client's socket was accepted.
    pub(crate) fn accept(&mut self, key: u64, client: (usize, u64), now_us: u64) {
        let id = self.directory.open_session(self.boxes.slot(Target::Session(key)));
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let ends = Ends {
            peer: address(40_000),
            local: address(5672),
        };
        let limits = Limits {
            unapplied_bytes_max: 100_000,
            unapplied_commands_max: 1_000,
            publish_timeout_ms: 10_000,
            members: self.members.clone(),
            ..Limits::default()
        };
        let mut core = Connection::new(
            Arc::new(limits),
            id,
            ends,
            self.view.clone(),
            StdRng::seed_from_u64(key),
            1,
            0,
        );
        core.share_replies(self.directory.replies().clone());
        let session = Session {
            way: Way::new(self.directory.clone(), self.view.clone(), id),
            core,
            input: BytesMut::new(),
            outcomes: Vec::new(),
            client: Some(client),
            timer_us: None,
            begun_us: now_us,
        };
        self.sessions.insert(key, session);
    }

    /// What the connection's actor does: takes `input` in, ends the turn, and performs what comes of it.
    pub(crate) fn turn(&mut self, key: u64, input: Turn, now_us: u64) -> Turned {
        let Self {
            sessions,
            client,
            directory,
            boxes,
            ..
        } = self;
        let Some(session) = sessions.get_mut(&key) else {
            return Turned::default();
        };
        let now_ms = (now_us - session.begun_us) / 1_000 + 1;
        session.core.begin(now_ms);
        match input {
            Turn::Bytes(bytes) => session.input.extend_from_slice(&bytes),
            Turn::Lost => {
                session.client = None;
                session.core.on_lost();
            }
            Turn::Tick => {
                session.way.on_tick(now_ms);
                session.core.on_tick();
            }
            Turn::Event(SessionEvent::Events(events)) => session.core.on_events(&events),
            Turn::Event(SessionEvent::Leader { group, leader }) => {
                session.way.moved(group, leader);
                session.core.on_leader(group);
            }
            Turn::Event(SessionEvent::QueueGone { group }) => {
                session.way.forget(group);
                session.core.on_queue_gone(group);
            }
            Turn::Event(SessionEvent::Deleted(deleted)) => session.core.on_deleted(&deleted),
            Turn::Event(SessionEvent::Reply(admitted)) => session.core.on_reply(*admitted),
            Turn::Event(SessionEvent::ReplyQueueIs { channel, queue, exists }) => {
                session.core.on_reply_queue(channel, &queue, exists);
            }
            Turn::Event(SessionEvent::Close { code, text }) => session.core.on_close(code, &text),
            Turn::Look => {}
        }
        let mut turned = Turned::default();
        // Whether the socket was not read when the turn began.
        let mut stalled = !session.core.wants_input();
        loop {
            session.outcomes_to_core();
            let waiting = session.input.len();
            if session.core.wants_input() && waiting > 0 {
                session.core.on_input(&mut session.input, waiting);
            }
            let moved = session.input.len() < waiting;
            session.core.end_turn(&mut session.way);
            session.perform(client, directory);
            session.write(&mut turned.output);
            session.core.flush(&mut session.way);
            session.perform(client, directory);
            let gone = session.way.end_turn();
            // What was not read because too much waited for the queues may be read now.
            let reads = session.core.wants_input() && !session.input.is_empty();
            if gone.is_empty() && !(reads && (moved || std::mem::take(&mut stalled))) {
                break;
            }
            for group in gone {
                session.core.on_queue_gone(group);
            }
        }
        turned.hung_up = session.core.has_hung_up();
        turned.over = session.core.is_over();
        let reads = session.core.wants_input();
        session.core.set_reading(reads);
        let due = session.core.next_tick_ms();
        session.timer_us = due.map(|due| (session.begun_us + due * 1_000).max(now_us + 1_000));
        if turned.over {
            directory.close_session(session.core.id());
            boxes.close(Target::Session(key));
            sessions.remove(&key);
        }
        turned
    }

    /// Sessions that wait for the metadata to change.
    pub(crate) fn waiting_sessions(&self) -> Vec<u64> {
        let waits = |session: &Session| !session.outcomes.is_empty();
        self.sessions
            .iter()
            .filter(|(_, session)| waits(session))
            .map(|(key, _)| *key)
            .collect()
    }
}

/// What a connection's actor is woken by.
pub(crate) enum Turn {
    Bytes(Bytes),
    Lost,
    Tick,
    Event(SessionEvent),
    /// Something that it waits for may have come.
    Look,
}

impl Session {
    /// Whether the metadata have answered something that it waits for.
    pub(crate) fn has_answer(&self) -> bool {
        // What is taken off the channel is given to the core at once.
        self.outcomes
            .iter()
            .any(|(_, outcome)| !outcome.is_empty() || outcome.is_terminated())
    }

    fn outcomes_to_core(&mut self) {
        let mut waiting = Vec::new();
        for (channel, mut outcome) in std::mem::take(&mut self.outcomes) {
            let result = match outcome.try_recv() {
                Ok(outcome) => Some(outcome),
                Err(oneshot::error::TryRecvError::Closed) => None,
                Err(oneshot::error::TryRecvError::Empty) => {
                    waiting.push((channel, outcome));
                    continue;
                }
            };
            match channel {
                Some(channel) => self.core.on_outcome(channel, result),
                None => self.core.on_session_ended(),
            }
        }
        self.outcomes = waiting;
    }

    fn perform(&mut self, client: &MetadataClient, directory: &Arc<Directory>) {
        for effect in self.core.take_effects() {
            match effect {
                Effect::Submit(channel, change) => self.outcomes.push((Some(channel), client.ask(*change))),
                // No limits are set here.
                Effect::Count(channel) => self.core.on_count(channel, Count::default()),
                Effect::Reply(reply) => directory.send_reply(*reply),
                Effect::AskReply(channel, token) => {
                    directory.ask_reply(self.core.id(), channel, self.core.vhost(), &token);
                }
                Effect::EndSession(groups) => {
                    for group in groups {
                        directory.end_session_in(group, self.core.id());
                    }
                }
                Effect::EndExclusive => {
                    let session = self.core.id();
                    self.outcomes.push((None, client.ask(Change::SessionEnded { session })));
                }
            }
        }
    }

    /// The socket takes everything.
    fn write(&mut self, out: &mut BytesMut) {
        loop {
            let written = {
                let mut slices = [std::io::IoSlice::new(&[]); 16];
                let count = self.core.output().chunks(&mut slices);
                for slice in &slices[..count] {
                    out.extend_from_slice(slice);
                }
                slices[..count].iter().map(|slice| slice.len()).sum::<usize>()
            };
            if written == 0 {
                return;
            }
            self.core.on_written(written);
        }
    }
}
