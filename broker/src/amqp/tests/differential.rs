//! A second opinion: the codec of the `amq-protocol` crate must read what this one writes, and the other way round.
//!
//! The pairs below are matched by field name, so two fields of one type in the wrong order are found too.

use amq_protocol::frame::{AMQPContentHeader, AMQPFrame, WriteContext, gen_frame, parse_frame};
use amq_protocol::protocol::{AMQPClass, access, basic, channel, confirm, connection, exchange, queue, tx};
use amq_protocol::types::{AMQPValue, ByteArray, DecimalValue, FieldArray, FieldTable, LongString, ShortString};
use bytes::{Bytes, BytesMut};
use proptest::prelude::*;

use super::generate::Generate;
use crate::amqp::content::{Header, Properties};
use crate::amqp::frame::{self, Frame, Kind};
use crate::amqp::method::strategies;
use crate::amqp::{Method, ShortStr, Table, Value, put_method};

/// What the other crate has for a field's type.
trait Theirs {
    type Type;
    fn theirs(&self) -> Self::Type;
}

macro_rules! same {
    ($($type:ty),*) => {$(
        impl Theirs for $type {
            type Type = Self;
            fn theirs(&self) -> Self {
                *self
            }
        }
    )*};
}

same!(bool, u8, u16, u32, u64);

impl Theirs for ShortStr {
    type Type = ShortString;
    fn theirs(&self) -> ShortString {
        self.as_str().into()
    }
}

impl Theirs for Bytes {
    type Type = LongString;
    fn theirs(&self) -> LongString {
        self.to_vec().into()
    }
}

impl Theirs for Table {
    type Type = FieldTable;
    fn theirs(&self) -> FieldTable {
        let mut table = FieldTable::default();
        for (name, value) in self {
            table.insert(name.theirs(), value.theirs());
        }
        table
    }
}

impl Theirs for Value {
    type Type = AMQPValue;
    fn theirs(&self) -> AMQPValue {
        match self {
            Self::Bool(value) => AMQPValue::Boolean(*value),
            Self::I8(value) => AMQPValue::ShortShortInt(*value),
            Self::U8(value) => AMQPValue::ShortShortUInt(*value),
            Self::I16(value) => AMQPValue::ShortInt(*value),
            Self::U16(value) => AMQPValue::ShortUInt(*value),
            Self::I32(value) => AMQPValue::LongInt(*value),
            Self::U32(value) => AMQPValue::LongUInt(*value),
            Self::I64(value) => AMQPValue::LongLongInt(*value),
            Self::F32(value) => AMQPValue::Float(*value),
            Self::F64(value) => AMQPValue::Double(*value),
            Self::Decimal { scale, value } => AMQPValue::DecimalValue(DecimalValue {
                scale: *scale,
                value: *value,
            }),
            Self::LongStr(bytes) => AMQPValue::LongString(bytes.theirs()),
            Self::Array(values) => {
                AMQPValue::FieldArray(FieldArray::from(values.iter().map(Self::theirs).collect::<Vec<_>>()))
            }
            Self::Timestamp(seconds) => AMQPValue::Timestamp(*seconds),
            Self::Table(table) => AMQPValue::FieldTable(table.theirs()),
            Self::ByteArray(bytes) => AMQPValue::ByteArray(ByteArray::from(&bytes[..])),
            Self::Void => AMQPValue::Void,
        }
    }
}

/// `Ours = Class module Theirs { their_field: our_field, ... }`; that every method is here the compiler sees to.
macro_rules! pairs {
    ($($ours:ident = $class:ident $module:ident $theirs:ident { $($their_field:ident: $field:ident),* $(,)? };)*) => {
        fn their_method(method: &Method) -> AMQPClass {
            match method {
                $(Method::$ours { $($field,)* .. } => {
                    let theirs = $module::$theirs { $($their_field: $field.theirs()),* };
                    AMQPClass::$class($module::AMQPMethod::$theirs(theirs))
                })*
            }
        }
    };
}

