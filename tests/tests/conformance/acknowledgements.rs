//! Settling deliveries: ack, nack, reject, recover, and tags that are none.

use warren_tests::amqp::method::*;
use warren_tests::amqp::{Client, Delivery};

use crate::case::{Case, ack, consume, counts, drain, fill, prefetch, until_ready};

fn nack(delivery_tag: u64, multiple: bool, requeue: bool) -> BasicNack {
    BasicNack {
        delivery_tag,
        multiple,
        requeue,
    }
}

fn texts(deliveries: &[Delivery]) -> Vec<(String, bool)> {
    deliveries
        .iter()
        .map(|delivery| (delivery.text(), delivery.redelivered))
        .collect()
}

fn take(client: &mut Client, channel: u16, queue: &str, count: usize) -> Vec<Delivery> {
    (0..count)
        .map(|_| client.get(channel, queue, false).expect("a ready message").0)
        .collect()
}

#[test]
fn an_unknown_delivery_tag_is_a_channel_error() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let setup = client.channel();
    let queue = case.declared(&mut client, setup, "tags");
    fill(&mut client, &queue, &["one", "two"]);
    let held = client.channel();
    client.get(held, &queue, false).expect("two are ready");

    let fresh = client.channel();
    client.send(fresh, &ack(1));
    // The tag is another channel's.
    client
        .closed(fresh)
        .channel_error::<BasicAck>(406, "PRECONDITION_FAILED - unknown delivery tag 1");

    let fresh = client.channel();
    client.send(
        fresh,
        &BasicReject {
            delivery_tag: 99,
            requeue: true,
        },
    );
    client
        .closed(fresh)
        .channel_error::<BasicReject>(406, "PRECONDITION_FAILED - unknown delivery tag 99");

    let fresh = client.channel();
    client.send(fresh, &nack(7, true, true));
    client
        .closed(fresh)
        .channel_error::<BasicNack>(406, "PRECONDITION_FAILED - unknown delivery tag 7");

    let fresh = client.channel();
    client.send(fresh, &ack(0));
    client
        .closed(fresh)
        .channel_error::<BasicAck>(406, "PRECONDITION_FAILED - unknown delivery tag 0");

    client.send(held, &ack(1));
    client.send(held, &ack(1));
    client
        .closed(held)
        .channel_error::<BasicAck>(406, "PRECONDITION_FAILED - unknown delivery tag 1");
    client.close();
}

#[test]
fn tag_zero_with_multiple_means_all_and_may_mean_none() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.declared(&mut client, channel, "all");
    client.send(
        channel,
        &BasicAck {
            delivery_tag: 0,
            multiple: true,
        },
    );
    client.send(channel, &nack(0, true, true));
    client.call(channel, &prefetch(0));
    fill(&mut client, &queue, &["one", "two", "three"]);
    take(&mut client, channel, &queue, 3);
    client.send(
        channel,
        &BasicAck {
            delivery_tag: 0,
            multiple: true,
        },
    );
    client.call(
        channel,
        &ChannelClose {
            code: 200,
            ..Default::default()
        },
    );
    let channel = client.channel();
    assert_eq!(counts(&mut client, channel, &queue), (0, 0));
    client.close();
}

#[test]
fn ack_multiple_settles_everything_up_to_its_tag() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.declared(&mut client, channel, "multiple");
    fill(&mut client, &queue, &["1", "2", "3", "4", "5"]);
    take(&mut client, channel, &queue, 5);
    client.send(channel, &ack(2));
    client.send(
        channel,
        &BasicAck {
            delivery_tag: 3,
            multiple: true,
        },
    );
    client.call(
        channel,
        &ChannelClose {
            code: 200,
            ..Default::default()
        },
    );
    let channel = client.channel();
    until_ready(&mut client, channel, &queue, 2);
    assert_eq!(
        texts(&take(&mut client, channel, &queue, 2)),
        [("4".into(), true), ("5".into(), true)]
    );
    client.close();
}

#[test]
fn nack_and_reject_give_back_or_throw_away() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.declared(&mut client, channel, "refused");
    fill(&mut client, &queue, &["1", "2", "3", "4", "5", "6"]);
    take(&mut client, channel, &queue, 6);
    client.send(
        channel,
        &BasicReject {
            delivery_tag: 1,
            requeue: false,
        },
    );
    client.send(
        channel,
        &BasicReject {
            delivery_tag: 2,
            requeue: true,
        },
    );
    client.send(channel, &nack(3, false, false));
    client.send(channel, &nack(5, true, true));
    client.send(channel, &ack(6));
    until_ready(&mut client, channel, &queue, 3);
    let again = take(&mut client, channel, &queue, 3);
    assert_eq!(
        texts(&again),
        [("2".into(), true), ("4".into(), true), ("5".into(), true)]
    );
    client.send(channel, &nack(0, true, false));
    client.call(
        channel,
        &ChannelClose {
            code: 200,
            ..Default::default()
        },
    );
    let channel = client.channel();
    assert_eq!(counts(&mut client, channel, &queue), (0, 0));
    client.close();
}

