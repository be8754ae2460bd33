//! Queues that may not grow: x-max-length, x-max-length-bytes, x-overflow.

use warren_tests::amqp::Client;
use warren_tests::amqp::method::*;
use warren_tests::amqp::wire::{Properties, Table};

use crate::case::{Case, ack, bind, consume, counts, drain, fill, prefetch, with};

#[test]
fn a_full_queue_drops_its_oldest_messages() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    for kind in ["classic", "quorum"] {
        let queue = case.queue(kind);
        let arguments = Table::from([("x-max-length", 3)]);
        client.call(channel, &with(&queue, kind, arguments));
        fill(&mut client, &queue, &["1", "2", "3", "4", "5"]);
        assert_eq!(drain(&mut client, channel, &queue), ["3", "4", "5"], "{kind}");
    }
    client.close();
}

#[test]
fn a_queue_of_no_length_keeps_nothing() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.queue("none");
    client.call(channel, &with(&queue, "classic", Table::from([("x-max-length", 0)])));
    fill(&mut client, &queue, &["lost"]);
    assert_eq!(counts(&mut client, channel, &queue), (0, 0));
    // Whoever waits gets it.
    client.call(channel, &consume(&queue, ""));
    client.publish(channel, "", &queue, &Properties::default(), b"taken");
    assert_eq!(client.delivery(channel).text(), "taken");
    client.close();
}

#[test]
fn bytes_of_bodies_count() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.queue("bytes");
    let arguments = Table::from([("x-max-length-bytes", 10)]);
    client.call(channel, &with(&queue, "classic", arguments));
    fill(&mut client, &queue, &["four", "fore", "two"]);
    assert_eq!(drain(&mut client, channel, &queue), ["fore", "two"]);
    fill(&mut client, &queue, &["exactly 10", "more than 10"]);
    assert_eq!(counts(&mut client, channel, &queue).0, 0);
    client.close();
}

#[test]
fn what_consumers_hold_does_not_count() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let (channel, consuming) = (client.channel(), client.channel());
    let queue = case.queue("held");
    client.call(channel, &with(&queue, "classic", Table::from([("x-max-length", 1)])));
    client.call(consuming, &prefetch(2));
    client.call(consuming, &consume(&queue, ""));
    fill(&mut client, &queue, &["1", "2", "3", "4"]);
    assert_eq!(client.delivery(consuming).text(), "1");
    let second = client.delivery(consuming);
    assert_eq!(second.text(), "2");
    client.send(consuming, &ack(second.tag));
    assert_eq!(client.delivery(consuming).text(), "4");
    client.close();
}

#[test]
fn a_full_queue_that_rejects_nacks() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let (full, roomy) = (case.queue("full"), case.declared(&mut client, channel, "roomy"));
    let mut arguments = Table::from([("x-overflow", "reject-publish")]);
    arguments.0.extend(Table::from([("x-max-length", 2)]).0);
    client.call(channel, &with(&full, "classic", arguments));
    client.call(channel, &ConfirmSelect::default());
    let fanout = case.declared_exchange(&mut client, channel, "fanout", "fanout");
    for queue in [&full, &roomy] {
        client.call(channel, &bind(queue, &fanout, ""));
    }
    for number in 1..=2 {
        client.publish(channel, &fanout, "", &Properties::persistent(), b"fits");
        assert_eq!(client.expect::<BasicAck>(channel).delivery_tag, number);
    }
    // One refusal is enough, and there is exactly one answer.
    client.publish(channel, &fanout, "", &Properties::persistent(), b"does not fit");
    assert_eq!(client.expect::<BasicNack>(channel).delivery_tag, 3);
    client.publish(channel, "", &roomy, &Properties::persistent(), b"fits");
    assert_eq!(client.expect::<BasicAck>(channel).delivery_tag, 4);
    assert_eq!(counts(&mut client, channel, &full).0, 2);
    // Room again.
    assert!(client.get(channel, &full, true).is_some());
    client.publish(channel, "", &full, &Properties::persistent(), b"fits again");
    assert_eq!(client.expect::<BasicAck>(channel).delivery_tag, 5);
    client.close();
}

#[test]
fn without_confirms_a_rejected_publish_is_dropped_silently() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.queue("silent");
    let mut arguments = Table::from([("x-overflow", "reject-publish")]);
    arguments.0.extend(Table::from([("x-max-length", 1)]).0);
    client.call(channel, &with(&queue, "classic", arguments));
    for body in ["first", "second"] {
        client.publish(channel, "", &queue, &Properties::default(), body.as_bytes());
    }
    assert_eq!(drain(&mut client, channel, &queue), ["first"]);
    assert!(client.pending(channel).is_empty());
    client.close();
}

#[test]
fn a_rejected_publish_may_go_to_the_dead_letters() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let (queue, dead) = (case.queue("dlx"), case.declared(&mut client, channel, "dead"));
    let mut arguments = Table::from([
        ("x-overflow", "reject-publish-dlx"),
        ("x-dead-letter-exchange", ""),
        ("x-dead-letter-routing-key", dead.as_str()),
    ]);
    arguments.0.extend(Table::from([("x-max-length", 1)]).0);
    client.call(channel, &with(&queue, "classic", arguments));
    client.call(channel, &ConfirmSelect::default());
    client.publish(channel, "", &queue, &Properties::persistent(), b"fits");
    assert_eq!(client.expect::<BasicAck>(channel).delivery_tag, 1);
    client.publish(channel, "", &queue, &Properties::persistent(), b"does not");
    assert_eq!(client.expect::<BasicNack>(channel).delivery_tag, 2);
    client.call(channel, &consume(&dead, ""));
    let delivery = client.delivery(channel);
    assert_eq!(delivery.text(), "does not");
    let headers = delivery.content.properties().headers.expect("a history");
    assert_eq!(headers.get("x-first-death-reason"), Some(&"maxlen".into()));
    client.close();
}
