use warren_proto::record::{Stored, batches};

use super::*;

const SESSION: SessionId = SessionId {
    node: 1,
    incarnation: 1,
    id: 7,
};
const CHANNEL: ChannelId = ChannelId { number: 1, opening: 1 };

fn client() -> QueueClient {
    QueueClient::new(SESSION, 5)
}

fn publish(client: &mut QueueClient, tag: u64, body: &'static [u8], now_ms: u64) {
    let message = Publish {
        persistent: true,
        priority: None,
        ttl_ms: None,
        origin: None,
        bcc: &[],
        exchange: b"",
        routing_key: b"q",
        properties: &[0, 0],
        body: &[Bytes::from_static(body)],
    };
    client.publish(&message, Some((CHANNEL, tag)), now_ms);
}

fn applied(upto: u64) -> Events {
    Events {
        group: 5,
        term: 1,
        applied: upto,
        ..Events::default()
    }
}

fn hear(client: &mut QueueClient, events: &Events, now_ms: u64) -> Vec<Notice> {
    let mut out = Vec::new();
    client.apply(events, now_ms, &mut out);
    client.finish(events, now_ms, &mut out);
    out
}

fn sent(client: &mut QueueClient) -> Vec<Bytes> {
    std::iter::from_fn(|| client.next_send()).collect()
}

/// First number and count of each batch.
fn numbers(batches_sent: &[Bytes]) -> Vec<(u64, u32)> {
    let parse = |bytes: &Bytes| {
        let batch = batches(bytes).next().expect("one batch").expect("well formed");
        assert_eq!(batch.session, SESSION);
        (batch.first_seq, batch.count)
    };
    batches_sent.iter().map(parse).collect()
}

fn run(first: u64, len: u32) -> Run {
    Run { first, len }
}

fn attach(client: &mut QueueClient, consumer: u32, now_ms: u64) {
    let attach = queue::Attach {
        consumer,
        ..queue::Attach::default()
    };
    client.ask(CHANNEL, Asked::Attach(consumer), &Command::Attach(attach), now_ms);
}

fn delivery(consumer: u32, delivery_id: u64) -> Delivery {
    Delivery {
        consumer,
        delivery_id,
        seq: delivery_id,
        get_seq: 0,
        redelivered: false,
        acquired: 0,
        failed: 0,
        payload: Bytes::new(),
    }
}

fn reply(kind: Reply) -> queue::Reply {
    queue::Reply { kind: Some(kind) }
}

#[test]
fn one_batch_carries_a_whole_read() {
    let mut client = client();
    for tag in 1..=3 {
        publish(&mut client, tag, b"body", 10);
    }
    assert_eq!(sent(&mut client), Vec::<Bytes>::new());
    client.seal(10);
    let batches_sent = sent(&mut client);
    assert_eq!(numbers(&batches_sent), [(1, 3)]);
    let batch = batches(&batches_sent[0]).next().expect("one").expect("well formed");
    for command in batch.commands() {
        let Ok(Command::Publish { payload, .. }) = command else {
            panic!("not a publish")
        };
        assert_eq!(Stored::decode(payload).expect("well formed").body, b"body");
    }
    assert_eq!(
        hear(&mut client, &applied(3), 11),
        [Notice::Confirmed(CHANNEL, run(1, 3))]
    );
    assert!(client.is_all_applied() && !client.needs_tick());
    assert_eq!(client.unapplied_bytes(), 0);
}

#[test]
fn confirms_follow_what_is_applied() {
    let mut client = client();
    for tag in 1..=4 {
        publish(&mut client, tag, b"", 10);
    }
    client.seal(10);
    assert_eq!(
        hear(&mut client, &applied(1), 11),
        [Notice::Confirmed(CHANNEL, run(1, 1))]
    );
    // Said before, or by a former leader.
    assert_eq!(hear(&mut client, &applied(1), 11), []);
    assert_eq!(hear(&mut client, &applied(0), 11), []);
    let refused = Events {
        refused: vec![run(3, 1)],
        ..applied(4)
    };
    assert_eq!(
        hear(&mut client, &refused, 12),
        [
            Notice::Confirmed(CHANNEL, run(2, 1)),
            Notice::Confirmed(CHANNEL, run(4, 1)),
            Notice::Refused(CHANNEL, run(3, 1)),
        ]
    );
}

