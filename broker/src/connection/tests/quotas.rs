//! Limits of connections and channels, with what other nodes say of theirs.

use bytes::BytesMut;

use super::harness::{Broker, start_ok};
use super::lifecycle::close_text;
use crate::amqp::frame::PROTOCOL_HEADER;
use crate::amqp::{Method, put_method};
use crate::connection::census::Count;
use crate::metadata::{Change, Limits};

fn limits(name: &str, max: i64) -> Limits {
    [(name.to_owned(), max)].into_iter().collect()
}

fn limit_vhost(broker: &mut Broker, max: i64) {
    broker.change(Change::SetVhostLimits {
        vhost: "/".into(),
        limits: limits("max-connections", max),
    });
}

fn limit_user(broker: &mut Broker, name: &str, max: i64) {
    broker.change(Change::SetUserLimits {
        user: "guest".into(),
        limits: limits(name, max),
    });
}

/// A client that has sent connection.open, and what it heard to it.
fn open(broker: &mut Broker) -> (usize, Vec<Method>) {
    let at = broker.connect();
    broker.bytes(at, &PROTOCOL_HEADER);
    broker.send(at, 0, &start_ok("PLAIN", b"\0guest\0guest"));
    let tune = Method::ConnectionTuneOk {
        channel_max: 2047,
        frame_max: 131_072,
        heartbeat: 0,
    };
    broker.send(at, 0, &tune);
    let open = Method::ConnectionOpen {
        virtual_host: "/".into(),
    };
    let heard = broker.call(at, 0, &open);
    (at, heard)
}

#[test]
fn connections_of_all_nodes_count() {
    let mut broker = Broker::new();
    let first = broker.client();
    limit_vhost(&mut broker, 2);
    assert_eq!(open(&mut broker).1, [Method::ConnectionOpenOk {}]);
    let text = "NOT_ALLOWED - access to vhost '/' refused for user 'guest': connection limit (2) is reached";
    assert_eq!(close_text(&open(&mut broker).1), (530, text.to_owned()));
    // Whoever ends makes room.
    broker.clients[first].core.on_lost();
    broker.run();
    broker.elsewhere.vhost = 1;
    assert_eq!(close_text(&open(&mut broker).1), (530, text.to_owned()));
    broker.elsewhere.vhost = 0;
    assert_eq!(open(&mut broker).1, [Method::ConnectionOpenOk {}]);
    limit_vhost(&mut broker, -1);
    limit_user(&mut broker, "max-connections", 2);
    let text = "NOT_ALLOWED - connection refused for user 'guest': user connection limit (2) is reached";
    assert_eq!(close_text(&open(&mut broker).1), (530, text.to_owned()));
    assert_eq!(broker.census.count("/", "guest").user, 2);
}

#[test]
fn what_comes_while_others_are_asked_waits() {
    let mut broker = Broker::new();
    limit_vhost(&mut broker, 2);
    let at = broker.connect();
    broker.bytes(at, &PROTOCOL_HEADER);
    broker.send(at, 0, &start_ok("PLAIN", b"\0guest\0guest"));
    let mut input = BytesMut::new();
    let tune = Method::ConnectionTuneOk {
        channel_max: 2047,
        frame_max: 131_072,
        heartbeat: 0,
    };
    put_method(&mut input, 0, &tune);
    let open = Method::ConnectionOpen {
        virtual_host: "/".into(),
    };
    put_method(&mut input, 0, &open);
    put_method(&mut input, 1, &Method::ChannelOpen {});
    let core = &mut broker.clients[at].core;
    core.begin(1);
    core.on_input(&mut input, 100);
    assert!(!input.is_empty() && !core.wants_input());
    assert_eq!(core.take_effects().len(), 1);
    core.on_count(None, Count::default());
    core.on_input(&mut input, 0);
    assert!(input.is_empty());
    broker.run();
    let heard = broker.clients[at].methods();
    assert!(
        heard.ends_with(&[Method::ConnectionOpenOk {}, Method::ChannelOpenOk {}]),
        "{heard:?}"
    );
}

#[test]
fn channels_of_all_nodes_count() {
    let mut broker = Broker::new();
    let at = broker.channel();
    limit_user(&mut broker, "max-channels", 3);
    assert_eq!(broker.call(at, 2, &Method::ChannelOpen {}), [Method::ChannelOpenOk {}]);
    broker.elsewhere.channels = 1;
    let text =
        "NOT_ALLOWED - number of channels opened for user 'guest' has reached the maximum allowed user limit of (3)";
    let heard = broker.call(at, 3, &Method::ChannelOpen {});
    assert_eq!(close_text(&heard), (530, text.to_owned()));
    assert_eq!(broker.census.count("/", "guest"), Count::default());
}
