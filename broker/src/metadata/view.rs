//! The read-only local picture of the metadata: what every node answers from without asking anybody.
//!
//! A [`Picture`] is the machine's whole state at one log position. Copying it is cheap, for it is made of maps that
//! share what they have in common, so the machine publishes one after each apply through a [`View`], the handle
//! that everybody else holds. Nothing here changes anything.

use std::ops::Bound;
use std::sync::Arc;

use arc_swap::ArcSwap;
use imbl::{OrdMap, OrdSet};
use warren_cluster::{GroupId, NodeId, version};
use warren_proto::record::SessionId;

use super::Effect;
use super::arguments::Kind;
use super::facts::{Binding, Destination, Exchange, Forgotten, Node, Queue, Resource, Run, User, Vhost};
use super::permission::{Permission, TopicPermissions};
use super::policy::{Applied, Policy};
use super::refusal::Refusal;
use super::requests::Requests;
use crate::amqp::{Table, Value};
use crate::exchange::{Arrival, Target};
use crate::name::{ExchangeName, QueueName, RoutingKey, UserName, VhostName};

/// There is no exchange of that name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("no such exchange")]
pub struct NoExchange;

/// The latest published [`Picture`]. Clones are handles on the same one; any thread may read at any time.
#[derive(Clone, Default)]
pub struct View {
    picture: Arc<ArcSwap<Picture>>,
}

impl View {
    /// A view of empty metadata.
    pub fn new() -> Self {
        Self::default()
    }

    /// One unchanging picture, for several questions that must fit together.
    pub fn picture(&self) -> Arc<Picture> {
        self.picture.load_full()
    }

    /// For the owner of the machine.
    pub fn publish(&self, picture: Picture) {
        self.picture.store(Arc::new(picture));
    }

    pub fn vhost_exists(&self, vhost: &str) -> bool {
        self.picture.load().vhost(vhost).is_some()
    }

    pub fn vhost(&self, vhost: &str) -> Option<Arc<Vhost>> {
        self.picture.load().vhost(vhost).cloned()
    }

    pub fn user(&self, name: &str) -> Option<Arc<User>> {
        self.picture.load().user(name).cloned()
    }

    /// What `user` may do in `vhost`; nothing if `None`, not even open a connection to it.
    pub fn permission(&self, user: &str, vhost: &str) -> Option<Arc<Permission>> {
        self.picture.load().permission(user, vhost).cloned()
    }

    pub fn exchange(&self, vhost: &str, name: &str) -> Option<Arc<Exchange>> {
        self.picture.load().exchange(vhost, name).cloned()
    }

    pub fn queue(&self, vhost: &str, name: &str) -> Option<Arc<Queue>> {
        self.picture.load().queue(vhost, name).cloned()
    }

    pub fn queue_by_group(&self, group: GroupId) -> Option<Arc<Queue>> {
        self.picture.load().queue_by_group(group).cloned()
    }

    /// Grows whenever any route may have changed: a route found under one version holds while that version does.
    pub fn routing_version(&self) -> u64 {
        self.picture.load().routing_version()
    }
}

/// The metadata at one log position. A clone shares everything.
#[derive(Clone, Default)]
pub struct Picture {
    /// Empty until the cluster has been bootstrapped.
    pub(super) cluster_id: String,
    pub(super) routing_version: u64,
    /// The version of entries that was agreed on; 0 in a picture of nothing.
    pub(super) version: u16,
    pub(super) requests: Requests,
    pub(super) nodes: OrdMap<NodeId, Arc<Node>>,
    /// Nodes that were removed for good; others may have joined under their names.
    pub(super) forgotten: OrdMap<NodeId, Arc<Forgotten>>,
    pub(super) users: OrdMap<UserName, Arc<User>>,
    pub(super) permissions: OrdMap<(UserName, VhostName), Arc<Permission>>,
    /// None is empty.
    pub(super) topics: OrdMap<(UserName, VhostName), Arc<TopicPermissions>>,
    /// By vhost, component and name; those of the whole cluster have neither vhost nor component.
    pub(super) parameters: OrdMap<(VhostName, String, String), Arc<str>>,
    pub(super) vhosts: OrdMap<VhostName, Space>,
    pub(super) groups: OrdMap<GroupId, Arc<Queue>>,
    /// Exclusive queues by owner.
    pub(super) exclusive: OrdSet<(SessionId, GroupId)>,
    /// Transient queues by home.
    pub(super) transient: OrdSet<(Run, GroupId)>,
    /// What replicated queues ask of each node. A node that none asks anything of is not there.
    pub(super) load: OrdMap<NodeId, Load>,
    /// Exchanges that do not outlive the cluster: vhost, name.
    pub(super) transient_exchanges: OrdSet<(VhostName, ExchangeName)>,
}

