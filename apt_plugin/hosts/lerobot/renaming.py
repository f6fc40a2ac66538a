"""`--rename_map` under the recipe. Imports no host before it is called.

lerobot puts the map into processors that it loads from `pretrained_path`, and the recipe resets that path: the saved
processors of a base write another prompt. So the launcher's process remembers the map and puts it in itself.
"""

from __future__ import annotations

import inspect
import logging
from collections.abc import Mapping
from typing import Any

from apt_plugin.errors import AptError

logger = logging.getLogger(__name__)


def of(config: Any) -> dict[str, str]:
    """The map of this training run: name in the data -> name in the policy."""
    return dict(getattr(config, "_apt_rename_map", None) or {})


def by_steps(preprocessor: Any) -> dict[str, str]:
    """The map that a saved processor applies: name in the data -> name in the policy."""
    names: dict[str, str] = {}
    for step in preprocessor.steps:
        names |= getattr(step, "rename_map", None) or {}
    return names


def chunks(config: Any, meta: Any, names: Mapping[str, str]) -> Any:
    """Which moments of each feature the policy reads, by the host: {name in the data: seconds}.

    Args:
        config: the policy's; meta: the data set's; names: the map, followed where the host follows one (main).
    """
    from lerobot.datasets.factory import resolve_delta_timestamps

    given: dict[str, Any] = {"rename_map": dict(names)}
    takes = inspect.signature(resolve_delta_timestamps).parameters
    return resolve_delta_timestamps(config, meta, **{k: v for k, v in given.items() if k in takes})


def policy(host: Any) -> Any:
    """lerobot's make_policy, which tells the policy nothing of the map and takes its cameras' names from the data."""

    def make_policy(cfg: Any, ds_meta: Any = None, env_cfg: Any = None, rename_map: Any = None, **more: Any) -> Any:
        from lerobot.configs import FeatureType
        from lerobot.utils.feature_utils import dataset_to_policy_features

        if rename_map and hasattr(cfg, "recipe"):
            cfg._apt_rename_map = dict(rename_map)
            if not cfg.input_features and ds_meta is not None:
                found = dataset_to_policy_features(ds_meta.features)
                cfg.input_features = {
                    rename_map.get(n, n): f for n, f in found.items() if f.type is not FeatureType.ACTION
                }
        return host(cfg=cfg, ds_meta=ds_meta, env_cfg=env_cfg, rename_map=rename_map, **more)

    return make_policy


def processors(host: Any) -> Any:
    """lerobot's make_pre_post_processors, with the map in the step that renames."""

    def make_pre_post_processors(policy_cfg: Any, *args: Any, **kwargs: Any) -> Any:
        made = host(policy_cfg, *args, **kwargs)
        names = of(policy_cfg)
        for step in made[0].steps if names else ():
            if hasattr(step, "rename_map") and step.rename_map != names:
                step.rename_map = names
                logger.info("APT: --rename_map put into the policy's processor: %s", names)
        return made

    return make_pre_post_processors


def check_cameras(config: Any, features: Mapping[str, Any]) -> None:
    """Cameras that the policy reads under names that the data lack, while the data have others that it does not read.

    Raises:
        AptError: the host would fill them with black and train on.
    """
    names = of(config)
    have = {names.get(name, name) for name, feature in features.items() if feature["dtype"] in ("image", "video")}
    wanted = {name for name in config.image_features or () if "empty_camera" not in name}
    if (missing := wanted - have) and (unread := have - wanted):
        raise AptError(
            f"The policy reads {', '.join(sorted(missing))}, which the data lack; they have {', '.join(sorted(unread))}"
            ", which it does not read. Say which is which: apt-plugin run lerobot-train ... "
            f'--rename_map=\'{{"{min(unread)}": "{min(missing)}"}}\' (without apt-plugin run the map is not applied).'
        )
