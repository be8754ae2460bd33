//! A broker in one place: the real metadata and queue machines around real connection cores, no thread, no socket.
//! Batches and events travel only when told to, and can be lost on the way.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use warren_cluster::machine::{Machine as _, Meta};
use warren_proto::queue::Resync;
use warren_proto::record::{Command, Events, SessionId, system};

use crate::alarms::Shortage;
use crate::amqp::content::Header;
use crate::amqp::frame::{self, Kind};
use crate::amqp::{Method, Properties, ShortStr, Table, put_content, put_method};
use crate::auth::{Algorithm, PasswordHash};
use crate::connection::census::{Census, Count};
use crate::connection::{Carrier, Connection, Effect, Ends, Limits};
use crate::direct_reply::{Registry, Reply, Token};
use crate::directory::NotSent;
use crate::metadata::{self, AddUser, Bootstrap, Change, MetadataMachine, Outcome, Request, Run, SetPermissions, View};
use crate::queue::client::ChannelId;
use crate::queue::machine::{self, Config, QueueMachine};

/// One queue's machine with the payloads of its log.
struct Log {
    machine: QueueMachine,
    entries: BTreeMap<u64, Bytes>,
}

/// What one entry means for each session.
struct Gathered {
    group: u64,
    per_session: BTreeMap<SessionId, Events>,
}

impl Gathered {
    fn of(&mut self, session: SessionId) -> &mut Events {
        let group = self.group;
        self.per_session.entry(session).or_insert_with(|| Events {
            group,
            term: 1,
            ..Events::default()
        })
    }
}

/// What is under way between sessions and queues.
#[derive(Default)]
pub(super) struct Wire {
    batches: Vec<(u64, Bytes)>,
    resyncs: Vec<(u64, Resync)>,
    /// Nothing gets onto the wire.
    pub(super) is_full: bool,
}

impl Carrier for Wire {
    fn send(&mut self, group: u64, batch: Bytes) -> Result<(), NotSent> {
        if self.is_full {
            return Err(NotSent::Full);
        }
        self.batches.push((group, batch));
        Ok(())
    }

    fn resync(&mut self, group: u64, request: Resync) {
        self.resyncs.push((group, request));
    }
}

/// What a client reads.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum Heard {
    Method(u16, Method),
    /// A method with its message's properties and body.
    Content(u16, Method, Bytes, Bytes),
    Header([u8; 8]),
}

pub(super) struct Client {
    pub(super) core: Connection,
    read: BytesMut,
    assembling: Option<(u16, Method, Option<Header>, BytesMut)>,
    expects_header: bool,
    pub(super) heard: Vec<Heard>,
    /// The client's socket takes nothing.
    pub(super) is_stuck: bool,
}

impl Client {
    pub(super) fn methods(&mut self) -> Vec<Method> {
        let heard = std::mem::take(&mut self.heard);
        heard
            .into_iter()
            .map(|heard| match heard {
                Heard::Method(_, method) | Heard::Content(_, method, ..) => method,
                Heard::Header(_) => Method::ConnectionCloseOk {},
            })
            .collect()
    }

    fn hear(&mut self) {
        while !self.is_stuck {
            let written = {
                let mut slices = [std::io::IoSlice::new(&[]); 16];
                let count = self.core.output().chunks(&mut slices);
                for slice in &slices[..count] {
                    self.read.extend_from_slice(slice);
                }
                slices[..count].iter().map(|slice| slice.len()).sum::<usize>()
            };
            if written == 0 {
                break;
            }
            self.core.on_written(written);
        }
        if self.expects_header && self.read.starts_with(b"AMQP") {
            let header: [u8; 8] = self.read.split_to(8)[..].try_into().expect("eight bytes");
            self.heard.push(Heard::Header(header));
        }
        while let Some(frame) = frame::decode(&mut self.read, u32::MAX).expect("the broker's frames are well formed") {
            self.hear_frame(&frame);
        }
    }

    fn hear_frame(&mut self, frame: &frame::Frame) {
        match (frame.kind, self.assembling.take()) {
            (Kind::Heartbeat, assembling) => self.assembling = assembling,
            (Kind::Method, None) => {
                let method = Method::decode(&frame.payload).expect("the broker's methods are well formed");
                if method.has_content() {
                    self.assembling = Some((frame.channel, method, None, BytesMut::new()));
                } else {
                    self.heard.push(Heard::Method(frame.channel, method));
                }
            }
            (Kind::Header, Some((channel, method, None, body))) => {
                let header = Header::decode(&frame.payload).expect("the broker's headers are well formed");
                self.assemble(channel, method, header, body);
            }
            (Kind::Body, Some((channel, method, Some(header), mut body))) => {
                body.extend_from_slice(&frame.payload);
                self.assemble(channel, method, header, body);
            }
            (kind, assembling) => panic!("a {kind:?} frame after {assembling:?}"),
        }
    }

