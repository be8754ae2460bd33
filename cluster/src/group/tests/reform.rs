//! Survivors that go on without the majority.

use super::*;
use crate::group::reform;

const ERA: u64 = 1 << 40;

/// Whether what was applied on this node holds all of these values.
fn holds(world: &World, node: NodeId, values: &[u64]) -> bool {
    let core = world.replicas[&node].core.as_ref().expect("it is open");
    values.iter().all(|value| core.machine().payloads.contains(value))
}

fn led_with(values: &[u64]) -> World {
    let mut world = World::new(5);
    world.event(1, Event::Campaign);
    world.settle();
    for value in values {
        assert!(world.propose(*value));
        world.settle();
    }
    world
}

/// Those nodes are gone for good, and the others know it.
fn lose_for_good(world: &mut World, nodes: &[NodeId]) {
    for node in nodes {
        world.crash(*node);
    }
    world.nodes.retain(|node| !nodes.contains(node));
    for node in world.nodes.clone() {
        for gone in nodes {
            world.event(node, Event::PeerDown(*gone));
        }
    }
}

fn reform_there(world: &mut World, nodes: &[NodeId]) {
    for node in nodes {
        let core = world.replicas.get_mut(node).and_then(|replica| replica.core.as_mut());
        core.expect("it is open").reform(nodes, ERA);
        world.poll(*node);
    }
}

#[test]
fn the_only_survivor_goes_on_with_what_it_held_and_stays_alone_after_a_restart() {
    let mut world = led_with(&[2, 4, 6]);
    lose_for_good(&mut world, &[1, 3]);
    for _ in 0..30 {
        world.event(2, Event::Tick);
        world.settle();
    }
    assert_eq!(world.leaders(), 0, "without a majority nobody leads");
    reform_there(&mut world, &[2]);
    for round in 0..2 {
        for _ in 0..30 {
            world.event(2, Event::Tick);
            world.settle();
        }
        let core = world.replicas[&2].core.as_ref().expect("it is open");
        assert_eq!(
            (core.role(), core.members(), core.reformed()),
            (Role::Leader, &[2][..], ERA)
        );
        assert!(holds(&world, 2, &[2, 4, 6]));
        assert!(world.propose(8 + round));
        world.settle();
        assert!(world.confirmed.contains(&(8 + round)));
        world.crash(2);
        world.open(2);
    }
}

#[test]
fn of_two_survivors_the_one_that_holds_more_leads() {
    let mut world = led_with(&[2]);
    // Node 3 lags.
    for value in [4, 6] {
        world.lose_all(3);
        assert!(world.propose(value));
        world.settle_between(1, 2);
    }
    world.packets.clear();
    lose_for_good(&mut world, &[1]);
    reform_there(&mut world, &[2, 3]);
    for _ in 0..60 {
        for node in [2, 3] {
            world.event(node, Event::Tick);
            world.settle();
        }
    }
    assert!(holds(&world, 2, &[2, 4, 6]) && holds(&world, 3, &[2, 4, 6]));
    assert_eq!(world.members_of(2), world.members_of(3));
}

#[test]
fn those_that_come_later_pass_over_what_was_decided_of_the_members_before() {
    let mut world = led_with(&[2, 4]);
    // Members come and go; all of it stays in the log.
    world.become_of(&[1, 2, 4]);
    assert!(world.propose(6));
    world.settle();
    lose_for_good(&mut world, &[1, 2]);
    world.nodes.retain(|node| *node == 4);
    reform_there(&mut world, &[4]);
    world.reformed = ERA;
    for _ in 0..30 {
        world.event(4, Event::Tick);
        world.settle();
    }
    assert_eq!((world.members_of(4), holds(&world, 4, &[2, 4, 6])), (&[4][..], true));
    // A new one and one that was a member once: both read the log from its beginning.
    for node in [1, 5] {
        let replica = world
            .replicas
            .entry(node)
            .or_insert_with(|| Replica::new(Arc::new(MemoryStore::new())));
        replica.store = Arc::new(MemoryStore::new());
        world.joined.push(node);
        world.nodes.push(node);
        world.open(node);
    }
    world.become_of(&[1, 4, 5]);
    for _ in 0..10 {
        for node in [1, 4, 5] {
            world.event(node, Event::Tick);
        }
        world.settle();
    }
    for node in [1, 4, 5] {
        assert_eq!(world.members_of(node), [1, 4, 5], "as node {node} knows it");
        assert!(holds(&world, node, &[2, 4, 6]));
    }
}

