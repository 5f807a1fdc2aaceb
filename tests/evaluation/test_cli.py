"""``isogloss report`` and ``isogloss win-rate``."""

from __future__ import annotations

from pathlib import Path

import pytest
from typer.testing import CliRunner

from cli import app
from configs.errors import UserError
from tests.evaluation.test_report import make_run

HEADER = "item,preference,baseline_chars,model_chars\n"


def judged(path: Path, shift: int) -> Path:
    rows = (
        f"{i},{1.9 if (i * 7 + shift) % 5 > 2 else 1.1},{900 + 13 * i},{700 + 37 * ((i * shift) % 19)}"
        for i in range(60)
    )
    path.write_text(HEADER + "\n".join(rows) + "\n", encoding="utf-8")
    return path


def test_report(tmp_path: Path) -> None:
    run = make_run(tmp_path / "demo")
    other = make_run(tmp_path / "other")
    done = CliRunner().invoke(app, ["report", str(run), "--compare", str(other)], catch_exceptions=False)
    assert done.exit_code == 0
    assert done.output.strip().replace("\n", "") == str(run / "report.html")
    assert "en · other" in (run / "report.html").read_text(encoding="utf-8")
    text = CliRunner().invoke(app, ["report", str(run), "--format", "md"], catch_exceptions=False).output
    assert text.startswith("# demo")
    out = tmp_path / "sub.html"
    CliRunner().invoke(app, ["report", str(run), "--out", str(out)], catch_exceptions=False)
    assert out.is_file()
    with pytest.raises(UserError, match="no such folder"):
        CliRunner().invoke(app, ["report", str(tmp_path / "nowhere")], catch_exceptions=False)


def test_win_rate(tmp_path: Path) -> None:
    (tmp_path / "others").mkdir()
    for shift in range(2, 11):
        judged(tmp_path / "others" / f"m{shift}.csv", shift)
    mine = judged(tmp_path / "mine.csv", 1)
    arguments = ["win-rate", str(mine), "--others", str(tmp_path / "others"), "--language", "es"]
    text = CliRunner().invoke(app, arguments, catch_exceptions=False).output
    assert "| mine | 42.00 |" in text
    assert "| 60 | 0 | 0 | 0 | 9 models |" in text
    (tmp_path / "others" / "m10.csv").unlink()
    text = CliRunner().invoke(app, arguments, catch_exceptions=False).output
    assert "| – | – | 60 | 0 | 0 | 0 | – |" in text
    assert "mine: no length-controlled win rate from 9 models: it takes at least 10 judged" in text
    alone = CliRunner().invoke(app, ["win-rate", str(mine)], catch_exceptions=False).output
    assert "| – | – | 60 |" in alone
    assert "mine: no length-controlled win rate from 1 model: it takes at least 10 judged" in alone
    bare = tmp_path / "bare.csv"
    bare.write_text(HEADER + "0,2,,\n1,,,\n", encoding="utf-8")
    text = CliRunner().invoke(app, ["win-rate", str(bare)], catch_exceptions=False).output
    assert "| bare | 100.00 | 100.0 to 100.0 | – | – | 1 | 0 | 0 | 1 | – |" in text
    assert "bare: no length-controlled win rate: no verdict has the lengths of both answers" in text
    with pytest.raises(UserError, match="same name"):
        CliRunner().invoke(app, ["win-rate", str(mine), str(mine)], catch_exceptions=False)
    with pytest.raises(UserError, match="no such folder"):
        CliRunner().invoke(app, ["win-rate", str(mine), "--others", str(tmp_path / "no")], catch_exceptions=False)
