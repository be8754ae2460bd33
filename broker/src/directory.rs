//! Where everything is on this node and who leads what elsewhere: the meeting point of sessions, queues and links.
//!
//! Looked up when a session first uses a queue and when something moves, never per message of a queue: sessions keep
//! the [`Leader`] they were told and hear of every change. Direct replies, which have no queue, are looked up one by
//! one.
//!
//! Knows no AMQP and no Raft. Everything it is told may be told twice.

use std::collections::BTreeSet;
use std::collections::hash_map::Entry;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use actix::prelude::*;
use bytes::{BufMut, Bytes, BytesMut};
use prost::Message as _;
use rustc_hash::{FxHashMap, FxHashSet};
use warren_cluster::log::writer::Persisted;
use warren_cluster::transport::{Envelope, Port, Transport};
use warren_cluster::{GroupId, NodeId};
use warren_proto::node::{LeaderIs, LeaderQuery, NodeMessage, SessionEnded, SessionGone, node_message::Kind};
use warren_proto::queue;
use warren_proto::record::{Command, Events, SessionId, system};

use crate::amqp::ReplyCode;
use crate::direct_reply::{Admitted, Registry};
use crate::mailbox::{Mailbox, Post, Refused};
use crate::metadata::{Queue, View};
use crate::name::{UserName, VhostName};
use crate::queue::client::ChannelId;

mod description;
mod inbound;
mod replies;

pub use description::{ConsumerDescription, Description};
use inbound::Bounded;
pub use inbound::{Inbound, Room};

/// What a connection's actor hears from outside its socket.
#[derive(Message, Debug)]
#[rtype(result = "()")]
pub enum SessionEvent {
    /// From a queue's leader.
    Events(Events),
    /// The leader of a watched queue changed, or what was sent to it may have been lost.
    Leader {
        /// The queue's group.
        group: GroupId,
        /// Where it is now.
        leader: Leader,
    },
    /// A watched queue was deleted.
    QueueGone {
        /// The queue's group.
        group: GroupId,
    },
    /// A user or a vhost was deleted: its connections must be closed.
    Deleted(Deleted),
    /// A direct reply for one of its channels.
    Reply(Box<Admitted>),
    /// Another node's word on a requester that a channel asked for.
    ReplyQueueIs {
        /// The channel.
        channel: ChannelId,
        /// The generated name.
        queue: String,
        /// Whether the requester is there.
        exists: bool,
    },
    /// The connection must be closed.
    Close {
        /// The reply code.
        code: ReplyCode,
        /// The text after the code's name.
        text: String,
    },
}

/// What connections cannot go on without.
#[derive(Clone, Debug)]
pub enum Deleted {
    /// Whom a client logged in as.
    User(UserName),
    /// Where it works.
    Vhost(VhostName),
}

/// Ends of sessions that are repeated until their queues know of them.
const ENDING_MAX: usize = 65_536;

/// Where a queue's commands go.
#[derive(Clone, Debug, Default)]
pub enum Leader {
    /// Nowhere, for the moment.
    #[default]
    Unknown,
    /// An actor of this node.
    Local(Post<Inbound>),
    /// Another node.
    Remote(NodeId),
}

/// A batch that did not leave. Nothing is lost: the session still has it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotSent {
    /// The way is congested; try again in a moment.
    #[error("the mailbox or the link is full")]
    Full,
    /// Wait for [`SessionEvent::Leader`].
    #[error("the queue has no known leader")]
    NoLeader,
}

/// See the module.
pub struct Directory {
    node: NodeId,
    incarnation: u64,
    view: View,
    transport: OnceLock<Arc<dyn Transport>>,
    next_session: AtomicU64,
    groups: Mutex<FxHashMap<GroupId, Group>>,
    /// Groups whose replica here is being deleted because it was removed: another one must not begin before.
    retiring: Mutex<BTreeSet<GroupId>>,
    /// The view shows what was agreed on before this run began, and not some state of long ago.
    up_to_date: AtomicBool,
    sessions: Mutex<FxHashMap<u64, Post<SessionEvent>>>,
    /// Sessions of this node that have ended, with the queues that do not know it yet.
    ending: Mutex<BTreeSet<(GroupId, SessionId)>>,
    /// Runs of other nodes that have ended.
    ended: RwLock<FxHashMap<NodeId, Ended>>,
    replies: Arc<Registry>,
}

