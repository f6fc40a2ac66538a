"""Loading a GR00T without its VLM, for a run that trains from a feature cache: an outline on the meta device."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch
from gr00t.model.gr00t_n1d7 import gr00t_n1d7
from gr00t.model.modules import qwen3_backbone
from transformers import AutoConfig

from apt_plugin.backends.torch_absent import Absent, Vlm
from apt_plugin.hub import local_folder
from apt_plugin.run.replace import Replacements


class _Unread:
    """Qwen3-VL from its config alone; the host's backbone asks for the weights of the VLM's own repository."""

    def __init__(self, cls: Any):
        self.cls = cls

    def from_pretrained(
        self, name: str, attn_implementation: Any = None, torch_dtype: Any = None, **kwargs: Any
    ) -> Any:
        del attn_implementation, torch_dtype
        return self.cls(AutoConfig.from_pretrained(name, **kwargs))


@contextmanager
def outlined() -> Iterator[None]:
    """While active, the host's pipeline builds its backbone as an `Absent`, and loads the action head alone."""
    choose, vlm = gr00t_n1d7.get_backbone_cls, qwen3_backbone.Qwen3VLForConditionalGeneration

    def get_backbone_cls(config: Any) -> Any:
        cls = choose(config)

        def make(**kwargs: Any) -> Absent:
            with torch.device("meta"):
                return Absent(cls(**kwargs))

        return make

    outline = Replacements()
    try:
        outline.set(gr00t_n1d7, "get_backbone_cls", get_backbone_cls)
        outline.set(qwen3_backbone, "Qwen3VLForConditionalGeneration", _Unread(vlm))
        outline.set(gr00t_n1d7.Gr00tN1d7, "_keys_to_ignore_on_load_unexpected", [r"^backbone\."])
        yield
    finally:
        outline.restore()


def find(model: Any, checkpoint: str) -> Vlm:
    """Where the absent tensors of a freshly loaded model lie.

    Raises:
        AptError: the checkpoint lacks one.
    """
    model.backbone.module.model.tie_weights()  # transformers registers copies while it builds on the meta device
    absent = Vlm.of(model, torch.float32)  # as the host loads them: float32 whatever a VLM's config says
    assert absent is not None
    absent.locate(sorted(local_folder(checkpoint).glob("*.safetensors")), {})
    absent.kept = {key for _, key in absent.sources.values()}  # as the host's own checkpoints have them
    return absent
