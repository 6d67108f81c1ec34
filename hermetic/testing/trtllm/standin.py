#!/usr/bin/env python3
"""A STAND-IN for TensorRT-LLM's ``trtllm-build`` and ``trtllm-bench build``. It builds nothing that can run.

It accepts exactly the options that ``options.json`` lists (see `tables`), refuses others with exit status 2, and writes
files in the order and the way of the real tools: ``config.json`` first, then each ``rank<N>.engine`` by a plain open
and write, without a rename or a sync. An "engine" is the four bytes ``ftrt`` and noise that follows from its rank and
the checkpoint's bytes; nothing in it says how long it ought to be. Standard library only.

Started as ``trtllm-build``, as ``trtllm-bench``, or as ``standin.py trtllm-build …``; `image` makes an image of it.

It can behave badly, as the environment says:

STANDIN_BEHAVIOUR  ``exit`` (as a good tool does), ``hang`` (write all, then never end), ``crash`` (SIGSEGV in the
                   middle of the last engine), ``nothing`` (exit 0 without a file), ``fail`` (exit 1 after everything
                   is written), ``truncate`` (close the last engine half-written, then hang), ``zeros``
                   (the same, but fill it with zeros first, so that its size is right), ``linger`` (hang while
                   the last engine is held open for writing), ``slow`` (hang in the middle of the last engine)
STANDIN_BYTES      size of each engine [1000000]
STANDIN_CHUNKS     writes for each engine [4]
STANDIN_PAUSE      seconds between writes [0.1]
STANDIN_STUBBORN   1: children that ignore SIGTERM, in sessions of their own, one of them twice forked [1]
STANDIN_NOISE      ``tail``: the last bytes of each engine are of this build alone, as if other tactics of the same
                   layers had been measured to be as fast; ``all``: everything but its first four bytes is
STANDIN_MARK       a word in those children's command lines, to find them by
"""

import argparse
import hashlib
import json
import os
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

HERE = Path(__file__).resolve().parent
BEHAVIOURS = ("exit", "hang", "crash", "nothing", "fail", "truncate", "zeros", "linger", "slow")

#: In the order of ``SpeculativeDecodingMode``, whose values are what config.json has.
MODES = (None, "draft_tokens_external", "medusa", "lookahead_decoding", "explicit_draft_tokens", "eagle")


def main(words: Sequence[str]) -> int:
    tables = read_tables()
    words = list(words)
    if Path(words[0]).name.startswith("standin"):
        del words[0]
    program = Path(words.pop(0)).name if words else ""
    introduce(tables)
    if program == "trtllm-build":
        return trtllm_build(tables, parse(program, tables[program], words))
    if program == "trtllm-bench":
        return trtllm_bench(tables, words)
    sys.stderr.write("standin.py: which program? trtllm-build or trtllm-bench\n")
    return 2


def read_tables() -> dict[str, Any]:
    tables: dict[str, Any] = json.loads((HERE / "options.json").read_bytes())
    return tables


def introduce(tables: dict[str, Any]) -> None:
    print(f"hermetic's STAND-IN for {tables['standin_for']}, not the real tool; its engines cannot run", flush=True)


def parse(program: str, table: list[dict[str, Any]], words: Sequence[str]) -> argparse.Namespace:
    """Exits with status 2. The real tools use argparse and so take abbreviations; the bench, with click, does not."""
    parser = argparse.ArgumentParser(prog=program, allow_abbrev=not program.startswith("trtllm-bench"))
    for row in table:
        option = dict(row)
        names, kind, fold = option.pop("names"), option.pop("type", "str"), option.pop("fold", False)
        if kind == "flag":
            parser.add_argument(*names, action="store_true")
            continue
        types: dict[str, Callable[[str], object]] = {"int": int, "bool": boolean, "str": str.lower if fold else str}
        parser.add_argument(*names, type=types.get(kind, str), **option)
    return parser.parse_args(words)


def boolean(word: str) -> bool:
    """``--trust_remote_code True``: it takes a value."""
    if word.lower() not in {"1", "true", "yes", "on", "t", "y", "0", "false", "no", "off", "f", "n"}:
        raise argparse.ArgumentTypeError(f"{word!r} is not a valid boolean")
    return word.lower() in {"1", "true", "yes", "on", "t", "y"}


