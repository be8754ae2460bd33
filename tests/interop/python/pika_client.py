"""pika, current: declare, publish with confirms, consume with acknowledgements, route, ask and answer, err, close."""

import datetime
import decimal

import pika
from pika import exceptions

from common import check, equal, give_up_after, name, url

HEADERS = {
    "text": "žluťoučký kůň",
    "int": 7,
    "big": 2**40,
    "negative": -3,
    "yes": True,
    "nothing": None,
    "bytes": b"\x00\xff",
    "when": datetime.datetime(2024, 2, 29, 12, 0, 0, tzinfo=datetime.timezone.utc),
    "decimal": decimal.Decimal("3.14"),
    "list": [1, "two", {"three": 3}],
    "table": {"inner": {"deep": "value"}},
}
PROPERTIES = dict(
    content_type="application/json",
    content_encoding="utf-8",
    headers=HEADERS,
    delivery_mode=2,
    priority=5,
    correlation_id="correlation",
    reply_to="somewhere",
    expiration="600000",
    message_id="message-1",
    timestamp=1_700_000_000,
    type="kind",
    user_id="guest",
    app_id="interop",
    cluster_id="",
)


def comparable(value):
    """Time stamps come back without a zone, byte arrays as text where they can be read as such."""
    if isinstance(value, datetime.datetime):
        return value.replace(tzinfo=None)
    if isinstance(value, dict):
        return {key: comparable(inner) for key, inner in value.items()}
    if isinstance(value, list):
        return [comparable(inner) for inner in value]
    return value


def properties_and_confirms(publisher, consumer):
    queue = name("pika.work")
    sending, receiving = publisher.channel(), consumer.channel()
    answer = sending.queue_declare(queue=queue, durable=True)
    equal((answer.method.queue, answer.method.message_count, answer.method.consumer_count), (queue, 0, 0), "declare-ok")
    sending.confirm_delivery()
    sending.basic_publish("", queue, b"body", pika.BasicProperties(**PROPERTIES), mandatory=True)
    sending.basic_publish("", queue, b"", pika.BasicProperties())
    big = bytes(range(256)) * 4096
    sending.basic_publish("", queue, big)

    receiving.basic_qos(prefetch_count=1)
    bodies = []
    for method, properties, body in receiving.consume(queue, inactivity_timeout=20):
        check(method is not None, "a delivery within 20 s")
        if not bodies:
            for key, value in PROPERTIES.items():
                equal(comparable(getattr(properties, key)), comparable(value), "property %s" % key)
        equal(method.redelivered, False, "redelivered")
        bodies.append(body)
        receiving.basic_ack(method.delivery_tag)
        if len(bodies) == 3:
            break
    receiving.cancel()
    equal(bodies, [b"body", b"", big], "bodies in order")
    equal(sending.queue_declare(queue, passive=True).method.message_count, 0, "messages left")

    try:
        sending.basic_publish("", "no such queue %s" % queue, b"unroutable", mandatory=True)
        check(False, "an unroutable mandatory message must come back")
    except exceptions.UnroutableError as error:
        equal(error.messages[0].body, b"unroutable", "the returned body")
        equal(error.messages[0].method.reply_text, "NO_ROUTE", "the reason")

    for text in ("one", "two"):
        sending.basic_publish("", queue, text)
    method, _, body = receiving.basic_get(queue)
    equal((body, method.message_count), (b"one", 1), "basic.get")
    receiving.basic_nack(method.delivery_tag, requeue=True)
    method, _, body = receiving.basic_get(queue)
    equal((body, method.redelivered), (b"one", True), "after the nack")
    receiving.basic_ack(method.delivery_tag)
    equal(sending.queue_purge(queue).method.message_count, 1, "purged")
    equal(receiving.basic_get(queue), (None, None, None), "an empty queue")
    receiving.queue_delete(queue)


