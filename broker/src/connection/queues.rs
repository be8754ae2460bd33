//! The queues that a session uses: one [`QueueClient`] each, and which of them have something to send.

use rustc_hash::FxHashMap;
use warren_proto::queue::Resync;
use warren_proto::record::SessionId;

use crate::directory::NotSent;
use crate::queue::client::{Notice, QueueClient, Share};

/// Takes a session's batches to the queues' leaders.
pub trait Carrier {
    /// What does not leave is offered again: soon after [`NotSent::Full`], else when a leader is known or a tick
    /// has passed.
    fn send(&mut self, group: u64, batch: bytes::Bytes) -> Result<(), NotSent>;

    /// May be lost; repeated when still needed.
    fn resync(&mut self, group: u64, request: Resync);
}

struct Entry {
    client: QueueClient,
    dirty: bool,
    /// What the totals hold of this client.
    counted: Counted,
}

#[derive(Clone, Copy, Default)]
struct Counted {
    bytes: usize,
    commands: u64,
    waiting: bool,
    readers: usize,
}

/// See the module.
pub(crate) struct Queues {
    session: SessionId,
    entries: FxHashMap<u64, Entry>,
    dirty: Vec<u64>,
    unsent: bool,
    /// With readers that may be given credit once the output has room.
    held_back: Vec<u64>,
    bytes: usize,
    commands: u64,
    waiting: usize,
    /// Of streams.
    readers: usize,
}

impl Queues {
    pub(crate) fn new(session: SessionId) -> Self {
        Self {
            session,
            entries: FxHashMap::default(),
            dirty: Vec::new(),
            unsent: false,
            held_back: Vec::new(),
            bytes: 0,
            commands: 0,
            waiting: 0,
            readers: 0,
        }
    }

    /// The session's side of a queue, to add something to.
    pub(crate) fn client(&mut self, group: u64) -> &mut QueueClient {
        let session = self.session;
        let entry = self.entries.entry(group).or_insert_with(|| Entry {
            client: QueueClient::new(session, group),
            dirty: false,
            counted: Counted::default(),
        });
        if !entry.dirty {
            entry.dirty = true;
            self.dirty.push(group);
        }
        &mut entry.client
    }

    /// The session's side of a queue that it has used and that has not ended.
    pub(crate) fn known(&mut self, group: u64) -> Option<&mut QueueClient> {
        if self.entries.contains_key(&group) {
            Some(self.client(group))
        } else {
            None
        }
    }

    /// The queue has ended.
    pub(crate) fn remove(&mut self, group: u64, out: &mut Vec<Notice>) {
        if let Some(entry) = self.entries.remove(&group) {
            self.count(entry.counted, Counted::default());
            entry.client.end(out);
        }
    }

    pub(crate) fn groups(&self) -> impl Iterator<Item = u64> {
        self.entries.keys().copied()
    }

    /// Bytes that queues have not applied.
    pub(crate) fn unapplied_bytes(&self) -> usize {
        self.bytes
    }

    /// Commands that queues have not applied.
    pub(crate) fn unapplied_commands(&self) -> u64 {
        self.commands
    }

    /// Whether some batch found the way to its queue full when it was offered.
    pub(crate) fn has_unsent(&self) -> bool {
        self.unsent
    }

    /// Whether time alone may call for something to be done.
    pub(crate) fn needs_tick(&self) -> bool {
        self.waiting > 0
    }

    pub(crate) fn is_all_applied(&self) -> bool {
        self.commands == 0 && self.dirty.is_empty()
    }

    /// Lets time pass for all queues.
    pub(crate) fn tick(&mut self, now_ms: u64, timeout_ms: u64, out: &mut Vec<Notice>) {
        for (&group, entry) in &mut self.entries {
            if entry.client.needs_tick() {
                entry.client.tick(now_ms, timeout_ms, out);
                if !entry.dirty {
                    entry.dirty = true;
                    self.dirty.push(group);
                }
            }
        }
    }

    /// Closes what was added and offers everything that may leave. `unwritten`: bytes that wait for the client's socket.
    pub(crate) fn flush(&mut self, unwritten: usize, now_ms: u64, carrier: &mut impl Carrier) {
        self.unsent = false;
        let is_over = Share::is_over(unwritten);
        let mut dirty = std::mem::take(&mut self.dirty);
        if !is_over {
            for group in self.held_back.drain(..) {
                if let Some(entry) = self.entries.get_mut(&group)
                    && !entry.dirty
                {
                    entry.dirty = true;
                    dirty.push(group);
                }
            }
        }
        let share = Share::of(self.readers);
        for group in dirty.drain(..) {
            let Some(entry) = self.entries.get_mut(&group) else {
                continue;
            };
            entry.dirty = false;
            let client = &mut entry.client;
            client.seal(now_ms);
            while let Some(batch) = client.next_send() {
                if let Err(error) = carrier.send(group, batch) {
                    client.not_sent();
                    self.unsent |= error == NotSent::Full;
                    break;
                }
            }
            if let Some(request) = client.take_resync(share, now_ms) {
                carrier.resync(group, request);
            } else if is_over && client.readers() > 0 {
                if !self.held_back.contains(&group) {
                    self.held_back.push(group);
                }
            } else if let Some(request) = client.take_credit(share, now_ms) {
                carrier.resync(group, request);
            }
            let now = Counted {
                bytes: client.unapplied_bytes(),
                commands: client.unapplied_commands(),
                waiting: client.needs_tick(),
                readers: client.readers(),
            };
            let before = std::mem::replace(&mut entry.counted, now);
            self.count(before, now);
        }
        self.dirty = dirty;
    }

    fn count(&mut self, before: Counted, now: Counted) {
        self.bytes = self.bytes + now.bytes - before.bytes;
        self.commands = self.commands + now.commands - before.commands;
        self.waiting = self.waiting + usize::from(now.waiting) - usize::from(before.waiting);
        self.readers = self.readers + now.readers - before.readers;
    }
}
