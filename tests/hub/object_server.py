"""moto's S3 server in a process of its own; prints its address. moto speaks S3's protocol over HTTP."""

import sys

from moto.server import ThreadedMotoServer

server = ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
server.start()
host, port = server.get_host_and_port()
print(f"http://{host}:{port}", flush=True)  # noqa: T201
sys.stdin.read()
server.stop()
