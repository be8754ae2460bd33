//! `status` and `cluster_status` in words, in rabbitmqctl's sections.

use std::fmt::Display;

use serde::de::DeserializeOwned;
use serde_json::Value;

use crate::admin::protocol::{ClusterStatusRow, Listener, StatusRow};

pub(super) fn cluster_status(row: &Value, banner: bool) -> String {
    let row: ClusterStatusRow = read(row);
    let mut text = Text::new(banner, "Cluster status", &row.node);
    let cores: u64 = row.cpu_cores.values().sum();
    text.section(
        "Basics",
        [
            format!("Cluster name: {}", row.cluster_name),
            format!("Total CPU cores available cluster-wide: {cores}"),
        ],
    );
    text.section("Cluster Tags", &row.cluster_tags);
    text.section("Disk Nodes", &row.disk_nodes);
    text.section("Running Nodes", &row.running_nodes);
    let version = |(node, version): (&String, &crate::admin::protocol::Version)| {
        format!("{node}: {} {}", version.product_name, version.product_version)
    };
    text.section("Versions", row.versions.iter().map(version));
    let cores = |(node, cores)| format!("Node: {node}, available CPU cores: {cores}");
    text.section("CPU Cores", row.cpu_cores.iter().map(cores));
    let maintenance = |(node, status)| format!("Node: {node}, status: {status}");
    text.section("Maintenance status", row.maintenance_status.iter().map(maintenance));
    text.section("Alarms", &row.alarms);
    let partition =
        |(node, others): (&String, &Vec<String>)| format!("Node {node} cannot communicate with {}", others.join(", "));
    text.section("Network Partitions", row.partitions.iter().map(partition));
    text.section("Listeners", row.listeners.values().flatten().map(listener));
    let flag = |flag: &crate::admin::protocol::FeatureFlag| format!("Flag: {}, state: {}", flag.name, flag.state);
    text.section("Feature flags", row.feature_flags.iter().map(flag));
    text.0
}

pub(super) fn status(row: &Value, banner: bool) -> String {
    let row: StatusRow = read(row);
    let mut text = Text::new(banner, "Status", &row.node);
    text.section(
        "Runtime",
        [
            format!("OS PID: {}", row.pid),
            format!("OS: {}", row.os),
            format!("Uptime (seconds): {}", row.uptime),
            format!("{} version: {}", row.product_name, row.product_version),
            format!("Node name: {}", row.node),
        ],
    );
    text.section(
        "Data directory",
        [format!("Node data directory: {}", row.data_directory)],
    );
    text.section("Alarms", &row.alarms);
    text.section(
        "Memory",
        [
            format!("Total memory used: {}", gigabytes(row.memory_used)),
            format!(
                "Memory high watermark setting computed to: {}",
                gigabytes(row.vm_memory_high_watermark_limit)
            ),
        ],
    );
    text.section(
        "Free Disk Space",
        [
            format!("Low free disk space watermark: {}", gigabytes(row.disk_free_limit)),
            format!("Free disk space: {}", gigabytes(row.disk_free)),
        ],
    );
    text.section(
        "Totals",
        [
            format!("Connection count: {}", row.totals.connection_count),
            format!("Queue count: {}", row.totals.queue_count),
            format!("Virtual host count: {}", row.totals.virtual_host_count),
        ],
    );
    text.section("Listeners", row.listeners.iter().map(listener));
    text.0
}

struct Text(String);

impl Text {
    fn new(banner: bool, what: &str, node: &str) -> Self {
        Self(if banner {
            format!("{what} of node {node} ...\n")
        } else {
            String::new()
        })
    }

    fn section(&mut self, heading: &str, lines: impl IntoIterator<Item = impl Display>) {
        if !self.0.is_empty() && self.0.lines().count() > 1 {
            self.0.push('\n');
        }
        self.0.push_str(heading);
        self.0.push_str("\n\n");
        let before = self.0.len();
        for line in lines {
            self.0.push_str(&format!("{line}\n"));
        }
        if self.0.len() == before {
            self.0.push_str("(none)\n");
        }
    }
}

fn listener(listener: &Listener) -> String {
    let Listener {
        node,
        protocol,
        interface,
        port,
        purpose,
    } = listener;
    format!("Node: {node}, interface: {interface}, port: {port}, protocol: {protocol}, purpose: {purpose}")
}

/// In units of 10^9 bytes, with four digits after the point.
fn gigabytes(bytes: u64) -> String {
    let tenths = bytes / 100_000;
    format!("{}.{:04} gb", tenths / 10_000, tenths % 10_000)
}

/// What cannot be read shows as unknown rather than as an error: the node may be of a later version.
fn read<R: DeserializeOwned + Default>(row: &Value) -> R {
    serde_json::from_value(row.clone()).unwrap_or_default()
}
