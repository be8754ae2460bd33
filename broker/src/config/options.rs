//! Every option, once: its key in the file, which gives its variable and its flag, and how its value is read.

use std::{ops::RangeInclusive, path::PathBuf, sync::LazyLock};

use tracing_subscriber::EnvFilter;
use warren_cluster::version;

use crate::metadata::Kind;

use super::{
    Config,
    sources::Value,
    values::{Secret, check_name, size},
};

/// The largest number of things that can be asked for.
const COUNT_MAX: i64 = 1_000_000_000;

pub(super) struct Opt {
    pub(super) section: &'static str,
    pub(super) name: &'static str,
    /// What stands for the value in the help text.
    pub(super) shape: &'static str,
    pub(super) help: &'static str,
    /// Its value shows in no message.
    pub(super) secret: bool,
    /// Checks, then changes; the error says what the value must be.
    pub(super) set: fn(&mut Config, &Value) -> Result<(), String>,
}

impl Opt {
    /// In the file: `amqp.heartbeat_s`.
    pub(super) fn key(&self) -> String {
        format!("{}.{}", self.section, self.name)
    }

    /// In the environment: `WARREN_AMQP_HEARTBEAT_S`.
    pub(super) fn variable(&self) -> String {
        format!("WARREN_{}_{}", self.section, self.name).to_uppercase()
    }
}

/// `amqp-heartbeat-s` for each option, in the order of [`OPTIONS`].
pub(super) static FLAGS: LazyLock<Vec<String>> = LazyLock::new(|| {
    OPTIONS
        .iter()
        .map(|option| option.key().replace(['.', '_'], "-"))
        .collect()
});

const fn option(
    section: &'static str,
    name: &'static str,
    shape: &'static str,
    help: &'static str,
    set: fn(&mut Config, &Value) -> Result<(), String>,
) -> Opt {
    Opt {
        section,
        name,
        shape,
        help,
        secret: false,
        set,
    }
}

const fn hidden(option: Opt) -> Opt {
    Opt { secret: true, ..option }
}

