//! Mutual TLS beneath the links: who calls and who is called show each other certificates of the cluster's authority.
//!
//! It is an addition to the cluster secret, not instead of it: the handshake of `handshake.rs` follows all the same.

use std::future::Future;
use std::io;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, ready};

use hyper_util::rt::TokioIo;
use rustls::pki_types::ServerName;
use tokio::io::{AsyncRead, AsyncWrite, ReadBuf};
use tokio::net::TcpStream;
use tokio_rustls::{TlsAcceptor, TlsConnector, client, server};
use tonic::codegen::http::Uri;
use tower_service::Service;

use crate::tls::Credentials;

/// Makes connections to nodes that must prove who they are.
#[derive(Clone)]
pub(super) struct Connector(pub(super) Credentials);

impl Service<Uri> for Connector {
    type Response = TokioIo<client::TlsStream<TcpStream>>;
    type Error = io::Error;
    type Future = Pin<Box<dyn Future<Output = io::Result<Self::Response>> + Send>>;

    fn poll_ready(&mut self, _: &mut Context<'_>) -> Poll<io::Result<()>> {
        Poll::Ready(Ok(()))
    }

    fn call(&mut self, uri: Uri) -> Self::Future {
        Box::pin(connect(self.0.clone(), uri))
    }
}

async fn connect(credentials: Credentials, uri: Uri) -> io::Result<TokioIo<client::TlsStream<TcpStream>>> {
    let invalid = |text: &'static str| io::Error::new(io::ErrorKind::InvalidInput, text);
    // Of an address of IP version 6 the brackets belong to the notation, not to the name.
    let host = uri.host().ok_or_else(|| invalid("an address without a host"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']').to_owned();
    let port = uri.port_u16().ok_or_else(|| invalid("an address without a port"))?;
    let config = credentials
        .client()
        .ok_or_else(|| invalid("no authorities to verify the node with"))?;
    let stream = TcpStream::connect((host.as_str(), port)).await?;
    stream.set_nodelay(true)?;
    let name = ServerName::try_from(host).map_err(|_| invalid("a host that no certificate can name"))?;
    let stream = TlsConnector::from(config).connect(name, stream).await?;
    Ok(TokioIo::new(stream))
}

/// An accepted connection, with TLS or without. The handshake is part of the first read or write.
pub(super) enum Secured<S> {
    Plain(S),
    Handshake(Box<tokio_rustls::Accept<S>>),
    Open(Box<server::TlsStream<S>>),
    /// The handshake failed.
    Failed,
}

impl<S: AsyncRead + AsyncWrite + Unpin> Secured<S> {
    pub(super) fn new(stream: S, credentials: Option<&Credentials>) -> Self {
        match credentials {
            None => Self::Plain(stream),
            Some(credentials) => {
                let acceptor = TlsAcceptor::from(Arc::clone(&credentials.server()));
                Self::Handshake(Box::new(acceptor.accept(stream)))
            }
        }
    }

    /// The stream once it is ready for use.
    fn poll_open(&mut self, context: &mut Context<'_>) -> Poll<io::Result<Pin<&mut dyn Stream>>> {
        if let Self::Handshake(accept) = self {
            match ready!(Pin::new(&mut **accept).poll(context)) {
                Ok(stream) => *self = Self::Open(Box::new(stream)),
                Err(error) => {
                    tracing::debug!(%error, "a TLS handshake on the port for other nodes failed");
                    *self = Self::Failed;
                    return Poll::Ready(Err(error));
                }
            }
        }
        Poll::Ready(match self {
            Self::Plain(stream) => Ok(Pin::new(stream as &mut dyn Stream)),
            Self::Open(stream) => Ok(Pin::new(&mut **stream as &mut dyn Stream)),
            Self::Handshake(_) | Self::Failed => Err(io::ErrorKind::NotConnected.into()),
        })
    }
}

/// What both kinds of connection are.
trait Stream: AsyncRead + AsyncWrite + Unpin {}

impl<S: AsyncRead + AsyncWrite + Unpin> Stream for S {}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncRead for Secured<S> {
    fn poll_read(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        buffer: &mut ReadBuf<'_>,
    ) -> Poll<io::Result<()>> {
        ready!(self.poll_open(context))?.poll_read(context, buffer)
    }
}

impl<S: AsyncRead + AsyncWrite + Unpin> AsyncWrite for Secured<S> {
    fn poll_write(mut self: Pin<&mut Self>, context: &mut Context<'_>, bytes: &[u8]) -> Poll<io::Result<usize>> {
        ready!(self.poll_open(context))?.poll_write(context, bytes)
    }

    fn poll_flush(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        ready!(self.poll_open(context))?.poll_flush(context)
    }

    fn poll_shutdown(mut self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<io::Result<()>> {
        // Nothing was said yet, so nothing needs an end.
        match &mut *self {
            Self::Plain(stream) => Pin::new(stream).poll_shutdown(context),
            Self::Open(stream) => Pin::new(&mut **stream).poll_shutdown(context),
            Self::Handshake(_) | Self::Failed => Poll::Ready(Ok(())),
        }
    }

    fn poll_write_vectored(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
        slices: &[io::IoSlice<'_>],
    ) -> Poll<io::Result<usize>> {
        ready!(self.poll_open(context))?.poll_write_vectored(context, slices)
    }

    fn is_write_vectored(&self) -> bool {
        true
    }
}
