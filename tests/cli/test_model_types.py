"""Targets `transformers:TYPE`: built from a configuration, run on drawn inputs, nothing fetched."""

from __future__ import annotations

import pytest
import torch
import transformers

from leadline.cli.config import parse_config
from leadline.cli.load import Loaded, load_target
from leadline.program import Program, trace
from leadline.program.inputs import validate
from refusals import refused

TEXT = "hidden_size=32,intermediate_size=64,num_hidden_layers=2,num_attention_heads=2"
PAIR = (
    "encoder_layers=1,decoder_layers=1,encoder_attention_heads=2,decoder_attention_heads=2,"
    "encoder_ffn_dim=32,decoder_ffn_dim=32"
)
TOWER = "{'hidden_size':32,'intermediate_size':64,'num_hidden_layers':1,'num_attention_heads':2"
# type, config, class, shapes of the drawn inputs at seq 16
CASES = [
    ("gpt2", "n_layer=2,n_embd=32,n_head=2,vocab_size=100", "GPT2LMHeadModel", {"input_ids": (2, 16)}),
    ("llama", f"{TEXT},vocab_size=100", "LlamaForCausalLM", {"input_ids": (2, 16)}),
    ("bert", f"{TEXT},vocab_size=100", "BertForMaskedLM", {"input_ids": (2, 16)}),
    ("bert", f"{TEXT},vocab_size=100,is_decoder=True", "BertLMHeadModel", {"input_ids": (2, 16)}),
    (
        "roberta",
        f"{TEXT},vocab_size=100,max_position_embeddings=18",
        "RobertaForMaskedLM",
        {"input_ids": (2, 16)},
    ),
    (
        "vit",
        f"{TEXT},image_size=(32,16),patch_size=8",
        "ViTForImageClassification",
        {"pixel_values": (2, 3, 32, 16)},
    ),
    (
        "resnet",
        "hidden_sizes=(16,32),depths=(1,1),embedding_size=16,layer_type=basic",
        "ResNetForImageClassification",
        {"pixel_values": (2, 3, 64, 64)},
    ),
    (
        "convnext",
        "hidden_sizes=(16,32),depths=(1,1),num_stages=2,num_channels=1,image_size=32",
        "ConvNextForImageClassification",
        {"pixel_values": (2, 1, 32, 32)},
    ),
    (
        "deit",
        f"{TEXT},image_size=32,patch_size=8",
        "DeiTForImageClassification",
        {"pixel_values": (2, 3, 32, 32)},
    ),
    ("vit_mae", f"{TEXT},image_size=32,patch_size=8", "ViTMAEModel", {"pixel_values": (2, 3, 32, 32)}),
    (
        "t5",
        "d_model=32,d_ff=64,num_layers=2,num_heads=2,d_kv=16,vocab_size=100",
        "T5ForConditionalGeneration",
        {"input_ids": (2, 16), "decoder_input_ids": (2, 16)},
    ),
    (
        "bart",
        f"d_model=32,vocab_size=60,{PAIR}",
        "BartForConditionalGeneration",
        {"input_ids": (2, 16), "decoder_input_ids": (2, 16)},
    ),
    (
        "mamba",
        "hidden_size=32,num_hidden_layers=2,vocab_size=100,state_size=4",
        "MambaForCausalLM",
        {"input_ids": (2, 16)},
    ),
    (
        "wav2vec2",
        f"{TEXT},conv_dim=(16,16),conv_kernel=(10,3),conv_stride=(5,2),num_feat_extract_layers=2,"
        "num_conv_pos_embeddings=16,num_conv_pos_embedding_groups=4",
        "Wav2Vec2ForCTC",
        {"input_values": (2, 170)},
    ),
    (
        "whisper",
        f"d_model=32,max_source_positions=20,vocab_size=60,pad_token_id=0,decoder_start_token_id=1,{PAIR}",
        "WhisperForConditionalGeneration",
        {"input_features": (2, 80, 40), "decoder_input_ids": (2, 16)},
    ),
    (
        "clip",
        f"text_config={TOWER},'vocab_size':100}},vision_config={TOWER},'image_size':32,'patch_size':8}}",
        "CLIPModel",
        {"input_ids": (2, 16), "pixel_values": (2, 3, 32, 32)},
    ),
]
GPT2 = {"n_layer": 1, "n_embd": 16, "n_head": 2, "vocab_size": 50}


