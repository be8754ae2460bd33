//! The machine's state as bytes: everything but the messages' bodies. Two machines in the same state give the
//! same bytes. All integers are little-endian.
//!
//! ```text
//! snapshot = format:u16 (version:u16 time_ms:u64)? ended:u8 next_seq:u64 total:u64*10
//!            ended_sessions:u32 session* messages
//!            sessions:u32 (session last_seq:u64)*                                  ascending
//!            consumers:u32 (session:u32 cancelled:u8 last_id:u64 written:u64
//!                           len:u32 queue.Attach)*                                 in the order of attachment
//!            held:u64 (seq:u64 place delivery:u64 session:u32 consumer:u32
//!                      acquired:u32 failed:u32)*                                   ascending
//!            turns:u32 consumer:u32*                                               next first
//!            section*                                                              see sections.rs
//! session  = node:u64 incarnation:u64 id:u64
//! place    = index:u64 offset:u32 len:u32
//! messages = fresh:u64 (index:u64 messages:u32 (offset:u32 len:u32)*)*             by entry, in order;
//!                                                               without places for index 0: these are gone
//!            returned:u64 (seq:u64 place acquired:u32 failed:u32)*                 ascending
//! ```
//!
//! Sessions and consumers are named by their place in this order; consumer 0xffff_ffff is a get.
//! Chunks are cut anywhere. Format 1 had no sections and no messages that were gone. Format 3 is that of
//! entries of a later version than the first, and tells the version and the time of the last one.

use bytes::Bytes;
use prost::Message as _;
use warren_cluster::version;
use warren_proto::queue::Attach;
use warren_proto::record::SessionId;

use super::consumers::Consumer;
use super::ready::{Level, Returned};
use super::{Config, ENDED_SESSIONS_MAX, Held, Place, QueueMachine, Session, Totals};

mod sections;

const FORMAT: u16 = 3;
/// Of a machine that has seen entries of the first version only.
const FORMAT_PLAIN: u16 = 2;
/// The first format, which is still read.
const FORMAT_FIRST: u16 = 1;
const CHUNK_LEN_MAX: usize = 1 << 20;
/// No counter comes near this, so what is counted on from a snapshot does not overflow.
const NUMBER_MAX: u64 = u64::MAX / 2;

/// Bytes that are not a snapshot of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Written by a build that knows more than this one, or not a queue's snapshot.
    #[error("queue snapshot has unknown format {0}")]
    Format(u16),
    /// Written by a build that knows more than this one.
    #[error("queue snapshot is of version {0}")]
    Version(u16),
    /// The bytes end early.
    #[error("queue snapshot is cut short")]
    Truncated,
    /// The named part contradicts itself or another part.
    #[error("queue snapshot holds impossible {0}")]
    Invalid(&'static str),
}

type Result<T> = std::result::Result<T, Error>;

struct Writer {
    chunks: Vec<Bytes>,
    tail: Vec<u8>,
}

impl Writer {
    fn bytes(&mut self, mut bytes: &[u8]) {
        while !bytes.is_empty() {
            let (now, later) = bytes.split_at(bytes.len().min(CHUNK_LEN_MAX - self.tail.len()));
            self.tail.extend_from_slice(now);
            bytes = later;
            if self.tail.len() == CHUNK_LEN_MAX {
                self.chunks.push(Bytes::from(std::mem::take(&mut self.tail)));
            }
        }
    }

    fn u8(&mut self, value: u8) {
        self.bytes(&[value]);
    }

    fn u32(&mut self, value: u32) {
        self.bytes(&value.to_le_bytes());
    }

    fn u64(&mut self, value: u64) {
        self.bytes(&value.to_le_bytes());
    }

    fn count(&mut self, count: usize) {
        self.u32(u32::try_from(count).expect("sessions and consumers of one queue fit in 32 bits"));
    }

    fn session(&mut self, id: SessionId) {
        self.u64(id.node);
        self.u64(id.incarnation);
        self.u64(id.id);
    }

    fn place(&mut self, place: Place) {
        self.u64(place.index);
        self.u32(place.offset);
        self.u32(place.len);
    }

