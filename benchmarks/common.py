"""What the benchmarks of this folder share."""
import json
from pathlib import Path

from fsskit.fetch import atomic_write


def write_results(out: Path, content: dict, table: str) -> None:
    "The result as JSON in `out` and the table as Markdown beside it, each in one step."
    with atomic_write(out, 'w') as file: file.write(json.dumps(content, indent=1) + '\n')
    with atomic_write(out.with_suffix('.md'), 'w') as file: file.write(table)
