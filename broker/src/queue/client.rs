//! A session's side of one queue.
//!
//! ```text
//! channel --publish/settle/request--> open batch --seal--> unapplied batches --next_send--> leader
//!                                                               ^  rewind: leader changed, gap, silence
//! leader --Events--> apply: confirms and answers;  accept: each delivery once and in order
//! ```
//!
//! Commands are numbered from 1 without gaps, and a batch is kept, encoded, until the queue has applied it and
//! answered every question in it. So whatever is lost between the two nodes is sent again, and the queue drops
//! what it has seen.
//!
//! A stream's reader is no business of the log: `client/reading.rs` keeps its place and its credit here, and both are
//! said to the leader beside the batches. It knows no channel beyond its [`ChannelId`], no clock and no mailbox: the caller passes the
//! time in and carries the batches.

use std::collections::VecDeque;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use warren_proto::queue::{self, reply::Kind as Reply};
use warren_proto::record::{BatchWriter, Command, Delivery, Events, Outcome, Publish, Run, SessionId};

use self::reading::Reading;
pub use self::reading::Share;
use super::machine::REFUSED_WINDOW;
use crate::message::may_have_deduplication_key;

/// Batches that may be on their way before an answer comes.
const SENT_BATCHES_MAX: usize = 128;
/// Bytes that may be on their way before an answer comes; a single larger batch still goes.
const SENT_BYTES_MAX: usize = 4 << 20;
/// An open batch is sealed at this size: many fit one log entry, and the queue can put others between them.
const BATCH_BYTES_MAX: usize = 64 << 10;
/// The same for small commands.
const BATCH_COMMANDS_MAX: u32 = 256;
/// Silence after which everything unapplied is sent again.
const SILENCE_MS: u64 = 1_000;
/// Deliveries that keep coming put that off: what is unapplied may wait behind them. For so long at most.
const ARRIVING_MS: u64 = 5_000;
/// Requests to be sent again are not repeated within this time.
const REPEAT_MS: u64 = 250;
/// A queue that repeats where it stands, and has stood there this long, misses a batch.
const STUCK_MS: u64 = 100;
/// A queue that asks this long for what it had applied has forgotten the session.
const FORGOTTEN_MS: u64 = 2_000;
/// Ended consumers whose late deliveries are still told from duplicates.
const ENDED_MAX: usize = 64;
// What the queue must remember of refusals, one command of each batch says what was heard of them.
const _: () = assert!(SENT_BATCHES_MAX as u64 * (BATCH_COMMANDS_MAX as u64 + 1) <= REFUSED_WINDOW);

/// One opening of a channel: numbers are reused, openings are not.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct ChannelId {
    /// The channel's number on the wire.
    pub number: u16,
    /// Counts the connection's channel.open methods.
    pub opening: u32,
}

/// A question that the queue answers.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Asked {
    /// To start this consumer.
    Attach(u32),
    /// To end this consumer.
    Cancel(u32),
    /// For one message.
    Get,
    /// To drop the ready messages.
    Purge,
    /// For the counts.
    Stat,
    /// For nothing: it is a use of the queue.
    Use,
    /// To end the queue.
    Delete,
}

/// What the queue's word means for a channel.
#[derive(Clone, Debug, PartialEq)]
pub enum Notice {
    /// The queue has these publishes of the channel, named by confirm number.
    Confirmed(ChannelId, Run),
    /// The queue does not take them, or nobody could say in time.
    Refused(ChannelId, Run),
    /// The answer to a question.
    Answer(ChannelId, Asked, Reply),
    /// The queue ended before it could answer.
    Ended(ChannelId, Asked),
    /// Nobody answered in time.
    TimedOut(ChannelId, Asked),
    /// The queue has ended a consumer, which held a message for too long.
    ConsumerTimedOut(u32),
    /// The leader cannot read on for a stream's reader.
    ReaderLost(u32),
    /// The queue has forgotten what it had applied: this node was taken for dead, and the session must end.
    Forgotten,
}