def trtllm_build(tables: dict[str, Any], options: argparse.Namespace) -> int:
    if options.checkpoint_dir is None:
        raise AttributeError("'NoneType' object has no attribute 'lower'")  # what the real one dies of
    checkpoint = Path(options.checkpoint_dir)
    # As the real one's configurations do, it completes what a script left out.
    model = {"mapping": {"world_size": 1}} | json.loads((checkpoint / "config.json").read_bytes())
    drafts = options.max_draft_len or model.get("max_draft_len", 0)
    effective = {
        "max_batch_size": options.max_batch_size,
        "max_input_len": options.max_input_len,
        "max_seq_len": (options.max_seq_len or model.get("max_position_embeddings", 1024)) + drafts,  # as the real one
        "max_draft_len": drafts,
        "speculative_decoding_mode": 1 << MODES.index(options.speculative_decoding_mode),
        "max_num_tokens": options.max_num_tokens,
        "max_encoder_input_len": options.max_encoder_input_len,
        "max_beam_width": options.max_beam_width,
        "profiling_verbosity": options.profiling_verbosity,
        "kv_cache_type": (getattr(options, "kv_cache_type", None) or "paged").upper(),
        "plugin_config": {
            "tokens_per_block": options.tokens_per_block,
            "use_paged_context_fmha": options.use_paged_context_fmha == "enable",
            # Off without a word, as the real one does it of most models, and on one rank.
            "reduce_fusion": options.reduce_fusion == "enable"
            and model.get("mapping", {}).get("tp_size", 1) > 1
            and str(model.get("architecture")).startswith("Llama"),
        },
    }
    if options.dry_run:
        return 0
    started = time.monotonic()
    Path(options.output_timing_cache).write_bytes(b"a timing cache of the STAND-IN\n")
    for number, adapter in enumerate(options.lora_dir or ()):
        target = Path(options.output_dir) / "lora" / str(number)
        target.mkdir(parents=True)
        for name in ("adapter_config.json", "adapter_model.safetensors"):
            shutil.copy2(Path(adapter) / name, target)
    return ending(save(tables, Path(options.output_dir), model, effective, checkpoint, started), started)


def trtllm_bench(tables: dict[str, Any], words: Sequence[str]) -> int:
    if "build" not in words:
        if "--help" in words:
            parse("trtllm-bench", tables["trtllm-bench"], words)
        sys.stderr.write("Usage: trtllm-bench [OPTIONS] COMMAND [ARGS]...\nError: Missing command.\n")
        return 2
    split = list(words).index("build")
    group = parse("trtllm-bench", tables["trtllm-bench"], words[:split])
    options = parse("trtllm-bench build", tables["trtllm-bench build"], words[split + 1 :])
    if problem := bench_problem(options):
        sys.stderr.write(f"Error: {problem}\n")
        return 2
    checkpoint = Path(group.model_path or ".")
    model = json.loads((checkpoint / "config.json").read_bytes()) | {
        "mapping": {
            "world_size": options.tp_size * options.pp_size,
            "tp_size": options.tp_size,
            "pp_size": options.pp_size,
        },
        "quantization": {
            "quant_algo": options.quantization,
            "kv_cache_quant_algo": "FP8" if options.quantization in {"FP8", "NVFP4"} else None,
        },
    }
    effective = {"max_batch_size": options.max_batch_size or 2048, "max_num_tokens": options.max_num_tokens or 8192}
    started = time.monotonic()
    workspace = Path(group.workspace)
    workspace.mkdir(parents=True, exist_ok=True)
    # The real one is removed when the process ends by itself, and stays when it is killed.
    with tempfile.TemporaryDirectory(suffix="-llm-workspace", dir=workspace) as folder:
        engine = Path(folder) / "tmp.engine"
        done = save(tables, engine, model, effective, checkpoint, started)
        for file in sorted(checkpoint.glob("tokenizer*")) if done else ():
            (engine / file.name).write_bytes(file.read_bytes())
        status = ending(done, started)
        if done:
            final = workspace / group.model / f"tp_{options.tp_size}_pp_{options.pp_size}"
            shutil.copytree(engine, final)  # as the real one does: times and all
    return status


def bench_problem(options: argparse.Namespace) -> str:
    if options.tp_size * options.pp_size > 8:
        return "tp_size * pp_size may be 8 at most"
    if not (options.max_seq_len or options.dataset):
        return "--max_seq_len or --dataset is needed"
    given = [options.dataset is not None]
    for pair in (("max_batch_size", "max_num_tokens"), ("target_input_len", "target_output_len")):
        present = [getattr(options, name) is not None for name in pair]
        if any(present) and not all(present):
            return f"--{pair[0]} and --{pair[1]} go together"
        given.append(all(present))
    return "only one of the three groups of options may be given" if sum(given) > 1 else ""


