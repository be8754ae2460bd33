use std::{
    collections::BTreeSet,
    ffi::OsString,
    io,
    path::{Path, PathBuf},
};

use super::{Config, Error, LogFormat, Secret, options::OPTIONS, sources, values::size};

const LONG: &str = "0123456789abcdef";

/// What `args` and `env` give, where `file.toml` holds `file` and `secret` holds sixteen bytes and a line end.
fn load(file: &str, env: &[(&str, &str)], args: &[&str]) -> Result<Config, Error> {
    let env = env
        .iter()
        .map(|(name, value)| ((*name).to_owned(), (*value).to_owned()));
    let args = args.iter().map(OsString::from);
    Config::load_with(args, env, |path| match path.to_str() {
        Some("file.toml") => Ok(file.to_owned()),
        Some("secret") => Ok(format!("{LONG}\n")),
        _ => Err(io::Error::from(io::ErrorKind::NotFound)),
    })
}

fn from_file(file: &str) -> Result<Config, Error> {
    load(file, &[], &["--config", "file.toml"])
}

#[test]
fn without_anything_the_defaults_hold() {
    assert_eq!(load("", &[], &[]).expect("defaults are legal"), Config::default());
    assert_eq!(from_file("").expect("an empty file is legal"), Config::default());
}

#[test]
fn the_example_file_documents_every_option_at_its_default() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../deploy/warren.toml");
    let text = std::fs::read_to_string(path).expect("deploy/warren.toml is part of the tree");

    let settings = sources::file("warren.toml", &text).expect("it parses, and every key in it is known");
    let there: BTreeSet<String> = settings.iter().map(|setting| setting.option.key()).collect();
    let all: BTreeSet<String> = OPTIONS.iter().map(super::options::Opt::key).collect();
    assert_eq!(there, all);

    // Applied to a configuration that differs everywhere, so that equality shows that the file sets every field.
    let mut config = everything_changed();
    for setting in &settings {
        (setting.option.set)(&mut config, &setting.value).expect("every value fits");
    }
    assert_eq!(config, Config::default());

    let lines: Vec<&str> = text.lines().collect();
    for (i, line) in lines
        .iter()
        .enumerate()
        .filter(|(_, line)| line.contains(" = ") && !line.starts_with('#'))
    {
        let documented = i > 0 && (lines[i - 1].starts_with('#') || lines[i - 1].starts_with("default_"));
        assert!(documented, "no comment above: {line}");
    }
}

/// One legal value per option that is not its default, as a variable or a flag gives it.
const OTHERS: [(&str, &str); 50] = [
    ("node.name", "rabbit@a.b"),
    ("node.data_dir", "d"),
    ("cluster.name", "other"),
    ("cluster.listen", "0.0.0.0:1"),
    ("cluster.seeds", "rabbit@a.b=[::1]:2, c=host-3.example:65535"),
    ("cluster.join", "true"),
    ("cluster.secret", LONG),
    ("cluster.secret_file", "secret"),
    ("cluster.tls_cert_file", "node.pem"),
    ("cluster.tls_key_file", "node.key"),
    ("cluster.tls_ca_file", "ca.pem"),
    ("cluster.silence_ms", "200"),
    ("cluster.group_size", "5"),
    ("cluster.version_max", "1"),
    ("cluster.queues_max", "1"),
    ("cluster.exchanges_max", "8"),
    ("cluster.vhosts_max", "2"),
    ("amqp.listen", "[::]:5671,localhost:5673"),
    ("amqp.channel_max", "65535"),
    ("amqp.frame_max", "4KiB"),
    ("amqp.heartbeat_s", "0"),
    ("amqp.connections_max", "1"),
    ("amqp.channels_max", "1"),
    ("amqp.consumers_max", "1"),
    ("amqp.default_queue_type", "quorum"),
    ("amqp.message_size_max", "1024"),
    ("amqp.handshake_timeout_ms", "100"),
    ("amqp.consumer_timeout_ms", "0"),
    ("amqp.publish_timeout_ms", "1000"),
    ("tls.listen", "[::]:5671"),
    ("tls.cert_file", "server.pem"),
    ("tls.key_file", "server.key"),
    ("tls.ca_file", "clients.pem"),
    ("tls.verify_peer", "true"),
    ("tls.fail_if_no_peer_cert", "true"),
    ("tls.cert_login_from", "common_name"),
    ("tls.cert_login_san_type", "uri"),
    ("tls.cert_login_san_index", "2"),
    ("users.default_user", "ä b"),
    ("users.default_pass", "p"),
    ("users.default_vhost", "v"),
    ("users.loopback_users", "x,y"),
    ("definitions.path", "/etc/warren/definitions.json"),
    ("limits.unapplied_bytes_max", "1MiB"),
    ("limits.queue_cached_bytes_max", "1MiB"),
    ("limits.memory_high_watermark", "2GiB"),
    ("limits.disk_free_limit", "1GB"),
    ("log.filter", "warn,warren_cluster=debug"),
    ("log.format", "json"),
    ("runtime.workers", "3"),
];

