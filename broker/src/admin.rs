//! The node's answers to its operator's tool. The documents are [`protocol`]'s.
//!
//! What only one node knows (a queue's leader, a connection) every node is asked for, in one round; a node that does
//! not answer in time is left out of listings.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};
use std::time::{Duration, Instant};

use actix::prelude::*;
use futures_util::future::LocalBoxFuture;
use serde::Serialize;
use tokio::sync::mpsc;
use warren_cluster::NodeId;
use warren_cluster::tls::Credentials;
use warren_cluster::transport::{AdminAnswer, AdminHandler, PeerState, Transport};
use warren_proto::node::{AdminForward, AdminRows, node_message::Kind};

use crate::alarms::Alarms;
use crate::config::Config;
use crate::connection::census::{Census, Count, Others};
use crate::connection::registry::Registry;
use crate::directory::Directory;
use crate::listener;
use crate::metadata::View;
use crate::metadata::client::MetadataClient;
use crate::name::{UserName, VhostName};
use protocol::{Listener, Request, status};

mod changes;
mod closing;
pub mod definitions;
mod listings;
mod local;
mod members;
mod nodes;
mod one_shot;
pub mod protocol;
mod settings;
mod shrink;

/// How long the other nodes are waited for.
const NODES_TIMEOUT: Duration = Duration::from_secs(2);

/// What other nodes' questions and answers are handed to.
pub trait Forwarded: Send + Sync {
    /// A node asks for what only this one knows.
    fn asked(&self, from: NodeId, forward: AdminForward);
    /// A node answers what this one asked.
    fn answered(&self, from: NodeId, rows: AdminRows);
}

/// Why a call ends without having done what it asked for.
#[derive(Debug)]
struct Failure {
    status: u8,
    text: String,
}

impl Failure {
    fn new(status: u8, text: impl Into<String>) -> Self {
        Self {
            status,
            text: text.into(),
        }
    }

    fn unavailable() -> Self {
        Self::new(status::UNAVAILABLE, "no majority of the cluster answered in time")
    }
}

type Rows = Result<Vec<String>, Failure>;

/// Who gathers the nodes' answers, by the number of the question.
type Rounds = BTreeMap<u64, mpsc::UnboundedSender<(NodeId, Vec<String>)>>;

/// The parts that are made after the links.
#[derive(Clone)]
struct Parts {
    metadata: MetadataClient,
    transport: Arc<dyn Transport>,
    /// Where calls are worked on.
    arbiter: ArbiterHandle,
}

/// What this node says of itself.
struct Facts {
    name: String,
    cluster: String,
    data_dir: String,
    /// All configured nodes by id, this one included.
    names: BTreeMap<NodeId, String>,
    /// Replicas of a queue that does not say.
    group_size: usize,
    /// Virtual hosts with which no more is created; 0: no limit.
    vhosts_max: u64,
    started: Instant,
}

/// Where clients come in.
#[derive(Clone)]
struct Open {
    address: SocketAddr,
    is_tls: bool,
    registry: Registry,
}

/// See the module. Clones are the same.
#[derive(Clone)]
pub struct Admin {
    inner: Arc<Inner>,
}

struct Inner {
    directory: Arc<Directory>,
    view: View,
    facts: Facts,
    cluster_listen: String,
    alarms: Arc<Alarms>,
    certificates: Vec<Credentials>,
    census: Arc<Census>,
    parts: OnceLock<Parts>,
    /// Clients have been let in.
    started: AtomicBool,
    /// Where clients come in, each with its connections.
    listeners: RwLock<Vec<Open>>,
    next: AtomicU64,
    /// Rounds of questions under way.
    rounds: Mutex<Rounds>,
    /// A rebalance is under way.
    balancing: AtomicBool,
}

