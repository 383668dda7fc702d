"""stub"""
import re
from verify import is_refusal, visible
BROKEN = {"empty", "truncated", "repetition", "markers"}  # in no pair: "better than broken" teaches nothing
MARKERS = re.compile(r"<\|\w+\|>|</?s>|<(user|assistant|system|end|pad)>|\[/?INST\]")
INJECTION = re.compile(r"(ignore|disregard) (all|the|any|previous|above).{0,20}(instruction|rubric|criteria)"
                       r"|(give|rate|score)( this| me| it)?( a)? (5|five|maximum|full marks)|score: ?[0-9]", re.I)


def find_flags(row, words=None):
    """Names of the filters an answer trips: empty, truncated, repetition, markers, injection, refusal, over-refusal."""
    text = visible(row["completion"][0]["content"]).strip()
    words = text.split()
    grams = [tuple(words[i:i + 4]) for i in range(len(words) - 3)]
    expected = row.get("expected")
    found = {"empty": not text and not row["completion"][0].get("tool_calls"),
             "truncated": row.get("finish") == "length",
             "repetition": len(grams) >= 8 and len(set(grams)) < 0.5 * len(grams),
             "markers": bool(MARKERS.search(text)), "injection": bool(INJECTION.search(text)),
             "refusal": is_refusal(text) and expected is None,
             "over-refusal": is_refusal(text) and expected == "comply"}
    return [name for name, hit in found.items() if hit]



def flag_groups(rows):
    return [[] for _ in rows]
def read_words(path):
    return {}
