use proptest::prelude::*;

use super::*;

const SESSION: SessionId = SessionId {
    node: 7,
    incarnation: 3,
    id: 9,
};

fn message(body: &[Bytes]) -> Publish<'_> {
    Publish {
        persistent: true,
        priority: Some(4),
        origin: Some(Origin {
            group: 3,
            id: 2,
            floor: 1,
        }),
        bcc: b"\x01k",
        ttl_ms: Some(60_000),
        exchange: b"logs",
        routing_key: b"kern.critical",
        properties: &[0x90, 0, 1, b'x', 2],
        body,
    }
}

#[test]
fn a_publish_is_found_by_its_offset() {
    let body = [Bytes::from_static(b"hello "), Bytes::from_static(b"world")];
    let mut first = BatchWriter::new(SESSION, 11);
    first.push(&Command::Stat);
    let mut second = BatchWriter::new(SESSION, 12);
    second.publish(&message(&body));
    second.settle(Outcome::Reject, &[Run { first: 5, len: 3 }]);
    let entry = [first.finish(), second.finish()].concat();

    let decoded: Vec<_> = batches(&entry).collect::<Result<_>>().expect("both batches decode");
    assert_eq!(
        decoded.iter().map(|b| (b.first_seq, b.count)).collect::<Vec<_>>(),
        [(11, 1), (12, 2)]
    );
    let commands: Vec<_> = decoded[1]
        .commands()
        .collect::<Result<_>>()
        .expect("its commands decode");
    let Command::Publish { offset, payload } = commands[0] else {
        panic!("not a publish: {commands:?}")
    };
    assert_eq!(&entry[offset as usize..offset as usize + payload.len()], payload);
    let stored = Stored::decode(payload).expect("the payload decodes");
    assert_eq!(
        (stored.exchange, stored.routing_key),
        (&b"logs"[..], &b"kern.critical"[..])
    );
    assert_eq!(
        (stored.body, stored.ttl_ms, stored.priority),
        (&b"hello world"[..], Some(60_000), Some(4))
    );
    assert_eq!(
        commands[1],
        Command::Settle {
            outcome: Outcome::Reject,
            runs: vec![Run { first: 5, len: 3 }]
        }
    );
}

#[test]
fn runs_join_where_numbers_continue() {
    let mut runs = Vec::new();
    for number in [1, 2, 3, 7, 8, 10] {
        Run::push(&mut runs, number);
    }
    assert_eq!(
        runs,
        [
            Run { first: 1, len: 3 },
            Run { first: 7, len: 2 },
            Run { first: 10, len: 1 }
        ]
    );
    assert_eq!(
        runs.iter().flat_map(|run| run.numbers()).collect::<Vec<_>>(),
        [1, 2, 3, 7, 8, 10]
    );
}

#[test]
fn every_truncation_is_an_error() {
    let body = [Bytes::from_static(b"body")];
    let mut batch = BatchWriter::new(SESSION, 1);
    batch.publish(&message(&body));
    let bytes = batch.finish();
    for len in 1..bytes.len() {
        let result: Result<Vec<_>> = batches(&bytes[..len]).collect();
        assert!(result.is_err(), "a batch cut to {len} bytes decoded");
    }
}

proptest! {
    #[test]
    fn events_round_trip(
        applied: u64,
        refused in proptest::collection::vec((any::<u64>(), 1..u32::MAX), 0..4),
        ready: u64,
        payloads in proptest::collection::vec(proptest::collection::vec(any::<u8>(), 0..64), 0..5),
    ) {
        let events = Events {
            group: 5,
            term: 2,
            applied,
            refused: refused.into_iter().map(|(first, len)| Run { first, len }).collect(),
            replies: vec![(8, queue::Reply { kind: Some(queue::reply::Kind::GetOk(queue::GetOk { ready })) })],
            deliveries: payloads.into_iter().enumerate().map(|(n, payload)| Delivery {
                consumer: n as u32,
                delivery_id: 1 + n as u64,
                seq: ready,
                get_seq: applied,
                redelivered: n % 2 == 0,
                acquired: 3,
                failed: 1,
                payload: payload.into(),
            }).collect(),
        };
        let mut bytes = BytesMut::new();
        events.encode(&mut bytes);
        prop_assert_eq!(Events::decode(&bytes.freeze()), Ok(events));
    }

    #[test]
    fn random_bytes_never_panic(bytes in proptest::collection::vec(any::<u8>(), 0..256)) {
        for batch in batches(&bytes).flatten() {
            for command in batch.commands().flatten() {
                if let Command::Publish { payload, .. } = command {
                    let _ = Stored::decode(payload);
                }
            }
        }
        let _ = Stored::decode(&bytes);
        let _ = Events::decode(&Bytes::from(bytes));
    }
}
