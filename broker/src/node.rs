//! Where the transport and the log writer meet the actors: hands what arrives from other nodes and other threads to
//! the right mailbox, and stages arriving snapshots.
//!
//! Runs on the transport's and the writer's threads: nothing here waits, except the snapshot sink, which may.

use std::collections::BTreeSet;
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Arc, Condvar, Mutex, OnceLock, PoisonError};

use bytes::{Buf, Bytes};
use prost::Message as _;
use warren_cluster::group::Event;
use warren_cluster::group::shell::Events;
use warren_cluster::log::writer::{Done, Persisted, Request, Submit};
use warren_cluster::log::{LogEntry, LogStore, ReplicaState, Write};
use warren_cluster::transport::{
    BoxError, Envelope, Inbox, Met, PeerState, Port, Refused, SnapshotEnd, SnapshotOffer, SnapshotSink,
};
use warren_cluster::{GroupId, NodeId};
use warren_proto::node::{NoReplica, NodeMessage, node_message::Kind};
use warren_proto::record::{Command, SessionId, system};
use warren_proto::{queue, record, transport};

use crate::admin::Forwarded;
use crate::alarms::Alarms;
use crate::directory::{Directory, Inbound};
use crate::fatal;
use crate::mailbox::{Mailbox, Post};
use crate::metadata::replica::News;

/// See the module.
pub struct NodeInbox {
    directory: Arc<Directory>,
    store: Arc<dyn LogStore>,
    writer: OnceLock<Arc<dyn Submit>>,
    metadata: OnceLock<Post<News>>,
    admin: OnceLock<Arc<dyn Forwarded>>,
    alarms: OnceLock<Arc<Alarms>>,
    /// The next generation to stage a snapshot under.
    generation: AtomicU32,
    staging: Arc<Mutex<BTreeSet<GroupId>>>,
}

impl NodeInbox {
    /// Snapshots are staged under `generation` and the numbers after it. What earlier runs left under them is gone by
    /// then, but for a group's stored generation, which is passed over.
    pub fn new(directory: Arc<Directory>, store: Arc<dyn LogStore>, generation: u32) -> Self {
        Self {
            directory,
            store,
            writer: OnceLock::new(),
            metadata: OnceLock::new(),
            admin: OnceLock::new(),
            alarms: OnceLock::new(),
            generation: AtomicU32::new(generation),
            staging: Arc::default(),
        }
    }

    /// Connects the parts that are made after the inbox; once, at boot.
    pub fn connect(&self, writer: Arc<dyn Submit>, metadata: impl Mailbox<News> + 'static, admin: Arc<dyn Forwarded>) {
        let fresh = self.writer.set(writer).is_ok()
            && self.metadata.set(Arc::new(metadata)).is_ok()
            && self.admin.set(admin).is_ok();
        assert!(fresh, "the inbox is connected once");
    }

    /// Hears of other nodes' shortages from now on; once, at boot.
    pub fn connect_alarms(&self, alarms: Arc<Alarms>) {
        assert!(self.alarms.set(alarms).is_ok(), "the inbox is connected once");
    }

