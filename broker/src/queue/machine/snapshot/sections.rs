//! What only some queues have: each section is there if it would not be empty, in the order of the tags.
//!
//! ```text
//! section  = tag:u8 ...
//! totals   = 1 total:u64*5
//! levels   = 2 levels:u32 (priority:u8 next_seq:u64 messages)*                     ascending
//! facts    = 3 facts:u64 (seq:u64 expires_ms:u64 size:u32)*                        ascending
//! dead     = 4 next:u64 dead:u64 (id:u64 place reason:u8 time_ms:u64)*             ascending
//! refused  = 5 sessions:u32 (session:u32 runs:u32 (first:u64 len:u32)*)*           ascending
//! origins  = 6 queues:u32 (group:u64 floor:u64 index:u64 numbers:u32 id:u64*)*     ascending
//! used     = 7 time_ms:u64
//! late     = 8 late_ms:u64 held:u64 (seq:u64 since_ms:u64)*                        ascending
//! active   = 9 consumer:u32
//! config   = 10 len:u32 queue.Configure
//! resting  = 11 messages:u64 (seq:u64 until_ms:u64 place acquired:u32 failed:u32
//!                             expires_ms:u64 size:u32)*                            ascending
//! keys     = 12 messages:u64 (seq:u64 key:u128)*                                   ascending
//! stream   = 13 next:u64 segment:u64 segment_bytes:u64
//!               chunks:u64 (first_index:u64 entries:u64 first_offset:u64 bytes:u64 last_ms:u64)*
//!               passed_over:u64 (index:u64 runs:u32 (first:u64 len:u32)*)*         ascending
//! ```

use std::collections::{BTreeMap, VecDeque};

use prost::Message as _;
use warren_proto::queue::Configure;
use warren_proto::record::Run;

use super::{Ascending, Error, NUMBER_MAX, QueueMachine, Reader, Result, Writer, write_level};
use crate::queue::machine::dead::Graveyard;
use crate::queue::machine::facts::Fact;
use crate::queue::machine::origins::{NUMBERS_MAX, QUEUES_MAX, Seen};
use crate::queue::machine::ready::Returned;
use crate::queue::machine::resting::Rest;
use crate::queue::machine::stream::{Chunk, Stream};
use crate::queue::machine::{Dead, Reason, Totals};

const TOTALS: u8 = 1;
const LEVELS: u8 = 2;
const FACTS: u8 = 3;
const DEAD: u8 = 4;
const REFUSED: u8 = 5;
const ORIGINS: u8 = 6;
const USED: u8 = 7;
const LATE: u8 = 8;
const ACTIVE: u8 = 9;
const CONFIG: u8 = 10;
const RESTING: u8 = 11;
const KEYS: u8 = 12;
const STREAM: u8 = 13;

impl Totals {
    fn later(&self) -> [u64; 5] {
        [
            self.expired,
            self.overflowed,
            self.refused,
            self.dead_lettered,
            self.buried,
        ]
    }

    fn set_later(&mut self, later: [u64; 5]) {
        [
            self.expired,
            self.overflowed,
            self.refused,
            self.dead_lettered,
            self.buried,
        ] = later;
    }
}

