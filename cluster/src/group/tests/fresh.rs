//! Replicas whose log may have been lost.

use super::*;

/// A group on three new disks, which cannot know that there was none before.
fn new_group(seed: u64) -> World {
    let mut world = World::new(seed);
    world.packets.clear();
    world.fresh = true;
    world.begin();
    world
}

impl World {
    fn lose_disk(&mut self, node: NodeId) {
        self.crash(node);
        // No link delivers what an ended run had sent after the first word of the next.
        self.packets.retain(|(from, ..)| *from != node);
        let replica = self.replicas.get_mut(&node).expect("a known node");
        replica.store = Arc::new(MemoryStore::new());
    }

    fn core(&self, node: NodeId) -> &GroupCore<Tape> {
        self.replicas[&node].core.as_ref().expect("a running replica")
    }

    fn is_whole(&self) -> bool {
        self.replicas.values().all(|replica| {
            let state = replica.store.state(GROUP).expect("a healthy store");
            let waits = replica.core.as_ref().is_some_and(GroupCore::is_fresh);
            state.is_some_and(|state| !state.fresh) && !waits
        })
    }

    /// Time passes for everybody, and nothing is lost.
    fn pass(&mut self, ticks: u32) {
        for _ in 0..ticks {
            for node in NODES {
                self.event(node, Event::Tick);
            }
            self.settle();
        }
    }

    /// The others of three.
    fn followers(&self) -> [NodeId; 2] {
        let others: Vec<NodeId> = NODES.into_iter().filter(|node| *node != self.leader()).collect();
        [others[0], others[1]]
    }

    pub(super) fn leaders(&self) -> usize {
        self.cores().filter(|core| core.role() != Role::Follower).count()
    }
}

#[test]
fn a_new_group_begins_once_all_replicas_are_there() {
    let mut world = new_group(1);
    world.crash(3);
    world.event(1, Event::Campaign);
    world.pass(50);
    assert!(world.core(1).is_fresh() && world.core(2).is_fresh());
    assert_eq!(world.leaders(), 0);
    world.open(3);
    world.pass(10);
    assert_eq!(world.leaders(), 1);
    assert!(world.is_whole());
    assert!(world.propose(2));
    world.heal();
    world.check();
}

#[test]
fn the_only_replica_has_nobody_to_wait_for() {
    let mut effects = Vec::new();
    let options = Options {
        fresh: true,
        ..options()
    };
    let store = Arc::new(MemoryStore::new());
    let core = GroupCore::open(1, GROUP, &[1], store, Tape::default(), options, &mut effects).expect("a new store");
    assert!(!core.is_fresh());
}

#[test]
fn of_two_replicas_one_that_lost_its_log_is_filled_by_the_other() {
    const TWO: [NodeId; 2] = [1, 2];
    let options = |run| Options {
        run,
        fresh: true,
        ..options()
    };
    let mut world = new_group(7);
    world.replicas.remove(&3);
    let open = |world: &mut World, node: NodeId, run: u64| {
        let store: Arc<dyn LogStore> = world.replicas[&node].store.clone();
        let mut effects = Vec::new();
        let core = GroupCore::open(node, GROUP, &TWO, store, Tape::default(), options(run), &mut effects)
            .expect("a replica opens on what it wrote");
        world.replicas.get_mut(&node).expect("a known node").core = Some(core);
        world.perform(node, effects);
        world.poll(node);
    };
    for node in TWO {
        world.lose_disk(node);
    }
    world.packets.clear();
    open(&mut world, 1, 1);
    open(&mut world, 2, 2);
    let pass = |world: &mut World| {
        for _ in 0..40 {
            for node in TWO {
                world.event(node, Event::Tick);
            }
            world.settle_between(1, 2);
        }
    };
    pass(&mut world);
    world.propose_there(4);
    pass(&mut world);
    world.lose_disk(2);
    open(&mut world, 2, 3);
    world.event(1, Event::PeerDown(2));
    world.event(1, Event::PeerUp(2));
    pass(&mut world);
    world.propose_there(8);
    pass(&mut world);
    assert!(world.confirmed.contains(&8) && world.is_whole());
    assert_eq!(world.core(2).machine().payloads, [4, 8]);
}

