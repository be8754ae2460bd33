//! Declaring, deleting, purging and reading queues.

use warren_tests::amqp::Client;
use warren_tests::amqp::method::*;
use warren_tests::amqp::wire::{Table, Value};

use crate::case::{
    Case, ack, bind, consume, counts, delete, differs, drain, durable, exclusive, fill, in_queue, passive, quorum,
    unbind, until_ready,
};

fn with(queue: &str, key: &str, value: Value) -> QueueDeclare {
    QueueDeclare {
        arguments: Table::from([(key, value)]),
        ..durable(queue)
    }
}

#[track_caller]
fn refused_with<C: Call>(method: &C, code: u16, text: &str) {
    let mut client = Client::connect(0);
    let channel = client.channel();
    client.refused(channel, method).channel_error::<C>(code, text);
    client.close();
}

fn locked(queue: &str) -> String {
    format!(
        "RESOURCE_LOCKED - cannot obtain exclusive access to locked {}. It could be originally declared on another \
         connection or the exclusive property value does not match that of the original declaration.",
        in_queue(queue)
    )
}

/// Reply texts longer than a short string are cut.
fn cut(text: String) -> String {
    if text.len() <= 255 {
        text
    } else {
        format!("{}...", &text[..252])
    }
}

#[test]
fn declare_ok_tells_the_name_and_what_is_in_it() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.queue("counted");
    let answer = client.call(channel, &durable(&queue));
    assert_eq!(
        answer,
        QueueDeclareOk {
            queue: queue.clone(),
            messages: 0,
            consumers: 0
        }
    );
    fill(&mut client, &queue, &["one", "two", "three"]);
    assert_eq!(client.call(channel, &durable(&queue)).messages, 3);
    client.get(channel, &queue, false).expect("three are ready");
    // Only ready messages count.
    until_ready(&mut client, channel, &queue, 2);
    client.call(channel, &consume(&queue, ""));
    client.delivery(channel);
    client.delivery(channel);
    client.until("the consumer counted", |client| {
        (counts(client, channel, &queue) == (0, 1)).then_some(())
    });
    client.close();
}

#[test]
fn a_queue_without_a_name_gets_one() {
    let mut client = Client::connect(0);
    let channel = client.channel();
    let mut names: Vec<String> = (0..5).map(|_| client.call(channel, &exclusive("")).queue).collect();
    for name in &names {
        let random = name.strip_prefix("amq.gen-").unwrap_or_else(|| panic!("{name}"));
        assert_eq!(random.len(), 22, "{name}");
        assert!(
            random
                .bytes()
                .all(|byte| byte.is_ascii_alphanumeric() || b"-_".contains(&byte)),
            "{name}"
        );
        client.call(channel, &passive(name));
    }
    names.sort();
    names.dedup();
    assert_eq!(names.len(), 5, "every one another");
    client.refused(channel, &quorum("")).channel_error::<QueueDeclare>(
        406,
        "PRECONDITION_FAILED - Cannot declare a server-named queue for type rabbit_quorum_queue",
    );
    client.close();
}

#[test]
fn an_empty_name_means_the_queue_declared_last_on_the_channel() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let named = client.call(channel, &exclusive("")).queue;
    let exchange = case.declared_exchange(&mut client, channel, "direct", "direct");
    // With an empty key as well, the key is the queue's name.
    client.call(channel, &bind("", &exchange, ""));
    client.confirm(channel);
    client.publish(channel, &exchange, &named, &Default::default(), b"by name");
    client.confirmed(channel);
    assert_eq!(
        client
            .get(channel, "", true)
            .expect("routed by the queue's name")
            .0
            .text(),
        "by name"
    );
    client.call(channel, &consume("", "tag"));
    assert_eq!(client.call(channel, &QueuePurge::default()).messages, 0);
    client.call(channel, &delete(""));
    refused_with(&delete(""), 404, "NOT_FOUND - no previously declared queue");
    client.close();
}

#[test]
fn names_starting_with_amq_are_reserved() {
    refused_with(
        &durable("amq.conformance"),
        403,
        "ACCESS_REFUSED - queue name 'amq.conformance' contains reserved prefix 'amq.*'",
    );
    let mut client = Client::connect(0);
    let channel = client.channel();
    let named = client.call(channel, &exclusive("")).queue;
    let text = format!("ACCESS_REFUSED - queue name '{named}' contains reserved prefix 'amq.*'");
    client
        .refused(channel, &exclusive(&named))
        .channel_error::<QueueDeclare>(403, &text);
    client.close();
}

