"""Builds efficientnet_lite0.onnx: the EfficientNet-Lite0 classifier with a head into MiniLM's text space.

    efficientnet_lite0.py --weights FILE.pth --labels FILE.txt --text-model MINILM.onnx --tokenizer FILE.json --output OUT.onnx

Input   `image`       N x 3 x 224 x 224, RGB, (value - 127) / 128
Outputs `features`    N x 1280, the pooled features before the classifier
        `logits`      N x 1000, ImageNet classes in the order of the labels file
        `text_space`  N x 384, unit length

The text head is ConSE (Norouzi et al. 2014) and needs no training: the mean of the classes' text embeddings, weighted by
the probability of each class. Class embeddings are MiniLM's of "a photo of a <label>", less their common mean, which
says "a photo" and would make all pictures alike.
"""

import argparse
import collections
import os
import pickle

import numpy as np
import onnx
import onnxruntime
import tokenizers
from onnx import TensorProto, helper, numpy_helper

# Stride of each of the 16 blocks; kernel sizes and widths follow from the shapes of the weights.
STRIDES = (1, 2, 1, 2, 1, 2, 1, 1, 1, 1, 1, 2, 1, 1, 1, 1)
IMAGE_SIZE = 224
BATCH_NORM_EPSILON = 1e-3
SOFTMAX_TEMPERATURE = 1.5
OPSET = 13
IR_VERSION = 8


class TensorUnpickler(pickle.Unpickler):
    """Reads a dictionary of tensors and refuses every other class, so that a weights file cannot run code."""

    TYPES = {"FloatStorage": np.dtype("<f4"), "LongStorage": np.dtype("<i8")}

    def find_class(self, module, name):
        if (module, name) == ("collections", "OrderedDict"):
            return collections.OrderedDict
        if (module, name) == ("torch._utils", "_rebuild_tensor_v2"):
            return lambda storage, offset, size, stride, *_: (storage, offset, size, stride)
        if module == "torch" and name in self.TYPES:
            return self.TYPES[name]
        raise pickle.UnpicklingError(f"weights name the class {module}.{name}; only tensors are read")

    def persistent_load(self, saved_id):
        kind, dtype, key, _location, count, *_view = saved_id
        if kind != "storage":
            raise pickle.UnpicklingError(f"weights hold a `{kind}`; only tensor storage is read")
        return key, dtype, count


def read_weights(path):
    """Tensors by name from a .pth file in PyTorch's format from before 1.6: four pickles, the storage keys, the storages."""
    with open(path, "rb") as file:
        magic = TensorUnpickler(file).load()
        if magic != 0x1950A86A20F9469CFC6C:
            raise SystemExit(f"{path} is not a PyTorch weights file of the format before 1.6")
        _version, _platform = TensorUnpickler(file).load(), TensorUnpickler(file).load()
        tensors = TensorUnpickler(file).load()
        keys = TensorUnpickler(file).load()
        dtypes = {storage[0]: storage[1] for storage, *_ in tensors.values()}
        storages = {}
        for key in keys:
            count = int.from_bytes(file.read(8), "little")
            dtype = dtypes[key]
            storages[key] = np.frombuffer(file.read(count * dtype.itemsize), dtype)
    weights = {}
    for name, (storage, offset, size, stride) in tensors.items():
        flat = storages[storage[0]][offset:]
        strides = [step * flat.itemsize for step in stride]
        weights[name] = np.ascontiguousarray(np.lib.stride_tricks.as_strided(flat, size, strides))
    return weights


