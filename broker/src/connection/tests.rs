mod flow;
mod harness;
mod lifecycle;
