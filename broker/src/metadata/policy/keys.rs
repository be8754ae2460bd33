//! The keys that policies may hold, their values, and which types of queues they are for.

use serde_json::Value;

use super::Definition;
use crate::metadata::arguments::Kind;

type Check = fn(&Value) -> bool;

/// A key, what its value must be, what a wrong one is said not to be, and whether operators may set it.
struct Key(&'static str, Check, &'static str, bool);

/// Those of RabbitMQ 4.3. Some have no effect here: what belongs to streams, to mirrors of old, to federation, and to
/// delayed retry.
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
    Key("delayed-retry-type", retry_type, "delayed retry type", true),
    Key("delayed-retry-min", natural, "delayed retry minimum", true),
    Key("delayed-retry-max", natural, "delayed retry maximum", true),
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
    Key("initial-cluster-size", positive, "cluster size", false),
    Key("max-age", max_age, "max age", false),
    Key("max-in-memory-bytes", natural, "maximum memory in bytes", true),
    Key("max-in-memory-length", natural, "maximum length in memory", true),
    Key("max-length", natural, "maximum length", true),
    Key("max-length-bytes", natural, "maximum length in bytes", true),
    Key("message-ttl", natural, "message TTL", true),
    Key("overflow", overflow, "overflow value", true),
    Key("queue-leader-locator", locator, "queue leader locator value", false),
    Key("queue-master-locator", text, "queue master locator value", false),
    Key("queue-mode", mode, "queue-mode value", false),
    Key("queue-version", version, "queue version", true),
    Key("stream-filter-size-bytes", natural, "filter size", false),
    Key("stream-max-segment-size-bytes", natural, "segment size", false),
    Key("target-group-size", positive, "target group size", true),
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

/// Ten years: the longest that a queue or message can be given, as with arguments.
const TIME_MS_MAX: u64 = 315_360_000_000;

/// Whether a queue of that type passes over a policy with this key.
pub(super) fn is_unsupported(key: &str, kind: Kind) -> bool {
    match kind {
        Kind::Classic => NOT_FOR_CLASSIC.contains(&key),
        Kind::Quorum => NOT_FOR_QUORUM.contains(&key),
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
    let unknown: Vec<String> = definition
        .keys()
        .filter(|key| known(key).is_none())
        .map(|key| format!("<<\"{key}\">>"))
        .collect();
    if !unknown.is_empty() {
        let unknown = unknown.join(",");
        return Err(format!("[{unknown}] are not recognised policy settings"));
    }
    for (key, value) in definition {
        let Some(Key(_, check, noun, _)) = known(key) else {
            continue;
        };
        let is_late = matches!(key.as_str(), "expires" | "message-ttl");
        if !check(value) || (is_late && value.as_u64() > Some(TIME_MS_MAX)) {
            return Err(format!("{value} is not a valid {noun} (key '{key}')"));
        }
    }
    Ok(())
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
    let Some(text) = value.as_str() else { return false };
    let Some(digits) = text.strip_suffix(['Y', 'M', 'D', 'h', 'm', 's']) else {
        return false;
    };
    digits.parse::<u64>().is_ok_and(|number| number > 0)
}
