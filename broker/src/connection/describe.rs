//! Connections and channels as operators see them.

use std::net::SocketAddr;

use warren_proto::record::SessionId;

use super::tls::Agreed;
use crate::amqp::Table;
use crate::name::{UserName, VhostName};

/// One connection with its channels.
#[derive(Clone, Debug)]
pub struct Description {
    /// The connection.
    pub connection: ConnectionInfo,
    /// Its channels by number.
    pub channels: Vec<ChannelInfo>,
}

/// A row of `list_connections`; the fields carry RabbitMQ's column names where there is one.
#[derive(Clone, Debug)]
pub struct ConnectionInfo {
    /// Its identity in the cluster.
    pub session: SessionId,
    /// `peer -> local`.
    pub name: String,
    /// The node that it is connected to.
    pub node: String,
    /// Empty before login.
    pub user: UserName,
    /// Empty before connection.open.
    pub vhost: VhostName,
    /// The client's address.
    pub peer: SocketAddr,
    /// This node's address.
    pub local: SocketAddr,
    /// `starting`, `tuning`, `opening`, `running`, `blocked`, `closing` or `closed`.
    pub state: &'static str,
    /// Open channels.
    pub channels: u32,
    /// Always `AMQP 0-9-1`.
    pub protocol: &'static str,
    /// The SASL mechanism that was used.
    pub auth_mechanism: &'static str,
    /// `None`: a connection without TLS.
    pub tls: Option<Agreed>,
    /// Heartbeat interval; 0: none.
    pub timeout_s: u16,
    /// As negotiated.
    pub frame_max: u32,
    /// As negotiated.
    pub channel_max: u16,
    /// As the client sent them.
    pub client_properties: Table,
    /// Bytes received.
    pub recv_oct: u64,
    /// Frames received.
    pub recv_cnt: u64,
    /// Bytes sent.
    pub send_oct: u64,
    /// Writes.
    pub send_cnt: u64,
    /// Bytes that wait for the socket.
    pub send_pend: u64,
    /// Bytes of commands that queues have not applied.
    pub unapplied_bytes: u64,
    /// Commands that queues have not applied.
    pub unapplied_commands: u64,
    /// Whether the socket is being read; else the client is being held back.
    pub reading: bool,
    /// Since 1970.
    pub connected_at_ms: u64,
}

/// A row of `list_channels`; the fields carry RabbitMQ's column names where there is one.
#[derive(Clone, Debug)]
pub struct ChannelInfo {
    /// Its number on the connection.
    pub number: u16,
    /// Consumers that it has.
    pub consumer_count: u32,
    /// Deliveries that were not settled.
    pub messages_unacknowledged: u64,
    /// Publishes that were not confirmed.
    pub messages_unconfirmed: u64,
    /// Whether it is in confirm mode.
    pub confirm: bool,
    /// Messages and settlements that wait for a commit, if it is in tx mode.
    pub transaction: Option<(u64, u64)>,
    /// basic.qos for consumers to come.
    pub prefetch_count: u16,
    /// Frames that wait for an answer to the one before.
    pub held_frames: u64,
}
