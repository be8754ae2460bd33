//! Messages through the whole of a connection: routed, confirmed, delivered, settled, whatever is lost on the way.

use std::collections::BTreeSet;

use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::harness::{Broker, Heard, consume, declare, put_publish, short};
use crate::alarms::Shortage;
use crate::amqp::frame::{Frame, Kind};
use crate::amqp::{Method, Properties, Table, Value, put_method};

fn delivered(heard: &[Heard]) -> Vec<(u64, Bytes)> {
    heard
        .iter()
        .filter_map(|heard| match heard {
            Heard::Content(_, Method::BasicDeliver { delivery_tag, .. }, _, body) => {
                Some((*delivery_tag, body.clone()))
            }
            _ => None,
        })
        .collect()
}

fn get(queue: &str, no_ack: bool) -> Method {
    Method::BasicGet {
        queue: short(queue),
        no_ack,
    }
}

#[test]
fn a_large_message_goes_to_a_few_queues_at_a_time() {
    const QUEUES: usize = 20;
    let mut broker = Broker::new();
    broker.limits.unapplied_bytes_max = 250_000;
    let at = broker.channel();
    let name = |n: usize| format!("q{n}");
    for n in 0..QUEUES {
        broker.send(at, 1, &declare(&name(n)));
        let bind = Method::QueueBind {
            queue: short(&name(n)),
            exchange: short("amq.fanout"),
            routing_key: short(""),
            no_wait: false,
            arguments: Table::new(),
        };
        broker.send(at, 1, &bind);
    }
    broker.send(at, 1, &Method::ConfirmSelect { no_wait: true });
    broker.clients[at].heard.clear();
    let mut bytes = BytesMut::new();
    put_publish(
        &mut bytes,
        1,
        "amq.fanout",
        "",
        false,
        &Properties::default(),
        &[7; 100_000],
    );
    put_publish(&mut bytes, 1, "amq.fanout", "", false, &Properties::default(), b"next");
    put_method(&mut bytes, 1, &get("q0", true));
    broker.wire.is_full = true;
    broker.bytes(at, &bytes);
    let unapplied = broker.clients[at].core.describe().connection.unapplied_bytes;
    assert!((200_000..350_000).contains(&unapplied), "{unapplied}");
    assert!(!broker.clients[at].core.wants_input());
    broker.wire.is_full = false;
    broker.tick(20);
    for n in 1..QUEUES {
        assert_eq!(broker.stats(&name(n)).ready, 2, "{n}");
    }
    // In order, the get behind both.
    let heard = std::mem::take(&mut broker.clients[at].heard);
    let acked = |heard: &Heard| match heard {
        Heard::Method(1, Method::BasicAck { delivery_tag, .. }) => Some(*delivery_tag),
        _ => None,
    };
    assert_eq!(heard.iter().filter_map(acked).max(), Some(2));
    let got = heard.iter().find_map(|heard| match heard {
        Heard::Content(1, Method::BasicGetOk { message_count, .. }, _, body) => Some((*message_count, body.len())),
        _ => None,
    });
    assert_eq!(got, Some((1, 100_000)));
    assert!(broker.clients[at].core.wants_input());
}

#[test]
fn a_large_message_reaches_all_its_queues_although_the_connection_closes() {
    let mut broker = Broker::new();
    broker.limits.unapplied_bytes_max = 150_000;
    let at = broker.channel();
    for queue in ["a", "b", "c"] {
        broker.send(at, 1, &declare(queue));
        let bind = Method::QueueBind {
            queue: short(queue),
            exchange: short("amq.fanout"),
            routing_key: short(""),
            no_wait: false,
            arguments: Table::new(),
        };
        broker.send(at, 1, &bind);
    }
    broker.wire.is_full = true;
    broker.publish(at, 1, "amq.fanout", "", &[7; 100_000]);
    broker.lose(at);
    broker.wire.is_full = false;
    broker.tick(20);
    for queue in ["a", "b", "c"] {
        assert_eq!(broker.stats(queue).ready, 1);
    }
    assert!(broker.clients[at].core.is_over());
}

