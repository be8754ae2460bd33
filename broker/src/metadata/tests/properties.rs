//! Random changes: whatever is asked for, the picture stays whole.

use proptest::prelude::*;

use super::*;

const QUEUES: &[&str] = &["q1", "q2", "q3"];
const EXCHANGES: &[&str] = &["", "amq.topic", "x1", "x2", "x3"];
const KEYS: &[&str] = &["", "a", "a.b", "a.*", "#", "#.#.#"];
const VHOSTS: &[&str] = &["/", "v"];

fn name(names: &'static [&'static str]) -> impl Strategy<Value = &'static str> {
    prop::sample::select(names)
}

fn any_run() -> impl Strategy<Value = Run> {
    (1..4u64, 1..4u64).prop_map(|(node, incarnation)| run(node, incarnation))
}

fn any_session() -> impl Strategy<Value = SessionId> {
    (any_run(), 1..3u64).prop_map(|(run, id)| SessionId {
        node: run.node,
        incarnation: run.incarnation,
        id,
    })
}

fn any_arguments() -> impl Strategy<Value = Table> {
    let fields: Vec<&'static [&'static str]> = vec![
        &[],
        &[],
        &["x-message-ttl=5"],
        &["x-queue-type=quorum"],
        &["alternate-exchange=x1"],
        &["alternate-exchange=x2"],
        &["x-match=any", "a=1"],
    ];
    prop::sample::select(fields).prop_map(|fields| table(fields.iter().copied()))
}

fn any_queue() -> impl Strategy<Value = Change> {
    let owner = prop::option::weighted(0.2, any_session());
    (
        name(VHOSTS),
        name(QUEUES),
        any::<bool>(),
        any::<bool>(),
        owner,
        any_arguments(),
        any_run(),
    )
        .prop_map(
            |(vhost, name, durable, auto_delete, exclusive_owner, arguments, home)| {
                let mut queue = DeclareQueue {
                    vhost: vhost.into(),
                    durable,
                    auto_delete,
                    exclusive_owner,
                    arguments,
                    ..declare(name)
                };
                if queue.is_transient() {
                    queue.placement = Placement::Transient { home };
                }
                Change::DeclareQueue(queue)
            },
        )
}

fn any_exchange() -> impl Strategy<Value = Change> {
    let kind = name(&[
        "direct",
        "fanout",
        "topic",
        "headers",
        "unknown",
        "x-consistent-hash",
        "x-modulus-hash",
        "x-random",
        "x-delayed-message",
    ]);
    (
        name(VHOSTS),
        name(EXCHANGES),
        kind,
        any::<bool>(),
        any::<bool>(),
        any_arguments(),
    )
        .prop_map(|(vhost, name, kind, durable, auto_delete, mut arguments)| {
            let declare = exchange(name, kind);
            if declare.delays.is_some() {
                arguments.insert("x-delayed-type", Value::LongStr("fanout".into()));
            }
            Change::DeclareExchange(DeclareExchange {
                vhost: vhost.into(),
                durable,
                auto_delete,
                arguments,
                ..declare
            })
        })
}

fn any_bind() -> impl Strategy<Value = Bind> {
    let destination = prop_oneof![
        name(QUEUES).prop_map(to_queue),
        name(EXCHANGES).prop_map(|name| Destination::Exchange(name.into())),
    ];
    (
        name(VHOSTS),
        name(EXCHANGES),
        destination,
        name(KEYS),
        any_arguments(),
        any_session(),
    )
        .prop_map(|(vhost, source, destination, key, arguments, session)| Bind {
            vhost: vhost.into(),
            arguments,
            session,
            ..bind(source, destination, key)
        })
}

