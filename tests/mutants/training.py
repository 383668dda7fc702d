"""Planted faults in training: losses, trainers, order, reference, resume, watching."""

from planting import Mutant

MUTANTS = [
    # log-probabilities of completions
    Mutant(
        "common.py",
        "completion_logps",
        "keep[:, :-1] = mask[:, 1:]",
        "keep = mask.clone()",
        ["tests/test_common.py::test_mask_in_the_middle_counts_only_its_tokens"],
    ),
    Mutant(
        "common.py",
        "completion_logps",
        "ids[:, 1:]",
        "ids[:, :-1]",
        ["tests/test_common.py::test_perfect_echo_and_uniform_models"],
    ),
    Mutant(
        "common.py",
        "completion_logps",
        """
            torch.tensor(
                [[1] * len(row["ids"]) + [0] * (T - len(row["ids"])) for row in rows], device=device
            )
        """,
        "(ids != pad_id).long()",
        ["tests/test_common.py::test_padding_and_its_id_do_not_matter"],
    ),
    Mutant(
        "common.py",
        "completion_logps",
        """
            torch.tensor(
                [row["mask"] + [0] * (T - len(row["mask"])) for row in rows], device=device
            ).bool()
        """,
        """
            torch.tensor(
                [row["mask"] + [0] * (T - len(row["mask"])) for row in rows], device=device
            ).bool() & (ids != pad_id)
        """,
        ["tests/test_common.py::test_padding_and_its_id_do_not_matter"],
    ),
    # losses
    Mutant(
        "common.py",
        "dpo_loss",
        "beta * (ratio_chosen - ratio_rejected)",
        "ratio_chosen - ratio_rejected",
        ["tests/test_common.py::test_losses_at_points_computed_by_hand"],
    ),
    Mutant(
        "common.py",
        "dpo_loss",
        "F.logsigmoid(-margin)",
        "F.logsigmoid(margin)",
        ["tests/test_common.py::test_losses_at_points_computed_by_hand"],
    ),
    Mutant(
        "common.py",
        "ipo_loss",
        "1 / (2 * beta)",
        "1 / beta",
        ["tests/test_common.py::test_losses_at_zero"],
    ),
    Mutant(
        "common.py",
        "kto_loss",
        "torch.where(label, ratio - kl, kl - ratio)",
        "torch.where(label, kl - ratio, ratio - kl)",
        ["tests/test_common.py::test_losses_at_points_computed_by_hand"],
    ),
    Mutant(
        "common.py",
        "kto_kl",
        "ratio.detach().mean().clamp(min=0)",
        "ratio.detach().mean()",
        ["tests/test_common.py::test_kl_is_the_clamped_mean_without_gradient"],
    ),
    Mutant(
        "common.py",
        "kto_kl",
        "ratio.detach()",
        "ratio",
        ["tests/test_common.py::test_kl_is_the_clamped_mean_without_gradient"],
    ),
    # order, packs, held-out rows, reference, resume
    Mutant(
        "training.py",
        "reference_logps",
        'seq["ref"] = known[seq["key"]]',
        'seq["ref"] = 0.0',
        ["tests/train/test_training.py::test_dpo_options_start_where_they_should"],
    ),
    Mutant(
        "training.py",
        "reference_logps",
        """
            f"{key}|{pack_tokens}|{seq['ids']}|{seq['mask']}"
        """,
        """
            f"{seq['ids']}|{seq['mask']}"
        """,
        ["tests/train/test_training.py::test_a_changed_model_is_scored_again"],
    ),
    Mutant(
        "training.py",
        "reference_logps",
        r'file.write("\n" if rank == 0 and path.stat().st_size else "")',
        "pass",
        ["tests/train/test_training.py::test_a_torn_line_in_our_own_cache_stays_alone"],
    ),
    Mutant(
        "training.py",
        "check_start",
        "not abs(value - expected) <= tolerance * max(1.0, expected)",
        "abs(value - expected) > tolerance * max(1.0, expected)",
        ["tests/train/test_training.py::test_check_start"],
    ),
    Mutant(
        "training.py",
        "batches",
        "members * int(weight) + rng.sample(members, round(len(members) * (weight % 1)))",
        "list(members)",
        ["tests/train/test_training.py::test_mixture_weights_are_exact_and_spread"],
    ),
    Mutant(
        "posttrain/train/order.py",
        "batches",
        'seed_for("order", seed, epoch)',
        'seed_for("order", 0, epoch)',
        ["tests/train/test_training.py::test_every_row_once_an_epoch"],
    ),
    Mutant(
        "training.py",
        "load_checkpoint",
        '(out / "log.jsonl").read_text().splitlines()[: state["step"]]',
        '(out / "log.jsonl").read_text().splitlines()',
        ["tests/train/test_training.py::test_a_killed_run_ends_in_the_same_weights"],
    ),
    Mutant(
        "posttrain/train/training_run.py",
        "load_checkpoint",
        'optimizer.load_state_dict(state.pop("optimizer"))',
        'state.pop("optimizer")',
        ["tests/train/test_training.py::test_a_killed_run_ends_in_the_same_weights"],
    ),
    Mutant(
        "posttrain/train/training_run.py",
        "load_checkpoint",
        "parameters[name].data.copy_(value)",
        "pass",
        ["tests/train/test_training.py::test_a_killed_run_ends_in_the_same_weights"],
    ),
    Mutant(
        "posttrain/train/step.py",
        "lr_at",
        "step < ramp",
        "step <= ramp",
        ["tests/train/test_training.py::test_lr_by_hand"],
    ),
    Mutant(
        "training.py",
        "hold_out",
        "len(held) + len(members) <= wanted",
        "True",
        ["tests/train/test_watch.py::test_held_out_prompts_are_not_trained_on"],
    ),
    Mutant(
        "training.py",
        "means.over",
        'found["weight",]',
        'found["loss", "rows"]',
        ["tests/train/test_watch.py::test_means_by_slice_by_hand"],
    ),
    Mutant(
        "training.py",
        "packs",
        "(found + idle)[rank::size]",
        "found",
        ["tests/train/test_watch.py::test_every_process_reads_as_many_packs"],
    ),
    Mutant(
        "training.py",
        "packs",
        "found + idle",
        "found",
        ["tests/train/test_watch.py::test_every_process_reads_as_many_packs"],
    ),
    Mutant(
        "posttrain/train/packs.py",
        "idle_copy",
        'row | {"weight": 0.0}',
        "row",
        ["tests/train/test_watch.py::test_every_process_reads_as_many_packs"],
    ),
    Mutant(
        "posttrain/train/metrics.py",
        "tally",
        'row.get("weight", 1) and not math.isnan(value)',
        "not math.isnan(value)",
        ["tests/train/test_watch.py::test_every_process_reads_as_many_packs"],
    ),
    Mutant(
        "training.py",
        "batches",
        "len(drawn) < len(sources)",
        "False",
        ["tests/train/test_watch.py::test_a_mixture_that_would_do_nothing_is_refused"],
    ),
    Mutant(
        "training.py",
        "packs",
        """
            (
                tall * (pack["seqs"] + count) if padded else pack["tokens"] + tokens
            ) <= pack_tokens
        """,
        """
            (
                tall * (pack["seqs"] + count) if padded else pack["tokens"] + tokens
            ) <= pack_tokens + 9
        """,
        ["tests/train/test_training.py::test_packs_hold_every_row_once_within_the_limit"],
    ),
    # SFT
    Mutant(
        "sft.py",
        "batch_tokens",
        'row["weight"] * sum(row["seqs"][0]["mask"])',
        'sum(row["seqs"][0]["mask"])',
        ["tests/train/test_training.py::test_the_first_loss_of_a_run_honours_weights_of_rows"],
    ),
    Mutant(
        "sft.py",
        "main",
        'range(state["step"], len(steps))',
        'range(state["step"] + bool(state["step"]), len(steps))',
        ["tests/train/test_training.py::test_resume_starts_at_the_checkpoint_and_not_before"],
    ),
    Mutant(
        "sft.py",
        "main",
        "state = load_checkpoint(args.out, model, optimizer)",
        """
            state = load_checkpoint(args.out, model, optimizer)
            save_adapter(args.out, model, tokenizer)
            model.save_pretrained = lambda *a, **k: None
        """,
        ["tests/train/test_training.py::test_the_adapter_that_is_saved_is_the_trained_one"],
    ),
    # DPO and IPO
    Mutant(
        "dpo.py",
        "batch_loss",
        "dpo_loss(ratio[:, 0], ratio[:, 1], beta, wrong)",
        "dpo_loss(ratio[:, 1], ratio[:, 0], beta, wrong)",
        [
            "tests/train/test_training.py::test_a_trained_run_prefers_chosen_more_by_independent_code"
        ],
    ),
    Mutant(
        "dpo.py",
        "batch_loss",
        'ratio / tokens if ipo_length == "mean" else ratio',
        "ratio",
        ["tests/test_common.py::test_ipo_divides_by_tokens_or_not"],
    ),
    Mutant(
        "dpo.py",
        "batch_loss",
        "weights * losses",
        "losses",
        ["tests/test_common.py::test_a_row_of_weight_two_is_the_row_twice"],
    ),
    Mutant(
        "dpo.py",
        "main",
        "loss / total",
        'loss / sum(row["weight"] for row in pack)',
        ["tests/train/test_training.py::test_pack_tokens_do_not_change_a_run"],
    ),
    Mutant(
        "dpo.py",
        "batch_loss",
        '1 - row["p"]',
        'row["p"]',
        ["tests/train/test_watch.py::test_soft_labels_are_the_expected_loss"],
    ),
    Mutant(
        "dpo.py",
        "batch_loss",
        "losses - nll_weight * logps[:, 0] / tokens[:, 0]",
        "losses + nll_weight * logps[:, 0] / tokens[:, 0]",
        ["tests/train/test_watch.py::test_soft_labels_are_the_expected_loss"],
    ),
    # KTO
    Mutant(
        "kto.py",
        "main",
        'rows[n] | {"label": True}',
        "rows[n]",
        [
            "tests/train/test_training.py::test_a_constant_error_of_the_reference_does_not_cancel_between_good_and_bad"
        ],
    ),
    Mutant(
        "kto.py",
        "main",
        "loss / total",
        "loss / len(pack)",
        ["tests/train/test_training.py::test_pack_tokens_do_not_change_a_run"],
    ),
    Mutant(
        "kto.py",
        "main",
        "step_kl(model, cut)",
        "(step_kl(model, [cut[0][:1]])[0], None)",
        ["tests/train/test_training.py::test_kto_against_another_reference_by_independent_code"],
    ),
    Mutant(
        "kto.py",
        "batch_loss",
        'weight_good if row["label"] else weight_bad',
        'weight_bad if row["label"] else weight_good',
        ["tests/train/test_training.py::test_kto_learns_its_labels"],
    ),
    Mutant(
        "kto.py",
        "mismatched",
        'rows[m]["prompt"] != rows[n]["prompt"]',
        "True",
        ["tests/train/test_training.py::test_mismatched_pairs_never_repeat_the_prompt"],
    ),
    Mutant(
        "kto.py",
        "unary",
        "sum(scores) / len(scores) >= threshold",
        "sum(scores) / len(scores) > threshold",
        ["tests/train/test_training.py::test_labels_scores_and_partial_preferences"],
    ),
    Mutant(
        "kto.py",
        "step_kl",
        """
            [
                logp - row["other"]["ref"]
                for logp, row in zip(logps.tolist(), pack)
                if row["weight"]
            ]
        """,
        '[logp - row["other"]["ref"] for logp, row in zip(logps.tolist(), pack)]',
        ["tests/test_processes.py::test_two_processes_train_as_one[kto-fsdp-none]"],
    ),
    Mutant(
        "kto.py",
        "mismatched",
        "prompt + answer",
        "answer + prompt",
        ["tests/train/test_training.py::test_mismatched_pairs_never_repeat_the_prompt"],
    ),
    # watching: sampled KL, signs of trouble, self-check, curves
    Mutant(
        "watch.py",
        "say",
        "read(now)",
        "read(start)",
        ["tests/train/test_watch.py::test_the_sampled_kl_is_the_kl"],
    ),
    Mutant(
        "posttrain/train/watch.py",
        "sampled",
        "log_r.exp() - 1 - log_r",
        "log_r.exp() - 1",
        ["tests/train/test_watch.py::test_the_sampled_kl_is_the_kl"],
    ),
    Mutant(
        "watch.py",
        "trouble",
        'line["rewards/chosen"] / beta',
        'line["rewards/chosen"]',
        ["tests/train/test_trouble.py::test_signs_of_trouble"],
    ),
    Mutant(
        "watch.py",
        "self_check",
        "(ref - lines).abs()",
        "0 * (ref - lines).abs()",
        ["tests/train/test_selfcheck.py::test_selfcheck_finds_planted_faults"],
    ),
    Mutant(
        "watch.py",
        "trouble",
        'history[-1].get("grad_norm") == 0',
        "False",
        ["tests/train/test_trouble.py::test_signs_of_trouble"],
    ),
    Mutant(
        "posttrain/train/curves.py",
        "curves",
        "Exception",
        "OSError",
        ["tests/train/test_curves.py::test_a_picture_costs_no_run"],
    ),
]
