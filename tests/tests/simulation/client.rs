//! Clients: they speak AMQP, publish, consume, lose their connections and come back.

use std::collections::BTreeMap;

use bytes::{Bytes, BytesMut};
use warren_broker::amqp::frame::{self, Frame, Kind};
use warren_broker::amqp::{Header, Method, Properties, ShortStr, Table, Value, put_content, put_method};

use super::checker::{Checker, MessageId, body};
use super::options::Options;
use super::random::Random;

/// What a client is there for.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Purpose {
    /// Publishes to all queues.
    Publish,
    /// Consumes from one queue.
    Consume(usize),
    /// Consumes the dead letters of one queue.
    Letters(usize),
    /// Takes messages from one queue one by one.
    Get(usize),
    /// Deletes one queue and declares it anew.
    Delete(usize),
    /// Reads the stream from its first message on, each once, over all its connections.
    Read,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    Offline,
    Opening,
    /// So many declarations are answered.
    Declaring(usize),
    Running,
    Closed,
}

/// See the module.
pub(crate) struct Client {
    pub(crate) id: u64,
    pub(crate) purpose: Purpose,
    phase: Phase,
    /// Since when it waits in its phase.
    since_ms: u64,
    read: BytesMut,
    assembling: Option<(Method, Option<Header>, BytesMut)>,
    /// To the server.
    pub(crate) out: BytesMut,
    next_tag: u64,
    unconfirmed: BTreeMap<u64, MessageId>,
    connections: u64,
    /// Messages published over all connections.
    pub(crate) published: u64,
    /// Held messages by delivery tag.
    held: BTreeMap<u64, MessageId>,
    /// The last message of each publisher's connection that came unflagged on this one.
    last: BTreeMap<(usize, u64, u64), u64>,
    /// The offset of the stream that it reads next.
    pub(crate) position: u64,
    getting: bool,
    prefetch: u16,
    no_ack: bool,
    /// Everything that comes is acknowledged, and nothing is published.
    pub(crate) draining: bool,
}

fn short(text: &str) -> ShortStr {
    ShortStr::new(text).expect("a short text")
}

fn queue_name(queue: usize) -> String {
    format!("queue-{queue}")
}

const STREAM: &str = "stream";

/// Where the dead letters of a queue go.
fn letters_name(queue: usize) -> String {
    format!("letters-{queue}")
}

fn text(text: &str) -> Value {
    Value::LongStr(Bytes::copy_from_slice(text.as_bytes()))
}

/// The offset that a message from a stream says it has.
fn offset(header: &Header) -> Option<u64> {
    let headers = Properties::decode(&header.properties).ok()?.headers?;
    u64::try_from(headers.get("x-stream-offset")?.as_i64()?).ok()
}

impl Client {
    pub(crate) fn new(id: u64, purpose: Purpose) -> Self {
        Self {
            id,
            purpose,
            phase: Phase::Offline,
            since_ms: 0,
            read: BytesMut::new(),
            assembling: None,
            out: BytesMut::new(),
            next_tag: 1,
            unconfirmed: BTreeMap::new(),
            connections: 0,
            published: 0,
            held: BTreeMap::new(),
            last: BTreeMap::new(),
            position: 0,
            getting: false,
            prefetch: 0,
            no_ack: false,
            draining: false,
        }
    }

    pub(crate) fn is_offline(&self) -> bool {
        self.phase == Phase::Offline
    }

    /// Nothing is expected any more.
    pub(crate) fn is_at_rest(&self) -> bool {
        match self.purpose {
            Purpose::Publish => self.phase == Phase::Offline || self.unconfirmed.is_empty(),
            Purpose::Consume(_) | Purpose::Letters(_) | Purpose::Get(_) | Purpose::Read => self.held.is_empty(),
            Purpose::Delete(_) => true,
        }
    }

    pub(crate) fn describe(&self) -> String {
        format!(
            "client {} {:?}: {:?} since {} ms, {} unconfirmed, {} held",
            self.id,
            self.purpose,
            self.phase,
            self.since_ms,
            self.unconfirmed.len(),
            self.held.len()
        )
    }

