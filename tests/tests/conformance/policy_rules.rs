//! Which policy applies, how it goes together with arguments and operators' policies, and which are refused.

use warren_tests::amqp::Client;
use warren_tests::amqp::wire::Table;

use crate::case::{Case, ctl, ctl_refused, drain, fill, ours_or_stock, with};

const BODIES: [&str; 6] = ["1", "2", "3", "4", "5", "6"];

/// How many of six messages a new queue keeps.
#[track_caller]
fn kept(case: &Case, client: &mut Client, label: &str, kind: &str, arguments: Table) -> usize {
    let queue = case.queue(label);
    let channel = client.channel();
    client.call(channel, &with(&queue, kind, arguments));
    fill(client, &queue, &BODIES);
    drain(client, channel, &queue).len()
}

#[test]
fn the_least_limit_holds() {
    let case = Case::new();
    let mut client = Client::connect(1);
    let name = format!("{}.least", case.prefix());
    ctl(&format!(
        r#"set_policy {name} '^{}' '{{"max-length":3}}'"#,
        case.prefix()
    ));
    for (at, (own, expected)) in [(5, 3), (2, 2)].into_iter().enumerate() {
        for kind in ["classic", "quorum"] {
            let arguments = Table::from([("x-max-length", own)]);
            assert_eq!(
                kept(&case, &mut client, &format!("{kind}{at}"), kind, arguments),
                expected,
                "{kind} {own}"
            );
        }
    }
    ctl(&format!(
        r#"set_operator_policy {name} '^{}' '{{"max-length":1}}'"#,
        case.prefix()
    ));
    assert_eq!(kept(&case, &mut client, "operator", "classic", Table::default()), 1);
    ctl(&format!(
        r#"set_operator_policy {name} '^{}' '{{"max-length":50}}'"#,
        case.prefix()
    ));
    assert_eq!(kept(&case, &mut client, "generous", "classic", Table::default()), 3);
    ctl(&format!("clear_operator_policy {name}"));
    ctl(&format!("clear_policy {name}"));
    client.close();
}

#[test]
fn of_overflow_a_quorum_queues_policy_wins_and_a_classic_queues_argument() {
    let case = Case::new();
    let mut client = Client::connect(1);
    let name = format!("{}.overflow", case.prefix());
    let definition = r#"{"max-length":3,"overflow":"drop-head"}"#;
    ctl(&format!("set_policy {name} '^{}' '{definition}'", case.prefix()));
    for (kind, first) in [("classic", "1"), ("quorum", "4")] {
        let queue = case.queue(kind);
        let channel = client.channel();
        client.call(
            channel,
            &with(&queue, kind, Table::from([("x-overflow", "reject-publish")])),
        );
        let publishing = client.channel();
        for body in BODIES {
            let properties = warren_tests::amqp::wire::Properties::persistent();
            client.publish(publishing, "", &queue, &properties, body.as_bytes());
        }
        client.until("all are in or out", |client| {
            let mut bodies = Vec::new();
            while let Some((delivery, _)) = client.get(channel, &queue, false) {
                bodies.push(delivery.text());
            }
            let recover = warren_tests::amqp::method::BasicRecover { requeue: true };
            client.call(channel, &recover);
            let settled = bodies.len() == 3 && (kind == "classic" || bodies.last().is_some_and(|last| last == "6"));
            settled.then(|| assert_eq!(bodies[0], first, "{kind}"))
        });
    }
    ctl(&format!("clear_policy {name}"));
    client.close();
}

#[test]
fn the_highest_priority_applies_and_those_for_other_types_are_passed_over() {
    let case = Case::new();
    let mut client = Client::connect(1);
    let prefix = case.prefix();
    // The first does not suit classic queues, for the key of quorum queues in it.
    for (label, priority, apply_to, definition) in [
        ("a", 9, "queues", r#"{"max-length":1,"delivery-limit":5}"#),
        ("b", 5, "quorum_queues", r#"{"max-length":2}"#),
        ("c", 1, "all", r#"{"max-length":3}"#),
        ("d", 20, "exchanges", r#"{"alternate-exchange":"amq.fanout"}"#),
        ("e", 30, "streams", r#"{"max-length-bytes":1000}"#),
        ("f", 40, "all", r#"{"max-length":4}"#),
    ] {
        let pattern = if label == "f" { "no such queue" } else { prefix };
        ctl(&format!(
            "set_policy --priority {priority} --apply-to {apply_to} {prefix}.{label} '{pattern}' '{definition}'"
        ));
    }
    assert_eq!(kept(&case, &mut client, "classic", "classic", Table::default()), 3);
    assert_eq!(kept(&case, &mut client, "quorum", "quorum", Table::default()), 1);
    ctl(&format!("clear_policy {prefix}.a"));
    assert_eq!(kept(&case, &mut client, "quorum2", "quorum", Table::default()), 2);
    for label in ["b", "c", "d", "e", "f"] {
        ctl(&format!("clear_policy {prefix}.{label}"));
    }
    client.close();
}

#[test]
fn a_bad_policy_is_refused_and_changes_nothing() {
    let case = Case::new();
    let name = format!("{}.bad", case.prefix());
    for (command, options, definition, reason) in [
        ("set_policy", "", r#"{"foo":1}"#, "are not recognised policy settings"),
        ("set_policy", "", r#"{"max-length":1,"foo":1}"#, "foo"),
        ("set_policy", "", "{}", "no policy provided"),
        (
            "set_policy",
            "",
            r#"{"max-length":"many"}"#,
            "is not a valid maximum length",
        ),
        (
            "set_policy",
            "",
            r#"{"max-length":-1}"#,
            "is not a valid maximum length",
        ),
        ("set_policy", "", r#"{"message-ttl":-1}"#, "is not a valid message TTL"),
        ("set_policy", "", r#"{"expires":0}"#, "is not a valid queue expiry"),
        (
            "set_policy",
            "",
            r#"{"overflow":"sometimes"}"#,
            "is not a valid overflow",
        ),
        (
            "set_policy",
            "",
            r#"{"dead-letter-exchange":7}"#,
            "is not a valid dead letter exchange name",
        ),
        (
            "set_policy",
            "",
            r#"{"alternate-exchange":7}"#,
            "is not a valid alternate exchange name",
        ),
        (
            "set_policy",
            "",
            r#"{"delivery-limit":"no"}"#,
            "is not a valid delivery limit",
        ),
        (
            "set_policy",
            "",
            r#"{"queue-leader-locator":"here"}"#,
            "is not a valid queue leader locator",
        ),
        ("set_policy", "", "{", "JSON"),
        ("set_policy", "--apply-to everything", r#"{"max-length":1}"#, "apply-to"),
        (
            "set_operator_policy",
            "",
            r#"{"dead-letter-exchange":""}"#,
            "are not recognised policy settings",
        ),
    ] {
        let text = ctl_refused(&format!("{command} {options} {name} '^x' '{definition}'"));
        assert!(text.contains(reason), "{definition}: {text}");
    }
    let text = ctl_refused(&format!(r#"set_policy {name} '(' '{{"max-length":1}}'"#));
    assert!(
        text.contains(ours_or_stock("no regular expression", "not a valid regular expression")),
        "{text}"
    );
    assert!(!ctl("-q list_policies").contains(&name));
    assert!(!ctl("-q list_operator_policies").contains(&name));
    let text = ctl_refused(&format!("clear_policy {name}"));
    assert!(text.contains("does not exist"), "{text}");
}
