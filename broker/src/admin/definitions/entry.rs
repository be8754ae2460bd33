//! One entry of a document: its fields, each read as what it must be, and faults that name the entry.

use serde_json::{Map, Value};

use super::arguments;
use crate::metadata::Limits;

/// Names are short strings.
pub(super) const NAME_LEN_MAX: usize = 255;

/// One entry of a section.
pub(super) struct Entry<'a> {
    pub(super) section: &'static str,
    pub(super) at: usize,
    pub(super) fields: &'a Map<String, Value>,
}

pub(super) type Checked<T> = Result<T, String>;

impl<'a> Entry<'a> {
    /// `queues[3] 'orders'`
    pub(super) fn label(&self) -> String {
        let name = ["name", "user", "source"]
            .iter()
            .find_map(|key| self.fields.get(*key)?.as_str());
        let name = name.map(|name| format!(" '{name}'")).unwrap_or_default();
        format!("{}[{}]{name}", self.section, self.at)
    }

    pub(super) fn fault<T>(&self, text: impl std::fmt::Display) -> Checked<T> {
        Err(format!("{}: {text}", self.label()))
    }

    pub(super) fn text(&self, key: &str) -> Checked<&'a str> {
        match self.fields.get(key) {
            Some(Value::String(text)) => Ok(text),
            Some(other) => self.fault(format_args!("{key} must be text, not {other}")),
            None => self.fault(format_args!("{key} is missing")),
        }
    }

    pub(super) fn name(&self, key: &str) -> Checked<&'a str> {
        let name = self.text(key)?;
        if name.len() > NAME_LEN_MAX {
            return self.fault(format_args!("{key} is longer than {NAME_LEN_MAX} bytes"));
        }
        Ok(name)
    }

    pub(super) fn text_or(&self, key: &str, default: &'a str) -> Checked<&'a str> {
        match self.fields.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(_) => self.text(key),
        }
    }

    pub(super) fn flag(&self, key: &str, default: bool) -> Checked<bool> {
        match self.fields.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(Value::Bool(flag)) => Ok(*flag),
            Some(other) => self.fault(format_args!("{key} must be true or false, not {other}")),
        }
    }

    pub(super) fn number(&self, key: &str, default: i64) -> Checked<i64> {
        match self.fields.get(key) {
            None | Some(Value::Null) => Ok(default),
            Some(value) => match value.as_i64() {
                Some(number) => Ok(number),
                None => self.fault(format_args!("{key} must be an integer, not {value}")),
            },
        }
    }

    pub(super) fn object(&self, key: &str) -> Checked<Map<String, Value>> {
        match self.fields.get(key) {
            None | Some(Value::Null) => Ok(Map::new()),
            Some(Value::Object(fields)) => Ok(fields.clone()),
            // An empty field table of some tools.
            Some(Value::Array(items)) if items.is_empty() => Ok(Map::new()),
            Some(other) => self.fault(format_args!("{key} must be an object, not {other}")),
        }
    }

    /// A list of texts, or one text with commas.
    pub(super) fn tags(&self, fields: &Map<String, Value>) -> Checked<Vec<String>> {
        let wrong = |value: &Value| self.fault(format_args!("tags must be a list of texts, not {value}"));
        match fields.get("tags") {
            None | Some(Value::Null) => Ok(Vec::new()),
            Some(Value::String(text)) => {
                let tags = text.split(',').map(str::trim).filter(|tag| !tag.is_empty());
                Ok(tags.map(str::to_owned).collect())
            }
            Some(list @ Value::Array(items)) => {
                let tags = items.iter().map(|item| item.as_str().map(str::to_owned));
                tags.collect::<Option<_>>().map_or_else(|| wrong(list), Ok)
            }
            Some(other) => wrong(other),
        }
    }

    pub(super) fn table(&self) -> Checked<crate::amqp::Table> {
        arguments::from_json(&self.object("arguments")?).or_else(|error| self.fault(error))
    }

    /// An object, or a list of objects with a name and a value.
    pub(super) fn limits(&self, value: Option<&Value>, known: &[&str]) -> Checked<Option<Limits>> {
        let mut pairs = Vec::new();
        match value {
            None | Some(Value::Null) => return Ok(None),
            Some(Value::Object(fields)) => pairs.extend(fields.iter().map(|(name, value)| (name.as_str(), value))),
            Some(Value::Array(items)) => {
                for item in items {
                    match (item.get("name").and_then(Value::as_str), item.get("value")) {
                        (Some(name), Some(value)) => pairs.push((name, value)),
                        _ => return self.fault(format_args!("a limit has a name and a value, not {item}")),
                    }
                }
            }
            Some(other) => return self.fault(format_args!("limits must be an object, not {other}")),
        }
        if pairs.is_empty() {
            return Ok(None);
        }
        let mut limits = Limits::default();
        for (name, value) in pairs {
            let Some(number) = value.as_i64() else {
                return self.fault(format_args!("the limit {name} must be an integer, not {value}"));
            };
            limits.0.insert(name.to_owned(), number);
        }
        limits.check(known).or_else(|refusal| self.fault(refusal))?;
        Ok(Some(limits))
    }
}
