"""Serves a model folder of the Llama family by llama.cpp, as the `xllamacpp` package from PyPI brings it.

    serve_llama.py FOLDER NAME FORMAT ADDRESS

FORMAT is that of the weights: f32, f16, bf16 or q8_0. It writes its address to the file ADDRESS and serves until it is ended.
The engine draws with seeds of its own, and answers up to PARALLEL requests at once.
"""

import json
import pathlib
import sys
import tempfile

import gguf
import xllamacpp
from safetensors.numpy import load_file
from serving import Answer, Prompts, serve

PARALLEL = 8
# Answers until all tokens of one are told: few lack any.
TRIES = 5
FORMATS = {
    "f32": (gguf.GGMLQuantizationType.F32, gguf.LlamaFileType.ALL_F32),
    "f16": (gguf.GGMLQuantizationType.F16, gguf.LlamaFileType.MOSTLY_F16),
    "bf16": (gguf.GGMLQuantizationType.BF16, gguf.LlamaFileType.MOSTLY_BF16),
    "q8_0": (gguf.GGMLQuantizationType.Q8_0, gguf.LlamaFileType.MOSTLY_Q8_0),
}


def interleaved(weights, heads):
    """llama.cpp rotates neighbours, where the published weights are for rotating halves."""
    rows = weights.shape[0]
    return weights.reshape(heads, 2, rows // heads // 2, -1).swapaxes(1, 2).reshape(weights.shape)


def convert(folder, name, number_format, path):
    """Writes the folder's model as GGUF."""
    config = json.loads((folder / "config.json").read_text())
    if config["model_type"] != "llama":
        sys.exit(f"{folder} holds a model of type {config['model_type']}: only llama is converted")
    heads, shared = config["num_attention_heads"], config["num_key_value_heads"]
    quantisation, file_type = FORMATS[number_format]
    writer = gguf.GGUFWriter(path, "llama")
    writer.add_name(name)
    writer.add_file_type(file_type)
    writer.add_context_length(config["max_position_embeddings"])
    writer.add_embedding_length(config["hidden_size"])
    writer.add_block_count(config["num_hidden_layers"])
    writer.add_feed_forward_length(config["intermediate_size"])
    writer.add_head_count(heads)
    writer.add_head_count_kv(shared)
    writer.add_layer_norm_rms_eps(config["rms_norm_eps"])
    writer.add_rope_freq_base(config["rope_theta"])
    writer.add_rope_dimension_count(config["hidden_size"] // heads)
    writer.add_vocab_size(config["vocab_size"])
    vocabulary(folder, config, writer)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    for tensor, weights in load_file(folder / "model.safetensors").items():
        weights = weights.astype("float32")
        if tensor.endswith("q_proj.weight"):
            weights = interleaved(weights, heads)
        elif tensor.endswith("k_proj.weight"):
            weights = interleaved(weights, shared)
        # Vectors are kept as they are, as llama.cpp's own converter does.
        kind = quantisation if weights.ndim > 1 else FORMATS["f32"][0]
        packed = gguf.quants.quantize(weights, kind)
        writer.add_tensor(names.get_name(tensor, try_suffixes=(".weight", ".bias")), packed, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


def vocabulary(folder, config, writer):
    tokenizer = json.loads((folder / "tokenizer.json").read_text())
    ids = dict(tokenizer["model"]["vocab"])
    special = {added["content"]: added["id"] for added in tokenizer["added_tokens"]}
    ids.update(special)
    spelt = {number: token for token, number in ids.items()}
    known = set(special.values())
    kinds = gguf.TokenType
    tokens = [spelt.get(number, f"[unused{number}]") for number in range(config["vocab_size"])]
    writer.add_tokenizer_model("gpt2")
    writer.add_tokenizer_pre("gpt-2")
    writer.add_token_list(tokens)
    writer.add_token_types(
        [
            kinds.CONTROL if number in known else kinds.NORMAL if number in spelt else kinds.UNUSED
            for number in range(len(tokens))
        ]
    )
    writer.add_token_merges([merge if isinstance(merge, str) else " ".join(merge) for merge in tokenizer["model"]["merges"]])
    settings = json.loads((folder / "tokenizer_config.json").read_text())
    writer.add_bos_token_id(special[settings["bos_token"]])
    writer.add_eos_token_id(special[settings["eos_token"]])
    writer.add_add_bos_token(False)


class Model:
    def __init__(self, folder, path):
        self.prompts = Prompts(folder)
        context = json.loads((folder / "config.json").read_text())["max_position_embeddings"]
        params = xllamacpp.CommonParams()
        params.model.path = path
        params.n_parallel = PARALLEL
        params.n_ctx = PARALLEL * context
        params.warmup = False
        self.server = xllamacpp.Server(params)

    def answer(self, asked):
        # Everything but the temperature is switched off, as are its drafts and what it keeps of earlier prompts.
        request = {
            "prompt": self.prompts.tokens(asked["messages"]),
            "n_predict": asked["max_tokens"],
            "temperature": asked["temperature"],
            "samplers": ["temperature"],
            "seed": asked["seed"] % 2**32,
            "n_probs": asked["top_logprobs"],
            "cache_prompt": False,
        }
        for _ in range(TRIES):
            given = self.server.handle_completions(request)
            if "error" in given:
                raise RuntimeError(given["error"])
            choice = given["choices"][0]
            tokens = choice["logprobs"]["content"]
            # Tokens that end within a character are counted but not told.
            if len(tokens) == given["usage"]["completion_tokens"]:
                break
            request["seed"] = (request["seed"] + 1) % 2**32
        return Answer(
            prompt_tokens=given["usage"]["prompt_tokens"],
            text=choice["text"],
            ids=[token["id"] for token in tokens],
            logprobs=[token["logprob"] for token in tokens],
            tops=[[(top["id"], top["logprob"]) for top in token["top_logprobs"]] for token in tokens],
            finish_reason=choice["finish_reason"],
        )


folder, name, number_format, address = pathlib.Path(sys.argv[1]), sys.argv[2], sys.argv[3], pathlib.Path(sys.argv[4])
with tempfile.TemporaryDirectory() as work:
    path = f"{work}/{number_format}.gguf"
    convert(folder, name, number_format, path)
    model = Model(folder, path)
serve(name, address, model.answer)
