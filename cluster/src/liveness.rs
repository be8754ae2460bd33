//! Which peers live, are silent, or have ended. Pure: events with a time go in, changes come out.
//!
//! A *run* of a node is one process, told apart by its incarnation. Invariants:
//! - `Dead` is said of a run only when it cannot come back: a newer run proved itself, or its own host
//!   closed its last stream and then refused a connection.
//! - Silence is a suspicion, and ends with the next byte.
//! - A pause of this process (a stopped machine, a long stall) makes nobody else silent.

use std::collections::BTreeMap;

use crate::NodeId;

/// What is known of a peer's latest run.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PeerState {
    /// Heard of lately.
    Up {
        /// The run that is up.
        incarnation: u64,
    },
    /// No bytes for [`Options::silence_ms`], or no stream for [`Options::broken_ms`]. It may still live.
    Silent {
        /// The run that may still live.
        incarnation: u64,
    },
    /// That run has certainly ended.
    Dead {
        /// The run that ended.
        incarnation: u64,
    },
}

impl PeerState {
    /// The run that this is said of.
    pub fn incarnation(self) -> u64 {
        match self {
            Self::Up { incarnation } | Self::Silent { incarnation } | Self::Dead { incarnation } => incarnation,
        }
    }

    /// Whether the peer is up.
    pub fn is_up(self) -> bool {
        matches!(self, Self::Up { .. })
    }
}

/// When a peer counts as silent.
#[derive(Clone, Copy, Debug)]
pub struct Options {
    /// Without a byte for so long, a peer is silent.
    pub silence_ms: u64,
    /// Without any stream for so long, a peer is silent.
    pub broken_ms: u64,
    /// Two ticks further apart than this mean that this process itself was paused.
    pub stall_ms: u64,
}

/// What the streams saw.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Event {
    /// A stream to or from this run was opened, and the run proved itself.
    Opened {
        /// Who.
        node: NodeId,
        /// Which run.
        incarnation: u64,
    },
    /// A stream that was `Opened` ended.
    Closed {
        /// Who.
        node: NodeId,
        /// Which run.
        incarnation: u64,
        /// The peer's host closed it, not this end after a timeout.
        by_peer: bool,
    },
    /// The peer's host refused a connection.
    Refused {
        /// Who.
        node: NodeId,
    },
    /// Bytes came on one of this run's streams.
    Heard {
        /// Who.
        node: NodeId,
        /// Which run.
        incarnation: u64,
        /// When the last of them came.
        at_ms: u64,
    },
    /// Time passed.
    Tick,
}

/// What changed.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Effect {
    /// The peer's state is now this.
    Changed(NodeId, PeerState),
    /// The peer's next run follows: nothing queued for the one before may reach it.
    Replaced(NodeId),
}

/// A run that is older than one already seen.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("run {claimed} of that node has ended: run {seen} was seen")]
pub struct Stale {
    /// The run that wants to speak.
    pub claimed: u64,
    /// The latest run.
    pub seen: u64,
}

/// The states of all peers that ever proved themselves to this process.
#[derive(Debug)]
pub struct Liveness {
    options: Options,
    peers: BTreeMap<NodeId, Peer>,
    ticked_ms: Option<u64>,
}

#[derive(Debug)]
struct Peer {
    state: PeerState,
    /// Never ahead of the event that told of it.
    heard_ms: u64,
    /// Open streams of the state's run.
    streams: u32,
    /// When `streams` last became 0; meaningless while it is not.
    broken_ms: u64,
    /// The peer's host closed a stream of this run, and none was opened since.
    ended_by_peer: bool,
}

impl Liveness {
    /// Knows nobody yet.
    pub fn new(options: Options) -> Self {
        Self {
            options,
            peers: BTreeMap::new(),
            ticked_ms: None,
        }
    }

    /// Refuses a run older than the latest one seen.
    pub fn admit(&self, node: NodeId, incarnation: u64) -> Result<(), Stale> {
        match self.state(node) {
            Some(state) if incarnation < state.incarnation() => Err(Stale {
                claimed: incarnation,
                seen: state.incarnation(),
            }),
            _ => Ok(()),
        }
    }

    /// The peer's state, unless it never proved itself.
    pub fn state(&self, node: NodeId) -> Option<PeerState> {
        self.peers.get(&node).map(|peer| peer.state)
    }

