//! One client connection: handshake, tuning, the table of channels, heartbeats, and the way to its end.
//!
//! [`Connection`] is the core. Its shell, `actor.rs`, owns the socket, the mailbox and the timer: it feeds bytes,
//! events and time in, and between two turns performs what came out of the last.
//!
//! ```text
//!          begin                                        end_turn
//!   turn:    |-- on_input / on_events / on_tick / ... -----|--> output bytes, batches for queues, effects
//! ```
//!
//! Frames stop here and methods stop at the channel. A channel that waits for an answer holds its further frames;
//! the others go on. The session's last word to its queues is said after they have applied all before it.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::{Buf as _, BytesMut};
use rand::rngs::StdRng;
use rustc_hash::FxHashMap;
use warren_proto::record::{Events, Outcome as Settlement, SessionId};

use crate::amqp::frame::{self, FRAME_OVERHEAD, Frame, Kind};
use crate::amqp::method::peek_id;
use crate::amqp::{Fault, Method, Output, ReplyCode, Table};
use crate::channel::{Channel, Step};
use crate::direct_reply::{Admitted, Desk, Registry};
use crate::directory::Deleted;
use crate::metadata::{Outcome, View};
use crate::queue::client::{Accepted, ChannelId, Notice};

pub use self::describe::{ChannelInfo, ConnectionInfo, Description};
pub use self::limits::Limits;
pub use self::queues::Carrier;
pub(crate) use self::queues::Queues;
pub use self::session::{Effect, Session};

pub mod actor;
mod describe;
pub(crate) mod fanout;
mod handshake;
mod limits;
mod queues;
pub mod registry;
mod routes;
pub(crate) mod session;
mod shortage;
mod socket;
pub mod way;

/// A refused login or an unreadable stream is kept waiting this long, so that guessing is slow.
const REFUSED_MS: u64 = 3_000;
/// How long connection.close-ok is waited for.
const CLOSE_OK_MS: u64 = 10_000;
/// How long the queues of an ended connection are waited for.
const LINGER_MS: u64 = 10_000;
/// How soon a batch is offered again to a full mailbox or link.
const RETRY_MS: u64 = 10;
/// How often time passes for queues that have not answered.
const TICK_MS: u64 = 300;
/// Largest frame before tuning: a start-ok with many client properties fits.
const FRAME_MAX_UNTUNED: u32 = 64 << 10;

/// The two ends of the socket.
#[derive(Clone, Copy, Debug)]
pub struct Ends {
    /// The client.
    pub peer: SocketAddr,
    /// This node.
    pub local: SocketAddr,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// Waits for the protocol header.
    Header,
    /// Waits for connection.start-ok.
    Start,
    /// Waits for connection.tune-ok.
    Tune,
    /// Waits for connection.open.
    Open,
    Running,
    /// connection.close was sent.
    Closing {
        until_ms: u64,
    },
    /// Nothing more is understood or said.
    Refused {
        until_ms: u64,
    },
    /// connection.close came; close-ok goes out once the session has ended.
    Answering,
    /// What is in the output is the last.
    Closed {
        until_ms: u64,
    },
    /// There is no socket.
    Lost,
}

/// How far the session's end has come.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Ending {
    No,
    /// The queues apply what they were sent, and changes that were asked for are made or refused.
    Draining {
        until_ms: u64,
    },
    /// The exclusive queues are deleted.
    Deleting {
        until_ms: u64,
    },
    Done,
}

/// The core of a client connection. See the module.
pub struct Connection {
    phase: Phase,
    ending: Ending,
    session: Session,
    channels: FxHashMap<u16, Channel>,
    openings: u32,
    held_bytes: usize,
    resumable: Vec<u16>,
    notices: Vec<Notice>,
    ends: Ends,
    accepted_ms: u64,
    received_ms: u64,
    /// When the last bytes, or a heartbeat, were put out.
    sent_ms: u64,
    /// When the socket last took bytes.
    written_ms: u64,
    heartbeat_ms: u64,
    channel_max: u16,
    mechanism: &'static str,
    client_properties: Table,
    reading: bool,
    /// When `reading` was last changed.
    gated_ms: u64,
    blocking: shortage::Blocking,
    refusal: Option<Fault>,
    counters: Counters,
}

#[derive(Clone, Copy, Debug, Default)]
struct Counters {
    bytes_in: u64,
    frames_in: u64,
    bytes_out: u64,
    writes: u64,
    connected_at_ms: u64,
}

