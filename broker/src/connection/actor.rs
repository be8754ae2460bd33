//! The front actor: one per client connection. It owns the socket, the mailbox and the timer around a
//! [`Connection`].
//!
//! Whatever arrives is fed to the core at once; the end of the turn, when batches leave and the output is written,
//! comes after everything that was waiting, so that a burst of events costs one message per queue and one write.
//! No handler waits: changes of the metadata are spawned and come back as events.

use std::io::{self, IoSlice};
use std::net::SocketAddr;
use std::rc::Rc;
use std::sync::Arc;
use std::time::{Duration, Instant};

use actix::prelude::*;
use bytes::BytesMut;
use rand::SeedableRng as _;
use rand::rngs::StdRng;
use rustc_hash::FxHashMap;
use tokio::net::TcpStream;

use super::census::{Census, Count};
use super::registry::Registry;
use super::socket::{Gate, Readiness};
use super::tls::Tls;
use super::way::Way;
use super::{Connection, Description, Effect, Ends, Limits};
use crate::alarms::{Alarms, Shortage};
use crate::amqp::Fault;
use crate::clock;
use crate::directory::{Directory, SessionEvent};
use crate::metadata::Change;
use crate::metadata::client::MetadataClient;
use crate::queue::client::ChannelId;
use warren_cluster::tls::Credentials;

/// Slices of one vectored write.
const SLICES: usize = 64;
/// Read buffers grow and shrink between these.
const READ_MIN: usize = 4 << 10;
const READ_MAX: usize = 256 << 10;
/// How long another node is waited for that was asked for a requester.
const REPLY_ASK: Duration = Duration::from_secs(5);
/// A timer this much too late is not armed anew.
const TIMER_SLACK_MS: u64 = 2;

/// What all connections of a node share.
#[derive(Clone)]
pub struct Shared {
    /// Where queues are.
    pub directory: Arc<Directory>,
    /// The metadata.
    pub metadata: MetadataClient,
    /// What connections may do.
    pub limits: Arc<Limits>,
    /// What the cluster is short of.
    pub alarms: Arc<Alarms>,
    /// Every connection that there is.
    pub registry: Registry,
    /// What clients are shown; `None`: they speak without TLS.
    pub tls: Option<Credentials>,
    /// How many there are, of whom and where.
    pub census: Arc<Census>,
}

/// Asks a connection to describe itself and its channels.
#[derive(Message)]
#[rtype(result = "Option<Description>")]
pub struct Describe;

/// What the cluster is short of has changed.
#[derive(Message)]
#[rtype(result = "()")]
pub struct ShortageChanged(pub Shortage);

/// The turn's end.
#[derive(Message)]
#[rtype(result = "()")]
struct EndTurn;

/// The actor of one client connection.
pub struct ConnectionActor {
    core: Connection,
    shared: Shared,
    socket: Option<Rc<TcpStream>>,
    /// Around the socket.
    tls: Option<Box<Tls>>,
    gate: Rc<Gate>,
    input: BytesMut,
    read_len: usize,
    way: Way,
    started: Instant,
    timer: Option<(SpawnHandle, u64)>,
    awaits_writable: bool,
    turn_ends: bool,
    /// Channels that wait for another node's word on a requester, with the end of their patience.
    reply_asks: FxHashMap<ChannelId, SpawnHandle>,
}

impl ConnectionActor {
    /// Starts the actor of an accepted connection on that arbiter. With `refusal`, connection.open is refused.
    pub fn start_on(
        arbiter: &ArbiterHandle,
        shared: Shared,
        stream: std::net::TcpStream,
        peer: SocketAddr,
        refusal: Option<Fault>,
    ) -> bool {
        arbiter.spawn_fn(move || {
            let local = stream.local_addr();
            let socket = local.and_then(|local| {
                let socket = TcpStream::from_std(stream)?;
                let tls = shared.tls.as_ref().map(|tls| Tls::new(tls.server()));
                Ok((local, socket, tls.transpose().map_err(io::Error::other)?))
            });
            match socket {
                Ok((local, socket, tls)) => {
                    let ends = Ends { peer, local };
                    Self::create(|context| Self::new(shared, socket, tls, ends, refusal, context));
                }
                Err(error) => tracing::warn!(%peer, %error, "an accepted connection was lost"),
            }
        })
    }

