# SPDX-License-Identifier: Apache-2.0

"""The features of a short prompt do not depend on the padding beside it."""

from types import SimpleNamespace

from gr00t.model.gr00t_n1d7.gr00t_n1d7 import Gr00tN1d7ActionHead
from gr00t.model.modules.dit import SelfAttentionTransformer
import pytest
import torch
from transformers.feature_extraction_utils import BatchFeature


@pytest.fixture
def adapter():
    torch.manual_seed(0)
    return SelfAttentionTransformer(
        num_layers=2, num_attention_heads=2, attention_head_dim=8, positional_embeddings=None
    ).eval()


def _padded(tokens):
    """Left padding, as the collator's, and its mask."""
    padded = torch.cat([torch.randn(1, 3, tokens.shape[-1]), tokens], 1)
    return padded, torch.tensor([[False] * 3 + [True] * tokens.shape[1]])


@torch.no_grad()
def test_masked_padding_is_not_attended(adapter):
    tokens = torch.randn(1, 5, 16)
    padded, mask = _padded(tokens)
    alone = adapter(tokens)
    torch.testing.assert_close(
        alone, adapter(padded, attention_mask=mask)[:, 3:], atol=1e-6, rtol=1e-5
    )
    assert (alone - adapter(padded)[:, 3:]).abs().max() > 1e-2  # what padding does without the mask


@torch.no_grad()
@pytest.mark.parametrize("with_adapter", [True, False])
def test_action_head_hands_the_padding_mask_over(adapter, with_adapter):
    vl_self_attention = adapter if with_adapter else torch.nn.Identity()
    head = SimpleNamespace(vlln=torch.nn.Identity(), vl_self_attention=vl_self_attention)
    tokens = torch.randn(1, 5, 16)
    padded, mask = _padded(tokens)

    def features(tokens, mask):
        output = BatchFeature({"backbone_features": tokens, "backbone_attention_mask": mask})
        return Gr00tN1d7ActionHead.process_backbone_output(head, output)["backbone_features"]

    alone = features(tokens, mask[:, 3:])
    torch.testing.assert_close(alone, features(padded, mask)[:, 3:], atol=1e-6, rtol=1e-5)
