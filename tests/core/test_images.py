"""Images: what is read and how, what is refused and why, what counts as the same picture."""

from __future__ import annotations

import contextlib
import io
import struct
import zlib

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from naive import hamming_distance
from PIL import Image, ImageDraw, ImageFilter, ImageOps
from pools import random_hashes

from al_core.contact_sheet import SheetItem, contact_sheet
from al_core.images import BadImage, content_id, decode_image, decode_stored_image, image_suffix
from al_core.near_duplicates import NearDuplicates, may_have_near_duplicates, near_duplicate_hash

FORMATS = {"PNG": ".png", "JPEG": ".jpg", "WEBP": ".webp", "GIF": ".gif", "BMP": ".bmp", "TIFF": ".tif"}


def encoded(image: Image.Image, format_: str = "PNG", **options: object) -> bytes:
    buffer = io.BytesIO()
    image.save(buffer, format_, **options)
    return buffer.getvalue()


def photo(width: int = 64, height: int = 48, seed: int = 0) -> Image.Image:
    """Smooth blobs of colour, as photographs have them."""
    noise = np.random.default_rng(seed).integers(0, 256, (height // 8, width // 8, 3), np.uint8)
    return Image.fromarray(noise).resize((width, height), Image.Resampling.BICUBIC)


def pixel(image: Image.Image) -> tuple[int, ...]:
    return tuple(np.atleast_1d(np.asarray(image)[0, 0]).tolist())


@pytest.mark.parametrize("format_", FORMATS)
@pytest.mark.parametrize(("channels", "mode"), [(3, "RGB"), (1, "L")])
def test_every_format_is_read_in_the_channels_asked_for(format_: str, channels: int, mode: str) -> None:
    image = decode_image(encoded(photo(), format_), channels=channels)  # type: ignore[arg-type]
    assert (image.mode, image.size) == (mode, (64, 48))


@pytest.mark.parametrize("format_", FORMATS)
def test_the_extension_follows_from_the_bytes(format_: str) -> None:
    assert image_suffix(encoded(photo(), format_)) == FORMATS[format_]


def test_a_turned_photograph_is_set_upright() -> None:
    exif = Image.Exif()
    exif[0x0112] = 6
    assert decode_image(encoded(photo(64, 48), "JPEG", exif=exif)).size == (48, 64)


@pytest.mark.parametrize("format_", ["PNG", "TIFF"])
@pytest.mark.parametrize(("value", "expected"), [(0, 0), (257 * 100, 100), (65535, 255), (4_200, 16)])
def test_sixteen_bits_are_scaled_and_not_cut_off(format_: str, value: int, expected: int) -> None:
    image = decode_image(encoded(Image.fromarray(np.full((4, 4), value, np.uint16)), format_), channels=1)
    assert pixel(image) == (expected,)


@pytest.mark.parametrize(("value", "expected"), [(300, 19), (1000, 62), (1024, 64), (4095, 255), (4096, 16)])
def test_ten_or_twelve_bits_in_sixteen_are_not_black_and_all_pictures_of_a_camera_are_scaled_alike(
    value: int, expected: int
) -> None:
    image = decode_image(encoded(Image.fromarray(np.full((4, 4), value, np.uint16))), channels=1)
    assert pixel(image) == (expected,)


def deep_png(values: np.ndarray) -> bytes:
    """A PNG of 16 bits a colour, which Pillow does not write."""
    height, width, _ = values.shape
    rows = b"".join(b"\0" + row.astype(">u2").tobytes() for row in values)
    header = struct.pack(">IIBBBBB", width, height, 16, 2, 0, 0, 0)
    parts = [(b"IHDR", header), (b"IDAT", zlib.compress(rows)), (b"IEND", b"")]
    return b"\x89PNG\r\n\x1a\n" + b"".join(
        struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data)) for kind, data in parts
    )


def test_colours_of_twelve_bits_in_sixteen_are_told_and_not_black() -> None:
    colours = np.random.default_rng(0).integers(0, 4096, (8, 8, 3))
    with pytest.raises(BadImage, match="no value needs more than 12: it would be black here"):
        decode_image(deep_png(colours))
    assert np.asarray(decode_image(deep_png(colours * 16))).max() > 240
    assert np.asarray(decode_image(deep_png(colours * 0))).max() == 0, "black is black"


