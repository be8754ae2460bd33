use serde_json::json;
use warren_cluster::machine::{Machine as _, Meta};

use super::*;
use crate::auth::{Algorithm, PasswordHash};
use crate::metadata::{AddUser, Bootstrap, Effect, MetadataMachine, Picture, Request};

const HOME: Run = Run {
    node: 1,
    incarnation: 1,
};

/// The metadata of a new cluster, and what happens to them.
struct World {
    machine: MetadataMachine,
    index: u64,
}

impl World {
    fn new() -> Self {
        let mut world = Self {
            machine: MetadataMachine::new(),
            index: 0,
        };
        world.apply(&Change::Bootstrap(Bootstrap {
            cluster_id: "c".into(),
            vhost: "/".into(),
            user: AddUser {
                name: "guest".into(),
                password: Some(PasswordHash::new(Algorithm::Sha256, [1, 2, 3, 4], b"guest")),
                tags: vec!["administrator".into()],
            },
        }));
        world
    }

    fn picture(&self) -> &Picture {
        self.machine.picture()
    }

    fn apply(&mut self, change: &Change) {
        self.index += 1;
        let meta = Meta {
            index: self.index,
            version: warren_cluster::version::LATEST,
            ..Meta::default()
        };
        let mut effects = Vec::new();
        self.machine
            .apply(&meta, &change.encode(Request::default()), &mut effects);
        let refused = effects.iter().find_map(|effect| match effect {
            Effect::Answer {
                outcome: Outcome::Refused(refusal),
                ..
            } => Some(refusal),
            _ => None,
        });
        assert_eq!(refused, None, "{change:?}");
    }

    fn plan(&self, document: &Value, vhost: Option<&str>) -> Result<Vec<Change>, String> {
        let target = Target {
            vhost,
            home: HOME,
            members: &[1, 2, 3],
            group_size: 3,
        };
        let stages = Importer::plan(self.picture(), document, &target)?;
        Ok(stages.into_iter().flatten().map(|staged| staged.change).collect())
    }

    fn import(&mut self, document: &Value, vhost: Option<&str>) -> usize {
        let changes = self.plan(document, vhost).expect("every entry does");
        changes.iter().for_each(|change| self.apply(change));
        changes.len()
    }
}

fn document() -> Value {
    json!({
        "users": [
            {"name": "u", "password_hash": "AQIDBDgk9ci8Lfh6CKE9Y0AUfmU=", "hashing_algorithm": "rabbit_password_hashing_md5",
             "tags": "monitoring, own", "limits": {"max-channels": 7}},
            {"name": "certificate", "password_hash": "", "tags": []},
        ],
        "vhosts": [{"name": "v", "description": "one", "tags": ["t"], "limits": [{"name": "max-queues", "value": 9}],
                    "metadata": {"description": "two", "tags": ["s"], "default_queue_type": "quorum"}}],
        "permissions": [{"user": "u", "vhost": "v", "configure": "c", "write": "w", "read": "r"}],
        "topic_permissions": [{"user": "u", "vhost": "v", "exchange": "x", "write": "w", "read": "r"}],
        "global_parameters": [{"name": "g", "value": {"k": [1]}}],
        "parameters": [
            {"vhost": "v", "component": "operator_policy", "name": "o",
             "value": {"pattern": "", "apply-to": "queues", "definition": {"max-length": 3}, "priority": 2}},
            {"vhost": "v", "component": "shovel", "name": "s", "value": "kept"},
        ],
        "policies": [{"vhost": "v", "name": "p", "pattern": "^q", "apply-to": "all",
                      "definition": {"max-length": 5, "ha-mode": "all"}, "priority": 1}],
        "exchanges": [{"vhost": "v", "name": "x", "type": "topic", "durable": true, "auto_delete": false,
                       "internal": false, "arguments": {"alternate-exchange": "y"}},
                      {"vhost": "v", "name": "amq.fanout", "type": "fanout", "arguments": {}}],
        "queues": [{"vhost": "v", "name": "q", "type": "quorum", "durable": true, "auto_delete": false,
                    "arguments": {"x-max-length": 10, "x-unknown": [true, null, 1.5, {"a": "b"}]}},
                   {"vhost": "v", "name": "gone", "durable": false, "auto_delete": true, "arguments": []}],
        "bindings": [
            {"vhost": "v", "source": "x", "destination": "q", "destination_type": "queue", "routing_key": "#",
             "arguments": {}},
            {"vhost": "v", "source": "amq.fanout", "destination": "x", "destination_type": "exchange",
             "routing_key": "", "arguments": {}},
            {"vhost": "v", "source": "", "destination": "q", "destination_type": "queue", "routing_key": "q"},
        ],
    })
}

