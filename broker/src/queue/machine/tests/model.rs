//! The queue once more, as plainly as it can be said: every question is answered by looking at everything.

use warren_proto::record::Origin;

use super::*;

mod sessions;

#[derive(Clone, Debug)]
struct Message {
    place: Place,
    acquired: u32,
    failed: u32,
    holder: Option<Holder>,
    rests_until_ms: Option<u64>,
    /// Its properties, of which only the key differs.
    key: Option<Vec<u8>>,
    priority: u8,
    expires_ms: Option<u64>,
    size: u64,
}

impl Message {
    fn is_ready(&self) -> bool {
        self.holder.is_none() && self.rests_until_ms.is_none()
    }
}

#[derive(Clone, Copy, Debug)]
struct Holder {
    session: SessionId,
    /// Consumer and delivery id, or 0 and the number of the get.
    consumer: u32,
    delivery: u64,
    since_ms: u64,
}

#[derive(Clone, Debug)]
struct ModelConsumer {
    session: SessionId,
    attach: queue::Attach,
    last_id: u64,
    written: u64,
    cancelled: bool,
    /// When it came to stand at the end of the line; `None` while it does not stand there.
    in_line_since: Option<u64>,
}

#[derive(Clone, Debug, Default)]
pub(super) struct Model {
    config: Config,
    ended: bool,
    messages: BTreeMap<u64, Message>,
    version: u64,
    published: BTreeMap<u8, u64>,
    dead: BTreeMap<u64, Dead>,
    deaths: u64,
    origins: BTreeSet<(u64, u64)>,
    floors: BTreeMap<u64, u64>,
    refused: BTreeMap<SessionId, Vec<Run>>,
    active: Option<(SessionId, u32)>,
    time_ms: u64,
    used_ms: Option<u64>,
    last_seqs: BTreeMap<SessionId, u64>,
    ended_sessions: Vec<SessionId>,
    consumers: Vec<ModelConsumer>,
    now: u64,
    effects: Vec<Effect>,
}

impl Model {
    pub(super) fn new(config: Config) -> Self {
        Self {
            config,
            ..Self::default()
        }
    }

    pub(super) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Entries that hold a message.
    pub(super) fn live(&self) -> BTreeSet<u64> {
        let dead = self.dead.values().map(|dead| dead.at.index);
        let living = self.messages.values().map(|message| message.place.index);
        living.chain(dead).collect()
    }

    pub(super) fn counts(&self) -> (u64, u64, u64) {
        let unacked = self
            .messages
            .values()
            .filter(|message| message.holder.is_some())
            .count();
        let consumers = self.attached().count();
        let ready = self.messages.values().filter(|message| message.is_ready()).count();
        (ready as u64, unacked as u64, consumers as u64)
    }

    /// Messages that came back and rest.
    pub(super) fn resting(&self) -> u64 {
        let resting = self
            .messages
            .values()
            .filter(|message| message.rests_until_ms.is_some());
        resting.count() as u64
    }

    /// What a session holds.
    pub(super) fn held_by(&self, session: SessionId) -> Vec<u64> {
        let held = |message: &Message| message.holder.is_some_and(|holder| holder.session == session);
        self.messages
            .iter()
            .filter(|(_, message)| held(message))
            .map(|(seq, _)| *seq)
            .collect()
    }

    pub(super) fn last_seq(&self, session: SessionId) -> u64 {
        self.last_seqs.get(&session).copied().unwrap_or(0)
    }

    /// Consumers of a session with the number of their last delivery.
    pub(super) fn consumers_of(&self, session: SessionId) -> Vec<(u32, u64)> {
        let of = self.consumers.iter().filter(|consumer| consumer.session == session);
        of.map(|consumer| (consumer.attach.consumer, consumer.last_id))
            .collect()
    }

    pub(super) fn dead(&self) -> Vec<(u64, Dead)> {
        self.dead.iter().map(|(id, dead)| (*id, *dead)).collect()
    }

