"""A queue cannot be declared again with another durability, and the broker says why."""
from pika import exceptions

from programs import Scenario, check, equal, name

queue = name("redeclared")
with Scenario(queues=[queue]) as scenario:
    scenario.channel.queue_declare(queue=queue, durable=True)
    channel = scenario.connection.channel()
    try:
        channel.queue_declare(queue=queue)
        check(False, "the second declare is refused")
    except exceptions.ChannelClosedByBroker as error:
        equal(
            (error.reply_code, error.reply_text),
            (
                406,
                "PRECONDITION_FAILED - inequivalent arg 'durable' for queue '%s' in vhost '/': "
                "received 'false' but current is 'true'" % queue,
            ),
            "the refusal",
        )
    scenario.channel.queue_declare(queue=queue, durable=True)
