//! What follows a method that carries a message: content header, properties, body frames.

use std::ops::Range;

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::frame::{self, FRAME_END, FRAME_MIN_SIZE, FRAME_OVERHEAD, Kind};
use super::output::Sink;
use super::short_str::ShortStr;
use super::table::{self, Table};
use super::wire::{self, Reader};

pub use super::wire::Error;

/// The class of every method that carries content.
pub const BASIC_CLASS: u16 = 60;

/// Class, weight and body size: what precedes the properties.
const HEAD_LEN: usize = 12;

/// An upper bound of the frames around a short body, properties and body not counted.
pub(super) const HEADER_ROOM: usize = 2 * FRAME_OVERHEAD + HEAD_LEN;

/// A content header, its properties not looked into.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Header {
    pub class: u16,
    pub body_size: u64,
    /// Flags and values exactly as on the wire; [`glance`] tells whether they are well formed.
    pub properties: Bytes,
}

impl Header {
    /// Decodes a header frame's payload. The weight, which is always 0, is not looked at.
    pub fn decode(payload: &Bytes) -> Result<Self, Error> {
        let mut reader = Reader::new(payload);
        let class = reader.short()?;
        let _weight = reader.short()?;
        let body_size = reader.long_long()?;
        Ok(Self {
            class,
            body_size,
            properties: payload.slice(reader.at()..),
        })
    }

    /// Appends a header frame's payload.
    pub fn encode(&self, out: &mut BytesMut) {
        put_header(out, self.class, self.body_size, &self.properties);
    }
}

fn put_header(out: &mut BytesMut, class: u16, body_size: u64, properties: &[u8]) {
    out.put_u16(class);
    out.put_u16(0);
    out.put_u64(body_size);
    out.put_slice(properties);
}

/// Appends a header frame and as many body frames as `frame_max` asks for: none for an empty body.
///
/// A `frame_max` below the smallest that can be negotiated counts as that one. Properties are not split: they came in
/// one frame, and a client whose frames are too small for them cannot be told.
pub fn put_content(out: &mut impl Sink, channel: u16, properties: &[u8], body: &Bytes, frame_max: u32) {
    frame::put_framed(out.buffer(), Kind::Header, channel, |out| {
        put_header(out, BASIC_CLASS, body.len() as u64, properties);
    });
    let payload_max = frame_max.max(FRAME_MIN_SIZE) as usize - FRAME_OVERHEAD;
    let mut at = 0;
    while at < body.len() {
        let end = body.len().min(at + payload_max);
        frame::put_head(out.buffer(), Kind::Body, channel, end - at);
        out.share(body.slice(at..end));
        out.buffer().put_u8(FRAME_END);
        at = end;
    }
}

/// The flags of the basic class, in the order their values follow.
mod flag {
    pub(super) const CONTENT_TYPE: u16 = 1 << 15;
    pub(super) const CONTENT_ENCODING: u16 = 1 << 14;
    pub(super) const HEADERS: u16 = 1 << 13;
    pub(super) const DELIVERY_MODE: u16 = 1 << 12;
    pub(super) const PRIORITY: u16 = 1 << 11;
    pub(super) const CORRELATION_ID: u16 = 1 << 10;
    pub(super) const REPLY_TO: u16 = 1 << 9;
    pub(super) const EXPIRATION: u16 = 1 << 8;
    pub(super) const MESSAGE_ID: u16 = 1 << 7;
    pub(super) const TIMESTAMP: u16 = 1 << 6;
    pub(super) const KIND: u16 = 1 << 5;
    pub(super) const USER_ID: u16 = 1 << 4;
    pub(super) const APP_ID: u16 = 1 << 3;
    pub(super) const CLUSTER_ID: u16 = 1 << 2;
    /// No property. Like RabbitMQ we pass it on unseen.
    pub(super) const UNUSED: u16 = 1 << 1;
    /// Announces a second word of flags, which the basic class does not have.
    pub(super) const MORE: u16 = 1;
}

/// What the broker itself acts upon.
///
/// The strings here must be UTF-8. The other short strings of a message are the business of its publisher and its
/// consumers, some of which put raw bytes into a correlation id, so of those only the lengths are checked.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Glance {
    pub delivery_mode: Option<u8>,
    pub priority: Option<u8>,
    /// Milliseconds in decimal, if it is what it should be.
    pub expiration: Option<ShortStr>,
    pub reply_to: Option<ShortStr>,
    pub user_id: Option<ShortStr>,
    /// A table with its length, well formed: [`Table::decode`] takes it.
    pub headers: Option<Bytes>,
}