impl QueueMachine {
    pub(super) fn write_sections(
        &self,
        out: &mut Writer,
        session_at: &BTreeMap<u32, u32>,
        consumer_at: &BTreeMap<u32, u32>,
    ) {
        if self.totals.later() != [0; 5] {
            out.u8(TOTALS);
            self.totals.later().into_iter().for_each(|total| out.u64(total));
        }
        let levels = || self.ready.levels().skip(1);
        if levels().next().is_some() {
            out.u8(LEVELS);
            out.count(levels().count());
            for (priority, level) in levels() {
                out.u8(priority);
                out.u64(level.next_seq());
                write_level(level, out);
            }
        }
        // Those of resting messages stand with these; keys have a section of their own.
        let facts = || {
            let facts = self.facts.iter().filter(|(seq, _)| !self.resting.contains(*seq));
            facts.filter(|(_, fact)| fact.expires_ms > 0 || fact.size > 0)
        };
        if facts().next().is_some() {
            out.u8(FACTS);
            out.u64(facts().count() as u64);
            for (seq, fact) in facts() {
                out.u64(seq);
                out.u64(fact.expires_ms);
                out.u32(fact.size);
            }
        }
        if self.dead.next() > 1 {
            out.u8(DEAD);
            out.u64(self.dead.next());
            out.u64(self.dead.len() as u64);
            for (id, dead) in self.dead.from(0) {
                out.u64(id);
                out.place(dead.at);
                out.u8(dead.reason as u8);
                out.u64(dead.time_ms);
            }
        }
        let refused = || {
            self.slots
                .values()
                .filter(|slot| !self.sessions[**slot].refused.is_empty())
        };
        if refused().next().is_some() {
            out.u8(REFUSED);
            out.count(refused().count());
            for slot in refused() {
                out.u32(session_at[slot]);
                let runs = &self.sessions[*slot].refused;
                out.count(runs.len());
                for run in runs {
                    out.u64(run.first);
                    out.u32(run.len);
                }
            }
        }
        if self.origins.len() > 0 {
            out.u8(ORIGINS);
            out.count(self.origins.len());
            for (group, seen) in self.origins.iter() {
                out.u64(group);
                out.u64(seen.floor);
                out.u64(seen.index);
                out.count(seen.numbers.len());
                seen.numbers.iter().for_each(|id| out.u64(*id));
            }
        }
        if self.used_ms > 0 {
            out.u8(USED);
            out.u64(self.used_ms);
        }
        if self.late_ms > 0 {
            out.u8(LATE);
            out.u64(self.late_ms);
            let since = || self.held.iter().filter(|(_, held)| held.since_ms > 0);
            out.u64(since().count() as u64);
            for (seq, held) in since() {
                out.u64(seq);
                out.u64(held.since_ms);
            }
        }
        if let Some(active) = self.consumers.active() {
            out.u8(ACTIVE);
            out.u32(consumer_at[&active]);
        }
        if self.config_version > 0 {
            out.u8(CONFIG);
            let configure = self.config.to_proto(self.config_version).encode_to_vec();
            out.count(configure.len());
            out.bytes(&configure);
        }
        if !self.resting.is_empty() {
            out.u8(RESTING);
            out.u64(self.resting.len() as u64);
            for (seq, Rest { until_ms, message }) in self.resting.iter() {
                out.u64(seq);
                out.u64(*until_ms);
                out.place(message.place);
                out.u32(message.acquired);
                out.u32(message.failed);
                let fact = self.facts.get(seq);
                out.u64(fact.expires_ms);
                out.u32(fact.size);
            }
        }
        if self.facts.keys_len() > 0 {
            out.u8(KEYS);
            out.u64(self.facts.keys_len() as u64);
            for (seq, fact) in self.facts.iter().filter(|(_, fact)| fact.key > 0) {
                out.u64(seq);
                out.bytes(&fact.key.to_le_bytes());
            }
        }
        if let Some(stream) = &self.stream {
            write_stream(stream, out);
        }
    }

    /// The slot of the active consumer.
    pub(super) fn read_sections(
        &mut self,
        reader: &mut Reader<'_>,
        sessions: &[u32],
        consumers: &[u32],
    ) -> Result<Option<u32>> {
        let mut active = None;
        let mut tags = Ascending(None);
        while !reader.at_end() {
            let [tag] = reader.array()?;
            tags.check(tag, "section")?;
            match tag {
                TOTALS => {
                    let mut later = [0; 5];
                    for total in &mut later {
                        *total = reader.u64()?;
                    }
                    self.totals.set_later(later);
                }
                LEVELS => self.read_levels(reader)?,
                FACTS => self.read_facts(reader)?,
                DEAD => self.read_dead(reader)?,
                REFUSED => self.read_refused(reader, sessions)?,
                ORIGINS => self.read_origins(reader)?,
                USED => self.used_ms = reader.u64()?,
                LATE => self.read_late(reader)?,
                ACTIVE => {
                    let consumer = consumers.get(reader.u32()? as usize);
                    active = Some(*consumer.ok_or(Error::Invalid("active consumer"))?);
                }
                CONFIG => {
                    let configure = Configure::decode(&*reader.blob()?).map_err(|_| Error::Invalid("settings"))?;
                    if configure.version == 0 {
                        return Err(Error::Invalid("settings"));
                    }
                    self.config = self.config.changed_by(&configure);
                    self.config_version = configure.version;
                }
                RESTING => self.read_resting(reader)?,
                KEYS => self.read_keys(reader)?,
                STREAM if self.stream.is_some() => self.stream = Some(Box::new(read_stream(reader)?)),
                _ => return Err(Error::Invalid("section")),
            }
        }
        Ok(active)
    }

