"""The model that fairseq builds: its sizes, its first loss, its options and what it refuses."""

import math

import pytest
import torch
from conftest import SMALL, make_dictionary, make_model, small_model
from torch import nn

from resmlp_core import CrossPositionLinear

EOS = make_dictionary().eos()


def matrices(model):
    return [m for m in model.modules() if isinstance(m, CrossPositionLinear)]


def random_batch(words, batch=16, length=20):
    generator = torch.Generator().manual_seed(0)
    src = torch.randint(4, 4 + words, (batch, length), generator=generator)
    tgt = torch.randint(4, 4 + words, (batch, length), generator=generator)
    src[:, -1] = tgt[:, -1] = EOS
    return src, tgt.roll(1, dims=1), tgt


@pytest.mark.parametrize(
    ("arch", "layers", "dim", "hidden", "heads", "dropout"),
    [
        ("resmlp", 6, 512, 2048, 8, 0.1),
        ("resmlp_12", 12, 512, 2048, 8, 0.1),
        ("resmlp_tiny", 4, 128, 256, 4, 0.1),
        ("resmlp_iwslt_de_en", 6, 512, 1024, 4, 0.1),
        ("resmlp_wmt_en_de", 6, 512, 2048, 8, 0.15),
        ("resmlp_wmt_en_fr", 6, 512, 2048, 8, 0.1),
    ],
)
def test_an_architecture_has_its_dimensions_and_not_one_parameter_more(arch, layers, dim, hidden, heads, dropout):
    model = make_model(arch, random=False, share_all_embeddings=True)
    words, positions = len(make_dictionary()), 256
    affine, mlp = 2 * dim, 2 * dim * hidden + dim + hidden
    a = positions**2 + positions  # A and its bias
    attention = 4 * (dim**2 + dim)
    encoder = layers * (4 * affine + a + mlp) + affine
    decoder = layers * (6 * affine + a + mlp + attention) + affine
    assert sum(p.numel() for p in model.parameters()) == words * dim + encoder + decoder
    assert sum(p.numel() for m in matrices(model) for p in m.parameters()) == 2 * layers * a
    assert [m.causal for m in matrices(model)] == [False] * layers + [True] * layers
    assert model.decoder.layers[0].encoder_attn.num_heads == heads
    assert model.decoder.dropout_module.p == dropout


def test_every_parameter_is_used():
    model = small_model().train()
    src, prev, _ = random_batch(40, length=12)
    model(src, None, prev)[0].square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_the_user_chooses_the_size_of_a_and_fairseq_is_told_it():
    model = small_model(max_source_positions=100, max_target_positions=30)
    assert [tuple(m.weight.shape) for m in matrices(model)] == [(100, 100)] * 2 + [(30, 30)] * 2
    assert model.max_positions() == (100, 30)
    default = {k: v for k, v in SMALL.items() if "positions" not in k}
    assert make_model(**default).max_positions() == (256, 256)


@pytest.mark.parametrize("tied", ["share_all_embeddings", "share_decoder_input_output_embed", None])
@pytest.mark.parametrize("arch", ["resmlp", "resmlp_tiny", "resmlp_12"])
def test_the_first_loss_is_that_of_guessing(arch, tied):
    words = 2000
    model = make_model(arch, random=False, words=words, **({tied: True} if tied else {})).train()
    src, prev, tgt = random_batch(words)
    with torch.no_grad():
        loss = nn.functional.cross_entropy(model(src, None, prev)[0].flatten(0, 1), tgt.flatten())
    assert abs(loss.item() - math.log(words)) < 0.5


def test_layer_scale_is_an_option_with_the_papers_default():
    def starts(model):
        posts = [p for layer in model.decoder.layers for n, p in layer.named_parameters() if n.endswith("post.alpha")]
        assert len(posts) == 3 * len(model.decoder.layers)
        return torch.cat(posts).unique()

    torch.testing.assert_close(starts(small_model(random=False)), torch.tensor([0.2]))
    torch.testing.assert_close(starts(small_model(random=False, layer_scale=0.5)), torch.tensor([0.5]))


@pytest.mark.parametrize(
    "option",
    [
        "encoder_normalize_before",
        "decoder_normalize_before",
        "layernorm_embedding",
        "encoder_learned_pos",
        "decoder_learned_pos",
        "cross_self_attention",
    ],
)
def test_what_resmlp_lacks_is_refused_by_the_options_name(option):
    with pytest.raises(ValueError, match=f"--{option.replace('_', '-')} does not apply to ResMLP"):
        small_model(**{option: True})


def test_full_context_alignment_is_refused():
    model = small_model()
    with pytest.raises(ValueError, match="triangular"):
        model.decoder(torch.tensor([[EOS]]), model.encoder(torch.tensor([[5, EOS]])), full_context_alignment=True)


def test_activation_checkpointing_gives_the_same_gradients():
    plain = small_model(dropout=0.0).train()
    checkpointed = small_model(dropout=0.0, checkpoint_activations=True).train()
    src, prev, _ = random_batch(40, length=12)
    for model in (plain, checkpointed):
        model(src, None, prev)[0].square().sum().backward()
    for a, b in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


def test_layerdrop_drops_layers_in_training_alone():
    model = small_model(encoder_layers=12, encoder_layerdrop=0.5, decoder_layerdrop=0.5, dropout=0.0)
    src = torch.tensor([[5, 6, EOS]])
    assert torch.equal(model.encoder(src)["encoder_out"][0], model.encoder(src)["encoder_out"][0])
    model.train()
    outputs = {model.encoder(src)["encoder_out"][0].sum().item() for _ in range(10)}
    assert len(outputs) > 1


def test_dropout_stands_where_the_transformer_has_it():
    src, prev, _ = random_batch(40, batch=4, length=12)
    for option in ("dropout", "activation_dropout", "attention_dropout"):
        off = {"dropout": 0.0, "activation_dropout": 0.0, "attention_dropout": 0.0}
        model = small_model(**off).train()
        assert torch.equal(model(src, None, prev)[0], model(src, None, prev)[0])
        model = small_model(**{**off, option: 0.5}).train()
        assert not torch.equal(model(src, None, prev)[0], model(src, None, prev)[0]), option


def test_quantisation_noise_reaches_the_channel_mlp():
    src, prev, _ = random_batch(40, batch=4, length=12)
    model = small_model(quant_noise_pq=0.5, dropout=0.0).train()
    weight = model.encoder.layers[0].cross_channel.mixer.fc1.weight
    model(src, None, prev)
    assert (weight == 0).float().mean() > 0.1  # fairseq's noise zeroes blocks of the weight in training


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_near_float32(dtype):
    """Finite forward and backward; log-probabilities within 8 units of the type's precision of the largest."""
    model = make_model("resmlp_tiny", random=False, dropout=0.0).train()
    src, prev, tgt = random_batch(40)
    expected = model(src, None, prev)[0].log_softmax(-1)
    model.to(dtype)
    got = model(src, None, prev)[0].float().log_softmax(-1)
    torch.testing.assert_close(got, expected, rtol=0, atol=8 * torch.finfo(dtype).eps * expected.abs().max().item())
    (128 * nn.functional.nll_loss(got.flatten(0, 1), tgt.flatten())).backward()
    assert all(torch.isfinite(p.grad).all() for p in model.parameters())