    fn node_message(&self, from: NodeId, kind: Kind) {
        match kind {
            Kind::LeaderIs(is) => {
                let leader = (is.leader != 0).then_some(is.leader);
                self.directory.hear_leader(is.group, is.reformed, is.term, leader);
            }
            Kind::NoReplica(none) => self.directory.no_replica(from, none.group),
            Kind::ReplicaQuery(query) => self.directory.deliver(query.group, Inbound::ReplicaQuery(from)),
            Kind::ReplicaIs(is) => {
                let message = Inbound::ReplicaIs {
                    node: from,
                    era: is.era,
                };
                self.directory.deliver(is.group, message);
            }
            Kind::LeaderQuery(query) => self.directory.deliver(query.group, Inbound::LeaderQuery(from)),
            Kind::SessionGone(gone) => {
                // Only the session's own node may end it.
                if gone.node == from {
                    let session = SessionId {
                        node: gone.node,
                        incarnation: gone.incarnation,
                        id: gone.id,
                    };
                    let bytes = system(&Command::SessionDown(session));
                    let own = self.directory.node();
                    self.directory.deliver(gone.group, Inbound::batch(own, bytes));
                }
            }
            Kind::SessionCheck(check) => {
                for id in check.ids {
                    let session = SessionId {
                        node: self.directory.node(),
                        incarnation: check.incarnation,
                        id,
                    };
                    if !self.directory.has_session(session) {
                        self.directory.session_gone(check.group, session, from);
                        // Said until the queue knows: others may have been told before, and were given up.
                        self.directory.end_session_in(check.group, session);
                    }
                }
            }
            Kind::SessionEnded(ended) => {
                let session = SessionId {
                    node: self.directory.node(),
                    incarnation: ended.incarnation,
                    id: ended.id,
                };
                self.directory.end_known(ended.group, session);
            }
            Kind::DirectReply(reply) => self.directory.reply_arrived(&reply),
            Kind::DirectReplyQuery(query) => self.directory.reply_asked(from, query),
            Kind::DirectReplyIs(answer) => self.directory.reply_queue_is(answer),
            Kind::Barrier(barrier) => self.news(News::BarrierAsked(from, barrier)),
            Kind::BarrierPassed(passed) => self.news(News::BarrierPassed(from, passed)),
            Kind::Alarms(alarms) => {
                if let Some(own) = self.alarms.get() {
                    own.heard(from, alarms);
                }
            }
            Kind::AdminForward(forward) => {
                if let Some(admin) = self.admin.get() {
                    admin.asked(from, forward);
                }
            }
            Kind::AdminRows(rows) => {
                if let Some(admin) = self.admin.get() {
                    admin.answered(from, rows);
                }
            }
        }
    }

    /// Bounded by the changes that clients wait for, and by what happens to nodes.
    fn news(&self, news: News) {
        if let Some(metadata) = self.metadata.get() {
            metadata.always(news);
        }
    }

    fn session_events(&self, from: NodeId, session: u64, mut payload: Bytes) {
        if payload.len() < 8 {
            tracing::warn!(from, "a node sent malformed events");
            return;
        }
        let incarnation = payload.get_u64_le();
        match record::Events::decode(&payload) {
            Ok(events) => {
                let group = events.group;
                let known = incarnation == self.directory.incarnation();
                if !known || !self.directory.session_events(session, events) {
                    let session = SessionId {
                        node: self.directory.node(),
                        incarnation,
                        id: session,
                    };
                    self.directory.session_gone(group, session, from);
                }
            }
            Err(error) => tracing::warn!(from, %error, "a node sent malformed events"),
        }
    }
}

impl Inbox for NodeInbox {
    fn deliver(&self, from: NodeId, envelope: Envelope) {
        let Envelope { port, to, payload } = envelope;
        match port {
            // Raft repeats what is lost, sessions and requesters repeat what is not answered.
            Port::RAFT => self.directory.deliver(to, Inbound::raft(payload)),
            Port::QUEUE | Port::RESYNC if self.directory.mailbox(to).is_none() => {
                // Nobody here could say who leads it.
                self.directory.tell(from, Kind::NoReplica(NoReplica { group: to }));
            }
            Port::QUEUE | Port::METADATA => self.directory.deliver(to, Inbound::batch(from, payload)),
            Port::SESSION => self.session_events(from, to, payload),
            Port::RESYNC => match queue::Resync::decode(payload) {
                Ok(request) => self.directory.deliver(to, Inbound::Resync(request)),
                Err(error) => tracing::warn!(from, %error, "a node sent a malformed question"),
            },
            Port::NODE => match NodeMessage::decode(payload) {
                Ok(NodeMessage { kind: Some(kind) }) => self.node_message(from, kind),
                Ok(NodeMessage { kind: None }) => tracing::debug!(from, "a node message of a newer version"),
                Err(error) => tracing::warn!(from, %error, "a node sent a malformed message"),
            },
            Port(other) => tracing::warn!(from, port = other, "an envelope for an unknown port"),
        }
    }

