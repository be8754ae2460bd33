//! Watches from outside: what clients were told, and what the replicas hold. Draws nothing, changes nothing.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::Hasher as _;

use rustc_hash::FxHasher;
use warren_broker::queue::machine::QueueMachine;
use warren_broker::queue::replica::QueueReplica;
use warren_cluster::GroupId;
use warren_cluster::group::{GroupCore, Role};
use warren_cluster::machine::Machine;

use super::options::Options;

/// Names one message of the workload.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct MessageId {
    /// By its place in the options.
    pub(crate) queue: usize,
    pub(crate) publisher: u64,
    /// Counts the publisher's messages.
    pub(crate) number: u64,
}

#[derive(Clone, Debug, Default)]
struct Message {
    confirmed: bool,
    /// Deliveries that said nothing of an earlier one, as a message and as a dead letter.
    fresh: [u32; 2],
    deliveries: u32,
    /// A client acknowledged or discarded it.
    settled: bool,
    len: usize,
    /// The publisher's connection, of those that it had: order holds within one.
    connection: u64,
    /// It was published before the cluster went on without its majority.
    pardoned: bool,
}

/// What went wrong.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Violation(pub(crate) String);

/// See the module.
#[derive(Default)]
pub(crate) struct Checker {
    messages: BTreeMap<MessageId, Message>,
    /// The stream's messages by offset, as any reader has seen them, and their offsets.
    stream: BTreeMap<u64, MessageId>,
    offsets: BTreeMap<MessageId, u64>,
    /// Groups whose queue was deleted. A node that learns late of that may begin anew what others have removed.
    ended: BTreeSet<GroupId>,
    /// Queues that went on without the majority of their replicas: what the others held is not missed, and may come again.
    pardoned: BTreeSet<usize>,
    /// Who leads, by group, the decision by which it last went on without a majority, and term.
    leaders: BTreeMap<(GroupId, u64, u64), u64>,
    /// Digests of machine states by group, decision and applied index.
    states: BTreeMap<(GroupId, u64, u64), (u64, u64)>,
    /// Messages dropped at a delivery limit, by queue name.
    pub(crate) dropped: BTreeMap<usize, u64>,
    pub(crate) confirmed: u64,
    pub(crate) delivered: u64,
    /// Of these, dead letters.
    pub(crate) letters: u64,
    pub(crate) violation: Option<Violation>,
    /// Says what clients are told.
    verbose: bool,
}

/// The body of a message: its name, then bytes that follow from it.
pub(crate) fn body(id: MessageId, len: usize) -> Vec<u8> {
    let mut body = Vec::with_capacity(24 + len);
    for part in [id.queue as u64, id.publisher, id.number] {
        body.extend_from_slice(&part.to_le_bytes());
    }
    body.extend((0..len).map(|at| (id.number as usize + at) as u8));
    body
}

fn name(body: &[u8]) -> Option<MessageId> {
    let part = |at: usize| Some(u64::from_le_bytes(body.get(at * 8..at * 8 + 8)?.try_into().ok()?));
    Some(MessageId {
        queue: usize::try_from(part(0)?).ok()?,
        publisher: part(1)?,
        number: part(2)?,
    })
}

impl Checker {
    pub(crate) fn new(verbose: bool) -> Self {
        Self {
            verbose,
            ..Self::default()
        }
    }

    fn say(&self, what: impl FnOnce() -> String) {
        if self.verbose {
            println!("{:>12}  {}", "", what());
        }
    }

    pub(crate) fn fail(&mut self, text: String) {
        self.violation.get_or_insert(Violation(text));
    }

    pub(crate) fn published(&mut self, id: MessageId, connection: u64, len: usize) {
        self.say(|| format!("published {id:?}"));
        self.messages.insert(
            id,
            Message {
                len,
                connection,
                ..Message::default()
            },
        );
    }

    /// The majority is lost for good. What was published until now may be lost with it, and what was settled may come
    /// back; what comes from now on may not.
    pub(crate) fn pardon_all(&mut self) {
        for message in self.messages.values_mut() {
            message.pardoned = true;
        }
        self.stream.clear();
        self.offsets.clear();
        // Numbers of groups and entries that only the others knew come again.
        self.leaders.clear();
        self.states.clear();
        self.ended.clear();
    }

