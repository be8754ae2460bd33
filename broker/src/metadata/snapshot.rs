//! The picture as bytes: rows, each preceded by its length, in chunks that end between rows.
//!
//! Rows are written in the order of the maps, so equal pictures give equal bytes.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use prost::Message as _;
use warren_cluster::version;
use warren_proto::metadata::{self as proto, row};

use super::Effect;
use super::change::{AddUser, Bind, DeclareExchange, DeclareQueue, DescribeVhost, Parameter, SetPermissions, codec};
use super::edit::Edit;
use super::facts::{Binding, Exchange, Forgotten, Node, Queue, User, Vhost};
use super::limits::Limits;
use super::permission::{Access, Permission};
use super::policy::{Policy, SetPolicy};
use super::refusal::Refusal;
use super::requests::Applied;
use super::view::{Picture, Space};

/// Raised when rows change their meaning; adding fields needs no new one.
const FORMAT: u32 = 2;
/// While entries are of the first version: a build that knows no other reads it as well.
const FORMAT_FIRST: u32 = 1;

/// Chunks are closed before they get larger. A single row is always smaller: its largest part is one field table.
const CHUNK_LEN_MAX: usize = 1 << 20;

/// What is wrong with a snapshot.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum Error {
    #[error("a row does not decode")]
    Row,
    #[error("format {0} is not known")]
    Format(u32),
    #[error("rows out of order")]
    Order,
    #[error("{found} rows where {expected} were written")]
    Cut { expected: u64, found: u64 },
    #[error("{0}")]
    Content(#[from] Refusal),
}

struct Writer {
    chunks: Vec<Bytes>,
    chunk: BytesMut,
    rows: u64,
}

impl Writer {
    fn push(&mut self, row: row::Row) {
        let row = proto::Row { row: Some(row) };
        let len = row.encoded_len();
        if !self.chunk.is_empty() && self.chunk.len() + len + 10 > CHUNK_LEN_MAX {
            self.chunks.push(self.chunk.split().freeze());
        }
        self.chunk.reserve(len + 10);
        row.encode_length_delimited(&mut self.chunk)
            .expect("a BytesMut grows as needed");
        self.rows += 1;
    }
}

pub(super) fn write(picture: &Picture) -> Vec<Bytes> {
    let mut out = Writer {
        chunks: Vec::new(),
        chunk: BytesMut::new(),
        rows: 0,
    };
    out.push(row::Row::Header(proto::Header {
        format: match picture.version() {
            version::FIRST => FORMAT_FIRST,
            _ => FORMAT,
        },
        cluster_id: picture.cluster_id.clone(),
        routing_version: picture.routing_version,
        version: picture.version().into(),
    }));
    for (node, applied) in &picture.requests.nodes {
        out.push(row::Row::Applied(proto::Applied {
            run: Some(proto::Run {
                node: *node,
                incarnation: applied.incarnation,
            }),
            floor: applied.floor,
            ahead: applied.ahead.iter().copied().collect(),
        }));
    }
    for node in picture.nodes.values() {
        out.push(row::Row::Node(proto::Node {
            run: Some(node.run.into()),
            live: node.live,
            since: node.since,
            name: node.name.clone(),
            address: node.address.clone(),
            draining: node.draining,
            directory: node.directory,
            first_group: node.first_group,
            joined: node.joined,
            version: node.version.into(),
            sessions_from: node.sessions_from,
        }));
    }
    for (node, forgotten) in &picture.forgotten {
        out.push(row::Row::Forgotten(proto::Forgotten {
            node: *node,
            name: forgotten.name.clone(),
            until: forgotten.until,
            at: forgotten.at,
        }));
    }
    for space in picture.vhosts.values() {
        out.push(row::Row::Vhost((&describe(&space.vhost)).into()));
        if space.vhost.limits != Limits::default() {
            out.push(row::Row::VhostLimits(proto::VhostLimits {
                vhost: (&space.vhost.name).into(),
                limits: codec::limits_to_proto(&space.vhost.limits),
            }));
        }
    }
    for user in picture.users.values() {
        let User {
            name,
            password,
            tags,
            limits,
        } = User::clone(user);
        out.push(row::Row::User((&AddUser { name, password, tags }).into()));
        if limits != Limits::default() {
            out.push(row::Row::UserLimits(proto::UserLimits {
                user: (&user.name).into(),
                limits: codec::limits_to_proto(&limits),
            }));
        }
    }
    for (user, vhost, permission) in picture.permissions() {
        out.push(row::Row::Permissions(proto::SetPermissions {
            user: user.into(),
            vhost: vhost.into(),
            configure: permission.text(Access::Configure).to_owned(),
            write: permission.text(Access::Write).to_owned(),
            read: permission.text(Access::Read).to_owned(),
        }));
    }
    write_settings(picture, &mut out);
    for space in picture.vhosts.values() {
        for exchange in space.exchanges.values() {
            let declared = Some((&declared_exchange(picture, exchange)).into());
            out.push(row::Row::Exchange(proto::Exchange {
                id: exchange.id,
                declared,
            }));
        }
    }
    for queue in picture.groups.values().filter(|queue| !queue.is_delay) {
        let declared = Some((&declared_queue(queue)).into());
        out.push(row::Row::Queue(proto::Queue {
            group: queue.group,
            declared,
            configured: queue.configured,
        }));
    }
    for space in picture.vhosts.values() {
        for binding in space.bindings.values() {
            out.push(row::Row::Binding((&bound(binding)).into()));
        }
    }
    let rows = out.rows;
    out.push(row::Row::End(proto::End { rows }));
    out.chunks.push(out.chunk.freeze());
    out.chunks
}

