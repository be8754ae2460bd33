//! Changes as the log holds them.

use bytes::Bytes;
use prost::Message as _;
use warren_cluster::version;
use warren_proto::metadata::{self as proto, binding, command};
use warren_proto::record::SessionId;

use super::super::facts::{Destination, Placement, Run};
use super::super::refusal::Refusal;
use super::{
    AddUser, Bind, Bootstrap, Change, DeclareExchange, DeclareQueue, DeleteExchange, DescribeVhost, Request,
    SetPermissions,
};

mod settings;

pub(in crate::metadata) use self::settings::{limits, limits_to_proto};
use crate::amqp::Table;
use crate::auth::{Algorithm, PasswordHash};

impl Change {
    /// The command as an entry's payload holds it. Several may follow one another in one payload.
    pub fn encode(&self, request: Request) -> Bytes {
        let request = proto::Request {
            node: request.node,
            incarnation: request.incarnation,
            id: request.id,
        };
        let command = proto::Command {
            request: Some(request),
            change: Some(self.to_proto()),
        };
        command.encode_length_delimited_to_vec().into()
    }

    pub(in crate::metadata) fn decode(change: Option<command::Change>) -> Result<Self, Refusal> {
        use command::Change as Wire;
        Ok(match change.ok_or(Refusal::Malformed("unknown command"))? {
            Wire::Bootstrap(wire) => Self::Bootstrap(Bootstrap {
                cluster_id: wire.cluster_id,
                vhost: wire.vhost.into(),
                user: wire
                    .user
                    .ok_or(Refusal::Malformed("bootstrap without user"))?
                    .try_into()?,
            }),
            Wire::AddVhost(wire) => Self::AddVhost(wire.into()),
            Wire::SetVhost(wire) => Self::SetVhost(wire.into()),
            Wire::DeleteVhost(wire) => Self::DeleteVhost { name: wire.name.into() },
            Wire::AddUser(wire) => Self::AddUser(wire.try_into()?),
            Wire::ChangePassword(wire) => Self::ChangePassword {
                name: wire.name.into(),
                password: password(wire.algorithm, wire.hash)?,
            },
            Wire::SetTags(wire) => Self::SetTags {
                name: wire.name.into(),
                tags: wire.tags,
            },
            Wire::DeleteUser(wire) => Self::DeleteUser { name: wire.name.into() },
            Wire::SetPermissions(wire) => Self::SetPermissions(wire.into()),
            Wire::ClearPermissions(wire) => Self::ClearPermissions {
                user: wire.user.into(),
                vhost: wire.vhost.into(),
            },
            Wire::DeclareExchange(wire) => Self::DeclareExchange(wire.try_into()?),
            Wire::DeleteExchange(wire) => Self::DeleteExchange(DeleteExchange {
                vhost: wire.vhost.into(),
                name: wire.name.into(),
                if_unused: wire.if_unused,
            }),
            Wire::DeclareQueue(wire) => Self::DeclareQueue(wire.try_into()?),
            Wire::DeleteQueue(wire) => Self::DeleteQueue { group: wire.group },
            Wire::PlaceQueue(wire) => {
                let placement = wire.placement.ok_or(Refusal::Malformed("place without placement"))?;
                Self::PlaceQueue {
                    group: wire.group,
                    replicas: placement.replicas,
                    leader: placement.leader,
                }
            }
            Wire::QueueMoved(wire) => Self::QueueMoved {
                group: wire.group,
                era: wire.era,
            },
            Wire::DrainNode(wire) => Self::DrainNode {
                node: wire.node,
                draining: wire.draining,
            },
            Wire::Bind(wire) => Self::Bind(wire.try_into()?),
            Wire::Unbind(wire) => Self::Unbind(wire.try_into()?),
            Wire::NodeUp(wire) => Self::NodeUp {
                run: run(wire.run)?,
                name: wire.name,
                address: wire.address,
                directory: wire.directory,
                version: version(wire.version),
                sessions_from: wire.sessions_from,
            },
            Wire::RaiseVersion(wire) => Self::RaiseVersion {
                version: version(wire.version),
                nodes: wire
                    .nodes
                    .into_iter()
                    .map(|node| run(Some(node)))
                    .collect::<Result<_, _>>()?,
            },
            Wire::NodeDown(wire) => Self::NodeDown { run: run(wire.run)? },
            Wire::JoinNode(wire) => Self::JoinNode {
                node: wire.node,
                name: wire.name,
                address: wire.address,
                directory: wire.directory,
            },
            Wire::Reform(wire) => Self::Reform {
                survivors: wire.survivors,
                until: wire.until,
                cluster_id: wire.cluster_id,
            },
            Wire::ReformQueue(wire) => Self::ReformQueue {
                group: wire.group,
                survivors: wire.survivors,
                obeyed: wire.obeyed,
            },
            Wire::NodeForgotten(wire) => Self::NodeForgotten { node: wire.node },
            Wire::SessionEnded(wire) => Self::SessionEnded {
                session: wire.session.ok_or(Refusal::Malformed("end of no session"))?.into_id(),
            },
            Wire::SetPolicy(wire) => Self::SetPolicy(wire.try_into()?),
            Wire::ClearPolicy(wire) => Self::ClearPolicy {
                vhost: wire.vhost.into(),
                name: wire.name,
                operator: wire.operator,
            },
            Wire::SetVhostLimits(wire) => Self::SetVhostLimits {
                vhost: wire.vhost.into(),
                limits: limits(wire.limits),
            },
            Wire::SetUserLimits(wire) => Self::SetUserLimits {
                user: wire.user.into(),
                limits: limits(wire.limits),
            },
            Wire::SetTopicPermission(wire) => Self::SetTopicPermission(wire.into()),
            Wire::ClearTopicPermission(wire) => Self::ClearTopicPermission {
                user: wire.user.into(),
                vhost: wire.vhost.into(),
                exchange: wire.exchange.map(Into::into),
            },
            Wire::SetParameter(wire) => Self::SetParameter(wire.into()),
            Wire::ClearParameter(wire) => Self::ClearParameter {
                vhost: wire.vhost.into(),
                component: wire.component,
                name: wire.name,
            },
        })
    }

