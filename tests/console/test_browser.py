"""The console in a real browser: hostile titles, keyboard, narrow screens, contrast, and what a newcomer looks for."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from tests.console.browsing import open_page
from tests.console.conftest import World
from tests.console.world import SHOWN, running, settings_for

PATHS = ("/", "/fleet", "/playground", "/figures", "/token", "/roll-back", "/bundles/{live}", "/bundles/{old}/promote")

CONTRAST = Path(__file__).with_name("contrast.js").read_text()


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


def test_figures_say_which_process_cannot_be_read(page: Page, address: str) -> None:
    page.goto(f"{address}/figures")
    expect(page.get_by_role("status")).to_contain_text("cannot be read")


def test_the_form_waits_for_its_script(browser: Browser, address: str) -> None:
    context = browser.new_context(java_script_enabled=False)
    page = context.new_page()
    page.goto(f"{address}/playground")
    expect(page.get_by_role("button", name="Recommend")).to_be_disabled()
    context.close()
