"""The memory, the cores and the GPUs of a machine, as a run finds them."""

import math
import os
import sys
from unittest import mock

import pytest
import torch

from resmlp_core.common import devices
from resmlp_core.common.devices import limit_memory, limited_memory, peak_memory, reset_peak_memory


def test_a_gpu_is_given_the_share_of_its_memory_as_the_float_that_pytorch_demands(monkeypatch):
    limits = []
    monkeypatch.setattr(torch.cuda, "set_per_process_memory_fraction", limits.append)
    limit_memory(True, spare=0)
    with limited_memory(True):
        assert limits == [1.0, 0.9]
    assert limits == [1.0, 0.9, 1.0] and all(type(limit) is float for limit in limits)


def test_on_a_cpu_a_gpu_beside_it_is_neither_limited_nor_measured(monkeypatch):
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    limits = mock.Mock(getrlimit=lambda which: (-1, -1), RLIMIT_DATA=2)
    monkeypatch.setitem(sys.modules, "resource", limits)
    monkeypatch.setattr(devices.Path, "write_text", lambda *_, **__: None)
    for name in ("set_per_process_memory_fraction", "max_memory_reserved", "reset_peak_memory_stats"):
        monkeypatch.setattr(torch.cuda, name, lambda *_, name=name: pytest.fail(name))
    with limited_memory(False):
        reset_peak_memory(False)
        assert peak_memory(False) > 10**6
    assert limits.setrlimit.call_count == 2


def test_gpus_without_room_for_the_probe_have_no_known_interconnect(monkeypatch):
    emptied = mock.Mock()
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(torch.cuda, "empty_cache", emptied)
    monkeypatch.setattr(torch, "zeros", mock.Mock(side_effect=torch.OutOfMemoryError("CUDA out of memory")))
    assert devices.interconnect_speed() is None
    assert emptied.called


@pytest.mark.parametrize(
    ("own", "folder", "most", "used", "idle"),
    [
        ("0::/slice/job", "slice", "memory.max", "memory.current", "inactive_file"),
        (
            "9:memory:/slice/job",
            "memory/slice",
            "memory.limit_in_bytes",
            "memory.usage_in_bytes",
            "total_inactive_file",
        ),
        ("0::/", ".", "memory.max", "memory.current", "inactive_file"),
    ],
)
def test_a_control_group_has_what_it_neither_uses_nor_holds_of_idle_files(tmp_path, own, folder, most, used, idle):
    (tmp_path / "own").write_text(f"2:cpu,cpuacct:/elsewhere\n{own}\n")
    group = tmp_path / folder
    group.mkdir(parents=True, exist_ok=True)
    (group / most).write_text("5000\n")
    (group / used).write_text("4500\n")
    assert devices.available_memory(tmp_path, tmp_path / "own") == 500
    (group / "memory.stat").write_text(f"anon 700\n{idle} 3000\n")
    assert devices.available_memory(tmp_path, tmp_path / "own") == 3500
    (group / most).write_text("max\n")
    assert devices.available_memory(tmp_path, tmp_path / "own") > 10**6


def test_a_process_has_its_share_of_the_cores_that_its_machine_grants(monkeypatch):
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(16)))
    for granted, processes, cores in ((math.inf, 1, 16), (math.inf, 3, 5), (6.5, 2, 3), (0.5, 1, 1), (4, 8, 1)):
        monkeypatch.setattr(devices, "granted_cores", lambda granted=granted: granted)
        assert devices.available_cores(processes) == cores


def test_the_least_quota_of_the_control_groups_counts(tmp_path):
    own = tmp_path / "own"
    own.write_text("1:cpu:/ignored\n0::/slice/job\n")
    assert devices.granted_cores(tmp_path, own) == devices.granted_cores(tmp_path, tmp_path / "none") == math.inf
    (tmp_path / "slice" / "job").mkdir(parents=True)
    (tmp_path / "slice" / "job" / "cpu.max").write_text("max 100000\n")
    assert devices.granted_cores(tmp_path, own) == math.inf
    (tmp_path / "slice" / "cpu.max").write_text("250000 100000\n")
    assert devices.granted_cores(tmp_path, own) == 2.5
    (tmp_path / "cpu").mkdir()
    for name, value in (("quota", 200000), ("period", 100000)):
        (tmp_path / "cpu" / f"cpu.cfs_{name}_us").write_text(f"{value}\n")
    assert devices.granted_cores(tmp_path, own) == 2
    (tmp_path / "cpu" / "cpu.cfs_quota_us").write_text("-1\n")
    assert devices.granted_cores(tmp_path, own) == 2.5


@pytest.mark.parametrize(
    ("flags", "emulated"),
    [
        ("flags\t\t: fpu avx512_vnni", {"bfloat16", "float16"}),
        ("flags\t\t: avx512_bf16 amx_tile", {"float16"}),
        ("flags\t\t: amx_bf16 avx512_fp16", set()),
        ("Features\t: fp asimdhp bf16", set()),
        ("", set()),  # not Linux: nothing is known
    ],
)
def test_formats_without_instructions_are_emulated(flags, emulated, monkeypatch):
    monkeypatch.setattr(devices, "_read", lambda path: f"model name\t: of bf16 float16\n{flags}\n")
    dtypes = ("float32", "bfloat16", "float16", "int8")
    assert {dtype for dtype in dtypes if devices.emulates.__wrapped__(dtype)} == emulated
