"""A worker stopped by Ctrl-C in the middle of a task: the other one gets the task."""
from programs import Program, Scenario, check, run

with Scenario(queues=["task_queue"]) as scenario:
    first = Program("worker.py", node=0)
    scenario_ready = first.expect("Waiting for messages")
    scenario.until_counts("task_queue", 0, 1)
    task = "a long task" + "." * 90
    run("new_task.py", task)
    first.expect("Received a long task")
    second = Program("worker.py", node=1)
    second.expect("Waiting for messages")
    scenario.until_counts("task_queue", 0, 2)
    check(second.lines.empty(), "the task is the first worker's as long as that lives")
    first.interrupt()
    second.expect("Received a long task")
    scenario.until_counts("task_queue", 0, 1)
    second.interrupt()
    # Nobody has acknowledged it, so it is still there.
    scenario.until_counts("task_queue", 1, 0)