fn any_policy() -> impl Strategy<Value = SetPolicy> {
    let definitions = [
        r#"{"max-length":3}"#,
        r#"{"alternate-exchange":"x1"}"#,
        r#"{"delivery-limit":2,"max-length":9}"#,
    ];
    let definition = prop::sample::select(definitions.to_vec());
    let apply_to = prop::sample::select(vec![ApplyTo::All, ApplyTo::QuorumQueues, ApplyTo::Exchanges]);
    let fields = (
        name(VHOSTS),
        name(&["p1", "p2"]),
        name(&["", "1", "x", "("]),
        any::<bool>(),
    );
    (fields, apply_to, 0..2i64, definition).prop_map(
        |((vhost, name, pattern, operator), apply_to, priority, definition)| SetPolicy {
            vhost: vhost.into(),
            name: name.into(),
            operator,
            pattern: pattern.into(),
            apply_to,
            priority,
            definition: serde_json::from_str(definition).expect("an object"),
        },
    )
}

fn any_change() -> impl Strategy<Value = Change> {
    let user = || name(&["guest", "u"]).prop_map(crate::name::UserName::from);
    let vhost = || name(VHOSTS).prop_map(VhostName::from);
    prop_oneof![
        8 => any_queue(),
        8 => any_exchange(),
        16 => any_bind().prop_map(Change::Bind),
        8 => any_bind().prop_map(Change::Unbind),
        // An index into the queues that there are, made a group when it is applied.
        4 => (0..8u64).prop_map(|group| Change::DeleteQueue { group }),
        2 => (0..8u64, 1..4u64, 0..2u64).prop_map(|(group, node, more)| {
            Change::PlaceQueue { group, replicas: (node..=node + more).collect(), leader: node }
        }),
        // Of the latest decision on that queue.
        2 => (0..8u64).prop_map(|group| Change::QueueMoved { group, era: 0 }),
        1 => (1..4u64, any::<bool>()).prop_map(|(node, draining)| Change::DrainNode { node, draining }),
        3 => (vhost(), name(EXCHANGES), any::<bool>()).prop_map(|(vhost, name, if_unused)| {
            Change::DeleteExchange(DeleteExchange { vhost, name: name.into(), if_unused })
        }),
        2 => any_run().prop_map(|run| Change::NodeUp { run, name: "n".into(), address: "a".into(), directory: run.incarnation / 2, version: 2, sessions_from: 0 }),
        1 => (1..4_u16, proptest::collection::vec(any_run(), 0..3)).prop_map(|(version, nodes)| Change::RaiseVersion { version, nodes }),
        1 => any_run().prop_map(|run| Change::NodeDown { run }),
        1 => (1..4u64).prop_map(|node| Change::NodeForgotten { node }),
        1 => (1..5u64, 0..9u64).prop_map(|(node, directory)| {
            Change::JoinNode { node, name: format!("n{node}"), address: format!("a{node}"), directory }
        }),
        1 => (1..4u64, 0..2u64, 0..9u64).prop_map(|(node, more, until)| {
            Change::Reform { survivors: (node..=node + more).collect(), until, cluster_id: format!("c{until}") }
        }),
        1 => (0..8u64, 1..4u64).prop_map(|(group, node)| Change::ReformQueue { group, survivors: vec![node], obeyed: None }),
        2 => any_session().prop_map(|session| Change::SessionEnded { session }),
        1 => vhost().prop_map(|name| Change::AddVhost(DescribeVhost { name, ..DescribeVhost::default() })),
        1 => vhost().prop_map(|name| {
            let default_queue_type = "quorum".to_owned();
            Change::SetVhost(DescribeVhost { name, default_queue_type, ..DescribeVhost::default() })
        }),
        1 => vhost().prop_map(|name| Change::DeleteVhost { name }),
        1 => user().prop_map(|name| Change::AddUser(AddUser { name, password: None, tags: vec!["t".into()] })),
        1 => user().prop_map(|name| Change::DeleteUser { name }),
        1 => (user(), vhost()).prop_map(|(user, vhost)| {
            let (configure, write, read) = ("a".into(), "(".into(), String::new());
            Change::SetPermissions(SetPermissions { user, vhost, configure, write, read })
        }),
        1 => (user(), vhost()).prop_map(|(user, vhost)| Change::ClearPermissions { user, vhost }),
        4 => any_policy().prop_map(Change::SetPolicy),
        2 => any_policy().prop_map(|SetPolicy { vhost, name, operator, .. }| Change::ClearPolicy { vhost, name, operator }),
        1 => (vhost(), -1..3i64).prop_map(|(vhost, max)| {
            Change::SetVhostLimits { vhost, limits: [("max-queues".to_owned(), max)].into_iter().collect() }
        }),
        1 => (user(), -1..3i64).prop_map(|(user, max)| {
            Change::SetUserLimits { user, limits: [("max-channels".to_owned(), max)].into_iter().collect() }
        }),
        1 => (user(), vhost(), name(EXCHANGES)).prop_map(|(user, vhost, exchange)| {
            let (write, read) = ("{username}".into(), "(".into());
            Change::SetTopicPermission(SetTopicPermission { user, vhost, exchange: exchange.into(), write, read })
        }),
        1 => (user(), vhost(), prop::option::of(name(EXCHANGES))).prop_map(|(user, vhost, exchange)| {
            Change::ClearTopicPermission { user, vhost, exchange: exchange.map(Into::into) }
        }),
        1 => (any::<bool>(), vhost()).prop_map(|(global, vhost)| {
            let (vhost, component) = if global { ("".into(), "") } else { (vhost, "c") };
            Change::SetParameter(Parameter { vhost, component: component.into(), name: "n".into(), value: "1".into() })
        }),
        1 => vhost().prop_map(|vhost| Change::ClearParameter { vhost, component: "c".into(), name: "n".into() }),
    ]
}