    pub(super) fn first_dead(&self) -> u64 {
        self.dead.keys().next().copied().unwrap_or(self.deaths)
    }

    /// When something is due.
    pub(super) fn next_due(&self) -> Option<u64> {
        if self.ended {
            return None;
        }
        let ready = self.messages.values().filter(|message| message.is_ready());
        let expires = ready.filter_map(|message| message.expires_ms);
        let rested = self.messages.values().filter_map(|message| message.rests_until_ms);
        let late = self
            .messages
            .values()
            .filter_map(|message| self.late_ms(message.holder?));
        let unused = self
            .config
            .expires_ms
            .filter(|_| self.attached().count() == 0)
            .map(|after| self.used_ms.map_or(0, |used| used + after));
        expires.chain(rested).chain(late).chain(unused).min()
    }

    fn consumer(&self, session: SessionId, number: u32) -> Option<&ModelConsumer> {
        let mut consumers = self.consumers.iter();
        consumers.find(|other| (other.session, other.attach.consumer) == (session, number))
    }

    fn late_ms(&self, holder: Holder) -> Option<u64> {
        let timeout_ms = self.consumer(holder.session, holder.consumer)?.attach.timeout_ms;
        (timeout_ms > 0).then_some(holder.since_ms + timeout_ms)
    }

    /// An entry of that time begins.
    pub(super) fn pass_time(&mut self, time_ms: u64) {
        self.time_ms = time_ms;
        for message in self.messages.values_mut() {
            message.rests_until_ms = message.rests_until_ms.filter(|until_ms| *until_ms > time_ms);
        }
        self.expire();
        let late: Vec<(SessionId, u32)> = self
            .consumers
            .iter()
            .filter(|consumer| {
                let holders = self.messages.values().filter_map(|message| message.holder);
                holders
                    .filter(|holder| (holder.session, holder.consumer) == (consumer.session, consumer.attach.consumer))
                    .any(|holder| self.late_ms(holder).is_some_and(|late_ms| late_ms <= time_ms))
            })
            .map(|consumer| (consumer.session, consumer.attach.consumer))
            .collect();
        for (session, number) in late {
            self.time_out(session, number);
        }
        self.hand_out();
        if self.config.expires_ms.is_some() && self.used_ms.is_none() {
            self.used_ms = Some(time_ms);
        }
        if let (Some(used_ms), Some(expires_ms)) = (self.used_ms, self.config.expires_ms)
            && !self.ended
            && self.attached().count() == 0
            && used_ms + expires_ms <= time_ms
        {
            self.end();
        }
    }

    fn time_out(&mut self, session: SessionId, consumer: u32) {
        if self.ended {
            return;
        }
        let mut consumers = self.consumers.iter_mut();
        let known = consumers.find(|other| (other.session, other.attach.consumer) == (session, consumer));
        let known = known.expect("it holds something");
        let was_cancelled = std::mem::replace(&mut known.cancelled, true);
        if !was_cancelled {
            self.effects.push(Effect::ConsumerTimedOut { session, consumer });
        }
        let late = |message: &Message| {
            message.holder.is_some_and(|holder| {
                (holder.session, holder.consumer) == (session, consumer)
                    && self.late_ms(holder).is_some_and(|late_ms| late_ms <= self.time_ms)
            })
        };
        let late: Vec<u64> = self
            .messages
            .iter()
            .filter(|(_, message)| late(message))
            .map(|(seq, _)| *seq)
            .collect();
        for seq in late {
            self.put_back(seq, false);
        }
        self.settle_consumers();
        if !was_cancelled {
            self.used();
            self.end_if_unused();
        }
    }

    fn used(&mut self) {
        self.used_ms = Some(self.time_ms);
    }

    /// The message is gone, of that.
    fn die(&mut self, seq: u64, reason: Reason) {
        let message = self.messages.remove(&seq).expect("it lived");
        self.lay_out(message.place, reason);
    }

