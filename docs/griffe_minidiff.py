"""What the reference shows otherwise than griffe reads it in the source: mkdocs.yml names this file."""

import re
from typing import Any

from griffe import Extension, Function, Object, ParameterKind


class AsCalled(Extension):
    """Ops with the parameters that a caller gives; numpydoc's shapes and references as they are meant."""

    def on_function(self, *, func: Function, **_: Any) -> None:
        """Leave out `xp`, and make `*arrays` one sequence, as `minidiff.autodiff.op` does."""
        if "op" in {str(decorator.value).partition("(")[0] for decorator in func.decorators}:
            del func.parameters["xp"]
            for parameter in func.parameters:
                if parameter.kind is ParameterKind.var_positional:
                    parameter.kind, parameter.default = ParameterKind.positional_only, None

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Turn references into Markdown, and undo what reading "array, shape (N, C)" as Python makes of it."""
        if obj.docstring is None:
            return
        text = re.sub(r"\[(\d+)\]_", r"\\[\1\\]", obj.docstring.value)
        obj.docstring.value = re.sub(r"^( *)\.\. \[(\d+)\] ", r"\1\2. ", text, flags=re.MULTILINE)
        for section in obj.docstring.parsed:
            for item in section.value if isinstance(section.value, list) else ():
                annotation = str(getattr(item, "annotation", None))
                if annotation.startswith("(array, shape("):  # str() of a tuple with a call in it
                    item.annotation = annotation[1:-1].replace("shape", "shape ", 1)