impl Admin {
    /// An admin that can only say that the node is starting.
    pub fn new(
        config: &Config,
        directory: Arc<Directory>,
        view: View,
        alarms: Arc<Alarms>,
        certificates: Vec<Credentials>,
        census: Arc<Census>,
    ) -> Self {
        let mut names: BTreeMap<NodeId, String> = config
            .cluster
            .seeds
            .iter()
            .map(|member| (crate::boot::node_id(&member.name), member.name.clone()))
            .collect();
        names.insert(directory.node(), config.node.name.clone());
        let facts = Facts {
            name: config.node.name.clone(),
            cluster: config.cluster.name.clone(),
            data_dir: config.node.data_dir.display().to_string(),
            names,
            group_size: config.cluster.group_size,
            vhosts_max: config.cluster.vhosts_max,
            started: Instant::now(),
        };
        let cluster_listen = config.cluster.listen.to_string();
        Self {
            inner: Arc::new(Inner {
                directory,
                view,
                facts,
                cluster_listen,
                alarms,
                certificates,
                census,
                parts: OnceLock::new(),
                started: AtomicBool::new(false),
                listeners: RwLock::default(),
                next: AtomicU64::new(1),
                rounds: Mutex::default(),
                balancing: AtomicBool::new(false),
            }),
        }
    }

    /// Connects the parts that are made later; once, at boot, on the arbiter that is to work on calls.
    pub fn connect(&self, metadata: MetadataClient, transport: Arc<dyn Transport>) {
        let parts = Parts {
            metadata,
            transport,
            arbiter: Arbiter::current(),
        };
        assert!(self.inner.parts.set(parts).is_ok(), "the admin is connected once");
    }

    /// Clients are served there from now on, and nowhere else.
    pub fn serves_clients(&self, listeners: &[listener::Listener]) {
        let open = listeners
            .iter()
            .map(|listener| Open {
                address: listener.address(),
                is_tls: listener.is_tls(),
                registry: listener.registry().clone(),
            })
            .collect();
        *self.inner.listeners.write().unwrap_or_else(PoisonError::into_inner) = open;
        self.inner.started.store(true, Ordering::Release);
    }
}

impl Inner {
    fn rounds(&self) -> MutexGuard<'_, Rounds> {
        self.rounds.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_listeners(&self) -> Vec<Open> {
        self.listeners.read().unwrap_or_else(PoisonError::into_inner).clone()
    }

    fn parts(&self) -> Result<&Parts, Failure> {
        self.parts
            .get()
            .ok_or_else(|| Failure::new(status::TEMPORARY, "the node is starting"))
    }

    fn name_of(&self, node: NodeId) -> String {
        let picture = self.view.picture();
        let known = picture.node(node).map(|known| known.name.clone());
        known
            .or_else(|| self.facts.names.get(&node).cloned())
            .or_else(|| {
                picture
                    .forgotten()
                    .find(|(id, _)| *id == node)
                    .map(|(_, gone)| gone.name.clone())
            })
            .unwrap_or_else(|| node.to_string())
    }

    /// The cluster's nodes, and those that are to begin it together.
    fn names(&self) -> BTreeMap<NodeId, String> {
        let picture = self.view.picture();
        let mut names = self.facts.names.clone();
        names.retain(|node, _| !picture.is_gone(*node));
        names.extend(picture.nodes().map(|(node, known)| (node, known.name.clone())));
        names
    }

    /// The nodes that are heard, this one included.
    fn running(&self) -> Vec<NodeId> {
        let mut running = vec![self.directory.node()];
        if let Some(parts) = self.parts.get() {
            let peers = parts.transport.peers();
            running.extend(
                peers
                    .iter()
                    .filter(|(_, state)| matches!(state, PeerState::Up { .. }))
                    .map(|(node, _)| *node),
            );
        }
        running.sort_by_key(|node| self.name_of(*node));
        running
    }

    fn listeners(&self) -> Vec<Listener> {
        let row = |protocol: &str, interface: String, port: u16, purpose: &str| Listener {
            node: self.facts.name.clone(),
            protocol: protocol.into(),
            interface,
            port,
            purpose: purpose.into(),
        };
        let mut rows = Vec::new();
        if let Some((host, port)) = self.cluster_listen.rsplit_once(':') {
            rows.push(row(
                "clustering",
                host.into(),
                port.parse().unwrap_or(0),
                "inter-node and CLI tool communication",
            ));
        }
        for open in self.open_listeners() {
            let (protocol, purpose) = if open.is_tls {
                ("amqp/ssl", "AMQP 0-9-1 over TLS")
            } else {
                ("amqp", "AMQP 0-9-1")
            };
            rows.push(row(
                protocol,
                open.address.ip().to_string(),
                open.address.port(),
                purpose,
            ));
        }
        rows
    }

