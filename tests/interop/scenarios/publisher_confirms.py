"""Tutorial seven: everything published is confirmed and there."""
from programs import Program, Scenario, equal

with Scenario() as scenario:
    program = Program("publisher_confirms.py", node=1)
    program.finish()
    equal(
        program.seen[:2],
        ["Published 200 messages individually", "Published 2000 messages asynchronously, 0 refused"],
        "what was confirmed",
    )
