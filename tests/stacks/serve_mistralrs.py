"""Serves a model folder by the `mistralrs` package from PyPI.

    serve_mistralrs.py FOLDER NAME ADDRESS

It writes its address to the file ADDRESS (the package prints to the standard output) and serves until it is ended. The engine
draws with seeds of its own.
"""

import json
import pathlib
import sys
import threading

import mistralrs
from serving import Answer, serve

# Answers until one has no token whose id cannot be told: few have any.
TRIES = 5


def spelling():
    """The characters by which byte-level vocabularies write bytes that are none of their own (GPT-2's table)."""
    own = [*range(33, 127), *range(161, 173), *range(174, 256)]
    table = {chr(byte): byte for byte in own}
    others = (byte for byte in range(256) if byte not in own)
    table.update({chr(256 + n): byte for n, byte in enumerate(others)})
    return table


def vocabulary(folder):
    """Token ids by their bytes."""
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    table = spelling()
    ids = {
        bytes(table[character] for character in token): number
        for token, number in tokenizer["model"]["vocab"].items()
        if all(character in table for character in token)
    }
    ids.update({added["content"].encode(): added["id"] for added in tokenizer["added_tokens"]})
    return ids


class Model:
    def __init__(self, folder):
        self.ids = vocabulary(folder)
        # The package runs one request at a time and raises an error for a second one.
        self.lock = threading.Lock()
        which = mistralrs.Which.Plain(model_id=str(folder), dtype=mistralrs.ModelDType.F32)
        self.runner = mistralrs.Runner(which=which, no_paged_attn=True)

    def id(self, entry):
        """A drawn token's id. The package only tells those of the likeliest tokens, and no bytes that are no whole character."""
        for top in entry.top_logprobs:
            if (top.logprob, top.bytes) == (entry.logprob, entry.token):
                return top.token
        return self.ids.get(bytes(entry.bytes))

    def answer(self, asked):
        """An answer with a token whose id cannot be told is drawn again."""
        request = mistralrs.ChatCompletionRequest(
            model="default",
            messages=asked["messages"],
            max_tokens=asked["max_tokens"],
            temperature=asked["temperature"],
            top_p=asked["top_p"],
            logprobs=True,
            top_logprobs=asked["top_logprobs"],
        )
        for _ in range(TRIES):
            with self.lock:
                response = self.runner.send_chat_completion_request(request)
            choice = response.choices[0]
            content = choice.logprobs.content
            ids = [self.id(entry) for entry in content]
            if None not in ids:
                break
        return Answer(
            prompt_tokens=response.usage.prompt_tokens,
            text=choice.message.content,
            ids=ids,
            logprobs=[entry.logprob for entry in content],
            tops=[[(top.token, top.logprob) for top in entry.top_logprobs] for entry in content],
            finish_reason=choice.finish_reason,
        )


folder, name, address = pathlib.Path(sys.argv[1]), sys.argv[2], pathlib.Path(sys.argv[3])
serve(name, address, Model(folder).answer)
