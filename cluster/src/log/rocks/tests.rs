use std::cell::RefCell;
use std::sync::atomic::AtomicU32;

use super::super::suite::{self, append, entries, entry, remove, state};
use super::*;

/// A directory that goes with the test.
pub(super) struct Directory(PathBuf);

impl Directory {
    pub(super) fn new() -> Self {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let path = std::env::temp_dir().join(format!("warren-log-{}-{number}", std::process::id()));
        std::fs::create_dir_all(&path).expect("a writable temporary directory");
        Self(path)
    }

    pub(super) fn open(&self) -> Result<RocksStore, Error> {
        RocksStore::open(&self.0, &identity("rabbits", "a"))
    }

    fn file(&self, name: &str, content: &[u8]) {
        std::fs::write(self.0.join(name), content).expect("a writable temporary directory");
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        // Left behind at worst in the temporary directory.
        let _ = std::fs::remove_dir_all(&self.0);
    }
}

fn identity(cluster: &str, node: &str) -> Identity {
    Identity {
        cluster: cluster.into(),
        node: node.into(),
    }
}

fn refusal(directory: &Directory) -> Error {
    directory.open().map(|_| ()).expect_err("the directory must be refused")
}

/// What the store would leave to a process started after this one was killed: the files as they are now.
fn killed(directory: &Directory) -> Directory {
    let copy = Directory::new();
    for file in std::fs::read_dir(&directory.0).expect("a readable directory") {
        let file = file.expect("a readable directory");
        std::fs::copy(file.path(), copy.0.join(file.file_name())).expect("a readable file");
    }
    copy
}

#[test]
fn keeps_the_contract() {
    let directories = RefCell::new(Vec::new());
    suite::run(&|| {
        let directory = Directory::new();
        let store = directory.open().expect("a new store");
        directories.borrow_mut().push(directory);
        Box::new(store)
    });
}

#[test]
fn keeps_the_contract_when_memory_is_flushed_at_every_write() {
    struct Flushing(RocksStore);
    impl LogStore for Flushing {
        fn groups(&self) -> Result<Vec<GroupId>, Error> {
            self.0.groups()
        }
        fn state(&self, group: GroupId) -> Result<Option<ReplicaState>, Error> {
            self.0.state(group)
        }
        fn generations(&self, group: GroupId) -> Result<Vec<u32>, Error> {
            self.0.generations(group)
        }
        fn last_index(&self, group: GroupId, generation: u32) -> Result<Option<u64>, Error> {
            self.0.last_index(group, generation)
        }
        fn entries(&self, group: GroupId, gen_: u32, range: Range<u64>, max: usize) -> Result<Vec<LogEntry>, Error> {
            LogStore::entries(&self.0, group, gen_, range, max)
        }
        fn entry(&self, group: GroupId, generation: u32, index: u64) -> Result<Option<LogEntry>, Error> {
            self.0.entry(group, generation, index)
        }
        fn snapshot_chunk(&self, group: GroupId, generation: u32, at: u64, n: u32) -> Result<Option<Bytes>, Error> {
            self.0.snapshot_chunk(group, generation, at, n)
        }
        fn write(&self, writes: &[Write], sync: bool) -> Result<(), Error> {
            self.0.write(writes, sync)?;
            for family in [self.0.entries(), self.0.replicas()] {
                self.0.db.flush_cf(family).map_err(|error| self.0.read_error(&error))?;
            }
            Ok(())
        }
        fn disk_usage(&self) -> Result<u64, Error> {
            self.0.disk_usage()
        }
    }
    let directories = RefCell::new(Vec::new());
    suite::run(&|| {
        let directory = Directory::new();
        let store = directory.open().expect("a new store");
        directories.borrow_mut().push(directory);
        Box::new(Flushing(store))
    });
}

#[test]
fn a_killed_process_leaves_every_write() {
    let directory = Directory::new();
    let store = directory.open().expect("a new store");
    store
        .write(
            &[
                append(1, 1..101, 1, 0),
                Write::State {
                    group: 1,
                    state: state(90),
                },
            ],
            true,
        )
        .expect("a write");
    store.write(&[append(1, 90..96, 2, 100)], true).expect("a write");
    store.write(&[remove(1, 1, 1..50)], false).expect("a write");
    let copy = killed(&directory);
    let reopened = copy.open().expect("the killed process's store");
    let mut expected = entries(50..90, 1);
    expected.extend(entries(90..96, 2));
    assert_eq!(
        LogStore::entries(&reopened, 1, 1, 0..u64::MAX, usize::MAX),
        Ok(expected.clone())
    );
    assert_eq!(reopened.state(1), Ok(Some(state(90))));
    // And once more, by an orderly end.
    drop(reopened);
    let again = copy.open().expect("the closed store");
    assert_eq!(LogStore::entries(&again, 1, 1, 0..u64::MAX, usize::MAX), Ok(expected));
    assert_eq!(again.groups(), Ok(vec![1]));
}

