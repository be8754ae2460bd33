//! A complete message on its way to its queues.

use std::sync::Arc;

use bytes::{Bytes, BytesMut};
use warren_proto::record::Publish;

use super::{Channel, Message, direct_reply};
use crate::amqp::{Fault, ReplyCode, ShortStr, Table, glance, output};
use crate::connection::fanout::{Delay, Fanout, Owned};
use crate::connection::session::{Session, refused};
use crate::direct_reply::{QUEUE, Token};
use crate::exchange::Arrival;
use crate::message::{self, Copies};
use crate::metadata::{Access, NoExchange, Refusal, Resource};

const PERSISTENT: u8 = 2;

/// What was read from a message, and where it goes.
#[derive(Debug)]
pub(super) struct Routed {
    pub(super) groups: Arc<[u64]>,
    /// Those of the groups that only hold it until its time.
    pub(super) delay: Option<Delay>,
    pub(super) copies: Option<Copies>,
    /// Of a direct reply.
    pub(super) requesters: Vec<Token>,
    persistent: bool,
    priority: Option<u8>,
    ttl_ms: Option<u64>,
}

impl Channel {
    /// Checks, numbers and routes one message.
    pub(super) fn publish(&mut self, session: &mut Session, message: &mut Message) -> Result<(), Fault> {
        let address = &message.address;
        session.allow(Access::Write, "exchange", &address.exchange)?;
        let glance = glance(&message.properties)?;
        if let Some(user_id) = &glance.user_id {
            check_user_id(session, user_id)?;
        }
        let ttl_ms = glance.expiration.as_deref().map(message::expiration_ms).transpose()?;
        if glance
            .reply_to
            .as_ref()
            .is_some_and(|reply_to| reply_to.as_bytes() == QUEUE.as_bytes())
        {
            message.properties = self.stamp(&message.properties)?;
        }
        let copies = match &glance.headers {
            Some(headers) => message::copies(&message.properties, headers)?,
            None => None,
        };
        session.allow_topic(Access::Write, &address.exchange, &address.routing_key)?;
        for key in copies.iter().flat_map(|copies| &copies.routing_keys) {
            session.allow_topic(Access::Write, &address.exchange, key)?;
        }
        let Way { groups, delay } = match &copies {
            None if direct_reply::is_reply(address) => Way::default(),
            None => route(session, message, glance.headers.as_ref())?,
            Some(copies) => {
                let mut keys: Vec<&str> = vec![&address.routing_key];
                keys.extend(copies.routing_keys.iter().map(String::as_str));
                route_by(session, message, &keys, glance.headers.as_ref())?
            }
        };
        let requesters = direct_reply::requesters(address, copies.as_ref());
        let routed = Routed {
            groups,
            delay,
            copies,
            requesters,
            persistent: glance.delivery_mode == Some(PERSISTENT),
            priority: glance.priority,
            ttl_ms,
        };
        if let Some(transaction) = &mut self.transaction {
            return transaction.publish(session, message, routed);
        }
        self.send(session, message, &routed);
        Ok(())
    }

    /// Numbers a message for its confirm and hands it to its queues, or gives it back.
    pub(super) fn send(&mut self, session: &mut Session, message: &Message, routed: &Routed) {
        let (address, groups) = (&message.address, &routed.groups);
        let is_replied = self.send_replies(session, message, routed);
        if groups.is_empty() && address.mandatory && !is_replied {
            self.give_back(session, message);
        }
        let targets = u32::try_from(groups.len()).unwrap_or(u32::MAX);
        let number = match &mut self.transaction {
            Some(transaction) => Some(transaction.await_answers(targets)),
            None => self.confirms.as_mut().map(|confirms| confirms.publish(targets)),
        };
        if groups.is_empty() {
            return self.note_confirms(session);
        }
        let confirm = number.map(|number| (self.id, number));
        let copies = routed.copies.as_ref();
        let mut publish = Publish {
            persistent: routed.persistent,
            priority: routed.priority,
            ttl_ms: routed.ttl_ms,
            origin: None,
            bcc: copies.map_or(&[], |copies| &copies.bcc),
            exchange: address.exchange.as_bytes(),
            routing_key: address.routing_key.as_bytes(),
            properties: copies.map_or(&message.properties, |copies| &copies.properties),
            body: &message.parts,
        };
        // What a transaction sends after a message that waits must not overtake it.
        let is_large = publish.payload_len().saturating_mul(groups.len()) > session.limits.unapplied_bytes_max;
        if is_large || self.is_fanning_out {
            let bytes = |text: &ShortStr| Bytes::copy_from_slice(text.as_bytes());
            session.fanouts.push_back(Fanout {
                channel: self.id,
                confirm: confirm.map(|(_, tag)| tag),
                groups: Arc::clone(groups),
                done: 0,
                delay: routed.delay.clone(),
                message: Owned {
                    persistent: publish.persistent,
                    priority: publish.priority,
                    ttl_ms: publish.ttl_ms,
                    bcc: publish.bcc.to_vec(),
                    exchange: bytes(&address.exchange),
                    routing_key: bytes(&address.routing_key),
                    properties: copies.map_or(&message.properties, |copies| &copies.properties).clone(),
                    body: message.parts.clone(),
                },
            });
            self.is_fanning_out = true;
            return;
        }
        let now_ms = session.now_ms;
        for group in groups.iter() {
            publish.ttl_ms = Delay::ttl_ms(routed.delay.as_ref(), *group, routed.ttl_ms);
            session.queues.client(*group).publish(&publish, confirm, now_ms);
        }
    }

