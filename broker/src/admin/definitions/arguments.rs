//! Field tables as plain JSON, and back. What JSON has no type for comes back as what it is nearest to.

use bytes::Bytes;
use serde_json::{Map, Value as Json, json};

use crate::amqp::ShortStr;
use crate::amqp::table::{Table, Value as Field};

pub(super) fn to_json(table: &Table) -> Json {
    let fields = table.iter().map(|(name, field)| (name.to_string(), value(field)));
    Json::Object(fields.collect::<Map<_, _>>())
}

fn value(field: &Field) -> Json {
    match field {
        Field::Bool(value) => json!(value),
        Field::I8(value) => json!(value),
        Field::U8(value) => json!(value),
        Field::I16(value) => json!(value),
        Field::U16(value) => json!(value),
        Field::I32(value) => json!(value),
        Field::U32(value) => json!(value),
        Field::I64(value) => json!(value),
        Field::F32(value) => json!(value),
        Field::F64(value) => json!(value),
        Field::Decimal { scale, value } => json!(f64::from(*value) / 10_f64.powi((*scale).into())),
        Field::LongStr(bytes) | Field::ByteArray(bytes) => json!(String::from_utf8_lossy(bytes)),
        Field::Timestamp(seconds) => json!(seconds),
        Field::Void => Json::Null,
        Field::Array(items) => items.iter().map(value).collect(),
        Field::Table(table) => to_json(table),
    }
}

/// `Err`: a name is too long for a field table.
pub(super) fn from_json(fields: &Map<String, Json>) -> Result<Table, String> {
    let mut table = Table::new();
    for (name, value) in fields {
        let name = ShortStr::try_from(name.clone()).map_err(|error| format!("argument '{name}': {error}"))?;
        table.insert(name, field(value)?);
    }
    Ok(table)
}

fn field(value: &Json) -> Result<Field, String> {
    Ok(match value {
        Json::Null => Field::Void,
        Json::Bool(value) => Field::Bool(*value),
        Json::Number(number) => match number.as_i64() {
            Some(number) => Field::I64(number),
            None => Field::F64(number.as_f64().unwrap_or_default()),
        },
        Json::String(text) => Field::LongStr(Bytes::copy_from_slice(text.as_bytes())),
        Json::Array(items) => Field::Array(items.iter().map(field).collect::<Result<_, _>>()?),
        Json::Object(fields) => Field::Table(from_json(fields)?),
    })
}
