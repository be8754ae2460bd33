//! Gives disk back that RocksDB by itself would keep.
//!
//! RocksDB compacts where much is written. A queue that was drained is the opposite: a few small records that say how
//! much is gone, resting in memory. So every [`PERIOD_MS`], on a thread of its own:
//!
//! - removals in memory are flushed, where there is enough on the disk for them to matter;
//! - ranges that were removed with one record are compacted;
//! - where most of what the blob files hold is gone, the rest is moved together;
//! - the replicas' family, whose snapshots come and go, is compacted when it has doubled.
//!
//! Each costs in proportion to what was written or removed since, so that the store stays within about twice what it
//! holds plus a constant. A round that took long is followed by a longer pause.

use std::ops::Range;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::{Duration, Instant};

use rocksdb::{BottommostLevelCompaction, ColumnFamily, CompactOptions, DB};

use super::{Error, entries, replicas};

const PERIOD_MS: u64 = 10_000;
/// A pause is at least this many times as long as the round before it.
const PAUSE_FACTOR: u32 = 10;
const MIB: u64 = 1 << 20;
/// Below this, nothing is worth giving back.
const WORTHWHILE: u64 = 64 * MIB;
const REPLICAS_SLACK: u64 = 32 * MIB;
/// More pending ranges than this are compacted as one.
const RANGES_MAX: usize = 64;

/// The thread and what it is told.
pub(super) struct Upkeep {
    shared: Arc<Shared>,
    thread: Option<JoinHandle<()>>,
}

struct Shared {
    db: Arc<DB>,
    /// Entries were removed one by one since the last flush.
    removed: AtomicBool,
    /// Size of the replicas' family after its last compaction.
    replicas_size: AtomicU64,
    tasks: Mutex<Tasks>,
    wake: Condvar,
}

#[derive(Default)]
struct Tasks {
    stop: bool,
    ranges: Vec<Range<Vec<u8>>>,
}

impl Upkeep {
    pub(super) fn new(db: Arc<DB>) -> Self {
        let replicas_size = AtomicU64::new(number(&db, replicas(&db), "rocksdb.total-sst-files-size"));
        let shared = Shared {
            removed: AtomicBool::new(true),
            replicas_size,
            tasks: Mutex::default(),
            wake: Condvar::new(),
            db,
        };
        if shared.holds_range_tombstones() {
            // The process ended before they were compacted away; which they were is not worth keeping.
            shared.lock().ranges.push(everything());
        }
        Self {
            shared: Arc::new(shared),
            thread: None,
        }
    }

    pub(super) fn start(&mut self) -> Result<(), Error> {
        let shared = self.shared.clone();
        let thread = std::thread::Builder::new()
            .name("log-upkeep".into())
            .spawn(move || run(&shared))
            .map_err(|error| Error::Io(format!("no thread for the log's upkeep: {error}")))?;
        self.thread = Some(thread);
        Ok(())
    }

    /// Single entries were removed.
    pub(super) fn removed(&self) {
        // A plain load first: this is called for every removal, and the flag is almost always set.
        if !self.shared.removed.load(Ordering::Relaxed) {
            self.shared.removed.store(true, Ordering::Relaxed);
        }
    }

    /// A whole range of entries was removed with one record.
    pub(super) fn removed_all(&self, bounds: Range<Vec<u8>>) {
        let mut tasks = self.shared.lock();
        tasks.ranges.push(bounds);
        if tasks.ranges.len() > RANGES_MAX {
            tasks.ranges = vec![everything()];
        }
    }

    /// One round, now.
    #[cfg(test)]
    pub(super) fn round(&self) -> Result<(), rocksdb::Error> {
        self.shared.round()
    }
}

impl Drop for Upkeep {
    fn drop(&mut self) {
        self.shared.lock().stop = true;
        self.shared.wake.notify_one();
        if let Some(thread) = self.thread.take() {
            // Else a compaction would have to be waited for. Nothing is lost by it.
            self.shared.db.cancel_all_background_work(true);
            if thread.join().is_err() {
                tracing::error!("the log's upkeep panicked");
            }
        }
    }
}

