//! Handshake, tuning, faults, and the ways in which channels and connections end.

use super::harness::{Broker, Heard, consume, declare, declare_exclusive, put_publish, short, start_ok};
use crate::amqp::{Method, Properties, Value, frame};
use crate::connection::{Limits, handshake};
use crate::metadata::Change;

pub(super) fn close_text(methods: &[Method]) -> (u16, String) {
    match methods {
        [
            ..,
            Method::ConnectionClose {
                reply_code, reply_text, ..
            }
            | Method::ChannelClose {
                reply_code, reply_text, ..
            },
        ] => (*reply_code, reply_text.as_str().to_owned()),
        other => panic!("not closed: {other:?}"),
    }
}

#[test]
fn the_start_names_rabbitmq_as_clients_expect() {
    let mut broker = Broker::new();
    let at = broker.connect();
    broker.bytes(at, &frame::PROTOCOL_HEADER);
    let [
        Method::ConnectionStart {
            server_properties,
            mechanisms,
            ..
        },
    ] = &broker.clients[at].methods()[..]
    else {
        panic!("no connection.start");
    };
    assert_eq!(
        server_properties.get("product").and_then(Value::as_str),
        Some("RabbitMQ")
    );
    assert_eq!(&mechanisms[..], b"PLAIN AMQPLAIN");
}

#[test]
fn another_protocol_is_answered_with_ours() {
    let mut broker = Broker::new();
    let at = broker.connect();
    broker.bytes(at, b"AMQP\x03\x01\x00\x00");
    assert_eq!(broker.clients[at].heard, [Heard::Header(frame::PROTOCOL_HEADER)]);
    assert!(broker.clients[at].core.is_over());
}

#[test]
fn a_wrong_password_closes_with_access_refused() {
    let mut broker = Broker::new();
    let at = broker.connect();
    broker.bytes(at, &frame::PROTOCOL_HEADER);
    let methods = broker.call(at, 0, &start_ok("PLAIN", b"\0guest\0wrong"));
    let text = "ACCESS_REFUSED - Login was refused using authentication mechanism PLAIN. \
                For details see the broker logfile.";
    assert_eq!(close_text(&methods), (403, text.to_owned()));
}

#[test]
fn tuning_stays_within_what_was_offered() {
    let check = |channel_max, frame_max, expected: Result<(u16, u32), &str>| {
        let tuned = handshake::tune(&Limits::default(), channel_max, frame_max);
        let tuned = tuned
            .map(|tuned| (tuned.channel_max, tuned.frame_max))
            .map_err(|fault| fault.text);
        assert_eq!(tuned, expected.map_err(str::to_owned));
    };
    check(2047, 131_072, Ok((2047, 131_072)));
    check(1, 4096, Ok((1, 4096)));
    check(
        2047,
        100,
        Err("negotiated frame_max = 100 is lower than the minimum allowed value (4096)"),
    );
    check(
        2047,
        0,
        Err("negotiated frame_max = 0 (no limit) is higher than the maximum allowed value (131072)"),
    );
    check(
        5000,
        131_072,
        Err("negotiated channel_max = 5000 is higher than the maximum allowed value (2047)"),
    );
}

#[test]
fn an_unknown_vhost_is_not_opened() {
    let mut broker = Broker::new();
    let at = broker.connect();
    broker.bytes(at, &frame::PROTOCOL_HEADER);
    broker.send(at, 0, &start_ok("PLAIN", b"\0guest\0guest"));
    broker.send(
        at,
        0,
        &Method::ConnectionTuneOk {
            channel_max: 10,
            frame_max: 8192,
            heartbeat: 0,
        },
    );
    let methods = broker.call(
        at,
        0,
        &Method::ConnectionOpen {
            virtual_host: short("nowhere"),
        },
    );
    assert_eq!(
        close_text(&methods),
        (530, "NOT_ALLOWED - vhost nowhere not found".to_owned())
    );
}