    fn new(
        shared: Shared,
        socket: TcpStream,
        tls: Option<Tls>,
        ends: Ends,
        refusal: Option<Fault>,
        context: &mut Context<Self>,
    ) -> Self {
        let id = shared.directory.open_session(context.address().recipient());
        shared.registry.insert(id, context.address());
        if let Err(error) = socket.set_nodelay(true) {
            tracing::debug!(peer = %ends.peer, %error, "TCP_NODELAY cannot be set");
        }
        let socket = Rc::new(socket);
        let gate = Rc::new(Gate::default());
        context.add_stream(Readiness::new(Rc::clone(&socket), Rc::clone(&gate)));
        let unix_ms = clock::wall_ms();
        let (limits, view) = (Arc::clone(&shared.limits), shared.metadata.view().clone());
        // Time starts at 1, so that 0 can mean never.
        let way = Way::new(Arc::clone(&shared.directory), view.clone(), id);
        let mut core = Connection::new(limits, id, ends, view, StdRng::from_os_rng(), 1, unix_ms);
        // It is in the registry: what changes from now on is told.
        core.set_shortage(shared.alarms.shortage());
        core.share_census(Arc::clone(&shared.census));
        core.share_replies(Arc::clone(shared.directory.replies()));
        if let Some(fault) = refusal {
            core.refuse_open(fault);
        }
        Self {
            core,
            shared,
            socket: Some(socket),
            tls: tls.map(Box::new),
            gate,
            input: BytesMut::new(),
            read_len: READ_MIN,
            way,
            started: Instant::now(),
            timer: None,
            awaits_writable: false,
            turn_ends: false,
            reply_asks: FxHashMap::default(),
        }
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64 + 1
    }

    /// Something happens: the core learns the time, and the turn's end is put behind what else is waiting.
    fn begin(&mut self, context: &mut Context<Self>) -> &mut Connection {
        let now_ms = self.now_ms();
        if !self.turn_ends {
            self.turn_ends = true;
            context.notify(EndTurn);
        }
        self.core.begin(now_ms);
        &mut self.core
    }

    fn end(&mut self, context: &mut Context<Self>) {
        self.turn_ends = false;
        self.core.begin(self.now_ms());
        self.core.end_turn(&mut self.way);
        self.perform(context);
        self.write(context);
        // Deliveries that were written may have been settled or credited.
        self.core.flush(&mut self.way);
        self.perform(context);
        for group in self.way.end_turn() {
            self.begin(context).on_queue_gone(group);
        }
        if self.core.is_over() {
            self.hang_up();
            context.stop();
            return;
        }
        if self.core.has_hung_up() {
            self.hang_up();
        }
        let reads = self.core.wants_input();
        self.core.set_reading(reads);
        self.gate.set_open(reads);
        self.arm(context);
    }

