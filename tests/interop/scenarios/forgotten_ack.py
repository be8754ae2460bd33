"""A consumer that forgets to acknowledge shows in the operator's list of queues."""
import os
import subprocess

import pika

from programs import Scenario, name, until, url

queue = name("forgotten")
command = os.environ["CTL"] + " list_queues name messages_ready messages_unacknowledged"


def listed():
    output = subprocess.run(command, shell=True, check=True, capture_output=True, text=True).stdout
    for line in output.splitlines():
        columns = line.split("\t")
        if columns[0].strip() == queue:
            return tuple(int(column) for column in columns[1:])
    return None


with Scenario(queues=[queue]) as scenario:
    scenario.channel.queue_declare(queue, durable=True)
    scenario.channel.confirm_delivery()
    for number in range(5):
        scenario.channel.basic_publish("", queue, "message %d" % number)
    until("five ready", lambda: listed() == (5, 0))

    forgetful = pika.BlockingConnection(pika.URLParameters(url(1)))
    channel = forgetful.channel()
    channel.basic_qos(prefetch_count=3)
    taken = []
    channel.basic_consume(queue, lambda _c, method, _p, _b: taken.append(method.delivery_tag))
    until("three taken", lambda: forgetful.process_data_events(time_limit=0.1) or len(taken) == 3)
    until("two ready, three unacknowledged", lambda: listed() == (2, 3))
    channel.basic_ack(taken[-1], multiple=True)
    until("two more taken", lambda: forgetful.process_data_events(time_limit=0.1) or len(taken) == 5)
    until("none ready, two unacknowledged", lambda: listed() == (0, 2))
    forgetful.close()
    until("two ready again", lambda: listed() == (2, 0))