#[test]
fn a_new_leader_gets_everything_unapplied_again() {
    let mut client = client();
    for tag in 1..=3 {
        publish(&mut client, tag, b"", tag);
        client.seal(tag);
    }
    assert_eq!(numbers(&sent(&mut client)), [(1, 1), (2, 1), (3, 1)]);
    hear(&mut client, &applied(1), 10);
    client.rewind(20);
    assert_eq!(numbers(&sent(&mut client)), [(2, 1), (3, 1)]);
    assert_eq!(sent(&mut client).len(), 0);
}

#[test]
fn what_did_not_leave_is_offered_again() {
    let mut client = client();
    publish(&mut client, 1, b"", 1);
    client.seal(1);
    let first = client.next_send().expect("a batch");
    client.not_sent();
    assert_eq!(client.next_send(), Some(first));
    assert_eq!(client.next_send(), None);
}

#[test]
fn the_window_is_bounded() {
    let mut client = client();
    for tag in 1..=1_000 {
        publish(&mut client, tag, b"", 1);
        client.seal(1);
    }
    assert_eq!(sent(&mut client).len(), SENT_BATCHES_MAX);
    hear(&mut client, &applied(10), 2);
    assert_eq!(sent(&mut client).len(), 10);
}

#[test]
fn silence_and_standing_still_are_answered_by_sending_again() {
    let mut client = client();
    publish(&mut client, 1, b"", 1);
    client.seal(1);
    sent(&mut client);
    let mut out = Vec::new();
    client.tick(900, 30_000, &mut out);
    assert_eq!(sent(&mut client).len(), 0);
    client.tick(1_001, 30_000, &mut out);
    assert_eq!(sent(&mut client).len(), 1);
    // The queue says that it stands at 0 and asks for 1.
    hear(&mut client, &applied(0), 1_100);
    assert_eq!(sent(&mut client).len(), 0);
    hear(&mut client, &applied(0), 1_300);
    assert_eq!(sent(&mut client).len(), 1);
    assert_eq!(out, []);
}

#[test]
fn a_queue_that_forgot_the_session_ends_it() {
    let mut client = client();
    for tag in 1..=2 {
        publish(&mut client, tag, b"", 1);
        client.seal(1);
        sent(&mut client);
        hear(&mut client, &applied(tag), 2);
    }
    // A late word of a former leader.
    assert_eq!(hear(&mut client, &applied(0), 3), []);
    publish(&mut client, 3, b"", 10);
    client.seal(10);
    assert_eq!(hear(&mut client, &applied(0), 11), []);
    assert_eq!(hear(&mut client, &applied(0), 1_500), []);
    assert_eq!(hear(&mut client, &applied(0), 2_100), [Notice::Forgotten]);
}

#[test]
fn a_lost_answer_keeps_its_batch() {
    let mut client = client();
    client.ask(CHANNEL, Asked::Stat, &Command::Stat, 1);
    client.seal(1);
    sent(&mut client);
    assert_eq!(hear(&mut client, &applied(1), 2), []);
    let mut out = Vec::new();
    client.tick(1_100, 30_000, &mut out);
    assert_eq!(numbers(&sent(&mut client)), [(1, 1)]);
    let stats = Reply::Stats(queue::Stats { ready: 3, consumers: 0 });
    let answered = Events {
        replies: vec![(1, reply(stats))],
        ..applied(1)
    };
    assert_eq!(
        hear(&mut client, &answered, 1_200),
        [Notice::Answer(CHANNEL, Asked::Stat, stats)]
    );
    assert_eq!(hear(&mut client, &answered, 1_200), []);
    assert!(!client.needs_tick());
}

