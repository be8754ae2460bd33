//! Values with small stable numbers. A number is reused after its value was removed, so numbers never leave the
//! process and decide nothing that can be seen from outside.

use std::ops::{Index, IndexMut};

#[derive(Clone, Debug)]
pub(super) struct Slab<T> {
    slots: Vec<Option<T>>,
    vacant: Vec<u32>,
}

impl<T> Slab<T> {
    pub(super) const fn new() -> Self {
        Self {
            slots: Vec::new(),
            vacant: Vec::new(),
        }
    }

    pub(super) fn insert(&mut self, value: T) -> u32 {
        if let Some(slot) = self.vacant.pop() {
            self.slots[slot as usize] = Some(value);
            return slot;
        }
        let slot = u32::try_from(self.slots.len()).expect("sessions and consumers of one queue fit in 32 bits");
        self.slots.push(Some(value));
        slot
    }

    /// # Panics
    /// When `slot` is vacant.
    pub(super) fn remove(&mut self, slot: u32) -> T {
        let value = self.slots[slot as usize].take().expect("a slot is removed once");
        self.vacant.push(slot);
        if self.vacant.len() == self.slots.len() {
            *self = Self::new();
        }
        value
    }

    pub(super) fn get(&self, slot: u32) -> Option<&T> {
        self.slots.get(slot as usize)?.as_ref()
    }

    pub(super) fn iter(&self) -> impl Iterator<Item = (u32, &T)> {
        self.slots
            .iter()
            .zip(0..)
            .filter_map(|(value, slot)| Some((slot, value.as_ref()?)))
    }
}

impl<T> Index<u32> for Slab<T> {
    type Output = T;

    fn index(&self, slot: u32) -> &T {
        self.slots[slot as usize].as_ref().expect("records name occupied slots")
    }
}

impl<T> IndexMut<u32> for Slab<T> {
    fn index_mut(&mut self, slot: u32) -> &mut T {
        self.slots[slot as usize].as_mut().expect("records name occupied slots")
    }
}
