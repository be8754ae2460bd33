//! Queues of type stream: what they are, where their readers begin, what an acknowledgement means.

use std::time::{Duration, SystemTime, UNIX_EPOCH};

use warren_tests::amqp::method::*;
use warren_tests::amqp::wire::{Properties, Table, Value};
use warren_tests::amqp::{Client, Delivery};

use crate::case::{
    Case, ack, consume, counts, ctl, delete, differs, durable, fill, in_queue, ours_or_stock, prefetch, until_ready,
    with,
};

/// In which nothing more arrives, after everything that was to arrive has.
const QUIET: Duration = Duration::from_millis(300);

pub(crate) fn stream(queue: &str, arguments: Table) -> QueueDeclare {
    with(queue, "stream", arguments)
}

fn numbers(range: std::ops::Range<usize>) -> Vec<String> {
    range.map(|number| number.to_string()).collect()
}

/// A stream of the messages 0, 1, 2, ..., one by one: RabbitMQ hands out what was published together from its start on.
#[track_caller]
pub(crate) fn filled(case: &Case, client: &mut Client, label: &str, messages: usize) -> String {
    let channel = client.channel();
    let queue = case.queue(label);
    client.call(channel, &stream(&queue, Table::default()));
    for body in numbers(0..messages) {
        fill(client, &queue, &[&body]);
    }
    queue
}

fn reader(queue: &str, tag: &str, arguments: Table) -> BasicConsume {
    BasicConsume {
        arguments,
        ..consume(queue, tag)
    }
}

pub(crate) fn from(offset: impl Into<Value>) -> Table {
    Table::from([("x-stream-offset", offset.into())])
}

/// A channel that reads from there on.
#[track_caller]
pub(crate) fn read(client: &mut Client, queue: &str, credit: u16, arguments: Table) -> u16 {
    let channel = client.channel();
    client.call(channel, &prefetch(credit));
    client.call(channel, &reader(queue, "", arguments));
    channel
}

pub(crate) fn offset(delivery: &Delivery) -> i64 {
    let headers = delivery.content.properties().headers.unwrap_or_default();
    match headers.get("x-stream-offset") {
        Some(Value::I64(offset)) => *offset,
        other => panic!("no offset: {other:?}"),
    }
}

/// The next deliveries, none of which may be said to come again, each acknowledged.
#[track_caller]
fn take(client: &mut Client, channel: u16, messages: usize) -> Vec<String> {
    let mut bodies = Vec::new();
    for _ in 0..messages {
        let delivery = client.delivery(channel);
        assert!(!delivery.redelivered);
        client.send(channel, &ack(delivery.tag));
        bodies.push(delivery.text());
    }
    bodies
}

#[track_caller]
fn nothing_more(client: &mut Client, channel: u16) {
    client.pump(QUIET);
    let pending = client.pending(channel);
    assert!(pending.is_empty(), "{pending:?}");
}

#[test]
fn what_a_stream_can_be() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let queue = case.queue("shaped");
    let shapes = [
        (
            "non-durable",
            QueueDeclare {
                durable: false,
                ..stream(&queue, Table::default())
            },
        ),
        (
            "exclusive-owner",
            QueueDeclare {
                exclusive: true,
                ..stream(&queue, Table::default())
            },
        ),
        (
            "auto-delete",
            QueueDeclare {
                auto_delete: true,
                ..stream(&queue, Table::default())
            },
        ),
    ];
    for (property, declare) in shapes {
        let channel = client.channel();
        let text = format!(
            "PRECONDITION_FAILED - invalid property '{property}' for {}",
            in_queue(&queue)
        );
        client
            .refused(channel, &declare)
            .channel_error::<QueueDeclare>(406, &text);
    }
    let channel = client.channel();
    client
        .refused(channel, &stream("", Table::default()))
        .channel_error::<QueueDeclare>(
            406,
            "PRECONDITION_FAILED - Cannot declare a server-named queue for type rabbit_stream_queue",
        );
    client.close();
}

