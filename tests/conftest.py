"""What the tests share: a tiny random model with a tokenizer, ways to run a script, and the real material if any."""

import importlib
import json
import os
import shutil
import sys
import tempfile
from pathlib import Path

import pytest
from forker import Forker

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
os.environ.setdefault("OMP_NUM_THREADS", "1")

import posttrain  # noqa: I001  (quietens the libraries, which must not be loaded before)
import torch
import transformers

from threads import one_thread

one_thread()

# ChatML. It knows no tools and no tool calls, so the kit's own way of writing them as text is tested with it.
TEMPLATE = (
    "{% for m in messages %}{{ '<|im_start|>' + m['role'] + '\n' + m['content'] + '<|im_end|>\n' }}{% endfor %}"
    "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}"
)
WORDS = (
    "the cat sat on the mat and the dog ran to the red house because it was late. what is two plus three? "
    "the answer is five. please write a short poem about a river in the north."
).split()


def pytest_addoption(parser):
    parser.addoption("--part", metavar="K/N", help="only every N-th of the tests, from number K on")


# Files whose tests take longest together: two processes that share the files out begin with them.
LONG_FILES = (
    "test_gate.py",
    "test_sandbox.py",
    "test_training.py",
    "test_judge.py",
    "test_gen_candidates.py",
    "test_processes.py",
    "test_recipes.py",
    "test_endpoint.py",
    "test_watch.py",
    "test_filters.py",
)


def pytest_collection_modifyitems(config, items):
    """Long files first. --part K/N keeps a share of the tests, so that long ones can take turns."""
    items.sort(key=lambda item: item.path.name not in LONG_FILES)
    part = config.getoption("--part")
    if part:
        first, step = (int(number) for number in part.split("/"))
        items[:] = items[first % step :: step]


def make_tokenizer():
    """A byte-level BPE of 320 tokens with ChatML's markers: every text can be written in it. Two line breaks are one
    token at the end of a text and two before a word, as in GPT-2."""
    import tokenizers
    from tokenizers import decoders, models, pre_tokenizers, trainers

    bpe = tokenizers.Tokenizer(models.BPE())
    bpe.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bpe.decoder = decoders.ByteLevel()
    bpe.train_from_iterator(
        [" ".join(WORDS)] * 4 + ["\n\n"] * 40,
        trainers.BpeTrainer(
            vocab_size=320,
            special_tokens=["<|pad|>", "<|im_start|>", "<|im_end|>"],
            show_progress=False,
            initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        ),
    )
    tokenizer = transformers.PreTrainedTokenizerFast(
        tokenizer_object=bpe,
        eos_token="<|im_end|>",
        pad_token="<|pad|>",
        extra_special_tokens=["<|im_start|>"],
    )
    tokenizer.chat_template = TEMPLATE
    return tokenizer


def begin_with_bos(folder, path):
    """A copy of a model folder whose tokenizer puts a token before every text by itself, as those of Llama, Gemma and
    Mistral do. The chat template begins with the same token, so a second one would stand at the start."""
    from tokenizers.processors import TemplateProcessing

    shutil.copytree(folder, path)
    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    tokenizer.bos_token = "<|im_start|>"
    tokenizer.backend_tokenizer.post_processor = TemplateProcessing(
        single="<|im_start|> $A", special_tokens=[("<|im_start|>", tokenizer.bos_token_id)]
    )
    tokenizer.save_pretrained(path)
    return str(path)


def make_model(seed=0):
    """Two layers of width 64 with weights ten times the usual size: log-probabilities differ clearly between tokens."""
    torch.manual_seed(seed)
    config = transformers.LlamaConfig(
        vocab_size=320,
        hidden_size=64,
        intermediate_size=128,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=4,
        max_position_embeddings=512,
        initializer_range=0.2,
        tie_word_embeddings=True,
        bos_token_id=None,
        eos_token_id=2,
        pad_token_id=0,
    )
    return transformers.LlamaForCausalLM(config).float().eval()


def save_folder(path, seed=0):
    make_model(seed).save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    return str(path)