/// What to do with a delivery.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Accepted {
    /// Hand it to the consumer.
    Deliver,
    /// It answers this channel's get; so many ready messages remain.
    Got(ChannelId, u64),
    /// Seen before, or out of order and to be asked for again.
    Drop,
    /// Its consumer has ended: give the message back.
    Return,
}

#[derive(Debug)]
struct Sealed {
    first: u64,
    last: u64,
    sealed_ms: u64,
    bytes: Bytes,
}

/// Publishes `seq ..` that carry the confirm numbers `tag ..` of one channel.
#[derive(Debug)]
struct Unconfirmed {
    seq: u64,
    tag: u64,
    len: u32,
    channel: ChannelId,
    since_ms: u64,
}

#[derive(Debug)]
struct Question {
    seq: u64,
    asked: Asked,
    channel: ChannelId,
    since_ms: u64,
}

#[derive(Debug)]
struct Inbound {
    next: u64,
    attached: bool,
    /// The most that it holds unsettled; 0: no limit.
    prefetch: u32,
    /// Of a stream, once it is attached.
    reading: Option<Reading>,
}

/// What the leader was asked beside the batches, and has not answered.
#[derive(Clone, Copy, Debug)]
struct Open {
    /// Names the last question.
    number: u64,
    /// Since when none was answered.
    since_ms: u64,
    /// Something may be lost: not only credit was given.
    is_resync: bool,
}

/// A session's side of one queue. See the module's text.
#[derive(Debug)]
pub struct QueueClient {
    session: SessionId,
    group: u64,
    next_seq: u64,
    applied: u64,
    open: Option<BatchWriter>,
    settling: Option<(Outcome, Vec<u64>)>,
    unapplied: VecDeque<Sealed>,
    unapplied_bytes: usize,
    /// How many of `unapplied`, from the front, are on their way.
    sent: usize,
    sent_bytes: usize,
    unconfirmed: VecDeque<Unconfirmed>,
    questions: VecDeque<Question>,
    consumers: FxHashMap<u32, Inbound>,
    ended: VecDeque<(u32, u64)>,
    /// A resync is to be sent.
    resync: bool,
    /// Resyncs, and credit of a stream's readers.
    asked: Option<Open>,
    /// Counts these.
    resyncs: u64,
    /// A consumer was attached to a stream: what is settled here is credit.
    is_stream: bool,
    /// Refusals came of which the queue does not know that they did.
    heard: bool,
    /// When the queue last said something new, or sending began after idleness.
    moved_ms: u64,
    /// When a delivery came last that is not one of before.
    arrived_ms: u64,
    rewound_ms: u64,
    resynced_ms: u64,
    forgotten_since_ms: Option<u64>,
}

impl QueueClient {
    /// A session's first contact with a queue.
    pub fn new(session: SessionId, group: u64) -> Self {
        Self {
            session,
            group,
            next_seq: 1,
            applied: 0,
            open: None,
            settling: None,
            unapplied: VecDeque::new(),
            unapplied_bytes: 0,
            sent: 0,
            sent_bytes: 0,
            unconfirmed: VecDeque::new(),
            questions: VecDeque::new(),
            consumers: FxHashMap::default(),
            ended: VecDeque::new(),
            resync: false,
            asked: None,
            resyncs: 0,
            is_stream: false,
            heard: false,
            moved_ms: 0,
            arrived_ms: 0,
            rewound_ms: 0,
            resynced_ms: 0,
            forgotten_since_ms: None,
        }
    }

    /// The queue's group.
    pub fn group(&self) -> u64 {
        self.group
    }

    /// Bytes of commands that the queue has not applied, as far as this side knows.
    pub fn unapplied_bytes(&self) -> usize {
        self.unapplied_bytes + self.open.as_ref().map_or(0, BatchWriter::len)
    }

    /// Commands that the queue has not applied, as far as this side knows.
    pub fn unapplied_commands(&self) -> u64 {
        (self.next_seq - 1) - self.applied
    }

