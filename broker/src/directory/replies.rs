//! The way of direct replies between nodes: at most once, and never waited for.

use std::sync::Arc;

use bytes::Bytes;
use warren_cluster::NodeId;
use warren_proto::node::{DirectReply, DirectReplyIs, DirectReplyQuery, node_message::Kind};
use warren_proto::record::SessionId;

use super::{Directory, SessionEvent};
use crate::direct_reply::{Registry, Reply, Token};
use crate::queue::client::ChannelId;

impl Directory {
    /// The channels of this node that consume replies.
    pub fn replies(&self) -> &Arc<Registry> {
        &self.replies
    }

    fn is_here(&self, session: SessionId) -> bool {
        session.node == self.node && session.incarnation == self.incarnation
    }

    /// Sends a reply to its requester, wherever that is. Dropped if the way there is full or down.
    pub fn send_reply(&self, reply: Reply) {
        let node = reply.token.session.node;
        if node == self.node {
            return self.hand_reply(reply);
        }
        let message = DirectReply {
            vhost: reply.vhost.as_str().to_owned(),
            queue: reply.token.name(),
            properties: reply.properties,
            body: reply.body,
        };
        self.tell(node, Kind::DirectReply(message));
    }

    fn hand_reply(&self, reply: Reply) {
        let session = reply.token.session;
        if !self.is_here(session) {
            return;
        }
        let mailbox = self.sessions().get(&session.id).cloned();
        // Bounded by what the registry admits.
        if let Some(mailbox) = mailbox
            && let Some(admitted) = self.replies.admit(reply)
        {
            mailbox.always(SessionEvent::Reply(Box::new(admitted)));
        }
    }

    /// Another node has a reply for a requester here.
    pub fn reply_arrived(&self, message: &DirectReply) {
        let Some(token) = Token::parse(&message.queue) else {
            return;
        };
        self.hand_reply(Reply {
            token,
            vhost: message.vhost.as_str().into(),
            // The payload is a slice of all that came with it.
            properties: Bytes::copy_from_slice(&message.properties),
            body: Bytes::copy_from_slice(&message.body),
        });
    }

    /// Asks a requester's node whether the requester is still there; the answer, if one comes, is
    /// [`SessionEvent::ReplyQueueIs`].
    pub fn ask_reply(&self, asker: SessionId, channel: ChannelId, vhost: &str, token: &Token) {
        let query = DirectReplyQuery {
            vhost: vhost.to_owned(),
            queue: token.name(),
            incarnation: asker.incarnation,
            session: asker.id,
            channel: u32::from(channel.number),
            opening: channel.opening,
        };
        self.tell(token.session.node, Kind::DirectReplyQuery(query));
    }

    /// Another node asks for a requester that would be here.
    pub fn reply_asked(&self, from: NodeId, query: DirectReplyQuery) {
        let exists = Token::parse(&query.queue)
            .is_some_and(|token| self.is_here(token.session) && self.replies.has(&token, &query.vhost));
        let answer = DirectReplyIs {
            queue: query.queue,
            exists,
            incarnation: query.incarnation,
            session: query.session,
            channel: query.channel,
            opening: query.opening,
        };
        self.tell(from, Kind::DirectReplyIs(answer));
    }

    /// Another node answers a question of a session of this node.
    pub fn reply_queue_is(&self, answer: DirectReplyIs) {
        let Ok(number) = u16::try_from(answer.channel) else {
            return;
        };
        let mailbox = self.sessions().get(&answer.session).cloned();
        if answer.incarnation == self.incarnation
            && let Some(mailbox) = mailbox
        {
            // A peer answers what was asked, and a channel asks one thing at a time.
            mailbox.always(SessionEvent::ReplyQueueIs {
                channel: ChannelId {
                    number,
                    opening: answer.opening,
                },
                queue: answer.queue,
                exists: answer.exists,
            });
        }
    }
}
