//! What the channels of one connection share: who the client is, its output, its queues, its permissions and routes.

use std::collections::VecDeque;
use std::sync::Arc;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use bytes::Bytes;
use rand::RngCore as _;
use rand::rngs::StdRng;
use rustc_hash::FxHashMap;
use warren_proto::record::{Outcome, SessionId};

use super::Limits;
use super::census::{Census, Seat};
use super::fanout::Fanouts;
use super::queues::Queues;
use super::routes::Routes;
use crate::alarms::Shortage;
use crate::amqp::{Fault, Method, Output, ReplyCode, ShortStr, Table, Value};
use crate::direct_reply::{Desk, Place, Reply, Token};
use crate::exchange;
use crate::metadata::{Access, Change, Kind, Permission, Picture, Refusal, TopicPermissions, View};
use crate::name::{UserName, VhostName};
use crate::queue::client::{Accepted, Asked, ChannelId};

/// Access that was granted is remembered for this many names.
const GRANTED_MAX: usize = 12;
/// A consumer without a limit of its own reports after this many written deliveries.
const CREDIT_STEP: u64 = 500;

/// Something that the core asks of its shell.
#[derive(Debug)]
pub enum Effect {
    /// Have the metadata changed; the outcome comes back through `Connection::on_outcome`.
    Submit(ChannelId, Box<Change>),
    /// Tell these queues that the session has ended, as its last word to them.
    EndSession(Vec<u64>),
    /// Have the session's exclusive queues deleted; `Connection::on_session_ended` comes back.
    EndExclusive,
    /// Send a direct reply to its requester.
    Reply(Box<Reply>),
    /// Ask the other nodes how many connections and channels the client's vhost and user have;
    /// `Connection::on_count` comes back. For connection.open, or for a channel that opens.
    Count(Option<ChannelId>),
    /// Ask another node for a requester; `Connection::on_reply_queue` comes back, with `false` if no answer does.
    AskReply(ChannelId, Token),
}

/// What the client can do, from its properties.
#[derive(Clone, Copy, Debug, Default)]
pub(crate) struct Capabilities {
    pub(crate) consumer_cancel_notify: bool,
    pub(crate) authentication_failure_close: bool,
    pub(crate) connection_blocked: bool,
}

impl Capabilities {
    pub(crate) fn of(properties: &Table) -> Self {
        let has = |name| {
            let Some(Value::Table(capabilities)) = properties.get("capabilities") else {
                return false;
            };
            matches!(capabilities.get(name), Some(Value::Bool(true)))
        };
        Self {
            consumer_cancel_notify: has("consumer_cancel_notify"),
            authentication_failure_close: has("authentication_failure_close"),
            connection_blocked: has("connection.blocked"),
        }
    }
}

/// One consumer of the connection.
#[derive(Debug)]
pub(crate) struct Consumer {
    pub(crate) channel: ChannelId,
    pub(crate) tag: ShortStr,
    pub(crate) group: u64,
    pub(crate) kind: Kind,
    pub(crate) no_ack: bool,
    pub(crate) prefetch: u16,
    /// How long it may hold a message; 0: for ever.
    pub(crate) timeout_ms: u64,
    /// Deliveries written to the socket, and how many of them the queue was told of.
    written: u64,
    credited: u64,
}

impl Consumer {
    pub(crate) fn new(
        channel: ChannelId,
        tag: ShortStr,
        queue: &crate::metadata::Queue,
        no_ack: bool,
        prefetch: u16,
        timeout_ms: u64,
    ) -> Self {
        Self {
            channel,
            tag,
            group: queue.group,
            kind: queue.kind,
            no_ack,
            prefetch,
            timeout_ms,
            written: 0,
            credited: 0,
        }
    }

    /// Whether it matters how far its deliveries got.
    pub(crate) fn notes_writes(&self) -> bool {
        self.no_ack || self.prefetch == 0 || self.kind == Kind::Stream
    }
}

