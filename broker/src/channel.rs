//! One channel: puts messages together, handles methods in order, and keeps what the client has not settled.
//!
//! ```text
//!  frames --> [assembly] --> method --> handled at once
//!                 |             '-----> waits for an answer: later frames are held
//!                 '--> message --> routed to queues, numbered for its confirm
//! ```
//!
//! It sees no socket and no other channel. A method that fails gives a [`Fault`]; whether that closes the channel or
//! the connection is decided in `connection.rs`.

use std::collections::{BTreeMap, VecDeque};

use bytes::Bytes;
use warren_proto::queue;
use warren_proto::record::{Command, Outcome as Settlement, Run};

use crate::amqp::content::BASIC_CLASS;
use crate::amqp::frame::{Frame, Kind};
use crate::amqp::method::peek_id;
use crate::amqp::output::SHARE_MIN;
use crate::amqp::{Fault, Header, Method, ReplyCode, ShortStr};
use crate::connection::ChannelInfo;
use crate::connection::session::Session;
use crate::name::QueueName;
use crate::queue::client::{Asked, ChannelId};

use self::confirm::{Confirm, Confirms};
use self::direct_reply::Replies;
use self::transaction::Transaction;
use self::unacked::Unacked;
use self::waiting::Waiting;
use self::window::Window;

mod confirm;
mod consume;
mod declare;
mod direct_reply;
mod publish;
mod reading;
mod transaction;
mod unacked;
mod waiting;
mod window;

/// Bodies that announce more than this are not read at all.
const BODY_SIZE_HARD_MAX: u64 = 512 << 20;
/// What a body part costs beside its bytes.
const PART_COST: usize = 64;

/// What a frame means for the channel's place in the connection.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Step {
    Continue,
    /// Answer the client's channel.close; the channel goes on waiting for the answer to ours.
    AnswerClose,
    /// The channel is closed; `answer` the client's channel.close.
    Close {
        answer: bool,
    },
}

/// The address part of basic.publish.
#[derive(Debug)]
struct Address {
    exchange: ShortStr,
    routing_key: ShortStr,
    mandatory: bool,
}

/// A message that came completely.
#[derive(Debug)]
struct Message {
    address: Address,
    properties: Bytes,
    parts: Vec<Bytes>,
}

/// A message of which something is missing.
#[derive(Debug)]
enum Assembly {
    Header(Address),
    /// `cost`: what it has added to the session's unfinished bytes.
    Body {
        message: Message,
        missing: u64,
        cost: usize,
    },
}

/// See the module.
#[derive(Debug)]
pub(crate) struct Channel {
    id: ChannelId,
    is_closing: bool,
    assembly: Option<Assembly>,
    waiting: Option<Waiting>,
    held: VecDeque<Frame>,
    /// Its last message has not reached all its queues.
    is_fanning_out: bool,
    /// The method being handled or waited for: what a fault names.
    method: (u16, u16),
    confirms: Option<Confirms>,
    transaction: Option<Box<Transaction>>,
    has_confirms: bool,
    confirm_frames: Vec<Confirm>,
    last_tag: u64,
    unacked: Unacked,
    prefetch: u16,
    window: Window,
    consumers: BTreeMap<ShortStr, u32>,
    replies: Option<Replies>,
    /// What an empty queue name means.
    last_queue: Option<QueueName>,
}

impl Channel {
    pub(crate) fn new(id: ChannelId) -> Self {
        Self {
            id,
            is_closing: false,
            assembly: None,
            waiting: None,
            held: VecDeque::new(),
            is_fanning_out: false,
            method: (0, 0),
            confirms: None,
            transaction: None,
            has_confirms: false,
            confirm_frames: Vec::new(),
            last_tag: 0,
            unacked: Unacked::default(),
            prefetch: 0,
            window: Window::default(),
            consumers: BTreeMap::new(),
            replies: None,
            last_queue: None,
        }
    }

    /// Other nodes are asked whether there is room for this channel; what comes meanwhile waits.
    pub(crate) fn count(&mut self) {
        self.waiting = Some(Waiting::Count);
    }

    /// They have answered.
    pub(crate) fn counted(&mut self) {
        if let Some(Waiting::Count) = self.waiting {
            self.waiting = None;
        }
    }

    pub(crate) fn id(&self) -> ChannelId {
        self.id
    }

    /// Whether channel.close was sent and its answer is awaited.
    pub(crate) fn is_closing(&self) -> bool {
        self.is_closing
    }

    /// Whether a frame must wait for its turn.
    pub(crate) fn is_held(&self) -> bool {
        self.is_waiting() || !self.held.is_empty()
    }

