//! A blocking AMQP client for brokers that die: every wait has a limit, and every end is a value, not a panic.
//!
//! One connection with one channel. What arrives unasked comes out of [`Session::next`] in the order it arrived,
//! also what arrived while a call waited for its answer.

use std::collections::VecDeque;
use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{SocketAddr, TcpStream};
use std::time::{Duration, Instant};

use bytes::{Buf, BytesMut};

use crate::amqp::method::*;
use crate::amqp::wire::{Properties, Reader, Table, Wire};
use crate::amqp::{BODY, Frame, HEADER, Login, METHOD, PROTOCOL_HEADER};

const CHANNEL: u16 = 1;
/// A socket that takes nothing for so long is as good as lost.
const WRITE_MAX: Duration = Duration::from_secs(10);
/// Larger than any frame that is agreed.
const FRAME_MAX: u32 = 1 << 20;

/// Something that arrived without being asked for.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// The broker took these publishes.
    Confirmed(Tags),
    /// The broker did not take these publishes, or does not know.
    Nacked(Tags),
    /// A message for a consumer.
    Delivered(Delivery),
    /// The broker ended a consumer.
    Cancelled(String),
    /// A mandatory message that went nowhere.
    Returned(u16),
    /// The broker reads no publishes, for this reason.
    Blocked(String),
    /// The broker reads publishes again.
    Unblocked,
}

/// One publish, or all up to it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Tags {
    /// Of the last one.
    pub tag: u64,
    /// All up to it.
    pub multiple: bool,
}

/// A message as a consumer gets it.
#[derive(Debug, Clone, PartialEq)]
pub struct Delivery {
    /// The number to settle it by.
    pub tag: u64,
    /// Whether it may have been handed out before.
    pub redelivered: bool,
    /// What was published.
    pub body: Vec<u8>,
}

/// Why a session is over, or a wait.
#[derive(Debug, Clone, PartialEq)]
pub enum End {
    /// The connection broke, or was never made.
    Lost(String),
    /// The broker closed the channel or the connection.
    Closed {
        /// Reply code.
        code: u16,
        /// Reply text.
        text: String,
    },
    /// Nothing came in time; the session goes on.
    Late(&'static str),
}

impl fmt::Display for End {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Lost(reason) => write!(out, "connection lost: {reason}"),
            Self::Closed { code, text } => write!(out, "closed by the broker: {code} {text}"),
            Self::Late(what) => write!(out, "{what} did not come in time"),
        }
    }
}

impl std::error::Error for End {}

impl From<std::io::Error> for End {
    fn from(error: std::io::Error) -> Self {
        Self::Lost(error.to_string())
    }
}

/// A connection with one open channel.
pub struct Session {
    stream: TcpStream,
    buffer: BytesMut,
    frame_max: usize,
    published: u64,
    events: VecDeque<Event>,
    /// A method whose content has not arrived in full.
    partial: Option<Partial>,
}

struct Partial {
    deliver: Option<BasicDeliver>,
    missing: Option<u64>,
    body: Vec<u8>,
}

enum Input {
    Frame(Frame),
    Silence,
}

impl Session {
    /// Connects to `host:port` as guest, through the whole handshake, and opens the channel.
    pub fn open(address: &str, within: Duration) -> Result<Self, End> {
        let deadline = Instant::now() + within;
        let target: SocketAddr = address
            .parse()
            .map_err(|error| End::Lost(format!("{address}: {error}")))?;
        let stream = TcpStream::connect_timeout(&target, within)?;
        stream.set_nodelay(true)?;
        stream.set_write_timeout(Some(WRITE_MAX))?;
        let mut session = Self {
            stream,
            buffer: BytesMut::new(),
            frame_max: 4096,
            published: 0,
            events: VecDeque::new(),
            partial: None,
        };
        session.stream.write_all(&PROTOCOL_HEADER)?;
        session.answer::<ConnectionStart>(deadline)?;
        let mut login = Login::default();
        login.properties.0.push(("connection_name".into(), "durability".into()));
        session.send(0, &login.start_ok())?;
        let tune = session.answer::<ConnectionTune>(deadline)?;
        let agreed = ConnectionTuneOk {
            channel_max: tune.channel_max,
            frame_max: tune.frame_max,
            heartbeat: 0,
        };
        session.frame_max = agreed.frame_max.clamp(4096, FRAME_MAX) as usize;
        session.send(0, &agreed)?;
        let open = ConnectionOpen {
            vhost: "/".into(),
            ..Default::default()
        };
        session.send(0, &open)?;
        session.answer::<ConnectionOpenOk>(deadline)?;
        session.call(
            &ChannelOpen::default(),
            deadline.saturating_duration_since(Instant::now()),
        )?;
        Ok(session)
    }

    /// Sends a method and awaits its answer.
    pub fn call<C: Call>(&mut self, method: &C, within: Duration) -> Result<C::Reply, End> {
        self.send(CHANNEL, method)?;
        self.answer(Instant::now() + within)
    }

