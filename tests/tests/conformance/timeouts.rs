//! Consumers that keep a message for too long.

use warren_tests::amqp::method::*;
use warren_tests::amqp::wire::{Properties, Table};
use warren_tests::amqp::{Client, Login};

use crate::case::{Case, ack, consume, differs, fill, in_queue, prefetch, with};

#[test]
fn the_message_goes_back_and_the_consumer_is_cancelled() {
    if differs("consumer-timeout-tick") {
        return;
    }
    let case = Case::new();
    let mut client = Client::connect(0);
    let (slow, other) = (client.channel(), client.channel());
    let queue = case.queue("queue");
    client.call(
        slow,
        &with(&queue, "quorum", Table::from([("x-consumer-timeout", 150)])),
    );
    client.call(slow, &prefetch(1));
    client.call(slow, &consume(&queue, "slow"));
    fill(&mut client, &queue, &["kept", "next"]);
    let kept = client.delivery(slow);
    assert_eq!(client.expect::<BasicCancel>(slow).consumer_tag, "slow");
    // The channel goes on, and so does the queue.
    client.call(other, &consume(&queue, "other"));
    let again = client.delivery(other);
    assert_eq!((again.text(), again.redelivered), (kept.text(), true));
    let headers = again.content.properties().headers.expect("counts");
    assert!(headers.get("x-acquired-count").is_some());
    assert_eq!(headers.get("x-delivery-count"), None);
    client.send(other, &ack(again.tag));
    let next = client.delivery(other);
    assert_eq!(next.text(), "next");
    client.send(other, &ack(next.tag));
    client.call(slow, &prefetch(0));
    client.close();
}

#[test]
fn a_client_that_cannot_be_told_loses_its_channel() {
    if differs("consumer-timeout-tick") {
        return;
    }
    let case = Case::new();
    let login = Login {
        properties: Table::default(),
        ..Login::default()
    };
    let mut client = login.connect();
    let channel = client.channel();
    let queue = case.queue("queue");
    client.call(channel, &with(&queue, "quorum", Table::default()));
    client.publish(channel, "", &queue, &Properties::persistent(), b"kept");
    let consume = BasicConsume {
        arguments: Table::from([("x-consumer-timeout", 100)]),
        ..consume(&queue, "")
    };
    client.call(channel, &consume);
    client.delivery(channel);
    let closed = client.closed(channel);
    let text = format!(
        "PRECONDITION_FAILED - delivery acknowledgement on channel {channel} timed out. Timeout value used: 100 ms. \
         This timeout value can be configured, see consumers doc guide to learn more"
    );
    assert_eq!((closed.code, closed.text), (406, text));
    client.close();
}

#[test]
fn the_argument_is_for_quorum_queues_and_not_negative() {
    let case = Case::new();
    let mut client = Client::connect(0);
    for (kind, text) in [
        ("classic", "of queue type rabbit_classic_queue"),
        ("quorum", "{value_negative,-1}"),
    ] {
        let channel = client.channel();
        let queue = case.queue(kind);
        client.call(channel, &with(&queue, kind, Table::default()));
        let consume = BasicConsume {
            arguments: Table::from([("x-consumer-timeout", -1)]),
            ..consume(&queue, "")
        };
        let separator = if kind == "classic" { " " } else { ": " };
        let text = format!(
            "PRECONDITION_FAILED - invalid arg 'x-consumer-timeout' for {}{separator}{text}",
            in_queue(&queue)
        );
        client
            .refused(channel, &consume)
            .channel_error::<BasicConsume>(406, &text);
    }
    client.close();
}
