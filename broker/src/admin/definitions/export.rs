//! The document of what there is. Exclusive queues, and exchanges that every vhost has, are not in it.

use serde_json::{Map, Value, json};

use super::arguments::to_json;
use crate::metadata::{Access, Binding, Exchange, Picture, Policy, Queue};

/// The version of RabbitMQ whose form it is.
const FORMAT_VERSION: &str = "4.3.0";
const EXPLANATION: &str = "Definitions of a Warren cluster, in the form of RabbitMQ's. Passwords are salted hashes.";

/// Everything.
pub(super) fn cluster(picture: &Picture, name: &str) -> Value {
    let vhosts: Vec<&str> = picture.vhosts().map(|vhost| vhost.name.as_str()).collect();
    let all = |of: fn(&Picture, &str) -> Vec<Value>| -> Vec<Value> {
        vhosts
            .iter()
            .flat_map(|vhost| in_vhost(of(picture, vhost), vhost))
            .collect()
    };
    let permissions = picture.permissions().map(|(user, vhost, permission)| {
        json!({
            "user": user.as_str(),
            "vhost": vhost.as_str(),
            "configure": permission.text(Access::Configure),
            "write": permission.text(Access::Write),
            "read": permission.text(Access::Read),
        })
    });
    let global = picture
        .parameters()
        .filter(|(vhost, component, ..)| vhost.is_empty() && component.is_empty())
        .map(|(_, _, name, value)| json!({"name": name, "value": parsed(value)}));
    json!({
        "rabbit_version": FORMAT_VERSION,
        "rabbitmq_version": FORMAT_VERSION,
        "product_name": "Warren",
        "product_version": env!("CARGO_PKG_VERSION"),
        "rabbitmq_definition_format": "cluster",
        "original_cluster_name": name,
        "explanation": EXPLANATION,
        "users": users(picture),
        "vhosts": described_vhosts(picture),
        "permissions": permissions.collect::<Vec<_>>(),
        "topic_permissions": topic_permissions(picture),
        "parameters": all(parameters),
        "global_parameters": global.collect::<Vec<_>>(),
        "policies": all(policies),
        "queues": all(queues),
        "exchanges": all(exchanges),
        "bindings": all(bindings),
    })
}

/// What one vhost holds, to be put into any vhost.
pub(super) fn vhost(picture: &Picture, vhost: &str) -> Value {
    json!({
        "rabbit_version": FORMAT_VERSION,
        "rabbitmq_version": FORMAT_VERSION,
        "product_name": "Warren",
        "product_version": env!("CARGO_PKG_VERSION"),
        "rabbitmq_definition_format": "single_virtual_host",
        "original_vhost_name": vhost,
        "explanation": EXPLANATION,
        "parameters": parameters(picture, vhost),
        "policies": policies(picture, vhost),
        "queues": queues(picture, vhost),
        "exchanges": exchanges(picture, vhost),
        "bindings": bindings(picture, vhost),
    })
}

fn in_vhost(entries: Vec<Value>, vhost: &str) -> impl Iterator<Item = Value> + use<> {
    let vhost = vhost.to_owned();
    entries.into_iter().map(move |mut entry| {
        entry["vhost"] = json!(vhost);
        entry
    })
}

fn parsed(value: &str) -> Value {
    serde_json::from_str(value).unwrap_or_default()
}

fn users(picture: &Picture) -> Vec<Value> {
    let row = |user: &std::sync::Arc<crate::metadata::User>| {
        let algorithm = user.password.as_ref().map(|hash| hash.algorithm()).unwrap_or_default();
        json!({
            "name": user.name.as_str(),
            "password_hash": user.password.as_ref().map(|hash| hash.to_base64()).unwrap_or_default(),
            "hashing_algorithm": algorithm.name(),
            "tags": user.tags,
            "limits": user.limits.0,
        })
    };
    picture.users().map(row).collect()
}

