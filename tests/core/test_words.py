"""What a user may type wrong ends in a sentence: what was seen and what to write. No host is needed."""

from __future__ import annotations

import os
import signal
import stat
import sys
from pathlib import Path

import pytest

import apt_plugin
from apt_plugin import cli, files, tabletop_command
from apt_plugin.errors import AptError
from apt_plugin.launch import split
from apt_plugin.recipe import from_flat
from apt_plugin.run.facts import instructions
from tests import processes, said

HERE = Path(__file__).resolve().parents[2]


def run(monkeypatch: pytest.MonkeyPatch, *argv: str) -> str:
    """The words that a command ends with."""
    monkeypatch.setattr(sys, "argv", ["apt-plugin", *argv])
    with pytest.raises(SystemExit) as stop:
        cli.main()
    return str(stop.value.code)


@pytest.mark.parametrize(
    ("argv", "words"),
    [
        ("bench --batch 0", "--batch is 0; write 1 or more"),
        ("bench --rounds 0", "--rounds is 0; write 1 or more"),  # printed figures of 0.0
        ("label a b c --seed -1", "--seed is -1; write 0 or more"),
        ("label a b c --device foo", "--device is 'foo'"),
        ("listen --policy a --device foo:1", "--device is 'foo'"),
        ("listen --policy a --per-frame 2", "--per-frame is 2; write 3 or more"),
        ("prove a --device cud", "Did you mean 'cuda'?"),
        ("tabletop test a --policy b --seed -1", "--seed is -1"),
        ("tabletop data a --labelled -1", "write how many, 0 for none"),
        ("lisen --policy a", "apt-plugin's command is 'lisen'. Did you mean 'listen'?"),
    ],
)
def test_an_argument_that_means_nothing(monkeypatch: pytest.MonkeyPatch, argv: str, words: str) -> None:
    argv = argv.replace("label a b c", "label --policy a --labelled b --unlabelled c")
    assert words in run(monkeypatch, *argv.split())


@pytest.mark.parametrize("listen", ["\u00b2", "-1", "many"])
def test_a_digit_that_is_no_number(listen: str) -> None:
    with pytest.raises(AptError, match=r"--apt\.listen is .*; write how many frames"):
        split(["train", "--recipe", "apt", f"--apt.listen={listen}"])


@pytest.mark.parametrize(
    ("field", "value", "words"),
    [
        ("noise_draws", "1000000000", "write 1 or more, up to 256"),  # tried to take 140 GB
        ("fusion.taps", "\u00b2", "write last, spread, or VLM layers"),
    ],
)
def test_a_recipe_that_nothing_can_carry_out(field: str, value: str, words: str) -> None:
    with pytest.raises(AptError, match=words):
        from_flat({field: value})


def test_a_record_of_nested_brackets(tmp_path: Path) -> None:
    (tmp_path / "apt.json").write_text("[" * 200_000)
    with pytest.raises(AptError, match="is not valid JSON"):
        files.read_json(tmp_path / "apt.json")


def test_a_task_table_with_a_hole() -> None:
    """NaN, which is what pandas makes of a missing one, was an instruction: "nan"."""
    told = instructions(["push", None, float("nan")])
    assert told == {"instructions": 3, "empty_instructions": 2, "distinct_instructions": 1}


def program(code: str, **more: str):
    return [sys.executable, "-c", code], {**os.environ, "PYTHONPATH": str(HERE), **more}


@pytest.mark.parametrize("argv", [["demo", "--output", "x"], ["tabletop", "data", "x"]])
def test_without_lerobot(tmp_path: Path, argv: list[str]) -> None:
    code = f"import sys; sys.modules['lerobot'] = None; sys.argv[1:] = {argv}\nfrom apt_plugin.cli import main; main()"
    command, env = program(code)
    done = processes.run(command, env=env, cwd=tmp_path)
    assert done.returncode == 1
    assert done.stderr.splitlines()[-1].startswith("apt-plugin: "), done.stderr
    assert "lerobot" in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr
    assert not list(tmp_path.iterdir()) or argv[0] == "demo"  # which keeps what it has done


