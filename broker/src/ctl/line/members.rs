//! Commands about the cluster's nodes and the queues' replicas and leaders.

use clap::{Subcommand, ValueEnum};

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(in crate::ctl) enum GrowthWord {
    All,
    Even,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(in crate::ctl) enum KindWord {
    All,
    Quorum,
    Classic,
    Stream,
}

/// How a new replica begins.
#[derive(Clone, Copy, Debug, ValueEnum)]
#[value(rename_all = "snake_case")]
pub(in crate::ctl) enum MembershipWord {
    Promotable,
    Voter,
}

#[derive(Debug, Subcommand)]
#[command(rename_all = "snake_case")]
pub(in crate::ctl) enum Membership {
    /// Gives a queue a replica on a node
    AddMember {
        queue: String,
        member: String,
        /// Accepted: a new replica has a vote as soon as it has caught up
        #[arg(long, default_value = "promotable")]
        membership: MembershipWord,
    },
    /// Takes a queue's replica from a node
    DeleteMember { queue: String, member: String },
    /// Has a queue led from a node that has a replica of it
    TransferLeadership { queue: String, member: String },
    /// Gives queues a replica on a node
    Grow {
        member: String,
        /// All queues, or those with an even number of replicas
        growth: GrowthWord,
        /// Only in virtual hosts whose names match
        #[arg(long = "vhost-pattern", default_value = ".*")]
        vhost_pattern: String,
        /// Only queues whose names match
        #[arg(long = "queue-pattern", default_value = ".*")]
        queue_pattern: String,
        /// Accepted: a new replica has a vote as soon as it has caught up
        #[arg(long, default_value = "promotable")]
        membership: MembershipWord,
    },
    /// Takes all queues' replicas from a node
    Shrink {
        member: String,
        /// Shows only the queues for which that failed
        #[arg(long = "errors-only")]
        errors_only: bool,
    },
    /// Spreads the queues' leaders evenly over the nodes
    Rebalance {
        kind: KindWord,
        /// Only in virtual hosts whose names match
        #[arg(long = "vhost-pattern", default_value = ".*")]
        vhost_pattern: String,
        /// Only queues whose names match
        #[arg(long = "queue-pattern", default_value = ".*")]
        queue_pattern: String,
    },
    /// Has other nodes lead this node's queues and serve its clients, until revive or its next start
    Drain,
    /// Ends what drain began
    Revive,
    /// Makes this stopped, new node one of the cluster that the named node is in
    JoinCluster {
        /// A node of the cluster: HOST:PORT, NAME=HOST:PORT, or a name in cluster.seeds
        existing: String,
    },
    /// Removes a stopped node from the cluster, for good
    ForgetClusterNode {
        #[arg(value_name = "NODE")]
        member: String,
    },
    /// The cluster lost the majority of its nodes for good: this stopped node, and another one at most, go on without
    RecoverLostMajority {
        /// The nodes that go on, one or two; the command is to be given on each of them while it is stopped
        #[arg(long, value_delimiter = ',', required = true, value_name = "NODE,NODE")]
        survivors: Vec<String>,
        /// Do it; without this, only say what may be lost
        #[arg(long = "accept-loss")]
        accept_loss: bool,
    },
    /// Has a queue that lost the majority of its replicas go on with the one on this node
    ForceShrinkMemberToCurrentMember { queue: String },
    /// Whether a queue would lose its quorum without this node
    CheckIfNodeIsQuorumCritical,
    /// Waits until no queue would lose its quorum without this node
    AwaitOnlineQuorumPlusOne,
}