/// A delivery in the output that matters once it is written.
#[derive(Clone, Copy, Debug)]
struct Written {
    /// Where it ends, counted from the connection's first byte.
    end: u64,
    consumer: u32,
    group: u64,
    /// The message to acknowledge, for a consumer that does not.
    message: Option<u64>,
}

/// See the module.
pub struct Session {
    pub(crate) limits: Arc<Limits>,
    pub(crate) id: SessionId,
    pub(crate) now_ms: u64,
    pub(crate) output: Output,
    pub(crate) frame_max: u32,
    pub(crate) user: UserName,
    pub(crate) vhost: VhostName,
    pub(crate) client: Capabilities,
    pub(crate) queues: Queues,
    pub(crate) consumers: FxHashMap<u32, Consumer>,
    pub(crate) effects: Vec<Effect>,
    /// Changes of the metadata that were asked for and have no outcome yet.
    pub(crate) submitted: u32,
    pub(crate) routes: Routes,
    pub(crate) replies: Desk,
    pub(crate) census: Arc<Census>,
    /// The connection counts from connection.open to its end.
    pub(crate) seat: Option<Seat>,
    /// Channels with confirms to send.
    pub(crate) confirming: Vec<u16>,
    /// Bytes held by the open transactions of all channels.
    pub(crate) transaction_bytes: usize,
    /// Set when the session declares its first exclusive queue.
    pub(crate) owns_exclusive: bool,
    /// What the cluster is short of.
    pub(crate) shortage: Shortage,
    /// Something was published during the shortage.
    pub(crate) published_short: bool,
    /// What unfinished messages cost, over all channels.
    pub(crate) unfinished_bytes: usize,
    /// Messages that have not reached all their queues.
    pub(crate) fanouts: Fanouts,
    /// Body parts of the message at hand; kept for its room.
    pub(crate) parts: Vec<Bytes>,
    view: View,
    picture: Option<Arc<Picture>>,
    rng: StdRng,
    next_consumer: u32,
    permission: Option<Arc<Permission>>,
    permission_is_fresh: bool,
    /// For topic exchanges; `None` where nothing is refused.
    topics: Option<Arc<TopicPermissions>>,
    granted: VecDeque<(Access, String)>,
    written_bytes: u64,
    awaiting_write: VecDeque<Written>,
}

impl Session {
    pub(crate) fn new(limits: Arc<Limits>, id: SessionId, view: View, rng: StdRng, now_ms: u64) -> Self {
        Self {
            frame_max: limits.frame_max,
            limits,
            id,
            now_ms,
            output: Output::new(),
            user: UserName::default(),
            vhost: VhostName::default(),
            client: Capabilities::default(),
            queues: Queues::new(id),
            consumers: FxHashMap::default(),
            effects: Vec::new(),
            submitted: 0,
            routes: Routes::default(),
            replies: Desk::default(),
            census: Arc::default(),
            seat: None,
            confirming: Vec::new(),
            transaction_bytes: 0,
            owns_exclusive: false,
            shortage: Shortage::default(),
            published_short: false,
            unfinished_bytes: 0,
            fanouts: Fanouts::new(),
            parts: Vec::new(),
            view,
            picture: None,
            rng,
            next_consumer: 1,
            permission: None,
            permission_is_fresh: false,
            topics: None,
            granted: VecDeque::new(),
            written_bytes: 0,
            awaiting_write: VecDeque::new(),
        }
    }

    /// A turn begins: what was read of the metadata may be old.
    pub(crate) fn begin_turn(&mut self, now_ms: u64) {
        self.now_ms = now_ms;
        self.picture = None;
        self.permission_is_fresh = false;
        self.routes.validate(self.view.routing_version());
    }

    /// Lets go of the metadata's picture, which an idle connection must not keep alive.
    pub(crate) fn end_turn(&mut self) {
        self.picture = None;
    }

