//! What sessions ask of the queue, other than to take and settle messages: consumers, counts, ends, and answers to what
//! was asked before.

use std::collections::BTreeMap;

use warren_proto::queue;
use warren_proto::queue::reply::Kind as ReplyKind;
use warren_proto::queue::stream_from::At;
use warren_proto::record::{Command, Outcome, SessionId, Stored};

use super::facts::Facts;
use super::ready::Returned;
use super::window::Window;
use super::{Effect, Held, QueueMachine};

impl QueueMachine {
    /// Takes consumers and messages from sessions and forgets them. Each message counts as a failed delivery.
    pub(super) fn end_sessions(&mut self, slots: &[u32], out: &mut Vec<Effect>) {
        let attached = self.consumers.len();
        let sessions = || slots.iter().map(|slot| (*slot, &self.sessions[*slot]));
        let consumers: Vec<u32> = sessions()
            .flat_map(|(_, session)| session.consumers.values().copied())
            .collect();
        let holders = sessions().filter(|(_, session)| session.held > 0).map(|(slot, _)| slot);
        let mut holders: Vec<u32> = holders.collect();
        self.consumers.cancel(&consumers);
        holders.sort_unstable();
        if !holders.is_empty() {
            self.take_back(
                0,
                u64::MAX,
                |held| holders.binary_search(&held.session).is_ok(),
                Outcome::Reject,
            );
        }
        for &slot in slots {
            let session = self.sessions.remove(slot);
            self.slots.remove(&session.id);
        }
        if self.consumers.len() < attached {
            self.consumers_went(out);
        }
    }

    /// Takes consumers and messages from sessions that may still be there: they hear of their consumers' end when they
    /// ask, and what they settle is settled no more. No delivery counts as failed.
    pub(super) fn disconnect(&mut self, mut slots: Vec<u32>, out: &mut Vec<Effect>) {
        if self.ended {
            return;
        }
        let attached = self.consumers.len();
        self.tell_of_the_end(&slots, out);
        let consumers: Vec<u32> = slots
            .iter()
            .flat_map(|slot| std::mem::take(&mut self.sessions[*slot].consumers).into_values())
            .collect();
        self.consumers.cancel(&consumers);
        slots.sort_unstable();
        let is_silent = |held: &Held| slots.binary_search(&held.session).is_ok();
        self.take_back(0, u64::MAX, is_silent, Outcome::Release);
        if self.consumers.len() < attached {
            self.consumers_went(out);
        }
    }

    /// Tells sessions that their consumers end. One whose node was taken for dead may have nothing to send by which it
    /// would learn of it.
    pub(super) fn tell_of_the_end(&self, slots: &[u32], out: &mut Vec<Effect>) {
        for slot in slots {
            let session = &self.sessions[*slot];
            let ends = session.consumers.iter();
            let ends = ends.filter(|(_, at)| !self.ended && !self.consumers.get(**at).cancelled);
            out.extend(ends.map(|(consumer, _)| Effect::ConsumerTimedOut {
                session: session.id,
                consumer: *consumer,
            }));
        }
    }

    pub(super) fn attach(&mut self, slot: u32, mut attach: queue::Attach) -> ReplyKind {
        let known = self.sessions[slot].consumers.get(&attach.consumer);
        if let Some(known) = known
            .map(|known| self.consumers.get(*known))
            .filter(|known| !known.cancelled)
        {
            return ReplyKind::Attached(attached(&known.attach));
        }
        // 0 means a get, and the number of a shadow is taken.
        if self.ended || attach.consumer == 0 || known.is_some() {
            return ReplyKind::AttachRefused(queue::AttachRefused { exclusive: false });
        }
        if !self.consumers.admits(attach.exclusive) {
            return ReplyKind::AttachRefused(queue::AttachRefused { exclusive: true });
        }
        self.used();
        // Where a stream's reader begins is decided once, here: asked again, it is the same place.
        attach.from = self
            .stream
            .as_ref()
            .map(|stream| stream.resolve(attach.from.as_ref(), self.now_ms));
        let number = attach.consumer;
        let reply = attached(&attach);
        let consumer = self.consumers.attach(slot, attach);
        self.sessions[slot].consumers.insert(number, consumer);
        ReplyKind::Attached(reply)
    }

    pub(super) fn cancel(&mut self, slot: u32, cancel: &queue::Cancel, out: &mut Vec<Effect>) {
        let Some(&consumer) = self.sessions[slot].consumers.get(&cancel.consumer) else {
            return;
        };
        let attached = self.consumers.len();
        if self.consumers.cancel(&[consumer]) {
            self.sessions[slot].consumers.remove(&cancel.consumer);
        } else if cancel.requeue {
            self.take_back(0, u64::MAX, |held| held.consumer == consumer, Outcome::Release);
        }
        if self.consumers.len() < attached {
            self.consumers_went(out);
        }
    }

