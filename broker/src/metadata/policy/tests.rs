use serde_json::json;

use super::*;
use crate::exchange::tests::table;
use crate::metadata::arguments::{DeadLetterStrategy, DelayedRetry, Overflow};

fn definition(value: Value) -> Definition {
    match value {
        Value::Object(definition) => definition,
        other => panic!("{other} is no definition"),
    }
}

fn set(name: &str, value: Value) -> SetPolicy {
    SetPolicy {
        vhost: "/".into(),
        name: name.into(),
        operator: false,
        pattern: "^q".into(),
        apply_to: ApplyTo::All,
        priority: 0,
        definition: definition(value),
    }
}

fn applied(user: Value, operator: Value) -> Applied {
    let policy = |value: Value| (!value.is_null()).then(|| Arc::new(Policy::new(set("p", value))));
    Applied {
        user: policy(user),
        operator: policy(operator),
    }
}

#[track_caller]
fn merged(user: Value, operator: Value, expected: Value) {
    assert_eq!(Value::Object(applied(user, operator).definition()), expected);
}

#[test]
fn operators_are_stricter() {
    let none = Value::Null;
    merged(none.clone(), none.clone(), json!({}));
    merged(json!({"max-length": 3}), none.clone(), json!({"max-length": 3}));
    merged(none, json!({"max-length": 3}), json!({"max-length": 3}));
    for key in [
        "message-ttl",
        "expires",
        "max-length",
        "max-length-bytes",
        "delayed-retry-max",
    ] {
        for (user, operator) in [(3, 5), (5, 3)] {
            merged(json!({key: user}), json!({key: operator}), json!({key: 3}));
        }
    }
    for key in ["target-group-size", "delayed-retry-min"] {
        for (user, operator) in [(3, 5), (5, 3)] {
            merged(json!({key: user}), json!({key: operator}), json!({key: 5}));
        }
    }
    for (user, operator, expected) in [(3, 5, 3), (5, 3, 3), (-1, 5, 5), (5, -1, 5), (-1, -1, -1)] {
        let key = "delivery-limit";
        merged(json!({key: user}), json!({key: operator}), json!({key: expected}));
    }
    merged(
        json!({"overflow": "drop-head", "max-length": 7}),
        json!({"overflow": "reject-publish", "expires": 9}),
        json!({"overflow": "reject-publish", "max-length": 7, "expires": 9}),
    );
}

