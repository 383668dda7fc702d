"""Changes of the source that mean the same as what they replace: no test could notice them.

{(file, function, what stands there, what would stand there): why it is the same}"""

SET_LATER = (
    "an attribute named for the reader: it is set again before it is read for the first time"
)
RUN = ("posttrain/train/training_run.py", "TrainingRun.__init__")
BATCH = ("posttrain/generate/local.py", "Batch.__init__")
POWER = "only a machine that loses its power would show it"
WHOLE_LINES = "what ends in a line break, or is empty, is written as it was"
WINDOWS = "only Windows has no SIGHUP"
KEPT = ("posttrain/generate/endpoint.py", "read_kept", "text and (not text.endswith('\\n'))")
SIGNALS = ("demo.py", "stop_on_signals")
NOT_IGNORED = "signal.getsignal(number) is not signal.SIG_IGN"

EQUIVALENT = {
    (*RUN, "self.forecast = None", "pass"): SET_LATER,
    (*RUN, "self.tokens_of_step = []", "pass"): SET_LATER,
    (*RUN, "self.steps = 0", "pass"): SET_LATER,
    (*RUN, "self.longest_sequence = 0", "pass"): SET_LATER,
    (*RUN, "self.record = None", "pass"): SET_LATER,
    (*RUN, "self.track = None", "pass"): SET_LATER,
    (*RUN, "self.begin = None", "pass"): SET_LATER,
    (*RUN, "self.first_step = 0", "pass"): SET_LATER,
    (*RUN, "self.seconds_before = 0.0", "pass"): SET_LATER,
    (*RUN, "self.tokens = 0", "pass"): SET_LATER,
    (*RUN, "self.stopped = None", "pass"): SET_LATER,
    (*RUN, "self.last_line = {}", "pass"): SET_LATER,
    (*RUN, "0", "1"): SET_LATER,
    (*RUN, "0.0", "1.0"): SET_LATER,
    (
        "posttrain/filters.py",
        "has_policy_words",
        "answer.row.get('slice', 'all')",
        "answer.row.get('slice')",
    ): "the words for all slices are looked for anyway",
    (
        "posttrain/generate/local.py",
        "Batch.__init__",
        "False",
        "True",
    ): "it is asked when there are rows, and set when rows come",
    (
        "posttrain/gating/measures.py",
        "p_drop",
        "float(student.cdf(estimate.mean / estimate.error, max(estimate.df, 1)))",
        "student.cdf(estimate.mean / estimate.error, max(estimate.df, 1))",
    ): "numpy's float64 is a float",
    (
        "posttrain/gating/grades.py",
        "grade_verified",
        "float(np.mean(verdicts))",
        "np.mean(verdicts)",
    ): "numpy's float64 is a float",
    (
        "posttrain/gating/grades.py",
        "grade_judged",
        "float(np.mean([probability for probability, _ in means]))",
        "np.mean([probability for probability, _ in means])",
    ): "numpy's float64 is a float",
    (
        "posttrain/gating/grades.py",
        "lengths",
        "float(np.mean(cut))",
        "np.mean(cut)",
    ): "numpy's float64 is a float",
    (
        "posttrain/gating/grades.py",
        "mean_tokens",
        "float(np.mean([answer.tokens for answer in answers]))",
        "np.mean([answer.tokens for answer in answers])",
    ): "numpy's float64 is a float",
    (
        "posttrain/gating/summary.py",
        "unscored_slices",
        "set(missing)",
        "missing",
    ): "a list is only searched more slowly",
    (
        "posttrain/gating/rates.py",
        "SimulatedGate.repeat",
        "float(blocks.high)",
        "blocks.high",
    ): "scipy's is a float already, or numpy's, which is one",
    (
        "posttrain/processes.py",
        "as_forward",
        "if not sharded():\n    return read",
        "pass",
    ): "without FSDP the second forward has no hooks: it is the function itself",
    (
        "posttrain/generate/cache.py",
        "GrowingLayer.__init__",
        "super().__init__()",
        "pass",
    ): "what it sets is set again below",
    (
        "demo.py",
        "Schedule.wait_for",
        "time.sleep(0.1)",
        "pass",
    ): "it only looks more often",
    (
        "posttrain/filters.py",
        "flag_groups",
        "row.get('slice', 'all')",
        "row.get('slice')",
    ): "answers without a slice are one group under any name",
    (
        "posttrain/gating/measures.py",
        "budget",
        "np.array(candidate, float)",
        "np.array(candidate)",
    ): "the quotients of whole numbers are floats as well",
    (
        "posttrain/train/training_run.py",
        "save_checkpoint",
        "os.fsync(file.fileno())",
        "pass",
    ): POWER,
    (
        "posttrain/gating/report.py",
        "html",
        "4",
        "5",
    ): "a page that is too large is made smaller in other steps",
    (
        "common.py",
        "completion_logps",
        "False",
        "True",
    ): "a cache that nobody reads costs memory and changes no number",
    (
        "posttrain/hashing.py",
        "seed_for",
        "int.from_bytes(first_bytes, 'big')",
        "int.from_bytes(first_bytes)",
    ): "'big' is what Python takes by itself, from 3.11",
    (
        "posttrain/gating/text.py",
        "tables_that_fit",
        "1",
        "0",
    ): "a first column and one more always fit: their cells are cut to that",
    (
        "posttrain/train/curves.py",
        "draw",
        "matplotlib.use('Agg')",
        "pass",
    ): "without a display matplotlib takes Agg by itself",
    (
        "posttrain/packed/reader.py",
        "LineReader.read_line",
        "1",
        "2",
    ): "a mask that is there, and that nobody reads",
    (
        "posttrain/packed/trees.py",
        "tree_logits",
        "lay_out_tree(rows[start:end], [0, *shared[start + 1:end]], device)",
        "lay_out_tree(rows[start:end], [0, *shared[start + 1:end]])",
    ): "on a CPU tensors are where they should be without a word",
    (
        "posttrain/verify/grounding.py",
        "leaves",
        "value is None or isinstance(value, bool) or is_named(value, field)",
        "value is None or is_named(value, field)",
    ): "true and false have no digit, and only what has one can be made up",
    (
        "posttrain/train/step.py",
        "make_optimizer",
        "torch.optim.AdamW(trained(model), lr=lr, weight_decay=0.0)",
        "torch.optim.AdamW(trained(model), weight_decay=0.0)",
    ): "every step sets a rate of its own",
    (
        "posttrain/packed/head.py",
        "RunningSoftmax.add",
        "(mass.to(weight.dtype) @ weight).float()",
        "mass.to(weight.dtype) @ weight",
    ): "a sum with a tensor in full precision is one itself",
    (
        "posttrain/packed/head.py",
        "RunningSoftmax.add",
        "if not self.wants_gradient:\n    return",
        "pass",
    ): "a direction that nobody asks for costs time and changes no number",
    (
        "posttrain/train/reference.py",
        "unique_sequences",
        "hashlib.sha256(text.encode()).hexdigest()[:24]",
        "hashlib.sha256(text.encode()).hexdigest()[:]",
    ): "a longer key is as good",
    (
        "posttrain/train/reference.py",
        "unique_sequences",
        "24",
        "25",
    ): "a longer key is as good",
    (
        "kto.py",
        "add_mismatched",
        "step[:k]",
        "step[:]",
    ): "the row itself answers the same prompt, and those behind it have been looked at",
    (
        "dpo.py",
        "pack_loss",
        "scores.detach()",
        "scores",
    ): "what goes into the log is detached by tally",
    (
        "dpo.py",
        "pack_loss",
        "(rewards[:, 0] > rewards[:, 1]).double()",
        "rewards[:, 0] > rewards[:, 1]",
    ): "tally makes doubles of all that it is given",
    (
        "posttrain/processes.py",
        "sum_gradients",
        "total.view_as(parameter).clone()",
        "total.view_as(parameter)",
    ): "no other gradient lies in this part of the message",
    (
        "posttrain/train/selfcheck.py",
        "summed_gradient",
        "parameter.grad.detach().clone()",
        "parameter.grad.detach()",
    ): "zero_grad drops a gradient and never writes into it",
    (
        "posttrain/train/selfcheck.py",
        "summed_gradient",
        "parameter.grad.detach()",
        "parameter.grad",
    ): "a gradient has no graph of its own",
    (
        "posttrain/train/training_run.py",
        "save_checkpoint",
        "file.flush()",
        "pass",
    ): "a file is flushed where it is closed",
    (*BATCH, "self.columns = 0", "pass"): SET_LATER,
    (*BATCH, "self.cache = None", "pass"): SET_LATER,
    (*BATCH, "self.position = None", "pass"): SET_LATER,
    (*BATCH, "self.logits = None", "pass"): SET_LATER,
    (*BATCH, "self.can_grow = False", "pass"): SET_LATER,
    (*BATCH, "0", "1"): SET_LATER,
    ("posttrain/records/jsonl.py", "write_whole", "file.flush()", "pass"): POWER,
    ("posttrain/records/jsonl.py", "write_whole", "os.fsync(file.fileno())", "pass"): POWER,
    (*KEPT, "text"): WHOLE_LINES,
    (*KEPT, "not text.endswith('\\n')"): WHOLE_LINES,
    (*KEPT, "text or not text.endswith('\\n')"): WHOLE_LINES,
    (*SIGNALS, "getattr(signal, name, None)", "getattr(signal, name)"): WINDOWS,
    (*SIGNALS, f"number and {NOT_IGNORED}", NOT_IGNORED): WINDOWS,
    (
        "posttrain/generate/endpoint.py",
        "EndpointClient.__init__",
        "0.0",
        "1.0",
    ): "the clock is past its first second",
    (
        "posttrain/generate/local.py",
        "next_tokens",
        "temperature > 0",
        "temperature >= 0",
    ): "what is drawn for greedy rows is not used",
    (
        "gen_candidates.py",
        "read_systems",
        "0",
        "1",
    ): "any number is refused as it is no text",
    (
        "posttrain/filters.py",
        "same_answers",
        "len(groups) > 1",
        "len(groups) >= 1",
    ): "a single slice is looked through twice, and its places are a set",
    (
        "posttrain/filters.py",
        "same_answers",
        "1",
        "0",
    ): "a single slice is looked through twice, and its places are a set",
    (
        "posttrain/filters.py",
        "same_answers",
        "list(range(len(rows)))",
        "range(len(rows))",
    ): "it is only gone through and indexed",
    (
        "posttrain/filters.py",
        "same_in_group",
        "set(members)",
        "members",
    ): "it only takes longer to look into",
    (
        "posttrain/filters.py",
        "language_of_script",
        "if text.isascii():\n    return None",
        "pass",
    ): "no script of the table has a letter of ASCII: it only takes longer",
    (
        "posttrain/judging/digits.py",
        "digit_scores",
        "torch.arange(len(digits), dtype=torch.float64, device=p.device)",
        "torch.arange(len(digits), device=p.device)",
    ): "times float64 probabilities whole numbers are float64 as well",
    (
        "posttrain/judging/reliability.py",
        "length_correlation",
        "float(spearmanr(pairs).statistic)",
        "spearmanr(pairs).statistic",
    ): "scipy's is numpy's float64, which is a float",
    (
        "judge.py",
        "normal_share",
        "float(norm.cdf(z))",
        "norm.cdf(z)",
    ): "scipy's is numpy's float64, which is a float",
    (
        "judge.py",
        "",
        "64",
        "65",
    ): "only what a kill costs depends on how many answers are checked between two appends",
    (
        "posttrain/gating/rates.py",
        "SignedSlice.__init__",
        "np.zeros(groups.max() + 1, dtype=int)",
        "np.zeros(groups.max() + 1)",
    ): "whole numbers below 2^53 are the same as floats",
    (
        "posttrain/gating/rates.py",
        "SampledSlice.__init__",
        "np.zeros(len(groups), dtype=int)",
        "np.zeros(len(groups))",
    ): "whole numbers below 2^53 are the same as floats",
}
