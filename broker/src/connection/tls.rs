//! TLS around a client's socket.
//!
//! It takes the place of the socket's own read and write, without waiting: records that came are decrypted into the
//! connection's input, and a part of its output is encrypted once the part before it is with the system.

use std::cell::RefCell;
use std::io::{self, BufRead as _, IoSlice, Write};
use std::sync::Arc;

use bytes::BytesMut;
use rustls::{CipherSuite, ProtocolVersion, ServerConfig, ServerConnection};
use tokio::net::TcpStream;

use super::certificate::Certificate;
use crate::amqp::Output;

/// Bytes that are read from a socket at once: some records.
const CIPHERED_LEN: usize = 64 << 10;
/// Slices of the output that are encrypted together.
const SLICES: usize = 64;
/// Reads in a row that bring no byte for the connection: a handshake needs two or three.
const BARREN_MAX: usize = 8;

thread_local! {
    /// Holds what was read for as long as it is being decrypted: one for all connections of a thread.
    static CIPHERED: RefCell<Vec<u8>> = RefCell::new(vec![0; CIPHERED_LEN]);
}

/// See the module.
pub(super) struct Tls {
    session: ServerConnection,
    /// Bytes of the output that were encrypted and are not yet with the system.
    taken: usize,
    /// The client ended its side.
    is_ended: bool,
    is_told: bool,
}

/// What both ends agreed to, and who the client is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Agreed {
    /// `tlsv1.2` or `tlsv1.3`.
    pub protocol: &'static str,
    /// `any` where the cipher suite does not say.
    pub key_exchange: &'static str,
    /// As `aes_256_gcm`.
    pub cipher: &'static str,
    /// Of the client, if it showed one; it was verified.
    pub peer: Option<Certificate>,
}

impl Tls {
    pub(super) fn new(config: Arc<ServerConfig>) -> Result<Self, rustls::Error> {
        Ok(Self {
            session: ServerConnection::new(config)?,
            taken: 0,
            is_ended: false,
            is_told: false,
        })
    }

    /// Reads and decrypts once. As reading from the socket: 0 is the end, and it says when it would have to wait.
    pub(super) fn read(&mut self, socket: &TcpStream, input: &mut BytesMut) -> io::Result<usize> {
        for _ in 0..BARREN_MAX {
            if self.is_ended {
                return Ok(0);
            }
            let decrypted = CIPHERED.with_borrow_mut(|ciphered| {
                let read = socket.try_read(ciphered)?;
                self.is_ended = read == 0;
                self.decrypt(&ciphered[..read], input)
            })?;
            if decrypted > 0 {
                return Ok(decrypted);
            }
        }
        // The socket has more, and gets its next turn.
        Err(io::ErrorKind::WouldBlock.into())
    }

    fn decrypt(&mut self, mut ciphered: &[u8], input: &mut BytesMut) -> io::Result<usize> {
        let before = input.len();
        while !ciphered.is_empty() && self.session.read_tls(&mut ciphered)? > 0 {
            let state = self.session.process_new_packets();
            let state = state.map_err(|error| io::Error::new(io::ErrorKind::InvalidData, error))?;
            self.is_ended |= state.peer_has_closed();
            let mut left = state.plaintext_bytes_to_read();
            let mut reader = self.session.reader();
            while left > 0 {
                let piece = reader.fill_buf()?;
                let len = piece.len();
                input.extend_from_slice(piece);
                reader.consume(len);
                left = left.saturating_sub(len);
            }
        }
        Ok(input.len() - before)
    }

    /// Encrypts what comes first of the output and writes it. Gives how much of the output is with the system now;
    /// nothing waits if that is 0.
    pub(super) fn write(&mut self, socket: &TcpStream, output: &Output) -> io::Result<usize> {
        if self.taken == 0 && !self.session.is_handshaking() {
            let mut slices = [IoSlice::new(&[]); SLICES];
            let count = output.chunks(&mut slices);
            if count > 0 {
                self.taken = self.session.writer().write_vectored(&slices[..count])?;
            }
        }
        self.flush(socket)?;
        Ok(std::mem::take(&mut self.taken))
    }

    fn flush(&mut self, socket: &TcpStream) -> io::Result<()> {
        while self.session.wants_write() {
            if self.session.write_tls(&mut Writer(socket))? == 0 {
                return Err(io::ErrorKind::WriteZero.into());
            }
        }
        Ok(())
    }

    /// Ends this side, as far as the socket takes it at once.
    pub(super) fn close(&mut self, socket: &TcpStream) {
        self.session.send_close_notify();
        // A client that takes nothing any more does not hear of the end.
        let _unheard = self.flush(socket);
    }

    /// What was agreed, once, when it is.
    pub(super) fn agreed(&mut self) -> Option<Agreed> {
        if self.is_told || self.session.is_handshaking() {
            return None;
        }
        self.is_told = true;
        let suite = self.session.negotiated_cipher_suite().map(|suite| suite.suite());
        let (key_exchange, cipher) = suite.map_or(("", ""), names);
        Some(Agreed {
            protocol: match self.session.protocol_version() {
                Some(ProtocolVersion::TLSv1_2) => "tlsv1.2",
                Some(ProtocolVersion::TLSv1_3) => "tlsv1.3",
                _ => "",
            },
            key_exchange,
            cipher,
            peer: self
                .session
                .peer_certificates()
                .and_then(|chain| Certificate::parse(chain.first()?)),
        })
    }
}

/// Key exchange and cipher as RabbitMQ's listings name them.
fn names(suite: CipherSuite) -> (&'static str, &'static str) {
    match suite {
        CipherSuite::TLS13_AES_128_GCM_SHA256 => ("any", "aes_128_gcm"),
        CipherSuite::TLS13_AES_256_GCM_SHA384 => ("any", "aes_256_gcm"),
        CipherSuite::TLS13_CHACHA20_POLY1305_SHA256 => ("any", "chacha20_poly1305"),
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_128_GCM_SHA256 => ("ecdhe_ecdsa", "aes_128_gcm"),
        CipherSuite::TLS_ECDHE_ECDSA_WITH_AES_256_GCM_SHA384 => ("ecdhe_ecdsa", "aes_256_gcm"),
        CipherSuite::TLS_ECDHE_ECDSA_WITH_CHACHA20_POLY1305_SHA256 => ("ecdhe_ecdsa", "chacha20_poly1305"),
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_128_GCM_SHA256 => ("ecdhe_rsa", "aes_128_gcm"),
        CipherSuite::TLS_ECDHE_RSA_WITH_AES_256_GCM_SHA384 => ("ecdhe_rsa", "aes_256_gcm"),
        CipherSuite::TLS_ECDHE_RSA_WITH_CHACHA20_POLY1305_SHA256 => ("ecdhe_rsa", "chacha20_poly1305"),
        _ => ("", ""),
    }
}

/// The socket, written without waiting.
struct Writer<'a>(&'a TcpStream);

impl Write for Writer<'_> {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.try_write(bytes)
    }

    fn write_vectored(&mut self, slices: &[IoSlice<'_>]) -> io::Result<usize> {
        self.0.try_write_vectored(slices)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests;
