//! Consumers with their credit, and whose turn is next.
//!
//! A consumer with credit stands in the rotation of its priority. The head of the highest priority gets the next
//! message and, while it has credit, goes to the end of its rotation.
//!
//! A cancelled consumer that still has unsettled messages stays as a shadow, so that its session can ask for
//! deliveries that it has not seen; the last settlement removes it.
//!
//! With a single active consumer the others wait, credit or not: the first of the highest priority is next. One of a
//! higher priority than the active takes over, where the queue allows that, once that has settled what it holds.

use std::collections::VecDeque;

use warren_proto::queue::Attach;

use super::slab::Slab;

/// How many deliveries beyond what its session has written a consumer without a prefetch limit may hold.
pub const WINDOW: u64 = 2_000;

#[derive(Clone, Debug)]
pub(super) struct Consumer {
    /// Its session's slot.
    pub(super) session: u32,
    pub(super) attach: Attach,
    /// Place in the order of attachment.
    pub(super) order: u64,
    /// The number of its last delivery; deliveries are numbered from 1.
    pub(super) last_id: u64,
    /// Deliveries written by its session, at most `last_id`.
    pub(super) written: u64,
    /// Deliveries that are not settled.
    pub(super) unsettled: u64,
    /// Cancelled: gets nothing more.
    pub(super) cancelled: bool,
    /// Another consumer is, or is to be, the active one.
    pub(super) waits: bool,
    /// Stands in a rotation: exactly while it has credit and is not cancelled.
    queued: bool,
}

impl Consumer {
    pub(super) fn new(session: u32, attach: Attach) -> Self {
        let (order, last_id, written, unsettled) = (0, 0, 0, 0);
        let (cancelled, waits, queued) = (false, false, false);
        Self {
            session,
            attach,
            order,
            last_id,
            written,
            unsettled,
            cancelled,
            waits,
            queued,
        }
    }

    /// Whether it may get another message.
    pub(super) fn has_credit(&self) -> bool {
        if self.cancelled || self.waits {
            return false;
        }
        if self.attach.no_ack || self.attach.prefetch == 0 {
            // What is settled has been written, whether the session said so or not.
            (self.last_id - self.written).min(self.unsettled) < WINDOW
        } else {
            self.unsettled < u64::from(self.attach.prefetch)
        }
    }
}

/// How many consumers are served at a time.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(super) enum Mode {
    /// All.
    #[default]
    All,
    /// One.
    Single {
        /// Whether a higher priority takes over from the active one.
        takes_over: bool,
    },
}

#[derive(Clone, Debug)]
struct Rotation {
    priority: i64,
    turns: VecDeque<u32>,
}

#[derive(Clone, Debug)]
pub(super) struct Consumers {
    all: Slab<Consumer>,
    /// Highest priority first; each priority at most once.
    rotations: Vec<Rotation>,
    /// Consumers that stand in a rotation.
    queued: usize,
    /// Consumers that are not cancelled.
    attached: usize,
    /// The attached consumer, there is only one, has exclusive use.
    exclusive: bool,
    next_order: u64,
    mode: Mode,
    /// With a single active consumer: which.
    active: Option<u32>,
}

impl Consumers {
    pub(super) const fn new(mode: Mode) -> Self {
        Self {
            all: Slab::new(),
            rotations: Vec::new(),
            queued: 0,
            attached: 0,
            exclusive: false,
            next_order: 0,
            mode,
            active: None,
        }
    }

    /// How many are attached; shadows do not count.
    pub(super) fn len(&self) -> usize {
        self.attached
    }

    /// Whether a consumer that asks for exclusive use, or not, is let in.
    pub(super) fn admits(&self, exclusive: bool) -> bool {
        !self.exclusive && (self.attached == 0 || !exclusive)
    }

    /// Adds a consumer behind all others of its priority and returns its slot.
    pub(super) fn attach(&mut self, session: u32, attach: Attach) -> u32 {
        let slot = self.restore(Consumer::new(session, attach));
        if self.mode == Mode::All {
            self.wake(slot);
        } else {
            self.all[slot].waits = true;
            self.elect();
        }
        slot
    }