    /// basic.return: no queue wants a mandatory message.
    fn give_back(&self, session: &mut Session, message: &Message) {
        let body = match message.parts.as_slice() {
            [] => Bytes::new(),
            [whole] => whole.clone(),
            parts => {
                let mut body = BytesMut::with_capacity(parts.iter().map(Bytes::len).sum());
                parts.iter().for_each(|part| body.extend_from_slice(part));
                body.freeze()
            }
        };
        output::put_return(
            &mut session.output,
            self.id.number,
            ReplyCode::NoRoute.code(),
            ReplyCode::NoRoute.name().as_bytes(),
            message.address.exchange.as_bytes(),
            message.address.routing_key.as_bytes(),
            &message.properties,
            body,
            session.frame_max,
        );
    }
}

fn check_user_id(session: &mut Session, user_id: &str) -> Result<(), Fault> {
    if session.user == *user_id {
        return Ok(());
    }
    let picture = session.picture();
    if picture
        .user(&session.user)
        .is_some_and(|user| user.has_tag("impersonator"))
    {
        return Ok(());
    }
    let text = format!(
        "user_id property set to '{user_id}' but authenticated user was '{}'",
        session.user
    );
    Err(Fault::new(ReplyCode::PreconditionFailed, text))
}

/// Where a message goes.
#[derive(Debug, Default)]
struct Way {
    groups: Arc<[u64]>,
    delay: Option<Delay>,
}

/// The way of a message without CC and BCC.
fn route(session: &mut Session, message: &Message, headers: Option<&Bytes>) -> Result<Way, Fault> {
    let address = &message.address;
    if let Some(groups) = session.routes.get(&address.exchange, &address.routing_key) {
        return Ok(Way { groups, delay: None });
    }
    let picture = session.picture();
    let is_kept = !session
        .routes
        .looks_beyond_the_key(&picture, &session.vhost, &address.exchange);
    let headers = if is_kept { None } else { headers };
    let way = route_by(session, message, &[&address.routing_key], headers)?;
    if is_kept {
        session
            .routes
            .insert(&address.exchange, &address.routing_key, Arc::clone(&way.groups));
    }
    Ok(way)
}

fn route_by(
    session: &mut Session,
    message: &Message,
    routing_keys: &[&str],
    headers: Option<&Bytes>,
) -> Result<Way, Fault> {
    let picture = session.picture();
    let exchange = &*message.address.exchange;
    if picture
        .exchange(&session.vhost, exchange)
        .is_some_and(|exchange| exchange.internal)
    {
        let resource = Resource::exchange(&session.vhost, exchange);
        let text = format!("cannot publish to internal {resource}");
        return Err(Fault::new(ReplyCode::AccessRefused, text));
    }
    let headers = headers.map(Table::decode).transpose()?;
    let arrival = Arrival {
        routing_keys,
        headers: headers.as_ref(),
        properties: &message.properties,
        draw: session.draw(),
    };
    match picture.route(&session.vhost, exchange, &arrival) {
        Ok(queues) => {
            let delays = queues.iter().filter(|queue| queue.is_delay);
            let delays: Arc<[u64]> = delays.map(|queue| queue.group).collect();
            let delay = arrival.delay_ms().filter(|_| !delays.is_empty());
            Ok(Way {
                groups: queues.iter().map(|queue| queue.group).collect(),
                delay: delay.map(|ms| Delay { groups: delays, ms }),
            })
        }
        Err(NoExchange) => Err(refused(&Refusal::NoExchange(Resource::exchange(
            &session.vhost,
            exchange,
        )))),
    }
}
