"""Makes models.json, from programs that are not ours. Usage: python3 models.py (needs numpy, gguf)

ggml: random blocks of every tensor type, and what the gguf package's dequantisation gives for them.
file: a GGUF file as the gguf package writes it, with metadata of every type.
logits: small models in numpy float64, from the definitions of the architectures, on weights of the pattern below.
"""
import base64
import json
import math
import tempfile
from pathlib import Path

import gguf
import numpy as np

rng = np.random.default_rng(20261125)
text = lambda b: base64.b64encode(bytes(b)).decode()


# ---- tensor types ------------------------------------------------------------------------------------------------------------

def blocks(name, halves, count=3):
    """Random bytes; the half-precision fields are ordinary numbers."""
    block, size = gguf.GGML_QUANT_SIZES[gguf.GGMLQuantizationType[name]]
    data = rng.integers(0, 256, (count, size), dtype=np.uint8)
    for at in halves:
        data[:, at:at + 2] = (rng.uniform(-2, 2, count) * 10.0 ** rng.integers(-6, 1, count)).astype(np.float16).view(np.uint8).reshape(count, 2)
    values = gguf.dequantize(data.ravel(), gguf.GGMLQuantizationType[name]).astype(np.float32)
    return {"type": name, "number": int(gguf.GGMLQuantizationType[name]), "block": block, "bytes": text(data.tobytes()), "values": [float(v) for v in values.ravel()]}


ggml = [blocks(*t) for t in (("Q8_0", [0]), ("Q4_0", [0]), ("Q4_1", [0, 2]), ("Q4_K", [0, 2]), ("Q6_K", [208]))]
for name, dtype in (("F32", np.float32), ("F16", np.float16)):
    raw = (rng.normal(size=40) * 10.0 ** rng.integers(-7, 4, 40)).astype(dtype)
    ggml.append({"type": name, "number": int(gguf.GGMLQuantizationType[name]), "block": 1, "bytes": text(raw.tobytes()), "values": [float(v) for v in raw]})
raw = rng.normal(size=40).astype(np.float32).view(np.uint32) >> 16
ggml.append({"type": "BF16", "number": 30, "block": 1, "bytes": text(raw.astype(np.uint16).tobytes()), "values": [float(v) for v in (raw << 16).astype(np.uint32).view(np.float32)]})


# ---- container ---------------------------------------------------------------------------------------------------------------

