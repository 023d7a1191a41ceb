"""What a running machine counts, for programs: `pyvmm stat` and `--metrics`.

General layout:

    counters.py     all counters of a machine, as data
    prometheus.py   the same in Prometheus's text format, and who is given it over HTTP
"""
