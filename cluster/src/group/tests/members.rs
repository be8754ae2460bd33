//! Groups whose members change.

use super::*;
use crate::group::{Course, Goal, retire};

/// What the nodes were told of whom the group should consist of, as far as each has heard.
struct Told {
    era: u64,
    wanted: Vec<NodeId>,
    heard: BTreeMap<NodeId, (u64, Vec<NodeId>)>,
}

impl World {
    /// A node is to have a replica of a group that others have begun.
    fn join(&mut self, node: NodeId) {
        if !self.nodes.contains(&node) {
            self.nodes.push(node);
            self.nodes.sort_unstable();
            self.joined.push(node);
            self.replicas
                .entry(node)
                .or_insert_with(|| Replica::new(Arc::new(MemoryStore::new())));
            self.open(node);
        }
        for peer in self.nodes.clone() {
            self.event(peer, Event::PeerUp(node));
        }
    }

    /// A node is told that its replica was removed, whether it runs or not.
    fn remove(&mut self, node: NodeId) {
        let replica = self.replicas.get_mut(&node).expect("a known node");
        let writes = match replica.core.take() {
            Some(core) => core.retire().expect("a healthy store"),
            None => retire(&*replica.store, GROUP).expect("a healthy store"),
        };
        for Waiting {
            writes: before, sync, ..
        } in std::mem::take(&mut replica.writes)
        {
            replica.store.write(&before, sync).expect("a healthy store");
        }
        replica.store.write(&writes, true).expect("a healthy store");
        let left = replica.store.state(GROUP).expect("a healthy store");
        assert!(
            left.is_none_or(|state| state.removed),
            "more is left of it than its promises"
        );
        assert_eq!(replica.store.last_index(GROUP, 0), Ok(None), "its log is still there");
        self.nodes.retain(|other| *other != node);
        self.joined.push(node);
        self.lose_all(node);
    }

    /// Time passes for the replicas that need to know.
    fn tick_those_that_ask(&mut self) {
        for _ in 0..30 {
            for node in self.nodes.clone() {
                let core = self.replicas.get(&node).and_then(|replica| replica.core.as_ref());
                if core.is_some_and(GroupCore::is_active) {
                    self.event(node, Event::Tick);
                }
            }
            self.settle();
        }
    }

    /// Whether it is where it should be, and the others may go.
    fn steer(&mut self, node: NodeId, wanted: &[NodeId]) -> bool {
        let is_open = |(node, replica): (&NodeId, &Replica)| replica.core.is_some().then_some(*node);
        let up: Vec<NodeId> = self.replicas.iter().filter_map(is_open).collect();
        let replica = self.replicas.get_mut(&node).expect("a known node");
        let Some(core) = replica.core.as_mut() else {
            return false;
        };
        let goal = Goal {
            voters: wanted,
            leader: 0,
            era: 1,
        };
        let course = core.steer(&goal, &|node| up.contains(&node));
        let is_settled = course == Course::Arrived && core.is_settled();
        self.poll(node);
        is_settled
    }

    /// Everything works: until the group consists of these, and the others have deleted what they had.
    pub(super) fn become_of(&mut self, wanted: &[NodeId]) {
        for node in wanted {
            self.join(*node);
        }
        for node in self.nodes.clone() {
            for peer in self.nodes.clone() {
                self.event(node, Event::PeerUp(peer));
            }
        }
        for _ in 0..400 {
            self.settle();
            for node in self.nodes.clone() {
                if self.steer(node, wanted) {
                    for node in self.nodes.clone() {
                        if !wanted.contains(&node) {
                            self.remove(node);
                        }
                    }
                    return;
                }
                self.event(node, Event::Tick);
            }
        }
        let states: Vec<_> = self
            .cores()
            .map(|core| (core.members(), core.learners(), core.status()))
            .collect();
        panic!("the group did not become {wanted:?}: {states:?}");
    }

    pub(super) fn members_of(&self, node: NodeId) -> &[NodeId] {
        self.members(node).0
    }

    fn members(&self, node: NodeId) -> (&[NodeId], &[NodeId]) {
        let core = self.replicas[&node].core.as_ref().expect("it is open");
        (core.members(), core.learners())
    }
}

fn led_by_the_first() -> World {
    let mut world = World::new(1);
    world.event(1, Event::Campaign);
    world.heal();
    world
}

#[test]
fn a_group_grows_and_shrinks() {
    let mut world = led_by_the_first();
    assert!(world.propose(2));
    for (value, wanted) in [
        (3, &[1, 2, 3, 4, 5][..]),
        (5, &[4, 5]),
        (7, &[3, 4, 5]),
        (9, &[2]),
        (11, &[1, 2, 3]),
    ] {
        world.become_of(wanted);
        assert_eq!(world.nodes, wanted);
        assert!(world.propose(value));
        world.heal();
        world.check();
        for node in wanted {
            assert_eq!(world.members(*node), (wanted, &[][..]));
        }
    }
    assert_eq!(world.confirmed, [2, 3, 5, 7, 9, 11]);
}

