//! A raw AMQP 0-9-1 client for tests: blocking, one socket, nothing hidden.
//!
//! It sends whatever bytes a test wants, good or bad, and keeps what arrives in the order it arrived.
//! A failed expectation panics with what was seen instead; every wait has a limit.
//! It shares no code with the broker.

mod apart;
pub mod method;
mod socket;
pub mod wire;

use std::collections::{BTreeSet, HashMap, VecDeque};
use std::time::{Duration, Instant};

pub use apart::asked as asked_apart;
use method::*;
pub use socket::{BODY, Frame, HEADER, HEARTBEAT, Input, METHOD, Socket, endpoints};
use wire::{Properties, Reader, Table, Wire};

/// How long anything that must happen may take.
pub const PATIENCE: Duration = Duration::from_secs(20);
/// The eight bytes a client starts with.
pub const PROTOCOL_HEADER: [u8; 8] = *b"AMQP\x00\x00\x09\x01";
const CLOSES: [(u16, u16); 2] = [ConnectionClose::ID, ChannelClose::ID];
const UNASKED: [(u16, u16); 8] = [
    BasicDeliver::ID,
    BasicReturn::ID,
    BasicAck::ID,
    BasicNack::ID,
    BasicCancel::ID,
    ChannelFlow::ID,
    ConnectionBlocked::ID,
    ConnectionUnblocked::ID,
];

/// A message's properties as bytes, and its body.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Content {
    /// Flags and values exactly as received.
    pub raw_properties: Vec<u8>,
    /// The frames' payloads joined.
    pub body: Vec<u8>,
    /// How many body frames it came in.
    pub body_frames: usize,
}

impl Content {
    /// The decoded properties.
    pub fn properties(&self) -> Properties {
        Properties::take(&mut Reader::new(&self.raw_properties)).expect("the broker sends well-formed properties")
    }

    /// The body as text.
    pub fn text(&self) -> String {
        String::from_utf8_lossy(&self.body).into_owned()
    }
}

/// A method received, with its content if it carries one.
#[derive(Debug, Clone)]
pub struct Incoming {
    /// Channel number.
    pub channel: u16,
    /// Class and method number.
    pub id: (u16, u16),
    arguments: Vec<u8>,
    /// Present on deliver, get-ok and return.
    pub content: Option<Content>,
}

impl Incoming {
    /// The arguments, if it is an `M`.
    pub fn get<M: Method>(&self) -> Option<M> {
        (self.id == M::ID).then(|| {
            let mut reader = Reader::new(&self.arguments);
            let method = M::take(&mut reader).unwrap_or_else(|| panic!("malformed {}: {:?}", M::NAME, self.arguments));
            assert!(
                reader.is_empty(),
                "{} has bytes left over: {:?}",
                M::NAME,
                self.arguments
            );
            method
        })
    }

    fn describe(&self) -> String {
        match self.closed() {
            Some(closed) => format!("{} {closed:?}", name(self.id)),
            None => format!("{} on channel {}", name(self.id), self.channel),
        }
    }

    fn closed(&self) -> Option<Closed> {
        let (hard, close) = match self.get::<ConnectionClose>() {
            Some(close) => (true, close),
            None => {
                let ChannelClose {
                    code,
                    text,
                    class,
                    method,
                } = self.get()?;
                (
                    false,
                    ConnectionClose {
                        code,
                        text,
                        class,
                        method,
                    },
                )
            }
        };
        Some(Closed {
            hard,
            code: close.code,
            text: close.text,
            id: (close.class, close.method),
        })
    }
}

/// A close the broker sent.
#[derive(Debug, Clone, PartialEq)]
pub struct Closed {
    /// The connection, not only the channel.
    pub hard: bool,
    /// Reply code.
    pub code: u16,
    /// Reply text.
    pub text: String,
    /// The method at fault, (0, 0) for none.
    pub id: (u16, u16),
}

impl Closed {
    /// A channel was closed with this code and text, because of this method.
    #[track_caller]
    pub fn channel_error<M: Method>(&self, code: u16, text: &str) {
        assert_eq!(
            (self.hard, self.code, self.text.as_str(), name(self.id)),
            (false, code, text, M::NAME.to_owned()),
            "channel error (hard, code, text, method)"
        );
    }