/// All runs of a node up to these incarnations have ended.
#[derive(Clone, Copy, Debug, Default)]
struct Ended {
    /// They cannot come back.
    certain: u64,
    /// The cluster has agreed that they have; one that was only cut off may return.
    concluded: u64,
    /// A run that was counted as alive, perhaps again, and the first of its sessions that did not end before.
    returned: (u64, u64),
}

/// The decision that a group obeys, and a term in it: whoever leads in the greater one leads. Those who were given up may
/// be further on in terms.
pub type Tenure = (u64, u64);

#[derive(Default)]
struct Group {
    mailbox: Option<Post<Inbound>>,
    /// Where its queue shall be, for an actor that is about to begin.
    placed: Option<Arc<Queue>>,
    leader: Option<NodeId>,
    tenure: Tenure,
    watchers: FxHashSet<SessionId>,
}

impl Directory {
    /// An empty directory.
    pub fn new(node: NodeId, incarnation: u64, view: View) -> Self {
        Self {
            node,
            incarnation,
            view,
            transport: OnceLock::new(),
            next_session: AtomicU64::new(1),
            groups: Mutex::default(),
            retiring: Mutex::default(),
            up_to_date: AtomicBool::new(false),
            sessions: Mutex::default(),
            ending: Mutex::default(),
            ended: RwLock::default(),
            replies: Arc::default(),
        }
    }

    /// Connects the links; once, at boot.
    pub fn set_transport(&self, transport: Arc<dyn Transport>) {
        assert!(self.transport.set(transport).is_ok(), "the transport is set once");
    }

    /// This node.
    pub fn node(&self) -> NodeId {
        self.node
    }

    /// This run of this node.
    pub fn incarnation(&self) -> u64 {
        self.incarnation
    }

    fn groups(&self) -> MutexGuard<'_, FxHashMap<GroupId, Group>> {
        self.groups.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ending(&self) -> MutexGuard<'_, BTreeSet<(GroupId, SessionId)>> {
        self.ending.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn sessions(&self) -> MutexGuard<'_, FxHashMap<u64, Post<SessionEvent>>> {
        self.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Gives a connection its identity.
    pub fn open_session(&self, mailbox: impl Mailbox<SessionEvent> + 'static) -> SessionId {
        let mut sessions = self.sessions();
        let id = self.next_session.fetch_add(1, Ordering::Relaxed);
        sessions.insert(id, Arc::new(mailbox));
        SessionId {
            node: self.node,
            incarnation: self.incarnation,
            id,
        }
    }

    /// Forgets a connection. Events for it are answered with [`SessionGone`] from now on.
    pub fn close_session(&self, session: SessionId) {
        self.sessions().remove(&session.id);
    }

    /// Whether the session is open on this run of this node.
    pub fn has_session(&self, session: SessionId) -> bool {
        session.node == self.node
            && session.incarnation == self.incarnation
            && self.sessions().contains_key(&session.id)
    }

    /// A node's runs up to this one have certainly ended.
    pub fn run_ended(&self, node: NodeId, incarnation: u64) {
        let mut ended = self.ended.write().unwrap_or_else(PoisonError::into_inner);
        let ended = ended.entry(node).or_default();
        ended.certain = ended.certain.max(incarnation);
    }

    /// The cluster counts a node's runs up to this one as ended.
    pub fn run_concluded(&self, node: NodeId, incarnation: u64) {
        let mut ended = self.ended.write().unwrap_or_else(PoisonError::into_inner);
        let ended = ended.entry(node).or_default();
        ended.concluded = ended.concluded.max(incarnation);
    }

    /// The cluster counts this run as alive, perhaps again: then its sessions before number `from` have ended.
    pub fn run_returned(&self, node: NodeId, incarnation: u64, from: u64) {
        let mut ended = self.ended.write().unwrap_or_else(PoisonError::into_inner);
        let ended = ended.entry(node).or_default();
        ended.concluded = ended.concluded.min(incarnation.saturating_sub(1));
        ended.returned = ended.returned.max((incarnation, from));
    }

    /// Nodes, and the last of their runs that has ended as far as this node knows.
    pub fn ended_runs(&self) -> Vec<(NodeId, u64)> {
        let ended = self.ended.read().unwrap_or_else(PoisonError::into_inner);
        let run = |(node, ended): (&NodeId, &Ended)| (*node, ended.certain.max(ended.concluded));
        ended.iter().map(run).collect()
    }