pub(super) static OPTIONS: &[Opt] = &[
    option(
        "node",
        "name",
        "NAME",
        "This node's name: unique in the cluster, never changed",
        |c, v| put(&mut c.node.name, name(v)),
    ),
    option(
        "node",
        "data_dir",
        "DIR",
        "Where everything that must survive is kept",
        |c, v| put(&mut c.node.data_dir, filled(v).map(PathBuf::from)),
    ),
    option(
        "cluster",
        "name",
        "NAME",
        "The cluster's name: nodes of another are refused",
        |c, v| put(&mut c.cluster.name, name(v)),
    ),
    option(
        "cluster",
        "listen",
        "HOST:PORT",
        "Where other nodes and warrenctl connect",
        |c, v| put(&mut c.cluster.listen, v.text().and_then(str::parse)),
    ),
    option(
        "cluster",
        "seeds",
        "NAME=HOST:PORT,...",
        "Every node, this one too; none: a cluster of one",
        |c, v| {
            put(
                &mut c.cluster.seeds,
                v.list()
                    .and_then(|items| items.iter().map(|item| item.parse()).collect()),
            )
        },
    ),
    option(
        "cluster",
        "join",
        "BOOL",
        "A new node joins the cluster of the other seeds",
        |c, v| put(&mut c.cluster.join, v.boolean()),
    ),
    hidden(option(
        "cluster",
        "secret",
        "TEXT",
        "What nodes and warrenctl know each other by",
        |c, v| put(&mut c.cluster.secret, v.text().map(Secret::new)),
    )),
    option(
        "cluster",
        "secret_file",
        "FILE",
        "The file that holds the secret",
        |c, v| put(&mut c.cluster.secret_file, path(v)),
    ),
    option(
        "cluster",
        "tls_cert_file",
        "FILE",
        "The certificate that nodes and warrenctl show each other",
        |c, v| put(&mut c.cluster.tls_cert_file, path(v)),
    ),
    option("cluster", "tls_key_file", "FILE", "Its private key", |c, v| {
        put(&mut c.cluster.tls_key_file, path(v))
    }),
    option(
        "cluster",
        "tls_ca_file",
        "FILE",
        "The authorities that nodes and warrenctl believe",
        |c, v| put(&mut c.cluster.tls_ca_file, path(v)),
    ),
    option(
        "cluster",
        "silence_ms",
        "MS",
        "A node not heard from for this long is down",
        |c, v| put(&mut c.cluster.silence_ms, number(v, 200..=60_000)),
    ),
    option(
        "cluster",
        "group_size",
        "N",
        "Replicas of a new durable queue",
        |c, v| put(&mut c.cluster.group_size, number(v, 1..=7)),
    ),
    option(
        "cluster",
        "version_max",
        "N",
        "The newest version of the log's entries that this node agrees to; 0: all that it knows",
        |c, v| put(&mut c.cluster.version_max, number(v, 0..=version::LATEST.into())),
    ),
    option(
        "cluster",
        "queues_max",
        "N",
        "Queues in the cluster, beyond which clients of this node declare none; 0: no limit",
        |c, v| put(&mut c.cluster.queues_max, number(v, 0..=COUNT_MAX)),
    ),
    option("cluster", "exchanges_max", "N", "The same for exchanges", |c, v| {
        put(&mut c.cluster.exchanges_max, number(v, 0..=COUNT_MAX))
    }),
    option(
        "cluster",
        "vhosts_max",
        "N",
        "The same for virtual hosts, through this node",
        |c, v| put(&mut c.cluster.vhosts_max, number(v, 0..=COUNT_MAX)),
    ),
    option("amqp", "listen", "HOST:PORT,...", "Where clients connect", |c, v| {
        put(
            &mut c.amqp.listen,
            v.list()
                .and_then(|items| items.iter().map(|item| item.parse()).collect()),
        )
    }),
    option("amqp", "channel_max", "N", "Channels per connection", |c, v| {
        put(&mut c.amqp.channel_max, number(v, 1..=65_535))
    }),
    option("amqp", "frame_max", "SIZE", "The largest frame", |c, v| {
        put(&mut c.amqp.frame_max, bytes(v, 4_096..=16 << 20))
    }),
    option(
        "amqp",
        "heartbeat_s",
        "S",
        "Heartbeat proposed to clients; 0: none",
        |c, v| put(&mut c.amqp.heartbeat_s, number(v, 0..=65_535)),
    ),
    option(
        "amqp",
        "connections_max",
        "N",
        "Client connections of this node",
        |c, v| put(&mut c.amqp.connections_max, number(v, 1..=1_000_000)),
    ),
    option(
        "amqp",
        "channels_max",
        "N",
        "Channels of all clients of this node; 0: no limit",
        |c, v| put(&mut c.amqp.channels_max, number(v, 0..=COUNT_MAX)),
    ),
    option(
        "amqp",
        "consumers_max",
        "N",
        "Consumers of one channel; 0: no limit",
        |c, v| put(&mut c.amqp.consumers_max, number(v, 0..=COUNT_MAX)),
    ),
    option(
        "amqp",
        "default_queue_type",
        "TYPE",
        "What a durable queue is that names no type: classic, quorum or stream",
        |c, v| {
            let kind = Kind::from_name(v.text()?).ok_or_else(|| "must be classic, quorum or stream".to_owned());
            put(&mut c.amqp.default_queue_type, kind)
        },
    ),
    option(
        "amqp",
        "message_size_max",
        "SIZE",
        "The largest message body",
        |c, v| put(&mut c.amqp.message_size_max, bytes(v, 1_024..=512 << 20)),
    ),
    option(
        "amqp",
        "handshake_timeout_ms",
        "MS",
        "Time a client has to log in",
        |c, v| put(&mut c.amqp.handshake_timeout_ms, number(v, 100..=600_000)),
    ),
    option(
        "amqp",
        "consumer_timeout_ms",
        "MS",
        "How long a consumer of a quorum queue may hold a message; 0: for ever",
        |c, v| put(&mut c.amqp.consumer_timeout_ms, number(v, 0..=315_360_000_000)),
    ),
    option(
        "amqp",
        "publish_timeout_ms",
        "MS",
        "A publish that cannot be committed for this long is nacked",
        |c, v| put(&mut c.amqp.publish_timeout_ms, number(v, 1_000..=3_600_000)),
    ),
    option(
        "tls",
        "listen",
        "HOST:PORT,...",
        "Where clients connect with TLS; none: nowhere",
        |c, v| {
            put(
                &mut c.tls.listen,
                v.list()
                    .and_then(|items| items.iter().map(|item| item.parse()).collect()),
            )
        },
    ),
    option(
        "tls",
        "cert_file",
        "FILE",
        "The certificate that clients see",
        |c, v| put(&mut c.tls.cert_file, path(v)),
    ),
    option("tls", "key_file", "FILE", "Its private key", |c, v| {
        put(&mut c.tls.key_file, path(v))
    }),
    option(
        "tls",
        "ca_file",
        "FILE",
        "The authorities whose clients' certificates are believed",
        |c, v| put(&mut c.tls.ca_file, path(v)),
    ),
    option(
        "tls",
        "verify_peer",
        "true|false",
        "Whether clients are asked for a certificate, which must be of such an authority",
        |c, v| put(&mut c.tls.verify_peer, v.boolean()),
    ),
    option(
        "tls",
        "fail_if_no_peer_cert",
        "true|false",
        "Whether clients without a certificate are refused",
        |c, v| put(&mut c.tls.fail_if_no_peer_cert, v.boolean()),
    ),
    option(
        "tls",
        "cert_login_from",
        "distinguished_name|common_name|subject_alternative_name",
        "What of a client's certificate is the user's name for EXTERNAL",
        |c, v| put(&mut c.tls.cert_name.from, v.text().and_then(str::parse)),
    ),
    option(
        "tls",
        "cert_login_san_type",
        "dns|email|ip|uri",
        "The type of the subject alternative name that is the user's",
        |c, v| put(&mut c.tls.cert_name.san_type, v.text().and_then(str::parse)),
    ),
    option(
        "tls",
        "cert_login_san_index",
        "N",
        "Which one of that type, from 0",
        |c, v| put(&mut c.tls.cert_name.san_index, number(v, 0..=1000)),
    ),
    option(
        "users",
        "default_user",
        "NAME",
        "The administrator that the first start creates",
        |c, v| put(&mut c.users.default_user, filled(v)),
    ),
    hidden(option("users", "default_pass", "TEXT", "Its password", |c, v| {
        put(&mut c.users.default_pass, filled(v).map(|text| Secret::new(&text)))
    })),
    option(
        "users",
        "default_vhost",
        "NAME",
        "The vhost that the first start creates",
        |c, v| put(&mut c.users.default_vhost, filled(v)),
    ),
    option(
        "users",
        "loopback_users",
        "NAME,...",
        "Users who may only connect from this machine",
        |c, v| put(&mut c.users.loopback_users, v.list()),
    ),
    option(
        "definitions",
        "path",
        "FILE",
        "Definitions in JSON that are imported at every start; empty: none",
        |c, v| {
            let path = v.text().map(|text| (!text.is_empty()).then(|| PathBuf::from(text)));
            put(&mut c.definitions.path, path)
        },
    ),
    option(
        "limits",
        "unapplied_bytes_max",
        "SIZE",
        "Unanswered bytes at which a connection's socket is not read",
        |c, v| put(&mut c.limits.unapplied_bytes_max, bytes(v, 64 << 10..=4 << 30)),
    ),
    option(
        "limits",
        "queue_cached_bytes_max",
        "SIZE",
        "Recent log entries that one queue keeps in memory",
        |c, v| put(&mut c.limits.queue_cached_bytes_max, bytes(v, 64 << 10..=1 << 30)),
    ),
    option(
        "limits",
        "memory_high_watermark",
        "PART|SIZE",
        "Memory above which publishers are held back: 0.6 of the machine's, or 2GiB",
        |c, v| {
            let watermark = v.loose_text().and_then(|text| text.parse());
            put(&mut c.limits.memory_high_watermark, watermark)
        },
    ),
    option(
        "limits",
        "disk_free_limit",
        "SIZE",
        "Free disk below which publishers are held back",
        |c, v| put(&mut c.limits.disk_free_limit, bytes(v, 0..=i64::MAX)),
    ),
    option(
        "log",
        "filter",
        "DIRECTIVES",
        "What is logged: info, or warn,warren_cluster=debug",
        |c, v| {
            put(
                &mut c.log.filter,
                filled(v).and_then(|text| match EnvFilter::try_new(&text) {
                    Ok(_) => Ok(text),
                    Err(error) => Err(error.to_string()),
                }),
            )
        },
    ),
    option("log", "format", "text|json", "How it is logged", |c, v| {
        put(&mut c.log.format, v.text().and_then(str::parse))
    }),
    option(
        "runtime",
        "workers",
        "N",
        "Threads that run actors; 0: one per processor",
        |c, v| put(&mut c.runtime.workers, number(v, 0..=256)),
    ),
];

