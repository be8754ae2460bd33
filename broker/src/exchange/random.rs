//! Random: each message goes to one target of all that are bound, by a number drawn for it where it came in.

use super::line::Line;
use super::{Arrival, Target};

/// `x-random`. Each target has the same chance, however many bindings lead to it.
#[derive(Clone, Debug, Default)]
pub struct Random {
    line: Line,
}

impl Random {
    pub(super) fn bind(&mut self, target: &Target) {
        self.line.lengthen(target, 1);
    }

    pub(super) fn unbind(&mut self, target: &Target) {
        self.line.shorten(target, 1);
    }

    pub(super) fn matches(&self, arrival: &Arrival<'_>, out: &mut Vec<Target>) {
        let count = self.line.count();
        if count > 0 {
            out.extend(self.line.nth(arrival.draw % count).cloned());
        }
    }
}
