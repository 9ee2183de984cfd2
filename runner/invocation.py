"""What one invocation means: its options, the job and its manifest, the provider and its key, limits.

Owns the defaults that depend on the environment and on the date, and the choice between what the command line, the
manifest and the catalog say. Refuses to send and to write. It is long because each option of a run has its place here.
"""

from __future__ import annotations

import datetime as dt
import os
import time
from collections.abc import Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from decimal import Decimal
from pathlib import Path
from typing import TYPE_CHECKING, Literal

from runner import catalog as catalogs
from runner import manifest as manifests
from runner import planner
from runner.errors import InputError, ManifestError, StopRun
from runner.planner import Plan
from runner.rules import concurrency, quoting
from runner.rules.breaker import FailureLimit
from runner.rules.budget import Budget, period_start
from runner.rules.models import Models, choose_models
from runner.rules.pacing import Gate, Pacer
from runner.rules.pricing import Calibration, microusd, usd
from runner.rules.quoting import Quoter

if TYPE_CHECKING:
    from runner.catalog import Catalog, Delivery, Provider
    from runner.ledger import Job, Ledger, Place
    from runner.manifest import Manifest
    from runner.provider import Endpoint
    from runner.store import Output

_OUTPUT = Path("output")
Engine = Literal["local", "ray"]
"""Where requests and renditions are made: in this process and its workers, or on a Ray cluster."""


@dataclass(frozen=True, slots=True)
class Options:
    """What one invocation adds to a manifest; every field has the meaning of the CLI's option of that name.

    `output` is a folder or the URL of a bucket; it defaults to the environment's RUNNER_OUTPUT, then to the manifest's,
    to where the job's files are on record, and to the folder `output`. `ledger` defaults to RUNNER_LEDGER, then to
    `ledger.sqlite3` in that folder (in `output` where images go to a bucket). `budget_usd` replaces the manifest's
    `budget.usd`. `limit` is the most images of this run. After `max_duration_s` seconds no further request leaves.
    `max_failures` None is the default of `rules.breaker`; `FailureLimit()` bears everything. `delivery` None is the
    manifest's. With `wait` a run stays until the batches that it submitted are over. With the engine `ray`, requests
    and renditions are made on the nodes of the cluster at `ray_address` (None: that of $RAY_ADDRESS, or one that this
    machine is part of).
    """

    provider: str | None = None
    base_url: str | None = None
    api_key_env: str | None = None
    insecure: bool = False
    output: Output | str | None = None
    ledger: str | None = None
    overrides: tuple[str, ...] = ()
    budget_usd: Decimal | None = None
    limit: int | None = None
    catalog: Path | None = None
    hold_doubt: bool = False
    max_duration_s: float | None = None
    max_failures: FailureLimit | None = None
    delivery: Delivery | None = None
    wait: bool = False
    engine: Engine = "local"
    ray_address: str | None = None

    @property
    def output_folder(self) -> Path:
        """The folder of this machine that the ledger lies in by itself; images too, where nothing names a bucket."""
        found = self._output
        return found if isinstance(found, Path) else _OUTPUT

    def output_for(self, job: Job | None = None, manifest: Manifest | None = None) -> Output:
        """Where the images of a job go, and where they lie: what is named here wins over the manifest and the record.

        Raises:
            InputError: what is named is no place for images.
        """
        from runner.store.places import output_at

        found = self._output
        if found is not None:
            return found
        told = (manifest.output.dir if manifest is not None else None) or (job.output if job is not None else None)
        return _OUTPUT if told is None else output_at(told)

    @property
    def _output(self) -> Output | None:
        from runner.store.places import output_at

        told = self.output or os.environ.get("RUNNER_OUTPUT")
        return output_at(told) if told else None

    @property
    def ledger_place(self) -> Place:
        """Where the ledger is."""
        from runner.ledger import locate

        return locate(self.ledger or os.environ.get("RUNNER_LEDGER"), self.output_folder)


@dataclass(frozen=True, slots=True)
class Request:
    """A manifest that is valid, with the provider it goes to and what today makes of its models."""

    manifest: Manifest
    path: Path
    catalog: Catalog
    provider: Provider
    models: Models
    gates: Mapping[str, Gate] = field(default_factory=dict)
    delivery: Delivery = "online"
    online_models: Models | None = None
    """What is asked online for what a batch did not deliver; None where nothing falls back."""

    @property
    def simulated(self) -> bool:
        """Whether nothing real is asked or spent."""
        return self.provider.simulated


