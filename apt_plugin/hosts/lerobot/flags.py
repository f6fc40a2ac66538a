"""The recipe in lerobot's own words: flags of the policy config, and the plain checkpoint that Stage 1 starts from."""

from __future__ import annotations

import json
import logging
from collections.abc import Sequence
from pathlib import Path

from apt_plugin import files
from apt_plugin.errors import AptError
from apt_plugin.hosts.lerobot.families import POLICIES, find, unsized
from apt_plugin.hosts.lerobot.probes import takes_autocast
from apt_plugin.hub import local_folder
from apt_plugin.probes import Package
from apt_plugin.recipe import Recipe, as_text
from apt_plugin.run.flags import Flags

logger = logging.getLogger(__name__)

AUTOCAST = "accelerator.mixed_precision"
# Of a plain checkpoint's config: what the new policy says itself.
_NOT_CARRIED = ("type", "pretrained_path", "input_features", "output_features", "model_params_fp32", "use_peft")


def recipe_flags(recipe: Recipe) -> dict[str, str]:
    """Every field of the recipe as a flag of the policy config: a stage never inherits one by accident."""
    return {f"policy.recipe.{name}": text for name, text in as_text(recipe).items()}


def precision_flags(flags: Flags) -> dict[str, str]:
    """On a GPU a policy trains in bfloat16 unless the user, or the checkpoint, says otherwise: lerobot's default of
    float32 takes Stage 1 of a full-size π0.5 beyond a 24 GB card."""
    family = find(flags.get("policy.type"))
    if family is None or not family.precision or flags.get(family.precision) is not None:
        return {}
    device = flags.get("policy.device")
    if device is None:
        from torch import cuda

        device = "cuda" if cuda.is_available() else "cpu"
    if not device.startswith("cuda"):
        return {}
    logger.info(
        "APT: --%s=bfloat16, so that Stage 1 fits a 24 GB card; write float32 for the host's default.", family.precision
    )
    return {family.precision: "bfloat16"}


def autocast_flags(flags: Flags, checkpoint: Path | None) -> dict[str, str]:
    """The host's own flag for bfloat16 autocast, wherever the policy is bfloat16: 0.6.1 read it off --policy.dtype, and
    main no longer does (three steps of a tiny π0.5 then end 4e-3 away).

    Args:
        flags: all of the process's; checkpoint: the folder whose config says what they do not.
    """
    package = Package.find("lerobot")
    if package is None or not takes_autocast(package) or flags.get(AUTOCAST) is not None:
        return {}
    dtype = flags.get("policy.dtype")
    if flags.get("resume") == "true" and checkpoint is not None:
        run = files.read_json(checkpoint / "train_config.json")
        if "accelerator" in run:  # begun on such a host: it goes on as it began
            return {}
        dtype = run["policy"].get("dtype")
    elif dtype is None and checkpoint is not None and (checkpoint / "config.json").is_file():
        dtype = files.read_json(checkpoint / "config.json").get("dtype")
    if dtype != "bfloat16":
        return {}
    logger.info("APT: --%s=bf16, because the policy's dtype is bfloat16.", AUTOCAST)
    return {AUTOCAST: "bf16"}


def source_flags(flags: Flags) -> Flags:
    """Turn the host's policy type, or a plain checkpoint named by --policy.path, into ours.

    Raises:
        AptError: a policy without a flow-matching action expert behind a VLM, or none named; adapters in place of a
            whole policy; the host's own switch for LoRA.
    """
    path = flags.get("policy.path")
    kind = flags.get("policy.type")
    if flags.get("policy.use_peft") == "true":  # 0.7 trains LoRA on this flag alone
        raise AptError(
            "--policy.use_peft=true asks the host for LoRA in both stages; the recipe has LoRA on the VLM, in Stage 2. "
            "Write --apt.vlm lora in its place (its settings are --peft.*)."
        )
    if path is not None:
        config = files.read_json(local_folder(path) / "config.json")
        kind = config.get("type")
        if config.get("use_peft"):
            raise AptError(
                f"{path} holds LoRA adapters (use_peft in its config.json), and Stage 1 starts from whole weights. "
                "Merge them into their base first (merge_and_unload of PEFT), or name the base in --policy.path."
            )
        carried = {
            f"policy.{k}": json.dumps(v) if isinstance(v, list | bool | dict) else str(v)
            for k, v in config.items()
            if k not in _NOT_CARRIED and v is not None
        }
        flags = flags.without("policy.path")
        named = {k: v for k, v in carried.items() if flags.get(k) is None}
        flags = flags.with_({**named, "policy.pretrained_path": path})
    if kind is None:
        raise AptError("Which policy? Write --policy.type=pi05 --policy.pretrained_path=lerobot/pi05_base (or pi0).")
    ours = POLICIES.get(unsized(kind), kind)
    if find(kind) is None:
        raise AptError(
            f"The recipe needs a VLM with a flow-matching action expert; in lerobot that is {', '.join(POLICIES)}. "
            f"--policy.type is {kind!r}."
        )
    return flags.with_({"policy.type": ours})


def check_here(flags: Flags) -> None:
    """
    Raises:
        AptError: the host is told to train on a machine of somebody else's, where this plugin is not.
    """
    if (place := flags.get("job.target")) not in (None, "local"):
        raise AptError(
            f"--job.target is {place!r}, and stages, proofs and records are made by this plugin, which is on this "
            "machine. Drop it, and start the command on the machine that trains."
        )


def check_warmed(tokens: Sequence[str]) -> None:
    """
    Raises:
        AptError: a warm-up of a policy whose VLM nobody knows, or of one of ours; see `check_here`.
    """
    flags = Flags.read(tokens)
    check_here(flags)
    kind = flags.get("policy.type")
    if kind is None and (path := flags.get("policy.path")) is not None:
        kind = str(files.read_json(local_folder(path) / "config.json").get("type"))
    if kind is not None and unsized(kind) not in POLICIES:
        raise AptError(
            f"--recipe warmup trains a policy of lerobot's own with a VLM, which is {', '.join(POLICIES)}; this is "
            f"{kind!r}. Name one of those, or drop --recipe warmup."
        )
