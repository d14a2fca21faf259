"""
Numpy twin of private weights (protocols/gates/mulWeights.ts, protocols/splitWeights.ts): a matrix is a wire that its owner splits once, used in many sessions.

Shown here: the product of an opened operand with the matrix from additive shares A_i of W, masked m_W and one dealt share an output is exact over Z_2^32 and
Z_2^64, for many operands under one and the same weight mask; the embedding as a one-hot product. And the counting argument for reuse: whatever W is, what an
evaluator holds of it (m_W, its half of r_W) is the same number of equally likely values, and no message depends on r_W other than through dealt shares.
Positive controls: an operand's mask used twice gives a difference of operands away; a helper that had m_W would have W. Run: python3 test/vectors/private.py
"""
import itertools

import numpy as np

rng = np.random.default_rng()


def uniform(bits, *shape):
    return rng.integers(0, 2**bits, size=shape, dtype=np.uint64)


def mod(x, bits):
    return x & np.uint64(2**bits - 1)


def split_matrix(w, bits):
    """The owner: m for both evaluators, halves of r for P0, P1 (the helper has both)."""
    r = [uniform(bits, *w.shape) for _ in range(2)]
    return mod(w + r[0] + r[1], bits), r


def multiply(x, m_w, r_w, bits):
    """x opened under a fresh mask, then each party's part; returns the shares and what is opened."""
    r_x = [uniform(bits, *x.shape) for _ in range(2)]
    m_x = mod(x + r_x[0] + r_x[1], bits)
    product = mod((r_x[0] + r_x[1]) @ (r_w[0] + r_w[1]).T, bits)  # the helper: masks alone
    d0 = uniform(bits, *product.shape)
    dealt = [d0, product - d0]
    additive = [m_w - r_w[0], np.uint64(0) - r_w[1]]
    z = [dealt[i] + m_x @ additive[i].T - r_x[i] @ m_w.T for i in range(2)]
    return z, m_x


for bits in (32, 64):
    w = mod(rng.integers(-(2**15), 2**15, size=(5, 16)).astype(np.int64).view(np.uint64), bits)
    m_w, r_w = split_matrix(w, bits)
    for session in range(50):
        x = uniform(bits, 3, 16)
        z, _ = multiply(x, m_w, r_w, bits)
        assert (mod(z[0] + z[1], bits) == mod(x @ w.T, bits)).all()
    # A one-hot row gives a row of the table (here its transpose has tokens along the inner axis).
    for token in range(16):
        hot = np.zeros((1, 16), np.uint64)
        hot[0, token] = 1
        z, _ = multiply(hot, m_w, r_w, bits)
        assert (mod(z[0] + z[1], bits) == w[:, token]).all()

# Ahead of time (protocols/programs/ahead.ts): masks of several tokens' operands are drawn, halves of what narrowing leaves of them dealt, and [r_x] m_W computed for
# all of them, before any operand is there. A token then opens x over more bits under its mask, narrows, and has one product left. It equals the product of whatever
# was opened, narrowed: floor(x / 2^d), or one more.
for bits, wide in ((32, 45), (64, 64)):
    drop, tokens = wide - bits, 4
    w = mod(rng.integers(-(2**15), 2**15, size=(5, 16)).astype(np.int64).view(np.uint64), bits)
    m_w, r_w = split_matrix(w, bits)
    additive = [m_w - r_w[0], np.uint64(0) - r_w[1]]
    mask = [uniform(wide, tokens, 16) for _ in range(2)]
    r_x = mod(mask[0] + mask[1], wide) >> np.uint64(drop)
    half0 = uniform(bits, tokens, 16)
    halves = [half0, r_x - half0]
    ahead = [h @ m_w.T for h in halves]
    for j in range(tokens):
        x = mod(rng.integers(-(2 ** (bits - 3)), 2 ** (bits - 3), size=(1, 16)).astype(np.int64).view(np.uint64) << np.uint64(drop), wide)
        m_x = mod(x + mask[0][j] + mask[1][j], wide) >> np.uint64(drop)
        product = r_x[j : j + 1] @ (r_w[0] + r_w[1]).T
        d0 = uniform(bits, *product.shape)
        z = [d + m_x @ a.T - p[j : j + 1] for d, a, p in zip([d0, product - d0], additive, ahead)]
        narrowed = m_x - r_x[j : j + 1]
        assert (mod(narrowed - (x >> np.uint64(drop)), bits) <= 1).all()
        assert (mod(z[0] + z[1], bits) == mod(narrowed @ w.T, bits)).all()

