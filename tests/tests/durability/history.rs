//! What publishers and consumers saw, and whether a broker may have done that.
//!
//! Pure: it looks at the records of a run after the run. A *sending* is one publish of a message; a message that was not
//! confirmed is sent again, as another sending. The rules:
//! - a confirmed sending is delivered;
//! - no sending is delivered twice without the redelivered flag, confirmed or not;
//! - what one publisher's channel sent arrives in that order among first deliveries to one consumer; and so do, across
//!   channels, its messages that were sent only once;
//! - nothing arrives that was not sent.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;

#[path = "history/tests.rs"]
mod tests;

/// One publish.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Sending {
    /// The message's number among those of its publisher.
    pub(crate) message: u64,
    /// The publisher's channel: another one after each loss of a connection.
    pub(crate) channel: u32,
    /// The broker took it.
    pub(crate) confirmed: bool,
}

/// A publisher and the number of a sending of it, from 0.
pub(crate) type Key = (u32, u64);

/// One delivery.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Receipt {
    pub(crate) key: Key,
    pub(crate) redelivered: bool,
}

/// A run.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    /// By publisher, in the order they were sent.
    pub(crate) sendings: BTreeMap<u32, Vec<Sending>>,
    /// By consumer, in the order they arrived. A consumer that connects again is another consumer.
    pub(crate) receipts: Vec<Vec<Receipt>>,
}

/// What no broker may do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Violation {
    /// Confirmed, and never delivered.
    Lost(Key),
    /// Delivered more than once without the flag.
    Duplicate(Key),
    /// Delivered to this consumer for the first time after the other, which was sent later.
    Order { consumer: usize, late: Key, after: Key },
    /// Never sent.
    Unknown(Key),
}

/// Counts of a run that was as it must be.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Summary {
    pub(crate) messages: usize,
    pub(crate) sendings: usize,
    pub(crate) confirmed: usize,
    /// Not confirmed, and delivered all the same.
    pub(crate) unconfirmed_delivered: usize,
    pub(crate) deliveries: usize,
    pub(crate) redelivered: usize,
    pub(crate) consumers: usize,
}

impl fmt::Display for Summary {
    fn fmt(&self, out: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(
            out,
            "{} messages in {} sendings, {} confirmed, {} delivered without a confirm; \
             {} deliveries to {} consumers, {} of them flagged redelivered",
            self.messages,
            self.sendings,
            self.confirmed,
            self.unconfirmed_delivered,
            self.deliveries,
            self.consumers,
            self.redelivered
        )
    }
}

/// Checks every rule.
pub(crate) fn check(history: &History) -> Result<Summary, Vec<Violation>> {
    let mut violations = Vec::new();
    // Deliveries of each sending: all, and those without the flag.
    let mut counts: BTreeMap<Key, (usize, usize)> = BTreeMap::new();
    for receipt in history.receipts.iter().flatten() {
        let count = counts.entry(receipt.key).or_default();
        count.0 += 1;
        count.1 += usize::from(!receipt.redelivered);
    }
    for (key, (_, unflagged)) in &counts {
        if find(history, *key).is_none() {
            violations.push(Violation::Unknown(*key));
        } else if *unflagged > 1 {
            violations.push(Violation::Duplicate(*key));
        }
    }
    let mut summary = Summary {
        deliveries: history.receipts.iter().map(Vec::len).sum(),
        redelivered: history
            .receipts
            .iter()
            .flatten()
            .filter(|receipt| receipt.redelivered)
            .count(),
        consumers: history.receipts.iter().filter(|receipts| !receipts.is_empty()).count(),
        ..Summary::default()
    };
    for (publisher, sendings) in &history.sendings {
        summary.sendings += sendings.len();
        summary.messages += sendings
            .iter()
            .map(|sending| sending.message)
            .collect::<BTreeSet<_>>()
            .len();
        for (number, sending) in (0..).zip(sendings) {
            let key = (*publisher, number);
            match (sending.confirmed, counts.contains_key(&key)) {
                (true, delivered) => {
                    summary.confirmed += 1;
                    if !delivered {
                        violations.push(Violation::Lost(key));
                    }
                }
                (false, true) => summary.unconfirmed_delivered += 1,
                (false, false) => {}
            }
        }
    }
    for (consumer, receipts) in history.receipts.iter().enumerate() {
        check_order(history, consumer, receipts, &mut violations);
    }
    if violations.is_empty() {
        Ok(summary)
    } else {
        Err(violations)
    }
}

fn check_order(history: &History, consumer: usize, receipts: &[Receipt], violations: &mut Vec<Violation>) {
    let mut sent_once = BTreeMap::new();
    // The last sending seen, by publisher and channel; without a channel, of messages that were sent once.
    let mut last: BTreeMap<(u32, Option<u32>), u64> = BTreeMap::new();
    for receipt in receipts.iter().filter(|receipt| !receipt.redelivered) {
        let (publisher, number) = receipt.key;
        let Some(sending) = find(history, receipt.key) else {
            continue;
        };
        let once: &BTreeSet<u64> = sent_once
            .entry(publisher)
            .or_insert_with(|| messages_sent_once(history, publisher));
        let across = once.contains(&sending.message).then_some(None);
        for lane in [Some(Some(sending.channel)), across].into_iter().flatten() {
            let seen = last.entry((publisher, lane)).or_insert(number);
            if *seen > number {
                let after = (publisher, *seen);
                violations.push(Violation::Order {
                    consumer,
                    late: receipt.key,
                    after,
                });
                break;
            }
            *seen = number;
        }
    }
}

fn find(history: &History, (publisher, number): Key) -> Option<&Sending> {
    history.sendings.get(&publisher)?.get(usize::try_from(number).ok()?)
}

fn messages_sent_once(history: &History, publisher: u32) -> BTreeSet<u64> {
    let (mut once, mut seen) = (BTreeSet::new(), BTreeSet::new());
    for sending in history.sendings.get(&publisher).into_iter().flatten() {
        if seen.insert(sending.message) {
            once.insert(sending.message);
        } else {
            once.remove(&sending.message);
        }
    }
    once
}