    /// Declares a durable queue of a type.
    pub fn declare(&mut self, queue: &str, kind: &str, within: Duration) -> Result<QueueDeclareOk, End> {
        let method = QueueDeclare {
            queue: queue.into(),
            durable: true,
            arguments: Table::from([("x-queue-type", kind)]),
            ..Default::default()
        };
        self.call(&method, within)
    }

    /// Puts the channel into confirm mode.
    pub fn confirm(&mut self, within: Duration) -> Result<(), End> {
        self.call(&ConfirmSelect::default(), within).map(drop)
    }

    /// Starts a consumer with a limit of unsettled messages.
    pub fn consume(&mut self, queue: &str, prefetch: u16, within: Duration) -> Result<String, End> {
        let qos = BasicQos {
            prefetch_count: prefetch,
            ..Default::default()
        };
        self.call(&qos, within)?;
        let method = BasicConsume {
            queue: queue.into(),
            ..Default::default()
        };
        Ok(self.call(&method, within)?.consumer_tag)
    }

    /// Publishes a persistent message to a queue; answers the publish's number on this channel, from 1.
    pub fn publish(&mut self, queue: &str, body: &[u8]) -> Result<u64, End> {
        self.publish_to("", queue, &Properties::persistent(), body)
    }

    /// The same to any exchange and with any properties.
    pub fn publish_to(
        &mut self,
        exchange: &str,
        routing_key: &str,
        properties: &Properties,
        body: &[u8],
    ) -> Result<u64, End> {
        let method = BasicPublish {
            exchange: exchange.into(),
            routing_key: routing_key.into(),
            ..Default::default()
        };
        let mut bytes = Frame::method(CHANNEL, &method).bytes();
        bytes.extend(Frame::header(CHANNEL, 60, body.len() as u64, &properties.bytes()).bytes());
        for part in body.chunks(self.frame_max - 8) {
            bytes.extend(Frame::new(BODY, CHANNEL, part).bytes());
        }
        self.stream.write_all(&bytes)?;
        self.published += 1;
        Ok(self.published)
    }

    /// How many messages were published.
    pub fn published(&self) -> u64 {
        self.published
    }

    /// Settles deliveries.
    pub fn ack(&mut self, tags: Tags) -> Result<(), End> {
        let method = BasicAck {
            delivery_tag: tags.tag,
            multiple: tags.multiple,
        };
        self.send(CHANNEL, &method)
    }

    /// What arrived unasked and was not yet looked at, or arrives within the time.
    pub fn next(&mut self, within: Duration) -> Result<Option<Event>, End> {
        let deadline = Instant::now() + within;
        loop {
            if let Some(event) = self.events.pop_front() {
                return Ok(Some(event));
            }
            match self.read(deadline)? {
                Input::Frame(frame) => {
                    if let Some((id, _)) = self.take_in(frame)? {
                        return Err(End::Lost(format!("the broker answered {} to nothing", name(id))));
                    }
                }
                Input::Silence => return Ok(None),
            }
        }
    }

    /// Closes the connection in the ordinary way. All settlements sent before are taken by then.
    pub fn close(mut self, within: Duration) -> Result<(), End> {
        let close = ConnectionClose {
            code: 200,
            text: "done".into(),
            ..Default::default()
        };
        self.send(0, &close)?;
        self.answer::<ConnectionCloseOk>(Instant::now() + within).map(drop)
    }

    fn send<M: Method>(&mut self, channel: u16, method: &M) -> Result<(), End> {
        Ok(self.stream.write_all(&Frame::method(channel, method).bytes())?)
    }

    fn answer<M: Method>(&mut self, deadline: Instant) -> Result<M, End> {
        loop {
            let Input::Frame(frame) = self.read(deadline)? else {
                return Err(End::Late(M::NAME));
            };
            let Some((id, arguments)) = self.take_in(frame)? else {
                continue;
            };
            if id != M::ID {
                return Err(End::Lost(format!("the broker answered {}, not {}", name(id), M::NAME)));
            }
            return taken(&arguments);
        }
    }

