"""The model that fairseq builds: its sizes, its first loss, its options and what it refuses."""

import math
from argparse import Namespace
from pathlib import Path
from unittest import mock

import pytest
import torch
from fairseq import options
from fairseq.modules import FairseqDropout
from fairseq.modules.quantization.scalar.modules import IntLinear
from fairseq.quantization_utils import quantize_model_scalar
from torch import nn

import resmlp_mt.plugin
from resmlp_core import Affine, CrossPositionLinear
from resmlp_core.layers import onednn
from resmlp_mt.models.options import NOT_IN_RESMLP
from resmlp_mt.models.resmlp import ResMLPModel, resmlp

from .conftest import SMALL, make_dictionary, make_model, small_model

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
    assert model.encoder.embed_positions is None and model.decoder.embed_positions is None  # sinusoids, uncounted above


def test_the_variants_beyond_the_paper_have_a_convolution_or_gates_a_layer_and_as_many_parameters_else():
    paper, plus, gated = (make_model(f"resmlp{arch}_tiny", random=False) for arch in ("", "_plus", "_gated"))
    of_paper, of_plus, of_gated = (sum(p.numel() for p in model.parameters()) for model in (paper, plus, gated))
    assert of_plus - of_paper == 8 * 5 * 128
    assert of_gated - of_plus == 8 * 2 * (128**2 + 128)


def test_gates_are_open_at_the_start():
    plus, gated = (make_model(f"resmlp_{arch}_tiny", random=False) for arch in ("plus", "gated"))
    gated.load_state_dict(gated.state_dict() | {renamed(name): p for name, p in plus.state_dict().items()})
    src, prev, _ = random_batch(40, length=12)
    torch.testing.assert_close(gated(src, None, prev)[0], plus(src, None, prev)[0])


def test_a_checkpoint_may_be_older_than_an_option():
    args = Namespace(**SMALL)
    resmlp(args)
    del args.position_gates
    task = Namespace(source_dictionary=make_dictionary(), target_dictionary=make_dictionary())
    ResMLPModel.build_model(args, task).load_state_dict(small_model().state_dict())


def renamed(name: str) -> str:
    """The name that a parameter of a mixer has within gates."""
    return name.replace("cross_position.mixer.", "cross_position.mixer.mixer.")


@pytest.mark.parametrize(
    ("arch", "start", "norm"),
    [
        ("resmlp", 0.2, Affine),
        ("resmlp_tiny", 1.0, Affine),
        ("resmlp_plus", 1.0, nn.LayerNorm),
        ("resmlp_plus_tiny", 1.0, nn.LayerNorm),
        ("resmlp_gated", 1.0, nn.LayerNorm),
        ("resmlp_gated_tiny", 1.0, nn.LayerNorm),
    ],
)
def test_an_architecture_has_its_starts_and_its_norm(arch, start, norm):
    model = make_model(arch, random=False)
    posts = torch.cat([p for name, p in model.named_parameters() if name.endswith("post.alpha")])
    torch.testing.assert_close(posts.unique(), torch.tensor([start]))
    for side in (model.encoder, model.decoder):
        assert {type(m) for m in (side.layer_norm, *(layer.cross_position.pre for layer in side.layers))} == {norm}
    last, final = (next(side.layer_norm.parameters()) for side in (model.encoder, model.decoder))
    torch.testing.assert_close(last.unique(), torch.ones(1))
    torch.testing.assert_close(final.unique(), torch.tensor([len(final) ** -0.25 if norm is Affine else 1.0]))
    wide = make_model(arch, random=False, position_init_std=0.1)
    for each, std in ((model, 0.02), (wide, 0.1)):
        assert matrices(each.encoder)[0].weight.std().item() == pytest.approx(std, rel=0.05)


def test_a_decoder_layer_attends_to_the_source_between_its_sublayers_each_with_its_residual():
    layer = small_model().decoder.layers[0].double()
    x, memory = torch.randn(5, 2, 16).double(), torch.randn(3, 2, 16).double()
    positions, attend, channels = layer.cross_position, layer.encoder_attn, layer.cross_channel
    z = x + positions.post(positions.mixer(positions.pre(x)))
    z = z + layer.encoder_attn_post(attend(query=layer.encoder_attn_pre(z), key=memory, value=memory)[0])
    torch.testing.assert_close(layer(x, memory)[0], z + channels.post(channels.mixer(channels.pre(z))))


@pytest.mark.skipif(not torch.backends.mkldnn.is_available(), reason="PyTorch is built without oneDNN")
def test_training_computes_every_layer_over_channels_by_onednn(monkeypatch):
    monkeypatch.setattr(onednn, "onednn_is_faster", lambda: True)
    src, prev, _ = random_batch(40, length=12)
    with mock.patch.object(onednn._Linear, "apply", wraps=onednn._Linear.apply) as products:
        small_model().train()(src, None, prev)
    assert products.call_count == 2 * 2 + 2 * (4 + 2) + 1  # B and C; the decoder's attention; the logits


def test_every_parameter_is_used():
    model = small_model().train()
    src, prev, _ = random_batch(40, length=12)
    model(src, None, prev)[0].square().sum().backward()
    assert [name for name, p in model.named_parameters() if p.grad is None or not p.grad.any()] == []


def test_the_user_chooses_the_size_of_a_and_fairseq_is_told_it():
    model = small_model(max_source_positions=100, max_target_positions=30)
    assert [tuple(m.weight.shape) for m in matrices(model)] == [(100, 100)] * 2 + [(30, 30)] * 2
    assert model.max_positions() == (100, 30)


