//! The keys that policies may hold, their values, and which types of queues they are for.

use serde_json::Value;

use super::Definition;
use crate::metadata::arguments::{Kind, age_ms};

type Check = fn(&Value) -> bool;

/// A key, what its value must be, what a wrong one is said not to be, and whether operators may set it.
struct Key(&'static str, Check, &'static str, bool);

const RETRY_TYPE: &str = "delayed-retry-type";
const RETRY_MIN: &str = "delayed-retry-min";
const RETRY_MAX: &str = "delayed-retry-max";

/// Those of RabbitMQ 4.3. Some have no effect here: what belongs to mirrors of old and to federation, and the size of a
/// stream's filters.
const KEYS: &[Key] = &[
    Key("alternate-exchange", text, "alternate exchange name", false),
    Key("consumer-timeout", natural, "consumer timeout", false),
    Key(
        "consumer-disconnected-timeout",
        natural,
        "consumer disconnected timeout",
        false,
    ),
    Key("dead-letter-exchange", text, "dead letter exchange name", false),
    Key("dead-letter-routing-key", text, "dead letter routing key", false),
    Key("dead-letter-strategy", strategy, "dead letter strategy", false),
    Key(
        RETRY_TYPE,
        retry_type,
        "delayed retry type. Must be one of: all, failed, returned, disabled",
        true,
    ),
    Key(
        RETRY_MIN,
        positive,
        "delayed retry minimum delay. Must be a positive integer",
        true,
    ),
    Key(
        RETRY_MAX,
        positive,
        "delayed retry maximum delay. Must be a positive integer",
        true,
    ),
    Key("delivery-limit", integer, "delivery limit", true),
    Key("expires", positive, "queue expiry", true),
    Key("federation-upstream", text, "federation upstream name", false),
    Key("federation-upstream-set", text, "federation upstream set name", false),
    Key("filter-field-names", anything, "list of filter fields", false),
    Key("ha-mode", text, "ha-mode", false),
    Key("ha-params", anything, "ha-params", false),
    Key("ha-promote-on-failure", text, "ha-promote-on-failure", false),
    Key("ha-promote-on-shutdown", text, "ha-promote-on-shutdown", false),
    Key("ha-sync-batch-size", natural, "ha-sync-batch-size", false),
    Key("ha-sync-mode", text, "ha-sync-mode", false),
    Key("initial-cluster-size", natural, "cluster size", false),
    Key("max-age", max_age, "max age", false),
    Key("max-in-memory-bytes", natural, "maximum memory in bytes", true),
    Key("max-in-memory-length", natural, "maximum memory in bytes", true),
    Key("max-length", natural, "maximum length", true),
    Key("max-length-bytes", natural, "maximum length in bytes", true),
    Key("message-ttl", natural, "message TTL", true),
    Key("overflow", overflow, "overflow value", true),
    Key("queue-leader-locator", locator, "queue leader locator value", false),
    Key("queue-master-locator", text, "queue master locator value", false),
    Key("queue-mode", mode, "queue-mode value", false),
    Key("queue-version", version, "queue-version value", true),
    Key(
        "stream-filter-size-bytes",
        filter_size,
        "filter size. Valid range is 16-255",
        false,
    ),
    Key("stream-max-segment-size-bytes", segment_size, "segment size", false),
    Key("target-group-size", positive, "qq target count value", true),
];

/// A policy with one of these does not apply to classic queues.
const NOT_FOR_CLASSIC: &[&str] = &[
    "dead-letter-strategy",
    "delivery-limit",
    "filter-field-names",
    "initial-cluster-size",
    "max-age",
    "max-in-memory-bytes",
    "max-in-memory-length",
    "stream-max-segment-size-bytes",
    "target-group-size",
];

/// A policy with one of these does not apply to quorum queues.
const NOT_FOR_QUORUM: &[&str] = &[
    "ha-mode",
    "ha-params",
    "ha-promote-on-failure",
    "ha-promote-on-shutdown",
    "ha-sync-mode",
    "initial-cluster-size",
    "max-age",
    "max-priority",
    "queue-master-locator",
    "queue-mode",
    "stream-max-segment-size-bytes",
];

/// A policy with one of these does not apply to streams.
const NOT_FOR_STREAM: &[&str] = &[
    "dead-letter-exchange",
    "dead-letter-routing-key",
    "dead-letter-strategy",
    "delivery-limit",
    "expires",
    "ha-mode",
    "ha-params",
    "ha-promote-on-failure",
    "ha-promote-on-shutdown",
    "ha-sync-mode",
    "max-in-memory-bytes",
    "max-in-memory-length",
    "max-length",
    "max-priority",
    "message-ttl",
    "overflow",
    "queue-master-locator",
    "queue-mode",
    "target-group-size",
];

