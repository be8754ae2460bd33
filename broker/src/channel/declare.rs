//! Exchanges, queues and bindings: declared, bound, purged and deleted.
//!
//! Permissions first, then what the local picture of the metadata says; what is there already is answered without
//! writing anything, and only a real change goes to the metadata group.

use std::borrow::Cow;

use bytes::Bytes;
use warren_proto::queue;
use warren_proto::record::Command;

use super::consume::refuse_stream;
use super::waiting::Waiting;
use super::{Channel, direct_reply};
use crate::amqp::{Fault, Method, ShortStr, Table, Value};
use crate::connection::session::{Session, refused};
use crate::direct_reply::is_reply_name;
use crate::exchange::Kind;
use crate::metadata::{
    self, Access, Bind, Change, DeclareExchange, DeclareQueue, DeleteExchange, Destination, Picture, Placement, Queue,
    Refusal, Run, check_exchange_name, check_new_queue, check_queue_name, check_server_named, place_delays,
    place_replicas,
};
use crate::name::{ExchangeName, QueueName, RoutingKey};
use crate::queue::client::Asked;

/// queue.declare without the name.
struct QueueFacts {
    durable: bool,
    exclusive: bool,
    auto_delete: bool,
    no_wait: bool,
    arguments: Table,
}

/// Line breaks in declared names are dropped, as RabbitMQ drops them.
fn without_line_breaks(name: &ShortStr) -> Cow<'_, str> {
    if name.contains(['\r', '\n']) {
        Cow::Owned(name.replace(['\r', '\n'], ""))
    } else {
        Cow::Borrowed(name.as_str())
    }
}

fn checked<T>(result: Result<T, Refusal>) -> Result<T, Fault> {
    result.map_err(|refusal| refused(&refusal))
}

impl Channel {
    /// Methods of the exchange and queue classes.
    pub(super) fn on_topology(&mut self, session: &mut Session, method: Method) -> Result<(), Fault> {
        match method {
            Method::ExchangeDeclare {
                exchange,
                kind,
                passive,
                durable,
                auto_delete,
                internal,
                no_wait,
                arguments,
            } => {
                let declare = DeclareExchange {
                    vhost: session.vhost.clone(),
                    name: ExchangeName::from(&*without_line_breaks(&exchange)),
                    kind: kind.as_str().to_owned(),
                    durable,
                    auto_delete,
                    internal,
                    arguments: arguments.detach(),
                    delays: None,
                };
                self.declare_exchange(session, declare, passive, no_wait)
            }
            Method::ExchangeDelete {
                exchange,
                if_unused,
                no_wait,
            } => {
                let name = ExchangeName::from(&*without_line_breaks(&exchange));
                let delete = DeleteExchange {
                    vhost: session.vhost.clone(),
                    name,
                    if_unused,
                };
                self.delete_exchange(session, delete, no_wait)
            }
            Method::ExchangeBind {
                destination,
                source,
                routing_key,
                no_wait,
                arguments,
            } => {
                let bind = bind_exchange(session, &destination, &source, &routing_key, &arguments)?;
                self.bind(session, bind, true, (!no_wait).then_some(Method::ExchangeBindOk {}))
            }
            Method::ExchangeUnbind {
                destination,
                source,
                routing_key,
                no_wait,
                arguments,
            } => {
                let bind = bind_exchange(session, &destination, &source, &routing_key, &arguments)?;
                self.bind(session, bind, false, (!no_wait).then_some(Method::ExchangeUnbindOk {}))
            }
            Method::QueueBind {
                queue,
                exchange,
                routing_key,
                no_wait,
                arguments,
            } => {
                let bind = self.bind_queue(session, &queue, &exchange, &routing_key, &arguments)?;
                self.bind(session, bind, true, (!no_wait).then_some(Method::QueueBindOk {}))
            }
            Method::QueueUnbind {
                queue,
                exchange,
                routing_key,
                arguments,
            } => {
                let bind = self.bind_queue(session, &queue, &exchange, &routing_key, &arguments)?;
                self.bind(session, bind, false, Some(Method::QueueUnbindOk {}))
            }
            Method::QueueDeclare {
                queue,
                passive: true,
                no_wait,
                ..
            } => self.inspect_queue(session, &queue, no_wait),
            Method::QueueDeclare {
                queue,
                durable,
                exclusive,
                auto_delete,
                no_wait,
                arguments,
                ..
            } => {
                let facts = QueueFacts {
                    durable,
                    exclusive,
                    auto_delete,
                    no_wait,
                    arguments,
                };
                self.declare_queue(session, &queue, facts)
            }
            Method::QueuePurge { queue, no_wait } => self.purge(session, &queue, no_wait),
            Method::QueueDelete {
                queue,
                if_unused,
                if_empty,
                no_wait,
            } => self.delete_queue(session, &queue, queue::Delete { if_unused, if_empty }, no_wait),
            _ => Ok(()),
        }
    }

