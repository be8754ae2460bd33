//! What a peer may say. raft-rs trusts its caller, and ends the process over what no peer of good faith sends; here it
//! is told from the rest beforehand.

use std::collections::BTreeSet;

use raft::eraftpb::{ConfState, Entry, Message, MessageType};
use raft::{RaftLog, StateRole, Storage};

/// No index or term comes near this: what is counted on from a peer's number does not overflow.
const NUMBER_MAX: u64 = u64::MAX / 4;

/// Whether a message is one that peers send each other, whole, and in agreement with itself.
pub(super) fn is_sound(message: &Message) -> bool {
    use MessageType as Kind;
    let kind = message.get_msg_type();
    let exchanged = match kind {
        Kind::MsgAppend
        | Kind::MsgAppendResponse
        | Kind::MsgRequestVote
        | Kind::MsgRequestVoteResponse
        | Kind::MsgRequestPreVote
        | Kind::MsgRequestPreVoteResponse
        | Kind::MsgHeartbeat
        | Kind::MsgHeartbeatResponse
        | Kind::MsgSnapshot
        | Kind::MsgTransferLeader
        | Kind::MsgTimeoutNow => true,
        // What a replica tells itself, and what this build does not ask for.
        Kind::MsgHup
        | Kind::MsgBeat
        | Kind::MsgPropose
        | Kind::MsgUnreachable
        | Kind::MsgSnapStatus
        | Kind::MsgCheckQuorum
        | Kind::MsgReadIndex
        | Kind::MsgReadIndexResp => false,
    };
    let numbers = [
        message.term,
        message.index,
        message.log_term,
        message.commit,
        message.commit_term,
        message.reject_hint,
    ];
    exchanged
        && message.from != message.to
        && numbers.iter().all(|number| *number <= NUMBER_MAX)
        && message.request_snapshot == 0
        // What a follower was asked for and hands on to its leader has no term.
        && (message.term == 0) == (kind == Kind::MsgTransferLeader)
        && (message.entries.is_empty() || kind == Kind::MsgAppend)
        && (kind != Kind::MsgAppend || follows(message))
        && (kind != Kind::MsgSnapshot || announces(message))
}

/// Whether the entries follow each other and what the message says is before them.
fn follows(message: &Message) -> bool {
    let mut least = message.log_term.max(1);
    let next = |(entry, index): (&Entry, u64)| {
        let rises = (least..=message.term).contains(&entry.term);
        least = entry.term;
        rises && entry.index == index
    };
    (message.index == 0) == (message.log_term == 0)
        && message.log_term <= message.term
        && message.entries.iter().zip(message.index + 1..).all(next)
}

fn announces(message: &Message) -> bool {
    let metadata = message.get_snapshot().get_metadata();
    let numbers = 1..=NUMBER_MAX;
    numbers.contains(&metadata.index)
        && (1..=message.term).contains(&metadata.term)
        && is_plain(metadata.get_conf_state())
}

/// Whether it names each member once, and is not between two sets of them.
fn is_plain(members: &ConfState) -> bool {
    let all = || members.voters.iter().chain(&members.learners);
    let distinct: BTreeSet<u64> = all().copied().filter(|member| *member != 0).collect();
    !members.voters.is_empty()
        && distinct.len() == all().count()
        && members.voters_outgoing.is_empty()
        && members.learners_next.is_empty()
        && !members.auto_leave
}

/// Whether a sound message can be true, as far as this replica's log tells.
pub(super) fn can_be<S: Storage>(message: &Message, term: u64, role: StateRole, log: &RaftLog<S>) -> bool {
    let last = log.last_index();
    match message.get_msg_type() {
        // A leader has what this replica knows to be committed, and no earlier term follows it.
        MessageType::MsgAppend if message.term >= term && message.index >= log.committed => {
            log.term(log.committed).is_ok_and(|least| message.log_term >= least)
        }
        // Nobody holds more of this term's log than its leader.
        MessageType::MsgAppendResponse if message.term == term && role == StateRole::Leader => {
            message.commit <= last && (message.reject || message.index <= last)
        }
        MessageType::MsgHeartbeatResponse if message.term == term && role == StateRole::Leader => {
            message.commit <= last
        }
        _ => true,
    }
}