def test_pictures_of_telephones_are_read() -> None:
    import pillow_heif

    pillow_heif.register_heif_opener()
    for format_, suffix in (("HEIF", ".heic"), ("AVIF", ".avif")):
        data = encoded(photo(), format_)
        assert image_suffix(data) == suffix
        assert decode_image(data).size == (64, 48)
        with pytest.raises(BadImage, match="send the complete file again"):
            decode_image(data[: len(data) // 2])


def test_big_tiff_is_tiff() -> None:
    data = encoded(photo(), "TIFF", big_tiff=True)
    assert (data[:4], image_suffix(data), decode_image(data).size) == (b"II+\0", ".tif", (64, 48))


def test_exif_that_cannot_be_written_again_still_says_which_way_is_up() -> None:
    """One tag holds what its type does not allow: the pixels are whole and the orientation is known."""
    tags = [struct.pack("<HHII", 0x0112, 3, 1, 6), struct.pack("<HHII", 0x0213, 4, 1, 70_000)]
    exif = b"Exif\0\0II*\0\x08\0\0\0" + struct.pack("<H", len(tags)) + b"".join(tags) + bytes(4)
    jpeg = encoded(photo(64, 48), "JPEG")
    data = jpeg[:2] + b"\xff\xe1" + struct.pack(">H", len(exif) + 2) + exif + jpeg[2:]
    assert decode_image(data).size == (48, 64)


@pytest.mark.parametrize("orientation", range(1, 9))
def test_every_orientation_is_set_upright_as_pillow_does(orientation: int) -> None:
    exif = Image.Exif()
    exif[0x0112] = orientation
    data = encoded(photo(64, 48), "PNG", exif=exif)
    with Image.open(io.BytesIO(data)) as image:
        assert decode_image(data).tobytes() == ImageOps.exif_transpose(image).tobytes()


def test_text_beside_the_pixels_spoils_no_picture() -> None:
    text = b"note\0\0" + zlib.compress(bytes(100_000_000))  # more than Pillow unpacks
    chunk = struct.pack(">I", len(text)) + b"zTXt" + text + struct.pack(">I", zlib.crc32(b"zTXt" + text))
    png = encoded(photo())
    assert decode_image(png[:33] + chunk + png[33:]).tobytes() == decode_image(png).tobytes()


def test_what_is_stored_passed_the_limit_at_the_door_and_meets_no_second_one() -> None:
    poster = encoded(Image.new("1", (10_000, 6_000), 1))
    with pytest.raises(BadImage, match=r"raise serving\.max_image_pixels"):
        decode_image(poster)
    assert decode_stored_image(poster, channels=1).size == (10_000, 6_000)


def test_thirty_two_bits_have_no_defined_white_and_are_refused() -> None:
    with pytest.raises(BadImage, match=r"^scan.tif: 32-bit grey .*convert the image to 8 or 16 bits"):
        decode_image(encoded(Image.fromarray(np.ones((4, 4), np.float32)), "TIFF"), name="scan.tif")


def test_cmyk_becomes_rgb() -> None:
    assert pixel(decode_image(encoded(Image.new("CMYK", (8, 8), (0, 0, 0, 0)), "TIFF"))) == (255, 255, 255)
    assert decode_image(encoded(photo().convert("CMYK"), "JPEG")).mode == "RGB"


def test_a_palette_is_resolved() -> None:
    assert pixel(decode_image(encoded(Image.new("RGB", (4, 4), (255, 0, 0)).quantize(4)))) == (255, 0, 0)


@pytest.mark.parametrize("mode", ["RGBA", "LA", "PA"])
def test_what_is_transparent_shows_white(mode: str) -> None:
    clear = Image.new("RGBA", (4, 4), (10, 20, 30, 0))
    image = clear.quantize(4) if mode == "PA" else clear.convert(mode)
    assert pixel(decode_image(encoded(image))) == (255, 255, 255)
    assert pixel(decode_image(encoded(image), channels=1)) == (255,)


def test_black_and_white_becomes_grey() -> None:
    assert pixel(decode_image(encoded(Image.new("1", (4, 4), 1)), channels=1)) == (255,)


@pytest.mark.parametrize("format_", ["GIF", "WEBP", "PNG", "TIFF"])
def test_of_an_animation_the_first_frame_counts(format_: str) -> None:
    frames = [Image.new("RGB", (8, 8), colour) for colour in ("red", "blue")]
    options = {"lossless": True} if format_ == "WEBP" else {}
    data = encoded(frames[0], format_, save_all=True, append_images=frames[1:], **options)
    assert pixel(decode_image(data)) == (255, 0, 0)


@pytest.mark.parametrize("format_", FORMATS)
def test_a_truncated_file_is_refused_by_name(format_: str) -> None:
    data = encoded(photo(), format_)
    with pytest.raises(BadImage, match=r"^half\.bin: broken .*send the complete file again") as error:
        decode_image(data[: len(data) // 2], name="half.bin")
    assert error.value.name == "half.bin"


@pytest.mark.parametrize(
    ("data", "reason"),
    [
        (b"", "the file is empty"),
        (b"%PDF-1.7", "no image: the 8 bytes begin like none of"),
        (b"%!PS-Adobe-3.0 EPSF-3.0", "no image"),
        (b"II*\0\x10\0\0\0CR\x02\0" + bytes(64), "broken tif file of 76 bytes .its decoder cannot read it.; send"),
    ],
)
def test_what_is_no_image_is_refused(data: bytes, reason: str) -> None:
    with pytest.raises(BadImage, match=f"^notes.txt: {reason}"):
        decode_image(data, name="notes.txt")


def png_of_size(width: int, height: int) -> bytes:
    """The header of a huge picture, without its pixels."""

    def chunk(kind: bytes, body: bytes) -> bytes:
        return struct.pack(">I", len(body)) + kind + body + struct.pack(">I", zlib.crc32(kind + body))

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(b"")) + chunk(b"IEND", b"")


@pytest.mark.parametrize(("width", "height"), [(10_000, 10_000), (12_000, 12_000), (60_000, 60_000)])
def test_a_decompression_bomb_is_refused_before_a_pixel_is_decoded(width: int, height: int) -> None:
    with pytest.raises(BadImage, match=r"^bomb\.png: .*pixels.*scale"):
        decode_image(png_of_size(width, height), name="bomb.png")


def test_the_limit_on_pixels_is_exact() -> None:
    assert decode_image(encoded(photo(64, 48)), max_pixels=64 * 48)
    with pytest.raises(BadImage, match="64 x 48 = 3,072 pixels, at most 3,071 are accepted"):
        decode_image(encoded(photo(64, 48)), max_pixels=64 * 48 - 1)


@settings(max_examples=300, deadline=None)
@given(
    format_=st.sampled_from(sorted(FORMATS)),
    changes=st.lists(st.tuples(st.floats(0, 1), st.integers(0, 255)), max_size=8),
    cut=st.floats(0, 1),
)
def test_any_damage_is_either_survived_or_refused(format_: str, changes: list[tuple[float, int]], cut: float) -> None:
    data = bytearray(encoded(photo(), format_))
    for place, value in changes:
        data[int(place * (len(data) - 1))] = value
    with contextlib.suppress(BadImage):
        assert decode_image(bytes(data[: max(1, int(cut * 2 * len(data)))])).mode == "RGB"


def test_the_content_id_is_that_of_the_bytes() -> None:
    assert content_id(b"") == "cae66941d9efbd404e4d88758ea67670"  # BLAKE2b-128 of nothing
    assert content_id(b"a") != content_id(b"b")


def test_close_pictures_have_close_hashes_and_others_have_not() -> None:
    original = photo(256, 192)
    versions = [
        original.resize((128, 96)),
        decode_image(encoded(original, "JPEG", quality=60)),
        original.point(lambda value: min(255, int(value * 1.1))),
        original.filter(ImageFilter.GaussianBlur(1)),
    ]
    reference = near_duplicate_hash(original)
    assert all(hamming_distance(reference, near_duplicate_hash(version)) <= 8 for version in versions)
    others = [near_duplicate_hash(photo(256, 192, seed)) for seed in range(1, 20)]
    assert min(hamming_distance(reference, other) for other in others) > 20


def test_a_hash_is_thirty_two_hex_digits_and_colour_does_not_change_its_length() -> None:
    assert near_duplicate_hash(Image.new("RGB", (3, 3))) == "0" * 32
    assert len(near_duplicate_hash(photo())) == 32
    assert near_duplicate_hash(photo()) == near_duplicate_hash(photo().convert("L"))


def surface(seed: int, scratch: tuple[int, int] | None = None) -> Image.Image:
    """An evenly lit surface as a camera sees it, with noise; 256 x 256 pixels."""
    noise = np.random.default_rng(seed).normal(0, 2, (256, 256, 3))
    pixels = 150 + np.linspace(0, 20, 256)[None, :, None] + noise
    image = Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))
    if scratch is not None:
        x, y = scratch
        ImageDraw.Draw(image).line([x, y, x + 18, y + 12], fill=(60, 60, 60), width=3)
    return image


places = st.tuples(st.integers(20, 226), st.integers(20, 226))


@settings(max_examples=40, deadline=None)
@given(seed=st.integers(0, 10_000), one=places, other=places)
def test_a_scratch_tells_even_surfaces_apart_and_noise_does_not(
    seed: int, one: tuple[int, int], other: tuple[int, int]
) -> None:
    clean, scratched = near_duplicate_hash(surface(seed)), near_duplicate_hash(surface(seed, one))
    assert hamming_distance(clean, near_duplicate_hash(surface(seed + 1))) <= 4
    assert hamming_distance(clean, scratched) > 4
    if max(abs(a - b) for a, b in zip(one, other, strict=True)) > 36:
        assert hamming_distance(scratched, near_duplicate_hash(surface(seed + 1, other))) > 4


def test_a_scratched_surface_that_is_compressed_again_is_the_same_picture() -> None:
    same = 0
    for seed in range(20):
        image = surface(seed, (20 + 10 * seed, 30 + 9 * seed))
        again = decode_image(encoded(image, "JPEG", quality=80))
        same += hamming_distance(near_duplicate_hash(image), near_duplicate_hash(again)) <= 4
    assert same >= 18


def test_of_surfaces_by_a_fixed_camera_each_kind_is_kept() -> None:
    rng = np.random.default_rng(0)
    index = NearDuplicates(4)
    for number in range(60):
        mark = (int(rng.integers(20, 226)), int(rng.integers(20, 226))) if number % 4 == 0 else None
        image_hash = near_duplicate_hash(surface(number, mark))
        if index.find(image_hash) is None:
            index.add(str(number), image_hash)
    assert len(index) >= 14  # of 15 scratches, and what is clean


colours = st.tuples(*[st.integers(0, 255)] * 3)


@settings(max_examples=200, deadline=None)
@given(one=colours, other=colours)
def test_plain_colours_are_told_apart_as_far_as_they_are_apart(
    one: tuple[int, int, int], other: tuple[int, int, int]
) -> None:
    hashes = [near_duplicate_hash(Image.new("RGB", (40, 30), colour)) for colour in (one, other)]
    apart = sum(abs(a - b) for a, b in zip(one, other, strict=True))
    assert abs(hamming_distance(*hashes) - apart / 12) <= 3


def test_red_is_not_green_and_a_grey_camera_is_no_colour_camera() -> None:
    red, green, grey = (near_duplicate_hash(Image.new("RGB", (64, 64), one)) for one in ("red", "green", "grey"))
    assert min(hamming_distance(red, green), hamming_distance(red, grey), hamming_distance(green, grey)) > 4
    assert near_duplicate_hash(Image.new("L", (64, 64), 128)) == grey


def test_pictures_with_gradients_keep_the_hash_that_stores_hold() -> None:
    assert [near_duplicate_hash(photo(256, 192, seed)) for seed in range(2)] == [
        "2516dd616f5d646a1a6dff9146e43ea9",
        "8bab6bcdc5a54c5a5e3df0665906aef8",
    ]


def test_a_hash_of_another_length_is_refused() -> None:
    with pytest.raises(ValueError, match="'abc' has 3 hex digits; expected 32"):
        NearDuplicates(4).add("1", "abc")


@settings(max_examples=60, deadline=None)
@given(distance=st.sampled_from([-1, 0, 1, 4, 8, 12, 13, 30, 128]), seed=st.integers(0, 10_000))
def test_the_index_finds_what_a_comparison_with_all_finds(distance: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    hashes = random_hashes(5, seed)
    for _ in range(80):
        value = int(hashes[rng.integers(len(hashes))], 16)
        for bit in rng.integers(0, 128, rng.integers(0, 12)):
            value ^= 1 << int(bit)
        hashes.append(f"{value:032x}")
    index = NearDuplicates(distance)
    for position, image_hash in enumerate(hashes):
        near = [str(row) for row in range(position) if hamming_distance(hashes[row], image_hash) <= distance]
        assert index.find(image_hash) == (near[0] if near else None)
        index.add(str(position), image_hash)
    assert len(index) == len(hashes)


@settings(max_examples=40, deadline=None)
@given(distance=st.sampled_from([-1, 0, 1, 4, 12, 13]), seed=st.integers(0, 10_000))
def test_a_hash_that_is_not_suspected_has_no_near_duplicate(distance: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    hashes = random_hashes(60, seed)
    hashes += [f"{int(hashes[n], 16) ^ (1 << int(rng.integers(128))):032x}" for n in range(5)] + hashes[7:9]
    suspected = may_have_near_duplicates(hashes, distance)
    for row, image_hash in enumerate(hashes):
        others = [other for position, other in enumerate(hashes) if position != row]
        near = any(hamming_distance(image_hash, other) <= distance for other in others)
        assert suspected[row] or not near
    if 0 <= distance <= 4:
        assert not suspected[20:60].any()  # bands of 25 bits and more tell unrelated hashes apart


def test_a_large_index_compares_few_pairs() -> None:
    index, hashes = NearDuplicates(4), random_hashes(20_000)
    for position, image_hash in enumerate(hashes):
        index.add(str(position), image_hash)
    assert max(len(rows) for bucket in index._buckets for rows in bucket.values()) < 10
    flipped = f"{int(hashes[777], 16) ^ 0b1111:032x}"
    assert index.find(flipped) == "777"


def sheet(images: list[Image.Image], **options: object) -> Image.Image:
    items = [SheetItem(image, ("margin 0.031", "control")) for image in images]
    return Image.open(io.BytesIO(contact_sheet(items, **options)))  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["noise", "photo", "tiny"])
def test_a_contact_sheet_of_sixty_stays_under_150_kb(kind: str) -> None:
    rng = np.random.default_rng(0)
    images = {
        "noise": [Image.fromarray(rng.integers(0, 256, (120, 90, 3), np.uint8)) for _ in range(60)],
        "photo": [photo(320, 200, seed) for seed in range(60)],
        "tiny": [Image.fromarray(rng.integers(0, 256, (8, 8), np.uint8)) for _ in range(60)],
    }[kind]
    items = [SheetItem(image, ("margin 0.031", "strategy")) for image in images]
    assert len(contact_sheet(items)) <= 150_000


def test_a_contact_sheet_has_rows_and_columns() -> None:
    one, many = sheet([photo()] * 3, columns=10), sheet([photo()] * 25, columns=10)
    assert one.width < many.width
    assert many.height > 2 * one.height


def test_tiny_images_are_enlarged_without_smoothing() -> None:
    shown = sheet([Image.fromarray(np.array([[0, 255], [255, 0]], np.uint8))], edge=64)
    inside = np.asarray(shown.convert("L"))[8:68, 8:68]
    assert set(np.unique(inside // 16)) == {0, 15}, "black and white, nothing between"


def test_captions_of_any_script_and_length_fit() -> None:
    contact_sheet([SheetItem(photo(), ("猫" * 50, "x" * 500)), SheetItem(photo(), ())])


def test_an_empty_contact_sheet_is_refused() -> None:
    with pytest.raises(ValueError, match="at least one image"):
        contact_sheet([])
