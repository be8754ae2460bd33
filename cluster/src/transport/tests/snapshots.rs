//! Snapshots between two nodes: complete ones, and every way to end one early.

use super::*;

/// Notes what it is handed; refuses a chunk of the poisonous length.
pub(super) struct RecorderSink {
    recorder: Arc<Recorder>,
    finished: bool,
}

impl RecorderSink {
    pub(super) fn new(recorder: Arc<Recorder>) -> Self {
        Self {
            recorder,
            finished: false,
        }
    }
}

impl SnapshotSink for RecorderSink {
    fn state(&mut self, chunk: Bytes) -> Result<(), BoxError> {
        if chunk.len() == self.recorder.poison_len {
            return Err("the disk is full".into());
        }
        self.recorder.note(Seen::Sunk(Sunk::State(chunk.len())));
        Ok(())
    }

    fn entries(&mut self, entries: Vec<LogEntry>) -> Result<(), BoxError> {
        self.recorder.note(Seen::Sunk(Sunk::Entries(
            entries.iter().map(|entry| entry.index).collect(),
        )));
        Ok(())
    }

    fn finish(mut self: Box<Self>, end: SnapshotEnd) -> Result<(), BoxError> {
        assert_eq!(end.entry_count, 3);
        self.finished = true;
        self.recorder.note(Seen::Sunk(Sunk::Finished));
        Ok(())
    }
}

impl Drop for RecorderSink {
    fn drop(&mut self) {
        if !self.finished {
            self.recorder.note(Seen::Sunk(Sunk::Aborted));
        }
    }
}

type Parts = Vec<Result<SnapshotPart, BoxError>>;

fn state(len: usize) -> Result<SnapshotPart, BoxError> {
    Ok(SnapshotPart::State(Bytes::from(vec![7; len])))
}

fn entries(indexes: &[u64]) -> Result<SnapshotPart, BoxError> {
    let entry = |index: &u64| LogEntry {
        index: *index,
        term: 1,
        kind: 0,
        data: Bytes::from(vec![9; 700_000]),
    };
    Ok(SnapshotPart::Entries(indexes.iter().map(entry).collect()))
}

fn send(handle: &Handle, to: NodeId, message: &'static str, parts: Parts) -> Result<(), SnapshotError> {
    let (done_tx, done_rx) = mpsc::channel();
    let snapshot = OutgoingSnapshot {
        group: 42,
        message: Bytes::from_static(message.as_bytes()),
        chunks: Box::new(parts.into_iter()),
        done: Box::new(move |outcome| done_tx.send(outcome).expect("the test waits")),
    };
    handle.transport().send_snapshot(to, snapshot);
    done_rx.recv_timeout(DEADLINE).expect("an outcome")
}

fn sunk(recorder: &Recorder) -> Vec<Sunk> {
    let seen = recorder.seen.lock().expect("no panic");
    let sunk = seen.iter().filter_map(|seen| {
        if let Seen::Sunk(sunk) = seen {
            Some(sunk.clone())
        } else {
            None
        }
    });
    sunk.collect()
}

#[test]
fn a_snapshot_arrives_part_by_part() {
    let [(h1, ..), (_h2, r2, _)] = pair(patient());
    let parts = vec![
        state(100),
        state(0),
        state((5 << 20) + 3),
        entries(&[4, 8]),
        entries(&[15]),
    ];
    send(&h1, 2, "news", parts).expect("installed");
    let due = [
        Sunk::Begun(1, 42),
        Sunk::State(100),
        Sunk::State(0),
        Sunk::State((5 << 20) + 3),
        Sunk::Entries(vec![4, 8]),
        Sunk::Entries(vec![15]),
        Sunk::Finished,
    ];
    assert_eq!(sunk(&r2), due);
}

#[test]
fn a_source_that_fails_aborts() {
    let [(h1, ..), (_h2, r2, _)] = pair(patient());
    let error = send(&h1, 2, "news", vec![state(100), Err("lost an entry".into()), state(1)]).expect_err("aborted");
    assert_eq!(error.to_string(), "its source failed: lost an entry");
    r2.wait_for(&Seen::Sunk(Sunk::Aborted));
    assert_eq!(sunk(&r2), [Sunk::Begun(1, 42), Sunk::State(100), Sunk::Aborted]);
}

