"""For the pull request of 2-adapter-mask: fails before (unexpected argument), passes after. CPU, seconds."""

import torch
from gr00t.model.modules.dit import SelfAttentionTransformer


def test_features_do_not_depend_on_padding():
    torch.manual_seed(0)
    adapter = SelfAttentionTransformer(
        num_layers=2, num_attention_heads=2, attention_head_dim=8, positional_embeddings=None
    ).eval()
    tokens = torch.randn(1, 5, 16)
    padded = torch.cat([torch.randn(1, 3, 16), tokens], 1)  # left padding, as the collator's
    mask = torch.tensor([[False] * 3 + [True] * 5])
    with torch.no_grad():
        alone = adapter(tokens)
        beside_longer = adapter(padded, attention_mask=mask)[:, 3:]
        unmasked = adapter(padded)[:, 3:]
    torch.testing.assert_close(alone, beside_longer, atol=1e-6, rtol=1e-5)
    assert (alone - unmasked).abs().max() > 1e-2  # what padding did without the mask