#[test]
fn a_pair_finds_itself_again_though_one_was_told_of_three() {
    let mut world = new_group(8);
    world.event(1, Event::Campaign);
    world.heal();
    assert!(world.propose(4));
    world.settle();
    world.become_of(&[1, 2]);
    // The leader loses its disk, and knows only what its configuration says.
    let lost = world.leader();
    let other = 3 - lost;
    world.lose_disk(lost);
    world.event(other, Event::PeerDown(lost));
    world.open(lost);
    assert_eq!(world.members_of(lost), NODES, "as it was told");
    world.event(other, Event::PeerUp(lost));
    for _ in 0..60 {
        for node in [lost, other] {
            world.event(node, Event::Tick);
        }
        world.settle_between(1, 2);
    }
    for node in [lost, other] {
        assert_eq!(world.members_of(node), [1, 2], "as node {node} knows it");
        assert!(!world.core(node).is_fresh());
        assert_eq!(world.core(node).machine().payloads, [4]);
    }
    world.propose_there(8);
    world.settle_between(1, 2);
    assert!(world.confirmed.contains(&8));
}

/// A group of which nothing is stored anywhere, whose replicas wait for somebody who knows better.
fn patient_group(seed: u64) -> World {
    let mut world = World::new(seed);
    world.packets.clear();
    world.fresh = true;
    world.founds_after_ticks = 10;
    world.begin();
    world
}

#[test]
fn a_new_group_waits_for_somebody_who_knows_better_and_then_begins() {
    let mut world = patient_group(1);
    world.pass(9);
    assert!(NODES.iter().all(|node| world.core(*node).is_fresh()));
    world.pass(6);
    assert_eq!(world.leaders(), 1);
    assert!(world.is_whole() && world.propose(2));
    world.heal();
    world.check();
}

#[test]
fn the_only_replica_waits_as_long_and_does_not_begin_where_there_is_a_group() {
    for (told, begins) in [(false, true), (true, false)] {
        let mut effects = Vec::new();
        let options = Options {
            fresh: true,
            founds_after_ticks: 10,
            ..options()
        };
        let store = Arc::new(MemoryStore::new());
        let core = GroupCore::open(1, GROUP, &[1], store, Tape::default(), options, &mut effects);
        let mut core = core.expect("a new store");
        assert!(core.is_fresh());
        if told {
            assert!(core.await_group(0));
        }
        for _ in 0..40 {
            core.handle(Event::Tick);
            core.poll(&mut effects).expect("a healthy store");
            for effect in std::mem::take(&mut effects) {
                if let Effect::Write {
                    number: Some(number), ..
                } = effect
                {
                    core.handle(Event::Persisted(number));
                    core.poll(&mut effects).expect("a healthy store");
                }
            }
        }
        assert_eq!((core.role() == Role::Leader, core.is_fresh()), (begins, !begins));
    }
}

/// A new group that has agreed on 4 and 8.
fn begun_group() -> World {
    let mut world = new_group(9);
    world.event(1, Event::Campaign);
    world.heal();
    for value in [4, 8] {
        assert!(world.propose(value));
        world.settle();
    }
    world
}

