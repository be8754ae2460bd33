//! The mailboxes of one run of one node, in place of its actors'.

use std::collections::{BTreeMap, VecDeque};
use std::fmt;
use std::sync::{Arc, Mutex};

use warren_broker::directory::{Inbound, SessionEvent};
use warren_broker::mailbox::{Mailbox, Refused};
use warren_broker::metadata::Queue;
use warren_broker::metadata::client::Submit;
use warren_broker::metadata::replica::News;
use warren_cluster::GroupId;

/// Whose mailbox.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Target {
    Metadata,
    Queue(GroupId),
    /// By the simulation's own number for the connection.
    Session(u64),
}

/// What waits in a mailbox.
pub(crate) enum Letter {
    Inbound(Inbound),
    Submit(Submit),
    News(News),
    Session(SessionEvent),
    /// The queue's actor is to begin.
    Begin(Arc<Queue>),
}

#[derive(Default)]
struct State {
    boxes: BTreeMap<Target, VecDeque<Letter>>,
    /// Boxes that were empty and are not any more.
    filled: Vec<Target>,
    closed: Vec<Target>,
}

/// See the module.
pub(crate) struct Boxes {
    capacity: usize,
    state: Mutex<State>,
}

impl Boxes {
    pub(crate) fn new(capacity: usize) -> Arc<Self> {
        Arc::new(Self {
            capacity,
            state: Mutex::default(),
        })
    }

    pub(crate) fn slot(self: &Arc<Self>, target: Target) -> Slot {
        Slot {
            boxes: self.clone(),
            target,
        }
    }

    /// Takes the oldest letter, and says whether others wait behind it.
    pub(crate) fn take(&self, target: Target) -> (Option<Letter>, bool) {
        let mut state = self.state.lock().expect("one thread");
        let Some(letters) = state.boxes.get_mut(&target) else {
            return (None, false);
        };
        let letter = letters.pop_front();
        (letter, !letters.is_empty())
    }

    /// Has a queue's actor begin, before anything else that it is told.
    pub(crate) fn begin(&self, queue: Arc<Queue>) {
        let target = Target::Queue(queue.group);
        // It may have been here before, and have gone elsewhere in between.
        self.state
            .lock()
            .expect("one thread")
            .closed
            .retain(|closed| *closed != target);
        let _ = self.put(target, Letter::Begin(queue), false);
    }

    pub(crate) fn take_filled(&self) -> Vec<Target> {
        std::mem::take(&mut self.state.lock().expect("one thread").filled)
    }

    /// Its owner has ended.
    pub(crate) fn close(&self, target: Target) {
        let mut state = self.state.lock().expect("one thread");
        state.boxes.remove(&target);
        state.closed.push(target);
    }

    fn put(&self, target: Target, letter: Letter, bounded: bool) -> Result<(), Refused> {
        let capacity = self.capacity;
        let mut state = self.state.lock().expect("one thread");
        if state.closed.contains(&target) {
            return Err(Refused::Closed);
        }
        let letters = state.boxes.entry(target).or_default();
        if bounded && letters.len() >= capacity {
            return Err(Refused::Full);
        }
        let first = letters.is_empty();
        letters.push_back(letter);
        if first {
            state.filled.push(target);
        }
        Ok(())
    }
}

/// The way to one of them.
#[derive(Clone)]
pub(crate) struct Slot {
    boxes: Arc<Boxes>,
    target: Target,
}

impl fmt::Debug for Slot {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.target.fmt(formatter)
    }
}

macro_rules! takes {
    ($($message:ty => $letter:path),*) => {$(
        impl Mailbox<$message> for Slot {
            fn offer(&self, message: $message) -> Result<(), Refused> {
                self.boxes.put(self.target, $letter(message), true)
            }

            fn always(&self, message: $message) {
                // Gone with an owner that has ended.
                let _ = self.boxes.put(self.target, $letter(message), false);
            }
        }
    )*};
}

takes!(Inbound => Letter::Inbound, Submit => Letter::Submit, News => Letter::News, SessionEvent => Letter::Session);
