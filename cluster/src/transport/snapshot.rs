//! Snapshots between nodes: each on a connection of its own, in fragments of about a MiB, one part at a time.
//!
//! Sources and sinks run on threads that may block; what is between them and the stream is two messages long.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use bytes::Bytes;
use prost::Message as _;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Code, Status, Streaming};
use warren_proto::transport as wire;
use wire::{SnapshotEnd, snapshot_part, snapshot_request, snapshot_response};

use super::greeting::{self, Unopened};
use super::grpc::{Failure, Link, Shared};
use super::handshake::{Caller, Proven, Purpose};
use super::listener::Meter;
use super::queue::{BATCH_LEN, whole};
use super::{BoxError, Inbox, OutgoingSnapshot, PAYLOAD_LEN_MAX, SnapshotError, SnapshotOffer, SnapshotPart};
use crate::NodeId;

type Tell = Box<dyn FnOnce(Result<(), SnapshotError>) + Send>;
type Chunks = Box<dyn Iterator<Item = Result<SnapshotPart, BoxError>> + Send>;

/// Tells the outcome once, whatever becomes of the task that holds it.
struct Done(Option<Tell>);

impl Done {
    fn tell(mut self, outcome: Result<(), SnapshotError>) {
        if let Some(done) = self.0.take() {
            done(outcome);
        }
    }
}

impl Drop for Done {
    fn drop(&mut self) {
        if let Some(done) = self.0.take() {
            done(Err(SnapshotError::ShutDown));
        }
    }
}

/// Waits for its turn, then sends.
pub(super) fn send(shared: &Arc<Shared>, to: NodeId, snapshot: OutgoingSnapshot) {
    let OutgoingSnapshot {
        group,
        message,
        chunks,
        done,
    } = snapshot;
    let done = Done(Some(done));
    if shared.link(to).is_none() {
        return done.tell(Err(SnapshotError::NoPeer));
    }
    let bound = shared.options.snapshots_max + shared.options.snapshots_waiting_max;
    if shared.snapshots_waiting.fetch_add(1, Ordering::Relaxed) >= bound {
        shared.snapshots_waiting.fetch_sub(1, Ordering::Relaxed);
        return done.tell(Err(SnapshotError::Busy));
    }
    let owned = Arc::clone(shared);
    shared.runtime.spawn(async move {
        let header = wire::SnapshotHeader { group, message };
        let outcome = match (owned.snapshots_out.acquire().await, owned.link(to)) {
            (Ok(_permit), Some(link)) => transfer(&owned, &link, header, chunks).await,
            (Err(_), _) => Err(SnapshotError::ShutDown),
            (Ok(_), None) => Err(SnapshotError::NoPeer),
        };
        owned.snapshots_waiting.fetch_sub(1, Ordering::Relaxed);
        if let Err(error) = &outcome {
            tracing::info!(group, %error, "a snapshot was not installed");
        }
        done.tell(outcome);
    });
}

async fn transfer(
    shared: &Arc<Shared>,
    link: &Link,
    header: wire::SnapshotHeader,
    chunks: Chunks,
) -> Result<(), SnapshotError> {
    let name = link.peer.name.clone();
    let limit = Duration::from_millis(shared.options.handshake_ms);
    let (requests_tx, requests_rx) = mpsc::channel(2);
    let opening = async {
        let mut client = shared.connect(&link.peer.address).await?;
        let caller = Caller::node(&shared.identity, Purpose::Snapshot, &link.peer.name, link.peer.node);
        let _room = requests_tx
            .send(greeting::hello::<wire::SnapshotRequest>(&caller))
            .await;
        let mut responses = client.snapshot(ReceiverStream::new(requests_rx)).await?.into_inner();
        let admit = |proven: &Proven| shared.check_forgotten(proven);
        greeting::introduce(caller, &requests_tx, &mut responses, admit).await?;
        Ok::<_, Unopened>(responses)
    };
    let mut responses = match tokio::time::timeout(limit, opening).await {
        Ok(Ok(responses)) => responses,
        Ok(Err(Unopened::Refused(refusal))) => {
            return Err(SnapshotError::Refused(
                name,
                format!("it was refused itself: {refusal}"),
            ));
        }
        Ok(Err(Unopened::Forgotten(reason))) => return Err(SnapshotError::Refused(name, reason)),
        Ok(Err(Unopened::Failed(failure))) => return Err(failed(name, failure)),
        Err(_elapsed) => return Err(SnapshotError::Broken(name, "the handshake took too long".to_owned())),
    };
    let moved = Arc::new(AtomicU64::new(0));
    let counter = Arc::clone(&moved);
    let mut source = tokio::task::spawn_blocking(move || feed(header, chunks, &requests_tx, &counter));
    let stall = Duration::from_millis(shared.options.snapshot_stall_ms);
    let mut fed = false;
    loop {
        let before = moved.load(Ordering::Relaxed);
        tokio::select! {
            // A source that failed is why the peer gives up, so it is looked at first.
            biased;
            outcome = &mut source, if !fed => match outcome {
                Ok(Ok(())) => fed = true,
                Ok(Err(error)) => return Err(error),
                Err(_) => return Err(SnapshotError::Source("it panicked".into())),
            },
            response = responses.message() => return match response {
                Ok(Some(wire::SnapshotResponse { kind: Some(snapshot_response::Kind::Installed(true)) })) => Ok(()),
                Ok(_) => Err(SnapshotError::Broken(name, "it ended before the snapshot was installed".to_owned())),
                Err(status) => Err(failed(name, Failure::from(status))),
            },
            () = tokio::time::sleep(stall) => {
                if moved.load(Ordering::Relaxed) == before {
                    return Err(SnapshotError::Stalled(name, stall.as_secs()));
                }
            }
        }
    }
}

