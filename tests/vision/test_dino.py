"""Training without labels: views of several sizes, the teacher, runs that resume, and what the features are worth."""

import argparse
import json
import shutil
import signal
from pathlib import Path

import pytest
import torch
from torch.func import functional_call

from resmlp_core.common.checkpoint import read_checkpoint
from resmlp_vision import classify, create_model, dino, evaluate, train
from resmlp_vision.config import DINOConfig, read_config
from resmlp_vision.distributed import join_processes
from resmlp_vision.evaluation.knn import measure_knn
from resmlp_vision.models.loading import load_trained
from resmlp_vision.models.weights import crop_positions
from resmlp_vision.training.dino import DINOTrainer, MultiCrop

from .runs import DINO, TINY, fail, finish, read_log, run, same, start, torchrun, wait, write_images

RECIPES = Path(__file__).parents[2] / "recipes" / "dino"


@pytest.fixture(scope="module")
def images(tmp_path_factory):
    return write_images(tmp_path_factory.mktemp("images"), classes=3)


@pytest.fixture(scope="module")
def checkpoint(images, tmp_path_factory):
    out = tmp_path_factory.mktemp("run")
    run(dino.main, *DINO, f"data={images}", f"out={out}")
    return out / "last.pth.tar"


def test_the_views_are_cut_and_blurred_as_the_settings_say(images, tmp_path):
    asked = ("global_scale=[0.5,0.9]", "local_scale=[0.1,0.3]", "blur=[0.9,0.2,0.6]")
    settings = read_config(None, [*DINO, f"data={images}", f"out={tmp_path}", *asked], DINOConfig)
    found = []
    for view in DINOTrainer(settings, join_processes("cpu")).loader.dataset.transform.transforms:
        steps = {type(step).__name__: step for step in view.transform.transforms}
        crop = steps["RandomResizedCrop"]
        found.append((crop.size[0], *crop.scale, steps["GaussianBlur"].prob))
    assert found == [(16, 0.5, 0.9, 0.9), (16, 0.5, 0.9, 0.2), *[(8, 0.1, 0.3, 0.6)] * 2]


def random_model(img_size=16):
    torch.manual_seed(0)
    sizes = {"depth": 2, "embed_dim": 16, "patch_size": 4, "num_classes": 0}
    model = create_model("resmlp_s12", img_size=img_size, **sizes)
    for parameter in model.parameters():
        torch.nn.init.normal_(parameter)
    return model.eval()


@pytest.mark.parametrize(("img_size", "grid"), [(16, (2, 2)), (20, (3, 2)), (16, (4, 4))])
def test_a_crop_meets_what_the_whole_A_computes_where_nothing_is_outside(img_size, grid):
    model = random_model(img_size)
    side = img_size // 4
    top, left = (side - grid[0]) // 2, (side - grid[1]) // 2
    crop = torch.randn(*grid, 3, 16)
    whole = torch.zeros(side, side, 3, 16)
    whole[top : top + grid[0], left : left + grid[1]] = crop
    mixer = model.layers[1].cross_position.mixer
    expected = mixer(whole.flatten(0, 1)).view(side, side, 3, 16)[top : top + grid[0], left : left + grid[1]]
    cropped = crop_positions(model, grid)
    weights = {name: cropped[f"layers.1.cross_position.mixer.{name}"] for name in ("weight", "bias")}
    torch.testing.assert_close(functional_call(mixer, weights, (crop.flatten(0, 1),)).view_as(crop), expected)


def test_views_of_several_sizes_are_what_models_of_these_sizes_compute():
    backbone = random_model()
    small = random_model(8)
    small.load_state_dict(backbone.state_dict() | crop_positions(backbone, (2, 2)))
    student = MultiCrop(backbone, torch.nn.Identity())
    views = [torch.randn(5, 3, size, size) for size in (16, 16, 8, 8, 8)]
    whole = random_model()
    for projection, view in zip(student(views), views, strict=True):
        torch.testing.assert_close(projection, (whole if view.size(-1) == 16 else small)(view))
    student([views[2]])[0].sum().backward()
    gradient = backbone.layers[0].cross_position.mixer.weight.grad
    inside = torch.tensor([5, 6, 9, 10])  # the middle of 4 x 4
    touched = gradient != 0
    assert touched[inside][:, inside].all() and touched.sum() == 16