    pub(super) fn get(&mut self, slot: u32, seq: u64, no_ack: bool, out: &mut Vec<Effect>) {
        self.used();
        let Some((
            number,
            Returned {
                place,
                acquired,
                failed,
            },
        )) = self.ready.pop()
        else {
            return self.reply(slot, seq, ReplyKind::GetEmpty(queue::GetEmpty {}), out);
        };
        let held = Held {
            place,
            delivery: seq,
            session: slot,
            consumer: Held::GET,
            acquired,
            failed,
            since_ms: 0,
        };
        self.facts.leaves(number);
        out.push(self.deliver(number, &held));
        self.totals.got += 1;
        self.totals.redelivered += u64::from(acquired > 0);
        if no_ack {
            self.facts.forget(number);
            self.entries.remove(place.index);
            self.totals.acked += 1;
        } else {
            self.hold(number, held);
        }
        let ready = self.ready.len() as u64;
        self.reply(slot, seq, ReplyKind::GetOk(queue::GetOk { ready }), out);
    }

    pub(super) fn purge(&mut self) -> u64 {
        let count = self.waiting();
        for (seq, place) in self.ready.messages() {
            self.facts.leaves(seq);
            self.facts.forget(seq);
            self.entries.remove(place.index);
        }
        self.ready.clear();
        for (seq, rest) in self.resting.iter() {
            self.facts.forget(seq);
            self.entries.remove(rest.message.place.index);
        }
        self.resting.clear();
        self.totals.purged += count;
        count
    }

    /// Messages that are ready, or will be by themselves.
    fn waiting(&self) -> u64 {
        (self.ready.len() + self.resting.len()) as u64
    }

    /// What the queue's end would take with it, beside what sessions hold.
    fn kept(&self) -> u64 {
        self.waiting() + self.stream.as_ref().map_or(0, |stream| stream.len())
    }

    pub(super) fn stat(&self, slot: u32, seq: u64, out: &mut Vec<Effect>) {
        let ready = self
            .stream
            .as_ref()
            .map_or(self.ready.len() as u64, |stream| stream.len());
        let consumers = self.consumers.len() as u64;
        self.reply(slot, seq, ReplyKind::Stats(queue::Stats { ready, consumers }), out);
    }

    pub(super) fn delete(&mut self, slot: u32, seq: u64, delete: &queue::Delete, out: &mut Vec<Effect>) {
        let in_use = delete.if_unused && self.consumers.len() > 0;
        let not_empty = delete.if_empty && self.kept() > 0;
        if in_use || not_empty {
            return self.reply(
                slot,
                seq,
                ReplyKind::DeleteRefused(queue::DeleteRefused { in_use, not_empty }),
                out,
            );
        }
        let count = self.kept();
        self.reply(slot, seq, ReplyKind::Deleted(queue::Deleted { count }), out);
        if !self.ended {
            self.end(out);
        }
    }

    /// Consumers ended: perhaps the last.
    pub(super) fn consumers_went(&mut self, out: &mut Vec<Effect>) {
        self.used();
        if self.config.auto_delete && !self.ended && self.consumers.len() == 0 {
            self.end(out);
        }
    }

    /// Drops everything but what sessions have sent: they still want to know that.
    pub(super) fn end(&mut self, out: &mut Vec<Effect>) {
        self.ended = true;
        for (_, place) in self.ready.messages() {
            self.entries.remove(place.index);
        }
        for (_, held) in self.held.iter() {
            self.entries.remove(held.place.index);
        }
        for (_, rest) in self.resting.iter() {
            self.entries.remove(rest.message.place.index);
        }
        self.resting.clear();
        for (_, dead) in self.dead.from(0) {
            self.entries.remove(dead.at.index);
        }
        self.totals.buried += self.dead.len() as u64;
        self.dead.clear();
        if let Some(stream) = &mut self.stream {
            stream.clear();
        }
        self.facts = Facts::new();
        self.late_ms = 0;
        self.ready.clear();
        self.held = Window::new();
        self.held_bytes = 0;
        self.consumers.clear();
        for slot in self.slots.values() {
            let session = &mut self.sessions[*slot];
            session.held = 0;
            session.consumers.clear();
        }
        out.push(Effect::Gone);
    }

