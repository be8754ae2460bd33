//! A group's time: that of its leader's clock, and it never goes back.
//!
//! What is due in a group is due by the stamps of its entries. Where a new leader's clock is behind the last stamp,
//! the group's time goes on from there as fast as that clock does, and nearly: it is one part in [`EASE`] slower until
//! the clock has caught up with it. So neither a clock that was once a year ahead nor one that is set back keeps
//! anything from becoming due.

/// Of so many milliseconds, the group's time leaves out one while it is ahead.
const EASE: u64 = 100;

/// The time of a group on the node that leads it.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock {
    /// The node's clock when it was last looked at, in milliseconds.
    at_ms: u64,
    /// How far the group was ahead of it then, in parts of a millisecond: [`EASE`] of them.
    ahead: u64,
}

impl Clock {
    /// The time goes on from `stamp_ms`, when the node's clock shows `now_ms`.
    pub(super) fn new(now_ms: u64, stamp_ms: u64) -> Self {
        Self {
            at_ms: now_ms,
            ahead: stamp_ms.saturating_sub(now_ms).saturating_mul(EASE),
        }
    }

    /// The same, looked at when the node's clock shows `now_ms`.
    pub(super) fn at(self, now_ms: u64) -> Self {
        let ahead = match now_ms.checked_sub(self.at_ms) {
            Some(passed_ms) => self.ahead.saturating_sub(passed_ms),
            None => self.ahead.saturating_add((self.at_ms - now_ms).saturating_mul(EASE)),
        };
        Self { at_ms: now_ms, ahead }
    }

    /// How far the group is ahead of the node's clock, in milliseconds.
    pub(super) fn ahead_ms(self) -> u64 {
        self.ahead.div_ceil(EASE)
    }

    /// When the group's time will be `time_ms`, by the node's clock.
    pub(super) fn comes_ms(self, time_ms: u64) -> u64 {
        let wait = time_ms.saturating_sub(self.time_ms());
        let eased = wait.saturating_mul(EASE).div_ceil(EASE - 1);
        // Once the clock has caught up, the two are the same.
        self.at_ms.saturating_add(eased).min(time_ms.max(self.at_ms))
    }

    /// The group's time.
    pub(super) fn time_ms(self) -> u64 {
        self.at_ms.saturating_add(self.ahead_ms())
    }
}
