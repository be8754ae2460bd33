//! What the suites share: a raw AMQP client, a client for brokers that die, clusters of real processes.

pub mod amqp;
pub mod client;
pub mod cluster;
