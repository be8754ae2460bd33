"""The node that a client talks to, and that leads its queue, is killed: the client recovers and nothing confirmed is lost.

    recovery.py COMMAND... (which is given a queue and an exchange)
"""
import os
import subprocess
import sys

from programs import Program, Scenario, check, name, node_command

label = os.path.basename(sys.argv[1]) + "." + "".join(sys.argv[2:])[-12:].replace("/", ".")
queue, exchange = name("recovery." + label), name("recovery.exchange." + label)
with Scenario(queues=[queue], exchanges=[exchange]) as scenario:
    client = Program(command=[*sys.argv[1:], queue, exchange], node=1)
    client.expect("^ready$", within=60)
    node_command("kill", 1)
    try:
        # Some know only the one node.
        if "robust_client.py" not in " ".join(sys.argv):
            client.expect("^recovered$", within=60)
    finally:
        node_command("start", 1)
    client.expect("^done", within=60)
    client.finish()