    /// Whether the queue has applied everything that was added, answered or not.
    pub fn is_all_applied(&self) -> bool {
        self.settling.is_none() && self.applied + 1 == self.next_seq
    }

    /// Adds a message; `confirm` names the channel and the confirm number that wait for it.
    pub fn publish(&mut self, message: &Publish<'_>, confirm: Option<(ChannelId, u64)>, now_ms: u64) {
        // One that settled a message may publish the next with the same key: the queue sees it in that order.
        if self.settling.is_some() && may_have_deduplication_key(message.properties) {
            self.write_settlements(now_ms);
        }
        let seq = self.open(now_ms, message.payload_len(), |batch| batch.publish(message));
        let Some((channel, tag)) = confirm else { return };
        if let Some(run) = self.unconfirmed.back_mut()
            && run.channel == channel
            && run.seq + u64::from(run.len) == seq
            && run.tag + u64::from(run.len) == tag
            && run.since_ms == now_ms
            && run.len < u32::MAX
        {
            run.len += 1;
            return;
        }
        self.unconfirmed.push_back(Unconfirmed {
            seq,
            tag,
            len: 1,
            channel,
            since_ms: now_ms,
        });
    }

    /// Adds the settlement of one message that a consumer was given, 0: a get. Settlements of one kind are gathered into
    /// one command. False if the queue is not told: in a stream it is only the consumer's credit, whatever the outcome.
    pub fn settle(&mut self, outcome: Outcome, message: u64, consumer: u32, now_ms: u64) -> bool {
        if self.is_stream {
            self.settled(consumer);
            return false;
        }
        match &mut self.settling {
            Some((kind, messages)) if *kind == outcome => messages.push(message),
            _ => {
                self.write_settlements(now_ms);
                self.settling = Some((outcome, vec![message]));
            }
        }
        true
    }

    /// Has the queue's word on what was settled so far given as that on a publish with this confirm number is.
    pub fn confirm_settled(&mut self, confirm: (ChannelId, u64), now_ms: u64) {
        self.write_settlements(now_ms);
        let (channel, tag) = confirm;
        self.unconfirmed.push_back(Unconfirmed {
            seq: self.next_seq - 1,
            tag,
            len: 1,
            channel,
            since_ms: now_ms,
        });
    }

    /// Adds a question. What was settled before is seen by the queue before it.
    pub fn ask(&mut self, channel: ChannelId, asked: Asked, command: &Command<'_>, now_ms: u64) {
        self.write_settlements(now_ms);
        match asked {
            Asked::Attach(consumer) => {
                self.consumers.insert(
                    consumer,
                    Inbound {
                        next: 1,
                        attached: false,
                        prefetch: match command {
                            Command::Attach(attach) => attach.prefetch,
                            _ => 0,
                        },
                        reading: None,
                    },
                );
            }
            Asked::Cancel(_) | Asked::Get | Asked::Purge | Asked::Stat | Asked::Use | Asked::Delete => {}
        }
        let seq = self.open(now_ms, 0, |batch| batch.push(command));
        self.questions.push_back(Question {
            seq,
            asked,
            channel,
            since_ms: now_ms,
        });
    }

    /// Says how many of a consumer's deliveries reached the client's socket.
    pub fn credit(&mut self, consumer: u32, written: u64, now_ms: u64) {
        if self.consumers.contains_key(&consumer) {
            let credit = queue::Credit { consumer, written };
            self.open(now_ms, 0, |batch| batch.push(&Command::Credit(credit)));
        }
    }

    /// Closes the open batch: what was added so far can be sent.
    pub fn seal(&mut self, now_ms: u64) {
        self.write_settlements(now_ms);
        if self.heard && self.open.is_some() {
            self.heard = false;
            let upto = self.applied;
            self.open(now_ms, 0, |batch| batch.push(&Command::Heard(queue::Heard { upto })));
        }
        let Some(batch) = self.open.take() else { return };
        if self.unapplied.is_empty() {
            self.moved_ms = now_ms;
        }
        let last = batch.next_seq() - 1;
        let first = last + 1 - u64::from(batch.count());
        let bytes = batch.finish();
        self.unapplied_bytes += bytes.len();
        self.unapplied.push_back(Sealed {
            first,
            last,
            sealed_ms: now_ms,
            bytes,
        });
    }

