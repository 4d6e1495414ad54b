"""Runs the images that `make images` built, and checks each from inside: `make images-check`.

Each image has no compiler and runs as user 10001. Those of the services have no TensorFlow; each starts on an empty
store and on a small one, answers health and a request, and ends in order. The trainer trains one epoch.
"""

from __future__ import annotations

import argparse
import json
import random
import shlex
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from retrieval.store.folder_store import FolderStore
from tests.worlds import write_bundle

KINDS = ("query-tower", "ann", "trainer")
TIMEOUT_S = 600
INSIDE = Path(__file__).with_name("inside_image.py")
RECIPE = """
name = "shop"
[interactions]
path = "purchases.csv"
user = "customer"
item = "product"
time = "bought_at"
[query_tower]
features = [{ name = "history", kind = "history", max_values = 10 }]
[item_tower]
features = [{ name = "item_id", kind = "categorical" }]
"""


def main() -> int:
    """Checks the images, and returns 0 if all are well."""
    parser = argparse.ArgumentParser(description="Checks images from inside.")
    parser.add_argument("--builder", required=True, help="podman, docker or buildah, with options if it needs any")
    parser.add_argument("--images", default="two-tower", help="name of the images before /query-tower and so on")
    parser.add_argument("--tag", required=True, help="tag of the images")
    parser.add_argument("kinds", nargs="*", default=KINDS, help="images to check: query-tower, ann, trainer")
    arguments = parser.parse_args()
    builder = shlex.split(arguments.builder)
    failed = list[str]()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        write_files(folder)
        for kind in arguments.kinds:
            image = f"{arguments.images}/{kind}:{arguments.tag}"
            print(f"{image}, {size(builder, image)}", flush=True)
            with run_command(builder, image, folder) as (command, entrypoint):
                done = subprocess.run(
                    [*command, "python", "/check/inside_image.py", kind, *entrypoint], check=False, timeout=TIMEOUT_S
                )
            if done.returncode:
                failed.append(image)
    print(f"failed: {', '.join(failed)}" if failed else "all images are well")
    return 1 if failed else 0


def write_files(folder: Path) -> None:
    """Writes the stores, the tables and the script that the check inside reads, readable for every user."""
    (folder / "empty").mkdir()
    write_bundle(FolderStore(folder / "filled"))
    shop = folder / "shop"
    shop.mkdir()
    (shop / "shop.toml").write_text(RECIPE)
    chance = random.Random(5)
    rows = [
        f"c{user},p{product},2026-03-{day + 1:02}T10:15:00"
        for user in range(80)
        for day, product in enumerate(chance.sample(range(user % 2, 60, 2), 10))
    ]
    (shop / "purchases.csv").write_text("\n".join(["customer,product,bought_at", *rows, ""]))
    (folder / INSIDE.name).write_text(INSIDE.read_text())
    for path in [folder, *folder.rglob("*")]:
        path.chmod(0o755 if path.is_dir() else 0o644)


@contextmanager
def run_command(builder: list[str], image: str, folder: Path) -> Iterator[tuple[list[str], list[str]]]:
    """Yields the command that runs a program in the image, without network if possible, and the image's entrypoint."""
    if Path(builder[0]).name == "buildah":
        container = output([*builder, "from", image])
        try:
            config = json.loads(output([*builder, "inspect", container]))["OCIv1"]["config"]
            yield [*builder, "run", "--volume", f"{folder}:/check:ro", container, "--"], config["Entrypoint"]
        finally:
            output([*builder, "rm", container])
        return
    entrypoint = json.loads(output([*builder, "image", "inspect", "--format", "{{json .Config.Entrypoint}}", image]))
    limits = ["--read-only", "--network", "none", "--cap-drop", "ALL", "--security-opt", "no-new-privileges"]
    limits += ["--tmpfs", "/tmp", "--tmpfs", "/var/cache/two-tower"]
    # `env` runs the program that follows, in place of the entrypoint.
    yield [*builder, "run", "--rm", *limits, "-v", f"{folder}:/check:ro", "--entrypoint", "env", image], entrypoint


def size(builder: list[str], image: str) -> str:
    """Returns the size of an image, as the builder prints it."""
    return output([*builder, "images", "--format", "{{.Size}}", image])


def output(command: list[str]) -> str:
    """Returns what a command prints.

    Raises:
        SystemExit: the command failed; the message is what it printed.
    """
    done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=TIMEOUT_S)
    if done.returncode:
        raise SystemExit(f"{shlex.join(command)}: {done.stderr.strip()}")
    return done.stdout.strip()


if __name__ == "__main__":
    sys.exit(main())
