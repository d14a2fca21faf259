"""
Numpy twin of ranking, static eviction and selection (protocols/programs/mpcache/{ranking,slots,eviction,selection}.ts). Run: python3 test/vectors/mpcache.py

All parties in one process; what counts is who uses what. A wire is (m, r): m = x + r public to P0 and P1, r known to H alone. A share is a pair of halves.
`deal` is the only way from masks to the evaluators, `opened` the only exchange between them. A key is its ideal functionality: halves of a point function.

1. `onehot`: entry j of [x = j], j < span, is the point function of H's point -r at j - m.
2. Ranks by all pairs: rank_a = sum over b > a of [s_a < s_b] + sum over b < a of (1 - [s_b < s_a]): descending, ties to the lower index, a permutation as long as
   all differences of a row lie within the comparison's window; a wider row gives no permutation (the control).
3. Slots by histogram: N_v = number of scores >= v; t + 1 = sum over v of [N_v >= k], the greatest such v is the threshold t. The drop [N_(v-1) >= k] - [N_v >= k] is 1 at
   v = t + 1 alone (scores are below the last level), so its product with N is A, the number above t. higher = [s > t], same = [s = t], early = [(same before) + A - k < 0].
   Kept = higher + same early. With p the number kept before j: slot_j = p where kept, k + j - p elsewhere, a permutation.
4. Compaction: row i of S is [slot_j = i], and S K keeps the order. A token that is the j-th of T lands in slots j - (T - k) .. j: S is a band, of which blocks of
   columns are made, each from slots less its first row.
5. Selection: with one-hot rows S of the chosen, softmax(S z) over chosen and always attended logits, scattered by S^T, times all values, is the softmax over the attended
   slots alone: softmax after the gather, no value is moved.
   Gathered keys and values give the same: logits of S K, and with p over the attended slots p times S V. Scores by mean are a query times sums of keys.
   Levels compared at once: place = sum of kept(parent') [c' before c], and keep more where the own parent is not kept: the rank among children of kept parents.
6. Reference: words of random parities of [some logit of a cluster reaches a bucket], gated by [is chosen] and added up, tell which buckets the attended slots reach; 1 / sum may come
   after values: (sum of e v) / sum of e.
7. Importance, by which eviction chooses: sum over heads and the last queries of (1 / sum of a row) times its exponentials.
"""
import numpy as np

rng = np.random.default_rng()
U = np.uint64
PLACES, COUNT_BITS = 64, 16
ring = lambda v, n: np.asarray(v).astype(np.int64).astype(U) & U((1 << n) - 1)
signed = lambda v, n: (ring(v, n) << U(64 - n)).astype(np.int64) >> (64 - n)
uniform = lambda shape, n: rng.integers(0, 1 << n, shape, dtype=U)
total = lambda share, n: (share[0] + share[1]) & U((1 << n) - 1)
rank_bits = lambda count: max(1, int(np.ceil(np.log2(count))))
table_bits = lambda count: max(6, rank_bits(count + 1))


def deal(v, n):
    """P0's half is pseudorandom, P1's explicit."""
    half = uniform(np.shape(v), n)
    return half, ring(v, n) - half & U((1 << n) - 1)


def opened(share, n):
    r = uniform(share[0].shape, n)
    return total(share, n) + r & U((1 << n) - 1), r


linear = lambda f, pair: (f(pair[0]), f(pair[1]))
plus = lambda pair, c: (pair[0] + ring(c, 64), pair[1])
wire = lambda v, n: opened(deal(ring(v, n), n), n)


def table(w, f, b, n, boolean=False):
    """A dealt table of f over the masked value, XOR-shared or additive, read at m."""
    m, r = w
    places = np.arange(1 << b, dtype=U)
    full = np.asarray(f(ring(places - r[..., None], b).astype(np.int64)))
    pick = lambda t: np.take_along_axis(t, ring(m, b)[..., None].astype(np.int64), -1)[..., 0]
    if boolean:
        t0 = uniform(full.shape, 1)
        return pick(t0), pick(t0 ^ full.astype(U))
    return linear(pick, deal(full, n))


def b2a(bit, n):
    """One opened bit; rho dealt in additive halves."""
    rho = uniform(bit[0].shape, 1)
    m, dealt = bit[0] ^ bit[1] ^ rho, deal(rho, n)
    sign = U(1) - U(2) * m
    return m + sign * dealt[0] & U((1 << n) - 1), sign * dealt[1] & U((1 << n) - 1)