fn everything_changed() -> Config {
    let mut config = Config::default();
    for (key, text) in OTHERS {
        let option = OPTIONS
            .iter()
            .find(|option| option.key() == key)
            .expect("the table names options");
        let before = config.clone();
        (option.set)(&mut config, &sources::Value::Loose(text.to_owned())).expect("the value fits");
        assert_ne!(config, before, "{key} sets nothing");
    }
    config
}

#[test]
fn every_option_can_be_given_by_variable_and_by_flag() {
    let keys: BTreeSet<&str> = OTHERS.iter().map(|(key, _)| *key).collect();
    assert_eq!(keys.len(), OPTIONS.len());

    // The two ways to give a secret exclude each other.
    let mut expected = everything_changed();
    expected.cluster.secret_file = None;
    let given: Vec<(String, &str)> = OTHERS
        .iter()
        .filter(|(key, _)| *key != "cluster.secret_file")
        .map(|(key, text)| (key.replace('.', "_"), *text))
        .collect();

    let env = given
        .iter()
        .map(|(key, text)| (format!("WARREN_{}", key.to_uppercase()), (*text).to_owned()));
    let missing = |_: &Path| Err(io::Error::from(io::ErrorKind::NotFound));
    assert_eq!(Config::load_with([], env, missing).expect("legal"), expected);

    let args = given
        .iter()
        .flat_map(|(key, text)| [format!("--{}", key.replace('_', "-")), (*text).to_owned()]);
    assert_eq!(
        Config::load_with(args.map(OsString::from), [], missing).expect("legal"),
        expected
    );
}

#[test]
fn values_are_read_as_they_are_meant() {
    let config = everything_changed();
    assert_eq!(config.cluster.seeds[0].address.to_string(), "[::1]:2");
    assert_eq!(config.cluster.seeds[0].address.host(), "::1");
    assert_eq!(config.cluster.seeds[1].address.port(), 65535);
    assert_eq!(
        config.amqp.listen.iter().map(ToString::to_string).collect::<Vec<_>>(),
        ["[::]:5671", "localhost:5673"]
    );
    assert_eq!(config.amqp.frame_max, 4096);
    assert_eq!(config.users.loopback_users, ["x", "y"]);
    assert_eq!(config.log.format, LogFormat::Json);
    assert_eq!(config.node.data_dir, PathBuf::from("d"));
    for (text, bytes) in [
        ("0", 0),
        ("1kB", 1_000),
        ("2 MiB", 2 << 20),
        ("50MB", 50_000_000),
        ("1TiB", 1 << 40),
    ] {
        assert_eq!(size(text), Ok(bytes));
    }
    for text in [
        "",
        "x",
        "-1",
        "1.5GiB",
        "1mib",
        "9999999999TiB",
        "99999999999999999999999",
    ] {
        assert!(size(text).is_err(), "{text}");
    }
}

#[test]
fn flags_override_variables_override_the_file() {
    let file = "[amqp]\nheartbeat_s = 1\nchannel_max = 1\nframe_max = \"8KiB\"\n[users]\ndefault_user = \"filed\"";
    let env = [
        ("WARREN_CONFIG", "file.toml"),
        ("WARREN_AMQP_HEARTBEAT_S", "2"),
        ("WARREN_AMQP_CHANNEL_MAX", "2"),
        ("RABBITMQ_DEFAULT_USER", "borrowed"),
        ("RABBITMQ_DEFAULT_PASS", "borrowed"),
        ("RABBITMQ_DEFAULT_VHOST", "/b"),
        ("RABBITMQ_NODENAME", "rabbit@h"),
        ("WARREN_USERS_DEFAULT_PASS", "ours"),
    ];
    let config = load(file, &env, &["--amqp-heartbeat-s=3"]).expect("legal");
    assert_eq!(
        (config.amqp.heartbeat_s, config.amqp.channel_max, config.amqp.frame_max),
        (3, 2, 8192)
    );
    assert_eq!(config.users.default_user, "borrowed");
    assert_eq!(config.users.default_pass, Secret::new("ours"));
    assert_eq!(config.users.default_vhost, "/b");
    assert_eq!(config.node.name, "rabbit@h");
}