#[test]
fn declaring_the_same_again_is_fine_and_anything_else_is_406() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let (plain, typed) = (case.queue("plain"), case.queue("typed"));
    client.call(channel, &durable(&plain));
    client.call(channel, &durable(&plain));
    client.call(channel, &with(&typed, "x-message-ttl", Value::I32(100_000)));
    // Integers of every width are one number, an absent type is classic, what nobody knows is not compared.
    for value in [Value::I64(100_000), Value::U32(100_000), Value::I32(100_000)] {
        client.call(channel, &with(&typed, "x-message-ttl", value));
    }
    client.call(channel, &with(&plain, "x-queue-type", Value::from("classic")));
    client.call(channel, &with(&plain, "x-nobody-knows", Value::from("this")));
    for (declare, text) in [
        (
            QueueDeclare {
                durable: false,
                ..durable(&plain)
            },
            "'durable' for {q}: received 'false' but current is 'true'",
        ),
        (
            QueueDeclare {
                auto_delete: true,
                ..durable(&plain)
            },
            "'auto_delete' for {q}: received 'true' but current is 'false'",
        ),
        (
            QueueDeclare {
                auto_delete: true,
                durable: false,
                ..durable(&plain)
            },
            "'durable' for {q}: received 'false' but current is 'true'",
        ),
        (
            with(&plain, "x-message-ttl", Value::I32(5000)),
            "'x-message-ttl' for {q}: received the value '5000' of type 'signedint' but current is none",
        ),
        (
            with(&plain, "x-dead-letter-exchange", Value::from("dlx")),
            "'x-dead-letter-exchange' for {q}: received the value 'dlx' of type 'longstr' but current is none",
        ),
        (
            durable(&typed),
            "'x-message-ttl' for {q}: received none but current is the value '100000' of type 'signedint'",
        ),
        (
            with(&typed, "x-message-ttl", Value::I32(200_000)),
            "'x-message-ttl' for {q}: received '200000' but current is '100000'",
        ),
        (
            quorum(&plain),
            "'x-queue-type' for {q}: received 'quorum' but current is 'classic'",
        ),
    ] {
        let text = format!(
            "PRECONDITION_FAILED - inequivalent arg {}",
            text.replace("{q}", &in_queue(&declare.queue))
        );
        refused_with(&declare, 406, &cut(text));
    }
    client.close();
}

#[test]
fn a_passive_declare_only_asks_whether_the_queue_is_there() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.declared(&mut client, channel, "there");
    // Nothing but the name is looked at.
    let other = QueueDeclare {
        passive: true,
        durable: false,
        auto_delete: true,
        ..durable(&queue)
    };
    assert_eq!(client.call(channel, &other).queue, queue);
    let missing = case.queue("missing");
    refused_with(
        &passive(&missing),
        404,
        &format!("NOT_FOUND - no {}", in_queue(&missing)),
    );
    for text in [
        client.refused(channel, &consume(&missing, "")).text,
        {
            let channel = client.channel();
            client
                .refused(
                    channel,
                    &QueuePurge {
                        queue: missing.clone(),
                        ..Default::default()
                    },
                )
                .text
        },
        {
            let channel = client.channel();
            client.send(
                channel,
                &BasicGet {
                    queue: missing.clone(),
                    ..Default::default()
                },
            );
            client.closed(channel).text
        },
    ] {
        assert_eq!(text, format!("NOT_FOUND - no {}", in_queue(&missing)));
    }
    client.close();
}

#[test]
fn an_exclusive_queue_is_its_connections_alone() {
    let case = Case::new();
    let mut owner = Client::connect(0);
    let (channel, second_channel) = (owner.channel(), owner.channel());
    let queue = case.queue("own");
    owner.call(channel, &exclusive(&queue));
    owner.call(second_channel, &exclusive(&queue));
    owner.call(second_channel, &passive(&queue));
    owner.call(second_channel, &bind(&queue, "amq.direct", &queue));

    for endpoint in [0, 1] {
        let mut other = Client::connect(endpoint);
        let mut answers = Vec::new();
        macro_rules! ask {
            ($($method:expr),* $(,)?) => {$({
                let channel = other.channel();
                answers.push(other.refused(channel, &$method));
            })*};
        }
        ask!(
            exclusive(&queue),
            QueueDeclare {
                exclusive: false,
                ..exclusive(&queue)
            },
            passive(&queue),
            consume(&queue, ""),
            QueuePurge {
                queue: queue.clone(),
                ..Default::default()
            },
            delete(&queue),
            bind(&queue, "amq.direct", "other"),
            unbind(&queue, "amq.direct", &queue),
        );
        let channel = other.channel();
        other.send(
            channel,
            &BasicGet {
                queue: queue.clone(),
                ..Default::default()
            },
        );
        answers.push(other.closed(channel));
        for answer in answers {
            assert_eq!(
                (answer.hard, answer.code, &answer.text),
                (false, 405, &cut(locked(&queue))),
                "{answer:?}"
            );
        }
        // Publishing to it is everybody's right.
        let channel = other.channel();
        other.confirm(channel);
        other.publish(channel, "amq.direct", &queue, &Default::default(), b"from elsewhere");
        other.confirmed(channel);
        other.close();
    }
    assert_eq!(drain(&mut owner, channel, &queue), ["from elsewhere", "from elsewhere"]);
    owner.close();
    refused_with(&passive(&queue), 404, &format!("NOT_FOUND - no {}", in_queue(&queue)));
}

