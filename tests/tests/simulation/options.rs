//! What a run is like: drawn from its seed.

use super::mutation::Mutation;
use super::random::Random;

/// One queue of the workload.
#[derive(Clone, Debug)]
pub(crate) struct QueueOptions {
    /// `x-queue-type`.
    pub(crate) quorum: bool,
    /// It is deleted and declared anew now and then: what it held is not missed.
    pub(crate) deleted: bool,
    pub(crate) letters: Option<Letters>,
}

/// A queue whose dead letters go to a queue of their own.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Letters {
    /// `x-message-ttl`; 0: none.
    pub(crate) ttl_ms: u64,
    /// `x-dead-letter-strategy`.
    pub(crate) at_least_once: bool,
    /// `x-max-length`, beyond which publishes are refused; 0: none.
    pub(crate) length_max: u64,
}

impl Letters {
    fn draw(random: &mut Random, quorum: bool) -> Self {
        Self {
            ttl_ms: *random.pick(&[0, 30, 300, 3_000]),
            at_least_once: quorum && random.below(3) > 0,
            length_max: *random.pick(&[0, 0, 10, 100]),
        }
    }
}

/// How a consumer settles, in parts of 100; the rest is acknowledged.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Mix {
    /// basic.nack with requeue.
    pub(crate) requeue: u64,
    /// basic.reject with requeue.
    pub(crate) reject: u64,
    /// basic.reject without.
    pub(crate) discard: u64,
}

/// Faults by kind: about how many a simulated minute, or how likely for each message (in 10,000).
#[derive(Clone, Debug)]
pub(crate) struct Faults {
    pub(crate) kills: u64,
    pub(crate) power_cuts: u64,
    pub(crate) freezes: u64,
    pub(crate) breaks: u64,
    pub(crate) partitions: u64,
    pub(crate) one_way: u64,
    pub(crate) slow_disks: u64,
    pub(crate) failed_writes: u64,
    pub(crate) clock_jumps: u64,
    pub(crate) connection_deaths: u64,
    /// A queue is to have other replicas, or another leader.
    pub(crate) moves: u64,
    pub(crate) lost_disks: u64,
    /// A stored record is corrupt from then on.
    pub(crate) rots: u64,
    pub(crate) lost: u64,
    pub(crate) doubled: u64,
    pub(crate) late: u64,
    pub(crate) broken_snapshots: u64,
}

/// See the module.
#[derive(Clone, Debug)]
pub(crate) struct Options {
    pub(crate) nodes: u64,
    pub(crate) queues: Vec<QueueOptions>,
    /// Every message goes to a stream as well.
    pub(crate) stream: bool,
    pub(crate) publishers: u64,
    pub(crate) consumers: u64,
    pub(crate) getters: u64,
    /// Messages that one publisher publishes in all.
    pub(crate) messages: u64,
    pub(crate) body_max: u64,
    /// Unconfirmed messages of one publisher.
    pub(crate) window: u64,
    /// Messages published at once.
    pub(crate) burst: u64,
    pub(crate) prefetch: Vec<u16>,
    pub(crate) mix: Mix,
    /// Simulated time with faults, in milliseconds.
    pub(crate) faulty_ms: u64,
    pub(crate) faults: Faults,
    /// Messages that a mailbox takes.
    pub(crate) mailbox: usize,
    /// Envelopes that a link takes.
    pub(crate) link: usize,
    /// Bytes of log after which a queue's state is stored.
    pub(crate) snapshot_log_bytes: u64,
    pub(crate) cache_bytes: usize,
    /// A message's way from node to node, in microseconds: shortest and longest.
    pub(crate) latency_us: (u64, u64),
    /// A synced write, in microseconds: shortest and longest.
    pub(crate) disk_us: (u64, u64),
    /// The clocks of the nodes differ by up to so much.
    pub(crate) skew_ms: u64,
    /// Ticks after which a node that cannot be reached counts as ended.
    pub(crate) silent_ticks: u32,
    /// One more node joins while things break.
    pub(crate) joins: bool,
    /// One node begins the cluster, and all others join it.
    pub(crate) founds_alone: bool,
    /// Nodes are forgotten while things break, and come back.
    pub(crate) forgets: bool,
    /// The majority is lost for good once, and the cluster goes on with one or two survivors.
    pub(crate) recovers: bool,
    /// Now and then a queue loses the majority of its replicas, and goes on with one.
    pub(crate) shrinks: bool,
    /// One node is gone for good when the faults end, and some of those that are left begin anew then.
    pub(crate) loses_node: bool,
}

