//! What waits to be written to a socket: small pieces run together, big bodies passed through uncopied.

use std::collections::VecDeque;
use std::io::IoSlice;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::content::{self, BASIC_CLASS};
use super::frame::{self, Kind};
use super::method::{self, Method};
use super::wire::{Writer, put_short_bytes};

/// Pieces of a body at least this long are not copied. Below it a copy is cheaper than one more slice in a write.
pub const SHARE_MIN: usize = 4096;

/// Room for small bytes that an idle output keeps; what one burst needed beyond it is given back.
const KEEP_MAX: usize = 64 * 1024;

/// Where encoders put bytes.
pub trait Sink {
    /// A buffer to append to.
    fn buffer(&mut self) -> &mut BytesMut;

    /// Appends bytes that may be shared instead of copied.
    fn share(&mut self, bytes: Bytes);
}

impl Sink for BytesMut {
    fn buffer(&mut self) -> &mut BytesMut {
        self
    }

    fn share(&mut self, bytes: Bytes) {
        self.put_slice(&bytes);
    }
}

/// Bytes in the order they are to be written. It has no bound of its own: its owner watches [`Output::len`].
///
/// ```text
/// chunks: [small bytes, frozen] [body] [small bytes, frozen] [body] ...   tail: small bytes, still growing
/// ```
#[derive(Debug, Default)]
pub struct Output {
    /// None is empty.
    chunks: VecDeque<Bytes>,
    /// Bytes in `chunks`.
    chunked_len: usize,
    /// Comes after all of `chunks`.
    tail: BytesMut,
}

impl Output {
    pub fn new() -> Self {
        Self::default()
    }

    /// Bytes that wait.
    pub fn len(&self) -> usize {
        self.chunked_len + self.tail.len()
    }

    pub fn is_empty(&self) -> bool {
        self.chunked_len == 0 && self.tail.is_empty()
    }

    /// Appends a copy.
    pub fn put_slice(&mut self, bytes: &[u8]) {
        self.tail.put_slice(bytes);
    }

    /// Appends a method frame.
    pub fn put_method(&mut self, channel: u16, method: &Method) {
        method::put_method(&mut self.tail, channel, method);
    }

    /// Appends a heartbeat.
    pub fn put_heartbeat(&mut self) {
        frame::put_heartbeat(&mut self.tail);
    }

    /// Fills `slices` from the front with what is to be written next and returns how many it filled.
    pub fn chunks<'a>(&'a self, slices: &mut [IoSlice<'a>]) -> usize {
        let tail = Some(&self.tail[..]).filter(|tail| !tail.is_empty());
        let waiting = self.chunks.iter().map(|chunk| &chunk[..]).chain(tail);
        slices
            .iter_mut()
            .zip(waiting)
            .map(|(slice, chunk)| *slice = IoSlice::new(chunk))
            .count()
    }

    /// Drops `written` bytes off the front; panics if there are not so many.
    pub fn advance(&mut self, mut written: usize) {
        assert!(written <= self.len(), "{written} bytes written of {}", self.len());
        while let Some(chunk) = self.chunks.front_mut() {
            if written < chunk.len() {
                chunk.advance(written);
                self.chunked_len -= written;
                return;
            }
            written -= chunk.len();
            self.chunked_len -= chunk.len();
            self.chunks.pop_front();
        }
        if written == self.tail.len() {
            self.clear_tail();
        } else {
            self.tail.advance(written);
        }
    }

    /// Drops everything that waits.
    pub fn clear(&mut self) {
        self.chunks.clear();
        self.chunked_len = 0;
        self.clear_tail();
    }

    /// Unlike advancing, clearing makes the room before the written bytes usable at once.
    fn clear_tail(&mut self) {
        if self.tail.capacity() > KEEP_MAX {
            self.tail = BytesMut::new();
        } else {
            self.tail.clear();
        }
    }
}

impl Sink for Output {
    fn buffer(&mut self) -> &mut BytesMut {
        &mut self.tail
    }