pairs! {
    ConnectionStart = Connection connection Start {
        version_major: version_major, version_minor: version_minor, server_properties: server_properties, mechanisms:
        mechanisms, locales: locales,
    };
    ConnectionStartOk = Connection connection StartOk {
        client_properties: client_properties, mechanism: mechanism, response: response, locale: locale,
    };
    ConnectionSecure = Connection connection Secure { challenge: challenge };
    ConnectionSecureOk = Connection connection SecureOk { response: response };
    ConnectionTune = Connection connection Tune {
        channel_max: channel_max, frame_max: frame_max, heartbeat: heartbeat,
    };
    ConnectionTuneOk = Connection connection TuneOk {
        channel_max: channel_max, frame_max: frame_max, heartbeat: heartbeat,
    };
    ConnectionOpen = Connection connection Open { virtual_host: virtual_host };
    ConnectionOpenOk = Connection connection OpenOk {};
    ConnectionClose = Connection connection Close {
        reply_code: reply_code, reply_text: reply_text, class_id: class_id, method_id: method_id,
    };
    ConnectionCloseOk = Connection connection CloseOk {};
    ConnectionBlocked = Connection connection Blocked { reason: reason };
    ConnectionUnblocked = Connection connection Unblocked {};
    ConnectionUpdateSecret = Connection connection UpdateSecret { new_secret: new_secret, reason: reason };
    ConnectionUpdateSecretOk = Connection connection UpdateSecretOk {};
    ChannelOpen = Channel channel Open {};
    ChannelOpenOk = Channel channel OpenOk {};
    ChannelFlow = Channel channel Flow { active: active };
    ChannelFlowOk = Channel channel FlowOk { active: active };
    ChannelClose = Channel channel Close {
        reply_code: reply_code, reply_text: reply_text, class_id: class_id, method_id: method_id,
    };
    ChannelCloseOk = Channel channel CloseOk {};
    AccessRequest = Access access Request {
        realm: realm, exclusive: exclusive, passive: passive, active: active, write: write, read: read,
    };
    AccessRequestOk = Access access RequestOk {};
    ExchangeDeclare = Exchange exchange Declare {
        exchange: exchange, kind: kind, passive: passive, durable: durable, auto_delete: auto_delete, internal:
        internal, nowait: no_wait, arguments: arguments,
    };
    ExchangeDeclareOk = Exchange exchange DeclareOk {};
    ExchangeDelete = Exchange exchange Delete { exchange: exchange, if_unused: if_unused, nowait: no_wait };
    ExchangeDeleteOk = Exchange exchange DeleteOk {};
    ExchangeBind = Exchange exchange Bind {
        destination: destination, source: source, routing_key: routing_key, nowait: no_wait, arguments: arguments,
    };
    ExchangeBindOk = Exchange exchange BindOk {};
    ExchangeUnbind = Exchange exchange Unbind {
        destination: destination, source: source, routing_key: routing_key, nowait: no_wait, arguments: arguments,
    };
    ExchangeUnbindOk = Exchange exchange UnbindOk {};
    QueueDeclare = Queue queue Declare {
        queue: queue, passive: passive, durable: durable, exclusive: exclusive, auto_delete: auto_delete, nowait:
        no_wait, arguments: arguments,
    };
    QueueDeclareOk = Queue queue DeclareOk {
        queue: queue, message_count: message_count, consumer_count: consumer_count,
    };
    QueueBind = Queue queue Bind {
        queue: queue, exchange: exchange, routing_key: routing_key, nowait: no_wait, arguments: arguments,
    };
    QueueBindOk = Queue queue BindOk {};
    QueuePurge = Queue queue Purge { queue: queue, nowait: no_wait };
    QueuePurgeOk = Queue queue PurgeOk { message_count: message_count };
    QueueDelete = Queue queue Delete { queue: queue, if_unused: if_unused, if_empty: if_empty, nowait: no_wait };
    QueueDeleteOk = Queue queue DeleteOk { message_count: message_count };
    QueueUnbind = Queue queue Unbind {
        queue: queue, exchange: exchange, routing_key: routing_key, arguments: arguments,
    };
    QueueUnbindOk = Queue queue UnbindOk {};
    BasicQos = Basic basic Qos { prefetch_count: prefetch_count, global: global };
    BasicQosOk = Basic basic QosOk {};
    BasicConsume = Basic basic Consume {
        queue: queue, consumer_tag: consumer_tag, no_local: no_local, no_ack: no_ack, exclusive: exclusive, nowait:
        no_wait, arguments: arguments,
    };
    BasicConsumeOk = Basic basic ConsumeOk { consumer_tag: consumer_tag };
    BasicCancel = Basic basic Cancel { consumer_tag: consumer_tag, nowait: no_wait };
    BasicCancelOk = Basic basic CancelOk { consumer_tag: consumer_tag };
    BasicPublish = Basic basic Publish {
        exchange: exchange, routing_key: routing_key, mandatory: mandatory, immediate: immediate,
    };
    BasicReturn = Basic basic Return {
        reply_code: reply_code, reply_text: reply_text, exchange: exchange, routing_key: routing_key,
    };
    BasicDeliver = Basic basic Deliver {
        consumer_tag: consumer_tag, delivery_tag: delivery_tag, redelivered: redelivered, exchange: exchange,
        routing_key: routing_key,
    };
    BasicGet = Basic basic Get { queue: queue, no_ack: no_ack };
    BasicGetOk = Basic basic GetOk {
        delivery_tag: delivery_tag, redelivered: redelivered, exchange: exchange, routing_key: routing_key,
        message_count: message_count,
    };
    BasicGetEmpty = Basic basic GetEmpty {};
    BasicAck = Basic basic Ack { delivery_tag: delivery_tag, multiple: multiple };
    BasicReject = Basic basic Reject { delivery_tag: delivery_tag, requeue: requeue };
    BasicRecoverAsync = Basic basic RecoverAsync { requeue: requeue };
    BasicRecover = Basic basic Recover { requeue: requeue };
    BasicRecoverOk = Basic basic RecoverOk {};
    BasicNack = Basic basic Nack { delivery_tag: delivery_tag, multiple: multiple, requeue: requeue };
    ConfirmSelect = Confirm confirm Select { nowait: no_wait };
    ConfirmSelectOk = Confirm confirm SelectOk {};
    TxSelect = Tx tx Select {};
    TxSelectOk = Tx tx SelectOk {};
    TxCommit = Tx tx Commit {};
    TxCommitOk = Tx tx CommitOk {};
    TxRollback = Tx tx Rollback {};
    TxRollbackOk = Tx tx RollbackOk {};
}