    fn lay_out(&mut self, at: Place, reason: Reason) {
        if self.config.dead_letters {
            self.deaths += 1;
            let time_ms = self.time_ms;
            self.dead.insert(self.deaths, Dead { at, reason, time_ms });
        }
    }

    pub(super) fn bury(&mut self, runs: &[Run]) {
        for id in runs.iter().flat_map(|run| run.numbers()) {
            self.dead.remove(&id);
        }
        self.hand_out();
    }

    /// Other settings hold from now on.
    pub(super) fn configure(&mut self, version: u64, config: &Config) {
        if version > self.version && !self.ended {
            self.version = version;
            let counted = |config: &Config| config.bytes_max.is_some();
            if counted(&self.config) != counted(config) {
                for message in self.messages.values_mut() {
                    message.size = if counted(config) {
                        u64::from(message.place.len)
                    } else {
                        0
                    };
                }
            }
            if self.config.expires_ms != config.expires_ms {
                self.used();
            }
            self.config = config.clone();
        } else if version == self.version && version > 0 && !self.ended {
            self.config.retry = config.retry;
        }
        self.hand_out();
    }

    fn next_ready(&self) -> Option<u64> {
        let ready = self.messages.iter().filter(|(_, message)| message.is_ready());
        ready
            .max_by_key(|(seq, message)| (message.priority, std::cmp::Reverse(**seq)))
            .map(|(seq, _)| *seq)
    }

    fn expire(&mut self) {
        let due = self
            .messages
            .iter()
            .filter(|(_, message)| message.is_ready())
            .filter_map(|(seq, message)| Some((message.expires_ms?, *seq)));
        let mut due: Vec<_> = due.filter(|(expires_ms, _)| *expires_ms <= self.time_ms).collect();
        due.sort_unstable();
        for (_, seq) in due {
            self.die(seq, Reason::Expired);
        }
    }

    fn ready_size(&self) -> u64 {
        let ready = self.messages.values().filter(|message| message.is_ready());
        ready.map(|message| message.size).sum()
    }

    fn enforce_limits(&mut self) {
        if self.config.overflow != Overflow::DropHead {
            return;
        }
        while self.config.len_max.is_some_and(|max| self.ready() > max)
            || self.config.bytes_max.is_some_and(|max| self.ready_size() > max)
        {
            let next = self.next_ready().expect("something is too much");
            self.die(next, Reason::MaxLen);
        }
    }

    fn publish(&mut self, session: SessionId, number: u64, payload: &[u8], place: Place) {
        let stored = Stored::decode(payload).expect("as written");
        if let Some(Origin { group, id, .. }) = stored.origin
            && (self.origins.contains(&(group, id)) || self.floors.get(&group).is_some_and(|floor| id < *floor))
        {
            return;
        }
        let key = (self.config.deduplicates && stored.properties.len() > 2).then(|| stored.properties.to_vec());
        if key.is_some() && self.messages.values().any(|message| message.key == key) {
            if let Some(Origin { group, id, floor }) = stored.origin {
                self.origins.insert((group, id));
                let known = self.floors.entry(group).or_default();
                *known = floor.max(*known);
            }
            return;
        }
        let quorum = self.config.kind == Kind::Quorum;
        let body = stored.body.len() + if quorum { stored.properties.len() } else { 0 };
        let size = if self.config.bytes_max.is_some() {
            body as u64
        } else {
            0
        };
        let in_line = self.consumers.iter().any(|consumer| self.has_credit(consumer));
        let dead = if stored.origin.is_some() { 0 } else { self.dead.len() };
        let len = self.ready() + self.resting() + dead as u64;
        let is_full = self.config.len_max.is_some_and(|max| len + 1 > max)
            || self.config.bytes_max.is_some_and(|max| self.ready_size() + size > max);
        if is_full && !in_line && self.config.overflow != Overflow::DropHead {
            Run::push(self.refused.entry(session).or_default(), number);
            if self.config.overflow == Overflow::RejectPublishDlx {
                self.lay_out(place, Reason::MaxLen);
            }
            return;
        }
        if let Some(Origin { group, id, floor }) = stored.origin {
            self.origins.insert((group, id));
            let known = self.floors.entry(group).or_default();
            *known = floor.max(*known);
        }
        let absent = if quorum { 4 } else { 0 };
        let max = if quorum {
            31
        } else {
            self.config.priority_max.unwrap_or(0)
        };
        let priority = stored.priority.map_or(absent, |priority| priority.min(max));
        let count = self.published.entry(priority).or_default();
        *count += 1;
        let seq = (u64::from(priority ^ absent) << 56) | *count;
        let ttl_ms = [stored.ttl_ms, self.config.message_ttl_ms].into_iter().flatten().min();
        let message = Message {
            place,
            acquired: 0,
            failed: 0,
            holder: None,
            rests_until_ms: None,
            key,
            priority,
            expires_ms: ttl_ms.map(|ttl_ms| self.time_ms + ttl_ms),
            size,
        };
        self.messages.insert(seq, message);
    }

