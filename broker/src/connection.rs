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

use bytes::BytesMut;
use rand::rngs::StdRng;
use rustc_hash::FxHashMap;
use warren_proto::record::SessionId;

use crate::amqp::frame::{self, FRAME_OVERHEAD, Frame, Kind};
use crate::amqp::method::peek_id;
use crate::amqp::{Fault, Method, Output, ReplyCode, Table};
use crate::channel::{Channel, Step};
use crate::direct_reply::{Desk, Registry};
use crate::metadata::View;
use crate::name::{UserName, VhostName};
use crate::queue::client::{ChannelId, Notice};

use self::census::Census;
pub use self::certificate::Certificate;
pub use self::describe::{ChannelInfo, ConnectionInfo, Description};
pub use self::limits::Limits;
pub use self::queues::Carrier;
pub(crate) use self::queues::Queues;
pub use self::session::{Effect, Session};
pub use self::tls::Agreed;

pub mod actor;
pub mod census;
mod certificate;
mod control;
mod describe;
mod ending;
mod events;
pub(crate) mod fanout;
mod handshake;
mod limits;
mod queues;
pub mod registry;
mod routes;
pub(crate) mod session;
mod shortage;
mod socket;
mod tls;
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
    /// connection.open came, and other nodes are asked whether there is room; what comes meanwhile waits.
    Counting,
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
    /// `None` without TLS, and before its handshake is over.
    tls: Option<Agreed>,
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
            tls: None,
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

    /// The TLS handshake is over; what the client says follows.
    pub fn on_agreed(&mut self, agreed: Agreed) {
        self.tls = Some(agreed);
    }

    /// The connection counts in this census.
    pub fn share_census(&mut self, census: Arc<Census>) {
        self.session.census = census;
    }

    /// Whom [`Effect::Count`] is about.
    pub(crate) fn counted(&self) -> (VhostName, UserName) {
        (self.session.vhost.clone(), self.session.user.clone())
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
                Phase::Counting => return,
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
                self.count_channels();
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
        let max = self.session.limits.channels_max;
        if max > 0 && self.session.census.channels() >= max {
            let node = &self.session.limits.node_name;
            let text =
                format!("number of channels opened on node '{node}' has reached the maximum allowed limit of {max}");
            return self.fault(0, Fault::new(ReplyCode::NotAllowed, text));
        }
        self.openings = self.openings.wrapping_add(1);
        let id = ChannelId {
            number,
            opening: self.openings,
        };
        self.channels.insert(number, Channel::new(id));
        self.count_channels();
        let picture = self.session.picture();
        let user = picture.user(&self.session.user);
        if user.is_some_and(|user| user.limits.channels_max().is_some())
            && let Some(channel) = self.channels.get_mut(&number)
        {
            channel.count();
            self.session.effects.push(Effect::Count(Some(id)));
            return;
        }
        self.session.reply(number, &Method::ChannelOpenOk {});
    }

    fn count_channels(&mut self) {
        if let Some(seat) = &mut self.session.seat {
            seat.set_channels(self.channels.len());
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
            Phase::Header | Phase::Start | Phase::Tune | Phase::Open | Phase::Counting
                if now_ms >= self.accepted_ms + self.session.limits.handshake_timeout_ms =>
            {
                tracing::warn!(peer = %self.ends.peer, state = self.phase.name(), "handshake timed out");
                self.hang_up();
            }
            Phase::Running if self.heartbeat_ms > 0 => {
                if now_ms >= self.heard_ms() + 2 * self.heartbeat_ms {
                    tracing::warn!(peer = %self.ends.peer, "missed heartbeats from the client");
                    self.hang_up();
                } else if now_ms >= self.sent_ms + self.heartbeat_ms / 2 && self.session.output.is_empty() {
                    self.session.output.put_heartbeat();
                    self.sent_ms = now_ms;
                }
            }
            Phase::Closing { until_ms } | Phase::Refused { until_ms } | Phase::Closed { until_ms }
                if now_ms >= until_ms =>
            {
                self.hang_up();
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
        let (unwritten, now_ms) = (self.session.output.len(), self.session.now_ms);
        self.session.queues.flush(unwritten, now_ms, carrier);
        self.fan_out(carrier);
        if let Ending::Draining { .. } = self.ending
            && self.session.queues.is_all_applied()
            && self.session.submitted == 0
            && self.session.fanouts.is_empty()
        {
            self.finish_draining();
        }
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
            Phase::Lost | Phase::Counting => false,
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
            Phase::Header | Phase::Start | Phase::Tune | Phase::Open | Phase::Counting => {
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
                tls: self.tls.clone(),
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
            Self::Open | Self::Counting => "opening",
            Self::Running => "running",
            Self::Closing { .. } | Self::Refused { .. } | Self::Answering => "closing",
            Self::Closed { .. } | Self::Lost => "closed",
        }
    }
}

#[cfg(test)]
mod tests;
