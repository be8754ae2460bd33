//! A stream: messages that stay when they were read, each under an offset of its own, until retention drops the oldest.
//!
//! A message is not remembered by itself. What is, is which log entries hold messages, and which offset the first of some
//! entries has: whoever reads finds the others by reading on. So a stream of any depth costs little memory, the less the
//! more messages one entry holds.
//!
//! ```text
//!   offsets  first ............................................ segment ............... next
//!            [ chunk: up to 64 log indexes, about 1 MiB ][ chunk ][ chunk ][ chunk ]
//!            '-- may go, one chunk at a time ------------'        '-- stays whatever the limits ---'
//! ```
//!
//! Retention is RabbitMQ's, but finer: the segment that is being written stays whole; before it a chunk goes as soon as
//! all of it is too old, or as what comes after it is as much as the stream may hold.

use std::collections::{BTreeMap, VecDeque};
use std::ops::Range;

use warren_proto::queue::{StreamFrom, stream_from::At};
use warren_proto::record::{Run, publishes};

use super::{Config, Place};

/// Log indexes that one chunk spans at most: it has a bit for each.
const CHUNK_SPAN: u64 = u64::BITS as u64;
/// A chunk of so many bytes takes no further entry.
const CHUNK_BYTES: u64 = 1 << 20;
/// Bytes after which a new segment begins, where the stream does not say.
const SEGMENT_BYTES: u64 = 500_000_000;

/// Some consecutive messages.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Chunk {
    /// The log entry that holds its first message.
    pub(super) first_index: u64,
    /// Bit `n`: the entry at `first_index + n` holds messages of it. Bit 0 is set.
    pub(super) entries: u64,
    /// The offset of its first message.
    pub(super) first_offset: u64,
    /// Publish payload bytes.
    pub(super) bytes: u64,
    /// The time of its last entry; at least that of the chunk before.
    pub(super) last_ms: u64,
}

impl Chunk {
    /// Whether the entry at `index`, which is a later one, may join it.
    fn takes(&self, index: u64) -> bool {
        let span = index.checked_sub(self.first_index);
        span.is_some_and(|span| span < CHUNK_SPAN) && self.bytes < CHUNK_BYTES
    }

    fn holds(&self, index: u64) -> bool {
        let bit = index.checked_sub(self.first_index);
        bit.is_some_and(|bit| bit < CHUNK_SPAN && self.entries & (1 << bit) != 0)
    }

    /// Ascending ranges of the entries that hold messages of it.
    fn ranges(self) -> impl Iterator<Item = Range<u64>> {
        let mut left = self.entries;
        std::iter::from_fn(move || {
            let first = (left != 0).then(|| left.trailing_zeros())?;
            let len = (left >> first).trailing_ones();
            left &= u64::MAX.checked_shl(first + len).unwrap_or(0);
            let start = self.first_index + u64::from(first);
            Some(start..start + u64::from(len))
        })
    }

    fn indexes(self) -> impl Iterator<Item = u64> {
        self.ranges().flatten()
    }

    /// Behind the last entry that holds messages of it.
    fn end_index(&self) -> u64 {
        self.first_index + (CHUNK_SPAN - u64::from(self.entries.leading_zeros()))
    }
}

/// Messages that retention has dropped.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Dropped {
    /// They were too old.
    pub(super) late: u64,
    /// They were more than the stream may hold.
    pub(super) too_much: u64,
}

/// The entry that is being applied.
#[derive(Clone, Debug, Default)]
struct Open {
    index: u64,
    /// Where its messages that were taken are, ascending.
    taken: Vec<u32>,
    bytes: u64,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub struct Stream {
    /// Ascending.
    chunks: VecDeque<Chunk>,
    /// The offset of the next message.
    next: u64,
    /// Bytes of all messages.
    bytes: u64,
    /// The offset at which the segment begins that is being written.
    segment: u64,
    /// Bytes of that segment.
    segment_bytes: u64,
    /// Entries that hold publishes that were not taken: which, counted from 0 in the order of [`publishes`].
    passed_over: BTreeMap<u64, Vec<Run>>,
    open: Open,
    freed: Vec<u64>,
}

impl Stream {
    /// The offset of the first message that is still there; [`Stream::next`] without any.
    pub fn first(&self) -> u64 {
        self.chunks
            .front()
            .map_or(self.next - self.open.taken.len() as u64, |chunk| chunk.first_offset)
    }

    /// The offset that the next message will have.
    pub fn next(&self) -> u64 {
        self.next
    }

    /// Messages that are there.
    pub fn len(&self) -> u64 {
        self.next - self.first()
    }

    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// Publish payload bytes of all messages.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn open(&mut self, index: u64) {
        self.open.index = index;
    }

