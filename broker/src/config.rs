//! What a node is told when it starts: built-in defaults, then one TOML file, then `RABBITMQ_*` and `WARREN_*`
//! variables, then flags; each layer overrides the one before it.
//!
//! Every option stands once in [`options`], which the file's keys, the variables, the flags, the help text and
//! `deploy/warren.toml` are all checked against. A key that is not there, or a value that does not fit, is an error that
//! names where it was given; nothing is ignored in silence. Secrets never show in `Debug` or in an error.

use std::{
    collections::BTreeMap,
    ffi::OsString,
    fmt, io,
    path::{Path, PathBuf},
};

use crate::auth::CertName;
use crate::metadata::Kind as QueueType;
use warren_cluster::tls::{Callers, Files};

mod options;
mod sources;
#[cfg(test)]
mod tests;
mod values;

pub use values::{Address, LogFormat, Member, Secret, Watermark};

/// The exit status of a node whose configuration is wrong (`EX_CONFIG`).
pub const EXIT_CONFIG: u8 = 78;
/// A shorter secret can be guessed.
pub const SECRET_LEN_MIN: usize = 16;

/// Everything a node is told at its start. `Debug` shows no secret, so it may be logged.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Config {
    pub node: Node,
    pub cluster: Cluster,
    pub amqp: Amqp,
    pub tls: Tls,
    pub users: Users,
    pub definitions: Definitions,
    pub limits: Limits,
    pub log: Log,
    pub runtime: Runtime,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Node {
    /// Unique in the cluster, and kept for the node's life. 1 to 64 characters of `A-Za-z0-9._@-`.
    pub name: String,
    pub data_dir: PathBuf,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cluster {
    /// Nodes of another name are refused.
    pub name: String,
    /// Where links from other nodes and `warrenctl` come in.
    pub listen: Address,
    /// Every node of the cluster, this one included, names and addresses distinct. Empty: a cluster of one.
    pub seeds: Vec<Member>,
    /// With an empty data directory, the node joins the cluster of the other `seeds` rather than to begin one with them.
    pub join: bool,
    /// At least [`SECRET_LEN_MIN`] bytes, except in a cluster of one that only listens on loopback.
    /// Read from `secret_file` when that is given.
    pub secret: Secret,
    pub secret_file: Option<PathBuf>,
    /// The three go together: with them, nodes and `warrenctl` only talk over mutual TLS.
    pub tls_cert_file: Option<PathBuf>,
    pub tls_key_file: Option<PathBuf>,
    pub tls_ca_file: Option<PathBuf>,
    /// A node not heard from for this long counts as down.
    pub silence_ms: u64,
    /// Replicas of a new durable queue; never more than there are nodes.
    pub group_size: usize,
    /// The newest version of the log's entries that this node agrees to; 0: all that it knows. With an older one, the
    /// cluster can go back to the older build.
    pub version_max: u16,
    /// Beyond these none can be declared by clients of this node; 0: no limit.
    pub queues_max: u64,
    pub exchanges_max: u64,
    pub vhosts_max: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Amqp {
    pub listen: Vec<Address>,
    pub channel_max: u16,
    pub frame_max: u32,
    /// 0: no heartbeats.
    pub heartbeat_s: u16,
    pub connections_max: usize,
    /// Of all clients of this node; 0: no limit.
    pub channels_max: u64,
    /// Of one channel; 0: no limit.
    pub consumers_max: usize,
    /// Of a durable queue that names none, where its virtual host names none either.
    pub default_queue_type: QueueType,
    pub message_size_max: u64,
    pub handshake_timeout_ms: u64,
    /// How long a consumer of a quorum queue may hold a message, where neither says; 0: for ever.
    pub consumer_timeout_ms: u64,
    /// A publish that could not be committed for this long is nacked.
    pub publish_timeout_ms: u64,
}

/// Clients' connections over TLS.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Tls {
    /// Each needs the certificate and its key.
    pub listen: Vec<Address>,
    pub cert_file: Option<PathBuf>,
    pub key_file: Option<PathBuf>,
    /// Needed to verify clients.
    pub ca_file: Option<PathBuf>,
    /// Clients are asked for a certificate; one that does not hold is refused.
    pub verify_peer: bool,
    /// Clients without one are refused. Needs `verify_peer`.
    pub fail_if_no_peer_cert: bool,
    pub cert_name: CertName,
}

/// The first start of a cluster creates this user and vhost; later starts leave users alone.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Users {
    pub default_user: String,
    pub default_pass: Secret,
    pub default_vhost: String,
    /// Users who may only connect from this machine.
    pub loopback_users: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Definitions {
    /// A file of definitions that is imported at every start, before clients are let in.
    pub path: Option<PathBuf>,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Limits {
    /// Bytes one connection may have sent towards queues without an answer; then its socket is not read.
    pub unapplied_bytes_max: u64,
    /// Bytes of recent log entries that one queue keeps in memory.
    pub queue_cached_bytes_max: u64,
    /// Resident memory of this node above which publishers are held back, everywhere.
    pub memory_high_watermark: Watermark,
    /// Bytes free where `data_dir` is below which publishers are held back, everywhere.
    pub disk_free_limit: u64,
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Log {
    /// Directives as `tracing_subscriber::EnvFilter` reads them: `info`, or `warn,warren_cluster=debug`.
    pub filter: String,
    pub format: LogFormat,
}

#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Runtime {
    /// Threads that run actors. 0: one per processor.
    pub workers: usize,
}

impl Default for Node {
    fn default() -> Self {
        Self {
            name: "warren".into(),
            data_dir: "/var/lib/warren".into(),
        }
    }
}

impl Default for Cluster {
    fn default() -> Self {
        Self {
            name: "warren".into(),
            listen: Address::loopback(7101),
            seeds: Vec::new(),
            join: false,
            secret: Secret::default(),
            secret_file: None,
            tls_cert_file: None,
            tls_key_file: None,
            tls_ca_file: None,
            silence_ms: 1_000,
            group_size: 3,
            version_max: 0,
            queues_max: 0,
            exchanges_max: 0,
            vhosts_max: 0,
        }
    }
}

impl Default for Amqp {
    fn default() -> Self {
        Self {
            listen: vec![Address::loopback(5672)],
            channel_max: 2_047,
            frame_max: 131_072,
            heartbeat_s: 60,
            connections_max: 10_000,
            channels_max: 0,
            consumers_max: 0,
            default_queue_type: QueueType::Classic,
            message_size_max: 16 << 20,
            handshake_timeout_ms: 10_000,
            consumer_timeout_ms: 1_800_000,
            publish_timeout_ms: 30_000,
        }
    }
}

impl Default for Users {
    fn default() -> Self {
        Self {
            default_user: "guest".into(),
            default_pass: Secret::new("guest"),
            default_vhost: "/".into(),
            loopback_users: vec!["guest".into()],
        }
    }
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            unapplied_bytes_max: 32 << 20,
            queue_cached_bytes_max: 2 << 20,
            memory_high_watermark: Watermark::Part(600),
            disk_free_limit: 50_000_000,
        }
    }
}

