//! What a document asks for, checked entry by entry before anything is done.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::{Map, Value};
use warren_cluster::NodeId;

use super::Staged;
use super::entry::{Checked, Entry, NAME_LEN_MAX};
use crate::auth::{Algorithm, PasswordHash};
use crate::exchange;
use crate::metadata::{
    AddUser, ApplyTo, Bind, Change, DeclareExchange, DeclareQueue, DescribeVhost, Destination, Kind, Parameter,
    Permission, Picture, Placement, Run, SetPermissions, SetPolicy, SetTopicPermission, TopicPermission, USER_LIMITS,
    VHOST_LIMITS, check_new_queue, place_delays, place_replicas, predeclared, validate_exchange,
};

/// Where the document goes.
pub(in crate::admin) struct Target<'a> {
    /// For what names no vhost.
    pub(super) vhost: Option<&'a str>,
    pub(super) home: Run,
    pub(super) members: &'a [NodeId],
    pub(super) group_size: usize,
}

/// See the module.
pub(super) struct Importer<'a> {
    picture: &'a Picture,
    target: &'a Target<'a>,
    /// What is there or will be.
    vhosts: BTreeSet<String>,
    users: BTreeSet<String>,
    queues: BTreeSet<(String, String)>,
    exchanges: BTreeMap<(String, String), exchange::Kind>,
    stages: Vec<Vec<Staged>>,
}

impl<'a> Importer<'a> {
    /// The changes by stage, in the order in which they must be made; or the first entry that does not do.
    pub(super) fn plan(picture: &'a Picture, document: &Value, target: &'a Target<'a>) -> Checked<Vec<Vec<Staged>>> {
        let Value::Object(document) = document else {
            return Err("the definitions are no JSON object".to_owned());
        };
        let mut importer = Self {
            picture,
            target,
            vhosts: picture.vhosts().map(|vhost| vhost.name.to_string()).collect(),
            users: picture.users().map(|user| user.name.to_string()).collect(),
            queues: BTreeSet::new(),
            exchanges: BTreeMap::new(),
            stages: Vec::new(),
        };
        type Take<'a> = fn(&mut Importer<'a>, &Entry<'_>) -> Checked<()>;
        let sections: [(&'static str, Take<'a>); 12] = [
            ("users", Self::user),
            ("users", Self::user_limits),
            ("vhosts", Self::vhost),
            ("vhosts", Self::vhost_limits),
            ("permissions", Self::permission),
            ("exchanges", Self::exchange),
            ("topic_permissions", Self::topic_permission),
            ("global_parameters", Self::global_parameter),
            ("policies", Self::policy),
            ("parameters", Self::parameter),
            ("queues", Self::queue),
            ("bindings", Self::binding),
        ];
        for (section, take) in sections {
            importer.stages.push(Vec::new());
            let entries = match document.get(section) {
                None | Some(Value::Null) => continue,
                Some(Value::Array(entries)) => entries,
                Some(_) => return Err(format!("{section} must be a list")),
            };
            for (at, entry) in entries.iter().enumerate() {
                let Value::Object(fields) = entry else {
                    return Err(format!("{section}[{at}] must be an object"));
                };
                take(&mut importer, &Entry { section, at, fields })?;
            }
        }
        Ok(importer.stages)
    }

    fn stage(&mut self, entry: &Entry<'_>, change: Change, may_be_there: bool) {
        if let Some(stages) = self.stages.last_mut() {
            stages.push(Staged {
                change,
                entry: entry.label(),
                may_be_there,
            });
        }
    }

    fn known_vhost(&self, entry: &Entry<'_>) -> Checked<String> {
        let vhost = match (entry.fields.get("vhost"), self.target.vhost) {
            (None | Some(Value::Null), Some(vhost)) => vhost,
            (None | Some(Value::Null), None) => {
                return entry.fault("names no virtual host, and none was named for the import");
            }
            (Some(_), _) => entry.text("vhost")?,
        };
        if self.vhosts.contains(vhost) {
            Ok(vhost.to_owned())
        } else {
            entry.fault(format_args!("virtual host '{vhost}' does not exist"))
        }
    }

    fn known_user(&self, entry: &Entry<'_>) -> Checked<String> {
        let user = entry.text("user")?;
        if self.users.contains(user) {
            Ok(user.to_owned())
        } else {
            entry.fault(format_args!("user '{user}' does not exist"))
        }
    }