#[test]
fn what_a_stream_is_told() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let queue = case.queue("told");
    let of = |key: &str, term: &str| {
        format!(
            "PRECONDITION_FAILED - invalid arg '{key}' for {}: {term}",
            in_queue(&queue)
        )
    };
    let foreign = |key: &str, kind: &str| {
        let queue = in_queue(&queue);
        format!("PRECONDITION_FAILED - invalid arg '{key}' for {queue} of queue type rabbit_{kind}_queue")
    };
    let refused: Vec<(&str, &str, Value, String)> = vec![
        ("stream", "x-max-age", "1H".into(), of("x-max-age", "invalid_max_age")),
        ("stream", "x-max-age", "0s".into(), of("x-max-age", "invalid_max_age")),
        (
            "stream",
            "x-max-age",
            5.into(),
            of("x-max-age", "{unacceptable_type,signedint}"),
        ),
        (
            "stream",
            "x-max-length-bytes",
            (-1).into(),
            of("x-max-length-bytes", "{value_negative,-1}"),
        ),
        (
            "stream",
            "x-initial-cluster-size",
            0.into(),
            of("x-initial-cluster-size", "{value_zero,0}"),
        ),
        (
            "stream",
            "x-stream-max-segment-size-bytes",
            Value::I64(3_000_000_001),
            "PRECONDITION_FAILED - Exceeded max value for x-stream-max-segment-size-bytes".into(),
        ),
        (
            "stream",
            "x-stream-filter-size-bytes",
            15.into(),
            "PRECONDITION_FAILED - Invalid value for x-stream-filter-size-bytes".into(),
        ),
        (
            "stream",
            "x-queue-leader-locator",
            "z".into(),
            of("x-queue-leader-locator", "invalid_queue_locator_arg"),
        ),
        ("stream", "x-max-length", 1.into(), foreign("x-max-length", "stream")),
        ("stream", "x-message-ttl", 1.into(), foreign("x-message-ttl", "stream")),
        ("stream", "x-expires", 1.into(), foreign("x-expires", "stream")),
        (
            "stream",
            "x-single-active-consumer",
            true.into(),
            foreign("x-single-active-consumer", "stream"),
        ),
        ("classic", "x-max-age", "1h".into(), foreign("x-max-age", "classic")),
        ("quorum", "x-max-age", "1h".into(), foreign("x-max-age", "quorum")),
        (
            "quorum",
            "x-initial-cluster-size",
            1.into(),
            foreign("x-initial-cluster-size", "quorum"),
        ),
    ];
    for (kind, key, value, text) in refused {
        let channel = client.channel();
        let declare = with(&queue, kind, Table::from([(key, value)]));
        client
            .refused(channel, &declare)
            .channel_error::<QueueDeclare>(406, &text);
    }
    let channel = client.channel();
    let arguments = |age: &str| {
        Table::from([
            ("x-max-age", Value::from(age)),
            ("x-max-length-bytes", 1_000_000.into()),
            ("x-stream-filter-size-bytes", 16.into()),
            ("x-initial-cluster-size", 3.into()),
            ("x-queue-leader-locator", "balanced".into()),
        ])
    };
    client.call(channel, &stream(&queue, arguments("1h")));
    client.call(channel, &stream(&queue, arguments("60m")));
    let text = format!(
        "PRECONDITION_FAILED - inequivalent arg 'x-max-age' for {}: received '7200000' but current is '3600000'",
        in_queue(&queue)
    );
    client
        .refused(channel, &stream(&queue, arguments("2h")))
        .channel_error::<QueueDeclare>(406, &text);
    client.close();
}

