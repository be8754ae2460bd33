use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;
use crate::amqp::{ShortStr, Value};

pub(crate) mod cases;

fn queue(number: u64) -> Target {
    Target::Queue(number)
}

/// `a=1` an integer, `a=x` a string, `a=?` no value, `a=true` a boolean.
pub(crate) fn table<'a>(fields: impl IntoIterator<Item = &'a str>) -> Table {
    let field = |field: &str| {
        let (name, value) = field.split_once('=').expect("fields are name=value");
        let value = match (value, value.parse::<i32>()) {
            ("?", _) => Value::Void,
            ("true", _) => Value::Bool(true),
            ("false", _) => Value::Bool(false),
            (_, Ok(number)) => Value::I32(number),
            (text, Err(_)) => Value::LongStr(text.to_owned().into()),
        };
        (ShortStr::new(name).expect("a short name"), value)
    };
    Table(fields.into_iter().map(field).collect())
}

/// `new KIND [fields]`, `bind QUEUE KEY [fields]`, `unbind ...`, `route KEY [fields]`; `-` is the empty key.
#[test]
fn matchers() {
    let mut kind = Kind::Direct;
    let mut matcher = Matcher::new(kind, &Table::new());
    cases::check("exchange/tests/matchers.txt", |command| {
        let words: Vec<&str> = command.split_whitespace().collect();
        let key = |word: &str| if word == "-" { String::new() } else { word.to_owned() };
        match *words.as_slice() {
            ["new", name, ref fields @ ..] => {
                let arguments = table(fields.iter().copied());
                let named: Kind = name.parse().expect("a kind of exchange");
                if let Err(error) = validate_arguments(named, &arguments) {
                    return error.0;
                }
                kind = named.matching(&arguments);
                matcher = Matcher::new(named, &arguments);
                String::new()
            }
            ["bind", target, word, ref fields @ ..] => {
                let (key, arguments) = (key(word), table(fields.iter().copied()));
                if let Err(error) = validate_binding(kind, &key, &arguments) {
                    return error.0;
                }
                matcher.bind(&key, &arguments, &queue(target.parse().expect("a number")));
                String::new()
            }
            ["unbind", target, word, ref fields @ ..] => {
                let target = queue(target.parse().expect("a number"));
                matcher.unbind(&key(word), &table(fields.iter().copied()), &target);
                String::new()
            }
            ["route", word, ref fields @ ..] => {
                let names: Vec<_> = routed(&matcher, &key(word), Some(&table(fields.iter().copied())))
                    .into_iter()
                    .map(|target| match target {
                        Target::Queue(number) => number.to_string(),
                        Target::Exchange(name) => name.to_string(),
                    })
                    .collect();
                format!("{word}: {}", names.join(" ")).trim_end().to_owned()
            }
            _ => panic!("unknown command {command}"),
        }
    });
}

fn routed(matcher: &Matcher, key: &str, headers: Option<&Table>) -> BTreeSet<Target> {
    let mut out = Vec::new();
    let keys = [key];
    let arrival = Arrival {
        headers,
        ..Arrival::by_key(&keys)
    };
    matcher.matches(&arrival, &mut out);
    out.into_iter().collect()
}

#[test]
fn headers_compare_by_value() {
    let text = |text: &'static str| Value::LongStr(text.into());
    let nested = |value| Value::Table(Table(vec![("b".into(), value)]));
    let check = |wanted: Value, value: Value, agrees: bool| {
        let mut matcher = Matcher::new(Kind::Headers, &Table::new());
        matcher.bind("", &Table(vec![("a".into(), wanted.clone())]), &queue(1));
        let headers = Table(vec![("a".into(), value.clone())]);
        assert_eq!(
            !routed(&matcher, "", Some(&headers)).is_empty(),
            agrees,
            "{wanted:?} and {value:?}"
        );
    };
    check(Value::I32(1), Value::I64(1), true);
    check(Value::I8(-1), Value::I16(-1), true);
    check(Value::U8(255), Value::I8(-1), false);
    check(Value::I32(1), Value::F64(1.0), true);
    check(Value::F32(1.5), Value::F64(1.5), true);
    check(Value::I32(1), Value::Timestamp(1), false);
    check(Value::Timestamp(1), Value::Timestamp(1), true);
    check(Value::I32(1), text("1"), false);
    check(text("s"), Value::ByteArray("s".into()), true);
    check(Value::Bool(true), Value::I32(1), false);
    check(Value::Void, Value::I32(1), true);
    check(Value::I32(1), Value::Void, false);
    check(nested(Value::I32(1)), nested(Value::I32(1)), true);
    check(nested(Value::I32(1)), nested(Value::I64(1)), false);
    check(Value::Array(vec![text("x")]), Value::Array(vec![text("x")]), true);
    check(
        Value::Array(vec![text("x")]),
        Value::Array(vec![text("x"), text("x")]),
        false,
    );
}

#[test]
fn no_headers_are_empty_headers() {
    let mut matcher = Matcher::new(Kind::Headers, &Table::new());
    matcher.bind("", &Table::new(), &queue(1));
    matcher.bind("", &table(["x-match=any", "a=1"]), &queue(2));
    assert_eq!(routed(&matcher, "", None), BTreeSet::from([queue(1)]));
}

