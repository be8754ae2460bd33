//! The broker's AMQP codec by itself, without the broker it belongs to: fuzzing must not build RocksDB.

#[path = "../../src/amqp/content.rs"]
pub mod content;
#[path = "../../src/amqp/frame.rs"]
pub mod frame;
#[path = "../../src/amqp/method.rs"]
pub mod method;
#[path = "../../src/amqp/output.rs"]
pub mod output;
#[path = "../../src/amqp/reply_code.rs"]
pub mod reply_code;
#[path = "../../src/amqp/short_str.rs"]
pub mod short_str;
#[path = "../../src/amqp/table.rs"]
pub mod table;
#[path = "../../src/amqp/wire.rs"]
pub mod wire;
