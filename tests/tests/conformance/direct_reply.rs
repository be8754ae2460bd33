//! Direct reply-to: `amq.rabbitmq.reply-to` and the names that stand for it.

use warren_tests::amqp::method::*;
use warren_tests::amqp::wire::{Properties, Table, Value};
use warren_tests::amqp::{Client, Delivery, endpoints};

use crate::case::{Case, bind, consume, differs, durable, passive, prefetch, unbind};

const QUEUE: &str = "amq.rabbitmq.reply-to";

fn replies(tag: &str) -> BasicConsume {
    BasicConsume {
        no_ack: true,
        ..consume(QUEUE, tag)
    }
}

fn cancel(tag: &str) -> BasicCancel {
    BasicCancel {
        consumer_tag: tag.into(),
        ..Default::default()
    }
}

fn request(number: u32) -> Properties {
    Properties {
        reply_to: Some(QUEUE.into()),
        correlation_id: Some(number.to_string()),
        message_id: Some("after it".into()),
        content_type: Some("before it".into()),
        ..Properties::default()
    }
}

fn mandatory(routing_key: &str) -> BasicPublish {
    BasicPublish {
        routing_key: routing_key.into(),
        mandatory: true,
        ..Default::default()
    }
}

/// Sends a request through the queue and takes it out there.
#[track_caller]
fn requested(requester: &mut Client, channel: u16, replier: &mut Client, replying: u16, queue: &str) -> Delivery {
    requester.publish(channel, "", queue, &request(7), b"request");
    replier.until("the request", |replier| {
        replier.get(replying, queue, true).map(|(request, _)| request)
    })
}

fn reply_to(request: &Delivery) -> String {
    request
        .content
        .properties()
        .reply_to
        .expect("the request asks for a reply")
}

/// A requester whose request, which came through a queue, its replier has.
struct Asked {
    // Deletes the queue at the end.
    _case: Case,
    requester: Client,
    channel: u16,
    replier: Client,
    replying: u16,
    queue: String,
    /// What the request says to reply to.
    name: String,
}

impl Asked {
    #[track_caller]
    fn new() -> Self {
        let case = Case::new();
        let (mut requester, mut replier) = (Client::connect(0), Client::connect(1));
        let (channel, replying) = (requester.channel(), replier.channel());
        let queue = case.declared(&mut requester, channel, "requests");
        requester.call(channel, &replies("t"));
        let name = reply_to(&requested(&mut requester, channel, &mut replier, replying, &queue));
        Self {
            _case: case,
            requester,
            channel,
            replier,
            replying,
            queue,
            name,
        }
    }
}

#[test]
fn a_reply_comes_back_from_every_node_to_every_node() {
    let case = Case::new();
    let nodes = endpoints().len();
    for asking in 0..nodes {
        for answering in 0..nodes {
            let mut requester = Client::connect(asking);
            let mut replier = Client::connect(answering);
            let (channel, replying) = (requester.channel(), replier.channel());
            let queue = case.declared(&mut requester, channel, &format!("requests-{asking}-{answering}"));
            requester.call(channel, &replies("t"));
            let request = requested(&mut requester, channel, &mut replier, replying, &queue);
            let name = reply_to(&request);
            assert!(
                name.starts_with("amq.rabbitmq.reply-to.") && name.len() <= 255,
                "{name}"
            );
            // Nothing else of the request is changed.
            let properties = request.content.properties();
            assert_eq!(properties.correlation_id.as_deref(), Some("7"));
            assert_eq!(properties.message_id.as_deref(), Some("after it"));
            assert_eq!(properties.content_type.as_deref(), Some("before it"));
            replier.confirm(replying);
            for number in 1..=20 {
                let properties = Properties {
                    correlation_id: Some(number.to_string()),
                    ..Properties::default()
                };
                let body = vec![b'r'; number * 20_000];
                replier.publish_with(replying, &mandatory(&name), &properties, &body);
                let reply = requester.delivery(channel);
                assert_eq!(reply.tag, number as u64);
                assert_eq!(
                    (reply.exchange.as_str(), reply.routing_key.as_str()),
                    ("", name.as_str())
                );
                assert_eq!((reply.consumer_tag.as_str(), reply.redelivered), ("t", false));
                assert_eq!(reply.content.properties(), properties);
                assert_eq!(reply.content.body, body);
            }
            // Nothing was returned, and everything is confirmed.
            replier.confirmed(replying);
            requester.close();
            replier.close();
        }
    }
}

