from pathlib import Path

import pytest


@pytest.fixture(autouse=True)
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Each test has an empty cache of its own."""
    folder = tmp_path / "cache"
    monkeypatch.setenv("DIFFUSION_CACHE", str(folder))
    return folder / "data"
