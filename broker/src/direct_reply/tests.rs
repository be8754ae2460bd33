use std::sync::Arc;
use std::sync::atomic::Ordering;

use bytes::Bytes;
use warren_proto::record::SessionId;

use super::{Desk, OVERHEAD, QUEUE, Registry, Reply, Token, UNREAD_MAX, is_reply_name};
use crate::queue::client::ChannelId;

const TOKEN: Token = Token {
    session: SessionId {
        node: 3,
        incarnation: u64::MAX,
        id: 77,
    },
    channel: 2_047,
    secret: [9; 16],
};

const CHANNEL: ChannelId = ChannelId {
    number: 2_047,
    opening: 5,
};

fn reply(len: usize) -> Reply {
    Reply {
        token: TOKEN,
        vhost: "/".into(),
        properties: Bytes::new(),
        body: Bytes::from(vec![0; len]),
    }
}

#[test]
fn a_name_says_everything_that_its_token_does() {
    let name = TOKEN.name();
    assert!(name.len() <= 255 && is_reply_name(&name), "{name}");
    assert_eq!(Token::parse(&name), Some(TOKEN));
}

#[test]
fn other_names_are_no_tokens() {
    let name = TOKEN.name();
    let cut = &name[..name.len() - 1];
    let longer = format!("{name}A");
    let padded = format!("{name}=");
    for other in [
        "",
        "q",
        QUEUE,
        "amq.rabbitmq.reply-to.",
        "amq.rabbitmq.reply-to.x",
        cut,
        &longer,
        &padded,
    ] {
        assert_eq!(Token::parse(other), None, "{other}");
    }
}

#[test]
fn a_registration_ends_with_what_holds_it() {
    let registry = Arc::new(Registry::default());
    let desk = Desk::new(Arc::clone(&registry));
    let registration = desk.register(TOKEN, "/".into(), CHANNEL);
    assert!(registry.has(&TOKEN, "/"));
    assert!(!registry.has(&TOKEN, "other"), "a name is good in its vhost alone");
    let guessed = Token {
        secret: [8; 16],
        ..TOKEN
    };
    assert!(!registry.has(&guessed, "/"));
    assert_eq!(registry.admit(reply(1)).map(|admitted| admitted.channel), Some(CHANNEL));
    let elsewhere = Reply {
        vhost: "other".into(),
        ..reply(1)
    };
    assert!(registry.admit(elsewhere).is_none());
    drop(registration);
    assert!(!registry.has(&TOKEN, "/"));
    assert!(registry.admit(reply(1)).is_none());
}

#[test]
fn what_a_client_does_not_read_is_bounded() {
    let registry = Arc::new(Registry::default());
    let mut desk = Desk::new(Arc::clone(&registry));
    let _registration = desk.register(TOKEN, "/".into(), CHANNEL);
    let len = UNREAD_MAX / 4 - OVERHEAD;
    let places: Vec<_> = (0..4)
        .map(|_| registry.admit(reply(len)).expect("it fits").place)
        .collect();
    assert!(registry.admit(reply(0)).is_none());
    assert_eq!(
        desk.unread.load(Ordering::Relaxed),
        UNREAD_MAX,
        "a dropped one takes up nothing"
    );
    for (end, place) in (1..).zip(places) {
        desk.put_out(end * 100, place);
    }
    desk.advance(99);
    assert!(registry.admit(reply(0)).is_none());
    desk.advance(200);
    assert!(registry.admit(reply(2 * len)).is_some());
    desk.advance(400);
    assert_eq!(desk.unread.load(Ordering::Relaxed), 0);
    assert!(registry.admit(reply(2 * UNREAD_MAX)).is_some(), "one alone always fits");
}
