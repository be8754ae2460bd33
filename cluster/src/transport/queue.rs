//! What waits for one link: a bounded queue between all senders and one stream.
//!
//! The queue belongs to one *life* of the link at a time. A reset ends the life, and drops what waited.

use std::collections::VecDeque;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::sync::Notify;
use warren_proto::transport as wire;

use super::{Envelope, PAYLOAD_LEN_MAX, Port, SendError};

/// Bytes of payload after which a batch is closed; no envelope on the wire is longer.
pub(super) const BATCH_LEN: usize = 1 << 20;
/// Envelopes in one batch at most.
const BATCH_COUNT_MAX: usize = 4_096;
/// What may wait while there is no link: enough for what is said once at a start.
const CLOSED_BYTES_MAX: usize = 1 << 20;
const CLOSED_LEN_MAX: usize = 1_024;
/// Bytes that an envelope counts beside its payload.
const OVERHEAD: usize = 64;

pub(super) struct Queue {
    bytes_max: usize,
    len_max: usize,
    state: Mutex<State>,
}

/// The right to take from the queue until it is reset.
#[derive(Clone, Debug, Default)]
pub(super) struct Life {
    number: u64,
    /// Wakes the stream. Each life has its own, so that a stream left behind steals no wake-up.
    filled: Arc<Notify>,
    ended: Arc<Notify>,
}

impl Life {
    /// Waits until the queue was reset. For one task at a time.
    pub(super) async fn ended(&self) {
        self.ended.notified().await;
    }
}

#[derive(Default)]
struct State {
    waiting: VecDeque<Envelope>,
    /// Bytes of the front envelope that were sent already; the rest follows.
    front_sent: usize,
    /// Payload and overhead of `waiting`.
    bytes: usize,
    life: Life,
    open: bool,
    /// A send was refused since `writable` was last said.
    refusing: bool,
    counters: Counters,
}

#[derive(Clone, Copy, Debug, Default)]
pub(super) struct Counters {
    pub(super) open: bool,
    pub(super) queued: u64,
    pub(super) queued_bytes: u64,
    pub(super) sent: u64,
    pub(super) sent_bytes: u64,
    pub(super) refused: u64,
    pub(super) resets: u64,
}

/// What the stream takes at once.
pub(super) struct Batch {
    pub(super) envelopes: Vec<wire::Envelope>,
    /// The queue has room again for those it refused.
    pub(super) writable: bool,
}

impl Queue {
    pub(super) fn new(bytes_max: usize, len_max: usize) -> Self {
        Self {
            bytes_max,
            len_max,
            state: Mutex::default(),
        }
    }

    /// Takes the envelope, or hands it back. One that is larger than the bound fits into an empty queue.
    pub(super) fn push(&self, envelope: Envelope) -> Result<(), SendError> {
        if envelope.payload.len() > PAYLOAD_LEN_MAX {
            return Err(SendError::TooLong(envelope));
        }
        let len = envelope.payload.len() + OVERHEAD;
        let mut state = self.lock();
        let (bytes_max, len_max) = if state.open {
            (self.bytes_max, self.len_max)
        } else {
            (CLOSED_BYTES_MAX.min(self.bytes_max), CLOSED_LEN_MAX.min(self.len_max))
        };
        let empty = state.waiting.is_empty();
        if !empty && (state.bytes + len > bytes_max || state.waiting.len() >= len_max) {
            state.refusing = true;
            state.counters.refused += 1;
            return Err(SendError::Full(envelope));
        }
        state.bytes += len;
        state.waiting.push_back(envelope);
        if empty {
            state.life.filled.notify_one();
        }
        Ok(())
    }

    /// Begins to let envelopes out, for the life it returns.
    pub(super) fn open(&self) -> Life {
        let mut state = self.lock();
        state.open = true;
        state.refusing = false;
        state.life.clone()
    }

    /// Resets, unless that life has ended already. Says whether it did.
    pub(super) fn end(&self, life: &Life) -> bool {
        let current = self.lock().life.number == life.number;
        if current {
            self.reset();
        }
        current
    }

    /// Ends the life and drops what waits: it may not be sent after what was lost.
    pub(super) fn reset(&self) {
        let mut state = self.lock();
        let next = Life {
            number: state.life.number + 1,
            ..Life::default()
        };
        let life = std::mem::replace(&mut state.life, next);
        state.open = false;
        state.waiting.clear();
        state.front_sent = 0;
        state.bytes = 0;
        state.counters.resets += 1;
        life.filled.notify_one();
        life.ended.notify_one();
    }

