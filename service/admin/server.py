"""The admin API on its port, before which every caller shows a token of its own."""

from __future__ import annotations

from typing import Self

from service.admin.app import AdminApp
from service.gateway import Gateway
from service.security.certificates import Certificates
from service.security.tokens import TokenFile
from service.settings import Settings
from service.watcher import StoreWatcher
from service.web.server import HttpServer


class AdminServer(HttpServer):
    """The admin API over HTTP."""

    @classmethod
    def from_settings(
        cls,
        settings: Settings,
        gateway: Gateway,
        watcher: StoreWatcher,
        certificates: Certificates | None,
    ) -> Self | None:
        """What the settings ask for; None when they ask for no admin API.

        Raises:
            TokenFileError: the file of tokens cannot be read.
        """
        if settings.admin_port is None or settings.admin_token_file is None:
            return None
        return cls(
            AdminApp(gateway, watcher, TokenFile(settings.admin_token_file)).app,
            settings.admin_host,
            settings.admin_port,
            option="--admin-port",
            settings=settings,
            metrics=gateway.metrics,
            certificates=certificates,
        )
