//! basic.qos with `global`: one limit for all consumers of a channel together.
//!
//! Queues know each consumer's own limit only. A delivery beyond the channel's waits here, in order and without a tag,
//! until others are settled; each consumer is given no more by its queue than the whole channel may hold.

use std::collections::VecDeque;

use bytes::Bytes;
use warren_proto::record::Delivery;

/// See the module.
#[derive(Debug, Default)]
pub(super) struct Window {
    /// 0: none.
    limit: u16,
    waiting: VecDeque<Delivery>,
}

impl Window {
    pub(super) fn set_limit(&mut self, limit: u16) {
        self.limit = limit;
    }

    /// How much a new consumer may be given by its queue, whose own limit is `prefetch`; 0: no limit.
    pub(super) fn bound(&self, prefetch: u16) -> u16 {
        match (prefetch, self.limit) {
            (0, limit) => limit,
            (prefetch, 0) => prefetch,
            (prefetch, limit) => prefetch.min(limit),
        }
    }

    /// Whether anything has to wait at all.
    pub(super) fn is_off(&self) -> bool {
        self.limit == 0 && self.waiting.is_empty()
    }

    /// Takes in a delivery that has to wait while consumers hold `held` messages; gives back one that need not.
    pub(super) fn admit<'a>(&mut self, delivery: &'a Delivery, held: usize) -> Option<&'a Delivery> {
        if self.waiting.is_empty() && self.has_room(held) {
            return Some(delivery);
        }
        self.waiting.push_back(Delivery {
            // It would keep all that came with it.
            payload: Bytes::copy_from_slice(&delivery.payload),
            ..delivery.clone()
        });
        None
    }

    /// The next delivery whose turn has come.
    pub(super) fn next(&mut self, held: usize) -> Option<Delivery> {
        if self.has_room(held) {
            self.waiting.pop_front()
        } else {
            None
        }
    }

    fn has_room(&self, held: usize) -> bool {
        self.limit == 0 || held < usize::from(self.limit)
    }

    /// Moves out the numbers of the messages that wait for a consumer.
    pub(super) fn take(&mut self, consumer: u32) -> Vec<u64> {
        let of_it = self.waiting.iter().filter(|delivery| delivery.consumer == consumer);
        let messages = of_it.map(|delivery| delivery.seq).collect();
        self.waiting.retain(|delivery| delivery.consumer != consumer);
        messages
    }

    pub(super) fn clear(&mut self) {
        self.waiting = VecDeque::new();
    }
}