impl Connection {
    /// A connection that was just accepted. `unix_ms` is for listings only.
    pub fn new(
        limits: Arc<Limits>,
        id: SessionId,
        ends: Ends,
        view: View,
        rng: StdRng,
        now_ms: u64,
        unix_ms: u64,
    ) -> Self {
        Self {
            phase: Phase::Header,
            ending: Ending::No,
            channel_max: limits.channel_max,
            session: Session::new(limits, id, view, rng, now_ms),
            channels: FxHashMap::default(),
            openings: 0,
            held_bytes: 0,
            resumable: Vec::new(),
            notices: Vec::new(),
            ends,
            accepted_ms: now_ms,
            received_ms: now_ms,
            sent_ms: now_ms,
            written_ms: now_ms,
            heartbeat_ms: 0,
            mechanism: "",
            client_properties: Table::new(),
            reading: true,
            gated_ms: now_ms,
            blocking: shortage::Blocking::default(),
            refusal: None,
            counters: Counters {
                connected_at_ms: unix_ms,
                ..Counters::default()
            },
        }
    }

    /// Answers connection.open with this fault.
    pub fn refuse_open(&mut self, fault: Fault) {
        self.refusal = Some(fault);
    }

    /// Direct replies find the connection's channels in this registry.
    pub fn share_replies(&mut self, registry: Arc<Registry>) {
        self.session.replies = Desk::new(registry);
    }

    /// The session's identity.
    pub fn id(&self) -> SessionId {
        self.session.id
    }

    /// Where the connection was opened.
    pub fn vhost(&self) -> &str {
        &self.session.vhost
    }

    /// A turn begins: time and metadata are as they are now.
    pub fn begin(&mut self, now_ms: u64) {
        self.session.begin_turn(now_ms);
    }

    /// Takes in what was read from the socket; leaves an incomplete frame in `input`. `read` bytes of it are new.
    pub fn on_input(&mut self, input: &mut BytesMut, read: usize) {
        self.received_ms = self.session.now_ms;
        self.counters.bytes_in += read as u64;
        loop {
            match self.phase {
                Phase::Header => {
                    if input.len() < frame::PROTOCOL_HEADER.len() {
                        return;
                    }
                    self.on_header(
                        &input[..frame::PROTOCOL_HEADER.len()] == frame::PROTOCOL_HEADER.as_slice(),
                        input,
                    );
                }
                Phase::Refused { .. } | Phase::Answering | Phase::Closed { .. } | Phase::Lost => return input.clear(),
                Phase::Start | Phase::Tune | Phase::Open | Phase::Running | Phase::Closing { .. } => {
                    match frame::decode(input, self.session.frame_max) {
                        Ok(Some(frame)) => self.on_frame(frame),
                        Ok(None) => return,
                        Err(error) => {
                            self.fault(0, Fault::from(error));
                            // Where the next frame starts is unknown: the answer could not be read.
                            self.refuse();
                        }
                    }
                }
            }
        }
    }

    fn on_header(&mut self, current: bool, input: &mut BytesMut) {
        let legacy = input.starts_with(b"AMQP\x01\x01\x00\x09");
        input.advance(frame::PROTOCOL_HEADER.len());
        if current || legacy {
            self.phase = Phase::Start;
            self.session.frame_max = FRAME_MAX_UNTUNED.min(self.session.limits.frame_max);
            let start = handshake::start(&self.session.limits.cluster_name);
            self.session.reply(0, &start);
        } else {
            self.session.output.put_slice(&frame::PROTOCOL_HEADER);
            self.close_now();
        }
    }

    fn on_frame(&mut self, frame: Frame) {
        self.counters.frames_in += 1;
        let number = frame.channel;
        if frame.kind == Kind::Heartbeat {
            if number != 0 {
                let text = "type 8, all octets = <<>>";
                self.fault(0, Fault::new(ReplyCode::UnexpectedFrame, text));
            } else if !frame.payload.is_empty() {
                let text = format!("type 8, {} octets: unknown_frame", frame.payload.len());
                self.fault(0, Fault::new(ReplyCode::FrameError, text));
            }
            return;
        }
        if number == 0 {
            return self.on_control_frame(&frame);
        }
        match self.phase {
            Phase::Running => self.on_channel_frame(frame),
            Phase::Closing { .. } => {}
            _ => self.fault(
                0,
                Fault::new(ReplyCode::ChannelError, "frame on a channel before connection.open"),
            ),
        }
    }

