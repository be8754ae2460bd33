//! Links between nodes: envelopes of opaque bytes, snapshots, and the operator's calls.
//!
//! This layer knows nodes and mailboxes' numbers; what an envelope says is opaque to it.
//! Invariants:
//! - Nothing is delivered of a peer that did not prove that it knows the cluster secret.
//! - Envelopes of one peer arrive in the order they were sent. Each was delivered, or an
//!   [`Inbox::link_reset`] follows at both ends that are still there.
//! - Of a run that is `Dead`, nothing more is delivered.
//! - Everything is bounded: what waits for a link, what may arrive unproven, snapshots in flight.

mod admin;
mod greeting;
mod grpc;
mod handshake;
mod link;
mod listener;
mod queue;
mod secure;
mod snapshot;
mod standing;

use std::collections::BTreeMap;
use std::fmt;
use std::net::SocketAddr;

use bytes::Bytes;

pub use self::admin::{AdminAnswer, AdminError, AdminGone, AdminHandler, AdminRows, admin_call};
pub use self::grpc::{GrpcTransport, Handle};
pub use self::standing::{Membership, Met, Side, Standing};
pub use crate::liveness::PeerState;
use crate::tls::Credentials;
use crate::version::Versions;
use crate::{GroupId, NodeId};
pub use warren_proto::transport::{LogEntry, SnapshotEnd};

/// The largest payload of one envelope and the largest part of a snapshot, in bytes:
/// a message of 512 MiB, the largest that a client may publish, with room around it.
pub const PAYLOAD_LEN_MAX: usize = 600 << 20;

/// This node, as it introduces itself.
#[derive(Clone, Debug)]
pub struct Identity {
    /// The same on all nodes of the cluster.
    pub cluster: String,
    /// This node's name, unique in the cluster.
    pub name: String,
    /// This node's id, unique in the cluster. Never 0.
    pub node: NodeId,
    /// Grows with every start of this node.
    pub incarnation: u64,
    /// The first run that had this node's data directory; 0: not known.
    pub directory: u64,
    /// Where its peers reach it, `host:port`; empty: not known.
    pub address: String,
    /// What it tells others of its cluster.
    pub membership: Membership,
    /// Which entries it applies, and which its cluster has agreed on: a peer that does not apply those is refused.
    pub versions: Versions,
    /// What all nodes of the cluster know, and nobody else.
    pub secret: Secret,
}

/// The cluster secret. Never shown, never sent.
///
/// A handshake can be recorded and guessed at without end by whoever can connect, so it wants to be
/// random and long (32 random bytes), not a password.
#[derive(Clone)]
pub struct Secret(Bytes);

impl Secret {
    /// Takes the bytes as they are.
    pub fn new(bytes: impl Into<Bytes>) -> Self {
        Self(bytes.into())
    }

    pub(crate) fn expose(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("Secret")
    }
}

/// Another node of the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Peer {
    /// Its id.
    pub node: NodeId,
    /// Its name.
    pub name: String,
    /// `host:port`; the host is looked up again at each connect.
    pub address: String,
}

/// Which kind of mailbox an envelope is for. Opaque to this layer.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Port(pub u32);

impl Port {
    /// A Raft message for a group's replica.
    pub const RAFT: Self = Self(1);
    /// A batch for a queue's leader.
    pub const QUEUE: Self = Self(2);
    /// Events for a session.
    pub const SESSION: Self = Self(3);
    /// A session's question to a new leader.
    pub const RESYNC: Self = Self(4);
    /// A change of metadata, or its outcome.
    pub const METADATA: Self = Self(5);
    /// What concerns a node as a whole.
    pub const NODE: Self = Self(6);
}

/// Opaque bytes for one mailbox of another node.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Envelope {
    /// The kind of mailbox.
    pub port: Port,
    /// Which of them.
    pub to: u64,
    /// At most [`PAYLOAD_LEN_MAX`] bytes. On arrival it may be a slice of a buffer of about a MiB:
    /// copy what is kept for long.
    pub payload: Bytes,
}

