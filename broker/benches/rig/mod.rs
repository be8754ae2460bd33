//! One node's cores without threads, sockets and disks: connections, the metadata machine, queue machines.
//!
//! Batches reach a queue when [`Rig::run`] is called; what it has to say is handed to the connections as it comes.

#![allow(dead_code, reason = "not everything is used by everyone who includes this")]

use std::collections::BTreeMap;
use std::io::IoSlice;
use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use warren_broker::amqp::frame::PROTOCOL_HEADER;
use warren_broker::amqp::{Method, Properties, ShortStr, Table, put_content, put_method};
use warren_broker::auth::{Algorithm, PasswordHash};
use warren_broker::connection::{Carrier, Connection, Effect, Ends, Limits};
use warren_broker::directory::NotSent;
use warren_broker::metadata::{self, AddUser, Bootstrap, Change, MetadataMachine, Outcome, Request, Run, View};
use warren_broker::queue::machine::{self, Config, QueueMachine};
use warren_cluster::machine::{Machine as _, Meta};
use warren_proto::queue::Resync;
use warren_proto::record::{Events, SessionId};

const RUN: Run = Run {
    node: 1,
    incarnation: 1,
};

/// Batches on their way.
#[derive(Default)]
struct Wire(Vec<(u64, Bytes)>);

impl Carrier for Wire {
    fn send(&mut self, group: u64, batch: Bytes) -> Result<(), NotSent> {
        self.0.push((group, batch));
        Ok(())
    }

    fn resync(&mut self, _group: u64, _request: Resync) {}
}

struct Log {
    machine: QueueMachine,
    entries: BTreeMap<u64, Bytes>,
}

/// See the module.
pub(crate) struct Rig {
    pub(crate) view: View,
    metadata: MetadataMachine,
    index: u64,
    queues: BTreeMap<u64, Log>,
    connections: Vec<Connection>,
    wire: Wire,
    effects: Vec<machine::Effect>,
    freed: Vec<u64>,
    input: BytesMut,
}

impl Rig {
    pub(crate) fn new() -> Self {
        let mut rig = Self {
            view: View::new(),
            metadata: MetadataMachine::new(),
            index: 0,
            queues: BTreeMap::new(),
            connections: Vec::new(),
            wire: Wire::default(),
            effects: Vec::new(),
            freed: Vec::new(),
            input: BytesMut::new(),
        };
        rig.change(Change::Bootstrap(Bootstrap {
            cluster_id: "rig".to_owned(),
            vhost: "/".into(),
            user: AddUser {
                name: "guest".into(),
                password: Some(PasswordHash::new(Algorithm::Sha256, [1, 2, 3, 4], b"guest")),
                tags: vec!["administrator".to_owned()],
            },
        }));
        rig.change(Change::NodeUp {
            run: RUN,
            name: "one".to_owned(),
            address: "127.0.0.1:1".to_owned(),
            directory: 0,
            version: warren_cluster::version::LATEST,
            sessions_from: 0,
        });
        rig
    }

    /// Applies a change of the metadata and what follows from it.
    pub(crate) fn change(&mut self, change: Change) -> Outcome {
        self.index += 1;
        let request = Request {
            node: RUN.node,
            incarnation: RUN.incarnation,
            id: self.index,
        };
        let mut effects = Vec::new();
        self.metadata
            .apply(&meta(self.index), &change.encode(request), &mut effects);
        self.view.publish(self.metadata.picture().clone());
        let mut answer = Outcome::Done;
        for effect in effects {
            match effect {
                metadata::Effect::Answer { outcome, .. } => answer = outcome,
                metadata::Effect::QueueDeclared(queue) => {
                    let log = Log {
                        machine: QueueMachine::new(Config::default()),
                        entries: BTreeMap::new(),
                    };
                    self.queues.insert(queue.group, log);
                }
                _ => {}
            }
        }
        answer
    }

    /// A connection with channel 1; its number here.
    pub(crate) fn connect(&mut self) -> usize {
        let at = self.connections.len();
        let id = SessionId {
            node: RUN.node,
            incarnation: RUN.incarnation,
            id: at as u64 + 1,
        };
        let address = SocketAddr::from(([127, 0, 0, 1], 5672));
        let ends = Ends {
            peer: address,
            local: address,
        };
        let limits = Arc::new(Limits::default());
        let rng = StdRng::seed_from_u64(at as u64);
        self.connections
            .push(Connection::new(limits, id, ends, self.view.clone(), rng, 1, 0));
        self.bytes(at, &PROTOCOL_HEADER);
        let response = Bytes::from_static(b"\0guest\0guest");
        self.call(
            at,
            0,
            &Method::ConnectionStartOk {
                client_properties: Table::new(),
                mechanism: short("PLAIN"),
                response,
                locale: short("en_US"),
            },
        );
        self.call(
            at,
            0,
            &Method::ConnectionTuneOk {
                channel_max: 2047,
                frame_max: 131_072,
                heartbeat: 0,
            },
        );
        let virtual_host = short("/");
        self.call(at, 0, &Method::ConnectionOpen { virtual_host });
        self.call(at, 1, &Method::ChannelOpen {});
        at
    }

    pub(crate) fn declare(&mut self, at: usize, queue: &str) {
        let declare = Method::QueueDeclare {
            queue: short(queue),
            passive: false,
            durable: true,
            exclusive: false,
            auto_delete: false,
            no_wait: false,
            arguments: Table::new(),
        };
        self.call(at, 1, &declare);
        assert!(self.view.queue("/", queue).is_some(), "{queue} is declared");
    }