    /// A socket was opened.
    pub(crate) fn connected(&mut self, now_ms: u64) {
        self.enter(Phase::Opening, now_ms);
        self.connections += 1;
        self.out.extend_from_slice(&frame::PROTOCOL_HEADER);
    }

    /// The socket is gone.
    pub(crate) fn disconnected(&mut self, now_ms: u64) {
        self.enter(Phase::Offline, now_ms);
        self.read.clear();
        self.out.clear();
        self.assembling = None;
        self.next_tag = 1;
        self.unconfirmed.clear();
        self.held.clear();
        self.last.clear();
        self.getting = false;
    }

    fn enter(&mut self, phase: Phase, now_ms: u64) {
        self.phase = phase;
        self.since_ms = now_ms;
    }

    /// Whether it has waited too long for what it cannot go on without, or was closed.
    pub(crate) fn gives_up(&self, now_ms: u64) -> bool {
        match self.phase {
            Phase::Opening | Phase::Declaring(_) => now_ms >= self.since_ms + 12_000,
            Phase::Closed => now_ms >= self.since_ms + 20,
            Phase::Offline | Phase::Running => false,
        }
    }

    fn put(&mut self, channel: u16, method: &Method) {
        put_method(&mut self.out, channel, method);
    }

    /// Bytes from the server.
    pub(crate) fn hear(
        &mut self,
        bytes: &[u8],
        now_ms: u64,
        options: &Options,
        random: &mut Random,
        checker: &mut Checker,
    ) {
        self.read.extend_from_slice(bytes);
        loop {
            match frame::decode(&mut self.read, u32::MAX) {
                Ok(Some(frame)) => self.frame(&frame, now_ms, options, random, checker),
                Ok(None) => return,
                Err(error) => return checker.fail(format!("the broker's frames are malformed: {error}")),
            }
        }
    }

    fn frame(&mut self, frame: &Frame, now_ms: u64, options: &Options, random: &mut Random, checker: &mut Checker) {
        match (frame.kind, self.assembling.take()) {
            (Kind::Heartbeat, assembling) => self.assembling = assembling,
            (Kind::Method, None) => match Method::decode(&frame.payload) {
                Ok(method) if method.has_content() => self.assembling = Some((method, None, BytesMut::new())),
                Ok(method) => self.method(&method, now_ms, options, random, checker),
                Err(error) => checker.fail(format!("the broker's methods are malformed: {error}")),
            },
            (Kind::Header, Some((method, None, body))) => match Header::decode(&frame.payload) {
                Ok(header) => self.assemble(method, header, body, checker),
                Err(error) => checker.fail(format!("the broker's headers are malformed: {error}")),
            },
            (Kind::Body, Some((method, Some(header), mut body))) => {
                body.extend_from_slice(&frame.payload);
                self.assemble(method, header, body, checker);
            }
            (kind, assembling) => checker.fail(format!("a {kind:?} frame after {assembling:?}")),
        }
    }

    fn assemble(&mut self, method: Method, header: Header, body: BytesMut, checker: &mut Checker) {
        if (body.len() as u64) < header.body_size {
            self.assembling = Some((method, Some(header), body));
            return;
        }
        match method {
            Method::BasicDeliver {
                delivery_tag,
                redelivered,
                ..
            } if self.purpose == Purpose::Read => {
                let offset = offset(&header);
                if redelivered || offset != Some(self.position) {
                    let (id, wanted) = (self.id, self.position);
                    return checker.fail(format!(
                        "reader {id} gets offset {offset:?}, not {wanted}: {redelivered}"
                    ));
                }
                if let Some(id) = checker.read(self.id, self.position, &body) {
                    self.position += 1;
                    self.held.insert(delivery_tag, id);
                }
            }
            Method::BasicDeliver {
                delivery_tag,
                redelivered,
                ..
            } => {
                let letter = matches!(self.purpose, Purpose::Letters(_));
                let Some((id, connection)) = checker.delivered(self.id, &body, redelivered, letter) else {
                    return;
                };
                // Messages die in any order.
                if !redelivered && !letter {
                    let last = self.last.insert((id.queue, id.publisher, connection), id.number);
                    if last.is_some_and(|last| last >= id.number) && !checker.is_pardoned(id) {
                        checker.fail(format!("{id:?} came first after number {last:?} of the same publisher"));
                    }
                }
                if self.no_ack {
                    checker.settled(id);
                } else {
                    self.held.insert(delivery_tag, id);
                }
            }
            Method::BasicGetOk {
                delivery_tag,
                redelivered,
                ..
            } => {
                self.getting = false;
                if let Some((id, _)) = checker.delivered(self.id, &body, redelivered, false) {
                    self.held.insert(delivery_tag, id);
                }
            }
            _ => checker.fail(format!("{} came with a message", method.name())),
        }
    }

