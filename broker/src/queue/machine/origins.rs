//! Which dead letters of other queues have come here, so that each is taken once: a leader that died may have sent
//! them before.

use std::collections::{BTreeMap, BTreeSet};

use warren_proto::record::Origin;

/// Queues whose dead letters are told apart; the one that was quiet for longest is forgotten first.
pub(super) const QUEUES_MAX: usize = 1_024;
/// Numbers remembered for each, more than any queue has on their way at once.
pub(super) const NUMBERS_MAX: usize = 4_096;

/// Dead letters of one queue.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(super) struct Seen {
    /// All below this have come or never will.
    pub(super) floor: u64,
    /// Those from there on that have come.
    pub(super) numbers: BTreeSet<u64>,
    /// The log entry that brought the last one.
    pub(super) index: u64,
}

#[derive(Clone, Debug)]
pub(super) struct Origins {
    queues: BTreeMap<u64, Seen>,
}

impl Origins {
    pub(super) const fn new() -> Self {
        Self {
            queues: BTreeMap::new(),
        }
    }

    pub(super) fn has_come(&self, origin: &Origin) -> bool {
        self.queues
            .get(&origin.group)
            .is_some_and(|seen| origin.id < seen.floor || seen.numbers.contains(&origin.id))
    }

    pub(super) fn came(&mut self, origin: &Origin, index: u64) {
        let seen = self.queues.entry(origin.group).or_default();
        seen.index = index;
        if origin.floor > seen.floor {
            seen.floor = origin.floor;
            seen.numbers = seen.numbers.split_off(&origin.floor);
        }
        seen.numbers.insert(origin.id);
        if seen.numbers.len() > NUMBERS_MAX {
            seen.numbers.pop_first();
        }
        if self.queues.len() > QUEUES_MAX {
            let quiet = self.queues.iter().min_by_key(|(group, seen)| (seen.index, **group));
            if let Some(group) = quiet.map(|(group, _)| *group) {
                self.queues.remove(&group);
            }
        }
    }

    pub(super) fn len(&self) -> usize {
        self.queues.len()
    }

    /// Ascending by group.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &Seen)> {
        self.queues.iter().map(|(group, seen)| (*group, seen))
    }

    pub(super) fn restore(&mut self, group: u64, seen: Seen) {
        self.queues.insert(group, seen);
    }
}
