//! Targets side by side on a line, each as long as its weight: whoever has a point of the line finds its target.
//!
//! What lies where depends only on the bindings there are, not on the order in which they came, so that every node
//! finds the same target. Queues lie in the order of their declaration: a new one is put at the end, and those before
//! it stay where they are.

use std::sync::Arc;

use super::Target;

/// See the module. Clones share.
#[derive(Clone, Debug, Default)]
pub(super) struct Line {
    /// By target. A change copies them all; a look-up is a binary search.
    parts: Arc<[Part]>,
}

#[derive(Clone, Debug)]
struct Part {
    target: Target,
    bindings: u32,
    weight: u64,
    /// Where it ends, exclusive; the next one begins there.
    end: u64,
}

impl Line {
    /// One more binding to `target`, which makes it longer by `weight`.
    pub(super) fn lengthen(&mut self, target: &Target, weight: u64) {
        self.change(target, |part| {
            part.bindings += 1;
            part.weight = part.weight.saturating_add(weight);
        });
    }

    /// Takes back what [`Line::lengthen`] did.
    pub(super) fn shorten(&mut self, target: &Target, weight: u64) {
        self.change(target, |part| {
            part.bindings = part.bindings.saturating_sub(1);
            part.weight = part.weight.saturating_sub(weight);
        });
    }

    fn change(&mut self, target: &Target, change: impl FnOnce(&mut Part)) {
        let mut parts = self.parts.to_vec();
        let at = match parts.binary_search_by(|part| part.target.cmp(target)) {
            Ok(at) => at,
            Err(at) => {
                let part = Part {
                    target: target.clone(),
                    bindings: 0,
                    weight: 0,
                    end: 0,
                };
                parts.insert(at, part);
                at
            }
        };
        change(&mut parts[at]);
        if parts[at].bindings == 0 {
            parts.remove(at);
        }
        let mut end = 0;
        for part in &mut parts {
            end = part.weight.saturating_add(end);
            part.end = end;
        }
        self.parts = parts.into();
    }

    /// The sum of the weights.
    pub(super) fn len(&self) -> u64 {
        self.parts.last().map_or(0, |part| part.end)
    }

    /// Whose part that point lies in; `None` beyond the end.
    pub(super) fn at(&self, point: u64) -> Option<&Target> {
        let at = self.parts.partition_point(|part| part.end <= point);
        self.parts.get(at).map(|part| &part.target)
    }

    /// How many targets there are.
    pub(super) fn count(&self) -> u64 {
        self.parts.len() as u64
    }

    /// The target of that number, whatever its weight.
    pub(super) fn nth(&self, number: u64) -> Option<&Target> {
        let part = self.parts.get(usize::try_from(number).ok()?);
        part.map(|part| &part.target)
    }
}
