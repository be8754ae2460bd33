//! The small files of a node's data directory, beside its log: each is replaced whole, and on disk before it counts.

use std::path::{Path, PathBuf};

use anyhow::Context as _;
use serde::Serialize;
use serde::de::DeserializeOwned;

use crate::clock;

/// The log's directory within the data directory.
pub const LOG: &str = "log";
/// The file with the number of the latest run.
pub const INCARNATION: &str = "incarnation";
/// The file with the number of the first run that had this directory.
pub const DIRECTORY: &str = "directory";

/// A number greater than that of every earlier run, on disk before it is used.
///
/// It also follows the clock, so that a node that lost its disk does not introduce itself as an older run.
pub fn next_incarnation(path: &Path) -> anyhow::Result<u64> {
    let next = (stored_number(path)? + 1).max(clock::wall_ms());
    store_number(path, next)?;
    Ok(next)
}

/// The first run that had this data directory; 0 where an earlier version made it, which did not say.
///
/// One whose log holds nothing is a new one, whatever else is there.
pub fn first_run(path: &Path, is_empty: bool, incarnation: u64) -> anyhow::Result<u64> {
    if !is_empty {
        return stored_number(path);
    }
    store_number(path, incarnation)?;
    Ok(incarnation)
}

/// 0 where there is no such file.
pub fn stored_number(path: &Path) -> anyhow::Result<u64> {
    match std::fs::read_to_string(path) {
        Ok(text) => text
            .trim()
            .parse::<u64>()
            .with_context(|| format!("{} does not hold a number: {text:?}", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(0),
        Err(error) => Err(error).with_context(|| format!("{} cannot be read", path.display())),
    }
}

pub fn store_number(path: &Path, number: u64) -> anyhow::Result<()> {
    store_text(path, &number.to_string())
}

/// What [`store_json`] put there; none where there is no such file. `what` it is, an operator is told if it is something
/// else.
pub fn stored_json<T: DeserializeOwned>(path: &Path, what: &str) -> anyhow::Result<Option<T>> {
    match std::fs::read_to_string(path) {
        Ok(text) => serde_json::from_str(&text)
            .map(Some)
            .with_context(|| format!("{} does not hold {what}", path.display())),
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(error).with_context(|| format!("{} cannot be read", path.display())),
    }
}

pub fn store_json(path: &Path, value: &impl Serialize) -> anyhow::Result<()> {
    let text = serde_json::to_string_pretty(value).with_context(|| format!("{} cannot hold it", path.display()))?;
    store_text(path, &text)
}

/// Puts the whole text there, or leaves what was there.
fn store_text(path: &Path, text: &str) -> anyhow::Result<()> {
    let new: PathBuf = path.with_extension("new");
    let write = || -> std::io::Result<()> {
        std::fs::write(&new, text)?;
        std::fs::File::open(&new)?.sync_all()?;
        std::fs::rename(&new, path)?;
        if let Some(parent) = path.parent() {
            std::fs::File::open(parent)?.sync_all()?;
        }
        Ok(())
    };
    write().with_context(|| format!("{} cannot be written", path.display()))
}
