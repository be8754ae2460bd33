//! Where this node stands among those that it meets: of which cluster they are, and whether it is one of theirs.
//!
//! A node without data does not know whether there is a cluster that counts on it, and those that it is configured with
//! may know as little. Others say so when they meet it: then it begins none, and is brought up by them.
//!
//! ```text
//!                     counts this one                      does not
//!   holds nothing     waits to be brought up               ends, unless another one counts it
//!   another cluster   ends, if it holds nothing of value   (the link is refused)
//!   the same one      ends, if they have gone on without a majority, and it was not told
//!   none yet          waits for its leader; ends, if it    ends, if they have gone on without a majority
//!                     was not told of what that one obeys
//! ```

use std::fmt;

use warren_cluster::NodeId;
use warren_cluster::transport::{Met, Peer, PeerState, Side, Standing};

use super::MetadataReplica;
use crate::metadata::{Picture, Vhost, predeclared, reform_of};

/// Ticks after which a node that has joined, holds nothing and is counted by nobody was told so by one that did not know
/// better.
const UNCOUNTED_TICKS: u32 = 100;
/// The most nodes of which is kept what they said.
const MET_MAX: usize = 256;

/// Why this node cannot be part of the cluster that others are part of. Only an operator can help. Each names the node
/// that said so.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Conflict {
    /// There is a cluster, and this node, which holds nothing, is none of its nodes.
    Stranger(String),
    /// This node has begun a second cluster, in which there is nothing.
    Twin(String),
    /// The cluster has gone on without its majority, and this node was given up, or was not told.
    Behind(String),
}

impl fmt::Display for Conflict {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Stranger(by) => write!(
                f,
                "node '{by}' is part of a cluster of this name already, and this node, which has no data, is not: \
                 it can join with an empty data directory and cluster.join = true, or by warrenctl join_cluster"
            ),
            Self::Twin(by) => write!(
                f,
                "node '{by}' is part of a cluster of this name that counts this node among its own, and this one has \
                 begun another, in which there is nothing: start it again with an empty data directory, and it is \
                 brought up by the others"
            ),
            Self::Behind(by) => write!(
                f,
                "node '{by}' has gone on without the majority of the nodes: if this one was given up, it may join again \
                 with an empty data directory; if it survives, recover_lost_majority is to be given on it as well, unless \
                 it had lost its disk"
            ),
        }
    }
}

/// A node that knows of no cluster.
struct Blank {
    /// It would begin one, and nobody has counted it among another's nodes.
    may_found: bool,
    /// It may have lost its log.
    is_fresh: bool,
    /// The decision that its replica of the metadata obeys.
    reformed: u64,
}

impl Blank {
    /// What follows from meeting a node of a cluster that does not count this one.
    fn uncounted_by(&self, met: &Met) -> Option<Conflict> {
        if self.may_found {
            return Some(Conflict::Stranger(met.name.clone()));
        }
        // It began the cluster with them, and was given up before it knew that there is one. They hear nothing of it.
        is_ahead(met, self.is_fresh, self.reformed).then(|| Conflict::Behind(met.name.clone()))
    }
}

/// Whether another node obeys a later decision than a replica of the metadata, which was not told. One that is fresh is
/// told when it is brought up.
fn is_ahead(met: &Met, is_fresh: bool, reformed: u64) -> bool {
    !is_fresh && met.reformed > Some(reformed)
}

impl MetadataReplica {
    /// Why the node must end, if it must.
    pub fn conflict(&self) -> Option<&Conflict> {
        self.conflict.as_ref()
    }

    /// From now on others are told what this replica knows by now.
    pub(super) fn take_stand(&mut self) {
        let picture = self.setup.client.view().picture();
        let agreed = reform_of(picture.cluster_id());
        // A node that came back to a cluster of an older build was not told.
        self.shell.core_mut().learn_reformed(agreed);
        let reformed = self.shell.core().reformed();
        let core = self.shell.core();
        // One of those that began the cluster may not have said yet that it is there.
        let voters = core.members().iter().chain(core.learners()).copied();
        let nodes = picture.nodes().map(|(node, _)| node).chain(voters);
        let recovery = self.recovers(&picture);
        let is_left = |node: &NodeId| recovery.is_none_or(|recovery| recovery.survivors.contains(node));
        let standing = Standing {
            cluster_id: picture.cluster_id().to_owned(),
            reformed,
            nodes: nodes.filter(|node| is_left(node) && !picture.is_gone(*node)).collect(),
            is_current: self.joined,
        };
        if self.setup.membership.set(standing) {
            let all: Vec<Met> = self.met.values().cloned().collect();
            for met in &all {
                self.judge(met);
            }
        }
    }

    /// Another node says where it stands.
    pub(super) fn meets(&mut self, met: Met) {
        if met.node == 0 || met.node == self.setup.directory.node() {
            return;
        }
        if self.met.len() < MET_MAX || self.met.contains_key(&met.node) {
            self.met.insert(met.node, met.clone());
        }
        self.judge(&met);
    }

    fn judge(&mut self, met: &Met) {
        if met.cluster_id.is_empty() {
            // One that was told of a decision, and has not applied yet of which cluster it is.
            let core = self.shell.core();
            if is_ahead(met, core.is_fresh(), core.reformed()) {
                self.conflict = Some(Conflict::Behind(met.name.clone()));
            }
            return;
        }
        let own = self.setup.membership.standing();
        if own.cluster_id.is_empty() {
            return self.judge_without_cluster(met);
        }
        let is_counted = met.counts_us == Some(true);
        let picture = self.setup.client.view().picture();
        let is_known = picture.node(met.node).is_some();
        match own.side_of(met) {
            Side::Foreign if is_counted && !is_known && is_blank(&picture) => {
                self.conflict = Some(Conflict::Twin(met.name.clone()));
            }
            Side::Ahead => self.conflict = Some(Conflict::Behind(met.name.clone())),
            // It joined while this node was away, and may lead what this one is to catch up with.
            Side::Same if is_counted && !is_known && !picture.is_forgotten(met.node, met.directory) => {
                self.learn_peer(met);
            }
            // The link is refused, and that is said there.
            Side::Foreign | Side::Same | Side::Behind => {}
        }
    }

