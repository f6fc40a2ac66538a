# SPDX-License-Identifier: Apache-2.0

"""The backbone reads hidden states alone, so it asks for the logits of one position only."""

from types import SimpleNamespace

from gr00t.model.modules.qwen3_backbone import Qwen3Backbone
import torch


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
    keys = ("input_ids", "attention_mask", "pixel_values", "image_grid_thw")
    output = backbone(dict.fromkeys(keys, ones))
    assert asked["logits_to_keep"] == 1
    assert output["backbone_features"].shape == (1, 2, 4)
