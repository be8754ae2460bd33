//! The transport over gRPC: one thread that owns all links, the server that the peers call, and the clock.
//!
//! Everything runs on a single-threaded runtime of its own, so that liveness never waits behind message work,
//! and so that the inbox is called by one thread. Only snapshots' sources and sinks run elsewhere.

use std::collections::{BTreeMap, HashMap};
use std::error::Error as _;
use std::net::{SocketAddr, TcpListener};
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use arc_swap::ArcSwap;
use tokio::sync::{Notify, Semaphore, mpsc, oneshot, watch};
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::Endpoint;
use tonic::transport::server::Server;
use tonic::{Request, Response, Status, Streaming};
use warren_proto::transport as wire;
use wire::transport_client::TransportClient;
use wire::transport_server::{Transport as Service, TransportServer};

use super::handshake::{Book, Proven, Refusal};
use super::listener::{Clock, Meter, accept};
use super::queue::{BATCH_LEN, Queue};
use super::secure::Connector;
use super::{
    AdminHandler, Envelope, Error, Identity, Inbox, LinkStats, Options, OutgoingSnapshot, Peer, PeerState, SendError,
    Transport, link, snapshot,
};
use crate::NodeId;
use crate::liveness::{self, Effect, Event, Liveness, Stale};

/// The longest gRPC message: a batch is closed at `BATCH_LEN` bytes of payload and counts 64 bytes for each envelope.
pub(super) const MESSAGE_LEN_MAX: usize = 4 * BATCH_LEN;
const STREAM_WINDOW: u32 = 8 << 20;
const CONNECTION_WINDOW: u32 = 16 << 20;
const FRAME_LEN: u32 = 256 << 10;
const STREAMS_MAX: u32 = 64;
/// Snapshots may arrive from so many peers, also while there are fewer.
const SNAPSHOT_PEERS_MIN: usize = 8;
/// Threads that may block: snapshots in both directions and name look-ups.
const BLOCKING_THREADS_MAX: usize = 32;
/// How long a shutdown waits for sinks that block.
const SHUTDOWN: Duration = Duration::from_secs(2);
/// The same refusal is logged so often at most.
const COMPLAINT_MS: u64 = 60_000;
const COMPLAINTS_MAX: usize = 256;

/// The running transport. Dropping it shuts it down.
pub struct Handle {
    transport: Arc<GrpcTransport>,
    address: SocketAddr,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<JoinHandle<()>>,
}

/// Sends over gRPC. What it is given after a shutdown goes nowhere.
pub struct GrpcTransport {
    shared: Arc<Shared>,
}

/// What all tasks share.
pub(super) struct Shared {
    pub(super) identity: Identity,
    pub(super) options: Options,
    pub(super) inbox: Arc<dyn Inbox>,
    pub(super) admin: Arc<dyn AdminHandler>,
    links: ArcSwap<BTreeMap<NodeId, Arc<Link>>>,
    /// Nodes that were removed for good, and the last run whose data directory is meant.
    forgotten: ArcSwap<BTreeMap<NodeId, u64>>,
    pub(super) clock: Clock,
    pub(super) runtime: tokio::runtime::Handle,
    liveness: Mutex<Liveness>,
    complaints: Mutex<HashMap<String, u64>>,
    pub(super) snapshots_out: Semaphore,
    pub(super) snapshots_waiting: AtomicUsize,
    pub(super) snapshots_in: Arc<Semaphore>,
    pub(super) admin_calls: Arc<Semaphore>,
}

/// Both directions between this node and a peer.
pub(super) struct Link {
    pub(super) peer: Peer,
    pub(super) queue: Queue,
    /// Ends a pause before the next attempt to connect.
    pub(super) poke: Notify,
    /// Becomes true when the peer is one no more.
    pub(super) gone: watch::Sender<bool>,
    arriving: Mutex<Option<Arriving>>,
    /// The run of the latest stream that the peer's envelopes came on; 0: there was none.
    arrived: AtomicU64,
    pub(super) received: AtomicU64,
    pub(super) received_bytes: AtomicU64,
}

