//! Queues change their replicas and their leaders under load, and nothing is lost.

use std::time::Instant;

use serde_json::Value;
use warren_tests::client::Session;
use warren_tests::cluster::{Cluster, NODES, PATIENCE, await_some, name};

use crate::load::{Load, cluster_with};

const PROGRESS: u64 = 100;
const QUEUES: [(&str, &str); 2] = [("members.classic", "classic"), ("members.quorum", "quorum")];
/// Commands that wait for queues to have moved.
const MOVES_S: u64 = 40;

/// The names of a queue's replicas that vote.
fn voters(cluster: &Cluster, asked: usize, queue: &str) -> Result<Vec<String>, String> {
    let rows = cluster.rows(asked, &["quorum_status", queue])?;
    let voter = |row: &&Value| row["Membership"] == "voter";
    let mut names: Vec<String> = rows
        .iter()
        .filter(voter)
        .filter_map(|row| row["Node Name"].as_str().map(str::to_owned))
        .collect();
    names.sort();
    Ok(names)
}

#[track_caller]
pub(crate) fn await_voters(cluster: &Cluster, asked: usize, queue: &str, nodes: &[usize]) {
    let expected: Vec<String> = nodes.iter().map(|node| name(*node)).collect();
    await_some(
        &format!("{queue} has replicas on {expected:?}"),
        PATIENCE,
        || match voters(cluster, asked, queue)? {
            found if found == expected => Ok(()),
            found => Err(format!("{found:?}")),
        },
    );
}

#[track_caller]
pub(crate) fn ctl(cluster: &Cluster, node: usize, arguments: &[&str]) -> String {
    cluster
        .ctl_within(node, MOVES_S, arguments)
        .unwrap_or_else(|error| panic!("{arguments:?}: {error}"))
}

#[test]
fn queues_leave_each_node_and_return_under_load() {
    let mut cluster = cluster_with(&QUEUES);
    let queues = QUEUES.map(|(queue, _)| queue);
    let load = Load::start(&cluster, &queues, 2);
    load.await_confirms(PROGRESS, PATIENCE);
    for node in 0..NODES {
        let others: Vec<usize> = (0..NODES).filter(|other| *other != node).collect();
        let at = Instant::now();
        let shown = ctl(&cluster, others[0], &["shrink", &name(node)]);
        for queue in queues {
            assert!(shown.contains(&format!("/\t{queue}\t2\tok")), "{shown}");
            await_voters(&cluster, others[0], queue, &others);
        }
        load.await_confirms(PROGRESS, PATIENCE);
        let shown = ctl(&cluster, others[1], &["grow", &name(node), "all"]);
        for queue in queues {
            assert!(shown.contains(&format!("/\t{queue}\t3\tok")), "{shown}");
            await_voters(&cluster, others[1], queue, &[0, 1, 2]);
        }
        load.await_confirms(PROGRESS, PATIENCE);
        load.await_deliveries(PROGRESS, PATIENCE);
        println!(
            "{} left and returned in {:.2} s",
            name(node),
            at.elapsed().as_secs_f32()
        );
    }
    cluster.await_whole();
    load.conclude("shrink and grow", &cluster, &queues);
    cluster.finish();
}

#[test]
fn a_replica_takes_the_place_of_another_that_is_gone() {
    let mut cluster = cluster_with(&QUEUES[1..]);
    let queue = QUEUES[1].0;
    ctl(&cluster, 0, &["delete_member", queue, &name(2)]);
    await_voters(&cluster, 0, queue, &[0, 1]);
    let load = Load::start(&cluster, &[queue], 3);
    load.await_confirms(20 * PROGRESS, PATIENCE);
    ctl(&cluster, 0, &["add_member", queue, &name(2)]);
    await_voters(&cluster, 0, queue, &[0, 1, 2]);
    load.await_confirms(PROGRESS, PATIENCE);
    cluster.kill(0);
    // The new one and the one that is left are a majority, of which the lost one is taken out.
    load.await_confirms(PROGRESS, PATIENCE);
    ctl(&cluster, 1, &["delete_member", queue, &name(0)]);
    await_voters(&cluster, 1, queue, &[1, 2]);
    load.await_confirms(PROGRESS, PATIENCE);
    cluster.start_node(0);
    load.await_confirms(PROGRESS, PATIENCE);
    ctl(&cluster, 0, &["add_member", queue, &name(0)]);
    await_voters(&cluster, 0, queue, &[0, 1, 2]);
    cluster.kill(1);
    load.await_confirms(PROGRESS, PATIENCE);
    cluster.start_node(1);
    cluster.await_whole();
    load.conclude("replaced", &cluster, &[queue]);
    cluster.finish();
}