    /// Sees to it that the right consumer is the active one.
    fn elect(&mut self) {
        let Mode::Single { takes_over } = self.mode else { return };
        if self.active.is_some_and(|active| self.is_gone(active)) {
            self.active = None;
        }
        let Some(best) = self.first() else { return };
        let next = match self.active {
            None => best,
            Some(active) => {
                let (current, other) = (&self.all[active], &self.all[best]);
                let gives_way = takes_over && other.attach.priority > current.attach.priority;
                if gives_way && current.unsettled > 0 {
                    self.all[active].waits = true;
                    self.unqueue();
                    return;
                }
                if gives_way { best } else { active }
            }
        };
        if let Some(active) = self.active.replace(next)
            && active != next
        {
            self.all[active].waits = true;
        }
        self.all[next].waits = false;
        self.unqueue();
        self.wake(next);
    }

    fn is_gone(&self, slot: u32) -> bool {
        self.all.get(slot).is_none_or(|consumer| consumer.cancelled)
    }

    /// The attached consumer that would be the active one.
    pub(super) fn first(&self) -> Option<u32> {
        if self.mode == Mode::All {
            return None;
        }
        let candidates = self.all.iter().filter(|(_, consumer)| !consumer.cancelled);
        let first = |(_, consumer): &(u32, &Consumer)| (std::cmp::Reverse(consumer.attach.priority), consumer.order);
        candidates.min_by_key(first).map(|(slot, _)| slot)
    }

    /// Takes those out of the rotations that have no credit any more.
    fn unqueue(&mut self) {
        let Self {
            all, rotations, queued, ..
        } = self;
        for rotation in rotations.iter_mut() {
            rotation.turns.retain(|&turn| {
                let consumer = &mut all[turn];
                let stays = consumer.has_credit();
                if !stays {
                    consumer.queued = false;
                    *queued -= 1;
                }
                stays
            });
        }
        rotations.retain(|rotation| !rotation.turns.is_empty());
    }

    /// The active consumer, where there can be only one.
    pub(super) fn active(&self) -> Option<u32> {
        self.active
    }

    /// Makes the consumer of a snapshot the active one, or none, and lets the others wait. False if it cannot be.
    pub(super) fn restore_active(&mut self, active: Option<u32>) -> bool {
        let Mode::Single { takes_over } = self.mode else {
            return active.is_none();
        };
        if active.is_some() != (self.attached > 0) || active.is_some_and(|active| self.is_gone(active)) {
            return false;
        }
        self.active = active;
        let priority = active.map(|active| self.all[active].attach.priority);
        let attached = || self.all.iter().filter(|(_, consumer)| !consumer.cancelled);
        let gives_way = takes_over && attached().any(|(_, other)| Some(other.attach.priority) > priority);
        let slots: Vec<u32> = attached().map(|(slot, _)| slot).collect();
        for slot in slots {
            self.all[slot].waits = Some(slot) != active || gives_way;
        }
        true
    }

    /// Adds a consumer as it was, outside the rotation.
    pub(super) fn restore(&mut self, mut consumer: Consumer) -> u32 {
        consumer.order = self.next_order;
        self.next_order += 1;
        if !consumer.cancelled {
            self.attached += 1;
            self.exclusive |= consumer.attach.exclusive;
        }
        self.all.insert(consumer)
    }

    /// Ends consumers; each stays as a shadow while it has unsettled messages. Returns whether all are gone.
    pub(super) fn cancel(&mut self, slots: &[u32]) -> bool {
        let queued = self.queued;
        for &slot in slots {
            let consumer = &mut self.all[slot];
            if !std::mem::replace(&mut consumer.cancelled, true) {
                self.attached -= 1;
                self.exclusive = false;
                self.queued -= usize::from(std::mem::take(&mut consumer.queued));
            }
        }
        if self.queued < queued {
            for rotation in &mut self.rotations {
                rotation.turns.retain(|turn| self.all[*turn].queued);
            }
        }
        self.rotations.retain(|rotation| !rotation.turns.is_empty());
        self.elect();
        let mut all_gone = true;
        for &slot in slots {
            all_gone &= self.reap(slot);
        }
        all_gone
    }

