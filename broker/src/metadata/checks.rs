//! Whether a change would be refused, and why: one place, asked both by connections, against the view, and by the
//! machine.
//!
//! The order of the checks within one function is the order in which clients expect the faults.
//! A check that finds its result already there says so, and then nothing needs to be written.

use std::sync::Arc;

use super::arguments::{self, Arguments, Kind};
use super::change::{Bind, DeclareExchange, DeclareQueue, DeleteExchange};
use super::facts::{Binding, Destination, Exchange, Queue, Resource};
use super::refusal::Refusal;
use super::view::{BindingKey, Picture, Space};
use crate::exchange;

/// Names are short strings.
const NAME_LEN_MAX: usize = 255;

/// Whether a client may declare a queue of that name, be it there or not.
pub fn check_queue_name(name: &str) -> Result<(), Refusal> {
    // Names that the server chose are declared again by clients that recover, and are refused alike.
    if name.starts_with("amq.") {
        return Err(Refusal::ReservedQueueName(name.into()));
    }
    check_len(name)
}

/// Whether an exchange other than the default one is meant.
pub fn check_exchange_name(name: &str) -> Result<(), Refusal> {
    if name.is_empty() {
        Err(Refusal::DefaultExchange)
    } else {
        check_len(name)
    }
}

/// Whether the server may choose the name of a queue with these arguments.
pub fn check_server_named(arguments: &crate::amqp::Table) -> Result<(), Refusal> {
    match Kind::of(arguments) {
        Kind::Classic => Ok(()),
        kind @ (Kind::Quorum | Kind::Stream) => Err(Refusal::ServerNamed(kind)),
    }
}

/// Whether a queue that is not there yet may be created like this: arguments first, then what the type allows.
///
/// For the proposer, after [`Picture::check_queue_declare`] has answered that the queue is new.
pub fn check_new_queue(declare: &DeclareQueue) -> Result<Arguments, Refusal> {
    let kind = Kind::of(&declare.arguments);
    let arguments = arguments::validate(kind, &declare.name, &declare.vhost, &declare.arguments)?;
    check_shape(kind, declare)?;
    Ok(arguments)
}

/// What a quorum queue or a stream cannot be.
pub(super) fn check_shape(kind: Kind, declare: &DeclareQueue) -> Result<(), Refusal> {
    let refuse = |property| {
        let resource = Resource::queue(&declare.vhost, &declare.name);
        Err(Refusal::InvalidProperty { property, resource })
    };
    match kind {
        Kind::Classic => Ok(()),
        Kind::Quorum | Kind::Stream if declare.auto_delete => refuse("auto-delete"),
        Kind::Quorum | Kind::Stream if declare.exclusive_owner.is_some() => refuse("exclusive-owner"),
        Kind::Quorum | Kind::Stream if !declare.durable => refuse("non-durable"),
        Kind::Quorum | Kind::Stream => Ok(()),
    }
}

/// Whether `declare` describes the queue that is there.
pub fn check_queue_declare(existing: &Queue, declare: &DeclareQueue) -> Result<(), Refusal> {
    if existing.exclusive_owner != declare.exclusive_owner {
        return Err(Refusal::Locked(existing.resource()));
    }
    let resource = || existing.resource();
    let durable = declare.durable && declare.exclusive_owner.is_none();
    arguments::check_field("durable", durable, existing.durable, resource)?;
    arguments::check_field("auto_delete", declare.auto_delete, existing.auto_delete, resource)?;
    arguments::check_queue_arguments(existing.kind, &existing.arguments, &declare.arguments, resource)
}

/// Whether `declare` describes the exchange that is there.
pub fn check_exchange_declare(existing: &Exchange, declare: &DeclareExchange) -> Result<(), Refusal> {
    let resource = || existing.resource();
    arguments::check_field("type", declare.kind.as_str(), existing.kind.name(), resource)?;
    arguments::check_field("durable", declare.durable, existing.durable, resource)?;
    arguments::check_field("auto_delete", declare.auto_delete, existing.auto_delete, resource)?;
    arguments::check_field("internal", declare.internal, existing.internal, resource)?;
    arguments::check_exchange_arguments(&existing.arguments, &declare.arguments, resource)
}

fn check_len(name: &str) -> Result<(), Refusal> {
    if name.len() > NAME_LEN_MAX {
        Err(Refusal::NameTooLong(name.len()))
    } else {
        Ok(())
    }
}

impl Picture {
    pub(super) fn space(&self, vhost: &str) -> Result<&Space, Refusal> {
        self.vhosts.get(vhost).ok_or_else(|| Refusal::NoVhost(vhost.into()))
    }

    /// The queue if it is there and as described; `None` if it would be new.
    ///
    /// The name is not checked, since the server may choose reserved ones; see [`check_queue_name`].
    pub fn check_queue_declare(&self, declare: &DeclareQueue) -> Result<Option<Arc<Queue>>, Refusal> {
        let space = self.space(&declare.vhost)?;
        check_len(&declare.name)?;
        let Some(existing) = space.queues.get(&*declare.name) else {
            return Ok(None);
        };
        check_queue_declare(existing, declare)?;
        Ok(Some(existing.clone()))
    }

