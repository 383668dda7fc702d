"""Planted faults in loading models, adapters, several processes."""

from planting import Mutant

MUTANTS = [
    Mutant(
        "models.py",
        "load_policy",
        "model.train",
        "model.eval",
        ["tests/test_nf4.py::test_gradients_in_nf4_equal_those_of_the_same_weights_in_float"],
    ),
    Mutant(
        "models.py",
        "load_policy",
        "lora_r not in (None, config.r) or lora_alpha not in (None, config.lora_alpha)",
        "False",
        ["tests/test_training.py::test_a_trained_run_prefers_chosen_more_by_independent_code"],
    ),
    Mutant(
        "models.py",
        "needs_checkpointing",
        "0.9 * free",
        "9 * free",
        ["tests/test_watch.py::test_the_memory_plan_counts_what_a_model_has"],
    ),
    Mutant(
        "models.py",
        "sum_gradients",
        "torch.distributed.all_reduce(flat)",
        "pass",
        ["tests/test_watch.py::test_two_processes_train_as_one[sft-ddp-none]"],
    ),
    Mutant(
        "models.py",
        "from_first",
        "found[1] = error",
        "raise",
        ["tests/test_watch.py::test_no_process_waits_for_one_that_refuses"],
    ),
    Mutant(
        "models.py",
        "shard",
        "fully_shard(part, mesh=mesh, ignored_params=whole)",
        "pass",
        ["tests/test_watch.py::test_two_processes_train_as_one[kto-fsdp-none]"],
    ),
    Mutant(
        "models.py",
        "load_model",
        "module.p = 0.0",
        "pass",
        ["tests/test_packed.py::test_adapters_of_another_make_are_left_to_peft"],
    ),
    Mutant(
        "models.py",
        "free_memory",
        "gc.collect()",
        "pass",
        ["tests/test_watch.py::test_a_deleted_reference_leaves_the_memory"],
    ),
    Mutant(
        "models.py",
        "related",
        'hash_a == hash_b if hash_a and hash_b else word_a == word_b != ""',
        'word_a == word_b != ""',
        ["tests/test_judge.py::test_families"],
    ),
]
