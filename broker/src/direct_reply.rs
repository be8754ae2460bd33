//! Direct reply-to: a requester consumes from `amq.rabbitmq.reply-to`, and what is published to the name that stands in
//! its requests goes to its channel. No queue is behind that name, nothing is kept, and a reply arrives at most once.
//!
//! ```text
//! publish, reply_to: amq.rabbitmq.reply-to ──▶ rewritten to amq.rabbitmq.reply-to.<token> ──▶ replier
//! requester's channel ◀── its session ◀── [Registry of its node] ◀── publish with that name as routing key
//! ```
//!
//! The token says where the requester is, and holds a secret: only those who were sent a request can reply. The name is
//! as good as the consumer: it ends with the consumer's cancelling, its channel or its connection.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use rustc_hash::FxHashMap;
use warren_proto::record::SessionId;

use crate::name::VhostName;
use crate::queue::client::ChannelId;

/// What requesters consume from and name in their requests.
pub const QUEUE: &str = "amq.rabbitmq.reply-to";
/// How the names that repliers publish to begin. Clients cannot declare a queue with such a name.
const PREFIX: &str = "amq.rabbitmq.reply-to.";
/// Bytes of replies that one connection's client has not read; what comes beyond it is dropped.
pub const UNREAD_MAX: usize = 64 << 20;
/// What a reply costs beside its bytes.
const OVERHEAD: usize = 256;
/// A token's bytes: node, incarnation, session, channel, secret.
const TOKEN_LEN: usize = 8 + 8 + 8 + 2 + 16;

/// Which channel replies go to, as the generated name says it.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct Token {
    /// The requester's connection.
    pub session: SessionId,
    /// The number of its channel.
    pub channel: u16,
    /// Cannot be guessed.
    pub secret: [u8; 16],
}

impl Token {
    /// The name that requests carry: 78 bytes that are safe in URLs.
    pub fn name(&self) -> String {
        let mut bytes = Vec::with_capacity(TOKEN_LEN);
        for number in [self.session.node, self.session.incarnation, self.session.id] {
            bytes.extend_from_slice(&number.to_be_bytes());
        }
        bytes.extend_from_slice(&self.channel.to_be_bytes());
        bytes.extend_from_slice(&self.secret);
        format!("{PREFIX}{}", URL_SAFE_NO_PAD.encode(bytes))
    }

    /// Reads such a name; `None` for any other.
    pub fn parse(name: &str) -> Option<Self> {
        let bytes = URL_SAFE_NO_PAD.decode(name.strip_prefix(PREFIX)?).ok()?;
        let bytes: [u8; TOKEN_LEN] = bytes.try_into().ok()?;
        let (node, rest) = bytes.split_first_chunk()?;
        let (incarnation, rest) = rest.split_first_chunk()?;
        let (id, rest) = rest.split_first_chunk()?;
        let (channel, rest) = rest.split_first_chunk()?;
        Some(Self {
            session: SessionId {
                node: u64::from_be_bytes(*node),
                incarnation: u64::from_be_bytes(*incarnation),
                id: u64::from_be_bytes(*id),
            },
            channel: u16::from_be_bytes(*channel),
            secret: rest.try_into().ok()?,
        })
    }
}

/// Whether a name is kept for replies, well formed or not.
pub fn is_reply_name(name: &str) -> bool {
    name.starts_with(PREFIX)
}

/// A reply on its way to the requester. Its bytes are its own, not slices of a larger buffer.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Reply {
    /// Whose reply it is.
    pub token: Token,
    /// Where it was published; names are good in the vhost they come from.
    pub vhost: VhostName,
    /// Flags and values as they were published.
    pub properties: Bytes,
    /// The message's body.
    pub body: Bytes,
}

/// A reply that its requester's connection is to have.
#[derive(Debug)]
pub struct Admitted {
    /// The channel that consumes.
    pub channel: ChannelId,
    /// The message.
    pub reply: Reply,
    /// Its place among what the client has not read.
    pub place: Place,
}

/// What a reply takes up until it is written to the client's socket or dropped.
#[derive(Debug)]
pub struct Place {
    unread: Arc<AtomicUsize>,
    bytes: usize,
}

impl Drop for Place {
    fn drop(&mut self) {
        self.unread.fetch_sub(self.bytes, Ordering::Relaxed);
    }
}

/// The channels of a node that consume replies.
#[derive(Debug, Default)]
pub struct Registry {
    consumers: Mutex<FxHashMap<Token, Consumer>>,
}

#[derive(Debug)]
struct Consumer {
    vhost: VhostName,
    channel: ChannelId,
    unread: Arc<AtomicUsize>,
}

impl Registry {
    fn consumers(&self) -> MutexGuard<'_, FxHashMap<Token, Consumer>> {
        self.consumers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Whether the name's channel consumes, and does so in that vhost.
    pub fn has(&self, token: &Token, vhost: &str) -> bool {
        self.consumers()
            .get(token)
            .is_some_and(|consumer| *consumer.vhost == *vhost)
    }

    /// Finds the reply's channel and a place for it; `None` if it is to be dropped.
    pub fn admit(&self, reply: Reply) -> Option<Admitted> {
        let consumers = self.consumers();
        let consumer = consumers
            .get(&reply.token)
            .filter(|consumer| consumer.vhost == reply.vhost)?;
        let bytes = OVERHEAD + reply.properties.len() + reply.body.len();
        let before = consumer.unread.fetch_add(bytes, Ordering::Relaxed);
        let place = Place {
            unread: Arc::clone(&consumer.unread),
            bytes,
        };
        // The first one always fits, so that no message is too large to be a reply.
        if before > 0 && before.saturating_add(bytes) > UNREAD_MAX {
            tracing::debug!(session = ?reply.token.session, "a reply was dropped: the client does not read");
            return None;
        }
        Some(Admitted {
            channel: consumer.channel,
            reply,
            place,
        })
    }
}

/// A channel's entry in the registry, which ends with it.
#[derive(Debug)]
pub(crate) struct Registration {
    registry: Arc<Registry>,
    pub(crate) token: Token,
}

impl Drop for Registration {
    fn drop(&mut self) {
        self.registry.consumers().remove(&self.token);
    }
}

/// A connection's side: its channels' registrations go through it, and what is written is counted.
#[derive(Debug, Default)]
pub(crate) struct Desk {
    registry: Arc<Registry>,
    unread: Arc<AtomicUsize>,
    /// Replies in the output, with the position at which each ends.
    written: VecDeque<(u64, Place)>,
}

impl Desk {
    pub(crate) fn new(registry: Arc<Registry>) -> Self {
        Self {
            registry,
            ..Self::default()
        }
    }

    pub(crate) fn has(&self, token: &Token, vhost: &str) -> bool {
        self.registry.has(token, vhost)
    }

    pub(crate) fn register(&self, token: Token, vhost: VhostName, channel: ChannelId) -> Registration {
        let consumer = Consumer {
            vhost,
            channel,
            unread: Arc::clone(&self.unread),
        };
        self.registry.consumers().insert(token, consumer);
        Registration {
            registry: Arc::clone(&self.registry),
            token,
        }
    }

    /// A reply was put out; it ends at `end`, counted from the connection's first byte.
    pub(crate) fn put_out(&mut self, end: u64, place: Place) {
        self.written.push_back((end, place));
    }

    /// The socket has taken everything before `position`.
    pub(crate) fn advance(&mut self, position: u64) {
        while self.written.front().is_some_and(|(end, _)| *end <= position) {
            self.written.pop_front();
        }
    }
}

#[cfg(test)]
mod tests;
