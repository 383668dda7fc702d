"""Planted faults in packed lines, the head in tiles, trees of judged answers."""

from planting import Mutant

MUTANTS = [
    # lines, attention, the head, LoRA
    Mutant(
        "posttrain/packed/lines.py",
        "add_sequence",
        "source[0] = prompt_begin + cut - 1",
        "pass",
        ["tests/packed/test_lines.py::test_the_line_by_hand"],
    ),
    Mutant(
        "posttrain/packed/lines.py",
        "add_sequence",
        "builder.add_segment(ids[already_read:], already_read, seen)",
        "builder.add_segment(ids[already_read:], 0, seen)",
        ["tests/packed/test_reader.py::test_every_family_equals_padded_rows[llama]"],
    ),
    Mutant(
        "posttrain/packed/attention.py",
        "causal_mask",
        "torch.ones(queries, before + queries, dtype=torch.bool, device=device).tril(before)",
        """
            torch.ones(queries, before + queries, dtype=torch.bool, device=device).tril(
                before + 1
            )
        """,
        ["tests/packed/test_reader.py::test_every_family_equals_padded_rows[llama]"],
    ),
    Mutant(
        "posttrain/packed/attention.py",
        "causal_mask",
        "before - window + 1",
        "before - window",
        [
            "tests/packed/test_reader.py::test_every_family_equals_padded_rows[mistral with a window]"
        ],
    ),
    Mutant(
        "posttrain/packed/attention.py",
        "one_for_each_head",
        "shared.repeat_interleave(heads // shared.shape[1], 1)",
        "shared.repeat(1, heads // shared.shape[1], 1, 1)",
        ["tests/packed/test_attention.py::test_neighbouring_heads_share_keys"],
    ),
    Mutant(
        "posttrain/packed/attention.py",
        "attend_varlen",
        "window - 1",
        "window",
        ["tests/packed/test_attention.py::test_one_call_for_all_segments[mistral with a window]"],
    ),
    Mutant(
        "posttrain/packed/head.py",
        "HeadLogps.forward",
        "scale * softmax.direction(weight)",
        "softmax.direction(weight)",
        ["tests/packed/test_head.py::test_the_head_in_tiles"],
    ),
    Mutant(
        "posttrain/packed/head.py",
        "RunningSoftmax.add",
        "self.total * shrink",
        "self.total",
        ["tests/packed/test_head.py::test_the_head_in_tiles"],
    ),
    Mutant(
        "posttrain/packed/head.py",
        "HeadLogps.backward",
        "grad[:, None].to(direction.dtype)",
        "grad.mean()",
        ["tests/packed/test_head.py::test_the_head_in_tiles"],
    ),
    Mutant(
        "posttrain/packed/lora.py",
        "lora_forward",
        "self.scaling[name]",
        "1.0",
        ["tests/packed/test_reader.py::test_every_family_equals_padded_rows[llama]"],
    ),
    Mutant(
        "posttrain/packed/reader.py",
        "Yardstick.difference",
        "error <= self.allowed",
        "True",
        ["tests/packed/test_reader.py::test_a_model_that_forgets_the_segments_is_found_out"],
    ),
    Mutant(
        "posttrain/packed/lora.py",
        "is_plain",
        "layer.lora_B[active[0]].bias is None",
        "True",
        ["tests/packed/test_lora.py::test_adapters_of_another_make_are_left_to_peft"],
    ),
    Mutant(
        "posttrain/packed/attention.py",
        "seen_pieces",
        "[by_start[first][:, :, : last - first] for first, last in segment.seen]",
        "[by_start[first][:, :, : last - first] for first, last in segment.seen[:1]]",
        ["tests/packed/test_trees.py::test_trees_of_every_family"],
    ),
    Mutant(
        "posttrain/packed/attention.py",
        "gathered_places",
        "segment.seen",
        "segment.seen[-1:]",
        ["tests/packed/test_trees.py::test_trees_of_every_family"],
    ),
    Mutant(
        "posttrain/packed/head.py",
        "OutputLayer.logits",
        "torch.tanh(logits / self.softcap) * self.softcap",
        "logits",
        ["tests/packed/test_trees.py::test_trees_of_every_family"],
    ),
    Mutant(
        "posttrain/packed/head.py",
        "OutputLayer.logits",
        "logits * self.scale",
        "logits",
        ["tests/packed/test_trees.py::test_trees_of_every_family"],
    ),
    Mutant(
        "posttrain/packed/reader.py",
        "LineReader.read_line",
        'line.varlen = self.kind == "varlen"',
        """
            line = __import__("copy").deepcopy(line)
            line.varlen = self.kind == "varlen"
        """,
        ["tests/packed/test_reader.py::test_every_family_equals_padded_rows[llama]"],
    ),
    Mutant(
        "posttrain/packed/head.py",
        "RunningSoftmax.add",
        "torch.where(inside, logits.gather(1, place), self.target_logit)",
        "logits.gather(1, place)",
        ["tests/packed/test_head.py::test_the_head_in_tiles"],
    ),
    Mutant(
        "posttrain/packed/reader.py",
        "LineReader.read_line",
        "self.base.config.get_text_config()._attn_implementation != 'packed'",
        "False",
        ["tests/packed/test_reader.py::test_another_model_with_the_same_config_is_noticed"],
    ),
    Mutant(
        "posttrain/packed/reader.py",
        "Yardstick.difference",
        "[logps, ordinary, kept]",
        "[logps, ordinary]",
        ["tests/packed/test_reader.py::test_a_layer_that_attends_twice_is_found_out"],
    ),
    Mutant(
        "posttrain/packed/reader.py",
        "Yardstick.difference",
        "[logps, ordinary, kept]",
        "[logps, kept]",
        ["tests/packed/test_reader.py::test_a_model_that_forgets_the_segments_is_found_out"],
    ),
    Mutant(
        "posttrain/packed/reader.py",
        "Yardstick.difference",
        "len(line.window_layers) != expected",
        "False",
        ["tests/packed/test_reader.py::test_a_window_that_is_not_used_is_found_out"],
    ),
    # trees of judged answers
    Mutant(
        "posttrain/packed/trees.py",
        "first_tokens",
        "min(last, first + count)",
        "last",
        ["tests/packed/test_trees.py::test_a_tree_by_hand"],
    ),
    Mutant(
        "posttrain/packed/trees.py",
        "lay_out_tree",
        "builder.add_segment(row[common:], common, seen)",
        "builder.add_segment(row[common:], 0, seen)",
        ["tests/judging/test_digits.py::test_tree_logits_equal_one_by_one"],
    ),
    Mutant(
        "posttrain/packed/trees.py",
        "tree_logits",
        "[0, *shared[start + 1 : end]]",
        "shared[start:end]",
        ["tests/packed/test_trees.py::test_trees_of_every_family"],
    ),
    Mutant(
        "posttrain/packed/trees.py",
        "tree_logits",
        "order[start:end]",
        "[*range(start, end)]",
        ["tests/packed/test_trees.py::test_trees_of_every_family"],
    ),
    Mutant(
        "posttrain/packed/trees.py",
        "cut_lines",
        "min(choices)",
        "choices[-1]",
        ["tests/packed/test_trees.py::test_lines_are_cut_where_least_is_read_twice"],
    ),
]
