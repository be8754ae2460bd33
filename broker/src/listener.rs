//! Accepts clients: connection limit, back-off when the process runs out of descriptors, orderly stop.

use std::io;
use std::net::SocketAddr;
use std::time::Duration;

use actix::ArbiterHandle;
use tokio::net::TcpListener;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, sleep};

use crate::amqp::{Fault, ReplyCode};
use crate::connection::actor::{ConnectionActor, Shared};

/// Connections beyond the limit that are told so; any more are dropped unheard.
const REFUSED_MAX: usize = 64;
/// Waits after a failed accept.
const BACK_OFF_MIN: Duration = Duration::from_millis(50);
const BACK_OFF_MAX: Duration = Duration::from_secs(1);
/// How often a stopping listener looks whether the last connection has gone.
const STOP_POLL: Duration = Duration::from_millis(20);

/// The open ports of this node's AMQP service.
pub struct Listener {
    shared: Shared,
    addresses: Vec<SocketAddr>,
    stop: watch::Sender<bool>,
    tasks: Vec<JoinHandle<()>>,
}

impl Listener {
    /// Binds every address and starts accepting. Connections run on `arbiters`, in turn. Must be called on a thread
    /// with a tokio runtime, which does the accepting.
    pub async fn bind(
        addresses: &[SocketAddr],
        shared: Shared,
        connections_max: usize,
        arbiters: Vec<ArbiterHandle>,
    ) -> io::Result<Self> {
        if arbiters.is_empty() {
            return Err(io::Error::new(
                io::ErrorKind::InvalidInput,
                "connections need a thread to run on",
            ));
        }
        let mut sockets = Vec::with_capacity(addresses.len());
        for address in addresses {
            sockets.push(TcpListener::bind(address).await?);
        }
        let addresses = sockets
            .iter()
            .map(TcpListener::local_addr)
            .collect::<io::Result<Vec<_>>>()?;
        let (stop, stopped) = watch::channel(false);
        let tasks = sockets
            .into_iter()
            .map(|socket| {
                let accepting = Accepting {
                    shared: shared.clone(),
                    connections_max,
                    arbiters: arbiters.clone(),
                    next: 0,
                };
                tokio::spawn(accepting.run(socket, stopped.clone()))
            })
            .collect();
        tracing::info!(?addresses, "listening for AMQP clients");
        Ok(Self {
            shared,
            addresses,
            stop,
            tasks,
        })
    }

    /// Where it listens; ports that were asked for as 0 are the real ones.
    pub fn addresses(&self) -> &[SocketAddr] {
        &self.addresses
    }

    /// Stops accepting, asks every client to go, and waits for the last connection to end, at most `within`.
    /// Gives the number of connections that are left.
    pub async fn stop(self, within: Duration) -> usize {
        self.stop.send_replace(true);
        for task in self.tasks {
            if let Err(error) = task.await {
                tracing::error!(%error, "a listener ended abnormally");
            }
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
        let (count, max) = (self.shared.registry.len(), self.connections_max);
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
