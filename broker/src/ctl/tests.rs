use std::{ffi::OsString, io};

use serde_json::{Value, json};

use super::{Exit, Failure, Invocation, Next};
use crate::admin::protocol::{Growth, QueueKind, Request};

const FILE: &str = r#"
cluster.name = "blue"
cluster.listen = "0.0.0.0:7109"
cluster.secret = "0123456789abcdef"
cluster.seeds = ["a=10.0.0.1:7101", "b=10.0.0.2:7101"]
"#;

fn parse(line: &[&str], env: &[(&str, &str)]) -> Result<Invocation, Exit> {
    let args = std::iter::once("warrenctl")
        .chain(line.iter().copied())
        .map(OsString::from);
    let env = env
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    Invocation::parse(args, env, |path| match path.to_str() {
        Some("file.toml") => Ok(FILE.to_owned()),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    })
}

/// Everything that `line` writes to standard output when the node answers with `rows`.
fn shown(line: &[&str], rows: &Value) -> String {
    let invocation = parse(line, &[]).expect("the line means something");
    let rows = rows.as_array().cloned().unwrap_or_default();
    match invocation.judge(Ok(rows)) {
        Next::Exit(Exit { status: 0, text }) => invocation.banner().unwrap_or_default() + &text,
        other => panic!("{line:?} ends with {other:?}"),
    }
}

#[track_caller]
fn check(line: &[&str], rows: &Value, expected: &str) {
    assert_eq!(shown(line, rows), expected, "{line:?}");
}

fn queues() -> Value {
    json!([
        {"name": "cl", "messages": 0, "messages_ready": 0, "durable": true, "policy": "", "leader": "a",
         "members": ["a", "b"], "arguments": [["x-max-priority", "long", 3], ["x-queue-type", "longstr", "classic"]]},
        {"name": "q\tq\u{1b}[2J", "messages": 17, "messages_ready": 2, "durable": false, "policy": "", "leader": "",
         "members": [], "arguments": [], "later": true},
    ])
}

#[test]
fn tables_are_rabbitmqctls() {
    check(
        &["list_queues"],
        &queues(),
        "Timeout: 60.0 seconds ...\nListing queues for vhost / ...\nname\tmessages\ncl\t0\nq\\tq\\u{1b}[2J\t17\n",
    );
    check(
        &["list_queues", "-q", "name,", "messages"],
        &queues(),
        "name\tmessages\ncl\t0\nq\\tq\\u{1b}[2J\t17\n",
    );
    check(
        &["-s", "list_queues", "messages", "durable"],
        &queues(),
        "0\ttrue\n17\tfalse\n",
    );
    check(
        &["list_queues", "-p", "v", "messages", "--no-table-headers", "-t", "5"],
        &queues(),
        "Timeout: 5.0 seconds ...\nListing queues for vhost v ...\n0\n17\n",
    );
    check(
        &["-q", "list_queues", "members", "arguments", "policy", "type"],
        &queues(),
        "members\targuments\tpolicy\ttype\n\
         [a, b]\t[{\"x-max-priority\",3},{\"x-queue-type\",\"classic\"}]\t\t\n[]\t[]\t\t\n",
    );
    check(
        &["-q", "list_queues", "--online", "messages"],
        &queues(),
        "messages\n0\n",
    );
    check(
        &["-q", "list_queues", "--offline", "messages"],
        &queues(),
        "messages\n17\n",
    );
    check(&["list_consumers"], &json!([]), "Listing consumers in vhost / ...\n");
    check(
        &["list_bindings"],
        &json!([{"source_name": "", "source_kind": "exchange", "destination_name": "q", "destination_kind": "queue",
                 "routing_key": "q", "arguments": [["t", "table", [["x", "long", 1]]]]}]),
        "Listing bindings for vhost /...\n\
         source_name\tsource_kind\tdestination_name\tdestination_kind\trouting_key\targuments\n\
         \texchange\tq\tqueue\tq\t[{\"t\",[{\"x\",1}]}]\n",
    );
    check(
        &["list_users"],
        &json!([{"user": "guest", "tags": ["administrator", "x"]}]),
        "Listing users ...\nuser\ttags\nguest\t[administrator, x]\n",
    );
}