def find_manifest(job: str | Path, ledger: Ledger | None) -> Path:
    """The manifest's path from a path or, once known to the ledger, a job's name.

    Raises:
        InputError: neither.
    """
    path = Path(job)
    if path.is_file():
        return path
    known = ledger.job(str(job)) if ledger is not None else None
    if known is not None and known.manifest_path is not None:
        found = Path(known.manifest_path)
        if found.is_file():
            return found
        raise InputError(
            f"the manifest of the job {known.name!r} is no longer at {found}", hint="give the path of the manifest"
        )
    names = ", ".join(item.name for item in ledger.jobs()[:10]) if ledger is not None else ""
    hint = f"the ledger knows: {names}" if names else "give the path of a manifest; `runner init` writes a first one"
    raise InputError(f"there is no manifest and no known job {str(job)!r}", hint=hint)


def open_to_write(options: Options) -> Ledger:
    """The ledger that is there, brought to this version's schema.

    Raises:
        LedgerError: there is none, or it cannot be used.
    """
    from runner.ledger import Ledger

    place = options.ledger_place
    return Ledger.open(place, create=Ledger.exists(place))


def find_job(job: str | Path, ledger: Ledger) -> Job:
    """The job of the ledger from its name or its manifest's path.

    Raises:
        InputError: the ledger does not know it.
    """
    found = ledger.job(str(job))
    if found is None and Path(job).is_file():
        path = str(Path(job).resolve())
        run_from = [item for item in ledger.jobs() if item.manifest_path == path]
        # One manifest can have been run under several names (--set name=...); then its own name decides.
        found = (
            run_from[0] if len(run_from) == 1 else ledger.job(manifests.load(Path(job), catalog=catalogs.load()).name)
        )
    if found is None:
        names = ", ".join(item.name for item in ledger.jobs()[:10])
        raise InputError(
            f"the ledger {ledger.place} knows no job {str(job)!r}",
            hint=f"it knows: {names}" if names else "nothing has been run with it yet",
        )
    return found


def gates_for(manifest: Manifest, catalog: Catalog, *, simulated: bool) -> dict[str, Gate]:
    """The gates of a run: explicit numbers, else those of the tier.

    Without `tier`, the tier is the smallest that allows the images per minute that the manifest asks for (1 if it
    asks for none). A simulator has no limits but those that the manifest names.
    """
    limits = manifest.limits
    tier = limits.tier
    gates: dict[str, Gate] = {}
    if tier is None and not simulated:
        wanted = limits.images_per_minute or 0
        tier = next((n for n, t in sorted(catalog.tiers.items()) if t.images_per_minute >= wanted), None)
    if tier is not None:
        gates["images"] = Gate(catalog.tiers[tier].images_per_minute)
        gates["tokens"] = Gate(catalog.tiers[tier].tokens_per_minute)
    for name, value in (
        ("images", limits.images_per_minute),
        ("requests", limits.requests_per_minute),
        ("tokens", limits.tokens_per_minute),
    ):
        if value is not None:
            gates[name] = Gate(float(value), explicit=True)
    return gates


def concurrency_for(manifest: Manifest, gates: Mapping[str, Gate]) -> tuple[int, int]:
    """Requests in flight, to begin with and at most: as the manifest says, else what the allowed rate asks for.

    Without a limit there is nothing that they could follow: they stay what they are.
    """
    rate = Pacer(dict(gates)).per_minute
    start = manifest.limits.concurrency or concurrency.start_for(rate)
    fixed = manifest.limits.concurrency is not None or rate is None
    return start, start if fixed else concurrency.MOST


def prepare(job: str | Path, options: Options, ledger: Ledger | None) -> Request:
    """Find, read and judge a job's manifest, and choose its provider and models.

    Raises:
        InputError: the job, its manifest or an option is not valid.
        StopRun: its model has been shut down.
    """
    catalog = catalogs.load(options.catalog)
    path = find_manifest(job, ledger)
    return judge(manifests.load(path, overrides=options.overrides, catalog=catalog), path, catalog, options)


