"""TRL's GRPOTrainer: one optimiser step on given trajectories, or a whole step with a search tool.

Run in a peer's environment that has nanoscout too, whose search is the tool. The settings are the
fastest that TRL was found to have on a CPU: weights and optimiser state in the model's own
precision (no autocast, no float32 copy), activations kept, DAPO's loss without a reference model,
old log-probabilities taken from the same pass, a turn's tokens limited as ours are.

    peer_trl.py learner|step MODEL DTYPE ROWS SETTINGS    ROWS: trajectories in a micro-batch
"""

import asyncio
import json
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import torch
import trl
from datasets import Dataset
from peer_protocol import Job, serve
from torch.nn.utils.rnn import pad_sequence
from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
from trl import GRPOConfig, GRPOTrainer

TEMPLATE = """\
{%- for message in messages %}
    {{- '<|im_start|>' + ('user' if message.role == 'tool' else message.role) + '\\n' }}
    {{- message.content }}
    {%- for call in message.tool_calls or [] %}
        {{- '<tool>{"name": "' + call.function.name + '", "args": ' }}
        {{- (call.function.arguments | tojson) + '}</tool>' }}
    {%- endfor %}
    {{- '<|im_end|>\\n' }}
{%- endfor %}
{%- if add_generation_prompt %}{{- '<|im_start|>assistant\\n' }}{%- endif %}"""
"""The model's own, with our way of giving results: in a user turn."""
CALLS = {
    "defaults": {"role": "assistant"},
    "start_anchor": "<|im_start|>assistant\n",
    "fields": {
        "tool_calls": {
            "open_pattern": r'<tool>\s*\{"name":\s*"(?P<name>[^"]+)",\s*"args":\s*',
            "close_pattern": r"\}\s*</tool>\s*",
            "repeats": True,
            "content": "json",
            "transform": {
                "type": "function",
                "function": {"name": "{name}", "arguments": "{content}"},
            },
        },
        "content": {"close_pattern": r"<\|im_end\|>\s*", "content": "text"},
    },
}
"""How TRL reads our format's calls."""


def load() -> tuple[Any, Any]:
    folder, dtype = sys.argv[2:4]
    model = AutoModelForCausalLM.from_pretrained(folder, dtype=getattr(torch, dtype))
    tokenizer = AutoTokenizer.from_pretrained(folder)
    tokenizer.pad_token = tokenizer.pad_token or tokenizer.eos_token
    return model, tokenizer


def config(folder: str, settings: Job, trajectories: int, **more: Any) -> GRPOConfig:
    rows = int(sys.argv[4])
    return GRPOConfig(
        output_dir=folder,
        loss_type="dapo",
        beta=0.0,
        epsilon=0.2,
        epsilon_high=0.28,
        learning_rate=settings["lr"],
        num_generations=settings["group"],
        per_device_train_batch_size=rows,
        gradient_accumulation_steps=trajectories // rows,
        max_completion_length=settings["completion_tokens"],
        gradient_checkpointing=False,
        bf16=False,
        use_cpu=True,
        report_to=[],
        save_strategy="no",
        logging_steps=1,
        disable_tqdm=True,
        **more,
    )


def by_length(completion_ids: list[list[int]], **_: Any) -> list[float]:
    return [-float(len(ids)) for ids in completion_ids]


def learner(settings: Job) -> Any:
    """Seconds of an optimiser step on samples {token_ids, sampled, advantage}."""
    model, tokenizer = load()
    trajectories = settings["trajectories"]
    with tempfile.TemporaryDirectory() as folder:
        trainer = GRPOTrainer(
            model=model,
            reward_funcs=by_length,
            args=config(folder, settings, trajectories),
            train_dataset=Dataset.from_dict({"prompt": ["?"] * trajectories}),
            processing_class=tokenizer,
        )
    rows = int(sys.argv[4])
    trainer.current_gradient_accumulation_steps = trajectories // rows
    optimiser = trainer.create_optimizer()
    model.train()

    def step(job: Job) -> Job:
        inputs = tensors(job["samples"], tokenizer.pad_token_id)
        started = time.perf_counter()
        loss = 0.0
        for start in range(0, trajectories, rows):
            part = {
                name: value[start : start + rows] if value.dim() else value
                for name, value in inputs.items()
            }
            value = trainer._compute_loss(model, part)
            value.backward()
            loss += value.item()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimiser.step()
        optimiser.zero_grad()
        return {"seconds": time.perf_counter() - started, "loss": loss}

    return step


