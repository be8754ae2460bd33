//! What only some messages have: a time at which they expire, a size that counts against the queue's limit.
//! A queue whose messages have neither pays for neither.

use std::collections::BTreeSet;

use super::window::Window;

/// Of one message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fact {
    /// When it expires, in milliseconds since 1970; 0: never.
    pub(super) expires_ms: u64,
    /// What it counts against `x-max-length-bytes`; 0 where there is no such limit.
    pub(super) size: u32,
}

#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// By number, of messages that are ready or held, or rest.
    all: Window<Fact>,
    /// When which ready message expires.
    due: BTreeSet<(u64, u64)>,
    /// Sizes of the ready messages.
    ready_size: u64,
}

impl Facts {
    pub(super) const fn new() -> Self {
        Self {
            all: Window::new(),
            due: BTreeSet::new(),
            ready_size: 0,
        }
    }

    /// Notes what is so of a message that is not ready yet.
    pub(super) fn add(&mut self, seq: u64, fact: Fact) {
        if fact != Fact::default() {
            self.all.insert(seq, fact);
        }
    }

    /// The message is ready from now on.
    #[inline]
    pub(super) fn joins(&mut self, seq: u64) {
        let Some(fact) = self.all.get(seq) else { return };
        self.ready_size += u64::from(fact.size);
        if fact.expires_ms > 0 {
            self.due.insert((fact.expires_ms, seq));
        }
    }

    /// The message is no longer ready.
    #[inline]
    pub(super) fn leaves(&mut self, seq: u64) {
        if self.all.is_empty() {
            return;
        }
        let Some(fact) = self.all.get(seq) else { return };
        self.ready_size -= u64::from(fact.size);
        if fact.expires_ms > 0 {
            self.due.remove(&(fact.expires_ms, seq));
        }
    }

    /// The message, which is not ready, is gone.
    #[inline]
    pub(super) fn forget(&mut self, seq: u64) {
        if !self.all.is_empty() {
            self.all.remove(seq);
        }
    }

    /// Whether the message has expired.
    pub(super) fn has_expired(&self, seq: u64, now_ms: u64) -> bool {
        let expires = |fact: &Fact| fact.expires_ms > 0 && fact.expires_ms <= now_ms;
        !self.all.is_empty() && self.all.get(seq).is_some_and(expires)
    }

    /// When the message expires, in milliseconds since 1970; never is the end of time.
    pub(super) fn expires_ms(&self, seq: u64) -> u64 {
        Some(self.get(seq).expires_ms).filter(|at| *at > 0).unwrap_or(u64::MAX)
    }

    /// When the next ready message expires, and which it is.
    #[inline]
    pub(super) fn first_due(&self) -> Option<(u64, u64)> {
        self.due.first().copied()
    }

    pub(super) fn ready_size(&self) -> u64 {
        self.ready_size
    }

    /// Ascending by number.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Fact)> {
        self.all.iter()
    }

    /// What is so of a message; nothing if nothing was noted.
    pub(super) fn get(&self, seq: u64) -> Fact {
        let fact = if self.all.is_empty() { None } else { self.all.get(seq) };
        fact.copied().unwrap_or_default()
    }
}