    fn to_proto(&self) -> command::Change {
        use command::Change as Wire;
        match self {
            Self::Bootstrap(bootstrap) => Wire::Bootstrap(proto::Bootstrap {
                cluster_id: bootstrap.cluster_id.clone(),
                vhost: (&bootstrap.vhost).into(),
                user: Some((&bootstrap.user).into()),
            }),
            Self::AddVhost(describe) => Wire::AddVhost(describe.into()),
            // The same fields under another command.
            Self::SetVhost(describe) => {
                let proto::AddVhost {
                    name,
                    description,
                    tags,
                    default_queue_type,
                    is_protected,
                } = describe.into();
                Wire::SetVhost(proto::SetVhost {
                    name,
                    description,
                    tags,
                    default_queue_type,
                    is_protected,
                })
            }
            Self::DeleteVhost { name } => Wire::DeleteVhost(proto::DeleteVhost { name: name.into() }),
            Self::AddUser(add) => Wire::AddUser(add.into()),
            Self::ChangePassword { name, password } => {
                let (algorithm, hash) = password_to_proto(password.as_ref());
                Wire::ChangePassword(proto::ChangePassword {
                    name: name.into(),
                    algorithm: algorithm.into(),
                    hash,
                })
            }
            Self::SetTags { name, tags } => Wire::SetTags(proto::SetTags {
                name: name.into(),
                tags: tags.clone(),
            }),
            Self::DeleteUser { name } => Wire::DeleteUser(proto::DeleteUser { name: name.into() }),
            Self::SetPermissions(set) => Wire::SetPermissions(set.into()),
            Self::ClearPermissions { user, vhost } => Wire::ClearPermissions(proto::ClearPermissions {
                user: user.into(),
                vhost: vhost.into(),
            }),
            Self::DeclareExchange(declare) => Wire::DeclareExchange(declare.into()),
            Self::DeleteExchange(delete) => Wire::DeleteExchange(proto::DeleteExchange {
                vhost: (&delete.vhost).into(),
                name: (&delete.name).into(),
                if_unused: delete.if_unused,
            }),
            Self::DeclareQueue(declare) => Wire::DeclareQueue(declare.into()),
            Self::DeleteQueue { group } => Wire::DeleteQueue(proto::DeleteQueue { group: *group }),
            Self::PlaceQueue {
                group,
                replicas,
                leader,
            } => {
                let placement = proto::Placement {
                    replicas: replicas.clone(),
                    leader: *leader,
                    ..proto::Placement::default()
                };
                Wire::PlaceQueue(proto::PlaceQueue {
                    group: *group,
                    placement: Some(placement),
                })
            }
            Self::QueueMoved { group, era } => Wire::QueueMoved(proto::QueueMoved {
                group: *group,
                era: *era,
            }),
            Self::DrainNode { node, draining } => Wire::DrainNode(proto::DrainNode {
                node: *node,
                draining: *draining,
            }),
            Self::Bind(bind) => Wire::Bind(bind.into()),
            Self::Unbind(bind) => Wire::Unbind(bind.into()),
            Self::NodeUp {
                run,
                name,
                address,
                directory,
                version,
                sessions_from,
            } => Wire::NodeUp(proto::NodeUp {
                run: Some((*run).into()),
                name: name.clone(),
                address: address.clone(),
                directory: *directory,
                version: (*version).into(),
                sessions_from: *sessions_from,
            }),
            Self::RaiseVersion { version, nodes } => Wire::RaiseVersion(proto::RaiseVersion {
                version: (*version).into(),
                nodes: nodes.iter().map(|node| (*node).into()).collect(),
            }),
            Self::NodeDown { run } => Wire::NodeDown(proto::NodeDown {
                run: Some((*run).into()),
            }),
            Self::JoinNode {
                node,
                name,
                address,
                directory,
            } => Wire::JoinNode(proto::JoinNode {
                node: *node,
                name: name.clone(),
                address: address.clone(),
                directory: *directory,
            }),
            Self::Reform {
                survivors,
                until,
                cluster_id,
            } => Wire::Reform(proto::Reform {
                survivors: survivors.clone(),
                until: *until,
                cluster_id: cluster_id.clone(),
            }),
            Self::ReformQueue {
                group,
                survivors,
                obeyed,
            } => Wire::ReformQueue(proto::ReformQueue {
                group: *group,
                survivors: survivors.clone(),
                obeyed: *obeyed,
            }),
            Self::NodeForgotten { node } => Wire::NodeForgotten(proto::NodeForgotten { node: *node }),
            Self::SessionEnded { session } => Wire::SessionEnded(proto::SessionEnded {
                session: Some(session_to_proto(*session)),
            }),
            Self::SetPolicy(set) => Wire::SetPolicy(set.into()),
            Self::ClearPolicy { vhost, name, operator } => Wire::ClearPolicy(proto::ClearPolicy {
                vhost: vhost.into(),
                name: name.clone(),
                operator: *operator,
            }),
            Self::SetVhostLimits { vhost, limits } => Wire::SetVhostLimits(proto::VhostLimits {
                vhost: vhost.into(),
                limits: limits_to_proto(limits),
            }),
            Self::SetUserLimits { user, limits } => Wire::SetUserLimits(proto::UserLimits {
                user: user.into(),
                limits: limits_to_proto(limits),
            }),
            Self::SetTopicPermission(set) => Wire::SetTopicPermission(set.into()),
            Self::ClearTopicPermission { user, vhost, exchange } => {
                Wire::ClearTopicPermission(proto::ClearTopicPermission {
                    user: user.into(),
                    vhost: vhost.into(),
                    exchange: exchange.as_ref().map(Into::into),
                })
            }
            Self::SetParameter(parameter) => Wire::SetParameter(parameter.into()),
            Self::ClearParameter { vhost, component, name } => Wire::ClearParameter(proto::ClearParameter {
                vhost: vhost.into(),
                component: component.clone(),
                name: name.clone(),
            }),
        }
    }
}

