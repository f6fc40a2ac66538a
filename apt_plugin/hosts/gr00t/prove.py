"""An Isaac GR00T checkpoint opened for `apt_plugin.proofs`."""

from __future__ import annotations

import gc
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from apt_plugin import freeze
from apt_plugin.backends.torch_groot_subject import GrootSubject
from apt_plugin.backends.torch_params import shapes
from apt_plugin.hosts.gr00t import records, register
from apt_plugin.hosts.gr00t.checkpoints import openable
from apt_plugin.run.child import refusal
from apt_plugin.stages import LIKELIHOOD, read_record

CAMERAS, SIDE = 2, 256


class Gr00tSubject(GrootSubject):
    """One model with its own tokenizer and image processor, through the host's chat template and collator."""

    def __init__(
        self, model: Any, processor: Any, folder: Path, tree: dict[str, tuple], embodiments: Sequence[int] = (0,)
    ):
        """
        Args:
            embodiments: ids of the robots that were trained; samples take turns.
        """
        super().__init__(model, self._batch)
        self.processor, self.folder, self._tree, self._embodiments = processor, folder, tree, tuple(embodiments)

    def _batch(self, instructions: Sequence[str], state_seed: int, image_seed: int) -> dict[str, Any]:
        config, n = self.flow.config, len(instructions)
        pictures, numbers = torch.Generator().manual_seed(image_seed), torch.Generator().manual_seed(100 + state_seed)
        images = torch.randint(0, 256, (n, CAMERAS, 3, SIDE, SIDE), generator=pictures, dtype=torch.uint8)
        content = [
            self.processor._apply_vlm_processing(pictures_of.numpy(), words)["vlm_content"]
            for pictures_of, words in zip(images, instructions, strict=True)
        ]
        inputs = dict(self.processor.collator([{"vlm_content": one} for one in content])["inputs"])
        steps = torch.Generator().manual_seed(7)
        history = config.state_history_length
        return inputs | {
            "state": torch.rand(n, history, config.max_state_dim, generator=numbers) * 2 - 1,
            "action": torch.rand(n, config.action_horizon, config.max_action_dim, generator=steps) * 2 - 1,
            "action_mask": torch.ones(n, config.action_horizon, config.max_action_dim),
            "embodiment_id": torch.tensor([self._embodiments[i % len(self._embodiments)] for i in range(n)]),
        }

    def switched(self) -> Gr00tSubject:
        from apt_plugin.hosts.gr00t.model import Gr00tN1d7Apt

        recipe = self.flow.apt_recipe
        record = records.check_start(str(self.folder), LIKELIHOOD, recipe)
        assert record is not None
        del self.flow  # it is spent: two models would not fit where one was trained
        gc.collect()
        model = Gr00tN1d7Apt.convert(load(self.folder), recipe, LIKELIHOOD)
        config = model.config
        model.apt_train_as(config)
        return Gr00tSubject(model, self.processor, self.folder, self._tree, self._embodiments)

    def host_tree(self) -> tuple[dict[str, tuple], dict[str, tuple]]:
        return {n: s for n, s in shapes(self.flow).items() if not freeze.added(n)}, self._tree

    def refused_without_plugin(self) -> tuple[bool, str]:
        """A fresh process of the host that never imports the plugin tries to open the checkpoint."""
        code = "import sys, gr00t.model\nfrom transformers import AutoModel\nAutoModel.from_pretrained(sys.argv[1])\n"
        return refusal(code, str(self.folder))

    def replaced_names(self) -> list[str]:
        """Building changes objects of its own only; what a training process replaces is put back by `uninstall`."""
        from gr00t.experiment import experiment
        from gr00t.experiment.trainer import Gr00tTrainer
        from gr00t.model.gr00t_n1d7 import gr00t_n1d7
        from gr00t.model.modules import dit

        same = {
            "experiment.Gr00tTrainer": experiment.Gr00tTrainer is Gr00tTrainer,
            "gr00t_n1d7.AlternateVLDiT": gr00t_n1d7.AlternateVLDiT is dit.AlternateVLDiT,
            "dit.AlternateVLDiT.forward": "apt" not in dit.AlternateVLDiT.forward.__module__,
        }
        return [name for name, kept in same.items() if not kept]


def load(folder: Path) -> Any:
    """A model in float32, as the host's trainer holds it; every file and tensor accounted for (see
    `Gr00tN1d7Apt.from_pretrained`)."""
    from transformers import AutoModel

    return AutoModel.from_pretrained(folder, dtype=torch.float32).eval()


def stock_tree(config: Any) -> dict[str, tuple]:
    """Names and shapes of the host's own model under this config, built as an outline: no second model in memory."""
    from gr00t.configs.model.gr00t_n1d7 import Gr00tN1d7Config
    from gr00t.model.gr00t_n1d7.gr00t_n1d7 import Gr00tN1d7

    from apt_plugin.hosts.gr00t.absent import outlined

    values = {k: v for k, v in vars(config).items() if not k.startswith(("_", "apt_")) and k != "model_type"}
    with outlined(), torch.device("meta"):
        return shapes(Gr00tN1d7(Gr00tN1d7Config(**values)))


def open_subject(checkpoint: str | Path, device: str | None = None) -> Gr00tSubject:
    """Open an APT checkpoint folder of Isaac GR00T.

    Raises:
        AptError: not a checkpoint of this host.
    """
    register()
    import gr00t.model  # noqa: F401  # registers the processor
    from transformers import AutoProcessor

    folder = openable(Path(checkpoint))
    model = load(folder)
    config = model.config
    model.apt_train_as(config)
    if device:
        model.to(device)
    where = folder if (folder / "processor_config.json").is_file() else folder / "processor"
    processor = AutoProcessor.from_pretrained(where)
    processor.eval()
    trained = [processor.embodiment_id_mapping[tag] for tag in read_record(folder).facts or {}]
    return Gr00tSubject(model, processor, folder, stock_tree(config), trained or (0,))
