"""What is imported without the collector is left alone by it, and the collector comes back as it was."""

import gc
from contextlib import suppress

import pytest

from fcit_ray.importing import swift_imports


@pytest.mark.parametrize("enabled", [True, False])
def test_the_collector_is_as_it_was_and_passes_by_what_was_made(enabled: bool) -> None:
    was = gc.isenabled()
    (gc.enable if enabled else gc.disable)()
    try:
        with suppress(ImportError), swift_imports():
            assert not gc.isenabled()
            made = [[1]]
            raise ImportError  # whatever happens
        assert gc.isenabled() is enabled
        assert not any(known is made for known in gc.get_objects())
    finally:
        gc.unfreeze()
        (gc.enable if was else gc.disable)()
