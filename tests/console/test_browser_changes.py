"""Changes in a real browser: confirmation, refusal, a swap as it rolls, and what other sites and reports cannot do."""

from __future__ import annotations

import re
from pathlib import Path

import plotly.graph_objects
import plotly.io
from playwright.sync_api import Browser, expect

from retrieval.bundle.layout import REPORT
from retrieval.store.folder_store import FolderStore
from testbed.services import Pair
from tests.console.browsing import open_page
from tests.console.conftest import World
from tests.console.world import running, settings_for, write
from tests.worlds import wait_for


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
            body=f"""<a href="{address}/token">console</a><iframe src="{address}/roll-back"></iframe>
            <form method="post" action="{address}/roll-back" target="_self">
            <input name="expected_live" value="{world.live}"><input name="expected_previous" value="{world.old}">
            <button>Win a prize</button></form>""",
        ),
    )
    page.goto(f"{address}/token")
    page.get_by_label("Token", exact=True).fill("some-token")
    page.get_by_role("button", name="Keep it").click()
    page.goto("http://localhost:9/evil")
    page.get_by_role("link", name="console").click()
    expect(page.get_by_role("button", name="Forget the token")).to_be_visible()  # a link ends no session
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


def test_a_report_draws_its_charts_and_loads_nothing_from_elsewhere(browser: Browser, tmp_path: Path) -> None:
    store = FolderStore(tmp_path / "store")
    chart = plotly.io.to_html(plotly.graph_objects.Scatter(y=[1, 2, 3]), include_plotlyjs=True)
    loads = """<img src="http://localhost:9/a"><script src="http://localhost:9/b"></script>
    <link rel="stylesheet" href="http://localhost:9/c"><iframe src="http://localhost:9/d"></iframe>
    <style>@import "http://localhost:9/e"; body { background: url(http://localhost:9/f) }</style>
    <script>fetch("http://localhost:9/g").catch(() => document.title = "refused"); open("http://localhost:9/h")</script>
    """
    version = write(store, damage=lambda folder: (folder / REPORT).write_text(chart + loads))
    page, _ = open_page(browser)
    asked: list[str] = []
    page.context.route("http://localhost:9/*", lambda route: (asked.append(route.request.url), route.abort()))
    with running(settings_for(store, None)) as (_, address):
        page.goto(f"{address}/bundles/{version}/report")
        expect(page.locator(".js-plotly-plot svg.main-svg").first).to_be_visible()
        expect(page).to_have_title("refused")
        page.context.close()
    assert asked == []
