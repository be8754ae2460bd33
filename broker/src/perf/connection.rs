//! One connection with one channel: handshake, calls, and turns of reading and writing.

use std::{
    future::{Future, poll_fn},
    io,
    pin::Pin,
    task::{Context, Poll},
    time::Duration,
};

use bytes::{Bytes, BytesMut};
use tokio::{
    io::{AsyncRead, AsyncWrite, ReadBuf},
    net::TcpStream,
    sync::oneshot,
    time::timeout,
};

use super::{
    Error,
    uri::Uri,
    wire::{self, CHANNEL, Frame},
};
use crate::amqp::{
    Method, ShortStr, Table, Value,
    frame::{FRAME_OVERHEAD, Kind, PROTOCOL_HEADER},
    put_method,
};

/// The frame size asked for if the server leaves it open.
const FRAME_MAX: u32 = 128 * 1024;

/// The largest one taken, whatever the server offers.
const FRAME_MAX_MAX: u32 = 1 << 20;

/// Bytes read at once, if frames are not larger.
const READ_LEN: usize = 256 * 1024;

const CONNECT_MAX: Duration = Duration::from_secs(30);

pub(super) struct Connection {
    stream: TcpStream,
    pub(super) input: Input,
    pub(super) output: Output,
    /// `product version` as the server names itself.
    pub(super) server: String,
    pub(super) frame_max: u32,
    address: String,
    call_max: Duration,
}

/// What was read and not yet looked at.
pub(super) struct Input {
    buffer: Box<[u8]>,
    start: usize,
    end: usize,
    frame_max: u32,
}

impl Input {
    fn new(frame_max: u32) -> Self {
        let len = READ_LEN.max(2 * (frame_max as usize + FRAME_OVERHEAD));
        Self {
            buffer: vec![0; len].into_boxed_slice(),
            start: 0,
            end: 0,
            frame_max,
        }
    }

