//! Definitions: written to a file, and read into a cluster that has none of it, or some.

use warren_tests::amqp::method::*;
use warren_tests::amqp::wire::{Properties, Table};
use warren_tests::amqp::{Client, Login};

use crate::case::{Case, bind, counts, ctl, ctl_refused, differs, drain, exchange, fill, until_ready, with};

/// Whether the tool may see other files than the test does.
fn is_elsewhere() -> bool {
    differs("definitions-files")
}

/// A vhost of the test's own.
struct Space {
    name: String,
}

impl Space {
    fn new(case: &Case, label: &str) -> Self {
        let name = format!("{}.{label}", case.prefix());
        ctl(&format!("add_vhost {name}"));
        ctl(&format!("set_permissions -p {name} guest '.*' '.*' '.*'"));
        Self { name }
    }

    fn connect(&self, endpoint: usize) -> Client {
        let login = Login {
            endpoint,
            vhost: self.name.clone(),
            ..Login::default()
        };
        login.connect()
    }
}

impl Drop for Space {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            ctl(&format!("delete_vhost {}", self.name));
        }
    }
}

/// A file that goes with the case.
struct File(std::path::PathBuf);

impl File {
    fn new(case: &Case, text: &str) -> Self {
        let path = std::env::temp_dir().join(format!("{}.json", case.prefix()));
        std::fs::write(&path, text).expect("a temporary file can be written");
        Self(path)
    }

    fn path(&self) -> &str {
        self.0.to_str().expect("a plain path")
    }
}

impl Drop for File {
    fn drop(&mut self) {
        let _ = std::fs::remove_file(&self.0);
    }
}

#[test]
fn what_one_vhost_holds_comes_to_life_in_another() {
    if is_elsewhere() {
        return;
    }
    let case = Case::new();
    let (from, to) = (Space::new(&case, "from"), Space::new(&case, "to"));
    let mut client = from.connect(0);
    let channel = client.channel();
    client.call(channel, &with("orders", "quorum", Table::from([("x-max-length", 7)])));
    client.call(channel, &with("audit", "classic", Table::default()));
    client.call(channel, &exchange("events", "topic"));
    client.call(channel, &bind("orders", "events", "order.#"));
    client.call(channel, &bind("audit", "events", "#"));
    ctl(&format!(
        r#"set_policy -p {} short '^audit$' '{{"max-length":1}}' --apply-to queues"#,
        from.name
    ));
    ctl(&format!(
        r#"set_operator_policy -p {} firm '.*' '{{"max-length":5}}'"#,
        from.name
    ));

    let file = File::new(&case, "");
    ctl(&format!("export_definitions -p {} {}", from.name, file.path()));
    ctl(&format!("import_definitions -p {} {}", to.name, file.path()));
    let mut far = to.connect(1);
    let other = far.channel();
    far.confirm(other);
    for _ in 0..6 {
        far.publish(other, "events", "order.new", &Properties::persistent(), b"one");
    }
    far.confirmed(other);
    until_ready(&mut far, other, "orders", 5);
    until_ready(&mut far, other, "audit", 1);
    // Once more: what is there stays.
    ctl(&format!("import_definitions -p {} {}", to.name, file.path()));
    assert_eq!(counts(&mut far, other, "orders").0, 5);
    let listed = ctl(&format!(
        "-q list_bindings -p {} source_name destination_name routing_key",
        to.name
    ));
    assert!(listed.contains("events\torders\torder.#"), "{listed}");
    client.close();
    far.close();
}