    fn share(&mut self, bytes: Bytes) {
        if bytes.len() < SHARE_MIN {
            self.tail.put_slice(&bytes);
            return;
        }
        if !self.tail.is_empty() {
            let small = self.tail.split().freeze();
            self.chunked_len += small.len();
            self.chunks.push_back(small);
        }
        self.chunked_len += bytes.len();
        self.chunks.push_back(bytes);
    }
}

const DELIVER: u16 = 60;
const GET_OK: u16 = 71;
const RETURN: u16 = 50;

/// An upper bound of a method frame beside its short strings: overhead, ids, and the fixed fields of any method here.
const METHOD_ROOM: usize = frame::FRAME_OVERHEAD + 4 + 24;

/// Appends `basic.deliver` with its content. `properties` are flags and values as they came.
#[expect(
    clippy::too_many_arguments,
    reason = "the fields of one method; a struct would only be taken apart again"
)]
pub fn put_deliver(
    out: &mut Output,
    channel: u16,
    consumer_tag: &[u8],
    delivery_tag: u64,
    redelivered: bool,
    exchange: &[u8],
    routing_key: &[u8],
    properties: &[u8],
    body: Bytes,
    frame_max: u32,
) {
    reserve(
        out,
        consumer_tag.len() + exchange.len() + routing_key.len(),
        properties,
        &body,
    );
    put_basic(out, channel, DELIVER, |writer| {
        put_short_bytes(writer.whole(), consumer_tag);
        writer.whole().put_u64(delivery_tag);
        writer.put_bit(redelivered);
        put_short_bytes(writer.whole(), exchange);
        put_short_bytes(writer.whole(), routing_key);
    });
    content::put_content(out, channel, properties, &body, frame_max);
}

/// Appends `basic.get-ok` with its content.
#[expect(
    clippy::too_many_arguments,
    reason = "the fields of one method; a struct would only be taken apart again"
)]
pub fn put_get_ok(
    out: &mut Output,
    channel: u16,
    delivery_tag: u64,
    redelivered: bool,
    exchange: &[u8],
    routing_key: &[u8],
    message_count: u32,
    properties: &[u8],
    body: Bytes,
    frame_max: u32,
) {
    reserve(out, exchange.len() + routing_key.len(), properties, &body);
    put_basic(out, channel, GET_OK, |writer| {
        writer.whole().put_u64(delivery_tag);
        writer.put_bit(redelivered);
        put_short_bytes(writer.whole(), exchange);
        put_short_bytes(writer.whole(), routing_key);
        writer.whole().put_u32(message_count);
    });
    content::put_content(out, channel, properties, &body, frame_max);
}

/// Appends `basic.return` with its content.
#[expect(
    clippy::too_many_arguments,
    reason = "the fields of one method; a struct would only be taken apart again"
)]
pub fn put_return(
    out: &mut Output,
    channel: u16,
    reply_code: u16,
    reply_text: &[u8],
    exchange: &[u8],
    routing_key: &[u8],
    properties: &[u8],
    body: Bytes,
    frame_max: u32,
) {
    reserve(
        out,
        reply_text.len() + exchange.len() + routing_key.len(),
        properties,
        &body,
    );
    put_basic(out, channel, RETURN, |writer| {
        writer.whole().put_u16(reply_code);
        put_short_bytes(writer.whole(), reply_text);
        put_short_bytes(writer.whole(), exchange);
        put_short_bytes(writer.whole(), routing_key);
    });
    content::put_content(out, channel, properties, &body, frame_max);
}

/// One allocation at most for all that a message adds to the tail.
fn reserve(out: &mut Output, strings_len: usize, properties: &[u8], body: &Bytes) {
    let copied = if body.len() < SHARE_MIN { body.len() } else { 0 };
    out.tail
        .reserve(METHOD_ROOM + strings_len + content::HEADER_ROOM + properties.len() + copied);
}

fn put_basic(out: &mut Output, channel: u16, method: u16, fill: impl FnOnce(&mut Writer<'_>)) {
    frame::put_framed(&mut out.tail, Kind::Method, channel, |out| {
        out.put_u16(BASIC_CLASS);
        out.put_u16(method);
        fill(&mut Writer::new(out));
    });
}
