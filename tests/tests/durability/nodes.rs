//! Nodes join a cluster, are forgotten and replaced, under load, and nothing is lost.

use std::fs;

use warren_tests::client::Session;
use warren_tests::cluster::{Cluster, PATIENCE, await_some, name};

use crate::load::{Load, cluster_with};
use crate::members::{await_voters, ctl};

const PROGRESS: u64 = 100;
const QUEUES: [(&str, &str); 2] = [("nodes.classic", "classic"), ("nodes.quorum", "quorum")];
/// The first node that is not there from the beginning.
const NEW: usize = 3;

/// Calls the tool for one that must be refused, with that reason.
#[track_caller]
pub(crate) fn refused(cluster: &Cluster, node: usize, arguments: &[&str], reason: &str) {
    let error = cluster.ctl_within(node, 20, arguments).expect_err("it cannot be");
    assert!(error.contains(reason), "{arguments:?}: {error}");
}

/// Waits until every member names exactly the members.
#[track_caller]
pub(crate) fn await_members(cluster: &Cluster) {
    let mut expected: Vec<String> = cluster.members().iter().map(|node| name(*node)).collect();
    expected.sort();
    for node in cluster.members() {
        await_some(&format!("{} knows {expected:?}", name(*node)), PATIENCE, || {
            let rows = cluster.rows(*node, &["cluster_status"])?;
            let names = |key: &str| -> Vec<String> {
                let all = rows[0][key].as_array().into_iter().flatten();
                all.filter_map(|name| name.as_str().map(str::to_owned)).collect()
            };
            if names("disk_nodes") == expected && names("running_nodes") == expected {
                Ok(())
            } else {
                Err(rows[0].to_string())
            }
        });
    }
}

/// Waits until the nodes have agreed on what new ones need; one that is away would keep them from it.
#[track_caller]
fn await_version(cluster: &Cluster) {
    await_some("the nodes have agreed on the latest version", PATIENCE, || {
        let rows = cluster.rows(0, &["cluster_status"])?;
        let mut flags = rows[0]["feature_flags"].as_array().into_iter().flatten();
        match flags.all(|flag| flag["state"] == "enabled") {
            true => Ok(()),
            false => Err(rows[0]["feature_flags"].to_string()),
        }
    });
}

#[test]
fn a_fourth_node_joins_under_load_and_carries_queues() {
    let mut cluster = cluster_with(&QUEUES);
    let queues = QUEUES.map(|(queue, _)| queue);
    let load = Load::start_at(&cluster, &[0, 1, 2, NEW], &queues, 2);
    load.await_confirms(PROGRESS, PATIENCE);
    cluster.join(NEW);
    await_members(&cluster);
    load.await_confirms(PROGRESS, PATIENCE);
    // Existing queues come with `grow`, and can be led there.
    for queue in queues {
        ctl(&cluster, NEW, &["add_member", queue, &name(NEW)]);
        await_voters(&cluster, 0, queue, &[0, 1, 2, NEW]);
        ctl(&cluster, 1, &["transfer_leadership", queue, &name(NEW)]);
        assert_eq!(cluster.leader(1, queue), NEW);
    }
    load.await_confirms(PROGRESS, PATIENCE);
    load.await_deliveries(PROGRESS, PATIENCE);
    // New ones go there, and what was declared elsewhere is known there.
    let mut session = Session::open(&cluster.address(NEW), PATIENCE).expect("the new node serves");
    session
        .declare("nodes.new", "quorum", PATIENCE)
        .expect("a whole cluster declares");
    cluster.lead(0, "nodes.new", NEW);
    // Nobody was told of it but by the metadata; it and another one begin again as they are.
    cluster.kill_all(&[1, NEW]);
    cluster.start_node(1);
    cluster.start_node(NEW);
    await_members(&cluster);
    // Of four nodes two may not be away, but one may: also one that was there from the beginning.
    cluster.kill(0);
    load.await_confirms(PROGRESS, PATIENCE);
    cluster.start_node(0);
    cluster.await_whole();
    load.conclude("joined", &cluster, &queues);
    cluster.finish();
}

