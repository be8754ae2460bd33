//! Messages that wait for a consumer: by priority, and in each priority in the order of their numbers.
//!
//! A level is what has one priority. Its messages are first taken from its head, so the ones that came back all have
//! lower numbers than the fresh ones:
//!
//! ```text
//!   returned (sparse, with counters)  <  fresh (dense, but for what was taken out of the middle)
//! ```
//!
//! Where little is left between what was taken out of the middle, it moves to the sparse ones.
//!
//! A number's highest octet names the level, 0 the one of messages that say no priority; each level counts its own
//! messages from 1. So a queue without priorities has one level, and pays for no other.

use std::collections::BTreeMap;

use self::fresh::Fresh;
use super::Place;
use super::window::Window;

mod fresh;

/// The octet of a number that names its level.
const LEVEL_SHIFT: u32 = 56;

/// A message that came back, or was just taken.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Returned {
    pub(super) place: Place,
    /// How often it was handed out.
    pub(super) acquired: u32,
    /// How many of those deliveries failed.
    pub(super) failed: u32,
}

impl Returned {
    const fn fresh(place: Place) -> Self {
        Self {
            place,
            acquired: 0,
            failed: 0,
        }
    }
}

/// The messages of one priority.
#[derive(Clone, Debug)]
pub(super) struct Level {
    returned: Window<Returned>,
    fresh: Fresh,
    /// The number of the next message.
    next_seq: u64,
}

impl Level {
    const fn new(next_seq: u64) -> Self {
        Self {
            returned: Window::new(),
            fresh: Fresh::new(),
            next_seq,
        }
    }

    #[inline]
    fn push(&mut self, place: Place) -> u64 {
        let seq = self.next_seq;
        self.fresh.push(place);
        self.next_seq += 1;
        seq
    }

    #[inline]
    fn pop(&mut self) -> Option<(u64, Returned)> {
        if self.returned.is_empty() {
            let seq = self.fresh_first();
            Some((seq, Returned::fresh(self.fresh.pop()?)))
        } else {
            self.returned.pop_first()
        }
    }

    fn remove(&mut self, seq: u64) -> Option<Returned> {
        match self.position(seq) {
            Some(position) => {
                let place = self.fresh.remove(position)?;
                self.thin_out();
                Some(Returned::fresh(place))
            }
            None => self.returned.remove(seq),
        }
    }

    fn thin_out(&mut self) {
        while self.fresh.is_sparse() {
            let seq = self.fresh_first();
            let Some(place) = self.fresh.pop() else { return };
            self.returned.insert(seq, Returned::fresh(place));
        }
    }

    fn contains(&self, seq: u64) -> bool {
        match self.position(seq) {
            Some(position) => self.fresh.get(position).is_some(),
            None => self.returned.get(seq).is_some(),
        }
    }

    fn position(&self, seq: u64) -> Option<usize> {
        usize::try_from(seq.checked_sub(self.fresh_first())?).ok()
    }

    fn len(&self) -> usize {
        self.returned.len() + self.fresh.len()
    }

    /// The number of the next message.
    pub(super) fn next_seq(&self) -> u64 {
        self.next_seq
    }

    /// The number of the first fresh message; the next one's without any.
    #[inline]
    pub(super) fn fresh_first(&self) -> u64 {
        self.next_seq - self.fresh.span() as u64
    }

    /// Positions from [`Level::fresh_first`] on.
    pub(super) fn fresh_span(&self) -> usize {
        self.fresh.span()
    }

    /// Fresh messages, numbered from [`Level::fresh_first`]; `None` for one that is gone.
    pub(super) fn fresh(&self) -> impl Iterator<Item = Option<&Place>> {
        self.fresh.positions()
    }

    /// The other messages, ascending.
    pub(super) fn returned(&self) -> impl Iterator<Item = (u64, &Returned)> {
        self.returned.iter()
    }

    pub(super) fn returned_len(&self) -> usize {
        self.returned.len()
    }

    fn messages(&self) -> impl Iterator<Item = (u64, &Place)> {
        let fresh = (self.fresh_first()..).zip(self.fresh.positions());
        self.returned
            .iter()
            .map(|(seq, message)| (seq, &message.place))
            .chain(fresh.filter_map(|(seq, place)| Some((seq, place?))))
    }
}

/// See the module.
#[derive(Clone, Debug)]
pub(super) struct Ready {
    /// The priority of messages that say none.
    base_priority: u8,
    base: Level,
    /// Every other priority that was ever used.
    others: BTreeMap<u8, Level>,
    len: usize,
    /// Publish payload bytes of all messages here.
    bytes: u64,
}

impl Ready {
    pub(super) const fn new(base_priority: u8) -> Self {
        Self {
            base_priority,
            base: Level::new(1),
            others: BTreeMap::new(),
            len: 0,
            bytes: 0,
        }
    }

    /// The octet that names a level in its messages' numbers.
    fn code(&self, priority: u8) -> u64 {
        u64::from(priority ^ self.base_priority) << LEVEL_SHIFT
    }