    /// A frame on channel 0.
    fn on_control_frame(&mut self, frame: &Frame) {
        if frame.kind != Kind::Method {
            let fault = Fault::new(
                ReplyCode::UnexpectedFrame,
                "expected method frame, got non method frame instead",
            );
            return self.fault(0, fault);
        }
        let method = match Method::decode(&frame.payload) {
            Ok(method) => method,
            Err(error) => {
                let id = peek_id(&frame.payload).unwrap_or_default();
                return self.fault(0, Fault::from(error).of(id));
            }
        };
        let id = method.id();
        let result = match (self.phase, method) {
            (Phase::Closing { .. }, Method::ConnectionCloseOk {}) => {
                self.close_now();
                Ok(())
            }
            (Phase::Closing { .. }, Method::ConnectionClose { .. }) => {
                self.session.reply(0, &Method::ConnectionCloseOk {});
                Ok(())
            }
            (Phase::Closing { .. }, _) => Ok(()),
            (
                Phase::Start,
                Method::ConnectionStartOk {
                    client_properties,
                    mechanism,
                    response,
                    ..
                },
            ) => {
                self.start_ok(&client_properties, &mechanism, &response);
                Ok(())
            }
            (
                Phase::Tune,
                Method::ConnectionTuneOk {
                    channel_max,
                    frame_max,
                    heartbeat,
                },
            ) => self.tune_ok(channel_max, frame_max, heartbeat),
            (Phase::Open, Method::ConnectionOpen { virtual_host }) => self.open(&virtual_host),
            (Phase::Tune | Phase::Open | Phase::Running, Method::ConnectionClose { .. }) => {
                self.phase = Phase::Answering;
                self.begin_end();
                Ok(())
            }
            (Phase::Running, Method::ConnectionUpdateSecret { .. }) => {
                self.session.reply(0, &Method::ConnectionUpdateSecretOk {});
                Ok(())
            }
            (phase, _) => {
                let text = format!("unexpected method in connection state {}", phase.name());
                Err(Fault::new(ReplyCode::ChannelError, text))
            }
        };
        if let Err(fault) = result {
            self.fault(0, fault.of(id));
        }
    }

    fn start_ok(&mut self, properties: &Table, mechanism: &str, response: &bytes::Bytes) {
        self.session.client = session::Capabilities::of(properties);
        self.client_properties = properties.detach();
        let picture = self.session.picture();
        let login = handshake::Login {
            mechanism,
            response,
            peer: self.ends.peer.ip(),
        };
        match handshake::login(&login, &picture, &self.session.limits.loopback_users) {
            Ok((user, mechanism)) => {
                self.mechanism = mechanism;
                self.session.user = user;
                self.phase = Phase::Tune;
                let limits = &self.session.limits;
                self.session.frame_max = limits.frame_max;
                let (channel_max, frame_max, heartbeat) = (limits.channel_max, limits.frame_max, limits.heartbeat_s);
                self.session.reply(
                    0,
                    &Method::ConnectionTune {
                        channel_max,
                        frame_max,
                        heartbeat,
                    },
                );
            }
            Err(handshake::Refused::Login { reason, mechanism }) => {
                tracing::warn!(peer = %self.ends.peer, %reason, "a login was refused");
                if self.session.client.authentication_failure_close {
                    let text = format!(
                        "Login was refused using authentication mechanism {mechanism}. \
                         For details see the broker logfile."
                    );
                    let close = Fault::new(ReplyCode::AccessRefused, text).connection_close();
                    self.session.reply(0, &close);
                    self.phase = Phase::Closing {
                        until_ms: self.session.now_ms + REFUSED_MS,
                    };
                    self.begin_end();
                } else {
                    self.refuse();
                }
            }
            Err(handshake::Refused::Malformed(reason)) => {
                tracing::warn!(peer = %self.ends.peer, %reason, "a handshake was refused");
                self.refuse();
            }
        }
    }

    fn tune_ok(&mut self, channel_max: u16, frame_max: u32, heartbeat: u16) -> Result<(), Fault> {
        let tuned = handshake::tune(&self.session.limits, channel_max, frame_max)?;
        self.session.frame_max = tuned.frame_max;
        self.channel_max = tuned.channel_max;
        self.heartbeat_ms = u64::from(heartbeat) * 1_000;
        self.phase = Phase::Open;
        Ok(())
    }

