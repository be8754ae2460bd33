//! The compact forms on the message path: what a session sends to a queue, what a queue's log holds,
//! and what a queue sends back. All integers are little-endian.
//!
//! ```text
//! log entry of a queue = batch*
//! batch                = node:u64 incarnation:u64 id:u64 first_seq:u64 count:u32 len:u32 command*     (len bytes)
//! command              = kind:u8 len:u32 payload                                                      (len bytes)
//! publish payload      = flags:u8 priority:u8 [ttl_ms:u64 if FLAG_TTL]
//!                        [group:u64 id:u64 floor:u64 if FLAG_ORIGIN] [len:u32 shortstr* if FLAG_BCC]
//!                        exchange:shortstr routing_key:shortstr properties_len:u32 properties body
//! settle payload       = outcome:u8 (first:u64 len:u32)*
//! events               = group:u64 term:u64 applied:u64
//!                        refused:u32 (first:u64 len:u32)*  replies:u32 (seq:u64 len:u32 queue.Reply)*
//!                        deliveries:u32 (consumer:u32 delivery_id:u64 seq:u64 get_seq:u64 flags:u8
//!                                        acquired:u32 failed:u32 len:u32 publish-payload)*
//! ```
//!
//! A batch travels unchanged from the session's node into the log: it is encoded once.
//! `first_seq` numbers a session's commands to one queue from 1 without gaps; the machine uses it to drop
//! what it has seen and to refuse what would leave a gap.
//! Batches of [`SessionId::SYSTEM`] carry no numbers; their commands are idempotent.

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost::Message as _;

use crate::queue;

/// One client connection on one run of one node. Never reused.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct SessionId {
    /// The node that the client is connected to.
    pub node: u64,
    /// Grows with every start of that node.
    pub incarnation: u64,
    /// Counts that run's connections from 1.
    pub id: u64,
}

impl SessionId {
    /// The sender of commands that no client asked for.
    pub const SYSTEM: Self = Self {
        node: 0,
        incarnation: 0,
        id: 0,
    };
}

impl queue::Resync {
    /// The session that asks.
    pub fn session(&self) -> SessionId {
        SessionId {
            node: self.node,
            incarnation: self.incarnation,
            id: self.id,
        }
    }
}

/// A record that does not follow this module's grammar.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// The bytes end inside the named part.
    #[error("record ends inside {0}")]
    Truncated(&'static str),
    /// The named part holds a value that nothing writes.
    #[error("record holds an impossible {0}")]
    Invalid(&'static str),
}

/// Result of decoding a record.
pub type Result<T> = std::result::Result<T, Error>;

/// Bytes of a batch before its commands.
pub const BATCH_HEADER_LEN: usize = 40;
/// Bytes of a command before its payload.
pub const COMMAND_HEADER_LEN: usize = 5;

const FLAG_TTL: u8 = 1;
const FLAG_PERSISTENT: u8 = 2;
const FLAG_PRIORITY: u8 = 4;
const FLAG_ORIGIN: u8 = 8;
const FLAG_BCC: u8 = 16;

const KIND_PUBLISH: u8 = 1;
const KIND_SETTLE: u8 = 2;
const KIND_ATTACH: u8 = 3;
const KIND_CANCEL: u8 = 4;
const KIND_GET: u8 = 5;
const KIND_PURGE: u8 = 6;
const KIND_STAT: u8 = 7;
const KIND_DELETE: u8 = 8;
const KIND_CREDIT: u8 = 9;
const KIND_HEARD: u8 = 10;
const KIND_SESSION_DOWN: u8 = 20;
const KIND_NODE_DOWN: u8 = 21;
const KIND_TICK: u8 = 22;
const KIND_BURIED: u8 = 23;
const KIND_CONFIGURE: u8 = 24;
const KIND_NODE_SILENT: u8 = 25;

/// What a session does with messages it holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(u8)]
pub enum Outcome {
    /// basic.ack: done.
    Ack = 1,
    /// basic.reject or basic.nack without requeue.
    Discard = 2,
    /// basic.reject with requeue, a closed channel: a failed delivery.
    Reject = 3,
    /// basic.nack with requeue, basic.recover: back to its place.
    Release = 4,
}

impl Outcome {
    fn decode(byte: u8) -> Result<Self> {
        match byte {
            1 => Ok(Self::Ack),
            2 => Ok(Self::Discard),
            3 => Ok(Self::Reject),
            4 => Ok(Self::Release),
            _ => Err(Error::Invalid("outcome")),
        }
    }
}

/// A run of consecutive numbers: `first`, `first + 1`, ... `len` of them.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Run {
    /// The lowest number.
    pub first: u64,
    /// How many; at least 1.
    pub len: u32,
}

