"""What the comparison's tests share."""

import pytest


@pytest.fixture(scope="module")
def out(tmp_path_factory):
    """One output folder, so that the VLM is grounded once a file."""
    return tmp_path_factory.mktemp("compare")
