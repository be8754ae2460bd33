//! Messages that came back and wait for a while before they are ready again: the delayed retry of quorum queues.

use std::collections::{BTreeMap, BTreeSet};

use super::ready::Returned;

/// How long messages rest that come back.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Retry {
    /// Those that failed do: rejected ones, and those of consumers that ended.
    pub failed: bool,
    /// Those that were given back do.
    pub returned: bool,
    /// For each failure so far, but at least once.
    pub min_ms: u64,
    /// At the most.
    pub max_ms: u64,
}

impl Retry {
    /// For how long a message rests that failed so often, the last time or not; 0: it does not.
    pub(super) fn rest_ms(&self, has_failed: bool, failures: u32) -> u64 {
        if !(if has_failed { self.failed } else { self.returned }) {
            return 0;
        }
        let rest_ms = self.min_ms.saturating_mul(u64::from(failures.max(1)));
        rest_ms.min(self.max_ms)
    }
}

/// One of them.
#[derive(Clone, Copy, Debug)]
pub(super) struct Rest {
    /// Until when, in milliseconds since 1970.
    pub(super) until_ms: u64,
    pub(super) message: Returned,
}

/// See the module.
#[derive(Clone, Debug, Default)]
pub(super) struct Resting {
    by_seq: BTreeMap<u64, Rest>,
    /// When which of them is ready again.
    due: BTreeSet<(u64, u64)>,
}

impl Resting {
    pub(super) const fn new() -> Self {
        Self {
            by_seq: BTreeMap::new(),
            due: BTreeSet::new(),
        }
    }

    /// False if it rests already.
    pub(super) fn insert(&mut self, seq: u64, rest: Rest) -> bool {
        self.due.insert((rest.until_ms, seq));
        self.by_seq.insert(seq, rest).is_none()
    }

    /// Takes one whose time is over.
    pub(super) fn pop_due(&mut self, now_ms: u64) -> Option<(u64, Returned)> {
        let (until_ms, seq) = *self.due.first()?;
        if until_ms > now_ms {
            return None;
        }
        self.due.pop_first();
        let rest = self.by_seq.remove(&seq).expect("what is due rests");
        Some((seq, rest.message))
    }

    /// When the next one is ready again.
    pub(super) fn first_due(&self) -> Option<u64> {
        self.due.first().map(|(until_ms, _)| *until_ms)
    }

    pub(super) fn contains(&self, seq: u64) -> bool {
        self.by_seq.contains_key(&seq)
    }

    /// Ascending by number.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Rest)> {
        self.by_seq.iter().map(|(seq, rest)| (*seq, rest))
    }

    pub(super) fn len(&self) -> usize {
        self.by_seq.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.by_seq.is_empty()
    }

    pub(super) fn clear(&mut self) {
        *self = Self::new();
    }
}