#[test]
fn what_a_stream_does_not_do() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let queue = filled(&case, &mut client, "limited", 1);
    let text = |method: &str| {
        let queue = in_queue(&queue);
        format!("NOT_IMPLEMENTED - {method} not supported by stream queues {queue}")
    };
    client.close();

    let mut client = Client::connect(0);
    let channel = client.channel();
    let get = BasicGet {
        queue: queue.clone(),
        ..Default::default()
    };
    client.send(channel, &get);
    client
        .closed(channel)
        .connection_error::<BasicGet>(540, &text("basic.get"));

    let mut client = Client::connect(0);
    let channel = client.channel();
    let purge = QueuePurge {
        queue: queue.clone(),
        ..Default::default()
    };
    client
        .refused(channel, &purge)
        .connection_error::<QueuePurge>(540, &text("queue.purge"));

    let mut client = Client::connect(0);
    let channel = client.channel();
    client.call(channel, &prefetch(1));
    let careless = BasicConsume {
        no_ack: true,
        ..consume(&queue, "")
    };
    let text = format!(
        "NOT_IMPLEMENTED - automatic acknowledgement not supported by stream {}",
        in_queue(&queue)
    );
    client
        .refused(channel, &careless)
        .connection_error::<BasicConsume>(540, &text);

    let mut client = Client::connect(0);
    let channel = client.channel();
    let text = format!(
        "PRECONDITION_FAILED - consumer prefetch count is not set for stream {}",
        in_queue(&queue)
    );
    client
        .refused(channel, &consume(&queue, ""))
        .channel_error::<BasicConsume>(406, &text);
    client.close();
}

#[test]
fn what_a_reader_may_ask_for() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let queue = filled(&case, &mut client, "asked", 0);
    let foreign = |queue: &str, key: &str, kind: &str| {
        let queue = in_queue(queue);
        format!("PRECONDITION_FAILED - invalid arg '{key}' for {queue} of queue type rabbit_{kind}_queue")
    };
    let position = |value: &str| {
        let queue = in_queue(&queue);
        format!(
            "PRECONDITION_FAILED - invalid arg 'x-stream-offset' for {queue}: \
             {{invalid_stream_offset_arg,{{longstr,{value}}}}}"
        )
    };
    let refused = [
        ("x-priority", Value::from(5), foreign(&queue, "x-priority", "stream")),
        (
            "x-consumer-timeout",
            5_000.into(),
            foreign(&queue, "x-consumer-timeout", "stream"),
        ),
        ("x-stream-offset", "foo".into(), position("<<\"foo\">>")),
        ("x-stream-offset", "5".into(), position("<<\"5\">>")),
        ("x-stream-offset", "1H".into(), position("<<\"1H\">>")),
        ("x-stream-offset", "".into(), position("<<>>")),
    ];
    for (key, value, text) in refused {
        // Before it is seen that there is no prefetch limit.
        let channel = client.channel();
        client
            .refused(channel, &reader(&queue, "", Table::from([(key, value)])))
            .channel_error::<BasicConsume>(406, &text);
    }
    for kind in ["classic", "quorum"] {
        let channel = client.channel();
        let other = case.queue(kind);
        client.call(channel, &with(&other, kind, Table::default()));
        for (key, value) in [
            ("x-stream-offset", Value::from("first")),
            ("x-stream-filter", "a".into()),
            ("x-stream-match-unfiltered", true.into()),
        ] {
            let refused = client.channel();
            client
                .refused(refused, &reader(&other, "", Table::from([(key, value)])))
                .channel_error::<BasicConsume>(406, &foreign(&other, key, kind));
        }
    }
    client.close();
}

#[test]
fn a_reader_begins_where_it_asks_to() {
    let case = Case::new();
    let (mut near, mut far) = (Client::connect(0), Client::connect(1));
    let queue = filled(&case, &mut near, "positions", 10);
    let now_s = SystemTime::now()
        .duration_since(UNIX_EPOCH)
        .expect("the clock is past 1970")
        .as_secs();
    let starts = [
        (Value::from("first"), 0),
        ("last".into(), 9),
        ("next".into(), 10),
        (0.into(), 0),
        (5.into(), 5),
        (Value::I64(9), 9),
        ((-1).into(), 0),
        ("1h".into(), 0),
        ("1D".into(), 0),
        (Value::Timestamp(now_s - 100), 0),
        (Value::Timestamp(now_s + 100), 10),
    ];
    let mut channels = Vec::new();
    for (start, expected) in starts {
        let channel = read(&mut far, &queue, 3, from(start));
        channels.push((channel, expected));
    }
    let channel = read(&mut far, &queue, 3, Table::default());
    channels.push((channel, 10));
    fill(&mut near, &queue, &["10"]);
    for (channel, expected) in channels {
        for number in expected..11 {
            let delivery = far.delivery(channel);
            assert_eq!((delivery.text(), offset(&delivery)), (number.to_string(), number));
            assert!(!delivery.redelivered);
            far.send(channel, &ack(delivery.tag));
        }
        let pending = far.pending(channel);
        assert!(pending.is_empty(), "{pending:?}");
    }
    near.close();
    far.close();
}