    fn open(&mut self, vhost: &str) -> Result<(), Fault> {
        if let Some(refusal) = self.refusal.take() {
            return Err(refusal);
        }
        let picture = self.session.picture();
        self.session.vhost = handshake::open(&picture, &self.session.user, vhost)?;
        self.phase = Phase::Running;
        self.session.reply(0, &Method::ConnectionOpenOk {});
        let user = &self.session.user;
        tracing::info!(peer = %self.ends.peer, %user, vhost, "connection opened");
        Ok(())
    }

    fn on_channel_frame(&mut self, frame: Frame) {
        let number = frame.channel;
        let Some(channel) = self.channels.get_mut(&number) else {
            return self.open_channel(&frame);
        };
        if channel.is_held() {
            self.held_bytes += held_len(&frame);
            channel.hold(frame);
            return;
        }
        self.run_channel(number, frame);
    }

    fn run_channel(&mut self, number: u16, frame: Frame) {
        let Some(channel) = self.channels.get_mut(&number) else {
            return;
        };
        let step = if channel.is_closing() {
            Ok(channel.on_frame_while_closing(&frame))
        } else {
            channel.on_frame(&mut self.session, frame)
        };
        match step {
            Ok(Step::Continue) => {}
            Ok(Step::AnswerClose) => self.session.reply(number, &Method::ChannelCloseOk {}),
            Ok(Step::Close { answer }) => {
                if answer {
                    self.session.reply(number, &Method::ChannelCloseOk {});
                }
                let Some(mut channel) = self.channels.remove(&number) else {
                    return;
                };
                channel.abandon(&mut self.session);
                // What came after the close is for the channel's next opening.
                for frame in channel.into_held() {
                    self.held_bytes = self.held_bytes.saturating_sub(held_len(&frame));
                    self.on_channel_frame(frame);
                }
            }
            Err(fault) => self.fault(number, fault),
        }
    }

    fn open_channel(&mut self, frame: &Frame) {
        let number = frame.channel;
        let is_open =
            frame.kind == Kind::Method && matches!(Method::decode(&frame.payload), Ok(Method::ChannelOpen {}));
        if !is_open {
            let seen = peek_id(&frame.payload)
                .filter(|_| frame.kind == Kind::Method)
                .unwrap_or_default();
            return self.fault(
                0,
                Fault::new(ReplyCode::ChannelError, "expected 'channel.open'").of(seen),
            );
        }
        if self.channels.len() >= usize::from(self.channel_max) {
            let text = format!(
                "number of channels opened ({}) has reached the negotiated channel_max ({})",
                self.channels.len(),
                self.channel_max
            );
            return self.fault(0, Fault::new(ReplyCode::NotAllowed, text));
        }
        self.openings = self.openings.wrapping_add(1);
        self.channels.insert(
            number,
            Channel::new(ChannelId {
                number,
                opening: self.openings,
            }),
        );
        self.session.reply(number, &Method::ChannelOpenOk {});
    }

    /// The one place where a fault becomes a close of the channel or the connection.
    fn fault(&mut self, number: u16, fault: Fault) {
        if number != 0 && !fault.code.is_hard() {
            if let Some(channel) = self.channels.get_mut(&number) {
                tracing::debug!(peer = %self.ends.peer, channel = number, %fault, "channel closed");
                channel.abandon(&mut self.session);
                self.session.reply(number, &fault.channel_close());
                self.resumable.push(number);
            }
            return;
        }
        match self.phase {
            // What fails before tuning is not answered.
            Phase::Header | Phase::Start => self.refuse(),
            Phase::Tune | Phase::Open | Phase::Running => {
                tracing::warn!(peer = %self.ends.peer, channel = number, %fault, "connection closed");
                self.session.reply(0, &fault.connection_close());
                self.phase = Phase::Closing {
                    until_ms: self.session.now_ms + CLOSE_OK_MS,
                };
                self.begin_end();
            }
            Phase::Closing { .. } | Phase::Refused { .. } | Phase::Answering | Phase::Closed { .. } | Phase::Lost => {}
        }
    }

    /// The broker wants the connection closed.
    pub fn on_close(&mut self, code: ReplyCode, text: &str) {
        match self.phase {
            Phase::Header | Phase::Start => self.close_now(),
            _ => self.fault(0, Fault::new(code, text)),
        }
    }

