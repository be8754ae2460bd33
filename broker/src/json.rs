//! JSON of what clients have sent: they may nest it deeper than `serde_json` reads of its own accord.

use serde::de::DeserializeOwned;
use serde_json::Deserializer;

use crate::amqp::table::DEPTH_MAX;

/// The levels that are read: of the deepest table two for each of its own, and what stands around it.
const LEVELS_MAX: usize = 2 * DEPTH_MAX + 32;

/// Reads one value; an error if there is more.
pub fn read<T: DeserializeOwned>(text: &str) -> serde_json::Result<T> {
    let mut reader = Deserializer::from_str(text);
    // Else its own limit says what is wrong.
    if levels(text) <= LEVELS_MAX {
        reader.disable_recursion_limit();
    }
    let value = T::deserialize(&mut reader)?;
    reader.end()?;
    Ok(value)
}

/// How deep arrays and objects are nested, if it is JSON.
fn levels(text: &str) -> usize {
    let (mut level, mut deepest) = (0_usize, 0);
    let mut bytes = text.bytes();
    let mut in_string = false;
    while let Some(byte) = bytes.next() {
        match byte {
            b'"' => in_string = !in_string,
            b'\\' if in_string => drop(bytes.next()),
            b'[' | b'{' if !in_string => {
                level += 1;
                deepest = deepest.max(level);
            }
            b']' | b'}' if !in_string => level = level.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

#[cfg(test)]
mod tests {
    use serde_json::Value;

    use super::*;

    #[test]
    fn the_deepest_tables_are_read_and_nothing_deeper() {
        let nested = |levels| format!("{}{}", "[".repeat(levels), "]".repeat(levels));
        assert!(read::<Value>(&nested(LEVELS_MAX)).is_ok());
        let error = read::<Value>(&nested(LEVELS_MAX + 1)).expect_err("too deep");
        assert!(error.to_string().contains("recursion limit"), "{error}");
        let error = read::<Value>("[] []").expect_err("two values");
        assert!(error.to_string().contains("trailing characters"), "{error}");
    }

    #[test]
    fn brackets_in_strings_nest_nothing() {
        for (text, expected) in [
            ("[]", 1),
            (r#"{"a":[{}]}"#, 3),
            (r#"["[{\"[{","{"]"#, 1),
            ("]][", 1),
            ("1", 0),
        ] {
            assert_eq!(levels(text), expected, "{text}");
        }
    }
}
