//! What fuzzing starts from: streams a client or this broker really sends.
//!
//! The files are made from the values below; `UPDATE_EXPECT=1 cargo test` rewrites them.

use std::path::PathBuf;

use bytes::{Bytes, BytesMut};

use crate::amqp::content::{Properties, put_content};
use crate::amqp::frame::{self, Frame, Kind};
use crate::amqp::method::{ALL, Method, put_method};
use crate::amqp::{Table, Value};

const FRAME_MAX: u32 = 4096;

/// A field of every type, each also inside an array and a table.
fn every_type() -> Table {
    let values = vec![
        Value::Bool(true),
        Value::I8(-1),
        Value::U8(1),
        Value::I16(-2),
        Value::U16(2),
        Value::I32(-3),
        Value::U32(3),
        Value::I64(-4),
        Value::F32(1.5),
        Value::F64(-1.5),
        Value::Decimal { scale: 2, value: 314 },
        Value::LongStr(Bytes::from_static(b"text")),
        Value::Timestamp(1_700_000_000),
        Value::ByteArray(Bytes::from_static(b"\x00\xff")),
        Value::Void,
    ];
    let mut table: Table = values
        .iter()
        .map(|value| (value.type_name().into(), value.clone()))
        .collect();
    let inner = table.clone();
    table.insert("array", values);
    table.insert("table", inner);
    table
}

fn every_property() -> Bytes {
    Properties {
        content_type: Some("application/json".into()),
        content_encoding: Some("gzip".into()),
        headers: Some(every_type()),
        delivery_mode: Some(2),
        priority: Some(5),
        correlation_id: Some("c-1".into()),
        reply_to: Some("amq.rabbitmq.reply-to".into()),
        expiration: Some("60000".into()),
        message_id: Some("m-1".into()),
        timestamp: Some(1_700_000_000),
        kind: Some("order".into()),
        user_id: Some("guest".into()),
        app_id: Some("shop".into()),
        cluster_id: Some("".into()),
    }
    .to_bytes()
}

fn handshake(out: &mut BytesMut) {
    let mut client_properties = Table::new();
    let mut capabilities = Table::new();
    capabilities.insert("consumer_cancel_notify", true);
    client_properties.insert("product", "client");
    client_properties.insert("capabilities", capabilities);
    let start_ok = Method::ConnectionStartOk {
        client_properties,
        mechanism: "PLAIN".into(),
        response: Bytes::from_static(b"\0guest\0guest"),
        locale: "en_US".into(),
    };
    put_method(out, 0, &start_ok);
    put_method(
        out,
        0,
        &Method::ConnectionTuneOk {
            channel_max: 2047,
            frame_max: 131_072,
            heartbeat: 60,
        },
    );
    put_method(
        out,
        0,
        &Method::ConnectionOpen {
            virtual_host: "/".into(),
        },
    );
    put_method(out, 1, &Method::ChannelOpen {});
    frame::put_heartbeat(out);
}

fn declarations(out: &mut BytesMut) {
    let mut arguments = Table::new();
    arguments.insert("x-queue-type", "quorum");
    arguments.insert("x-delivery-limit", 20);
    let declare = Method::QueueDeclare {
        queue: "orders".into(),
        passive: false,
        durable: true,
        exclusive: false,
        auto_delete: false,
        no_wait: false,
        arguments,
    };
    put_method(out, 1, &declare);
    let bind = Method::QueueBind {
        queue: "orders".into(),
        exchange: "amq.headers".into(),
        routing_key: "".into(),
        no_wait: true,
        arguments: every_type(),
    };
    put_method(out, 1, &bind);
}

fn publishes(out: &mut BytesMut) {
    for (properties, len) in [(every_property(), 10), (Bytes::from_static(b"\0\0"), 0)] {
        let publish = Method::BasicPublish {
            exchange: "amq.topic".into(),
            routing_key: "orders.eu.new".into(),
            mandatory: true,
            immediate: false,
        };
        put_method(out, 1, &publish);
        put_content(out, 1, &properties, &Bytes::from(vec![b'x'; len]), FRAME_MAX);
    }
    put_method(
        out,
        1,
        &Method::BasicNack {
            delivery_tag: 2,
            multiple: true,
            requeue: true,
        },
    );
}

/// Each method with zero for every argument, which is a valid one for all of them.
fn every_method(out: &mut BytesMut) {
    for (class, method, name) in ALL {
        let mut payload = BytesMut::from(&class.to_be_bytes()[..]);
        payload.extend_from_slice(&method.to_be_bytes());
        while Method::decode(&payload.clone().freeze()).is_err() {
            payload.extend_from_slice(&[0]);
            assert!(payload.len() < 64, "{name} has no instance of zeros");
        }
        Frame {
            kind: Kind::Method,
            channel: 1,
            payload: payload.freeze(),
        }
        .encode(out);
    }
}

#[track_caller]
fn check(name: &str, fill: impl FnOnce(&mut BytesMut)) {
    let mut bytes = BytesMut::new();
    fill(&mut bytes);
    let path = [env!("CARGO_MANIFEST_DIR"), "fuzz", "corpus", "frame", name]
        .iter()
        .collect::<PathBuf>();
    if std::env::var_os("UPDATE_EXPECT").is_some() {
        std::fs::write(&path, &bytes).expect("a place to write seeds to");
    }
    let kept = std::fs::read(&path).expect("the seed");
    assert!(
        kept == bytes,
        "{name} is not what it is made from; rewrite it with UPDATE_EXPECT=1"
    );
}

#[test]
fn seeds_are_what_they_are_made_from() {
    check("seed-handshake", handshake);
    check("seed-declarations", declarations);
    check("seed-publishes", publishes);
    check("seed-every-method", every_method);
    check("seed-properties", |out| out.extend_from_slice(&every_property()));
    check("seed-table", |out| every_type().encode(out));
}