#[test]
fn the_members_are_known_after_a_restart_of_all() {
    let mut world = led_by_the_first();
    world.become_of(&[2, 3, 4]);
    world.heal();
    for node in [2, 3, 4] {
        world.crash(node);
    }
    world.heal();
    for node in [2, 3, 4] {
        assert_eq!(world.members(node), (&[2, 3, 4][..], &[][..]));
    }
    assert!(world.propose(3));
    world.heal();
    world.check();
}

#[test]
fn a_leader_that_should_go_hands_over_first() {
    let mut world = led_by_the_first();
    world.become_of(&[2, 3]);
    assert_ne!(world.leader(), 1);
    assert!(world.propose(2));
    world.heal();
    world.check();
}

#[test]
fn a_new_member_gets_a_snapshot_that_names_it_and_the_live_entries() {
    let mut world = led_by_the_first();
    assert!(world.propose(1_000), "a value that stays live");
    for value in 0..200 {
        assert!(world.propose(value));
        world.settle();
    }
    let stored = world.replicas[&1]
        .store
        .state(GROUP)
        .expect("healthy")
        .expect("a state");
    assert!(stored.compacted_index > 0, "the log was not compacted");
    world.become_of(&[1, 2, 3, 4]);
    world.heal();
    assert!(world.snapshots > 0);
    world.check();
}

#[test]
fn no_voter_is_removed_while_the_others_could_not_go_on() {
    let mut world = led_by_the_first();
    world.crash(2);
    world.event(1, Event::PeerDown(2));
    world.event(3, Event::PeerDown(2));
    for _ in 0..30 {
        world.steer(1, &[1, 2]);
        world.settle();
        world.event(1, Event::Tick);
    }
    assert_eq!(world.members(1).0, [1, 2, 3]);
    assert!(world.propose(2), "it goes on");
    world.settle();
    assert_eq!(world.confirmed, [2]);
    world.open(2);
    world.become_of(&[1, 2]);
    world.heal();
    world.check();
}

#[test]
fn a_member_that_is_gone_for_good_is_replaced() {
    let mut world = led_by_the_first();
    world.crash(3);
    world.event(1, Event::PeerDown(3));
    world.event(2, Event::PeerDown(3));
    assert!(world.propose(2));
    world.nodes.retain(|node| *node != 3);
    world.become_of(&[1, 2, 4]);
    world.crash(1);
    for node in [2, 4] {
        world.event(node, Event::PeerDown(1));
    }
    world.settle();
    assert!(world.propose(3), "the new one and the old one are a majority");
    world.heal();
    world.check();
}

#[test]
fn an_addition_that_is_called_off_is_undone() {
    let mut world = led_by_the_first();
    world.join(4);
    world.steer(1, &[1, 2, 3, 4]);
    world.packets.retain(|(_, to, _)| *to != 4);
    for node in NODES {
        world.event(node, Event::PeerDown(4));
    }
    world.nodes.retain(|node| *node != 4);
    world.settle();
    assert_eq!(world.members(1), (&[1, 2, 3][..], &[4][..]));
    world.become_of(&[1, 2, 3]);
    assert_eq!(world.members(1), (&[1, 2, 3][..], &[][..]));
}

#[test]
fn a_replica_that_was_removed_and_returns_keeps_its_promises() {
    let mut world = led_by_the_first();
    world.settle();
    // The second misses what the first and the third agree on, and that the third is removed then.
    assert!(world.propose(2));
    for _ in 0..20 {
        world.steer(1, &[1, 2]);
        world.settle_but(2);
    }
    assert_eq!(world.members(1).0, [1, 2], "it was not removed");
    assert_eq!(world.confirmed, [2]);
    world.packets.clear();
    world.remove(3);
    world.join(3);
    world.crash(1);
    for _ in 0..30 {
        for node in [2, 3] {
            world.event(node, Event::PeerDown(1));
            world.event(node, Event::Tick);
        }
        world.settle();
    }
    let leads = world.cores().any(|core| core.role() == Role::Leader);
    assert!(!leads, "elected by one that had acknowledged more");
    world.open(1);
    world.become_of(&[1, 2, 3]);
    world.heal();
    world.check();
}

