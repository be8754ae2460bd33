use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use warren_cluster::machine::{Machine as _, Meta};
use warren_proto::record::SessionId;

use super::*;
use crate::amqp::{Table, Value};
use crate::auth::{Algorithm, PasswordHash};
use crate::exchange::tests::table;
use crate::exchange::{Arrival, Matcher, Target};

mod cases;
mod orphans;
mod properties;

/// A machine with what its shell does: exchange actors that publish their routes.
#[derive(Clone, Default)]
struct Node {
    machine: MetadataMachine,
    matchers: BTreeMap<u64, Matcher>,
    index: u64,
    request: u64,
}

impl Node {
    fn bootstrapped() -> Self {
        let mut node = Self::default();
        node.apply(&bootstrap());
        node.apply(&Change::NodeUp {
            run: run(1, 1),
            name: "one".into(),
            address: String::new(),
            directory: 0,
        });
        node
    }

    fn picture(&self) -> &Picture {
        self.machine.picture()
    }

    fn apply(&mut self, change: &Change) -> Vec<Effect> {
        self.request += 1;
        let payload = change.encode(Request {
            node: 1,
            incarnation: 1,
            id: self.request,
        });
        self.apply_payload(&payload)
    }

    fn apply_payload(&mut self, payload: &[u8]) -> Vec<Effect> {
        self.index += 1;
        let meta = Meta {
            index: self.index,
            term: 1,
            time_ms: 1,
            version: 1,
        };
        let mut out = Vec::new();
        self.machine.apply(&meta, payload, &mut out);
        self.perform(&out);
        out
    }

    fn perform(&mut self, effects: &[Effect]) {
        for effect in effects {
            match effect {
                Effect::ExchangeDeclared(exchange) => {
                    assert!(
                        self.matchers
                            .insert(exchange.id, Matcher::new(exchange.kind, &exchange.arguments))
                            .is_none(),
                        "an id is reused"
                    );
                }
                Effect::ExchangeDeleted(exchange) => {
                    self.matchers
                        .remove(&exchange.id)
                        .expect("what is deleted was declared");
                }
                Effect::Bound { exchange, binding } => self.update(exchange, binding, Matcher::bind),
                Effect::Unbound { exchange, binding } => self.update(exchange, binding, Matcher::unbind),
                _ => {}
            }
        }
    }

    fn update(&mut self, exchange: &Exchange, binding: &Binding, change: fn(&mut Matcher, &str, &Table, &Target)) {
        let matcher = self
            .matchers
            .get_mut(&exchange.id)
            .expect("only what is declared is bound");
        change(matcher, &binding.routing_key, &binding.arguments, &binding.target);
        exchange.publish_routes(Arc::new(matcher.clone()));
    }

    fn outcome(&mut self, change: &Change) -> Outcome {
        let effects = self.apply(change);
        match effects.last() {
            Some(Effect::Answer { outcome, .. }) => outcome.clone(),
            other => panic!("the last effect is {other:?}"),
        }
    }

    #[track_caller]
    fn refused(&mut self, change: &Change) -> Refusal {
        match self.outcome(change) {
            Outcome::Refused(refusal) => refusal,
            other => panic!("{change:?} was not refused but answered {other:?}"),
        }
    }

    /// Another node with the same state that was restored instead of applying every entry.
    fn restored(&self) -> Self {
        let mut machine = MetadataMachine::new();
        machine
            .restore(&self.machine.snapshot())
            .expect("a snapshot can be restored");
        let mut node = Self {
            machine,
            matchers: BTreeMap::new(),
            index: self.index,
            request: self.request,
        };
        let mut effects = Vec::new();
        node.picture().changes_since(&Picture::default(), &mut effects);
        node.perform(&effects);
        node
    }
}

fn run(node: u64, incarnation: u64) -> Run {
    Run { node, incarnation }
}

fn session(id: u64) -> SessionId {
    SessionId {
        node: 1,
        incarnation: 1,
        id,
    }
}

fn bootstrap() -> Change {
    Change::Bootstrap(Bootstrap {
        cluster_id: "cluster".into(),
        vhost: "/".into(),
        user: AddUser {
            name: "guest".into(),
            password: Some(PasswordHash::new(Algorithm::Sha256, [1, 2, 3, 4], b"guest")),
            tags: vec!["administrator".into()],
        },
    })
}

