//! The way of a session's batches to its queues' leaders, as far as this node knows them.

use std::sync::Arc;

use bytes::Bytes;
use rustc_hash::FxHashMap;
use warren_proto::queue::Resync;
use warren_proto::record::SessionId;

use super::Carrier;
use crate::directory::{Directory, Leader, NotSent};
use crate::metadata::View;

/// How often a queue without a leader is asked after.
const ASK_MS: u64 = 250;

/// See the module.
pub struct Way {
    directory: Arc<Directory>,
    view: View,
    session: SessionId,
    leaders: FxHashMap<u64, Leader>,
    /// Queues that were deleted before anybody watched them: no word of it will come.
    gone: Vec<u64>,
    /// Queues without a leader are asked after now and then, not in every turn.
    may_ask: bool,
    asked_ms: u64,
}

impl Way {
    /// Knows no queue yet.
    pub fn new(directory: Arc<Directory>, view: View, session: SessionId) -> Self {
        Self {
            directory,
            view,
            session,
            leaders: FxHashMap::default(),
            gone: Vec::new(),
            may_ask: false,
            asked_ms: 0,
        }
    }

    /// Time has passed.
    pub fn on_tick(&mut self, now_ms: u64) {
        if now_ms >= self.asked_ms + ASK_MS {
            self.may_ask = true;
            self.asked_ms = now_ms;
        }
    }

    /// A queue's leader is elsewhere now.
    pub fn moved(&mut self, group: u64, leader: Leader) {
        self.leaders.insert(group, leader);
    }

    /// A queue is no more.
    pub fn forget(&mut self, group: u64) {
        self.leaders.remove(&group);
    }

    /// Ends a turn; answers queues that turned out to be no more.
    pub fn end_turn(&mut self) -> Vec<u64> {
        self.may_ask = false;
        let gone = std::mem::take(&mut self.gone);
        for group in &gone {
            self.leaders.remove(group);
            self.directory.unwatch(*group, self.session);
        }
        gone
    }

    fn leader(&mut self, group: u64) -> &Leader {
        let Self {
            directory,
            view,
            gone,
            session,
            ..
        } = self;
        self.leaders.entry(group).or_insert_with(|| {
            let leader = directory.watch(group, *session);
            if view.queue_by_group(group).is_none() {
                gone.push(group);
            }
            leader
        })
    }
}

impl Carrier for Way {
    fn send(&mut self, group: u64, batch: Bytes) -> Result<(), NotSent> {
        let may_ask = self.may_ask;
        let directory = Arc::clone(&self.directory);
        let leader = self.leader(group);
        if matches!(leader, Leader::Unknown) && !may_ask {
            return Err(NotSent::NoLeader);
        }
        directory.send(group, leader, batch)
    }

    fn resync(&mut self, group: u64, request: Resync) {
        let may_ask = self.may_ask;
        let directory = Arc::clone(&self.directory);
        match self.leader(group) {
            // A session that only consumes has nothing else that would find the leader.
            Leader::Unknown if may_ask => directory.ask(group),
            leader => directory.resync(group, leader, request),
        }
    }
}