#[test]
fn one_that_waits_and_began_once_more_is_brought_up_by_whoever_leads() {
    let mut world = begun_group();
    world.lose_disk(3);
    // Whoever leads by the time it is there has never heard of it.
    for node in [1, 2] {
        world.crash(node);
        world.open(node);
        world.event(node, Event::PeerDown(3));
    }
    world.event(1, Event::Campaign);
    world.settle();
    world.open(3);
    let replica = world.replicas.get_mut(&3).and_then(|replica| replica.core.as_mut());
    assert!(replica.expect("it runs").await_group(0));
    world.poll(3);
    while !world.replicas[&3].writes.is_empty() {
        world.write(3);
    }
    world.crash(3);
    // Nobody was there to hear what it said.
    world.packets.clear();
    world.open(3);
    assert!(world.members_of(3).is_empty());
    world.heal();
    for _ in 0..60 {
        for node in NODES {
            world.event(node, Event::Tick);
        }
        world.settle();
    }
    for node in NODES {
        assert_eq!(world.members_of(node), NODES, "as node {node} knows it");
        assert_eq!(world.core(node).machine().payloads, [4, 8], "on node {node}");
        assert!(!world.core(node).is_fresh(), "node {node}");
    }
}

#[test]
fn who_began_the_group_and_lost_it_is_brought_up_by_those_who_joined() {
    let mut world = begun_group();
    world.become_of(&[1, 2, 3, 4, 5, 6, 7]);
    // All that it began with lose their disks; the others are a majority.
    world.founds_after_ticks = 10;
    for node in NODES {
        world.lose_disk(node);
        for other in [4, 5, 6, 7] {
            world.event(other, Event::PeerDown(node));
        }
    }
    for node in NODES {
        world.open(node);
    }
    // Some of those who joined meet one of them, and it tells the others, which nobody has met.
    let replica = world.replicas.get_mut(&1).and_then(|replica| replica.core.as_mut());
    assert!(replica.expect("it runs").await_group(0));
    world.poll(1);
    for _ in 0..30 {
        for node in NODES {
            world.event(node, Event::Tick);
        }
        world.settle();
    }
    assert!(NODES.iter().all(|node| world.core(*node).role() == Role::Follower));
    assert!(
        NODES.iter().all(|node| world.core(*node).is_fresh()),
        "a second group began"
    );
    for node in [2, 3] {
        let replica = world.replicas.get_mut(&node).and_then(|replica| replica.core.as_mut());
        assert!(replica.expect("it runs").await_group(0));
        world.poll(node);
    }
    // It waits also after it began once more.
    world.crash(3);
    world.open(3);
    world.heal();
    for _ in 0..60 {
        for node in 1..=7 {
            world.event(node, Event::Tick);
        }
        world.settle();
    }
    for node in 1..=7 {
        assert_eq!(world.members_of(node), [1, 2, 3, 4, 5, 6, 7], "as node {node} knows it");
        assert_eq!(world.core(node).machine().payloads, [4, 8], "on node {node}");
        assert!(!world.core(node).is_fresh(), "node {node}");
    }
    assert!(world.propose(12));
    world.heal();
}

#[test]
fn a_replica_is_not_whole_because_an_earlier_one_of_its_node_was_added() {
    for (added_since, is_whole) in [(1, true), (2, false)] {
        let mut world = World::new(5);
        world.event(1, Event::Campaign);
        world.heal();
        assert!(world.propose(4));
        // By the decision 1.
        world.become_of(&[1, 2, 3, 4]);
        world.fresh = true;
        world.added_since = added_since;
        world.lose_disk(4);
        world.open(4);
        let leader = world.leader();
        // What readmits it is not committed.
        for _ in 0..4 {
            for node in [leader, 4] {
                world.event(node, Event::Tick);
            }
            world.settle_between(leader, 4);
        }
        assert_eq!(world.members_of(4), [1, 2, 3, 4], "it has applied its addition");
        assert_eq!(world.core(4).is_fresh(), !is_whole, "added since {added_since}");
        world.heal();
        world.pass(2);
        assert!(!world.core(4).is_fresh());
        assert!(world.propose(8));
        world.heal();
        world.check();
    }
}

