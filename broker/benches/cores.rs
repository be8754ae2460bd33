//! What the cores on a message's way cost, per message, with nothing else running: no thread, socket, log or disk.
//!
//! `cargo bench -p warren-broker --bench cores`; throughput is in messages.

#![allow(clippy::expect_used, reason = "a benchmark")]

use std::hint::black_box;

use bytes::{Bytes, BytesMut};
use criterion::{BatchSize, Criterion, Throughput, criterion_group, criterion_main};
use warren_broker::amqp::frame::{self, Kind};
use warren_broker::amqp::{Header, Method, Output, output};
use warren_broker::queue::machine::{Config, QueueMachine};
use warren_cluster::machine::Meta;
use warren_proto::queue::Attach;
use warren_proto::record::{BatchWriter, Command, Outcome, Publish, Run, SessionId, batches};

#[path = "rig/mod.rs"]
mod rig;

use rig::{Rig, publishes};

/// Messages in one go: a socket read of publishes, an entry.
const COUNT: usize = 100;
const SIZES: [usize; 2] = [16, 1024];

const SESSION: SessionId = SessionId {
    node: 1,
    incarnation: 1,
    id: 1,
};

fn publish_batch(first_seq: u64, body_len: usize) -> Bytes {
    let body = [Bytes::from(vec![b'm'; body_len])];
    let mut batch = BatchWriter::new(SESSION, first_seq);
    for _ in 0..COUNT {
        batch.publish(&Publish {
            persistent: true,
            routing_key: b"queue",
            properties: &[0x10, 0, 2],
            body: &body,
            ..Publish::default()
        });
    }
    batch.finish()
}

fn codec(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("codec");
    group.throughput(Throughput::Elements(COUNT as u64));
    for size in SIZES {
        let bytes = publishes(COUNT, "", "queue", size);
        group.bench_function(format!("decode publishes of {size} B"), |bencher| {
            bencher.iter_batched(
                || BytesMut::from(&bytes[..]),
                |mut input| {
                    while let Some(frame) = frame::decode(&mut input, 131_072).expect("well formed") {
                        match frame.kind {
                            Kind::Method => drop(black_box(Method::decode(&frame.payload))),
                            Kind::Header => drop(black_box(Header::decode(&frame.payload))),
                            Kind::Body | Kind::Heartbeat => drop(black_box(frame)),
                        }
                    }
                },
                BatchSize::SmallInput,
            );
        });
        let body = Bytes::from(vec![b'm'; size]);
        let mut out = Output::new();
        group.bench_function(format!("encode deliveries of {size} B"), |bencher| {
            bencher.iter(|| {
                for tag in 0..COUNT as u64 {
                    let (body, properties) = (body.clone(), [0x10, 0, 2]);
                    output::put_deliver(
                        &mut out,
                        1,
                        b"tag",
                        tag,
                        false,
                        b"",
                        b"queue",
                        &properties,
                        body,
                        131_072,
                    );
                }
                out.clear();
            });
        });
    }
    group.finish();
}

fn records(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("record");
    group.throughput(Throughput::Elements(COUNT as u64));
    for size in SIZES {
        group.bench_function(format!("write a batch of {size} B"), |bencher| {
            bencher.iter(|| black_box(publish_batch(1, size)));
        });
        let batch = publish_batch(1, size);
        group.bench_function(format!("read a batch of {size} B"), |bencher| {
            bencher.iter(|| {
                for batch in batches(&batch) {
                    let batch = batch.expect("well formed");
                    assert_eq!(batch.commands().count(), COUNT);
                }
            });
        });
    }
    group.finish();
}

/// Publishes, deliveries to a consumer and their acknowledgement, in entries of their own.
fn queue(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("queue");
    group.throughput(Throughput::Elements(COUNT as u64));
    group.bench_function("apply publishes, deliver and settle them", |bencher| {
        let mut machine = QueueMachine::new(Config::default());
        let (mut index, mut seq) = (0, 1);
        let mut effects = Vec::new();
        let mut freed = Vec::new();
        let mut apply = |machine: &mut QueueMachine, batch: &Bytes| {
            index += 1;
            let meta = Meta {
                index,
                term: 1,
                time_ms: 1,
                version: 1,
            };
            machine.apply(&meta, batch, &mut effects);
            machine.take_freed(&mut freed);
            black_box((effects.drain(..).count(), freed.drain(..).count()));
        };
        let mut attach = BatchWriter::new(SESSION, seq);
        attach.push(&Command::Attach(Attach {
            consumer: 1,
            prefetch: 0,
            ..Attach::default()
        }));
        seq += 1;
        apply(&mut machine, &attach.finish());
        let mut delivered = 0;
        bencher.iter(|| {
            apply(&mut machine, &publish_batch(seq, 16));
            seq += COUNT as u64;
            let run = Run {
                first: delivered + 1,
                len: COUNT as u32,
            };
            delivered += COUNT as u64;
            let mut settle = BatchWriter::new(SESSION, seq);
            settle.settle(Outcome::Ack, &[run]);
            seq += 1;
            apply(&mut machine, &settle.finish());
        });
        assert_eq!((machine.stats().ready, machine.stats().unacked), (0, 0));
    });
    group.finish();
}

/// What a connection does with publishes, from the socket's bytes to a queue's batch; and the whole way with a queue and
/// a consumer on another connection.
fn connection(criterion: &mut Criterion) {
    let mut group = criterion.benchmark_group("connection");
    group.throughput(Throughput::Elements(COUNT as u64));
    for size in SIZES {
        let mut rig = Rig::new();
        let publisher = rig.connect();
        rig.declare(publisher, "queue");
        let bytes = publishes(COUNT, "", "queue", size);
        group.bench_function(
            format!("publishes of {size} B, through a queue that keeps none"),
            |bencher| {
                let consumer = rig.connect();
                rig.consume(consumer, "queue", 0);
                bencher.iter(|| rig.bytes(publisher, &bytes));
            },
        );
    }
    group.finish();
}

criterion_group!(cores, codec, records, queue, connection);
criterion_main!(cores);
