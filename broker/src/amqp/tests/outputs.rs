//! The queue of bytes to write: nothing lost, nothing reordered, big bodies not copied.

use std::io::IoSlice;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::generate::Generate;
use super::methods::any_method;
use crate::amqp::content::{Header, Properties, put_content};
use crate::amqp::frame::{self, Frame, Kind};
use crate::amqp::output::{Output, SHARE_MIN, Sink, put_deliver, put_get_ok, put_return};
use crate::amqp::{Method, ShortStr};

const FRAME_MAX: u32 = 8192;

/// Writes everything out as a socket would that takes `takes` bytes at a time, offered `slices` slices.
fn drain(output: &mut Output, slices: usize, takes: usize) -> BytesMut {
    let mut written = BytesMut::new();
    while !output.is_empty() {
        let before = output.len();
        let mut offered = vec![IoSlice::new(&[]); slices];
        let filled = output.chunks(&mut offered);
        assert!(filled > 0 && offered[..filled].iter().all(|slice| !slice.is_empty()));
        let mut taken = 0;
        for slice in &offered[..filled] {
            let len = slice.len().min(takes - taken);
            written.extend_from_slice(&slice[..len]);
            taken += len;
        }
        output.advance(taken);
        assert_eq!(output.len(), before - taken);
    }
    assert_eq!(output.chunks(&mut [IoSlice::new(&[])]), 0);
    written
}

fn frames(mut stream: BytesMut) -> Vec<Frame> {
    let mut frames = Vec::new();
    while let Some(frame) = frame::decode(&mut stream, FRAME_MAX).expect("frames") {
        assert!(frame.payload.len() + frame::FRAME_OVERHEAD <= FRAME_MAX as usize);
        frames.push(frame);
    }
    assert!(stream.is_empty());
    frames
}

/// Takes a method with its content off the front of `frames`.
fn take_message(frames: &mut impl Iterator<Item = Frame>) -> (u16, Method, Bytes, BytesMut) {
    let first = frames.next().expect("a method frame");
    assert_eq!(first.kind, Kind::Method);
    let method = Method::decode(&first.payload).expect("a method");
    let header = frames.next().expect("a header frame");
    assert_eq!((header.kind, header.channel), (Kind::Header, first.channel));
    let header = Header::decode(&header.payload).expect("a header");
    assert_eq!(header.class, 60);
    let mut body = BytesMut::new();
    while (body.len() as u64) < header.body_size {
        let frame = frames.next().expect("a body frame");
        assert_eq!((frame.kind, frame.channel), (Kind::Body, first.channel));
        assert!(!frame.payload.is_empty());
        body.extend_from_slice(&frame.payload);
    }
    assert_eq!(body.len() as u64, header.body_size);
    (first.channel, method, header.properties, body)
}

/// Bodies around every size at which something changes: empty, copied or shared, one frame or more.
fn any_body() -> impl Strategy<Value = Bytes> {
    let payload_max = FRAME_MAX as usize - frame::FRAME_OVERHEAD;
    let len = prop_oneof![
        0..64_usize,
        SHARE_MIN - 2..SHARE_MIN + 2,
        payload_max - 2..payload_max + 2,
        2 * payload_max - 2..2 * payload_max + 2,
        2 * payload_max + SHARE_MIN - 2..2 * payload_max + SHARE_MIN + 2,
        0..40_000_usize,
    ];
    len.prop_map(|len| (0..len).map(|at| (at % 251) as u8).collect::<Vec<_>>().into())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(128))]

    #[test]
    fn messages_come_out_as_they_were_put_in(
        messages in proptest::collection::vec((any_method(), Properties::strategy(), any_body(), any::<u16>()), 1..6),
        slices in 1..8_usize,
        takes in prop_oneof![1..100_usize, 1_000..100_000_usize],
    ) {
        let mut output = Output::new();
        let mut flat = BytesMut::new();
        for (method, properties, body, channel) in &messages {
            let properties = properties.to_bytes();
            let (channel, body, max) = (*channel, body.clone(), FRAME_MAX);
            match method {
                Method::BasicDeliver { consumer_tag, delivery_tag, redelivered, exchange, routing_key } => put_deliver(
                    &mut output, channel, consumer_tag.as_bytes(), *delivery_tag, *redelivered, exchange.as_bytes(),
                    routing_key.as_bytes(), &properties, body.clone(), max,
                ),
                Method::BasicGetOk { delivery_tag, redelivered, exchange, routing_key, message_count } => put_get_ok(
                    &mut output, channel, *delivery_tag, *redelivered, exchange.as_bytes(), routing_key.as_bytes(),
                    *message_count, &properties, body.clone(), max,
                ),
                Method::BasicReturn { reply_code, reply_text, exchange, routing_key } => put_return(
                    &mut output, channel, *reply_code, reply_text.as_bytes(), exchange.as_bytes(),
                    routing_key.as_bytes(), &properties, body.clone(), max,
                ),
                other => {
                    output.put_method(channel, other);
                    put_content(&mut output, channel, &properties, &body, max);
                }
            }
            // The encoders without a Method must say what the Method says.
            crate::amqp::put_method(&mut flat, channel, method);
            put_content(&mut flat, channel, &properties, &body, max);
        }
        prop_assert_eq!(output.len(), flat.len());
        let written = drain(&mut output, slices, takes);
        prop_assert_eq!(&written, &flat);
        let mut frames = frames(written).into_iter();
        for (method, properties, body, channel) in messages {
            let (on, decoded, relayed, whole) = take_message(&mut frames);
            prop_assert_eq!((on, decoded, relayed), (channel, method, properties.to_bytes()));
            prop_assert_eq!(whole, body);
        }
        prop_assert!(frames.next().is_none());
    }
}

