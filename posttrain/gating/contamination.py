"""Is the gate's judge an independent witness?"""

from pathlib import Path

from posttrain.hashing import digest
from posttrain.model.family import family_of, related
from posttrain.run.lineage import lineage


def contaminated(judge, candidate):
    """Why the gate's judge is no independent witness: it is the candidate, or it or its family labelled the
    candidate's training data; or None."""
    if digest(judge) == digest(candidate):
        return f"the judge {judge} is the candidate itself"
    for record in lineage(candidate):
        others = record["arguments"].get("judge") if record["script"] == "judge.py" else None
        for other in [others] if isinstance(others, str) else others or []:
            if other == judge or digest(other) == digest(judge) or related(family_of(other), family_of(judge)):
                same = "also" if other == judge else f"is of one family with {other}, which"
                return f"the judge {judge} {same} made the training data ({Path(record['path']).parent})"
    return None
