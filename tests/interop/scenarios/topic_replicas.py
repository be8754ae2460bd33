"""Replicas of a service, each with an exclusive server-named queue on one topic exchange: all hear everything they bound."""
import pika

from programs import Scenario, check, equal, name, until, url

exchange = name("events")
with Scenario(exchanges=[exchange]) as scenario:
    scenario.channel.exchange_declare(exchange, exchange_type="topic", durable=True)
    scenario.channel.confirm_delivery()
    replicas = []
    for node in range(5):
        connection = pika.BlockingConnection(pika.URLParameters(url(node)))
        channel = connection.channel()
        queue = channel.queue_declare("", exclusive=True).method.queue
        check(queue.startswith("amq.gen-"), queue)
        channel.queue_bind(queue, exchange, "config.*.changed")
        heard = []
        channel.basic_consume(queue, lambda _c, _m, _p, body, heard=heard: heard.append(body), auto_ack=True)
        replicas.append((connection, queue, heard))
    equal(len({queue for _, queue, _ in replicas}), 5, "different queues")

    def publish(key):
        scenario.channel.basic_publish(exchange, key, key)

    def all_heard(some, *keys):
        expected = [key.encode() for key in keys]
        for connection, queue, heard in some:
            until("%s hears" % queue, lambda: connection.process_data_events(time_limit=0.1) or len(heard) >= len(expected))
            equal(heard, expected, "what %s heard" % queue)

    publish("config.tax.changed")
    publish("config.tax.read")
    publish("config.mail.changed")
    all_heard(replicas, "config.tax.changed", "config.mail.changed")

    # A replica that goes takes its queue along and disturbs nobody.
    connection, gone, _ = replicas.pop()
    connection.close()

    def is_gone():
        try:
            scenario.connection.channel().queue_declare(gone, passive=True)
            return False
        except pika.exceptions.ChannelClosedByBroker as error:
            return error.reply_code == 404

    until("the queue of the replica that left is gone", is_gone)
    publish("config.log.changed")
    all_heard(replicas, "config.tax.changed", "config.mail.changed", "config.log.changed")
    for connection, _, _ in replicas:
        connection.close()
