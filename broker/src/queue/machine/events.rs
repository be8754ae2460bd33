//! What an effect is to the session that it concerns.

use bytes::Bytes;
use warren_proto::queue;
use warren_proto::queue::reply::Kind as ReplyKind;
use warren_proto::record::{Delivery, Events, SessionId};

use super::{Effect, Place};

impl Effect {
    /// Whom it concerns; nobody hears of the end of a session or of the queue.
    pub fn session(&self) -> Option<SessionId> {
        match self {
            Self::Applied { session, .. }
            | Self::Refused { session, .. }
            | Self::Reply { session, .. }
            | Self::Deliver { session, .. }
            | Self::Gap { session, .. }
            | Self::ConsumerTimedOut { session, .. } => Some(*session),
            Self::Ended { .. } | Self::Gone => None,
        }
    }

    /// The message that it delivers.
    pub fn place(&self) -> Option<Place> {
        match self {
            Self::Deliver { at, .. } => Some(*at),
            _ => None,
        }
    }

    /// Adds it to its session's events; `payload` is the message at [`Effect::place`].
    pub fn add_to(self, events: &mut Events, payload: Bytes) {
        match self {
            Self::Applied { upto, .. } => events.applied = events.applied.max(upto),
            Self::Refused { run, .. } => events.refused.push(run),
            Self::Reply { seq, reply, .. } => events.replies.push((seq, reply)),
            Self::ConsumerTimedOut { consumer, .. } => {
                let kind = Some(ReplyKind::ConsumerTimedOut(queue::ConsumerTimedOut { consumer }));
                events.replies.push((0, queue::Reply { kind }));
            }
            Self::Gap { expected, .. } => events.applied = events.applied.max(expected.saturating_sub(1)),
            Self::Deliver {
                consumer,
                delivery_id,
                get_seq,
                seq,
                redelivered,
                acquired,
                failed,
                ..
            } => events.deliveries.push(Delivery {
                consumer,
                delivery_id,
                seq,
                get_seq,
                redelivered,
                acquired,
                failed,
                payload,
            }),
            Self::Ended { .. } | Self::Gone => {}
        }
    }
}
