//! Rows that are made of the metadata and of what the nodes say of their replicas.

use std::collections::BTreeMap;
use std::sync::Arc;

use bytes::Bytes;

use super::local::{Question, Replica, session_pid};
use super::protocol::{
    Arguments, BindingRow, CertificateRow, ClusterStatusRow, ConsumerRow, ExchangeRow, FeatureFlag, PermissionRow,
    QueueRow, ReplicaRow, StatusRow, Totals, UserRow, Version, VhostRow, status,
};
use super::{Failure, Inner, Rows, json};
use crate::alarms::resident_bytes;
use crate::amqp::Table;
use crate::clock;
use crate::connection::Certificate;
use crate::metadata::{Access, Policy, Queue};

/// The name of the program, for rows that say so.
const PRODUCT: &str = "Warren";

/// Empty where there is none.
fn name_of(policy: &Option<Arc<Policy>>) -> String {
    policy
        .as_ref()
        .map(|policy| policy.set.name.clone())
        .unwrap_or_default()
}

impl Inner {
    pub(super) fn queue(&self, vhost: &str, name: &str, code: u8) -> Result<Arc<Queue>, Failure> {
        let missing = || Failure::new(code, format!("queue '{name}' in vhost '{vhost}' does not exist"));
        self.view.queue(vhost, name).ok_or_else(missing)
    }

    /// Every replica of these queues that a node answers for, by group.
    pub(super) async fn replicas_of(&self, groups: Vec<u64>) -> BTreeMap<u64, Vec<Replica>> {
        let mut found: BTreeMap<u64, Vec<Replica>> = BTreeMap::new();
        for row in self.rows_of_all(Question::Replicas { groups }).await {
            if let Ok(replica) = serde_json::from_str::<Replica>(&row) {
                found.entry(replica.group).or_default().push(replica);
            }
        }
        found
    }

    pub(super) async fn list_queues(&self, vhost: &str, columns: &[String]) -> Rows {
        let picture = self.view.picture();
        let queues: Vec<_> = picture.queues(vhost).cloned().collect();
        let leaders = ["leader", "state", "online", "pid"];
        let ask = QueueRow::asks_leaders(columns) || columns.iter().any(|column| leaders.contains(&column.as_str()));
        let replicas = if ask {
            self.replicas_of(Vec::new()).await
        } else {
            BTreeMap::new()
        };
        let rows = queues.iter().map(|queue| {
            let found = replicas.get(&queue.group).map_or(&[][..], Vec::as_slice);
            json(&self.queue_row(queue, found))
        });
        Ok(rows.collect())
    }

    fn queue_row(&self, queue: &Queue, replicas: &[Replica]) -> QueueRow {
        let leader = replicas
            .iter()
            .filter(|replica| replica.role == "leader")
            .max_by_key(|replica| replica.term);
        let nodes: Vec<u64> = match queue.home() {
            Some(run) => vec![run.node],
            None => queue.replicas().to_vec(),
        };
        let names = |nodes: &mut dyn Iterator<Item = u64>| -> Vec<String> {
            let mut names: Vec<String> = nodes.map(|node| self.name_of(node)).collect();
            names.sort();
            names
        };
        let state = match leader {
            Some(_) => "running",
            None if 2 * replicas.len() <= nodes.len() && !replicas.is_empty() => "minority",
            None => "down",
        };
        let leader_name = leader.map(|leader| self.name_of(leader.node)).unwrap_or_default();
        QueueRow {
            name: queue.name.to_string(),
            durable: queue.durable,
            auto_delete: queue.auto_delete,
            exclusive: queue.exclusive_owner.is_some(),
            arguments: Arguments::from(&queue.arguments),
            r#type: queue.kind.name().to_owned(),
            policy: name_of(&queue.policies.user),
            operator_policy: name_of(&queue.policies.operator),
            effective_policy_definition: queue.policies.definition(),
            pid: session_pid(&leader_name, queue.group),
            owner_pid: queue
                .exclusive_owner
                .map(|owner| session_pid(&self.name_of(owner.node), owner.id))
                .unwrap_or_default(),
            messages_ready: leader.map_or(0, |leader| leader.ready),
            messages_unacknowledged: leader.map_or(0, |leader| leader.unacked),
            messages_delayed: leader.map_or(0, |leader| leader.resting),
            messages_dlx: leader.map_or(0, |leader| leader.dead),
            messages: leader.map_or(0, |leader| leader.ready + leader.unacked + leader.resting + leader.dead),
            message_bytes: leader.map_or(0, |leader| leader.bytes),
            consumers: leader.map_or(0, |leader| leader.consumer_count),
            state: state.to_owned(),
            leader: leader_name,
            members: names(&mut nodes.iter().copied()),
            online: names(&mut replicas.iter().map(|replica| replica.node)),
            ..QueueRow::default()
        }
    }

