//! Consumers, deliveries and what becomes of them.

use std::sync::Arc;

use bytes::Bytes;
use warren_proto::queue;
use warren_proto::record::{Command, Delivery, Outcome as Settlement, Stored};

use super::Channel;
use super::reading::Reading;
use super::unacked::Held;
use super::waiting::Waiting;
use crate::amqp::{Fault, Method, ReplyCode, ShortStr, Table, output};
use crate::connection::session::{Consumer, Session, refused};
use crate::direct_reply::QUEUE;
use crate::message;
use crate::metadata::{Access, Kind, Queue};
use crate::queue::client::Asked;

/// basic.consume.
pub(super) struct Consume {
    pub(super) queue: ShortStr,
    pub(super) consumer_tag: ShortStr,
    pub(super) no_ack: bool,
    pub(super) exclusive: bool,
    pub(super) no_wait: bool,
    pub(super) arguments: Table,
}

impl Channel {
    pub(super) fn consume(&mut self, session: &mut Session, consume: Consume) -> Result<(), Fault> {
        if *consume.queue == *QUEUE {
            return self.consume_replies(session, &consume);
        }
        self.check_tag(&consume.consumer_tag)?;
        let max = session.limits.consumers_max;
        if max > 0 && self.consumers.len() >= max {
            let text = format!("reached maximum ({max}) of consumers per channel");
            return Err(Fault::new(ReplyCode::NotAllowed, text));
        }
        let name = self.queue_name(&consume.queue)?;
        session.allow(Access::Read, "queue", &name)?;
        let queue = readable(session, &name)?;
        let reading = Reading::of(&queue, &consume, self.prefetch)?;
        let priority = match consume.arguments.get("x-priority") {
            None => 0,
            Some(value) => value.as_i64().ok_or_else(|| {
                let text = format!(
                    "invalid arg 'x-priority' for {}: \"expected integer, got {}\"",
                    queue.resource(),
                    value.type_name()
                );
                Fault::new(ReplyCode::PreconditionFailed, text)
            })?,
        };
        let timeout_ms = consumer_timeout_ms(session, &queue, &consume)?;
        let tag = if consume.consumer_tag.is_empty() {
            ShortStr::cut(&session.random_name("amq.ctag-"))
        } else {
            consume.consumer_tag.detach()
        };
        let id = session.new_consumer();
        let prefetch = self.window.bound(self.prefetch);
        let attach = queue::Attach {
            consumer: id,
            channel: u32::from(self.id.number),
            tag: tag.as_str().to_owned(),
            no_ack: consume.no_ack,
            // Readers of a stream are not in each other's way: RabbitMQ takes no notice either.
            exclusive: consume.exclusive && queue.kind != Kind::Stream,
            prefetch: u32::from(prefetch),
            priority,
            arguments: consume.arguments.to_bytes(),
            timeout_ms,
            from: reading.from,
            filter: reading.filter,
            match_unfiltered: reading.match_unfiltered,
        };
        let consumer = Consumer::new(self.id, tag.clone(), &queue, consume.no_ack, prefetch, timeout_ms);
        session.consumers.insert(id, consumer);
        self.consumers.insert(tag.clone(), id);
        session.ask(queue.group, self.id, Asked::Attach(id), &Command::Attach(attach));
        self.waiting = Some(Waiting::Attach {
            consumer: id,
            tag,
            queue,
            no_wait: consume.no_wait,
        });
        Ok(())
    }

    /// 530 if a consumer of this channel has the tag.
    pub(super) fn check_tag(&self, tag: &ShortStr) -> Result<(), Fault> {
        if self.consumers.contains_key(tag) || self.consumes_replies_as(tag) {
            let text = format!("attempt to reuse consumer tag '{tag}'");
            return Err(Fault::new(ReplyCode::NotAllowed, text));
        }
        Ok(())
    }