/// The stream that the peer's envelopes come on. A newer one takes its place.
#[derive(Clone)]
pub(super) struct Arriving {
    incarnation: u64,
    meter: Arc<Meter>,
    superseded: Arc<Notify>,
}

impl Arriving {
    pub(super) fn new(incarnation: u64, meter: Arc<Meter>) -> Self {
        Self {
            incarnation,
            meter,
            superseded: Arc::new(Notify::new()),
        }
    }

    pub(super) async fn superseded(&self) {
        self.superseded.notified().await;
    }

    fn is(&self, other: &Self) -> bool {
        Arc::ptr_eq(&self.superseded, &other.superseded)
    }
}

impl Link {
    fn new(peer: Peer, options: &Options) -> Arc<Self> {
        Arc::new(Self {
            peer,
            queue: Queue::new(options.queue_bytes_max, options.queue_len_max),
            poke: Notify::new(),
            gone: watch::Sender::new(false),
            arriving: Mutex::default(),
            arrived: AtomicU64::new(0),
            received: AtomicU64::new(0),
            received_bytes: AtomicU64::new(0),
        })
    }

    /// Puts the peer's new stream in the place of the one before. Says whether that run had one before it, open or
    /// not: between two streams the peer may have sent into the end of the first.
    pub(super) fn follow(&self, arriving: Arriving) -> bool {
        let incarnation = arriving.incarnation;
        let open = self.arrive(Some(arriving));
        self.arrived.swap(incarnation, Ordering::Relaxed) == incarnation || open
    }

    /// Puts a stream in the place of the one before, and says whether there was one.
    pub(super) fn arrive(&self, arriving: Option<Arriving>) -> bool {
        let before = std::mem::replace(&mut *locked(&self.arriving), arriving);
        if let Some(before) = &before {
            before.superseded.notify_one();
        }
        before.is_some()
    }

    pub(super) fn is_arriving(&self, arriving: &Arriving) -> bool {
        locked(&self.arriving)
            .as_ref()
            .is_some_and(|current| current.is(arriving))
    }

    /// Takes the stream away, unless a newer one took its place.
    pub(super) fn leave(&self, arriving: &Arriving) -> bool {
        let mut current = locked(&self.arriving);
        let is = current.as_ref().is_some_and(|current| current.is(arriving));
        if is {
            *current = None;
        }
        is
    }
}

impl GrpcTransport {
    /// Listens, then calls every peer, on a thread of its own. The inbox may be called before this returns.
    pub fn start(
        identity: Identity,
        listen: SocketAddr,
        peers: Vec<Peer>,
        options: Options,
        inbox: Arc<dyn Inbox>,
        admin: Arc<dyn AdminHandler>,
    ) -> Result<Handle, Error> {
        check(&identity, &peers)?;
        let bound = TcpListener::bind(listen).and_then(|listener| {
            listener.set_nonblocking(true)?;
            Ok((listener.local_addr()?, listener))
        });
        let (address, listener) = bound.map_err(|source| Error::Listen {
            address: listen,
            source,
        })?;
        let runtime = tokio::runtime::Builder::new_current_thread()
            .enable_all()
            .max_blocking_threads(BLOCKING_THREADS_MAX)
            .thread_name("warren-snapshot")
            .build()
            .map_err(Error::Thread)?;
        let clock = {
            let _context = runtime.enter();
            Clock::start()
        };
        let links = peers.into_iter().map(|peer| (peer.node, Link::new(peer, &options)));
        let links: BTreeMap<NodeId, Arc<Link>> = links.collect();
        let liveness = Liveness::new(liveness::Options {
            silence_ms: options.silence_ms,
            broken_ms: options.silence_ms / 2,
            stall_ms: options.silence_ms / 4,
        });
        let shared = Arc::new(Shared {
            identity,
            inbox,
            admin,
            clock,
            runtime: runtime.handle().clone(),
            liveness: Mutex::new(liveness),
            complaints: Mutex::default(),
            snapshots_out: Semaphore::new(options.snapshots_max),
            snapshots_waiting: AtomicUsize::new(0),
            snapshots_in: Arc::new(Semaphore::new(
                options.snapshots_max * links.len().max(SNAPSHOT_PEERS_MIN),
            )),
            admin_calls: Arc::new(Semaphore::new(options.admin_calls_max)),
            links: ArcSwap::from_pointee(links),
            forgotten: ArcSwap::default(),
            options,
        });
        let (stop_tx, stop_rx) = oneshot::channel();
        let owned = Arc::clone(&shared);
        let thread = std::thread::Builder::new()
            .name("warren-links".to_owned())
            .spawn(move || {
                runtime.block_on(run(owned, listener, stop_rx));
                runtime.shutdown_timeout(SHUTDOWN);
            })
            .map_err(Error::Thread)?;
        let transport = Arc::new(Self { shared });
        Ok(Handle {
            transport,
            address,
            stop: Some(stop_tx),
            thread: Some(thread),
        })
    }

