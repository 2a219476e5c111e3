"""Models of published packages, small and with random weights: more of `sound_models.py`.

Packages made for Keras 2 run on tf_keras: `green_table.py` sets TF_USE_LEGACY_KERAS.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import keras
import numpy as np
from sound_models import LENGTH, ROWS, SIDE, WORDS, Sound

OLD = "tf_keras"


def words(rng: np.random.Generator) -> Any:
    lengths = rng.integers(2, LENGTH + 1, ROWS)
    return {
        "input_ids": rng.integers(1, WORDS, (ROWS, LENGTH)).astype(np.int32),
        "attention_mask": (np.arange(LENGTH) < lengths[:, None]).astype(np.int32),
    }


def both_sides(rng: np.random.Generator) -> Any:
    sides = {f"decoder_{name}": column for name, column in words(rng).items()}
    return words(rng) | sides


def channels_first(rng: np.random.Generator) -> Any:
    return {"pixel_values": rng.standard_normal((ROWS, 3, SIDE, SIDE), np.float32)}


def sound_waves(rng: np.random.Generator) -> Any:
    return {"input_values": rng.standard_normal((ROWS, 800), np.float32)}


TEXT = {
    "vocab_size": WORDS,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
    "max_position_embeddings": 32,
}
GPT = {"vocab_size": WORDS, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
BART = {
    "vocab_size": WORDS,
    "d_model": 16,
    "encoder_layers": 1,
    "decoder_layers": 2,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 24,
    "decoder_ffn_dim": 24,
    "max_position_embeddings": 32,
    "pad_token_id": 0,
}
PICTURE = {
    "image_size": SIDE,
    "patch_size": 8,
    "hidden_size": 16,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "intermediate_size": 24,
}
STAGES = {"embedding_size": 8, "hidden_sizes": [8, 16], "depths": [1, 2]}

TRANSFORMERS: dict[str, tuple[dict[str, Any], Callable[[np.random.Generator], Any]]] = {
    "Bert": (TEXT, words),
    "Roberta": (TEXT, words),
    "Electra": (TEXT | {"embedding_size": 16}, words),
    "Albert": (TEXT | {"embedding_size": 8}, words),
    "Camembert": (TEXT, words),
    "ConvBert": (TEXT | {"embedding_size": 16}, words),
    "Deberta": (TEXT | {"relative_attention": True}, words),
    "DebertaV2": (TEXT | {"relative_attention": True, "position_buckets": 8}, words),
    "Esm": (TEXT | {"pad_token_id": 0, "mask_token_id": 1}, words),
    "LayoutLM": (TEXT, words),
    "MPNet": (TEXT, words),
    "RemBert": (TEXT | {"input_embedding_size": 8, "output_embedding_size": 8}, words),
    "RoFormer": (TEXT | {"embedding_size": 16}, words),
    "MobileBert": (TEXT | {"embedding_size": 8, "intra_bottleneck_size": 8}, words),
    "DistilBert": (
        {"vocab_size": WORDS, "dim": 16, "n_layers": 2, "n_heads": 2, "hidden_dim": 24},
        words,
    ),
    "GPT2": (GPT, words),
    "OpenAIGPT": (GPT, words),
    "GPTJ": (GPT | {"rotary_dim": 4}, words),
    "CTRL": (GPT | {"dff": 24}, words),
    "OPT": (
        {
            "vocab_size": WORDS,
            "hidden_size": 16,
            "num_hidden_layers": 2,
            "num_attention_heads": 2,
            "ffn_dim": 24,
            "max_position_embeddings": 32,
            "word_embed_proj_dim": 16,
        },
        words,
    ),
    "Mistral": (TEXT | {"num_key_value_heads": 1}, words),
    "Bart": (BART, both_sides),
    "MBart": (BART, both_sides),
    "Marian": (BART | {"decoder_start_token_id": 1}, both_sides),
    "Pegasus": (BART, both_sides),
    "Blenderbot": (BART, both_sides),
    "T5": (
        {"vocab_size": WORDS, "d_model": 16, "d_kv": 8, "d_ff": 24, "num_layers": 2}
        | {"num_heads": 2},
        both_sides,
    ),
    "XLNet": ({"vocab_size": WORDS, "d_model": 16, "n_layer": 2, "n_head": 2}, words),
    "Funnel": (
        {"vocab_size": WORDS, "d_model": 16, "d_head": 8, "n_head": 2, "d_inner": 24}
        | {"block_sizes": [1, 1], "num_decoder_layers": 1},
        words,
    ),
    "ViT": (PICTURE, channels_first),
    "DeiT": (PICTURE, channels_first),
    "Data2VecVision": (PICTURE, channels_first),
    "ConvNext": ({"hidden_sizes": [8, 16], "depths": [1, 2], "num_stages": 2}, channels_first),
    "ConvNextV2": ({"hidden_sizes": [8, 16], "depths": [1, 2], "num_stages": 2}, channels_first),
    "Swin": (
        {"image_size": SIDE, "embed_dim": 8, "depths": [2, 2], "num_heads": [1, 2]}
        | {"window_size": 4},
        channels_first,
    ),
    "ResNet": (STAGES | {"layer_type": "basic"}, channels_first),
    "RegNet": (STAGES | {"groups_width": 4}, channels_first),
    "MobileViT": (
        {"image_size": 64, "hidden_sizes": [16, 16, 16], "neck_hidden_sizes": 7 * [8]}
        | {"num_attention_heads": 2},
        lambda rng: {"pixel_values": rng.standard_normal((ROWS, 3, 64, 64), np.float32)},
    ),
    "Segformer": (
        {"hidden_sizes": [8, 8, 16, 16], "depths": [1, 1, 1, 1]}
        | {"num_attention_heads": [1, 1, 2, 2]},
        channels_first,
    ),
    "Wav2Vec2": (
        TEXT
        | {"conv_dim": [8, 8], "conv_stride": [5, 2], "conv_kernel": [10, 3]}
        | {"num_conv_pos_embeddings": 8, "num_conv_pos_embedding_groups": 2},
        sound_waves,
    ),
}


def transformers() -> Iterator[Sound]:
    import transformers as package

    for name, (options, rows) in TRANSFORMERS.items():

        def build(
            name: str = name,
            options: dict[str, Any] = options,
            rows: Callable[[np.random.Generator], Any] = rows,
        ) -> Any:
            configuration = getattr(package, f"{name}Config")(**options)
            model = getattr(package, f"TF{name}Model")(configuration)
            model(rows(np.random.default_rng(0)))
            return model

        yield Sound("transformers", name, build, rows, generation=OLD)


UNETS = ["unet_2d", "unet_plus_2d", "att_unet_2d", "r2_unet_2d"]


def unets() -> Iterator[Sound]:
    from keras_unet_collection import models

    for name in UNETS:

        def build(name: str = name) -> Any:
            make = getattr(models, name)
            return make((SIDE, SIDE, 3), [8, 12, 16], n_labels=3, batch_norm=True)

        yield Sound("keras-unet-collection", name, build, generation=OLD)


ATTENTION = [
    "lcnet.LCNet050",
    "ghostnet.GhostNet_050",
    "mobilenetv3.MobileNetV3Small050",
    "tinynet.TinyNetE",
    "efficientvit.EfficientViT_M0",
    "mobilevit.MobileViT_XXS",
    "fasternet.FasterNetT0",
    "edgenext.EdgeNeXt_XX_Small",
    "repvit.RepViT_M09",
    "levit.LeViT128S",
    "mlp_family.GMLPTiny16",
    "mlp_family.ResMLP12",
    "cmt.CMTTiny",
    "vanillanet.VanillaNet5",
    "efficientformer.EfficientFormerV2S0",
    "regnet.RegNetY040",
    "coat.CoaTLiteTiny",
    "swin_transformer_v2.SwinTransformerV2Tiny_ns",
]


def attention_models() -> Iterator[Sound]:
    import keras_cv_attention_models as package

    for path in ATTENTION:

        def build(path: str = path) -> Any:
            family, _, name = path.partition(".")
            make = getattr(getattr(package, family), name)
            return make(input_shape=(64, 64, 3), num_classes=5, pretrained=None)

        yield Sound("keras-cv-attention-models", path.partition(".")[2], build, generation=OLD)


KIMM = [
    "LCNet035",
    "MobileNetV3W050Small",
    "MobileNetV2W050",
    "TinyNetE",
    "GhostNetW050",
    "GhostNetV3W050",
    "MobileOneS0",
    "RepVGGA0",
    "RegNetX002",
    "RegNetY002",
    "MobileViTXXS",
    "MobileViTV2W050",
    "EfficientNetLiteB0",
    "ResNet18",
    "ConvNeXtAtto",
    "HGNetV2B0",
    "ConvMixer736D32",
]


def kimm() -> Iterator[Sound]:
    import kimm as package

    for name in KIMM:

        def build(name: str = name) -> Any:
            make = getattr(package.models, name)
            return make(input_shape=(64, 64, 3), weights=None, include_top=False, pooling="avg")

        yield Sound("kimm", name, build)


def temporal() -> Iterator[Sound]:
    import tf_keras
    from tcn import TCN

    for name in ("use_batch_norm", "use_layer_norm"):

        def build(name: str = name) -> Any:
            inputs = tf_keras.Input((20, 3))
            h = TCN(8, dilations=(1, 2, 4), dropout_rate=0.1, **{name: True})(inputs)
            return tf_keras.Model(inputs, tf_keras.layers.Dense(2)(h))

        yield Sound("keras-tcn", name.removeprefix("use_"), build, generation=OLD)


def circuits() -> Iterator[Sound]:
    import ncps.keras
    from ncps.wirings import AutoNCP

    makers = {
        "CfC": lambda: ncps.keras.CfC(8),
        "CfC, wired": lambda: ncps.keras.CfC(AutoNCP(12, 3)),
        "LTC": lambda: ncps.keras.LTC(AutoNCP(12, 3)),
    }
    for name, make in makers.items():

        def build(make: Callable[[], Any] = make) -> Any:
            inputs = keras.Input((LENGTH, 4))
            return keras.Model(inputs, keras.layers.Dense(2)(make()(inputs)))

        yield Sound("ncps", name, build)


def tables() -> Iterator[Sound]:
    import tabnet

    def rows(rng: np.random.Generator) -> Any:
        return rng.standard_normal((ROWS, 6), np.float32)

    for kind in ("batch", "group"):

        def build(kind: str = kind) -> Any:
            sizes = {"feature_dim": 8, "output_dim": 4, "num_decision_steps": 3}
            model = tabnet.TabNetClassifier(
                None, num_classes=3, num_features=6, num_groups=2, norm_type=kind, **sizes
            )
            model(rows(np.random.default_rng(0)))
            return model

        yield Sound("tabnet", f"{kind} norm", build, rows, generation=OLD)


def recommenders() -> Iterator[Sound]:
    import keras_rs

    def crossed() -> Any:
        inputs = h = keras.Input((6,))
        for _ in range(3):
            h = keras_rs.layers.FeatureCross(projection_dim=3)(inputs, h)
        return keras.Model(inputs, keras.layers.Dense(1)(h))

    def dotted() -> Any:
        inputs = [keras.Input((4,), name=name) for name in "abc"]
        h = keras_rs.layers.DotInteraction()(inputs)
        return keras.Model(inputs, keras.layers.Dense(1)(keras.layers.BatchNormalization()(h)))

    yield Sound("keras-rs", "FeatureCross", crossed)
    yield Sound("keras-rs", "DotInteraction", dotted)


CLICKS = ["DeepFM", "xDeepFM", "AutoInt", "DCN", "PNN", "NFM", "WDL", "IFM", "FiBiNET"]
NORMALIZED = CLICKS[:4]
"""Those that take `dnn_use_bn`."""


def clicks() -> Iterator[Sound]:
    from deepctr import models
    from deepctr.feature_column import DenseFeat, SparseFeat

    def rows(rng: np.random.Generator) -> Any:
        coded = {name: rng.integers(0, 9, ROWS).astype(np.int32)[:, None] for name in "abc"}
        return coded | {"price": rng.standard_normal((ROWS, 1), np.float32)}

    for name in CLICKS:

        def build(name: str = name) -> Any:
            features = [SparseFeat(one, 9, embedding_dim=4) for one in "abc"]
            sizes = {"dnn_hidden_units": (8, 4)}
            if name == "PNN":
                return models.PNN(features, **sizes)
            if name in NORMALIZED:
                sizes["dnn_use_bn"] = True
            features.append(DenseFeat("price", 1))
            return getattr(models, name)(features, features, **sizes)

        yield Sound("deepctr", name, build, None if name == "PNN" else rows, generation=OLD)


def faces() -> Iterator[Sound]:
    """With the weights that the package ships."""
    from mtcnn import MTCNN

    for name, side in (("PNet", 24), ("RNet", 24), ("ONet", 48)):

        def build(name: str = name) -> Any:
            stages = {type(stage).__name__: stage for stage in MTCNN().stages}
            return stages[f"Stage{name}"].model

        def rows(rng: np.random.Generator, side: int = side) -> Any:
            return rng.uniform(-1, 1, (ROWS, side, side, 3)).astype(np.float32)

        yield Sound("mtcnn", f"{name}, trained", build, rows, ("float32",), OLD)


def pitches() -> Iterator[Sound]:
    """The SavedModel that the package ships."""
    import basic_pitch
    import tensorflow as tf

    def rows(rng: np.random.Generator) -> Any:
        return rng.uniform(-1, 1, (4, 43844, 1)).astype(np.float32)

    def build() -> Any:
        return tf.saved_model.load(str(basic_pitch.ICASSP_2022_MODEL_PATH))

    yield Sound("basic-pitch", "ICASSP 2022, trained", build, rows, ("float32",), OLD)


def small_layers() -> Iterator[Sound]:
    import tf_keras
    from keras_self_attention import SeqSelfAttention

    def build() -> Any:
        inputs = tf_keras.Input((LENGTH, 4))
        h = tf_keras.layers.Bidirectional(tf_keras.layers.LSTM(4, return_sequences=True))(inputs)
        h = SeqSelfAttention(units=8, attention_activation="sigmoid")(h)
        return tf_keras.Model(inputs, tf_keras.layers.GlobalAveragePooling1D()(h))

    yield Sound("keras-self-attention", "SeqSelfAttention", build, generation=OLD)


def pictures_of_patients() -> Iterator[Sound]:
    from medicai import models

    for name in ("DenseNet121", "EfficientNetV2B0", "ConvNeXtV2Atto"):

        def build(name: str = name) -> Any:
            return getattr(models, name)(
                input_shape=(SIDE, SIDE, 1), num_classes=3, include_top=True
            )

        yield Sound("medicai", name, build)


def larq() -> Iterator[Sound]:
    import larq as package
    import tf_keras

    def build() -> Any:
        inputs = h = tf_keras.Input((SIDE, SIDE, 3))
        for filters in (8, 12):
            h = package.layers.QuantConv2D(
                filters, 3, kernel_quantizer="ste_sign", kernel_constraint="weight_clip"
            )(h)
            h = tf_keras.layers.BatchNormalization(scale=False)(h)
        return tf_keras.Model(inputs, tf_keras.layers.GlobalAveragePooling2D()(h))

    yield Sound("larq", "binary convolutions", build, generation=OLD)


def modules() -> Iterator[Sound]:
    import sonnet

    def pictures(rng: np.random.Generator) -> Any:
        return rng.standard_normal((ROWS, SIDE, SIDE, 3), np.float32)

    def vectors(rng: np.random.Generator) -> Any:
        return rng.standard_normal((ROWS, 8), np.float32)

    class Codes(sonnet.Module):  # type: ignore[misc]
        def __init__(self) -> None:
            super().__init__()
            self.inside, self.outside = sonnet.Linear(8), sonnet.Linear(3)
            self.codes = sonnet.nets.VectorQuantizerEMA(8, 16, 0.25, 0.99)

        def __call__(self, x: Any, is_training: bool) -> Any:
            return self.outside(self.codes(self.inside(x), is_training)["quantize"])

    makers: dict[str, tuple[Callable[[], Any], Any]] = {
        "ResNet": (lambda: sonnet.nets.ResNet([1, 1, 1, 1], 3), pictures),
        "ResNet v2": (lambda: sonnet.nets.ResNet([1, 1, 1, 1], 3, resnet_v2=True), pictures),
        "VectorQuantizerEMA": (Codes, vectors),
    }
    for name, (make, rows) in makers.items():

        def build(make: Callable[[], Any] = make, rows: Any = rows) -> Any:
            model = make()
            model(rows(np.random.default_rng(1)), is_training=True)
            return model

        yield Sound("dm-sonnet", name, build, rows, precisions=("float32",))


PACKAGES: dict[str, Callable[[], Iterator[Sound]]] = {
    "transformers": transformers,
    "deepctr": clicks,
    "keras-rs": recommenders,
    "tabnet": tables,
    "keras-tcn": temporal,
    "keras-unet-collection": unets,
    "mtcnn": faces,
    "basic-pitch": pitches,
    "keras-self-attention": small_layers,
    "larq": larq,
    "ncps": circuits,
    "kimm": kimm,
    "keras-cv-attention-models": attention_models,
    "medicai": pictures_of_patients,
    "dm-sonnet": modules,
}