/// Policies come before what they apply to.
fn write_settings(picture: &Picture, out: &mut Writer) {
    for (user, vhost, permissions) in picture.all_topic_permissions() {
        for (exchange, permission) in permissions.iter() {
            out.push(row::Row::TopicPermission(proto::TopicPermission {
                user: user.into(),
                vhost: vhost.into(),
                exchange: exchange.into(),
                write: permission.text(Access::Write).to_owned(),
                read: permission.text(Access::Read).to_owned(),
            }));
        }
    }
    for ((vhost, component, name), value) in &picture.parameters {
        out.push(row::Row::Parameter(proto::Parameter {
            vhost: vhost.into(),
            component: component.clone(),
            name: name.clone(),
            value: value.to_string(),
        }));
    }
    for policy in picture.vhosts.values().flat_map(|space| space.policies.values()) {
        out.push(row::Row::Policy((&policy.set).into()));
    }
}

fn describe(vhost: &Vhost) -> DescribeVhost {
    let Vhost {
        name,
        description,
        tags,
        default_queue_type,
        is_protected,
        limits: _,
    } = vhost.clone();
    DescribeVhost {
        name,
        description,
        tags,
        default_queue_type,
        is_protected,
    }
}

fn declared_exchange(picture: &Picture, exchange: &Exchange) -> DeclareExchange {
    let delays = exchange.delay_group().and_then(|group| picture.groups.get(&group));
    DeclareExchange {
        vhost: exchange.vhost.clone(),
        name: exchange.name.clone(),
        kind: exchange.kind.name().to_owned(),
        durable: exchange.durable,
        auto_delete: exchange.auto_delete,
        internal: exchange.internal,
        arguments: exchange.arguments.clone(),
        delays: delays.map(|queue| queue.placement.clone()),
    }
}

fn declared_queue(queue: &Queue) -> DeclareQueue {
    DeclareQueue {
        vhost: queue.vhost.clone(),
        name: queue.name.clone(),
        durable: queue.durable,
        auto_delete: queue.auto_delete,
        exclusive_owner: queue.exclusive_owner,
        arguments: queue.arguments.clone(),
        placement: queue.placement.clone(),
    }
}