fn declare(name: &str) -> DeclareQueue {
    DeclareQueue {
        vhost: "/".into(),
        name: name.into(),
        durable: true,
        auto_delete: false,
        exclusive_owner: None,
        arguments: Table::new(),
        placement: Placement::on(vec![1, 2, 3], 1),
    }
}

fn exchange(name: &str, kind: &str) -> DeclareExchange {
    DeclareExchange {
        vhost: "/".into(),
        name: name.into(),
        kind: kind.into(),
        durable: true,
        auto_delete: false,
        internal: false,
        arguments: Table::new(),
        delays: (kind == "x-delayed-message").then_some(Placement::on(vec![1, 2, 3], 2)),
    }
}

fn bind(source: &str, destination: Destination, key: &str) -> Bind {
    Bind {
        vhost: "/".into(),
        source: source.into(),
        destination,
        routing_key: key.into(),
        arguments: Table::new(),
        session: session(1),
    }
}

fn to_queue(name: &str) -> Destination {
    Destination::Queue(name.into())
}

#[test]
fn a_new_cluster_has_what_clients_expect() {
    let node = Node::bootstrapped();
    let picture = node.picture();
    let exchanges: Vec<_> = picture
        .exchanges("/")
        .map(|exchange| format!("{}:{}:{}", exchange.name, exchange.kind.name(), exchange.internal))
        .collect();
    let expected = [
        ":direct:false",
        "amq.direct:direct:false",
        "amq.fanout:fanout:false",
        "amq.headers:headers:false",
        "amq.match:headers:false",
        "amq.rabbitmq.trace:topic:true",
        "amq.topic:topic:false",
    ];
    assert_eq!(exchanges, expected);
    assert!(
        picture
            .exchanges("/")
            .all(|exchange| exchange.durable && !exchange.auto_delete)
    );
    let guest = picture.user("guest").expect("the first user");
    assert!(guest.verify_password(b"guest") && guest.has_tag("administrator"));
    assert!(!guest.verify_password(b"other") && !guest.verify_password(b""));
    let permission = picture.permission("guest", "/").expect("the first user's permission");
    assert!(
        [Access::Configure, Access::Write, Access::Read]
            .iter()
            .all(|access| permission.allows(*access, "any"))
    );
}

#[test]
fn a_cluster_is_bootstrapped_once() {
    let mut node = Node::bootstrapped();
    node.apply(&Change::DeleteUser { name: "guest".into() });
    assert!(matches!(node.outcome(&bootstrap()), Outcome::Done));
    assert!(
        node.picture().user("guest").is_none(),
        "a deleted user does not come back with the next start"
    );
}

#[test]
fn group_ids_are_never_used_again() {
    let mut node = Node::bootstrapped();
    let mut seen = BTreeSet::new();
    for _ in 0..5 {
        let Outcome::Queue(queue) = node.outcome(&Change::DeclareQueue(declare("q"))) else {
            panic!("not declared")
        };
        assert!(seen.insert(queue.group));
        node.apply(&Change::DeleteQueue { group: queue.group });
    }
    let mut payload = Vec::new();
    for id in 0..3u64 {
        let name = format!("q{id}");
        payload.extend_from_slice(&Change::DeclareQueue(declare(&name)).encode(Request::default()));
    }
    node.apply_payload(&payload);
    for queue in node.picture().all_queues() {
        assert!(seen.insert(queue.group));
        assert_eq!(queue.group >> 16, node.index);
    }
    assert_eq!(seen.len(), 8);
}

#[test]
fn permissions_are_searched_for_in_names() {
    let permission = Permission::new("^own-", "", "a|b");
    let check = |access, name, allowed| assert_eq!(permission.allows(access, name), allowed, "{access} {name}");
    check(Access::Configure, "own-queue", true);
    check(Access::Configure, "not-own-queue", false);
    check(Access::Write, "", true);
    check(Access::Write, "x", false);
    check(Access::Read, "xxbxx", true);
    check(Access::Read, "xxx", false);
    assert_eq!(permission.check(), Ok(()));
    let broken = Permission::new(".*", "(", ".*");
    assert_eq!(broken.check(), Err(Refusal::InvalidPattern("(".into())));
    assert!(!broken.allows(Access::Write, "("));
}

