"""The least there is: an ASGI function that returns bytes, on the gateway's server, set up as it is there.

As such servers come, scheduled normally, or with `batch` as third argument in batches as a gateway may be.
"""

import sys
from pathlib import Path

import uvloop
from granian.constants import HTTPModes, Interfaces
from granian.server.embed import Server
from litestar.types import Receive, Scope, Send

from service.process import MOST_CONNECTIONS, schedule
from service.server import BACKLOG
from service.settings import Scheduling


async def main(port: int, body: bytes, how: Scheduling) -> None:
    start = {
        "type": "http.response.start",
        "status": 200,
        "headers": [(b"content-type", b"application/json"), (b"content-length", str(len(body)).encode())],
    }
    content = {"type": "http.response.body", "body": body, "more_body": False}

    async def app(_: Scope, __: Receive, send: Send) -> None:
        await send(start)  # type: ignore[arg-type]  # messages are typed dicts
        await send(content)  # type: ignore[arg-type]

    schedule(how)
    server = Server(
        app,
        address="127.0.0.1",
        port=port,
        interface=Interfaces.ASGI,
        http=HTTPModes.http1,
        websockets=False,
        backlog=BACKLOG,
        backpressure=MOST_CONNECTIONS,
        log_enabled=False,
    )
    await server.serve()


if __name__ == "__main__":
    uvloop.run(main(int(sys.argv[1]), Path(sys.argv[2]).read_bytes(), "batch" if "batch" in sys.argv else "normal"))
