//! Every argument of a queue with a value of every type, and with those around its bounds, for every type of queue.

use warren_tests::amqp::Client;
use warren_tests::amqp::wire::{Table, Value};

use crate::arguments::check;
use crate::case::{Case, differs};

/// Ten years in milliseconds: the longest time.
const TIME_MAX: i64 = 315_360_000_000;
const SEGMENT_MAX: i64 = 3_000_000_000;

/// What an argument's value must be.
#[derive(Clone, Copy)]
enum Rule {
    /// An integer from the first to the second; beyond it is refused as the third says, of which `N` is the integer.
    Integer(i64, i64, &'static str),
    /// One of these words; another one is refused with the term.
    Word(&'static [&'static str], &'static str),
    /// The words that a longstr may be are many: these are, these are not.
    Text(&'static [&'static str], &'static [&'static str], &'static str),
    Bool,
    Anything,
}

use Rule::{Anything, Bool, Integer, Text, Word};

const NO_BOUND: i64 = i64::MAX;
const NATURAL: Rule = Integer(0, NO_BOUND, "");
const POSITIVE: Rule = Integer(1, NO_BOUND, "");
const LOCATORS: &[&str] = &["client-local", "balanced", "random", "least-leaders", "min-masters"];
const AGES: &[&str] = &["1Y", "2M", "3D", "4h", "5m", "6s", "99999999999999999999Y"];
const NO_AGES: &[&str] = &["1d", "D", "0s", "00s", "-1s", "1.5h", "1 h", " 1h", "1hh", "h1", "1"];

/// The types of queues that know the argument, by their letters.
const RULES: &[(&str, &str, Rule)] = &[
    ("x-message-ttl", "cq", Integer(0, TIME_MAX, "{value_too_large,N}")),
    ("x-expires", "cq", Integer(1, TIME_MAX, "{value_too_large,N}")),
    ("x-max-length", "cq", NATURAL),
    ("x-max-length-bytes", "cqs", NATURAL),
    ("x-max-priority", "c", Integer(0, 255, "{max_value_exceeded,N}")),
    (
        "x-queue-version",
        "c",
        Integer(2, 2, "\"unsupported queue version 'N'\""),
    ),
    ("x-queue-mode", "c", Anything),
    (
        "x-overflow",
        "cq",
        Word(
            &["drop-head", "reject-publish", "reject-publish-dlx"],
            "invalid_overflow",
        ),
    ),
    ("x-single-active-consumer", "cq", Bool),
    (
        "x-dead-letter-routing-key",
        "cq",
        Word(&[], "routing_key_but_no_dlx_defined"),
    ),
    (
        "x-dead-letter-strategy",
        "q",
        Word(&["at-most-once", "at-least-once"], "invalid_dlx_strategy"),
    ),
    (
        "x-queue-leader-locator",
        "cqs",
        Word(LOCATORS, "invalid_queue_locator_arg"),
    ),
    ("x-delivery-limit", "q", Anything),
    ("x-quorum-initial-group-size", "q", POSITIVE),
    ("x-consumer-timeout", "q", NATURAL),
    ("x-consumer-disconnected-timeout", "q", NATURAL),
    ("x-delayed-retry-type", "q", Anything),
    ("x-delayed-retry-min", "q", Anything),
    ("x-delayed-retry-max", "q", Anything),
    ("x-max-in-memory-length", "q", NATURAL),
    ("x-max-in-memory-bytes", "q", NATURAL),
    ("x-max-age", "s", Text(AGES, NO_AGES, "invalid_max_age")),
    (
        "x-stream-max-segment-size-bytes",
        "s",
        Integer(0, SEGMENT_MAX, "Exceeded max value for KEY"),
    ),
    (
        "x-stream-filter-size-bytes",
        "s",
        Integer(16, 255, "Invalid value for KEY"),
    ),
    ("x-initial-cluster-size", "s", POSITIVE),
];

/// Values of all types but those of integers, with the types' names.
fn others() -> Vec<(Value, &'static str)> {
    vec![
        (true.into(), "bool"),
        (Value::F32(7.5), "float"),
        (Value::F64(7.0), "double"),
        (Value::Decimal(1, 15), "decimal"),
        (Value::Array(vec![7.into()]), "array"),
        (Value::Timestamp(1_577_836_800), "timestamp"),
        (Value::Table(Table::from([("a", 1)])), "table"),
        (Value::Bytes(b"7".to_vec()), "binary"),
        (Value::Void, "void"),
    ]
}

