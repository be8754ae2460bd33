"""Tutorial six: a server, two clients, and a second server that takes its share."""
from programs import Program, Scenario, equal, run

with Scenario(queues=["rpc_queue"]) as scenario:
    servers = [Program("rpc_server.py", node=0)]
    servers[0].expect("Awaiting RPC requests")
    run("rpc_client.py", node=1)
    servers.append(Program("rpc_server.py", node=2))
    servers[1].expect("Awaiting RPC requests")
    scenario.until_counts("rpc_queue", 0, 2)
    client = Program("rpc_client.py", "10", "20", "1", "0", node=1)
    client.finish()
    got = [line for line in client.seen if line and "Got" in line]
    equal(got, [" [.] Got 55", " [.] Got 6765", " [.] Got 1", " [.] Got 0"], "answers")
    for server in servers:
        server.expect(r"fib\(")