    /// Who is served where only one is.
    fn elect(&mut self) {
        if !self.config.single_active_consumer {
            return;
        }
        let best = self
            .attached()
            .zip(0..)
            .min_by_key(|(consumer, order)| (std::cmp::Reverse(consumer.attach.priority), *order))
            .map(|(consumer, _)| (consumer.session, consumer.attach.consumer, consumer.attach.priority));
        let Some((session, number, priority)) = best else {
            self.active = None;
            return;
        };
        let active = self.active.and_then(|(session, number)| self.consumer(session, number));
        let stays = active.is_some_and(|active| {
            let gives_way = self.config.kind == Kind::Quorum && priority > active.attach.priority;
            !active.cancelled && (!gives_way || self.unsettled(active) > 0)
        });
        if !stays {
            self.active = Some((session, number));
        }
    }

    fn waits(&self, consumer: &ModelConsumer) -> bool {
        if !self.config.single_active_consumer {
            return false;
        }
        let gives_way = self.config.kind == Kind::Quorum
            && self
                .attached()
                .any(|other| other.attach.priority > consumer.attach.priority);
        self.active != Some((consumer.session, consumer.attach.consumer)) || gives_way
    }

    fn tell_refused(&mut self, session: SessionId) {
        for run in self.refused.get(&session).cloned().unwrap_or_default() {
            self.effects.push(Effect::Refused { session, run });
        }
    }

    fn attached(&self) -> impl Iterator<Item = &ModelConsumer> {
        self.consumers.iter().filter(|consumer| !consumer.cancelled)
    }

    fn ready(&self) -> u64 {
        self.counts().0
    }

    fn unsettled(&self, consumer: &ModelConsumer) -> u64 {
        let held = |message: &&Message| {
            message
                .holder
                .is_some_and(|holder| (holder.session, holder.consumer) == (consumer.session, consumer.attach.consumer))
        };
        self.messages.values().filter(held).count() as u64
    }

    fn has_credit(&self, consumer: &ModelConsumer) -> bool {
        let unsettled = self.unsettled(consumer);
        let unwritten = unsettled.min(consumer.last_id - consumer.written);
        let limit = u64::from(consumer.attach.prefetch);
        let unlimited = consumer.attach.no_ack || limit == 0;
        !consumer.cancelled
            && !self.waits(consumer)
            && if unlimited {
                unwritten < WINDOW
            } else {
                unsettled < limit
            }
    }

    /// Forgets shadows without messages and lets consumers with credit stand in line.
    fn settle_consumers(&mut self) {
        self.elect();
        let gone: Vec<bool> = self
            .consumers
            .iter()
            .map(|consumer| consumer.cancelled && self.unsettled(consumer) == 0)
            .collect();
        let mut gone = gone.into_iter();
        self.consumers.retain(|_| gone.next() != Some(true));
        for at in 0..self.consumers.len() {
            let credit = self.has_credit(&self.consumers[at]);
            if !credit {
                self.consumers[at].in_line_since = None;
            } else if self.consumers[at].in_line_since.is_none() {
                self.now += 1;
                self.consumers[at].in_line_since = Some(self.now);
            }
        }
    }