#[test]
fn unfinished_messages_are_bounded_over_all_channels() {
    let unfinished = |number: u16, parts: usize, len: usize| {
        let mut bytes = BytesMut::new();
        let publish = Method::BasicPublish {
            exchange: short(""),
            routing_key: short("nowhere"),
            mandatory: false,
            immediate: false,
        };
        put_method(&mut bytes, number, &publish);
        let mut header = BytesMut::from(&[0, 60, 0, 0][..]);
        header.extend_from_slice(&1_000_000_u64.to_be_bytes());
        header.extend_from_slice(&[0, 0]);
        let mut put = |kind, payload: &[u8]| {
            let payload = Bytes::copy_from_slice(payload);
            let channel = number;
            Frame { kind, channel, payload }.encode(&mut bytes);
        };
        put(Kind::Header, &header);
        for _ in 0..parts {
            put(Kind::Body, &vec![0; len]);
        }
        bytes
    };
    for (parts, len) in [(9, 9_000), (1_250, 1)] {
        let mut broker = Broker::new();
        broker.limits.unfinished_bytes_max = 200_000;
        let at = broker.client();
        for number in 1..=3 {
            broker.send(at, number, &Method::ChannelOpen {});
        }
        // Those that were completed do not count.
        for _ in 0..5 {
            broker.publish(at, 1, "", "nowhere", &[0; 200_000]);
        }
        broker.bytes(at, &unfinished(1, parts, len));
        broker.bytes(at, &unfinished(2, parts, len));
        broker.clients[at].heard.clear();
        broker.bytes(at, &unfinished(3, parts, len));
        let methods = broker.clients[at].methods();
        assert!(
            matches!(methods[..], [Method::ConnectionClose { reply_code: 506, .. }]),
            "{methods:?}"
        );
    }
}

#[test]
fn publishers_are_held_back_while_the_cluster_is_short() {
    let mut broker = Broker::new();
    let (at, consumer) = (broker.channel(), broker.channel());
    broker.send(at, 1, &declare("q"));
    broker.send(consumer, 1, &consume("q", "t", false));
    broker.set_shortage(Shortage {
        memory: true,
        disk: true,
    });
    broker.clients[at].heard.clear();
    broker.clients[consumer].heard.clear();
    assert!(broker.clients[at].core.wants_input(), "it has not published");
    broker.publish(at, 1, "", "q", b"last");
    let blocked = Method::ConnectionBlocked {
        reason: short("low on memory & low on disk"),
    };
    assert_eq!(broker.clients[at].methods(), [blocked]);
    assert!(!broker.clients[at].core.wants_input());
    let heard = std::mem::take(&mut broker.clients[consumer].heard);
    assert_eq!(delivered(&heard).len(), 1, "what was published is not lost");
    assert!(broker.clients[consumer].core.wants_input());

    broker.set_shortage(Shortage {
        memory: false,
        disk: true,
    });
    assert!(broker.clients[at].methods().is_empty());
    assert!(!broker.clients[at].core.wants_input());
    broker.set_shortage(Shortage::default());
    assert_eq!(broker.clients[at].methods(), [Method::ConnectionUnblocked {}]);
    assert!(broker.clients[consumer].methods().is_empty());
    assert!(broker.clients[at].core.wants_input());
    broker.publish(at, 1, "", "q", b"first");
    assert!(broker.clients[at].methods().is_empty());
    assert!(broker.clients[at].core.wants_input());
}

