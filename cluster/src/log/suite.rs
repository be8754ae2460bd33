//! What every store must do, as one function per promise of [`LogStore`].

use super::*;

/// A way to make an empty store.
pub(crate) type Make<'a> = &'a dyn Fn() -> Box<dyn LogStore>;

type Check = fn(&dyn LogStore);

/// Runs every check, each on an empty store.
pub(crate) fn run(make: Make<'_>) {
    let checks: [(&str, Check); 11] = [
        ("empty", empty),
        ("round_trip", round_trip),
        ("conflicting_tail", conflicting_tail),
        ("removal", removal),
        ("removal_of_wide_ranges", removal_of_wide_ranges),
        ("reads_are_bounded", reads_are_bounded),
        ("groups_are_apart", groups_are_apart),
        ("snapshots", snapshots),
        ("generations", generations),
        ("drops_reach_no_further", drops_reach_no_further),
        ("order_within_a_list", order_within_a_list),
    ];
    for (name, check) in checks {
        eprintln!("{name}");
        check(&*make());
    }
    against_model(make);
}

/// A made-up entry; equal arguments, equal entry.
pub(crate) fn entry(index: u64, term: u64, len: usize) -> LogEntry {
    let seed = index.wrapping_mul(31).wrapping_add(term);
    let data = (0..len as u64).map(|at| (seed + at) as u8).collect::<Vec<_>>();
    LogEntry {
        index,
        term,
        kind: (term % 3) as u8,
        data: data.into(),
    }
}

/// Made-up entries of one term.
pub(crate) fn entries(range: Range<u64>, term: u64) -> Vec<LogEntry> {
    range.map(|index| entry(index, term, 20)).collect()
}

/// An append of [`entries`] to generation 1.
pub(crate) fn append(group: GroupId, range: Range<u64>, term: u64, stored_last: u64) -> Write {
    Write::Append {
        group,
        generation: 1,
        entries: entries(range, term),
        stored_last,
    }
}

/// A removal of one range.
pub(crate) fn remove(group: GroupId, generation: u32, range: Range<u64>) -> Write {
    Write::Remove {
        group,
        generation,
        ranges: std::iter::once(range).collect(),
    }
}

/// A state that differs by `commit`.
pub(crate) fn state(commit: u64) -> ReplicaState {
    ReplicaState {
        term: 7,
        vote: 2,
        commit,
        voters: vec![1, 2, 3],
        generation: 1,
        ..ReplicaState::default()
    }
}

fn indexes(store: &dyn LogStore, group: GroupId, generation: u32) -> Vec<u64> {
    let all = store
        .entries(group, generation, 0..u64::MAX, usize::MAX)
        .expect("a readable store");
    all.iter().map(|entry| entry.index).collect()
}

fn write(store: &dyn LogStore, writes: &[Write]) {
    store.write(writes, false).expect("a writable store");
}

fn empty(store: &dyn LogStore) {
    assert_eq!(store.groups(), Ok(vec![]));
    assert_eq!(store.state(1), Ok(None));
    assert_eq!(store.last_index(1, 1), Ok(None));
    assert_eq!(store.entries(1, 1, 0..u64::MAX, 100), Ok(vec![]));
    assert_eq!(store.entry(1, 1, 1), Ok(None));
    assert_eq!(store.snapshot_chunk(1, 1, 1, 0), Ok(None));
    assert_eq!(store.write(&[], false), Ok(()));
    assert_eq!(store.write(&[], true), Ok(()));
    store.disk_usage().expect("a readable directory");
}

