//! The contract on RocksDB: the only file that names it.
//!
//! Entries are written once and removed once, mostly soon after. So they stand in a column family of their own:
//! a removal annihilates with what it removes at the first flush or compaction where the two meet, and larger entries
//! go to files of their own at the flush, which no compaction rewrites. Such a file is deleted when nothing in it is
//! left; where single entries stay for long, `upkeep` moves them together.

use std::collections::BTreeSet;
use std::fs::OpenOptions;
use std::io::Write as _;
use std::ops::Range;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use bytes::{Buf, BufMut, Bytes};
use prost::Message;
use rocksdb::{
    BlockBasedOptions, Cache, ColumnFamily, ColumnFamilyDescriptor, DB, DBCompressionType, DBRawIterator,
    DBRecoveryMode, ErrorKind, LogLevel, Options, ReadOptions, WriteBatch, WriteOptions,
};
use rustix::fs::OFlags;

use self::upkeep::Upkeep;
use super::{Error, Identity, LogEntry, LogStore, REMOVED_SINGLY_MAX, ReplicaState, Write, keys};
use crate::GroupId;

mod upkeep;

/// Grows when an older build could no longer read what this one writes.
pub const FORMAT_VERSION: u32 = 1;

const MIB: usize = 1 << 20;
/// Memtables of the entries: 48 MiB at most. Two are flushed together: what is removed meanwhile never gets there.
const ENTRIES_BUFFER: usize = 12 * MIB;
const ENTRIES_BUFFERS: i32 = 4;
const REPLICAS_BUFFER: usize = 4 * MIB;
const BLOCK_CACHE: usize = 16 * MIB;
const BLOCK: usize = 16 << 10;
/// Values of this size and more are flushed to blob files.
const BLOB_MIN: u64 = 512;
/// Small: where the system gives a removed file's space back to the device at once, it syncs no other file meanwhile.
const BLOB_FILE: u64 = 6 * MIB as u64;
const WAL_BYTES_MAX: u64 = 64 * MIB as u64;
const OPEN_FILES_MAX: i32 = 512;
/// The alignment that every file system asks of direct writes, or less.
const DIRECT_BLOCK: usize = 4 << 10;

/// A store in a directory of its own.
pub struct RocksStore {
    path: PathBuf,
    db: Arc<DB>,
    /// Set by a failed write: what the log holds is unknown from then on.
    failed: AtomicBool,
    /// Ends before the database is closed: it has a reference.
    upkeep: Upkeep,
}

impl RocksStore {
    /// Opens the store in `path`; makes directory and store where there is nothing yet.
    ///
    /// # Errors
    /// Each names the directory and says what is wrong with it: [`Error::Unusable`], [`Error::Locked`],
    /// [`Error::Foreign`], [`Error::WrongIdentity`], [`Error::NewerFormat`], [`Error::Damaged`].
    pub fn open(path: impl AsRef<Path>, identity: &Identity) -> Result<Self, Error> {
        let path = path.as_ref().to_path_buf();
        let exists = survey(&path)?;
        if exists {
            refuse_other_families(&path)?;
        }
        let cache = Cache::new_lru_cache(BLOCK_CACHE);
        let families = [
            ColumnFamilyDescriptor::new(keys::REPLICAS, replicas_options(&cache)),
            ColumnFamilyDescriptor::new(keys::ENTRIES, entries_options(&cache)),
        ];
        let options = database_options(takes_direct_writes(&path));
        let db = DB::open_cf_descriptors(&options, &path, families).map_err(|error| open_error(&path, &error))?;
        let db = Arc::new(db);
        let upkeep = Upkeep::new(db.clone());
        let mut store = Self {
            path,
            db,
            failed: AtomicBool::new(false),
            upkeep,
        };
        store.claim(identity)?;
        store.upkeep.start()?;
        Ok(store)
    }

