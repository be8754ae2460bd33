//! The queue: which messages wait, who holds which, who consumes, and what each session has done so far.
//!
//! A replica applies the log's entries to this machine; a transient queue applies its mailbox to it. It knows
//! neither actors, disk, clock nor who leads, and never sees a body again after its entry was applied: a message
//! is its place in the log.
//!
//! ```text
//!   publish -> ready -> held by a session -> settled: gone
//!                ^ |           |    |
//!                +-|-----------+    |    released, rejected, or the session ended
//!                  v                v
//!                 dead: expired, over a limit, refused by consumers -> buried: gone
//! ```
//!
//! A stream is a queue of another mode: what is published is appended, nothing is ever ready or held, and consumers are
//! known here but read by themselves: see [`Stream`] and `readers.rs`.
//!
//! Invariants, after every command:
//! - a message is in exactly one place: ready, held, dead, or gone;
//! - no message is ready while a consumer has credit, none whose time is over, and no more than the queue may hold;
//! - a fresh message of a priority has a higher number than every message of it that was handed out;
//! - a session's commands count once, in order, however often they arrive, and so does another queue's dead letter;
//! - a publish that was refused stays refused until its session has heard of it.

mod commands;
mod configure;
mod consumers;
mod dead;
mod entries;
mod events;
mod facts;
mod flow;
mod origins;
mod ready;
mod resting;
mod slab;
mod snapshot;
mod stats;
mod stream;
mod window;

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use warren_cluster::machine::{Meta, Stamp};
use warren_cluster::version;
use warren_proto::queue;
use warren_proto::queue::reply::Kind as ReplyKind;
use warren_proto::record::{Batch, Command, Run, SessionId, Stored, batches};

pub use self::consumers::WINDOW;
use self::consumers::{Consumers, Mode};
use self::dead::Graveyard;
pub use self::dead::{Dead, Reason};
use self::entries::Entries;
use self::facts::Facts;
use self::origins::Origins;
use self::ready::Ready;
use self::resting::Resting;
pub use self::resting::Retry;
use self::slab::Slab;
pub use self::snapshot::Error as RestoreError;
pub use self::stats::{ConsumerRow, Stats, Totals};
pub use self::stream::Stream;
use self::window::Window;

/// Ended sessions that are remembered, so that what was on its way when they ended does not bring them back.
const ENDED_SESSIONS_MAX: usize = 64;
/// Refused publishes are remembered until a session's numbers are so far beyond them: further than it may be ahead of
/// what it has heard.
pub const REFUSED_WINDOW: u64 = 1 << 16;
/// The version of entries from which on the queue can be told that a node is silent.
pub const SILENCE: u16 = 3;
/// The priorities of a quorum queue: 0 to this.
const QUORUM_PRIORITY_MAX: u8 = 31;
/// What a message of a quorum queue has that says none.
const QUORUM_PRIORITY: u8 = 4;

/// The declared type of a queue. All are the same machine; the type chose the rest of [`Config`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// `x-queue-type: classic`, the default.
    #[default]
    Classic,
    /// `x-queue-type: quorum`.
    Quorum,
    /// `x-queue-type: stream`.
    Stream,
}

/// What a full queue does.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    /// Drops what would be delivered next.
    #[default]
    DropHead,
    /// Refuses new messages.
    RejectPublish,
    /// Refuses new messages, and they die here.
    RejectPublishDlx,
}

/// What the queue obeys. What it was declared with is fixed at its creation and equal on every replica; the log may
/// change some of it: see `configure.rs`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The declared type.
    pub kind: Kind,
    /// A message whose failed deliveries exceed this is dropped; `None`: never.
    pub delivery_limit: Option<u32>,
    /// The queue ends with its last consumer; it does not if it never had one.
    pub auto_delete: bool,
    /// How long a message may wait.
    pub message_ttl_ms: Option<u64>,
    /// How long the queue outlives its last use.
    pub expires_ms: Option<u64>,
    /// The most ready messages.
    pub len_max: Option<u64>,
    /// The most bytes of ready messages: bodies, and for a quorum queue properties.
    pub bytes_max: Option<u64>,
    /// What happens beyond these.
    pub overflow: Overflow,
    /// Messages that die go to an exchange.
    pub dead_letters: bool,
    /// One consumer is served at a time.
    pub single_active_consumer: bool,
    /// The highest priority of a classic queue; `None`: it has no priorities.
    pub priority_max: Option<u8>,
    /// How long messages rest that come back; `None`: they do not.
    pub retry: Option<Retry>,
    /// A message is dropped, as if it had been taken, while one with the same key is in the queue.
    pub deduplicates: bool,
    /// How long a stream keeps a message that is not in the segment being written.
    pub age_max_ms: Option<u64>,
    /// The size of a stream's segments, where it has one of its own.
    pub segment_bytes: Option<u64>,
}

