"""Write the numbers of a study's runs, and the protocol of each column, into docs/results/STUDY.

python docs/results/commit.py STUDY     # after diffusion reproduce; diffusion compare makes the pages and figures
"""

import csv
import json
import sys
from datetime import date
from pathlib import Path

from diffusion.extras.reproduce import read
from diffusion.findings.compare import compare


def commit(study: str, runs: Path = Path("outputs/results"), results: Path = Path(__file__).parent) -> None:
    """Write SWEEP.csv, with a row per recipe and seed, for each sweep of the study, and record.json."""
    (results / study).mkdir(parents=True, exist_ok=True)
    code, protocols = set(), {}
    for sweep in read(study).sweeps:
        comparison = compare([runs / study / sweep])
        columns = [column for column in comparison.columns if column.name != "seconds"]
        protocols[sweep] = {column.name: column.words for column in columns}
        with (results / study / f"{sweep}.csv").open("w", encoding="utf-8", newline="") as file:
            table = csv.writer(file)
            table.writerow([*comparison.settings, "seed", *protocols[sweep]])
            for row, run in comparison.runs:
                values = [column.values.get(run, "") for column in columns]
                table.writerow([*row.settings.values(), "/".join(map(str, run.seeds)), *values])
                code |= {score.code for score in run.scores if score.code}
    record = {"date": f"{date.today()}", "code": sorted(code), "sweeps": protocols}
    text = json.dumps(record, indent=1, ensure_ascii=False) + "\n"
    (results / study / "record.json").write_text(text, encoding="utf-8")


if __name__ == "__main__":
    commit(sys.argv[1])
