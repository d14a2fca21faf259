"""One benchmark row of SPU (https://github.com/secretflow/spu), the established engine, in one process: what it runs, how fast, how many bytes.

    python peer.py --task decode --context 512 --weights public --reps 1 --json

ABY3, three parties (one may be corrupted), ring of 64 bits, SPU's defaults for precision and approximations, its in-memory link. The parties run
as three threads, each with one worker thread unless --threads says otherwise. Choices that decide the figures, all in SPU's favour where there is one:

* Plain jax.numpy: jax.nn.gelu(approximate=True), jax.lax.rsqrt. The softmax multiplies by 1 / sum, one reciprocal a row, because SPU divides element by
  element in jax.nn.softmax: 32.8 MB instead of 11.0 at [32, 512], and twice the bytes of a decoded token.
  A GELU by pieces of polynomials, written by hand, would save another 7 MB of 101 at T = 512: not what a user of jax writes, left out.
* Public weights are public inputs, not constants of the program: they are brought to fixed point once, before the clock starts.
* The new token comes in as its embedding, so that no secret table lookup is timed; the KV cache comes in as secret inputs.
* Logits are computed for the last position only, inside the protocol, and stay secret.
* Time is that of Runtime.run, of the slowest of the three parties that start together; compiling, sharing the inputs and fixed-point encoding are outside.
  A first run, with SPU's profile on, is timed apart (profiledS) and gives the bytes and messages ("Link details" in SPU's log); it also warms up.
"""

import argparse
import contextlib
import json
import os
import re
import sys
import tempfile
import threading
import time
from dataclasses import dataclass

# Of MPCache (arXiv 2501.06807, section 5): 32 heads of 32, --context tokens, 50 of them chosen.
OPERATORS = ["topk", "onehot", "gather"]
CHOSEN = 50

parser = argparse.ArgumentParser(description=__doc__.split("\n", 1)[0])
parser.add_argument("--task", choices=["decode", "prefill", "softmax", *OPERATORS], default="decode")
parser.add_argument("--context", type=int, default=512, help="cached tokens of a decode step, columns of the softmax")
parser.add_argument("--tokens", type=int, default=32, help="private tokens of a prefill, rows of the softmax")
parser.add_argument("--weights", choices=["public", "secret"], default="public")
parser.add_argument("--reps", type=int, default=1, help="timed runs; 0: bytes and messages only")
parser.add_argument("--threads", type=int, default=1, help="worker threads per party")
parser.add_argument("--layers", type=int, default=12, help="layers of the model; fewer for a quick look")
parser.add_argument("--check", action="store_true", help="compare with the same program in float32 by jax")
parser.add_argument("--json", action="store_true", help="one JSON object on standard output")
options = parser.parse_args()
if options.context < 1 or options.tokens < 1 or options.threads < 1 or options.layers < 1 or options.reps < 0:
    parser.error("--context, --tokens, --threads and --layers are at least 1, --reps at least 0")

# The size of yacl's thread pool is read when the library is loaded.
os.environ["YACL_NUM_THREADS"] = str(options.threads)
os.environ["JAX_PLATFORMS"] = "cpu"

import jax  # noqa: E402
import jax.numpy as jnp  # noqa: E402
import numpy as np  # noqa: E402
import spu  # noqa: E402
from spu import libspu  # noqa: E402
from spu.utils import frontend  # noqa: E402

PARTIES = 3
WIDTH, HEADS, HEAD, HIDDEN, VOCABULARY = 768, 12, 64, 3072, 50257
SECRET, PUBLIC = libspu.Visibility.VIS_SECRET, libspu.Visibility.VIS_PUBLIC


# The model: GPT-2. Weights are dicts of arrays; x is [tokens, WIDTH].


def layer_norm(x, gain, bias):
    x = x - jnp.mean(x, -1, keepdims=True)
    return x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-5) * gain + bias


def softmax(x):
    e = jnp.exp(x - jnp.max(x, -1, keepdims=True))
    return e * (1 / jnp.sum(e, -1, keepdims=True))


def attention(x, w, past):
    """past: {k, v} of [HEADS, T, HEAD] with T >= 0 cached tokens; gives the output and the new keys and values."""
    n = x.shape[0]
    q, k, v = jnp.transpose((x @ w["qkv"] + w["qkvBias"]).reshape(n, 3, HEADS, HEAD), (1, 2, 0, 3))
    keys, values = (k, v) if past is None else (jnp.concatenate([past["k"], k], 1), jnp.concatenate([past["v"], v], 1))
    logits = q @ jnp.swapaxes(keys, 1, 2)
    if n > 1:
        logits = jnp.where(np.tri(n, dtype=bool), logits, -1e4)
    mixed = jnp.swapaxes(softmax(logits) @ values, 0, 1).reshape(n, WIDTH)
    return mixed @ w["out"] + w["outBias"], {"k": k, "v": v}


