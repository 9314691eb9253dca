"""uvicorn, with deadlines for slow clients and an end that answers what was accepted.

uvicorn has no deadline for receiving a request's headers, and reads on for as long as a
client sends a body that nobody wants. `Connection` adds both. granian has a deadline
for headers too, but would need ours for bodies all the same, and it runs an application
in processes beside its own.
"""

import asyncio
import ipaddress
import json
import signal
import socket
from collections.abc import Callable
from typing import Any

import h11
import uvicorn
from fastapi import FastAPI
from uvicorn.protocols.http.h11_impl import H11Protocol

from open_nsfw_tf.errors import one_line, sanitize
from open_nsfw_tf.serve.service import Service

LINGER = 2.0  # seconds in which a client may go on sending what nobody reads
BACKLOG = 2048  # connections that wait until they are taken; uvicorn's default
GRACE = 5.0  # seconds, beside the timeout, until running requests are ended


class Connection(H11Protocol):
    """One connection of a client, which must send a request's headers in time.

    Bodies have their deadline in `Service.read_body`. All that is missing here is an
    end to a body that is sent on after its request was answered.
    """

    service: Service  # set by `serve`, in a class of its own
    _timer: asyncio.TimerHandle | None = None
    _unread = False  # whether a request was answered before its body had come

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        """Refuse one connection too many; begin to wait for headers."""
        super().connection_made(transport)
        # Else the end of an answer waits 40 ms for the client to acknowledge its head:
        # asyncio sets this only for sockets that name their protocol.
        connection = transport.get_extra_info("socket")
        connection.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        if len(self.connections) > self.service.settings.max_connections:
            self._refuse(503, "busy", "too many connections: try again")
        else:
            self._await_headers()

    def connection_lost(self, exc: Exception | None) -> None:
        """Stop waiting."""
        self._limit()
        super().connection_lost(exc)

    def handle_events(self) -> None:
        """Stop waiting for headers when they are there."""
        before = self.cycle
        super().handle_events()
        if self.cycle is not before:
            self._limit()
            self._unread = False
        elif self._unread and self.conn.their_state is not h11.SEND_BODY:
            self._await_headers()

    def on_response_complete(self) -> None:
        """Wait for the next request's headers, or the end of an unread body."""
        if self.conn.their_state is h11.SEND_BODY:
            self._unread = True
            self._limit(LINGER, self.transport.abort)
        else:
            self._await_headers()
        super().on_response_complete()

    def _await_headers(self) -> None:
        self._unread = False
        self._limit(self.service.settings.header_timeout, self._too_slow)

    def send_400_response(self, msg: str) -> None:
        """Answer what is not HTTP."""
        self._refuse(400, "invalid_http", "expected a request in HTTP/1.1")

    def _too_slow(self) -> None:
        self._refuse(408, "too_slow", "the headers did not arrive in time")

    def _limit(
        self, seconds: float = 0, ended: Callable[[], None] | None = None
    ) -> None:
        """End the connection after some seconds; without them, let it be."""
        if self._timer is not None:
            self._timer.cancel()
        self._timer = ended and self.loop.call_later(seconds, ended)

    def _refuse(self, status: int, code: str, message: str) -> None:
        """Answer without the application, if that is still possible, and close."""
        if self.transport.is_closing():
            return
        body = json.dumps({"error": {"code": code, "message": message}}).encode()
        headers = [
            ("content-type", "application/json"),
            ("content-length", str(len(body))),
            ("connection", "close"),
        ]
        if status == 503:
            headers.append(("retry-after", "1"))
        response = h11.Response(status_code=status, headers=headers)
        try:
            for event in (response, h11.Data(data=body), h11.EndOfMessage()):
                self.transport.write(self.conn.send(event) or b"")
        except h11.LocalProtocolError:
            pass  # an answer has already begun
        if self.cycle is not None:
            self.cycle.disconnected = True
            self.cycle.message_event.set()
        self.transport.close()


class Server(uvicorn.Server):
    """Takes requests for some seconds after the order to stop, but is not ready then.

    Args:
        config: of uvicorn.
        service: of the application.
        started: called with the address when requests are taken.
    """

    def __init__(
        self, config: uvicorn.Config, service: Service, started: Callable[[str], None]
    ) -> None:
        super().__init__(config)
        self.service, self._on_start = service, started

    async def startup(self, sockets: Any = None) -> None:
        """Start, and say where."""
        await super().startup(sockets)
        self._reopen_on_hangup()
        host, port = self.servers[0].sockets[0].getsockname()[:2]
        self._on_start(f"http://{f'[{host}]' if ':' in host else host}:{port}")

    def _reopen_on_hangup(self) -> None:
        hangup = getattr(signal, "SIGHUP", None)  # not on Windows
        if hangup is not None and self.service.audit is not None:
            loop = asyncio.get_running_loop()
            loop.add_signal_handler(hangup, self.service.reopen_audit)

    async def shutdown(self, sockets: Any = None) -> None:
        """Say that the end is near, wait, and end when all is answered."""
        self.service.draining = True
        await asyncio.sleep(self.service.settings.drain)
        await super().shutdown(sockets)


def serve(
    app: FastAPI, host: str, port: int, started: Callable[[str], None] = print
) -> None:
    """Serve an application of `create_app` until SIGTERM or SIGINT.

    SIGHUP reopens the audit file.

    Args:
        app: the application.
        host: to listen at, a name or an address.
        port: to listen at; 0: one that is free.
        started: called with the address when requests are taken.

    Raises:
        OSError: it cannot listen there.
        RuntimeError: the warm-up failed.
    """
    service: Service = app.state.service
    listener = listen(host, port)
    asyncio.run(service.warm_up())
    config = uvicorn.Config(
        app,
        http=type("ServiceConnection", (Connection,), {"service": service}),
        ws="none",
        lifespan="on",
        log_config=None,
        access_log=False,  # its lines have what clients write into addresses
        server_header=False,
        proxy_headers=False,
        timeout_graceful_shutdown=int(service.settings.timeout + GRACE),
    )
    _ignore_signals()
    Server(config, service, started).run([listener])


def listen(host: str, port: int) -> socket.socket:
    """A socket that listens.

    Raises:
        OSError: another program does, or the address is not of this machine.
    """
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    try:
        return socket.create_server((host, port), family=family, backlog=BACKLOG)
    except OSError as error:
        reason = error.strerror or one_line(error)
        raise OSError(f"cannot listen at {sanitize(host)}:{port}: {reason}") from error


def _ignore_signals() -> None:
    """Let uvicorn alone act on signals: it raises them again when it has ended."""
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, signal.SIG_IGN)


def is_loopback(host: str) -> bool:
    """Whether only programs of this machine reach a server at this host."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False