    /// The next batch to hand to the leader, while the window is open. It counts as sent.
    pub fn next_send(&mut self) -> Option<Bytes> {
        let batch = self.unapplied.get(self.sent)?;
        let full = self.sent >= SENT_BATCHES_MAX || self.sent_bytes + batch.bytes.len() > SENT_BYTES_MAX;
        if full && self.sent > 0 {
            return None;
        }
        self.sent += 1;
        self.sent_bytes += batch.bytes.len();
        Some(batch.bytes.clone())
    }

    /// The batch that [`QueueClient::next_send`] gave last did not leave.
    pub fn not_sent(&mut self) {
        let Some(last) = self.sent.checked_sub(1) else { return };
        self.sent = last;
        self.sent_bytes -= self.unapplied[last].bytes.len();
    }

    /// The queue has a new leader, or something between it and this side was lost: everything unapplied is to be
    /// sent again, and a resync is due.
    pub fn rewind(&mut self, now_ms: u64) {
        self.sent = 0;
        self.sent_bytes = 0;
        self.rewound_ms = now_ms;
        self.resync = !self.consumers.is_empty() || !self.ended.is_empty();
    }

    /// The resync to send, if one is due: which delivery of each consumer comes next here. It may be lost on the way:
    /// until it is answered, it becomes due again.
    pub fn take_resync(&mut self, share: Share, now_ms: u64) -> Option<queue::Resync> {
        let may_repeat = self.resynced_ms == 0 || now_ms >= self.resynced_ms + REPEAT_MS;
        let is_silent = self.asked.is_some_and(|open| self.is_silent(open.since_ms, now_ms));
        if !((self.resync && may_repeat) || is_silent) {
            return None;
        }
        self.resync = false;
        self.asked = None;
        if self.consumers.is_empty() && self.ended.is_empty() {
            return None;
        }
        self.resynced_ms = now_ms;
        let live = self.consumers.iter_mut();
        let live = live.map(|(&consumer, inbound)| match &mut inbound.reading {
            Some(reading) => reading.restart(consumer, inbound.next, share),
            None => asked_again(consumer, inbound.next),
        });
        let ended = self.ended.iter().map(|(consumer, next)| asked_again(*consumer, *next));
        let consumers = live.chain(ended).collect();
        Some(self.question_beside(consumers, true, now_ms))
    }

    fn question_beside(
        &mut self,
        mut consumers: Vec<queue::ResyncConsumer>,
        is_resync: bool,
        now_ms: u64,
    ) -> queue::Resync {
        consumers.sort_unstable_by_key(|consumer| consumer.consumer);
        self.resyncs += 1;
        let since_ms = match self.asked {
            Some(open) if !is_resync => open.since_ms,
            _ => now_ms,
        };
        self.asked = Some(Open {
            number: self.resyncs,
            since_ms,
            is_resync,
        });
        queue::Resync {
            node: self.session.node,
            incarnation: self.session.incarnation,
            id: self.session.id,
            consumers,
            number: self.resyncs,
        }
    }

    /// The leader has answered a resync, or what was said of credit.
    fn answered_beside(&mut self, number: u64, now_ms: u64) {
        let Some(open) = &mut self.asked else { return };
        if number < open.number {
            open.since_ms = now_ms;
        } else if number == open.number {
            self.asked = None;
            self.credit_arrived();
        }
    }

    /// Whether [`QueueClient::tick`] has anything to wait for.
    pub fn needs_tick(&self) -> bool {
        self.resync || self.asked.is_some() || !self.unapplied.is_empty() || !self.questions.is_empty()
    }

