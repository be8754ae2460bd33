use bytes::Bytes;

use super::super::super::suite::remove;
use super::super::tests::Directory;
use super::super::{LogStore, RocksStore};
use super::*;
use crate::log::{LogEntry, Write};

const ENTRY: usize = 256 << 10;

/// Appends `count` entries of 256 KiB from `first` on.
fn fill(store: &RocksStore, group: u64, first: u64, count: u64) {
    let data = Bytes::from(vec![7; ENTRY]);
    for index in first..first + count {
        let entries = vec![LogEntry {
            index,
            term: 1,
            kind: 0,
            data: data.clone(),
        }];
        let append = Write::Append {
            group,
            generation: 1,
            entries,
            stored_last: index - 1,
        };
        store.write(&[append], false).expect("a write");
    }
    store.db.flush_cf(store.entries()).expect("a flush");
}

fn stored(store: &RocksStore) -> u64 {
    ["rocksdb.total-sst-files-size", "rocksdb.total-blob-file-size"]
        .iter()
        .map(|property| number(&store.db, store.entries(), property))
        .sum()
}

/// Rounds of upkeep until at most `most` bytes are stored; compactions that RocksDB starts by itself go on beside.
fn settles_at(store: &RocksStore, most: u64) {
    for _ in 0..6000 {
        store.upkeep.round().expect("upkeep");
        if stored(store) <= most {
            return;
        }
        // Asking without a pause would keep the compaction from the database's lock.
        std::thread::park_timeout(Duration::from_millis(10));
    }
    panic!("{} bytes are stored, {most} were expected", stored(store));
}

#[test]
fn a_drained_queue_gives_its_disk_back() {
    let directory = Directory::new();
    let store = directory.open().expect("a new store");
    fill(&store, 1, 1, 400);
    assert!(stored(&store) >= 100 * MIB);
    for index in 1..400 {
        store.write(&[remove(1, 1, index..index + 1)], false).expect("a write");
    }
    // What is left is the one file that holds the last entry: as large as the memory that was flushed to it.
    settles_at(&store, 50 * MIB);
    assert_eq!(store.last_index(1, 1), Ok(Some(400)));
}

#[test]
fn a_dropped_group_gives_its_disk_back() {
    let directory = Directory::new();
    let store = directory.open().expect("a new store");
    fill(&store, 1, 1, 100);
    fill(&store, 2, 1, 4);
    store.write(&[Write::DropGroup { group: 1 }], false).expect("a write");
    settles_at(&store, 2 * MIB);
    assert_eq!(store.last_index(2, 1), Ok(Some(4)));
}

#[test]
fn a_dropped_group_gives_its_disk_back_after_a_crash() {
    let directory = Directory::new();
    let store = directory.open().expect("a new store");
    fill(&store, 1, 1, 100);
    store.write(&[Write::DropGroup { group: 1 }], true).expect("a write");
    store.db.flush_cf(store.entries()).expect("a flush");
    drop(store);
    let store = directory.open().expect("the same store");
    settles_at(&store, MIB);
}

#[test]
fn what_stays_for_long_is_moved_together() {
    let directory = Directory::new();
    let store = directory.open().expect("a new store");
    for part in 0..8 {
        fill(&store, 1, 1 + part * 64, 64);
    }
    assert!(stored(&store) >= 128 * MIB);
    // Every sixteenth stays: in every file there is something left.
    for index in (1..=512).filter(|index| index % 16 != 0) {
        store.write(&[remove(1, 1, index..index + 1)], false).expect("a write");
    }
    settles_at(&store, 16 * MIB);
    for index in (16..=512).step_by(16) {
        let entry = store
            .entry(1, 1, index)
            .expect("a readable store")
            .expect("an entry that stayed");
        assert_eq!(entry.data.len(), ENTRY);
    }
}

#[test]
fn replaced_snapshots_give_their_disk_back() {
    let directory = Directory::new();
    let store = directory.open().expect("a new store");
    for snapshot_index in 1..40 {
        let chunk = |number| Write::SnapshotChunk {
            group: 1,
            generation: 1,
            snapshot_index,
            number,
            data: Bytes::from(vec![7; MIB as usize]),
        };
        let writes = [
            chunk(0),
            chunk(1),
            Write::RemoveSnapshot {
                group: 1,
                generation: 1,
                snapshot_index: snapshot_index - 1,
            },
        ];
        store.write(&writes, false).expect("a write");
        store.upkeep.round().expect("upkeep");
        let size = number(&store.db, store.replicas(), "rocksdb.total-sst-files-size");
        assert!(size < 64 * MIB, "{size} bytes after snapshot {snapshot_index}");
    }
    assert_eq!(store.snapshot_chunk(1, 1, 38, 0), Ok(None));
    assert!(store.snapshot_chunk(1, 1, 39, 1).expect("a readable store").is_some());
}