#[test]
fn one_read_gives_one_confirm() {
    let mut broker = Broker::new();
    let at = broker.channel();
    broker.send(at, 1, &declare("q"));
    assert_eq!(
        broker.call(at, 1, &Method::ConfirmSelect { no_wait: false }),
        [Method::ConfirmSelectOk {}]
    );
    let mut bytes = BytesMut::new();
    for _ in 0..100 {
        put_publish(&mut bytes, 1, "", "q", false, &Properties::default(), b"body");
    }
    broker.bytes(at, &bytes);
    assert_eq!(
        broker.clients[at].methods(),
        [Method::BasicAck {
            delivery_tag: 100,
            multiple: true
        }]
    );
    assert_eq!(broker.stats("q").ready, 100);
}

#[test]
fn a_mandatory_message_comes_back_before_its_confirm() {
    let mut broker = Broker::new();
    let at = broker.channel();
    broker.send(at, 1, &Method::ConfirmSelect { no_wait: true });
    let mut bytes = BytesMut::new();
    put_publish(&mut bytes, 1, "", "nowhere", true, &Properties::default(), b"body");
    broker.clients[at].heard.clear();
    broker.bytes(at, &bytes);
    let returned = Method::BasicReturn {
        reply_code: 312,
        reply_text: short("NO_ROUTE"),
        exchange: short(""),
        routing_key: short("nowhere"),
    };
    assert_eq!(
        broker.clients[at].methods(),
        [
            returned,
            Method::BasicAck {
                delivery_tag: 1,
                multiple: false
            }
        ]
    );
}

#[test]
fn held_frames_keep_their_order() {
    let mut broker = Broker::new();
    let at = broker.channel();
    let mut bytes = BytesMut::new();
    put_method(&mut bytes, 1, &declare("q"));
    put_publish(&mut bytes, 1, "", "q", false, &Properties::default(), b"1");
    put_method(&mut bytes, 1, &declare("q"));
    put_method(&mut bytes, 1, &get("q", false));
    put_method(&mut bytes, 1, &get("q", false));
    put_method(
        &mut bytes,
        1,
        &Method::ChannelClose {
            reply_code: 200,
            reply_text: short(""),
            class_id: 0,
            method_id: 0,
        },
    );
    put_method(&mut bytes, 1, &Method::ChannelOpen {});
    put_method(&mut bytes, 1, &get("q", true));
    broker.clients[at].heard.clear();
    broker.bytes(at, &bytes);
    let ok = |count| Method::QueueDeclareOk {
        queue: short("q"),
        message_count: count,
        consumer_count: 0,
    };
    let got = |redelivered| Method::BasicGetOk {
        delivery_tag: 1,
        redelivered,
        exchange: short(""),
        routing_key: short("q"),
        message_count: 0,
    };
    assert_eq!(
        broker.clients[at].methods(),
        [
            ok(0),
            ok(1),
            got(false),
            Method::BasicGetEmpty {},
            Method::ChannelCloseOk {},
            Method::ChannelOpenOk {},
            got(true),
        ]
    );
}

#[test]
fn a_message_goes_once_to_each_queue_and_is_confirmed_by_all() {
    let mut broker = Broker::new();
    let at = broker.channel();
    for queue in ["a", "b"] {
        broker.send(at, 1, &declare(queue));
        for key in ["x", "x", "#"] {
            let bind = Method::QueueBind {
                queue: short(queue),
                exchange: short("amq.topic"),
                routing_key: short(key),
                no_wait: false,
                arguments: Table::new(),
            };
            assert_eq!(broker.call(at, 1, &bind), [Method::QueueBindOk {}]);
        }
    }
    broker.send(at, 1, &Method::ConfirmSelect { no_wait: true });
    broker.clients[at].heard.clear();
    broker.publish(at, 1, "amq.topic", "x", b"body");
    assert_eq!(
        broker.clients[at].methods(),
        [Method::BasicAck {
            delivery_tag: 1,
            multiple: false
        }]
    );
    assert_eq!((broker.stats("a").ready, broker.stats("b").ready), (1, 1));
}

