use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

use bytes::Bytes;
use warren_cluster::machine::{Machine as _, Meta};
use warren_cluster::version;
use warren_proto::record::SessionId;

use super::*;
use crate::amqp::{Table, Value};
use crate::auth::{Algorithm, PasswordHash};
use crate::exchange::tests::table;
use crate::exchange::{Arrival, Matcher, Target};

mod cases;
mod delays;
mod nodes;
mod orphans;
mod placements;
mod properties;
mod versions;

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
            version: version::LATEST,
            sessions_from: 0,
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
            version: version::LATEST,
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
fn a_protected_vhost_cannot_be_deleted() {
    let mut node = Node::bootstrapped();
    let describe = |is_protected| DescribeVhost {
        name: "v".into(),
        is_protected,
        ..DescribeVhost::default()
    };
    assert_eq!(Change::SetVhost(describe(false)).since(), version::FIRST);
    assert_eq!(Change::SetVhost(describe(true)).since(), 3);
    let delete = Change::DeleteVhost { name: "v".into() };
    node.apply(&Change::AddVhost(describe(false)));
    node.apply(&Change::RaiseVersion {
        version: version::LATEST,
        nodes: vec![run(1, 1)],
    });
    node.apply(&Change::SetVhost(describe(true)));
    assert_eq!(node.refused(&delete), Refusal::VhostProtected);
    let mut node = node.restored();
    assert_eq!(node.refused(&delete), Refusal::VhostProtected);
    node.apply(&Change::SetVhost(describe(false)));
    node.apply(&delete);
    assert!(node.picture().vhost("v").is_none());
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
        version: version::LATEST,
        sessions_from: 0,
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
            Effect::ExchangeDeclared(_) | Effect::ExchangeDeleted(_) | Effect::NodesChanged => None,
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(told, ["deleted gone", "down 1", "up 2", "bound stays", "declared new"]);
}

#[test]
fn sessions_that_ended_before_a_run_came_back_are_remembered_as_long_as_it_lasts() {
    let mut node = Node::bootstrapped();
    let mut up = |incarnation, sessions_from| {
        let effects = node.apply(&Change::NodeUp {
            run: run(1, incarnation),
            name: String::new(),
            address: String::new(),
            directory: 0,
            version: version::LATEST,
            sessions_from,
        });
        let known = |picture: &Picture| {
            picture
                .nodes()
                .find(|(id, _)| *id == 1)
                .map(|(_, node)| node.sessions_from)
        };
        let restored = known(node.restored().picture());
        assert_eq!(restored, known(node.picture()));
        let is_told = effects.iter().any(|effect| matches!(effect, Effect::NodeUp(_)));
        (restored.expect("it is up"), is_told)
    };
    assert_eq!(up(5, 0), (0, true));
    assert_eq!(
        up(5, 7),
        (7, true),
        "the run is known, and those of its sessions are not"
    );
    assert_eq!(up(5, 0), (7, false), "an earlier announcement that arrives again");
    assert_eq!(up(6, 0), (0, true));
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
            version: version::LATEST,
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
