"""aio-pika over robust connections: confirms, iteration, topic and fanout, rpc, errors, reconnect after a lost socket."""

import asyncio
import datetime

import aio_pika
from aio_pika import DeliveryMode, ExchangeType, Message
from aio_pika.exceptions import ChannelNotFoundEntity, ChannelPreconditionFailed, DeliveryError

from common import check, equal, name, url

HEADERS = {"text": "value", "int": 7, "yes": True, "none": None, "table": {"inner": [1, 2, "three"]}}


async def work(publisher, consumer):
    sending = await publisher.channel(on_return_raises=True)
    receiving = await consumer.channel()
    await receiving.set_qos(prefetch_count=2)
    queue = await receiving.declare_queue(name("aio.work"), durable=True)
    when = datetime.datetime(2024, 2, 29, 12, 0, 0, tzinfo=datetime.timezone.utc)
    for number in range(10):
        message = Message(
            b"body %d" % number,
            headers=HEADERS,
            content_type="application/json",
            content_encoding="utf-8",
            delivery_mode=DeliveryMode.PERSISTENT,
            priority=5,
            correlation_id="correlation",
            reply_to="somewhere",
            expiration=600,
            message_id="message-%d" % number,
            timestamp=when,
            type="kind",
            user_id="guest",
            app_id="interop",
        )
        await sending.default_exchange.publish(message, routing_key=queue.name)
    seen = []
    async with queue.iterator() as messages:
        async for message in messages:
            async with message.process():
                equal(dict(message.headers), HEADERS, "headers")
                equal(
                    (
                        message.content_type,
                        message.content_encoding,
                        message.delivery_mode,
                        message.priority,
                        message.correlation_id,
                        message.reply_to,
                        message.expiration,
                        message.message_id,
                        message.timestamp,
                        message.type,
                        message.user_id,
                        message.app_id,
                    ),
                    (
                        "application/json",
                        "utf-8",
                        DeliveryMode.PERSISTENT,
                        5,
                        "correlation",
                        "somewhere",
                        600,
                        "message-%d" % len(seen),
                        when,
                        "kind",
                        "guest",
                        "interop",
                    ),
                    "properties",
                )
                seen.append(message.body)
            if len(seen) == 10:
                break
    equal(seen, [b"body %d" % number for number in range(10)], "bodies in order")
    try:
        await sending.default_exchange.publish(Message(b"lost"), routing_key="no such queue", mandatory=True)
        check(False, "an unroutable mandatory message must come back")
    except DeliveryError:
        pass
    await queue.delete()


async def routing(publisher, consumer):
    sending = await publisher.channel()
    receiving = await consumer.channel()
    topic = await receiving.declare_exchange(name("aio.topic"), ExchangeType.TOPIC, durable=True)
    fanout = await receiving.declare_exchange(name("aio.fanout"), ExchangeType.FANOUT, auto_delete=True)
    narrow = await receiving.declare_queue(exclusive=True)
    wide = await receiving.declare_queue(exclusive=True)
    await narrow.bind(topic, "*.orange.*")
    await fanout.bind(topic, "#")
    await wide.bind(fanout)
    exchange = await sending.get_exchange(topic.name)
    for key in ("quick.orange.rabbit", "lazy.pink.rabbit"):
        await exchange.publish(Message(key.encode()), routing_key=key)
    got = [(await wide.get(timeout=10, no_ack=True)).body for _ in range(2)]
    equal(got, [b"quick.orange.rabbit", b"lazy.pink.rabbit"], "everything")
    equal((await narrow.get(timeout=10, no_ack=True)).body, b"quick.orange.rabbit", "orange only")
    equal(await narrow.get(fail=False), None, "and nothing else")
    await topic.delete()


async def rpc(publisher, consumer):
    server, client = await publisher.channel(), await consumer.channel()
    requests = await server.declare_queue(name("aio.rpc"), auto_delete=True)

    async def answer(message):
        async with message.process():
            body = b"%d" % (int(message.body) * 2)
            reply = Message(body, correlation_id=message.correlation_id)
            await server.default_exchange.publish(reply, routing_key=message.reply_to)

    await requests.consume(answer)
    replies = await client.declare_queue(exclusive=True)
    waiting = {str(number): asyncio.get_running_loop().create_future() for number in range(20)}

    async def on_reply(message):
        waiting[message.correlation_id].set_result(int(message.body))

    await replies.consume(on_reply, no_ack=True)
    for number in waiting:
        request = Message(number.encode(), correlation_id=number, reply_to=replies.name)
        await client.default_exchange.publish(request, routing_key=requests.name)
    equal(await asyncio.gather(*waiting.values()), [2 * number for number in range(20)], "answers")


async def errors(publisher):
    channel = await publisher.channel()
    try:
        await channel.declare_queue(name("aio.missing"), passive=True)
        check(False, "a missing queue is refused")
    except ChannelNotFoundEntity:
        pass
    channel = await publisher.channel()
    queue = await channel.declare_queue(name("aio.durable"), durable=True)
    try:
        other = await publisher.channel()
        await other.declare_queue(queue.name, durable=False)
        check(False, "another durability is refused")
    except ChannelPreconditionFailed as error:
        check("inequivalent arg 'durable'" in str(error), error)
    await queue.delete()


async def reconnect():
    """The socket is cut under a robust connection; consumer, queue and binding come back by themselves."""
    connection = await aio_pika.connect_robust(url(0), reconnect_interval=0.2)
    channel = await connection.channel()
    queue = await channel.declare_queue(name("aio.robust"), auto_delete=True)
    bodies = asyncio.Queue()

    async def take(message):
        async with message.process():
            await bodies.put(message.body)

    await queue.consume(take)
    back = asyncio.Event()
    connection.reconnect_callbacks.add(lambda *_: back.set())
    await connection.transport.connection.close(ConnectionError("cut by the test"))
    await asyncio.wait_for(back.wait(), 20)
    await channel.ready()
    await channel.default_exchange.publish(Message(b"after"), routing_key=queue.name)
    equal(await asyncio.wait_for(bodies.get(), 20), b"after", "a message after the reconnect")
    await connection.close()


async def main():
    publisher = await aio_pika.connect_robust(url(0))
    consumer = await aio_pika.connect_robust(url(1))
    async with publisher, consumer:
        await work(publisher, consumer)
        await routing(publisher, consumer)
        await rpc(publisher, consumer)
        await errors(publisher)
    await reconnect()


asyncio.run(asyncio.wait_for(main(), 90))