impl Default for Log {
    fn default() -> Self {
        Self {
            filter: "info".into(),
            format: LogFormat::Text,
        }
    }
}

impl Cluster {
    /// What links and the operator's tool prove to know. A cluster of one that was given none still needs some bytes;
    /// only this machine reaches it then.
    pub fn link_secret(&self) -> &str {
        if self.secret.is_empty() {
            "alone"
        } else {
            self.secret.reveal()
        }
    }

    /// What nodes and the operator's tool show each other; `None`: they talk without TLS.
    pub fn tls_files(&self) -> Option<Files> {
        Some(Files {
            cert: self.tls_cert_file.clone()?,
            key: self.tls_key_file.clone()?,
            ca: Some(self.tls_ca_file.clone()?),
        })
    }

    /// Where other nodes reach the node called `name`.
    pub fn address_of(&self, name: &str) -> Option<&Address> {
        self.seeds
            .iter()
            .find(|member| member.name == name)
            .map(|member| &member.address)
    }
}

impl Tls {
    /// What clients are shown, and what is wanted of them; `None`: there is no listener for TLS.
    pub fn files(&self) -> Option<(Files, Callers)> {
        let files = Files {
            cert: self.cert_file.clone()?,
            key: self.key_file.clone()?,
            ca: self.ca_file.clone(),
        };
        let callers = match (self.verify_peer, self.fail_if_no_peer_cert) {
            (false, _) => Callers::Anyone,
            (true, false) => Callers::VerifiedIfKnown,
            (true, true) => Callers::Verified,
        };
        (!self.listen.is_empty()).then_some((files, callers))
    }