    /// A user or a vhost was deleted: closes the connection if it is this one's.
    pub fn on_deleted(&mut self, deleted: &Deleted) {
        let text = match deleted {
            Deleted::User(name) if *name == self.session.user => format!("user '{name}' is deleted"),
            Deleted::Vhost(name) if *name == self.session.vhost => format!("vhost '{name}' is deleted"),
            Deleted::User(_) | Deleted::Vhost(_) => return,
        };
        self.on_close(ReplyCode::ConnectionForced, &text);
    }

    /// The socket is gone, or is to be dropped.
    pub fn on_lost(&mut self) {
        self.phase = Phase::Lost;
        self.session.output.clear();
        self.begin_end();
    }

    fn refuse(&mut self) {
        self.phase = Phase::Refused {
            until_ms: self.session.now_ms + REFUSED_MS,
        };
        self.begin_end();
    }

    fn close_now(&mut self) {
        self.phase = Phase::Closed {
            until_ms: self.session.now_ms + CLOSE_OK_MS,
        };
        self.begin_end();
    }

    fn begin_end(&mut self) {
        // Their messages and consumers end with the session.
        self.channels.clear();
        self.session.consumers.clear();
        self.session.unfinished_bytes = 0;
        self.held_bytes = 0;
        if self.ending == Ending::No {
            self.ending = Ending::Draining {
                until_ms: self.session.now_ms + LINGER_MS,
            };
        }
    }

    /// A queue's word.
    pub fn on_events(&mut self, events: &Events) {
        let now_ms = self.session.now_ms;
        let mut notices = std::mem::take(&mut self.notices);
        let Some(client) = self.session.queues.known(events.group) else {
            self.notices = notices;
            return;
        };
        client.apply(events, now_ms, &mut notices);
        self.dispatch(&mut notices);
        for delivery in &events.deliveries {
            match self.session.accept(events, delivery) {
                Accepted::Drop => {}
                Accepted::Return => self.session.settle(Settlement::Release, events.group, delivery.seq),
                Accepted::Deliver => {
                    // One whose channel has closed is given back by the cancelling of its consumer.
                    let Some(consumer) = self.session.consumers.get(&delivery.consumer) else {
                        continue;
                    };
                    let id = consumer.channel;
                    if let Some(channel) = self.channels.get_mut(&id.number).filter(|channel| channel.id() == id) {
                        channel.deliver(&mut self.session, delivery);
                    }
                }
                Accepted::Got(id, ready) => {
                    if let Some(channel) = self.channels.get_mut(&id.number).filter(|channel| channel.id() == id) {
                        channel.got(&mut self.session, events.group, delivery, ready);
                        self.resumable.push(id.number);
                    } else {
                        self.session.settle(Settlement::Release, events.group, delivery.seq);
                    }
                }
            }
        }
        if let Some(client) = self.session.queues.known(events.group) {
            client.finish(events, now_ms, &mut notices);
        }
        self.dispatch(&mut notices);
        self.notices = notices;
    }

    /// A queue has a new leader, or something sent to or by the old one may be lost.
    pub fn on_leader(&mut self, group: u64) {
        let now_ms = self.session.now_ms;
        if let Some(client) = self.session.queues.known(group) {
            client.rewind(now_ms);
        }
    }

    /// A queue was deleted.
    pub fn on_queue_gone(&mut self, group: u64) {
        let mut notices = std::mem::take(&mut self.notices);
        self.session.queues.remove(group, &mut notices);
        self.dispatch(&mut notices);
        self.notices = notices;
        let mut ended: Vec<u32> = self
            .session
            .consumers
            .iter()
            .filter(|(_, consumer)| consumer.group == group)
            .map(|(id, _)| *id)
            .collect();
        ended.sort_unstable();
        for id in ended {
            let Some(consumer) = self.session.consumers.remove(&id) else {
                continue;
            };
            if let Some(channel) = self.channels.get_mut(&consumer.channel.number) {
                channel.consumer_ended(&mut self.session, &consumer.tag);
            }
        }
    }

