//! Frames: split anywhere, too large, badly ended, nonsense.

use bytes::{BufMut, Bytes, BytesMut};
use proptest::prelude::*;

use super::generate::Generate;
use super::methods::any_method;
use crate::amqp::content::Properties;
use crate::amqp::frame::{Error, FRAME_END, Frame, Kind, decode, put_heartbeat};
use crate::amqp::{put_content, put_method};

const FRAME_MAX: u32 = 4096;

fn any_frame() -> impl Strategy<Value = Frame> {
    let kind = prop_oneof![
        Just(Kind::Method),
        Just(Kind::Header),
        Just(Kind::Body),
        Just(Kind::Heartbeat)
    ];
    (kind, any::<u16>(), Bytes::strategy()).prop_map(|(kind, channel, payload)| Frame { kind, channel, payload })
}

#[track_caller]
fn check_decode(bytes: &[u8], expected: Result<Option<Frame>, Error>) {
    assert_eq!(decode(&mut BytesMut::from(bytes), FRAME_MAX), expected, "{bytes:?}");
}

#[test]
fn a_stream_split_at_any_byte_gives_the_same_frames() {
    let mut stream = BytesMut::new();
    put_heartbeat(&mut stream);
    put_method(
        &mut stream,
        1,
        &crate::amqp::Method::BasicPublish {
            exchange: "logs".into(),
            routing_key: "a.b".into(),
            mandatory: true,
            immediate: false,
        },
    );
    let properties = Properties {
        delivery_mode: Some(2),
        ..Properties::default()
    }
    .to_bytes();
    put_content(
        &mut stream,
        1,
        &properties,
        &Bytes::from(vec![FRAME_END; 100]),
        FRAME_MAX,
    );
    let stream = stream.freeze();

    let mut whole = BytesMut::from(&stream[..]);
    let mut expected = Vec::new();
    while let Some(frame) = decode(&mut whole, FRAME_MAX).expect("frames") {
        expected.push(frame);
    }
    assert_eq!(
        expected.iter().map(|frame| frame.kind).collect::<Vec<_>>(),
        [Kind::Heartbeat, Kind::Method, Kind::Header, Kind::Body]
    );

    for split in 0..=stream.len() {
        let mut buffer = BytesMut::new();
        let mut frames = Vec::new();
        for part in [&stream[..split], &stream[split..]] {
            buffer.put_slice(part);
            while let Some(frame) = decode(&mut buffer, FRAME_MAX).expect("frames") {
                frames.push(frame);
            }
        }
        assert!(buffer.is_empty());
        assert_eq!(frames, expected, "split at {split}");
    }

    // One byte at a time, each frame coming with its last byte and not before.
    let mut buffer = BytesMut::new();
    let mut frames = Vec::new();
    for &byte in &stream {
        buffer.put_u8(byte);
        frames.extend(decode(&mut buffer, FRAME_MAX).expect("frames"));
    }
    assert_eq!(frames, expected);
}

#[test]
fn payloads_are_slices_of_the_buffer() {
    let mut buffer = BytesMut::from(&b"\x03\x00\x01\x00\x00\x00\x02hi\xce\x08"[..]);
    let range = buffer.as_ptr_range();
    let frame = decode(&mut buffer, FRAME_MAX).expect("a frame").expect("all of it");
    assert!(range.contains(&frame.payload.as_ptr()));
    assert_eq!((&frame.payload[..], &buffer[..]), (&b"hi"[..], &b"\x08"[..]));
}

#[test]
fn size_is_judged_before_the_payload_comes() {
    // As much as the limit itself passes, which is eight bytes of grace.
    check_decode(b"\x03\x00\x01\x00\x00\x10\x00", Ok(None));
    check_decode(
        b"\x03\x00\x01\x00\x00\x10\x01",
        Err(Error::TooLarge { size: 4097, max: 4088 }),
    );
    check_decode(
        b"\x03\x00\x01\xff\xff\xff\xff",
        Err(Error::TooLarge {
            size: u32::MAX,
            max: 4088,
        }),
    );
    check_decode(b"\x03\x00\x01\xff\xff\xff", Ok(None));
    let mut largest = BytesMut::new();
    let frame = Frame {
        kind: Kind::Body,
        channel: 1,
        payload: Bytes::from(vec![7; 4096]),
    };
    frame.encode(&mut largest);
    check_decode(&largest, Ok(Some(frame)));
}

#[test]
fn kind_is_judged_by_the_first_byte() {
    for octet in (0..=u8::MAX).filter(|octet| ![1, 2, 3, 8].contains(octet)) {
        check_decode(&[octet], Err(Error::UnknownKind(octet)));
    }
    check_decode(b"", Ok(None));
}

#[test]
fn the_end_octet_must_end() {
    check_decode(
        b"\x08\x00\x00\x00\x00\x00\x00\xce",
        Ok(Some(Frame {
            kind: Kind::Heartbeat,
            channel: 0,
            payload: Bytes::new(),
        })),
    );
    check_decode(b"\x08\x00\x00\x00\x00\x00\x00\xcd", Err(Error::BadEnd(0xcd)));
    check_decode(b"\x03\x00\x01\x00\x00\x00\x01x\x00\xce", Err(Error::BadEnd(0)));
}

#[test]
fn errors_read_as_rabbitmq_words_them() {
    assert_eq!(
        Error::TooLarge { size: 9000, max: 4088 }.to_string(),
        "{frame_too_large,9000,4088}"
    );
    assert_eq!(Error::BadEnd(7).to_string(), "{invalid_frame_end_marker,7}");
}

proptest! {
    #[test]
    fn any_frames_survive_any_splitting(
        frames in proptest::collection::vec(any_frame(), 0..8),
        cuts in proptest::collection::vec(1_usize..40, 1..40),
    ) {
        let mut stream = BytesMut::new();
        for frame in &frames {
            frame.encode(&mut stream);
        }
        let mut buffer = BytesMut::new();
        let mut decoded = Vec::new();
        for cut in cuts.iter().cycle() {
            let part = stream.split_to(stream.len().min(*cut));
            if part.is_empty() {
                break;
            }
            buffer.put_slice(&part);
            while let Some(frame) = decode(&mut buffer, FRAME_MAX).expect("frames") {
                decoded.push(frame);
            }
        }
        prop_assert_eq!(decoded, frames);
    }

    #[test]
    fn nonsense_is_refused_and_never_a_panic(bytes in proptest::collection::vec(any::<u8>(), 0..200), max in any::<u32>()) {
        let mut buffer = BytesMut::from(&bytes[..]);
        while let Ok(Some(frame)) = decode(&mut buffer, max) {
            prop_assert!(frame.payload.len() as u64 <= u64::from(max));
        }
    }

    #[test]
    fn a_damaged_stream_never_panics(
        method in any_method(), at in any::<proptest::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut buffer = BytesMut::new();
        put_method(&mut buffer, 1, &method);
        let at = at.index(buffer.len());
        buffer[at] = byte;
        if let Ok(Some(frame)) = decode(&mut buffer, FRAME_MAX) {
            // Whatever it says, it says it without a panic.
            let _ = crate::amqp::Method::decode(&frame.payload);
        }
    }
}