    fn method(&mut self, method: &Method, now_ms: u64, options: &Options, random: &mut Random, checker: &mut Checker) {
        match method {
            Method::ConnectionStart { .. } => {
                // It wants to hear when its queue is deleted.
                let mut capabilities = Table::new();
                capabilities.insert("consumer_cancel_notify", Value::Bool(true));
                let mut client_properties = Table::new();
                client_properties.insert("capabilities", Value::Table(capabilities));
                let method = Method::ConnectionStartOk {
                    client_properties,
                    mechanism: short("PLAIN"),
                    response: Bytes::from_static(b"\0guest\0guest"),
                    locale: short("en_US"),
                };
                self.put(0, &method);
            }
            Method::ConnectionTune { .. } => {
                self.put(
                    0,
                    &Method::ConnectionTuneOk {
                        channel_max: 10,
                        frame_max: 4_096,
                        heartbeat: 0,
                    },
                );
                self.put(
                    0,
                    &Method::ConnectionOpen {
                        virtual_host: short("/"),
                    },
                );
            }
            Method::ConnectionOpenOk {} => self.put(1, &Method::ChannelOpen {}),
            Method::ChannelOpenOk {} => {
                self.enter(Phase::Declaring(0), now_ms);
                for queue in 0..options.queues.len() {
                    self.declare(queue, options);
                }
                if options.stream {
                    let arguments = [(short("x-queue-type"), text("stream"))];
                    self.declare_durable(STREAM, arguments.into_iter().collect());
                }
            }
            Method::QueueDeclareOk { .. } => {
                if let Phase::Declaring(count) = self.phase {
                    self.enter(Phase::Declaring(count + 1), now_ms);
                    let letters = options.queues.iter().filter(|queue| queue.letters.is_some()).count();
                    if count + 1 == options.queues.len() + letters + usize::from(options.stream) {
                        self.begin(now_ms, options, random);
                    }
                }
            }
            Method::BasicAck { delivery_tag, multiple } => {
                for id in self.answered(*delivery_tag, *multiple, checker) {
                    checker.confirmed(id);
                }
            }
            Method::BasicNack {
                delivery_tag, multiple, ..
            } => {
                self.answered(*delivery_tag, *multiple, checker);
            }
            Method::BasicGetEmpty {} => self.getting = false,
            Method::ConfirmSelectOk {}
            | Method::BasicQosOk {}
            | Method::BasicConsumeOk { .. }
            | Method::QueueDeleteOk { .. } => {}
            // The queue was deleted, the node was cut off: it comes back.
            Method::ChannelClose { .. } => {
                self.put(1, &Method::ChannelCloseOk {});
                self.enter(Phase::Closed, now_ms);
            }
            Method::BasicCancel { .. } => self.enter(Phase::Closed, now_ms),
            Method::ConnectionClose { .. } => {
                self.put(0, &Method::ConnectionCloseOk {});
                self.enter(Phase::Closed, now_ms);
            }
            other => checker.fail(format!("the broker sent {} unasked", other.name())),
        }
    }

