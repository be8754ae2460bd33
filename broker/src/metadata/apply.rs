//! Applying a log entry: each command is checked as a whole, then done as a whole, then answered.

use std::sync::Arc;

use bytes::Buf as _;
use prost::Message as _;
use warren_cluster::NodeId;
use warren_cluster::machine::Meta;
use warren_proto::metadata as proto;

use super::change::{AddUser, Bootstrap, Change, DeclareQueue, DescribeVhost, Parameter, Request, SetPermissions};
use super::edit::{Edit, VHOST_IDS};
use super::facts::{Node, Placement, Resource, Run, User, Vhost};
use super::limits::Limits;
use super::permission::Permission;
use super::policy::Policy;
use super::{Effect, Kind, Outcome, Picture, Refusal, checks, moves, nodes};
use crate::exchange;

/// Bits of an id below the entry's index.
const ID_BITS: u32 = 16;

/// The most ids, and so commands, that one entry can hold. Further commands are refused.
pub const IDS_MAX: u64 = 1 << ID_BITS;

pub(super) fn apply(picture: &mut Picture, meta: &Meta, mut payload: &[u8], out: &mut Vec<Effect>) {
    let mut used = 0;
    while payload.has_remaining() {
        // What does not decode was not written by us, and nothing after it can be trusted either.
        let Ok(command) = proto::Command::decode_length_delimited(&mut payload) else {
            return;
        };
        let request: Request = command.request.unwrap_or_default().into();
        let outcome = match Change::decode(command.change) {
            Ok(change) if change.since() > meta.version => Err(Refusal::NotYet {
                since: change.since(),
                agreed: meta.version,
            }),
            Ok(mut change) => {
                if meta.version >= nodes::LEFT_OUT_SINCE {
                    nodes::leave_out_gone(picture, &mut change);
                }
                if let Change::ReformQueue { obeyed, .. } = &mut change
                    && meta.version < nodes::OBEYED_SINCE
                {
                    *obeyed = None;
                }
                let first = used;
                used += match change {
                    Change::Bootstrap(_) | Change::AddVhost(_) => VHOST_IDS,
                    _ => 1,
                };
                if used > IDS_MAX {
                    Err(Refusal::Malformed("too many commands in one entry"))
                } else if picture.requests.first_time(request) {
                    perform(
                        Edit {
                            picture,
                            out,
                            id: (meta.index << ID_BITS) | first,
                        },
                        change,
                    )
                } else {
                    repeated(picture, &change)
                }
            }
            Err(refusal) => Err(refusal),
        };
        let outcome = outcome.unwrap_or_else(Outcome::Refused);
        out.push(Effect::Answer { request, outcome });
    }
}

/// What a requester is told who asks for the same once more, having missed the answer. It was done before, and
/// doing it now might undo what others have done since.
fn repeated(picture: &Picture, change: &Change) -> Result<Outcome, Refusal> {
    if let Change::DeclareQueue(declare) = change {
        let queue = picture.check_queue_declare(declare)?;
        return queue
            .map(Outcome::Queue)
            .ok_or_else(|| Refusal::NoQueue(Resource::queue(&declare.vhost, &declare.name)));
    }
    Ok(Outcome::Done)
}