fn round_trip(store: &dyn LogStore) {
    let log = vec![entry(1, 1, 0), entry(2, 1, 1), entry(3, 2, 100_000)];
    let writes = [
        Write::Append {
            group: 5,
            generation: 1,
            entries: log.clone(),
            stored_last: 0,
        },
        Write::State {
            group: 5,
            state: state(3),
        },
    ];
    store.write(&writes, true).expect("a writable store");
    assert_eq!(store.groups(), Ok(vec![5]));
    assert_eq!(store.state(5), Ok(Some(state(3))));
    assert_eq!(store.last_index(5, 1), Ok(Some(3)));
    assert_eq!(store.entries(5, 1, 1..4, usize::MAX), Ok(log.clone()));
    assert_eq!(store.entry(5, 1, 3), Ok(Some(log[2].clone())));
    write(
        store,
        &[Write::State {
            group: 5,
            state: state(4),
        }],
    );
    assert_eq!(store.state(5), Ok(Some(state(4))));
    // The empty append does nothing, whatever it claims to be stored.
    write(
        store,
        &[Write::Append {
            group: 5,
            generation: 1,
            entries: vec![],
            stored_last: 3,
        }],
    );
    assert_eq!(indexes(store, 5, 1), [1, 2, 3]);
}

fn conflicting_tail(store: &dyn LogStore) {
    write(store, &[append(1, 1..11, 1, 0)]);
    write(store, &[append(1, 4..6, 2, 10)]);
    let mut expected = entries(1..4, 1);
    expected.extend(entries(4..6, 2));
    assert_eq!(store.entries(1, 1, 0..100, usize::MAX), Ok(expected));
    assert_eq!(store.last_index(1, 1), Ok(Some(5)));
    // Replaced again and again, then removed: nothing old may come back.
    for term in 3..9 {
        write(store, &[append(1, 4..8, term, if term == 3 { 5 } else { 7 })]);
    }
    assert_eq!(store.entry(1, 1, 7), Ok(Some(entry(7, 8, 20))));
    write(store, &[remove(1, 1, 1..8)]);
    assert_eq!(indexes(store, 1, 1), [0; 0]);
    // A bound that is too high is harmless.
    write(store, &[append(1, 8..10, 9, 300)]);
    assert_eq!(indexes(store, 1, 1), [8, 9]);
}

fn removal(store: &dyn LogStore) {
    write(store, &[append(1, 1..21, 1, 0)]);
    #[expect(clippy::reversed_empty_ranges, reason = "an empty range is what is tried")]
    let ranges = vec![1..5, 7..8, 9..9, 12..10, 30..40, 18..19];
    write(
        store,
        &[Write::Remove {
            group: 1,
            generation: 1,
            ranges,
        }],
    );
    assert_eq!(
        indexes(store, 1, 1),
        [5, 6, 8, 9, 10, 11, 12, 13, 14, 15, 16, 17, 19, 20]
    );
    assert_eq!(store.entry(1, 1, 7), Ok(None));
    assert_eq!(store.entry(1, 1, 8), Ok(Some(entry(8, 1, 20))));
    // Twice is once.
    write(
        store,
        &[Write::Remove {
            group: 1,
            generation: 1,
            ranges: vec![1..6, 7..8],
        }],
    );
    assert_eq!(
        store.entries(1, 1, 0..9, usize::MAX),
        Ok(vec![entry(6, 1, 20), entry(8, 1, 20)])
    );
    assert_eq!(store.last_index(1, 1), Ok(Some(20)));
    write(store, &[remove(1, 1, 20..21)]);
    assert_eq!(store.last_index(1, 1), Ok(Some(19)));
}

fn removal_of_wide_ranges(store: &dyn LogStore) {
    for start in (1..10_001).step_by(1000) {
        write(store, &[append(1, start..start + 1000, 1, start - 1)]);
    }
    write(
        store,
        &[Write::Remove {
            group: 1,
            generation: 1,
            ranges: vec![1..5000, 5001..9999],
        }],
    );
    assert_eq!(indexes(store, 1, 1), [5000, 9999, 10_000]);
    assert_eq!(store.entry(1, 1, 4999), Ok(None));
    assert_eq!(store.entry(1, 1, 5000), Ok(Some(entry(5000, 1, 20))));
    // The indexes are free again, for a log that was cut and grew anew.
    write(store, &[append(1, 4000..4010, 2, 10_000)]);
    assert_eq!(indexes(store, 1, 1), (4000..4010).collect::<Vec<_>>());
    write(store, &[remove(1, 1, 4000..4005)]);
    assert_eq!(indexes(store, 1, 1), (4005..4010).collect::<Vec<_>>());
}