/// Whether a queue of that type passes over a policy with this key.
pub(super) fn is_unsupported(key: &str, kind: Kind) -> bool {
    match kind {
        Kind::Classic => NOT_FOR_CLASSIC.contains(&key),
        Kind::Quorum => NOT_FOR_QUORUM.contains(&key),
        Kind::Stream => NOT_FOR_STREAM.contains(&key),
    }
}

/// Whether operators' policies may hold the key.
pub fn is_operators(key: &str) -> bool {
    KEYS.iter().any(|Key(name, _, _, operators)| *name == key && *operators)
}

/// What is wrong with a definition, naming the key.
pub fn check_definition(definition: &Definition, operator: bool) -> Result<(), String> {
    if definition.is_empty() {
        return Err("no policy provided".to_owned());
    }
    let known = |key: &str| KEYS.iter().find(|known| known.0 == key && (known.3 || !operator));
    let mut unknown: Vec<String> = definition
        .iter()
        .filter(|(key, _)| known(key).is_none())
        .map(|(key, value)| format!("{{{},{}}}", term(&Value::from(key.as_str())), term(value)))
        .collect();
    if !unknown.is_empty() {
        unknown.sort_unstable();
        let unknown = unknown.join(",");
        return Err(format!("[{unknown}] are not recognised policy settings"));
    }
    for (key, value) in definition {
        let Some(Key(_, check, noun, _)) = known(key) else {
            continue;
        };
        if !check(value) {
            return Err(format!("{} is not a valid {noun}", term(value)));
        }
        if key == RETRY_TYPE && value != "disabled" && !definition.contains_key(RETRY_MIN) {
            let kind = value.as_str().unwrap_or_default();
            return Err(format!("{RETRY_MIN} is required when {RETRY_TYPE} is {kind}"));
        }
    }
    let number = |key: &str| definition.get(key).and_then(Value::as_u64);
    match (number(RETRY_MIN), number(RETRY_MAX)) {
        (Some(min), Some(max)) if max < min => Err(format!(
            "{RETRY_MAX} ({max}) must not be smaller than {RETRY_MIN} ({min})"
        )),
        _ => Ok(()),
    }
}

/// A value as RabbitMQ prints it.
fn term(value: &Value) -> String {
    let all = |terms: Vec<String>| terms.join(",");
    match value {
        Value::String(text) if text.is_empty() => "<<>>".to_owned(),
        Value::String(text) => {
            let text = text.replace('\\', "\\\\").replace('"', "\\\"");
            let suffix = if text.is_ascii() { "" } else { "/utf8" };
            format!("<<\"{text}\"{suffix}>>")
        }
        Value::Array(values) => format!("[{}]", all(values.iter().map(term).collect())),
        Value::Object(fields) => {
            let field =
                |(key, value): (&String, &Value)| format!("{} => {}", term(&Value::from(key.as_str())), term(value));
            format!("#{{{}}}", all(fields.iter().map(field).collect()))
        }
        Value::Null | Value::Bool(_) | Value::Number(_) => value.to_string(),
    }
}

fn anything(_: &Value) -> bool {
    true
}

fn text(value: &Value) -> bool {
    value.is_string()
}

fn integer(value: &Value) -> bool {
    value.as_i64().is_some()
}

fn natural(value: &Value) -> bool {
    value.as_u64().is_some()
}

fn positive(value: &Value) -> bool {
    value.as_u64().is_some_and(|number| number > 0)
}

fn filter_size(value: &Value) -> bool {
    value.as_u64().is_some_and(|bytes| (16..=255).contains(&bytes))
}

fn segment_size(value: &Value) -> bool {
    value.as_u64().is_some_and(|bytes| bytes <= 3_000_000_000)
}

fn one_of(value: &Value, known: &[&str]) -> bool {
    value.as_str().is_some_and(|value| known.contains(&value))
}

fn strategy(value: &Value) -> bool {
    one_of(value, &["at-most-once", "at-least-once"])
}

fn overflow(value: &Value) -> bool {
    one_of(value, &["drop-head", "reject-publish", "reject-publish-dlx"])
}

fn mode(value: &Value) -> bool {
    one_of(value, &["default", "lazy"])
}

fn locator(value: &Value) -> bool {
    one_of(
        value,
        &["client-local", "balanced", "random", "least-leaders", "min-masters"],
    )
}

fn retry_type(value: &Value) -> bool {
    one_of(value, &["all", "failed", "returned", "disabled"])
}

fn version(value: &Value) -> bool {
    matches!(value.as_u64(), Some(1 | 2))
}

/// Digits and a unit.
fn max_age(value: &Value) -> bool {
    value.as_str().and_then(age_ms).is_some()
}
