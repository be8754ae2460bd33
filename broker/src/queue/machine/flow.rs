//! The way of messages: in, to consumers and back, out, and to their deaths.

use warren_proto::record::{Outcome, Run, Stored};

use super::dead::Graveyard;
use super::entries::Entries;
use super::facts::{Fact, Facts};
use super::ready::Returned;
use super::resting::Rest;
use super::{Config, Dead, Effect, Held, Kind, Overflow, Place, QueueMachine, Reason, Totals};
use crate::message::deduplication_key;

/// Messages that died of a queue's limits and wait for their burial; more are dropped, or the limit would be none.
const OVERFLOWED_MAX: usize = 16_384;

/// What a death takes.
struct Undertaker<'a> {
    config: &'a Config,
    dead: &'a mut Graveyard,
    entries: &'a mut Entries,
    totals: &'a mut Totals,
    now_ms: u64,
    overflowed_max: usize,
}

impl Undertaker<'_> {
    /// The message is in no other place any more.
    fn take(&mut self, at: Place, reason: Reason) {
        let is_full = reason == Reason::MaxLen && self.dead.len() >= self.overflowed_max;
        if self.config.dead_letters && !is_full {
            let time_ms = self.now_ms;
            self.dead.push(Dead { at, reason, time_ms });
            self.totals.dead_lettered += 1;
        } else {
            self.entries.remove(at.index);
        }
    }
}

impl QueueMachine {
    /// Takes a message in, unless it has come before. False if the queue refuses it.
    #[inline]
    pub(super) fn publish(&mut self, place: Place, message: &Stored<'_>) -> bool {
        if let Some(origin) = &message.origin
            && self.origins.has_come(origin)
        {
            return true;
        }
        if let Some(stream) = &mut self.stream {
            if let Some(origin) = &message.origin {
                self.origins.came(origin, place.index);
            }
            stream.append(place);
            self.totals.published += 1;
            return true;
        }
        let key = if self.config.deduplicates {
            deduplication_key(message.properties)
        } else {
            0
        };
        if key > 0 && self.facts.has_key(key) {
            if let Some(origin) = &message.origin {
                self.origins.came(origin, place.index);
            }
            return true;
        }
        let size = self.size(message);
        if self.refuses(size, message.origin.is_some()) {
            self.totals.refused += 1;
            if self.config.overflow == Overflow::RejectPublishDlx {
                self.entries.add();
                self.undertaker().take(place, Reason::MaxLen);
            }
            return false;
        }
        if let Some(origin) = &message.origin {
            self.origins.came(origin, place.index);
        }
        let seq = self.ready.push(place, self.config.level(message.priority));
        self.entries.add();
        self.totals.published += 1;
        let ttl_ms = match (message.ttl_ms, self.config.message_ttl_ms) {
            (Some(own), Some(queue)) => Some(own.min(queue)),
            (own, queue) => own.or(queue),
        };
        if size > 0 || ttl_ms.is_some() || key > 0 {
            let expires_ms = ttl_ms.map_or(0, |ttl_ms| self.now_ms.saturating_add(ttl_ms).max(1));
            self.facts.add(seq, Fact { expires_ms, size, key });
            self.facts.joins(seq);
        }
        true
    }

    /// What a message counts against the limit of bytes; 0 without such a limit.
    fn size(&self, message: &Stored<'_>) -> u32 {
        if self.config.bytes_max.is_none() {
            return 0;
        }
        let properties = match self.config.kind {
            Kind::Classic | Kind::Stream => 0,
            Kind::Quorum => message.properties.len(),
        };
        u32::try_from(message.body.len() + properties).unwrap_or(u32::MAX)
    }

    /// Whether one more message is too much for a queue that refuses them. Who died here and is not buried counts, but
    /// not for a dead letter: it may be one of these.
    fn refuses(&self, size: u32, is_dead_letter: bool) -> bool {
        let Config { len_max, bytes_max, .. } = self.config;
        if (len_max.is_none() && bytes_max.is_none()) || self.config.overflow == Overflow::DropHead {
            return false;
        }
        // It would not wait.
        if self.consumers.any_credit() {
            return false;
        }
        let dead = if is_dead_letter { 0 } else { self.dead.len() };
        let len = (self.ready.len() + self.resting.len() + dead) as u64;
        len_max.is_some_and(|max| len >= max)
            || bytes_max.is_some_and(|max| self.facts.ready_size() + u64::from(size) > max)
    }

    /// Lets messages go that are more than the queue may hold, the next first.
    #[inline]
    pub(super) fn enforce_limits(&mut self) {
        if self.config.len_max.is_some() || self.config.bytes_max.is_some() {
            self.shed(OVERFLOWED_MAX);
        }
    }

