"""A file of requests in OpenAI's batch format, answered many at a time: `chatglm-cpp batch`, which is also
`python -m chatglm_cpp.batch`.

| module | |
|---|---|
| `records` | a line of the input, and the line of the output that answers it |
| `answers` | from lines to records, many at a time |
| `endpoints` | the server's endpoints without a network; alone in needing `chatglm-cpp[server]` |
| `files` | the input, and an output that a kill at any moment leaves whole |
| `run` | from file to file |
| `ray_data` | the same by the engines of a cluster; alone in needing `chatglm-cpp[ray]` |

docs/batch.md says how to use it.
"""

from .answers import Endpoints, answer_lines
from .records import Line
from .run import Outcome, run_batch

__all__ = ["Endpoints", "Line", "Outcome", "answer_lines", "run_batch"]
