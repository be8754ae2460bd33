//! Readers of a stream, beside its log: on the leader, where each reader is and how far it may go.
//!
//! Nothing of this is replicated. A reader's session knows its own place, and says it again to whoever leads next; so
//! reading costs the log nothing, and a reader that is lost here loses no message. What a session is sent says from which
//! offset on it is the next: a session that misses something sees that, and asks to be taken back.
//!
//! What is read is bounded by time, however often it is asked for, and goes round among the readers: other queues of the
//! thread have their turns whatever the readers do.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::ops::Bound::{Excluded, Unbounded};
use std::sync::Arc;

use bytes::Bytes;
use warren_cluster::NodeId;
use warren_proto::queue::reply::Kind as ReplyKind;
use warren_proto::queue::{self, Attach, Resync};
use warren_proto::record::SessionId;

use super::machine::{Effect, Place, QueueMachine, Stream};
use crate::message;

/// Bytes read in a millisecond, for all readers.
const BYTES_PER_MS: usize = 512 << 10;
/// Bytes read for one reader, before others have their turn.
const READER_BYTES: usize = 64 << 10;
/// What a message costs beside its bytes, when it is delivered or compared with a filter.
const MESSAGE_COST: usize = 256;
/// What each message costs when an entry is taken apart, beside the entry's bytes.
const PLACE_COST: usize = 16;
/// Entries that stay taken apart, in bytes, with their messages' places: readers at one place share them. The newest
/// stays however large.
const OPENED_BYTES_MAX: usize = 4 << 20;

/// Messages that a filter has passed over, of which its session is told that there is nothing among them.
const PASSED_MIN: u64 = if cfg!(test) { 10 } else { 1_000 };

/// What readers need of the log.
pub(super) trait Entries {
    fn machine(&self) -> &QueueMachine;

    /// The time of a log entry that holds a message of the stream, and its payload.
    fn entry(&mut self, index: u64) -> Option<(u64, Bytes)>;
}

/// Where a reader stands in the log: in the entry at `index`, whose messages have the offsets `first..end`.
#[derive(Clone, Copy, Debug)]
struct Cursor {
    index: u64,
    first: u64,
    end: u64,
}

#[derive(Debug)]
struct Reader {
    /// The number of its next delivery.
    next: u64,
    /// The highest that it may be sent.
    upto: u64,
    /// Bytes of the deliveries before that, and of those that it may be sent: the last may go beyond.
    bytes: u64,
    bytes_upto: u64,
    /// Behind the last message that it was sent.
    from: u64,
    /// The offset that is looked at next. Ahead of `from` where messages do not match.
    position: u64,
    /// Its session knows that nothing before this is to come.
    told: u64,
    cursor: Option<Cursor>,
    /// Messages of entries before this are passed over, up to the first entry that is not.
    not_before_ms: u64,
    filter: Option<Arc<Filter>>,
}

#[derive(Debug)]
struct Filter {
    values: BTreeSet<String>,
    /// Messages without a value match as well.
    unfiltered: bool,
}

impl Filter {
    fn of(attach: &Attach) -> Option<Arc<Self>> {
        let filter = Self {
            values: attach.filter.iter().cloned().collect(),
            unfiltered: attach.match_unfiltered,
        };
        (!filter.values.is_empty()).then(|| Arc::new(filter))
    }

    /// Whether a publish payload has one of the values.
    fn matches(&self, payload: &Bytes) -> bool {
        match message::filter_value(payload) {
            Some(value) => self.values.contains(&value),
            // As with RabbitMQ, it is as if the value were empty.
            None => self.unfiltered || self.values.contains(""),
        }
    }
}

/// An entry, taken apart.
struct Opened {
    index: u64,
    time_ms: u64,
    payload: Bytes,
    places: Vec<(u32, u32)>,
}

impl Opened {
    /// What it took to make it.
    fn cost(&self) -> usize {
        self.payload.len() + self.places.len() * PLACE_COST
    }

    /// The payload of the message at `(offset, len)`. One that is small beside the entry does not keep all of it.
    fn message(&self, (offset, len): (u32, u32)) -> Bytes {
        let (start, len) = (offset as usize, len as usize);
        let payload = &self.payload[start..start + len];
        if len.saturating_mul(4) < self.payload.len() {
            Bytes::copy_from_slice(payload)
        } else {
            self.payload.slice_ref(payload)
        }
    }
}

/// A session, and its number for the consumer.
type Key = (SessionId, u32);

