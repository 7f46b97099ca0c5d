"""The curves of the report: each file is a group of charts.

A file has `TITLE` (of the group), `PLACE` (groups stand in the order of it) and
`charts(metrics, plan)`, which gives the charts that there are figures for. A new file
is a new group; nothing else has to name it.
"""
