"""Vision models from a local folder, as functions from a picture or a text to a unit vector."""

from __future__ import annotations

import json
import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
from PIL import Image

from trainer.errors import UserError
from trainer.files import quietly


class Clip:
    """A local CLIPModel (Radford et al. 2021) as two functions that return unit vectors."""

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoTokenizer, CLIPModel

        try:
            with quietly():
                self.model = CLIPModel.from_pretrained(_name(folder), local_files_only=True).eval()
            self.tokenizer = AutoTokenizer.from_pretrained(_name(folder), local_files_only=True)
        except (OSError, ValueError, KeyError) as error:
            raise UserError(
                f"{folder} holds no CLIP model that can be loaded ({_reason(error)}): "
                "choose a folder with config.json, model.safetensors and the tokenizer's files, or the hub id of a "
                "model that has been fetched already."
            ) from error
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model.to(self.device)
        self.how = _preprocessing(folder, self.model.config.vision_config.image_size)

    def picture(self, image: Image.Image) -> np.ndarray:
        import torch

        pixels = torch.from_numpy(self.how(image)).to(self.device)
        with torch.inference_mode():
            return _unit(self.model.get_image_features(pixel_values=pixels[None]))

    def text(self, text: str) -> np.ndarray:
        import torch

        most = self.model.config.text_config.max_position_embeddings
        tokens = self.tokenizer(text, truncation=True, max_length=most, return_tensors="pt").to(self.device)
        with torch.inference_mode():
            features = self.model.get_text_features(
                input_ids=tokens["input_ids"], attention_mask=tokens["attention_mask"]
            )
            return _unit(features)


class Dino:
    """A local DINO model (Caron et al. 2021; ViT or DINOv2) as a function that returns a unit vector.

    DreamBooth takes its class token: unlike CLIP it was never taught to overlook what makes one subject differ
    from another of its kind.
    """

    def __init__(self, folder: Path) -> None:
        import torch
        from transformers import AutoModel

        try:
            with quietly():
                self.model = AutoModel.from_pretrained(_name(folder), local_files_only=True).eval()
            size = self.model.config.image_size
        except (OSError, ValueError, KeyError, AttributeError) as error:
            raise UserError(
                f"{folder} holds no DINO model that can be loaded ({_reason(error)}): "
                "choose a folder with config.json and model.safetensors, such as that of dino-vits16, or the hub id "
                "of a model that has been fetched already."
            ) from error
        self.device = "cuda" if torch.cuda.is_available() else "cpu"
        self.model.to(self.device)
        self.how = _preprocessing(folder, size, mean=(0.485, 0.456, 0.406), std=(0.229, 0.224, 0.225))

    def picture(self, image: Image.Image) -> np.ndarray:
        import torch

        pixels = torch.from_numpy(self.how(image)).to(self.device)
        with torch.inference_mode():
            return _unit(self.model(pixel_values=pixels[None]).last_hidden_state[:, 0])


class Aesthetic:
    """A predictor of people's marks from 1 to 10, as a function of a CLIP picture vector.

    LAION's (Schuhmann et al. 2022, arXiv 2210.08402) are linear layers one after the other, without anything between
    them; each was made for one CLIP. Read weights-only, so that the file cannot run code.
    """

    def __init__(self, file: Path, clip: Clip) -> None:
        width = clip.model.config.projection_dim
        self.layers = _layers(file)
        shapes = [weight.shape for weight, _ in self.layers]
        if not shapes or [width, *(shape[0] for shape in shapes)] != [*(shape[1] for shape in shapes), 1]:
            raise UserError(
                f"{file} is no aesthetic predictor for this CLIP, whose vectors have {width} numbers: take the one "
                "made for it, such as sac+logos+ava1-l14-linearMSE.pth for CLIP ViT-L/14."
            )

    def __call__(self, vector: np.ndarray) -> float:
        for weight, bias in self.layers:
            vector = weight @ vector + bias
        return float(vector[0])


def _layers(file: Path) -> list[tuple[np.ndarray, np.ndarray]]:
    """(weight [out, in], bias [out]) of each layer, in order. Raises UserError when the file cannot be read."""
    import torch
    from safetensors.torch import load_file

    try:
        state = load_file(file) if file.suffix == ".safetensors" else torch.load(file, "cpu", weights_only=True)
        # "layers.0.weight", "layers.2.weight", …; a single layer is just "weight".
        names = sorted(
            (key for key in state if key.endswith("weight")), key=lambda key: [*map(int, re.findall(r"\d+", key))]
        )
        pairs = [(state[name], state[name.removesuffix("weight") + "bias"]) for name in names]
        return [(weight.float().numpy(), bias.float().numpy()) for weight, bias in pairs if weight.ndim == 2]
    except Exception as error:  # torch.load raises many kinds; each of them means the same to the owner
        raise UserError(f"{file} cannot be read as an aesthetic predictor ({type(error).__name__}).") from error


def _reason(error: Exception) -> str:
    return str(error).splitlines()[0] if str(error) else type(error).__name__


def _name(folder: Path) -> str:
    """The folder, or the hub id that was written as one."""
    return str(folder) if folder.is_dir() else folder.as_posix()


def _preprocessor(folder: Path) -> dict:
    """preprocessor_config.json as it is, of a folder or of a model in the hub's cache; empty where there is none."""
    from transformers.utils import cached_file

    try:
        path = cached_file(_name(folder), "preprocessor_config.json", local_files_only=True)
    except OSError:
        return {}
    return json.loads(Path(path).read_text(encoding="utf-8"))


def _unit(features) -> np.ndarray:
    """[1, d] tensor, or the output object that newer transformers wrap it in, to a unit vector [d]."""
    features = getattr(features, "pooler_output", features)
    vector = features[0].float().cpu().numpy()
    return vector / max(float(np.linalg.norm(vector)), 1e-9)


CLIP_MEAN, CLIP_STD = (0.48145466, 0.4578275, 0.40821073), (0.26862954, 0.26130258, 0.27577711)


def _preprocessing(
    folder: Path, image_size: int, mean: tuple[float, ...] = CLIP_MEAN, std: tuple[float, ...] = CLIP_STD
) -> Callable[[Image.Image], np.ndarray]:
    """Resize, centre crop and normalise as preprocessor_config.json says; `mean` and `std` where it says nothing.

    Done here because transformers' fast image processor needs torchvision.
    """
    config = _preprocessor(folder)
    crop = config.get("crop_size", image_size)  # DINOv2's position embeddings are larger than what it is shown
    image_size = crop["height"] if isinstance(crop, dict) else crop
    mean = np.array(config.get("image_mean", mean), np.float32)
    std = np.array(config.get("image_std", std), np.float32)
    resample = Image.Resampling(config.get("resample", Image.Resampling.BICUBIC))

    def prepare(image: Image.Image) -> np.ndarray:
        """[3, image_size, image_size], float32."""
        scale = image_size / min(image.size)
        width, height = (max(image_size, round(length * scale)) for length in image.size)
        left, top = (width - image_size) // 2, (height - image_size) // 2
        image = image.resize((width, height), resample).crop((left, top, left + image_size, top + image_size))
        return ((np.asarray(image, np.float32) / 255 - mean) / std).transpose(2, 0, 1)

    return prepare
