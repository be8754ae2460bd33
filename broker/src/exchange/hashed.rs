//! Consistent hash and modulus hash: a message's hash chooses one target of all that are bound.
//!
//! The hash is of the first routing key or, for a consistent hash that was declared so, of a header (`hash-header`) or
//! of a property (`hash-property`). Messages without it go to one and the same target.

use super::line::Line;
use super::{Arrival, InvalidArguments, InvalidBinding, Target, term};
use crate::amqp::{Properties, Table, Value};

/// The heaviest a binding can be. Weights are added up, and a sum must fit.
const WEIGHT_MAX: u64 = u32::MAX as u64;

/// `x-consistent-hash`: binding keys are weights, and a target gets its share of the hashes. A new target at the end
/// of the line takes its share from all others, and nothing moves between those.
#[derive(Clone, Debug, Default)]
pub struct ConsistentHash {
    hash_on: HashOn,
    line: Line,
}

/// `x-modulus-hash`: the hash modulo the number of targets.
#[derive(Clone, Debug, Default)]
pub struct ModulusHash {
    line: Line,
}

/// What of a message is hashed.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
enum HashOn {
    #[default]
    RoutingKey,
    Header(String),
    Property(Property),
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Property {
    CorrelationId,
    MessageId,
    Timestamp,
}

impl Property {
    fn from_name(name: &str) -> Option<Self> {
        match name {
            "correlation_id" => Some(Self::CorrelationId),
            "message_id" => Some(Self::MessageId),
            "timestamp" => Some(Self::Timestamp),
            _ => None,
        }
    }
}

fn argument<'a>(arguments: &'a Table, name: &str) -> Result<Option<&'a str>, InvalidArguments> {
    match arguments.get(name) {
        None => Ok(None),
        Some(value) => value.as_str().map(Some).ok_or_else(|| {
            InvalidArguments(format!(
                "Invalid argument, '{name}' must be a string and is of type {}",
                value.type_name()
            ))
        }),
    }
}

/// Checks the arguments of a consistent hash exchange.
pub(super) fn validate_arguments(arguments: &Table) -> Result<(), InvalidArguments> {
    match (
        argument(arguments, "hash-header")?,
        argument(arguments, "hash-property")?,
    ) {
        (Some(_), Some(_)) => Err(InvalidArguments(
            "hash-header and hash-property are mutually exclusive".to_owned(),
        )),
        (None, Some(name)) if Property::from_name(name).is_none() => {
            Err(InvalidArguments(format!("Unsupported property: {name}")))
        }
        _ => Ok(()),
    }
}

/// Checks a binding key of a consistent hash exchange.
pub(super) fn validate_binding(routing_key: &str) -> Result<(), InvalidBinding> {
    let digits = routing_key.strip_prefix(['+', '-']).unwrap_or(routing_key);
    if digits.is_empty() || !digits.bytes().all(|byte| byte.is_ascii_digit()) {
        let key = term::print(&Value::LongStr(routing_key.as_bytes().to_vec().into()));
        return Err(InvalidBinding(format!("The binding key must be an integer: {key}")));
    }
    match weight(routing_key) {
        0 if routing_key.starts_with('-') || digits.bytes().all(|byte| byte == b'0') => {
            Err(InvalidBinding("The binding key must be greater than 0".to_owned()))
        }
        0 => Err(InvalidBinding(format!(
            "The binding key must not be greater than {WEIGHT_MAX}"
        ))),
        _ => Ok(()),
    }
}

/// 0 for a key that is no weight.
fn weight(routing_key: &str) -> u64 {
    let weight = routing_key.parse().ok();
    weight.filter(|weight| *weight <= WEIGHT_MAX).unwrap_or(0)
}

impl ConsistentHash {
    pub(super) fn new(arguments: &Table) -> Self {
        let text = |name| arguments.get(name).and_then(Value::as_str);
        let property = text("hash-property").and_then(Property::from_name);
        let hash_on = match (text("hash-header"), property) {
            (Some(name), _) => HashOn::Header(name.to_owned()),
            (None, Some(property)) => HashOn::Property(property),
            (None, None) => HashOn::RoutingKey,
        };
        Self {
            hash_on,
            line: Line::default(),
        }
    }

    /// Whether messages with the same routing key may go to different targets.
    pub(super) fn looks_beyond_the_key(&self) -> bool {
        self.hash_on != HashOn::RoutingKey
    }

    pub(super) fn bind(&mut self, routing_key: &str, target: &Target) {
        self.line.lengthen(target, weight(routing_key));
    }

    pub(super) fn unbind(&mut self, routing_key: &str, target: &Target) {
        self.line.shorten(target, weight(routing_key));
    }

    pub(super) fn matches(&self, arrival: &Arrival<'_>, out: &mut Vec<Target>) {
        let len = self.line.len();
        if len > 0 {
            let point = jump(self.hash_on.hash(arrival), len);
            out.extend(self.line.at(point).cloned());
        }
    }
}

