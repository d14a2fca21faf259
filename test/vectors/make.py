"""Makes gates.json: what the executable specification's gates give for chosen values and masks. Usage: python3 make.py FOLDER_OF_THE_SPECIFICATION

Each vector has operands as (m, r) over Z_2^n at a scale, parameters, and the exact integers of the result over its ring (the sum of both shares).
exp and fourier use floats in the specification, so their results are real numbers, to be met within their bounds.
"""
import json
import sys
from pathlib import Path

import numpy as np

sys.path.insert(0, sys.argv[1])
import masked_wires as spec  # noqa: E402

U = np.uint64
rng = np.random.default_rng(20261124)
text = lambda a: [str(int(v)) for v in np.asarray(a).ravel()]


def wire(values, n, scale):
    """Values at a scale under fresh masks; also the extremes of the mask."""
    x = spec.ring(np.round(np.asarray(values) * 2.0 ** scale), n)
    r = spec.rand(x.shape, n)
    r[0], r[1], r[2] = U(0), spec.MASK(n), U(1) << U(n - 1)
    return spec.Wire(x + r, r, n, scale)


def operand(w):
    return {"m": text(w.m), "r": text(w.r), "bits": w.n, "scale": w.scale}


def total(share):
    return text((share.x0 + share.x1) & spec.MASK(share.n))


out = []
v = rng.uniform(-100, 100, 12)
w = wire(v, 64, 24)
for d in (1, 12, 30):
    y = w.narrow(d)
    out.append({"gate": "narrow", "inputs": [operand(w)], "params": {"shift": d}, "bits": y.n, "result": text((y.m - y.r) & spec.MASK(y.n))})
y = w.mod(34)
out.append({"gate": "mod", "inputs": [operand(w)], "params": {"bits": 34}, "bits": 34, "result": text((y.m - y.r) & spec.MASK(34))})
for n, scale, top in ((22, 12, 250), (52, 42, 250), (3, 0, 1)):
    w = wire(rng.uniform(-top, top, 12), n, scale)
    out.append({"gate": "widen", "inputs": [operand(w)], "params": {}, "bits": 64, "result": total(w.widen())})
a, b = wire(rng.normal(0, 3, 12), 64, 12), wire(rng.normal(0, 3, 12), 40, 12)
out.append({"gate": "mul", "inputs": [operand(a.mod(40)), operand(b)], "params": {}, "bits": 40, "result": total(spec.mul(a, b))})
s = spec.Spline(np.tanh, -8, 8, 7, 2, 12, 30)
w = wire(rng.uniform(-7.8, 7.8, 12), 20, 12)
out.append({"gate": "spline", "inputs": [operand(w)], "params": {"inputScale": 12, "outputScale": 30, "low": s.lo, "domainBits": s.D, "keyBits": s.k, "firstCell": int(s.cells[0]), "cells": len(s.cells), "degree": 2, "coefficients": text(s.c)}, "bits": 64, "result": total(s(w))})
s = spec.Spline(np.exp, 0, 16, 6, 1, 8, 20, on=(2, 6))
w = wire(rng.uniform(0.5, 15, 12), 14, 8)
out.append({"gate": "spline", "inputs": [operand(w)], "params": {"inputScale": 8, "outputScale": 20, "low": s.lo, "domainBits": s.D, "keyBits": s.k, "firstCell": int(s.cells[0]), "cells": len(s.cells), "degree": 1, "coefficients": text(s.c)}, "bits": 64, "result": total(s(w))})
w = wire(rng.integers(0, 64, 12), 6, 0)
share = spec.bucket(w, 6, -9)
hot = (share.x0 ^ share.x1) & U(1)
suffix = np.flip(np.bitwise_xor.accumulate(np.flip(hot, -1), -1), -1)
words = (suffix << np.arange(64, dtype=U)).sum(-1, dtype=U)
out.append({"gate": "bucket", "inputs": [operand(w)], "params": {"low": -9, "inputScale": 0}, "bits": 64, "result": text(words)})
a, b = wire(rng.integers(-60, 60, 12), 8, 0), wire(rng.integers(-60, 60, 12), 8, 0)
share = spec.less_bits(a, b, 8)
out.append({"gate": "less", "inputs": [operand(a), operand(b)], "params": {"bits": 8}, "bits": 1, "result": text(share.x0 ^ share.x1)})
w = wire(rng.uniform(-40, 8, 12), 20, 12)
share = spec.exp_table(w, 20, 3, 8, [4.0])[0]
out.append({"gate": "expTable", "inputs": [operand(w)], "params": {"inputScale": 12, "low": -44 * 4096, "domainBits": 18, "cellsLog2": 3, "outputScale": 25, "shifts": [4.0]}, "bits": 64, "real": [float(x) for x in share.value()]})
silu = lambda x: x / (1 + np.exp(-x))
w = wire(rng.uniform(-11.9, 11.9, 12), 22, 12)
share = spec.Fourier(silu, 0.5, 32, 12, 16, 56)(w)
out.append({"gate": "fourier", "inputs": [operand(w)], "params": {"periodBits": 17, "terms": 16, "edge": 12}, "bits": 56, "real": [float(x) for x in share.value()]})
Path(__file__).with_name("gates.json").write_text(json.dumps(out, indent=1) + "\n")
