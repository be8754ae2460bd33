//! Nodes that join, are forgotten, and are lost together.

use super::*;
use crate::metadata::SURVIVORS_MAX;
use crate::metadata::nodes::VERSION;

fn join(node: u64, name: &str, address: &str, directory: u64) -> Change {
    Change::JoinNode {
        node,
        name: name.into(),
        address: address.into(),
        directory,
    }
}

fn up(node: u64, incarnation: u64, name: &str, address: &str, directory: u64) -> Change {
    Change::NodeUp {
        run: run(node, incarnation),
        name: name.into(),
        address: address.into(),
        directory,
        version: VERSION,
        sessions_from: 0,
    }
}

/// Nodes 1 to `count` run, each on the directory of its first run, 10.
fn cluster(count: u64) -> Node {
    let mut node = Node::bootstrapped();
    for id in 1..=count {
        node.apply(&up(id, 10, &format!("n{id}"), &format!("h:{id}"), 10));
    }
    node
}

fn on(replicas: &[u64]) -> DeclareQueue {
    let placement = Placement::on(replicas.to_vec(), replicas[0]);
    let name = replicas.iter().map(u64::to_string).collect::<Vec<_>>().join("");
    DeclareQueue {
        placement,
        ..declare(&name)
    }
}

#[test]
fn a_node_joins_once_and_is_told_from_others() {
    let mut node = cluster(2);
    assert_eq!(node.picture().nodes_era(), 0);
    let effects = node.apply(&join(3, "n3", "h:3", 20));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::NodesChanged)));
    let joined = node.picture().node(3).expect("it joined").joined;
    assert!(joined > 0 && node.picture().nodes_era() == joined);
    // It asks again, perhaps after it had lost its word of the first time.
    assert!(node.apply(&join(3, "n3", "h:3", 20)).len() == 1, "only the answer");
    assert_eq!(node.picture().node(3).expect("it joined").joined, joined);
    node.apply(&join(3, "n3", "h:3", 21));
    let again = node.picture().node(3).expect("it joined").clone();
    assert!(again.joined > joined && again.directory == 21 && !again.live);
    // One that never ran gets no queue.
    assert_eq!(place(node.picture(), 1, &[1, 2], &[], 3), [1, 2]);
    node.apply(&up(3, 22, "n3", "h:3", 21));
    assert_eq!(place(node.picture(), 1, &[1, 2, 3], &[], 3), [1, 2, 3]);
    let here = node.picture().node(3).expect("it joined").clone();
    assert!(here.live && here.joined == again.joined && here.first_group == again.first_group);
    // What comes back without its disk is no new node.
    assert!(node.apply(&join(3, "n3", "h:3", 30)).len() == 1, "only the answer");
    assert!(matches!(node.refused(&join(4, "n3", "h:4", 1)), Refusal::NodeExists(_)));
    assert!(matches!(
        node.refused(&join(4, "n4", "h:3", 1)),
        Refusal::AddressInUse(..)
    ));
    assert!(matches!(node.refused(&join(0, "n4", "h:4", 1)), Refusal::Malformed(_)));
}

#[test]
fn what_is_forgotten_is_the_directory() {
    let mut node = cluster(3);
    node.apply(&Change::DeclareQueue(on(&[1, 3])));
    let forget = Change::NodeForgotten { node: 3 };
    assert!(matches!(node.refused(&forget), Refusal::NodeRuns(name) if name == "n3"));
    node.apply(&Change::NodeDown { run: run(3, 10) });
    let in_use = node.refused(&forget).to_string();
    assert_eq!(
        in_use,
        "node 'n3' is still to hold a replica of queue '13' in vhost '/'"
    );
    let group = node.picture().queue("/", "13").expect("it was declared").group;
    node.apply(&Change::DeleteQueue { group });
    node.apply(&up(3, 12, "n3", "h:3", 10));
    node.apply(&Change::NodeDown { run: run(3, 12) });
    node.apply(&forget);
    assert!(node.picture().is_gone(3) && node.picture().node(3).is_none());
    // It never was, for all that comes from it.
    node.apply(&up(3, 50, "n3", "h:3", 10));
    assert!(node.picture().is_gone(3));
    assert!(matches!(
        node.refused(&join(3, "n3", "h:3", 12)),
        Refusal::NodeForgotten(_)
    ));
    let members = [1, 2, 3];
    assert_eq!(place(node.picture(), 1, &[1, 2], &members, 3), [1, 2]);
    // With another directory it is another node, and the first one stays away.
    node.apply(&join(3, "n3", "h:3", 60));
    node.apply(&up(3, 60, "n3", "h:3", 60));
    assert!(!node.picture().is_gone(3) && node.picture().is_forgotten(3, 12) && !node.picture().is_forgotten(3, 60));
    node.apply(&up(3, 70, "n3", "h:3", 10));
    assert_eq!(node.picture().node(3).expect("it joined").run, run(3, 60));
    let restored = node.restored();
    assert_eq!(
        restored.picture().forgotten().collect::<Vec<_>>(),
        node.picture().forgotten().collect::<Vec<_>>()
    );
    assert_eq!(restored.picture().nodes_era(), node.picture().nodes_era());
}