    /// The connection was closed with this code and text, because of this method.
    #[track_caller]
    pub fn connection_error<M: Method>(&self, code: u16, text: &str) {
        assert_eq!(
            (self.hard, self.code, self.text.as_str(), name(self.id)),
            (true, code, text, M::NAME.to_owned()),
            "connection error (hard, code, text, method)"
        );
    }

    /// The connection was closed with this code and a text that holds every one of these parts.
    #[track_caller]
    pub fn connection_error_like(&self, code: u16, parts: &[&str]) {
        assert!(
            self.hard && self.code == code && parts.iter().all(|part| self.text.contains(part)),
            "expected a connection error {code} with {parts:?}, got {self:?}"
        );
    }
}

/// How a connection attempt ended that did not succeed.
#[derive(Debug, Clone, PartialEq)]
pub enum End {
    /// With a close from the broker.
    Closed(Closed),
    /// With the TCP connection gone and no close.
    Dropped,
}

/// A message as a consumer gets it.
#[derive(Debug, Clone)]
pub struct Delivery {
    /// The consumer's name.
    pub consumer_tag: String,
    /// The number to settle it by.
    pub tag: u64,
    /// Whether it may have been handed out before.
    pub redelivered: bool,
    /// Where it was published.
    pub exchange: String,
    /// With which key.
    pub routing_key: String,
    /// Properties and body.
    pub content: Content,
}

impl Delivery {
    /// The body as text.
    pub fn text(&self) -> String {
        self.content.text()
    }
}

/// What to say in the handshake.
#[derive(Debug, Clone)]
pub struct Login {
    /// Which of the endpoints.
    pub endpoint: usize,
    /// Instead of these: `host:port`.
    pub address: Option<String>,
    /// SASL mechanism.
    pub mechanism: String,
    /// SASL response.
    pub response: Vec<u8>,
    /// Virtual host.
    pub vhost: String,
    /// Instead of what the broker proposes.
    pub channel_max: Option<u16>,
    /// Instead of what the broker proposes.
    pub frame_max: Option<u32>,
    /// Seconds; 0 for none.
    pub heartbeat: u16,
    /// Client properties.
    pub properties: Table,
}

impl Default for Login {
    fn default() -> Self {
        let (user, password) = credentials();
        let capabilities = [
            "authentication_failure_close",
            "basic.nack",
            "connection.blocked",
            "consumer_cancel_notify",
            "publisher_confirms",
        ];
        Self {
            endpoint: 0,
            address: None,
            mechanism: "PLAIN".into(),
            response: plain(&user, &password),
            vhost: "/".into(),
            channel_max: None,
            frame_max: None,
            heartbeat: 0,
            properties: Table::from([("capabilities", Table::from(capabilities.map(|name| (name, true))))]),
        }
    }
}

/// The user the tests log in as, from `WARREN_TEST_USER` and `WARREN_TEST_PASSWORD`, else guest.
pub fn credentials() -> (String, String) {
    let or_guest = |name| std::env::var(name).unwrap_or_else(|_| "guest".into());
    (or_guest("WARREN_TEST_USER"), or_guest("WARREN_TEST_PASSWORD"))
}

/// A PLAIN response.
pub fn plain(user: &str, password: &str) -> Vec<u8> {
    format!("\0{user}\0{password}").into_bytes()
}

impl Login {
    /// Goes through the whole handshake.
    pub fn attempt(&self) -> Result<Client, End> {
        self.attempt_over(match &self.address {
            Some(address) => Socket::dial_to(address),
            None => Socket::dial(self.endpoint),
        })
    }

