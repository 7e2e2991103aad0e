"""The preset `recorded`: a study of one seed that is recorded on `tiny`; nothing is trained.

What needs a model is a `LeftOut`: a notebook's cell ends there, later ones where a name is unset.
"""

import ast
import dis
import sys
from typing import Any, NoReturn

from alignment_tax.results.recorded import recorded, recorded_items
from alignment_tax.skills import SkillScores
from alignment_tax.spec import Spec
from alignment_tax.store import Store

TABLES = "tiny"


class LeftOut(RuntimeError):
    """What was asked for is not recorded and would have to be made; the message says what."""


class RecordedStore(Store):
    """Holds the tables of data/results/tiny of one seed, and makes nothing."""

    def __init__(self, seed: int) -> None:
        run = recorded(TABLES)
        if seed not in run.seeds:
            raise ValueError(f"Seed {seed} is not recorded: choose from {run.seeds}.")
        own = run.points[run.points["seed"] == seed].to_dict("records")
        self.seed, self.rows = seed, {Spec.of_row(row): row for row in own}
        leave_out_cells()

    def get(self, stage: str, *args: Any, describe: str = "", **kwargs: Any) -> NoReturn:
        """Raise LeftOut: there are no artifacts."""
        raise LeftOut(describe or stage)

    def row(self, spec: Spec) -> dict[Any, Any]:
        """The row of a model in the table of points (LeftOut: there is none)."""
        if spec not in self.rows:
            raise LeftOut(f"{spec}, seed {self.seed}")
        return self.rows[spec]

    def scores(self, spec: Spec) -> SkillScores:
        """The skills of a model with every item (LeftOut: it is not recorded)."""
        key, items = self.row(spec)["key"], recorded_items(TABLES)
        own = items[(items["seed"] == self.seed) & (items["key"] == key)]
        # one suite was recorded, so the texts of its items are not told apart
        named = own.astype({"slot": str}).assign(fingerprint="").reset_index(drop=True)
        return SkillScores.of(named)


FRAME = """
_shown = None
try:
    pass
except Exception as _why:
    if not _left_out(_why):
        raise
_shown
"""


class LeaveOut(ast.NodeTransformer):
    """Ends a cell of a notebook where it needs what is left out; `names` are the notebook's."""

    def __init__(self, names: dict[str, Any]) -> None:
        self.names, self.missing = names, set[str]()
        self.cell: list[ast.stmt] = []
        names["_left_out"] = self.left_out

    def visit_Module(self, cell: ast.Module) -> ast.Module:
        """Return the cell inside a `try`, and behind it what it shows at its end."""
        self.cell, framed = cell.body, ast.parse(FRAME)
        block = framed.body[1]
        assert isinstance(block, ast.Try)
        block.body = [*cell.body] or block.body
        if isinstance(last := block.body[-1], ast.Expr):
            shown = ast.Assign([ast.Name("_shown", ast.Store())], last.value)
            block.body[-1] = ast.copy_location(shown, last)
        return ast.fix_missing_locations(framed)

    def left_out(self, error: Exception) -> bool:
        """Whether an error is of something left out; then say so, and unset what was not set."""
        name = error.name if isinstance(error, NameError) else None
        absent = isinstance(error, LeftOut) or isinstance(error.__cause__, LeftOut)
        if not (name in self.missing or absent) or not error.__traceback__:
            return False
        line = error.__traceback__.tb_lineno
        undone = [each for each in self.cell if (each.end_lineno or line) >= line]
        code = compile(ast.Module(undone, []), "cell", "exec")
        unset = {i.argval for i in dis.get_instructions(code) if i.opname == "STORE_NAME"}
        self.missing |= unset
        for each in unset:
            self.names.pop(each, None)
        why = f"`{name}`, left out above" if name else f"{error}, which is not recorded"
        print(f'Left out: this needs {why}. With preset = "{TABLES}" it is made.')
        return True


def leave_out_cells() -> None:
    """Let the cells of a notebook end where something is left out; elsewhere LeftOut is raised."""
    # IPython is loaded in every notebook; importing it elsewhere would only cost time
    shell = sys.modules["IPython"].get_ipython() if "IPython" in sys.modules else None
    if shell and not any(isinstance(each, LeaveOut) for each in shell.ast_transformers):
        shell.ast_transformers.append(LeaveOut(shell.user_ns))
