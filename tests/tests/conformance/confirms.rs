//! Publisher confirms: one answer for every publish, and nothing lost that was confirmed.

use std::collections::BTreeSet;

use warren_tests::amqp::Client;
use warren_tests::amqp::method::*;
use warren_tests::amqp::wire::Properties;

use crate::case::{Case, bind, consume, counts, delete, durable, quorum};

#[test]
fn publishes_are_numbered_from_one_and_select_may_be_repeated() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.declared(&mut client, channel, "numbered");
    // Not counted: it came before the select.
    client.publish(channel, "", &queue, &Properties::persistent(), b"before");
    client.call(channel, &ConfirmSelect::default());
    for (number, routing_key) in [(1, queue.as_str()), (2, "no such queue"), (3, queue.as_str())] {
        client.publish(channel, "", routing_key, &Properties::persistent(), b"counted");
        assert_eq!(client.expect::<BasicAck>(channel).delivery_tag, number);
        client.call(channel, &ConfirmSelect::default());
    }
    assert_eq!(counts(&mut client, channel, &queue).0, 3);
    client.close();
}

#[test]
fn every_one_of_many_publishes_is_confirmed_and_there() {
    const COUNT: usize = 5000;
    let case = Case::new();
    for kind in ["classic", "quorum", "transient"] {
        let (mut publisher, mut consumer) = (Client::connect(0), Client::connect(1));
        let (channel, receiving) = (publisher.channel(), consumer.channel());
        let queue = case.queue(kind);
        publisher.call(
            channel,
            &match kind {
                "quorum" => quorum(&queue),
                "transient" => QueueDeclare {
                    durable: false,
                    ..durable(&queue)
                },
                _ => durable(&queue),
            },
        );
        publisher.confirm(channel);
        for number in 0..COUNT {
            publisher.publish(
                channel,
                "",
                &queue,
                &Properties::persistent(),
                number.to_string().as_bytes(),
            );
        }
        publisher.confirmed(channel);
        assert_eq!(counts(&mut publisher, channel, &queue).0 as usize, COUNT);
        consumer.call(
            receiving,
            &BasicQos {
                prefetch_count: 500,
                ..Default::default()
            },
        );
        consumer.call(receiving, &consume(&queue, ""));
        for number in 0..COUNT {
            let delivery = consumer.delivery(receiving);
            assert_eq!(delivery.text(), number.to_string(), "{kind}");
            if number % 100 == 99 {
                consumer.send(
                    receiving,
                    &BasicAck {
                        delivery_tag: delivery.tag,
                        multiple: true,
                    },
                );
            }
        }
        publisher.close();
        consumer.close();
    }
}

#[test]
fn several_publishers_at_once_lose_nothing() {
    const EACH: usize = 1000;
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.declared(&mut client, channel, "busy");
    let threads: Vec<_> = (0..6)
        .map(|publisher| {
            let queue = queue.clone();
            std::thread::spawn(move || {
                let mut client = Client::connect(publisher);
                let channel = client.channel();
                client.confirm(channel);
                for number in 0..EACH {
                    let body = format!("{publisher}:{number}");
                    client.publish(channel, "", &queue, &Properties::persistent(), body.as_bytes());
                }
                client.confirmed(channel);
                client.close();
            })
        })
        .collect();
    client.call(channel, &consume(&queue, ""));
    let mut next = [0; 6];
    for _ in 0..6 * EACH {
        let delivery = client.delivery(channel);
        let text = delivery.text();
        let (publisher, number) = text.split_once(':').expect("the publishers' form");
        let publisher: usize = publisher.parse().expect("a number");
        // In order for each publisher, and each exactly once.
        assert_eq!(number, next[publisher].to_string(), "publisher {publisher}");
        next[publisher] += 1;
        client.send(
            channel,
            &BasicAck {
                delivery_tag: delivery.tag,
                multiple: false,
            },
        );
    }
    for thread in threads {
        thread.join().expect("every publish was confirmed");
    }
    client.close();
}

#[test]
fn a_message_to_several_queues_is_confirmed_once_all_have_it() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let fanout = case.declared_exchange(&mut client, channel, "fanout", "fanout");
    let mut queues = vec![];
    for label in ["one", "two", "three"] {
        queues.push(case.bound(&mut client, channel, label, &fanout, ""));
    }
    let transient = case.queue("transient");
    client.call(
        channel,
        &QueueDeclare {
            durable: false,
            ..durable(&transient)
        },
    );
    client.call(channel, &bind(&transient, &fanout, ""));
    queues.push(transient);
    client.confirm(channel);
    for round in 1..=20 {
        client.publish(channel, &fanout, "", &Properties::persistent(), b"to all");
        client.confirmed(channel);
        for queue in &queues {
            assert_eq!(counts(&mut client, channel, queue).0, round, "{queue}");
        }
    }
    assert!(client.pending(channel).is_empty(), "one confirm each");
    client.close();
}

#[test]
fn publishes_to_a_queue_being_deleted_are_acknowledged() {
    let case = Case::new();
    let (mut client, mut deleter) = (Client::connect(0), Client::connect(1));
    let (channel, deleting) = (client.channel(), deleter.channel());
    client.confirm(channel);
    for round in 0..5 {
        let queue = case.declared(&mut client, channel, &format!("doomed{round}"));
        for _ in 0..200 {
            client.publish(channel, "", &queue, &Properties::persistent(), b"either way");
        }
        deleter.call(deleting, &delete(&queue));
        // Panics on a nack, or when a confirm is missing.
        client.confirmed(channel);
    }
    client.close();
    deleter.close();
}

#[test]
fn a_missing_exchange_closes_the_channel_and_earlier_confirms_may_be_lost() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.declared(&mut client, channel, "queue");
    client.call(channel, &ConfirmSelect::default());
    client.publish(channel, "", &queue, &Properties::persistent(), b"fine");
    client.publish(channel, "no such exchange", "", &Properties::persistent(), b"not fine");
    let closed = client.closed(channel);
    closed.channel_error::<BasicPublish>(404, "NOT_FOUND - no exchange 'no such exchange' in vhost '/'");
    let answered: BTreeSet<u64> = client
        .pending(channel)
        .iter()
        .map(|incoming| incoming.get::<BasicAck>().expect("an ack").delivery_tag)
        .collect();
    assert!(answered.is_subset(&BTreeSet::from([1])), "{answered:?}");
    // The number of publishes starts again with the channel.
    client.call(channel, &ChannelOpen::default());
    client.call(channel, &ConfirmSelect::default());
    client.publish(channel, "", &queue, &Properties::persistent(), b"fine");
    assert_eq!(client.expect::<BasicAck>(channel).delivery_tag, 1);
    client.close();
}
