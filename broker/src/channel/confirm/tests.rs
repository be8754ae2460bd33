use std::collections::{BTreeMap, BTreeSet};

use proptest::prelude::*;

use super::*;

fn drained(confirms: &mut Confirms) -> Vec<Confirm> {
    let mut out = Vec::new();
    confirms.drain(&mut out);
    out
}

#[test]
fn one_frame_says_all_that_is_contiguous() {
    let mut confirms = Confirms::default();
    for _ in 0..5 {
        confirms.publish(1);
    }
    for tag in [3, 1, 2, 5] {
        confirms.taken(tag);
    }
    assert_eq!(
        drained(&mut confirms),
        [
            Confirm::Ack { tag: 3, multiple: true },
            Confirm::Ack {
                tag: 5,
                multiple: false
            }
        ]
    );
    confirms.taken(4);
    assert_eq!(
        drained(&mut confirms),
        [Confirm::Ack {
            tag: 4,
            multiple: false
        }]
    );
    assert_eq!(confirms.open(), 0);
}

#[test]
fn a_refusal_is_named_once_and_before_the_acknowledgement_that_passes_it() {
    let mut confirms = Confirms::default();
    for _ in 0..3 {
        confirms.publish(2);
    }
    confirms.refused(2);
    confirms.refused(2);
    for tag in [1, 1, 2, 2, 3, 3] {
        confirms.taken(tag);
    }
    assert_eq!(
        drained(&mut confirms),
        [Confirm::Nack { tag: 2 }, Confirm::Ack { tag: 3, multiple: true }]
    );
    assert_eq!(drained(&mut confirms), []);
}

#[test]
fn a_publish_to_no_queue_is_acknowledged_at_once() {
    let mut confirms = Confirms::default();
    assert_eq!(confirms.publish(0), 1);
    assert_eq!(
        drained(&mut confirms),
        [Confirm::Ack {
            tag: 1,
            multiple: false
        }]
    );
}

#[derive(Clone, Debug)]
enum Step {
    Publish(u32),
    Taken(u64),
    Refused(u64),
    Drain,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        3 => (0_u32..4).prop_map(Step::Publish),
        6 => (1_u64..40).prop_map(Step::Taken),
        1 => (1_u64..40).prop_map(Step::Refused),
        2 => Just(Step::Drain),
    ];
    prop::collection::vec(step, 1..200)
}

/// What a client library does with confirms: a set of open numbers.
#[derive(Default)]
struct Client {
    open: BTreeSet<u64>,
    acked: BTreeSet<u64>,
    nacked: BTreeSet<u64>,
}

impl Client {
    fn take(&mut self, frame: Confirm) {
        match frame {
            Confirm::Ack { tag, multiple: true } => {
                let later = self.open.split_off(&(tag + 1));
                self.acked.append(&mut self.open);
                self.open = later;
            }
            Confirm::Ack { tag, multiple: false } => {
                assert!(self.open.remove(&tag), "{tag} is acknowledged but not open");
                self.acked.insert(tag);
            }
            Confirm::Nack { tag } => {
                assert!(self.open.remove(&tag), "{tag} is refused but not open");
                self.nacked.insert(tag);
            }
        }
    }
}

proptest! {
    #[test]
    fn agrees_with_a_naive_tracker(steps in steps()) {
        let mut confirms = Confirms::default();
        let mut client = Client::default();
        let mut waiting: BTreeMap<u64, u32> = BTreeMap::new();
        let (mut acked, mut nacked) = (BTreeSet::new(), BTreeSet::new());
        let mut published = 0;
        for step in steps.into_iter().chain([Step::Drain]) {
            match step {
                Step::Publish(queues) => {
                    published += 1;
                    prop_assert_eq!(confirms.publish(queues), published);
                    client.open.insert(published);
                    if queues == 0 { acked.insert(published); } else { waiting.insert(published, queues); }
                }
                Step::Taken(tag) => {
                    confirms.taken(tag);
                    if let Some(queues) = waiting.get_mut(&tag) {
                        *queues -= 1;
                        if *queues == 0 {
                            waiting.remove(&tag);
                            acked.insert(tag);
                        }
                    }
                }
                Step::Refused(tag) => {
                    confirms.refused(tag);
                    if waiting.remove(&tag).is_some() {
                        nacked.insert(tag);
                    }
                }
                Step::Drain => {
                    for frame in drained(&mut confirms) {
                        client.take(frame);
                    }
                    prop_assert_eq!(&client.acked, &acked);
                    prop_assert_eq!(&client.nacked, &nacked);
                    prop_assert!(client.open.iter().eq(waiting.keys()));
                }
            }
        }
    }
}
