"""GR00T's layers with weights for each robot, of which a run trains those of its own robots.

    N robots that the model knows   R robots of the run

The host gives every robot's weights a gradient and two moments, 0.3 B numbers at full size, though those of a robot
that no sample comes from have a gradient of exactly zero. Here the rows of the run's robots are the parameters, and
the whole tables wait in the machine's memory: a checkpoint has them whole, as the host's own.
"""

from __future__ import annotations

import logging
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, nn

from apt_plugin.errors import AptError

logger = logging.getLogger(__name__)
TABLES = ("W", "b")  # of the hosts' CategorySpecificLinear: [N, in, out] and [N, out]


class Robots:
    """The tables of one model. Made once, before it is moved to its device and before an optimizer asks for it.

    Args:
        head: its action head; robots: ids of those that the run's samples come from.
    """

    def __init__(self, head: nn.Module, robots: Iterable[int]):
        self.ids = torch.tensor(sorted(set(robots)))
        self.parameters: set[int] = set()  # ids of the parameters that are rows
        self.known = 0
        layers: list[Any] = [module for module in head.modules() if _is_table(module)]
        for layer in layers:
            self.known = len(layer.W)
            if len(self.ids) < self.known:
                self._take(layer)
        if self.parameters:
            logger.info("APT: each of %d robots has weights of its own; those of %d train.", self.known, len(self.ids))

    def _take(self, layer: Any) -> None:
        whole: dict[str, Tensor] = {name: _aside(getattr(layer, name)) for name in TABLES}
        place = torch.full((len(whole["W"]),), len(self.ids))  # of a robot without weights here: beyond the last row
        place[self.ids] = torch.arange(len(self.ids))
        for name in TABLES:
            parameter = nn.Parameter(getattr(layer, name).detach()[self.ids])
            setattr(layer, name, parameter)
            self.parameters.add(id(parameter))
        layer.register_buffer("apt_place", place, persistent=False)
        layer.register_forward_pre_hook(lambda layer, args: (args[0], layer.apt_place[args[1]], *args[2:]))

        def saved(_layer: Any, state: dict, prefix: str, _metadata: Any) -> None:
            for name in TABLES:
                rows = state[prefix + name].detach()
                table = whole[name].to(rows.dtype, copy=True)
                table[self.ids] = rows.to(table.device)
                state[prefix + name] = table

        def loaded(_layer: Any, state: dict, prefix: str, *_: Any) -> None:
            for name in TABLES:
                if (found := state.get(prefix + name)) is not None:
                    whole[name] = found.detach().to(whole[name], copy=True)
                    state[prefix + name] = found[self.ids.to(found.device)]

        layer.register_state_dict_post_hook(saved)
        layer.register_load_state_dict_pre_hook(loaded)

    def follow(self, optimizer: torch.optim.Optimizer) -> None:
        """Let an optimizer take up the moments of whole tables: a run that began before tables had rows."""
        optimizer.register_load_state_dict_pre_hook(self._rows_of_moments)

    def _rows_of_moments(self, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]) -> dict[str, Any]:
        moments = dict(state["state"])
        for group, stored in zip(optimizer.param_groups, state["param_groups"], strict=True):
            for parameter, key in zip(group["params"], stored["params"], strict=True):
                if id(parameter) in self.parameters and key in moments:
                    moments[key] = {name: self._rows(value, parameter) for name, value in moments[key].items()}
        return {**state, "state": moments}

    def _rows(self, value: Any, parameter: Tensor) -> Any:
        """
        Raises:
            AptError: the moments of other robots.
        """
        if not isinstance(value, Tensor) or value.dim() == 0 or value.shape == parameter.shape:
            return value
        if len(value) != self.known:
            raise AptError(
                f"This run began with the data of {len(value)} robots and would go on with {len(parameter)}: give it "
                "the same data, or start a new one."
            )
        return value[self.ids.to(value.device)]


def _aside(table: Tensor) -> Tensor:
    return table.detach() if table.is_meta else table.detach().cpu()


def _is_table(module: Any) -> bool:
    own = dict(module.named_parameters(recurse=False))
    return hasattr(module, "num_categories") and all(name in own and own[name].requires_grad for name in TABLES)
