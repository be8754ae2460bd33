//! What basic.consume says about reading a stream.

use warren_proto::queue::{StreamFrom, stream_from::At};

use super::consume::Consume;
use crate::amqp::{Fault, ReplyCode, Value};
use crate::exchange::term;
use crate::metadata::arguments::age_ms;
use crate::metadata::{Kind, Queue};

const OFFSET: &str = "x-stream-offset";
const FILTER: &str = "x-stream-filter";
const MATCH_UNFILTERED: &str = "x-stream-match-unfiltered";

/// Where a consumer begins, and what it wants to see; nothing for a queue that is no stream.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Reading {
    pub(super) from: Option<StreamFrom>,
    /// Filter values; empty: everything.
    pub(super) filter: Vec<String>,
    /// With a filter: messages without a value as well.
    pub(super) match_unfiltered: bool,
}

impl Reading {
    /// 406 for arguments that the queue's type does not know, for a position that is none, and for a stream's consumer
    /// without a prefetch limit; 540 for one that does not acknowledge.
    pub(super) fn of(queue: &Queue, consume: &Consume, prefetch: u16) -> Result<Self, Fault> {
        let arguments = &consume.arguments;
        let unknown: &[&str] = match queue.kind {
            Kind::Classic | Kind::Quorum => &[OFFSET, FILTER, MATCH_UNFILTERED],
            Kind::Stream => &["x-priority", "x-consumer-timeout"],
        };
        if let Some(key) = unknown.iter().find(|key| arguments.contains(key)) {
            let module = queue.kind.module();
            let text = format!("invalid arg '{key}' for {} of queue type {module}", queue.resource());
            return Err(Fault::new(ReplyCode::PreconditionFailed, text));
        }
        if queue.kind != Kind::Stream {
            return Ok(Self::default());
        }
        let at = match arguments.get(OFFSET) {
            None => At::Next(true),
            Some(value) => position(value).ok_or_else(|| {
                let (resource, kind) = (queue.resource(), value.type_name());
                let value = term::print(value);
                let term = format!("{{invalid_stream_offset_arg,{{{kind},{value}}}}}");
                let text = format!("invalid arg '{OFFSET}' for {resource}: {term}");
                Fault::new(ReplyCode::PreconditionFailed, text)
            })?,
        };
        if prefetch == 0 {
            let text = format!("consumer prefetch count is not set for stream {}", queue.resource());
            return Err(Fault::new(ReplyCode::PreconditionFailed, text));
        }
        if consume.no_ack {
            let text = format!("automatic acknowledgement not supported by stream {}", queue.resource());
            return Err(Fault::new(ReplyCode::NotImplemented, text));
        }
        let text = |value: &Value| value.as_str().map(str::to_owned);
        let filter = match arguments.get(FILTER) {
            Some(Value::Array(values)) => values.iter().filter_map(text).collect(),
            Some(value) => text(value).into_iter().collect(),
            None => Vec::new(),
        };
        Ok(Self {
            from: Some(StreamFrom {
                at: Some(at),
                not_before_ms: 0,
            }),
            filter,
            match_unfiltered: matches!(arguments.get(MATCH_UNFILTERED), Some(Value::Bool(true))),
        })
    }
}

/// What a value of `x-stream-offset` means: a word, an age, a time or an offset.
fn position(value: &Value) -> Option<At> {
    if let Value::Timestamp(seconds) = value {
        return Some(At::TimeMs(seconds.saturating_mul(1_000)));
    }
    if let Some(offset) = value.as_i64() {
        // Below the first is at the first.
        return Some(At::Offset(u64::try_from(offset).unwrap_or(0)));
    }
    match value.as_str()? {
        "first" => Some(At::First(true)),
        "last" => Some(At::Last(true)),
        "next" => Some(At::Next(true)),
        age => age_ms(age).map(At::AgeMs),
    }
}

#[cfg(test)]
mod tests;
