//! The whole cluster in one thread: the production cores on a simulated clock, network and disk, everything from a
//! seed. Safety while things break; then everything works again, and all must be consumed.
//!
//! ```sh
//! SIMULATION_SEEDS=5000 cargo test --release --workspace --test simulation -- seeds --nocapture   # 5,000 seeds
//! SIMULATION_SEED=17 cargo test --release --workspace --test simulation -- one_seed --nocapture   # one, told
//! SIMULATION_TRACE=info SIMULATION_SEED=17 ...        # with what the nodes log
//! SIMULATION_MISTAKE=HidesLoss SIMULATION_SEED=17 ... # with a mistake of `mutation.rs`
//! SIMULATION_MISTAKE=HidesLoss SIMULATION_SEEDS=9000 cargo test ... -- every_known_mistake --nocapture   # only that one
//! ```

#![expect(clippy::print_stdout, reason = "it says what it found")]

#[path = "simulation/boxes.rs"]
mod boxes;
#[path = "simulation/checker.rs"]
mod checker;
#[path = "simulation/client.rs"]
mod client;
#[path = "simulation/disk.rs"]
mod disk;
#[path = "simulation/faults.rs"]
mod faults;
#[path = "simulation/links.rs"]
mod links;
#[path = "simulation/mutation.rs"]
mod mutation;
#[path = "simulation/node.rs"]
mod node;
#[path = "simulation/operator.rs"]
mod operator;
#[path = "simulation/options.rs"]
mod options;
#[path = "simulation/random.rs"]
mod random;
#[path = "simulation/rest.rs"]
mod rest;
#[path = "simulation/wire.rs"]
mod wire;
#[path = "simulation/world.rs"]
mod world;

use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};

use checker::Violation;
use mutation::Mutation;
use tracing_subscriber::fmt::{format::Writer, time::FormatTime};
use world::{Summary, World};

/// Seeds that found a mistake once.
const KEPT: &[u64] = &[
    963, 4908, 32654, 18, 42, 374, 1053, 2848, 396, 482, 2401, 38, 93, 127, 178, 239, 251, 303, 477, 490, 573, 650,
    1184, 1246, 1361, 1374, 1422, 1874, 1941, 101, 361, 372, 469, 801, 1029, 4957, 925, 1098, 1272, 3321, 3865, 4500,
    5977, 5917, 6000, 6666, 2542, 2036, 15, 138, 738, 1301, 1408, 1483, 5895, 7036, 7713, 12043, 18317, 15365,
];
/// A mistake made on purpose must be found within so many seeds.
const CAUGHT_WITHIN: u64 = 2_000;

fn number(variable: &str) -> Option<u64> {
    let text = std::env::var(variable).ok()?;
    Some(
        text.parse()
            .unwrap_or_else(|_| panic!("{variable} is not a number: {text}")),
    )
}

fn simulate(seed: u64, mutation: Option<Mutation>, verbose: bool) -> Result<Summary, Violation> {
    let run = || World::new(seed, mutation, verbose).run();
    catch_unwind(AssertUnwindSafe(run)).unwrap_or_else(|panic| {
        let text = panic
            .downcast_ref::<String>()
            .map(String::as_str)
            .or_else(|| panic.downcast_ref::<&str>().copied());
        Err(Violation(format!("a panic: {}", text.unwrap_or("of an unknown kind"))))
    })
}

fn replay(seed: u64) -> String {
    format!("SIMULATION_SEED={seed} cargo test --release --workspace --test simulation -- one_seed --nocapture")
}

/// Runs seeds from `first` on, on every processor, until `count` are done or the time is over.
fn seeds(first: u64, count: u64, limit: Duration) -> (u64, Vec<(u64, Violation)>, Summary) {
    let begun = Instant::now();
    let next = AtomicU64::new(0);
    let done = AtomicU64::new(0);
    let found = Mutex::new((Vec::new(), Summary::default()));
    let workers = std::thread::available_parallelism().map_or(1, usize::from);
    std::thread::scope(|scope| {
        for _ in 0..workers {
            scope.spawn(|| {
                while begun.elapsed() < limit {
                    let seed = first + next.fetch_add(1, Ordering::Relaxed);
                    if seed >= first + count {
                        return;
                    }
                    let result = simulate(seed, None, false);
                    done.fetch_add(1, Ordering::Relaxed);
                    let mut found = found.lock().expect("no panic is let out");
                    match result {
                        Ok(summary) => {
                            found.1.events += summary.events;
                            found.1.simulated_ms += summary.simulated_ms;
                            found.1.confirmed += summary.confirmed;
                            found.1.delivered += summary.delivered;
                            found.1.letters += summary.letters;
                            found.1.crashes += summary.crashes;
                            found.1.lost_disks += summary.lost_disks;
                            found.1.rots += summary.rots;
                            found.1.found_rotten += summary.found_rotten;
                            found.1.snapshots += summary.snapshots;
                            found.1.forgotten += summary.forgotten;
                            found.1.recoveries += summary.recoveries;
                            found.1.shrunk += summary.shrunk;
                            found.1.expelled += summary.expelled;
                        }
                        Err(violation) => {
                            println!("seed {seed}: {}\n  {}", violation.0, replay(seed));
                            found.0.push((seed, violation));
                        }
                    }
                }
            });
        }
    });
    let (mut violations, sum) = found.into_inner().expect("no panic is let out");
    violations.sort_by_key(|(seed, _)| *seed);
    (done.into_inner(), violations, sum)
}

