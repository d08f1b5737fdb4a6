"""Writes beam_search.json: beam searches by Hugging Face's transformers, which needs no network for it.

    python tests/python/goldens/make_beam_search.py ../shared/fixtures/checkpoints

It was made with transformers 4.57.1 and torch in float32.
"""

from __future__ import annotations

import itertools
import json
import sys
from pathlib import Path

import torch
import transformers
from transformers import AutoModelForCausalLM

NAMES = ["glm-4-9b-chat-hf", "glm-edge-1.5b-chat", "glm-4-9b-0414"]
PROMPTS = [[10, 20, 30, 40], [7, 8, 9] * 25]
NEW_TOKENS = 12


def settings() -> list[dict]:
    """What a search is asked for; `ends` are ids that end a reply, often enough to matter."""
    cases = [
        {"num_beams": beams, "length_penalty": penalty, "early_stopping": early}
        for beams, penalty, early in itertools.product((2, 3, 5), (1.0, -1.0, 2.0), (False, True, "never"))
    ]
    common = {"num_beams": 3, "length_penalty": 1.0, "early_stopping": False}
    return [
        *cases,
        {**common, "min_new_tokens": 6},
        {**common, "repetition_penalty": 1.3},
        {**common, "max_new_tokens": 1},
        {**common, "max_new_tokens": 24, "early_stopping": "never"},
    ]


def main(checkpoints: Path) -> None:
    torch.set_grad_enabled(False)
    torch.set_num_threads(1)
    models = []
    for name in NAMES:
        model = AutoModelForCausalLM.from_pretrained(checkpoints / name, dtype=torch.float32).eval()
        model.generation_config = transformers.GenerationConfig()
        tokenizer = json.loads((checkpoints / name / "tokenizer.json").read_text(encoding="utf-8"))
        ids = [*tokenizer["model"]["vocab"].values(), *(t["id"] for t in tokenizer["added_tokens"])]
        n_tokens = max(ids) + 1
        eos = model.config.eos_token_id
        padding = list(range(n_tokens, model.config.vocab_size))  # rows without a token
        cases = []
        for prompt in PROMPTS:
            # Tokens that are likely early on end replies, too, so that beams end at different lengths.
            logits = model(torch.tensor([prompt])).logits[0, -1]
            likely = [i for i in logits.topk(40).indices.tolist() if i not in eos and i < n_tokens]
            stop_ids = likely[2:12:3]
            for options in settings():
                arguments = {"max_new_tokens": NEW_TOKENS, **options}
                output = model.generate(
                    torch.tensor([prompt]),
                    attention_mask=torch.ones(1, len(prompt), dtype=torch.long),
                    do_sample=False,
                    eos_token_id=[*eos, *stop_ids],
                    pad_token_id=eos[0],
                    suppress_tokens=padding or None,
                    num_return_sequences=options["num_beams"],
                    return_dict_in_generate=True,
                    output_scores=True,
                    **arguments,
                )
                replies = []
                for ids, score in zip(output.sequences.tolist(), output.sequences_scores, strict=True):
                    reply = ids[len(prompt) :]
                    end = next((i for i, id in enumerate(reply) if id in (*eos, *stop_ids)), None)
                    replies.append({"ids": reply[:end], "stopped": end is not None, "score": score.item()})
                cases.append(
                    {"prompt": prompt, "stop_ids": stop_ids, "options": arguments, "replies": replies}
                )
        models.append({"name": name, "cases": cases})
    target = Path(__file__).with_name("beam_search.json")
    lines = ",\n".join(
        f'{{"name": {json.dumps(m["name"])}, "cases": [\n' + ",\n".join(map(json.dumps, m["cases"])) + "\n]}"
        for m in models
    )
    made_with = json.dumps(f"transformers {transformers.__version__}")
    target.write_text(f'{{"made_with": {made_with}, "models": [\n{lines}\n]}}\n', encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]))
