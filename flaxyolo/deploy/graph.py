"""A graph of ONNX operators that grows node by node."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

OPSET = 17
IR_VERSION = 8
"""What readers of 2022 and later take (onnx 1.12)."""


@dataclass(frozen=True)
class Node:
    """One operator with the names of what it reads and makes."""

    operator: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    attributes: dict[str, Any]


@dataclass
class Graph:
    """Nodes in an order in which they can run, and the arrays that they read."""

    nodes: list[Node] = field(default_factory=list)
    constants: dict[str, np.ndarray] = field(default_factory=dict)
    _known: dict[tuple[Any, ...], str] = field(default_factory=dict)
    _made: dict[str, Node] = field(default_factory=dict)

    def constant(self, array: Any) -> str:
        """The name of an array; equal ones have one."""
        array = np.asarray(array)
        key = (array.shape, array.dtype.str, array.tobytes())
        if key not in self._known:
            name = f"constant_{len(self._known)}"
            self._known[key] = name
            self.constants[name] = array
        return self._known[key]

    def add(self, operator: str, *inputs: str, outputs: int = 1, **attributes: Any) -> str:
        """One more node; the name of its first output (see `outputs_of`)."""
        stem = f"{operator.lower()}_{len(self.nodes)}"
        made = (stem, *(f"{stem}_{index}" for index in range(1, outputs)))
        node = Node(operator, inputs, made, attributes)
        self.nodes.append(node)
        self._made |= dict.fromkeys(made, node)
        return stem

    def maker(self, name: str) -> Node | None:
        """The node that makes a value; None for inputs and constants."""
        return self._made.get(name)

    def outputs_of(self, name: str) -> tuple[str, ...]:
        """All outputs of the node that makes this one."""
        return self._made[name].outputs

    def model(
        self,
        inputs: Sequence[tuple[str, Any, Sequence[int | str]]],
        outputs: Sequence[tuple[str, str, Any, Sequence[int | str]]],
        metadata: dict[str, str],
    ) -> Any:
        """The checked ModelProto.

        `inputs` are name, dtype and shape; `outputs` the name they get, the name they have, dtype
        and shape. What no output needs is left out.
        """
        import onnx
        from onnx import helper, numpy_helper

        renamed = {old: new for new, old, _, _ in outputs}
        kept = self._needed([old for _, old, _, _ in outputs])
        nodes = [
            helper.make_node(
                node.operator,
                [renamed.get(name, name) for name in node.inputs],
                [renamed.get(name, name) for name in node.outputs],
                name=node.outputs[0],
                **node.attributes,
            )
            for node in kept
        ]
        read = {name for node in kept for name in node.inputs}
        arrays = [
            numpy_helper.from_array(np.ascontiguousarray(array), name)
            for name, array in self.constants.items()
            if name in read
        ]

        def described(name: str, dtype: Any, shape: Sequence[int | str]) -> Any:
            kind = helper.np_dtype_to_tensor_dtype(np.dtype(dtype))
            return helper.make_tensor_value_info(name, kind, list(shape))

        graph = helper.make_graph(
            nodes,
            "flaxyolo",
            [described(*each) for each in inputs],
            [described(new, dtype, shape) for new, _, dtype, shape in outputs],
            arrays,
        )
        model = helper.make_model(
            graph,
            opset_imports=[helper.make_opsetid("", OPSET)],
            ir_version=IR_VERSION,
            producer_name="flaxyolo",
        )
        helper.set_model_props(model, metadata)
        onnx.checker.check_model(model, full_check=True)
        return model

    def _needed(self, names: Sequence[str]) -> list[Node]:
        """The nodes that these values come from, in order."""
        wanted, kept = set(names), []
        for node in reversed(self.nodes):
            if wanted.intersection(node.outputs):
                wanted.update(node.inputs)
                kept.append(node)
        return kept[::-1]