def mlp(x, w):
    return jax.nn.gelu(x @ w["up"] + w["upBias"], approximate=True) @ w["down"] + w["downBias"]


def gpt2(weights, x, past):
    """Logits of the last position, and every layer's new keys and values."""
    new = []
    for w, cached in zip(weights["layers"], past):
        mixed, kv = attention(layer_norm(x, w["norm1"], w["norm1Bias"]), w, cached)
        x = x + mixed
        x = x + mlp(layer_norm(x, w["norm2"], w["norm2Bias"]), w)
        new.append(kv)
    return layer_norm(x[-1:], weights["norm"], weights["normBias"]) @ weights["head"], new


def random_weights(rng, layers):
    """Normal weights of the size that GPT-2 has; 1/sqrt(HEAD) is folded into the queries' part."""

    def matrix(rows, columns):
        return rng.standard_normal((rows, columns), dtype=np.float32) * np.float32(0.02)

    def block():
        qkv = matrix(WIDTH, 3 * WIDTH)
        qkv[:, :WIDTH] /= np.float32(HEAD**0.5)
        return {
            "norm1": np.ones(WIDTH, np.float32),
            "norm1Bias": np.zeros(WIDTH, np.float32),
            "qkv": qkv,
            "qkvBias": np.zeros(3 * WIDTH, np.float32),
            "out": matrix(WIDTH, WIDTH),
            "outBias": np.zeros(WIDTH, np.float32),
            "norm2": np.ones(WIDTH, np.float32),
            "norm2Bias": np.zeros(WIDTH, np.float32),
            "up": matrix(WIDTH, HIDDEN),
            "upBias": np.zeros(HIDDEN, np.float32),
            "down": matrix(HIDDEN, WIDTH),
            "downBias": np.zeros(WIDTH, np.float32),
        }

    return {
        "layers": [block() for _ in range(layers)],
        "norm": np.ones(WIDTH, np.float32),
        "normBias": np.zeros(WIDTH, np.float32),
        "head": matrix(WIDTH, VOCABULARY),
    }


def task(rng):
    """The function to run, its arguments (pytrees of float32), and each argument's visibility."""
    if options.task == "softmax":
        rows = rng.standard_normal((options.tokens, options.context), dtype=np.float32)
        return softmax, [rows], [SECRET]

    if options.task in OPERATORS:
        heads, size = 32, 32
        scores = rng.standard_normal((heads, options.context), dtype=np.float32)
        chosen = np.stack([rng.permutation(options.context)[:CHOSEN] for _ in range(heads)]).astype(np.int32)
        keys = rng.standard_normal((heads, options.context, size), dtype=np.float32)

        def rows(index):
            return (index[:, :, None] == jnp.arange(options.context, dtype=jnp.int32)).astype(jnp.float32)

        if options.task == "topk":
            return lambda x: jax.lax.top_k(x, CHOSEN)[0], [scores], [SECRET]
        if options.task == "onehot":
            return rows, [chosen], [SECRET]
        return lambda index, k: rows(index) @ k, [chosen, keys], [SECRET, SECRET]

    def cache():
        return {name: rng.standard_normal((HEADS, options.context, HEAD), dtype=np.float32) for name in ["k", "v"]}

    decode = options.task == "decode"
    past = [cache() if decode else None for _ in range(options.layers)]
    x = rng.standard_normal((1 if decode else options.tokens, WIDTH), dtype=np.float32)
    return gpt2, [random_weights(rng, options.layers), x, past], [PUBLIC if options.weights == "public" else SECRET, SECRET, SECRET]


# The engine.


@dataclass
class Costs:
    """What one run costs: wall seconds of the slowest party, CPU seconds of all; bytes sent and send actions by party."""

    seconds: float
    cpu: float
    bytes: list
    messages: list