#[test]
fn a_decision_that_is_known_is_not_taken_again() {
    let mut world = led_with(&[2, 4]);
    let state = world.replicas[&2]
        .store
        .state(GROUP)
        .expect("a healthy store")
        .expect("it was written");
    let store = world.replicas[&2].store.clone();
    let mut tape = Tape::default();
    let last = reform::replay(&*store, GROUP, &state, &mut tape).expect("a healthy store");
    assert!(
        last > 0 && tape.payloads == [2, 4],
        "what does not run is read to its end"
    );
    lose_for_good(&mut world, &[1, 2, 3]);
    // Written while it does not run.
    store
        .write(&reform::reform(&state, GROUP, &[2], ERA), true)
        .expect("a healthy store");
    world.nodes.push(2);
    world.open(2);
    for _ in 0..30 {
        world.event(2, Event::Tick);
        world.settle();
    }
    assert_eq!(world.members_of(2), [2]);
    assert!(holds(&world, 2, &[2, 4]));
    // A decision of before, or the same one again, changes nothing.
    let core = world.replicas.get_mut(&2).and_then(|replica| replica.core.as_mut());
    core.expect("it is open").reform(&[2, 3], ERA);
    world.poll(2);
    assert_eq!(world.members_of(2), [2]);
}

#[test]
fn those_that_run_on_are_not_heard() {
    let mut world = led_with(&[2, 4]);
    // Node 1 is cut off, and goes on alone; 2 and 3 run on unheard, in later terms and with more entries.
    world.event(2, Event::PeerDown(1));
    world.event(3, Event::PeerDown(1));
    world.event(2, Event::Campaign);
    world.settle_between(2, 3);
    for value in [6, 8, 10] {
        let core = world.replicas.get_mut(&2).and_then(|replica| replica.core.as_mut());
        core.expect("it is open")
            .propose(&[Bytes::copy_from_slice(&u64::to_le_bytes(value))], 5)
            .expect("it leads");
        world.poll(2);
        world.settle_between(2, 3);
    }
    world.event(1, Event::PeerDown(2));
    world.event(1, Event::PeerDown(3));
    reform_there(&mut world, &[1]);
    for _ in 0..30 {
        world.event(1, Event::Tick);
        world.packets.clear();
        while !world.replicas[&1].writes.is_empty() {
            world.write(1);
        }
    }
    let term = world.replicas[&1].core.as_ref().expect("it is open").status().term;
    // They are heard again, and none has been told.
    for node in NODES {
        for peer in NODES {
            world.event(node, Event::PeerUp(peer));
            world.event(node, Event::LinkReset(peer));
        }
    }
    world.event(2, Event::Campaign);
    world.event(3, Event::Campaign);
    for _ in 0..30 {
        for node in NODES {
            world.event(node, Event::Tick);
        }
        world.settle();
    }
    let core = world.replicas[&1].core.as_ref().expect("it is open");
    assert_eq!((core.members(), core.role()), (&[1][..], Role::Leader));
    assert_eq!((core.status().term, &core.machine().payloads[..]), (term, &[2, 4][..]));
    assert!(holds(&world, 2, &[2, 4, 6, 8, 10]) && !holds(&world, 1, &[6]));
}