    /// Compares the identity, or records it in a store that holds nothing yet.
    fn claim(&self, identity: &Identity) -> Result<(), Error> {
        let path = || self.path.clone();
        let value = self
            .db
            .get_cf(self.replicas(), keys::IDENTITY)
            .map_err(|error| self.damaged(&error))?;
        let Some(value) = value else {
            if !self.holds_nothing()? {
                return Err(Error::Foreign {
                    path: path(),
                    reason: "a database without Warren's mark".into(),
                });
            }
            let mut batch = WriteBatch::default();
            let record = keys::encode_record(&keys::IDENTITY, &encode_identity(identity));
            batch.put_cf(self.replicas(), keys::IDENTITY, record);
            return self
                .db
                .write_opt(batch, &synced())
                .map_err(|error| open_error(&self.path, &error));
        };
        let damaged = || Error::Damaged {
            path: path(),
            reason: "its identity is corrupt".into(),
        };
        let mut record = keys::decode_record(&keys::IDENTITY, &value).ok_or_else(damaged)?;
        // The version comes first in every version.
        let version = record.try_get_u32_le().map_err(|_| damaged())?;
        if version > FORMAT_VERSION {
            return Err(Error::NewerFormat {
                path: path(),
                found: version,
                supported: FORMAT_VERSION,
            });
        }
        let found = decode_identity(record).ok_or_else(damaged)?;
        if found != *identity {
            return Err(Error::WrongIdentity {
                path: path(),
                found,
                expected: identity.clone(),
            });
        }
        Ok(())
    }

    fn holds_nothing(&self) -> Result<bool, Error> {
        for family in [self.replicas(), self.entries()] {
            let mut rows = self.db.raw_iterator_cf(family);
            rows.seek_to_first();
            rows.status().map_err(|error| self.damaged(&error))?;
            if rows.valid() {
                return Ok(false);
            }
        }
        Ok(true)
    }

    fn entries(&self) -> &ColumnFamily {
        self.db
            .cf_handle(keys::ENTRIES)
            .expect("the store is opened with this family")
    }

    fn replicas(&self) -> &ColumnFamily {
        self.db
            .cf_handle(keys::REPLICAS)
            .expect("the store is opened with this family")
    }

    fn damaged(&self, error: &rocksdb::Error) -> Error {
        Error::Damaged {
            path: self.path.clone(),
            reason: error.to_string(),
        }
    }

    fn read_error(&self, error: &rocksdb::Error) -> Error {
        match error.kind() {
            ErrorKind::Corruption => self.damaged(error),
            _ => Error::Io(error.to_string()),
        }
    }

