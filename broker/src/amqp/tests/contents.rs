//! Content headers and properties: round trip, the glance, replaced headers, nonsense.

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::generate::Generate;
use super::tables::nested;
use crate::amqp::content::{Error, Glance, Header, Properties, glance, with_headers};
use crate::amqp::table::DEPTH_MAX;
use crate::amqp::{ShortStr, Table, Value};

proptest! {
    #[test]
    fn any_properties_survive_the_round_trip(properties in Properties::strategy()) {
        prop_assert_eq!(Properties::decode(&properties.to_bytes()), Ok(properties));
    }

    #[test]
    fn a_glance_sees_what_decoding_sees(properties in Properties::strategy()) {
        let expected = Glance {
            delivery_mode: properties.delivery_mode,
            priority: properties.priority,
            expiration: properties.expiration.clone(),
            reply_to: properties.reply_to.clone(),
            user_id: properties.user_id.clone(),
            headers: properties.headers.as_ref().map(Table::to_bytes),
        };
        prop_assert_eq!(glance(&properties.to_bytes()), Ok(expected));
    }

    #[test]
    fn properties_cut_anywhere_or_with_more_after_them_are_refused(properties in Properties::strategy()) {
        let bytes = properties.to_bytes();
        for len in 0..bytes.len() {
            prop_assert_eq!(glance(&bytes.slice(..len)), Err(Error::Truncated));
            prop_assert_eq!(Properties::decode(&bytes.slice(..len)), Err(Error::Truncated));
        }
        let longer = Bytes::from([&bytes[..], b"\0"].concat());
        prop_assert_eq!(glance(&longer), Err(Error::Trailing));
        prop_assert_eq!(Properties::decode(&longer), Err(Error::Trailing));
    }

    #[test]
    fn nonsense_is_refused_by_both_or_neither(
        flags in any::<u16>(), values in proptest::collection::vec(any::<u8>(), 0..60),
    ) {
        let bytes = Bytes::from([&flags.to_be_bytes()[..], &values].concat());
        check_agreement(&bytes)?;
    }

    #[test]
    fn one_changed_byte_is_refused_by_both_or_neither(
        properties in Properties::strategy(), at in any::<proptest::sample::Index>(), byte in any::<u8>(),
    ) {
        let mut bytes = properties.to_bytes().to_vec();
        let at = at.index(bytes.len());
        bytes[at] = byte;
        check_agreement(&bytes.into())?;
    }

    #[test]
    fn replaced_headers_leave_the_rest_alone(
        properties in Properties::strategy(), headers in proptest::option::of(Table::strategy()), keep in any::<bool>(),
    ) {
        let changed = with_headers(&properties.to_bytes(), headers.as_ref(), keep).expect("well formed");
        let mut expected = properties;
        expected.headers = headers;
        if !keep {
            expected.expiration = None;
        }
        prop_assert_eq!(changed, expected.to_bytes());
    }

    #[test]
    fn any_header_survives_the_round_trip(
        class in any::<u16>(), body_size in any::<u64>(), properties in Properties::strategy(),
    ) {
        let header = Header { class, body_size, properties: properties.to_bytes() };
        let mut payload = BytesMut::new();
        header.encode(&mut payload);
        let payload = payload.freeze();
        let decoded = Header::decode(&payload);
        prop_assert_eq!(decoded.as_ref(), Ok(&header));
        for len in 0..12 {
            prop_assert_eq!(Header::decode(&payload.slice(..len)), Err(Error::Truncated));
        }
    }
}

fn check_agreement(bytes: &Bytes) -> Result<(), TestCaseError> {
    let decoded = Properties::decode(bytes);
    prop_assert_eq!(glance(bytes).err(), decoded.clone().err());
    if let Ok(properties) = decoded {
        prop_assert_eq!(Properties::decode(&properties.to_bytes()), Ok(properties));
    }
    Ok(())
}

#[test]
fn known_properties_have_known_bytes() {
    let properties = Properties {
        content_type: Some("text/plain".into()),
        headers: Some(Table(vec![("k".into(), Value::Bool(true))])),
        delivery_mode: Some(2),
        timestamp: Some(1),
        kind: Some("t".into()),
        cluster_id: Some("".into()),
        ..Properties::default()
    };
    let expected = b"\xb0\x64\x0atext/plain\x00\x00\x00\x04\x01kt\x01\x02\x00\x00\x00\x00\x00\x00\x00\x01\x01t\x00";
    assert_eq!(properties.to_bytes(), &expected[..]);
    assert_eq!(Properties::default().to_bytes(), &b"\0\0"[..]);
}

#[test]
fn a_second_word_of_flags_is_refused() {
    for flags in [1, 3] {
        assert_eq!(glance(&Bytes::from(vec![0, flags])), Err(Error::UnknownFlags));
    }
}

#[test]
fn the_unused_flag_means_nothing() {
    assert_eq!(glance(&Bytes::from_static(b"\0\x02")), Ok(Glance::default()));
    let glance = glance(&Bytes::from_static(b"\x10\x02\x02")).expect("a delivery mode");
    assert_eq!(glance.delivery_mode, Some(2));
}

/// Some publishers put the raw bytes of a UUID into a correlation id, which RabbitMQ passes on as they are.
#[test]
fn strings_that_only_clients_read_need_not_be_text() {
    let bytes = Bytes::from_static(b"\x04\x00\x03a\xff\xfe");
    assert_eq!(glance(&bytes), Ok(Glance::default()));
    let properties = Properties::decode(&bytes).expect("as glance says");
    assert_eq!(properties.correlation_id, ShortStr::new("a\u{fffd}\u{fffd}").ok());
    let headers = Table(vec![("k".into(), Value::Void)]);
    let changed = with_headers(&bytes, Some(&headers), false).expect("as glance says");
    assert_eq!(changed, &b"\x24\x00\x00\x00\x00\x03\x01kV\x03a\xff\xfe"[..]);
}

#[test]
fn strings_that_the_broker_reads_must_be_text() {
    for flag in [0x0200_u16, 0x0100, 0x0010] {
        let bytes = Bytes::from([&flag.to_be_bytes()[..], b"\x01\xff"].concat());
        assert_eq!(glance(&bytes), Err(Error::MalformedUtf8));
        assert_eq!(Properties::decode(&bytes), Err(Error::MalformedUtf8));
    }
}

#[test]
fn headers_must_be_a_table() {
    let bytes = Bytes::from_static(b"\x20\x00\x00\x00\x00\x03\x01kz");
    assert_eq!(glance(&bytes), Err(Error::UnknownFieldType(b'z')));
}

#[test]
fn headers_are_bounded_in_depth_as_tables_are() {
    for is_array in [false, true] {
        for (depth, expected) in [(DEPTH_MAX, None), (DEPTH_MAX + 1, Some(Error::TooDeep))] {
            let headers = Some(nested(depth, is_array));
            let bytes = Properties {
                headers,
                ..Properties::default()
            }
            .to_bytes();
            assert_eq!(glance(&bytes).err(), expected);
            assert_eq!(Properties::decode(&bytes).err(), expected);
        }
    }
}
