//! Queues that want no duplicates: `x-message-deduplication`, by the header `x-deduplication-header`.

use warren_tests::amqp::Client;
use warren_tests::amqp::method::*;
use warren_tests::amqp::wire::{Properties, Table, Value};

use crate::case::{Case, ack, counts, differs, drain, with};

fn keyed(key: impl Into<Value>) -> Properties {
    Properties {
        headers: Some(Table::from([("x-deduplication-header", key.into())])),
        ..Properties::persistent()
    }
}

/// A queue of that type that wants no duplicates, and a channel in confirm mode. `None` for a stock broker, of which
/// this is no part.
#[track_caller]
fn begin(case: &Case, kind: &str) -> Option<(Client, u16, String)> {
    if differs("deduplication") {
        return None;
    }
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.queue(kind);
    let arguments = Table::from([("x-message-deduplication", true)]);
    client.call(channel, &with(&queue, kind, arguments));
    client.confirm(channel);
    Some((client, channel, queue))
}

#[test]
fn what_is_in_the_queue_is_not_taken_again() {
    let case = Case::new();
    for kind in ["classic", "quorum"] {
        let Some((mut client, channel, queue)) = begin(&case, kind) else {
            return;
        };
        for (key, body) in [("a", "1"), ("a", "2"), ("b", "3"), ("a", "4")] {
            client.publish(channel, "", &queue, &keyed(key), body.as_bytes());
        }
        for (key, body) in [(7, "5"), (7, "6")] {
            client.publish(channel, "", &queue, &keyed(key), body.as_bytes());
        }
        // Without the header there is nothing to tell by.
        for body in ["7", "8"] {
            client.publish(channel, "", &queue, &Properties::persistent(), body.as_bytes());
        }
        client.confirmed(channel);
        assert_eq!(counts(&mut client, channel, &queue).0, 5, "{kind}");

        // Another node's clients are told the same.
        let mut other = Client::connect(1);
        let second = other.channel();
        other.confirm(second);
        other.publish(second, "", &queue, &keyed("b"), b"9");
        other.confirmed(second);
        other.close();
        assert_eq!(drain(&mut client, channel, &queue), ["1", "3", "5", "7", "8"], "{kind}");
        client.close();
    }
}

#[test]
fn it_may_come_again_once_it_is_gone() {
    let case = Case::new();
    for kind in ["classic", "quorum"] {
        let Some((mut client, channel, queue)) = begin(&case, kind) else {
            return;
        };
        let publish = |client: &mut Client, body: &str| {
            client.publish(channel, "", &queue, &keyed("a"), body.as_bytes());
            client.confirmed(channel);
        };
        publish(&mut client, "1");
        let (held, _) = client.get(channel, &queue, false).expect("a message");
        publish(&mut client, "2");
        assert_eq!(counts(&mut client, channel, &queue).0, 0, "{kind}: it is still held");
        client.send(channel, &ack(held.tag));
        publish(&mut client, "3");
        assert_eq!(drain(&mut client, channel, &queue), ["3"], "{kind}");
        publish(&mut client, "4");
        let purge = QueuePurge {
            queue: queue.clone(),
            ..Default::default()
        };
        assert_eq!(client.call(channel, &purge).messages, 1);
        publish(&mut client, "5");
        assert_eq!(drain(&mut client, channel, &queue), ["5"], "{kind}");
        client.close();
    }
}
