//! Exchanges that hold messages back: `x-delayed-message`.

use std::time::{Duration, Instant};

use warren_tests::amqp::Client;
use warren_tests::amqp::method::*;
use warren_tests::amqp::wire::{Properties, Table, Value};

use crate::case::{Case, bind, consume, counts, ctl, differs, drain, exchange, passive, since, until_ready, with};

/// Longer than any case takes.
const LONG_MS: i32 = 3_600_000;

fn delayed(name: &str, kind: &str) -> ExchangeDeclare {
    ExchangeDeclare {
        arguments: Table::from([("x-delayed-type", kind)]),
        ..exchange(name, "x-delayed-message")
    }
}

fn after(delay: impl Into<Value>) -> Properties {
    Properties {
        headers: Some(Table::from([("x-delay", delay.into())])),
        ..Properties::persistent()
    }
}

/// A delayed exchange of that type, and a channel in confirm mode. `None` for a stock broker, which has none.
#[track_caller]
fn begin(case: &Case, kind: &str) -> Option<(Client, u16, String)> {
    if differs("delayed-exchange") {
        return None;
    }
    let mut client = Client::connect(0);
    let channel = client.channel();
    let name = case.exchange("delayed");
    client.call(channel, &delayed(&name, kind));
    client.confirm(channel);
    Some((client, channel, name))
}

/// What the listing says that an exchange holds back.
#[track_caller]
fn held(name: &str) -> String {
    let rows = ctl("-q list_exchanges name messages_delayed");
    let row = rows.lines().find_map(|line| line.strip_prefix(&format!("{name}\t")));
    row.unwrap_or_else(|| panic!("no {name} in {rows}")).to_owned()
}

#[test]
fn a_message_comes_when_its_time_is_over_and_not_before() {
    let case = Case::new();
    let Some((mut client, channel, name)) = begin(&case, "direct") else {
        return;
    };
    let queue = case.bound(&mut client, channel, "q", &name, "k");
    client.call(channel, &consume(&queue, ""));
    let began = Instant::now();
    for (delay, body) in [(700, "second"), (1_100, "third"), (300, "first")] {
        client.publish(channel, &name, "k", &after(delay), body.as_bytes());
    }
    client.confirmed(channel);
    for (delay, body) in [(300, "first"), (700, "second"), (1_100, "third")] {
        let delivery = client.delivery(channel);
        assert_eq!(delivery.content.text(), body);
        assert!(since(began) >= Duration::from_millis(delay), "{body} came too early");
        assert_eq!((&*delivery.exchange, &*delivery.routing_key), (&*name, "k"));
        assert!(!delivery.redelivered);
        let headers = delivery.content.properties().headers.expect("it had some");
        let sign = Value::I64(-i64::try_from(delay).expect("small"));
        assert_eq!(
            headers.0,
            [("x-delay".to_owned(), sign)],
            "the sign says that it was held back"
        );
    }
    client.close();
}

#[test]
fn without_a_delay_it_routes_at_once() {
    let case = Case::new();
    let Some((mut client, channel, name)) = begin(&case, "topic") else {
        return;
    };
    let queue = case.bound(&mut client, channel, "q", &name, "a.*");
    let text = Value::from("1000");
    for properties in [Properties::persistent(), after(0), after(-1_000), after(text)] {
        client.publish(channel, &name, "a.b", &properties, b"");
        client.publish(channel, &name, "b", &properties, b"");
    }
    client.confirmed(channel);
    assert_eq!(counts(&mut client, channel, &queue).0, 4);
    client.close();
}

#[test]
fn the_exchange_tells_how_many_it_holds() {
    let case = Case::new();
    let Some((mut client, channel, name)) = begin(&case, "fanout") else {
        return;
    };
    let queue = case.bound(&mut client, channel, "q", &name, "");
    for delay in [LONG_MS, LONG_MS, 200] {
        client.publish(channel, &name, "", &after(delay), b"");
    }
    client.confirmed(channel);
    until_ready(&mut client, channel, &queue, 1);
    client.until("two are held back", |_| (held(&name) == "2").then_some(()));
    assert_eq!(held("amq.fanout"), "", "others hold nothing");

    // What holds them is no queue that anybody could use.
    let rows = ctl("-q list_queues name");
    assert!(!rows.lines().any(|line| line == name), "{rows}");
    let other = client.channel();
    let text = format!("NOT_FOUND - no queue '{name}' in vhost '/'");
    client
        .refused(other, &passive(&name))
        .channel_error::<QueueDeclare>(404, &text);
    // They go with the exchange.
    client.call(
        channel,
        &ExchangeDelete {
            exchange: name.clone(),
            ..Default::default()
        },
    );
    client.call(channel, &delayed(&name, "fanout"));
    assert_eq!(held(&name), "0");
    client.close();
}

#[test]
fn it_routes_by_the_bindings_of_that_moment() {
    let case = Case::new();
    let Some((mut client, channel, name)) = begin(&case, "direct") else {
        return;
    };
    client.publish(channel, &name, "k", &after(400), b"held");
    client.confirmed(channel);
    let late = case.bound(&mut client, channel, "late", &name, "k");
    until_ready(&mut client, channel, &late, 1);

    // Where nothing is bound when it is due, it is gone.
    client.publish(channel, &name, "nobody", &after(1), b"");
    client.confirmed(channel);
    client.until("nothing is held back", |_| (held(&name) == "0").then_some(()));
    client.close();
}

