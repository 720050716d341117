"""report.html: one self-contained page of a run, a sweep, a comparison, a study, or a folder of runs.

Python gathers the data from the files of a folder (`run.py`, `comparison.py`, `study.py`, `index.py`) and puts it into
a document (`document.py`); the scripts in assets/ draw it. The charts are Observable Plot's, which stands on d3: both
are in assets/vendor/, with their licences. (uPlot is smaller, but it draws no intervals, bars or facets.)
"""
