"""The training loader: timm's images, each read once for its copies and cropped by PyTorch, augmented as asked."""

import random

import numpy as np
import pytest
import torch
from PIL import Image
from timm.data import create_transform
from timm.data.auto_augment import AugmentOp, RandAugment
from timm.data.distributed_sampler import RepeatAugSampler

from resmlp_vision.config import Config, read_config
from resmlp_vision.data.crops import RandomCrop
from resmlp_vision.data.loaders import training_loader
from resmlp_vision.data.opening import open_dataset
from resmlp_vision.data.repeats import CopiesTogether
from resmlp_vision.distributed import join_processes, leave_processes
from resmlp_vision.training.supervised import SupervisedTrainer

from .runs import TINY, write_images


def seed():
    random.seed(1)
    np.random.seed(1)
    torch.manual_seed(1)


def photograph(width, height):
    """Coloured blobs and grain, as a photograph has them."""
    rng = np.random.default_rng(0)
    blobs = Image.fromarray(rng.integers(0, 256, (9, 12, 3), dtype=np.uint8)).resize((width, height))
    grain = np.asarray(blobs) + rng.normal(0, 10, (height, width, 1))
    return Image.fromarray(grain.clip(0, 255).astype(np.uint8))


@pytest.mark.parametrize("size", [(500, 375), (90, 120), (1600, 300)])
def test_a_crop_is_timms_to_a_part_of_a_grey_level(size):
    timms = create_transform(224, is_training=True, interpolation="bicubic", use_prefetcher=True).transforms[0]
    image, differences = photograph(*size), []
    for crop in (timms, RandomCrop(timms)):
        seed()
        differences.append(np.stack([np.asarray(crop(image), dtype=np.float32) for _ in range(30)]))
    difference = np.abs(differences[0] - differences[1])
    assert difference.mean(axis=(1, 2, 3)).max() < 0.4 and difference.max() <= 8
    assert abs(differences[0].mean() - differences[1].mean()) < 0.1


@pytest.fixture
def alone():
    join_processes("cpu")
    yield
    leave_processes()


def test_a_batch_is_that_of_single_images_and_reads_each_once(alone, tmp_path, monkeypatch):
    folder = write_images(tmp_path, images=40)
    config = Config(data=str(folder), img_size=32, batch_size=30, workers=0, repeated_aug=3)
    dataset = open_dataset(config, "train", training=True)
    read, reader = [], type(dataset.reader).__getitem__
    monkeypatch.setattr(type(dataset.reader), "__getitem__", lambda self, i: read.append(i) or reader(self, i))
    loader = training_loader(dataset, config, torch.device("cpu")).loader
    indices = list(loader.sampler)[:30]
    seed()
    batch, labels = next(iter(loader))
    assert len(read) == 10
    seed()
    torch.empty((), dtype=torch.int64).random_()  # what the loader draws for its workers' seeds
    one_by_one = [dataset[i] for i in indices]
    assert batch.equal(torch.stack([image for image, _ in one_by_one]))
    assert labels.tolist() == [label for _, label in one_by_one]
    assert len(read) == 10 + 30 and batch.dtype == torch.uint8


@pytest.mark.parametrize(("images", "repeats"), [(600, 3), (100, 2)])
def test_copies_come_to_one_process_and_every_batch_over_all_is_timms(images, repeats):
    shared, timms = [], []
    for rank in range(4):
        sampler = RepeatAugSampler(range(images), num_replicas=4, rank=rank, num_repeats=repeats)
        sampler.set_epoch(5)
        timms.append(list(sampler))
        together = CopiesTogether(sampler, 6)
        shared.append(list(together))
        assert len(together) == len(sampler) and len(shared[-1]) == len(sampler) // 6 * 6
        assert all(len(set(shared[-1][start : start + 6])) == 6 // repeats for start in range(0, len(shared[-1]), 6))
    for start in range(0, len(shared[0]), 6):
        batches = [sorted(i for part in parts for i in part[start : start + 6]) for parts in (shared, timms)]
        assert batches[0] == batches[1]


def test_an_image_that_cannot_be_read_is_replaced_in_all_its_copies_and_counted_once(tmp_path):
    folder = write_images(tmp_path)
    dataset = open_dataset(Config(data=str(folder)), "train", training=True)
    (folder / "train" / "class0" / dataset.reader.filename(2, basename=True)).write_bytes(b"no image")
    dataset.transform = np.asarray
    items = dataset.__getitems__([2, 2, 2, 5])
    assert [np.array_equal(items[i][0], dataset[3][0]) for i in range(3)] == [True] * 3
    assert len(items) == 4 and np.array_equal(items[3][0], dataset[5][0])
    assert dataset.unreadable.finish() == 1


def test_the_papers_augmentation_takes_every_strength_that_it_draws():
    """Pillow refuses to posterise to 0 bits, which rand-m9-mstd0.5-inc1 draws for one image in a thousand."""
    operation = AugmentOp("PosterizeIncreasing", prob=1, magnitude=10)
    image = Image.effect_noise((8, 8), 50).convert("RGB")
    assert operation(image).getextrema() == ((0, 0),) * 3
    kept = AugmentOp("PosterizeIncreasing", prob=1, magnitude=5)(image)  # 4 - 2 bits
    assert {value % 64 for value in kept.tobytes()} == {0} and kept != image


def test_images_are_augmented_as_the_settings_say(alone, images, tmp_path):
    asked = ("auto_augment=rand-m7-n3", "reprob=0.3", "mixup=0.7", "cutmix=0.4", "smoothing=0.2", "repeated_aug=2")
    settings = read_config(None, [*TINY, f"data={images}", f"out={tmp_path}", *asked], Config)
    trainer = SupervisedTrainer(settings, torch.device("cpu"))
    (policy,) = (step for step in trainer.loader.dataset.transform.transforms if isinstance(step, RandAugment))
    assert policy.num_layers == 3 and {operation.magnitude for operation in policy.ops} == {7}
    assert trainer.loader.random_erasing.probability == 0.3
    mixup = trainer.mixup
    assert (mixup.mixup_alpha, mixup.cutmix_alpha, mixup.label_smoothing) == (0.7, 0.4, 0.2)
    assert trainer.loader.sampler.num_repeats == 2


def test_an_augmentation_that_fails_is_not_taken_for_a_broken_image(images):
    dataset = open_dataset(Config(data=str(images)), "train", training=True)

    def fail(image):
        raise ValueError("bits must be in the range 1 to 8")

    dataset.transform = fail
    with pytest.raises(ValueError, match="bits must be"):
        dataset[0]


def test_the_loader_has_as_many_processes_as_the_cores_that_the_training_can_have(alone, images, tmp_path, monkeypatch):
    monkeypatch.setattr("resmlp_vision.data.loaders.available_cores", lambda processes: 6 // processes)
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    for workers, processes in (("null", 3), (1, 1), (0, 0)):
        settings = read_config(None, [*TINY, f"data={images}", f"out={tmp_path}", f"workers={workers}"], Config)
        trainer = SupervisedTrainer(settings, torch.device("cpu"))
        assert trainer.loader.loader.num_workers == trainer.val_loader.loader.num_workers == processes