impl Run {
    /// Adds `number` to ascending runs, extending the last run where it continues it.
    pub fn push(runs: &mut Vec<Self>, number: u64) {
        match runs.last_mut() {
            Some(run) if run.first + u64::from(run.len) == number && run.len < u32::MAX => run.len += 1,
            _ => runs.push(Self { first: number, len: 1 }),
        }
    }

    /// The numbers of this run, ascending.
    pub fn numbers(self) -> impl Iterator<Item = u64> {
        (0..u64::from(self.len)).map(move |n| self.first.saturating_add(n))
    }
}

/// Which dead letter of which queue a message is. A queue takes each once, however often it comes.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Origin {
    /// The queue in which it died.
    pub group: u64,
    /// Counts that queue's dead letters from 1.
    pub id: u64,
    /// No dead letter below this will come again.
    pub floor: u64,
}

/// A message as a publisher's session hands it to a queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Publish<'a> {
    /// delivery-mode 2.
    pub persistent: bool,
    /// The priority property.
    pub priority: Option<u8>,
    /// The expiration property, in milliseconds.
    pub ttl_ms: Option<u64>,
    /// For a dead letter.
    pub origin: Option<Origin>,
    /// Routing keys of the BCC header, which no consumer sees: short strings one after the other.
    pub bcc: &'a [u8],
    /// At most 255 bytes.
    pub exchange: &'a [u8],
    /// At most 255 bytes.
    pub routing_key: &'a [u8],
    /// Property flags and values exactly as in the content header frame, without class, weight and body size.
    pub properties: &'a [u8],
    /// The body's parts, in order.
    pub body: &'a [Bytes],
}

impl Publish<'_> {
    /// Length of this message's publish payload in bytes.
    pub fn payload_len(&self) -> usize {
        let body: usize = self.body.iter().map(Bytes::len).sum();
        let ttl = if self.ttl_ms.is_some() { 8 } else { 0 };
        let origin = if self.origin.is_some() { 24 } else { 0 };
        let bcc = if self.bcc.is_empty() { 0 } else { 4 + self.bcc.len() };
        2 + ttl + origin + bcc + 1 + self.exchange.len() + 1 + self.routing_key.len() + 4 + self.properties.len() + body
    }
}

/// The parts of a stored publish payload. Slices of it, nothing copied.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored<'a> {
    /// delivery-mode 2.
    pub persistent: bool,
    /// The priority property.
    pub priority: Option<u8>,
    /// The expiration property, in milliseconds.
    pub ttl_ms: Option<u64>,
    /// For a dead letter.
    pub origin: Option<Origin>,
    /// See [`Publish::bcc`] and [`short_strings`].
    pub bcc: &'a [u8],
    /// The exchange it was published to.
    pub exchange: &'a [u8],
    /// The routing key it was published with.
    pub routing_key: &'a [u8],
    /// Property flags and values as on the wire.
    pub properties: &'a [u8],
    /// The whole body.
    pub body: &'a [u8],
}

impl<'a> Stored<'a> {
    /// Takes a publish payload apart.
    pub fn decode(payload: &'a [u8]) -> Result<Self> {
        let mut rest = payload;
        let flags = take_u8(&mut rest, "publish flags")?;
        let priority = take_u8(&mut rest, "priority")?;
        let ttl_ms = if flags & FLAG_TTL != 0 {
            Some(take_u64(&mut rest, "ttl")?)
        } else {
            None
        };
        let origin = if flags & FLAG_ORIGIN != 0 {
            Some(Origin {
                group: take_u64(&mut rest, "origin")?,
                id: take_u64(&mut rest, "origin")?,
                floor: take_u64(&mut rest, "origin")?,
            })
        } else {
            None
        };
        let bcc = if flags & FLAG_BCC != 0 {
            let len = take_u32(&mut rest, "bcc")? as usize;
            take(&mut rest, len, "bcc")?
        } else {
            &[]
        };
        let exchange = take_short(&mut rest, "exchange")?;
        let routing_key = take_short(&mut rest, "routing key")?;
        let properties_len = take_u32(&mut rest, "properties length")? as usize;
        let properties = take(&mut rest, properties_len, "properties")?;
        Ok(Self {
            persistent: flags & FLAG_PERSISTENT != 0,
            // A priority that is not 0 was always one that the publisher gave.
            priority: (flags & FLAG_PRIORITY != 0 || priority != 0).then_some(priority),
            ttl_ms,
            origin,
            bcc,
            exchange,
            routing_key,
            properties,
            body: rest,
        })
    }
}

