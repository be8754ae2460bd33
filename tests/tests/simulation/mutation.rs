//! Known mistakes, made on purpose in what surrounds the production code: the checkers must see each.

use bytes::{BufMut as _, Bytes, BytesMut};
use warren_broker::queue::machine::{Config, QueueMachine};
use warren_cluster::log::Write;
use warren_cluster::machine::Meta;
use warren_proto::record::{BATCH_HEADER_LEN, Batch, BatchWriter, Command, Events, Outcome, Run, batches, system};

/// One mistake.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Mutation {
    /// The disk reports what was never synced.
    NeverSyncs,
    /// A restarted replica does not know of its last term, nor whom it voted for.
    ForgetsVote,
    /// A restarted replica has lost the last entry of its log.
    ForgetsTail,
    /// Compaction removes one entry too many.
    RemovesTooMuch,
    /// A snapshot arrives without one of its live entries.
    DropsLiveEntry,
    /// The state that a snapshot brings has forgotten what sessions had sent.
    ForgetsSessions,
    /// The state that a snapshot brings lacks messages that sessions hold.
    DropsHeld,
    /// A node's sessions are told that a batch was applied when it is sent.
    ConfirmsEarly,
    /// Every vote that is refused is granted on the way.
    GrantsVotes,
    /// A follower's acknowledgement counts one entry that it does not hold.
    AcksEarly,
    /// A restarted node takes the incarnation that it had.
    ReusesIncarnation,
    /// A batch that is sent again comes as another session's.
    RenamesSessions,
    /// Now and then a link loses what a queue tells a session, and nobody hears of it.
    LosesEvents,
    /// A node that lost its disk says that it is the one it always had.
    HidesLoss,
    /// A body changes on its way to the disk of one node.
    FlipsBits,
    /// Nobody minds who obeys an earlier decision on who goes on without the majority.
    DoesNotFence,
    /// A node that lost its disk begins with those that it once began with, whatever others say.
    FoundsAnew,
    /// A corrupt record is read as if it had never been written.
    SkipsCorrupt,
}

pub(crate) const ALL: [Mutation; 18] = [
    Mutation::NeverSyncs,
    Mutation::ForgetsVote,
    Mutation::ForgetsTail,
    Mutation::RemovesTooMuch,
    Mutation::DropsLiveEntry,
    Mutation::ForgetsSessions,
    Mutation::DropsHeld,
    Mutation::ConfirmsEarly,
    Mutation::GrantsVotes,
    Mutation::AcksEarly,
    Mutation::ReusesIncarnation,
    Mutation::RenamesSessions,
    Mutation::LosesEvents,
    Mutation::HidesLoss,
    Mutation::FlipsBits,
    Mutation::DoesNotFence,
    Mutation::FoundsAnew,
    Mutation::SkipsCorrupt,
];

impl Mutation {
    /// Mistakes in what a node writes.
    pub(crate) fn spoil_writes(self, writes: &mut [Write]) {
        for write in writes {
            match (self, write) {
                (Self::RemovesTooMuch, Write::Remove { ranges, .. }) => {
                    for range in ranges {
                        range.end += 1;
                    }
                }
                (Self::FlipsBits, Write::Append { entries, .. }) => {
                    for entry in entries.iter_mut().filter(|entry| entry.data.len() > 200) {
                        let mut data = BytesMut::from(&entry.data[..]);
                        let last = data.len() - 1;
                        data[last] ^= 1;
                        entry.data = data.freeze();
                    }
                }
                _ => {}
            }
        }
    }

    /// The events that a session is told too early, when this batch of its commands is sent.
    pub(crate) fn early(group: u64, batch: &Bytes) -> Option<(Batch<'_>, Events)> {
        let batch = batches(batch).next()?.ok()?;
        let events = Events {
            group,
            applied: batch.first_seq + u64::from(batch.count) - 1,
            ..Events::default()
        };
        Some((batch, events))
    }

    /// The batch as another session's.
    pub(crate) fn renamed(batch: &Bytes) -> Bytes {
        let mut renamed = BytesMut::with_capacity(batch.len());
        renamed.extend_from_slice(&batch[..BATCH_HEADER_LEN]);
        renamed.extend_from_slice(&batch[BATCH_HEADER_LEN..]);
        let mut id = &mut renamed[16..24];
        id.put_u64_le(1 << 40);
        renamed.freeze()
    }

    /// The state of a queue with a mistake in it.
    pub(crate) fn spoil_state(self, config: Config, chunks: &[Bytes]) -> Option<Vec<Bytes>> {
        let mut machine = QueueMachine::restore(config, chunks).ok()?;
        let sessions: Vec<_> = machine.sessions().collect();
        for session in sessions {
            let entry = match self {
                Self::ForgetsSessions => system(&Command::SessionDown(session)),
                Self::DropsHeld => {
                    let mut batch = BatchWriter::new(session, machine.last_seq(session) + 1);
                    let all = Run {
                        first: 1,
                        len: u32::MAX,
                    };
                    batch.settle(Outcome::Ack, &[all]);
                    batch.finish()
                }
                _ => return None,
            };
            machine.apply(&Meta::default(), &entry, &mut Vec::new());
        }
        Some(machine.snapshot())
    }
}
