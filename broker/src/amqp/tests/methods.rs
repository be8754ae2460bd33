//! Methods: every one of the list goes out and comes back; known bytes; what is no method.

use std::collections::BTreeSet;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;
use proptest::strategy::Union;

use super::generate::Generate;
use crate::amqp::method::{ALL, Error, Method, peek_id, put_method, strategies};
use crate::amqp::{Table, Value, frame};

/// Any method, each as likely as any other.
pub(super) fn any_method() -> impl Strategy<Value = Method> {
    Union::new(strategies().into_iter().map(|(_, strategy)| strategy))
}

pub(super) fn encoded(method: &Method) -> Bytes {
    let mut out = BytesMut::new();
    method.encode(&mut out);
    out.freeze()
}

#[test]
fn the_list_has_every_method_once_and_in_order() {
    let ids: BTreeSet<_> = ALL.iter().map(|&(class, method, _)| (class, method)).collect();
    let names: BTreeSet<_> = ALL.iter().map(|&(_, _, name)| name).collect();
    assert_eq!(
        (ids.len(), names.len(), strategies().len()),
        (ALL.len(), ALL.len(), ALL.len())
    );
    assert!(ALL.is_sorted());
    // 66 with RabbitMQ's extensions: per class connection, channel, access, exchange, queue, basic,
    // confirm, tx.
    let of_class = |class| ALL.iter().filter(|entry| entry.0 == class).count();
    assert_eq!(
        [10, 20, 30, 40, 50, 60, 85, 90].map(of_class),
        [14, 6, 2, 8, 10, 18, 2, 6]
    );
}

#[test]
fn every_method_survives_the_round_trip() {
    for (name, strategy) in strategies() {
        proptest!(ProptestConfig::with_cases(64), |(method in strategy)| {
            prop_assert_eq!(method.name(), name);
            let payload = encoded(&method);
            prop_assert_eq!(peek_id(&payload), Some(method.id()));
            prop_assert_eq!(Method::decode(&payload), Ok(method));
        });
    }
}

#[test]
fn a_method_cut_anywhere_or_with_more_after_it_is_refused() {
    for (_, strategy) in strategies() {
        proptest!(ProptestConfig::with_cases(8), |(method in strategy)| {
            let payload = encoded(&method);
            for len in 0..payload.len() {
                prop_assert_eq!(Method::decode(&payload.slice(..len)), Err(Error::Truncated), "{} of {:?}", len, method);
            }
            let mut longer = payload.to_vec();
            longer.push(0);
            prop_assert_eq!(Method::decode(&longer.into()), Err(Error::Trailing));
        });
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2_000))]

    #[test]
    fn nonsense_is_refused_and_never_a_panic(
        id in proptest::sample::select(ALL),
        arguments in proptest::collection::vec(any::<u8>(), 0..80),
    ) {
        let mut payload = BytesMut::new();
        payload.extend_from_slice(&id.0.to_be_bytes());
        payload.extend_from_slice(&id.1.to_be_bytes());
        payload.extend_from_slice(&arguments);
        if let Ok(method) = Method::decode(&payload.freeze()) {
            prop_assert_eq!(Method::decode(&encoded(&method)), Ok(method));
        }
    }

    #[test]
    fn a_method_with_one_byte_changed_is_refused_or_another_method(
        method in any_method(), at in any::<proptest::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut payload = encoded(&method).to_vec();
        let at = at.index(payload.len());
        payload[at] = byte;
        if let Ok(method) = Method::decode(&payload.into()) {
            prop_assert_eq!(Method::decode(&encoded(&method)), Ok(method));
        }
    }
}

#[test]
fn strings_are_slices_of_the_payload() {
    let payload = encoded(&Method::BasicPublish {
        exchange: "some-exchange".into(),
        routing_key: "some.key".into(),
        mandatory: false,
        immediate: false,
    });
    let Ok(Method::BasicPublish { exchange, .. }) = Method::decode(&payload) else {
        panic!("a publish")
    };
    assert!(payload.as_ptr_range().contains(&exchange.as_bytes().as_ptr()));
    assert!(!payload.as_ptr_range().contains(&exchange.detach().as_bytes().as_ptr()));
}

#[track_caller]
fn check_bytes(method: &Method, expected: &[u8]) {
    assert_eq!(encoded(method), expected, "{method:?}");
    assert_eq!(Method::decode(&Bytes::copy_from_slice(expected)).as_ref(), Ok(method));
}