def save(
    tables: dict[str, Any],
    folder: Path,
    model: dict[str, Any],
    effective: dict[str, Any],
    checkpoint: Path,
    started: float,
) -> bool:
    """Write the engine; whether anything was written."""
    behaviour = os.environ.get("STANDIN_BEHAVIOUR", "exit")
    if behaviour not in BEHAVIOURS:
        raise SystemExit(f"STANDIN_BEHAVIOUR is one of {', '.join(BEHAVIOURS)}, not {behaviour}")
    stubborn_children()
    if behaviour == "nothing":
        return False
    folder.mkdir(parents=True, exist_ok=True)
    config = {"version": tables["version"], "pretrained_config": model, "build_config": effective}
    (folder / "config.json").write_text(json.dumps(config, indent=4))
    log(f"Total time of building Unnamed Network 0: {clock(started)}")
    ranks = model.get("mapping", {}).get("world_size", 1)
    seed = hashlib.blake2b((checkpoint / "config.json").read_bytes()).digest()
    for rank in range(ranks):
        write_in_child(folder / f"rank{rank}.engine", rank, seed, behaviour if rank == ranks - 1 else "exit")
    return True


def write_in_child(path: Path, rank: int, seed: bytes, behaviour: str) -> None:
    """Each rank in a process and a session of its own, as ranks of MPI are."""
    child = os.fork()
    if child == 0:
        os.setsid()
        write_engine(path, rank, seed, behaviour)
        os._exit(0)
    _, status = os.waitpid(child, 0)
    if os.WIFSIGNALED(status):
        os.kill(os.getpid(), os.WTERMSIG(status))
    if status:
        raise SystemExit(os.waitstatus_to_exitcode(status))


def write_engine(path: Path, rank: int, seed: bytes, behaviour: str) -> None:
    started = time.monotonic()
    log(f"Serializing engine to {path}...")
    with open(path, "wb", buffering=0) as stream:
        if behaviour == "zeros":
            stream.write(bytes(sum(map(len, chunks(rank, seed)))))
            stream.seek(0)
        for number, chunk in enumerate(chunks(rank, seed)):
            if number:
                time.sleep(float(os.environ.get("STANDIN_PAUSE", "0.1")))
            if number >= int(os.environ.get("STANDIN_CHUNKS", "4")) // 2:
                misbehave(behaviour)
                if behaviour in {"truncate", "zeros"}:
                    break
            stream.write(chunk)
        if behaviour == "linger":
            hang()
    if behaviour in {"truncate", "zeros"}:
        hang()
    log(f"Engine serialized. Total time: {clock(started)}")


def misbehave(behaviour: str) -> None:
    if behaviour == "crash":
        os.kill(os.getpid(), signal.SIGSEGV)
    if behaviour == "slow":
        hang()


def chunks(rank: int, seed: bytes) -> Iterator[bytes]:
    size, count = int(os.environ.get("STANDIN_BYTES", "1000000")), int(os.environ.get("STANDIN_CHUNKS", "4"))
    noise = hashlib.shake_128(seed + rank.to_bytes(4, "little")).digest(max(size - 4, 0))
    whole = b"ftrt" + noisy(noise)
    step = -(-len(whole) // count)
    for start in range(0, len(whole), step):
        yield whole[start : start + step]


def noisy(noise: bytes) -> bytes:
    kind = os.environ.get("STANDIN_NOISE", "")
    fresh = {"tail": min(16, len(noise)), "all": len(noise)}.get(kind, 0)
    return noise[: len(noise) - fresh] + os.urandom(fresh)


def ending(written: bool, started: float) -> int:
    behaviour = os.environ.get("STANDIN_BEHAVIOUR", "exit")
    if written:
        log(f"Total time of building all engines: {clock(started)}")
    if behaviour == "hang":
        hang()
    return 1 if behaviour == "fail" else 0


def hang() -> None:
    """As ``MpiPoolSession`` does: its threads wait for children that never answer."""
    while True:
        signal.pause()


def stubborn_children() -> None:
    """Workers that outlive whoever started them, unless somebody sees to it."""
    if os.environ.get("STANDIN_STUBBORN", "1") != "1":
        return
    code = "import signal; signal.signal(signal.SIGTERM, signal.SIG_IGN); print(end='\\n', flush=True); signal.pause()"
    command = [sys.executable, "-c", code, "standin-worker", os.environ.get("STANDIN_MARK", "")]
    with subprocess.Popen(command, start_new_session=True, stdout=subprocess.PIPE) as worker:
        assert worker.stdout is not None
        worker.stdout.readline()
        worker.returncode = 0  # nobody waits for it
    if os.fork() == 0:
        os.setsid()
        if os.fork() == 0:
            os.execv(sys.executable, command)
        os._exit(0)
    os.wait()


def log(text: str) -> None:
    print(f"[{time.strftime('%m/%d/%Y-%H:%M:%S')}] [TRT-LLM] [I] {text}", flush=True)


def clock(started: float) -> str:
    return time.strftime("%H:%M:%S", time.gmtime(time.monotonic() - started))


if __name__ == "__main__":
    sys.exit(main(sys.argv))
