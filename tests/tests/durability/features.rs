//! The leader is killed in the middle of each feature: what was pending comes to pass all the same, once, and not before
//! its time.

use std::time::{Duration, Instant};

use warren_tests::amqp::method::*;
use warren_tests::amqp::wire::{Properties, Table, Value};
use warren_tests::amqp::{Client, Login};
use warren_tests::cluster::{Cluster, NODES, PATIENCE, await_some, name};

/// How long what is pending takes: long enough for the leader to die meanwhile.
const PENDING_MS: i32 = 2_500;
/// A client that is not killed talks to this node, and the queues are led by that one, which is killed.
const HOME: usize = 0;
const VICTIM: usize = 1;

/// A cluster, and a client of a node that lives on.
struct World {
    cluster: Cluster,
    client: Client,
}

fn connect(cluster: &Cluster, node: usize) -> Client {
    let login = Login {
        address: Some(cluster.address(node)),
        ..Login::default()
    };
    login.connect()
}

/// Published messages keep their time; brokers count whole milliseconds, of which the first is not whole.
fn not_before(began: Instant, what: &str) {
    let pending = Duration::from_millis(PENDING_MS.unsigned_abs().into());
    let passed = began.elapsed() + Duration::from_millis(1);
    assert!(passed >= pending, "{what} after {passed:?}");
}

impl World {
    fn new() -> Self {
        let cluster = Cluster::start();
        let client = connect(&cluster, HOME);
        Self { cluster, client }
    }

    /// A quorum queue that the victim leads.
    #[track_caller]
    fn queue(&mut self, queue: &str, arguments: &[(&str, Value)]) -> String {
        let mut there = connect(&self.cluster, VICTIM);
        let channel = there.channel();
        let mut all = Table::from([("x-queue-type", "quorum")]);
        all.0
            .extend(arguments.iter().map(|(key, value)| ((*key).to_owned(), value.clone())));
        let declare = QueueDeclare {
            queue: queue.into(),
            durable: true,
            arguments: all,
            ..Default::default()
        };
        there.call(channel, &declare);
        there.close();
        self.cluster.lead(HOME, queue, VICTIM);
        queue.to_owned()
    }

    /// A channel in confirm mode.
    #[track_caller]
    fn confirming(&mut self) -> u16 {
        let channel = self.client.channel();
        self.client.confirm(channel);
        channel
    }

    #[track_caller]
    fn fill(&mut self, queue: &str, messages: &[(&str, Properties)]) {
        let channel = self.confirming();
        for (body, properties) in messages {
            self.client.publish(channel, "", queue, properties, body.as_bytes());
        }
        self.client.confirmed(channel);
    }

    #[track_caller]
    fn kill(&mut self) {
        self.cluster.kill(VICTIM);
    }

    /// The next message, however long it takes.
    #[track_caller]
    fn next(&mut self, channel: u16, queue: &str) -> warren_tests::amqp::Delivery {
        self.client.until("a message", |client| {
            client.get(channel, queue, false).map(|(delivery, _)| delivery)
        })
    }

    /// All that is ready, taken.
    #[track_caller]
    fn drain(&mut self, queue: &str) -> Vec<String> {
        let channel = self.client.channel();
        std::iter::from_fn(|| self.client.get(channel, queue, true))
            .map(|(delivery, _)| delivery.text())
            .collect()
    }

    /// The killed node comes back, catches up, and finds the queue empty as the others do.
    #[track_caller]
    fn finish(mut self) {
        self.client.close();
        self.cluster.start_node(VICTIM);
        self.cluster.await_whole();
        self.cluster.finish();
    }
}

fn plain() -> Properties {
    Properties::persistent()
}

fn consume(queue: &str, tag: &str) -> BasicConsume {
    BasicConsume {
        queue: queue.into(),
        consumer_tag: tag.into(),
        ..Default::default()
    }
}

fn ack(tag: u64) -> BasicAck {
    BasicAck {
        delivery_tag: tag,
        multiple: false,
    }
}

fn reject(tag: u64) -> BasicReject {
    BasicReject {
        delivery_tag: tag,
        requeue: true,
    }
}