fn failed(name: String, failure: Failure) -> SnapshotError {
    match failure.code {
        Some(Code::ResourceExhausted) => SnapshotError::Busy,
        Some(Code::PermissionDenied | Code::FailedPrecondition | Code::InvalidArgument) => {
            SnapshotError::Refused(name, failure.text)
        }
        _ => SnapshotError::Broken(name, failure.text),
    }
}

/// Runs on a thread that may block. When the stream is gone it stops; the stream's side knows why.
fn feed(
    header: wire::SnapshotHeader,
    chunks: Chunks,
    requests: &mpsc::Sender<wire::SnapshotRequest>,
    moved: &AtomicU64,
) -> Result<(), SnapshotError> {
    let push = |kind| {
        moved.fetch_add(1, Ordering::Relaxed);
        requests
            .blocking_send(wire::SnapshotRequest { kind: Some(kind) })
            .is_ok()
    };
    if header.message.len() > BATCH_LEN {
        return Err(SnapshotError::Source(
            "the message that announces it is too long".into(),
        ));
    }
    if !push(snapshot_request::Kind::Header(header)) {
        return Ok(());
    }
    let mut end = SnapshotEnd::default();
    for part in chunks {
        let kind = match part.map_err(SnapshotError::Source)? {
            SnapshotPart::State(chunk) => {
                end.state_len += chunk.len() as u64;
                snapshot_part::Kind::State(chunk)
            }
            SnapshotPart::Entries(entries) => {
                end.entry_count += entries.len() as u64;
                snapshot_part::Kind::Entries(wire::SnapshotEntries { entries })
            }
        };
        let part = wire::SnapshotPart { kind: Some(kind) };
        if part.encoded_len() > PAYLOAD_LEN_MAX {
            return Err(SnapshotError::Source("a part is too long".into()));
        }
        let mut encoded = Bytes::from(part.encode_to_vec());
        while !encoded.is_empty() {
            let data = encoded.split_to(encoded.len().min(BATCH_LEN));
            let fragment = wire::Fragment {
                data,
                rest: encoded.len() as u64,
            };
            if !push(snapshot_request::Kind::Fragment(fragment)) {
                return Ok(());
            }
        }
    }
    push(snapshot_request::Kind::End(end));
    Ok(())
}

/// A peer sends a snapshot: judges it, then hands the parts to the inbox's sink.
pub(super) async fn serve(
    shared: Arc<Shared>,
    meter: Arc<Meter>,
    mut requests: Streaming<wire::SnapshotRequest>,
    responses: mpsc::Sender<Result<wire::SnapshotResponse, Status>>,
) {
    let Some(proven) = greeting::receive(&shared, Purpose::Snapshot, &meter, &mut requests, &responses).await else {
        return;
    };
    let installed = match Arc::clone(&shared.snapshots_in).try_acquire_owned() {
        Ok(_permit) => receive(&shared, proven.node, &mut requests).await,
        Err(_) => Err(Status::resource_exhausted("too many snapshots are under way")),
    };
    if let Err(status) = &installed {
        tracing::info!(peer = %proven.name, reason = status.message(), "a snapshot was not installed");
    }
    let response = installed.map(|()| wire::SnapshotResponse {
        kind: Some(snapshot_response::Kind::Installed(true)),
    });
    // Whoever has gone needs no answer.
    let _gone = responses.send(response).await;
}