#[test]
fn users_and_vhosts() {
    let mut node = Node::bootstrapped();
    let add = Change::AddUser(AddUser {
        name: "u".into(),
        password: None,
        tags: Vec::new(),
    });
    let vhost = Change::AddVhost(DescribeVhost {
        name: "v".into(),
        ..DescribeVhost::default()
    });
    let permissions = |user: &str, vhost: &str| {
        let (configure, write, read) = ("a".into(), "b".into(), "c".into());
        Change::SetPermissions(SetPermissions {
            user: user.into(),
            vhost: vhost.into(),
            configure,
            write,
            read,
        })
    };
    assert_eq!(node.refused(&permissions("u", "/")), Refusal::NoUser("u".into()));
    node.apply(&add);
    assert_eq!(node.refused(&add), Refusal::UserExists("u".into()));
    assert_eq!(node.refused(&permissions("u", "v")), Refusal::NoVhost("v".into()));
    node.apply(&vhost);
    assert_eq!(node.refused(&vhost), Refusal::VhostExists("v".into()));
    node.apply(&permissions("u", "v"));
    node.apply(&permissions("u", "/"));
    assert!(
        node.picture()
            .permission("u", "v")
            .is_some_and(|permission| permission.text(Access::Write) == "b")
    );
    node.apply(&Change::ClearPermissions {
        user: "u".into(),
        vhost: "/".into(),
    });
    assert!(node.picture().permission("u", "/").is_none());
    let password = Some(PasswordHash::new(Algorithm::Sha256, [0; 4], b"p"));
    node.apply(&Change::ChangePassword {
        name: "u".into(),
        password,
    });
    node.apply(&Change::SetTags {
        name: "u".into(),
        tags: vec!["monitoring".into()],
    });
    let user = node.picture().user("u").expect("added").clone();
    assert!(user.verify_password(b"p") && user.has_tag("monitoring"));
    node.apply(&Change::DeleteVhost { name: "v".into() });
    assert_eq!(node.picture().permissions().count(), 1, "only the guest's");
    node.apply(&permissions("u", "/"));
    node.apply(&Change::DeleteUser { name: "u".into() });
    assert_eq!(node.picture().permissions().count(), 1);
    assert_eq!(
        node.refused(&Change::DeleteUser { name: "u".into() }),
        Refusal::NoUser("u".into())
    );
}

/// What is asked for again after the answer got lost is not done again.
#[test]
fn repeated_requests_are_answered_and_not_repeated() {
    let mut node = Node::bootstrapped();
    let Outcome::Queue(queue) = node.outcome(&Change::DeclareQueue(declare("q"))) else {
        panic!("not declared")
    };
    let binding = bind("amq.direct", to_queue("q"), "k");
    node.apply(&Change::Bind(binding.clone()));
    let unbind = Change::Unbind(binding.clone()).encode(Request {
        node: 2,
        incarnation: 1,
        id: 1,
    });
    node.apply_payload(&unbind);
    node.apply(&Change::Bind(binding));
    let again = node.apply_payload(&unbind);
    assert!(
        matches!(
            again.as_slice(),
            [Effect::Answer {
                outcome: Outcome::Done,
                ..
            }]
        ),
        "{again:?}"
    );
    assert_eq!(node.picture().bindings("/").count(), 1);

    let declare = Change::DeclareQueue(declare("q")).encode(Request {
        node: 2,
        incarnation: 1,
        id: 5,
    });
    for _ in 0..2 {
        let answer = node.apply_payload(&declare);
        let [
            Effect::Answer {
                outcome: Outcome::Queue(again),
                ..
            },
        ] = answer.as_slice()
        else {
            panic!("{answer:?}")
        };
        assert_eq!(again.group, queue.group);
    }
    // An older run's requests come too late.
    let old = Change::DeleteQueue { group: queue.group };
    node.apply_payload(&old.encode(Request {
        node: 2,
        incarnation: 0,
        id: 9,
    }));
    assert!(node.picture().queue("/", "q").is_some());
    node.apply_payload(&old.encode(Request {
        node: 2,
        incarnation: 2,
        id: 1,
    }));
    assert!(node.picture().queue("/", "q").is_none());
}

