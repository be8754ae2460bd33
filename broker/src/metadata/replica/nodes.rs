//! What this replica sees to as to the nodes: who they are and where, which of them has a replica of the metadata, and the
//! version of entries that all of them know.

use warren_cluster::NodeId;
use warren_cluster::group::{Event, Goal, Role};
use warren_cluster::transport::Peer;

use super::standing::has_come_back;
use super::{MetadataReplica, Recovery};
use crate::metadata::{Change, Picture};

impl MetadataReplica {
    /// From now on this node's leaders stamp that version.
    pub(super) fn agree(&self, version: u16) {
        let versions = &self.setup.io.versions;
        if version > versions.agreed() {
            tracing::info!(
                version,
                supported = versions.supported(),
                "the cluster's entries are of a new version"
            );
            versions.agree(version);
        }
    }

    /// Has the version of entries raised that every node of the cluster knows.
    pub(super) fn raise_version(&mut self) {
        let core = self.shell.core();
        let picture = core.machine().picture();
        let own = picture.nodes.get(&self.setup.announce.0.node);
        if own.is_some_and(|own| own.live && own.version != self.setup.io.versions.supported()) {
            // A state that came from an older build does not say.
            self.announce();
            return;
        }
        let members: Vec<NodeId> = core.members().iter().chain(core.learners()).copied().collect();
        let version = picture.supported(&members);
        if self.role == Role::Leader && version > picture.version() {
            let nodes = picture.nodes.values().map(|node| node.run).collect();
            self.setup.client.submit_later(Change::RaiseVersion { version, nodes });
        }
    }

    /// Whether the cluster has removed this node for good.
    pub fn is_forgotten(&self) -> bool {
        let picture = self.setup.client.view().picture();
        picture.is_forgotten(self.setup.directory.node(), self.setup.io.directory)
    }

    /// Whether what an operator decided when the majority was lost is still to be agreed on.
    pub(super) fn recovers(&self, picture: &Picture) -> Option<&Recovery> {
        let recovery = self.setup.recovery.as_ref();
        recovery.filter(|recovery| recovery.cluster_id != picture.cluster_id())
    }

    /// Tells the transport which nodes there are: those that were known before the metadata, and those of the metadata.
    pub(super) fn tell_nodes(&self) {
        let picture = self.setup.client.view().picture();
        let own = self.setup.directory.node();
        let has_joined = |node| picture.node(node).is_some_and(|known| known.joined > 0);
        let mut peers = self.setup.peers.clone();
        // Where a node is that joined, the cluster has agreed on; and one that joined was told of others only once.
        peers.retain(|peer| {
            let is_agreed = picture.node(peer.node).is_some() && (has_joined(peer.node) || has_joined(own));
            let is_back = |met| has_come_back(&picture, met);
            let is_gone = picture.is_gone(peer.node) && !self.met.get(&peer.node).is_some_and(is_back);
            !is_gone && !is_agreed
        });
        for (node, known) in picture.nodes() {
            if !peers.iter().any(|peer| peer.node == node) {
                peers.push(Peer {
                    node,
                    name: known.name.clone(),
                    address: known.address.clone(),
                });
            }
        }
        let recovery = self.recovers(&picture);
        let is_left = |node| recovery.is_none_or(|recovery| recovery.survivors.contains(&node));
        peers.retain(|peer| peer.node != own && is_left(peer.node));
        let forgotten = picture.forgotten().map(|(node, forgotten)| (node, forgotten.until));
        let transport = &self.setup.io.transport;
        transport.set_forgotten(forgotten.collect());
        transport.set_peers(peers);
    }

    /// Brings the metadata's group to the nodes of the cluster, if this one leads it. Those that are not there yet do not
    /// keep others from leaving.
    pub(super) fn steer(&mut self) {
        if self.role != Role::Leader {
            return;
        }
        let core = self.shell.core();
        let picture = core.machine().picture();
        let is_up = |node: &NodeId| self.peers.get(node).is_some_and(|state| state.is_up());
        let nodes = picture.nodes().map(|(node, _)| node).filter(is_up);
        let mut wanted: Vec<NodeId> = core.members().iter().copied().chain(nodes).collect();
        wanted.retain(|node| !picture.is_gone(*node));
        wanted.sort_unstable();
        wanted.dedup();
        let goal = Goal {
            voters: &wanted,
            leader: 0,
            era: picture.nodes_era(),
        };
        self.shell.steer(&goal, &wanted);
    }

    /// Whether this node drains.
    pub fn drains(&self) -> bool {
        let own = self.setup.directory.node();
        let picture = self.setup.client.view().picture();
        picture.nodes().any(|(node, known)| node == own && known.draining)
    }

    /// A draining node does not lead the metadata if another one can.
    pub(super) fn hand_over(&mut self) {
        if self.role != Role::Leader || !self.drains() {
            return;
        }
        let picture = self.setup.client.view().picture();
        let own = self.setup.directory.node();
        let core = self.shell.core();
        let drains = |node: NodeId| picture.nodes().any(|(id, known)| id == node && known.draining);
        let can = |node: &NodeId| *node != own && !drains(*node) && core.has_caught_up(*node);
        if let Some(heir) = core.members().iter().copied().find(can) {
            self.shell.handle(Event::TransferLeader(heir));
        }
    }
}