    /// Whether a session's run has ended, as far as this node knows: nobody would end what it begins now.
    pub fn has_ended(&self, session: SessionId) -> bool {
        let ended = self.ended.read().unwrap_or_else(PoisonError::into_inner);
        ended.get(&session.node).is_some_and(|ended| {
            let (returned, from) = ended.returned;
            session.incarnation <= ended.certain.max(ended.concluded)
                || session.incarnation == returned && session.id < from
        })
    }

    /// Every open connection's mailbox, and the number of the next session: all of these have lower ones.
    pub fn session_mailboxes(&self) -> (Vec<Post<SessionEvent>>, u64) {
        let sessions = self.sessions();
        let mailboxes = sessions.values().cloned().collect();
        (mailboxes, self.next_session.load(Ordering::Relaxed))
    }

    /// Tells the session of every change of that queue's leader from now on; answers the present one.
    pub fn watch(&self, group: GroupId, session: SessionId) -> Leader {
        let (leader, ask) = {
            let mut groups = self.groups();
            let entry = groups.entry(group).or_default();
            if entry.leader.is_none() {
                entry.leader = self.home(group);
            }
            entry.watchers.insert(session);
            (self.place(entry), entry.leader.is_none())
        };
        if ask {
            self.ask(group);
        }
        leader
    }

    /// Ends what [`Directory::watch`] began.
    pub fn unwatch(&self, group: GroupId, session: SessionId) {
        let ends = {
            let ending = self.ending();
            let first = ending.range((group, SessionId::SYSTEM)..).next();
            first.is_some_and(|(other, _)| *other == group)
        };
        if let Some(entry) = self.groups().get_mut(&group) {
            entry.watchers.remove(&session);
        }
        if !ends {
            self.forget(group);
        }
    }

    /// A transient queue's home stands in for a leader while its run lasts.
    fn home(&self, group: GroupId) -> Option<NodeId> {
        self.view.queue_by_group(group)?.home().map(|run| run.node)
    }

    fn place(&self, group: &Group) -> Leader {
        match (group.leader, &group.mailbox) {
            (Some(node), Some(mailbox)) if node == self.node => Leader::Local(mailbox.clone()),
            (Some(node), _) if node != self.node => Leader::Remote(node),
            _ => Leader::Unknown,
        }
    }

    /// Asks the replicas who leads; the answer comes as [`SessionEvent::Leader`].
    pub fn ask(&self, group: GroupId) {
        let Some(queue) = self.view.queue_by_group(group) else {
            return;
        };
        for replica in queue.replicas() {
            if *replica == self.node {
                self.deliver(group, Inbound::LeaderQuery(self.node));
            } else {
                self.tell(*replica, Kind::LeaderQuery(LeaderQuery { group }));
            }
        }
    }

    /// Sends one batch of a session's commands.
    pub fn send(&self, group: GroupId, leader: &Leader, batch: Bytes) -> Result<(), NotSent> {
        match leader {
            Leader::Unknown => {
                self.ask(group);
                Err(NotSent::NoLeader)
            }
            Leader::Local(mailbox) => match mailbox.offer(Inbound::batch(self.node, batch)) {
                Ok(()) => Ok(()),
                Err(Refused::Full) => Err(NotSent::Full),
                Err(Refused::Closed) => Err(NotSent::NoLeader),
            },
            Leader::Remote(node) => self.post(*node, Port::QUEUE, group, batch).map_err(|_| NotSent::Full),
        }
    }

    /// Asks the leader to send again what is checked out to a session.
    pub fn resync(&self, group: GroupId, leader: &Leader, request: queue::Resync) {
        match leader {
            Leader::Unknown => {}
            // A lost question is asked again by the session's retry timer.
            Leader::Local(mailbox) => drop(mailbox.offer(Inbound::Resync(request))),
            Leader::Remote(node) => drop(self.post(*node, Port::RESYNC, group, request.encode_to_vec().into())),
        }
    }

    /// Tells a queue that a session of this node has ended, and forgets that it watched.
    ///
    /// It is told again until it knows; where too many ends wait for that, the queue's leader finds out when it next
    /// compares its sessions with this node.
    pub fn end_session_in(&self, group: GroupId, session: SessionId) {
        {
            let mut ending = self.ending();
            if ending.len() < ENDING_MAX {
                ending.insert((group, session));
            }
        }
        self.tell_end(group, &[session]);
        self.unwatch(group, session);
    }