/// The short strings of `bytes`, one after the other; ends where they do.
pub fn short_strings(bytes: &[u8]) -> impl Iterator<Item = &[u8]> {
    let mut rest = bytes;
    std::iter::from_fn(move || take_short(&mut rest, "short string").ok())
}

/// Adds a string to what [`short_strings`] reads. One of more than 255 bytes, which no client can send, is cut.
pub fn put_short_string(out: &mut Vec<u8>, string: &[u8]) {
    let len = u8::try_from(string.len()).unwrap_or(u8::MAX);
    out.push(len);
    out.extend_from_slice(&string[..usize::from(len)]);
}

/// One decoded command. Publish payloads are named by their place, not copied.
#[derive(Clone, Debug, PartialEq)]
pub enum Command<'a> {
    /// A message.
    Publish {
        /// Where its publish payload starts, counted from the start of the log entry's payload.
        offset: u32,
        /// The publish payload; see [`Stored::decode`].
        payload: &'a [u8],
    },
    /// Messages that the session is done with.
    Settle {
        /// What becomes of them.
        outcome: Outcome,
        /// Message sequence numbers (not delivery tags), ascending within each run.
        runs: Vec<Run>,
    },
    /// Start a consumer.
    Attach(queue::Attach),
    /// End a consumer.
    Cancel(queue::Cancel),
    /// Take one message.
    Get(queue::Get),
    /// Drop the ready messages.
    Purge,
    /// Count.
    Stat,
    /// End the queue, if its conditions hold.
    Delete(queue::Delete),
    /// A consumer's session wrote deliveries to its client.
    Credit(queue::Credit),
    /// The session has taken in all answers up to a number: refusals up to it need not be remembered.
    Heard(queue::Heard),
    /// A session has ended (system).
    SessionDown(SessionId),
    /// A node's runs up to an incarnation have ended (system).
    NodeDown {
        /// The node.
        node: u64,
        /// The highest incarnation that has ended.
        incarnation: u64,
    },
    /// A node's runs up to an incarnation are not heard, and may be yet: their sessions hold nothing any more (system).
    NodeSilent {
        /// The node.
        node: u64,
        /// The highest incarnation that is meant.
        incarnation: u64,
    },
    /// Time has passed (system): what is due by the entry's time happens.
    Tick,
    /// These dead letters are where they had to go (system).
    Buried(Vec<Run>),
    /// The queue's settings are others from now on (system).
    Configure(queue::Configure),
}

/// Builds one batch of a session's commands.
#[derive(Clone, Debug)]
pub struct BatchWriter {
    session: SessionId,
    first_seq: u64,
    count: u32,
    bytes: BytesMut,
}

impl BatchWriter {
    /// Starts a batch whose first command has the number `first_seq`.
    pub fn new(session: SessionId, first_seq: u64) -> Self {
        let mut bytes = BytesMut::with_capacity(512);
        bytes.resize(BATCH_HEADER_LEN, 0);
        Self {
            session,
            first_seq,
            count: 0,
            bytes,
        }
    }

    /// The same commands in the name of `session`.
    #[must_use]
    pub fn with_session(mut self, session: SessionId) -> Self {
        self.session = session;
        self
    }

    /// Whether it holds no command.
    pub fn is_empty(&self) -> bool {
        self.count == 0
    }

    /// Commands so far.
    pub fn count(&self) -> u32 {
        self.count
    }

    /// Bytes so far, the batch header included.
    pub fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The number that the next command pushed will have.
    pub fn next_seq(&self) -> u64 {
        self.first_seq + u64::from(self.count)
    }

