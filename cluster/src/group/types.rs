//! What goes into a group and what comes out of it.

use bytes::Bytes;

use crate::log::{ReplicaState, Write};
use crate::version::Versions;
use crate::{GroupId, NodeId};

/// Bounds of one group.
#[derive(Clone, Debug)]
pub struct Options {
    /// Largest append sent to a follower at once, in bytes; a single larger entry still goes.
    pub append_bytes_max: u64,
    /// Appends on their way to one follower.
    pub appends_in_flight_max: usize,
    /// Proposed but not committed bytes after which proposals are refused.
    pub uncommitted_bytes_max: u64,
    /// Applied entries kept in memory, in bytes.
    pub cache_bytes_max: usize,
    /// Log bytes after which the machine's state is stored and the log compacted.
    pub snapshot_log_bytes: u64,
    /// Whether followers are told of each commit at once, rather than with the next append or heartbeat.
    pub eager_commit: bool,
    /// Whether every replica performs the machine's effects, not only the leader.
    pub effects_everywhere: bool,
    /// The run of this node: greater with each.
    pub run: u64,
    /// Whether a replica of which nothing is stored may have been here before, on a disk that was lost.
    pub fresh: bool,
    /// Ticks in which a fresh replica that holds nothing begins no new group, though nobody else holds anything: others
    /// may be about to say that the group was begun. See [`super::GroupCore::await_group`].
    pub founds_after_ticks: u64,
    /// Kept with a new replica: see [`ReplicaState::era`].
    pub era: u64,
    /// The decision by which a fresh replica can have been added at the earliest: by one before it an earlier replica
    /// of this node was.
    pub added_since: u64,
    /// Kept with a new replica: see [`ReplicaState::reformed`].
    pub reformed: u64,
    /// Which entries are applied, and how new ones are stamped.
    pub versions: Versions,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            append_bytes_max: 1 << 20,
            appends_in_flight_max: 64,
            uncommitted_bytes_max: 64 << 20,
            cache_bytes_max: 4 << 20,
            snapshot_log_bytes: 4 << 20,
            eager_commit: false,
            effects_everywhere: false,
            run: 0,
            fresh: false,
            founds_after_ticks: 0,
            era: 0,
            added_since: 0,
            reformed: 0,
            versions: Versions::default(),
        }
    }
}

/// What this replica is in its group.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Role {
    /// Proposals are accepted, and everything committed before this term has been applied.
    Leader,
    /// Elected, but earlier entries are still to be applied.
    Elected,
    /// Follows, or looks for a leader.
    Follower,
}

/// What happens to a group.
#[derive(Debug)]
pub enum Event {
    /// A Raft message from a peer.
    Message(Bytes),
    /// The writer has stored everything up to the write with this number.
    Persisted(u64),
    /// 100 ms have passed. Needed while [`GroupCore::is_active`].
    Tick,
    /// A peer's process has ended, or nothing is heard of it.
    PeerDown(NodeId),
    /// A peer is there again.
    PeerUp(NodeId),
    /// Messages to and from a peer may have been lost, whether it is there or not.
    LinkReset(NodeId),
    /// Try to become leader now (a new group's preferred leader).
    Campaign,
    /// A peer's snapshot lies in the store under `generation`, complete.
    SnapshotStaged {
        /// The Raft message that announced it.
        message: Bytes,
        /// Where its entries and chunks are.
        generation: u32,
        /// How many chunks of machine state.
        chunks: u32,
    },
    /// A snapshot's transfer has ended.
    SnapshotSent {
        /// The receiver.
        to: NodeId,
        /// Whether it arrived whole.
        ok: bool,
    },
    /// Hand leadership to a voter. See [`super::GroupCore::hand_over`].
    TransferLeader(NodeId),
}

