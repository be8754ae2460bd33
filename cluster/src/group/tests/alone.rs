//! A group of one, without a network.

use super::*;
use crate::log;
use crate::log::memory::Record;
use crate::version::Versions;

/// The only replica of a group, on a store that outlives it.
pub(super) struct Alone {
    pub(super) core: GroupCore<Tape>,
    pub(super) store: Arc<MemoryStore>,
}

impl Alone {
    pub(super) fn open(store: &Arc<MemoryStore>, versions: &Versions) -> Self {
        let options = Options {
            versions: versions.clone(),
            ..options()
        };
        Self::open_with(store, options).expect("a replica opens on what it wrote")
    }

    fn open_with(store: &Arc<MemoryStore>, options: Options) -> Result<Self, Error> {
        let mut effects = Vec::new();
        let log: Arc<dyn LogStore> = store.clone();
        let core = GroupCore::open(1, GROUP, &[1], log, Tape::default(), options, &mut effects)?;
        let mut alone = Self {
            core,
            store: store.clone(),
        };
        alone.write(effects);
        Ok(alone)
    }

    fn write(&mut self, effects: Vec<Effect<(u64, u64)>>) {
        for effect in effects {
            if let Effect::Write { writes, sync, number } = effect {
                self.store.write(&writes, sync).expect("memory takes all");
                if let Some(number) = number {
                    self.core.handle(Event::Persisted(number));
                }
            }
        }
    }

    /// Whether there was something to do.
    pub(super) fn round(&mut self) -> Result<bool, Error> {
        let mut effects = Vec::new();
        self.core.poll(&mut effects)?;
        let is_busy = !effects.is_empty();
        self.write(effects);
        Ok(is_busy)
    }

    /// Until nothing is left to do.
    pub(super) fn settle(&mut self) -> Result<(), Error> {
        while self.round()? {}
        Ok(())
    }

    pub(super) fn lead(&mut self) {
        self.core.handle(Event::Campaign);
        self.settle().expect("a healthy store");
        assert_eq!(self.core.role(), Role::Leader);
    }

    /// The version that a proposal was stamped with.
    pub(super) fn propose(&mut self, value: u64) -> u16 {
        self.propose_at(value, 5)
    }

    /// The same, where the node's clock shows `now_ms`.
    pub(super) fn propose_at(&mut self, value: u64, now_ms: u64) -> u16 {
        let payload = Bytes::copy_from_slice(&value.to_le_bytes());
        self.core.propose(&[payload], now_ms).expect("it leads");
        self.settle().expect("a healthy store");
        let last = self.core.status().last_index;
        let stored = self
            .store
            .entry(GROUP, 0, last)
            .expect("a healthy store")
            .expect("it was written");
        (&stored.data[..]).get_u16_le()
    }
}

#[test]
fn an_entry_that_raft_reads_and_that_is_corrupt_or_gone_is_named() {
    let long = || Options {
        cache_bytes_max: 0,
        snapshot_log_bytes: u64::MAX,
        ..options()
    };
    let stored = || {
        let store = Arc::new(MemoryStore::new());
        let mut alone = Alone::open_with(&store, long()).expect("a new store");
        alone.lead();
        for value in 0..20 {
            alone.propose(value);
        }
        store
    };
    let error = |store: &Arc<MemoryStore>| {
        let begin = || {
            let mut alone = Alone::open_with(store, long())?;
            alone.core.handle(Event::Campaign);
            alone.settle()
        };
        match begin() {
            Err(Error::Log(error)) => error,
            other => panic!("{other:?}"),
        }
    };
    let last = stored().last_index(GROUP, 0).expect("a healthy store").expect("a log");
    assert!(last > 20);
    for index in 1..=last {
        let store = stored();
        store.corrupt(Record::Entry(GROUP, 0, index));
        assert_eq!(error(&store), log::Error::Corrupt { group: GROUP, index });
    }
    for index in 1..last {
        let store = stored();
        let gone = index..index + 1;
        let remove = Write::Remove {
            group: GROUP,
            generation: 0,
            ranges: vec![gone],
        };
        store.write(&[remove], true).expect("a healthy store");
        assert_eq!(error(&store), log::Error::Missing { group: GROUP, index });
    }
}
