"""Keys and values of a batch whose rows come and go."""

import torch
import torch.nn.functional as F
from transformers import DynamicLayer

SPARE_COLUMNS = 32  # columns that are added at a time: a step fills one of them


class GrowingLayer(DynamicLayer):
    """Keys and values of one attention layer, [rows, heads, T, d] each, with spare columns behind.

    transformers' own DynamicLayer holds exactly what it was given. For every token it copies all
    keys and values into tensors that are one column longer, and when a row leaves it copies all
    rows that stay. Here a step writes its own column only, and a row from the end takes the place
    of one that leaves: only that row is copied. A DynamicLayer cannot let new rows join, either.
    """

    def __init__(self, layers, columns):
        """Join the rows of several layers, one below the other, in T = `columns` columns.

        The last column of each layer stays the last one. A layer with fewer columns is padded on
        the left; of one with more, columns on the left are dropped: they must be padding alone.
        """
        super().__init__()
        self.is_initialized = True
        self.keys = torch.cat([fit_columns(layer.keys, columns) for layer in layers])
        self.values = torch.cat([fit_columns(layer.values, columns) for layer in layers])
        # Numbers are written into these two. self.keys and self.values are views of them, which
        # show the rows and columns in use.
        self.key_room = self.keys
        self.value_room = self.values

    def update(self, keys, values, *args, **kwargs):
        """Append one column, keys and values [rows, heads, 1, d] -> all keys and values so far."""
        rows, _, columns, _ = self.keys.shape
        if columns == self.key_room.shape[2]:
            self.key_room = F.pad(self.keys, (0, 0, 0, SPARE_COLUMNS))
            self.value_room = F.pad(self.values, (0, 0, 0, SPARE_COLUMNS))
        self.keys = self.key_room[:rows, :, : columns + 1]
        self.values = self.value_room[:rows, :, : columns + 1]
        self.keys[:, :, columns:] = keys
        self.values[:, :, columns:] = values
        return self.keys, self.values

    def batch_select_indices(self, indices):
        """Keep the rows `indices`, in this order.

        A place gets the row that stands there already, or one from behind the new end.
        """
        places = [i for i, source in enumerate(indices) if i != source]
        sources = [indices[i] for i in places]
        self.keys[places] = self.keys[sources]
        self.values[places] = self.values[sources]
        self.keys = self.keys[: len(indices)]
        self.values = self.values[: len(indices)]


def fit_columns(x, columns):
    """x [rows, heads, T, d] with T = `columns`: zeros are added on the left, or it is cut there."""
    return F.pad(x, (0, 0, columns - x.shape[2], 0))  # a negative number of zeros cuts
