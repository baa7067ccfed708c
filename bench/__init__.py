"""What a read costs, beside peers that somebody would otherwise use, in the same run on the same machine.

`make bench` runs it and writes `bench/RESULTS.md`. Figures of different machines, or of different runs, say nothing
about each other: what counts is the ratio within one run.
"""
