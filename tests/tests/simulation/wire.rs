//! The links between nodes: what one run sends, and what is on its way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use warren_cluster::NodeId;
use warren_cluster::transport::{Envelope, OutgoingSnapshot, PeerState, SendError, Transport};

#[derive(Default)]
struct State {
    out: Vec<(NodeId, Envelope)>,
    snapshots: Vec<(NodeId, OutgoingSnapshot)>,
    peers: BTreeMap<NodeId, PeerState>,
    /// Envelopes that wait or are on their way.
    lens: BTreeMap<NodeId, usize>,
    /// Links that refused something since they last had room.
    refusing: BTreeSet<NodeId>,
}

/// One run's end of all its links.
pub(crate) struct Net {
    len_max: usize,
    others: Vec<NodeId>,
    state: Mutex<State>,
}

impl Net {
    pub(crate) fn new(len_max: usize, others: Vec<NodeId>) -> Arc<Self> {
        Arc::new(Self {
            len_max,
            others,
            state: Mutex::default(),
        })
    }

    pub(crate) fn take_out(&self) -> Vec<(NodeId, Envelope)> {
        std::mem::take(&mut self.state.lock().expect("one thread").out)
    }

    pub(crate) fn take_snapshots(&self) -> Vec<(NodeId, OutgoingSnapshot)> {
        std::mem::take(&mut self.state.lock().expect("one thread").snapshots)
    }

    pub(crate) fn set_peer(&self, node: NodeId, state: PeerState) {
        self.state.lock().expect("one thread").peers.insert(node, state);
    }

    /// One envelope has left the link. True if the link has room again for those it refused.
    pub(crate) fn left(&self, to: NodeId) -> bool {
        let mut state = self.state.lock().expect("one thread");
        let len = state.lens.entry(to).or_default();
        *len = len.saturating_sub(1);
        *len < self.len_max / 2 + 1 && state.refusing.remove(&to)
    }

    /// What waits for the link is dropped.
    pub(crate) fn reset(&self, to: NodeId) {
        let mut state = self.state.lock().expect("one thread");
        state.out.retain(|(other, _)| *other != to);
        state.lens.insert(to, 0);
    }
}

impl Transport for Net {
    fn send(&self, to: NodeId, envelope: Envelope) -> Result<(), SendError> {
        if !self.others.contains(&to) {
            return Err(SendError::NoPeer(envelope));
        }
        let mut state = self.state.lock().expect("one thread");
        let len = state.lens.entry(to).or_default();
        if *len >= self.len_max {
            state.refusing.insert(to);
            return Err(SendError::Full(envelope));
        }
        *len += 1;
        state.out.push((to, envelope));
        Ok(())
    }

    fn peers(&self) -> Vec<(NodeId, PeerState)> {
        let state = self.state.lock().expect("one thread");
        state.peers.iter().map(|(node, state)| (*node, *state)).collect()
    }

    fn send_snapshot(&self, to: NodeId, snapshot: OutgoingSnapshot) {
        self.state.lock().expect("one thread").snapshots.push((to, snapshot));
    }
}

/// The way from one node to another. Each end has its own opinion of which stream is open.
#[derive(Default)]
pub(crate) struct Link {
    /// The stream that the sender holds open; 0: none.
    pub(crate) sender: u64,
    /// The stream that the receiver takes from; 0: none.
    pub(crate) receiver: u64,
    /// The newest stream.
    pub(crate) newest: u64,
    /// Sender's and receiver's runs that the newest stream was opened between.
    pub(crate) runs: (u64, u64),
    /// The newest stream was broken; its ends may not have noticed.
    pub(crate) broken: bool,
    /// Accepted while no stream was open.
    pub(crate) waiting: VecDeque<Envelope>,
    /// On the way: when it arrives at the soonest, on which stream.
    pub(crate) flying: VecDeque<(u64, u64, Envelope)>,
    /// Nothing gets through, and nobody is told.
    pub(crate) blocked: bool,
    /// When the receiver last heard of the sender.
    pub(crate) heard_us: u64,
    /// When the sender last heard that the other end lives.
    pub(crate) answered_us: u64,
}
