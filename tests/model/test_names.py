"""Where the base of a run folder lies, and in which number format its weights are."""

import json
import shutil
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
import transformers
from conftest import ROWS, run_main, save_folder, sft_rows, write
from safetensors.torch import load_file, save_file

from posttrain.cli import BadInput
from posttrain.model import names
from posttrain.model.load import load_model, load_policy, number_format
from posttrain.model.memory import memory_plan
from posttrain.model.names import (
    base_record,
    fingerprint,
    quantised_already,
    quantize_mode,
    resolve_model,
    weights_digest,
)

# ---- a base that has moved -----------------------------------------------------------------------


@pytest.fixture(scope="module")
def trained_run(tmp_path_factory):
    """A folder with base and run as a training from there left them, with relative names."""
    top = tmp_path_factory.mktemp("project")
    save_folder(top / "models/base")
    data = write(top / "data.jsonl", sft_rows(3))
    words = ["--data", data, "--out", "runs/sft", "--max-steps", 1, "--lora-r", 2]
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(top)
        run_main("sft", "--model", "models/base", *words)
    return top


@pytest.fixture
def project(trained_run, tmp_path, monkeypatch):
    """A copy of it, and another working directory."""
    shutil.copytree(trained_run, tmp_path / "project")
    path = tmp_path / "project/runs/sft/run.json"
    record = json.loads(path.read_text())
    # The copy is the place where it was trained, as far as the record tells.
    record["base"]["path"] = record["base"]["path"].replace(str(trained_run), f"{tmp_path}/project")
    path.write_text(json.dumps(record))
    (tmp_path / "elsewhere").mkdir()
    monkeypatch.chdir(tmp_path / "elsewhere")
    return tmp_path / "project"


def rewrite(path, **more):
    """Change fields of a JSON file."""
    path.write_text(json.dumps(json.loads(path.read_text()) | more))


def spoil(folder):
    """Another model in the place of this one: a byte of its weights is another."""
    path = folder / "model.safetensors"
    weights = bytearray(path.read_bytes())
    weights[-1] ^= 1
    path.write_bytes(weights)


def test_a_run_records_its_base(trained_run):
    record = json.loads((trained_run / "runs/sft/run.json").read_text())["base"]
    assert record == {
        "name": "models/base",
        "path": str(trained_run / "models/base"),
        "digest": weights_digest(trained_run / "models/base"),
        "commit": None,
    }


def test_the_base_as_it_was_typed(project, monkeypatch):
    monkeypatch.chdir(project)
    assert resolve_model("runs/sft") == ("models/base", "runs/sft")
    assert load_model("runs/sft").peft_config


def test_the_base_where_the_run_was_started(project):
    """The record's place tells it, also where the whole project has moved."""
    rewrite(project / "runs/sft/run.json", base=with_path(project, "/gone/base"))
    base, _ = resolve_model(str(project / "runs/sft"))
    assert base == str(project / "models/base")


def test_the_base_at_its_full_path(project, tmp_path):
    """The run alone has moved."""
    shutil.move(project / "runs/sft", tmp_path / "moved")
    base, _ = resolve_model(str(tmp_path / "moved"))
    assert base == str(project / "models/base")


def test_the_base_beside_the_run(project, tmp_path):
    """Both have moved, into one folder."""
    (tmp_path / "both").mkdir()
    shutil.move(project / "runs/sft", tmp_path / "both/sft")
    shutil.move(project / "models/base", tmp_path / "both/base")
    assert resolve_model(str(tmp_path / "both/sft"))[0] == str(tmp_path / "both/base")


def test_another_model_under_the_same_name(project, tmp_path):
    """It lies where the name leads from here; the right one is taken."""
    other = tmp_path / "elsewhere/models/base"
    shutil.copytree(project / "models/base", other)
    assert resolve_model(str(project / "runs/sft"))[0] == "models/base"
    spoil(other)
    assert resolve_model(str(project / "runs/sft"))[0] == str(project / "models/base")


