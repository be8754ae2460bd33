//! Which log entries still hold a message of the queue: a count per entry, and the entries whose count fell to
//! nothing since they were last asked for.
//!
//! Messages of one entry tend to come and go together, so counts are changed once per run of them.

use super::window::Window;

/// No entry: log indexes start at 1.
const NONE: u64 = 0;

#[derive(Clone, Debug)]
pub(super) struct Entries {
    /// Live messages by entry index, never 0. The open entry joins when it is closed.
    counts: Window<u32>,
    open: Run,
    /// Whether the open entry got a message at all.
    touched: bool,
    /// Messages gone, not yet taken from `counts`.
    gone: Run,
    freed: Vec<u64>,
}

#[derive(Clone, Copy, Debug)]
struct Run {
    index: u64,
    messages: u32,
}

impl Run {
    const NONE: Self = Self {
        index: NONE,
        messages: 0,
    };
}

impl Entries {
    pub(super) const fn new() -> Self {
        Self {
            counts: Window::new(),
            open: Run::NONE,
            touched: false,
            gone: Run::NONE,
            freed: Vec::new(),
        }
    }

    /// Starts an entry: messages added until [`Entries::close`] are its.
    pub(super) fn open(&mut self, index: u64) {
        self.open = Run { index, messages: 0 };
        self.touched = false;
    }

    pub(super) fn add(&mut self) {
        self.open.messages += 1;
        self.touched = true;
    }

    /// A message of the entry at `index` is gone.
    #[inline]
    pub(super) fn remove(&mut self, index: u64) {
        if index == self.gone.index {
            self.gone.messages += 1;
        } else {
            self.flush();
            self.gone = Run { index, messages: 1 };
        }
    }

    fn flush(&mut self) {
        let Run { index, messages } = std::mem::replace(&mut self.gone, Run::NONE);
        if messages == 0 {
            return;
        }
        // An index is applied once, so what the open entry holds is never in `counts` as well.
        if index == self.open.index && self.open.messages > 0 {
            self.open.messages -= messages;
            return;
        }
        let count = self.counts.get_mut(index).expect("a message's entry is counted");
        *count -= messages;
        if *count == 0 {
            self.counts.remove(index);
            self.freed.push(index);
        }
    }

    /// Ends the entry. Everything else may be asked only while no entry is open.
    pub(super) fn close(&mut self) {
        self.flush();
        let Run { index, messages } = std::mem::replace(&mut self.open, Run::NONE);
        if messages > 0 {
            self.restore(index, messages);
        } else if self.touched {
            self.freed.push(index);
        }
        self.touched = false;
    }

    /// Counts messages of an entry that is not open.
    pub(super) fn restore(&mut self, index: u64, messages: u32) {
        let before = self.counts.get(index).copied().unwrap_or(0);
        self.counts.insert(index, before.saturating_add(messages));
    }

    pub(super) fn is_live(&self, index: u64) -> bool {
        self.counts.get(index).is_some()
    }

    /// Ascending.
    pub(super) fn live(&self) -> impl Iterator<Item = u64> {
        self.counts.iter().map(|(index, _)| index)
    }

    pub(super) fn take_freed(&mut self, out: &mut Vec<u64>) {
        out.append(&mut self.freed);
    }

    /// Live messages by entry, ascending.
    #[cfg(test)]
    pub(super) fn counts(&self) -> impl Iterator<Item = (u64, u32)> {
        self.counts.iter().map(|(index, count)| (index, *count))
    }
}