    /// Adds a message.
    ///
    /// # Panics
    /// When the exchange or the routing key is longer than 255 bytes: AMQP short strings cannot be.
    pub fn publish(&mut self, message: &Publish<'_>) {
        let len = message.payload_len();
        self.bytes.reserve(COMMAND_HEADER_LEN + len);
        self.header(KIND_PUBLISH, len);
        let mut flags = 0;
        if message.ttl_ms.is_some() {
            flags |= FLAG_TTL;
        }
        if message.priority.is_some() {
            flags |= FLAG_PRIORITY;
        }
        if message.origin.is_some() {
            flags |= FLAG_ORIGIN;
        }
        if !message.bcc.is_empty() {
            flags |= FLAG_BCC;
        }
        if message.persistent {
            flags |= FLAG_PERSISTENT;
        }
        self.bytes.put_u8(flags);
        self.bytes.put_u8(message.priority.unwrap_or(0));
        if let Some(ttl_ms) = message.ttl_ms {
            self.bytes.put_u64_le(ttl_ms);
        }
        if let Some(origin) = message.origin {
            self.bytes.put_u64_le(origin.group);
            self.bytes.put_u64_le(origin.id);
            self.bytes.put_u64_le(origin.floor);
        }
        if !message.bcc.is_empty() {
            self.bytes.put_u32_le(message.bcc.len() as u32);
            self.bytes.put_slice(message.bcc);
        }
        for short in [message.exchange, message.routing_key] {
            self.bytes
                .put_u8(u8::try_from(short.len()).expect("a short string has at most 255 bytes"));
            self.bytes.put_slice(short);
        }
        self.bytes.put_u32_le(message.properties.len() as u32);
        self.bytes.put_slice(message.properties);
        for part in message.body {
            self.bytes.put_slice(part);
        }
    }

    /// Adds a settlement of `runs`, which must not be empty.
    pub fn settle(&mut self, outcome: Outcome, runs: &[Run]) {
        self.header(KIND_SETTLE, 1 + runs.len() * 12);
        self.bytes.put_u8(outcome as u8);
        for run in runs {
            self.bytes.put_u64_le(run.first);
            self.bytes.put_u32_le(run.len);
        }
    }

    /// Adds one of the rare commands.
    ///
    /// # Panics
    /// On `Publish` and `Settle`, which have methods of their own.
    pub fn push(&mut self, command: &Command<'_>) {
        match command {
            Command::Attach(attach) => self.message(KIND_ATTACH, attach),
            Command::Cancel(cancel) => self.message(KIND_CANCEL, cancel),
            Command::Get(get) => self.message(KIND_GET, get),
            Command::Purge => self.header(KIND_PURGE, 0),
            Command::Stat => self.header(KIND_STAT, 0),
            Command::Delete(delete) => self.message(KIND_DELETE, delete),
            Command::Credit(credit) => self.message(KIND_CREDIT, credit),
            Command::Heard(heard) => self.message(KIND_HEARD, heard),
            Command::Tick => self.header(KIND_TICK, 0),
            Command::Buried(runs) => {
                self.header(KIND_BURIED, runs.len() * 12);
                for run in runs {
                    self.bytes.put_u64_le(run.first);
                    self.bytes.put_u32_le(run.len);
                }
            }
            Command::Configure(configure) => self.message(KIND_CONFIGURE, configure),
            Command::SessionDown(session) => self.message(
                KIND_SESSION_DOWN,
                &queue::SessionDown {
                    node: session.node,
                    incarnation: session.incarnation,
                    id: session.id,
                },
            ),
            Command::NodeDown { node, incarnation } => {
                self.message(
                    KIND_NODE_DOWN,
                    &queue::NodeDown {
                        node: *node,
                        incarnation: *incarnation,
                    },
                );
            }
            Command::NodeSilent { node, incarnation } => {
                self.message(
                    KIND_NODE_SILENT,
                    &queue::NodeSilent {
                        node: *node,
                        incarnation: *incarnation,
                    },
                );
            }
            Command::Publish { .. } | Command::Settle { .. } => {
                unreachable!("messages and settlements are pushed by their own methods")
            }
        }
    }

    /// The encoded batch.
    pub fn finish(mut self) -> Bytes {
        let len = (self.bytes.len() - BATCH_HEADER_LEN) as u32;
        let mut header = &mut self.bytes[..BATCH_HEADER_LEN];
        header.put_u64_le(self.session.node);
        header.put_u64_le(self.session.incarnation);
        header.put_u64_le(self.session.id);
        header.put_u64_le(self.first_seq);
        header.put_u32_le(self.count);
        header.put_u32_le(len);
        self.bytes.freeze()
    }

