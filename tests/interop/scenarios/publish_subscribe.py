"""Tutorial three: every running receiver gets every line, and none gets what was sent before it came."""
from programs import Program, Scenario, equal, run

with Scenario(exchanges=["logs"]) as scenario:
    run("emit_log.py", "lost")
    receivers = [Program("receive_logs.py", node=node) for node in (0, 1, 2)]
    for receiver in receivers:
        receiver.expect("Waiting for logs")
    run("emit_log.py", node=1)
    run("emit_log.py", "warning:", "second", "line", node=2)
    for receiver in receivers:
        equal(receiver.line(), " [x] info: Hello World!", "first line")
        equal(receiver.line(), " [x] warning: second line", "second line")
        receiver.interrupt()
