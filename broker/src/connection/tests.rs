mod direct_reply;
mod flow;
mod harness;
mod lifecycle;
mod quotas;
mod transactions;
