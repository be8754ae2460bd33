//! Frames that are wrong in themselves or come in the wrong place: each ends the connection with its own code and text.

use warren_tests::amqp::method::*;
use warren_tests::amqp::wire::{Properties, Table, Wire, Writer};
use warren_tests::amqp::{BODY, Client, Closed, End, Frame, HEADER, HEARTBEAT, METHOD};

use crate::case::{Case, differs, durable, passive, prefetch};

/// The close that follows when `bytes` are sent on a connection with channel 1 open.
#[track_caller]
fn answer(bytes: &[u8]) -> Closed {
    let mut client = Client::connect(0);
    client.channel();
    client.socket.send(bytes);
    client.closed(0)
}

/// A method frame with arguments of one's own making.
fn method_bytes(id: (u16, u16), arguments: &[u8]) -> Vec<u8> {
    let mut out = Writer::default();
    id.0.put(&mut out);
    id.1.put(&mut out);
    out.raw(arguments);
    Frame::new(METHOD, 1, out.finish()).bytes()
}

fn publish_frame() -> Vec<u8> {
    Frame::method(
        1,
        &BasicPublish {
            routing_key: "nowhere".into(),
            ..Default::default()
        },
    )
    .bytes()
}

fn header_frame(body_size: u64) -> Vec<u8> {
    Frame::header(1, 60, body_size, &Properties::default().bytes()).bytes()
}

#[test]
fn a_frame_over_the_agreed_size_is_refused_by_its_size_alone() {
    for size in [131_072 + 1, 200_000, u32::MAX] {
        let mut head = vec![BODY, 0, 1];
        head.extend(size.to_be_bytes());
        answer(&head).connection_error_like(501, &["FRAME_ERROR - ", "frame_too_large", &size.to_string()]);
    }
}

#[test]
fn a_frame_that_does_not_end_in_0xce_is_refused() {
    let mut bytes = Frame::method(1, &prefetch(1)).bytes();
    *bytes.last_mut().expect("a frame has bytes") = 0x13;
    answer(&bytes).connection_error_like(501, &["FRAME_ERROR - ", "invalid_frame_end_marker", "19"]);
}

#[test]
fn a_frame_of_unknown_type_is_refused() {
    for kind in [4, 9, 255] {
        answer(&Frame::new(kind, 1, [1, 2, 3]).bytes()).connection_error_like(501, &["FRAME_ERROR - "]);
    }
}

#[test]
fn content_without_a_method_is_unexpected() {
    for frame in [header_frame(3), Frame::new(BODY, 1, "abc").bytes()] {
        answer(&frame).connection_error_like(
            505,
            &["UNEXPECTED_FRAME - expected method frame, got non method frame instead"],
        );
    }
}

#[test]
fn a_publish_must_be_followed_by_its_header() {
    let again = [publish_frame(), publish_frame()].concat();
    answer(&again).connection_error::<BasicPublish>(
        505,
        "UNEXPECTED_FRAME - expected content header for class 60, got non content header frame instead",
    );
    let body = [publish_frame(), Frame::new(BODY, 1, "abc").bytes()].concat();
    answer(&body).connection_error::<BasicPublish>(
        505,
        "UNEXPECTED_FRAME - expected content header for class 60, got non content header frame instead",
    );
    let other_class = [publish_frame(), Frame::header(1, 50, 0, &[0, 0]).bytes()].concat();
    answer(&other_class).connection_error::<BasicPublish>(
        505,
        "UNEXPECTED_FRAME - expected content header for class 60, got one for class 50 instead",
    );
}

#[test]
fn a_header_must_be_followed_by_its_body() {
    let text = "UNEXPECTED_FRAME - expected content body, got non content body frame instead";
    let method = [publish_frame(), header_frame(3), Frame::method(1, &prefetch(1)).bytes()].concat();
    answer(&method).connection_error::<BasicPublish>(505, text);
    let header = [publish_frame(), header_frame(3), header_frame(3)].concat();
    answer(&header).connection_error::<BasicPublish>(505, text);
}