/// The option with this key, or what may stand there instead.
pub(super) fn find(section: &str, name: &str) -> Result<&'static Opt, String> {
    if let Some(found) = OPTIONS
        .iter()
        .find(|option| option.section == section && option.name == name)
    {
        return Ok(found);
    }
    let siblings: Vec<&str> = OPTIONS
        .iter()
        .filter(|option| option.section == section)
        .map(|option| option.name)
        .collect();
    Err(if siblings.is_empty() {
        sections()
    } else {
        format!("[{section}] has {}", siblings.join(", "))
    })
}

/// "the sections are ..."
pub(super) fn sections() -> String {
    let mut names: Vec<&str> = OPTIONS.iter().map(|option| option.section).collect();
    names.dedup();
    format!("the sections are {}", names.join(", "))
}

fn put<T>(place: &mut T, value: Result<T, String>) -> Result<(), String> {
    *place = value?;
    Ok(())
}

fn filled(value: &Value) -> Result<String, String> {
    match value.text()? {
        "" => Err("must not be empty".into()),
        text => Ok(text.to_owned()),
    }
}

/// Empty: none.
fn path(value: &Value) -> Result<Option<PathBuf>, String> {
    let text = value.text()?;
    Ok((!text.is_empty()).then(|| PathBuf::from(text)))
}

fn name(value: &Value) -> Result<String, String> {
    let text = filled(value)?;
    check_name(&text)?;
    Ok(text)
}

fn number<T: TryFrom<i64>>(value: &Value, range: RangeInclusive<i64>) -> Result<T, String> {
    within(value.integer()?, range)
}

fn bytes<T: TryFrom<i64>>(value: &Value, range: RangeInclusive<i64>) -> Result<T, String> {
    let bytes = i64::try_from(size(&value.loose_text()?)?).map_err(|_| "is too large".to_owned())?;
    within(bytes, range)
}

fn within<T: TryFrom<i64>>(number: i64, range: RangeInclusive<i64>) -> Result<T, String> {
    let reason = || format!("must be {} to {}", range.start(), range.end());
    if !range.contains(&number) {
        return Err(reason());
    }
    T::try_from(number).map_err(|_| reason())
}