#[test]
fn what_is_remembered_of_requests_is_bounded() {
    let mut requests = requests::Requests::default();
    let mut first = |id| {
        requests.first_time(Request {
            node: 1,
            incarnation: 1,
            id,
        })
    };
    // The first one got lost.
    assert!((2..=70_000).all(&mut first));
    assert!(!(2..=70_000).any(&mut first));
    assert!(!first(1), "too far behind");
    assert!(requests.nodes.iter().all(|(_, applied)| applied.ahead.len() <= 1 << 16));
}

#[test]
fn bytes_of_others_are_ignored() {
    let mut node = Node::bootstrapped();
    let before = node.machine.snapshot();
    for payload in [
        &b"\xFF\xFF\xFF"[..],
        b"\x05hello",
        b"\x80",
        b"\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\xFF\x01",
    ] {
        assert!(node.apply_payload(payload).is_empty());
    }
    // A command that this build does not know is answered.
    let answer = node.apply_payload(b"\x00");
    assert!(matches!(
        answer.as_slice(),
        [Effect::Answer {
            outcome: Outcome::Refused(Refusal::Malformed(_)),
            ..
        }]
    ));
    assert_eq!(node.machine.snapshot(), before);
}

#[test]
fn snapshots_are_cut_into_chunks_and_missing_ones_noticed() {
    let mut node = Node::bootstrapped();
    for n in 0..400 {
        let text: String = std::iter::repeat_n('x', 8_000).collect();
        let arguments = table([format!("comment={text}").as_str()]);
        node.apply(&Change::DeclareQueue(DeclareQueue {
            arguments,
            ..declare(&format!("q{n}"))
        }));
        node.apply(&Change::Bind(bind("amq.topic", to_queue(&format!("q{n}")), "a.#")));
    }
    let chunks = node.machine.snapshot();
    assert!(chunks.len() > 3, "{}", chunks.len());
    assert!(chunks.iter().all(|chunk| chunk.len() <= 1 << 20));
    let restored = node.restored();
    assert_eq!(restored.machine.snapshot(), chunks);
    let queues = restored
        .picture()
        .route("/", "amq.topic", &Arrival::by_key(&["a.b"]))
        .expect("an exchange");
    assert_eq!(queues.len(), 400);
    for missing in 0..chunks.len() {
        let mut some = chunks.clone();
        some.remove(missing);
        assert!(MetadataMachine::new().restore(&some).is_err());
    }
    let mut swapped = chunks;
    swapped.swap(0, 1);
    assert!(MetadataMachine::new().restore(&swapped).is_err());
    assert!(
        MetadataMachine::new()
            .restore(&[Bytes::from_static(b"\x05hello")])
            .is_err()
    );
    assert!(MetadataMachine::new().restore(&[]).is_err());
}

/// A client decides how long a chain of exchanges is that go one with the other.
#[test]
fn long_chains_end_without_recursion() {
    let mut node = Node::bootstrapped();
    let length = 5_000;
    for n in 0..length {
        let declare = exchange(&format!("x{n}"), "fanout");
        node.apply(&Change::DeclareExchange(DeclareExchange {
            auto_delete: true,
            ..declare
        }));
    }
    for n in 1..length {
        let destination = Destination::Exchange(format!("x{n}").into());
        node.apply(&Change::Bind(bind(&format!("x{}", n - 1), destination, "")));
    }
    node.apply(&Change::DeclareQueue(declare("q")));
    let last = Change::Bind(bind(&format!("x{}", length - 1), to_queue("q"), ""));
    node.apply(&last);
    assert_eq!(
        node.picture()
            .route("/", "x0", &Arrival::by_key(&["k"]))
            .map(|queues| queues.len()),
        Ok(1)
    );
    let group = node
        .picture()
        .queue("/", "q")
        .map(|queue| queue.group)
        .expect("declared");
    node.apply(&Change::DeleteQueue { group });
    assert_eq!(node.picture().exchanges("/").count(), 7);
    assert_eq!(node.picture().bindings("/").count(), 0);
}

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