    /// The same of one queue, and from now on: those that were cut off go on for a while.
    pub(crate) fn pardon(&mut self, queue: usize) {
        self.pardoned.insert(queue);
    }

    /// Nobody goes on any more who was cut off: what is published to these queues from now on may not be lost.
    pub(crate) fn end_pardons(&mut self, queues: &[usize]) {
        for (id, message) in &mut self.messages {
            message.pardoned |= queues.contains(&id.queue) && self.pardoned.contains(&id.queue);
        }
        self.pardoned.retain(|queue| !queues.contains(queue));
    }

    /// The queues of which less is asked from now on.
    pub(crate) fn pardoned(&self) -> impl Iterator<Item = usize> {
        self.pardoned.iter().copied()
    }

    /// Whether less is asked for this message.
    pub(crate) fn is_pardoned(&self, id: MessageId) -> bool {
        self.pardoned.contains(&id.queue) || self.messages.get(&id).is_some_and(|message| message.pardoned)
    }

    pub(crate) fn confirmed(&mut self, id: MessageId) {
        self.say(|| format!("confirmed {id:?}"));
        if let Some(message) = self.messages.get_mut(&id) {
            message.confirmed = true;
            self.confirmed += 1;
        }
    }

    /// A message as a client got it, and its publisher's connection; none if it is no message that was published.
    pub(crate) fn delivered(
        &mut self,
        client: u64,
        bytes: &[u8],
        redelivered: bool,
        letter: bool,
    ) -> Option<(MessageId, u64)> {
        self.say(|| {
            format!(
                "client {client} gets {:?}, redelivered: {redelivered}, letter: {letter}",
                name(bytes)
            )
        });
        let found = name(bytes).and_then(|id| Some((id, self.messages.get_mut(&id)?)));
        let Some((id, message)) = found else {
            self.fail(format!(
                "a message was delivered that nobody published ({} bytes)",
                bytes.len()
            ));
            return None;
        };
        self.delivered += 1;
        self.letters += u64::from(letter);
        message.deliveries += 1;
        let fresh = &mut message.fresh[usize::from(letter)];
        *fresh += u32::from(!redelivered);
        let connection = message.connection;
        let is_pardoned = message.pardoned || self.pardoned.contains(&id.queue);
        if *fresh > 1 && !is_pardoned {
            let text =
                format!("{id:?} was delivered {fresh} times without the redelivered flag (as a letter: {letter})");
            self.fail(text);
        } else if bytes != body(id, message.len) {
            self.fail(format!("the body of {id:?} is not what was published"));
        }
        Some((id, connection))
    }

    /// A message of the stream as a reader got it: at an offset there is one message, whoever reads and whoever leads, and
    /// none is there twice.
    pub(crate) fn read(&mut self, client: u64, offset: u64, bytes: &[u8]) -> Option<MessageId> {
        self.say(|| format!("client {client} reads {:?} at {offset}", name(bytes)));
        let found = name(bytes).and_then(|id| Some((id, self.messages.get(&id)?)));
        let Some((id, message)) = found else {
            self.fail(format!("nobody published what is at offset {offset}"));
            return None;
        };
        if bytes != body(id, message.len) {
            self.fail(format!("the body of {id:?} is not what was published"));
        }
        let known = *self.stream.entry(offset).or_insert(id);
        let at = *self.offsets.entry(id).or_insert(offset);
        if (known, at) != (id, offset) {
            self.fail(format!(
                "{id:?} is at offset {offset} of the stream, and at {at}; {known:?} was there"
            ));
        }
        Some(id)
    }

    pub(crate) fn settled(&mut self, id: MessageId) {
        self.say(|| format!("settled {id:?}"));
        if let Some(message) = self.messages.get_mut(&id) {
            message.settled = true;
        }
    }

    /// One replica, whenever it has moved.
    pub(crate) fn queue(&mut self, node: u64, replica: &QueueReplica) {
        let core = replica.core();
        let machine = core.machine();
        let stats = machine.stats();
        let totals = stats.totals;
        let settled = totals.acked + totals.discarded + totals.purged;
        let gone = settled + totals.dropped + totals.expired + totals.overflowed;
        if !stats.ended && totals.published != stats.ready + stats.unacked + gone {
            self.fail(format!(
                "node {node}, group {}: a message is in no place or in two: {stats:?}",
                replica.queue().group
            ));
        }
        if stats.ended {
            self.ended.insert(replica.queue().group);
        }
        self.group(node, replica.queue().group, core);
    }