/// See the module.
#[derive(Default)]
pub(super) struct Readers {
    all: BTreeMap<Key, Reader>,
    /// Those of them that may have something to read.
    able: BTreeSet<Key>,
    /// The one that was used last comes last.
    opened: VecDeque<Arc<Opened>>,
    /// Who was served last.
    last: Option<Key>,
    /// Some reader could go on.
    more: bool,
    /// Bytes that were read at `read_ms` or before, and are not paid off by the time that passed.
    read: usize,
    read_ms: u64,
    /// The stream's next offset at the last call.
    seen: u64,
}

impl Readers {
    /// Takes in where a session's readers are and how far they may go.
    pub(super) fn ask(&mut self, request: &Resync, machine: &QueueMachine) {
        let session = request.session();
        for asked in &request.consumers {
            let Some(offset) = asked.offset else { continue };
            let Some(attach) = machine.attached(session, asked.consumer) else {
                continue;
            };
            let key = (session, asked.consumer);
            self.able.insert(key);
            match self.all.get_mut(&key) {
                Some(reader) if asked.goes_on => {
                    reader.upto = reader.upto.max(asked.upto);
                    reader.bytes_upto = reader.bytes_upto.max(asked.bytes_upto);
                }
                _ => {
                    let reader = Reader {
                        next: asked.next,
                        upto: asked.upto,
                        bytes: asked.bytes,
                        bytes_upto: asked.bytes_upto,
                        from: offset,
                        position: offset,
                        told: offset,
                        cursor: None,
                        not_before_ms: match attach.from {
                            Some(from) if asked.next == 1 => from.not_before_ms,
                            _ => 0,
                        },
                        filter: Filter::of(attach),
                    };
                    self.all.insert(key, reader);
                }
            }
        }
        let attached = machine.stats().consumers;
        if self.all.len() as u64 > attached {
            self.all
                .retain(|(session, consumer), _| machine.attached(*session, *consumer).is_some());
        }
    }

    /// Forgets all: this replica does not lead.
    pub(super) fn clear(&mut self) {
        *self = Self::default();
    }

    /// Lets go of what is only kept for speed.
    pub(super) fn rest(&mut self) {
        self.opened = VecDeque::new();
    }

    /// Whether [`Readers::work`] has more to do at once.
    pub(super) fn has_more(&self) -> bool {
        self.more
    }

    /// Reads on for those who may go on: each message with the effect that delivers it, and what else is to be said, with
    /// nothing. Nothing for nodes that `is_stalled` names.
    pub(super) fn work(
        &mut self,
        log: &mut impl Entries,
        now_ms: u64,
        is_stalled: impl Fn(NodeId) -> bool,
        mut deliver: impl FnMut(Effect, Bytes),
    ) {
        let Some(stream) = log.machine().stream() else { return };
        let next = stream.next();
        if next != self.seen {
            self.seen = next;
            let may_read = self.all.iter().filter(|(_, reader)| reader.may_read(next));
            self.able.extend(may_read.map(|(key, _)| *key));
        }
        self.more = false;
        if self.able.is_empty() {
            return;
        }
        let passed = usize::try_from(now_ms.saturating_sub(self.read_ms)).unwrap_or(usize::MAX);
        self.read = self.read.saturating_sub(passed.saturating_mul(BYTES_PER_MS));
        self.read_ms = now_ms;
        let mut stalled = Vec::new();
        while let Some(key) = self.next_able() {
            if is_stalled(key.0.node) {
                self.able.remove(&key);
                stalled.push(key);
                continue;
            }
            let is_attached = log.machine().attached(key.0, key.1).is_some();
            let reader = self.all.get(&key).filter(|reader| reader.may_read(next));
            if !is_attached || reader.is_none() {
                self.able.remove(&key);
                if !is_attached {
                    self.all.remove(&key);
                }
                continue;
            }
            if self.read >= BYTES_PER_MS {
                self.more = true;
                break;
            }
            let Some(mut reader) = self.all.remove(&key) else {
                continue;
            };
            if self.advance(key, &mut reader, log, &mut deliver) {
                self.all.insert(key, reader);
            }
            self.last = Some(key);
        }
        self.able.extend(stalled);
    }

    /// Whose turn it is.
    fn next_able(&self) -> Option<Key> {
        let after = self.last.map_or(Unbounded, Excluded);
        let next = self.able.range((after, Unbounded)).next();
        next.or_else(|| self.able.first()).copied()
    }