fn described_vhosts(picture: &Picture) -> Vec<Value> {
    let row = |vhost: &std::sync::Arc<crate::metadata::Vhost>| {
        let mut metadata = Map::from_iter([
            ("description".to_owned(), json!(vhost.description)),
            ("tags".to_owned(), json!(vhost.tags)),
        ]);
        if !vhost.default_queue_type.is_empty() {
            metadata.insert("default_queue_type".to_owned(), json!(vhost.default_queue_type));
        }
        if vhost.is_protected {
            metadata.insert("protected_from_deletion".to_owned(), json!(true));
        }
        let limit = |(name, value): (&String, &i64)| json!({"name": name, "value": value});
        json!({
            "name": vhost.name.as_str(),
            "description": vhost.description,
            "tags": vhost.tags,
            "limits": vhost.limits.0.iter().map(limit).collect::<Vec<_>>(),
            "metadata": metadata,
        })
    };
    picture.vhosts().map(row).collect()
}

fn topic_permissions(picture: &Picture) -> Vec<Value> {
    let mut rows = Vec::new();
    for (user, vhost, permissions) in picture.all_topic_permissions() {
        rows.extend(permissions.iter().map(|(exchange, permission)| {
            json!({
                "user": user.as_str(),
                "vhost": vhost.as_str(),
                "exchange": exchange.as_str(),
                "write": permission.text(Access::Write),
                "read": permission.text(Access::Read),
            })
        }));
    }
    rows
}

/// Operators' policies and a vhost's limits are parameters here.
fn parameters(picture: &Picture, vhost: &str) -> Vec<Value> {
    let own = picture.parameters().filter(|(of, ..)| *of == vhost);
    let own =
        own.map(|(_, component, name, value)| json!({"component": component, "name": name, "value": parsed(value)}));
    let operators = picture.policies(vhost, true).map(|policy| {
        json!({
            "component": "operator_policy",
            "name": policy.set.name,
            "value": {
                "pattern": policy.set.pattern,
                "apply-to": policy.set.apply_to.name(),
                "definition": policy.set.definition,
                "priority": policy.set.priority,
            },
        })
    });
    let limits = picture.vhost(vhost).filter(|vhost| !vhost.limits.0.is_empty());
    let limits = limits.map(|vhost| json!({"component": "vhost-limits", "name": "limits", "value": vhost.limits.0}));
    own.chain(operators).chain(limits).collect()
}

fn policies(picture: &Picture, vhost: &str) -> Vec<Value> {
    let row = |policy: &std::sync::Arc<Policy>| {
        json!({
            "name": policy.set.name,
            "pattern": policy.set.pattern,
            "apply-to": policy.set.apply_to.name(),
            "definition": policy.set.definition,
            "priority": policy.set.priority,
        })
    };
    picture.policies(vhost, false).map(row).collect()
}

fn queues(picture: &Picture, vhost: &str) -> Vec<Value> {
    let row = |queue: &std::sync::Arc<Queue>| {
        json!({
            "name": queue.name.as_str(),
            "type": queue.kind.name(),
            "durable": queue.durable,
            "auto_delete": queue.auto_delete,
            "arguments": to_json(&queue.arguments),
        })
    };
    let shared = picture.queues(vhost).filter(|queue| queue.exclusive_owner.is_none());
    shared.map(row).collect()
}

fn exchanges(picture: &Picture, vhost: &str) -> Vec<Value> {
    let row = |exchange: &std::sync::Arc<Exchange>| {
        json!({
            "name": exchange.name.as_str(),
            "type": exchange.kind.name(),
            "durable": exchange.durable,
            "auto_delete": exchange.auto_delete,
            "internal": exchange.internal,
            "arguments": to_json(&exchange.arguments),
        })
    };
    let own = |exchange: &&std::sync::Arc<Exchange>| !exchange.name.is_empty() && !exchange.name.starts_with("amq.");
    picture.exchanges(vhost).filter(own).map(row).collect()
}

fn bindings(picture: &Picture, vhost: &str) -> Vec<Value> {
    let row = |binding: &std::sync::Arc<Binding>| {
        json!({
            "source": binding.source.as_str(),
            "destination": binding.destination.name(),
            "destination_type": binding.destination.kind(),
            "routing_key": binding.routing_key.as_str(),
            "arguments": to_json(&binding.arguments),
        })
    };
    let to_shared = |binding: &&std::sync::Arc<Binding>| match &binding.destination {
        crate::metadata::Destination::Queue(name) => picture
            .queue(vhost, name)
            .is_some_and(|queue| queue.exclusive_owner.is_none()),
        crate::metadata::Destination::Exchange(_) => true,
    };
    picture.bindings(vhost).filter(to_shared).map(row).collect()
}
