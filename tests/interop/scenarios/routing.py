"""Tutorial four: receivers get the severities they asked for."""
from programs import Program, Scenario, equal, run

with Scenario(exchanges=["direct_logs"]) as scenario:
    everything = Program("receive_logs_direct.py", "info", "warning", "error", node=0)
    errors = Program("receive_logs_direct.py", "error", node=1)
    for receiver in (everything, errors):
        receiver.expect("Waiting for logs")
    for severity in ("info", "warning", "error", "debug", "error"):
        run("emit_log_direct.py", severity, "text", node=2)
    for severity in ("info", "warning", "error", "error"):
        equal(everything.line(), " [x] %s:text" % severity, "every severity")
    for _ in range(2):
        equal(errors.line(), " [x] error:text", "errors only")
