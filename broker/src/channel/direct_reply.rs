//! A channel's side of direct reply-to: it consumes replies, stamps requests, and sends replies.

use bytes::{Bytes, BytesMut};

use super::consume::Consume;
use super::publish::Routed;
use super::waiting::Waiting;
use super::{Address, Channel, Message};
use crate::amqp::{Fault, Method, ReplyCode, ShortStr, output, with_reply_to};
use crate::connection::session::{Effect, Session, refused};
use crate::direct_reply::{Admitted, QUEUE, Registration, Reply, Token, is_reply_name};
use crate::message::Copies;
use crate::metadata::{Refusal, Resource};
use crate::name::QueueName;

/// The channel's consumer of replies.
#[derive(Debug)]
pub(super) struct Replies {
    pub(super) tag: ShortStr,
    registration: Registration,
    /// What requests are stamped with.
    name: String,
}

fn precondition(text: &str) -> Fault {
    Fault::new(ReplyCode::PreconditionFailed, text)
}

fn no_queue(session: &Session, queue: &str) -> Fault {
    refused(&Refusal::NoQueue(Resource::queue(&session.vhost, queue)))
}

/// Whether declarations of this name ask for requesters and not for a queue.
pub(super) fn is_pseudo_queue(name: &str) -> bool {
    name == QUEUE || is_reply_name(name)
}

/// What binding or unbinding a generated name is answered with.
pub(super) fn cannot_bind() -> Fault {
    let text = "cannot bind or unbind to a volatile (direct reply-to) queue";
    Fault::new(ReplyCode::AccessRefused, text)
}

/// Whether a message goes to a requester alone.
pub(super) fn is_reply(address: &Address) -> bool {
    address.exchange.is_empty() && is_reply_name(&address.routing_key)
}

/// The requesters that a message goes to.
pub(super) fn requesters(address: &Address, copies: Option<&Copies>) -> Vec<Token> {
    if !address.exchange.is_empty() {
        return Vec::new();
    }
    let more = copies.map_or(&[][..], |copies| &copies.routing_keys);
    let mut tokens = Vec::new();
    for key in std::iter::once(&*address.routing_key).chain(more.iter().map(String::as_str)) {
        if let Some(token) = Token::parse(key)
            && !tokens.contains(&token)
        {
            tokens.push(token);
        }
    }
    tokens
}

/// What this node knows of a requester.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Known {
    Here,
    Gone,
    /// It is on another node, which seems to be alive.
    Elsewhere,
}

fn look(session: &mut Session, token: &Token) -> Known {
    let (own, other) = (session.id, token.session);
    if own.node == other.node {
        return if session.replies.has(token, &session.vhost) {
            Known::Here
        } else {
            Known::Gone
        };
    }
    let picture = session.picture();
    match picture.nodes().find(|(id, _)| *id == other.node) {
        None => Known::Gone,
        // A newer run than the one that is known may have reached its client sooner than it was heard of here.
        Some((_, node)) if node.run.incarnation < other.incarnation => Known::Elsewhere,
        Some((_, node)) if node.run.incarnation == other.incarnation && node.live => Known::Elsewhere,
        Some(_) => Known::Gone,
    }
}

impl Channel {
    /// basic.consume of the pseudo-queue. No permission is asked for: the client reads what is sent to it alone.
    pub(super) fn consume_replies(&mut self, session: &mut Session, consume: &Consume) -> Result<(), Fault> {
        self.check_tag(&consume.consumer_tag)?;
        if !consume.no_ack {
            return Err(precondition("reply consumer cannot acknowledge"));
        }
        if self.replies.is_some() {
            return Err(precondition("reply consumer already set"));
        }
        let tag = if consume.consumer_tag.is_empty() {
            ShortStr::cut(&session.random_name("amq.ctag-"))
        } else {
            consume.consumer_tag.detach()
        };
        let token = Token {
            session: session.id,
            channel: self.id.number,
            secret: session.random_bytes(),
        };
        self.replies = Some(Replies {
            tag: tag.clone(),
            registration: session.replies.register(token, session.vhost.clone(), self.id),
            name: token.name(),
        });
        if !consume.no_wait {
            session.reply(self.id.number, &Method::BasicConsumeOk { consumer_tag: tag });
        }
        Ok(())
    }

