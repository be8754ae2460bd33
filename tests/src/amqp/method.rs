//! Every method of AMQP 0-9-1 with RabbitMQ's additions, each as a struct with defaults.

use super::wire::{Reader, Table, Wire, Writer};

/// A method's place in the protocol and its arguments.
pub trait Method: Wire {
    /// Class and method number.
    const ID: (u16, u16);
    /// As the specification writes it, such as `queue.declare`.
    const NAME: &'static str;
}

/// A method the other side answers with one certain method.
pub trait Call: Method {
    /// The answer.
    type Reply: Method;
}

macro_rules! methods {
    ($($name:ident $text:literal ($class:literal, $id:literal) $(-> $reply:ident)? { $($field:ident: $type:ty),* })*) => {$(
        #[doc = concat!("`", $text, "`")]
        #[derive(Debug, Clone, Default, PartialEq)]
        #[allow(missing_docs, reason = "the field names are the specification's")]
        pub struct $name { $(pub $field: $type),* }

        impl Wire for $name {
            #[allow(unused_variables, reason = "some methods have no arguments")]
            fn put(&self, out: &mut Writer) {
                $(self.$field.put(out);)*
            }
            #[allow(unused_variables, reason = "some methods have no arguments")]
            fn take(input: &mut Reader<'_>) -> Option<Self> {
                Some(Self { $($field: <$type>::take(input)?),* })
            }
        }

        impl Method for $name {
            const ID: (u16, u16) = ($class, $id);
            const NAME: &'static str = $text;
        }

        $(impl Call for $name { type Reply = $reply; })?
    )*

        /// The name of a method, or its numbers.
        pub fn name(id: (u16, u16)) -> String {
            match id {
                $(($class, $id) => $text.to_owned(),)*
                (class, method) => format!("method {class}.{method}"),
            }
        }
    };
}

