"""A small classifier's sizes, parameters away from their start, and the release's names of weights."""

import torch

TINY = {"depth": 2, "embed_dim": 16, "img_size": 32, "patch_size": 8, "num_classes": 5}


def randomise(model):
    """Move every parameter from its start, which hides slips."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for p in model.parameters():
            p.add_(torch.randn(p.shape, generator=generator), alpha=0.02 if p.dim() > 1 else 0.2)
    return model.eval()


def to_release(weights):
    """Write timm's names as the release has them."""
    names = {"stem.": "patch_embed.", "linear_tokens": "attn", "mlp_channels": "mlp", ".ls": ".gamma_"}
    renamed = {}
    for name, value in weights.items():
        for theirs, release in names.items():
            name = name.replace(theirs, release)
        renamed[name] = value.flatten() if name.endswith(("alpha", "beta")) else value
    return renamed
