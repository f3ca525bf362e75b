"""Make the configuration of a LLaVA whose tokens are bytes, a picture 16 of them: its weights are vLLM's dummy ones."""

import argparse
from pathlib import Path

import msgspec
from model import HEAD, tokenizer
from transformers import CLIPVisionConfig, LlamaConfig, LlavaConfig

PICTURE = "<image>"
SIZE, PATCH = 56, 14
CHAT = (
    "{% for message in messages %}{{ message.role }}: "
    "{% if message.content is string %}{{ message.content }}{% else %}{% for part in message.content %}"
    "{% if part.type == 'image' %}<image>{% else %}{{ part.text }}{% endif %}{% endfor %}{% endif %}\n"
    "{% endfor %}assistant: "
)
PROCESSOR = {
    "processor_class": "LlavaProcessor",
    "image_token": PICTURE,
    "patch_size": PATCH,
    "vision_feature_select_strategy": "default",
    "num_additional_image_tokens": 1,
}
PREPROCESSOR = {
    "image_processor_type": "CLIPImageProcessor",
    "size": {"shortest_edge": SIZE},
    "crop_size": {"height": SIZE, "width": SIZE},
    **dict.fromkeys(("do_convert_rgb", "do_resize", "do_center_crop", "do_rescale", "do_normalize"), True),
    "rescale_factor": 1 / 255,
    "image_mean": [0.5] * 3,
    "image_std": [0.25] * 3,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    out: Path = parser.parse_args().out
    tokens = tokenizer()
    tokens.add_tokens([PICTURE], special_tokens=True)
    tokens.chat_template = CHAT
    tokens.save_pretrained(out)
    small = {"hidden_size": 2 * HEAD, "intermediate_size": 6 * HEAD, "num_hidden_layers": 2, "num_attention_heads": 2}
    LlavaConfig(
        architectures=["LlavaForConditionalGeneration"],
        vision_config=CLIPVisionConfig(image_size=SIZE, patch_size=PATCH, **small),
        text_config=LlamaConfig(vocab_size=320, max_position_embeddings=4096, bos_token_id=1, eos_token_id=2, **small),
        image_token_index=tokens.convert_tokens_to_ids(PICTURE),
    ).save_pretrained(out)
    for name, content in {"processor_config": PROCESSOR, "preprocessor_config": PREPROCESSOR}.items():
        (out / f"{name}.json").write_bytes(msgspec.json.encode(content))
    print(f"{out}: a picture is {(SIZE // PATCH) ** 2} tokens")


if __name__ == "__main__":
    main()
