"""`apt-plugin patch <host> --as-branch NAME`: patches as commits that can be pushed, made in the user's own checkout.

What is committed here stays a zero-context diff, a test of ours and a text. The commits, which hold lines of the host,
come to be on the user's machine alone, in a temporary work tree; the branch is made last.
"""

from __future__ import annotations

import email
import hashlib
import importlib.util
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from apt_plugin import patching, pulls_format
from apt_plugin.errors import AptError

_MAINS = ("upstream/main", "origin/main", "main")
_RED, _GREEN = 1, 0  # pytest: tests ran and some failed; all passed (2 to 5: it could not run them)


@dataclass(frozen=True)
class Pull:
    """What a pull request needs beside its diff.

    Args:
        patch: file name in the host's folder.
        subject, body: the commit's message, in the project's style.
        test: where the test goes, below the checkout; its text lies in `tests/` under the same name.
        text: the pull request's, for the user to read, change and send.
    """

    patch: str
    subject: str
    body: str
    test: str
    text: str

    @classmethod
    def read(cls, folder: Path, patch: str) -> Pull:
        """`pulls/<patch's name>.md`: the headers Subject and Test, the message, a line `---`, the pull request."""
        message = email.message_from_string((folder / "pulls" / patch).with_suffix(".md").read_text())
        body, _, text = str(message.get_payload()).partition("\n---\n")
        return cls(patch, message["Subject"], body.strip(), message["Test"], text.strip())


class Checkout:
    """A git checkout of a host, asked and changed through git alone."""

    def __init__(self, root: Path):
        self.root = root

    def git(self, *command: str) -> str:
        """What git prints.

        Raises:
            AptError: git refuses; its last lines say why.
        """
        # Large files of the host are no part of a patch: their pointers do.
        environment = os.environ | {"GIT_LFS_SKIP_SMUDGE": "1"}
        done = subprocess.run(
            ["git", "-C", str(self.root), *command], env=environment, capture_output=True, text=True, check=False
        )
        if done.returncode:
            raise AptError(f"git {' '.join(command)} in {self.root}: {_tail(done.stdout + done.stderr)}")
        return done.stdout

    def has(self, revision: str) -> bool:
        """Whether a name stands for a commit there."""
        try:
            return bool(self.git("rev-parse", "--verify", "--quiet", f"{revision}^{{commit}}"))
        except AptError:
            return False

    def holds(self, revision: str, file: str) -> bool:
        """Whether a commit has a file."""
        try:
            self.git("cat-file", "-e", f"{revision}:{file}")
        except AptError:
            return False
        return True

    @contextmanager
    def beside(self, revision: str) -> Iterator[Checkout]:
        """A temporary work tree at a commit, gone afterwards whatever happens; the checkout's own files stay."""
        with tempfile.TemporaryDirectory(prefix="apt-patch-") as folder:
            place = Path(folder) / self.root.name
            self.git("worktree", "add", "--detach", str(place), revision)
            try:
                yield Checkout(place)
            finally:
                self.git("worktree", "remove", "--force", str(place))


def run(host: str, checkout: Path | None, name: str, only: Sequence[int] = (), base: str = "") -> str:
    """One commit a patch on a new branch; returns what was done and the text of each pull request.

    Args:
        checkout: where the host's git checkout is; None: the one that its package is imported from.
        name: of the branch; only: numbers of patches, all where empty; base: a commit, by default the host's main.

    Raises:
        AptError: something stands in the way; neither branch nor file was changed then.
    """
    if importlib.util.find_spec("pytest") is None:
        raise AptError(
            "pytest is not installed here, and --as-branch runs the test of each patch without and with it. Run this "
            "in the host's own environment, with pytest in it: pip install pytest."
        )
    folder = patching.folder_of(host)
    own = Checkout(checkout or patching.checkout_of(host))
    index = patching.Series(host, own.root).index
    pulls = [Pull.read(folder, patch) for patch in _chosen(index["patches"], only)]
    base = _checked(own, name, base)
    if not any(own.holds(base, file) for file in index["files"]):  # pip installs into a .venv of any project
        raise AptError(
            f"{own.root} is no checkout of {host}: {base} has no {' nor '.join(index['files'])}. "
            "Name the host's own clone: --checkout PATH."
        )
    with own.beside(base) as tree:
        for pull in pulls:
            _unchanged(tree, folder, pull, index, base)
        done = [_commit(tree, folder, pull, index["source"]) for pull in pulls]
        own.git("branch", name, tree.git("rev-parse", "HEAD").strip())
    head = f"Branch {name} in {own.root}: {len(pulls)} commit{'s' * (len(pulls) > 1)} on {base}, by {_author(own)}."
    last = (
        f"Nothing was sent. Read the commits (git log -p {base}..{name}), run pre-commit, change the text to what you "
        f"would say, then git push <your fork> {name}."
    )
    return "\n\n".join([head, *done, last])