#[test]
fn routing_version_changes_with_routes() {
    let mut node = Node::bootstrapped();
    let mut last = node.picture().routing_version();
    let mut check = |node: &mut Node, change: Change, expected: bool| {
        node.apply(&change);
        let version = node.picture().routing_version();
        assert_eq!(version > last, expected, "{change:?}");
        last = version;
    };
    check(&mut node, Change::DeclareQueue(declare("q")), true);
    check(&mut node, Change::DeclareQueue(declare("q")), false);
    check(&mut node, Change::DeclareExchange(exchange("x", "direct")), true);
    check(&mut node, Change::DeclareExchange(exchange("x", "direct")), false);
    check(&mut node, Change::Bind(bind("x", to_queue("q"), "k")), true);
    check(&mut node, Change::Bind(bind("x", to_queue("q"), "k")), false);
    check(&mut node, Change::Unbind(bind("x", to_queue("q"), "other")), false);
    check(&mut node, Change::Unbind(bind("x", to_queue("q"), "k")), true);
    check(&mut node, Change::SessionEnded { session: session(4) }, false);
    check(
        &mut node,
        Change::AddVhost(DescribeVhost {
            name: "v".into(),
            ..DescribeVhost::default()
        }),
        true,
    );
    check(&mut node, Change::DeleteVhost { name: "v".into() }, true);
}