    /// The same over a connection that is there already.
    pub fn attempt_over(&self, socket: Socket) -> Result<Client, End> {
        let mut client = Self::start_over(socket);
        client.login = Some(self.clone());
        client.send(0, &self.start_ok());
        client.tune = client.handshake()?;
        let proposed = client.tune.clone();
        let chosen = ConnectionTuneOk {
            channel_max: self.channel_max.unwrap_or(proposed.channel_max),
            frame_max: self.frame_max.unwrap_or(proposed.frame_max),
            heartbeat: self.heartbeat,
        };
        client.frame_max = chosen.frame_max;
        client.send(0, &chosen);
        client.send(
            0,
            &ConnectionOpen {
                vhost: self.vhost.clone(),
                ..Default::default()
            },
        );
        client.handshake::<ConnectionOpenOk>()?;
        Ok(client)
    }

    /// The handshake, which must succeed.
    #[track_caller]
    pub fn connect(&self) -> Client {
        self.attempt()
            .unwrap_or_else(|end| panic!("the broker refused the connection: {end:?}"))
    }

    /// The handshake, which must not succeed.
    #[track_caller]
    pub fn refused(&self) -> End {
        match self.attempt() {
            Ok(_) => panic!("the broker accepted {self:?}"),
            Err(end) => end,
        }
    }

    /// Only as far as the broker's connection.start.
    #[track_caller]
    pub fn start(&self) -> Client {
        Self::start_over(match &self.address {
            Some(address) => Socket::dial_to(address),
            None => Socket::dial(self.endpoint),
        })
    }

    #[track_caller]
    fn start_over(socket: Socket) -> Client {
        let mut client = Client::new(socket);
        client.socket.send(&PROTOCOL_HEADER);
        match client.handshake() {
            Ok(start) => client.start = start,
            Err(end) => panic!("no connection.start: {end:?}"),
        }
        client
    }

    /// The answer to connection.start.
    pub fn start_ok(&self) -> ConnectionStartOk {
        ConnectionStartOk {
            client_properties: self.properties.clone(),
            mechanism: self.mechanism.clone(),
            response: self.response.clone(),
            locale: "en_US".into(),
        }
    }
}

/// A connection with its channels' incoming methods kept in order.
pub struct Client {
    /// For bytes that no method makes.
    pub socket: Socket,
    /// What the broker said first.
    pub start: ConnectionStart,
    /// What the broker proposed.
    pub tune: ConnectionTune,
    /// What was agreed.
    pub frame_max: u32,
    /// Heartbeat frames seen.
    pub heartbeats: u32,
    /// What was said in the handshake.
    login: Option<Login>,
    inbox: VecDeque<Incoming>,
    unfinished: HashMap<u16, (Incoming, Option<u64>)>,
    channels: u16,
    confirming: HashMap<u16, Confirms>,
}

#[derive(Default)]
struct Confirms {
    published: u64,
    open: BTreeSet<u64>,
}

impl Client {
    fn new(socket: Socket) -> Self {
        Self {
            socket,
            start: ConnectionStart::default(),
            tune: ConnectionTune::default(),
            frame_max: 8192,
            heartbeats: 0,
            login: None,
            inbox: VecDeque::new(),
            unfinished: HashMap::new(),
            channels: 0,
            confirming: HashMap::new(),
        }
    }

    /// A connection to endpoint number `index`, with the defaults.
    #[track_caller]
    pub fn connect(index: usize) -> Self {
        Login {
            endpoint: index,
            ..Login::default()
        }
        .connect()
    }

    /// Opens the next channel.
    #[track_caller]
    pub fn channel(&mut self) -> u16 {
        self.channels += 1;
        self.call(self.channels, &ChannelOpen::default());
        self.channels
    }

    /// Sends a method and awaits nothing.
    pub fn send<M: Method>(&mut self, channel: u16, method: &M) {
        self.socket.send(&Frame::method(channel, method).bytes());
    }

    /// Sends a method and awaits its answer; deliveries and the like that come before it are kept.
    #[track_caller]
    pub fn call<C: Call>(&mut self, channel: u16, method: &C) -> C::Reply {
        self.try_call(channel, method)
            .unwrap_or_else(|closed| panic!("{} was refused: {closed:?}", C::NAME))
    }

    /// Sends a method that the broker must answer with a close of the channel or connection.
    #[track_caller]
    pub fn refused<C: Call>(&mut self, channel: u16, method: &C) -> Closed {
        match self.try_call(channel, method) {
            Ok(_) => panic!("{} was accepted", C::NAME),
            Err(closed) => closed,
        }
    }