#[test]
fn a_requeued_message_goes_back_to_its_place() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.declared(&mut client, channel, "places");
    fill(&mut client, &queue, &["1", "2", "3", "4"]);
    take(&mut client, channel, &queue, 3);
    client.send(
        channel,
        &BasicReject {
            delivery_tag: 2,
            requeue: true,
        },
    );
    client.send(
        channel,
        &BasicReject {
            delivery_tag: 1,
            requeue: true,
        },
    );
    client.send(
        channel,
        &BasicReject {
            delivery_tag: 3,
            requeue: true,
        },
    );
    until_ready(&mut client, channel, &queue, 4);
    assert_eq!(drain(&mut client, channel, &queue), ["1", "2", "3", "4"]);
    client.close();
}

#[test]
fn a_message_once_handed_out_is_redelivered_ever_after() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.declared(&mut client, channel, "again");
    fill(&mut client, &queue, &["one"]);
    client.call(channel, &consume(&queue, ""));
    for round in 1..=5 {
        let delivery = client.delivery(channel);
        assert_eq!((delivery.tag, delivery.redelivered), (round, round > 1));
        client.send(channel, &nack(round, false, true));
    }
    client.close();
    let mut client = Client::connect(1);
    let channel = client.channel();
    until_ready(&mut client, channel, &queue, 1);
    assert!(client.get(channel, &queue, true).expect("the message").0.redelivered);
    client.close();
}

#[test]
fn recover_gives_back_everything_of_the_channel() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.declared(&mut client, channel, "recovered");
    fill(&mut client, &queue, &["1", "2"]);
    client.call(channel, &consume(&queue, ""));
    let first = [client.delivery(channel), client.delivery(channel)];
    assert_eq!(texts(&first), [("1".into(), false), ("2".into(), false)]);
    client.call(channel, &BasicRecover { requeue: true });
    let second = [client.delivery(channel), client.delivery(channel)];
    assert_eq!(texts(&second), [("1".into(), true), ("2".into(), true)]);
    assert_eq!([second[0].tag, second[1].tag], [3, 4]);
    client.send(channel, &BasicRecoverAsync { requeue: true });
    let third = [client.delivery(channel), client.delivery(channel)];
    assert_eq!(texts(&third), [("1".into(), true), ("2".into(), true)]);
    // The tags of before are settled.
    client.send(channel, &ack(5));
    client.send(channel, &ack(1));
    client
        .closed(channel)
        .channel_error::<BasicAck>(406, "PRECONDITION_FAILED - unknown delivery tag 1");
    client.close();
}

#[test]
fn closing_a_channel_gives_back_what_it_held() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let (holding, waiting) = (client.channel(), client.channel());
    let queue = case.declared(&mut client, holding, "held");
    fill(&mut client, &queue, &["1", "2", "3"]);
    client.call(holding, &prefetch(2));
    client.call(holding, &consume(&queue, ""));
    client.delivery(holding);
    client.delivery(holding);
    client.get(holding, &queue, false).expect("one is ready");
    client.call(waiting, &consume(&queue, ""));
    client.send(holding, &ack(1));
    client.call(
        holding,
        &ChannelClose {
            code: 200,
            ..Default::default()
        },
    );
    let given_back = [client.delivery(waiting), client.delivery(waiting)];
    assert_eq!(texts(&given_back), [("2".into(), true), ("3".into(), true)]);
    client.close();
}

#[test]
fn acknowledgements_are_taken_after_cancel() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.declared(&mut client, channel, "late");
    fill(&mut client, &queue, &["1", "2"]);
    client.call(channel, &consume(&queue, "tag"));
    client.delivery(channel);
    client.delivery(channel);
    client.call(
        channel,
        &BasicCancel {
            consumer_tag: "tag".into(),
            nowait: false,
        },
    );
    client.send(channel, &ack(1));
    client.send(
        channel,
        &BasicReject {
            delivery_tag: 2,
            requeue: true,
        },
    );
    until_ready(&mut client, channel, &queue, 1);
    assert_eq!(drain(&mut client, channel, &queue), ["2"]);
    client.close();
}
