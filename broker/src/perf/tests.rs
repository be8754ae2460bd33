use bytes::Bytes;
use clap::Parser;
use proptest::prelude::*;

use super::{
    latency::Latencies,
    meter::{Total, Totals},
    options::Options,
    pace::Pace,
    process::parse_stat,
    report::{Rate, Span, grouped, ms},
    uri::Uri,
    window::{UnknownTag, Window},
    wire::{Frame, Hot, Template, body_size, hot, peek, stamp_of},
};
use crate::amqp::{
    Frame as Decoded, Method, Output, Properties,
    content::{self, put_content},
    frame::{self, FRAME_MIN_SIZE, Kind},
    output::put_deliver,
    put_method,
};

fn options(line: &str) -> Options {
    try_options(line).expect("the line is right")
}

fn try_options(line: &str) -> Result<Options, String> {
    let words = std::iter::once("warren-perf").chain(line.split_ascii_whitespace());
    let options = Options::try_parse_from(words).map_err(|error| error.to_string())?;
    options.checked().map_err(|error| error.to_string())
}

#[test]
fn uris() {
    let check = |text: &str, expected: [&str; 4]| {
        let uri: Uri = text.parse().expect(text);
        assert_eq!(
            [&*uri.user, &*uri.password, &*uri.address(), &*uri.vhost],
            expected,
            "{text}"
        );
    };
    check("amqp://h", ["guest", "guest", "h:5672", "/"]);
    check("amqp://h/", ["guest", "guest", "h:5672", ""]);
    check("amqp://h:1/%2f", ["guest", "guest", "h:1", "/"]);
    check("amqp://u:p@h:1/a%2Fb", ["u", "p", "h:1", "a/b"]);
    check("amqp://u:p%40:@[::1]:65535/v", ["u", "p@:", "[::1]:65535", "v"]);
    check("amqp://u@[::1]", ["u", "", "[::1]:5672", "/"]);
    for bad in [
        "amqps://h",
        "h",
        "amqp://",
        "amqp://h:x",
        "amqp://h:65536",
        "amqp://h/%2",
        "amqp://h/%zz",
        "amqp://h/%ff",
        "amqp://[::1",
    ] {
        assert!(bad.parse::<Uri>().is_err(), "{bad}");
    }
    assert!(!format!("{:?}", "amqp://u:secret@h".parse::<Uri>()).contains("secret"));
}

#[test]
fn modes_and_counts_agree() {
    let drain = options("--drain");
    assert_eq!((drain.publishers, drain.consumers), (0, 1));
    let publish = options("--publish-only --publishers 3");
    assert_eq!((publish.publishers, publish.consumers), (3, 0));
    assert_eq!(options("--prefetch 10").ack_every, 10);
    assert_eq!(options("--prefetch 0").ack_every, 100);
    for bad in [
        "--drain --publish-only",
        "--drain --messages 1",
        "--messages 1 --seconds 2",
        "--messages 1 --publishers 0",
        "--publishers 0 --consumers 0",
        "--queues 0",
        "--seconds 0",
        "--seconds inf",
        "--rate 0",
        "--rate nan",
        "--fanout --topic-bindings 3",
        "--durable --transient",
    ] {
        assert!(try_options(bad).is_err(), "{bad}");
    }
}

#[test]
fn every_queue_and_every_message_has_a_publisher() {
    for publishers in 1..7 {
        for queues in 1..7 {
            let options = options(&format!("--publishers {publishers} --queues {queues}"));
            let mut used: Vec<u32> = (0..publishers)
                .flat_map(|index| options.queues_of(index, publishers))
                .collect();
            assert_eq!(used.len() as u32, publishers.max(queues));
            used.sort_unstable();
            used.dedup();
            assert_eq!(used.len() as u32, queues);
            let sum: u64 = (0..publishers).map(|index| options.share_of(100, index)).sum();
            assert_eq!(sum, 100);
        }
    }
}

#[test]
fn window_counts_singles_and_multiples() {
    let mut window = Window::new(5);
    let mut stamps = Vec::new();
    let mut settle = |window: &mut Window, tag, multiple| window.settle(tag, multiple, |stamp| stamps.push(stamp));
    assert_eq!(window.room(), 5);
    assert_eq!(settle(&mut window, 1, false), Err(UnknownTag));
    window.sent(2, 10);
    window.sent(3, 20);
    assert_eq!((window.room(), window.unconfirmed()), (0, 5));
    assert_eq!(settle(&mut window, 4, false), Ok(1));
    assert_eq!(settle(&mut window, 4, false), Ok(0));
    assert_eq!(window.room(), 1);
    assert_eq!(settle(&mut window, 2, true), Ok(2));
    assert_eq!(settle(&mut window, 1, true), Ok(0));
    assert_eq!(settle(&mut window, 6, true), Err(UnknownTag));
    assert_eq!(settle(&mut window, 0, false), Err(UnknownTag));
    assert_eq!(settle(&mut window, 0, true), Ok(2));
    assert_eq!((window.room(), window.unconfirmed()), (5, 0));
    assert_eq!(settle(&mut window, 0, true), Ok(0));
    assert_eq!(stamps, [20, 10, 10, 20, 20]);
}

