//! The queue: which messages wait, who holds which, who consumes, and what each session has done so far.
//!
//! A replica applies the log's entries to this machine; a transient queue applies its mailbox to it. It knows
//! neither actors, disk, clock nor who leads, and never sees a body again after its entry was applied: a message
//! is its place in the log.
//!
//! ```text
//!   publish -> ready -> held by a session -> settled: gone
//!                ^             |
//!                +-------------+   released, rejected, or the session ended
//! ```
//!
//! Invariants, after every command:
//! - a message is in exactly one place: ready, held, or gone;
//! - no message is ready while a consumer has credit;
//! - a ready message that was never handed out has a higher number than every message that was;
//! - a session's commands count once, in order, however often they arrive.

mod consumers;
mod entries;
mod ready;
mod slab;
mod snapshot;
mod stats;
mod window;

use std::collections::{BTreeMap, VecDeque};

use warren_cluster::machine::Meta;
use warren_proto::queue;
use warren_proto::queue::reply::Kind as ReplyKind;
use warren_proto::record::{Batch, Command, Outcome, Run, SessionId, Stored, batches};

use self::consumers::Consumers;
pub use self::consumers::WINDOW;
use self::entries::Entries;
use self::ready::{Ready, Returned};
use self::slab::Slab;
pub use self::snapshot::Error as RestoreError;
pub use self::stats::{ConsumerRow, Stats, Totals};
use self::window::Window;

/// Ended sessions that are remembered, so that what was on its way when they ended does not bring them back.
const ENDED_SESSIONS_MAX: usize = 64;

/// The declared type of a queue. Both are the same machine; the type chose the rest of [`Config`].
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// `x-queue-type: classic`, the default.
    #[default]
    Classic,
    /// `x-queue-type: quorum`.
    Quorum,
}

/// What the queue was declared with. Fixed at its creation and equal on every replica.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Config {
    /// The declared type.
    pub kind: Kind,
    /// A message whose failed deliveries exceed this is dropped; `None`: never.
    pub delivery_limit: Option<u32>,
    /// The queue ends with its last consumer; it does not if it never had one.
    pub auto_delete: bool,
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
    /// Commands that were ignored because they could not be decoded.
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
        /// For a get: the number of the command that it answers; else 0.
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
    /// Slots of its consumers, shadows among them, by its numbers for them.
    consumers: BTreeMap<u32, u32>,
}

/// The state of one queue.
#[derive(Clone, Debug)]
pub struct QueueMachine {
    config: Config,
    ended: bool,
    ready: Ready,
    held: Window<Held>,
    held_bytes: u64,
    sessions: Slab<Session>,
    slots: BTreeMap<SessionId, u32>,
    consumers: Consumers,
    entries: Entries,
    /// The last sessions to end, oldest first.
    ended_sessions: VecDeque<SessionId>,
    totals: Totals,
}

impl QueueMachine {
    /// An empty queue.
    pub fn new(config: Config) -> Self {
        Self {
            config,
            ended: false,
            ready: Ready::new(1),
            held: Window::new(),
            held_bytes: 0,
            sessions: Slab::new(),
            slots: BTreeMap::new(),
            consumers: Consumers::new(),
            entries: Entries::new(),
            ended_sessions: VecDeque::new(),
            totals: Totals::default(),
        }
    }

    /// Applies one log entry and appends what the leader is to do. Each index is applied once, ascending, from 1.
    ///
    /// Any bytes are accepted: what follows bytes that do not decode is ignored, alike on every replica.
    pub fn apply(&mut self, meta: &Meta, payload: &[u8], out: &mut Vec<Effect>) {
        self.entries.open(meta.index);
        for batch in batches(payload) {
            match batch {
                Ok(batch) if batch.session == SessionId::SYSTEM => self.system(&batch, out),
                Ok(batch) => self.batch(meta.index, &batch, out),
                Err(_) => self.totals.malformed += 1,
            }
        }
        self.entries.close();
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
        out.push(Effect::Applied { session, upto });
    }