    /// Whether a consumer of replies has this tag.
    pub(super) fn consumes_replies_as(&self, tag: &ShortStr) -> bool {
        self.replies.as_ref().is_some_and(|replies| replies.tag == *tag)
    }

    /// The properties of a request that asks for replies to this channel.
    pub(super) fn stamp(&self, properties: &Bytes) -> Result<Bytes, Fault> {
        let replies = self
            .replies
            .as_ref()
            .ok_or_else(|| precondition("fast reply consumer does not exist"))?;
        Ok(with_reply_to(properties, &replies.name)?)
    }

    /// Sends a message to those of its requesters that are not known to be gone. Gives true if there are any.
    pub(super) fn send_replies(&self, session: &mut Session, message: &Message, routed: &Routed) -> bool {
        let mut sent = false;
        for token in &routed.requesters {
            if look(session, token) == Known::Gone {
                continue;
            }
            sent = true;
            let copies = routed.copies.as_ref();
            let properties = copies.map_or(&message.properties, |copies| &copies.properties);
            let mut body = BytesMut::with_capacity(message.parts.iter().map(Bytes::len).sum());
            message.parts.iter().for_each(|part| body.extend_from_slice(part));
            session.effects.push(Effect::Reply(Box::new(Reply {
                token: *token,
                vhost: session.vhost.clone(),
                properties: Bytes::copy_from_slice(properties),
                body: body.freeze(),
            })));
        }
        sent
    }

    /// Hands a reply to the client, unless it no longer consumes them.
    pub(crate) fn deliver_reply(&mut self, session: &mut Session, admitted: Admitted) {
        let Admitted { reply, place, .. } = admitted;
        let Some(replies) = &self.replies else { return };
        if replies.registration.token != reply.token {
            return;
        }
        self.last_tag += 1;
        output::put_deliver(
            &mut session.output,
            self.id.number,
            replies.tag.as_bytes(),
            self.last_tag,
            false,
            b"",
            replies.name.as_bytes(),
            &reply.properties,
            reply.body,
            session.frame_max,
        );
        session.note_reply(place);
    }

    /// queue.declare, passive or not, of the pseudo-queue or a generated name: it is there, or 404.
    pub(super) fn declare_pseudo_queue(
        &mut self,
        session: &mut Session,
        name: QueueName,
        no_wait: bool,
    ) -> Result<(), Fault> {
        let known = match Token::parse(&name) {
            None if &*name == QUEUE => Known::Here,
            None => Known::Gone,
            Some(token) => {
                let known = look(session, &token);
                if known == Known::Elsewhere {
                    session.effects.push(Effect::AskReply(self.id, token));
                }
                known
            }
        };
        match known {
            Known::Here => self.found_pseudo_queue(session, name, no_wait),
            Known::Gone => return Err(no_queue(session, &name)),
            Known::Elsewhere => self.waiting = Some(Waiting::PseudoQueue { queue: name, no_wait }),
        }
        Ok(())
    }

    fn found_pseudo_queue(&mut self, session: &mut Session, name: QueueName, no_wait: bool) {
        if no_wait {
            self.last_queue = Some(name);
        } else {
            self.declared(session, name, 0, 1);
        }
    }

    /// The requester's node has answered, or did not in time.
    pub(crate) fn pseudo_queue_is(&mut self, session: &mut Session, name: &str, exists: bool) -> Result<(), Fault> {
        match self.waiting.take() {
            Some(Waiting::PseudoQueue { queue, no_wait }) if *queue == *name => {
                if !exists {
                    return Err(no_queue(session, &queue).of(self.method));
                }
                self.found_pseudo_queue(session, queue, no_wait);
            }
            waiting => self.waiting = waiting,
        }
        Ok(())
    }
}
