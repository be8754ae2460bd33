//! Accepted connections: bounded while unproven, metered for liveness.
//!
//! A connection that has not finished a handshake may send [`UNPROVEN_LEN_MAX`] bytes within
//! [`super::Options::handshake_ms`], and only [`UNPROVEN_MAX`] such connections stay open.

use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::task::{Context, Poll};
use std::time::Duration;

use futures_util::Stream;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{OwnedSemaphorePermit, Semaphore};
use tokio::time::{Instant, Sleep};
use tonic::transport::server::Connected;

use super::secure::Secured;
use crate::tls::Credentials;

/// Bytes that a connection may send before it proved itself: a handshake is about 1 KiB.
const UNPROVEN_LEN_MAX: u64 = 64 << 10;
/// Connections that may be open and unproven; more are closed at once.
const UNPROVEN_MAX: usize = 256;
/// Pause after a failed accept (out of file descriptors, for one).
const ACCEPT_PAUSE: Duration = Duration::from_millis(50);

/// Milliseconds since the transport's start.
#[derive(Clone, Copy, Debug)]
pub(super) struct Clock(Instant);

impl Clock {
    pub(super) fn start() -> Self {
        Self(Instant::now())
    }

    pub(super) fn now_ms(self) -> u64 {
        u64::try_from(self.0.elapsed().as_millis()).unwrap_or(u64::MAX)
    }
}

/// What is known of one accepted connection. Read by the streams on it.
#[derive(Debug)]
pub(super) struct Meter {
    clock: Clock,
    /// When bytes last came.
    heard_ms: AtomicU64,
    proven: AtomicBool,
    closed_by_peer: AtomicBool,
}

impl Meter {
    pub(super) fn heard_ms(&self) -> u64 {
        self.heard_ms.load(Ordering::Relaxed)
    }

    /// Lifts the bounds of an unproven connection.
    pub(super) fn prove(&self) {
        self.proven.store(true, Ordering::Relaxed);
    }

    /// The peer's host closed the connection; this end did not give it up.
    pub(super) fn closed_by_peer(&self) -> bool {
        self.closed_by_peer.load(Ordering::Relaxed)
    }
}

/// An accepted connection, as the streams on it know it.
pub(super) struct Accepted {
    stream: Secured<Metered>,
    meter: Arc<Meter>,
}

/// The socket of an accepted connection.
struct Metered {
    stream: TcpStream,
    meter: Arc<Meter>,
    unproven: Option<Unproven>,
}

struct Unproven {
    deadline: Pin<Box<Sleep>>,
    read: u64,
    _permit: OwnedSemaphorePermit,
}

impl Connected for Accepted {
    type ConnectInfo = Arc<Meter>;

    fn connect_info(&self) -> Self::ConnectInfo {
        Arc::clone(&self.meter)
    }
}

/// Accepts for as long as it is polled.
pub(super) fn accept(
    listener: TcpListener,
    clock: Clock,
    handshake_ms: u64,
    tls: Option<Credentials>,
) -> impl Stream<Item = io::Result<Accepted>> {
    let unproven = Arc::new(Semaphore::new(UNPROVEN_MAX));
    futures_util::stream::unfold((listener, unproven, tls), move |(listener, unproven, tls)| async move {
        loop {
            let stream = match listener.accept().await {
                Ok((stream, _)) => stream,
                Err(error) => {
                    tracing::warn!(%error, "cannot accept a connection of another node");
                    tokio::time::sleep(ACCEPT_PAUSE).await;
                    continue;
                }
            };
            let Ok(permit) = Arc::clone(&unproven).try_acquire_owned() else {
                continue;
            };
            if stream.set_nodelay(true).is_err() {
                // It is closed already.
                continue;
            }
            let meter = Arc::new(Meter {
                clock,
                heard_ms: AtomicU64::new(clock.now_ms()),
                proven: AtomicBool::new(false),
                closed_by_peer: AtomicBool::new(false),
            });
            let deadline = Box::pin(tokio::time::sleep(Duration::from_millis(handshake_ms)));
            let unproven_yet = Some(Unproven {
                deadline,
                read: 0,
                _permit: permit,
            });
            let metered = Metered {
                stream,
                meter: Arc::clone(&meter),
                unproven: unproven_yet,
            };
            let stream = Secured::new(metered, tls.as_ref());
            return Some((Ok(Accepted { stream, meter }), (listener, unproven, tls)));
        }
    })
}

impl Metered {
    fn check_unproven(&mut self, context: &mut Context<'_>) -> io::Result<()> {
        let Some(unproven) = &mut self.unproven else {
            return Ok(());
        };
        if self.meter.proven.load(Ordering::Relaxed) {
            self.unproven = None;
            return Ok(());
        }
        if unproven.read > UNPROVEN_LEN_MAX {
            return Err(io::Error::other("the caller sent too much before it proved itself"));
        }
        if unproven.deadline.as_mut().poll(context).is_ready() {
            return Err(io::Error::from(io::ErrorKind::TimedOut));
        }
        Ok(())
    }
}

impl AsyncRead for Metered {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        let this = &mut *self;
        if let Err(error) = this.check_unproven(context) {
            return Poll::Ready(Err(error));
        }
        let before = buffer.filled().len();
        let polled = Pin::new(&mut this.stream).poll_read(context, buffer);
        match &polled {
            Poll::Pending => {}
            Poll::Ready(Err(error)) => {
                if error.kind() == io::ErrorKind::ConnectionReset {
                    this.meter.closed_by_peer.store(true, Ordering::Relaxed);
                }
            }
            Poll::Ready(Ok(())) => {
                let read = (buffer.filled().len() - before) as u64;
                if read > 0 {
                    this.meter.heard_ms.store(this.meter.clock.now_ms(), Ordering::Relaxed);
                    if let Some(unproven) = &mut this.unproven {
                        unproven.read += read;
                    }
                } else if buffer.remaining() > 0 {
                    this.meter.closed_by_peer.store(true, Ordering::Relaxed);
                }
            }
        }
        polled
    }
}

impl AsyncWrite for Metered {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}

impl AsyncRead for Accepted {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_read(context, buffer)
    }
}

impl AsyncWrite for Accepted {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        Pin::new(&mut self.stream).poll_shutdown(context)
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        Pin::new(&mut self.stream).poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        self.stream.is_write_vectored()
    }
}