    /// A command for the first time. False if it breaks the rules: then it has changed nothing.
    fn command(&mut self, index: u64, slot: u32, seq: u64, command: Command<'_>, out: &mut Vec<Effect>) -> bool {
        match command {
            Command::Publish { offset, payload } => {
                let Ok(len) = u32::try_from(payload.len()) else {
                    return false;
                };
                if Stored::decode(payload).is_err() {
                    return false;
                }
                if !self.ended {
                    self.ready.push(Place { index, offset, len });
                    self.entries.add();
                    self.totals.published += 1;
                }
            }
            Command::Settle { outcome, runs } => self.settle(slot, outcome, &runs),
            Command::Credit(credit) => {
                if let Some(consumer) = self.sessions[slot].consumers.get(&credit.consumer) {
                    self.consumers.credit(*consumer, credit.written);
                }
            }
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
            Command::Stat => self.stat(slot, seq, out),
            Command::Delete(delete) => self.delete(slot, seq, &delete, out),
            Command::SessionDown(_) | Command::NodeDown { .. } => return false,
        }
        self.hand_out(out);
        true
    }

    /// A command that was applied before: answers again, changes nothing. False as in [`Self::command`].
    fn again(&mut self, slot: u32, seq: u64, command: &Command<'_>, out: &mut Vec<Effect>) -> bool {
        match command {
            Command::Publish { payload, .. } => return Stored::decode(payload).is_ok(),
            Command::Settle { .. } | Command::Credit(_) => {}
            Command::Attach(attach) => {
                let kind = if self.sessions[slot].consumers.contains_key(&attach.consumer) {
                    ReplyKind::Attached(queue::Attached {})
                } else {
                    // Refused then, or cancelled since: whoever cancelled it no longer waits for this answer.
                    ReplyKind::AttachRefused(queue::AttachRefused { exclusive: !self.ended })
                };
                self.reply(slot, seq, kind, out);
            }
            Command::Cancel(_) => self.reply(slot, seq, ReplyKind::Cancelled(queue::Cancelled {}), out),
            Command::Get(_) => {
                let mut messages = self
                    .held
                    .iter()
                    .filter(|(_, held)| held.session == slot && held.consumer == Held::GET && held.delivery == seq);
                match messages.next() {
                    Some((number, held)) => {
                        out.push(self.deliver(number, held));
                        let ready = self.ready.len() as u64;
                        self.reply(slot, seq, ReplyKind::GetOk(queue::GetOk { ready }), out);
                    }
                    None => self.reply(slot, seq, ReplyKind::GetEmpty(queue::GetEmpty {}), out),
                }
            }
            Command::Purge => self.reply(slot, seq, ReplyKind::Purged(queue::Purged { count: 0 }), out),
            Command::Stat => self.stat(slot, seq, out),
            Command::Delete(delete) => {
                let kind = if self.ended {
                    ReplyKind::Deleted(queue::Deleted { count: 0 })
                } else {
                    // It was refused then; the reason may be gone, the refusal stands.
                    let not_empty = delete.if_empty && (!self.ready.is_empty() || !delete.if_unused);
                    let in_use = delete.if_unused && (self.consumers.len() > 0 || !not_empty);
                    ReplyKind::DeleteRefused(queue::DeleteRefused { in_use, not_empty })
                };
                self.reply(slot, seq, kind, out);
            }
            Command::SessionDown(_) | Command::NodeDown { .. } => return false,
        }
        true
    }