def test_a_base_that_has_changed(project):
    """Its weights or its config; not its tokenizer. The places are named."""
    (project / "models/base/chat_template.jinja").write_text("{{ messages }}")
    assert resolve_model(str(project / "runs/sft"))
    rewrite(project / "models/base/config.json", rope_theta=5.0)
    with pytest.raises(BadInput, match=r"base \(another model, or changed since training\)"):
        resolve_model(str(project / "runs/sft"))


def test_a_base_that_is_gone(project):
    shutil.rmtree(project / "models")
    with pytest.raises(BadInput, match=r"models/base \(no model there\), .*/runs/base \(no model"):
        resolve_model(str(project / "runs/sft"))


def test_a_chain_keeps_its_base(project, tmp_path):
    """runs/dpo, trained from runs/sft, from another directory; then only the record knows."""
    data = write(tmp_path / "pairs.jsonl", ROWS["dpo"](3))
    words = ["--data", data, "--out", "dpo", "--max-steps", 1]
    run_main("dpo", "--model", project / "runs/sft", *words)
    config = json.loads((tmp_path / "elsewhere/dpo/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == "models/base", "as its first run had it"
    base = str(project / "models/base")
    assert resolve_model("dpo")[0] == base
    spoil(project / "models/base")
    with pytest.raises(BadInput, match="changed since training"):
        resolve_model("dpo")


def in_the_cache(hub, commit):
    """A model of the hub as huggingface_hub keeps it, at this commit."""
    folder = hub / "models--org--model"
    (folder / "refs").mkdir(parents=True, exist_ok=True)
    (folder / "refs/main").write_text(commit)
    (folder / "snapshots" / commit).mkdir(parents=True)
    (folder / "snapshots" / commit / "config.json").write_text("{}")


def test_the_commit_of_a_hub_model(tmp_path, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path))
    monkeypatch.setattr("transformers.utils.hub.is_offline_mode", lambda: True)
    in_the_cache(tmp_path, 40 * "a")
    assert names.commit_of("org/model") == 40 * "a"
    assert names.commit_of("org/another") is None and names.commit_of(str(tmp_path)) is None


def test_a_base_of_the_hub(project, tmp_path, monkeypatch, capsys):
    """Its name is enough, unless a folder of that name lies here, which would be taken for it."""
    commits = ["c0ffee", "c0ffee", "decaf0", "decaf0"]
    monkeypatch.setattr("posttrain.model.names.commit_of", lambda base: commits.pop(0))
    record = base_record("org/model")
    assert record == {"name": "org/model", "path": None, "digest": None, "commit": "c0ffee"}
    rewrite(project / "runs/sft/run.json", base=record)
    assert resolve_model(str(project / "runs/sft"))[0] == "org/model"
    assert "WARNING" not in capsys.readouterr().out
    for _ in range(2):
        assert resolve_model(str(project / "runs/sft"))[0] == "org/model"
    line = capsys.readouterr().out
    assert line.count("WARNING") == 1 and "at commit c0ffee in training and is at decaf0" in line
    (tmp_path / "elsewhere/org/model").mkdir(parents=True)
    with pytest.raises(BadInput, match="org/model of the hub, but a folder of that name lies here"):
        resolve_model(str(project / "runs/sft"))


def with_path(project, path):
    """The record of the base, with another full path."""
    return json.loads((project / "runs/sft/run.json").read_text())["base"] | {"path": path}


def without_record(project):
    """The run as an earlier version of the kit has left it."""
    path = project / "runs/sft/run.json"
    record = json.loads(path.read_text())
    del record["base"]
    path.write_text(json.dumps(record))
    return str(project / "runs/sft")


def test_runs_without_a_record_of_their_base(project, tmp_path, monkeypatch):
    """As it is written from here, or from where the run was started; else it is no hub name."""
    run = without_record(project)
    assert resolve_model(run)[0] == str(project / "models/base")
    (tmp_path / "elsewhere/models/base").mkdir(parents=True)
    assert resolve_model(run)[0] == "models/base"
    monkeypatch.chdir(project)
    (project / "models/base").rename(project / "models/renamed")
    with pytest.raises(BadInput, match="base model 'models/base' is a folder that is not there"):
        resolve_model(run)
    shutil.rmtree(project / "models")
    assert resolve_model(run)[0] == "models/base", "nothing says that it is no hub name"


@pytest.mark.parametrize("name", ["./base", "a/b/c", "/gone/base", "data/base"])
def test_adapters_made_elsewhere(project, name):
    """A path that leads nowhere is refused; the hub is not asked for it."""
    run = project / "runs/sft"
    (run / "run.json").unlink()
    rewrite(run / "adapter_config.json", base_model_name_or_path=name)
    with pytest.raises(BadInput, match=f"base model '{name}' is a folder that is not there"):
        resolve_model(str(run))
    rewrite(run / "adapter_config.json", base_model_name_or_path="org/model")
    assert resolve_model(str(run))[0] == "org/model"


def test_the_hash_of_weights_follows_their_files(base, tmp_path):
    """It is remembered by size and time: a change is seen."""
    shutil.copytree(base, tmp_path / "m")
    before = weights_digest(tmp_path / "m")
    assert before == weights_digest(base)
    (tmp_path / "m/notes.txt").write_text("mine")
    assert before == weights_digest(tmp_path / "m")
    spoil(tmp_path / "m")
    assert before != weights_digest(tmp_path / "m")


# ---- number formats ------------------------------------------------------------------------------

BNB = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}


