"""What a stage will cost, said before it runs."""

from common import money
from posttrain.run.folder import runs_beside


def forecast(out, script, tokens, tokens_per_second=None, price_per_million=0.0, price_gpu_hour=0.0, model=None):
    """{"tokens", "seconds", "cost"} of a stage before it runs. Without a given speed that of the newest finished run of
    the same script and model beside `out` is taken; with none there, seconds are None: unknown is not zero."""
    if not tokens_per_second:
        speeds = [r["tokens"] / r["seconds"] for r in runs_beside(out)
                  if r["script"] == script and r.get("seconds") and r.get("tokens")
                  and model in (None, *(r.get("arguments", {}).get(key) for key in ("model", "judge")))]
        tokens_per_second = speeds[-1] if speeds else None
    seconds = tokens / tokens_per_second if tokens_per_second else None
    cost = money(tokens, price_per_million, seconds or 0.0, price_gpu_hour)
    return {"tokens": tokens, "seconds": seconds, "cost": None if seconds is None and price_gpu_hour else cost}
