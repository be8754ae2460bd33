//! Policy with operator policy, and both with arguments: who wins.

use serde_json::Value;

use super::Definition;
use crate::amqp::Table;
use crate::metadata::arguments::{
    Arguments, DeadLetterStrategy, DelayedRetry, Kind, LeaderLocator, Overflow, age_ms, declared_delivery_limit,
    delivery_limit,
};
use crate::name::{ExchangeName, RoutingKey};

/// What both say together. Of a limit the narrower one holds; of what an operator may set beside, his word.
pub(super) fn definitions(mut user: Definition, operator: Definition) -> Definition {
    for (key, value) in operator {
        let merged = match user.get(&key) {
            Some(own) => stricter(&key, own, &value),
            None => value,
        };
        user.insert(key, merged);
    }
    user
}

fn stricter(key: &str, user: &Value, operator: &Value) -> Value {
    let (Some(own), Some(other)) = (user.as_i64(), operator.as_i64()) else {
        return operator.clone();
    };
    let number = match key {
        "message-ttl"
        | "expires"
        | "max-length"
        | "max-length-bytes"
        | "max-in-memory-length"
        | "max-in-memory-bytes"
        | "delayed-retry-max" => own.min(other),
        "target-group-size" | "delayed-retry-min" => own.max(other),
        "delivery-limit" => least_limit(own, other),
        _ => other,
    };
    Value::from(number)
}

/// Below 0 means no limit, and gives way.
fn least_limit(one: i64, other: i64) -> i64 {
    match (one < 0, other < 0) {
        (false, false) => one.min(other),
        (true, _) => other,
        (false, true) => one,
    }
}

/// What a queue obeys that was declared with `settings`, which are what `arguments` mean.
///
/// Of numeric limits the least holds. Of where and how dead letters go, of times of consumers, of each part of the delayed
/// retry and of the leader's place, the queue's own arguments win; of what a full queue does too, but with a quorum queue the
/// policy wins, and so it does in all that bounds a stream.
pub(super) fn settings(mut settings: Arguments, kind: Kind, arguments: &Table, definition: &Definition) -> Arguments {
    let number = |key: &str| definition.get(key).and_then(Value::as_u64);
    let text = |key: &str| definition.get(key).and_then(Value::as_str);
    let least = |own: Option<u64>, key: &str| own.into_iter().chain(number(key)).min();
    let own = settings.clone();
    settings.message_ttl_ms = least(settings.message_ttl_ms, "message-ttl");
    settings.expires_ms = least(settings.expires_ms, "expires");
    settings.len_max = least(settings.len_max, "max-length");
    settings.bytes_max = least(settings.bytes_max, "max-length-bytes");
    if settings.dead_letter_exchange.is_none() {
        settings.dead_letter_exchange = text("dead-letter-exchange").map(ExchangeName::from);
    }
    if settings.dead_letter_routing_key.is_none() {
        settings.dead_letter_routing_key = text("dead-letter-routing-key").map(RoutingKey::from);
    }
    if kind == Kind::Quorum
        && !arguments.contains("x-dead-letter-strategy")
        && text("dead-letter-strategy") == Some("at-least-once")
    {
        settings.dead_letter_strategy = DeadLetterStrategy::AtLeastOnce;
    }
    if let Some(overflow) = text("overflow")
        && (kind == Kind::Quorum || !arguments.contains("x-overflow"))
    {
        settings.overflow = Overflow::from_name(overflow, kind);
    }
    if let Some(limit) = definition.get("delivery-limit").and_then(Value::as_i64)
        && kind == Kind::Quorum
    {
        let own = declared_delivery_limit(arguments);
        settings.delivery_limit = delivery_limit(own.map_or(limit, |own| least_limit(own, limit)));
    }
    if settings.consumer_timeout_ms.is_none() {
        settings.consumer_timeout_ms = number("consumer-timeout");
    }
    if kind == Kind::Quorum && settings.disconnected_timeout_ms.is_none() {
        settings.disconnected_timeout_ms = number("consumer-disconnected-timeout");
    }
    if kind == Kind::Stream {
        let size = number("initial-cluster-size").and_then(|size| u32::try_from(size).ok());
        settings.bytes_max = number("max-length-bytes").or(own.bytes_max);
        settings.age_max_ms = text("max-age").and_then(age_ms).or(own.age_max_ms);
        settings.segment_bytes = number("stream-max-segment-size-bytes").or(own.segment_bytes);
        settings.group_size = size.or(own.group_size);
    }
    if kind == Kind::Quorum {
        settings.delayed_retry = DelayedRetry::merged(arguments, text("delayed-retry-type"), number);
    }
    if !arguments.contains("x-queue-leader-locator")
        && let Some(locator) = text("queue-leader-locator")
    {
        settings.leader_locator = LeaderLocator::from_name(Some(locator));
    }
    settings
}