    pub(super) async fn quorum_status(&self, vhost: &str, name: &str) -> Rows {
        let missing = || format!("queue '{name}' was not found in virtual host '{vhost}'");
        let queue = self.view.queue(vhost, name);
        let queue = queue.ok_or_else(|| Failure::new(status::DATA, missing()))?;
        let replicas = self
            .replicas_of(vec![queue.group])
            .await
            .remove(&queue.group)
            .unwrap_or_default();
        let nodes: Vec<u64> = match queue.home() {
            Some(run) => vec![run.node],
            None => queue.replicas().to_vec(),
        };
        let leader = replicas
            .iter()
            .filter(|replica| replica.role == "leader")
            .max_by_key(|replica| replica.term);
        // Where nobody leads, all that is known is where replicas shall be.
        let membership = |node| {
            let is_fresh = replicas.iter().any(|replica| replica.node == node && replica.is_fresh);
            match leader {
                Some(leader) if leader.learners.contains(&node) => "promotable",
                Some(leader) if !leader.voters.is_empty() && !leader.voters.contains(&node) => "non_voter",
                // It has a vote again once it has caught up.
                _ if is_fresh => "promotable",
                _ => "voter",
            }
        };
        let agreed = self.view.picture().version();
        let rows = nodes.into_iter().map(|node| {
            let found = replicas.iter().find(|replica| replica.node == node);
            let of = |read: fn(&Replica) -> Option<u64>| found.and_then(read);
            ReplicaRow {
                node: self.name_of(node),
                state: found.map_or("noproc", |replica| replica.role.as_str()).to_owned(),
                membership: membership(node).to_owned(),
                last_log: of(|replica| replica.last_index),
                last_written: of(|replica| replica.last_index),
                last_applied: of(|replica| replica.applied),
                commit: of(|replica| replica.commit),
                snapshot: of(|replica| replica.snapshot_index).map(|index| match index {
                    0 => -1,
                    index => i64::try_from(index).unwrap_or(i64::MAX),
                }),
                term: of(|replica| replica.term),
                version: found.map(|_| u64::from(agreed)),
            }
        });
        Ok(rows.map(|row| json(&row)).collect())
    }

    pub(super) async fn list_consumers(&self, vhost: &str) -> Rows {
        let picture = self.view.picture();
        let replicas = self.replicas_of(Vec::new()).await;
        let mut rows = Vec::new();
        for queue in picture.queues(vhost) {
            let found = replicas.get(&queue.group).into_iter().flatten();
            let Some(leader) = found
                .filter(|replica| replica.role == "leader")
                .max_by_key(|replica| replica.term)
            else {
                continue;
            };
            for consumer in &leader.consumers {
                let arguments = Table::decode(&Bytes::from(consumer.arguments.clone())).unwrap_or_default();
                let (node, _, id) = consumer.session;
                rows.push(json(&ConsumerRow {
                    queue_name: queue.name.to_string(),
                    channel_pid: format!("<{}.{id}.{}>", self.name_of(node), consumer.channel),
                    consumer_tag: consumer.tag.clone(),
                    ack_required: !consumer.no_ack,
                    prefetch_count: u64::from(consumer.prefetch),
                    active: !consumer.waits,
                    activity_status: if consumer.waits { "waiting" } else { "up" }.to_owned(),
                    arguments: Arguments::from(&arguments),
                }));
            }
        }
        Ok(rows)
    }

