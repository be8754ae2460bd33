//! Nodes are killed under load, one after another and all at once.

use std::time::{Duration, Instant};

use warren_tests::client::Session;
use warren_tests::cluster::{Cluster, NODES, PATIENCE, name};

use crate::history::check;
use crate::load::Load;

const ROUNDS: usize = 10;
/// Confirms that each publisher must get in each state of the cluster.
const PROGRESS: u64 = 100;
const QUEUES: [(&str, &str); 2] = [("kills.classic", "classic"), ("kills.quorum", "quorum")];

fn start(queues: &[(&str, &str)]) -> Cluster {
    let cluster = Cluster::start();
    for (node, (queue, kind)) in queues.iter().enumerate() {
        let mut session = Session::open(&cluster.address(node % NODES), PATIENCE).expect("a whole cluster serves");
        session
            .declare(queue, kind, PATIENCE)
            .expect("a whole cluster declares");
    }
    cluster
}

#[track_caller]
fn finish(what: &str, began: Instant, cluster: Cluster, load: Load, queues: &[&str]) {
    let (history, notes) = load.finish(&cluster, queues, 2 * PATIENCE);
    println!("{what}: {:.1} s, {notes:?}", began.elapsed().as_secs_f32());
    match check(&history) {
        Ok(summary) => println!("{what}: {summary}"),
        Err(violations) => {
            panic!(
                "{what}: {} violations, such as {:?}",
                violations.len(),
                &violations[..violations.len().min(10)]
            )
        }
    }
    assert_eq!(notes.cancels, 0, "{what}: consumers were ended by the broker");
    cluster.finish();
}

#[test]
fn each_node_is_killed_in_turn_for_ten_rounds() {
    let mut cluster = start(&QUEUES);
    let queues = QUEUES.map(|(queue, _)| queue);
    let began = Instant::now();
    let load = Load::start(&cluster, &queues, 3);
    load.await_confirms(PROGRESS, PATIENCE);
    for round in 0..ROUNDS {
        let node = NODES - 1 - round % NODES;
        let at = Instant::now();
        cluster.kill(node);
        // What is confirmed now was sent after the kill: the windows are smaller.
        load.await_confirms(PROGRESS, PATIENCE);
        let without = at.elapsed();
        cluster.start_node(node);
        load.await_confirms(PROGRESS, PATIENCE);
        load.await_deliveries(PROGRESS, PATIENCE);
        cluster.await_whole();
        println!(
            "round {round}: {} killed, all publishers went on after {:.2} s, whole again after {:.2} s",
            name(node),
            without.as_secs_f32(),
            at.elapsed().as_secs_f32()
        );
    }
    finish("ten rounds", began, cluster, load, &queues);
}

#[test]
fn all_nodes_are_killed_together() {
    let mut cluster = start(&QUEUES);
    let queues = QUEUES.map(|(queue, _)| queue);
    let began = Instant::now();
    let load = Load::start(&cluster, &queues, 3);
    for _ in 0..2 {
        load.await_confirms(3 * PROGRESS, PATIENCE);
        cluster.kill_all(&[0, 1, 2]);
        let at = Instant::now();
        for node in 0..NODES {
            cluster.spawn(node);
        }
        cluster.await_whole();
        println!("all killed, whole again after {:.2} s", at.elapsed().as_secs_f32());
    }
    load.await_confirms(PROGRESS, PATIENCE);
    finish("all at once", began, cluster, load, &queues);
}

#[test]
fn a_killed_node_misses_much_and_catches_up() {
    // What the others have compacted meanwhile reaches it as a snapshot.
    let mut cluster = start(&QUEUES);
    let queues = QUEUES.map(|(queue, _)| queue);
    let began = Instant::now();
    let load = Load::start(&cluster, &queues, 2);
    load.await_confirms(PROGRESS, PATIENCE);
    cluster.kill(2);
    load.await_confirms(40 * PROGRESS, PATIENCE);
    cluster.start_node(2);
    cluster.await_whole();
    // It counts for a majority now, together with one of the others.
    cluster.kill(1);
    load.await_confirms(PROGRESS, PATIENCE);
    cluster.start_node(1);
    cluster.await_whole();
    finish("late node", began, cluster, load, &queues);
}

#[test]
fn a_node_stops_in_good_order_under_load() {
    let mut cluster = start(&QUEUES);
    let queues = QUEUES.map(|(queue, _)| queue);
    let began = Instant::now();
    let load = Load::start(&cluster, &queues, 2);
    for node in 0..NODES {
        load.await_confirms(PROGRESS, PATIENCE);
        let at = Instant::now();
        let status = cluster.stop(node);
        assert!(
            status.success(),
            "{} ended with {status}: {}",
            name(node),
            cluster.tail(node)
        );
        assert!(
            at.elapsed() < Duration::from_secs(20),
            "it took {:?} to stop",
            at.elapsed()
        );
        load.await_confirms(PROGRESS, PATIENCE);
        cluster.start_node(node);
        cluster.await_whole();
    }
    finish("orderly", began, cluster, load, &queues);
}

#[test]
fn a_frozen_node_is_passed_over_and_comes_back() {
    let mut cluster = start(&QUEUES);
    let queues = QUEUES.map(|(queue, _)| queue);
    let leader = cluster.leader(0, queues[0]);
    // Clients keep off it: their connections stay open there, and say nothing.
    let began = Instant::now();
    let others: Vec<usize> = (0..NODES).filter(|node| *node != leader).collect();
    let load = Load::start_at(&cluster, &others, &queues, 2);
    for _ in 0..2 {
        load.await_confirms(PROGRESS, PATIENCE);
        let at = Instant::now();
        cluster.freeze(leader);
        load.await_confirms(PROGRESS, PATIENCE);
        println!(
            "{} frozen, publishers went on after {:.2} s",
            name(leader),
            at.elapsed().as_secs_f32()
        );
        cluster.thaw(leader);
        load.await_confirms(PROGRESS, PATIENCE);
        cluster.await_whole();
    }
    let connections = load.notes().connections;
    assert_eq!(connections, 8, "clients of the other nodes were thrown off");
    finish("frozen", began, cluster, load, &queues);
}
