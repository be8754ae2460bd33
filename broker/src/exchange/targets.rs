//! A set of targets that counts how many bindings lead to each of them.

use std::sync::Arc;

use imbl::OrdMap;

use super::Target;

/// More targets than this are kept in a tree, so that changing one does not copy all.
const FEW: usize = 16;

/// Most sets hold one target or a few: an array of exactly that many. Clones share.
#[derive(Clone, Debug, Default)]
pub struct Targets(Inner);

#[derive(Clone, Debug)]
enum Inner {
    /// Ascending.
    Few(Arc<[(Target, u32)]>),
    Many(OrdMap<Target, u32>),
}

impl Default for Inner {
    fn default() -> Self {
        Self::Few(Arc::new([]))
    }
}

impl Targets {
    pub fn is_empty(&self) -> bool {
        match &self.0 {
            Inner::Few(few) => few.is_empty(),
            Inner::Many(many) => many.is_empty(),
        }
    }

    /// Counts one more binding to `target`.
    pub fn add(&mut self, target: &Target) {
        match &mut self.0 {
            Inner::Few(few) => {
                let mut all = few.to_vec();
                match all.binary_search_by(|(own, _)| own.cmp(target)) {
                    Ok(at) => all[at].1 += 1,
                    Err(at) => all.insert(at, (target.clone(), 1)),
                }
                self.0 = if all.len() > FEW {
                    Inner::Many(all.into_iter().collect())
                } else {
                    Inner::Few(all.into())
                };
            }
            Inner::Many(many) => *many.entry(target.clone()).or_insert(0) += 1,
        }
    }

    /// Counts one binding to `target` less; the last one removes it.
    pub fn remove(&mut self, target: &Target) {
        match &mut self.0 {
            Inner::Few(few) => {
                let Ok(at) = few.binary_search_by(|(own, _)| own.cmp(target)) else {
                    return;
                };
                let mut all = few.to_vec();
                if all[at].1 > 1 {
                    all[at].1 -= 1;
                } else {
                    all.remove(at);
                }
                self.0 = Inner::Few(all.into());
            }
            Inner::Many(many) => match many.get_mut(target) {
                Some(count) if *count > 1 => *count -= 1,
                Some(_) => {
                    many.remove(target);
                    // Half, so that a set of about that size does not change its form all the time.
                    if many.len() <= FEW / 2 {
                        self.0 = Inner::Few(many.iter().map(|(own, count)| (own.clone(), *count)).collect());
                    }
                }
                None => {}
            },
        }
    }

    /// Appends every target once.
    pub fn extend(&self, out: &mut Vec<Target>) {
        match &self.0 {
            Inner::Few(few) => out.extend(few.iter().map(|(target, _)| target.clone())),
            Inner::Many(many) => out.extend(many.keys().cloned()),
        }
    }
}
