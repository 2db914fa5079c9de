import pytest
import torch

import devices


def test_seeded_draws_are_repeatable_and_invisible_outside():
    cpu = torch.device("cpu")
    torch.manual_seed(1)
    wanted = torch.rand(3)
    torch.manual_seed(1)
    with devices.seeded(7, cpu):
        first = torch.rand(3)
    assert torch.equal(torch.rand(3), wanted)
    with devices.seeded(7, cpu):
        assert torch.equal(torch.rand(3), first)


def test_devices_and_precisions_that_are_not_there_are_refused():
    cpu = torch.device("cpu")
    assert devices.choose_device("cpu") == cpu
    if not torch.cuda.is_available():
        with pytest.raises(ValueError, match="'cuda'"):
            devices.choose_device("cuda")
    with pytest.raises(ValueError, match="fp16 needs CUDA"):
        devices.choose_precision("fp16", cpu)
    assert devices.choose_precision("fp32", cpu) == torch.float32
    assert devices.choose_precision("auto", cpu) in (torch.float32, torch.bfloat16)