    fn assemble(&mut self, channel: u16, method: Method, header: Header, body: BytesMut) {
        if body.len() as u64 == header.body_size {
            self.heard
                .push(Heard::Content(channel, method, header.properties, body.freeze()));
        } else {
            self.assembling = Some((channel, method, Some(header), body));
        }
    }
}

pub(super) struct Broker {
    pub(super) view: View,
    metadata: MetadataMachine,
    index: u64,
    queues: BTreeMap<u64, Log>,
    pub(super) clients: Vec<Client>,
    pub(super) wire: Wire,
    pub(super) now_ms: u64,
    pub(super) limits: Limits,
    /// Changes that connections ask for are not made yet.
    pub(super) holds_changes: bool,
    held: Vec<(usize, ChannelId, Change)>,
    /// Queues whose machines have ended stay in the metadata.
    pub(super) keeps_ended_queues: bool,
    replies: Arc<Registry>,
    /// Replies on their way; they arrive only when told to.
    pub(super) sent_replies: Vec<Reply>,
    pub(super) census: Arc<Census>,
    /// What other nodes say that they have.
    pub(super) elsewhere: Count,
    /// Questions for requesters on other nodes.
    pub(super) asked_replies: Vec<(usize, ChannelId, Token)>,
}

pub(super) const RUN: Run = Run {
    node: 1,
    incarnation: 1,
};

impl Broker {
    pub(super) fn new() -> Self {
        let mut broker = Self {
            view: View::new(),
            metadata: MetadataMachine::new(),
            index: 0,
            queues: BTreeMap::new(),
            clients: Vec::new(),
            wire: Wire::default(),
            now_ms: 1,
            limits: Limits::default(),
            holds_changes: false,
            held: Vec::new(),
            keeps_ended_queues: false,
            replies: Arc::default(),
            sent_replies: Vec::new(),
            census: Arc::default(),
            elsewhere: Count::default(),
            asked_replies: Vec::new(),
        };
        let password = Some(PasswordHash::new(Algorithm::Sha256, [1, 2, 3, 4], b"guest"));
        let user = AddUser {
            name: "guest".into(),
            password,
            tags: vec!["administrator".to_owned()],
        };
        broker.change(Change::Bootstrap(Bootstrap {
            cluster_id: "test".to_owned(),
            vhost: "/".into(),
            user,
        }));
        broker.change(Change::NodeUp {
            run: RUN,
            name: "one".to_owned(),
            address: "127.0.0.1:1".to_owned(),
            directory: 0,
            version: warren_cluster::version::LATEST,
            sessions_from: 0,
        });
        broker
    }

    pub(super) fn permit(&mut self, configure: &str, write: &str, read: &str) {
        self.change(Change::SetPermissions(SetPermissions {
            user: "guest".into(),
            vhost: "/".into(),
            configure: configure.to_owned(),
            write: write.to_owned(),
            read: read.to_owned(),
        }));
    }

    /// Applies a change of the metadata and everything that follows from it.
    pub(super) fn change(&mut self, change: Change) -> Outcome {
        self.index += 1;
        let meta = Meta {
            index: self.index,
            term: 1,
            time_ms: self.now_ms,
            version: 1,
        };
        let request = Request {
            node: 1,
            incarnation: 1,
            id: self.index,
        };
        let mut effects = Vec::new();
        self.metadata.apply(&meta, &change.encode(request), &mut effects);
        self.view.publish(self.metadata.picture().clone());
        let mut outcome = Outcome::Done;
        for effect in effects {
            match effect {
                metadata::Effect::Answer { outcome: answer, .. } => outcome = answer,
                metadata::Effect::Bound { exchange, binding } => {
                    let mut routes = (*exchange.routes()).clone();
                    routes.bind(&binding.routing_key, &binding.arguments, &binding.target);
                    exchange.publish_routes(Arc::new(routes));
                }
                metadata::Effect::Unbound { exchange, binding } => {
                    let mut routes = (*exchange.routes()).clone();
                    routes.unbind(&binding.routing_key, &binding.arguments, &binding.target);
                    exchange.publish_routes(Arc::new(routes));
                }
                metadata::Effect::QueueDeclared(queue) => {
                    let kind = match queue.kind {
                        metadata::Kind::Classic => machine::Kind::Classic,
                        metadata::Kind::Quorum => machine::Kind::Quorum,
                        metadata::Kind::Stream => machine::Kind::Stream,
                    };
                    let config = Config {
                        kind,
                        auto_delete: queue.auto_delete,
                        ..Config::default()
                    };
                    let log = Log {
                        machine: QueueMachine::new(config),
                        entries: BTreeMap::new(),
                    };
                    self.queues.insert(queue.group, log);
                }
                metadata::Effect::QueueDeleted(queue) => {
                    self.queues.remove(&queue.group);
                    for client in &mut self.clients {
                        client.core.begin(self.now_ms);
                        client.core.on_queue_gone(queue.group);
                    }
                }
                _ => {}
            }
        }
        outcome
    }

