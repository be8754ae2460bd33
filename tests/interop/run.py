#!/usr/bin/env python3
"""Stock AMQP clients against running brokers.

    run.py --amqp HOST:PORT[,HOST:PORT...] [--ctl COMMAND] [--only TEXT] [--jobs N]

Installs and builds what it needs (Debian packages when run as root, everything else below ~/.cache/warren-interop,
keyed by content), runs every program with a time limit, and prints a line for each:

    ok NAME 1.2s  |  FAIL NAME (and the end of its output)  |  NOT RUN NAME reason

The exit status is 0 only if all ran and passed. Case n speaks to node n first and to the next ones after it.
--ctl is the operator's command line, such as "warrenctl --node 127.0.0.1:15672"; WARREN_TEST_CTL says the same.
WARREN_TEST_NODES is a command that takes `kill N` and `start N`, for what kills nodes: deploy/cluster.sh.
"""

import argparse
import hashlib
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

HERE = Path(__file__).resolve().parent
CACHE = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "warren-interop"
BUILD_LIMIT = 900


class CannotBuild(Exception):
    """Says why a client could not be installed or built."""


def call(*command, cwd=None, env=None, limit=BUILD_LIMIT):
    try:
        done = subprocess.run(
            list(map(str, command)), cwd=cwd, env=dict(os.environ, **(env or {})), timeout=limit,
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, errors="replace",
        )
    except subprocess.TimeoutExpired:
        raise CannotBuild("%s took more than %d s" % (command[0], limit)) from None
    except OSError as error:
        raise CannotBuild("%s: %s" % (command[0], error)) from None
    if done.returncode:
        raise CannotBuild("%s failed:\n%s" % (" ".join(map(str, command)), tail(done.stdout)))
    return done.stdout


def tail(text, lines=25):
    return "\n".join("    " + line for line in text.rstrip().splitlines()[-lines:])


def packages(*wanted):
    """Debian packages for the commands that are missing; wanted are pairs of command and package."""
    missing = [package for command, package in wanted if not shutil.which(command)]
    if not missing:
        return
    if not shutil.which("apt-get") or os.geteuid() != 0:
        raise CannotBuild("not installed and not root on Debian: %s" % ", ".join(missing))
    quiet = {"DEBIAN_FRONTEND": "noninteractive"}
    install = ["apt-get", "install", "-yq", "--no-install-recommends", *missing]
    try:
        call(*install, env=quiet)
    except CannotBuild:
        call("apt-get", "update", "-q")
        call(*install, env=quiet)


def cached(label, sources, build):
    """A directory that `build` filled once for this content of these files."""
    digest = hashlib.sha256()
    for source in sorted(sources):
        digest.update(str(source.relative_to(HERE)).encode() + b"\0" + source.read_bytes() + b"\0")
    target = CACHE / ("%s-%s" % (label, digest.hexdigest()[:16]))
    done = target / ".built"
    if not done.exists():
        shutil.rmtree(target, ignore_errors=True)
        target.mkdir(parents=True)
        build(target)
        done.touch()
    return target


def copied(name, target):
    """The named directory's sources, copied to where they are built."""
    shutil.copytree(HERE / name, target, dirs_exist_ok=True)
    return target


def files(name):
    return [path for path in (HERE / name).rglob("*") if path.is_file()]


def python(requirements):
    def build(target):
        try:
            call(sys.executable, "-m", "venv", target)
        except CannotBuild:
            packages(("/no/such/command", "python3-venv"))
            call(sys.executable, "-m", "venv", target)
        call(target / "bin" / "pip", "install", "-q", "--disable-pip-version-check", "-r", requirements)

    return cached("python-" + requirements.stem, [requirements], build) / "bin" / "python"


def new_python():
    return python(HERE / "python" / "requirements.txt")


def old_python():
    return python(HERE / "python" / "requirements-old.txt")


def node():
    packages(("node", "nodejs"), ("npm", "npm"))
    return cached("node", files("node"), lambda target: call("npm", "ci", "--no-audit", "--no-fund", cwd=copied("node", target)))


def go():
    packages(("go", "golang-go"))
    return cached("go", files("go"), lambda target: call("go", "build", "-o", "client", ".", cwd=copied("go", target))) / "client"


