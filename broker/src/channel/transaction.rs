//! Transactions of one channel: what is published and settled is held until tx.commit.
//!
//! ```text
//! tx.select --> open --tx.commit--> committing --every queue has its part--> tx.commit-ok, open
//!               |  ^                     '--some queue refused a message---> 406, the channel closes
//!               '--' tx.rollback: messages are dropped, settled ones are unsettled again
//! ```
//!
//! A message is checked and routed when it comes, as RabbitMQ does, and goes to those of its queues that are still
//! there at the commit. Returns are sent at the commit. Queues commit each for itself: a refused commit may have been
//! taken by some of them.

use bytes::{Bytes, BytesMut};
use warren_proto::record::{Outcome as Settlement, Run};

use super::publish::Routed;
use super::unacked::Held;
use super::{Address, Channel, Message};
use crate::amqp::{Fault, Method, ReplyCode};
use crate::connection::session::Session;

/// What a held message costs beside its bytes.
const OVERHEAD: usize = 256;

/// What a channel in tx mode holds.
#[derive(Debug, Default)]
pub(super) struct Transaction {
    messages: Vec<(Message, Routed)>,
    /// In the order in which they came, with their delivery tags.
    settlements: Vec<(Settlement, u64, Held)>,
    /// What the messages count for in [`Session::transaction_bytes`].
    bytes: usize,
    commit: Option<Commit>,
    /// The confirm number of the last part of a commit.
    last_number: u64,
}

/// A commit under way.
#[derive(Debug, Default)]
struct Commit {
    /// Answers that queues have not given.
    missing: u64,
    refused: bool,
}

impl Transaction {
    /// Holds a message. 406 if the connection's transactions hold too much.
    pub(super) fn publish(&mut self, session: &mut Session, message: &Message, routed: Routed) -> Result<(), Fault> {
        let cost = OVERHEAD + message.properties.len() + message.parts.iter().map(Bytes::len).sum::<usize>();
        let (size, max) = (
            session.transaction_bytes.saturating_add(cost),
            session.limits.transaction_bytes_max,
        );
        if size > max {
            let text = format!("open transactions of {size} bytes exceed the maximum of {max}");
            return Err(Fault::new(ReplyCode::PreconditionFailed, text));
        }
        session.transaction_bytes = size;
        self.bytes += cost;
        self.messages.push((detach(message), routed));
        Ok(())
    }

    /// How many messages and settlements it holds.
    pub(super) fn len(&self) -> (u64, u64) {
        (self.messages.len() as u64, self.settlements.len() as u64)
    }

    /// Holds a settlement.
    pub(super) fn settle(&mut self, outcome: Settlement, tag: u64, held: Held) {
        self.settlements.push((outcome, tag, held));
    }

    /// A part of the commit went to so many queues: the confirm number under which they answer.
    pub(super) fn await_answers(&mut self, queues: u32) -> u64 {
        if let Some(commit) = &mut self.commit {
            commit.missing += u64::from(queues);
        }
        self.last_number += 1;
        self.last_number
    }

    /// A queue has these parts, or does not take them.
    pub(super) fn answered(&mut self, run: Run, taken: bool) {
        if let Some(commit) = &mut self.commit {
            commit.missing = commit.missing.saturating_sub(u64::from(run.len));
            commit.refused |= !taken;
        }
    }

    fn forget_messages(&mut self, session: &mut Session) -> Vec<(Message, Routed)> {
        session.transaction_bytes -= std::mem::take(&mut self.bytes);
        std::mem::take(&mut self.messages)
    }
}

/// The message in memory of its own: what came in one read from the socket stays in memory as a whole.
fn detach(message: &Message) -> Message {
    let mut body = BytesMut::with_capacity(message.parts.iter().map(Bytes::len).sum());
    message.parts.iter().for_each(|part| body.extend_from_slice(part));
    Message {
        address: Address {
            exchange: message.address.exchange.detach(),
            routing_key: message.address.routing_key.detach(),
            mandatory: message.address.mandatory,
        },
        properties: Bytes::copy_from_slice(&message.properties),
        parts: if body.is_empty() {
            Vec::new()
        } else {
            vec![body.freeze()]
        },
    }
}

