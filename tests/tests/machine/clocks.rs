//! Clocks that jump under running nodes, and nodes that start with wrong ones.
//!
//! A library of our own stands between a node and the wall clock (`clock.c`): libfaketime and a node's allocator wait for
//! each other for ever. What measures durations is left alone, as where somebody sets the clock.

use std::fs::File;
use std::os::unix::fs::FileExt as _;
use std::path::{Path, PathBuf};
use std::process::Command;

use warren_tests::client::{Event, Session};
use warren_tests::cluster::{Cluster, NODES, PATIENCE, await_some, name};

use crate::load::{Load, declare};

const QUEUES: [(&str, &str); 2] = [("clocks.quorum", "quorum"), ("clocks.classic", "classic")];
const PROGRESS: u64 = 100;
/// Less than consumers may take: to a leader of a later time they have taken longer.
const MINUTES: i64 = 10 * 60;
const HOUR: i64 = 3_600;
const DAYS: i64 = 2 * 24 * HOUR;
const YEAR: i64 = 365 * 24 * HOUR;

/// The nodes' clocks, each told by a file how far it is off.
struct Clocks {
    files: [PathBuf; NODES],
    shim: PathBuf,
}

impl Clocks {
    fn new(cluster: &Cluster) -> Self {
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/machine/clock.c");
        let clocks = Self {
            files: std::array::from_fn(|node| cluster.path(node).join("clock")),
            shim: cluster.path(0).join("clock.so"),
        };
        let status = Command::new("cc")
            .args(["-shared", "-fPIC", "-O2", "-Wall", "-Werror", "-o"])
            .args([&clocks.shim, &source])
            .status();
        assert!(status.as_ref().is_ok_and(|status| status.success()), "{status:?}");
        for node in 0..NODES {
            clocks.set(node, 0);
        }
        clocks
    }

    /// From now on that node's clock is off by so many seconds.
    fn set(&self, node: usize, offset_s: i64) {
        let file = File::options()
            .create(true)
            .truncate(false)
            .write(true)
            .open(&self.files[node]);
        let file = file.expect("the node's directory can be written");
        file.write_all_at(&offset_s.to_ne_bytes(), 0)
            .expect("the node's directory can be written");
    }

    fn spawn(&self, cluster: &mut Cluster, node: usize) {
        let (file, library) = (self.files[node].display().to_string(), self.shim.display().to_string());
        cluster.spawn_with(node, &[("LD_PRELOAD", &library), ("CLOCK_SHIFT", &file)]);
    }
}

/// The day of a line that a node has logged: what it took for the time.
fn day(line: Option<&str>) -> String {
    line.unwrap_or_default().chars().take("2000-01-01".len()).collect()
}

fn cluster() -> (Cluster, Clocks) {
    let mut cluster = Cluster::prepare(&[]);
    let clocks = Clocks::new(&cluster);
    for node in 0..NODES {
        clocks.spawn(&mut cluster, node);
    }
    cluster.await_whole();
    declare(&cluster, &QUEUES);
    (cluster, clocks)
}

#[test]
fn clocks_jump_forth_and_back_under_load() {
    let (mut cluster, clocks) = cluster();
    let queues = QUEUES.map(|(queue, _)| queue);
    let load = Load::start(&cluster, &queues, 2);
    load.await_confirms(PROGRESS, PATIENCE);
    // An hour, days and a year either way; one node, then all.
    for offset in [HOUR, -HOUR, DAYS, -DAYS, YEAR, -YEAR, 0] {
        for node in 0..NODES {
            clocks.set(node, offset);
            load.await_confirms(PROGRESS, PATIENCE);
            load.await_deliveries(PROGRESS, PATIENCE);
        }
    }
    for node in 0..NODES {
        assert!(
            cluster.runs(node),
            "{} ended; its log:\n{}",
            name(node),
            cluster.tail(node)
        );
    }
    cluster.await_whole();
    load.conclude("jumping clocks", &cluster, &queues);
    cluster.finish();
}

#[test]
fn a_node_returns_with_its_clock_set_back_or_forth() {
    let (mut cluster, clocks) = cluster();
    let queues = QUEUES.map(|(queue, _)| queue);
    let load = Load::start(&cluster, &queues, 2);
    for (node, offset_s) in [(0, -DAYS), (1, MINUTES), (2, -YEAR)] {
        load.await_confirms(PROGRESS, PATIENCE);
        cluster.kill(node);
        let before = cluster.log(node);
        clocks.set(node, offset_s);
        load.await_confirms(PROGRESS, PATIENCE);
        clocks.spawn(&mut cluster, node);
        cluster.await_whole();
        let after = cluster.log(node).split_off(before.len());
        let is_other = day(before.lines().last()) != day(after.lines().next());
        assert!(
            is_other || offset_s.abs() < DAYS,
            "{} does not see the clock that it was given",
            name(node)
        );
    }
    load.await_confirms(PROGRESS, PATIENCE);
    // Each leads the queues in turn, and what comes due there comes due.
    for node in 0..NODES {
        for queue in queues {
            cluster
                .ctl(0, &["transfer_leadership", queue, &name(node)])
                .unwrap_or_else(|error| panic!("{queue} to {}: {error}", name(node)));
        }
        load.await_confirms(PROGRESS, PATIENCE);
        expires(&cluster, node);
    }
    load.conclude("clocks set while down", &cluster, &queues);
    cluster.finish();
}

/// A message expires in a queue that this node leads, though the leader before stamped it by another clock.
#[track_caller]
fn expires(cluster: &Cluster, node: usize) {
    let (queue, letters) = (format!("clocks.short.{node}"), format!("clocks.letters.{node}"));
    declare(cluster, &[(&letters, "quorum")]);
    let mut session = Session::open(&cluster.address(node), PATIENCE).expect("a whole cluster serves");
    let policy = format!(r#"{{"message-ttl":2000,"dead-letter-exchange":"","dead-letter-routing-key":"{letters}"}}"#);
    cluster
        .ctl(node, &["set_policy", &queue, &format!("^{queue}$"), &policy])
        .expect("a whole cluster serves");
    session
        .declare(&queue, "quorum", PATIENCE)
        .expect("a whole cluster serves");
    for leader in [(node + 1) % NODES, node] {
        cluster
            .ctl(0, &["transfer_leadership", &queue, &name(leader)])
            .unwrap_or_else(|error| panic!("{queue} to {}: {error}", name(leader)));
        if leader != node {
            session.confirm(PATIENCE).expect("a channel takes confirm.select");
            session.publish(&queue, b"soon over").expect("a whole cluster serves");
            let event = session.next(PATIENCE).expect("a whole cluster serves");
            assert!(matches!(event, Some(Event::Confirmed(_))), "{event:?}");
        }
    }
    // Looking does not put it off.
    await_some("the message has expired", PATIENCE, || {
        let row = cluster.queue(node, &letters)?;
        match row["messages"].as_u64() {
            Some(1) => Ok(()),
            _ => Err(row.to_string()),
        }
    });
    session.close(PATIENCE).expect("a whole cluster serves");
}