/// Checks all of a message's properties and picks out what the broker acts upon, in one pass that builds nothing.
pub fn glance(properties: &Bytes) -> Result<Glance, Error> {
    let mut glance = Glance::default();
    walk(properties, |flag, at| {
        match flag {
            flag::HEADERS => glance.headers = Some(properties.slice(at)),
            flag::DELIVERY_MODE => glance.delivery_mode = properties.get(at.start).copied(),
            flag::PRIORITY => glance.priority = properties.get(at.start).copied(),
            flag::EXPIRATION => glance.expiration = Some(short_str(properties, at)?),
            flag::REPLY_TO => glance.reply_to = Some(short_str(properties, at)?),
            flag::USER_ID => glance.user_id = Some(short_str(properties, at)?),
            _ => {}
        }
        Ok(())
    })?;
    Ok(glance)
}

/// The same properties with other headers (`None`: without any) and, if told so, without expiration, as a
/// dead-lettered message has them. Everything else stays byte for byte.
pub fn with_headers(properties: &Bytes, headers: Option<&Table>, keep_expiration: bool) -> Result<Bytes, Error> {
    let mut out = BytesMut::with_capacity(properties.len());
    let mut flags = 0;
    // Written once the properties that precede it have been.
    let mut headers = headers;
    let mut put_headers = |out: &mut BytesMut, flags: &mut u16| {
        if let Some(table) = headers.take() {
            *flags |= flag::HEADERS;
            table.encode(out);
        }
    };
    out.put_u16(0);
    walk(properties, |flag, at| {
        if flag <= flag::HEADERS {
            put_headers(&mut out, &mut flags);
        }
        if flag != flag::HEADERS && (flag != flag::EXPIRATION || keep_expiration) {
            flags |= flag;
            out.put_slice(&properties[at]);
        }
        Ok(())
    })?;
    put_headers(&mut out, &mut flags);
    out[..2].copy_from_slice(&flags.to_be_bytes());
    Ok(out.freeze())
}

/// The same properties with another reply-to, where they have one. Everything else stays byte for byte.
pub fn with_reply_to(properties: &Bytes, reply_to: &str) -> Result<Bytes, Error> {
    let mut found = None;
    walk(properties, |flag, at| {
        if flag == flag::REPLY_TO {
            found = Some(at);
        }
        Ok(())
    })?;
    let Some(at) = found else {
        return Ok(properties.clone());
    };
    let reply_to = ShortStr::cut(reply_to);
    let mut out = BytesMut::with_capacity(properties.len() - at.len() + 1 + reply_to.len());
    out.put_slice(&properties[..at.start]);
    wire::put_short_bytes(&mut out, reply_to.as_bytes());
    out.put_slice(&properties[at.end..]);
    Ok(out.freeze())
}

/// Hands each property that is present to `visit`: its flag and where it is, a length included where it has one.
fn walk(properties: &Bytes, mut visit: impl FnMut(u16, Range<usize>) -> Result<(), Error>) -> Result<(), Error> {
    let mut reader = Reader::new(properties);
    let mut flags = reader.short()?;
    if flags & flag::MORE != 0 {
        return Err(Error::UnknownFlags);
    }
    flags &= !flag::UNUSED;
    while flags != 0 {
        let flag = 1 << flags.ilog2();
        flags &= !flag;
        let start = reader.at();
        match flag {
            flag::HEADERS => table::check(&mut reader)?,
            flag::DELIVERY_MODE | flag::PRIORITY => drop(reader.octet()?),
            flag::TIMESTAMP => drop(reader.long_long()?),
            _ => reader.skip_short_str()?,
        }
        visit(flag, start..reader.at())?;
    }
    reader.finish()
}

fn short_str(properties: &Bytes, at: Range<usize>) -> Result<ShortStr, Error> {
    Ok(ShortStr::try_from(short_bytes(properties, at))?)
}

/// `at` is a range that `walk` gave, so a length octet is its first.
fn short_bytes(properties: &Bytes, at: Range<usize>) -> Bytes {
    properties.slice(at.start + 1..at.end)
}