impl Config {
    fn base_priority(&self) -> u8 {
        match self.kind {
            Kind::Classic | Kind::Stream => 0,
            Kind::Quorum => QUORUM_PRIORITY,
        }
    }

    /// The level of a message with that property.
    fn level(&self, priority: Option<u8>) -> Option<u8> {
        let max = match self.kind {
            Kind::Classic => self.priority_max?,
            Kind::Quorum => QUORUM_PRIORITY_MAX,
            Kind::Stream => return None,
        };
        priority.map(|priority| priority.min(max))
    }

    fn mode(&self) -> Mode {
        if self.single_active_consumer {
            let takes_over = self.kind == Kind::Quorum;
            Mode::Single { takes_over }
        } else {
            Mode::All
        }
    }
}

/// Where a message's publish payload is: `len` bytes from `offset` in the payload of the log entry at `index`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Place {
    /// Log index.
    pub index: u64,
    /// Byte offset in the entry's payload.
    pub offset: u32,
    /// Bytes.
    pub len: u32,
}

/// What an applied command asks the leader to do: perhaps twice, perhaps never. Sessions de-duplicate by number.
///
/// Effects must be performed before what [`QueueMachine::take_freed`] returned is forgotten: a delivery to a
/// get without acknowledgement names a message that the queue no longer holds.
#[derive(Clone, Debug, PartialEq)]
pub enum Effect {
    /// Every command of the session up to `upto` is applied; publishes among them are confirmed unless refused.
    Applied {
        /// To whom.
        session: SessionId,
        /// The highest number.
        upto: u64,
    },
    /// Publishes that the queue did not take, and commands that could not be decoded. Comes with every
    /// [`Effect::Applied`] until the session says that it has heard.
    Refused {
        /// To whom.
        session: SessionId,
        /// Their numbers.
        run: Run,
    },
    /// The answer to a command.
    Reply {
        /// To whom.
        session: SessionId,
        /// The command's number.
        seq: u64,
        /// The answer.
        reply: queue::Reply,
    },
    /// A message for a session; fields as in [`warren_proto::record::Delivery`].
    Deliver {
        /// To whom.
        session: SessionId,
        /// The session's consumer; 0 answers a get.
        consumer: u32,
        /// Counts the consumer's deliveries from 1 without gaps; 0 for a get.
        delivery_id: u64,
        /// For a get: the number of the command that it answers. From a stream: the offset from which on this message
        /// is the reader's next. Else 0.
        get_seq: u64,
        /// The message's number.
        seq: u64,
        /// Handed out before.
        redelivered: bool,
        /// How often it was handed out before.
        acquired: u32,
        /// How many of those deliveries failed.
        failed: u32,
        /// Where the message is.
        at: Place,
    },
    /// A batch was ignored because commands before it are missing: the session sends again from `expected`.
    /// 1 to a session that had sent more: this queue was told that the session ended.
    Gap {
        /// To whom.
        session: SessionId,
        /// The number of the first missing command.
        expected: u64,
    },
    /// The queue knows that the session has ended, and whoever told it can forget that.
    Ended {
        /// Which.
        session: SessionId,
    },
    /// A consumer held a message for too long: it is cancelled, and the message taken back.
    ConsumerTimedOut {
        /// To whom.
        session: SessionId,
        /// The session's consumer.
        consumer: u32,
    },
    /// The queue has ended: remove it from the metadata.
    Gone,
}

/// A message that a session holds.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
struct Held {
    place: Place,
    /// The consumer's delivery id; for [`Held::GET`] the number of the get.
    delivery: u64,
    /// Slot of the session.
    session: u32,
    /// Slot of the consumer or its shadow, or [`Held::GET`].
    consumer: u32,
    /// How often it was handed out before this time.
    acquired: u32,
    /// How many of those deliveries failed.
    failed: u32,
    /// When it was handed out, where that matters; else 0.
    since_ms: u64,
}

impl Held {
    /// In place of a consumer: taken by a get.
    const GET: u32 = u32::MAX;
}

#[derive(Clone, Debug)]
struct Session {
    id: SessionId,
    /// Every command up to this number is applied.
    last_seq: u64,
    /// Messages that it holds.
    held: u64,
    /// Publishes that were refused and of which it may not have heard, ascending.
    refused: Vec<Run>,
    /// Slots of its consumers, shadows among them, by its numbers for them.
    consumers: BTreeMap<u32, u32>,
}

