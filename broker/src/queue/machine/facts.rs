//! What only some messages have: a time at which they expire, a size that counts against the queue's limit, a key that no
//! other may have. A queue whose messages have none of these pays for none.

use std::collections::BTreeSet;

use super::window::Window;

/// Of one message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) struct Fact {
    /// When it expires, in milliseconds since 1970; 0: never.
    pub(super) expires_ms: u64,
    /// What it counts against `x-max-length-bytes`; 0 where there is no such limit.
    pub(super) size: u32,
    /// What no other message of the queue may have; 0 where there is no such rule, or the message has none.
    pub(super) key: u128,
}

#[derive(Clone, Debug)]
pub(super) struct Facts {
    /// By number, of messages that are ready or held, or rest.
    all: Window<Fact>,
    /// When which ready message expires.
    due: BTreeSet<(u64, u64)>,
    /// Sizes of the ready messages.
    ready_size: u64,
    /// All but 0.
    keys: BTreeSet<u128>,
}

impl Facts {
    pub(super) const fn new() -> Self {
        Self {
            all: Window::new(),
            due: BTreeSet::new(),
            ready_size: 0,
            keys: BTreeSet::new(),
        }
    }

    /// Notes what is so of a message that is not ready yet.
    pub(super) fn add(&mut self, seq: u64, fact: Fact) {
        if fact != Fact::default() {
            self.all.insert(seq, fact);
            if fact.key > 0 {
                self.keys.insert(fact.key);
            }
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
        if !self.all.is_empty()
            && let Some(fact) = self.all.remove(seq)
            && fact.key > 0
        {
            self.keys.remove(&fact.key);
        }
    }

    /// The message counts with another size.
    pub(super) fn resize(&mut self, seq: u64, size: u32, is_ready: bool) {
        let known = self.all.remove(seq).unwrap_or_default();
        if is_ready {
            self.ready_size = self.ready_size - u64::from(known.size) + u64::from(size);
        }
        self.add(seq, Fact { size, ..known });
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

    /// Whether a message of the queue has that key.
    pub(super) fn has_key(&self, key: u128) -> bool {
        self.keys.contains(&key)
    }

    /// How many have one.
    pub(super) fn keys_len(&self) -> usize {
        self.keys.len()
    }

    /// Notes a message's key. False if it is none, or that of another message.
    pub(super) fn restore_key(&mut self, seq: u64, key: u128) -> bool {
        let fact = Fact { key, ..self.get(seq) };
        self.all.insert(seq, fact);
        key > 0 && self.keys.insert(key)
    }

    /// What is so of a message; nothing if nothing was noted.
    pub(super) fn get(&self, seq: u64) -> Fact {
        let fact = if self.all.is_empty() { None } else { self.all.get(seq) };
        fact.copied().unwrap_or_default()
    }
}