#[test]
fn a_dead_node_is_replaced_by_a_new_one_under_load() {
    let mut cluster = cluster_with(&QUEUES);
    let queues = QUEUES.map(|(queue, _)| queue);
    let load = Load::start_at(&cluster, &[0, 1, 2, NEW], &queues, 2);
    load.await_confirms(PROGRESS, PATIENCE);
    refused(
        &cluster,
        0,
        &["forget_cluster_node", "warren3"],
        "Warren on node warren3 must be stopped before it can be removed",
    );
    refused(&cluster, 0, &["forget_cluster_node", "warren9"], "not in the cluster");
    await_version(&cluster);
    cluster.kill(2);
    load.await_confirms(PROGRESS, PATIENCE);
    // The new one first: then what the dead one held goes there.
    cluster.join(NEW);
    cluster.has_members(&[0, 1, NEW]);
    let shown = ctl(&cluster, 1, &["forget_cluster_node", "warren3"]);
    for queue in queues {
        assert!(shown.contains(&format!("/\t{queue}\t3\tok")), "{shown}");
        await_voters(&cluster, 0, queue, &[0, 1, NEW]);
    }
    await_members(&cluster);
    load.await_confirms(PROGRESS, PATIENCE);
    // Any one of the three may go now.
    for node in [0, NEW, 1] {
        cluster.kill(node);
        load.await_confirms(PROGRESS, PATIENCE);
        cluster.start_node(node);
        cluster.await_whole();
    }
    // The forgotten one is turned away, says why, and does not stay.
    let failed = cluster.refused(2, &[]);
    assert_eq!(failed.status.code(), Some(78));
    assert!(failed.log.contains("its cluster goes on without it"), "{}", failed.log);
    // It ends with the first refusal, whosever that is.
    await_some("one of the others says whom it refused", PATIENCE, || {
        let says = |node: usize| cluster.log(node).contains("is not part of the cluster any more");
        [0, 1, NEW]
            .into_iter()
            .any(says)
            .then_some(())
            .ok_or_else(|| cluster.tail(0))
    });
    load.await_confirms(PROGRESS, PATIENCE);
    // With an empty directory it joins again under its old name.
    fs::remove_dir_all(cluster.data(2)).expect("it is there");
    cluster.join(2);
    await_members(&cluster);
    for queue in queues {
        ctl(&cluster, 0, &["add_member", queue, &name(2)]);
        await_voters(&cluster, 0, queue, &[0, 1, 2, NEW]);
    }
    load.await_confirms(PROGRESS, PATIENCE);
    cluster.await_whole();
    load.conclude("replaced", &cluster, &queues);
    cluster.finish();
}

#[test]
fn nodes_that_cannot_join_or_be_forgotten_are_refused_with_the_reason() {
    let mut cluster = Cluster::start();
    cluster.prepare_new(NEW);
    let seed = format!("warren1={}", cluster.cluster_address(0));
    // Its data directory holds something.
    let data = cluster.data(NEW);
    fs::create_dir_all(data.join("log")).expect("the directory can be written");
    refused(
        &cluster,
        NEW,
        &["join_cluster", &seed],
        "is not that of a new node, it holds log",
    );
    fs::remove_dir_all(&data).expect("it is there");
    // It does not know the secret; as itself, it says so and ends.
    cluster.configure(NEW, "cluster", "join = true");
    let failed = cluster.refused(NEW, &[("WARREN_CLUSTER_SECRET", "the secret of another cluster")]);
    assert_eq!(failed.status.code(), Some(78), "{}", failed.log);
    assert!(failed.log.contains("another cluster secret"), "{}", failed.log);
    let failed = cluster.refused(NEW, &[("WARREN_CLUSTER_NAME", "hares")]);
    assert!(failed.log.contains("belongs to"), "{}", failed.log);
    // Its list names a node that there is not.
    let (own, other) = (cluster.cluster_address(NEW), cluster.cluster_address(0));
    let seeds = format!("warren1={other},stranger=127.0.0.1:1,warren4={own}");
    let failed = cluster.refused(NEW, &[("WARREN_CLUSTER_SEEDS", &seeds)]);
    assert!(failed.log.contains("cluster.seeds names 'stranger'"), "{}", failed.log);
    // Another one is where it says that it is.
    let seeds = format!("warren1={other},warren4={}", cluster.cluster_address(1));
    let failed = cluster.refused(NEW, &[("WARREN_CLUSTER_SEEDS", &seeds)]);
    assert!(
        failed.log.contains("is that of node 'warren2' already"),
        "{}",
        failed.log
    );
    // By the tool, which a stopped node's machine has: then it needs no word of its configuration.
    fs::remove_dir_all(&data).expect("it is there");
    cluster.prepare_new(NEW);
    ctl(&cluster, NEW, &["join_cluster", &seed]);
    refused(&cluster, NEW, &["join_cluster", &seed], "has joined a cluster already");
    cluster.start_node(NEW);
    cluster.has_members(&[0, 1, 2, NEW]);
    await_members(&cluster);
    // What only a stopped node has keeps it from being forgotten.
    let mut session = Session::open(&cluster.address(NEW), PATIENCE).expect("the new node serves");
    session
        .declare("nodes.only", "quorum", PATIENCE)
        .expect("a whole cluster declares");
    for other in cluster.rows(0, &["quorum_status", "nodes.only"]).expect("it answers") {
        let other = other["Node Name"].as_str().unwrap_or_default().to_owned();
        if other != name(NEW) {
            ctl(&cluster, 0, &["delete_member", "nodes.only", &other]);
        }
    }
    await_voters(&cluster, 0, "nodes.only", &[NEW]);
    session.close(PATIENCE).expect("the new node serves");
    assert!(cluster.stop(NEW).success());
    let reason = "1 queue(s) have their only replica on node warren4";
    await_some("it is down", PATIENCE, || {
        match cluster.ctl_within(0, 20, &["forget_cluster_node", "warren4"]) {
            Err(error) if error.contains(reason) && error.contains("'nodes.only'") => Ok(()),
            other => Err(format!("{other:?}")),
        }
    });
    cluster.start_node(NEW);
    ctl(&cluster, 0, &["delete_queue", "nodes.only"]);
    assert!(cluster.stop(NEW).success());
    await_some("it can be forgotten", PATIENCE, || {
        cluster.ctl_within(0, 40, &["forget_cluster_node", "warren4"])
    });
    cluster.has_members(&[0, 1, 2]);
    await_members(&cluster);
    cluster.finish();
}
