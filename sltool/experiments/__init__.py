"""The paper's comparisons: arms, sweeps, statistics, figures and the report.

Stands above both sides, as `cli/` does: it plays all the sites and the server on one machine.
"""
