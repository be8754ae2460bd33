//! Spreading messages evenly over time.

/// How far a publisher that was held up may run ahead of its rate to catch up.
const CATCH_UP_NS: u64 = 1_000_000_000;

/// Times are nanoseconds on any clock that does not go back.
#[derive(Debug)]
pub(super) struct Pace {
    ns_per_message: f64,
    start: u64,
    sent: u64,
}

impl Pace {
    pub(super) fn new(rate: f64, start: u64) -> Self {
        Self {
            ns_per_message: 1e9 / rate,
            start,
            sent: 0,
        }
    }

    /// How many messages are due.
    pub(super) fn due(&mut self, now: u64) -> u64 {
        let next = self.next();
        if now.saturating_sub(next) > CATCH_UP_NS {
            self.start += now - next - CATCH_UP_NS;
        }
        let passed = now.saturating_sub(self.start) as f64;
        ((passed / self.ns_per_message) as u64 + 1).saturating_sub(self.sent)
    }

    /// When the next message is due.
    pub(super) fn next(&self) -> u64 {
        self.start + (self.sent as f64 * self.ns_per_message) as u64
    }

    pub(super) fn sent(&mut self, count: u64) {
        self.sent += count;
    }
}
