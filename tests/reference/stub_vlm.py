"""Writes a SmolVLM2 directory without weights: configuration, processor and a synthetic byte-level
tokenizer.

The full size has the published configuration of SmolVLM2-500M-Video-Instruct and its vocabulary
layout; the other sizes have the same topology. Runs in the environment where LeRobot is installed.
"""

from __future__ import annotations

import copy
import json
from pathlib import Path
from typing import Any

from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

TEXT: dict[str, Any] = {
    "architectures": ["VLlama3ForCausalLM"],
    "model_type": "llama",
    "head_dim": 64,
    "hidden_size": 960,
    "intermediate_size": 2560,
    "max_position_embeddings": 8192,
    "num_attention_heads": 15,
    "num_hidden_layers": 32,
    "num_key_value_heads": 5,
    "pad_token_id": 2,
    "pixel_shuffle_factor": 4,
    "rms_norm_eps": 1e-5,
    "rope_theta": 100000,
    "torch_dtype": "bfloat16",
    "vocab_size": 49280,
    "rope_interleaved": False,
    "qk_layer_norms": False,
    "use_resampler": False,
    "is_llama_config": True,
    "neftune_noise_alpha": 0.0,
}
VISION: dict[str, Any] = {
    "model_type": "smolvlm_vision",
    "hidden_size": 768,
    "image_size": 512,
    "num_attention_heads": 12,
    "patch_size": 16,
    "max_image_size": {"longest_edge": 512},
    "size": {"longest_edge": 2048},
    "tie_word_embeddings": False,
    "use_base_siglip": False,
}
SMALL_TEXT = {
    "hidden_size": 64,
    "intermediate_size": 128,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
    "num_hidden_layers": 4,
}
SMALL_VISION = {
    "hidden_size": 48,
    "image_size": 64,
    "num_attention_heads": 4,
    "intermediate_size": 96,
    "num_hidden_layers": 2,
}
TINY_TEXT = SMALL_TEXT | {
    "hidden_size": 24,
    "intermediate_size": 32,
    "num_attention_heads": 3,
    "num_key_value_heads": 1,
    "head_dim": 8,
}
TINY_VISION = SMALL_VISION | {
    "hidden_size": 16,
    "image_size": 32,
    "patch_size": 8,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
SPECIAL = ["<fake_token_around_image>", "<image>", "<end_of_utterance>"]


def write_vlm(directory: Path, size: str) -> None:
    """Write the directory for `size`: "full", "small" (11.4 of the recipe) or "tiny" (a small
    vocabulary as well).
    """
    directory.mkdir(parents=True, exist_ok=True)
    text, vision, scale = copy.deepcopy(TEXT), copy.deepcopy(VISION), 4
    words = 49152
    if size != "full":
        text |= SMALL_TEXT if size == "small" else TINY_TEXT
        vision |= SMALL_VISION if size == "small" else TINY_VISION
        scale = 2
    if size == "tiny":
        words = 264
    tokenizer = _tokenizer(words)
    text["vocab_size"] = tokenizer.get_vocab_size()
    config = {
        "architectures": ["SmolVLMForConditionalGeneration"],
        "model_type": "smolvlm",
        "image_token_id": tokenizer.token_to_id("<image>"),
        "pad_token_id": 128002 if size == "full" else 2,
        "scale_factor": scale,
        "tie_word_embeddings": False,
        "torch_dtype": "float32",
        "use_cache": False,
        "vocab_size": text["vocab_size"],
        "text_config": text,
        "vision_config": vision,
    }
    longest = {"longest_edge": vision["image_size"]}
    files: dict[str, Any] = {
        "config.json": config,
        "preprocessor_config.json": dict.fromkeys(
            (
                "do_convert_rgb",
                "do_image_splitting",
                "do_normalize",
                "do_pad",
                "do_rescale",
                "do_resize",
            ),
            True,
        )
        | {
            "image_mean": [0.5] * 3,
            "image_std": [0.5] * 3,
            "image_processor_type": "SmolVLMImageProcessor",
            "processor_class": "SmolVLMProcessor",
            "max_image_size": longest,
            "size": {"longest_edge": 2048},
            "resample": 1,
            "rescale_factor": 1 / 255,
            "video_sampling": {"fps": 1, "max_frames": 64, "video_size": longest},
        },
        "processor_config.json": {"image_seq_len": 64, "processor_class": "SmolVLMProcessor"},
        "tokenizer_config.json": {
            "tokenizer_class": "PreTrainedTokenizerFast",
            "bos_token": "<|im_start|>",
            "eos_token": "<end_of_utterance>",
            "pad_token": "<|im_end|>",
            "unk_token": "<|endoftext|>",
            "model_max_length": 8192,
            "processor_class": "SmolVLMProcessor",
            "truncation_side": "left",
            "fake_image_token": SPECIAL[0],
            "global_image_token": "<global-img>",
            "image_token": SPECIAL[1],
            "end_of_utterance_token": SPECIAL[2],
            "extra_special_tokens": {
                "fake_image_token": SPECIAL[0],
                "global_image_token": "<global-img>",
                "image_token": SPECIAL[1],
                "end_of_utterance_token": SPECIAL[2],
            },
            "additional_special_tokens": SPECIAL,
        },
    }
    for name, content in files.items():
        (directory / name).write_text(json.dumps(content, indent=1))
    tokenizer.save(str(directory / "tokenizer.json"), pretty=False)


def _tokenizer(words: int) -> Tokenizer:
    """Byte-level BPE without merges: `words` ordinary ids, then special tokens in the published
    order.
    """
    entries = [
        "<|endoftext|>",
        "<|im_start|>",
        "<|im_end|>",
        *sorted(pre_tokenizers.ByteLevel.alphabet()),
    ]
    entries += [f"<u{i}>" for i in range(len(entries), words)]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(entries)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    added = [
        "<global-img>",
        *(f"<row_{r}_col_{c}>" for r in range(1, 7) for c in range(1, 7)),
        *SPECIAL[:2],
    ]
    added += [f"<|reserved_special_token_{i}|>" for i in range(88)] if words > 40000 else []
    tokenizer.add_special_tokens([AddedToken(t, special=True, normalized=False) for t in [*added, SPECIAL[2]]])
    return tokenizer
