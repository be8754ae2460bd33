//! The command line itself: commands, arguments and options, as rabbitmqctl has them.

use clap::{Args, Parser, Subcommand, ValueEnum};

mod members;
mod settings;

pub(super) use self::members::{GrowthWord, KindWord, Membership, MembershipWord};
pub(super) use self::settings::{PolicyLine, Setting};

#[derive(Debug, Parser)]
#[command(
    name = "warrenctl",
    version,
    about = "Looks into and changes a running Warren cluster"
)]
#[command(
    after_help = "The node is found by --node, else WARREN_NODE, else cluster.listen of the configuration; \
    the cluster's name and secret come from the configuration (--config, WARREN_CONFIG, WARREN_CLUSTER_SECRET_FILE)."
)]
pub(super) struct Line {
    #[command(flatten)]
    pub(super) common: Common,
    #[command(subcommand)]
    pub(super) command: Command,
}

#[derive(Debug, Args)]
pub(super) struct Common {
    /// The node to ask: the HOST:PORT of its cluster listener, or its name in cluster.seeds
    #[arg(short, long, global = true, value_name = "NODE")]
    pub(super) node: Option<String>,
    /// The configuration file of a node, for the cluster's name, secret and addresses
    #[arg(short, long, global = true, value_name = "FILE")]
    pub(super) config: Option<String>,
    /// The virtual host [default: /]
    #[arg(short = 'p', long, global = true, value_name = "VHOST")]
    pub(super) vhost: Option<String>,
    /// No banner
    #[arg(short, long, global = true)]
    pub(super) quiet: bool,
    /// No banner, no headings
    #[arg(short, long, global = true)]
    pub(super) silent: bool,
    /// How rows are written [default: table]
    #[arg(long, global = true, value_name = "FORMAT")]
    pub(super) formatter: Option<Formatter>,
    /// No headings
    #[arg(long, global = true)]
    pub(super) no_table_headers: bool,
    /// Seconds to wait for the answer
    #[arg(short, long, global = true, value_name = "SECONDS", value_parser = clap::value_parser!(u64).range(1..=31_536_000))]
    pub(super) timeout: Option<u64>,
    /// Accepted for scripts, and without effect
    #[arg(short, long, global = true, hide = true)]
    pub(super) longnames: bool,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(super) enum Formatter {
    Table,
    PrettyTable,
    Json,
    Csv,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(super) enum Unit {
    Days,
    Weeks,
    Months,
    Years,
}

impl Unit {
    /// In seconds; a month has 30 days, a year 365.
    pub(super) fn seconds(self) -> i64 {
        let days = match self {
            Self::Days => 1,
            Self::Weeks => 7,
            Self::Months => 30,
            Self::Years => 365,
        };
        days * 86_400
    }
}

#[derive(Debug, Subcommand)]
#[command(rename_all = "snake_case")]
pub(super) enum Command {
    /// Whether the node answers
    Ping,
    /// What the node is and holds
    Status,
    /// This tool's version
    Version,
    /// Waits until the node serves clients
    AwaitStartup,
    /// Waits until that many nodes of the cluster run
    AwaitOnlineNodes { count: usize },
    /// The cluster's nodes, and which run
    ClusterStatus,
    /// Whether a certificate of the node expires soon: exit status 69 if so
    CheckCertificateExpiration {
        /// How soon
        #[arg(long, value_name = "N")]
        within: u32,
        #[arg(long, default_value = "days")]
        unit: Unit,
    },
    /// What nodes of older builds would not know, and whether the cluster has gone over to it [default columns: name
    /// state]
    ListFeatureFlags { columns: Vec<String> },
    /// Whether the cluster has gone over to what older builds would not know, which it does by itself: status 75 if not
    EnableFeatureFlag {
        /// Or: all
        #[arg(value_name = "FLAG")]
        name: String,
    },
    /// A durable queue's replicas
    QuorumStatus { queue: String },
    /// Queues [default columns: name messages]
    ListQueues {
        /// Only queues that have a leader
        #[arg(long)]
        online: bool,
        /// Only queues that have none
        #[arg(long, conflicts_with = "online")]
        offline: bool,
        columns: Vec<String>,
    },
    /// Exchanges [default columns: name type]
    ListExchanges { columns: Vec<String> },
    /// Bindings [default columns: all]
    ListBindings { columns: Vec<String> },
    /// Client connections of all nodes [default columns: user peer_host peer_port state]
    ListConnections { columns: Vec<String> },
    /// Channels of all nodes [default columns: pid user consumer_count messages_unacknowledged]
    ListChannels { columns: Vec<String> },
    /// Consumers [default columns: all but activity_status]
    ListConsumers { columns: Vec<String> },
    /// Users and their tags
    ListUsers,
    /// Virtual hosts [default columns: name]
    ListVhosts { columns: Vec<String> },
    /// Who may do what in the virtual host
    ListPermissions,
    /// What a user may do, in all virtual hosts
    ListUserPermissions { user: String },
    /// Adds a user; the password is read from standard input if it is left out
    AddUser {
        user: String,
        password: Option<String>,
        /// The password is a salted hash in base64, as hash_password makes them
        #[arg(long = "pre-hashed-password")]
        pre_hashed_password: bool,
    },
    /// Changes a password, read from standard input if it is left out
    ChangePassword {
        user: String,
        password: Option<String>,
        /// The password is a salted hash in base64, as hash_password makes them
        #[arg(long = "pre-hashed-password")]
        pre_hashed_password: bool,
    },
    /// Hashes a password, read from standard input if it is left out
    HashPassword { password: Option<String> },
    /// Whether a user has this password, read from standard input if it is left out
    AuthenticateUser { user: String, password: Option<String> },
    /// Removes a user
    DeleteUser { user: String },
    /// Replaces a user's tags
    SetUserTags { user: String, tags: Vec<String> },
    /// Sets what a user may configure, write and read in the virtual host: regular expressions over names
    #[command(allow_negative_numbers = true)]
    SetPermissions {
        user: String,
        configure: String,
        write: String,
        read: String,
    },
    /// Takes a user's permissions in the virtual host
    ClearPermissions { user: String },
    /// Adds a virtual host
    AddVhost {
        #[arg(value_name = "VHOST")]
        vhost_name: String,
        #[arg(long, default_value = "")]
        description: String,
        /// Separated by commas
        #[arg(long, value_delimiter = ',')]
        tags: Vec<String>,
        #[arg(long = "default-queue-type", default_value = "")]
        default_queue_type: String,
    },
    /// Removes a virtual host and everything in it
    DeleteVhost {
        #[arg(value_name = "VHOST")]
        vhost_name: String,
    },
    /// Removes a queue's ready messages
    PurgeQueue { queue: String },
    /// Removes a queue
    DeleteQueue {
        queue: String,
        /// Only if it has no ready messages
        #[arg(short = 'e', long = "if-empty")]
        if_empty: bool,
        /// Only if it has no consumers
        #[arg(short = 'u', long = "if-unused")]
        if_unused: bool,
    },
    #[command(flatten)]
    Membership(Membership),
    #[command(flatten)]
    Setting(Setting),
}