    fn declare_exchange(
        &mut self,
        session: &mut Session,
        mut declare: DeclareExchange,
        passive: bool,
        no_wait: bool,
    ) -> Result<(), Fault> {
        let reply = (!no_wait).then_some(Method::ExchangeDeclareOk {});
        let picture = session.picture();
        if passive {
            checked(check_exchange_name(&declare.name))?;
            session.allow_any("exchange", &declare.name)?;
            checked(picture.expect_exchange(&session.vhost, &declare.name))?;
        } else {
            checked(check_exchange_name(&declare.name))?;
            session.allow(Access::Configure, "exchange", &declare.name)?;
            if checked(picture.check_exchange_declare(&declare))?.is_none() {
                if let Some(Value::LongStr(alternate)) = declare.arguments.get("alternate-exchange") {
                    session.allow(Access::Read, "exchange", &declare.name)?;
                    session.allow(Access::Write, "exchange", &String::from_utf8_lossy(alternate))?;
                }
                checked(picture.check_exchanges_max(&declare, session.limits.exchanges_max))?;
                if declare.kind.parse() == Ok(Kind::Delayed) {
                    let (local, limits) = (session.id.node, &session.limits);
                    declare.delays = Some(place_delays(&picture, local, &limits.members, limits.group_size));
                }
                self.submit(session, Change::DeclareExchange(declare), Waiting::Change { reply });
                return Ok(());
            }
        }
        if let Some(reply) = reply {
            session.reply(self.id.number, &reply);
        }
        Ok(())
    }

    fn delete_exchange(&mut self, session: &mut Session, delete: DeleteExchange, no_wait: bool) -> Result<(), Fault> {
        checked(check_exchange_name(&delete.name))?;
        session.allow(Access::Configure, "exchange", &delete.name)?;
        let reply = (!no_wait).then_some(Method::ExchangeDeleteOk {});
        if checked(session.picture().check_exchange_delete(&delete))?.is_some() {
            self.submit(session, Change::DeleteExchange(delete), Waiting::Change { reply });
        } else if let Some(reply) = reply {
            session.reply(self.id.number, &reply);
        }
        Ok(())
    }

    fn bind_queue(
        &self,
        session: &mut Session,
        queue: &ShortStr,
        exchange: &ShortStr,
        routing_key: &ShortStr,
        arguments: &Table,
    ) -> Result<Bind, Fault> {
        let name = self.queue_name(&without_line_breaks(queue))?;
        if is_reply_name(&name) {
            return Err(direct_reply::cannot_bind());
        }
        // Without a queue name, an empty key means the queue's name too.
        let key = if queue.is_empty() && routing_key.is_empty() {
            name.as_str()
        } else {
            routing_key.as_str()
        };
        let source = without_line_breaks(exchange);
        session.allow(Access::Write, "queue", &name)?;
        session.allow(Access::Read, "exchange", &source)?;
        session.allow_topic(Access::Read, &source, key)?;
        Ok(Bind {
            vhost: session.vhost.clone(),
            source: ExchangeName::from(&*source),
            routing_key: RoutingKey::from(key),
            destination: Destination::Queue(name),
            arguments: arguments.detach(),
            session: session.id,
        })
    }

