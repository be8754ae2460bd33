//! Exclusive queues that outlived their connections.
//!
//! A connection has its exclusive queues deleted when it ends, once. Where that is lost, because no majority was there
//! or because a declaration took effect after it, the queues would be locked for as long as their node runs. So the
//! node looks now and then for exclusive queues of its own run whose session is no more, and has them deleted until
//! they are.

use std::collections::BTreeMap;

use tokio::sync::oneshot::{self, error::TryRecvError};
use warren_proto::record::SessionId;

use super::{Outcome, Picture, Run};

/// Sessions whose queues may be on their way out at the same time; the others' turn comes with a later sweep.
const ASKED_MAX: usize = 256;

/// See the module.
pub(super) struct Orphans {
    run: Run,
    /// Sessions whose end was submitted and has no outcome yet.
    asked: BTreeMap<SessionId, oneshot::Receiver<Outcome>>,
}

impl Orphans {
    /// Of the sessions of `run`.
    pub(super) fn new(run: Run) -> Self {
        Self {
            run,
            asked: BTreeMap::new(),
        }
    }

    /// Has the queues of sessions that do not live ended, which `end` submits. What it submitted in an earlier sweep is
    /// submitted again when it has an outcome, or can have none, and the queues are still there.
    pub(super) fn sweep(
        &mut self,
        picture: &Picture,
        lives: impl Fn(SessionId) -> bool,
        end: impl Fn(SessionId) -> oneshot::Receiver<Outcome>,
    ) {
        self.asked
            .retain(|_, outcome| matches!(outcome.try_recv(), Err(TryRecvError::Empty)));
        for owner in picture.exclusive_owners(self.run) {
            if self.asked.len() >= ASKED_MAX {
                return;
            }
            if !lives(owner) && !self.asked.contains_key(&owner) {
                tracing::info!(
                    session = owner.id,
                    "exclusive queues outlived their connection and are deleted"
                );
                self.asked.insert(owner, end(owner));
            }
        }
    }
}