#[test]
fn whoever_holds_something_does_not_await_its_group() {
    let mut world = new_group(10);
    world.heal();
    let core = world.replicas.get_mut(&1).and_then(|replica| replica.core.as_mut());
    assert!(!core.expect("it runs").await_group(7), "it is not fresh");
    assert_eq!((world.core(1).reformed(), world.members_of(1)), (0, &NODES[..]));
}

#[test]
fn a_replica_without_its_log_does_not_elect_who_lacks_what_was_confirmed() {
    let mut world = new_group(2);
    world.heal();
    // Node 2 falls behind: what is confirmed now is on 1 and 3 only.
    let leader = world
        .cores()
        .find(|core| core.role() == Role::Leader)
        .expect("a leader")
        .status()
        .leader;
    if leader != Some(1) {
        world.event(leader.expect("it leads itself"), Event::TransferLeader(1));
        world.pass(5);
    }
    world.crash(2);
    for value in 0..20 {
        assert!(world.propose(4 * value));
        world.settle();
    }
    assert!(world.confirmed.contains(&76));
    world.lose_disk(3);
    world.crash(1);
    world.open(2);
    world.open(3);
    world.event(2, Event::PeerDown(1));
    world.event(3, Event::PeerDown(1));
    world.event(2, Event::Campaign);
    world.pass(100);
    assert_eq!(world.leaders(), 0, "a majority of those that are left lost its memory");
    // With the third, everything is there again.
    world.open(1);
    world.heal();
    world.pass(20);
    world.heal();
    world.check();
    assert!(world.is_whole());
}

#[test]
fn a_replica_without_its_log_confirms_nothing_until_it_has_caught_up() {
    let mut world = new_group(3);
    world.event(1, Event::Campaign);
    world.heal();
    let [follower, lost] = world.followers();
    assert!(world.propose(4));
    world.settle();
    world.lose_disk(lost);
    world.open(lost);
    world.crash(follower);
    assert!(world.propose(8));
    world.pass(30);
    assert!(world.core(lost).is_fresh());
    assert!(!world.confirmed.contains(&8), "of two replicas one has lost its log");
    world.open(follower);
    world.pass(30);
    assert!(world.confirmed.contains(&8));
    assert!(world.is_whole());
    world.heal();
    world.check();
}

#[test]
fn what_a_fresh_replica_may_have_voted_it_voted_for_the_leader() {
    let mut world = new_group(4);
    world.event(1, Event::Campaign);
    world.heal();
    let leader = world.core(world.leader()).status();
    let lost = world.followers()[0];
    world.lose_disk(lost);
    world.open(lost);
    world.pass(20);
    assert!(world.is_whole());
    let state = world.replicas[&lost]
        .store
        .state(GROUP)
        .expect("a healthy store")
        .expect("a state");
    assert_eq!((state.term, Some(state.vote)), (leader.term, leader.leader));
}

#[test]
fn a_snapshot_that_goes_past_the_readmission_is_followed_by_another() {
    let mut world = new_group(5);
    world.event(1, Event::Campaign);
    world.heal();
    let lost = world.followers()[0];
    world.lose_disk(lost);
    world.open(lost);
    // Only what it says arrives: the entry that readmits it is far behind when it hears of anything.
    for round in 0..200 {
        world.event(lost, Event::Tick);
        world.packets.retain(|(_, to, _)| *to != lost);
        assert!(world.propose(2 * round) && world.propose(2 * round + 1));
        world.settle_but(lost);
    }
    assert!(world.core(lost).is_fresh());
    let snapshots = world.snapshots;
    world.pass(60);
    assert!(world.snapshots > snapshots, "it was too far behind for the log");
    assert!(world.is_whole());
    world.heal();
    world.check();
}