    pub(super) fn cancel(&mut self, session: &mut Session, tag: ShortStr, no_wait: bool) {
        if self.consumes_replies_as(&tag) {
            self.replies = None;
        }
        let known = self.consumers.get(&tag).copied();
        let group = known
            .and_then(|id| session.consumers.get(&id))
            .map(|consumer| consumer.group);
        let (Some(id), Some(group)) = (known, group) else {
            if !no_wait {
                session.reply(self.id.number, &Method::BasicCancelOk { consumer_tag: tag });
            }
            return;
        };
        let cancel = Command::Cancel(queue::Cancel {
            consumer: id,
            requeue: false,
        });
        session.ask(group, self.id, Asked::Cancel(id), &cancel);
        self.waiting = Some(Waiting::Cancel {
            consumer: id,
            tag: tag.detach(),
            no_wait,
        });
    }

    pub(super) fn cancelled(&mut self, session: &mut Session, consumer: u32, tag: ShortStr, no_wait: bool) {
        self.drop_consumer(session, consumer, &tag);
        if !no_wait {
            session.reply(self.id.number, &Method::BasicCancelOk { consumer_tag: tag });
        }
    }

    pub(super) fn drop_consumer(&mut self, session: &mut Session, consumer: u32, tag: &ShortStr) {
        if let Some(known) = session.consumers.remove(&consumer) {
            self.return_waiting(session, consumer, known.group);
        }
        self.consumers.remove(tag);
    }

    /// What waits for a consumer that has ended is somebody else's.
    fn return_waiting(&mut self, session: &mut Session, consumer: u32, group: u64) {
        for message in self.window.take(consumer) {
            session.settle(Settlement::Release, group, message, consumer);
        }
        self.go_on_delivering(session);
    }

    /// The queue of this consumer was deleted, or gives it nothing more.
    pub(crate) fn consumer_ended(&mut self, session: &mut Session, consumer: u32, tag: &ShortStr) {
        self.window.take(consumer);
        self.go_on_delivering(session);
        if self.consumers.remove(tag).is_some() && session.client.consumer_cancel_notify {
            let cancel = Method::BasicCancel {
                consumer_tag: tag.clone(),
                no_wait: true,
            };
            session.reply(self.id.number, &cancel);
        }
    }

    /// The client's user may no longer read from this consumer's queue, or there is nothing more to read. What the consumer
    /// holds can still be settled.
    pub(crate) fn end_consumer(&mut self, session: &mut Session, id: u32) {
        // One that is only just starting or ending has been looked at, or will be gone.
        if self.waiting.is_some() {
            return;
        }
        let Some(consumer) = session.consumers.remove(&id) else {
            return;
        };
        let cancel = Command::Cancel(queue::Cancel {
            consumer: id,
            requeue: false,
        });
        session.ask(consumer.group, self.id, Asked::Cancel(id), &cancel);
        self.return_waiting(session, id, consumer.group);
        self.consumer_ended(session, id, &consumer.tag);
    }

    /// The queue has ended this consumer: it held a message for too long. A client that could not be told loses its
    /// channel.
    pub(crate) fn consumer_timed_out(
        &mut self,
        session: &mut Session,
        id: u32,
        consumer: &Consumer,
    ) -> Result<(), Fault> {
        // It is not too late for what has not been handed out.
        self.return_waiting(session, id, consumer.group);
        if session.client.consumer_cancel_notify {
            self.consumer_ended(session, id, &consumer.tag);
            return Ok(());
        }
        self.consumers.remove(&consumer.tag);
        let text = format!(
            "delivery acknowledgement on channel {} timed out. Timeout value used: {} ms. \
             This timeout value can be configured, see consumers doc guide to learn more",
            self.id.number, consumer.timeout_ms
        );
        Err(Fault::new(ReplyCode::PreconditionFailed, text))
    }

    pub(super) fn get(&mut self, session: &mut Session, queue: &str, no_ack: bool) -> Result<(), Fault> {
        let name = self.queue_name(queue)?;
        session.allow(Access::Read, "queue", &name)?;
        let queue = readable(session, &name)?;
        refuse_stream("basic.get", &queue)?;
        if queue.kind == Kind::Quorum && queue.settings.single_active_consumer {
            let text = format!(
                "cannot obtain access to locked {}. basic.get operations are not supported by <<\"quorum\">> queues with \
                 single active consumer",
                queue.resource()
            );
            return Err(Fault::new(ReplyCode::ResourceLocked, text));
        }
        session.ask(queue.group, self.id, Asked::Get, &Command::Get(queue::Get { no_ack }));
        self.waiting = Some(Waiting::Get { queue, no_ack });
        Ok(())
    }

