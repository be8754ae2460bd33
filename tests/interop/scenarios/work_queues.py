"""Tutorial two: tasks are worked off by either worker, and acknowledged."""
from programs import Program, Scenario, equal, run, until

with Scenario(queues=["task_queue"]) as scenario:
    workers = [Program("worker.py", node=node) for node in (0, 1)]
    for worker in workers:
        worker.expect("Waiting for messages")
    scenario.until_counts("task_queue", 0, 2)
    for number in range(6):
        run("new_task.py", "task %d" % number, node=number)

    def printed(word):
        return [line for worker in workers for line in worker.printed if word in line]

    until("six tasks done", lambda: len(printed("Done")) == 6)
    equal(sorted(line[-1] for line in printed("Received")), list("012345"), "each task once")
    for worker in workers:
        worker.interrupt()
    scenario.until_counts("task_queue", 0, 0)
