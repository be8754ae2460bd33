//! Headers: the message's headers agree with the binding's arguments.
//!
//! `x-match` says how: `all` (the default) or `any` of the arguments must agree, those whose names begin with `x-`
//! left out; `all-with-x` and `any-with-x` leave out `x-match` alone. An argument without a value (void) asks only
//! that the header be there. Numbers agree by value, whatever their width.

use std::sync::Arc;

use imbl::OrdMap;

use super::{InvalidBinding, Target, Targets, term};
use crate::amqp::{ShortStr, Table, Value};

/// Rules, each with the targets of all bindings that have it.
#[derive(Clone, Debug, Default)]
pub struct Headers {
    /// By the arguments' encoding: the same arguments in another order are another rule, which matches the same.
    rules: OrdMap<Arc<[u8]>, (Arc<Rule>, Targets)>,
}

#[derive(Debug)]
struct Rule {
    any: bool,
    /// Without `x-match` and what it leaves out; by name.
    fields: Vec<(ShortStr, Value)>,
    /// How many different names `fields` has.
    names: usize,
}

/// A message's headers by name; of fields with the same name the first, as [`Table::get`] has it.
struct Index<'a> {
    fields: Vec<&'a (ShortStr, Value)>,
    #[cfg(test)]
    looked_up: std::cell::Cell<usize>,
}

pub(super) fn validate(arguments: &Table) -> Result<(), InvalidBinding> {
    match arguments.get("x-match") {
        None => Ok(()),
        Some(Value::LongStr(mode)) if mode_of(mode).is_some() => Ok(()),
        Some(mode @ Value::LongStr(_)) => Err(InvalidBinding(format!(
            "Invalid x-match field value {}; expected all, any, all-with-x, or any-with-x",
            term::print(mode)
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
        let mut fields: Vec<_> = arguments.iter().filter(|(name, _)| counts(name)).cloned().collect();
        fields.sort_by(|one, other| one.0.cmp(&other.0));
        let names = fields.chunk_by(|one, other| one.0 == other.0).count();
        Self { any, fields, names }
    }

    /// Looks at no more fields than the message has headers, whatever the rule asks for.
    fn matches(&self, headers: &Index<'_>) -> bool {
        let field_agrees = |(name, wanted): &(ShortStr, Value)| match (headers.get(name), wanted) {
            (None, _) => false,
            (Some(_), Value::Void) => true,
            (Some(value), wanted) => agrees(value, wanted),
        };
        if !self.any {
            return self.names <= headers.fields.len() && self.fields.iter().all(field_agrees);
        }
        if self.names <= headers.fields.len() {
            return self.fields.iter().any(field_agrees);
        }
        headers.fields.iter().any(|(name, value)| {
            let start = self.fields.partition_point(|(own, _)| own < name);
            let same = self.fields[start..].iter().take_while(|(own, _)| own == name);
            same.into_iter()
                .any(|(_, wanted)| matches!(wanted, Value::Void) || agrees(value, wanted))
        })
    }
}

impl<'a> Index<'a> {
    fn new(headers: &'a Table) -> Self {
        let mut fields: Vec<_> = headers.iter().collect();
        fields.sort_by(|one, other| one.0.cmp(&other.0));
        fields.dedup_by(|later, first| later.0 == first.0);
        Self {
            fields,
            #[cfg(test)]
            looked_up: std::cell::Cell::new(0),
        }
    }

    fn get(&self, name: &ShortStr) -> Option<&'a Value> {
        #[cfg(test)]
        self.looked_up.set(self.looked_up.get() + 1);
        let at = self.fields.binary_search_by(|(own, _)| own.cmp(name)).ok()?;
        Some(&self.fields[at].1)
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
        if self.rules.is_empty() {
            return;
        }
        let headers = Index::new(headers.unwrap_or(NONE));
        for (rule, targets) in self.rules.values() {
            if rule.matches(&headers) {
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

#[cfg(test)]
mod tests {
    use super::*;

    fn numbered(names: impl IntoIterator<Item = usize>) -> Table {
        names
            .into_iter()
            .map(|n| (ShortStr::cut(&format!("k{n:06}")), Value::Void))
            .collect()
    }

    #[track_caller]
    fn check(mode: &'static str, arguments: usize, headers: usize, expected: (bool, usize)) {
        let mut wanted = numbered(0..arguments);
        wanted.insert("x-match", mode);
        let rule = Rule::new(&wanted);
        // The last first: the worst order for a search from the front.
        let headers = numbered((0..headers).rev());
        let index = Index::new(&headers);
        let matches = rule.matches(&index);
        assert_eq!((matches, index.looked_up.get()), expected, "{mode} {arguments}");
    }

    #[test]
    fn each_argument_is_looked_up_once_and_no_more_than_there_are_headers() {
        check("all", 8_000, 8_000, (true, 8_000));
        check("all", 8_000, 7_999, (false, 0));
        check("all", 100, 8_000, (true, 100));
        check("any", 8_000, 8_000, (true, 1));
        // From the side of the headers.
        check("any", 8_000, 1, (true, 0));
        check("any", 0, 10, (false, 0));
        check("all", 0, 0, (true, 0));
    }

    #[test]
    fn of_headers_with_one_name_the_first_counts() {
        let headers = Table(vec![("a".into(), 1_i32.into()), ("a".into(), 2_i32.into())]);
        let index = Index::new(&headers);
        let matches = |mode: &'static str, wanted: &[(&'static str, i32)]| {
            let mut arguments = Table(wanted.iter().map(|(name, n)| ((*name).into(), (*n).into())).collect());
            arguments.insert("x-match", mode);
            Rule::new(&arguments).matches(&index)
        };
        assert!(matches("all", &[("a", 1)]));
        assert!(!matches("all", &[("a", 2)]));
        assert!(!matches("all", &[("a", 1), ("a", 2)]));
        assert!(matches("any", &[("a", 2), ("a", 1)]));
        assert!(matches("any", &[("b", 0), ("a", 1)]));
        assert!(!matches("any", &[("b", 0), ("a", 2)]));
    }
}
