//! What the codec must survive: the round trip, being cut anywhere, nonsense, and a second opinion.

mod contents;
mod differential;
mod frames;
pub(super) mod generate;
mod methods;
mod outputs;
mod replies;
mod seeds;
mod tables;