def test_it_learns_its_teacher_follows_and_the_log_tells_of_neighbours(checkpoint):
    records = read_log(checkpoint.parent)
    assert records[-1]["train_loss"] < records[0]["train_loss"]
    assert ["knn_top1" in record for record in records] == [False, True, False, True]
    assert json.loads((checkpoint.parent / "results.json").read_text())["knn_top1"] == records[-1]["knn_top1"]
    state = read_checkpoint(checkpoint)
    assert not same(state["state_dict"], state["state_dict_ema"])
    assert same(dict(load_trained(checkpoint).state_dict()), state["state_dict_ema"])


def test_images_in_one_folder_need_no_classes(images, tmp_path):
    (tmp_path / "data" / "train").mkdir(parents=True)
    for image in (images / "train").rglob("*.png"):
        shutil.copy(image, tmp_path / "data" / "train" / f"{image.parent.name}-{image.name}")
    run(dino.main, *DINO, f"data={tmp_path / 'data'}", f"out={tmp_path / 'run'}", "epochs=1", "val_split=null")
    record = json.loads((tmp_path / "run" / "log.jsonl").read_text())
    assert record["train_loss"] > 0 and "knn_top1" not in record


@pytest.mark.parametrize("opt", ["adamw", "lookahead_adamw"])
def test_the_teacher_is_the_students_average_and_the_last_layer_waits(images, tmp_path, opt):
    settings = [*DINO, f"data={images}", f"out={tmp_path}", f"opt={opt}", "momentum_teacher=0.5", "epochs=2"]
    settings.append("warmup_epochs=0")
    trainer = DINOTrainer(read_config(None, settings, DINOConfig), join_processes("cpu"))
    student, teacher = trainer.task.trainable_module, trainer.task.trainable_module_ema.module
    last = student.head.last_layer.parametrizations.weight.original1
    directions = [torch.nn.functional.normalize(last.detach().clone(), dim=1)]
    average, decays = student.backbone.stem.proj.weight.detach().clone(), []
    updates = trainer.updates(0)
    for _ in range(trainer.updates_per_epoch):
        next(updates)
        decay = trainer.task.trainable_module_ema.decay
        decays.append(decay)
        weight = student.backbone.stem.proj.weight.detach()
        average = decay * average + (1 - decay) * weight
        torch.testing.assert_close(teacher.backbone.stem.proj.weight, average)
    assert decays == sorted(decays) and decays[0] == 0.5 < decays[-1] < 1
    directions.append(torch.nn.functional.normalize(last.detach().clone(), dim=1))
    stepping = getattr(trainer.optimizer, "_base_optimizer", trainer.optimizer)
    assert last not in stepping.state  # its moments begin when it is let go
    trainer.train_epoch(1)
    directions.append(torch.nn.functional.normalize(last.detach().clone(), dim=1))
    torch.testing.assert_close(directions[0], directions[1])
    assert (directions[1] - directions[2]).abs().max() > 1e-4
    assert trainer.task.trainable_module_ema.decay == 1.0
    decayed = {group["weight_decay"] for group in trainer.optimizer.param_groups}
    assert decayed == {0.0, trainer.config.final_weight_decay}