fn letters_to(target: &str) -> [(&'static str, Value); 2] {
    [
        ("x-dead-letter-exchange", Value::from("")),
        ("x-dead-letter-routing-key", Value::from(target)),
    ]
}

#[test]
fn times_that_run_come_to_their_end() {
    let mut world = World::new();
    let millis = || Value::I32(PENDING_MS);
    let target = world.queue("expired", &[]);
    let [exchange, key] = letters_to(&target);
    let expiring = world.queue("expiring", &[exchange, key, ("x-message-ttl", millis())]);
    let held = world.queue("held", &[("x-consumer-timeout", millis())]);
    let rest = [
        ("x-delayed-retry-type", Value::from("all")),
        ("x-delayed-retry-min", millis()),
        ("x-delayed-retry-max", millis()),
    ];
    let resting = world.queue("resting", &rest);
    let unused = world.queue("unused", &[("x-expires", millis())]);

    world.fill(&held, &[("held", plain())]);
    world.fill(&resting, &[("resting", plain())]);
    let (holding, giving) = (world.client.channel(), world.client.channel());
    let began = Instant::now();
    world.fill(&expiring, &[("expiring", plain())]);
    world.client.call(holding, &consume(&held, "late"));
    assert_eq!(world.client.delivery(holding).text(), "held");
    let given = world.next(giving, &resting);
    let given_at = Instant::now();
    world.client.send(giving, &reject(given.tag));
    // Answered after the rejection has been applied.
    world.client.call(giving, &BasicRecover { requeue: true });
    world.kill();
    println!("{} killed {:?} after the first began", name(VICTIM), began.elapsed());

    let again = world.next(giving, &resting);
    not_before(given_at, "the message that rested");
    assert!(again.redelivered);
    world.client.send(giving, &ack(again.tag));

    assert_eq!(world.client.expect::<BasicCancel>(holding).consumer_tag, "late");
    not_before(began, "the late consumer");
    let other = world.client.channel();
    let back = world.next(other, &held);
    assert_eq!((back.text().as_str(), back.redelivered), ("held", true));
    world.client.send(other, &ack(back.tag));

    let dead = world.next(other, &target);
    not_before(began, "the dead letter");
    assert_eq!(dead.text(), "expiring");
    world.client.send(other, &ack(dead.tag));
    for queue in [&expiring, &target, &held, &resting] {
        assert_eq!(world.drain(queue), [""; 0], "{queue}");
    }
    // It goes some time after its last use, whoever leads; looking at it would be a use.
    await_some("the unused queue is gone", PATIENCE, || {
        match world.cluster.queue(HOME, &unused) {
            Ok(row) => Err(row.to_string()),
            Err(_) => Ok(()),
        }
    });
    not_before(began, "the end of the unused queue");
    world.finish();
}

#[test]
fn what_a_queue_knows_of_its_messages_is_kept() {
    let mut world = World::new();
    let target = world.queue("failed", &[]);
    let [exchange, key] = letters_to(&target);
    let limited = world.queue("limited", &[exchange, key, ("x-delivery-limit", Value::I32(2))]);
    let levels = world.queue("levels", &[]);
    let single = world.queue("unique", &[("x-message-deduplication", Value::from(true))]);

    let of = |priority| Properties {
        priority: Some(priority),
        ..plain()
    };
    let keyed = || Properties {
        headers: Some(Table::from([("x-deduplication-header", "a")])),
        ..plain()
    };
    world.fill(&levels, &[("1", of(1)), ("9", of(9)), ("5", of(5)), ("10", of(9))]);
    world.fill(&single, &[("first", keyed())]);
    world.fill(&limited, &[("fails", plain())]);
    let channel = world.client.channel();
    for _ in 0..2 {
        let taken = world.next(channel, &limited);
        world.client.send(channel, &reject(taken.tag));
    }
    world.client.call(channel, &BasicRecover { requeue: true });
    world.kill();

    let last = world.next(channel, &limited);
    let headers = last.content.properties().headers.expect("counts");
    assert_eq!(headers.get("x-delivery-count"), Some(&Value::I64(2)));
    assert_eq!(headers.get("x-acquired-count"), Some(&Value::I64(2)));
    world.client.send(channel, &reject(last.tag));
    let dead = world.next(channel, &target);
    assert_eq!(dead.text(), "fails");
    world.client.send(channel, &ack(dead.tag));

    world.fill(&single, &[("second", keyed()), ("other", plain())]);
    assert_eq!(world.drain(&single), ["first", "other"]);
    world.fill(&single, &[("again", keyed())]);
    assert_eq!(world.drain(&single), ["again"]);

    world.fill(&levels, &[("7", of(7))]);
    assert_eq!(world.drain(&levels), ["9", "10", "7", "5", "1"]);
    for queue in [&limited, &target] {
        assert_eq!(world.drain(queue), [""; 0], "{queue}");
    }
    world.finish();
}

#[test]
fn an_open_transaction_is_committed_whole_or_not_at_all() {
    let mut world = World::new();
    let queues = [world.queue("one", &[]), world.queue("two", &[])];
    world.fill(&queues[0], &[("settled", plain()), ("kept", plain())]);
    let (committed, dropped, abandoned) = (world.client.channel(), world.client.channel(), world.client.channel());
    for channel in [committed, dropped, abandoned] {
        world.client.call(channel, &TxSelect::default());
        for queue in &queues {
            for number in 0..50 {
                let body = format!("{channel}.{number}");
                world.client.publish(channel, "", queue, &plain(), body.as_bytes());
            }
        }
    }
    let settled = world.next(committed, &queues[0]);
    world.client.send(committed, &ack(settled.tag));
    let kept = world.next(dropped, &queues[0]);
    world.client.send(dropped, &ack(kept.tag));
    world.kill();
    world.client.call(dropped, &TxRollback::default());
    world.client.call(committed, &TxCommit::default());
    for channel in [dropped, abandoned] {
        let close = ChannelClose {
            code: 200,
            ..Default::default()
        };
        world.client.call(channel, &close);
    }
    let expected: Vec<String> = (0..50).map(|number| format!("{committed}.{number}")).collect();
    let channel = world.client.channel();
    // What the rollback gave back to its channel, and the channel to the queue, has its old place.
    let back = world.next(channel, &queues[0]);
    assert_eq!((back.text().as_str(), back.redelivered), ("kept", true));
    world.client.send(channel, &ack(back.tag));
    assert_eq!(world.drain(&queues[0]), expected);
    assert_eq!(world.drain(&queues[1]), expected);
    world.finish();
}

#[test]
fn consumers_take_over_and_replies_arrive() {
    let mut world = World::new();
    let single = world.queue("single", &[("x-single-active-consumer", Value::from(true))]);
    let requests = world.queue("requests", &[]);
    // The active consumer is at the node that leads, and dies with it.
    let mut dying = connect(&world.cluster, VICTIM);
    let theirs = dying.channel();
    dying.call(theirs, &consume(&single, "active"));
    let (second, third) = (world.client.channel(), world.client.channel());
    world.client.call(second, &consume(&single, "second"));
    world.client.call(third, &consume(&single, "third"));
    world.fill(&single, &[("one", plain()), ("two", plain())]);
    assert_eq!(dying.delivery(theirs).text(), "one");
    assert_eq!(dying.delivery(theirs).text(), "two");

    // A request waits in the queue, its requester and its replier live on.
    let asking = world.client.channel();
    let replies = BasicConsume {
        no_ack: true,
        ..consume("amq.rabbitmq.reply-to", "replies")
    };
    world.client.call(asking, &replies);
    let request = Properties {
        reply_to: Some("amq.rabbitmq.reply-to".into()),
        ..plain()
    };
    world.client.confirm(asking);
    world.client.publish(asking, "", &requests, &request, b"request");
    world.client.confirmed(asking);
    world.kill();

    let mut replier = connect(&world.cluster, (VICTIM + 1) % NODES);
    let answering = replier.channel();
    let asked = replier.until("the request", |client| client.get(answering, &requests, true));
    let reply_to = asked.0.content.properties().reply_to.expect("its requester's name");
    replier.publish(answering, "", &reply_to, &Properties::default(), b"reply");
    assert_eq!(world.client.delivery(asking).text(), "reply");

    for body in ["one", "two"] {
        let taken = world.client.delivery(second);
        assert_eq!((taken.text().as_str(), taken.redelivered), (body, true));
        world.client.send(second, &ack(taken.tag));
    }
    world.fill(&single, &[("three", plain())]);
    let taken = world.client.delivery(second);
    assert_eq!((taken.text().as_str(), taken.redelivered), ("three", false));
    world.client.send(second, &ack(taken.tag));
    let cancel = BasicCancel {
        consumer_tag: "second".into(),
        nowait: false,
    };
    world.client.call(second, &cancel);
    world.fill(&single, &[("four", plain())]);
    let taken = world.client.delivery(third);
    assert_eq!(taken.text(), "four");
    world.client.send(third, &ack(taken.tag));
    let leader = world.cluster.leader(HOME, &single);
    assert_ne!(leader, VICTIM);
    replier.close();
    drop(dying);
    world.finish();
}
