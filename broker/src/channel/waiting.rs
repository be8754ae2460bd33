//! What a channel waits for, and how it goes on when the answer comes.

use std::sync::Arc;

use warren_proto::queue::reply::Kind as Reply;

use super::Channel;
use crate::amqp::{Fault, Method, ReplyCode, ShortStr};
use crate::connection::session::{Session, refused};
use crate::metadata::{Change, DeclareQueue, Outcome, Queue, Refusal, Resource};
use crate::name::QueueName;
use crate::queue::client::{Asked, Notice};

/// The one thing that a channel waits for.
#[derive(Debug)]
pub(crate) enum Waiting {
    /// The counts of an existing queue that was declared; with the declaration unless it was passive.
    Counts {
        queue: QueueName,
        declare: Option<Box<DeclareQueue>>,
    },
    /// A new queue.
    NewQueue { no_wait: bool },
    /// The machine's word on deleting the queue.
    Delete { queue: Arc<Queue>, no_wait: bool },
    /// The metadata's word on deleting the queue.
    Deleted { count: u64, no_wait: bool },
    /// The count of purged messages.
    Purge { queue: QueueName, no_wait: bool },
    /// One message or none.
    Get { queue: Arc<Queue>, no_ack: bool },
    /// The consumer's start.
    Attach {
        consumer: u32,
        tag: ShortStr,
        queue: Arc<Queue>,
        no_wait: bool,
    },
    /// The consumer's end.
    Cancel {
        consumer: u32,
        tag: ShortStr,
        no_wait: bool,
    },
    /// Another node's word on a requester.
    PseudoQueue { queue: QueueName, no_wait: bool },
    /// Other nodes' word on how many channels there are.
    Count,
    /// A change of exchanges or bindings; then this is said.
    Change { reply: Option<Method> },
}

fn count(count: u64) -> u32 {
    u32::try_from(count).unwrap_or(u32::MAX)
}

/// The queue was deleted while it was being asked.
fn no_queue(session: &Session, queue: &str) -> Fault {
    refused(&Refusal::NoQueue(Resource::queue(&session.vhost, queue)))
}

impl Channel {
    /// Has the metadata changed and waits for the outcome.
    pub(super) fn submit(&mut self, session: &mut Session, change: Change, waiting: Waiting) {
        session.submit(self.id, change);
        self.waiting = Some(waiting);
    }

    fn say(&self, session: &mut Session, no_wait: bool, method: &Method) {
        if !no_wait {
            session.reply(self.id.number, method);
        }
    }

    /// A queue answered a question of this channel, or did not.
    pub(crate) fn on_answer(&mut self, session: &mut Session, notice: Notice) -> Result<(), Fault> {
        if let Notice::Answer(_, Asked::Use, _) | Notice::Ended(_, Asked::Use) | Notice::TimedOut(_, Asked::Use) =
            notice
        {
            return Ok(());
        }
        let waiting = self.waiting.take();
        let result = match notice {
            Notice::Answer(_, _, reply) => self.on_reply(session, waiting, &reply),
            Notice::Ended(..) => self.on_queue_ended(session, waiting),
            Notice::TimedOut(_, asked) => self.on_timeout(session, waiting, asked),
            Notice::Confirmed(..)
            | Notice::Refused(..)
            | Notice::ConsumerTimedOut(_)
            | Notice::ReaderLost(_)
            | Notice::Forgotten => {
                self.waiting = waiting;
                Ok(())
            }
        };
        result.map_err(|fault| fault.of(self.method))
    }

    fn on_reply(&mut self, session: &mut Session, waiting: Option<Waiting>, reply: &Reply) -> Result<(), Fault> {
        match (waiting, reply) {
            (Some(Waiting::Counts { queue, .. }), Reply::Stats(stats)) => {
                self.declared(session, queue, stats.ready, stats.consumers);
            }
            (Some(Waiting::Delete { queue, no_wait }), Reply::Deleted(deleted)) => {
                let waiting = Waiting::Deleted {
                    count: deleted.count,
                    no_wait,
                };
                self.submit(session, Change::DeleteQueue { group: queue.group }, waiting);
            }
            (Some(Waiting::Delete { queue, .. }), Reply::DeleteRefused(refused)) => {
                let reason = if refused.in_use { "in use" } else { "not empty" };
                return Err(Fault::new(
                    ReplyCode::PreconditionFailed,
                    format!("{} {reason}", queue.resource()),
                ));
            }
            (Some(Waiting::Purge { no_wait, .. }), Reply::Purged(purged)) => {
                self.say(
                    session,
                    no_wait,
                    &Method::QueuePurgeOk {
                        message_count: count(purged.count),
                    },
                );
            }
            (Some(Waiting::Get { .. }), Reply::GetEmpty(_)) => {
                session.reply(self.id.number, &Method::BasicGetEmpty {});
            }
            (Some(Waiting::Attach { tag, no_wait, .. }), Reply::Attached(_)) => {
                self.say(session, no_wait, &Method::BasicConsumeOk { consumer_tag: tag });
            }
            (
                Some(Waiting::Attach {
                    consumer, tag, queue, ..
                }),
                answer,
            ) => {
                self.drop_consumer(session, consumer, &tag);
                // Refused for another reason than exclusive use: it has ended.
                if let Reply::AttachRefused(refusal) = answer
                    && !refusal.exclusive
                {
                    return Err(no_queue(session, &queue.name));
                }
                return Err(Fault::new(
                    ReplyCode::AccessRefused,
                    format!("{} in exclusive use", queue.resource()),
                ));
            }
            (Some(Waiting::Cancel { consumer, tag, no_wait }), _) => self.cancelled(session, consumer, tag, no_wait),
            (waiting, _) => {
                // The answer to something that this channel no longer waits for.
                self.waiting = waiting;
            }
        }
        Ok(())
    }

