//! Arguments of declarations: what clients may put there, what it means, and when two declarations agree.
//!
//! [`validate`] is asked by whoever proposes a declaration. The machine itself only reads: an argument that does not
//! hold what it should is as good as absent, so every build applies every log alike.

use warren_cluster::version;

use self::Kinds::{All, C, CQ, Q, S};
use super::facts::Resource;
use super::refusal::Refusal;
use crate::amqp::{Table, Value};
use crate::exchange::term;
use crate::name::{ExchangeName, RoutingKey};

/// The declared type of a queue. All are replicated where they are durable and shared; of classic and quorum the type
/// selects defaults and refusals.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Kind {
    #[default]
    Classic,
    Quorum,
    Stream,
}

impl Kind {
    /// As `x-queue-type` and listings spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Classic => "classic",
            Self::Quorum => "quorum",
            Self::Stream => "stream",
        }
    }

    /// As error texts and metrics spell it.
    pub fn module(self) -> &'static str {
        match self {
            Self::Classic => "rabbit_classic_queue",
            Self::Quorum => "rabbit_quorum_queue",
            Self::Stream => "rabbit_stream_queue",
        }
    }

    /// The version of entries from which on there are such queues.
    pub fn since(self) -> u16 {
        match self {
            Self::Classic | Self::Quorum => version::FIRST,
            Self::Stream => STREAMS_SINCE,
        }
    }

    /// The type that `name` spells.
    pub fn from_name(name: &str) -> Option<Self> {
        [Self::Classic, Self::Quorum, Self::Stream]
            .into_iter()
            .find(|kind| kind.name() == name)
    }

    /// The type that a queue of these arguments has; classic where they do not say.
    pub fn of(arguments: &Table) -> Self {
        match arguments.get("x-queue-type") {
            Some(Value::LongStr(name)) if name == "quorum" => Self::Quorum,
            Some(Value::LongStr(name)) if name == "stream" => Self::Stream,
            _ => Self::Classic,
        }
    }
}

/// What a full queue does with one more message.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Overflow {
    #[default]
    DropHead,
    RejectPublish,
    /// Dead-letters what it rejects.
    RejectPublishDlx,
}

/// How dead letters travel.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum DeadLetterStrategy {
    #[default]
    AtMostOnce,
    AtLeastOnce,
}

/// How long messages of a quorum queue rest that come back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DelayedRetry {
    /// Those whose delivery failed do.
    pub failed: bool,
    /// Those that were given back do.
    pub returned: bool,
    /// For each failed delivery so far, but at least once.
    pub min_ms: u64,
    pub max_ms: u64,
}

impl DelayedRetry {
    /// Without a type and a time nothing rests; without a longest time it is always the shortest.
    fn read(table: &Table) -> Option<Self> {
        Self::merged(table, None, |_| None)
    }

    /// The same with a policy's type and times, by their keys, for what the arguments do not say.
    pub(super) fn merged(table: &Table, kind: Option<&str>, of_policy: impl Fn(&str) -> Option<u64>) -> Option<Self> {
        let (failed, returned) = match text(table, "x-delayed-retry-type").or(kind)? {
            "all" => (true, true),
            "failed" => (true, false),
            "returned" => (false, true),
            _ => return None,
        };
        let time = |argument, key| {
            let own = table.get(argument).and_then(integer);
            own.and_then(|time| u64::try_from(time).ok()).or_else(|| of_policy(key))
        };
        let min_ms = time("x-delayed-retry-min", "delayed-retry-min").filter(|min_ms| *min_ms > 0)?;
        Some(Self {
            failed,
            returned,
            min_ms,
            max_ms: time("x-delayed-retry-max", "delayed-retry-max").unwrap_or(min_ms),
        })
    }
}

/// Which node a new queue's leader should be on.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum LeaderLocator {
    /// Where the client is connected.
    #[default]
    ClientLocal,
    /// Where the fewest leaders are.
    Balanced,
}

