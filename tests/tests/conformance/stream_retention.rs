//! What a stream keeps, what goes from its beginning, and which policies say so.

use std::time::Duration;

use warren_tests::amqp::Client;
use warren_tests::amqp::method::ChannelClose;
use warren_tests::amqp::wire::{Properties, Table, Value};

use crate::case::{Case, ctl, differs, fill};
use crate::streams::{filled, from, offset, read, stream};

/// Publishes until so many bytes have come.
fn publish_bytes(client: &mut Client, queue: &str, bytes: usize) {
    let channel = client.channel();
    client.confirm(channel);
    let body = [b'x'; 1_000];
    for _ in 0..bytes / body.len() {
        client.publish(channel, "", queue, &Properties::persistent(), &body);
        client.confirmed(channel);
    }
}

#[track_caller]
fn first_offset(client: &mut Client, queue: &str) -> i64 {
    let channel = read(client, queue, 1, from("first"));
    let delivery = client.delivery(channel);
    client.call(channel, &ChannelClose::default());
    offset(&delivery)
}

#[test]
fn what_is_more_than_the_stream_may_hold_goes_by_segments() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.queue("bytes");
    let arguments = Table::from([
        ("x-max-length-bytes", Value::from(100_000)),
        ("x-stream-max-segment-size-bytes", 20_000.into()),
    ]);
    client.call(channel, &stream(&queue, arguments));
    publish_bytes(&mut client, &queue, 400_000);
    let first = client.until("the first messages are gone", |client| {
        let first = first_offset(client, &queue);
        (first > 0).then_some(first)
    });
    assert!(first < 400, "the segment that is written stays");
    if !differs("stream-retention") {
        // Not less than may be held.
        assert!(first <= 300, "{first}");
        client.until("little more than may be held is", |client| {
            (first_offset(client, &queue) >= 150).then_some(())
        });
    }
    // A reader that begins before is at the first that is there.
    let channel = read(&mut client, &queue, 1, from(0));
    assert!(offset(&client.delivery(channel)) > 0);
    client.close();
}

#[test]
fn a_segment_that_is_written_stays_whatever_the_limits() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.queue("young");
    let arguments = Table::from([("x-max-length-bytes", Value::from(1_000)), ("x-max-age", "1s".into())]);
    client.call(channel, &stream(&queue, arguments));
    publish_bytes(&mut client, &queue, 30_000);
    client.pump(Duration::from_millis(1_500));
    fill(&mut client, &queue, &["last"]);
    assert_eq!(first_offset(&mut client, &queue), 0);
    client.close();
}

#[test]
fn what_is_too_old_goes_once_a_policy_says_so() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.queue("aged");
    let arguments = Table::from([("x-stream-max-segment-size-bytes", 5_000)]);
    client.call(channel, &stream(&queue, arguments));
    publish_bytes(&mut client, &queue, 50_000);
    assert_eq!(first_offset(&mut client, &queue), 0);
    let name = format!("{}.age", case.prefix());
    ctl(&format!(
        "set_policy --apply-to streams {name} '^{}' '{{\"max-age\":\"1s\"}}'",
        case.prefix()
    ));
    client.until("the first messages are gone", |client| {
        if differs("stream-retention") {
            publish_bytes(client, &queue, 10_000);
        }
        (first_offset(client, &queue) > 0).then_some(())
    });
    ctl(&format!("clear_policy {name}"));
    client.close();
}

#[test]
fn a_policy_bounds_a_stream_whatever_its_arguments_say() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let name = format!("{}.bound", case.prefix());
    let of = |queue: &str, size: u32| {
        let prefix = case.prefix();
        ctl(&format!(
            r#"set_policy --apply-to streams {name}.{queue} '^{prefix}.{queue}' '{{"max-length-bytes":{size}}}'"#
        ));
    };
    of("wide", 100_000_000);
    of("narrow", 5_000);
    let channel = client.channel();
    let (wide, narrow) = (case.queue("wide"), case.queue("narrow"));
    for (queue, size) in [(&wide, 5_000), (&narrow, 100_000_000)] {
        let arguments = Table::from([
            ("x-max-length-bytes", Value::from(size)),
            ("x-stream-max-segment-size-bytes", 5_000.into()),
        ]);
        client.call(channel, &stream(queue, arguments));
    }
    for queue in [&wide, &narrow] {
        publish_bytes(&mut client, queue, 100_000);
    }
    client.until("the first messages are gone", |client| {
        if differs("stream-retention") {
            publish_bytes(client, &wide, 10_000);
            publish_bytes(client, &narrow, 10_000);
        }
        (first_offset(client, &narrow) > 0).then_some(())
    });
    assert_eq!(first_offset(&mut client, &wide), 0);
    for queue in ["wide", "narrow"] {
        ctl(&format!("clear_policy {name}.{queue}"));
    }
    client.close();
}

#[test]
fn policies_that_are_not_for_streams_pass_them_by() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let queue = filled(&case, &mut client, "passed", 1);
    let policy = |definition: &str| {
        let name = format!("{}.p", case.prefix());
        ctl(&format!("set_policy {name} '^{}' '{definition}'", case.prefix()));
        let rows = ctl("-q list_queues name policy");
        let row = rows.lines().find(|line| line.starts_with(&queue)).unwrap_or_default();
        let applies = row.ends_with(&name);
        ctl(&format!("clear_policy {name}"));
        applies
    };
    for definition in [
        r#"{"max-age":"1h"}"#,
        r#"{"max-length-bytes":1000}"#,
        r#"{"stream-max-segment-size-bytes":1000}"#,
        r#"{"stream-filter-size-bytes":16}"#,
        r#"{"initial-cluster-size":3}"#,
        r#"{"queue-leader-locator":"balanced"}"#,
    ] {
        assert!(policy(definition), "{definition}");
    }
    for definition in [
        r#"{"max-length":1}"#,
        r#"{"message-ttl":1}"#,
        r#"{"overflow":"drop-head"}"#,
        r#"{"dead-letter-exchange":"x"}"#,
        r#"{"delivery-limit":1}"#,
        r#"{"target-group-size":3}"#,
    ] {
        assert!(!policy(definition), "{definition}");
    }
    client.close();
}
