"""Is the gate's judge an independent witness?"""

from pathlib import Path

from posttrain.hashing import digest
from posttrain.model.family import family_of, related
from posttrain.run.lineage import lineage


def contaminated(judge, candidate):
    """Why the gate's judge is no independent witness, in one line, or None.

    It is none where it is the candidate, or where it or a model of its family labelled the
    candidate's training data.
    """
    if digest(judge) == digest(candidate):
        return f"the judge {judge} is the candidate itself"
    for record in lineage(candidate):
        run_folder = Path(record["path"]).parent
        for labeller in _labellers(record):
            if labeller == judge:
                return f"the judge {judge} also made the training data ({run_folder})"
            if digest(labeller) == digest(judge) or related(family_of(labeller), family_of(judge)):
                relation = f"is of one family with {labeller}, which"
                return f"the judge {judge} {relation} made the training data ({run_folder})"
    return None


def _labellers(record):
    """The judges of a run that labelled answers; [] for a run of any other script."""
    if record["script"] != "judge.py":
        return []
    judges = record["arguments"].get("judge")
    return [judges] if isinstance(judges, str) else judges or []