    fn is_waiting(&self) -> bool {
        self.waiting.is_some() || self.is_fanning_out || self.is_committing()
    }

    /// Its last message has reached all its queues.
    pub(crate) fn fanned_out(&mut self) {
        self.is_fanning_out = false;
    }

    pub(crate) fn hold(&mut self, frame: Frame) {
        self.held.push_back(frame);
    }

    /// The next held frame whose turn has come.
    pub(crate) fn take_held(&mut self) -> Option<Frame> {
        if self.is_waiting() { None } else { self.held.pop_front() }
    }

    pub(crate) fn into_held(self) -> VecDeque<Frame> {
        self.held
    }

    pub(crate) fn on_frame_while_closing(&mut self, frame: &Frame) -> Step {
        if frame.kind != Kind::Method {
            return Step::Continue;
        }
        match Method::decode(&frame.payload) {
            Ok(Method::ChannelCloseOk {}) => Step::Close { answer: false },
            Ok(Method::ChannelClose { .. }) => Step::AnswerClose,
            _ => Step::Continue,
        }
    }

    pub(crate) fn on_frame(&mut self, session: &mut Session, frame: Frame) -> Result<Step, Fault> {
        let unexpected = |text: &str| Err(Fault::new(ReplyCode::UnexpectedFrame, text));
        match (self.assembly.take(), frame.kind) {
            (None, Kind::Method) => {
                let method = Method::decode(&frame.payload)
                    .map_err(|error| Fault::from(error).of(peek_id(&frame.payload).unwrap_or_default()))?;
                self.method = method.id();
                self.on_method(session, method).map_err(|fault| fault.of(self.method))
            }
            (None, _) => unexpected("expected method frame, got non method frame instead"),
            (Some(Assembly::Header(address)), Kind::Header) => self
                .on_header(session, address, &frame.payload)
                .map_err(|fault| fault.of(self.method)),
            (Some(Assembly::Header(_)), _) => {
                unexpected("expected content header for class 60, got non content header frame instead")
                    .map_err(|fault| fault.of(self.method))
            }
            (Some(Assembly::Body { message, missing, cost }), Kind::Body) => self
                .on_body(session, message, (missing, cost), frame.payload)
                .map_err(|fault| fault.of(self.method)),
            (Some(Assembly::Body { .. }), _) => unexpected("expected content body, got non content body frame instead")
                .map_err(|fault| fault.of(self.method)),
        }
    }

    fn on_header(&mut self, session: &mut Session, address: Address, payload: &Bytes) -> Result<Step, Fault> {
        let header = Header::decode(payload)?;
        if header.class != BASIC_CLASS {
            let text = format!(
                "expected content header for class 60, got one for class {} instead",
                header.class
            );
            return Err(Fault::new(ReplyCode::UnexpectedFrame, text));
        }
        let (size, max) = (header.body_size, session.limits.message_size_max);
        if size > BODY_SIZE_HARD_MAX {
            let text = format!("content of {size} bytes exceeds the maximum of {BODY_SIZE_HARD_MAX}");
            return Err(Fault::new(ReplyCode::FrameError, text));
        }
        if size > max {
            let text = format!("message size {size} is larger than configured max size {max}");
            return Err(Fault::new(ReplyCode::PreconditionFailed, text));
        }
        let message = Message {
            address,
            properties: header.properties,
            parts: std::mem::take(&mut session.parts),
        };
        self.on_part(session, message, size, 0)
    }

    fn on_body(
        &mut self,
        session: &mut Session,
        mut message: Message,
        (missing, cost): (u64, usize),
        part: Bytes,
    ) -> Result<Step, Fault> {
        session.published_short |= session.shortage.is_any();
        session.unfinished_bytes = session.unfinished_bytes.saturating_sub(cost);
        let Some(missing) = missing.checked_sub(part.len() as u64) else {
            let text = format!(
                "content body exceeds the announced size by {} bytes",
                part.len() as u64 - missing
            );
            return Err(Fault::new(ReplyCode::FrameError, text));
        };
        let cost = cost + part.len() + PART_COST;
        if !part.is_empty() {
            // A small part would keep all of the buffer that it was read into.
            let keep = missing > 0 && part.len() < SHARE_MIN;
            message
                .parts
                .push(if keep { Bytes::copy_from_slice(&part) } else { part });
        }
        self.on_part(session, message, missing, cost)
    }

