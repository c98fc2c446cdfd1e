"""What a built wheel holds: pages, presets and data, though they are no modules."""

import tomllib
from pathlib import Path

import pytest
from setuptools import find_namespace_packages

ROOT = Path(__file__).parent.parent
TOOL = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]


def packaged() -> set[Path]:
    """Every file that setuptools takes by these settings."""
    found: set[Path] = set()
    for name in find_namespace_packages(str(ROOT), include=TOOL["packages"]["find"]["include"]):
        folder = ROOT / name.replace(".", "/")
        found |= set(folder.glob("*.py"))
        for owner, patterns in TOOL["package-data"].items():
            if owner == name:
                found |= {path for pattern in patterns for path in folder.glob(pattern) if path.is_file()}
    return found


@pytest.mark.parametrize(
    "folder", ["studio", "studio/views", "studio/components", "studio/locales", "studio/.streamlit", "presets"]
)
def test_nothing_of_it_is_left_out(folder):
    there = {
        path
        for path in (ROOT / folder).rglob("*")
        if path.is_file() and path.suffix != ".pyc" and "__pycache__" not in path.parts
    }
    assert there and there - packaged() == set()


def test_the_users_own_folders_are_no_packages():
    names = find_namespace_packages(str(ROOT), include=TOOL["packages"]["find"]["include"])
    assert {name.partition(".")[0] for name in names} == {"trainer", "studio", "presets"}