    fn tell_end(&self, group: GroupId, sessions: &[SessionId]) {
        let leader = {
            let mut groups = self.groups();
            // Its place may have been forgotten with the last session that watched it.
            let entry = groups.entry(group).or_default();
            if entry.leader.is_none() {
                entry.leader = self.home(group);
            }
            self.place(entry)
        };
        for session in sessions {
            let sent = self.send(group, &leader, system(&Command::SessionDown(*session)));
            if let Err(error) = sent {
                tracing::debug!(group, ?session, %error, "the end of a session was not sent");
                return;
            }
        }
    }

    /// Tells queues again which sessions of this node have ended. To be called about once a second.
    pub fn repeat_ends(&self) {
        let ending: Vec<(GroupId, SessionId)> = self.ending().iter().copied().collect();
        for ends in ending.chunk_by(|one, other| one.0 == other.0) {
            let group = ends[0].0;
            let sessions: Vec<SessionId> = ends.iter().map(|(_, session)| *session).collect();
            if self.view.queue_by_group(group).is_some() {
                self.tell_end(group, &sessions);
            } else {
                self.ending().retain(|(other, _)| *other != group);
                self.forget(group);
            }
        }
    }

    /// A queue led from this node has applied the end of a session.
    pub fn end_applied(&self, group: GroupId, session: SessionId) {
        if session.node == self.node {
            self.end_known(group, session);
        } else {
            let ended = SessionEnded {
                group,
                incarnation: session.incarnation,
                id: session.id,
            };
            self.tell(session.node, Kind::SessionEnded(ended));
        }
    }

    /// A queue knows of the end of a session of this node.
    pub fn end_known(&self, group: GroupId, session: SessionId) {
        let known = {
            let mut ending = self.ending();
            let known = ending.remove(&(group, session));
            known
                && ending
                    .range((group, SessionId::SYSTEM)..)
                    .next()
                    .is_none_or(|(other, _)| *other != group)
        };
        if known {
            self.forget(group);
        }
    }

    /// Nobody here may need to know any more where that group is.
    fn forget(&self, group: GroupId) {
        if let Entry::Occupied(entry) = self.groups().entry(group)
            && entry.get().watchers.is_empty()
            && entry.get().mailbox.is_none()
        {
            entry.remove();
        }
    }

    /// An actor for this group runs on this node now.
    pub fn register(&self, group: GroupId, mailbox: impl Mailbox<Inbound> + 'static) {
        let mut groups = self.groups();
        let entry = groups.entry(group).or_default();
        entry.mailbox = Some(Arc::new(Bounded::new(mailbox)));
        if entry.leader.is_none() {
            entry.leader = self.home(group);
        }
        self.notify(group, entry);
    }

    /// The same for a queue's actor. The queue may have been deleted while the actor began, or have gone elsewhere: then
    /// it ends at once.
    pub fn register_queue(&self, group: GroupId, mailbox: impl Mailbox<Inbound> + 'static) {
        self.register(group, mailbox);
        if self.is_retiring(group) && self.view.queue_by_group(group).is_some() {
            return self.replica_removed(group);
        }
        let mut groups = self.groups();
        if let Some(entry) = groups.get_mut(&group)
            && let Some(queue) = entry.placed.take()
            && let Some(mailbox) = &entry.mailbox
        {
            mailbox.always(Inbound::Placed(queue));
        }
        drop(groups);
        // Whoever takes it out of the view after this finds the mailbox.
        if self.view.queue_by_group(group).is_none() {
            self.retiring().remove(&group);
            self.queue_gone(group);
        }
    }

    /// The group's actor on this node.
    pub fn mailbox(&self, group: GroupId) -> Option<Post<Inbound>> {
        self.groups().get(&group)?.mailbox.clone()
    }

    /// Every group actor of this node.
    pub fn mailboxes(&self) -> Vec<Post<Inbound>> {
        self.groups()
            .values()
            .filter_map(|group| group.mailbox.clone())
            .collect()
    }

    /// Hands something to the group's actor on this node; dropped if there is none or its mailbox is full.
    pub fn deliver(&self, group: GroupId, message: Inbound) {
        if let Some(mailbox) = self.mailbox(group)
            && mailbox.offer(message).is_err()
        {
            tracing::debug!(group, "a full mailbox dropped a message");
        }
    }

