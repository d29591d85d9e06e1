"""A bare grpc.aio server that answers every message with the same bytes: what the transport alone costs.

    python echo.py PORT

On uvloop, with which grpc.aio is faster than with asyncio's own loop.
"""

from __future__ import annotations

import sys

import grpc
import uvloop


async def echo(message: bytes, context: grpc.aio.ServicerContext) -> bytes:
    return message


async def serve(port: int) -> None:
    server = grpc.aio.server(options=[("grpc.max_receive_message_length", -1)])
    handlers = {"Echo": grpc.unary_unary_rpc_method_handler(echo)}
    server.add_registered_method_handlers("bench.Echo", handlers)
    server.add_insecure_port(f"127.0.0.1:{port}")
    await server.start()
    await server.wait_for_termination()


if __name__ == "__main__":
    uvloop.run(serve(int(sys.argv[1])))
