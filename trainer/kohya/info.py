"""What any LoRA file is, whoever made it: read off its header alone, so a folder of them is quickly listed."""

from __future__ import annotations

import hashlib
import json
import struct
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from trainer.errors import UserError
from trainer.kohya.file import CORE, Header, Metadata, module_shapes, read_header

# Kinds by the tensors that only they have, the most particular first.
KINDS = {
    "LoKr": ("lokr_w1", "lokr_w1_a"),
    "LoHa": ("hada_w1_a",),
    "OFT": ("oft_blocks", "oft_diag"),
    "(IA)³": ("on_input",),
    "GLoRA": ("a1.weight",),
    "full difference": ("diff",),
    "DoRA": ("dora_scale", "lora_magnitude_vector", "lora_magnitude_vector.weight"),
}
TUCKER = "LoCon (Tucker-decomposed)"
# Whether a tool loads a file, by naming; measured with the tools' own loaders on synthetic files.
TOOLS = {
    "kohya": {"A1111, Forge": "yes", "ComfyUI": "yes", "diffusers": "yes"},
    "kohya, diffusers blocks": {"A1111, Forge": "all but one convolution", "ComfyUI": "yes", "diffusers": "yes"},
    "diffusers": {"A1111, Forge": "no", "ComfyUI": "about half of it", "diffusers": "yes"},
    "PEFT": {"A1111, Forge": "no", "ComfyUI": "no", "diffusers": "no"},
}
FAMILIES = {"sd_v1": "SD 1.5", "sd_v2": "SD 2.x", "sdxl": "SDXL", "flux": "Flux", "sd3": "SD 3"}
CONTEXT_WIDTHS = {768: "SD 1.5", 1024: "SD 2.x", 2048: "SDXL"}  # of what cross-attention reads


@dataclass(frozen=True)
class LoraInfo:
    """What a LoRA file is, as `inspect` shows it."""

    path: Path
    family: str
    kind: str  # LoRA, LoCon, LoHa, LoKr, DoRA …
    naming: str  # a key of TOOLS, or unknown
    modules: dict[str, int]  # component -> number of modules
    ranks: dict[int, int]  # rank -> number of modules
    alphas: dict[float, int]
    dtype: str
    size: int  # bytes
    sha256: str
    model_hash: str  # what infotext calls the LoRA's hash: 12 digits
    triggers: tuple[str, ...]
    tags: tuple[tuple[str, int], ...]  # most frequent first
    tools: dict[str, str]  # tool -> yes, no or what is lost
    warnings: tuple[str, ...]
    metadata: Metadata

    def lines(self) -> Iterator[tuple[str, str]]:
        """(label, value) pairs for the terminal."""
        yield "File", f"{self.path} ({self.size / 2**20:.1f} MB)"
        yield "Made for", self.family
        yield "Kind", f"{self.kind}, {self.naming} names, {self.dtype}"
        yield "Modules", ", ".join(f"{n} {component}" for component, n in self.modules.items()) or "none"
        yield "Rank", _counted(self.ranks) or "none: its matrices are whole"
        yield "Alpha", _counted(self.alphas) if self.alphas else "none stored (tools take scale 1)"
        yield "Hash", f"{self.model_hash} (file: {self.sha256[:10]})"
        if self.triggers:
            yield "Trigger words", ", ".join(self.triggers)
        if self.tags:
            yield "Frequent tags", ", ".join(f"{tag} {count}" for tag, count in self.tags[:12])
        yield from self._training()
        for tool, answer in self.tools.items():
            yield f"Loads in {tool}", answer
        for warning in self.warnings:
            yield "Careful", warning

    def _training(self) -> Iterator[tuple[str, str]]:
        names = {
            "ss_sd_model_name": "Base model",
            "ss_epoch": "Epoch",
            "ss_steps": "Steps",
            "ss_learning_rate": "Learning rate",
            "ss_optimizer": "Optimizer",
            "ss_resolution": "Resolution",
            "ss_clip_skip": "Clip skip",
        }
        for key, label in names.items():
            if self.metadata.get(key, "None") != "None":
                yield label, self.metadata[key]


def describe(path: Path) -> LoraInfo:
    """Say what any LoRA file is, from its header. Raises UserError when it is broken or no LoRA."""
    path = Path(path)
    header = read_header(path)
    naming = _naming(header)
    if naming is None:
        content = f"its first tensor is {min(header.shapes)!r}" if header.shapes else "it is empty"
        raise UserError(f"{path} is not a LoRA: none of its tensors is a LoRA's ({content}).")
    kind = _kind(header)
    family = _family(header)
    sha256, body = _hashes(path, header.start)
    return LoraInfo(
        path=path,
        family=family,
        kind=kind,
        naming=naming,
        modules=_components(header),
        ranks=_ranks(header),
        alphas=_alphas(path, header),
        dtype=", ".join(dict.fromkeys(header.dtypes[key] for key in header.shapes if not key.endswith("alpha"))),
        size=path.stat().st_size,
        sha256=sha256,
        model_hash=(header.metadata.get("sshs_model_hash") or body)[:12],
        triggers=_triggers(header.metadata),
        tags=_tags(header.metadata),
        tools=_tools(family, kind, naming),
        warnings=tuple(_warnings(header, kind, naming, family, body)),
        metadata=header.metadata,
    )


