//! What the broker itself reads from and writes into a message's properties.

use bytes::{Bytes, BytesMut};
use sha2::{Digest as _, Sha256};
use warren_proto::record::{Stored, put_short_string};

use crate::amqp::content::with_headers;
use crate::amqp::{Fault, Properties, ReplyCode, Table, Value};

/// The longest expiration: ten years in milliseconds.
const EXPIRATION_MS_MAX: i128 = 315_360_000_000;

/// Reads the expiration property: milliseconds in decimal.
pub(crate) fn expiration_ms(text: &str) -> Result<u64, Fault> {
    let refused = |term: String| {
        Fault::new(
            ReplyCode::PreconditionFailed,
            format!("invalid expiration '{text}': {term}"),
        )
    };
    let sign_len = usize::from(text.starts_with(['-', '+']));
    let digits_len = text[sign_len..].bytes().take_while(u8::is_ascii_digit).count();
    if digits_len == 0 {
        return Err(refused("no_integer".to_owned()));
    }
    let (number, rest) = text.split_at(sign_len + digits_len);
    if !rest.is_empty() {
        return Err(refused(format!("{{leftover_string,\"{rest}\"}}")));
    }
    let is_negative = number.starts_with('-');
    let value = number.parse::<i128>();
    let fits = |value: &i128| (0..=EXPIRATION_MS_MAX).contains(value);
    match value
        .as_ref()
        .ok()
        .filter(|value| fits(value))
        .map(|value| u64::try_from(*value))
    {
        Some(Ok(value)) => Ok(value),
        _ => {
            let why = if is_negative {
                "value_negative"
            } else {
                "value_too_large"
            };
            let value = value.map_or_else(|_| number.to_owned(), |value| value.to_string());
            Err(refused(format!("{{{why},{value}}}")))
        }
    }
}

/// Further routing keys that a message carries in its headers, and the properties to store.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Copies {
    /// Of CC and BCC.
    pub(crate) routing_keys: Vec<String>,
    /// Those of BCC as a queue keeps them.
    pub(crate) bcc: Vec<u8>,
    /// Without BCC.
    pub(crate) properties: Bytes,
}

/// Reads CC and BCC, if there are such headers.
pub(crate) fn copies(properties: &Bytes, headers: &Bytes) -> Result<Option<Copies>, Fault> {
    if !headers.windows(2).any(|pair| pair == b"CC") {
        return Ok(None);
    }
    let mut table = Table::decode(headers)?;
    let mut routing_keys = Vec::new();
    let mut bcc = Vec::new();
    for name in ["CC", "BCC"] {
        let Some(value) = table.get(name) else { continue };
        let Some(keys) = value.as_array() else {
            let text = format!(
                "invalid message: {{unacceptable_type_in_header,\"{name}\",{}}}",
                value.type_name()
            );
            return Err(Fault::new(ReplyCode::PreconditionFailed, text));
        };
        // What is no string among them is passed over.
        let keys = || keys.iter().filter_map(Value::as_str);
        routing_keys.extend(keys().map(str::to_owned));
        if name == "BCC" {
            keys().for_each(|key| put_short_string(&mut bcc, key.as_bytes()));
        }
    }
    if routing_keys.is_empty() && !table.contains("BCC") {
        return Ok(None);
    }
    let properties = match table.remove("BCC") {
        Some(_) => with_headers(properties, Some(&table), true)?,
        None => properties.clone(),
    };
    Ok(Some(Copies {
        routing_keys,
        bcc,
        properties,
    }))
}

/// The header by which a queue that wants no duplicates knows a message.
const DEDUPLICATION: &str = "x-deduplication-header";

/// Whether properties may hold that header. Cheap, and true for some that do not.
pub(crate) fn may_have_deduplication_key(properties: &[u8]) -> bool {
    properties
        .windows(DEDUPLICATION.len())
        .any(|window| window == DEDUPLICATION.as_bytes())
}

/// A digest of that header's value, the same in every build; 0 for a message without it. Numbers of any width are the
/// same as long as their values are.
pub(crate) fn deduplication_key(properties: &[u8]) -> u128 {
    if !may_have_deduplication_key(properties) {
        return 0;
    }
    // What cannot be read, which no publisher can have stored, has no headers.
    let properties = Properties::decode(&Bytes::copy_from_slice(properties)).unwrap_or_default();
    let headers = properties.headers.unwrap_or_default();
    let Some(value) = headers.get(DEDUPLICATION) else {
        return 0;
    };
    let digest = match (value.as_i64(), value.as_str()) {
        (Some(number), _) => Sha256::new_with_prefix("number").chain_update(number.to_le_bytes()),
        (None, Some(text)) => Sha256::new_with_prefix("text").chain_update(text),
        (None, None) => {
            let mut encoded = BytesMut::new();
            value.encode(&mut encoded);
            Sha256::new_with_prefix("other").chain_update(encoded)
        }
    };
    let digest: [u8; 32] = digest.finalize().into();
    let (half, _) = digest.split_at(16);
    u128::from_le_bytes(half.try_into().expect("sixteen bytes")).max(1)
}

/// The properties of a message that was handed out before, as consumers of a quorum queue get them.
///
/// Properties that cannot be read, which no publisher can have stored, stay as they are.
pub(crate) fn redelivery(properties: &Bytes, acquired: u32, failed: u32) -> Bytes {
    let Ok(decoded) = Properties::decode(properties) else {
        return properties.clone();
    };
    let mut headers = decoded.headers.unwrap_or_default();
    headers.remove("x-delivery-count");
    headers.insert("x-acquired-count", Value::I64(i64::from(acquired)));
    if failed > 0 {
        headers.insert("x-delivery-count", Value::I64(i64::from(failed)));
    }
    with_headers(properties, Some(&headers), true).unwrap_or_else(|_| properties.clone())
}

const FILTER_VALUE: &str = "x-stream-filter-value";
const OFFSET: &str = "x-stream-offset";

/// What a stored message, as a publish payload, says to those who read a stream in part; `None` if it says nothing, or
/// something that is no text.
pub(crate) fn filter_value(payload: &Bytes) -> Option<String> {
    let stored = Stored::decode(payload).ok()?;
    let may_have = |window: &[u8]| window == FILTER_VALUE.as_bytes();
    if !stored.properties.windows(FILTER_VALUE.len()).any(may_have) {
        return None;
    }
    let properties = Properties::decode(&payload.slice_ref(stored.properties)).ok()?;
    let headers = properties.headers?;
    headers.get(FILTER_VALUE)?.as_str().map(str::to_owned)
}

/// The properties of a message as readers of a stream get them: with its offset among the headers.
///
/// Properties that cannot be read, which no publisher can have stored, stay as they are.
pub(crate) fn with_offset(properties: &Bytes, offset: u64) -> Bytes {
    let Ok(decoded) = Properties::decode(properties) else {
        return properties.clone();
    };
    let mut headers = decoded.headers.unwrap_or_default();
    headers.remove(OFFSET);
    headers.insert(OFFSET, Value::I64(i64::try_from(offset).unwrap_or(i64::MAX)));
    with_headers(properties, Some(&headers), true).unwrap_or_else(|_| properties.clone())
}

#[cfg(test)]
mod tests;