    /// A client that has a socket and has said nothing.
    pub(super) fn connect(&mut self) -> usize {
        let at = self.clients.len();
        let id = SessionId {
            node: RUN.node,
            incarnation: RUN.incarnation,
            id: at as u64 + 1,
        };
        let address = |port| SocketAddr::from(([127, 0, 0, 1], port));
        let ends = Ends {
            peer: address(40_000 + at as u16),
            local: address(5672),
        };
        let rng = StdRng::seed_from_u64(at as u64);
        let mut core = Connection::new(
            Arc::new(self.limits.clone()),
            id,
            ends,
            self.view.clone(),
            rng,
            self.now_ms,
            0,
        );
        core.share_census(Arc::clone(&self.census));
        core.share_replies(Arc::clone(&self.replies));
        self.clients.push(Client {
            core,
            read: BytesMut::new(),
            assembling: None,
            expects_header: false,
            heard: Vec::new(),
            is_stuck: false,
        });
        at
    }

    /// A client whose connection is open.
    pub(super) fn client(&mut self) -> usize {
        self.client_with(0)
    }

    /// A client whose connection is open with a heartbeat of so many seconds.
    pub(super) fn client_with(&mut self, heartbeat: u16) -> usize {
        let at = self.connect();
        self.bytes(at, &frame::PROTOCOL_HEADER);
        self.send(at, 0, &start_ok("PLAIN", b"\0guest\0guest"));
        self.send(
            at,
            0,
            &Method::ConnectionTuneOk {
                channel_max: 2047,
                frame_max: 131_072,
                heartbeat,
            },
        );
        self.send(
            at,
            0,
            &Method::ConnectionOpen {
                virtual_host: "/".into(),
            },
        );
        assert_eq!(self.clients[at].methods().last(), Some(&Method::ConnectionOpenOk {}));
        at
    }

    /// A client with one open channel, number 1.
    pub(super) fn channel(&mut self) -> usize {
        let at = self.client();
        assert_eq!(self.call(at, 1, &Method::ChannelOpen {}), [Method::ChannelOpenOk {}]);
        at
    }

    pub(super) fn bytes(&mut self, at: usize, bytes: &[u8]) {
        let mut input = BytesMut::from(bytes);
        let client = &mut self.clients[at];
        client.expects_header = bytes.len() == 8 && bytes != frame::PROTOCOL_HEADER;
        client.core.begin(self.now_ms);
        client.core.on_input(&mut input, bytes.len());
        assert!(input.is_empty(), "whole frames are consumed");
        self.run();
    }

    pub(super) fn send(&mut self, at: usize, channel: u16, method: &Method) {
        let mut bytes = BytesMut::new();
        put_method(&mut bytes, channel, method);
        self.bytes(at, &bytes);
    }

    /// Sends a method and gives what is heard until everything is at rest.
    pub(super) fn call(&mut self, at: usize, channel: u16, method: &Method) -> Vec<Method> {
        self.clients[at].heard.clear();
        self.send(at, channel, method);
        self.clients[at].methods()
    }

    pub(super) fn publish(&mut self, at: usize, channel: u16, exchange: &str, key: &str, body: &[u8]) {
        let mut bytes = BytesMut::new();
        put_publish(&mut bytes, channel, exchange, key, false, &Properties::default(), body);
        self.bytes(at, &bytes);
    }