def java():
    packages(("javac", "default-jdk-headless"), ("mvn", "maven"))
    return cached("java", files("java"), lambda target: call("mvn", "-q", "-B", "process-classes", cwd=copied("java", target)))


def lapin():
    packages(("cargo", "cargo"))

    def build(target):
        environment = {"CARGO_TARGET_DIR": str(target / "target"), "RUSTFLAGS": ""}
        call("cargo", "build", "--locked", cwd=copied("lapin", target), env=environment)

    return cached("lapin", files("lapin"), build) / "target" / "debug" / "interop-lapin"


def amqp_tools():
    packages(("amqp-publish", "amqp-tools"))
    return new_python()


class Case:
    """One program: how to get its command line, and how long it may take."""

    def __init__(self, name, command, limit=120, environment=None):
        self.name, self.command, self.limit, self.environment = name, command, limit, environment or (lambda: {})


def cases(ctl):
    def script(name, interpreter=new_python):
        return lambda: [interpreter(), HERE / name]

    yield Case("pika", script("python/pika_client.py"))
    yield Case("pika old positions", script("python/old_shapes_client.py"))
    yield Case("pika 0.13", script("python/old_pika_client.py", old_python))
    yield Case("rabbitpy", script("python/rabbitpy_client.py"))
    yield Case("aio-pika", script("python/aio_pika_client.py"))
    yield Case("celery", script("python/celery_client.py"))
    yield Case("amqplib", lambda: ["node", node() / "client.js"])
    yield Case("amqplib direct-reply-to", lambda: ["node", node() / "client.js", "direct-reply-to"])
    yield Case("amqp091-go", lambda: [go()])

    def java_command(*arguments):
        built = java() / "target"
        return ["java", "-cp", "%s:%s/*" % (built / "classes", built / "dependency"), "Client", *arguments]

    def spring_command(*arguments):
        line = java_command(*arguments)
        return [part if part != "Client" else "Listener" for part in line]

    yield Case("java", java_command)
    yield Case("spring listener container", spring_command)
    yield Case("java direct-reply-to", lambda: java_command("direct-reply-to"))
    yield Case("lapin", lambda: [lapin()])
    yield Case("amqp-tools", script("amqp-tools/client.py", amqp_tools))
    for name in (
        "hello_world", "work_queues", "publish_subscribe", "routing", "topics", "rpc", "publisher_confirms",
        "round_robin", "killed_worker", "fair_dispatch", "redeclare", "late_consumer", "topic_replicas",
    ):
        kind = "tutorial" if (HERE / "scenarios" / (name + ".py")).read_text().startswith('"""Tutorial') else "scenario"
        yield Case("%s %s" % (kind, name), script("scenarios/%s.py" % name))
    yield Case("scenario go_to_rabbitpy", script("scenarios/go_to_rabbitpy.py"), environment=lambda: {"GO_CLIENT": str(go())})

    def with_ctl():
        if not ctl:
            raise CannotBuild("needs --ctl, the operator's command line")
        return {"CTL": ctl}

    def certificates():
        if not os.environ.get("WARREN_TEST_AMQPS"):
            raise CannotBuild("needs WARREN_TEST_AMQPS and WARREN_TEST_CERTIFICATES, the brokers' TLS ports and files")
        return {}

    yield Case("pika tls", script("python/pika_tls_client.py"), environment=certificates)
    yield Case("amqplib tls", lambda: ["node", node() / "client.js", "tls"], environment=certificates)
    yield Case("java tls", lambda: java_command("tls"), environment=certificates)
    def nodes():
        if not os.environ.get("WARREN_TEST_NODES") or not os.environ.get("WARREN_TEST_AMQP"):
            raise CannotBuild("needs WARREN_TEST_NODES, a command that takes `kill N` and `start N`, and WARREN_TEST_AMQP")
        return {}

    def recovery(command):
        return lambda: [new_python(), HERE / "scenarios" / "recovery.py", *command()]

    for name, command in (
        ("java", lambda: java_command("recover")),
        ("spring", lambda: spring_command("recover")),
        ("amqplib", lambda: ["node", node() / "client.js", "recover"]),
        ("amqp091-go", lambda: [go(), "recover"]),
        ("aio-pika", lambda: [new_python(), HERE / "python" / "robust_client.py"]),
    ):
        yield Case("scenario recovery of %s" % name, recovery(command), environment=nodes)
    yield Case("scenario celery_recovery", script("scenarios/celery_recovery.py"), environment=nodes)
    yield Case("scenario forgotten_ack", script("scenarios/forgotten_ack.py"), environment=with_ctl)


