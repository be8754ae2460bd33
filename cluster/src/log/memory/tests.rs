use super::super::suite::{self, append, state};
use super::*;

#[test]
fn keeps_the_contract() {
    suite::run(&|| Box::new(MemoryStore::new()));
}

#[test]
fn a_crash_undoes_what_was_not_synced() {
    let store = MemoryStore::new();
    store.write(&[append(1, 1..4, 1, 0)], false).expect("a writable store");
    store
        .write(
            &[Write::State {
                group: 1,
                state: state(1),
            }],
            true,
        )
        .expect("a writable store");
    store
        .write(
            &[
                append(1, 4..6, 1, 3),
                Write::State {
                    group: 1,
                    state: state(2),
                },
            ],
            false,
        )
        .expect("a writable store");
    assert_eq!(store.last_index(1, 1), Ok(Some(5)));
    assert_eq!((store.unsynced(), store.syncs()), (1, 1));
    store.crash();
    assert_eq!(
        store.last_index(1, 1),
        Ok(Some(3)),
        "a sync covers the writes before it"
    );
    assert_eq!(store.state(1), Ok(Some(state(1))));
}

#[test]
fn a_crash_may_keep_whole_lists() {
    let store = MemoryStore::new();
    store
        .write(&[append(1, 1..2, 1, 0), append(1, 2..3, 1, 1)], false)
        .expect("a writable store");
    store.write(&[append(1, 3..4, 1, 2)], false).expect("a writable store");
    store.crash_keeping(1);
    assert_eq!(store.last_index(1, 1), Ok(Some(2)));
}

#[test]
fn after_a_failed_write_nothing_is_accepted() {
    let store = MemoryStore::new();
    store.fail_next_write(Error::Io("no space".into()));
    assert_eq!(
        store.write(&[append(1, 1..2, 1, 0)], true),
        Err(Error::Io("no space".into()))
    );
    assert!(store.write(&[append(1, 1..2, 1, 0)], true).is_err());
    assert_eq!(store.last_index(1, 1), Ok(None));
    store.crash();
    assert_eq!(store.write(&[append(1, 1..2, 1, 0)], true), Ok(()));
}
