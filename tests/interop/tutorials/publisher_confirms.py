#!/usr/bin/env python3
"""Publisher confirms: one by one, and asynchronously with many outstanding."""
import uuid

import pika

from broker import HOST, PORT

MESSAGE_COUNT = 2000


def publish_individually():
    connection = pika.BlockingConnection(pika.ConnectionParameters(host=HOST, port=PORT))
    channel = connection.channel()
    queue = str(uuid.uuid4())
    channel.queue_declare(queue=queue, auto_delete=True)
    channel.confirm_delivery()
    for i in range(MESSAGE_COUNT // 10):
        # Raises if the broker refuses the message or cannot route it.
        channel.basic_publish(exchange="", routing_key=queue, body=str(i), mandatory=True)
    left = channel.queue_declare(queue=queue, passive=True).method.message_count
    print(f"Published {left} messages individually", flush=True)
    channel.queue_delete(queue=queue)
    connection.close()


class Asynchronously(object):
    def __init__(self):
        self.queue = str(uuid.uuid4())
        self.outstanding = {}
        self.nacked = 0
        self.connection = pika.SelectConnection(
            pika.ConnectionParameters(host=HOST, port=PORT), on_open_callback=self.on_open
        )

    def run(self):
        self.connection.ioloop.start()

    def on_open(self, connection):
        connection.channel(on_open_callback=self.on_channel)

    def on_channel(self, channel):
        self.channel = channel
        channel.queue_declare(queue=self.queue, auto_delete=True, callback=self.on_queue)

    def on_queue(self, frame):
        self.channel.confirm_delivery(self.on_confirm, callback=self.publish)

    def publish(self, frame):
        for i in range(1, MESSAGE_COUNT + 1):
            self.outstanding[i] = str(i)
            self.channel.basic_publish(exchange="", routing_key=self.queue, body=str(i))

    def on_confirm(self, frame):
        kind = frame.method.NAME.split(".")[1].lower()
        tags = [frame.method.delivery_tag]
        if frame.method.multiple:
            tags = [tag for tag in self.outstanding if tag <= frame.method.delivery_tag]
        for tag in tags:
            del self.outstanding[tag]
            self.nacked += kind == "nack"
        if not self.outstanding:
            self.channel.queue_delete(queue=self.queue, callback=self.on_deleted)

    def on_deleted(self, frame):
        print(
            f"Published {frame.method.message_count} messages asynchronously, {self.nacked} refused", flush=True
        )
        self.connection.add_on_close_callback(lambda *_: self.connection.ioloop.stop())
        self.connection.close()


publish_individually()
Asynchronously().run()
