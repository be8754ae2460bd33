//! A map from ascending numbers to small records, made for numbers that come and go in runs.
//!
//! Numbers are kept in blocks of 32, so a run costs one tree search per block instead of one per number, and
//! a record that stays behind for ever costs one block and not everything that was numbered after it.

use std::collections::BTreeMap;

const BLOCK_LEN: u64 = 32;

#[derive(Clone, Debug)]
pub(super) struct Window<T> {
    /// By number / 32; no block is empty.
    blocks: BTreeMap<u64, Box<Block<T>>>,
    len: usize,
}

#[derive(Clone, Debug)]
struct Block<T> {
    /// Bit n: `slots[n]` holds a record.
    present: u32,
    slots: [T; BLOCK_LEN as usize],
}

impl<T: Copy + Default> Block<T> {
    fn new() -> Box<Self> {
        Box::new(Self {
            present: 0,
            slots: [T::default(); BLOCK_LEN as usize],
        })
    }
}

/// The set bits of `bits`, ascending.
fn ones(mut bits: u32) -> impl Iterator<Item = u32> {
    std::iter::from_fn(move || {
        let bit = (bits != 0).then(|| bits.trailing_zeros())?;
        bits &= bits - 1;
        Some(bit)
    })
}

fn split(number: u64) -> (u64, u32) {
    (number / BLOCK_LEN, (number % BLOCK_LEN) as u32)
}

impl<T: Copy + Default> Window<T> {
    pub(super) const fn new() -> Self {
        Self {
            blocks: BTreeMap::new(),
            len: 0,
        }
    }

    pub(super) fn len(&self) -> usize {
        self.len
    }

    pub(super) fn is_empty(&self) -> bool {
        self.len == 0
    }

    /// Adds a record under a number that has none; an existing one is replaced.
    pub(super) fn insert(&mut self, number: u64, value: T) {
        let (key, slot) = split(number);
        let block = self.blocks.entry(key).or_insert_with(Block::new);
        self.len += usize::from(block.present & (1 << slot) == 0);
        block.present |= 1 << slot;
        block.slots[slot as usize] = value;
    }

    pub(super) fn get(&self, number: u64) -> Option<&T> {
        let (key, slot) = split(number);
        let block = self.blocks.get(&key)?;
        (block.present & (1 << slot) != 0).then(|| &block.slots[slot as usize])
    }

    pub(super) fn get_mut(&mut self, number: u64) -> Option<&mut T> {
        let (key, slot) = split(number);
        let block = self.blocks.get_mut(&key)?;
        (block.present & (1 << slot) != 0).then(|| &mut block.slots[slot as usize])
    }

    pub(super) fn remove(&mut self, number: u64) -> Option<T> {
        let (key, slot) = split(number);
        let block = self.blocks.get_mut(&key)?;
        if block.present & (1 << slot) == 0 {
            return None;
        }
        let value = block.slots[slot as usize];
        block.present &= !(1 << slot);
        self.len -= 1;
        if block.present == 0 {
            self.blocks.remove(&key);
        }
        Some(value)
    }

    /// Takes the record with the lowest number.
    pub(super) fn pop_first(&mut self) -> Option<(u64, T)> {
        let mut block = self.blocks.first_entry()?;
        let slot = block.get().present.trailing_zeros();
        let number = block.key() * BLOCK_LEN + u64::from(slot);
        let value = block.get().slots[slot as usize];
        block.get_mut().present &= !(1 << slot);
        self.len -= 1;
        if block.get().present == 0 {
            block.remove();
        }
        Some((number, value))
    }

    /// Takes the records of `first..=last` that are `wanted` out, ascending. Costs nothing for numbers without a
    /// record.
    pub(super) fn extract(
        &mut self,
        first: u64,
        last: u64,
        wanted: impl Fn(&T) -> bool,
        mut taken: impl FnMut(u64, T),
    ) {
        if first > last {
            return;
        }
        let (first_key, first_slot) = split(first);
        let (last_key, last_slot) = split(last);
        let mut next = first_key;
        while next <= last_key {
            let Some((&key, block)) = self.blocks.range_mut(next..=last_key).next() else {
                return;
            };
            let mut inside = block.present;
            if key == first_key {
                inside &= u32::MAX << first_slot;
            }
            if key == last_key {
                inside &= u32::MAX >> (31 - last_slot);
            }
            for slot in ones(inside) {
                let value = block.slots[slot as usize];
                if wanted(&value) {
                    block.present &= !(1 << slot);
                    self.len -= 1;
                    taken(key * BLOCK_LEN + u64::from(slot), value);
                }
            }
            if block.present == 0 {
                self.blocks.remove(&key);
            }
            next = key + 1;
        }
    }

    /// Ascending by number.
    pub(super) fn iter(&self) -> impl Iterator<Item = (u64, &T)> {
        self.blocks.iter().flat_map(|(key, block)| {
            ones(block.present).map(move |slot| (key * BLOCK_LEN + u64::from(slot), &block.slots[slot as usize]))
        })
    }
}
