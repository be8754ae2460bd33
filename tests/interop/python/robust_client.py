"""aio-pika's robust connection to one node, which is killed and started again: everything comes back by itself.

    robust_client.py QUEUE EXCHANGE
"""

import asyncio
import sys

import aio_pika
from aio_pika import DeliveryMode, ExchangeType, Message

from common import check, give_up_after, url


async def main(queue_name, exchange_name):
    connection = await aio_pika.connect_robust(url(0), reconnect_interval=0.2)
    back = asyncio.Event()
    connection.reconnect_callbacks.add(lambda *_: back.set())
    receiving = await connection.channel()
    await receiving.set_qos(prefetch_count=10)
    exchange = await receiving.declare_exchange(exchange_name, ExchangeType.TOPIC, durable=True)
    queue = await receiving.declare_queue(queue_name, durable=True, arguments={"x-queue-type": "quorum"})
    await queue.bind(exchange, "k.*")
    received = set()

    async def take(message):
        received.add(int(message.body))
        try:
            await message.ack()
        except Exception:
            pass  # It comes again.

    await queue.consume(take)
    sending = await connection.channel()
    target = await sending.get_exchange(exchange_name)

    number = after = 0
    while after < 100:
        try:
            message = Message(b"%d" % number, delivery_mode=DeliveryMode.PERSISTENT)
            await asyncio.wait_for(target.publish(message, routing_key="k.x"), 5)
        except Exception:
            await asyncio.sleep(0.05)
            continue
        number += 1
        if number == 50:
            print("ready", flush=True)
        if back.is_set():
            after += 1
            if after == 1:
                print("recovered", flush=True)
    for _ in range(2000):
        if len(received) == number:
            break
        await asyncio.sleep(0.01)
    check(received == set(range(number)), "%d of %d arrived" % (len(received), number))
    print("done %d" % number, flush=True)
    await connection.close()


give_up_after(90)
asyncio.run(main(*sys.argv[1:]))