#[test]
fn leaders_go_where_they_are_sent_and_return_after_a_restart() {
    let mut cluster = cluster_with(&QUEUES[1..]);
    let queue = QUEUES[1].0;
    let load = Load::start(&cluster, &[queue], 2);
    load.await_confirms(PROGRESS, PATIENCE);
    for node in [2, 1, 0] {
        ctl(&cluster, 0, &["transfer_leadership", queue, &name(node)]);
        assert_eq!(cluster.leader(1, queue), node);
        load.await_confirms(PROGRESS, PATIENCE);
    }
    cluster.kill(0);
    load.await_confirms(PROGRESS, PATIENCE);
    assert_ne!(cluster.leader(1, queue), 0);
    cluster.start_node(0);
    await_some("the leader is back", PATIENCE, || match cluster.leader(1, queue) {
        0 => Ok(()),
        other => Err(format!("{} leads", name(other))),
    });
    load.await_confirms(PROGRESS, PATIENCE);
    cluster.await_whole();
    load.conclude("led elsewhere", &cluster, &[queue]);
    cluster.finish();
}

#[test]
fn leaders_are_spread_evenly() {
    let cluster = Cluster::start();
    let names: Vec<String> = (0..6).map(|number| format!("spread.{number}")).collect();
    let mut session = Session::open(&cluster.address(0), PATIENCE).expect("a whole cluster serves");
    for queue in &names {
        session
            .declare(queue, "quorum", PATIENCE)
            .expect("a whole cluster declares");
    }
    let before: Vec<usize> = names.iter().map(|queue| cluster.leader(0, queue)).collect();
    assert_eq!(before, [0; 6]);
    let rows = cluster
        .rows(1, &["rebalance", "quorum"])
        .expect("a whole cluster rebalances");
    assert_eq!(rows.len(), NODES);
    for row in &rows {
        assert_eq!(row["Number of quorum queues"], 2, "{row}");
    }
    await_some("each node leads two", PATIENCE, || {
        let leaders: Vec<usize> = names.iter().map(|queue| cluster.leader(0, queue)).collect();
        let even = (0..NODES).all(|node| leaders.iter().filter(|leader| **leader == node).count() == 2);
        if even { Ok(()) } else { Err(format!("{leaders:?}")) }
    });
    cluster.finish();
}

#[test]
fn a_node_that_drains_serves_nobody_until_it_is_revived() {
    let mut cluster = cluster_with(&QUEUES);
    let queues = QUEUES.map(|(queue, _)| queue);
    let load = Load::start(&cluster, &queues, 2);
    load.await_confirms(PROGRESS, PATIENCE);
    for queue in queues {
        ctl(&cluster, 0, &["transfer_leadership", queue, &name(0)]);
    }
    ctl(&cluster, 0, &["drain"]);
    for queue in queues {
        assert_ne!(cluster.leader(1, queue), 0);
    }
    let status = |asked: usize| -> Result<Value, String> {
        let rows = cluster.rows(asked, &["cluster_status"])?;
        Ok(rows[0]["maintenance_status"].clone())
    };
    assert_eq!(status(1).expect("it answers")[name(0)], "marked for maintenance");
    assert_eq!(status(1).expect("it answers")[name(1)], "not under maintenance");
    await_some("its clients are gone", PATIENCE, || {
        let rows = cluster.rows(1, &["list_connections", "node"])?;
        let there = rows.iter().filter(|row| row["node"] == name(0)).count();
        if there == 0 {
            Ok(())
        } else {
            Err(format!("{there} left"))
        }
    });
    assert!(
        std::net::TcpStream::connect(cluster.address(0)).is_err(),
        "it still listens"
    );
    load.await_confirms(PROGRESS, PATIENCE);
    ctl(&cluster, 0, &["revive"]);
    assert_eq!(status(1).expect("it answers")[name(0)], "not under maintenance");
    await_some("it serves again", PATIENCE, || {
        Session::open(&cluster.address(0), PATIENCE).map_err(|end| format!("{end:?}"))
    });
    await_some("and leads again", PATIENCE, || match cluster.leader(1, queues[0]) {
        0 => Ok(()),
        other => Err(format!("{} leads", name(other))),
    });
    load.await_confirms(PROGRESS, PATIENCE);
    cluster.await_whole();
    load.conclude("drained", &cluster, &queues);
    cluster.finish();
}

