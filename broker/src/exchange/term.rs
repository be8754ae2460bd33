//! Field values as error texts print them, in the notation that RabbitMQ's clients know.

use crate::amqp::{ShortStr, Value};

/// A value where the text has quotes of its own around it: strings stand as they are.
pub(crate) fn text(value: &Value) -> String {
    match value {
        Value::LongStr(text) | Value::ByteArray(text) => String::from_utf8_lossy(text).into_owned(),
        other => print(other),
    }
}

/// A value as an Erlang term.
pub(crate) fn print(value: &Value) -> String {
    match value {
        Value::Bool(yes) => yes.to_string(),
        Value::F32(n) => format!("{n:?}"),
        Value::F64(n) => format!("{n:?}"),
        Value::Decimal { scale, value } => format!("{{{scale},{value}}}"),
        Value::LongStr(text) | Value::ByteArray(text) if text.is_empty() => "<<>>".to_owned(),
        Value::LongStr(text) | Value::ByteArray(text) => format!("<<\"{}\">>", String::from_utf8_lossy(text)),
        Value::Timestamp(seconds) => seconds.to_string(),
        Value::Void => "undefined".to_owned(),
        Value::Array(values) => {
            let terms: Vec<_> = values
                .iter()
                .map(|value| format!("{{{},{}}}", value.type_name(), print(value)))
                .collect();
            format!("[{}]", terms.join(","))
        }
        Value::Table(table) => {
            let field = |(name, value): &(ShortStr, Value)| {
                format!("{{<<\"{name}\">>,{},{}}}", value.type_name(), print(value))
            };
            let terms: Vec<_> = table.iter().map(field).collect();
            format!("[{}]", terms.join(","))
        }
        Value::I8(n) => n.to_string(),
        Value::U8(n) => n.to_string(),
        Value::I16(n) => n.to_string(),
        Value::U16(n) => n.to_string(),
        Value::I32(n) => n.to_string(),
        Value::U32(n) => n.to_string(),
        Value::I64(n) => n.to_string(),
    }
}