    /// The priority of the message with that number.
    pub(super) fn priority(&self, seq: u64) -> u8 {
        (seq >> LEVEL_SHIFT) as u8 ^ self.base_priority
    }

    fn level(&self, seq: u64) -> Option<&Level> {
        match self.priority(seq) {
            priority if priority == self.base_priority => Some(&self.base),
            priority => self.others.get(&priority),
        }
    }

    fn level_mut(&mut self, seq: u64) -> Option<&mut Level> {
        match self.priority(seq) {
            priority if priority == self.base_priority => Some(&mut self.base),
            priority => self.others.get_mut(&priority),
        }
    }

    /// Adds a new message at the tail of its level; `None`: it says no priority. Answers its number.
    #[inline]
    pub(super) fn push(&mut self, place: Place, priority: Option<u8>) -> u64 {
        self.len += 1;
        self.bytes += u64::from(place.len);
        match priority {
            Some(priority) if priority != self.base_priority => {
                let first = self.code(priority) + 1;
                self.others
                    .entry(priority)
                    .or_insert_with(|| Level::new(first))
                    .push(place)
            }
            _ => self.base.push(place),
        }
    }

    /// Takes the message that is next: the lowest number of the highest priority.
    #[inline]
    pub(super) fn pop(&mut self) -> Option<(u64, Returned)> {
        let (seq, message) = if self.others.is_empty() {
            self.base.pop()?
        } else {
            self.pop_highest()?
        };
        self.len -= 1;
        self.bytes -= u64::from(message.place.len);
        Some((seq, message))
    }

    fn pop_highest(&mut self) -> Option<(u64, Returned)> {
        let base = self.base_priority;
        let highest = self.others.iter_mut().rev().find(|(_, level)| level.len() > 0);
        match highest {
            Some((priority, level)) if *priority > base || self.base.len() == 0 => level.pop(),
            _ => self.base.pop(),
        }
    }

    /// Takes the message with that number, wherever it stands.
    pub(super) fn remove(&mut self, seq: u64) -> Option<Returned> {
        let message = self.level_mut(seq)?.remove(seq)?;
        self.len -= 1;
        self.bytes -= u64::from(message.place.len);
        Some(message)
    }

    /// Puts a message that was taken back to where it was.
    pub(super) fn put_back(&mut self, seq: u64, message: Returned) {
        let level = self.level_mut(seq).expect("a message came from a level");
        assert!(seq < level.fresh_first(), "message {seq} was never taken");
        level.returned.insert(seq, message);
        self.len += 1;
        self.bytes += u64::from(message.place.len);
    }

    /// Drops everything; numbers go on.
    pub(super) fn clear(&mut self) {
        self.len = 0;
        self.bytes = 0;
        for level in std::iter::once(&mut self.base).chain(self.others.values_mut()) {
            *level = Level::new(level.next_seq);
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    pub(super) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(super) fn contains(&self, seq: u64) -> bool {
        self.level(seq).is_some_and(|level| level.contains(seq))
    }

    /// Whether a message of that number may have been handed out.
    pub(super) fn was_taken(&self, seq: u64) -> bool {
        self.level(seq).is_some_and(|level| seq < level.fresh_first())
    }

    /// Whether the lower octets are what a level counts with.
    pub(super) fn is_number(&self, seq: u64) -> bool {
        seq & !(0xFF << LEVEL_SHIFT) != 0 && self.level(seq).is_some()
    }

    /// Every message with its number, in no useful order of levels.
    pub(super) fn messages(&self) -> impl Iterator<Item = (u64, &Place)> {
        self.levels().flat_map(|(_, level)| level.messages())
    }

    /// Each level and its priority, that of messages without a priority first, then ascending.
    pub(super) fn levels(&self) -> impl Iterator<Item = (u8, &Level)> {
        let others = self.others.iter().map(|(priority, level)| (*priority, level));
        std::iter::once((self.base_priority, &self.base)).chain(others)
    }

    /// Begins a level of a snapshot: `fresh_first` is a number of that level. False if it cannot be.
    pub(super) fn restore_level(&mut self, priority: u8, fresh_first: u64) -> bool {
        let code = self.code(priority);
        if fresh_first <= code || fresh_first - code >= 1 << (LEVEL_SHIFT - 1) {
            return false;
        }
        let level = Level::new(fresh_first);
        if priority == self.base_priority {
            self.base = level;
            return true;
        }
        self.others.insert(priority, level).is_none()
    }

    /// Adds the position of a message that is gone behind what is fresh in a level. False if there can be none.
    pub(super) fn restore_gone(&mut self, priority: u8) -> bool {
        let seq = self.code(priority);
        let Some(level) = self.level_mut(seq).filter(|level| level.fresh.len() > 0) else {
            return false;
        };
        level.fresh.push_gone();
        level.next_seq += 1;
        true
    }

    /// Whether a level is as this module leaves it.
    pub(super) fn is_level_sound(&self, priority: u8) -> bool {
        self.level(self.code(priority))
            .is_some_and(|level| !level.fresh.is_sparse())
    }
}