#[test]
fn the_exclusive_flag_of_a_queue_cannot_change() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let (own, shared) = (case.queue("own"), case.declared(&mut client, channel, "shared"));
    client.call(channel, &exclusive(&own));
    let flipped = QueueDeclare {
        exclusive: false,
        ..exclusive(&own)
    };
    client
        .refused(channel, &flipped)
        .channel_error::<QueueDeclare>(405, &cut(locked(&own)));
    refused_with(
        &QueueDeclare {
            exclusive: true,
            ..durable(&shared)
        },
        405,
        &cut(locked(&shared)),
    );
    client.close();
}

#[test]
fn an_exclusive_queue_goes_with_its_connection_however_that_ends() {
    let case = Case::new();
    let mut watcher = Client::connect(1);
    for durable in [false, true] {
        let mut client = Client::connect(0);
        let channel = client.channel();
        let queue = case.queue(if durable { "durable" } else { "transient" });
        client.call(
            channel,
            &QueueDeclare {
                durable,
                ..exclusive(&queue)
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
        client.call(channel, &passive(&queue));
        client.socket.abandon();
        watcher.until("the queue to go", |watcher| {
            let channel = watcher.channel();
            watcher.refused(channel, &passive(&queue)).code.eq(&404).then_some(())
        });
    }
    watcher.close();
}

#[test]
fn an_auto_delete_queue_goes_with_its_last_consumer() {
    let case = Case::new();
    let (mut client, mut watcher) = (Client::connect(0), Client::connect(1));
    let channel = client.channel();
    let gone = |watcher: &mut Client, queue: &str| {
        watcher.until("the queue to go", |watcher| {
            let channel = watcher.channel();
            watcher
                .try_call(channel, &passive(queue))
                .is_err_and(|closed| closed.code == 404)
                .then_some(())
        });
    };
    let auto_delete = |queue: &str| QueueDeclare {
        auto_delete: true,
        ..durable(queue)
    };
    let names = ["cancel", "channel", "connection", "never"].map(|label| case.queue(label));
    for queue in &names {
        client.call(channel, &auto_delete(queue));
    }
    let [by_cancel, by_channel, by_connection, never] = &names;

    client.call(channel, &consume(by_cancel, "one"));
    client.call(channel, &consume(by_cancel, "two"));
    client.call(
        channel,
        &BasicCancel {
            consumer_tag: "one".into(),
            nowait: false,
        },
    );
    client.call(channel, &passive(by_cancel));
    client.call(
        channel,
        &BasicCancel {
            consumer_tag: "two".into(),
            nowait: false,
        },
    );
    gone(&mut watcher, by_cancel);

    let consuming = client.channel();
    client.call(consuming, &consume(by_channel, ""));
    client.call(
        consuming,
        &ChannelClose {
            code: 200,
            ..Default::default()
        },
    );
    gone(&mut watcher, by_channel);

    let mut consumer = Client::connect(2);
    let consuming = consumer.channel();
    consumer.call(consuming, &consume(by_connection, ""));
    consumer.socket.abandon();
    gone(&mut watcher, by_connection);

    // A queue that never had a consumer stays, whatever else happens to it.
    fill(&mut client, never, &["kept"]);
    assert_eq!(drain(&mut client, channel, never), ["kept"]);
    client.close();
    let channel = watcher.channel();
    watcher.call(channel, &passive(never));
    watcher.close();
}

#[test]
fn a_transient_shared_queue_outlives_its_connection() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.queue("transient");
    let declare = QueueDeclare {
        durable: false,
        ..durable(&queue)
    };
    client.call(channel, &declare);
    fill(&mut client, &queue, &["kept"]);
    client.close();
    let mut client = Client::connect(1);
    let channel = client.channel();
    assert_eq!(client.call(channel, &declare).messages, 1);
    assert_eq!(drain(&mut client, channel, &queue), ["kept"]);
    client.close();
}

#[test]
fn delete_tells_how_many_messages_went_along() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.declared(&mut client, channel, "full");
    fill(&mut client, &queue, &["one", "two"]);
    assert_eq!(client.call(channel, &delete(&queue)).messages, 2);
    assert_eq!(
        client.call(channel, &delete(&queue)).messages,
        0,
        "a missing queue is deleted already"
    );
    assert_eq!(client.call(channel, &delete("no such queue")).messages, 0);
    assert_eq!(
        client.call(channel, &durable(&queue)).messages,
        0,
        "a new queue is empty"
    );
    client.close();
}