    /// What passed over each link.
    pub fn stats(&self) -> Vec<LinkStats> {
        let links = self.shared.links.load();
        let stats = links.iter().map(|(node, link)| {
            let counters = link.queue.counters();
            LinkStats {
                node: *node,
                open: counters.open,
                queued: counters.queued,
                queued_bytes: counters.queued_bytes,
                sent: counters.sent,
                sent_bytes: counters.sent_bytes,
                refused: counters.refused,
                received: link.received.load(Ordering::Relaxed),
                received_bytes: link.received_bytes.load(Ordering::Relaxed),
                resets: counters.resets,
            }
        });
        stats.collect()
    }

    /// Which peers were refused, or refused this node, in the last minute, and why.
    pub fn refusals(&self) -> Vec<String> {
        let now_ms = self.shared.clock.now_ms();
        let complaints = locked(&self.shared.complaints);
        let recent = complaints
            .iter()
            .filter(|(_, at_ms)| now_ms.saturating_sub(**at_ms) < COMPLAINT_MS);
        recent.map(|(text, _)| text.clone()).collect()
    }
}

impl Transport for GrpcTransport {
    fn send(&self, to: NodeId, envelope: Envelope) -> Result<(), SendError> {
        match self.shared.links.load().get(&to) {
            Some(link) => link.queue.push(envelope),
            None => Err(SendError::NoPeer(envelope)),
        }
    }

    fn peers(&self) -> Vec<(NodeId, PeerState)> {
        locked(&self.shared.liveness).states().collect()
    }

    fn set_peers(&self, peers: Vec<Peer>) {
        let shared = Arc::clone(&self.shared);
        // On the transport's own thread, as all that the inbox is told.
        self.shared.runtime.spawn(async move { shared.set_peers(peers) });
    }

    fn set_forgotten(&self, forgotten: BTreeMap<NodeId, u64>) {
        self.shared.forgotten.store(Arc::new(forgotten));
    }

    fn send_snapshot(&self, to: NodeId, snapshot: OutgoingSnapshot) {
        snapshot::send(&self.shared, to, snapshot);
    }
}

impl Handle {
    /// The sending end.
    pub fn transport(&self) -> Arc<GrpcTransport> {
        Arc::clone(&self.transport)
    }

    /// Where this node listens: the port is known even if any was asked for.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Closes all links and the listener, and waits until the inbox is called no more.
    /// A sink that blocks is waited for two seconds. Not to be called by the inbox.
    pub fn shutdown(mut self) {
        self.stop_and_join();
    }

    fn stop_and_join(&mut self) {
        if let Some(stop_tx) = self.stop.take() {
            // If nobody listens, the thread has ended.
            let _ended = stop_tx.send(());
        }
        if let Some(thread) = self.thread.take()
            && thread.join().is_err()
        {
            tracing::error!("the transport's thread panicked");
        }
    }
}

impl Drop for Handle {
    fn drop(&mut self) {
        self.stop_and_join();
    }
}

impl Shared {
    /// The link to that peer, if it is one.
    pub(super) fn link(&self, node: NodeId) -> Option<Arc<Link>> {
        self.links.load().get(&node).cloned()
    }