    /// One replica of any group, whenever it has moved.
    pub(crate) fn group<M: Machine>(&mut self, node: u64, group: GroupId, core: &GroupCore<M>) {
        if self.ended.contains(&group) {
            return;
        }
        let status = core.status();
        if status.role != Role::Follower {
            let key = (group, core.reformed(), status.term);
            let leader = *self.leaders.entry(key).or_insert(node);
            if leader != node {
                self.fail(format!(
                    "nodes {leader} and {node} both lead group {group} in term {}",
                    status.term
                ));
            }
        }
        self.state(node, group, core.reformed(), status.applied, core.machine());
    }

    /// A machine's state, where it can be compared with the others' at the same index.
    fn state<M: Machine>(&mut self, node: u64, group: GroupId, reformed: u64, applied: u64, machine: &M) {
        // All replicas are looked at in the same places, and not everywhere: it costs.
        if (applied.wrapping_mul(0x9e37_79b9_7f4a_7c15) >> 60) > 2 {
            return;
        }
        let digest = digest(machine);
        let key = (group, reformed, applied);
        let (first, known) = *self.states.entry(key).or_insert((node, digest));
        if known != digest {
            self.fail(format!(
                "nodes {first} and {node} differ in group {group} ({reformed}) after entry {applied}"
            ));
        }
    }

    /// What replicas that have applied the same hold is the same; a state read back from its snapshot is the same.
    pub(crate) fn compare<M: Machine>(&mut self, group: GroupId, node: u64, core: &GroupCore<M>) {
        let (index, digest) = (core.status().applied, digest(core.machine()));
        let key = (group, core.reformed(), index);
        let (first, known) = *self.states.entry(key).or_insert((node, digest));
        if known != digest {
            self.fail(format!(
                "nodes {first} and {node} differ in group {group} after entry {index}"
            ));
        }
    }

    pub(crate) fn round_trip(&mut self, group: GroupId, machine: &QueueMachine) {
        let chunks = machine.snapshot();
        match QueueMachine::restore(machine.declared().clone(), &chunks) {
            Ok(restored) => {
                if restored.snapshot() != chunks {
                    self.fail(format!("group {group}: the state read back from a snapshot is another"));
                }
            }
            Err(error) => self.fail(format!("group {group}: a snapshot does not read: {error}")),
        }
    }

    /// After everything has been drained.
    pub(crate) fn end(&mut self, options: &Options) {
        if options.stream {
            let messages = self.messages.iter();
            let mut lost = messages
                .filter(|(id, message)| message.confirmed && !message.pardoned && !self.offsets.contains_key(id));
            if let Some(id) = lost.next().map(|(id, _)| *id) {
                self.fail(format!("{id:?} was confirmed, and is not in the stream"));
            }
        }
        let mut lost: BTreeMap<usize, Vec<MessageId>> = BTreeMap::new();
        for (id, message) in &self.messages {
            let queue = &options.queues[id.queue];
            // What expires goes nowhere for certain, unless that was asked for.
            let may_vanish = queue
                .letters
                .is_some_and(|letters| letters.ttl_ms > 0 && !letters.at_least_once);
            let is_missed = !message.pardoned && !self.pardoned.contains(&id.queue);
            if is_missed && message.confirmed && !message.settled && !queue.deleted && !may_vanish {
                lost.entry(id.queue).or_default().push(*id);
            }
        }
        for (queue, lost) in lost {
            let goes_on = options.queues[queue]
                .letters
                .is_some_and(|letters| letters.at_least_once);
            let dropped = self.dropped.get(&queue).copied().filter(|_| !goes_on).unwrap_or(0);
            if lost.len() as u64 > dropped {
                self.fail(format!(
                    "{} confirmed messages are lost, such as {:?}",
                    lost.len(),
                    lost[0]
                ));
            }
        }
    }
}

fn digest<M: Machine>(machine: &M) -> u64 {
    let mut hasher = FxHasher::default();
    for chunk in machine.snapshot() {
        hasher.write(&chunk);
    }
    hasher.finish()
}
