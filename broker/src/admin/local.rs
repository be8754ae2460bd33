//! What only this node knows: the replicas it runs and the connections it serves.

use serde::{Deserialize, Serialize};
use tokio::sync::oneshot;
use warren_proto::record::SessionId;

use super::closing::Meant;
use super::protocol::{Arguments, ChannelRow, ConnectionRow};
use super::{Inner, NODES_TIMEOUT, json};
use crate::connection::{Agreed, Certificate, Description as Connection};
use crate::directory::{Description, Inbound};
use crate::mailbox::Post;
use crate::metadata::actor::GROUP;

/// A question from one node to another.
#[derive(Clone, Debug, Serialize, Deserialize)]
#[serde(tag = "ask", rename_all = "snake_case")]
pub(super) enum Question {
    /// A [`Replica`] for each of these groups that runs there; all groups if there is none.
    Replicas { groups: Vec<u64> },
    /// A [`ConnectionRow`] for each connection.
    Connections,
    /// A [`ChannelRow`] for each channel.
    Channels,
    /// Close these connections; a row for each of them.
    Close { meant: Meant, reason: String },
    /// One row with the [`Count`](crate::connection::census::Count) of connections and channels.
    Count { vhost: String, user: String },
}

/// One replica as its node sees it.
#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Replica {
    pub(super) group: u64,
    pub(super) node: u64,
    pub(super) role: String,
    /// As this replica knows its group.
    pub(super) voters: Vec<u64>,
    /// Those that are sent the log and have no vote, as this replica knows them.
    pub(super) learners: Vec<u64>,
    /// Whether this replica may have lost its log, and has no vote until it has caught up.
    pub(super) is_fresh: bool,
    /// The decision to go on without the majority that this replica obeys.
    pub(super) reformed: u64,
    /// Voters that could lead at once, if this replica leads.
    pub(super) able: Vec<u64>,
    pub(super) term: Option<u64>,
    pub(super) last_index: Option<u64>,
    pub(super) commit: Option<u64>,
    pub(super) applied: Option<u64>,
    pub(super) snapshot_index: Option<u64>,
    pub(super) ready: u64,
    pub(super) unacked: u64,
    pub(super) resting: u64,
    pub(super) dead: u64,
    pub(super) bytes: u64,
    pub(super) consumer_count: u64,
    pub(super) consumers: Vec<Consumer>,
}

#[derive(Clone, Debug, Default, Serialize, Deserialize)]
#[serde(default)]
pub(super) struct Consumer {
    pub(super) session: (u64, u64, u64),
    pub(super) channel: u32,
    pub(super) tag: String,
    pub(super) no_ack: bool,
    pub(super) prefetch: u32,
    pub(super) waits: bool,
    pub(super) arguments: Vec<u8>,
}

impl From<Description> for Replica {
    fn from(description: Description) -> Self {
        let Description {
            group,
            node,
            role,
            leader: _,
            raft,
            voters,
            learners,
            is_fresh,
            is_pair: _,
            reformed,
            able,
            stats,
            consumers,
        } = description;
        let consumers: Vec<Consumer> = consumers
            .into_iter()
            .map(|consumer| Consumer {
                session: (consumer.session.node, consumer.session.incarnation, consumer.session.id),
                channel: consumer.attach.channel,
                tag: consumer.attach.tag,
                no_ack: consumer.attach.no_ack,
                prefetch: consumer.attach.prefetch,
                waits: !consumer.is_active,
                arguments: consumer.attach.arguments.to_vec(),
            })
            .collect();
        Self {
            group,
            node,
            role: role.to_owned(),
            voters,
            learners,
            is_fresh,
            reformed,
            able,
            term: raft.map(|raft| raft.term),
            last_index: raft.map(|raft| raft.last_index),
            commit: raft.map(|raft| raft.commit),
            applied: raft.map(|raft| raft.applied),
            snapshot_index: raft.map(|raft| raft.snapshot_index),
            ready: stats.ready,
            unacked: stats.unacked,
            resting: stats.resting,
            dead: stats.dead,
            bytes: stats.ready_bytes + stats.unacked_bytes,
            consumer_count: stats.consumers,
            consumers,
        }
    }
}

/// `<node.id>`, as listings name a connection.
pub(super) fn session_pid(node: &str, id: u64) -> String {
    format!("<{node}.{id}>")
}

impl Inner {
    pub(super) async fn answer_locally(&self, question: &Question) -> Vec<String> {
        match question {
            Question::Replicas { groups } => self.replicas(groups).await.iter().map(json).collect(),
            Question::Connections => self
                .connections()
                .await
                .iter()
                .map(|connection| json(&self.connection_row(connection)))
                .collect(),
            Question::Close { meant, reason } => self.close_here(meant, reason).await,
            Question::Count { vhost, user } => vec![json(&self.census.count(vhost, user))],
            Question::Channels => {
                let described = self.connections().await;
                described
                    .iter()
                    .flat_map(|connection| self.channel_rows(connection))
                    .collect()
            }
        }
    }