    fn perform(&mut self, context: &mut Context<Self>) {
        for effect in self.core.take_effects() {
            match effect {
                Effect::Submit(channel, change) => {
                    let metadata = self.shared.metadata.clone();
                    let work = async move { metadata.submit(*change).await }.into_actor(self);
                    context.spawn(work.map(move |outcome, actor, context| {
                        if let Err(error) = &outcome {
                            tracing::warn!(%error, "a client's change of the metadata has no known outcome");
                        }
                        actor.begin(context).on_outcome(channel, outcome.ok());
                    }));
                }
                Effect::Count(channel) => {
                    let (vhost, user) = self.core.counted();
                    let others = self.shared.census.others().map(|others| others.count(vhost, user));
                    let work = async move {
                        match others {
                            Some(others) => others.await,
                            None => Count::default(),
                        }
                    };
                    context.spawn(work.into_actor(self).map(move |count, actor, context| {
                        actor.begin(context).on_count(channel, count);
                        // What came meanwhile.
                        actor.core.on_input(&mut actor.input, 0);
                    }));
                }
                Effect::Reply(reply) => self.shared.directory.send_reply(*reply),
                Effect::AskReply(channel, token) => {
                    let directory = &self.shared.directory;
                    directory.ask_reply(self.core.id(), channel, self.core.vhost(), &token);
                    let timer = context.run_later(REPLY_ASK, move |actor, context| {
                        actor.reply_asks.remove(&channel);
                        actor.begin(context).on_reply_queue(channel, &token.name(), false);
                    });
                    self.reply_asks.insert(channel, timer);
                }
                Effect::EndSession(groups) => {
                    for group in groups {
                        self.shared.directory.end_session_in(group, self.core.id());
                    }
                }
                Effect::EndExclusive => {
                    let metadata = self.shared.metadata.clone();
                    let session = self.core.id();
                    let work = async move { metadata.submit(Change::SessionEnded { session }).await }.into_actor(self);
                    context.spawn(work.map(|outcome, actor, context| {
                        if let Err(error) = outcome {
                            // Whoever looks for orphans asks again.
                            tracing::warn!(%error, "exclusive queues of an ended connection remain for a while");
                        }
                        actor.begin(context).on_session_ended();
                    }));
                }
            }
        }
    }

    fn write(&mut self, context: &mut Context<Self>) {
        if self.awaits_writable {
            return;
        }
        let Some(socket) = &self.socket else { return };
        loop {
            let written = match &mut self.tls {
                None => {
                    let mut slices = [IoSlice::new(&[]); SLICES];
                    let count = self.core.output().chunks(&mut slices);
                    if count == 0 {
                        return;
                    }
                    socket.try_write_vectored(&slices[..count])
                }
                // What a lost connection had to say is forgotten, and part of it may be encrypted already.
                Some(_) if self.core.has_hung_up() => return,
                Some(tls) => match tls.write(socket, self.core.output()) {
                    Ok(0) => return,
                    written => written,
                },
            };
            match written {
                Ok(0) => return self.core.on_lost(),
                Ok(written) => self.core.on_written(written),
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) => {
                    tracing::debug!(%error, "a client's socket cannot be written");
                    return self.core.on_lost();
                }
            }
        }
        self.awaits_writable = true;
        let socket = Rc::clone(socket);
        let writable = async move { socket.writable().await.is_ok() }.into_actor(self);
        context.spawn(writable.map(|is_writable, actor, context| {
            actor.awaits_writable = false;
            let core = actor.begin(context);
            if !is_writable {
                core.on_lost();
            }
        }));
    }

    fn read(&mut self) {
        let Some(socket) = &self.socket else { return };
        let mut total = 0;
        let mut is_lost = false;
        while total < READ_MAX {
            let read = match &mut self.tls {
                None => {
                    self.input.reserve(self.read_len);
                    socket.try_read_buf(&mut self.input)
                }
                Some(tls) => tls.read(socket, &mut self.input),
            };
            match read {
                Ok(0) => {
                    is_lost = true;
                    break;
                }
                Ok(read) => {
                    total += read;
                    if read >= self.read_len {
                        self.read_len = (self.read_len * 2).min(READ_MAX);
                    } else if read < self.read_len / 4 {
                        self.read_len = (self.read_len / 2).max(READ_MIN);
                    }
                }
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => break,
                Err(error) if error.kind() == io::ErrorKind::InvalidData => {
                    let peer = socket
                        .peer_addr()
                        .map_or_else(|_| String::new(), |peer| peer.to_string());
                    tracing::warn!(%peer, %error, "a client's TLS failed");
                    is_lost = true;
                    break;
                }
                Err(error) => {
                    tracing::debug!(%error, "a client's socket cannot be read");
                    is_lost = true;
                    break;
                }
            }
        }
        if let Some(tls) = &mut self.tls
            && let Some(agreed) = tls.agreed()
        {
            self.core.on_agreed(agreed);
        }
        if total > 0 {
            self.core.on_input(&mut self.input, total);
        }
        if is_lost {
            self.core.on_lost();
        }
    }

    fn hang_up(&mut self) {
        self.gate.end();
        if let (Some(mut tls), Some(socket)) = (self.tls.take(), &self.socket) {
            tls.close(socket);
        }
        self.socket = None;
        self.input = BytesMut::new();
    }

    fn arm(&mut self, context: &mut Context<Self>) {
        let Some(due_ms) = self.core.next_tick_ms() else { return };
        if let Some((handle, armed_ms)) = self.timer {
            if armed_ms <= due_ms + TIMER_SLACK_MS {
                return;
            }
            context.cancel_future(handle);
        }
        let delay = Duration::from_millis(due_ms.saturating_sub(self.now_ms()).max(1));
        let handle = context.run_later(delay, |actor, context| {
            actor.timer = None;
            actor.way.on_tick(actor.now_ms());
            if actor.input.is_empty() {
                actor.input = BytesMut::new();
            }
            actor.begin(context).on_tick();
        });
        self.timer = Some((handle, due_ms));
    }
}

