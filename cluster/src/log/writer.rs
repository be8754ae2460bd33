//! One thread per node that brings what every group wants persisted to the disk.
//!
//! It takes all that is waiting, up to [`BATCH_BYTES_MAX`], writes it as one batch, syncs once if any of it asks for
//! that, and then reports every request in the order of submission. While it writes, the next batch gathers: the
//! slower the disk, the larger the batches.
//!
//! A failure is final. It is reported once, nothing is tried again, and nothing more is accepted.

use std::collections::VecDeque;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::atomic::{AtomicUsize, Ordering};
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use std::thread::JoinHandle;

use super::{Error, LogStore, Write};
use crate::GroupId;

/// A batch is closed once it has reached this size.
pub const BATCH_BYTES_MAX: usize = 8 << 20;

/// What one group wants persisted: all of it or nothing of it.
pub struct Request {
    /// Carried out in order, after those of every earlier request.
    pub writes: Vec<Write>,
    /// Whether the writes must be on the disk before `done`.
    pub sync: bool,
    /// Whom to tell.
    pub done: Option<Done>,
}

/// Whom to tell that a request was persisted.
#[derive(Clone)]
pub struct Done {
    /// Called on the writer's thread.
    pub listener: Arc<dyn Persisted>,
    /// Passed through.
    pub group: GroupId,
    /// Passed through.
    pub number: u64,
}

/// Hears that a request was persisted.
pub trait Persisted: Send + Sync {
    /// Called once per request, in the order of submission. Runs on the writer's thread: must not wait.
    fn persisted(&self, group: GroupId, number: u64);
}

/// The writer no longer accepts requests: it was stopped, or it failed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the log writer has stopped")]
pub struct Stopped;

/// Takes requests, carries them out in order and reports each: [`Writer`], or what stands in for it in a simulation.
pub trait Submit: Send + Sync {
    /// Queues a request; never waits for the disk.
    fn submit(&self, request: Request) -> Result<(), Stopped>;
}

/// Counters since the start.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Stats {
    /// Requests persisted.
    pub requests: u64,
    /// Batches written.
    pub batches: u64,
    /// Batches that were synced.
    pub syncs: u64,
    /// About how many bytes were written.
    pub bytes: u64,
}

/// The thread and its queue. Dropping it is [`Writer::stop`].
pub struct Writer {
    shared: Arc<Shared>,
    thread: Mutex<Option<JoinHandle<()>>>,
}

impl Writer {
    /// Starts the thread. `on_fatal` is called on it, at most once.
    ///
    /// # Errors
    /// [`Error::Io`] when the system gives no thread.
    pub fn start(store: Arc<dyn LogStore>, on_fatal: impl FnOnce(Error) + Send + 'static) -> Result<Self, Error> {
        let shared = Arc::new(Shared::default());
        let thread = std::thread::Builder::new()
            .name("log-writer".into())
            .spawn({
                let shared = shared.clone();
                move || run(&shared, &*store, on_fatal)
            })
            .map_err(|error| Error::Io(format!("no thread for the log writer: {error}")))?;
        Ok(Self {
            shared,
            thread: Mutex::new(Some(thread)),
        })
    }

    /// See [`Submit::submit`].
    ///
    /// The queue has no bound of its own: callers bound what they have in flight, with [`Writer::pending_bytes`].
    pub fn submit(&self, request: Request) -> Result<(), Stopped> {
        let bytes = request.writes.iter().map(Write::len).sum::<usize>();
        let mut queue = self.shared.lock();
        if queue.stopped {
            return Err(Stopped);
        }
        self.shared.pending_bytes.fetch_add(bytes, Ordering::Relaxed);
        queue.waiting.push_back((request, bytes));
        // Waking a thread costs a system call: only where it sleeps.
        if std::mem::take(&mut queue.asleep) {
            drop(queue);
            self.shared.wake.notify_one();
        }
        Ok(())
    }

    /// Bytes submitted and not yet reported.
    pub fn pending_bytes(&self) -> usize {
        self.shared.pending_bytes.load(Ordering::Relaxed)
    }

    /// Counters since the start.
    pub fn stats(&self) -> Stats {
        self.shared.lock().stats
    }

    /// Accepts no more, persists and reports what is waiting, and returns when the thread has ended.
    /// Must not be called from a [`Persisted`] or from `on_fatal`.
    pub fn stop(&self) {
        self.shared.lock().stopped = true;
        self.shared.wake.notify_one();
        let thread = self.thread.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(thread) = thread
            && thread.join().is_err()
        {
            tracing::error!("on_fatal of the log writer panicked");
        }
    }
}

impl Submit for Writer {
    fn submit(&self, request: Request) -> Result<(), Stopped> {
        Self::submit(self, request)
    }
}

impl Drop for Writer {
    fn drop(&mut self) {
        self.stop();
    }
}

#[derive(Default)]
struct Shared {
    queue: Mutex<Queue>,
    wake: Condvar,
    pending_bytes: AtomicUsize,
}

#[derive(Default)]
struct Queue {
    waiting: VecDeque<(Request, usize)>,
    asleep: bool,
    stopped: bool,
    stats: Stats,
}

impl Shared {
    fn lock(&self) -> MutexGuard<'_, Queue> {
        self.queue.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// What is written and synced at once.
#[derive(Default)]
struct Batch {
    writes: Vec<Write>,
    done: Vec<Done>,
    requests: u64,
    bytes: usize,
    sync: bool,
}

fn run(shared: &Shared, store: &dyn LogStore, on_fatal: impl FnOnce(Error)) {
    let end = catch_unwind(AssertUnwindSafe(|| write_all(shared, store)));
    let error = match end {
        Ok(Ok(())) => return,
        Ok(Err(error)) => error,
        Err(_) => Error::Io("the log writer panicked".into()),
    };
    let abandoned = {
        let mut queue = shared.lock();
        queue.stopped = true;
        std::mem::take(&mut queue.waiting)
    };
    tracing::error!(%error, requests = abandoned.len(), "the log writer failed; waiting requests are abandoned");
    on_fatal(error);
}

fn write_all(shared: &Shared, store: &dyn LogStore) -> Result<(), Error> {
    let mut batch = Batch::default();
    while next_batch(shared, &mut batch) {
        if batch.sync || !batch.writes.is_empty() {
            store.write(&batch.writes, batch.sync)?;
        }
        for done in batch.done.drain(..) {
            done.listener.persisted(done.group, done.number);
        }
        shared.pending_bytes.fetch_sub(batch.bytes, Ordering::Relaxed);
        batch.writes.clear();
    }
    Ok(())
}

/// Waits for requests and moves them into the empty `batch`. False when stopped and drained.
fn next_batch(shared: &Shared, batch: &mut Batch) -> bool {
    let mut queue = shared.lock();
    while queue.waiting.is_empty() {
        if queue.stopped {
            return false;
        }
        queue.asleep = true;
        queue = shared.wake.wait(queue).unwrap_or_else(PoisonError::into_inner);
    }
    queue.asleep = false;
    (batch.requests, batch.bytes, batch.sync) = (0, 0, false);
    while batch.bytes < BATCH_BYTES_MAX
        && let Some((request, bytes)) = queue.waiting.pop_front()
    {
        batch.writes.extend(request.writes);
        batch.done.extend(request.done);
        batch.requests += 1;
        batch.bytes += bytes;
        batch.sync |= request.sync;
    }
    queue.stats.requests += batch.requests;
    queue.stats.batches += 1;
    queue.stats.syncs += u64::from(batch.sync);
    queue.stats.bytes += batch.bytes as u64;
    true
}

#[cfg(test)]
mod tests;