#[test]
fn deliveries_are_taken_once_and_in_order() {
    let mut client = client();
    attach(&mut client, 9, 1);
    client.seal(1);
    let events = Events {
        replies: vec![(1, reply(Reply::Attached(queue::Attached { offset: None })))],
        ..applied(1)
    };
    // Before its consumer is known to have started, a delivery is asked for again.
    assert_eq!(client.accept(&events, &delivery(9, 1), 1), Accepted::Drop);
    hear(&mut client, &events, 2);
    assert_eq!(
        client.take_resync(Share::of(1), 2).expect("due").consumers,
        [asked_again(9, 1)]
    );
    assert_eq!(client.accept(&events, &delivery(9, 1), 3), Accepted::Deliver);
    assert_eq!(client.accept(&events, &delivery(9, 1), 3), Accepted::Drop);
    assert_eq!(client.take_resync(Share::of(1), 1_000), None);
    assert_eq!(client.accept(&events, &delivery(9, 3), 3), Accepted::Drop);
    assert_eq!(
        client.take_resync(Share::of(1), 1_000).expect("due").consumers[0].next,
        2
    );
    assert_eq!(client.accept(&events, &delivery(9, 2), 3), Accepted::Deliver);
    assert_eq!(client.accept(&events, &delivery(9, 3), 3), Accepted::Deliver);
}

#[test]
fn a_resync_is_repeated_until_it_is_answered() {
    let mut client = client();
    attach(&mut client, 9, 1);
    client.seal(1);
    let events = Events {
        replies: vec![(1, reply(Reply::Attached(queue::Attached { offset: None })))],
        ..applied(1)
    };
    hear(&mut client, &events, 2);
    assert!(!client.needs_tick());
    client.rewind(10);
    let first = client.take_resync(Share::of(1), 10).expect("due");
    assert!(client.needs_tick(), "it may be lost");
    assert_eq!(client.take_resync(Share::of(1), 900), None);
    let second = client.take_resync(Share::of(1), 1_100).expect("due again");
    assert!(second.number > first.number);
    let answer = |number| Events {
        replies: vec![(number, reply(Reply::Resynced(queue::Resynced {})))],
        ..applied(1)
    };
    hear(&mut client, &answer(first.number), 1_200);
    assert!(client.needs_tick(), "an answer to another question");
    hear(&mut client, &answer(second.number), 1_200);
    assert!(!client.needs_tick());
    assert_eq!(client.take_resync(Share::of(1), 9_000), None);
}

#[test]
fn late_deliveries_of_an_ended_consumer_go_back() {
    let mut client = client();
    attach(&mut client, 9, 1);
    client.ask(
        CHANNEL,
        Asked::Cancel(9),
        &Command::Cancel(queue::Cancel {
            consumer: 9,
            requeue: false,
        }),
        1,
    );
    let replies = vec![
        (1, reply(Reply::Attached(queue::Attached { offset: None }))),
        (2, reply(Reply::Cancelled(queue::Cancelled {}))),
    ];
    let events = Events {
        replies,
        deliveries: vec![delivery(9, 1)],
        ..applied(2)
    };
    let mut out = Vec::new();
    client.apply(&events, 2, &mut out);
    assert_eq!(client.accept(&events, &events.deliveries[0], 2), Accepted::Deliver);
    client.finish(&events, 2, &mut out);
    assert_eq!(out.len(), 2);
    assert_eq!(client.accept(&events, &delivery(9, 1), 3), Accepted::Drop);
    assert_eq!(client.accept(&events, &delivery(9, 2), 3), Accepted::Return);
    assert_eq!(client.accept(&events, &delivery(9, 2), 3), Accepted::Drop);
    assert_eq!(client.accept(&events, &delivery(77, 1), 3), Accepted::Drop);
}

