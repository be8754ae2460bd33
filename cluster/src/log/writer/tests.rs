use std::sync::mpsc;
use std::time::Duration;

use super::super::memory::MemoryStore;
use super::super::suite::append;
use super::*;

const PATIENCE: Duration = Duration::from_secs(20);

type Report = (GroupId, u64);

struct Listener(Mutex<mpsc::Sender<Report>>);

impl Persisted for Listener {
    fn persisted(&self, group: GroupId, number: u64) {
        // The receiver may have gone: a test that has seen enough.
        let _ = self
            .0
            .lock()
            .expect("no test panics while it reports")
            .send((group, number));
    }
}

fn listener() -> (Arc<Listener>, mpsc::Receiver<Report>) {
    let (report_tx, report_rx) = mpsc::channel();
    (Arc::new(Listener(Mutex::new(report_tx))), report_rx)
}

fn request(listener: &Arc<Listener>, group: GroupId, number: u64, sync: bool) -> Request {
    let done = Done {
        listener: listener.clone(),
        group,
        number,
    };
    Request {
        writes: vec![append(group, number..number + 1, 1, number - 1)],
        sync,
        done: Some(done),
    }
}

fn unexpected(error: Error) {
    panic!("{error}");
}

/// A store whose writes wait until the test lets them through.
struct Gate {
    store: MemoryStore,
    entered_tx: mpsc::Sender<(usize, bool)>,
    pass_rx: Mutex<mpsc::Receiver<()>>,
}

impl LogStore for Gate {
    fn groups(&self) -> Result<Vec<GroupId>, Error> {
        self.store.groups()
    }
    fn state(&self, group: GroupId) -> Result<Option<crate::log::ReplicaState>, Error> {
        self.store.state(group)
    }
    fn generations(&self, group: GroupId) -> Result<Vec<u32>, Error> {
        self.store.generations(group)
    }
    fn last_index(&self, group: GroupId, generation: u32) -> Result<Option<u64>, Error> {
        self.store.last_index(group, generation)
    }
    fn entries(
        &self,
        group: GroupId,
        generation: u32,
        range: std::ops::Range<u64>,
        bytes_max: usize,
    ) -> Result<Vec<crate::log::LogEntry>, Error> {
        self.store.entries(group, generation, range, bytes_max)
    }
    fn entry(&self, group: GroupId, generation: u32, index: u64) -> Result<Option<crate::log::LogEntry>, Error> {
        self.store.entry(group, generation, index)
    }
    fn snapshot_chunk(&self, group: GroupId, generation: u32, at: u64, n: u32) -> Result<Option<bytes::Bytes>, Error> {
        self.store.snapshot_chunk(group, generation, at, n)
    }
    fn write(&self, writes: &[Write], sync: bool) -> Result<(), Error> {
        self.entered_tx.send((writes.len(), sync)).expect("the test is waiting");
        self.pass_rx
            .lock()
            .expect("one writer")
            .recv_timeout(PATIENCE)
            .expect("the test lets it through");
        self.store.write(writes, sync)
    }
    fn disk_usage(&self) -> Result<u64, Error> {
        self.store.disk_usage()
    }
}

fn gate() -> (Arc<Gate>, mpsc::Receiver<(usize, bool)>, mpsc::Sender<()>) {
    let (entered_tx, entered_rx) = mpsc::channel();
    let (pass_tx, pass_rx) = mpsc::channel();
    (
        Arc::new(Gate {
            store: MemoryStore::new(),
            entered_tx,
            pass_rx: Mutex::new(pass_rx),
        }),
        entered_rx,
        pass_tx,
    )
}

#[test]
fn what_gathers_during_a_write_is_the_next_batch() {
    let (gate, entered_rx, pass_tx) = gate();
    let writer = Writer::start(gate.clone(), unexpected).expect("a thread");
    let (listener, report_rx) = listener();
    writer.submit(request(&listener, 1, 1, true)).expect("a running writer");
    assert_eq!(entered_rx.recv_timeout(PATIENCE), Ok((1, true)));
    for number in 1..=5 {
        for group in 2..=5 {
            writer
                .submit(request(&listener, group, number, group == 5))
                .expect("a running writer");
        }
    }
    assert!(writer.pending_bytes() >= 21 * 20);
    assert!(
        report_rx.try_recv().is_err(),
        "nothing is reported before it is written"
    );
    pass_tx.send(()).expect("the writer is waiting");
    assert_eq!(
        entered_rx.recv_timeout(PATIENCE),
        Ok((20, true)),
        "four groups, one batch, one sync"
    );
    pass_tx.send(()).expect("the writer is waiting");
    let mut expected = vec![(1, 1)];
    expected.extend((1..=5).flat_map(|number| (2..=5).map(move |group| (group, number))));
    let reports: Vec<_> = (0..21)
        .map(|_| report_rx.recv_timeout(PATIENCE).expect("a report"))
        .collect();
    assert_eq!(reports, expected);
    writer.stop();
    assert_eq!(writer.pending_bytes(), 0);
    assert_eq!(gate.store.syncs(), 2);
    let Stats {
        requests,
        batches,
        syncs,
        bytes,
    } = writer.stats();
    assert_eq!((requests, batches, syncs), (21, 2, 2));
    assert!(bytes >= 21 * 20);
}