def judge(manifest: Manifest, path: Path, catalog: Catalog, options: Options, *, only_collect: bool = False) -> Request:
    """Choose the provider and the models of a manifest that was read. With `only_collect` nothing need be served.

    Raises:
        InputError: there is no such provider, or no price, or no batch support where it is asked for.
        StopRun: its model has been shut down.
    """
    provider = catalog.provider(options.provider or manifest.provider or "openai")
    delivery: Delivery = options.delivery or manifest.delivery
    today = now().date()

    def choose(by: Delivery) -> Models:
        return choose_models(
            {name: manifest.model_origin(name) for name in manifest.models},
            fallback=manifest.fallback_model,
            provider=provider.name,
            catalog=catalog,
            today=today,
            delivery=by,
            delivery_origin=None if options.delivery else manifest.origin_of("delivery"),
        )

    def choose_if_any(by: Delivery) -> Models | None:
        try:
            return choose(by)
        except (InputError, StopRun):
            if not only_collect:
                raise
            return None

    falls_back = delivery == "batch" and manifest.batch.fall_back == "online"
    return Request(
        manifest,
        path,
        catalog,
        provider,
        models=choose_if_any(delivery) or Models({name: name for name in manifest.models}, ()),
        gates=gates_for(manifest, catalog, simulated=provider.simulated),
        delivery=delivery,
        online_models=choose_if_any("online") if falls_back else None,
    )


def make_plan(request: Request, ledger: Ledger | None) -> Plan:
    """Look at every task: count, price, check. Nothing is written.

    Raises:
        ManifestError: a task is not valid, or two clash; the error has the place.
        InputError: a request that the limits can never let pass.
    """
    from runner.ledger import Scratch, Sieve

    job = ledger.job(request.manifest.name) if ledger is not None else None
    known = ledger.lookup(job) if ledger is not None else _nothing_known
    seen = calibrations(request, ledger) if ledger is not None else {}

    batching = None
    if request.delivery == "batch":
        batching = planner.Batching(request.manifest.batch.max_requests, request.online_models)

    def look(claim: planner.Claim) -> Plan:
        return planner.make(
            manifests.expand(request.manifest, simulated=request.simulated),
            job=request.manifest.name,
            provider=request.provider.name,
            simulated=request.simulated,
            catalog=request.catalog,
            models=request.models,
            gates=request.gates,
            known=known,
            claim=claim,
            seen=seen,
            batching=batching,
        )

    with closing(Sieve()) as sieve:
        plan = look(sieve.claim)
        if sieve.passed():
            return plan
    # Two tasks clash, or nearly: which, and where they were written, is worth a second look at all of them.
    with closing(Scratch()) as scratch:
        return look(scratch.claim)


def check_tasks(request: Request, ledger: Ledger) -> None:
    """The checks of `make_plan` alone, without a look at the ledger wherever that can make no difference.

    Raises:
        ManifestError, InputError: as `make_plan`.
    """
    try:
        make_plan(request, None)
    except ManifestError:
        raise
    except InputError:
        # What the limits never let pass may have been made already.
        make_plan(request, ledger)


def calibrations(request: Request, ledger: Ledger) -> dict[str, Calibration]:
    """What the ledger has seen input images being billed, against what the catalog says; of simulated ones apart."""
    seen = ledger.seen_edits(simulated=request.simulated)
    return quoting.calibrations(((one.model, one.edit, one.input_image_tokens) for one in seen), request.catalog)


def quoter_for(request: Request, delivery: Delivery, seen: Mapping[str, Calibration]) -> Quoter:
    """The prices of one delivery, with the models that it asks; `seen` as `calibrations` gives it."""
    models = request.models
    if delivery != request.delivery and request.online_models is not None:
        models = request.online_models
    return Quoter(request.catalog, request.provider.name, models.effective, delivery, seen)


def _nothing_known(_keys: Sequence[str]) -> Mapping[str, planner.Known]:
    return {}