/// Nothing is changed before the last check of a command has passed.
fn perform(mut edit: Edit<'_>, change: Change) -> Result<Outcome, Refusal> {
    match change {
        Change::Bootstrap(bootstrap) => self::bootstrap(edit, bootstrap),
        Change::AddVhost(describe) => {
            if edit.picture.vhost(&describe.name).is_some() {
                return Err(Refusal::VhostExists(describe.name));
            }
            edit.add_vhost(vhost(describe));
        }
        Change::SetVhost(describe) => match edit.picture.vhosts.get_mut(&*describe.name) {
            Some(space) => {
                let limits = space.vhost.limits.clone();
                space.vhost = Arc::new(Vhost {
                    limits,
                    ..vhost(describe)
                });
            }
            None => return Err(Refusal::NoVhost(describe.name)),
        },
        Change::DeleteVhost { name } => {
            if edit.picture.space(&name)?.vhost.is_protected {
                return Err(Refusal::VhostProtected);
            }
            edit.remove_vhost(&name);
        }
        Change::AddUser(add) => {
            if edit.picture.user(&add.name).is_some() {
                return Err(Refusal::UserExists(add.name));
            }
            edit.put_user(user(add));
        }
        Change::ChangePassword { name, password } => {
            let user = known_user(edit.picture, &name)?;
            edit.put_user(User { password, ..user });
        }
        Change::SetTags { name, tags } => {
            let user = known_user(edit.picture, &name)?;
            edit.put_user(User { tags, ..user });
        }
        Change::DeleteUser { name } => {
            known_user(edit.picture, &name)?;
            edit.remove_user(&name);
        }
        Change::SetPermissions(SetPermissions {
            user,
            vhost,
            configure,
            write,
            read,
        }) => {
            known_user(edit.picture, &user)?;
            edit.picture.space(&vhost)?;
            edit.put_permission(user, vhost, Permission::new(&configure, &write, &read));
        }
        Change::ClearPermissions { user, vhost } => {
            known_user(edit.picture, &user)?;
            edit.picture.space(&vhost)?;
            edit.picture.permissions.remove(&(user, vhost));
        }
        Change::DeclareExchange(declare) => {
            if edit.picture.check_exchange_declare(&declare)?.is_none() {
                match (declare.kind.parse::<exchange::Kind>(), &declare.delays) {
                    (Err(_), _) => return Err(Refusal::UnknownExchangeType(declare.kind)),
                    (Ok(exchange::Kind::Delayed), Some(Placement::Replicated { replicas, .. }))
                        if !replicas.is_empty() =>
                    {
                        edit.add_exchange(exchange::Kind::Delayed, declare);
                    }
                    (Ok(exchange::Kind::Delayed), _) => {
                        return Err(Refusal::Malformed("a delayed exchange without replicas"));
                    }
                    (Ok(kind), _) => edit.add_exchange(kind, declare),
                }
            }
        }
        Change::DeleteExchange(delete) => {
            if let Some(exchange) = edit.picture.check_exchange_delete(&delete)? {
                edit.remove_exchange(&exchange);
            }
        }
        Change::DeclareQueue(declare) => return declare_queue(edit, declare),
        Change::DeleteQueue { group } => edit.remove_queue(group),
        Change::PlaceQueue {
            group,
            replicas,
            leader,
        } => {
            moves::place_queue(edit, group, replicas, leader)?;
        }
        Change::QueueMoved { group, era } => moves::queue_moved(edit, group, era),
        Change::DrainNode { node, draining } => moves::drain_node(edit, node, draining)?,
        Change::Bind(bind) => {
            if edit.picture.check_bind(&bind)?.is_none() {
                edit.add_binding(bind);
            }
        }
        Change::Unbind(bind) => {
            if let Some(binding) = edit.picture.check_unbind(&bind)? {
                edit.remove_binding(&binding);
            }
        }
        Change::NodeUp {
            run,
            name,
            address,
            directory,
            version,
            sessions_from,
        } => {
            let agreed = edit.picture.version();
            if version < agreed {
                return Err(Refusal::TooOld {
                    node: name,
                    supported: version,
                    agreed,
                });
            }
            node_up(
                edit,
                Announcement {
                    run,
                    name,
                    address,
                    directory,
                    version,
                    sessions_from,
                },
            );
        }
        Change::RaiseVersion { version, nodes } => {
            // What an older build had snapshots of lacks the versions, so replicas need not agree on these. On runs they do.
            let known = edit.picture.nodes.values().map(|node| node.run);
            if !known.eq(nodes) {
                return Err(Refusal::NodesChanged);
            }
            if version > edit.picture.version {
                edit.picture.version = version;
                edit.configure_again();
            }
        }
        Change::NodeDown { run } => node_down(edit, run),
        Change::JoinNode {
            node,
            name,
            address,
            directory,
        } => nodes::join(edit, node, name, address, directory)?,
        Change::NodeForgotten { node } => {
            nodes::check_forget(edit.picture, node)?;
            nodes::forget(&mut edit, node, 0);
        }
        Change::Reform {
            survivors,
            until,
            cluster_id,
        } => nodes::reform(edit, &survivors, until, cluster_id)?,
        Change::ReformQueue {
            group,
            survivors,
            obeyed,
        } => nodes::reform_queue(&mut edit, group, &survivors, obeyed)?,
        Change::SessionEnded { session } => edit.remove_exclusive(session),
        other => settings(edit, other)?,
    }
    Ok(Outcome::Done)
}

