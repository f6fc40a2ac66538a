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
from apt_plugin.arguments import in_words
from apt_plugin.errors import choose
from apt_plugin.hosts import HOSTS
from apt_plugin.hosts.openpi import checkpoints, preload
from apt_plugin.hosts.openpi.programs import JOB
from apt_plugin.launch import acting_as
from apt_plugin.recipe import flatten, from_flat
from apt_plugin.run.warmup import look
from apt_plugin.stages import PRIOR

logger = logging.getLogger(__name__)


def load_script(path: Path) -> Any:
    """Import scripts/<name>.py of a checkout: a package there, but not part of the wheel."""
    sys.path.insert(0, str(path.resolve().parent.parent))
    return importlib.import_module(f"scripts.{path.stem}")


def main() -> None:
    logging.basicConfig(level=logging.INFO, format="%(message)s", force=True)
    script, job = Path(sys.argv[1]), json.loads(os.environ.get(JOB, '{"do": "serve"}'))
    sys.argv = [str(script), *sys.argv[2:]]
    preload()
    with in_words():
        host = HOSTS["openpi"]
        host.require() if job["do"] == "serve" else host.require_training()
        if job["do"] == "serve":
            serve(script, job.get("acting", {}))
        elif job["do"] == "plan":
            plan(script, job)
        elif job["do"] == "pilot":
            from apt_plugin.hosts.openpi import pilot

            pilot.facts(job["flags"], Path(job["answer"]), script.name == "train_pytorch.py")
        elif job["do"] == "host":
            as_it_is(script)
        elif job["do"] == "train":
            train(script, job)
        elif job["do"] == "warmup":
            warm_up(script, job["share"])
        else:
            cache(script, job)


def plan(script: Path, job: dict[str, Any]) -> None:
    """Where the stages of a run lie, how long they are, by which recipe, and their facts. What flags are refused for is
    refused here, before any step."""
    from apt_plugin.hosts.openpi import derive, preflight, schedule

    def parsed(stage: str, *flags: str) -> Any:
        return preflight.parsed(stage, [*job["flags"], *flags])

    own, wanted = job["own"], tuple(job["wanted"])
    whole = parsed(wanted[-1], *schedule.tokens(schedule.without_lengths(own[wanted[-1]])))
    budget = schedule.plan(whole, wanted, job["share"], own)
    stocks = {s: parsed(s, *schedule.tokens(budget.flags[s]), *schedule.tokens(own[s])) for s in wanted}
    torch = script.name == "train_pytorch.py"
    recipe = derive.as_host(stocks[wanted[-1]], from_flat(flatten(job["recipe"])), torch)
    if "1" in stocks:
        derive.derive(stocks["1"], PRIOR, recipe)
        if "2" in stocks:
            derive.check_next(stocks["1"], stocks["2"], recipe)
    last = list(stocks.values())[-1]

    def folder(stock: Any, ending: str) -> str:
        return str((Path(stock.checkpoint_base_dir) / f"{stock.name}_apt{ending}" / stock.exp_name).resolve())

    stages = {stage: {"resume": stock.resume, "steps": stock.num_train_steps} for stage, stock in stocks.items()}
    folders = {stage: folder(stocks.get(stage, last), stage) for stage in ("1", "2")}
    gathered = {stage: preflight.facts_of(stage, stock, recipe, torch) for stage, stock in stocks.items()}
    answer = {"output": folder(last, ""), "stages": stages, "folders": folders, "facts": gathered}
    answer |= {"budget": dataclasses.asdict(budget), "recipe": dataclasses.asdict(recipe)}
    files.write_json(Path(job["answer"]), answer)


def derived(job: dict[str, Any]) -> tuple[Any, Any]:
    """(the config of a job's stage, where its Stage-1 result is), from the host's own flags."""
    from openpi.training import config as _config

    from apt_plugin.hosts.openpi import derive

    config = derive.derive(_config.cli(), job["stage"], from_flat(flatten(job["recipe"])), job["prior"])
    derive.register(config)
    return config, job["prior"]