    pub(super) async fn list_exchanges(&self, vhost: &str, columns: &[String]) -> Vec<String> {
        let picture = self.view.picture();
        let delayed: Vec<u64> = picture
            .exchanges(vhost)
            .filter_map(|exchange| exchange.delay_group())
            .collect();
        let replicas = if delayed.is_empty() || !columns.iter().any(|column| column == "messages_delayed") {
            BTreeMap::new()
        } else {
            self.replicas_of(delayed).await
        };
        let held = |group| {
            let found = replicas.get(&group).into_iter().flatten();
            let leader = found
                .filter(|replica| replica.role == "leader")
                .max_by_key(|replica| replica.term);
            leader.map_or(0, |leader| leader.ready + leader.dead)
        };
        let rows = picture.exchanges(vhost).map(|exchange| ExchangeRow {
            name: exchange.name.to_string(),
            r#type: exchange.kind.name().to_owned(),
            durable: exchange.durable,
            auto_delete: exchange.auto_delete,
            internal: exchange.internal,
            arguments: Arguments::from(&exchange.arguments),
            policy: name_of(&exchange.policies.user),
            messages_delayed: exchange.delay_group().map(held),
        });
        rows.map(|row| json(&row)).collect()
    }

    pub(super) fn list_bindings(&self, vhost: &str) -> Vec<String> {
        let picture = self.view.picture();
        let implied = picture.queues(vhost).map(|queue| BindingRow {
            source_kind: "exchange".to_owned(),
            destination_name: queue.name.to_string(),
            destination_kind: "queue".to_owned(),
            routing_key: queue.name.to_string(),
            ..BindingRow::default()
        });
        let declared = picture.bindings(vhost).map(|binding| BindingRow {
            source_name: binding.source.to_string(),
            source_kind: "exchange".to_owned(),
            destination_name: binding.destination.name().to_owned(),
            destination_kind: binding.destination.kind().to_owned(),
            routing_key: binding.routing_key.to_string(),
            arguments: Arguments::from(&binding.arguments),
        });
        implied.chain(declared).map(|row| json(&row)).collect()
    }

    pub(super) fn list_certificates(&self) -> Vec<String> {
        let now_s = clock::wall_ms().cast_signed() / 1_000;
        let rows = self.certificates.iter().filter_map(|credentials| {
            let read = Certificate::parse(&credentials.certificate())?;
            let until = i64::try_from(read.valid_until).unwrap_or(i64::MAX);
            Some(CertificateRow {
                file: credentials.files().cert.display().to_string(),
                subject: read.subject,
                validity: read.validity,
                expires_in: until.saturating_sub(now_s),
            })
        });
        rows.map(|row| json(&row)).collect()
    }

    pub(super) fn list_users(&self) -> Vec<String> {
        let picture = self.view.picture();
        picture
            .users()
            .map(|user| {
                json(&UserRow {
                    user: user.name.to_string(),
                    tags: user.tags.clone(),
                })
            })
            .collect()
    }

    pub(super) fn list_vhosts(&self) -> Vec<String> {
        let picture = self.view.picture();
        let rows = picture.vhosts().map(|vhost| VhostRow {
            name: vhost.name.to_string(),
            description: vhost.description.clone(),
            tags: vhost.tags.clone(),
            default_queue_type: vhost.default_queue_type.clone(),
            protected_from_deletion: vhost.is_protected,
        });
        rows.map(|row| json(&row)).collect()
    }

    /// Rows whose user and vhost `wanted` accepts.
    pub(super) fn list_permissions(&self, wanted: impl Fn(&str, &str) -> bool) -> Vec<String> {
        let picture = self.view.picture();
        let rows = picture.permissions().filter(|(user, vhost, _)| wanted(user, vhost));
        let rows = rows.map(|(user, vhost, permission)| PermissionRow {
            user: user.to_string(),
            vhost: vhost.to_string(),
            configure: permission.text(Access::Configure).to_owned(),
            write: permission.text(Access::Write).to_owned(),
            read: permission.text(Access::Read).to_owned(),
        });
        rows.map(|row| json(&row)).collect()
    }

    fn alarm_lines(&self) -> Vec<String> {
        let mut lines = Vec::new();
        for (node, shortage) in self.alarms.nodes() {
            let name = self.name_of(node);
            if shortage.memory {
                lines.push(format!("Memory alarm on node {name}"));
            }
            if shortage.disk {
                lines.push(format!("Free disk space alarm on node {name}"));
            }
        }
        lines
    }