/// Where arriving envelopes and news about peers go.
///
/// All but [`Inbox::snapshot_begin`] are called on the transport's own thread, one at a time, and must return
/// at once without waiting: liveness of all peers is measured on the same thread.
pub trait Inbox: Send + Sync + 'static {
    /// An envelope of a peer that proved itself. What the inbox cannot take, it drops.
    fn deliver(&self, from: NodeId, envelope: Envelope);

    /// The peer's state changed. Said for the first time when it first proved itself.
    /// A newer run is told as `Dead` of the one before, then `link_reset`, then `Up`.
    fn peer_changed(&self, node: NodeId, state: PeerState);

    /// Envelopes to or from that node may have been lost. Those accepted by [`Transport::send`] after this
    /// call will arrive in order, or another call follows, at either end: each hears of it when its stream ends, and
    /// the receiver once more when the next one opens, because the sender may have been the last to notice.
    fn link_reset(&self, node: NodeId);

    /// The link to that node has opened, or has room again after a send was refused as full.
    fn link_writable(&self, _node: NodeId) {}

    /// A peer that proved itself says that the cluster has removed this node for good.
    fn forgotten(&self, _reason: String) {}

    /// Another node has proved itself over a link, be it a peer or not, and says this of its cluster and this node's part
    /// in it. Called for each stream that it opens or answers.
    fn met(&self, _met: Met) {}

    /// A peer offers a snapshot. Called, like the sink's methods, on a thread that may block.
    fn snapshot_begin(&self, from: NodeId, offer: SnapshotOffer) -> Result<Box<dyn SnapshotSink>, Refused>;
}

/// Sends to other nodes. Never waits.
pub trait Transport: Send + Sync {
    /// Queues the envelope for that node. While there is no link, little is accepted.
    fn send(&self, to: NodeId, envelope: Envelope) -> Result<(), SendError>;

    /// All peers that ever proved themselves to this run, by id.
    fn peers(&self) -> Vec<(NodeId, PeerState)>;

    /// From now on the peers are these: links to others end, those to peers that are as before go on.
    fn set_peers(&self, _peers: Vec<Peer>) {}

    /// From now on these nodes are told that they are removed for good, if their data directory is of that run or an
    /// earlier one.
    fn set_forgotten(&self, _forgotten: BTreeMap<NodeId, u64>) {}

    /// Starts to send a snapshot; its outcome goes to [`OutgoingSnapshot::done`].
    fn send_snapshot(&self, to: NodeId, snapshot: OutgoingSnapshot);
}

/// An envelope that was not taken, handed back.
#[derive(Debug, thiserror::Error)]
pub enum SendError {
    /// Too much waits for the link, or there is none. [`Inbox::link_writable`] tells when to retry.
    #[error("too much waits for the link already")]
    Full(Envelope),
    /// Longer than [`PAYLOAD_LEN_MAX`]: never to be retried.
    #[error("an envelope's payload is longer than {PAYLOAD_LEN_MAX} bytes")]
    TooLong(Envelope),
    /// No such node is configured, or it is this one.
    #[error("no such peer")]
    NoPeer(Envelope),
}

impl SendError {
    /// The envelope that was not taken.
    pub fn into_envelope(self) -> Envelope {
        match self {
            Self::Full(envelope) | Self::TooLong(envelope) | Self::NoPeer(envelope) => envelope,
        }
    }
}

/// Any failure of a snapshot's source or sink.
pub type BoxError = Box<dyn std::error::Error + Send + Sync>;

/// One piece of a snapshot. Parts arrive as they were sent, in order.
#[derive(Clone, Debug, PartialEq)]
pub enum SnapshotPart {
    /// A chunk of the machine's state.
    State(Bytes),
    /// Log entries that are still needed beside the state.
    Entries(Vec<LogEntry>),
}

/// What a snapshot is said to be before its parts come.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SnapshotOffer {
    /// The group.
    pub group: GroupId,
    /// The Raft message that announces it, opaque here.
    pub message: Bytes,
}

/// A snapshot to send. Its parts are made on a thread that may block, one at a time, as the peer takes them.
pub struct OutgoingSnapshot {
    /// The group.
    pub group: GroupId,
    /// The Raft message that announces it, opaque here.
    pub message: Bytes,
    /// The parts in order; an error aborts the transfer.
    pub chunks: Box<dyn Iterator<Item = Result<SnapshotPart, BoxError>> + Send>,
    /// Called once, on any thread, and must not wait. `Ok`: the peer's sink finished.
    pub done: Box<dyn FnOnce(Result<(), SnapshotError>) + Send>,
}

/// Where an arriving snapshot goes. All methods may block.
///
/// A sink that is dropped before `finish` was aborted, and discards what it staged.
pub trait SnapshotSink: Send {
    /// The next chunk of the machine's state.
    fn state(&mut self, chunk: Bytes) -> Result<(), BoxError>;

    /// The next log entries.
    fn entries(&mut self, entries: Vec<LogEntry>) -> Result<(), BoxError>;

    /// All parts have come: `end` agrees with what was handed over. Once this returns `Ok`, the sender is told so.
    fn finish(self: Box<Self>, end: SnapshotEnd) -> Result<(), BoxError>;
}