impl Overflow {
    /// What `name` means for a queue of that type; the default if it means nothing.
    pub(super) fn from_name(name: &str, kind: Kind) -> Self {
        match (name, kind) {
            ("reject-publish", _) => Self::RejectPublish,
            ("reject-publish-dlx", Kind::Classic) => Self::RejectPublishDlx,
            _ => Self::DropHead,
        }
    }
}

impl LeaderLocator {
    pub(super) fn from_name(name: Option<&str>) -> Self {
        match name {
            None | Some("client-local") => Self::ClientLocal,
            Some(_) => Self::Balanced,
        }
    }
}

/// The limit of deliveries as a declaration has it; below 0: none.
pub(super) fn declared_delivery_limit(table: &Table) -> Option<i64> {
    let limit = table.get("x-delivery-limit").and_then(integer)?;
    Some(i64::try_from(limit).unwrap_or(i64::MAX))
}

/// The limit that a number below 0 does not set.
pub(super) fn delivery_limit(limit: i64) -> Option<u32> {
    (limit >= 0).then(|| u32::try_from(limit).unwrap_or(u32::MAX))
}

/// What a queue's arguments mean, alone or together with its policies. Absent ones are `None` or the default.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Arguments {
    pub message_ttl_ms: Option<u64>,
    /// How long the queue outlives its last use.
    pub expires_ms: Option<u64>,
    pub dead_letter_exchange: Option<ExchangeName>,
    pub dead_letter_routing_key: Option<RoutingKey>,
    pub dead_letter_strategy: DeadLetterStrategy,
    /// Ready messages.
    pub len_max: Option<u64>,
    /// Bytes of bodies and properties of ready messages.
    pub bytes_max: Option<u64>,
    pub overflow: Overflow,
    pub priority_max: Option<u8>,
    pub single_active_consumer: bool,
    /// Failed deliveries after which a message is dropped or dead-lettered; `None`: never.
    pub delivery_limit: Option<u32>,
    /// Replicas to start with.
    pub group_size: Option<u32>,
    pub leader_locator: LeaderLocator,
    pub consumer_timeout_ms: Option<u64>,
    /// How long what a node's sessions hold waits for the node when it is silent.
    pub disconnected_timeout_ms: Option<u64>,
    pub delayed_retry: Option<DelayedRetry>,
    /// A message whose header `x-deduplication-header` is that of one in the queue is dropped.
    pub deduplicates: bool,
    /// How long a stream keeps a message at least.
    pub age_max_ms: Option<u64>,
    /// Bytes of a stream's segments.
    pub segment_bytes: Option<u64>,
}

/// The version of entries that brought streams.
const STREAMS_SINCE: u16 = 2;

/// What a quorum queue has that does not say.
pub const DELIVERY_LIMIT_DEFAULT: u32 = 20;

const DISCONNECTED_TIMEOUT: &str = "x-consumer-disconnected-timeout";
const SEGMENT_SIZE: &str = "x-stream-max-segment-size-bytes";
const SEGMENT_BYTES_MAX: i128 = 3_000_000_000;
/// The size of what RabbitMQ keeps of a chunk's filter values. Filtering here is exact, and keeps nothing.
const FILTER_SIZE: &str = "x-stream-filter-size-bytes";
const FILTER_BYTES: std::ops::RangeInclusive<i128> = 16..=255;

/// The longest time that can be asked for: ten years in milliseconds.
const EXPIRY_MS_MAX: i128 = 315_360_000_000;