    fn reply(&mut self, session: SessionId, seq: u64, kind: ReplyKind) {
        self.effects.push(Effect::Reply {
            session,
            seq,
            reply: queue::Reply { kind: Some(kind) },
        });
    }

    fn deliver_effect(&self, seq: u64) -> Effect {
        let message = &self.messages[&seq];
        let Holder {
            session,
            consumer,
            delivery,
            ..
        } = message.holder.expect("a held message");
        let (delivery_id, get_seq) = if consumer == 0 { (0, delivery) } else { (delivery, 0) };
        let Message {
            place: at,
            acquired,
            failed,
            ..
        } = message.clone();
        let redelivered = acquired > 0;
        Effect::Deliver {
            session,
            consumer,
            delivery_id,
            get_seq,
            seq,
            redelivered,
            acquired,
            failed,
            at,
        }
    }

    fn hold(&mut self, session: SessionId, consumer: u32, delivery: u64) -> Option<u64> {
        let seq = self.next_ready()?;
        let message = self.messages.get_mut(&seq)?;
        message.holder = Some(Holder {
            session,
            consumer,
            delivery,
            since_ms: self.time_ms,
        });
        self.effects.push(self.deliver_effect(seq));
        Some(seq)
    }

    fn hand_out(&mut self) {
        self.serve();
        self.expire();
        self.enforce_limits();
    }

    fn serve(&mut self) {
        loop {
            self.settle_consumers();
            let turn = |consumer: &&mut ModelConsumer| {
                (
                    std::cmp::Reverse(consumer.attach.priority),
                    consumer.in_line_since.expect("it stands in line"),
                )
            };
            let standing = self
                .consumers
                .iter_mut()
                .filter(|consumer| consumer.in_line_since.is_some());
            let Some(next) = standing.min_by_key(turn) else { return };
            let (session, number, delivery) = (next.session, next.attach.consumer, next.last_id + 1);
            if !self.messages.values().any(Message::is_ready) {
                return;
            }
            let next = self
                .consumers
                .iter_mut()
                .find(|other| (other.session, other.attach.consumer) == (session, number));
            let next = next.expect("found before");
            next.last_id = delivery;
            self.now += 1;
            next.in_line_since = Some(self.now);
            self.hold(session, number, delivery);
        }
    }

    /// Puts one held message back, or drops it at the delivery limit.
    fn put_back(&mut self, seq: u64, failed: bool) {
        let message = self.messages.get_mut(&seq).expect("a held message");
        message.holder = None;
        message.acquired += 1;
        message.failed += u32::from(failed);
        if self
            .config
            .delivery_limit
            .is_some_and(|limit| failed && message.failed > limit)
        {
            self.die(seq, Reason::DeliveryLimit);
        } else if message.expires_ms.is_some_and(|expires_ms| expires_ms <= self.time_ms) {
            self.die(seq, Reason::Expired);
        } else if let Some(retry) = self.config.retry
            && (if failed { retry.failed } else { retry.returned })
        {
            let wait_ms = (retry.min_ms * u64::from(message.failed.max(1))).min(retry.max_ms);
            let until_ms = self.time_ms + wait_ms;
            let until_ms = message
                .expires_ms
                .map_or(until_ms, |expires_ms| expires_ms.min(until_ms));
            message.rests_until_ms = Some(until_ms).filter(|until_ms| *until_ms > self.time_ms);
        }
        self.settle_consumers();
    }

    fn end(&mut self) {
        self.ended = true;
        self.messages.clear();
        self.dead.clear();
        self.active = None;
        self.consumers.clear();
        self.effects.push(Effect::Gone);
    }

    fn end_if_unused(&mut self) {
        if self.config.auto_delete && self.attached().count() == 0 {
            self.end();
        }
    }