@pytest.mark.parametrize("asked", [(), ("--max-source-positions", "100"), ("--max-target-positions", "100")])
def test_a_preset_has_256_positions_on_fairseqs_command_line_unless_the_user_asks(asked):
    """The translation task has options of the same names, with defaults of its own."""
    line = ["data", "--user-dir", str(Path(resmlp_mt.__file__).parent), "--arch", "resmlp_tiny", *asked]
    args = options.parse_args_and_arch(options.get_training_parser(), line)
    expected = {"max_source_positions": 256, "max_target_positions": 256}
    if asked:
        expected[asked[0].removeprefix("--").replace("-", "_")] = 100
    assert expected == {name: getattr(args, name) for name in expected}
    dictionary = make_dictionary()
    model = ResMLPModel.build_model(args, Namespace(source_dictionary=dictionary, target_dictionary=dictionary))
    assert {m.weight.shape for m in matrices(model.encoder)} == {(expected["max_source_positions"],) * 2}
    assert {m.weight.shape for m in matrices(model.decoder)} == {(expected["max_target_positions"],) * 2}


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
        posts = [p for name, p in model.named_parameters() if name.endswith("post.alpha")]
        assert len(posts) == 2 * len(model.encoder.layers) + 3 * len(model.decoder.layers)
        return torch.cat(posts).unique()

    torch.testing.assert_close(starts(small_model(random=False)), torch.tensor([0.2]))
    torch.testing.assert_close(starts(small_model(random=False, layer_scale=0.5)), torch.tensor([0.5]))


@pytest.mark.parametrize("option", NOT_IN_RESMLP)
def test_what_resmlp_lacks_is_refused_by_the_options_name(option):
    with pytest.raises(ValueError, match=f"--{option.replace('_', '-')} does not apply to ResMLP"):
        small_model(**{option: True})


def test_full_context_alignment_is_refused():
    model = small_model()
    with pytest.raises(ValueError, match="triangular"):
        model.decoder(torch.tensor([[EOS]]), model.encoder(torch.tensor([[5, EOS]])), full_context_alignment=True)


def test_activation_checkpointing_gives_the_same_gradients():
    plain = small_model(dropout=0.0).train().double()
    checkpointed = small_model(dropout=0.0, checkpoint_activations=True).train().double()
    src, prev, _ = random_batch(40, length=12)
    for model in (plain, checkpointed):
        model(src, None, prev)[0].square().sum().backward()
    for a, b in zip(plain.parameters(), checkpointed.parameters(), strict=True):
        torch.testing.assert_close(a.grad, b.grad)


@pytest.mark.parametrize("side", ["encoder", "decoder"])
def test_layerdrop_drops_layers_in_training_alone(side):
    model = small_model(**{f"{side}_layers": 12, f"{side}_layerdrop": 0.5}, dropout=0.0)
    src, prev, _ = random_batch(40, batch=1, length=12)
    assert torch.equal(model(src, None, prev)[0], model(src, None, prev)[0])
    model.train()
    assert len({model(src, None, prev)[0].sum().item() for _ in range(10)}) > 1


@pytest.mark.parametrize("option", ["dropout", "activation_dropout", "relu_dropout"])
def test_dropout_stands_where_the_transformer_has_it(option):
    """As often as in fairseq's Transformer of the same depth, on tensors of the same sizes."""
    off = {"dropout": 0.0, "activation_dropout": 0.0, "attention_dropout": 0.0}
    src, prev, _ = random_batch(40, batch=4, length=12)

    def dropped(arch):
        sizes = []
        model = small_model(arch=arch, **{**off, option: 0.5}).train()
        for module in model.modules():
            if isinstance(module, FairseqDropout) and module.p > 0:
                module.register_forward_hook(lambda module, inputs, output: sizes.append(output.numel()))
        model(src, None, prev)
        return sizes

    assert dropped("resmlp") == dropped("transformer") != []


def test_attention_dropout_acts_in_training():
    src, prev, _ = random_batch(40, batch=4, length=12)
    model = small_model(dropout=0.0, attention_dropout=0.5).train()
    assert not torch.equal(model(src, None, prev)[0], model(src, None, prev)[0])


def test_quantisation_noise_reaches_the_channel_mlp():
    src, prev, _ = random_batch(40, batch=4, length=12)
    model = small_model(quant_noise_pq=0.5, dropout=0.0).train()
    weight = model.encoder.layers[0].cross_channel.mixer.fc1.weight
    model(src, None, prev)
    assert (weight == 0).float().mean() > 0.1  # fairseq's noise zeroes blocks of the weight in training


def test_a_model_of_scalar_quantisation_noise_stays_quantised_in_use():
    """Its layers are looked at, not run: fairseq's need a GPU."""

    def quantized(model):
        return [name for name, module in model.named_modules() if isinstance(module, IntLinear)]

    model = quantize_model_scalar(small_model(), Namespace(quant_noise_scalar=0.5)).eval()
    before = quantized(model)
    model.make_generation_fast_()
    assert quantized(model) == before != []


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16])
def test_half_precision_stays_near_float32(dtype):
    """Log-probabilities within 8 units of the type's precision of the largest, the gradient within 2 of its length."""
    src, prev, tgt = random_batch(40)

    def run(dtype):
        model = make_model("resmlp_tiny", random=False, dropout=0.0).train().to(dtype)
        scores = model(src, None, prev)[0].float().log_softmax(-1)
        (128 * nn.functional.nll_loss(scores.flatten(0, 1), tgt.flatten())).backward()
        return scores.detach(), torch.cat([p.grad.float().flatten() for p in model.parameters()])

    (expected, gradient), (got, half_gradient) = run(torch.float32), run(dtype)
    eps = torch.finfo(dtype).eps
    torch.testing.assert_close(got, expected, rtol=0, atol=8 * eps * expected.abs().max().item())
    assert (half_gradient - gradient).norm() <= 2 * eps * gradient.norm()
