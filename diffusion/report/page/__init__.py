"""report.html: one self-contained page of a run, a sweep, a comparison, a study, or a folder of runs.

Python collects the data from the files of a folder (`run.py`, `comparison.py`, `study.py`, `index.py`) and embeds it in
a document (`document.py`); the scripts in assets/ draw it. Charts use Observable Plot, which is based on d3; both are
in assets/vendor/, with their licences. (uPlot is smaller, but it cannot draw intervals, bars or facets.)
"""