    fn rows(&self, family: &ColumnFamily, bounds: Range<Vec<u8>>) -> DBRawIterator<'_> {
        let mut options = ReadOptions::default();
        options.set_iterate_range(bounds);
        // A sweep through a backlog must not push out what single reads come back to.
        options.fill_cache(false);
        self.db.raw_iterator_cf_opt(family, options)
    }

    fn record(&self, group: GroupId, key: &[u8], what: impl FnOnce() -> String) -> Result<Option<Bytes>, Error> {
        let value = self
            .db
            .get_pinned_cf(self.replicas(), key)
            .map_err(|error| self.read_error(&error))?;
        let Some(value) = value else { return Ok(None) };
        match keys::decode_record(key, &value) {
            Some(record) => Ok(Some(Bytes::copy_from_slice(record))),
            None => Err(Error::CorruptRecord { group, what: what() }),
        }
    }

    fn batch(&self, writes: &[Write]) -> WriteBatch {
        let (entries_family, replicas_family) = (self.entries(), self.replicas());
        let bytes: usize = writes.iter().map(|write| write.len() + 64).sum();
        let mut batch = WriteBatch::with_capacity_bytes(bytes);
        let mut value = Vec::new();
        for write in writes {
            match write {
                Write::Append {
                    group,
                    generation,
                    entries,
                    stored_last,
                } => {
                    let Some(first) = entries.first() else { continue };
                    // A single deletion undoes one put, so each put must find its key unused.
                    self.remove(
                        &mut batch,
                        *group,
                        *generation,
                        first.index..stored_last.saturating_add(1),
                    );
                    for (entry, index) in entries.iter().zip(first.index..) {
                        assert_eq!(entry.index, index, "entries of group {group} ascend without gaps");
                        let key = keys::entry(*group, *generation, index);
                        keys::encode_entry(&key, entry.term, entry.kind, &entry.data, &mut value);
                        batch.put_cf(entries_family, key, &value);
                    }
                }
                Write::State { group, state } => {
                    let key = keys::state(*group);
                    batch.put_cf(replicas_family, key, keys::encode_record(&key, &state.encode_to_vec()));
                }
                Write::Remove {
                    group,
                    generation,
                    ranges,
                } => {
                    for range in ranges {
                        self.remove(&mut batch, *group, *generation, range.clone());
                    }
                }
                Write::SnapshotChunk {
                    group,
                    generation,
                    snapshot_index,
                    number,
                    data,
                } => {
                    let key = keys::chunk(*group, *generation, *snapshot_index, *number);
                    batch.put_cf(replicas_family, &key, keys::encode_record(&key, data));
                }
                Write::RemoveSnapshot {
                    group,
                    generation,
                    snapshot_index,
                } => {
                    let chunks = keys::snapshot_chunks(*group, *generation, *snapshot_index);
                    batch.delete_range_cf(replicas_family, chunks.start, chunks.end);
                }
                Write::DropGeneration { group, generation } => {
                    let entries = keys::generation_entries(*group, *generation);
                    let chunks = keys::generation_chunks(*group, *generation);
                    self.remove_all(&mut batch, entries);
                    batch.delete_range_cf(replicas_family, chunks.start, chunks.end);
                }
                Write::DropGroup { group } => {
                    let entries = keys::group_entries(*group);
                    let chunks = keys::group_chunks(*group);
                    self.remove_all(&mut batch, entries);
                    batch.delete_range_cf(replicas_family, chunks.start, chunks.end);
                    batch.delete_cf(replicas_family, keys::state(*group));
                }
            }
        }
        batch
    }

    fn remove(&self, batch: &mut WriteBatch, group: GroupId, generation: u32, range: Range<u64>) {
        if range.is_empty() {
            return;
        }
        let key = |index| keys::entry(group, generation, index);
        if range.end - range.start > REMOVED_SINGLY_MAX {
            self.remove_all(batch, key(range.start).to_vec()..key(range.end).to_vec());
        } else {
            for index in range {
                batch.single_delete_cf(self.entries(), key(index));
            }
            self.upkeep.removed();
        }
    }

    /// Removes entries with one record. Only for wide ranges: each such record makes every read slower until upkeep
    /// has compacted it away, and by itself it gives no disk back.
    fn remove_all(&self, batch: &mut WriteBatch, bounds: Range<Vec<u8>>) {
        batch.delete_range_cf(self.entries(), &bounds.start, &bounds.end);
        self.upkeep.removed_all(bounds);
    }
}

impl LogStore for RocksStore {
    fn groups(&self) -> Result<Vec<GroupId>, Error> {
        let mut rows = self.rows(self.replicas(), keys::states());
        let mut groups = Vec::new();
        rows.seek_to_first();
        while let Some(key) = rows.key() {
            groups.extend(keys::state_group(key));
            rows.next();
        }
        rows.status().map_err(|error| self.read_error(&error))?;
        Ok(groups)
    }

    fn state(&self, group: GroupId) -> Result<Option<ReplicaState>, Error> {
        let what = || "replica state".to_owned();
        let Some(record) = self.record(group, &keys::state(group), what)? else {
            return Ok(None);
        };
        match ReplicaState::decode(record) {
            Ok(state) => Ok(Some(state)),
            Err(_) => Err(Error::CorruptRecord { group, what: what() }),
        }
    }

