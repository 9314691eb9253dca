"""Checkpoint, graph, frozen and optimised graph, for software with TensorFlow sessions.

The input is called ``input:0`` and the scores ``predictions:0`` in all of them, as in
the first port. The optimised graph has the batch norms folded into the convolutions.
All of them refuse NaN and infinity, in the input and in the scores.
"""

from pathlib import Path
from typing import Any

import numpy as np

from open_nsfw_tf.engines.tensorflow import keep_float32, keras_network
from open_nsfw_tf.export import Job
from open_nsfw_tf.export.savedmodel import as_inputs
from open_nsfw_tf.libraries import disk_errors, import_tensorflow
from open_nsfw_tf.model import LOADERS, InputType, OpenNsfwModel, compile_network
from open_nsfw_tf.tf_image import require_finite

NAME = "open_nsfw"
INPUT, BATCH, OUTPUT = "input", "batch", "predictions"


def write(path: Path, job: Job) -> None:
    """Write a folder with the checkpoint and up to three graphs."""
    tf = import_tensorflow()
    path.mkdir()
    suffix = "pbtxt" if job.text else "pb"
    loader, network = _loader(job), _network(job, fold=False)
    variables = _with_variables(loader, network, path / f"{NAME}.ckpt")
    graphs = {f"{NAME}.{suffix}": variables}
    if job.freeze:
        graphs[f"frozen_{NAME}.{suffix}"] = _frozen(loader, network)
    if job.optimize and not job.model.is_open_nsfw:
        job.notes.append("no optimised graph: only Yahoo's network has one")
    elif job.optimize:
        folded = _network(job, fold=True)
        graphs[f"optimized_{NAME}.{suffix}"] = _frozen(loader, folded)
    for name, graph in graphs.items():
        with disk_errors():
            tf.io.write_graph(graph, str(path), name, as_text=job.text)


def _network(job: Job, fold: bool) -> tuple[Any, str, str]:
    """The network from a preprocessed batch to the scores, with constant weights.

    Returns:
        The GraphDef, and the names of its input and its output tensor.
    """
    import_tensorflow()
    from tensorflow.python.framework.convert_to_constants import (
        convert_variables_to_constants_v2,
    )

    if job.model.is_open_nsfw:
        model = OpenNsfwModel()
        model.build_from(job.weights, fold=fold)
        network = model.keras_model
    else:
        network = keras_network(job.model)
    function = compile_network(network)
    graph = convert_variables_to_constants_v2(function).graph
    return graph.as_graph_def(), graph.inputs[0].name, graph.outputs[0].name


def _loader(job: Job) -> Any:
    """The GraphDef from the input to a preprocessed batch."""
    tf = import_tensorflow()
    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph:
        if job.input_type == "tensor":
            batch = v1.placeholder(tf.float32, (None, *job.shape), INPUT)
            batch = require_finite(batch, "values")
        else:
            strings = v1.placeholder(tf.string, (None,), INPUT)
            batch = LOADERS[InputType(job.input_type)](strings, job.preprocessing)
        tf.identity(batch, name=BATCH)
        return graph.as_graph_def()


def _frozen(loader: Any, network: Any) -> Any:
    """The GraphDef from the input to the predictions."""
    tf = import_tensorflow()
    with tf.Graph().as_default() as graph:
        _connect(loader, network, {})
        return _needed(graph.as_graph_def(), {OUTPUT})


def _connect(loader: Any, network: Any, replaced: dict[str, Any]) -> None:
    """Put the network into the current graph, behind the loader of its input type."""
    tf = import_tensorflow()
    (batch,) = tf.graph_util.import_graph_def(
        loader, return_elements=[f"{BATCH}:0"], name=""
    )
    definition, source, target = network
    (scores,) = tf.graph_util.import_graph_def(
        definition,
        input_map={source: batch, **replaced},
        return_elements=[target],
        name="network",
    )
    tf.identity(require_finite(scores, "scores"), name=OUTPUT)


def _with_variables(loader: Any, network: Any, checkpoint: Path) -> Any:
    """The same graph with the weights as variables, which are saved in a checkpoint."""
    tf = import_tensorflow()
    v1 = tf.compat.v1
    with tf.Graph().as_default() as graph, v1.Session(graph=graph) as session:
        replaced, variables = {}, []
        for node in network[0].node:
            if node.op == "Const" and node.name.endswith("/resource"):
                # A plain variable: its value is the tensor itself, not a resource.
                variable = v1.get_variable(
                    node.name.removesuffix("/resource"),
                    initializer=tf.make_ndarray(node.attr["value"].tensor),
                    use_resource=False,
                )
                variables.append(variable)
                replaced[f"{node.name}:0"] = variable.value()
        _connect(loader, network, replaced)
        saver = v1.train.Saver(variables, save_relative_paths=True)
        session.run(v1.global_variables_initializer())
        with disk_errors():
            saver.save(session, str(checkpoint), write_meta_graph=False)
        saving = saver.saver_def.save_tensor_name.split(":")[0]
        ends = {OUTPUT, saver.saver_def.restore_op_name, saving}
        return _needed(graph.as_graph_def(), ends)


def _needed(graph: Any, ends: set[str]) -> Any:
    """The graph without the nodes that none of the ends depends on.

    These are the constants that were replaced by variables, and the variables' initial
    values: both would store the weights again.
    """
    tf = import_tensorflow()
    nodes = {node.name: node for node in graph.node}
    ahead, used = list(ends), set()
    while ahead:
        name = ahead.pop()
        if name not in used:
            used.add(name)
            inputs = nodes[name].input
            ahead += [source.lstrip("^").split(":")[0] for source in inputs]
    pruned = tf.compat.v1.GraphDef()
    pruned.CopyFrom(graph)
    del pruned.node[:]
    pruned.node.extend(node for node in graph.node if node.name in used)
    return pruned


def scores(path: Path, job: Job) -> np.ndarray:
    """The scores of a session with each of the graphs, one after the other."""
    keep_float32()
    inputs = as_inputs(job, job.input_type)
    files = sorted(path.glob("*.pb*"))
    return np.concatenate([_run(file, path, inputs) for file in files])


def _run(file: Path, folder: Path, inputs: Any) -> np.ndarray:
    tf = import_tensorflow()
    v1 = tf.compat.v1
    # Without TensorFlow's optimizer, which takes seconds for a graph that runs once.
    config = v1.ConfigProto()
    config.graph_options.rewrite_options.disable_meta_optimizer = True
    with tf.Graph().as_default(), v1.Session(config=config) as session:
        graph = read_graph(file)
        tf.graph_util.import_graph_def(graph, name="")
        if any(node.op == "RestoreV2" for node in graph.node):
            checkpoint = {"save/Const:0": str(folder / f"{NAME}.ckpt")}
            session.run("save/restore_all", checkpoint)
        answer = session.run(f"{OUTPUT}:0", {f"{INPUT}:0": inputs})
    return np.asarray(answer, dtype=np.float32)


def read_graph(file: Path) -> Any:
    """Parse a GraphDef, binary or text."""
    tf = import_tensorflow()
    graph = tf.compat.v1.GraphDef()
    if file.suffix == ".pbtxt":
        from google.protobuf import text_format

        return text_format.Parse(file.read_text(encoding="utf-8"), graph)
    graph.ParseFromString(file.read_bytes())
    return graph