    fn finish(mut self) -> Vec<Bytes> {
        if !self.tail.is_empty() {
            self.chunks.push(Bytes::from(self.tail));
        }
        self.chunks
    }
}

struct Reader<'a> {
    chunks: std::slice::Iter<'a, Bytes>,
    rest: &'a [u8],
}

impl Reader<'_> {
    fn fill(&mut self, mut out: &mut [u8]) -> Result<()> {
        while !out.is_empty() {
            if self.rest.is_empty() {
                self.rest = self.chunks.next().ok_or(Error::Truncated)?;
                continue;
            }
            let len = out.len().min(self.rest.len());
            let (now, later) = out.split_at_mut(len);
            now.copy_from_slice(&self.rest[..len]);
            self.rest = &self.rest[len..];
            out = later;
        }
        Ok(())
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N]> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn flag(&mut self) -> Result<bool> {
        match self.array()? {
            [0] => Ok(false),
            [1] => Ok(true),
            _ => Err(Error::Invalid("flag")),
        }
    }

    fn u32(&mut self) -> Result<u32> {
        Ok(u32::from_le_bytes(self.array()?))
    }

    fn u64(&mut self) -> Result<u64> {
        Ok(u64::from_le_bytes(self.array()?))
    }

    /// Bytes with their length, which is checked against what is there before it is believed.
    fn blob(&mut self) -> Result<Vec<u8>> {
        let len = self.u32()? as usize;
        if len > self.left() {
            return Err(Error::Truncated);
        }
        let mut bytes = vec![0; len];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn session(&mut self) -> Result<SessionId> {
        let id = SessionId {
            node: self.u64()?,
            incarnation: self.u64()?,
            id: self.u64()?,
        };
        if id == SessionId::SYSTEM {
            Err(Error::Invalid("session"))
        } else {
            Ok(id)
        }
    }

    fn place(&mut self) -> Result<Place> {
        Ok(Place {
            index: self.u64()?,
            offset: self.u32()?,
            len: self.u32()?,
        })
    }

    /// Bytes that are left.
    fn left(&self) -> usize {
        self.rest.len() + self.chunks.as_slice().iter().map(Bytes::len).sum::<usize>()
    }

    fn at_end(&self) -> bool {
        self.rest.is_empty() && self.chunks.as_slice().iter().all(Bytes::is_empty)
    }
}

/// Each value must be higher than the one before.
struct Ascending<T>(Option<T>);

impl<T: Copy + Ord> Ascending<T> {
    fn check(&mut self, value: T, what: &'static str) -> Result<()> {
        if self.0.replace(value).is_some_and(|before| before >= value) {
            Err(Error::Invalid(what))
        } else {
            Ok(())
        }
    }
}

impl Totals {
    fn to_array(self) -> [u64; 10] {
        let Self {
            published,
            delivered,
            got,
            redelivered,
            acked,
            discarded,
            requeued,
            dropped,
            purged,
            malformed,
            ..
        } = self;
        [
            published,
            delivered,
            got,
            redelivered,
            acked,
            discarded,
            requeued,
            dropped,
            purged,
            malformed,
        ]
    }

    fn from_array(totals: [u64; 10]) -> Self {
        let [
            published,
            delivered,
            got,
            redelivered,
            acked,
            discarded,
            requeued,
            dropped,
            purged,
            malformed,
        ] = totals;
        Self {
            published,
            delivered,
            got,
            redelivered,
            acked,
            discarded,
            requeued,
            dropped,
            purged,
            malformed,
            ..Self::default()
        }
    }
}

