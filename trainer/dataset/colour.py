"""Any picture that Pillow can decode, as the 8-bit sRGB that models are trained on."""

from PIL import Image

WHITE = (255, 255, 255)

# EXIF 2.32, tag 0x0112: how the stored picture has to be turned before it is shown.
_TURN = {
    2: Image.Transpose.FLIP_LEFT_RIGHT,
    3: Image.Transpose.ROTATE_180,
    4: Image.Transpose.FLIP_TOP_BOTTOM,
    5: Image.Transpose.TRANSPOSE,
    6: Image.Transpose.ROTATE_270,
    7: Image.Transpose.TRANSVERSE,
    8: Image.Transpose.ROTATE_90,
}


def orientation(image: Image.Image) -> int:
    """EXIF orientation 1–8; 1 when there is none or the EXIF block cannot be read.

    Ask after `image.load()`: Pillow itself turns TIFF pictures while loading them.
    """
    try:
        value = image.getexif().get(0x0112, 1)
    except Exception:  # a broken EXIF block raises almost anything, and says nothing about the pixels
        return 1
    return value if value in _TURN else 1


def size_as_shown(image: Image.Image) -> tuple[int, int]:
    """(width, height) after the EXIF rotation."""
    width, height = image.size
    return (height, width) if orientation(image) >= 5 else (width, height)


def turned(image: Image.Image, orientation: int) -> Image.Image:
    """The picture as it is shown, given its EXIF orientation."""
    turn = _TURN.get(orientation)
    return image if turn is None else image.transpose(turn)


def alpha_of(image: Image.Image) -> Image.Image | None:
    """The transparency as an 8-bit mask (mode L), or None when every pixel is opaque."""
    if not image.has_transparency_data:
        return None
    if image.mode.startswith("I;16"):
        alpha = _grey16_alpha(image)
    else:
        alpha = _straight(image).convert("RGBA").getchannel("A")
    return None if alpha.getextrema() == (255, 255) else alpha


def to_rgb(image: Image.Image, notes: list[str] | None = None) -> Image.Image:
    """A new picture: mode RGB, 8 bit, sRGB, on white; not turned (see `turned`), and without metadata.

    An embedded colour profile is honoured. Where that fails the numbers are taken as they stand, and the
    reason is appended to `notes`.
    """
    alpha = alpha_of(image)
    rgb = _through_profile(_opaque_colours(image), image.info.get("icc_profile"), notes)
    clean = Image.new("RGB", rgb.size, WHITE)
    # The result must not carry the profile or the EXIF rotation, or whoever saves it applies them twice.
    clean.paste(rgb, mask=alpha)
    return clean


def _opaque_colours(image: Image.Image) -> Image.Image:
    """The colour channels alone, in a mode that a profile can be applied to: L, RGB, CMYK or LAB."""
    if image.mode.startswith("I;16"):
        return _grey8(image)
    if image.mode in ("L", "RGB", "CMYK", "LAB"):
        return image
    if image.mode == "1":
        return image.convert("L")
    if image.mode in ("LA", "La"):
        return _straight(image).getchannel("L")
    if image.has_transparency_data:  # a palette with transparency: Pillow wants it by way of RGBA
        return _straight(image).convert("RGBA").convert("RGB")
    return image.convert("RGB")


def _straight(image: Image.Image) -> Image.Image:
    """Undoes premultiplied alpha, the only modes that Pillow does not convert directly."""
    return image.convert({"La": "LA", "RGBa": "RGBA"}.get(image.mode, image.mode))


def _grey8(image: Image.Image) -> Image.Image:
    """16-bit grey to 8 bit by scaling; Pillow's own convert() clips everything above 255 to white."""
    import numpy as np

    values = np.asarray(image).astype(np.uint32)
    return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8))


def _grey16_alpha(image: Image.Image) -> Image.Image:
    """PNG tRNS for 16-bit grey: one grey value counts as transparent."""
    import numpy as np

    seen = np.asarray(image) != image.info["transparency"]
    return Image.fromarray(seen.astype(np.uint8) * 255)


def _through_profile(image: Image.Image, profile: bytes | None, notes: list[str] | None) -> Image.Image:
    if profile:
        try:
            converted = _to_srgb(image, profile)
        except Exception as error:  # littlecms and malformed profiles fail in many ways
            if notes is not None:
                notes.append(f"colour profile not used ({str(error).strip() or type(error).__name__})")
        else:
            if converted is not None:
                return converted
    return image if image.mode == "RGB" else image.convert("RGB")


def _to_srgb(image: Image.Image, profile: bytes) -> Image.Image | None:
    """The picture through its profile, or None when the profile says that it is sRGB already."""
    from io import BytesIO

    from PIL import ImageCms

    source = ImageCms.ImageCmsProfile(BytesIO(profile))
    name = (source.profile.profile_description or "").lower()
    if image.mode == "RGB" and name.startswith("srgb") and "linear" not in name:
        return None
    space = source.profile.xcolor_space.strip()
    if {"L": "GRAY", "LAB": "Lab"}.get(image.mode, image.mode) != space:
        raise ValueError(f"it is for {space} pictures and this one is {image.mode}")
    return ImageCms.profileToProfile(image, source, ImageCms.createProfile("sRGB"), outputMode="RGB")
