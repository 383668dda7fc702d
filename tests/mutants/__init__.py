"""All planted faults; tests/run_mutants.py sees the tests of each fail."""

from . import (
    chat,
    data,
    filters,
    gate,
    generate,
    judging,
    limits,
    lineage,
    models,
    packed,
    records,
    rule,
    training,
    verify,
)

TOPICS = [records, chat, training, packed, models, generate, verify, filters, judging]
TOPICS += [gate, rule, lineage, data, limits]
MUTANTS = [mutant for topic in TOPICS for mutant in topic.MUTANTS]