    /// The same; so many of the dead may wait for their burial.
    pub(super) fn shed(&mut self, overflowed_max: usize) {
        let Config { len_max, bytes_max, .. } = self.config;
        if self.config.overflow != Overflow::DropHead {
            return;
        }
        while len_max.is_some_and(|max| self.ready.len() as u64 > max)
            || bytes_max.is_some_and(|max| self.facts.ready_size() > max)
        {
            let Some((seq, message)) = self.ready.pop() else { return };
            self.facts.leaves(seq);
            self.facts.forget(seq);
            self.totals.overflowed += 1;
            let mut undertaker = self.undertaker();
            undertaker.overflowed_max = overflowed_max;
            undertaker.take(message.place, Reason::MaxLen);
        }
    }

    /// Takes out the messages whose time is over, wherever they stand.
    #[inline]
    pub(super) fn expire(&mut self) {
        while let Some((due_ms, seq)) = self.facts.first_due()
            && due_ms <= self.now_ms
        {
            self.facts.leaves(seq);
            self.facts.forget(seq);
            let message = self.ready.remove(seq).expect("what is due is ready");
            self.totals.expired += 1;
            self.undertaker().take(message.place, Reason::Expired);
        }
    }

    fn undertaker(&mut self) -> Undertaker<'_> {
        Undertaker {
            config: &self.config,
            dead: &mut self.dead,
            entries: &mut self.entries,
            totals: &mut self.totals,
            now_ms: self.now_ms,
            overflowed_max: OVERFLOWED_MAX,
        }
    }

    /// Those dead letters have come to where they had to go.
    pub(super) fn bury(&mut self, runs: &[Run]) {
        for run in runs {
            let last = run.first.saturating_add(u64::from(run.len) - 1);
            let Self {
                dead, entries, totals, ..
            } = self;
            dead.bury(run.first, last, |dead| {
                totals.buried += 1;
                entries.remove(dead.at.index);
            });
        }
    }

    /// The dead letters from a number on that wait to be buried, ascending.
    pub fn dead_letters(&self, first: u64) -> impl Iterator<Item = (u64, &Dead)> {
        self.dead.from(first)
    }

    /// Whether any dead letter waits to be buried.
    pub fn has_dead_letters(&self) -> bool {
        self.dead.len() > 0
    }

    /// The queue is in use: its end is put off.
    #[inline]
    pub(super) fn used(&mut self) {
        if self.config.expires_ms.is_some() {
            self.used_ms = self.now_ms.max(1);
        }
    }

    /// Messages that have rested are ready again, where they were. Says whether there were any.
    #[inline]
    fn wake(&mut self) -> bool {
        let mut woke = false;
        while let Some((seq, message)) = self.resting.pop_due(self.now_ms) {
            self.ready.put_back(seq, message);
            self.facts.joins(seq);
            woke = true;
        }
        woke
    }

    /// What is due by the time of an entry happens before the entry.
    #[inline]
    pub(super) fn pass_time(&mut self, out: &mut Vec<Effect>) {
        let woke = self.wake();
        self.expire();
        if self.late_ms > 0 && self.late_ms <= self.now_ms {
            self.find_late(out);
        }
        if woke {
            self.settle_down(out);
        }
        let Some(expires_ms) = self.config.expires_ms else {
            return;
        };
        if self.used_ms == 0 {
            self.used();
        }
        if !self.ended && self.consumers.len() == 0 && self.used_ms.saturating_add(expires_ms) <= self.now_ms {
            self.end(out);
        }
    }

    /// When something is due without anybody asking for it, in milliseconds since 1970: then an entry is wanted, if only
    /// one with [`Command::Tick`](warren_proto::record::Command::Tick).
    pub fn next_deadline(&self) -> Option<u64> {
        if self.ended {
            return None;
        }
        let message = self.facts.first_due().map(|(due_ms, _)| due_ms);
        let late = (self.late_ms > 0).then_some(self.late_ms);
        let unused = match self.config.expires_ms {
            Some(_) if self.used_ms == 0 => Some(0),
            Some(expires_ms) if self.consumers.len() == 0 => Some(self.used_ms.saturating_add(expires_ms)),
            Some(_) | None => None,
        };
        let rested = self.resting.first_due();
        let aged = self.stream.as_ref().and_then(|stream| stream.first_due(&self.config));
        [message, late, unused, rested, aged].into_iter().flatten().min()
    }

    /// Takes messages back that were held for too long, and ends the consumers that held them.
    fn find_late(&mut self, out: &mut Vec<Effect>) {
        let now_ms = self.now_ms;
        let due_ms = |held: &Held, timeout_ms: u64| held.since_ms.saturating_add(timeout_ms);
        let mut next = u64::MAX;
        let mut late = Vec::new();
        for (_, held) in self.held.iter().filter(|(_, held)| held.since_ms > 0) {
            let consumer = self.consumers.get(held.consumer);
            let due_ms = due_ms(held, consumer.attach.timeout_ms);
            if due_ms <= now_ms {
                late.push((consumer.order, held.consumer));
            } else {
                next = next.min(due_ms);
            }
        }
        self.late_ms = if next == u64::MAX { 0 } else { next };
        late.sort_unstable();
        late.dedup();
        for (_, slot) in late {
            if self.ended {
                return;
            }
            let consumer = self.consumers.get(slot);
            let (number, timeout_ms) = (consumer.attach.consumer, consumer.attach.timeout_ms);
            if !consumer.cancelled {
                out.push(Effect::ConsumerTimedOut {
                    session: self.sessions[consumer.session].id,
                    consumer: number,
                });
            }
            let attached = self.consumers.len();
            self.consumers.cancel(&[slot]);
            let is_late = |held: &Held| held.consumer == slot && due_ms(held, timeout_ms) <= now_ms;
            self.take_back(0, u64::MAX, is_late, Outcome::Release);
            if self.consumers.len() < attached {
                self.consumers_went(out);
            }
        }
        self.settle_down(out);
    }

    /// Settles what the session holds of `runs`; other numbers are ignored.
    pub(super) fn settle(&mut self, slot: u32, outcome: Outcome, runs: &[Run]) {
        for run in runs {
            let last = run.first.saturating_add(u64::from(run.len) - 1);
            self.take_back(run.first, last, |held| held.session == slot, outcome);
        }
    }

    /// Takes the held messages of `first..=last` that are `wanted` from their holders.
    pub(super) fn take_back(&mut self, first: u64, last: u64, wanted: impl Fn(&Held) -> bool, outcome: Outcome) {
        let Self {
            held: window,
            held_bytes,
            ready,
            resting,
            sessions,
            consumers,
            entries,
            totals,
            facts,
            dead,
            config,
            now_ms,
            ..
        } = self;
        let now_ms = *now_ms;
        let limit = config.delivery_limit.unwrap_or(u32::MAX);
        window.extract(first, last, wanted, |seq, held| {
            *held_bytes -= u64::from(held.place.len);
            let session = &mut sessions[held.session];
            session.held -= 1;
            if held.consumer != Held::GET
                && let Some(number) = consumers.settled(held.consumer)
            {
                session.consumers.remove(&number);
            }
            let mut dies = |facts: &mut Facts, totals: &mut Totals, reason| {
                facts.forget(seq);
                let mut undertaker = Undertaker {
                    config,
                    dead,
                    entries,
                    totals,
                    now_ms,
                    overflowed_max: OVERFLOWED_MAX,
                };
                undertaker.take(held.place, reason);
            };
            let failed = match outcome {
                Outcome::Ack => {
                    totals.acked += 1;
                    facts.forget(seq);
                    return entries.remove(held.place.index);
                }
                Outcome::Discard => {
                    totals.discarded += 1;
                    return dies(facts, totals, Reason::Rejected);
                }
                Outcome::Reject => held.failed.saturating_add(1),
                Outcome::Release => held.failed,
            };
            // A limit that was lowered meanwhile is for the next failure.
            if outcome == Outcome::Reject && failed > limit {
                totals.dropped += 1;
                return dies(facts, totals, Reason::DeliveryLimit);
            }
            if facts.has_expired(seq, now_ms) {
                totals.expired += 1;
                return dies(facts, totals, Reason::Expired);
            }
            totals.requeued += 1;
            let message = Returned {
                place: held.place,
                acquired: held.acquired.saturating_add(1),
                failed,
            };
            let rest_ms = config
                .retry
                .map_or(0, |retry| retry.rest_ms(outcome == Outcome::Reject, failed));
            if rest_ms > 0 {
                // No longer than it lives: it dies as a ready message.
                let until_ms = now_ms.saturating_add(rest_ms).min(facts.expires_ms(seq));
                let fresh = resting.insert(seq, Rest { until_ms, message });
                assert!(fresh, "message {seq} was held and rested");
                return;
            }
            ready.put_back(seq, message);
            facts.joins(seq);
        });
    }

    /// Ready messages go to consumers with credit.
    #[inline]
    pub(super) fn hand_out(&mut self, out: &mut Vec<Effect>) {
        while self.consumers.any_credit() {
            let Some((
                number,
                Returned {
                    place,
                    acquired,
                    failed,
                },
            )) = self.ready.pop()
            else {
                return;
            };
            let (slot, consumer) = self.consumers.deliver().expect("a consumer has credit");
            let (session, delivery, timeout_ms) = (consumer.session, consumer.last_id, consumer.attach.timeout_ms);
            let since_ms = if timeout_ms == 0 { 0 } else { self.now_ms.max(1) };
            if timeout_ms > 0 {
                let late_ms = since_ms.saturating_add(timeout_ms);
                if self.late_ms == 0 || late_ms < self.late_ms {
                    self.late_ms = late_ms;
                }
            }
            self.facts.leaves(number);
            let held = Held {
                place,
                delivery,
                session,
                consumer: slot,
                acquired,
                failed,
                since_ms,
            };
            self.totals.delivered += 1;
            self.totals.redelivered += u64::from(acquired > 0);
            out.push(self.deliver(number, &held));
            self.hold(number, held);
        }
    }

    pub(super) fn hold(&mut self, number: u64, held: Held) {
        self.held_bytes += u64::from(held.place.len);
        self.sessions[held.session].held += 1;
        self.held.insert(number, held);
    }
}
