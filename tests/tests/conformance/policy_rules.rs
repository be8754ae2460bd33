//! Which policy applies, how it goes together with arguments and operators' policies, and which are refused.

use warren_tests::amqp::Client;
use warren_tests::amqp::wire::Table;

use crate::case::{Case, ctl, ctl_refused, drain, fill, with};

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

/// The policy is refused with that line.
#[track_caller]
fn refused(command: &str, options: &str, name: &str, definition: &str, reason: &str) {
    let text = ctl_refused(&format!("{command} {options} {name} '^x' '{definition}'"));
    assert!(text.lines().any(|line| line == reason), "{definition}: {text}");
}

#[test]
fn every_setting_of_a_policy_is_of_its_type_and_within_its_bounds() {
    let case = Case::new();
    let name = format!("{}.typed", case.prefix());
    let natural = [("-1", "-1"), (r#""7""#, r#"<<"7">>"#), ("7.5", "7.5"), ("true", "true")];
    let positive = [("0", "0"), ("-1", "-1"), (r#""""#, "<<>>")];
    let text = [("7", "7"), (r#"{"a":1}"#, r#"#{<<"a">> => 1}"#), ("null", "null")];
    let word = [("7", "7"), (r#""sometimes""#, r#"<<"sometimes">>"#), (r#""""#, "<<>>")];
    let integer = [(r#""no""#, r#"<<"no">>"#), ("1.5", "1.5")];
    let filter = [("15", "15"), ("256", "256"), (r#""16""#, r#"<<"16">>"#)];
    let segment = [("3000000001", "3000000001"), ("-1", "-1")];
    let age = [(r#""1d""#, r#"<<"1d">>"#), (r#""0s""#, r#"<<"0s">>"#)];
    let retry = "delayed retry type. Must be one of: all, failed, returned, disabled";
    type Row<'a> = (&'a str, &'a str, &'a [(&'a str, &'a str)]);
    let rows: [Row<'_>; 24] = [
        ("alternate-exchange", "alternate exchange name", &text),
        ("consumer-timeout", "consumer timeout", &natural),
        (
            "consumer-disconnected-timeout",
            "consumer disconnected timeout",
            &natural,
        ),
        ("dead-letter-exchange", "dead letter exchange name", &text),
        ("dead-letter-routing-key", "dead letter routing key", &text),
        ("dead-letter-strategy", "dead letter strategy", &word),
        ("delayed-retry-type", retry, &word),
        (
            "delayed-retry-min",
            "delayed retry minimum delay. Must be a positive integer",
            &positive,
        ),
        (
            "delayed-retry-max",
            "delayed retry maximum delay. Must be a positive integer",
            &positive,
        ),
        ("delivery-limit", "delivery limit", &integer),
        ("expires", "queue expiry", &positive),
        ("initial-cluster-size", "cluster size", &natural),
        ("max-age", "max age", &age),
        ("max-in-memory-bytes", "maximum memory in bytes", &natural),
        ("max-in-memory-length", "maximum memory in bytes", &natural),
        ("max-length", "maximum length", &natural),
        ("max-length-bytes", "maximum length in bytes", &natural),
        ("message-ttl", "message TTL", &natural),
        ("overflow", "overflow value", &word),
        ("queue-leader-locator", "queue leader locator value", &word),
        ("queue-version", "queue-version value", &positive),
        (
            "stream-filter-size-bytes",
            "filter size. Valid range is 16-255",
            &filter,
        ),
        ("stream-max-segment-size-bytes", "segment size", &segment),
        ("target-group-size", "qq target count value", &positive),
    ];
    for (key, noun, values) in rows {
        for (value, term) in values {
            let reason = format!("{term} is not a valid {noun}");
            refused("set_policy", "", &name, &format!(r#"{{"{key}":{value}}}"#), &reason);
        }
    }
    // What is too long for an argument is not for a policy.
    for definition in [
        r#"{"message-ttl":315360000001,"expires":315360000001}"#,
        r#"{"initial-cluster-size":0,"delivery-limit":-1,"max-length":0}"#,
    ] {
        ctl(&format!("set_policy {name} '^no such queue' '{definition}'"));
        ctl(&format!("clear_policy {name}"));
    }
}

#[test]
fn a_bad_policy_is_refused_and_changes_nothing() {
    let case = Case::new();
    let name = format!("{}.bad", case.prefix());
    let apply_to = "apply-to 'everything' unrecognised; should be one of: 'queues', 'classic_queues',  'quorum_queues', \
                    'streams', 'exchanges', or 'all'";
    for (options, definition, reason) in [
        (
            "",
            r#"{"foo":1}"#,
            r#"[{<<"foo">>,1}] are not recognised policy settings"#,
        ),
        (
            "",
            r#"{"max-length":1,"foo":"a","bar":[]}"#,
            r#"[{<<"bar">>,[]},{<<"foo">>,<<"a">>}] are not recognised policy settings"#,
        ),
        ("", "{}", "no policy provided"),
        (
            "",
            r#"{"delayed-retry-type":"failed","delayed-retry-max":5}"#,
            "delayed-retry-min is required when delayed-retry-type is failed",
        ),
        (
            "",
            r#"{"delayed-retry-min":10,"delayed-retry-max":5}"#,
            "delayed-retry-max (5) must not be smaller than delayed-retry-min (10)",
        ),
        ("--apply-to everything", r#"{"max-length":1}"#, apply_to),
    ] {
        refused("set_policy", options, &name, definition, reason);
    }
    let text = ctl_refused(&format!("set_policy {name} '^x' '{{'"));
    assert!(text.contains("JSON"), "{text}");
    // Only these are the operator's to set.
    for key in [
        "expires",
        "message-ttl",
        "max-length",
        "max-length-bytes",
        "max-in-memory-length",
        "max-in-memory-bytes",
        "delivery-limit",
        "target-group-size",
        "delayed-retry-min",
        "delayed-retry-max",
    ] {
        ctl(&format!(
            r#"set_operator_policy {name} '^no such queue' '{{"{key}":5}}'"#
        ));
    }
    ctl(&format!("clear_operator_policy {name}"));
    let others = [
        ("dead-letter-exchange", r#""""#, "<<>>"),
        ("consumer-timeout", "5", "5"),
        ("dead-letter-strategy", r#""at-least-once""#, r#"<<"at-least-once">>"#),
        ("alternate-exchange", r#""x""#, r#"<<"x">>"#),
        ("max-age", r#""1h""#, r#"<<"1h">>"#),
    ];
    for (key, value, term) in others {
        let reason = format!(r#"[{{<<"{key}">>,{term}}}] are not recognised policy settings"#);
        refused(
            "set_operator_policy",
            "",
            &name,
            &format!(r#"{{"{key}":{value}}}"#),
            &reason,
        );
    }
    let text = ctl_refused(&format!(r#"set_policy {name} '(' '{{"max-length":1}}'"#));
    assert!(
        text.contains("pattern should be regular expression but is invalid"),
        "{text}"
    );
    assert!(!ctl("-q list_policies").contains(&name));
    assert!(!ctl("-q list_operator_policies").contains(&name));
    let text = ctl_refused(&format!("clear_policy {name}"));
    assert!(text.contains("does not exist"), "{text}");
}
