//! Raft messages as bytes, the payloads of their entries beside them.
//!
//! raft-rs copies an entry at every step of its way. It is therefore given entries of which the payload is only named,
//! by its length; the payload itself stays in one buffer from the link to the log.
//!
//! ```text
//! envelope = head_len:u32 head payload*      little-endian
//! head     = fence raft's Message; the data of a normal entry that has a payload is payload_len:u32
//! fence    = reformed:u64, as a protobuf field that raft's Message does not have
//! ```
//!
//! The fence is the decision by which the sender's group went on without a majority, 0 if it never did. An older build
//! neither sends nor sees it.
//!
//! The payloads stand in the order of the entries. Entries of other types, and those without a payload, stand in the
//! head as they are. A head of no bytes, which no Raft message has, is followed by what a fresh replica says of itself:
//!
//! ```text
//! hello = from:u64 run:u64 last_index:u64 applied:u64 is_fresh:u8
//! ```

use bytes::{Buf, BufMut, Bytes, BytesMut};
use prost_raft::Message as _;
use raft::eraftpb::{Entry, EntryType, Message, MessageType};

use crate::NodeId;

/// Where one entry's payload belongs.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct Place {
    pub(super) index: u64,
    pub(super) term: u64,
}

impl Place {
    pub(super) fn of(entry: &Entry) -> Self {
        Self {
            index: entry.index,
            term: entry.term,
        }
    }
}

/// What raft-rs sees of a payload.
pub(super) fn name(payload: &[u8]) -> Vec<u8> {
    let len = u32::try_from(payload.len()).expect("a proposal is shorter than 4 GiB");
    if len == 0 {
        Vec::new()
    } else {
        len.to_le_bytes().to_vec()
    }
}

/// The length of the payload that `entry` only names; none if it names none.
pub(super) fn named(entry: &Entry) -> Option<usize> {
    if entry.entry_type != EntryType::EntryNormal as i32 || entry.data.is_empty() {
        return None;
    }
    let len = <[u8; 4]>::try_from(entry.data.as_slice()).ok()?;
    usize::try_from(u32::from_le_bytes(len)).ok()
}

/// What a fresh replica says of itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Hello {
    pub(super) from: NodeId,
    /// Of its node: greater with each.
    pub(super) run: u64,
    pub(super) last_index: u64,
    pub(super) applied: u64,
    /// False for the answer of one that is not fresh.
    pub(super) is_fresh: bool,
    /// Its group consists of two voters, it and the receiver, and of nobody else.
    pub(super) is_pair: bool,
}

const HELLO_LEN: usize = 33;
/// Of one that says what groups of two say.
const PAIR_HELLO_LEN: usize = HELLO_LEN + 1;

pub(super) fn encode_hello(hello: &Hello) -> Bytes {
    let mut out = BytesMut::with_capacity(4 + PAIR_HELLO_LEN);
    out.put_u32_le(0);
    for number in [hello.from, hello.run, hello.last_index, hello.applied] {
        out.put_u64_le(number);
    }
    out.put_u8(hello.is_fresh.into());
    if hello.is_pair {
        out.put_u8(1);
    }
    out.freeze()
}

/// None if it is something else, or malformed.
pub(super) fn decode_hello(mut bytes: &[u8]) -> Option<Hello> {
    let is_pair = bytes.len() == 4 + PAIR_HELLO_LEN;
    if !(is_pair || bytes.len() == 4 + HELLO_LEN) || bytes.get_u32_le() != 0 {
        return None;
    }
    Some(Hello {
        from: bytes.get_u64_le(),
        run: bytes.get_u64_le(),
        last_index: bytes.get_u64_le(),
        applied: bytes.get_u64_le(),
        is_fresh: bytes.get_u8() != 0,
        is_pair,
    })
}

/// The tag of the fence: field 1000, fixed64. No field of raft's Message begins so.
const FENCE_TAG: [u8; 2] = [0xc1, 0x3e];
/// Bytes of the fence.
const FENCE_LEN: usize = FENCE_TAG.len() + 8;

/// A message as it came: what its sender obeys, and the payloads that its entries name, which are slices of the envelope.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Decoded {
    pub(super) message: Message,
    pub(super) payloads: Vec<(Place, Bytes)>,
    /// See the module; none from an older build.
    pub(super) reformed: Option<u64>,
}

/// The envelope of `message` from a replica that obeys the decision `reformed`; `payload` finds what its entries name.
pub(super) fn encode<E>(
    message: &Message,
    reformed: u64,
    mut payload: impl FnMut(Place) -> Result<Bytes, E>,
) -> Result<Bytes, E> {
    let payloads: Vec<Bytes> = message
        .entries
        .iter()
        .filter(|entry| named(entry).is_some())
        .map(|entry| payload(Place::of(entry)))
        .collect::<Result<_, E>>()?;
    let head_len = FENCE_LEN + message.encoded_len();
    let mut out = BytesMut::with_capacity(4 + head_len + payloads.iter().map(Bytes::len).sum::<usize>());
    out.put_u32_le(u32::try_from(head_len).expect("a message without its payloads is short"));
    out.put_slice(&FENCE_TAG);
    out.put_u64_le(reformed);
    message.encode(&mut out).expect("a BytesMut grows as needed");
    for payload in payloads {
        out.put_slice(&payload);
    }
    Ok(out.freeze())
}