    /// The metadata as they are in this turn.
    pub(crate) fn picture(&mut self) -> Arc<Picture> {
        let view = &self.view;
        Arc::clone(self.picture.get_or_insert_with(|| view.picture()))
    }

    pub(crate) fn reply(&mut self, channel: u16, method: &Method) {
        self.output.put_method(channel, method);
    }

    /// 22 random characters that are safe in names.
    pub(crate) fn random_name(&mut self, prefix: &str) -> String {
        format!("{prefix}{}", URL_SAFE_NO_PAD.encode(self.random_bytes()))
    }

    /// A number for whatever is decided by chance about one message.
    pub(crate) fn draw(&mut self) -> u64 {
        self.rng.next_u64()
    }

    pub(crate) fn random_bytes(&mut self) -> [u8; 16] {
        let mut bytes = [0; 16];
        self.rng.fill_bytes(&mut bytes);
        bytes
    }

    /// Whether the client's user may do this to the named queue or exchange; 403 if not. `kind` is for the text.
    pub(crate) fn allow(&mut self, access: Access, kind: &'static str, name: &str) -> Result<(), Fault> {
        let (kind, name) = if kind == "exchange" && name.is_empty() {
            (kind, "amq.default")
        } else {
            (kind, name)
        };
        if self.is_granted(access, name) {
            return Ok(());
        }
        let text = format!(
            "{access} access to {kind} '{name}' in vhost '{}' refused for user '{}'",
            self.vhost, self.user
        );
        Err(Fault::new(ReplyCode::AccessRefused, text))
    }

    /// The consumers whose queue the client's user may no longer read from, by number.
    pub(crate) fn unreadable_consumers(&mut self) -> Vec<u32> {
        let picture = self.picture();
        let mut lost = Vec::new();
        let mut consumers: Vec<(u32, u64)> = self.consumers.iter().map(|(id, of)| (*id, of.group)).collect();
        consumers.sort_unstable();
        for (id, group) in consumers {
            if let Some(queue) = picture.queue_by_group(group)
                && !self.is_granted(Access::Read, &queue.name)
            {
                lost.push(id);
            }
        }
        lost
    }

    /// Whether the client's user may do anything at all with the named queue or exchange.
    pub(crate) fn allow_any(&mut self, kind: &'static str, name: &str) -> Result<(), Fault> {
        if [Access::Write, Access::Read]
            .into_iter()
            .any(|access| self.is_granted(access, name))
        {
            return Ok(());
        }
        self.allow(Access::Configure, kind, name)
    }

    fn is_granted(&mut self, access: Access, name: &str) -> bool {
        if !self.permission_is_fresh {
            let picture = self.picture();
            let permission = picture.permission(&self.user, &self.vhost).cloned();
            self.topics = picture.topic_permissions(&self.user, &self.vhost).cloned();
            let is_same = match (&permission, &self.permission) {
                (Some(new), Some(old)) => Arc::ptr_eq(new, old),
                _ => false,
            };
            if !is_same {
                self.granted.clear();
                self.permission = permission;
            }
            self.permission_is_fresh = true;
        }
        if self.granted.iter().any(|(had, of)| *had == access && of == name) {
            return true;
        }
        let granted = self
            .permission
            .as_ref()
            .is_some_and(|permission| permission.allows(access, name));
        if granted {
            if self.granted.len() == GRANTED_MAX {
                self.granted.pop_front();
            }
            self.granted.push_back((access, name.to_owned()));
        }
        granted
    }

    /// Whether the client's user may publish to the exchange, or bind to it, with that key; 403 if not. Asked once
    /// access to the exchange itself is granted.
    pub(crate) fn allow_topic(&mut self, access: Access, exchange: &str, routing_key: &str) -> Result<(), Fault> {
        let Some(topics) = &self.topics else { return Ok(()) };
        if topics.allows(access, exchange, routing_key) {
            return Ok(());
        }
        let picture = self.picture();
        let known = picture.exchange(&self.vhost, exchange);
        if known.is_none_or(|exchange| exchange.kind != exchange::Kind::Topic) {
            return Ok(());
        }
        let text = format!(
            "{access} access to topic '{routing_key}' in exchange '{exchange}' in vhost '{}' refused for user '{}'",
            self.vhost, self.user
        );
        Err(Fault::new(ReplyCode::AccessRefused, text))
    }

