import pathlib

import numpy as np
import pytest

from openpi.training import weight_loaders


@pytest.fixture
def checkpoint(tmp_path: pathlib.Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A checkpoint that holds one of three params."""
    loaded = {"base": np.ones(2)}
    monkeypatch.setattr(weight_loaders._model, "restore_params", lambda *args, **kwargs: loaded)  # noqa: SLF001
    return str(tmp_path)


PARAMS = {"base": np.zeros(2), "lora_a": np.zeros(2), "head": np.full(2, 3.0)}


def test_missing_regex_keeps_the_initial_values(checkpoint: str):
    loader = weight_loaders.CheckpointWeightLoader(checkpoint, missing_regex=".*(lora|head).*")
    params = loader.load(PARAMS)
    assert set(params) == {"base", "lora_a", "head"}
    np.testing.assert_array_equal(params["base"], np.ones(2))
    np.testing.assert_array_equal(params["head"], PARAMS["head"])


def test_default_allows_lora_alone(checkpoint: str):
    params = weight_loaders.CheckpointWeightLoader(checkpoint).load(PARAMS)
    assert set(params) == {"base", "lora_a"}
