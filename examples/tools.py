"""A model that calculates with a tool instead of guessing.

    python3 examples/tools.py -m chatglm3-6b.gguf "What is 12345 * 6789?"

Works with every model that knows tools: ChatGLM3, GLM-4, GLM-4-0414 and those whose chat template takes them.
"""

from __future__ import annotations

import argparse
import ast
import json
import operator
import sys
from collections.abc import Callable
from typing import Any

import chatglm_cpp

MAX_CALLS = 8
OPERATIONS: dict[type[ast.AST], Callable[..., float]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: operator.truediv,
    ast.Mod: operator.mod,
    ast.USub: operator.neg,
}


def calculate(expression: str) -> str:
    """Calculates an arithmetic expression of numbers, + - * / % and parentheses.

    Args:
        expression: for example (2 + 3) * 4.5
    """

    def value(node: ast.AST) -> float:
        if isinstance(node, ast.Constant) and isinstance(node.value, (int, float)):
            return node.value
        if isinstance(node, ast.BinOp) and type(node.op) in OPERATIONS:
            return OPERATIONS[type(node.op)](value(node.left), value(node.right))
        if isinstance(node, ast.UnaryOp) and type(node.op) in OPERATIONS:
            return OPERATIONS[type(node.op)](value(node.operand))
        raise ValueError(f"{ast.unparse(node)} is no arithmetic")

    # The text comes from a model: it is taken apart here and never evaluated.
    return str(value(ast.parse(expression, mode="eval").body))


def run(call: chatglm_cpp.ToolCallMessage, tools: dict[str, Callable[..., str]]) -> str:
    """The result of a call, or what is wrong with it: the model may try again."""
    if call.type != "function" or call.function.name not in tools:
        return f"error: there is no such tool; the tools are {', '.join(tools)}"
    try:
        return tools[call.function.name](**json.loads(call.function.arguments))
    except Exception as error:  # whatever the model asked for
        return f"error: {error}"


def answer(pipeline: chatglm_cpp.Pipeline, question: str, **options: Any) -> str:
    """The model's answer to `question`, after the calls that it asks for."""
    tools = {"calculate": calculate}
    messages: list[Any] = [{"role": "user", "content": question}]
    for _ in range(MAX_CALLS):
        reply = pipeline.chat(messages, tools=list(tools.values()), **options)
        if not reply.tool_calls:
            return reply.content
        messages.append(reply)
        for call in reply.tool_calls:
            result = run(call, tools)
            print(f"{call.function.name}({call.function.arguments}) = {result}")
            messages.append({"role": "tool", "tool_call_id": call.id, "content": result})
    return f"The model still asks for tools after {MAX_CALLS} rounds."


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("-m", "--model", required=True, help="GGUF file of a model that knows tools")
    parser.add_argument("question", nargs="?", default="What is 12345 * 6789?")
    args = parser.parse_args()
    try:
        print(answer(chatglm_cpp.Pipeline(args.model), args.question, do_sample=False))
    except (chatglm_cpp.Error, OSError) as error:
        sys.exit(f"error: {error}")


if __name__ == "__main__":
    main()
