"""fairseq's binary data, written as sentences come: fairseq's own writer keeps 40 bytes of objects for each."""

import struct
from collections.abc import Iterable
from pathlib import Path

import numpy as np
from fairseq.data import data_utils
from fairseq.data.indexed_dataset import MMapIndexedDataset, best_fitting_int_dtype, data_file_path, index_file_path
from numpy.typing import NDArray

BLOCK = 1_000_000  # sentences whose places are computed at a time


def write_dataset(prefix: Path, batches: Iterable[list[list[int]]], vocab_size: int) -> int:
    """Write sentences as the data set that fairseq loads with ``--dataset-impl mmap``, its default.

    Args:
        prefix: the path without its ``.bin`` and ``.idx``, such as ``data-bin/train.en-de.en``.
        batches: sentences as token ids, the end of sentence included.
        vocab_size: entries of the dictionary; it decides how many bytes a token takes.

    Returns:
        The number of tokens.
    """
    dtype = best_fitting_int_dtype(vocab_size)
    sizes = [np.zeros(0, np.int32)]
    with open(data_file_path(str(prefix)), "wb") as file:
        for batch in batches:
            sizes.append(np.fromiter(map(len, batch), np.int32, len(batch)))
            file.write(np.array([token for sentence in batch for token in sentence], dtype).tobytes())
    lengths = np.concatenate(sizes)
    with MMapIndexedDataset.Index.writer(index_file_path(str(prefix)), dtype) as index:  # it writes the header
        file = index._file
        file.write(struct.pack("<Q", len(lengths)))
        file.write(lengths.tobytes())
        start = 0
        for i in range(0, len(lengths), BLOCK):
            ends = start + np.cumsum(lengths[i : i + BLOCK], dtype=np.int64) * dtype().itemsize
            file.write(np.concatenate([[start], ends[:-1]]).astype(np.int64).tobytes())
            start = ends[-1]
    return int(lengths.sum(dtype=np.int64))


def sentence_lengths(prefix: Path) -> NDArray[np.int32]:
    """Return the tokens of each sentence of such a data set, its end included."""
    dataset = data_utils.load_indexed_dataset(str(prefix), None)
    return np.array(dataset.sizes)  # which are a view on the dataset's memory, and that goes with the dataset
