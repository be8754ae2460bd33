//! Messages come out as they went in: any size, every property, every table type, on any node.

use warren_tests::amqp::method::*;
use warren_tests::amqp::wire::{Properties, Table, Value};
use warren_tests::amqp::{BODY, Client, Frame};

use crate::case::{Case, consume, differs, fill};

fn pattern(length: usize) -> Vec<u8> {
    (0..length).map(|at| (at % 251) as u8).collect()
}

#[test]
fn bodies_of_every_size_around_the_frame_limit_arrive_whole() {
    let case = Case::new();
    let (mut publisher, mut consumer) = (Client::connect(0), Client::connect(1));
    let (channel, receiving) = (publisher.channel(), consumer.channel());
    let queue = case.declared(&mut publisher, channel, "sizes");
    publisher.confirm(channel);
    consumer.call(receiving, &consume(&queue, ""));
    let payload_max = publisher.frame_max as usize - 8;
    let sizes = [
        0,
        1,
        4096,
        payload_max - 1,
        payload_max,
        payload_max + 1,
        2 * payload_max,
        1 << 20,
        5 << 20,
    ];
    for size in sizes {
        let body = pattern(size);
        publisher.publish(channel, "", &queue, &Properties::persistent(), &body);
        let delivery = consumer.delivery(receiving);
        assert_eq!(delivery.content.body.len(), size);
        assert!(
            delivery.content.body == body,
            "a body of {size} bytes changed on its way"
        );
        assert_eq!(
            delivery.content.body_frames,
            size.div_ceil(payload_max),
            "frames for {size} bytes"
        );
        consumer.send(receiving, &crate::case::ack(delivery.tag));
    }
    publisher.confirmed(channel);
    publisher.close();
    consumer.close();
}

#[test]
fn an_empty_body_needs_no_body_frame_and_may_not_have_a_full_one() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.declared(&mut client, channel, "empty");
    fill(&mut client, &queue, &["", "second"]);
    let (delivery, left) = client.get(channel, &queue, true).expect("the empty message");
    assert_eq!(
        (delivery.content.body.len(), delivery.content.body_frames, left),
        (0, 0, 1)
    );
    // The broker expects a method next, not a body.
    let publish = BasicPublish {
        routing_key: queue.clone(),
        ..Default::default()
    };
    let mut bytes = Frame::method(channel, &publish).bytes();
    bytes.extend(Frame::header(channel, 60, 0, &[0, 0]).bytes());
    bytes.extend(Frame::new(BODY, channel, "x").bytes());
    client.socket.send(&bytes);
    client.closed(channel).connection_error_like(
        505,
        &["UNEXPECTED_FRAME - expected method frame, got non method frame instead"],
    );
}

/// In the order of the keys: a stock broker sorts them.
fn every_type() -> Table {
    Table::from([
        (
            "A",
            Value::Array(vec![
                Value::I32(1),
                Value::from("two"),
                Value::Void,
                Value::Array(vec![]),
            ]),
        ),
        ("B", Value::U8(200)),
        ("D", Value::Decimal(2, 31_415)),
        (
            "F",
            Value::Table(Table::from([("inner", Value::Table(Table::from([("deep", 1)])))])),
        ),
        ("F-empty", Value::Table(Table::default())),
        ("I", Value::I32(-320_000)),
        (
            "S",
            Value::from("a long string: \u{17e}lu\u{165}ou\u{10d}k\u{fd} k\u{16f}\u{148}"),
        ),
        ("S-binary", Value::Text(vec![0, 255, 0, 254])),
        ("S-empty", Value::from("")),
        ("T", Value::Timestamp(1_700_000_000)),
        ("V", Value::Void),
        ("b", Value::I8(-8)),
        ("d", Value::F64(-2.25e300)),
        ("f", Value::F32(1.5)),
        ("i", Value::U32(4_000_000_000)),
        ("l", Value::I64(-64_000_000_000)),
        ("s", Value::I16(-1600)),
        ("t", Value::Bool(true)),
        ("t-false", Value::Bool(false)),
        ("u", Value::U16(65_000)),
        ("x", Value::Bytes(vec![0, 1, 2, 255])),
    ])
}