    fn header(&mut self, kind: u8, len: usize) {
        self.count += 1;
        self.bytes.put_u8(kind);
        self.bytes
            .put_u32_le(u32::try_from(len).expect("a command is bounded by the message size limit"));
    }

    fn message<M: prost::Message>(&mut self, kind: u8, message: &M) {
        self.header(kind, message.encoded_len());
        message.encode(&mut self.bytes).expect("a BytesMut grows as needed");
    }
}

/// A batch that holds one system command.
pub fn system(command: &Command<'_>) -> Bytes {
    let mut batch = BatchWriter::new(SessionId::SYSTEM, 0);
    batch.push(command);
    batch.finish()
}

/// One batch inside a log entry's payload or a mailbox message.
#[derive(Clone, Copy, Debug)]
pub struct Batch<'a> {
    /// Who sent it.
    pub session: SessionId,
    /// Number of its first command; 0 for a system batch.
    pub first_seq: u64,
    /// How many commands it holds.
    pub count: u32,
    offset: usize,
    commands: &'a [u8],
}

impl<'a> Batch<'a> {
    /// The commands in order, each with its place; ends after the first error.
    pub fn commands(&self) -> Commands<'a> {
        Commands {
            rest: self.commands,
            offset: self.offset,
            failed: false,
        }
    }
}

/// Who sent the first batch of `bytes`, and how many commands it holds if the first is a publish, else 0.
/// Defaults where it ends early.
pub fn peek(bytes: &[u8]) -> (SessionId, u32) {
    let mut rest = bytes;
    let session = || -> Result<SessionId> {
        Ok(SessionId {
            node: take_u64(&mut rest, "session")?,
            incarnation: take_u64(&mut rest, "session")?,
            id: take_u64(&mut rest, "session")?,
        })
    }();
    let mut count = bytes.get(32..36).unwrap_or_default();
    let publishes = bytes.get(BATCH_HEADER_LEN) == Some(&KIND_PUBLISH);
    (
        session.unwrap_or_default(),
        if publishes {
            take_u32(&mut count, "command count").unwrap_or(0)
        } else {
            0
        },
    )
}

/// The batches of a log entry's payload in order; ends after the first error.
pub fn batches(payload: &[u8]) -> Batches<'_> {
    Batches {
        whole: payload.len(),
        rest: payload,
        failed: false,
    }
}

/// Where the publish payloads of a log entry's payload are, in order: what a message's place says of it, as offset and
/// length. What cannot be read is passed over.
pub fn publishes(payload: &[u8]) -> impl Iterator<Item = (u32, u32)> {
    let commands = batches(payload).flatten().flat_map(|batch| batch.commands().flatten());
    commands.filter_map(|command| {
        let Command::Publish { offset, payload } = command else {
            return None;
        };
        Some((offset, u32::try_from(payload.len()).ok()?))
    })
}

/// Iterator of [`batches`].
#[derive(Clone, Debug)]
pub struct Batches<'a> {
    whole: usize,
    rest: &'a [u8],
    failed: bool,
}

impl<'a> Batches<'a> {
    fn decode(&mut self) -> Result<Batch<'a>> {
        let rest = &mut self.rest;
        let session = SessionId {
            node: take_u64(rest, "session")?,
            incarnation: take_u64(rest, "session")?,
            id: take_u64(rest, "session")?,
        };
        let first_seq = take_u64(rest, "sequence number")?;
        let count = take_u32(rest, "command count")?;
        let len = take_u32(rest, "batch length")? as usize;
        let offset = self.whole - rest.len();
        let commands = take(rest, len, "batch")?;
        Ok(Batch {
            session,
            first_seq,
            count,
            offset,
            commands,
        })
    }
}

impl<'a> Iterator for Batches<'a> {
    type Item = Result<Batch<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() || self.failed {
            return None;
        }
        let batch = self.decode();
        self.failed = batch.is_err();
        Some(batch)
    }
}

/// Iterator of [`Batch::commands`].
#[derive(Clone, Debug)]
pub struct Commands<'a> {
    rest: &'a [u8],
    offset: usize,
    failed: bool,
}

