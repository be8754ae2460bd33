//! Publisher confirms of one channel: which confirm numbers are answered, and the fewest frames that say so.
//!
//! Each publish takes the next number and waits for as many queues as it was routed to. It is acknowledged once
//! all have it and refused at the first that has not. `multiple` covers numbers up to just below the lowest that
//! is still open, and never a refused one that was not named before.

use std::collections::VecDeque;

/// A confirm frame to send.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Confirm {
    /// basic.ack
    Ack {
        /// The confirm number.
        tag: u64,
        /// Whether it speaks for all lower numbers too.
        multiple: bool,
    },
    /// basic.nack
    Nack {
        /// The confirm number.
        tag: u64,
    },
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Slot {
    /// So many queues have not answered.
    Waiting(u32),
    /// All have it; not said yet.
    Acked,
    /// Answered and said, or about to be said by name.
    Done,
}

/// The confirm numbers of one channel in confirm mode.
#[derive(Debug)]
pub(super) struct Confirms {
    /// The number of `slots[0]`.
    lowest: u64,
    slots: VecDeque<Slot>,
    /// Numbers refused since the last drain, in no order.
    refused: Vec<u64>,
    /// Numbers acknowledged since the last drain, in no order.
    acked: Vec<u64>,
}

impl Default for Confirms {
    fn default() -> Self {
        Self {
            lowest: 1,
            slots: VecDeque::new(),
            refused: Vec::new(),
            acked: Vec::new(),
        }
    }
}

impl Confirms {
    /// The number of the next publish. It waits for `queues` answers; with none it is acknowledged at once.
    pub(super) fn publish(&mut self, queues: u32) -> u64 {
        let tag = self.lowest + self.slots.len() as u64;
        if queues == 0 {
            self.slots.push_back(Slot::Acked);
            self.acked.push(tag);
        } else {
            self.slots.push_back(Slot::Waiting(queues));
        }
        tag
    }

    /// Publishes that wait for an answer or whose answer was not drained.
    pub(super) fn open(&self) -> usize {
        self.slots.len()
    }

    /// One queue has the publish.
    pub(super) fn taken(&mut self, tag: u64) {
        if let Some(slot) = Self::slot(&mut self.slots, self.lowest, tag)
            && let Slot::Waiting(queues) = slot
        {
            *queues -= 1;
            if *queues == 0 {
                *slot = Slot::Acked;
                self.acked.push(tag);
            }
        }
    }

    /// One queue does not take the publish. What the others say no longer matters.
    pub(super) fn refused(&mut self, tag: u64) {
        if let Some(slot) = Self::slot(&mut self.slots, self.lowest, tag)
            && matches!(slot, Slot::Waiting(_))
        {
            *slot = Slot::Done;
            self.refused.push(tag);
        }
    }

    /// Whether [`Confirms::drain`] has something to say.
    pub(super) fn is_ready(&self) -> bool {
        !self.acked.is_empty() || !self.refused.is_empty()
    }

    /// The frames for everything answered since the last call. Refusals come first, so that an acknowledgement
    /// with `multiple` can pass over them.
    pub(super) fn drain(&mut self, out: &mut Vec<Confirm>) {
        self.refused.sort_unstable();
        out.extend(self.refused.drain(..).map(|tag| Confirm::Nack { tag }));
        let mut covered = None;
        let mut count = 0;
        while let Some(slot) = self.slots.front()
            && !matches!(slot, Slot::Waiting(_))
        {
            if *slot == Slot::Acked {
                covered = Some(self.lowest);
                count += 1;
            }
            self.slots.pop_front();
            self.lowest += 1;
        }
        if let Some(tag) = covered {
            out.push(Confirm::Ack {
                tag,
                multiple: count > 1,
            });
        }
        let mut acked = std::mem::take(&mut self.acked);
        acked.retain(|&tag| tag >= self.lowest);
        acked.sort_unstable();
        for tag in acked.drain(..) {
            if let Some(slot) = Self::slot(&mut self.slots, self.lowest, tag) {
                *slot = Slot::Done;
                out.push(Confirm::Ack { tag, multiple: false });
            }
        }
        self.acked = acked;
    }

    fn slot(slots: &mut VecDeque<Slot>, lowest: u64, tag: u64) -> Option<&mut Slot> {
        let at = usize::try_from(tag.checked_sub(lowest)?).ok()?;
        slots.get_mut(at)
    }
}

#[cfg(test)]
mod tests;