def prepared(all_cases):
    """Builds everything that a later case would build, one after the other."""
    reasons = {}
    for case in all_cases:
        try:
            case.line = [str(part) for part in case.command()]
            case.extra = case.environment()
        except CannotBuild as reason:
            reasons[case.name] = str(reason)
    return reasons


def run(case, environment):
    """Runs one program in a process group of its own; answers success, output and seconds."""
    started = time.monotonic()
    with tempfile.TemporaryDirectory(prefix="interop-") as scratch, tempfile.TemporaryFile() as output:
        process = subprocess.Popen(
            case.line, cwd=scratch, env=dict(environment, **case.extra), stdin=subprocess.DEVNULL, stdout=output,
            stderr=subprocess.STDOUT, start_new_session=True,
        )
        try:
            status = process.wait(timeout=case.limit)
            ending = "exit status %s" % status
        except subprocess.TimeoutExpired:
            status, ending = None, "not finished after %d s" % case.limit
        finally:
            # The program and whatever it has started and left.
            try:
                os.killpg(process.pid, signal.SIGKILL)
            except ProcessLookupError:
                pass
            process.wait()
        output.seek(0)
        text = output.read().decode(errors="replace")
    return status == 0, "%s\n    %s" % (tail(text), ending), time.monotonic() - started


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--amqp", default=os.environ.get("WARREN_TEST_AMQP"), help="brokers, HOST:PORT[,HOST:PORT...]")
    parser.add_argument("--ctl", default=os.environ.get("WARREN_TEST_CTL"), help="the operator's command line")
    parser.add_argument("--only", help="run the cases with this in their name")
    parser.add_argument("--jobs", type=int, default=1, help="how many clients' own cases may run at once")
    arguments = parser.parse_args()
    if not arguments.amqp:
        parser.error("--amqp or WARREN_TEST_AMQP must name the brokers")

    user = os.environ.get("WARREN_TEST_USER", "guest")
    password = os.environ.get("WARREN_TEST_PASSWORD", "guest")
    endpoints = [endpoint.strip() for endpoint in arguments.amqp.split(",")]
    urls = ["amqp://%s:%s@%s/%%2F" % (user, password, endpoint) for endpoint in endpoints]
    chosen = [case for case in cases(arguments.ctl) if not arguments.only or arguments.only in case.name]
    run_id = "%x" % int(time.time() * 1000)
    counts = {"passed": 0, "failed": 0, "not run": 0}

    reasons = prepared(chosen)

    def one(index_and_case):
        index, case = index_and_case
        if case.name in reasons:
            counts["not run"] += 1
            print("NOT RUN %s %s" % (case.name, reasons[case.name]), flush=True)
            return
        at = index % len(urls)
        environment = dict(
            os.environ,
            AMQP_URLS=",".join(urls[at:] + urls[:at]),
            RUN_ID="%s-%d" % (run_id, index),
            PYTHONPATH=str(HERE / "python"),
            PYTHONDONTWRITEBYTECODE="1",
            PYTHONUNBUFFERED="1",
        )
        passed, output, seconds = run(case, environment)
        counts["passed" if passed else "failed"] += 1
        if passed:
            print("ok %s %.1fs" % (case.name, seconds), flush=True)
        else:
            print("FAIL %s %.1fs\n%s" % (case.name, seconds, output), flush=True)

    # Tutorials and scenarios share the tutorials' queue names, so they take turns.
    numbered = list(enumerate(chosen))
    with ThreadPoolExecutor(max(1, arguments.jobs)) as pool:
        list(pool.map(one, [entry for entry in numbered if not entry[1].name.startswith(("tutorial", "scenario"))]))
    for entry in numbered:
        if entry[1].name.startswith(("tutorial", "scenario")):
            one(entry)

    not_run = ", %d not run" % counts["not run"] if counts["not run"] else ""
    print("%d passed, %d failed%s" % (counts["passed"], counts["failed"] + counts["not run"], not_run))
    return 1 if counts["failed"] or counts["not run"] else 0


if __name__ == "__main__":
    sys.exit(main())