    fn reap(&mut self, slot: u32) -> bool {
        let gone = self.all[slot].cancelled && self.all[slot].unsettled == 0;
        if gone {
            self.all.remove(slot);
        }
        gone
    }

    /// Puts a consumer that has credit at the end of its rotation, unless it stands there.
    fn wake(&mut self, slot: u32) {
        let consumer = &mut self.all[slot];
        if consumer.queued || !consumer.has_credit() {
            return;
        }
        consumer.queued = true;
        self.queued += 1;
        let priority = consumer.attach.priority;
        match self
            .rotations
            .binary_search_by(|rotation| priority.cmp(&rotation.priority))
        {
            Ok(at) => self.rotations[at].turns.push_back(slot),
            Err(at) => self.rotations.insert(
                at,
                Rotation {
                    priority,
                    turns: VecDeque::from([slot]),
                },
            ),
        }
    }

    /// Gives a consumer its turn as a snapshot lists them. False if it has no right to one.
    pub(super) fn restore_turn(&mut self, slot: u32) -> bool {
        if self
            .all
            .get(slot)
            .is_none_or(|consumer| consumer.queued || !consumer.has_credit())
        {
            return false;
        }
        self.wake(slot);
        true
    }

    /// Whether some consumer has credit.
    pub(super) fn any_credit(&self) -> bool {
        self.queued > 0
    }

    /// Books one delivery for the consumer whose turn it is.
    #[inline]
    pub(super) fn deliver(&mut self) -> Option<(u32, &Consumer)> {
        let turns = &mut self
            .rotations
            .iter_mut()
            .find(|rotation| !rotation.turns.is_empty())?
            .turns;
        let slot = *turns.front()?;
        let consumer = &mut self.all[slot];
        consumer.last_id += 1;
        consumer.unsettled += 1;
        if !consumer.has_credit() {
            turns.pop_front();
            consumer.queued = false;
            self.queued -= 1;
        } else if turns.len() > 1 {
            turns.rotate_left(1);
        }
        Some((slot, consumer))
    }

    /// One of its deliveries is settled or taken back. Returns the number of a shadow that is gone by this.
    #[inline]
    pub(super) fn settled(&mut self, slot: u32) -> Option<u32> {
        let consumer = &mut self.all[slot];
        consumer.unsettled -= 1;
        if consumer.cancelled {
            let number = consumer.attach.consumer;
            return self.reap(slot).then_some(number);
        }
        if consumer.waits {
            if consumer.unsettled == 0 {
                self.elect();
            }
        } else if !consumer.queued {
            self.wake(slot);
        }
        None
    }

    /// Its session has written `written` deliveries in all.
    pub(super) fn credit(&mut self, slot: u32, written: u64) {
        let consumer = &mut self.all[slot];
        consumer.written = consumer.written.max(written.min(consumer.last_id));
        self.wake(slot);
    }

    /// Drops every consumer.
    pub(super) fn clear(&mut self) {
        *self = Self {
            next_order: self.next_order,
            ..Self::new(self.mode)
        };
    }

    pub(super) fn get(&self, slot: u32) -> &Consumer {
        &self.all[slot]
    }

    pub(super) fn get_mut(&mut self, slot: u32) -> &mut Consumer {
        &mut self.all[slot]
    }

    /// In the order of attachment, shadows among them.
    pub(super) fn in_order(&self) -> Vec<(u32, &Consumer)> {
        let mut all: Vec<_> = self.all.iter().collect();
        all.sort_unstable_by_key(|(_, consumer)| consumer.order);
        all
    }

    /// Whose turn it is: highest priority first, each rotation from its head.
    pub(super) fn turns(&self) -> impl Iterator<Item = u32> {
        self.rotations
            .iter()
            .flat_map(|rotation| rotation.turns.iter().copied())
    }

    pub(super) fn turns_len(&self) -> usize {
        self.queued
    }
}
