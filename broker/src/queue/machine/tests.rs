//! What must hold after every command, and helpers for the suites below.

mod model;
mod properties;
mod stream;
mod table;

use std::collections::{BTreeMap, BTreeSet};

use warren_proto::queue::Configure;
use warren_proto::record::Outcome;

use super::consumers::{Consumer, WINDOW};
use super::*;

fn meta(index: u64) -> Meta {
    Meta {
        index,
        term: 1,
        time_ms: 1_000 * index,
        version: version::LATEST,
    }
}

#[test]
fn how_long_things_rest_changes_from_the_version_on_that_says_so() {
    let rest = Retry {
        failed: true,
        returned: false,
        min_ms: 1,
        max_ms: 2,
    };
    let config = |retry| Config {
        kind: Kind::Quorum,
        retry,
        ..Config::default()
    };
    let configured = |version, change: Configure| {
        let mut machine = QueueMachine::new(config(Some(rest)));
        let meta = Meta { version, ..meta(1) };
        let payload = warren_proto::record::system(&Command::Configure(change));
        machine.apply(&meta, &payload, &mut Vec::new());
        assert_eq!(machine.config_version(), 1);
        let restored = QueueMachine::restore(config(Some(rest)), &machine.snapshot()).expect("its own snapshot");
        assert_eq!(restored.config, machine.config);
        machine.config.retry
    };
    let none = config(None).to_proto(1);
    assert_eq!(configured(version::LATEST, none), None);
    assert_eq!(configured(version::FIRST, none), Some(rest));
    // As a build of before wrote it.
    let silent = Configure { retry: None, ..none };
    assert_eq!(configured(version::LATEST, silent), Some(rest));
}

/// Recounts everything that the machine counts as it goes.
fn check(machine: &QueueMachine) {
    let held = machine.held.iter().map(|(seq, held)| (seq, &held.place));
    let mut seqs = BTreeSet::new();
    let mut entries: BTreeMap<u64, u32> = BTreeMap::new();
    let resting = machine.resting.iter().map(|(seq, rest)| (seq, &rest.message.place));
    for (seq, place) in machine.ready.messages().chain(held).chain(resting) {
        assert!(seqs.insert(seq), "message {seq} is in two places");
        *entries.entry(place.index).or_default() += 1;
    }
    for (_, dead) in machine.dead.from(0) {
        *entries.entry(dead.at.index).or_default() += 1;
    }
    assert!(
        machine.held.iter().all(|(seq, _)| machine.ready.was_taken(seq)),
        "a message that was handed out is among the fresh ones"
    );
    assert!(machine.resting.iter().all(|(seq, _)| machine.ready.was_taken(seq)));
    let first_due = machine.resting.iter().map(|(_, rest)| rest.until_ms).min();
    assert_eq!(machine.resting.first_due(), first_due);
    assert!(first_due.is_none_or(|due_ms| due_ms > machine.now_ms), "it has rested");
    assert_eq!(
        machine.entries.counts().collect::<BTreeMap<_, _>>(),
        entries,
        "messages by entry"
    );
    assert_eq!(machine.ready.len(), machine.ready.messages().count());
    let bytes = |places: &mut dyn Iterator<Item = &Place>| places.map(|place| u64::from(place.len)).sum::<u64>();
    assert_eq!(
        machine.ready.bytes(),
        bytes(&mut machine.ready.messages().map(|(_, place)| place))
    );
    assert_eq!(
        machine.held_bytes,
        bytes(&mut machine.held.iter().map(|(_, held)| &held.place))
    );
    assert_eq!(machine.held.len(), machine.held.iter().count());
    check_holders(machine);
    check_limits(machine, &seqs);
    let totals = machine.totals;
    let gone = totals.acked + totals.discarded + totals.dropped + totals.purged + totals.expired + totals.overflowed;
    if !machine.ended {
        assert_eq!(
            totals.published,
            seqs.len() as u64 + gone,
            "a message was lost or doubled: {totals:?}"
        );
    }
    assert_eq!(totals.dead_lettered - totals.buried, machine.dead.len() as u64);
    let numbered = |level: &ready::Level| (level.next_seq() & !(0xFF << 56)) - 1;
    assert_eq!(
        totals.published,
        machine.ready.levels().map(|(_, level)| numbered(level)).sum::<u64>()
    );
}

