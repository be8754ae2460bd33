#!/usr/bin/env python3
"""Work queues, the first version: no prefetch, so that tasks are dealt out in turn whatever they cost."""
import pika

from broker import HOST, PORT

connection = pika.BlockingConnection(pika.ConnectionParameters(host=HOST, port=PORT))
channel = connection.channel()

channel.queue_declare(queue="task_queue", durable=True)


def callback(ch, method, properties, body):
    print(f" [x] Received {body.decode()}", flush=True)


channel.basic_consume(queue="task_queue", auto_ack=True, on_message_callback=callback)

print(" [*] Waiting for messages. To exit press CTRL+C", flush=True)
channel.start_consuming()