    /// Hands something to the group's actor that must not be lost and is bounded by what the actor began itself.
    pub fn deliver_always(&self, group: GroupId, message: Inbound) {
        if let Some(mailbox) = self.mailbox(group) {
            mailbox.always(message);
        }
    }

    /// Somebody leads the group in `tenure`, or (with `None`) the leader that was known is no more.
    pub fn leader_is(&self, group: GroupId, (reformed, term): Tenure, leader: Option<NodeId>) {
        self.hear_leader(group, Some(reformed), term, leader);
    }

    /// The same by a build that may not say which decision the group obeys: the latest that this node knows of.
    pub fn hear_leader(&self, group: GroupId, reformed: Option<u64>, term: u64, leader: Option<NodeId>) {
        let mut groups = self.groups();
        let Some(entry) = groups.get_mut(&group) else { return };
        let tenure = (reformed.unwrap_or(entry.tenure.0), term);
        if tenure < entry.tenure || (tenure == entry.tenure && (leader.is_none() || leader == entry.leader)) {
            return;
        }
        entry.tenure = tenure;
        if leader.is_some() {
            entry.leader = leader;
            self.notify(group, entry);
        }
    }

    /// A node that led groups is not reachable: its queues' sessions wait for the next leader.
    pub fn node_down(&self, node: NodeId) {
        let mut groups = self.groups();
        for (group, entry) in groups.iter_mut() {
            if entry.leader == Some(node) && self.home(*group).is_none() {
                entry.leader = None;
                self.notify(*group, entry);
            }
        }
    }

    /// What was sent to or by that node may be lost: its queues' sessions send again.
    pub fn link_reset(&self, node: NodeId) {
        let groups = self.groups();
        for (group, entry) in groups.iter() {
            if entry.leader == Some(node) {
                self.notify(*group, entry);
            }
        }
    }

    /// The queue was deleted, here and everywhere.
    pub fn queue_gone(&self, group: GroupId) {
        let Some(entry) = self.groups().remove(&group) else {
            return;
        };
        if let Some(mailbox) = entry.mailbox {
            mailbox.always(Inbound::Stop { delete: true });
        }
        let sessions = self.sessions();
        for watcher in &entry.watchers {
            if let Some(mailbox) = sessions.get(&watcher.id) {
                mailbox.always(SessionEvent::QueueGone { group });
            }
        }
    }

    /// The replica of this node was removed from the group. Its queue goes on elsewhere.
    pub fn replica_removed(&self, group: GroupId) {
        let mut groups = self.groups();
        // Its actor may be about to begin.
        self.retire(group);
        let Some(entry) = groups.get_mut(&group) else { return };
        entry.placed = None;
        if let Some(mailbox) = entry.mailbox.take() {
            mailbox.always(Inbound::Retire);
        }
        if entry.leader == Some(self.node) {
            entry.leader = None;
            self.notify(group, entry);
        }
    }

    /// Ends the sessions of this node that use the queue.
    pub fn end_users(&self, group: GroupId, text: &str) {
        let groups = self.groups();
        let Some(entry) = groups.get(&group) else { return };
        let sessions = self.sessions();
        for watcher in &entry.watchers {
            if let Some(mailbox) = sessions.get(&watcher.id) {
                // One message for each session, which ends with it.
                mailbox.always(SessionEvent::Close {
                    code: ReplyCode::ConnectionForced,
                    text: text.into(),
                });
            }
        }
    }

    /// Tells the queue's replica of this node, which runs or is about to, where the queue shall be.
    pub fn placed(&self, queue: Arc<Queue>) {
        let mut groups = self.groups();
        let entry = groups.entry(queue.group).or_default();
        match &entry.mailbox {
            // One message for each decision.
            Some(mailbox) => mailbox.always(Inbound::Placed(queue)),
            None => entry.placed = Some(queue),
        }
    }

    /// A node has no replica of that group, and cannot lead it: asks the others who does.
    pub fn no_replica(&self, node: NodeId, group: GroupId) {
        {
            let mut groups = self.groups();
            let Some(entry) = groups.get_mut(&group).filter(|entry| entry.leader == Some(node)) else {
                return;
            };
            if self.home(group).is_some() {
                return;
            }
            entry.leader = None;
            self.notify(group, entry);
        }
        self.ask(group);
    }