    /// One turn of a reader. False if it is over with it: the log does not hold what comes next.
    fn advance(
        &mut self,
        (session, consumer): (SessionId, u32),
        reader: &mut Reader,
        log: &mut impl Entries,
        deliver: &mut impl FnMut(Effect, Bytes),
    ) -> bool {
        let given = self.read.saturating_add(READER_BYTES);
        // An entry that was taken apart is made use of, whatever it cost: it may not be there at the next turn.
        let mut sent = 0;
        while self.read < given {
            let Some(stream) = log.machine().stream() else {
                return false;
            };
            if !reader.may_read(stream.next()) {
                return true;
            }
            let Some(cursor) = reader.find(stream) else { return true };
            let Some(opened) = self.open(cursor.index, log) else {
                // What comes behind it must not look as if nothing were missing.
                tracing::error!(index = cursor.index, consumer, "the log does not hold a stream's entry");
                let kind = ReplyKind::ReaderLost(queue::ReaderLost { consumer });
                deliver(beside(session, kind), Bytes::new());
                return false;
            };
            let end = cursor.first + opened.places.len() as u64;
            reader.cursor = Some(Cursor { end, ..cursor });
            if opened.time_ms < reader.not_before_ms {
                reader.position = reader.position.max(end);
            } else {
                reader.not_before_ms = 0;
            }
            // To look into an entry and find nothing in it costs as well.
            self.read += MESSAGE_COST;
            while reader.position < end && reader.has_credit() && sent < READER_BYTES {
                let nth = usize::try_from(reader.position - cursor.first).unwrap_or(usize::MAX);
                let Some(&(offset, len)) = opened.places.get(nth) else {
                    break;
                };
                let payload = opened.message((offset, len));
                let cost = payload.len() + MESSAGE_COST;
                sent += cost;
                self.read += cost;
                let seq = reader.position;
                reader.position += 1;
                if reader.filter.as_ref().is_some_and(|filter| !filter.matches(&payload)) {
                    continue;
                }
                let effect = Effect::Deliver {
                    session,
                    consumer,
                    delivery_id: reader.next,
                    get_seq: reader.from,
                    seq,
                    redelivered: false,
                    acquired: 0,
                    failed: 0,
                    at: Place {
                        index: cursor.index,
                        offset,
                        len,
                    },
                };
                reader.next += 1;
                reader.bytes += u64::from(len);
                reader.from = reader.position;
                reader.told = reader.position;
                deliver(effect, payload);
            }
            if reader.filter.is_some() && reader.position.saturating_sub(reader.told) >= PASSED_MIN {
                let (next, offset) = (reader.next, reader.position);
                reader.told = offset;
                let passed = queue::ReaderPassed { consumer, next, offset };
                deliver(beside(session, ReplyKind::ReaderPassed(passed)), Bytes::new());
            }
        }
        true
    }

    fn open(&mut self, index: u64, log: &mut impl Entries) -> Option<Arc<Opened>> {
        if let Some(at) = self.opened.iter().rposition(|opened| opened.index == index) {
            let opened = self.opened.remove(at)?;
            self.opened.push_back(opened.clone());
            return Some(opened);
        }
        let (time_ms, payload) = log.entry(index)?;
        let places = log.machine().stream()?.places(index, &payload);
        let opened = Arc::new(Opened {
            index,
            time_ms,
            payload,
            places,
        });
        self.read += opened.cost();
        self.opened.push_back(opened.clone());
        let mut bytes: usize = self.opened.iter().map(|opened| opened.cost()).sum();
        while bytes > OPENED_BYTES_MAX
            && self.opened.len() > 1
            && let Some(oldest) = self.opened.pop_front()
        {
            bytes -= oldest.cost();
        }
        Some(opened)
    }
}

/// Says something to a session that answers no command of it.
fn beside(session: SessionId, kind: ReplyKind) -> Effect {
    Effect::Reply {
        session,
        seq: 0,
        reply: queue::Reply { kind: Some(kind) },
    }
}

impl Reader {
    fn has_credit(&self) -> bool {
        self.next <= self.upto && self.bytes < self.bytes_upto
    }

    /// Whether it has credit, and the stream a message that it has not seen.
    fn may_read(&self, next: u64) -> bool {
        self.has_credit() && self.position < next
    }

    /// The entry to look into for the message at its position; `end` is not known yet where it is new.
    fn find(&mut self, stream: &Stream) -> Option<Cursor> {
        if self.position < stream.first() {
            self.position = stream.first();
            self.cursor = None;
        }
        let known = match self.cursor {
            Some(cursor) if self.position < cursor.end => Some(cursor),
            Some(cursor) => stream.entry_after(cursor.index).map(|index| Cursor {
                index,
                first: cursor.end,
                end: cursor.end,
            }),
            None => None,
        };
        known.or_else(|| {
            let (index, first) = stream.entry_before(self.position)?;
            let end = first;
            Some(Cursor { index, first, end })
        })
    }
}

#[cfg(test)]
mod tests;
