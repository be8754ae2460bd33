//! The queue once more, as plainly as it can be said: every question is answered by looking at everything.

use super::*;

#[derive(Clone, Debug)]
struct Message {
    place: Place,
    acquired: u32,
    failed: u32,
    holder: Option<Holder>,
}

#[derive(Clone, Copy, Debug)]
struct Holder {
    session: SessionId,
    /// Consumer and delivery id, or 0 and the number of the get.
    consumer: u32,
    delivery: u64,
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
    next_seq: u64,
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
            next_seq: 1,
            ..Self::default()
        }
    }

    pub(super) fn take_effects(&mut self) -> Vec<Effect> {
        std::mem::take(&mut self.effects)
    }

    /// Entries that hold a message.
    pub(super) fn live(&self) -> BTreeSet<u64> {
        self.messages.values().map(|message| message.place.index).collect()
    }

    pub(super) fn counts(&self) -> (u64, u64, u64) {
        let unacked = self
            .messages
            .values()
            .filter(|message| message.holder.is_some())
            .count();
        let consumers = self.attached().count();
        ((self.messages.len() - unacked) as u64, unacked as u64, consumers as u64)
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
            && if unlimited {
                unwritten < WINDOW
            } else {
                unsettled < limit
            }
    }

    /// Forgets shadows without messages and lets consumers with credit stand in line.
    fn settle_consumers(&mut self) {
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
        let (seq, message) = self.messages.iter_mut().find(|(_, message)| message.holder.is_none())?;
        message.holder = Some(Holder {
            session,
            consumer,
            delivery,
        });
        let seq = *seq;
        self.effects.push(self.deliver_effect(seq));
        Some(seq)
    }

    fn hand_out(&mut self) {
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
            if !self.messages.values().any(|message| message.holder.is_none()) {
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
            self.messages.remove(&seq);
        }
        self.settle_consumers();
    }

    fn end(&mut self) {
        self.ended = true;
        self.messages.clear();
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
        self.effects.push(Effect::Applied { session, upto });
    }

    fn command(&mut self, session: SessionId, seq: u64, command: &Command<'_>, place: Place) {
        match command {
            Command::Publish { .. } => {
                if !self.ended {
                    let message = Message {
                        place,
                        acquired: 0,
                        failed: 0,
                        holder: None,
                    };
                    self.messages.insert(self.next_seq, message);
                    self.next_seq += 1;
                }
            }
            Command::Settle { outcome, runs } => {
                for number in runs.iter().flat_map(|run| run.numbers()) {
                    if !self.held_by(session).contains(&number) {
                        continue;
                    }
                    match outcome {
                        Outcome::Ack | Outcome::Discard => {
                            self.messages.remove(&number);
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
                    self.end_if_unused();
                }
            }
            Command::Get(get) => match self.hold(session, 0, seq) {
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
                let count = self.ready();
                self.messages.retain(|_, message| message.holder.is_some());
                self.reply(session, seq, ReplyKind::Purged(queue::Purged { count }));
            }
            Command::Stat => self.stat(session, seq),
            Command::Delete(delete) => {
                let (ready, _, consumers) = self.counts();
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
            Command::SessionDown(_) | Command::NodeDown { .. } => panic!("not a session's command"),
        }
    }

    fn stat(&mut self, session: SessionId, seq: u64) {
        let (ready, _, consumers) = self.counts();
        self.reply(session, seq, ReplyKind::Stats(queue::Stats { ready, consumers }));
    }

    fn attach(&mut self, session: SessionId, attach: &queue::Attach) -> ReplyKind {
        let same = |other: &&ModelConsumer| (other.session, other.attach.consumer) == (session, attach.consumer);
        let refused = |exclusive| ReplyKind::AttachRefused(queue::AttachRefused { exclusive });
        match self.consumers.iter().find(same) {
            Some(known) if known.cancelled => return refused(false),
            Some(_) => return ReplyKind::Attached(queue::Attached {}),
            None if self.ended || attach.consumer == 0 => return refused(false),
            None => {}
        }
        let alone = self.attached().count() == 0;
        if !alone && (attach.exclusive || self.attached().any(|other| other.attach.exclusive)) {
            return refused(true);
        }
        let attach = attach.clone();
        let (last_id, written, cancelled, in_line_since) = (0, 0, false, None);
        self.consumers.push(ModelConsumer {
            session,
            attach,
            last_id,
            written,
            cancelled,
            in_line_since,
        });
        ReplyKind::Attached(queue::Attached {})
    }

    fn again(&mut self, session: SessionId, seq: u64, command: &Command<'_>) {
        let kind = match command {
            Command::Publish { .. } | Command::Settle { .. } | Command::Credit(_) => return,
            Command::Attach(attach) => {
                let known = self
                    .consumers_of(session)
                    .iter()
                    .any(|(number, _)| *number == attach.consumer);
                if known {
                    ReplyKind::Attached(queue::Attached {})
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
                let (in_use, not_empty) = (delete.if_unused && consumers > 0, delete.if_empty && ready > 0);
                // Something must be named; the first that was asked for, if nothing holds any more.
                let neither = !in_use && !not_empty;
                let in_use = in_use || neither && delete.if_unused && !(delete.if_empty && ready > 0);
                let not_empty = not_empty || neither && !delete.if_unused;
                ReplyKind::DeleteRefused(queue::DeleteRefused { in_use, not_empty })
            }
            Command::SessionDown(_) | Command::NodeDown { .. } => panic!("not a session's command"),
        };
        self.reply(session, seq, kind);
    }

    pub(super) fn session_down(&mut self, session: SessionId) {
        if !self.ended_sessions.contains(&session) {
            self.ended_sessions.push(session);
        }
        self.effects.push(Effect::Ended { session });
        self.end_sessions(|other| other == session);
    }

    pub(super) fn node_down(&mut self, node: u64, incarnation: u64) {
        self.end_sessions(|other| other.node == node && other.incarnation <= incarnation);
    }

    fn end_sessions(&mut self, ends: impl Fn(SessionId) -> bool) {
        let attached = self.attached().count();
        for consumer in self.consumers.iter_mut().filter(|consumer| ends(consumer.session)) {
            consumer.cancelled = true;
        }
        let held = |message: &Message| message.holder.is_some_and(|holder| ends(holder.session));
        let numbers = self
            .messages
            .iter()
            .filter(|(_, message)| held(message))
            .map(|(number, _)| *number);
        for number in numbers.collect::<Vec<_>>() {
            self.put_back(number, true);
        }
        self.last_seqs.retain(|session, _| !ends(*session));
        self.settle_consumers();
        if self.attached().count() < attached {
            self.end_if_unused();
        }
        self.hand_out();
    }

    /// The effects of a resync.
    pub(super) fn resync(&self, session: SessionId, consumers: &[(u32, u64)]) -> Vec<Effect> {
        let mut out = Vec::new();
        let mut gets: Vec<_> = self
            .held_by(session)
            .into_iter()
            .map(|seq| (self.holder(seq), seq))
            .collect();
        gets.sort_by_key(|(holder, _)| holder.delivery);
        for (holder, seq) in gets.iter().filter(|(holder, _)| holder.consumer == 0) {
            out.push(self.deliver_effect(*seq));
            let kind = Some(ReplyKind::GetOk(queue::GetOk { ready: self.ready() }));
            out.push(Effect::Reply {
                session,
                seq: holder.delivery,
                reply: queue::Reply { kind },
            });
        }
        let mut consumers = consumers.to_vec();
        consumers.sort_unstable();
        consumers.dedup_by_key(|(number, _)| *number);
        for (number, next) in consumers.into_iter().filter(|(number, _)| *number != 0) {
            let wanted = |holder: &Holder| holder.consumer == number && holder.delivery >= next;
            out.extend(
                gets.iter()
                    .filter(|(holder, _)| wanted(holder))
                    .map(|(_, seq)| self.deliver_effect(*seq)),
            );
        }
        out
    }

    fn holder(&self, seq: u64) -> Holder {
        self.messages[&seq].holder.expect("a held message")
    }
}
