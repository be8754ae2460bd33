//! Opening, erring, closing and using channels again; and answers in the order of the questions.

use warren_tests::amqp::method::*;
use warren_tests::amqp::wire::Properties;
use warren_tests::amqp::{Client, Frame};

use crate::case::{Case, ack, bind, counts, delete, durable, fill, passive, prefetch, until_ready};

#[test]
fn a_method_on_a_channel_never_opened_ends_the_connection() {
    let mut client = Client::connect(0);
    client
        .refused(7, &prefetch(1))
        .connection_error::<BasicQos>(504, "CHANNEL_ERROR - expected 'channel.open'");
}

#[test]
fn opening_a_channel_twice_ends_the_connection() {
    let mut client = Client::connect(0);
    let channel = client.channel();
    client
        .refused(channel, &ChannelOpen::default())
        .connection_error::<ChannelOpen>(504, "CHANNEL_ERROR - second 'channel.open' seen");
}

#[test]
fn a_channel_method_on_channel_0_ends_the_connection() {
    for bytes in [
        Frame::method(0, &prefetch(1)).bytes(),
        Frame::method(0, &durable("queue")).bytes(),
    ] {
        let mut client = Client::connect(0);
        client.socket.send(&bytes);
        client
            .closed(0)
            .connection_error_like(504, &["CHANNEL_ERROR - unexpected method in connection state running"]);
    }
}

#[test]
fn what_a_channel_may_not_say_is_unimplemented() {
    let text = "COMMAND_INVALID - unimplemented method";
    let mut client = Client::connect(0);
    let channel = client.channel();
    client.send(channel, &ConnectionClose::default());
    client.closed(0).connection_error::<ConnectionClose>(503, text);
    let mut client = Client::connect(0);
    let channel = client.channel();
    client.send(channel, &ChannelCloseOk {});
    client.closed(0).connection_error::<ChannelCloseOk>(503, text);
}

#[test]
fn a_handshake_method_after_the_handshake_ends_the_connection() {
    let mut client = Client::connect(0);
    client.send(
        0,
        &ConnectionTuneOk {
            channel_max: 1,
            frame_max: 8192,
            heartbeat: 0,
        },
    );
    client
        .closed(0)
        .connection_error_like(504, &["CHANNEL_ERROR - unexpected method in connection state running"]);
}

#[test]
fn flow_and_access_are_answered() {
    let mut client = Client::connect(0);
    let channel = client.channel();
    assert_eq!(
        client.call(channel, &ChannelFlow { active: true }),
        ChannelFlowOk { active: true }
    );
    let request = AccessRequest {
        realm: "/data".into(),
        active: true,
        ..Default::default()
    };
    assert_eq!(client.call(channel, &request), AccessRequestOk { ticket: 1 });
    client.close();
}

#[test]
fn channel_numbers_need_not_be_consecutive() {
    let mut client = Client::connect(0);
    for channel in [2047, 5, 1000] {
        client.call(channel, &ChannelOpen::default());
        client.call(channel, &prefetch(1));
    }
    client.close();
}

#[test]
fn a_channel_error_leaves_the_other_channels_alone() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let (failing, steady) = (client.channel(), client.channel());
    let queue = case.declared(&mut client, steady, "steady");
    client.refused(failing, &passive("no such queue"));
    assert_eq!(counts(&mut client, steady, &queue), (0, 0));
    client.close();
}

#[test]
fn after_an_error_a_channel_is_deaf_until_close_ok() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let (channel, other) = (client.channel(), client.channel());
    let queue = case.queue("never-made");
    client.send(channel, &passive("no such queue"));
    // Everything on the way when the error happened is dropped: methods, and messages with their content.
    client.send(channel, &durable(&queue));
    client.publish(channel, "no such exchange", "", &Properties::default(), b"lost");
    let close = client.expect::<ChannelClose>(channel);
    assert_eq!((close.code, close.class, close.method), (404, 50, 10));
    client.send(channel, &durable(&queue));
    client.send(channel, &ChannelCloseOk::default());
    client.call(channel, &ChannelOpen::default());
    client.refused(channel, &passive(&queue));
    client.call(other, &prefetch(1));
    client.close();
}

#[test]
fn closes_that_cross_are_both_answered() {
    let mut client = Client::connect(0);
    let channel = client.channel();
    client.send(channel, &passive("no such queue"));
    client.send(
        channel,
        &ChannelClose {
            code: 200,
            ..Default::default()
        },
    );
    client.expect::<ChannelClose>(channel);
    client.expect::<ChannelCloseOk>(channel);
    client.send(channel, &ChannelCloseOk::default());
    client.call(channel, &ChannelOpen::default());
    client.call(channel, &prefetch(1));
    client.close();
}

#[test]
fn a_closed_channel_can_be_opened_again_with_a_clean_slate() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.declared(&mut client, channel, "again");
    fill(&mut client, &queue, &["one", "two"]);
    for _ in 0..3 {
        let (delivery, _) = client.get(channel, &queue, false).expect("a message is ready");
        assert_eq!(delivery.tag, 1, "delivery tags start again");
        client.call(
            channel,
            &ChannelClose {
                code: 200,
                ..Default::default()
            },
        );
        client.call(channel, &ChannelOpen::default());
        until_ready(&mut client, channel, &queue, 2);
    }
    // A tag of the channel's former life is unknown.
    client.send(channel, &ack(1));
    client
        .closed(channel)
        .channel_error::<BasicAck>(406, "PRECONDITION_FAILED - unknown delivery tag 1");
    client.close();
}