    /// Lets time pass for every client.
    pub(super) fn tick(&mut self, ms: u64) {
        self.now_ms += ms;
        for client in &mut self.clients {
            client.core.begin(self.now_ms);
            client.core.on_tick();
        }
        self.run();
    }

    /// The leader of every queue changes: what was under way is lost, and every session hears of it.
    pub(super) fn change_leaders(&mut self) {
        self.wire.batches.clear();
        for client in &mut self.clients {
            client.core.begin(self.now_ms);
            for group in self.queues.keys() {
                client.core.on_leader(*group);
            }
        }
    }

    /// Loses what is on its way to queues.
    pub(super) fn lose_batches(&mut self) {
        self.wire.batches.clear();
    }

    /// Ends every turn, performs effects, and carries batches until nothing moves.
    pub(super) fn run(&mut self) {
        while self.turn() {
            if !self.deliver(|_| true) {
                break;
            }
        }
    }

    /// Ends the turn of every client. Gives true when something is on its way.
    pub(super) fn turn(&mut self) -> bool {
        let mut again = true;
        while std::mem::take(&mut again) {
            for at in 0..self.clients.len() {
                let client = &mut self.clients[at];
                client.core.begin(self.now_ms);
                client.core.end_turn(&mut self.wire);
                client.hear();
                client.core.flush(&mut self.wire);
                let reads = client.core.wants_input();
                client.core.set_reading(reads);
                for effect in self.clients[at].core.take_effects() {
                    again = true;
                    self.perform(at, effect);
                }
            }
        }
        !self.wire.batches.is_empty() || !self.wire.resyncs.is_empty()
    }

    fn perform(&mut self, at: usize, effect: Effect) {
        match effect {
            Effect::Submit(channel, change) if self.holds_changes => self.held.push((at, channel, *change)),
            Effect::Submit(channel, change) => self.make(at, channel, *change),
            Effect::EndSession(groups) => {
                let session = self.clients[at].core.id();
                for group in groups {
                    self.wire.batches.push((group, system(&Command::SessionDown(session))));
                }
            }
            Effect::Count(channel) => {
                let core = &mut self.clients[at].core;
                core.begin(self.now_ms);
                core.on_count(channel, self.elsewhere);
            }
            Effect::Reply(reply) => self.sent_replies.push(*reply),
            Effect::AskReply(channel, token) => self.asked_replies.push((at, channel, token)),
            Effect::EndExclusive => {
                let session = self.clients[at].core.id();
                self.change(Change::SessionEnded { session });
                let core = &mut self.clients[at].core;
                core.begin(self.now_ms);
                core.on_session_ended();
            }
        }
    }

    fn make(&mut self, at: usize, channel: ChannelId, change: Change) {
        let outcome = self.change(change);
        let core = &mut self.clients[at].core;
        core.begin(self.now_ms);
        core.on_outcome(channel, Some(outcome));
    }

    /// Makes the changes that were held.
    pub(super) fn make_held_changes(&mut self) {
        self.holds_changes = false;
        for (at, channel, change) in std::mem::take(&mut self.held) {
            self.make(at, channel, change);
        }
        self.run();
    }

    /// The cluster is short of this now, and every connection is told.
    pub(super) fn set_shortage(&mut self, shortage: Shortage) {
        for client in &mut self.clients {
            client.core.begin(self.now_ms);
            client.core.set_shortage(shortage);
        }
        self.run();
    }

    /// Brings the replies that are on their way to their requesters, as far as those are there.
    pub(super) fn bring_replies(&mut self) {
        for reply in std::mem::take(&mut self.sent_replies) {
            if let Some(admitted) = self.replies.admit(reply) {
                let core = &mut self.clients[admitted.reply.token.session.id as usize - 1].core;
                core.begin(self.now_ms);
                core.on_reply(admitted);
            }
        }
        self.run();
    }

    /// Another node answers every question for a requester.
    pub(super) fn answer_replies(&mut self, exists: bool) {
        for (at, channel, token) in std::mem::take(&mut self.asked_replies) {
            let core = &mut self.clients[at].core;
            core.begin(self.now_ms);
            core.on_reply_queue(channel, &token.name(), exists);
        }
        self.run();
    }

    /// A client's socket is gone.
    pub(super) fn lose(&mut self, at: usize) {
        self.clients[at].core.begin(self.now_ms);
        self.clients[at].core.on_lost();
        self.run();
    }

