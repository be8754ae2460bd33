"""Prefetch 1: a worker busy with a long task is passed over."""
from programs import Program, Scenario, check, equal, run

with Scenario(queues=["task_queue"]) as scenario:
    busy = Program("worker.py", node=0)
    busy.expect("Waiting for messages")
    scenario.until_counts("task_queue", 0, 1)
    run("new_task.py", "long" + "." * 90)
    busy.expect("Received long")
    free = Program("worker.py", node=1)
    free.expect("Waiting for messages")
    scenario.until_counts("task_queue", 0, 2)
    for number in range(5):
        run("new_task.py", "short %d" % number)
    got = [free.expect("Received short").rsplit(" ", 1)[1] for _ in range(5)]
    equal(got, ["0", "1", "2", "3", "4"], "short tasks at the free worker")
    check(busy.lines.empty(), "the busy worker got nothing else")