#[test]
fn a_sink_that_fails_aborts_and_says_why() {
    let [(h1, ..), (_h2, r2, _)] = pair(patient());
    let parts = std::iter::once(state(13))
        .chain((0..100).map(|_| state(1 << 20)))
        .collect();
    let error = send(&h1, 2, "news", parts).expect_err("aborted");
    assert_eq!(error.to_string(), "node n2 refused it: the disk is full");
    r2.wait_for(&Seen::Sunk(Sunk::Aborted));
}

#[test]
fn an_unwanted_snapshot_is_refused() {
    let [(h1, ..), (_h2, r2, _)] = pair(patient());
    let error = send(&h1, 2, "unwanted", vec![state(100)]).expect_err("refused");
    assert_eq!(error.to_string(), "node n2 refused it: not wanted here");
    assert_eq!(sunk(&r2), []);
}

#[test]
fn a_snapshot_to_nobody_fails() {
    let (h1, _) = start(identity(1, 1, "s"), free(), vec![peer(2, free())], patient());
    assert!(matches!(send(&h1, 3, "news", Vec::new()), Err(SnapshotError::NoPeer)));
    assert!(matches!(
        send(&h1, 2, "news", Vec::new()),
        Err(SnapshotError::Broken(..))
    ));
}

#[test]
fn a_snapshot_without_the_secret_is_refused() {
    let (at1, at2) = (free(), free());
    let (h1, _) = start(identity(1, 1, "s"), at1, vec![peer(2, at2)], patient());
    let (_h2, r2) = start(identity(2, 1, "other"), at2, vec![peer(1, at1)], patient());
    assert!(matches!(
        send(&h1, 2, "news", vec![state(1)]),
        Err(SnapshotError::Refused(..))
    ));
    assert_eq!(sunk(&r2), []);
}

#[test]
fn a_receiver_that_goes_away_breaks_the_snapshot() {
    let [(h1, ..), (h2, r2, _)] = pair(patient());
    let (done_tx, done_rx) = mpsc::channel();
    let snapshot = OutgoingSnapshot {
        group: 42,
        message: Bytes::new(),
        chunks: Box::new(std::iter::repeat_with(|| state(1 << 20))),
        done: Box::new(move |outcome| done_tx.send(outcome).expect("the test waits")),
    };
    h1.transport().send_snapshot(2, snapshot);
    r2.wait_for(&Seen::Sunk(Sunk::State(1 << 20)));
    h2.shutdown();
    assert!(matches!(
        done_rx.recv_timeout(DEADLINE).expect("an outcome"),
        Err(SnapshotError::Broken(..))
    ));
    r2.wait_for(&Seen::Sunk(Sunk::Aborted));
}

#[test]
fn a_shutdown_ends_what_is_under_way_and_what_waits() {
    let options = Options {
        snapshots_max: 1,
        snapshots_waiting_max: 1,
        ..patient()
    };
    let [(h1, ..), (_h2, r2, _)] = pair(options);
    let (done_tx, done_rx) = mpsc::channel();
    let endless = |group| {
        let done_tx = done_tx.clone();
        OutgoingSnapshot {
            group,
            message: Bytes::new(),
            chunks: Box::new(std::iter::repeat_with(|| state(1 << 20))),
            done: Box::new(move |outcome| done_tx.send((group, outcome)).expect("the test waits")),
        }
    };
    for group in 1..=3 {
        h1.transport().send_snapshot(2, endless(group));
    }
    let outcome = done_rx.recv_timeout(DEADLINE).expect("an outcome");
    assert!(matches!(outcome, (3, Err(SnapshotError::Busy))), "{outcome:?}");
    r2.wait_for(&Seen::Sunk(Sunk::State(1 << 20)));
    h1.shutdown();
    for _ in 0..2 {
        let (_, outcome) = done_rx.recv_timeout(DEADLINE).expect("an outcome");
        assert!(matches!(outcome, Err(SnapshotError::ShutDown)), "{outcome:?}");
    }
}
