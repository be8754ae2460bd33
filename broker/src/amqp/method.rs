//! Every method of AMQP 0-9-1 and of RabbitMQ's extensions: its ids, its fields, its coding.
//!
//! One list describes them all; decoding, encoding, names and the instances the tests run over are made from it.

use bytes::{Buf, BufMut, Bytes, BytesMut};

use super::frame;
use super::short_str::ShortStr;
use super::table::Table;
use super::wire::{self, Field, Reader, Writer};

/// Why a method frame's payload is no method.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub enum Error {
    #[error("unimplemented method {class}.{method}")]
    Unknown { class: u16, method: u16 },
    #[error("Malformed UTF-8 in shortstr")]
    MalformedUtf8,
    #[error("cannot decode the arguments: they end too early")]
    Truncated,
    #[error("cannot decode the arguments: bytes are left over after the last")]
    Trailing,
    #[error("cannot decode the arguments: unknown field type {0}")]
    UnknownFieldType(u8),
    #[error("cannot decode the arguments: tables are nested too deep")]
    TooDeep,
}

impl From<wire::Error> for Error {
    fn from(error: wire::Error) -> Self {
        match error {
            wire::Error::Truncated => Self::Truncated,
            wire::Error::MalformedUtf8 => Self::MalformedUtf8,
            wire::Error::UnknownFieldType(tag) => Self::UnknownFieldType(tag),
            wire::Error::TooDeep => Self::TooDeep,
            // Flags are a matter of content headers only.
            wire::Error::Trailing | wire::Error::UnknownFlags => Self::Trailing,
        }
    }
}

/// `Name = (class, method, "class.method" [, content]) [reserved] { fields } [reserved]`
///
/// The type of a field is its wire type: `bool` bit, `u8` octet, `u16` short, `u32` long, `u64` longlong,
/// `ShortStr` shortstr, `Bytes` longstr, `Table` table. Reserved arguments stand only first or last in a method;
/// they are read and dropped, and written as their type's default.
macro_rules! methods {
    ($(
        $name:ident = ($class:literal, $method:literal, $text:literal $(, $content:ident)?)
        $([$($before:ty),+])? { $($field:ident: $type:ty),* $(,)? } $([$($after:ty),+])?;
    )*) => {
        #[derive(Debug, Clone, PartialEq, Eq)]
        pub enum Method {
            $($name { $($field: $type),* },)*
        }

        /// Class id, method id and name of every method, in the order of the ids.
        pub const ALL: &[(u16, u16, &str)] = &[$(($class, $method, $text)),*];

        impl Method {
            /// Decodes a method frame's payload, which must hold the method and nothing else.
            pub fn decode(payload: &Bytes) -> Result<Self, Error> {
                let mut reader = Reader::new(payload);
                let (class, method) = (reader.short()?, reader.short()?);
                let decoded = match (class, method) {
                    $(($class, $method) => {
                        $($(<$before>::read(&mut reader)?;)+)?
                        $(let $field = <$type>::read(&mut reader)?;)*
                        $($(<$after>::read(&mut reader)?;)+)?
                        Self::$name { $($field),* }
                    })*
                    _ => return Err(Error::Unknown { class, method }),
                };
                reader.finish()?;
                Ok(decoded)
            }

            /// Appends class id, method id and arguments.
            pub fn encode(&self, out: &mut BytesMut) {
                let (class, method) = self.id();
                out.put_u16(class);
                out.put_u16(method);
                let mut writer = Writer::new(out);
                match self {
                    $(Self::$name { $($field),* } => {
                        $($(<$before>::default().write(&mut writer);)+)?
                        $($field.write(&mut writer);)*
                        $($(<$after>::default().write(&mut writer);)+)?
                    })*
                }
            }

            /// Class id and method id.
            pub const fn id(&self) -> (u16, u16) {
                match self {
                    $(Self::$name { .. } => ($class, $method),)*
                }
            }

            /// As the specification writes it: `basic.publish`.
            pub const fn name(&self) -> &'static str {
                match self {
                    $(Self::$name { .. } => $text,)*
                }
            }

            /// Whether a content header and body follow.
            pub const fn has_content(&self) -> bool {
                match self {
                    $(Self::$name { .. } => methods!(@has $($content)?),)*
                }
            }
        }

        /// For each method its name and a strategy for instances of it.
        #[cfg(test)]
        pub(super) fn strategies() -> Vec<(&'static str, proptest::strategy::BoxedStrategy<Method>)> {
            use super::tests::generate::Generate;
            use proptest::strategy::{Just, Strategy};
            vec![$((
                $text,
                #[allow(unused_variables, reason = "methods without fields bind nothing")]
                (Just(()), $(<$type>::strategy()),*).prop_map(|((), $($field),*)| Method::$name { $($field),* }).boxed(),
            )),*]
        }
    };
    (@has content) => { true };
    (@has) => { false };
}

