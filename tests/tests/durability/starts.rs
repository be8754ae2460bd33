//! Nodes that are started with what they cannot use: each is refused by name, and the others go on.

use std::fs;
use std::net::TcpListener;
use std::time::Duration;

use warren_tests::client::{Event, Session};
use warren_tests::cluster::{Cluster, Failed, PATIENCE, await_some, name};

const QUEUE: &str = "starts";
/// The node that is started badly.
const BAD: usize = 2;

/// The other nodes take a message and confirm it.
#[track_caller]
fn others_serve(cluster: &Cluster) {
    for node in 0..BAD {
        let mut session = Session::open(&cluster.address(node), PATIENCE).expect("the others serve");
        session
            .declare(QUEUE, "quorum", PATIENCE)
            .expect("the others are a majority");
        session.confirm(PATIENCE).expect("the others serve");
        let tag = session.publish(QUEUE, b"a message").expect("the others serve");
        match session.next(PATIENCE).expect("the others serve") {
            Some(Event::Confirmed(tags)) => assert_eq!(tags.tag, tag),
            other => panic!("{} did not confirm: {other:?}", name(node)),
        }
        session.close(PATIENCE).expect("the others serve");
    }
}

/// It ended by itself, with a status of its own, and its log names all of `parts`.
#[track_caller]
fn names(what: &str, failed: &Failed, parts: &[&str]) {
    let last = failed.log.lines().last().unwrap_or_default();
    println!("{what}: {}: {last}", failed.status);
    assert!(
        failed.status.code().is_some_and(|code| code != 0),
        "{what}: {}: {}",
        failed.status,
        failed.log
    );
    assert!(!failed.log.contains("panicked at"), "{what}: {}", failed.log);
    for part in parts {
        assert!(
            failed.log.contains(part),
            "{what}: nothing of {part:?} in: {}",
            failed.log
        );
    }
}

#[test]
fn bad_starts_are_refused_by_name_and_the_others_go_on() {
    let mut cluster = Cluster::start();
    others_serve(&cluster);
    assert!(cluster.stop(BAD).success());

    let file = cluster.path(BAD).join("file");
    fs::write(&file, "no directory").expect("the node's directory can be written");
    let file = file.display().to_string();
    let failed = cluster.refused(BAD, &[("WARREN_NODE_DATA_DIR", &file)]);
    names("data directory is a file", &failed, &[&file]);

    // Nobody can write there, not even root.
    let failed = cluster.refused(BAD, &[("WARREN_NODE_DATA_DIR", "/proc/warren")]);
    names("data directory cannot be written", &failed, &["/proc/warren"]);

    let others = cluster.data(0).display().to_string();
    let failed = cluster.refused(BAD, &[("WARREN_NODE_DATA_DIR", &others)]);
    names("data directory in use by another node", &failed, &[&others]);

    let foreign = cluster.path(BAD).join("foreign");
    fs::create_dir_all(foreign.join("log")).expect("the node's directory can be written");
    fs::write(foreign.join("log").join("CURRENT"), "not ours").expect("the node's directory can be written");
    let foreign = foreign.display().to_string();
    let failed = cluster.refused(BAD, &[("WARREN_NODE_DATA_DIR", &foreign)]);
    names("data directory of something else", &failed, &[&foreign]);

    // While the one whose it is does not run.
    cluster.kill(1);
    let others = cluster.data(1).display().to_string();
    let failed = cluster.refused(BAD, &[("WARREN_NODE_DATA_DIR", &others)]);
    names(
        "data directory of another node",
        &failed,
        &[&others, &name(1), &name(BAD)],
    );
    cluster.start_node(1);

    let failed = cluster.refused(BAD, &[("WARREN_CLUSTER_NAMES", "warren")]);
    names("unknown variable", &failed, &["WARREN_CLUSTER_NAMES"]);
    let good = fs::read_to_string(cluster.file(BAD)).expect("the file was written");
    fs::write(cluster.file(BAD), format!("{good}hartbeat_s = 5\n")).expect("the file can be written");
    let failed = cluster.refused(BAD, &[]);
    names("unknown key", &failed, &["hartbeat_s", "warren.toml"]);
    assert_eq!(
        failed.status.code(),
        Some(78),
        "a bad configuration has a status of its own"
    );
    fs::write(cluster.file(BAD), good).expect("the file can be written");

    for address in [cluster.cluster_address(BAD), cluster.address(BAD)] {
        let taken = TcpListener::bind(&address).expect("the node that has it does not run");
        let failed = cluster.refused(BAD, &[]);
        names("port in use", &failed, &[&address]);
        drop(taken);
    }

    others_serve(&cluster);
    cluster.start_node(BAD);
    cluster.await_whole();
    cluster.finish();
}

