//! One stream each way between this node and a peer: the one it keeps open, and the one it is called on.

use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use futures_util::Stream;
use tokio::sync::{mpsc, oneshot};
use tonic::{Status, Streaming};
use warren_proto::transport as wire;
use wire::link_request;

use super::greeting::{self, Unopened};
use super::grpc::{Arriving, Failure, Link, Shared};
use super::handshake::{Book as _, Caller, Proven, Purpose, Refusal};
use super::listener::Meter;
use super::queue::{Joiner, Life};
use crate::liveness::Event;

/// A link that was open for so long is tried again at once when it breaks.
const STEADY_MS: u64 = 500;

/// Keeps a stream to the peer open for as long as it is one.
pub(super) async fn keep(shared: Arc<Shared>, link: Arc<Link>) {
    let mut gone = link.gone.subscribe();
    tokio::select! {
        () = keep_open(&shared, &link) => {}
        // The sending end is the link's.
        _ = gone.wait_for(|gone| *gone) => {}
    }
}

async fn keep_open(shared: &Arc<Shared>, link: &Arc<Link>) {
    let node = link.peer.node;
    let mut backoff = Backoff::default();
    loop {
        match open(shared, link).await {
            Ok(opened) => {
                let at_ms = shared.clock.now_ms();
                hold(shared, link, opened).await;
                if shared.clock.now_ms().saturating_sub(at_ms) >= STEADY_MS {
                    backoff = Backoff::default();
                    continue;
                }
            }
            Err(Unopened::Refused(refusal)) => {
                shared.complain(format!("node {:?} refuses a peer: {refusal}", shared.identity.name));
            }
            Err(Unopened::Forgotten(reason)) => {
                shared.complain(reason.clone());
                shared.inbox.forgotten(reason);
            }
            Err(Unopened::Failed(failure)) if failure.is_refusal() => {
                let (name, text) = (&link.peer.name, failure.text);
                shared.complain(format!(
                    "node {:?} was refused by {name:?}: {text}",
                    shared.identity.name
                ));
            }
            Err(Unopened::Failed(failure)) if failure.is_insecure() => {
                let (name, text) = (&link.peer.name, failure.text);
                shared.complain(format!(
                    "node {:?} has no TLS connection to {name:?}: {text}",
                    shared.identity.name
                ));
            }
            Err(Unopened::Failed(failure)) => {
                tracing::debug!(peer = %link.peer.name, reason = %failure.text, "no link");
                if failure.io == Some(std::io::ErrorKind::ConnectionRefused) {
                    shared.step(Event::Refused { node });
                }
            }
        }
        let pause = backoff.next(
            shared.options.backoff_min_ms,
            shared.options.backoff_max_ms,
            rand::random(),
        );
        tokio::select! {
            () = tokio::time::sleep(pause) => {}
            () = link.poke.notified() => {}
        }
    }
}

struct Opened {
    proven: Proven,
    responses: Streaming<wire::LinkResponse>,
    life_tx: oneshot::Sender<Life>,
}

async fn open(shared: &Arc<Shared>, link: &Arc<Link>) -> Result<Opened, Unopened> {
    let limit = Duration::from_millis(shared.options.handshake_ms);
    let opening = async {
        let mut client = shared.connect(&link.peer.address).await?;
        let caller = Caller::node(&shared.identity, Purpose::Link, &link.peer.name, link.peer.node);
        let (opening_tx, opening_rx) = mpsc::channel(2);
        let (life_tx, life_rx) = oneshot::channel();
        let _room = opening_tx.send(greeting::hello::<wire::LinkRequest>(&caller)).await;
        let requests = leaving(Arc::clone(shared), Arc::clone(link), opening_rx, life_rx);
        let mut responses = client.link(requests).await?.into_inner();
        let admit = |proven: &Proven| {
            // On whose side it is, the callee judges, and hears where this end stands.
            shared.inbox.met(proven.met.clone());
            shared.check_forgotten(proven)?;
            let stale = shared.admit(proven.node, proven.incarnation);
            stale.map_err(|stale| Refusal::Stale(proven.name.clone(), stale))
        };
        let proven = greeting::introduce(caller, &opening_tx, &mut responses, admit).await?;
        Ok(Opened {
            proven,
            responses,
            life_tx,
        })
    };
    match tokio::time::timeout(limit, opening).await {
        Ok(opened) => opened,
        Err(_elapsed) => {
            let text = "the handshake took too long".to_owned();
            Err(Unopened::Failed(Failure {
                text,
                code: None,
                io: None,
            }))
        }
    }
}

/// Lets the queue out until the stream breaks.
async fn hold(shared: &Arc<Shared>, link: &Link, opened: Opened) {
    let Opened {
        proven,
        mut responses,
        life_tx,
    } = opened;
    let (node, incarnation) = (proven.node, proven.incarnation);
    shared.step(Event::Opened { node, incarnation });
    let life = link.queue.open();
    let _gone = life_tx.send(life.clone());
    shared.inbox.link_writable(node);
    let closed_by_peer = tokio::select! {
        () = life.ended() => false,
        response = responses.message() => match response {
            // Nothing is due after the handshake, so the peer has ended the stream in either case.
            Ok(_) => true,
            Err(status) => {
                let failure = Failure::from(status);
                tracing::info!(peer = %link.peer.name, reason = %failure.text, "the link broke");
                failure.closed_by_peer()
            }
        },
    };
    shared.step(Event::Closed {
        node,
        incarnation,
        by_peer: closed_by_peer,
    });
    if link.queue.end(&life) {
        shared.inbox.link_reset(node);
    }
}

