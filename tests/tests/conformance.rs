//! What any AMQP 0-9-1 client sees, down to the reply texts, asked over raw sockets.
//!
//! `WARREN_TEST_AMQP` names the brokers (`host:port,host:port,host:port`); cases use the first one and, where it matters,
//! publish through one node and consume through another.
//! `WARREN_TEST_CTL` is the operator's command line (`warrenctl --node ...`), needed by the cases that make users,
//! policies and limits, or look at what only listings show.
//! With `WARREN_TEST_APART=1` what a case uses is led by another node than the one it talks to.
//! With `WARREN_TEST_PEER=rabbitmq` the same cases run against a real RabbitMQ 4.3; where we differ on purpose,
//! `differences.md` says so, and the case expects what it says. That RabbitMQ must permit `transient_nonexcl_queues` and `global_qos`.

#[path = "conformance/accounts.rs"]
mod accounts;
#[path = "conformance/acknowledgements.rs"]
mod acknowledgements;
#[path = "conformance/argument_types.rs"]
mod argument_types;
#[path = "conformance/arguments.rs"]
mod arguments;
#[path = "conformance/case.rs"]
mod case;
#[path = "conformance/channels.rs"]
mod channels;
#[path = "conformance/confirms.rs"]
mod confirms;
#[path = "conformance/consumers.rs"]
mod consumers;
#[path = "conformance/content.rs"]
mod content;
#[path = "conformance/dead_letters.rs"]
mod dead_letters;
#[path = "conformance/definitions.rs"]
mod definitions;
#[path = "conformance/delays.rs"]
mod delays;
#[path = "conformance/differences.rs"]
mod differences;
#[path = "conformance/direct_reply.rs"]
mod direct_reply;
#[path = "conformance/duplicates.rs"]
mod duplicates;
#[path = "conformance/exchanges.rs"]
mod exchanges;
#[path = "conformance/expiry.rs"]
mod expiry;
#[path = "conformance/framing.rs"]
mod framing;
#[path = "conformance/hashing.rs"]
mod hashing;
#[path = "conformance/limits.rs"]
mod limits;
#[path = "conformance/negotiation.rs"]
mod negotiation;
#[path = "conformance/policies.rs"]
mod policies;
#[path = "conformance/policy_rules.rs"]
mod policy_rules;
#[path = "conformance/priorities.rs"]
mod priorities;
#[path = "conformance/queues.rs"]
mod queues;
#[path = "conformance/quotas.rs"]
mod quotas;
#[path = "conformance/retries.rs"]
mod retries;
#[path = "conformance/rights.rs"]
mod rights;
#[path = "conformance/routing.rs"]
mod routing;
#[path = "conformance/single_active.rs"]
mod single_active;
#[path = "conformance/stream_retention.rs"]
mod stream_retention;
#[path = "conformance/streams.rs"]
mod streams;
#[path = "conformance/timeouts.rs"]
mod timeouts;
#[path = "conformance/topology.rs"]
mod topology;
#[path = "conformance/transactions.rs"]
mod transactions;
