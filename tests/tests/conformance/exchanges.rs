//! Declaring, deleting and binding exchanges: what is idempotent, what is refused and in which words.

use warren_tests::amqp::Client;
use warren_tests::amqp::method::*;
use warren_tests::amqp::wire::{Properties, Table};

use crate::case::{Case, bind, counts, delete, drain, durable, exchange, in_exchange, unbind, until_ready};

fn passive(name: &str) -> ExchangeDeclare {
    ExchangeDeclare {
        exchange: name.into(),
        passive: true,
        ..Default::default()
    }
}

fn delete_exchange(name: &str) -> ExchangeDelete {
    ExchangeDelete {
        exchange: name.into(),
        ..Default::default()
    }
}

fn e2e(destination: &str, source: &str, routing_key: &str) -> ExchangeBind {
    ExchangeBind {
        destination: destination.into(),
        source: source.into(),
        routing_key: routing_key.into(),
        ..Default::default()
    }
}

#[track_caller]
fn refused_with<C: Call>(method: &C, code: u16, text: &str) {
    let mut client = Client::connect(0);
    let channel = client.channel();
    client.refused(channel, method).channel_error::<C>(code, text);
    client.close();
}

#[test]
fn every_vhost_has_the_standard_exchanges() {
    let mut client = Client::connect(0);
    let channel = client.channel();
    for (name, kind) in [
        ("amq.direct", "direct"),
        ("amq.fanout", "fanout"),
        ("amq.topic", "topic"),
        ("amq.headers", "headers"),
        ("amq.match", "headers"),
    ] {
        client.call(channel, &passive(name));
        client.call(channel, &exchange(name, kind));
    }
    let trace = ExchangeDeclare {
        internal: true,
        ..exchange("amq.rabbitmq.trace", "topic")
    };
    client.call(channel, &trace);
    client.close();
}

#[test]
fn declaring_the_same_again_is_fine_and_anything_else_is_406() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let name = case.exchange("declared");
    let fanout = exchange(&name, "fanout");
    client.call(channel, &fanout);
    client.call(channel, &fanout);
    client.call(channel, &passive(&name));
    client.call(
        channel,
        &ExchangeDeclare {
            kind: "direct".into(),
            ..passive(&name)
        },
    );
    let alternate = Table::from([("alternate-exchange", "amq.fanout")]);
    for (other, text) in [
        (
            exchange(&name, "direct"),
            "'type' for {x}: received 'direct' but current is 'fanout'",
        ),
        (
            ExchangeDeclare {
                durable: false,
                ..fanout.clone()
            },
            "'durable' for {x}: received 'false' but current is 'true'",
        ),
        (
            ExchangeDeclare {
                auto_delete: true,
                ..fanout.clone()
            },
            "'auto_delete' for {x}: received 'true' but current is 'false'",
        ),
        (
            ExchangeDeclare {
                internal: true,
                ..fanout.clone()
            },
            "'internal' for {x}: received 'true' but current is 'false'",
        ),
        (
            ExchangeDeclare {
                arguments: alternate,
                ..fanout.clone()
            },
            "'alternate-exchange' for {x}: received the value 'amq.fanout' of type 'longstr' but current is none",
        ),
    ] {
        let text = format!(
            "PRECONDITION_FAILED - inequivalent arg {}",
            text.replace("{x}", &in_exchange(&name))
        );
        refused_with(&other, 406, &text);
    }
    // Arguments that mean nothing to the exchange are not compared.
    client.call(
        channel,
        &ExchangeDeclare {
            arguments: Table::from([("x-note", "any")]),
            ..fanout
        },
    );
    client.close();
}

#[test]
fn an_unknown_type_is_refused() {
    let case = Case::new();
    let name = case.exchange("unknown-type");
    refused_with(
        &exchange(&name, "foobar"),
        406,
        "PRECONDITION_FAILED - unknown exchange type 'foobar'",
    );
}