impl QueueMachine {
    /// The whole state in chunks of at most 1 MiB.
    pub fn snapshot(&self) -> Vec<Bytes> {
        let mut out = Writer {
            chunks: Vec::new(),
            tail: Vec::new(),
        };
        if self.version > version::FIRST {
            out.bytes(&FORMAT.to_le_bytes());
            out.bytes(&self.version.to_le_bytes());
            out.u64(self.now_ms);
        } else {
            out.bytes(&FORMAT_PLAIN.to_le_bytes());
        }
        out.u8(u8::from(self.ended));
        let base = self.ready.levels().next().map(|(_, level)| level);
        out.u64(base.map_or(1, Level::next_seq));
        for total in self.totals.to_array() {
            out.u64(total);
        }
        out.count(self.ended_sessions.len());
        for session in &self.ended_sessions {
            out.session(*session);
        }
        base.into_iter().for_each(|level| write_level(level, &mut out));

        // By slot: the place in the order of the snapshot.
        let mut session_at = std::collections::BTreeMap::new();
        out.count(self.slots.len());
        for ((id, slot), at) in self.slots.iter().zip(0..) {
            session_at.insert(*slot, at);
            out.session(*id);
            out.u64(self.sessions[*slot].last_seq);
        }
        let mut consumer_at = std::collections::BTreeMap::from([(Held::GET, Held::GET)]);
        let consumers = self.consumers.in_order();
        out.count(consumers.len());
        for ((slot, consumer), at) in consumers.iter().zip(0..) {
            consumer_at.insert(*slot, at);
            out.u32(session_at[&consumer.session]);
            out.u8(u8::from(consumer.cancelled));
            out.u64(consumer.last_id);
            out.u64(consumer.written);
            let attach = consumer.attach.encode_to_vec();
            out.count(attach.len());
            out.bytes(&attach);
        }
        out.u64(self.held.len() as u64);
        for (seq, held) in self.held.iter() {
            out.u64(seq);
            out.place(held.place);
            out.u64(held.delivery);
            out.u32(session_at[&held.session]);
            out.u32(consumer_at[&held.consumer]);
            out.u32(held.acquired);
            out.u32(held.failed);
        }
        out.count(self.consumers.turns_len());
        for slot in self.consumers.turns() {
            out.u32(consumer_at[&slot]);
        }
        self.write_sections(&mut out, &session_at, &consumer_at);
        out.finish()
    }

    /// The state that [`QueueMachine::snapshot`] described. The freed entries that nobody took are not part of it.
    pub fn restore(config: Config, chunks: &[Bytes]) -> std::result::Result<Self, Error> {
        let mut reader = Reader {
            chunks: chunks.iter(),
            rest: &[],
        };
        let format = u16::from_le_bytes(reader.array()?);
        if !(FORMAT_FIRST..=FORMAT).contains(&format) {
            return Err(Error::Format(format));
        }
        let mut machine = Self::new(config);
        if format > FORMAT_PLAIN {
            machine.version = u16::from_le_bytes(reader.array()?);
            machine.now_ms = reader.u64()?;
            if machine.version > version::LATEST {
                return Err(Error::Version(machine.version));
            }
        }
        machine.ended = reader.flag()?;
        machine.read_ready(&mut reader, format)?;
        let sessions = machine.read_sessions(&mut reader)?;
        let consumers = machine.read_consumers(&mut reader, &sessions)?;
        machine.read_held(&mut reader, &sessions, &consumers)?;
        let mut turns = Vec::new();
        for _ in 0..reader.u32()? {
            turns.push(*consumers.get(reader.u32()? as usize).ok_or(Error::Invalid("turn"))?);
        }
        let mut active = None;
        if format > FORMAT_FIRST {
            active = machine.read_sections(&mut reader, &sessions, &consumers)?;
        } else if let Some(first) = machine.consumers.first() {
            // Who comes first was no question then.
            active = Some(first);
            turns.retain(|turn| *turn == first);
        }
        if !reader.at_end() {
            return Err(Error::Invalid("end"));
        }
        if !machine.consumers.restore_active(active) {
            return Err(Error::Invalid("active consumer"));
        }
        if !turns.into_iter().all(|turn| machine.consumers.restore_turn(turn)) {
            return Err(Error::Invalid("turn"));
        }
        machine.check_restored(&consumers)?;
        Ok(machine)
    }