#[test]
fn a_reader_that_begins_ahead_waits_for_its_offset() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let queue = filled(&case, &mut client, "ahead", 2);
    let channel = read(&mut client, &queue, 5, from(4));
    for body in ["2", "3", "4", "5"] {
        fill(&mut client, &queue, &[body]);
    }
    assert_eq!(take(&mut client, channel, 2), ["4", "5"]);
    client.close();
}

#[test]
fn what_is_read_stays() {
    let case = Case::new();
    let (mut near, mut far) = (Client::connect(0), Client::connect(2));
    let queue = filled(&case, &mut near, "stays", 20);
    for client in [&mut near, &mut far] {
        for _ in 0..2 {
            let channel = read(client, &queue, 4, from("first"));
            assert_eq!(take(client, channel, 20), numbers(0..20));
            nothing_more(client, channel);
        }
    }
    let channel = near.channel();
    until_ready(&mut near, channel, &queue, 20);
    near.close();
    far.close();
}

#[test]
fn settling_only_gives_credit() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let queue = filled(&case, &mut client, "credit", 12);
    let channel = read(&mut client, &queue, 2, from("first"));
    let mut next = 0;
    let mut pair = |client: &mut Client| {
        let two = [client.delivery(channel), client.delivery(channel)];
        for delivery in &two {
            assert_eq!((delivery.text(), delivery.redelivered), (next.to_string(), false));
            next += 1;
        }
        nothing_more(client, channel);
        two.map(|delivery| delivery.tag)
    };
    let [first, second] = pair(&mut client);
    for (tag, requeue) in [(first, true), (second, false)] {
        client.send(
            channel,
            &BasicNack {
                delivery_tag: tag,
                requeue,
                ..Default::default()
            },
        );
    }
    let [first, second] = pair(&mut client);
    for (delivery_tag, requeue) in [(first, false), (second, true)] {
        client.send(channel, &BasicReject { delivery_tag, requeue });
    }
    let [_, last] = pair(&mut client);
    client.send(
        channel,
        &BasicAck {
            delivery_tag: last,
            multiple: true,
        },
    );
    pair(&mut client);
    client.call(channel, &BasicRecover { requeue: true });
    pair(&mut client);
    // In a transaction it is given by the commit.
    let tx = read(&mut client, &queue, 1, from(3));
    client.call(tx, &TxSelect::default());
    let delivery = client.delivery(tx);
    client.send(tx, &ack(delivery.tag));
    nothing_more(&mut client, tx);
    client.call(tx, &TxCommit::default());
    assert_eq!(client.delivery(tx).text(), "4");
    client.close();
}

#[test]
fn a_cancelled_reader_gets_nothing_more_and_takes_nothing_along() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let queue = filled(&case, &mut client, "cancelled", 6);
    let channel = client.channel();
    client.call(channel, &prefetch(2));
    client.call(channel, &reader(&queue, "reader", from("first")));
    let delivery = client.delivery(channel);
    client.delivery(channel);
    let cancel = BasicCancel {
        consumer_tag: "reader".into(),
        ..Default::default()
    };
    client.call(channel, &cancel);
    client.send(
        channel,
        &BasicAck {
            delivery_tag: delivery.tag,
            multiple: false,
        },
    );
    nothing_more(&mut client, channel);
    // Under the same name, from elsewhere.
    client.call(channel, &reader(&queue, "reader", from(4)));
    assert_eq!(client.delivery(channel).text(), "4");
    client.close();
}

#[test]
fn readers_of_one_channel_are_independent_and_none_is_exclusive() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let queue = filled(&case, &mut client, "several", 4);
    let channel = client.channel();
    client.call(channel, &prefetch(10));
    let readers = [("a", 0), ("b", 2)];
    for (tag, first) in readers {
        let alone = BasicConsume {
            exclusive: true,
            ..reader(&queue, tag, from(first))
        };
        client.call(channel, &alone);
    }
    let mut got = Vec::new();
    for _ in 0..6 {
        let delivery = client.delivery(channel);
        client.send(channel, &ack(delivery.tag));
        got.push((delivery.consumer_tag.clone(), delivery.text()));
    }
    got.sort();
    let expected = [("a", "0"), ("a", "1"), ("a", "2"), ("a", "3"), ("b", "2"), ("b", "3")];
    assert_eq!(got, expected.map(|(tag, body)| (tag.to_owned(), body.to_owned())));
    client.close();
}