def load(model_type: str, config: str, **options: int) -> Loaded:
    size = {"image_size": 64} if model_type == "resnet" else {}
    return load_target(f"transformers:{model_type}", config=parse_config(config), **{"seq": 16, **size, **options})


@pytest.mark.parametrize(("model_type", "config", "kind", "shapes"), CASES, ids=[f"{c[0]}-{c[2]}" for c in CASES])
def test_type_is_built_and_runs(model_type: str, config: str, kind: str, shapes: dict[str, tuple[int, ...]]) -> None:
    loaded = load(model_type, config)
    assert type(loaded.model).__name__ == kind
    assert loaded.args == ()
    assert {n: tuple(v.shape) for n, v in loaded.kwargs.items()} == shapes
    assert not loaded.model.training
    assert getattr(loaded.model.config, "use_cache", False) is False
    for name, value in loaded.kwargs.items():
        if name.endswith("ids"):
            pad = getattr(loaded.model.config, "pad_token_id", None)
            assert pad is None or not (value == pad).any()
            assert value.dtype == torch.int64
            assert len(value.unique()) > 3
        elif value.numel() > 1000:
            assert abs(value.mean()) < 5 / value.numel() ** 0.5
            assert abs(value.var() - 1) < 5 * (2 / value.numel()) ** 0.5
    validate(loaded.model, loaded.args, loaded.kwargs)


def test_ids_cover_the_vocabulary_but_for_padding() -> None:
    loaded = load_target("transformers:bert", config=parse_config(f"{TEXT},vocab_size=8,pad_token_id=3"), batch_size=8)
    assert loaded.kwargs["input_ids"].unique().tolist() == [0, 1, 2, 4, 5, 6, 7]


def test_defaults_seed_and_attention() -> None:
    before = torch.get_rng_state()
    first, again, other = (load_target("transformers:gpt2", config=GPT2, seed=s) for s in (0, 0, 1))
    assert torch.equal(torch.get_rng_state(), before)
    assert first.name == "transformers:gpt2"
    assert first.kwargs["input_ids"].shape == (2, 64)
    assert first.model.config._attn_implementation == "sdpa"
    state, same = first.model.state_dict(), again.model.state_dict()
    assert all(torch.equal(v, same[k]) for k, v in state.items())
    assert torch.equal(first.kwargs["input_ids"], again.kwargs["input_ids"])
    assert not torch.equal(first.kwargs["input_ids"], other.kwargs["input_ids"])
    assert not torch.equal(state["transformer.wte.weight"], other.model.state_dict()["transformer.wte.weight"])
    eager = load_target("transformers:gpt2", config={**GPT2, "attn_implementation": "eager", "use_cache": True})
    assert eager.model.config._attn_implementation == "eager"
    assert eager.model.config.use_cache is True
    short = load_target("transformers:gpt2", config={**GPT2, "n_positions": 8})
    assert short.kwargs["input_ids"].shape == (2, 8)
    half = load_target("transformers:vit", config=parse_config(f"{TEXT},image_size=16,patch_size=8,dtype=bfloat16"))
    assert half.model.vit.layernorm.weight.dtype == half.kwargs["pixel_values"].dtype == torch.bfloat16


def test_caches_are_off_in_the_parts_of_a_model_too() -> None:
    text = "{'hidden_size':32,'intermediate_size':64,'num_hidden_layers':1,'num_attention_heads':2,'vocab_size':100%s}"
    vision = TOWER + ",'image_size':16,'patch_size':8}"
    for more, cached in ((",'use_cache':True", True), ("", False)):
        config = parse_config(f"text_config={text % more},vision_config={vision},image_token_index=99")
        loaded = load_target("transformers:llava", config=config, seq=8)
        assert loaded.model.config.text_config.use_cache is cached
    assert isinstance(trace(loaded.model, kwargs=loaded.kwargs), Program)