#[test]
fn names_starting_with_amq_are_reserved() {
    refused_with(
        &exchange("amq.conformance", "direct"),
        403,
        "ACCESS_REFUSED - exchange name 'amq.conformance' contains reserved prefix 'amq.*'",
    );
    let text = format!(
        "ACCESS_REFUSED - deletion of system {} not allowed",
        in_exchange("amq.fanout")
    );
    refused_with(&delete_exchange("amq.fanout"), 403, &text);
}

#[test]
fn the_default_exchange_cannot_be_touched() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.declared(&mut client, channel, "any");
    let text = "ACCESS_REFUSED - operation not permitted on the default exchange";
    refused_with(&exchange("", "direct"), 403, text);
    refused_with(&passive(""), 403, text);
    refused_with(&delete_exchange(""), 403, text);
    refused_with(&bind(&queue, "", "key"), 403, text);
    refused_with(&unbind(&queue, "", "key"), 403, text);
    refused_with(&e2e("amq.direct", "", "key"), 403, text);
    refused_with(&e2e("", "amq.direct", "key"), 403, text);
    client.close();
}

#[test]
fn a_missing_exchange_is_404_except_for_delete() {
    let case = Case::new();
    let missing = case.exchange("missing");
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.declared(&mut client, channel, "present");
    let text = format!("NOT_FOUND - no exchange '{missing}' in vhost '/'");
    refused_with(&passive(&missing), 404, &text);
    refused_with(&bind(&queue, &missing, "key"), 404, &text);
    refused_with(&e2e("amq.direct", &missing, "key"), 404, &text);
    refused_with(&e2e(&missing, "amq.direct", "key"), 404, &text);
    let no_queue = "NOT_FOUND - no queue 'no such queue' in vhost '/'";
    refused_with(&bind("no such queue", "amq.direct", "key"), 404, no_queue);

    client.call(channel, &delete_exchange(&missing));
    client.call(
        channel,
        &ExchangeDelete {
            if_unused: true,
            ..delete_exchange(&missing)
        },
    );
    // A publish has no answer: the error comes when it comes.
    client.publish(channel, &missing, "key", &Properties::default(), b"nowhere");
    client.closed(channel).channel_error::<BasicPublish>(404, &text);
    client.close();
}

#[test]
fn unbinding_what_is_not_bound_is_fine() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.declared(&mut client, channel, "loose");
    let source = case.declared_exchange(&mut client, channel, "source", "direct");
    client.call(channel, &unbind(&queue, &source, "never bound"));
    client.call(channel, &unbind("no such queue", &source, "key"));
    client.call(channel, &unbind(&queue, "no such exchange", "key"));
    let ExchangeBind {
        destination,
        source,
        routing_key,
        ..
    } = e2e("amq.direct", &source, "never bound");
    client.call(
        channel,
        &ExchangeUnbind {
            destination,
            source,
            routing_key,
            ..Default::default()
        },
    );
    client.close();
}

#[test]
fn deleting_takes_the_bindings_along() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let (first, second) = (
        case.declared_exchange(&mut client, channel, "first", "fanout"),
        case.declared_exchange(&mut client, channel, "second", "fanout"),
    );
    let queue = case.bound(&mut client, channel, "queue", &second, "");
    client.call(channel, &e2e(&second, &first, ""));
    client.call(channel, &delete_exchange(&second));
    client.call(channel, &exchange(&second, "fanout"));
    client.confirm(channel);
    for name in [&first, &second] {
        client.publish(channel, name, "", &Properties::default(), b"to nobody");
    }
    client.confirmed(channel);
    assert_eq!(counts(&mut client, channel, &queue), (0, 0));
    client.close();
}

#[test]
fn delete_if_unused_spares_an_exchange_with_bindings() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let name = case.declared_exchange(&mut client, channel, "used", "direct");
    let queue = case.bound(&mut client, channel, "queue", &name, "key");
    let if_unused = ExchangeDelete {
        if_unused: true,
        ..delete_exchange(&name)
    };
    refused_with(
        &if_unused,
        406,
        &format!("PRECONDITION_FAILED - {} in use", in_exchange(&name)),
    );
    client.call(channel, &unbind(&queue, &name, "key"));
    // Being the destination of a binding is not being used.
    client.call(channel, &e2e(&name, "amq.direct", &name));
    client.call(channel, &if_unused);
    refused_with(
        &passive(&name),
        404,
        &format!("NOT_FOUND - no exchange '{name}' in vhost '/'"),
    );
    client.close();
}

