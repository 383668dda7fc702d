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
        "posttrain/chat/encode.py",
        "_find_stop",
        "len(positions) > 1",
        "len(positions) > 99",
        ["tests/chat/test_masks.py::test_a_stop_token_inside_the_answer_is_dropped"],
    ),
    Mutant(
        "posttrain/chat/encode.py",
        "encode",
        "turn_ids[: end + 1]",
        "turn_ids",
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
        "posttrain/records/layouts.py",
        "_as_message",
        "calls = [calls]",
        "pass",
        ["tests/records/test_records.py::test_conversations_with_tools"],
    ),
    Mutant(
        "posttrain/chat/encode.py",
        "encode",
        "turn_text[: turn_text.rindex(stop_text) + len(stop_text)]",
        "turn_text",
        ["tests/generate/test_local.py::test_training_reads_the_text_that_generation_continues"],
    ),
    Mutant(
        "posttrain/chat/encode.py",
        "_supervised_turns",
        "turns if all_turns else [n for n in turns if n == last]",
        "turns",
        ["tests/chat/test_masks.py::test_supervised_is_the_answer_and_its_stop_token"],
    ),
    Mutant(
        "posttrain/chat/encode.py",
        "_find_stop",
        "return positions[0]",
        "return positions[-1]",
        ["tests/chat/test_template.py::test_two_stop_tokens_in_a_row_end_the_answer_at_the_first"],
    ),
    # templates
    Mutant(
        "posttrain/chat/template.py",
        "_template_options",
        """
            {
                "chat_template": template,
                "tokenize": False,
                "enable_thinking": False,
                "date_string": FIXED_DATE,
            }
        """,
        '{"chat_template": template, "tokenize": False, "date_string": FIXED_DATE}',
        ["tests/chat/test_template.py::test_thinking_is_switched_off_where_a_template_can"],
    ),
    Mutant(
        "posttrain/chat/template.py",
        "_put_tools_into_system",
        """
            text = messages[0]["content"] + "\\n\\n" + text
        """,
        "pass",
        ["tests/chat/test_template.py::test_tools_join_the_system_turn_that_is_there"],
    ),
    # tokens that a tokenizer adds by itself, conversations that begin with the assistant, stop tokens
    Mutant(
        "posttrain/chat/encode.py",
        "prompt_ids",
        "tokenizer(render(tokenizer, prompt, tools, True), add_special_tokens=False)",
        "tokenizer(render(tokenizer, prompt, tools, True))",
        ["tests/test_bos.py::test_prompts_answers_and_stops"],
    ),
    Mutant(
        "posttrain/chat/encode.py",
        "_extend",
        "tokenizer(longer, add_special_tokens=False)",
        "tokenizer(longer)",
        ["tests/test_bos.py::test_prompts_answers_and_stops"],
    ),
    Mutant(
        "posttrain/chat/encode.py",
        "_extend",
        "tokenizer(rest, add_special_tokens=False)",
        "tokenizer(rest)",
        ["tests/test_bos.py::test_the_rest_behind_a_seam"],
    ),
    Mutant(
        "posttrain/chat/stops.py",
        "find_stops",
        "tokenizer(behind_answer, add_special_tokens=False)",
        "tokenizer(behind_answer)",
        ["tests/test_bos.py::test_prompts_answers_and_stops"],
    ),
    Mutant(
        "posttrain/model/load.py",
        "load_tokenizer",
        "begins_every_text(tokenizer)",
        "False",
        ["tests/test_bos.py::test_without_a_template_the_text_begins_with_the_token_once"],
    ),
    Mutant(
        "posttrain/chat/template.py",
        "render",
        "if not messages:\n    raise BadInput('the conversation begins with an assistant turn, which answers nothing')",
        "pass",
        ["tests/chat/test_template.py::test_an_assistant_turn_that_opens_a_conversation"],
    ),
    Mutant(
        "posttrain/chat/stops.py",
        "find_stops",
        "special_behind_answer[:1]",
        "special_behind_answer",
        ["tests/chat/test_template.py::test_stops_are_the_templates_first"],
    ),
    Mutant(
        "posttrain/chat/stops.py",
        "find_stops",
        "tokenizer.eos_token_id is not None and tokenizer.eos_token_id not in stops",
        "tokenizer.eos_token_id not in stops",
        ["tests/chat/test_template.py::test_a_tokenizer_without_an_end_of_sequence_token"],
    ),
    Mutant(
        "posttrain/chat/stops.py",
        "stop_ids",
        "tokenizer not in _FOUND or _FOUND[tokenizer][0] != depends_on",
        "tokenizer not in _FOUND",
        ["tests/chat/test_template.py::test_stop_tokens_follow_a_change_of_the_tokenizer"],
    ),
]
