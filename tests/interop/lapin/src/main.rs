//! lapin: declare, publish with confirms, consume with acknowledgements, route, ask and answer, err, close.

use std::error::Error;
use std::time::Duration;

use futures_lite::StreamExt;
use lapin::message::Delivery;
use lapin::options::*;
use lapin::types::{AMQPValue, FieldTable, LongString, ShortString};
use lapin::{BasicProperties, Channel, Confirmation, Connection, ConnectionProperties, Consumer, ExchangeKind};

type Outcome<T = ()> = Result<T, Box<dyn Error>>;

async fn connect(node: usize) -> Outcome<Connection> {
    let urls = std::env::var("AMQP_URLS")?;
    let urls: Vec<&str> = urls.split(',').collect();
    let properties = ConnectionProperties::default().with_connection_name("interop".into());
    Ok(Connection::connect(urls[node % urls.len()], properties).await?)
}

fn name(label: &str) -> ShortString {
    format!("interop.{}.{label}", std::env::var("RUN_ID").unwrap_or_default()).into()
}

async fn next(consumer: &mut Consumer) -> Outcome<Delivery> {
    let delivery = tokio::time::timeout(Duration::from_secs(20), consumer.next()).await?;
    Ok(delivery.ok_or("the consumer ended")??)
}

async fn consume(channel: &Channel, queue: &ShortString, no_ack: bool) -> Outcome<Consumer> {
    let mut options = BasicConsumeOptions::default();
    options.no_ack = no_ack;
    Ok(channel.basic_consume(queue.clone(), "".into(), options, FieldTable::default()).await?)
}

fn durable() -> QueueDeclareOptions {
    let mut options = QueueDeclareOptions::default();
    options.durable = true;
    options
}

fn exclusive() -> QueueDeclareOptions {
    let mut options = QueueDeclareOptions::default();
    options.exclusive = true;
    options
}

fn properties(number: usize) -> BasicProperties {
    let mut inner = FieldTable::default();
    inner.insert("deep".into(), AMQPValue::LongString(LongString::from("value")));
    let mut headers = FieldTable::default();
    headers.insert("a-bool".into(), AMQPValue::Boolean(true));
    headers.insert("b-int".into(), AMQPValue::LongInt(-7));
    headers.insert("c-big".into(), AMQPValue::LongLongInt(1 << 40));
    headers.insert("d-double".into(), AMQPValue::Double(2.25));
    headers.insert("e-text".into(), AMQPValue::LongString(LongString::from("value")));
    headers.insert("f-table".into(), AMQPValue::FieldTable(inner));
    headers.insert("g-void".into(), AMQPValue::Void);
    headers.insert("h-when".into(), AMQPValue::Timestamp(1_700_000_000));
    BasicProperties::default()
        .with_content_type("application/json".into())
        .with_content_encoding("utf-8".into())
        .with_headers(headers)
        .with_delivery_mode(2)
        .with_priority(5)
        .with_correlation_id("correlation".into())
        .with_reply_to("somewhere".into())
        .with_expiration("600000".into())
        .with_message_id(format!("message-{number}").into())
        .with_timestamp(1_700_000_000)
        .with_type("kind".into())
        .with_user_id("guest".into())
        .with_app_id("interop".into())
}

async fn work(publisher: &Connection, consumer: &Connection) -> Outcome {
    let (sending, receiving) = (publisher.create_channel().await?, consumer.create_channel().await?);
    let queue = name("lapin.work");
    let declared = sending.queue_declare(queue.clone(), durable(), FieldTable::default()).await?;
    assert_eq!((declared.message_count(), declared.consumer_count()), (0, 0));
    sending.confirm_select(ConfirmSelectOptions::default()).await?;
    receiving.basic_qos(3, BasicQosOptions::default()).await?;
    let mut deliveries = consume(&receiving, &queue, false).await?;
    let publish = BasicPublishOptions::default();
    for number in 0..20 {
        let body = format!("body {number}");
        let confirm =
            sending.basic_publish("".into(), queue.clone(), publish, body.as_bytes(), properties(number)).await?.await?;
        assert!(confirm.is_ack(), "{confirm:?}");
    }
    for number in 0..20 {
        let delivery = next(&mut deliveries).await?;
        assert_eq!(delivery.data, format!("body {number}").into_bytes());
        assert_eq!(delivery.properties, properties(number));
        assert!(!delivery.redelivered);
        delivery.ack(BasicAckOptions::default()).await?;
    }
    let big = vec![7; 1 << 20];
    sending.basic_publish("".into(), queue.clone(), publish, &big, BasicProperties::default()).await?.await?;
    let delivery = next(&mut deliveries).await?;
    assert!(delivery.data == big);
    let mut again = BasicNackOptions::default();
    again.requeue = true;
    delivery.nack(again).await?;
    let delivery = next(&mut deliveries).await?;
    assert!(delivery.redelivered && delivery.data == big);
    delivery.ack(BasicAckOptions::default()).await?;

    let mut mandatory = BasicPublishOptions::default();
    mandatory.mandatory = true;
    let confirm =
        sending.basic_publish("".into(), name("nowhere"), mandatory, b"", BasicProperties::default()).await?.await?;
    match confirm {
        Confirmation::Ack(Some(returned)) => assert_eq!(returned.reply_text.as_str(), "NO_ROUTE"),
        other => panic!("an unroutable message must come back: {other:?}"),
    }
    assert_eq!(sending.queue_delete(queue, QueueDeleteOptions::default()).await?, 0);
    Ok(())
}