#[test]
fn other_formatters() {
    check(&["list_queues", "--formatter", "json", "-p", "v"], &json!([]), "[\n]\n");
    check(
        &["list_queues", "--formatter", "json", "name", "arguments"],
        &queues(),
        "[\n{\"name\":\"cl\",\"arguments\":[[\"x-max-priority\",\"long\",3],[\"x-queue-type\",\"longstr\",\"classic\"]]}\n\
         ,{\"name\":\"q\\tq\\u001b[2J\",\"arguments\":[]}\n]\n",
    );
    check(
        &["list_exchanges", "--formatter=csv", "name", "durable"],
        &json!([{"name": "a \"b\"", "durable": true}]),
        "\"name\",\"durable\"\n\"a \"\"b\"\"\",\"true\"\n",
    );
    check(
        &["list_queues", "-q", "--formatter", "pretty_table", "messages", "policy"],
        &queues(),
        "┌──────────┬────────┐\n│ messages │ policy │\n├──────────┼────────┤\n│ 0        │        │\n\
         ├──────────┼────────┤\n│ 17       │        │\n└──────────┴────────┘\n",
    );
    let replicas = json!([{"Node Name": "a", "Raft State": "leader", "Term": 3, "Snapshot Index": -1}]);
    let text = shown(&["quorum_status", "q"], &replicas);
    assert!(text.starts_with("Status of queue q ...\n┌"), "{text}");
    assert!(
        text.contains("│ Node Name │ Raft State │ Membership │ Last Log Index │"),
        "{text}"
    );
    assert!(shown(&["quorum_status", "q", "--formatter", "json"], &replicas).contains("\"Membership\":null"));
}

/// What a line of the commands about replicas asks the node for, and what it says first.
#[test]
fn commands_about_replicas() {
    let asks = |line: &[&str], request: Request, banner: &str| {
        let invocation = parse(line, &[]).expect("the line means something");
        assert_eq!(invocation.request(), &request, "{line:?}");
        assert_eq!(
            invocation.banner().unwrap_or_default(),
            format!("{banner}\n"),
            "{line:?}"
        );
    };
    let (queue, node, vhost) = ("q".to_owned(), "a".to_owned(), "v".to_owned());
    let any = || ".*".to_owned();
    let add = Request::AddMember {
        vhost: vhost.clone(),
        queue: queue.clone(),
        node: node.clone(),
    };
    let banner = "Adding a member for queue q on node a...";
    asks(&["add_member", "-p", "v", "q", "a"], add.clone(), banner);
    asks(
        &["add_member", "--vhost", "v", "q", "a", "--membership", "voter"],
        add.clone(),
        banner,
    );
    asks(
        &["add_member", "--vhost", "v", "q", "a", "--membership", "promotable"],
        add,
        banner,
    );
    let delete = Request::DeleteMember {
        vhost: vhost.clone(),
        queue: queue.clone(),
        node: node.clone(),
    };
    asks(
        &["delete_member", "-p", "v", "q", "a"],
        delete,
        "Removing a replica of queue q on node a...",
    );
    let transfer = Request::TransferLeadership {
        vhost,
        queue,
        node: node.clone(),
    };
    let banner = "Transferring leadership of queue q to node a...";
    asks(&["transfer_leadership", "-p", "v", "q", "a"], transfer, banner);
    let grow = |growth, vhost_pattern: String, queue_pattern: String| Request::Grow {
        node: node.clone(),
        growth,
        vhost_pattern,
        queue_pattern,
    };
    asks(
        &["grow", "a", "all"],
        grow(Growth::All, any(), any()),
        "Growing all queues on a...",
    );
    let line = [
        "grow",
        "a",
        "even",
        "--vhost-pattern",
        "^v",
        "--queue-pattern",
        "^q",
        "--membership",
        "voter",
    ];
    let request = grow(Growth::Even, "^v".to_owned(), "^q".to_owned());
    asks(&line, request, "Growing even queues on a...");
    let shrink = |errors_only| Request::Shrink {
        node: node.clone(),
        errors_only,
    };
    asks(&["shrink", "a"], shrink(false), "Shrinking queues on a...");
    asks(
        &["shrink", "a", "--errors-only"],
        shrink(true),
        "Shrinking queues on a...",
    );
    for (word, kind) in [
        ("all", QueueKind::All),
        ("quorum", QueueKind::Quorum),
        ("classic", QueueKind::Classic),
    ] {
        let request = Request::Rebalance {
            kind,
            vhost_pattern: any(),
            queue_pattern: "^q".to_owned(),
        };
        let banner = format!("Re-balancing leaders of {word} queues...");
        asks(&["rebalance", word, "--queue-pattern", "^q"], request, &banner);
    }
    let critical = "Checking if the node is critical for the quorum of any queues ...";
    asks(&["check_if_node_is_quorum_critical"], Request::CheckQuorum, critical);
    let waits = "Will wait for a quorum + 1 of nodes to be online for all queues ...";
    asks(&["await_online_quorum_plus_one"], Request::CheckQuorum, waits);
    for line in [
        &["grow", "a", "odd"][..],
        &["grow", "a"],
        &["add_member", "q"],
        &["add_member", "q", "a", "--membership", "leader"],
        &["delete_member", "q"],
        &["shrink"],
        &["rebalance", "streams and more"],
        &["transfer_leadership", "q"],
    ] {
        let Err(refused) = parse(line, &[]) else {
            panic!("{line:?} was taken")
        };
        assert_eq!(refused.status, 64, "{line:?}: {}", refused.text);
    }
}