/// An integer of every type, with the types' names.
fn integers(n: i8) -> Vec<(Value, &'static str)> {
    vec![
        (Value::I8(n), "byte"),
        (Value::U8(n.cast_unsigned()), "unsignedbyte"),
        (Value::I16(n.into()), "short"),
        (Value::U16(n.cast_unsigned().into()), "unsignedshort"),
        (Value::I32(n.into()), "signedint"),
        (Value::U32(n.cast_unsigned().into()), "unsignedint"),
        (Value::I64(n.into()), "long"),
    ]
}

/// Values with the terms that they are refused with; an empty one: it is taken.
fn expected(key: &str, rule: Rule) -> Vec<(Value, String)> {
    let unacceptable = |(value, name): (Value, &str)| (value, format!("{{unacceptable_type,{name}}}"));
    let taken = |value| (value, String::new());
    let texts = || [("7".into(), "longstr"), ("".into(), "longstr")];
    match rule {
        Anything => {
            let all = others().into_iter().chain(integers(7)).chain(texts());
            all.map(|(value, _)| taken(value)).collect()
        }
        Bool => {
            let all = others().into_iter().chain(integers(1)).chain(texts());
            let of_type = |(value, name)| match value {
                Value::Bool(_) => taken(value),
                value => unacceptable((value, name)),
            };
            all.map(of_type).collect()
        }
        Word(good, term) => {
            let bad = ["sometimes", ""].map(|word| (word.into(), term.to_owned()));
            let good = good.iter().map(|word| taken(Value::from(*word)));
            let of_type = others().into_iter().chain(integers(7)).map(unacceptable);
            good.chain(bad).chain(of_type).collect()
        }
        Text(good, bad, term) => {
            let good = good.iter().map(|text| taken(Value::from(*text)));
            let bad = bad
                .iter()
                .chain(&[""])
                .map(|text| (Value::from(*text), term.to_owned()));
            let of_type = others().into_iter().chain(integers(7)).map(unacceptable);
            good.chain(bad).chain(of_type).collect()
        }
        Integer(least, most, beyond) => {
            let beyond = |n: i64| beyond.replace('N', &n.to_string()).replace("KEY", key);
            let judge = |n: i64| match n {
                n if n < 0 => format!("{{value_negative,{n}}}"),
                0 if least == 1 => "{value_zero,0}".to_owned(),
                n if n < least || n > most => beyond(n),
                _ => String::new(),
            };
            // A queue that is to expire must live until its declaration is answered.
            let first = if key == "x-expires" { 60_000 } else { least };
            let around = [-1, 0, first, most].map(|n| (n, true));
            let outside = [(least - 1, least > 0), (most.saturating_add(1), most < NO_BOUND)];
            let numbers = around.into_iter().chain(outside).filter(|(_, is_meant)| *is_meant);
            let no_integer = |(value, name)| (value, format!("\"expected integer, got {name}\""));
            numbers
                .map(|(n, _)| (Value::I64(n), judge(n)))
                .chain(others().into_iter().chain(texts()).map(no_integer))
                .collect()
        }
    }
}

#[test]
fn every_argument_is_of_its_type_and_within_its_bounds() {
    let case = Case::new();
    let mut client = Client::connect(0);
    for (letter, kind) in [("c", "classic"), ("q", "quorum"), ("s", "stream")] {
        let foreign = format!("of queue type rabbit_{kind}_queue");
        for (key, kinds, rule) in RULES {
            if kinds.contains(letter) {
                for (value, term) in expected(key, *rule) {
                    check(&case, &mut client, kind, key, value, &term);
                }
            } else if !(kind == "quorum" && *key == "x-max-priority" && !differs("quorum-max-priority")) {
                for value in [Value::I32(-1), "7".into()] {
                    check(&case, &mut client, kind, key, value, &foreign);
                }
            }
        }
        let key = "x-dead-letter-exchange";
        for (value, name) in others().into_iter().chain(integers(7)) {
            let term = format!("invalid type '{name}' for arg '{key}'");
            check(&case, &mut client, kind, key, value, &term);
        }
        for exchange in ["", "nowhere"] {
            let term = if kind == "stream" { foreign.as_str() } else { "" };
            check(&case, &mut client, kind, key, exchange.into(), term);
        }
        // What no type knows is taken whatever it is.
        for (value, _) in others() {
            check(&case, &mut client, kind, "x-note", value, "");
        }
    }
    for (value, name) in others().into_iter().chain(integers(7)) {
        let term = format!("{{unacceptable_type,{name}}}");
        check(&case, &mut client, "classic", "x-queue-type", value, &term);
    }
    client.close();
}
