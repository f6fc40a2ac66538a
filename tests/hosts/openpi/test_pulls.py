"""Each patch as a commit on the real host: its test fails without it and passes with it, and git am takes it."""

from __future__ import annotations

import pytest

from tests import pulls

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1200)]


@pytest.mark.parametrize("number", [1, 2, 3, 4, 5])
def test_a_patch_is_a_push_away(tmp_path, number: int) -> None:
    pulls.made("openpi", tmp_path, number)
