"""The application: which path answers with what. Starlette routes, and `guard` stands before it."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from typing import Final

from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import PlainTextResponse, Response
from starlette.routing import Route, WebSocketRoute
from starlette.types import Scope
from starlette.websockets import WebSocket

from vnic.monitor.policy import Policy
from vnic.monitor.server import Mode, Monitors
from vnic.web.assets import INDEX, Asset
from vnic.web.connection import Connection
from vnic.web.guard import has_token, peer_of
from vnic.web.session import WebSession

log = logging.getLogger(__name__)

SESSIONS_MAX: Final = 32
REFUSAL_S: Final = 1.0
"""A wrong token is refused after this time."""
CONNECTION: Final = "connection"
"""The key of the Connection in a request's state."""
NO_TOKEN: Final = (
    "open the URL that vnic printed at its start: its token is missing here, or is another one\n"
)
FULL: Final = f"{SESSIONS_MAX} browsers are connected already\n"


class Application:
    """The endpoints of one `-web`."""

    def __init__(
        self, where: str, token: str, monitors: Monitors, policy: Policy, assets: Mapping[str, Asset]
    ) -> None:
        """`where` is for the log; `policy`: what browsers may do."""
        self._where = where
        self._token = token
        self._monitors = monitors
        self._policy = policy
        self._assets = assets
        self.sessions: dict[WebSession, asyncio.Future[None]] = {}
        """Those that live, and what is done when they have ended."""
        routes = [
            Route("/", self._index),
            Route("/static/{path:path}", self._static),
            WebSocketRoute("/qmp", self._qmp),
        ]
        self.asgi = Starlette(routes=routes)
        self.asgi.router.redirect_slashes = False

    async def _index(self, request: Request) -> Response:
        if not await self._may(request.scope):
            return PlainTextResponse(NO_TOKEN, 403, {"Connection": "close"})
        index = self._assets[INDEX]
        return Response(index.body, headers={"Content-Type": index.content_type, "Cache-Control": "no-store"})

    async def _static(self, request: Request) -> Response:
        asset = self._assets.get(request.path_params["path"])
        if asset is None:
            return PlainTextResponse("there is no such file\n", 404)
        headers = {"Cache-Control": "no-cache", "ETag": asset.etag}
        if request.headers.get("if-none-match") == asset.etag:
            return Response(status_code=304, headers=headers)
        return Response(asset.body, headers={**headers, "Content-Type": asset.content_type})

    async def _qmp(self, websocket: WebSocket) -> None:
        if not await self._may(websocket.scope):
            await websocket.send_denial_response(PlainTextResponse(NO_TOKEN, 403))
            return
        if len(self.sessions) >= SESSIONS_MAX:
            log.warning("%s: %s is refused: %s", self._where, peer_of(websocket.scope), FULL.rstrip())
            await websocket.send_denial_response(PlainTextResponse(FULL, 503))
            return
        connection: Connection = websocket.scope["state"][CONNECTION]
        qmp = self._monitors.session(Mode.CONTROL, peer_of(websocket.scope), policy=self._policy)
        session = WebSession(websocket, qmp, self._monitors, connection)
        ended = self.sessions[session] = asyncio.get_running_loop().create_future()
        try:
            await websocket.accept()
            connection.admit()
            await session.live()
        finally:
            del self.sessions[session]
            ended.set_result(None)

    async def _may(self, scope: Scope) -> bool:
        """Whether the request has the token. Who tries tokens out waits."""
        if has_token(scope, self._token):
            return True
        log.warning("%s: %s has no token, or a wrong one", self._where, peer_of(scope))
        await asyncio.sleep(REFUSAL_S)
        return False