impl From<proto::Request> for Request {
    fn from(wire: proto::Request) -> Self {
        Self {
            node: wire.node,
            incarnation: wire.incarnation,
            id: wire.id,
        }
    }
}

impl From<Run> for proto::Run {
    fn from(run: Run) -> Self {
        Self {
            node: run.node,
            incarnation: run.incarnation,
        }
    }
}

pub(in crate::metadata) fn run(wire: Option<proto::Run>) -> Result<Run, Refusal> {
    let wire = wire.ok_or(Refusal::Malformed("no run of a node"))?;
    Ok(Run {
        node: wire.node,
        incarnation: wire.incarnation,
    })
}

/// What says nothing was written before there was anything to say.
pub(in crate::metadata) fn version(wire: u32) -> u16 {
    u16::try_from(wire).unwrap_or(u16::MAX).max(version::FIRST)
}

trait IntoId {
    fn into_id(self) -> SessionId;
}

impl IntoId for proto::Session {
    fn into_id(self) -> SessionId {
        SessionId {
            node: self.node,
            incarnation: self.incarnation,
            id: self.id,
        }
    }
}

fn session_to_proto(session: SessionId) -> proto::Session {
    proto::Session {
        node: session.node,
        incarnation: session.incarnation,
        id: session.id,
    }
}

