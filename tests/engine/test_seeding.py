import random

import numpy as np
import torch

from cvtasks.engine.seeding import derive, seed_all


def test_a_seed_is_fixed_for_ever() -> None:
    # Golden number: a change would make every stored run resume differently.
    assert derive(0, "step", 1) == 4_238_720_567_276_977_853


def test_seeds_differ_in_every_part_and_fit_an_int64() -> None:
    seeds = {derive(s, kind, n) for s in range(5) for kind in ("step", "evaluate") for n in range(50)}
    assert len(seeds) == 500
    assert derive(1, 23) != derive(12, 3)
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_all_three_generators_are_seeded() -> None:
    draws = []
    for _ in range(2):
        seed_all(3, "step", 9)
        draws.append((torch.rand(1).item(), np.random.rand(), random.random()))
    assert draws[0] == draws[1]