impl<'a> Commands<'a> {
    fn decode(&mut self) -> Result<Command<'a>> {
        let rest = &mut self.rest;
        let kind = take_u8(rest, "command kind")?;
        let len = take_u32(rest, "command length")? as usize;
        let mut payload = take(rest, len, "command")?;
        let offset = self.offset + COMMAND_HEADER_LEN;
        self.offset = offset + len;
        let invalid = |what| move |_| Error::Invalid(what);
        Ok(match kind {
            KIND_PUBLISH => Command::Publish {
                offset: u32::try_from(offset).map_err(|_| Error::Invalid("entry over 4 GiB"))?,
                payload,
            },
            KIND_SETTLE => {
                let outcome = Outcome::decode(take_u8(&mut payload, "outcome")?)?;
                Command::Settle {
                    outcome,
                    runs: take_runs(payload)?,
                }
            }
            KIND_ATTACH => Command::Attach(queue::Attach::decode(payload).map_err(invalid("attach"))?),
            KIND_CANCEL => Command::Cancel(queue::Cancel::decode(payload).map_err(invalid("cancel"))?),
            KIND_GET => Command::Get(queue::Get::decode(payload).map_err(invalid("get"))?),
            KIND_PURGE => Command::Purge,
            KIND_STAT => Command::Stat,
            KIND_DELETE => Command::Delete(queue::Delete::decode(payload).map_err(invalid("delete"))?),
            KIND_CREDIT => Command::Credit(queue::Credit::decode(payload).map_err(invalid("credit"))?),
            KIND_HEARD => Command::Heard(queue::Heard::decode(payload).map_err(invalid("heard"))?),
            KIND_TICK => Command::Tick,
            KIND_BURIED => Command::Buried(take_runs(payload)?),
            KIND_CONFIGURE => Command::Configure(queue::Configure::decode(payload).map_err(invalid("configure"))?),
            KIND_SESSION_DOWN => {
                let down = queue::SessionDown::decode(payload).map_err(invalid("session down"))?;
                Command::SessionDown(SessionId {
                    node: down.node,
                    incarnation: down.incarnation,
                    id: down.id,
                })
            }
            KIND_NODE_DOWN => {
                let down = queue::NodeDown::decode(payload).map_err(invalid("node down"))?;
                Command::NodeDown {
                    node: down.node,
                    incarnation: down.incarnation,
                }
            }
            KIND_NODE_SILENT => {
                let silent = queue::NodeSilent::decode(payload).map_err(invalid("node silent"))?;
                Command::NodeSilent {
                    node: silent.node,
                    incarnation: silent.incarnation,
                }
            }
            _ => return Err(Error::Invalid("command kind")),
        })
    }
}

impl<'a> Iterator for Commands<'a> {
    type Item = Result<Command<'a>>;

    fn next(&mut self) -> Option<Self::Item> {
        if self.rest.is_empty() || self.failed {
            return None;
        }
        let command = self.decode();
        self.failed = command.is_err();
        Some(command)
    }
}

/// One message on its way from a queue to a session.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delivery {
    /// The session's consumer; 0 answers a get.
    pub consumer: u32,
    /// Counts this consumer's deliveries from 1 without gaps; 0 for a get.
    pub delivery_id: u64,
    /// The message's number in its queue, what a settlement names; its offset in a stream.
    pub seq: u64,
    /// For a get: the number of the command that it answers. From a stream: the offset from which on this message is
    /// the reader's next. Else 0.
    pub get_seq: u64,
    /// Handed out before.
    pub redelivered: bool,
    /// How often it was handed out before.
    pub acquired: u32,
    /// How many of those deliveries failed.
    pub failed: u32,
    /// The publish payload; see [`Stored::decode`].
    pub payload: Bytes,
}

/// Everything that one applied entry means for one session.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Events {
    /// The queue's group.
    pub group: u64,
    /// The leader's term.
    pub term: u64,
    /// All of the session's commands up to this number have been applied; publishes among them are confirmed
    /// unless refused.
    pub applied: u64,
    /// Numbers of publishes that were not enqueued.
    pub refused: Vec<Run>,
    /// Answers, each with the number of its command.
    pub replies: Vec<(u64, queue::Reply)>,
    /// Messages, in the order to be delivered.
    pub deliveries: Vec<Delivery>,
}

