//! Policies, limits, topic permissions and parameters as the log holds them.

use warren_proto::metadata as proto;

use crate::metadata::change::{Parameter, SetTopicPermission};
use crate::metadata::limits::Limits;
use crate::metadata::policy::{ApplyTo, SetPolicy};
use crate::metadata::refusal::Refusal;

impl TryFrom<proto::Policy> for SetPolicy {
    type Error = Refusal;

    fn try_from(wire: proto::Policy) -> Result<Self, Refusal> {
        Ok(Self {
            vhost: wire.vhost.into(),
            name: wire.name,
            operator: wire.operator,
            pattern: wire.pattern,
            apply_to: ApplyTo::from_name(&wire.apply_to)
                .ok_or(Refusal::Malformed("a policy for what this build does not know"))?,
            priority: wire.priority,
            definition: serde_json::from_str(&wire.definition)
                .map_err(|_| Refusal::Malformed("a policy's definition is no JSON object"))?,
        })
    }
}

impl From<&SetPolicy> for proto::Policy {
    fn from(set: &SetPolicy) -> Self {
        Self {
            vhost: (&set.vhost).into(),
            name: set.name.clone(),
            operator: set.operator,
            pattern: set.pattern.clone(),
            apply_to: set.apply_to.name().to_owned(),
            priority: set.priority,
            definition: serde_json::Value::Object(set.definition.clone()).to_string(),
        }
    }
}

pub(in crate::metadata) fn limits(wire: Vec<proto::Limit>) -> Limits {
    wire.into_iter().map(|limit| (limit.name, limit.value)).collect()
}

pub(in crate::metadata) fn limits_to_proto(limits: &Limits) -> Vec<proto::Limit> {
    let limit = |(name, value): (&String, &i64)| proto::Limit {
        name: name.clone(),
        value: *value,
    };
    limits.0.iter().map(limit).collect()
}

impl From<proto::TopicPermission> for SetTopicPermission {
    fn from(wire: proto::TopicPermission) -> Self {
        Self {
            user: wire.user.into(),
            vhost: wire.vhost.into(),
            exchange: wire.exchange.into(),
            write: wire.write,
            read: wire.read,
        }
    }
}

impl From<&SetTopicPermission> for proto::TopicPermission {
    fn from(set: &SetTopicPermission) -> Self {
        Self {
            user: (&set.user).into(),
            vhost: (&set.vhost).into(),
            exchange: (&set.exchange).into(),
            write: set.write.clone(),
            read: set.read.clone(),
        }
    }
}

impl From<proto::Parameter> for Parameter {
    fn from(wire: proto::Parameter) -> Self {
        Self {
            vhost: wire.vhost.into(),
            component: wire.component,
            name: wire.name,
            value: wire.value,
        }
    }
}

impl From<&Parameter> for proto::Parameter {
    fn from(parameter: &Parameter) -> Self {
        Self {
            vhost: (&parameter.vhost).into(),
            component: parameter.component.clone(),
            name: parameter.name.clone(),
            value: parameter.value.clone(),
        }
    }
}