#[test]
fn a_silent_handshake_is_dropped() {
    let mut broker = Broker::new();
    let at = broker.connect();
    broker.tick(9_999);
    assert!(!broker.clients[at].core.is_over());
    broker.tick(1);
    assert!(broker.clients[at].core.is_over());
}

#[test]
fn faults_close_what_they_should() {
    let check = |method: &Method, expected: (u16, &str)| {
        let mut broker = Broker::new();
        let at = broker.channel();
        broker.send(at, 1, &declare("q"));
        broker.send(at, 1, &consume("q", "t", false));
        let methods = broker.call(at, 1, method);
        let hard = matches!(methods.last(), Some(Method::ConnectionClose { .. }));
        let (code, text) = close_text(&methods);
        assert_eq!((code, text.as_str()), expected);
        assert_eq!(hard, ![403, 404, 405, 406].contains(&code), "{text}");
    };
    check(
        &Method::BasicAck {
            delivery_tag: 7,
            multiple: false,
        },
        (406, "PRECONDITION_FAILED - unknown delivery tag 7"),
    );
    check(
        &consume("q", "t", false),
        (530, "NOT_ALLOWED - attempt to reuse consumer tag 't'"),
    );
    check(
        &consume("none", "u", false),
        (404, "NOT_FOUND - no queue 'none' in vhost '/'"),
    );
    check(
        &Method::ChannelOpen {},
        (504, "CHANNEL_ERROR - second 'channel.open' seen"),
    );
    check(
        &Method::BasicQos {
            prefetch_size: 5,
            prefetch_count: 0,
            global: false,
        },
        (540, "NOT_IMPLEMENTED - prefetch_size!=0 (5)"),
    );
    check(
        &Method::BasicRecover { requeue: false },
        (540, "NOT_IMPLEMENTED - requeue=false"),
    );
    check(
        &Method::ChannelFlow { active: false },
        (540, "NOT_IMPLEMENTED - active=false"),
    );
    check(
        &declare("amq.x"),
        (
            403,
            "ACCESS_REFUSED - queue name 'amq.x' contains reserved prefix 'amq.*'",
        ),
    );
    check(
        &Method::QueueDelete {
            queue: short("q"),
            if_unused: true,
            if_empty: false,
            no_wait: false,
        },
        (406, "PRECONDITION_FAILED - queue 'q' in vhost '/' in use"),
    );
    check(
        &Method::BasicPublish {
            exchange: short(""),
            routing_key: short("q"),
            mandatory: false,
            immediate: true,
        },
        (540, "NOT_IMPLEMENTED - immediate=true"),
    );
    // An empty name is no queue, whatever was declared before.
    check(
        &Method::QueueDeclare {
            queue: short(""),
            passive: true,
            durable: false,
            exclusive: false,
            auto_delete: false,
            no_wait: false,
            arguments: crate::amqp::Table::new(),
        },
        (404, "NOT_FOUND - no queue '' in vhost '/'"),
    );
    for misplaced in [
        Method::ConnectionClose {
            reply_code: 200,
            reply_text: short("bye"),
            class_id: 0,
            method_id: 0,
        },
        Method::ConnectionOpen {
            virtual_host: short("/"),
        },
        Method::ChannelCloseOk {},
        Method::BasicGetEmpty {},
        Method::ConfirmSelectOk {},
    ] {
        check(&misplaced, (503, "COMMAND_INVALID - unimplemented method"));
    }
}

#[test]
fn a_heartbeat_is_empty_and_on_channel_0() {
    for (bytes, code) in [
        (&b"\x08\0\0\0\0\0\x03abc\xCE"[..], 501),
        (&b"\x08\0\x01\0\0\0\0\xCE"[..], 505),
    ] {
        let mut broker = Broker::new();
        let at = broker.channel();
        broker.clients[at].heard.clear();
        broker.bytes(at, bytes);
        assert_eq!(close_text(&broker.clients[at].methods()).0, code);
    }
}