    /// Gives up on what has waited longer than `timeout_ms`, and rewinds after silence.
    ///
    /// A publish that was given up on may still be applied; its confirm number is answered only once.
    pub fn tick(&mut self, now_ms: u64, timeout_ms: u64, out: &mut Vec<Notice>) {
        while let Some(run) = self.unconfirmed.front()
            && now_ms.saturating_sub(run.since_ms) >= timeout_ms
        {
            out.push(Notice::Refused(
                run.channel,
                Run {
                    first: run.tag,
                    len: run.len,
                },
            ));
            self.unconfirmed.pop_front();
        }
        while let Some(question) = self.questions.front()
            && now_ms.saturating_sub(question.since_ms) >= timeout_ms
        {
            out.push(Notice::TimedOut(question.channel, question.asked));
            self.questions.pop_front();
        }
        self.drop_applied();
        let silent = self.is_silent(self.moved_ms.max(self.rewound_ms), now_ms);
        let oldest_is_old = self
            .unapplied
            .front()
            .is_some_and(|batch| now_ms >= batch.sealed_ms + SILENCE_MS);
        if silent && oldest_is_old {
            self.rewind(now_ms);
        }
    }

    /// Whether nothing has come since then that could stand before an answer.
    fn is_silent(&self, since_ms: u64, now_ms: u64) -> bool {
        now_ms >= since_ms.max(self.arrived_ms.min(since_ms + ARRIVING_MS)) + SILENCE_MS
    }

    /// Takes in confirms and answers. Deliveries are put to [`QueueClient::accept`] one by one afterwards, and then
    /// [`QueueClient::finish`] is called with the same events.
    pub fn apply(&mut self, events: &Events, now_ms: u64, out: &mut Vec<Notice>) {
        if events.applied > self.applied {
            self.applied = events.applied.min(self.next_seq - 1);
            self.moved_ms = now_ms;
            self.forgotten_since_ms = None;
        } else if events.refused.is_empty() && events.replies.is_empty() && events.deliveries.is_empty() {
            self.on_nothing_new(events.applied, now_ms, out);
        }
        self.heard |= !events.refused.is_empty();
        self.confirm(&events.refused, out);
        for (seq, reply) in &events.replies {
            if !matches!(
                reply.kind,
                Some(Reply::Cancelled(_) | Reply::GetOk(_) | Reply::Resynced(_))
            ) {
                self.answer(*seq, reply, now_ms, out);
            }
        }
    }

    /// Takes in the answers that come after the deliveries of the same events, and drops what is applied.
    pub fn finish(&mut self, events: &Events, now_ms: u64, out: &mut Vec<Notice>) {
        for (seq, reply) in &events.replies {
            match &reply.kind {
                Some(Reply::Cancelled(_)) => self.answer(*seq, reply, now_ms, out),
                Some(Reply::Resynced(_)) => self.answered_beside(*seq, now_ms),
                Some(Reply::ReaderUnknown(unknown)) => self.resync |= self.consumers.contains_key(&unknown.consumer),
                Some(Reply::ReaderPassed(passed)) => self.reader_passed(passed),
                Some(Reply::ReaderLost(lost)) if self.consumers.contains_key(&lost.consumer) => {
                    out.push(Notice::ReaderLost(lost.consumer));
                }
                Some(Reply::ConsumerTimedOut(timed_out)) => self.consumer_timed_out(timed_out.consumer, out),
                _ => {}
            }
        }
        self.drop_applied();
    }

    fn consumer_timed_out(&mut self, consumer: u32, out: &mut Vec<Notice>) {
        // One whose start was not answered is not known to the queue yet.
        if self.consumers.get(&consumer).is_none_or(|inbound| !inbound.attached) {
            return;
        }
        self.end_consumer(consumer);
        out.push(Notice::ConsumerTimedOut(consumer));
    }

