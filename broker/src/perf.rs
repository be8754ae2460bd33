//! A load generator for any AMQP 0-9-1 broker: `warren-perf`.
//!
//! It is to cost much less per message than the broker it measures, so it has a client of its own: publishes are
//! encoded once and only stamped again, frames are looked at where they were read, and what must be exact but is rare
//! (declaring, errors) goes through [`crate::amqp`] like everything else.
//!
//! ```text
//! options -> run: declares, starts one task and one connection per publisher and per consumer
//!              publisher --(stamp in the body)--> broker --> consumer
//!              each counts into its own Meter; run reads them every second and at the end -> report
//! ```
//!
//! It knows nothing of Warren: nothing here goes beyond the protocol and what RabbitMQ documents of it.

use std::io;

use crate::amqp::{frame, method};

mod connection;
mod consumer;
mod latency;
mod meter;
pub mod options;
mod pace;
mod process;
mod publisher;
pub mod report;
pub mod run;
pub mod uri;
mod window;
mod wire;

#[cfg(test)]
mod tests;

pub use options::Options;
pub use report::Report;
pub use run::run;

/// Why there is no result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{0}")]
    Usage(String),
    #[error("cannot connect to {address}: {source}")]
    Connect { address: String, source: io::Error },
    #[error("{address} does not answer within {seconds} s")]
    Silent { address: String, seconds: u64 },
    #[error("connection lost: {0}")]
    Io(#[from] io::Error),
    #[error("the server closed the connection without a word")]
    Closed,
    #[error("the server speaks another protocol: it offers {0:02x?}")]
    Protocol(Vec<u8>),
    #[error("the server sent a frame that cannot be read: {0}")]
    Frame(#[from] frame::Error),
    #[error("the server sent a method that cannot be read: {0}")]
    Method(#[from] method::Error),
    #[error("the server sent {0} out of turn")]
    Unexpected(&'static str),
    #[error("the server closed the connection: {code} {text}")]
    ConnectionClosed { code: u16, text: String },
    #[error("the server closed the channel: {code} {text}")]
    ChannelClosed { code: u16, text: String },
    #[error("the server cancelled consumer {0}")]
    Cancelled(String),
    #[error("nothing moved for {seconds} s: {waiting}")]
    Stalled { seconds: u64, waiting: String },
    #[error("a task of the load generator ended early: {0}")]
    Task(String),
}
