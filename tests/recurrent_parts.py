"""Two architectures without attention as blocks of a plug-in, token by token."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

import lumina
from lumina.model.context import BlockContext
from lumina.model.layers import Linear, RMSNorm
from lumina.model.spec import ModelSpec


def carried(
    context: BlockContext, layer: int, fresh: dict[str, Tensor]
) -> dict[str, Tensor]:
    """The state before the first token: the cache's, or an empty one."""
    held = context.cache.recall(layer) if context.cache is not None else {}
    return held or fresh


@lumina.register_block("mamba", options={"states": 8, "expand": 2, "width": 4})
class Mamba(nn.Module):
    """Selective state spaces, Gu and Dao, 2023, arXiv:2312.00752."""

    def __init__(self, spec: ModelSpec, layer_index: int) -> None:
        super().__init__()
        chosen = spec.options_of("mamba")
        self.layer_index, self.states = layer_index, chosen["states"]
        inner = chosen["expand"] * spec.hidden_size
        self.norm = RMSNorm(spec.hidden_size, spec.norm_eps)
        self.inside = Linear(spec.hidden_size, 2 * inner)
        self.convolution = nn.Parameter(torch.empty(chosen["width"], inner))
        self.select = Linear(inner, 2 * self.states)
        self.step = Linear(inner, inner, bias=True)
        self.log_a = nn.Parameter(torch.empty(inner, self.states))
        self.skip = nn.Parameter(torch.empty(inner))
        self.out = Linear(inner, spec.hidden_size)

    @staticmethod
    def initial(
        name: str, shape: tuple[int, ...], spec: ModelSpec, generator: torch.Generator
    ) -> Tensor | None:
        if name == "log_a":
            return torch.arange(1.0, shape[1] + 1).log().expand(shape)
        if name == "convolution":
            return torch.full(shape, 1.0 / shape[0])
        return {"skip": torch.ones(shape), "step.bias": torch.full(shape, -2.0)}.get(
            name
        )

    def forward(self, x_bsd: Tensor, context: BlockContext) -> Tensor:
        x, gate = self.inside(self.norm(x_bsd)).chunk(2, -1)
        rows, inner = x.shape[0], x.shape[2]
        state = carried(context, self.layer_index, {
            "window": x.new_zeros(rows, len(self.convolution) - 1, inner),
            "hidden": x.new_zeros(rows, inner, self.states),
        })  # fmt: skip
        window, hidden = state["window"], state["hidden"]
        a = -self.log_a.exp()
        seen = []
        for t in range(x.shape[1]):
            start = context.starts[:, t, None, None]
            window = torch.where(start, 0.0, window)
            hidden = torch.where(start, 0.0, hidden)
            window = torch.cat([window, x[:, t, None]], 1)
            u = F.silu((window * self.convolution).sum(1))
            window = window[:, 1:]
            b, c = self.select(u).chunk(2, -1)
            dt = F.softplus(self.step(u))[..., None]
            hidden = (dt * a).exp() * hidden + dt * b[:, None] * u[..., None]
            seen.append((hidden * c[:, None]).sum(-1) + self.skip * u)
        if context.cache is not None:
            context.cache.remember(self.layer_index, window=window, hidden=hidden)
        return x_bsd + self.out(torch.stack(seen, 1) * F.silu(gate))


@lumina.register_block("rwkv")
class Rwkv(nn.Module):
    """Time and channel mixing, Peng et al., 2023, arXiv:2305.13048 (version 4)."""

    def __init__(self, spec: ModelSpec, layer_index: int) -> None:
        super().__init__()
        width = spec.hidden_size
        self.layer_index = layer_index
        self.time_norm = RMSNorm(width, spec.norm_eps)
        self.channel_norm = RMSNorm(width, spec.norm_eps)
        self.mix = nn.Parameter(torch.empty(5, width))
        self.r, self.k, self.v = (Linear(width, width) for _ in range(3))
        self.decay = nn.Parameter(torch.empty(width))
        self.bonus = nn.Parameter(torch.empty(width))
        self.out = Linear(width, width)
        self.up, self.gate = Linear(width, 2 * width), Linear(width, width)
        self.down = Linear(2 * width, width)

    @staticmethod
    def initial(
        name: str, shape: tuple[int, ...], spec: ModelSpec, generator: torch.Generator
    ) -> Tensor | None:
        values = {"mix": 0.5, "decay": -1.0, "bonus": 0.3}
        return torch.full(shape, values[name]) if name in values else None

    def forward(self, x_bsd: Tensor, context: BlockContext) -> Tensor:
        nothing = torch.zeros_like(x_bsd[:, 0])
        state = carried(context, self.layer_index, {
            "time": nothing, "channel": nothing, "top": nothing, "bottom": nothing,
            "peak": nothing - 1e30,
        })  # fmt: skip
        x = self.time_norm(x_bsd)
        shifted, time = self._shift(x, state["time"], context)
        mixed = [x * m + shifted * (1 - m) for m in self.mix[:3]]
        r, k, v = self.r(mixed[0]), self.k(mixed[1]), self.v(mixed[2])
        top, bottom, peak = state["top"], state["bottom"], state["peak"]
        seen = []
        for t in range(x.shape[1]):
            start = context.starts[:, t, None]
            top, bottom = (torch.where(start, 0.0, s) for s in (top, bottom))
            peak = torch.where(start, -1e30, peak)
            now = self.bonus + k[:, t]
            most = torch.maximum(peak, now)
            old, new = (peak - most).exp(), (now - most).exp()
            seen.append((old * top + new * v[:, t]) / (old * bottom + new))
            kept = peak - self.decay.exp()
            most = torch.maximum(kept, k[:, t])
            old, new = (kept - most).exp(), (k[:, t] - most).exp()
            top, bottom = old * top + new * v[:, t], old * bottom + new
            peak = most
        x_bsd = x_bsd + self.out(torch.sigmoid(r) * torch.stack(seen, 1))
        x = self.channel_norm(x_bsd)
        shifted, channel = self._shift(x, state["channel"], context)
        up, gate = (x * m + shifted * (1 - m) for m in self.mix[3:])
        if context.cache is not None:
            context.cache.remember(
                self.layer_index, time=time, channel=channel, top=top, bottom=bottom,
                peak=peak,
            )  # fmt: skip
        y = self.down(F.relu(self.up(up)) ** 2)
        return x_bsd + torch.sigmoid(self.gate(gate)) * y

    def _shift(
        self, x: Tensor, before: Tensor, context: BlockContext
    ) -> tuple[Tensor, Tensor]:
        """The token before each, nothing before a document; and the last token."""
        shifted = torch.cat([before[:, None], x[:, :-1]], 1)
        return torch.where(context.starts[..., None], 0.0, shifted), x[:, -1]