def test_earlier_layers_can_have_lower_rates(images, tmp_path):
    settings = [*DINO, f"data={images}", f"out={tmp_path}", "opt_args={layer_decay: 0.5}"]
    trainer = DINOTrainer(read_config(None, settings, DINOConfig), join_processes("cpu"))
    names = {parameter: name for name, parameter in trainer.task.get_trainable_module().named_parameters()}
    found = {names[p]: group["lr_scale"] for group in trainer.optimizer.param_groups for p in group["params"]}
    scales = {"stem": 0.125, "layers.0": 0.25, "layers.1": 0.5, "norm": 0.5}
    expected = {name: next((s for k, s in scales.items() if name.startswith(f"backbone.{k}.")), 1.0) for name in found}
    assert found == expected and set(found.values()) == {0.125, 0.25, 0.5, 1.0}


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_teacher_drops_no_layers_and_the_loss_is_in_full_precision(images, tmp_path, dtype):
    settings = [*DINO, f"data={images}", f"out={tmp_path}", "drop_path=0.9", f"dtype={dtype}"]
    trainer = DINOTrainer(read_config(None, settings, DINOConfig), join_processes("cpu"))
    trainer.train_epoch(0)
    views, labels = next(iter(trainer.loader))
    with trainer.autocast():
        first, second = (trainer.task.trainable_module_ema(views[:1])[0] for _ in range(2))
        students = [trainer.task.trainable_module(views[:1])[0] for _ in range(2)]
        loss = trainer.task(views, labels)["loss"]
    assert torch.equal(first, second) and not torch.equal(*students)
    assert loss.dtype == torch.float32 and loss.isfinite()


def test_validation_computes_in_the_settings_dtype_and_compares_in_full_precision(images, tmp_path):
    settings = [*DINO, f"data={images}", f"out={tmp_path}", "dtype=bfloat16"]
    trainer = DINOTrainer(read_config(None, settings, DINOConfig), join_processes("cpu"))
    computed = []
    layer = trainer.task.get_eval_model(ema=True).layers[0].cross_channel.mixer.fc1
    layer.register_forward_hook(lambda module, inputs, output: computed.append(output.dtype))
    assert trainer.validate()["knn_top1"] > 0
    assert set(computed) == {torch.bfloat16}
    torch.manual_seed(0)
    bank = torch.nn.functional.normalize(torch.randn(500, 4), dim=1), torch.randint(7, (500,))
    queries = torch.nn.functional.normalize(torch.randn(300, 4), dim=1), torch.randint(7, (300,))
    expected = measure_knn(bank, queries, 10)
    with trainer.autocast():
        assert measure_knn(bank, queries, 10) == expected


def test_killed_it_ends_with_the_weights_of_an_unbroken_run(images, checkpoint, tmp_path):
    settings = (*DINO, f"data={images}", f"out={tmp_path}")
    process = start(*settings, module="resmlp_vision.dino")
    wait(process, (tmp_path / "last.pth.tar").exists)
    process.send_signal(signal.SIGKILL)
    process.communicate()
    done = len((tmp_path / "log.jsonl").read_text().splitlines())
    assert done < 4
    assert "going on after epoch" in run(dino.main, *settings)
    broken, whole = read_checkpoint(tmp_path / "last.pth.tar"), read_checkpoint(checkpoint)
    for key in ("state_dict", "state_dict_ema"):
        assert same(broken[key], whole[key])
    for key in ("task_state", "task_state_ema"):
        assert same(broken[key]["head"], whole[key]["head"])
    assert torch.equal(broken["task_state"]["center"], whole["task_state"]["center"])


def test_two_processes_with_unequal_shares_count_every_image_once(images, tmp_path):
    odd = shutil.copytree(images, tmp_path / "odd")
    for split in ("train", "val"):
        next((odd / split).rglob("*.png")).unlink()
    finish(torchrun("resmlp_vision.dino", *DINO, f"data={odd}", f"out={tmp_path}", "epochs=2"))
    found = json.loads((tmp_path / "results.json").read_text())
    probe = ("--checkpoint", tmp_path / "last.pth.tar", "--data", odd, "--device", "cpu", "--workers", 0)
    run(evaluate.main, *probe, "--probe", "knn", "--k", 20, "--out", tmp_path / "knn.json")
    figures = json.loads((tmp_path / "knn.json").read_text())
    assert figures["knn20_top1"] == pytest.approx(found["knn_top1"])
    assert figures["images"] == figures["training_images"] == 35


