//! Entries of versions that this replica knows, and of later ones.

use super::alone::Alone;
use super::*;
use crate::version::{self, Versions};

#[test]
fn leaders_stamp_what_was_agreed_on_and_never_less_than_before() {
    let store = Arc::new(MemoryStore::new());
    let versions = Versions::default();
    let mut first = Alone::open(&store, &versions);
    first.lead();
    assert_eq!(first.propose(4), version::FIRST);
    versions.agree(version::LATEST);
    assert_eq!(first.propose(8), version::LATEST);

    // A later run, which has not heard what was agreed on.
    let mut second = Alone::open(&store, &Versions::default());
    second.lead();
    assert_eq!(second.propose(12), version::LATEST);
    assert_eq!(second.core.machine().payloads, [4, 8, 12]);
}

#[test]
fn an_entry_of_a_later_version_ends_its_replica_before_it_is_applied() {
    let store = Arc::new(MemoryStore::new());
    let versions = Versions::default();
    let mut newer = Alone::open(&store, &versions);
    newer.lead();
    newer.propose(4);
    versions.agree(version::LATEST);
    newer.propose(8);
    let last = newer.core.status().last_index;

    let mut older = Alone::open(&store, &Versions::new(version::FIRST));
    older.core.handle(Event::Campaign);
    let error = older.settle().expect_err("it does not know that version");
    assert!(
        matches!(error, Error::Version { index, version, supported, .. }
            if (index, version, supported) == (last, version::LATEST, version::FIRST)),
        "{error}"
    );
    assert_eq!(older.core.machine().payloads, [4]);
}