    pub(super) async fn replicas(&self, groups: &[u64]) -> Vec<Replica> {
        let mailboxes: Vec<Post<Inbound>> = if groups.is_empty() {
            self.directory.mailboxes()
        } else {
            groups
                .iter()
                .filter_map(|group| self.directory.mailbox(*group))
                .collect()
        };
        let mut waiting = Vec::with_capacity(mailboxes.len());
        for mailbox in mailboxes {
            let (answer_tx, answer) = oneshot::channel();
            // One message for each group and operator's call, of which few are under way at once.
            mailbox.always(Inbound::Describe(answer_tx));
            waiting.push(answer);
        }
        let deadline = tokio::time::Instant::now() + NODES_TIMEOUT / 2;
        let mut replicas = Vec::with_capacity(waiting.len());
        for answer in waiting {
            if let Ok(Ok(description)) = tokio::time::timeout_at(deadline, answer).await
                && description.group != GROUP
            {
                replicas.push(description.into());
            }
        }
        replicas
    }

    async fn connections(&self) -> Vec<Connection> {
        let mut described = Vec::new();
        for open in self.open_listeners() {
            described.extend(open.registry.describe().await);
        }
        described
    }

    pub(super) fn pid(&self, session: SessionId) -> String {
        session_pid(&self.name_of(session.node), session.id)
    }

    fn connection_row(&self, description: &Connection) -> ConnectionRow {
        let connection = &description.connection;
        let (tls, peer) = match &connection.tls {
            Some(tls) => (Some(tls), tls.peer.as_ref()),
            None => (None, None),
        };
        let of_tls = |read: fn(&Agreed) -> &'static str| tls.map(read).unwrap_or_default().to_owned();
        let of_peer = |read: fn(&Certificate) -> &String| peer.map(read).cloned().unwrap_or_default();
        ConnectionRow {
            pid: self.pid(connection.session),
            name: connection.name.clone(),
            node: connection.node.clone(),
            host: connection.local.ip().to_string(),
            port: connection.local.port(),
            peer_host: connection.peer.ip().to_string(),
            peer_port: connection.peer.port(),
            user: connection.user.to_string(),
            vhost: connection.vhost.to_string(),
            state: match connection.state {
                "running" if !connection.reading => "flow",
                state => state,
            }
            .to_owned(),
            channels: u64::from(connection.channels),
            protocol: "{0,9,1}".to_owned(),
            auth_mechanism: connection.auth_mechanism.to_owned(),
            ssl: tls.is_some(),
            ssl_protocol: of_tls(|tls| tls.protocol),
            ssl_key_exchange: of_tls(|tls| tls.key_exchange),
            ssl_cipher: of_tls(|tls| tls.cipher),
            // Every cipher suite that there is authenticates what it encrypts.
            ssl_hash: of_tls(|_| "aead"),
            peer_cert_subject: of_peer(|peer| &peer.subject),
            peer_cert_issuer: of_peer(|peer| &peer.issuer),
            peer_cert_validity: of_peer(|peer| &peer.validity),
            timeout: u64::from(connection.timeout_s),
            frame_max: u64::from(connection.frame_max),
            channel_max: u64::from(connection.channel_max),
            client_properties: Arguments::from(&connection.client_properties),
            connected_at: connection.connected_at_ms,
            recv_oct: connection.recv_oct,
            recv_cnt: connection.recv_cnt,
            send_oct: connection.send_oct,
            send_cnt: connection.send_cnt,
            send_pend: connection.send_pend,
        }
    }

    fn channel_rows(&self, description: &Connection) -> Vec<String> {
        let connection = &description.connection;
        let name = self.name_of(connection.session.node);
        let rows = description.channels.iter().map(|channel| ChannelRow {
            pid: format!("<{name}.{}.{}>", connection.session.id, channel.number),
            connection: self.pid(connection.session),
            name: format!("{} ({})", connection.name, channel.number),
            number: channel.number,
            user: connection.user.to_string(),
            vhost: connection.vhost.to_string(),
            transactional: channel.transaction.is_some(),
            messages_uncommitted: channel.transaction.map_or(0, |(messages, _)| messages),
            acks_uncommitted: channel.transaction.map_or(0, |(_, settlements)| settlements),
            confirm: channel.confirm,
            consumer_count: u64::from(channel.consumer_count),
            messages_unacknowledged: channel.messages_unacknowledged,
            messages_unconfirmed: channel.messages_unconfirmed,
            prefetch_count: u64::from(channel.prefetch_count),
            ..ChannelRow::default()
        });
        rows.map(|row| json(&row)).collect()
    }
}