#[test]
fn delete_may_spare_a_queue_in_use_or_not_empty() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    for quorum_type in if differs("delete-conditions") {
        vec![false]
    } else {
        vec![false, true]
    } {
        let queue = case.queue(if quorum_type { "quorum" } else { "classic" });
        client.call(channel, &if quorum_type { quorum(&queue) } else { durable(&queue) });
        let if_unused = QueueDelete {
            if_unused: true,
            ..delete(&queue)
        };
        let if_empty = QueueDelete {
            if_empty: true,
            ..delete(&queue)
        };
        client.call(channel, &consume(&queue, "user"));
        refused_with(
            &if_unused,
            406,
            &format!("PRECONDITION_FAILED - {} in use", in_queue(&queue)),
        );
        client.call(
            channel,
            &BasicCancel {
                consumer_tag: "user".into(),
                nowait: false,
            },
        );
        fill(&mut client, &queue, &["one"]);
        refused_with(
            &if_empty,
            406,
            &format!("PRECONDITION_FAILED - {} not empty", in_queue(&queue)),
        );
        assert_eq!(drain(&mut client, channel, &queue), ["one"]);
        client.call(
            channel,
            &QueueDelete {
                if_empty: true,
                ..if_unused
            },
        );
    }
    client.close();
}

#[test]
fn purge_removes_what_is_ready_and_nothing_else() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.declared(&mut client, channel, "purged");
    fill(&mut client, &queue, &["held", "two", "three"]);
    let (held, _) = client.get(channel, &queue, false).expect("three are ready");
    let purge = QueuePurge {
        queue: queue.clone(),
        ..Default::default()
    };
    assert_eq!(client.call(channel, &purge).messages, 2);
    assert_eq!(client.call(channel, &purge).messages, 0);
    client.send(
        channel,
        &BasicReject {
            delivery_tag: held.tag,
            requeue: true,
        },
    );
    until_ready(&mut client, channel, &queue, 1);
    assert_eq!(drain(&mut client, channel, &queue), ["held"]);
    client.close();
}

#[test]
fn get_takes_one_message_and_tells_how_many_are_left() {
    let case = Case::new();
    let (mut publisher, mut client) = (Client::connect(0), Client::connect(1));
    let declaring = publisher.channel();
    let queue = case.declared(&mut publisher, declaring, "got");
    fill(&mut publisher, &queue, &["one", "two", "three"]);
    let channel = client.channel();
    for (index, text) in ["one", "two", "three"].into_iter().enumerate() {
        let (delivery, left) = client.get(channel, &queue, false).expect("three are ready");
        assert_eq!(
            (delivery.text().as_str(), left, delivery.redelivered),
            (text, 2 - index as u32, false)
        );
        assert_eq!(delivery.tag, index as u64 + 1, "delivery tags count from 1");
        assert_eq!(
            (delivery.exchange.as_str(), delivery.routing_key.as_str()),
            ("", queue.as_str())
        );
    }
    assert!(client.get(channel, &queue, false).is_none());
    client.send(
        channel,
        &BasicAck {
            delivery_tag: 3,
            multiple: true,
        },
    );
    fill(&mut publisher, &queue, &["four", "five"]);
    // A message taken with no_ack is gone, and its tag means nothing.
    let (delivery, left) = client.get(channel, &queue, true).expect("two are ready");
    assert_eq!((delivery.tag, left), (4, 1));
    // Deliveries and gets share one count.
    client.call(channel, &consume(&queue, ""));
    assert_eq!(client.delivery(channel).tag, 5);
    client.send(channel, &ack(4));
    client
        .closed(channel)
        .channel_error::<BasicAck>(406, "PRECONDITION_FAILED - unknown delivery tag 4");
    publisher.close();
    client.close();
}
