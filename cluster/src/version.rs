//! Which behaviour entries call for while nodes of different builds are in one cluster.
//!
//! Every entry says with its version how it is to be applied, so that a replica of an older build never guesses: it
//! stops at the first entry that it cannot know. Leaders stamp the version that the cluster has agreed on, which is
//! raised, by the metadata's log, once every node supports the next one.

use std::fmt;
use std::sync::Arc;
use std::sync::atomic::{AtomicU16, Ordering};

/// The behaviour of the first build, which every later one knows.
pub const FIRST: u16 = 1;
/// The newest behaviour that this build knows.
pub const LATEST: u16 = 4;

/// What this node supports, and what its cluster has agreed on. A clone is the same.
#[derive(Clone)]
pub struct Versions(Arc<Inner>);

struct Inner {
    supported: u16,
    agreed: AtomicU16,
}

impl Versions {
    /// Of a node that supports versions up to `supported`, and has not heard yet what was agreed on.
    pub fn new(supported: u16) -> Self {
        Self(Arc::new(Inner {
            supported: supported.clamp(FIRST, LATEST),
            agreed: AtomicU16::new(FIRST),
        }))
    }

    /// The newest version that this node applies.
    pub fn supported(&self) -> u16 {
        self.0.supported
    }

    /// What leaders stamp.
    pub fn agreed(&self) -> u16 {
        // Entries of the old version are as good after it was raised: nothing hangs on seeing it at once.
        self.0.agreed.load(Ordering::Relaxed)
    }

    /// The cluster has agreed on `version`. It never goes back.
    pub fn agree(&self, version: u16) {
        self.0.agreed.fetch_max(version, Ordering::Relaxed);
    }
}

impl Default for Versions {
    fn default() -> Self {
        Self::new(LATEST)
    }
}

impl fmt::Debug for Versions {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} of {}", self.agreed(), self.supported())
    }
}
