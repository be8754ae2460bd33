use super::Violation::{Duplicate, Lost, Order, Unknown};
use super::*;

/// `"1 2? /3"`: messages 1 and 2 on a first channel, 2 unconfirmed, then 3 on a second one; the publisher is 0.
fn sent(text: &str) -> BTreeMap<u32, Vec<Sending>> {
    let mut channel = 0;
    let sendings = text.split_whitespace().map(|word| {
        let rest = word.strip_prefix('/');
        channel += u32::from(rest.is_some());
        let rest = rest.unwrap_or(word);
        let number = rest.strip_suffix('?');
        Sending {
            message: number.unwrap_or(rest).parse().expect("a number"),
            channel,
            confirmed: number.is_none(),
        }
    });
    BTreeMap::from([(0, sendings.collect())])
}

/// `"0 1r | 2"`: sendings 0 and 1 to a first consumer, 1 flagged, and 2 to a second one.
fn received(text: &str) -> Vec<Vec<Receipt>> {
    let receipt = |word: &str| {
        let number = word.strip_suffix('r');
        let key = (0, number.unwrap_or(word).parse().expect("a number"));
        Receipt {
            key,
            redelivered: number.is_some(),
        }
    };
    text.split('|')
        .map(|one| one.split_whitespace().map(receipt).collect())
        .collect()
}

#[track_caller]
fn good(sendings: &str, receipts: &str) -> Summary {
    check(&History {
        sendings: sent(sendings),
        receipts: received(receipts),
    })
    .unwrap_or_else(|violations| panic!("{sendings} / {receipts}: {violations:?}"))
}

#[track_caller]
fn bad(sendings: &str, receipts: &str, expected: &[Violation]) {
    let found = check(&History {
        sendings: sent(sendings),
        receipts: received(receipts),
    });
    assert_eq!(found, Err(expected.to_vec()), "{sendings} / {receipts}");
}

#[test]
fn an_undisturbed_run_is_good() {
    let summary = good("1 2 3", "0 1 2");
    let expected = Summary {
        messages: 3,
        sendings: 3,
        confirmed: 3,
        deliveries: 3,
        consumers: 1,
        ..Summary::default()
    };
    assert_eq!(summary, expected);
    good("", "");
}

#[test]
fn a_loss_is_seen() {
    bad("1 2 3", "0 2", &[Lost((0, 1))]);
    bad("1", "", &[Lost((0, 0))]);
    // The second sending of a message does not stand for the first one.
    bad("1 /1", "1", &[Lost((0, 0))]);
    good("1? 2? 3", "2");
    good("1? /1", "1");
    // One delivery with the flag is a delivery: the one before went to a consumer that died.
    good("1 2", "0r 1r");
}

#[test]
fn a_duplicate_without_the_flag_is_seen() {
    bad("1 2", "0 0 1", &[Duplicate((0, 0))]);
    bad("1 2", "0 1 | 1", &[Duplicate((0, 1))]);
    // Not confirmed is no licence.
    bad("1?", "0 | 0", &[Duplicate((0, 0))]);
    let summary = good("1 2", "0 1 | 0r 1r 1r");
    assert_eq!((summary.deliveries, summary.redelivered, summary.consumers), (5, 3, 2));
    // Sent twice is not delivered twice.
    assert_eq!(good("1? /1", "0 1").unconfirmed_delivered, 1);
}

#[test]
fn order_violations_are_seen() {
    let late = |consumer, late, after| Order {
        consumer,
        late: (0, late),
        after: (0, after),
    };
    bad("1 2 3", "0 2 1", &[late(0, 1, 2)]);
    bad("1 2 3", "2 | 1 0", &[late(1, 0, 1)]);
    // Across channels too, if each was sent once.
    bad("1 2 /3 4", "0 2 1 3", &[late(0, 1, 2)]);
    // Consumers share a queue: neither sees all of it.
    good("1 2 3 4", "0 2 | 1 3");
    // A returned message comes late, with the flag.
    good("1 2 3", "0 2 1r");
    // An earlier channel's publishes may be taken after the next channel's.
    good("1 2? 3? /2 3", "0 3 1 4 2");
    // But each channel keeps its own order.
    bad("1 2? 3? /2 3", "0 2 1 3 4", &[late(0, 1, 2)]);
}

#[test]
fn what_was_never_sent_is_seen() {
    bad("1", "0 1", &[Unknown((0, 1))]);
    let stranger = Receipt {
        key: (7, 0),
        redelivered: false,
    };
    let history = History {
        sendings: BTreeMap::new(),
        receipts: vec![vec![stranger, stranger]],
    };
    assert_eq!(check(&history), Err(vec![Unknown((7, 0))]));
}