    fn set_peers(self: &Arc<Self>, peers: Vec<Peer>) {
        let known = self.links.load_full();
        let mut links = BTreeMap::new();
        for peer in peers {
            if peer.node == self.identity.node || endpoint(&peer.address).is_err() {
                continue;
            }
            let link = match known.get(&peer.node) {
                Some(link) if link.peer == peer => Arc::clone(link),
                Some(_) | None => Link::new(peer, &self.options),
            };
            links.insert(link.peer.node, link);
        }
        let is_same = |link: &Arc<Link>, other: &BTreeMap<NodeId, Arc<Link>>| {
            other.get(&link.peer.node).is_some_and(|other| Arc::ptr_eq(other, link))
        };
        self.links.store(Arc::new(links.clone()));
        for link in known.values().filter(|link| !is_same(link, &links)) {
            let node = link.peer.node;
            tracing::info!(peer = %link.peer.name, address = %link.peer.address, "a peer no more");
            link.gone.send_replace(true);
            link.arrive(None);
            link.queue.reset();
            if !links.contains_key(&node)
                && let Some(PeerState::Up { incarnation }) = locked(&self.liveness).forget(node)
            {
                self.inbox.peer_changed(node, PeerState::Silent { incarnation });
            }
            self.inbox.link_reset(node);
        }
        for link in links.values().filter(|link| !is_same(link, &known)) {
            tracing::info!(peer = %link.peer.name, address = %link.peer.address, "a new peer");
            tokio::spawn(link::keep(Arc::clone(self), Arc::clone(link)));
        }
    }

    /// Whether a node with that data directory was removed for good.
    pub(super) fn check_forgotten(&self, proven: &Proven) -> Result<(), Refusal> {
        if self.is_forgotten(proven.node, proven.directory) {
            return Err(Refusal::Forgotten(proven.name.clone()));
        }
        Ok(())
    }

    /// Tells the core, and does what follows. Only the transport's thread calls this.
    pub(super) fn step(&self, event: Event) {
        let mut effects = Vec::new();
        locked(&self.liveness).step(self.clock.now_ms(), event, &mut effects);
        for effect in effects {
            match effect {
                Effect::Changed(node, state) => {
                    let name = self.name_of(node).unwrap_or_default();
                    tracing::info!(peer = name, ?state, "a peer's state changed");
                    self.inbox.peer_changed(node, state);
                }
                Effect::Replaced(node) => {
                    if let Some(link) = self.link(node) {
                        link.arrive(None);
                        link.queue.reset();
                        self.inbox.link_reset(node);
                    }
                }
            }
        }
    }

    /// Logs a refusal by or of another node, unless the same was said lately.
    pub(super) fn complain(&self, text: String) {
        let now_ms = self.clock.now_ms();
        let mut complaints = locked(&self.complaints);
        if complaints
            .get(&text)
            .is_some_and(|at_ms| now_ms.saturating_sub(*at_ms) < COMPLAINT_MS)
        {
            return;
        }
        if complaints.len() >= COMPLAINTS_MAX {
            complaints.retain(|_, at_ms| now_ms.saturating_sub(*at_ms) < COMPLAINT_MS);
        }
        if complaints.len() < COMPLAINTS_MAX {
            tracing::warn!("{text}");
            complaints.insert(text, now_ms);
        }
    }

    /// A new connection to that address.
    pub(super) async fn connect(&self, address: &str) -> Result<TransportClient<tonic::transport::Channel>, Failure> {
        let silence = Duration::from_millis(self.options.silence_ms.max(1));
        let endpoint = endpoint(address)
            .map_err(Failure::from)?
            .http2_keep_alive_interval(silence)
            .keep_alive_timeout(2 * silence)
            .keep_alive_while_idle(true)
            .connect_timeout(silence);
        let channel = match &self.options.tls {
            None => endpoint.connect().await?,
            Some(tls) => endpoint.connect_with_connector(Connector(tls.clone())).await?,
        };
        Ok(client(channel))
    }
}