def test_neighbours_vote_as_one_image_at_a_time_would():
    torch.manual_seed(0)
    bank = torch.nn.functional.normalize(torch.randn(50, 4), dim=1), torch.randint(7, (50,))
    queries = torch.nn.functional.normalize(torch.randn(300, 4), dim=1), torch.randint(7, (300,))
    join_processes("cpu")
    for k in (1, 10, 50):
        right = 0
        for query, label in zip(*queries, strict=True):
            cosines = bank[0] @ query
            votes = [0.0] * 7
            for i in cosines.argsort(descending=True)[:k]:
                votes[bank[1][i]] += float((cosines[i] / 0.07).exp())
            right += votes.index(max(votes)) == label
        assert measure_knn(bank, queries, k) == pytest.approx(100 * right / 300)


def test_a_linear_probe_learns_a_classifier_and_nothing_else(checkpoint, images, tmp_path):
    probe = ("lr=1", "epochs=12", "batch_size=12", "--checkpoint", checkpoint, "--data", images, "--device", "cpu")
    printed = run(evaluate.main, *probe, "--workers", 0, "--probe", "linear", "--out", tmp_path)
    assert "top1" in printed
    assert json.loads((tmp_path / "results.json").read_text())["top1"] >= 80
    before, after = (
        dict(load_trained(checkpoint).state_dict()),
        dict(load_trained(tmp_path / "last.pth.tar").state_dict()),
    )
    assert after.pop("head.weight").abs().max() > 0.1
    after.pop("head.bias")
    assert same(before, after)


def test_a_probe_of_a_checkpoint_that_has_changed_does_not_tell_the_earlier_figures(checkpoint, images, tmp_path):
    trained = tmp_path / "dino.pth.tar"
    shutil.copy(checkpoint, trained)
    line = ("lr=1", "epochs=1", "batch_size=12", "--checkpoint", trained, "--data", images, "--device", "cpu")
    line += ("--workers", 0, "--probe", "linear", "--out", tmp_path / "probe")
    run(evaluate.main, *line)
    run(evaluate.main, *line)
    state = torch.load(trained, weights_only=False)
    torch.save(state | {"epoch": 99}, trained)
    assert "the file of checkpoint=... has changed since" in fail(evaluate.main, *line)


def test_fine_tuning_starts_from_the_teacher_and_a_probe_from_no_classifier(checkpoint, images, tmp_path, caplog):
    frozen = ("lr=0", "warmup_lr=0", "min_lr=0", "weight_decay=0", "epochs=1")
    line = (*TINY, f"data={images}", f"out={tmp_path}", f"checkpoint={checkpoint}", "img_size=16", *frozen)
    run(train.main, *line)
    tuned = read_checkpoint(tmp_path / "last.pth.tar")["state_dict"]
    teacher = read_checkpoint(checkpoint)["state_dict_ema"]
    assert "the classifier is re-initialised" in caplog.text
    probed = tmp_path / "probe"
    frozen = ("lr=0", "epochs=1", "batch_size=12", "--checkpoint", tmp_path / "last.pth.tar", "--workers", 0)
    run(evaluate.main, *frozen, "--data", images, "--device", "cpu", "--probe", "linear", "--out", probed)
    assert not torch.equal(read_checkpoint(probed / "last.pth.tar")["state_dict"]["head.weight"], tuned["head.weight"])
    assert all(torch.equal(tuned[name], value) for name, value in teacher.items())


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("local_size=10", "local_size=10 must be a multiple of the patch size, 4, up to img_size=16"),
        ("local_size=20", "local_size=20 must be"),
        ("model_args.position_mixer=none", "position_mixer: linear"),
        ("model_args.position_mixer=convolved_linear", "position_mixer: linear"),
        ("model_args.global_pool=class_mlp", "global_pool: avg"),
        ("mixup=0.8", "unknown key 'mixup'"),
        ("val_split=null epochs=0", "epochs=0 must be from 1 to 1000000"),
        ("local_size=0", "local_size=0 must be from 1 to 4096"),
        ("local_views=-1", "local_views=-1 must be from 0 to 100"),
        ("global_scale=[0.5]", "global_scale=[0.5] must be two shares of the area"),
        ("blur=[0.5]", "blur=[0.5] must be three shares"),
        ("blur=[2,0,0]", "blur=[2.0, 0.0, 0.0] must be three shares"),
        ("teacher_temp=0", "teacher_temp=0.0 must be from 0.001 to 100"),
        ("warmup_teacher_temp_epochs=-1", "warmup_teacher_temp_epochs=-1 must be from 0 to 1000000"),
        ("final_weight_decay=-1", "final_weight_decay=-1.0 must be from 0 to 1000"),
        ("model=vit_tiny_patch16_224 model_args.num_heads=2", "model=vit_tiny_patch16_224 is no ResMLP"),
        ("batch_size=400", "36 training images are fewer than batch_size=400"),
    ],
)
def test_a_mistake_is_told_in_one_line(images, tmp_path, override, message):
    assert message in fail(dino.main, *DINO, f"data={images}", f"out={tmp_path}", *override.split())


