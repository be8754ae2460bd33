//! Which queues' replicas run on this node: those that the metadata place here begin, others end, and what an earlier life
//! of the node left is retired.

use std::sync::Arc;

use warren_cluster::GroupId;
use warren_cluster::log::{Write, writer};
use warren_proto::node::{ReplicaIs, node_message::Kind};

use super::{GROUP, MetadataReplica};
use crate::directory::Inbound;
use crate::metadata::{Placement, Queue};

impl MetadataReplica {
    /// This run is among the nodes, and everything that was agreed on before is known here.
    pub(super) fn has_been_taken_in(&mut self) {
        if std::mem::replace(&mut self.joined, true) {
            return;
        }
        // Those who wait for what is shown from now on look again.
        self.drains.push(self.setup.directory.node());
        let picture = self.shell.core().machine().picture();
        let Ok(groups) = self.setup.io.store.groups() else {
            return;
        };
        // Their queues were deleted while this node was away. What this run has begun ends in its own time, and may be about
        // to.
        let begun = std::mem::take(&mut self.begun);
        for group in groups {
            if group == GROUP || begun.contains(&group) {
                continue;
            }
            match picture.queue_by_group(group) {
                None => self.write(vec![Write::DropGroup { group }], None),
                // It begins with this round.
                Some(queue) if queue.replicas().contains(&self.setup.directory.node()) => {}
                // The queue went elsewhere meanwhile.
                Some(_) => self.retire_stored(group),
            }
        }
    }

    /// The replica that is stored here, and does not run, was removed from its group.
    fn retire_stored(&self, group: GroupId) {
        match warren_cluster::group::retire(&*self.setup.io.store, group) {
            Ok(writes) if writes.is_empty() => {}
            Ok(writes) => {
                self.setup.directory.retire(group);
                let done = writer::Done {
                    listener: self.setup.directory.clone(),
                    group,
                    number: 0,
                };
                self.write(writes, Some(done));
            }
            Err(error) => tracing::warn!(group, %error, "what a removed replica left cannot be read"),
        }
    }

    /// Whether the queue went on without what is stored here.
    fn was_given_up(&self, queue: &Queue) -> bool {
        if queue.reformed() == 0 || queue.founders().contains(&self.setup.directory.node()) {
            return false;
        }
        let stored = self.setup.io.store.state(queue.group).ok().flatten();
        stored.is_some_and(|state| !state.removed && state.reformed < queue.reformed())
    }

    /// What a removed replica of a queue left here is of no use when the queue is no more.
    pub(super) fn drop_legacy(&mut self, group: GroupId) {
        if self.setup.directory.is_retiring(group) {
            self.dropping.insert(group);
        } else if let Ok(Some(_)) = self.setup.io.store.state(group) {
            self.write(vec![Write::DropGroup { group }], None);
        }
    }

    /// Ends the queues that are no more, and answers those of this node that do not run yet.
    pub(super) fn start_and_end_queues(&mut self) -> Vec<Arc<Queue>> {
        for group in std::mem::take(&mut self.gone) {
            self.setup.directory.queue_gone(group);
        }
        for queue in std::mem::take(&mut self.configured) {
            // One that runs here and is not known yet finds its settings in the view when it begins.
            if let Some(mailbox) = self.setup.directory.mailbox(queue.group) {
                // One message for each queue that an operator's change concerns.
                mailbox.always(Inbound::Configured(queue));
            }
        }
        let directory = self.setup.directory.clone();
        for group in std::mem::take(&mut self.reformed) {
            // What the queue had answered may be lost: nobody is to rely on it.
            directory.end_users(group, "a queue has gone on without the majority of its replicas");
        }
        let node = directory.node();
        let run = self.setup.announce.0;
        let mut started = Vec::new();
        for queue in std::mem::take(&mut self.declared) {
            let group = queue.group;
            let here = match &queue.placement {
                Placement::Replicated { replicas, .. } => replicas.contains(&node) && !queue.is_lost(),
                Placement::Transient { home } => *home == run,
            };
            self.delayed.remove(&group);
            let runs = self.queues.get(&group).copied();
            let was_given_up = self.was_given_up(&queue);
            if was_given_up {
                // Sessions may have ended whose end only those know that were given up.
                for other in queue.replicas().iter().filter(|other| **other != node) {
                    directory.tell(*other, Kind::ReplicaIs(ReplicaIs { group, era: 0 }));
                }
            }
            match (here, runs.is_some()) {
                // It may have been declared and placed in one round.
                (true, false) if directory.is_retiring(group) => drop(self.delayed.insert(group, queue)),
                // What is here was given up, and must not come back with a later decision: it begins anew.
                (true, runs) if was_given_up => {
                    if runs {
                        self.queues.remove(&group);
                        directory.replica_removed(group);
                    } else {
                        self.retire_stored(group);
                    }
                    self.delayed.insert(group, queue);
                }
                (true, false) => {
                    // What is stored may have come by a later decision than the one that is being followed up.
                    let stored = self.setup.io.store.state(group).ok().flatten();
                    let stored = stored.filter(|state| !state.removed).map(|state| state.era);
                    self.queues.insert(group, stored.unwrap_or_else(|| queue.era()));
                    if !self.joined {
                        self.begun.insert(group);
                    }
                    started.push(queue);
                }
                (true, true) if queue.is_transient() => {}
                (true, true) => directory.placed(queue),
                // That it was to leave once, before it came again, is known already.
                (false, true) if runs.is_some_and(|runs| queue.era() < runs) => {}
                (false, true) => {
                    self.queues.remove(&group);
                    directory.replica_removed(group);
                }
                (false, false) => {}
            }
        }
        if self.joined {
            directory.caught_up();
        }
        for drained in std::mem::take(&mut self.drains) {
            for mailbox in directory.mailboxes() {
                // One message for each group and change.
                mailbox.always(Inbound::Drains(drained));
            }
        }
        started
    }
}