def _chosen(patches: list[str], only: Sequence[int]) -> list[str]:
    known = {int(patch.partition("-")[0]): patch for patch in patches}
    if unknown := sorted(set(only) - set(known)):
        names = ", ".join(patch.removesuffix(".patch") for patch in patches)
        raise AptError(f"--only {unknown[0]} names no patch. There are: {names}.")
    return [patch for number, patch in known.items() if not only or number in only]


def _checked(own: Checkout, name: str, base: str) -> str:
    """The commit to start from, by name, once nothing stands in the way."""
    if not (own.root / ".git").exists():
        raise AptError(f"{own.root} is no git checkout, so it can have no branch. Clone the host, --checkout PATH.")
    try:
        own.git("check-ref-format", "--branch", name)
    except AptError:
        raise AptError(f"--as-branch {name!r} is no name that git takes for a branch. Write e.g. fix/ema.") from None
    if own.has(f"refs/heads/{name}"):
        raise AptError(f"{own.root} has a branch {name}. Write another name, or delete it: git branch -D {name}.")
    if changed := own.git("status", "--porcelain", "--untracked-files=no").split("\n")[0]:
        raise AptError(f"{own.root} has changes of yours ({changed.strip()}). Commit or stash them first.")
    _author(own)
    places = (base,) if base else _MAINS
    if found := next((place for place in places if own.has(place)), ""):
        return found
    raise AptError(f"{own.root} has no {' or '.join(places)}. Name the commit to start from: --base COMMIT.")


def _author(own: Checkout) -> str:
    try:  # git would make one up from the machine's name
        return own.git("-c", "user.useConfigOnly=true", "var", "GIT_AUTHOR_IDENT").rpartition(" ")[0].rpartition(" ")[0]
    except AptError:
        raise AptError(
            'git does not know who you are. Write git config --global user.name "..." and user.email "..." first.'
        ) from None


def _unchanged(tree: Checkout, folder: Path, pull: Pull, index: dict, base: str) -> None:
    """The files that a patch changes are those it was made for."""
    for name in patching.parse((folder / pull.patch).read_text()):
        path = tree.root / name
        seen = hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "missing"
        if seen != index["files"][name]["before"]:
            raise AptError(
                f"{name} at {base} is not what {pull.patch} was made for ({index['host']} {index['commit'][:7]}). "
                f"Leave it out with --only, or start where it was: --base {index['commit'][:7]}."
            )
    if (tree.root / pull.test).exists():
        raise AptError(f"{base} has a file {pull.test}, where the test of {pull.patch} goes. Has it been merged?")


def _commit(tree: Checkout, folder: Path, pull: Pull, source: str) -> str:
    """One commit: the test fails, the patch is applied, both are formatted, the test passes.

    Returns:
        What was done and the pull request's text.
    """
    test = tree.root / pull.test
    test.parent.mkdir(parents=True, exist_ok=True)
    test.write_text((folder / "tests" / test.name).read_text())
    before = _tested(tree, pull, source, _RED, "does not fail without it")
    names = [pull.test]
    for name, hunks in patching.parse((folder / pull.patch).read_text()).items():
        path = tree.root / name
        path.write_text(patching.apply(path.read_text(), hunks, name))
        names.append(name)
    formatted = pulls_format.format_files(tree.root, names)
    after = _tested(tree, pull, source, _GREEN, "does not pass with it")
    tree.git("add", "--", *names)
    tree.git("commit", "--quiet", "--message", pull.subject, "--message", pull.body)
    title = f"=== {pull.patch.removesuffix('.patch')}: {pull.subject}"
    facts = f"{pull.test}: {before} without it, {after} with it. {formatted}"
    return f"{title}\n{facts}\n\n{pull.text}"


def _tested(tree: Checkout, pull: Pull, source: str, wanted: int, otherwise: str) -> str:
    """pytest's last line on the test of a pull request.

    Raises:
        AptError: it ended in another way than wanted.
    """
    paths = [str(tree.root / source), str(tree.root), os.environ.get("PYTHONPATH", "")]
    # A patch that keeps a file's size within a second of it would be tested on the bytecode from before.
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths)), "PYTHONDONTWRITEBYTECODE": "1"}
    # Options of the host's own run (reports, workers, time-outs) may need what is not installed here.
    command = [sys.executable, "-m", "pytest", "-q", "-o", "addopts=", "-p", "no:cacheprovider", pull.test]
    done = subprocess.run(command, cwd=tree.root, env=environment, capture_output=True, text=True, check=False)
    if done.returncode != wanted:
        raise AptError(
            f"{pull.patch}: its test {otherwise} here, so no branch was made. Run this in the host's own environment. "
            f"The end of {' '.join(command[2:])}:\n{_tail(done.stdout + done.stderr, 20)}"
        )
    return done.stdout.strip().rpartition("\n")[2].strip("= ").partition(" in ")[0]


def _tail(text: str, lines: int = 3) -> str:
    return "\n".join(text.strip().splitlines()[-lines:])