#[test]
fn a_replica_that_was_removed_and_placed_again_before_its_group_knew_is_brought_up() {
    let mut world = led_by_the_first();
    assert!(world.propose(2));
    world.settle();
    world.tick_those_that_ask();
    world.remove(3);
    // It is told with whom the group began. Nobody but the new one has a reason to tick.
    world.joined.clear();
    world.nodes.push(3);
    world.open(3);
    world.tick_those_that_ask();
    assert!(world.agreed(), "the leader takes it for the one that was here before");
    assert_eq!(world.members(3).0, [1, 2, 3]);
    world.check();
}

#[test]
fn a_voter_that_does_not_know_its_leader_follows_it() {
    let mut world = led_by_the_first();
    // The third hears nothing of the fourth until that leads.
    world.join(4);
    for _ in 0..30 {
        world.steer(1, &[1, 2, 3, 4]);
        world.settle_but(3);
        world.event(1, Event::Tick);
    }
    assert_eq!(world.members(4).0, [1, 2, 3, 4]);
    assert_eq!(world.members(3).0, [1, 2, 3]);
    world.event(1, Event::TransferLeader(4));
    world.heal();
    assert_eq!(world.leader(), 4);
    assert_eq!(world.members(3).0, [1, 2, 3, 4]);
    world.check();
}

impl World {
    fn place(&mut self, told: &mut Told) {
        let all = [1, 2, 3, 4, 5];
        let mut wanted: Vec<NodeId> = all.into_iter().filter(|_| self.pick(2) == 0).collect();
        if wanted.is_empty() {
            wanted.push(all[self.pick(5)]);
        }
        for node in &wanted {
            self.join(*node);
        }
        told.era += 1;
        told.wanted = wanted;
    }

    fn steer_as_heard(&mut self, node: NodeId, told: &mut Told) {
        let (era, wanted) = told.heard.get(&node).cloned().unwrap_or_else(|| (0, NODES.to_vec()));
        if self.steer(node, &wanted) && era == told.era {
            for other in self.nodes.clone() {
                if !wanted.contains(&other) {
                    self.remove(other);
                }
            }
        }
    }
}

#[test]
fn whoever_may_still_have_lost_its_log_gets_no_vote() {
    let mut world = World::new(11);
    world.event(1, Event::Campaign);
    world.heal();
    assert!(world.propose(4));
    world.heal();
    // They do not know whether the decision by which they are added was on them.
    world.fresh = true;
    world.added_since = 2;
    for node in [4, 5] {
        world.join(node);
    }
    // Nor do they say so, for as long as they hear no tick.
    for _ in 0..20 {
        world.settle();
        for node in NODES {
            world.steer(node, &[1, 4, 5]);
            world.event(node, Event::Tick);
        }
    }
    assert_eq!(world.members(world.leader()), (&NODES[..], &[4, 5][..]));
    world.become_of(&[1, 4, 5]);
    world.heal();
    assert!(world.propose(8));
    world.heal();
    assert!(world.confirmed.ends_with(&[8]));
    world.check();
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 300, ..ProptestConfig::default() })]

    #[test]
    fn what_was_confirmed_survives_changes_of_members(seed in 1u64.., steps in 100usize..2_500) {
        let mut world = World::new(seed);
        let mut told = Told { era: 0, wanted: NODES.to_vec(), heard: BTreeMap::new() };
        let mut value = 0;
        for _ in 0..steps {
            match world.pick(48) {
                0 => {
                    let node = world.any();
                    if world.replicas[&node].core.is_some() {
                        world.crash(node);
                        for peer in world.nodes.clone() {
                            world.event(peer, Event::PeerDown(node));
                        }
                    } else {
                        world.open(node);
                        for peer in world.nodes.clone() {
                            world.event(peer, Event::PeerUp(node));
                        }
                    }
                }
                1 if !world.packets.is_empty() => {
                    let lost = world.pick(world.packets.len());
                    world.lose(lost);
                }
                2 => {
                    // A false alarm.
                    let (node, peer) = (world.any(), world.any());
                    world.event(node, Event::PeerDown(peer));
                    world.event(node, Event::PeerUp(peer));
                }
                3 => {
                    let (node, to) = (world.any(), world.any());
                    world.event(node, Event::TransferLeader(to));
                }
                4 if world.pick(6) == 0 => world.place(&mut told),
                5 => {
                    let node = world.any();
                    told.heard.insert(node, (told.era, told.wanted.clone()));
                }
                6..14 => {
                    if world.propose(value) {
                        value += 1;
                    }
                }
                14..20 => {
                    let node = world.any();
                    world.steer_as_heard(node, &mut told);
                }
                _ => world.step(),
            }
        }
        for node in world.nodes.clone() {
            if world.replicas[&node].core.is_none() {
                world.open(node);
            }
        }
        let wanted = told.wanted.clone();
        world.become_of(&wanted);
        world.heal();
        prop_assert_eq!(&world.nodes, &wanted);
        world.check();
    }
}
