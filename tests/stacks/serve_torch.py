"""Serves a model folder by PyTorch and transformers, on the GPU if there is one, and draws as docs/seeded-sampling.md says.

    serve_torch.py FOLDER NAME FORMAT ADDRESS

FORMAT is f32, tf32 (f32 with the products of matrices in TF32), f16 or bf16. It writes its address to the file ADDRESS and
serves until it is ended. Requests that wait are answered together, as many as there are: no two batches are alike.
"""

import pathlib
import queue
import sys
import threading
from concurrent.futures import Future

import torch
from seeded import check, draw
from serving import Answer, Prompts, serve
from transformers import AutoModelForCausalLM

MOST_AT_ONCE = 512
# Requests that come within this time go together.
PATIENCE_S = 0.02
FORMATS = {"f32": torch.float32, "tf32": torch.float32, "f16": torch.float16, "bf16": torch.bfloat16}
REFUSED = {"stop", "presence_penalty", "frequency_penalty", "logit_bias", "response_format", "tools"}
DRAWING = pathlib.Path(__file__).parent.parent.parent / "docs" / "seeded-sampling.md"


class Model:
    def __init__(self, folder, number_format):
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        check(DRAWING, self.device)
        torch.backends.cuda.matmul.allow_tf32 = number_format == "tf32"
        self.prompts = Prompts(folder)
        model = AutoModelForCausalLM.from_pretrained(folder, dtype=FORMATS[number_format])
        self.model = model.to(self.device).eval()
        ends = model.generation_config.eos_token_id
        self.ends = set(ends if isinstance(ends, list) else [ends])
        self.waiting = queue.Queue()
        threading.Thread(target=self.work, daemon=True).start()

    def answer(self, asked):
        if asked["top_p"] != 1 or REFUSED.intersection(asked):
            raise ValueError("only the temperature and the seed can be chosen")
        answer = Future()
        self.waiting.put((asked, answer))
        return answer.result()

    def work(self):
        while True:
            batch = [self.waiting.get()]
            try:
                while len(batch) < MOST_AT_ONCE:
                    batch.append(self.waiting.get(timeout=PATIENCE_S))
            except queue.Empty:
                pass
            try:
                for (_, future), answer in zip(batch, self.answers([asked for asked, _ in batch]), strict=True):
                    future.set_result(answer)
            except Exception as error:
                for _, future in batch:
                    if not future.done():
                        future.set_exception(error)

    @torch.inference_mode()
    def answers(self, batch):
        prompts = [self.prompts.tokens(asked["messages"]) for asked in batch]
        longest = max(map(len, prompts))
        # Prompts end together.
        rows = [[0] * (longest - len(prompt)) + prompt for prompt in prompts]
        seen = [[0] * (longest - len(prompt)) + [1] * len(prompt) for prompt in prompts]
        tokens, mask = torch.tensor(rows, device=self.device), torch.tensor(seen, device=self.device)
        positions = (mask.cumsum(dim=1) - 1).clamp(min=0)
        temperatures = [asked["temperature"] for asked in batch]
        temperatures = torch.tensor(temperatures, device=self.device, dtype=torch.float64)
        seeds = [asked["seed"] % 2**64 for asked in batch]
        tops = max(asked["top_logprobs"] for asked in batch)
        drawn = [[] for _ in batch]
        cache = None
        for step in range(max(asked["max_tokens"] for asked in batch)):
            output = self.model(
                input_ids=tokens,
                attention_mask=mask,
                position_ids=positions,
                past_key_values=cache,
                use_cache=True,
                logits_to_keep=1,
            )
            cache = output.past_key_values
            logits = output.logits[:, -1].float()
            chosen = draw(logits, temperatures, seeds, [step] * len(batch))
            logprobs = logits.log_softmax(dim=1)
            top = logprobs.topk(tops, dim=1)
            columns = (chosen, logprobs.gather(1, chosen[:, None])[:, 0], top.indices, top.values)
            for row, token, logprob, others, values in zip(drawn, *(column.tolist() for column in columns)):
                row.append((token, logprob, list(zip(others, values))))
            if all(self.is_whole(row, asked) for row, asked in zip(drawn, batch)):
                break
            tokens, positions = chosen[:, None], positions[:, -1:] + 1
            mask = torch.cat([mask, mask.new_ones(len(batch), 1)], dim=1)
        return [self.whole(*each) for each in zip(drawn, batch, prompts)]

    def is_whole(self, row, asked):
        return len(row) >= asked["max_tokens"] or any(token in self.ends for token, *_ in row)

    def whole(self, row, asked, prompt):
        row = row[: asked["max_tokens"]]
        end = next((at for at, (token, *_) in enumerate(row) if token in self.ends), None)
        row = row if end is None else row[: end + 1]
        ids = [token for token, *_ in row]
        return Answer(
            prompt_tokens=len(prompt),
            text=self.prompts.text(ids),
            ids=ids,
            logprobs=[logprob for _, logprob, _ in row],
            tops=[top for *_, top in row],
            finish_reason="length" if end is None else "stop",
        )


folder, name, number_format, address = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3], pathlib.Path(sys.argv[4])
serve(name, address, Model(folder, number_format).answer)