    /// A queue has ended a consumer that held a message for too long.
    fn on_consumer_timed_out(&mut self, consumer: u32) {
        let Some(consumer) = self.session.consumers.remove(&consumer) else {
            return;
        };
        let number = consumer.channel.number;
        let channel = self.channels.get_mut(&number);
        let Some(channel) = channel.filter(|channel| channel.id() == consumer.channel) else {
            return;
        };
        if let Err(fault) = channel.consumer_timed_out(&mut self.session, &consumer) {
            self.fault(number, fault);
        }
    }

    /// What became of a change that [`Effect::Submit`] asked for; `None` if nobody could say in time.
    pub fn on_outcome(&mut self, id: ChannelId, outcome: Option<Outcome>) {
        self.session.submitted = self.session.submitted.saturating_sub(1);
        let Some(channel) = self.channels.get_mut(&id.number).filter(|channel| channel.id() == id) else {
            return;
        };
        let result = channel.on_outcome(&mut self.session, outcome);
        self.resumable.push(id.number);
        if let Err(fault) = result {
            self.fault(id.number, fault);
        }
    }

    /// A direct reply for one of the channels.
    pub fn on_reply(&mut self, admitted: Admitted) {
        let id = admitted.channel;
        if let Some(channel) = self.channels.get_mut(&id.number).filter(|channel| channel.id() == id) {
            channel.deliver_reply(&mut self.session, admitted);
        }
    }

    /// Whether the requester that [`Effect::AskReply`] asked for is there; `queue` is its generated name.
    pub fn on_reply_queue(&mut self, id: ChannelId, queue: &str, exists: bool) {
        let Some(channel) = self.channels.get_mut(&id.number).filter(|channel| channel.id() == id) else {
            return;
        };
        let result = channel.pseudo_queue_is(&mut self.session, queue, exists);
        self.resumable.push(id.number);
        if let Err(fault) = result {
            self.fault(id.number, fault);
        }
    }

    /// The exclusive queues are deleted, or could not be.
    pub fn on_session_ended(&mut self) {
        if let Ending::Deleting { .. } = self.ending {
            self.finish_end();
        }
    }

    fn dispatch(&mut self, notices: &mut Vec<Notice>) {
        for notice in notices.drain(..) {
            let (id, notice) = match notice {
                Notice::Confirmed(id, run) => {
                    if let Some(channel) = self.channels.get_mut(&id.number).filter(|channel| channel.id() == id) {
                        channel.confirmed(&mut self.session, run);
                        self.go_on_after_commit(id.number);
                    }
                    continue;
                }
                Notice::Refused(id, run) => {
                    if let Some(channel) = self.channels.get_mut(&id.number).filter(|channel| channel.id() == id) {
                        channel.refused(&mut self.session, run);
                        self.go_on_after_commit(id.number);
                    }
                    continue;
                }
                Notice::ConsumerTimedOut(consumer) => {
                    self.on_consumer_timed_out(consumer);
                    continue;
                }
                Notice::Forgotten => {
                    let fault = Fault::new(ReplyCode::InternalError, "the cluster took this node for dead");
                    self.fault(0, fault);
                    continue;
                }
                Notice::Answer(id, ..) | Notice::Ended(id, _) | Notice::TimedOut(id, _) => (id, notice),
            };
            let Some(channel) = self.channels.get_mut(&id.number).filter(|channel| channel.id() == id) else {
                continue;
            };
            let result = channel.on_answer(&mut self.session, notice);
            self.resumable.push(id.number);
            if let Err(fault) = result {
                self.fault(id.number, fault);
            }
        }
    }

    /// A channel whose transaction is committed goes on with what it held; one whose transaction is not is closed.
    fn go_on_after_commit(&mut self, number: u16) {
        let channel = self.channels.get_mut(&number);
        match channel.and_then(|channel| channel.end_commit(&mut self.session)) {
            None => {}
            Some(Ok(())) => self.resumable.push(number),
            Some(Err(fault)) => self.fault(number, fault),
        }
    }