#[test]
fn a_node_is_critical_while_another_is_away() {
    let mut cluster = cluster_with(&QUEUES[1..]);
    let queue = QUEUES[1].0;
    // Its replicas have just begun.
    ctl(&cluster, 0, &["await_online_quorum_plus_one"]);
    ctl(&cluster, 0, &["check_if_node_is_quorum_critical"]);
    cluster.kill(2);
    let why = await_some("it is found critical", PATIENCE, || {
        match cluster.ctl(0, &["check_if_node_is_quorum_critical"]) {
            Err(why) if why.contains(queue) => Ok(why),
            other => Err(format!("{other:?}")),
        }
    });
    assert!(why.contains("warren1 is critical"), "{why}");
    cluster.spawn(2);
    ctl(&cluster, 0, &["await_online_quorum_plus_one"]);
    cluster.await_whole();
    // Of two replicas each is needed.
    ctl(&cluster, 0, &["delete_member", queue, &name(2)]);
    assert!(cluster.ctl(0, &["check_if_node_is_quorum_critical"]).is_err());
    ctl(&cluster, 2, &["check_if_node_is_quorum_critical"]);
    cluster.finish();
}

#[test]
fn what_cannot_be_is_refused_with_the_reason() {
    let cluster = cluster_with(&QUEUES[1..]);
    let queue = QUEUES[1].0;
    let refused = |arguments: &[&str], reason: &str| {
        let error = cluster.ctl(0, arguments).expect_err("it cannot be");
        assert!(error.contains(reason), "{arguments:?}: {error}");
    };
    refused(
        &["add_member", "nothing", "warren1"],
        "queue 'nothing' was not found in virtual host '/'",
    );
    refused(
        &["add_member", queue, "warren9"],
        "node warren9 is not a member of the cluster",
    );
    refused(&["shrink", "warren9"], "node warren9 is not a member of the cluster");
    ctl(&cluster, 0, &["add_member", queue, "warren1"]);
    ctl(&cluster, 0, &["delete_member", queue, "warren1"]);
    // There is nothing left to do.
    ctl(&cluster, 0, &["delete_member", queue, "warren1"]);
    refused(
        &["transfer_leadership", queue, "warren1"],
        "the node has no replica of it",
    );
    ctl(&cluster, 0, &["delete_member", queue, "warren2"]);
    let last = "the last node cannot be removed";
    refused(&["delete_member", queue, "warren3"], last);
    for options in [&["shrink", "warren3"][..], &["shrink", "warren3", "--errors-only"]] {
        let shown = ctl(&cluster, 0, options);
        assert!(shown.contains(&format!("{queue}\t1\terror: {last}")), "{shown}");
    }
    let shown = ctl(&cluster, 0, &["grow", "warren1", "all", "--queue-pattern", "^no such"]);
    assert!(!shown.contains(queue), "{shown}");
    let shown = ctl(&cluster, 0, &["grow", "warren1", "all", "--queue-pattern", queue]);
    assert!(shown.contains(&format!("{queue}\t2\tok")), "{shown}");
    cluster.finish();
}