/// What the thread with the sink is handed.
enum Step {
    Part(Bytes),
    End(SnapshotEnd),
}

async fn receive(
    shared: &Arc<Shared>,
    from: NodeId,
    requests: &mut Streaming<wire::SnapshotRequest>,
) -> Result<(), Status> {
    let stall = Duration::from_millis(shared.options.snapshot_stall_ms);
    let Some(snapshot_request::Kind::Header(header)) = next(requests, stall).await? else {
        return Err(Status::invalid_argument("a snapshot begins with its header"));
    };
    let offer = SnapshotOffer {
        group: header.group,
        message: header.message,
    };
    let inbox = Arc::clone(&shared.inbox);
    let (steps_tx, steps_rx) = mpsc::channel(2);
    let sink = tokio::task::spawn_blocking(move || drain(inbox.as_ref(), from, offer, steps_rx));
    let passed = pass(requests, &steps_tx, stall).await;
    // Without an end, the sink is dropped.
    drop(steps_tx);
    let sunk = sink
        .await
        .map_err(|_| Status::failed_precondition("its sink panicked"))?;
    match (sunk, passed) {
        (Ok(true), _) => Ok(()),
        (Err(error), _) => Err(Status::failed_precondition(error.to_string())),
        (Ok(false), Err(status)) => Err(status),
        (Ok(false), Ok(())) => Err(Status::aborted("it ended early")),
    }
}

async fn pass(
    requests: &mut Streaming<wire::SnapshotRequest>,
    steps: &mpsc::Sender<Step>,
    stall: Duration,
) -> Result<(), Status> {
    let mut begun: Option<(Vec<u8>, u64)> = None;
    loop {
        let fragment = match next(requests, stall).await? {
            Some(snapshot_request::Kind::Fragment(fragment)) => fragment,
            Some(snapshot_request::Kind::End(end)) if begun.is_none() => {
                let _gone = steps.send(Step::End(end)).await;
                return Ok(());
            }
            Some(_) => return Err(Status::invalid_argument("it sent what is not due")),
            None => return Err(Status::aborted("it ended early")),
        };
        let wire::Fragment { data, rest } = fragment;
        let unfitting = || Status::invalid_argument("a part came in fragments that do not fit");
        let part = match begun.take() {
            None if rest == 0 => data,
            None => {
                let mut part = Vec::with_capacity(whole(data.len(), rest).ok_or_else(unfitting)?);
                part.extend_from_slice(&data);
                begun = Some((part, rest));
                continue;
            }
            Some((mut part, due)) => {
                if data.is_empty() || due.checked_sub(data.len() as u64) != Some(rest) {
                    return Err(unfitting());
                }
                part.extend_from_slice(&data);
                if rest > 0 {
                    begun = Some((part, rest));
                    continue;
                }
                Bytes::from(part)
            }
        };
        if steps.send(Step::Part(part)).await.is_err() {
            // The sink refused; it says why.
            return Ok(());
        }
    }
}

async fn next(
    requests: &mut Streaming<wire::SnapshotRequest>,
    stall: Duration,
) -> Result<Option<snapshot_request::Kind>, Status> {
    match tokio::time::timeout(stall, requests.message()).await {
        Ok(request) => Ok(request?.and_then(|request| request.kind)),
        Err(_elapsed) => Err(Status::deadline_exceeded("nothing came for too long")),
    }
}

/// Runs on a thread that may block. `Ok(false)`: the parts ended early, and the sink was dropped.
fn drain(
    inbox: &dyn Inbox,
    from: NodeId,
    offer: SnapshotOffer,
    mut steps: mpsc::Receiver<Step>,
) -> Result<bool, BoxError> {
    let mut sink = inbox.snapshot_begin(from, offer)?;
    let mut seen = SnapshotEnd::default();
    while let Some(step) = steps.blocking_recv() {
        match step {
            Step::Part(encoded) => match wire::SnapshotPart::decode(encoded)?.kind {
                Some(snapshot_part::Kind::State(chunk)) => {
                    seen.state_len += chunk.len() as u64;
                    sink.state(chunk)?;
                }
                Some(snapshot_part::Kind::Entries(batch)) => {
                    seen.entry_count += batch.entries.len() as u64;
                    sink.entries(batch.entries)?;
                }
                None => return Err("a part of an unknown kind".into()),
            },
            Step::End(end) if end == seen => {
                sink.finish(end)?;
                return Ok(true);
            }
            Step::End(_) => return Err("its end disagrees with what came".into()),
        }
    }
    Ok(false)
}
