//! What a process that ended left to be removed.

use super::alone::Alone;
use super::*;
use crate::version::Versions;

/// The entries that are stored, of all generations.
fn stored(alone: &Alone) -> Vec<u64> {
    let last = alone.core.status().last_index;
    let entries = alone.store.entries(GROUP, 0, 0..last + 1, usize::MAX);
    entries
        .expect("a healthy store")
        .iter()
        .map(|entry| entry.index)
        .collect()
}

/// Entries that no snapshot, no live message and no log after the last snapshot but one needs.
fn useless(alone: &Alone) -> Vec<u64> {
    let state = alone.store.state(GROUP).expect("a healthy store").expect("it is there");
    let live = alone.core.machine().live();
    let mut found = stored(alone);
    found.retain(|index| *index <= state.compacted_index && !live.iter().any(|range| range.contains(index)));
    found
}

impl Alone {
    /// Proposes one value, and goes on until nothing is left to do, or a snapshot was stored: whether it was.
    fn propose_until_stored(&mut self, value: u64) -> bool {
        let stored_at = |store: &MemoryStore| {
            store
                .state(GROUP)
                .ok()
                .flatten()
                .map_or(0, |state| state.snapshot_index)
        };
        let before = stored_at(&self.store);
        let payload = Bytes::copy_from_slice(&value.to_le_bytes());
        self.core.propose(&[payload], 5).expect("it leads");
        while stored_at(&self.store) == before && self.round().expect("a healthy store") {}
        stored_at(&self.store) > before
    }
}

#[test]
fn what_is_freed_when_a_snapshot_is_stored_is_removed_by_the_next_process_too() {
    let (mut ends, mut left) = (0, 0);
    for gap in 5..25 {
        let store = Arc::new(MemoryStore::new());
        let mut alone = Alone::open(&store, &Versions::default());
        alone.lead();
        for number in 0..200 {
            // A new message, and the end of one that is in the log no more, but for its own entry.
            for value in [2 * number, 2 * (number / gap) + 1] {
                if alone.propose_until_stored(value) {
                    // The process ends at once.
                    ends += 1;
                    left += useless(&alone).len();
                    alone = Alone::open(&store, &Versions::default());
                    alone.lead();
                }
            }
        }
        // What the last but one freed goes with the last.
        alone.propose(1);
        alone.propose(1);
        assert_eq!(useless(&alone), [], "with a gap of {gap}");
    }
    assert!(left > 0, "{left} entries were left in {ends} ends");
}