    /// The queue was deleted before it could answer.
    fn on_queue_ended(&mut self, session: &mut Session, waiting: Option<Waiting>) -> Result<(), Fault> {
        match waiting {
            // It is declared once more, as if it had never been there.
            Some(Waiting::Counts {
                declare: Some(declare), ..
            }) => self.declare(session, *declare, false),
            Some(Waiting::Counts { queue, .. } | Waiting::Purge { queue, .. }) => Err(no_queue(session, &queue)),
            Some(Waiting::Get { queue, .. }) => Err(no_queue(session, &queue.name)),
            Some(Waiting::Attach {
                consumer, tag, queue, ..
            }) => {
                self.drop_consumer(session, consumer, &tag);
                Err(no_queue(session, &queue.name))
            }
            Some(Waiting::Delete { no_wait, .. }) => {
                self.say(session, no_wait, &Method::QueueDeleteOk { message_count: 0 });
                Ok(())
            }
            Some(Waiting::Cancel { consumer, tag, no_wait }) => {
                self.cancelled(session, consumer, tag, no_wait);
                Ok(())
            }
            waiting => {
                self.waiting = waiting;
                Ok(())
            }
        }
    }

    fn on_timeout(&mut self, session: &mut Session, waiting: Option<Waiting>, asked: Asked) -> Result<(), Fault> {
        match (waiting, asked) {
            // The declaration itself holds; the counts are a courtesy.
            (Some(Waiting::Counts { queue, .. }), _) => {
                self.declared(session, queue, 0, 0);
                Ok(())
            }
            (Some(waiting), _) => {
                let what = match &waiting {
                    Waiting::Get { .. } => "cannot get a message: the queue has no available leader",
                    Waiting::Purge { .. } => "cannot purge: the queue has no available leader",
                    Waiting::Delete { .. } => "cannot delete: the queue has no available leader",
                    Waiting::Attach { .. } => "cannot consume: the queue has no available leader",
                    Waiting::Cancel { .. } => "cannot cancel: the queue has no available leader",
                    Waiting::Counts { .. }
                    | Waiting::NewQueue { .. }
                    | Waiting::Deleted { .. }
                    | Waiting::PseudoQueue { .. }
                    | Waiting::Count
                    | Waiting::Change { .. } => {
                        self.waiting = Some(waiting);
                        return Ok(());
                    }
                };
                Err(Fault::new(ReplyCode::InternalError, what))
            }
            (None, _) => Ok(()),
        }
    }

    /// A change that this channel asked for was made, refused, or lost sight of.
    pub(crate) fn on_outcome(&mut self, session: &mut Session, outcome: Option<Outcome>) -> Result<(), Fault> {
        let waiting = self.waiting.take();
        let result = match outcome {
            None => Err(Fault::new(
                ReplyCode::InternalError,
                "the cluster's metadata are not available at present",
            )),
            Some(Outcome::Refused(refusal)) => Err(refused(&refusal)),
            Some(Outcome::Done) => {
                self.on_change_done(session, waiting, None);
                Ok(())
            }
            Some(Outcome::Queue(queue)) => {
                self.on_change_done(session, waiting, Some(&queue));
                Ok(())
            }
        };
        result.map_err(|fault| fault.of(self.method))
    }

    fn on_change_done(&mut self, session: &mut Session, waiting: Option<Waiting>, queue: Option<&Queue>) {
        match waiting {
            Some(Waiting::NewQueue { no_wait }) => {
                let Some(queue) = queue else { return };
                if no_wait {
                    self.last_queue = Some(queue.name.clone());
                } else {
                    self.declared(session, queue.name.clone(), 0, 0);
                }
            }
            Some(Waiting::Deleted {
                count: deleted,
                no_wait,
            }) => {
                self.say(
                    session,
                    no_wait,
                    &Method::QueueDeleteOk {
                        message_count: count(deleted),
                    },
                );
            }
            Some(Waiting::Change { reply: Some(reply) }) => session.reply(self.id.number, &reply),
            Some(Waiting::Change { reply: None }) => {}
            waiting => self.waiting = waiting,
        }
    }

    pub(super) fn declared(&mut self, session: &mut Session, queue: QueueName, ready: u64, consumers: u64) {
        let reply = Method::QueueDeclareOk {
            queue: ShortStr::cut(&queue),
            message_count: count(ready),
            consumer_count: count(consumers),
        };
        self.last_queue = Some(queue);
        session.reply(self.id.number, &reply);
    }
}
