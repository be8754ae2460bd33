//! The machine's state as bytes: everything but the messages' bodies. Two machines in the same state give the
//! same bytes. All integers are little-endian.
//!
//! ```text
//! snapshot = format:u16 ended:u8 next_seq:u64 total:u64*10
//!            ended_sessions:u32 session*
//!            fresh:u64 (index:u64 messages:u32 (offset:u32 len:u32)*)*             by entry, in order
//!            returned:u64 (seq:u64 place acquired:u32 failed:u32)*                 ascending
//!            sessions:u32 (session last_seq:u64)*                                  ascending
//!            consumers:u32 (session:u32 cancelled:u8 last_id:u64 written:u64
//!                           len:u32 queue.Attach)*                                 in the order of attachment
//!            held:u64 (seq:u64 place delivery:u64 session:u32 consumer:u32
//!                      acquired:u32 failed:u32)*                                   ascending
//!            turns:u32 consumer:u32*                                               next first
//! session  = node:u64 incarnation:u64 id:u64
//! place    = index:u64 offset:u32 len:u32
//! ```
//!
//! Sessions and consumers are named by their place in this order; consumer 0xffff_ffff is a get.
//! Chunks are cut anywhere.

use bytes::Bytes;
use prost::Message as _;
use warren_proto::queue::Attach;
use warren_proto::record::SessionId;

use super::consumers::Consumer;
use super::ready::{Ready, Returned};
use super::{Config, ENDED_SESSIONS_MAX, Held, Place, QueueMachine, Session, Totals};

const FORMAT: u16 = 1;
const CHUNK_LEN_MAX: usize = 1 << 20;
/// No counter comes near this, so what is counted on from a snapshot does not overflow.
const NUMBER_MAX: u64 = u64::MAX / 2;

/// Bytes that are not a snapshot of a queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Written by a build that knows more than this one, or not a queue's snapshot.
    #[error("queue snapshot has unknown format {0}")]
    Format(u16),
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
        let there: usize = self.rest.len() + self.chunks.as_slice().iter().map(Bytes::len).sum::<usize>();
        if len > there {
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
        out.bytes(&FORMAT.to_le_bytes());
        out.u8(u8::from(self.ended));
        out.u64(self.ready.next_seq());
        for total in self.totals.to_array() {
            out.u64(total);
        }
        out.count(self.ended_sessions.len());
        for session in &self.ended_sessions {
            out.session(*session);
        }
        self.write_ready(&mut out);

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
        out.finish()
    }

    fn write_ready(&self, out: &mut Writer) {
        let mut entries: Vec<(u64, u32)> = Vec::new();
        for place in self.ready.fresh() {
            match entries.last_mut() {
                Some((index, messages)) if *index == place.index => *messages += 1,
                _ => entries.push((place.index, 1)),
            }
        }
        out.u64(self.ready.fresh_len() as u64);
        let mut fresh = self.ready.fresh();
        for (index, messages) in entries {
            out.u64(index);
            out.u32(messages);
            for place in fresh.by_ref().take(messages as usize) {
                out.u32(place.offset);
                out.u32(place.len);
            }
        }
        out.u64(self.ready.returned_len() as u64);
        for (seq, message) in self.ready.returned() {
            out.u64(seq);
            out.place(message.place);
            out.u32(message.acquired);
            out.u32(message.failed);
        }
    }

    /// The state that [`QueueMachine::snapshot`] described. The freed entries that nobody took are not part of it.
    pub fn restore(config: Config, chunks: &[Bytes]) -> std::result::Result<Self, Error> {
        let mut reader = Reader {
            chunks: chunks.iter(),
            rest: &[],
        };
        let format = u16::from_le_bytes(reader.array()?);
        if format != FORMAT {
            return Err(Error::Format(format));
        }
        let mut machine = Self::new(config);
        machine.ended = reader.flag()?;
        machine.read_ready(&mut reader)?;
        let sessions = machine.read_sessions(&mut reader)?;
        let consumers = machine.read_consumers(&mut reader, &sessions)?;
        machine.read_held(&mut reader, &sessions, &consumers)?;
        for _ in 0..reader.u32()? {
            let consumer = consumers.get(reader.u32()? as usize).ok_or(Error::Invalid("turn"))?;
            if !machine.consumers.restore_turn(*consumer) {
                return Err(Error::Invalid("turn"));
            }
        }
        if !reader.at_end() {
            return Err(Error::Invalid("end"));
        }
        machine.check_restored(&consumers)?;
        Ok(machine)
    }

    fn read_ready(&mut self, reader: &mut Reader<'_>) -> Result<()> {
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
        let mut left = reader.u64()?;
        // Numbers start at 1.
        let fresh_first = next_seq
            .checked_sub(left)
            .filter(|first| (1..NUMBER_MAX).contains(first))
            .ok_or(Error::Invalid("numbers"))?;
        self.ready = Ready::new(fresh_first);
        let mut indexes = Ascending(None);
        while left > 0 {
            let (index, messages) = (reader.u64()?, reader.u32()?);
            indexes.check(index, "entry")?;
            if messages == 0 {
                return Err(Error::Invalid("entry"));
            }
            left = left.checked_sub(u64::from(messages)).ok_or(Error::Invalid("entry"))?;
            for _ in 0..messages {
                self.ready.push(Place {
                    index,
                    offset: reader.u32()?,
                    len: reader.u32()?,
                });
            }
            self.entries.restore(index, messages);
        }
        let mut seqs = Ascending(Some(0));
        for _ in 0..reader.u64()? {
            let seq = reader.u64()?;
            seqs.check(seq, "returned message")?;
            if seq >= fresh_first {
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
            if seq >= self.ready.fresh_first() || self.ready.has_returned(seq) {
                return Err(INVALID);
            }
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
                },
            );
        }
        Ok(())
    }

    /// What cannot be said of one record alone.
    fn check_restored(&self, consumers: &[u32]) -> Result<()> {
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
        if self.ended && (self.consumers.len() > 0 || !self.held.is_empty() || !self.ready.is_empty()) {
            return Err(Error::Invalid("end of the queue"));
        }
        Ok(())
    }
}
