//! Accepts clients: connection limit, back-off when the process runs out of descriptors, orderly stop.

use std::io;
use std::net::SocketAddr;
use std::sync::Arc;
use std::time::Duration;

use actix::ArbiterHandle;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::alarms::Alarms;
use crate::amqp::{Fault, ReplyCode};
use crate::connection::Limits;
use crate::connection::actor::{ConnectionActor, Shared};
use crate::connection::census::Census;
use crate::connection::registry::{Registry, Total};
use crate::directory::Directory;
use crate::metadata::client::MetadataClient;
use warren_cluster::tls::Credentials;

/// Connections beyond the limit that are told so; any more are dropped unheard.
const REFUSED_MAX: usize = 64;
/// Waits after a failed accept.
const BACK_OFF_MIN: Duration = Duration::from_millis(50);
const BACK_OFF_MAX: Duration = Duration::from_secs(1);
/// How often a stopping listener looks whether the last connection has gone.
const STOP_POLL: Duration = Duration::from_millis(20);

/// What all listeners of a node share.
#[derive(Clone)]
pub struct Service {
    /// At most so many connections of the node at a time.
    pub connections_max: usize,
    /// How many there are.
    pub connections: Total,
    pub limits: Limits,
    /// Connections run on these, in turn; there is one or more.
    pub arbiters: Vec<ArbiterHandle>,
    pub directory: Arc<Directory>,
    pub metadata: MetadataClient,
    pub alarms: Arc<Alarms>,
    pub census: Arc<Census>,
}

/// One open port of this node's AMQP service.
pub struct Listener {
    shared: Shared,
    address: SocketAddr,
    stop: watch::Sender<bool>,
    task: JoinHandle<()>,
}

impl Listener {
    /// Binds the address and starts accepting; with credentials, what comes in must speak TLS. Must be called in a
    /// tokio runtime, which does the accepting.
    pub fn start(address: SocketAddr, tls: Option<Credentials>, service: Service) -> io::Result<Self> {
        let Service {
            connections_max,
            connections,
            limits,
            arbiters,
            directory,
            metadata,
            alarms,
            census,
        } = service;
        if arbiters.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "connections need a thread to run on",
            ));
        }
        let socket = std::net::TcpListener::bind(address)?;
        socket.set_nonblocking(true)?;
        let socket = TcpListener::from_std(socket)?;
        let address = socket.local_addr()?;
        let shared = Shared {
            directory,
            metadata,
            limits: Arc::new(limits),
            alarms,
            registry: Registry::new(connections.clone()),
            tls,
            census,
        };
        let (stop, stopped) = watch::channel(false);
        let accepting = Accepting {
            shared: shared.clone(),
            connections_max,
            connections,
            arbiters,
            next: 0,
        };
        let task = tokio::spawn(accepting.run(socket, stopped));
        tracing::info!(%address, tls = shared.tls.is_some(), "listening for AMQP clients");
        Ok(Self {
            shared,
            address,
            stop,
            task,
        })
    }

    /// Where it listens; a port that was asked for as 0 is the real one.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// Whether what comes in must speak TLS.
    pub fn is_tls(&self) -> bool {
        self.shared.tls.is_some()
    }

    /// The connections that came by this listener.
    pub fn registry(&self) -> &Registry {
        &self.shared.registry
    }

    /// Stops accepting, asks every client to go, and waits for the last connection to end, at most `within`.
    /// Gives the number of connections that are left.
    pub async fn stop(self, within: Duration) -> usize {
        self.stop.send_replace(true);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "a listener ended abnormally");
        }
        let text = "broker forced connection closure with reason 'shutdown'";
        self.shared.registry.close_all(ReplyCode::ConnectionForced, text);
        let until = Instant::now() + within;
        while !self.shared.registry.is_empty() && Instant::now() < until {
            sleep(STOP_POLL).await;
        }
        self.shared.registry.len()
    }
}

struct Accepting {
    shared: Shared,
    connections_max: usize,
    connections: Total,
    arbiters: Vec<ArbiterHandle>,
    next: usize,
}

impl Accepting {
    async fn run(mut self, socket: TcpListener, mut stopped: watch::Receiver<bool>) {
        let mut back_off = BACK_OFF_MIN;
        loop {
            let accepted = tokio::select! {
                _ = stopped.wait_for(|stopped| *stopped) => return,
                accepted = socket.accept() => accepted,
            };
            match accepted {
                Ok((stream, peer)) => {
                    back_off = BACK_OFF_MIN;
                    match stream.into_std() {
                        Ok(stream) => self.start(stream, peer),
                        Err(error) => tracing::warn!(%peer, %error, "an accepted connection was lost"),
                    }
                }
                // Mostly a lack of descriptors: the client waits in the backlog meanwhile.
                Err(error) => {
                    tracing::warn!(%error, "a connection could not be accepted");
                    sleep(back_off).await;
                    back_off = (back_off * 2).min(BACK_OFF_MAX);
                }
            }
        }
    }

    fn start(&mut self, stream: std::net::TcpStream, peer: SocketAddr) {
        let (count, max) = (self.connections.count(), self.connections_max);
        if count >= max + REFUSED_MAX {
            tracing::warn!(%peer, count, "a connection beyond the limit was dropped");
            return;
        }
        let refusal = (count >= max).then(|| {
            let text = format!("connection refused: node connection limit ({max}) is reached");
            Fault::new(ReplyCode::NotAllowed, text)
        });
        let arbiter = &self.arbiters[self.next % self.arbiters.len()];
        self.next = self.next.wrapping_add(1);
        if !ConnectionActor::start_on(arbiter, self.shared.clone(), stream, peer, refusal) {
            tracing::error!(%peer, "a connection was dropped: its thread has ended");
        }
    }
}