impl Actor for ConnectionActor {
    type Context = Context<Self>;

    fn started(&mut self, context: &mut Context<Self>) {
        self.arm(context);
    }

    fn stopped(&mut self, _context: &mut Context<Self>) {
        let id = self.core.id();
        self.shared.directory.close_session(id);
        self.shared.registry.remove(id);
    }
}

impl StreamHandler<()> for ConnectionActor {
    fn handle(&mut self, (): (), context: &mut Context<Self>) {
        self.begin(context);
        self.read();
    }

    /// The gate was closed for good; the session may still have to end.
    fn finished(&mut self, _context: &mut Context<Self>) {}
}

impl Handler<SessionEvent> for ConnectionActor {
    type Result = ();

    fn handle(&mut self, event: SessionEvent, context: &mut Context<Self>) {
        match event {
            SessionEvent::Events(events) => self.begin(context).on_events(&events),
            SessionEvent::Leader { group, leader } => {
                self.way.moved(group, leader);
                self.begin(context).on_leader(group);
            }
            SessionEvent::QueueGone { group } => {
                self.way.forget(group);
                self.begin(context).on_queue_gone(group);
            }
            SessionEvent::Deleted(deleted) => self.begin(context).on_deleted(&deleted),
            SessionEvent::Reply(admitted) => self.begin(context).on_reply(*admitted),
            SessionEvent::ReplyQueueIs { channel, queue, exists } => {
                if let Some(timer) = self.reply_asks.remove(&channel) {
                    context.cancel_future(timer);
                }
                self.begin(context).on_reply_queue(channel, &queue, exists);
            }
            SessionEvent::Close { code, text } => self.begin(context).on_close(code, &text),
        }
    }
}

impl Handler<ShortageChanged> for ConnectionActor {
    type Result = ();

    fn handle(&mut self, ShortageChanged(shortage): ShortageChanged, context: &mut Context<Self>) {
        self.begin(context).set_shortage(shortage);
    }
}

impl Handler<EndTurn> for ConnectionActor {
    type Result = ();

    fn handle(&mut self, _: EndTurn, context: &mut Context<Self>) {
        self.end(context);
    }
}

impl Handler<Describe> for ConnectionActor {
    type Result = Option<Description>;

    fn handle(&mut self, _: Describe, _: &mut Context<Self>) -> Option<Description> {
        Some(self.core.describe())
    }
}
