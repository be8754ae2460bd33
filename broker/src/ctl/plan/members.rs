//! The plans of the commands about nodes, replicas and leaders, which are rabbitmqctl's, rabbitmq-queues' and
//! rabbitmq-upgrade's.

use super::super::line::{GrowthWord, KindWord, Membership, MembershipWord};
use super::{AWAIT_TIMEOUT_S, Exit, Plan};
use crate::admin::protocol::{BalanceRow, Growth, MoveRow, QueueKind, Request};

/// The plan for one of these commands, in the virtual host that the line named.
pub(super) fn plan(command: Membership, vhost: String) -> Result<Plan, Exit> {
    Ok(match command {
        Membership::AddMember {
            queue,
            member: node,
            membership: MembershipWord::Promotable | MembershipWord::Voter,
        } => {
            let banner = format!("Adding a member for queue {queue} on node {node}...");
            Plan::done(Request::AddMember { vhost, queue, node }, "").with_banner(banner)
        }
        Membership::DeleteMember { queue, member: node } => {
            let banner = format!("Removing a replica of queue {queue} on node {node}...");
            Plan::done(Request::DeleteMember { vhost, queue, node }, "").with_banner(banner)
        }
        Membership::TransferLeadership { queue, member: node } => {
            let banner = format!("Transferring leadership of queue {queue} to node {node}...");
            Plan::done(Request::TransferLeadership { vhost, queue, node }, "").with_banner(banner)
        }
        Membership::Grow {
            member: node,
            growth,
            vhost_pattern,
            queue_pattern,
            membership: MembershipWord::Promotable | MembershipWord::Voter,
        } => {
            let (growth, word) = match growth {
                GrowthWord::All => (Growth::All, "all"),
                GrowthWord::Even => (Growth::Even, "even"),
            };
            let banner = format!("Growing {word} queues on {node}...");
            let request = Request::Grow {
                node,
                growth,
                vhost_pattern,
                queue_pattern,
            };
            Plan::rows::<MoveRow>(request, Vec::new(), &[])?.with_banner(banner)
        }
        Membership::Shrink {
            member: node,
            errors_only,
        } => {
            let banner = format!("Shrinking queues on {node}...");
            let request = Request::Shrink { node, errors_only };
            Plan::rows::<MoveRow>(request, Vec::new(), &[])?.with_banner(banner)
        }
        Membership::Rebalance {
            kind,
            vhost_pattern,
            queue_pattern,
        } => {
            let (kind, word) = match kind {
                KindWord::All => (QueueKind::All, "all"),
                KindWord::Quorum => (QueueKind::Quorum, "quorum"),
                KindWord::Classic => (QueueKind::Classic, "classic"),
                KindWord::Stream => (QueueKind::Stream, "stream"),
            };
            let request = Request::Rebalance {
                kind,
                vhost_pattern,
                queue_pattern,
            };
            let plan = Plan::rows::<BalanceRow>(request, Vec::new(), &[])?;
            plan.framed()
                .with_banner(format!("Re-balancing leaders of {word} queues..."))
        }
        Membership::Drain => Plan::done(Request::Drain, "").with_banner(
            "Will put the node into maintenance mode. The node will no longer serve any client traffic!".to_owned(),
        ),
        Membership::Revive => Plan::done(Request::Revive, "").with_banner(
            "Will put the node back into a normal operating mode. It will again serve client traffic".to_owned(),
        ),
        Membership::ForgetClusterNode { member: node } => {
            let banner = format!("Removing node {node} from the cluster");
            Plan {
                timeout_s: AWAIT_TIMEOUT_S,
                ..Plan::rows::<MoveRow>(Request::ForgetClusterNode { node }, Vec::new(), &[])?
            }
            .with_banner(banner)
        }
        Membership::ForceShrinkMemberToCurrentMember { queue } => {
            let banner = format!("Shrinking queue {queue} in vhost {vhost} to a single replica on this node...");
            Plan::done(Request::ForceShrink { vhost, queue }, "").with_banner(banner)
        }
        Membership::RecoverLostMajority { survivors, accept_loss } => Plan {
            recovers: Some((survivors, accept_loss)),
            ..Plan::done(Request::Ping, "")
        },
        Membership::JoinCluster { existing } => {
            let banner = format!("Clustering this node with {existing}");
            let request = Request::JoinCluster {
                name: String::new(),
                address: String::new(),
                directory: 0,
                seeds: Vec::new(),
            };
            Plan {
                joins: Some(existing),
                ..Plan::done(request, "The node has joined the cluster: start it")
            }
            .with_banner(banner)
        }
        Membership::CheckIfNodeIsQuorumCritical => {
            let message = "The node is not critical for the quorum of any queue";
            Plan::done(Request::CheckQuorum, message)
                .with_banner("Checking if the node is critical for the quorum of any queues ...".to_owned())
        }
        Membership::AwaitOnlineQuorumPlusOne => Plan {
            waits: true,
            timeout_s: AWAIT_TIMEOUT_S,
            ..Plan::done(Request::CheckQuorum, "")
        }
        .with_banner("Will wait for a quorum + 1 of nodes to be online for all queues ...".to_owned()),
    })
}

/// Whether a virtual host may be named for it.
pub(super) fn takes_vhost(command: &Membership) -> bool {
    matches!(
        command,
        Membership::AddMember { .. }
            | Membership::DeleteMember { .. }
            | Membership::TransferLeadership { .. }
            | Membership::ForceShrinkMemberToCurrentMember { .. }
    )
}
