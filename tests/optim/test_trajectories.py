"""What every member has done before is what it does: losses and step sizes of a hundred steps in fp64.

python -m tests.optim.test_trajectories          (writes trajectories.json anew, after a change of a rule)
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from packaging.version import Version

from hf_sls.optim import LineSearchOptimizer

from ..members import WITH_AUTHORS_CODE as MEMBERS
from ..problems import Network, Transformer

STORED = Path(__file__).with_name("trajectories.json")
PROBLEMS: dict[str, Callable[[], Network | Transformer]] = {
    "network": lambda: Network(dropout=0.2),
    "transformer": Transformer,
}


def trajectory(problem: str, member: str) -> dict[str, list[float]]:
    """Return the loss before every fifth of a hundred steps, and the step size taken."""
    model = PROBLEMS[problem]()
    torch.manual_seed(1)
    optimizer: LineSearchOptimizer = MEMBERS[member](model.parameters())
    found: dict[str, list[float]] = {"loss": [], "step_size": []}
    for step, closure in enumerate(model.closures(100)):
        loss = optimizer.step(closure)
        if step % 5 == 4:
            found["loss"].append(float(loss))
            found["step_size"].append(optimizer.param_groups[0]["step_size"])
    return found


@pytest.mark.parametrize("member", MEMBERS)
@pytest.mark.parametrize("problem", PROBLEMS)
def test_the_trajectory_is_the_stored_one(problem: str, member: str) -> None:
    if problem == "transformer" and Version(torch.__version__) < Version("2.11"):
        pytest.skip("torch 2.6 initializes nn.TransformerEncoderLayer otherwise")
    stored = json.loads(STORED.read_text())[problem][member]
    found = trajectory(problem, member)
    for name in ("loss", "step_size"):  # 40 steps: after a hundred, the rounding of another processor has grown to 0.1
        assert found[name][:8] == pytest.approx(stored[name][:8], rel=1e-6, abs=1e-12)


if __name__ == "__main__":
    found = {problem: {member: trajectory(problem, member) for member in MEMBERS} for problem in PROBLEMS}
    STORED.write_text(json.dumps(found, indent=None, separators=(",", ":")).replace('},"', '},\n"') + "\n")
