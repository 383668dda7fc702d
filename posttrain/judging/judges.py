"""A judge that is loaded when it is first asked."""

from functools import partial

from posttrain.judging.scoring import open_judge


class Judge:
    """An AI judge on a constitution. memory: a OneInMemory, which others may use, too."""

    def __init__(
        self,
        name,
        constitution,
        memory,
        *,
        quantize="auto",
        concurrency=8,
        seed=0,
        kept=None,
        logprobs=None,
    ):
        self.name = name
        self.memory = memory
        self._open = partial(
            open_judge, name, constitution, quantize, concurrency, seed, kept, logprobs
        )

    def score(self, groups):
        """Votes on answers, see open_judge."""
        return self.memory.get(("judge", self.name), self._open)[0](groups)

    def compare(self, pairs):
        """Which answer of each pair is better, see open_judge."""
        return self.memory.get(("judge", self.name), self._open)[1](pairs)
