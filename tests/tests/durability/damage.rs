//! Disks that lie: a node's store is damaged while it is down. What is confirmed is not lost, whoever starts first.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use warren_tests::client::{Event, Session, Tags};
use warren_tests::cluster::{Cluster, NODES, PATIENCE, await_some, name, pause};

use crate::history::{History, Sending, check};
use crate::load::{body, receipt};

const QUEUE: &str = "damaged";
const COUNT: u64 = 200;

fn publish(cluster: &Cluster, node: usize, numbers: std::ops::Range<u64>) {
    let mut session = Session::open(&cluster.address(node), PATIENCE).expect("a majority serves");
    session.declare(QUEUE, "quorum", PATIENCE).expect("a majority declares");
    session.confirm(PATIENCE).expect("a majority serves");
    for number in numbers {
        // One at a time: each is a write of its own on every disk.
        session.publish(QUEUE, &body(QUEUE, (0, number))).expect("a majority serves");
        match session.next(PATIENCE).expect("a majority serves") {
            Some(Event::Confirmed(_)) => {}
            other => panic!("instead of a confirm: {other:?}"),
        }
    }
    session.close(PATIENCE).expect("a majority serves");
}

/// Takes everything through a node, and checks that it is what was confirmed.
#[track_caller]
fn all_there(what: &str, cluster: &Cluster, node: usize, count: u64) {
    let mut session = Session::open(&cluster.address(node), PATIENCE).expect("a majority serves");
    session.consume(QUEUE, 100, PATIENCE).expect("a majority serves");
    let mut receipts = Vec::new();
    let deadline = Instant::now() + PATIENCE;
    loop {
        match session.next(Duration::from_millis(200)).expect("the consumer stays") {
            Some(Event::Delivered(delivery)) => {
                receipts.push(receipt(QUEUE, &delivery));
                session.ack(Tags { tag: delivery.tag, multiple: false }).expect("the consumer stays");
            }
            Some(other) => panic!("to a consumer: {other:?}"),
            None => {
                let row = cluster.queue(node, QUEUE).unwrap_or_default();
                if row["state"] == "running" && row["messages"] == 0 {
                    break;
                }
                assert!(Instant::now() < deadline, "{what}: not empty: {row}");
            }
        }
    }
    let sendings = (0..count).map(|message| Sending { message, channel: 0, confirmed: true }).collect();
    let history = History { sendings: [(0, sendings)].into(), receipts: vec![receipts] };
    match check(&history) {
        Ok(summary) => println!("{what}: {summary}"),
        Err(violations) => panic!("{what}: {} violations: {:?}", violations.len(), &violations[..violations.len().min(5)]),
    }
}

/// The newest non-empty file of the store with this ending.
fn newest(cluster: &Cluster, node: usize, ending: &str) -> Option<PathBuf> {
    let files = fs::read_dir(cluster.data(node).join("log")).expect("the store is a directory");
    files
        .filter_map(|file| {
            let path = file.ok()?.path();
            let known = path.extension().is_some_and(|extension| extension == ending);
            (known && fs::metadata(&path).ok()?.len() > 0).then_some(path)
        })
        .max()
}

/// Flips some bytes from a place on, counted in thousandths of the file's used part.
fn damage(path: &Path, thousandths: usize) {
    let mut bytes = fs::read(path).expect("the store can be read");
    let used = bytes.iter().rposition(|byte| *byte != 0).map_or(0, |last| last + 1);
    let at = used * thousandths / 1000;
    for byte in &mut bytes[at..(at + 64).min(used)] {
        *byte ^= 0xA5;
    }
    fs::write(path, bytes).expect("the store can be written");
    println!("damaged {} at {at} of {used}", path.display());
}

/// What became of a node with a damaged store.
#[derive(Debug, PartialEq)]
enum Fate {
    Refused,
    Serves,
    /// It runs, and waits for others.
    Waits,
}

