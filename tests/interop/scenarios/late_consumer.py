"""Consumers that come late get what was queued before them."""
from programs import Program, Scenario, equal, run

with Scenario(queues=["task_queue"]) as scenario:
    for number in range(5):
        run("new_task.py", "early %d" % number, node=number)
    scenario.until_counts("task_queue", 5, 0)
    worker = Program("worker.py", node=1)
    got = [worker.expect("Received").rsplit(" ", 1)[1] for _ in range(5)]
    equal(got, ["0", "1", "2", "3", "4"], "early tasks in order")
    worker.expect("Done")
    scenario.until_counts("task_queue", 0, 1)