    /// Has the metadata changed for a channel.
    pub(crate) fn submit(&mut self, channel: ChannelId, change: Change) {
        self.submitted += 1;
        self.effects.push(Effect::Submit(channel, Box::new(change)));
    }

    /// A number for a new consumer.
    pub(crate) fn new_consumer(&mut self) -> u32 {
        let number = self.next_consumer;
        self.next_consumer = self.next_consumer.wrapping_add(1).max(1);
        number
    }

    /// Notes that the last bytes put out are a delivery to `consumer`.
    pub(crate) fn note_delivery(&mut self, consumer: u32, group: u64, message: Option<u64>) {
        let end = self.written_bytes + self.output.len() as u64;
        self.awaiting_write.push_back(Written {
            end,
            consumer,
            group,
            message,
        });
    }

    /// Notes that the last bytes put out are a direct reply.
    pub(crate) fn note_reply(&mut self, place: Place) {
        let end = self.written_bytes + self.output.len() as u64;
        self.replies.put_out(end, place);
    }

    /// The socket took `written` more bytes.
    pub(crate) fn advance(&mut self, written: usize) {
        self.output.advance(written);
        self.written_bytes += written as u64;
        self.replies.advance(self.written_bytes);
        while let Some(delivery) = self.awaiting_write.front().copied()
            && delivery.end <= self.written_bytes
        {
            self.awaiting_write.pop_front();
            if let Some(message) = delivery.message
                && let Some(client) = self.queues.known(delivery.group)
            {
                client.settle(Outcome::Ack, message, delivery.consumer, self.now_ms);
            }
            let Some(consumer) = self.consumers.get_mut(&delivery.consumer) else {
                continue;
            };
            if consumer.kind == Kind::Stream {
                if let Some(client) = self.queues.known(delivery.group) {
                    client.wrote(delivery.consumer);
                }
                continue;
            }
            consumer.written += 1;
            if consumer.written >= consumer.credited + CREDIT_STEP
                && let Some(client) = self.queues.known(delivery.group)
            {
                consumer.credited = consumer.written;
                client.credit(delivery.consumer, consumer.written, self.now_ms);
            }
        }
    }

    /// Settles a message that a consumer was given, 0: a get, with its queue, if the queue is still there. False if the
    /// queue is not told: see [`QueueClient::settle`](crate::queue::client::QueueClient::settle).
    pub(crate) fn settle(&mut self, outcome: Outcome, group: u64, message: u64, consumer: u32) -> bool {
        let now_ms = self.now_ms;
        match self.queues.known(group) {
            Some(client) => client.settle(outcome, message, consumer, now_ms),
            None => true,
        }
    }

    /// Puts a question to a queue.
    pub(crate) fn ask(
        &mut self,
        group: u64,
        channel: ChannelId,
        asked: Asked,
        command: &warren_proto::record::Command<'_>,
    ) {
        let now_ms = self.now_ms;
        self.queues.client(group).ask(channel, asked, command, now_ms);
    }

    /// Judges one delivery; see [`crate::queue::client::QueueClient::accept`].
    pub(crate) fn accept(
        &mut self,
        events: &warren_proto::record::Events,
        delivery: &warren_proto::record::Delivery,
    ) -> Accepted {
        let now_ms = self.now_ms;
        match self.queues.known(events.group) {
            Some(client) => client.accept(events, delivery, now_ms),
            None => Accepted::Drop,
        }
    }
}

/// A refusal as the client hears it.
pub(crate) fn refused(refusal: &Refusal) -> Fault {
    let (code, text) = refusal.fault();
    Fault::new(code, text)
}
