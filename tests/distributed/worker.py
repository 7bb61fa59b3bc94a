"""Jobs, one after the other in the processes of one launch; prints a JSON line for each.

A process costs many seconds of imports, a job one or two. Each job has a process group of its own, and finds the
environment and the state of Accelerate as the launcher left them; a job for one process finds no trace of a launcher.
"""

from __future__ import annotations

import faulthandler
import json
import os
import sys
import traceback
from pathlib import Path
from typing import Any

import torch.distributed as dist
from accelerate.state import AcceleratorState, GradientState

from tests.distributed import shard, train

LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "LOCAL_WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT")
SECONDS = 120


def script(settings: dict[str, Any]) -> dict[str, Any]:
    """Run `run_glue_no_trainer.py` with these options, and return the history in its last checkpoint."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "glue_scripts"))
    import run_glue_no_trainer

    options = [str(word) for name, value in settings.items() for word in (f"--{name}", value)]
    sys.argv = ["run_glue_no_trainer.py", *options]
    run_glue_no_trainer.main()
    last = run_glue_no_trainer.checkpoint_to_resume(Path(settings["output_dir"]), resume=True)
    return {"history": json.loads((last / "history.json").read_text())}


KINDS = {"shard": shard.train, "train": train.train, "script": script}


def main() -> None:
    """Run the jobs of the JSON argument in the directory that follows; end at the first that raises or hangs."""
    os.chdir(sys.argv[2])
    rank, world_size = int(os.environ["RANK"]), int(os.environ["WORLD_SIZE"])
    store, *_ = next(dist.rendezvous("env://"))
    environment = dict(os.environ)
    for number, (processes, kind, settings) in enumerate(json.loads(sys.argv[1])):
        if rank >= processes:
            continue
        os.environ.clear()
        os.environ.update(environment)
        AcceleratorState._reset_state(reset_partial_state=True)
        GradientState._reset_state()
        own = dist.PrefixStore(f"job {number}", store)
        if processes == 1:
            for name in LAUNCHER:
                del os.environ[name]
        else:
            dist.init_process_group("gloo", store=own, rank=rank, world_size=world_size)
        faulthandler.dump_traceback_later(SECONDS, exit=True)
        try:
            result = KINDS[kind](settings)
            own.set(f"{rank} has finished", "")
            own.wait([f"{other} has finished" for other in range(processes)])
        except BaseException:
            print("RESULT", json.dumps({"traceback": f"Process {rank}: {traceback.format_exc()[-3000:]}"}), flush=True)
            os._exit(1)
        faulthandler.cancel_dump_traceback_later()
        if dist.is_initialized():
            dist.destroy_process_group()
        if rank == 0:
            print("RESULT", json.dumps(result), flush=True)
    os._exit(0)  # gloo's threads can abort the interpreter's own exit


if __name__ == "__main__":
    main()