#[test]
fn a_torn_tail_costs_only_the_last_write() {
    let directory = Directory::new();
    let store = directory.open().expect("a new store");
    for index in 1..=20 {
        store
            .write(&[append(1, index..index + 1, 1, index - 1)], true)
            .expect("a write");
    }
    let copy = killed(&directory);
    let log = |directory: &Directory| {
        let files = std::fs::read_dir(&directory.0).expect("a readable directory");
        let mut logs: Vec<_> = files
            .map(|file| file.expect("a readable directory").path())
            .filter(|path| path.extension().is_some_and(|extension| extension == "log"))
            .filter(|path| std::fs::metadata(path).is_ok_and(|metadata| metadata.len() > 0))
            .collect();
        logs.sort();
        logs.pop().expect("a write-ahead log")
    };
    let path = log(&copy);
    let bytes = std::fs::read(&path).expect("a readable file");
    std::fs::write(&path, &bytes[..bytes.len() - 10]).expect("a writable file");
    let reopened = copy.open().expect("a store with a torn tail");
    assert_eq!(reopened.last_index(1, 1), Ok(Some(19)));
    assert_eq!(reopened.entry(1, 1, 19), Ok(Some(entry(19, 1, 20))));
}

#[test]
fn a_corrupt_entry_is_named() {
    let directory = Directory::new();
    let store = directory.open().expect("a new store");
    store
        .write(
            &[
                append(4, 1..11, 1, 0),
                Write::State {
                    group: 4,
                    state: state(1),
                },
            ],
            true,
        )
        .expect("a write");
    let flip = |family: &ColumnFamily, key: &[u8]| {
        let mut value = store
            .db
            .get_cf(family, key)
            .expect("a readable store")
            .expect("a stored value");
        *value.last_mut().expect("a value with bytes") ^= 1;
        store.db.put_cf(family, key, value).expect("a writable store");
    };
    flip(store.entries(), &keys::entry(4, 1, 7));
    let corrupt = Error::Corrupt { group: 4, index: 7 };
    assert_eq!(corrupt.to_string(), "entry 7 of group 4 is corrupt");
    assert_eq!(store.entry(4, 1, 7), Err(corrupt.clone()));
    assert_eq!(LogStore::entries(&store, 4, 1, 1..11, usize::MAX), Err(corrupt));
    assert_eq!(LogStore::entries(&store, 4, 1, 1..7, usize::MAX), Ok(entries(1..7, 1)));
    assert_eq!(store.entry(4, 1, 8), Ok(Some(entry(8, 1, 20))));

    flip(store.replicas(), &keys::state(4));
    assert_eq!(
        store.state(4).expect_err("a corrupt state").to_string(),
        "the replica state of group 4 is corrupt"
    );
    let chunk = Write::SnapshotChunk {
        group: 4,
        generation: 1,
        snapshot_index: 9,
        number: 2,
        data: Bytes::from_static(b"x"),
    };
    store.write(&[chunk], true).expect("a write");
    flip(store.replicas(), &keys::chunk(4, 1, 9, 2));
    let error = store.snapshot_chunk(4, 1, 9, 2).expect_err("a corrupt chunk");
    assert_eq!(
        error.to_string(),
        "the chunk 2 of the snapshot at 9 of group 4 is corrupt"
    );
}

#[test]
fn a_corrupt_file_is_named() {
    let directory = Directory::new();
    let store = directory.open().expect("a new store");
    store.write(&[append(1, 1..2001, 1, 0)], true).expect("a write");
    store.db.flush_cf(store.entries()).expect("a flush");
    drop(store);
    let table = std::fs::read_dir(&directory.0)
        .expect("a readable directory")
        .map(|file| file.expect("a readable directory").path())
        .find(|path| path.extension().is_some_and(|extension| extension == "sst"))
        .expect("the flushed table");
    let mut bytes = std::fs::read(&table).expect("a readable file");
    bytes[5000] ^= 1;
    std::fs::write(&table, bytes).expect("a writable file");
    let store = directory.open().expect("a store that opens");
    let error = LogStore::entries(&store, 1, 1, 1..2001, usize::MAX).expect_err("a corrupt block");
    let name = table.file_name().expect("a file's name").to_string_lossy().into_owned();
    assert!(matches!(&error, Error::Damaged { .. }), "{error}");
    assert!(
        error.to_string().contains(&name) && error.to_string().contains("damaged"),
        "{error}"
    );
}

