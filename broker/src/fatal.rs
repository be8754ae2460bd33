//! The end of a node that cannot go on: one named reason, one exit status.

use std::fmt::Display;

/// Exit status of a node whose store failed or holds what it cannot hold.
pub const EXIT_STORE: i32 = 74;

/// Ends the process: its state on disk can no longer be trusted to be what it was told.
///
/// What was confirmed is in the log; a restart recovers from it.
#[expect(clippy::exit, reason = "the one place that ends a running node")]
pub fn stop(reason: &dyn Display) -> ! {
    tracing::error!(%reason, "the node stops: its store failed");
    std::process::exit(EXIT_STORE)
}
