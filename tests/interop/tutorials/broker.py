"""Where the tutorials' broker is; they are otherwise what a newcomer types."""

import os
from urllib.parse import urlsplit

_first = urlsplit(os.environ["AMQP_URLS"].split(",")[0])
HOST, PORT = _first.hostname, _first.port