fn reads_are_bounded(store: &dyn LogStore) {
    write(store, &[append(1, 1..11, 1, 0)]);
    let read = |range: Range<u64>, bytes_max| {
        let found = store.entries(1, 1, range, bytes_max).expect("a readable store");
        found.iter().map(|entry| entry.index).collect::<Vec<_>>()
    };
    assert_eq!(read(3..6, usize::MAX), [3, 4, 5]);
    assert_eq!(read(3..6, 40), [3, 4]);
    assert_eq!(read(3..6, 59), [3, 4]);
    assert_eq!(read(3..6, 60), [3, 4, 5]);
    assert_eq!(read(3..6, 0), [3]);
    assert_eq!(read(3..3, 100), [0; 0]);
    assert_eq!(read(11..u64::MAX, 100), [0; 0]);
    assert_eq!(read(10..u64::MAX, 100), [10]);
}

fn groups_are_apart(store: &dyn LogStore) {
    let groups = [1, 2, 255, 256, 1 << 32, u64::MAX];
    for group in groups {
        write(
            store,
            &[
                append(group, 1..4, group, 0),
                Write::State {
                    group,
                    state: state(group),
                },
            ],
        );
    }
    assert_eq!(store.groups(), Ok(groups.to_vec()));
    write(store, &[append(256, 4..5, 1, 3)]);
    for group in groups {
        assert_eq!(store.state(group), Ok(Some(state(group))));
        assert_eq!(store.last_index(group, 1), Ok(Some(if group == 256 { 4 } else { 3 })));
        assert_eq!(store.entry(group, 1, 2), Ok(Some(entry(2, group, 20))));
    }
    assert_eq!(store.last_index(3, 1), Ok(None));
}

fn snapshots(store: &dyn LogStore) {
    let chunk = |snapshot_index, number, text: &'static str| Write::SnapshotChunk {
        group: 1,
        generation: 1,
        snapshot_index,
        number,
        data: Bytes::from_static(text.as_bytes()),
    };
    write(
        store,
        &[
            chunk(10, 0, "old"),
            chunk(10, 1, "older"),
            chunk(20, 0, "new"),
            chunk(20, 1, ""),
        ],
    );
    assert_eq!(
        store.snapshot_chunk(1, 1, 10, 1),
        Ok(Some(Bytes::from_static(b"older")))
    );
    write(
        store,
        &[
            Write::RemoveSnapshot {
                group: 1,
                generation: 1,
                snapshot_index: 10,
            },
            chunk(20, 1, "other"),
        ],
    );
    assert_eq!(store.snapshot_chunk(1, 1, 10, 0), Ok(None));
    assert_eq!(store.snapshot_chunk(1, 1, 10, 1), Ok(None));
    assert_eq!(store.snapshot_chunk(1, 1, 20, 0), Ok(Some(Bytes::from_static(b"new"))));
    assert_eq!(
        store.snapshot_chunk(1, 1, 20, 1),
        Ok(Some(Bytes::from_static(b"other")))
    );
    assert_eq!(store.snapshot_chunk(1, 2, 20, 0), Ok(None));
    assert_eq!(store.snapshot_chunk(1, 1, 20, 2), Ok(None));
    // The same snapshot may be stored again after it was removed.
    write(store, &[chunk(10, 0, "again")]);
    assert_eq!(
        store.snapshot_chunk(1, 1, 10, 0),
        Ok(Some(Bytes::from_static(b"again")))
    );
    assert_eq!(store.snapshot_chunk(1, 1, 10, 1), Ok(None));
}