    fn read_levels(&mut self, reader: &mut Reader<'_>) -> Result<()> {
        let mut priorities = Ascending(None);
        for _ in 0..reader.u32()? {
            let [priority] = reader.array()?;
            priorities.check(priority, "level")?;
            if priority == self.config.base_priority() {
                return Err(Error::Invalid("level"));
            }
            let next_seq = reader.u64()?;
            self.read_level(reader, priority, next_seq, true)?;
        }
        Ok(())
    }

    fn read_facts(&mut self, reader: &mut Reader<'_>) -> Result<()> {
        let mut seqs = Ascending(Some(0));
        for _ in 0..reader.u64()? {
            let seq = reader.u64()?;
            let fact = Fact {
                expires_ms: reader.u64()?,
                size: reader.u32()?,
                key: 0,
            };
            seqs.check(seq, "fact")?;
            let is_ready = self.ready.contains(seq);
            if fact == Fact::default() || !(is_ready || self.held.get(seq).is_some()) {
                return Err(Error::Invalid("fact"));
            }
            self.facts.add(seq, fact);
            if is_ready {
                self.facts.joins(seq);
            }
        }
        Ok(())
    }

    fn read_resting(&mut self, reader: &mut Reader<'_>) -> Result<()> {
        const INVALID: Error = Error::Invalid("resting message");
        let mut seqs = Ascending(Some(0));
        for _ in 0..reader.u64()? {
            let (seq, until_ms, place) = (reader.u64()?, reader.u64()?, reader.place()?);
            let (acquired, failed) = (reader.u32()?, reader.u32()?);
            let fact = Fact {
                expires_ms: reader.u64()?,
                size: reader.u32()?,
                key: 0,
            };
            seqs.check(seq, "resting message")?;
            let was_taken = self.ready.is_number(seq) && self.ready.was_taken(seq);
            if !was_taken || self.ready.contains(seq) || self.held.get(seq).is_some() {
                return Err(INVALID);
            }
            let message = Returned {
                place,
                acquired,
                failed,
            };
            self.resting.insert(seq, Rest { until_ms, message });
            self.facts.add(seq, fact);
            self.entries.restore(place.index, 1);
        }
        Ok(())
    }

    fn read_keys(&mut self, reader: &mut Reader<'_>) -> Result<()> {
        let mut seqs = Ascending(Some(0));
        for _ in 0..reader.u64()? {
            let (seq, key) = (reader.u64()?, u128::from_le_bytes(reader.array()?));
            seqs.check(seq, "key")?;
            let is_here = self.ready.contains(seq) || self.held.get(seq).is_some() || self.resting.contains(seq);
            if !is_here || !self.facts.restore_key(seq, key) {
                return Err(Error::Invalid("key"));
            }
        }
        Ok(())
    }

    fn read_dead(&mut self, reader: &mut Reader<'_>) -> Result<()> {
        let next = reader.u64()?;
        if next > NUMBER_MAX {
            return Err(Error::Invalid("dead letters"));
        }
        self.dead = Graveyard::with_next(next);
        let mut ids = Ascending(Some(0));
        for _ in 0..reader.u64()? {
            let (id, at) = (reader.u64()?, reader.place()?);
            let ([reason], time_ms) = (reader.array()?, reader.u64()?);
            ids.check(id, "dead letters")?;
            let reason = Reason::decode(reason).ok_or(Error::Invalid("reason of death"))?;
            if !self.dead.restore(id, Dead { at, reason, time_ms }) {
                return Err(Error::Invalid("dead letters"));
            }
            self.entries.restore(at.index, 1);
        }
        Ok(())
    }