struct Leaving {
    shared: Arc<Shared>,
    link: Arc<Link>,
    opening_rx: mpsc::Receiver<wire::LinkRequest>,
    life_rx: Option<oneshot::Receiver<Life>>,
    life: Life,
}

/// What the caller sends: its part of the handshake, then what the queue holds. Ends with the queue's life.
fn leaving(
    shared: Arc<Shared>,
    link: Arc<Link>,
    opening_rx: mpsc::Receiver<wire::LinkRequest>,
    life_rx: oneshot::Receiver<Life>,
) -> impl Stream<Item = wire::LinkRequest> {
    let leaving = Leaving {
        shared,
        link,
        opening_rx,
        life_rx: Some(life_rx),
        life: Life::default(),
    };
    futures_util::stream::unfold(leaving, |mut leaving| async move {
        if leaving.life_rx.is_some()
            && let Some(opening) = leaving.opening_rx.recv().await
        {
            return Some((opening, leaving));
        }
        if let Some(life_rx) = leaving.life_rx.take() {
            leaving.life = life_rx.await.ok()?;
        }
        let envelopes = leaving.take().await?;
        let batch = link_request::Kind::Envelopes(wire::Envelopes { envelopes });
        Some((wire::LinkRequest { kind: Some(batch) }, leaving))
    })
}

impl Leaving {
    /// What waits, or nothing when nothing came for a while: the ping.
    async fn take(&self) -> Option<Vec<wire::Envelope>> {
        let idle = Duration::from_millis(self.shared.options.ping_ms);
        match tokio::time::timeout(idle, self.link.queue.take(&self.life)).await {
            Ok(Some(batch)) => {
                if batch.writable {
                    self.shared.inbox.link_writable(self.link.peer.node);
                }
                Some(batch.envelopes)
            }
            Ok(None) => None,
            Err(_elapsed) => Some(Vec::new()),
        }
    }
}

/// A peer calls: judges it, then delivers what it sends.
pub(super) async fn serve(
    shared: Arc<Shared>,
    meter: Arc<Meter>,
    mut requests: Streaming<wire::LinkRequest>,
    responses: mpsc::Sender<Result<wire::LinkResponse, Status>>,
) {
    let Some(proven) = greeting::receive(&shared, Purpose::Link, &meter, &mut requests, &responses).await else {
        return;
    };
    let (node, incarnation) = (proven.node, proven.incarnation);
    let Some(link) = shared.link(node) else { return };
    if let Err(stale) = shared.admit(node, incarnation) {
        // A newer run came while this one was proving itself.
        let _gone = responses.send(Err(Status::permission_denied(stale.to_string()))).await;
        return;
    }
    shared.step(Event::Opened { node, incarnation });
    let arriving = Arriving::new(incarnation, Arc::clone(&meter));
    if link.follow(arriving.clone()) {
        shared.inbox.link_reset(node);
    }
    link.poke.notify_one();
    let mut joiner = Joiner::default();
    let reason = loop {
        let request = tokio::select! {
            biased;
            () = arriving.superseded() => break "a newer stream took its place",
            request = requests.message() => request,
        };
        match request {
            Ok(Some(wire::LinkRequest {
                kind: Some(link_request::Kind::Envelopes(batch)),
            })) => {
                if let Err(reason) = deliver(&shared, &link, &arriving, &mut joiner, batch) {
                    break reason;
                }
            }
            Ok(Some(_)) => break "it sent what is not due",
            Ok(None) | Err(_) => break "it ended",
        }
    };
    tracing::info!(peer = %link.peer.name, reason, "a peer's stream ended");
    let by_peer = meter.closed_by_peer();
    shared.step(Event::Closed {
        node,
        incarnation,
        by_peer,
    });
    if link.leave(&arriving) {
        shared.inbox.link_reset(node);
    }
    link.poke.notify_one();
    // The other end is told, if it is still there.
    let _gone = responses.try_send(Err(Status::aborted(reason)));
}

fn deliver(
    shared: &Shared,
    link: &Link,
    arriving: &Arriving,
    joiner: &mut Joiner,
    batch: wire::Envelopes,
) -> Result<(), &'static str> {
    if !link.is_arriving(arriving) {
        return Err("a newer stream took its place");
    }
    for piece in batch.envelopes {
        let Some(envelope) = joiner
            .join(piece)
            .map_err(|_| "a long payload came in pieces that do not fit")?
        else {
            continue;
        };
        // Before it is delivered: whoever has seen it finds it counted.
        link.received.fetch_add(1, Ordering::Relaxed);
        let len = envelope.payload.len() as u64;
        link.received_bytes.fetch_add(len, Ordering::Relaxed);
        shared.inbox.deliver(link.peer.node, envelope);
    }
    Ok(())
}

/// Pauses that double, with jitter.
#[derive(Debug, Default)]
struct Backoff {
    tries: u32,
}

impl Backoff {
    /// Between half of the pause that is due and the whole of it.
    fn next(&mut self, min_ms: u64, max_ms: u64, random: u32) -> Duration {
        let due_ms = min_ms.saturating_mul(1 << self.tries.min(16)).min(max_ms);
        self.tries = self.tries.saturating_add(1);
        Duration::from_millis(due_ms / 2 + u64::from(random) % (due_ms / 2 + 1))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_bound() {
        let mut backoff = Backoff::default();
        let longest: Vec<u128> = (0..7).map(|_| backoff.next(20, 500, 0).as_millis()).collect();
        assert_eq!(longest, [10, 20, 40, 80, 160, 250, 250]);
        let mut backoff = Backoff { tries: 40 };
        for random in [0, 1, 250, 251, u32::MAX] {
            let pause = backoff.next(20, 500, random).as_millis();
            assert!((250..=500).contains(&pause), "{pause}");
        }
    }
}
