//! Queues that serve one consumer at a time.

use warren_tests::amqp::Client;
use warren_tests::amqp::method::*;
use warren_tests::amqp::wire::{Properties, Table};

use crate::case::{Case, ack, consume, fill, in_queue, prefetch, with};

fn single() -> Table {
    Table::from([("x-single-active-consumer", true)])
}

#[test]
fn the_next_consumer_is_served_when_the_active_one_ends() {
    let case = Case::new();
    for kind in ["classic", "quorum"] {
        let (mut first, mut second) = (Client::connect(0), Client::connect(1));
        let (active, waiting) = (first.channel(), second.channel());
        let queue = case.queue(kind);
        first.call(active, &with(&queue, kind, single()));
        first.call(active, &consume(&queue, "active"));
        second.call(waiting, &consume(&queue, "waiting"));
        fill(&mut first, &queue, &["1", "2", "3"]);
        for number in ["1", "2", "3"] {
            let delivery = first.delivery(active);
            assert_eq!(delivery.text(), number, "{kind}");
            first.send(active, &ack(delivery.tag));
        }
        let cancel = BasicCancel {
            consumer_tag: "active".into(),
            ..Default::default()
        };
        first.call(active, &cancel);
        fill(&mut first, &queue, &["4"]);
        let delivery = second.delivery(waiting);
        assert_eq!(delivery.text(), "4", "{kind}");
        second.send(waiting, &ack(delivery.tag));
        assert!(second.pending(waiting).is_empty());
        first.close();
        second.close();
    }
}

#[test]
fn the_end_of_a_connection_hands_over_what_it_held() {
    let case = Case::new();
    let (mut first, mut second) = (Client::connect(0), Client::connect(1));
    let (active, waiting) = (first.channel(), second.channel());
    let queue = case.queue("handed-over");
    first.call(active, &with(&queue, "quorum", single()));
    first.call(active, &consume(&queue, ""));
    second.call(waiting, &consume(&queue, ""));
    fill(&mut first, &queue, &["held"]);
    assert!(!first.delivery(active).redelivered);
    first.close();
    let delivery = second.delivery(waiting);
    assert_eq!((delivery.text().as_str(), delivery.redelivered), ("held", true));
    second.send(waiting, &ack(delivery.tag));
    second.close();
}

#[test]
fn a_higher_priority_takes_over_from_an_idle_consumer() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let (low, high) = (client.channel(), client.channel());
    let queue = case.queue("priority");
    client.call(low, &with(&queue, "quorum", single()));
    client.call(low, &prefetch(1));
    client.call(low, &consume(&queue, "low"));
    fill(&mut client, &queue, &["1", "2"]);
    let delivery = client.delivery(low);
    assert_eq!(delivery.text(), "1");
    let consume = BasicConsume {
        arguments: Table::from([("x-priority", 10)]),
        ..consume(&queue, "high")
    };
    client.call(high, &consume);
    // Only once it has settled what it holds.
    client.send(low, &ack(delivery.tag));
    assert_eq!(client.delivery(high).text(), "2");
    client.close();
}

#[test]
fn get_is_not_for_such_quorum_queues() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let classic = case.queue("classic");
    client.call(channel, &with(&classic, "classic", single()));
    client.publish(channel, "", &classic, &Properties::persistent(), b"got");
    assert!(client.get(channel, &classic, true).is_some());
    let queue = case.queue("quorum");
    client.call(channel, &with(&queue, "quorum", single()));
    let get = BasicGet {
        queue: queue.clone(),
        ..Default::default()
    };
    client.send(channel, &get);
    let text = format!(
        "RESOURCE_LOCKED - cannot obtain access to locked {}. basic.get operations are not supported by <<\"quorum\">> queues \
         with single active consumer",
        in_queue(&queue)
    );
    client.closed(channel).channel_error::<BasicGet>(405, &text);
    client.close();
}

#[test]
fn the_argument_is_a_bool() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.queue("bad");
    let text = format!(
        "PRECONDITION_FAILED - invalid arg 'x-single-active-consumer' for {}: {{unacceptable_type,longstr}}",
        in_queue(&queue)
    );
    let arguments = Table::from([("x-single-active-consumer", "yes")]);
    client
        .refused(channel, &with(&queue, "classic", arguments))
        .channel_error::<QueueDeclare>(406, &text);
    client.close();
}
