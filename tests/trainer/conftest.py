"""Tiny base models of both families, built once."""

from pathlib import Path

import pytest
import tiny

from trainer import families


@pytest.fixture(scope="session")
def folders(tmp_path_factory) -> dict[str, Path]:
    """Family name -> a tiny diffusers folder."""
    root = tmp_path_factory.mktemp("bases")
    return {name: tiny.base_folder(root / name, name) for name in families.FAMILIES}


@pytest.fixture(params=["sd15", "sdxl"])
def model(request, folders) -> families.BaseModel:
    """A tiny base of each family, fresh for every test."""
    return families.load(str(folders[request.param]))
