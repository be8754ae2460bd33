//! Runs the handshake over a stream, at either end of any of the three calls.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::mpsc;
use tonic::{Code, Status, Streaming};
use warren_proto::transport as wire;
use wire::{Answer, Opening, answer, opening};

use super::grpc::{Failure, Shared};
use super::handshake::{Callee, Caller, Proven, Purpose, Refusal, check_side};
use super::listener::Meter;

/// Characters of the other end's words that are logged.
const REASON_LEN_MAX: usize = 300;

/// What a caller sends.
pub(super) trait Asking: Send + 'static {
    fn open(opening: Opening) -> Self;
    fn opening(self) -> Option<Opening>;
}

/// What a callee sends.
pub(super) trait Answering: Send + 'static {
    fn of(answer: Answer) -> Self;
    fn answer(self) -> Option<Answer>;
}

macro_rules! asking {
    ($request:ident, $kind:ident) => {
        impl Asking for wire::$request {
            fn open(opening: Opening) -> Self {
                Self {
                    kind: Some(wire::$kind::Kind::Opening(opening)),
                }
            }

            fn opening(self) -> Option<Opening> {
                match self.kind {
                    Some(wire::$kind::Kind::Opening(opening)) => Some(opening),
                    _ => None,
                }
            }
        }
    };
}

macro_rules! answering {
    ($response:ident, $kind:ident) => {
        impl Answering for wire::$response {
            fn of(answer: Answer) -> Self {
                Self {
                    kind: Some(wire::$kind::Kind::Answer(answer)),
                }
            }

            fn answer(self) -> Option<Answer> {
                match self.kind {
                    Some(wire::$kind::Kind::Answer(answer)) => Some(answer),
                    _ => None,
                }
            }
        }
    };
}

asking!(LinkRequest, link_request);
asking!(SnapshotRequest, snapshot_request);
asking!(AdminRequest, admin_request);
answering!(SnapshotResponse, snapshot_response);
answering!(AdminResponse, admin_response);

impl Answering for wire::LinkResponse {
    fn of(answer: Answer) -> Self {
        Self { answer: Some(answer) }
    }

    fn answer(self) -> Option<Answer> {
        self.answer
    }
}

/// Why a call was not opened.
#[derive(Debug)]
pub(super) enum Unopened {
    /// This end refuses the other.
    Refused(Refusal),
    /// The other end refused, or could not be reached.
    Failed(Failure),
    /// A node of the cluster says that it goes on without this one for good.
    Forgotten(String),
}

