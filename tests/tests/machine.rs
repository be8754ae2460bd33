//! What fails under a running node: its disk, its clock. What was confirmed is not lost, and the cluster goes on.
//!
//! Needs root, strace and a C compiler.

#![expect(clippy::print_stdout, reason = "each case says what it did")]

#[path = "durability/history.rs"]
mod history;
#[path = "durability/load.rs"]
#[expect(dead_code, reason = "durability uses the rest")]
mod load;

#[path = "machine/clocks.rs"]
mod clocks;
#[path = "machine/disks.rs"]
mod disks;
