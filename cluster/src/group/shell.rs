//! A group with its hands: performs a [`GroupCore`]'s effects on the writer and the transport.
//!
//! Belongs to one actor, which feeds it events and takes what is left: the machine's effects and changes of role.

use std::ops::Range;
use std::sync::{Arc, OnceLock};

use bytes::Bytes;

use super::{Course, Effect, Error, Event, Goal, GroupCore, Options, ProposeError, Role};
use crate::log::writer::{Done, Persisted, Request, Submit};
use crate::log::{self, LogStore, ReplicaState, Write};
use crate::machine::Machine;
use crate::transport::{self, Envelope, OutgoingSnapshot, Port, SnapshotPart, Transport};
use crate::version::Versions;
use crate::{GroupId, NodeId};

/// Live entries read and sent with a snapshot at once, in bytes.
const SNAPSHOT_PART_BYTES: usize = 512 << 10;

/// What all groups of a node share.
#[derive(Clone)]
pub struct Io {
    /// This node.
    pub node: NodeId,
    /// This run of it: greater with each.
    pub run: u64,
    /// The first run that had this store; 0: not known.
    pub directory: u64,
    /// Which entries are applied, and how new ones are stamped.
    pub versions: Versions,
    /// Where logs are read.
    pub store: Arc<dyn LogStore>,
    /// Where logs are written.
    pub writer: Arc<dyn Submit>,
    /// The links to other nodes.
    pub transport: Arc<dyn Transport>,
    /// Hears what was persisted and which snapshots were sent, and passes it to the group's mailbox.
    pub events: Arc<dyn Events>,
}

/// Carries what happens on other threads to a group's mailbox.
pub trait Events: Persisted {
    /// See [`Event::SnapshotSent`].
    fn snapshot_sent(&self, group: GroupId, to: NodeId, ok: bool);
}

/// Hands the writer's calls to [`Events`].
struct Listener(Arc<dyn Events>);

impl Persisted for Listener {
    fn persisted(&self, group: GroupId, number: u64) {
        self.0.persisted(group, number);
    }
}

/// Sends a group's messages from the writer's thread, and tells [`Events`] then: a leader need not wait until the group's
/// actor has its turn.
struct Messenger {
    messages: Vec<(NodeId, Envelope)>,
    transport: Arc<dyn Transport>,
    events: Arc<dyn Events>,
}

impl Persisted for Messenger {
    fn persisted(&self, group: GroupId, number: u64) {
        for (to, envelope) in &self.messages {
            // Raft repeats what is lost.
            let _ = self.transport.send(*to, envelope.clone());
        }
        self.events.persisted(group, number);
    }
}

fn envelope(group: GroupId, message: Bytes) -> Envelope {
    Envelope {
        port: Port::RAFT,
        to: group,
        payload: message,
    }
}

/// What is left for the actor to do.
#[derive(Debug)]
pub enum Output<E> {
    /// What an applied entry asks for.
    Machine(E),
    /// See [`Effect::Restored`].
    Restored,
    /// See [`Effect::Members`].
    Members,
    /// See [`Effect::Role`].
    Role {
        /// Its role now.
        role: Role,
        /// The current term.
        term: u64,
        /// The leader of that term, if known.
        leader: Option<NodeId>,
    },
}

/// One replica of one group, with its hands.
pub struct GroupShell<M: Machine> {
    group: GroupId,
    core: GroupCore<M>,
    io: Io,
    listener: Arc<dyn Persisted>,
    effects: Vec<Effect<M::Effect>>,
    /// What failed on the snapshots' threads.
    failed: Arc<OnceLock<log::Error>>,
}

impl<M: Machine> GroupShell<M> {
    /// Opens the replica: as stored, or new with `members` as its voters.
    pub fn open(io: Io, group: GroupId, members: &[NodeId], machine: M, options: Options) -> Result<Self, Error> {
        let mut effects = Vec::new();
        let options = Options {
            run: io.run,
            versions: io.versions.clone(),
            ..options
        };
        let core = GroupCore::open(
            io.node,
            group,
            members,
            io.store.clone(),
            machine,
            options,
            &mut effects,
        )?;
        let listener = Arc::new(Listener(io.events.clone()));
        Ok(Self {
            group,
            core,
            io,
            listener,
            effects,
            failed: Arc::default(),
        })
    }

    /// The struct inside, for reads.
    pub fn core(&self) -> &GroupCore<M> {
        &self.core
    }

    /// The struct inside.
    pub fn core_mut(&mut self) -> &mut GroupCore<M> {
        &mut self.core
    }

    /// Learns which members' nodes are there: one that never proved itself to this process is not, for all it knows.
    /// [`GroupShell::poll`] must follow.
    pub fn look_around(&mut self) {
        let peers = self.io.transport.peers();
        let up = |member: NodeId| peers.iter().any(|(node, state)| *node == member && state.is_up());
        let members = self.core.members().iter().chain(self.core.learners());
        let absent = members
            .copied()
            .filter(|member| *member != self.io.node && !up(*member));
        for member in absent.collect::<Vec<_>>() {
            self.core.handle(Event::PeerDown(member));
        }
    }

    /// See [`GroupCore::steer`]: only nodes that are reachable and among `ready` are added. [`GroupShell::poll`] must
    /// follow.
    pub fn steer(&mut self, goal: &Goal<'_>, ready: &[NodeId]) -> Course {
        let peers = self.io.transport.peers();
        let is_up = |node: NodeId| peers.iter().any(|(peer, state)| *peer == node && state.is_up());
        let may_join = |node: NodeId| ready.contains(&node) && is_up(node);
        self.core.steer(goal, &may_join)
    }

    /// Takes one event in; [`GroupShell::poll`] must follow before the actor does anything else.
    pub fn handle(&mut self, event: Event) {
        self.core.handle(event);
    }