    fn bind(&mut self, session: &mut Session, bind: Bind, present: bool, reply: Option<Method>) -> Result<(), Fault> {
        let picture = session.picture();
        let found = if present {
            picture.check_bind(&bind)
        } else {
            picture.check_unbind(&bind)
        };
        if checked(found)?.is_some() == present {
            if let Some(reply) = reply {
                session.reply(self.id.number, &reply);
            }
        } else {
            let change = if present {
                Change::Bind(bind)
            } else {
                Change::Unbind(bind)
            };
            self.submit(session, change, Waiting::Change { reply });
        }
        Ok(())
    }

    fn inspect_queue(&mut self, session: &mut Session, queue: &ShortStr, no_wait: bool) -> Result<(), Fault> {
        // Other than elsewhere, an empty name stands for nothing but itself.
        let name = QueueName::from(&*without_line_breaks(queue));
        if direct_reply::is_pseudo_queue(&name) {
            return self.declare_pseudo_queue(session, name, no_wait);
        }
        session.allow_any("queue", &name)?;
        let picture = session.picture();
        let queue = checked(picture.expect_queue(&session.vhost, &name))?;
        checked(queue.check_access(session.id))?;
        self.count_queue(session, queue, name, None, no_wait);
        Ok(())
    }

    fn declare_queue(&mut self, session: &mut Session, queue: &ShortStr, facts: QueueFacts) -> Result<(), Fault> {
        let name = if queue.is_empty() {
            checked(check_server_named(&facts.arguments))?;
            QueueName::from(session.random_name("amq.gen-"))
        } else {
            let name = without_line_breaks(queue);
            if direct_reply::is_pseudo_queue(&name) {
                return self.declare_pseudo_queue(session, QueueName::from(&*name), facts.no_wait);
            }
            checked(check_queue_name(&name))?;
            QueueName::from(&*name)
        };
        session.allow(Access::Configure, "queue", &name)?;
        let declare = DeclareQueue {
            vhost: session.vhost.clone(),
            name,
            durable: facts.durable,
            auto_delete: facts.auto_delete,
            exclusive_owner: facts.exclusive.then_some(session.id),
            arguments: facts.arguments.detach(),
            placement: Placement::Transient { home: home(session) },
        };
        self.declare(session, declare, facts.no_wait)
    }

    /// Answers with the queue that is there, or has it made. A replicated queue's placement is filled in here.
    pub(super) fn declare(
        &mut self,
        session: &mut Session,
        mut declare: DeclareQueue,
        no_wait: bool,
    ) -> Result<(), Fault> {
        let picture = session.picture();
        fill_in_type(&picture, session.limits.default_queue_type, &mut declare);
        if let Some(existing) = checked(picture.check_queue_declare(&declare))? {
            let name = declare.name.clone();
            self.count_queue(session, &existing, name, Some(Box::new(declare)), no_wait);
            return Ok(());
        }
        checked(picture.check_queues_max(&declare, session.limits.queues_max))?;
        let settings = checked(check_new_queue(&declare))?;
        if let Some(dead_letter_exchange) = &settings.dead_letter_exchange {
            session.allow(Access::Read, "queue", &declare.name)?;
            session.allow(Access::Write, "exchange", dead_letter_exchange)?;
        }
        if !declare.is_transient() {
            let (local, limits) = (session.id.node, &session.limits);
            declare.placement = place_replicas(&picture, local, &limits.members, limits.group_size, &declare);
        }
        session.owns_exclusive |= declare.exclusive_owner.is_some();
        self.submit(session, Change::DeclareQueue(declare), Waiting::NewQueue { no_wait });
        Ok(())
    }