    /// Time has passed.
    pub fn on_tick(&mut self) {
        let now_ms = self.session.now_ms;
        let mut notices = std::mem::take(&mut self.notices);
        self.session
            .queues
            .tick(now_ms, self.session.limits.publish_timeout_ms, &mut notices);
        self.dispatch(&mut notices);
        self.notices = notices;
        match self.phase {
            Phase::Header | Phase::Start | Phase::Tune | Phase::Open
                if now_ms >= self.accepted_ms + self.session.limits.handshake_timeout_ms =>
            {
                tracing::warn!(peer = %self.ends.peer, state = self.phase.name(), "handshake timed out");
                self.on_lost();
            }
            Phase::Running if self.heartbeat_ms > 0 => {
                if now_ms >= self.heard_ms() + 2 * self.heartbeat_ms {
                    tracing::warn!(peer = %self.ends.peer, "missed heartbeats from the client");
                    self.on_lost();
                } else if now_ms >= self.sent_ms + self.heartbeat_ms / 2 && self.session.output.is_empty() {
                    self.session.output.put_heartbeat();
                    self.sent_ms = now_ms;
                }
            }
            Phase::Closing { until_ms } | Phase::Refused { until_ms } | Phase::Closed { until_ms }
                if now_ms >= until_ms =>
            {
                self.on_lost();
            }
            _ => {}
        }
        match self.ending {
            Ending::Draining { until_ms } if now_ms >= until_ms => {
                tracing::warn!(peer = %self.ends.peer, "a connection ended before its queues had applied everything");
                self.finish_draining();
            }
            Ending::Deleting { until_ms } if now_ms >= until_ms => self.finish_end(),
            _ => {}
        }
    }

    /// The turn ends: held channels go on, confirms are written, batches leave.
    pub fn end_turn(&mut self, carrier: &mut impl Carrier) {
        while let Some(number) = self.resumable.pop() {
            while let Some(channel) = self.channels.get_mut(&number)
                && let Some(frame) = channel.take_held()
            {
                self.held_bytes = self.held_bytes.saturating_sub(held_len(&frame));
                self.run_channel(number, frame);
            }
        }
        let mut confirming = std::mem::take(&mut self.session.confirming);
        for number in confirming.drain(..) {
            if let Some(channel) = self.channels.get_mut(&number) {
                channel.put_confirms(&mut self.session);
            }
        }
        self.session.confirming = confirming;
        self.block();
        self.flush(carrier);
        // What a message on its way to many queues had held back goes on in a turn of its own.
        if !self.resumable.is_empty() {
            return self.end_turn(carrier);
        }
        self.session.end_turn();
    }

    /// Offers to the queues what has come up since the turn's end.
    pub fn flush(&mut self, carrier: &mut impl Carrier) {
        self.session.queues.flush(self.session.now_ms, carrier);
        self.fan_out(carrier);
        if let Ending::Draining { .. } = self.ending
            && self.session.queues.is_all_applied()
            && self.session.submitted == 0
            && self.session.fanouts.is_empty()
        {
            self.finish_draining();
        }
    }

    fn finish_draining(&mut self) {
        let Ending::Draining { .. } = self.ending else { return };
        let mut groups: Vec<u64> = self.session.queues.groups().collect();
        groups.sort_unstable();
        if !groups.is_empty() {
            self.session.effects.push(Effect::EndSession(groups));
        }
        if self.session.owns_exclusive {
            self.session.effects.push(Effect::EndExclusive);
            self.ending = Ending::Deleting {
                until_ms: self.session.now_ms + LINGER_MS,
            };
        } else {
            self.finish_end();
        }
    }

    fn finish_end(&mut self) {
        self.ending = Ending::Done;
        if self.phase == Phase::Answering {
            self.session.reply(0, &Method::ConnectionCloseOk {});
            self.phase = Phase::Closed {
                until_ms: self.session.now_ms + CLOSE_OK_MS,
            };
        }
    }

    /// Whether the shell may stop.
    pub fn is_over(&self) -> bool {
        let is_silent = match self.phase {
            Phase::Lost => true,
            Phase::Closed { .. } => self.session.output.is_empty(),
            _ => false,
        };
        is_silent && self.ending == Ending::Done
    }

    /// Whether the socket is to be dropped even though the session still ends.
    pub fn has_hung_up(&self) -> bool {
        self.phase == Phase::Lost
    }

    /// Whether the socket is to be read.
    pub fn wants_input(&self) -> bool {
        let limits = &self.session.limits;
        match self.phase {
            Phase::Running => {
                !self.blocking.is_blocked
                    && self.session.queues.unapplied_bytes() < limits.unapplied_bytes_max
                    && self.session.queues.unapplied_commands() < limits.unapplied_commands_max
                    && self.session.fanouts.is_empty()
                    && self.session.output.len() < limits.output_bytes_max
                    && self.held_bytes < limits.held_bytes_max
            }
            Phase::Lost => false,
            _ => true,
        }
    }