fn run(shared: &Shared) {
    let mut tasks = shared.lock();
    let mut period = Duration::from_millis(PERIOD_MS);
    loop {
        let waited = shared.wake.wait_timeout_while(tasks, period, |tasks| !tasks.stop);
        tasks = waited.unwrap_or_else(PoisonError::into_inner).0;
        if tasks.stop {
            return;
        }
        drop(tasks);
        let start = Instant::now();
        if let Err(error) = shared.round() {
            // What is wrong with the disk shows at the next write, which is fatal; here only disk is not given back.
            tracing::warn!(%error, "the log's upkeep failed");
        }
        period = (start.elapsed() * PAUSE_FACTOR).max(Duration::from_millis(PERIOD_MS));
        tasks = shared.lock();
    }
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Tasks> {
        self.tasks.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn round(&self) -> Result<(), rocksdb::Error> {
        self.flush_removals()?;
        self.compact_ranges()?;
        self.gather_blobs()?;
        self.compact_replicas();
        Ok(())
    }

    fn flush_removals(&self) -> Result<(), rocksdb::Error> {
        let family = entries(&self.db);
        let stored =
            self.number(family, "rocksdb.total-sst-files-size") + self.number(family, "rocksdb.total-blob-file-size");
        if stored >= WORTHWHILE && self.removed.swap(false, Ordering::Relaxed) {
            self.db.flush_cf(family)?;
        }
        Ok(())
    }

    fn compact_ranges(&self) -> Result<(), rocksdb::Error> {
        let ranges = std::mem::take(&mut self.lock().ranges);
        if ranges.is_empty() {
            return Ok(());
        }
        let family = entries(&self.db);
        self.db.flush_cf(family)?;
        for range in ranges {
            self.db
                .compact_range_cf_opt(family, Some(range.start), Some(range.end), &beside_others());
        }
        Ok(())
    }

    fn gather_blobs(&self) -> Result<(), rocksdb::Error> {
        let family = entries(&self.db);
        let garbage = self.number(family, "rocksdb.live-blob-file-garbage-size");
        let size = self.number(family, "rocksdb.live-blob-file-size");
        if garbage < WORTHWHILE.max(size / 2) {
            return Ok(());
        }
        self.db
            .set_options_cf(family, &[("enable_blob_garbage_collection", "true")])?;
        let mut options = beside_others();
        options.set_bottommost_level_compaction(BottommostLevelCompaction::Force);
        self.db
            .compact_range_cf_opt(family, None::<&[u8]>, None::<&[u8]>, &options);
        self.db
            .set_options_cf(family, &[("enable_blob_garbage_collection", "false")])
    }

    fn compact_replicas(&self) {
        let family = replicas(&self.db);
        let size = || self.number(family, "rocksdb.total-sst-files-size");
        let before = self.replicas_size.load(Ordering::Relaxed);
        if size() < 2 * before + REPLICAS_SLACK {
            return;
        }
        self.db
            .compact_range_cf_opt(family, None::<&[u8]>, None::<&[u8]>, &beside_others());
        self.replicas_size.store(size(), Ordering::Relaxed);
    }

    fn holds_range_tombstones(&self) -> bool {
        let properties = self
            .db
            .property_value_cf(entries(&self.db), "rocksdb.aggregated-table-properties");
        let Ok(Some(properties)) = properties else { return true };
        let count = properties
            .split(';')
            .find_map(|property| property.trim().strip_prefix("# range deletions="));
        count.is_none_or(|count| count.trim() != "0")
    }

    fn number(&self, family: &ColumnFamily, property: &str) -> u64 {
        number(&self.db, family, property)
    }
}

/// A property that is a number; 0 where the database does not know it.
fn number(db: &DB, family: &ColumnFamily, property: &str) -> u64 {
    db.property_int_value_cf(family, property).ok().flatten().unwrap_or(0)
}

/// Above every entry's key.
fn everything() -> Range<Vec<u8>> {
    vec![]..vec![u8::MAX; super::keys::ENTRY_KEY_LEN + 1]
}

/// A compaction that lets RocksDB's own go on.
fn beside_others() -> CompactOptions {
    let mut options = CompactOptions::default();
    options.set_exclusive_manual_compaction(false);
    options
}

#[cfg(test)]
mod tests;
