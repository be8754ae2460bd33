//! Changing the picture: every edit keeps the indexes together, tells what happened, and follows up what it entails.

use std::sync::Arc;

use warren_cluster::{GroupId, NodeId};
use warren_proto::record::SessionId;

use super::Effect;
use super::arguments::{Arguments, Kind};
use super::change::{Bind, DeclareExchange, DeclareQueue, SetTopicPermission};
use super::facts::{Binding, Destination, Exchange, Placement, Queue, Run, User, Vhost};
use super::permission::{Permission, TopicPermission};
use super::policy::Policy;
use super::view::{BindingKey, Load, Picture, Space};
use crate::exchange::{self, Target};
use crate::name::{ExchangeName, QueueName, UserName, VhostName};

/// What every vhost starts with: name, type, internal.
const PREDECLARED: [(&str, exchange::Kind, bool); 7] = [
    ("", exchange::Kind::Direct, false),
    ("amq.direct", exchange::Kind::Direct, false),
    ("amq.fanout", exchange::Kind::Fanout, false),
    ("amq.headers", exchange::Kind::Headers, false),
    ("amq.match", exchange::Kind::Headers, false),
    ("amq.rabbitmq.trace", exchange::Kind::Topic, true),
    ("amq.topic", exchange::Kind::Topic, false),
];

/// The type of an exchange that every vhost has.
pub fn predeclared(name: &str) -> Option<exchange::Kind> {
    let known = PREDECLARED.iter().find(|(own, ..)| *own == name);
    known.map(|(_, kind, _)| *kind)
}

/// A change under way. Its checks have passed.
pub(super) struct Edit<'a> {
    pub(super) picture: &'a mut Picture,
    pub(super) out: &'a mut Vec<Effect>,
    /// What the command creates gets this id, and the next ones if it creates several things. Those of a later
    /// command are greater.
    pub(super) id: u64,
}

/// How many ids a command may use that creates a vhost; any other one uses a single id.
pub(super) const VHOST_IDS: u64 = PREDECLARED.len() as u64;

