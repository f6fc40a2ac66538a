"""One process of the host's script under the recipe: `python -m apt_plugin.hosts.openpi <script> <its flags>`.

Everything is inside `main`: openpi's data workers are spawned and import this module again under another name.
"""

from __future__ import annotations

import dataclasses
import importlib
import json
import logging
import os
import sys
from pathlib import Path
from typing import Any

from apt_plugin import files
from apt_plugin.errors import AptError
from apt_plugin.hosts.openpi import preload
from apt_plugin.hosts.openpi.launch import JOB
from apt_plugin.run.lock import only_one


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
            serve(script)
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
    """One stage, in the one process that may write to its folder."""
    config, prior = derived(job)
    with only_one(config.checkpoint_dir):
        run_stage(script, job, config, prior)


def run_stage(script: Path, job: dict[str, Any], config: Any, prior: Any) -> None:
    """Run the host's trainer, unless a resumed stage is finished; write where the result is."""
    from apt_plugin.hosts.openpi import loading
    from apt_plugin.stages import LIKELIHOOD

    if finished(config):
        logging.info("APT: Stage %d is finished in %s, going on.", job["stage"], config.checkpoint_dir)
    elif script.name == "train_pytorch.py":
        from apt_plugin.hosts.openpi import torch_training

        torch_training.run_stage(load_script(script), fresh_if_dead(config), prior)
    else:
        from apt_plugin.hosts.openpi import training
        from apt_plugin.hosts.openpi.cached_run import open_cache
        from apt_plugin.hosts.openpi.records import Run

        run = Run(config, cached=open_cache(config))
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
    # The PyTorch trainer saves its last step one step early
    return record.steps >= config.num_train_steps - record.host.endswith("pytorch")


def fresh_if_dead(config: Any) -> Any:
    """The PyTorch trainer cannot resume a run that died before its first checkpoint: such a stage starts anew."""
    from apt_plugin.hosts.openpi import loading

    if not config.resume:
        return config
    try:
        loading.checkpoint_of(config.checkpoint_dir)
    except AptError:
        logging.warning("APT: %s holds no whole checkpoint: this stage starts anew.", config.checkpoint_dir)
        return dataclasses.replace(config, resume=False)
    return config


def serve(script: Path) -> None:
    """The host's server; an APT checkpoint gets the config that its record asks for, any other is left alone."""
    import tyro
    from openpi.training import config as _config

    from apt_plugin.hosts.openpi import derive, loading

    module = load_script(script)
    args = tyro.cli(module.Args)
    folder = getattr(args.policy, "dir", None)
    if folder is not None and (Path(folder) / "assets" / "apt.json").is_file():
        step, record = loading.record_of(folder)
        name = args.policy.config
        stock = _config.get_config(name.removesuffix(f"_apt{record.stage}"))
        config = derive.derive(stock, record.stage, record.recipe)
        derive.register(config)
        args.policy.config = config.name
        logging.info("APT: serving Stage %d of %s from %s", record.stage, name, step)
    module.main(args)


if __name__ == "__main__":
    main()
