"""A trainer that learns nothing: it speaks the trainer's protocol, fast, and misbehaves where it is told to."""

import argparse
import hashlib
import json
import os
import signal
import sys
import time
from pathlib import Path

from PIL import Image

from difffit_core.training.checkpoints import TENSORS, check_whole, newest_first, seal, step_name


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--crash-at", type=int, help="die by SIGKILL after this step, unless a checkpoint was there")
    parser.add_argument("--always", action="store_true", help="crash also after a restart")
    parser.add_argument("--hang-at", type=int, help="stand still after this step, deaf, unless a checkpoint was there")
    parser.add_argument("--fail-at", type=int, help="report a failure after this step")
    parser.add_argument("--memory", type=int, help="images that fit at a time; more are reported as out of memory")
    parser.add_argument("--encodes", action="store_true", help="write encodings, or reuse those that are there")
    parser.add_argument("--deaf", action="store_true", help="ignore SIGTERM")
    parser.add_argument("--step-seconds", type=float, default=0.01)
    options = parser.parse_args()
    stopping = []
    signal.signal(signal.SIGTERM, signal.SIG_IGN if options.deaf else lambda *_: stopping.append(True))
    folder = Path(sys.stdin.readline().rstrip("\n"))
    spec = json.loads((folder / "spec.json").read_text())
    assert (folder / "dataset" / "index.jsonl").exists()
    assert "DATABASE_URL" not in os.environ
    steps = spec["hyperparameters"]["steps"]
    with (folder / "events.jsonl").open("a") as events:

        def emit(kind: str, **data: object) -> None:
            events.write(json.dumps({"type": kind, "time": time.time()} | data) + "\n")
            events.flush()

        found = newest_first(folder / "checkpoints")
        resumed = check_whole(found[0]) if found else None
        emit("started", trained_parameters=5, total_parameters=50, total_steps=steps, resumed_from=resumed, device="cpu")
        encodings = folder / "encodings.safetensors"
        if options.encodes and encodings.exists():
            emit("encodings_reused", examples=8)
        elif options.encodes:
            encodings.write_bytes(b"encoded")
            emit("encoded", path=encodings.name, bytes=7, sha256=hashlib.sha256(b"encoded").hexdigest())
        if resumed is None:
            emit("validation", step=0, loss=2.0, base=True)
        step = resumed or 0

        def checkpoint() -> None:
            path = folder / "checkpoints" / step_name(step)
            path.mkdir(parents=True, exist_ok=True)
            (path / TENSORS).write_bytes(b"state")
            seal(path, step)
            emit("checkpoint", step=step, path=str(path.relative_to(folder)), bytes=1)

        while step < steps and not stopping:
            time.sleep(options.step_seconds)
            step += 1
            emit("progress", step=step, total_steps=steps, train_loss=1 / step, samples_per_second=9.0, seconds_remaining=1.0)
            if step % spec["hyperparameters"]["checkpoint_every"] == 0:
                checkpoint()
            if options.memory is not None and spec["hyperparameters"]["micro_batch_size"] > options.memory:
                emit("failed", code="out_of_memory", message="no memory", param="hyperparameters.micro_batch_size")
                sys.exit(1)
            if step == options.fail_at:
                emit("failed", code="diverged", message="The loss became nan.", param="hyperparameters.learning_rate")
                sys.exit(1)
            if step == options.hang_at and resumed is None:
                signal.signal(signal.SIGTERM, signal.SIG_IGN)
                while True:
                    signal.pause()
            if step == options.crash_at and (resumed is None or options.always):
                sys.stderr.write("about to die\n")
                sys.stderr.flush()
                os.kill(os.getpid(), signal.SIGKILL)
        if step < steps:
            checkpoint()
            emit("stopped", step=step)
            return
        (folder / "samples").mkdir()
        Image.new("RGB", (8, 8)).save(folder / "samples" / f"step-{step:06d}.png")
        emit("sample", step=step, path=f"samples/step-{step:06d}.png", labels=["blue", "red"])
        emit("validation", step=step, loss=1.0, base=False)
        (folder / "adapter").mkdir()
        (folder / "adapter" / "adapter.safetensors").write_bytes(b"an adapter")
        emit("adapter", path="adapter/adapter.safetensors", bytes=10, sha256="0" * 64, class_names=["blue", "red"])
        emit("succeeded", seconds=1.0)


if __name__ == "__main__":
    main()