impl Arguments {
    /// Reads what is there and well-formed.
    pub fn read(kind: Kind, table: &Table) -> Self {
        let natural = |name| u64::try_from(integer(table.get(name)?)?).ok();
        let delivery_limit = match (kind, declared_delivery_limit(table)) {
            (Kind::Quorum, None) => Some(DELIVERY_LIMIT_DEFAULT),
            (Kind::Quorum, Some(limit)) => delivery_limit(limit),
            (Kind::Classic | Kind::Stream, _) => None,
        };
        let group_size = match kind {
            Kind::Stream => "x-initial-cluster-size",
            Kind::Classic | Kind::Quorum => "x-quorum-initial-group-size",
        };
        Self {
            message_ttl_ms: natural("x-message-ttl"),
            expires_ms: natural("x-expires"),
            dead_letter_exchange: text(table, "x-dead-letter-exchange").map(ExchangeName::from),
            dead_letter_routing_key: text(table, "x-dead-letter-routing-key").map(RoutingKey::from),
            dead_letter_strategy: match text(table, "x-dead-letter-strategy") {
                Some("at-least-once") if kind == Kind::Quorum => DeadLetterStrategy::AtLeastOnce,
                _ => DeadLetterStrategy::AtMostOnce,
            },
            len_max: natural("x-max-length"),
            bytes_max: natural("x-max-length-bytes"),
            overflow: text(table, "x-overflow").map_or(Overflow::DropHead, |name| Overflow::from_name(name, kind)),
            priority_max: natural("x-max-priority").and_then(|priority| u8::try_from(priority).ok()),
            single_active_consumer: matches!(table.get("x-single-active-consumer"), Some(Value::Bool(true))),
            delivery_limit,
            group_size: natural(group_size).and_then(|size| u32::try_from(size).ok()),
            leader_locator: LeaderLocator::from_name(text(table, "x-queue-leader-locator")),
            consumer_timeout_ms: natural("x-consumer-timeout"),
            disconnected_timeout_ms: natural(DISCONNECTED_TIMEOUT).filter(|_| kind == Kind::Quorum),
            deduplicates: matches!(table.get("x-message-deduplication"), Some(Value::Bool(true))),
            delayed_retry: (kind == Kind::Quorum).then(|| DelayedRetry::read(table)).flatten(),
            age_max_ms: text(table, "x-max-age").and_then(age_ms),
            segment_bytes: natural(SEGMENT_SIZE),
        }
    }
}

/// Checks the arguments of a queue that is to be created, and reads them.
///
/// Arguments that no type of queue knows are accepted and ignored. Faults of arguments that the type knows are
/// reported first, then arguments that only other types know.
pub fn validate(kind: Kind, name: &str, vhost: &str, table: &Table) -> Result<Arguments, Refusal> {
    let resource = || Resource::queue(vhost, name);
    // Checked before all others, and with a sentence of its own.
    check_longstr("x-dead-letter-exchange", table, resource)?;
    for rule in RULES.iter().filter(|rule| rule.known_to(kind)) {
        let Some(value) = table.get(rule.key) else { continue };
        (rule.check)(value, table).map_err(|term| Refusal::InvalidArgument {
            key: rule.key.to_owned(),
            resource: resource(),
            term,
        })?;
    }
    if let Some(rule) = RULES
        .iter()
        .find(|rule| !rule.known_to(kind) && table.contains(rule.key))
    {
        return Err(Refusal::UnsupportedArgument {
            key: rule.key.to_owned(),
            resource: resource(),
            kind,
        });
    }
    check_sizes(kind, table)?;
    Ok(Arguments::read(kind, table))
}

/// The bounds of a stream's sizes, which have sentences of their own.
fn check_sizes(kind: Kind, table: &Table) -> Result<(), Refusal> {
    if kind != Kind::Stream {
        return Ok(());
    }
    let number = |key| table.get(key).and_then(integer);
    if number(SEGMENT_SIZE).is_some_and(|bytes| bytes > SEGMENT_BYTES_MAX) {
        return Err(Refusal::InvalidSize(format!("Exceeded max value for {SEGMENT_SIZE}")));
    }
    if number(FILTER_SIZE).is_some_and(|bytes| !FILTER_BYTES.contains(&bytes)) {
        return Err(Refusal::InvalidSize(format!("Invalid value for {FILTER_SIZE}")));
    }
    Ok(())
}

type Check = fn(&Value, &Table) -> Result<(), String>;

struct Rule {
    key: &'static str,
    check: Check,
    kinds: Kinds,
}

/// Some types of queues, by the letters of classic, quorum and stream, or all.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kinds {
    C,
    Q,
    S,
    CQ,
    All,
}