def test_too_few_images_to_validate_by_are_told_before_the_first_epoch(tmp_path):
    few = (*DINO, f"data={write_images(tmp_path / 'images', images=9)}", f"out={tmp_path / 'run'}", "epochs=1")
    message = fail(dino.main, *few)
    assert message.endswith(
        "18 training images are fewer than the 20 that vote in validation; val_split=null trains without it"
    )
    run(dino.main, *few, "val_split=null", "epochs=1")


def test_what_may_change_while_it_waits_and_what_may_not(checkpoint, images):
    settings = (*DINO, f"data={images}", f"out={checkpoint.parent}")
    assert "accumulate=1, not 2" in fail(dino.main, *settings, "accumulate=2")
    message = fail(train.main, *TINY, f"data={images}", f"out={checkpoint.parent}")
    assert "holds a training run of another kind" in message


def test_recipes_are_whole_and_the_defaults_are_the_large_one():
    large = read_config(RECIPES / "resmlp_s12.yaml", ["out=x"], DINOConfig)
    assert large == read_config(None, ["data=hfds/ILSVRC/imagenet-1k", "out=x", "dtype=bfloat16"], DINOConfig)


@pytest.mark.parametrize("path", sorted(RECIPES.glob("*.yaml")), ids=lambda path: path.stem)
def test_every_recipe_takes_a_step(images, tmp_path, path):
    """The large one on a model of two layers, and with a small head."""
    large = ("model_args={depth: 2, embed_dim: 16}", "out_dim=64", "hidden_dim=16") if path.stem != "cifar10" else ()
    short = ("batch_size=36", "epochs=1", "warmup_epochs=0", "workers=0", "device=cpu", "val_split=val")
    run(dino.main, "--config", path, f"data={images}", f"out={tmp_path}", *large, *short)
    assert json.loads((tmp_path / "log.jsonl").read_text())["train_loss"] > 0


def test_mistakes_of_probing_are_told_in_one_line(checkpoint, images, tmp_path):
    data = ("--data", images, "--device", "cpu", "--workers", 0)
    probe = ("--checkpoint", checkpoint, *data, "--probe", "knn")
    for k in (0, 37):
        assert f"k={k} is not between 1 and 36" in fail(evaluate.main, *probe, "--k", k)
    assert "no folder" in fail(evaluate.main, *probe, "--train-split", "training")
    assert "has no classifier; evaluate --probe" in fail(evaluate.main, "--checkpoint", checkpoint, *data)
    photo = next((images / "val").rglob("*.png"))
    assert "has no classifier" in fail(classify.main, photo, "--checkpoint", checkpoint)
    torch.save({"args": argparse.Namespace(model="x"), "state_dict": {}}, tmp_path / "foreign.pth")
    assert "foreign.pth" in fail(evaluate.main, *probe, "--checkpoint", tmp_path / "foreign.pth")
    wide = "model_args={depth: 2, embed_dim: 24, patch_size: 4}"
    message = fail(train.main, *TINY, wide, f"data={images}", f"out={tmp_path}", f"checkpoint={checkpoint}")
    assert "does not fit" in message and "in the checkpoint and" in message
    torch.save(load_trained(checkpoint).state_dict(), tmp_path / "weights.pth")
    message = fail(evaluate.main, *probe, "--checkpoint", tmp_path / "weights.pth", "--model", "resmlp_s24")
    assert "weights.pth, as --model resmlp_s24, does not fit the model" in message
