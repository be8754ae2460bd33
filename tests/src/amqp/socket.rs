//! A socket to a broker: frames whole and in order, or any bytes at all.

use std::io::{ErrorKind, Read, Write};
use std::net::TcpStream;
use std::time::{Duration, Instant};

use super::method::Method;
use super::wire::{Reader, Wire, Writer};

/// Method frame.
pub const METHOD: u8 = 1;
/// Content header frame.
pub const HEADER: u8 = 2;
/// Content body frame.
pub const BODY: u8 = 3;
/// Heartbeat frame.
pub const HEARTBEAT: u8 = 8;
const FRAME_END: u8 = 0xCE;

/// The brokers' AMQP addresses, from `WARREN_TEST_AMQP` (`host:port,host:port`).
pub fn endpoints() -> Vec<String> {
    let list = std::env::var("WARREN_TEST_AMQP").unwrap_or_default();
    let list: Vec<String> = list
        .split(',')
        .map(|one| one.trim().to_owned())
        .filter(|one| !one.is_empty())
        .collect();
    assert!(
        !list.is_empty(),
        "WARREN_TEST_AMQP is not set: these tests need running brokers, such as 127.0.0.1:5672,127.0.0.1:5673"
    );
    list
}

/// One frame.
#[derive(Debug, Clone, PartialEq)]
pub struct Frame {
    /// First octet.
    pub kind: u8,
    /// Channel number.
    pub channel: u16,
    /// What lies between the size and the end octet.
    pub payload: Vec<u8>,
}

impl Frame {
    /// A frame of any kind, legal or not.
    pub fn new(kind: u8, channel: u16, payload: impl Into<Vec<u8>>) -> Self {
        Self {
            kind,
            channel,
            payload: payload.into(),
        }
    }

    /// A method frame.
    pub fn method<M: Method>(channel: u16, method: &M) -> Self {
        let mut out = Writer::default();
        M::ID.0.put(&mut out);
        M::ID.1.put(&mut out);
        method.put(&mut out);
        Self::new(METHOD, channel, out.finish())
    }

    /// A content header frame.
    pub fn header(channel: u16, class: u16, body_size: u64, properties: &[u8]) -> Self {
        let mut out = Writer::default();
        class.put(&mut out);
        0u16.put(&mut out);
        body_size.put(&mut out);
        out.raw(properties);
        Self::new(HEADER, channel, out.finish())
    }

    /// The frame as it travels.
    pub fn bytes(&self) -> Vec<u8> {
        let mut out = Writer::default();
        self.kind.put(&mut out);
        self.channel.put(&mut out);
        self.payload.put(&mut out);
        FRAME_END.put(&mut out);
        out.finish()
    }
}

/// What a read from the socket came to.
#[derive(Debug)]
pub enum Input {
    /// A whole frame.
    Frame(Frame),
    /// The other side closed or reset the connection.
    Gone,
    /// Nothing, or not a whole frame, within the time given.
    Silence,
}

/// A TCP connection to a broker, without any protocol state.
pub struct Socket {
    stream: TcpStream,
    buffer: Vec<u8>,
    gone: bool,
}

impl Socket {
    /// Connects to endpoint number `index`, counted round the list.
    pub fn dial(index: usize) -> Self {
        let endpoints = endpoints();
        Self::dial_to(&endpoints[index % endpoints.len()])
    }

    /// Connects to `host:port`.
    pub fn dial_to(endpoint: &str) -> Self {
        Self::over(TcpStream::connect(endpoint).unwrap_or_else(|error| panic!("no broker at {endpoint}: {error}")))
    }

    /// A connection that is there already.
    pub fn over(stream: TcpStream) -> Self {
        stream.set_nodelay(true).expect("a fresh socket takes options");
        Self {
            stream,
            buffer: Vec::new(),
            gone: false,
        }
    }

    /// Writes bytes; what becomes of them shows in what is read.
    pub fn send(&mut self, bytes: &[u8]) {
        if let Err(error) = self.stream.write_all(bytes) {
            assert!(
                matches!(error.kind(), ErrorKind::BrokenPipe | ErrorKind::ConnectionReset),
                "writing to the broker: {error}"
            );
        }
    }

    /// Ends the TCP connection without a word.
    pub fn abandon(self) {
        drop(self.stream);
    }

    fn fill(&mut self, deadline: Instant) -> bool {
        let left = deadline
            .saturating_duration_since(Instant::now())
            .max(Duration::from_millis(1));
        self.stream
            .set_read_timeout(Some(left))
            .expect("a positive time-out is accepted");
        let mut chunk = vec![0; 64 * 1024];
        match self.stream.read(&mut chunk) {
            Ok(0) => self.gone = true,
            Ok(count) => self.buffer.extend_from_slice(&chunk[..count]),
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => return false,
            Err(error) if error.kind() == ErrorKind::Interrupted => {}
            Err(_) => self.gone = true,
        }
        true
    }

    /// The next frame.
    pub fn frame(&mut self, within: Duration) -> Input {
        let deadline = Instant::now() + within;
        loop {
            if let Some(frame) = self.take_frame() {
                return Input::Frame(frame);
            }
            if self.gone {
                return Input::Gone;
            }
            if !self.fill(deadline) && Instant::now() >= deadline {
                return Input::Silence;
            }
        }
    }

    fn take_frame(&mut self) -> Option<Frame> {
        let mut reader = Reader::new(&self.buffer);
        let (kind, channel, payload) = (
            u8::take(&mut reader)?,
            u16::take(&mut reader)?,
            Vec::<u8>::take(&mut reader)?,
        );
        let end = u8::take(&mut reader)?;
        assert_eq!(end, FRAME_END, "the broker's frame does not end in 0xCE");
        self.buffer.drain(..payload.len() + 8);
        Some(Frame { kind, channel, payload })
    }

    /// All bytes up to the end of the connection; panics if it does not end.
    pub fn rest(&mut self, within: Duration) -> Vec<u8> {
        let deadline = Instant::now() + within;
        while !self.gone {
            let read = self.fill(deadline);
            assert!(
                read || Instant::now() < deadline,
                "still connected after {within:?}, having read {:?}",
                self.buffer
            );
        }
        std::mem::take(&mut self.buffer)
    }
}
