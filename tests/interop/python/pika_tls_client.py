"""pika over TLS: with a password, with a certificate alone (EXTERNAL), and what is refused."""

import json
import os
import shlex
import ssl
import subprocess

import pika
from pika import exceptions

from common import check, equal, give_up_after, name

CERTIFICATES = os.environ["WARREN_TEST_CERTIFICATES"]
ENDPOINTS = os.environ["WARREN_TEST_AMQPS"].split(",")


def context(authority="ca", client="client", version=None):
    result = ssl.create_default_context(cafile="%s/%s.pem" % (CERTIFICATES, authority))
    if client:
        result.load_cert_chain("%s/%s.pem" % (CERTIFICATES, client), "%s/%s.key" % (CERTIFICATES, client))
    if version:
        result.minimum_version = result.maximum_version = version
    return result


def connect(node, credentials, **kinds):
    host, port = ENDPOINTS[node % len(ENDPOINTS)].split(":")
    parameters = pika.ConnectionParameters(
        host, int(port), credentials=credentials, ssl_options=pika.SSLOptions(context(**kinds), host)
    )
    return pika.BlockingConnection(parameters)


def round_trip(connection, label, count=40):
    channel = connection.channel()
    channel.confirm_delivery()
    queue = name("tls." + label)
    channel.queue_declare(queue, durable=True)
    bodies = [bytes(range(256)) * (number % 7 * 500) for number in range(count)]
    for body in bodies:
        channel.basic_publish("", queue, body, mandatory=True)
    for body in bodies:
        equal(channel.basic_get(queue, auto_ack=True)[2], body, "a body")
    channel.queue_delete(queue)


def described(port):
    ctl = os.environ.get("WARREN_TEST_CTL")
    columns = "port ssl ssl_protocol ssl_cipher auth_mechanism user peer_cert_subject peer_cert_issuer peer_cert_validity"
    out = subprocess.check_output(shlex.split(ctl) + ["-q", "--formatter", "json", "list_connections"] + columns.split())
    return [row for row in json.loads(out) if row["port"] == port]


def main():
    give_up_after(90)
    plain = pika.PlainCredentials("guest", "guest")
    external = pika.credentials.ExternalCredentials()
    for label, credentials, kinds in (
        ("password", plain, dict(client=None)),
        ("password12", plain, dict(client=None, version=ssl.TLSVersion.TLSv1_2)),
        ("both", plain, dict()),
        ("external", external, dict()),
        ("external12", external, dict(version=ssl.TLSVersion.TLSv1_2)),
    ):
        connection = connect(len(label), credentials, **kinds)
        round_trip(connection, label)
        connection.close()

    connection = connect(0, external)
    (row,) = described(int(ENDPOINTS[0].split(":")[1]))
    equal((row["ssl"], row["ssl_protocol"], row["auth_mechanism"], row["user"]),
          (True, "tlsv1.3", "EXTERNAL", "guest"), "the connection as it is listed")
    equal((row["peer_cert_subject"], row["peer_cert_issuer"]), ("CN=guest,O=warren", "CN=warren-ca"), "whose certificate")
    check(" - 20" in row["peer_cert_validity"] and row["ssl_cipher"].startswith(("aes", "chacha")), row)
    connection.close()

    # The node's own certificate names nobody who is a user.
    for kinds, credentials, errors in (
        (dict(client=None), external, (exceptions.AMQPConnectionError,)),
        (dict(client="node"), external, (exceptions.AMQPConnectionError,)),
        (dict(), pika.PlainCredentials("guest", "wrong"), (exceptions.ProbableAuthenticationError,)),
    ):
        try:
            connect(0, credentials, **kinds)
            check(False, "a login that must be refused: %r" % kinds)
        except errors:
            pass


main()