methods! {
    ConnectionStart = (10, 10, "connection.start") {
        version_major: u8, version_minor: u8, server_properties: Table, mechanisms: Bytes, locales: Bytes,
    };
    ConnectionStartOk = (10, 11, "connection.start-ok") {
        client_properties: Table, mechanism: ShortStr, response: Bytes, locale: ShortStr,
    };
    ConnectionSecure = (10, 20, "connection.secure") { challenge: Bytes };
    ConnectionSecureOk = (10, 21, "connection.secure-ok") { response: Bytes };
    ConnectionTune = (10, 30, "connection.tune") { channel_max: u16, frame_max: u32, heartbeat: u16 };
    ConnectionTuneOk = (10, 31, "connection.tune-ok") { channel_max: u16, frame_max: u32, heartbeat: u16 };
    ConnectionOpen = (10, 40, "connection.open") { virtual_host: ShortStr } [ShortStr, bool];
    ConnectionOpenOk = (10, 41, "connection.open-ok") {} [ShortStr];
    ConnectionClose = (10, 50, "connection.close") {
        reply_code: u16, reply_text: ShortStr, class_id: u16, method_id: u16,
    };
    ConnectionCloseOk = (10, 51, "connection.close-ok") {};
    ConnectionBlocked = (10, 60, "connection.blocked") { reason: ShortStr };
    ConnectionUnblocked = (10, 61, "connection.unblocked") {};
    ConnectionUpdateSecret = (10, 70, "connection.update-secret") { new_secret: Bytes, reason: ShortStr };
    ConnectionUpdateSecretOk = (10, 71, "connection.update-secret-ok") {};

    ChannelOpen = (20, 10, "channel.open") {} [ShortStr];
    ChannelOpenOk = (20, 11, "channel.open-ok") {} [Bytes];
    ChannelFlow = (20, 20, "channel.flow") { active: bool };
    ChannelFlowOk = (20, 21, "channel.flow-ok") { active: bool };
    ChannelClose = (20, 40, "channel.close") {
        reply_code: u16, reply_text: ShortStr, class_id: u16, method_id: u16,
    };
    ChannelCloseOk = (20, 41, "channel.close-ok") {};

    AccessRequest = (30, 10, "access.request") {
        realm: ShortStr, exclusive: bool, passive: bool, active: bool, write: bool, read: bool,
    };
    AccessRequestOk = (30, 11, "access.request-ok") { ticket: u16 };

    ExchangeDeclare = (40, 10, "exchange.declare") [u16] {
        exchange: ShortStr, kind: ShortStr, passive: bool, durable: bool, auto_delete: bool, internal: bool,
        no_wait: bool, arguments: Table,
    };
    ExchangeDeclareOk = (40, 11, "exchange.declare-ok") {};
    ExchangeDelete = (40, 20, "exchange.delete") [u16] { exchange: ShortStr, if_unused: bool, no_wait: bool };
    ExchangeDeleteOk = (40, 21, "exchange.delete-ok") {};
    ExchangeBind = (40, 30, "exchange.bind") [u16] {
        destination: ShortStr, source: ShortStr, routing_key: ShortStr, no_wait: bool, arguments: Table,
    };
    ExchangeBindOk = (40, 31, "exchange.bind-ok") {};
    ExchangeUnbind = (40, 40, "exchange.unbind") [u16] {
        destination: ShortStr, source: ShortStr, routing_key: ShortStr, no_wait: bool, arguments: Table,
    };
    ExchangeUnbindOk = (40, 51, "exchange.unbind-ok") {};

    QueueDeclare = (50, 10, "queue.declare") [u16] {
        queue: ShortStr, passive: bool, durable: bool, exclusive: bool, auto_delete: bool, no_wait: bool,
        arguments: Table,
    };
    QueueDeclareOk = (50, 11, "queue.declare-ok") { queue: ShortStr, message_count: u32, consumer_count: u32 };
    QueueBind = (50, 20, "queue.bind") [u16] {
        queue: ShortStr, exchange: ShortStr, routing_key: ShortStr, no_wait: bool, arguments: Table,
    };
    QueueBindOk = (50, 21, "queue.bind-ok") {};
    QueuePurge = (50, 30, "queue.purge") [u16] { queue: ShortStr, no_wait: bool };
    QueuePurgeOk = (50, 31, "queue.purge-ok") { message_count: u32 };
    QueueDelete = (50, 40, "queue.delete") [u16] {
        queue: ShortStr, if_unused: bool, if_empty: bool, no_wait: bool,
    };
    QueueDeleteOk = (50, 41, "queue.delete-ok") { message_count: u32 };
    QueueUnbind = (50, 50, "queue.unbind") [u16] {
        queue: ShortStr, exchange: ShortStr, routing_key: ShortStr, arguments: Table,
    };
    QueueUnbindOk = (50, 51, "queue.unbind-ok") {};

    BasicQos = (60, 10, "basic.qos") { prefetch_size: u32, prefetch_count: u16, global: bool };
    BasicQosOk = (60, 11, "basic.qos-ok") {};
    BasicConsume = (60, 20, "basic.consume") [u16] {
        queue: ShortStr, consumer_tag: ShortStr, no_local: bool, no_ack: bool, exclusive: bool, no_wait: bool,
        arguments: Table,
    };
    BasicConsumeOk = (60, 21, "basic.consume-ok") { consumer_tag: ShortStr };
    BasicCancel = (60, 30, "basic.cancel") { consumer_tag: ShortStr, no_wait: bool };
    BasicCancelOk = (60, 31, "basic.cancel-ok") { consumer_tag: ShortStr };
    BasicPublish = (60, 40, "basic.publish", content) [u16] {
        exchange: ShortStr, routing_key: ShortStr, mandatory: bool, immediate: bool,
    };
    BasicReturn = (60, 50, "basic.return", content) {
        reply_code: u16, reply_text: ShortStr, exchange: ShortStr, routing_key: ShortStr,
    };
    BasicDeliver = (60, 60, "basic.deliver", content) {
        consumer_tag: ShortStr, delivery_tag: u64, redelivered: bool, exchange: ShortStr, routing_key: ShortStr,
    };
    BasicGet = (60, 70, "basic.get") [u16] { queue: ShortStr, no_ack: bool };
    BasicGetOk = (60, 71, "basic.get-ok", content) {
        delivery_tag: u64, redelivered: bool, exchange: ShortStr, routing_key: ShortStr, message_count: u32,
    };
    BasicGetEmpty = (60, 72, "basic.get-empty") {} [ShortStr];
    BasicAck = (60, 80, "basic.ack") { delivery_tag: u64, multiple: bool };
    BasicReject = (60, 90, "basic.reject") { delivery_tag: u64, requeue: bool };
    BasicRecoverAsync = (60, 100, "basic.recover-async") { requeue: bool };
    BasicRecover = (60, 110, "basic.recover") { requeue: bool };
    BasicRecoverOk = (60, 111, "basic.recover-ok") {};
    // From the server it refuses publishes; `requeue` means nothing then and is sent as its default, true.
    BasicNack = (60, 120, "basic.nack") { delivery_tag: u64, multiple: bool, requeue: bool };

    ConfirmSelect = (85, 10, "confirm.select") { no_wait: bool };
    ConfirmSelectOk = (85, 11, "confirm.select-ok") {};

    TxSelect = (90, 10, "tx.select") {};
    TxSelectOk = (90, 11, "tx.select-ok") {};
    TxCommit = (90, 20, "tx.commit") {};
    TxCommitOk = (90, 21, "tx.commit-ok") {};
    TxRollback = (90, 30, "tx.rollback") {};
    TxRollbackOk = (90, 31, "tx.rollback-ok") {};
}

/// The ids a method frame's payload begins with: what a fault names when the rest cannot be decoded.
pub fn peek_id(mut payload: &[u8]) -> Option<(u16, u16)> {
    Some((payload.try_get_u16().ok()?, payload.try_get_u16().ok()?))
}

/// Appends a whole method frame.
pub fn put_method(out: &mut BytesMut, channel: u16, method: &Method) {
    frame::put_framed(out, frame::Kind::Method, channel, |out| method.encode(out));
}