with tempfile.TemporaryDirectory() as folder:
    path = Path(folder) / "x.gguf"
    w = gguf.GGUFWriter(path, "llama")
    w.add_custom_alignment(64)
    for kind, value in (("uint8", 200), ("int8", -100), ("uint16", 60000), ("int16", -30000), ("uint32", 4000000000), ("int32", -2000000000), ("uint64", 2 ** 63 + 1),
                        ("int64", -5), ("float32", 0.5), ("float64", 1 / 3), ("bool", True), ("string", "grüße")):
        getattr(w, f"add_{kind}")(f"test.{kind}", value)
    w.add_array("test.words", ["a", "", "ö"])
    w.add_array("test.numbers", [1, 2, 3])
    w.add_tensor("half", np.arange(6, dtype=np.float16).reshape(2, 3))
    w.add_tensor("full", np.arange(8, dtype=np.float32).reshape(2, 2, 2))
    w.add_tensor("integers", np.arange(4, dtype=np.int32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()
    file = text(path.read_bytes())


# ---- models ------------------------------------------------------------------------------------------------------------------

ROLES = ["inputNorm", "inputNormBias", "q", "k", "v", "o", "qBias", "kBias", "vBias", "oBias", "postNorm", "postNormBias", "gate", "gateBias", "up", "upBias", "down",
         "downBias", "embed", "positions", "finalNorm", "finalNormBias", "head"]


def weight(role, shape, layer=0):
    i = np.arange(int(np.prod(shape)), dtype=np.int64)
    x = ((i * i * 31 + i * 17 + (ROLES.index(role) + 29 * layer) * 101) % 257 - 128) / 256
    return (1 + x / 2 if role in ("inputNorm", "postNorm", "finalNorm") else x).reshape(shape)


def forward(s, ids):
    W, H, K, D = s["width"], s["heads"], s["kvHeads"], s["headDim"]
    gated = s["activation"] == "silu"
    erf = np.vectorize(math.erf)
    act = {"silu": lambda x: x / (1 + np.exp(-x)), "gelu": lambda x: x * 0.5 * (1 + erf(x / 2 ** 0.5)),
           "gelu-tanh": lambda x: 0.5 * x * (1 + np.tanh((2 / np.pi) ** 0.5 * (x + 0.044715 * x ** 3)))}[s["activation"]]

    def norm(x, role, layer=0):
        g = weight(role, W, layer)
        if s["norm"] == "rms":
            return x / np.sqrt((x ** 2).mean(-1, keepdims=True) + s["eps"]) * g
        return (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + s["eps"]) * g + weight(role + "Bias", W, layer)

    def linear(x, role, out, layer, biased):
        y = x @ weight(role, (out, x.shape[-1]), layer).T
        return y + weight(role + "Bias", out, layer) if biased else y

    n = len(ids)
    embed = weight("embed", (s["vocab"], W))
    x = embed[ids]
    if s["rope"] is None:
        x = x + weight("positions", (s["maxPositions"], W))[:n]
        rotate = lambda a: a
    else:
        freq = s["rope"]["theta"] ** -(np.arange(0, D, 2) / D)
        r = s["rope"]["scaling"]
        if r:
            wave = 2 * np.pi / freq
            low, high = r["originalMaxPositions"] / r["lowFreqFactor"], r["originalMaxPositions"] / r["highFreqFactor"]
            smooth = (r["originalMaxPositions"] / wave - r["lowFreqFactor"]) / (r["highFreqFactor"] - r["lowFreqFactor"])
            freq = np.where(wave > low, freq / r["factor"], np.where(wave < high, freq, (1 - smooth) * freq / r["factor"] + smooth * freq))
        angle = np.arange(n)[:, None] * freq[None]
        cos, sin = (np.concatenate([f(angle)] * 2, -1)[:, None] for f in (np.cos, np.sin))
        rotate = lambda a: a * cos + np.concatenate([-a[..., D // 2:], a[..., :D // 2]], -1) * sin
    b = s["biases"]
    for l in range(s["layers"]):
        h = norm(x, "inputNorm", l)
        q = rotate(linear(h, "q", H * D, l, b["qkv"]).reshape(n, H, D))
        k = np.repeat(rotate(linear(h, "k", K * D, l, b["qkv"]).reshape(n, K, D)), H // K, 1)
        v = np.repeat(linear(h, "v", K * D, l, b["qkv"]).reshape(n, K, D), H // K, 1)
        z = np.einsum("qhd,khd->hqk", q, k) / D ** 0.5 + np.triu(np.full((n, n), -np.inf), 1)
        p = np.exp(z - z.max(-1, keepdims=True))
        x = x + linear(np.einsum("hqk,khd->qhd", p / p.sum(-1, keepdims=True), v).reshape(n, H * D), "o", W, l, b["o"])
        h = norm(x, "postNorm", l)
        up = linear(h, "up", s["inner"], l, b["mlp"])
        x = x + linear(act(linear(h, "gate", s["inner"], l, b["mlp"])) * up if gated else act(up), "down", W, l, b["mlp"])
    return norm(x, "finalNorm") @ (embed if s["tied"] else weight("head", (s["vocab"], W))).T


base = dict(layers=2, width=16, heads=4, kvHeads=2, headDim=8, inner=24, vocab=40, maxPositions=16, eps=1e-5, bosId=None, eosIds=[])
llama3 = dict(theta=10000.0, scaling=dict(factor=8.0, lowFreqFactor=1.0, highFreqFactor=4.0, originalMaxPositions=64))
models = [
    dict(base, architecture="llama", rope=llama3, norm="rms", activation="silu", tied=False, biases=dict(qkv=True, o=True, mlp=True)),
    dict(base, architecture="llama", kvHeads=1, rope=dict(theta=500.0, scaling=None), norm="rms", activation="silu", tied=True, biases=dict(qkv=False, o=False, mlp=False)),
    dict(base, architecture="qwen2", kvHeads=4, rope=dict(theta=1e6, scaling=None), norm="rms", activation="silu", tied=True, biases=dict(qkv=True, o=False, mlp=False)),
    dict(base, architecture="gpt2", kvHeads=4, headDim=4, rope=None, norm="layer", activation="gelu-tanh", tied=True, biases=dict(qkv=True, o=True, mlp=True)),
    dict(base, architecture="gpt2", kvHeads=4, headDim=4, rope=None, norm="layer", activation="gelu", tied=True, biases=dict(qkv=True, o=True, mlp=True)),
]
ids = [3, 17, 17, 0, 39, 8, 22]
logits = [{"biases": m.pop("biases"), "shape": m, "ids": ids, "logits": [[round(float(v), 12) for v in row] for row in out[-2:]]}
          for m in models for out in [forward(m, ids)]]
Path(__file__).with_name("models.json").write_text(json.dumps({"roles": ROLES, "ggml": ggml, "file": file, "logits": logits}) + "\n")