def _counted(values: dict) -> str:
    if len(values) == 1:
        return f"{next(iter(values)):g}"
    return ", ".join(f"{value:g} ({count} modules)" for value, count in sorted(values.items()))


def _naming(header: Header) -> str | None:
    keys = list(header.shapes)
    if any(key.startswith("base_model.model.") for key in keys):
        return "PEFT"
    if any(key.startswith(("unet.", "text_encoder", "transformer.")) and ".lora" in key for key in keys):
        return "diffusers"
    if not any(key.startswith(("lora_unet_", "lora_te", "lycoris_")) for key in keys):
        return "unknown" if any(".lora" in key or "hada_" in key or "lokr_" in key for key in keys) else None
    new = any(key.startswith("lora_unet_down_blocks_") for key in keys)
    return "kohya, diffusers blocks" if new and _is_xl_named(header) else "kohya"


def _is_xl_named(header: Header) -> bool:
    """By name or by shape: an SDXL LoRA of the UNet alone may use the same names as one for SD 1.5."""
    named = any(key.startswith(("lora_te1_", "lora_te2_", "lora_unet_input_blocks_")) for key in header.shapes)
    version = header.metadata.get("ss_base_model_version", "")
    return named or version.startswith("sdxl") or _context_width(header) == 2048


def _kind(header: Header) -> str:
    endings = {ending for key in header.shapes for ending in _endings(key)}
    for kind, signs in KINDS.items():
        if endings & set(signs):
            return kind
    shapes = [shape for key, shape in header.shapes.items() if ".lora_mid." in key or _is_down(key)]
    wide = any(len(shape) == 4 and shape[2:] != (1, 1) for shape in shapes)
    if any(key.endswith(CORE) for key in header.shapes):
        return TUCKER
    return "LoCon" if wide else "LoRA"


def _endings(key: str) -> tuple[str, str]:
    """The last one and the last two words: `dora_scale`, `a1.weight`."""
    words = key.split(".")
    return words[-1], ".".join(words[-2:])


def _is_down(key: str) -> bool:
    return key.endswith((".lora_down.weight", ".lora_A.weight", ".lora.down.weight", ".lora_A.default.weight"))


def _context_width(header: Header) -> int | None:
    """How wide the text is that the UNet's cross-attention reads, from any naming."""
    for key, shape in header.shapes.items():
        if "attn2" in key and "to_k" in key:
            if _is_down(key) or key.endswith("hada_w1_b"):
                return shape[-1]
            if key.endswith(("lokr_w1", "lokr_w1_b")):  # the two factors' widths multiply
                name = key.partition(".")[0]
                other = header.shapes.get(f"{name}.lokr_w2") or header.shapes.get(f"{name}.lokr_w2_b")
                return shape[-1] * other[-1] if other else None
    return None


def _family(header: Header) -> str:
    keys = list(header.shapes)
    if any("double_blocks" in key or "single_transformer_blocks" in key for key in keys):
        return "Flux"
    if any("joint_blocks" in key for key in keys):
        return "SD 3"
    width = _context_width(header)
    by_shape = CONTEXT_WIDTHS.get(width or 0)
    if by_shape:
        return by_shape
    version = header.metadata.get("ss_base_model_version", "")
    named = next((title for prefix, title in FAMILIES.items() if version.startswith(prefix)), "")
    named = named or ("SDXL" if _is_xl_named(header) else "SD 1.5" if any("lora_te_" in key for key in keys) else "")
    if named and width:
        return f"{named} in miniature (its text is {width} wide)"
    return named or "unknown"


def _components(header: Header) -> dict[str, int]:
    titles = {
        "lora_unet": "UNet",
        "lora_te1": "text encoder 1",
        "lora_te2": "text encoder 2",
        "lora_te": "text encoder",
        "unet": "UNet",
        "text_encoder_2": "text encoder 2",
        "text_encoder": "text encoder",
        "transformer": "transformer",
        "base_model": "of an unnamed part",
    }
    found: Counter[str] = Counter()
    for module in _modules(header):
        prefix = next((prefix for prefix in titles if module.startswith((prefix + "_", prefix + "."))), "")
        found[titles.get(prefix, "other")] += 1
    return dict(found)