#[test]
fn what_was_exported_makes_the_same_again() {
    let mut world = World::new();
    assert!(world.import(&document(), None) > 10);
    let queue = world.picture().queue("v", "q").expect("it was imported");
    assert_eq!(queue.settings.len_max, Some(3));
    assert_eq!(queue.kind, crate::metadata::Kind::Quorum);
    let exported = export::cluster(world.picture(), "name");
    for section in [
        "users",
        "vhosts",
        "permissions",
        "topic_permissions",
        "policies",
        "queues",
        "bindings",
    ] {
        assert!(
            exported[section].as_array().is_some_and(|entries| !entries.is_empty()),
            "{section}"
        );
    }
    let mut other = World::new();
    other.import(&exported, None);
    assert_eq!(export::cluster(other.picture(), "name"), exported);
    // Once more there is nothing to change but what cannot be compared.
    let again = other.plan(&exported, None).expect("every entry does");
    assert!(
        again.iter().all(|change| matches!(
            change,
            Change::SetParameter(_)
                | Change::SetTopicPermission(_)
                | Change::SetVhostLimits { .. }
                | Change::SetUserLimits { .. }
        )),
        "{again:?}"
    );
}

#[test]
fn one_vhost_moves_into_another() {
    let mut world = World::new();
    world.import(&document(), None);
    let exported = export::vhost(world.picture(), "v");
    assert!(exported.get("users").is_none());
    assert_eq!(
        world
            .plan(&exported, None)
            .map(|_| ())
            .map_err(|error| error.contains("names no virtual host")),
        Err(true)
    );
    let mut other = World::new();
    other.import(&exported, Some("/"));
    assert!(other.picture().queue("/", "q").is_some());
    assert_eq!(other.picture().bindings("/").count(), 2);
    assert_eq!(other.picture().policies("/", true).count(), 1);
}

#[test]
fn what_is_there_stays() {
    let mut world = World::new();
    world.import(&document(), None);
    let before = world.picture().queue("v", "q").expect("it was imported").group;
    let changed = json!({
        "queues": [{"vhost": "v", "name": "q", "type": "classic", "arguments": {"x-max-length": 99}}],
        "exchanges": [{"vhost": "v", "name": "x", "type": "fanout", "arguments": {}}],
        "users": [{"name": "u", "password_hash": "", "tags": ["new"]}],
    });
    world.import(&changed, None);
    let picture = world.picture();
    let queue = picture.queue("v", "q").expect("it stays");
    assert_eq!((queue.group, queue.kind), (before, crate::metadata::Kind::Quorum));
    assert_eq!(
        picture.exchange("v", "x").map(|exchange| exchange.kind.name()),
        Some("topic")
    );
    let user = picture.user("u").expect("it stays");
    assert_eq!(
        (user.tags.as_slice(), user.password.as_ref()),
        (&["new".to_owned()][..], None)
    );
}

#[test]
fn a_fault_names_its_entry() {
    let world = World::new();
    for (document, expected) in [
        (json!([]), "the definitions are no JSON object"),
        (json!({"queues": 3}), "queues must be a list"),
        (json!({"queues": [3]}), "queues[0] must be an object"),
        (
            json!({"queues": [{"name": "q", "vhost": "/", "durable": "yes"}]}),
            "queues[0] 'q': durable must be true or false, not \"yes\"",
        ),
        (
            json!({"queues": [{"name": "q", "vhost": "/", "arguments": {"x-message-ttl": -1}}]}),
            "queues[0] 'q': invalid arg 'x-message-ttl' for queue 'q' in vhost '/': {value_negative,-1}",
        ),
        (
            json!({"users": [{"name": "u", "hashing_algorithm": "crc"}]}),
            "users[0] 'u': unknown hashing_algorithm 'crc'",
        ),
        (
            json!({"permissions": [{"user": "guest", "vhost": "/", "configure": "(", "write": "", "read": ""}]}),
            "permissions[0] 'guest': invalid regular expression '('",
        ),
        (
            json!({"bindings": [{"source": "amq.topic", "vhost": "/", "destination": "q"}]}),
            "bindings[0] 'amq.topic': no queue 'q' in vhost '/'",
        ),
        (
            json!({"policies": [{"vhost": "/", "name": "p", "pattern": "", "definition": {}}]}),
            "policies[0] 'p': Validation failed\n\nno policy provided",
        ),
        (
            json!({"vhosts": [{"name": "v", "limits": {"max-queues": "many"}}]}),
            "vhosts[0] 'v': the limit max-queues must be an integer, not \"many\"",
        ),
    ] {
        assert_eq!(world.plan(&document, None), Err(expected.to_owned()));
    }
}