/// What a node has of the replicated queues.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Load {
    pub replicas: usize,
    /// Queues that should be led from there.
    pub leaders: usize,
}

/// What one vhost holds.
#[derive(Clone)]
pub(super) struct Space {
    pub(super) vhost: Arc<Vhost>,
    /// By whether they are operators', then by name.
    pub(super) policies: OrdMap<(bool, String), Arc<Policy>>,
    pub(super) exchanges: OrdMap<ExchangeName, Arc<Exchange>>,
    pub(super) queues: OrdMap<QueueName, Arc<Queue>>,
    pub(super) bindings: OrdMap<BindingKey, Arc<Binding>>,
    /// The same bindings, ordered by destination first.
    pub(super) incoming: OrdMap<(Destination, BindingKey), Arc<Binding>>,
}

/// What makes a binding the one it is; ordered by source.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) struct BindingKey {
    source: ExchangeName,
    /// `None` sorts before every destination: the start of a source's bindings.
    destination: Option<Destination>,
    routing_key: RoutingKey,
    /// The arguments' encoded fields in the order of their names.
    arguments: Vec<u8>,
}

impl BindingKey {
    pub(super) fn new(
        source: &ExchangeName,
        destination: &Destination,
        routing_key: &RoutingKey,
        arguments: &Table,
    ) -> Self {
        let arguments = if arguments.is_empty() {
            Vec::new()
        } else {
            canonical(arguments)
        };
        Self {
            source: source.clone(),
            destination: Some(destination.clone()),
            routing_key: routing_key.clone(),
            arguments,
        }
    }

    pub(super) fn of(binding: &Binding) -> Self {
        Self::new(
            &binding.source,
            &binding.destination,
            &binding.routing_key,
            &binding.arguments,
        )
    }

    fn first(source: ExchangeName) -> Self {
        Self {
            source,
            destination: None,
            routing_key: RoutingKey::default(),
            arguments: Vec::new(),
        }
    }
}

/// The same bytes for tables that are equal: fields in the order of their names.
fn canonical(table: &Table) -> Vec<u8> {
    fn sorted(table: &Table) -> Table {
        let mut fields: Vec<_> = table
            .iter()
            .map(|(name, value)| (name.clone(), sorted_value(value)))
            .collect();
        fields.sort_by(|one, other| one.0.cmp(&other.0));
        Table(fields)
    }
    fn sorted_value(value: &Value) -> Value {
        if let Value::Table(table) = value {
            return Value::Table(sorted(table));
        }
        if let Value::Array(values) = value {
            return Value::Array(values.iter().map(sorted_value).collect());
        }
        value.clone()
    }
    sorted(table).to_bytes().to_vec()
}

impl Space {
    pub(super) fn policies_of_queue(&self, kind: Kind, name: &str) -> Applied {
        Applied::to_queue(self.policies.values(), kind, name)
    }

    pub(super) fn policies_of_exchange(&self, name: &str) -> Applied {
        Applied::to_exchange(self.policies.values(), name)
    }

    /// The bindings of one exchange as their source.
    pub(super) fn outgoing<'a>(&'a self, source: &ExchangeName) -> impl Iterator<Item = &'a Arc<Binding>> + use<'a> {
        let first = BindingKey::first(source.clone());
        let source = source.clone();
        self.bindings
            .range(first..)
            .map(|(_, binding)| binding)
            .take_while(move |binding| binding.source == source)
    }

    /// The bindings of one queue or exchange as their destination.
    pub(super) fn incoming<'a>(
        &'a self,
        destination: &Destination,
    ) -> impl Iterator<Item = &'a Arc<Binding>> + use<'a> {
        let first = (destination.clone(), BindingKey::first(ExchangeName::default()));
        let destination = destination.clone();
        self.incoming
            .range((Bound::Included(first), Bound::Unbounded))
            .map(|(_, binding)| binding)
            .take_while(move |binding| binding.destination == destination)
    }
}

