//! The hot part of the protocol, read in place: what comes per message is neither copied nor counted as shared.

use bytes::BytesMut;

use super::options::STAMP_LEN;
use crate::amqp::{
    Method, Properties, ShortStr,
    content::put_content,
    frame::{self, FRAME_END, FRAME_OVERHEAD, Kind},
    put_method,
};

/// The one channel of each connection.
pub(super) const CHANNEL: u16 = 1;

const HEAD_LEN: usize = 7;

/// A frame where it was read.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Frame<'a> {
    pub(super) kind: Kind,
    pub(super) channel: u16,
    pub(super) payload: &'a [u8],
}

impl Frame<'_> {
    pub(super) fn len(&self) -> usize {
        FRAME_OVERHEAD + self.payload.len()
    }
}

/// The frame that `bytes` begin with, if all of it is there.
pub(super) fn peek(bytes: &[u8], frame_max: u32) -> Result<Option<Frame<'_>>, frame::Error> {
    let Some(&[octet, c0, c1, s0, s1, s2, s3]) = bytes.first_chunk::<HEAD_LEN>() else {
        return Ok(None);
    };
    let kind = match octet {
        1 => Kind::Method,
        2 => Kind::Header,
        3 => Kind::Body,
        8 => Kind::Heartbeat,
        other => return Err(frame::Error::UnknownKind(other)),
    };
    let size = u32::from_be_bytes([s0, s1, s2, s3]);
    if size > frame_max {
        return Err(frame::Error::TooLarge { size, max: frame_max });
    }
    let end = HEAD_LEN + size as usize;
    match bytes.get(end) {
        None => Ok(None),
        Some(&FRAME_END) => Ok(Some(Frame {
            kind,
            channel: u16::from_be_bytes([c0, c1]),
            payload: &bytes[HEAD_LEN..end],
        })),
        Some(&other) => Err(frame::Error::BadEnd(other)),
    }
}

/// The methods that come per message.
#[derive(Debug, PartialEq, Eq)]
pub(super) enum Hot {
    Deliver { tag: u64, redelivered: bool },
    Ack { tag: u64, multiple: bool },
    Nack { tag: u64, multiple: bool },
}

/// One of them, if this method frame's payload is one.
pub(super) fn hot(payload: &[u8]) -> Option<Hot> {
    let (&[c0, c1, m0, m1], arguments) = payload.split_first_chunk()?;
    match (u16::from_be_bytes([c0, c1]), u16::from_be_bytes([m0, m1])) {
        (60, 60) => {
            let (&len, rest) = arguments.split_first()?;
            let (tag, rest) = u64_of(rest.get(len.into()..)?)?;
            let redelivered = rest.first()? & 1 != 0;
            Some(Hot::Deliver { tag, redelivered })
        }
        (60, 80) => {
            let (tag, rest) = u64_of(arguments)?;
            let multiple = rest.first()? & 1 != 0;
            Some(Hot::Ack { tag, multiple })
        }
        (60, 120) => {
            let (tag, rest) = u64_of(arguments)?;
            let multiple = rest.first()? & 1 != 0;
            Some(Hot::Nack { tag, multiple })
        }
        _ => None,
    }
}

/// The body size that a header frame's payload announces.
pub(super) fn body_size(payload: &[u8]) -> Option<u64> {
    u64_of(payload.get(4..)?).map(|(size, _)| size)
}

/// When a message was published, from the beginning of its body.
pub(super) fn stamp_of(body: &[u8]) -> Option<u64> {
    if body.len() < STAMP_LEN {
        return None;
    }
    u64_of(body).map(|(stamp, _)| stamp)
}

fn u64_of(bytes: &[u8]) -> Option<(u64, &[u8])> {
    let (first, rest) = bytes.split_first_chunk()?;
    Some((u64::from_be_bytes(*first), rest))
}

/// A publish with its content, encoded; only the stamp and the number in its body change.
pub(super) struct Template {
    bytes: Box<[u8]>,
    /// Where the body begins, if it has room for a stamp.
    stamp_at: Option<usize>,
}

impl Template {
    pub(super) fn new(
        exchange: ShortStr,
        routing_key: ShortStr,
        persistent: bool,
        size: usize,
        frame_max: u32,
    ) -> Self {
        let mut bytes = BytesMut::new();
        put_method(
            &mut bytes,
            CHANNEL,
            &Method::BasicPublish {
                exchange,
                routing_key,
                mandatory: false,
                immediate: false,
            },
        );
        let properties = Properties {
            delivery_mode: Some(if persistent { 2 } else { 1 }),
            ..Properties::default()
        }
        .to_bytes();
        // Not all alike, lest something on the way compresses it.
        let body: Vec<u8> = (0..size as u64)
            .map(|at| (at.wrapping_mul(0x9E37_79B9_7F4A_7C15) >> 56) as u8)
            .collect();
        let body_at = bytes.len() + FRAME_OVERHEAD + 12 + properties.len() + HEAD_LEN;
        put_content(&mut bytes, CHANNEL, &properties, &body.into(), frame_max);
        Self {
            bytes: bytes.to_vec().into_boxed_slice(),
            stamp_at: (size >= STAMP_LEN).then_some(body_at),
        }
    }

    pub(super) fn len(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn put(&self, out: &mut Vec<u8>, stamp: u64, number: u64) {
        let start = out.len();
        out.extend_from_slice(&self.bytes);
        if let Some(at) = self.stamp_at
            && let Some(place) = out.get_mut(start + at..start + at + STAMP_LEN)
        {
            let (first, second) = place.split_at_mut(8);
            first.copy_from_slice(&stamp.to_be_bytes());
            second.copy_from_slice(&number.to_be_bytes());
        }
    }
}