    /// Whether the socket is being read from now on. Time in which it is not does not count against the client.
    pub fn set_reading(&mut self, reading: bool) {
        if reading != self.reading {
            self.gated_ms = self.session.now_ms;
        }
        self.reading = reading;
    }

    /// When the client was last known to live. While the socket is deliberately not read, silence says nothing; then a
    /// client that takes what waits for it lives, and so does one that nothing waits for.
    fn heard_ms(&self) -> u64 {
        if self.reading {
            self.received_ms.max(self.gated_ms)
        } else if self.session.output.is_empty() {
            self.session.now_ms
        } else {
            self.written_ms.max(self.gated_ms)
        }
    }

    /// When [`Connection::on_tick`] is next due.
    pub fn next_tick_ms(&self) -> Option<u64> {
        let now_ms = self.session.now_ms;
        let queues = if self.session.queues.has_unsent() {
            Some(now_ms + RETRY_MS)
        } else {
            self.session.queues.needs_tick().then_some(now_ms + TICK_MS)
        };
        let phase = match self.phase {
            Phase::Header | Phase::Start | Phase::Tune | Phase::Open => {
                Some(self.accepted_ms + self.session.limits.handshake_timeout_ms)
            }
            Phase::Running if self.heartbeat_ms > 0 => Some(now_ms + (self.heartbeat_ms / 4).max(250)),
            Phase::Closing { until_ms } | Phase::Refused { until_ms } | Phase::Closed { until_ms } => Some(until_ms),
            _ => None,
        };
        let ending = match self.ending {
            Ending::Draining { until_ms } | Ending::Deleting { until_ms } => Some(until_ms),
            Ending::No | Ending::Done => None,
        };
        [queues, phase, ending].into_iter().flatten().min()
    }

    /// What the shell is to do.
    pub fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.session.effects)
    }

    /// What is to be written.
    pub fn output(&self) -> &Output {
        &self.session.output
    }

    /// The socket took `written` bytes; deliveries among them may give queues something to do: flush.
    pub fn on_written(&mut self, written: usize) {
        self.sent_ms = self.session.now_ms;
        self.written_ms = self.session.now_ms;
        self.counters.bytes_out += written as u64;
        self.counters.writes += 1;
        self.session.advance(written);
    }

    /// For listings.
    pub fn describe(&self) -> Description {
        let limits = &self.session.limits;
        let channels = self.channels.values().map(Channel::describe);
        let mut channels: Vec<ChannelInfo> = channels.collect();
        channels.sort_unstable_by_key(|channel| channel.number);
        Description {
            connection: ConnectionInfo {
                session: self.session.id,
                name: format!("{} -> {}", self.ends.peer, self.ends.local),
                node: limits.node_name.clone(),
                user: self.session.user.clone(),
                vhost: self.session.vhost.clone(),
                peer: self.ends.peer,
                local: self.ends.local,
                state: if self.blocking.is_blocked {
                    "blocked"
                } else {
                    self.phase.name()
                },
                channels: self.channels.len() as u32,
                protocol: "AMQP 0-9-1",
                auth_mechanism: self.mechanism,
                timeout_s: (self.heartbeat_ms / 1_000) as u16,
                frame_max: self.session.frame_max,
                channel_max: self.channel_max,
                client_properties: self.client_properties.clone(),
                recv_oct: self.counters.bytes_in,
                recv_cnt: self.counters.frames_in,
                send_oct: self.counters.bytes_out,
                send_cnt: self.counters.writes,
                send_pend: self.session.output.len() as u64,
                unapplied_bytes: self.session.queues.unapplied_bytes() as u64,
                unapplied_commands: self.session.queues.unapplied_commands(),
                reading: self.reading,
                connected_at_ms: self.counters.connected_at_ms,
            },
            channels,
        }
    }
}

/// What a held frame costs.
fn held_len(frame: &Frame) -> usize {
    frame.payload.len() + FRAME_OVERHEAD
}

impl Phase {
    fn name(self) -> &'static str {
        match self {
            Self::Header | Self::Start => "starting",
            Self::Tune => "tuning",
            Self::Open => "opening",
            Self::Running => "running",
            Self::Closing { .. } | Self::Refused { .. } | Self::Answering => "closing",
            Self::Closed { .. } | Self::Lost => "closed",
        }
    }
}

#[cfg(test)]
mod tests;
