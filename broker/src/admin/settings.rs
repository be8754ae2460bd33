//! Policies, limits, topic permissions, parameters and vhosts' descriptions: set, cleared and listed.

use serde_json::Value;

use super::protocol::{ParameterRow, PolicyRow, Request, TopicPermissionRow, UserLimitsRow, VhostLimitsRow, status};
use super::{Failure, Inner, json};
use crate::metadata::{
    Access, ApplyTo, Change, DescribeVhost, Limits, Parameter, SetPolicy, SetTopicPermission, TopicPermission,
    USER_LIMITS, VHOST_LIMITS,
};
use crate::name::{UserName, VhostName};

impl Inner {
    /// The change that the call asks for; `None` if it is no call of this module.
    pub(super) fn setting(&self, request: Request) -> Result<Option<Change>, Failure> {
        Ok(Some(match request {
            Request::SetPolicy {
                vhost,
                name,
                operator,
                pattern,
                apply_to,
                priority,
                definition,
            } => {
                let definition = match document(&definition)? {
                    Value::Object(definition) => definition,
                    other => return Err(invalid(format!("definition must be a dictionary: {other}"))),
                };
                let apply_to =
                    ApplyTo::from_name(&apply_to).ok_or_else(|| invalid(ApplyTo::unrecognised(&apply_to)))?;
                let set = SetPolicy {
                    vhost: self.known_vhost(&vhost)?,
                    name,
                    operator,
                    pattern,
                    apply_to,
                    priority,
                    definition,
                };
                set.check()
                    .map_err(|refusal| Failure::new(status::SOFTWARE, refusal.to_string()))?;
                Change::SetPolicy(set)
            }
            Request::ClearPolicy { vhost, name, operator } => Change::ClearPolicy {
                vhost: self.known_vhost(&vhost)?,
                name,
                operator,
            },
            Request::SetVhostLimits { vhost, limits } => Change::SetVhostLimits {
                vhost: self.known_vhost(&vhost)?,
                limits: limits_of(&limits, VHOST_LIMITS)?,
            },
            Request::SetUserLimits { user, limits } => {
                let mut all = self.known_limits(&user)?;
                all.0.extend(limits_of(&limits, USER_LIMITS)?.0);
                Change::SetUserLimits {
                    user: user.into(),
                    limits: all,
                }
            }
            Request::ClearUserLimits { user, limit } => {
                let mut limits = self.known_limits(&user)?;
                limits.0.retain(|name, _| limit != "all" && *name != limit);
                Change::SetUserLimits {
                    user: user.into(),
                    limits,
                }
            }
            Request::SetTopicPermissions {
                vhost,
                user,
                exchange,
                write,
                read,
            } => {
                TopicPermission::new(&user, &vhost, &write, &read)
                    .check()
                    .map_err(|refusal| Failure::new(status::DATA, refusal.to_string()))?;
                Change::SetTopicPermission(SetTopicPermission {
                    user: user.into(),
                    vhost: self.known_vhost(&vhost)?,
                    exchange: exchange.into(),
                    write,
                    read,
                })
            }
            Request::ClearTopicPermissions { vhost, user, exchange } => Change::ClearTopicPermission {
                user: user.into(),
                vhost: self.known_vhost(&vhost)?,
                exchange: exchange.map(Into::into),
            },
            Request::UpdateVhost {
                vhost,
                description,
                tags,
                default_queue_type,
                protected,
            } => {
                let known = self.view.vhost(&vhost).ok_or_else(|| no_vhost(&vhost))?;
                let default_queue_type = default_queue_type.unwrap_or_else(|| known.default_queue_type.clone());
                check_queue_type(&default_queue_type)?;
                Change::SetVhost(DescribeVhost {
                    name: known.name.clone(),
                    description: description.unwrap_or_else(|| known.description.clone()),
                    tags: tags.unwrap_or_else(|| known.tags.clone()),
                    default_queue_type,
                    is_protected: protected.unwrap_or(known.is_protected),
                })
            }
            Request::SetParameter {
                vhost,
                component,
                name,
                value,
            } => Change::SetParameter(Parameter {
                vhost: vhost.into(),
                component,
                name,
                value: document(&value)?.to_string(),
            }),
            Request::ClearParameter { vhost, component, name } => Change::ClearParameter {
                vhost: vhost.into(),
                component,
                name,
            },
            _ => return Ok(None),
        }))
    }

    fn known_vhost(&self, vhost: &str) -> Result<VhostName, Failure> {
        let known = self.view.vhost(vhost);
        known.map(|vhost| vhost.name.clone()).ok_or_else(|| no_vhost(vhost))
    }

