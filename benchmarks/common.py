"""What the benchmarks of this folder share."""
import json
from pathlib import Path

from fsskit.fetch import atomic_write


CARDS = Path(__file__).resolve().parents[1] / 'weights'


def fill_card(card: Path, table: str, made_by: str) -> None:
    "Put a table under the heading 'Measured quality' of a model card, instead of what stands there."
    text, heading, _ = card.read_text().partition('## Measured quality\n')
    if not heading: raise SystemExit(f"'{card}' has no section 'Measured quality'.")
    with atomic_write(card, 'w') as file: file.write(f'{text}{heading}\nMade by `{made_by}`.\n\n{table}')


def write_results(out: Path, content: dict, table: str) -> None:
    "The result as JSON in `out` and the table as Markdown beside it, each in one step."
    with atomic_write(out, 'w') as file: file.write(json.dumps(content, indent=1) + '\n')
    with atomic_write(out.with_suffix('.md'), 'w') as file: file.write(table)