    fn user(&mut self, entry: &Entry<'_>) -> Checked<()> {
        let name = entry.name("name")?;
        let tags = entry.tags(entry.fields)?;
        let algorithm = entry.text_or("hashing_algorithm", Algorithm::Sha256.name())?;
        let Some(algorithm) = Algorithm::from_name(algorithm) else {
            return entry.fault(format_args!("unknown hashing_algorithm '{algorithm}'"));
        };
        let password = match (entry.text_or("password_hash", "")?, entry.text_or("password", "")?) {
            ("", "") => None,
            ("", password) => Some(PasswordHash::new(
                Algorithm::Sha256,
                rand::random(),
                password.as_bytes(),
            )),
            (hash, _) => match PasswordHash::from_base64(algorithm, hash) {
                Some(hash) => Some(hash),
                None => return entry.fault("password_hash is no salted hash of that algorithm in base64"),
            },
        };
        let known = self.picture.user(name);
        if known.is_none() {
            let name = name.into();
            self.stage(entry, Change::AddUser(AddUser { name, password, tags }), true);
        } else if let Some(known) = known {
            if known.password != password {
                let name = name.into();
                self.stage(entry, Change::ChangePassword { name, password }, false);
            }
            if known.tags != tags {
                self.stage(
                    entry,
                    Change::SetTags {
                        name: name.into(),
                        tags,
                    },
                    false,
                );
            }
        }
        self.users.insert(name.to_owned());
        Ok(())
    }

    fn user_limits(&mut self, entry: &Entry<'_>) -> Checked<()> {
        let user = entry.name("name")?;
        if let Some(limits) = entry.limits(entry.fields.get("limits"), USER_LIMITS)? {
            let user = user.into();
            self.stage(entry, Change::SetUserLimits { user, limits }, false);
        }
        Ok(())
    }

    fn vhost(&mut self, entry: &Entry<'_>) -> Checked<()> {
        let name = entry.name("name")?;
        let metadata = entry.object("metadata")?;
        let text = |key: &str| -> Checked<String> {
            match metadata.get(key).or_else(|| entry.fields.get(key)) {
                None | Some(Value::Null) => Ok(String::new()),
                Some(Value::String(text)) => Ok(text.clone()),
                Some(other) => entry.fault(format_args!("{key} must be text, not {other}")),
            }
        };
        let tags = entry.tags(if metadata.contains_key("tags") {
            &metadata
        } else {
            entry.fields
        })?;
        // What RabbitMQ writes where there is none.
        let default_queue_type = text("default_queue_type")?;
        let default_queue_type = match default_queue_type.as_str() {
            "" | "undefined" => String::new(),
            name if Kind::from_name(name).is_some() => name.to_owned(),
            name => return entry.fault(format_args!("unsupported queue type '{name}'")),
        };
        let describe = DescribeVhost {
            name: name.into(),
            description: text("description")?,
            tags,
            default_queue_type,
            is_protected: match metadata.get("protected_from_deletion") {
                None | Some(Value::Null) => false,
                Some(Value::Bool(is_protected)) => *is_protected,
                Some(other) => {
                    return entry.fault(format_args!(
                        "protected_from_deletion must be true or false, not {other}"
                    ));
                }
            },
        };
        if self.vhosts.insert(name.to_owned()) {
            self.stage(entry, Change::AddVhost(describe), true);
        } else if self.picture.vhost(name).is_some_and(|known| {
            known.description != describe.description
                || known.tags != describe.tags
                || known.default_queue_type != describe.default_queue_type
                || known.is_protected != describe.is_protected
        }) {
            self.stage(entry, Change::SetVhost(describe), false);
        }
        Ok(())
    }

    fn vhost_limits(&mut self, entry: &Entry<'_>) -> Checked<()> {
        let vhost = entry.name("name")?;
        if let Some(limits) = entry.limits(entry.fields.get("limits"), VHOST_LIMITS)? {
            let vhost = vhost.into();
            self.stage(entry, Change::SetVhostLimits { vhost, limits }, false);
        }
        Ok(())
    }

    fn permission(&mut self, entry: &Entry<'_>) -> Checked<()> {
        let (user, vhost) = (self.known_user(entry)?, self.known_vhost(entry)?);
        let (configure, write, read) = (entry.text("configure")?, entry.text("write")?, entry.text("read")?);
        let permission = Permission::new(configure, write, read);
        permission.check().or_else(|refusal| entry.fault(refusal))?;
        if self
            .picture
            .permission(&user, &vhost)
            .is_none_or(|known| **known != permission)
        {
            let set = SetPermissions {
                user: user.into(),
                vhost: vhost.into(),
                configure: configure.into(),
                write: write.into(),
                read: read.into(),
            };
            self.stage(entry, Change::SetPermissions(set), false);
        }
        Ok(())
    }