#[test]
fn a_body_longer_than_announced_is_refused() {
    let bytes = [publish_frame(), header_frame(3), Frame::new(BODY, 1, "four").bytes()].concat();
    answer(&bytes).connection_error_like(501, &["FRAME_ERROR - "]);
    let bytes = [
        publish_frame(),
        header_frame(3),
        Frame::new(BODY, 1, "ab").bytes(),
        Frame::new(BODY, 1, "cd").bytes(),
    ];
    answer(&bytes.concat()).connection_error_like(501, &["FRAME_ERROR - "]);
}

#[test]
fn a_body_announced_over_512_mib_is_refused() {
    for size in [(512 << 20) + 1, u64::MAX] {
        let bytes = [publish_frame(), header_frame(size)].concat();
        answer(&bytes).connection_error_like(501, &["FRAME_ERROR - "]);
    }
}

#[test]
fn a_content_header_cut_short_is_refused() {
    // Flags that announce a content type which is not there; and no room for the flags at all.
    let no_value = Frame::header(1, 60, 0, &[0x80, 0x00]).bytes();
    let no_flags = Frame::new(HEADER, 1, [0, 60, 0, 0, 0, 0]).bytes();
    for header in [no_value, no_flags] {
        let mut client = Client::connect(0);
        client.channel();
        client.socket.send(&publish_frame());
        client.socket.send(&header);
        ends_with(client, &[501, 502, 505]);
    }
}

#[test]
fn names_must_be_utf8() {
    let mut out = Writer::default();
    0u16.put(&mut out);
    out.raw(b"\x02\xC3\x28");
    0u8.put(&mut out);
    Table::default().put(&mut out);
    answer(&method_bytes(QueueDeclare::ID, &out.finish()))
        .connection_error_like(501, &["FRAME_ERROR - Malformed UTF-8 in shortstr"]);
}

#[test]
fn arguments_that_do_not_add_up_are_refused() {
    answer(&method_bytes(QueueDeclare::ID, b"\0\0")).connection_error_like(501, &["FRAME_ERROR - cannot decode"]);
    answer(&method_bytes(BasicAck::ID, b"\0\0\0")).connection_error_like(501, &["FRAME_ERROR - cannot decode"]);
    // A table whose length points past the frame.
    let declare = b"\0\0\x01q\0\0\0\0\xFF".as_slice();
    answer(&method_bytes(QueueDeclare::ID, declare)).connection_error_like(501, &["FRAME_ERROR - "]);
}

/// The connection must end, with a word of why.
#[track_caller]
fn ends_with(mut client: Client, codes: &[u16]) {
    let stock = differs("undecodable-input");
    match client.ended() {
        End::Closed(closed) => assert!(
            closed.hard && (codes.contains(&closed.code) || stock && closed.code == 541),
            "expected one of {codes:?}, got {closed:?}"
        ),
        End::Dropped => assert!(stock, "dropped without a close, expected one of {codes:?}"),
    }
}

#[test]
fn unknown_methods_and_table_types_end_the_connection() {
    let unknown_type = {
        let mut out = Writer::default();
        0u16.put(&mut out);
        "queue".to_owned().put(&mut out);
        0u8.put(&mut out);
        b"\x03keyZ\0\0\0\0".to_vec().put(&mut out);
        method_bytes(QueueDeclare::ID, &out.finish())
    };
    for (bytes, codes) in [
        (method_bytes((60, 999), b""), [503, 501]),
        (method_bytes((77, 10), b""), [503, 501]),
        (Frame::new(METHOD, 1, [0, 60]).bytes(), [501, 502]),
        (unknown_type, [501, 502]),
    ] {
        let mut client = Client::connect(0);
        client.channel();
        client.socket.send(&bytes);
        ends_with(client, &codes);
    }
}

#[test]
fn methods_only_a_broker_sends_are_refused() {
    for bytes in [
        Frame::method(1, &BasicGetEmpty::default()).bytes(),
        Frame::method(1, &QueueDeclareOk::default()).bytes(),
        Frame::method(1, &ConfirmSelectOk::default()).bytes(),
    ] {
        answer(&bytes).connection_error_like(503, &["COMMAND_INVALID - unimplemented method"]);
    }
}