#[test]
fn faults_name_the_place_the_key_and_the_value() {
    let cases = [
        (
            "[amqp]\n\nheartbeat = 60",
            "file.toml:3: there is no option amqp.heartbeat = 60; [amqp] has listen, ",
        ),
        (
            "[amqp]\nheartbeat_s = 99999",
            "file.toml:2: amqp.heartbeat_s = 99999: must be 0 to 65535",
        ),
        (
            "[amqp]\nheartbeat_s = \"60\"",
            "file.toml:2: amqp.heartbeat_s = \"60\": must be a whole number",
        ),
        (
            "[amqp]\nheartbeat_s = 1.5",
            "file.toml:2: amqp.heartbeat_s = 1.5: must be a whole number",
        ),
        (
            "[limits]\nmemory_high_watermark = 1.5",
            "file.toml:2: limits.memory_high_watermark = 1.5: must be a part from 0.0 to 1.0, or a size such as 2GiB",
        ),
        (
            "[limits]\nmemory_high_watermark = 60",
            "file.toml:2: limits.memory_high_watermark = 60: must be a part from 0.0 to 1.0, or a size of 1MB or more",
        ),
        (
            "[amqp]\nlisten = \"h:1\"",
            "file.toml:2: amqp.listen = \"h:1\": must be a list",
        ),
        (
            "[amqp]\nlisten = [\"nowhere\"]",
            "file.toml:2: amqp.listen = [\"nowhere\"]: nowhere is not HOST:PORT",
        ),
        (
            "amqp.listen = [\"h:0\"]",
            "file.toml:1: amqp.listen = [\"h:0\"]: h:0: the port must be 1 to 65535",
        ),
        (
            "[amqp]\nframe_max = \"1KiB\"",
            "file.toml:2: amqp.frame_max = \"1KiB\": must be 4096 to 16777216",
        ),
        (
            "[node]\nname = \"a b\"",
            "file.toml:2: node.name = \"a b\": a name has 1 to 64 letters",
        ),
        (
            "[ampq]\nx = 1",
            "file.toml:1: there is no option [ampq]; the sections are node, cluster, amqp",
        ),
        (
            "name = \"x\"",
            "file.toml:1: there is no option name = \"x\"; the sections are",
        ),
        ("[log]\nfilter = \"=[\"", "file.toml:2: log.filter = \"=[\": "),
        (
            "[log]\nformat = \"xml\"",
            "file.toml:2: log.format = \"xml\": must be text or json",
        ),
        (
            "[limits]\nunapplied_bytes_max = \"64KiB\"",
            "file.toml:2: limits.unapplied_bytes_max = \"64KiB\": must not be",
        ),
        (
            "[tls]\nverify_peer = \"true\"",
            "file.toml:2: tls.verify_peer = \"true\": must be true or false",
        ),
        (
            "[tls]\ncert_login_from = \"uid\"",
            "file.toml:2: tls.cert_login_from = \"uid\": must be distinguished_name, common_name or subject_alternative_name",
        ),
        (
            "[tls]\nlisten = [\"h:5671\"]\nkey_file = \"k\"",
            "default: tls.cert_file: must be given with tls.listen",
        ),
        (
            "[tls]\nlisten = [\"h:5671\"]\ncert_file = \"c\"",
            "default: tls.key_file: must be given with tls.listen",
        ),
        (
            "[tls]\nverify_peer = true",
            "default: tls.ca_file: must be given with tls.verify_peer",
        ),
        (
            "[tls]\nfail_if_no_peer_cert = true",
            "file.toml:2: tls.fail_if_no_peer_cert = true: has no meaning without tls.verify_peer",
        ),
        (
            "[cluster]\ntls_cert_file = \"c\"\ntls_ca_file = \"ca\"",
            "default: cluster.tls_key_file: cluster.tls_cert_file, tls_key_file and tls_ca_file go together",
        ),
        ("[node]\nname = \"a\"\nname = \"b\"", "file.toml:3: "),
        ("[node\n", "file.toml:1: "),
        (
            "[cluster]\nseeds = [\"a\"]",
            "file.toml:2: cluster.seeds = [\"a\"]: a is not NAME=HOST:PORT",
        ),
        (
            "[cluster]\nseeds = [\"a=h:1\"]",
            "file.toml:2: cluster.seeds = [\"a=h:1\"]: must name every node",
        ),
        (
            "[cluster]\njoin = true",
            "cluster.seeds must name a node of the cluster to join",
        ),
        ("[cluster]\nseeds = [\"a=h:1\", \"a=h:2\"]", "the name a stands twice"),
        (
            "[cluster]\nseeds = [\"a=h:1\", \"b=h:1\"]",
            "the address h:1 stands twice",
        ),
        (
            "[cluster]\nsecret = \"hush\"",
            "file.toml:2: cluster.secret = ***: the secret must have 16 bytes or more",
        ),
        (
            "[cluster]\nseeds = [\"warren=h:1\", \"b=h:2\"]",
            "default: cluster.secret: the secret must have 16 bytes",
        ),
        (
            "[cluster]\nlisten = \"0.0.0.0:7101\"",
            "default: cluster.secret: the secret must have 16 bytes",
        ),
        (
            "[cluster]\nsecret_file = \"gone\"",
            "file.toml:2: cluster.secret_file = \"gone\": cannot be read: ",
        ),
        (
            "[cluster]\nsecret_file = \"secret\"\nsecret = \"hush\"",
            "file.toml:2: cluster.secret_file = \"secret\": cluster.secret is given too",
        ),
    ];
    for (file, expected) in cases {
        let error = from_file(file).expect_err(file);
        assert!(error.to_string().contains(expected), "{file:?} gives {error}");
        assert!(!error.to_string().contains("hush"), "{error}");
        assert_eq!(error.exit_code(), 78);
    }
}