#[test]
fn many_replies_come_in_order() {
    let Asked {
        mut requester,
        channel,
        mut replier,
        replying,
        name,
        _case,
        ..
    } = Asked::new();
    for number in 0..2_000 {
        replier.publish(
            replying,
            "",
            &name,
            &Properties::default(),
            format!("{number}").as_bytes(),
        );
    }
    for number in 0..2_000 {
        assert_eq!(requester.delivery(channel).text(), number.to_string());
    }
    requester.close();
    replier.close();
}

#[test]
fn only_one_consumer_without_acknowledgements() {
    let mut client = Client::connect(0);
    let channel = client.channel();
    client
        .refused(channel, &consume(QUEUE, "t"))
        .channel_error::<BasicConsume>(406, "PRECONDITION_FAILED - reply consumer cannot acknowledge");
    let channel = client.channel();
    client.call(channel, &replies("t"));
    client
        .refused(channel, &replies("other"))
        .channel_error::<BasicConsume>(406, "PRECONDITION_FAILED - reply consumer already set");
    // It ended with the channel, and each channel has its own.
    for _ in 0..2 {
        let channel = client.channel();
        client.call(channel, &replies("t"));
        client.call(channel, &cancel("t"));
        client.call(channel, &replies("t"));
    }
    let channel = client.channel();
    let generated = client.call(channel, &replies("")).consumer_tag;
    assert!(generated.starts_with("amq.ctag"), "{generated}");
    client.close();
}

#[test]
fn tags_are_shared_with_other_consumers() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.declared(&mut client, channel, "queue");
    client.call(channel, &consume(&queue, "t"));
    client
        .refused(channel, &replies("t"))
        .connection_error::<BasicConsume>(530, "NOT_ALLOWED - attempt to reuse consumer tag 't'");
    if !differs("reply-consumer-tag") {
        let mut client = Client::connect(0);
        let channel = client.channel();
        client.call(channel, &replies("t"));
        client
            .refused(channel, &consume(&queue, "t"))
            .connection_error::<BasicConsume>(530, "NOT_ALLOWED - attempt to reuse consumer tag 't'");
    }
}

#[test]
fn a_request_needs_a_consumer_of_replies() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.declared(&mut client, channel, "requests");
    let text = "PRECONDITION_FAILED - fast reply consumer does not exist";
    client.publish(channel, "", &queue, &request(1), b"");
    client.closed(channel).channel_error::<BasicPublish>(406, text);
    let channel = client.channel();
    client.call(channel, &replies("t"));
    client.publish(channel, "", &queue, &request(1), b"");
    client.call(channel, &cancel("t"));
    client.publish(channel, "", &queue, &request(1), b"");
    client.closed(channel).channel_error::<BasicPublish>(406, text);
    client.close();
}

#[test]
fn the_names_can_be_declared_while_the_consumer_is_there() {
    let case = Case::new();
    for answering in [0, 1] {
        let (mut requester, mut replier) = (Client::connect(0), Client::connect(answering));
        let (channel, replying) = (requester.channel(), replier.channel());
        let queue = case.declared(&mut requester, channel, &format!("requests-{answering}"));
        requester.call(channel, &replies("t"));
        let name = reply_to(&requested(&mut requester, channel, &mut replier, replying, &queue));
        for declared in [QUEUE, &name] {
            for method in [passive(declared), durable(declared)] {
                let answer = replier.call(replying, &method);
                assert_eq!(
                    (answer.queue.as_str(), answer.messages, answer.consumers),
                    (declared, 0, 1)
                );
            }
        }
        requester.call(channel, &cancel("t"));
        let text = format!("NOT_FOUND - no queue '{name}' in vhost '/'");
        for method in [passive(&name), durable(&name)] {
            let replying = replier.channel();
            replier
                .refused(replying, &method)
                .channel_error::<QueueDeclare>(404, &text);
        }
        requester.close();
        replier.close();
    }
}