impl Picture {
    /// Appends what has to be told to somebody who knows `old` so that he knows this picture: for a replica that was
    /// restored instead of applying every entry and, with an empty `old`, for one that starts.
    ///
    /// Every exchange is deleted, declared and bound anew: its routes are this picture's own, and empty at first.
    pub fn changes_since(&self, old: &Self, out: &mut Vec<Effect>) {
        super::snapshot::difference(old, self, out);
    }

    /// Whether the cluster has been bootstrapped.
    pub fn is_bootstrapped(&self) -> bool {
        !self.cluster_id.is_empty()
    }

    pub fn cluster_id(&self) -> &str {
        &self.cluster_id
    }

    pub fn routing_version(&self) -> u64 {
        self.routing_version
    }

    /// The version of entries that all nodes have agreed on.
    pub fn version(&self) -> u16 {
        self.version.max(version::FIRST)
    }

    /// The newest version that all nodes apply, `members` and all others that are known. A node that does not run may
    /// return as an older build.
    pub(super) fn supported(&self, members: &[NodeId]) -> u16 {
        let says = |node: &Arc<Node>| if node.live { node.version } else { version::FIRST };
        let member = |member| self.nodes.get(member).map_or(version::FIRST, says);
        let all = members.iter().map(member).chain(self.nodes.values().map(says));
        all.min().unwrap_or(version::FIRST)
    }

    pub fn vhost(&self, name: &str) -> Option<&Arc<Vhost>> {
        self.vhosts.get(name).map(|space| &space.vhost)
    }

    pub fn user(&self, name: &str) -> Option<&Arc<User>> {
        self.users.get(name)
    }

    pub fn permission(&self, user: &str, vhost: &str) -> Option<&Arc<Permission>> {
        self.permissions.get(&(UserName::from(user), VhostName::from(vhost)))
    }

    /// What `user` may do with topic exchanges of `vhost`; everything if `None`.
    pub fn topic_permissions(&self, user: &str, vhost: &str) -> Option<&Arc<TopicPermissions>> {
        if self.topics.is_empty() {
            return None;
        }
        self.topics.get(&(UserName::from(user), VhostName::from(vhost)))
    }

    pub fn exchange(&self, vhost: &str, name: &str) -> Option<&Arc<Exchange>> {
        self.vhosts.get(vhost)?.exchanges.get(name)
    }

    pub fn queue(&self, vhost: &str, name: &str) -> Option<&Arc<Queue>> {
        self.vhosts.get(vhost)?.queues.get(name)
    }

    pub fn queue_by_group(&self, group: GroupId) -> Option<&Arc<Queue>> {
        self.groups.get(&group)
    }

    /// The queue, or the 404 that a client gets.
    pub fn expect_queue(&self, vhost: &str, name: &str) -> Result<&Arc<Queue>, Refusal> {
        self.queue(vhost, name)
            .ok_or_else(|| Refusal::NoQueue(Resource::queue(vhost, name)))
    }

    /// The exchange, or the 404 that a client gets.
    pub fn expect_exchange(&self, vhost: &str, name: &str) -> Result<&Arc<Exchange>, Refusal> {
        self.exchange(vhost, name)
            .ok_or_else(|| Refusal::NoExchange(Resource::exchange(vhost, name)))
    }