#[test]
fn nothing_is_put_on_a_node_that_was_forgotten_since_it_was_proposed() {
    let mut node = cluster(3);
    node.apply(&Change::NodeDown { run: run(3, 10) });
    node.apply(&Change::NodeForgotten { node: 3 });
    node.apply(&Change::DeclareQueue(on(&[3, 1, 2])));
    let queue = node.picture().queue("/", "312").expect("it was declared").clone();
    assert_eq!((queue.replicas(), queue.preferred_leader()), (&[1, 2][..], 1));
    let place = |replicas: &[u64]| Change::PlaceQueue {
        group: queue.group,
        replicas: replicas.to_vec(),
        leader: 3,
    };
    node.apply(&place(&[2, 3]));
    let placed = node.picture().queue("/", "312").expect("it is there").clone();
    assert_eq!((placed.wanted(), placed.preferred_leader()), (&[2][..], 2));
    assert!(matches!(node.refused(&place(&[3])), Refusal::Malformed(_)));
    let nowhere = Change::DeclareQueue(on(&[3]));
    assert!(matches!(node.refused(&nowhere), Refusal::Malformed(_)));
    // Builds of before did, and apply what was agreed on with them.
    let before = Meta {
        index: 1_000,
        term: 1,
        time_ms: 1,
        version: 3,
    };
    let payload = Change::DeclareQueue(on(&[3, 2])).encode(Request::default());
    node.machine.apply(&before, &payload, &mut Vec::new());
    assert_eq!(node.picture().queue("/", "32").expect("declared").replicas(), [3, 2]);
    // With another directory it is another node.
    node.apply(&join(3, "n3", "h:3", 60));
    node.apply(&place(&[2, 3]));
    assert_eq!(node.picture().queue("/", "312").expect("it is there").wanted(), [2, 3]);
}

#[test]
fn a_node_that_comes_back_is_where_it_says() {
    let mut node = cluster(2);
    node.apply(&join(3, "n3", "h:3", 20));
    node.apply(&up(3, 21, "n3", "h:3", 20));
    node.apply(&Change::NodeDown { run: run(3, 21) });
    let before = node.picture().node(3).expect("it joined").clone();
    // Without its disk, on another machine.
    let effects = node.apply(&join(3, "n3", "h:9", 30));
    assert!(effects.iter().any(|effect| matches!(effect, Effect::NodesChanged)));
    let moved = node.picture().node(3).expect("it joined").clone();
    assert_eq!(
        (moved.address.as_str(), moved.joined, moved.run),
        ("h:9", before.joined, before.run)
    );
    // Not where another one is.
    let taken = node.refused(&join(3, "n3", "h:1", 30));
    assert!(matches!(taken, Refusal::AddressInUse(..)));
    assert_eq!(node.restored().picture().node(3).expect("it joined").address, "h:9");
}

#[test]
fn a_word_of_a_forgotten_node_that_comes_late_changes_nothing() {
    let mut node = cluster(3);
    node.apply(&Change::NodeDown { run: run(3, 10) });
    node.apply(&Change::NodeForgotten { node: 3 });
    for (incarnation, directory) in [(10, 10), (11, 10), (99, 10), (99, 99)] {
        let effects = node.apply(&up(3, incarnation, "n3", "h:3", directory));
        assert!(effects.len() == 1, "only the answer, not {effects:?}");
        assert!(node.picture().is_gone(3) && node.picture().node(3).is_none());
        node.apply(&Change::NodeDown {
            run: run(3, incarnation),
        });
        assert!(node.picture().node(3).is_none());
    }
}

