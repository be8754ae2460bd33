//! Replicated groups: Raft, the log in RocksDB, and the links between nodes.
//!
//! This crate knows nothing of AMQP, queues or exchanges: a group replicates opaque bytes into a
//! [`machine::Machine`], and envelopes carry opaque bytes to mailboxes.

pub mod group;
pub mod liveness;
pub mod log;
pub mod machine;
pub mod tls;
pub mod transport;
pub mod version;

/// A node of the cluster. Never 0.
pub type NodeId = u64;
/// A replicated group. Never reused.
pub type GroupId = u64;
