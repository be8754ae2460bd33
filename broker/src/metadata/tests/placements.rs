//! Where queues' replicas are.

use super::*;

#[test]
fn placement() {
    let mut node = Node::bootstrapped();
    let check = |node: &Node, live: &[u64], size, expected: &[u64]| {
        assert_eq!(place(node.picture(), 2, live, &[], size), expected);
    };
    // Only the first node is known to the metadata.
    check(&node, &[], 3, &[2, 1]);
    // The others are configured, and have not begun yet.
    assert_eq!(place(node.picture(), 2, &[1], &[1, 2, 3, 4], 3), [2, 1, 3]);
    for id in 2..=4 {
        node.apply(&Change::NodeUp {
            run: run(id, 1),
            name: String::new(),
            address: String::new(),
            directory: 0,
            version: version::LATEST,
            sessions_from: 0,
        });
    }
    check(&node, &[1, 2, 3, 4], 3, &[2, 1, 3]);
    check(&node, &[1, 2, 3, 4], 1, &[2]);
    check(&node, &[1, 2, 3, 4], 0, &[2]);
    check(&node, &[1, 2, 3, 4], 9, &[2, 1, 3, 4]);
    // A node that is away is only taken where there are not enough others.
    check(&node, &[2, 3, 4], 3, &[2, 3, 4]);
    check(&node, &[2, 3], 3, &[2, 3, 1]);
    let placement = Placement::on(vec![1, 3], 1);
    node.apply(&Change::DeclareQueue(DeclareQueue {
        placement,
        ..declare("q")
    }));
    check(&node, &[1, 2, 3, 4], 2, &[2, 4]);
}

#[test]
fn a_queue_moves_without_becoming_another() {
    let mut node = Node::bootstrapped();
    let Outcome::Queue(queue) = node.outcome(&Change::DeclareQueue(declare("q"))) else {
        panic!("not declared")
    };
    let group = queue.group;
    let before = node.picture().routing_version();
    assert_eq!(queue.founders(), [1, 2, 3]);
    let place = |replicas: &[u64], leader| Change::PlaceQueue {
        group,
        replicas: replicas.to_vec(),
        leader,
    };
    let check = |node: &Node, replicas: &[u64], wanted: &[u64]| {
        let by_name = node.picture().queue("/", "q").expect("it is there").clone();
        assert_eq!((by_name.replicas(), by_name.wanted()), (replicas, wanted));
        let by_group = node.picture().queue_by_group(group).expect("it is there").clone();
        assert_eq!(by_group.placement, by_name.placement);
        by_name
    };
    let effects = node.apply(&place(&[3, 4, 5], 4));
    assert!(matches!(effects.as_slice(), [Effect::QueuePlaced(queue), _] if queue.group == group));
    assert!(node.picture().routing_version() > before);
    // Until the group has moved, its replicas are in both places.
    let moving = check(&node, &[1, 2, 3, 4, 5], &[3, 4, 5]);
    assert_eq!((moving.founders(), moving.preferred_leader()), (&[1, 2, 3][..], 4));
    let first = moving.moves().expect("it moves");

    // Another leader is no other move, another set of replicas is.
    node.apply(&place(&[5, 4, 3], 5));
    assert_eq!(check(&node, &[1, 2, 3, 4, 5], &[5, 4, 3]).moves(), Some(first));
    node.apply(&place(&[1, 4], 0));
    let second = check(&node, &[1, 2, 3, 4, 5], &[1, 4]).moves().expect("it moves");
    assert_ne!(first, second);
    assert!(
        node.apply(&Change::QueueMoved { group, era: first }).len() == 1,
        "only the answer"
    );
    check(&node, &[1, 2, 3, 4, 5], &[1, 4]);
    node.apply(&Change::QueueMoved { group, era: second });
    assert_eq!(check(&node, &[1, 4], &[1, 4]).moves(), None);
    // What only adds has nobody to leave.
    node.apply(&place(&[1, 2, 4], 1));
    let grown = check(&node, &[1, 2, 4], &[1, 2, 4]);
    assert_eq!((grown.moves(), grown.founders()), (None, &[1, 2, 3][..]));
    for replicas in [&[][..], &[1, 1], &[0]] {
        assert!(matches!(node.refused(&place(replicas, 0)), Refusal::Malformed(_)));
    }
}

#[test]
fn a_node_drains_until_its_next_run() {
    let mut node = Node::bootstrapped();
    let up = |incarnation| Change::NodeUp {
        run: run(2, incarnation),
        name: "b".into(),
        address: String::new(),
        directory: 0,
        version: version::LATEST,
        sessions_from: 0,
    };
    let drains = |node: &Node| node.picture().nodes().any(|(id, known)| id == 2 && known.draining);
    let drain = |draining| Change::DrainNode { node: 2, draining };
    assert!(matches!(node.refused(&drain(true)), Refusal::Malformed(_)));
    node.apply(&up(1));
    let effects = node.apply(&drain(true));
    assert!(matches!(effects.as_slice(), [Effect::NodeDrains(2), _]));
    assert_eq!(node.apply(&drain(true)).len(), 1, "it drains already");
    node.apply(&up(1));
    assert!(drains(&node), "the same run says again that it is there");
    node.apply(&drain(false));
    assert!(!drains(&node));
    node.apply(&drain(true));
    node.apply(&up(2));
    assert!(!drains(&node));
}

#[test]
fn a_placement_must_suit_its_queue() {
    let mut node = Node::bootstrapped();
    let home = Placement::Transient { home: run(1, 1) };
    let nowhere = Placement::on(Vec::new(), 0);
    for placement in [home, nowhere] {
        let refusal = node.refused(&Change::DeclareQueue(DeclareQueue {
            placement,
            ..declare("q")
        }));
        assert!(matches!(refusal, Refusal::Malformed(_)));
    }
    let exclusive = DeclareQueue {
        exclusive_owner: Some(session(1)),
        ..declare("q")
    };
    assert!(matches!(
        node.refused(&Change::DeclareQueue(exclusive)),
        Refusal::Malformed(_)
    ));
}