#[test]
fn a_get_is_answered_once() {
    let mut client = client();
    client.ask(CHANNEL, Asked::Get, &Command::Get(queue::Get { no_ack: false }), 1);
    client.seal(1);
    let answer = Delivery {
        get_seq: 1,
        delivery_id: 0,
        ..delivery(0, 4)
    };
    let replies = vec![(1, reply(Reply::GetOk(queue::GetOk { ready: 6 })))];
    let events = Events {
        replies,
        deliveries: vec![answer.clone()],
        ..applied(1)
    };
    assert_eq!(hear(&mut client, &events, 2), []);
    assert_eq!(client.accept(&events, &answer, 2), Accepted::Got(CHANNEL, 6));
    assert_eq!(client.accept(&events, &answer, 2), Accepted::Drop);
}

#[test]
fn settlements_become_one_command_in_runs() {
    let mut client = client();
    for message in [3, 1, 2, 9] {
        client.settle(Outcome::Ack, message, 9, 1);
    }
    client.settle(Outcome::Release, 5, 9, 1);
    client.seal(1);
    let bytes = client.next_send().expect("a batch");
    let batch = batches(&bytes).next().expect("one").expect("well formed");
    let commands: Vec<_> = batch.commands().collect::<Result<_, _>>().expect("well formed");
    assert_eq!(
        commands,
        [
            Command::Settle {
                outcome: Outcome::Ack,
                runs: vec![run(1, 3), run(9, 1)]
            },
            Command::Settle {
                outcome: Outcome::Release,
                runs: vec![run(5, 1)]
            },
        ]
    );
}

#[test]
fn a_message_with_a_key_comes_after_what_was_settled_before() {
    for (properties, publishes_first) in [(&b"\0\0"[..], true), (b"\0\0 x-deduplication-header", false)] {
        let mut client = client();
        client.settle(Outcome::Ack, 3, 9, 1);
        let message = Publish {
            exchange: b"",
            routing_key: b"q",
            properties,
            ..Publish::default()
        };
        client.publish(&message, None, 1);
        client.seal(1);
        let bytes = client.next_send().expect("a batch");
        let batch = batches(&bytes).next().expect("one").expect("well formed");
        let first = batch.commands().next();
        let is_publish = matches!(first, Some(Ok(Command::Publish { .. })));
        assert_eq!(is_publish, publishes_first);
    }
}

#[test]
fn giving_up_is_said_once() {
    let mut client = client();
    publish(&mut client, 1, b"", 0);
    publish(&mut client, 2, b"", 500);
    client.ask(CHANNEL, Asked::Purge, &Command::Purge, 0);
    client.seal(500);
    let mut out = Vec::new();
    client.tick(30_000, 30_000, &mut out);
    assert_eq!(
        out,
        [
            Notice::Refused(CHANNEL, run(1, 1)),
            Notice::TimedOut(CHANNEL, Asked::Purge)
        ]
    );
    assert_eq!(
        hear(&mut client, &applied(3), 30_001),
        [Notice::Confirmed(CHANNEL, run(2, 1))]
    );
}

#[test]
fn an_ended_queue_has_taken_everything() {
    let mut client = client();
    publish(&mut client, 1, b"", 0);
    client.ask(CHANNEL, Asked::Delete, &Command::Delete(queue::Delete::default()), 0);
    let mut out = Vec::new();
    client.end(&mut out);
    assert_eq!(
        out,
        [
            Notice::Confirmed(CHANNEL, run(1, 1)),
            Notice::Ended(CHANNEL, Asked::Delete)
        ]
    );
}

#[test]
fn large_batches_are_split() {
    let mut client = client();
    static BODY: [u8; 25 << 10] = [0; 25 << 10];
    for tag in 1..=5 {
        publish(&mut client, tag, &BODY, 1);
    }
    client.seal(1);
    assert_eq!(numbers(&sent(&mut client)), [(1, 2), (3, 2), (5, 1)]);
}

