//! Messages that wait for a consumer, in the order of their numbers.
//!
//! A message is first taken from the head, so the ones that came back all have lower numbers than the ones that
//! were never handed out:
//!
//! ```text
//!   returned (sparse, with counters)  <  fresh (dense, `fresh_first..next_seq`)
//! ```

use std::collections::VecDeque;

use super::Place;
use super::window::Window;

/// Messages per full chunk of [`Fresh`].
const CHUNK_LEN: usize = 512;

/// A message that came back, or was just taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Returned {
    pub(super) place: Place,
    /// How often it was handed out.
    pub(super) acquired: u32,
    /// How many of those deliveries failed.
    pub(super) failed: u32,
}

#[derive(Clone, Debug)]
pub(super) struct Ready {
    returned: Window<Returned>,
    fresh: Fresh,
    /// The number of the next message; numbers start at 1.
    next_seq: u64,
    /// Publish payload bytes of all messages here.
    bytes: u64,
}

impl Ready {
    pub(super) const fn new(next_seq: u64) -> Self {
        Self {
            returned: Window::new(),
            fresh: Fresh::new(),
            next_seq,
            bytes: 0,
        }
    }

    /// Adds a new message at the tail.
    pub(super) fn push(&mut self, place: Place) {
        self.fresh.push(place);
        self.next_seq += 1;
        self.bytes += u64::from(place.len);
    }

    /// Takes the message with the lowest number.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<(u64, Returned)> {
        let (seq, message) = if self.returned.is_empty() {
            let seq = self.fresh_first();
            (
                seq,
                Returned {
                    place: self.fresh.pop()?,
                    acquired: 0,
                    failed: 0,
                },
            )
        } else {
            self.returned.pop_first()?
        };
        self.bytes -= u64::from(message.place.len);
        Some((seq, message))
    }

    /// Puts a message that was taken back to where it was.
    pub(super) fn put_back(&mut self, seq: u64, message: Returned) {
        assert!(seq < self.fresh_first(), "message {seq} was never taken");
        self.bytes += u64::from(message.place.len);
        self.returned.insert(seq, message);
    }

    /// Drops everything; numbers go on.
    pub(super) fn clear(&mut self) {
        *self = Self::new(self.next_seq);
    }

    pub(super) fn len(&self) -> usize {
        self.returned.len() + self.fresh.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// The lowest number that was never handed out.
    pub(super) fn fresh_first(&self) -> u64 {
        self.next_seq - self.fresh.len as u64
    }

    pub(super) fn fresh_len(&self) -> usize {
        self.fresh.len
    }

    /// Messages never handed out, numbered from [`Ready::fresh_first`] without gaps.
    pub(super) fn fresh(&self) -> impl Iterator<Item = &Place> {
        self.fresh.iter()
    }

    /// Messages that came back, ascending.
    pub(super) fn returned(&self) -> impl Iterator<Item = (u64, &Returned)> {
        self.returned.iter()
    }

    pub(super) fn has_returned(&self, seq: u64) -> bool {
        self.returned.get(seq).is_some()
    }

    pub(super) fn returned_len(&self) -> usize {
        self.returned.len()
    }

    /// Where all messages are, in order.
    pub(super) fn places(&self) -> impl Iterator<Item = &Place> {
        self.returned
            .iter()
            .map(|(_, message)| &message.place)
            .chain(self.fresh.iter())
    }
}

/// First in, first out, in chunks: growing never moves what is there, and memory goes back as the queue drains.
#[derive(Clone, Debug)]
struct Fresh {
    /// All but the last are full; only the last may be empty.
    chunks: VecDeque<Vec<Place>>,
    /// Messages of the first chunk that are gone; less than its length, or 0.
    head: usize,
    len: usize,
}

impl Fresh {
    const fn new() -> Self {
        Self {
            chunks: VecDeque::new(),
            head: 0,
            len: 0,
        }
    }

    fn push(&mut self, place: Place) {
        self.len += 1;
        match self.chunks.back_mut() {
            Some(chunk) if chunk.len() < CHUNK_LEN => chunk.push(place),
            // A queue that never holds much never pays for a whole chunk.
            None => self.chunks.push_back(vec![place]),
            Some(_) => {
                let mut chunk = Vec::with_capacity(CHUNK_LEN);
                chunk.push(place);
                self.chunks.push_back(chunk);
            }
        }
    }

    fn pop(&mut self) -> Option<Place> {
        let last_chunk = self.chunks.len() == 1;
        let chunk = self.chunks.front_mut()?;
        let place = *chunk.get(self.head)?;
        self.head += 1;
        self.len -= 1;
        if self.head == chunk.len() {
            self.head = 0;
            if last_chunk {
                chunk.clear();
            } else {
                self.chunks.pop_front();
            }
        }
        Some(place)
    }

    fn iter(&self) -> impl Iterator<Item = &Place> {
        self.chunks.iter().flatten().skip(self.head)
    }
}
