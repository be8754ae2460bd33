//! Fanout: every binding matches.

use super::{Target, Targets};

/// All targets, whatever the key.
#[derive(Clone, Debug, Default)]
pub struct Fanout {
    targets: Targets,
}

impl Fanout {
    pub(super) fn bind(&mut self, target: &Target) {
        self.targets.add(target);
    }

    pub(super) fn unbind(&mut self, target: &Target) {
        self.targets.remove(target);
    }

    pub(super) fn matches(&self, out: &mut Vec<Target>) {
        self.targets.extend(out);
    }
}
