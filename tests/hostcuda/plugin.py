"""For pytest: `-p tests.hostcuda.plugin` runs the tests of arrays on CuPy over host memory, and no others."""

from __future__ import annotations

from collections.abc import Iterator

import pytest

from tests.hostcuda.installation import install

install()

from tests.hostcuda import streams  # noqa: E402 (it imports what is replaced)


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    """Leave out what has nothing to do with the backend "cuda"."""
    chosen = [item for item in items if _is_ours(item)]
    config.hook.pytest_deselected(items=[item for item in items if not _is_ours(item)])
    items[:] = chosen


def _is_ours(item: pytest.Item) -> bool:
    return item.path.name.startswith("check_") or "backend" in getattr(item, "fixturenames", ())


@pytest.hookimpl(wrapper=True)
def pytest_runtest_call(item: pytest.Item) -> Iterator[None]:
    """Run at the end of a test what it queued, so that what goes wrong there is its own."""
    try:
        return (yield)
    finally:
        streams.finish_all()
