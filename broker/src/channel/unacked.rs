//! The deliveries of one channel that its client has not settled, by delivery tag.
//!
//! Tags only grow, so this is a deque in tag order. Settling in the middle leaves a hole; holes are squeezed out
//! once they outnumber what is left, so one stuck message costs no more than its own place.

use std::collections::VecDeque;

/// Holes are not worth squeezing out below this many.
const HOLES_MIN: usize = 64;

/// A message that a client holds.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Held {
    /// The queue's group.
    pub(super) group: u64,
    /// The message's number in its queue.
    pub(super) message: u64,
    /// The session's consumer; 0 after basic.get.
    pub(super) consumer: u32,
}

/// A channel's unsettled deliveries. See the module's text.
#[derive(Debug, Default)]
pub(super) struct Unacked {
    entries: VecDeque<(u64, Option<Held>)>,
    holes: usize,
    /// Those that a consumer was given.
    consumed: usize,
}

impl Unacked {
    /// How many are held.
    pub(super) fn len(&self) -> usize {
        self.entries.len() - self.holes
    }

    /// How many of these a consumer was given.
    pub(super) fn consumed(&self) -> usize {
        self.consumed
    }

    /// Adds a delivery; `tag` is higher than all before.
    pub(super) fn push(&mut self, tag: u64, held: Held) {
        debug_assert!(self.entries.back().is_none_or(|(last, _)| *last < tag));
        self.consumed += usize::from(held.consumer > 0);
        self.entries.push_back((tag, Some(held)));
    }

    /// Takes one.
    pub(super) fn take(&mut self, tag: u64) -> Option<Held> {
        let at = match self.entries.front() {
            Some((first, _)) if *first == tag => 0,
            _ => self.entries.binary_search_by_key(&tag, |(tag, _)| *tag).ok()?,
        };
        let held = self.entries[at].1.take()?;
        self.holes += 1;
        self.consumed -= usize::from(held.consumer > 0);
        self.trim();
        Some(held)
    }

    /// Takes all up to and including `tag`, oldest first. Gives false, and takes nothing, when `tag` is not held.
    pub(super) fn take_through(&mut self, tag: u64, mut each: impl FnMut(u64, Held)) -> bool {
        let Ok(at) = self.entries.binary_search_by_key(&tag, |(tag, _)| *tag) else {
            return false;
        };
        if self.entries[at].1.is_none() {
            return false;
        }
        for (tag, held) in self.entries.drain(..=at) {
            match held {
                Some(held) => {
                    self.consumed -= usize::from(held.consumer > 0);
                    each(tag, held);
                }
                None => self.holes -= 1,
            }
        }
        self.trim();
        true
    }

    /// Takes all, oldest first.
    pub(super) fn take_all(&mut self, mut each: impl FnMut(u64, Held)) {
        for (tag, held) in self.entries.drain(..) {
            if let Some(held) = held {
                each(tag, held);
            }
        }
        self.holes = 0;
        self.consumed = 0;
    }

    /// Puts back what was taken, in any order.
    pub(super) fn restore(&mut self, taken: impl Iterator<Item = (u64, Held)>) {
        self.entries.retain(|(_, held)| held.is_some());
        self.holes = 0;
        self.entries.extend(taken.map(|(tag, held)| (tag, Some(held))));
        self.entries.make_contiguous().sort_unstable_by_key(|(tag, _)| *tag);
        let held = self.entries.iter().filter_map(|(_, held)| *held);
        self.consumed = held.filter(|held| held.consumer > 0).count();
    }

    fn trim(&mut self) {
        while let Some((_, None)) = self.entries.front() {
            self.entries.pop_front();
            self.holes -= 1;
        }
        if self.holes > HOLES_MIN && self.holes > self.entries.len() / 2 {
            self.entries.retain(|(_, held)| held.is_some());
            self.holes = 0;
        }
    }
}

#[cfg(test)]
mod tests;
