//! Nodes go over to a later version of the log's entries one after the other, under load.

use serde_json::Value;
use warren_tests::cluster::{Cluster, NODES, PATIENCE, await_some, name};

use crate::load::{Load, declare};

const QUEUE: &str = "upgrades";
const PROGRESS: u64 = 200;
/// What a node is started with that runs as the build before.
const BEFORE: [(&str, &str); 1] = [("WARREN_CLUSTER_VERSION_MAX", "1")];
/// The exit status of a node that its cluster has left behind.
const LEFT_BEHIND: i32 = 76;

/// Whether a node has heard that the cluster went over to the later version.
fn went_over(cluster: &Cluster, node: usize) -> Result<bool, String> {
    let flags = cluster.rows(node, &["list_feature_flags"])?;
    let is_later = |flag: &&Value| flag["name"] == "entries_v2";
    let flag = flags.iter().find(is_later).ok_or_else(|| format!("{flags:?}"))?;
    Ok(flag["state"] == "enabled")
}

#[test]
fn a_cluster_is_upgraded_node_by_node_under_load() {
    let mut cluster = Cluster::prepare(&[]);
    for node in 0..NODES {
        cluster.spawn_with(node, &BEFORE);
    }
    cluster.await_whole();
    declare(&cluster, &[(QUEUE, "quorum")]);
    let load = Load::start(&cluster, &[QUEUE], 2);
    for node in 0..NODES {
        load.await_confirms(PROGRESS, PATIENCE);
        for asked in 0..NODES {
            assert_eq!(
                went_over(&cluster, asked),
                Ok(false),
                "{} is not the last one",
                name(node)
            );
        }
        assert!(cluster.stop(node).success());
        load.await_confirms(PROGRESS, PATIENCE);
        cluster.start_node(node);
    }
    for node in 0..NODES {
        await_some("the cluster goes over", PATIENCE, || match went_over(&cluster, node)? {
            true => Ok(()),
            false => Err(format!("{} has not heard of it", name(node))),
        });
    }
    load.await_confirms(PROGRESS, PATIENCE);
    for flag in ["entries_v2", "all"] {
        let enabled = cluster.ctl(1, &["enable_feature_flag", flag]);
        enabled.unwrap_or_else(|text| panic!("{flag}: {text}"));
    }

    // From now on an older one is not let in, or ends by itself if it has heard before that it is left behind.
    assert!(cluster.stop(0).success());
    let before = cluster.log(0).len();
    cluster.spawn_with(0, &BEFORE);
    await_some("it is told why", PATIENCE, || {
        let log = cluster.log(0).split_off(before);
        let texts = [
            "the cluster has agreed on version 4",
            "this node supports versions up to 1",
        ];
        match texts.iter().any(|text| log.contains(text)) {
            true => Ok(()),
            false => Err(log),
        }
    });
    load.await_confirms(PROGRESS, PATIENCE);
    match cluster.exited(0) {
        None => cluster.kill(0),
        Some(status) => assert_eq!(status.code(), Some(LEFT_BEHIND)),
    }
    load.await_confirms(PROGRESS, PATIENCE);
    cluster.start_node(0);
    cluster.await_whole();
    load.conclude("upgraded", &cluster, &[QUEUE]);
    cluster.finish();
}

#[test]
fn one_node_that_holds_back_holds_all_back() {
    let mut cluster = Cluster::prepare(&[]);
    cluster.spawn_with(0, &BEFORE);
    cluster.spawn(1);
    cluster.spawn(2);
    cluster.await_whole();
    declare(&cluster, &[(QUEUE, "quorum")]);
    let load = Load::start(&cluster, &[QUEUE], 2);
    // Leaders of all nodes have proposed, also what the metadata's leader looks after.
    for node in 0..NODES {
        cluster
            .ctl(0, &["transfer_leadership", QUEUE, &name(node)])
            .expect("all nodes are there");
        load.await_confirms(PROGRESS, PATIENCE);
        assert_eq!(went_over(&cluster, node), Ok(false));
    }
    for (flag, part) in [
        ("all", format!("those that do not: {}", name(0))),
        ("entries_v2", format!("those that do not: {}", name(0))),
        ("nosuch", format!("not supported by node {}", name(1))),
    ] {
        let refusal = cluster.ctl(1, &["enable_feature_flag", flag]);
        let refusal = refusal.expect_err("one holds it back");
        assert!(refusal.contains(&part), "{flag}: {refusal}");
    }
    // The build before an upgrade can return.
    assert!(cluster.stop(1).success());
    cluster.spawn_with(1, &BEFORE);
    cluster.await_whole();
    load.await_confirms(PROGRESS, PATIENCE);
    load.conclude("held back", &cluster, &[QUEUE]);
    cluster.finish();
}