    /// The same question to every node that is heard, this one included; the rows of those that answer in time.
    async fn ask_all(&self, question: local::Question) -> Vec<(NodeId, Vec<String>)> {
        let own = self.directory.node();
        let others: Vec<NodeId> = self.running().into_iter().filter(|node| *node != own).collect();
        let request = self.next.fetch_add(1, Ordering::Relaxed);
        let (answers_tx, mut answers) = mpsc::unbounded_channel();
        self.rounds().insert(request, answers_tx);
        let call = json(&question);
        for node in &others {
            self.directory.tell(
                *node,
                Kind::AdminForward(AdminForward {
                    request,
                    call: call.clone(),
                }),
            );
        }
        let mut gathered = vec![(own, self.answer_locally(&question).await)];
        let deadline = tokio::time::Instant::now() + NODES_TIMEOUT;
        while gathered.len() <= others.len() {
            match tokio::time::timeout_at(deadline, answers.recv()).await {
                Ok(Some(answer)) => gathered.push(answer),
                Ok(None) | Err(_) => break,
            }
        }
        self.rounds().remove(&request);
        gathered
    }

    async fn perform(&self, request: Request) -> Rows {
        match request {
            Request::Ping => Ok(Vec::new()),
            Request::Status => self.status(),
            Request::AwaitStartup if self.started.load(Ordering::Acquire) => Ok(Vec::new()),
            Request::AwaitStartup => Err(Failure::new(status::TEMPORARY, "the node is waiting for its cluster")),
            Request::ClusterStatus => self.cluster_status(),
            Request::ListCertificates => Ok(self.list_certificates()),
            Request::QuorumStatus { vhost, queue } => self.quorum_status(&vhost, &queue).await,
            Request::AddMember { vhost, queue, node } => self.add_member(&vhost, &queue, &node).await,
            Request::DeleteMember { vhost, queue, node } => self.delete_member(&vhost, &queue, &node).await,
            Request::TransferLeadership { vhost, queue, node } => self.transfer_leadership(&vhost, &queue, &node).await,
            Request::Grow {
                node,
                growth,
                vhost_pattern,
                queue_pattern,
            } => self.grow(&node, growth, &vhost_pattern, &queue_pattern).await,
            Request::Shrink { node, errors_only } => self.shrink(&node, errors_only).await,
            Request::Rebalance {
                kind,
                vhost_pattern,
                queue_pattern,
            } => self.rebalance(kind, &vhost_pattern, &queue_pattern).await,
            Request::Drain => self.drain(true).await,
            Request::Revive => self.drain(false).await,
            Request::CheckQuorum => self.check_quorum().await,
            Request::JoinCluster {
                name,
                address,
                directory,
                seeds,
            } => self.join(name, address, directory, &seeds).await,
            Request::ForgetClusterNode { node } => self.forget(&node).await,
            Request::ForceShrink { vhost, queue } => self.force_shrink(&vhost, &queue).await,
            Request::ListQueues { vhost, columns } => self.list_queues(&vhost, &columns).await,
            Request::ListExchanges { vhost, columns } => Ok(self.list_exchanges(&vhost, &columns).await),
            Request::ListBindings { vhost } => Ok(self.list_bindings(&vhost)),
            Request::ListConsumers { vhost } => self.list_consumers(&vhost).await,
            Request::ListConnections => Ok(self.rows_of_all(local::Question::Connections).await),
            Request::ListChannels => Ok(self.rows_of_all(local::Question::Channels).await),
            Request::ListUsers => Ok(self.list_users()),
            Request::ListFeatureFlags => Ok(self.feature_flags().iter().map(json).collect()),
            Request::EnableFeatureFlag { name } => self.enable_feature_flag(&name),
            Request::ListVhosts => Ok(self.list_vhosts()),
            Request::ListPermissions { vhost } => Ok(self.list_permissions(|_, of| of == vhost)),
            Request::ListUserPermissions { user } => Ok(self.list_permissions(|of, _| of == user)),
            Request::ListPolicies { vhost, operator } => Ok(self.list_policies(&vhost, operator)),
            Request::ListVhostLimits { vhost } => Ok(self.list_vhost_limits(vhost.as_deref())),
            Request::ListUserLimits { user } => Ok(self.list_user_limits(user.as_deref())),
            Request::ListTopicPermissions { vhost } => Ok(self.list_topic_permissions(|_, of| of == vhost)),
            Request::ListUserTopicPermissions { user } => Ok(self.list_topic_permissions(|of, _| of == user)),
            Request::ListParameters { vhost } => Ok(self.list_parameters(&vhost)),
            Request::CloseConnection { pid, reason } => self.close_connection(&pid, &reason).await,
            Request::CloseConnections { vhost, user, reason } => self.close_connections(vhost, user, reason).await,
            Request::ExportDefinitions { vhost } => self.export_definitions(vhost.as_deref()),
            Request::ImportDefinitions { vhost, definitions } => {
                self.import_definitions(vhost.as_deref(), &definitions).await
            }
            change => self.change(change).await,
        }
    }

