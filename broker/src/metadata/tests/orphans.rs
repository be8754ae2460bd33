//! Queues of sessions that ended are found, asked for one at a time, and again until they are gone.

use std::cell::RefCell;

use tokio::sync::oneshot;

use super::*;
use crate::metadata::orphans::Orphans;

fn declare_exclusive(name: &str, owner: SessionId) -> Change {
    Change::DeclareQueue(DeclareQueue {
        durable: false,
        exclusive_owner: Some(owner),
        placement: Placement::Transient {
            home: run(owner.node, 1),
        },
        ..declare(name)
    })
}

#[test]
fn queues_of_ended_sessions_are_asked_for_until_they_are_gone() {
    let mut node = Node::bootstrapped();
    for (name, id) in [("a", 1), ("b", 2), ("c", 2)] {
        node.apply(&declare_exclusive(name, session(id)));
    }
    // Another node's sessions are its own business.
    let of_other = SessionId { node: 2, ..session(3) };
    node.apply(&Change::NodeUp {
        run: run(2, 1),
        name: "two".into(),
        address: String::new(),
        directory: 0,
        version: warren_cluster::version::LATEST,
        sessions_from: 0,
    });
    node.apply(&declare_exclusive("d", of_other));

    let mut orphans = Orphans::new(run(1, 1));
    let open = RefCell::new(Vec::new());
    let mut sweep = |node: &Node, living: u64| {
        let lives = |session: SessionId| session.id == living;
        orphans.sweep(node.picture(), lives, |session| {
            let (answer_tx, answer) = oneshot::channel();
            open.borrow_mut().push((session, answer_tx));
            answer
        });
        let asked: Vec<SessionId> = open.borrow().iter().map(|(session, _)| *session).collect();
        asked
    };
    assert_eq!(sweep(&node, 1), [session(2)]);
    assert_eq!(sweep(&node, 1), [session(2)], "an outcome is awaited");
    open.borrow_mut().clear();
    assert_eq!(sweep(&node, 1), [session(2)], "none will come: again");
    node.apply(&Change::SessionEnded { session: session(2) });
    let (_, answer_tx) = open.borrow_mut().remove(0);
    answer_tx.send(Outcome::Done).expect("it is awaited");
    assert!(sweep(&node, 1).is_empty());
    assert_eq!(sweep(&node, 0), [session(1)]);
}