    /// A batch whose commands all decode.
    pub(super) fn batch(&mut self, session: SessionId, first_seq: u64, commands: &[(Command<'_>, Place)]) {
        if self.ended_sessions.contains(&session) {
            return;
        }
        let last_seq = self.last_seq(session);
        if first_seq > last_seq + 1 {
            self.tell_refused(session);
            self.effects.push(Effect::Gap {
                session,
                expected: last_seq + 1,
            });
            return;
        }
        for ((command, place), seq) in commands.iter().zip(first_seq..) {
            if seq > last_seq {
                self.command(session, seq, command, *place);
                self.hand_out();
            } else {
                self.again(session, seq, command);
            }
        }
        let upto = last_seq.max(first_seq + commands.len() as u64 - 1);
        self.last_seqs.insert(session, upto);
        self.tell_refused(session);
        self.effects.push(Effect::Applied { session, upto });
    }

    fn command(&mut self, session: SessionId, seq: u64, command: &Command<'_>, place: Place) {
        match command {
            Command::Publish { payload, .. } => {
                if !self.ended {
                    self.publish(session, seq, payload, place);
                }
            }
            Command::Get(_) | Command::Purge | Command::Stat if self.ended => {}
            Command::Heard(heard) => {
                if let Some(refused) = self.refused.get_mut(&session) {
                    refused.retain(|run| run.numbers().any(|number| number > heard.upto));
                }
            }
            Command::Settle { outcome, runs } => {
                for number in runs.iter().flat_map(|run| run.numbers()) {
                    if !self.held_by(session).contains(&number) {
                        continue;
                    }
                    match outcome {
                        Outcome::Ack => {
                            self.messages.remove(&number);
                            self.settle_consumers();
                        }
                        Outcome::Discard => {
                            self.die(number, Reason::Rejected);
                            self.settle_consumers();
                        }
                        Outcome::Reject | Outcome::Release => self.put_back(number, *outcome == Outcome::Reject),
                    }
                }
            }
            Command::Attach(attach) => {
                let kind = self.attach(session, attach);
                self.reply(session, seq, kind);
            }
            Command::Cancel(cancel) => {
                self.reply(session, seq, ReplyKind::Cancelled(queue::Cancelled {}));
                let mine = |consumer: &&mut ModelConsumer| {
                    (consumer.session, consumer.attach.consumer) == (session, cancel.consumer)
                };
                let Some(consumer) = self.consumers.iter_mut().find(mine) else {
                    return;
                };
                let was_cancelled = std::mem::replace(&mut consumer.cancelled, true);
                if cancel.requeue {
                    let of = |message: &Message| {
                        message
                            .holder
                            .is_some_and(|holder| (holder.session, holder.consumer) == (session, cancel.consumer))
                    };
                    let held = self.messages.iter().filter(|(_, message)| of(message));
                    for number in held.map(|(number, _)| *number).collect::<Vec<_>>() {
                        self.put_back(number, false);
                    }
                }
                self.settle_consumers();
                if !was_cancelled {
                    self.used();
                    self.end_if_unused();
                }
            }
            Command::Get(get) => match self.get(session, seq) {
                Some(number) => {
                    if get.no_ack {
                        self.messages.remove(&number);
                    }
                    let ready = self.ready();
                    self.reply(session, seq, ReplyKind::GetOk(queue::GetOk { ready }));
                }
                None => self.reply(session, seq, ReplyKind::GetEmpty(queue::GetEmpty {})),
            },
            Command::Purge => {
                let count = self.ready() + self.resting();
                self.messages.retain(|_, message| message.holder.is_some());
                self.reply(session, seq, ReplyKind::Purged(queue::Purged { count }));
            }
            Command::Stat => {
                self.used();
                self.stat(session, seq);
            }
            Command::Delete(delete) => {
                let (ready, _, consumers) = self.counts();
                let ready = ready + self.resting();
                let (in_use, not_empty) = (delete.if_unused && consumers > 0, delete.if_empty && ready > 0);
                if in_use || not_empty {
                    self.reply(
                        session,
                        seq,
                        ReplyKind::DeleteRefused(queue::DeleteRefused { in_use, not_empty }),
                    );
                    return;
                }
                self.reply(session, seq, ReplyKind::Deleted(queue::Deleted { count: ready }));
                if !self.ended {
                    self.end();
                }
            }
            Command::Credit(credit) => {
                let mine = |consumer: &&mut ModelConsumer| {
                    (consumer.session, consumer.attach.consumer) == (session, credit.consumer)
                };
                if let Some(consumer) = self.consumers.iter_mut().find(mine) {
                    consumer.written = consumer.written.max(credit.written.min(consumer.last_id));
                }
            }
            Command::SessionDown(_)
            | Command::NodeDown { .. }
            | Command::NodeSilent { .. }
            | Command::Tick
            | Command::Buried(_)
            | Command::Configure(_) => {
                panic!("not a session's command")
            }
        }
    }

    fn get(&mut self, session: SessionId, seq: u64) -> Option<u64> {
        self.used();
        self.hold(session, 0, seq)
    }

    fn stat(&mut self, session: SessionId, seq: u64) {
        let (ready, _, consumers) = self.counts();
        self.reply(session, seq, ReplyKind::Stats(queue::Stats { ready, consumers }));
    }

    fn again(&mut self, session: SessionId, seq: u64, command: &Command<'_>) {
        let kind = match command {
            Command::Publish { .. } | Command::Settle { .. } | Command::Credit(_) | Command::Heard(_) => return,
            Command::Get(_) | Command::Purge | Command::Stat if self.ended => return,
            Command::Attach(attach) => {
                let known = self
                    .consumers_of(session)
                    .iter()
                    .any(|(number, _)| *number == attach.consumer);
                if known {
                    ReplyKind::Attached(queue::Attached { offset: None })
                } else {
                    ReplyKind::AttachRefused(queue::AttachRefused { exclusive: !self.ended })
                }
            }
            Command::Cancel(_) => ReplyKind::Cancelled(queue::Cancelled {}),
            Command::Get(_) => {
                let mine = |message: &Message| {
                    message
                        .holder
                        .is_some_and(|holder| (holder.session, holder.consumer, holder.delivery) == (session, 0, seq))
                };
                match self.messages.iter().find(|(_, message)| mine(message)) {
                    Some((number, _)) => {
                        self.effects.push(self.deliver_effect(*number));
                        ReplyKind::GetOk(queue::GetOk { ready: self.ready() })
                    }
                    None => ReplyKind::GetEmpty(queue::GetEmpty {}),
                }
            }
            Command::Purge => ReplyKind::Purged(queue::Purged { count: 0 }),
            Command::Stat => return self.stat(session, seq),
            Command::Delete(_) if self.ended => ReplyKind::Deleted(queue::Deleted { count: 0 }),
            Command::Delete(delete) => {
                let (ready, _, consumers) = self.counts();
                let ready = ready + self.resting();
                let (in_use, not_empty) = (delete.if_unused && consumers > 0, delete.if_empty && ready > 0);
                // Something must be named; the first that was asked for, if nothing holds any more.
                let neither = !in_use && !not_empty;
                let in_use = in_use || neither && delete.if_unused && !(delete.if_empty && ready > 0);
                let not_empty = not_empty || neither && !delete.if_unused;
                ReplyKind::DeleteRefused(queue::DeleteRefused { in_use, not_empty })
            }
            Command::SessionDown(_)
            | Command::NodeDown { .. }
            | Command::NodeSilent { .. }
            | Command::Tick
            | Command::Buried(_)
            | Command::Configure(_) => {
                panic!("not a session's command")
            }
        };
        self.reply(session, seq, kind);
    }

    fn holder(&self, seq: u64) -> Holder {
        self.messages[&seq].holder.expect("a held message")
    }
}