/// All properties of a message, decoded: for display and for the few who need all of them.
///
/// Decoding accepts exactly what [`glance`] accepts; in the strings that `glance` does not check, bytes that are not
/// UTF-8 become U+FFFD. So a message is relayed by its [`Header::properties`] and never by encoding this.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Properties {
    pub content_type: Option<ShortStr>,
    pub content_encoding: Option<ShortStr>,
    pub headers: Option<Table>,
    /// 1 transient, 2 persistent.
    pub delivery_mode: Option<u8>,
    pub priority: Option<u8>,
    pub correlation_id: Option<ShortStr>,
    pub reply_to: Option<ShortStr>,
    pub expiration: Option<ShortStr>,
    pub message_id: Option<ShortStr>,
    /// Seconds since 1970.
    pub timestamp: Option<u64>,
    /// The property `type`.
    pub kind: Option<ShortStr>,
    pub user_id: Option<ShortStr>,
    pub app_id: Option<ShortStr>,
    pub cluster_id: Option<ShortStr>,
}

impl Properties {
    /// Decodes flags and values, which must be all of `bytes`.
    pub fn decode(bytes: &Bytes) -> Result<Self, Error> {
        let mut properties = Self::default();
        walk(bytes, |flag, at| {
            let lossy = |at| Some(ShortStr::lossy(short_bytes(bytes, at)));
            match flag {
                flag::CONTENT_TYPE => properties.content_type = lossy(at),
                flag::CONTENT_ENCODING => properties.content_encoding = lossy(at),
                flag::HEADERS => properties.headers = Some(Table::decode(&bytes.slice(at))?),
                flag::DELIVERY_MODE => properties.delivery_mode = bytes.get(at.start).copied(),
                flag::PRIORITY => properties.priority = bytes.get(at.start).copied(),
                flag::CORRELATION_ID => properties.correlation_id = lossy(at),
                flag::REPLY_TO => properties.reply_to = Some(short_str(bytes, at)?),
                flag::EXPIRATION => properties.expiration = Some(short_str(bytes, at)?),
                flag::MESSAGE_ID => properties.message_id = lossy(at),
                flag::TIMESTAMP => properties.timestamp = (&bytes[at]).try_get_u64().ok(),
                flag::KIND => properties.kind = lossy(at),
                flag::USER_ID => properties.user_id = Some(short_str(bytes, at)?),
                flag::APP_ID => properties.app_id = lossy(at),
                flag::CLUSTER_ID => properties.cluster_id = lossy(at),
                _ => {}
            }
            Ok(())
        })?;
        Ok(properties)
    }

    /// Appends flags and values.
    pub fn encode(&self, out: &mut BytesMut) {
        let start = out.len();
        out.put_u16(0);
        let mut flags = 0;
        let mut put = |flag, string: &Option<ShortStr>, out: &mut BytesMut| {
            if let Some(string) = string {
                flags |= flag;
                wire::put_short_bytes(out, string.as_bytes());
            }
        };
        put(flag::CONTENT_TYPE, &self.content_type, out);
        put(flag::CONTENT_ENCODING, &self.content_encoding, out);
        if let Some(table) = &self.headers {
            table.encode(out);
        }
        if let Some(octet) = self.delivery_mode {
            out.put_u8(octet);
        }
        if let Some(octet) = self.priority {
            out.put_u8(octet);
        }
        put(flag::CORRELATION_ID, &self.correlation_id, out);
        put(flag::REPLY_TO, &self.reply_to, out);
        put(flag::EXPIRATION, &self.expiration, out);
        put(flag::MESSAGE_ID, &self.message_id, out);
        if let Some(seconds) = self.timestamp {
            out.put_u64(seconds);
        }
        put(flag::KIND, &self.kind, out);
        put(flag::USER_ID, &self.user_id, out);
        put(flag::APP_ID, &self.app_id, out);
        put(flag::CLUSTER_ID, &self.cluster_id, out);
        for (flag, is_present) in [
            (flag::HEADERS, self.headers.is_some()),
            (flag::DELIVERY_MODE, self.delivery_mode.is_some()),
            (flag::PRIORITY, self.priority.is_some()),
            (flag::TIMESTAMP, self.timestamp.is_some()),
        ] {
            if is_present {
                flags |= flag;
            }
        }
        out[start..start + 2].copy_from_slice(&flags.to_be_bytes());
    }

    /// Flags and values as bytes, as [`Header::properties`] holds them.
    pub fn to_bytes(&self) -> Bytes {
        let mut out = BytesMut::new();
        self.encode(&mut out);
        out.freeze()
    }
}