fn bound(binding: &Binding) -> Bind {
    Bind {
        vhost: binding.vhost.clone(),
        source: binding.source.clone(),
        destination: binding.destination.clone(),
        routing_key: binding.routing_key.clone(),
        arguments: binding.arguments.clone(),
        session: warren_proto::record::SessionId::SYSTEM,
    }
}

pub(super) fn read(chunks: &[Bytes]) -> Result<Picture, Error> {
    let mut picture = Picture::default();
    // What the edits below tell is known to whoever restores.
    let mut told = Vec::new();
    let mut rows = 0;
    let mut header = None;
    let mut ended = false;
    for chunk in chunks {
        let mut rest: &[u8] = chunk;
        while !rest.is_empty() {
            let row = proto::Row::decode_length_delimited(&mut rest).map_err(|_| Error::Row)?;
            // A kind of row that this build does not know.
            let row = row.row.ok_or(Error::Row)?;
            if ended || header.is_none() != matches!(row, row::Row::Header(_)) {
                return Err(Error::Order);
            }
            match row {
                row::Row::Header(row) if !(FORMAT_FIRST..=FORMAT).contains(&row.format) => {
                    return Err(Error::Format(row.format));
                }
                row::Row::Header(row) => header = Some(row),
                row::Row::End(end) if end.rows != rows => {
                    return Err(Error::Cut {
                        expected: end.rows,
                        found: rows,
                    });
                }
                row::Row::End(_) => ended = true,
                row => {
                    told.clear();
                    read_row(
                        Edit {
                            picture: &mut picture,
                            out: &mut told,
                            id: 0,
                        },
                        row,
                    )?;
                }
            }
            rows += 1;
        }
    }
    let Some(header) = header.filter(|_| ended) else {
        return Err(Error::Cut {
            expected: rows + 1,
            found: rows,
        });
    };
    picture.cluster_id = header.cluster_id;
    picture.routing_version = header.routing_version;
    picture.version = codec::version(header.version);
    Ok(picture)
}

fn read_row(mut edit: Edit<'_>, row: row::Row) -> Result<(), Error> {
    match row {
        // Read by the caller.
        row::Row::Header(_) | row::Row::End(_) => return Err(Error::Order),
        row::Row::Applied(row) => {
            let run = codec::run(row.run)?;
            let ahead = row.ahead.into_iter().collect();
            let applied = Applied {
                incarnation: run.incarnation,
                floor: row.floor,
                ahead,
            };
            edit.picture.requests.nodes.insert(run.node, applied);
        }
        row::Row::Node(row) => {
            let run = codec::run(row.run)?;
            let node = Node {
                run,
                live: row.live,
                since: row.since,
                name: row.name,
                address: row.address,
                draining: row.draining,
                directory: row.directory,
                first_group: row.first_group,
                joined: row.joined,
                version: codec::version(row.version),
                sessions_from: row.sessions_from,
            };
            edit.picture.nodes.insert(run.node, Arc::new(node));
        }
        row::Row::Forgotten(row) => {
            let forgotten = Forgotten {
                name: row.name,
                until: row.until,
                at: row.at,
            };
            edit.picture.forgotten.insert(row.node, Arc::new(forgotten));
        }
        row::Row::Vhost(row) => {
            let DescribeVhost {
                name,
                description,
                tags,
                default_queue_type,
                is_protected,
            } = row.into();
            let vhost = Arc::new(Vhost {
                name: name.clone(),
                description,
                tags,
                default_queue_type,
                is_protected,
                limits: Limits::default(),
            });
            edit.picture.vhosts.insert(name, Space::new(vhost));
        }
        row::Row::User(row) => {
            let AddUser { name, password, tags } = row.try_into()?;
            edit.put_user(User {
                name,
                password,
                tags,
                limits: Limits::default(),
            });
        }
        row::Row::VhostLimits(row) => {
            let space = edit.picture.vhosts.get_mut(row.vhost.as_str()).ok_or(Error::Order)?;
            Arc::make_mut(&mut space.vhost).limits = codec::limits(row.limits);
        }
        row::Row::UserLimits(row) => {
            let user = edit.picture.users.get_mut(row.user.as_str()).ok_or(Error::Order)?;
            Arc::make_mut(user).limits = codec::limits(row.limits);
        }
        row::Row::TopicPermission(row) => edit.put_topic_permission(row.into()),
        row::Row::Parameter(row) => {
            let Parameter {
                vhost,
                component,
                name,
                value,
            } = row.into();
            edit.picture.parameters.insert((vhost, component, name), value.into());
        }
        row::Row::Policy(row) => {
            let set: SetPolicy = row.try_into()?;
            let space = edit.picture.vhosts.get_mut(&*set.vhost).ok_or(Error::Order)?;
            let key = (set.operator, set.name.clone());
            space.policies.insert(key, Arc::new(Policy::new(set)));
        }
        row::Row::Permissions(row) => {
            let SetPermissions {
                user,
                vhost,
                configure,
                write,
                read,
            } = row.into();
            edit.put_permission(user, vhost, Permission::new(&configure, &write, &read));
        }
        row::Row::Exchange(row) => {
            let declare: DeclareExchange = row.declared.ok_or(Error::Row)?.try_into()?;
            let kind = declare.kind.parse().map_err(|_| Error::Row)?;
            edit.picture.space(&declare.vhost)?;
            edit.id = row.id;
            edit.add_exchange(kind, declare);
        }
        row::Row::Queue(row) => {
            let declare: DeclareQueue = row.declared.ok_or(Error::Row)?.try_into()?;
            edit.id = row.group;
            edit.add_queue(declare, Some(row.configured)).ok_or(Error::Order)?;
        }
        row::Row::Binding(row) => edit.add_binding(row.try_into()?),
    }
    Ok(())
}

