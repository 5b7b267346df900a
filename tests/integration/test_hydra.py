"""fairseq-hydra-train: a YAML file instead of options."""

import torch

from .commands import PLUGIN, in_this_process, refuses_other_dictionaries, texts, train_by_hydra

SECTIONS = """
task: {{_name: translation, data: {data}, max_source_positions: 100, max_target_positions: 100}}
model:
  _name: resmlp_tiny
  encoder_embed_dim: 32
  encoder_layers: 1
  decoder_layers: 1
  max_source_positions: 100
  max_target_positions: 100
  share_all_embeddings: true
  layer_scale: 0.5
criterion: {{_name: label_smoothed_cross_entropy, label_smoothing: 0.1}}
"""


def test_hydra_train_trains_what_the_yaml_says_and_the_checkpoint_translates(corpus, tmp_path):
    path = train_by_hydra(tmp_path, SECTIONS.format(data=corpus.data))
    model = torch.load(path, weights_only=True)["model"]
    assert model["encoder.layers.0.cross_position.mixer.weight"].shape == (100, 100)
    assert model["encoder.layers.0.cross_channel.mixer.fc1.weight"].shape == (256, 32)  # resmlp_tiny's own width
    scale = model["encoder.layers.0.cross_position.post.alpha"].mean().item()
    assert 0.35 < scale < 0.65  # after 25 updates of at most 0.02, from 0.5; the architecture's own is 1
    output = in_this_process("generate", corpus.data, *PLUGIN, "--path", path, "--num-workers", 0)
    assert sorted(texts(output)) == list(range(60))
    (tmp_path / "others").mkdir()
    refuses_other_dictionaries(path, corpus.data, tmp_path / "others", lambda lines: lines[::-1])
