//! Delayed exchanges.

use super::*;

fn delayed(name: &str) -> Change {
    let mut declare = exchange(name, "x-delayed-message");
    declare
        .arguments
        .insert("x-delayed-type", Value::LongStr("direct".into()));
    Change::DeclareExchange(declare)
}

/// The names of the queues that a message with that delay gets to now; those that hold it back in brackets.
fn routed_with_delay(node: &Node, exchange: &str, delay: Option<Value>) -> Vec<String> {
    let mut headers = Table::new();
    if let Some(delay) = delay {
        headers.insert("x-delay", delay);
    }
    let properties = Bytes::new();
    let arrival = Arrival {
        routing_keys: &["k"],
        headers: Some(&headers),
        properties: &properties,
        draw: 0,
    };
    let queues = node.picture().route("/", exchange, &arrival).expect("an exchange");
    let shown = queues.iter().map(|queue| match queue.is_delay {
        true => format!("({})", queue.name),
        false => queue.name.to_string(),
    });
    shown.collect()
}

#[test]
fn a_delayed_exchange_holds_back_what_has_a_delay() {
    let mut node = Node::bootstrapped();
    node.apply(&delayed("later"));
    node.apply(&Change::DeclareQueue(declare("q")));
    node.apply(&Change::Bind(bind("later", to_queue("q"), "k")));
    for delay in [Value::I8(1), Value::U32(u32::MAX), Value::I64(i64::MAX)] {
        assert_eq!(routed_with_delay(&node, "later", Some(delay)), ["(later)"]);
    }
    for none in [Value::I32(0), Value::I32(-5), Value::LongStr("5".into()), Value::Void] {
        assert_eq!(routed_with_delay(&node, "later", Some(none)), ["q"]);
    }
    assert_eq!(routed_with_delay(&node, "later", None), ["q"]);

    // Reached through another exchange, which has a target of its own.
    node.apply(&Change::DeclareExchange(exchange("front", "fanout")));
    node.apply(&Change::Bind(bind("front", Destination::Exchange("later".into()), "")));
    node.apply(&Change::DeclareQueue(declare("now")));
    node.apply(&Change::Bind(bind("front", to_queue("now"), "")));
    assert_eq!(
        routed_with_delay(&node, "front", Some(Value::I32(5))),
        ["(later)", "now"]
    );
    check_delays(&node, &["later"]);
}

/// No name leads to what holds the messages of these exchanges, which are all that there are.
fn check_delays(node: &Node, exchanges: &[&str]) {
    let picture = node.picture();
    let hidden = picture.all_queues().filter(|queue| queue.is_delay);
    let hidden: Vec<_> = hidden.map(|queue| queue.name.to_string()).collect();
    assert_eq!(hidden, exchanges);
    for name in exchanges {
        assert!(picture.queue("/", name).is_none());
        let group = picture.exchange("/", name).and_then(|exchange| exchange.delay_group());
        assert!(group.is_some_and(|group| picture.queue_by_group(group).is_some()));
    }
}

#[test]
fn what_an_exchange_delays_is_placed_and_goes_with_it() {
    let mut node = Node::bootstrapped();
    let effects = node.apply(&delayed("later"));
    let declared = |effect: &Effect| matches!(effect, Effect::QueueDeclared(queue) if queue.is_delay);
    assert!(effects.iter().any(declared));
    let group = node.picture().exchange("/", "later").expect("declared").id;

    // Nobody deletes it by itself, and it moves like any queue.
    node.apply(&Change::DeleteQueue { group });
    check_delays(&node, &["later"]);
    node.apply(&Change::PlaceQueue {
        group,
        replicas: vec![2, 3],
        leader: 3,
    });
    check_delays(&node, &["later"]);
    let restored = node.restored();
    check_delays(&restored, &["later"]);
    let placed = restored.picture().queue_by_group(group).expect("placed").clone();
    assert_eq!((placed.wanted(), placed.replicas()), (&[2, 3][..], &[1, 2, 3][..]));
    let era = placed.moves().expect("a move that is to be carried out");
    node.apply(&Change::QueueMoved { group, era });
    check_delays(&node, &["later"]);
    let placed = node.restored().picture().queue_by_group(group).expect("placed").clone();
    assert_eq!((placed.replicas(), placed.preferred_leader()), (&[2, 3][..], 3));

    // A queue of the same name is another thing.
    node.apply(&Change::DeclareQueue(declare("later")));
    let queue = node.picture().queue("/", "later").expect("declared").group;
    assert_ne!(queue, group);
    let effects = node.apply(&Change::DeleteExchange(DeleteExchange {
        vhost: "/".into(),
        name: "later".into(),
        if_unused: false,
    }));
    let deleted = |effect: &Effect| matches!(effect, Effect::QueueDeleted(queue) if queue.group == group);
    assert!(effects.iter().any(deleted));
    check_delays(&node, &[]);
    assert!(node.picture().queue("/", "later").is_some());

    node.apply(&delayed("later"));
    let effects = node.apply(&Change::DeleteVhost { name: "/".into() });
    let ended = effects
        .iter()
        .filter(|effect| matches!(effect, Effect::QueueDeleted(_)));
    assert_eq!(ended.count(), 2);
    assert_eq!(node.picture().all_queues().count(), 0);
}

#[test]
fn a_delayed_exchange_needs_a_type_and_replicas() {
    let mut node = Node::bootstrapped();
    let with_type = |value: Option<&str>| {
        let mut declare = exchange("later", "x-delayed-message");
        if let Some(value) = value {
            let value = Value::LongStr(Bytes::copy_from_slice(value.as_bytes()));
            declare.arguments.insert("x-delayed-type", value);
        }
        declare
    };
    for (kind, text) in [
        (
            None,
            "Invalid argument, 'x-delayed-type' must be an existing exchange type",
        ),
        (Some("nope"), "unknown exchange type 'nope'"),
        (
            Some("x-delayed-message"),
            "Invalid argument, 'x-delayed-message' can't be used for 'x-delayed-type'",
        ),
    ] {
        let refusal = node.refused(&Change::DeclareExchange(with_type(kind)));
        assert_eq!(
            refusal.fault(),
            (crate::amqp::ReplyCode::PreconditionFailed, text.to_owned())
        );
    }
    let homeless = DeclareExchange {
        delays: None,
        ..with_type(Some("topic"))
    };
    node.refused(&Change::DeclareExchange(homeless));
    node.apply(&Change::DeclareExchange(with_type(Some("topic"))));
    let pattern = bind("later", to_queue("q"), "#.#.#");
    node.apply(&Change::DeclareQueue(declare("q")));
    assert!(
        node.refused(&Change::Bind(pattern)).to_string().contains("wildcards"),
        "bindings are those of its own type"
    );
}