    fn generations(&self, group: GroupId) -> Result<Vec<u32>, Error> {
        let mut found = BTreeSet::new();
        let families = [
            (self.entries(), keys::group_entries(group)),
            (self.replicas(), keys::group_chunks(group)),
        ];
        for (family, mut range) in families {
            // From the first row of each generation to the first behind it.
            loop {
                let mut rows = self.rows(family, range.clone());
                rows.seek_to_first();
                rows.status().map_err(|error| self.read_error(&error))?;
                let Some(generation) = rows.key().and_then(keys::generation) else {
                    break;
                };
                found.insert(generation);
                let of_it = match rows.key() {
                    Some(key) if key.len() == keys::ENTRY_KEY_LEN => keys::generation_entries(group, generation),
                    _ => keys::generation_chunks(group, generation),
                };
                range = of_it.end..range.end;
            }
        }
        Ok(found.into_iter().collect())
    }

    fn last_index(&self, group: GroupId, generation: u32) -> Result<Option<u64>, Error> {
        let mut rows = self.rows(self.entries(), keys::generation_entries(group, generation));
        rows.seek_to_last();
        rows.status().map_err(|error| self.read_error(&error))?;
        Ok(rows.key().and_then(keys::entry_index))
    }

    fn entries(
        &self,
        group: GroupId,
        generation: u32,
        range: Range<u64>,
        bytes_max: usize,
    ) -> Result<Vec<LogEntry>, Error> {
        let mut found = Vec::new();
        if range.is_empty() {
            return Ok(found);
        }
        let bound = |index| keys::entry(group, generation, index).to_vec();
        let mut rows = self.rows(self.entries(), bound(range.start)..bound(range.end));
        let mut bytes = 0;
        rows.seek_to_first();
        while let Some((key, value)) = rows.item() {
            bytes += value.len().saturating_sub(keys::ENTRY_HEADER_LEN);
            if bytes > bytes_max && !found.is_empty() {
                break;
            }
            let index = keys::entry_index(key).unwrap_or_default();
            found.push(decode(group, index, key, value)?);
            rows.next();
        }
        rows.status().map_err(|error| self.read_error(&error))?;
        Ok(found)
    }

    fn entry(&self, group: GroupId, generation: u32, index: u64) -> Result<Option<LogEntry>, Error> {
        let key = keys::entry(group, generation, index);
        let value = self
            .db
            .get_pinned_cf(self.entries(), key)
            .map_err(|error| self.read_error(&error))?;
        value.map(|value| decode(group, index, &key, &value)).transpose()
    }

    fn snapshot_chunk(
        &self,
        group: GroupId,
        generation: u32,
        snapshot_index: u64,
        number: u32,
    ) -> Result<Option<Bytes>, Error> {
        let key = keys::chunk(group, generation, snapshot_index, number);
        self.record(group, &key, || {
            format!("chunk {number} of the snapshot at {snapshot_index}")
        })
    }

    fn write(&self, writes: &[Write], sync: bool) -> Result<(), Error> {
        if self.failed.load(Ordering::Acquire) {
            return Err(Error::Io("an earlier write failed".into()));
        }
        let result = if writes.is_empty() {
            if sync { self.db.flush_wal(true) } else { Ok(()) }
        } else {
            let options = if sync { synced() } else { WriteOptions::default() };
            self.db.write_opt(self.batch(writes), &options)
        };
        result.map_err(|error| {
            self.failed.store(true, Ordering::Release);
            Error::Io(error.to_string())
        })
    }

    fn disk_usage(&self) -> Result<u64, Error> {
        use std::os::unix::fs::MetadataExt;

        let io_error = |error: std::io::Error| Error::Io(format!("cannot list {}: {error}", self.path.display()));
        let mut bytes = 0;
        for file in std::fs::read_dir(&self.path).map_err(io_error)? {
            // Files come and go meanwhile.
            if let Ok(metadata) = file.map_err(io_error)?.metadata() {
                bytes += metadata.blocks() * 512;
            }
        }
        Ok(bytes)
    }
}

