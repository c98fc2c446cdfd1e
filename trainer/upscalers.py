"""Upscalers for the hires fix: A1111's latent ones, plain resampling, and networks from model files.

ESRGAN's RRDBNet (Wang et al. 2018, arXiv 1809.00219), which Real-ESRGAN (Wang et al. 2021, arXiv 2107.10833) kept, is
here; its files come with two sets of key names. Other architectures are spandrel's, where that package is installed: it
needs torchvision, which must fit torch, so it is an extra. Files are read weights-only, so that they cannot run code.
"""

from __future__ import annotations

import re
from functools import cache
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn
from torch.nn import functional

from trainer.errors import UserError

if TYPE_CHECKING:
    from PIL.Image import Image
    from spandrel import ImageModelDescriptor

# A1111's names -> (interpolation, antialias) of the latents.
LATENT = {
    "Latent": ("bilinear", False),
    "Latent (antialiased)": ("bilinear", True),
    "Latent (bicubic)": ("bicubic", False),
    "Latent (bicubic antialiased)": ("bicubic", True),
    "Latent (nearest)": ("nearest", False),
    "Latent (nearest-exact)": ("nearest-exact", False),
}
# Of the decoded picture; A1111 resizes by Lanczos as well where no upscaler is chosen.
RESAMPLING = {"None": "LANCZOS", "Lanczos": "LANCZOS", "Nearest": "NEAREST"}
TILE, OVERLAP = 192, 32  # pixels of the small picture; what lies further away changes nothing that can be seen


def is_model(name: str) -> bool:
    """Whether an upscaler's name means a model file."""
    return name not in LATENT and name not in RESAMPLING


def upscale_latents(latents: Tensor, size: tuple[int, int], name: str) -> Tensor:
    """Latents [B, 4, h, w] at another (width, height) in latent pixels."""
    mode, antialias = LATENT[name]
    return functional.interpolate(latents, size=size[::-1], mode=mode, antialias=antialias)


def upscale_picture(picture: Image, size: tuple[int, int], name: str, network: Network | None = None) -> Image:
    """A picture at (width, height): through the network until it is large enough, then resampled by Lanczos."""
    from PIL import Image

    if network is not None:
        for _ in range(3 if network.scale > 1 else 1):  # as often as A1111 tries
            if picture.width >= size[0] and picture.height >= size[1]:
                break
            picture = network.upscale(picture)
    kind = "LANCZOS" if network is not None else RESAMPLING[name]
    return picture if picture.size == size else picture.resize(size, Image.Resampling[kind])