/// The other crate keeps tables as maps and compares floats as numbers: no name twice, no NaN.
fn plain_value(value: &mut Value) {
    match value {
        Value::F32(float) if float.is_nan() => *float = 0.0,
        Value::F64(float) if float.is_nan() => *float = 0.0,
        Value::Array(values) => values.iter_mut().for_each(plain_value),
        Value::Table(table) => plain(table),
        _ => {}
    }
}

fn plain(table: &mut Table) {
    let mut seen = std::collections::BTreeSet::new();
    table.0.retain(|(name, _)| seen.insert(name.clone()));
    table.0.iter_mut().for_each(|(_, value)| plain_value(value));
}

/// The method as the other crate can hold it.
fn plain_method(mut method: Method) -> Method {
    match &mut method {
        Method::ConnectionStart {
            server_properties: table,
            ..
        }
        | Method::ConnectionStartOk {
            client_properties: table,
            ..
        }
        | Method::ExchangeDeclare { arguments: table, .. }
        | Method::ExchangeBind { arguments: table, .. }
        | Method::ExchangeUnbind { arguments: table, .. }
        | Method::QueueDeclare { arguments: table, .. }
        | Method::QueueBind { arguments: table, .. }
        | Method::QueueUnbind { arguments: table, .. }
        | Method::BasicConsume { arguments: table, .. } => plain(table),
        // Reserved arguments to the other crate, which reads over them and writes their defaults.
        Method::BasicQos { prefetch_size, .. } => *prefetch_size = 0,
        Method::AccessRequestOk { ticket } => *ticket = 1,
        _ => {}
    }
    method
}

