"""Published models that must pass: `green_table.py` judges them.

Small random configurations, with random weights. What a package does not draw by itself is drawn
here, from the seed.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import keras
import numpy as np

ROWS, LENGTH, SIDE, WORDS = 8, 12, 32, 50
HALVES = ("float32", "mixed_bfloat16", "mixed_float16")


@dataclass(frozen=True)
class Sound:
    """A model that must pass. `rows` are made from its inputs unless it says how."""

    package: str
    name: str
    build: Callable[[], Any]
    rows: Callable[[np.random.Generator], Any] | None = None
    precisions: tuple[str, ...] = HALVES
    generation: str = "keras"


def rows_of(model: Any, rng: np.random.Generator) -> Any:
    """Rows that fit the inputs of a model: words, masks of random lengths, pictures."""
    inputs = model.input
    if isinstance(inputs, dict):
        return {name: _column(name, tensor, rng) for name, tensor in inputs.items()}
    if isinstance(inputs, (list, tuple)):
        return [_column(tensor.name, tensor, rng) for tensor in inputs]
    return _column(inputs.name, inputs, rng)


def _column(name: str, tensor: Any, rng: np.random.Generator) -> np.ndarray:
    images = len(tensor.shape) == 4
    shape = (ROWS, *(size or (SIDE if images else LENGTH) for size in tensor.shape[1:]))
    kind = keras.backend.standardize_dtype(tensor.dtype)
    if "mask" in name:
        lengths = rng.integers(2, shape[1] + 1, ROWS)
        return (np.arange(shape[1]) < lengths[:, None]).astype(kind)
    if "int" in kind:
        words = "token" in name or "word" in name
        return rng.integers(1, WORDS, shape).astype(kind) if words else np.zeros(shape, kind)
    return rng.standard_normal(shape, np.float32)


# --- keras.applications

SMALLEST = {"InceptionV3": 75, "InceptionResNetV2": 75, "Xception": 71}
BY_SIZE = [
    "MobileNet",
    "MobileNetV2",
    "MobileNetV3Small",
    "VGG16",
    "ResNet50V2",
    "MobileNetV3Large",
    "ResNet50",
    "VGG19",
    "EfficientNetV2B0",
    "EfficientNetB0",
    "Xception",
    "ConvNeXtTiny",
    "DenseNet121",
    "EfficientNetV2B1",
    "InceptionV3",
    "EfficientNetB1",
    "NASNetMobile",
    "EfficientNetV2B2",
    "EfficientNetB2",
    "DenseNet169",
    "ConvNeXtSmall",
    "EfficientNetV2B3",
    "EfficientNetB3",
    "DenseNet201",
    "ResNet101V2",
    "ResNet101",
    "InceptionResNetV2",
    "EfficientNetV2S",
    "EfficientNetB4",
    "ResNet152V2",
    "ResNet152",
    "ConvNeXtBase",
    "EfficientNetV2M",
    "EfficientNetB5",
    "ConvNeXtLarge",
    "EfficientNetB6",
    "NASNetLarge",
    "ConvNeXtXLarge",
    "EfficientNetV2L",
    "EfficientNetB7",
]
"""What is judged fast comes first."""


def applications() -> Iterator[Sound]:
    for name in BY_SIZE:

        def build(name: str = name) -> Any:
            side = SMALLEST.get(name, SIDE)
            make = getattr(keras.applications, name)
            model = make(
                input_shape=(side, side, 3), weights=None, include_top=False, pooling="avg"
            )
            pictures = np.random.default_rng(0).standard_normal((64, side, side, 3), np.float32)
            for layer in model.layers:
                if isinstance(layer, keras.layers.Normalization) and layer.input_mean is None:
                    layer.adapt(pictures)
            return model

        yield Sound("keras.applications", name, build)


# --- KerasHub

WRITTEN = [
    "Bert",
    "Roberta",
    "DistilBert",
    "XLMRoberta",
    "DebertaV3",
    "Electra",
    "FNet",
    "GPT2",
    "OPT",
    "Bloom",
    "GPTNeoX",
    "Albert",
    "ESM",
    "ESM2",
    "RoformerV2",
    "T5",
    "Bart",
    "XLNet",
    "Falcon",
    "EdRec",
    "Llama",
    "Llama3",
    "Mistral",
    "Mixtral",
    "Gemma",
    "Gemma3",
    "Phi3",
    "Qwen",
    "Qwen2",
    "Qwen3",
    "QwenMoe",
    "Qwen3Moe",
    "GptOss",
    "SmolLM3",
    "T5Gemma",
]


def drawn(seed: int, **fixed: Any) -> dict[str, Any]:
    """Sizes of a small transformer, by all the names under which families know them."""
    rng = np.random.default_rng(seed)
    layers, heads = int(rng.integers(1, 4)), 2 * int(rng.integers(1, 3))
    width = int(rng.choice([8, 12]))
    hidden = heads * width
    sizes = {
        ("vocabulary_size", "vocab_size"): WORDS,
        ("num_layers", "num_layers_enc", "num_layers_dec", "encoder_num_layers"): layers,
        ("decoder_num_layers",): layers,
        ("num_heads", "num_attention_heads", "num_query_heads"): heads,
        ("encoder_num_attention_heads", "decoder_num_attention_heads"): heads,
        ("num_key_value_heads", "encoder_num_key_value_heads"): heads // 2,
        ("decoder_num_key_value_heads",): heads // 2,
        ("head_dim", "head_size", "encoder_head_dim", "decoder_head_dim"): width,
        ("hidden_dim", "encoder_hidden_dim", "decoder_hidden_dim", "embedding_dim"): hidden,
        ("intermediate_dim", "moe_intermediate_dim"): int(rng.integers(20, 50)),
        ("encoder_intermediate_dim", "decoder_intermediate_dim"): 2 * hidden,
        ("shared_expert_intermediate_dim",): 20,
        ("num_experts",): 4,
        ("top_k",): 2,
        ("image_size",): 16,
        ("encoder_layer_types", "decoder_layer_types"): layers * ["full_attention"],
        ("layer_types",): layers * ["full_attention"],
        ("rope_layer_enabled_list",): layers * [True],
        ("attention_bias", "mlp_bias"): False,
        ("attention_dropout",): 0.1,
        ("max_position_embeddings", "max_sequence_length"): 32,
        ("rope_theta",): 10000.0,
        ("partial_rotary_factor",): 1.0,
        ("rotary_percentage",): 0.5,
        ("layer_norm_epsilon",): 1e-5,
    }
    return {name: value for names, value in sizes.items() for name in names} | fixed


PICTURES: dict[str, dict[str, Any]] = {
    "ResNet": {
        "input_conv_filters": [8],
        "input_conv_kernel_sizes": [7],
        "stackwise_num_filters": [64, 12],
        "stackwise_num_blocks": [1, 2],
        "stackwise_num_strides": [1, 2],
        "block_type": "bottleneck_block",
    },
    "DenseNet": {"stackwise_num_repeats": [2, 3], "growth_rate": 6},
    "VGG": {"stackwise_num_repeats": [1, 2], "stackwise_num_filters": [8, 12]},
    "Xception": {
        "stackwise_conv_filters": [[8, 16], [16, 24], [32, 32]],
        "stackwise_pooling": [True, True, False],
    },
    "CSPNet": {
        "stem_filters": 8,
        "stem_kernel_size": 3,
        "stem_strides": 2,
        "stackwise_depth": [1, 2],
        "stackwise_strides": [1, 2],
        "stackwise_num_filters": [8, 16],
        "block_type": "dark_block",
        "stage_type": "dark",
    },
    "ViT": {"patch_size": 8, "num_layers": 2, "num_heads": 2, "hidden_dim": 16, "mlp_dim": 24},
    "DeiT": {
        "patch_size": 8,
        "num_layers": 2,
        "num_heads": 2,
        "hidden_dim": 16,
        "intermediate_dim": 24,
    },
    "DINOV2": {
        "patch_size": 8,
        "num_layers": 2,
        "num_heads": 2,
        "hidden_dim": 16,
        "intermediate_dim": 24,
        "position_embedding_shape": (SIDE, SIDE),
    },
    "DINOV3": {
        "patch_size": 8,
        "num_layers": 2,
        "num_heads": 2,
        "hidden_dim": 16,
        "intermediate_dim": 24,
    },
    "SwinTransformer": {"embed_dim": 8, "depths": [2, 2], "num_heads": [1, 2], "window_size": 4},
    "ViTDet": {
        "hidden_size": 16,
        "num_layers": 2,
        "intermediate_dim": 24,
        "num_heads": 2,
        "global_attention_layer_indices": [1],
        "patch_size": 8,
        "num_output_channels": 8,
        "window_size": 2,
    },
    "MiT": {
        "layerwise_depths": [1, 2],
        "num_layers": 2,
        "layerwise_num_heads": [1, 2],
        "layerwise_sr_ratios": [4, 2],
        "max_drop_path_rate": 0.1,
        "layerwise_patch_sizes": [7, 3],
        "layerwise_strides": [4, 2],
        "hidden_dims": [8, 16],
    },
    "EfficientNet": {
        "stackwise_width_coefficients": [1.0, 1.0],
        "stackwise_depth_coefficients": [1.0, 1.0],
        "stackwise_kernel_sizes": [3, 5],
        "stackwise_num_repeats": [1, 2],
        "stackwise_input_filters": [8, 8],
        "stackwise_output_filters": [8, 16],
        "stackwise_expansion_ratios": [1, 4],
        "stackwise_squeeze_and_excite_ratios": [0.25, 0.25],
        "stackwise_strides": [1, 2],
        "stackwise_block_types": ["v1", "v1"],
        "num_features": 32,
    },
    "MobileNet": {
        "stackwise_expansion": [[8], [16, 24]],
        "stackwise_num_blocks": [1, 2],
        "stackwise_num_filters": [[8], [12, 12]],
        "stackwise_kernel_size": [[3], [5, 5]],
        "stackwise_num_strides": [[2], [2, 1]],
        "stackwise_se_ratio": [[0.25], [None, 0.25]],
        "stackwise_activation": [["relu"], ["hard_swish", "hard_swish"]],
        "stackwise_padding": [[1], [2, 2]],
        "output_num_filters": 32,
        "depthwise_filters": 8,
        "depthwise_stride": 2,
        "depthwise_residual": False,
        "last_layer_filter": 24,
    },
    "HGNetV2": {
        "depths": [1, 1],
        "embedding_size": 8,
        "hidden_sizes": [16, 24],
        "stem_channels": [3, 8, 8],
        "hidden_act": "relu",
        "use_learnable_affine_block": True,
        "stackwise_stage_filters": [[8, 8, 16, 1, 2, 3], [16, 8, 24, 1, 2, 3]],
        "apply_downsample": [False, True],
        "use_lightweight_conv_block": [False, True],
    },
}


def hub() -> Iterator[Sound]:
    import keras_hub

    def make(family: str, **options: Any) -> Any:
        return getattr(keras_hub.models, f"{family}Backbone")(**options)

    for family in PICTURES:
        picture = {"image_shape": (SIDE, SIDE, 3)}
        if family == "EfficientNet":
            picture = {"input_shape": (SIDE, SIDE, 3)}
        options = PICTURES[family] | picture
        yield Sound("keras-hub", family, lambda f=family, o=options: make(f, **o))
    for seed in range(2):
        for family in WRITTEN:
            if not hasattr(keras_hub.models, f"{family}Backbone"):
                continue
            kind = getattr(keras_hub.models, f"{family}Backbone")
            known = set(inspect.signature(kind.__init__).parameters)
            options = {n: value for n, value in drawn(seed).items() if n in known}
            yield Sound("keras-hub", f"{family} {seed}", lambda f=family, o=options: make(f, **o))


# --- all


def all_of(only: list[str]) -> Iterator[Sound]:
    """The models of the packages, or of `only` some."""
    from published_packages import PACKAGES

    packages = {"keras-hub": hub, "keras.applications": applications, **PACKAGES}
    for package in only or packages:
        yield from packages[package]()


def built(sound: Sound, precision: str) -> Any:
    """The model with seeded weights, under a policy."""
    if sound.generation == "keras":
        library, configuration = keras, keras.config
        choose, chosen = configuration.set_dtype_policy, configuration.dtype_policy
    else:
        import tf_keras as library

        policies = library.mixed_precision
        choose, chosen = policies.set_global_policy, policies.global_policy
    library.utils.set_random_seed(0)
    before = chosen()
    choose(precision)
    try:
        return sound.build()
    finally:
        choose(before)


def forget() -> None:
    """Let go of what the libraries keep of a model."""
    keras.backend.clear_session()
    if "tf_keras" in sys.modules:
        sys.modules["tf_keras"].backend.clear_session()