def mul(f, x, y, n):
    """A bilinear map of two wires: m_x m_y - m_x r_y - r_x m_y + r_x r_y, the last one dealt, mask halves with the evaluators."""
    (mx, rx), (my, ry) = x, y
    hx, hy, dealt = deal(rx, n), deal(ry, n), deal(f(rx, ry), n)
    halves = [dealt[p] - f(mx, hy[p]) - f(hx[p], my) for p in (0, 1)]
    return halves[0] + f(mx, my) & U((1 << n) - 1), halves[1] & U((1 << n) - 1)


def onehot(w, b, span, n):
    """[.., span]: halves of the point function of -r, at j - m."""
    m, r = w
    halves = deal(np.arange(1 << b, dtype=U) == ring(U(0) - r, b)[..., None], n)
    at = ring(np.arange(span, dtype=U) - m[..., None], b).astype(np.int64)
    return linear(lambda h: np.take_along_axis(h, at, -1), halves)


def order(scores):
    return np.argsort(-scores, axis=1, kind="stable")


def rank_pairs(scores, b):
    """compareAll, open, ranksOf."""
    C = scores.shape[1]
    kb = rank_bits(C)
    i, j = np.triu_indices(C, 1)
    m, r = wire(scores, b)
    d = (m[:, i] - m[:, j], r[:, i] - r[:, j])
    less = b2a(table(d, lambda v: v >= 1 << (b - 1), b, 1, boolean=True), kb)

    def sums(half):
        out = np.zeros(scores.shape, U)
        for row in range(len(out)):
            np.add.at(out[row], i, half[row])
            np.subtract.at(out[row], j, half[row])
        return out

    return plus(linear(sums, less), np.arange(C)), kb


before = lambda h: np.cumsum(h, 1, dtype=U) - h


def slots_of_kept(keep, k):
    """p where kept, k + j - p elsewhere."""
    places = np.arange(keep[0].shape[1], dtype=U)
    w = opened(keep, COUNT_BITS)
    both = mul(lambda x, y: x * y, w, linear(before, w), COUNT_BITS)
    return plus(tuple(U(2) * both[p] - before(keep[p]) - (places + U(k)) * keep[p] for p in (0, 1)), places + U(k))


def flags(w, f, b):
    return b2a(table(linear(lambda v: ring(v, b), w), f, b, 1, boolean=True), COUNT_BITS)


def slots_by_histogram(scores, k):
    R, C = scores.shape
    b = 7
    m, r = w = wire(scores, b)
    hot = onehot(w, b, PLACES, COUNT_BITS)
    counts = linear(lambda h: np.cumsum(h.sum(1, dtype=U)[:, ::-1], 1, dtype=U)[:, ::-1], hot)  # N_v
    assert (total(counts, COUNT_BITS) == (scores[:, None] >= np.arange(PLACES)[:, None]).sum(-1)).all()
    counts = opened(counts, COUNT_BITS)
    enough = flags(counts, lambda v: v >= k, table_bits(C))
    drop = opened(linear(lambda h: np.concatenate([0 * h[:, :1], h[:, :-1] - h[:, 1:]], 1), enough), COUNT_BITS)
    t = opened(plus(linear(lambda h: h.sum(1, dtype=U)[:, None], enough), -1), b)
    assert (signed(t[0] - t[1], b)[:, 0] == -np.sort(-scores, 1)[:, k - 1]).all()
    above = mul(lambda x, y: (x * y).sum(1, dtype=U)[:, None], counts, drop, COUNT_BITS)
    over = (m - t[0], r - t[1])
    sign = lambda v: signed(v, b)
    higher, same = (table(over, f, b, COUNT_BITS) for f in (lambda v: sign(v) > 0, lambda v: sign(v) == 0))
    same, above = opened(same, COUNT_BITS), opened(above, COUNT_BITS)
    place = plus((before(same[0]) + above[0], before(same[1]) + above[1]), -k)
    bits = table_bits(2 * C)
    early = opened(flags(place, lambda v: v >= 1 << (bits - 1), bits), COUNT_BITS)
    both = mul(lambda x, y: x * y, same, early, COUNT_BITS)
    return slots_of_kept((higher[0] + both[0], higher[1] + both[1]), k)


def slots_by_pairs(scores, k):
    ranks, kb = rank_pairs(scores, 7)
    return slots_of_kept(table(opened(ranks, kb), lambda v: v < k, kb, COUNT_BITS), k)


def band(slots, k, block):
    """The selector [k, T] of one row of slots, made by blocks of columns; elsewhere it is 0."""
    T = len(slots[0])
    S = np.zeros((2, k, T), U)
    bits = rank_bits(T)
    m, r = opened(slots, bits + 1)
    for first in range(0, T, block):
        end = min(T, first + block)
        low, high = max(0, first - (T - k)), min(k, end)
        if low < high:
            hot = onehot((m[first:end] - U(low), r[first:end]), bits, high - low, 32)
            for p in (0, 1):
                S[p, low:high, first:end] = hot[p].T
    return S[0], S[1]


