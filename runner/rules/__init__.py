"""Decisions: when (`pacing`), how many (`concurrency`), whether (`retry`), may we (`budget`), how much (`pricing`).

Owns the policy of the runner as values and functions of their arguments: the time and the dice are passed in. Refuses
clocks, randomness, files, sockets and the database, so that every rule can be tested at any instant of any night.
"""
