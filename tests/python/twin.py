"""A trainer in double precision, written for reading: the oracle of `pausedata bench parity`.

    python tests/python/twin.py data/parity

Trains three small models with pauses among their ids, a GPT-2, a Llama with grouped
queries, and one of these with norms of queries and keys, a window, bounded logits and a
z-loss, and writes for each the folder that `bench parity` reads: recipe.toml and
arrays.safetensors. Numbers are computed in float64; arrays of parameters and gradients are
rounded to float32, and training starts from the rounded ones. Every gradient is proved by
finite differences before anything is written. Needs NumPy alone.
"""

import json
import math
import sys
from pathlib import Path

import numpy as np

UNSCORED = -100
STEPS, ROWS, MICRO, LENGTH, VOCABULARY = 30, 2, 2, 16, 259
LR, BETAS, EPS, DECAY, CLIP = 6e-4, (0.9, 0.95), 1e-8, 0.1, 1.0

MODELS = {
    "gpt2": {
        "layers": 2, "heads": 2, "kv_heads": 2, "d": 8, "ff": 32, "llama": False, "eps": 1e-5,
        "recipe": 'positions = "learned"\nnorm = "layer-norm"\nactivation = "gelu"\nbias = true',
    },
    "llama": {
        "layers": 2, "heads": 4, "kv_heads": 2, "d": 16, "ff": 24, "llama": True, "eps": 1e-6,
        "recipe": 'positions = "rope"\nnorm = "rms-norm"\nactivation = "swi-glu"\nbias = false',
    },
}  # fmt: skip
MODELS["bounded"] = MODELS["llama"] | {"qk_norm": True, "window": 6, "cap": 4.0, "z_loss": 0.01}


MORE = [("qk_norm", "qk_norm"), ("window", "window"), ("logit_soft_cap", "cap")]