/// None if it is malformed.
pub(super) fn decode(mut bytes: Bytes) -> Option<Decoded> {
    let head_len = bytes.try_get_u32_le().ok()? as usize;
    if bytes.len() < head_len {
        return None;
    }
    let mut head = bytes.split_to(head_len);
    let mut reformed = None;
    if head.starts_with(&FENCE_TAG) {
        head.advance(FENCE_TAG.len());
        reformed = Some(head.try_get_u64_le().ok()?);
    }
    let message = Message::decode(head).ok()?;
    // To ask for a kind that there is not would end the process.
    let known = |entry: &Entry| EntryType::from_i32(entry.entry_type).is_some();
    if MessageType::from_i32(message.msg_type).is_none() || !message.entries.iter().all(known) {
        return None;
    }
    let mut payloads = Vec::new();
    for entry in &message.entries {
        let normal = entry.get_entry_type() == EntryType::EntryNormal;
        match named(entry) {
            Some(len) if len > 0 && len <= bytes.len() => payloads.push((Place::of(entry), bytes.split_to(len))),
            None if entry.data.is_empty() || !normal => {}
            Some(_) | None => return None,
        }
    }
    bytes.is_empty().then_some(Decoded {
        message,
        payloads,
        reformed,
    })
}

#[cfg(test)]
mod tests {
    use std::convert::Infallible;

    use super::*;

    fn entry(index: u64, kind: EntryType, data: &[u8]) -> Entry {
        let mut entry = Entry {
            index,
            term: 3,
            data: data.to_vec(),
            ..Entry::default()
        };
        entry.set_entry_type(kind);
        entry
    }

    fn message() -> (Message, Vec<(Place, Bytes)>) {
        let payloads = [(4, Bytes::from_static(b"four")), (7, Bytes::from(vec![7; 70_000]))];
        let mut message = Message {
            from: 1,
            to: 2,
            ..Message::default()
        };
        message.set_msg_type(MessageType::MsgAppend);
        message.entries = vec![
            entry(4, EntryType::EntryNormal, &name(&payloads[0].1)),
            entry(5, EntryType::EntryNormal, b""),
            entry(6, EntryType::EntryConfChangeV2, b"as it is"),
            entry(7, EntryType::EntryNormal, &name(&payloads[1].1)),
        ];
        let placed = payloads.map(|(index, payload)| (Place { index, term: 3 }, payload));
        (message, placed.to_vec())
    }

    fn encoded() -> Bytes {
        let (message, payloads) = message();
        let find = |place| Ok::<_, Infallible>(payloads.iter().find(|(at, _)| *at == place).expect("named").1.clone());
        encode(&message, 7, find).expect("every payload is found")
    }

    #[test]
    fn payloads_travel_beside_the_message() {
        let (message, payloads) = message();
        let decoded = Decoded {
            message,
            payloads,
            reformed: Some(7),
        };
        assert_eq!(decode(encoded()), Some(decoded));
    }

    #[test]
    fn older_builds_neither_send_the_fence_nor_mind_it() {
        let encoded = encoded();
        let head_len = (&encoded[..4]).get_u32_le() as usize;
        let head = &encoded[4..4 + head_len];
        assert_eq!(
            Message::decode(head).ok(),
            Some(message().0),
            "a field that it does not know"
        );
        let mut older = BytesMut::new();
        older.put_u32_le((head_len - FENCE_LEN) as u32);
        older.put_slice(&head[FENCE_LEN..]);
        older.put_slice(&encoded[4 + head_len..]);
        let decoded = decode(older.freeze()).expect("it is whole");
        assert_eq!((decoded.message, decoded.reformed), (message().0, None));
    }

    #[test]
    fn what_does_not_fit_is_refused() {
        let whole = encoded();
        for len in (0..200).chain(whole.len() - 3..whole.len()) {
            assert_eq!(decode(whole.slice(..len)), None, "cut to {len} bytes");
        }
        let longer = [&whole[..], b"x"].concat();
        assert_eq!(decode(longer.into()), None);
        for data in [&b"abc"[..], b"\0\0\0\0", b"abcde"] {
            let message = Message {
                entries: vec![entry(1, EntryType::EntryNormal, data)],
                ..Message::default()
            };
            let bytes = encode(&message, 0, |_| Ok::<_, Infallible>(Bytes::new())).expect("nothing is looked up");
            assert_eq!(decode(bytes), None, "an entry that names {data:?}");
        }
    }
}
