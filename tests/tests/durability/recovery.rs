//! The majority of the nodes is lost for good, and the others go on with what they hold.

use std::fs;

use warren_tests::client::Session;
use warren_tests::cluster::{Cluster, PATIENCE, await_some, name};

use crate::load::{cluster_with, publish, publisher, take_each_once};
use crate::members::{await_voters, ctl};
use crate::nodes::{await_members, refused};

const MESSAGES: u64 = 200;

fn number(body: &[u8]) -> u64 {
    let text = std::str::from_utf8(body).expect("they were published as text");
    text.parse().expect("they were published as numbers")
}

/// Publishes so many messages and waits for their confirms.
#[track_caller]
fn publish_numbers(cluster: &Cluster, node: usize, queue: &str, numbers: std::ops::Range<u64>) {
    let mut session = publisher(cluster, node);
    publish(
        &mut session,
        queue,
        numbers.map(|number| number.to_string().into_bytes()),
    );
    session.close(PATIENCE).expect("it serves");
}

/// Every message of a queue, once, as a node has them.
#[track_caller]
fn take_all(cluster: &Cluster, node: usize, queue: &str, total: u64) {
    let mut session = Session::open(&cluster.address(node), PATIENCE).expect("it serves");
    take_each_once(&mut session, queue, total, |delivery| number(&delivery.body));
    session.close(PATIENCE).expect("it serves");
}

/// Leaves a queue with these replicas.
#[track_caller]
fn place(cluster: &Cluster, queue: &str, all: &[usize], replicas: &[usize]) {
    for node in replicas {
        ctl(cluster, replicas[0], &["add_member", queue, &name(*node)]);
    }
    await_voters(cluster, replicas[0], queue, &{
        let rows = cluster
            .rows(replicas[0], &["quorum_status", queue])
            .expect("it answers");
        let there = |node: &&usize| rows.iter().any(|row| row["Node Name"] == name(**node));
        all.iter().filter(there).copied().collect::<Vec<usize>>()
    });
    for node in all.iter().filter(|node| !replicas.contains(node)) {
        // Where there is none, there is nothing to take away.
        let _ = cluster.ctl_within(replicas[0], 40, &["delete_member", queue, &name(*node)]);
    }
    await_voters(cluster, replicas[0], queue, replicas);
}

#[test]
fn the_only_survivor_of_three_goes_on_with_what_it_held() {
    let mut cluster = cluster_with(&[("left", "quorum"), ("left.classic", "classic"), ("gone", "quorum")]);
    place(&cluster, "gone", &[0, 1, 2], &[1]);
    for queue in ["left", "left.classic", "gone"] {
        publish_numbers(&cluster, 0, queue, 0..MESSAGES);
    }
    cluster.await_whole();
    let alone = ["recover_lost_majority", "--survivors", "warren1"];
    let accepted = ["recover_lost_majority", "--survivors", "warren1", "--accept-loss"];
    refused(&cluster, 0, &accepted, "in use by another process");
    cluster.kill_all(&[0, 1, 2]);
    refused(
        &cluster,
        0,
        &["recover_lost_majority", "--survivors", "warren1,warren2"],
        "2 of 3 nodes are a majority",
    );
    refused(
        &cluster,
        0,
        &["recover_lost_majority", "--survivors", "warren2"],
        "'warren1' itself must be among",
    );
    refused(
        &cluster,
        0,
        &["recover_lost_majority", "--survivors", "warren1,hare"],
        "'hare' is not one of",
    );
    let report = cluster.ctl(0, &alone).expect_err("nothing is done without a word");
    for part in [
        "refused if they return: warren2, warren3",
        "nothing is left; they can be deleted (delete_queue) and declared again: 1\n  queue 'gone' in vhost '/'",
        "queue 'left' in vhost '/'",
        "call it again with --accept-loss",
    ] {
        assert!(report.contains(part), "{part:?} is not in {report}");
    }
    ctl(&cluster, 0, &accepted);
    // Twice does no harm.
    ctl(&cluster, 0, &accepted);
    cluster.has_members(&[0]);
    cluster.start_node(0);
    await_members(&cluster);
    for part in ["goes on without a majority", "go on without its majority"] {
        assert!(cluster.log(0).contains(part), "it does not say {part:?} loudly");
    }
    for queue in ["left", "left.classic"] {
        publish_numbers(&cluster, 0, queue, MESSAGES..2 * MESSAGES);
        take_all(&cluster, 0, queue, 2 * MESSAGES);
    }
    let row = cluster.queue(0, "gone").expect("it is listed");
    assert_eq!(row["state"], "down", "{row}");
    ctl(&cluster, 0, &["delete_queue", "gone"]);
    // The lost ones return, one and then both, who were the majority.
    let failed = cluster.refused(1, &[]);
    assert_eq!(failed.status.code(), Some(78), "{}", failed.log);
    for node in [1, 2] {
        cluster.spawn(node);
    }
    for node in [1, 2] {
        assert_eq!(cluster.await_exit(node).code(), Some(78), "{}", cluster.tail(node));
        // It is refused where it calls, unless it is told before where it is called.
        let log = cluster.log(node);
        let reasons = ["its cluster goes on without it", "has gone on without the majority"];
        assert!(reasons.iter().any(|reason| log.contains(reason)), "{log}");
    }
    // It begins again as it is, and others come with nothing.
    cluster.kill(0);
    cluster.start_node(0);
    for node in [1, 2] {
        fs::remove_dir_all(cluster.data(node)).expect("it is there");
        cluster.join(node);
    }
    await_members(&cluster);
    place(&cluster, "left", &[0, 1, 2], &[0, 1, 2]);
    publish_numbers(&cluster, 1, "left", 0..MESSAGES);
    cluster.kill(0);
    await_some("the others lead", PATIENCE, || match cluster.leader(1, "left") {
        0 => Err("warren1 leads".to_owned()),
        _ => Ok(()),
    });
    take_all(&cluster, 2, "left", MESSAGES);
    cluster.start_node(0);
    cluster.await_whole();
    cluster.finish();
}

