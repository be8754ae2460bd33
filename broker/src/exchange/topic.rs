//! Topic: the routing key's words match the binding's pattern, where `*` stands for one word and `#` for any number.
//!
//! Words are what lies between dots, so they may be empty; the empty key has no words at all.
//!
//! The patterns form a trie. A change copies the nodes from the root to its leaf and shares all others:
//!
//! ```text
//! stock.*.nyse, stock.#      (root) -stock-> ( ) -*-> ( ) -nyse-> (targets)
//!                                             \--#-> (targets)
//! ```

use std::collections::BTreeMap;
use std::sync::Arc;

use imbl::HashMap;

use super::{InvalidBinding, Target, Targets};
use crate::name::RoutingKey;

/// The most `#` in one pattern. Matching is quadratic in the key's length for the second one and gets worse from
/// there, and RabbitMQ has the same limit.
const HASHES_MAX: usize = 2;

/// The trie of one exchange.
#[derive(Clone, Debug, Default)]
pub struct Topic {
    root: Arc<Node>,
}

#[derive(Clone, Debug, Default)]
struct Node {
    /// By word; a literal word only. Hashed with a key of this process, so that no choice of words makes it slow, and
    /// never walked, so that the order does not matter.
    words: HashMap<RoutingKey, Arc<Node>>,
    star: Option<Arc<Node>>,
    hash: Option<Arc<Node>>,
    /// Of the patterns that end here.
    targets: Targets,
}

/// The words of a key or a pattern.
fn words(key: &str) -> impl Iterator<Item = &str> {
    let mut words = key.split('.');
    if key.is_empty() {
        words.next();
    }
    words
}

pub(super) fn validate(pattern: &str) -> Result<(), InvalidBinding> {
    let hashes = words(pattern).filter(|word| *word == "#").count();
    if hashes > HASHES_MAX {
        return Err(InvalidBinding(format!(
            "Topic binding key '{pattern}' uses {hashes} '#' wildcards, at most {HASHES_MAX} are allowed"
        )));
    }
    Ok(())
}

impl Topic {
    pub(super) fn bind(&mut self, pattern: &str, target: &Target) {
        let mut node = Arc::make_mut(&mut self.root);
        for word in words(pattern) {
            let next = match word {
                "*" => node.star.get_or_insert_default(),
                "#" => node.hash.get_or_insert_default(),
                word => node.words.entry(word.into()).or_default(),
            };
            node = Arc::make_mut(next);
        }
        node.targets.add(target);
    }

    pub(super) fn unbind(&mut self, pattern: &str, target: &Target) {
        Arc::make_mut(&mut self.root).unbind(&mut words(pattern), target);
    }

    pub(super) fn matches(&self, key: &str, out: &mut Vec<Target>) {
        // A key of 255 bytes has at most 256 words.
        let words: Vec<&str> = words(key).collect();
        let mut walk = Walk {
            words: &words,
            out,
            second: BTreeMap::new(),
        };
        walk.node(&self.root, 0, 0);
    }
}

impl Node {
    fn is_empty(&self) -> bool {
        self.targets.is_empty() && self.words.is_empty() && self.star.is_none() && self.hash.is_none()
    }

    /// Removes the pattern that `rest` leads to from here, and the nodes that nothing else needs.
    fn unbind<'a>(&mut self, rest: &mut impl Iterator<Item = &'a str>, target: &Target) {
        match rest.next() {
            None => self.targets.remove(target),
            Some("*") => Self::unbind_child(&mut self.star, rest, target),
            Some("#") => Self::unbind_child(&mut self.hash, rest, target),
            Some(word) => {
                let Some(child) = self.words.get_mut(word) else { return };
                let child = Arc::make_mut(child);
                child.unbind(rest, target);
                if child.is_empty() {
                    self.words.remove(word);
                }
            }
        }
    }

    fn unbind_child<'a>(child: &mut Option<Arc<Self>>, rest: &mut impl Iterator<Item = &'a str>, target: &Target) {
        let Some(node) = child else { return };
        let node = Arc::make_mut(node);
        node.unbind(rest, target);
        if node.is_empty() {
            *child = None;
        }
    }
}

/// One key's way through the trie.
struct Walk<'a> {
    words: &'a [&'a str],
    out: &'a mut Vec<Target>,
    /// From which word on the way behind a pattern's second `#` has been walked, by that node's address. Each way
    /// through the first `#` comes to it again, and only the part that was not walked yet can match anything new.
    second: BTreeMap<usize, usize>,
}

impl Walk<'_> {
    /// Walks on from `node`, which the words before `at` led to through `hashes` times `#`.
    fn node(&mut self, node: &Node, at: usize, hashes: usize) {
        match self.words.get(at) {
            None => node.targets.extend(self.out),
            Some(word) => {
                if let Some(child) = node.words.get(*word) {
                    self.node(child, at + 1, hashes);
                }
                if let Some(star) = &node.star {
                    self.node(star, at + 1, hashes);
                }
            }
        }
        if let Some(hash) = &node.hash {
            let end = self.words.len() + 1;
            let end = if hashes == 0 {
                end
            } else {
                let walked = self.second.entry(Arc::as_ptr(hash).addr()).or_insert(end);
                let end = *walked;
                *walked = at.min(end);
                end
            };
            for at in at..end {
                self.node(hash, at, hashes + 1);
            }
        }
    }
}
