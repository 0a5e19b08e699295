"""Which data sheet a GPU's name gets: the card's own or none."""

from types import SimpleNamespace

import pytest
import torch

from fcit_ray.planning.speed import found_gpu, named_gpu, this_cpu


@pytest.mark.parametrize(
    ("name", "peak", "memory"),  # bfloat16, 10^12/s; 10^9 B
    [
        ("A10", 125, 24),
        ("l4", 121, 24),
        ("L40S", 362, 48),
        ("H100", 989, 80),
        ("4090", 165, 24),
        ("a100-40gb", 312, 40),
        # as torch tells them
        ("NVIDIA A100-SXM4-80GB", 312, 80),
        ("NVIDIA A100-PCIE-40GB", 312, 40),
        ("NVIDIA A100 80GB PCIe", 312, 80),
        ("NVIDIA H100 80GB HBM3", 989, 80),
        ("NVIDIA H100 PCIe", 756, 80),
        ("NVIDIA H100 NVL", 835, 94),
        ("NVIDIA H200", 989, 141),
        ("NVIDIA RTX A6000", 155, 48),
        ("NVIDIA GeForce RTX 3090", 71, 24),
    ],
)
def test_a_card_gets_its_own_data_sheet(name, peak, memory):
    device = named_gpu(name)
    assert (device.peak, device.memory) == (peak * 1e12, memory * 1e9)


@pytest.mark.parametrize(
    "name",
    [
        "A",
        "80GB",
        "",
        "A10G",
        "L40",
        "H20",
        "GH200 480GB",
        "H100 64GB",
        "GeForce RTX 3090 Ti",
        "RTX 4090 Laptop GPU",
        "A100-SXM4-40GB MIG 1g.5gb",
        "Tesla V100-SXM2-16GB",
        "RTX 6000 Ada Generation",
    ],
)
def test_a_card_of_a_similar_name_gets_none(name):
    with pytest.raises(ValueError, match=r"unknown GPU; known: B200, H200, .*; or give --gpu-memory-gb alone"):
        named_gpu(name)


def test_a_name_of_several_cards_asks_which():
    with pytest.raises(ValueError, match=r"'A100': may be A100-80GB or A100-40GB; name one of these"):
        named_gpu("A100")
    assert named_gpu("A100", 39.0).basis == "data sheet of A100-40GB, dense bfloat16"


def test_a_float32_run_gets_the_float32_peak():
    assert named_gpu("A10", dtype="float32").peak == 31.2e12
    assert "float32" in named_gpu("A10", dtype="float32").basis
    assert this_cpu("bfloat16").basis == "measured: a bfloat16 matrix product in this process"


@pytest.mark.parametrize(
    ("name", "memory", "basis"),
    [
        ("NVIDIA A100-SXM4-80GB", 85.0e9, "data sheet of A100-80GB, dense bfloat16"),
        ("NVIDIA A100", 42.4e9, "data sheet of A100-40GB, dense bfloat16"),  # told apart by what is measured
        ("NVIDIA A10G", 23.7e9, "not in the table: no time is estimated"),
    ],
)
def test_the_card_that_is_found_keeps_its_name_and_its_measured_memory(monkeypatch, name, memory, basis):
    properties = SimpleNamespace(name=name, total_memory=int(memory))
    monkeypatch.setattr(torch.cuda, "is_available", lambda: True)
    monkeypatch.setattr(torch.cuda, "get_device_properties", lambda index: properties)
    device = found_gpu()
    assert (device.name, device.memory, device.basis) == (name, memory, basis)