async fn routing(publisher: &Connection, consumer: &Connection) -> Outcome {
    let (sending, receiving) = (publisher.create_channel().await?, consumer.create_channel().await?);
    let (topic, fanout) = (name("lapin.topic"), name("lapin.fanout"));
    for (exchange, kind) in [(&topic, ExchangeKind::Topic), (&fanout, ExchangeKind::Fanout)] {
        let options = ExchangeDeclareOptions::default();
        receiving.exchange_declare(exchange.clone(), kind, options, FieldTable::default()).await?;
    }
    let options = ExchangeBindOptions::default();
    receiving.exchange_bind(fanout.clone(), topic.clone(), "#".into(), options, FieldTable::default()).await?;
    let narrow = receiving.queue_declare("".into(), exclusive(), FieldTable::default()).await?.name().clone();
    let wide = receiving.queue_declare("".into(), exclusive(), FieldTable::default()).await?.name().clone();
    for (queue, exchange, key) in [(&narrow, &topic, "*.orange.*"), (&wide, &fanout, "")] {
        let options = QueueBindOptions::default();
        receiving.queue_bind(queue.clone(), exchange.clone(), key.into(), options, FieldTable::default()).await?;
    }
    let mut few = consume(&receiving, &narrow, true).await?;
    let mut all = consume(&receiving, &wide, true).await?;
    for key in ["lazy.pink.rabbit", "quick.orange.rabbit"] {
        let options = BasicPublishOptions::default();
        sending.basic_publish(topic.clone(), key.into(), options, b"", BasicProperties::default()).await?.await?;
    }
    assert_eq!(next(&mut all).await?.routing_key.as_str(), "lazy.pink.rabbit");
    assert_eq!(next(&mut all).await?.routing_key.as_str(), "quick.orange.rabbit");
    assert_eq!(next(&mut few).await?.routing_key.as_str(), "quick.orange.rabbit");
    for exchange in [topic, fanout] {
        receiving.exchange_delete(exchange, ExchangeDeleteOptions::default()).await?;
    }
    Ok(())
}

async fn rpc(publisher: &Connection, consumer: &Connection) -> Outcome {
    let (server, client) = (publisher.create_channel().await?, consumer.create_channel().await?);
    let mut transient = QueueDeclareOptions::default();
    transient.auto_delete = true;
    let requests = server.queue_declare(name("lapin.rpc"), transient, FieldTable::default()).await?.name().clone();
    let mut incoming = consume(&server, &requests, false).await?;
    tokio::spawn(async move {
        while let Some(Ok(request)) = incoming.next().await {
            let number: u32 = String::from_utf8_lossy(&request.data).parse().expect("a number");
            let reply_to = request.properties.reply_to().clone().expect("an address for the reply");
            let correlation = request.properties.correlation_id().clone().expect("a correlation id");
            let reply = BasicProperties::default().with_correlation_id(correlation);
            let body = (2 * number).to_string();
            let options = BasicPublishOptions::default();
            server.basic_publish("".into(), reply_to, options, body.as_bytes(), reply).await.expect("published");
            request.ack(BasicAckOptions::default()).await.expect("acknowledged");
        }
    });
    let replies = client.queue_declare("".into(), exclusive(), FieldTable::default()).await?.name().clone();
    let mut answers = consume(&client, &replies, true).await?;
    for number in 0..10 {
        let request = BasicProperties::default()
            .with_correlation_id(number.to_string().into())
            .with_reply_to(replies.clone());
        let (body, options) = (number.to_string(), BasicPublishOptions::default());
        client.basic_publish("".into(), requests.clone(), options, body.as_bytes(), request).await?.await?;
        let answer = next(&mut answers).await?;
        assert_eq!(answer.data, (2 * number).to_string().into_bytes());
        assert_eq!(answer.properties.correlation_id().as_ref().map(ShortString::as_str), Some(&*number.to_string()));
    }
    Ok(())
}

async fn refusals(connection: &Connection) -> Outcome {
    let channel = connection.create_channel().await?;
    let mut passive = QueueDeclareOptions::default();
    passive.passive = true;
    let error = channel.queue_declare(name("lapin.missing"), passive, FieldTable::default()).await;
    let text = format!("{:?}", error.expect_err("a missing queue is refused"));
    assert!(text.contains("NOT_FOUND - no queue"), "{text}");
    let channel = connection.create_channel().await?;
    let error = channel.queue_declare("amq.reserved".into(), durable(), FieldTable::default()).await;
    let text = format!("{:?}", error.expect_err("a reserved name is refused"));
    assert!(text.contains("ACCESS_REFUSED"), "{text}");
    assert!(connection.status().connected());
    Ok(())
}

#[tokio::main]
async fn main() -> Outcome {
    let (publisher, consumer) = (connect(0).await?, connect(1).await?);
    work(&publisher, &consumer).await?;
    routing(&publisher, &consumer).await?;
    rpc(&publisher, &consumer).await?;
    refusals(&publisher).await?;
    publisher.close(200, "done".into()).await?;
    consumer.close(200, "done".into()).await?;
    Ok(())
}