#[test]
fn a_node_with_another_secret_is_refused_and_both_sides_say_so() {
    let mut cluster = Cluster::start();
    others_serve(&cluster);
    let bad = "the secret of another cluster";
    stranger(
        &mut cluster,
        &[("WARREN_CLUSTER_SECRET", bad)],
        "another cluster secret",
    );
    stranger(&mut cluster, &[("WARREN_CLUSTER_NAME", "hares")], "belongs to");
    cluster.await_whole();
    for node in 0..=BAD {
        let log = cluster.log(node);
        assert!(!log.contains(bad), "{} shows a secret", name(node));
    }
    cluster.finish();
}

/// Restarts the bad node so that the others must not take it: all say why, it serves nobody, the others go on.
fn stranger(cluster: &mut Cluster, variables: &[(&str, &str)], reason: &str) {
    assert!(cluster.stop(BAD).success());
    let before: Vec<usize> = (0..=BAD).map(|node| cluster.log(node).len()).collect();
    // A directory of its own: the one it has knows its cluster.
    let fresh = cluster.path(BAD).join(reason.replace(' ', "-")).display().to_string();
    let mut all = vec![("WARREN_NODE_DATA_DIR", fresh.as_str())];
    all.extend(variables);
    cluster.spawn_with(BAD, &all);
    for (node, before) in before.iter().enumerate() {
        await_some(&format!("{} says {reason:?}", name(node)), PATIENCE, || {
            let log = cluster.log(node).split_off(*before);
            if log.contains(reason) { Ok(()) } else { Err(log) }
        });
    }
    let line = cluster
        .log(0)
        .split_off(before[0])
        .lines()
        .find(|line| line.contains(reason))
        .map(str::to_owned);
    println!("{variables:?}: {}", line.unwrap_or_default());
    others_serve(cluster);
    let served = Session::open(&cluster.address(BAD), Duration::from_millis(200));
    assert!(served.is_err(), "a node without a cluster serves clients");
    let lines = cluster.log(0).split_off(before[0]).matches(reason).count();
    assert!(lines < 20, "the log is flooded: {lines} lines about one stranger");
    let seen = cluster.rows(0, &["cluster_status"]).expect("the others answer");
    assert_eq!(
        seen[0]["running_nodes"].as_array().map(Vec::len),
        Some(BAD),
        "the stranger counts as a node"
    );
    assert!(
        cluster.runs(BAD),
        "it may be given the right one later, and waits: {}",
        cluster.tail(BAD)
    );
    assert!(cluster.stop(BAD).success());
    cluster.start_node(BAD);
    cluster.await_whole();
}

#[test]
fn definitions_are_there_when_clients_are_let_in() {
    let file = std::env::temp_dir().join(format!("warren-definitions.{}.json", std::process::id()));
    let definitions = r#"{"vhosts": [{"name": "/"}],
        "queues": [{"name": "defined", "vhost": "/", "type": "quorum", "durable": true, "arguments": {}}],
        "policies": [{"vhost": "/", "name": "short", "pattern": "^defined$", "definition": {"max-length": 2}}]}"#;
    fs::write(&file, definitions).expect("a temporary file can be written");
    let path = file.display().to_string();
    let mut cluster = Cluster::start_with(&[("WARREN_DEFINITIONS_PATH", &path)]);
    for node in 0..2 {
        let mut session = Session::open(&cluster.address(node), PATIENCE).expect("a whole cluster serves");
        session
            .declare("defined", "quorum", PATIENCE)
            .expect("it was defined alike");
        session.confirm(PATIENCE).expect("a whole cluster serves");
        for _ in 0..4 {
            session
                .publish("defined", b"a message")
                .expect("a whole cluster serves");
        }
        session.close(PATIENCE).expect("a whole cluster serves");
    }
    await_some("the policy holds", PATIENCE, || {
        let row = cluster.queue(0, "defined")?;
        match row.get("messages_ready").and_then(serde_json::Value::as_u64) {
            Some(2) => Ok(()),
            other => Err(format!("{other:?} messages")),
        }
    });
    // What is there stays over further starts, and what does not do is named.
    assert!(cluster.stop(BAD).success());
    cluster.start_node(BAD);
    assert!(cluster.stop(BAD).success());
    let bad = definitions.replace("max-length", "max-apples");
    fs::write(&file, bad).expect("a temporary file can be written");
    let failed = cluster.refused(BAD, &[]);
    names(
        "bad definitions",
        &failed,
        &[&path, "policies[0] 'short'", "max-apples"],
    );
    fs::write(&file, definitions).expect("a temporary file can be written");
    cluster.start_node(BAD);
    cluster.finish();
    fs::remove_file(&file).expect("it is there");
}