methods! {
    ConnectionStart "connection.start" (10, 10) { major: u8, minor: u8, server_properties: Table, mechanisms: Vec<u8>, locales: Vec<u8> }
    ConnectionStartOk "connection.start-ok" (10, 11) { client_properties: Table, mechanism: String, response: Vec<u8>, locale: String }
    ConnectionSecure "connection.secure" (10, 20) { challenge: Vec<u8> }
    ConnectionSecureOk "connection.secure-ok" (10, 21) { response: Vec<u8> }
    ConnectionTune "connection.tune" (10, 30) { channel_max: u16, frame_max: u32, heartbeat: u16 }
    ConnectionTuneOk "connection.tune-ok" (10, 31) { channel_max: u16, frame_max: u32, heartbeat: u16 }
    ConnectionOpen "connection.open" (10, 40) -> ConnectionOpenOk { vhost: String, capabilities: String, insist: bool }
    ConnectionOpenOk "connection.open-ok" (10, 41) { known_hosts: String }
    ConnectionClose "connection.close" (10, 50) -> ConnectionCloseOk { code: u16, text: String, class: u16, method: u16 }
    ConnectionCloseOk "connection.close-ok" (10, 51) { }
    ConnectionBlocked "connection.blocked" (10, 60) { reason: String }
    ConnectionUnblocked "connection.unblocked" (10, 61) { }
    ConnectionUpdateSecret "connection.update-secret" (10, 70) -> ConnectionUpdateSecretOk { secret: Vec<u8>, reason: String }
    ConnectionUpdateSecretOk "connection.update-secret-ok" (10, 71) { }
    ChannelOpen "channel.open" (20, 10) -> ChannelOpenOk { out_of_band: String }
    ChannelOpenOk "channel.open-ok" (20, 11) { channel_id: Vec<u8> }
    ChannelFlow "channel.flow" (20, 20) -> ChannelFlowOk { active: bool }
    ChannelFlowOk "channel.flow-ok" (20, 21) { active: bool }
    ChannelClose "channel.close" (20, 40) -> ChannelCloseOk { code: u16, text: String, class: u16, method: u16 }
    ChannelCloseOk "channel.close-ok" (20, 41) { }
    AccessRequest "access.request" (30, 10) -> AccessRequestOk { realm: String, exclusive: bool, passive: bool, active: bool, write: bool, read: bool }
    AccessRequestOk "access.request-ok" (30, 11) { ticket: u16 }
    ExchangeDeclare "exchange.declare" (40, 10) -> ExchangeDeclareOk { ticket: u16, exchange: String, kind: String, passive: bool, durable: bool, auto_delete: bool, internal: bool, nowait: bool, arguments: Table }
    ExchangeDeclareOk "exchange.declare-ok" (40, 11) { }
    ExchangeDelete "exchange.delete" (40, 20) -> ExchangeDeleteOk { ticket: u16, exchange: String, if_unused: bool, nowait: bool }
    ExchangeDeleteOk "exchange.delete-ok" (40, 21) { }
    ExchangeBind "exchange.bind" (40, 30) -> ExchangeBindOk { ticket: u16, destination: String, source: String, routing_key: String, nowait: bool, arguments: Table }
    ExchangeBindOk "exchange.bind-ok" (40, 31) { }
    ExchangeUnbind "exchange.unbind" (40, 40) -> ExchangeUnbindOk { ticket: u16, destination: String, source: String, routing_key: String, nowait: bool, arguments: Table }
    ExchangeUnbindOk "exchange.unbind-ok" (40, 51) { }
    QueueDeclare "queue.declare" (50, 10) -> QueueDeclareOk { ticket: u16, queue: String, passive: bool, durable: bool, exclusive: bool, auto_delete: bool, nowait: bool, arguments: Table }
    QueueDeclareOk "queue.declare-ok" (50, 11) { queue: String, messages: u32, consumers: u32 }
    QueueBind "queue.bind" (50, 20) -> QueueBindOk { ticket: u16, queue: String, exchange: String, routing_key: String, nowait: bool, arguments: Table }
    QueueBindOk "queue.bind-ok" (50, 21) { }
    QueuePurge "queue.purge" (50, 30) -> QueuePurgeOk { ticket: u16, queue: String, nowait: bool }
    QueuePurgeOk "queue.purge-ok" (50, 31) { messages: u32 }
    QueueDelete "queue.delete" (50, 40) -> QueueDeleteOk { ticket: u16, queue: String, if_unused: bool, if_empty: bool, nowait: bool }
    QueueDeleteOk "queue.delete-ok" (50, 41) { messages: u32 }
    QueueUnbind "queue.unbind" (50, 50) -> QueueUnbindOk { ticket: u16, queue: String, exchange: String, routing_key: String, arguments: Table }
    QueueUnbindOk "queue.unbind-ok" (50, 51) { }
    BasicQos "basic.qos" (60, 10) -> BasicQosOk { prefetch_size: u32, prefetch_count: u16, global: bool }
    BasicQosOk "basic.qos-ok" (60, 11) { }
    BasicConsume "basic.consume" (60, 20) -> BasicConsumeOk { ticket: u16, queue: String, consumer_tag: String, no_local: bool, no_ack: bool, exclusive: bool, nowait: bool, arguments: Table }
    BasicConsumeOk "basic.consume-ok" (60, 21) { consumer_tag: String }
    BasicCancel "basic.cancel" (60, 30) -> BasicCancelOk { consumer_tag: String, nowait: bool }
    BasicCancelOk "basic.cancel-ok" (60, 31) { consumer_tag: String }
    BasicPublish "basic.publish" (60, 40) { ticket: u16, exchange: String, routing_key: String, mandatory: bool, immediate: bool }
    BasicReturn "basic.return" (60, 50) { code: u16, text: String, exchange: String, routing_key: String }
    BasicDeliver "basic.deliver" (60, 60) { consumer_tag: String, delivery_tag: u64, redelivered: bool, exchange: String, routing_key: String }
    BasicGet "basic.get" (60, 70) -> BasicGetOk { ticket: u16, queue: String, no_ack: bool }
    BasicGetOk "basic.get-ok" (60, 71) { delivery_tag: u64, redelivered: bool, exchange: String, routing_key: String, messages: u32 }
    BasicGetEmpty "basic.get-empty" (60, 72) { cluster_id: String }
    BasicAck "basic.ack" (60, 80) { delivery_tag: u64, multiple: bool }
    BasicReject "basic.reject" (60, 90) { delivery_tag: u64, requeue: bool }
    BasicRecoverAsync "basic.recover-async" (60, 100) { requeue: bool }
    BasicRecover "basic.recover" (60, 110) -> BasicRecoverOk { requeue: bool }
    BasicRecoverOk "basic.recover-ok" (60, 111) { }
    BasicNack "basic.nack" (60, 120) { delivery_tag: u64, multiple: bool, requeue: bool }
    ConfirmSelect "confirm.select" (85, 10) -> ConfirmSelectOk { nowait: bool }
    ConfirmSelectOk "confirm.select-ok" (85, 11) { }
    TxSelect "tx.select" (90, 10) -> TxSelectOk { }
    TxSelectOk "tx.select-ok" (90, 11) { }
    TxCommit "tx.commit" (90, 20) -> TxCommitOk { }
    TxCommitOk "tx.commit-ok" (90, 21) { }
    TxRollback "tx.rollback" (90, 30) -> TxRollbackOk { }
    TxRollbackOk "tx.rollback-ok" (90, 31) { }
}
