mod flow;
mod harness;
mod lifecycle;
mod transactions;