def parameters(m, rng):
    """Initial values by name; matrices of linear layers are [outputs, inputs]."""
    d, ff, kv = m["d"], m["ff"], m["d"] // m["heads"] * m["kv_heads"]
    shapes = {"wte.weight": (VOCABULARY, d)}
    if not m["llama"]:
        shapes["wpe.weight"] = (LENGTH, d)
    linear = [("qkv", d + 2 * kv, d), ("proj", d, d), ("up", ff * (1 + m["llama"]), d), ("down", d, ff)]
    for block in range(m["layers"]):
        for norm in ("ln1", "ln2"):
            shapes[f"blocks.{block}.{norm}.weight"] = (d,)
        for norm in ("q_norm", "k_norm") * m.get("qk_norm", False):
            shapes[f"blocks.{block}.{norm}.weight"] = (d // m["heads"],)
        for name, outputs, inputs in linear:
            shapes[f"blocks.{block}.{name}.weight"] = (outputs, inputs)
    shapes["lnf.weight"] = (d,)
    if not m["llama"]:
        shapes |= {n.replace("weight", "bias"): s[:1] for n, s in shapes.items() if not n.startswith("w")}
    # Wider than a real start, so that every part of the model has its say in the loss.
    def draw(name, shape):
        center = 1.0 if len(shape) == 1 and name.endswith("weight") else 0.0
        return (center + rng.normal(0, 0.2, shape)).astype(np.float32).astype(np.float64)

    return {name: draw(name, shape) for name, shape in shapes.items()}


def norm(m, p, name, x):
    w, b = p[f"{name}.weight"], p.get(f"{name}.bias", 0.0)
    center = 0.0 if m["llama"] else x.mean(-1, keepdims=True)
    inverse = 1 / np.sqrt(((x - center) ** 2).mean(-1, keepdims=True) + m["eps"])
    hat = (x - center) * inverse

    def back(g, dy):
        g[f"{name}.weight"] += (dy * hat).sum(tuple(range(dy.ndim - 1)))
        if f"{name}.bias" in p:
            g[f"{name}.bias"] += dy.sum((0, 1))
        dh = dy * w
        dx = dh - hat * (dh * hat).mean(-1, keepdims=True)
        if not m["llama"]:
            dx -= dh.mean(-1, keepdims=True)
        return dx * inverse

    return hat * w + b, back


def linear(p, name, x):
    w, b = p[f"{name}.weight"], p.get(f"{name}.bias", 0.0)

    def back(g, dy):
        g[f"{name}.weight"] += np.einsum("bto,bti->oi", dy, x)
        if f"{name}.bias" in p:
            g[f"{name}.bias"] += dy.sum((0, 1))
        return dy @ w

    return x @ w.T + b, back


def turn(x, sign):
    """Rotary positions: the first half of a head turns against the second."""
    half = x.shape[-1] // 2
    angle = np.arange(x.shape[2])[:, None] / 10000.0 ** (np.arange(half) / half)
    cos, sin = np.cos(angle), sign * np.sin(angle)
    a, b = x[..., :half], x[..., half:]
    return np.concatenate((a * cos - b * sin, b * cos + a * sin), -1)


def attention(m, p, at, qkv):
    rows, length, _ = qkv.shape
    h, kv, size = m["heads"], m["kv_heads"], m["d"] // m["heads"]
    heads = lambda x: x.reshape(rows, length, -1, size).swapaxes(1, 2)
    q, k, v = (heads(x) for x in np.split(qkv, [h * size, (h + kv) * size], -1))
    if m.get("qk_norm"):
        q, back_q = norm(m, p, f"{at}.q_norm", q)
        k, back_k = norm(m, p, f"{at}.k_norm", k)
    if m["llama"]:
        q, k = turn(q, 1), turn(k, 1)
    share = lambda x: np.repeat(x, h // kv, 1)
    scores = q @ share(k).swapaxes(2, 3) / math.sqrt(size)
    scores[..., np.triu(np.ones((length, length), bool), 1)] = -np.inf
    scores[..., np.tril(np.ones((length, length), bool), -m.get("window", length))] = -np.inf
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    out = weights @ share(v)

    def back(g, dy):
        dy = heads(dy)
        dw = dy @ share(v).swapaxes(2, 3)
        ds = weights * (dw - (dw * weights).sum(-1, keepdims=True)) / math.sqrt(size)
        gather = lambda x: x.reshape(rows, kv, h // kv, length, size).sum(2)
        dq, dk, dv = ds @ share(k), gather(ds.swapaxes(2, 3) @ q), gather(weights.swapaxes(2, 3) @ dy)
        if m["llama"]:
            dq, dk = turn(dq, -1), turn(dk, -1)
        if m.get("qk_norm"):
            dq, dk = back_q(g, dq), back_k(g, dk)
        flat = lambda x: x.swapaxes(1, 2).reshape(rows, length, -1)
        return np.concatenate((flat(dq), flat(dk), flat(dv)), -1)

    return out.swapaxes(1, 2).reshape(rows, length, -1), back


def activation(m, u):
    if m["llama"]:
        gate, up = np.split(u, 2, -1)
        s = 1 / (1 + np.exp(-gate))

        def back(dy):
            return np.concatenate((dy * up * (s + gate * s * (1 - s)), dy * gate * s), -1)

        return gate * s * up, back
    root = math.sqrt(2 / math.pi)
    tanh = np.tanh(root * (u + 0.044715 * u**3))

    def back(dy):
        slope = 0.5 * u * (1 - tanh**2) * root * (1 + 3 * 0.044715 * u**2)
        return dy * (0.5 * (1 + tanh) + slope)

    return 0.5 * u * (1 + tanh), back


def loss_and_gradients(m, p, ids, targets):
    """The sums over scored targets of cross entropy and z-loss, and their gradients."""
    g = {name: np.zeros_like(value) for name, value in p.items()}
    x = p["wte.weight"][ids]
    if "wpe.weight" in p:
        x = x + p["wpe.weight"][: ids.shape[1]]
    ways = []
    for block in range(m["layers"]):
        at = f"blocks.{block}"
        h, norm1 = norm(m, p, f"{at}.ln1", x)
        qkv, to_qkv = linear(p, f"{at}.qkv", h)
        seen, attended = attention(m, p, at, qkv)
        out, proj = linear(p, f"{at}.proj", seen)
        x = x + out
        h, norm2 = norm(m, p, f"{at}.ln2", x)
        u, to_up = linear(p, f"{at}.up", h)
        active, act = activation(m, u)
        out, down = linear(p, f"{at}.down", active)
        x = x + out
        ways.append((norm1, to_qkv, attended, proj, norm2, to_up, act, down))
    h, last = norm(m, p, "lnf", x)
    logits = h @ p["wte.weight"].T
    cap, weight = m.get("cap", math.inf), m.get("z_loss", 0.0)
    ratios = np.tanh(logits / cap)
    logits = logits if cap == math.inf else cap * ratios
    z = np.log(np.exp(logits).sum(-1, keepdims=True))
    chances = np.exp(logits - z)
    row, position = np.nonzero(targets != UNSCORED)
    aims = targets[row, position]
    loss = -np.log(chances[row, position, aims]).sum()
    z_loss = weight * (z[row, position] ** 2).sum()

    d_logits = np.zeros_like(chances)
    d_logits[row, position] = chances[row, position] * (1 + 2 * weight * z[row, position])
    d_logits[row, position, aims] -= 1
    d_logits *= 1 - ratios**2
    g["wte.weight"] += np.einsum("btv,btd->vd", d_logits, h)
    dx = last(g, d_logits @ p["wte.weight"])
    for norm1, to_qkv, attended, proj, norm2, to_up, act, down in reversed(ways):
        dx = dx + norm2(g, to_up(g, act(down(g, dx))))
        dx = dx + norm1(g, to_qkv(g, attended(g, proj(g, dx))))
    np.add.at(g["wte.weight"], ids, dx)
    if "wpe.weight" in p:
        g["wpe.weight"][: ids.shape[1]] += dx.sum(0)
    return loss, z_loss, g


def batch(rng, suffix):
    """Ids that mostly follow from the one before, with pauses; nobody is asked for a pause."""
    pause = VOCABULARY - 1
    x = np.empty((ROWS, LENGTH + 1), np.int64)
    x[:, 0] = rng.integers(0, pause, ROWS)
    for t in range(1, LENGTH + 1):
        x[:, t] = np.where(rng.random(ROWS) < 0.2, rng.integers(0, pause, ROWS), (x[:, t - 1] * 3 + 1) % pause)
    half = LENGTH // 2
    if suffix:  # prefix, pauses, answer: the answer alone is scored
        x[:, half : half + 3] = pause
    else:
        x[rng.random(x.shape) < 0.15] = pause
    ids, targets = x[:, :-1].copy(), x[:, 1:].copy()
    targets[targets == pause] = UNSCORED
    if suffix:
        targets[:, : half + 2] = UNSCORED
    return ids, targets


def check(m, p, data):
    """Gradients against differences, a few elements of every parameter."""
    *_, g = loss_and_gradients(m, p, *data)
    rng = np.random.default_rng(5)
    for name, value in p.items():
        for at in rng.integers(0, value.size, 3):
            flat, keep, sides = value.reshape(-1), value.reshape(-1)[at], []
            for step in (1e-5, -1e-5):
                flat[at] = keep + step
                sides.append(sum(loss_and_gradients(m, p, *data)[:2]))
            flat[at] = keep
            slope, found = (sides[0] - sides[1]) / 2e-5, g[name].reshape(-1)[at]
            assert abs(slope - found) < 1e-6 * max(1, abs(slope)), (name, slope, found)


def train(m, seed):
    """All arrays of one run: every other step has its pauses before an answer."""
    rng = np.random.default_rng(seed)
    p = parameters(m, rng)
    arrays = {f"init.{name}": value.astype(np.float32) for name, value in p.items()}
    first = {name: np.zeros_like(value) for name, value in p.items()}
    second = {name: np.zeros_like(value) for name, value in p.items()}
    losses, norms = [], []
    for step in range(STEPS):
        data = [batch(rng, step % 2 == 1) for _ in range(MICRO)]
        if step == 0:
            check(m, p, data[0])
        scored = sum((targets != UNSCORED).sum() for _, targets in data)
        parts = [loss_and_gradients(m, p, *each) for each in data]
        g = {name: sum(part[2][name] for part in parts) / scored for name in p}
        for micro, (ids, targets) in enumerate(data):
            arrays[f"batch.{step}.{micro}.ids"] = ids.astype(np.int32)
            arrays[f"batch.{step}.{micro}.targets"] = targets.astype(np.int32)
        if step == 0:
            arrays |= {f"grad.{name}": value.astype(np.float32) for name, value in g.items()}
        losses.append(sum(part[0] for part in parts) / scored)
        norms.append(math.sqrt(sum((value**2).sum() for value in g.values())))
        scale = min(1.0, CLIP / norms[-1])
        for name, value in p.items():
            grad = g[name] * scale
            first[name] = BETAS[0] * first[name] + (1 - BETAS[0]) * grad
            second[name] = BETAS[1] * second[name] + (1 - BETAS[1]) * grad**2
            mean = first[name] / (1 - BETAS[0] ** (step + 1))
            square = second[name] / (1 - BETAS[1] ** (step + 1))
            if value.ndim == 2:  # matrices and tables decay, gains and biases do not
                value *= 1 - LR * DECAY
            value -= LR * mean / (np.sqrt(square) + EPS)
    arrays |= {f"final.{name}": value.astype(np.float32) for name, value in p.items()}
    return arrays | {"losses": np.array(losses), "norms": np.array(norms)}


def write(folder, m, arrays):
    kinds = {"float32": "F32", "float64": "F64", "int32": "I32"}
    header, at = {}, 0
    for name, value in arrays.items():
        kind = {"dtype": kinds[str(value.dtype)], "shape": value.shape}
        header[name] = kind | {"data_offsets": [at, at := at + value.nbytes]}
    text = json.dumps(header, separators=(",", ":")).encode()
    text += b" " * (-len(text) % 8)
    body = b"".join(value.astype(value.dtype.newbyteorder("<")).tobytes() for value in arrays.values())
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "arrays.safetensors").write_bytes(len(text).to_bytes(8, "little") + text + body)
    (folder / "recipe.toml").write_text(f"""\
# Made by tests/python/twin.py.
[tokenizer]
train = {{ vocab_size = {VOCABULARY - 3} }} # and three reserved tokens
[model]
n_layers = {m["layers"]}
n_heads = {m["heads"]}
n_kv_heads = {m["kv_heads"]}
d_model = {m["d"]}
d_ff = {m["ff"]}
norm_eps = {m["eps"]}
{m["recipe"]}
tied = true
{"".join(f"{key} = {json.dumps(m[at])}{chr(10)}" for key, at in MORE if at in m)}\
[pretrain]
sources = [{{ path = "none" }}]
pack = {{ seq_len = {LENGTH} }}
[pretrain.train]
steps = {STEPS}
batch_tokens = {ROWS * MICRO * LENGTH}
micro_batch_tokens = {ROWS * LENGTH}
lr = {LR}
schedule = "constant"
betas = {list(BETAS)}
eps = {EPS}
weight_decay = {DECAY}
decay_embeddings = true
clip = {CLIP}
{f"z_loss = {m['z_loss']}{chr(10)}" if "z_loss" in m else ""}\
""")


if __name__ == "__main__":
    for seed, (name, model) in enumerate(MODELS.items()):
        write(Path(sys.argv[1]) / name, model, train(model, seed))