def tensors(samples: list[Job], pad: int) -> dict[str, torch.Tensor]:
    """As TRL pads them: prompts on the left, completions on the right."""
    starts = [sample["sampled"].index(True) for sample in samples]

    def padded(rows: list[list[Any]], value: int, side: str) -> torch.Tensor:
        found = [torch.tensor(row, dtype=torch.long) for row in rows]
        return pad_sequence(found, batch_first=True, padding_value=value, padding_side=side)

    cut = list(zip(samples, starts, strict=True))
    prompts = [sample["token_ids"][:start] for sample, start in cut]
    completions = [sample["token_ids"][start:] for sample, start in cut]
    tool_mask = padded([[int(x) for x in s["sampled"][start:]] for s, start in cut], 0, "right")
    return {
        "prompt_ids": padded(prompts, pad, "left"),
        "prompt_mask": padded([[1] * len(row) for row in prompts], 0, "left"),
        "completion_ids": padded(completions, pad, "right"),
        "completion_mask": padded([[1] * len(row) for row in completions], 0, "right"),
        "tool_mask": tool_mask,
        "advantages": torch.tensor([sample["advantage"] for sample in samples]),
        "num_items_in_batch": tool_mask.sum(),
    }


class Clock(TrainerCallback):  # type: ignore[misc]
    seconds = 0.0

    def on_step_begin(self, *args: Any, **kwargs: Any) -> None:
        self._started = time.perf_counter()

    def on_step_end(self, *args: Any, **kwargs: Any) -> None:
        self.seconds = time.perf_counter() - self._started


def whole_step(settings: Job) -> Any:
    """Seconds of a step of rollouts with tools, rewards, loss and update."""
    from nanoscout.search.index import SearchIndex
    from nanoscout.search.local import LocalSearch
    from nanoscout.tools.search_tools import WebSearch

    search = LocalSearch(
        SearchIndex.open(Path(settings["index"])), preview_chars=settings["preview_chars"]
    )
    tool = WebSearch(search, settings["results"])

    class Search:
        """One rollout's environment; it knows the question, which follows each result."""

        def reset(self, question: str, **kwargs: Any) -> None:
            self._question = question

        def web_search(self, query: str) -> str:
            """Search.

            Args:
                query: What to look for.
            """
            result = asyncio.run(tool.call({"query": query}))
            return f"<result>\n{result.text}\n</result>\n{self._question}"

    rows = len(settings["prompts"]) * settings["group"]

    def step(job: Job) -> Job:
        model, tokenizer = load()
        tokenizer.chat_template = TEMPLATE
        tokenizer.response_template = CALLS
        clock = Clock()
        with tempfile.TemporaryDirectory() as folder:
            trainer = GRPOTrainer(
                model=model,
                reward_funcs=by_length,
                args=config(
                    folder,
                    settings,
                    rows,
                    max_steps=1,
                    temperature=settings["temperature"],
                    top_k=0,
                    max_tool_calling_iterations=settings["turns"] - 1,
                    generation_kwargs={"max_new_tokens": settings["turn_tokens"]},
                    shuffle_dataset=False,
                    seed=job["seed"],
                ),
                train_dataset=Dataset.from_list(
                    [
                        {"prompt": prompt, "question": question}
                        for prompt, question in zip(
                            settings["prompts"], settings["questions"], strict=True
                        )
                    ]
                ),
                processing_class=tokenizer,
                environment_factory=Search,
                callbacks=[clock],
            )
            trainer.train()
        logged: Job = {}
        for entry in trainer.state.log_history:
            logged |= entry
        return {
            "seconds": clock.seconds,
            "sampled_tokens": logged["completions/mean_length"] * rows,
            "calls": logged["tools/call_frequency"] * rows,
        }

    return step


def prepare() -> tuple[Job, Any]:
    with open(sys.argv[5]) as file:
        settings = json.load(file)
    about = {
        "version": trl.__version__,
        "settings": f"{sys.argv[3]} weights and AdamW, no autocast, no checkpointing, "
        f"{sys.argv[4]} trajectories a micro-batch, fused head",
    }
    if sys.argv[1] == "learner":
        return about, learner(settings)
    tokenizer = load()[1]
    tokenizer.chat_template = TEMPLATE
    about["prompt_ids"] = [
        tokenizer.apply_chat_template(prompt, add_generation_prompt=True, return_dict=False)
        for prompt in settings["prompts"]
    ]
    return about, whole_step(settings)


if __name__ == "__main__":
    serve(prepare)