impl Rule {
    fn known_to(&self, kind: Kind) -> bool {
        match kind {
            Kind::Classic => matches!(self.kinds, C | CQ | All),
            Kind::Quorum => matches!(self.kinds, Q | CQ | All),
            Kind::Stream => matches!(self.kinds, S | All),
        }
    }
}

const fn rule(key: &'static str, check: Check, kinds: Kinds) -> Rule {
    Rule { key, check, kinds }
}

/// Every argument that some type of queue knows, in the order of checking.
///
/// `x-max-priority` is accepted and without effect on quorum queues, which have their levels built in.
const RULES: &[Rule] = &[
    rule("x-expires", expires, CQ),
    rule("x-message-ttl", expiry, CQ),
    rule("x-dead-letter-exchange", longstr, CQ),
    rule("x-dead-letter-routing-key", dead_letter_routing_key, CQ),
    rule("x-dead-letter-strategy", dead_letter_strategy, Q),
    rule("x-max-length", natural, CQ),
    rule("x-max-length-bytes", natural, All),
    rule("x-max-in-memory-length", natural, Q),
    rule("x-max-in-memory-bytes", natural, Q),
    rule("x-max-priority", max_priority, CQ),
    rule("x-overflow", overflow, CQ),
    rule("x-queue-mode", anything, C),
    rule("x-queue-version", queue_version, C),
    rule("x-single-active-consumer", boolean, CQ),
    rule("x-queue-type", queue_type, All),
    rule("x-quorum-initial-group-size", positive, Q),
    rule("x-delivery-limit", anything, Q),
    rule("x-consumer-timeout", natural, Q),
    rule(DISCONNECTED_TIMEOUT, natural, Q),
    rule("x-delayed-retry-type", anything, Q),
    rule("x-delayed-retry-min", anything, Q),
    rule("x-delayed-retry-max", anything, Q),
    rule("x-max-age", max_age, S),
    rule(SEGMENT_SIZE, natural, S),
    rule(FILTER_SIZE, natural, S),
    rule("x-initial-cluster-size", positive, S),
    rule("x-message-deduplication", boolean, CQ),
    rule("x-queue-leader-locator", leader_locator, All),
    rule("x-queue-master-locator", anything, C),
];

/// The value of any integer type.
fn integer(value: &Value) -> Option<i128> {
    #[expect(clippy::wildcard_enum_match_arm, reason = "every other type is no integer")]
    Some(match value {
        Value::I8(n) => (*n).into(),
        Value::U8(n) => (*n).into(),
        Value::I16(n) => (*n).into(),
        Value::U16(n) => (*n).into(),
        Value::I32(n) => (*n).into(),
        Value::U32(n) => (*n).into(),
        Value::I64(n) => (*n).into(),
        _ => return None,
    })
}

fn text<'a>(table: &'a Table, name: &str) -> Option<&'a str> {
    match table.get(name)? {
        Value::LongStr(text) => std::str::from_utf8(text).ok(),
        _ => None,
    }
}

fn expect_integer(value: &Value) -> Result<i128, String> {
    integer(value).ok_or_else(|| format!("\"expected integer, got {}\"", value.type_name()))
}

fn natural(value: &Value, _: &Table) -> Result<(), String> {
    match expect_integer(value)? {
        n if n < 0 => Err(format!("{{value_negative,{n}}}")),
        _ => Ok(()),
    }
}

fn positive(value: &Value, table: &Table) -> Result<(), String> {
    natural(value, table)?;
    match expect_integer(value)? {
        0 => Err("{value_zero,0}".to_owned()),
        _ => Ok(()),
    }
}

fn expiry(value: &Value, table: &Table) -> Result<(), String> {
    natural(value, table)?;
    match expect_integer(value)? {
        n if n > EXPIRY_MS_MAX => Err(format!("{{value_too_large,{n}}}")),
        _ => Ok(()),
    }
}

fn expires(value: &Value, table: &Table) -> Result<(), String> {
    positive(value, table)?;
    expiry(value, table)
}