    /// The peer is one no more, as if it had never been: its last state.
    pub fn forget(&mut self, node: NodeId) -> Option<PeerState> {
        self.peers.remove(&node).map(|peer| peer.state)
    }

    /// All peers that ever proved themselves, by node.
    pub fn states(&self) -> impl Iterator<Item = (NodeId, PeerState)> + '_ {
        self.peers.iter().map(|(node, peer)| (*node, peer.state))
    }

    /// Takes one event at a time that never goes back.
    /// Events of a run that is no longer the latest change nothing.
    pub fn step(&mut self, now_ms: u64, event: Event, out: &mut Vec<Effect>) {
        match event {
            Event::Opened { node, incarnation } => self.opened(now_ms, node, incarnation, out),
            Event::Closed {
                node,
                incarnation,
                by_peer,
            } => {
                if let Some(peer) = self.run(node, incarnation) {
                    peer.streams = peer.streams.saturating_sub(1);
                    peer.ended_by_peer |= by_peer;
                    peer.broken_ms = now_ms;
                }
            }
            Event::Refused { node } => {
                if let Some(peer) = self.peers.get_mut(&node)
                    && peer.streams == 0
                    && peer.ended_by_peer
                {
                    peer.change(
                        node,
                        PeerState::Dead {
                            incarnation: peer.state.incarnation(),
                        },
                        out,
                    );
                }
            }
            Event::Heard {
                node,
                incarnation,
                at_ms,
            } => {
                if let Some(peer) = self.run(node, incarnation)
                    && at_ms > peer.heard_ms
                {
                    peer.heard_ms = at_ms.min(now_ms);
                }
            }
            Event::Tick => self.tick(now_ms, out),
        }
    }

    fn opened(&mut self, now_ms: u64, node: NodeId, incarnation: u64, out: &mut Vec<Effect>) {
        let up = PeerState::Up { incarnation };
        let fresh = Peer {
            state: up,
            heard_ms: now_ms,
            streams: 1,
            broken_ms: now_ms,
            ended_by_peer: false,
        };
        let Some(peer) = self.peers.get_mut(&node) else {
            self.peers.insert(node, fresh);
            out.push(Effect::Changed(node, up));
            return;
        };
        let before = peer.state.incarnation();
        if incarnation < before {
            return;
        }
        if incarnation > before {
            peer.change(node, PeerState::Dead { incarnation: before }, out);
            *peer = fresh;
            out.push(Effect::Replaced(node));
            out.push(Effect::Changed(node, up));
            return;
        }
        peer.streams = peer.streams.saturating_add(1);
        peer.ended_by_peer = false;
        peer.heard_ms = now_ms;
        peer.change(node, up, out);
    }

    fn tick(&mut self, now_ms: u64, out: &mut Vec<Effect>) {
        let passed_ms = now_ms.saturating_sub(self.ticked_ms.unwrap_or(now_ms));
        self.ticked_ms = Some(now_ms);
        let paused_ms = if passed_ms > self.options.stall_ms {
            passed_ms
        } else {
            0
        };
        for (node, peer) in &mut self.peers {
            peer.heard_ms = peer.heard_ms.saturating_add(paused_ms).min(now_ms);
            peer.broken_ms = peer.broken_ms.saturating_add(paused_ms).min(now_ms);
            let incarnation = peer.state.incarnation();
            let silent = now_ms.saturating_sub(peer.heard_ms) > self.options.silence_ms;
            let broken = peer.streams == 0 && now_ms.saturating_sub(peer.broken_ms) > self.options.broken_ms;
            match peer.state {
                PeerState::Up { .. } if silent || broken => {
                    peer.change(*node, PeerState::Silent { incarnation }, out);
                }
                PeerState::Silent { .. } if !silent && !broken => {
                    peer.change(*node, PeerState::Up { incarnation }, out);
                }
                PeerState::Up { .. } | PeerState::Silent { .. } | PeerState::Dead { .. } => {}
            }
        }
    }

    fn run(&mut self, node: NodeId, incarnation: u64) -> Option<&mut Peer> {
        self.peers
            .get_mut(&node)
            .filter(|peer| peer.state.incarnation() == incarnation)
    }
}

impl Peer {
    fn change(&mut self, node: NodeId, state: PeerState, out: &mut Vec<Effect>) {
        if self.state != state {
            self.state = state;
            out.push(Effect::Changed(node, state));
        }
    }
}

#[cfg(test)]
mod tests;
