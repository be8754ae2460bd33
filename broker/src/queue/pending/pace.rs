//! How fast publishes are let into a queue that is consumed.
//!
//! Consumers of a saturated queue settle one prefetch per round trip, whatever waits; publishers could always be
//! faster. While consumers nearly keep up, publishes go in at just under their pace: the queue stays short and its
//! messages young, at the same throughput. A queue whose consumers do not keep up is there to buffer: it takes all.

use super::Bound;

/// What the leader knows when it makes an entry.
#[derive(Clone, Copy, Debug)]
pub(in crate::queue) struct Demand {
    /// The leader's clock, in milliseconds. It may be set back.
    pub(in crate::queue) now_ms: u64,
    /// Messages that consumers settled since the queue's machine was made.
    pub(in crate::queue) settled: u64,
    /// Whether enough waits to keep consumers busy.
    pub(in crate::queue) backlog: bool,
}

/// Time over which publishes and settlements are compared.
const WINDOW_MS: u64 = 50;
/// Consumers that settle one in so many of the messages that are published nearly keep up.
const KEEP_UP: u64 = 8;
/// Publishes that are let in for each millisecond of a window in any case.
const FLOOR_PER_MS: u64 = 10;
/// Publishes that may be owed to publishers, or by them.
const ALLOWANCE_MAX: i64 = 2_048;
/// One in so many settled messages lets no publish in: what waits shrinks until it is short.
const SHRINK: u64 = 8;
/// The size of an entry beside consumers that have enough to do: what they settle is in the entry after it.
const ENTRY_MAX: Bound = Bound {
    bytes: 64 << 10,
    commands: 512,
};
/// The longest wait of publishes for consumers, in milliseconds, before they are looked at again.
const WAIT_MS_MAX: u64 = 20;

#[derive(Default)]
pub(super) struct Pace {
    /// Whether consumers nearly keep up, as far as the last window told.
    limiting: bool,
    /// Whether they have enough to do.
    backlog: bool,
    /// Whether anything was settled in the last window.
    heard: bool,
    /// Publishes that may go in; below zero after a batch that was larger than what was allowed.
    allowance: i64,
    now_ms: u64,
    settled: u64,
    window: Window,
}

#[derive(Default)]
struct Window {
    since_ms: u64,
    settled: u64,
    let_in: u64,
}

impl Pace {
    pub(super) fn heard(&mut self, demand: Demand) {
        let settled = demand.settled.saturating_sub(self.settled);
        self.settled = demand.settled;
        if demand.now_ms < self.now_ms {
            self.window = Window {
                since_ms: demand.now_ms,
                ..Window::default()
            };
        }
        self.now_ms = demand.now_ms;
        self.window.settled += settled;
        if self.now_ms >= self.window.since_ms + WINDOW_MS {
            let window = std::mem::take(&mut self.window);
            self.window.since_ms = self.now_ms;
            self.heard = window.settled > 0;
            self.limiting = self.heard && window.settled * KEEP_UP >= window.let_in;
        }
        self.backlog = demand.backlog;
        let due = i64::try_from(settled - settled / SHRINK).unwrap_or(ALLOWANCE_MAX);
        self.allowance = if self.is_holding() {
            self.allowance.saturating_add(due).min(ALLOWANCE_MAX)
        } else {
            ALLOWANCE_MAX
        };
    }

    /// Whether publishes go at the pace of consumers.
    fn is_holding(&self) -> bool {
        self.backlog && self.limiting
    }

    /// How much the next entry may hold, of at most `most`.
    pub(super) fn entry_max(&self, most: Bound) -> Bound {
        if self.backlog && self.heard {
            Bound {
                bytes: most.bytes.min(ENTRY_MAX.bytes),
                commands: most.commands.min(ENTRY_MAX.commands),
            }
        } else {
            most
        }
    }

    /// Whether a batch of publishes may go in now; counts it if so.
    pub(super) fn lets_in(&mut self, publishes: u32) -> bool {
        let elapsed_ms = self.now_ms - self.window.since_ms;
        if self.is_holding() {
            if self.allowance <= 0 && self.window.let_in >= FLOOR_PER_MS * (elapsed_ms + 1) {
                return false;
            }
            self.allowance = (self.allowance - i64::from(publishes)).max(-ALLOWANCE_MAX);
        }
        self.window.let_in += u64::from(publishes);
        true
    }

    /// Milliseconds until publishes may go although no more is settled.
    pub(super) fn wait_ms(&self) -> u64 {
        let elapsed_ms = self.now_ms - self.window.since_ms;
        let due_ms = (self.window.let_in / FLOOR_PER_MS).saturating_sub(elapsed_ms);
        due_ms.clamp(1, WAIT_MS_MAX)
    }
}
