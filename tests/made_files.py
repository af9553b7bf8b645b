"""Files of every kind that a door of the data takes, right and wrong, as bytes."""

import gzip
import io
import struct
import zipfile
import zlib

import numpy as np
from PIL import Image

GREY = np.zeros((8, 8))
GREY[2:6, 2:6] = 0.5  # a grey square on black
BYTES = (GREY * 255).astype(np.uint8)
GUID_TAIL = bytes.fromhex("000000001000800000aa00389b71")


def picture(array, suffix, mode=None, **options):
    """An image file; ``mode`` is what the array's own is converted to."""
    image = Image.fromarray(np.ascontiguousarray(array))
    image = image if mode is None else image.convert(mode)
    stream = io.BytesIO()
    image.save(
        stream,
        {"png": "PNG", "jpg": "JPEG", "tif": "TIFF", "gif": "GIF", "pgm": "PPM", "pcx": "PCX"}[suffix],
        **options,
    )
    return stream.getvalue()


def png_of_size(width, height):
    """A PNG file whose header says that size, with next to nothing behind."""
    content = bytearray(picture(BYTES, "png"))
    content[16:24] = struct.pack(">II", width, height)
    content[29:33] = struct.pack(">I", zlib.crc32(content[12:29]))
    return bytes(content)


def wav(samples, *, rate=8000, channels=1, bits=16, kind=1, sub=None, size=None, before=b""):
    """A WAV file; ``sub`` is the format that an extensible one says, ``size`` what it says of its samples."""
    block = channels * bits // 8
    form = struct.pack(
        "<HHIIHH", 0xFFFE if sub is not None else kind, channels, rate, rate * block % 2**32, block, bits
    )
    if sub is not None:
        form += struct.pack("<HHI", 22, bits, 0) + struct.pack("<H", sub) + GUID_TAIL
    data = b"data" + struct.pack("<I", len(samples) if size is None else size) + samples
    body = b"WAVE" + before + b"fmt " + struct.pack("<I", len(form)) + form + data
    return b"RIFF" + struct.pack("<I", len(body) & 0xFFFFFFFF) + body


def npy(array):
    """An ``.npy`` file, Python objects and all."""
    stream = io.BytesIO()
    np.save(stream, array, allow_pickle=True)
    return stream.getvalue()


def npy_header(shape, descr="|u1", body=b""):
    """An ``.npy`` file whose header promises that shape."""
    text = f"{{'descr': '{descr}', 'fortran_order': False, 'shape': {shape}, }}".encode()
    text += b" " * (-(len(text) + 11) % 64) + b"\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text + body


def npz(flags=0, **members):
    """An ``.npz`` file of members as bytes; ``flags`` are put into their headers."""
    stream = io.BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members.items():
            archive.writestr(f"{name}.npy", content)
    content = bytearray(stream.getvalue())
    for start, place in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        at = content.find(start)
        while flags and at >= 0:
            content[at + place] |= flags
            at = content.find(start, at + 4)
    return bytes(content)


def idx(shape, body):
    """An IDX file of bytes."""
    return struct.pack(f">HBB{len(shape)}I", 0, 8, len(shape), *shape) + body


def idx_gz(shape, body):
    """The same, compressed."""
    return gzip.compress(idx(shape, body))
