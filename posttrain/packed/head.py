"""The output layer of a model: log-probabilities without ever holding [tokens, vocabulary].

With S supervised tokens and a vocabulary of V words the logits [S, V] would be the largest thing in
memory by far: 2,048 tokens and 150,000 words are 1.2 GB in float32, once more for the softmax and
once more for its gradient. Here they are made tile by tile, and a tile is gone before the next one
comes.

H = hidden size, z = logits of a token, W = weight of the output layer [V, H], h = hidden state of a
token [H]:

    z = cap(scale x (W h + bias))      cap(x) = c tanh(x / c) where a model caps its logits, else x
    logp = z[target] - log sum_v exp(z[v])

W is frozen, so the only gradient is that of h, and it is known as soon as the softmax is:

    d logp / d h = scale x (slope[target] W[target] - sum_v softmax[v] slope[v] W[v])
    with slope[v] = cap'(scale x (W h + bias)[v]), which is 1 without a cap
"""

import torch
import torch.nn.functional as F

# Tiles on a CPU, (tokens, words): 2 MiB of logits, which stay in the processor's cache.
CPU_TILE = (512, 1024)
# Logits of a tile on a GPU: 128 MiB. At least so many tokens, however large the vocabulary.
GPU_LOGITS, GPU_TOKENS = 1 << 25, 16


class OutputLayer:
    """The output layer of a causal LM, with what its config does to the logits."""

    def __init__(self, base):
        config = base.config.get_text_config()
        self.base = base
        self.softcap = getattr(config, "final_logit_softcapping", None)  # Gemma
        self.scale = getattr(config, "logit_scale", None)  # Cohere multiplies its logits
        if not self.scale:
            self.scale = 1 / (getattr(config, "logits_scaling", None) or 1)  # Granite divides them

    def logits(self, hidden):
        """[n, H] -> [n, V] float32: all words at once, so for few tokens."""
        layer = self.base.get_output_embeddings()
        logits = F.linear(hidden.to(layer.weight.dtype), layer.weight, layer.bias).float()
        logits = logits * self.scale
        if self.softcap:
            logits = torch.tanh(logits / self.softcap) * self.softcap
        return logits

    def logps(self, hidden, target):
        """Log-probabilities of the tokens `target` [S] -> [S] float32; hidden [S, H]."""
        layer = self.base.get_output_embeddings()
        tile = tile_size(len(layer.weight), hidden.is_cuda)
        return HeadLogps.apply(
            hidden, layer.weight, layer.bias, target, self.scale, self.softcap, tile
        )


def tile_size(words, on_gpu):
    """(tokens, words) of a tile.

    On a GPU a tile has all words, and as many tokens as fit: sums of products in half precision
    would be rounded at every tile of words."""
    if on_gpu:
        return max(GPU_TOKENS, GPU_LOGITS // words), words
    return CPU_TILE


class HeadLogps(torch.autograd.Function):
    """Log-probability of every token's target: hidden [S, H] -> [S] float32, by the formulas above.

    The direction d logp / d h is computed in the forward, while the tiles are there: [S, H] is kept
    for the backward, [S, V] never. tile: (tokens, words) at a time."""

    @staticmethod
    def forward(ctx, hidden, weight, bias, target, scale, softcap, tile):
        tile_tokens, tile_words = tile
        wants_gradient = ctx.needs_input_grad[0]
        logps = torch.empty(len(target), dtype=torch.float32, device=hidden.device)
        direction = torch.empty_like(hidden) if wants_gradient else None
        for start in range(0, len(target), tile_tokens):
            here = slice(start, start + tile_tokens)
            x = hidden[here].to(weight.dtype)  # [n, H]
            softmax = RunningSoftmax(target[here], wants_gradient)
            for first in range(0, len(weight), tile_words):
                words = slice(first, first + tile_words)
                logits = F.linear(x, weight[words], None if bias is None else bias[words]).float()
                logits, slope = scaled_and_capped(logits, scale, softcap)  # [n, words]
                softmax.add(logits, slope, weight[words], first)
            logps[here] = softmax.logps()
            if wants_gradient:
                direction[here] = scale * softmax.direction(weight)
        ctx.save_for_backward(direction)
        return logps

    @staticmethod
    def backward(ctx, grad):
        (direction,) = ctx.saved_tensors
        hidden_grad = direction * grad[:, None].to(direction.dtype)
        return hidden_grad, None, None, None, None, None, None


def scaled_and_capped(logits, scale, softcap):
    """(cap(scale x logits), the slope of the cap at them, or None where nothing is capped)."""
    if scale != 1:
        logits = logits * scale
    if not softcap:
        return logits, None
    tanh = torch.tanh(logits / softcap)
    return tanh * softcap, 1 - tanh**2


class RunningSoftmax:
    """The softmax of n tokens over a vocabulary that comes in tiles (arXiv 1805.02867).

    Sums of exp(z) are kept relative to the largest logit so far, so that nothing overflows; when a
    larger one comes, what was summed before shrinks by exp(old largest - new largest)."""

    def __init__(self, target, wants_gradient):
        zeros = torch.zeros(len(target), 1, device=target.device)
        self.target = target[:, None]  # [n, 1], like all that follows unless it says otherwise
        self.wants_gradient = wants_gradient
        self.largest = torch.full_like(zeros, -torch.inf)
        self.total = zeros  # sum over words of exp(z - largest)
        self.target_logit = zeros
        self.target_slope = torch.ones_like(zeros)
        self.pull = (
            zeros  # sum over words of exp(z - largest) x slope x W: [n, H] once there is a tile
        )

    def add(self, logits, slope, weight, first):
        """Take a tile of words in: logits and slope [n, words] (slope None: 1), weight [words, H].

        first: the number of its first word. The logits are overwritten."""
        # The target of a token lies in one tile; in all others `place` is a word that is not used.
        words = len(weight)
        inside = (first <= self.target) & (self.target < first + words)
        place = (self.target - first).clamp(0, words - 1)
        self.target_logit = torch.where(inside, logits.gather(1, place), self.target_logit)

        largest_before = self.largest
        self.largest = torch.maximum(self.largest, logits.amax(1, keepdim=True))
        shrink = (largest_before - self.largest).exp()
        mass = logits.sub_(self.largest).exp_()  # [n, words], in the memory of the logits
        self.total = self.total * shrink + mass.sum(1, keepdim=True)
        if not self.wants_gradient:
            return

        if slope is not None:
            self.target_slope = torch.where(inside, slope.gather(1, place), self.target_slope)
            mass = mass * slope
        self.pull = self.pull * shrink + (mass.to(weight.dtype) @ weight).float()

    def logps(self):
        """Log-probability of each token's target [n], once all words have come."""
        return (self.target_logit - self.largest - self.total.log())[:, 0]

    def direction(self, weight):
        """d logp / d h, but for the scale: [n, H] float32; weight [V, H]."""
        return weight[self.target[:, 0]] * self.target_slope - self.pull / self.total