    fn read_refused(&mut self, reader: &mut Reader<'_>, sessions: &[u32]) -> Result<()> {
        const INVALID: Error = Error::Invalid("refused publishes");
        let mut order = Ascending(None);
        for _ in 0..reader.u32()? {
            let at = reader.u32()?;
            order.check(at, "refused publishes")?;
            let slot = *sessions.get(at as usize).ok_or(INVALID)?;
            let mut next = 0;
            for _ in 0..reader.u32()? {
                let run = Run {
                    first: reader.u64()?,
                    len: reader.u32()?,
                };
                if run.len == 0 || run.first <= next || run.first > NUMBER_MAX {
                    return Err(INVALID);
                }
                next = run.first + u64::from(run.len) - 1;
                self.sessions[slot].refused.push(run);
            }
            if next == 0 {
                return Err(INVALID);
            }
        }
        Ok(())
    }

    fn read_origins(&mut self, reader: &mut Reader<'_>) -> Result<()> {
        const INVALID: Error = Error::Invalid("origins");
        let queues = reader.u32()?;
        if queues as usize > QUEUES_MAX {
            return Err(INVALID);
        }
        let mut groups = Ascending(None);
        for _ in 0..queues {
            let group = reader.u64()?;
            groups.check(group, "origins")?;
            let (floor, index) = (reader.u64()?, reader.u64()?);
            let numbers = reader.u32()?;
            if numbers as usize > NUMBERS_MAX {
                return Err(INVALID);
            }
            let mut seen = Seen {
                floor,
                index,
                ..Seen::default()
            };
            let mut ids = Ascending(None);
            for _ in 0..numbers {
                let id = reader.u64()?;
                ids.check(id, "origins")?;
                seen.numbers.insert(id);
            }
            self.origins.restore(group, seen);
        }
        Ok(())
    }

    fn read_late(&mut self, reader: &mut Reader<'_>) -> Result<()> {
        const INVALID: Error = Error::Invalid("time of a delivery");
        self.late_ms = reader.u64()?;
        let mut seqs = Ascending(Some(0));
        for _ in 0..reader.u64()? {
            let (seq, since_ms) = (reader.u64()?, reader.u64()?);
            seqs.check(seq, "time of a delivery")?;
            let held = self.held.get_mut(seq).ok_or(INVALID)?;
            if held.consumer == super::Held::GET || since_ms == 0 {
                return Err(INVALID);
            }
            held.since_ms = since_ms;
        }
        Ok(())
    }
}

fn write_stream(stream: &Stream, out: &mut Writer) {
    let (segment, segment_bytes, chunks, passed_over) = stream.parts();
    out.u8(STREAM);
    out.u64(stream.next());
    out.u64(segment);
    out.u64(segment_bytes);
    out.u64(chunks.len() as u64);
    for chunk in chunks {
        out.u64(chunk.first_index);
        out.u64(chunk.entries);
        out.u64(chunk.first_offset);
        out.u64(chunk.bytes);
        out.u64(chunk.last_ms);
    }
    out.u64(passed_over.len() as u64);
    for (index, runs) in passed_over {
        out.u64(*index);
        out.count(runs.len());
        for run in runs {
            out.u64(run.first);
            out.u32(run.len);
        }
    }
}

fn read_stream(reader: &mut Reader<'_>) -> Result<Stream> {
    const INVALID: Error = Error::Invalid("stream");
    let next = reader.u64()?;
    let segment = (reader.u64()?, reader.u64()?);
    let mut chunks = VecDeque::new();
    for _ in 0..reader.u64()? {
        chunks.push_back(Chunk {
            first_index: reader.u64()?,
            entries: reader.u64()?,
            first_offset: reader.u64()?,
            bytes: reader.u64()?,
            last_ms: reader.u64()?,
        });
    }
    let mut passed_over = BTreeMap::new();
    for _ in 0..reader.u64()? {
        let index = reader.u64()?;
        let mut runs: Vec<Run> = Vec::new();
        for _ in 0..reader.u32()? {
            let run = Run {
                first: reader.u64()?,
                len: reader.u32()?,
            };
            let behind = runs.last().map_or(0, |last| last.first + u64::from(last.len));
            if run.first < behind || run.len == 0 || run.first > NUMBER_MAX {
                return Err(INVALID);
            }
            runs.push(run);
        }
        if runs.is_empty() || passed_over.insert(index, runs).is_some() {
            return Err(INVALID);
        }
    }
    if next > NUMBER_MAX {
        return Err(INVALID);
    }
    Stream::restore(next, segment, chunks, passed_over).ok_or(INVALID)
}
