"""A small vision-language backbone: the directory that LeRobot's `vlm_model_name` names, for smolvla-small.

LeRobot takes the sizes of SmolVLM and its tokenizer from such a directory. This one has SmolVLM's topology with a head
width of 64 as in the original, about 1.5 M parameters, and a byte-level tokenizer that knows the words of the tasks.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers, trainers

IMAGE_SIZE = 96
SPECIAL = {
    "global_image_token": "<global-img>",
    "fake_image_token": "<fake_token_around_image>",
    "image_token": "<image>",
    "end_of_utterance_token": "<end_of_utterance>",
}


_MOST_TOKENS = 4096


def _tokenizer(texts: Sequence[str]) -> Tokenizer:
    words = [
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        *sorted(pre_tokenizers.ByteLevel.alphabet()),
    ]
    bpe = models.BPE(vocab={word: i for i, word in enumerate(words)}, merges=[], unk_token="<|endoftext|>")
    tokenizer = Tokenizer(bpe)
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    if texts:
        trainer = trainers.BpeTrainer(
            vocab_size=_MOST_TOKENS, special_tokens=words[:3], show_progress=False,
            initial_alphabet=sorted(pre_tokenizers.ByteLevel.alphabet()),
        )  # fmt: skip
        tokenizer.train_from_iterator(texts, trainer)
    tokenizer.add_special_tokens(
        [AddedToken(t, special=True, normalized=False) for t in (*words[:3], *SPECIAL.values())]
    )
    return tokenizer


def _config(tokenizer: Tokenizer, vision_mlp: int) -> dict[str, Any]:
    vocab = tokenizer.get_vocab_size()
    text = {
        "architectures": ["VLlama3ForCausalLM"],
        "model_type": "llama",
        "head_dim": 64,
        "hidden_size": 128,
        "intermediate_size": 384,
        "max_position_embeddings": 512,
        "num_attention_heads": 2,
        "num_hidden_layers": 4,
        "num_key_value_heads": 1,
        "pad_token_id": 2,
        "rms_norm_eps": 1e-5,
        "rope_theta": 100000,
        "torch_dtype": "float32",
        "vocab_size": vocab,
    }
    vision = {
        "model_type": "smolvlm_vision",
        "hidden_size": 128,
        "image_size": IMAGE_SIZE,
        "intermediate_size": vision_mlp,
        "num_attention_heads": 2,
        "num_hidden_layers": 4,
        "patch_size": 16,
        "max_image_size": {"longest_edge": IMAGE_SIZE},
        "size": {"longest_edge": IMAGE_SIZE},
        "tie_word_embeddings": False,
        "use_base_siglip": False,
    }
    return {
        "architectures": ["SmolVLMForConditionalGeneration"],
        "model_type": "smolvlm",
        "image_token_id": tokenizer.token_to_id(SPECIAL["image_token"]),
        "pad_token_id": 2,
        "scale_factor": 2,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "use_cache": False,
        "vocab_size": vocab,
        "text_config": text,
        "vision_config": vision,
    }


def write_vlm(directory: Path, texts: Sequence[str] = (), vision_mlp: int = 384) -> None:
    """Write config.json, the processor's files and the tokenizer into `directory` (created if missing).

    texts: instructions as LeRobot hands them to the tokenizer, whose words are then one token each; without them every
    byte is one. vision_mlp: width of the vision encoder's hidden layers.
    """
    tokenizer = _tokenizer(texts)
    half = [0.5, 0.5, 0.5]
    edge = {"longest_edge": IMAGE_SIZE}
    files: dict[str, dict[str, Any]] = {
        "config.json": _config(tokenizer, vision_mlp),
        "preprocessor_config.json": {
            "image_processor_type": "SmolVLMImageProcessor",
            "processor_class": "SmolVLMProcessor",
            **dict.fromkeys(("do_convert_rgb", "do_image_splitting", "do_normalize", "do_pad"), True),
            **dict.fromkeys(("do_rescale", "do_resize"), True),
            "image_mean": half,
            "image_std": half,
            "max_image_size": edge,
            "size": edge,
            "resample": 1,
            "rescale_factor": 1 / 255,
            "video_sampling": {"fps": 1, "max_frames": 64, "video_size": edge},
        },
        "processor_config.json": {"image_seq_len": 9, "processor_class": "SmolVLMProcessor"},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "processor_class": "SmolVLMProcessor",
            "bos_token": "<|im_start|>",
            "eos_token": SPECIAL["end_of_utterance_token"],
            "pad_token": "<|im_end|>",
            "unk_token": "<|endoftext|>",
            "model_max_length": 512,
            "truncation_side": "left",
            "extra_special_tokens": SPECIAL,
            **SPECIAL,
        },
    }
    directory.mkdir(parents=True, exist_ok=True)
    tokenizer.save(str(directory / "tokenizer.json"))
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content, indent=2) + "\n", encoding="utf-8")
