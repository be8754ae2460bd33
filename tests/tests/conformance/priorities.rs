//! Messages that overtake others.

use warren_tests::amqp::Client;
use warren_tests::amqp::method::*;
use warren_tests::amqp::wire::{Properties, Table};

use crate::case::{Case, differs, drain, with};

fn publish(client: &mut Client, channel: u16, queue: &str, priorities: &[Option<u8>]) {
    client.confirm(channel);
    for (priority, number) in priorities.iter().zip(0..) {
        let properties = Properties {
            priority: *priority,
            ..Properties::persistent()
        };
        let body = format!("{number}:{priority:?}");
        client.publish(channel, "", queue, &properties, body.as_bytes());
    }
    client.confirmed(channel);
}

#[test]
fn a_classic_queue_has_the_priorities_it_was_declared_with() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.queue("levels");
    client.call(channel, &with(&queue, "classic", Table::from([("x-max-priority", 5)])));
    let priorities = [None, Some(3), Some(200), Some(5), Some(3), Some(0), Some(1)];
    publish(&mut client, channel, &queue, &priorities);
    let expected = [
        "2:Some(200)",
        "3:Some(5)",
        "1:Some(3)",
        "4:Some(3)",
        "6:Some(1)",
        "0:None",
        "5:Some(0)",
    ];
    assert_eq!(drain(&mut client, channel, &queue), expected);
    client.close();
}

#[test]
fn a_classic_queue_without_priorities_keeps_the_order() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.declared(&mut client, channel, "plain");
    publish(&mut client, channel, &queue, &[None, Some(9), Some(1)]);
    assert_eq!(
        drain(&mut client, channel, &queue),
        ["0:None", "1:Some(9)", "2:Some(1)"]
    );
    client.close();
}

#[test]
fn a_quorum_queue_has_32_priorities_and_no_say_is_4() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.queue("quorum");
    client.call(channel, &with(&queue, "quorum", Table::default()));
    let priorities = [None, Some(4), Some(5), Some(0), Some(255), Some(31), Some(3)];
    publish(&mut client, channel, &queue, &priorities);
    let expected = [
        "4:Some(255)",
        "5:Some(31)",
        "2:Some(5)",
        "0:None",
        "1:Some(4)",
        "6:Some(3)",
        "3:Some(0)",
    ];
    assert_eq!(drain(&mut client, channel, &queue), expected);
    client.close();
}

#[test]
fn a_message_given_back_comes_before_those_of_its_priority() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let stock = differs("requeue-place");
    let kind = if stock { "classic" } else { "quorum" };
    let queue = case.queue("given-back");
    let levels = if stock {
        Table::from([("x-max-priority", 9)])
    } else {
        Table::default()
    };
    client.call(channel, &with(&queue, kind, levels));
    publish(&mut client, channel, &queue, &[Some(7), Some(7), Some(8)]);
    let (highest, _) = client.get(channel, &queue, false).expect("the highest");
    let (first, _) = client.get(channel, &queue, false).expect("the first of the others");
    assert_eq!(
        (highest.text().as_str(), first.text().as_str()),
        ("2:Some(8)", "0:Some(7)")
    );
    for tag in [first.tag, highest.tag] {
        client.send(
            channel,
            &BasicNack {
                delivery_tag: tag,
                multiple: false,
                requeue: true,
            },
        );
    }
    assert_eq!(
        drain(&mut client, channel, &queue),
        ["2:Some(8)", "0:Some(7)", "1:Some(7)"]
    );
    client.close();
}

#[test]
fn bad_levels_are_refused() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let queue = case.queue("bad");
    for (value, term) in [(256, "{max_value_exceeded,256}"), (-1, "{value_negative,-1}")] {
        let channel = client.channel();
        let text = format!(
            "PRECONDITION_FAILED - invalid arg 'x-max-priority' for {}: {term}",
            crate::case::in_queue(&queue)
        );
        client
            .refused(
                channel,
                &with(&queue, "classic", Table::from([("x-max-priority", value)])),
            )
            .channel_error::<QueueDeclare>(406, &text);
    }
    client.close();
}
