//! Definitions: everything that clients and operators declare and set, as one JSON document in RabbitMQ's form.
//!
//! ```text
//!   picture ──export──▶ document ──plan──▶ stages of changes ──▶ metadata, one stage after the other
//!                                   '──▶ the entry that does not do, and nothing is changed
//! ```
//!
//! An import adds. What can change (users, permissions, limits, policies, parameters) is as the document says
//! afterwards; queues, exchanges and bindings that are there already stay as they are, and so does what the document
//! does not name. Sections that are missing, and keys that are not known, mean nothing.

use std::path::Path;
use std::time::Duration;

use futures_util::future::join_all;
use serde_json::Value;

use super::protocol::{ImportedRow, status};
use super::{Admin, Failure, Inner, Rows, json};
use crate::metadata::client::MetadataClient;
use crate::metadata::{Change, Outcome, Refusal, Run};

mod arguments;
mod entry;
mod export;
mod import;
#[cfg(test)]
mod tests;

use import::{Importer, Target};

/// Pieces of a document in characters; each is one row.
const PIECE_LEN: usize = 1 << 18;
/// When an import at boot is tried again.
const RETRY: Duration = Duration::from_secs(1);
/// Changes that are asked for at once.
const AT_ONCE: usize = 256;

impl Inner {
    pub(super) fn export_definitions(&self, vhost: Option<&str>) -> Rows {
        let picture = self.view.picture();
        if let Some(vhost) = vhost
            && picture.vhost(vhost).is_none()
        {
            let text = format!("Virtual host '{vhost}' does not exist");
            return Err(Failure::new(status::DATA, text));
        }
        let document = match vhost {
            Some(vhost) => export::vhost(&picture, vhost),
            None => export::cluster(&picture, &self.facts.cluster),
        };
        let text = serde_json::to_string_pretty(&document).expect("a document of maps with names as keys");
        let characters: Vec<char> = text.chars().collect();
        let pieces = characters.chunks(PIECE_LEN);
        Ok(pieces.map(|piece| json(&piece.iter().collect::<String>())).collect())
    }

    pub(super) async fn import_definitions(&self, vhost: Option<&str>, text: &str) -> Rows {
        let refused = |text: String| Failure::new(status::DATA, text);
        let document: Value =
            crate::json::read(text).map_err(|error| refused(format!("the definitions are no JSON: {error}")))?;
        let metadata = &self.parts()?.metadata;
        let picture = self.view.picture();
        let target = Target {
            vhost,
            home: Run {
                node: self.directory.node(),
                incarnation: self.directory.incarnation(),
            },
            members: &self.names().into_keys().collect::<Vec<_>>(),
            group_size: self.facts.group_size,
        };
        let stages = Importer::plan(&picture, &document, &target).map_err(refused)?;
        let mut changed = 0;
        for changes in stages.iter().flat_map(|stage| stage.chunks(AT_ONCE)) {
            self.make(metadata, changes).await?;
            changed += changes.len() as u64;
        }
        Ok(vec![json(&ImportedRow { changed })])
    }

    /// Makes changes of which none needs another.
    async fn make(&self, metadata: &MetadataClient, changes: &[Staged]) -> Result<(), Failure> {
        let asked = changes.iter().map(|staged| metadata.submit(staged.change.clone()));
        for (staged, outcome) in changes.iter().zip(join_all(asked).await) {
            match outcome {
                Ok(Outcome::Done | Outcome::Queue(_)) => {}
                // Somebody else was faster, and what is there stays.
                Ok(Outcome::Refused(refusal))
                    if staged.may_be_there && !matches!(refusal, Refusal::QueueLimit { .. }) => {}
                Ok(Outcome::Refused(refusal)) => {
                    return Err(Failure::new(status::DATA, format!("{}: {refusal}", staged.entry)));
                }
                Err(_) => return Err(Failure::unavailable()),
            }
        }
        Ok(())
    }
}

/// A change that an entry of the document asks for.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Staged {
    change: Change,
    /// The entry, for messages.
    entry: String,
    /// What is there already is no fault.
    may_be_there: bool,
}

impl Admin {
    /// Imports a file at boot, before clients are let in; waits while there is no majority that could take it.
    pub async fn import_file(&self, path: &Path) -> anyhow::Result<()> {
        let text = std::fs::read_to_string(path)
            .map_err(|error| anyhow::anyhow!("definitions.path {}: {error}", path.display()))?;
        loop {
            match self.inner.import_definitions(None, &text).await {
                Ok(_) => break,
                Err(failure) if failure.status == status::UNAVAILABLE => {
                    tracing::warn!(path = %path.display(), reason = failure.text, "definitions not imported yet");
                    tokio::time::sleep(RETRY).await;
                }
                Err(failure) => anyhow::bail!("definitions.path {}: {}", path.display(), failure.text),
            }
        }
        tracing::info!(path = %path.display(), "definitions imported");
        Ok(())
    }
}
