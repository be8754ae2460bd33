//! The end of a node that cannot go on: one named reason, one exit status.
//!
//! A part of a node never ends alone: a node that lost a thread would go on promising what nobody keeps.

use std::fmt::Display;
use std::path::{Path, PathBuf};
use std::sync::OnceLock;

use warren_cluster::group;

/// Exit status of a node whose store failed, cannot be opened, or holds what it cannot hold.
pub const EXIT_STORE: u8 = 74;
/// Exit status of a node that could not start or end in good order, or in which something happened that cannot happen.
pub const EXIT_BROKEN: u8 = 70;

/// Exit status of a node that its cluster has removed for good, or cannot be part of: only an operator can help, as with a configuration.
pub const EXIT_FORGOTTEN: u8 = 78;
/// Exit status of a node that the cluster, or its data, has left behind: an entry is of a later version.
pub const EXIT_VERSION: u8 = 76;

static DATA_DIR: OnceLock<PathBuf> = OnceLock::new();

/// From now on a panic of any thread ends the process, and every end names the node's data directory.
pub fn watch(data_dir: &Path) {
    // Only tests start a second node in one process, and they see the first one's directory named.
    let _ = DATA_DIR.set(data_dir.to_path_buf());
    std::panic::set_hook(Box::new(|panic| {
        let reason = panic.payload_as_str().unwrap_or("no reason was given");
        let place = panic.location().map(ToString::to_string).unwrap_or_default();
        tracing::error!(reason, place, data_dir = %data_dir_text(), "the node stops: a part of it failed");
        exit(EXIT_BROKEN)
    }));
}

/// Ends the process: its state on disk can no longer be trusted to be what it was told.
///
/// What was confirmed is in the log; a restart recovers from it.
pub fn stop(reason: &dyn Display) -> ! {
    tracing::error!(%reason, data_dir = %data_dir_text(), "the node stops: its store failed");
    exit(EXIT_STORE)
}

/// Ends the process: the cluster has removed this node for good, or has given it up.
pub fn forgotten(reason: &str) -> ! {
    tracing::error!(reason, data_dir = %data_dir_text(), "the node stops: its cluster goes on without it");
    exit(EXIT_FORGOTTEN)
}

/// Ends the process: there is a cluster of its name which this node cannot be part of as it is.
pub fn misplaced(reason: &dyn Display) -> ! {
    tracing::error!(%reason, data_dir = %data_dir_text(), "the node stops: it cannot be part of the cluster that there is");
    exit(EXIT_FORGOTTEN)
}

/// Ends the process for a group that cannot go on.
pub fn stop_group(reason: &group::Error) -> ! {
    if let group::Error::Version { .. } = reason {
        tracing::error!(%reason, data_dir = %data_dir_text(), "the node stops: its cluster runs a later version");
        exit(EXIT_VERSION)
    }
    stop(reason)
}

fn data_dir_text() -> String {
    DATA_DIR
        .get()
        .map(|path| path.display().to_string())
        .unwrap_or_default()
}

#[expect(clippy::exit, reason = "the one place that ends a running node")]
fn exit(status: u8) -> ! {
    std::process::exit(status.into())
}