fn generations(store: &dyn LogStore) {
    let staged = |first: u64, stored_last| Write::Append {
        group: 1,
        generation: 2,
        entries: entries(first..first + 2, 5),
        stored_last,
    };
    let chunk = Write::SnapshotChunk {
        group: 1,
        generation: 2,
        snapshot_index: 50,
        number: 0,
        data: Bytes::from_static(b"state"),
    };
    write(
        store,
        &[
            append(1, 1..11, 1, 0),
            Write::State {
                group: 1,
                state: state(1),
            },
        ],
    );
    assert_eq!(store.generations(1), Ok(vec![1]));
    assert_eq!(store.generations(0), Ok(vec![]));
    assert_eq!(store.generations(2), Ok(vec![]));
    // A transfer that breaks off, and the next one under the same number.
    write(store, &[staged(3, 0), staged(8, 4), chunk.clone()]);
    assert_eq!(store.generations(1), Ok(vec![1, 2]));
    assert_eq!(indexes(store, 1, 2), [3, 4, 8, 9]);
    assert_eq!(indexes(store, 1, 1), (1..11).collect::<Vec<_>>());
    write(
        store,
        &[Write::DropGeneration {
            group: 1,
            generation: 2,
        }],
    );
    assert_eq!(indexes(store, 1, 2), [0; 0]);
    assert_eq!(store.snapshot_chunk(1, 2, 50, 0), Ok(None));
    assert_eq!(store.generations(1), Ok(vec![1]));
    let elsewhere = Write::SnapshotChunk {
        group: u64::MAX,
        generation: u32::MAX,
        snapshot_index: 1,
        number: 0,
        data: Bytes::from_static(b"state"),
    };
    write(store, &[staged(8, 0), chunk, elsewhere]);
    assert_eq!(store.generations(u64::MAX), Ok(vec![u32::MAX]));
    write(
        store,
        &[
            Write::DropGeneration {
                group: 1,
                generation: 1,
            },
            Write::State {
                group: 1,
                state: state(9),
            },
        ],
    );
    assert_eq!(indexes(store, 1, 1), [0; 0]);
    assert_eq!(indexes(store, 1, 2), [8, 9]);
    assert_eq!(store.state(1), Ok(Some(state(9))));
    assert_eq!(
        store.snapshot_chunk(1, 2, 50, 0),
        Ok(Some(Bytes::from_static(b"state")))
    );
    write(store, &[remove(1, 2, 8..9)]);
    assert_eq!(indexes(store, 1, 2), [9]);
}

fn drops_reach_no_further(store: &dyn LogStore) {
    let groups = [6, 7, 8, u64::MAX];
    for group in groups {
        let chunk = Write::SnapshotChunk {
            group,
            generation: 1,
            snapshot_index: 2,
            number: 0,
            data: Bytes::new(),
        };
        write(
            store,
            &[
                append(group, 1..4, 1, 0),
                Write::State { group, state: state(1) },
                chunk,
            ],
        );
    }
    for (dropped, left) in [(7, vec![6, 8, u64::MAX]), (u64::MAX, vec![6, 8])] {
        write(store, &[Write::DropGroup { group: dropped }]);
        assert_eq!(store.groups(), Ok(left.clone()));
        assert_eq!(store.state(dropped), Ok(None));
        assert_eq!(store.last_index(dropped, 1), Ok(None));
        assert_eq!(store.snapshot_chunk(dropped, 1, 2, 0), Ok(None));
        for group in left {
            assert_eq!(store.last_index(group, 1), Ok(Some(3)));
            assert_eq!(store.snapshot_chunk(group, 1, 2, 0), Ok(Some(Bytes::new())));
        }
    }
}

