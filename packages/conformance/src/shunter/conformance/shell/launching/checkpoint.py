"""Models and LoRA adapters as files in the layout of Hugging Face, which vLLM and SGLang load."""

import json
import struct
from collections.abc import Iterable
from pathlib import Path

from shunter.conformance.sections.servers.target import Adapter
from shunter.conformance.shell.launching.tokens import BEGIN, CHAT_TEMPLATE, END, MERGES, TOKENS, UNKNOWN
from shunter.conformance.shell.launching.weights import HEAD, Shape, Tensor, noise, tensors

__all__ = ["ADAPTED", "ADAPTER_RANK", "write_adapters", "write_checkpoint"]

ADAPTER_RANK = 8

# What an adapter adds is as large as what it is added to: its answers are others.
ADAPTER_ALPHA = 16
ADAPTED = ("q_proj", "v_proj")

ADAPTER_NAMES = ("lora-a", "lora-b", "lora-c", "lora-d")

# Safetensors: the header is as long as its first eight bytes say, and its names of types are its own.
HEADER_LENGTH = struct.Struct("<Q")
BFLOAT16 = "BF16"


def write_checkpoint(directory: Path, shape: Shape) -> Path:
    """Write a model with its tokenizer into a directory of its own; returns that."""
    home = directory / shape.name
    home.mkdir()
    _write_json(home / "config.json", _config(shape))
    _write_json(home / "tokenizer.json", _tokenizer())
    _write_json(
        home / "tokenizer_config.json",
        {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "unk_token": UNKNOWN,
            "bos_token": BEGIN,
            "eos_token": END,
            "pad_token": END,
            "model_max_length": shape.context_tokens,
            "clean_up_tokenization_spaces": False,
            "chat_template": CHAT_TEMPLATE,
        },
    )
    _write_tensors(home / "model.safetensors", list(tensors(shape)))
    return home


def write_adapters(directory: Path, shape: Shape) -> tuple[Adapter, ...]:
    """Write some LoRA adapters for a model, as peft does, each into a directory of its own."""
    return tuple(_write_adapter(directory / name, name, shape) for name in ADAPTER_NAMES)


def _write_adapter(home: Path, name: str, shape: Shape) -> Adapter:
    home.mkdir()
    weights: list[Tensor] = []
    for layer in range(shape.layers):
        for projection in ADAPTED:
            place = f"base_model.model.model.layers.{layer}.self_attn.{projection}"
            for half, rows, columns in (("A", ADAPTER_RANK, shape.width), ("B", shape.width, ADAPTER_RANK)):
                made = noise(f"{name} {place}.lora_{half}.weight", rows, columns)
                weights.append(Tensor(made.name.removeprefix(f"{name} "), rows, columns, made.data))
    _write_tensors(home / "adapter_model.safetensors", weights)
    _write_json(
        home / "adapter_config.json",
        {
            "peft_type": "LORA",
            "task_type": "CAUSAL_LM",
            "base_model_name_or_path": shape.name,
            "r": ADAPTER_RANK,
            "lora_alpha": ADAPTER_ALPHA,
            "lora_dropout": 0.0,
            "target_modules": list(ADAPTED),
            "bias": "none",
            "fan_in_fan_out": False,
            "inference_mode": True,
            "modules_to_save": None,
            "use_dora": False,
            "use_rslora": False,
        },
    )
    return Adapter(name, str(home))


def _config(shape: Shape) -> dict[str, object]:
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(TOKENS),
        "hidden_size": shape.width,
        "intermediate_size": shape.inner,
        "num_hidden_layers": shape.layers,
        "num_attention_heads": shape.heads,
        "num_key_value_heads": shape.heads,
        "head_dim": HEAD,
        "hidden_act": "silu",
        "max_position_embeddings": shape.context_tokens,
        "rms_norm_eps": 1e-5,
        "rope_theta": 10000.0,
        "attention_bias": False,
        "mlp_bias": False,
        "tie_word_embeddings": False,
        "bos_token_id": TOKENS.index(BEGIN),
        "eos_token_id": TOKENS.index(END),
        "torch_dtype": "bfloat16",
    }


def _tokenizer() -> dict[str, object]:
    special = (UNKNOWN, BEGIN, END)
    flags = {"single_word": False, "lstrip": False, "rstrip": False, "normalized": False, "special": True}
    bytewise = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True}
    return {
        "version": "1.0",
        "truncation": None,
        "padding": None,
        "added_tokens": [{"id": TOKENS.index(token), "content": token, **flags} for token in special],
        "normalizer": None,
        "pre_tokenizer": bytewise,
        "post_processor": None,
        "decoder": bytewise,
        "model": {
            "type": "BPE",
            "dropout": None,
            "unk_token": UNKNOWN,
            "continuing_subword_prefix": None,
            "end_of_word_suffix": None,
            "fuse_unk": False,
            "byte_fallback": False,
            "vocab": {token: number for number, token in enumerate(TOKENS)},
            "merges": [" ".join(pair) for pair in MERGES.values()],
        },
    }


def _write_json(path: Path, document: dict[str, object]) -> None:
    path.write_text(json.dumps(document, ensure_ascii=False, indent=1), encoding="utf-8")


def _write_tensors(path: Path, weights: Iterable[Tensor]) -> None:
    """Write the safetensors format: lengths and places of all tensors as JSON, then their bytes."""
    header: dict[str, object] = {"__metadata__": {"format": "pt"}}
    end = 0
    for each in weights:
        begin, end = end, end + len(each.data)
        shape = [each.columns] if each.flat else [each.rows, each.columns]
        header[each.name] = {"dtype": BFLOAT16, "shape": shape, "data_offsets": [begin, end]}
    text = json.dumps(header).encode()
    with path.open("wb") as file:
        file.write(HEADER_LENGTH.pack(len(text)) + text)
        file.writelines(each.data for each in weights)
