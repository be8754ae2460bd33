//! The operator's calls: one JSON document in, rows of JSON out.
//!
//! The tool proves that it knows the cluster secret like any node, and names itself with the id 0.
//! What the documents say is opaque to this layer.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, oneshot};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Status, Streaming};
use warren_proto::transport as wire;
use wire::{admin_request, admin_response};

use super::Secret;
use super::greeting::{self, Unopened};
use super::grpc::{Failure, MESSAGE_LEN_MAX, Shared, client, endpoint};
use super::handshake::{Caller, Purpose};
use super::listener::Meter;
use super::secure::Connector;
use crate::tls::Credentials;

/// Bytes of one row or call at most.
const DOCUMENT_LEN_MAX: usize = MESSAGE_LEN_MAX - 1_024;
/// Rows that wait for the tool to read them.
const ROWS_MAX: usize = 64;
/// How long a node may take to answer the tool's handshake.
const HANDSHAKE: Duration = Duration::from_secs(5);

// Exit statuses of sysexits.h.
const EX_UNAVAILABLE: u32 = 69;
const EX_SOFTWARE: u32 = 70;
const EX_TEMPFAIL: u32 = 75;
const EX_NOPERM: u32 = 77;

/// Who answers the operator.
pub trait AdminHandler: Send + Sync + 'static {
    /// Takes a call and returns at once; the answer may follow from any thread.
    /// Called on the transport's own thread.
    fn call(&self, call: String, answer: AdminAnswer);
}

/// The answer to one call. Dropped without an end, it ends with an error.
#[derive(Debug)]
pub struct AdminAnswer {
    rows: mpsc::Sender<String>,
    end: oneshot::Sender<Option<AdminError>>,
}

/// Why a call failed.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub struct AdminError {
    /// The tool's exit status, from sysexits.h.
    pub status: u32,
    /// What the operator is told.
    pub text: String,
}

impl AdminError {
    fn new(status: u32, text: impl Into<String>) -> Self {
        Self {
            status,
            text: text.into(),
        }
    }
}

/// A row that cannot be told: the operator has gone, or it is too long.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum AdminGone {
    /// Nobody waits for the answer any more.
    #[error("the operator has gone")]
    Gone,
    /// More than about 4 MiB in one row.
    #[error("a row is too long")]
    TooLong,
}

impl AdminAnswer {
    /// Sends a row, a JSON document. Waits while the tool reads slowly.
    pub async fn row(&self, row: String) -> Result<(), AdminGone> {
        if row.len() > DOCUMENT_LEN_MAX {
            return Err(AdminGone::TooLong);
        }
        self.rows.send(row).await.map_err(|_| AdminGone::Gone)
    }

    /// The same for a thread that may block; not to be called in a runtime.
    pub fn blocking_row(&self, row: String) -> Result<(), AdminGone> {
        if row.len() > DOCUMENT_LEN_MAX {
            return Err(AdminGone::TooLong);
        }
        self.rows.blocking_send(row).map_err(|_| AdminGone::Gone)
    }

    /// All rows were sent. Never waits.
    pub fn finish(self) {
        // Whoever has gone needs no end.
        let _gone = self.end.send(None);
    }

    /// The call failed. `status` is from sysexits.h. Never waits.
    pub fn fail(self, status: u32, text: impl Into<String>) {
        let _gone = self.end.send(Some(AdminError::new(status, text)));
    }
}

/// A tool calls: judges it, then lets the handler answer.
pub(super) async fn serve(
    shared: Arc<Shared>,
    meter: Arc<Meter>,
    mut requests: Streaming<wire::AdminRequest>,
    responses: mpsc::Sender<Result<wire::AdminResponse, Status>>,
) {
    if greeting::receive(&shared, Purpose::Admin, &meter, &mut requests, &responses)
        .await
        .is_none()
    {
        return;
    }
    let limit = Duration::from_millis(shared.options.handshake_ms);
    let call = match tokio::time::timeout(limit, requests.message()).await {
        Ok(Ok(Some(wire::AdminRequest {
            kind: Some(admin_request::Kind::Call(call)),
        }))) => call,
        _ => {
            let _gone = responses.send(Err(Status::invalid_argument("no call came"))).await;
            return;
        }
    };
    let error = match Arc::clone(&shared.admin_calls).try_acquire_owned() {
        Ok(_permit) => answer(&shared, call, &responses).await,
        Err(_) => Some(AdminError::new(EX_TEMPFAIL, "too many operator's calls are under way")),
    };
    let last = match error {
        Some(AdminError { status, text }) => admin_response::Kind::Error(wire::AdminError { status, text }),
        None => admin_response::Kind::Done(true),
    };
    let _gone = responses.send(Ok(wire::AdminResponse { kind: Some(last) })).await;
}

