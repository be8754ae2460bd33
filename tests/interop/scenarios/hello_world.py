"""Tutorial one: sender and receiver in either order."""
from programs import Program, Scenario, run

with Scenario(queues=["hello"]) as scenario:
    run("send.py")
    receiver = Program("receive.py", node=1)
    receiver.expect(r" \[x\] Received b'Hello World!'")
    run("send.py", node=2)
    receiver.expect(r" \[x\] Received b'Hello World!'")
    receiver.interrupt()
    scenario.until_counts("hello", 0, 0)
