"""Two workers get every second task each."""
import pika

from programs import Program, Scenario, equal

with Scenario(queues=["task_queue"]) as scenario:
    workers = [Program("round_robin_worker.py", node=node) for node in (0, 1)]
    for worker in workers:
        worker.expect("Waiting for messages")
    scenario.until_counts("task_queue", 0, 2)
    for number in range(10):
        scenario.channel.basic_publish("", "task_queue", "task %d" % number, pika.BasicProperties(delivery_mode=2))
    got = [[worker.expect("Received").rsplit(" ", 1)[1] for _ in range(5)] for worker in workers]
    even, odd = ["0", "2", "4", "6", "8"], ["1", "3", "5", "7", "9"]
    equal(sorted(got), [even, odd], "every second task each")
