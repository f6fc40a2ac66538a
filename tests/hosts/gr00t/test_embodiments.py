"""The robots that were trained: `prove` measures those, and a server is not asked for another."""

from __future__ import annotations

from tests.hosts.gr00t import needs  # noqa: F401  # isort: skip

import sys

import pytest

from apt_plugin import files, proofs
from apt_plugin.errors import AptError
from apt_plugin.hosts.gr00t import acting, prove
from tests import processes
from tests.hosts.gr00t import tiny
from tests.hosts.gr00t.test_contracts import stage1

TAG = "oxe_droid_relative_eef_relative_joint"


@pytest.fixture
def folder(where, tmp_path):
    """A Stage 1 whose record says that it was trained for one robot."""
    made = stage1(where, tmp_path / "s1", 2, {})
    files.write_json(made / "apt.json", files.read_json(made / "apt.json") | {"facts": {TAG: {}}})
    return made


def test_proofs_are_about_the_robots_that_were_trained(folder):
    """They were about embodiment 0, whose layers nothing had trained."""
    subject = prove.open_subject(folder)
    number = subject.processor.embodiment_id_mapping[TAG]
    assert number != 0
    assert subject.make_batch(proofs.PLAIN, 0, 0)["embodiment_id"].tolist() == [number, number]
    subject._embodiments = (number, 3)
    assert subject.make_batch(proofs.PLAIN, 0, 0)["embodiment_id"].tolist() == [number, 3]


@pytest.mark.parametrize("asked", ["no_such_robot", "LIBERO_PANDA"])
def test_another_robot_is_refused_in_words(folder, asked):
    with pytest.raises(
        AptError, match=rf"--embodiment-tag is '{asked}', and .*s1 was trained for OXE_DROID\w*\. Write"
    ):
        acting.check_embodiment(["--model-path", str(folder), "--embodiment-tag", asked])
    acting.check_embodiment(["--model-path", str(folder), "--embodiment-tag", TAG])


def test_the_server_ends_in_that_sentence(where, folder):
    command = ["run", "-m", "gr00t.eval.run_gr00t_server", "--model-path", str(folder), "--device", "cpu"]
    done = processes.run(
        [sys.executable, "-m", "apt_plugin", *command, "--embodiment-tag", "LIBERO_PANDA", "--recipe", "apt"],
        cwd=where, env=tiny.environment(),
    )  # fmt: skip
    assert done.returncode == 1
    assert done.stderr.strip().splitlines()[-1].startswith("apt-plugin: --embodiment-tag is 'LIBERO_PANDA'")
