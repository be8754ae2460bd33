//! How everything else on this node changes the metadata.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use actix::prelude::*;
use bytes::Bytes;
use tokio::sync::oneshot;
use warren_cluster::GroupId;

use super::{Change, Outcome, Request, View};
use crate::directory::Directory;
use crate::mailbox::{Mailbox, Post};

/// The change may or may not take effect: no majority answered in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the metadata group did not answer in time")]
pub struct Unavailable;

/// What the metadata actor is asked by its own node.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Submit {
    /// Names the waiter.
    pub request: Request,
    /// The command as it goes into the log.
    pub command: Bytes,
    /// Told once the change is applied here and on every reachable node; dropped when that took too long.
    pub answer: Option<oneshot::Sender<Outcome>>,
}

/// A handle on this node's replica of the metadata. Clones are the same handle.
#[derive(Clone)]
pub struct MetadataClient {
    view: View,
    directory: Arc<Directory>,
    actor: Post<Submit>,
    next: Arc<AtomicU64>,
}

impl MetadataClient {
    /// A handle on that actor.
    pub fn new(view: View, directory: Arc<Directory>, actor: impl Mailbox<Submit> + 'static) -> Self {
        Self {
            view,
            directory,
            actor: Arc::new(actor),
            next: Arc::new(AtomicU64::new(1)),
        }
    }

    /// What is known now.
    pub fn view(&self) -> &View {
        &self.view
    }

    fn request(&self) -> Request {
        Request {
            node: self.directory.node(),
            incarnation: self.directory.incarnation(),
            id: self.next.fetch_add(1, Ordering::Relaxed),
        }
    }

    /// Makes a change; resolves when it is applied on this node and on every reachable one, so that whoever is told
    /// of it finds it wherever they ask.
    pub async fn submit(&self, change: Change) -> Result<Outcome, Unavailable> {
        self.ask(change).await.map_err(|_| Unavailable)
    }

    /// The same for whoever does not wait in place: the outcome comes through the receiver, which ends without one
    /// where [`MetadataClient::submit`] would fail.
    pub fn ask(&self, change: Change) -> oneshot::Receiver<Outcome> {
        let (answer, outcome) = oneshot::channel();
        let request = self.request();
        let command = change.encode(request);
        // Bounded by the channels and operators' calls of this node: each waits for its answer.
        self.actor.always(Submit {
            request,
            command,
            answer: Some(answer),
        });
        outcome
    }

    /// Makes a change that nobody waits for and that is asked for again if it is lost.
    pub fn submit_later(&self, change: Change) {
        let request = self.request();
        let command = change.encode(request);
        // Bounded by what happens to nodes and queues, not by what clients send.
        self.actor.always(Submit {
            request,
            command,
            answer: None,
        });
    }

    /// The queue has ended: takes it out of the metadata.
    pub fn remove_queue(&self, group: GroupId) {
        self.submit_later(Change::DeleteQueue { group });
    }
}
