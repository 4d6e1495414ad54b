"""What all pages of a console share: the store, the clients of the services, and the sessions."""

from __future__ import annotations

import logging
from types import TracebackType
from typing import Self

from console.bundles.change import Changes
from console.bundles.contents import Examples, Titles
from console.services.clients import Clients
from console.services.figures import Figures
from console.services.users import Users
from console.settings import Settings
from console.web.rendering import Pages
from console.web.sessions import Sessions
from console.web.threads import Threads
from retrieval.store.location import open_store

WAIT_S = 30.0
"""Time after which a page says that the store or a service hangs: longer than each call to a service may take."""

_log = logging.getLogger("console")


class Console:
    """The parts that the pages use. Close it after the last request.

    Attributes:
        settings: Settings of the console.
        store: Store of bundles.
        changes: Promotions and roll backs.
        titles: Titles of the items of bundles.
        examples: Example queries of bundles.
        clients: Clients of the services.
        figures: Live figures.
        users: Users to pick from; None if no file was given.
        sessions: Sessions of the browsers.
        store_threads: Threads for reads of the store and of other files.
        service_threads: Threads for calls of the services.
        pages: Templates.
    """

    def __init__(self, settings: Settings) -> None:
        """Opens store and channels, and reads the file of users.

        Raises:
            SettingsError: The file of users cannot be read.
            StoreError: The URL of the store cannot be used.
            InvalidRequest: An address, a file or the token of the services is invalid.
        """
        self.settings = settings
        self.store = open_store(settings.store, _log.info)
        self.changes = Changes(self.store)
        self.titles, self.examples = Titles(self.store), Examples(self.store)
        self.users = Users(settings.users) if settings.users is not None else None
        self.clients = Clients(settings)
        self.figures = Figures(settings.metrics)
        self.sessions = Sessions(f"two_tower_console_{settings.port}")
        self.store_threads = Threads("the store", WAIT_S)
        self.service_threads = Threads("a service", WAIT_S)
        self.pages = Pages(
            store_name=self.store.name,
            asks_for_password=bool(settings.password),
            has_token_file=settings.token_file is not None,
        )

    def close(self) -> None:
        """Closes the channels. Calls of the store that hang end with the process."""
        self.figures.close()
        self.clients.close()

    def __enter__(self) -> Self:
        """Returns the console."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Closes the channels."""
        self.close()
