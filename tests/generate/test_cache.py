"""GrowingLayer holds what transformers' own layer holds, and copies less."""

import pytest
import torch
from transformers import DynamicLayer

from posttrain.generate.cache import SPARE_COLUMNS, GrowingLayer


def filled(rows, columns, seed=0):
    """A layer of transformers with random keys and values, of 2 heads of width 3."""
    generator = torch.Generator().manual_seed(seed)
    layer = DynamicLayer()
    keys = torch.randn(rows, 2, columns, 3, generator=generator)
    values = torch.randn(rows, 2, columns, 3, generator=generator)
    layer.update(keys, values)
    return layer


def same(ours, theirs):
    return torch.equal(ours.keys, theirs.keys) and torch.equal(ours.values, theirs.values)


def test_it_holds_what_a_dynamic_layer_holds():
    """Over more steps than there are spare columns at first, while rows leave now and then."""
    theirs = filled(rows=6, columns=4)
    ours = GrowingLayer([theirs], columns=4)
    leaving = {3: [5, 1, 2, 3, 4], 10: [0, 1, 4], SPARE_COLUMNS + 5: [2, 1]}
    for step in range(2 * SPARE_COLUMNS):
        new = filled(rows=ours.keys.shape[0], columns=1, seed=step + 1)
        keys, values = ours.update(new.keys, new.values)
        assert keys is ours.keys and values is ours.values
        theirs.update(new.keys, new.values)
        assert same(ours, theirs) and ours.get_seq_length() == theirs.get_seq_length() == 5 + step
        if step in leaving:
            ours.batch_select_indices(leaving[step])
            theirs.batch_select_indices(leaving[step])
            assert same(ours, theirs)
    assert ours.keys.shape[0] == 2


def test_a_step_copies_nothing_but_its_column():
    """Keys and values stay where they are in memory until the spare columns are full."""
    layer = GrowingLayer([filled(rows=3, columns=4)], columns=4)
    column = torch.zeros(3, 2, 1, 3)
    places = set()
    for _ in range(SPARE_COLUMNS):
        layer.update(column, column)
        places.add((layer.keys.data_ptr(), layer.values.data_ptr()))
    assert len(places) == 1
    layer.batch_select_indices([0, 2])
    assert (layer.keys.data_ptr(), layer.values.data_ptr()) in places, "one row has moved"
    layer.update(column[:2], column[:2])
    assert (layer.keys.data_ptr(), layer.values.data_ptr()) not in places, "all columns were full"


@pytest.mark.parametrize("columns", [3, 5, 7])
def test_layers_are_joined_at_their_last_columns(columns):
    """Zeros are added on the left of a layer that is shorter; of a longer one, columns are cut."""
    layers = [filled(rows=2, columns=5, seed=1), filled(rows=1, columns=3, seed=2)]
    joined = GrowingLayer(layers, columns)
    for name in ("keys", "values"):
        long, short = (getattr(layer, name) for layer in layers)
        both = getattr(joined, name)
        assert both.shape == (3, 2, columns, 3)
        for ours, theirs in ((both[:2], long), (both[2:], short)):
            kept = min(columns, theirs.shape[2])
            assert torch.equal(ours[:, :, columns - kept :], theirs[:, :, -kept:])
            assert not ours[:, :, : columns - kept].any()
