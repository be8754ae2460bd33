//! What every method, table and property list must survive: the round trip, being cut short, and being nonsense.

pub(super) mod generate;