fn their_bytes(frame: &AMQPFrame) -> Bytes {
    let written = gen_frame(frame)(WriteContext::from(Vec::new())).expect("memory to write to");
    written.into_inner().0.into()
}

fn their_frame(bytes: &[u8]) -> AMQPFrame {
    let (rest, frame) = parse_frame(bytes).expect("a frame");
    assert!(rest.is_empty());
    frame
}

fn our_frame(bytes: &[u8]) -> Frame {
    let mut buffer = BytesMut::from(bytes);
    let frame = frame::decode(&mut buffer, u32::MAX)
        .expect("a frame")
        .expect("all of it");
    assert!(buffer.is_empty());
    frame
}

#[test]
fn every_method_is_read_alike() {
    for (_, strategy) in strategies() {
        proptest!(ProptestConfig::with_cases(64), |(method in strategy, channel in any::<u16>())| {
            let method = plain_method(method);
            let theirs = AMQPFrame::Method(channel, their_method(&method));
            let mut ours = BytesMut::new();
            put_method(&mut ours, channel, &method);
            prop_assert_eq!(&their_frame(&ours), &theirs);

            let frame = our_frame(&their_bytes(&theirs));
            prop_assert_eq!((frame.kind, frame.channel), (Kind::Method, channel));
            prop_assert_eq!(Method::decode(&frame.payload), Ok(method));
        });
    }
}

fn their_properties(ours: &Properties) -> basic::AMQPProperties {
    let mut theirs = basic::AMQPProperties::default();
    macro_rules! copy {
        ($($with:ident $field:ident),*) => {$(
            if let Some(value) = &ours.$field {
                theirs = theirs.$with(value.theirs());
            }
        )*};
    }
    copy!(
        with_content_type content_type, with_content_encoding content_encoding, with_headers headers,
        with_delivery_mode delivery_mode, with_priority priority, with_correlation_id correlation_id,
        with_reply_to reply_to, with_expiration expiration, with_message_id message_id, with_timestamp timestamp,
        with_type kind, with_user_id user_id, with_app_id app_id, with_cluster_id cluster_id
    );
    theirs
}

proptest! {
    #[test]
    fn content_headers_are_read_alike(
        properties in Properties::strategy(), channel in any::<u16>(), body_size in any::<u64>(),
    ) {
        let mut properties = properties;
        properties.headers.iter_mut().for_each(plain);
        let content = AMQPContentHeader { class_id: 60, body_size, properties: their_properties(&properties) };
        let theirs = AMQPFrame::Header(channel, content);
        let header = Header { class: 60, body_size, properties: properties.to_bytes() };
        let mut payload = BytesMut::new();
        header.encode(&mut payload);
        let mut ours = BytesMut::new();
        Frame { kind: Kind::Header, channel, payload: payload.freeze() }.encode(&mut ours);
        prop_assert_eq!(&their_frame(&ours), &theirs);

        let frame = our_frame(&their_bytes(&theirs));
        prop_assert_eq!((frame.kind, frame.channel), (Kind::Header, channel));
        let decoded = Header::decode(&frame.payload).expect("a header");
        prop_assert_eq!((decoded.class, decoded.body_size), (60, body_size));
        prop_assert_eq!(Properties::decode(&decoded.properties), Ok(properties));
    }

    #[test]
    fn bodies_are_read_alike(body in Bytes::strategy(), channel in any::<u16>()) {
        let theirs = AMQPFrame::Body(channel, body.to_vec());
        let ours = Frame { kind: Kind::Body, channel, payload: body };
        let mut bytes = BytesMut::new();
        ours.encode(&mut bytes);
        prop_assert_eq!(&their_frame(&bytes), &theirs);
        prop_assert_eq!(our_frame(&their_bytes(&theirs)), ours);
    }
}

#[test]
fn heartbeats_are_read_alike() {
    let mut bytes = BytesMut::new();
    frame::put_heartbeat(&mut bytes);
    assert_eq!(their_frame(&bytes), AMQPFrame::Heartbeat);
    assert_eq!(their_bytes(&AMQPFrame::Heartbeat), bytes);
}