#[test]
fn replicas_that_were_restored_are_told_what_they_missed() {
    let mut node = Node::bootstrapped();
    node.apply(&Change::DeclareQueue(declare("gone")));
    node.apply(&Change::DeclareQueue(declare("stays")));
    node.apply(&Change::Bind(bind("amq.fanout", to_queue("stays"), "")));
    let old = node.picture().clone();
    let group = old.queue("/", "gone").map(|queue| queue.group).expect("declared");
    node.apply(&Change::DeleteQueue { group });
    node.apply(&Change::DeclareQueue(declare("new")));
    node.apply(&Change::NodeUp {
        run: run(1, 2),
        name: String::new(),
        address: String::new(),
        directory: 0,
    });
    let mut effects = Vec::new();
    node.restored().picture().changes_since(&old, &mut effects);
    let told: Vec<_> = effects
        .iter()
        .filter_map(|effect| match effect {
            Effect::QueueDeleted(queue) => Some(format!("deleted {}", queue.name)),
            Effect::QueueDeclared(queue) => Some(format!("declared {}", queue.name)),
            Effect::Bound { binding, .. } => Some(format!("bound {}", binding.destination.name())),
            Effect::NodeUp(run) => Some(format!("up {}", run.incarnation)),
            Effect::NodeDown(run) => Some(format!("down {}", run.incarnation)),
            Effect::ExchangeDeclared(_) | Effect::ExchangeDeleted(_) => None,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, ["deleted gone", "down 1", "up 2", "bound stays", "declared new"]);
}

#[test]
fn readers_keep_the_picture_they_took() {
    let mut node = Node::bootstrapped();
    let view = View::new();
    assert!(!view.vhost_exists("/"));
    view.publish(node.picture().clone());
    let kept = view.picture();
    node.apply(&Change::DeclareQueue(declare("q")));
    assert!(view.queue("/", "q").is_none(), "not published yet");
    view.publish(node.picture().clone());
    let route = |vhost, exchange| view.picture().route(vhost, exchange, &Arrival::by_key(&["q"]));
    assert_eq!(route("/", "").map(|queues| queues.len()), Ok(1));
    assert!(kept.queue("/", "q").is_none());
    assert_eq!(route("/", "nope").err(), Some(NoExchange));
    assert_eq!(route("nope", "").err(), Some(NoExchange));
}

#[test]
fn several_keys_name_a_queue_once() {
    let mut node = Node::bootstrapped();
    for name in ["a", "b"] {
        node.apply(&Change::DeclareQueue(declare(name)));
        node.apply(&Change::Bind(bind("amq.direct", to_queue(name), "k")));
        node.apply(&Change::Bind(bind("amq.direct", to_queue(name), name)));
    }
    let route = |exchange, keys: &[&str]| {
        let queues = node
            .picture()
            .route("/", exchange, &Arrival::by_key(keys))
            .expect("an exchange");
        queues
            .iter()
            .map(|queue| queue.name.to_string())
            .collect::<Vec<_>>()
            .join(" ")
    };
    assert_eq!(route("amq.direct", &["k", "a", "zzz"]), "a b");
    assert_eq!(route("", &["b", "a", "b", "zzz"]), "a b");
    assert_eq!(route("", &[]), "");
}

fn delayed(name: &str) -> Change {
    let mut declare = exchange(name, "x-delayed-message");
    declare
        .arguments
        .insert("x-delayed-type", Value::LongStr("direct".into()));
    Change::DeclareExchange(declare)
}

/// The names of the queues that a message with that delay gets to now; those that hold it back in brackets.
fn routed_with_delay(node: &Node, exchange: &str, delay: Option<Value>) -> Vec<String> {
    let mut headers = Table::new();
    if let Some(delay) = delay {
        headers.insert("x-delay", delay);
    }
    let properties = Bytes::new();
    let arrival = Arrival {
        routing_keys: &["k"],
        headers: Some(&headers),
        properties: &properties,
        draw: 0,
    };
    let queues = node.picture().route("/", exchange, &arrival).expect("an exchange");
    let shown = queues.iter().map(|queue| match queue.is_delay {
        true => format!("({})", queue.name),
        false => queue.name.to_string(),
    });
    shown.collect()
}

#[test]
fn a_delayed_exchange_holds_back_what_has_a_delay() {
    let mut node = Node::bootstrapped();
    node.apply(&delayed("later"));
    node.apply(&Change::DeclareQueue(declare("q")));
    node.apply(&Change::Bind(bind("later", to_queue("q"), "k")));
    for delay in [Value::I8(1), Value::U32(u32::MAX), Value::I64(i64::MAX)] {
        assert_eq!(routed_with_delay(&node, "later", Some(delay)), ["(later)"]);
    }
    for none in [Value::I32(0), Value::I32(-5), Value::LongStr("5".into()), Value::Void] {
        assert_eq!(routed_with_delay(&node, "later", Some(none)), ["q"]);
    }
    assert_eq!(routed_with_delay(&node, "later", None), ["q"]);

    // Reached through another exchange, which has a target of its own.
    node.apply(&Change::DeclareExchange(exchange("front", "fanout")));
    node.apply(&Change::Bind(bind("front", Destination::Exchange("later".into()), "")));
    node.apply(&Change::DeclareQueue(declare("now")));
    node.apply(&Change::Bind(bind("front", to_queue("now"), "")));
    assert_eq!(
        routed_with_delay(&node, "front", Some(Value::I32(5))),
        ["(later)", "now"]
    );
    check_delays(&node, &["later"]);
}

/// No name leads to what holds the messages of these exchanges, which are all that there are.
fn check_delays(node: &Node, exchanges: &[&str]) {
    let picture = node.picture();
    let hidden = picture.all_queues().filter(|queue| queue.is_delay);
    let hidden: Vec<_> = hidden.map(|queue| queue.name.to_string()).collect();
    assert_eq!(hidden, exchanges);
    for name in exchanges {
        assert!(picture.queue("/", name).is_none());
        let group = picture.exchange("/", name).and_then(|exchange| exchange.delay_group());
        assert!(group.is_some_and(|group| picture.queue_by_group(group).is_some()));
    }
}

#[test]
fn what_an_exchange_delays_is_placed_and_goes_with_it() {
    let mut node = Node::bootstrapped();
    let effects = node.apply(&delayed("later"));
    let declared = |effect: &Effect| matches!(effect, Effect::QueueDeclared(queue) if queue.is_delay);
    assert!(effects.iter().any(declared));
    let group = node.picture().exchange("/", "later").expect("declared").id;

    // Nobody deletes it by itself, and it moves like any queue.
    node.apply(&Change::DeleteQueue { group });
    check_delays(&node, &["later"]);
    node.apply(&Change::PlaceQueue {
        group,
        replicas: vec![2, 3],
        leader: 3,
    });
    check_delays(&node, &["later"]);
    let restored = node.restored();
    check_delays(&restored, &["later"]);
    let placed = restored.picture().queue_by_group(group).expect("placed").clone();
    assert_eq!((placed.wanted(), placed.replicas()), (&[2, 3][..], &[1, 2, 3][..]));
    let era = placed.moves().expect("a move that is to be carried out");
    node.apply(&Change::QueueMoved { group, era });
    check_delays(&node, &["later"]);
    let placed = node.restored().picture().queue_by_group(group).expect("placed").clone();
    assert_eq!((placed.replicas(), placed.preferred_leader()), (&[2, 3][..], 3));

    // A queue of the same name is another thing.
    node.apply(&Change::DeclareQueue(declare("later")));
    let queue = node.picture().queue("/", "later").expect("declared").group;
    assert_ne!(queue, group);
    let effects = node.apply(&Change::DeleteExchange(DeleteExchange {
        vhost: "/".into(),
        name: "later".into(),
        if_unused: false,
    }));
    let deleted = |effect: &Effect| matches!(effect, Effect::QueueDeleted(queue) if queue.group == group);
    assert!(effects.iter().any(deleted));
    check_delays(&node, &[]);
    assert!(node.picture().queue("/", "later").is_some());

    node.apply(&delayed("later"));
    let effects = node.apply(&Change::DeleteVhost { name: "/".into() });
    let ended = effects
        .iter()
        .filter(|effect| matches!(effect, Effect::QueueDeleted(_)));
    assert_eq!(ended.count(), 2);
    assert_eq!(node.picture().all_queues().count(), 0);
}

#[test]
fn a_delayed_exchange_needs_a_type_and_replicas() {
    let mut node = Node::bootstrapped();
    let with_type = |value: Option<&str>| {
        let mut declare = exchange("later", "x-delayed-message");
        if let Some(value) = value {
            let value = Value::LongStr(Bytes::copy_from_slice(value.as_bytes()));
            declare.arguments.insert("x-delayed-type", value);
        }
        declare
    };
    for (kind, text) in [
        (
            None,
            "Invalid argument, 'x-delayed-type' must be an existing exchange type",
        ),
        (Some("nope"), "unknown exchange type 'nope'"),
        (
            Some("x-delayed-message"),
            "Invalid argument, 'x-delayed-message' can't be used for 'x-delayed-type'",
        ),
    ] {
        let refusal = node.refused(&Change::DeclareExchange(with_type(kind)));
        assert_eq!(
            refusal.fault(),
            (crate::amqp::ReplyCode::PreconditionFailed, text.to_owned())
        );
    }
    let homeless = DeclareExchange {
        delays: None,
        ..with_type(Some("topic"))
    };
    node.refused(&Change::DeclareExchange(homeless));
    node.apply(&Change::DeclareExchange(with_type(Some("topic"))));
    let pattern = bind("later", to_queue("q"), "#.#.#");
    node.apply(&Change::DeclareQueue(declare("q")));
    assert!(
        node.refused(&Change::Bind(pattern)).to_string().contains("wildcards"),
        "bindings are those of its own type"
    );
}

#[actix::test]
async fn exchange_actors_publish_what_they_are_told() {
    use crate::exchange::actor::{Describe, ExchangeActor, Update};

    let mut node = Node::bootstrapped();
    node.apply(&Change::DeclareQueue(declare("q")));
    let mut machine = node.machine.clone();
    let exchange = machine
        .picture()
        .exchange("/", "amq.topic")
        .expect("predeclared")
        .clone();
    let actor = ExchangeActor::start(&actix::Arbiter::current(), exchange.clone());
    let mut updates = |change: Change| {
        node.index += 1;
        let meta = Meta {
            index: node.index,
            ..Meta::default()
        };
        let mut effects = Vec::new();
        machine.apply(&meta, &change.encode(Request::default()), &mut effects);
        let updates: Vec<_> = effects
            .into_iter()
            .filter_map(|effect| match effect {
                Effect::Bound { binding, .. } => Some(Update::Bound(binding)),
                Effect::Unbound { binding, .. } => Some(Update::Unbound(binding)),
                _ => None,
            })
            .collect();
        (updates, machine.picture().clone())
    };
    let binding = bind("amq.topic", to_queue("q"), "a.#");
    for (change, bindings) in [(Change::Bind(binding.clone()), 1), (Change::Unbind(binding), 0)] {
        let (updates, picture) = updates(change);
        for update in updates {
            actor.send(update).await.expect("the actor runs");
        }
        let routed = picture
            .route("/", "amq.topic", &Arrival::by_key(&["a.b"]))
            .expect("an exchange");
        assert_eq!(routed.len(), bindings);
        let description = actor.send(Describe).await.expect("the actor runs");
        assert_eq!(description.bindings, bindings);
        assert_eq!(description.exchange.id, exchange.id);
    }
}