impl Edit<'_> {
    fn routes_changed(&mut self) {
        self.picture.routing_version = self.id;
    }

    pub(super) fn add_vhost(&mut self, vhost: Vhost) {
        let name = vhost.name.clone();
        let mut space = Space::new(Arc::new(vhost));
        for (id, (exchange, kind, internal)) in (self.id..).zip(PREDECLARED) {
            let exchange = Arc::new(Exchange::new(
                id,
                name.clone(),
                exchange.into(),
                kind,
                true,
                false,
                internal,
                crate::amqp::Table::new(),
            ));
            space.exchanges.insert(exchange.name.clone(), exchange.clone());
            self.out.push(Effect::ExchangeDeclared(exchange));
        }
        self.picture.vhosts.insert(name, space);
        self.routes_changed();
    }

    pub(super) fn remove_vhost(&mut self, name: &VhostName) {
        let Some(space) = self.picture.vhosts.remove(name) else {
            return;
        };
        for queue in space.queues.values() {
            self.forget_queue(queue);
        }
        for exchange in space.exchanges.values() {
            self.picture
                .transient_exchanges
                .remove(&(name.clone(), exchange.name.clone()));
            self.out.push(Effect::ExchangeDeleted(exchange.clone()));
            self.forget_delays(exchange);
        }
        remove_where(&mut self.picture.permissions, |(_, vhost)| vhost == name);
        remove_where(&mut self.picture.topics, |(_, vhost)| vhost == name);
        remove_where(&mut self.picture.parameters, |(vhost, _, _)| vhost == name);
        self.out.push(Effect::VhostDeleted(name.clone()));
        self.routes_changed();
    }

    /// Adds or replaces a policy, or removes it.
    pub(super) fn put_policy(&mut self, vhost: &str, operator: bool, name: &str, policy: Option<Policy>) {
        let Some(space) = self.picture.vhosts.get_mut(vhost) else {
            return;
        };
        let key = (operator, name.to_owned());
        match policy {
            Some(policy) => space.policies.insert(key, Arc::new(policy)),
            None => space.policies.remove(&key),
        };
        self.apply_policies(vhost);
    }

    /// Has every queue and exchange of a vhost obey the policies that there are.
    fn apply_policies(&mut self, vhost: &str) {
        let Some(space) = self.picture.vhosts.get_mut(vhost) else {
            return;
        };
        let queues = space.queues.values().filter_map(|queue| {
            let policies = space.policies_of_queue(queue.kind, &queue.name);
            (!policies.is_same(&queue.policies)).then(|| (queue.clone(), policies))
        });
        let queues: Vec<_> = queues.collect();
        let exchanges = space.exchanges.values().filter_map(|exchange| {
            let policies = space.policies_of_exchange(&exchange.name);
            (!policies.is_same(&exchange.policies)).then(|| exchange.with_policies(policies))
        });
        let exchanges: Vec<_> = exchanges.collect();
        for exchange in exchanges {
            space.exchanges.insert(exchange.name.clone(), Arc::new(exchange));
        }
        for (known, policies) in queues {
            let settings = policies.settings(known.kind, &known.arguments);
            let is_other = settings != known.settings;
            let queue = self.replace_queue(Queue {
                policies,
                settings,
                configured: if is_other { self.id } else { known.configured },
                ..Queue::clone(&known)
            });
            if is_other {
                self.out.push(Effect::QueueConfigured(queue));
            }
        }
        // Cached routes hold what queues and exchanges were.
        self.routes_changed();
    }

    /// Has every queue that was told other settings than its first ones, or should have been, told them anew: entries of a
    /// new version say more, and builds differ in what policies mean.
    pub(super) fn configure_again(&mut self) {
        let differs = |queue: &Queue| queue.settings != Arguments::read(queue.kind, &queue.arguments);
        let queues = self.picture.groups.values();
        let queues = queues.filter(|queue| !queue.is_delay && (queue.configured > 0 || differs(queue)));
        for known in queues.cloned().collect::<Vec<_>>() {
            let queue = self.replace_queue(Queue {
                configured: self.id,
                ..Queue::clone(&known)
            });
            self.out.push(Effect::QueueConfigured(queue));
        }
    }

    /// Puts a queue in the place of what it was.
    fn replace_queue(&mut self, queue: Queue) -> Arc<Queue> {
        let queue = Arc::new(queue);
        if let Some(space) = self.picture.vhosts.get_mut(&*queue.vhost).filter(|_| !queue.is_delay) {
            space.queues.insert(queue.name.clone(), queue.clone());
        }
        self.picture.groups.insert(queue.group, queue.clone());
        queue
    }

    pub(super) fn put_topic_permission(&mut self, set: SetTopicPermission) {
        let SetTopicPermission {
            user,
            vhost,
            exchange,
            write,
            read,
        } = set;
        let permission = TopicPermission::new(&user, &vhost, &write, &read);
        let known = self.picture.topics.entry((user, vhost)).or_default();
        Arc::make_mut(known).0.insert(exchange, permission);
    }

    pub(super) fn remove_topic_permission(&mut self, user: UserName, vhost: VhostName, exchange: Option<ExchangeName>) {
        let key = (user, vhost);
        let Some(known) = self.picture.topics.get_mut(&key) else {
            return;
        };
        match exchange {
            Some(exchange) => drop(Arc::make_mut(known).0.remove(&exchange)),
            None => Arc::make_mut(known).0.clear(),
        }
        if known.0.is_empty() {
            self.picture.topics.remove(&key);
        }
    }

    pub(super) fn put_user(&mut self, user: User) {
        self.picture.users.insert(user.name.clone(), Arc::new(user));
    }

    pub(super) fn remove_user(&mut self, name: &UserName) {
        self.picture.users.remove(name);
        remove_where(&mut self.picture.permissions, |(user, _)| user == name);
        remove_where(&mut self.picture.topics, |(user, _)| user == name);
        self.out.push(Effect::UserDeleted(name.clone()));
    }

    pub(super) fn put_permission(&mut self, user: UserName, vhost: VhostName, permission: Permission) {
        self.picture.permissions.insert((user, vhost), Arc::new(permission));
    }

    /// A delayed exchange needs a placement: the checks have seen to it.
    pub(super) fn add_exchange(&mut self, kind: exchange::Kind, declare: DeclareExchange) {
        let DeclareExchange {
            vhost,
            name,
            kind: _,
            durable,
            auto_delete,
            internal,
            arguments,
            delays,
        } = declare;
        let Some(space) = self.picture.vhosts.get_mut(&*vhost) else {
            return;
        };
        let exchange = Exchange::new(
            self.id,
            vhost.clone(),
            name.clone(),
            kind,
            durable,
            auto_delete,
            internal,
            arguments,
        );
        let policies = space.policies_of_exchange(&name);
        let exchange = Arc::new(if policies.is_none() {
            exchange
        } else {
            exchange.with_policies(policies)
        });
        space.exchanges.insert(name.clone(), exchange.clone());
        if !durable {
            self.picture.transient_exchanges.insert((vhost, name));
        }
        self.out.push(Effect::ExchangeDeclared(exchange.clone()));
        if let (Some(group), Some(placement)) = (exchange.delay_group(), delays) {
            let queue = Arc::new(Queue::delay(&exchange, placement));
            self.picture.groups.insert(group, queue.clone());
            self.picture.count_in(&queue);
            self.out.push(Effect::QueueDeclared(queue));
        }
        self.routes_changed();
    }

    /// Adds a queue; `configured` is as in [`Queue`] for one that was there before.
    pub(super) fn add_queue(&mut self, declare: DeclareQueue, configured: Option<u64>) -> Option<Arc<Queue>> {
        let kind = Kind::of(&declare.arguments);
        let policies = self.picture.policies_of_queue(&declare.vhost, kind, &declare.name);
        let settings = policies.settings(kind, &declare.arguments);
        let is_declared = policies.is_none() || settings == Arguments::read(kind, &declare.arguments);
        let configured = configured.unwrap_or(if is_declared { 0 } else { self.id });
        let DeclareQueue {
            vhost,
            name,
            durable,
            auto_delete,
            exclusive_owner,
            arguments,
            placement,
        } = declare;
        let queue = Arc::new(Queue {
            group: self.id,
            vhost,
            name,
            kind,
            durable: durable && exclusive_owner.is_none(),
            auto_delete,
            exclusive_owner,
            arguments,
            policies,
            settings,
            configured,
            placement,
            is_delay: false,
        });
        let space = self.picture.vhosts.get_mut(&*queue.vhost)?;
        space.queues.insert(queue.name.clone(), queue.clone());
        self.picture.groups.insert(queue.group, queue.clone());
        self.picture.count_in(&queue);
        if let Some(owner) = queue.exclusive_owner {
            self.picture.exclusive.insert((owner, queue.group));
        }
        if let Some(home) = queue.home() {
            self.picture.transient.insert((home, queue.group));
        }
        self.out.push(Effect::QueueDeclared(queue.clone()));
        self.routes_changed();
        Some(queue)
    }

    pub(super) fn place_queue(&mut self, group: GroupId, placement: Placement) {
        let Some(known) = self.picture.groups.get(&group).cloned() else {
            return;
        };
        let queue = self.replace_queue(Queue {
            placement,
            ..Queue::clone(&known)
        });
        self.picture.count_out(&known);
        self.picture.count_in(&queue);
        self.out.push(Effect::QueuePlaced(queue));
        // Cached routes hold the old placement.
        self.routes_changed();
    }

    pub(super) fn remove_queue(&mut self, group: GroupId) {
        let Some(queue) = self.picture.groups.get(&group).cloned() else {
            return;
        };
        // What a delayed exchange holds ends with the exchange only.
        if queue.is_delay {
            return;
        }
        let Some(space) = self.picture.vhosts.get_mut(&*queue.vhost) else {
            return;
        };
        space.queues.remove(&*queue.name);
        self.forget_queue(&queue);
        self.routes_changed();
        let mut unused = Vec::new();
        self.remove_incoming(&queue.vhost, &Destination::Queue(queue.name.clone()), &mut unused);
        self.remove_unused(unused);
    }

    /// Removes a queue from every index but its vhost's.
    fn forget_queue(&mut self, queue: &Arc<Queue>) {
        self.picture.groups.remove(&queue.group);
        self.picture.count_out(queue);
        if let Some(owner) = queue.exclusive_owner {
            self.picture.exclusive.remove(&(owner, queue.group));
        }
        if let Some(home) = queue.home() {
            self.picture.transient.remove(&(home, queue.group));
        }
        self.out.push(Effect::QueueDeleted(queue.clone()));
    }

    /// What an exchange that is deleted still holds goes with it.
    fn forget_delays(&mut self, exchange: &Exchange) {
        let group = exchange.delay_group();
        if let Some(queue) = group.and_then(|group| self.picture.groups.get(&group).cloned()) {
            self.forget_queue(&queue);
        }
    }

    pub(super) fn remove_exchange(&mut self, exchange: &Arc<Exchange>) {
        let mut unused = Vec::new();
        self.remove_one_exchange(exchange, &mut unused);
        self.remove_unused(unused);
    }

    pub(super) fn add_binding(&mut self, bind: Bind) {
        let Bind {
            vhost,
            source,
            destination,
            routing_key,
            arguments,
            session: _,
        } = bind;
        let Some(space) = self.picture.vhosts.get_mut(&*vhost) else {
            return;
        };
        let Some(exchange) = space.exchanges.get(&*source).cloned() else {
            return;
        };
        let target = match &destination {
            Destination::Queue(name) => match space.queues.get(&**name) {
                Some(queue) => Target::Queue(queue.group),
                None => return,
            },
            Destination::Exchange(name) => Target::Exchange(name.clone()),
        };
        let binding = Arc::new(Binding {
            vhost,
            source,
            destination,
            target,
            routing_key,
            arguments,
        });
        space.insert_binding(binding.clone());
        self.out.push(Effect::Bound { exchange, binding });
        self.routes_changed();
    }

    pub(super) fn remove_binding(&mut self, binding: &Arc<Binding>) {
        let mut unused = Vec::new();
        self.remove_one_binding(binding, &mut unused);
        self.remove_unused(unused);
    }

    /// Removes a binding; if it was its source's last and the source is to go with it, adds the source to `unused`.
    fn remove_one_binding(&mut self, binding: &Arc<Binding>, unused: &mut Vec<Arc<Exchange>>) {
        let Some(space) = self.picture.vhosts.get_mut(&*binding.vhost) else {
            return;
        };
        space.remove_binding(binding);
        if let Some(exchange) = space.exchanges.get(&*binding.source) {
            if exchange.auto_delete && space.outgoing(&binding.source).next().is_none() {
                unused.push(exchange.clone());
            }
            self.out.push(Effect::Unbound {
                exchange: exchange.clone(),
                binding: binding.clone(),
            });
        }
        self.routes_changed();
    }

    fn remove_incoming(&mut self, vhost: &VhostName, destination: &Destination, unused: &mut Vec<Arc<Exchange>>) {
        let Some(space) = self.picture.vhosts.get(&**vhost) else {
            return;
        };
        let incoming: Vec<_> = space.incoming(destination).cloned().collect();
        for binding in incoming {
            self.remove_one_binding(&binding, unused);
        }
    }

    fn remove_one_exchange(&mut self, exchange: &Arc<Exchange>, unused: &mut Vec<Arc<Exchange>>) {
        let Some(space) = self.picture.vhosts.get_mut(&*exchange.vhost) else {
            return;
        };
        // An exchange bound to itself comes here twice.
        if space
            .exchanges
            .get(&*exchange.name)
            .is_none_or(|own| own.id != exchange.id)
        {
            return;
        }
        space.exchanges.remove(&*exchange.name);
        // Its own bindings go with it and are not told of one by one.
        let outgoing: Vec<_> = space.outgoing(&exchange.name).cloned().collect();
        for binding in outgoing {
            space.remove_binding(&binding);
        }
        self.picture
            .transient_exchanges
            .remove(&(exchange.vhost.clone(), exchange.name.clone()));
        self.out.push(Effect::ExchangeDeleted(exchange.clone()));
        self.forget_delays(exchange);
        self.routes_changed();
        self.remove_incoming(&exchange.vhost, &Destination::Exchange(exchange.name.clone()), unused);
    }

    /// Removes auto-delete exchanges that lost their last binding, and those that lose theirs by that. A loop, not a
    /// recursion: clients decide how long such a chain is.
    fn remove_unused(&mut self, mut unused: Vec<Arc<Exchange>>) {
        while let Some(exchange) = unused.pop() {
            self.remove_one_exchange(&exchange, &mut unused);
        }
    }

    pub(super) fn remove_exclusive(&mut self, session: SessionId) {
        let groups: Vec<_> = self
            .picture
            .exclusive_queues(session)
            .map(|queue| queue.group)
            .collect();
        for group in groups {
            self.remove_queue(group);
        }
    }

    /// Removes the transient queues of `node`'s runs up to `incarnation`, inclusive.
    pub(super) fn remove_transient(&mut self, node: NodeId, incarnation: u64) {
        let first = (Run { node, incarnation: 0 }, GroupId::MIN);
        let last = (Run { node, incarnation }, GroupId::MAX);
        let groups: Vec<_> = self
            .picture
            .transient
            .range(first..=last)
            .map(|(_, group)| *group)
            .collect();
        for group in groups {
            self.remove_queue(group);
        }
    }

    /// Removes the transient exchanges that no live run has seen declared.
    pub(super) fn remove_orphaned_exchanges(&mut self) {
        let alive_since = self
            .picture
            .nodes
            .values()
            .filter(|node| node.live)
            .map(|node| node.since)
            .min();
        let orphaned = |exchange: &Arc<Exchange>| alive_since.is_none_or(|since| since > exchange.id);
        let names = self.picture.transient_exchanges.iter();
        let exchanges = names.filter_map(|(vhost, name)| self.picture.exchange(vhost, name).cloned());
        let gone: Vec<_> = exchanges.filter(orphaned).collect();
        for exchange in gone {
            self.remove_exchange(&exchange);
        }
    }
}

