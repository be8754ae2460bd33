//! Nodes are killed under load, one after another and all at once.

use std::time::{Duration, Instant};

use warren_tests::cluster::{NODES, PATIENCE, name};

use crate::load::{Load, cluster_with};

const ROUNDS: usize = 10;
/// Confirms that each publisher must get in each state of the cluster.
const PROGRESS: u64 = 100;
const QUEUES: [(&str, &str); 2] = [("kills.classic", "classic"), ("kills.quorum", "quorum")];

#[test]
fn each_node_is_killed_in_turn_for_ten_rounds() {
    let mut cluster = cluster_with(&QUEUES);
    let queues = QUEUES.map(|(queue, _)| queue);
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
    load.conclude("ten rounds", &cluster, &queues);
    cluster.finish();
}

#[test]
fn all_nodes_are_killed_together() {
    let mut cluster = cluster_with(&QUEUES);
    let queues = QUEUES.map(|(queue, _)| queue);
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
    load.conclude("all at once", &cluster, &queues);
    cluster.finish();
}

#[test]
fn a_killed_node_misses_much_and_catches_up() {
    // What the others have compacted meanwhile reaches it as a snapshot.
    let mut cluster = cluster_with(&QUEUES);
    let queues = QUEUES.map(|(queue, _)| queue);
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
    load.conclude("late node", &cluster, &queues);
    cluster.finish();
}

#[test]
fn a_node_stops_in_good_order_under_load() {
    let mut cluster = cluster_with(&QUEUES);
    let queues = QUEUES.map(|(queue, _)| queue);
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
    load.conclude("orderly", &cluster, &queues);
    cluster.finish();
}

#[test]
fn a_frozen_node_is_passed_over_and_comes_back() {
    let mut cluster = cluster_with(&QUEUES);
    let queues = QUEUES.map(|(queue, _)| queue);
    let leader = cluster.leader(0, queues[0]);
    // Clients keep off it: their connections stay open there, and say nothing.
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
    load.conclude("frozen", &cluster, &queues);
    cluster.finish();
}