#[test]
fn window_stops_at_a_message_that_is_never_confirmed() {
    let mut window_of_two = Window::new(2);
    window_of_two.sent(1, 1);
    let mut tag = 1;
    while window_of_two.room() > 0 {
        window_of_two.sent(1, 1);
        tag += 1;
        assert_eq!(window_of_two.settle(tag, false, |_| ()), Ok(1));
        assert!(tag < 10_000);
    }
    assert_eq!(window_of_two.settle(1, false, |_| ()), Ok(1));
    assert_eq!(window_of_two.room(), 2);
}

proptest! {
    /// Against a set of tags.
    #[test]
    fn window_agrees_with_a_set(steps in prop::collection::vec((0..3u8, 0..40u64), 1..200)) {
        let mut window = Window::new(20);
        let mut open = std::collections::BTreeSet::new();
        let mut sent = 0;
        for (kind, number) in steps {
            if kind == 0 {
                let count = (number as usize % 5).min(window.room());
                window.sent(count, 7);
                open.extend(sent + 1..=sent + count as u64);
                sent += count as u64;
            } else {
                let tag = sent.saturating_sub(number).max(1);
                let multiple = kind == 2;
                let settled = window.settle(tag, multiple, |stamp| assert_eq!(stamp, 7));
                if tag > sent {
                    prop_assert_eq!(settled, Err(UnknownTag));
                } else {
                    let before = open.len();
                    open.retain(|&other| if multiple { other > tag } else { other != tag });
                    prop_assert_eq!(settled, Ok((before - open.len()) as u64));
                }
            }
            prop_assert_eq!(window.unconfirmed(), open.len());
        }
    }

    /// What is looked at in place is what the codec takes out.
    #[test]
    fn frames_agree_with_the_codec(bytes in prop::collection::vec(prop_oneof![Just(0u8), Just(1), Just(8), Just(206), any::<u8>()], 0..40)) {
        let mut buffer = bytes::BytesMut::from(&bytes[..]);
        let decoded = frame::decode(&mut buffer, 32);
        match (peek(&bytes, 32), decoded) {
            (Ok(None), Ok(None)) => {}
            (Ok(Some(frame)), Ok(Some(Decoded { kind, channel, payload }))) => {
                prop_assert_eq!((frame.kind, frame.channel, frame.payload), (kind, channel, &payload[..]));
                prop_assert_eq!(frame.len(), bytes.len() - buffer.len());
            }
            (Err(_), Err(_)) => {}
            // The codec objects as soon as the kind is there.
            (Ok(None), Err(frame::Error::UnknownKind(_))) => prop_assert!(bytes.len() < 7),
            (mine, its) => prop_assert!(false, "{mine:?} {its:?}"),
        }
    }

    #[test]
    fn hot_methods_never_panic(payload in prop::collection::vec(any::<u8>(), 0..30), method in prop_oneof![Just(60u8), Just(80), Just(120)]) {
        let mut payload = payload;
        for (place, octet) in payload.iter_mut().zip([0, 60, 0, method]) {
            *place = octet;
        }
        let _any = hot(&payload);
    }

    #[test]
    fn pace_keeps_its_rate(rate in 1.0..100_000.0f64, steps in prop::collection::vec(1..50_000_000u64, 1..100)) {
        let mut pace = Pace::new(rate, 0);
        let (mut now, mut sent) = (0, 0);
        for step in steps {
            now += step;
            let due = pace.due(now);
            pace.sent(due);
            sent += due;
            prop_assert!((sent as f64 - (now as f64 * rate / 1e9 + 1.0)).abs() <= 1.0);
            prop_assert!(pace.next() + 1 >= now);
            prop_assert_eq!(pace.due(now), 0);
        }
    }
}

#[test]
fn pace_does_not_make_up_for_a_long_pause() {
    let mut pace = Pace::new(1000.0, 0);
    let due = pace.due(3600 * 1_000_000_000);
    assert!((1000..=1002).contains(&due), "{due}");
}

fn frames(mut bytes: &[u8]) -> Vec<Frame<'_>> {
    let mut frames = Vec::new();
    while let Some(frame) = peek(bytes, 1 << 20).expect("it is well formed") {
        bytes = &bytes[frame.len()..];
        frames.push(frame);
    }
    assert!(bytes.is_empty());
    frames
}

