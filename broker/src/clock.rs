//! The node's clock: the wall clock as it was when the process began, and what has passed since, also while the machine
//! was suspended.
//!
//! It does not jump when somebody sets the wall clock, so nothing comes due by that. It follows the wall clock, at most
//! one part in [`EASE`] faster or slower than time passes.

use std::sync::LazyLock;
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use rustix::time::{ClockId, clock_gettime};

/// Of so many milliseconds, at most one is added or left out.
const EASE: i64 = 100;
/// How often the wall clock is looked at, in milliseconds.
const LOOK_MS: u64 = 100;
/// A difference that operators are told of, in milliseconds.
const NOTABLE_MS: u64 = 60_000;

/// When the process began, since the machine did; and the clock.
static CLOCK: LazyLock<(u64, Clock)> = LazyLock::new(|| (up_ms(), Clock::new(wall_ms())));

/// The node's time, in milliseconds since 1970.
pub(crate) fn now_ms() -> u64 {
    let (start_ms, clock) = &*CLOCK;
    clock.read(up_ms().saturating_sub(*start_ms), wall_ms)
}

/// Since the machine began.
fn up_ms() -> u64 {
    let up = clock_gettime(ClockId::Boottime);
    // Neither is ever negative.
    up.tv_sec.cast_unsigned() * 1_000 + up.tv_nsec.cast_unsigned() / 1_000_000
}

/// What the wall clock says, in milliseconds since 1970: for what others are told or have written. It may jump.
pub(crate) fn wall_ms() -> u64 {
    let elapsed = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    u64::try_from(elapsed.as_millis()).unwrap_or(u64::MAX)
}

/// See the module. Times are in milliseconds.
struct Clock {
    /// The wall clock at the beginning.
    start_ms: u64,
    /// What was added to what has passed.
    eased_ms: AtomicI64,
    /// What had passed when the wall clock was last looked at.
    looked_ms: AtomicU64,
    /// How far the wall clock was off then.
    off_ms: AtomicI64,
}

impl Clock {
    fn new(start_ms: u64) -> Self {
        Self {
            start_ms,
            eased_ms: AtomicI64::new(0),
            looked_ms: AtomicU64::new(0),
            off_ms: AtomicI64::new(0),
        }
    }

    /// The time, when `passed_ms` have passed since the beginning.
    fn read(&self, passed_ms: u64, wall_ms: impl FnOnce() -> u64) -> u64 {
        let looked_ms = self.looked_ms.load(Ordering::Relaxed);
        let since_ms = passed_ms.saturating_sub(looked_ms);
        // Of several threads that see that it is time, one looks.
        let looks = since_ms >= LOOK_MS
            && self
                .looked_ms
                .compare_exchange(looked_ms, passed_ms, Ordering::Relaxed, Ordering::Relaxed)
                .is_ok();
        if looks {
            let off_ms = wall_ms()
                .cast_signed()
                .saturating_sub(self.time(passed_ms).cast_signed());
            // Not more after a silence: threads that read meanwhile would see a jump.
            let most_ms = LOOK_MS.cast_signed() / EASE;
            self.eased_ms
                .fetch_add(off_ms.clamp(-most_ms, most_ms), Ordering::Relaxed);
            self.tell(off_ms);
        }
        self.time(passed_ms)
    }

    fn time(&self, passed_ms: u64) -> u64 {
        let steady_ms = self.start_ms.saturating_add(passed_ms);
        steady_ms.saturating_add_signed(self.eased_ms.load(Ordering::Relaxed))
    }

    /// Once for each jump.
    fn tell(&self, off_ms: i64) {
        let before_ms = self.off_ms.swap(off_ms, Ordering::Relaxed);
        if off_ms.abs_diff(before_ms) >= NOTABLE_MS {
            tracing::warn!(
                off_s = off_ms / 1_000,
                "the wall clock was set; the node's time follows it slowly, and takes it over at the next start"
            );
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_wall_clock_that_jumps_is_followed_slowly() {
        for (jump_ms, least_ms, most_ms) in [(3_600_000_i64, 0, 600), (-3_600_000, -600, 0)] {
            let clock = Clock::new(1_000_000_000_000);
            let mut last_ms = 0;
            for passed_ms in (0..=60_000_u64).step_by(7) {
                let wall_ms = (1_000_000_000_000 + passed_ms).saturating_add_signed(jump_ms);
                let now_ms = clock.read(passed_ms, || wall_ms);
                let off_ms = now_ms.cast_signed() - (1_000_000_000_000 + passed_ms.cast_signed());
                assert!((least_ms..=most_ms).contains(&off_ms), "{off_ms} after {passed_ms}");
                assert!(now_ms > last_ms, "it went back by {}", last_ms - now_ms);
                last_ms = now_ms;
            }
            let off_ms = last_ms.cast_signed() - 1_000_000_060_000;
            assert!(off_ms.abs() >= 500, "it does not follow: {off_ms}");
        }
    }

    #[test]
    fn a_wall_clock_that_drifts_is_kept_up_with() {
        let clock = Clock::new(5_000);
        for passed_ms in (0..=600_000_u64).step_by(30) {
            let wall_ms = 5_000 + passed_ms + passed_ms / 1_000;
            let now_ms = clock.read(passed_ms, || wall_ms);
            assert!(now_ms.abs_diff(wall_ms) <= 2, "{now_ms}, not {wall_ms}");
        }
    }
}