#[test]
fn a_channel_that_was_never_opened_closes_the_connection() {
    let mut broker = Broker::new();
    let at = broker.client();
    let methods = broker.call(at, 3, &declare("q"));
    assert_eq!(
        close_text(&methods),
        (504, "CHANNEL_ERROR - expected 'channel.open'".to_owned())
    );
    let methods = broker.call(at, 0, &Method::ConnectionCloseOk {});
    assert!(methods.is_empty());
    assert!(broker.clients[at].core.is_over());
}

#[test]
fn permissions_are_asked_before_anything_else() {
    let mut broker = Broker::new();
    let at = broker.channel();
    broker.permit("^a", "^b", "^c");
    let methods = broker.call(at, 1, &declare("b"));
    let text = "ACCESS_REFUSED - configure access to queue 'b' in vhost '/' refused for user 'guest'";
    assert_eq!(close_text(&methods), (403, text.to_owned()));
    broker.send(at, 1, &Method::ChannelCloseOk {});
    broker.send(at, 1, &Method::ChannelOpen {});
    assert!(matches!(
        broker.call(at, 1, &declare("a"))[..],
        [Method::QueueDeclareOk { .. }]
    ));
    let mut bytes = bytes::BytesMut::new();
    put_publish(&mut bytes, 1, "", "a", false, &Properties::default(), b"x");
    broker.bytes(at, &bytes);
    let text = "ACCESS_REFUSED - write access to exchange 'amq.default' in vhost '/' refused for user 'guest'";
    assert_eq!(close_text(&broker.clients[at].methods()), (403, text.to_owned()));
}

#[test]
fn a_closed_channel_gives_its_messages_back() {
    let mut broker = Broker::new();
    let at = broker.channel();
    broker.send(at, 1, &declare("q"));
    broker.send(at, 1, &consume("q", "", false));
    for body in ["1", "2", "3"] {
        broker.publish(at, 1, "", "q", body.as_bytes());
    }
    assert_eq!(broker.stats("q").unacked, 3);
    let close = Method::ChannelClose {
        reply_code: 200,
        reply_text: short("bye"),
        class_id: 0,
        method_id: 0,
    };
    assert_eq!(broker.call(at, 1, &close), [Method::ChannelCloseOk {}]);
    let stats = broker.stats("q");
    assert_eq!((stats.ready, stats.unacked, stats.consumers), (3, 0, 0));
    // The number is free for another opening, and the messages come in their old order.
    broker.send(at, 1, &Method::ChannelOpen {});
    broker.clients[at].heard.clear();
    broker.send(at, 1, &consume("q", "", false));
    let bodies: Vec<_> = broker.clients[at]
        .heard
        .iter()
        .filter_map(|heard| match heard {
            Heard::Content(1, Method::BasicDeliver { redelivered: true, .. }, _, body) => Some(body.clone()),
            _ => None,
        })
        .collect();
    assert_eq!(bodies, ["1", "2", "3"]);
}

#[test]
fn exclusive_queues_are_gone_before_close_ok() {
    let mut broker = Broker::new();
    let (at, other) = (broker.channel(), broker.channel());
    let exclusive = Method::QueueDeclare {
        queue: short(""),
        passive: false,
        durable: false,
        exclusive: true,
        auto_delete: false,
        no_wait: false,
        arguments: crate::amqp::Table::new(),
    };
    let [Method::QueueDeclareOk { queue, .. }] = &broker.call(at, 1, &exclusive)[..] else {
        panic!("not declared");
    };
    assert!(queue.starts_with("amq.gen-") && queue.len() == 30, "{queue}");
    let methods = broker.call(other, 1, &consume(queue, "", false));
    assert_eq!(close_text(&methods).0, 405);
    let close = Method::ConnectionClose {
        reply_code: 200,
        reply_text: short("bye"),
        class_id: 0,
        method_id: 0,
    };
    assert_eq!(broker.call(at, 0, &close), [Method::ConnectionCloseOk {}]);
    assert!(broker.view.queue("/", queue).is_none());
    assert!(broker.clients[at].core.is_over());
}