/// The state of one queue.
#[derive(Clone, Debug)]
pub struct QueueMachine {
    config: Config,
    /// What it was declared with.
    declared: Config,
    /// Of `config`; 0: it is `declared`.
    config_version: u64,
    ended: bool,
    ready: Ready,
    held: Window<Held>,
    held_bytes: u64,
    resting: Resting,
    sessions: Slab<Session>,
    slots: BTreeMap<SessionId, u32>,
    consumers: Consumers,
    entries: Entries,
    /// The last sessions to end, oldest first.
    ended_sessions: VecDeque<SessionId>,
    facts: Facts,
    dead: Graveyard,
    origins: Origins,
    /// Only in a stream.
    stream: Option<Box<Stream>>,
    /// When the queue was last used, where it is to end some time after that; 0 before its first entry.
    used_ms: u64,
    /// No message has been held for too long before this; 0 where none can be.
    late_ms: u64,
    /// The time of the entry being applied.
    now_ms: u64,
    /// The newest version of its entries.
    version: u16,
    totals: Totals,
}

impl QueueMachine {
    /// An empty queue.
    pub fn new(config: Config) -> Self {
        Self {
            ready: Ready::new(config.base_priority()),
            consumers: Consumers::new(config.mode()),
            declared: config.clone(),
            stream: (config.kind == Kind::Stream).then(Box::default),
            config,
            config_version: 0,
            ended: false,
            held: Window::new(),
            held_bytes: 0,
            resting: Resting::new(),
            sessions: Slab::new(),
            slots: BTreeMap::new(),
            entries: Entries::new(),
            ended_sessions: VecDeque::new(),
            facts: Facts::new(),
            dead: Graveyard::new(),
            origins: Origins::new(),
            used_ms: 0,
            late_ms: 0,
            now_ms: 0,
            version: version::FIRST,
            totals: Totals::default(),
        }
    }

    /// Applies one log entry and appends what the leader is to do. Each index is applied once, ascending, from 1.
    ///
    /// Any bytes are accepted: what follows bytes that do not decode is ignored, alike on every replica.
    pub fn apply(&mut self, meta: &Meta, payload: &[u8], out: &mut Vec<Effect>) {
        self.entries.open(meta.index);
        if let Some(stream) = &mut self.stream {
            stream.open(meta.index);
        }
        self.now_ms = meta.time_ms;
        self.version = self.version.max(meta.version);
        self.pass_time(out);
        for batch in batches(payload) {
            match batch {
                Ok(batch) if batch.session == SessionId::SYSTEM => self.system(&batch, out),
                Ok(batch) => self.batch(meta.index, &batch, out),
                Err(_) => self.totals.malformed += 1,
            }
        }
        self.entries.close();
        if let Some(stream) = &mut self.stream {
            let dropped = stream.close(payload, &self.config, self.now_ms);
            self.totals.expired += dropped.late;
            self.totals.overflowed += dropped.too_much;
        }
    }

    /// A session's batch.
    fn batch(&mut self, index: u64, batch: &Batch<'_>, out: &mut Vec<Effect>) {
        let (session, count) = (batch.session, u64::from(batch.count));
        // `end` is the number after the batch's last.
        let Some(end) = batch.first_seq.checked_add(count).filter(|_| batch.first_seq > 0) else {
            self.totals.malformed += 1;
            return;
        };
        if self.ended_sessions.contains(&session) {
            return;
        }
        let known = self.slots.get(&session).copied();
        let last_seq = known.map_or(0, |slot| self.sessions[slot].last_seq);
        if batch.first_seq - 1 > last_seq {
            if let Some(slot) = known {
                self.tell_refused(slot, out);
            }
            out.push(Effect::Gap {
                session,
                expected: last_seq + 1,
            });
            return;
        }
        let slot = known.unwrap_or_else(|| {
            let slot = self.sessions.insert(Session {
                id: session,
                last_seq: 0,
                held: 0,
                refused: Vec::new(),
                consumers: BTreeMap::new(),
            });
            self.slots.insert(session, slot);
            slot
        });
        let mut commands = batch.commands();
        let mut whole = true;
        for seq in batch.first_seq..end {
            let done = match commands.next() {
                Some(Ok(command)) if seq > last_seq => self.command(index, slot, seq, command, out),
                Some(Ok(command)) => self.again(slot, seq, &command, out),
                Some(Err(_)) | None => false,
            };
            if !done {
                // The rest counts as seen, or the session would have to send it again for ever.
                whole = false;
                let len = u32::try_from(end - seq).expect("a batch counts its commands in 32 bits");
                out.push(Effect::Refused {
                    session,
                    run: Run { first: seq, len },
                });
                break;
            }
        }
        // What a batch holds beyond what it says has no number, and is ignored too.
        if !whole || commands.next().is_some() {
            self.totals.malformed += 1;
        }
        let upto = last_seq.max(end - 1);
        self.sessions[slot].last_seq = upto;
        self.tell_refused(slot, out);
        out.push(Effect::Applied { session, upto });
    }

