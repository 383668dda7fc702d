"""A run that writes JSONL files batch by batch: begun, killed, continued, finished."""

import time
from pathlib import Path

from tqdm import tqdm

from posttrain.records.jsonl import append_lines, continue_lines
from posttrain.run.folder import save_run, start_run


class FileRun:
    """The run of a stage that answers, judges or compares: run.json, and files that grow.

        run = FileRun(args.out, "judge.py", vars(args), inputs)
        if run.finished: ...
        run.extend(run.folder / "checks.jsonl", batches, sizes, check)
        run.finish(tokens=..., cost=...)

    `record` is what run.json holds; a stage may keep more in it, which is saved with it.
    """

    def __init__(self, out, script, arguments, inputs):
        """Begin, or continue what a killed run left. BadInput: see start_run."""
        self.out = Path(out)
        self.record = start_run(out, script, arguments, inputs)
        self._began = time.perf_counter() - self.record["seconds"]

    @property
    def finished(self):
        """Is nothing left to do?"""
        return self.record["finished"]

    @property
    def folder(self):
        """Where the run keeps its files: the folder --out, or the one that the file --out is in."""
        return self.out.parent if self.out.suffix == ".jsonl" else self.out

    @property
    def replies(self):
        """The file that keeps an endpoint's replies until their batch is written."""
        if self.out.suffix == ".jsonl":
            return self.out.with_suffix(".kept.jsonl")
        return self.out / "kept.jsonl"

    def extend(self, path, batches, sizes, work):
        """Append work(batch) to a JSONL file for every batch that a killed run has not done.

        sizes: how many lines each batch makes, in order. work is not called for what is done, so a
        model that it loads when it is first called is not loaded in vain.
        """
        path = Path(path)
        done = continue_lines(path, sizes)
        for batch in tqdm(batches[done:], initial=done, total=len(batches), desc=path.stem):
            append_lines(path, work(batch))
            self.replies.unlink(missing_ok=True)
            self.save()

    def seconds(self):
        """Seconds at work, those before a kill included."""
        return time.perf_counter() - self._began

    def save(self):
        """Write run.json with the seconds so far."""
        save_run(self.record, seconds=self.seconds())

    def finish(self, **measured):
        """Write run.json for the last time; without `seconds`, with those of the last batch."""
        save_run(self.record, finished=True, **measured)