    /// A batch without a session. Its commands may arrive any number of times.
    fn system(&mut self, batch: &Batch<'_>, out: &mut Vec<Effect>) {
        let mut commands = batch.commands();
        for _ in 0..batch.count {
            let ended: Vec<u32> = match commands.next() {
                Some(Ok(Command::SessionDown(session))) if session != SessionId::SYSTEM => {
                    self.remember_ended(session);
                    out.push(Effect::Ended { session });
                    self.slots.get(&session).copied().into_iter().collect()
                }
                Some(Ok(Command::NodeDown { node, incarnation })) => {
                    let first = SessionId {
                        node,
                        incarnation: 0,
                        id: 0,
                    };
                    let last = SessionId {
                        node,
                        incarnation,
                        id: u64::MAX,
                    };
                    self.slots.range(first..=last).map(|(_, slot)| *slot).collect()
                }
                Some(_) | None => {
                    self.totals.malformed += 1;
                    return;
                }
            };
            self.end_sessions(&ended, out);
            self.hand_out(out);
        }
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

    /// Takes consumers and messages from sessions and forgets them. Each message counts as a failed delivery.
    fn end_sessions(&mut self, slots: &[u32], out: &mut Vec<Effect>) {
        let attached = self.consumers.len();
        let sessions = || slots.iter().map(|slot| (*slot, &self.sessions[*slot]));
        let consumers: Vec<u32> = sessions()
            .flat_map(|(_, session)| session.consumers.values().copied())
            .collect();
        let holders = sessions().filter(|(_, session)| session.held > 0).map(|(slot, _)| slot);
        let mut holders: Vec<u32> = holders.collect();
        self.consumers.cancel(&consumers);
        holders.sort_unstable();
        if !holders.is_empty() {
            self.take_back(
                0,
                u64::MAX,
                |held| holders.binary_search(&held.session).is_ok(),
                Outcome::Reject,
            );
        }
        for &slot in slots {
            let session = self.sessions.remove(slot);
            self.slots.remove(&session.id);
        }
        if self.consumers.len() < attached {
            self.end_if_unused(out);
        }
    }

    fn attach(&mut self, slot: u32, attach: queue::Attach) -> ReplyKind {
        let known = self.sessions[slot].consumers.get(&attach.consumer);
        if known.is_some_and(|known| !self.consumers.get(*known).cancelled) {
            return ReplyKind::Attached(queue::Attached {});
        }
        // 0 means a get, and the number of a shadow is taken.
        if self.ended || attach.consumer == 0 || known.is_some() {
            return ReplyKind::AttachRefused(queue::AttachRefused { exclusive: false });
        }
        if !self.consumers.admits(attach.exclusive) {
            return ReplyKind::AttachRefused(queue::AttachRefused { exclusive: true });
        }
        let number = attach.consumer;
        let consumer = self.consumers.attach(slot, attach);
        self.sessions[slot].consumers.insert(number, consumer);
        ReplyKind::Attached(queue::Attached {})
    }

    fn cancel(&mut self, slot: u32, cancel: &queue::Cancel, out: &mut Vec<Effect>) {
        let Some(&consumer) = self.sessions[slot].consumers.get(&cancel.consumer) else {
            return;
        };
        let attached = self.consumers.len();
        if self.consumers.cancel(&[consumer]) {
            self.sessions[slot].consumers.remove(&cancel.consumer);
        } else if cancel.requeue {
            self.take_back(0, u64::MAX, |held| held.consumer == consumer, Outcome::Release);
        }
        if self.consumers.len() < attached {
            self.end_if_unused(out);
        }
    }

    fn get(&mut self, slot: u32, seq: u64, no_ack: bool, out: &mut Vec<Effect>) {
        let Some((
            number,
            Returned {
                place,
                acquired,
                failed,
            },
        )) = self.ready.pop()
        else {
            return self.reply(slot, seq, ReplyKind::GetEmpty(queue::GetEmpty {}), out);
        };
        let held = Held {
            place,
            delivery: seq,
            session: slot,
            consumer: Held::GET,
            acquired,
            failed,
        };
        out.push(self.deliver(number, &held));
        self.totals.got += 1;
        self.totals.redelivered += u64::from(acquired > 0);
        if no_ack {
            self.entries.remove(place.index);
            self.totals.acked += 1;
        } else {
            self.hold(number, held);
        }
        let ready = self.ready.len() as u64;
        self.reply(slot, seq, ReplyKind::GetOk(queue::GetOk { ready }), out);
    }

    fn purge(&mut self) -> u64 {
        let count = self.ready.len() as u64;
        for place in self.ready.places() {
            self.entries.remove(place.index);
        }
        self.ready.clear();
        self.totals.purged += count;
        count
    }

    fn stat(&self, slot: u32, seq: u64, out: &mut Vec<Effect>) {
        let (ready, consumers) = (self.ready.len() as u64, self.consumers.len() as u64);
        self.reply(slot, seq, ReplyKind::Stats(queue::Stats { ready, consumers }), out);
    }

    fn delete(&mut self, slot: u32, seq: u64, delete: &queue::Delete, out: &mut Vec<Effect>) {
        let in_use = delete.if_unused && self.consumers.len() > 0;
        let not_empty = delete.if_empty && !self.ready.is_empty();
        if in_use || not_empty {
            return self.reply(
                slot,
                seq,
                ReplyKind::DeleteRefused(queue::DeleteRefused { in_use, not_empty }),
                out,
            );
        }
        let count = self.ready.len() as u64;
        self.reply(slot, seq, ReplyKind::Deleted(queue::Deleted { count }), out);
        if !self.ended {
            self.end(out);
        }
    }

    fn end_if_unused(&mut self, out: &mut Vec<Effect>) {
        if self.config.auto_delete && !self.ended && self.consumers.len() == 0 {
            self.end(out);
        }
    }

    /// Drops everything but what sessions have sent: they still want to know that.
    fn end(&mut self, out: &mut Vec<Effect>) {
        self.ended = true;
        for place in self.ready.places() {
            self.entries.remove(place.index);
        }
        for (_, held) in self.held.iter() {
            self.entries.remove(held.place.index);
        }
        self.ready.clear();
        self.held = Window::new();
        self.held_bytes = 0;
        self.consumers.clear();
        for slot in self.slots.values() {
            let session = &mut self.sessions[*slot];
            session.held = 0;
            session.consumers.clear();
        }
        out.push(Effect::Gone);
    }

    /// Settles what the session holds of `runs`; other numbers are ignored.
    fn settle(&mut self, slot: u32, outcome: Outcome, runs: &[Run]) {
        for run in runs {
            let last = run.first.saturating_add(u64::from(run.len) - 1);
            self.take_back(run.first, last, |held| held.session == slot, outcome);
        }
    }

    /// Takes the held messages of `first..=last` that are `wanted` from their holders.
    fn take_back(&mut self, first: u64, last: u64, wanted: impl Fn(&Held) -> bool, outcome: Outcome) {
        let Self {
            held: window,
            held_bytes,
            ready,
            sessions,
            consumers,
            entries,
            totals,
            ..
        } = self;
        let limit = self.config.delivery_limit.unwrap_or(u32::MAX);
        window.extract(first, last, wanted, |seq, held| {
            *held_bytes -= u64::from(held.place.len);
            let session = &mut sessions[held.session];
            session.held -= 1;
            if held.consumer != Held::GET
                && let Some(number) = consumers.settled(held.consumer)
            {
                session.consumers.remove(&number);
            }
            let failed = match outcome {
                Outcome::Ack => {
                    totals.acked += 1;
                    return entries.remove(held.place.index);
                }
                Outcome::Discard => {
                    totals.discarded += 1;
                    return entries.remove(held.place.index);
                }
                Outcome::Reject => held.failed.saturating_add(1),
                Outcome::Release => held.failed,
            };
            if failed > limit {
                totals.dropped += 1;
                return entries.remove(held.place.index);
            }
            totals.requeued += 1;
            ready.put_back(
                seq,
                Returned {
                    place: held.place,
                    acquired: held.acquired.saturating_add(1),
                    failed,
                },
            );
        });
    }

    /// The step after every command: ready messages go to consumers with credit.
    #[inline]
    fn hand_out(&mut self, out: &mut Vec<Effect>) {
        while self.consumers.any_credit() {
            let Some((
                number,
                Returned {
                    place,
                    acquired,
                    failed,
                },
            )) = self.ready.pop()
            else {
                return;
            };
            let (slot, consumer) = self.consumers.deliver().expect("a consumer has credit");
            let (session, delivery) = (consumer.session, consumer.last_id);
            let held = Held {
                place,
                delivery,
                session,
                consumer: slot,
                acquired,
                failed,
            };
            self.totals.delivered += 1;
            self.totals.redelivered += u64::from(acquired > 0);
            out.push(self.deliver(number, &held));
            self.hold(number, held);
        }
    }

    fn hold(&mut self, number: u64, held: Held) {
        self.held_bytes += u64::from(held.place.len);
        self.sessions[held.session].held += 1;
        self.held.insert(number, held);
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

    /// Sends a session again what it holds and may not have seen: deliveries of the named consumers from the given
    /// ids on, each consumer's in order, and all messages that it got. Consumers unknown here are ignored.
    /// Says last that this was all, also to a session that is unknown here.
    pub fn resync(&self, request: &queue::Resync, out: &mut Vec<Effect>) {
        let session = SessionId {
            node: request.node,
            incarnation: request.incarnation,
            id: request.id,
        };
        self.send_again(session, request, out);
        if request.number > 0 {
            let kind = Some(ReplyKind::Resynced(queue::Resynced {}));
            out.push(Effect::Reply {
                session,
                seq: request.number,
                reply: queue::Reply { kind },
            });
        }
    }

    fn send_again(&self, id: SessionId, request: &queue::Resync, out: &mut Vec<Effect>) {
        let Some(&slot) = self.slots.get(&id) else { return };
        let session = &self.sessions[slot];
        if session.held == 0 {
            return;
        }
        // The lowest wanted delivery by consumer slot.
        let mut wanted = BTreeMap::from([(Held::GET, 0)]);
        for asked in &request.consumers {
            if let Some(&consumer) = session.consumers.get(&asked.consumer) {
                let next = wanted.entry(consumer).or_insert(asked.next);
                *next = asked.next.min(*next);
            }
        }
        let mut again: Vec<_> = self
            .held
            .iter()
            .filter(|(_, held)| held.session == slot)
            .filter(|(_, held)| wanted.get(&held.consumer).is_some_and(|next| held.delivery >= *next))
            .map(|(number, held)| (self.consumer_number(held), held.delivery, number, held))
            .collect();
        again.sort_unstable_by_key(|(consumer, delivery, _, _)| (*consumer, *delivery));
        let ready = self.ready.len() as u64;
        for (_, delivery, number, held) in again {
            out.push(self.deliver(number, held));
            if held.consumer == Held::GET {
                self.reply(slot, delivery, ReplyKind::GetOk(queue::GetOk { ready }), out);
            }
        }
    }

    fn consumer_number(&self, held: &Held) -> u32 {
        if held.consumer == Held::GET {
            0
        } else {
            self.consumers.get(held.consumer).attach.consumer
        }
    }

    /// What a new leader has to see to, whoever led before.
    pub fn entered_leader(&self, out: &mut Vec<Effect>) {
        if self.ended {
            out.push(Effect::Gone);
        }
    }

    /// Whether a message of the log entry at `index` is still in the queue.
    pub fn is_live(&self, index: u64) -> bool {
        self.entries.is_live(index)
    }

    /// Indexes of the log entries that hold a message of the queue, ascending.
    pub fn live(&self) -> impl Iterator<Item = u64> {
        self.entries.live()
    }

    /// Moves out the indexes of entries whose last message went since the last call, each once, in that order.
    pub fn take_freed(&mut self, out: &mut Vec<u64>) {
        self.entries.take_freed(out);
    }
}

#[cfg(test)]
mod tests;