#[test]
fn commands_without_rows() {
    check(&["ping"], &json!([]), "Will ping the node ...\nPing succeeded\n");
    check(&["-q", "ping"], &json!([]), "");
    check(&["await_startup"], &json!([]), "");
    check(
        &["purge_queue", "q"],
        &json!([]),
        "Purging queue 'q' in vhost '/' ...\n",
    );
    check(
        &["delete_queue", "q", "-p", "v"],
        &json!([{"messages": 2}]),
        "Deleting queue 'q' on vhost 'v' ...\nQueue was successfully deleted with 2 ready messages\n",
    );
    check(
        &["delete_user", "u", "--formatter", "json"],
        &json!([]),
        "{\"status\":\"ok\",\"node\":\"127.0.0.1:7101\"}\n",
    );
    let Err(version) = parse(&["version"], &[]) else {
        panic!("no call is needed")
    };
    assert_eq!(
        version,
        Exit {
            status: 0,
            text: format!("{}\n", env!("CARGO_PKG_VERSION"))
        }
    );
}

#[test]
fn reports() {
    let row = json!([{"node": "a", "cluster_name": "blue", "disk_nodes": ["a", "b"], "running_nodes": ["a"],
        "cpu_cores": {"a": 2, "b": 4}, "versions": {"a": {"product_name": "Warren", "product_version": "0.1.0"}},
        "partitions": {"a": ["b"]},
        "listeners": {"a": [{"node": "a", "protocol": "amqp", "interface": "127.0.0.1", "port": 5672,
                             "purpose": "AMQP 0-9-1"}]}}]);
    let text = shown(&["cluster_status"], &row);
    let beginning = "Cluster status of node a ...\nBasics\n\nCluster name: blue\n\
        Total CPU cores available cluster-wide: 6\n\nCluster Tags\n\n(none)\n\nDisk Nodes\n\na\nb\n\n\
        Running Nodes\n\na\n\nVersions\n\na: Warren 0.1.0\n\n";
    assert!(text.starts_with(beginning), "{text}");
    assert!(
        text.contains("\nNetwork Partitions\n\nNode a cannot communicate with b\n"),
        "{text}"
    );
    assert!(text.contains("\nNode: a, interface: 127.0.0.1, port: 5672, protocol: amqp, purpose: AMQP 0-9-1\n"));
    assert!(shown(&["-q", "cluster_status"], &row).starts_with("Basics\n"));
    assert_eq!(
        shown(&["cluster_status", "--formatter", "json"], &row),
        format!("{}\n", row[0])
    );

    let row = json!([{"node": "a", "pid": 7, "memory_used": 1_234_567_890_u64, "totals": {"queue_count": 3}}]);
    let text = shown(&["status"], &row);
    assert!(
        text.starts_with("Status of node a ...\nRuntime\n\nOS PID: 7\n"),
        "{text}"
    );
    assert!(
        text.contains("Total memory used: 1.2345 gb\n") && text.contains("Queue count: 3\n"),
        "{text}"
    );
}

