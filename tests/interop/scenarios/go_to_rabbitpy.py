"""A Go service publishes to an exchange; a Python one iterates over the queue and gets every property as it was set."""
import datetime
import os
import subprocess

import rabbitpy

from programs import Scenario, equal, name, url

COUNT = 100
exchange, queue = name("go.orders"), name("go.billing")
with Scenario(queues=[queue], exchanges=[exchange]) as scenario:
    scenario.channel.exchange_declare(exchange, exchange_type="topic", durable=True)
    scenario.channel.queue_declare(queue, durable=True)
    scenario.channel.queue_bind(queue, exchange, "orders.*")
    producer = subprocess.Popen([os.environ["GO_CLIENT"], "produce", url(0), exchange, "orders.new", str(COUNT)])
    with rabbitpy.Connection(url(1)) as connection, connection.channel() as channel:
        channel.prefetch_count(10)
        seen = 0
        incoming = rabbitpy.Queue(channel, queue)
        for message in incoming:
            equal(message.body, b'{"order":%d}' % seen, "the body")
            properties = {
                key: value.decode() if isinstance(value, bytes) else value for key, value in message.properties.items()
            }
            headers = properties.pop("headers")
            equal(
                properties,
                {
                    "app_id": "go-service",
                    "content_encoding": "utf-8",
                    "content_type": "application/json",
                    "correlation_id": "correlation-%d" % seen,
                    "delivery_mode": 2,
                    "expiration": "600000",
                    "message_id": "order-%d" % seen,
                    "message_type": "order.created",
                    "priority": 4,
                    "reply_to": "answers",
                    "timestamp": datetime.datetime(2024, 2, 29, 12, 0, 0, tzinfo=datetime.timezone.utc),
                    "user_id": "guest",
                    "cluster_id": properties.get("cluster_id"),
                },
                "the properties",
            )
            equal(headers["attempt"], seen, "an integer header")
            equal(headers["tenant"], "acme", "a text header")
            equal(headers["nested"], {"list": [1, "two", True]}, "a table header")
            equal((message.exchange, message.routing_key), (exchange, "orders.new"), "where it was published")
            message.ack()
            seen += 1
            if seen == COUNT:
                incoming.stop_consuming()
                break
    equal(producer.wait(timeout=30), 0, "the producer's exit status")
    scenario.until_counts(queue, 0, 0)
