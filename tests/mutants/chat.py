"""Planted faults in chat texts: templates, masks, truncation."""

from planting import Mutant

MUTANTS = [
    # messages, masks, stop tokens, truncation
    Mutant(
        "posttrain/chat/encode.py",
        "encode",
        "[0] * (len(ids) - len(mask))",
        "[0] * (len(ids) - len(mask) - 1) + [1]",
        ["tests/chat/test_masks.py::test_show_mask_prints_what_is_trained_on"],
    ),
    Mutant(
        "posttrain/chat/encode.py",
        "encode",
        "[1] * (len(ids) - len(mask))",
        "[1] * (len(ids) - len(mask) - 1) + [0]",
        ["tests/chat/test_masks.py::test_show_mask_prints_what_is_trained_on"],
    ),
    Mutant(
        "common.py",
        "encode",
        "len(ends) > 1",
        "len(ends) > 99",
        ["tests/chat/test_masks.py::test_a_stop_token_inside_the_answer_is_dropped"],
    ),
    Mutant(
        "common.py",
        "encode",
        "whole[: ends[0] + 1]",
        "whole",
        ["tests/chat/test_masks.py::test_all_turns"],
    ),
    Mutant(
        "posttrain/chat/encode.py",
        "_extend",
        "joint[: len(ids)] == ids",
        "True",
        ["tests/chat/test_masks.py::test_no_token_crosses_the_seam"],
    ),
    Mutant(
        "posttrain/chat/encode.py",
        "encode",
        "max_len is not None and len(ids) > max_len",
        "False",
        ["tests/chat/test_masks.py::test_truncation_takes_the_stop_token_and_says_so"],
    ),
    Mutant(
        "common.py",
        "as_messages",
        "calls if isinstance(calls, list) else [calls]",
        "calls",
        ["tests/records/test_records.py::test_conversations_with_tools"],
    ),
    Mutant(
        "common.py",
        "encode",
        "full[: full.rindex(stop) + len(stop)]",
        "full",
        ["tests/generate/test_local.py::test_training_reads_the_text_that_generation_continues"],
    ),
]
