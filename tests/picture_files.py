"""Small picture files made in memory, DICOM with tags in any state among them."""

import io
import struct
from typing import NamedTuple

import numpy as np
import pydicom
from pydicom import uid
from pydicom.dataset import Dataset, FileMetaDataset
from pydicom.tag import Tag

RAMP = np.arange(32, dtype=np.uint16).reshape(4, 8) * 100  # 0 .. 3100


def encode(image, format="PNG", **options):
    """A picture as the bytes of a file."""
    buffer = io.BytesIO()
    image.save(buffer, format=format, **options)
    return buffer.getvalue()


def full_range(values, *, counted=None):
    """Levels of values whose range is spread over 0 .. 255; black where they do not count."""
    values = np.asarray(values, float)
    counted = np.ones(values.shape, bool) if counted is None else counted
    low, high = values[counted].min(), values[counted].max()
    return np.where(counted, np.rint((np.where(counted, values, low) - low) / (high - low) * 255), 0)


class Raw(NamedTuple):
    """An element whose bytes are written as they are, whatever its type asks for."""

    value: bytes
    vr: str | None = None  # default: that of the dictionary

    def written(self, keyword, syntax):
        """The element as it stands in a file."""
        tag, order = Tag(keyword), "<" if syntax.is_little_endian else ">"
        head = struct.pack(order + "HH", tag.group, tag.element)
        if syntax.is_implicit_VR:
            return head + struct.pack(order + "I", len(self.value)) + self.value
        vr = self.vr or pydicom.datadict.dictionary_VR(tag).split(" ")[0]
        length = ("2xI" if vr in ("OB", "OW", "SQ", "UN") else "H", len(self.value))
        return head + vr.encode() + struct.pack(order + length[0], length[1]) + self.value


def data_set(**tags):
    """A DICOM data set (an item of a sequence, say); None leaves a tag out."""
    dataset = Dataset()
    for keyword, value in tags.items():
        if keyword.endswith(("LUTDescriptor", "TableDescriptor")):  # its type depends on the pixels', so it is named
            dataset.add_new(keyword, "US", value)
        elif keyword == "LUTData":
            dataset.add_new(keyword, "OW", value)
        elif value is not None:
            setattr(dataset, keyword, value)
    return dataset


def dicom_bytes(samples=RAMP, *, syntax=uid.ExplicitVRLittleEndian, is_bare=False, **tags):
    """A DICOM file of one picture; `tags` are set, written as they are where `Raw`, or left out where None."""
    samples = np.asarray(samples)
    color = samples.ndim == 3
    bits = 8 * samples.dtype.itemsize
    pixel_type = {"u": "PixelData", "i": "PixelData", "f": "FloatPixelData" if bits == 32 else "DoubleFloatPixelData"}
    standard = {
        "SOPClassUID": uid.SecondaryCaptureImageStorage,
        "SOPInstanceUID": "1.2.3",
        "SamplesPerPixel": 3 if color else 1,
        "PhotometricInterpretation": "RGB" if color else "MONOCHROME2",
        "PlanarConfiguration": 0 if color else None,
        "Rows": samples.shape[0],
        "Columns": samples.shape[1],
        "BitsAllocated": bits,
        "BitsStored": bits,
        "HighBit": bits - 1,
        "PixelRepresentation": int(samples.dtype.kind == "i"),
    }
    raws = {keyword: value for keyword, value in tags.items() if isinstance(value, Raw)}
    dataset = data_set(**{key: value for key, value in (standard | tags).items() if key not in raws})
    damage = b"".join(
        raw.written(keyword, syntax) for keyword, raw in raws.items()
    )  # in no order, which pydicom allows
    keyword = pixel_type[samples.dtype.kind]
    if keyword not in tags:
        order = ">" if syntax == uid.ExplicitVRBigEndian else "<"
        stored = samples.astype(samples.dtype.newbyteorder(order)).tobytes()
        dataset.add_new(keyword, {"PixelData": "OW", "FloatPixelData": "OF"}.get(keyword, "OD"), stored)
    buffer = io.BytesIO()
    if is_bare:
        pydicom.dcmwrite(
            buffer, dataset, implicit_vr=syntax.is_implicit_VR, little_endian=syntax.is_little_endian,
            enforce_file_format=False,
        )  # fmt: skip
        return buffer.getvalue() + damage
    dataset.file_meta = FileMetaDataset()
    dataset.file_meta.TransferSyntaxUID = syntax
    dataset.file_meta.MediaStorageSOPClassUID = dataset.get("SOPClassUID", uid.SecondaryCaptureImageStorage)
    dataset.file_meta.MediaStorageSOPInstanceUID = "1.2.3"
    pydicom.dcmwrite(buffer, dataset, enforce_file_format=True)
    return buffer.getvalue() + damage


def tiff_bytes(samples, *, photometric=1, sample_format=None, order="<", extra=()):
    """An uncompressed grey TIFF of one strip, with any photometric interpretation and sample type."""
    samples = np.asarray(samples)
    codes = {"u": 1, "i": 2, "f": 3}
    entries = [
        (256, 4, samples.shape[1]), (257, 4, samples.shape[0]), (258, 3, 8 * samples.dtype.itemsize), (259, 3, 1),
        (262, 3, photometric), (273, 4, 0), (277, 3, 1), (278, 4, samples.shape[0]), (279, 4, samples.nbytes),
        (339, 3, sample_format or codes[samples.dtype.kind]), *extra,
    ]  # fmt: skip
    start = 8 + 2 + 12 * len(entries) + 4
    out = (b"II" if order == "<" else b"MM") + struct.pack(order + "HI", 42, 8) + struct.pack(order + "H", len(entries))
    for tag, kind, value in sorted(entries):
        value = start if tag == 273 else value
        packed = struct.pack(order + ("H2x" if kind == 3 else "I"), value)
        out += struct.pack(order + "HHI", tag, kind, 1) + packed
    return out + struct.pack(order + "I", 0) + samples.astype(samples.dtype.newbyteorder(order)).tobytes()