    fn check(&self) -> Result<(), (&'static str, String)> {
        let needed = |by: &str| format!("must be given with {by}");
        if !self.listen.is_empty() && self.cert_file.is_none() {
            return Err(("tls.cert_file", needed("tls.listen")));
        }
        if !self.listen.is_empty() && self.key_file.is_none() {
            return Err(("tls.key_file", needed("tls.listen")));
        }
        if self.verify_peer && self.ca_file.is_none() {
            return Err(("tls.ca_file", needed("tls.verify_peer")));
        }
        if self.fail_if_no_peer_cert && !self.verify_peer {
            return Err((
                "tls.fail_if_no_peer_cert",
                "has no meaning without tls.verify_peer".into(),
            ));
        }
        Ok(())
    }
}

impl Config {
    /// `args` without the program's name; `env` as (name, value) pairs, of which foreign ones are passed over.
    /// Reads the configuration file and the secret file, nothing else.
    pub fn load(
        args: impl IntoIterator<Item = OsString>,
        env: impl IntoIterator<Item = (String, String)>,
    ) -> Result<Self, Error> {
        Self::load_with(args, env, |path| std::fs::read_to_string(path))
    }

    /// The configuration of this process: its arguments and environment. Values that are not Unicode do not match.
    pub fn of_process() -> Result<Self, Error> {
        Self::load(std::env::args_os().skip(1), process_env())
    }

    /// As [`Config::load`], with the reading of files handed in.
    pub fn load_with(
        args: impl IntoIterator<Item = OsString>,
        env: impl IntoIterator<Item = (String, String)>,
        read: impl Fn(&Path) -> io::Result<String>,
    ) -> Result<Self, Error> {
        Self::gather(sources::flags(args)?, env, read, Self::check)
    }

    /// What the operator's tool needs to know to call a node: as [`Config::load_with`], but the options need not
    /// add up to a node.
    pub fn for_tool(
        file: Option<String>,
        env: impl IntoIterator<Item = (String, String)>,
        read: impl Fn(&Path) -> io::Result<String>,
    ) -> Result<Self, Error> {
        Self::gather(
            sources::Flags {
                config: file,
                settings: Vec::new(),
            },
            env,
            read,
            |_| Ok(()),
        )
    }

