//! Every byte of every key, and the checks around every value.
//!
//! Integers in keys are big-endian, so that keys sort as the numbers do.
//!
//! ```text
//! family "entries"  group:u64 generation:u32 index:u64                        -> crc:u32 term:u64 kind:u8 data
//! family "default"  01                                                        -> crc:u32 version:u32 identity
//!                   02 group:u64                                              -> crc:u32 transport.ReplicaState
//!                   03 group:u64 generation:u32 snapshot_index:u64 number:u32 -> crc:u32 chunk
//! ```
//!
//! Integers in values are little-endian. The CRC-32 covers the key and what follows it in the value: a value that
//! stands under another key is as corrupt as one with a flipped bit.

use std::ops::Range;

use bytes::{Buf, BufMut, Bytes};

use crate::GroupId;

/// Column family of the log entries.
pub(crate) const ENTRIES: &str = "entries";
/// Column family of everything else.
pub(crate) const REPLICAS: &str = "default";

/// Bytes of an entry's key.
pub(crate) const ENTRY_KEY_LEN: usize = 20;
/// Bytes of a chunk's key.
const CHUNK_KEY_LEN: usize = 25;
const CRC_LEN: usize = 4;
/// Bytes of an entry's value before its data.
pub(crate) const ENTRY_HEADER_LEN: usize = CRC_LEN + 9;

const TAG_STATE: u8 = 2;
const TAG_CHUNK: u8 = 3;

/// Key of the store's own identity.
pub(crate) const IDENTITY: [u8; 1] = [1];

pub(crate) type EntryKey = [u8; ENTRY_KEY_LEN];

pub(crate) fn entry(group: GroupId, generation: u32, index: u64) -> EntryKey {
    let mut key = [0; ENTRY_KEY_LEN];
    let mut rest = &mut key[..];
    rest.put_u64(group);
    rest.put_u32(generation);
    rest.put_u64(index);
    key
}

/// The index in an entry's key, none if it is not one.
pub(crate) fn entry_index(key: &[u8]) -> Option<u64> {
    let key: &EntryKey = key.try_into().ok()?;
    Some((&key[12..]).get_u64())
}

/// The generation in the key of an entry or a chunk, none if it is neither.
pub(crate) fn generation(key: &[u8]) -> Option<u32> {
    let at = match (key.len(), key.first()) {
        (ENTRY_KEY_LEN, _) => 8,
        (CHUNK_KEY_LEN, Some(&TAG_CHUNK)) => 9,
        _ => return None,
    };
    Some((&key[at..]).get_u32())
}

/// Bounds of every entry of a generation. The end is exclusive.
pub(crate) fn generation_entries(group: GroupId, generation: u32) -> Range<Vec<u8>> {
    let start = generation_prefix(&[], group, generation);
    start.clone()..successor(start)
}

/// Bounds of every entry of a group.
pub(crate) fn group_entries(group: GroupId) -> Range<Vec<u8>> {
    let start = group.to_be_bytes().to_vec();
    start.clone()..successor(start)
}

pub(crate) fn state(group: GroupId) -> [u8; 9] {
    let mut key = [TAG_STATE; 9];
    key[1..].copy_from_slice(&group.to_be_bytes());
    key
}

/// Bounds of every state.
pub(crate) fn states() -> Range<Vec<u8>> {
    vec![TAG_STATE]..vec![TAG_STATE + 1]
}

/// The group in a state's key, none if it is not one.
pub(crate) fn state_group(key: &[u8]) -> Option<GroupId> {
    let key: &[u8; 9] = key.try_into().ok()?;
    (key[0] == TAG_STATE).then(|| (&key[1..]).get_u64())
}

pub(crate) fn chunk(group: GroupId, generation: u32, snapshot_index: u64, number: u32) -> Vec<u8> {
    let mut key = generation_prefix(&[TAG_CHUNK], group, generation);
    key.put_u64(snapshot_index);
    key.put_u32(number);
    key
}

/// Bounds of every chunk of a snapshot.
pub(crate) fn snapshot_chunks(group: GroupId, generation: u32, snapshot_index: u64) -> Range<Vec<u8>> {
    let mut start = generation_prefix(&[TAG_CHUNK], group, generation);
    start.put_u64(snapshot_index);
    start.clone()..successor(start)
}

/// Bounds of every chunk of a generation.
pub(crate) fn generation_chunks(group: GroupId, generation: u32) -> Range<Vec<u8>> {
    let start = generation_prefix(&[TAG_CHUNK], group, generation);
    start.clone()..successor(start)
}

/// Bounds of every chunk of a group.
pub(crate) fn group_chunks(group: GroupId) -> Range<Vec<u8>> {
    let mut start = vec![TAG_CHUNK];
    start.put_u64(group);
    start.clone()..successor(start)
}

fn generation_prefix(tag: &[u8], group: GroupId, generation: u32) -> Vec<u8> {
    let mut prefix = Vec::with_capacity(tag.len() + 24);
    prefix.put_slice(tag);
    prefix.put_u64(group);
    prefix.put_u32(generation);
    prefix
}

/// The least key above every key that starts with `prefix`. When all its bytes are the highest there is none, and
/// the answer is above every key that this module makes.
fn successor(mut prefix: Vec<u8>) -> Vec<u8> {
    let len = prefix.len();
    while let Some(last) = prefix.pop() {
        if last < u8::MAX {
            prefix.push(last + 1);
            return prefix;
        }
    }
    vec![u8::MAX; len + ENTRY_KEY_LEN]
}

/// Writes an entry's value over `out`.
pub(crate) fn encode_entry(key: &EntryKey, term: u64, kind: u8, data: &[u8], out: &mut Vec<u8>) {
    out.clear();
    out.reserve(ENTRY_HEADER_LEN + data.len());
    out.put_u32_le(0);
    out.put_u64_le(term);
    out.put_u8(kind);
    out.put_slice(data);
    seal(key, out);
}

/// The term, the kind and the data of an entry's value; none if it is corrupt.
pub(crate) fn decode_entry(key: &[u8], value: &[u8]) -> Option<(u64, u8, Bytes)> {
    let mut rest = open(key, value)?;
    if rest.len() < ENTRY_HEADER_LEN - CRC_LEN {
        return None;
    }
    let term = rest.get_u64_le();
    let kind = rest.get_u8();
    Some((term, kind, Bytes::copy_from_slice(rest)))
}

/// A value of another record.
pub(crate) fn encode_record(key: &[u8], payload: &[u8]) -> Vec<u8> {
    let mut out = Vec::with_capacity(CRC_LEN + payload.len());
    out.put_u32_le(0);
    out.put_slice(payload);
    seal(key, &mut out);
    out
}

/// What [`encode_record`] was given; none if the value is corrupt.
pub(crate) fn decode_record<'a>(key: &[u8], value: &'a [u8]) -> Option<&'a [u8]> {
    open(key, value)
}

fn seal(key: &[u8], value: &mut [u8]) {
    let (crc, payload) = value.split_at_mut(CRC_LEN);
    crc.copy_from_slice(&checksum(key, payload).to_le_bytes());
}

fn open<'a>(key: &[u8], value: &'a [u8]) -> Option<&'a [u8]> {
    let (mut crc, payload) = value.split_at_checked(CRC_LEN)?;
    (crc.get_u32_le() == checksum(key, payload)).then_some(payload)
}

fn checksum(key: &[u8], payload: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(key);
    hasher.update(payload);
    hasher.finalize()
}

#[cfg(test)]
mod tests;
