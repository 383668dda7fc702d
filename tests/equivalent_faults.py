"""Changes of the source that mean the same as what they replace: no test could notice them.

{(file, function, what stands there, what would stand there): why it is the same}"""

SET_LATER = (
    "an attribute named for the reader: it is set again before it is read for the first time"
)
RUN = ("posttrain/train/training_run.py", "TrainingRun.__init__")

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
        "posttrain/verify/grounding.py",
        "leaves",
        "value is None or isinstance(value, bool) or is_named(value, field)",
        "value is None or is_named(value, field)",
    ): "true and false have no digit, and only what has one can be made up",
}
