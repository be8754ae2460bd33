use std::net::{Ipv4Addr, Ipv6Addr};

use bytes::BytesMut;

use super::*;

#[test]
fn hashes_are_those_of_rabbitmq() {
    // The example of RabbitMQ's guide to passwords.
    let hash = PasswordHash::new(Algorithm::Sha256, [0x90, 0x8D, 0xC6, 0x0A], b"test12");
    assert_eq!(hash.to_base64(), "kI3GCqW5JLMJa4iX1lo7X4D6XbYqlLgxIs30+P6tENUV2POR");
    let read = PasswordHash::from_base64(Algorithm::Sha256, &hash.to_base64()).expect("what was written can be read");
    assert_eq!(read, hash);
    assert!(read.verify(b"test12"));
    assert!(!read.verify(b"test1"));
    assert!(!read.verify(b""));
}

#[test]
fn hashes_have_the_length_of_their_algorithm() {
    let hash = PasswordHash::new(Algorithm::Sha512, [1, 2, 3, 4], b"x");
    assert_eq!(hash.as_bytes().len(), 68);
    assert!(hash.verify(b"x"));
    assert_eq!(
        PasswordHash::from_bytes(Algorithm::Sha256, hash.as_bytes().clone()),
        None
    );
    assert_eq!(PasswordHash::from_base64(Algorithm::Sha256, "not base64!"), None);
    assert_eq!(PasswordHash::from_base64(Algorithm::Sha256, ""), None);
    assert_eq!(Algorithm::from_name(Algorithm::Sha512.name()), Some(Algorithm::Sha512));
    assert_eq!(Algorithm::from_name("rabbit_password_hashing_md4"), None);
}

#[test]
fn hashes_of_other_brokers_are_known() {
    for (text, algorithm) in [
        ("AQIDBDB9kM21iEUzN1lZ+6VReCsdNqS0sERdAQTcY6Xs3PMz", Algorithm::Sha256),
        (
            "AQIDBPhTH2L5HGYB1LWOrn+YpvuQmVOXKGqgsuiJRIZTILRoEvblSJo/WAsym3IZTfuaIaK5KR2o5KwFfTv6KsxfMIE=",
            Algorithm::Sha512,
        ),
        ("AQIDBDgk9ci8Lfh6CKE9Y0AUfmU=", Algorithm::Md5),
    ] {
        let hash = PasswordHash::of_any_algorithm(text).expect("a hash");
        assert_eq!((hash.algorithm(), hash.to_base64()), (algorithm, text.to_owned()));
        assert!(hash.verify(b"secret") && !hash.verify(b"Secret"));
        assert_eq!(Algorithm::from_name(algorithm.name()), Some(algorithm));
    }
    assert_eq!(PasswordHash::of_any_algorithm("AQIDBA=="), None);
}

#[test]
fn plain_responses() {
    let parse = |response: &'static [u8]| {
        let credentials = Credentials::parse(Mechanism::Plain, &Bytes::from_static(response)).ok()?;
        Some((credentials.user, credentials.password))
    };
    let login = |user: &str, password: &'static [u8]| Some((user.to_owned(), Bytes::from_static(password)));
    assert_eq!(parse(b"\0guest\0guest"), login("guest", b"guest"));
    assert_eq!(parse(b"\0guest\0\xFF\xFE"), login("guest", b"\xFF\xFE"));
    assert_eq!(parse(b"\0guest\0"), login("guest", b""));
    assert_eq!(parse(b"\0\0"), login("", b""));
    assert_eq!(parse(b""), None);
    assert_eq!(parse(b"guest"), None);
    assert_eq!(parse(b"\0guest"), None);
    assert_eq!(parse(b"other\0guest\0guest"), None);
    assert_eq!(parse(b"\0guest\0guest\0more"), None);
    assert_eq!(parse(b"\0\xFF\0guest"), None);
}

#[test]
fn amqplain_responses() {
    let response = |fields: Vec<(&'static str, Value)>| {
        let mut out = BytesMut::new();
        Table(fields.into_iter().map(|(name, value)| (name.into(), value)).collect()).encode(&mut out);
        // Without the length.
        out.freeze().slice(4..)
    };
    let text = |text: &'static str| Value::LongStr(text.into());
    let parse = |response: Bytes| Credentials::parse(Mechanism::Amqplain, &response);
    let credentials = parse(response(vec![("LOGIN", text("guest")), ("PASSWORD", text("secret"))])).expect("a login");
    assert_eq!(
        (credentials.user.as_str(), &credentials.password[..]),
        ("guest", &b"secret"[..])
    );
    assert!(!format!("{credentials:?}").contains("secret"));
    let malformed = Err(Malformed(Mechanism::Amqplain));
    assert_eq!(parse(response(vec![("LOGIN", text("guest"))])), malformed);
    assert_eq!(
        parse(response(vec![("LOGIN", Value::I32(1)), ("PASSWORD", text("secret"))])),
        malformed
    );
    assert_eq!(parse(Bytes::from_static(b"\xFF")), malformed);
    assert_eq!(parse(Bytes::new()), malformed);
}

#[test]
fn guests_stay_on_this_machine() {
    let loopback = ["guest"];
    let check = |user, peer: IpAddr, allowed| assert_eq!(may_connect_from(user, peer, &loopback), allowed);
    check("guest", Ipv4Addr::LOCALHOST.into(), true);
    check("guest", Ipv4Addr::new(127, 5, 5, 5).into(), true);
    check("guest", Ipv6Addr::LOCALHOST.into(), true);
    check("guest", Ipv4Addr::LOCALHOST.to_ipv6_mapped().into(), true);
    check("guest", Ipv4Addr::new(10, 0, 0, 1).into(), false);
    check("guest", Ipv4Addr::new(10, 0, 0, 1).to_ipv6_mapped().into(), false);
    check("other", Ipv4Addr::new(10, 0, 0, 1).into(), true);
    assert!(may_connect_from::<&str>(
        "guest",
        Ipv4Addr::new(10, 0, 0, 1).into(),
        &[]
    ));
}