fn order_within_a_list(store: &dyn LogStore) {
    write(
        store,
        &[
            append(1, 1..6, 1, 0),
            remove(1, 1, 1..3),
            append(1, 3..5, 2, 5),
            Write::State {
                group: 1,
                state: state(1),
            },
            Write::State {
                group: 1,
                state: state(2),
            },
            append(2, 1..3, 1, 0),
            Write::State {
                group: 2,
                state: state(1),
            },
            Write::DropGroup { group: 2 },
        ],
    );
    assert_eq!(store.entries(1, 1, 0..10, usize::MAX), Ok(entries(3..5, 2)));
    assert_eq!(store.state(1), Ok(Some(state(2))));
    assert_eq!(store.groups(), Ok(vec![1]));
    assert_eq!(store.last_index(2, 1), Ok(None));
}

/// Random logs, grown, cut, compacted and dropped, compared with plain maps after every write.
fn against_model(make: Make<'_>) {
    use proptest::prelude::*;
    use proptest::test_runner::{Config, TestRunner};
    use std::collections::BTreeMap;

    #[derive(Clone, Debug)]
    enum Step {
        Append { first_back: u64, count: u64, slack: u64 },
        Remove { from: u64, len: u64 },
        Drop { group: bool },
    }
    let step = prop_oneof![
        5 => (0..6_u64, 1..30_u64, 0..3_u64).prop_map(|(first_back, count, slack)| Step::Append { first_back, count, slack }),
        4 => (0..80_u64, 0..2500_u64).prop_map(|(from, len)| Step::Remove { from, len: len / if len < 2000 { 100 } else { 1 } }),
        1 => any::<bool>().prop_map(|group| Step::Drop { group }),
    ];
    let steps = prop::collection::vec((1..4_u64, 1..3_u32, step), 1..60);
    let config = Config {
        cases: 24,
        failure_persistence: None,
        ..Config::default()
    };
    let outcome = TestRunner::new(config).run(&steps, |steps| {
        let store = make();
        let mut model: BTreeMap<(GroupId, u32), BTreeMap<u64, LogEntry>> = BTreeMap::new();
        // Where each log ends, removed entries included.
        let mut lasts: BTreeMap<(GroupId, u32), u64> = BTreeMap::new();
        for (number, (group, generation, step)) in steps.into_iter().enumerate() {
            let log = model.entry((group, generation)).or_default();
            let last = lasts.entry((group, generation)).or_default();
            match step {
                Step::Append {
                    first_back,
                    count,
                    slack,
                } => {
                    let first = (*last + 1).saturating_sub(first_back).max(1);
                    let new: Vec<_> = (first..first + count)
                        .map(|index| entry(index, number as u64, 30))
                        .collect();
                    let stored_last = log.last_key_value().map_or(0, |(index, _)| *index) + slack;
                    log.split_off(&first);
                    log.extend(new.iter().map(|entry| (entry.index, entry.clone())));
                    *last = first + count - 1;
                    write(
                        &*store,
                        &[Write::Append {
                            group,
                            generation,
                            entries: new,
                            stored_last,
                        }],
                    );
                }
                Step::Remove { from, len } => {
                    log.retain(|index, _| !(from..from + len).contains(index));
                    write(&*store, &[remove(group, generation, from..from + len)]);
                }
                Step::Drop { group: false } => {
                    log.clear();
                    *last = 0;
                    write(&*store, &[Write::DropGeneration { group, generation }]);
                }
                Step::Drop { group: true } => {
                    model.retain(|key, _| key.0 != group);
                    lasts.retain(|key, _| key.0 != group);
                    write(&*store, &[Write::DropGroup { group }]);
                }
            }
            for ((group, generation), log) in &model {
                let found = store
                    .entries(*group, *generation, 0..u64::MAX, usize::MAX)
                    .expect("a readable store");
                prop_assert_eq!(&found, &log.values().cloned().collect::<Vec<_>>());
                prop_assert_eq!(
                    store.last_index(*group, *generation).expect("a readable store"),
                    log.last_key_value().map(|(index, _)| *index)
                );
            }
        }
        Ok(())
    });
    if let Err(error) = outcome {
        panic!("{error}");
    }
}