    /// Takes the publishes that a confirm names off the list.
    fn answered(&mut self, tag: u64, multiple: bool, checker: &mut Checker) -> Vec<MessageId> {
        if tag == 0 || tag >= self.next_tag {
            checker.fail(format!(
                "client {}: a confirm for publish {tag}, which was not made",
                self.id
            ));
            return Vec::new();
        }
        if !multiple {
            let one = self.unconfirmed.remove(&tag);
            if one.is_none() {
                checker.fail(format!("client {}: a second confirm for publish {tag}", self.id));
            }
            return one.into_iter().collect();
        }
        let rest = self.unconfirmed.split_off(&(tag + 1));
        std::mem::replace(&mut self.unconfirmed, rest).into_values().collect()
    }

    fn declare(&mut self, queue: usize, options: &Options) {
        let mut arguments = Table::new();
        if options.queues[queue].quorum {
            arguments.insert("x-queue-type", text("quorum"));
            // Some wait for silent nodes for as long as freezes and partitions last, the others longer.
            if queue.is_multiple_of(2) {
                arguments.insert("x-consumer-disconnected-timeout", Value::I64(1_000));
            }
        }
        if let Some(letters) = options.queues[queue].letters {
            self.declare_durable(&letters_name(queue), Table::new());
            arguments.insert("x-dead-letter-exchange", text(""));
            arguments.insert("x-dead-letter-routing-key", text(&letters_name(queue)));
            if letters.at_least_once {
                arguments.insert("x-dead-letter-strategy", text("at-least-once"));
                arguments.insert("x-overflow", text("reject-publish"));
            }
            if letters.ttl_ms > 0 {
                arguments.insert("x-message-ttl", Value::I64(letters.ttl_ms as i64));
            }
            if letters.length_max > 0 {
                arguments.insert("x-max-length", Value::I64(letters.length_max as i64));
                arguments.insert("x-overflow", text("reject-publish"));
            }
        }
        self.declare_durable(&queue_name(queue), arguments);
    }

    fn declare_durable(&mut self, queue: &str, arguments: Table) {
        self.put(
            1,
            &Method::QueueDeclare {
                queue: short(queue),
                passive: false,
                durable: true,
                exclusive: false,
                auto_delete: false,
                no_wait: false,
                arguments,
            },
        );
    }

    fn begin(&mut self, now_ms: u64, options: &Options, random: &mut Random) {
        self.enter(Phase::Running, now_ms);
        match self.purpose {
            Purpose::Publish => self.put(1, &Method::ConfirmSelect { no_wait: false }),
            Purpose::Consume(_) | Purpose::Letters(_) | Purpose::Read => {
                let mut arguments = Table::new();
                self.prefetch = *random.pick(&options.prefetch);
                self.no_ack = false;
                let name = match self.purpose {
                    Purpose::Letters(queue) => letters_name(queue),
                    Purpose::Consume(queue) => queue_name(queue),
                    _ => {
                        arguments.insert("x-stream-offset", Value::I64(self.position as i64));
                        self.prefetch = self.prefetch.max(1);
                        STREAM.to_owned()
                    }
                };
                self.put(
                    1,
                    &Method::BasicQos {
                        prefetch_size: 0,
                        prefetch_count: self.prefetch,
                        global: false,
                    },
                );
                self.put(
                    1,
                    &Method::BasicConsume {
                        queue: short(&name),
                        consumer_tag: short("tag"),
                        no_local: false,
                        no_ack: self.no_ack,
                        exclusive: false,
                        no_wait: false,
                        arguments,
                    },
                );
            }
            Purpose::Get(_) | Purpose::Delete(_) => {}
        }
    }

    /// Does something of its own accord.
    pub(crate) fn act(&mut self, options: &Options, random: &mut Random, checker: &mut Checker) {
        if self.phase != Phase::Running {
            return;
        }
        match self.purpose {
            Purpose::Publish => self.publish(options, random, checker),
            Purpose::Consume(_) | Purpose::Letters(_) => self.settle(options, random, checker),
            Purpose::Read => self.read_on(random),
            Purpose::Get(queue) => {
                self.settle(options, random, checker);
                if !self.getting && self.held.len() < 5 && !self.draining {
                    self.getting = true;
                    self.put(
                        1,
                        &Method::BasicGet {
                            queue: short(&queue_name(queue)),
                            no_ack: false,
                        },
                    );
                }
            }
            Purpose::Delete(queue) => {
                if !self.draining && random.chance(30) {
                    self.put(
                        1,
                        &Method::QueueDelete {
                            queue: short(&queue_name(queue)),
                            if_unused: false,
                            if_empty: false,
                            no_wait: false,
                        },
                    );
                    self.declare(queue, options);
                }
            }
        }
    }