def softmax(z):
    e = np.exp(z - z.max(-1, keepdims=True))
    return e / e.sum(-1, keepdims=True)


for _ in range(25):
    R, C = 3, int(rng.integers(2, 60))
    b = int(rng.integers(6, 9))
    # Any place in the ring, but a window of 2^(b-1) - 1 steps.
    scores = rng.integers(-(1 << (b - 2)), 1 << (b - 2), (R, C))
    ranks, kb = rank_pairs(scores + int(rng.integers(0, 1 << b)), b)
    want = np.empty_like(scores)
    np.put_along_axis(want, order(scores), np.arange(C)[None].repeat(R, 0), 1)
    assert (total(ranks, kb) == want).all()

    # One-hot rows of the first k ranks gather in the order of the scores.
    k = int(rng.integers(1, C))
    S = total(onehot(opened(ranks, kb), kb, k, 32), 32).astype(np.int64).transpose(0, 2, 1)
    assert (S == (want[:, None] == np.arange(k)[:, None])).all()

    # Two levels at once: the rule of one after the other.
    parents, fan = int(rng.integers(2, 12)), 2
    upper, lower = rng.integers(0, 9, (R, parents)), rng.integers(0, 9, (R, parents * fan))
    keep = int(rng.integers(1, parents))
    final = int(rng.integers(1, keep * fan + 1))
    kept = np.zeros((R, parents), bool)
    np.put_along_axis(kept, order(upper)[:, :keep], True, 1)
    child_kept = np.repeat(kept, fan, 1)
    first = lower[:, :, None] > lower[:, None, :]
    first |= (lower[:, :, None] == lower[:, None, :]) & (np.arange(parents * fan)[:, None] < np.arange(parents * fan))
    place = (child_kept[:, :, None] & first).sum(1) + final * ~child_kept
    for row in range(R):
        children = np.flatnonzero(child_kept[row])
        best = children[np.argsort(-lower[row, children], kind="stable")][:final]
        assert (np.argsort(place[row], kind="stable")[:final] == best).all() and (np.sort(place[row])[:final] == np.arange(final)).all()
        assert (place[row] < final).sum() == final

    # Softmax after the gather, scattered: the softmax over the attended slots alone, with the values where they are.
    size, head, tail = 4, 4, 7
    z, value = rng.normal(0, 4, (R, head + C * size + tail)), rng.normal(size=(R, head + C * size + tail, 5))
    own = z[:, head : head + C * size].reshape(R, C, size)
    p = softmax(np.concatenate([z[:, :head], (S @ own).reshape(R, k * size), z[:, head + C * size :]], 1))
    back = (S.transpose(0, 2, 1) @ p[:, head : head + k * size].reshape(R, k, size)).reshape(R, C * size)
    output = (np.concatenate([p[:, :head], back, p[:, head + k * size :]], 1)[..., None] * value).sum(1)
    attended = np.ones(z.shape, bool)
    attended[:, head : head + C * size] = np.repeat(want < k, size, 1)
    masked = (softmax(np.where(attended, z, -np.inf))[..., None] * value).sum(1)
    assert np.allclose(output, masked, atol=1e-12)
    assert not np.allclose(output, (softmax(z)[..., None] * value).sum(1))  # The control: over all slots it is another one.

    # The reference of the attended slots: words of clusters times [is chosen], over Z_2. With 60 parities a bucket is missed with probability 2^-60.
    word = 60
    buckets = np.arange(-20, 20)
    reached = (z[..., None] / 2 >= buckets).astype(U)  # [R, slots, buckets]
    coins = uniform(z.shape, word)
    words = lambda part: np.bitwise_xor.reduce(np.where(reached[:, part] == 1, coins[:, part, None], U(0)), 1)
    in_cluster = [slice(head + c * size, head + (c + 1) * size) for c in range(C)]
    clusters = [words(part) for part in in_cluster]
    always = words(np.r_[0:head, head + C * size : z.shape[1]])
    gated = always.copy()
    for c, own in enumerate(clusters):
        m_w, m_k = uniform(own.shape, word), uniform((R, 1), 1)
        bit = (want[:, c, None] < k).astype(U)
        r_w, r_k = own ^ m_w, bit ^ m_k
        halves = [uniform(own.shape, word) for _ in range(3)]
        r_w1, r_k1, d1 = r_w ^ halves[0], r_k ^ (halves[1][:, :1] & U(1)), (r_k * r_w) ^ halves[2]
        p0 = m_k * m_w ^ m_k * halves[0] ^ (halves[1][:, :1] & U(1)) * m_w ^ halves[2]
        p1 = m_k * r_w1 ^ r_k1 * m_w ^ d1
        assert (p0 ^ p1 == bit * own).all()
        gated ^= p0 ^ p1
    top = np.where(attended, z, -np.inf).max(1)
    assert ((gated != 0).sum(1) == (buckets <= top[:, None] / 2).sum(1)).all()
    unnormalised = np.exp(np.where(attended, z, -np.inf) - top[:, None])
    assert np.allclose((unnormalised[..., None] * value).sum(1) / unnormalised.sum(1)[:, None], masked, atol=1e-12)

    # Gathered keys and values: the same output from a small cache; and means of logits from sums of keys.
    keys, query = rng.normal(size=(R, head + C * size + tail, 6)), rng.normal(size=(R, 6))
    dot = lambda k: np.einsum("rtd,rd->rt", k, query)
    small = lambda x: np.concatenate(
        [x[:, :head], (S @ x[:, head : head + C * size].reshape(R, C, -1)).reshape(R, k * size, -1), x[:, head + C * size :]], 1
    )
    p = softmax(dot(small(keys)))
    moved = (p[..., None] * small(value)).sum(1)
    stayed = (softmax(np.where(attended, dot(keys), -np.inf))[..., None] * value).sum(1)
    assert np.allclose(moved, stayed, atol=1e-12)
    own = dot(keys)[:, head : head + C * size].reshape(R, C, size).sum(2)
    assert np.allclose(own, dot(keys[:, head : head + C * size].reshape(R, C, size, 6).sum(2)), atol=1e-12)

    levels = rng.integers(0, PLACES - 1, (R, C))
    for s in (levels, levels // 8 * 8, np.full_like(levels, PLACES - 2), 0 * levels):
        chosen = np.sort(order(s)[:, :k], 1)
        for slots in (slots_by_histogram(s, k), slots_by_pairs(s, k)):
            got = total(slots, COUNT_BITS).astype(np.int64)
            assert (np.sort(got, 1) == np.arange(C)).all()
            assert (np.take_along_axis(got, chosen, 1) == np.arange(k)).all()
            assert (got <= np.arange(C) + k).all() and ((got >= k) | (got >= np.arange(C) - (C - k))).all() and ((got >= k) | (got <= np.arange(C))).all()

        # Compaction: the band is the whole selector, and one bilinear map moves what survives to the front, in order.
        keys = rng.integers(0, 1 << 32, (C, 4), dtype=U)
        for row in range(R):
            S = band(linear(lambda h: h[row], slots), k, 8)
            assert (total(S, 32) == (got[row] == np.arange(k)[:, None])).all()
            moved = mul(lambda x, y: x @ y, opened(S, 32), wire(keys, 32), 32)
            assert (total(moved, 32) == keys[chosen[row]]).all()

# Importance: what the last queries pay to each key, one bilinear map of the exponentials' and the quotients' wires; a token's level is a function of it alone.
H, Q, T, voters = 3, 9, 14, 4
e = np.tril(rng.integers(1, 1 << 20, (H, Q, T)), T - Q)
quotient = (1 << 40) // e.sum(-1)
paid = lambda e, quotient: (e[:, -voters:] * quotient[:, -voters:, None]).sum((0, 1), dtype=U)
importance = total(mul(paid, wire(e, 56), wire(quotient, 56), 56), 56)
exact = (e / e.sum(-1, keepdims=True))[:, -voters:].sum((0, 1))
assert np.allclose(importance.astype(float) / 2**40, exact, atol=1e-3)
assert abs(exact.sum() - H * voters) < 1e-9
assert not np.allclose(importance.astype(float) / 2**40, (e / e.sum(-1, keepdims=True)).sum((0, 1)), atol=1e-3)  # The control: all queries vote.

# The control: differences beyond the window make cycles, not a permutation.
ranks, kb = rank_pairs(np.array([[-20, 0, 20]]), 6)
assert sorted(total(ranks, kb)[0].tolist()) != [0, 1, 2]

# What an evaluator reads of a table is uniform whatever x is; unblinded it is not (the control).
for blinded in (True, False):
    r = uniform(4000, 6)
    m = ring(11 + r, 6)
    unit = (np.arange(64, dtype=U) == r[:, None]).astype(U)
    half = deal(unit, 8)[1] if blinded else unit
    read = np.take_along_axis(half, ring(m - U(11), 6)[:, None].astype(np.int64), 1)[:, 0]
    counts = np.bincount(read.astype(np.int64), minlength=256)
    deviation = (((counts - 4000 / 256) ** 2).sum() / (4000 / 256) - 255) / np.sqrt(510)
    assert (abs(deviation) < 6) == blinded
print("ranks by pairs, slots by histogram and by pairs, one-hot rows, compaction, softmax after a gather, its reference, importance hold")
