//! Direct reply-to between the channels of one node, and what is known of other nodes.

use bytes::{Bytes, BytesMut};
use warren_proto::record::SessionId;

use super::harness::{Broker, Heard, RUN, consume, declare, put_publish, short};
use crate::amqp::{Method, Properties};
use crate::direct_reply::{QUEUE, Token};
use crate::metadata::{Change, Run};

/// A client that consumes replies on channel 1.
fn requester(broker: &mut Broker) -> usize {
    let at = broker.channel();
    assert_eq!(
        broker.call(at, 1, &consume(QUEUE, "replies", true)),
        [Method::BasicConsumeOk {
            consumer_tag: short("replies")
        }]
    );
    at
}

fn publish(broker: &mut Broker, at: usize, key: &str, mandatory: bool, properties: &Properties) -> Vec<Heard> {
    broker.clients[at].heard.clear();
    let mut bytes = BytesMut::new();
    put_publish(&mut bytes, 1, "", key, mandatory, properties, b"body");
    broker.bytes(at, &bytes);
    std::mem::take(&mut broker.clients[at].heard)
}

/// Sends a request and gives the name that stands in it.
fn requested(broker: &mut Broker, at: usize) -> String {
    let request = Properties {
        reply_to: Some(short(QUEUE)),
        correlation_id: Some(short("c")),
        ..Properties::default()
    };
    broker.send(at, 1, &declare("requests"));
    assert_eq!(publish(broker, at, "requests", false, &Properties::default()), []);
    broker.clients[at].heard.clear();
    broker.send(
        at,
        1,
        &Method::QueuePurge {
            queue: short("requests"),
            no_wait: true,
        },
    );
    publish(broker, at, "requests", false, &request);
    broker.send(
        at,
        1,
        &Method::BasicGet {
            queue: short("requests"),
            no_ack: true,
        },
    );
    let heard = std::mem::take(&mut broker.clients[at].heard);
    let Some(Heard::Content(_, Method::BasicGetOk { .. }, properties, _)) = heard.last() else {
        panic!("no request: {heard:?}");
    };
    let properties = Properties::decode(properties).expect("they are well formed");
    assert_eq!(properties.correlation_id, Some(short("c")));
    let name = properties.reply_to.expect("it asks for a reply");
    name.as_str().to_owned()
}

fn delivery(tag: u64, name: &str) -> Heard {
    Heard::Content(
        1,
        Method::BasicDeliver {
            consumer_tag: short("replies"),
            delivery_tag: tag,
            redelivered: false,
            exchange: short(""),
            routing_key: short(name),
        },
        Properties::default().to_bytes(),
        Bytes::from_static(b"body"),
    )
}

fn returned(heard: &[Heard]) -> bool {
    matches!(
        heard,
        [Heard::Content(_, Method::BasicReturn { reply_code: 312, .. }, ..), ..]
    )
}

fn closed(methods: &[Method]) -> (u16, &str) {
    match methods {
        [
            Method::ChannelClose {
                reply_code, reply_text, ..
            },
        ] => (*reply_code, reply_text.as_str()),
        other => panic!("not closed: {other:?}"),
    }
}

fn inspect(queue: &str) -> Method {
    Method::QueueDeclare {
        queue: short(queue),
        passive: true,
        durable: false,
        exclusive: false,
        auto_delete: false,
        no_wait: false,
        arguments: crate::amqp::Table::new(),
    }
}

fn found(queue: &str) -> [Method; 1] {
    [Method::QueueDeclareOk {
        queue: short(queue),
        message_count: 0,
        consumer_count: 1,
    }]
}

fn cancel() -> Method {
    Method::BasicCancel {
        consumer_tag: short("replies"),
        no_wait: false,
    }
}

#[test]
fn a_reply_goes_to_the_channel_that_asked() {
    let mut broker = Broker::new();
    let (requester, replier) = (requester(&mut broker), broker.channel());
    let name = requested(&mut broker, requester);
    for tag in 2..4 {
        assert_eq!(publish(&mut broker, replier, &name, true, &Properties::default()), []);
        broker.clients[requester].heard.clear();
        broker.bring_replies();
        // Delivery tags are counted with all others of the channel.
        assert_eq!(broker.clients[requester].heard, [delivery(tag, &name)]);
    }
}

#[test]
fn replies_are_confirmed() {
    let mut broker = Broker::new();
    let (requester, replier) = (requester(&mut broker), broker.channel());
    let name = requested(&mut broker, requester);
    broker.call(replier, 1, &Method::ConfirmSelect { no_wait: true });
    let ack = |tag| {
        Heard::Method(
            1,
            Method::BasicAck {
                delivery_tag: tag,
                multiple: false,
            },
        )
    };
    assert_eq!(
        publish(&mut broker, replier, &name, true, &Properties::default()),
        [ack(1)]
    );
    broker.call(requester, 1, &cancel());
    let heard = publish(&mut broker, replier, &name, true, &Properties::default());
    assert!(returned(&heard), "{heard:?}");
    assert_eq!(heard[1..], [ack(2)]);
}

