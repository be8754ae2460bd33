//! Clocks of leaders that differ, jump, and were wrong once.

use super::super::clock::Clock;
use super::alone::Alone;
use super::*;
use crate::version::Versions;

const HOUR: u64 = 3_600_000;

proptest! {
    /// Whatever the node's clock does, the group's time follows what passes of it, and does not go back.
    #[test]
    fn time_goes_on(start in 0..1_u64 << 42, stamp in 0..1_u64 << 42, steps in prop::collection::vec((any::<bool>(), 0..HOUR), 1..50)) {
        let mut clock = Clock::new(start, stamp);
        prop_assert_eq!(clock.time_ms(), start.max(stamp));
        let mut now = start;
        for (is_back, by) in steps {
            let before = clock.time_ms();
            let next = if is_back { now.saturating_sub(by) } else { now + by };
            clock = clock.at(next);
            prop_assert!(clock.time_ms() >= next);
            if next >= now {
                let (passed, shown) = (next - now, clock.time_ms() - before);
                prop_assert!(shown <= passed && shown + 1 >= passed - passed / 100, "{shown} of {passed}");
            } else {
                prop_assert_eq!(clock.time_ms(), before);
            }
            now = next;
        }
    }
}

proptest! {
    /// A deadline comes when it was said to come, and not before.
    #[test]
    fn what_is_due_comes_when_it_was_foretold(now in 0..1_u64 << 42, ahead in 0..HOUR, wait in 0..100 * HOUR) {
        let clock = Clock::new(now, now + ahead);
        let due = clock.time_ms() + wait;
        let comes = clock.comes_ms(due);
        prop_assert!(clock.at(comes).time_ms() >= due);
        prop_assert!(wait == 0 || clock.at(comes - 2).time_ms() < due, "it came earlier");
        // Foretold once more on the way, it is the same moment, or nearly.
        let again = clock.at(now + (comes - now) / 2).comes_ms(due);
        prop_assert!(again.abs_diff(comes) <= 2, "{again}, not {comes}");
    }
}

#[test]
fn a_group_that_was_ahead_is_caught_up_with() {
    let mut clock = Clock::new(0, HOUR);
    for minute in 1..=100 * 60 {
        assert!(clock.ahead_ms() > 0, "after {minute} minutes");
        clock = clock.at(minute * 60_000);
    }
    assert_eq!(clock.ahead_ms(), 0);
}

#[test]
fn a_leader_goes_on_from_the_last_stamp() {
    let mut alone = Alone::open(&Arc::new(MemoryStore::new()), &Versions::default());
    alone.lead();
    alone.propose_at(4, 10 * HOUR);
    assert_eq!(alone.core.stamp_ms, 10 * HOUR);
    // Set back by an hour: ten minutes later, ten minutes have passed.
    alone.propose_at(4, 9 * HOUR);
    alone.propose_at(4, 9 * HOUR + HOUR / 6);
    assert_eq!(alone.core.stamp_ms, 10 * HOUR + HOUR / 6 - HOUR / 600);
}

#[test]
fn what_is_due_comes_nearer_while_a_leader_proposes_nothing() {
    let store = Arc::new(MemoryStore::new());
    let mut alone = Alone::open(&store, &Versions::default());
    alone.lead();
    alone.propose_at(4, 10 * HOUR);
    // The next leader's clock is an hour behind, and is asked every ten seconds.
    let mut alone = Alone::open(&store, &Versions::default());
    alone.lead();
    let due = 10 * HOUR + 60_000;
    for passed in (0..60_000).step_by(10_000) {
        let comes = alone.core.comes_ms(due, 9 * HOUR + passed);
        assert!(comes.abs_diff(9 * HOUR + 60_607) <= 2, "after {passed}: {comes}");
    }
}
