"""Planted faults in packed lines, the head in tiles, trees of judged answers."""

from planting import Mutant

MUTANTS = [
    # lines, attention, the head, LoRA
    Mutant(
        "packed.py",
        "lay_out",
        "begin + cut - 1 if t == cut and not memory else shift + t - 1",
        "shift + t - 1",
        ["tests/packed/test_lines.py::test_the_line_by_hand"],
    ),
    Mutant(
        "packed.py",
        "lay_out",
        "range(skip, len(own))",
        "range(len(own) - skip)",
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
        "packed.py",
        "attend_varlen",
        "(window or 0) - 1",
        "window or -1",
        ["tests/packed/test_attention.py::test_one_call_for_all_segments[mistral with a window]"],
    ),
    Mutant(
        "packed.py",
        "HeadLogps.forward",
        "scale * (weight[t[:, 0]] * own_slope - pull / total)",
        "weight[t[:, 0]] * own_slope - pull / total",
        ["tests/packed/test_head.py::test_the_head_in_tiles"],
    ),
    Mutant(
        "packed.py",
        "HeadLogps.forward",
        "total * shrink",
        "total",
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
        "packed.py",
        "lora_forward",
        "self.scaling[active[0]]",
        "1.0",
        ["tests/packed/test_reader.py::test_every_family_equals_padded_rows[llama]"],
    ),
    Mutant(
        "packed.py",
        "differs",
        "error <= allowed",
        "True",
        ["tests/packed/test_reader.py::test_a_model_that_forgets_the_segments_is_found_out"],
    ),
    Mutant(
        "packed.py",
        "lora_forward",
        """
            (
                len(active) == 1
                and active[0] not in self.lora_variant
                and self.lora_B[active[0]].bias is None
            )
        """,
        "len(active) == 1 and active[0] not in self.lora_variant",
        ["tests/packed/test_lora.py::test_adapters_of_another_make_are_left_to_peft"],
    ),
    Mutant(
        "packed.py",
        "attend",
        """
            [
                [x[:, :, a:b] for x in before] if before else [x[:, :, : b - a] for x in parts[a]]
                for a, b in seen
            ]
        """,
        """
            [
                [x[:, :, a:b] for x in before] if before else [x[:, :, : b - a] for x in parts[a]]
                for a, b in seen[:1]
            ]
        """,
        ["tests/packed/test_trees.py::test_trees_of_every_family"],
    ),
    Mutant(
        "packed.py",
        "attend_varlen",
        "(*seen, (shift + start, shift + end))",
        "(*seen[-1:], (shift + start, shift + end))",
        ["tests/packed/test_trees.py::test_trees_of_every_family"],
    ),
    Mutant(
        "packed.py",
        "line_forward",
        "torch.tanh(logits / softcap) * softcap if softcap else logits",
        "logits",
        ["tests/packed/test_trees.py::test_trees_of_every_family"],
    ),
    Mutant(
        "packed.py",
        "line_forward",
        "F.linear(hidden.to(head.weight.dtype), head.weight, head.bias).float() * scale",
        "F.linear(hidden.to(head.weight.dtype), head.weight, head.bias).float()",
        ["tests/packed/test_trees.py::test_trees_of_every_family"],
    ),
    Mutant(
        "packed.py",
        "as_line",
        "UserDict",
        "dict",
        ["tests/test_processes.py::test_fsdp_hands_the_line_itself_to_the_layers"],
    ),
    # trees of judged answers
    Mutant(
        "packed.py",
        "lay_out_tree",
        "min(last, first + left)",
        "last",
        ["tests/packed/test_trees.py::test_a_tree_by_hand"],
    ),
    Mutant(
        "packed.py",
        "lay_out_tree",
        "range(common, len(row))",
        "range(len(row) - common)",
        ["tests/test_judge.py::test_tree_logits_equal_one_by_one"],
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
        "packed.py",
        "cut_lines",
        "min(found)",
        "found[-1]",
        ["tests/packed/test_trees.py::test_lines_are_cut_where_least_is_read_twice"],
    ),
]