    pub(super) fn status(&self) -> Rows {
        let picture = self.view.picture();
        let (usage, disk_free_limit) = self.alarms.usage();
        Ok(vec![json(&StatusRow {
            node: self.facts.name.clone(),
            product_name: PRODUCT.to_owned(),
            product_version: env!("CARGO_PKG_VERSION").to_owned(),
            pid: u64::from(std::process::id()),
            os: std::env::consts::OS.to_owned(),
            uptime: self.facts.started.elapsed().as_secs(),
            data_directory: self.facts.data_dir.clone(),
            listeners: self.listeners(),
            alarms: self.alarm_lines(),
            memory_used: usage.memory.or_else(resident_bytes).unwrap_or(0),
            vm_memory_high_watermark_limit: usage.memory_max.unwrap_or(0),
            disk_free: usage.disk_free.unwrap_or(0),
            disk_free_limit,
            totals: Totals {
                connection_count: self
                    .open_listeners()
                    .iter()
                    .map(|open| open.registry.len() as u64)
                    .sum(),
                queue_count: picture.all_queues().filter(|queue| !queue.is_delay).count() as u64,
                virtual_host_count: picture.vhosts().count() as u64,
            },
        })])
    }

    fn maintenance(&self) -> BTreeMap<String, String> {
        let picture = self.view.picture();
        let text = |draining| {
            if draining {
                "marked for maintenance"
            } else {
                "not under maintenance"
            }
        };
        let row = |(id, node): (u64, &Arc<crate::metadata::Node>)| (self.name_of(id), text(node.draining).to_owned());
        picture.nodes().map(row).collect()
    }

    /// Each version of the log's entries after the first: whether the cluster has gone over to it.
    pub(super) fn feature_flags(&self) -> Vec<FeatureFlag> {
        let agreed = self.view.picture().version();
        let flag = |version| FeatureFlag {
            name: format!("entries_v{version}"),
            state: if version <= agreed { "enabled" } else { "disabled" }.to_owned(),
        };
        (warren_cluster::version::FIRST + 1..=warren_cluster::version::LATEST)
            .map(flag)
            .collect()
    }

    /// The cluster goes over to a version by itself as soon as it can, so what is disabled cannot be enabled yet.
    pub(super) fn enable_feature_flag(&self, name: &str) -> Rows {
        let flags = self.feature_flags();
        let mut wanted = flags
            .iter()
            .filter(|flag| name == "all" || flag.name == name)
            .peekable();
        if wanted.peek().is_none() {
            let own = &self.facts.name;
            let text = format!("This feature flag is not supported by node {own}");
            return Err(Failure::new(status::USAGE, text));
        }
        let Some(disabled) = wanted.find(|flag| flag.state != "enabled") else {
            return Ok(Vec::new());
        };
        let picture = self.view.picture();
        let nodes = picture.nodes();
        let behind = nodes.filter(|(_, node)| !node.live || node.version < warren_cluster::version::LATEST);
        let behind: Vec<_> = behind.map(|(id, _)| self.name_of(id)).collect();
        let text = format!(
            "{} is enabled once every node runs and supports it; those that do not: {}",
            disabled.name,
            behind.join(", ")
        );
        Err(Failure::new(status::TEMPORARY, text))
    }

    pub(super) fn cluster_status(&self) -> Rows {
        let running: Vec<String> = self.running().into_iter().map(|node| self.name_of(node)).collect();
        let mut members: Vec<String> = self.names().into_values().collect();
        members.sort();
        let unheard: Vec<String> = members.iter().filter(|name| !running.contains(name)).cloned().collect();
        let name = self.facts.name.clone();
        let version = Version {
            product_name: PRODUCT.to_owned(),
            product_version: env!("CARGO_PKG_VERSION").to_owned(),
        };
        let cores = std::thread::available_parallelism().map_or(1, usize::from);
        Ok(vec![json(&ClusterStatusRow {
            node: name.clone(),
            cluster_name: self.facts.cluster.clone(),
            disk_nodes: members,
            running_nodes: running,
            maintenance_status: self.maintenance(),
            alarms: self.alarm_lines(),
            partitions: if unheard.is_empty() {
                BTreeMap::new()
            } else {
                BTreeMap::from([(name.clone(), unheard)])
            },
            listeners: BTreeMap::from([(name.clone(), self.listeners())]),
            versions: BTreeMap::from([(name.clone(), version)]),
            cpu_cores: BTreeMap::from([(name, cores as u64)]),
            feature_flags: self.feature_flags(),
            ..ClusterStatusRow::default()
        })])
    }
}