/// What may not stay has gone, and what the limits count is counted.
fn check_limits(machine: &QueueMachine, seqs: &BTreeSet<u64>) {
    let facts = &machine.facts;
    assert!(facts.iter().all(|(seq, _)| seqs.contains(&seq)), "a fact of no message");
    let ready = || facts.iter().filter(|(seq, _)| machine.ready.contains(*seq));
    assert_eq!(
        facts.ready_size(),
        ready().map(|(_, fact)| u64::from(fact.size)).sum::<u64>()
    );
    let keys: Vec<u128> = facts.iter().map(|(_, fact)| fact.key).filter(|key| *key > 0).collect();
    assert_eq!(keys.len(), facts.keys_len(), "one key, one message");
    assert!(keys.iter().all(|key| facts.has_key(*key)));
    let due = ready().filter(|(_, fact)| fact.expires_ms > 0);
    let first_due = due.map(|(seq, fact)| (fact.expires_ms, seq)).min();
    assert_eq!(facts.first_due(), first_due);
    assert!(first_due.is_none_or(|(due_ms, _)| due_ms > machine.now_ms));
    if machine.config.overflow == Overflow::DropHead {
        assert!(
            machine
                .config
                .len_max
                .is_none_or(|max| machine.ready.len() as u64 <= max)
        );
        assert!(machine.config.bytes_max.is_none_or(|max| facts.ready_size() <= max));
    }
    for (_, held) in machine.held.iter().filter(|(_, held)| held.since_ms > 0) {
        let timeout_ms = machine.consumers.get(held.consumer).attach.timeout_ms;
        assert!(machine.late_ms > 0 && machine.late_ms <= held.since_ms + timeout_ms);
    }
    if machine.config.single_active_consumer {
        let served = machine.consumers().filter(|consumer| consumer.is_active).count();
        assert!(served <= 1);
        assert_eq!(machine.consumers.active().is_some(), machine.consumers.len() > 0);
    }
}

/// Sessions, consumers and what they hold name each other.
fn check_holders(machine: &QueueMachine) {
    let mut by_session: BTreeMap<u32, u64> = BTreeMap::new();
    let mut by_consumer: BTreeMap<u32, BTreeSet<u64>> = BTreeMap::new();
    for (_, held) in machine.held.iter() {
        *by_session.entry(held.session).or_default() += 1;
        if held.consumer != Held::GET {
            assert_eq!(machine.consumers.get(held.consumer).session, held.session);
            let deliveries = by_consumer.entry(held.consumer).or_default();
            assert!(deliveries.insert(held.delivery), "one delivery id for two messages");
        }
    }
    assert_eq!(machine.sessions.iter().count(), machine.slots.len());
    for (id, slot) in &machine.slots {
        let session = &machine.sessions[*slot];
        assert_eq!(session.id, *id);
        assert_eq!(session.held, by_session.get(slot).copied().unwrap_or(0));
        for (number, consumer) in &session.consumers {
            let consumer = machine.consumers.get(*consumer);
            assert_eq!((consumer.session, consumer.attach.consumer), (*slot, *number));
        }
    }
    let consumers = machine.consumers.in_order();
    assert_eq!(
        consumers.len(),
        machine
            .sessions
            .iter()
            .map(|(_, session)| session.consumers.len())
            .sum::<usize>()
    );
    assert_eq!(
        machine.consumers.len(),
        consumers.iter().filter(|(_, consumer)| !consumer.cancelled).count()
    );
    let turns: Vec<u32> = machine.consumers.turns().collect();
    assert_eq!(turns.len(), machine.consumers.turns_len());
    for (slot, consumer) in &consumers {
        let held = by_consumer.get(slot);
        assert_eq!(consumer.unsettled, held.map_or(0, BTreeSet::len) as u64);
        assert!(
            held.and_then(BTreeSet::last)
                .is_none_or(|last| *last <= consumer.last_id)
        );
        assert!(
            !consumer.cancelled || consumer.unsettled > 0,
            "a shadow without messages"
        );
        check_credit(consumer);
        let standing = turns.iter().filter(|turn| *turn == slot).count();
        assert_eq!(
            standing,
            usize::from(consumer.has_credit()),
            "in the rotation exactly while it has credit"
        );
    }
    let attached = || consumers.iter().filter(|(_, consumer)| !consumer.cancelled);
    assert!(attached().all(|(_, consumer)| !consumer.attach.exclusive) || machine.consumers.len() == 1);
    let priorities: Vec<i64> = turns
        .iter()
        .map(|slot| machine.consumers.get(*slot).attach.priority)
        .collect();
    assert!(priorities.is_sorted_by(|before, after| before >= after));
    assert!(
        machine.ready.is_empty() || turns.is_empty(),
        "a message waits beside a consumer with credit"
    );
}

fn check_credit(consumer: &Consumer) {
    assert!(consumer.written <= consumer.last_id);
    if consumer.attach.no_ack || consumer.attach.prefetch == 0 {
        assert!((consumer.last_id - consumer.written).min(consumer.unsettled) <= WINDOW);
    } else {
        assert!(
            consumer.unsettled <= u64::from(consumer.attach.prefetch),
            "over its prefetch limit"
        );
    }
}