#[test]
fn a_method_after_close_ok_ends_the_connection() {
    let mut client = Client::connect(0);
    let channel = client.channel();
    client.call(
        channel,
        &ChannelClose {
            code: 200,
            ..Default::default()
        },
    );
    client
        .refused(channel, &prefetch(1))
        .connection_error::<BasicQos>(504, "CHANNEL_ERROR - expected 'channel.open'");
}

#[test]
fn pipelined_methods_are_answered_in_order() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let (queue, exchange) = (case.queue("pipelined"), case.exchange("pipelined"));
    let channel = 9;
    let publish = BasicPublish {
        exchange: exchange.clone(),
        routing_key: "key".into(),
        ..Default::default()
    };
    let mut bytes = Vec::new();
    bytes.extend(Frame::method(channel, &ChannelOpen::default()).bytes());
    bytes.extend(Frame::method(channel, &crate::case::exchange(&exchange, "direct")).bytes());
    bytes.extend(Frame::method(channel, &durable(&queue)).bytes());
    bytes.extend(Frame::method(channel, &bind(&queue, &exchange, "key")).bytes());
    bytes.extend(Frame::method(channel, &ConfirmSelect { nowait: true }).bytes());
    bytes.extend(Frame::method(channel, &publish).bytes());
    bytes.extend(Frame::header(channel, 60, 0, &Properties::persistent().bytes()).bytes());
    bytes.extend(Frame::method(channel, &prefetch(10)).bytes());
    bytes.extend(Frame::method(channel, &ConfirmSelect::default()).bytes());
    client.socket.send(&bytes);

    client.expect::<ChannelOpenOk>(channel);
    client.expect::<ExchangeDeclareOk>(channel);
    client.expect::<QueueDeclareOk>(channel);
    client.expect::<QueueBindOk>(channel);
    // The confirm may come any time from here on; the answers keep their order.
    let mut seen = vec![];
    while seen.len() < 3 {
        client.until("an answer", |client| {
            seen.extend(client.pending(channel).into_iter().map(|incoming| incoming.id));
            (!seen.is_empty()).then_some(())
        });
        client.pump(std::time::Duration::from_millis(10));
    }
    assert!(seen.contains(&BasicAck::ID), "{seen:?}");
    seen.retain(|id| *id != BasicAck::ID);
    assert_eq!(seen, [BasicQosOk::ID, ConfirmSelectOk::ID]);
    until_ready(&mut client, channel, &queue, 1);
    client.close();
}

#[test]
fn nowait_methods_act_and_are_not_answered() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let (queue, exchange, other) = (case.queue("silent"), case.exchange("silent"), case.exchange("other"));
    let declare_exchange = |name: &str| ExchangeDeclare {
        nowait: true,
        ..crate::case::exchange(name, "fanout")
    };
    client.send(channel, &declare_exchange(&exchange));
    client.send(channel, &declare_exchange(&other));
    client.send(
        channel,
        &QueueDeclare {
            nowait: true,
            ..durable(&queue)
        },
    );
    client.send(
        channel,
        &QueueBind {
            nowait: true,
            ..bind(&queue, &exchange, "")
        },
    );
    let e2e = ExchangeBind {
        destination: exchange.clone(),
        source: other.clone(),
        nowait: true,
        ..Default::default()
    };
    client.send(channel, &e2e);
    client.publish(channel, &other, "", &Properties::default(), b"through both");
    assert_eq!(
        client.call(channel, &passive(&queue)).queue,
        queue,
        "the first answer of all"
    );
    until_ready(&mut client, channel, &queue, 1);

    client.send(
        channel,
        &QueuePurge {
            queue: queue.clone(),
            nowait: true,
            ..Default::default()
        },
    );
    assert_eq!(counts(&mut client, channel, &queue), (0, 0));
    client.send(
        channel,
        &BasicConsume {
            nowait: true,
            ..crate::case::consume(&queue, "silent")
        },
    );
    client.publish(channel, &exchange, "", &Properties::default(), b"to the consumer");
    assert_eq!(client.delivery(channel).consumer_tag, "silent");
    client.send(
        channel,
        &BasicCancel {
            consumer_tag: "silent".into(),
            nowait: true,
        },
    );
    assert_eq!(counts(&mut client, channel, &queue), (0, 0), "no consumer is left");

    client.send(
        channel,
        &QueueDelete {
            nowait: true,
            ..delete(&queue)
        },
    );
    client.send(
        channel,
        &ExchangeDelete {
            exchange: exchange.clone(),
            nowait: true,
            ..Default::default()
        },
    );
    client
        .refused(channel, &passive(&queue))
        .channel_error::<QueueDeclare>(404, &format!("NOT_FOUND - no queue '{queue}' in vhost '/'"));
    let channel = client.channel();
    client.refused(
        channel,
        &ExchangeDeclare {
            passive: true,
            ..crate::case::exchange(&exchange, "fanout")
        },
    );
    client.close();
}