    fn known_limits(&self, user: &str) -> Result<Limits, Failure> {
        let known = self.view.user(user);
        known.map(|user| user.limits.clone()).ok_or_else(|| {
            let refusal = crate::metadata::Refusal::NoUser(UserName::from(user));
            Failure::new(status::NO_USER, refusal.to_string())
        })
    }

    pub(super) fn list_policies(&self, vhost: &str, operator: bool) -> Vec<String> {
        let picture = self.view.picture();
        let row = |policy: &std::sync::Arc<crate::metadata::Policy>| PolicyRow {
            vhost: vhost.to_owned(),
            name: policy.set.name.clone(),
            pattern: policy.set.pattern.clone(),
            apply_to: policy.set.apply_to.name().to_owned(),
            definition: policy.set.definition.clone(),
            priority: policy.set.priority,
        };
        let mut rows: Vec<PolicyRow> = picture.policies(vhost, operator).map(row).collect();
        rows.sort_by_key(|row| row.priority);
        rows.iter().map(json).collect()
    }

    pub(super) fn list_vhost_limits(&self, vhost: Option<&str>) -> Vec<String> {
        let picture = self.view.picture();
        let wanted = |name: &str| vhost.is_none_or(|vhost| vhost == name);
        let vhosts = picture.vhosts().filter(|vhost| wanted(&vhost.name));
        let rows = vhosts.map(|vhost| VhostLimitsRow {
            vhost: vhost.name.to_string(),
            limits: vhost.limits.0.clone(),
        });
        rows.filter(|row| vhost.is_some() || !row.limits.is_empty())
            .map(|row| json(&row))
            .collect()
    }

    pub(super) fn list_user_limits(&self, user: Option<&str>) -> Vec<String> {
        let picture = self.view.picture();
        let wanted = |name: &str| user.is_none_or(|user| user == name);
        let users = picture.users().filter(|user| wanted(&user.name));
        let rows = users.map(|user| UserLimitsRow {
            user: user.name.to_string(),
            limits: user.limits.0.clone(),
        });
        rows.filter(|row| user.is_some() || !row.limits.is_empty())
            .map(|row| json(&row))
            .collect()
    }

    /// Rows whose user and vhost `wanted` accepts.
    pub(super) fn list_topic_permissions(&self, wanted: impl Fn(&str, &str) -> bool) -> Vec<String> {
        let picture = self.view.picture();
        let mut rows = Vec::new();
        for (user, vhost, permissions) in picture.all_topic_permissions() {
            if !wanted(user, vhost) {
                continue;
            }
            rows.extend(permissions.iter().map(|(exchange, permission)| {
                json(&TopicPermissionRow {
                    user: user.to_string(),
                    vhost: vhost.to_string(),
                    exchange: exchange.to_string(),
                    write: permission.text(Access::Write).to_owned(),
                    read: permission.text(Access::Read).to_owned(),
                })
            }));
        }
        rows
    }

    pub(super) fn list_parameters(&self, vhost: &str) -> Vec<String> {
        let picture = self.view.picture();
        let rows = picture.parameters().filter(|(of, ..)| *of == vhost);
        let rows = rows.map(|(_, component, name, value)| ParameterRow {
            component: component.to_owned(),
            name: name.to_owned(),
            value: serde_json::from_str(value).unwrap_or_default(),
        });
        rows.map(|row| json(&row)).collect()
    }
}

/// What a vhost may name as the type of queues that name none.
pub(super) fn check_queue_type(name: &str) -> Result<(), Failure> {
    if name.is_empty() || crate::metadata::Kind::from_name(name).is_some() {
        return Ok(());
    }
    Err(Failure::new(
        status::DATA,
        format!("unsupported queue type '{name}': there are classic, quorum and stream"),
    ))
}

fn document(text: &str) -> Result<Value, Failure> {
    serde_json::from_str(text)
        .map_err(|error| Failure::new(status::DATA, format!("Could not parse JSON document: {error}")))
}

fn invalid(reason: String) -> Failure {
    Failure::new(status::SOFTWARE, format!("Validation failed\n\n{reason}"))
}

fn no_vhost(vhost: &str) -> Failure {
    Failure::new(status::DATA, format!("Virtual host '{vhost}' does not exist"))
}

fn limits_of(text: &str, known: &[&str]) -> Result<Limits, Failure> {
    let Value::Object(fields) = document(text)? else {
        return Err(invalid("limits must be a dictionary".to_owned()));
    };
    let number = |(name, value): (String, Value)| match value.as_i64() {
        Some(number) => Ok((name, number)),
        None => Err(invalid(format!("{name} should be an integer, actually was {value}"))),
    };
    let limits: Limits = fields.into_iter().map(number).collect::<Result<_, _>>()?;
    limits
        .check(known)
        .map_err(|refusal| Failure::new(status::SOFTWARE, refusal.to_string()))?;
    Ok(limits)
}