def routing(publisher, consumer):
    sending, receiving = publisher.channel(), consumer.channel()
    topic, fanout = name("pika.topic"), name("pika.fanout")
    receiving.exchange_declare(topic, exchange_type="topic", durable=True)
    receiving.exchange_declare(fanout, exchange_type="fanout", durable=True)
    receiving.exchange_bind(fanout, topic, routing_key="#")
    queues = {}
    for pattern in ("*.critical", "kern.#"):
        queues[pattern] = receiving.queue_declare("", exclusive=True).method.queue
        receiving.queue_bind(queues[pattern], topic, routing_key=pattern)
    everything = receiving.queue_declare("", exclusive=True).method.queue
    receiving.queue_bind(everything, fanout)
    got = {}
    for queue in [*queues.values(), everything]:
        receiving.basic_consume(
            queue, lambda _c, method, _p, body, q=queue: got.setdefault(q, []).append(body), auto_ack=True
        )
    sending.confirm_delivery()
    for key in ("kern.critical", "kern.info", "cron.critical", "cron.info"):
        sending.basic_publish(topic, key, key)
    while sum(map(len, got.values())) < 8:
        consumer.process_data_events(time_limit=1)
    equal(got[queues["*.critical"]], [b"kern.critical", b"cron.critical"], "*.critical")
    equal(got[queues["kern.#"]], [b"kern.critical", b"kern.info"], "kern.#")
    equal(len(got[everything]), 4, "all of the topics through the fanout")
    for exchange in (topic, fanout):
        receiving.exchange_delete(exchange)


def read_stream(connection, queue, count, offset, **arguments):
    """So many messages from an offset on, as pairs of offset and body, each acknowledged."""
    channel = connection.channel()
    channel.basic_qos(prefetch_count=10)
    found = []

    def take(_channel, method, properties, body):
        found.append((properties.headers["x-stream-offset"], body))
        channel.basic_ack(method.delivery_tag)

    channel.basic_consume(queue, take, arguments={"x-stream-offset": offset, **arguments})
    while len(found) < count:
        connection.process_data_events(time_limit=1)
    channel.close()
    return found


def streams(publisher, consumer):
    sending, queue = publisher.channel(), name("pika.stream")
    arguments = {"x-queue-type": "stream", "x-max-length-bytes": 5_000_000_000, "x-max-age": "7D"}
    sending.queue_declare(queue, durable=True, arguments=arguments)
    sending.confirm_delivery()
    expected = [(number, b"%d" % number) for number in range(100)]
    for number, body in expected:
        headers = {"x-stream-filter-value": "even" if number % 2 == 0 else "odd"}
        sending.basic_publish("", queue, body, pika.BasicProperties(headers=headers))
    equal(read_stream(consumer, queue, 100, "first"), expected, "all from the first on")
    equal(read_stream(consumer, queue, 1, "last"), expected[-1:], "the last one")
    equal(read_stream(publisher, queue, 40, 60), expected[60:], "from an offset on, as one that comes back does")
    now = datetime.datetime.now(tz=datetime.timezone.utc)
    equal(read_stream(consumer, queue, 100, now - datetime.timedelta(hours=1)), expected, "from a time on")
    even = read_stream(consumer, queue, 50, "first", **{"x-stream-filter": "even"})
    equal(even, expected[::2], "those with a filter value")
    sending.queue_delete(queue)


def errors(publisher):
    for ask, code in (
        (lambda channel: channel.queue_declare(name("pika.missing"), passive=True), 404),
        (lambda channel: channel.exchange_declare("amq.fanout", exchange_type="direct", durable=True), 406),
        (lambda channel: channel.queue_declare("amq.reserved"), 403),
    ):
        channel = publisher.channel()
        try:
            ask(channel)
            check(False, "a refusal with %d" % code)
        except exceptions.ChannelClosedByBroker as error:
            equal(error.reply_code, code, "reply code")
    check(publisher.is_open, "the connection outlives its channels' errors")


def main():
    give_up_after(90)
    publisher = pika.BlockingConnection(pika.URLParameters(url(0)))
    consumer = pika.BlockingConnection(pika.URLParameters(url(1)))
    properties_and_confirms(publisher, consumer)
    routing(publisher, consumer)
    streams(publisher, consumer)
    errors(publisher)
    publisher.close()
    consumer.close()


main()
