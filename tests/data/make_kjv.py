#!/usr/bin/env python3
"""Makes models/kjv-relu-7m/kjv-relu-7m-q4.gguf from the F16 file: python3 make_kjv.py SOURCE.gguf TARGET.gguf

A tool for developers: it needs numpy and the package gguf. The types are mixed on purpose, so that one small file
passes through most of the common formats.
"""
import sys

import gguf
import numpy as np
from gguf import GGMLQuantizationType as T

TYPES = {  # by the tensor's name without "blk.N." and ".weight"
    "token_embd": T.Q5_0,
    "output": T.Q6_K,
    "attn_q": T.Q4_1,
    "attn_k": T.Q4_1,
    "attn_v": T.Q8_0,
    "attn_output": T.Q4_0,
    "ffn_gate": T.Q4_0,
    "ffn_up": T.Q4_0,
    "ffn_down": T.Q4_0,
}


def type_of(name):
    return T.F32 if "norm" in name else TYPES[name.split(".")[-2]]


def quantize_q6_k(x):
    """256 weights: 16 groups of 16, w = d * scale[group] * (q - 32), q in 0..63. Bytes: ql[128] qh[64] scales[16] d."""
    rows, cols = x.shape
    g = x.reshape(-1, 16, 16)
    peak = np.take_along_axis(g, np.abs(g).argmax(-1)[..., None], -1)[..., 0]
    scale = peak / -32.0  # the largest value, with its sign, becomes -32
    top = np.take_along_axis(scale, np.abs(scale).argmax(-1)[..., None], -1)[..., 0]
    d = (top / -128.0).astype(np.float16)
    inv = np.divide(1.0, d.astype(np.float32), out=np.zeros(d.shape, np.float32), where=d != 0)
    s = np.clip(np.rint(scale * inv[:, None]), -128, 127).astype(np.int8)
    step = d.astype(np.float32)[:, None] * s
    q = np.rint(np.divide(g, step[..., None], out=np.zeros_like(g), where=step[..., None] != 0))
    q = (np.clip(q, -32, 31) + 32).astype(np.uint8).reshape(-1, 2, 4, 32)  # half, quarter of the half, place
    low, high = q & 15, q >> 4
    ql = np.concatenate([low[:, :, 0] | low[:, :, 2] << 4, low[:, :, 1] | low[:, :, 3] << 4], -1)
    qh = high[:, :, 0] | high[:, :, 1] << 2 | high[:, :, 2] << 4 | high[:, :, 3] << 6
    blocks = np.concatenate([ql.reshape(-1, 128), qh.reshape(-1, 64), s.view(np.uint8), d[:, None].view(np.uint8)], -1)
    return blocks.reshape(rows, cols // 256 * 210)


def main(source, target):
    reader = gguf.GGUFReader(source)
    writer = gguf.GGUFWriter(target, "llama")
    for field in reader.fields.values():
        if field.name.startswith("GGUF.") or field.name == "general.architecture":
            continue
        value, kind = field.contents(), field.types[0]
        if field.name == "general.name":
            value = "kjv-relu-7m-q4"
        elif field.name == "general.file_type":
            value = 2  # mostly Q4_0
        sub = field.types[-1] if kind == gguf.GGUFValueType.ARRAY else None
        writer.add_key_value(field.name, value, kind, sub)
    for tensor in reader.tensors:
        kind = type_of(tensor.name)
        x = np.array(tensor.data, np.float32)
        if kind == T.F32:
            writer.add_tensor(tensor.name, x)
        else:
            data = quantize_q6_k(x) if kind == T.Q6_K else gguf.quants.quantize(x, kind)
            error = np.sqrt(np.mean((gguf.quants.dequantize(data, kind) - x) ** 2) / np.mean(x**2))
            assert error < 0.12, (tensor.name, error)
            writer.add_tensor(tensor.name, data, raw_dtype=kind)
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_tensors_to_file()
    writer.close()


main(*sys.argv[1:])