    fn peer_changed(&self, node: NodeId, state: PeerState) {
        tracing::info!(node, ?state, "peer");
        let up = matches!(state, PeerState::Up { .. });
        if !up {
            self.directory.node_down(node);
        }
        if let PeerState::Dead { incarnation } = state {
            self.directory.run_ended(node, incarnation);
        }
        for mailbox in self.directory.mailboxes() {
            let event = if up { Event::PeerUp(node) } else { Event::PeerDown(node) };
            // One message for each group and change of state: bounded by the number of groups.
            mailbox.always(Inbound::Group(event));
            if let PeerState::Dead { incarnation } = state {
                mailbox.always(Inbound::RunEnded { node, incarnation });
            }
        }
        self.news(News::Peer { node, state });
    }

    fn link_reset(&self, node: NodeId) {
        for mailbox in self.directory.mailboxes() {
            // One message for each group and reset.
            mailbox.always(Inbound::Group(Event::LinkReset(node)));
            mailbox.always(Inbound::LinkReset(node));
        }
        self.directory.link_reset(node);
    }

    fn link_writable(&self, node: NodeId) {
        for mailbox in self.directory.mailboxes() {
            // At most one for each refused send that a mailbox began.
            mailbox.always(Inbound::LinkWritable(node));
        }
    }

    fn forgotten(&self, reason: String) {
        fatal::forgotten(&reason);
    }

    fn met(&self, met: Met) {
        // One for each stream that opens.
        self.news(News::Met(met));
    }

    fn snapshot_begin(&self, from: NodeId, offer: SnapshotOffer) -> Result<Box<dyn SnapshotSink>, Refused> {
        let SnapshotOffer { group, message } = offer;
        let Some(replica) = self.directory.mailbox(group) else {
            return Err(Refused(format!("group {group} has no replica here")));
        };
        let Some(writer) = self.writer.get() else {
            return Err(Refused("the node is starting".into()));
        };
        if !self
            .staging
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .insert(group)
        {
            return Err(Refused(format!("a snapshot of group {group} is under way already")));
        }
        let stored = self.store.state(group).ok().flatten().map(|state| state.generation);
        // A clock that was set back may have brought the numbers back to where an earlier run was.
        let generation = loop {
            let generation = self.generation.fetch_add(1, Ordering::Relaxed);
            if Some(generation) != stored {
                break generation;
            }
        };
        tracing::info!(group, from, "receives a snapshot");
        Ok(Box::new(Staging {
            group,
            generation,
            message,
            snapshot_index: 0,
            chunks: Vec::new(),
            entries: 0,
            writer: writer.clone(),
            replica,
            staging: self.staging.clone(),
            finished: false,
            store: self.store.clone(),
        }))
    }
}

impl Persisted for NodeInbox {
    fn persisted(&self, group: GroupId, number: u64) {
        // Bounded by the writes that the group has in flight; a lost one would stop the group.
        self.directory
            .deliver_always(group, Inbound::Group(Event::Persisted(number)));
    }
}

impl Events for NodeInbox {
    fn snapshot_sent(&self, group: GroupId, to: NodeId, ok: bool) {
        // At most one for each snapshot that the group began.
        self.directory
            .deliver_always(group, Inbound::Group(Event::SnapshotSent { to, ok }));
    }
}

/// A snapshot on its way into the store, under a generation of its own until the group takes it over.
struct Staging {
    group: GroupId,
    generation: u32,
    message: Bytes,
    snapshot_index: u64,
    chunks: Vec<Bytes>,
    entries: u64,
    writer: Arc<dyn Submit>,
    store: Arc<dyn LogStore>,
    /// Which it is for: another one of the same group could not use it.
    replica: Post<Inbound>,
    staging: Arc<Mutex<BTreeSet<GroupId>>>,
    finished: bool,
}

