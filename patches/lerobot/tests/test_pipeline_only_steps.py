"""A saved pipeline can name processor steps, and nothing else that happens to be importable."""

import json

import pytest

from lerobot.processor import DataProcessorPipeline, IdentityProcessorStep


def _saved(folder, entry):
    (folder / "processor.json").write_text(json.dumps({"name": "p", "steps": [entry]}))
    return DataProcessorPipeline.from_pretrained(folder, config_filename="processor.json")


@pytest.mark.parametrize(
    "named", ["subprocess.Popen", "os.system", "builtins.print", "lerobot.processor.pipeline.DataProcessorPipeline"]
)
def test_what_is_no_step_is_refused_and_not_called(tmp_path, named):
    marker = tmp_path / "called"
    config = {"args": ["touch", str(marker)]}
    with pytest.raises(TypeError, match=f"'{named}' is not a ProcessorStep"):
        _saved(tmp_path, {"class": named, "config": config})
    assert not marker.exists()


def test_an_unregistered_step_still_loads(tmp_path):
    named = f"{IdentityProcessorStep.__module__}.{IdentityProcessorStep.__name__}"
    pipeline = _saved(tmp_path, {"class": named, "config": {}})
    assert [type(step) for step in pipeline.steps] == [IdentityProcessorStep]