impl From<proto::AddVhost> for DescribeVhost {
    fn from(wire: proto::AddVhost) -> Self {
        let proto::AddVhost {
            name,
            description,
            tags,
            default_queue_type,
            is_protected,
        } = wire;
        Self {
            name: name.into(),
            description,
            tags,
            default_queue_type,
            is_protected,
        }
    }
}

impl From<proto::SetVhost> for DescribeVhost {
    fn from(wire: proto::SetVhost) -> Self {
        let proto::SetVhost {
            name,
            description,
            tags,
            default_queue_type,
            is_protected,
        } = wire;
        Self {
            name: name.into(),
            description,
            tags,
            default_queue_type,
            is_protected,
        }
    }
}

impl From<&DescribeVhost> for proto::AddVhost {
    fn from(describe: &DescribeVhost) -> Self {
        Self {
            name: (&describe.name).into(),
            description: describe.description.clone(),
            tags: describe.tags.clone(),
            default_queue_type: describe.default_queue_type.clone(),
            is_protected: describe.is_protected,
        }
    }
}

fn password(algorithm: i32, hash: Bytes) -> Result<Option<PasswordHash>, Refusal> {
    if hash.is_empty() {
        return Ok(None);
    }
    let algorithm = match proto::HashAlgorithm::try_from(algorithm) {
        Ok(proto::HashAlgorithm::Sha256) => Algorithm::Sha256,
        Ok(proto::HashAlgorithm::Sha512) => Algorithm::Sha512,
        Ok(proto::HashAlgorithm::Md5) => Algorithm::Md5,
        Ok(proto::HashAlgorithm::Unspecified) | Err(_) => return Err(Refusal::Malformed("unknown hash algorithm")),
    };
    PasswordHash::from_bytes(algorithm, hash)
        .map(Some)
        .ok_or(Refusal::Malformed("hash of a wrong length"))
}

fn password_to_proto(password: Option<&PasswordHash>) -> (proto::HashAlgorithm, Bytes) {
    let Some(password) = password else {
        return (proto::HashAlgorithm::Unspecified, Bytes::new());
    };
    let algorithm = match password.algorithm() {
        Algorithm::Sha256 => proto::HashAlgorithm::Sha256,
        Algorithm::Sha512 => proto::HashAlgorithm::Sha512,
        Algorithm::Md5 => proto::HashAlgorithm::Md5,
    };
    (algorithm, password.as_bytes().clone())
}

impl TryFrom<proto::AddUser> for AddUser {
    type Error = Refusal;

    fn try_from(wire: proto::AddUser) -> Result<Self, Refusal> {
        Ok(Self {
            name: wire.name.into(),
            password: password(wire.algorithm, wire.hash)?,
            tags: wire.tags,
        })
    }
}

impl From<&AddUser> for proto::AddUser {
    fn from(add: &AddUser) -> Self {
        let (algorithm, hash) = password_to_proto(add.password.as_ref());
        Self {
            name: (&add.name).into(),
            algorithm: algorithm.into(),
            hash,
            tags: add.tags.clone(),
        }
    }
}

impl From<proto::SetPermissions> for SetPermissions {
    fn from(wire: proto::SetPermissions) -> Self {
        let proto::SetPermissions {
            user,
            vhost,
            configure,
            write,
            read,
        } = wire;
        Self {
            user: user.into(),
            vhost: vhost.into(),
            configure,
            write,
            read,
        }
    }
}

impl From<&SetPermissions> for proto::SetPermissions {
    fn from(set: &SetPermissions) -> Self {
        Self {
            user: (&set.user).into(),
            vhost: (&set.vhost).into(),
            configure: set.configure.clone(),
            write: set.write.clone(),
            read: set.read.clone(),
        }
    }
}

/// A field table; no bytes at all stand for the empty one.
fn table(wire: &Bytes) -> Result<Table, Refusal> {
    if wire.is_empty() {
        return Ok(Table::new());
    }
    Table::decode(wire).map_err(|_| Refusal::Malformed("arguments are no field table"))
}

fn table_to_proto(table: &Table) -> Bytes {
    if table.is_empty() {
        Bytes::new()
    } else {
        table.to_bytes()
    }
}

