"""rabbitpy: objects for exchanges, queues and messages, and iteration over a queue."""

import datetime

import rabbitpy
from rabbitpy import exceptions

from common import check, equal, give_up_after, name, url

PROPERTIES = {
    "app_id": "interop",
    "content_type": "application/json",
    "content_encoding": "utf-8",
    "correlation_id": "correlation",
    "delivery_mode": 2,
    "expiration": "600000",
    "headers": {"text": "value", "int": 7, "yes": True, "table": {"inner": [1, 2, "three"]}},
    "message_id": "message-1",
    "message_type": "kind",
    "priority": 5,
    "reply_to": "somewhere",
    "timestamp": datetime.datetime(2024, 2, 29, 12, 0, 0, tzinfo=datetime.timezone.utc),
    "user_id": "guest",
}

give_up_after(60)
with rabbitpy.Connection(url(0)) as connection, rabbitpy.Connection(url(1)) as other:
    with connection.channel() as channel, other.channel() as receiving:
        exchange = rabbitpy.TopicExchange(channel, name("rabbitpy.topic"), durable=True)
        exchange.declare()
        queue = rabbitpy.Queue(channel, name("rabbitpy.queue"), durable=True)
        equal(queue.declare(), (0, 0), "declare")
        queue.bind(exchange, "orders.#")
        channel.enable_publisher_confirms()
        for number in range(5):
            message = rabbitpy.Message(channel, "order %d" % number, dict(PROPERTIES))
            check(message.publish(exchange, "orders.new.%d" % number), "publish %d is confirmed" % number)
        equal(len(queue), 5, "messages in the queue")

        taken = rabbitpy.Queue(receiving, queue.name)
        first = taken.get()
        equal(first.body, b"order 0", "the first message")
        first.nack(requeue=True)
        seen = []
        for message in taken:
            for key, value in PROPERTIES.items():
                got = message.properties[key]
                equal(got.decode() if isinstance(got, bytes) else got, value, "property %s" % key)
            equal(message.redelivered, not seen, "redelivered")
            equal(message.routing_key, "orders.new.%d" % len(seen), "routing key")
            seen.append(message.body)
            message.ack()
            if len(seen) == 5:
                taken.stop_consuming()
                break
        equal(seen, [b"order %d" % number for number in range(5)], "orders in sequence")

        returned = rabbitpy.Message(channel, "nowhere")
        try:
            returned.publish(exchange, "no.binding", mandatory=True)
            check(False, "an unroutable mandatory message must come back")
        except exceptions.MessageReturnedException:
            pass
        equal(len(queue), 0, "messages left")
        queue.delete()
        exchange.delete()

    with connection.channel() as channel:
        try:
            rabbitpy.Queue(channel, name("rabbitpy.missing")).declare(passive=True)
            check(False, "a missing queue is refused")
        except exceptions.AMQPNotFound:
            pass