impl Staging {
    /// Writes and waits until it is on the disk, so that no more than one part is ever in memory.
    fn write(&self, writes: Vec<Write>) -> Result<(), BoxError> {
        let waiter = Arc::new(Waiter::default());
        let done = Done {
            listener: waiter.clone(),
            group: self.group,
            number: 0,
        };
        self.writer.submit(Request {
            writes,
            sync: true,
            done: Some(done),
        })?;
        waiter.wait();
        Ok(())
    }
}

#[derive(Default)]
struct Waiter {
    done: Mutex<bool>,
    wake: Condvar,
}

impl Waiter {
    fn wait(&self) {
        let mut done = self.done.lock().unwrap_or_else(PoisonError::into_inner);
        while !*done {
            done = self.wake.wait(done).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl Persisted for Waiter {
    fn persisted(&self, _: GroupId, _: u64) {
        *self.done.lock().unwrap_or_else(PoisonError::into_inner) = true;
        self.wake.notify_one();
    }
}

impl SnapshotSink for Staging {
    fn state(&mut self, chunk: Bytes) -> Result<(), BoxError> {
        // The chunks are keyed by the snapshot's index, which the announcing message holds for the group to read.
        self.chunks.push(Bytes::copy_from_slice(&chunk));
        Ok(())
    }

    fn entries(&mut self, entries: Vec<transport::LogEntry>) -> Result<(), BoxError> {
        let mut writes = Vec::with_capacity(entries.len());
        for entry in entries {
            let kind = u8::try_from(entry.kind).map_err(|_| "an entry of an unknown kind")?;
            self.entries += 1;
            self.snapshot_index = self.snapshot_index.max(entry.index);
            let entry = LogEntry {
                index: entry.index,
                term: entry.term,
                kind,
                data: entry.data,
            };
            // Each on its own: live entries have gaps between them.
            let append = Write::Append {
                group: self.group,
                generation: self.generation,
                entries: vec![entry],
                stored_last: 0,
            };
            writes.push(append);
        }
        self.write(writes)
    }

    fn finish(mut self: Box<Self>, end: SnapshotEnd) -> Result<(), BoxError> {
        let bytes: u64 = self.chunks.iter().map(|chunk| chunk.len() as u64).sum();
        if bytes != end.state_len || self.entries != end.entry_count {
            return Err("the snapshot is not as long as its sender said".into());
        }
        let index = warren_cluster::group::snapshot_index(&self.message).ok_or("the message announces no snapshot")?;
        if self.snapshot_index > index {
            return Err("the snapshot holds an entry above its own index".into());
        }
        let chunks = std::mem::take(&mut self.chunks);
        let count = u32::try_from(chunks.len())?;
        for (number, data) in (0..).zip(chunks) {
            self.write(vec![Write::SnapshotChunk {
                group: self.group,
                generation: self.generation,
                snapshot_index: index,
                number,
                data,
            }])?;
        }
        self.finished = true;
        let event = Event::SnapshotStaged {
            message: self.message.clone(),
            generation: self.generation,
            chunks: count,
        };
        // One at a time for each group.
        self.replica.always(Inbound::Group(event));
        Ok(())
    }
}

impl Drop for Staging {
    fn drop(&mut self) {
        self.staging
            .lock()
            .unwrap_or_else(PoisonError::into_inner)
            .remove(&self.group);
        let current = self.store.state(self.group).ok().flatten();
        let used = current.is_some_and(|ReplicaState { generation, .. }| generation == self.generation);
        if !self.finished && !used {
            let writes = vec![Write::DropGeneration {
                group: self.group,
                generation: self.generation,
            }];
            // A stopped writer has reported why; the node is on its way down.
            let _ = self.writer.submit(Request {
                writes,
                sync: false,
                done: None,
            });
        }
    }
}