def config_with(settings, **more):
    return SimpleNamespace(quantization_config=settings, name_or_path="some/base", **more)


@pytest.mark.parametrize(
    ("config", "method"),
    [
        (SimpleNamespace(), None),
        (config_with(None), None),
        (config_with(BNB), "bitsandbytes nf4"),
        (config_with({"load_in_4bit": True}), "bitsandbytes fp4"),
        (config_with({"quant_method": "bitsandbytes", "load_in_8bit": True}), "bitsandbytes int8"),
        (config_with({"quant_method": "mxfp4"}), "mxfp4"),
        (config_with({"quant_method": "gptq", "bits": 4}), "gptq"),
        (config_with({}), "an unknown method"),
        (config_with(transformers.Mxfp4Config()), "mxfp4"),
        (config_with(None, text_config=config_with({"quant_method": "fp8"})), "fp8"),
    ],
)
def test_how_weights_are_quantised(config, method):
    assert quantised_already(config) == method


@pytest.mark.parametrize("on_gpu", [False, True])
def test_weights_that_are_quantised_stay_as_they_are(monkeypatch, on_gpu):
    """On every machine; nf4 on top of them is refused."""
    monkeypatch.setattr(torch.cuda, "is_available", lambda: on_gpu)
    for settings, mode in (
        (BNB, "bitsandbytes nf4"),
        ({"quant_method": "mxfp4"}, "mxfp4, unpacked"),
    ):
        config = config_with(settings)
        assert quantize_mode("auto", config) == quantize_mode("none", config) == mode
        with pytest.raises(BadInput, match=r"some/base is quantised already \((bits|mxfp4).*leave"):
            quantize_mode("nf4", config)
    assert quantize_mode("auto", SimpleNamespace()) == ("nf4" if on_gpu else "none")
    assert quantize_mode("nf4", SimpleNamespace()) == "nf4"
    assert quantize_mode("none", SimpleNamespace()) == "none"


def test_mxfp4_is_unpacked(capsys):
    """Nothing can be trained through it. Other formats load as their config says."""
    options = number_format("auto", config_with({"quant_method": "mxfp4"}))
    assert options["quantization_config"].dequantize
    assert "mxfp4 weights are unpacked" in capsys.readouterr().out
    assert "quantization_config" not in number_format("auto", config_with(BNB))


