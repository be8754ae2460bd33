//! The plans of the commands about queues' replicas and leaders, which are rabbitmq-queues' and rabbitmq-upgrade's.

use super::super::line::{Command, GrowthWord, KindWord};
use super::{AWAIT_TIMEOUT_S, Exit, Plan, usage};
use crate::admin::protocol::{BalanceRow, Growth, MoveRow, QueueKind, Request};

/// The plan for one of these commands, in the virtual host that the line named.
pub(super) fn plan(command: Command, vhost: String) -> Result<Plan, Exit> {
    Ok(match command {
        Command::AddMember { queue, member: node } => {
            let banner = format!("Adding a replica for queue {queue} on node {node}...");
            Plan::done(Request::AddMember { vhost, queue, node }, "").with_banner(banner)
        }
        Command::DeleteMember { queue, member: node } => {
            let banner = format!("Removing a replica of queue {queue} on node {node}...");
            Plan::done(Request::DeleteMember { vhost, queue, node }, "").with_banner(banner)
        }
        Command::TransferLeadership { queue, member: node } => {
            let banner = format!("Transferring leadership of queue {queue} to node {node}...");
            Plan::done(Request::TransferLeadership { vhost, queue, node }, "").with_banner(banner)
        }
        Command::Grow {
            member: node,
            growth,
            vhost_pattern,
            queue_pattern,
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
        Command::Shrink { member: node } => {
            let banner = format!("Shrinking queues on {node}...");
            Plan::rows::<MoveRow>(Request::Shrink { node }, Vec::new(), &[])?.with_banner(banner)
        }
        Command::Rebalance {
            kind,
            vhost_pattern,
            queue_pattern,
        } => {
            let (kind, word) = match kind {
                KindWord::All => (QueueKind::All, "all"),
                KindWord::Quorum => (QueueKind::Quorum, "quorum"),
                KindWord::Classic => (QueueKind::Classic, "classic"),
            };
            let request = Request::Rebalance {
                kind,
                vhost_pattern,
                queue_pattern,
            };
            let plan = Plan::rows::<BalanceRow>(request, Vec::new(), &[])?;
            plan.framed().with_banner(format!("Rebalancing {word} queues..."))
        }
        Command::Drain => Plan::done(Request::Drain, "").with_banner(
            "Will put the node into maintenance mode. The node will no longer serve any client traffic!".to_owned(),
        ),
        Command::Revive => Plan::done(Request::Revive, "").with_banner(
            "Will put the node back into a normal operating mode. It will again serve client traffic".to_owned(),
        ),
        Command::CheckIfNodeIsQuorumCritical => {
            let message = "The node is not critical for the quorum of any queue";
            Plan::done(Request::CheckQuorum, message)
                .with_banner("Checking if the node is critical for the quorum of any queues ...".to_owned())
        }
        Command::AwaitOnlineQuorumPlusOne => Plan {
            waits: true,
            timeout_s: AWAIT_TIMEOUT_S,
            ..Plan::done(Request::CheckQuorum, "")
        }
        .with_banner("Will wait for a quorum + 1 of nodes to be online for all queues ...".to_owned()),
        other => return Err(usage(format!("{other:?} is not about replicas"))),
    })
}
