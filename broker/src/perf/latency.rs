//! Latencies and their percentiles.

use std::time::Duration;

use hdrhistogram::Histogram;
use serde::Serialize;

/// Longer ones count as this long.
const MAX: Duration = Duration::from_secs(24 * 3600);

/// Microseconds, to three digits. It grows with the longest latency, so many connections need little memory.
pub(super) struct Latencies(Histogram<u32>);

impl Latencies {
    pub(super) fn new() -> Self {
        Self(Histogram::new(3).expect("three digits are among those that it offers"))
    }

    pub(super) fn record_ns(&mut self, ns: u64) {
        let us = ns.div_ceil(1000).clamp(1, MAX.as_micros() as u64);
        self.0.record(us).expect("it grows as far as needed");
    }

    pub(super) fn add(&mut self, other: &Self) {
        self.0.add(&other.0).expect("it grows as far as needed");
    }

    pub(super) fn summary(&self) -> Option<Summary> {
        if self.0.is_empty() {
            return None;
        }
        let at = |percent| self.0.value_at_percentile(percent);
        Some(Summary {
            count: self.0.len(),
            mean: self.0.mean().round() as u64,
            min: self.0.min(),
            p50: at(50.0),
            p90: at(90.0),
            p99: at(99.0),
            p999: at(99.9),
            max: self.0.max(),
        })
    }
}

/// Microseconds.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
pub struct Summary {
    pub count: u64,
    pub mean: u64,
    pub min: u64,
    pub p50: u64,
    pub p90: u64,
    pub p99: u64,
    pub p999: u64,
    pub max: u64,
}
