"""Both stages under random SIGKILLs and resumes, against the same run left alone: python -m tests.hosts.lerobot.soak

The killed run's final weights and loss curves equal the other's bit for bit, and it leaves no file but whole ones.
The short form is a test (test_soak.py); the long one takes 2,000 steps of each stage.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from apt_plugin.cache.building import verify
from apt_plugin.stages import read_record
from tests import processes
from tests.hosts.lerobot import datasets, tiny

HERE = Path(__file__).resolve().parents[3]


def command(work: Path, name: str, steps: int, save: int, cache: bool) -> list[str]:
    flags = datasets.flags(work / "labelled", str(work / "tok"), steps=steps, save_freq=save, output_dir=work / name)
    flags = [f"--log_freq={steps}" if flag.startswith("--log_freq") else flag for flag in flags]
    more = ["--apt.cache", str(work / f"{name}-cache"), "--apt.vlm=frozen"] if cache else []
    return [
        sys.executable, "-m", "apt_plugin", "run", "lerobot-train", "--policy.type=pi05",
        f"--policy.pretrained_path={work / 'plain'}", *flags, "--resume=true", "--recipe", "apt",
        "--apt.prove=false", "--apt.listen=0", f"--apt.stage1.steps={steps}", f"--apt.stage2.steps={steps}", *more,
    ]  # fmt: skip


def start(arguments: list[str], log: Path) -> subprocess.Popen:
    environment = {**datasets.ENVIRONMENT, "PYTHONPATH": str(HERE)}
    with open(log, "ab") as file:
        return processes.start(arguments, env=environment, stdout=file, stderr=file)


def progress(run: Path) -> int:
    """Something that grows whenever the run gets anywhere: files of a cache, checkpoints of both stages."""
    return len(list(run.glob("stage*/checkpoints/[0-9]*"))) + len(
        list(run.with_name(f"{run.name}-cache").rglob("*.json"))
    )


def soak(work: Path, steps: int, save: int, kills: int, cache: bool, seed: int = 0) -> dict:
    """Run both; what they had in common and what was left lying."""
    if not (work / "labelled").exists():  # a second soak may be held against the same run left alone
        tiny.tokenizer(work / "tok")
        tiny.stock_checkpoint(work / "plain", "pi05")
        datasets.write(work / "labelled", ["pick up the red cup", "push the blue block", "place green"])
    if start(command(work, "alone", steps, save, cache), work / "alone.log").wait():
        raise SystemExit((work / "alone.log").read_text()[-3000:])
    rng, done, restarts, began = random.Random(seed), 0, 0, time.time()
    while True:
        process = start(command(work, "killed", steps, save, cache), work / "killed.log")
        restarts += 1
        if done < kills:
            # Half of the kills fall at once after something was written, near a write of the next.
            before, limit = progress(work / "killed"), time.time() + 300
            while process.poll() is None and progress(work / "killed") == before and time.time() < limit:
                time.sleep(0.02)
            time.sleep(rng.choice([0.0, rng.uniform(0, 0.3), rng.uniform(0, 3 * save * 0.06)]))
            if process.poll() is None:
                os.killpg(process.pid, signal.SIGKILL)
                done += 1
        if (status := process.wait()) == 0:
            break
        if status != -signal.SIGKILL:
            raise SystemExit((work / "killed.log").read_text()[-3000:])
    return {"kills": done, "restarts": restarts, "seconds": round(time.time() - began)} | compare(work, steps, cache)


def compare(work: Path, steps: int, cache: bool) -> dict:
    out: dict = {"steps": steps, "equal": {}, "stray": stray(work)}
    for stage in (1, 2):
        folders = [work / name / f"stage{stage}/checkpoints/last/pretrained_model" for name in ("alone", "killed")]
        digests = [hashlib.sha256((folder / "model.safetensors").read_bytes()).hexdigest() for folder in folders]
        records = [read_record(folder) for folder in folders]
        out["equal"][f"stage {stage} weights"] = digests[0] == digests[1]
        out["equal"][f"stage {stage} curve"] = records[0].curve == records[1].curve
        out["equal"][f"stage {stage} took all steps"] = [record.steps for record in records] == [steps, steps]
        if cache:
            shards = [sorted((work / f"{n}-cache/stage{stage}").iterdir()) for n in ("alone", "killed")]
            same = [[p.read_bytes() for p in part] for part in shards]
            out["equal"][f"stage {stage} cache"] = same[0] == same[1] and not verify(shards[0][0].parent)[0]
    return out


def stray(work: Path) -> list[str]:
    """Files of the killed run that the other has not, and whatever looks like half of one."""
    names = []
    for root in ("", "-cache"):
        alone, killed = (
            {p.relative_to(work / f"{n}{root}").as_posix() for p in (work / f"{n}{root}").rglob("*")}
            for n in ("alone", "killed")
        )
        dead = {name for name in killed if ".unfinished-" in name}  # a first checkpoint that was hit: kept, and said
        names += sorted(killed - dead ^ alone)
        names += [n for n in killed if Path(n).name.startswith(".") or n.endswith((".tmp", ".lock"))]
    return names


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--steps", type=int, default=2000)
    parser.add_argument("--save", type=int, default=100)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--cache", action="store_true")
    parser.add_argument("--work", type=Path)
    args = parser.parse_args()
    work = args.work or Path(tempfile.mkdtemp(prefix="soak-"))
    work.mkdir(parents=True, exist_ok=True)
    result = soak(work, args.steps, args.save, args.kills, args.cache)
    print(json.dumps(result, indent=1))
    sys.exit(0 if all(result["equal"].values()) and not result["stray"] else 1)


if __name__ == "__main__":
    main()