    fn read_ready(&mut self, reader: &mut Reader<'_>, format: u16) -> Result<()> {
        let next_seq = reader.u64()?;
        let mut totals = [0; 10];
        for total in &mut totals {
            *total = reader.u64()?;
        }
        self.totals = Totals::from_array(totals);
        let ended_sessions = reader.u32()?;
        if ended_sessions as usize > ENDED_SESSIONS_MAX {
            return Err(Error::Invalid("ended sessions"));
        }
        for _ in 0..ended_sessions {
            self.ended_sessions.push_back(reader.session()?);
        }
        let base_priority = self.config.base_priority();
        self.read_level(reader, base_priority, next_seq, format > FORMAT_FIRST)
    }

    /// What waits with one priority.
    fn read_level(&mut self, reader: &mut Reader<'_>, priority: u8, next_seq: u64, gaps: bool) -> Result<()> {
        const INVALID: Error = Error::Invalid("entry");
        let mut left = reader.u64()?;
        let fresh_first = next_seq.checked_sub(left).ok_or(Error::Invalid("numbers"))?;
        if !self.ready.restore_level(priority, fresh_first) {
            return Err(Error::Invalid("numbers"));
        }
        let mut last_index = None;
        // There is at least one message, of so many bytes, for each that is gone, or nearly.
        let mut gone_max = reader.left();
        let mut was_gone = false;
        while left > 0 {
            let (index, messages) = (reader.u64()?, reader.u32()?);
            if messages == 0 {
                return Err(INVALID);
            }
            left = left.checked_sub(u64::from(messages)).ok_or(INVALID)?;
            if gaps && index == 0 {
                gone_max = gone_max.checked_sub(messages as usize).ok_or(INVALID)?;
                for _ in 0..messages {
                    if was_gone || !self.ready.restore_gone(priority) {
                        return Err(INVALID);
                    }
                }
                was_gone = true;
                continue;
            }
            // What is gone may have been in the middle of an entry.
            if last_index >= Some(index.saturating_add(u64::from(was_gone))) {
                return Err(INVALID);
            }
            last_index = Some(index);
            was_gone = false;
            for _ in 0..messages {
                let place = Place {
                    index,
                    offset: reader.u32()?,
                    len: reader.u32()?,
                };
                self.ready.push(place, Some(priority));
            }
            self.entries.restore(index, messages);
        }
        let mut seqs = Ascending(None);
        for _ in 0..reader.u64()? {
            let seq = reader.u64()?;
            seqs.check(seq, "returned message")?;
            if self.ready.priority(seq) != priority || !self.ready.was_taken(seq) || !self.ready.is_number(seq) {
                return Err(Error::Invalid("returned message"));
            }
            let message = Returned {
                place: reader.place()?,
                acquired: reader.u32()?,
                failed: reader.u32()?,
            };
            self.entries.restore(message.place.index, 1);
            self.ready.put_back(seq, message);
        }
        if !self.ready.is_level_sound(priority) {
            return Err(INVALID);
        }
        Ok(())
    }

    /// The sessions' slots in the order of the snapshot.
    fn read_sessions(&mut self, reader: &mut Reader<'_>) -> Result<Vec<u32>> {
        let mut slots = Vec::new();
        let mut ids = Ascending(None);
        for _ in 0..reader.u32()? {
            let (id, last_seq) = (reader.session()?, reader.u64()?);
            ids.check(id, "session")?;
            let slot = self.sessions.insert(Session {
                id,
                last_seq,
                held: 0,
                refused: Vec::new(),
                consumers: Default::default(),
            });
            self.slots.insert(id, slot);
            slots.push(slot);
        }
        Ok(slots)
    }