    /// Sorts a frame in: what is an answer comes back, what comes unasked is queued, a close is the end.
    #[expect(clippy::type_complexity, reason = "a method's number and its arguments")]
    fn take_in(&mut self, frame: Frame) -> Result<Option<((u16, u16), Vec<u8>)>, End> {
        let mut reader = Reader::new(&frame.payload);
        match frame.kind {
            METHOD => {
                let id = u16::take(&mut reader)
                    .zip(u16::take(&mut reader))
                    .ok_or_else(malformed)?;
                let arguments = &frame.payload[4..];
                match id {
                    BasicDeliver::ID => self.begin(Some(taken(arguments)?)),
                    BasicReturn::ID => {
                        let returned: BasicReturn = taken(arguments)?;
                        self.events.push_back(Event::Returned(returned.code));
                        self.begin(None);
                    }
                    BasicAck::ID => {
                        let BasicAck {
                            delivery_tag: tag,
                            multiple,
                        } = taken(arguments)?;
                        self.events.push_back(Event::Confirmed(Tags { tag, multiple }));
                    }
                    BasicNack::ID => {
                        let BasicNack {
                            delivery_tag: tag,
                            multiple,
                            ..
                        } = taken(arguments)?;
                        self.events.push_back(Event::Nacked(Tags { tag, multiple }));
                    }
                    BasicCancel::ID => {
                        let cancel: BasicCancel = taken(arguments)?;
                        self.events.push_back(Event::Cancelled(cancel.consumer_tag));
                    }
                    ConnectionClose::ID => {
                        let close: ConnectionClose = taken(arguments)?;
                        // The broker may be gone already; what matters is what it said.
                        let _ = self.send(0, &ConnectionCloseOk::default());
                        return Err(End::Closed {
                            code: close.code,
                            text: close.text,
                        });
                    }
                    ChannelClose::ID => {
                        let close: ChannelClose = taken(arguments)?;
                        let _ = self.send(CHANNEL, &ChannelCloseOk::default());
                        return Err(End::Closed {
                            code: close.code,
                            text: close.text,
                        });
                    }
                    ConnectionBlocked::ID => {
                        let blocked: ConnectionBlocked = taken(arguments)?;
                        self.events.push_back(Event::Blocked(blocked.reason));
                    }
                    ConnectionUnblocked::ID => self.events.push_back(Event::Unblocked),
                    _ => return Ok(Some((id, arguments.to_vec()))),
                }
            }
            HEADER => {
                reader.raw(4).ok_or_else(malformed)?;
                let size = u64::take(&mut reader).ok_or_else(malformed)?;
                self.partial.as_mut().ok_or_else(malformed)?.missing = Some(size);
                self.finish()?;
            }
            BODY => {
                let partial = self.partial.as_mut().ok_or_else(malformed)?;
                let missing = partial.missing.as_mut().ok_or_else(malformed)?;
                *missing = missing.checked_sub(frame.payload.len() as u64).ok_or_else(malformed)?;
                partial.body.extend_from_slice(&frame.payload);
                self.finish()?;
            }
            _ => {}
        }
        Ok(None)
    }

    fn begin(&mut self, deliver: Option<BasicDeliver>) {
        self.partial = Some(Partial {
            deliver,
            missing: None,
            body: Vec::new(),
        });
    }

    fn finish(&mut self) -> Result<(), End> {
        if self.partial.as_ref().is_some_and(|partial| partial.missing == Some(0)) {
            let Partial { deliver, body, .. } = self.partial.take().ok_or_else(malformed)?;
            if let Some(deliver) = deliver {
                self.events.push_back(Event::Delivered(Delivery {
                    tag: deliver.delivery_tag,
                    redelivered: deliver.redelivered,
                    body,
                }));
            }
        }
        Ok(())
    }

    fn read(&mut self, deadline: Instant) -> Result<Input, End> {
        let mut chunk = [0; 64 << 10];
        loop {
            if let Some(frame) = self.frame()? {
                return Ok(Input::Frame(frame));
            }
            // What has arrived is read, whatever the time.
            let left = deadline.saturating_duration_since(Instant::now());
            self.stream.set_read_timeout(Some(left.max(Duration::from_millis(1))))?;
            match self.stream.read(&mut chunk) {
                Ok(0) => return Err(End::Lost("the broker ended it".into())),
                Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
                Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                    if Instant::now() >= deadline {
                        return Ok(Input::Silence);
                    }
                }
                Err(error) if error.kind() == ErrorKind::Interrupted => {}
                Err(error) => return Err(error.into()),
            }
        }
    }

    fn frame(&mut self) -> Result<Option<Frame>, End> {
        let Some((&[kind, c1, c2, s1, s2, s3, s4], _)) = self.buffer.split_first_chunk::<7>() else {
            return Ok(None);
        };
        let size = u32::from_be_bytes([s1, s2, s3, s4]);
        if size > FRAME_MAX {
            return Err(malformed());
        }
        let whole = size as usize + 8;
        if self.buffer.len() < whole {
            self.buffer.reserve(whole - self.buffer.len());
            return Ok(None);
        }
        let mut bytes = self.buffer.split_to(whole);
        if bytes[whole - 1] != 0xCE {
            return Err(malformed());
        }
        bytes.advance(7);
        Ok(Some(Frame::new(
            kind,
            u16::from_be_bytes([c1, c2]),
            &bytes[..size as usize],
        )))
    }
}

fn malformed() -> End {
    End::Lost("the broker sent what is no AMQP".into())
}

fn taken<M: Method>(arguments: &[u8]) -> Result<M, End> {
    M::take(&mut Reader::new(arguments)).ok_or_else(malformed)
}