#[test]
fn a_lost_connection_still_delivers_what_it_had_taken_in() {
    let mut broker = Broker::new();
    let at = broker.channel();
    broker.send(at, 1, &declare("q"));
    broker.wire.is_full = true;
    broker.publish(at, 1, "", "q", b"late");
    broker.clients[at].core.begin(broker.now_ms);
    broker.clients[at].core.on_lost();
    broker.run();
    assert!(!broker.clients[at].core.is_over());
    broker.wire.is_full = false;
    broker.tick(20);
    assert_eq!(broker.stats("q").ready, 1);
    assert_eq!(broker.stats("q").sessions, 0);
    assert!(broker.clients[at].core.is_over());
}

#[test]
fn an_exclusive_queue_whose_declaration_is_under_way_goes_with_its_connection() {
    let mut broker = Broker::new();
    let at = broker.channel();
    broker.holds_changes = true;
    broker.send(at, 1, &declare_exclusive("q"));
    broker.lose(at);
    assert!(!broker.clients[at].core.is_over(), "the declaration has no outcome");
    broker.make_held_changes();
    assert!(broker.view.queue("/", "q").is_none());
    assert!(broker.clients[at].core.is_over());
}

#[test]
fn a_change_that_has_no_outcome_does_not_keep_a_connection_for_ever() {
    let mut broker = Broker::new();
    let at = broker.channel();
    broker.holds_changes = true;
    broker.send(at, 1, &declare_exclusive("q"));
    let close = Method::ConnectionClose {
        reply_code: 200,
        reply_text: short("bye"),
        class_id: 0,
        method_id: 0,
    };
    assert_eq!(broker.call(at, 0, &close), []);
    broker.tick(10_000);
    assert_eq!(broker.clients[at].methods(), [Method::ConnectionCloseOk {}]);
    assert!(broker.clients[at].core.is_over());
}

#[test]
fn a_deleted_queue_cancels_its_consumers() {
    let mut broker = Broker::new();
    let (at, other) = (broker.channel(), broker.channel());
    broker.send(at, 1, &declare("q"));
    broker.send(at, 1, &consume("q", "t", false));
    broker.clients[at].heard.clear();
    let delete = Method::QueueDelete {
        queue: short("q"),
        if_unused: false,
        if_empty: false,
        no_wait: false,
    };
    assert_eq!(
        broker.call(other, 1, &delete),
        [Method::QueueDeleteOk { message_count: 0 }]
    );
    assert_eq!(
        broker.clients[at].methods(),
        [Method::BasicCancel {
            consumer_tag: short("t"),
            no_wait: true
        }]
    );
    assert_eq!(
        broker.call(other, 1, &delete),
        [Method::QueueDeleteOk { message_count: 0 }]
    );
}

#[test]
fn a_queue_deleted_under_its_declaration_is_declared_anew() {
    let mut broker = Broker::new();
    let at = broker.channel();
    broker.send(at, 1, &declare("q"));
    let old = broker.view.queue("/", "q").expect("it is declared").group;
    broker.clients[at].heard.clear();
    broker.wire.is_full = true;
    broker.send(at, 1, &declare("q"));
    broker.change(Change::DeleteQueue { group: old });
    broker.wire.is_full = false;
    broker.run();
    let declared = Method::QueueDeclareOk {
        queue: short("q"),
        message_count: 0,
        consumer_count: 0,
    };
    assert_eq!(broker.clients[at].methods(), [declared]);
    let queue = broker.view.queue("/", "q").expect("it is declared");
    assert_ne!(queue.group, old);
    assert_eq!(queue.replicas(), [1]);
}

