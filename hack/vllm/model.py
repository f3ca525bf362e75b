"""Make a Llama with random weights whose tokens are bytes: nothing is downloaded, and its answers are noise."""

import argparse

import torch
from tokenizers import Tokenizer, decoders, models, pre_tokenizers
from transformers import LlamaConfig, LlamaForCausalLM, PreTrainedTokenizerFast

HEAD = 64
SPECIAL = ("<unk>", "<s>", "</s>")
CHAT = "{% for message in messages %}{{ message.role }}: {{ message.content }}\n{% endfor %}assistant: "


def tokenizer() -> PreTrainedTokenizerFast:
    names = (*SPECIAL, *sorted(pre_tokenizers.ByteLevel.alphabet()))
    bytewise = Tokenizer(models.BPE({name: number for number, name in enumerate(names)}, [], unk_token=SPECIAL[0]))
    bytewise.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    bytewise.decoder = decoders.ByteLevel()
    unknown, begin, end = SPECIAL
    made = PreTrainedTokenizerFast(tokenizer_object=bytewise, unk_token=unknown, bos_token=begin, eos_token=end, pad_token=end)
    made.chat_template = CHAT
    return made


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out")
    parser.add_argument("--hidden", type=int, default=128)
    parser.add_argument("--layers", type=int, default=2)
    args = parser.parse_args()
    tokens = tokenizer()
    heads = max(1, args.hidden // HEAD)
    torch.manual_seed(0)
    model = LlamaForCausalLM(
        LlamaConfig(
            # The recorder's token ids go up to 300.
            vocab_size=max(320, len(tokens)),
            hidden_size=args.hidden,
            intermediate_size=3 * args.hidden,
            num_hidden_layers=args.layers,
            num_attention_heads=heads,
            num_key_value_heads=heads,
            head_dim=HEAD,
            max_position_embeddings=4096,
            bos_token_id=1,
            eos_token_id=2,
        )
    )
    tokens.save_pretrained(args.out)
    model.to(torch.float32).save_pretrained(args.out)
    print(f"{args.out}: {sum(weights.numel() for weights in model.parameters()) / 1e6:.1f} M parameters")


if __name__ == "__main__":
    main()
