//! What an operator's tool asks a node, and what the node answers: one JSON document each way, made of these types.
//!
//! ```text
//! warrenctl -> node   {"verb":"list_queues","vhost":"/","columns":["name","messages"]}
//! node -> warrenctl   {"name":"orders","durable":true,...,"messages":17,...}       one document per row
//!                     ...
//! node -> warrenctl   done, or an error: an exit status of [`status`] and a text
//! ```
//!
//! | verb | answer |
//! |---|---|
//! | `ping` | no rows, from any node that runs |
//! | `status` | one [`StatusRow`] |
//! | `await_startup` | no rows once the node serves clients; before that the error [`status::TEMPORARY`] |
//! | `cluster_status` | one [`ClusterStatusRow`] |
//! | `list_certificates` | a [`CertificateRow`] per certificate that the node shows clients or other nodes |
//! | `quorum_status` | a [`ReplicaRow`] per replica of the queue; [`status::DATA`] if there is no such queue |
//! | `list_queues` ... `list_permissions` | one row of the type below per thing, ordered by name; an unknown vhost has none |
//! | `add_user` | [`status::SOFTWARE`] if the user is there already |
//! | `change_password`, `set_user_tags`, `set_permissions`, `clear_permissions` | [`status::NO_USER`] without the user |
//! | `delete_user` | done, whether or not there was one |
//! | `authenticate_user` | [`status::DATA`] if the password is wrong or the user unknown |
//! | `add_vhost` | done, whether or not it was new; `delete_vhost` of one that is not there: [`status::DATA`] |
//! | `purge_queue` | done; [`status::DATA`] without the queue, [`status::SOFTWARE`] if it is a stream |
//! | `add_member`, `delete_member`, `transfer_leadership` | done; [`status::DATA`] without the queue, node or replica |
//! | `grow`, `shrink` | a [`MoveRow`] per queue |
//! | `rebalance` | a [`BalanceRow`] per node; [`status::TEMPORARY`] while another one runs |
//! | `drain`, `revive` | done, of the node that is asked |
//! | `check_quorum` | no rows; [`status::UNAVAILABLE`] if a queue would lose its quorum without this node |
//! | `join_cluster` | one [`JoinedRow`]; [`status::DATA`] if the node cannot join, with the reason |
//! | `forget_cluster_node` | a [`MoveRow`] per queue that had a replica there; [`status::SOFTWARE`] if it is refused |
//! | `delete_queue` | one [`DeletedRow`]; [`status::USAGE`] without the queue (sic: scripts test for rabbitmqctl's) |
//! | `set_policy`, `set_vhost_limits`, `set_user_limits` | [`status::SOFTWARE`] and `Validation failed` if it does not do |
//! | `clear_policy`, `clear_parameter` | [`status::SOFTWARE`] if there is none |
//! | `close_connection` | [`status::DATA`] without the connection; `close_connections` asks every node that is heard |
//! | `export_definitions` | pieces of one document, in order |
//! | `import_definitions` | one [`ImportedRow`]; [`status::DATA`] names the entry that does not do, and nothing is changed |
//!
//! Any verb may end with [`status::UNAVAILABLE`] (no majority, or the queue's leader out of reach).
//! Fields have the names of rabbitmqctl's columns. Fields are only ever added: a reader passes over those it does not
//! know, and takes the default for those that are missing, so tool and node need not be of one version.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value, json};

use crate::amqp::{
    ShortStr,
    table::{Table, Value as Field},
};
use crate::config::Secret;

mod settings;
#[cfg(test)]
mod tests;

pub use self::settings::{ImportedRow, ParameterRow, PolicyRow, TopicPermissionRow, UserLimitsRow, VhostLimitsRow};