    /// Takes in a message for one of this channel's consumers: it is handed over, or waits for room in the channel.
    pub(crate) fn deliver(&mut self, session: &mut Session, delivery: &Delivery) {
        let is_free = |session: &Session| {
            let known = session.consumers.get(&delivery.consumer);
            known.is_some_and(|consumer| consumer.no_ack)
        };
        if self.window.is_off() || is_free(session) {
            return self.hand_over(session, delivery);
        }
        if let Some(delivery) = self.window.admit(delivery, self.unacked.consumed()) {
            self.hand_over(session, delivery);
        }
    }

    /// There may be room for deliveries that wait.
    pub(super) fn go_on_delivering(&mut self, session: &mut Session) {
        while let Some(delivery) = self.window.next(self.unacked.consumed()) {
            self.hand_over(session, &delivery);
        }
    }

    fn hand_over(&mut self, session: &mut Session, delivery: &Delivery) {
        let Some(consumer) = session.consumers.get(&delivery.consumer) else {
            return;
        };
        let Some(parts) = Parts::of(delivery, consumer.kind) else {
            let group = consumer.group;
            session.settle(Settlement::Discard, group, delivery.seq, delivery.consumer);
            return;
        };
        self.last_tag += 1;
        output::put_deliver(
            &mut session.output,
            self.id.number,
            consumer.tag.as_bytes(),
            self.last_tag,
            delivery.redelivered,
            parts.stored.exchange,
            parts.stored.routing_key,
            parts.properties.as_deref().unwrap_or(parts.stored.properties),
            parts.body,
            session.frame_max,
        );
        let (group, no_ack, notes_writes) = (consumer.group, consumer.no_ack, consumer.notes_writes());
        if !no_ack {
            let held = Held {
                group,
                message: delivery.seq,
                consumer: delivery.consumer,
            };
            self.unacked.push(self.last_tag, held);
        }
        if notes_writes {
            session.note_delivery(delivery.consumer, group, no_ack.then_some(delivery.seq));
        }
    }

    /// Hands out the message that this channel's get was answered with.
    pub(crate) fn got(&mut self, session: &mut Session, group: u64, delivery: &Delivery, ready: u64) {
        let (kind, no_ack) = match self.waiting.take() {
            Some(Waiting::Get { queue, no_ack }) => (queue.kind, no_ack),
            waiting => {
                self.waiting = waiting;
                session.settle(Settlement::Release, group, delivery.seq, 0);
                return;
            }
        };
        let Some(parts) = Parts::of(delivery, kind) else {
            session.settle(Settlement::Discard, group, delivery.seq, 0);
            return session.reply(self.id.number, &Method::BasicGetEmpty {});
        };
        self.last_tag += 1;
        output::put_get_ok(
            &mut session.output,
            self.id.number,
            self.last_tag,
            delivery.redelivered,
            parts.stored.exchange,
            parts.stored.routing_key,
            u32::try_from(ready).unwrap_or(u32::MAX),
            parts.properties.as_deref().unwrap_or(parts.stored.properties),
            parts.body,
            session.frame_max,
        );
        if !no_ack {
            self.unacked.push(
                self.last_tag,
                Held {
                    group,
                    message: delivery.seq,
                    consumer: 0,
                },
            );
        }
    }

    pub(super) fn settle(
        &mut self,
        session: &mut Session,
        tag: u64,
        multiple: bool,
        outcome: Settlement,
    ) -> Result<(), Fault> {
        let mut put = |tag, held: Held| match &mut self.transaction {
            Some(transaction) => transaction.settle(outcome, tag, held),
            None => {
                session.settle(outcome, held.group, held.message, held.consumer);
            }
        };
        let known = if !multiple {
            match self.unacked.take(tag) {
                Some(held) => {
                    put(tag, held);
                    true
                }
                None => false,
            }
        } else if tag == 0 {
            self.unacked.take_all(put);
            true
        } else {
            self.unacked.take_through(tag, put)
        };
        if known {
            self.go_on_delivering(session);
            Ok(())
        } else {
            Err(Fault::new(
                ReplyCode::PreconditionFailed,
                format!("unknown delivery tag {tag}"),
            ))
        }
    }