    /// A command that was applied before: answers again, changes nothing. False as in [`Self::command`].
    pub(super) fn again(&mut self, slot: u32, seq: u64, command: &Command<'_>, out: &mut Vec<Effect>) -> bool {
        match command {
            Command::Publish { payload, .. } => return Stored::decode(payload).is_ok(),
            Command::Settle { .. } | Command::Credit(_) | Command::Heard(_) => {}
            Command::Get(_) | Command::Purge | Command::Stat if self.ended => {}
            Command::Attach(attach) => {
                let kind = match self.sessions[slot].consumers.get(&attach.consumer) {
                    Some(known) => ReplyKind::Attached(attached(&self.consumers.get(*known).attach)),
                    // Refused then, or cancelled since: whoever cancelled it no longer waits for this answer.
                    None => ReplyKind::AttachRefused(queue::AttachRefused { exclusive: !self.ended }),
                };
                self.reply(slot, seq, kind, out);
            }
            Command::Cancel(_) => self.reply(slot, seq, ReplyKind::Cancelled(queue::Cancelled {}), out),
            Command::Get(_) => {
                let mut messages = self
                    .held
                    .iter()
                    .filter(|(_, held)| held.session == slot && held.consumer == Held::GET && held.delivery == seq);
                match messages.next() {
                    Some((number, held)) => {
                        out.push(self.deliver(number, held));
                        let ready = self.ready.len() as u64;
                        self.reply(slot, seq, ReplyKind::GetOk(queue::GetOk { ready }), out);
                    }
                    None => self.reply(slot, seq, ReplyKind::GetEmpty(queue::GetEmpty {}), out),
                }
            }
            Command::Purge => self.reply(slot, seq, ReplyKind::Purged(queue::Purged { count: 0 }), out),
            Command::Stat => self.stat(slot, seq, out),
            Command::Delete(delete) => {
                let kind = if self.ended {
                    ReplyKind::Deleted(queue::Deleted { count: 0 })
                } else {
                    // It was refused then; the reason may be gone, the refusal stands.
                    let not_empty = delete.if_empty && (self.kept() > 0 || !delete.if_unused);
                    let in_use = delete.if_unused && (self.consumers.len() > 0 || !not_empty);
                    ReplyKind::DeleteRefused(queue::DeleteRefused { in_use, not_empty })
                };
                self.reply(slot, seq, kind, out);
            }
            Command::SessionDown(_)
            | Command::NodeDown { .. }
            | Command::NodeSilent { .. }
            | Command::Tick
            | Command::Buried(_)
            | Command::Configure(_) => return false,
        }
        true
    }

    /// Sends a session again what it holds and may not have seen: deliveries of the named consumers from the given
    /// ids on, each consumer's in order, and all messages that it got. Of consumers that are not attached here it is
    /// said that they timed out: a session knows which it ended itself, and which it did not start yet. One that is
    /// unknown here hears it of all: it was ended, or what it began went with a majority that was given up.
    /// Says last that this was all.
    pub fn resync(&self, request: &queue::Resync, out: &mut Vec<Effect>) {
        let session = request.session();
        self.send_again(session, request, out);
        if request.number > 0 {
            let kind = Some(ReplyKind::Resynced(queue::Resynced {}));
            out.push(Effect::Reply {
                session,
                seq: request.number,
                reply: queue::Reply { kind },
            });
        }
    }

    fn send_again(&self, id: SessionId, request: &queue::Resync, out: &mut Vec<Effect>) {
        let Some(&slot) = self.slots.get(&id) else {
            if !self.ended {
                let asked = request.consumers.iter().map(|asked| asked.consumer);
                out.extend(asked.map(|consumer| Effect::ConsumerTimedOut { session: id, consumer }));
            }
            return;
        };
        let session = &self.sessions[slot];
        // The lowest wanted delivery by consumer slot.
        let mut wanted = BTreeMap::from([(Held::GET, 0)]);
        for asked in &request.consumers {
            let consumer = session.consumers.get(&asked.consumer).copied();
            if let Some(consumer) = consumer {
                let next = wanted.entry(consumer).or_insert(asked.next);
                *next = asked.next.min(*next);
            }
            if consumer.is_none_or(|consumer| self.consumers.get(consumer).cancelled) && !self.ended {
                out.push(Effect::ConsumerTimedOut {
                    session: id,
                    consumer: asked.consumer,
                });
            }
        }
        if session.held == 0 {
            return;
        }
        let mut again: Vec<_> = self
            .held
            .iter()
            .filter(|(_, held)| held.session == slot)
            .filter(|(_, held)| wanted.get(&held.consumer).is_some_and(|next| held.delivery >= *next))
            .map(|(number, held)| (self.consumer_number(held), held.delivery, number, held))
            .collect();
        again.sort_unstable_by_key(|(consumer, delivery, _, _)| (*consumer, *delivery));
        let ready = self.ready.len() as u64;
        for (_, delivery, number, held) in again {
            out.push(self.deliver(number, held));
            if held.consumer == Held::GET {
                self.reply(slot, delivery, ReplyKind::GetOk(queue::GetOk { ready }), out);
            }
        }
    }

    fn consumer_number(&self, held: &Held) -> u32 {
        if held.consumer == Held::GET {
            0
        } else {
            self.consumers.get(held.consumer).attach.consumer
        }
    }
}

/// The answer to a consumer's start.
fn attached(attach: &queue::Attach) -> queue::Attached {
    let offset = match attach.from.and_then(|from| from.at) {
        Some(At::Offset(offset)) => Some(offset),
        _ => None,
    };
    queue::Attached { offset }
}
