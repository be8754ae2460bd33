//! Every format that crosses the wire between nodes or outlives a process.
//!
//! No IO and no async here. Persisted fields are only ever added.

pub mod record;

/// Generated from `schema/transport.proto`: links, snapshots, the operator's calls, replica state.
pub mod transport {
    #![allow(
        clippy::all,
        clippy::allow_attributes_without_reason,
        unreachable_pub,
        unused_qualifications,
        reason = "generated code"
    )]
    tonic::include_proto!("warren.transport");
}

/// Generated from `schema/queue.proto`: rare commands and replies of the queue machine.
pub mod queue {
    #![allow(
        clippy::all,
        clippy::allow_attributes_without_reason,
        unreachable_pub,
        reason = "generated code"
    )]
    tonic::include_proto!("warren.queue");
}

/// Generated from `schema/metadata.proto`: commands of the metadata machine.
pub mod metadata {
    #![allow(
        clippy::all,
        clippy::allow_attributes_without_reason,
        unreachable_pub,
        reason = "generated code"
    )]
    tonic::include_proto!("warren.metadata");
}

/// Generated from `schema/node.proto`: what nodes tell each other beside the message path.
pub mod node {
    #![allow(
        clippy::all,
        clippy::allow_attributes_without_reason,
        unreachable_pub,
        reason = "generated code"
    )]
    tonic::include_proto!("warren.node");
}
