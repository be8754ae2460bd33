//! A cluster that has lost the majority of its nodes for good, and goes on with what one or two of them hold.
//!
//! Decided by an operator on each survivor while it is stopped, with the same survivors everywhere:
//!
//! ```text
//! warrenctl recover_lost_majority ─▶ the metadata's group consists of the survivors   (the node's store)
//!                                 ─▶ DATA_DIR/recovered                               (who they are)
//! at the next start ─▶ only survivors are heard ─▶ whoever leads has it agreed on: see [`Change::Reform`]
//!                   ─▶ the others are forgotten, queues go on with the replicas that are left
//! ```
//!
//! [`Change::Reform`]: crate::metadata::Change::Reform

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;
use std::time::Duration;

use anyhow::Context as _;
use serde::{Deserialize, Serialize};
use warren_cluster::group::reform::{reform, replay};
use warren_cluster::log::rocks::RocksStore;
use warren_cluster::log::{Identity, LogStore};
use warren_cluster::tls::{Callers, Credentials};
use warren_cluster::transport::{Secret, admin_call};
use warren_cluster::{GroupId, NodeId};

use crate::admin::protocol::{Request, status};
use crate::boot::node_id;
use crate::config::Config;
use crate::data_dir::{self, LOG};
use crate::metadata::replica::{GROUP, Recovery};
use crate::metadata::{MetadataMachine, Picture, Queue, SURVIVORS_MAX, reformed_id};

/// The file's name in the data directory.
const FILE: &str = "recovered";

/// How long a node that is given up has to answer.
const ANSWER: Duration = Duration::from_secs(2);
/// Queues that are named in one line of a report.
const NAMED_MAX: usize = 1_000;

/// Why the majority that was lost is not done without. Nothing was changed.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("there is no data of a node in {0}")]
    NoData(String),
    #[error("the data in {0} know nothing of a cluster: this node cannot go on without the others")]
    NoCluster(String),
    #[error("this node had lost its disk and was not brought up again: what it holds is not whole; choose another one")]
    Fresh,
    #[error("'{0}' is not one of the cluster's nodes: {1}")]
    Unknown(String, String),
    #[error("node '{0}' itself must be among the survivors: run this on each of them, and nowhere else")]
    NotHere(String),
    #[error("{0} survivors: at most {SURVIVORS_MAX} can go on; empty the others, and have them join again")]
    TooMany(usize),
    #[error("{0} of {1} nodes are a majority: start them, and nothing is lost")]
    Majority(usize, usize),
}

/// What is going to happen, and how.
pub struct Plan {
    /// For the operator: what may be lost.
    pub report: String,
    kept: Kept,
    era: u64,
    store: RocksStore,
    voters: Vec<NodeId>,
    /// Names and addresses of the nodes that are given up.
    gone: Vec<(String, String)>,
}

impl Plan {
    /// What these survivors, of which the node of this configuration is one, would go on with. The node must be stopped.
    pub fn of(config: &Config, survivors: &[String]) -> anyhow::Result<Self> {
        let data_dir = &config.node.data_dir;
        let path = data_dir.join(LOG);
        let shown = data_dir.display().to_string();
        if !path.exists() {
            return Err(Error::NoData(shown).into());
        }
        let identity = Identity {
            cluster: config.cluster.name.clone(),
            node: config.node.name.clone(),
        };
        let store = RocksStore::open(path, &identity)?;
        let state = store.state(GROUP)?.filter(|state| !state.removed);
        let state = state.ok_or_else(|| Error::NoCluster(shown.clone()))?;
        if state.fresh {
            return Err(Error::Fresh.into());
        }
        let mut machine = MetadataMachine::new();
        replay(&store, GROUP, &state, &mut machine)?;
        let picture = machine.picture();
        if picture.cluster_id().is_empty() {
            return Err(Error::NoCluster(shown).into());
        }
        let (names, left) = check(&config.node.name, survivors, picture)?;
        // Called again before the node was started, it decides the same; and so do survivors that name the same.
        let (cluster_id, era) = reformed_id(picture.cluster_id(), node_id(&names.join(",")));
        let own = node_id(&config.node.name);
        let gone = picture.nodes().filter(|(node, _)| !left.contains(node));
        let gone = gone
            .map(|(_, known)| (known.name.clone(), known.address.clone()))
            .collect();
        Ok(Self {
            report: report(picture, &left, &lost_here(&store, picture, own)?),
            kept: Kept {
                cluster_id,
                survivors: names,
            },
            era,
            store,
            voters: left,
            gone,
        })
    }