@pytest.mark.parametrize("place", ["a file", "below a file", "a link"])
def test_data_for_a_place_that_cannot_be_written(monkeypatch: pytest.MonkeyPatch, tmp_path: Path, place: str) -> None:
    (tmp_path / "file").touch()
    (tmp_path / "link").symlink_to(tmp_path / "gone")
    path = {"a file": "file", "below a file": "file/x", "a link": "link"}[place]
    words = run(monkeypatch, "tabletop", "data", str(tmp_path / path))
    assert words.startswith("apt-plugin: OUTPUT is ")
    assert "Name a folder that can be written" in words


def test_interrupted_data_need_not_be_deleted_by_hand(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(self, begun: Path) -> None:
        files.write_json(begun / "half.json", 1)
        raise KeyboardInterrupt

    command = tabletop_command.Data(tmp_path / "new")
    with monkeypatch.context() as patch:
        patch.setattr(tabletop_command.Data, "_write", interrupted)
        with pytest.raises(KeyboardInterrupt):
            command()
    monkeypatch.setattr(tabletop_command.Data, "_write", lambda self, begun: files.write_json(begun / "whole.json", 1))
    assert command() == 0
    assert sorted(path.name for path in tmp_path.rglob("*")) == ["new", "tabletop.json", "whole.json"]


def test_ctrl_c_ends_in_a_sentence(tmp_path: Path) -> None:
    code = (
        "import signal, sys, time\nfrom apt_plugin import cli, hosts\n"
        "signal.signal(signal.SIGINT, signal.default_int_handler)\n"  # a shell's background jobs ignore it
        "hosts.adapter_for = lambda argv: (print('ready', flush=True), time.sleep(60))\n"
        "sys.argv[1:] = ['run', 'x']; cli.main()"
    )
    command, env = program(code)
    process = processes.start(command, env=env, stdout=-1, stderr=-1, text=True)
    assert process.stdout.readline() == "ready\n"
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=processes.HANG)
    assert process.returncode == 130
    assert error == "apt-plugin: ended by Ctrl-C.\n"


# --name=value: how one is written. The two rows below are git's and the formatters'.
OTHERS = set(
    "--help --version --recipe --repair --name --global --tyro-print-completion "
    "--branch --detach --force --message --porcelain --untracked-files --verify "
    "--fix --quiet "
    "--env.type --env.discover_packages_path".split()  # of lerobot-eval, which stands before them
)


def test_messages_of_the_core_name_flags_that_exist() -> None:
    """The core serves every host: a flag of one of them is none on the others."""
    root = Path(apt_plugin.__file__).parent
    rest = [path for path in root.iterdir() if path.name not in ("hosts", "libero", "tabletop")]
    assert [line for path in rest for line in said.wrong(path, said.OURS | OTHERS)] == []


@pytest.fixture
def full(tmp_path: Path) -> Path:
    """A file on which no byte finds room: the kernel's own, or one more of it."""
    if Path("/dev/full").is_char_device():
        return Path("/dev/full")
    try:
        os.mknod(tmp_path / "full", 0o666 | stat.S_IFCHR, os.makedev(1, 7))
    except PermissionError:
        pytest.skip("no device here that is always full")
    return tmp_path / "full"


@pytest.mark.parametrize(
    "write",
    [
        "open(path, 'wb').write(bytes(10**6))",
        "raise RuntimeError('I/O error: No space left on device (os error 28)')",  # as safetensors says it
        "import torch; torch.save({'a': torch.zeros(10**6)}, path)",
    ],
)
def test_a_full_disk_ends_in_a_sentence(full: Path, write: str) -> None:
    """Whoever writes, in whatever language; it was a traceback of a page."""
    command, env = program(
        f"from apt_plugin.arguments import in_words\npath = {str(full)!r}\nwith in_words():\n    {write}"
    )
    if "torch" in write:
        pytest.importorskip("torch")
    done = processes.run(command, env=env)
    assert done.returncode == 1
    known = ("No space left on device", "PyTorch could not write a file to its end, as on a full disk")
    assert done.stderr.startswith(tuple(f"apt-plugin: {words}" for words in known)), done.stderr
    assert "resume by the same command" in done.stderr
