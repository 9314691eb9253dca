"""The network as Caffe sees it, layer by layer, and its deploy.prototxt."""

from collections.abc import Callable
from dataclasses import dataclass

from open_nsfw_tf.architecture import (
    BLOCKS,
    CHANNELS,
    CLASSES,
    DENSE,
    FEATURES,
    INPUT_SIZE,
    POOL_SIZE,
    POOL_STRIDE,
    STEM,
    Convolution,
)

NETWORK = "ResNet_50_1by2_nsfw"


@dataclass(frozen=True)
class CaffeLayer:
    """One layer as the prototxt has it.

    Attributes:
        name: of the layer.
        kind: Caffe's type.
        bottoms: what goes in.
        top: what comes out; the only bottom, where it works in place.
        conv: the convolution that it is or follows; `STEM` for other kinds.
        options: its parameters as the prototxt writes them.
        classes: outputs of the last layer.
    """

    name: str
    kind: str
    bottoms: tuple[str, ...]
    top: str
    conv: Convolution = STEM
    options: str = ""
    classes: int = CLASSES

    @property
    def shapes(self) -> list[tuple[int, ...]]:
        """Of its blobs, in their order; empty where it has none."""
        return _SHAPES[self.kind](self) if self.kind in _SHAPES else []


def _kernel(conv: Convolution) -> tuple[int, ...]:
    return (conv.outputs, conv.inputs, conv.kernel, conv.kernel)


_SHAPES: dict[str, Callable[[CaffeLayer], list[tuple[int, ...]]]] = {
    "Convolution": lambda a: [_kernel(a.conv), (a.conv.outputs,)],
    "BatchNorm": lambda a: [(a.conv.outputs,), (a.conv.outputs,), (1,)],
    "Scale": lambda a: [(a.conv.outputs,)] * 2,
    "InnerProduct": lambda a: [(a.classes, FEATURES), (a.classes,)],
}


def caffe_layers(classes: int = CLASSES) -> list[CaffeLayer]:
    """Every layer in the order of Yahoo's deploy.prototxt, with so many outputs."""
    sides = f"dim: 1 dim: {CHANNELS} dim: {INPUT_SIZE} dim: {INPUT_SIZE}"
    options = f"input_param {{ shape {{ {sides} }} }}"
    layers = [CaffeLayer("data", "Input", (), "data", options=options)]
    layers += _convolution(STEM, "data") + [_relu("conv_1", STEM.place)]
    options = f"pool: MAX kernel_size: {POOL_SIZE} stride: {POOL_STRIDE}"
    at = "pool1"
    layers.append(_pooling(at, "conv_1", options))
    for stage in BLOCKS:
        for block in stage:
            shortcut = at
            if block.projection:
                layers += _convolution(block.projection, at)
                shortcut = layers[-1].top
            for conv in block.main:
                layers += _convolution(conv, at)
                at = layers[-1].top
                if conv is not block.main[-1]:
                    layers.append(_relu(at, conv.place))
            total = f"eltwise_{block.place}"
            layers.append(CaffeLayer(total, "Eltwise", (shortcut, at), total))
            at = total
            layers.append(_relu(at, block.place))
    layers.append(_pooling("pool", at, "pool: AVE kernel_size: 7 stride: 1"))
    last = CaffeLayer(
        DENSE,
        "InnerProduct",
        ("pool",),
        DENSE,
        options=f"inner_product_param {{ num_output: {classes} }}",
        classes=classes,
    )
    layers.append(last)
    return [*layers, CaffeLayer("prob", "Softmax", (DENSE,), "prob")]


def _convolution(conv: Convolution, bottom: str) -> list[CaffeLayer]:
    """A convolution with its batch norm and scale, which work in place."""
    top = f"conv_{conv.place}"
    options = (
        f"convolution_param {{ num_output: {conv.outputs} pad: {conv.padding} "
        f"kernel_size: {conv.kernel} stride: {conv.stride} }}"
    )
    norm = "batch_norm_param { use_global_stats: true }"
    scale = "scale_param { bias_term: true }"
    return [
        CaffeLayer(top, "Convolution", (bottom,), top, conv, options),
        CaffeLayer(f"bn_{conv.place}", "BatchNorm", (top,), top, conv, norm),
        CaffeLayer(f"scale_{conv.place}", "Scale", (top,), top, conv, scale),
    ]


def _relu(at: str, place: str) -> CaffeLayer:
    return CaffeLayer(f"relu_{place}", "ReLU", (at,), at)


def _pooling(name: str, bottom: str, options: str) -> CaffeLayer:
    options = f"pooling_param {{ {options} }}"
    return CaffeLayer(name, "Pooling", (bottom,), name, options=options)


def prototxt(classes: int = CLASSES) -> str:
    """The deploy.prototxt of our caffemodels, for whatever runs Caffe networks.

    It says what Yahoo's says - input ``data`` (1, 3, 224, 224), BGR, 0..255 minus
    (104, 117, 123); output ``prob``, SFW and NSFW, or other classes - without what only training
    needs.
    """
    lines = [f'name: "{NETWORK}"']
    for layer in caffe_layers(classes):
        lines += ["layer {", f'  name: "{layer.name}"', f'  type: "{layer.kind}"']
        lines += [f'  bottom: "{bottom}"' for bottom in layer.bottoms]
        lines += [f'  top: "{layer.top}"']
        lines += [f"  {layer.options}"] if layer.options else []
        lines += ["}"]
    return "\n".join(lines) + "\n"
