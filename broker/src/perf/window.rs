//! What a publisher has sent and not seen confirmed.

use std::collections::VecDeque;

/// Settled, but something before it is not.
const SETTLED: u64 = 0;

/// A queue of the messages sent, from the oldest unconfirmed one on. Tags count from 1, as on a channel.
#[derive(Debug)]
pub(super) struct Window {
    max: usize,
    /// The tag of `stamps[0]`.
    first: u64,
    stamps: VecDeque<u64>,
    /// Those in `stamps` that are not settled.
    unconfirmed: usize,
}

/// The server confirmed a tag that was never used.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct UnknownTag;

impl Window {
    pub(super) fn new(max: u32) -> Self {
        Self {
            max: max as usize,
            first: 1,
            stamps: VecDeque::new(),
            unconfirmed: 0,
        }
    }

    /// How many messages may be sent now. One that is never confirmed stops the publisher in the end, however many
    /// after it are.
    pub(super) fn room(&self) -> usize {
        let bound = self.max.saturating_mul(16).saturating_add(1024);
        (self.max - self.unconfirmed.min(self.max)).min(bound.saturating_sub(self.stamps.len()))
    }

    pub(super) fn unconfirmed(&self) -> usize {
        self.unconfirmed
    }

    /// `count` messages are sent, all at the same time `stamp`.
    pub(super) fn sent(&mut self, count: usize, stamp: u64) {
        self.stamps.extend(std::iter::repeat_n(stamp.max(1), count));
        self.unconfirmed += count;
    }

    /// A message, or it and all before it, are settled: calls `each` with their stamps.
    pub(super) fn settle(&mut self, tag: u64, multiple: bool, mut each: impl FnMut(u64)) -> Result<u64, UnknownTag> {
        let end = self.first + self.stamps.len() as u64;
        // A multiple 0 means all.
        let tag = if tag == 0 && multiple { end - 1 } else { tag };
        if tag == 0 || tag >= end {
            return Err(UnknownTag);
        }
        let before = self.unconfirmed;
        if multiple {
            while self.first <= tag
                && let Some(stamp) = self.stamps.pop_front()
            {
                self.first += 1;
                if stamp != SETTLED {
                    self.unconfirmed -= 1;
                    each(stamp);
                }
            }
        } else if let Some(index) = tag.checked_sub(self.first)
            && let Some(stamp) = self.stamps.get_mut(index as usize)
            && *stamp != SETTLED
        {
            each(*stamp);
            *stamp = SETTLED;
            self.unconfirmed -= 1;
        }
        while self.stamps.front() == Some(&SETTLED) {
            self.stamps.pop_front();
            self.first += 1;
        }
        Ok((before - self.unconfirmed) as u64)
    }
}