    /// `missing` is the rest of the body, `cost` what the parts of it that came cost while they wait.
    fn on_part(
        &mut self,
        session: &mut Session,
        mut message: Message,
        missing: u64,
        cost: usize,
    ) -> Result<Step, Fault> {
        if missing > 0 {
            session.unfinished_bytes += cost;
            self.assembly = Some(Assembly::Body { message, missing, cost });
            if session.unfinished_bytes > session.limits.unfinished_bytes_max {
                let text = format!(
                    "unfinished messages hold more than {} bytes",
                    session.limits.unfinished_bytes_max
                );
                return Err(Fault::new(ReplyCode::ResourceError, text));
            }
            return Ok(Step::Continue);
        }
        let result = self.publish(session, &mut message);
        session.parts = message.parts;
        session.parts.clear();
        result.map(|()| Step::Continue)
    }

    fn on_method(&mut self, session: &mut Session, method: Method) -> Result<Step, Fault> {
        let not_implemented = |text: &str| Err(Fault::new(ReplyCode::NotImplemented, text));
        match method {
            Method::BasicPublish { immediate: true, .. } => return not_implemented("immediate=true"),
            Method::BasicPublish {
                exchange,
                routing_key,
                mandatory,
                ..
            } => {
                session.published_short |= session.shortage.is_any();
                self.assembly = Some(Assembly::Header(Address {
                    exchange,
                    routing_key,
                    mandatory,
                }));
            }
            Method::BasicAck { delivery_tag, multiple } => {
                self.settle(session, delivery_tag, multiple, Settlement::Ack)?;
            }
            Method::BasicNack {
                delivery_tag,
                multiple,
                requeue,
            } => {
                let outcome = if requeue {
                    Settlement::Release
                } else {
                    Settlement::Discard
                };
                self.settle(session, delivery_tag, multiple, outcome)?;
            }
            Method::BasicReject { delivery_tag, requeue } => {
                let outcome = if requeue {
                    Settlement::Reject
                } else {
                    Settlement::Discard
                };
                self.settle(session, delivery_tag, false, outcome)?;
            }
            Method::BasicRecover { requeue: false } | Method::BasicRecoverAsync { requeue: false } => {
                return not_implemented("requeue=false");
            }
            Method::BasicRecover { .. } => {
                self.recover(session);
                session.reply(self.id.number, &Method::BasicRecoverOk {});
            }
            Method::BasicRecoverAsync { .. } => self.recover(session),
            Method::BasicQos {
                prefetch_size,
                prefetch_count,
                global,
            } => {
                if prefetch_size != 0 {
                    return not_implemented(&format!("prefetch_size!=0 ({prefetch_size})"));
                }
                if global {
                    self.window.set_limit(prefetch_count);
                    self.go_on_delivering(session);
                } else {
                    // For each consumer that starts later.
                    self.prefetch = prefetch_count;
                }
                session.reply(self.id.number, &Method::BasicQosOk {});
            }
            Method::BasicConsume {
                queue,
                consumer_tag,
                no_ack,
                exclusive,
                no_wait,
                arguments,
                ..
            } => {
                let consume = consume::Consume {
                    queue,
                    consumer_tag,
                    no_ack,
                    exclusive,
                    no_wait,
                    arguments,
                };
                self.consume(session, consume)?;
            }
            Method::BasicCancel { consumer_tag, no_wait } => self.cancel(session, consumer_tag, no_wait),
            Method::BasicGet { queue, no_ack } => self.get(session, &queue, no_ack)?,
            Method::ConfirmSelect { no_wait } => {
                if self.transaction.is_some() {
                    let text = "cannot switch from tx to confirm mode";
                    return Err(Fault::new(ReplyCode::PreconditionFailed, text));
                }
                self.confirms.get_or_insert_default();
                if !no_wait {
                    session.reply(self.id.number, &Method::ConfirmSelectOk {});
                }
            }
            Method::ChannelFlow { active: true } => {
                session.reply(self.id.number, &Method::ChannelFlowOk { active: true });
            }
            Method::ChannelFlow { active: false } => return not_implemented("active=false"),
            Method::ChannelClose { .. } => return Ok(Step::Close { answer: true }),
            Method::ChannelOpen {} => {
                return Err(Fault::new(ReplyCode::ChannelError, "second 'channel.open' seen"));
            }
            Method::AccessRequest { .. } => {
                session.reply(self.id.number, &Method::AccessRequestOk { ticket: 1 });
            }
            Method::TxSelect {} => self.select_transaction(session)?,
            Method::TxCommit {} => self.commit(session)?,
            Method::TxRollback {} => self.roll_back(session)?,
            // Answers to what the broker may have sent.
            Method::BasicCancelOk { .. } | Method::ChannelFlowOk { .. } => {}
            Method::ExchangeDeclare { .. }
            | Method::ExchangeDelete { .. }
            | Method::ExchangeBind { .. }
            | Method::ExchangeUnbind { .. }
            | Method::QueueDeclare { .. }
            | Method::QueueBind { .. }
            | Method::QueuePurge { .. }
            | Method::QueueDelete { .. }
            | Method::QueueUnbind { .. } => self.on_topology(session, method)?,
            _ => return Err(Fault::new(ReplyCode::CommandInvalid, "unimplemented method")),
        }
        Ok(Step::Continue)
    }