#[test]
fn an_auto_delete_exchange_goes_with_its_last_binding_and_not_before() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let queue = case.declared(&mut client, channel, "queue");
    let gone = |name: &str| {
        refused_with(
            &passive(name),
            404,
            &format!("NOT_FOUND - no exchange '{name}' in vhost '/'"),
        );
    };
    let names = ["unbind", "queue", "exchange", "never"].map(|label| case.exchange(label));
    for name in &names {
        client.call(
            channel,
            &ExchangeDeclare {
                auto_delete: true,
                ..exchange(name, "direct")
            },
        );
    }
    let [by_unbind, by_queue, by_exchange, never] = &names;

    client.call(channel, &bind(&queue, by_unbind, "one"));
    client.call(channel, &bind(&queue, by_unbind, "two"));
    client.call(channel, &unbind(&queue, by_unbind, "one"));
    client.call(channel, &passive(by_unbind));
    client.call(channel, &unbind(&queue, by_unbind, "two"));
    gone(by_unbind);

    let short_lived = case.declared(&mut client, channel, "short-lived");
    client.call(channel, &bind(&short_lived, by_queue, "key"));
    client.call(channel, &delete(&short_lived));
    gone(by_queue);

    let target = case.declared_exchange(&mut client, channel, "target", "fanout");
    client.call(channel, &e2e(&target, by_exchange, "key"));
    client.call(channel, &delete_exchange(&target));
    gone(by_exchange);

    client.call(channel, &passive(never));
    client.close();
}

#[test]
fn an_internal_exchange_takes_messages_from_exchanges_only() {
    let case = Case::new();
    let mut client = Client::connect(0);
    let channel = client.channel();
    let (inner, outer) = (
        case.exchange("inner"),
        case.declared_exchange(&mut client, channel, "outer", "fanout"),
    );
    client.call(
        channel,
        &ExchangeDeclare {
            internal: true,
            ..exchange(&inner, "fanout")
        },
    );
    let queue = case.bound(&mut client, channel, "queue", &inner, "");
    client.call(channel, &e2e(&inner, &outer, ""));
    client.publish(channel, &outer, "", &Properties::default(), b"through");
    until_ready(&mut client, channel, &queue, 1);
    client.publish(channel, &inner, "", &Properties::default(), b"not this way");
    let text = format!("ACCESS_REFUSED - cannot publish to internal {}", in_exchange(&inner));
    client.closed(channel).channel_error::<BasicPublish>(403, &text);
    let channel = client.channel();
    assert_eq!(drain(&mut client, channel, &queue), ["through"]);
    client.close();
}

#[test]
fn what_one_node_declares_the_others_know_at_once() {
    let case = Case::new();
    let (mut one, mut two, mut three) = (Client::connect(0), Client::connect(1), Client::connect(2));
    let (first, second, third) = (one.channel(), two.channel(), three.channel());
    two.confirm(second);
    for round in 0..20 {
        let (name, queue) = (case.exchange(&format!("x{round}")), case.queue(&format!("q{round}")));
        one.call(first, &exchange(&name, "direct"));
        one.call(first, &durable(&queue));
        one.call(first, &bind(&queue, &name, "key"));
        let publish = BasicPublish {
            exchange: name.clone(),
            routing_key: "key".into(),
            mandatory: true,
            ..Default::default()
        };
        two.publish_with(second, &publish, &Properties::persistent(), b"at once");
        two.confirmed(second);
        assert!(
            two.pending(second).is_empty(),
            "the message was returned: the other node did not know the binding yet"
        );
        assert_eq!(drain(&mut three, third, &queue), ["at once"]);
        one.call(first, &unbind(&queue, &name, "key"));
        two.publish(second, &name, "key", &Properties::persistent(), b"unbound");
        two.confirmed(second);
        assert_eq!(counts(&mut three, third, &queue), (0, 0));
    }
    one.close();
    two.close();
    three.close();
}
