//! What a queue owes its sessions, gathered over one round of applied entries: one message per session.

use std::sync::Arc;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use warren_cluster::transport::Envelope;
use warren_cluster::{GroupId, NodeId};
use warren_proto::queue;
use warren_proto::queue::reply::Kind as ReplyKind;
use warren_proto::record::{Delivery, Events, SessionId};

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
            Effect::Applied { session, upto } => {
                let events = self.events(session, term);
                events.applied = events.applied.max(upto);
            }
            Effect::Refused { session, run } => self.events(session, term).refused.push(run),
            Effect::Reply { session, seq, reply } => self.events(session, term).replies.push((seq, reply)),
            Effect::ConsumerTimedOut { session, consumer } => {
                let kind = Some(ReplyKind::ConsumerTimedOut(queue::ConsumerTimedOut { consumer }));
                self.events(session, term).replies.push((0, queue::Reply { kind }));
            }
            Effect::Gap { session, expected } => {
                let events = self.events(session, term);
                events.applied = events.applied.max(expected.saturating_sub(1));
            }
            Effect::Deliver {
                session,
                consumer,
                delivery_id,
                get_seq,
                seq,
                redelivered,
                acquired,
                failed,
                at,
            } => {
                let Some(payload) = payload(at) else {
                    tracing::error!(
                        group = self.group,
                        index = at.index,
                        "the log does not hold a live message"
                    );
                    return false;
                };
                let bytes = payload.len();
                let delivery = Delivery {
                    consumer,
                    delivery_id,
                    seq,
                    get_seq,
                    redelivered,
                    acquired,
                    failed,
                    payload,
                };
                self.events(session, term).deliveries.push(delivery);
                if let Some(open) = self.open.get_mut(&session) {
                    open.bytes += bytes;
                    if open.bytes > EVENTS_BYTES_MAX {
                        let applied = open.events.applied;
                        let full = std::mem::take(&mut open.events);
                        open.events = Events {
                            group: self.group,
                            term,
                            applied,
                            ..Events::default()
                        };
                        open.bytes = 0;
                        self.post(session, full);
                    }
                }
            }
            Effect::Ended { session } => self.directory.end_applied(self.group, session),
            Effect::Gone => return true,
        }
        false
    }

    fn events(&mut self, session: SessionId, term: u64) -> &mut Events {
        let group = self.group;
        &mut self
            .open
            .entry(session)
            .or_insert_with(|| Open {
                events: Events {
                    group,
                    term,
                    ..Events::default()
                },
                bytes: 0,
            })
            .events
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