#[test]
fn headers_decide_anew_for_every_message() {
    let mut broker = Broker::new();
    let at = broker.channel();
    broker.send(at, 1, &declare("q"));
    let mut arguments = Table::new();
    arguments.insert("colour", Value::LongStr(Bytes::from_static(b"red")));
    let bind = Method::QueueBind {
        queue: short("q"),
        exchange: short("amq.headers"),
        routing_key: short(""),
        no_wait: false,
        arguments,
    };
    broker.send(at, 1, &bind);
    for colour in ["red", "blue", "red"] {
        let mut headers = Table::new();
        headers.insert("colour", Value::LongStr(Bytes::copy_from_slice(colour.as_bytes())));
        let properties = Properties {
            headers: Some(headers),
            ..Properties::default()
        };
        let mut bytes = BytesMut::new();
        put_publish(&mut bytes, 1, "amq.headers", "k", false, &properties, b"body");
        broker.bytes(at, &bytes);
    }
    assert_eq!(broker.stats("q").ready, 2);
}

#[test]
fn large_bodies_pass_in_frames() {
    let mut broker = Broker::new();
    let at = broker.channel();
    broker.send(at, 1, &declare("q"));
    let body: Vec<u8> = (0..400_000_u32).map(|n| n as u8).collect();
    broker.publish(at, 1, "", "q", &body);
    broker.clients[at].heard.clear();
    broker.send(at, 1, &get("q", true));
    let [Heard::Content(1, Method::BasicGetOk { .. }, _, got)] = &broker.clients[at].heard[..] else {
        panic!("no message");
    };
    assert_eq!(got, &body);
}

#[test]
fn a_message_over_the_limit_closes_the_channel() {
    let mut broker = Broker::new();
    broker.limits.message_size_max = 10;
    let at = broker.channel();
    broker.publish(at, 1, "", "q", b"01234567890");
    let methods = broker.clients[at].methods();
    let Some(Method::ChannelClose { reply_text, .. }) = methods.last() else {
        panic!("not closed")
    };
    assert_eq!(
        *reply_text,
        "PRECONDITION_FAILED - message size 11 is larger than configured max size 10"
    );
}

#[test]
fn consumers_without_acknowledgement_never_stall() {
    let mut broker = Broker::new();
    let at = broker.channel();
    broker.send(at, 1, &declare("q"));
    for _ in 0..10 {
        let mut bytes = BytesMut::new();
        for _ in 0..1_000 {
            put_publish(&mut bytes, 1, "", "q", false, &Properties::default(), b"body");
        }
        broker.bytes(at, &bytes);
    }
    broker.clients[at].heard.clear();
    broker.send(at, 1, &consume("q", "t", true));
    assert_eq!(delivered(&broker.clients[at].heard).len(), 10_000);
    let stats = broker.stats("q");
    assert_eq!((stats.ready, stats.unacked), (0, 0));
}

#[test]
fn settlements_reach_the_queue_in_runs() {
    let mut broker = Broker::new();
    let at = broker.channel();
    broker.send(at, 1, &declare("q"));
    for n in 0..10_u8 {
        broker.publish(at, 1, "", "q", &[n]);
    }
    broker.send(at, 1, &consume("q", "t", false));
    assert_eq!(broker.stats("q").unacked, 10);
    broker.send(
        at,
        1,
        &Method::BasicAck {
            delivery_tag: 4,
            multiple: true,
        },
    );
    broker.send(
        at,
        1,
        &Method::BasicReject {
            delivery_tag: 6,
            requeue: false,
        },
    );
    assert_eq!(broker.stats("q").unacked, 5);
    broker.clients[at].heard.clear();
    broker.send(
        at,
        1,
        &Method::BasicNack {
            delivery_tag: 8,
            multiple: true,
            requeue: true,
        },
    );
    let again = delivered(&broker.clients[at].heard);
    assert_eq!(
        again,
        [
            (11, Bytes::from(vec![4])),
            (12, Bytes::from(vec![6])),
            (13, Bytes::from(vec![7]))
        ]
    );
    broker.send(
        at,
        1,
        &Method::BasicAck {
            delivery_tag: 0,
            multiple: true,
        },
    );
    assert_eq!(broker.stats("q").unacked, 0);
}