#[test]
fn the_name_ends_with_the_consumer_its_channel_and_its_connection() {
    for way in 0..4 {
        let mut broker = Broker::new();
        let (requester, replier) = (requester(&mut broker), broker.channel());
        let name = requested(&mut broker, requester);
        assert_eq!(broker.call(replier, 1, &inspect(&name)), found(&name));
        assert_eq!(publish(&mut broker, replier, &name, true, &Properties::default()), []);
        match way {
            0 => {
                broker.call(requester, 1, &cancel());
            }
            1 => {
                let close = Method::ChannelClose {
                    reply_code: 200,
                    reply_text: short(""),
                    class_id: 0,
                    method_id: 0,
                };
                assert_eq!(broker.call(requester, 1, &close), [Method::ChannelCloseOk {}]);
                broker.call(requester, 1, &Method::ChannelOpen {});
            }
            2 => {
                // A fault of the channel.
                broker.call(requester, 1, &inspect("none"));
            }
            _ => broker.lose(requester),
        }
        broker.clients[requester].heard.clear();
        broker.bring_replies();
        assert_eq!(broker.clients[requester].heard, [], "{way}");
        let heard = publish(&mut broker, replier, &name, true, &Properties::default());
        assert!(returned(&heard), "{way}: {heard:?}");
        assert_eq!(broker.sent_replies, []);
        let text = format!("NOT_FOUND - no queue '{name}' in vhost '/'");
        assert_eq!(
            closed(&broker.call(replier, 1, &inspect(&name))),
            (404, &*text),
            "{way}"
        );
    }
}

#[test]
fn a_reply_under_way_to_a_cancelled_consumer_is_not_for_the_next() {
    let mut broker = Broker::new();
    let (requester, replier) = (requester(&mut broker), broker.channel());
    let name = requested(&mut broker, requester);
    publish(&mut broker, replier, &name, false, &Properties::default());
    broker.call(requester, 1, &cancel());
    broker.call(requester, 1, &consume(QUEUE, "replies", true));
    broker.bring_replies();
    assert_eq!(broker.clients[requester].heard, []);
    assert_ne!(requested(&mut broker, requester), name);
}

#[test]
fn a_transaction_holds_replies() {
    let mut broker = Broker::new();
    let (requester, replier) = (requester(&mut broker), broker.channel());
    let name = requested(&mut broker, requester);
    broker.call(replier, 1, &Method::TxSelect {});
    publish(&mut broker, replier, &name, true, &Properties::default());
    broker.call(replier, 1, &Method::TxRollback {});
    publish(&mut broker, replier, &name, true, &Properties::default());
    assert_eq!(broker.sent_replies, []);
    assert_eq!(broker.call(replier, 1, &Method::TxCommit {}), [Method::TxCommitOk {}]);
    assert_eq!(broker.sent_replies.len(), 1);
}

/// A second node that is alive, with the name of a requester there.
fn with_other_node(broker: &mut Broker) -> String {
    broker.change(Change::NodeUp {
        run: Run {
            node: 2,
            incarnation: 7,
        },
        name: "two".to_owned(),
        address: "127.0.0.1:2".to_owned(),
        directory: 0,
        version: warren_cluster::version::LATEST,
        sessions_from: 0,
    });
    of_run(2, 7)
}

fn of_run(node: u64, incarnation: u64) -> String {
    let session = SessionId {
        node,
        incarnation,
        id: 1,
    };
    let token = Token {
        session,
        channel: 1,
        secret: [1; 16],
    };
    token.name()
}

#[test]
fn only_runs_that_may_be_there_are_sent_replies() {
    let mut broker = Broker::new();
    let replier = broker.channel();
    let name = with_other_node(&mut broker);
    for (name, goes) in [
        (name, true),
        // A run that was not heard of yet.
        (of_run(2, 8), true),
        (of_run(2, 6), false),
        (of_run(3, 1), false),
        (of_run(RUN.node, RUN.incarnation), false),
        (format!("{QUEUE}.x"), false),
    ] {
        let heard = publish(&mut broker, replier, &name, true, &Properties::default());
        assert_eq!(returned(&heard), !goes, "{name}: {heard:?}");
        assert_eq!(
            std::mem::take(&mut broker.sent_replies).len(),
            usize::from(goes),
            "{name}"
        );
    }
}

#[test]
fn a_requester_on_another_node_is_asked_for_there() {
    let mut broker = Broker::new();
    let replier = broker.channel();
    let name = with_other_node(&mut broker);
    assert_eq!(broker.call(replier, 1, &inspect(&name)), []);
    // What comes behind the question waits for its answer.
    assert_eq!(broker.call(replier, 1, &inspect(QUEUE)), []);
    broker.answer_replies(true);
    let heard = broker.clients[replier].methods();
    assert_eq!(heard, [found(&name), found(QUEUE)].concat());
    assert_eq!(broker.call(replier, 1, &inspect(&name)), []);
    broker.answer_replies(false);
    let heard = broker.clients[replier].methods();
    assert_eq!(closed(&heard).0, 404);
}

#[test]
fn an_answer_that_nobody_waits_for_changes_nothing() {
    let mut broker = Broker::new();
    let replier = broker.channel();
    let name = with_other_node(&mut broker);
    broker.call(replier, 1, &inspect(&name));
    let asked = broker.asked_replies.clone();
    broker.answer_replies(true);
    broker.clients[replier].heard.clear();
    broker.asked_replies = asked;
    broker.answer_replies(false);
    assert_eq!(broker.clients[replier].heard, []);
}