    /// Sends a method and awaits its answer or a close.
    #[track_caller]
    pub fn try_call<C: Call>(&mut self, channel: u16, method: &C) -> Result<C::Reply, Closed> {
        if let Some(login) = &self.login {
            apart::declare_elsewhere(login, method);
        }
        self.send(channel, method);
        let answer = self.wait(|incoming| {
            incoming.id == ConnectionClose::ID || (incoming.channel == channel && !UNASKED.contains(&incoming.id))
        });
        match answer.get::<C::Reply>() {
            Some(reply) => Ok(reply),
            None => Err(self.settle_close(&answer, C::NAME)),
        }
    }

    /// Awaits the close that something sent earlier must bring about, past deliveries and confirms.
    #[track_caller]
    pub fn closed(&mut self, channel: u16) -> Closed {
        let answer = self.wait(|incoming| {
            incoming.id == ConnectionClose::ID || (incoming.channel == channel && !UNASKED.contains(&incoming.id))
        });
        self.settle_close(&answer, "a close")
    }

    /// Awaits the end of the connection, with or without a word.
    #[track_caller]
    pub fn ended(&mut self) -> End {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self
                .inbox
                .iter()
                .position(|incoming| incoming.id == ConnectionClose::ID)
            {
                let close = self.inbox.remove(at).expect("the position was just found");
                return End::Closed(self.settle_close(&close, "a close"));
            }
            match self.socket.frame(deadline.saturating_duration_since(Instant::now())) {
                Input::Frame(frame) => self.accept(frame),
                Input::Gone => return End::Dropped,
                Input::Silence => panic!("still connected after {PATIENCE:?}"),
            }
        }
    }

    #[track_caller]
    fn settle_close(&mut self, answer: &Incoming, wanted: &str) -> Closed {
        let Some(closed) = answer.closed() else {
            panic!("expected {wanted}, got {}", answer.describe())
        };
        if closed.hard {
            self.send(0, &ConnectionCloseOk::default());
            self.socket.rest(PATIENCE);
        } else {
            self.send(answer.channel, &ChannelCloseOk::default());
        }
        closed
    }

    /// The next method on a channel, which must be an `M`.
    #[track_caller]
    pub fn expect<M: Method>(&mut self, channel: u16) -> M {
        self.expect_content::<M>(channel).0
    }

    /// The next method on a channel, which must be an `M`, and its content.
    #[track_caller]
    pub fn expect_content<M: Method>(&mut self, channel: u16) -> (M, Content) {
        let incoming =
            self.wait(|incoming| incoming.channel == channel || CLOSES.contains(&incoming.id) && incoming.channel == 0);
        match incoming.get::<M>() {
            Some(method) => (method, incoming.content.unwrap_or_default()),
            None => panic!("expected {}, got {}", M::NAME, incoming.describe()),
        }
    }

    /// The next delivery on a channel.
    #[track_caller]
    pub fn delivery(&mut self, channel: u16) -> Delivery {
        let (method, content) = self.expect_content::<BasicDeliver>(channel);
        Delivery {
            consumer_tag: method.consumer_tag,
            tag: method.delivery_tag,
            redelivered: method.redelivered,
            exchange: method.exchange,
            routing_key: method.routing_key,
            content,
        }
    }

    /// Takes one message, if there is one.
    #[track_caller]
    pub fn get(&mut self, channel: u16, queue: &str, no_ack: bool) -> Option<(Delivery, u32)> {
        self.send(
            channel,
            &BasicGet {
                queue: queue.into(),
                no_ack,
                ..Default::default()
            },
        );
        let answer = self.wait(|incoming| {
            incoming.id == ConnectionClose::ID || (incoming.channel == channel && !UNASKED.contains(&incoming.id))
        });
        if answer.get::<BasicGetEmpty>().is_some() {
            return None;
        }
        let Some(got) = answer.get::<BasicGetOk>() else {
            panic!("expected basic.get-ok, got {}", answer.describe())
        };
        let delivery = Delivery {
            consumer_tag: String::new(),
            tag: got.delivery_tag,
            redelivered: got.redelivered,
            exchange: got.exchange,
            routing_key: got.routing_key,
            content: answer.content.unwrap_or_default(),
        };
        Some((delivery, got.messages))
    }

    /// Publishes with whole control over the method; the body is cut to the agreed frame size.
    pub fn publish_with(&mut self, channel: u16, method: &BasicPublish, properties: &Properties, body: &[u8]) {
        let mut bytes = Frame::method(channel, method).bytes();
        bytes.extend(Frame::header(channel, 60, body.len() as u64, &properties.bytes()).bytes());
        let payload_max = self.frame_max.max(4096) as usize - 8;
        for part in body.chunks(payload_max) {
            bytes.extend(Frame::new(BODY, channel, part).bytes());
        }
        self.socket.send(&bytes);
        if let Some(confirms) = self.confirming.get_mut(&channel) {
            confirms.published += 1;
            confirms.open.insert(confirms.published);
        }
    }

    /// Publishes a message.
    pub fn publish(&mut self, channel: u16, exchange: &str, routing_key: &str, properties: &Properties, body: &[u8]) {
        let method = BasicPublish {
            exchange: exchange.into(),
            routing_key: routing_key.into(),
            ..Default::default()
        };
        self.publish_with(channel, &method, properties, body);
    }

    /// Puts a channel into confirm mode.
    #[track_caller]
    pub fn confirm(&mut self, channel: u16) {
        self.call(channel, &ConfirmSelect::default());
        self.confirming.entry(channel).or_default();
    }

    /// Awaits the confirms of everything published on a channel in confirm mode.
    #[track_caller]
    pub fn confirmed(&mut self, channel: u16) {
        while !self.confirming[&channel].open.is_empty() {
            let incoming = self.wait(|incoming| {
                incoming.id == ConnectionClose::ID
                    || incoming.channel == channel
                        && [BasicAck::ID, BasicNack::ID, ChannelClose::ID].contains(&incoming.id)
            });
            let Some(ack) = incoming.get::<BasicAck>() else {
                panic!("not confirmed: {}", incoming.describe())
            };
            let open = &mut self.confirming.get_mut(&channel).expect("looked up above").open;
            if ack.multiple {
                assert!(
                    open.last().is_some_and(|last| *last >= ack.delivery_tag),
                    "a confirm of what was not published"
                );
                *open = open.split_off(&(ack.delivery_tag + 1));
            } else {
                assert!(
                    open.remove(&ack.delivery_tag),
                    "publish {} was not open when confirmed",
                    ack.delivery_tag
                );
            }
        }
    }

    /// Whatever arrived on a channel so far and was not asked for.
    pub fn pending(&mut self, channel: u16) -> Vec<Incoming> {
        let (of_channel, others) = self.inbox.drain(..).partition(|incoming| incoming.channel == channel);
        self.inbox = others;
        Vec::from_iter::<VecDeque<_>>(of_channel)
    }

    /// Takes in what arrives within a short time.
    pub fn pump(&mut self, within: Duration) {
        if let Input::Frame(frame) = self.socket.frame(within) {
            self.accept(frame);
        }
    }

    /// Runs `check` until it answers something, taking in what arrives in between.
    #[track_caller]
    pub fn until<T>(&mut self, what: &str, mut check: impl FnMut(&mut Self) -> Option<T>) -> T {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(value) = check(self) {
                return value;
            }
            assert!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
            self.pump(Duration::from_millis(10));
        }
    }

    /// Closes the connection in the ordinary way; whoever gets the close-ok ends the TCP connection.
    #[track_caller]
    pub fn close(mut self) {
        self.call(
            0,
            &ConnectionClose {
                code: 200,
                text: "done".into(),
                ..Default::default()
            },
        );
    }

    #[track_caller]
    fn handshake<M: Method>(&mut self) -> Result<M, End> {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(incoming) = self.inbox.pop_front() {
                if let Some(closed) = incoming.closed() {
                    self.send(0, &ConnectionCloseOk::default());
                    self.socket.rest(PATIENCE);
                    return Err(End::Closed(closed));
                }
                let described = incoming.describe();
                return Ok(incoming
                    .get()
                    .unwrap_or_else(|| panic!("expected {}, got {described}", M::NAME)));
            }
            match self.socket.frame(deadline.saturating_duration_since(Instant::now())) {
                Input::Frame(frame) => self.accept(frame),
                Input::Gone => return Err(End::Dropped),
                Input::Silence => panic!("no {} within {PATIENCE:?}", M::NAME),
            }
        }
    }

    #[track_caller]
    fn wait(&mut self, wanted: impl Fn(&Incoming) -> bool) -> Incoming {
        let deadline = Instant::now() + PATIENCE;
        loop {
            if let Some(at) = self.inbox.iter().position(&wanted) {
                return self.inbox.remove(at).expect("the position was just found");
            }
            match self.socket.frame(deadline.saturating_duration_since(Instant::now())) {
                Input::Frame(frame) => self.accept(frame),
                Input::Gone => panic!("the broker dropped the connection; waiting: {}", self.describe_inbox()),
                Input::Silence => panic!("not within {PATIENCE:?}; waiting: {}", self.describe_inbox()),
            }
        }
    }

    fn describe_inbox(&self) -> String {
        self.inbox.iter().map(Incoming::describe).collect::<Vec<_>>().join(", ")
    }

    fn accept(&mut self, frame: Frame) {
        assert!(
            self.frame_max == 0 || frame.payload.len() + 8 <= self.frame_max as usize || frame.channel == 0,
            "a frame of {} bytes over the agreed {}",
            frame.payload.len() + 8,
            self.frame_max
        );
        let mut reader = Reader::new(&frame.payload);
        let channel = frame.channel;
        match frame.kind {
            METHOD => {
                let id = u16::take(&mut reader)
                    .zip(u16::take(&mut reader))
                    .expect("a method frame names its method");
                let incoming = Incoming {
                    channel,
                    id,
                    arguments: frame.payload[4..].to_vec(),
                    content: None,
                };
                assert!(
                    !self.unfinished.contains_key(&channel),
                    "{} inside a message",
                    incoming.describe()
                );
                if [BasicDeliver::ID, BasicGetOk::ID, BasicReturn::ID].contains(&id) {
                    self.unfinished.insert(channel, (incoming, None));
                } else {
                    self.inbox.push_back(incoming);
                }
            }
            HEADER => {
                let (incoming, missing) = self.unfinished.get_mut(&channel).expect("a header follows its method");
                assert!(missing.is_none(), "a second content header");
                let (class, weight) = (u16::take(&mut reader), u16::take(&mut reader));
                assert_eq!(
                    (class, weight),
                    (Some(60), Some(0)),
                    "class and weight of a content header"
                );
                let size = u64::take(&mut reader).expect("a content header states the body's size");
                *missing = Some(size);
                let raw_properties = frame.payload[12..].to_vec();
                incoming.content = Some(Content {
                    raw_properties,
                    ..Content::default()
                });
                self.finish(channel);
            }
            BODY => {
                let (incoming, missing) = self.unfinished.get_mut(&channel).expect("a body follows its header");
                let missing = missing.as_mut().expect("a body follows its header");
                let content = incoming.content.as_mut().expect("the header made the content");
                assert!(!frame.payload.is_empty(), "an empty body frame");
                *missing = missing
                    .checked_sub(frame.payload.len() as u64)
                    .expect("no more body than announced");
                content.body.extend_from_slice(&frame.payload);
                content.body_frames += 1;
                self.finish(channel);
            }
            HEARTBEAT => {
                assert_eq!(
                    (channel, frame.payload.len()),
                    (0, 0),
                    "a heartbeat is empty and on channel 0"
                );
                self.heartbeats += 1;
            }
            kind => panic!("the broker sent a frame of unknown type {kind}"),
        }
    }

    fn finish(&mut self, channel: u16) {
        if matches!(self.unfinished.get(&channel), Some((_, Some(0)))) {
            let (incoming, _) = self.unfinished.remove(&channel).expect("just looked at");
            self.inbox.push_back(incoming);
        }
    }
}