fn remove_where<K: Clone + Ord, V: Clone>(map: &mut imbl::OrdMap<K, V>, is_gone: impl Fn(&K) -> bool) {
    let gone: Vec<K> = map.keys().filter(|key| is_gone(key)).cloned().collect();
    for key in gone {
        map.remove(&key);
    }
}

impl Picture {
    fn count_in(&mut self, queue: &Queue) {
        if let Placement::Replicated { replicas, leader, .. } = &queue.placement {
            for node in replicas {
                self.load.entry(*node).or_default().replicas += 1;
            }
            self.load.entry(*leader).or_default().leaders += 1;
        }
    }

    fn count_out(&mut self, queue: &Queue) {
        if let Placement::Replicated { replicas, leader, .. } = &queue.placement {
            for node in replicas {
                self.load.entry(*node).or_default().replicas -= 1;
            }
            self.load.entry(*leader).or_default().leaders -= 1;
            for node in replicas.iter().chain([leader]) {
                if self.load(*node) == Load::default() {
                    self.load.remove(node);
                }
            }
        }
    }
}

impl Space {
    pub(super) fn new(vhost: Arc<Vhost>) -> Self {
        Self {
            vhost,
            policies: imbl::OrdMap::new(),
            exchanges: imbl::OrdMap::<ExchangeName, _>::new(),
            queues: imbl::OrdMap::<QueueName, _>::new(),
            bindings: imbl::OrdMap::new(),
            incoming: imbl::OrdMap::new(),
        }
    }

    pub(super) fn insert_binding(&mut self, binding: Arc<Binding>) {
        let key = BindingKey::of(&binding);
        self.incoming
            .insert((binding.destination.clone(), key.clone()), binding.clone());
        self.bindings.insert(key, binding);
    }

    fn remove_binding(&mut self, binding: &Binding) {
        let key = BindingKey::of(binding);
        self.bindings.remove(&key);
        self.incoming.remove(&(binding.destination.clone(), key));
    }
}
