"""
Numpy twin of what spares rounds and openings beyond the executable specification. Run: python3 test/vectors/rounds.py

1. `lookup` (protocols/gates/lookup.ts): a dealt truth table whose entries are additive shares over Z_2^n. For a wire m = x + r (or a Boolean word m = x xor r)
   H deals T[m'] = f(m' - r) (f(m' xor r)) for all m', split at random; each evaluator reads its half at the public m. Every entry is uniform to its
   receiver; that only one entry is read, at a public place that hides x, reveals nothing. Exact.
2. `fourier` with dropped bits (protocols/gates/fourier.ts): cos and sin of the mask's multiples dealt over Z_2^72; each evaluator sums its share of the
   series and shifts it by d: P0 floor(y0 / 2^d), P1 -floor((2^72 - y1) / 2^d). The sum is the series >> d within 1 unless y0 wraps below the value, which has
   probability 2^-(72 - bits of the value). Nothing is opened, so nothing is learnt.
3. LayerNorm as RMSNorm (protocols/models/fold.ts): where everything that writes to the residual stream is centred, its mean is 0, and LayerNorm with gain
   and bias followed by W, b is x / rms(x) followed by W diag(gain), W bias + b.
"""
import numpy as np

rng = np.random.default_rng()
U = np.uint64

# 1. lookup
for boolean in (False, True):
    bits, n, count = 7, 12, 500
    f = rng.integers(0, 256, 1 << bits, dtype=U)
    x, r = (rng.integers(0, 1 << bits, count) for _ in range(2))
    m = x ^ r if boolean else (x + r) % (1 << bits)
    places = np.arange(1 << bits)
    table = f[places ^ r[:, None]] if boolean else f[(places - r[:, None]) % (1 << bits)]
    t0 = rng.integers(0, 1 << n, table.shape, dtype=U)
    t1 = (table - t0) % U(1 << n)
    at = np.arange(count)
    assert ((t0[at, m] + t1[at, m]) % U(1 << n) == f[x]).all()
    assert not ((t0[at, m] + t1[at, (m + 1) % (1 << bits)]) % U(1 << n) == f[x]).all()  # the control

# 2. dropped bits; Python integers, since numpy has no 72-bit ring
Q, drop, terms, period, scale = 1 << 72, 13, 7, 1 << 15, 1 << 12
coefficients = [round(2**14 * c) for c in rng.normal(0, 1, terms)]
wrong = 0
for _ in range(4000):
    x, r = int(rng.integers(-period // 3, period // 3)), int(rng.integers(0, period))
    m = (x + r) % period
    y0 = y1 = exact = 0
    for k, a in enumerate(coefficients, 1):
        angle = lambda v: 2 * np.pi * (k * v % period) / period
        for g in (np.cos, np.sin):
            dealt = round(2**18 * g(angle(r)))
            half = int.from_bytes(rng.bytes(9), "little")
            public = round(a * g(angle(m)))
            y0, y1 = y0 + public * half, y1 + public * ((dealt - half) % Q)
            exact += public * dealt
    y0, y1 = y0 % Q, y1 % Q
    got = (y0 >> drop) - ((Q - y1) >> drop)
    error = got - (exact >> drop)
    error -= round(error / (Q >> drop)) * (Q >> drop)
    wrong += abs(error) > 1
assert wrong == 0

# 3. LayerNorm
d, rows = 24, 9
W, gain, shift, b = rng.normal(size=(5, d)), rng.normal(1, 0.2, d), rng.normal(size=d), rng.normal(size=5)
writer, a = rng.normal(size=(d, 7)), rng.normal(size=(rows, 7))
centred = writer - writer.mean(0)
plain, kept = a @ writer.T, a @ centred.T
layer_norm = (plain - plain.mean(1, keepdims=True)) / np.sqrt(plain.var(1, keepdims=True) + 1e-5)
rms = kept / np.sqrt((kept**2).mean(1, keepdims=True) + 1e-5)
assert np.allclose((layer_norm * gain + shift) @ W.T + b, rms @ (W * gain).T + (W @ shift + b))
assert not np.allclose(layer_norm, plain / np.sqrt((plain**2).mean(1, keepdims=True) + 1e-5))  # the control
print("lookup, dropped bits and folded norms hold")