    /// A command for the first time. False if it breaks the rules: then it has changed nothing.
    fn command(&mut self, index: u64, slot: u32, seq: u64, command: Command<'_>, out: &mut Vec<Effect>) -> bool {
        match command {
            Command::Publish { offset, payload } => {
                let Ok(len) = u32::try_from(payload.len()) else {
                    return false;
                };
                let Ok(message) = Stored::decode(payload) else {
                    return false;
                };
                // To a queue that is no more: as done as what it held when it ended, which is how RabbitMQ confirms it.
                if !self.ended && !self.publish(Place { index, offset, len }, &message) {
                    self.refuse(slot, seq);
                }
            }
            Command::Settle { outcome, runs } => self.settle(slot, outcome, &runs),
            Command::Credit(credit) => {
                if let Some(consumer) = self.sessions[slot].consumers.get(&credit.consumer) {
                    self.consumers.credit(*consumer, credit.written);
                }
            }
            Command::Heard(heard) => {
                let refused = &mut self.sessions[slot].refused;
                refused.retain(|run| run.first + u64::from(run.len) - 1 > heard.upto);
            }
            // A queue that is no more refuses consumers, and answers nothing else: the metadata say that it is gone.
            Command::Get(_) | Command::Purge | Command::Stat if self.ended => {}
            Command::Attach(attach) => {
                let kind = self.attach(slot, attach);
                self.reply(slot, seq, kind, out);
            }
            Command::Cancel(cancel) => {
                self.reply(slot, seq, ReplyKind::Cancelled(queue::Cancelled {}), out);
                self.cancel(slot, &cancel, out);
            }
            Command::Get(get) => self.get(slot, seq, get.no_ack, out),
            Command::Purge => {
                let count = self.purge();
                self.reply(slot, seq, ReplyKind::Purged(queue::Purged { count }), out);
            }
            Command::Stat => {
                self.used();
                self.stat(slot, seq, out);
            }
            Command::Delete(delete) => self.delete(slot, seq, &delete, out),
            Command::SessionDown(_)
            | Command::NodeDown { .. }
            | Command::NodeSilent { .. }
            | Command::Tick
            | Command::Buried(_)
            | Command::Configure(_) => return false,
        }
        self.settle_down(out);
        true
    }

    /// The step after every command: what is ready goes to consumers with credit, what may not stay goes.
    #[inline]
    fn settle_down(&mut self, out: &mut Vec<Effect>) {
        self.hand_out(out);
        self.expire();
        self.enforce_limits();
    }

    fn refuse(&mut self, slot: u32, seq: u64) {
        let refused = &mut self.sessions[slot].refused;
        Run::push(refused, seq);
        refused.retain(|run| run.first + u64::from(run.len) + REFUSED_WINDOW > seq);
    }

    /// Says again what the session may not have heard, before it is told how far its commands were applied.
    #[inline]
    fn tell_refused(&self, slot: u32, out: &mut Vec<Effect>) {
        let Session { id, refused, .. } = &self.sessions[slot];
        out.extend(refused.iter().map(|run| Effect::Refused {
            session: *id,
            run: *run,
        }));
    }

    /// A batch without a session. Its commands may arrive any number of times.
    fn system(&mut self, batch: &Batch<'_>, out: &mut Vec<Effect>) {
        let mut commands = batch.commands();
        for _ in 0..batch.count {
            match commands.next() {
                Some(Ok(Command::SessionDown(session))) if session != SessionId::SYSTEM => {
                    self.remember_ended(session);
                    out.push(Effect::Ended { session });
                    let ended: Vec<u32> = self.slots.get(&session).copied().into_iter().collect();
                    self.end_sessions(&ended, out);
                }
                Some(Ok(Command::NodeDown { node, incarnation })) => {
                    let ended = self.sessions_of(node, incarnation);
                    self.tell_of_the_end(&ended, out);
                    self.end_sessions(&ended, out);
                }
                Some(Ok(Command::NodeSilent { node, incarnation })) if self.version >= SILENCE => {
                    let silent = self.sessions_of(node, incarnation);
                    self.disconnect(silent, out);
                }
                // What is due has happened when the entry was opened.
                Some(Ok(Command::Tick)) => {}
                Some(Ok(Command::Buried(runs))) => self.bury(&runs),
                Some(Ok(Command::Configure(configure))) => self.configure(&configure),
                Some(_) | None => {
                    self.totals.malformed += 1;
                    return;
                }
            }
            self.settle_down(out);
        }
    }

