"""Current pika called the old way, by position, where it still allows that."""

import pika

from common import equal, give_up_after, host_and_port, name

give_up_after(60)
host, port = host_and_port(0)
connection = pika.BlockingConnection(pika.ConnectionParameters(host, port))
channel = connection.channel()
queue = name("positions")
channel.queue_declare(queue, False, True, False, False)
done = []


def callback(ch, method, properties, body):
    done.append(body)
    ch.basic_ack(method.delivery_tag)
    if len(done) == 3:
        ch.stop_consuming()


channel.basic_qos(0, 1, False)
channel.basic_consume(queue, callback, False, False)
for number in range(3):
    channel.basic_publish("", queue, "task %d" % number, pika.BasicProperties(delivery_mode=2))
channel.start_consuming()
equal(done, [b"task 0", b"task 1", b"task 2"], "tasks in order")
channel.queue_delete(queue)
connection.close()