    /// The consumers' slots in the order of the snapshot.
    fn read_consumers(&mut self, reader: &mut Reader<'_>, sessions: &[u32]) -> Result<Vec<u32>> {
        const INVALID: Error = Error::Invalid("consumer");
        let mut slots = Vec::new();
        for _ in 0..reader.u32()? {
            let session = *sessions.get(reader.u32()? as usize).ok_or(INVALID)?;
            let (cancelled, last_id, written) = (reader.flag()?, reader.u64()?, reader.u64()?);
            let attach = Attach::decode(&*reader.blob()?).map_err(|_| INVALID)?;
            let number = attach.consumer;
            if number == 0
                || written > last_id
                || last_id > NUMBER_MAX
                || !(cancelled || self.consumers.admits(attach.exclusive))
            {
                return Err(INVALID);
            }
            let mut consumer = Consumer::new(session, attach);
            (consumer.last_id, consumer.written, consumer.cancelled) = (last_id, written, cancelled);
            let slot = self.consumers.restore(consumer);
            if self.sessions[session].consumers.insert(number, slot).is_some() {
                return Err(INVALID);
            }
            slots.push(slot);
        }
        Ok(slots)
    }

    fn read_held(&mut self, reader: &mut Reader<'_>, sessions: &[u32], consumers: &[u32]) -> Result<()> {
        const INVALID: Error = Error::Invalid("held message");
        let mut seqs = Ascending(Some(0));
        for _ in 0..reader.u64()? {
            let (seq, place, delivery) = (reader.u64()?, reader.place()?, reader.u64()?);
            let (session, consumer) = (reader.u32()?, reader.u32()?);
            let (acquired, failed) = (reader.u32()?, reader.u32()?);
            seqs.check(seq, "held message")?;
            let session = *sessions.get(session as usize).ok_or(INVALID)?;
            let consumer = if consumer == Held::GET {
                Held::GET
            } else {
                let slot = *consumers.get(consumer as usize).ok_or(INVALID)?;
                let consumer = self.consumers.get_mut(slot);
                if consumer.session != session || delivery == 0 || delivery > consumer.last_id {
                    return Err(INVALID);
                }
                consumer.unsettled += 1;
                slot
            };
            self.entries.restore(place.index, 1);
            self.hold(
                seq,
                Held {
                    place,
                    delivery,
                    session,
                    consumer,
                    acquired,
                    failed,
                    since_ms: 0,
                },
            );
        }
        Ok(())
    }

    /// What cannot be said of one record alone.
    fn check_restored(&self, consumers: &[u32]) -> Result<()> {
        for (seq, _) in self.held.iter() {
            if !self.ready.is_number(seq) || !self.ready.was_taken(seq) || self.ready.contains(seq) {
                return Err(Error::Invalid("held message"));
            }
        }
        let consumers = || consumers.iter().map(|slot| self.consumers.get(*slot));
        if consumers().any(|consumer| consumer.unsettled > consumer.last_id) {
            return Err(Error::Invalid("deliveries"));
        }
        if consumers().any(|consumer| consumer.cancelled && consumer.unsettled == 0) {
            return Err(Error::Invalid("cancelled consumer"));
        }
        if consumers().filter(|consumer| consumer.has_credit()).count() != self.consumers.turns_len() {
            return Err(Error::Invalid("turns"));
        }
        if self.consumers.any_credit() && !self.ready.is_empty() {
            return Err(Error::Invalid("waiting messages"));
        }
        let is_empty = self.held.is_empty() && self.ready.is_empty() && self.resting.is_empty() && self.dead.len() == 0;
        if self.ended && (self.consumers.len() > 0 || !is_empty) {
            return Err(Error::Invalid("end of the queue"));
        }
        Ok(())
    }
}

fn write_level(level: &Level, out: &mut Writer) {
    let index = |place: Option<&Place>| place.map_or(0, |place| place.index);
    let mut entries: Vec<(u64, u32)> = Vec::new();
    for place in level.fresh() {
        match entries.last_mut() {
            Some((last, messages)) if *last == index(place) => *messages += 1,
            _ => entries.push((index(place), 1)),
        }
    }
    out.u64(level.fresh_span() as u64);
    let mut fresh = level.fresh();
    for (index, messages) in entries {
        out.u64(index);
        out.u32(messages);
        for place in fresh.by_ref().take(messages as usize).flatten() {
            out.u32(place.offset);
            out.u32(place.len);
        }
    }
    out.u64(level.returned_len() as u64);
    for (seq, message) in level.returned() {
        out.u64(seq);
        out.place(message.place);
        out.u32(message.acquired);
        out.u32(message.failed);
    }
}