/// What does not make or end anything, and holds for what there is.
fn settings(mut edit: Edit<'_>, change: Change) -> Result<(), Refusal> {
    match change {
        Change::SetPolicy(set) => {
            edit.picture.space(&set.vhost)?;
            let (vhost, operator, name) = (set.vhost.clone(), set.operator, set.name.clone());
            edit.put_policy(&vhost, operator, &name, Some(Policy::new(set)));
        }
        Change::ClearPolicy { vhost, name, operator } => {
            let space = edit.picture.space(&vhost)?;
            if !space.policies.contains_key(&(operator, name.clone())) {
                return Err(Refusal::NoParameter);
            }
            edit.put_policy(&vhost, operator, &name, None);
        }
        Change::SetVhostLimits { vhost, limits } => match edit.picture.vhosts.get_mut(&*vhost) {
            Some(space) => Arc::make_mut(&mut space.vhost).limits = limits,
            None => return Err(Refusal::NoVhost(vhost)),
        },
        Change::SetUserLimits { user, limits } => {
            let user = known_user(edit.picture, &user)?;
            edit.put_user(User { limits, ..user });
        }
        Change::SetTopicPermission(set) => {
            known_user(edit.picture, &set.user)?;
            edit.picture.space(&set.vhost)?;
            edit.put_topic_permission(set);
        }
        Change::ClearTopicPermission { user, vhost, exchange } => {
            known_user(edit.picture, &user)?;
            edit.picture.space(&vhost)?;
            edit.remove_topic_permission(user, vhost, exchange);
        }
        Change::SetParameter(parameter) => {
            let Parameter {
                vhost,
                component,
                name,
                value,
            } = parameter;
            if !(vhost.is_empty() && component.is_empty()) {
                edit.picture.space(&vhost)?;
            }
            edit.picture.parameters.insert((vhost, component, name), value.into());
        }
        Change::ClearParameter { vhost, component, name } => {
            let known = edit.picture.parameters.remove(&(vhost, component, name));
            known.ok_or(Refusal::NoParameter)?;
        }
        // Done by the caller.
        _ => {}
    }
    Ok(())
}

fn vhost(describe: DescribeVhost) -> Vhost {
    let DescribeVhost {
        name,
        description,
        tags,
        default_queue_type,
        is_protected,
    } = describe;
    Vhost {
        name,
        description,
        tags,
        default_queue_type,
        is_protected,
        limits: Limits::default(),
    }
}

fn user(add: AddUser) -> User {
    let AddUser { name, password, tags } = add;
    User {
        name,
        password,
        tags,
        limits: Limits::default(),
    }
}

fn known_user(picture: &Picture, name: &crate::name::UserName) -> Result<User, Refusal> {
    picture
        .user(name)
        .map(|user| User::clone(user))
        .ok_or_else(|| Refusal::NoUser(name.clone()))
}

fn bootstrap(mut edit: Edit<'_>, bootstrap: Bootstrap) {
    if edit.picture.is_bootstrapped() {
        return;
    }
    edit.picture.cluster_id = bootstrap.cluster_id;
    if edit.picture.vhost(&bootstrap.vhost).is_none() {
        edit.add_vhost(Vhost {
            name: bootstrap.vhost.clone(),
            ..Vhost::default()
        });
    }
    let name = bootstrap.user.name.clone();
    edit.put_user(user(bootstrap.user));
    edit.put_permission(name, bootstrap.vhost, Permission::new(".*", ".*", ".*"));
}

fn declare_queue(mut edit: Edit<'_>, declare: DeclareQueue) -> Result<Outcome, Refusal> {
    if let Some(existing) = edit.picture.check_queue_declare(&declare)? {
        return Ok(Outcome::Queue(existing));
    }
    // The proposer has validated the arguments by its own build's rules; whatever they hold, they are only read.
    checks::check_shape(Kind::of(&declare.arguments), &declare)?;
    match &declare.placement {
        Placement::Transient { home } if declare.is_transient() => check_alive(edit.picture, *home)?,
        Placement::Replicated { replicas, .. } if !declare.is_transient() && !replicas.is_empty() => {}
        _ => return Err(Refusal::Malformed("placement does not suit the queue")),
    }
    if let Some(owner) = declare.exclusive_owner {
        check_alive(
            edit.picture,
            Run {
                node: owner.node,
                incarnation: owner.incarnation,
            },
        )?;
    }
    let space = edit.picture.space(&declare.vhost)?;
    if let Some(max) = space.vhost.limits.queues_max()
        && space.queues.len() as u64 >= max
    {
        return Err(Refusal::QueueLimit {
            queue: declare.name,
            vhost: declare.vhost,
            max,
        });
    }
    edit.add_queue(declare, None)
        .map(Outcome::Queue)
        .ok_or(Refusal::Malformed("queue without vhost"))
}