    /// Acknowledges some of what it holds, oldest first: nothing but its credit hangs on it.
    fn read_on(&mut self, random: &mut Random) {
        let tags: Vec<u64> = self.held.keys().copied().collect();
        let Some(last) = tags.last() else { return };
        let delivery_tag = if self.draining { *last } else { *random.pick(&tags) };
        self.held = self.held.split_off(&(delivery_tag + 1));
        let multiple = true;
        self.put(1, &Method::BasicAck { delivery_tag, multiple });
    }

    fn publish(&mut self, options: &Options, random: &mut Random, checker: &mut Checker) {
        if self.draining {
            return;
        }
        for _ in 0..random.from(1, options.burst) {
            if self.published >= options.messages || self.unconfirmed.len() as u64 >= options.window {
                return;
            }
            self.published += 1;
            let id = MessageId {
                queue: random.below(options.queues.len() as u64) as usize,
                publisher: self.id,
                number: self.published,
            };
            let len = random.below(options.body_max + 1) as usize;
            checker.published(id, self.connections, len);
            let method = Method::BasicPublish {
                exchange: short(""),
                routing_key: short(&queue_name(id.queue)),
                mandatory: false,
                immediate: false,
            };
            put_method(&mut self.out, 1, &method);
            let headers = options.stream.then(|| {
                let mut headers = Table::new();
                headers.insert("CC", Value::Array(vec![text(STREAM)]));
                headers
            });
            let properties = Properties {
                delivery_mode: Some(2),
                headers,
                ..Properties::default()
            };
            let body = Bytes::from(body(id, len));
            put_content(&mut self.out, 1, &properties.to_bytes(), &body, 4_096);
            self.unconfirmed.insert(self.next_tag, id);
            self.next_tag += 1;
        }
    }

    fn settle(&mut self, options: &Options, random: &mut Random, checker: &mut Checker) {
        if self.held.is_empty() {
            return;
        }
        if self.draining || random.below(4) == 0 {
            // All that came so far, up to some message.
            let tags: Vec<u64> = self.held.keys().copied().collect();
            let upto = if self.draining {
                tags[tags.len() - 1]
            } else {
                *random.pick(&tags)
            };
            let rest = self.held.split_off(&(upto + 1));
            for id in std::mem::replace(&mut self.held, rest).into_values() {
                checker.settled(id);
            }
            self.put(
                1,
                &Method::BasicAck {
                    delivery_tag: upto,
                    multiple: true,
                },
            );
            return;
        }
        for _ in 0..random.from(1, 5) {
            if self.held.is_empty() {
                return;
            }
            let tags: Vec<u64> = self.held.keys().copied().collect();
            let delivery_tag = *random.pick(&tags);
            let Some(id) = self.held.remove(&delivery_tag) else {
                return;
            };
            let (mix, drawn) = (options.mix, random.below(100));
            if drawn < mix.requeue {
                self.put(
                    1,
                    &Method::BasicNack {
                        delivery_tag,
                        multiple: false,
                        requeue: true,
                    },
                );
            } else if drawn < mix.requeue + mix.reject {
                self.put(
                    1,
                    &Method::BasicReject {
                        delivery_tag,
                        requeue: true,
                    },
                );
            } else if drawn < mix.requeue + mix.reject + mix.discard {
                let letters = options.queues[id.queue].letters;
                let goes_on = letters.is_some_and(|letters| letters.at_least_once);
                if !goes_on || matches!(self.purpose, Purpose::Letters(_)) {
                    checker.settled(id);
                }
                self.put(
                    1,
                    &Method::BasicReject {
                        delivery_tag,
                        requeue: false,
                    },
                );
            } else {
                checker.settled(id);
                self.put(
                    1,
                    &Method::BasicAck {
                        delivery_tag,
                        multiple: false,
                    },
                );
            }
        }
    }
}
