//! What the suites share: a raw AMQP client and clusters of real processes.

pub mod amqp;
