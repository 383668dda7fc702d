"""Judging through a llama.cpp server: top_logprobs against the local judge's own logits, and the throughput.

    python3 -m venv runs/llama && runs/llama/bin/pip install "llama-cpp-python[server]" gguf      # builds for minutes
    python bench/endpoint.py --python runs/llama/bin/python

The judge (a Llama folder with a byte-level BPE tokenizer) is written as GGUF in fp32, served on a free port, and asked
about the answers of data/tiny/judge_test.jsonl as judge.py asks an endpoint. Prints JSON lines, one for scores and one
for pairs in both orders: how many both have, their largest difference, and what each judges a second. Exit code 1:
scores differ by more than 0.02, probabilities by more than 0.01, or the server gives none. Texts with an
underscore are left out: llama.cpp has no pre-tokeniser that keeps it inside a word.
"""

import json
import os
import signal
import socket
import subprocess
import sys
import time
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def write_gguf(folder):
    """folder/weights.npz and folder/about.json -> folder/judge.gguf; runs in the virtual environment that has gguf."""
    import gguf
    import numpy as np

    about, weights = (
        json.loads((folder / "about.json").read_text()),
        np.load(folder / "weights.npz"),
    )
    config, writer = about["config"], gguf.GGUFWriter(folder / "judge.gguf", "llama")
    heads, kv_heads = config["num_attention_heads"], config["num_key_value_heads"]
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(kv_heads)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_dimension_count(config["head_dim"])
    writer.add_rope_freq_base(config["rope_parameters"]["rope_theta"])
    writer.add_vocab_size(config["vocab_size"])
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(about["tokens"])
    writer.add_token_types([3 if token in about["special"] else 1 for token in about["tokens"]])
    writer.add_token_merges(about["merges"])
    writer.add_eos_token_id(about["eos"])
    writer.add_bos_token_id(about["eos"])
    writer.add_add_bos_token(False)
    writer.add_chat_template(about["template"])
    names = {
        "self_attn.q_proj": "attn_q",
        "self_attn.k_proj": "attn_k",
        "self_attn.v_proj": "attn_v",
        "self_attn.o_proj": "attn_output",
        "input_layernorm": "attn_norm",
        "post_attention_layernorm": "ffn_norm",
        "mlp.gate_proj": "ffn_gate",
        "mlp.up_proj": "ffn_up",
        "mlp.down_proj": "ffn_down",
    }
    for name in weights.files:
        w, short = weights[name], name.removeprefix("model.")
        if short.startswith("layers."):
            number, part = short.removeprefix("layers.").removesuffix(".weight").split(".", 1)
            for kind, count in (
                ("q_proj", heads),
                ("k_proj", kv_heads),
            ):  # llama.cpp turns neighbours, not halves
                if part.endswith(kind):
                    w = (
                        w.reshape(count, 2, len(w) // count // 2, -1)
                        .swapaxes(1, 2)
                        .reshape(w.shape)
                    )
            short = f"blk.{number}.{names[part]}.weight"
        short = {
            "embed_tokens.weight": "token_embd.weight",
            "norm.weight": "output_norm.weight",
            "lm_head.weight": "output.weight",
        }.get(short, short)
        writer.add_tensor(short, np.ascontiguousarray(w, np.float32))
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def parse_args(argv=None):
    sys.path[:0] = [str(ROOT), str(ROOT / "data" / "make")]
    from posttrain.cli import at_least, parser

    p = parser(__doc__)
    p.add_argument(
        "--python", help="of the virtual environment with llama-cpp-python[server] and gguf"
    )
    p.add_argument("--judge", default="data/tiny/judge", help="Llama folder")
    p.add_argument("--constitution", default="data/tiny/constitution.md", help="its constitution")
    p.add_argument("--prompts", type=at_least(1), default=40, help="prompts, with two answers each")
    p.add_argument("--write-gguf", type=Path, metavar="FOLDER", help="used by this script itself")
    p.add_argument("--seed", type=int, default=0, help="of the endpoint's requests")
    return p.parse_args(argv)


def main(args):
    import tempfile

    import numpy as np
    from world import from_id

    from posttrain.cli import BadInput
    from posttrain.generate.endpoint import ask_endpoint
    from posttrain.judging.constitution import read_constitution
    from posttrain.judging.digits import judge_answers, judge_pairs, load_judge
    from posttrain.judging.prompt import Case
    from posttrain.judging.verdicts import DIGIT, find_way, judge_endpoint, pair_endpoint
    from posttrain.model.load import load_tokenizer
    from posttrain.records.jsonl import read_jsonl

    if not args.python or not Path(args.python).exists():
        raise BadInput(
            "--python: expected the Python of a virtual environment with llama-cpp-python[server] and gguf"
        )
    folder, constitution = Path(tempfile.mkdtemp()), read_constitution(args.constitution)
    model, tokenizer = load_judge(args.judge, "none"), load_tokenizer(args.judge)
    layout = json.loads((Path(args.judge) / "tokenizer.json").read_text())
    tokens = sorted(tokenizer.get_vocab(), key=tokenizer.get_vocab().get)
    np.savez(
        folder / "weights.npz",
        **{
            name: w.float().numpy()
            for name, w in model.state_dict().items()
            if not (name == "lm_head.weight" and model.config.tie_word_embeddings)
        },
    )
    merges = [" ".join(pair) for pair in layout["model"]["merges"]]
    (folder / "about.json").write_text(
        json.dumps(
            {
                "config": model.config.to_dict(),
                "tokens": tokens,
                "merges": merges,
                "special": [*tokenizer.get_added_vocab()],
                "eos": tokenizer.eos_token_id,
                "template": tokenizer.chat_template,
            },
            default=str,
        )
    )
    subprocess.run([args.python, __file__, "--write-gguf", folder], check=True)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [
        args.python,
        "-m",
        "llama_cpp.server",
        "--model",
        folder / "judge.gguf",
        "--port",
        str(port),
        "--logits_all",
        "true",
        "--n_ctx",
        "1024",
    ]
    server = subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=open(folder / "server.log", "w"),
        start_new_session=True,
    )
    try:
        for _ in range(200):
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/v1/models", timeout=1)
                break
            except OSError:
                if server.poll() is not None:
                    raise BadInput(
                        f"the server ended: {(folder / 'server.log').read_text()[-300:]}"
                    ) from None
                time.sleep(0.2)

        def ask(requests):
            return ask_endpoint(f"http://127.0.0.1:{port}/v1", "judge", requests, 4)

        lines = [line for _, line in read_jsonl(ROOT / "data/tiny/judge_test.jsonl")]
        groups = [
            Case(
                row["prompt"],
                [[{"role": "assistant", "content": text}] for text in line["answers"]],
                row["slice"],
                row.get("tools"),
            )
            for line, row in ((line, from_id(line["id"])) for line in lines)
            if "_" not in json.dumps([line, row["prompt"], row.get("tools")])
        ]
        groups = groups[:: max(1, len(groups) // args.prompts)]
        pairs = [
            case._replace(completions=case.completions[:2])
            for case in groups
            if len(case.completions) > 1
        ]
        way, ok = find_way(ask), True
        for kind, given, here, there, limit in (
            ("scores", groups, judge_answers, judge_endpoint, 0.02),
            ("pairs", pairs, judge_pairs, pair_endpoint, 0.01),
        ):
            clock = [time.perf_counter()]
            local = here(model, tokenizer, constitution, given)
            clock.append(time.perf_counter())
            served = there(ask, way, constitution, given)
            clock.append(time.perf_counter())
            values = [
                [x["correct"]["score"] if kind == "scores" else x for one, _ in some for x in one]
                for some in (local, served)
            ]
            known = [abs(a - b) for a, b in zip(*values) if None not in (a, b)]
            seconds = [end - start for start, end in zip(clock, clock[1:])]
            line = {
                "bench": "endpoint",
                "server": "llama.cpp",
                "logprobs": way == DIGIT,
                "kind": kind,
                "asked": len(values[0]),
                "both": len(known),
                "largest_difference": round(max(known, default=9.0), 5),
                "local_per_second": round(len(values[0]) / seconds[0], 1),
                "endpoint_per_second": round(len(values[0]) / seconds[1], 1),
                "endpoint_tokens_per_second": round(
                    sum(tokens for _, tokens in served) / seconds[1]
                ),
            }
            print(json.dumps(line))
            ok = (
                ok
                and way == DIGIT
                and line["largest_difference"] <= limit
                and len(known) == len(values[0])
            )
    finally:
        os.killpg(server.pid, signal.SIGKILL)
        server.wait()
    return 0 if ok else 1


if __name__ == "__main__":
    if "--write-gguf" in sys.argv:
        write_gguf(Path(sys.argv[-1]))
    else:
        options = parse_args()  # which makes the house importable
        from posttrain.cli import run_stage

        run_stage(main, options)