#[test]
fn a_stream_keeps_a_message_as_it_was_but_for_the_offset() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let queue = filled(&case, &mut client, "kept", 0);
    let channel = client.channel();
    client.confirm(channel);
    let properties = Properties {
        headers: Some(Table::from([("x-stream-offset", Value::from("mine")), ("k", 1.into())])),
        content_type: Some("text/plain".into()),
        expiration: Some("1".into()),
        priority: Some(5),
        delivery_mode: Some(2),
        message_id: Some("id".into()),
        ..Default::default()
    };
    client.publish(channel, "", &queue, &properties, b"body");
    client.confirmed(channel);
    client.pump(QUIET);
    let channel = read(&mut client, &queue, 1, from("first"));
    let delivery = client.delivery(channel);
    assert_eq!(
        (delivery.text(), delivery.routing_key.as_str()),
        ("body".to_owned(), queue.as_str())
    );
    assert_eq!(offset(&delivery), 0);
    let mut received = delivery.content.properties();
    let headers = received.headers.take().unwrap_or_default();
    assert_eq!(headers.0.iter().filter(|(key, _)| key == "x-stream-offset").count(), 1);
    assert_eq!(headers.get("k"), Some(&Value::I32(1)));
    assert_eq!(
        received,
        Properties {
            headers: None,
            ..properties
        }
    );
    client.close();
}

#[test]
fn a_reader_gets_what_matches_its_filter() {
    let case = Case::new();
    let (mut near, mut far) = (Client::connect(0), Client::connect(1));
    let queue = filled(&case, &mut near, "filtered", 0);
    let channel = near.channel();
    near.confirm(channel);
    for (number, value) in ["a", "b", "", "c", "a", ""].into_iter().cycle().take(60).enumerate() {
        let headers = match value {
            "" => Table::default(),
            value => Table::from([("x-stream-filter-value", value)]),
        };
        let properties = Properties {
            headers: Some(headers),
            ..Properties::persistent()
        };
        near.publish(channel, "", &queue, &properties, number.to_string().as_bytes());
        near.confirmed(channel);
    }
    let list = |values: &[&str]| Value::Array(values.iter().map(|value| Value::from(*value)).collect());
    let cases = [
        (Value::from("a"), false, vec![0, 4]),
        ("b".into(), false, vec![1]),
        (list(&["a", "c"]), false, vec![0, 3, 4]),
        ("b".into(), true, vec![1, 2, 5]),
        ("nobody".into(), true, vec![2, 5]),
        ("".into(), false, vec![2, 5]),
        // What is no text filters nothing.
        (5.into(), false, vec![0, 1, 2, 3, 4, 5]),
    ];
    for (filter, unfiltered, matching) in cases {
        let mut arguments = from("first");
        arguments.0.push(("x-stream-filter".to_owned(), filter.clone()));
        arguments
            .0
            .push(("x-stream-match-unfiltered".to_owned(), unfiltered.into()));
        let channel = read(&mut far, &queue, 3, arguments);
        let expected = (0..60).filter(|number| matching.contains(&(number % 6)));
        for number in expected {
            let delivery = far.delivery(channel);
            assert_eq!(
                (delivery.text(), offset(&delivery)),
                (number.to_string(), number),
                "{filter:?}"
            );
            far.send(channel, &ack(delivery.tag));
        }
        nothing_more(&mut far, channel);
    }
    near.close();
    far.close();
}

