"""README and docs, checked by running them."""

from __future__ import annotations

import dataclasses
import json
import os
import random
import re
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from testbed.services import Pair
from trainer.cli.commands import app
from trainer.recipe import feature_inputs, recipe, tables, training
from two_tower_client.cli.parser import make_parser

ROOT = Path(__file__).parents[2]
README = (ROOT / "README.md").read_text(encoding="utf-8")
PAGES = {path.name: path.read_text(encoding="utf-8") for path in [ROOT / "README.md", *(ROOT / "docs").glob("*.md")]}
PAGES["clients/README.md"] = (ROOT / "clients" / "README.md").read_text(encoding="utf-8")


def blocks(language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", README, flags=re.DOTALL | re.MULTILINE)


def run(command: list[str], folder: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": f"{ROOT}:{ROOT / 'clients'}"}
    return subprocess.run(
        command, cwd=folder, env=environment, capture_output=True, text=True, check=False, timeout=200
    )


@pytest.fixture(scope="module")
def shop(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of 'Your own data': the README's recipe, and tables with the README's columns.

    Customers buy within one of two departments, so that a right answer is known.
    """
    folder = tmp_path_factory.mktemp("own") / "shop"
    folder.mkdir()
    (folder / "shop.toml").write_text(blocks("toml")[0])
    purchases, products, customers = (block.splitlines()[0] for block in blocks("csv"))
    chance = random.Random(5)
    kinds = ("kitchen", "garden")
    rows = [products, *(f"p{n},{kinds[n % 2]} thing {n},{kinds[n % 2]}|gifts,{n + 0.5}" for n in range(60))]
    (folder / "products.csv").write_text("\n".join(rows) + "\n")
    rows = [customers, *(f"c{n},{'DE' if n % 4 < 2 else 'FR'},{20 + n % 50}" for n in range(80))]
    (folder / "customers.csv").write_text("\n".join(rows) + "\n")
    rows = [purchases]
    for n in range(80):
        bought = chance.sample(range(n % 2, 60, 2), 10)
        rows += [f"c{n},p{p},2026-03-{day + 1:02}T10:15:00" for day, p in enumerate(bought)]
    (folder / "purchases.csv").write_text("\n".join(rows) + "\n")
    return folder


@pytest.fixture(scope="module")
def shop_pair(shop: Path) -> Iterator[Pair]:
    command = [sys.executable, "-m", "trainer", "train", "shop/shop.toml", "--store", "shop/store", "--promote"]
    assert " ".join(command[1:]) in README
    done = run([*command, "--epochs", "6"], shop.parent)  # enough for so clear a taste
    assert done.returncode == 0, done.stderr
    with Pair(shop / "store", shop.parent / "logs") as pair:
        yield pair


def test_own_data_leads_to_recommendations_of_the_right_department(shop_pair: Pair, shop: Path) -> None:
    line = next(line for line in README.splitlines() if "two-tower retrieve --feature history=p204" in line)
    words = line.replace("p204", "p2,p4,p6,p8").split("two-tower ")[1].split()
    addresses = ["--query-tower", shop_pair.query_towers[0].address, "--ann", shop_pair.anns[0].address]

    done = run([sys.executable, "-m", "two_tower_client", *words, *addresses, "--json"], shop.parent)

    assert done.returncode == 0, done.stderr
    # Even products are of the kitchen, as p2, p4, p6 and p8 are; the shape of the JSON is not this test's business.
    names = re.findall(r"(kitchen|garden) thing", json.dumps(json.loads(done.stdout)))
    assert len(names) == 10
    assert names.count("kitchen") >= 8


def test_the_eight_lines_of_the_client_run(shop_pair: Pair, shop: Path) -> None:
    code = blocks("python")[0]
    assert len(code.strip().splitlines()) <= 8
    for port, replica in (("50051", shop_pair.query_towers[0]), ("50052", shop_pair.anns[0])):
        code = code.replace(f"127.0.0.1:{port}", replica.address)
    code = code.replace('"50", "181"', '"p2", "p4"').replace("title", "name")

    done = run([sys.executable, "-c", code], shop.parent)

    assert done.returncode == 0, done.stderr
    assert len(re.findall(r"^-?\d\.\d{3}  \w+ thing \d+$", done.stdout, flags=re.MULTILINE)) == 5


def test_a_broken_cell_stops_with_file_column_line_and_advice(shop: Path, tmp_path: Path) -> None:
    for table in shop.iterdir():
        if table.is_file():
            (tmp_path / table.name).write_text(
                table.read_text().replace("p7,garden thing 7,garden|gifts,7.5", "p7,x,y,cheap")
            )

    done = run([sys.executable, "-m", "trainer", "train", str(tmp_path / "shop.toml")], tmp_path)

    assert done.returncode == 1
    assert "Traceback" not in done.stderr
    for part in ("products.csv", "'price'", "line 9", "'cheap'", "not a finite number"):
        assert part in done.stderr


def test_every_make_target_in_the_docs_exists_and_is_described() -> None:
    described = set(re.findall(r"^([a-z0-9-]+):.*## ", (ROOT / "Makefile").read_text(), flags=re.MULTILINE))
    named = {target for page in PAGES.values() for target in re.findall(r"(?:`|\$ )make ([a-z0-9-]+)", page)}
    assert named
    assert named <= described


def test_every_command_is_in_the_docs_and_every_command_in_the_docs_exists() -> None:
    existing = {
        "-m trainer": {name for name in app if not name.startswith("-")},
        "two-tower": set(next(a.choices for a in make_parser()._actions if isinstance(a.choices, dict))),
    }
    for program, commands in existing.items():
        line = rf"(?:[`/]|^|python ){program} +([a-z-]+)"
        named = {word for page in PAGES.values() for word in re.findall(line, page, flags=re.MULTILINE)}
        assert commands
        assert named == commands


def test_every_key_of_a_recipe_is_documented() -> None:
    page = PAGES["recipes.md"]
    modules = (recipe, tables, training, feature_inputs)
    parts = {c for m in modules for c in vars(m).values() if dataclasses.is_dataclass(c) and c.__module__ == m.__name__}
    assert parts == set(recipe.PARTS)
    for part in parts:
        for field in dataclasses.fields(part):
            assert re.search(rf"[`.]{field.name}[`.]", page), f"{part.__name__}.{field.name} is not in docs/recipes.md"
