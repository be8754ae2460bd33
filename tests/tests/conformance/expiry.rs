//! Messages and queues whose time is over.

use warren_tests::amqp::Client;
use warren_tests::amqp::method::*;
use warren_tests::amqp::wire::{Properties, Table};

use crate::case::{Case, ack, consume, counts, differs, drain, durable, in_queue, passive, until_ready, with};

fn expiring(text: &str) -> Properties {
    Properties {
        expiration: Some(text.into()),
        ..Properties::persistent()
    }
}

/// Publishes, and waits until the broker has it.
#[track_caller]
fn put(client: &mut Client, channel: u16, queue: &str, properties: &Properties, body: &str) {
    client.confirm(channel);
    client.publish(channel, "", queue, properties, body.as_bytes());
    client.confirmed(channel);
}

#[test]
fn a_message_expires_by_its_own_time() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    for kind in ["classic", "quorum"] {
        let queue = case.queue(kind);
        client.call(channel, &with(&queue, kind, Table::default()));
        put(&mut client, channel, &queue, &expiring("60"), "short");
        put(&mut client, channel, &queue, &expiring("600000"), "long");
        until_ready(&mut client, channel, &queue, 1);
        assert_eq!(drain(&mut client, channel, &queue), ["long"], "{kind}");
    }
    client.close();
}

#[test]
fn a_message_expires_where_it_stands() {
    if differs("expiry-in-the-middle") {
        return;
    }
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.declared(&mut client, channel, "middle");
    for (time, body) in [("600000", "1"), ("80", "2"), ("600000", "3"), ("40", "4")] {
        put(&mut client, channel, &queue, &expiring(time), body);
    }
    until_ready(&mut client, channel, &queue, 2);
    assert_eq!(drain(&mut client, channel, &queue), ["1", "3"]);
    client.close();
}

#[test]
fn the_shorter_of_the_queues_and_the_messages_time_holds() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let short = case.queue("short");
    client.call(channel, &with(&short, "classic", Table::from([("x-message-ttl", 60)])));
    put(&mut client, channel, &short, &expiring("600000"), "");
    put(&mut client, channel, &short, &Properties::persistent(), "");
    until_ready(&mut client, channel, &short, 0);
    let long = case.queue("long");
    client.call(
        channel,
        &with(&long, "classic", Table::from([("x-message-ttl", 600_000)])),
    );
    put(&mut client, channel, &long, &expiring("60"), "short");
    put(&mut client, channel, &long, &Properties::persistent(), "long");
    until_ready(&mut client, channel, &long, 1);
    assert_eq!(drain(&mut client, channel, &long), ["long"]);
    client.close();
}

#[test]
fn without_time_a_message_is_for_whoever_waits() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let (channel, consuming) = (client.channel(), client.channel());
    let queue = case.declared(&mut client, channel, "now");
    put(&mut client, channel, &queue, &expiring("0"), "nobody");
    assert_eq!(counts(&mut client, channel, &queue).0, 0);
    client.call(consuming, &consume(&queue, ""));
    client.publish(channel, "", &queue, &expiring("0"), b"somebody");
    let delivery = client.delivery(consuming);
    assert_eq!(delivery.text(), "somebody");
    // The property is as it was published.
    assert_eq!(delivery.content.properties().expiration.as_deref(), Some("0"));
    client.send(consuming, &ack(delivery.tag));
    client.close();
}

#[test]
fn a_held_message_does_not_expire_until_it_is_given_back() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.declared(&mut client, channel, "held");
    let witness = case.declared(&mut client, channel, "witness");
    put(&mut client, channel, &queue, &expiring("60"), "held");
    let (held, _) = client.get(channel, &queue, false).expect("it has just come");
    put(&mut client, channel, &witness, &expiring("60"), "");
    until_ready(&mut client, channel, &witness, 0);
    let reject = BasicReject {
        delivery_tag: held.tag,
        requeue: true,
    };
    client.send(channel, &reject);
    assert!(client.get(channel, &queue, true).is_none());
    client.close();
}

#[test]
fn a_bad_expiration_is_refused() {
    let case = Case::new();
    let mut client = Client::connect(0);
    for (text, term) in [
        ("", "no_integer"),
        ("soon", "no_integer"),
        ("10s", "{leftover_string,\"s\"}"),
        ("-1", "{value_negative,-1}"),
        ("315360000001", "{value_too_large,315360000001}"),
        (" 1", "no_integer"),
        ("1 ", "{leftover_string,\" \"}"),
        ("1.5", "{leftover_string,\".5\"}"),
        ("0x10", "{leftover_string,\"x10\"}"),
    ] {
        let channel = client.channel();
        let queue = case.declared(&mut client, channel, &format!("bad{}", text.len()));
        client.publish(channel, "", &queue, &expiring(text), b"");
        let text = format!("PRECONDITION_FAILED - invalid expiration '{text}': {term}");
        client.closed(channel).channel_error::<BasicPublish>(406, &text);
    }
    client.close();
}

#[test]
fn a_queue_ends_some_time_after_its_last_use() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let kinds: &[&str] = if differs("queue-expiry-tick") {
        &["classic"]
    } else {
        &["classic", "quorum"]
    };
    for kind in kinds {
        let channel = client.channel();
        let queue = case.queue(kind);
        let declare = with(&queue, kind, Table::from([("x-expires", 250)]));
        client.call(channel, &declare);
        // As long as somebody consumes it stays, however long that is.
        client.call(channel, &consume(&queue, "user"));
        let witness = case.queue(&format!("{kind}-witness"));
        client.call(
            channel,
            &with(&witness, "classic", Table::from([("x-message-ttl", 500)])),
        );
        put(&mut client, channel, &witness, &Properties::persistent(), "");
        until_ready(&mut client, channel, &witness, 0);
        assert_eq!(counts(&mut client, channel, &queue).1, 1, "{kind}");
        let cancel = BasicCancel {
            consumer_tag: "user".into(),
            ..Default::default()
        };
        client.call(channel, &cancel);
        // Asking after it would be a use: another queue tells the time.
        let clock = case.queue(&format!("{kind}-clock"));
        client.call(channel, &with(&clock, "classic", Table::from([("x-message-ttl", 900)])));
        put(&mut client, channel, &clock, &Properties::persistent(), "");
        until_ready(&mut client, channel, &clock, 0);
        client
            .refused(channel, &passive(&queue))
            .channel_error::<QueueDeclare>(404, &format!("NOT_FOUND - no {}", in_queue(&queue)));
    }
    client.close();
}

#[test]
fn a_queue_that_nobody_ever_used_ends_as_well() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let name = case.queue("transient");
    let arguments = Table::from([("x-expires", 100)]);
    let declare = QueueDeclare {
        arguments,
        exclusive: true,
        durable: false,
        ..durable(&name)
    };
    client.call(channel, &declare);
    let clock = case.queue("clock");
    client.call(channel, &with(&clock, "classic", Table::from([("x-message-ttl", 600)])));
    put(&mut client, channel, &clock, &Properties::persistent(), "");
    until_ready(&mut client, channel, &clock, 0);
    client
        .refused(channel, &passive(&name))
        .channel_error::<QueueDeclare>(404, &format!("NOT_FOUND - no {}", in_queue(&name)));
    client.close();
}