    /// The slots of the sessions of a node's runs up to `incarnation`.
    fn sessions_of(&self, node: u64, incarnation: u64) -> Vec<u32> {
        let session = |incarnation, id| SessionId { node, incarnation, id };
        let sessions = self.slots.range(session(0, 0)..=session(incarnation, u64::MAX));
        sessions.map(|(_, slot)| *slot).collect()
    }

    fn remember_ended(&mut self, session: SessionId) {
        if self.ended_sessions.contains(&session) {
            return;
        }
        if self.ended_sessions.len() == ENDED_SESSIONS_MAX {
            self.ended_sessions.pop_front();
        }
        self.ended_sessions.push_back(session);
    }

    fn deliver(&self, number: u64, held: &Held) -> Effect {
        let (consumer, delivery_id, get_seq) = match held.consumer {
            Held::GET => (0, 0, held.delivery),
            slot => (self.consumers.get(slot).attach.consumer, held.delivery, 0),
        };
        Effect::Deliver {
            session: self.sessions[held.session].id,
            consumer,
            delivery_id,
            get_seq,
            seq: number,
            redelivered: held.acquired > 0,
            acquired: held.acquired,
            failed: held.failed,
            at: held.place,
        }
    }

    fn reply(&self, slot: u32, seq: u64, kind: ReplyKind, out: &mut Vec<Effect>) {
        let session = self.sessions[slot].id;
        out.push(Effect::Reply {
            session,
            seq,
            reply: queue::Reply { kind: Some(kind) },
        });
    }

    /// What a new leader has to see to, whoever led before.
    pub fn entered_leader(&self, out: &mut Vec<Effect>) {
        if self.ended {
            out.push(Effect::Gone);
        }
        if self.stream.is_none() {
            return;
        }
        for row in self.consumers() {
            let consumer = row.attach.consumer;
            let kind = Some(ReplyKind::ReaderUnknown(queue::ReaderUnknown { consumer }));
            out.push(Effect::Reply {
                session: row.session,
                seq: 0,
                reply: queue::Reply { kind },
            });
        }
    }

    /// Of the last entry that it knows of.
    pub fn stamp(&self) -> Stamp {
        Stamp {
            version: self.version,
            time_ms: self.now_ms,
        }
    }

    /// Whether a message of the log entry at `index` is still in the queue.
    pub fn is_live(&self, index: u64) -> bool {
        match &self.stream {
            None => self.entries.is_live(index),
            Some(stream) => stream.is_live(index),
        }
    }

    /// The log entries that hold a message of the queue, ascending.
    pub fn live(&self) -> Vec<Range<u64>> {
        match &self.stream {
            None => joined(self.entries.live().map(|index| index..index + 1)),
            Some(stream) => joined(stream.live()),
        }
    }

    /// Moves out the indexes of entries whose last message went since the last call, each once, in that order.
    pub fn take_freed(&mut self, out: &mut Vec<u64>) {
        self.entries.take_freed(out);
        if let Some(stream) = &mut self.stream {
            stream.take_freed(out);
        }
    }

    /// The messages of a stream; `None`: it is none.
    pub fn stream(&self) -> Option<&Stream> {
        self.stream.as_deref()
    }

    /// How a consumer was started that is attached.
    pub fn attached(&self, session: SessionId, consumer: u32) -> Option<&queue::Attach> {
        let session = &self.sessions[*self.slots.get(&session)?];
        let consumer = self.consumers.get(*session.consumers.get(&consumer)?);
        (!consumer.cancelled).then_some(&consumer.attach)
    }
}

/// Ascending ranges, those that touch each other as one.
fn joined(parts: impl Iterator<Item = Range<u64>>) -> Vec<Range<u64>> {
    let mut ranges: Vec<Range<u64>> = Vec::new();
    for part in parts {
        match ranges.last_mut() {
            Some(range) if range.end == part.start => range.end = part.end,
            _ => ranges.push(part),
        }
    }
    ranges
}

#[cfg(test)]
mod tests;