#[test]
fn seeds_find_nothing() {
    let first = number("SIMULATION_FIRST").unwrap_or(1);
    let limit = Duration::from_secs(number("SIMULATION_S").unwrap_or(30));
    let (count, limit) = match number("SIMULATION_SEEDS") {
        Some(count) => (count, Duration::MAX),
        None => (u64::MAX / 2, limit),
    };
    let begun = Instant::now();
    let (done, violations, sum) = seeds(first, count, limit);
    let seconds = begun.elapsed().as_secs_f64();
    println!(
        "{done} seeds from {first} on in {seconds:.1} s ({:.1}/s): {sum:?}",
        done as f64 / seconds
    );
    assert!(
        violations.is_empty(),
        "{} of {done} seeds found something; the first: seed {}: {}\n{}",
        violations.len(),
        violations[0].0,
        violations[0].1.0,
        replay(violations[0].0)
    );
    assert!(done > 0 && sum.confirmed > 0 && sum.delivered > 0, "nothing happened");
    let each = [
        sum.letters,
        sum.lost_disks,
        sum.found_rotten,
        sum.forgotten,
        sum.recoveries,
        sum.shrunk,
    ];
    assert!(done < 100 || !each.contains(&0), "half of it did not happen: {sum:?}");
    let least = number("SIMULATION_MIN").unwrap_or(1);
    assert!(done >= least, "only {done} seeds in time, not {least}");
}

/// What the nodes log bears the time of the world that they are in.
struct SimulatedTime;

impl FormatTime for SimulatedTime {
    fn format_time(&self, writer: &mut Writer<'_>) -> std::fmt::Result {
        write!(writer, "{:>9} us ", world::NOW_US.load(Ordering::Relaxed))
    }
}

/// The seed of `SIMULATION_SEED` step by step; without one there is nothing to do.
#[test]
fn one_seed() {
    let Some(seed) = number("SIMULATION_SEED") else { return };
    println!("{:#?}", options::Options::draw(seed, mistake()));
    if std::env::var_os("SIMULATION_TRACE").is_some() {
        let filter = tracing_subscriber::EnvFilter::from_env("SIMULATION_TRACE");
        let subscriber = tracing_subscriber::fmt()
            .with_env_filter(filter)
            .with_ansi(false)
            .with_timer(SimulatedTime);
        subscriber.with_writer(std::io::stdout).init();
    }
    let result = simulate(seed, mistake(), true);
    println!("{result:?}");
    assert!(result.is_ok(), "{result:?}");
}

#[test]
fn kept_seeds_find_nothing_any_more() {
    for seed in KEPT {
        let result = simulate(*seed, None, false);
        assert!(result.is_ok(), "seed {seed}: {result:?}\n{}", replay(*seed));
    }
}

#[test]
fn a_seed_means_the_same_run_every_time() {
    for seed in 1..=5 {
        let first = simulate(seed, None, false);
        assert_eq!(first, simulate(seed, None, false), "seed {seed}");
    }
}

#[test]
fn every_known_mistake_is_caught() {
    let within = number("SIMULATION_SEEDS").unwrap_or(CAUGHT_WITHIN);
    let only = mistake();
    let mut missed = Vec::new();
    for mutation in mutation::ALL {
        if only.is_some_and(|only| only != mutation) {
            continue;
        }
        match caught_by(mutation, within) {
            Some((seed, violation)) => println!("{mutation:?}: caught by seed {seed}: {}", violation.0),
            None => missed.push(mutation),
        }
    }
    assert!(missed.is_empty(), "not caught within {within} seeds: {missed:?}");
}

/// The first seed that catches a mistake; as many at once as there are processors.
fn caught_by(mutation: Mutation, within: u64) -> Option<(u64, Violation)> {
    let workers = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let mut first = 1;
    while first <= within {
        let violations: Vec<_> = std::thread::scope(|scope| {
            let begun: Vec<_> = (first..first + workers)
                .map(|seed| (seed, scope.spawn(move || simulate(seed, Some(mutation), false).err())))
                .collect();
            let ended = begun.into_iter();
            ended
                .map(|(seed, run)| (seed, run.join().expect("no panic is let out")))
                .collect()
        });
        let found = violations.into_iter().find_map(|(seed, found)| Some((seed, found?)));
        if found.is_some() {
            return found;
        }
        first += workers;
    }
    None
}

/// That of `SIMULATION_MISTAKE`.
fn mistake() -> Option<Mutation> {
    let name = std::env::var("SIMULATION_MISTAKE").ok()?;
    let known = mutation::ALL.into_iter().find(|known| format!("{known:?}") == name);
    Some(known.unwrap_or_else(|| panic!("SIMULATION_MISTAKE names none of {:?}: {name}", mutation::ALL)))
}