#[test]
fn a_cluster_that_goes_on_is_called_so_and_counted() {
    use crate::metadata::{reform_number, reform_of, reformed_id};
    let (first, era) = reformed_id("abc", 7);
    assert_eq!((first.as_str(), era), ("abc.1.0000000000000007", reform_number(1)));
    assert_eq!(
        reformed_id("abc", 7),
        (first.clone(), era),
        "asked for again, it is the same"
    );
    assert_ne!(
        reformed_id("abc", 8).0,
        first,
        "others that go on apart are called otherwise"
    );
    assert_eq!((reform_of("abc"), reform_of(&first)), (0, era));
    let (second, later) = reformed_id(&first, 7);
    assert_eq!((second.as_str(), later), ("abc.2.0000000000000007", reform_number(2)));
    assert!(later > era && era > u64::from(u32::MAX) << 16);
}

#[test]
fn survivors_go_on_with_the_queues_that_are_left() {
    let mut node = cluster(5);
    for replicas in [&[1, 4, 5][..], &[1, 2, 3], &[2, 3, 4], &[4], &[1], &[4, 5]] {
        node.apply(&Change::DeclareQueue(on(replicas)));
    }
    let reform = |survivors: &[u64], id: &str| Change::Reform {
        survivors: survivors.to_vec(),
        until: 99,
        cluster_id: id.into(),
    };
    assert!(matches!(node.refused(&reform(&[], "x")), Refusal::Malformed(_)));
    let too_many: Vec<u64> = (1..=SURVIVORS_MAX as u64 + 1).collect();
    assert!(matches!(node.refused(&reform(&too_many, "x")), Refusal::Malformed(_)));
    node.apply(&reform(&[4, 5], "second"));
    let picture = node.picture();
    assert_eq!(picture.cluster_id(), "second");
    assert_eq!(picture.nodes().map(|(id, _)| id).collect::<Vec<_>>(), [4, 5]);
    assert!((1..=3).all(|gone| picture.is_gone(gone) && picture.is_forgotten(gone, 99)));
    let queue = |name: &str| picture.queue("/", name).expect("none is deleted").clone();
    // Its majority is left: it leaves the others as ever.
    let moves = queue("145");
    assert_eq!((moves.wanted(), moves.reformed()), (&[4, 5][..], 0));
    assert!(moves.moves().is_some());
    // It goes on with one of three.
    let left = queue("234");
    assert_eq!(
        (left.replicas(), left.founders(), left.preferred_leader()),
        (&[4][..], &[4][..], 4)
    );
    assert!(left.reformed() > 0 && left.reformed() == left.era());
    for lost in ["123", "1"] {
        assert!(queue(lost).is_lost() && queue(lost).moves().is_none(), "{lost}");
        assert!(
            node.restored()
                .picture()
                .queue("/", lost)
                .is_some_and(|queue| queue.is_lost())
        );
    }
    for untouched in ["4", "45"] {
        assert_eq!(
            (queue(untouched).reformed(), queue(untouched).moves()),
            (0, None),
            "{untouched}"
        );
    }
    assert_eq!(
        node.restored()
            .picture()
            .queue("/", "234")
            .expect("it is there")
            .placement,
        left.placement
    );
    // Asked for again, nothing is left to do.
    assert!(node.apply(&reform(&[4, 5], "third")).len() == 1, "only the answer");
    assert_eq!(node.picture().cluster_id(), "second");
    // What the queue moved to later does not undo it.
    let group = left.group;
    node.apply(&Change::PlaceQueue {
        group,
        replicas: vec![4, 5],
        leader: 4,
    });
    let grown = node.picture().queue("/", "234").expect("it is there").clone();
    assert_eq!((grown.founders(), grown.reformed()), (&[4][..], left.reformed()));
    let alone = |survivors: &[u64], obeyed| Change::ReformQueue {
        group,
        survivors: survivors.to_vec(),
        obeyed,
    };
    let obeyed = Some(left.reformed());
    assert!(matches!(node.refused(&alone(&[1], obeyed)), Refusal::Malformed(_)));
    assert!(matches!(node.refused(&alone(&[5], Some(0))), Refusal::GivenUp(_)));
    node.apply(&alone(&[5], obeyed));
    let alone = node.picture().queue("/", "234").expect("it is there").clone();
    assert_eq!((alone.replicas(), alone.founders()), (&[5][..], &[5][..]));
    assert!(alone.reformed() > left.reformed());
}