    /// Answers a declaration of an existing queue, once its counts are known.
    fn count_queue(
        &mut self,
        session: &mut Session,
        existing: &Queue,
        queue: QueueName,
        declare: Option<Box<DeclareQueue>>,
        no_wait: bool,
    ) {
        if no_wait {
            self.last_queue = Some(queue);
            // Its end, if it is to end unused, is put off all the same.
            if existing.settings.expires_ms.is_some() {
                session.ask(existing.group, self.id, Asked::Use, &Command::Stat);
            }
            return;
        }
        session.ask(existing.group, self.id, Asked::Stat, &Command::Stat);
        self.waiting = Some(Waiting::Counts { queue, declare });
    }

    fn purge(&mut self, session: &mut Session, queue: &ShortStr, no_wait: bool) -> Result<(), Fault> {
        let name = self.queue_name(queue)?;
        session.allow(Access::Read, "queue", &name)?;
        let picture = session.picture();
        let queue = checked(picture.expect_queue(&session.vhost, &name))?;
        checked(queue.check_access(session.id))?;
        refuse_stream("queue.purge", queue)?;
        session.ask(queue.group, self.id, Asked::Purge, &Command::Purge);
        self.waiting = Some(Waiting::Purge { queue: name, no_wait });
        Ok(())
    }

    fn delete_queue(
        &mut self,
        session: &mut Session,
        queue: &ShortStr,
        delete: queue::Delete,
        no_wait: bool,
    ) -> Result<(), Fault> {
        let name = self.queue_name(&without_line_breaks(queue))?;
        session.allow(Access::Configure, "queue", &name)?;
        let picture = session.picture();
        let Some(queue) = picture.queue(&session.vhost, &name) else {
            if !no_wait {
                session.reply(self.id.number, &Method::QueueDeleteOk { message_count: 0 });
            }
            return Ok(());
        };
        checked(queue.check_access(session.id))?;
        session.ask(queue.group, self.id, Asked::Delete, &Command::Delete(delete));
        self.waiting = Some(Waiting::Delete {
            queue: queue.clone(),
            no_wait,
        });
        Ok(())
    }
}

fn bind_exchange(
    session: &mut Session,
    destination: &ShortStr,
    source: &ShortStr,
    routing_key: &ShortStr,
    arguments: &Table,
) -> Result<Bind, Fault> {
    let (destination, source) = (without_line_breaks(destination), without_line_breaks(source));
    checked(check_exchange_name(&destination))?;
    checked(check_exchange_name(&source))?;
    session.allow(Access::Write, "exchange", &destination)?;
    session.allow(Access::Read, "exchange", &source)?;
    session.allow_topic(Access::Read, &source, routing_key)?;
    Ok(Bind {
        vhost: session.vhost.clone(),
        source: ExchangeName::from(&*source),
        destination: Destination::Exchange(ExchangeName::from(&*destination)),
        routing_key: RoutingKey::from(routing_key.as_str()),
        arguments: arguments.detach(),
        session: session.id,
    })
}

/// The run that this session lives in.
fn home(session: &Session) -> Run {
    Run {
        node: session.id.node,
        incarnation: session.id.incarnation,
    }
}

/// A durable, shared queue that names no type gets the vhost's, or the node's.
fn fill_in_type(picture: &Picture, default: metadata::Kind, declare: &mut DeclareQueue) {
    if declare.arguments.contains("x-queue-type") || declare.is_transient() || declare.auto_delete {
        return;
    }
    let Some(vhost) = picture.vhost(&declare.vhost) else {
        return;
    };
    let kind = match vhost.default_queue_type.as_str() {
        "" if default == metadata::Kind::Classic => return,
        "" => Bytes::from_static(default.name().as_bytes()),
        named => Bytes::copy_from_slice(named.as_bytes()),
    };
    declare.arguments.insert("x-queue-type", Value::LongStr(kind));
}
