//! Headers: the message's headers agree with the binding's arguments.
//!
//! `x-match` says how: `all` (the default) or `any` of the arguments must agree, those whose names begin with `x-`
//! left out; `all-with-x` and `any-with-x` leave out `x-match` alone. An argument without a value (void) asks only
//! that the header be there. Numbers agree by value, whatever their width.

use std::sync::Arc;

use imbl::OrdMap;

use super::{InvalidBinding, Target, Targets, term};
use crate::amqp::{Table, Value};

/// Rules, each with the targets of all bindings that have it.
#[derive(Clone, Debug, Default)]
pub struct Headers {
    /// By the arguments' encoding: the same arguments in another order are another rule, which matches the same.
    rules: OrdMap<Arc<[u8]>, (Arc<Rule>, Targets)>,
}

#[derive(Debug)]
struct Rule {
    any: bool,
    /// Without `x-match` and what it leaves out.
    fields: Table,
}

pub(super) fn validate(arguments: &Table) -> Result<(), InvalidBinding> {
    match arguments.get("x-match") {
        None => Ok(()),
        Some(Value::LongStr(mode)) if mode_of(mode).is_some() => Ok(()),
        Some(Value::LongStr(mode)) => Err(InvalidBinding(format!(
            "Invalid x-match field value <<\"{}\">>; expected all, any, all-with-x, or any-with-x",
            String::from_utf8_lossy(mode)
        ))),
        Some(other) => Err(InvalidBinding(format!(
            "Invalid x-match field type {} (value {}); expected longstr",
            other.type_name(),
            term::print(other)
        ))),
    }
}

/// Whether any is enough, and whether names beginning with `x-` count.
fn mode_of(text: &[u8]) -> Option<(bool, bool)> {
    match text {
        b"all" => Some((false, false)),
        b"any" => Some((true, false)),
        b"all-with-x" => Some((false, true)),
        b"any-with-x" => Some((true, true)),
        _ => None,
    }
}

impl Rule {
    fn new(arguments: &Table) -> Self {
        let mode = match arguments.get("x-match") {
            Some(Value::LongStr(mode)) => mode_of(mode),
            _ => None,
        };
        let (any, with_x) = mode.unwrap_or((false, false));
        let counts = |name: &str| name != "x-match" && (with_x || !name.starts_with("x-"));
        Self {
            any,
            fields: Table(arguments.iter().filter(|(name, _)| counts(name)).cloned().collect()),
        }
    }

    fn matches(&self, headers: &Table) -> bool {
        let mut agree = self
            .fields
            .iter()
            .map(|(name, wanted)| match (headers.get(name), wanted) {
                (None, _) => false,
                (Some(_), Value::Void) => true,
                (Some(value), wanted) => agrees(value, wanted),
            });
        if self.any {
            agree.any(|agrees| agrees)
        } else {
            agree.all(|agrees| agrees)
        }
    }
}

impl Headers {
    pub(super) fn bind(&mut self, arguments: &Table, target: &Target) {
        let key: Arc<[u8]> = Arc::from(&*arguments.to_bytes());
        let (_, targets) = self
            .rules
            .entry(key)
            .or_insert_with(|| (Arc::new(Rule::new(arguments)), Targets::default()));
        targets.add(target);
    }

    pub(super) fn unbind(&mut self, arguments: &Table, target: &Target) {
        let key: Arc<[u8]> = Arc::from(&*arguments.to_bytes());
        if let Some((_, targets)) = self.rules.get_mut(&key) {
            targets.remove(target);
            if targets.is_empty() {
                self.rules.remove(&key);
            }
        }
    }

    pub(super) fn matches(&self, headers: Option<&Table>, out: &mut Vec<Target>) {
        const NONE: &Table = &Table::new();
        let headers = headers.unwrap_or(NONE);
        for (rule, targets) in self.rules.values() {
            if rule.matches(headers) {
                targets.extend(out);
            }
        }
    }
}

/// Whether two header values agree. RabbitMQ compares what it decoded, so numbers of all widths are one type, and so
/// are strings and byte arrays; inside arrays and tables the types must be the same as well.
fn agrees(one: &Value, other: &Value) -> bool {
    match (Number::of(one), Number::of(other)) {
        (Some(one), Some(other)) => return one == other,
        (None, None) => {}
        _ => return false,
    }
    match (one, other) {
        (Value::LongStr(one) | Value::ByteArray(one), Value::LongStr(other) | Value::ByteArray(other)) => one == other,
        (Value::Array(one), Value::Array(other)) => {
            one.len() == other.len() && one.iter().zip(other).all(|(one, other)| same_type_agrees(one, other))
        }
        (Value::Table(one), Value::Table(other)) => {
            one.len() == other.len()
                && one
                    .iter()
                    .zip(other.iter())
                    .all(|(one, other)| one.0 == other.0 && same_type_agrees(&one.1, &other.1))
        }
        (one, other) => one == other,
    }
}

fn same_type_agrees(one: &Value, other: &Value) -> bool {
    one.tag() == other.tag() && agrees(one, other)
}

/// A value as a number, for comparing.
#[derive(PartialEq)]
enum Number {
    Integer(i128),
    Float(f64),
}

impl Number {
    #[expect(clippy::wildcard_enum_match_arm, reason = "every other type is no number")]
    fn of(value: &Value) -> Option<Self> {
        Some(match value {
            Value::I8(n) => Self::Integer((*n).into()),
            Value::U8(n) => Self::Integer((*n).into()),
            Value::I16(n) => Self::Integer((*n).into()),
            Value::U16(n) => Self::Integer((*n).into()),
            Value::I32(n) => Self::Integer((*n).into()),
            Value::U32(n) => Self::Integer((*n).into()),
            Value::I64(n) => Self::Integer((*n).into()),
            Value::F32(n) => Self::float((*n).into()),
            Value::F64(n) => Self::float(*n),
            _ => return None,
        })
    }

    /// A float without a fraction is compared as the integer it is.
    fn float(n: f64) -> Self {
        const EXACT: f64 = 9_007_199_254_740_992.0;
        #[expect(
            clippy::cast_possible_truncation,
            reason = "within the range where every integer is a float"
        )]
        if n.fract() == 0.0 && n.abs() <= EXACT {
            Self::Integer(n as i128)
        } else {
            Self::Float(n)
        }
    }
}