impl TryFrom<proto::DeclareExchange> for DeclareExchange {
    type Error = Refusal;

    fn try_from(wire: proto::DeclareExchange) -> Result<Self, Refusal> {
        Ok(Self {
            vhost: wire.vhost.into(),
            name: wire.name.into(),
            kind: wire.r#type,
            durable: wire.durable,
            auto_delete: wire.auto_delete,
            internal: wire.internal,
            arguments: table(&wire.arguments)?,
            delays: wire.delays.map(placement).transpose()?,
        })
    }
}

impl From<&DeclareExchange> for proto::DeclareExchange {
    fn from(declare: &DeclareExchange) -> Self {
        Self {
            vhost: (&declare.vhost).into(),
            name: (&declare.name).into(),
            r#type: declare.kind.clone(),
            durable: declare.durable,
            auto_delete: declare.auto_delete,
            internal: declare.internal,
            arguments: table_to_proto(&declare.arguments),
            delays: declare.delays.as_ref().map(Into::into),
        }
    }
}

impl TryFrom<proto::DeclareQueue> for DeclareQueue {
    type Error = Refusal;

    fn try_from(wire: proto::DeclareQueue) -> Result<Self, Refusal> {
        let wire_placement = wire.placement.ok_or(Refusal::Malformed("queue without placement"))?;
        Ok(Self {
            vhost: wire.vhost.into(),
            name: wire.name.into(),
            durable: wire.durable,
            auto_delete: wire.auto_delete,
            exclusive_owner: wire.exclusive_owner.map(IntoId::into_id),
            arguments: table(&wire.arguments)?,
            placement: placement(wire_placement)?,
        })
    }
}

fn placement(wire: proto::Placement) -> Result<Placement, Refusal> {
    Ok(match wire.home {
        Some(home) => Placement::Transient { home: run(Some(home))? },
        None => Placement::Replicated {
            replicas: wire.replicas,
            leader: wire.leader,
            wanted: wire.wanted,
            era: wire.era,
            founders: wire.founders,
            reformed: wire.reformed,
        },
    })
}

impl From<&DeclareQueue> for proto::DeclareQueue {
    fn from(declare: &DeclareQueue) -> Self {
        Self {
            vhost: (&declare.vhost).into(),
            name: (&declare.name).into(),
            durable: declare.durable,
            auto_delete: declare.auto_delete,
            exclusive_owner: declare.exclusive_owner.map(session_to_proto),
            arguments: table_to_proto(&declare.arguments),
            placement: Some((&declare.placement).into()),
        }
    }
}

impl From<&Placement> for proto::Placement {
    fn from(placement: &Placement) -> Self {
        match placement {
            Placement::Replicated {
                replicas,
                leader,
                wanted,
                era,
                founders,
                reformed,
            } => Self {
                replicas: replicas.clone(),
                leader: *leader,
                home: None,
                wanted: wanted.clone(),
                era: *era,
                founders: founders.clone(),
                reformed: *reformed,
            },
            Placement::Transient { home } => Self {
                home: Some((*home).into()),
                ..Self::default()
            },
        }
    }
}

impl TryFrom<proto::Binding> for Bind {
    type Error = Refusal;

    fn try_from(wire: proto::Binding) -> Result<Self, Refusal> {
        Ok(Self {
            vhost: wire.vhost.into(),
            source: wire.source.into(),
            destination: match wire
                .destination
                .ok_or(Refusal::Malformed("binding without destination"))?
            {
                binding::Destination::Queue(name) => Destination::Queue(name.into()),
                binding::Destination::Exchange(name) => Destination::Exchange(name.into()),
            },
            routing_key: wire.routing_key.into(),
            arguments: table(&wire.arguments)?,
            session: wire.session.map_or(SessionId::SYSTEM, IntoId::into_id),
        })
    }
}

impl From<&Bind> for proto::Binding {
    fn from(bind: &Bind) -> Self {
        Self {
            vhost: (&bind.vhost).into(),
            source: (&bind.source).into(),
            destination: Some(match &bind.destination {
                Destination::Queue(name) => binding::Destination::Queue(name.into()),
                Destination::Exchange(name) => binding::Destination::Exchange(name.into()),
            }),
            routing_key: (&bind.routing_key).into(),
            arguments: table_to_proto(&bind.arguments),
            session: Some(session_to_proto(bind.session)),
        }
    }
}