impl Options {
    pub(crate) fn draw(seed: u64, mutation: Option<Mutation>) -> Self {
        let random = &mut Random::new(seed, 1);
        // Most runs have some kinds of fault and not others: what hides behind one is seen without it.
        let some = |random: &mut Random, odds: u64, most: u64| {
            if random.below(100) < odds {
                random.from(1, most)
            } else {
                0
            }
        };
        let faults = Faults {
            kills: some(random, 60, 30),
            power_cuts: some(random, 60, 30),
            freezes: some(random, 30, 12),
            breaks: some(random, 50, 60),
            partitions: some(random, 50, 20),
            one_way: some(random, 40, 20),
            slow_disks: some(random, 30, 20),
            failed_writes: some(random, 20, 10),
            clock_jumps: some(random, 30, 30),
            connection_deaths: some(random, 60, 60),
            moves: 0,
            // Drawn apart, so that older seeds keep their meaning.
            lost_disks: some(&mut Random::new(seed, 6), 20, 12),
            rots: 0,
            lost: some(random, 40, 400),
            doubled: some(random, 40, 400),
            late: some(random, 40, 400),
            broken_snapshots: some(random, 30, 5_000),
        };
        let mut queues: Vec<QueueOptions> = (0..random.from(1, 3))
            .map(|_| QueueOptions {
                quorum: random.below(2) == 0,
                deleted: random.below(6) == 0,
                letters: None,
            })
            .collect();
        let apart = &mut Random::new(seed, 7);
        for queue in queues.iter_mut().filter(|queue| !queue.deleted) {
            if apart.below(3) == 0 {
                queue.letters = Some(Letters::draw(apart, queue.quorum));
            }
        }
        let mut options = Self {
            nodes: if random.below(4) == 0 { 5 } else { 3 },
            queues,
            // Drawn apart, so that older seeds without a stream keep their meaning.
            stream: Random::new(seed, 9).below(3) == 0,
            publishers: random.from(1, 3),
            consumers: random.from(1, 4),
            getters: some(random, 30, 1),
            messages: random.from(30, 500),
            body_max: *random.pick(&[0, 16, 300, 300, 2_000, 9_000]),
            window: *random.pick(&[1, 10, 50, 500]),
            burst: random.from(1, 20),
            prefetch: (0..3).map(|_| *random.pick(&[0, 1, 2, 10, 50, 500])).collect(),
            mix: Mix {
                requeue: some(random, 50, 30),
                reject: some(random, 30, 10),
                discard: some(random, 40, 20),
            },
            faulty_ms: random.from(3_000, 30_000),
            faults,
            mailbox: *random.pick(&[3, 16, 128, 1_024, 1_024, 1_024]),
            link: *random.pick(&[8, 64, 65_536, 65_536]),
            snapshot_log_bytes: *random.pick(&[100, 400, 2_000, 10_000, 100_000]),
            cache_bytes: *random.pick(&[0, 500, 4_000, 1 << 20]),
            latency_us: *random.pick(&[(50, 200), (50, 2_000), (500, 20_000)]),
            disk_us: *random.pick(&[(50, 300), (50, 300), (100, 10_000)]),
            skew_ms: *random.pick(&[0, 5, 500, 60_000]),
            silent_ticks: *random.pick(&[600, 600, 15]),
            loses_node: random.below(6) == 0,
            joins: false,
            founds_alone: false,
            forgets: false,
            recovers: false,
            shrinks: false,
        };
        // Drawn apart, so that older seeds without moves keep their meaning.
        options.faults.moves = some(&mut Random::new(seed, 8), 50, 40);
        options.faults.rots = some(&mut Random::new(seed, 15), 20, 20);
        options.joins = Random::new(seed, 9).below(5) == 0;
        options.founds_alone = Random::new(seed, 10).below(8) == 0;
        options.forgets = Random::new(seed, 11).below(5) == 0;
        options.recovers = Random::new(seed, 12).below(6) == 0;
        options.shrinks = Random::new(seed, 13).below(6) == 0;
        match mutation {
            // In a run without these it would have nothing to do.
            Some(Mutation::HidesLoss) => options.faults.lost_disks = 12,
            Some(Mutation::SkipsCorrupt) => options.faults.rots = 20,
            _ => {}
        }
        if options.shrinks {
            // The metadata keep their majority without two of them.
            options.nodes = 5;
        }
        if options.forgets || options.recovers || options.shrinks {
            // What takes its time is to be over before everything works again.
            options.faulty_ms = options.faulty_ms.max(15_000);
        }
        options
    }
}