impl ModulusHash {
    pub(super) fn bind(&mut self, target: &Target) {
        self.line.lengthen(target, 1);
    }

    pub(super) fn unbind(&mut self, target: &Target) {
        self.line.shorten(target, 1);
    }

    pub(super) fn matches(&self, arrival: &Arrival<'_>, out: &mut Vec<Target>) {
        let count = self.line.count();
        if count > 0 {
            let number = HashOn::RoutingKey.hash(arrival) % count;
            out.extend(self.line.nth(number).cloned());
        }
    }
}

impl HashOn {
    fn hash(&self, arrival: &Arrival<'_>) -> u64 {
        match self {
            Self::RoutingKey => hash(arrival.routing_keys.first().unwrap_or(&"").as_bytes()),
            Self::Header(name) => match arrival.headers.and_then(|headers| headers.get(name)) {
                None => 0,
                // Numbers of any width and strings by their text.
                Some(value) => hash(term::text(value).as_bytes()),
            },
            Self::Property(property) => {
                // What a client sent was checked to be well formed.
                let properties = Properties::decode(arrival.properties).unwrap_or_default();
                let text = match property {
                    Property::CorrelationId => properties.correlation_id.map(|id| id.to_string()),
                    Property::MessageId => properties.message_id.map(|id| id.to_string()),
                    Property::Timestamp => properties.timestamp.map(|seconds| seconds.to_string()),
                };
                text.map_or(0, |text| hash(text.as_bytes()))
            }
        }
    }
}

/// The same on every node and in every build: FNV-1a, then mixed so that all bits depend on all others.
fn hash(bytes: &[u8]) -> u64 {
    let hash = bytes.iter().fold(0xcbf2_9ce4_8422_2325_u64, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    });
    let hash = (hash ^ (hash >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    let hash = (hash ^ (hash >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
    hash ^ (hash >> 31)
}

/// Jump consistent hash (Lamping and Veach, 2014): a point below `len`, evenly, such that a longer line takes its
/// share from all points alike. It jumps from each point to the next length at which the hash would move, about
/// ln(len) times.
fn jump(mut state: u64, len: u64) -> u64 {
    let mut point = 0;
    let mut next = 0_u128;
    while next < u128::from(len) {
        // Below `len`, which is 64 bits wide.
        point = next as u64;
        state = state.wrapping_mul(2_862_933_555_777_941_757).wrapping_add(1);
        next = ((u128::from(point) + 1) << 31) / (u128::from(state >> 33) + 1);
    }
    point
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_longer_line_moves_only_to_its_new_part() {
        for len in 1..200 {
            let mut moved = 0;
            for key in 0..500_u64 {
                let hash = hash(&key.to_le_bytes());
                let (before, after) = (jump(hash, len), jump(hash, len + 1));
                assert!(before < len);
                if before != after {
                    assert_eq!(after, len, "only the new part takes");
                    moved += 1;
                }
            }
            // An even share of 500, with room for chance.
            assert!(moved <= 2 * 500 / (len + 1) + 30, "{moved} of 500 moved at {len}");
        }
        assert!(jump(u64::MAX, u64::MAX) < u64::MAX);
    }

    #[test]
    fn shares_are_those_of_the_weights() {
        let mut exchange = ConsistentHash::default();
        for (number, weight) in [(1, "1"), (2, "2"), (3, "5")] {
            exchange.bind(weight, &Target::Queue(number));
        }
        let mut counts = [0; 4];
        for key in 0..8_000 {
            let mut out = Vec::new();
            exchange.matches(&Arrival::by_key(&[&key.to_string()]), &mut out);
            let [Target::Queue(number)] = out[..] else {
                panic!("one queue, not {out:?}")
            };
            counts[number as usize] += 1;
        }
        for (number, due) in [(1, 1_000_i32), (2, 2_000), (3, 5_000)] {
            assert!((counts[number] - due).abs() < due / 10, "{counts:?}");
        }
    }

    #[test]
    fn weights_are_whole_numbers_above_0() {
        for (key, text) in [
            ("", "The binding key must be an integer: <<>>"),
            ("x", "The binding key must be an integer: <<\"x\">>"),
            ("1.5", "The binding key must be an integer: <<\"1.5\">>"),
            ("0", "The binding key must be greater than 0"),
            ("-3", "The binding key must be greater than 0"),
            ("4294967296", "The binding key must not be greater than 4294967295"),
            (
                "99999999999999999999999",
                "The binding key must not be greater than 4294967295",
            ),
        ] {
            assert_eq!(validate_binding(key), Err(InvalidBinding(text.to_owned())));
            assert_eq!(weight(key), 0);
        }
        for (key, due) in [("1", 1), ("+5", 5), ("007", 7), ("4294967295", WEIGHT_MAX)] {
            assert_eq!(validate_binding(key), Ok(()));
            assert_eq!(weight(key), due);
        }
    }
}