class Network(nn.Module):
    """Pixels [B, 3, h, w] in [0, 1] -> [B, 3, scale·h, scale·w], for sides that are multiples of `multiple`."""

    scale: int
    multiple = 1
    tiled = True  # False where each pixel depends on the whole picture

    @torch.no_grad()
    def upscale(self, picture: Image, tile: int = TILE) -> Image:
        """A picture `scale` times as large, tile by tile so that memory stays small."""
        from PIL import Image

        weight = next(self.parameters())
        tile = tile if self.tiled else max(picture.size)
        pixels = torch.frombuffer(bytearray(picture.convert("RGB").tobytes()), dtype=torch.uint8)
        pixels = pixels.view(picture.height, picture.width, 3).permute(2, 0, 1)[None].to(weight) / 255
        result = torch.empty(3, picture.height * self.scale, picture.width * self.scale)
        for top in range(0, picture.height, tile):
            for left in range(0, picture.width, tile):
                box = (top, min(top + tile, picture.height), left, min(left + tile, picture.width))
                y0, y1, x0, x1 = (side * self.scale for side in box)
                result[:, y0:y1, x0:x1] = self._tile(pixels, *box)
        values = (result.clamp(0, 1) * 255).round().to(torch.uint8).permute(1, 2, 0).contiguous()
        return Image.frombytes("RGB", (values.shape[1], values.shape[0]), values.numpy().tobytes())

    def _tile(self, pixels: Tensor, top: int, bottom: int, left: int, right: int) -> Tensor:
        """The upscaled part of a picture, computed with what lies around it."""
        height, width = pixels.shape[2:]
        # The network takes whole blocks: the surroundings begin at a multiple, and the far edge is repeated.
        y, x = (max(0, start - OVERLAP) // self.multiple * self.multiple for start in (top, left))
        part = pixels[:, :, y : min(height, bottom + OVERLAP), x : min(width, right + OVERLAP)]
        missing = [-part.shape[side] % self.multiple for side in (3, 2)]
        part = functional.pad(part, (0, missing[0], 0, missing[1]), mode="replicate") if any(missing) else part
        made = self(part)[0].float().cpu()
        s = self.scale
        return made[:, (top - y) * s : (bottom - y) * s, (left - x) * s : (right - x) * s]


class DenseBlock(nn.Module):
    """Five convolutions, each of which sees all before it; the last one's answer is added at 0.2."""

    def __init__(self, features: int, growth: int):
        super().__init__()
        for number in range(1, 6):
            out = growth if number < 5 else features
            setattr(self, f"conv{number}", nn.Conv2d(features + (number - 1) * growth, out, 3, padding=1))

    def forward(self, x: Tensor) -> Tensor:
        known = [x]
        for number in range(1, 5):
            known.append(_leaky(getattr(self, f"conv{number}")(torch.cat(known, 1))))
        return x + 0.2 * self.conv5(torch.cat(known, 1))


class ResidualBlock(nn.Module):
    """Residual in residual: three dense blocks, added at 0.2."""

    def __init__(self, features: int, growth: int):
        super().__init__()
        self.rdb1, self.rdb2, self.rdb3 = (DenseBlock(features, growth) for _ in range(3))

    def forward(self, x: Tensor) -> Tensor:
        return x + 0.2 * self.rdb3(self.rdb2(self.rdb1(x)))


class RRDBNet(Network):
    """4x; with `shuffle` 2 (4) the picture is folded into channels first, which makes it 2x (1x)."""

    def __init__(self, features: int, growth: int, blocks: int, shuffle: int = 1):
        super().__init__()
        self.multiple, self.scale = shuffle, 4 // shuffle
        self.conv_first = nn.Conv2d(3 * shuffle**2, features, 3, padding=1)
        self.body = nn.Sequential(*(ResidualBlock(features, growth) for _ in range(blocks)))
        for name in ("conv_body", "conv_up1", "conv_up2", "conv_hr"):
            setattr(self, name, nn.Conv2d(features, features, 3, padding=1))
        self.conv_last = nn.Conv2d(features, 3, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv_first(functional.pixel_unshuffle(x, self.multiple))
        x = x + self.conv_body(self.body(x))
        for convolution in (self.conv_up1, self.conv_up2):
            x = _leaky(convolution(functional.interpolate(x, scale_factor=2, mode="nearest")))
        return self.conv_last(_leaky(self.conv_hr(x)))


def _leaky(x: Tensor) -> Tensor:
    return functional.leaky_relu(x, 0.2)


# ESRGAN's first names (`model.1.sub.0.RDB1.conv1.0`) and BasicSR's early ones -> those of Real-ESRGAN.
_RENAMED = (
    (r"^model\.0\.", "conv_first."),
    (r"^model\.1\.sub\.(\d+)\.RDB(\d)\.conv(\d)\.0\.", r"body.\1.rdb\2.conv\3."),
    (r"^model\.1\.sub\.\d+\.(?=weight|bias)", "conv_body."),
    (r"^model\.3\.", "conv_up1."),
    (r"^model\.6\.", "conv_up2."),
    (r"^model\.8\.", "conv_hr."),
    (r"^model\.10\.", "conv_last."),
    (r"^RRDB_trunk\.(\d+)\.RDB(\d)\.", r"body.\1.rdb\2."),
    (r"^trunk_conv\.", "conv_body."),
    (r"^upconv(\d)\.", r"conv_up\1."),
    (r"^HRconv\.", "conv_hr."),
)


def load_network(path: Path, device: str | torch.device = "cpu") -> Network:
    """The network in a .pth or .safetensors file: ESRGAN's by itself, others through spandrel.

    Raises UserError when it is neither, or when it is no ESRGAN and spandrel is not there.
    """
    content = _read(Path(path))
    network = _rrdbnet(content) or Foreign(_through_spandrel(content, Path(path)))
    return network.float().eval().requires_grad_(False).to(device)


def _rrdbnet(content: dict[str, Any]) -> RRDBNet | None:
    """An ESRGAN of 4x, 2x or 1x; None for anything else."""
    state = content.get("params_ema", content.get("params", content))
    try:
        state = {_renamed(key): value for key, value in state.items()}
        first, growth = state["conv_first.weight"], state["body.0.rdb1.conv1.weight"].shape[0]
        blocks = len({key.split(".")[1] for key in state if key.startswith("body.")})
        network = RRDBNet(first.shape[0], growth, blocks, {3: 1, 12: 2, 48: 4}[first.shape[1]])
        network.load_state_dict(state)
    except (KeyError, RuntimeError, AttributeError, IndexError, TypeError):
        return None
    return network


def _renamed(key: str) -> str:
    for pattern, name in _RENAMED:
        key, changed = re.subn(pattern, name, key)
        if changed:
            break
    return key


def _read(path: Path) -> dict[str, Any]:
    try:
        if path.suffix == ".safetensors":
            from safetensors.torch import load_file

            return load_file(path)
        content = torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # torch.load raises many kinds; each of them means the same to the owner
        raise UserError(f"{path} cannot be read as an upscaler ({type(error).__name__}): get it again.") from error
    return content if isinstance(content, dict) else {}


# Other architectures

PURPOSES = ("SR", "Restoration")  # super-resolution, and what cleans a picture at its size; not faces, not inpainting


class Foreign(Network):
    """A network that spandrel knows, in our tiles."""

    def __init__(self, descriptor: ImageModelDescriptor):
        super().__init__()
        self.network = descriptor.model
        self.scale, self.multiple = descriptor.scale, descriptor.size_requirements.multiple_of
        self.tiled = descriptor.tiling.name != "INTERNAL"
        self._call = descriptor  # pads what is too small for the network, and cuts it off again

    def forward(self, x: Tensor) -> Tensor:
        return self._call(x)


def _through_spandrel(content: dict[str, Any], path: Path) -> ImageModelDescriptor:
    spandrel = _spandrel()
    if isinstance(spandrel, UserError):
        raise UserError(f"{path} is no ESRGAN or Real-ESRGAN file (RRDBNet of 4x, 2x or 1x). {spandrel}")
    try:
        found = spandrel.ModelLoader().load_from_state_dict(spandrel.canonicalize_state_dict(content))
    except Exception as error:  # a file that only resembles an architecture fails wherever its tensors do not fit
        raise UserError(
            f"{path} is no upscaler that spandrel {spandrel.__version__} knows ({type(error).__name__}): choose "
            "another one, such as RealESRGAN_x4plus_anime_6B.pth."
        ) from error
    if getattr(found, "input_channels", 0) != 3 or found.output_channels != 3 or found.purpose not in PURPOSES:
        raise UserError(
            f"{path} holds a {found.architecture.name} network, which does not make a larger colour picture of one: "
            "choose another one, such as RealESRGAN_x4plus_anime_6B.pth."
        )
    return found


@cache  # a failed import fails otherwise the second time
def _spandrel() -> ModuleType | UserError:
    """The package, or why it cannot be used. A torchvision that does not fit torch raises anything."""
    if find_spec("spandrel") is None:
        return UserError(
            "Other upscalers need spandrel, which is not installed: run `pip install -c constraints.txt -e "
            "'.[upscalers]'` in the project's folder."
        )
    try:
        import spandrel
    except Exception as error:
        return UserError(
            f"Other upscalers need spandrel, which is installed but cannot be loaded ({error}): install the "
            f"torchvision that belongs to torch {torch.__version__}."
        )
    return spandrel
