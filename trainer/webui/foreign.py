"""What ComfyUI and InvokeAI leave in a picture, turned into an infotext as far as it has a place there."""

import json
from collections.abc import Iterator, Mapping
from pathlib import PurePosixPath

from trainer.errors import UserError
from trainer.webui.infotext import Infotext, ordered
from trainer.webui.samplers import resolve


def _object(text: str) -> dict | None:
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def _sampler(name: object, schedule: object = None) -> dict[str, object]:
    """Sampler and Schedule type by A1111's labels; a name that has none there is kept as it is."""
    try:
        sampler, label = resolve(str(name), None if schedule is None else str(schedule))
    except UserError:
        return {"Sampler": name, "Schedule type": schedule}
    return {"Sampler": sampler.label, "Schedule type": label}


def _stem(name: object) -> str | None:
    """`sd/photon.safetensors` → `photon`."""
    if not isinstance(name, str) or not name:
        return None
    path = PurePosixPath(name.replace("\\", "/"))
    return path.stem if path.suffix in (".safetensors", ".ckpt", ".pt", ".bin", ".pth") else path.name


def _lora_tag(name: object, unet: object, te: object = None) -> str:
    weights = [unet] if te is None or te == unet else [te, unet]
    return "<lora:" + ":".join([str(_stem(name)), *map(str, weights)]) + ">"


def _size(width: object, height: object) -> str | None:
    return f"{width}x{height}" if isinstance(width, int) and isinstance(height, int) else None


def _number(value: object) -> object | None:
    return value if isinstance(value, int | float) and not isinstance(value, bool) else None


# ── ComfyUI ────────────────────────────────────────────────────────────────────────────────────────────


class _Workflow:
    """The `prompt` of a ComfyUI picture: nodes {id: {class_type, inputs}}; a link is [id, slot]."""

    def __init__(self, nodes: dict):
        self.nodes = {str(key): node for key, node in nodes.items() if isinstance(node, dict)}

    def inputs(self, key: str) -> dict:
        inputs = self.nodes.get(key, {}).get("inputs")
        return inputs if isinstance(inputs, dict) else {}

    def kind(self, key: str) -> str:
        return str(self.nodes.get(key, {}).get("class_type", ""))

    def link(self, value: object) -> str | None:
        """The id of the node that a linked input comes from."""
        if isinstance(value, list) and value and str(value[0]) in self.nodes:
            return str(value[0])
        return None

    def upstream(self, value: object) -> Iterator[str]:
        """Every node that feeds an input, nearest first."""
        seen, queue = set(), [self.link(value)]
        while queue:
            key = queue.pop(0)
            if key is None or key in seen:
                continue
            seen.add(key)
            yield key
            queue += [self.link(entry) for entry in self.inputs(key).values()]

    def value(self, value: object, names: tuple[str, ...]) -> object:
        """A plain value, or the first one with such a name among the nodes that feed the input."""
        if self.link(value) is None:
            return value
        for key in self.upstream(value):
            for name in names:
                found = self.inputs(key).get(name)
                if isinstance(found, str | int | float) and not isinstance(found, bool):
                    return found
        return None

    def text(self, value: object) -> str:
        """The prompt behind a conditioning input: the nearest text above it."""
        for key in self.upstream(self._through_pairs(value)):
            inputs = self.inputs(key)
            for name in ("text", "text_g", "string", "prompt", "value"):
                if isinstance(inputs.get(name), str):
                    return inputs[name]
        return ""

    def _through_pairs(self, value: object) -> object:
        """Past nodes that hand on a positive and a negative conditioning (ControlNet), on the right side."""
        for _ in self.nodes:
            inputs = self.inputs(self.link(value) or "")
            if "positive" not in inputs or "negative" not in inputs:
                break
            value = inputs["negative" if value[1:2] == [1] else "positive"]
        return value

    def samplers(self) -> list[str]:
        """Sampler nodes, those that start from an empty latent before those that refine."""
        found = [key for key in self.nodes if "Sampler" in self.kind(key) and self._samples(key)]
        feeding = {key: sum(other != key for other in self._samplers_above(key, found)) for key in found}
        return sorted(found, key=lambda key: feeding[key])

    def _samples(self, key: str) -> bool:
        inputs = self.inputs(key)
        return "latent_image" in inputs or "positive" in inputs or "guider" in inputs

    def _samplers_above(self, key: str, samplers: list[str]) -> list[str]:
        latent = self.inputs(key).get("latent_image")
        return [above for above in self.upstream(latent) if above in samplers]