/// Why an inbox does not want a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Refused(pub String);

/// Why a snapshot was not installed.
#[derive(Debug, thiserror::Error)]
pub enum SnapshotError {
    /// Too many wait already, here or there. Retry later.
    #[error("too many snapshots are under way")]
    Busy,
    /// No such node is configured.
    #[error("no such peer")]
    NoPeer,
    /// The peer could not be reached, or the stream broke. Retry later; the peer may have installed it.
    #[error("the stream to node {0} broke: {1}")]
    Broken(String, String),
    /// Nothing moved for a long time.
    #[error("node {0} took nothing for {1} s")]
    Stalled(String, u64),
    /// The peer refused it or failed to take it.
    #[error("node {0} refused it: {1}")]
    Refused(String, String),
    /// Its source failed.
    #[error("its source failed: {0}")]
    Source(BoxError),
    /// The transport has been shut down.
    #[error("this node is shutting down")]
    ShutDown,
}

/// Bounds and times. The defaults fit a local network.
#[derive(Clone, Debug)]
pub struct Options {
    /// Without a byte from it for so long, a peer is silent.
    pub silence_ms: u64,
    /// An idle link says so often that its sender lives: well below the silence of all its peers.
    pub ping_ms: u64,
    /// Bytes that may wait for one link.
    pub queue_bytes_max: usize,
    /// Envelopes that may wait for one link.
    pub queue_len_max: usize,
    /// The first pause before a link is tried again. It doubles up to `backoff_max_ms`.
    pub backoff_min_ms: u64,
    /// The longest such pause.
    pub backoff_max_ms: u64,
    /// A handshake that takes longer is given up.
    pub handshake_ms: u64,
    /// Outgoing snapshots under way at once.
    pub snapshots_max: usize,
    /// Outgoing snapshots that may wait for their turn.
    pub snapshots_waiting_max: usize,
    /// A snapshot of which nothing moves for so long is given up.
    pub snapshot_stall_ms: u64,
    /// Operator's calls under way at once.
    pub admin_calls_max: usize,
    /// What this node shows its peers and verifies them by; `None`: no TLS.
    pub tls: Option<Credentials>,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            silence_ms: 1_000,
            ping_ms: 100,
            queue_bytes_max: 64 << 20,
            queue_len_max: 65_536,
            backoff_min_ms: 20,
            backoff_max_ms: 500,
            handshake_ms: 5_000,
            snapshots_max: 2,
            snapshots_waiting_max: 256,
            snapshot_stall_ms: 60_000,
            admin_calls_max: 16,
            tls: None,
        }
    }
}

impl Options {
    /// How long it takes at most until a peer is tried that can be reached again, in milliseconds, but for one that was
    /// lost in the midst of a greeting.
    pub fn retries_within_ms(&self) -> u64 {
        // A connection that is not accepted is given up after the silence.
        self.silence_ms.saturating_add(self.backoff_max_ms)
    }
}

/// What has passed over the link to and from one peer since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct LinkStats {
    /// The peer.
    pub node: NodeId,
    /// Whether envelopes flow to it now.
    pub open: bool,
    /// Envelopes that wait for the link.
    pub queued: u64,
    /// Bytes of payload that wait for the link.
    pub queued_bytes: u64,
    /// Envelopes handed to the link.
    pub sent: u64,
    /// Bytes of payload handed to the link.
    pub sent_bytes: u64,
    /// Envelopes refused because the queue was full.
    pub refused: u64,
    /// Envelopes delivered from the peer.
    pub received: u64,
    /// Bytes of payload delivered from the peer.
    pub received_bytes: u64,
    /// How often envelopes may have been lost.
    pub resets: u64,
}

/// Why the transport does not start.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Something listens there already, or the address is not this machine's.
    #[error("cannot listen for other nodes on {address}: {source}")]
    Listen {
        /// The address.
        address: SocketAddr,
        /// What the system said.
        source: std::io::Error,
    },
    /// Node ids begin with 1.
    #[error("node {0:?} has the id 0")]
    NoId(String),
    /// Two nodes share an id or a name.
    #[error("nodes {0:?} and {1:?} share an id or a name")]
    Duplicate(String, String),
    /// A peer's address is not `host:port`.
    #[error("the address of node {0:?} is not host:port: {1:?}")]
    Address(String, String),
    /// The secret is empty.
    #[error("the cluster secret is empty")]
    NoSecret,
    /// The transport's thread or runtime could not be made.
    #[error("cannot start the transport's thread: {0}")]
    Thread(std::io::Error),
}

#[cfg(test)]
mod tests;