    /// This node knows of no cluster yet, and another one does.
    fn judge_without_cluster(&mut self, met: &Met) {
        match met.counts_us {
            Some(true) => {
                // One that holds entries waits for its leader anyway, which must obey the same decision.
                let waits = self.shell.core_mut().await_group(met.reformed.unwrap_or(0));
                let core = self.shell.core();
                if !waits && is_ahead(met, core.is_fresh(), core.reformed()) {
                    self.conflict = Some(Conflict::Behind(met.name.clone()));
                }
                self.learn_peer(met);
            }
            Some(false) => {
                let counted = self.met.values().any(|other| other.counts_us == Some(true));
                let core = self.shell.core();
                let own = Blank {
                    may_found: self.would_found() && !counted,
                    is_fresh: core.is_fresh(),
                    reformed: core.reformed(),
                };
                if let Some(conflict) = own.uncounted_by(met) {
                    self.conflict = Some(conflict);
                }
            }
            None => {}
        }
    }

    /// A tick of a node that may have joined in vain: it was forgotten meanwhile.
    pub(super) fn look_for_cluster(&mut self) {
        let core = self.shell.core();
        let holds_nothing = core.is_fresh() && core.status().last_index == 0;
        let by = self.met.values().find(|met| met.counts_us == Some(false));
        // Who counted it and has gone may not have known better.
        let is_up = |met: &Met| matches!(self.peers.get(&met.node), Some(PeerState::Up { .. }));
        let is_counted = self.met.values().any(|met| met.counts_us == Some(true) && is_up(met));
        match by {
            Some(by) if holds_nothing && !is_counted => {
                self.uncounted += 1;
                if self.uncounted >= UNCOUNTED_TICKS {
                    self.conflict = Some(Conflict::Stranger(by.name.clone()));
                }
            }
            _ => self.uncounted = 0,
        }
    }

    /// Whether this node is one of those that begin a cluster, for all that it was told, and has not begun.
    fn would_found(&self) -> bool {
        let core = self.shell.core();
        core.is_fresh() && core.status().last_index == 0 && !self.setup.members.is_empty()
    }

    /// A node that this one was not told of is one of its cluster.
    fn learn_peer(&mut self, met: &Met) {
        let peer = Peer {
            node: met.node,
            name: met.name.clone(),
            address: met.address.clone(),
        };
        let known = self.setup.peers.iter().position(|known| known.node == met.node);
        match known {
            _ if peer.address.is_empty() => return,
            Some(at) if has_come_back(&self.setup.client.view().picture(), met) => self.setup.peers[at] = peer,
            // Where it is reached from here, this node's configuration knows best.
            Some(_) => {}
            None => self.setup.peers.push(peer),
        }
        // Also of one that was known before: see `has_come_back`.
        self.tell_nodes();
    }
}

/// Whether it is a node of the cluster that this one was told of by itself: one that was forgotten, and has joined since
/// with another directory, as far as this node has not applied that yet.
pub(super) fn has_come_back(picture: &Picture, met: &Met) -> bool {
    met.counts_us == Some(true) && picture.is_gone(met.node) && !picture.is_forgotten(met.node, met.directory)
}

/// Whether nobody has made anything of it.
fn is_blank(picture: &Picture) -> bool {
    let mut spaces = picture.vhosts();
    let own = |name: &str| predeclared(name).is_none() && !name.is_empty();
    let is_bare = |vhost: &Vhost| {
        let mut exchanges = picture.exchanges(&vhost.name);
        let policies = [false, true].map(|operator| picture.policies(&vhost.name, operator).count());
        !exchanges.any(|exchange| own(&exchange.name)) && policies == [0, 0]
    };
    let is_bare = spaces.next().is_none_or(|vhost| is_bare(vhost)) && spaces.next().is_none();
    is_bare
        && picture.all_queues().next().is_none()
        && picture.users().count() <= 1
        && picture.parameters().next().is_none()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn whoever_was_given_up_before_it_knew_of_a_cluster_ends() {
        let met = |reformed| Met {
            name: "other".to_owned(),
            counts_us: Some(false),
            reformed,
            ..Met::default()
        };
        let behind = Some(Conflict::Behind("other".to_owned()));
        let stranger = Some(Conflict::Stranger("other".to_owned()));
        for (may_found, is_fresh, reformed, theirs, conflict) in [
            (false, false, 0, Some(1 << 56), &behind),
            (false, false, 1 << 56, Some(2 << 56), &behind),
            // They obey the same decision: its log comes to it yet.
            (false, false, 1 << 56, Some(1 << 56), &None),
            (false, false, 0, None, &None),
            // It holds nothing to be behind with, and may be taken in.
            (false, true, 0, Some(1 << 56), &None),
            (true, true, 0, Some(1 << 56), &stranger),
            (true, true, 0, None, &stranger),
        ] {
            let own = Blank {
                may_found,
                is_fresh,
                reformed,
            };
            assert_eq!(
                own.uncounted_by(&met(theirs)),
                *conflict,
                "{may_found} {is_fresh} {reformed} {theirs:?}"
            );
        }
    }
}