    fn topic_permission(&mut self, entry: &Entry<'_>) -> Checked<()> {
        let (user, vhost) = (self.known_user(entry)?, self.known_vhost(entry)?);
        let (exchange, write, read) = (entry.name("exchange")?, entry.text("write")?, entry.text("read")?);
        let permission = TopicPermission::new(&user, &vhost, write, read);
        permission.check().or_else(|refusal| entry.fault(refusal))?;
        let set = SetTopicPermission {
            user: user.into(),
            vhost: vhost.into(),
            exchange: exchange.into(),
            write: write.into(),
            read: read.into(),
        };
        self.stage(entry, Change::SetTopicPermission(set), false);
        Ok(())
    }

    fn global_parameter(&mut self, entry: &Entry<'_>) -> Checked<()> {
        let parameter = Parameter {
            vhost: "".into(),
            component: String::new(),
            name: entry.name("name")?.to_owned(),
            value: entry.fields.get("value").unwrap_or(&Value::Null).to_string(),
        };
        self.stage(entry, Change::SetParameter(parameter), false);
        Ok(())
    }

    fn policy(&mut self, entry: &Entry<'_>) -> Checked<()> {
        let vhost = self.known_vhost(entry)?;
        let name = entry.name("name")?.to_owned();
        self.set_policy(entry, entry.fields, vhost, name, false)
    }

    fn set_policy(
        &mut self,
        entry: &Entry<'_>,
        fields: &Map<String, Value>,
        vhost: String,
        name: String,
        operator: bool,
    ) -> Checked<()> {
        let value = Entry {
            section: entry.section,
            at: entry.at,
            fields,
        };
        let apply_to = value.text_or("apply-to", "all").or_else(|fault| entry.fault(fault))?;
        let Some(apply_to) = ApplyTo::from_name(apply_to) else {
            return entry.fault(ApplyTo::unrecognised(apply_to));
        };
        let set = SetPolicy {
            vhost: vhost.as_str().into(),
            name,
            operator,
            pattern: value.text("pattern")?.to_owned(),
            apply_to,
            priority: value.number("priority", 0)?,
            definition: value.object("definition")?,
        };
        set.check().or_else(|refusal| entry.fault(refusal))?;
        let known = self.picture.policies(&vhost, operator);
        if !known.into_iter().any(|known| known.set == set) {
            self.stage(entry, Change::SetPolicy(set), false);
        }
        Ok(())
    }

    fn parameter(&mut self, entry: &Entry<'_>) -> Checked<()> {
        let vhost = self.known_vhost(entry)?;
        let (component, name) = (entry.name("component")?, entry.name("name")?);
        let value = entry.fields.get("value").unwrap_or(&Value::Null);
        match component {
            "policy" | "operator_policy" => {
                let Value::Object(fields) = value else {
                    return entry.fault("value must be an object");
                };
                self.set_policy(entry, fields, vhost, name.to_owned(), component == "operator_policy")?;
            }
            "vhost-limits" => {
                if let Some(limits) = entry.limits(Some(value), VHOST_LIMITS)? {
                    let vhost = vhost.into();
                    self.stage(entry, Change::SetVhostLimits { vhost, limits }, false);
                }
            }
            _ => {
                let parameter = Parameter {
                    vhost: vhost.into(),
                    component: component.to_owned(),
                    name: name.to_owned(),
                    value: value.to_string(),
                };
                self.stage(entry, Change::SetParameter(parameter), false);
            }
        }
        Ok(())
    }