    /// Those nodes that are given up and answer all the same, each with its address: what they go on to confirm would be
    /// lost.
    /// Must not be called in a runtime.
    pub fn answering(&self, config: &Config) -> anyhow::Result<Vec<String>> {
        let tls = config.cluster.tls_files();
        let tls = tls
            .map(|files| Credentials::read(files, Callers::Verified))
            .transpose()?;
        let call = serde_json::to_string(&Request::Ping).context("a request is text")?;
        let ask = async |address: &str| {
            let secret = Secret::new(config.cluster.link_secret().as_bytes().to_vec());
            let asked = admin_call(address, &config.cluster.name, secret, tls.clone(), call.clone());
            match tokio::time::timeout(ANSWER, asked).await {
                Ok(Err(error)) if error.status == u32::from(status::UNAVAILABLE) => None,
                // Of another cluster, as far as this node's configuration can be trusted to say.
                Ok(Err(error)) => Some(format!("{address} answers: {}", error.text)),
                Ok(Ok(_)) => Some(address.to_owned()),
                Err(_elapsed) => None,
            }
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let asked = self.gone.iter().map(|(_, address)| ask(address));
        let answers = runtime.block_on(futures_util::future::join_all(asked));
        let there = self.gone.iter().zip(answers);
        Ok(there
            .filter_map(|((name, _), answer)| Some(format!("{name} ({})", answer?)))
            .collect())
    }

    /// Does it. The node can be started then.
    pub fn carry_out(self, data_dir: &Path) -> anyhow::Result<()> {
        write(data_dir, &self.kept)?;
        let state = self.store.state(GROUP)?.unwrap_or_default();
        let writes = reform(&state, GROUP, &self.voters, self.era);
        self.store.write(&writes, true)?;
        Ok(())
    }
}

/// The survivors' names and numbers.
fn check(own: &str, survivors: &[String], picture: &Picture) -> Result<(Vec<String>, Vec<NodeId>), Error> {
    let mut names = survivors.to_vec();
    names.sort();
    names.dedup();
    let all: Vec<&str> = picture.nodes().map(|(_, known)| known.name.as_str()).collect();
    if let Some(stranger) = names.iter().find(|name| !all.contains(&name.as_str())) {
        return Err(Error::Unknown(stranger.clone(), all.join(", ")));
    }
    if !names.iter().any(|name| name == own) {
        return Err(Error::NotHere(own.to_owned()));
    }
    // One that has joined and never ran has no vote.
    let voters = picture.nodes().filter(|(_, known)| known.run.incarnation > 0).count();
    if 2 * names.len() > voters {
        return Err(Error::Majority(names.len(), voters));
    }
    if names.len() > SURVIVORS_MAX {
        return Err(Error::TooMany(names.len()));
    }
    let mut left: Vec<NodeId> = names.iter().map(|name| node_id(name)).collect();
    left.sort_unstable();
    Ok((names, left))
}

/// The queues of which this node should hold a replica, and does not hold a whole one: its disk was lost, and the others
/// had not brought it up.
fn lost_here(store: &dyn LogStore, picture: &Picture, own: NodeId) -> anyhow::Result<BTreeSet<GroupId>> {
    let mut lost = BTreeSet::new();
    let here = picture.all_queues().filter(|queue| queue.replicas().contains(&own));
    for queue in here.filter(|queue| !queue.is_transient() && !queue.is_lost()) {
        if store
            .state(queue.group)?
            .is_none_or(|state| state.fresh || state.removed)
        {
            lost.insert(queue.group);
        }
    }
    Ok(lost)
}

/// What may be lost, in words. `lost` are queues whose replica on this node is not whole.
fn report(picture: &Picture, left: &[NodeId], lost: &BTreeSet<GroupId>) -> String {
    let mut out = String::new();
    let mut say = |text: &str| {
        // Text takes any text.
        let _ = writeln!(out, "{text}");
    };
    let names = |there: bool| -> String {
        let nodes = picture.nodes().filter(|(node, _)| left.contains(node) == there);
        nodes
            .map(|(_, known)| known.name.clone())
            .collect::<Vec<_>>()
            .join(", ")
    };
    say(&format!("The cluster goes on with what is held by: {}", names(true)));
    say(&format!(
        "These nodes are removed from it for good, and refused if they return: {}",
        names(false)
    ));
    say("Users, permissions, policies, exchanges, bindings and queues that only the removed nodes know of are lost.");
    let there = |queue: &Queue| {
        let here = queue.replicas().iter().filter(|node| left.contains(node)).count();
        here - usize::from(lost.contains(&queue.group))
    };
    let is_whole = |queue: &Queue| {
        let (here, all) = (there(queue), queue.replicas().len());
        here == all || (queue.moves().is_none() && 2 * here > all)
    };
    let mut list = |what: &str, chosen: &dyn Fn(&Queue) -> bool| {
        let queues: Vec<String> = picture
            .all_queues()
            .filter(|queue| !queue.is_transient() && chosen(queue))
            .map(|queue| queue.resource().to_string())
            .collect();
        let more = queues.len().saturating_sub(NAMED_MAX);
        say(&format!("{what}: {}", queues.len()));
        for queue in queues.iter().take(NAMED_MAX) {
            say(&format!("  {queue}"));
        }
        if more > 0 {
            say(&format!("  and {more} more"));
        }
    };
    list("Queues of which nothing is lost", &is_whole);
    list(
        "Queues that lose what was confirmed or settled without these nodes, if anything was",
        &|queue| there(queue) > 0 && !is_whole(queue),
    );
    list(
        "Queues of which nothing is left; they can be deleted (delete_queue) and declared again",
        &|queue| there(queue) == 0,
    );
    if !lost.is_empty() {
        list(
            "Queues of which what this node should hold is not whole, because it had lost its disk; what there is of them \
             is on the other survivor, if anywhere",
            &|queue| lost.contains(&queue.group),
        );
    }
    out
}

/// What was decided.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Kept {
    /// The names of the nodes that go on.
    pub survivors: Vec<String>,
    /// What the cluster is called since.
    pub cluster_id: String,
}

impl Kept {
    /// The decision as the metadata take it, in this run.
    pub fn decision(&self, incarnation: u64) -> Recovery {
        Recovery {
            survivors: self.survivors.iter().map(|name| node_id(name)).collect(),
            until: incarnation,
            cluster_id: self.cluster_id.clone(),
        }
    }
}

/// What was kept; none if nothing was ever decided here.
pub fn read(data_dir: &Path) -> anyhow::Result<Option<Kept>> {
    data_dir::stored_json(&data_dir.join(FILE), "what a recovery has left")
}

/// Keeps what was decided.
pub fn write(data_dir: &Path, kept: &Kept) -> anyhow::Result<()> {
    data_dir::store_json(&data_dir.join(FILE), kept)
}
