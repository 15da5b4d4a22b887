"""The classroom: releases assignments, grades submissions in a sandbox, writes feedback.

`python -m avi_classroom --help` lists the commands; the Makefile has them as targets. It lies
outside `avi` so that a change here makes no lesson stale.
"""