    /// The queue that a method means: an empty name stands for the one last declared on this channel.
    fn queue_name(&self, name: &str) -> Result<QueueName, Fault> {
        if !name.is_empty() {
            return Ok(QueueName::from(name));
        }
        self.last_queue
            .clone()
            .ok_or_else(|| Fault::new(ReplyCode::NotFound, "no previously declared queue"))
    }

    /// Queues have these publishes.
    pub(crate) fn confirmed(&mut self, session: &mut Session, run: Run) {
        if let Some(transaction) = &mut self.transaction {
            return transaction.answered(run, true);
        }
        let Some(confirms) = &mut self.confirms else { return };
        for tag in run.numbers() {
            confirms.taken(tag);
        }
        self.note_confirms(session);
    }

    /// A queue does not take these publishes.
    pub(crate) fn refused(&mut self, session: &mut Session, run: Run) {
        if let Some(transaction) = &mut self.transaction {
            return transaction.answered(run, false);
        }
        let Some(confirms) = &mut self.confirms else { return };
        for tag in run.numbers() {
            confirms.refused(tag);
        }
        self.note_confirms(session);
    }

    fn note_confirms(&mut self, session: &mut Session) {
        if !self.has_confirms && self.confirms.as_ref().is_some_and(Confirms::is_ready) {
            self.has_confirms = true;
            session.confirming.push(self.id.number);
        }
    }

    /// Writes the confirms that have come up.
    pub(crate) fn put_confirms(&mut self, session: &mut Session) {
        self.has_confirms = false;
        let Some(confirms) = &mut self.confirms else { return };
        confirms.drain(&mut self.confirm_frames);
        for frame in self.confirm_frames.drain(..) {
            let method = match frame {
                Confirm::Ack { tag, multiple } => Method::BasicAck {
                    delivery_tag: tag,
                    multiple,
                },
                Confirm::Nack { tag } => Method::BasicNack {
                    delivery_tag: tag,
                    multiple: false,
                    requeue: true,
                },
            };
            session.output.put_method(self.id.number, &method);
        }
    }

    /// The channel closes: its consumers end and its messages go back.
    pub(crate) fn abandon(&mut self, session: &mut Session) {
        self.is_closing = true;
        self.waiting = None;
        if let Some(Assembly::Body { cost, .. }) = self.assembly.take() {
            session.unfinished_bytes = session.unfinished_bytes.saturating_sub(cost);
        }
        self.confirms = None;
        self.replies = None;
        // What the transaction would have settled is unsettled.
        self.drop_transaction(session);
        // What waits goes back with its consumers.
        self.window.clear();
        let ended = std::mem::take(&mut self.consumers).into_values();
        let consumers: Vec<(u32, u64)> = ended
            .filter_map(|id| Some((id, session.consumers.remove(&id)?.group)))
            .collect();
        // What the client had counts as failed, as at the end of a channel's process. Before that its consumers end, or
        // they would be given more.
        if self.unacked.len() > 0 {
            self.cancel_all(session, &consumers, false);
            self.unacked.take_all(|_, held| {
                session.settle(Settlement::Reject, held.group, held.message, held.consumer);
            });
        }
        // What was on its way goes back.
        self.cancel_all(session, &consumers, true);
    }

    fn cancel_all(&self, session: &mut Session, consumers: &[(u32, u64)], requeue: bool) {
        for &(consumer, group) in consumers {
            let cancel = Command::Cancel(queue::Cancel { consumer, requeue });
            session.ask(group, self.id, Asked::Cancel(consumer), &cancel);
        }
    }

    /// For listings.
    pub(crate) fn describe(&self) -> ChannelInfo {
        ChannelInfo {
            number: self.id.number,
            consumer_count: self.consumers.len() as u32 + u32::from(self.replies.is_some()),
            messages_unacknowledged: self.unacked.len() as u64,
            messages_unconfirmed: self.confirms.as_ref().map_or(0, Confirms::open) as u64,
            confirm: self.confirms.is_some(),
            transaction: self.transaction.as_deref().map(Transaction::len),
            prefetch_count: self.prefetch,
            held_frames: self.held.len() as u64,
        }
    }
}