/// Starts it, and says what it did within the time. One that ended must have said why.
#[track_caller]
fn start(what: &str, cluster: &mut Cluster, node: usize, within: Duration) -> Fate {
    let before = cluster.log(node).len();
    cluster.spawn(node);
    let deadline = Instant::now() + within;
    loop {
        if let Some(status) = cluster.exited(node) {
            let log = cluster.log(node).split_off(before);
            println!("{what}: {} refused to start ({status}): {}", name(node), log.lines().last().unwrap_or_default());
            assert!(status.code().is_some_and(|code| code != 0), "{what}: {status}: {log}");
            assert!(!log.contains("panicked at"), "{what}: a panic, not a refusal: {log}");
            let data = cluster.data(node).display().to_string();
            assert!(log.contains(&data), "{what}: the refusal does not name the place: {log}");
            return Fate::Refused;
        }
        if cluster.ctl(node, &["await_startup"]).is_ok() {
            println!("{what}: {} serves", name(node));
            return Fate::Serves;
        }
        if Instant::now() >= deadline {
            println!("{what}: {} waits", name(node));
            return Fate::Waits;
        }
        pause();
    }
}

/// One node of three was damaged while it was down; the two others hold everything.
fn one_of_three(what: &str, ending: &str, thousandths: usize) {
    let mut cluster = Cluster::start();
    publish(&cluster, 0, 0..COUNT);
    if ending == "sst" {
        // A start writes the log's content into tables.
        cluster.kill(2);
        cluster.start_node(2);
    }
    cluster.kill(2);
    let file = newest(&cluster, 2, ending).unwrap_or_else(|| panic!("{what}: no .{ending} file"));
    damage(&file, thousandths);
    let fate = start(what, &mut cluster, 2, PATIENCE / 2);
    publish(&cluster, 0, COUNT..COUNT + 50);
    if fate != Fate::Refused {
        await_some("the damaged node is level", PATIENCE, || cluster.queue(2, QUEUE).map(drop));
        // Whatever it says now must be what was confirmed.
        cluster.kill(1);
        publish(&cluster, 0, COUNT + 50..COUNT + 60);
        all_there(what, &cluster, 2, COUNT + 60);
        cluster.start_node(1);
    } else {
        all_there(what, &cluster, 1, COUNT + 50);
    }
    cluster.assert_no_panic();
    cluster.finish();
}

#[test]
fn damage_in_the_middle_of_the_log() {
    one_of_three("log, middle", "log", 500);
}

#[test]
fn damage_at_the_end_of_the_log() {
    one_of_three("log, end", "log", 995);
}

#[test]
fn damage_in_a_table() {
    one_of_three("table", "sst", 400);
}

/// What a damaged node has forgotten must not be outvoted by it: node 3 has missed what nodes 1 and 2 confirmed, node 2 is
/// damaged, and starts with node 3 before node 1 does.
#[test]
fn a_damaged_node_does_not_help_to_forget_what_was_confirmed() {
    let what = "damaged majority";
    let mut cluster = Cluster::start();
    publish(&cluster, 0, 0..50);
    cluster.kill(2);
    publish(&cluster, 0, 50..COUNT);
    cluster.kill_all(&[0, 1]);
    let file = newest(&cluster, 1, "log").unwrap_or_else(|| panic!("{what}: no log file"));
    damage(&file, 600);
    cluster.spawn(2);
    let fate = start(what, &mut cluster, 1, Duration::from_secs(10));
    println!("{what}: {} with damage, {} behind: {fate:?}", name(1), name(2));
    cluster.spawn(0);
    cluster.await_ready(0);
    if fate == Fate::Refused {
        cluster.await_ready(2);
    }
    all_there(what, &cluster, 0, COUNT);
    cluster.finish();
}

/// A node that has lost its disk gets everything back from the others, by itself.
#[test]
fn a_node_without_its_disk_is_filled_again() {
    let what = "lost disk";
    let mut cluster = Cluster::start();
    publish(&cluster, 0, 0..COUNT);
    cluster.kill(2);
    fs::remove_dir_all(cluster.data(2)).expect("the data can be removed");
    cluster.start_node(2);
    cluster.await_whole();
    // With one of the others gone, it is half of what holds the messages.
    cluster.kill(1);
    publish(&cluster, 0, COUNT..COUNT + 10);
    all_there(what, &cluster, 2, COUNT + 10);
    let alive = (0..NODES).filter(|node| cluster.runs(*node)).count();
    println!("{what}: served by {alive} nodes");
    cluster.finish();
}
