//! What a queue owes its sessions, gathered over one round of applied entries: one message per session.

use std::sync::Arc;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use warren_cluster::transport::Envelope;
use warren_cluster::{GroupId, NodeId};
use warren_proto::record::{Events, SessionId};

use super::machine::{Effect, Place};
use crate::directory::Directory;

/// Bytes of deliveries after which a session's message is closed and the next begun.
const EVENTS_BYTES_MAX: usize = 1 << 20;

pub(super) struct Outbox {
    group: GroupId,
    directory: Arc<Directory>,
    open: FxHashMap<SessionId, Open>,
    /// Messages that a full link refused, in order per node; sent when it has room.
    stalled: FxHashMap<NodeId, Vec<Envelope>>,
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
        }
    }

    /// Adds what an effect means for its session; `payload` reads a message's bytes.
    /// Answers whether the queue has ended.
    pub(super) fn add(&mut self, effect: Effect, term: u64, payload: impl FnOnce(Place) -> Option<Bytes>) -> bool {
        match effect {
            Effect::Ended { session } => {
                self.directory.end_applied(self.group, session);
                return false;
            }
            Effect::Gone => return true,
            _ => {}
        }
        let Some(session) = effect.session() else { return false };
        let payload = match effect.place() {
            None => Bytes::new(),
            Some(at) => match payload(at) {
                Some(payload) => payload,
                None => {
                    tracing::error!(
                        group = self.group,
                        index = at.index,
                        "the log does not hold a live message"
                    );
                    return false;
                }
            },
        };
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
        false
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

    /// The link has room again: sends what it refused.
    pub(super) fn writable(&mut self, node: NodeId) {
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
    }
}

#[cfg(test)]
mod tests;
