"""How a run ended, in one value: counts, money, and the exit code that follows from them.

Owns the exit code's meaning (the table in `docs/design.md`).
"""

from __future__ import annotations

from runner.engine.events import Summary
from runner.engine.tally import Tally
from runner.errors import RunnerError, TimeLimit
from runner.ledger import Job, Ledger
from runner.tasks import Status

FAILURES_REMAIN, INTERRUPTED = 4, 130


def summarise(
    ledger: Ledger,
    job: Job,
    run_id: int,
    *,
    provider: str,
    simulated: bool,
    error: RunnerError | None,
    interrupted: bool,
    limited: bool,
    elapsed_s: float,
    images: str,
    composites: Tally,
    renditions: Tally,
) -> Summary:
    """Sum up a run from the ledger. `error` is what ended it early, `limited` whether it had a `--limit`."""
    statuses = ledger.statuses(job)
    this_run = ledger.spending(job, simulated=simulated, run_id=run_id)
    doubt_microusd = ledger.doubt_found(run_id, simulated=simulated)
    all_runs = ledger.spending(job, simulated=simulated)
    requests, made = ledger.requests(run_id)
    unfinished = statuses[Status.PLANNED] + statuses[Status.RUNNING]
    submitted = statuses[Status.SUBMITTED]
    bad = statuses[Status.FAILED] + statuses[Status.REFUSED] + statuses[Status.IN_DOUBT]
    doubtful = statuses[Status.IN_DOUBT]
    cut = interrupted and unfinished + doubtful + submitted > 0
    code, reason = _ending(error, cut=cut, limited=limited, unfinished=unfinished, bad=bad, submitted=submitted)
    for what, tally in (("composites", composites), ("renditions", renditions)):
        if code == 0 and tally.failed:
            code, reason = FAILURES_REMAIN, f"ended, but {tally.failed} {what} could not be made"
    real = 0 if simulated else 1
    return Summary(
        job=job.name,
        run_id=run_id,
        provider=provider,
        simulated=simulated,
        wanted=job.wanted,
        done=statuses[Status.DONE],
        made=made,
        reused=ledger.reused(job),
        planned=unfinished,
        failed=statuses[Status.FAILED],
        refused=statuses[Status.REFUSED],
        in_doubt=statuses[Status.IN_DOUBT],
        requests=requests,
        cost_usd=real * this_run.settled_microusd / 1e6,
        in_doubt_usd=real * doubt_microusd / 1e6,
        simulated_cost_usd=(1 - real) * this_run.settled_microusd / 1e6,
        simulated_in_doubt_usd=(1 - real) * doubt_microusd / 1e6,
        cost_microusd=this_run.settled_microusd,
        in_doubt_microusd=doubt_microusd,
        job_cost_usd=all_runs.settled_microusd / 1e6,
        job_in_doubt_usd=all_runs.in_doubt_microusd / 1e6,
        elapsed_s=round(elapsed_s, 3),
        exit_code=code,
        reason=reason,
        images=images,
        ledger=str(ledger.place),
        composites=composites.made,
        composites_failed=composites.failed,
        renditions=renditions.made,
        renditions_failed=renditions.failed,
        submitted=submitted,
        batches=len(ledger.batches.open(job)),
        problems=ledger.problems(job),
    )


def _ending(
    error: RunnerError | None, *, cut: bool, limited: bool, unfinished: int, bad: int, submitted: int
) -> tuple[int, str]:
    # Time that was over when everything had been made, or was on its way, has stopped nothing.
    if error is not None and not (isinstance(error, TimeLimit) and unfinished == 0):
        return error.exit_code, str(error)
    if cut:
        return INTERRUPTED, "interrupted: run it again to go on"
    later = f"; {submitted} are submitted, collect them later" if submitted else ""
    if bad:
        return FAILURES_REMAIN, f"ended, but some tasks failed, were refused or are in doubt{later}"
    if unfinished:
        return 0, ("the limit of this run is reached" if limited else "some tasks are still planned") + later
    if submitted:
        return 0, "submitted, collect later"
    return 0, "all that was wanted exists"
