//! First in, first out, in chunks: growing never moves what is there, and memory goes back as the queue drains.
//!
//! A message may be taken out of the middle. Its position stays, so that the others keep theirs, until every
//! position before it is gone.

use std::collections::VecDeque;

use crate::queue::machine::Place;

/// Positions per full chunk.
const CHUNK_LEN: usize = 512;
/// Positions without a message that are put up with, beside one for each message.
const GONE_MAX: usize = 1_024;

/// What stands at a position whose message was taken out: log indexes start at 1.
const GONE: Place = Place {
    index: 0,
    offset: 0,
    len: 0,
};

/// See the module.
#[derive(Clone, Debug)]
pub(in crate::queue::machine) struct Fresh {
    /// All but the last are full; only the last may be empty.
    chunks: VecDeque<Vec<Place>>,
    /// Positions of the first chunk that were passed; less than its length, or 0.
    head: usize,
    /// Messages.
    len: usize,
    /// Positions from the first message on; 0 without messages.
    span: usize,
}

impl Fresh {
    pub(super) const fn new() -> Self {
        Self {
            chunks: VecDeque::new(),
            head: 0,
            len: 0,
            span: 0,
        }
    }

    pub(super) const fn len(&self) -> usize {
        self.len
    }

    pub(super) const fn span(&self) -> usize {
        self.span
    }

    /// Whether so few of the positions hold a message that the first ones should go elsewhere.
    pub(super) const fn is_sparse(&self) -> bool {
        self.span > 2 * self.len + GONE_MAX
    }

    #[inline]
    pub(super) fn push(&mut self, place: Place) {
        self.len += 1;
        self.push_position(place);
    }

    /// Adds a position whose message is gone; nothing where it would be the first.
    pub(super) fn push_gone(&mut self) {
        if self.span > 0 {
            self.push_position(GONE);
        }
    }

    #[inline]
    fn push_position(&mut self, place: Place) {
        self.span += 1;
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

    #[inline]
    pub(super) fn pop(&mut self) -> Option<Place> {
        let place = *self.chunks.front()?.get(self.head)?;
        self.len -= 1;
        self.pass();
        self.trim();
        Some(place)
    }

    /// Passes the first position.
    #[inline]
    fn pass(&mut self) {
        let last_chunk = self.chunks.len() == 1;
        let Some(chunk) = self.chunks.front_mut() else { return };
        self.head += 1;
        self.span -= 1;
        if self.head == chunk.len() {
            self.head = 0;
            if last_chunk {
                chunk.clear();
            } else {
                self.chunks.pop_front();
            }
        }
    }

    /// Passes positions without a message.
    #[inline]
    fn trim(&mut self) {
        while let Some(chunk) = self.chunks.front()
            && chunk.get(self.head) == Some(&GONE)
        {
            self.pass();
        }
    }

    /// Takes out the message at a position, counted from the first message's.
    pub(super) fn remove(&mut self, position: usize) -> Option<Place> {
        let (chunk, slot) = self.slot(position)?;
        let place = std::mem::replace(self.chunks.get_mut(chunk)?.get_mut(slot)?, GONE);
        if place == GONE {
            return None;
        }
        self.len -= 1;
        self.trim();
        Some(place)
    }

    fn slot(&self, position: usize) -> Option<(usize, usize)> {
        let slot = self.head + position;
        (position < self.span).then_some((slot / CHUNK_LEN, slot % CHUNK_LEN))
    }

    /// The message at a position, if it is there.
    pub(super) fn get(&self, position: usize) -> Option<&Place> {
        let (chunk, slot) = self.slot(position)?;
        self.chunks.get(chunk)?.get(slot).filter(|place| **place != GONE)
    }

    /// Every position from the first message on; `None` where the message is gone.
    pub(super) fn positions(&self) -> impl Iterator<Item = Option<&Place>> {
        self.chunks
            .iter()
            .flatten()
            .skip(self.head)
            .map(|place| Some(place).filter(|place| **place != GONE))
    }
}