class Engine:
    """Three parties over SPU's in-memory link, each with its own runtime."""

    def __init__(self):
        self.config = libspu.RuntimeConfig(protocol=libspu.ProtocolKind.ABY3, field=libspu.FieldType.FM64)
        self.config.max_concurrency = options.threads
        self.io = spu.Io(PARTIES, self.config)
        self.folder = tempfile.TemporaryDirectory(prefix="cachet-spu-")
        self.log = os.path.join(self.folder.name, "spu.log")
        logs = libspu.logging.LogOptions()
        logs.enable_console_logger = False
        logs.system_log_path = self.log
        libspu.logging.setup_logging(logs)

    def runtimes(self, profile):
        description = libspu.link.Desc()
        for rank in range(PARTIES):
            description.add_party(f"p{rank}", f"memory-{rank}")

        def runtime(rank):
            config = libspu.RuntimeConfig(self.config)
            config.enable_pphlo_profile = profile
            return spu.Runtime(libspu.link.create_mem(description, rank), config)

        # A link, and a runtime's first seeds, wait for the other parties.
        return self.together(runtime)

    def run(self, executable, inputs, profile):
        """inputs: per input its name, array and visibility; gives the output shares by output and party, and the Costs."""
        runtimes = self.runtimes(profile)
        for name, array, visibility in inputs:
            for runtime, share in zip(runtimes, self.io.make_shares(array, visibility)):
                runtime.set_var(name, share)
        before = os.path.getsize(self.log) if os.path.exists(self.log) else 0
        barrier = threading.Barrier(PARTIES)

        def party(rank):
            barrier.wait()
            begin = time.perf_counter()
            runtimes[rank].run(executable)
            return time.perf_counter() - begin

        cpu = time.process_time()
        seconds = max(self.together(party))
        cpu = time.process_time() - cpu
        outputs = [[runtime.get_var(name) for runtime in runtimes] for name in executable.output_names]
        sent = []
        if profile:
            with open(self.log, encoding="utf-8") as file:
                file.seek(before)
                sent = re.findall(r"Link details: total send bytes (\d+), recv bytes \d+, send actions (\d+)", file.read())
            if len(sent) != PARTIES:
                sys.exit(f"peer.py: expected the link details of {PARTIES} parties in SPU's log; got {len(sent)}; try: spu as pinned in requirements.txt")
        return outputs, Costs(seconds, cpu, [int(b) for b, _ in sent], [int(m) for _, m in sent])

    @staticmethod
    def together(work):
        """work(rank) of all parties at once; an exception in one is raised here."""
        results, errors = [None] * PARTIES, []

        def guarded(rank):
            try:
                results[rank] = work(rank)
            except BaseException as error:  # noqa: BLE001
                errors.append(error)

        threads = [threading.Thread(target=guarded, args=(rank,), daemon=True) for rank in range(PARTIES)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        if errors:
            raise errors[0]
        return results


def main():
    rng = np.random.default_rng(1)
    function, arguments, visibilities = task(rng)
    flat = [leaf for argument in arguments for leaf in jax.tree_util.tree_leaves(argument)]
    visibility = [v for argument, v in zip(arguments, visibilities) for _ in jax.tree_util.tree_leaves(argument)]
    names = [f"in{i}" for i in range(len(flat))]
    shapes = jax.tree_util.tree_map(lambda a: jax.ShapeDtypeStruct(a.shape, a.dtype), arguments)
    begin = time.perf_counter()
    # The compiler prints to standard output, which belongs to the result.
    with contextlib.redirect_stdout(sys.stderr):
        executable, _ = frontend.compile(
            frontend.Kind.JAX, function, shapes, {}, names, visibility, lambda outputs: [f"out{i}" for i in range(len(outputs))]
        )
    compile_s = time.perf_counter() - begin
    inputs = list(zip(names, flat, visibility))
    engine = Engine()
    outputs, profiled = engine.run(executable, inputs, profile=True)
    timed = [engine.run(executable, inputs, profile=False)[1] for _ in range(options.reps)]
    row = {
        "system": "SPU",
        "version": spu.__version__,
        "protocol": "ABY3",
        "ringBits": 64,
        "parties": PARTIES,
        "threads": options.threads,
        "task": options.task,
        "model": "gpt2" if options.task in ["decode", "prefill"] else options.task,
        "layers": options.layers,
        "weights": options.weights,
        "context": options.context if options.task != "prefill" else 0,
        "tokens": options.tokens if options.task != "decode" else 1,
        "execS": [costs.seconds for costs in timed],
        "cpuS": [costs.cpu for costs in timed],
        "profiledS": profiled.seconds,
        "compileS": compile_s,
        "bytes": sum(profiled.bytes),
        "messages": profiled.messages,
    }
    if options.check:
        reference = jax.tree_util.tree_leaves(function(*arguments))
        row["maxError"] = max(float(np.max(np.abs(engine.io.reconstruct(got) - want))) for got, want in zip(outputs, reference))
    if options.json:
        print(json.dumps(row))
    else:
        seconds = ", ".join(f"{costs.seconds:.2f}" for costs in timed) or "not timed"
        print(f"SPU {spu.__version__} {row['task']}: {seconds} s, {row['bytes'] / 1e6:.1f} MB, {max(row['messages'])} messages of a party")


main()