#[test]
fn what_a_cancelled_consumer_holds_can_still_be_acknowledged() {
    let mut broker = Broker::new();
    let at = broker.channel();
    broker.send(at, 1, &declare("q"));
    broker.send(at, 1, &consume("q", "t", false));
    broker.publish(at, 1, "", "q", b"1");
    broker.send(
        at,
        1,
        &Method::BasicCancel {
            consumer_tag: short("t"),
            no_wait: false,
        },
    );
    broker.publish(at, 1, "", "q", b"2");
    assert_eq!((broker.stats("q").ready, broker.stats("q").unacked), (1, 1));
    assert_eq!(
        broker.call(
            at,
            1,
            &Method::BasicAck {
                delivery_tag: 1,
                multiple: false
            }
        ),
        []
    );
    assert_eq!((broker.stats("q").ready, broker.stats("q").unacked), (1, 0));
}

#[test]
fn a_publish_that_nobody_takes_is_refused_in_time() {
    let mut broker = Broker::new();
    let at = broker.channel();
    broker.send(at, 1, &declare("q"));
    broker.send(at, 1, &Method::ConfirmSelect { no_wait: true });
    broker.clients[at].heard.clear();
    broker.wire.is_full = true;
    broker.publish(at, 1, "", "q", b"1");
    broker.tick(29_000);
    assert_eq!(broker.clients[at].methods(), []);
    broker.tick(1_000);
    let refused = Method::BasicNack {
        delivery_tag: 1,
        multiple: false,
        requeue: true,
    };
    assert_eq!(broker.clients[at].methods(), [refused]);
    broker.wire.is_full = false;
    broker.publish(at, 1, "", "q", b"2");
    // Its later apply says nothing more about the first.
    assert_eq!(
        broker.clients[at].methods(),
        [Method::BasicAck {
            delivery_tag: 2,
            multiple: false
        }]
    );
    assert_eq!(broker.stats("q").ready, 2);
}

#[test]
fn unapplied_publishes_stop_the_reading() {
    let mut broker = Broker::new();
    broker.limits.unapplied_commands_max = 100;
    let at = broker.channel();
    broker.send(at, 1, &declare("q"));
    broker.wire.is_full = true;
    for _ in 0..100 {
        assert!(broker.clients[at].core.wants_input());
        broker.publish(at, 1, "", "q", b"body");
    }
    assert!(!broker.clients[at].core.wants_input());
    broker.wire.is_full = false;
    broker.tick(20);
    assert!(broker.clients[at].core.wants_input());
    assert_eq!(broker.stats("q").ready, 100);
}

#[derive(Clone, Debug)]
enum Step {
    Publish(u8),
    Get,
    AckAll,
    Declare,
    /// Carries everything once; the mask says which events get lost.
    Carry(u32),
    LoseBatches,
    ChangeLeaders,
    Tick(u16),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        4 => (1_u8..20).prop_map(Step::Publish),
        1 => Just(Step::Get),
        3 => Just(Step::AckAll),
        1 => Just(Step::Declare),
        6 => any::<u32>().prop_map(Step::Carry),
        1 => Just(Step::LoseBatches),
        2 => Just(Step::ChangeLeaders),
        2 => (1_u16..1_500).prop_map(Step::Tick),
    ];
    prop::collection::vec(step, 1..60)
}