def plan_with_caps(request: Request, options: Options, ledger: Ledger | None) -> Plan:
    """The plan of `make_plan`, with warnings where this run's limit or budget will end it early."""
    plan = make_plan(request, ledger)
    to_do = plan.total("to_do")
    if options.limit is not None and options.limit < to_do:
        plan.warnings.append(f"this run begins {options.limit} of the {to_do} images (--limit)")
    job = ledger.job(plan.job) if ledger is not None else None
    budget = budget_for(request, options, ledger, job)
    left = budget.left_microusd
    expected, worst = plan.total("expected_microusd"), plan.total("worst_microusd")
    if left is not None and plan.delivery == "batch" and worst > left:
        # Nothing of a batch is settled before it is over, so that the worst case of all of it must fit.
        plan.warnings.append(
            f"{usd(worst)} would be reserved for the batches, and {usd(left)} of the budget per {budget.per} are left: "
            "a run would submit what fits (exit code 5) and go on when there is more"
        )
    elif left is not None and plan.delivery == "online" and expected > left:
        plan.warnings.append(
            f"{usd(expected)} are expected, and {usd(left)} of the budget per {budget.per} are left: "
            "a run would stop there (exit code 5) and go on when there is more"
        )
    _warn_of_cap(plan, worst if plan.delivery == "batch" else expected, request, ledger)
    return plan


def _warn_of_cap(plan: Plan, needed_microusd: int, request: Request, ledger: Ledger | None) -> None:
    """Say where the cap of the whole ledger leaves less than a run would need."""
    cap = ledger.caps.cap() if ledger is not None else None
    if cap is None or ledger is None:
        return
    spent = sum(one.microusd for one in ledger.caps.committed(now_ms=now_ms()) if one.simulated == request.simulated)
    left = max(0, cap.microusd - spent)
    if needed_microusd > left:
        plan.warnings.append(
            f"{usd(needed_microusd)} are needed, and {usd(left)} are left of the ledger's cap of {usd(cap.microusd)} "
            "for all jobs together: a run would stop there (exit code 5); see `runner ledger cap`"
        )


def embeds(provider: Provider, options: Options) -> bool:
    """Whether the run starts a simulator of its own."""
    return provider.simulated and options.base_url is None


def endpoint(provider: Provider, options: Options) -> Endpoint:
    """Where requests go, and the key.

    Raises:
        InputError: no key, no base URL, or one that is not fit to carry a key.
    """
    from runner.provider import Endpoint

    from_env = os.environ.get(provider.base_url_env or "", "") if provider.base_url_env else ""
    base_url = options.base_url or from_env or provider.base_url
    if base_url is None:
        raise InputError(f"the provider {provider.name} has no base URL", hint="give one with --base-url")
    variable = options.api_key_env or provider.api_key_env
    key = os.environ.get(variable, "").strip() if variable else ""
    if not key:
        if provider.simulated and options.api_key_env is None:
            key = "simulator"
        else:
            raise InputError(
                f"there is no API key in the environment variable {variable or '(none is known)'}",
                hint=f"export {variable or 'NAME'}=..., name another with --api-key-env, "
                "or try it without a key and without cost: --provider simulator",
            )
    if not (key.isascii() and key.isprintable()):
        raise InputError(f"the key in {variable} has characters that no header can carry", hint="copy it once more")
    return Endpoint.checked(provider.name, base_url, key, insecure=options.insecure)


def budget_for(request: Request, options: Options, ledger: Ledger | None, job: Job | None) -> Budget:
    """The cap of a run, with what the ledger says was spent and is in doubt in its period."""
    wanted = request.manifest.budget
    per = wanted.per if wanted is not None else "run"
    cap_usd = options.budget_usd if options.budget_usd is not None else (wanted.usd if wanted else None)
    budget = Budget(None if cap_usd is None else microusd(cap_usd), per, period=period_start(per, now()))
    if per != "run" and ledger is not None and job is not None:
        since_ms = None if budget.period is None else int(budget.period.timestamp() * 1000)
        spent = ledger.spending(job, simulated=request.simulated, since_ms=since_ms)
        budget.settled_microusd = spent.settled_microusd
        budget.in_doubt_microusd = spent.in_doubt_microusd
        budget.reserved_microusd = spent.reserved_microusd
    return budget


def now() -> dt.datetime:
    """The time, aware, in UTC."""
    return dt.datetime.now(dt.UTC)


def now_ms() -> int:
    """Milliseconds since 1970."""
    return int(time.time() * 1000)