    /// The view shows everything that was agreed on before this run began.
    pub fn caught_up(&self) {
        self.up_to_date.store(true, Ordering::Release);
    }

    /// Whether decisions may be based on where the view shows queues to belong.
    pub fn is_up_to_date(&self) -> bool {
        self.up_to_date.load(Ordering::Acquire)
    }

    /// What a removed replica had, which does not run, is about to be deleted.
    pub fn retire(&self, group: GroupId) {
        self.retiring().insert(group);
    }

    /// What the removed replica had is deleted.
    pub fn replica_retired(&self, group: GroupId) {
        self.retiring().remove(&group);
        self.forget(group);
    }

    /// Whether the removed replica of this node is still being deleted.
    pub fn is_retiring(&self, group: GroupId) -> bool {
        self.retiring().contains(&group)
    }

    fn retiring(&self) -> MutexGuard<'_, BTreeSet<GroupId>> {
        self.retiring.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// One message per watcher and change: bounded by the queues that a session uses.
    fn notify(&self, group: GroupId, entry: &Group) {
        let leader = self.place(entry);
        let sessions = self.sessions();
        for watcher in &entry.watchers {
            if let Some(mailbox) = sessions.get(&watcher.id) {
                mailbox.always(SessionEvent::Leader {
                    group,
                    leader: leader.clone(),
                });
            }
        }
    }

    /// Brings a queue's events to a session of this node; answers whether it is there.
    pub fn session_events(&self, session: u64, events: Events) -> bool {
        let mailbox = self.sessions().get(&session).cloned();
        match mailbox {
            // Bounded: deliveries by the consumers' credit, the rest by the session's unapplied window.
            Some(mailbox) => {
                mailbox.always(SessionEvent::Events(events));
                true
            }
            None => false,
        }
    }

    /// A queue's events on their way to a session of another node.
    pub fn envelope(session: SessionId, events: &Events) -> Envelope {
        let mut bytes = BytesMut::new();
        bytes.put_u64_le(session.incarnation);
        events.encode(&mut bytes);
        Envelope {
            port: Port::SESSION,
            to: session.id,
            payload: bytes.freeze(),
        }
    }

    /// Queues an envelope, or hands it back where the link is full.
    pub fn post_envelope(&self, node: NodeId, envelope: Envelope) -> Result<(), Envelope> {
        match self.transport.get() {
            Some(transport) => transport.send(node, envelope).map_err(|error| error.into_envelope()),
            None => Err(envelope),
        }
    }

    /// The same for its parts.
    pub fn post(&self, node: NodeId, port: Port, to: u64, payload: Bytes) -> Result<(), Envelope> {
        self.post_envelope(node, Envelope { port, to, payload })
    }

    /// Tells a node something that may be lost; answers whether its link took it.
    pub fn tell(&self, node: NodeId, kind: Kind) -> bool {
        let payload = NodeMessage { kind: Some(kind) }.encode_to_vec().into();
        let is_taken = self.post(node, Port::NODE, 0, payload).is_ok();
        if !is_taken {
            tracing::debug!(node, "a node message was dropped: the link is full or down");
        }
        is_taken
    }

    /// Tells a node that this one leads; answers whether the link took it.
    pub fn tell_leader(&self, node: NodeId, group: GroupId, tenure: Tenure) -> bool {
        self.tell(node, leader_is(group, tenure, self.node))
    }

    /// A session of another node that does not exist (any more).
    pub fn session_gone(&self, group: GroupId, session: SessionId, to: NodeId) {
        let gone = SessionGone {
            group,
            node: session.node,
            incarnation: session.incarnation,
            id: session.id,
        };
        self.tell(to, Kind::SessionGone(gone));
    }

    /// Nodes that proved themselves to this run.
    pub fn peers(&self) -> Vec<NodeId> {
        self.transport.get().map_or_else(Vec::new, |transport| {
            transport.peers().into_iter().map(|(node, _)| node).collect()
        })
    }
}

/// What another node is told of who leads.
pub fn leader_is(group: GroupId, (reformed, term): Tenure, leader: NodeId) -> Kind {
    Kind::LeaderIs(LeaderIs {
        group,
        term,
        leader,
        reformed: Some(reformed),
    })
}

impl Persisted for Directory {
    /// Of the last write of a removed replica.
    fn persisted(&self, group: GroupId, _: u64) {
        self.replica_retired(group);
    }
}

#[cfg(test)]
mod tests;
