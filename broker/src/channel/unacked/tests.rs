use std::collections::BTreeMap;

use proptest::prelude::*;

use super::*;

#[derive(Clone, Debug)]
enum Step {
    Push(u64),
    Take(u64),
    Through(u64),
    All,
    Restore,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        40 => (1_u64..3).prop_map(Step::Push),
        30 => (1_u64..300).prop_map(Step::Take),
        2 => (1_u64..300).prop_map(Step::Through),
        1 => Just(Step::All),
        2 => Just(Step::Restore),
    ];
    prop::collection::vec(step, 1..600)
}

proptest! {
    #[test]
    fn agrees_with_a_map(steps in steps()) {
        let mut unacked = Unacked::default();
        let mut model = BTreeMap::new();
        let mut tag = 0;
        for step in steps {
            match step {
                Step::Push(skip) => {
                    tag += skip;
                    let held = Held { group: 1, message: tag * 10, consumer: (tag % 2) as u32 };
                    unacked.push(tag, held);
                    model.insert(tag, held);
                }
                Step::Take(tag) => prop_assert_eq!(unacked.take(tag), model.remove(&tag)),
                Step::Through(tag) => {
                    let mut taken = Vec::new();
                    prop_assert_eq!(unacked.take_through(tag, |tag, held| taken.push((tag, held))), model.contains_key(&tag));
                    if model.contains_key(&tag) {
                        let later = model.split_off(&(tag + 1));
                        prop_assert!(taken.iter().copied().eq(model.iter().map(|(tag, held)| (*tag, *held))));
                        model = later;
                    }
                }
                Step::All => {
                    let mut taken = Vec::new();
                    unacked.take_all(|tag, held| taken.push((tag, held)));
                    prop_assert!(taken.iter().copied().eq(model.iter().map(|(tag, held)| (*tag, *held))));
                    model.clear();
                }
                Step::Restore => {
                    let gone: Vec<_> = model.iter().step_by(2).map(|(tag, held)| (*tag, *held)).rev().collect();
                    for (tag, held) in &gone {
                        prop_assert_eq!(unacked.take(*tag), Some(*held));
                    }
                    unacked.restore(gone.into_iter());
                }
            }
            prop_assert_eq!(unacked.len(), model.len());
            let consumed = model.values().filter(|held| held.consumer > 0).count();
            prop_assert_eq!(unacked.consumed(), consumed);
            let held = unacked.entries.iter().filter_map(|(_, held)| held.as_ref());
            prop_assert!(held.eq(model.values()));
        }
    }
}