/// Turns the small numbers that stand for queues into their groups.
fn resolve(change: &Change, picture: &Picture) -> Change {
    let groups: Vec<_> = picture.all_queues().map(|queue| queue.group).collect();
    let pick = |number: u64| {
        groups
            .get(usize::try_from(number).unwrap_or_default())
            .copied()
            .unwrap_or(number)
    };
    match change.clone() {
        Change::DeleteQueue { group } => Change::DeleteQueue { group: pick(group) },
        Change::ReformQueue {
            group,
            survivors,
            obeyed,
        } => Change::ReformQueue {
            group: pick(group),
            survivors,
            obeyed,
        },
        Change::QueueMoved { group, .. } => {
            let group = pick(group);
            let era = picture.queue_by_group(group).and_then(|queue| queue.moves());
            Change::QueueMoved {
                group,
                era: era.unwrap_or_default(),
            }
        }
        Change::PlaceQueue {
            group,
            replicas,
            leader,
        } => Change::PlaceQueue {
            group: pick(group),
            replicas,
            leader,
        },
        other => other,
    }
}

fn check_invariants(node: &Node) {
    let picture = node.picture();
    let mut queues = 0;
    for (vhost, space) in &picture.vhosts {
        assert_eq!(&space.vhost.name, vhost);
        for (name, queue) in &space.queues {
            queues += 1;
            assert_eq!((&queue.vhost, &queue.name), (vhost, name));
            assert_eq!(
                picture.queue_by_group(queue.group).map(|own| own.group),
                Some(queue.group)
            );
            let routed = picture
                .route(vhost, "", &Arrival::by_key(&[name]))
                .expect("the default exchange is always there");
            assert!(matches!(routed.as_slice(), [own] if own.group == queue.group));
            assert_eq!(queue.is_transient(), !queue.durable);
            assert_eq!(queue.is_transient(), queue.replicas().is_empty());
            assert!(queue.wanted().iter().all(|node| queue.replicas().contains(node)));
            assert_eq!(queue.moves().is_some(), queue.wanted().len() < queue.replicas().len());
            if let Some(home) = queue.home() {
                assert!(picture.transient.contains(&(home, queue.group)));
            }
            if let Some(owner) = queue.exclusive_owner {
                assert!(picture.exclusive.contains(&(owner, queue.group)));
            }
            check_policies(picture, queue);
        }
        for exchange in space.exchanges.values() {
            assert!(exchange.policies.is_same(&space.policies_of_exchange(&exchange.name)));
        }
        for (key, binding) in &space.bindings {
            assert_eq!(key, &view::BindingKey::of(binding));
            assert!(space.incoming.contains_key(&(binding.destination.clone(), key.clone())));
            assert!(
                space.exchanges.contains_key(&*binding.source),
                "a binding without a source"
            );
            match (&binding.destination, &binding.target) {
                (Destination::Queue(name), Target::Queue(group)) => {
                    let queue = space.queues.get(&**name).expect("a binding to a queue that is there");
                    assert_eq!(queue.group, *group);
                }
                (Destination::Exchange(name), Target::Exchange(target)) => {
                    assert_eq!(name, target);
                    assert!(space.exchanges.contains_key(&**name), "a binding without a destination");
                }
                other => panic!("{other:?}"),
            }
        }
        assert_eq!(space.bindings.len(), space.incoming.len());
        for exchange in space.exchanges.values() {
            let transient = picture
                .transient_exchanges
                .contains(&(vhost.clone(), exchange.name.clone()));
            assert_eq!(transient, !exchange.durable);
            check_routes(picture, space, exchange);
        }
        let all: Vec<_> = space
            .exchanges
            .values()
            .flat_map(|exchange| space.outgoing(&exchange.name))
            .collect();
        assert_eq!(all.len(), space.bindings.len());
    }
    let delayed = picture.vhosts.values().flat_map(|space| space.exchanges.values());
    let delayed: BTreeSet<_> = delayed.filter_map(|exchange| exchange.delay_group()).collect();
    let hidden = picture.all_queues().filter(|queue| queue.is_delay);
    assert_eq!(delayed, hidden.map(|queue| queue.group).collect());
    assert_eq!(picture.groups.len(), queues + delayed.len());
    let mut load = BTreeMap::<u64, view::Load>::new();
    for queue in picture.all_queues() {
        if let Placement::Replicated { replicas, leader, .. } = &queue.placement {
            replicas
                .iter()
                .for_each(|node| load.entry(*node).or_default().replicas += 1);
            load.entry(*leader).or_default().leaders += 1;
        }
    }
    assert!(picture.load.iter().eq(load.iter()));
    let homes = picture.all_queues().filter(|queue| queue.is_transient()).count();
    assert_eq!(picture.transient.len(), homes);
    let owned = picture
        .all_queues()
        .filter(|queue| queue.exclusive_owner.is_some())
        .count();
    assert_eq!(picture.exclusive.len(), owned);
    let exchanges: Vec<_> = picture
        .vhosts
        .values()
        .flat_map(|space| space.exchanges.values())
        .collect();
    let transient = exchanges.iter().filter(|exchange| !exchange.durable).count();
    assert_eq!(picture.transient_exchanges.len(), transient);
    let ids: BTreeSet<_> = exchanges.iter().map(|exchange| exchange.id).collect();
    assert_eq!(
        ids,
        node.matchers.keys().copied().collect(),
        "an actor for each exchange and no other"
    );
    for (user, vhost, _) in picture.permissions() {
        assert!(picture.user(user).is_some() && picture.vhost(vhost).is_some());
    }
    for (user, vhost, topics) in picture.all_topic_permissions() {
        assert!(picture.user(user).is_some() && picture.vhost(vhost).is_some());
        assert!(topics.iter().next().is_some(), "topic permissions of nothing");
    }
    for (vhost, component, ..) in picture.parameters() {
        assert!((vhost.is_empty() && component.is_empty()) || picture.vhost(vhost).is_some());
    }
    for queue in picture.all_queues() {
        if let Some(home) = queue.home()
            && let Some(known) = picture.nodes.get(&home.node)
        {
            assert!(
                home.incarnation >= known.run.incarnation,
                "a transient queue of a run that ended"
            );
            assert!(home.incarnation > known.run.incarnation || known.live);
        }
    }
}

