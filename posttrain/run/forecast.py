"""What a stage will cost, said before it runs."""

from common import money
from posttrain.run.folder import runs_beside


def forecast(
    out,
    script,
    tokens,
    tokens_per_second=None,
    *,
    price_per_million=0.0,
    price_gpu_hour=0.0,
    model=None,
):
    """{"tokens", "seconds", "cost"} of a stage before it runs.

    Without tokens_per_second the speed is that of the newest finished run of the same script and
    model beside `out`; with none there, seconds are None: unknown is not zero. The cost is None
    where it depends on an unknown time.
    """
    if not tokens_per_second:
        tokens_per_second = _measured_speed(out, script, model)
    seconds = tokens / tokens_per_second if tokens_per_second else None
    cost = money(tokens, price_per_million, seconds or 0.0, price_gpu_hour)
    if seconds is None and price_gpu_hour:
        cost = None
    return {"tokens": tokens, "seconds": seconds, "cost": cost}


def _measured_speed(out, script, model):
    """Tokens per second of the newest run of this script and model beside `out`, or None."""
    for record in reversed(runs_beside(out)):
        is_measured = record["script"] == script and record.get("seconds") and record.get("tokens")
        arguments = record.get("arguments", {})
        is_alike = model is None or model in (arguments.get("model"), arguments.get("judge"))
        if is_measured and is_alike:
            return record["tokens"] / record["seconds"]
    return None