#[test]
fn other_exchanges_dead_letters_and_copies_come_to_it() {
    let case = Case::new();
    let Some((mut client, channel, name)) = begin(&case, "direct") else {
        return;
    };
    let queue = case.bound(&mut client, channel, "q", &name, "k");
    let copied = case.bound(&mut client, channel, "copied", &name, "c");
    let front = case.declared_exchange(&mut client, channel, "front", "fanout");
    let at_once = case.bound(&mut client, channel, "at once", &front, "");
    client.call(
        channel,
        &ExchangeBind {
            destination: name.clone(),
            source: front.clone(),
            ..Default::default()
        },
    );
    let source = case.queue("source");
    let arguments = Table::from([
        ("x-dead-letter-exchange", Value::from(name.as_str())),
        ("x-dead-letter-routing-key", "k".into()),
        ("x-message-ttl", 1.into()),
    ]);
    client.call(channel, &with(&source, "quorum", arguments));

    let mut properties = after(300);
    let copies = Value::Array(vec!["c".into()]);
    properties
        .headers
        .as_mut()
        .expect("given")
        .0
        .push(("CC".to_owned(), copies));
    client.publish(channel, &front, "k", &properties, b"by another");
    client.confirmed(channel);
    assert_eq!(drain(&mut client, channel, &at_once), ["by another"]);
    assert_eq!(counts(&mut client, channel, &queue).0, 0, "held back");
    until_ready(&mut client, channel, &queue, 1);
    until_ready(&mut client, channel, &copied, 1);
    assert_eq!(drain(&mut client, channel, &queue), ["by another"]);

    client.publish(channel, "", &source, &after(200), b"dead");
    client.confirmed(channel);
    until_ready(&mut client, channel, &queue, 1);
    assert_eq!(drain(&mut client, channel, &queue), ["dead"]);
    client.close();
}

#[test]
fn its_own_expiration_begins_where_it_arrives() {
    let case = Case::new();
    let Some((mut client, channel, name)) = begin(&case, "direct") else {
        return;
    };
    let queue = case.bound(&mut client, channel, "q", &name, "k");
    let properties = |delay: i32, expiration: i32| Properties {
        expiration: Some(expiration.to_string()),
        ..after(delay)
    };
    client.publish(channel, &name, "k", &properties(300, 1), b"short");
    client.publish(channel, &name, "k", &properties(300, LONG_MS), b"long");
    client.confirmed(channel);
    until_ready(&mut client, channel, &queue, 1);
    assert_eq!(drain(&mut client, channel, &queue), ["long"]);
    client.close();
}

#[test]
fn a_mandatory_message_that_is_held_back_counts_as_routed() {
    let case = Case::new();
    let Some((mut client, channel, name)) = begin(&case, "direct") else {
        return;
    };
    let mandatory = BasicPublish {
        exchange: name,
        routing_key: "nobody".into(),
        mandatory: true,
        ..Default::default()
    };
    client.publish_with(channel, &mandatory, &after(LONG_MS), b"held");
    client.confirmed(channel);
    assert!(client.pending(channel).is_empty(), "nothing comes back");
    client.publish_with(channel, &mandatory, &Properties::persistent(), b"at once");
    client.confirmed(channel);
    let returned = client.pending(channel);
    assert_eq!(returned.len(), 1);
    assert_eq!(returned[0].get::<BasicReturn>().map(|back| back.code), Some(312));
    client.close();
}

#[test]
fn its_type_and_bindings_are_checked() {
    if differs("delayed-exchange") {
        return;
    }
    let case = Case::new();
    let mut client = Client::connect(0);
    let name = case.exchange("refused");
    for (declare, text) in [
        (
            exchange(&name, "x-delayed-message"),
            "Invalid argument, 'x-delayed-type' must be an existing exchange type",
        ),
        (delayed(&name, "nope"), "unknown exchange type 'nope'"),
        (
            delayed(&name, "x-delayed-message"),
            "Invalid argument, 'x-delayed-message' can't be used for 'x-delayed-type'",
        ),
    ] {
        let channel = client.channel();
        let text = format!("PRECONDITION_FAILED - {text}");
        client
            .refused(channel, &declare)
            .channel_error::<ExchangeDeclare>(406, &text);
    }
    let channel = client.channel();
    client.call(channel, &delayed(&name, "x-consistent-hash"));
    client.call(channel, &delayed(&name, "x-consistent-hash"));
    let queue = case.declared(&mut client, channel, "q");
    let text = "PRECONDITION_FAILED - The binding key must be an integer: <<\"k\">>";
    client
        .refused(channel, &bind(&queue, &name, "k"))
        .channel_error::<QueueBind>(406, text);
    client.close();
}

#[test]
fn a_transaction_holds_back_too() {
    let case = Case::new();
    let Some((mut client, _, name)) = begin(&case, "direct") else {
        return;
    };
    let channel = client.channel();
    let queue = case.bound(&mut client, channel, "q", &name, "k");
    client.call(channel, &TxSelect::default());
    client.publish(channel, &name, "k", &after(200), b"held");
    client.publish(channel, &name, "k", &Properties::persistent(), b"at once");
    client.call(channel, &TxCommit::default());
    assert_eq!(drain(&mut client, channel, &queue), ["at once"]);
    until_ready(&mut client, channel, &queue, 1);
    assert_eq!(drain(&mut client, channel, &queue), ["held"]);
    client.close();
}
