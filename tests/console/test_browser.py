"""The console in a real browser: hostile titles, keyboard, narrow screens, confirmation, refusal, a swap."""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect, sync_playwright

from console.settings import MetricsPort
from retrieval.bundle.layout import REPORT
from retrieval.store.folder_store import FolderStore
from testbed.services import Pair
from tests.console.conftest import World
from tests.console.world import SHOWN, free_port, running, settings_for, write
from tests.worlds import wait_for

CHROMIUM = os.environ.get("CHROMIUM", "/usr/bin/chromium")
PATHS = ("/", "/fleet", "/playground", "/figures", "/token", "/roll-back", "/bundles/{live}", "/bundles/{old}/promote")

expect.set_options(timeout=30_000)

CONTRAST = Path(__file__).with_name("contrast.js").read_text()


@pytest.fixture(scope="module")
def browser() -> Iterator[Browser]:
    if not Path(CHROMIUM).exists():
        pytest.skip(f"there is no browser at {CHROMIUM}: install Debian's package chromium, or name one in CHROMIUM")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield browser
        browser.close()


@pytest.fixture(scope="module")
def address(world: World) -> Iterator[str]:
    port = free_port()  # nothing answers there, which the page says
    settings = settings_for(world.store, world.pair, metrics=(MetricsPort("127.0.0.1", port),))
    with running(settings) as (_, address):
        yield address


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


@pytest.fixture
def page(browser: Browser) -> Iterator[Page]:
    page, problems = open_page(browser)
    yield page
    page.context.close()
    assert problems == []


def recommend(page: Page, address: str) -> None:
    """Asks for an example, and waits for the items."""
    page.goto(f"{address}/playground")
    page.get_by_label("Example").select_option(index=1)
    expect(page.locator(".result .items li")).to_have_count(10)


def test_a_title_with_markup_and_escape_sequences_is_shown_as_text(page: Page, address: str) -> None:
    recommend(page, address)
    page.get_by_label("the items of the history too").uncheck()
    page.get_by_role("button", name="Recommend").click()
    expect(page.locator(".results .title", has_text="<script>").first).to_have_text(SHOWN)
    assert page.locator(".results script, .results img").count() == 0
    assert page.title() == "Playground · two-tower console"


def test_a_user_is_asked_for_by_the_keyboard_alone(page: Page, address: str) -> None:
    page.goto(f"{address}/playground")
    page.keyboard.press("Tab")
    expect(page.locator(":focus")).to_have_text("Skip to the content")
    page.keyboard.press("Enter")
    expect(page.locator("#main")).to_be_focused()

    def tab_to(label: str) -> None:
        for _ in range(40):
            page.keyboard.press("Tab")
            focused = page.locator(":focus")
            if focused.count() and focused.evaluate("e => (e.labels?.[0] ?? e).textContent").strip().startswith(label):
                return
        raise AssertionError(f"no way to {label} by the tab key")

    tab_to("watched")
    page.keyboard.type("i1,i2,i3")
    tab_to("age")
    page.keyboard.type("30")
    tab_to("Diversity")
    page.keyboard.press("ArrowRight")
    expect(page.locator("#diversity-value")).to_have_text("0.1")
    tab_to("Add a filter")
    page.keyboard.press("Enter")
    expect(page.locator("#filters .attribute")).to_be_focused()
    page.keyboard.type("year")
    page.keyboard.press("Tab")
    page.keyboard.type("at least")
    page.keyboard.press("Tab")
    page.keyboard.type("2000")
    page.keyboard.press("Enter")  # in a field, it sends the form
    expect(page.get_by_role("region", name="Recommended by").locator("li").first).to_contain_text("year: 20")
    expect(page.get_by_role("region", name="History").locator("li")).to_have_count(3)
    outline = page.locator(":focus").evaluate("e => getComputedStyle(e).outlineStyle")
    assert outline == "solid"


