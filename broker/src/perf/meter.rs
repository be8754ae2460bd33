//! What one connection has done so far, written by its task once per batch and read by the one that reports.

use std::{
    sync::{
        Mutex, MutexGuard, PoisonError,
        atomic::{AtomicU64, AtomicUsize, Ordering::Relaxed},
    },
    time::{SystemTime, UNIX_EPOCH},
};

use super::latency::Latencies;

/// Nanoseconds since 1970: stamps are compared between processes, so they are not of a monotonic clock.
pub(super) fn now_ns() -> u64 {
    SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .map_or(0, |passed| u64::try_from(passed.as_nanos()).unwrap_or(u64::MAX))
}

/// A counter, and when it last grew.
#[derive(Default)]
pub(super) struct Count {
    count: AtomicU64,
    last_ns: AtomicU64,
}

impl Count {
    pub(super) fn add(&self, count: u64, now: u64) {
        if count > 0 {
            self.count.fetch_add(count, Relaxed);
            self.last_ns.store(now, Relaxed);
        }
    }
}

#[derive(Default)]
pub(super) struct Meter {
    pub(super) published: Count,
    pub(super) confirmed: Count,
    /// Refused by the server.
    pub(super) nacked: Count,
    pub(super) consumed: Count,
    pub(super) redelivered: Count,
    pub(super) confirm_latencies: Record,
    pub(super) deliver_latencies: Record,
    /// Messages sent and not confirmed.
    pub(super) unconfirmed: AtomicUsize,
}

/// Latencies of messages that were published while measuring.
pub(super) struct Record {
    latencies: Mutex<Latencies>,
    /// Stamps before it do not count.
    from_ns: AtomicU64,
}

impl Default for Record {
    fn default() -> Self {
        Self {
            latencies: Mutex::new(Latencies::new()),
            from_ns: AtomicU64::new(u64::MAX),
        }
    }
}

impl Record {
    pub(super) fn begin(&self, from_ns: u64) {
        self.from_ns.store(from_ns, Relaxed);
    }

    /// For one batch.
    pub(super) fn open(&self, now: u64) -> Recorder<'_> {
        Recorder {
            latencies: self.lock(),
            from_ns: self.from_ns.load(Relaxed),
            now,
        }
    }

    pub(super) fn add_to(&self, sum: &mut Latencies) {
        sum.add(&self.lock());
    }

    fn lock(&self) -> MutexGuard<'_, Latencies> {
        self.latencies.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

pub(super) struct Recorder<'a> {
    latencies: MutexGuard<'a, Latencies>,
    from_ns: u64,
    now: u64,
}

impl Recorder<'_> {
    /// Passes over stamps from before this run, or of something else than this program.
    pub(super) fn record(&mut self, stamp: u64) {
        if stamp >= self.from_ns && stamp <= self.now {
            self.latencies.record_ns(self.now - stamp);
        }
    }
}

/// Sums over connections.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Totals {
    pub(super) published: Total,
    pub(super) confirmed: Total,
    pub(super) nacked: Total,
    pub(super) consumed: Total,
    pub(super) redelivered: Total,
    pub(super) unconfirmed: usize,
}

#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Total {
    pub(super) count: u64,
    /// When the last of them was counted; 0: none was.
    pub(super) last_ns: u64,
}

impl Total {
    fn add(&mut self, count: &Count) {
        self.count += count.count.load(Relaxed);
        self.last_ns = self.last_ns.max(count.last_ns.load(Relaxed));
    }
}

impl Totals {
    pub(super) fn of<'a>(meters: impl IntoIterator<Item = &'a Meter>) -> Self {
        let mut totals = Self::default();
        for meter in meters {
            totals.published.add(&meter.published);
            totals.confirmed.add(&meter.confirmed);
            totals.nacked.add(&meter.nacked);
            totals.consumed.add(&meter.consumed);
            totals.redelivered.add(&meter.redelivered);
            totals.unconfirmed += meter.unconfirmed.load(Relaxed);
        }
        totals
    }
}