    /// Adds a message of the open entry.
    #[inline]
    pub(super) fn append(&mut self, place: Place) {
        self.open.taken.push(place.offset);
        self.open.bytes += u64::from(place.len);
        self.next += 1;
    }

    /// The entry is applied; `payload` is all of it. Lets go of what may not stay.
    pub(super) fn close(&mut self, payload: &[u8], config: &Config, now_ms: u64) -> Dropped {
        if !self.open.taken.is_empty() {
            self.add_entry(payload, config, now_ms);
        }
        self.retain(config, now_ms)
    }

    fn add_entry(&mut self, payload: &[u8], config: &Config, now_ms: u64) {
        let index = self.open.index;
        let mut taken = self.open.taken.iter().peekable();
        let mut passed_over = Vec::new();
        for ((offset, _), at) in publishes(payload).zip(0..) {
            if taken.next_if_eq(&&offset).is_none() {
                Run::push(&mut passed_over, at);
            }
        }
        assert!(
            taken.next().is_none(),
            "entry {index} does not hold what was taken of it"
        );
        if !passed_over.is_empty() {
            self.passed_over.insert(index, passed_over);
        }
        let bytes = std::mem::take(&mut self.open.bytes);
        let first_offset = self.next - self.open.taken.len() as u64;
        self.open.taken.clear();
        let rolls = self.segment_bytes >= config.segment_bytes.unwrap_or(SEGMENT_BYTES);
        if rolls {
            (self.segment, self.segment_bytes) = (first_offset, 0);
        }
        self.segment_bytes += bytes;
        self.bytes += bytes;
        let last_ms = self.chunks.back().map_or(now_ms, |chunk| chunk.last_ms.max(now_ms));
        match self.chunks.back_mut() {
            Some(chunk) if !rolls && chunk.takes(index) => {
                chunk.entries |= 1 << (index - chunk.first_index);
                chunk.bytes += bytes;
                chunk.last_ms = last_ms;
            }
            _ => self.chunks.push_back(Chunk {
                first_index: index,
                entries: 1,
                first_offset,
                bytes,
                last_ms,
            }),
        }
    }

    fn retain(&mut self, config: &Config, now_ms: u64) -> Dropped {
        let mut dropped = Dropped::default();
        while let Some(chunk) = self.chunks.front()
            && chunk.first_offset < self.segment
        {
            let is_late = config
                .age_max_ms
                .is_some_and(|age_ms| chunk.last_ms.saturating_add(age_ms) <= now_ms);
            let is_too_much = config.bytes_max.is_some_and(|max| self.bytes - chunk.bytes >= max);
            let first = chunk.first_offset;
            let count = match (is_late, is_too_much) {
                (true, _) => &mut dropped.late,
                (false, true) => &mut dropped.too_much,
                (false, false) => break,
            };
            self.drop_first();
            *count += self.first() - first;
        }
        dropped
    }

    fn drop_first(&mut self) {
        let Some(chunk) = self.chunks.pop_front() else { return };
        self.bytes -= chunk.bytes;
        self.freed.extend(chunk.indexes());
        while let Some(first) = self.passed_over.first_entry()
            && *first.key() < chunk.end_index()
        {
            first.remove();
        }
        if self.chunks.len() * 4 < self.chunks.capacity() {
            self.chunks.shrink_to(self.chunks.len() * 2);
        }
    }

    /// When the next messages become too old, in milliseconds since 1970.
    pub(super) fn first_due(&self, config: &Config) -> Option<u64> {
        let chunk = self.chunks.front().filter(|chunk| chunk.first_offset < self.segment)?;
        chunk.last_ms.checked_add(config.age_max_ms?)
    }

    /// Drops everything.
    pub(super) fn clear(&mut self) {
        while !self.chunks.is_empty() {
            self.drop_first();
        }
        self.open = Open {
            index: self.open.index,
            ..Open::default()
        };
        self.segment = self.next;
        self.segment_bytes = 0;
    }

    /// Where a reader that wants to begin there does.
    pub(super) fn resolve(&self, from: Option<&StreamFrom>, now_ms: u64) -> StreamFrom {
        let mut not_before_ms = 0;
        let mut not_before = |time_ms: u64| {
            let at = self.chunks.partition_point(|chunk| chunk.last_ms < time_ms);
            match self.chunks.get(at) {
                Some(chunk) => {
                    not_before_ms = time_ms;
                    chunk.first_offset
                }
                // Those of the open entry are of now.
                None if time_ms <= now_ms => self.next - self.open.taken.len() as u64,
                None => self.next,
            }
        };
        let offset = match from.and_then(|from| from.at) {
            None | Some(At::Next(_)) => self.next,
            Some(At::First(_)) => self.first(),
            Some(At::Last(_)) => self.next.saturating_sub(1).max(self.first()),
            Some(At::Offset(offset)) => offset.max(self.first()),
            Some(At::TimeMs(time_ms)) => not_before(time_ms),
            Some(At::AgeMs(age_ms)) => not_before(now_ms.saturating_sub(age_ms)),
        };
        StreamFrom {
            at: Some(At::Offset(offset)),
            not_before_ms,
        }
    }