#[test]
fn lines_become_requests() {
    let cases: [(&[&str], Value); 16] = [
        (
            &["list_queues", "name"],
            json!({"verb": "list_queues", "vhost": "/", "columns": ["name"]}),
        ),
        (
            &["-p", "v", "list_exchanges"],
            json!({"verb": "list_exchanges", "vhost": "v", "columns": ["name", "type"]}),
        ),
        (
            &["add_user", "u", "p"],
            json!({"verb": "add_user", "user": "u", "password": "p", "hashed": false}),
        ),
        (
            &["change_password", "u", "p", "--pre-hashed-password"],
            json!({"verb": "change_password", "user": "u", "password": "p", "hashed": true}),
        ),
        (
            &[
                "set_policy",
                "--priority",
                "-1",
                "--apply-to",
                "queues",
                "p",
                "^q",
                r#"{"expires":1}"#,
            ],
            json!({"verb": "set_policy", "vhost": "/", "name": "p", "operator": false, "pattern": "^q",
                   "apply_to": "queues", "priority": -1, "definition": r#"{"expires":1}"#}),
        ),
        (
            &["clear_operator_policy", "-p", "v", "p"],
            json!({"verb": "clear_policy", "vhost": "v", "name": "p", "operator": true}),
        ),
        (
            &["clear_vhost_limits", "-p", "v"],
            json!({"verb": "set_vhost_limits", "vhost": "v", "limits": "{}"}),
        ),
        (
            &["clear_topic_permissions", "u"],
            json!({"verb": "clear_topic_permissions", "vhost": "/", "user": "u", "exchange": null}),
        ),
        (
            &["close_all_connections", "--global", "why"],
            json!({"verb": "close_connections", "vhost": null, "user": null, "reason": "why"}),
        ),
        (
            &["update_vhost_metadata", "v", "--tags", "a,b"],
            json!({"verb": "update_vhost", "vhost": "v", "description": null, "tags": ["a", "b"],
                   "default_queue_type": null, "protected": null}),
        ),
        (
            &["export_definitions", "-p", "v", "-"],
            json!({"verb": "export_definitions", "vhost": "v"}),
        ),
        (
            &["set_user_tags", "u", "a", "b"],
            json!({"verb": "set_user_tags", "user": "u", "tags": ["a", "b"]}),
        ),
        (
            &["set_permissions", "-p", "v", "u", "^a", "", ".*"],
            json!({"verb": "set_permissions", "vhost": "v", "user": "u", "configure": "^a", "write": "", "read": ".*"}),
        ),
        (
            &["delete_queue", "q", "--if-empty"],
            json!({"verb": "delete_queue", "vhost": "/", "queue": "q", "if_unused": false, "if_empty": true}),
        ),
        (
            &["add_vhost", "v", "--tags", "a,b"],
            json!({"verb": "add_vhost", "vhost": "v", "description": "", "tags": ["a", "b"], "default_queue_type": ""}),
        ),
        (&["await_online_nodes", "3"], json!({"verb": "cluster_status"})),
    ];
    for (line, expected) in cases {
        let invocation = parse(line, &[]).expect("the line means something");
        assert_eq!(
            serde_json::to_value(invocation.request()).expect("plain data"),
            expected
        );
    }
}

#[test]
fn passwords_come_from_the_line_or_from_input_and_do_not_show() {
    let mut invocation = parse(&["change_password", "u"], &[]).expect("legal");
    assert!(invocation.wants_password());
    invocation.set_password("hush hush\n");
    let Request::ChangePassword { password, .. } = invocation.request() else {
        panic!("another request")
    };
    assert_eq!(password.reveal(), "hush hush");
    assert!(!format!("{invocation:?}").contains("hush"));
    assert!(!parse(&["add_user", "u", "p"], &[]).expect("legal").wants_password());
}

#[test]
fn definitions_come_from_a_file_and_go_to_one() {
    let mut import = parse(&["import_definitions", "in.json"], &[]).expect("legal");
    assert_eq!(import.wants_document(), Some(Some("in.json")));
    import.set_document("{}".to_owned());
    let Request::ImportDefinitions { vhost, definitions } = import.request() else {
        panic!("another request")
    };
    assert_eq!((vhost.as_deref(), definitions.as_str()), (None, "{}"));
    let stdin = parse(&["import_definitions"], &[]).expect("legal");
    assert_eq!(stdin.wants_document(), Some(None));
    let export = parse(&["export_definitions", "out.json"], &[]).expect("legal");
    assert_eq!(
        (export.output_file(), export.wants_document()),
        (Some("out.json"), None)
    );
    // Pieces of one document, and nothing beside it on standard output.
    check(&["export_definitions"], &json!(["{\"a\":", "1}"]), "{\"a\":1}\n");
}

#[test]
fn a_password_is_hashed_without_a_node() {
    let exit = parse(&["hash_password", "secret"], &[]).expect_err("no call is made");
    assert_eq!(exit.status, 0);
    let hash = crate::auth::PasswordHash::of_any_algorithm(exit.text.trim()).expect("a hash");
    assert!(hash.verify(b"secret"));
    let asked = parse(&["hash_password"], &[]).expect("it waits for a password");
    assert!(asked.wants_password());
    assert_eq!(asked.ends_with("secret\n").map(|exit| exit.status), Some(0));
}

#[test]
fn the_node_is_found() {
    let config: &[(&str, &str)] = &[("WARREN_CONFIG", "file.toml")];
    let named: &[(&str, &str)] = &[("WARREN_CONFIG", "file.toml"), ("WARREN_NODE", "b")];
    for (line, env, node, cluster) in [
        (&["ping"][..], &[][..], "127.0.0.1:7101", "warren"),
        (&["ping", "-n", "h:1"], &[], "h:1", "warren"),
        (&["ping"], config, "127.0.0.1:7109", "blue"),
        (
            &["ping", "--config", "file.toml", "--node", "a"],
            &[],
            "10.0.0.1:7101",
            "blue",
        ),
        (&["ping"], named, "10.0.0.2:7101", "blue"),
        (&["-n", "h:1", "ping"], named, "h:1", "blue"),
    ] {
        let invocation = parse(line, env).expect("legal");
        assert_eq!(
            (invocation.node.as_str(), invocation.cluster.as_str()),
            (node, cluster),
            "{line:?}"
        );
    }
    assert_eq!(
        parse(&["ping"], config).expect("legal").secret.reveal(),
        "0123456789abcdef"
    );
}

#[test]
fn faults_have_rabbitmqctls_statuses() {
    let cases: [(&[&str], u8, &str); 10] = [
        (&[], 64, "Usage"),
        (&["nosuch"], 64, "nosuch"),
        (&["add_user"], 64, "USER"),
        (
            &["list_queues", "bogus", "name", "none"],
            64,
            "Info key(s) bogus,none are not supported; there are name ",
        ),
        (&["list_queues", "--formatter", "xml"], 64, "xml"),
        (&["list_queues", "--online", "--offline"], 64, "--offline"),
        (&["list_users", "-p", "v"], 64, "--vhost means nothing to this command"),
        (
            &["ping", "-n", "nowhere"],
            64,
            "node nowhere is neither HOST:PORT nor one of cluster.seeds",
        ),
        (&["ping", "--config", "gone.toml"], 78, "gone.toml: cannot be read"),
        (&["--help"], 0, "list_queues"),
    ];
    for (line, status, text) in cases {
        let exit = parse(line, &[]).expect_err("no call is made");
        assert_eq!(exit.status, status, "{line:?}: {}", exit.text);
        assert!(exit.text.contains(text), "{line:?}: {}", exit.text);
    }
}

#[test]
fn failed_calls() {
    let refused = |status| {
        Err(Failure::Refused {
            status,
            text: "User \"u\" does not exist".into(),
        })
    };
    let list = parse(&["list_queues"], &[]).expect("legal");
    let awaits = parse(&["await_startup"], &[]).expect("legal");
    let exit = |status, text: &str| Exit {
        status,
        text: text.to_owned(),
    };

    assert_eq!(
        list.judge(refused(67)),
        Next::Exit(exit(67, "Error:\nUser \"u\" does not exist\n"))
    );
    assert!(matches!(list.judge(refused(75)), Next::Exit(Exit { status: 75, .. })));
    assert!(matches!(
        awaits.judge(refused(75)),
        Next::Again(Exit { status: 75, .. })
    ));
    assert!(matches!(awaits.judge(refused(70)), Next::Exit(Exit { status: 70, .. })));

    let away = || Err(Failure::Unreachable("Connection refused".into()));
    let text = "Error: unable to perform an operation on node '127.0.0.1:7101'. Connection refused\n";
    assert_eq!(list.judge(away()), Next::Exit(exit(69, text)));
    assert_eq!(awaits.judge(away()), Next::Again(exit(69, text)));
    assert!(matches!(
        list.judge(Err(Failure::TimedOut)),
        Next::Exit(Exit { status: 75, .. })
    ));
    assert_eq!(awaits.timeout.as_secs(), 300);

    let online = parse(&["await_online_nodes", "2"], &[]).expect("legal");
    let rows = |nodes: Value| Ok(vec![json!({"running_nodes": nodes})]);
    assert!(matches!(
        online.judge(rows(json!(["a"]))),
        Next::Again(Exit { status: 75, .. })
    ));
    assert_eq!(online.judge(rows(json!(["a", "b"]))), Next::Exit(exit(0, "")));
}

#[test]
fn a_certificate_that_expires_soon_is_an_error() {
    let rows = json!([{"file": "/c.pem", "subject": "CN=a", "validity": "then - now", "expires_in": 3 * 86_400}]);
    let outcome = |line: &[&str]| {
        let invocation = parse(line, &[]).expect("the line means something");
        match invocation.judge(Ok(rows.as_array().cloned().unwrap_or_default())) {
            Next::Exit(exit) => exit,
            other @ Next::Again(_) => panic!("{other:?}"),
        }
    };
    let check = "check_certificate_expiration";
    assert_eq!(outcome(&[check, "--within", "2"]).status, 0);
    for line in [
        &[check, "--within", "3"][..],
        &[check, "--within", "1", "--unit", "weeks"],
        &[check, "--within", "1", "--unit", "years"],
    ] {
        let exit = outcome(line);
        assert_eq!(exit.status, 69, "{line:?}");
        assert!(exit.text.contains("/c.pem (CN=a): then - now"), "{}", exit.text);
    }
    assert_eq!(parse(&[check], &[]).expect_err("within what?").status, 64);
}

#[test]
fn nodes_join_and_leave() {
    // Whoever joins asks a node of the cluster; its own number is known only when its directory is.
    for existing in ["b", "b=10.0.0.2:7101", "10.0.0.2:7101"] {
        let mut joins = parse(&["--config", "file.toml", "join_cluster", existing], &[]).expect("legal");
        assert_eq!(joins.node, "10.0.0.2:7101");
        assert_eq!(joins.banner(), Some(format!("Clustering this node with {existing}\n")));
        let own = joins.joins().expect("it joins").node.name.clone();
        let refused = joins
            .set_directory(7)
            .expect_err("it listens everywhere and does not say where it is");
        assert!(refused.to_string().contains("0.0.0.0:7109"), "{refused}");
        assert_eq!(own, "warren");
    }
    let env = [("WARREN_NODE_NAME", "a")];
    let mut joins = parse(&["--config", "file.toml", "join_cluster", "b"], &env).expect("legal");
    joins.set_directory(7).expect("cluster.seeds says where it is");
    match joins.request() {
        Request::JoinCluster {
            name,
            address,
            directory,
            seeds,
        } => assert_eq!(
            (name.as_str(), address.as_str(), *directory, seeds.len()),
            ("a", "10.0.0.1:7101", 7, 2)
        ),
        other => panic!("{other:?}"),
    }
    let forgets = parse(&["-n", "h:1", "forget_cluster_node", "b"], &[]).expect("legal");
    assert_eq!(forgets.node, "h:1");
    let node = "b".to_owned();
    assert_eq!(forgets.request(), &Request::ForgetClusterNode { node });
    assert_eq!(forgets.banner().as_deref(), Some("Removing node b from the cluster\n"));
    assert!(forgets.joins().is_none() && forgets.ends_offline().is_none());
}

#[test]
fn what_concerns_a_stopped_node_calls_none() {
    let env = [("WARREN_NODE_DATA_DIR", "/nowhere/at/all")];
    let line = ["recover_lost_majority", "--survivors", "a,b"];
    let exit = parse(&line, &env)
        .expect("legal")
        .ends_offline()
        .expect("no call is made");
    assert_eq!(exit.status, 70);
    assert!(
        exit.text.contains("there is no data of a node in /nowhere/at/all"),
        "{}",
        exit.text
    );
    assert!(parse(&["recover_lost_majority"], &[]).is_err(), "nobody survives");
}