#[test]
fn a_whole_cluster_is_exported() {
    if is_elsewhere() {
        return;
    }
    let case = Case::new();
    let space = Space::new(&case, "whole");
    let user = format!("{}.user", case.prefix());
    ctl(&format!("add_user {user} secret"));
    ctl(&format!("set_user_tags {user} monitoring"));
    ctl(&format!("set_permissions -p {} {user} 'c' 'w' 'r'", space.name));
    ctl(&format!(
        "set_topic_permissions -p {} {user} amq.topic 'w' 'r'",
        space.name
    ));
    let file = File::new(&case, "");
    ctl(&format!("export_definitions {}", file.path()));
    let text = std::fs::read_to_string(file.path()).expect("the tool has written it");
    for part in [
        r#""rabbitmq_definition_format": "cluster""#.to_owned(),
        format!(r#""name": "{user}""#),
        r#""hashing_algorithm": "rabbit_password_hashing_sha256""#.to_owned(),
        format!(r#""vhost": "{}""#, space.name),
        r#""topic_permissions""#.to_owned(),
    ] {
        assert!(text.contains(&part), "{part}");
    }
    // A user that was deleted logs in again after the import.
    ctl(&format!("delete_user {user}"));
    ctl(&format!("import_definitions {}", file.path()));
    ctl(&format!("authenticate_user {user} secret"));
    assert!(ctl(&format!("-q list_user_permissions {user}")).contains(&format!("{}\tc\tw\tr", space.name)));
    ctl(&format!("delete_user {user}"));
}

#[test]
fn files_of_old_brokers_are_read() {
    if is_elsewhere() {
        return;
    }
    let case = Case::new();
    let space = Space::new(&case, "old");
    let text = format!(
        r#"{{"rabbit_version": "3.6.1", "unknown_section": [1],
            "queues": [{{"name": "lazy", "vhost": "{vhost}", "durable": true, "auto_delete": false,
                         "arguments": {{"x-queue-mode": "lazy", "x-max-priority": 3}}, "unknown_key": 1}}],
            "policies": [{{"vhost": "{vhost}", "name": "ha-all", "pattern": "", "apply-to": "all",
                           "definition": {{"ha-mode": "all", "ha-sync-mode": "automatic"}}, "priority": 0}}],
            "bindings": [{{"source": "amq.direct", "vhost": "{vhost}", "destination": "lazy",
                           "destination_type": "queue", "routing_key": "k", "arguments": {{}}}}]}}"#,
        vhost = space.name
    );
    let file = File::new(&case, &text);
    ctl(&format!("import_definitions {}", file.path()));
    let mut client = space.connect(2);
    let channel = client.channel();
    fill(&mut client, "lazy", &["one"]);
    client.publish(channel, "amq.direct", "k", &Properties::default(), b"two");
    until_ready(&mut client, channel, "lazy", 2);
    assert_eq!(drain(&mut client, channel, "lazy"), ["one", "two"]);
    client.close();
}