/// Exit statuses, as rabbitmqctl uses sysexits.
pub mod status {
    /// A command line that means nothing.
    pub const USAGE: u8 = 64;
    /// Something that was named is not there, or does not fit.
    pub const DATA: u8 = 65;
    pub const NO_USER: u8 = 67;
    /// The node, or what it would need to answer, cannot be reached.
    pub const UNAVAILABLE: u8 = 69;
    /// Refused, or failed for no better reason.
    pub const SOFTWARE: u8 = 70;
    /// Not yet, or not in time: try again.
    pub const TEMPORARY: u8 = 75;
    pub const CONFIG: u8 = 78;
}

#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(tag = "verb", rename_all = "snake_case")]
pub enum Request {
    Ping,
    Status,
    AwaitStartup,
    ClusterStatus,
    ListCertificates,
    ListFeatureFlags,
    EnableFeatureFlag {
        /// Or `all`.
        name: String,
    },
    QuorumStatus {
        vhost: String,
        queue: String,
    },
    ListQueues {
        vhost: String,
        /// What will be shown. Fields that are not named may keep their default where they cost a question to
        /// another node: see [`QueueRow::ASKED_OF_LEADER`].
        columns: Vec<String>,
    },
    ListExchanges {
        vhost: String,
        /// As of queues: only `messages_delayed` costs a question.
        #[serde(default)]
        columns: Vec<String>,
    },
    ListBindings {
        vhost: String,
    },
    ListConsumers {
        vhost: String,
    },
    /// Of all nodes.
    ListConnections,
    /// Of all nodes.
    ListChannels,
    ListUsers,
    ListVhosts,
    ListPermissions {
        vhost: String,
    },
    ListUserPermissions {
        user: String,
    },
    AddUser {
        user: String,
        password: Secret,
        /// The password is a hash: salt and digest in base64, of an algorithm that their length tells.
        #[serde(default)]
        hashed: bool,
    },
    ChangePassword {
        user: String,
        password: Secret,
        #[serde(default)]
        hashed: bool,
    },
    AuthenticateUser {
        user: String,
        password: Secret,
    },
    DeleteUser {
        user: String,
    },
    SetUserTags {
        user: String,
        tags: Vec<String>,
    },
    SetPermissions {
        vhost: String,
        user: String,
        configure: String,
        write: String,
        read: String,
    },
    ClearPermissions {
        vhost: String,
        user: String,
    },
    AddVhost {
        vhost: String,
        #[serde(default)]
        description: String,
        #[serde(default)]
        tags: Vec<String>,
        /// `classic`, `quorum`, `stream`, or empty for the node's default.
        #[serde(default)]
        default_queue_type: String,
    },
    DeleteVhost {
        vhost: String,
    },
    AddMember {
        vhost: String,
        queue: String,
        node: String,
    },
    DeleteMember {
        vhost: String,
        queue: String,
        node: String,
    },
    TransferLeadership {
        vhost: String,
        queue: String,
        node: String,
    },
    Grow {
        node: String,
        growth: Growth,
        /// Regular expressions over names.
        vhost_pattern: String,
        queue_pattern: String,
    },
    Shrink {
        node: String,
        /// Only the rows of those that could not be.
        #[serde(default)]
        errors_only: bool,
    },
    Rebalance {
        kind: QueueKind,
        /// Regular expressions over names.
        vhost_pattern: String,
        queue_pattern: String,
    },
    /// Of the node that is asked.
    Drain,
    Revive,
    CheckQuorum,
    /// A new node, or somebody for it, asks to be part of the cluster.
    JoinCluster {
        name: String,
        /// Where others reach it.
        address: String,
        /// The first run that had its data directory; 0: still to be found out.
        directory: u64,
        /// The nodes that it knows of.
        seeds: Vec<MemberRow>,
    },
    ForgetClusterNode {
        node: String,
    },
    /// A queue that lost the majority of its replicas goes on with the one on the node that is asked.
    ForceShrink {
        vhost: String,
        queue: String,
    },
    PurgeQueue {
        vhost: String,
        queue: String,
    },
    DeleteQueue {
        vhost: String,
        queue: String,
        if_unused: bool,
        if_empty: bool,
    },
    SetPolicy {
        vhost: String,
        name: String,
        /// Of an operator.
        operator: bool,
        pattern: String,
        apply_to: String,
        priority: i64,
        /// A JSON object.
        definition: String,
    },
    ClearPolicy {
        vhost: String,
        name: String,
        operator: bool,
    },
    ListPolicies {
        vhost: String,
        operator: bool,
    },
    /// Replaces all limits of the vhost.
    SetVhostLimits {
        vhost: String,
        /// A JSON object; an empty one clears them.
        limits: String,
    },
    ListVhostLimits {
        /// Of all vhosts if none is named.
        vhost: Option<String>,
    },
    /// Adds to the limits of the user.
    SetUserLimits {
        user: String,
        /// A JSON object.
        limits: String,
    },
    ClearUserLimits {
        user: String,
        /// `all`, or one.
        limit: String,
    },
    ListUserLimits {
        /// Of all users if none is named.
        user: Option<String>,
    },
    SetTopicPermissions {
        vhost: String,
        user: String,
        exchange: String,
        write: String,
        read: String,
    },
    ClearTopicPermissions {
        vhost: String,
        user: String,
        /// Those for all exchanges if none is named.
        exchange: Option<String>,
    },
    ListTopicPermissions {
        vhost: String,
    },
    ListUserTopicPermissions {
        user: String,
    },
    /// Replaces what is named of what the vhost says about itself.
    UpdateVhost {
        vhost: String,
        description: Option<String>,
        tags: Option<Vec<String>>,
        default_queue_type: Option<String>,
        #[serde(default)]
        protected: Option<bool>,
    },
    SetParameter {
        /// Vhost and component are empty for a parameter of the whole cluster.
        vhost: String,
        component: String,
        name: String,
        /// JSON.
        value: String,
    },
    ClearParameter {
        vhost: String,
        component: String,
        name: String,
    },
    ListParameters {
        /// Empty: those of the whole cluster.
        vhost: String,
    },
    CloseConnection {
        pid: String,
        reason: String,
    },
    /// Of all vhosts and users unless one is named.
    CloseConnections {
        vhost: Option<String>,
        user: Option<String>,
        reason: String,
    },
    /// Rows are pieces of one JSON document, as strings.
    ExportDefinitions {
        /// Of the whole cluster if none is named.
        vhost: Option<String>,
    },
    ImportDefinitions {
        /// Where to put what names no vhost.
        vhost: Option<String>,
        /// A JSON document.
        definitions: String,
    },
}