#[test]
fn a_stream_is_deleted_with_all_that_is_in_it() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let queue = filled(&case, &mut client, "deleted", 5);
    let channel = read(&mut client, &queue, 1, from("first"));
    client.delivery(channel);
    if !differs("delete-conditions") {
        for (if_unused, if_empty, reason) in [(true, false, "in use"), (false, true, "not empty")] {
            let other = client.channel();
            let careful = QueueDelete {
                if_unused,
                if_empty,
                ..delete(&queue)
            };
            let text = format!("PRECONDITION_FAILED - {} {reason}", in_queue(&queue));
            client.refused(other, &careful).channel_error::<QueueDelete>(406, &text);
        }
    }
    let other = client.channel();
    let messages = client.call(other, &delete(&queue)).messages;
    assert_eq!(messages, ours_or_stock("stream-counts", 5, 0));
    let cancel: BasicCancel = client.expect(channel);
    assert!(!cancel.consumer_tag.is_empty());
    assert_eq!(client.call(other, &durable(&queue)).messages, 0);
    client.close();
}

#[test]
fn the_last_message_is_one() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let queue = filled(&case, &mut client, "last", 0);
    fill(&mut client, &queue, &["0", "1", "2", "3", "4"]);
    let channel = read(&mut client, &queue, 10, from("last"));
    let first = offset(&client.delivery(channel));
    if differs("stream-last") {
        assert!(first <= 4);
    } else {
        assert_eq!(first, 4);
        nothing_more(&mut client, channel);
    }
    client.close();
}

#[test]
fn what_is_no_position_at_all_is_refused_as_one() {
    if differs("stream-offset-types") {
        return;
    }
    let case = Case::new();
    let mut client = Client::connect(0);
    let queue = filled(&case, &mut client, "typed", 0);
    for (value, term) in [
        (Value::Bool(true), "{bool,true}"),
        (Value::Void, "{void,undefined}"),
        (Value::F64(1.5), "{double,1.5}"),
    ] {
        let channel = client.channel();
        let text = format!(
            "PRECONDITION_FAILED - invalid arg 'x-stream-offset' for {}: {{invalid_stream_offset_arg,{term}}}",
            in_queue(&queue)
        );
        client
            .refused(channel, &reader(&queue, "", from(value)))
            .channel_error::<BasicConsume>(406, &text);
    }
    client.close();
}

#[test]
fn a_stream_shows_what_it_holds() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let queue = filled(&case, &mut client, "listed", 3);
    let channel = read(&mut client, &queue, 2, from("first"));
    client.delivery(channel);
    let row = client.until("it counts its messages", |_| {
        let rows = ctl("-q list_queues name type messages messages_ready messages_unacknowledged consumers durable");
        let row = rows.lines().find(|line| line.starts_with(&queue))?;
        let columns: Vec<String> = row.split('\t').skip(1).map(str::to_owned).collect();
        (columns[1] == "3" && columns[4] == "1").then_some(columns)
    });
    assert_eq!(row, ["stream", "3", "3", "0", "1", "true"]);
    let consumers = ours_or_stock("stream-counts", 1, 0);
    assert_eq!(counts(&mut client, channel, &queue), (3, consumers));
    client.close();
}

#[test]
fn a_deep_stream_is_read_from_any_place() {
    const MESSAGES: usize = 20_000;
    let case = Case::new();
    let (mut near, mut far) = (Client::connect(0), Client::connect(1));
    let queue = filled(&case, &mut near, "deep", 0);
    let channel = near.channel();
    near.confirm(channel);
    for body in numbers(0..MESSAGES) {
        near.publish(channel, "", &queue, &Properties::persistent(), body.as_bytes());
    }
    near.confirmed(channel);
    for first in [0, 1, 4_999, 12_345, MESSAGES - 1] {
        let channel = read(&mut far, &queue, 500, from(first as i32));
        let mut last = None;
        for number in first..MESSAGES.min(first + 3_000) {
            let delivery = far.delivery(channel);
            assert_eq!(
                (delivery.text(), offset(&delivery)),
                (number.to_string(), number as i64)
            );
            last = Some(delivery.tag);
            if number % 100 == 99 {
                let delivery_tag = delivery.tag;
                far.send(
                    channel,
                    &BasicAck {
                        delivery_tag,
                        multiple: true,
                    },
                );
            }
        }
        assert!(last.is_some());
        far.send(channel, &ChannelClose::default());
        far.pump(Duration::from_millis(10));
        far.close();
        far = Client::connect(1);
    }
    near.close();
    far.close();
}
