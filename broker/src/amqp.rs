//! The AMQP 0-9-1 wire format, with RabbitMQ's extensions: bytes to values and back.
//!
//! Pure functions over buffers; no IO, no clock, and no knowledge of what a queue or an exchange is.
//!
//! ```text
//! socket bytes -> frame::decode -> Frame { kind, channel, payload }
//!                                    | Kind::Method -> method::Method::decode
//!                                    | Kind::Header -> content::Header::decode -> content::glance
//!                                    | Kind::Body   -> the payload is part of the message's body
//! Method, Deliver ... -> output::Output -> slices for one vectored write
//! ```
//!
//! Invariants:
//! - Nothing here panics on bytes from a peer, and no length is believed before it is compared with what is at hand.
//! - Decoding never copies: strings, long strings and bodies are slices of the read buffer and keep it alive.
//!   Whoever stores one beyond the message it came with calls `detach`.
//! - What the broker does not change it relays byte for byte: [`content::Header`] keeps properties undecoded.

pub mod content;
pub mod frame;
pub mod method;
pub mod output;
pub mod reply_code;
pub mod short_str;
pub mod table;
pub mod wire;

pub use content::{Glance, Header, Properties, glance, put_content, with_reply_to};
pub use frame::Frame;
pub use method::{Method, put_method};
pub use output::Output;
pub use reply_code::{Fault, ReplyCode};
pub use short_str::ShortStr;
pub use table::{Table, Value};

#[cfg(test)]
mod tests;
