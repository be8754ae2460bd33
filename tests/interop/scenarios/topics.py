"""Tutorial five: receivers get what their patterns match."""
from programs import Program, Scenario, equal, run

PATTERNS = {("#",): "all", ("kern.*",): "kern", ("*.critical",): "critical", ("kern.*", "*.critical"): "both"}
KEYS = ("kern.critical", "kern.info", "cron.critical", "cron.info", "kern.a.b", "kern")
EXPECTED = {
    "all": KEYS,
    "kern": ("kern.critical", "kern.info"),
    "critical": ("kern.critical", "cron.critical"),
    "both": ("kern.critical", "kern.info", "cron.critical"),
}

with Scenario(exchanges=["topic_logs"]) as scenario:
    receivers = {}
    for node, (patterns, label) in enumerate(PATTERNS.items()):
        receivers[label] = Program("receive_logs_topic.py", *patterns, node=node)
    for receiver in receivers.values():
        receiver.expect("Waiting for logs")
    for node, key in enumerate(KEYS):
        run("emit_log_topic.py", key, "text", node=node)
    for label, keys in EXPECTED.items():
        for key in keys:
            equal(receivers[label].line(), " [x] %s:text" % key, label)