/// Refuses what a run asked for that has ended since: nothing would ever delete it.
fn check_alive(picture: &Picture, run: Run) -> Result<(), Refusal> {
    match picture.nodes.get(&run.node) {
        Some(node) if node.run.incarnation > run.incarnation => Err(Refusal::NodeDown),
        Some(node) if node.run.incarnation == run.incarnation && !node.live => Err(Refusal::NodeDown),
        _ => Ok(()),
    }
}

/// See [`Change::NodeUp`].
struct Announcement {
    run: Run,
    name: String,
    address: String,
    directory: u64,
    version: u16,
    sessions_from: u64,
}

/// # When non-durable exchanges end
///
/// They must not outlive the cluster: when all of its nodes have stopped at some time, they are gone. The log cannot
/// see that moment, but each run of a node that is alive proves since when it did not occur: since that run's start
/// (`since`), or longer, if its node was known to be down when it started while others were alive, for then it joined
/// a cluster that they had seen all along. A run that starts where an older run of its node still counts as alive
/// proves nothing of the time before, since it may be the first to return after all had stopped.
/// An exchange ends when no live run proves that the cluster was alive ever since its declaration.
fn node_up(mut edit: Edit<'_>, announcement: Announcement) {
    let Announcement {
        run,
        name,
        address,
        directory,
        version,
        sessions_from,
    } = announcement;
    // One that was forgotten has to join, whatever it says on its way.
    if edit.picture.is_forgotten(run.node, directory) || edit.picture.is_gone(run.node) {
        return;
    }
    let known = edit.picture.nodes.get(&run.node).cloned();
    let since = match &known {
        // An old command that arrives late.
        Some(known) if known.run.incarnation > run.incarnation => return,
        Some(known) if known.run == run && known.live => known.since,
        Some(known) if known.live => {
            edit.out.push(Effect::NodeDown(known.run));
            edit.id
        }
        // The youngest proof: an older one may be that of a run that ended unnoticed.
        _ => {
            let others = edit.picture.nodes.values().filter(|node| node.live);
            others.map(|node| node.since).max().unwrap_or(edit.id)
        }
    };
    let draining = known.as_ref().is_some_and(|known| known.run == run && known.draining);
    let first_group = match &known {
        Some(known) if known.directory == directory => known.first_group,
        _ => edit.id,
    };
    let joined = known.as_ref().map_or(0, |known| known.joined);
    // What was announced earlier may arrive again.
    let earlier = known.as_ref().filter(|known| known.run == run);
    let sessions_from = earlier.map_or(0, |known| known.sessions_from).max(sessions_from);
    let is_known = known
        .as_ref()
        .is_some_and(|known| known.name == name && known.address == address);
    if !is_known {
        edit.out.push(Effect::NodesChanged);
    }
    // Also when it says only now which of its sessions have ended.
    let is_as_known = |known: Arc<Node>| known.run == run && known.live && known.sessions_from == sessions_from;
    let returned = !known.is_some_and(is_as_known);
    edit.picture.nodes.insert(
        run.node,
        Arc::new(Node {
            run,
            live: true,
            since,
            name,
            address,
            draining,
            directory,
            first_group,
            joined,
            version,
            sessions_from,
        }),
    );
    if run.incarnation > 0 {
        edit.remove_transient(run.node, run.incarnation - 1);
    }
    edit.remove_orphaned_exchanges();
    if returned {
        edit.out.push(Effect::NodeUp(run));
    }
}

pub(super) fn node_down(mut edit: Edit<'_>, run: Run) {
    edit.remove_transient(run.node, run.incarnation);
    if let Some(known) = edit.picture.nodes.get(&run.node).cloned()
        && known.run.incarnation <= run.incarnation
    {
        mark_down(&mut edit, run.node, &known, run);
    }
    edit.remove_orphaned_exchanges();
}

fn mark_down(edit: &mut Edit<'_>, id: NodeId, known: &Node, run: Run) {
    if known.live {
        edit.out.push(Effect::NodeDown(known.run));
    }
    edit.picture.nodes.insert(
        id,
        Arc::new(Node {
            run,
            live: false,
            ..known.clone()
        }),
    );
}