def test_the_hub_is_out_of_reach_while_building(monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    from leadline.cli import model_types

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", False)
    seen = []
    build = model_types._build
    monkeypatch.setattr(model_types, "_build", lambda *a: seen.append(constants.HF_HUB_OFFLINE) or build(*a))
    load_target("transformers:gpt2", config=GPT2)
    assert seen == [True]
    assert constants.HF_HUB_OFFLINE is False


@pytest.mark.parametrize(
    ("name", "said"),
    [
        ("openai-community/gpt2", "is a hub id or a path"),
        ("./checkpoint", "is a hub id or a path"),
        ("~/checkpoint", "is a hub id or a path"),
        ("..", "is a hub id or a path"),
        ("C:\\models", "is a hub id or a path"),
        ("https://huggingface.co/gpt2", "is a URL"),
        ("gpt 2", "is no name of a model type"),
        ("", "is no name of a model type"),
        ("gtp2", "did you mean 'gpt2'"),
        ("GPT2", "did you mean 'gpt2'"),
        ("convnex", "did you mean 'convnext'"),
    ],
)
def test_what_is_no_model_type(name: str, said: str) -> None:
    with refused(f"'transformers:{name}'" if "did you" not in said else f"no model type '{name}'", said):
        load_target(f"transformers:{name}")


@pytest.mark.parametrize(
    ("setting", "said"),
    [
        ({"n_layr": 2}, "'gpt2' has no config 'n_layr' (got n_layr=2): did you mean 'n_layer'"),
        ({"trust_remote_code": True}, "config 'trust_remote_code' is refused"),
        ({"auto_map": {"AutoModel": "x--y.Z"}}, "config 'auto_map' is refused"),
        ({"pad_token_id": {"auto_map": 1}}, "config 'auto_map' is refused"),
        ({"_name_or_path": "gpt2"}, "config '_name_or_path' is refused"),
        ({"activation_function": "org/kernel"}, "looks like a hub id or a path"),
        ({"attn_implementation": "org/kernel"}, "looks like a hub id or a path"),
        ({"attn_implementation": "flash_attention_2"}, "use sdpa or eager"),
        ({"n_layer": "two"}, "refuses n_layer='two'"),
        ({"n_embd": 15, "n_head": 2}, "could not build 'gpt2'"),
        ({"activation_function": "no_such"}, "could not build 'gpt2'"),
        ({"n_embd": 240_000, "n_layer": 3}, "GiB of weights"),
    ],
    ids=lambda value: next(iter(value)) if isinstance(value, dict) else "",
)
def test_refused_settings(setting: dict[str, object], said: str) -> None:
    with refused(said):
        load_target("transformers:gpt2", config={"n_layer": 1, **setting})


def test_parts_of_models_and_missing_libraries(monkeypatch: pytest.MonkeyPatch) -> None:
    with refused("'llama4_vision_model' is a part of a model with no class of its own"):
        load_target("transformers:llama4_vision_model")

    def no_library(*_: object, **__: object) -> None:
        raise ImportError("\nThis model requires the timm library. Install it.\nRestart after.")

    monkeypatch.setattr(transformers.AutoModelForCausalLM, "from_config", no_library)
    with refused("'gpt2' needs a library that cannot be imported (ImportError: This model requires the timm library"):
        load_target("transformers:gpt2", config=GPT2)


def test_refused_sizes_and_inputs() -> None:
    with refused("seq is 2000, expected at most the 1024 positions"):
        load_target("transformers:gpt2", config=GPT2, seq=2000)
    with refused("batch_size is 0, expected at least 1"):
        load_target("transformers:gpt2", config=GPT2, batch_size=0)
    with refused("seq is -1"):
        load_target("transformers:gpt2", config=GPT2, seq=-1)
    with refused("vocab_size is 1, expected a token besides padding"):
        load_target("transformers:gpt2", config={**GPT2, "vocab_size": 1, "pad_token_id": 0})
    with refused("image_size is 64, expected the 32 of the model's configuration", "--config image_size=64"):
        load("vit", f"{TEXT},image_size=32,patch_size=8", image_size=64)
    with refused("takes 'past_values'", "whose function returns (model, batch)"):
        load("patchtst", "num_hidden_layers=1,d_model=16,num_attention_heads=2,ffn_dim=16")
