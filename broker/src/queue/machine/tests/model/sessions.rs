//! How consumers come, how sessions end, and what they are told when they ask.

use super::*;

impl Model {
    pub(super) fn attach(&mut self, session: SessionId, attach: &queue::Attach) -> ReplyKind {
        let same = |other: &&ModelConsumer| (other.session, other.attach.consumer) == (session, attach.consumer);
        let refused = |exclusive| ReplyKind::AttachRefused(queue::AttachRefused { exclusive });
        match self.consumers.iter().find(same) {
            Some(known) if known.cancelled => return refused(false),
            Some(_) => return ReplyKind::Attached(queue::Attached { offset: None }),
            None if self.ended || attach.consumer == 0 => return refused(false),
            None => {}
        }
        let alone = self.attached().count() == 0;
        if !alone && (attach.exclusive || self.attached().any(|other| other.attach.exclusive)) {
            return refused(true);
        }
        self.used();
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
        ReplyKind::Attached(queue::Attached { offset: None })
    }

    pub(in crate::queue::machine::tests) fn session_down(&mut self, session: SessionId) {
        if !self.ended_sessions.contains(&session) {
            self.ended_sessions.push(session);
        }
        self.effects.push(Effect::Ended { session });
        self.end_sessions(|other| other == session);
    }

    pub(in crate::queue::machine::tests) fn node_down(&mut self, node: u64, incarnation: u64) {
        let ends = |session: SessionId| session.node == node && session.incarnation <= incarnation;
        self.tell_of_the_end(ends);
        self.end_sessions(ends);
    }

    /// Sessions hear that their consumers end.
    fn tell_of_the_end(&mut self, ends: impl Fn(SessionId) -> bool) {
        if self.ended {
            return;
        }
        let told = self.consumers.iter().filter(|consumer| !consumer.cancelled);
        let told = told.filter(|consumer| ends(consumer.session));
        let mut told: Vec<_> = told
            .map(|consumer| (consumer.session, consumer.attach.consumer))
            .collect();
        told.sort_unstable();
        let told = told.into_iter();
        self.effects
            .extend(told.map(|(session, consumer)| Effect::ConsumerTimedOut { session, consumer }));
    }

    pub(in crate::queue::machine::tests) fn node_silent(&mut self, node: u64, incarnation: u64) {
        if self.ended {
            return;
        }
        let is_silent = |session: SessionId| session.node == node && session.incarnation <= incarnation;
        self.tell_of_the_end(is_silent);
        let mut has_ended = false;
        for consumer in self.consumers.iter_mut().filter(|consumer| is_silent(consumer.session)) {
            has_ended |= !std::mem::replace(&mut consumer.cancelled, true);
        }
        let sessions: Vec<SessionId> = self
            .last_seqs
            .keys()
            .copied()
            .filter(|session| is_silent(*session))
            .collect();
        let held = sessions.into_iter().flat_map(|session| self.held_by(session));
        let mut held: Vec<u64> = held.collect();
        // In the order of the messages, whoever holds them.
        held.sort_unstable();
        for seq in held {
            self.put_back(seq, false);
        }
        self.settle_consumers();
        if has_ended {
            self.used();
            self.end_if_unused();
        }
        self.hand_out();
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
        self.refused.retain(|session, _| !ends(*session));
        self.settle_consumers();
        if self.attached().count() < attached {
            self.used();
            self.end_if_unused();
        }
        self.hand_out();
    }

    /// The effects of a resync.
    pub(in crate::queue::machine::tests) fn resync(&self, session: SessionId, consumers: &[(u32, u64)]) -> Vec<Effect> {
        let mut out = Vec::new();
        if self.ended {
            return out;
        }
        for (number, _) in consumers {
            if self
                .consumer(session, *number)
                .is_none_or(|consumer| consumer.cancelled)
            {
                let consumer = *number;
                out.push(Effect::ConsumerTimedOut { session, consumer });
            }
        }
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
}
