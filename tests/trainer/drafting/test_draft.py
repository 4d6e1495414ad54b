"""Names and paths in a drafted recipe."""

from __future__ import annotations

from pathlib import Path

from trainer.drafting.column_names import words_of
from trainer.drafting.draft import attribute_name, relative_path


def test_paths_are_relative_where_the_table_is_near(tmp_path: Path) -> None:
    (tmp_path / "a" / "b").mkdir(parents=True)
    assert relative_path(tmp_path / "a" / "b" / "x.csv", tmp_path / "a") == "b/x.csv"
    assert relative_path(tmp_path / "x.csv", tmp_path / "a") == "../x.csv"
    assert relative_path(Path("/x.csv"), tmp_path / "a") == "/x.csv"


def test_names_of_attributes_are_allowed_and_distinct() -> None:
    assert words_of("CustomerID:token") == ["customer", "id"]
    assert attribute_name("Release year", ()) == "release_year"
    assert attribute_name("Release-Year", {"release_year"}) == "release_year_2"
    assert attribute_name("3 sizes?", ()) == "_3_sizes"
    assert attribute_name("价格", ()) == "attribute"