async fn answer(
    shared: &Shared,
    call: String,
    responses: &mpsc::Sender<Result<wire::AdminResponse, Status>>,
) -> Option<AdminError> {
    let (rows_tx, mut rows_rx) = mpsc::channel(ROWS_MAX);
    let (end_tx, end_rx) = oneshot::channel();
    shared.admin.call(
        call,
        AdminAnswer {
            rows: rows_tx,
            end: end_tx,
        },
    );
    loop {
        let row = tokio::select! {
            row = rows_rx.recv() => row,
            () = responses.closed() => return None,
        };
        let Some(row) = row else { break };
        let row = wire::AdminResponse {
            kind: Some(admin_response::Kind::Row(row)),
        };
        if responses.send(Ok(row)).await.is_err() {
            return None;
        }
    }
    match end_rx.await {
        Ok(end) => end,
        Err(_) => Some(AdminError::new(EX_SOFTWARE, "the node gave up on the call")),
    }
}

/// The rows of an answer, as they come.
#[derive(Debug)]
pub struct AdminRows {
    responses: Streaming<wire::AdminResponse>,
    _requests: mpsc::Sender<wire::AdminRequest>,
    ended: bool,
}

impl AdminRows {
    /// The next row. `None`: the answer is complete. After an error there is nothing more.
    pub async fn next(&mut self) -> Option<Result<String, AdminError>> {
        if self.ended {
            return None;
        }
        let error = match self.responses.message().await {
            Ok(Some(wire::AdminResponse {
                kind: Some(admin_response::Kind::Row(row)),
            })) => return Some(Ok(row)),
            Ok(Some(wire::AdminResponse {
                kind: Some(admin_response::Kind::Done(_)),
            })) => None,
            Ok(Some(wire::AdminResponse {
                kind: Some(admin_response::Kind::Error(error)),
            })) => Some(AdminError::new(error.status, error.text)),
            Ok(_) => Some(AdminError::new(EX_UNAVAILABLE, "the node's answer ended early")),
            Err(status) => Some(AdminError::new(
                EX_UNAVAILABLE,
                format!("the node's answer broke: {}", status.message()),
            )),
        };
        self.ended = true;
        error.map(Err)
    }

    /// All rows at once.
    pub async fn collect(mut self) -> Result<Vec<String>, AdminError> {
        let mut rows = Vec::new();
        while let Some(row) = self.next().await {
            rows.push(row?);
        }
        Ok(rows)
    }
}

/// Calls a node as an operator's tool. `address` is the `host:port` that the node's peers connect to; `tls` is needed
/// where they need it.
pub async fn admin_call(
    address: &str,
    cluster: &str,
    secret: Secret,
    tls: Option<Credentials>,
    call: String,
) -> Result<AdminRows, AdminError> {
    if call.len() > DOCUMENT_LEN_MAX {
        return Err(AdminError::new(EX_SOFTWARE, "the call is too long"));
    }
    let opening = async {
        let endpoint = endpoint(address).map_err(Failure::from)?;
        let channel = match tls {
            None => endpoint.connect().await,
            Some(tls) => endpoint.connect_with_connector(Connector(tls)).await,
        };
        let mut client = client(channel.map_err(Failure::from)?);
        let caller = Caller::tool(cluster, secret);
        let (requests_tx, requests_rx) = mpsc::channel(2);
        let _room = requests_tx.send(greeting::hello::<wire::AdminRequest>(&caller)).await;
        let mut responses = client.admin(ReceiverStream::new(requests_rx)).await?.into_inner();
        greeting::introduce(caller, &requests_tx, &mut responses, |_| Ok(())).await?;
        let call = wire::AdminRequest {
            kind: Some(admin_request::Kind::Call(call)),
        };
        let _gone = requests_tx.send(call).await;
        Ok::<_, Unopened>(AdminRows {
            responses,
            _requests: requests_tx,
            ended: false,
        })
    };
    match tokio::time::timeout(HANDSHAKE, opening).await {
        Ok(Ok(rows)) => Ok(rows),
        Ok(Err(Unopened::Refused(refusal))) => Err(AdminError::new(EX_NOPERM, refusal.to_string())),
        Ok(Err(Unopened::Forgotten(reason))) => Err(AdminError::new(EX_NOPERM, reason)),
        Ok(Err(Unopened::Failed(failure))) if failure.is_refusal() => Err(AdminError::new(EX_NOPERM, failure.text)),
        Ok(Err(Unopened::Failed(failure))) => Err(AdminError::new(
            EX_UNAVAILABLE,
            format!("cannot reach a node at {address}: {}", failure.text),
        )),
        Err(_elapsed) => Err(AdminError::new(
            EX_UNAVAILABLE,
            format!("the node at {address} does not answer"),
        )),
    }
}
