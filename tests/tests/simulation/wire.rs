//! The links between nodes: what one run sends, and what is on its way.

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::{Arc, Mutex};

use warren_cluster::NodeId;
use warren_cluster::transport::{Envelope, Membership, Met, OutgoingSnapshot, Peer, PeerState, SendError, Transport};

#[derive(Default)]
struct State {
    out: Vec<(NodeId, Envelope)>,
    snapshots: Vec<(NodeId, OutgoingSnapshot)>,
    peers: BTreeMap<NodeId, PeerState>,
    /// Envelopes that wait or are on their way.
    lens: BTreeMap<NodeId, usize>,
    /// Links that refused something since they last had room.
    refusing: BTreeSet<NodeId>,
    /// The peers, as the node has told its transport.
    told: BTreeSet<NodeId>,
    /// Peers that are new, and that are none any more.
    changes: (Vec<NodeId>, Vec<NodeId>),
    /// Nodes that were removed for good, with the last run whose disk is meant.
    forgotten: BTreeMap<NodeId, u64>,
}

/// One run's end of all its links.
pub(crate) struct Net {
    len_max: usize,
    own: NodeId,
    directory: u64,
    /// What the node tells others of its cluster.
    pub(crate) membership: Membership,
    state: Mutex<State>,
}

impl Net {
    pub(crate) fn new(len_max: usize, own: NodeId, directory: u64, peers: &[Peer]) -> Arc<Self> {
        let told = peers.iter().map(|peer| peer.node).collect();
        let state = State {
            told,
            ..State::default()
        };
        Arc::new(Self {
            len_max,
            own,
            directory,
            membership: Membership::default(),
            state: Mutex::new(state),
        })
    }

    pub(crate) fn is_peer(&self, node: NodeId) -> bool {
        self.state.lock().expect("one thread").told.contains(&node)
    }

    pub(crate) fn peer_ids(&self) -> Vec<NodeId> {
        self.state.lock().expect("one thread").told.iter().copied().collect()
    }

    pub(crate) fn is_forgotten(&self, node: NodeId, directory: u64) -> bool {
        let state = self.state.lock().expect("one thread");
        state.forgotten.get(&node).is_some_and(|until| directory <= *until)
    }

    /// Peers that are new, and that are none any more.
    pub(crate) fn take_changes(&self) -> (Vec<NodeId>, Vec<NodeId>) {
        std::mem::take(&mut self.state.lock().expect("one thread").changes)
    }

    /// What this node says to another one when they meet.
    pub(crate) fn says_to(&self, node: NodeId) -> Met {
        let standing = self.membership.standing();
        let is_of_one = !standing.cluster_id.is_empty();
        Met {
            node: self.own,
            name: format!("node-{}", self.own),
            address: format!("node-{}:1", self.own),
            directory: self.directory,
            cluster_id: standing.cluster_id.clone(),
            reformed: is_of_one.then_some(standing.reformed),
            counts_us: standing.counts(node),
        }
    }

    /// A peer is one no more.
    pub(crate) fn drop_peer(&self, node: NodeId) {
        self.reset(node);
        self.state.lock().expect("one thread").peers.remove(&node);
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
        let mut state = self.state.lock().expect("one thread");
        if !state.told.contains(&to) {
            return Err(SendError::NoPeer(envelope));
        }
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

    fn set_peers(&self, peers: Vec<Peer>) {
        let mut state = self.state.lock().expect("one thread");
        let now: BTreeSet<NodeId> = peers
            .iter()
            .map(|peer| peer.node)
            .filter(|node| *node != self.own)
            .collect();
        let before = std::mem::replace(&mut state.told, now.clone());
        state.changes.0.extend(now.difference(&before));
        state.changes.1.extend(before.difference(&now));
    }

    fn set_forgotten(&self, forgotten: BTreeMap<NodeId, u64>) {
        self.state.lock().expect("one thread").forgotten = forgotten;
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
