//! What a queue owes its sessions, gathered over one round of applied entries: one message per session.
//!
//! Before that, every node is told that this replica leads: its sessions may have nothing to send by which they would learn
//! whom to ask again.
//!
//! A session may be owed more than its node's link takes, or memory. What a full link refused waits as it is; what comes
//! after it waits by name, and its messages are read when there is room.

use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use warren_cluster::transport::Envelope;
use warren_cluster::{GroupId, NodeId};
use warren_proto::record::{Events, SessionId};

use super::machine::{Effect, Place};
use crate::directory::{Directory, Tenure};

/// Bytes of deliveries after which a session's message is closed and the next begun.
const EVENTS_BYTES_MAX: usize = 1 << 20;

pub(super) struct Outbox {
    group: GroupId,
    directory: Arc<Directory>,
    open: FxHashMap<SessionId, Open>,
    /// Messages that a full link refused, in order per node; sent when it has room.
    stalled: FxHashMap<NodeId, Vec<Envelope>>,
    /// What is to be sent after them. Never empty.
    owed: FxHashMap<NodeId, VecDeque<Owed>>,
    /// Since when this replica leads.
    leads: Option<Tenure>,
    /// Nodes that do not know that it does, because their links had no room.
    untold: BTreeSet<NodeId>,
    /// Whether the queue has ended and the metadata were not asked to forget it.
    ended: bool,
}

struct Owed {
    effect: Effect,
    term: u64,
    /// Of a message that may be gone from the queue by then: a get's.
    payload: Option<Bytes>,
}

#[derive(Default)]
struct Open {
    events: Events,
    bytes: usize,
}

impl Outbox {
    pub(super) fn new(group: GroupId, directory: Arc<Directory>) -> Self {
        Self {
            group,
            directory,
            open: FxHashMap::default(),
            stalled: FxHashMap::default(),
            owed: FxHashMap::default(),
            leads: None,
            untold: BTreeSet::new(),
            ended: false,
        }
    }

    /// This replica leads from now on: tells every other node.
    pub(super) fn lead(&mut self, tenure: Tenure) {
        self.leads = Some(tenure);
        let own = self.directory.node();
        self.directory.leader_is(self.group, tenure, Some(own));
        for peer in self.directory.peers() {
            self.tell(peer);
        }
    }

    /// Tells a node that this replica leads, if it does.
    pub(super) fn tell(&mut self, node: NodeId) {
        let Some(tenure) = self.leads else { return };
        if self.directory.tell_leader(node, self.group, tenure) {
            self.untold.remove(&node);
        } else {
            self.untold.insert(node);
        }
    }

    /// Adds what an effect means for its session; `payload` reads a message's bytes.
    pub(super) fn add(&mut self, effect: Effect, term: u64, payload: impl FnOnce(Place) -> Option<Bytes>) {
        match effect {
            Effect::Ended { session } => self.directory.end_applied(self.group, session),
            Effect::Gone => self.ended = true,
            _ => {
                // Of a get without acknowledgement nothing is left afterwards.
                let stays = matches!(effect, Effect::Deliver { consumer: 1.., .. });
                self.add_to_session(effect, term, stays, payload);
            }
        }
    }

    /// The same with what a session asked for again: all of it is held by the session.
    pub(super) fn add_again(&mut self, effect: Effect, term: u64, payload: impl FnOnce(Place) -> Option<Bytes>) {
        self.add_to_session(effect, term, true, payload);
    }

    /// `stays`: the message can be read later as well.
    fn add_to_session(&mut self, effect: Effect, term: u64, stays: bool, payload: impl FnOnce(Place) -> Option<Bytes>) {
        let Some(session) = effect.session() else { return };
        let waits = self.waits(session.node);
        let place = effect.place().filter(|_| !(waits && stays));
        let payload = place.map(|at| (at, payload(at)));
        if let Some((at, None)) = payload {
            tracing::error!(
                group = self.group,
                index = at.index,
                "the log does not hold a live message"
            );
            return;
        }
        let payload = payload.and_then(|(_, payload)| payload);
        if waits {
            let owed = Owed { effect, term, payload };
            self.owed.entry(session.node).or_default().push_back(owed);
        } else {
            self.gather(session, effect, term, payload.unwrap_or_default());
        }
    }

    /// The same with a stream's message. Its reader keeps clear of nodes whose links are full.
    pub(super) fn add_read(&mut self, effect: Effect, term: u64, payload: Bytes) {
        if let Some(session) = effect.session() {
            self.gather(session, effect, term, payload);
        }
    }

    fn gather(&mut self, session: SessionId, effect: Effect, term: u64, payload: Bytes) {
        let bytes = payload.len();
        let open = self.open(session, term);
        effect.add_to(&mut open.events, payload);
        open.bytes += bytes;
        if open.bytes > EVENTS_BYTES_MAX {
            open.bytes = 0;
            let next = Events {
                group: open.events.group,
                term,
                applied: open.events.applied,
                ..Events::default()
            };
            let full = std::mem::replace(&mut open.events, next);
            self.post(session, full);
        }
    }

