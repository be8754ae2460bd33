//! The bounds that hold for client connections.

use warren_cluster::NodeId;

use crate::auth::CertName;
use crate::metadata::Kind;

/// What connections may do and are offered.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Most channels of one connection.
    pub channel_max: u16,
    /// Most channels of all clients of the node; 0: no limit.
    pub channels_max: u64,
    /// Most consumers of one channel; 0: no limit.
    pub consumers_max: usize,
    /// Of a durable, shared queue that names no type, where its vhost names none either.
    pub default_queue_type: Kind,
    /// Most queues in the cluster with which one more is declared; 0: no limit.
    pub queues_max: u64,
    /// The same for exchanges, those among them that every vhost has.
    pub exchanges_max: u64,
    /// Largest frame, with its overhead.
    pub frame_max: u32,
    /// Proposed heartbeat in seconds.
    pub heartbeat_s: u16,
    /// Largest message body.
    pub message_size_max: u64,
    /// From accept to connection.open-ok.
    pub handshake_timeout_ms: u64,
    /// When a publish that no majority takes is refused, and a question that no leader answers given up.
    pub publish_timeout_ms: u64,
    /// How long a consumer of a quorum queue may hold a message, where neither says; 0: for ever.
    pub consumer_timeout_ms: u64,
    /// Bytes that queues have not applied; above it the socket is not read.
    pub unapplied_bytes_max: usize,
    /// Commands that queues have not applied; above it the socket is not read.
    pub unapplied_commands_max: u64,
    /// Bytes that the client does not take; above it the socket is not read.
    pub output_bytes_max: usize,
    /// Bytes of frames held by channels that wait; above it the socket is not read.
    pub held_bytes_max: usize,
    /// Bytes that the open transactions of a connection may hold.
    pub transaction_bytes_max: usize,
    /// Bytes of messages that have not come completely, over all channels; above it the connection is closed, for only
    /// more of them could complete them.
    pub unfinished_bytes_max: usize,
    /// Replicas of a new replicated queue that does not say.
    pub group_size: usize,
    /// The cluster's nodes as configured, whether they are known already or not.
    pub members: Vec<NodeId>,
    /// Users who may only connect from this machine.
    pub loopback_users: Vec<String>,
    /// Whom a client's certificate names.
    pub cert_name: CertName,
    /// For server-properties.
    pub cluster_name: String,
    /// For listings.
    pub node_name: String,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            channel_max: 2_047,
            channels_max: 0,
            consumers_max: 0,
            default_queue_type: Kind::Classic,
            queues_max: 0,
            exchanges_max: 0,
            frame_max: 131_072,
            heartbeat_s: 60,
            message_size_max: 16 << 20,
            handshake_timeout_ms: 10_000,
            publish_timeout_ms: 30_000,
            consumer_timeout_ms: 1_800_000,
            unapplied_bytes_max: 8 << 20,
            unapplied_commands_max: 8_192,
            output_bytes_max: 4 << 20,
            held_bytes_max: 4 << 20,
            transaction_bytes_max: 64 << 20,
            unfinished_bytes_max: 256 << 20,
            group_size: 3,
            members: Vec::new(),
            loopback_users: vec!["guest".to_owned()],
            cert_name: CertName::default(),
            cluster_name: "warren".to_owned(),
            node_name: "warren".to_owned(),
        }
    }
}