    fn exchange(&mut self, entry: &Entry<'_>) -> Checked<()> {
        let vhost = self.known_vhost(entry)?;
        let (name, kind) = (entry.name("name")?, entry.text("type")?);
        // Every vhost has these.
        if name.is_empty() || name.starts_with("amq.") || self.picture.exchange(&vhost, name).is_some() {
            return Ok(());
        }
        let Ok(parsed) = kind.parse::<exchange::Kind>() else {
            return entry.fault(format_args!("unknown exchange type '{kind}'"));
        };
        let arguments = entry.table()?;
        validate_exchange(name, &vhost, &arguments).or_else(|refusal| entry.fault(refusal))?;
        exchange::validate_arguments(parsed, &arguments).or_else(|error| entry.fault(error))?;
        let matching = parsed.matching(&arguments);
        let Target {
            home,
            members,
            group_size,
            ..
        } = *self.target;
        let declare = DeclareExchange {
            delays: (parsed == exchange::Kind::Delayed)
                .then(|| place_delays(self.picture, home.node, members, group_size)),
            vhost: vhost.as_str().into(),
            name: name.into(),
            kind: kind.to_owned(),
            durable: entry.flag("durable", true)?,
            auto_delete: entry.flag("auto_delete", false)?,
            internal: entry.flag("internal", false)?,
            arguments,
        };
        self.exchanges.insert((vhost, name.to_owned()), matching);
        self.stage(entry, Change::DeclareExchange(declare), true);
        Ok(())
    }

    fn queue(&mut self, entry: &Entry<'_>) -> Checked<()> {
        let vhost = self.known_vhost(entry)?;
        let name = entry.name("name")?;
        if name.is_empty() {
            return entry.fault("name must not be empty");
        }
        if self.picture.queue(&vhost, name).is_some() || !self.queues.insert((vhost.clone(), name.to_owned())) {
            return Ok(());
        }
        let mut arguments = entry.table()?;
        let kind = entry.text_or("type", "")?;
        if !kind.is_empty() && kind != "classic" && !arguments.contains("x-queue-type") {
            let kind = bytes::Bytes::copy_from_slice(kind.as_bytes());
            arguments.insert("x-queue-type", crate::amqp::Value::LongStr(kind));
        }
        let mut declare = DeclareQueue {
            vhost: vhost.as_str().into(),
            name: name.into(),
            durable: entry.flag("durable", true)?,
            auto_delete: entry.flag("auto_delete", false)?,
            exclusive_owner: None,
            arguments,
            placement: Placement::Transient { home: self.target.home },
        };
        check_new_queue(&declare).or_else(|refusal| entry.fault(refusal))?;
        if !declare.is_transient() {
            let Target {
                home,
                members,
                group_size,
                ..
            } = *self.target;
            declare.placement = place_replicas(self.picture, home.node, members, group_size, &declare);
        }
        self.stage(entry, Change::DeclareQueue(declare), true);
        Ok(())
    }

    fn binding(&mut self, entry: &Entry<'_>) -> Checked<()> {
        let vhost = self.known_vhost(entry)?;
        let (source, destination) = (entry.name("source")?, entry.name("destination")?);
        // Every queue has one of these.
        if source.is_empty() {
            return Ok(());
        }
        let routing_key = entry.text_or("routing_key", "")?;
        if routing_key.len() > NAME_LEN_MAX {
            return entry.fault(format_args!("routing_key is longer than {NAME_LEN_MAX} bytes"));
        }
        let exchange = |name: &str| {
            let known = self
                .picture
                .exchange(&vhost, name)
                .map(|exchange| exchange.kind.matching(&exchange.arguments));
            known
                .or_else(|| self.exchanges.get(&(vhost.clone(), name.to_owned())).copied())
                .or_else(|| predeclared(name))
        };
        let Some(kind) = exchange(source) else {
            return entry.fault(format_args!("no exchange '{source}' in vhost '{vhost}'"));
        };
        let queue = |name: &str| {
            self.picture.queue(&vhost, name).is_some() || self.queues.contains(&(vhost.clone(), name.to_owned()))
        };
        let destination = match entry.text_or("destination_type", "queue")? {
            "queue" if queue(destination) => Destination::Queue(destination.into()),
            "exchange" if exchange(destination).is_some() => Destination::Exchange(destination.into()),
            kind @ ("queue" | "exchange") => {
                return entry.fault(format_args!("no {kind} '{destination}' in vhost '{vhost}'"));
            }
            kind => return entry.fault(format_args!("destination_type must be queue or exchange, not '{kind}'")),
        };
        let arguments = entry.table()?;
        exchange::validate_binding(kind, routing_key, &arguments).or_else(|error| entry.fault(error.0))?;
        let bind = Bind {
            vhost: vhost.as_str().into(),
            source: source.into(),
            destination,
            routing_key: routing_key.into(),
            arguments,
            session: warren_proto::record::SessionId::SYSTEM,
        };
        if !self.picture.check_bind(&bind).is_ok_and(|known| known.is_some()) {
            self.stage(entry, Change::Bind(bind), false);
        }
        Ok(())
    }
}