    /// The next frame, if all of it has been read.
    pub(super) fn frame(&mut self) -> Result<Option<Frame<'_>>, Error> {
        let frame = wire::peek(&self.buffer[self.start..self.end], self.frame_max)?;
        if let Some(frame) = &frame {
            self.start += frame.len();
        }
        Ok(frame)
    }

    /// Reads once. There is room for a whole frame, since what is left over is less than one.
    fn poll_read(&mut self, stream: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<usize>> {
        if self.start == self.end {
            (self.start, self.end) = (0, 0);
        } else if self.buffer.len() - self.end < self.frame_max as usize + FRAME_OVERHEAD {
            self.buffer.copy_within(self.start..self.end, 0);
            (self.start, self.end) = (0, self.end - self.start);
        }
        let mut room = ReadBuf::new(&mut self.buffer[self.end..]);
        match Pin::new(stream).poll_read(cx, &mut room) {
            Poll::Ready(Ok(())) => {
                let len = room.filled().len();
                self.end += len;
                Poll::Ready(Ok(len))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// What waits to be written.
#[derive(Default)]
pub(super) struct Output {
    pub(super) bytes: Vec<u8>,
    written: usize,
}

impl Output {
    pub(super) fn is_empty(&self) -> bool {
        self.bytes.is_empty()
    }

    pub(super) fn put(&mut self, channel: u16, method: &Method) {
        let mut frame = BytesMut::new();
        put_method(&mut frame, channel, method);
        self.bytes.extend_from_slice(&frame);
    }

    fn poll_write(&mut self, stream: &mut TcpStream, cx: &mut Context<'_>) -> Poll<io::Result<()>> {
        match Pin::new(stream).poll_write(cx, &self.bytes[self.written..]) {
            Poll::Ready(Ok(0)) => Poll::Ready(Err(io::ErrorKind::WriteZero.into())),
            Poll::Ready(Ok(len)) => {
                self.written += len;
                if self.written == self.bytes.len() {
                    self.bytes.clear();
                    self.written = 0;
                }
                Poll::Ready(Ok(()))
            }
            Poll::Ready(Err(error)) => Poll::Ready(Err(error)),
            Poll::Pending => Poll::Pending,
        }
    }
}

/// Tells a task to come to an end; so does dropping the other end of it.
pub(super) struct Stop {
    receiver: Option<oneshot::Receiver<()>>,
}

impl Stop {
    pub(super) fn new(receiver: oneshot::Receiver<()>) -> Self {
        Self {
            receiver: Some(receiver),
        }
    }

    pub(super) fn is_asked(&self) -> bool {
        self.receiver.is_none()
    }

    /// Ready once, when it is asked.
    fn poll(&mut self, cx: &mut Context<'_>) -> Poll<()> {
        if let Some(receiver) = &mut self.receiver
            && Pin::new(receiver).poll(cx).is_ready()
        {
            self.receiver = None;
            return Poll::Ready(());
        }
        Poll::Pending
    }
}

impl Connection {
    /// Connects, logs in with PLAIN and opens the channel.
    ///
    /// What the server proposes is taken, except for heartbeats: they are declined, so that nothing but messages moves.
    /// A call that is not answered within `call_max` fails.
    pub(super) async fn open(uri: &Uri, call_max: Duration) -> Result<Self, Error> {
        let address = uri.address();
        let connect = |source| Error::Connect {
            address: address.clone(),
            source,
        };
        let stream = timeout(CONNECT_MAX, TcpStream::connect((uri.host.as_str(), uri.port)))
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(connect)?;
        stream.set_nodelay(true)?;
        let mut connection = Self {
            stream,
            input: Input::new(FRAME_MAX),
            output: Output::default(),
            server: String::new(),
            frame_max: FRAME_MAX,
            address,
            call_max,
        };
        connection.handshake(uri).await?;
        match connection.call(&Method::ChannelOpen {}).await? {
            Method::ChannelOpenOk {} => Ok(connection),
            other => Err(Error::Unexpected(other.name())),
        }
    }

    async fn handshake(&mut self, uri: &Uri) -> Result<(), Error> {
        self.output.bytes.extend_from_slice(&PROTOCOL_HEADER);
        match self.answer().await? {
            Method::ConnectionStart { server_properties, .. } => self.server = product(&server_properties),
            other => return Err(Error::Unexpected(other.name())),
        }
        let response = format!("\0{}\0{}", uri.user, uri.password);
        self.output.put(
            0,
            &Method::ConnectionStartOk {
                client_properties: client_properties(),
                mechanism: "PLAIN".into(),
                response: response.into(),
                locale: "en_US".into(),
            },
        );
        let (channel_max, frame_max) = match self.answer().await? {
            Method::ConnectionTune {
                channel_max, frame_max, ..
            } => (channel_max, frame_max),
            other => return Err(Error::Unexpected(other.name())),
        };
        self.frame_max = if frame_max == 0 {
            FRAME_MAX
        } else {
            frame_max.min(FRAME_MAX_MAX)
        };
        let heartbeat = 0;
        self.output.put(
            0,
            &Method::ConnectionTuneOk {
                channel_max,
                frame_max: self.frame_max,
                heartbeat,
            },
        );
        let virtual_host = ShortStr::new(&uri.vhost).map_err(|error| Error::Usage(error.to_string()))?;
        self.output.put(0, &Method::ConnectionOpen { virtual_host });
        match self.answer().await? {
            Method::ConnectionOpenOk {} => {}
            other => return Err(Error::Unexpected(other.name())),
        }
        // Nothing is under way: the server waits for the next method.
        self.input = Input::new(self.frame_max);
        Ok(())
    }

    /// Sends a method on the channel and waits for the answer to it.
    pub(super) async fn call(&mut self, method: &Method) -> Result<Method, Error> {
        self.output.put(CHANNEL, method);
        self.answer().await
    }

    /// Sends all that waits, and returns the next method that is not about a message.
    pub(super) async fn answer(&mut self) -> Result<Method, Error> {
        let silent = Error::Silent {
            address: self.address.clone(),
            seconds: self.call_max.as_secs(),
        };
        let call_max = self.call_max;
        let answer = async {
            loop {
                let Self { input, output, .. } = self;
                while let Some(frame) = input.frame()? {
                    if frame.kind == Kind::Method
                        && wire::hot(frame.payload).is_none()
                        && let Some(method) = rare(frame.payload, output)?
                    {
                        return Ok(method);
                    }
                }
                self.turn(None).await?;
            }
        };
        timeout(call_max, answer).await.unwrap_or(Err(silent))
    }

    /// Writes what waits and reads what is there: returns when something of it was possible, or `stop` was asked.
    pub(super) async fn turn(&mut self, mut stop: Option<&mut Stop>) -> Result<(), Error> {
        poll_fn(|cx| {
            let mut moved = false;
            if !self.output.is_empty()
                && let Poll::Ready(result) = self.output.poll_write(&mut self.stream, cx)
            {
                // A server that closes says why before; that is read first.
                if let Err(error) = result {
                    return match self.input.poll_read(&mut self.stream, cx) {
                        Poll::Ready(Ok(len)) if len > 0 => {
                            self.output = Output::default();
                            Poll::Ready(Ok(()))
                        }
                        _ => Poll::Ready(Err(error.into())),
                    };
                }
                moved = true;
            }
            if let Poll::Ready(result) = self.input.poll_read(&mut self.stream, cx) {
                match result {
                    Ok(0) => return Poll::Ready(Err(self.end())),
                    Ok(_) => moved = true,
                    Err(error) => return Poll::Ready(Err(error.into())),
                }
            }
            if let Some(stop) = &mut stop
                && stop.poll(cx).is_ready()
            {
                moved = true;
            }
            if moved { Poll::Ready(Ok(())) } else { Poll::Pending }
        })
        .await
    }

    /// Why the stream ended. A server that does not speak this version says which it speaks.
    fn end(&self) -> Error {
        let left = &self.input.buffer[self.input.start..self.input.end];
        if left.starts_with(b"AMQP") && left.len() == PROTOCOL_HEADER.len() {
            Error::Protocol(left.to_vec())
        } else {
            Error::Closed
        }
    }

    /// Closes in order: when this returns the server has seen everything that was sent before.
    pub(super) async fn close(mut self) -> Result<(), Error> {
        self.output.put(
            0,
            &Method::ConnectionClose {
                reply_code: 200,
                reply_text: "Goodbye".into(),
                class_id: 0,
                method_id: 0,
            },
        );
        loop {
            match self.answer().await? {
                Method::ConnectionCloseOk {} => return Ok(()),
                // Answers to what was sent before.
                _ => continue,
            }
        }
    }
}

/// Decodes a method that is not about a message, and deals with those that any server may send at any time.
pub(super) fn rare(payload: &[u8], output: &mut Output) -> Result<Option<Method>, Error> {
    match Method::decode(&Bytes::copy_from_slice(payload))? {
        Method::ConnectionClose {
            reply_code, reply_text, ..
        } => Err(Error::ConnectionClosed {
            code: reply_code,
            text: String::from(reply_text),
        }),
        Method::ChannelClose {
            reply_code, reply_text, ..
        } => Err(Error::ChannelClosed {
            code: reply_code,
            text: String::from(reply_text),
        }),
        Method::BasicCancel { consumer_tag, .. } => Err(Error::Cancelled(String::from(consumer_tag))),
        Method::ConnectionBlocked { reason } => {
            eprintln!("The server blocks publishers: {reason}");
            Ok(None)
        }
        Method::ConnectionUnblocked {} => {
            eprintln!("The server lets publishers go on");
            Ok(None)
        }
        flow @ Method::ChannelFlow { active } => {
            output.put(CHANNEL, &Method::ChannelFlowOk { active });
            Ok(Some(flow))
        }
        other => Ok(Some(other)),
    }
}

fn product(properties: &Table) -> String {
    let text = |name| properties.get(name).and_then(Value::as_str).unwrap_or("?");
    format!("{} {}", text("product"), text("version"))
}

fn client_properties() -> Table {
    let long = |text: &'static str| Value::LongStr(Bytes::from_static(text.as_bytes()));
    let capabilities = [
        "publisher_confirms",
        "basic.nack",
        "consumer_cancel_notify",
        "connection.blocked",
        "authentication_failure_close",
    ];
    Table(vec![
        ("product".into(), long("warren-perf")),
        ("version".into(), long(env!("CARGO_PKG_VERSION"))),
        (
            "capabilities".into(),
            Value::Table(Table(capabilities.map(|name| (name.into(), Value::Bool(true))).into())),
        ),
    ])
}
