//! What is confirmed survives: nodes are killed, frozen, cut off from their majority and started badly, while clients
//! publish and consume.
//!
//! Each case runs a cluster of its own (`warren_tests::cluster`), of the binaries in `WARREN_BIN`. It prints what it did;
//! `--nocapture` shows it.

#![expect(clippy::print_stdout, reason = "each case says what it did")]

#[path = "durability/alarms.rs"]
mod alarms;
#[path = "durability/bounds.rs"]
mod bounds;
#[path = "durability/consumers.rs"]
mod consumers;
#[path = "durability/damage.rs"]
mod damage;
#[path = "durability/dead_letters.rs"]
mod dead_letters;
#[path = "durability/delays.rs"]
mod delays;
#[path = "durability/features.rs"]
mod features;
#[path = "durability/history.rs"]
mod history;
#[path = "durability/kills.rs"]
mod kills;
#[path = "durability/load.rs"]
mod load;
#[path = "durability/members.rs"]
mod members;
#[path = "durability/minority.rs"]
mod minority;
#[path = "durability/nodes.rs"]
mod nodes;
#[path = "durability/policies.rs"]
mod policies;
#[path = "durability/recovery.rs"]
mod recovery;
#[path = "durability/refusals.rs"]
mod refusals;
#[path = "durability/starts.rs"]
mod starts;
#[path = "durability/streams.rs"]
mod streams;
#[path = "durability/tls.rs"]
mod tls;
#[path = "durability/transactions.rs"]
mod transactions;
#[path = "durability/upgrades.rs"]
mod upgrades;