    /// The distinct queues that a message gets to, by all its routing keys (the publish's own, CC and BCC).
    ///
    /// Where a delayed exchange is to hold it back, what holds it ([`Queue::is_delay`]) stands for all that the
    /// exchange leads to.
    ///
    /// Bindings to exchanges are followed, each exchange once. Where an exchange has nothing for the message, its
    /// alternate exchange is followed instead; one that is missing takes nothing. Queues come by ascending group.
    pub fn route(&self, vhost: &str, exchange: &str, arrival: &Arrival<'_>) -> Result<Vec<Arc<Queue>>, NoExchange> {
        let space = self.vhosts.get(vhost).ok_or(NoExchange)?;
        if exchange.is_empty() {
            let mut queues: Vec<_> = arrival
                .routing_keys
                .iter()
                .filter_map(|key| space.queues.get(*key).cloned())
                .collect();
            if queues.len() > 1 {
                queues.sort_unstable_by_key(|queue| queue.group);
                queues.dedup_by_key(|queue| queue.group);
            }
            return Ok(queues);
        }
        let first = space.exchanges.get(exchange).ok_or(NoExchange)?;
        let mut groups: Vec<GroupId> = Vec::new();
        let mut found: Vec<Target> = Vec::new();
        let mut visited: Vec<&Arc<Exchange>> = vec![first];
        let follow = |name: &str, visited: &mut Vec<_>| {
            if let Some(exchange) = space.exchanges.get(name)
                && !visited.iter().any(|seen: &&Arc<Exchange>| seen.id == exchange.id)
            {
                visited.push(exchange);
            }
        };
        let mut next = 0;
        while let Some(exchange) = visited.get(next).copied() {
            next += 1;
            found.clear();
            match exchange.delay_group() {
                Some(group) if arrival.delay_ms().is_some() => found.push(Target::Queue(group)),
                _ => exchange.with_routes(|matcher| matcher.matches(arrival, &mut found)),
            }
            if found.is_empty()
                && let Some(alternate) = &exchange.alternate
            {
                follow(alternate, &mut visited);
            }
            for target in &found {
                match target {
                    Target::Queue(group) => groups.push(*group),
                    Target::Exchange(name) => follow(name, &mut visited),
                }
            }
        }
        groups.sort_unstable();
        groups.dedup();
        Ok(groups
            .iter()
            .filter_map(|group| self.groups.get(group).cloned())
            .collect())
    }

    pub fn vhosts(&self) -> impl Iterator<Item = &Arc<Vhost>> {
        self.vhosts.values().map(|space| &space.vhost)
    }

    pub fn users(&self) -> impl Iterator<Item = &Arc<User>> {
        self.users.values()
    }

    /// By user, then vhost.
    pub fn permissions(&self) -> impl Iterator<Item = (&UserName, &VhostName, &Arc<Permission>)> {
        self.permissions
            .iter()
            .map(|((user, vhost), permission)| (user, vhost, permission))
    }

    /// By user, then vhost.
    pub fn all_topic_permissions(&self) -> impl Iterator<Item = (&UserName, &VhostName, &Arc<TopicPermissions>)> {
        self.topics
            .iter()
            .map(|((user, vhost), permissions)| (user, vhost, permissions))
    }

    /// By vhost, component and name; vhost and component are empty where it is the whole cluster's.
    pub fn parameters(&self) -> impl Iterator<Item = (&VhostName, &str, &str, &str)> {
        self.parameters
            .iter()
            .map(|((vhost, component, name), value)| (vhost, component.as_str(), name.as_str(), &**value))
    }

    /// A vhost's policies of users, or of operators, by name.
    pub fn policies(&self, vhost: &str, operator: bool) -> impl Iterator<Item = &Arc<Policy>> {
        let space = self.vhosts.get(vhost).into_iter();
        space
            .flat_map(|space| space.policies.values())
            .filter(move |policy| policy.set.operator == operator)
    }

    /// The policies that a queue of that type and name has, or would have.
    pub fn policies_of_queue(&self, vhost: &str, kind: Kind, name: &str) -> Applied {
        let space = self.vhosts.get(vhost);
        space.map_or_else(Applied::default, |space| space.policies_of_queue(kind, name))
    }

    /// Nodes that were removed for good; others may have joined under their names.
    pub fn forgotten(&self) -> impl Iterator<Item = (NodeId, &Arc<Forgotten>)> {
        self.forgotten.iter().map(|(id, forgotten)| (*id, forgotten))
    }

    /// Whether the node with that data directory was removed for good.
    pub fn is_forgotten(&self, node: NodeId, directory: u64) -> bool {
        let forgotten = self.forgotten.get(&node);
        forgotten.is_some_and(|forgotten| directory <= forgotten.until)
    }

    /// Whether there was such a node, and is none any more.
    pub fn is_gone(&self, node: NodeId) -> bool {
        self.forgotten.contains_key(&node) && !self.nodes.contains_key(&node)
    }

    /// Whether a node that wants to join was part of the cluster before and is still: perhaps it lost its disk.
    pub fn comes_back(&self, node: NodeId, name: &str, directory: u64) -> bool {
        let known = self.nodes.get(&node).filter(|known| known.name == name);
        let was_here = |known: &Arc<Node>| known.directory == directory || known.run.incarnation > 0;
        known.is_some_and(was_here) && !self.is_forgotten(node, directory)
    }