#[test]
fn a_heartbeat_for_the_replica_that_was_here_before_commits_nothing() {
    let mut world = new_group(6);
    world.lead(1);
    world.propose_on(1, 4);
    world.settle();
    // Node 1 appends what nobody gets, and stands still; node 2 is elected, and what it confirms is on 2 and 3.
    world.propose_on(1, 8);
    world.packets.clear();
    world.event(2, Event::PeerDown(1));
    world.event(3, Event::PeerDown(1));
    world.event(2, Event::Campaign);
    world.settle_between(2, 3);
    world.propose_on(2, 12);
    world.settle_between(2, 3);
    assert!(world.confirmed.contains(&12));
    // Node 3 comes back without its log, and meets node 1 first, which leads for all it knows.
    world.lose_disk(3);
    world.open(3);
    world.event(3, Event::PeerDown(2));
    for _ in 0..3 {
        world.event(3, Event::Tick);
        world.settle_between(1, 3);
    }
    assert!(world.core(3).status().last_index >= world.core(2).status().commit);
    // Then node 2, which takes it for the one that it knew.
    world.event(2, Event::LinkReset(3));
    world.packets.retain(|(from, to, _)| (*from, *to) == (2, 3));
    while !world.packets.is_empty() {
        world.receive(0);
    }
    world.crash(2);
    world.event(1, Event::PeerDown(2));
    world.settle_between(1, 3);
    world.event(3, Event::Campaign);
    world.event(1, Event::Campaign);
    world.settle_between(1, 3);
    world.open(2);
    world.heal();
    world.pass(40);
    world.heal();
    world.check();
    assert!(world.is_whole());
}

impl World {
    /// Makes a node lead.
    fn lead(&mut self, node: NodeId) {
        self.heal();
        for _ in 0..20 {
            let leader = self.leader();
            if leader == node {
                return;
            }
            self.event(leader, Event::TransferLeader(node));
            self.pass(3);
        }
        panic!("node {node} does not come to lead");
    }

    /// Where a leader is.
    fn propose_there(&mut self, value: u64) {
        let leader = self.leader();
        self.propose_on(leader, value);
    }

    fn propose_on(&mut self, node: NodeId, value: u64) {
        let replica = self.replicas.get_mut(&node).expect("a known node");
        let core = replica.core.as_mut().expect("a running replica");
        core.propose(&[Bytes::copy_from_slice(&value.to_le_bytes())], 5)
            .expect("a leader");
        self.poll(node);
    }

    /// Like [`World::settle`], but only these two hear of each other, and what others send is lost.
    pub(super) fn settle_between(&mut self, one: NodeId, other: NodeId) {
        loop {
            for node in [one, other] {
                while !self.replicas[&node].writes.is_empty() {
                    self.write(node);
                }
            }
            let ends = [one, other];
            self.packets
                .retain(|(from, to, _)| ends.contains(from) && ends.contains(to));
            if self.packets.is_empty() {
                return;
            }
            self.receive(0);
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn what_was_confirmed_survives_disks_that_are_lost_one_after_the_other(
        seed in 1u64..,
        steps in 50usize..1_500,
    ) {
        let mut world = new_group(seed);
        let mut value = 0;
        for _ in 0..steps {
            match world.pick(60) {
                0 => {
                    let node = NODES[world.pick(3)];
                    world.crash(node);
                }
                1 => {
                    let node = NODES[world.pick(3)];
                    if world.is_whole() {
                        world.lose_disk(node);
                    }
                }
                2..6 => {
                    let node = NODES[world.pick(3)];
                    if world.replicas[&node].core.is_none() {
                        world.open(node);
                    }
                }
                6 => {
                    let node = NODES[world.pick(3)];
                    world.event(node, Event::Campaign);
                }
                7..20 => {
                    value += 1;
                    let _ = world.propose(value);
                }
                20 if !world.packets.is_empty() => {
                    let index = world.pick(world.packets.len());
                    world.packets.remove(index);
                }
                _ => world.step(),
            }
        }
        world.heal();
        world.pass(40);
        world.heal();
        prop_assert!(world.is_whole());
        world.check();
    }
}