def test_weights_in_mxfp4_are_trained_on(tmp_path):
    """A gpt-oss of one layer whose experts are blocks of 32 numbers of 4 bits with a scale each."""
    sizes = {"hidden_size": 64, "intermediate_size": 64, "head_dim": 32, "num_local_experts": 2}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "num_experts_per_tok": 1}
    config = transformers.GptOssConfig(
        vocab_size=320, num_hidden_layers=1, layer_types=["full_attention"], **sizes, **heads
    )
    transformers.GptOssForCausalLM(config).bfloat16().save_pretrained(tmp_path)
    weights = load_file(tmp_path / "model.safetensors")
    for name in ("gate_up_proj", "down_proj"):
        name = f"model.layers.0.mlp.experts.{name}"
        experts, inputs, outputs = weights.pop(name).shape
        shape = (experts, outputs, inputs // 32)
        weights[f"{name}_blocks"] = torch.randint(0, 256, (*shape, 16), dtype=torch.uint8)
        weights[f"{name}_scales"] = torch.randint(120, 126, shape, dtype=torch.uint8)
    save_file(weights, tmp_path / "model.safetensors", metadata={"format": "pt"})
    rewrite(tmp_path / "config.json", quantization_config={"quant_method": "mxfp4"})

    policy = load_policy(str(tmp_path), "auto", lora_r=2)
    experts = policy.get_base_model().model.layers[0].mlp.experts
    experts = experts.get_base_layer()  # two adapters lie on it
    assert experts.gate_up_proj.shape == (2, 64, 128) and experts.gate_up_proj.is_floating_point()
    assert policy(input_ids=torch.tensor([[1, 2, 3]])).logits.isfinite().all()


def test_a_base_in_4_bits(base, tmp_path):
    """As some are published: trained on as it is, with the memory and the key of its format."""
    pytest.importorskip("bitsandbytes")
    four_bits = str(tmp_path / "base-4bit")
    load_model(base, "nf4").save_pretrained(four_bits)
    transformers.AutoTokenizer.from_pretrained(base).save_pretrained(four_bits)

    policy = load_policy(four_bits, "auto", lora_r=2)
    assert "Linear4bit" in {type(module).__name__ for module in policy.modules()}
    assert memory_plan(four_bits, "auto", 2, 100) == memory_plan(base, "nf4", 2, 100)
    keys = {fingerprint(four_bits, quantize) for quantize in ("auto", "none")}
    assert len(keys) == 1 and "bitsandbytes nf4" in keys.pop()
    with pytest.raises(BadInput, match=r"quantised already \(bitsandbytes nf4\)"):
        load_model(four_bits, "nf4")

    data = write(tmp_path / "data.jsonl", ROWS["dpo"](3))
    words = ["--data", data, "--out", tmp_path / "run", "--max-steps", 1, "--lora-r", 2]
    assert run_main("dpo", "--model", four_bits, *words) == 0


def test_a_base_beside_which_something_was_put(project):
    """A trainer's own files, another version of the library in its config: the weights are the same."""
    base = project / "models/base"
    (base / "training_args.bin").write_text("x")
    rewrite(base / "config.json", transformers_version="9.9")
    assert Path(resolve_model(str(project / "runs/sft"))[0]).resolve() == base.resolve()


def test_runs_behind_a_link(project, tmp_path):
    """runs/ is a link to another disk, and the project was renamed: found from elsewhere, too."""
    disk = tmp_path / "disk"
    shutil.move(project / "runs", disk)
    (project / "runs").symlink_to(disk)
    renamed = project.rename(tmp_path / "renamed")
    assert resolve_model(str(renamed / "runs/sft"))[0] == str(renamed / "models/base")