    async fn rows_of_all(&self, question: local::Question) -> Vec<String> {
        self.ask_all(question)
            .await
            .into_iter()
            .flat_map(|(_, rows)| rows)
            .collect()
    }
}

impl AdminHandler for Admin {
    fn call(&self, call: String, answer: AdminAnswer) {
        let request: Request = match serde_json::from_str(&call) {
            Ok(request) => request,
            Err(error) => {
                answer.fail(
                    u32::from(status::USAGE),
                    format!("the node does not understand the call: {error}"),
                );
                return;
            }
        };
        let arbiter = match self.inner.parts() {
            Ok(parts) => parts.arbiter.clone(),
            Err(failure) => {
                answer.fail(u32::from(failure.status), failure.text);
                return;
            }
        };
        let inner = self.inner.clone();
        arbiter.spawn(async move {
            match inner.perform(request).await {
                Ok(rows) => {
                    for row in rows {
                        if answer.row(row).await.is_err() {
                            return;
                        }
                    }
                    answer.finish();
                }
                Err(failure) => answer.fail(u32::from(failure.status), failure.text),
            }
        });
    }
}

impl Others for Admin {
    fn count(&self, vhost: VhostName, user: UserName) -> LocalBoxFuture<'static, Count> {
        let inner = self.inner.clone();
        let question = local::Question::Count {
            vhost: (&vhost).into(),
            user: (&user).into(),
        };
        Box::pin(async move {
            let own = inner.directory.node();
            let answers = inner.ask_all(question).await;
            let others = answers.into_iter().filter(|(node, _)| *node != own);
            let counts = others.flat_map(|(_, rows)| rows);
            let read = |row: String| serde_json::from_str::<Count>(&row).unwrap_or_default();
            counts.map(read).fold(Count::default(), |sum, count| sum + count)
        })
    }
}

impl Forwarded for Admin {
    fn asked(&self, from: NodeId, forward: AdminForward) {
        let Ok(question) = serde_json::from_str::<local::Question>(&forward.call) else {
            tracing::warn!(from, "a node asked what this one does not understand");
            return;
        };
        let Ok(parts) = self.inner.parts() else { return };
        let inner = self.inner.clone();
        parts.arbiter.spawn(async move {
            let rows = inner.answer_locally(&question).await;
            inner.directory.tell(
                from,
                Kind::AdminRows(AdminRows {
                    request: forward.request,
                    rows,
                }),
            );
        });
    }

    fn answered(&self, from: NodeId, rows: AdminRows) {
        if let Some(round) = self.inner.rounds().get(&rows.request) {
            // Whoever asked may have stopped waiting.
            let _ = round.send((from, rows.rows));
        }
    }
}

/// A row or question as it is sent.
fn json(row: &impl Serialize) -> String {
    serde_json::to_string(row).expect("rows are structs of text and numbers")
}
