"""Keys and values of a batch whose rows come and go."""

import torch
import torch.nn.functional as F
from transformers import DynamicLayer


class GrowingLayer(DynamicLayer):
    """Keys and values [rows, heads, T, d] with room for more columns: a step writes its own, and the last row takes the
    place of one that leaves. A layer of transformers copies everything for either."""

    def __init__(self, layers, T):
        super().__init__()
        self.is_initialized, pairs = True, zip(*((layer.keys, layer.values) for layer in layers))
        self.keys, self.values = (torch.cat([F.pad(x, (0, 0, T - x.shape[2], 0)) for x in same]) for same in pairs)
        self.room = self.keys, self.values

    def update(self, keys, values, *args, **kwargs):
        rows, _, T, _ = self.keys.shape
        if T == self.room[0].shape[2]:
            self.room = [F.pad(x, (0, 0, 0, 32)) for x in (self.keys, self.values)]
        self.keys, self.values = (x[:rows, :, :T + 1] for x in self.room)
        self.keys[:, :, T:], self.values[:, :, T:] = keys, values
        return self.keys, self.values

    def batch_select_indices(self, indices):
        moved = [i for i, j in enumerate(indices) if i != j]
        for x in (self.keys, self.values):
            x[moved] = x[[indices[i] for i in moved]]
        self.keys, self.values = self.keys[:len(indices)], self.values[:len(indices)]
