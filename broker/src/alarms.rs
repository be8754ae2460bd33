//! Shortages of memory and disk, here and on the other nodes: while there is one anywhere, publishers are held back.
//!
//! Each node measures itself once a second and tells the others while it is short. What a node said counts until it says
//! otherwise or is silent. Connections are told of every change, see `connection/shortage.rs`.

use std::collections::BTreeMap;
use std::path::PathBuf;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{Duration, Instant};

use warren_cluster::NodeId;
use warren_proto::node;
use warren_proto::node::node_message::Kind;

use crate::config::Watermark;
use crate::connection::registry::Registry;
use crate::directory::Directory;

mod host;

pub(crate) use self::host::resident_bytes;

/// How often a node measures itself.
const EVERY: Duration = Duration::from_secs(1);
/// A short node that says nothing for this long no longer counts: it is down, or cut off.
const SILENT_MS: u64 = 10_000;

/// What there is too little of.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Shortage {
    pub memory: bool,
    pub disk: bool,
}

impl Shortage {
    /// Whether there is too little of anything.
    pub fn is_any(self) -> bool {
        self.memory || self.disk
    }

    /// As connection.blocked says it.
    pub fn reason(self) -> &'static str {
        match (self.memory, self.disk) {
            (true, true) => "low on memory & low on disk",
            (true, false) => "low on memory",
            (false, true) => "low on disk",
            (false, false) => "",
        }
    }

    fn or(self, other: Self) -> Self {
        Self {
            memory: self.memory || other.memory,
            disk: self.disk || other.disk,
        }
    }
}

/// Which nodes are short of what.
#[derive(Debug, Default)]
struct Board {
    nodes: BTreeMap<NodeId, (Shortage, u64)>,
}

impl Board {
    fn heard(&mut self, node: NodeId, shortage: Shortage, now_ms: u64) {
        if shortage.is_any() {
            self.nodes.insert(node, (shortage, now_ms));
        } else {
            self.nodes.remove(&node);
        }
    }

    /// All nodes' shortages together, those of silent nodes forgotten.
    fn total(&mut self, now_ms: u64) -> Shortage {
        self.nodes.retain(|_, (_, heard_ms)| now_ms < *heard_ms + SILENT_MS);
        self.nodes
            .values()
            .fold(Shortage::default(), |total, (shortage, _)| total.or(*shortage))
    }
}

/// What a node may use.
#[derive(Clone, Debug)]
pub struct Bounds {
    pub memory: Watermark,
    /// Bytes that must stay free where `data_dir` is.
    pub disk_free: u64,
    pub data_dir: PathBuf,
}

/// What a node uses, in bytes. What the system does not tell is `None`, and no cause for an alarm.
#[derive(Clone, Copy, Debug, Default)]
pub struct Usage {
    pub memory: Option<u64>,
    pub memory_max: Option<u64>,
    pub disk_free: Option<u64>,
}

/// See the module.
pub struct Alarms {
    node: NodeId,
    bounds: Bounds,
    started: Instant,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    board: Board,
    usage: Usage,
    /// As connections were told last.
    total: Shortage,
}

