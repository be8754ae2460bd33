//! Messages that died here and are on their way to the dead-letter exchange. They stay live in the log until they are
//! said to be buried.

use std::collections::BTreeMap;

use super::Place;

/// Why a message died.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
#[repr(u8)]
pub enum Reason {
    /// basic.reject or basic.nack without requeue.
    Rejected = 1,
    /// Its time, or the queue's, was over.
    Expired = 2,
    /// The queue was full.
    MaxLen = 3,
    /// It failed too often.
    DeliveryLimit = 4,
}

impl Reason {
    /// As headers spell it.
    pub fn name(self) -> &'static str {
        match self {
            Self::Rejected => "rejected",
            Self::Expired => "expired",
            Self::MaxLen => "maxlen",
            Self::DeliveryLimit => "delivery_limit",
        }
    }

    pub(super) fn decode(octet: u8) -> Option<Self> {
        [Self::Rejected, Self::Expired, Self::MaxLen, Self::DeliveryLimit]
            .into_iter()
            .find(|reason| *reason as u8 == octet)
    }
}

/// A message that died and is not buried.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Dead {
    /// Where it is.
    pub at: Place,
    /// Why it died.
    pub reason: Reason,
    /// When, in milliseconds since 1970.
    pub time_ms: u64,
}

/// In the order of their deaths.
#[derive(Clone, Debug)]
pub(super) struct Graveyard {
    open: BTreeMap<u64, Dead>,
    /// The number of the next death; numbers start at 1.
    next: u64,
}

impl Graveyard {
    pub(super) const fn new() -> Self {
        Self {
            open: BTreeMap::new(),
            next: 1,
        }
    }

    pub(super) fn push(&mut self, dead: Dead) {
        self.open.insert(self.next, dead);
        self.next += 1;
    }

    /// Takes those of `first..=last` out.
    pub(super) fn bury(&mut self, first: u64, last: u64, mut buried: impl FnMut(Dead)) {
        if first > last {
            return;
        }
        while let Some((&id, _)) = self.open.range(first..=last).next() {
            self.open.remove(&id).into_iter().for_each(&mut buried);
        }
    }

    pub(super) fn clear(&mut self) {
        self.open.clear();
    }

    pub(super) fn len(&self) -> usize {
        self.open.len()
    }

    pub(super) fn next(&self) -> u64 {
        self.next
    }

    /// Those from a number on, ascending.
    pub(super) fn from(&self, first: u64) -> impl Iterator<Item = (u64, &Dead)> {
        self.open.range(first..).map(|(id, dead)| (*id, dead))
    }

    /// As it was; the open ones are added by [`Graveyard::restore`].
    pub(super) const fn with_next(next: u64) -> Self {
        Self {
            open: BTreeMap::new(),
            next,
        }
    }

    /// False if there cannot be such a number.
    pub(super) fn restore(&mut self, id: u64, dead: Dead) -> bool {
        (1..self.next).contains(&id) && self.open.insert(id, dead).is_none()
    }
}
