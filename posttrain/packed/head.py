"""The output layer: log-probabilities without ever holding [tokens, vocabulary]."""

import torch
import torch.nn.functional as F


class HeadLogps(torch.autograd.Function):
    """log softmax(cap(scale x (hidden W^T + bias)))[target] of every token: [S, H] -> [S] float32, tile by tile.

    W is frozen, so d logp / d hidden = scale x (W[target] - softmax W) is known in the forward: [S, H] is kept for the
    backward, [S, V] never. cap(z) = c tanh(z / c) where the model caps its logits; its slope multiplies both terms.
    tile: (tokens, words) at a time. Over tiles of words the softmax is summed against a running maximum; on a GPU a
    tile has all words, as sums of products in half precision would be rounded at every tile."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, target, scale, softcap, tile):
        logps, wanted = torch.empty(len(target), dtype=torch.float32, device=hidden.device), ctx.needs_input_grad[0]
        direction = torch.empty_like(hidden) if wanted else None
        for at in range(0, len(target), tile[0]):
            here = slice(at, at + tile[0])
            x, t = hidden[here].to(weight.dtype), target[here, None]
            own = total = pull = torch.zeros(len(t), 1, device=x.device)
            top, own_slope = torch.full_like(own, -torch.inf), torch.ones_like(own)
            for v in range(0, len(weight), tile[1]):
                w = weight[v:v + tile[1]]
                logits = F.linear(x, w, None if bias is None else bias[v:v + tile[1]]).float()  # [tokens, words]
                logits = logits if scale == 1 else logits * scale
                if softcap:
                    logits = torch.tanh(logits / softcap)
                    slope, logits = 1 - logits**2, logits * softcap
                inside, place = (v <= t) & (t < v + len(w)), (t - v).clamp(0, len(w) - 1)
                own, before = torch.where(inside, logits.gather(1, place), own), top
                top = torch.maximum(top, logits.amax(1, keepdim=True))
                mass, shrink = logits.sub_(top).exp_(), (before - top).exp()
                total = total * shrink + mass.sum(1, keepdim=True)
                if wanted and softcap:
                    own_slope, mass = torch.where(inside, slope.gather(1, place), own_slope), mass * slope
                if wanted:
                    pull = pull * shrink + (mass.to(w.dtype) @ w).float()  # [tokens, H]
            logps[here] = (own - top - total.log())[:, 0]
            if wanted:
                direction[here] = scale * (weight[t[:, 0]] * own_slope - pull / total)
        ctx.save_for_backward(direction)
        return logps

    @staticmethod
    def backward(ctx, grad):
        direction, = ctx.saved_tensors
        return direction * grad[:, None].to(direction.dtype), *[None] * 6