impl From<Failure> for Unopened {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl From<Status> for Unopened {
    fn from(status: Status) -> Self {
        Self::Failed(Failure::from(status))
    }
}

/// The called end's part: whoever returns from it has proved itself. Refusals are said to both sides.
pub(super) async fn receive<Q: Asking, A: Answering>(
    shared: &Arc<Shared>,
    purpose: Purpose,
    meter: &Meter,
    requests: &mut Streaming<Q>,
    responses: &mpsc::Sender<Result<A, Status>>,
) -> Option<Proven> {
    let limit = Duration::from_millis(shared.options.handshake_ms);
    let received = tokio::time::timeout(limit, judge(shared, purpose, requests, responses)).await;
    match received {
        Ok(Some(Ok(proven))) => {
            meter.prove();
            let accepted = A::of(Answer {
                kind: Some(answer::Kind::Accepted(true)),
            });
            responses.send(Ok(accepted)).await.ok()?;
            Some(proven)
        }
        Ok(Some(Err(refusal))) => {
            let text = format!("node {:?} refuses a peer: {refusal}", shared.identity.name);
            shared.complain(text.clone());
            // Whoever has gone needs no answer.
            let status = match refusal {
                Refusal::Forgotten(_) | Refusal::Behind(_) => Status::failed_precondition(text),
                _ => Status::permission_denied(text),
            };
            let _gone = responses.send(Err(status)).await;
            None
        }
        Ok(None) => None,
        Err(_elapsed) => {
            let _gone = responses
                .send(Err(Status::deadline_exceeded("the handshake took too long")))
                .await;
            None
        }
    }
}

/// `None`: the caller went away.
async fn judge<Q: Asking, A: Answering>(
    shared: &Arc<Shared>,
    purpose: Purpose,
    requests: &mut Streaming<Q>,
    responses: &mpsc::Sender<Result<A, Status>>,
) -> Option<Result<Proven, Refusal>> {
    let malformed = |name: &str| Some(Err(Refusal::Malformed(name.to_owned(), "not the message that is due")));
    let Some(opening::Kind::Hello(hello)) = next(requests).await? else {
        return malformed("the caller");
    };
    let (callee, welcome) = match Callee::new(&shared.identity, purpose, hello, shared.as_ref()) {
        Ok(both) => both,
        Err(refusal) => return Some(Err(refusal)),
    };
    let welcome = A::of(Answer {
        kind: Some(answer::Kind::Welcome(welcome)),
    });
    responses.send(Ok(welcome)).await.ok()?;
    match next(requests).await? {
        Some(opening::Kind::Proof(proof)) => Some(callee.proof(&proof).and_then(|(proven, refused)| {
            if purpose == Purpose::Link {
                shared.inbox.met(proven.met.clone());
            }
            let is_node = proven.node != 0;
            match refused {
                Some(refusal) => Err(refusal),
                None if is_node => check_side(&shared.identity, &proven).map(|()| proven),
                None => Ok(proven),
            }
        })),
        Some(opening::Kind::Refused(reason)) => {
            let reason: String = reason.chars().take(REASON_LEN_MAX).collect();
            shared.complain(format!(
                "{:?} refuses node {:?}: {reason:?}",
                callee.caller(),
                shared.identity.name
            ));
            None
        }
        Some(opening::Kind::Hello(_)) | None => malformed(callee.caller()),
    }
}

/// `None`: the stream has ended. `Some(None)`: not a part of a handshake.
async fn next<Q: Asking>(requests: &mut Streaming<Q>) -> Option<Option<opening::Kind>> {
    let request = requests.message().await.ok()??;
    Some(request.opening().and_then(|opening| opening.kind))
}

/// The first message of a caller.
pub(super) fn hello<Q: Asking>(caller: &Caller) -> Q {
    Q::open(Opening {
        kind: Some(opening::Kind::Hello(caller.hello())),
    })
}

/// The calling end's part, after [`hello`] was sent. `admit` judges who answered.
pub(super) async fn introduce<Q: Asking, A: Answering>(
    caller: Caller,
    requests: &mpsc::Sender<Q>,
    responses: &mut Streaming<A>,
    admit: impl Fn(&Proven) -> Result<(), Refusal>,
) -> Result<Proven, Unopened> {
    let Some(answer::Kind::Welcome(welcome)) = due(responses).await? else {
        return Err(Unopened::Refused(Refusal::Malformed(
            "the node".to_owned(),
            "it did not answer the hello",
        )));
    };
    let judged = caller
        .welcome(welcome)
        .and_then(|(proven, proof)| admit(&proven).map(|()| (proven, proof)));
    let (proven, proof) = match judged {
        Ok(both) => both,
        Err(refusal) => {
            let refused = Opening {
                kind: Some(opening::Kind::Refused(refusal.to_string())),
            };
            let _gone = requests.send(Q::open(refused)).await;
            // The callee ends the stream when it has read why.
            while let Ok(Some(_)) = responses.message().await {}
            return Err(Unopened::Refused(refusal));
        }
    };
    let _gone = requests
        .send(Q::open(Opening {
            kind: Some(opening::Kind::Proof(proof)),
        }))
        .await;
    let accepted = due(responses).await.map_err(|unopened| match unopened {
        // Said by a node that proved itself.
        Unopened::Failed(failure) if failure.code == Some(Code::FailedPrecondition) => {
            Unopened::Forgotten(failure.text)
        }
        other => other,
    });
    match accepted? {
        Some(answer::Kind::Accepted(true)) => Ok(proven),
        _ => Err(Unopened::Refused(Refusal::Malformed(
            proven.name,
            "it did not accept the proof",
        ))),
    }
}

async fn due<A: Answering>(responses: &mut Streaming<A>) -> Result<Option<answer::Kind>, Unopened> {
    match responses.message().await? {
        Some(response) => Ok(response.answer().and_then(|answer| answer.kind)),
        None => Err(Unopened::Failed(Failure {
            text: "the stream ended within the handshake".to_owned(),
            code: None,
            io: None,
        })),
    }
}