/// A node and where others reach it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct MemberRow {
    pub name: String,
    pub address: String,
}

/// What a node needs to know that has joined.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct JoinedRow {
    pub cluster_id: String,
    /// The decision by which it has joined; the greatest number if it was part of the cluster before.
    pub era: u64,
    /// The decision by which the cluster went on without a majority; 0: there was none.
    pub reformed: u64,
    pub members: Vec<MemberRow>,
}

/// Which queues grow.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Growth {
    All,
    /// Those with an even number of replicas.
    Even,
}

/// Queues by their declared type.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum QueueKind {
    All,
    Quorum,
    Classic,
    Stream,
}

impl QueueKind {
    pub(super) fn holds(self, kind: crate::metadata::Kind) -> bool {
        use crate::metadata::Kind;
        match self {
            Self::All => true,
            Self::Quorum => kind == Kind::Quorum,
            Self::Classic => kind == Kind::Classic,
            Self::Stream => kind == Kind::Stream,
        }
    }
}

/// One kind of row. Its fields' names are the columns that can be asked for, in the order of the fields.
pub trait Row: Default + Serialize + DeserializeOwned {
    fn columns() -> Vec<String> {
        match serde_json::to_value(Self::default()) {
            Ok(Value::Object(fields)) => fields.into_iter().map(|(name, _)| name).collect(),
            _ => Vec::new(),
        }
    }
}

macro_rules! rows {
    ($($row:ty),+ $(,)?) => { $(impl Row for $row {})+ };
}