def test_a_newcomer_finds_what_is_live_why_one_was_refused_and_what_a_user_would_get(
    browser: Browser, world: World, tmp_path: Path
) -> None:
    users = tmp_path / "users.jsonl"
    users.write_text('{"user_id": "42", "features": {"watched": ["i1", "i2"], "age": 30}}\n')
    page, problems = open_page(browser)
    with running(settings_for(world.store, world.pair, users=users)) as (_, address):
        page.goto(address)
        expect(page.get_by_role("region", name="Live bundle")).to_contain_text(world.live)  # at once
        page.locator("tbody tr").first.get_by_role("link").first.click()  # one click on the newest bundle
        expect(page.get_by_role("region", name="Why it was refused")).to_contain_text("at least 0.0900 is required")
        page.get_by_role("link", name="Playground").click()
        page.get_by_label("User of the file").fill("42")
        page.keyboard.press("Enter")
        expect(page.locator(".result .items li")).to_have_count(10)
        expect(page.get_by_role("region", name="History").locator("li")).to_have_count(2)
        page.context.close()
    assert problems == []


def test_two_bundles_side_by_side_say_how_ranks_differ(page: Page, address: str, world: World) -> None:
    page.goto(f"{address}/playground")
    page.get_by_label("Beside it").select_option(f"0 {world.old}")
    page.get_by_label("Example").select_option(index=1)
    expect(page.locator(".result")).to_have_count(2)
    expect(page.locator(".result").nth(1).locator(".moved")).to_have_count(10)
    boxes = [page.locator(".result").nth(number).bounding_box() for number in range(2)]
    assert boxes[0] is not None
    assert boxes[1] is not None
    assert boxes[0]["y"] == boxes[1]["y"]
    assert boxes[0]["x"] + boxes[0]["width"] <= boxes[1]["x"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("path", PATHS)
def test_a_narrow_screen_needs_no_scrolling_to_the_side_and_texts_have_contrast(
    browser: Browser, address: str, world: World, path: str, scheme: Any
) -> None:
    page, problems = open_page(
        browser, viewport={"width": 360, "height": 740}, color_scheme=scheme, reduced_motion="reduce"
    )
    page.goto(address + path.format(live=world.live, old=world.old))
    if path == "/playground":
        page.get_by_label("Beside it").select_option(f"0 {world.old}")
        page.get_by_label("Example").select_option(index=1)
        expect(page.locator(".result")).to_have_count(2)
    if path == "/fleet":
        expect(page.locator(".replica")).to_have_count(4)
    if path == "/figures":
        expect(page.locator(".chart svg")).to_have_count(4)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    assert page.evaluate(CONTRAST) == []
    page.context.close()
    assert problems == []


@pytest.mark.parametrize("path", PATHS)
def test_every_page_has_landmarks_a_heading_and_labels(page: Page, address: str, world: World, path: str) -> None:
    page.goto(address + path.format(live=world.live, old=world.old))
    assert page.locator("main").count() == page.locator("h1").count() == 1
    assert page.locator("header nav").count() == 1
    assert page.locator("html").get_attribute("lang") == "en"
    unnamed = page.evaluate(
        """[...document.querySelectorAll("input:not([type=hidden]), select, textarea, button, a, svg, summary")]
        .filter((e) => !(e.labels?.length || e.getAttribute("aria-label") || e.textContent.trim()))
        .map((e) => e.outerHTML)"""
    )
    assert unnamed == []
    ids = page.evaluate("[...document.querySelectorAll('[id]')].map((e) => e.id)")
    assert len(ids) == len(set(ids))


def test_a_swap_is_watched_as_it_rolls_after_a_confirmation(browser: Browser, tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    old, live = write(store, seed=1), write(store, seed=2)
    page, problems = open_page(browser)
    with Pair(store.root, tmp_path / "logs", replicas=2) as pair, running(settings_for(store, pair)) as (_, address):
        page.goto(address)
        expect(page.get_by_role("region", name="Live bundle")).to_contain_text(live)
        page.get_by_role("link", name=f"Make live… {old}").click()
        expect(page.get_by_role("heading", name="Make this bundle live?")).to_be_visible()
        page.get_by_role("link", name="Cancel").click()
        expect(page).to_have_url(f"{address}/")
        assert store.live_version() == live
        page.get_by_role("link", name=f"Make live… {old}").click()
        page.get_by_role("button", name="Make it live").click()
        expect(page).to_have_url(f"{address}/fleet")
        expect(page.get_by_role("status")).to_contain_text(f"All 4 replicas answer with {old}")
        assert store.live_version() == old
        newest = write(store, seed=2, catalogue_seed=7)  # by somebody else
        expect(page.locator("#events")).to_contain_text(f"The store names {newest} as live")
        for replica in pair.anns:
            expect(page.locator("#events")).to_contain_text(f"ANN {replica.address} answers with {newest}")
        pair.anns[1].kill()
        expect(page.locator("#events")).to_contain_text(f"ANN {pair.anns[1].address} does not answer")
        expect(page.get_by_role("status")).to_contain_text("3 of 4 replicas")
        pair.anns[1].start()
        expect(page.locator("#events")).to_contain_text(f"ANN {pair.anns[1].address} answers again")
        expect(page.get_by_role("status")).to_contain_text("All 4 replicas answer")
        page.context.close()
    assert problems == []


def test_a_promotion_without_the_admin_token_is_refused_on_the_page(browser: Browser, tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    old, live = write(store, seed=1), write(store, seed=2)
    (tmp_path / "tokens").write_text("admin-token ops\nread-token shop read\n")
    page, problems = open_page(browser)
    pair = Pair(store.root, tmp_path / "logs", flags={"token-file": str(tmp_path / "tokens")})
    with pair, running(settings_for(store, pair)) as (_, address):
        page.goto(f"{address}/bundles/{old}/promote")
        field = page.get_by_label("Token with the scope admin")
        assert field.get_attribute("type") == "password"
        field.fill("read-token")
        page.get_by_role("button", name="Make it live").click()
        expect(page.get_by_role("alert")).to_contain_text("Nothing was changed.")
        expect(page.get_by_role("alert")).to_contain_text("admin")
        assert store.live_version() == live
        assert "token=" not in page.url
        page.get_by_label("Token with the scope admin").fill("admin-token")
        page.get_by_role("button", name="Make it live").click()
        expect(page).to_have_url(f"{address}/fleet")
        wait_for(lambda: store.live_version() == old, "the old bundle is live")
        page.get_by_role("link", name="Token").click()
        page.get_by_label("Token", exact=True).fill("admin-token")
        page.get_by_role("button", name="Keep it").click()
        page.get_by_role("link", name="Fleet").click()
        expect(page.get_by_role("status")).to_contain_text(f"All 2 replicas answer with {old}")
        assert "admin-token" not in page.content()
        page.context.close()
    # The browser itself notes that a form was answered with 403.
    assert [each for each in problems if not re.search("status of 40[13]", each)] == []


def test_another_site_can_neither_frame_the_console_nor_read_or_change_it(
    browser: Browser, address: str, world: World
) -> None:
    page, _ = open_page(browser)
    # Another origin of the same machine: cookies of the console go there, and its pages try what they can.
    page.route(
        "http://localhost:9/*",
        lambda route: route.fulfill(
            content_type="text/html",
            body=f"""<iframe src="{address}/roll-back"></iframe>
            <form method="post" action="{address}/roll-back" target="_self">
            <input name="expected_live" value="{world.live}"><input name="expected_previous" value="{world.old}">
            <button>Win a prize</button></form>""",
        ),
    )
    page.goto(f"{address}/")  # so that there is a session
    page.goto("http://localhost:9/evil")
    assert page.evaluate(f"fetch('{address}/token').then(() => 'read', () => 'refused')") == "refused"
    framed = [frame for frame in page.frames if frame is not page.main_frame]
    assert all("Roll back?" not in frame.content() for frame in framed)
    page.get_by_role("button", name="Win a prize").click()
    expect(page.locator("body")).to_contain_text("comes from another page")
    assert world.store.live_version() == world.live
    page.context.close()


def test_a_hostile_report_can_neither_read_nor_change_the_console(browser: Browser, tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    first = write(store)
    tries = """<title>nothing</title><form method="post" action="/roll-back"><button>x</button></form><script>
    document.querySelector("form").submit();
    let cookie = "none";
    try { cookie = document.cookie } catch (error) { cookie = error.name }
    fetch("/token").then(() => "read", () => "refused").then((answer) => { document.title = answer + " " + cookie });
    </script>"""
    version = write(store, damage=lambda folder: (folder / REPORT).write_text(tries))
    page, _ = open_page(browser)
    with running(settings_for(store, None)) as (_, address):
        page.goto(f"{address}/bundles/{version}")
        with page.expect_popup() as opened:
            page.get_by_role("link", name="Report").click()
        expect(opened.value).to_have_title("refused SecurityError")
        assert opened.value.url == f"{address}/bundles/{version}/report"
        page.context.close()
    assert store.live_version() == version != first


def test_figures_say_which_process_cannot_be_read(page: Page, address: str) -> None:
    page.goto(f"{address}/figures")
    expect(page.get_by_role("status")).to_contain_text("cannot be read")