fn max_age(value: &Value, table: &Table) -> Result<(), String> {
    longstr(value, table)?;
    match value {
        Value::LongStr(text) if std::str::from_utf8(text).ok().and_then(age_ms).is_some() => Ok(()),
        _ => Err("invalid_max_age".to_owned()),
    }
}

/// Milliseconds of a time as streams spell it: digits and one of `Y`, `M` (30 days), `D`, `h`, `m` and `s`. `None` if it
/// is not one, or no time at all; more than can be counted is as long as can be counted.
pub fn age_ms(text: &str) -> Option<u64> {
    const DAY_S: u64 = 24 * 60 * 60;
    let unit_s = match text.bytes().last()? {
        b'Y' => 365 * DAY_S,
        b'M' => 30 * DAY_S,
        b'D' => DAY_S,
        b'h' => 60 * 60,
        b'm' => 60,
        b's' => 1,
        _ => return None,
    };
    let digits = &text[..text.len() - 1];
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    let number = digits.parse::<u64>().unwrap_or(u64::MAX);
    (number > 0).then(|| number.saturating_mul(unit_s * 1_000))
}

fn max_priority(value: &Value, table: &Table) -> Result<(), String> {
    natural(value, table)?;
    match expect_integer(value)? {
        n if n > 255 => Err(format!("{{max_value_exceeded,{n}}}")),
        _ => Ok(()),
    }
}

fn queue_version(value: &Value, table: &Table) -> Result<(), String> {
    natural(value, table)?;
    match expect_integer(value)? {
        2 => Ok(()),
        n => Err(format!("\"unsupported queue version '{n}'\"")),
    }
}

fn longstr(value: &Value, _: &Table) -> Result<(), String> {
    match value {
        Value::LongStr(_) => Ok(()),
        other => Err(format!("{{unacceptable_type,{}}}", other.type_name())),
    }
}

fn boolean(value: &Value, _: &Table) -> Result<(), String> {
    match value {
        Value::Bool(_) => Ok(()),
        other => Err(format!("{{unacceptable_type,{}}}", other.type_name())),
    }
}

fn anything(_: &Value, _: &Table) -> Result<(), String> {
    Ok(())
}

fn one_of(value: &Value, table: &Table, known: &[&str], term: &str) -> Result<(), String> {
    longstr(value, table)?;
    match value {
        Value::LongStr(text) if known.iter().any(|known| known.as_bytes() == text) => Ok(()),
        _ => Err(term.to_owned()),
    }
}

fn dead_letter_routing_key(value: &Value, table: &Table) -> Result<(), String> {
    longstr(value, table)?;
    if table.contains("x-dead-letter-exchange") {
        Ok(())
    } else {
        Err("routing_key_but_no_dlx_defined".to_owned())
    }
}

fn dead_letter_strategy(value: &Value, table: &Table) -> Result<(), String> {
    one_of(value, table, &["at-most-once", "at-least-once"], "invalid_dlx_strategy")
}

fn overflow(value: &Value, table: &Table) -> Result<(), String> {
    one_of(
        value,
        table,
        &["drop-head", "reject-publish", "reject-publish-dlx"],
        "invalid_overflow",
    )
}

fn leader_locator(value: &Value, table: &Table) -> Result<(), String> {
    let known = ["client-local", "balanced", "random", "least-leaders", "min-masters"];
    one_of(value, table, &known, "invalid_queue_locator_arg")
}

fn queue_type(value: &Value, table: &Table) -> Result<(), String> {
    longstr(value, table)?;
    let Value::LongStr(name) = value else { return Ok(()) };
    let name = String::from_utf8_lossy(name);
    // An empty one is as good as none.
    if name.is_empty() || Kind::from_name(&name).is_some() {
        Ok(())
    } else {
        Err(format!("\"unsupported queue type '{name}'\""))
    }
}

/// The alternate exchange that an exchange's arguments name.
pub(super) fn alternate_exchange(table: &Table) -> Option<ExchangeName> {
    text(table, "alternate-exchange").map(ExchangeName::from)
}