impl Alarms {
    /// Without any alarm.
    pub fn new(node: NodeId, bounds: Bounds) -> Self {
        Self {
            node,
            bounds,
            started: Instant::now(),
            state: Mutex::default(),
        }
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn now_ms(&self) -> u64 {
        self.started.elapsed().as_millis() as u64
    }

    /// What the cluster is short of, as of the last look.
    pub fn shortage(&self) -> Shortage {
        self.state().total
    }

    /// What is used here, and the bound on what must stay free on the disk.
    pub fn usage(&self) -> (Usage, u64) {
        (self.state().usage, self.bounds.disk_free)
    }

    /// Which nodes are short of what.
    pub fn nodes(&self) -> Vec<(NodeId, Shortage)> {
        let state = self.state();
        state
            .board
            .nodes
            .iter()
            .map(|(node, (shortage, _))| (*node, *shortage))
            .collect()
    }

    /// Another node says how it is.
    pub fn heard(&self, from: NodeId, alarms: node::Alarms) {
        let node::Alarms { memory, disk } = alarms;
        let now_ms = self.now_ms();
        self.state().board.heard(from, Shortage { memory, disk }, now_ms);
    }

    /// Measures this node.
    fn measure(&self) -> Shortage {
        let usage = Usage {
            memory: resident_bytes(),
            memory_max: self.bounds.memory.bytes(host::memory_bytes),
            disk_free: host::free_bytes(&self.bounds.data_dir),
        };
        let over = |(used, max)| used > max;
        let shortage = Shortage {
            memory: usage.memory.zip(usage.memory_max).is_some_and(over),
            disk: usage.disk_free.is_some_and(|free| free < self.bounds.disk_free),
        };
        let now_ms = self.now_ms();
        let mut state = self.state();
        state.usage = usage;
        state.board.heard(self.node, shortage, now_ms);
        shortage
    }

    /// The new total, if it has changed.
    fn change(&self) -> Option<Shortage> {
        let now_ms = self.now_ms();
        let mut state = self.state();
        let total = state.board.total(now_ms);
        (std::mem::replace(&mut state.total, total) != total).then_some(total)
    }
}

/// Measures, tells and listens for as long as the node lives. `registries` hold the connections to tell of changes.
pub async fn watch(alarms: Arc<Alarms>, directory: Arc<Directory>, registries: Vec<Registry>) {
    let mut told = Shortage::default();
    let mut interval = tokio::time::interval(EVERY);
    loop {
        interval.tick().await;
        let own = alarms.measure();
        if own != told {
            tracing::warn!(
                memory = own.memory,
                disk = own.disk,
                "this node's shortages have changed"
            );
        }
        if own.is_any() || own != told {
            told = own;
            for peer in directory.peers() {
                let Shortage { memory, disk } = own;
                directory.tell(peer, Kind::Alarms(node::Alarms { memory, disk }));
            }
        }
        if let Some(shortage) = alarms.change() {
            let Shortage { memory, disk } = shortage;
            if shortage.is_any() {
                tracing::warn!(
                    memory,
                    disk,
                    "publishers are held back: the cluster is short of something"
                );
            } else {
                tracing::info!("publishers go on: the cluster is short of nothing any more");
            }
            for registry in &registries {
                registry.tell(shortage);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MEMORY: Shortage = Shortage {
        memory: true,
        disk: false,
    };
    const DISK: Shortage = Shortage {
        memory: false,
        disk: true,
    };

    #[test]
    fn one_short_node_is_enough_and_a_silent_one_is_forgotten() {
        let mut board = Board::default();
        assert!(!board.total(0).is_any());
        board.heard(1, MEMORY, 0);
        board.heard(2, DISK, 5_000);
        assert_eq!(board.total(9_999).reason(), "low on memory & low on disk");
        assert_eq!(board.total(10_000), DISK);
        board.heard(2, Shortage::default(), 10_001);
        assert!(!board.total(10_001).is_any());
    }

    #[test]
    fn this_machine_can_be_measured() {
        let alarms = |memory, disk_free| {
            let bounds = Bounds {
                memory,
                disk_free,
                data_dir: std::env::temp_dir(),
            };
            Alarms::new(1, bounds)
        };
        assert_eq!(alarms(Watermark::Part(1_000), 0).measure(), Shortage::default());
        assert_eq!(alarms(Watermark::Bytes(1), 0).measure(), MEMORY);
        assert_eq!(alarms(Watermark::Part(0), 0).measure(), MEMORY);
        let short = alarms(Watermark::Part(1_000), u64::MAX);
        assert_eq!(short.measure(), DISK);
        assert_eq!(short.change(), Some(DISK));
        assert_eq!(short.change(), None);
        assert_eq!(short.nodes(), [(1, DISK)]);
    }
}