    fn chunk_of_index(&self, index: u64) -> Option<usize> {
        self.chunks
            .partition_point(|chunk| chunk.first_index <= index)
            .checked_sub(1)
    }

    /// Whether the log entry at `index` holds a message that is there.
    pub(super) fn is_live(&self, index: u64) -> bool {
        self.chunk_of_index(index)
            .is_some_and(|at| self.chunks[at].holds(index))
    }

    /// The log entries that hold messages that are there, ascending.
    pub(super) fn live(&self) -> impl Iterator<Item = Range<u64>> {
        self.chunks.iter().flat_map(|chunk| chunk.ranges())
    }

    pub(super) fn take_freed(&mut self, out: &mut Vec<u64>) {
        out.append(&mut self.freed);
    }

    /// A log entry before or at the message with that offset, and the offset of that entry's first message: the message
    /// is found there or by [`Stream::entry_after`]. `None` unless it is there.
    pub fn entry_before(&self, offset: u64) -> Option<(u64, u64)> {
        if offset < self.first() || offset >= self.next {
            return None;
        }
        let at = self.chunks.partition_point(|chunk| chunk.first_offset <= offset);
        let chunk = self.chunks.get(at.checked_sub(1)?)?;
        Some((chunk.first_index, chunk.first_offset))
    }

    /// The next log entry with messages after the one at `index`, which need not be there any more.
    pub fn entry_after(&self, index: u64) -> Option<u64> {
        let at = self.chunk_of_index(index).unwrap_or(0);
        let mut indexes = self.chunks.range(at..).flat_map(|chunk| chunk.indexes());
        indexes.find(|next| *next > index)
    }

    /// The offset of the first message that is found without the entries around the message at `offset`.
    pub fn chunk_after(&self, offset: u64) -> u64 {
        let at = self.chunks.partition_point(|chunk| chunk.first_offset <= offset);
        self.chunks.get(at).map_or(self.next, |chunk| chunk.first_offset)
    }

    /// Where the messages of the log entry at `index` are in its payload, in the order of their offsets.
    pub fn places(&self, index: u64, payload: &[u8]) -> Vec<(u32, u32)> {
        let Some(passed_over) = self.passed_over.get(&index) else {
            return publishes(payload).collect();
        };
        let is_taken = |at: u64| {
            let before = passed_over.partition_point(|run| run.first <= at);
            let run = before.checked_sub(1).map(|last| passed_over[last]);
            run.is_none_or(|run| at - run.first >= u64::from(run.len))
        };
        let places = publishes(payload).zip(0..).filter(|(_, at)| is_taken(*at));
        places.map(|(place, _)| place).collect()
    }

    /// What a snapshot holds: the segment's offset and bytes, the chunks, what was passed over.
    pub(super) fn parts(&self) -> (u64, u64, &VecDeque<Chunk>, &BTreeMap<u64, Vec<Run>>) {
        (self.segment, self.segment_bytes, &self.chunks, &self.passed_over)
    }

    /// A stream of such parts. `None` if they contradict each other. Times are taken as they are: a clock may have gone back.
    pub(super) fn restore(
        next: u64,
        (segment, segment_bytes): (u64, u64),
        chunks: VecDeque<Chunk>,
        passed_over: BTreeMap<u64, Vec<Run>>,
    ) -> Option<Self> {
        let ascends = |(one, other): (&Chunk, &Chunk)| {
            one.end_index() <= other.first_index && one.first_offset < other.first_offset
        };
        let starts = chunks
            .iter()
            .all(|chunk| chunk.entries & 1 == 1 && chunk.first_index > 0 && chunk.first_index < u64::MAX / 2);
        let is_sound = starts
            && chunks.iter().zip(chunks.iter().skip(1)).all(ascends)
            && chunks.back().is_none_or(|last| last.first_offset < next)
            && segment <= next;
        let bytes = chunks
            .iter()
            .try_fold(0_u64, |sum, chunk| sum.checked_add(chunk.bytes))?;
        let stream = Self {
            chunks,
            next,
            bytes,
            segment,
            segment_bytes,
            passed_over,
            ..Self::default()
        };
        let known = stream.passed_over.keys().all(|index| stream.is_live(*index));
        let countable = bytes.max(segment_bytes) < u64::MAX / 2;
        (is_sound && known && countable).then_some(stream)
    }
}
