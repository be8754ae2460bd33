use super::*;

#[test]
fn entry_keys_sort_as_their_numbers_do() {
    let numbers = [
        (0, 0, 0),
        (0, 0, u64::MAX),
        (0, 1, 1),
        (1, 0, 255),
        (1, 0, 256),
        (1, u32::MAX, 0),
        (256, 0, 0),
        (u64::MAX, u32::MAX, u64::MAX),
    ];
    let keys: Vec<EntryKey> = numbers
        .iter()
        .map(|&(group, generation, index)| entry(group, generation, index))
        .collect();
    assert!(keys.is_sorted());
    for (key, (_, _, index)) in keys.iter().zip(numbers) {
        assert_eq!(entry_index(key), Some(index));
    }
}

#[test]
fn bounds_hold_exactly_what_they_name() {
    let cases = [(7, 3), (7, u32::MAX), (u64::MAX, u32::MAX), (255, 255), (0, 0)];
    for (group, generation) in cases {
        let within = |bounds: &Range<Vec<u8>>, key: &[u8]| *bounds.start <= *key && *key < *bounds.end;
        let entries = generation_entries(group, generation);
        let whole = group_entries(group);
        for index in [0, 1, u64::MAX] {
            let key = entry(group, generation, index);
            assert!(
                within(&entries, &key) && within(&whole, &key),
                "{group} {generation} {index}"
            );
        }
        if let Some(next) = generation.checked_add(1) {
            assert!(!within(&entries, &entry(group, next, 0)));
            assert!(within(&whole, &entry(group, next, 0)));
        }
        if let Some(next) = group.checked_add(1) {
            assert!(!within(&whole, &entry(next, 0, 0)));
            assert!(!within(&group_chunks(group), &chunk(next, 0, 0, 0)));
        }
        let chunks = snapshot_chunks(group, generation, 9);
        assert!(
            within(&chunks, &chunk(group, generation, 9, 0)) && within(&chunks, &chunk(group, generation, 9, u32::MAX))
        );
        assert!(
            !within(&chunks, &chunk(group, generation, 10, 0)) && !within(&chunks, &chunk(group, generation, 8, 0))
        );
        assert!(within(
            &generation_chunks(group, generation),
            &chunk(group, generation, u64::MAX, 0)
        ));
        assert!(!within(&states(), &chunk(group, generation, 9, 0)));
        assert!(within(&states(), &state(group)) && !within(&states(), &IDENTITY));
        assert_eq!(state_group(&state(group)), Some(group));
    }
}

#[test]
fn every_flipped_bit_is_noticed() {
    let key = entry(1, 2, 3);
    let mut value = Vec::new();
    encode_entry(&key, 4, 5, b"payload", &mut value);
    assert_eq!(decode_entry(&key, &value), Some((4, 5, Bytes::from_static(b"payload"))));
    for bit in 0..value.len() * 8 {
        value[bit / 8] ^= 1 << (bit % 8);
        assert_eq!(decode_entry(&key, &value), None, "bit {bit}");
        value[bit / 8] ^= 1 << (bit % 8);
    }
    assert_eq!(decode_entry(&entry(1, 2, 4), &value), None, "a value under another key");
    for len in 0..value.len() {
        assert_eq!(decode_entry(&key, &value[..len]), None, "cut to {len}");
    }
}