    /// See [`GroupCore::propose`].
    pub fn propose(&mut self, parts: &[Bytes], now_ms: u64) -> Result<(), ProposeError> {
        self.core.propose(parts, now_ms)
    }

    /// Removes everything that the store holds of the group. The shell must not be used after it.
    pub fn drop_group(&mut self) {
        let writes = vec![Write::DropGroup { group: self.group }];
        // A stopped writer has reported why; the node is on its way down.
        let _ = self.io.writer.submit(Request {
            writes,
            sync: false,
            done: None,
        });
    }

    /// The replica was removed from its group: leaves of it only what binds a later one, and says when that is so. The
    /// shell must not be used after it.
    pub fn retire(&mut self, listener: Arc<dyn Persisted>) -> Result<(), Error> {
        let writes = self.core.retire()?;
        let done = Done {
            listener,
            group: self.group,
            number: 0,
        };
        // A stopped writer has reported why; the node is on its way down.
        let _ = self.io.writer.submit(Request {
            writes,
            sync: true,
            done: Some(done),
        });
        Ok(())
    }

    /// Performs what has become due, and moves the rest into `out`.
    pub fn poll(&mut self, out: &mut Vec<Output<M::Effect>>) -> Result<(), Error> {
        if let Some(error) = self.failed.get() {
            return Err(error.clone().into());
        }
        self.core.poll(&mut self.effects)?;
        let mut changed = false;
        let mut once_stored = Vec::new();
        for effect in self.effects.drain(..) {
            match effect {
                Effect::Send { to, message } => {
                    // Raft repeats what is lost.
                    let _ = self.io.transport.send(to, envelope(self.group, message));
                }
                Effect::SendStored { to, message } => once_stored.push((to, envelope(self.group, message))),
                Effect::Write { writes, sync, number } => {
                    let messages = std::mem::take(&mut once_stored);
                    let done = number.map(|number| Done {
                        listener: if messages.is_empty() {
                            self.listener.clone()
                        } else {
                            Arc::new(Messenger {
                                messages,
                                transport: self.io.transport.clone(),
                                events: self.io.events.clone(),
                            })
                        },
                        group: self.group,
                        number,
                    });
                    // A stopped writer has reported why; the node is on its way down.
                    let _ = self.io.writer.submit(Request { writes, sync, done });
                }
                Effect::Machine(effect) => out.push(Output::Machine(effect)),
                Effect::Restored => out.push(Output::Restored),
                Effect::Members => {
                    changed = true;
                    out.push(Output::Members);
                }
                Effect::Role { role, term, leader } => out.push(Output::Role { role, term, leader }),
                Effect::SendSnapshot {
                    to,
                    message,
                    state,
                    live,
                } => {
                    let events = self.io.events.clone();
                    let group = self.group;
                    let chunks = Box::new(parts(self.io.store.clone(), group, state, live));
                    let failed = self.failed.clone();
                    let done = Box::new(move |result: Result<(), transport::SnapshotError>| {
                        if let Err(error) = &result {
                            tracing::info!(group, to, %error, "snapshot not sent");
                        }
                        // Nobody can get it from here, now or later.
                        if let Err(transport::SnapshotError::Source(source)) = &result
                            && let Some(error) = source.downcast_ref::<log::Error>()
                        {
                            let _ = failed.set(error.clone());
                        }
                        events.snapshot_sent(group, to, result.is_ok());
                    });
                    self.io.transport.send_snapshot(
                        to,
                        OutgoingSnapshot {
                            group,
                            message,
                            chunks,
                            done,
                        },
                    );
                }
            }
        }
        if changed {
            // It may never have been told of the new ones' nodes.
            self.look_around();
        }
        Ok(())
    }
}

/// The stored snapshot's chunks, then the live entries in parts of bounded size.
///
/// An entry that ceased to be live meanwhile is skipped: the log after the snapshot says so too.
fn parts(
    store: Arc<dyn LogStore>,
    group: GroupId,
    state: ReplicaState,
    live: Vec<Range<u64>>,
) -> impl Iterator<Item = Result<SnapshotPart, transport::BoxError>> + Send {
    let generation = state.generation;
    let index = state.snapshot_index;
    let chunk_store = store.clone();
    let chunks = (0..state.snapshot_chunks).map(move |number| {
        match chunk_store.snapshot_chunk(group, generation, index, number)? {
            Some(chunk) => Ok(SnapshotPart::State(chunk)),
            None => Err(format!("the snapshot at {index} was replaced by a newer one").into()),
        }
    });
    let end_store = store.clone();
    let mut live = live.into_iter().flatten();
    let entries = std::iter::from_fn(move || {
        let mut part = Vec::new();
        let mut bytes = 0;
        while bytes < SNAPSHOT_PART_BYTES {
            let Some(index) = live.next() else { break };
            match store.entry(group, generation, index) {
                Ok(Some(entry)) => {
                    bytes += entry.data.len();
                    part.push(warren_proto::transport::LogEntry {
                        index: entry.index,
                        term: entry.term,
                        kind: u32::from(entry.kind),
                        data: entry.data,
                    });
                }
                Ok(None) => {}
                Err(error) => return Some(Err(error.into())),
            }
        }
        (!part.is_empty()).then(|| Ok(SnapshotPart::Entries(part)))
    });
    // Entries are missing from a generation that was dropped, and that would be taken for their end.
    let end = std::iter::once_with(move || match end_store.state(group) {
        Ok(Some(state)) if state.generation == generation => None,
        Ok(_) => Some(Err("this replica took over another's snapshot meanwhile".into())),
        Err(error) => Some(Err(error.into())),
    });
    chunks.chain(entries).chain(end.flatten())
}