    pub fn node(&self, node: NodeId) -> Option<&Arc<Node>> {
        self.nodes.get(&node)
    }

    /// Whether nodes can join already.
    pub fn check_join(&self) -> Result<(), Refusal> {
        let (since, agreed) = (super::nodes::VERSION, self.version());
        if agreed < since {
            return Err(Refusal::NotYet { since, agreed });
        }
        Ok(())
    }

    /// Whether all nodes that run know how that one is forgotten. It may be what keeps them from agreeing on a version.
    pub fn check_forget(&self, gone: NodeId) -> Result<(), Refusal> {
        let others = self.nodes.iter().filter(|(node, known)| **node != gone && known.live);
        let least = others.map(|(_, known)| known.version).min().unwrap_or(version::FIRST);
        let (since, agreed) = (super::nodes::VERSION, least.max(self.version()));
        if agreed < since {
            return Err(Refusal::NotYet { since, agreed });
        }
        Ok(())
    }

    /// The latest decision on which nodes there are; 0: there was none.
    pub fn nodes_era(&self) -> u64 {
        let joined = self.nodes.values().map(|node| node.joined);
        let forgotten = self.forgotten.values().map(|forgotten| forgotten.at);
        joined.chain(forgotten).max().unwrap_or(0)
    }

    pub fn nodes(&self) -> impl Iterator<Item = (NodeId, &Arc<Node>)> {
        self.nodes.iter().map(|(id, node)| (*id, node))
    }

    /// How many replicas and leaders of queues have been given to a node.
    pub fn load(&self, node: NodeId) -> Load {
        self.load.get(&node).copied().unwrap_or_default()
    }

    /// Every exchange of a vhost by name, the default exchange included; none if there is no such vhost.
    pub fn exchanges(&self, vhost: &str) -> impl Iterator<Item = &Arc<Exchange>> {
        self.vhosts
            .get(vhost)
            .into_iter()
            .flat_map(|space| space.exchanges.values())
    }

    /// Every queue of a vhost by name.
    pub fn queues(&self, vhost: &str) -> impl Iterator<Item = &Arc<Queue>> {
        self.vhosts
            .get(vhost)
            .into_iter()
            .flat_map(|space| space.queues.values())
    }

    /// Every queue of the cluster by group.
    pub fn all_queues(&self) -> impl Iterator<Item = &Arc<Queue>> {
        self.groups.values()
    }

    /// Every binding of a vhost by source, without those that the default exchange has with every queue.
    pub fn bindings(&self, vhost: &str) -> impl Iterator<Item = &Arc<Binding>> {
        self.vhosts
            .get(vhost)
            .into_iter()
            .flat_map(|space| space.bindings.values())
    }

    /// The bindings that lead out of an exchange.
    pub fn bindings_from(&self, vhost: &str, source: &str) -> impl Iterator<Item = &Arc<Binding>> {
        let source = ExchangeName::from(source);
        self.vhosts
            .get(vhost)
            .into_iter()
            .flat_map(move |space| space.outgoing(&source))
    }

    /// The bindings that lead to a queue or an exchange.
    pub fn bindings_to(&self, vhost: &str, destination: &Destination) -> impl Iterator<Item = &Arc<Binding>> {
        self.vhosts
            .get(vhost)
            .into_iter()
            .flat_map(move |space| space.incoming(destination))
    }

    /// The sessions of this run that own exclusive queues, each once, in order.
    pub fn exclusive_owners(&self, run: Run) -> impl Iterator<Item = SessionId> {
        let first = SessionId {
            node: run.node,
            incarnation: run.incarnation,
            id: 0,
        };
        let mut last = None;
        self.exclusive
            .range((first, 0)..)
            .map(|(owner, _)| *owner)
            .take_while(move |owner| (owner.node, owner.incarnation) == (run.node, run.incarnation))
            .filter(move |owner| last.replace(*owner) != Some(*owner))
    }

    /// The exclusive queues of a session.
    pub fn exclusive_queues(&self, session: SessionId) -> impl Iterator<Item = &Arc<Queue>> {
        let first = (session, GroupId::MIN);
        let groups = self
            .exclusive
            .range(first..)
            .take_while(move |(owner, _)| *owner == session);
        groups.filter_map(|(_, group)| self.groups.get(group))
    }
}