def read_comfyui(text: str) -> Infotext | None:
    """From the `prompt` chunk: the first sampler's settings, and a second one's as a hires pass.

    Its weights `(a:1.2)` are kept as text, though ComfyUI applies them otherwise.
    """
    nodes = _object(text)
    flow = _Workflow(nodes) if nodes else None
    samplers = flow.samplers() if flow else []
    if not samplers:
        return None
    inputs = _sampler_inputs(flow, samplers[0])
    loras = " ".join(_comfyui_loras(flow, inputs.get("model")))
    prompt = flow.text(inputs.get("positive"))
    settings = {
        "Steps": _number(flow.value(inputs.get("steps"), ("steps", "value"))),
        **_sampler(
            flow.value(inputs.get("sampler_name"), ("sampler_name",)),
            flow.value(inputs.get("scheduler"), ("scheduler",)),
        ),
        "CFG scale": _number(flow.value(inputs.get("cfg"), ("cfg", "guidance", "value"))),
        "Seed": _number(flow.value(inputs.get("seed"), ("seed", "noise_seed", "value"))),
        "Size": _comfyui_size(flow, inputs.get("latent_image")),
        "Model": _comfyui_model(flow, inputs.get("model")),
        "RNG": "CPU",
    }
    if len(samplers) > 1:
        settings |= _comfyui_hires(flow, _sampler_inputs(flow, samplers[-1]))
    negative = flow.text(inputs.get("negative"))
    return Infotext(" ".join(filter(None, [prompt, loras])), negative, ordered(settings))


def _sampler_inputs(flow: _Workflow, key: str) -> dict:
    """The inputs of a sampler node; SamplerCustomAdvanced has them spread over the nodes that it links."""
    inputs = dict(flow.inputs(key))
    for part in ("guider", "sigmas", "sampler", "noise"):
        linked = flow.link(inputs.get(part))
        if linked:
            inputs = flow.inputs(linked) | inputs
    if "conditioning" in inputs:
        inputs.setdefault("positive", inputs["conditioning"])
    if "noise_seed" in inputs:
        inputs.setdefault("seed", inputs["noise_seed"])
    return inputs


def _comfyui_loras(flow: _Workflow, model: object) -> list[str]:
    tags = []
    for key in flow.upstream(model):
        inputs = flow.inputs(key)
        if isinstance(inputs.get("lora_name"), str):
            unet = inputs.get("strength_model", 1.0)
            tags.insert(0, _lora_tag(inputs["lora_name"], unet, inputs.get("strength_clip")))
    return tags


def _comfyui_model(flow: _Workflow, model: object) -> str | None:
    for key in flow.upstream(model):
        name = flow.inputs(key).get("ckpt_name") or flow.inputs(key).get("unet_name")
        if isinstance(name, str):
            return _stem(name)
    return None


def _comfyui_size(flow: _Workflow, latent: object) -> str | None:
    for key in flow.upstream(latent):
        inputs = flow.inputs(key)
        width = flow.value(inputs.get("width"), ("width", "value"))
        size = _size(width, flow.value(inputs.get("height"), ("height", "value")))
        if size:
            return size
    return None