#[test]
fn faults_of_variables_and_flags_name_them() {
    let variables = [
        (
            "WARREN_AMQP_HEARTBEAT_S",
            "x",
            "WARREN_AMQP_HEARTBEAT_S: amqp.heartbeat_s = x: must be a whole number",
        ),
        (
            "WARREN_AMQP_HEARTBEAT",
            "60",
            "WARREN_AMQP_HEARTBEAT: there is no option of this name; there are WARREN_AMQP_LISTEN",
        ),
        (
            "WARREN_CLUSTER_SECRET",
            "hush",
            "WARREN_CLUSTER_SECRET: cluster.secret = ***: the secret must have",
        ),
        ("WARREN_CONFIG", "gone.toml", "gone.toml: cannot be read: "),
        (
            "RABBITMQ_DEFAULT_USER",
            "",
            "RABBITMQ_DEFAULT_USER: users.default_user: must not be empty",
        ),
    ];
    for (name, value, expected) in variables {
        let error = load("", &[(name, value)], &[]).expect_err(name);
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(error.exit_code(), 78);
    }
    let flags: [(&[&str], &str); 4] = [
        (
            &["--amqp-heartbeat-s", "-1"],
            "--amqp-heartbeat-s: amqp.heartbeat_s = -1: must be 0 to 65535",
        ),
        (
            &["--amqp-heartbeat-s=70000"],
            "--amqp-heartbeat-s: amqp.heartbeat_s = 70000: must be 0 to 65535",
        ),
        (&["--heartbeat", "1"], "--heartbeat"),
        (&["--config"], "--config"),
    ];
    for (args, expected) in flags {
        let error = load("", &[], args).expect_err(expected);
        assert!(error.to_string().contains(expected), "{error}");
        assert_eq!(error.exit_code(), 78);
    }
}

#[test]
fn foreign_variables_are_passed_over() {
    let env = [
        ("PATH", "/bin"),
        ("WARREN_CLUSTER_DIR", "/tmp"),
        ("WARREN_AMQP_BASE", "5672"),
        ("WARREN_TEST_AMQP", "h:1"),
        ("WARREN_AMQP_SERVICE_HOST", "10.0.0.1"),
        ("WARREN_AMQP_PORT_5672_TCP_ADDR", "10.0.0.1"),
        ("WARREN_CONFIG", ""),
        ("RABBITMQ_ERLANG_COOKIE", "c"),
    ];
    assert_eq!(load("", &env, &[]).expect("legal"), Config::default());
}

#[test]
fn help_names_every_flag_and_is_no_fault() {
    let Err(error @ Error::Help(_)) = load("", &[], &["--help"]) else {
        panic!("--help ends the start")
    };
    assert_eq!(error.exit_code(), 0);
    for option in OPTIONS {
        assert!(
            error
                .to_string()
                .contains(&format!("--{}", option.key().replace(['.', '_'], "-")))
        );
    }
    assert!(matches!(load("", &[], &["--version"]), Err(Error::Help(_))));
}

#[test]
fn secrets_do_not_show() {
    let file = format!("[cluster]\nsecret = \"{LONG}\"\n[users]\ndefault_pass = \"hush\"");
    let config = from_file(&file).expect("legal");
    let shown = format!("{config:?}");
    assert!(!shown.contains(LONG) && !shown.contains("hush"), "{shown}");
    assert_eq!(config.cluster.secret.reveal(), LONG);
}

#[test]
fn the_secret_file_is_read_without_its_line_end() {
    let file = "[cluster]\nsecret_file = \"secret\"\nseeds = [\"warren=h:1\", \"b=h:2\"]";
    let config = from_file(file).expect("legal");
    assert_eq!(config.cluster.secret.reveal(), LONG);
    assert_eq!(
        config.cluster.address_of("b").map(ToString::to_string).as_deref(),
        Some("h:2")
    );
    assert!(config.cluster.address_of("c").is_none());
}