#[test]
fn syncs_only_where_asked() {
    let store = Arc::new(MemoryStore::new());
    let writer = Writer::start(store.clone(), unexpected).expect("a thread");
    let (listener, report_rx) = listener();
    writer
        .submit(request(&listener, 1, 1, false))
        .expect("a running writer");
    assert_eq!(report_rx.recv_timeout(PATIENCE), Ok((1, 1)));
    assert_eq!((store.unsynced(), store.syncs()), (1, 0));
    let done = Done {
        listener,
        group: 1,
        number: 2,
    };
    writer
        .submit(Request {
            writes: vec![],
            sync: true,
            done: Some(done),
        })
        .expect("a running writer");
    assert_eq!(report_rx.recv_timeout(PATIENCE), Ok((1, 2)));
    assert_eq!(
        (store.unsynced(), store.syncs()),
        (0, 1),
        "an empty request syncs what was written before"
    );
}

#[test]
fn batches_are_bounded() {
    let (gate, entered_rx, pass_tx) = gate();
    let writer = Writer::start(gate, unexpected).expect("a thread");
    let (listener, report_rx) = listener();
    writer.submit(request(&listener, 1, 1, true)).expect("a running writer");
    entered_rx.recv_timeout(PATIENCE).expect("a write");
    let chunk = |number: u32| Write::SnapshotChunk {
        group: 2,
        generation: 1,
        snapshot_index: 1,
        number,
        data: vec![0; 1 << 20].into(),
    };
    for number in 0..20 {
        let done = Done {
            listener: listener.clone(),
            group: 2,
            number: number.into(),
        };
        writer
            .submit(Request {
                writes: vec![chunk(number)],
                sync: true,
                done: Some(done),
            })
            .expect("a running writer");
    }
    for _ in 0..4 {
        pass_tx.send(()).expect("the writer is waiting");
    }
    let sizes: Vec<_> = (0..3)
        .map(|_| entered_rx.recv_timeout(PATIENCE).expect("a write").0)
        .collect();
    assert_eq!(sizes, [8, 8, 4]);
    for _ in 0..21 {
        report_rx.recv_timeout(PATIENCE).expect("a report");
    }
}

#[test]
fn a_failure_is_final() {
    let store = Arc::new(MemoryStore::new());
    let (fatal_tx, fatal_rx) = mpsc::channel();
    let writer = Writer::start(store.clone(), move |error| {
        fatal_tx.send(error).expect("the test is waiting")
    })
    .expect("a thread");
    let (listener, report_rx) = listener();
    writer.submit(request(&listener, 1, 1, true)).expect("a running writer");
    assert_eq!(report_rx.recv_timeout(PATIENCE), Ok((1, 1)));
    store.fail_next_write(Error::Io("the disk is gone".into()));
    writer.submit(request(&listener, 1, 2, true)).expect("a running writer");
    assert_eq!(
        fatal_rx.recv_timeout(PATIENCE),
        Ok(Error::Io("the disk is gone".into()))
    );
    assert_eq!(writer.submit(request(&listener, 1, 3, true)), Err(Stopped));
    writer.stop();
    drop(listener);
    assert_eq!(
        report_rx.recv_timeout(PATIENCE).ok(),
        None,
        "what failed is never reported"
    );
    store.crash();
    assert_eq!(store.last_index(1, 1), Ok(Some(1)));
}

#[test]
fn a_panic_is_final_too() {
    struct Panics;
    impl Persisted for Panics {
        fn persisted(&self, _: GroupId, _: u64) {
            panic!("a listener's fault");
        }
    }
    let (fatal_tx, fatal_rx) = mpsc::channel();
    let store = Arc::new(MemoryStore::new());
    let writer =
        Writer::start(store, move |error| fatal_tx.send(error).expect("the test is waiting")).expect("a thread");
    let done = Done {
        listener: Arc::new(Panics),
        group: 1,
        number: 1,
    };
    writer
        .submit(Request {
            writes: vec![],
            sync: false,
            done: Some(done),
        })
        .expect("a running writer");
    assert_eq!(
        fatal_rx.recv_timeout(PATIENCE),
        Ok(Error::Io("the log writer panicked".into()))
    );
}

#[test]
fn stopping_persists_what_is_waiting() {
    let store = Arc::new(MemoryStore::new());
    let writer = Writer::start(store.clone(), unexpected).expect("a thread");
    let (listener, report_rx) = listener();
    for number in 1..=1000 {
        writer
            .submit(request(&listener, 1, number, true))
            .expect("a running writer");
    }
    writer.stop();
    assert_eq!(writer.submit(request(&listener, 1, 1001, true)), Err(Stopped));
    drop((writer, listener));
    assert_eq!(report_rx.iter().count(), 1000);
    store.crash();
    assert_eq!(store.last_index(1, 1), Ok(Some(1000)));
}
