//! What a message becomes when it has died: its new address, and the history in its headers.
//!
//! Follows RabbitMQ 4: `x-death` has one table for each queue and reason, the latest death first; a repeated one moves
//! to the front and counts on. A history that a client wrote is none.

use bytes::Bytes;
use warren_proto::record::{Stored, short_strings};

use crate::amqp::content::{Properties, with_headers};
use crate::amqp::{ShortStr, Table, Value};
use crate::exchange::DELAY;
use crate::message::expiration_ms;
use crate::metadata::Queue;
use crate::queue::machine::{Dead, Reason};

const DEATHS: &str = "x-death";

/// A dead message on its way.
#[derive(Debug)]
pub(super) struct Letter<'a> {
    pub(super) stored: Stored<'a>,
    /// All it is routed by; the first is the one that consumers see.
    pub(super) routing_keys: Vec<String>,
    pub(super) headers: Table,
    pub(super) properties: Bytes,
    /// How long it lives where it arrives.
    pub(super) ttl_ms: Option<u64>,
}

impl<'a> Letter<'a> {
    /// `None` for bytes that are no message.
    pub(super) fn of(queue: &Queue, dead: &Dead, payload: &'a Bytes) -> Option<Self> {
        let stored = Stored::decode(payload).ok()?;
        let old = payload.slice_ref(stored.properties);
        let properties = Properties::decode(&old).ok()?;
        let mut headers = properties.headers.unwrap_or_default();
        let keys = Keys::of(&stored, &headers);
        let mut deaths = take_deaths(&mut headers, stored.origin.is_some());
        let death = Death {
            queue: &queue.name,
            reason: dead.reason,
            time_s: dead.time_ms / 1_000,
            exchange: &text(stored.exchange),
            routing_keys: &keys.shown,
            expiration: properties.expiration.as_ref(),
        };
        death.write(&mut deaths);
        headers.insert(DEATHS, Value::Array(deaths.into_iter().map(Value::Table).collect()));
        death.sum_up(&mut headers);
        let new = with_headers(&old, Some(&headers), false).ok()?;
        let routing_keys = match &queue.settings.dead_letter_routing_key {
            Some(key) => vec![key.to_string()],
            None => keys.all,
        };
        Some(Self {
            stored,
            routing_keys,
            headers,
            properties: new,
            ttl_ms: None,
        })
    }

    /// A message that was held back and is due: as it was published, but that the sign of its delay says so.
    /// `None` for bytes that are no message.
    pub(super) fn of_due(payload: &'a Bytes) -> Option<Self> {
        let stored = Stored::decode(payload).ok()?;
        let old = payload.slice_ref(stored.properties);
        let properties = Properties::decode(&old).ok()?;
        let mut headers = properties.headers.unwrap_or_default();
        let routing_keys = Keys::of(&stored, &headers).all;
        let delay = headers.get(DELAY).and_then(Value::as_i64).unwrap_or_default();
        headers.insert(DELAY, Value::I64(delay.checked_neg().unwrap_or_default().min(0)));
        let new = with_headers(&old, Some(&headers), true).ok()?;
        let ttl_ms = properties.expiration.and_then(|text| expiration_ms(&text).ok());
        Some(Self {
            stored,
            routing_keys,
            headers,
            properties: new,
            ttl_ms,
        })
    }

    /// Whether it has been in that queue before and nobody rejected it since: then it would turn in a circle for ever.
    pub(super) fn turns_in_circles(&self, queue: &str, reason: Reason) -> bool {
        if reason == Reason::Rejected {
            return false;
        }
        let deaths = self.headers.get(DEATHS).and_then(Value::as_array).unwrap_or_default();
        for death in deaths.iter().filter_map(Value::as_table) {
            if field(death, "reason") == Reason::Rejected.name() {
                return false;
            }
            if field(death, "queue") == queue {
                return true;
            }
        }
        false
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn field<'a>(death: &'a Table, name: &str) -> &'a str {
    death.get(name).and_then(Value::as_str).unwrap_or_default()
}

fn long_str(text: &str) -> Value {
    Value::LongStr(Bytes::copy_from_slice(text.as_bytes()))
}

/// What a message was routed by.
struct Keys {
    all: Vec<String>,
    /// Without those of BCC.
    shown: Vec<String>,
}

impl Keys {
    fn of(stored: &Stored<'_>, headers: &Table) -> Self {
        let copies = headers.get("CC").and_then(Value::as_array).unwrap_or_default();
        let copies: Vec<String> = copies.iter().filter_map(Value::as_str).map(str::to_owned).collect();
        let further: Vec<String> = short_strings(stored.bcc).map(text).collect();
        let key = vec![text(stored.routing_key)];
        if stored.origin.is_some() {
            // A dead letter has a list of all its further keys; its CC header may be of an earlier address.
            let shown = further.iter().filter(|key| copies.contains(key)).cloned();
            Self {
                shown: key.iter().cloned().chain(shown).collect(),
                all: [key, further].concat(),
            }
        } else {
            Self {
                shown: [key.clone(), copies.clone()].concat(),
                all: [key, copies, further].concat(),
            }
        }
    }
}

/// The history so far, if it is one that a queue wrote.
fn take_deaths(headers: &mut Table, is_dead_letter: bool) -> Vec<Table> {
    let deaths = headers.remove(DEATHS);
    if !is_dead_letter {
        for what in ["reason", "queue", "exchange"] {
            headers.remove(&format!("x-first-death-{what}"));
            headers.remove(&format!("x-last-death-{what}"));
        }
        return Vec::new();
    }
    let deaths = deaths.as_ref().and_then(Value::as_array).unwrap_or_default();
    deaths.iter().filter_map(Value::as_table).cloned().collect()
}

struct Death<'a> {
    queue: &'a str,
    reason: Reason,
    time_s: u64,
    exchange: &'a str,
    routing_keys: &'a [String],
    expiration: Option<&'a ShortStr>,
}

impl Death<'_> {
    fn write(&self, deaths: &mut Vec<Table>) {
        let reason = self.reason.name();
        let same = |death: &Table| field(death, "queue") == self.queue && field(death, "reason") == reason;
        let death = match deaths.iter().position(same) {
            Some(at) => {
                let mut death = deaths.remove(at);
                let count = death.get("count").and_then(Value::as_i64).unwrap_or(0);
                death.insert("count", Value::I64(count.saturating_add(1)));
                death
            }
            None => self.table(reason),
        };
        deaths.insert(0, death);
    }

    /// The first death and the last in headers of their own.
    fn sum_up(&self, headers: &mut Table) {
        let parts = [
            ("exchange", self.exchange),
            ("queue", self.queue),
            ("reason", self.reason.name()),
        ];
        for which in ["first", "last"] {
            for (what, value) in parts {
                let name = ShortStr::cut(&format!("x-{which}-death-{what}"));
                if which == "last" || !headers.contains(&name) {
                    headers.insert(name, long_str(value));
                }
            }
        }
    }

    fn table(&self, reason: &str) -> Table {
        let mut death = Table::new();
        if let Some(expiration) = self.expiration {
            death.insert("original-expiration", long_str(expiration));
        }
        death.insert("count", Value::I64(1));
        death.insert("reason", long_str(reason));
        death.insert("queue", long_str(self.queue));
        death.insert("time", Value::Timestamp(self.time_s));
        death.insert("exchange", long_str(self.exchange));
        let keys = self.routing_keys.iter().map(|key| long_str(key)).collect();
        death.insert("routing-keys", Value::Array(keys));
        death
    }
}

#[cfg(test)]
mod tests;