rows!(
    QueueRow,
    ExchangeRow,
    BindingRow,
    ConsumerRow,
    ConnectionRow,
    ChannelRow,
    UserRow,
    VhostRow,
    PermissionRow
);
rows!(
    PolicyRow,
    VhostLimitsRow,
    UserLimitsRow,
    TopicPermissionRow,
    ParameterRow,
    ImportedRow
);
rows!(
    ReplicaRow,
    StatusRow,
    ClusterStatusRow,
    DeletedRow,
    FeatureFlag,
    CertificateRow,
    MoveRow,
    BalanceRow,
    JoinedRow
);

/// Text that has no value here (no policy, no owner) is empty.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct QueueRow {
    pub name: String,
    pub durable: bool,
    pub auto_delete: bool,
    pub exclusive: bool,
    pub arguments: Arguments,
    /// `classic`, `quorum` or `stream`, as it was declared.
    pub r#type: String,
    pub policy: String,
    pub operator_policy: String,
    pub effective_policy_definition: Map<String, Value>,
    /// Which group or transient queue it is: `<node.id>`.
    pub pid: String,
    /// The connection that an exclusive queue belongs to.
    pub owner_pid: String,
    pub messages_ready: u64,
    pub messages_unacknowledged: u64,
    /// What came back and rests before it is ready again.
    pub messages_delayed: u64,
    /// Dead letters on their way to their exchange.
    pub messages_dlx: u64,
    /// The sum of the four.
    pub messages: u64,
    pub message_bytes: u64,
    pub consumers: u64,
    /// Bytes that the leader's machine keeps for it, bodies left out.
    pub memory: u64,
    /// `running`, `minority` (no leader can be elected), or `down`.
    pub state: String,
    /// A node's name; empty while there is none.
    pub leader: String,
    pub members: Vec<String>,
    pub online: Vec<String>,
}

impl QueueRow {
    /// The columns that only the queue's leader knows.
    pub const ASKED_OF_LEADER: [&str; 8] = [
        "messages_ready",
        "messages_unacknowledged",
        "messages_delayed",
        "messages_dlx",
        "messages",
        "message_bytes",
        "consumers",
        "memory",
    ];

