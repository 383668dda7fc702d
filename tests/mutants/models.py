"""Planted faults in loading models, adapters, several processes."""

from planting import Mutant

MUTANTS = [
    Mutant(
        "posttrain/model/load.py",
        "load_policy",
        "model.train",
        "model.eval",
        ["tests/model/test_nf4.py::test_gradients_in_nf4_equal_those_of_the_same_weights_in_float"],
    ),
    Mutant(
        "posttrain/model/load.py",
        "check_adapter",
        "lora_r not in (None, config.r) or lora_alpha not in (None, config.lora_alpha)",
        "False",
        [
            "tests/train/test_training.py::test_a_trained_run_prefers_chosen_more_by_independent_code"
        ],
    ),
    Mutant(
        "posttrain/model/memory.py",
        "needs_checkpointing",
        "0.9 * free",
        "9 * free",
        ["tests/model/test_memory.py::test_the_memory_plan_counts_what_a_model_has"],
    ),
    Mutant(
        "posttrain/processes.py",
        "sum_gradients",
        "torch.distributed.all_reduce(flat)",
        "pass",
        ["tests/test_processes.py::test_two_processes_train_as_one[sft-ddp-none]"],
    ),
    Mutant(
        "models.py",
        "from_first",
        "found[1] = error",
        "raise",
        ["tests/test_processes.py::test_no_process_waits_for_one_that_refuses"],
    ),
    Mutant(
        "models.py",
        "shard",
        "fully_shard(part, mesh=mesh, ignored_params=whole)",
        "pass",
        ["tests/test_processes.py::test_two_processes_train_as_one[kto-fsdp-none]"],
    ),
    Mutant(
        "posttrain/model/load.py",
        "switch_off_dropout",
        "module.p = 0.0",
        "pass",
        ["tests/packed/test_lora.py::test_adapters_of_another_make_are_left_to_peft"],
    ),
    Mutant(
        "posttrain/model/memory.py",
        "free_memory",
        "gc.collect()",
        "pass",
        ["tests/model/test_memory.py::test_a_deleted_reference_leaves_the_memory"],
    ),
    Mutant(
        "models.py",
        "related",
        'hash_a == hash_b if hash_a and hash_b else word_a == word_b != ""',
        'word_a == word_b != ""',
        ["tests/test_judge.py::test_families"],
    ),
]