fn every_property() -> Properties {
    let (user, _) = warren_tests::amqp::credentials();
    Properties {
        content_type: Some("application/json".into()),
        content_encoding: Some("gzip".into()),
        headers: Some(every_type()),
        delivery_mode: Some(2),
        priority: Some(3),
        correlation_id: Some("correlation".into()),
        reply_to: Some("a queue".into()),
        expiration: Some("600000".into()),
        message_id: Some("message-1".into()),
        timestamp: Some(1_600_000_000),
        kind: Some("kind".into()),
        user_id: Some(user),
        app_id: Some("suite".into()),
        cluster_id: Some("cluster".into()),
    }
}

#[test]
fn every_property_and_every_table_type_arrives_as_sent() {
    let case = Case::new();
    let (mut publisher, mut consumer) = (Client::connect(0), Client::connect(2));
    let (channel, receiving) = (publisher.channel(), consumer.channel());
    let queue = case.declared(&mut publisher, channel, "properties");
    consumer.call(receiving, &consume(&queue, ""));
    let full = every_property();
    let unsorted = Table::from([("b", 2), ("c", 3), ("a", 1)]);
    let each_alone = [
        Properties::default(),
        Properties {
            headers: Some(Table::default()),
            ..Default::default()
        },
        Properties {
            content_type: Some(String::new()),
            ..Default::default()
        },
        Properties {
            delivery_mode: Some(1),
            ..Default::default()
        },
        Properties {
            priority: Some(0),
            timestamp: Some(0),
            ..Default::default()
        },
        Properties {
            cluster_id: Some("x".repeat(255)),
            ..Default::default()
        },
    ];
    let unsorted = (!differs("property-order")).then(|| Properties {
        headers: Some(unsorted),
        ..Default::default()
    });
    for properties in each_alone.into_iter().chain([full]).chain(unsorted) {
        publisher.publish(channel, "", &queue, &properties, b"body");
        let delivery = consumer.delivery(receiving);
        assert_eq!(delivery.content.properties(), properties);
        assert_eq!(delivery.content.raw_properties, properties.bytes(), "byte for byte");
        assert_eq!(delivery.content.text(), "body");
        assert_eq!(
            (delivery.exchange.as_str(), delivery.routing_key.as_str()),
            ("", queue.as_str())
        );
    }
    publisher.close();
    consumer.close();
}

#[test]
fn the_two_letters_for_64_bit_integers_mean_the_same() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.declared(&mut client, channel, "letters");
    let headers = Table::from([("n", Value::UpperI64(-5))]);
    client.publish(
        channel,
        "",
        &queue,
        &Properties {
            headers: Some(headers),
            ..Default::default()
        },
        b"",
    );
    crate::case::until_ready(&mut client, channel, &queue, 1);
    let (delivery, _) = client.get(channel, &queue, true).expect("the message");
    let headers = delivery.content.properties().headers.expect("the headers");
    assert!(
        matches!(headers.get("n"), Some(Value::I64(-5) | Value::UpperI64(-5))),
        "{headers:?}"
    );
    client.close();
}

#[test]
fn a_returned_message_is_the_message_sent() {
    let mut client = Client::connect(0);
    let channel = client.channel();
    let body = pattern(300_000);
    let publish = BasicPublish {
        routing_key: "no such queue".into(),
        mandatory: true,
        ..Default::default()
    };
    let properties = every_property();
    client.publish_with(channel, &publish, &properties, &body);
    let (returned, content) = client.expect_content::<BasicReturn>(channel);
    assert_eq!(
        returned,
        BasicReturn {
            code: 312,
            text: "NO_ROUTE".into(),
            exchange: String::new(),
            routing_key: "no such queue".into()
        }
    );
    assert_eq!(content.properties(), properties);
    assert!(content.body == body);
    client.close();
}