fn settings(kind: Kind, arguments: &[&'static str], policy: Value) -> Arguments {
    applied(policy, Value::Null).settings(kind, &table(arguments.iter().copied()))
}

#[test]
fn the_least_of_limits_holds() {
    for kind in [Kind::Classic, Kind::Quorum] {
        let policy = json!({"max-length": 4, "max-length-bytes": 4, "message-ttl": 4, "expires": 4});
        let keys = ["x-max-length", "x-max-length-bytes", "x-message-ttl", "x-expires"];
        for (own, expected) in [(None, 4), (Some("=9"), 4), (Some("=2"), 2)] {
            let arguments: Vec<&'static str> = keys
                .iter()
                .filter_map(|key| Some(&*format!("{key}{}", own?).leak()))
                .collect();
            let settings = settings(kind, &arguments, policy.clone());
            let limits = [
                settings.len_max,
                settings.bytes_max,
                settings.message_ttl_ms,
                settings.expires_ms,
            ];
            assert_eq!(limits, [Some(expected); 4], "{kind:?} {own:?}");
        }
    }
}

#[test]
fn in_what_bounds_a_stream_the_policy_wins() {
    let policy =
        json!({"max-age": "1h", "max-length-bytes": 50, "stream-max-segment-size-bytes": 7, "initial-cluster-size": 5});
    let of = |arguments: &[&'static str]| {
        let settings = settings(Kind::Stream, arguments, policy.clone());
        let limits = (settings.age_max_ms, settings.bytes_max);
        (limits, settings.segment_bytes, settings.group_size)
    };
    assert_eq!(of(&[]), ((Some(3_600_000), Some(50)), Some(7), Some(5)));
    let narrow = ["x-max-age=30m", "x-max-length-bytes=20"];
    assert_eq!(of(&narrow).0, (Some(3_600_000), Some(50)));
    let wide = ["x-max-age=1D", "x-max-length-bytes=90"];
    assert_eq!(of(&wide).0, (Some(3_600_000), Some(50)));
    let own = ["x-stream-max-segment-size-bytes=100", "x-initial-cluster-size=1"];
    assert_eq!(of(&own), ((Some(3_600_000), Some(50)), Some(7), Some(5)));
    let alone = applied(json!({"queue-leader-locator": "balanced"}), Value::Null);
    let alone = alone.settings(Kind::Stream, &table(narrow.into_iter().chain(own)));
    assert_eq!(
        (alone.age_max_ms, alone.bytes_max, alone.segment_bytes, alone.group_size),
        (Some(1_800_000), Some(20), Some(100), Some(1))
    );
    let none = settings(Kind::Quorum, &[], policy);
    assert_eq!(
        (none.age_max_ms, none.segment_bytes, none.group_size),
        (None, None, None)
    );
}

#[test]
fn each_part_of_the_delayed_retry_is_the_queues_own_or_the_policys() {
    let policy = json!({"delayed-retry-type": "failed", "delayed-retry-min": 5, "delayed-retry-max": 50});
    let retry = |kind, arguments: &[&'static str]| settings(kind, arguments, policy.clone()).delayed_retry;
    let of = |failed, returned, min_ms, max_ms| {
        Some(DelayedRetry {
            failed,
            returned,
            min_ms,
            max_ms,
        })
    };
    assert_eq!(retry(Kind::Quorum, &[]), of(true, false, 5, 50));
    assert_eq!(retry(Kind::Quorum, &["x-delayed-retry-min=7"]), of(true, false, 7, 50));
    assert_eq!(
        retry(Kind::Quorum, &["x-delayed-retry-type=all"]),
        of(true, true, 5, 50)
    );
    assert_eq!(retry(Kind::Quorum, &["x-delayed-retry-type=disabled"]), None);
    assert_eq!(retry(Kind::Classic, &[]), None);
    let without_time = json!({"delayed-retry-type": "all"});
    assert_eq!(settings(Kind::Quorum, &[], without_time).delayed_retry, None);
}

#[test]
fn of_dead_letters_the_queues_own_word_holds() {
    let policy =
        json!({"dead-letter-exchange": "x", "dead-letter-routing-key": "k", "dead-letter-strategy": "at-least-once"});
    let bare = settings(Kind::Quorum, &[], policy.clone());
    assert_eq!(bare.dead_letter_exchange.as_deref(), Some("x"));
    assert_eq!(bare.dead_letter_routing_key.as_deref(), Some("k"));
    assert_eq!(bare.dead_letter_strategy, DeadLetterStrategy::AtLeastOnce);
    let own = [
        "x-dead-letter-exchange=own",
        "x-dead-letter-routing-key=mine",
        "x-dead-letter-strategy=at-most-once",
    ];
    let own = settings(Kind::Quorum, &own, policy);
    assert_eq!(own.dead_letter_exchange.as_deref(), Some("own"));
    assert_eq!(own.dead_letter_routing_key.as_deref(), Some("mine"));
    assert_eq!(own.dead_letter_strategy, DeadLetterStrategy::AtMostOnce);
}

#[test]
fn of_overflow_the_type_decides_who_wins() {
    let policy = json!({"overflow": "reject-publish"});
    for kind in [Kind::Classic, Kind::Quorum] {
        assert_eq!(settings(kind, &[], policy.clone()).overflow, Overflow::RejectPublish);
    }
    let own = ["x-overflow=drop-head"];
    assert_eq!(
        settings(Kind::Classic, &own, policy.clone()).overflow,
        Overflow::DropHead
    );
    assert_eq!(settings(Kind::Quorum, &own, policy).overflow, Overflow::RejectPublish);
}

#[test]
fn a_delivery_limit_that_is_none_gives_way() {
    for (own, policy, expected) in [
        (None, 3, Some(3)),
        (None, -1, None),
        (Some("x-delivery-limit=5"), 3, Some(3)),
        (Some("x-delivery-limit=2"), 3, Some(2)),
        (Some("x-delivery-limit=2"), -1, Some(2)),
        (Some("x-delivery-limit=-1"), 3, Some(3)),
        (Some("x-delivery-limit=-1"), -1, None),
    ] {
        let arguments: Vec<&'static str> = own.into_iter().collect();
        let policy = json!({"delivery-limit": policy});
        let settings = settings(Kind::Quorum, &arguments, policy);
        assert_eq!(settings.delivery_limit, expected, "{own:?}");
    }
}

#[test]
fn one_policy_applies_of_each_kind() {
    let policies: Vec<Arc<Policy>> = [
        ("a", 1, ApplyTo::All, "^q", json!({"max-length": 1})),
        ("b", 5, ApplyTo::Exchanges, "^q", json!({"alternate-exchange": "x"})),
        ("c", 5, ApplyTo::QuorumQueues, "q", json!({"max-length": 2})),
        ("d", 5, ApplyTo::Queues, "q", json!({"max-length": 3})),
        (
            "e",
            9,
            ApplyTo::ClassicQueues,
            "q",
            json!({"max-length": 4, "delivery-limit": 1}),
        ),
        ("f", 9, ApplyTo::Streams, "q", json!({"max-length": 5})),
        ("g", 9, ApplyTo::All, "^other", json!({"max-length": 6})),
        ("h", 9, ApplyTo::All, "(", json!({"max-length": 7})),
        (
            "i",
            7,
            ApplyTo::Streams,
            "q",
            json!({"max-age": "1h", "max-length-bytes": 8}),
        ),
    ]
    .into_iter()
    .map(|(name, priority, apply_to, pattern, value)| {
        Arc::new(Policy::new(SetPolicy {
            priority,
            apply_to,
            pattern: pattern.into(),
            ..set(name, value)
        }))
    })
    .collect();
    let name = |applied: Applied| applied.user.map(|policy| policy.set.name.clone());
    let queue = |kind, of| name(Applied::to_queue(policies.iter(), kind, of));
    assert_eq!(
        queue(Kind::Quorum, "q1").as_deref(),
        Some("c"),
        "of two alike the first by name"
    );
    assert_eq!(
        queue(Kind::Classic, "q1").as_deref(),
        Some("d"),
        "one with a key of other types is passed over"
    );
    assert_eq!(queue(Kind::Classic, "x"), None);
    assert_eq!(queue(Kind::Stream, "q1").as_deref(), Some("i"));
    assert_eq!(name(Applied::to_exchange(policies.iter(), "q1")).as_deref(), Some("b"));
    assert_eq!(
        name(Applied::to_exchange(policies.iter(), "other")).as_deref(),
        Some("g")
    );
}

#[test]
fn bad_definitions_name_the_key() {
    for (operator, value, expected) in [
        (false, json!({}), "no policy provided"),
        (
            false,
            json!({"max-length": 1, "foo": 1, "bar": 2}),
            r#"[{<<"bar">>,2},{<<"foo">>,1}] are not recognised policy settings"#,
        ),
        (
            true,
            json!({"alternate-exchange": "x"}),
            r#"[{<<"alternate-exchange">>,<<"x">>}] are not recognised policy settings"#,
        ),
        (
            false,
            json!({"max-length": "a"}),
            r#"<<"a">> is not a valid maximum length"#,
        ),
        (false, json!({"max-length": ""}), "<<>> is not a valid maximum length"),
        (
            false,
            json!({"max-length": "\"ä\\"}),
            r#"<<"\"ä\\"/utf8>> is not a valid maximum length"#,
        ),
        (
            false,
            json!({"max-length": [{"a": null, "b": [true, 1.5]}]}),
            r#"[#{<<"a">> => null,<<"b">> => [true,1.5]}] is not a valid maximum length"#,
        ),
        (false, json!({"message-ttl": -1}), "-1 is not a valid message TTL"),
        (false, json!({"expires": 0}), "0 is not a valid queue expiry"),
        (
            false,
            json!({"delayed-retry-type": "all"}),
            "delayed-retry-min is required when delayed-retry-type is all",
        ),
        (
            true,
            json!({"delayed-retry-min": 10, "delayed-retry-max": 5}),
            "delayed-retry-max (5) must not be smaller than delayed-retry-min (10)",
        ),
    ] {
        assert_eq!(check_definition(&definition(value), operator), Err(expected.to_owned()));
    }
    let all = json!({"ha-mode": "all", "queue-mode": "lazy", "federation-upstream-set": "all", "delivery-limit": -1});
    assert_eq!(check_definition(&definition(all), false), Ok(()));
    let operators = json!({"max-length": 1, "overflow": "drop-head", "target-group-size": 3});
    assert_eq!(check_definition(&definition(operators), true), Ok(()));
    let pattern = SetPolicy {
        pattern: "(".into(),
        ..set("p", json!({"max-length": 1}))
    };
    assert!(
        matches!(pattern.check(), Err(Refusal::InvalidPolicy(reason)) if reason.starts_with("pattern should be regular expression"))
    );
}