    /// Applies everything on the wire; `keeps` says which events arrive. Gives true when any did.
    pub(super) fn deliver(&mut self, mut keeps: impl FnMut(&Events) -> bool) -> bool {
        let mut moved = false;
        for (group, batch) in std::mem::take(&mut self.wire.batches) {
            let Some(log) = self.queues.get_mut(&group) else {
                continue;
            };
            self.index += 1;
            let meta = Meta {
                index: self.index,
                term: 1,
                time_ms: self.now_ms,
                version: 1,
            };
            log.entries.insert(self.index, batch.clone());
            let mut effects = Vec::new();
            log.machine.apply(&meta, &batch, &mut effects);
            moved |= self.effects(group, effects, &mut keeps);
        }
        for (group, request) in std::mem::take(&mut self.wire.resyncs) {
            let Some(log) = self.queues.get_mut(&group) else {
                continue;
            };
            let mut effects = Vec::new();
            log.machine.resync(&request, &mut effects);
            moved |= self.effects(group, effects, &mut keeps);
        }
        moved
    }

    fn effects(&mut self, group: u64, effects: Vec<machine::Effect>, keeps: &mut impl FnMut(&Events) -> bool) -> bool {
        use machine::Effect;
        let mut gathered = Gathered {
            group,
            per_session: BTreeMap::new(),
        };
        let mut is_gone = false;
        {
            let Some(log) = self.queues.get(&group) else {
                return false;
            };
            for effect in effects {
                is_gone |= effect == Effect::Gone;
                let payload = effect.place().map_or_else(Bytes::new, |at| {
                    log.entries[&at.index].slice(at.offset as usize..(at.offset + at.len) as usize)
                });
                if let Some(session) = effect.session() {
                    effect.add_to(gathered.of(session), payload);
                }
            }
        }
        let mut moved = false;
        for (session, events) in gathered.per_session {
            let Some(client) = self.clients.get_mut(session.id as usize - 1) else {
                continue;
            };
            if keeps(&events) {
                client.core.begin(self.now_ms);
                client.core.on_events(&events);
                moved = true;
            }
        }
        if is_gone && !self.keeps_ended_queues {
            self.change(Change::DeleteQueue { group });
            moved = true;
        }
        moved
    }

    pub(super) fn stats(&self, queue: &str) -> machine::Stats {
        let queue = self.view.queue("/", queue).expect("the queue is declared");
        self.queues[&queue.group].machine.stats()
    }
}

pub(super) fn start_ok(mechanism: &str, response: &[u8]) -> Method {
    let mut capabilities = Table::new();
    for name in [
        "authentication_failure_close",
        "connection.blocked",
        "consumer_cancel_notify",
    ] {
        capabilities.insert(name, crate::amqp::Value::Bool(true));
    }
    let mut client_properties = Table::new();
    client_properties.insert("capabilities", crate::amqp::Value::Table(capabilities));
    Method::ConnectionStartOk {
        client_properties,
        mechanism: short(mechanism),
        response: Bytes::copy_from_slice(response),
        locale: "en_US".into(),
    }
}

pub(super) fn short(text: &str) -> ShortStr {
    ShortStr::new(text).expect("a short text")
}

pub(super) fn put_publish(
    out: &mut BytesMut,
    channel: u16,
    exchange: &str,
    key: &str,
    mandatory: bool,
    properties: &Properties,
    body: &[u8],
) {
    let method = Method::BasicPublish {
        exchange: short(exchange),
        routing_key: short(key),
        mandatory,
        immediate: false,
    };
    put_method(out, channel, &method);
    put_content(
        out,
        channel,
        &properties.to_bytes(),
        &Bytes::copy_from_slice(body),
        131_072,
    );
}

pub(super) fn declare(queue: &str) -> Method {
    Method::QueueDeclare {
        queue: short(queue),
        passive: false,
        durable: true,
        exclusive: false,
        auto_delete: false,
        no_wait: false,
        arguments: Table::new(),
    }
}

pub(super) fn declare_exclusive(queue: &str) -> Method {
    Method::QueueDeclare {
        queue: short(queue),
        passive: false,
        durable: false,
        exclusive: true,
        auto_delete: false,
        no_wait: false,
        arguments: Table::new(),
    }
}

pub(super) fn consume(queue: &str, tag: &str, no_ack: bool) -> Method {
    Method::BasicConsume {
        queue: short(queue),
        consumer_tag: short(tag),
        no_local: false,
        no_ack,
        exclusive: false,
        no_wait: false,
        arguments: Table::new(),
    }
}