#[test]
fn templates_are_publishes() {
    for size in [0, 1, 15, 16, 17, 1024, 3 * 4096] {
        let template = Template::new("x".into(), "a.key".into(), true, size, FRAME_MIN_SIZE);
        let mut bytes = b"before".to_vec();
        template.put(&mut bytes, 77, 3);
        assert_eq!(bytes.len(), "before".len() + template.len());
        let frames = frames(&bytes["before".len()..]);
        let payload = Bytes::copy_from_slice(frames[0].payload);
        assert_eq!(
            Method::decode(&payload),
            Ok(Method::BasicPublish {
                exchange: "x".into(),
                routing_key: "a.key".into(),
                mandatory: false,
                immediate: false
            })
        );
        let header = content::Header::decode(&Bytes::copy_from_slice(frames[1].payload)).expect("a header");
        assert_eq!(header.body_size, size as u64);
        assert_eq!(body_size(frames[1].payload), Some(size as u64));
        let properties = Properties::decode(&header.properties).expect("properties");
        assert_eq!(properties.delivery_mode, Some(2));
        let body: Vec<u8> = frames[2..].iter().flat_map(|frame| frame.payload).copied().collect();
        assert_eq!(body.len(), size);
        if size >= 16 {
            assert_eq!(stamp_of(&body), Some(77));
            assert_eq!(body[8..16], 3u64.to_be_bytes());
        } else {
            assert_eq!(stamp_of(&body), None);
        }
    }
}

#[test]
fn hot_methods_are_told_apart() {
    let read = |method: &Method| {
        let mut bytes = bytes::BytesMut::new();
        put_method(&mut bytes, 1, method);
        let frame = peek(&bytes, 4096).expect("well formed").expect("whole");
        assert_eq!((frame.kind, frame.channel), (Kind::Method, 1));
        hot(frame.payload)
    };
    let (tag, multiple) = (u64::MAX - 1, true);
    assert_eq!(
        read(&Method::BasicAck {
            delivery_tag: tag,
            multiple
        }),
        Some(Hot::Ack { tag, multiple })
    );
    let nack = Method::BasicNack {
        delivery_tag: tag,
        multiple: false,
        requeue: true,
    };
    assert_eq!(read(&nack), Some(Hot::Nack { tag, multiple: false }));
    assert_eq!(read(&Method::BasicQosOk {}), None);

    let mut output = Output::new();
    put_deliver(
        &mut output,
        1,
        b"tag",
        5,
        true,
        b"x",
        b"key",
        &[0, 0],
        Bytes::from_static(b"body"),
        4096,
    );
    let mut slices = [std::io::IoSlice::new(&[]); 8];
    let count = output.chunks(&mut slices);
    let bytes: Vec<u8> = slices[..count].iter().flat_map(|slice| slice.iter()).copied().collect();
    let frames = frames(&bytes);
    assert_eq!(
        hot(frames[0].payload),
        Some(Hot::Deliver {
            tag: 5,
            redelivered: true
        })
    );
    assert_eq!(body_size(frames[1].payload), Some(4));
    assert_eq!(frames[2].payload, b"body");

    let mut whole = bytes::BytesMut::new();
    put_content(&mut whole, 1, &[0, 0], &Bytes::new(), 4096);
    assert_eq!(peek(&whole[..whole.len() - 1], 4096), Ok(None));
}

#[test]
fn latencies_are_microseconds() {
    let mut latencies = Latencies::new();
    assert_eq!(latencies.summary(), None);
    for ns in 1..=1000 {
        latencies.record_ns(ns * 1000);
    }
    latencies.record_ns(0);
    latencies.record_ns(u64::MAX);
    let mut sum = Latencies::new();
    sum.add(&latencies);
    let summary = sum.summary().expect("there are some");
    assert_eq!((summary.count, summary.min, summary.p50), (1002, 1, 500));
    assert!(summary.max >= 24 * 3600 * 999_000);
}

#[test]
fn rates_are_over_the_span_or_up_to_the_last() {
    let at = |count, last_ns| Totals {
        consumed: Total { count, last_ns },
        ..Totals::default()
    };
    let mut span = Span {
        from_ns: 1_000_000_000,
        to_ns: 5_000_000_000,
        from: at(10, 1),
        to: at(110, 3_000_000_000),
        is_open_ended: false,
    };
    let rate = |span: &Span| span.rate(|totals| totals.consumed);
    let (count, seconds) = (100, 4.0);
    assert_eq!(
        rate(&span),
        Rate {
            count,
            seconds,
            per_s: 25.0
        }
    );
    span.is_open_ended = true;
    assert_eq!(rate(&span).per_s, 50.0);
    // Nothing was counted.
    span.from = at(0, 0);
    span.to = at(0, 0);
    assert_eq!(rate(&span), Rate::default());
}

#[test]
fn processor_time_of_a_process_with_a_strange_name() {
    let line = "7 (a) b (c) S 1 7 7 0 -1 4194304 500 0 0 0 250 50 0 0 20 0 4 0 100 1000 10";
    assert_eq!(parse_stat(line), Some(3.0));
    assert_eq!(parse_stat("7 (a"), None);
    assert_eq!(parse_stat("7 (a) S 1"), None);
}

#[test]
fn numbers_for_people() {
    assert_eq!(
        [0, 999, 1000, 1_234_567].map(grouped),
        ["0", "999", "1,000", "1,234,567"]
    );
    assert_eq!([5, 1234, 12_345, 123_456].map(ms), ["0.01", "1.23", "12.3", "123"]);
}