    /// Whether a request with these columns has to ask the queues' leaders.
    pub fn asks_leaders(columns: &[String]) -> bool {
        columns
            .iter()
            .any(|column| Self::ASKED_OF_LEADER.contains(&column.as_str()))
    }
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ExchangeRow {
    /// Empty for the default exchange.
    pub name: String,
    pub r#type: String,
    pub durable: bool,
    pub auto_delete: bool,
    pub internal: bool,
    pub arguments: Arguments,
    pub policy: String,
    /// What an `x-delayed-message` exchange holds back; others have none.
    pub messages_delayed: Option<u64>,
}

/// The bindings of the default exchange are rows too.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BindingRow {
    pub source_name: String,
    /// `exchange`.
    pub source_kind: String,
    pub destination_name: String,
    /// `queue` or `exchange`.
    pub destination_kind: String,
    pub routing_key: String,
    pub arguments: Arguments,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConsumerRow {
    pub queue_name: String,
    pub channel_pid: String,
    pub consumer_tag: String,
    pub ack_required: bool,
    pub prefetch_count: u64,
    pub active: bool,
    /// `up`, `waiting` behind a single active consumer, or `suspected_down`.
    pub activity_status: String,
    pub arguments: Arguments,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ConnectionRow {
    /// `<node.session>`: also what channels and queues refer to.
    pub pid: String,
    /// `peer_host:peer_port -> host:port`.
    pub name: String,
    /// The node that serves it.
    pub node: String,
    pub host: String,
    pub port: u16,
    pub peer_host: String,
    pub peer_port: u16,
    pub user: String,
    pub vhost: String,
    /// `running`, `blocking`, `blocked`, `flow`, `opening` or `closing`.
    pub state: String,
    pub channels: u64,
    /// `{0,9,1}`.
    pub protocol: String,
    pub auth_mechanism: String,
    /// Whether it came by TLS; the next four say how, and are empty without.
    pub ssl: bool,
    /// `tlsv1.2` or `tlsv1.3`.
    pub ssl_protocol: String,
    /// `ecdhe_rsa`, `ecdhe_ecdsa`, or `any` where the cipher suite does not say.
    pub ssl_key_exchange: String,
    /// As `aes_256_gcm`.
    pub ssl_cipher: String,
    pub ssl_hash: String,
    /// Of the client's certificate, if it showed one: its name as RFC 4514 writes it.
    pub peer_cert_subject: String,
    pub peer_cert_issuer: String,
    /// `2026-01-01T00:00:00Z - 2027-01-01T00:00:00Z`.
    pub peer_cert_validity: String,
    /// Of heartbeats, in seconds.
    pub timeout: u64,
    pub frame_max: u64,
    pub channel_max: u64,
    pub client_properties: Arguments,
    /// In milliseconds since 1970.
    pub connected_at: u64,
    pub recv_oct: u64,
    pub recv_cnt: u64,
    pub send_oct: u64,
    pub send_cnt: u64,
    pub send_pend: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ChannelRow {
    /// `<node.session.number>`.
    pub pid: String,
    /// The connection's pid.
    pub connection: String,
    /// `peer_host:peer_port -> host:port (number)`.
    pub name: String,
    pub number: u16,
    pub user: String,
    pub vhost: String,
    pub transactional: bool,
    pub confirm: bool,
    pub consumer_count: u64,
    pub messages_unacknowledged: u64,
    pub messages_uncommitted: u64,
    pub acks_uncommitted: u64,
    pub messages_unconfirmed: u64,
    pub prefetch_count: u64,
    pub global_prefetch_count: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct UserRow {
    pub user: String,
    pub tags: Vec<String>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct VhostRow {
    pub name: String,
    pub description: String,
    pub tags: Vec<String>,
    pub default_queue_type: String,
    pub protected_from_deletion: bool,
}

/// Of a vhost's users, or of a user's vhosts.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct PermissionRow {
    pub user: String,
    pub vhost: String,
    pub configure: String,
    pub write: String,
    pub read: String,
}

/// One replica of a durable queue, with rabbitmq-queues' headings. A replica whose node does not answer has the state
/// `noproc` and no numbers.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ReplicaRow {
    #[serde(rename = "Node Name")]
    pub node: String,
    /// `leader`, `follower`, `candidate` or `noproc`.
    #[serde(rename = "Raft State")]
    pub state: String,
    /// `voter` or `non_voter`.
    #[serde(rename = "Membership")]
    pub membership: String,
    #[serde(rename = "Last Log Index")]
    pub last_log: Option<u64>,
    #[serde(rename = "Last Written")]
    pub last_written: Option<u64>,
    #[serde(rename = "Last Applied")]
    pub last_applied: Option<u64>,
    #[serde(rename = "Commit Index")]
    pub commit: Option<u64>,
    /// -1 before the first snapshot.
    #[serde(rename = "Snapshot Index")]
    pub snapshot: Option<i64>,
    #[serde(rename = "Term")]
    pub term: Option<u64>,
    #[serde(rename = "Machine Version")]
    pub version: Option<u64>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct StatusRow {
    /// The node's name.
    pub node: String,
    pub product_name: String,
    pub product_version: String,
    pub pid: u64,
    pub os: String,
    /// In seconds.
    pub uptime: u64,
    pub data_directory: String,
    pub alarms: Vec<String>,
    pub listeners: Vec<Listener>,
    /// Resident, in bytes.
    pub memory_used: u64,
    pub vm_memory_high_watermark_limit: u64,
    pub disk_free: u64,
    pub disk_free_limit: u64,
    pub totals: Totals,
}

/// Connections of this node; queues and vhosts of the cluster.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Totals {
    pub connection_count: u64,
    pub queue_count: u64,
    pub virtual_host_count: u64,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Listener {
    pub node: String,
    /// `amqp`, `amqp/ssl` or `clustering`.
    pub protocol: String,
    pub interface: String,
    pub port: u16,
    pub purpose: String,
}

/// Maps go by node name.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct ClusterStatusRow {
    /// The node that answers.
    pub node: String,
    pub cluster_name: String,
    /// All members.
    pub disk_nodes: Vec<String>,
    /// The members that the answering node hears, itself included.
    pub running_nodes: Vec<String>,
    pub alarms: Vec<String>,
    pub cluster_tags: Vec<String>,
    /// Members that the answering node does not hear, under its name.
    pub partitions: BTreeMap<String, Vec<String>>,
    pub maintenance_status: BTreeMap<String, String>,
    pub listeners: BTreeMap<String, Vec<Listener>>,
    pub versions: BTreeMap<String, Version>,
    pub cpu_cores: BTreeMap<String, u64>,
    pub feature_flags: Vec<FeatureFlag>,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct Version {
    pub product_name: String,
    pub product_version: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct FeatureFlag {
    pub name: String,
    /// `enabled` or `disabled`.
    pub state: String,
}

#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct DeletedRow {
    /// Ready messages that went with the queue.
    pub messages: u64,
}

/// A certificate in use.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct CertificateRow {
    pub file: String,
    pub subject: String,
    /// `2026-01-01T00:00:00Z - 2027-01-01T00:00:00Z`.
    pub validity: String,
    /// Seconds until it is no longer valid; negative afterwards.
    pub expires_in: i64,
}

/// What became of a queue that was to have other replicas.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct MoveRow {
    pub vhost: String,
    pub name: String,
    /// How many replicas it shall have.
    pub size: u64,
    /// `ok`, or `error: ` and why.
    pub result: String,
}

/// How many queues a node leads.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default)]
pub struct BalanceRow {
    #[serde(rename = "Node name")]
    pub node: String,
    #[serde(rename = "Number of quorum queues")]
    pub quorum: u64,
    #[serde(rename = "Number of replicated classic queues")]
    pub classic: u64,
    #[serde(rename = "Number of streams")]
    pub stream: u64,
}

/// A field table: `[["x-max-length","long",5],...]`, as rabbitmqctl writes one in JSON.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(transparent)]
pub struct Arguments(pub Vec<Argument>);

/// A field's name, the name of its type, and its value.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct Argument(pub String, pub String, pub Value);

impl From<&Table> for Arguments {
    fn from(table: &Table) -> Self {
        let argument = |(name, field): &(ShortStr, Field)| {
            let (kind, value) = typed(field);
            Argument(name.to_string(), kind.to_owned(), value)
        };
        Self(table.iter().map(argument).collect())
    }
}

/// RabbitMQ's name for the type, and the value in JSON. Bytes that are not text show as U+FFFD.
fn typed(field: &Field) -> (&'static str, Value) {
    match field {
        Field::Bool(value) => ("bool", json!(value)),
        Field::I8(value) => ("byte", json!(value)),
        Field::U8(value) => ("unsignedbyte", json!(value)),
        Field::I16(value) => ("short", json!(value)),
        Field::U16(value) => ("unsignedshort", json!(value)),
        Field::I32(value) => ("signedint", json!(value)),
        Field::U32(value) => ("unsignedint", json!(value)),
        Field::I64(value) => ("long", json!(value)),
        Field::F32(value) => ("float", json!(value)),
        Field::F64(value) => ("double", json!(value)),
        Field::Decimal { scale, value } => ("decimal", json!([scale, value])),
        Field::LongStr(bytes) => ("longstr", json!(String::from_utf8_lossy(bytes))),
        Field::ByteArray(bytes) => ("binary", json!(String::from_utf8_lossy(bytes))),
        Field::Timestamp(seconds) => ("timestamp", json!(seconds)),
        Field::Void => ("void", Value::Null),
        Field::Array(items) => ("array", items.iter().map(|item| json!(typed(item))).collect()),
        Field::Table(table) => ("table", json!(Arguments::from(table))),
    }
}