#[test]
fn a_bad_entry_is_named_and_nothing_is_changed() {
    if is_elsewhere() {
        return;
    }
    let case = Case::new();
    let space = Space::new(&case, "bad");
    let vhost = &space.name;
    let good = format!(r#"{{"name": "good", "vhost": "{vhost}", "durable": true, "arguments": {{}}}}"#);
    for (section, entry, reason) in [
        (
            "queues",
            r#"{"name": "q", "vhost": "VHOST", "arguments": {"x-max-length": -1}}"#,
            "queues[1] 'q'",
        ),
        (
            "queues",
            r#"{"name": "q", "vhost": "VHOST", "arguments": {"x-queue-type": "fake"}}"#,
            "unsupported queue type",
        ),
        (
            "queues",
            r#"{"name": "q", "vhost": "nowhere at all", "arguments": {}}"#,
            "'nowhere at all' does not exist",
        ),
        ("queues", r#"{"vhost": "VHOST"}"#, "queues[1]: name is missing"),
        ("queues", r#"{"name": "q"}"#, "names no virtual host"),
        (
            "exchanges",
            r#"{"name": "x", "vhost": "VHOST", "type": "fake"}"#,
            "exchanges[0] 'x'",
        ),
        (
            "bindings",
            r#"{"source": "amq.topic", "vhost": "VHOST", "destination": "none"}"#,
            "bindings[0]",
        ),
        (
            "policies",
            r#"{"name": "p", "vhost": "VHOST", "pattern": "", "definition": {"foo": 1}}"#,
            "policies[0] 'p'",
        ),
        ("users", r#"{"name": "u", "password_hash": "short"}"#, "users[0] 'u'"),
        (
            "permissions",
            r#"{"user": "nobody at all", "vhost": "VHOST", "configure": "", "write": "", "read": ""}"#,
            "permissions[0]",
        ),
        (
            "topic_permissions",
            r#"{"user": "guest", "vhost": "VHOST", "exchange": "x", "write": "(", "read": ""}"#,
            "topic_permissions[0]",
        ),
        (
            "vhosts",
            r#"{"name": "v", "limits": {"max-apples": 1}}"#,
            "vhosts[0] 'v'",
        ),
        (
            "queues",
            r#"{"name": "q", "vhost": "VHOST", "arguments": {"x-max-age": "1h"}}"#,
            "invalid arg 'x-max-age' for queue 'q' in vhost 'VHOST' of queue type rabbit_classic_queue",
        ),
        (
            "queues",
            r#"{"name": "q", "vhost": "VHOST", "arguments": {"x-overflow": "sometimes"}}"#,
            "invalid arg 'x-overflow' for queue 'q' in vhost 'VHOST': invalid_overflow",
        ),
        (
            "exchanges",
            r#"{"name": "x", "vhost": "VHOST", "type": "direct", "arguments": {"alternate-exchange": 7}}"#,
            "for arg 'alternate-exchange' in exchange 'x' in vhost 'VHOST'",
        ),
        (
            "bindings",
            r#"{"source": "amq.headers", "vhost": "VHOST", "destination": "good", "arguments": {"x-match": "some"}}"#,
            "Invalid x-match field value <<\"some\">>",
        ),
        (
            "policies",
            r#"{"name": "p", "vhost": "VHOST", "pattern": "(", "definition": {"max-length": 1}}"#,
            "policies[0] 'p'",
        ),
        (
            "policies",
            r#"{"name": "p", "vhost": "VHOST", "pattern": "", "definition": {"max-length": "x"}}"#,
            "<<\"x\">> is not a valid maximum length",
        ),
        (
            "policies",
            r#"{"name": "p", "vhost": "VHOST", "pattern": "", "apply-to": "everything", "definition": {"max-length": 1}}"#,
            "apply-to 'everything' unrecognised",
        ),
        (
            "permissions",
            r#"{"user": "guest", "vhost": "VHOST", "configure": "(", "write": "", "read": ""}"#,
            "permissions[0]",
        ),
        (
            "vhosts",
            r#"{"name": "v", "metadata": {"default_queue_type": "fake"}}"#,
            "vhosts[0] 'v': unsupported queue type 'fake'",
        ),
        (
            "vhosts",
            r#"{"name": "v", "metadata": {"protected_from_deletion": "yes"}}"#,
            "vhosts[0] 'v': protected_from_deletion must be true or false",
        ),
        (
            "parameters",
            r#"{"vhost": "VHOST", "component": "operator_policy", "name": "o", "value": {"pattern": "",
            "definition": {"alternate-exchange": "x"}}}"#,
            "[{<<\"alternate-exchange\">>,<<\"x\">>}] are not recognised policy settings",
        ),
        (
            "parameters",
            r#"{"vhost": "VHOST", "component": "operator_policy", "name": "o", "value": {"pattern": "(",
            "definition": {"max-length": 1}}}"#,
            "parameters[0] 'o'",
        ),
    ] {
        let entry = entry.replace("VHOST", vhost);
        let text = if section == "queues" {
            format!(r#"{{"queues": [{good}, {entry}]}}"#)
        } else {
            format!(r#"{{"queues": [{good}], "{section}": [{entry}]}}"#)
        };
        let file = File::new(&case, &text);
        let said = ctl_refused(&format!("import_definitions {}", file.path()));
        let reason = reason.replace("VHOST", vhost);
        assert!(said.contains(&reason), "{entry}: {said}");
        assert!(
            !ctl(&format!("-q list_queues -p {vhost} name")).contains("good"),
            "{entry}"
        );
    }
    for text in ["", "[]", "{", r#"{"queues": 1}"#] {
        let file = File::new(&case, text);
        ctl_refused(&format!("import_definitions {}", file.path()));
    }
    let file = File::new(&case, &format!(r#"{{"queues": [{good}]}}"#));
    ctl(&format!("import_definitions {}", file.path()));
    let mut client = space.connect(1);
    let channel = client.channel();
    let answer = client.call(channel, &crate::case::passive("good"));
    assert_eq!(answer.messages, 0);
    let purged = client.call(
        channel,
        &QueuePurge {
            queue: "good".into(),
            ..Default::default()
        },
    );
    assert_eq!(purged.messages, 0);
    fill(&mut client, "good", &["1", "2"]);
    ctl(&format!("purge_queue -p {vhost} good"));
    assert_eq!(counts(&mut client, channel, "good").0, 0);
    fill(&mut client, "good", &["3"]);
    ctl_refused(&format!("delete_queue -p {vhost} good --if-empty"));
    ctl(&format!("delete_queue -p {vhost} good --if-unused"));
    client.close();
}
