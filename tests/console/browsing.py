"""A real browser, and what it complains of."""

from __future__ import annotations

import os
from typing import Any

from playwright.sync_api import Browser, Page, expect

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")

expect.set_options(timeout=30_000)


class Problems(list[str]):
    """What the browser complains of, such as a script that the policy forbids."""

    def __init__(self, page: Page) -> None:
        super().__init__()
        page.on("pageerror", lambda error: self.append(str(error)))
        page.on("console", lambda line: self.append(line.text) if line.type == "error" else None)
        page.on("dialog", lambda dialog: self.append(f"dialog: {dialog.message}"))
        page.on("request", lambda request: self.append(request.url) if "://127.0.0.1:" not in request.url else None)


def open_page(browser: Browser, **options: Any) -> tuple[Page, Problems]:
    page = browser.new_context(**options).new_page()
    page.set_default_timeout(30_000)
    return page, Problems(page)