#[test]
fn two_survivors_of_five_go_on_together() {
    const ALL: [usize; 5] = [0, 1, 2, 3, 4];
    let mut cluster = cluster_with(&[("one", "quorum"), ("two", "quorum"), ("most", "quorum")]);
    cluster.join(3);
    cluster.join(4);
    await_members(&cluster);
    place(&cluster, "one", &ALL, &[0, 1, 3]);
    place(&cluster, "two", &ALL, &[0, 1, 2, 3, 4]);
    place(&cluster, "most", &ALL, &[2, 3, 4]);
    for queue in ["one", "two", "most"] {
        publish_numbers(&cluster, 4, queue, 0..MESSAGES);
    }
    cluster.await_whole();
    // The metadata have a majority still, a queue has not: it goes on with the replica that is left.
    cluster.kill_all(&[0, 1]);
    cluster.has_members(&[2, 3, 4]);
    await_some("it is without a leader", PATIENCE, || {
        let row = cluster.queue(3, "one")?;
        if row["state"] == "running" {
            Err(row.to_string())
        } else {
            Ok(())
        }
    });
    refused(&cluster, 2, &["forget_cluster_node", "warren1"], "'one' in vhost '/'");
    refused(
        &cluster,
        2,
        &["force_shrink_member_to_current_member", "one"],
        "the node has no replica of it",
    );
    refused(
        &cluster,
        3,
        &["force_shrink_member_to_current_member", "most"],
        "the nodes of a majority of its replicas run",
    );
    ctl(&cluster, 3, &["force_shrink_member_to_current_member", "one"]);
    await_voters(&cluster, 3, "one", &[3]);
    publish_numbers(&cluster, 4, "one", MESSAGES..2 * MESSAGES);
    // Then the majority of the metadata goes, too.
    cluster.kill_all(&[2, 3, 4]);
    for node in [3, 4] {
        ctl(
            &cluster,
            node,
            &[
                "recover_lost_majority",
                "--survivors",
                "warren4,warren5",
                "--accept-loss",
            ],
        );
    }
    cluster.has_members(&[3, 4]);
    for node in [3, 4] {
        cluster.spawn(node);
    }
    for node in [3, 4] {
        cluster.await_ready(node);
    }
    await_members(&cluster);
    for (queue, replicas, total) in [
        ("one", &[3][..], 2 * MESSAGES),
        ("two", &[3, 4], MESSAGES),
        ("most", &[3, 4], MESSAGES),
    ] {
        await_voters(&cluster, 4, queue, replicas);
        take_all(&cluster, 4, queue, total);
    }
    cluster.spawn(2);
    assert_eq!(cluster.await_exit(2).code(), Some(78), "{}", cluster.tail(2));
    cluster.await_whole();
    cluster.finish();
}
