//! Policies on queues and exchanges that are there and on those that come, asked through another node than the one
//! that leads.

use std::time::{Duration, Instant};

use warren_tests::amqp::Client;
use warren_tests::amqp::method::*;
use warren_tests::amqp::wire::{Properties, Table};

use crate::case::{
    Case, ack, bind, consume, counts, ctl, drain, durable, exchange, fill, prefetch, since, until_ready, with,
};

/// A policy for the names of one case.
struct Policy {
    name: String,
}

impl Policy {
    #[track_caller]
    fn set(case: &Case, label: &str, definition: &str) -> Self {
        Self::with(case, label, definition, "")
    }

    #[track_caller]
    fn with(case: &Case, label: &str, definition: &str, options: &str) -> Self {
        let name = format!("{}.{label}", case.prefix());
        ctl(&format!(
            "set_policy {options} {name} '^{}' '{definition}'",
            case.prefix()
        ));
        Self { name }
    }

    /// Takes the policy away.
    fn clear(self) {}
}

impl Drop for Policy {
    fn drop(&mut self) {
        if !std::thread::panicking() {
            ctl(&format!("clear_policy {}", self.name));
        }
    }
}

const BODIES: [&str; 5] = ["1", "2", "3", "4", "5"];

#[test]
fn a_lower_limit_drops_the_heads_at_once() {
    let case = Case::new();
    let (mut near, mut far) = (Client::connect(0), Client::connect(1));
    let (channel, other) = (near.channel(), far.channel());
    let queues = ["classic", "quorum"].map(|kind| {
        let queue = case.queue(kind);
        near.call(channel, &with(&queue, kind, Table::default()));
        fill(&mut far, &queue, &BODIES);
        queue
    });
    let policy = Policy::set(&case, "short", r#"{"max-length":2}"#);
    for queue in &queues {
        until_ready(&mut far, other, queue, 2);
        assert_eq!(drain(&mut far, other, queue), ["4", "5"], "{queue}");
    }
    // A queue that comes later obeys from its first message on.
    for kind in ["classic", "quorum"] {
        let queue = case.queue(&format!("later.{kind}"));
        near.call(channel, &with(&queue, kind, Table::default()));
        fill(&mut far, &queue, &BODIES);
        assert_eq!(drain(&mut far, other, &queue), ["4", "5"], "{queue}");
    }
    policy.clear();
    for queue in &queues {
        far.until("the limit is gone", |far| {
            fill(far, queue, &["6", "7", "8"]);
            (drain(far, other, queue).len() == 3).then_some(())
        });
    }
    near.close();
    far.close();
}

#[test]
fn queues_that_live_on_one_node_obey_too() {
    let case = Case::new();
    let (mut near, mut far) = (Client::connect(0), Client::connect(2));
    let (channel, other) = (near.channel(), far.channel());
    let queue = case.queue("transient");
    let declare = QueueDeclare {
        queue: queue.clone(),
        ..Default::default()
    };
    near.call(channel, &declare);
    fill(&mut far, &queue, &BODIES);
    let policy = Policy::set(&case, "short", r#"{"max-length":1}"#);
    until_ready(&mut far, other, &queue, 1);
    assert_eq!(drain(&mut far, other, &queue), ["5"]);
    let later = case.queue("later");
    let declare = QueueDeclare {
        queue: later.clone(),
        ..Default::default()
    };
    near.call(channel, &declare);
    fill(&mut far, &later, &BODIES);
    assert_eq!(drain(&mut far, other, &later), ["5"]);
    policy.clear();
    near.close();
    far.close();
}

#[test]
fn what_a_lower_limit_drops_goes_to_the_dead_letters() {
    let case = Case::new();
    let (mut near, mut far) = (Client::connect(0), Client::connect(1));
    let (channel, other) = (near.channel(), far.channel());
    let dead = Case::new();
    let graves = dead.declared(&mut near, channel, "graves");
    let queue = case.declared(&mut near, channel, "queue");
    fill(&mut far, &queue, &BODIES);
    let definition = format!(r#"{{"max-length":1,"dead-letter-exchange":"","dead-letter-routing-key":"{graves}"}}"#);
    let policy = Policy::set(&case, "dlx", &definition);
    until_ready(&mut far, other, &graves, 4);
    until_ready(&mut far, other, &queue, 1);
    let (delivery, _) = far.get(other, &graves, true).expect("four are there");
    assert_eq!(delivery.text(), "1");
    assert!(
        delivery
            .content
            .properties()
            .headers
            .expect("a history")
            .0
            .iter()
            .any(|(name, _)| name == "x-death")
    );
    // Later deaths go elsewhere once the policy says so, and nowhere once it is gone.
    drop(policy);
    far.until("the limit is gone", |far| {
        drain(far, other, &queue);
        fill(far, &queue, &["a", "b"]);
        (counts(far, other, &queue).0 == 2).then_some(())
    });
    let before = counts(&mut far, other, &graves).0;
    let (first, _) = far.get(other, &queue, false).expect("two are there");
    let reject = BasicReject {
        delivery_tag: first.tag,
        requeue: false,
    };
    far.send(other, &reject);
    until_ready(&mut far, other, &queue, 1);
    assert_eq!(counts(&mut far, other, &graves).0, before);
    near.close();
    far.close();
}

#[test]
fn an_alternate_exchange_by_policy() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let mut far = Client::connect(1);
    let (channel, other) = (client.channel(), far.channel());
    let elsewhere = Case::new();
    let spare = elsewhere.declared_exchange(&mut client, channel, "spare", "fanout");
    let caught = elsewhere.bound(&mut client, channel, "caught", &spare, "");
    let main = case.declared_exchange(&mut client, channel, "main", "direct");
    let own = case.exchange("own");
    let declare = ExchangeDeclare {
        arguments: Table::from([("alternate-exchange", "amq.headers")]),
        ..exchange(&own, "direct")
    };
    client.call(channel, &declare);
    let definition = format!(r#"{{"alternate-exchange":"{spare}"}}"#);
    let policy = Policy::with(&case, "ae", &definition, "--apply-to exchanges");
    far.confirm(other);
    let mandatory = |exchange: &str| BasicPublish {
        exchange: exchange.into(),
        routing_key: "nowhere".into(),
        mandatory: true,
        ..Default::default()
    };
    far.publish_with(other, &mandatory(&main), &Properties::default(), b"caught");
    far.confirmed(other);
    until_ready(&mut far, other, &caught, 1);
    // What the exchange was declared with wins.
    far.publish_with(other, &mandatory(&own), &Properties::default(), b"lost");
    assert_eq!(far.expect_content::<BasicReturn>(other).1.text(), "lost");
    far.confirmed(other);
    assert!(ctl("-q list_exchanges name policy").contains(&format!("{main}\t{}", policy.name)));
    policy.clear();
    far.publish_with(other, &mandatory(&main), &Properties::default(), b"back");
    assert_eq!(far.expect_content::<BasicReturn>(other).1.text(), "back");
    client.close();
    far.close();
}

#[test]
fn an_unused_queue_ends_by_policy() {
    let case = Case::new();
    let mut client = Client::connect(1);
    let channel = client.channel();
    let queues = ["classic", "quorum"].map(|kind| {
        let queue = case.queue(kind);
        client.call(channel, &with(&queue, kind, Table::default()));
        queue
    });
    let policy = Policy::set(&case, "expires", r#"{"expires":300}"#);
    for queue in &queues {
        // Asking for it would be a use.
        client.until("the queue has ended", |_| {
            (!ctl("-q list_queues name").contains(queue.as_str())).then_some(())
        });
    }
    policy.clear();
    client.close();
}

#[test]
fn a_time_to_live_holds_for_messages_that_come() {
    let case = Case::new();
    let mut client = Client::connect(1);
    let channel = client.channel();
    let queue = case.declared(&mut client, channel, "ttl");
    fill(&mut client, &queue, &["stays"]);
    // Held, or a stock broker would look no further.
    let (held, _) = client.get(channel, &queue, false).expect("it is there");
    let policy = Policy::set(&case, "ttl", r#"{"message-ttl":1}"#);
    client.until("later messages expire", |client| {
        fill(client, &queue, &["goes"]);
        (0..20).find_map(|_| (counts(client, channel, &queue).0 == 0).then_some(()))
    });
    let give_back = BasicReject {
        delivery_tag: held.tag,
        requeue: true,
    };
    client.send(channel, &give_back);
    until_ready(&mut client, channel, &queue, 1);
    assert_eq!(drain(&mut client, channel, &queue), ["stays"]);
    policy.clear();
    client.close();
}

#[test]
fn a_delivery_limit_by_policy() {
    let case = Case::new();
    let mut client = Client::connect(1);
    let (channel, consuming) = (client.channel(), client.channel());
    let queue = case.queue("limit");
    client.call(channel, &with(&queue, "quorum", Table::default()));
    let policy = Policy::with(&case, "limit", r#"{"delivery-limit":1}"#, "--apply-to quorum_queues");
    fill(&mut client, &queue, &["poison"]);
    client.call(consuming, &prefetch(1));
    client.call(consuming, &consume(&queue, ""));
    for _ in 0..2 {
        let delivery = client.delivery(consuming);
        let reject = BasicReject {
            delivery_tag: delivery.tag,
            requeue: true,
        };
        client.send(consuming, &reject);
    }
    // The next is another message: the first has failed too often.
    fill(&mut client, &queue, &["good"]);
    let delivery = client.delivery(consuming);
    assert_eq!(delivery.text(), "good");
    client.send(consuming, &ack(delivery.tag));
    policy.clear();
    client.close();
}

#[test]
fn overflow_by_policy_nacks_what_does_not_fit() {
    let case = Case::new();
    let mut client = Client::connect(1);
    let channel = client.channel();
    let queue = case.declared(&mut client, channel, "full");
    fill(&mut client, &queue, &["1"]);
    let policy = Policy::set(&case, "full", r#"{"max-length":1,"overflow":"reject-publish"}"#);
    let publishing = client.channel();
    client.call(publishing, &ConfirmSelect::default());
    let mut number = 0;
    client.until("a publish is refused", |client| {
        client.publish(publishing, "", &queue, &Properties::persistent(), b"more");
        number += 1;
        let answer = client.until("an answer", |client| {
            client.pump(std::time::Duration::from_millis(20));
            client.pending(publishing).into_iter().next()
        });
        match answer.get::<BasicNack>() {
            Some(nack) => {
                assert_eq!(nack.delivery_tag, number);
                Some(())
            }
            None => {
                assert!(answer.get::<BasicAck>().is_some());
                None
            }
        }
    });
    policy.clear();
    client.close();
}

#[test]
fn listings_say_which_policies_apply() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.queue("listed");
    client.call(channel, &durable(&queue));
    let policy = Policy::set(&case, "user", r#"{"max-length":9,"message-ttl":7000}"#);
    let operator = format!("{}.operator", case.prefix());
    ctl(&format!(
        r#"set_operator_policy {operator} '^{}' '{{"max-length":4}}' --apply-to queues"#,
        case.prefix()
    ));
    let listed = ctl("-q list_queues name policy operator_policy effective_policy_definition --formatter json");
    let row = listed.lines().find(|line| line.contains(&queue)).expect("it is listed");
    for part in [
        format!(r#""policy":"{}""#, policy.name),
        format!(r#""operator_policy":"{operator}""#),
        r#""max-length":4"#.to_owned(),
        r#""message-ttl":7000"#.to_owned(),
    ] {
        assert!(row.contains(&part), "{part} in {row}");
    }
    let policies = ctl("-q list_policies");
    let row = policies
        .lines()
        .find(|line| line.contains(&policy.name))
        .expect("it is listed");
    let fields: Vec<&str> = row.split('\t').collect();
    let pattern = format!("^{}", case.prefix());
    assert_eq!(
        (fields[0], fields[1], fields[2], fields[3], fields[4], fields[5]),
        (
            "/",
            policy.name.as_str(),
            pattern.as_str(),
            "all",
            r#"{"max-length":9,"message-ttl":7000}"#,
            "0"
        )
    );
    assert!(ctl("-q list_operator_policies").contains(&operator));
    ctl(&format!("clear_operator_policy {operator}"));
    assert!(!ctl("-q list_operator_policies").contains(&operator));
    client.call(channel, &bind(&queue, "amq.fanout", ""));
    policy.clear();
    client.close();
}

#[test]
fn delayed_retry_by_policy_holds_for_what_comes_back_later() {
    let case = Case::new();
    let (mut near, mut far) = (Client::connect(0), Client::connect(1));
    let (channel, other) = (near.channel(), far.channel());
    let queue = case.queue("retried");
    // It is rejected as often as it takes until the policy is there.
    near.call(
        channel,
        &with(&queue, "quorum", Table::from([("x-delivery-limit", -1)])),
    );
    fill(&mut far, &queue, &["m"]);
    // How long the message stays away after a rejection; rejections are applied in their order.
    let mut away = |near: &mut Client| {
        let (taken, _) = near.until("the message", |near| near.get(channel, &queue, false));
        let began = Instant::now();
        let reject = BasicReject {
            delivery_tag: taken.tag,
            requeue: true,
        };
        near.send(channel, &reject);
        until_ready(&mut far, other, &queue, 1);
        since(began)
    };
    let at_once = |passed: Duration| assert!(passed < Duration::from_millis(500), "{passed:?}");
    at_once(away(&mut near));
    let definition = r#"{"delayed-retry-type":"all","delayed-retry-min":600,"delayed-retry-max":600}"#;
    let policy = Policy::with(&case, "rest", definition, "--apply-to quorum_queues");
    near.until("the policy holds", |near| {
        (away(near) >= Duration::from_millis(600)).then_some(())
    });
    policy.clear();
    near.until("it holds no longer", |near| {
        (away(near) < Duration::from_millis(500)).then_some(())
    });
    near.close();
    far.close();
}
