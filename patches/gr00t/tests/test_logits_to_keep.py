"""For the pull request of 3-logits-to-keep: fails before (all logits are computed), passes after. CPU, seconds."""

from types import SimpleNamespace

import torch
from gr00t.model.modules.qwen3_backbone import Qwen3Backbone


def test_backbone_asks_for_one_position_of_logits():
    asked = {}

    class Model(torch.nn.Module):
        config = SimpleNamespace(image_token_id=5)

        def forward(self, **kwargs):
            asked.update(kwargs)
            return SimpleNamespace(hidden_states=[torch.zeros(1, 2, 4)])

    backbone = Qwen3Backbone.__new__(Qwen3Backbone)
    torch.nn.Module.__init__(backbone)
    backbone.model = Model()
    backbone.eval()
    ones = torch.ones(1, 2, dtype=torch.long)
    batch = {"input_ids": ones, "attention_mask": ones, "pixel_values": ones, "image_grid_thw": ones}
    backbone(batch)
    assert asked["logits_to_keep"] == 1