/// Keys that make a naive matcher try every way to split a key between two `#`.
#[test]
fn long_keys_are_matched_in_reasonable_time() {
    let mut matcher = Matcher::new(Kind::Topic, &Table::new());
    for n in 0..200 {
        matcher.bind(&format!("#.a.#.b{n}"), &Table::new(), &queue(n));
        matcher.bind(&format!("*.#.a.#.b{n}"), &Table::new(), &queue(n));
    }
    let key = "a.".repeat(127);
    for _ in 0..100 {
        assert!(routed(&matcher, &key, None).is_empty());
    }
}

/// The definition of a topic pattern, word by word.
fn topic_matches(pattern: &[&str], key: &[&str]) -> bool {
    match (pattern.split_first(), key.split_first()) {
        (None, None) => true,
        (None, Some(_)) => false,
        (Some((&"#", rest)), None) => topic_matches(rest, key),
        (Some((&"#", rest)), Some((_, later))) => topic_matches(rest, key) || topic_matches(pattern, later),
        (Some((&"*", rest)), Some((_, later))) => topic_matches(rest, later),
        (Some((word, rest)), Some((first, later))) => word == first && topic_matches(rest, later),
        (Some(_), None) => false,
    }
}

fn split(key: &str) -> Vec<&str> {
    if key.is_empty() {
        Vec::new()
    } else {
        key.split('.').collect()
    }
}

/// The definition of a headers binding, for values that are equal only if they are identical.
fn headers_match(arguments: &Table, headers: &Table) -> bool {
    let mode = match arguments.get("x-match") {
        Some(Value::LongStr(mode)) => String::from_utf8_lossy(mode).into_owned(),
        _ => "all".to_owned(),
    };
    let mut considered = 0;
    let mut agreed = 0;
    for (name, wanted) in arguments.iter() {
        if name == "x-match" || (name.starts_with("x-") && !mode.ends_with("-with-x")) {
            continue;
        }
        considered += 1;
        if headers
            .get(name)
            .is_some_and(|value| *wanted == Value::Void || value == wanted)
        {
            agreed += 1;
        }
    }
    if mode.starts_with("any") {
        agreed > 0
    } else {
        agreed == considered
    }
}

fn words(alphabet: &'static [&'static str]) -> impl Strategy<Value = String> {
    prop::collection::vec(prop::sample::select(alphabet), 0..6).prop_map(|words| words.join("."))
}

fn fields(names: &'static [&'static str]) -> impl Strategy<Value = Table> {
    let value = prop_oneof![Just("1"), Just("2"), Just("x"), Just("?"), Just("true")];
    prop::collection::btree_map(prop::sample::select(names), value, 0..4).prop_map(|fields| {
        table(
            fields
                .iter()
                .map(|(name, value)| format!("{name}={value}"))
                .collect::<Vec<_>>()
                .iter()
                .map(String::as_str),
        )
    })
}

#[derive(Clone, Debug)]
struct Rule {
    key: String,
    arguments: Table,
    target: Target,
}

fn rule() -> impl Strategy<Value = Rule> {
    let modes = [None, Some("all"), Some("any"), Some("all-with-x"), Some("any-with-x")];
    let target = prop_oneof![
        (0..6u64).prop_map(Target::Queue),
        prop::sample::select(vec!["x", "y"]).prop_map(|name| Target::Exchange(name.into()))
    ];
    (
        words(&["a", "b", "", "*", "#"]),
        fields(&["a", "b", "x-c"]),
        prop::sample::select(modes.to_vec()),
        target,
    )
        .prop_filter("as many # as are allowed", |(key, ..)| topic::validate(key).is_ok())
        .prop_map(|(key, mut arguments, mode, target)| {
            if let Some(mode) = mode {
                arguments.insert("x-match", Value::LongStr(mode.into()));
            }
            Rule { key, arguments, target }
        })
}