    fn gather(
        flags: sources::Flags,
        env: impl IntoIterator<Item = (String, String)>,
        read: impl Fn(&Path) -> io::Result<String>,
        check: impl Fn(&Self) -> Result<(), (&'static str, String)>,
    ) -> Result<Self, Error> {
        let mut env: BTreeMap<String, String> = env.into_iter().collect();
        let file = flags
            .config
            .or_else(|| env.remove(sources::CONFIG_VARIABLE).filter(|path| !path.is_empty()));

        let mut settings = Vec::new();
        if let Some(path) = file {
            let text = read(Path::new(&path)).map_err(|error| Error::Unreadable {
                path: path.clone(),
                error,
            })?;
            settings.extend(sources::file(&path, &text)?);
        }
        settings.extend(sources::environment(&env)?);
        settings.extend(flags.settings);

        let mut config = Self::default();
        let mut given = BTreeMap::new();
        for setting in settings {
            let option = setting.option;
            let shown = if option.secret {
                "***".to_owned()
            } else {
                setting.value.to_string()
            };
            if let Err(reason) = (option.set)(&mut config, &setting.value) {
                return Err(Error::Value {
                    origin: setting.origin,
                    key: option.key(),
                    value: shown,
                    reason,
                });
            }
            given.insert(option.key(), (setting.origin, shown));
        }

        let blame = |(key, reason): (&'static str, String)| {
            let (origin, value) = given.get(key).cloned().unwrap_or((Origin::Default, String::new()));
            Error::Value {
                origin,
                key: key.to_owned(),
                value,
                reason,
            }
        };
        config.read_secret(&read).map_err(blame)?;
        check(&config).map_err(blame)?;
        Ok(config)
    }

    fn read_secret(&mut self, read: impl Fn(&Path) -> io::Result<String>) -> Result<(), (&'static str, String)> {
        let Some(path) = &self.cluster.secret_file else {
            return Ok(());
        };
        if !self.cluster.secret.is_empty() {
            return Err((
                "cluster.secret_file",
                "cluster.secret is given too; give one of them".into(),
            ));
        }
        let text = read(path).map_err(|error| ("cluster.secret_file", format!("cannot be read: {error}")))?;
        self.cluster.secret = Secret::new(text.trim_end_matches(['\r', '\n']));
        Ok(())
    }

    /// What holds between options. The key named is the one to change.
    fn check(&self) -> Result<(), (&'static str, String)> {
        let Cluster {
            seeds,
            listen,
            secret,
            secret_file,
            ..
        } = &self.cluster;
        for (i, member) in seeds.iter().enumerate() {
            let earlier = || seeds.iter().take(i);
            if earlier().any(|other| other.name == member.name) {
                return Err(("cluster.seeds", format!("the name {} stands twice", member.name)));
            }
            if earlier().any(|other| other.address == member.address) {
                return Err(("cluster.seeds", format!("the address {} stands twice", member.address)));
            }
        }
        if !seeds.is_empty() && self.cluster.address_of(&self.node.name).is_none() {
            return Err((
                "cluster.seeds",
                format!("must name every node, and node.name {} is missing", self.node.name),
            ));
        }
        if self.cluster.join && seeds.len() < 2 {
            return Err((
                "cluster.join",
                "cluster.seeds must name a node of the cluster to join, and this one".into(),
            ));
        }
        let alone = seeds.len() <= 1 && listen.is_loopback();
        if secret.len() < SECRET_LEN_MIN && !(alone && secret.is_empty()) {
            let key = if secret_file.is_some() {
                "cluster.secret_file"
            } else {
                "cluster.secret"
            };
            let reason = format!(
                "the secret must have {SECRET_LEN_MIN} bytes or more; only a cluster of one that listens on loopback may do without"
            );
            return Err((key, reason));
        }
        let of_tls = [
            ("cluster.tls_cert_file", &self.cluster.tls_cert_file),
            ("cluster.tls_key_file", &self.cluster.tls_key_file),
            ("cluster.tls_ca_file", &self.cluster.tls_ca_file),
        ];
        if of_tls.iter().any(|(_, file)| file.is_some())
            && let Some((missing, _)) = of_tls.iter().find(|(_, file)| file.is_none())
        {
            let reason = "cluster.tls_cert_file, tls_key_file and tls_ca_file go together";
            return Err((missing, reason.into()));
        }
        self.tls.check()?;
        if u64::from(self.amqp.frame_max) > self.limits.unapplied_bytes_max {
            return Err((
                "limits.unapplied_bytes_max",
                "must not be less than amqp.frame_max".into(),
            ));
        }
        Ok(())
    }
}

/// This process's environment as text; what is not Unicode cannot be one of ours.
pub fn process_env() -> impl Iterator<Item = (String, String)> {
    std::env::vars_os().filter_map(|(name, value)| Some((name.into_string().ok()?, value.into_string().ok()?)))
}

/// Where a setting came from, as the operator finds it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Origin {
    Default,
    File { path: String, line: usize },
    Variable(String),
    Flag(String),
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Default => f.write_str("default"),
            Self::File { path, line } => write!(f, "{path}:{line}"),
            Self::Variable(name) => f.write_str(name),
            Self::Flag(name) => f.write_str(name),
        }
    }
}

#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{origin}: there is no option {key}{}; {known}", shown(value))]
    Unknown {
        origin: Origin,
        key: String,
        value: String,
        known: String,
    },
    #[error("{origin}: {key}{}: {reason}", shown(value))]
    Value {
        origin: Origin,
        key: String,
        value: String,
        reason: String,
    },
    #[error("{path}:{line}: {reason}")]
    Syntax { path: String, line: usize, reason: String },
    #[error("{path}: cannot be read: {error}")]
    Unreadable { path: String, error: io::Error },
    #[error("{0}")]
    Usage(String),
    /// Not a fault: `--help` or `--version` was asked for, and this is the answer.
    #[error("{0}")]
    Help(String),
}

fn shown(value: &str) -> String {
    if value.is_empty() {
        String::new()
    } else {
        format!(" = {value}")
    }
}

impl Error {
    /// The exit status to end with.
    pub fn exit_code(&self) -> u8 {
        match self {
            Self::Help(_) => 0,
            Self::Unknown { .. }
            | Self::Value { .. }
            | Self::Syntax { .. }
            | Self::Unreadable { .. }
            | Self::Usage(_) => EXIT_CONFIG,
        }
    }
}