/// What a group asks of its shell, to be done in order.
#[derive(Debug)]
pub enum Effect<E> {
    /// A Raft message for a peer. May be dropped.
    Send {
        /// The receiver.
        to: NodeId,
        /// Encoded, opaque to the transport.
        message: Bytes,
    },
    /// The same, but it leaves as soon as the next [`Effect::Write`] is stored: what it says must be true by then.
    SendStored {
        /// The receiver.
        to: NodeId,
        /// Encoded, opaque to the transport.
        message: Bytes,
    },
    /// Work for the writer. `number` comes back as [`Event::Persisted`] when it and all before it are stored.
    Write {
        /// All or nothing.
        writes: Vec<Write>,
        /// Whether it must be on disk before it is reported.
        sync: bool,
        /// `None`: nobody waits.
        number: Option<u64>,
    },
    /// What an applied entry asks for.
    Machine(E),
    /// The machine's state was replaced by a peer's snapshot.
    Restored,
    /// The group's members have changed: see [`super::GroupCore::members`].
    Members,
    /// This replica's role, term or leader has changed.
    Role {
        /// Its role now.
        role: Role,
        /// The current term.
        term: u64,
        /// The leader of that term, if known.
        leader: Option<NodeId>,
    },
    /// Send the stored snapshot and the entries live below it.
    SendSnapshot {
        /// The receiver.
        to: NodeId,
        /// The Raft message to announce it with.
        message: Bytes,
        /// The snapshot as stored.
        state: ReplicaState,
        /// The entries to send with it, as ascending ranges of their indexes.
        live: Vec<std::ops::Range<u64>>,
    },
}

/// Why a proposal was not taken. Nothing of it will ever be applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum ProposeError {
    /// Another replica leads, or none.
    #[error("this replica does not lead its group")]
    NotLeader,
    /// Too much is on its way already.
    #[error("too many uncommitted bytes in the group")]
    Full,
}

/// Why a replica cannot go on. The node must stop.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The store failed or holds what it cannot hold.
    #[error(transparent)]
    Log(#[from] crate::log::Error),
    /// raft-rs refused to go on.
    #[error("group {group}: {source}")]
    Raft {
        /// The group.
        group: GroupId,
        /// Its reason.
        source: raft::Error,
    },
    /// The stored snapshot is incomplete.
    #[error("group {group}: chunk {chunk} of the snapshot at {index} is missing")]
    SnapshotMissing {
        /// The group.
        group: GroupId,
        /// The snapshot's index.
        index: u64,
        /// The first missing chunk.
        chunk: u32,
    },
    /// The store does not hold what this replica had said it holds.
    #[error(
        "group {group}: the log ends at {last_index}, but its leader was told that it reaches {commit}: \
         the store lost what it had acknowledged"
    )]
    Lost {
        /// The group.
        group: GroupId,
        /// The log's end.
        last_index: u64,
        /// What the leader takes for stored here.
        commit: u64,
    },
    /// An entry calls for a behaviour that this node does not know.
    #[error(
        "group {group}: the entry at {index} is of version {version}; this node supports versions up to {supported}: \
         start it with the build, or the settings, that the cluster runs with"
    )]
    Version {
        /// The group.
        group: GroupId,
        /// The entry.
        index: u64,
        /// Its version.
        version: u16,
        /// The newest known here.
        supported: u16,
    },
    /// The stored snapshot does not describe a machine.
    #[error("group {group}: {source}")]
    Restore {
        /// The group.
        group: GroupId,
        /// The machine's reason.
        source: crate::machine::RestoreError,
    },
}

/// Whether a node applies what is of that version: an entry of that index, or a state that was made by such.
pub fn check_version(group: GroupId, index: u64, version: u16, versions: &Versions) -> Result<(), Error> {
    let supported = versions.supported();
    if version > supported {
        return Err(Error::Version {
            group,
            index,
            version,
            supported,
        });
    }
    Ok(())
}

/// Figures for operators.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Status {
    /// See [`Role`].
    pub role: Role,
    /// The leader of this term, if known.
    pub leader: Option<NodeId>,
    /// The current term.
    pub term: u64,
    /// The log's end.
    pub last_index: u64,
    /// What is known to be on a majority.
    pub commit: u64,
    /// What the machine has seen.
    pub applied: u64,
    /// Where the stored snapshot ends.
    pub snapshot_index: u64,
}