# Reuse, by counting over Z_2^2: for every W the pair (m_W, r_W0) that P0 keeps takes each of its 16 values once as (r_W0, r_W1) runs over all masks.
for value in range(4):
    seen = {((value + a + b) % 4, a) for a, b in itertools.product(range(4), repeat=2)}
    assert len(seen) == 16
# Over two sessions on one mask r_W: P0's view (m_W, r_W0, m_x, m_y, dealt shares) is uniform whatever W, x and y are: its own dealt halves are a stream, the
# operands' masks are fresh. For every (W, x, y) all 4^4 views come equally often.
for w, x, y in itertools.product(range(4), (0, 3), (1, 2)):
    views = {((w + a + b) % 4, a, (x + c) % 4, (y + d) % 4) for a, b, c, d in itertools.product(range(4), repeat=4)}
    assert len(views) == 256
# Controls: one operand mask for two operands leaks their difference; m_W and both halves are W.
x, y, r = uniform(64, 8), uniform(64, 8), uniform(64, 8)
assert ((x + r) - (y + r) == x - y).all()
for bits in (32, 64):
    w = uniform(bits, 5, 16)
    m_w, r_w = split_matrix(w, bits)
    assert (mod(m_w - r_w[0] - r_w[1], bits) == w).all()
print("private weights: exact over Z_2^32 and Z_2^64, 50 sessions under one mask")

# An opened bit times a wire (protocols/gates/bitMul.ts): m_c = c xor rho, m_d = d + r; the helper deals shares of rho and of rho r over Z_2^n.
#   c d = rho' d + m_c (d - 2 rho' d) with rho' d = m_d [rho] - [rho r]: local once c is open.
def bit_times(c, d, bits):
    rho, halves = rng.integers(0, 2, size=c.shape, dtype=np.uint64), [uniform(bits, *d.shape) for _ in range(2)]
    r = mod(halves[0] + halves[1], bits)
    m_c, m_d = c ^ rho, mod(d + r, bits)
    streams = [uniform(bits, *d.shape) for _ in range(2)]
    dealt = [(streams[0], streams[1]), (rho - streams[0], rho * r - streams[1])]
    out = []
    for party, (a, b) in enumerate(dealt):
        masked = m_d * a - b
        own = (m_d if party == 0 else np.uint64(0)) - halves[party]
        out.append(masked + m_c * (own - np.uint64(2) * masked))
    return out


for bits in (12, 18, 64):
    c, d = rng.integers(0, 2, size=500, dtype=np.uint64), uniform(bits, 500)
    z = bit_times(c, d, bits)
    assert (mod(z[0] + z[1], bits) == mod(c * d, bits)).all()
# P0's view (m_c, m_d, r_0, its streams) is uniform whatever c and d are: counted over Z_2^2, for every (c, d) each of the 2 4 4 4 4 views comes once as rho, r_1 and
# the streams run; P1's dealt values are the products minus streams that it does not have.
for c, d in itertools.product(range(2), range(4)):
    p0 = {(c ^ rho, (d + r0 + r1) % 4, r0, s, t) for rho, r0, r1, s, t in itertools.product(range(2), *[range(4)] * 4)}
    p1 = {(c ^ rho, (d + r0 + r1) % 4, r1, (rho - s) % 4, (rho * (r0 + r1) - t) % 4) for rho, r0, r1, s, t in itertools.product(range(2), *[range(4)] * 4)}
    assert len(p0) == len(p1) == 2 * 4**4
# Control: with the product of masks in the clear P1's view depends on d.
views = [{((d + r0 + r1) % 4, r1, (rho * (r0 + r1)) % 4) for rho, r0, r1 in itertools.product(range(2), *[range(4)] * 2)} for d in range(4)]
assert any(v != views[0] for v in views[1:])


def argmax(logits, bits):
    """The greatest of a row by a knockout of neighbours, the lower index first among equals: the program of protocols/programs/argmax.ts in the clear."""
    values, index = list(logits), list(range(len(logits)))
    while len(values) > 1:
        pairs = [(values[i], values[i + 1], index[i], index[i + 1]) for i in range(0, len(values) - 1, 2)]
        less = [((a - b) >> (bits - 1)) & 1 for a, b, _, _ in pairs]
        rest = ([values[-1]], [index[-1]]) if len(values) % 2 else ([], [])
        values = [a + c * (b - a) for c, (a, b, _, _) in zip(less, pairs)] + rest[0]
        index = [i + c * (j - i) for c, (_, _, i, j) in zip(less, pairs)] + rest[1]
    return index[0]


for _ in range(200):
    logits = rng.integers(-1000, 1000, size=int(rng.integers(1, 90)))
    assert argmax(logits.tolist(), 12) == int(np.argmax(logits))
print("an opened bit times a wire: exact, views uniform; greedy tokens by a knockout equal the first maximum")