@pytest.fixture(autouse=True, scope="session")
def no_drawing():
    """Curves take a second to draw: runs inside this process leave them out; tests/train/test_curves.py draws some."""
    from posttrain.train import training_run

    training_run.curves = lambda out: None


@pytest.fixture(autouse=True, scope="session")
def short_answers_while_training():
    """What the policy says while it trains is most of a tiny run's time: eight tokens of it do."""
    from posttrain.train import watch

    watch.SAMPLE_TOKENS = 8


@pytest.fixture(scope="session")
def base(tmp_path_factory):
    """Path of a model folder: tiny model and tokenizer."""
    return save_folder(tmp_path_factory.mktemp("models") / "base")


@pytest.fixture(scope="session")
def bos_base(base, tmp_path_factory):
    """The same model, whose tokenizer puts a token before every text by itself."""
    return begin_with_bos(base, tmp_path_factory.mktemp("models") / "begins")


@pytest.fixture(scope="session")
def tokenizer(base):
    return transformers.AutoTokenizer.from_pretrained(base)


@pytest.fixture(scope="session")
def model(base):
    """The tiny model, shared: do not change it."""
    return transformers.AutoModelForCausalLM.from_pretrained(base).eval()


@pytest.fixture(scope="session")
def real():
    """The folder of real data, models and tokenizers."""
    if not os.environ.get("KIT_REAL"):
        pytest.skip("KIT_REAL is not set")
    return Path(os.environ["KIT_REAL"])


# ---- rows ----------------------------------------------------------------------------------------------------


def text_of(n, words):
    """Words number n, n + 1, ... of the little text: short, different for every n."""
    return " ".join(WORDS[(n * 7 + k) % len(WORDS)] for k in range(words))


def sft_rows(count):
    return [
        {"id": f"s{n}", "prompt": f"{n} {text_of(n, 4)}", "completion": text_of(n + 3, 2 + n % 5)}
        for n in range(count)
    ]


def pair_rows(count):
    return [
        {
            "id": f"p{n}",
            "prompt": f"{n} {text_of(n, 4)}",
            "chosen": text_of(n + 1, 2 + n % 5),
            "rejected": text_of(n + 9, 3 + n % 4),
        }
        for n in range(count)
    ]


def label_rows(count):
    return [
        {
            "id": f"l{n}",
            "prompt": f"{n} {text_of(n, 4)}",
            "completion": text_of(n + 1, 2 + n % 5),
            "label": n % 3 != 0,
        }
        for n in range(count)
    ]


ROWS = {"sft": sft_rows, "dpo": pair_rows, "kto": label_rows}


def write(path, rows):
    """Rows as JSONL; returns the path as text."""
    Path(path).write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    return str(path)


# ---- running -------------------------------------------------------------------------------------------------


def run_main(script, *argv):
    """The script's main in this process -> its exit code. Errors come through."""
    stage = importlib.import_module(script)
    return stage.main(stage.parse_args([str(word) for word in argv]))


class Seen(Exception):
    """Carries what a function was called with out of a run."""


def show_call(monkeypatch, name):
    """Let the function of this name end the run with what it was called with."""

    def show(*args, **more):
        raise Seen(args, more)

    monkeypatch.setattr(name, show)


FORKER = Forker()


@pytest.fixture(autouse=True, scope="session")
def forker():
    """What run_script starts scripts with; it ends with the tests."""
    yield FORKER
    FORKER.close()


def run_script(script, *argv):
    """The script in a process of its own, whose libraries are loaded already."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    with tempfile.TemporaryDirectory() as scrap:
        started = FORKER.start([ROOT / f"{script}.py", *argv], scrap, environment=environment)
        return started.wait()


def log_lines(out, without=("seconds",)):
    """log.jsonl without what may differ between two runs."""
    return [
        {k: v for k, v in json.loads(line).items() if k not in without}
        for line in (Path(out) / "log.jsonl").read_text().splitlines()
    ]


def adapter_of(out):
    """The tensors of a run's adapter."""
    from safetensors.torch import load_file

    return load_file(Path(out) / "adapter_model.safetensors")


def same_tensors(one, two):
    return one.keys() == two.keys() and all(torch.equal(one[name], two[name]) for name in one)


assert posttrain  # imported for its side effect
