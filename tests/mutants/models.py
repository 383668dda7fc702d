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
        "load_merged",
        "is_mergeable(model)",
        'hasattr(model, "merge_and_unload")',
        ["tests/model/test_load.py::test_an_adapter_is_merged_where_nothing_is_rounded"],
    ),
    Mutant(
        "posttrain/model/load.py",
        "is_mergeable",
        "in_full_precision and not any(isinstance(layer, BaseTunerLayer) for layer in embeddings)",
        "in_full_precision",
        ["tests/model/test_load.py::test_an_adapter_is_merged_where_nothing_is_rounded"],
    ),
    Mutant(
        "posttrain/model/load.py",
        "without_bitsandbytes",
        "import_utils.is_bnb_available.cache_clear()",
        "pass",
        ["tests/model/test_load.py::test_bitsandbytes_is_hidden_from_peft_alone"],
    ),
    Mutant(
        "posttrain/model/load.py",
        "without_bitsandbytes",
        'del sys.modules["bitsandbytes"]',
        "pass",
        ["tests/model/test_load.py::test_bitsandbytes_is_hidden_from_peft_alone"],
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
        "posttrain/processes.py",
        "from_first",
        "message[1] = error",
        "raise",
        ["tests/test_processes.py::test_no_process_waits_for_one_that_refuses"],
    ),
    Mutant(
        "posttrain/processes.py",
        "shard",
        "fully_shard(module, mesh=mesh, ignored_params=whole)",
        "pass",
        ["tests/test_processes.py::test_two_processes_train_as_one[dpo-fsdp-nf4]"],
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
        "posttrain/model/family.py",
        "related",
        """
            if vocabulary and other_vocabulary:
                return vocabulary == other_vocabulary
        """,
        "pass",
        ["tests/test_judge.py::test_families"],
    ),
    Mutant(
        "posttrain/model/load.py",
        "without_dropout",
        "setattr(config, key, 0.0)",
        "pass",
        ["tests/model/test_load.py::test_dropout_is_off_in_models_and_adapters"],
    ),
    Mutant(
        "posttrain/model/memory.py",
        "memory_plan",
        "layer_inputs + one_layer",
        "layer_inputs",
        ["tests/model/test_memory.py::test_the_memory_plan_by_hand"],
    ),
    Mutant(
        "posttrain/processes.py",
        "summed",
        "total.update",
        "total.__iadd__",
        ["tests/test_processes.py::test_sums_over_processes"],
    ),
    Mutant(
        "posttrain/processes.py",
        "share_out",
        "(items + idle)[rank::size]",
        "(items + idle)[:: size]",
        ["tests/test_processes.py::test_sums_over_processes"],
    ),
]
