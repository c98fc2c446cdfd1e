"""Miniature ONNX models in the layouts of released ones, whose answers are known: a face is a red square."""

import numpy as np
import onnx
from onnx import TensorProto, helper
from PIL import Image

CELL = 32
RED = (255, 0, 0)


def scene(size, face=None, side=64, back=(90, 90, 90)):
    """A grey picture with a red square, its top left corner at `face`."""
    picture = Image.new("RGB", size, back)
    if face is not None:
        picture.paste(RED, (*face, face[0] + side, face[1] + side))
    return picture


def _saved(path, nodes, inputs, outputs, constants, kind=TensorProto.FLOAT):
    made = [onnx.numpy_helper.from_array(np.asarray(value), name) for name, value in constants.items()]
    tensors = [[helper.make_tensor_value_info(n, kind, s) for n, s in part] for part in (inputs, outputs)]
    graph = helper.make_graph(nodes, "miniature", *tensors, made)
    path.parent.mkdir(parents=True, exist_ok=True)
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=9), path)
    return path


def _redness(red, other, unit):
    """Nodes that say of each cell how far it is red and nothing else, 0 to 1: `score` [1, 1, rows, columns]."""
    return [
        helper.make_node("AveragePool", ["images"], ["cells"], kernel_shape=[CELL, CELL], strides=[CELL, CELL]),
        helper.make_node("Split", ["cells"], ["c0", "c1", "c2"], axis=1, num_outputs=3),
        helper.make_node("Sub", [f"c{red}", f"c{other}"], ["difference"]),
        helper.make_node("Mul", ["difference", "unit"], ["scaled"]),
        helper.make_node("Clip", ["scaled", "zero"], ["score"]),
    ], {"unit": np.float32(1 / unit), "zero": np.float32(0)}


def yolo(path, width=640, height=640, open_sides=False, rows=5):
    """YOLOv8's layout [1, 5, places]: around all that is red one box of its middle and area, twice, once less sure.

    `open_sides`: as exports with dynamic axes say it; `rows`: as for more classes than one."""
    nodes, constants = _redness(0, 1, 1.0)
    across, down = np.meshgrid(np.arange(width // CELL), np.arange(height // CELL))
    for name, axis in (("across", across), ("down", down)):
        constants[name] = ((axis + 0.5) * CELL)[None, None].astype(np.float32)
        nodes.append(helper.make_node("Mul", ["score", name], [f"{name}s"]))
        nodes.append(helper.make_node("ReduceSum", [f"{name}s", "axes"], [f"{name}_sum"], keepdims=0))
        nodes.append(helper.make_node("Div", [f"{name}_sum", "total"], [f"{name}_mean"]))
    constants |= {"axes": np.array([2, 3], np.int64), "cell": np.float32(CELL), "one": np.float32(1)}
    constants |= {"little": np.float32(1e-6), "column": np.array([1, -1, 1], np.int64)}
    constants["sureness"] = np.array([[[1, 0.9]]], np.float32)
    constants["as it is"] = np.ones((1, 4, 2), np.float32)
    head = [
        helper.make_node("ReduceSum", ["score", "axes"], ["sum"], keepdims=0),
        helper.make_node("Add", ["sum", "little"], ["total"]),
        helper.make_node("Sqrt", ["total"], ["root"]),
        helper.make_node("Mul", ["root", "cell"], ["side"]),
        helper.make_node("Clip", ["sum", "", "one"], ["sure"]),
    ]
    tail = [
        helper.make_node("Concat", ["across_mean", "down_mean", "side", "side"], ["box"], axis=1),
        helper.make_node("Reshape", ["box", "column"], ["boxed"]),
        helper.make_node("Mul", ["boxed", "as it is"], ["boxes"]),
        helper.make_node("Reshape", ["sure", "column"], ["sured"]),
        helper.make_node("Mul", ["sured", "sureness"], ["scores"]),
        helper.make_node("Concat", ["boxes", *["scores"] * (rows - 4)], ["output0"], axis=1),
    ]
    sides = ["height", "width"] if open_sides else [height, width]
    made = nodes[:5] + head + nodes[5:] + tail
    return _saved(path, made, [("images", [1, 3, *sides])], [("output0", [1, rows, 2])], constants)


def yunet(path, side=640):
    """YuNet's layout, blue-green-red from 0 to 255: only stride 32 finds anything, boxes of half a cell."""
    nodes, constants = _redness(2, 1, 255.0)
    outputs = []
    for stride in (8, 16, 32):
        places = (side // stride) ** 2
        values = {"obj": np.full((1, places, 1), 1.3), "kps": np.zeros((1, places, 10))}
        values["bbox"] = np.broadcast_to([0.5, 0.25, np.log(0.5), np.log(0.5)], (1, places, 4))
        if stride == CELL:
            constants["flat"] = np.array([1, places, 1], np.int64)
            nodes.append(helper.make_node("Reshape", ["score", "flat"], [f"cls_{stride}"]))
        else:
            values["cls"] = np.zeros((1, places, 1))
        for name, value in values.items():
            constants[f"{name}{stride}"] = value.astype(np.float32)
            nodes.append(helper.make_node("Identity", [f"{name}{stride}"], [f"{name}_{stride}"]))
        last = {"cls": 1, "obj": 1, "bbox": 4, "kps": 10}
        outputs += [(f"{name}_{stride}", [1, places, length]) for name, length in last.items()]
    return _saved(path, nodes, [("images", [1, 3, side, side])], outputs, constants)


def matting(path, side=32, open_sides=False, kind=TensorProto.FLOAT, wrong=False):
    """rembg's layout [1, 3, side, side] -> [1, 1, side, side]: the value is the red channel as the model gets it.

    `wrong`: runs into an error, as a damaged file does."""
    nodes = [
        helper.make_node("Split", ["images"], ["output", "green", "blue"], axis=1, num_outputs=3),
        helper.make_node("Identity", ["green"], ["further"]),  # U²-Net gives its inner maps as well
    ]
    constants = {"beyond": np.array([9999], np.int64)} if wrong else {}
    if wrong:
        nodes[1] = helper.make_node("Gather", ["green", "beyond"], ["further"], axis=2)
    sides = ["height", "width"] if open_sides else [side, side]
    outputs = [("output", [1, 1, *sides]), ("further", [1, 1, *sides])]
    return _saved(path, nodes, [("images", [1, 3, *sides])], outputs, constants, kind)