    /// basic.recover: everything unsettled goes back to its queue.
    pub(super) fn recover(&mut self, session: &mut Session) {
        self.unacked.take_all(|_, held| {
            session.settle(Settlement::Release, held.group, held.message, held.consumer);
        });
        self.go_on_delivering(session);
    }
}

/// 540 where the queue is a stream, which has no such method.
pub(super) fn refuse_stream(method: &str, queue: &Queue) -> Result<(), Fault> {
    if queue.kind != Kind::Stream {
        return Ok(());
    }
    let text = format!("{method} not supported by stream queues {}", queue.resource());
    Err(Fault::new(ReplyCode::NotImplemented, text))
}

/// The queue, if this session may read from it.
fn readable(session: &mut Session, name: &str) -> Result<Arc<Queue>, Fault> {
    let picture = session.picture();
    let queue = picture
        .expect_queue(&session.vhost, name)
        .map_err(|refusal| refused(&refusal))?;
    queue.check_access(session.id).map_err(|refusal| refused(&refusal))?;
    Ok(Arc::clone(queue))
}

/// How long the new consumer may hold a message; 0: for ever. Consumers of classic queues always may.
fn consumer_timeout_ms(session: &Session, queue: &Queue, consume: &Consume) -> Result<u64, Fault> {
    const KEY: &str = "x-consumer-timeout";
    let fault = |text: String| Err(Fault::new(ReplyCode::PreconditionFailed, text));
    let own = consume.arguments.get(KEY);
    if queue.kind != Kind::Quorum {
        return match own {
            None => Ok(0),
            Some(_) => fault(format!(
                "invalid arg '{KEY}' for {} of queue type {}",
                queue.resource(),
                queue.kind.module()
            )),
        };
    }
    if consume.no_ack {
        return Ok(0);
    }
    let Some(own) = own else {
        let of_queue = queue.settings.consumer_timeout_ms;
        return Ok(of_queue.unwrap_or(session.limits.consumer_timeout_ms));
    };
    let invalid = |term: String| fault(format!("invalid arg '{KEY}' for {}: {term}", queue.resource()));
    match own.as_i64().map(u64::try_from) {
        None => invalid(format!("\"expected integer, got {}\"", own.type_name())),
        Some(Err(_)) => invalid(format!("{{value_negative,{}}}", own.as_i64().unwrap_or_default())),
        Some(Ok(timeout_ms)) => Ok(timeout_ms),
    }
}

/// A stored message as it goes to a client.
struct Parts<'a> {
    stored: Stored<'a>,
    body: Bytes,
    /// Where they differ from those stored.
    properties: Option<Bytes>,
}

impl<'a> Parts<'a> {
    /// `None` for bytes that are no message; what a queue's log holds was written as one, so only another build
    /// could have put them there.
    fn of(delivery: &'a Delivery, kind: Kind) -> Option<Self> {
        let stored = match Stored::decode(&delivery.payload) {
            Ok(stored) => stored,
            Err(error) => {
                tracing::error!(message = delivery.seq, %error, "a stored message cannot be read");
                return None;
            }
        };
        let body = delivery.payload.slice_ref(stored.body);
        let properties = match kind {
            Kind::Quorum if delivery.acquired > 0 => {
                let properties = delivery.payload.slice_ref(stored.properties);
                Some(message::redelivery(&properties, delivery.acquired, delivery.failed))
            }
            Kind::Stream => {
                let properties = delivery.payload.slice_ref(stored.properties);
                Some(message::with_offset(&properties, delivery.seq))
            }
            Kind::Quorum | Kind::Classic => None,
        };
        Some(Self {
            stored,
            body,
            properties,
        })
    }
}
