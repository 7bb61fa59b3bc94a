"""Runs of the matrix in one process, or as one of several under torchrun; a JSON line for each on the main process."""

from __future__ import annotations

import json
import os
import sys
import traceback
from pathlib import Path

import torch

from tests.features.cases import run


def main() -> None:
    """Run the lists of features in the JSON argument, one after the other, in the shared directory that follows."""
    torch.set_num_threads(1)
    for number, names in enumerate(json.loads(sys.argv[1])):
        try:
            result = run(names, Path(sys.argv[2]) / str(number))
        except Exception:
            result = {"error": traceback.format_exc()[-1500:]}
        if int(os.environ.get("RANK", "0")) == 0:
            print("RESULT", json.dumps({"names": names, **result}), flush=True)
    os._exit(0)  # gloo's threads can abort the interpreter's own exit


if __name__ == "__main__":
    main()