#[test]
fn a_queue_that_has_ended_is_not_found_by_its_next_consumer() {
    let mut broker = Broker::new();
    let (at, other) = (broker.channel(), broker.channel());
    broker.send(at, 1, &declare("q"));
    // The machine has ended; the metadata still show the queue.
    broker.holds_changes = true;
    let delete = Method::QueueDelete {
        queue: short("q"),
        if_unused: false,
        if_empty: false,
        no_wait: false,
    };
    broker.keeps_ended_queues = true;
    broker.send(at, 1, &delete);
    let methods = broker.call(other, 1, &consume("q", "t", false));
    assert_eq!(
        close_text(&methods),
        (404, "NOT_FOUND - no queue 'q' in vhost '/'".to_owned())
    );
}

#[test]
fn an_auto_delete_queue_goes_with_its_last_consumer() {
    let mut broker = Broker::new();
    let at = broker.channel();
    let Method::QueueDeclare {
        queue,
        passive,
        durable,
        exclusive,
        no_wait,
        arguments,
        ..
    } = declare("q")
    else {
        panic!("a declaration");
    };
    let auto_delete = true;
    broker.send(
        at,
        1,
        &Method::QueueDeclare {
            queue,
            passive,
            durable,
            exclusive,
            auto_delete,
            no_wait,
            arguments,
        },
    );
    broker.send(at, 1, &consume("q", "t", false));
    let cancel = Method::BasicCancel {
        consumer_tag: short("t"),
        no_wait: false,
    };
    assert_eq!(
        broker.call(at, 1, &cancel),
        [Method::BasicCancelOk {
            consumer_tag: short("t")
        }]
    );
    assert!(broker.view.queue("/", "q").is_none());
}

#[test]
fn output_that_nobody_takes_counts_as_missed_heartbeats() {
    let mut broker = Broker::new();
    broker.limits.output_bytes_max = 100_000;
    let publisher = broker.channel();
    broker.send(publisher, 1, &declare("q"));
    for _ in 0..3 {
        broker.publish(publisher, 1, "", "q", &[0; 50_000]);
    }
    let at = broker.client_with(10);
    broker.send(at, 1, &Method::ChannelOpen {});
    broker.clients[at].is_stuck = true;
    broker.send(at, 1, &consume("q", "t", false));
    assert!(!broker.clients[at].core.wants_input(), "its output is full");
    broker.tick(19_000);
    assert!(!broker.clients[at].core.is_over());
    broker.tick(1_000);
    assert!(broker.clients[at].core.is_over());
    assert_eq!(broker.stats("q").ready, 3);
}

#[test]
fn a_client_that_may_say_nothing_is_not_missed() {
    let mut broker = Broker::new();
    broker.limits.unapplied_bytes_max = 100;
    let at = broker.client_with(10);
    broker.send(at, 1, &Method::ChannelOpen {});
    broker.send(at, 1, &declare("q"));
    broker.wire.is_full = true;
    broker.publish(at, 1, "", "q", &[0; 1_000]);
    assert!(!broker.clients[at].core.wants_input());
    broker.tick(19_000);
    broker.tick(19_000);
    assert!(!broker.clients[at].core.is_over());
    broker.wire.is_full = false;
    broker.tick(100);
    assert!(broker.clients[at].core.wants_input());
    broker.tick(19_000);
    assert!(!broker.clients[at].core.is_over(), "it had no time to speak");
    broker.tick(1_000);
    assert!(broker.clients[at].core.is_over());
}

#[test]
fn missed_heartbeats_end_the_connection() {
    let mut broker = Broker::new();
    let at = broker.client_with(10);
    broker.tick(19_000);
    assert!(!broker.clients[at].core.is_over());
    broker.bytes(at, &[8, 0, 0, 0, 0, 0, 0, 0xCE]);
    broker.tick(19_000);
    assert!(!broker.clients[at].core.is_over());
    broker.tick(1_000);
    assert!(broker.clients[at].core.is_over());
}