fn deliver_method() -> impl Strategy<Value = (ShortStr, u64, bool, ShortStr, ShortStr)> {
    (
        ShortStr::strategy(),
        any::<u64>(),
        any::<bool>(),
        ShortStr::strategy(),
        ShortStr::strategy(),
    )
}

proptest! {
    // `any_method` seldom picks these three, and they are the hot path.
    #[test]
    fn hot_encoders_say_what_methods_say(
        (tag, delivery_tag, redelivered, exchange, routing_key) in deliver_method(), count in any::<u32>(), body in any_body(),
    ) {
        let properties = b"\x10\x00\x02";
        let (mut output, mut expected) = (Output::new(), BytesMut::new());
        let (x, k, t) = (exchange.as_bytes(), routing_key.as_bytes(), tag.as_bytes());
        put_deliver(&mut output, 3, t, delivery_tag, redelivered, x, k, properties, body.clone(), FRAME_MAX);
        put_get_ok(&mut output, 4, delivery_tag, redelivered, x, k, count, properties, body.clone(), FRAME_MAX);
        put_return(&mut output, 5, 312, t, x, k, properties, body.clone(), FRAME_MAX);
        let (reply_text, consumer_tag) = (tag.clone(), tag.clone());
        for (channel, method) in [
            (3, Method::BasicDeliver {
                consumer_tag, delivery_tag, redelivered, exchange: exchange.clone(), routing_key: routing_key.clone(),
            }),
            (4, Method::BasicGetOk {
                delivery_tag, redelivered, exchange: exchange.clone(), routing_key: routing_key.clone(), message_count: count,
            }),
            (5, Method::BasicReturn { reply_code: 312, reply_text, exchange, routing_key }),
        ] {
            crate::amqp::put_method(&mut expected, channel, &method);
            put_content(&mut expected, channel, properties, &body, FRAME_MAX);
        }
        prop_assert_eq!(drain(&mut output, 4, usize::MAX), expected);
    }
}

#[test]
fn big_bodies_are_shared_and_small_ones_run_together() {
    let mut output = Output::new();
    let (small, big) = (Bytes::from(vec![1; 100]), Bytes::from(vec![2; SHARE_MIN]));
    for body in [&small, &small, &big, &small] {
        put_deliver(
            &mut output,
            1,
            b"c",
            1,
            false,
            b"",
            b"q",
            b"\0\0",
            body.clone(),
            131_072,
        );
    }
    let mut slices = [IoSlice::new(&[]); 8];
    assert_eq!(output.chunks(&mut slices), 3);
    assert_eq!(slices[1].as_ptr(), big.as_ptr());
    assert_eq!(slices[1].len(), big.len());
}

#[test]
fn an_empty_body_has_no_body_frame() {
    let mut output = Output::new();
    put_return(
        &mut output,
        1,
        312,
        b"NO_ROUTE",
        b"x",
        b"k",
        b"\0\0",
        Bytes::new(),
        FRAME_MAX,
    );
    let kinds: Vec<_> = frames(drain(&mut output, 1, 9))
        .into_iter()
        .map(|frame| frame.kind)
        .collect();
    assert_eq!(kinds, [Kind::Method, Kind::Header]);
}

#[test]
fn a_frame_max_of_nothing_still_makes_frames() {
    let mut out = BytesMut::new();
    put_content(&mut out, 1, b"\0\0", &Bytes::from(vec![0; 5_000]), 0);
    assert_eq!(
        frames(out).iter().map(|frame| frame.payload.len()).collect::<Vec<_>>(),
        [14, 4_088, 912]
    );
}

#[test]
fn names_that_do_not_fit_are_cut_and_the_stream_stays_whole() {
    let mut output = Output::new();
    put_deliver(
        &mut output,
        1,
        &[b'c'; 300],
        1,
        false,
        b"",
        b"q",
        b"\0\0",
        Bytes::new(),
        FRAME_MAX,
    );
    let (_, method, _, _) = take_message(&mut frames(drain(&mut output, 1, 4_096)).into_iter());
    assert!(matches!(method, Method::BasicDeliver { consumer_tag, .. } if consumer_tag.len() == 255));
}

#[test]
fn emptied_output_takes_more() {
    let mut output = Output::new();
    for round in 0..100 {
        output.put_heartbeat();
        assert_eq!(output.len(), 8, "round {round}");
        output.advance(8);
    }
    output.put_slice(b"AMQP");
    output.share(Bytes::from(vec![0; SHARE_MIN]));
    output.clear();
    assert!(output.is_empty());
}
