"""The model's definition, written a second time: no state, no chunks, no shared code.

Everything is computed over the whole sequence in fp64, from the parameters alone. What each query
sees is found by running the online eviction rule token by token.
"""

import torch

from lalte.config import FullConfig, GDNConfig, LocalGDNConfig, LTEConfig, NSAConfig


class Oracle:
    """Logits [n, vocab] of one sequence, and what every LTE head has kept at its end."""

    def __init__(self, config, weights, tokens):
        self.config = config
        self.weights = {name: x.detach().double() for name, x in weights.items()}
        self.kept = {}  # (layer, head) -> positions at the last block boundary
        self.scores = {}  # layer -> logits [heads, n]
        self.evictions = 0
        n = len(tokens)
        x = self.weights["model.embeddings.weight"][tokens]
        for index, layer in enumerate(config.layers):
            prefix = f"model.layers.{index}."
            h = self.norm(x, prefix + "attn_norm.weight")
            if isinstance(layer, GDNConfig):
                x = x + self.gdn(h, prefix + "attn.", layer)
            elif isinstance(layer, LocalGDNConfig):
                x = x + self.local_gdn(h, prefix + "attn.", layer, index, n)
            elif isinstance(layer, NSAConfig):
                x = x + self.nsa(h, prefix + "attn.", layer, n)
            else:
                x = x + self.attention(h, prefix + "attn.", layer, index, n)
            h = self.norm(x, prefix + "mlp_norm.weight")
            gate = self.linear(h, prefix + "mlp.gate_proj")
            up = self.linear(h, prefix + "mlp.up_proj")
            x = x + self.linear(gate * torch.sigmoid(gate) * up, prefix + "mlp.down_proj")
        x = self.norm(x, "model.norm.weight")
        head = "model.embeddings" if config.tie_embeddings else "lm_head"
        self.logits = self.linear(x, head)

    def linear(self, x, name):
        return x @ self.weights[name + ".weight"].T

    def norm(self, x, name):
        root = (x.pow(2).mean(-1, keepdim=True) + self.config.rms_norm_eps).sqrt()
        return x / root * self.weights[name]

    def gdn(self, x, prefix, layer):
        sources = {name: self.linear(x, f"{prefix}{name}_proj") for name in "qkvabg"}
        out = self.delta_rule(sources, prefix, layer.num_heads)
        return self.linear(out, prefix + "o_proj")

    def delta_rule(self, sources, prefix, heads):
        """sources: what stands in for the projections q, k, v, a, b, g."""
        n = len(sources["q"])
        parts = {}
        for name in "qkv":
            y = sources[name]
            taps = self.weights[f"{prefix}{name}_conv1d.weight"][:, 0]
            out = torch.zeros_like(y)
            for t in range(n):
                for j in range(taps.shape[1]):
                    source = t - taps.shape[1] + 1 + j
                    if source >= 0:
                        out[t] += taps[:, j] * y[source]
            parts[name] = (out * torch.sigmoid(out)).reshape(n, heads, -1)
        q, k, v = parts["q"], parts["k"], parts["v"]
        q = q / (q.pow(2).sum(-1, keepdim=True) + 1e-6).sqrt() / q.shape[-1] ** 0.5
        k = k / (k.pow(2).sum(-1, keepdim=True) + 1e-6).sqrt()
        a = sources["a"] + self.weights[prefix + "dt_bias"]
        decay = torch.exp(-torch.exp(self.weights[prefix + "A_log"]) * torch.log1p(torch.exp(a)))
        beta = torch.sigmoid(sources["b"])
        gate = sources["g"].reshape(n, heads, -1)
        out = torch.zeros(v.shape, dtype=torch.float64)
        for h in range(heads):
            state = torch.zeros(k.shape[-1], v.shape[-1], dtype=torch.float64)
            for t in range(n):
                state = decay[t, h] * state
                error = v[t, h] - k[t, h] @ state
                state = state + beta[t, h] * torch.outer(k[t, h], error)
                out[t, h] = q[t, h] @ state
        out = self.norm(out, prefix + "o_norm.weight") * gate * torch.sigmoid(gate)
        return out.reshape(n, -1)

    def local_gdn(self, x, prefix, layer, index, n):
        c = self.config
        heads, group = c.num_heads, c.num_heads // c.num_kv_heads
        added = self.linear(self.linear(x, prefix + "delta.down"), prefix + "delta.up")
        added = added.reshape(n, 4, heads * c.head_dim)
        gates = self.linear(x, prefix + "gates_proj").reshape(n, 3, heads)
        sources = {"a": gates[:, 0], "b": gates[:, 1], "g": added[:, 3]}
        for part, name in enumerate("qkv"):
            y = self.linear(x, f"{prefix}{name}_proj")
            if name != "q":  # head h reads KV head h // group
                y = y.reshape(n, c.num_kv_heads, c.head_dim)
                y = y[:, [h // group for h in range(heads)]].reshape(n, -1)
            sources[name] = y + added[:, part]
        branch = self.delta_rule(sources, prefix, heads)
        nothing = gates[:, 2] + self.weights[prefix + "null_bias"]
        local = self.attend(x, prefix, layer, index, n, nothing)
        return self.linear(local + branch, prefix + "o_proj")

    def attention(self, x, prefix, layer, index, n):
        return self.linear(self.attend(x, prefix, layer, index, n), prefix + "o_proj")

    def attend(self, x, prefix, layer, index, n, nothing=None):
        """nothing: [n, heads], the logit of a key more, whose value is zero."""
        c = self.config
        group = c.num_heads // c.num_kv_heads
        q = self.linear(x, prefix + "q_proj").reshape(n, c.num_heads, c.head_dim)
        k = self.linear(x, prefix + "k_proj").reshape(n, c.num_kv_heads, c.head_dim)
        v = self.linear(x, prefix + "v_proj").reshape(n, c.num_kv_heads, c.head_dim)
        if isinstance(layer, LTEConfig):
            self.scores[index] = self.router(k, v, prefix + "router.conv_stack.", layer)
        out = torch.zeros(n, c.num_heads, c.head_dim, dtype=torch.float64)
        for h in range(c.num_kv_heads):
            for i, visible in enumerate(self.visible_sets(layer, index, h, n)):
                seen = list(visible)
                stand = torch.tensor([visible[j] for j in seen], dtype=torch.float64)
                keys = self.turn(k[seen, h], stand - i)
                for member in range(h * group, (h + 1) * group):
                    scores = keys @ q[i, member] / c.head_dim**0.5
                    if nothing is not None:
                        scores = torch.cat([scores, nothing[i, member, None]])
                    weight = torch.softmax(scores, dim=0)
                    out[i, member] = weight[: len(seen)] @ v[seen, h]
        return out.reshape(n, -1)

    def nsa(self, x, prefix, layer, n):
        c = self.config
        group = c.num_heads // c.num_kv_heads
        q = self.linear(x, prefix + "q_proj").reshape(n, c.num_heads, c.head_dim)
        k = self.linear(x, prefix + "k_proj").reshape(n, c.num_kv_heads, c.head_dim)
        v = self.linear(x, prefix + "v_proj").reshape(n, c.num_kv_heads, c.head_dim)
        gate = torch.sigmoid(self.linear(x, prefix + "g_proj")).reshape(n, c.num_heads, 3)
        stand = torch.arange(n).double()
        out = torch.zeros(n, c.num_heads, c.head_dim, dtype=torch.float64)

        def attend(query, keys, values):
            weight = torch.softmax(keys @ query / c.head_dim**0.5, dim=0)
            return weight @ values, weight

        size = layer.block_size
        for h in range(c.num_kv_heads):
            keys, values = self.turn(k[:, h], stand), v[:, h]
            means = [
                torch.stack([y[j : j + size].mean(0) for j in range(0, n - size + 1, size)])
                for y in (keys, values)
            ]
            members = range(h * group, (h + 1) * group)
            for i in range(n):
                queries = {m: self.turn(q[i, m][None], stand[i : i + 1])[0] for m in members}
                complete, own = (i + 1) // size, i // size
                compressed = {
                    m: attend(queries[m], *(y[:complete] for y in means)) for m in members
                }
                share = sum(weight for _, weight in compressed.values())
                always = {0, own, max(own - 1, 0)}
                best = sorted(set(range(complete)) - always, key=lambda b: -share[b])
                chosen = always | set(best[: layer.num_blocks - len(always)])
                rows = [j for j in range(i + 1) if j // size in chosen]
                latest = slice(max(i + 1 - layer.window, 0), i + 1)
                for m in members:
                    selected, _ = attend(queries[m], keys[rows], values[rows])
                    window, _ = attend(queries[m], keys[latest], values[latest])
                    parts = (compressed[m][0], selected, window)
                    out[i, m] = sum(g * part for g, part in zip(gate[i, m], parts, strict=True))
        return self.linear(out.reshape(n, -1), prefix + "o_proj")

    def turn(self, x, by):
        half = x.shape[-1] // 2
        angle = by[:, None] * self.config.rope_theta ** (-torch.arange(half).double() / half)
        a, b = x[:, :half], x[:, half:]
        cos, sin = angle.cos(), angle.sin()
        return torch.cat([a * cos - b * sin, b * cos + a * sin], dim=-1)

    def router(self, k, v, prefix, layer):
        n, heads = k.shape[:2]
        logits = torch.zeros(heads, n, dtype=torch.float64)
        for h in range(heads):
            x = torch.cat([k[:, h], v[:, h]], dim=-1)
            for number in range(3):
                weight = self.weights[f"{prefix}convs.{number}.weight"][:, :, 0]
                bias = self.weights[f"{prefix}convs.{number}.bias"]
                size = weight.shape[0] // heads
                weight = weight[h * size : (h + 1) * size]
                out = bias[h * size : (h + 1) * size].repeat(n, 1)
                for tap in range(layer.router_kernel):
                    move = (tap - layer.router_kernel // 2) * layer.router_dilation
                    for t in range(max(0, -move), min(n, n - move)):
                        out[t] = out[t] + weight[:, :, tap] @ x[t + move]
                x = out * torch.sigmoid(out)
            weight = self.weights[prefix + "proj.weight"][h, :, 0, 0]
            logits[h] = x @ weight + self.weights[prefix + "proj.bias"][h]
        return logits

    def visible_sets(self, layer, index, head, n):
        """For each query: {position of a visible token: where it is said to stand}."""
        if isinstance(layer, FullConfig):
            return [{j: j for j in range(i + 1)} for i in range(n)]
        c = self.config
        if not isinstance(layer, LTEConfig):
            sinks = getattr(layer, "sinks", 0)
            bounded = c.positions == "bounded"
            return [
                {
                    j: max(j, i - i % c.chunk - c.position_span + j) if bounded else j
                    for j in range(min(sinks, i + 1))
                }
                | {j: j for j in range(max(0, i - layer.window + 1), i + 1)}
                for i in range(n)
            ]
        score = self.scores[index][head].tolist()
        kept, sets, stands, decided = [], [], {}, 0

        def rank(j):
            return (1, 0.0, -j) if j < layer.sinks else (0, score[j], -j)

        for i in range(n + 1):
            boundary = i - i % c.chunk
            until = i if c.eviction_grid == "token" else boundary
            while decided < until - layer.window:
                if decided < layer.sinks or score[decided] > 0:
                    kept.append(decided)
                    if len(kept) > layer.budgets[head]:
                        kept.remove(min(kept, key=rank))
                        self.evictions += 1
                decided += 1
            if i == boundary:
                self.kept[index, head] = list(kept)
                stands = {}
                if c.positions == "bounded":
                    stands = {j: max(j, i - c.position_span + r) for r, j in enumerate(kept)}
            if i < n:
                window = range(max(0, until - layer.window), i + 1)
                sets.append({**{j: stands.get(j, j) for j in kept}, **{j: j for j in window}})
        return sets