/// See [`Picture::changes_since`].
pub(super) fn difference(old: &Picture, new: &Picture, out: &mut Vec<Effect>) {
    for queue in old
        .all_queues()
        .filter(|queue| new.queue_by_group(queue.group).is_none())
    {
        out.push(Effect::QueueDeleted(queue.clone()));
    }
    for space in old.vhosts.values() {
        out.extend(space.exchanges.values().cloned().map(Effect::ExchangeDeleted));
    }
    for vhost in old.vhosts().filter(|vhost| new.vhost(&vhost.name).is_none()) {
        out.push(Effect::VhostDeleted(vhost.name.clone()));
    }
    for user in old.users().filter(|user| new.user(&user.name).is_none()) {
        out.push(Effect::UserDeleted(user.name.clone()));
    }
    let live = |picture: &Picture, run| picture.nodes().any(|(_, node)| node.live && node.run == run);
    for (_, node) in old.nodes().filter(|(_, node)| node.live && !live(new, node.run)) {
        out.push(Effect::NodeDown(node.run));
    }
    for (_, node) in new.nodes().filter(|(_, node)| node.live && !live(old, node.run)) {
        out.push(Effect::NodeUp(node.run));
    }
    let draining = |picture: &Picture, id| picture.nodes().any(|(node, known)| node == id && known.draining);
    for (id, node) in new.nodes() {
        if node.draining != draining(old, id) {
            out.push(Effect::NodeDrains(id));
        }
    }
    out.push(Effect::NodesChanged);
    for space in new.vhosts.values() {
        out.extend(space.exchanges.values().cloned().map(Effect::ExchangeDeclared));
        for binding in space.bindings.values() {
            if let Some(exchange) = space.exchanges.get(&*binding.source) {
                out.push(Effect::Bound {
                    exchange: exchange.clone(),
                    binding: binding.clone(),
                });
            }
        }
    }
    for queue in new.all_queues() {
        match old.queue_by_group(queue.group) {
            None => out.push(Effect::QueueDeclared(queue.clone())),
            Some(known) => {
                if known.placement != queue.placement {
                    out.push(Effect::QueuePlaced(queue.clone()));
                }
                if known.configured != queue.configured {
                    out.push(Effect::QueueConfigured(queue.clone()));
                }
            }
        }
    }
}