impl Events {
    /// Appends the encoded form to `out`.
    pub fn encode(&self, out: &mut BytesMut) {
        let bodies: usize = self.deliveries.iter().map(|d| d.payload.len() + 48).sum();
        out.reserve(64 + bodies);
        out.put_u64_le(self.group);
        out.put_u64_le(self.term);
        out.put_u64_le(self.applied);
        out.put_u32_le(self.refused.len() as u32);
        for run in &self.refused {
            out.put_u64_le(run.first);
            out.put_u32_le(run.len);
        }
        out.put_u32_le(self.replies.len() as u32);
        for (seq, reply) in &self.replies {
            out.put_u64_le(*seq);
            out.put_u32_le(reply.encoded_len() as u32);
            reply.encode(out).expect("a BytesMut grows as needed");
        }
        out.put_u32_le(self.deliveries.len() as u32);
        for delivery in &self.deliveries {
            out.put_u32_le(delivery.consumer);
            out.put_u64_le(delivery.delivery_id);
            out.put_u64_le(delivery.seq);
            out.put_u64_le(delivery.get_seq);
            out.put_u8(u8::from(delivery.redelivered));
            out.put_u32_le(delivery.acquired);
            out.put_u32_le(delivery.failed);
            out.put_u32_le(delivery.payload.len() as u32);
            out.put_slice(&delivery.payload);
        }
    }

    /// Decodes what [`Events::encode`] wrote; payloads are slices of `bytes`.
    pub fn decode(bytes: &Bytes) -> Result<Self> {
        let mut rest: &[u8] = bytes;
        let mut events = Self {
            group: take_u64(&mut rest, "group")?,
            term: take_u64(&mut rest, "term")?,
            applied: take_u64(&mut rest, "applied")?,
            ..Self::default()
        };
        for _ in 0..take_u32(&mut rest, "refused count")? {
            events.refused.push(take_run(&mut rest)?);
        }
        for _ in 0..take_u32(&mut rest, "reply count")? {
            let seq = take_u64(&mut rest, "reply number")?;
            let len = take_u32(&mut rest, "reply length")? as usize;
            let reply = queue::Reply::decode(take(&mut rest, len, "reply")?).map_err(|_| Error::Invalid("reply"))?;
            events.replies.push((seq, reply));
        }
        for _ in 0..take_u32(&mut rest, "delivery count")? {
            let consumer = take_u32(&mut rest, "delivery")?;
            let delivery_id = take_u64(&mut rest, "delivery")?;
            let seq = take_u64(&mut rest, "delivery")?;
            let get_seq = take_u64(&mut rest, "delivery")?;
            let redelivered = take_u8(&mut rest, "delivery")? != 0;
            let acquired = take_u32(&mut rest, "delivery")?;
            let failed = take_u32(&mut rest, "delivery")?;
            let len = take_u32(&mut rest, "delivery length")? as usize;
            let payload = bytes.slice_ref(take(&mut rest, len, "delivery payload")?);
            events.deliveries.push(Delivery {
                consumer,
                delivery_id,
                seq,
                get_seq,
                redelivered,
                acquired,
                failed,
                payload,
            });
        }
        if rest.is_empty() {
            Ok(events)
        } else {
            Err(Error::Invalid("end of events"))
        }
    }
}

fn take<'a>(rest: &mut &'a [u8], len: usize, what: &'static str) -> Result<&'a [u8]> {
    let (taken, left) = rest.split_at_checked(len).ok_or(Error::Truncated(what))?;
    *rest = left;
    Ok(taken)
}

fn take_u8(rest: &mut &[u8], what: &'static str) -> Result<u8> {
    take(rest, 1, what).map(|mut bytes| bytes.get_u8())
}

fn take_u32(rest: &mut &[u8], what: &'static str) -> Result<u32> {
    take(rest, 4, what).map(|mut bytes| bytes.get_u32_le())
}

fn take_u64(rest: &mut &[u8], what: &'static str) -> Result<u64> {
    take(rest, 8, what).map(|mut bytes| bytes.get_u64_le())
}

fn take_short<'a>(rest: &mut &'a [u8], what: &'static str) -> Result<&'a [u8]> {
    let len = take_u8(rest, what)? as usize;
    take(rest, len, what)
}

fn take_runs(mut rest: &[u8]) -> Result<Vec<Run>> {
    let mut runs = Vec::with_capacity(rest.len() / 12);
    while !rest.is_empty() {
        runs.push(take_run(&mut rest)?);
    }
    Ok(runs)
}

fn take_run(rest: &mut &[u8]) -> Result<Run> {
    let run = Run {
        first: take_u64(rest, "run")?,
        len: take_u32(rest, "run")?,
    };
    if run.len == 0 {
        Err(Error::Invalid("empty run"))
    } else {
        Ok(run)
    }
}

#[cfg(test)]
mod tests;