/// A queue obeys the policies that there are.
fn check_policies(picture: &Picture, queue: &Queue) {
    let policies = picture.policies_of_queue(&queue.vhost, queue.kind, &queue.name);
    assert!(policies.is_same(&queue.policies));
    assert_eq!(queue.settings, policies.settings(queue.kind, &queue.arguments));
    let is_declared = queue.settings == Arguments::read(queue.kind, &queue.arguments);
    assert!(is_declared || queue.configured > 0, "settings that nobody was told of");
    assert_eq!(
        picture.queue_by_group(queue.group).map(|known| known.configured),
        Some(queue.configured)
    );
}

/// The routes that were told of one by one are those of the bindings that there are.
fn check_routes(picture: &Picture, space: &view::Space, exchange: &Exchange) {
    let mut matcher = Matcher::new(exchange.kind, &exchange.arguments);
    for binding in space.outgoing(&exchange.name) {
        matcher.bind(&binding.routing_key, &binding.arguments, &binding.target);
    }
    let headers = table(["a=1"]);
    for key in ["", "a", "a.b", "a.b.c"] {
        let keys = [key];
        let arrival = Arrival {
            headers: Some(&headers),
            ..Arrival::by_key(&keys)
        };
        let targets = |matcher: &Matcher| {
            let mut out = Vec::new();
            matcher.matches(&arrival, &mut out);
            out.into_iter().collect::<BTreeSet<_>>()
        };
        let found = targets(&exchange.routes());
        assert_eq!(found, targets(&matcher), "{exchange:?} {key}");
        let queues = picture
            .route(&exchange.vhost, &exchange.name, &arrival)
            .expect("it is there");
        let groups: BTreeSet<_> = queues.iter().map(|queue| queue.group).collect();
        assert_eq!(groups.len(), queues.len(), "a queue is named once");
        if !exchange.name.is_empty() {
            let direct = found.iter().filter_map(|target| match target {
                Target::Queue(group) => Some(*group),
                Target::Exchange(_) => None,
            });
            assert!(direct.into_iter().all(|group| groups.contains(&group)));
        }
    }
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 120, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn pictures_stay_whole(
        changes in prop::collection::vec(any_change(), 1..80),
        split in any::<prop::sample::Index>(),
    ) {
        let mut node = Node::bootstrapped();
        let mut twin = Node::bootstrapped();
        let mut late = None;
        let split = split.index(changes.len());
        for (n, change) in changes.iter().enumerate() {
            if n == split {
                late = Some(node.restored());
            }
            let change = resolve(change, node.picture());
            let before = node.picture().clone();
            let bytes = MetadataMachine { picture: before }.snapshot();
            let effects = node.apply(&change);
            check_invariants(&node);
            let refused = matches!(effects.last(), Some(Effect::Answer { outcome: Outcome::Refused(_), .. }));
            if refused {
                prop_assert_eq!(effects.len(), 1, "a refused change has no effects");
                let mut after = node.machine.clone();
                // That it was asked for is all that is known of it.
                after.picture.requests = requests::Requests::default();
                let mut unchanged = MetadataMachine::new();
                unchanged.restore(&bytes).expect("a snapshot can be restored");
                unchanged.picture.requests = requests::Requests::default();
                prop_assert_eq!(after.snapshot(), unchanged.snapshot());
            }
            let again = twin.apply(&change);
            prop_assert_eq!(format!("{effects:?}"), format!("{again:?}"), "two runs are equal");
            if let Some(late) = &mut late {
                let later = late.apply(&change);
                prop_assert_eq!(effects.len(), later.len(), "a restored machine goes on alike");
            }
        }
        let snapshot = node.machine.snapshot();
        prop_assert_eq!(&snapshot, &twin.machine.snapshot());
        let restored = node.restored();
        check_invariants(&restored);
        prop_assert_eq!(&snapshot, &restored.machine.snapshot());
        if let Some(late) = late {
            check_invariants(&late);
            prop_assert_eq!(&snapshot, &late.machine.snapshot(), "snapshot and rest make the whole");
        }
    }

    #[test]
    fn changes_survive_the_log(change in any_change()) {
        let bytes = change.encode(Request { node: 1, incarnation: 2, id: 3 });
        let command = <warren_proto::metadata::Command as prost::Message>::decode_length_delimited(&*bytes);
        let decoded = Change::decode(command.expect("what was written can be read").change);
        prop_assert_eq!(decoded, Ok(change));
    }

    #[test]
    fn any_bytes_are_accepted(payload in prop::collection::vec(any::<u8>(), 0..200)) {
        let mut node = Node::bootstrapped();
        node.apply_payload(&payload);
        check_invariants(&node);
        let _ = MetadataMachine::new().restore(&[payload.into()]);
    }
}
