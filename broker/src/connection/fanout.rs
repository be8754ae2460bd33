//! Messages on their way to many queues: each queue has a copy of its own, so a large message goes to a few at a time.
//!
//! What queues have not applied stays bounded whatever a message is bound to. Meanwhile the socket is not read, and the
//! channel's further frames wait.

use std::collections::VecDeque;
use std::sync::Arc;

use bytes::Bytes;
use warren_proto::record::Publish;

use super::Connection;
use super::queues::Carrier;
use crate::queue::client::ChannelId;

/// Groups that hold a message until its time, among those that it goes to.
#[derive(Clone, Debug)]
pub(crate) struct Delay {
    pub(crate) groups: Arc<[u64]>,
    /// How long.
    pub(crate) ms: u64,
}

impl Delay {
    /// How long the message lives in that group: till it is due, where it is only held; else as long as it says itself.
    pub(crate) fn ttl_ms(delay: Option<&Self>, group: u64, own_ms: Option<u64>) -> Option<u64> {
        match delay {
            Some(delay) if delay.groups.contains(&group) => Some(delay.ms),
            _ => own_ms,
        }
    }
}

/// A message and the queues that are still to get it.
#[derive(Debug)]
pub(crate) struct Fanout {
    pub(crate) channel: ChannelId,
    /// Its number for confirms.
    pub(crate) confirm: Option<u64>,
    pub(crate) groups: Arc<[u64]>,
    pub(crate) delay: Option<Delay>,
    /// How many have it.
    pub(crate) done: usize,
    pub(crate) message: Owned,
}

/// A publish that owns its parts.
#[derive(Debug)]
pub(crate) struct Owned {
    pub(crate) persistent: bool,
    pub(crate) priority: Option<u8>,
    pub(crate) ttl_ms: Option<u64>,
    pub(crate) bcc: Vec<u8>,
    pub(crate) exchange: Bytes,
    pub(crate) routing_key: Bytes,
    pub(crate) properties: Bytes,
    pub(crate) body: Vec<Bytes>,
}

impl Owned {
    fn as_publish(&self) -> Publish<'_> {
        Publish {
            persistent: self.persistent,
            priority: self.priority,
            ttl_ms: self.ttl_ms,
            origin: None,
            bcc: &self.bcc,
            exchange: &self.exchange,
            routing_key: &self.routing_key,
            properties: &self.properties,
            body: &self.body,
        }
    }
}

/// Those of a session, in order. A channel has several where a transaction published them.
pub(crate) type Fanouts = VecDeque<Fanout>;

impl Connection {
    /// Lets messages go to further queues while there is room.
    pub(super) fn fan_out(&mut self, carrier: &mut impl Carrier) {
        let max = self.session.limits.unapplied_bytes_max;
        let now_ms = self.session.now_ms;
        while let Some(fanout) = self.session.fanouts.front_mut()
            && self.session.queues.unapplied_bytes() < max
        {
            let mut publish = fanout.message.as_publish();
            // At least one, however large it is.
            let room = max - self.session.queues.unapplied_bytes();
            let few = (room / publish.payload_len()).max(1);
            let end = fanout.groups.len().min(fanout.done + few);
            let confirm = fanout.confirm.map(|tag| (fanout.channel, tag));
            for group in &fanout.groups[fanout.done..end] {
                publish.ttl_ms = Delay::ttl_ms(fanout.delay.as_ref(), *group, fanout.message.ttl_ms);
                self.session.queues.client(*group).publish(&publish, confirm, now_ms);
            }
            fanout.done = end;
            if end == fanout.groups.len()
                && let Some(Fanout { channel: id, .. }) = self.session.fanouts.pop_front()
                && self.session.fanouts.iter().all(|other| other.channel != id)
                && let Some(channel) = self.channels.get_mut(&id.number).filter(|channel| channel.id() == id)
            {
                channel.fanned_out();
                self.resumable.push(id.number);
            }
            // Only what is flushed counts.
            let unwritten = self.session.output.len();
            self.session.queues.flush(unwritten, now_ms, carrier);
        }
    }
}
