//! An AMQP 0-9-1 broker whose durable queues are Raft groups.
//!
//! This crate knows nothing of raft-rs, RocksDB or tonic: groups, logs and links are `warren_cluster`'s.

pub mod admin;
pub mod alarms;
pub mod amqp;
pub mod auth;
pub mod boot;
pub mod channel;
mod clock;
pub mod config;
pub mod connection;
pub mod ctl;
pub mod data_dir;
pub mod direct_reply;
pub mod directory;
pub mod exchange;
pub mod fatal;
pub mod joining;
pub mod json;
pub mod listener;
pub mod log_line;
pub mod mailbox;
pub mod message;
pub mod metadata;
pub mod name;
pub mod node;
pub mod perf;
pub mod queue;
pub mod recovery;
pub mod renewal;