def _comfyui_hires(flow: _Workflow, inputs: dict) -> dict[str, object]:
    settings = {
        "Denoising strength": _number(inputs.get("denoise")),
        "Hires steps": _number(flow.value(inputs.get("steps"), ("steps",))),
    }
    for key in flow.upstream(inputs.get("latent_image")):
        upscale = flow.inputs(key)
        if _number(upscale.get("scale_by")):
            settings["Hires upscale"] = upscale["scale_by"]
        elif "Upscale" in flow.kind(key) and _size(upscale.get("width"), upscale.get("height")):
            settings["Hires resize"] = _size(upscale["width"], upscale["height"])
        else:
            continue
        return settings | {"Hires upscaler": upscale.get("upscale_method")}
    return settings


# ── InvokeAI ───────────────────────────────────────────────────────────────────────────────────────────


def read_invokeai(text: str) -> Infotext | None:
    """From the `invokeai_metadata` chunk (InvokeAI 3 and later)."""
    data = _object(text)
    if not data or "positive_prompt" not in data:
        return None
    model = data.get("model") if isinstance(data.get("model"), Mapping) else {}
    scheduler = str(data.get("scheduler") or "euler")
    settings = {
        "Steps": _number(data.get("steps")),
        # InvokeAI's names end in _k for Karras; without it the timesteps are spread evenly.
        **_sampler(scheduler.removesuffix("_k"), "Karras" if scheduler.endswith("_k") else "Uniform"),
        "CFG scale": _number(data.get("cfg_scale")),
        "Seed": _number(data.get("seed")),
        "Size": _size(data.get("width"), data.get("height")),
        "Model": _stem(model.get("name") or model.get("model_name")),
        "Denoising strength": _number(data.get("strength")),
        "Clip skip": _number(data.get("clip_skip")) or None,
        "RNG": "CPU" if data.get("rand_device") == "cpu" else None,
    }
    prompt = " ".join([str(data["positive_prompt"] or ""), *_invokeai_loras(data.get("loras"))]).strip()
    return Infotext(prompt, str(data.get("negative_prompt") or ""), ordered(settings))


def _invokeai_loras(loras: object) -> Iterator[str]:
    for entry in loras if isinstance(loras, list) else []:
        if not isinstance(entry, Mapping):
            continue
        model = entry.get("model") or entry.get("lora")
        name = model.get("name") or model.get("model_name") if isinstance(model, Mapping) else None
        if name:
            yield _lora_tag(name, entry.get("weight", 1.0))


def read_invokeai_2(text: str) -> Infotext | None:
    """From the `sd-metadata` chunk (InvokeAI 1 and 2), which keeps the negative prompt in [brackets]."""
    data = _object(text)
    image = data.get("image") if data else None
    if not isinstance(image, Mapping):
        return None
    prompt, negative = _split_brackets(_joined(image.get("prompt")))
    settings = {
        "Steps": _number(image.get("steps")),
        **(_sampler(image["sampler"], "Uniform") if image.get("sampler") else {}),
        "CFG scale": _number(image.get("cfg_scale")),
        "Seed": _number(image.get("seed")),
        "Size": _size(image.get("width"), image.get("height")),
        "Model": _stem(data.get("model_weights")),
    }
    return Infotext(prompt, negative, ordered(settings))


def _joined(prompt: object) -> str:
    if isinstance(prompt, list):
        return " ".join(str(part.get("prompt", "")) for part in prompt if isinstance(part, Mapping))
    return prompt if isinstance(prompt, str) else ""


def _split_brackets(prompt: str) -> tuple[str, str]:
    """(prompt, negative): InvokeAI 2 reads every `[part]` as negative."""
    outside, inside, depth = [], [], 0
    for mark in prompt:
        if mark == "[":
            depth += 1
        elif mark == "]" and depth:
            depth -= 1
            inside.append(" ")
        else:
            (inside if depth else outside).append(mark)
    return " ".join("".join(outside).split()), " ".join("".join(inside).split())


READERS = (
    ("invokeai", ("invokeai_metadata",), read_invokeai),
    ("invokeai", ("sd-metadata",), read_invokeai_2),
    ("comfyui", ("prompt",), read_comfyui),
)