def cache(script: Path, job: dict[str, Any]) -> None:
    """Build or verify the feature cache of one stage."""
    import jax

    from apt_plugin.cache import Worker, encoder
    from apt_plugin.hosts.openpi import training
    from apt_plugin.hosts.openpi.cached_build import Encoder

    config, _ = derived(job)
    training.mix_data(config)
    source = Encoder(load_script(script), config)
    if job["do"] == "build":
        encoder.make(source, Worker(jax.process_index(), jax.process_count()))
    else:
        logger.info(encoder.compare(source))


def train(script: Path, job: dict[str, Any]) -> None:
    config, prior = derived(job)
    if script.name == "train_pytorch.py":
        from apt_plugin.hosts.openpi import torch_training

        torch_training.run_stage(load_script(script), fresh_if_dead(config), prior)
    else:
        from apt_plugin.hosts.openpi import training
        from apt_plugin.hosts.openpi.cached_run import open_cache
        from apt_plugin.hosts.openpi.records import Run

        run = Run(config, cached=open_cache(config))
        run.begin(prior)
        module = load_script(script)
        training.install(module, run)
        module.main(config)


def warm_up(script: Path, share: float) -> None:
    """The host's own training and config, whose VLM begins to train on the way."""
    from openpi.training import config as _config

    from apt_plugin.hosts.openpi import preflight, warmup
    from apt_plugin.hosts.openpi.training import REPLACED

    config, torch = _config.cli(), script.name == "train_pytorch.py"
    warmup.check(config, torch)
    look(lambda: preflight.own(config, torch), share)
    module = load_script(script)
    if torch:
        from apt_plugin.hosts.openpi import torch_warmup

        torch_warmup.install(module, config, share, REPLACED)
        module.init_logging()
        module.train_loop(config)
    else:
        warmup.install(module, config, share, REPLACED)
        module.main(config)


def as_it_is(script: Path) -> None:
    """The host's own training, with the configs of APT_PRELOAD beside its own."""
    from openpi.training import config as _config

    module = load_script(script)
    module.main() if script.name == "train_pytorch.py" else module.main(_config.cli())


def fresh_if_dead(config: Any) -> Any:
    """The PyTorch trainer cannot resume a run that died before its first checkpoint: such a stage starts anew."""
    if config.resume and checkpoints.last_whole(config.checkpoint_dir) is None:
        return dataclasses.replace(config, resume=False)
    return config


def serve(script: Path, chosen: dict[str, Any]) -> None:
    """The host's server; an APT checkpoint gets the config that it was trained with, any other is left alone.

    Args:
        chosen: recipe fields to act with instead of the checkpoint's; of a stock one, the guidance.

    Raises:
        AptError: such a field, and a Stage 1 that could not follow it; a stock model without flow matching.
    """
    import tyro
    from openpi.training import config as _config

    from apt_plugin.hosts.openpi import derive, serving
    from apt_plugin.hosts.openpi.trained import as_trained

    module = load_script(script)
    args = tyro.cli(module.Args)
    folder = getattr(args.policy, "dir", None)
    if folder is not None and checkpoints.holds_record(folder):
        step, record = checkpoints.record_of(folder)
        name = args.policy.config.removesuffix(f"_apt{record.stage}")
        stock = _config._CONFIGS_DICT[choose("--policy.config", name, _config._CONFIGS_DICT)]
        serving.keep_connections()
        config = as_trained(stock, step, record, acting_as(record.recipe, record.stage, chosen))
        derive.register(config)
        args.policy.config, args.policy.dir = config.name, str(step)
        logger.info("APT: serving Stage %d of %s from %s", record.stage, name, step)
    elif chosen:
        from apt_plugin.hosts.openpi import guidance

        guidance.install(chosen["guidance_scale"])
    module.main(args)


if __name__ == "__main__":
    main()