fn entries(db: &DB) -> &ColumnFamily {
    db.cf_handle(keys::ENTRIES)
        .expect("the store is opened with this family")
}

fn replicas(db: &DB) -> &ColumnFamily {
    db.cf_handle(keys::REPLICAS)
        .expect("the store is opened with this family")
}

fn decode(group: GroupId, index: u64, key: &[u8], value: &[u8]) -> Result<LogEntry, Error> {
    let (term, kind, data) = keys::decode_entry(key, value).ok_or(Error::Corrupt { group, index })?;
    Ok(LogEntry {
        index,
        term,
        kind,
        data,
    })
}

fn encode_identity(identity: &Identity) -> Vec<u8> {
    let mut out = Vec::new();
    out.put_u32_le(FORMAT_VERSION);
    for name in [&identity.cluster, &identity.node] {
        out.put_u32_le(name.len() as u32);
        out.put_slice(name.as_bytes());
    }
    out
}

fn decode_identity(mut rest: &[u8]) -> Option<Identity> {
    let mut name = || {
        let len = rest.try_get_u32_le().ok()?;
        let (name, left) = rest.split_at_checked(len as usize)?;
        rest = left;
        String::from_utf8(name.to_vec()).ok()
    };
    Some(Identity {
        cluster: name()?,
        node: name()?,
    })
}

/// Makes the directory and looks at what it holds. True: a database; false: nothing.
fn survey(path: &Path) -> Result<bool, Error> {
    let unusable = |error: std::io::Error| Error::Unusable {
        path: path.into(),
        reason: error.to_string(),
    };
    std::fs::create_dir_all(path).map_err(unusable)?;
    let mut names = Vec::new();
    for file in std::fs::read_dir(path).map_err(unusable)? {
        names.push(file.map_err(unusable)?.file_name().to_string_lossy().into_owned());
    }
    if names.iter().any(|name| name == "CURRENT") {
        return Ok(true);
    }
    for name in names {
        // What a first opening leaves that was cut short, and what a file system puts at its root.
        let harmless = ["LOCK", "LOG", "IDENTITY", "lost+found"].contains(&name.as_str())
            || ["LOG.old.", "MANIFEST-", "OPTIONS-"]
                .iter()
                .any(|prefix| name.starts_with(prefix))
            || name.ends_with(".dbtmp");
        if [".sst", ".log", ".blob"].iter().any(|suffix| name.ends_with(suffix)) {
            let reason = format!("it holds {name} but no file CURRENT");
            return Err(Error::Damaged {
                path: path.into(),
                reason,
            });
        }
        if !harmless {
            return Err(Error::Foreign {
                path: path.into(),
                reason: format!("it holds {name}"),
            });
        }
    }
    Ok(false)
}

fn refuse_other_families(path: &Path) -> Result<(), Error> {
    let families = DB::list_cf(&Options::default(), path).map_err(|error| open_error(path, &error))?;
    match families
        .iter()
        .find(|family| ![keys::REPLICAS, keys::ENTRIES].contains(&family.as_str()))
    {
        Some(family) => Err(Error::Foreign {
            path: path.into(),
            reason: format!("a database with a family {family}"),
        }),
        None => Ok(()),
    }
}

fn open_error(path: &Path, error: &rocksdb::Error) -> Error {
    let path = path.to_path_buf();
    let reason = error.to_string();
    let says = |texts: &[&str]| texts.iter().any(|text| reason.contains(text));
    if says(&["While lock file", "lock hold by current process"]) {
        Error::Locked { path }
    } else if says(&[
        "Permission denied",
        "Read-only file system",
        "No space left",
        "Operation not permitted",
    ]) {
        Error::Unusable { path, reason }
    } else {
        Error::Damaged { path, reason }
    }
}