    /// Whether something is to be sent to that node before anything else.
    fn waits(&self, node: NodeId) -> bool {
        self.stalled.contains_key(&node) || self.owed.contains_key(&node)
    }

    /// Whether [`Outbox::pay`] has something to do.
    pub(super) fn can_pay(&self) -> bool {
        self.owed.keys().any(|node| !self.stalled.contains_key(node))
    }

    /// Adds what waited by name for links that have room again, until they are full; `payload` as for [`Outbox::add`].
    pub(super) fn pay(&mut self, mut payload: impl FnMut(Place) -> Option<Bytes>) {
        for (node, mut owed) in std::mem::take(&mut self.owed) {
            let mut bytes = 0;
            while !self.stalled.contains_key(&node)
                && let Some(next) = owed.pop_front()
            {
                let Some(session) = next.effect.session() else { continue };
                let read = next.payload.or_else(|| match next.effect.place() {
                    Some(at) => payload(at),
                    None => Some(Bytes::new()),
                });
                // One that is gone was taken back from that session meanwhile.
                if let Some(read) = read {
                    bytes += read.len();
                    self.gather(session, next.effect, next.term, read);
                }
                // However many sessions share it, what the link has no room for is not read.
                if bytes > EVENTS_BYTES_MAX {
                    bytes = 0;
                    self.post_all(node);
                }
            }
            if !owed.is_empty() {
                self.owed.insert(node, owed);
            }
        }
    }

    /// Sends what was gathered for a node's sessions.
    fn post_all(&mut self, node: NodeId) {
        let of_node = self.open.extract_if(|session, _| session.node == node);
        for (session, open) in of_node.collect::<Vec<_>>() {
            self.post(session, open.events);
        }
    }

    /// The session asks for its deliveries again: those that wait by name will come anew.
    pub(super) fn asked_again(&mut self, session: SessionId) {
        let Some(owed) = self.owed.get_mut(&session.node) else {
            return;
        };
        let comes_anew = |owed: &Owed| owed.effect.place().is_some() && owed.payload.is_none();
        owed.retain(|owed| owed.effect.session() != Some(session) || !comes_anew(owed));
        if owed.is_empty() {
            self.owed.remove(&session.node);
        }
    }

    /// This replica leads no more: whoever does knows what is owed.
    pub(super) fn abdicate(&mut self) {
        self.owed.clear();
        self.leads = None;
        self.untold.clear();
    }

    fn open(&mut self, session: SessionId, term: u64) -> &mut Open {
        let group = self.group;
        self.open.entry(session).or_insert_with(|| Open {
            events: Events {
                group,
                term,
                ..Events::default()
            },
            bytes: 0,
        })
    }

    /// Sends what was gathered. Answers sessions of this node that do not exist.
    pub(super) fn flush(&mut self) -> Vec<SessionId> {
        let mut gone = Vec::new();
        for (session, open) in std::mem::take(&mut self.open) {
            if !self.post(session, open.events) {
                gone.push(session);
            }
        }
        gone
    }

    fn post(&mut self, session: SessionId, events: Events) -> bool {
        if session == SessionId::SYSTEM {
            return true;
        }
        if session.node == self.directory.node() {
            return session.incarnation == self.directory.incarnation()
                && self.directory.session_events(session.id, events);
        }
        let envelope = Directory::envelope(session, &events);
        // Nothing overtakes what waits for the same link.
        let refused = if self.stalled.contains_key(&session.node) {
            Err(envelope)
        } else {
            self.directory.post_envelope(session.node, envelope)
        };
        if let Err(envelope) = refused {
            self.stalled.entry(session.node).or_default().push(envelope);
        }
        true
    }

    /// Whether the queue has ended, once. Not before what it owes is sent: sessions hear of its end from the metadata, which
    /// could overtake the answer to who deleted it.
    pub(super) fn take_ended(&mut self) -> bool {
        let is_sent = self.open.is_empty() && self.stalled.is_empty() && self.owed.is_empty();
        is_sent && std::mem::take(&mut self.ended)
    }

    /// The nodes whose links were full.
    pub(super) fn stalled(&self) -> Vec<NodeId> {
        self.stalled.keys().chain(self.owed.keys()).copied().collect()
    }

    /// The link has room again: sends what it refused.
    pub(super) fn writable(&mut self, node: NodeId) {
        if self.untold.contains(&node) {
            self.tell(node);
        }
        let Some(stalled) = self.stalled.remove(&node) else {
            return;
        };
        let mut rest = stalled.into_iter();
        for envelope in rest.by_ref() {
            if let Err(envelope) = self.directory.post_envelope(node, envelope) {
                let mut left = vec![envelope];
                left.extend(rest);
                self.stalled.insert(node, left);
                return;
            }
        }
    }

    /// What was on its way to that node is lost with the link; its sessions ask again.
    pub(super) fn reset(&mut self, node: NodeId) {
        self.stalled.remove(&node);
        self.owed.remove(&node);
    }
}

#[cfg(test)]
mod tests;