class Graph:
    """An ONNX graph under construction."""

    def __init__(self, weights):
        self.weights, self.nodes, self.initializers = weights, [], []

    def constant(self, name, array):
        self.initializers.append(numpy_helper.from_array(np.ascontiguousarray(array), name))
        return name

    def node(self, op, inputs, output, **attributes):
        self.nodes.append(helper.make_node(op, inputs, [output], name=output, **attributes))
        return output

    def convolution(self, source, output, conv, norm, size, stride=1, group=1, relu6=True):
        """Convolution with its batch norm folded in, padded as TensorFlow's SAME: the odd pixel goes after.

        Returns the name of the result and its height (= width) in pixels.
        """
        gamma, beta, mean, variance = (
            self.weights[f"{norm}.{part}"].astype(np.float64)
            for part in ("weight", "bias", "running_mean", "running_var")
        )
        kernel = self.weights[f"{conv}.weight"].astype(np.float64)
        scale = gamma / np.sqrt(variance + BATCH_NORM_EPSILON)
        weight = self.constant(f"{output}.weight", (kernel * scale[:, None, None, None]).astype(np.float32))
        bias = self.constant(f"{output}.bias", (beta - mean * scale).astype(np.float32))
        side = kernel.shape[-1]
        size_out = -(-size // stride)
        padding = max((size_out - 1) * stride + side - size, 0)
        before, after = padding // 2, padding - padding // 2
        result = self.node(
            "Conv", [source, weight, bias], f"{output}.conv" if relu6 else output,
            kernel_shape=[side, side], strides=[stride, stride], pads=[before, before, after, after], group=group,
        )  # fmt: skip
        return (self.node("Clip", [result, "zero", "six"], output) if relu6 else result), size_out


def backbone(graph):
    """From `image` to `features` and `logits`."""
    graph.constant("zero", np.float32(0))
    graph.constant("six", np.float32(6))
    value, size = graph.convolution("image", "stem", "_conv_stem", "_bn0", IMAGE_SIZE, stride=2)
    for index, stride in enumerate(STRIDES):
        source, block, name = value, f"_blocks.{index}", f"block{index}"
        if f"{block}._expand_conv.weight" in graph.weights:
            value, size = graph.convolution(value, f"{name}.expand", f"{block}._expand_conv", f"{block}._bn0", size)
        channels = graph.weights[f"{block}._depthwise_conv.weight"].shape[0]
        value, size = graph.convolution(
            value, f"{name}.depthwise", f"{block}._depthwise_conv", f"{block}._bn1", size, stride, channels
        )
        value, size = graph.convolution(
            value, f"{name}.project", f"{block}._project_conv", f"{block}._bn2", size, relu6=False
        )
        # The first block of each stage changes the width, so that nothing can be added to its input.
        first = graph.weights.get(f"{block}._expand_conv.weight")
        width_in = channels if first is None else first.shape[1]
        if stride == 1 and width_in == graph.weights[f"{block}._project_conv.weight"].shape[0]:
            value = graph.node("Add", [value, source], f"{name}.sum")
    value, _ = graph.convolution(value, "head", "_conv_head", "_bn1", size)
    pooled = graph.node("GlobalAveragePool", [value], "pooled")
    features = graph.node("Flatten", [pooled], "features", axis=1)
    weight = graph.constant("classifier.weight", graph.weights["_fc.weight"])
    bias = graph.constant("classifier.bias", graph.weights["_fc.bias"])
    return graph.node("Gemm", [features, weight, bias], "logits", transB=1)


def unit(vectors):
    return vectors / np.linalg.norm(vectors, axis=-1, keepdims=True)


def class_embeddings(labels, model, tokenizer_file):
    """Centred MiniLM embeddings of the labels, one row each.

    Sentences run one at a time: the model quantises activations per tensor, so that a batch would change its members.
    """
    tokenizer = tokenizers.Tokenizer.from_file(tokenizer_file)
    tokenizer.no_padding()
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    rows = []
    for label in labels:
        ids = np.array([tokenizer.encode(f"a photo of a {label}").ids], np.int64)
        feed = {"input_ids": ids, "attention_mask": np.ones_like(ids), "token_type_ids": np.zeros_like(ids)}
        rows.append(session.run(None, feed)[0][0].mean(axis=0))
    rows = unit(np.stack(rows).astype(np.float64))
    return (rows - rows.mean(axis=0)).astype(np.float32)


def text_head(graph, logits, embeddings):
    """From `logits` to `text_space`."""
    temperature = graph.constant("temperature", np.float32(SOFTMAX_TEMPERATURE))
    cooled = graph.node("Div", [logits, temperature], "cooled")
    probabilities = graph.node("Softmax", [cooled], "probabilities", axis=1)
    mean = graph.node("MatMul", [probabilities, graph.constant("class_embeddings", embeddings)], "text_mean")
    graph.node("LpNormalization", [mean], "text_space", axis=1, p=2)


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    for option in ("weights", "labels", "text-model", "tokenizer", "output"):
        parser.add_argument(f"--{option}", required=True)
    options = parser.parse_args()

    with open(options.labels, encoding="utf-8") as file:
        labels = [line for line in file.read().splitlines() if not line.startswith("#")]
    graph = Graph(read_weights(options.weights))
    logits = backbone(graph)
    if len(labels) != graph.weights["_fc.bias"].shape[0]:
        raise SystemExit(f"{options.labels} holds {len(labels)} labels, the classifier has 1000 classes")
    text_head(graph, logits, class_embeddings(labels, options.text_model, options.tokenizer))

    def tensor(name, *shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, ["N", *shape])

    model = helper.make_model(
        helper.make_graph(
            graph.nodes, "efficientnet_lite0",
            [tensor("image", 3, IMAGE_SIZE, IMAGE_SIZE)],
            [tensor("features", 1280), tensor("logits", 1000), tensor("text_space", 384)],
            graph.initializers,
        ),
        opset_imports=[helper.make_opsetid("", OPSET)], ir_version=IR_VERSION, producer_name="cenote",
    )  # fmt: skip
    onnx.checker.check_model(model)
    with open(options.output, "wb") as file:
        file.write(model.SerializeToString(deterministic=True))
        file.flush()
        os.fsync(file.fileno())


if __name__ == "__main__":
    main()