fn expected(kind: Kind, rules: &[Rule], key: &str, headers: &Table) -> BTreeSet<Target> {
    let matches = |rule: &&Rule| match kind {
        Kind::Direct => rule.key == key,
        Kind::Fanout => true,
        Kind::Topic => topic_matches(&split(&rule.key), &split(key)),
        Kind::Headers => headers_match(&rule.arguments, headers),
        Kind::ConsistentHash | Kind::ModulusHash | Kind::Random | Kind::Delayed => unreachable!("one of several"),
    };
    rules.iter().filter(matches).map(|rule| rule.target.clone()).collect()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 400, failure_persistence: None, ..ProptestConfig::default() })]

    /// Every matcher answers like its definition, whatever was bound and unbound, and what readers hold of an older
    /// state does not change.
    #[test]
    fn matchers_follow_their_definition(
        kind in prop::sample::select(vec![Kind::Direct, Kind::Fanout, Kind::Topic, Kind::Headers]),
        rules in prop::collection::vec(rule(), 1..40),
        removed in prop::collection::vec(any::<prop::sample::Index>(), 0..40),
        keys in prop::collection::vec((words(&["a", "b", "", "c"]), fields(&["a", "b", "x-c", "d"])), 1..10),
    ) {
        let mut matcher = Matcher::new(kind, &Table::new());
        for rule in &rules {
            matcher.bind(&rule.key, &rule.arguments, &rule.target);
        }
        let older = matcher.clone();
        let whole = rules.clone();
        let mut rules = rules;
        for index in removed {
            if rules.is_empty() {
                break;
            }
            let rule = rules.swap_remove(index.index(rules.len()));
            matcher.unbind(&rule.key, &rule.arguments, &rule.target);
        }
        for (key, headers) in &keys {
            prop_assert_eq!(routed(&matcher, key, Some(headers)), expected(kind, &rules, key, headers));
            prop_assert_eq!(routed(&older, key, Some(headers)), expected(kind, &whole, key, headers));
        }
        for rule in &rules {
            matcher.unbind(&rule.key, &rule.arguments, &rule.target);
        }
        // Nothing stays behind: an emptied matcher is as small as a new one.
        prop_assert_eq!(format!("{matcher:?}"), format!("{:?}", Matcher::new(kind, &Table::new())));
    }

    /// What chooses one target of several finds one that is bound, whatever came and went, and the same one as any
    /// other node that has the same bindings, in whatever order they came to it.
    #[test]
    fn one_of_several_is_chosen_alike_everywhere(
        kind in prop::sample::select(vec![Kind::ConsistentHash, Kind::ModulusHash, Kind::Random]),
        bound in prop::collection::btree_set((0..8_u64, 1..4_u32), 1..12),
        gone in prop::collection::btree_set((0..8_u64, 1..4_u32), 0..12),
        keys in prop::collection::vec(".{0,4}", 1..10),
        draw in any::<u64>(),
    ) {
        let nothing = Table::new();
        let mut matcher = Matcher::new(kind, &nothing);
        let mut straight = Matcher::new(kind, &nothing);
        for (number, weight) in bound.union(&gone) {
            matcher.bind(&weight.to_string(), &nothing, &queue(*number));
        }
        for (number, weight) in gone.difference(&bound) {
            matcher.unbind(&weight.to_string(), &nothing, &queue(*number));
        }
        for (number, weight) in bound.iter().rev() {
            straight.bind(&weight.to_string(), &nothing, &queue(*number));
        }
        for key in &keys {
            let found = |matcher: &Matcher| {
                let mut out = Vec::new();
                matcher.matches(&Arrival { draw, ..Arrival::by_key(&[key, "further"]) }, &mut out);
                out
            };
            let out = found(&matcher);
            prop_assert_eq!(out.len(), 1);
            let is_bound = |target: &Target| bound.iter().any(|(number, _)| queue(*number) == *target);
            prop_assert!(is_bound(&out[0]));
            prop_assert_eq!(found(&straight), out);
        }
        for (number, weight) in &bound {
            matcher.unbind(&weight.to_string(), &nothing, &queue(*number));
        }
        prop_assert_eq!(format!("{matcher:?}"), format!("{:?}", Matcher::new(kind, &nothing)));
    }
}

#[test]
fn hashes_are_of_what_the_exchange_was_declared_with() {
    let found = |arguments: &Table, properties: &crate::amqp::Properties| {
        let mut matcher = Matcher::new(Kind::ConsistentHash, arguments);
        (0..64).for_each(|number| matcher.bind("1", &Table::new(), &queue(number)));
        let mut encoded = bytes::BytesMut::new();
        properties.encode(&mut encoded);
        let arrival = Arrival {
            headers: properties.headers.as_ref(),
            properties: &encoded.freeze(),
            ..Arrival::by_key(&["a key"])
        };
        let mut out = Vec::new();
        matcher.matches(&arrival, &mut out);
        out.remove(0)
    };
    let with = |name: &'static str, value: Value| crate::amqp::Properties {
        headers: Some(Table(vec![(name.into(), value)])),
        ..Default::default()
    };
    let by_header = table(["hash-header=h"]);
    let text = found(&by_header, &with("h", Value::LongStr("7".into())));
    assert_eq!(found(&by_header, &with("h", Value::I8(7))), text);
    assert_eq!(found(&by_header, &with("h", Value::I64(7))), text);
    assert_ne!(found(&by_header, &with("h", Value::I64(8))), text);
    // Without the header all go the same way.
    assert_eq!(
        found(&by_header, &with("x", Value::I8(7))),
        found(&by_header, &with("x", Value::I8(8)))
    );

    let of = |id: &str, seconds| crate::amqp::Properties {
        message_id: ShortStr::new(id).ok(),
        correlation_id: ShortStr::new(id).ok(),
        timestamp: Some(seconds),
        ..Default::default()
    };
    for name in ["message_id", "correlation_id", "timestamp"] {
        let arguments = table([format!("hash-property={name}").as_str()]);
        assert_eq!(found(&arguments, &of("one", 1)), found(&arguments, &of("one", 1)));
        assert_ne!(found(&arguments, &of("one", 1)), found(&arguments, &of("another", 22)));
    }
}
