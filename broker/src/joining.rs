//! A new node on its way into a cluster that others have begun.
//!
//! ```text
//! new node, or warrenctl for it ── JoinCluster ─▶ a node of the cluster: the new one is among its nodes from now on
//!                               ◀── JoinedRow ──  who they are
//!                               ──▶ DATA_DIR/joined, which every start reads until the metadata say more
//! ```
//!
//! Only a directory that holds nothing of a node can be that of a new one. What is asked for twice is done once, so a
//! node that ended in between asks again.

use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use warren_cluster::tls::Credentials;
use warren_cluster::transport::{AdminError, Peer, Secret, admin_call};

use crate::admin::protocol::{JoinedRow, MemberRow, Request, status};
use crate::boot::node_id;
use crate::config::{Address, Config};
use crate::data_dir::{self, DIRECTORY, INCARNATION, LOG};

/// The file's name in the data directory.
const FILE: &str = "joined";
/// Between two rounds of asking all nodes that are known.
const PAUSE: Duration = Duration::from_secs(1);
/// How long one of them may take.
const ANSWER: Duration = Duration::from_secs(30);

/// What a node that has joined knows of its cluster from elsewhere than the metadata.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Joined {
    /// The first run that had the directory which joined.
    pub directory: u64,
    /// It has begun to run.
    pub begun: bool,
    /// As it was answered.
    pub answer: JoinedRow,
}

impl Joined {
    /// The nodes that there were, without this one.
    pub fn peers(&self, own: &str) -> Vec<Peer> {
        let others = self.answer.members.iter().filter(|member| member.name != own);
        let peer = |member: &MemberRow| Peer {
            node: node_id(&member.name),
            name: member.name.clone(),
            address: member.address.clone(),
        };
        others.map(peer).collect()
    }
}

/// Why a node cannot join, for good.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("the data directory {0} is not that of a new node, it holds {1}: only one that holds nothing can join")]
    NotEmpty(String, String),
    #[error("{0}, where the node listens, is no address that others can reach: name it in cluster.seeds with one")]
    NoAddress(Address),
    #[error("cannot join the cluster: {0}")]
    Refused(String),
}

/// What was kept; none if this node has not joined a cluster that others began.
pub fn read(data_dir: &Path) -> anyhow::Result<Option<Joined>> {
    data_dir::stored_json(&data_dir.join(FILE), "what joining has left")
}

/// Keeps what the cluster has answered.
pub fn write(data_dir: &Path, joined: &Joined) -> anyhow::Result<()> {
    data_dir::store_json(&data_dir.join(FILE), joined)
}

/// Makes sure that the directory is that of a new node, and gives it its number: that of its first run.
pub fn number_directory(data_dir: &Path) -> anyhow::Result<u64> {
    std::fs::create_dir_all(data_dir).with_context(|| format!("{} cannot be made", data_dir.display()))?;
    let ours = [INCARNATION, DIRECTORY, FILE, "lost+found"];
    for held in std::fs::read_dir(data_dir).with_context(|| format!("{} cannot be listed", data_dir.display()))? {
        let name = held?.file_name().to_string_lossy().into_owned();
        let stem = name.strip_suffix(".new").unwrap_or(&name);
        if !ours.contains(&stem) {
            return Err(Error::NotEmpty(data_dir.display().to_string(), name).into());
        }
    }
    let path = data_dir.join(DIRECTORY);
    let known = data_dir::stored_number(&path)?;
    if known > 0 {
        return Ok(known);
    }
    let first = data_dir::next_incarnation(&data_dir.join(INCARNATION))?;
    data_dir::store_number(&path, first)?;
    Ok(first)
}

/// What is to be asked for.
pub fn request(config: &Config, directory: u64) -> Result<Request, Error> {
    let name = config.node.name.clone();
    let address = config.cluster.address_of(&name).unwrap_or(&config.cluster.listen);
    if address.is_unspecified() {
        return Err(Error::NoAddress(address.clone()));
    }
    let seeds = config.cluster.seeds.iter().map(|seed| MemberRow {
        name: seed.name.clone(),
        address: seed.address.to_string(),
    });
    Ok(Request::JoinCluster {
        name,
        address: address.to_string(),
        directory,
        seeds: seeds.collect(),
    })
}

/// What the node knows of the cluster that it has joined or is to join now; none if it begins one with others, or did.
pub async fn at_start(config: &Config, tls: Option<&Credentials>) -> anyhow::Result<Option<Joined>> {
    let data_dir = &config.node.data_dir;
    if let Some(joined) = read(data_dir)? {
        return Ok(Some(joined));
    }
    if !config.cluster.join || data_dir.join(LOG).exists() {
        return Ok(None);
    }
    let directory = number_directory(data_dir)?;
    let request = request(config, directory)?;
    let call = serde_json::to_string(&request).context("names and addresses are text")?;
    let seeds = &config.cluster.seeds;
    let others: Vec<_> = seeds.iter().filter(|seed| seed.name != config.node.name).collect();
    let mut said = String::new();
    loop {
        for seed in &others {
            match ask(config, &seed.address.to_string(), tls.cloned(), call.clone()).await {
                Ok(answer) => {
                    tracing::info!(by = seed.name, "the node has joined its cluster");
                    let joined = Joined {
                        directory,
                        begun: false,
                        answer,
                    };
                    write(data_dir, &joined)?;
                    return Ok(Some(joined));
                }
                Err(error) if is_passing(&error) => {
                    if error.text != said {
                        tracing::warn!(reason = error.text, "cannot join the cluster yet");
                        said = error.text;
                    }
                }
                Err(error) => return Err(Error::Refused(error.text).into()),
            }
        }
        tokio::time::sleep(PAUSE).await;
    }
}

fn is_passing(error: &AdminError) -> bool {
    [status::UNAVAILABLE, status::TEMPORARY]
        .map(u32::from)
        .contains(&error.status)
}

async fn ask(config: &Config, address: &str, tls: Option<Credentials>, call: String) -> Result<JoinedRow, AdminError> {
    let secret = Secret::new(config.cluster.link_secret().as_bytes().to_vec());
    let broken = |status: u8, text: String| AdminError {
        status: status.into(),
        text,
    };
    let asked = async {
        let rows = admin_call(address, &config.cluster.name, secret, tls, call).await?;
        rows.collect().await
    };
    let rows = tokio::time::timeout(ANSWER, asked)
        .await
        .map_err(|_elapsed| broken(status::TEMPORARY, format!("the node at {address} takes too long")))??;
    let row = rows.first().and_then(|row| serde_json::from_str(row).ok());
    row.ok_or_else(|| {
        broken(
            status::SOFTWARE,
            format!("the node at {address} does not know what joining is"),
        )
    })
}

#[cfg(test)]
mod tests;