/// Checks the arguments of an exchange that is to be created.
pub fn validate_exchange(name: &str, vhost: &str, table: &Table) -> Result<(), Refusal> {
    check_longstr("alternate-exchange", table, || Resource::exchange(vhost, name))
}

fn check_longstr(key: &str, table: &Table, resource: impl Fn() -> Resource) -> Result<(), Refusal> {
    match table.get(key) {
        None | Some(Value::LongStr(_)) => Ok(()),
        Some(other) => Err(Refusal::InvalidArgumentType {
            key: key.to_owned(),
            resource: resource(),
            type_name: other.type_name(),
        }),
    }
}

/// Refuses a field that was declared with another value.
pub(super) fn check_field<T: PartialEq + std::fmt::Display>(
    field: &str,
    received: T,
    current: T,
    resource: impl Fn() -> Resource,
) -> Result<(), Refusal> {
    if received == current {
        return Ok(());
    }
    Err(Refusal::Inequivalent {
        field: field.to_owned(),
        resource: resource(),
        received: format!("'{received}'"),
        current: format!("'{current}'"),
    })
}

/// Whether the arguments that matter to a queue of that type are those it was declared with.
pub(super) fn check_queue_arguments(
    kind: Kind,
    current: &Table,
    received: &Table,
    resource: impl Fn() -> Resource,
) -> Result<(), Refusal> {
    for rule in RULES.iter().filter(|rule| rule.known_to(kind)) {
        check_argument(rule.key, current, received, &resource)?;
    }
    Ok(())
}

/// Whether the arguments that matter to an exchange are those it was declared with.
pub(super) fn check_exchange_arguments(
    current: &Table,
    received: &Table,
    resource: impl Fn() -> Resource,
) -> Result<(), Refusal> {
    check_argument("alternate-exchange", current, received, &resource)
}

fn check_argument(
    key: &str,
    current: &Table,
    received: &Table,
    resource: &impl Fn() -> Resource,
) -> Result<(), Refusal> {
    let classic = Value::LongStr(bytes::Bytes::from_static(b"classic"));
    let or_default = |value: Option<&Value>| match value {
        None if key == "x-queue-type" => Some(classic.clone()),
        Some(Value::LongStr(text)) if key == "x-queue-type" && text.is_empty() => Some(classic.clone()),
        // However it is spelled: compared, and printed, in milliseconds.
        Some(Value::LongStr(text)) if key == "x-max-age" => {
            let age_ms = std::str::from_utf8(text).ok().and_then(age_ms);
            Some(Value::LongStr(
                age_ms.map_or_else(|| text.clone(), |age_ms| age_ms.to_string().into()),
            ))
        }
        value => value.cloned(),
    };
    let (current, received) = (or_default(current.get(key)), or_default(received.get(key)));
    let (received, current) = match (received, current) {
        (None, None) => return Ok(()),
        (Some(received), Some(current)) if equivalent(&received, &current) => return Ok(()),
        (Some(received), Some(current)) => (
            format!("'{}'", term::text(&received)),
            format!("'{}'", term::text(&current)),
        ),
        (received, current) => (print_typed(received.as_ref()), print_typed(current.as_ref())),
    };
    Err(Refusal::Inequivalent {
        field: key.to_owned(),
        resource: resource(),
        received,
        current,
    })
}

/// Whether two values of an argument mean the same: integers of any width do, and floats of any width.
fn equivalent(one: &Value, other: &Value) -> bool {
    match (integer(one), integer(other), float(one), float(other)) {
        (Some(one), Some(other), _, _) => one == other,
        (_, _, Some(one), Some(other)) => one == other,
        _ => one == other,
    }
}

fn float(value: &Value) -> Option<f64> {
    match value {
        Value::F32(n) => Some((*n).into()),
        Value::F64(n) => Some(*n),
        _ => None,
    }
}

fn print_typed(value: Option<&Value>) -> String {
    match value {
        None => "none".to_owned(),
        Some(value) => format!("the value '{}' of type '{}'", term::text(value), value.type_name()),
    }
}

#[cfg(test)]
mod tests;