#[test]
fn known_methods_have_known_bytes() {
    check_bytes(
        &Method::BasicPublish {
            exchange: "ex".into(),
            routing_key: "k".into(),
            mandatory: true,
            immediate: false,
        },
        b"\x00\x3c\x00\x28\x00\x00\x02ex\x01k\x01",
    );
    check_bytes(
        &Method::QueueDeclare {
            queue: "q".into(),
            passive: false,
            durable: true,
            exclusive: false,
            auto_delete: true,
            no_wait: true,
            arguments: Table(vec![("x-expires".into(), Value::I64(1000))]),
        },
        b"\x00\x32\x00\x0a\x00\x00\x01q\x1a\x00\x00\x00\x13\x09x-expiresl\x00\x00\x00\x00\x00\x00\x03\xe8",
    );
    check_bytes(
        &Method::BasicDeliver {
            consumer_tag: "c".into(),
            delivery_tag: 7,
            redelivered: true,
            exchange: "".into(),
            routing_key: "q".into(),
        },
        b"\x00\x3c\x00\x3c\x01c\x00\x00\x00\x00\x00\x00\x00\x07\x01\x00\x01q",
    );
    // What the server sends to refuse publishes: `multiple` is bit 0, `requeue` is bit 1.
    check_bytes(
        &Method::BasicNack {
            delivery_tag: 3,
            multiple: true,
            requeue: true,
        },
        b"\x00\x3c\x00\x78\x00\x00\x00\x00\x00\x00\x00\x03\x03",
    );
    check_bytes(&Method::ExchangeUnbindOk {}, b"\x00\x28\x00\x33");
    check_bytes(
        &Method::ConnectionOpen {
            virtual_host: "/".into(),
        },
        b"\x00\x0a\x00\x28\x01/\x00\x00",
    );
    check_bytes(&Method::ChannelOpenOk {}, b"\x00\x14\x00\x0b\x00\x00\x00\x00");
    check_bytes(
        &Method::ConnectionTune {
            channel_max: 2047,
            frame_max: 131_072,
            heartbeat: 60,
        },
        b"\x00\x0a\x00\x1e\x07\xff\x00\x02\x00\x00\x00\x3c",
    );
}

#[test]
fn reserved_arguments_may_hold_anything() {
    let payload = Bytes::from_static(b"\x00\x0a\x00\x28\x01/\x03abc\x01");
    assert_eq!(
        Method::decode(&payload),
        Ok(Method::ConnectionOpen {
            virtual_host: "/".into()
        })
    );
}

#[test]
fn unknown_methods_are_named() {
    let payload = Bytes::from_static(b"\x00\x3c\x00\x29");
    assert_eq!(Method::decode(&payload), Err(Error::Unknown { class: 60, method: 41 }));
    assert_eq!(
        Method::decode(&Bytes::from_static(b"\x00\x3c\x00")),
        Err(Error::Truncated)
    );
    assert_eq!(peek_id(b"\x00\x3c\x00"), None);
}

#[test]
fn short_strings_must_be_utf_8() {
    let payload = Bytes::from_static(b"\x00\x3c\x00\x28\x00\x00\x02e\xff\x01k\x00");
    assert_eq!(Method::decode(&payload), Err(Error::MalformedUtf8));
}

#[test]
fn a_method_frame_is_framed() {
    let mut out = BytesMut::new();
    put_method(&mut out, 5, &Method::TxSelect {});
    assert_eq!(&out[..], b"\x01\x00\x05\x00\x00\x00\x04\x00\x5a\x00\x0a\xce");
    let frame = frame::decode(&mut out, 4096).expect("a frame").expect("all of it");
    assert_eq!((frame.kind, frame.channel), (frame::Kind::Method, 5));
    assert!(out.is_empty());
}

#[test]
fn only_four_methods_carry_content() {
    let carriers: Vec<_> = strategies()
        .into_iter()
        .filter(|(_, strategy)| {
            let mut runner = proptest::test_runner::TestRunner::deterministic();
            strategy
                .new_tree(&mut runner)
                .expect("an instance")
                .current()
                .has_content()
        })
        .map(|(name, _)| name)
        .collect();
    assert_eq!(
        carriers,
        ["basic.publish", "basic.return", "basic.deliver", "basic.get-ok"]
    );
}

proptest! {
    #[test]
    fn any_short_string_is_cut_to_fit(text in "\\PC{0,300}") {
        let cut = crate::amqp::ShortStr::cut(&text);
        prop_assert!(cut.len() <= 255 && text.starts_with(cut.as_str()));
        prop_assert_eq!(text.len() <= 255, crate::amqp::ShortStr::new(&text).is_ok());
        prop_assert!(text.len() <= 255 || cut.len() > 255 - 4);
    }

    #[test]
    fn short_strings_order_and_hash_as_text_does(
        one in crate::amqp::ShortStr::strategy(), other in crate::amqp::ShortStr::strategy(),
    ) {
        use std::hash::BuildHasher;
        prop_assert_eq!(one.cmp(&other), one.as_str().cmp(other.as_str()));
        let state = std::hash::RandomState::new();
        prop_assert_eq!(state.hash_one(&one), state.hash_one(one.as_str()));
    }
}
