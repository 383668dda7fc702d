"""What the tests of judging share: a constitution, judges, and answers to judge."""

import json

import torch
import transformers
from conftest import make_model, make_tokenizer, text_of

from posttrain.judging.digits import choice_ids

TEXT = """# Constitution: test
Words before the first criterion say nothing.
## true (weight 3; slices: math, code)
Is it true?
0: no
3: mostly
5: yes
## kind
Is it kind?
0: no
3: so so
5: yes
## safe (slices: all; veto below 1.5)
Safe?
0: no 3: nearly 5: yes
"""


GOOD = "q\n0: n 3: m\n5: y\n"


def message(text, **more):
    return [{"role": "assistant", "content": text} | more]


def save_judge(path, choices="012345", pull=10.0):
    """A random model that answers in digits: a constant direction of its state feeds the rows of 0-5 in the head."""
    model, tokenizer = make_model(5), make_tokenizer()
    config = model.config
    config.tie_word_embeddings = False
    untied = transformers.LlamaForCausalLM(config).float().eval()
    untied.load_state_dict(
        model.state_dict() | {"lm_head.weight": model.model.embed_tokens.weight.clone()}
    )
    with torch.no_grad():
        untied.model.embed_tokens.weight[:, 0] = 3.0
        for layer in untied.model.layers:
            layer.self_attn.o_proj.weight[0] = 0.0
            layer.mlp.down_proj.weight[0] = 0.0
        untied.lm_head.weight[:, 0] = 0.0
        untied.lm_head.weight[[i for ids in choice_ids(tokenizer, choices) for i in ids], 0] = pull
    untied.save_pretrained(path)
    tokenizer.save_pretrained(path)
    return str(path)


def save_reward_model(path):
    """A made reward model: a Llama with one output."""
    torch.manual_seed(3)
    config = make_model(5).config
    config.num_labels, config.pad_token_id = 1, make_tokenizer().pad_token_id
    transformers.LlamaForSequenceClassification(config).save_pretrained(path)
    make_tokenizer().save_pretrained(path)
    return str(path)


def candidate_rows(prompts, n=3, words=None):
    """Answers where the truth is known for even prompts: candidate 0 says the number."""
    rows = []
    for p in range(prompts):
        for k in range(n):
            text = f"{p}" if k == 0 and p % 2 == 0 else text_of(p + 5 * k, words or 3 + k)
            rows.append(
                {
                    "id": f"q{p}",
                    "candidate": k,
                    "prompt": [{"role": "user", "content": text_of(p, 4)}],
                    "completion": message(text),
                    "slice": ["math", "chat"][p % 2],
                    "generator": "m",
                    "temperature": 1.0,
                    "seed": k,
                    "tokens": 5,
                    "finish": "stop",
                }
                | ({"answer": p} if p % 2 == 0 else {})
            )
    return rows


def lines(path):
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
