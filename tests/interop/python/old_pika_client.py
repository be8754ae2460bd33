"""pika 0.13 in the shapes of the old tutorials: callback first, no_ack, properties and keys by position."""

import collections
import collections.abc

# This release is older than Python 3.10, which took the name away.
collections.Callable = collections.abc.Callable

import pika  # noqa: E402

from common import equal, give_up_after, host_and_port, name  # noqa: E402

give_up_after(60)
host, port = host_and_port(0)
connection = pika.BlockingConnection(pika.ConnectionParameters(host, port))
channel = connection.channel()
queue = name("old.task_queue")
channel.queue_declare(queue, False, True)

for number in range(1, 7):
    message = "task %d" % number
    channel.basic_publish("", queue, message, pika.BasicProperties(delivery_mode=2))

done = []


def callback(ch, method, properties, body):
    done.append((body, properties.delivery_mode, method.redelivered))
    ch.basic_ack(method.delivery_tag)
    if len(done) == 6:
        ch.stop_consuming()


channel.basic_qos(0, 1)
channel.basic_consume(callback, queue)
channel.start_consuming()
equal(done, [(b"task %d" % number, 2, False) for number in range(1, 7)], "tasks in order")

exchange = name("old.logs")
channel.exchange_declare(exchange, "fanout")
result = channel.queue_declare(exclusive=True)
temporary = result.method.queue
channel.queue_bind(temporary, exchange)
logs = []


def on_log(ch, method, properties, body):
    logs.append(body)
    ch.stop_consuming()


channel.basic_consume(on_log, queue=temporary, no_ack=True)
channel.basic_publish(exchange, "", "info: hello")
channel.start_consuming()
equal(logs, [b"info: hello"], "the log line")

channel.confirm_delivery()
equal(channel.basic_publish("", queue, "confirmed", None, True), True, "a confirmed publish")
equal(channel.basic_get(queue, True)[2], b"confirmed", "basic_get without acknowledgement")
channel.queue_delete(queue)
channel.exchange_delete(exchange)
connection.close()