    /// What waits, up to about [`BATCH_LEN`] bytes. Waits while there is nothing. `None`: that life has ended.
    pub(super) async fn take(&self, life: &Life) -> Option<Batch> {
        loop {
            match self.try_take(life) {
                Taken::Batch(batch) => return Some(batch),
                Taken::Nothing => life.filled.notified().await,
                Taken::Ended => return None,
            }
        }
    }

    fn try_take(&self, life: &Life) -> Taken {
        let mut state = self.lock();
        if state.life.number != life.number {
            return Taken::Ended;
        }
        if state.waiting.is_empty() {
            return Taken::Nothing;
        }
        let mut envelopes = Vec::with_capacity(state.waiting.len().min(BATCH_COUNT_MAX));
        let mut room = BATCH_LEN;
        while room > 0 && envelopes.len() < BATCH_COUNT_MAX {
            let from = state.front_sent;
            let Some(front) = state.waiting.front() else { break };
            let (port, to, len) = (front.port, front.to, front.payload.len());
            let piece = front.payload.slice(from..len.min(from + BATCH_LEN));
            if piece.len() > room && !envelopes.is_empty() {
                break;
            }
            room = room.saturating_sub(piece.len() + OVERHEAD);
            let rest = len - from - piece.len();
            if rest == 0 {
                state.front_sent = 0;
                state.waiting.pop_front();
                state.bytes -= len + OVERHEAD;
                state.counters.sent += 1;
                state.counters.sent_bytes += len as u64;
            } else {
                state.front_sent += piece.len();
            }
            envelopes.push(wire::Envelope {
                port: port.0,
                to,
                payload: piece,
                rest: rest as u64,
            });
        }
        let writable = state.refusing && state.bytes < self.bytes_max / 2 && state.waiting.len() < self.len_max / 2 + 1;
        if writable {
            state.refusing = false;
        }
        Taken::Batch(Batch { envelopes, writable })
    }

    pub(super) fn counters(&self) -> Counters {
        let state = self.lock();
        Counters {
            open: state.open,
            queued: state.waiting.len() as u64,
            queued_bytes: (state.bytes - state.waiting.len() * OVERHEAD) as u64,
            ..state.counters
        }
    }

    fn lock(&self) -> MutexGuard<'_, State> {
        // Nothing panics while it holds the lock, and the state is whole between any two statements that matter.
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

enum Taken {
    Batch(Batch),
    Nothing,
    Ended,
}

/// Puts long payloads together again.
#[derive(Default)]
pub(super) struct Joiner {
    begun: Option<Begun>,
}

struct Begun {
    port: u32,
    to: u64,
    payload: Vec<u8>,
    rest: u64,
}

/// A piece that does not follow from the one before, or announces too much.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a long payload came in pieces that do not fit")]
pub(super) struct Unfitting;

impl Joiner {
    /// A whole envelope, or `None` while pieces are missing.
    pub(super) fn join(&mut self, piece: wire::Envelope) -> Result<Option<Envelope>, Unfitting> {
        let wire::Envelope {
            port,
            to,
            payload,
            rest,
        } = piece;
        let Some(begun) = &mut self.begun else {
            if rest == 0 {
                return Ok(Some(Envelope {
                    port: Port(port),
                    to,
                    payload,
                }));
            }
            let total = whole(payload.len(), rest).ok_or(Unfitting)?;
            let mut begun = Begun {
                port,
                to,
                payload: Vec::with_capacity(total),
                rest,
            };
            begun.payload.extend_from_slice(&payload);
            self.begun = Some(begun);
            return Ok(None);
        };
        let fits = begun.port == port && begun.to == to && begun.rest.checked_sub(payload.len() as u64) == Some(rest);
        if !fits || payload.is_empty() {
            return Err(Unfitting);
        }
        begun.payload.extend_from_slice(&payload);
        begun.rest = rest;
        if rest > 0 {
            return Ok(None);
        }
        let payload = self
            .begun
            .take()
            .map_or_else(Bytes::new, |begun| Bytes::from(begun.payload));
        Ok(Some(Envelope {
            port: Port(port),
            to,
            payload,
        }))
    }
}

/// The length of the whole, unless it is more than may be.
pub(super) fn whole(len: usize, rest: u64) -> Option<usize> {
    usize::try_from(rest)
        .ok()?
        .checked_add(len)
        .filter(|total| *total <= PAYLOAD_LEN_MAX && len > 0)
}

#[cfg(test)]
mod tests;
