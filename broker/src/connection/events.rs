//! What comes from outside the socket: queues' words, new leaders, deleted queues, outcomes of changes.

use warren_proto::record::{Events, Outcome as Settlement};

use super::Connection;
use crate::amqp::{Fault, ReplyCode};
use crate::direct_reply::Admitted;
use crate::metadata::Outcome;
use crate::queue::client::{Accepted, ChannelId, Notice};

impl Connection {
    /// A queue's word.
    pub fn on_events(&mut self, events: &Events) {
        let now_ms = self.session.now_ms;
        let mut notices = std::mem::take(&mut self.notices);
        let Some(client) = self.session.queues.known(events.group) else {
            self.notices = notices;
            return;
        };
        client.apply(events, now_ms, &mut notices);
        self.dispatch(&mut notices);
        for delivery in &events.deliveries {
            match self.session.accept(events, delivery) {
                Accepted::Drop => {}
                Accepted::Return => {
                    let consumer = delivery.consumer;
                    self.session
                        .settle(Settlement::Release, events.group, delivery.seq, consumer);
                }
                Accepted::Deliver => {
                    // One whose channel has closed is given back by the cancelling of its consumer.
                    let Some(consumer) = self.session.consumers.get(&delivery.consumer) else {
                        continue;
                    };
                    let id = consumer.channel;
                    if let Some(channel) = self.channels.get_mut(&id.number).filter(|channel| channel.id() == id) {
                        channel.deliver(&mut self.session, delivery);
                    }
                }
                Accepted::Got(id, ready) => {
                    if let Some(channel) = self.channels.get_mut(&id.number).filter(|channel| channel.id() == id) {
                        channel.got(&mut self.session, events.group, delivery, ready);
                        self.resumable.push(id.number);
                    } else {
                        self.session.settle(Settlement::Release, events.group, delivery.seq, 0);
                    }
                }
            }
        }
        if let Some(client) = self.session.queues.known(events.group) {
            client.finish(events, now_ms, &mut notices);
        }
        self.dispatch(&mut notices);
        self.notices = notices;
    }

    /// A queue has a new leader, or something sent to or by the old one may be lost.
    pub fn on_leader(&mut self, group: u64) {
        let now_ms = self.session.now_ms;
        if let Some(client) = self.session.queues.known(group) {
            client.rewind(now_ms);
        }
    }

    /// A queue was deleted.
    pub fn on_queue_gone(&mut self, group: u64) {
        let mut notices = std::mem::take(&mut self.notices);
        self.session.queues.remove(group, &mut notices);
        self.dispatch(&mut notices);
        self.notices = notices;
        let mut ended: Vec<u32> = self
            .session
            .consumers
            .iter()
            .filter(|(_, consumer)| consumer.group == group)
            .map(|(id, _)| *id)
            .collect();
        ended.sort_unstable();
        for id in ended {
            let Some(consumer) = self.session.consumers.remove(&id) else {
                continue;
            };
            if let Some(channel) = self.channels.get_mut(&consumer.channel.number) {
                channel.consumer_ended(&mut self.session, id, &consumer.tag);
            }
        }
    }

    /// A queue has ended a consumer that held a message for too long.
    pub(super) fn on_consumer_timed_out(&mut self, id: u32) {
        let Some(consumer) = self.session.consumers.remove(&id) else {
            return;
        };
        let number = consumer.channel.number;
        let channel = self.channels.get_mut(&number);
        let Some(channel) = channel.filter(|channel| channel.id() == consumer.channel) else {
            return;
        };
        if let Err(fault) = channel.consumer_timed_out(&mut self.session, id, &consumer) {
            self.fault(number, fault);
        }
    }

    /// A consumer gets nothing more, and its client is told.
    pub(super) fn end_consumer(&mut self, id: u32) {
        let Some(of) = self.session.consumers.get(&id).map(|consumer| consumer.channel) else {
            return;
        };
        if let Some(channel) = self.channels.get_mut(&of.number).filter(|channel| channel.id() == of) {
            channel.end_consumer(&mut self.session, id);
        }
    }

    /// What became of a change that [`Effect::Submit`] asked for; `None` if nobody could say in time.
    pub fn on_outcome(&mut self, id: ChannelId, outcome: Option<Outcome>) {
        self.session.submitted = self.session.submitted.saturating_sub(1);
        let Some(channel) = self.channels.get_mut(&id.number).filter(|channel| channel.id() == id) else {
            return;
        };
        let result = channel.on_outcome(&mut self.session, outcome);
        self.resumable.push(id.number);
        if let Err(fault) = result {
            self.fault(id.number, fault);
        }
    }

    /// A direct reply for one of the channels.
    pub fn on_reply(&mut self, admitted: Admitted) {
        let id = admitted.channel;
        if let Some(channel) = self.channels.get_mut(&id.number).filter(|channel| channel.id() == id) {
            channel.deliver_reply(&mut self.session, admitted);
        }
    }

    /// Whether the requester that [`Effect::AskReply`](super::Effect::AskReply) asked for is there; `queue` is its
    /// generated name.
    pub fn on_reply_queue(&mut self, id: ChannelId, queue: &str, exists: bool) {
        let Some(channel) = self.channels.get_mut(&id.number).filter(|channel| channel.id() == id) else {
            return;
        };
        let result = channel.pseudo_queue_is(&mut self.session, queue, exists);
        self.resumable.push(id.number);
        if let Err(fault) = result {
            self.fault(id.number, fault);
        }
    }

    pub(super) fn dispatch(&mut self, notices: &mut Vec<Notice>) {
        for notice in notices.drain(..) {
            let (id, notice) = match notice {
                Notice::Confirmed(id, run) => {
                    if let Some(channel) = self.channels.get_mut(&id.number).filter(|channel| channel.id() == id) {
                        channel.confirmed(&mut self.session, run);
                        self.go_on_after_commit(id.number);
                    }
                    continue;
                }
                Notice::Refused(id, run) => {
                    if let Some(channel) = self.channels.get_mut(&id.number).filter(|channel| channel.id() == id) {
                        channel.refused(&mut self.session, run);
                        self.go_on_after_commit(id.number);
                    }
                    continue;
                }
                Notice::ConsumerTimedOut(consumer) => {
                    self.on_consumer_timed_out(consumer);
                    continue;
                }
                Notice::ReaderLost(consumer) => {
                    self.end_consumer(consumer);
                    continue;
                }
                Notice::Forgotten => {
                    let fault = Fault::new(ReplyCode::InternalError, "the cluster took this node for dead");
                    self.fault(0, fault);
                    continue;
                }
                Notice::Answer(id, ..) | Notice::Ended(id, _) | Notice::TimedOut(id, _) => (id, notice),
            };
            let Some(channel) = self.channels.get_mut(&id.number).filter(|channel| channel.id() == id) else {
                continue;
            };
            let result = channel.on_answer(&mut self.session, notice);
            self.resumable.push(id.number);
            if let Err(fault) = result {
                self.fault(id.number, fault);
            }
        }
    }
}