#[test]
fn a_name_ends_with_its_channel_and_its_connection() {
    let case = Case::new();
    for answering in [0, 1] {
        for closes_connection in [false, true] {
            let (mut requester, mut replier) = (Client::connect(0), Client::connect(answering));
            let (channel, replying) = (requester.channel(), replier.channel());
            let queue = case.declared(
                &mut requester,
                channel,
                &format!("requests-{answering}-{closes_connection}"),
            );
            requester.call(channel, &replies("t"));
            let name = reply_to(&requested(&mut requester, channel, &mut replier, replying, &queue));
            if closes_connection {
                requester.close();
            } else {
                requester.call(
                    channel,
                    &ChannelClose {
                        code: 200,
                        ..Default::default()
                    },
                );
            }
            let text = format!("NOT_FOUND - no queue '{name}' in vhost '/'");
            let asking = replier.channel();
            replier
                .refused(asking, &passive(&name))
                .channel_error::<QueueDeclare>(404, &text);
            // What is published to it is dropped, and confirmed.
            replier.call(replying, &ConfirmSelect::default());
            replier.publish(replying, "", &name, &Properties::default(), b"late");
            assert_eq!(replier.expect::<BasicAck>(replying).delivery_tag, 1);
        }
    }
}

#[test]
fn a_mandatory_reply_to_nobody_is_returned() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let made_up = format!("{QUEUE}.nobody");
    client.publish_with(channel, &mandatory(&made_up), &Properties::default(), b"lost");
    assert_eq!(client.expect::<BasicReturn>(channel).code, 312);
    if differs("reply-to-nobody") {
        return client.close();
    }
    let queue = case.declared(&mut client, channel, "requests");
    let asking = client.channel();
    client.call(asking, &replies("t"));
    client.publish(asking, "", &queue, &request(1), b"");
    let request = client.until("the request", |client| client.get(channel, &queue, true));
    let name = reply_to(&request.0);
    client.call(asking, &cancel("t"));
    client.publish_with(channel, &mandatory(&name), &Properties::default(), b"late");
    let (returned, content) = client.expect_content::<BasicReturn>(channel);
    assert_eq!((returned.code, returned.routing_key), (312, name));
    assert_eq!(content.text(), "late");
    client.close();
}

#[test]
fn replies_may_be_copies() {
    let Asked {
        mut requester,
        channel,
        mut replier,
        replying,
        queue,
        name,
        _case,
    } = Asked::new();
    let copied = Properties {
        headers: Some(Table::from([("CC", Value::Array(vec![Value::from(name.as_str())]))])),
        ..Properties::default()
    };
    replier.confirm(replying);
    replier.publish(replying, "", &queue, &copied, b"both");
    replier.confirmed(replying);
    assert_eq!(requester.delivery(channel).text(), "both");
    let kept = replier.get(replying, &queue, true).expect("the queue has it too");
    assert_eq!(kept.0.text(), "both");
    requester.close();
    replier.close();
}

#[test]
fn a_transaction_holds_replies_until_its_commit() {
    let Asked {
        mut requester,
        channel,
        mut replier,
        replying,
        name,
        _case,
        ..
    } = Asked::new();
    let looking = replier.channel();
    replier.call(replying, &TxSelect::default());
    replier.publish(replying, "", &name, &Properties::default(), b"dropped");
    replier.call(replying, &TxRollback::default());
    replier.publish(replying, "", &name, &Properties::default(), b"kept");
    // The question goes the way that the reply would have gone before it.
    replier.call(looking, &passive(&name));
    requester.call(channel, &prefetch(0));
    let pending = requester.pending(channel);
    assert!(pending.is_empty(), "{pending:?}");
    replier.call(replying, &TxCommit::default());
    assert_eq!(requester.delivery(channel).text(), "kept");
    requester.close();
    replier.close();
}

#[test]
fn the_names_cannot_be_bound() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.declared(&mut client, channel, "requests");
    client.call(channel, &replies("t"));
    client.publish(channel, "", &queue, &request(1), b"");
    let request = client.until("the request", |client| client.get(channel, &queue, true));
    let name = reply_to(&request.0);
    let text = "ACCESS_REFUSED - cannot bind or unbind to a volatile (direct reply-to) queue";
    let binding = client.channel();
    client
        .refused(binding, &bind(&name, "amq.direct", "k"))
        .channel_error::<QueueBind>(403, text);
    let binding = client.channel();
    client
        .refused(binding, &unbind(&name, "amq.direct", "k"))
        .channel_error::<QueueUnbind>(403, text);
    client.close();
}