#[test]
fn what_amqp_has_and_rabbitmq_never_had_is_not_implemented() {
    let mut client = Client::connect(0);
    let channel = client.channel();
    client.publish_with(
        channel,
        &BasicPublish {
            immediate: true,
            ..Default::default()
        },
        &Default::default(),
        b"now",
    );
    client
        .closed(channel)
        .connection_error::<BasicPublish>(540, "NOT_IMPLEMENTED - immediate=true");

    let mut client = Client::connect(0);
    let channel = client.channel();
    client
        .refused(
            channel,
            &BasicQos {
                prefetch_size: 10,
                ..Default::default()
            },
        )
        .connection_error::<BasicQos>(540, "NOT_IMPLEMENTED - prefetch_size!=0 (10)");

    let mut client = Client::connect(0);
    let channel = client.channel();
    client
        .refused(channel, &BasicRecover { requeue: false })
        .connection_error::<BasicRecover>(540, "NOT_IMPLEMENTED - requeue=false");

    let mut client = Client::connect(0);
    let channel = client.channel();
    client.send(channel, &BasicRecoverAsync { requeue: false });
    client
        .closed(channel)
        .connection_error::<BasicRecoverAsync>(540, "NOT_IMPLEMENTED - requeue=false");

    let mut client = Client::connect(0);
    let channel = client.channel();
    client
        .refused(channel, &ChannelFlow { active: false })
        .connection_error::<ChannelFlow>(540, "NOT_IMPLEMENTED - active=false");
}

#[test]
fn frames_may_arrive_in_any_pieces() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.queue("pieces");
    let mut bytes = Frame::method(channel, &durable(&queue)).bytes();
    bytes.extend(Frame::new(HEARTBEAT, 0, []).bytes());
    let publish = BasicPublish {
        routing_key: queue.clone(),
        ..Default::default()
    };
    bytes.extend(Frame::method(channel, &publish).bytes());
    bytes.extend(Frame::header(channel, 60, 6, &Properties::persistent().bytes()).bytes());
    // Body frames need not be full.
    for part in ["p", "iec", "es"] {
        bytes.extend(Frame::new(BODY, channel, part).bytes());
    }
    for byte in bytes {
        client.socket.send(&[byte]);
    }
    assert_eq!(
        client.expect::<QueueDeclareOk>(channel),
        QueueDeclareOk {
            queue: queue.clone(),
            messages: 0,
            consumers: 0
        }
    );
    let (delivery, left) = client.get(channel, &queue, true).expect("the message just published");
    assert_eq!((delivery.text().as_str(), left), ("pieces", 0));
    client.close();
}

#[test]
fn content_of_two_channels_may_be_interleaved() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let (first, second) = (client.channel(), client.channel());
    let queue = case.declared(&mut client, first, "interleaved");
    let publish = BasicPublish {
        routing_key: queue.clone(),
        ..Default::default()
    };
    let mut bytes = Vec::new();
    for channel in [first, second] {
        bytes.extend(Frame::method(channel, &publish).bytes());
    }
    for channel in [second, first] {
        bytes.extend(Frame::header(channel, 60, 4, &Properties::persistent().bytes()).bytes());
    }
    for (channel, part) in [(first, "on"), (second, "t"), (first, "e!"), (second, "wo!")] {
        bytes.extend(Frame::new(BODY, channel, part).bytes());
    }
    client.socket.send(&bytes);
    crate::case::until_ready(&mut client, first, &queue, 2);
    let mut texts = crate::case::drain(&mut client, first, &queue);
    texts.sort();
    assert_eq!(texts, ["one!", "two!"]);
    client.close();
}

#[test]
fn a_reply_text_too_long_is_cut_with_dots() {
    let mut client = Client::connect(0);
    let channel = client.channel();
    let closed = client.refused(channel, &passive(&"n".repeat(255)));
    assert_eq!((closed.code, closed.text.len()), (404, 255), "{closed:?}");
    assert!(
        closed.text.starts_with("NOT_FOUND - no queue 'nnn") && closed.text.ends_with("n..."),
        "{closed:?}"
    );
    client.close();
}

#[test]
fn a_message_over_16_mib_is_a_channel_error() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.declared(&mut client, channel, "big");
    let size = (16 << 20) + 1;
    client.publish(channel, "", &queue, &Default::default(), &vec![0; size]);
    let text = format!("PRECONDITION_FAILED - message size {size} is larger than configured max size 16777216");
    client.closed(channel).channel_error::<BasicPublish>(406, &text);
    let channel = client.channel();
    assert_eq!(crate::case::counts(&mut client, channel, &queue), (0, 0));
    client.close();
}