impl Book for Shared {
    fn name_of(&self, node: NodeId) -> Option<String> {
        self.link(node).map(|link| link.peer.name.clone())
    }

    fn is_forgotten(&self, node: NodeId, directory: u64) -> bool {
        let forgotten = self.forgotten.load();
        forgotten.get(&node).is_some_and(|last| directory <= *last)
    }

    fn admit(&self, node: NodeId, incarnation: u64) -> Result<(), Stale> {
        locked(&self.liveness).admit(node, incarnation)
    }
}

/// Why a call came to nothing.
#[derive(Debug)]
pub(super) struct Failure {
    pub(super) text: String,
    pub(super) code: Option<tonic::Code>,
    pub(super) io: Option<std::io::ErrorKind>,
}

impl Failure {
    /// The other end refused, and said so.
    pub(super) fn is_refusal(&self) -> bool {
        self.code == Some(tonic::Code::PermissionDenied)
    }

    /// The two ends do not come to speak TLS with each other: a certificate is not believed, or one end has none.
    pub(super) fn is_insecure(&self) -> bool {
        self.io == Some(std::io::ErrorKind::InvalidData)
    }

    /// The other end's host closed the connection. A broken pipe is no proof of that: it is also what a stream
    /// sees when this end gave the connection up.
    pub(super) fn closed_by_peer(&self) -> bool {
        self.io == Some(std::io::ErrorKind::ConnectionReset)
    }
}

impl From<tonic::transport::Error> for Failure {
    fn from(error: tonic::transport::Error) -> Self {
        let (io, root) = root(&error);
        Self {
            text: root,
            code: None,
            io,
        }
    }
}

impl From<Status> for Failure {
    fn from(status: Status) -> Self {
        let io = status.source().and_then(|source| root(source).0);
        Self {
            text: status.message().to_owned(),
            code: Some(status.code()),
            io,
        }
    }
}

fn root(error: &(dyn std::error::Error + 'static)) -> (Option<std::io::ErrorKind>, String) {
    let mut io = None;
    let mut last = error;
    loop {
        if let Some(error) = last.downcast_ref::<std::io::Error>() {
            io = Some(error.kind());
        }
        match last.source() {
            Some(source) => last = source,
            None => return (io, last.to_string()),
        }
    }
}

pub(super) fn endpoint(address: &str) -> Result<Endpoint, tonic::transport::Error> {
    Ok(Endpoint::from_shared(format!("http://{address}"))?
        .tcp_nodelay(true)
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW))
}

pub(super) fn client(channel: tonic::transport::Channel) -> TransportClient<tonic::transport::Channel> {
    TransportClient::new(channel)
        .max_decoding_message_size(MESSAGE_LEN_MAX)
        .max_encoding_message_size(MESSAGE_LEN_MAX)
}

pub(super) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    // Nothing that these mutexes guard is left half-changed by a panic.
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

fn check(identity: &Identity, peers: &[Peer]) -> Result<(), Error> {
    if identity.secret.expose().is_empty() {
        return Err(Error::NoSecret);
    }
    let mut nodes = vec![(identity.node, identity.name.as_str())];
    for peer in peers {
        let parts = peer.address.rsplit_once(':');
        let fits = parts.is_some_and(|(host, port)| !host.is_empty() && port.parse::<u16>().is_ok());
        if !fits || endpoint(&peer.address).is_err() {
            return Err(Error::Address(peer.name.clone(), peer.address.clone()));
        }
        nodes.push((peer.node, peer.name.as_str()));
    }
    for (at, (node, name)) in nodes.iter().enumerate() {
        if *node == 0 {
            return Err(Error::NoId((*name).to_owned()));
        }
        if let Some((_, other)) = nodes[..at].iter().find(|(id, other)| id == node || other == name) {
            return Err(Error::Duplicate((*other).to_owned(), (*name).to_owned()));
        }
    }
    Ok(())
}

