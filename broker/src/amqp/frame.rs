//! Frames: the envelope of everything on a connection.
//!
//! ```text
//! 0      1         3             7                size+7
//! +------+---------+-------------+   +-----------+--------+
//! | kind | channel | size        |   | payload   | 0xCE   |
//! +------+---------+-------------+   +-----------+--------+
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};

/// The octet that closes every frame.
pub const FRAME_END: u8 = 0xCE;

/// Bytes of a frame that are not payload: seven before it, the end octet after it.
pub const FRAME_OVERHEAD: usize = 8;

/// The smallest `frame_max` a peer may ask for (AMQP 0-9-1, 4.2.3).
pub const FRAME_MIN_SIZE: u32 = 4096;

/// What a client sends first: AMQP 0-9-1.
pub const PROTOCOL_HEADER: [u8; 8] = *b"AMQP\x00\x00\x09\x01";

const HEAD_LEN: usize = 7;

#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    Method = 1,
    Header = 2,
    Body = 3,
    Heartbeat = 8,
}

impl Kind {
    const fn from_octet(octet: u8) -> Option<Self> {
        match octet {
            1 => Some(Self::Method),
            2 => Some(Self::Header),
            3 => Some(Self::Body),
            8 => Some(Self::Heartbeat),
            _ => None,
        }
    }
}

#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Frame {
    pub kind: Kind,
    pub channel: u16,
    /// A slice of the buffer the frame was read into.
    pub payload: Bytes,
}

/// The stream cannot be read further; each of these is a 501 for the connection.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    /// Both numbers count payload bytes.
    #[error("{{frame_too_large,{size},{max}}}")]
    TooLarge { size: u32, max: u32 },
    #[error("unknown_frame: type {0}")]
    UnknownKind(u8),
    #[error("{{invalid_frame_end_marker,{0}}}")]
    BadEnd(u8),
}

/// Takes one frame off the front of `buffer`, or nothing (`None`) if it has not all arrived.
///
/// `frame_max` counts the whole frame. As RabbitMQ does, a payload up to `frame_max` itself is let through, eight bytes
/// more than the letter of the specification: some clients count without the overhead. Zero does not mean "no limit"
/// here. Kind and size are judged as soon as they are there, so a caller never buffers more than `frame_max` + 8 bytes
/// for a frame to complete.
pub fn decode(buffer: &mut BytesMut, frame_max: u32) -> Result<Option<Frame>, Error> {
    let Some(&octet) = buffer.first() else { return Ok(None) };
    let kind = Kind::from_octet(octet).ok_or(Error::UnknownKind(octet))?;
    let Some(mut head) = buffer.get(1..HEAD_LEN) else {
        return Ok(None);
    };
    let channel = head.get_u16();
    let size = head.get_u32();
    if size > frame_max {
        return Err(Error::TooLarge {
            size,
            max: frame_max.saturating_sub(FRAME_OVERHEAD as u32),
        });
    }
    let end = HEAD_LEN + size as usize;
    match buffer.get(end) {
        None => Ok(None),
        Some(&FRAME_END) => {
            let mut payload = buffer.split_to(end + 1).freeze();
            payload.advance(HEAD_LEN);
            payload.truncate(size as usize);
            Ok(Some(Frame { kind, channel, payload }))
        }
        Some(&other) => Err(Error::BadEnd(other)),
    }
}

impl Frame {
    /// Appends the frame. The payload fits a frame (`u32`) because frames are cut to `frame_max` before they are built.
    pub fn encode(&self, out: &mut BytesMut) {
        out.reserve(FRAME_OVERHEAD + self.payload.len());
        put_head(out, self.kind, self.channel, self.payload.len());
        out.put_slice(&self.payload);
        out.put_u8(FRAME_END);
    }
}

/// Appends a heartbeat, which is always the same eight bytes.
pub fn put_heartbeat(out: &mut BytesMut) {
    put_head(out, Kind::Heartbeat, 0, 0);
    out.put_u8(FRAME_END);
}

pub(super) fn put_head(out: &mut BytesMut, kind: Kind, channel: u16, size: usize) {
    let size = u32::try_from(size).expect("no payload is built near four gigabytes");
    out.put_u8(kind as u8);
    out.put_u16(channel);
    out.put_u32(size);
}

/// Appends a frame whose payload `fill` writes; its size is filled in afterwards.
pub(super) fn put_framed(out: &mut BytesMut, kind: Kind, channel: u16, fill: impl FnOnce(&mut BytesMut)) {
    let start = out.len();
    put_head(out, kind, channel, 0);
    fill(out);
    let size = u32::try_from(out.len() - start - HEAD_LEN).expect("no payload is built near four gigabytes");
    out[start + 3..start + HEAD_LEN].copy_from_slice(&size.to_be_bytes());
    out.put_u8(FRAME_END);
}