    /// Whether there is room for one more queue in the cluster, where at most `max` may be; 0: any number.
    pub fn check_queues_max(&self, declare: &DeclareQueue, max: u64) -> Result<(), Refusal> {
        let count = || self.vhosts.values().map(|space| space.queues.len() as u64).sum::<u64>();
        if max > 0 && count() >= max {
            let queue = declare.name.clone();
            return Err(Refusal::ClusterQueueLimit { queue, max });
        }
        Ok(())
    }

    /// The same for exchanges.
    pub fn check_exchanges_max(&self, declare: &DeclareExchange, max: u64) -> Result<(), Refusal> {
        let count = || {
            self.vhosts
                .values()
                .map(|space| space.exchanges.len() as u64)
                .sum::<u64>()
        };
        if max > 0 && count() >= max {
            let exchange = Resource::exchange(&declare.vhost, &declare.name);
            return Err(Refusal::ExchangeLimit { exchange, max });
        }
        Ok(())
    }

    /// The same for virtual hosts.
    pub fn check_vhosts_max(&self, vhost: &str, max: u64) -> Result<(), Refusal> {
        if max > 0 && self.vhosts.len() as u64 >= max {
            let vhost = vhost.into();
            return Err(Refusal::VhostLimit { vhost, max });
        }
        Ok(())
    }

    /// The exchange if it is there and as described; `None` if it would be new and may be created like this.
    pub fn check_exchange_declare(&self, declare: &DeclareExchange) -> Result<Option<Arc<Exchange>>, Refusal> {
        let Ok(kind) = declare.kind.parse::<exchange::Kind>() else {
            return Err(Refusal::UnknownExchangeType(declare.kind.clone()));
        };
        let space = self.space(&declare.vhost)?;
        check_exchange_name(&declare.name)?;
        if let Some(existing) = space.exchanges.get(&*declare.name) {
            check_exchange_declare(existing, declare)?;
            return Ok(Some(existing.clone()));
        }
        if declare.name.starts_with("amq.") {
            return Err(Refusal::ReservedExchangeName(declare.name.clone()));
        }
        arguments::validate_exchange(&declare.name, &declare.vhost, &declare.arguments)?;
        exchange::validate_arguments(kind, &declare.arguments).map_err(|error| Refusal::InvalidExchange(error.0))?;
        Ok(None)
    }

    /// The exchange that would be deleted; `None` if there is none of that name.
    pub fn check_exchange_delete(&self, delete: &DeleteExchange) -> Result<Option<Arc<Exchange>>, Refusal> {
        let space = self.space(&delete.vhost)?;
        check_exchange_name(&delete.name)?;
        let resource = || Resource::exchange(&delete.vhost, &delete.name);
        if delete.name.starts_with("amq.") {
            return Err(Refusal::SystemExchange(resource()));
        }
        let Some(existing) = space.exchanges.get(&*delete.name) else {
            return Ok(None);
        };
        if delete.if_unused && space.outgoing(&delete.name).next().is_some() {
            return Err(Refusal::ExchangeInUse(resource()));
        }
        Ok(Some(existing.clone()))
    }

    /// The binding if it is there; `None` if it would be new and may be made.
    pub fn check_bind(&self, bind: &Bind) -> Result<Option<Arc<Binding>>, Refusal> {
        let space = self.space(&bind.vhost)?;
        check_ends(bind)?;
        let Some(source) = space.exchanges.get(&*bind.source) else {
            return Err(Refusal::NoExchange(Resource::exchange(&bind.vhost, &bind.source)));
        };
        let queue = match &bind.destination {
            Destination::Queue(name) => space.queues.get(&**name).map(Some),
            Destination::Exchange(name) => space.exchanges.get(&**name).map(|_| None),
        };
        let Some(queue) = queue else {
            return Err(Refusal::no_destination(&bind.vhost, &bind.destination));
        };
        let matching = source.kind.matching(&source.arguments);
        exchange::validate_binding(matching, &bind.routing_key, &bind.arguments)
            .map_err(|error| Refusal::InvalidBinding(error.0))?;
        if let Some(queue) = queue {
            queue.check_access(bind.session)?;
        }
        Ok(space.bindings.get(&bind_key(bind)).cloned())
    }

    /// The binding that would be removed; `None` if there is none, be it for want of an end.
    pub fn check_unbind(&self, bind: &Bind) -> Result<Option<Arc<Binding>>, Refusal> {
        let space = self.space(&bind.vhost)?;
        check_ends(bind)?;
        let Some(binding) = space.bindings.get(&bind_key(bind)) else {
            return Ok(None);
        };
        if let Destination::Queue(name) = &bind.destination
            && let Some(queue) = space.queues.get(&**name)
        {
            queue.check_access(bind.session)?;
        }
        Ok(Some(binding.clone()))
    }
}

fn check_ends(bind: &Bind) -> Result<(), Refusal> {
    if let Destination::Exchange(name) = &bind.destination {
        check_exchange_name(name)?;
    }
    check_exchange_name(&bind.source)?;
    check_len(&bind.routing_key)
}

pub(super) fn bind_key(bind: &Bind) -> BindingKey {
    BindingKey::new(&bind.source, &bind.destination, &bind.routing_key, &bind.arguments)
}