#[test]
fn batches_of_many_small_commands_are_split() {
    let mut client = client();
    for tag in 1..=300 {
        publish(&mut client, tag, b"", 1);
    }
    client.seal(1);
    assert_eq!(numbers(&sent(&mut client)), [(1, 256), (257, 44)]);
}

/// What a batch says of answers that were heard.
fn heard(batch: &Bytes) -> Option<u64> {
    let batch = batches(batch).next().expect("one batch").expect("well formed");
    let commands = batch.commands().map(|command| command.expect("well formed"));
    let mut heard = commands.filter_map(|command| match command {
        Command::Heard(heard) => Some(heard.upto),
        _ => None,
    });
    heard.next()
}

#[test]
fn what_was_refused_is_told_once_and_the_queue_that_it_was_heard() {
    let mut client = client();
    for tag in 1..=5 {
        publish(&mut client, tag, b"", 10);
    }
    client.seal(10);
    sent(&mut client);
    let events = Events {
        refused: vec![run(2, 2)],
        ..applied(3)
    };
    let expected = [
        Notice::Confirmed(CHANNEL, run(1, 1)),
        Notice::Refused(CHANNEL, run(2, 2)),
    ];
    assert_eq!(hear(&mut client, &events, 11), expected);
    // Until the queue knows, it says so again; runs may have grown.
    let events = Events {
        refused: vec![run(2, 2), run(2, 3)],
        ..applied(5)
    };
    let expected = [
        Notice::Confirmed(CHANNEL, run(5, 1)),
        Notice::Refused(CHANNEL, run(4, 1)),
    ];
    assert_eq!(hear(&mut client, &events, 12), expected);
    // Nothing is sent for that alone.
    client.seal(13);
    assert!(sent(&mut client).is_empty());
    publish(&mut client, 6, b"", 14);
    client.seal(14);
    let batches_sent = sent(&mut client);
    assert_eq!(
        (numbers(&batches_sent), heard(&batches_sent[0])),
        (vec![(6, 2)], Some(5))
    );
    assert_eq!(
        hear(&mut client, &applied(7), 15),
        [Notice::Confirmed(CHANNEL, run(6, 1))]
    );
    publish(&mut client, 7, b"", 16);
    client.seal(16);
    assert_eq!(heard(&sent(&mut client)[0]), None);
}

#[test]
fn a_consumer_that_timed_out_ends_after_its_deliveries() {
    let mut client = client();
    attach(&mut client, 4, 10);
    client.seal(10);
    sent(&mut client);
    let timed_out = || {
        (
            0,
            reply(Reply::ConsumerTimedOut(queue::ConsumerTimedOut { consumer: 4 })),
        )
    };
    // One that is not known to be attached may be unknown to a leader that was not told yet.
    let early = Events {
        replies: vec![timed_out()],
        ..applied(0)
    };
    assert_eq!(hear(&mut client, &early, 11), []);
    let attached = Events {
        replies: vec![(1, reply(Reply::Attached(queue::Attached { offset: None })))],
        ..applied(1)
    };
    hear(&mut client, &attached, 12);
    let events = Events {
        replies: vec![timed_out()],
        deliveries: vec![delivery(4, 1)],
        ..applied(1)
    };
    let mut out = Vec::new();
    client.apply(&events, 13, &mut out);
    assert_eq!(client.accept(&events, &events.deliveries[0], 13), Accepted::Deliver);
    client.finish(&events, 13, &mut out);
    assert_eq!(out, [Notice::ConsumerTimedOut(4)]);
    // It is said again after a resync, and late deliveries go back.
    out.clear();
    client.finish(&events, 14, &mut out);
    assert_eq!(out, []);
    assert_eq!(client.accept(&events, &delivery(4, 2), 14), Accepted::Return);
}