/// Sends without letting anything be carried.
fn say(broker: &mut Broker, at: usize, bytes: &BytesMut) {
    let mut input = bytes.clone();
    let core = &mut broker.clients[at].core;
    core.begin(broker.now_ms);
    let len = input.len();
    core.on_input(&mut input, len);
    broker.turn();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 200, ..ProptestConfig::default() })]

    /// Whatever is lost between the session and the queue: each publish is in the queue once, is confirmed, and
    /// reaches the consumer once and in order.
    #[test]
    fn nothing_is_lost_or_doubled(steps in steps()) {
        let mut broker = Broker::new();
        let at = broker.channel();
        broker.send(at, 1, &declare("q"));
        broker.send(at, 1, &declare("other"));
        broker.send(at, 1, &Method::ConfirmSelect { no_wait: true });
        broker.send(at, 1, &consume("q", "t", false));
        broker.send(at, 2, &Method::ChannelOpen {});
        broker.clients[at].heard.clear();
        let (mut published, mut bodies, mut acked) = (0_u32, Vec::new(), 0);
        let mut heard = Vec::new();
        for step in steps.into_iter().chain([Step::ChangeLeaders]) {
            let mut bytes = BytesMut::new();
            match step {
                Step::Publish(count) => {
                    for _ in 0..count {
                        let body = published.to_be_bytes();
                        put_publish(&mut bytes, 1, "", "q", false, &Properties::default(), &body);
                        bodies.push(Bytes::copy_from_slice(&body));
                        published += 1;
                    }
                    say(&mut broker, at, &bytes);
                }
                Step::Get => {
                    put_method(&mut bytes, 2, &get("other", true));
                    say(&mut broker, at, &bytes);
                }
                Step::Declare => {
                    put_method(&mut bytes, 2, &declare("q"));
                    say(&mut broker, at, &bytes);
                }
                Step::AckAll => {
                    let last = delivered(&heard).len() as u64;
                    if last > acked {
                        acked = last;
                        put_method(&mut bytes, 1, &Method::BasicAck { delivery_tag: last, multiple: true });
                        say(&mut broker, at, &bytes);
                    }
                }
                Step::Carry(mask) => {
                    let mut n = 0;
                    broker.deliver(|_| { n += 1; mask >> (n % 32) & 1 == 0 });
                    broker.turn();
                }
                Step::LoseBatches => broker.lose_batches(),
                Step::ChangeLeaders => {
                    broker.change_leaders();
                    broker.turn();
                }
                Step::Tick(ms) => {
                    broker.now_ms += u64::from(ms);
                    let core = &mut broker.clients[at].core;
                    core.begin(broker.now_ms);
                    core.on_tick();
                    broker.turn();
                }
            }
            heard.append(&mut broker.clients[at].heard);
        }
        // Nothing is lost any more.
        for _ in 0..10 {
            broker.tick(1_000);
            broker.change_leaders();
            broker.run();
        }
        heard.append(&mut broker.clients[at].heard);
        let mut confirmed = BTreeSet::new();
        let mut low = 1;
        for heard in &heard {
            match heard {
                Heard::Method(1, Method::BasicAck { delivery_tag, multiple }) => {
                    if *multiple {
                        confirmed.extend(low..=*delivery_tag);
                        low = low.max(delivery_tag + 1);
                    } else {
                        prop_assert!(confirmed.insert(*delivery_tag));
                    }
                }
                Heard::Method(1, Method::BasicNack { .. }) => prop_assert!(false, "refused"),
                Heard::Method(_, Method::ChannelClose { reply_text, .. } | Method::ConnectionClose { reply_text, .. }) => {
                    prop_assert!(false, "{}", reply_text);
                }
                _ => {}
            }
        }
        prop_assert!(confirmed.iter().copied().eq(1..=u64::from(published)), "confirmed {:?}", confirmed);
        let delivered: Vec<_> = delivered(&heard).into_iter().map(|(_, body)| body).collect();
        prop_assert_eq!(delivered, bodies);
        prop_assert_eq!(broker.stats("q").ready, 0);
        prop_assert_eq!(broker.stats("q").unacked, u64::from(published) - acked);
    }
}