    pub(crate) fn consume(&mut self, at: usize, queue: &str, prefetch_count: u16) {
        let qos = Method::BasicQos {
            prefetch_size: 0,
            prefetch_count,
            global: false,
        };
        self.call(at, 1, &qos);
        let consume = Method::BasicConsume {
            queue: short(queue),
            consumer_tag: short("tag"),
            no_local: false,
            no_ack: false,
            exclusive: false,
            no_wait: false,
            arguments: Table::new(),
        };
        self.call(at, 1, &consume);
    }

    /// Sends a method, and carries on until everything is at rest.
    pub(crate) fn call(&mut self, at: usize, channel: u16, method: &Method) {
        let mut bytes = BytesMut::new();
        put_method(&mut bytes, channel, method);
        self.bytes(at, &bytes);
    }

    pub(crate) fn bytes(&mut self, at: usize, bytes: &[u8]) {
        self.input.extend_from_slice(bytes);
        self.take_in(at);
        self.run();
    }

    /// Hands what was read from a socket to its connection; `extend` puts it there.
    pub(crate) fn take_in(&mut self, at: usize) {
        let read = self.input.len();
        let connection = &mut self.connections[at];
        connection.begin(1);
        connection.on_input(&mut self.input, read);
        connection.end_turn(&mut self.wire);
        assert!(self.input.is_empty(), "whole frames are consumed");
    }

    /// Where a socket's bytes are put for [`Rig::take_in`].
    pub(crate) fn input(&mut self) -> &mut BytesMut {
        &mut self.input
    }

    /// Takes the batches that wait for their queues; drops them.
    pub(crate) fn drop_batches(&mut self) -> usize {
        self.wire.0.drain(..).map(|(_, batch)| batch.len()).sum()
    }

    /// Carries batches and events until nothing moves.
    pub(crate) fn run(&mut self) {
        loop {
            for at in 0..self.connections.len() {
                self.settle(at);
            }
            if self.wire.0.is_empty() {
                return;
            }
            for (group, batch) in std::mem::take(&mut self.wire.0) {
                self.apply(group, batch);
            }
        }
    }

    fn settle(&mut self, at: usize) {
        let connection = &mut self.connections[at];
        connection.begin(1);
        connection.end_turn(&mut self.wire);
        loop {
            let mut slices = [IoSlice::new(&[]); 16];
            let count = connection.output().chunks(&mut slices);
            let written: usize = slices[..count].iter().map(|slice| slice.len()).sum();
            if written == 0 {
                break;
            }
            connection.on_written(written);
        }
        for effect in self.connections[at].take_effects() {
            if let Effect::Submit(channel, change) = effect {
                let outcome = self.change(*change);
                let connection = &mut self.connections[at];
                connection.begin(1);
                connection.on_outcome(channel, Some(outcome));
                connection.end_turn(&mut self.wire);
                self.settle(at);
            }
        }
    }

    fn apply(&mut self, group: u64, batch: Bytes) {
        self.index += 1;
        let log = self.queues.get_mut(&group).expect("the queue is declared");
        log.entries.insert(self.index, batch.clone());
        let mut effects = std::mem::take(&mut self.effects);
        log.machine.apply(&meta(self.index), &batch, &mut effects);
        log.machine.take_freed(&mut self.freed);
        let mut sessions: Vec<(SessionId, Events)> = Vec::new();
        for effect in effects.drain(..) {
            let payload = effect.place().map_or_else(Bytes::new, |at| {
                log.entries[&at.index].slice(at.offset as usize..(at.offset + at.len) as usize)
            });
            let session = effect.session().expect("the queue and its sessions stay");
            let known = sessions.iter().position(|(id, _)| *id == session);
            let at = known.unwrap_or_else(|| {
                let events = Events {
                    group,
                    term: 1,
                    ..Events::default()
                };
                sessions.push((session, events));
                sessions.len() - 1
            });
            effect.add_to(&mut sessions[at].1, payload);
        }
        for index in self.freed.drain(..) {
            log.entries.remove(&index);
        }
        self.effects = effects;
        for (session, events) in sessions {
            let connection = &mut self.connections[session.id as usize - 1];
            connection.begin(1);
            connection.on_events(&events);
            connection.end_turn(&mut self.wire);
        }
    }
}

fn meta(index: u64) -> Meta {
    Meta {
        index,
        term: 1,
        time_ms: 1,
        version: 1,
    }
}

pub(crate) fn short(text: &str) -> ShortStr {
    ShortStr::new(text).expect("a short text")
}

/// The frames of so many publishes.
pub(crate) fn publishes(count: usize, exchange: &str, routing_key: &str, body_len: usize) -> Vec<u8> {
    let mut bytes = BytesMut::new();
    let properties = Properties {
        delivery_mode: Some(2),
        ..Properties::default()
    };
    let properties = properties.to_bytes();
    let body = Bytes::from(vec![b'm'; body_len]);
    let method = Method::BasicPublish {
        exchange: short(exchange),
        routing_key: short(routing_key),
        mandatory: false,
        immediate: false,
    };
    for _ in 0..count {
        put_method(&mut bytes, 1, &method);
        put_content(&mut bytes, 1, &properties, &body, 131_072);
    }
    bytes.to_vec()
}
