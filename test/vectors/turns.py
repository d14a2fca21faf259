"""
Numpy twin of passed-over slots (protocols/programs/attention.ts, engines/evaluator.ts storeSkipped): a session of several turns deals an answer's whole
allowance, the evaluators run only the tokens that there are. Later turns then have slots that no token fills, which the dealer does not know of.

Shown here for one head, with the dealer's products made for the full cache: the logits of such slots are garbage, replaced on shares by the row's first
one; their probabilities are cleared on shares; their value wires keep public part 0 and the halves of the dealer's mask, so that the product over all
slots, which is dealt as one sum, is exactly the sum over the filled ones. Run: python3 test/vectors/turns.py
"""
import numpy as np

rng = np.random.default_rng()
U = np.uint64


def ring(*shape):
    return rng.integers(0, 2**64, size=shape, dtype=U)


def share(x):
    a = ring(*x.shape)
    return a, x - a


def product(mx, rx, my, ry, op):
    """[x op y] of two wires (m, halves of r) from a dealt share of r_x op r_y: mul of protocols/gates/mul.ts."""
    dealt = share(op(rx[0] + rx[1], DEALER_Y))
    z0 = op(mx, my - ry[0]) - op(rx[0], my) + dealt[0]
    z1 = op(mx, U(0) - ry[1]) - op(rx[1], my) + dealt[1]
    return z0, z1


for _ in range(100):
    slots, dim = 12, 4
    unused = np.zeros(slots, bool)
    unused[rng.choice(np.arange(1, slots), 5, replace=False)] = True
    q, k, v = ring(dim), ring(slots, dim), ring(slots, dim)
    rq, rk, rv = (share(ring(*x.shape)) for x in (q, k, v))  # halves; the dealer knows the sums
    mq, mk, mv = q + rq[0] + rq[1], k + rk[0] + rk[1], v + rv[0] + rv[1]
    # Passed over: keys hold zeros (halves too), values public part 0 and the true halves.
    mk[unused] = 0
    mv[unused] = 0
    held_rk = tuple(np.where(unused[:, None], U(0), h) for h in rk)

    DEALER_Y = rk[0] + rk[1]
    z0, z1 = product(mq, rq, mk, held_rk, lambda a, b: (a * b).sum(-1, dtype=U))
    z = z0 + z1
    assert (z[~unused] == (q * k).sum(-1, dtype=U)[~unused]).all()
    z0[unused], z1[unused] = z0[0], z1[0]  # repeatFirst, on shares
    assert ((z0 + z1)[unused] == z[0]).all()

    p = share(ring(slots))  # whatever the softmax gives
    p[0][unused] = 0  # clearUnused, on shares
    p[1][unused] = 0
    rp = share(ring(slots))
    mp = p[0] + p[1] + rp[0] + rp[1]  # opened under a fresh mask
    DEALER_Y = rv[0] + rv[1]
    o0, o1 = product(mp, rp, mv, rv, lambda a, b: (a[:, None] * b).sum(0, dtype=U))
    want = ((p[0] + p[1])[:, None] * v)[~unused].sum(0, dtype=U)
    assert (o0 + o1 == want).all()
    # Positive control: without the halves of the passed slots' masks the sum is wrong.
    lost = tuple(np.where(unused[:, None], U(0), h) for h in rv)
    b0, b1 = product(mp, rp, mv, lost, lambda a, b: (a[:, None] * b).sum(0, dtype=U))
    assert (b0 + b1 != want).any()
print("passed-over slots: exact, 100 runs")
