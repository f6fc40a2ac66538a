"""Recipes that come with the plugin: found by name per host, all of them sound."""

from __future__ import annotations

from pathlib import Path

import pytest

from apt_plugin.errors import AptError
from apt_plugin.hosts import owner_of
from apt_plugin.hosts.lerobot.families import POLICIES
from apt_plugin.launch import split
from apt_plugin.recipes import find, shipped
from tests.schedules import check

NAMED = [(host, name) for host, files in shipped().items() for name in files]
COMMANDS = {
    "lerobot": "lerobot-train --policy.type=pi05",
    "openpi": "scripts/train.py pi05_libero --exp-name=e1",
    "gr00t": "gr00t/experiment/launch_finetune.py --dataset-path ./lerobot-data",
}


def test_each_host_has_its_own_recipes() -> None:
    assert set(shipped()) == {"lerobot", "openpi", "gr00t"}
    assert {*POLICIES, "pi05_play_data"} <= set(shipped()["lerobot"])  # one for each policy type
    assert {"pi05_libero", "pi0_libero", "pi05_droid_finetune"} <= set(shipped()["openpi"])
    assert {"strict", "host", "export", "cached"} <= set(shipped()["gr00t"])


@pytest.mark.parametrize(("host", "name"), NAMED)
def test_a_name_gives_what_its_file_gives(host: str, name: str) -> None:
    command = COMMANDS[host].split()
    assert owner_of(command) == host
    named, by_path = (
        split([*command, "--recipe", "apt", "--apt.config", value], host)
        for value in (name, str(shipped()[host][name]))
    )
    assert named == by_path
    assert named.command == command


def test_a_name_of_another_host_is_refused_with_the_names_there_are() -> None:
    """pi05 holds flags of lerobot-train; on openpi they would be unknown flags after Stage 1 was set up."""
    with pytest.raises(
        AptError, match=r"'pi05': no such file, nor recipe for this host\. .*Known: pi05_droid_finetune, "
    ):
        find("pi05", "openpi")
    with pytest.raises(AptError, match=r"Did you mean 'pi05_libero'\?"):
        split(["scripts/train.py", "--recipe", "apt", "--apt.config", "pi05_liberro"], "openpi")


def test_a_file_goes_before_a_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "pi05").write_text("noise_draws: 7\n")
    request = split(["lerobot-train", "--recipe", "apt", "--apt.config", "pi05"], "lerobot")
    assert request.recipe is not None
    assert request.recipe.noise_draws == 7
    with pytest.raises(AptError, match=r"No recipe file at mine\.yaml"):
        split(["lerobot-train", "--recipe", "apt", "--apt.config", "mine.yaml"], "lerobot")


def test_without_a_host_only_a_name_of_one_host_is_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert find("pi05") == shipped()["lerobot"]["pi05"]
    both = {host: {"same": tmp_path / host} for host in ("lerobot", "openpi")}
    monkeypatch.setattr("apt_plugin.recipes.shipped", lambda: both)
    with pytest.raises(AptError, match="a recipe of lerobot and openpi"):
        find("same")
    assert find("same", "openpi") == tmp_path / "openpi"


@pytest.mark.parametrize(
    ("rates", "words"),
    [
        ([min(step / 10_000, 1.0) for step in range(3000)], "the highest rate is 0.2999, 30% of the peak"),
        ([min(step / 2000, 1.0) for step in range(3000)], "warm-up ends at step 1980 of 3000"),
        ([max(1.0 - step / 1000, 0.1) for step in range(3000)], "2100 of 3000 steps at the floor"),
    ],
)
def test_a_stage_that_does_not_fit_its_schedule_is_noticed(rates: list[float], words: str) -> None:
    """The first is what pi05_libero's Stage 1 was: 3000 steps inside a warm-up of 10,000."""
    with pytest.raises(AssertionError, match=words):
        check(rates, 1.0)


def test_a_stage_that_fits_its_schedule_passes() -> None:
    check([min(step / 1000, 1.0) for step in range(3000)], 1.0)
    check([1.0 - 0.9 * step / 3000 for step in range(3000)], 1.0)