    fn end_consumer(&mut self, consumer: u32) {
        if let Some(inbound) = self.consumers.remove(&consumer)
            && inbound.reading.is_none()
        {
            self.ended.push_back((consumer, inbound.next));
            if self.ended.len() > ENDED_MAX {
                self.ended.pop_front();
            }
        }
    }

    /// Judges one delivery of `events`.
    pub fn accept(&mut self, events: &Events, delivery: &Delivery, now_ms: u64) -> Accepted {
        if delivery.consumer == 0 {
            let Some(at) = self.question(delivery.get_seq) else {
                return Accepted::Drop;
            };
            let channel = self.questions[at].channel;
            self.questions.remove(at);
            self.moved_ms = now_ms;
            let ready = events.replies.iter().find_map(|(seq, reply)| match &reply.kind {
                Some(Reply::GetOk(ok)) if *seq == delivery.get_seq => Some(ok.ready),
                _ => None,
            });
            return Accepted::Got(channel, ready.unwrap_or(0));
        }
        if let Some(inbound) = self.consumers.get_mut(&delivery.consumer) {
            let is_old = match &inbound.reading {
                Some(reading) => reading.has_passed(delivery),
                None => delivery.delivery_id < inbound.next,
            };
            if is_old {
                return Accepted::Drop;
            }
            let is_next = delivery.delivery_id == inbound.next;
            let follows = match &mut inbound.reading {
                Some(reading) => is_next && reading.accept(delivery),
                None => is_next,
            };
            if !follows || !inbound.attached {
                self.resync = true;
                return Accepted::Drop;
            }
            inbound.next += 1;
            self.arrived_ms = now_ms;
            return Accepted::Deliver;
        }
        match self
            .ended
            .iter_mut()
            .find(|(consumer, _)| *consumer == delivery.consumer)
        {
            Some((_, next)) if delivery.delivery_id >= *next => {
                *next = delivery.delivery_id + 1;
                self.arrived_ms = now_ms;
                Accepted::Return
            }
            _ => Accepted::Drop,
        }
    }

    /// The queue has ended: what it was sent counts as done, and nothing more will be answered.
    pub fn end(self, out: &mut Vec<Notice>) {
        for run in self.unconfirmed {
            out.push(Notice::Confirmed(
                run.channel,
                Run {
                    first: run.tag,
                    len: run.len,
                },
            ));
        }
        for question in self.questions {
            out.push(Notice::Ended(question.channel, question.asked));
        }
    }

    /// Adds one command and gives its number.
    fn open(&mut self, now_ms: u64, size_hint: usize, push: impl FnOnce(&mut BatchWriter)) -> u64 {
        if let Some(batch) = &self.open
            && (batch.len() + size_hint > BATCH_BYTES_MAX || batch.count() >= BATCH_COMMANDS_MAX)
            && !batch.is_empty()
        {
            let settling = self.settling.take();
            self.seal(now_ms);
            self.settling = settling;
        }
        let batch = self
            .open
            .get_or_insert_with(|| BatchWriter::new(self.session, self.next_seq));
        push(batch);
        let seq = self.next_seq;
        self.next_seq = batch.next_seq();
        seq
    }

    fn write_settlements(&mut self, now_ms: u64) {
        let Some((outcome, mut messages)) = self.settling.take() else {
            return;
        };
        if !messages.is_sorted() {
            messages.sort_unstable();
        }
        let mut runs = Vec::new();
        for message in messages {
            Run::push(&mut runs, message);
        }
        self.open(now_ms, runs.len() * 12, |batch| batch.settle(outcome, &runs));
    }

    /// The queue had nothing to say but where it stands: it has seen a batch twice, or one is missing.
    fn on_nothing_new(&mut self, applied: u64, now_ms: u64, out: &mut Vec<Notice>) {
        if self.unapplied.is_empty() {
            return;
        }
        if applied < self.applied {
            // A single such word may be a late one of a former leader.
            let since = *self.forgotten_since_ms.get_or_insert(now_ms);
            if now_ms >= since.max(self.moved_ms) + FORGOTTEN_MS {
                out.push(Notice::Forgotten);
            }
        } else if now_ms >= self.moved_ms + STUCK_MS && now_ms >= self.rewound_ms + REPEAT_MS {
            self.sent = 0;
            self.sent_bytes = 0;
            self.rewound_ms = now_ms;
        }
    }