def _modules(header: Header) -> dict[str, None]:
    """Names of the modules in the file's order, each once."""
    marks = (".lora", ".hada_", ".lokr_", ".alpha", ".dora_scale", ".diff", ".oft_", ".on_input", ".a1.")
    cut = (min((at for mark in marks if (at := key.find(mark)) > 0), default=0) for key in header.shapes)
    return dict.fromkeys(key[:at] for key, at in zip(header.shapes, cut, strict=True) if at)


def _ranks(header: Header) -> dict[int, int]:
    ranks = Counter(shape[0] for key, shape in header.shapes.items() if _is_down(key) and shape)
    ranks.update(shape[0] for key, shape in header.shapes.items() if key.endswith(("hada_w1_b", "lokr_w2_b")))
    return dict(ranks.most_common())


def _alphas(path: Path, header: Header) -> dict[float, int]:
    found: Counter[float] = Counter()
    with open(path, "rb") as file:
        for key in header.shapes:
            if key.endswith(".alpha") and header.dtypes[key] in ("F32", "F16", "BF16", "F64"):
                start, end = header.offsets[key]
                file.seek(start)
                found[_number(file.read(end - start), header.dtypes[key])] += 1
    return dict(found.most_common())


def _number(data: bytes, dtype: str) -> float:
    if dtype == "BF16":  # the upper half of a float32
        data, dtype = b"\0\0" + data[:2], "F32"
    code = {"F16": "<e", "F32": "<f", "F64": "<d"}[dtype]
    return struct.unpack_from(code, data)[0]


def _hashes(path: Path, start: int) -> tuple[str, str]:
    """SHA-256 of the whole file and of what stands behind its header."""
    whole, body = hashlib.sha256(), hashlib.sha256()
    with open(path, "rb") as file:
        whole.update(file.read(start))
        while block := file.read(1 << 22):
            whole.update(block)
            body.update(block)
    return whole.hexdigest(), body.hexdigest()


def _json(metadata: Metadata, key: str) -> Any:
    """A JSON entry of metadata that anyone may have written; {} when it is absent or broken."""
    try:
        return json.loads(metadata.get(key) or "{}")
    except ValueError:
        return {}


def _tags(metadata: Metadata) -> tuple[tuple[str, int], ...]:
    counts: Counter[str] = Counter()
    folders = _json(metadata, "ss_tag_frequency")
    for tags in folders.values() if isinstance(folders, dict) else ():
        for tag, count in tags.items() if isinstance(tags, dict) else ():
            if isinstance(count, int):
                counts[tag.strip()] += count
    return tuple(counts.most_common())


def _triggers(metadata: Metadata) -> tuple[str, ...]:
    """The stated trigger phrase, or else up to three tags that stand with every picture."""
    phrase = metadata.get("modelspec.trigger_phrase", "").strip()
    if phrase:
        return (phrase,)
    folders = _json(metadata, "ss_dataset_dirs")
    entries = folders.values() if isinstance(folders, dict) else ()
    counts = [entry.get("img_count") for entry in entries if isinstance(entry, dict)]
    pictures = sum(count for count in counts if isinstance(count, int))
    return tuple(tag for tag, count in _tags(metadata) if pictures and count >= pictures)[:3]


def _tools(family: str, kind: str, naming: str) -> dict[str, str]:
    if not family.startswith(("SD 1.5", "SD 2.x", "SDXL")):
        return dict.fromkeys(TOOLS["kohya"], "not known")
    answers = dict(TOOLS.get(naming, dict.fromkeys(TOOLS["kohya"], "not known")))
    if kind in (TUCKER, "LoHa", "LoKr", "OFT", "(IA)³", "GLoRA", "full difference"):
        answers["diffusers"] = "no"
    if kind == "DoRA":
        answers["diffusers"] = "yes, but without its magnitudes: another picture"
    return answers


def _warnings(header: Header, kind: str, naming: str, family: str, body: str) -> Iterator[str]:
    modules = module_shapes(header.shapes)
    halves = [name for name, (_, up) in modules.items() if not up]
    if halves:
        yield f"{halves[0]} lacks its lora_up.weight: A1111 refuses the file, ComfyUI loads part of it."
    scaled = any(key.endswith(".alpha") for key in header.shapes)
    if naming.startswith("kohya") and kind in ("LoRA", "LoCon", TUCKER) and not scaled:
        yield "no alpha is stored, so A1111 and ComfyUI take scale 1."
    for key, shape in header.shapes.items():
        if key.endswith("dora_scale") and len(shape) == 2 and shape[1] == 1 and shape[0] != 1:
            yield "its DoRA magnitudes lie along the output: A1111 and ComfyUI read them along the input, 10 % off."
            break
    stored = header.metadata.get("sshs_model_hash")
    if stored and stored != body:
        yield "the tensors are not those that the stored hash was made of: the file was changed afterwards."
    if family == "SDXL" and not header.metadata.get("ss_base_model_version", "sdxl_").startswith("sdxl_"):
        yield "its metadata names another base than its shapes do: A1111 may hide it for SDXL models."