fn synced() -> WriteOptions {
    let mut options = WriteOptions::default();
    options.set_sync(true);
    options
}

/// Whether the file system takes writes that pass by the page cache; those of networks and of users may not.
fn takes_direct_writes(path: &Path) -> bool {
    let block = vec![0; 2 * DIRECT_BLOCK];
    let begin = block.as_ptr().align_offset(DIRECT_BLOCK);
    let flags = (OFlags::TMPFILE | OFlags::DIRECT).bits().cast_signed();
    let written = block.get(begin..begin + DIRECT_BLOCK).map(|block| {
        let file = OpenOptions::new()
            .write(true)
            .mode(0o600)
            .custom_flags(flags)
            .open(path);
        file.and_then(|mut file| file.write_all(block))
    });
    matches!(written, Some(Ok(())))
}

fn database_options(is_direct: bool) -> Options {
    let mut options = Options::default();
    options.create_if_missing(true);
    options.create_missing_column_families(true);
    // A torn tail is what a power cut leaves. Damage before the tail is refused: what follows it was acknowledged.
    // That rules out recycled files, in which old records stand behind the tail.
    options.set_wal_recovery_mode(DBRecoveryMode::TolerateCorruptedTailRecords);
    options.set_max_total_wal_size(WAL_BYTES_MAX);
    options.set_max_open_files(OPEN_FILES_MAX);
    options.set_max_background_jobs(2);
    // Else one large flush sits in the way of the log's next sync.
    options.set_bytes_per_sync(MIB as u64);
    // What is flushed is read late, or never. In the page cache it takes memory from others, and its first use of a page
    // is dear on a virtual machine.
    options.set_use_direct_io_for_flush_and_compaction(is_direct);
    // Backlogs are read in order: the system is to read ahead.
    options.set_advise_random_on_open(false);
    options.set_allow_concurrent_memtable_write(false);
    options.set_enable_write_thread_adaptive_yield(false);
    options.set_log_level(LogLevel::Warn);
    options.set_stats_dump_period_sec(0);
    options.set_max_log_file_size(4 * MIB);
    options.set_keep_log_file_num(4);
    options
}

fn table_options(cache: &Cache) -> BlockBasedOptions {
    let mut table = BlockBasedOptions::default();
    table.set_block_cache(cache);
    table.set_block_size(BLOCK);
    table.set_cache_index_and_filter_blocks(true);
    table.set_pin_l0_filter_and_index_blocks_in_cache(true);
    table.set_format_version(6);
    table
}

fn entries_options(cache: &Cache) -> Options {
    let mut options = Options::default();
    let mut table = table_options(cache);
    table.set_bloom_filter(10.0, false);
    options.set_block_based_table_factory(&table);
    options.set_compression_type(DBCompressionType::None);
    options.set_write_buffer_size(ENTRIES_BUFFER);
    options.set_max_write_buffer_number(ENTRIES_BUFFERS);
    options.set_min_write_buffer_number_to_merge(2);
    options.set_enable_blob_files(true);
    options.set_min_blob_size(BLOB_MIN);
    options.set_blob_file_size(BLOB_FILE);
    // Upkeep switches it on while it is worth the rewriting; then it takes every file.
    options.set_enable_blob_gc(false);
    options.set_blob_gc_age_cutoff(1.0);
    options.set_max_bytes_for_level_base(64 * MIB as u64);
    options.set_target_file_size_base(32 * MIB as u64);
    // Files with many removals are compacted at once, so that what they removed gives its disk back.
    options.add_compact_on_deletion_collector_factory(1024, 256, 0.25);
    options
}

fn replicas_options(cache: &Cache) -> Options {
    let mut options = Options::default();
    options.set_block_based_table_factory(&table_options(cache));
    options.set_compression_type(DBCompressionType::None);
    options.set_write_buffer_size(REPLICAS_BUFFER);
    options.set_max_write_buffer_number(2);
    options
}

#[cfg(test)]
mod tests;