#[test]
fn one_that_was_given_up_and_comes_back_keeps_no_promise_of_before() {
    let mut world = led_with(&[2, 4]);
    world.event(3, Event::PeerDown(1));
    world.crash(1);
    lose_for_good(&mut world, &[2]);
    // Node 3 was removed, and had promised much; the group goes on with node 1.
    let before = world.replicas.get_mut(&3).expect("a known node");
    let mut writes = before
        .core
        .take()
        .expect("it is open")
        .retire()
        .expect("a healthy store");
    for write in &mut writes {
        if let Write::State { state, .. } = write {
            (state.promised_term, state.promised_index) = (u64::MAX, u64::MAX);
        }
    }
    before.store.write(&writes, true).expect("a healthy store");
    world.nodes = vec![1];
    world.packets.clear();
    world.open(1);
    reform_there(&mut world, &[1]);
    for _ in 0..30 {
        world.event(1, Event::Tick);
        world.settle();
    }
    world.reformed = ERA;
    world.joined.push(3);
    world.nodes.push(3);
    world.open(3);
    world.become_of(&[1, 3]);
    let state = world.replicas[&3].store.state(GROUP).expect("a healthy store");
    let state = state.expect("it is there");
    assert_eq!((state.promised_index, state.reformed, state.fresh), (0, ERA, false));
    assert!(holds(&world, 3, &[2, 4]));
    // It votes: without it nothing is agreed on.
    assert!(world.propose(6));
    world.settle();
    assert!(world.confirmed.contains(&6));
}

#[test]
fn one_that_lost_its_disk_learns_of_the_decision_from_whoever_obeys_it() {
    let mut world = led_with(&[2, 4]);
    world.become_of(&[1, 2, 3, 4, 5]);
    lose_for_good(&mut world, &[3, 4, 5]);
    reform_there(&mut world, &[1, 2]);
    for _ in 0..40 {
        for node in [1, 2] {
            world.event(node, Event::Tick);
        }
        world.settle();
    }
    // It is told of three members and of no decision, as on its first day.
    world.crash(2);
    world.replicas.get_mut(&2).expect("a known node").store = Arc::new(MemoryStore::new());
    world.event(1, Event::PeerDown(2));
    world.fresh = true;
    world.open(2);
    world.event(1, Event::PeerUp(2));
    for _ in 0..60 {
        for node in [1, 2] {
            world.event(node, Event::Tick);
        }
        world.settle();
    }
    let core = world.replicas[&2].core.as_ref().expect("it is open");
    assert_eq!(
        (core.members(), core.reformed(), core.is_fresh()),
        (&[1, 2][..], ERA, false)
    );
    assert!(holds(&world, 2, &[2, 4]));
    assert!(world.propose(6));
    world.settle();
    assert!(world.confirmed.contains(&6));
}

#[test]
fn a_survivor_that_lost_its_disk_since_does_not_go_on_alone_once_more() {
    let mut world = led_with(&[2, 4]);
    lose_for_good(&mut world, &[2]);
    world.event(1, Event::PeerDown(3));
    // Node 1 goes on alone, and has node 4 join.
    world.nodes = vec![1];
    world.crash(3);
    reform_there(&mut world, &[1]);
    world.reformed = ERA;
    world.become_of(&[1, 4]);
    assert!(world.propose(6));
    world.settle();
    assert!(world.confirmed.contains(&6));
    // It loses its disk, begins with what it was told on its first day, and then hears of the decision.
    world.crash(1);
    world.replicas.get_mut(&1).expect("a known node").store = Arc::new(MemoryStore::new());
    world.event(4, Event::PeerDown(1));
    (world.fresh, world.reformed) = (true, 0);
    world.open(1);
    reform_there(&mut world, &[1]);
    for _ in 0..5 {
        world.event(1, Event::Tick);
    }
    assert_ne!(
        world.replicas[&1].core.as_ref().expect("it is open").role(),
        Role::Leader
    );
    world.event(4, Event::PeerUp(1));
    for _ in 0..60 {
        for node in [1, 4] {
            world.event(node, Event::Tick);
        }
        world.settle();
    }
    for node in [1, 4] {
        assert!(holds(&world, node, &[2, 4, 6]), "node {node}");
        assert_eq!(world.members_of(node), [1, 4], "as node {node} knows it");
    }
}
