"""Model cards by lerobot's own template: by the policy in 0.6.1, on main by a function that sees the config alone."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

from huggingface_hub import ModelCard
from lerobot.common import train_utils

from apt_plugin import card
from apt_plugin.hosts.lerobot import families
from apt_plugin.hosts.lerobot.groups import vlm_digest
from apt_plugin.run.replace import replaced

FUNCTION = "generate_model_card"  # of train_utils, on main
SERVED = (
    'To run it, install the policy beside lerobot: `pip install "apt-plugin[lerobot]"`. Without it lerobot refuses.'
)


def by_config() -> bool:
    """Whether the host writes a card of a config, and asks no policy."""
    return hasattr(train_utils, FUNCTION)


def described(policy: Any, made: ModelCard, cfg: Any) -> ModelCard:
    """The host's card with our section: how the recipe trained this policy.

    Args:
        made: of the stock policy that it was made from. cfg: the training's config; None where nobody has it.
    """
    run = getattr(cfg, "output_dir", None)
    proofs = card.proofs_of(Path(run).parent) if run else None
    record = policy.apt_run.record(vlm=vlm_digest(policy), weights="", layout="")
    data: Any = made.data  # the type checker does not see its fields
    data.base_model = card.published(record.base)  # the host names its default of the family
    made.text = re.sub(r"(?<=\*\*Fine-tuned from:\*\* ).*", lambda _: card.began(record.base), made.text)
    made.text = card.put(made.text, card.TRAINED, f"{card.trained(record, proofs)}\n{SERVED}")
    made.text = card.put(made.text, card.HEARD, card.UNHEARD)
    return made


def tags(kind: str, own: list[str] | None) -> list[str]:
    """Of a policy of ours."""
    return [*(own or []), kind, "apt"]


class _AsStock:
    """A config of ours under the name of the policy type that it was made from: the host's template knows that one."""

    def __init__(self, config: Any):
        self._config = config
        self.type, self.tags = families.host_type(config.type), tags(config.type, config.tags)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._config, name)


def with_recipe(host: Callable[..., ModelCard]) -> Callable[..., ModelCard]:
    """Main's function, which tells of our policies what `described` adds."""

    def generate_model_card(model_cfg: Any, cfg: Any = None, *rest: Any, **more: Any) -> ModelCard:
        ours = getattr(model_cfg, "_apt_card", None)
        if ours is None:
            return host(model_cfg, cfg, *rest, **more)
        return ours(host(_AsStock(model_cfg), cfg, *rest, **more), cfg)

    return generate_model_card


def fresh(policy: Any, dataset: str) -> str:
    """A card of a policy that is asked, not trained; `dataset`: what it was asked on."""
    config = policy.config
    with replaced(ModelCard, "validate", lambda *_: None):  # by the hub, where it is pushed
        if not by_config():
            return str(policy.generate_model_card(dataset, config.type, config.license, config.tags))
        made: Any = with_recipe(getattr(train_utils, FUNCTION))(config)
        made.data.datasets = dataset
        return str(made)