    fn confirm(&mut self, refused: &[Run], out: &mut Vec<Notice>) {
        let mut refused = refused.to_vec();
        refused.sort_unstable_by_key(|run| (run.first, run.len));
        let is_refused = |seq: u64| {
            let before = refused.partition_point(|run| run.first <= seq);
            let run = before.checked_sub(1).map(|last| refused[last]);
            run.is_some_and(|run| seq - run.first < u64::from(run.len))
        };
        while let Some(run) = self.unconfirmed.front_mut()
            && run.seq <= self.applied
        {
            let covered = (self.applied - run.seq + 1).min(u64::from(run.len)) as u32;
            let (seq, tag, channel) = (run.seq, run.tag, run.channel);
            if covered == run.len {
                self.unconfirmed.pop_front();
            } else {
                run.seq += u64::from(covered);
                run.tag += u64::from(covered);
                run.len -= covered;
            }
            if refused.is_empty() {
                out.push(Notice::Confirmed(
                    channel,
                    Run {
                        first: tag,
                        len: covered,
                    },
                ));
                continue;
            }
            let mut taken = Vec::new();
            let mut not_taken = Vec::new();
            for n in 0..u64::from(covered) {
                let seq = seq + n;
                Run::push(if is_refused(seq) { &mut not_taken } else { &mut taken }, tag + n);
            }
            out.extend(taken.into_iter().map(|run| Notice::Confirmed(channel, run)));
            out.extend(not_taken.into_iter().map(|run| Notice::Refused(channel, run)));
        }
    }

    fn question(&self, seq: u64) -> Option<usize> {
        self.questions.iter().position(|question| question.seq == seq)
    }

    fn answer(&mut self, seq: u64, reply: &queue::Reply, now_ms: u64, out: &mut Vec<Notice>) {
        let Some(kind) = &reply.kind else { return };
        let Some(at) = self.question(seq) else { return };
        let Some(question) = self.questions.remove(at) else {
            return;
        };
        self.moved_ms = now_ms;
        match (question.asked, kind) {
            (Asked::Attach(consumer), Reply::Attached(attached)) => {
                self.is_stream |= attached.offset.is_some();
                if let Some(inbound) = self.consumers.get_mut(&consumer) {
                    inbound.attached = true;
                    inbound.reading = attached.offset.map(|offset| Reading::new(offset, inbound.prefetch));
                }
            }
            (Asked::Attach(consumer), _) => {
                self.consumers.remove(&consumer);
            }
            (Asked::Cancel(consumer), _) => self.end_consumer(consumer),
            (Asked::Get | Asked::Purge | Asked::Stat | Asked::Use | Asked::Delete, _) => {}
        }
        out.push(Notice::Answer(question.channel, question.asked, *kind));
    }

    /// Lets go of batches that are applied and hold no open question.
    fn drop_applied(&mut self) {
        while let Some(batch) = self.unapplied.front()
            && batch.last <= self.applied
            && self.questions.front().is_none_or(|question| question.seq > batch.last)
        {
            self.unapplied_bytes -= batch.bytes.len();
            if self.sent > 0 {
                self.sent -= 1;
                self.sent_bytes -= batch.bytes.len();
            }
            self.unapplied.pop_front();
        }
        debug_assert!(self.unapplied.front().is_none_or(|batch| batch.first <= batch.last));
    }
}

/// A consumer whose deliveries are wanted from `next` on.
fn asked_again(consumer: u32, next: u64) -> queue::ResyncConsumer {
    queue::ResyncConsumer {
        consumer,
        next,
        ..queue::ResyncConsumer::default()
    }
}

mod reading;
#[cfg(test)]
mod tests;