fn not_transactional() -> Fault {
    Fault::new(ReplyCode::PreconditionFailed, "channel is not transactional")
}

impl Channel {
    /// tx.select
    pub(super) fn select_transaction(&mut self, session: &mut Session) -> Result<(), Fault> {
        if self.confirms.is_some() {
            let text = "cannot switch from confirm to tx mode";
            return Err(Fault::new(ReplyCode::PreconditionFailed, text));
        }
        self.transaction.get_or_insert_default();
        session.reply(self.id.number, &Method::TxSelectOk {});
        Ok(())
    }

    /// tx.commit: everything goes to its queues, messages first.
    pub(super) fn commit(&mut self, session: &mut Session) -> Result<(), Fault> {
        let transaction = self.transaction.as_mut().ok_or_else(not_transactional)?;
        let mut messages = transaction.forget_messages(session);
        let settlements = std::mem::take(&mut transaction.settlements);
        transaction.commit = Some(Commit::default());
        let picture = session.picture();
        for (message, routed) in &mut messages {
            // For one that was deleted meanwhile nobody would answer; without any left the message still counts as
            // routed.
            let is_there = |group: &u64| picture.queue_by_group(*group).is_some();
            if !routed.groups.iter().all(is_there) {
                routed.groups = routed.groups.iter().copied().filter(is_there).collect();
                message.address.mandatory = false;
            }
            self.send(session, message, routed);
        }
        let mut groups = Vec::new();
        for (outcome, _, held) in settlements {
            if session.settle(outcome, held.group, held.message, held.consumer) {
                groups.push(held.group);
            }
        }
        groups.sort_unstable();
        groups.dedup();
        let now_ms = session.now_ms;
        for group in groups {
            if let Some(client) = session.queues.known(group)
                && let Some(transaction) = &mut self.transaction
            {
                client.confirm_settled((self.id, transaction.await_answers(1)), now_ms);
            }
        }
        self.end_commit(session).transpose().map(|_| ())
    }

    /// tx.rollback
    pub(super) fn roll_back(&mut self, session: &mut Session) -> Result<(), Fault> {
        let transaction = self.transaction.as_mut().ok_or_else(not_transactional)?;
        transaction.forget_messages(session);
        let settlements = transaction.settlements.drain(..);
        self.unacked.restore(settlements.map(|(_, tag, held)| (tag, held)));
        session.reply(self.id.number, &Method::TxRollbackOk {});
        Ok(())
    }

    /// Whether tx.commit came and is not answered.
    pub(super) fn is_committing(&self) -> bool {
        self.transaction
            .as_ref()
            .is_some_and(|transaction| transaction.commit.is_some())
    }

    /// Answers tx.commit once every queue has said what it makes of its part; `None` before that, and without one.
    pub(crate) fn end_commit(&mut self, session: &mut Session) -> Option<Result<(), Fault>> {
        let transaction = self.transaction.as_mut()?;
        let commit = transaction.commit.take_if(|commit| commit.missing == 0)?;
        if commit.refused {
            let fault = Fault::new(ReplyCode::PreconditionFailed, "partial tx completion");
            return Some(Err(fault.of(self.method)));
        }
        session.reply(self.id.number, &Method::TxCommitOk {});
        Some(Ok(()))
    }

    /// Drops what is published, and puts what is settled back among the unsettled.
    pub(super) fn drop_transaction(&mut self, session: &mut Session) {
        if let Some(mut transaction) = self.transaction.take() {
            transaction.forget_messages(session);
            let settlements = transaction.settlements.into_iter();
            self.unacked.restore(settlements.map(|(_, tag, held)| (tag, held)));
        }
    }
}
