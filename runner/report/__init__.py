"""Read-only views of the ledger: the summary of a run, status, costs, export.

Owns the words and shapes in which the ledger's figures reach people and scripts. Refuses to write anything but to the
stream it is given, and to print.
"""