#[test]
fn another_owner_is_refused() {
    let directory = Directory::new();
    drop(directory.open().expect("a new store"));
    drop(directory.open().expect("the same owner"));
    for other in [identity("rabbits", "b"), identity("hares", "a")] {
        let error = RocksStore::open(&directory.0, &other)
            .map(|_| ())
            .expect_err("another owner");
        let expected = other.clone();
        assert_eq!(
            error,
            Error::WrongIdentity {
                path: directory.0.clone(),
                found: identity("rabbits", "a"),
                expected
            }
        );
        assert!(
            error
                .to_string()
                .contains(r#"belongs to node "a" of cluster "rabbits""#),
            "{error}"
        );
    }
}

#[test]
fn an_open_store_is_refused() {
    let directory = Directory::new();
    let store = directory.open().expect("a new store");
    assert_eq!(
        refusal(&directory),
        Error::Locked {
            path: directory.0.clone()
        }
    );
    drop(store);
    drop(directory.open().expect("the lock goes with the store"));
}

#[test]
fn a_later_format_is_refused() {
    let directory = Directory::new();
    let store = directory.open().expect("a new store");
    let mut record = encode_identity(&identity("rabbits", "a"));
    record[0] = 9;
    record.extend_from_slice(b"something new");
    store
        .db
        .put(keys::IDENTITY, keys::encode_record(&keys::IDENTITY, &record))
        .expect("a write");
    drop(store);
    let expected = Error::NewerFormat {
        path: directory.0.clone(),
        found: 9,
        supported: FORMAT_VERSION,
    };
    assert_eq!(refusal(&directory), expected);
}

#[test]
fn a_corrupt_identity_is_refused() {
    let directory = Directory::new();
    let store = directory.open().expect("a new store");
    store.db.put(keys::IDENTITY, b"nonsense").expect("a write");
    drop(store);
    assert!(matches!(refusal(&directory), Error::Damaged { reason, .. } if reason == "its identity is corrupt"));
}

#[test]
fn something_else_than_a_store_is_refused() {
    let directory = Directory::new();
    directory.file("notes.txt", b"mine");
    let error = refusal(&directory);
    assert_eq!(
        error,
        Error::Foreign {
            path: directory.0.clone(),
            reason: "it holds notes.txt".into()
        }
    );
    assert_eq!(
        std::fs::read_dir(&directory.0).expect("a readable directory").count(),
        1,
        "it is left as it was"
    );

    let directory = Directory::new();
    let mut options = Options::default();
    options.create_if_missing(true);
    let other = DB::open(&options, &directory.0).expect("a new database");
    other.put(b"a", b"b").expect("a write");
    drop(other);
    assert!(matches!(refusal(&directory), Error::Foreign { reason, .. } if reason.contains("without Warren's mark")));

    let directory = Directory::new();
    options.create_missing_column_families(true);
    drop(DB::open_cf(&options, &directory.0, ["default", "photos"]).expect("a new database"));
    assert!(matches!(refusal(&directory), Error::Foreign { reason, .. } if reason.contains("photos")));
}

#[test]
fn a_first_opening_that_was_cut_short_is_finished() {
    let directory = Directory::new();
    for name in ["LOG", "LOCK", "IDENTITY", "MANIFEST-000001", "000001.dbtmp"] {
        directory.file(name, b"");
    }
    std::fs::create_dir(directory.0.join("lost+found")).expect("a writable directory");
    drop(directory.open().expect("a new store"));
    drop(directory.open().expect("the same store"));
}

#[test]
fn a_store_without_its_table_of_contents_is_damaged() {
    let directory = Directory::new();
    let store = directory.open().expect("a new store");
    store.write(&[append(1, 1..10, 1, 0)], true).expect("a write");
    drop(store);
    std::fs::remove_file(directory.0.join("CURRENT")).expect("a writable directory");
    assert!(matches!(refusal(&directory), Error::Damaged { .. }));

    directory.file("CURRENT", b"MANIFEST-999999\n");
    assert!(matches!(refusal(&directory), Error::Damaged { .. }));
}

#[test]
fn an_unusable_directory_is_named() {
    let directory = Directory::new();
    directory.file("file", b"");
    let path = directory.0.join("file/below");
    let error = RocksStore::open(&path, &identity("rabbits", "a"))
        .map(|_| ())
        .expect_err("a file is in the way");
    assert!(
        matches!(&error, Error::Unusable { path: named, .. } if *named == path),
        "{error}"
    );
    // No right to write even for root.
    let error = RocksStore::open("/proc/self/warren", &identity("rabbits", "a"))
        .map(|_| ())
        .expect_err("no directory");
    assert!(matches!(error, Error::Unusable { .. }), "{error}");
}

#[test]
fn whether_writes_may_pass_by_the_page_cache_is_found_out_without_a_trace() {
    let directory = Directory::new();
    directory.file("beside", b"");
    let _depends_on_the_machine = takes_direct_writes(&directory.0);
    let left = std::fs::read_dir(&directory.0).expect("a directory");
    assert_eq!(left.count(), 1);
    assert!(!takes_direct_writes(&directory.0.join("missing")));
    assert!(!takes_direct_writes(Path::new("/proc/self")));
}