async fn run(shared: Arc<Shared>, listener: TcpListener, stop_rx: oneshot::Receiver<()>) {
    let listener = match tokio::net::TcpListener::from_std(listener) {
        Ok(listener) => listener,
        Err(error) => {
            tracing::error!(%error, "cannot listen for other nodes");
            return;
        }
    };
    for link in shared.links.load().values() {
        tokio::spawn(link::keep(Arc::clone(&shared), Arc::clone(link)));
    }
    tokio::spawn(watch(Arc::clone(&shared)));
    let incoming = accept(
        listener,
        shared.clock,
        shared.options.handshake_ms,
        shared.options.tls.clone(),
    );
    let service = TransportServer::new(Door {
        shared: Arc::clone(&shared),
    })
    .max_decoding_message_size(MESSAGE_LEN_MAX)
    .max_encoding_message_size(MESSAGE_LEN_MAX);
    let silence = Duration::from_millis(shared.options.silence_ms.max(1));
    let server = Server::builder()
        .initial_stream_window_size(STREAM_WINDOW)
        .initial_connection_window_size(CONNECTION_WINDOW)
        .max_frame_size(FRAME_LEN)
        .max_concurrent_streams(STREAMS_MAX)
        .http2_keepalive_interval(Some(silence))
        .http2_keepalive_timeout(Some(2 * silence))
        .add_service(service)
        .serve_with_incoming(incoming);
    tokio::select! {
        served = server => {
            if let Err(error) = served {
                tracing::error!(%error, "this node's listener for other nodes failed");
            }
        }
        _stopped = stop_rx => {}
    }
}

/// Lets time pass for the core.
async fn watch(shared: Arc<Shared>) {
    let period = Duration::from_millis((shared.options.silence_ms / 20).clamp(1, 100));
    let mut ticks = tokio::time::interval(period);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        ticks.tick().await;
        for (node, link) in &*shared.links.load_full() {
            let heard = locked(&link.arriving)
                .as_ref()
                .map(|at| (at.incarnation, at.meter.heard_ms()));
            if let Some((incarnation, at_ms)) = heard {
                shared.step(Event::Heard {
                    node: *node,
                    incarnation,
                    at_ms,
                });
            }
        }
        shared.step(Event::Tick);
    }
}

/// What the peers and the operator's tool call.
struct Door {
    shared: Arc<Shared>,
}

#[tonic::async_trait]
impl Service for Door {
    type LinkStream = ReceiverStream<Result<wire::LinkResponse, Status>>;
    type SnapshotStream = ReceiverStream<Result<wire::SnapshotResponse, Status>>;
    type AdminStream = ReceiverStream<Result<wire::AdminResponse, Status>>;

    async fn link(&self, request: Request<Streaming<wire::LinkRequest>>) -> Result<Response<Self::LinkStream>, Status> {
        let (tx, rx) = mpsc::channel(2);
        let meter = meter(&request)?;
        tokio::spawn(link::serve(Arc::clone(&self.shared), meter, request.into_inner(), tx));
        Ok(Response::new(ReceiverStream::new(rx)))
    }

    async fn snapshot(
        &self,
        request: Request<Streaming<wire::SnapshotRequest>>,
    ) -> Result<Response<Self::SnapshotStream>, Status> {
        let (tx, rx) = mpsc::channel(2);
        let meter = meter(&request)?;
        tokio::spawn(snapshot::serve(
            Arc::clone(&self.shared),
            meter,
            request.into_inner(),
            tx,
        ));
        Ok(Response::new(ReceiverStream::new(rx)))
    }

    async fn admin(
        &self,
        request: Request<Streaming<wire::AdminRequest>>,
    ) -> Result<Response<Self::AdminStream>, Status> {
        let (tx, rx) = mpsc::channel(2);
        let meter = meter(&request)?;
        tokio::spawn(super::admin::serve(
            Arc::clone(&self.shared),
            meter,
            request.into_inner(),
            tx,
        ));
        Ok(Response::new(ReceiverStream::new(rx)))
    }
}

fn meter<T>(request: &Request<T>) -> Result<Arc<Meter>, Status> {
    let meter = request.extensions().get::<Arc<Meter>>();
    meter
        .cloned()
        .ok_or_else(|| Status::internal("a connection without its meter"))
}
