"""One process of the host's script under the recipe: `python -m apt_plugin.hosts.openpi <script> <its flags>`.

Everything is inside `main`: openpi's data workers are spawned and import this module again under another name.
"""

from __future__ import annotations

import importlib
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from apt_plugin import files
from apt_plugin.errors import AptError, choose
from apt_plugin.hosts.openpi import preload
from apt_plugin.hosts.openpi.launch import JOB
from apt_plugin.launch import acting_as


def load_script(path: Path) -> Any:
    """Import scripts/<name>.py of a checkout: a package there, but not part of the wheel."""
    sys.path.insert(0, str(path.resolve().parent.parent))
    return importlib.import_module(f"scripts.{path.stem}")


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    script, job = Path(sys.argv[1]), json.loads(os.environ.get(JOB, '{"do": "serve"}'))
    sys.argv = [str(script), *sys.argv[2:]]
    preload()
    try:
        if job["do"] == "serve":
            serve(script, job.get("acting", {}))
        elif job["do"] == "train":
            train(script, job)
        else:
            cache(script, job)
    except AptError as error:
        sys.exit(f"apt-plugin: {error}")


def derived(job: dict[str, Any]) -> tuple[Any, Any]:
    """(the config of a job's stage, where its Stage-1 result is), from the host's own flags."""
    from openpi.training import config as _config

    from apt_plugin.hosts.openpi import derive
    from apt_plugin.recipe import flatten, from_flat
    from apt_plugin.stages import LIKELIHOOD

    stock = _config.cli()
    recipe, prior = from_flat(flatten(job["recipe"])), job.get("prior")
    if job["stage"] == LIKELIHOOD and prior is None:
        prior = Path(stock.checkpoint_base_dir) / derive.name_of(stock.name, 1) / stock.exp_name
    config = derive.derive(stock, job["stage"], recipe, prior)
    derive.register(config)
    return config, prior


def cache(script: Path, job: dict[str, Any]) -> None:
    """Build or verify the feature cache of one stage."""
    from apt_plugin.hosts.openpi import training
    from apt_plugin.hosts.openpi.cached_build import Encoder

    config, _ = derived(job)
    if job["do"] == "build" and finished(config):
        return
    training.mix_data(config)
    encoder = Encoder(load_script(script), config)
    encoder.build() if job["do"] == "build" else encoder.verify()


def train(script: Path, job: dict[str, Any]) -> None:
    from apt_plugin.hosts.openpi import loading
    from apt_plugin.stages import LIKELIHOOD

    config, prior = derived(job)
    if finished(config):
        logging.info("APT: Stage %d is finished in %s, going on.", job["stage"], config.checkpoint_dir)
    elif script.name == "train_pytorch.py":
        from apt_plugin.hosts.openpi.torch_training import run_stage

        run_stage(load_script(script), config, prior)
    else:
        from apt_plugin.hosts.openpi import training
        from apt_plugin.hosts.openpi.cached_run import open_cache
        from apt_plugin.hosts.openpi.records import Run

        run = Run(config, cached=open_cache(config))
        assert run.facts  # asked now: what it refuses is refused before a step
        if job["stage"] == LIKELIHOOD:
            folder, record = loading.record_of(prior)
            run.stage1 = {
                "path": str(folder), "weights": record.weights, "vlm": record.vlm, "steps": record.steps,
            }  # fmt: skip
        module = load_script(script)
        training.install(module, run)
        module.main(config)
    if "answer" in job and int(os.environ.get("RANK", "0")) == 0:
        files.write_json(Path(job["answer"]), {"checkpoint": str(loading.checkpoint_of(config.checkpoint_dir))})


def finished(config: Any) -> bool:
    """Whether this stage already took all its steps (only a resumed run looks)."""
    from apt_plugin.hosts.openpi import loading

    if not config.resume:
        return False
    try:
        record = loading.record_of(config.checkpoint_dir)[1]
    except AptError:
        return False
    return record.steps >= config.num_train_steps


def serve(script: Path, chosen: dict[str, Any]) -> None:
    """The host's server; an APT checkpoint gets the config that it was trained with, any other is left alone.

    Args:
        chosen: recipe fields to act with instead of the checkpoint's.

    Raises:
        AptError: such a field, and no Stage 2 that could follow it.
    """
    import tyro
    from openpi.training import config as _config

    from apt_plugin.hosts.openpi import derive, loading
    from apt_plugin.hosts.openpi.trained import as_trained

    module = load_script(script)
    args = tyro.cli(module.Args)
    folder = getattr(args.policy, "dir", None)
    if folder is not None and loading.holds_record(folder):
        step, record = loading.record_of(folder)
        name = args.policy.config.removesuffix(f"_apt{record.stage}")
        stock = _config._CONFIGS_DICT[choose("--policy.config", name, _config._CONFIGS_DICT)]
        config = as_trained(stock, step, record, acting_as(record.recipe, record.stage, chosen))
        derive.register(config)
        args.policy.config, args.policy.dir = config.name, str(step)
        logging.info("APT: serving Stage %d of %s from %s", record.stage, name, step)
    elif chosen:
        raise AptError(f"--apt.{next(iter(chosen))} needs an APT checkpoint of Stage 2, and {folder} is none.")
    module.main(args)


if __name__ == "__main__":
    main()
