"""One round of the crash campaign: a job of the dice, killed again and again, then resumed to its end and held to it.

Owns what the dice choose, the order of a round, and what is compared between its kills. Everything follows from the
round's seed, but for what the machine's own speed decides. Refuses to know the laws (`laws`) and to print.
"""

from __future__ import annotations

import dataclasses
import random
import subprocess
import sys
import time
import traceback
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageOps

from tests.crash import laws, steps
from tests.crash.crash_support import Bench, DyingRunner, Ended, environment, events_of
from tests.crash.grounds import HOME, Ground, at_home
from tests.crash.laws import Asked, Books
from tests.crash.plans import NAMES, Plan, Report
from tests.crash.steps import Step
from tests.crash.trouble import Trouble
from tests.edges.simulator_support import Peer

MOST_RESUMES = 12
TROUBLED = 0.4
"""The share of rounds in which connections break as well, where there are any."""
STYLE = "style.png"


@dataclass(slots=True)
class _Job:
    """One of the round's jobs: its manifest as it stands, and what the runs have made of it."""

    name: str
    texts: list[str]
    template: str = NAMES[0]
    edited: bool = False
    over: int | None = None
    """The exit code of its latest run, unless that was killed."""


class Round:
    """Plays one round in a fresh folder."""

    def __init__(self, plan: Plan, peer: Peer, dying: DyingRunner, folder: Path, ground: Ground | None = None) -> None:
        """On the ground of one machine, unless another is given; it is the caller's to close."""
        self._plan = plan
        self._peer = peer
        self._dying = dying
        self._folder = folder
        self._ground = ground or at_home(folder)
        # Not the dice of the plan: a plan with one more field must not change every order after it.
        self._dice = random.Random(f"orders of {plan.seed}")
        # And not the dice of the orders: a round is the same on every ground, but for what only that ground has.
        self._world = random.Random(f"ground of {plan.seed}")
        self._bench = Bench(folder, peer, (), place=self._ground.output)
        self._jobs = [
            _Job(name, [f"Scene {number} of round {plan.seed}" for number in range(plan.prompts)])
            for name in (("first", "second") if plan.two_jobs else ("first",))
        ]
        self._picture = "picture.png"
        if plan.from_pictures:
            for name, colour in ((self._picture, "teal"), (STYLE, "gold")):
                gradient = Image.radial_gradient("L").resize((128, 128))
                ImageOps.colorize(gradient, "black", "white", colour).save(folder / name)
        self._texts = {text for job in self._jobs for text in job.texts}
        self._ceiling: dict[Asked, int] = {}
        self._open: set[int] = set()
        self._whole: dict[int, str] = {}
        self._spooled: set[int] = set()
        """Attempts whose images, whole or not, are on the host that works and nowhere else."""
        self._summaries: list[dict[str, Any]] = []
        self._is_troubled = self._ground.name != HOME and self._world.random() < TROUBLED
        self._at_rest = 0
        self._typical_s = 0.8
        self.report = Report(plan)

    def play(self) -> Report:
        """The whole round. A check that fails, or that cannot be made, is a problem of the report."""
        try:
            self._peer.call("POST", "/simulator/reset")
            self._peer.call("POST", "/simulator/faults", {"rules": list(self._plan.faults)})
            self._quiet()
            while self.report.kills < self._plan.kills and self.report.runs < 3 * self._plan.kills:
                job = self._dice.choice(self._jobs)
                if job.over == 0 or (self._plan.edits and self.report.runs and self._dice.random() < 0.4):
                    self._edit(job)
                self._one_kill(job)
            self._finish()
        except Exception:  # whatever it is, the round's folder and seed are what is needed to look at it
            self.report.problems.append(traceback.format_exc())
        return self.report

    # -- kills ----------------------------------------------------------------------------------

    def _one_kill(self, job: _Job) -> None:
        before = self._books()
        self._choose_host()
        arguments = self._arguments(job)
        kind, name, order = self._order(job, before)
        began = time.monotonic()
        with self._trouble():
            ended = self._outside(arguments, order["after_s"]) if kind == "process" else self._run(arguments, order)
        self.report.runs += 1
        after = self._books()
        phase = self._phase(before, after)
        self._say(f"{job.name}: {name} {order} -> {ended.code} while {phase}")
        if ended.code == -9:
            job.over = None
            self.report.kills += 1
            self.report.by_kind[kind] += 1
            self.report.by_step[name] += 1
            self.report.by_phase[phase] += 1
        else:
            self._typical_s = max(0.3, time.monotonic() - began)
            self._ended(job, ended, troubled=self._is_troubled)
        fresh = after.open() - self._open
        if len(fresh) > self._plan.concurrency:
            self._problem(f"{len(fresh)} requests were under way at a kill, and {self._plan.concurrency} may be")
        self._open |= after.open()
        placed, temporaries = laws.placed(after, self._files()), self._ground.temporaries()
        if len(self._ground.hosts) > 1:
            # What another host has settled meanwhile may lie here still.
            temporaries = {attempt: digest for attempt, digest in temporaries.items() if attempt in after.open()}
        self._whole |= temporaries | placed
        self._spooled = set(temporaries) - set(placed)
        self.report.counts["in flight at kills"] += len(fresh)
        self.report.counts["in batches at kills"] += after.in_batches().total()
        # One in three is resumed at once, while the provider still works on what the dead run has asked for.
        waits = self._dice.random() < 0.67
        if waits:
            self._quiet()
        self._look(after, self._entries(), exact=waits)

    @contextmanager
    def _trouble(self) -> Iterator[None]:
        if not self._is_troubled:
            yield
            return
        with Trouble(self._ground, self._world) as trouble:
            yield
        self.report.counts["connections cut"] += trouble.cuts
        self.report.counts["faults of the store"] += trouble.faults

    def _choose_host(self) -> None:
        """One in three goes on elsewhere, if it can: what the dead host had by itself is out of reach."""
        others = [host for host in self._ground.hosts if host != self._ground.host]
        if not others or self._world.random() > 0.33:
            return
        self._ground.host = self._world.choice(others)
        for attempt in self._spooled:
            self._whole.pop(attempt, None)
        self.report.counts["left on another host"] += len(self._spooled)
        self.report.counts["changes of host"] += 1
        self._spooled = set()
        self._say(f"the host {self._ground.host} goes on")

    def _order(self, job: _Job, books: Books) -> tuple[str, str, dict[str, Any]]:
        """How the next run dies: the kind of it, its name, and the order."""
        dice = self._dice
        wanted = len(job.texts) * len(self._plan.sizes)
        done = sum(task["status"] == "done" and task["job"] == job.name for task in books.tasks)
        left = wanted - done
        if self._plan.cap_microusd is not None:
            left = min(left, self._plan.cap_microusd // self._plan.worst_microusd - done)
        left = max(1, left)
        weights: dict[str, float] = {"image": 45, "system": 16, "inside": 8, "frame": 7, "timer": 18, "process": 6}
        if books.open():
            weights["clearing"] = 45
        if job.edited or (self._plan.two_jobs and books.assets):
            weights["naming"] = 40
        if self._plan.faults:
            weights["failure"] = 15
        if self._plan.from_pictures:
            weights["pictures"] = 30
        if self._ground.ledger.is_shared:
            weights["exchange"] = 25
        if self._ground.files.is_shared:
            weights |= {"upload": 30, "request": 25}
        if self._plan.per_batch is not None:
            weights |= {"image": 5, "batch": 30, "homeward": 30}
        kind = dice.choices(list(weights), list(weights.values()))[0]
        match kind:
            case "timer":
                return (
                    kind,
                    "random instant",
                    {"after_s": round(dice.triangular(0.02, self._typical_s, self._typical_s), 4)},
                )
            case "process":
                return kind, "random instant of a new process", {"after_s": round(dice.uniform(0.2, 2.0), 4)}
            case "image":
                step = self._there(steps.IMAGE)
                pieces = 8 if step.place == f"{steps.PARTIAL}write" and self._plan.peer == "large" else 1
                return kind, _name(step), step.kill(dice.randint(1, max(1, round(left * pieces * 0.9))))
            case "system":
                step = self._there(steps.SYSTEM)
                return kind, _name(step), step.kill(dice.randint(1, 3 * left + 5))
            case "inside":
                step = self._there(steps.INSIDE)
                order = step.kill(dice.randint(1, left) if ":do_commit" in step.place else 1)
                return kind, _name(step), order | {"after_s": round(dice.uniform(0, 0.01), 5)}
            case "pictures":
                step = self._there(steps.PICTURES)
                return kind, _name(step), step.kill(dice.randint(1, max(1, round(left * 0.7))))
            case "batch":
                step = self._there(steps.BATCH)
                return kind, _name(step), step.kill(dice.randint(1, 1 + left // (self._plan.per_batch or 1)))
            case "homeward":
                step = self._there(steps.HOMEWARD)
                return kind, _name(step), step.kill(dice.randint(1, max(1, round(left * 0.7))))
            case "upload":
                step = dice.choice(steps.UPLOAD)
                return kind, _name(step), step.kill(dice.randint(1, max(1, round(left * 0.9))))
            case "exchange" | "request":
                step = dice.choice(steps.EXCHANGE if kind == "exchange" else steps.REQUEST_TO_STORE)
                order = step.kill(dice.randint(1, 12 * left + 40 if kind == "exchange" else 3 * left + 5))
                return kind, _name(step), order | {"after_s": round(dice.uniform(0, 0.005), 5)}
            case "clearing" | "naming":
                step = self._there(steps.CLEARING if kind == "clearing" else steps.NAMING)
                return kind, _name(step), step.kill(dice.randint(1, 3))
            case _:
                step = self._there(steps.FRAME if kind == "frame" else steps.FAILURE)
                return kind, _name(step), step.kill(1)

    def _there(self, choice: Sequence[Step]) -> Step:
        """One of these steps, where this ground has it."""
        ground = self._ground
        return steps.on(self._dice.choice(choice), server=ground.ledger.is_shared, bucket=ground.files.is_shared)

    def _run(self, arguments: Sequence[str], order: Mapping[str, Any] | None) -> Ended:
        return self._dying.run(arguments, self._folder, kill=order, more=self._ground.environment())

    def _outside(self, arguments: Sequence[str], after_s: float) -> Ended:
        """A run as a person starts it, killed from outside unless it has come to its end."""
        command = [sys.executable, "-m", "runner", *arguments]
        out, err = self._folder / "stdout", self._folder / "stderr"
        with out.open("wb") as stdout, err.open("wb") as stderr:
            told = environment() | self._ground.environment()
            process = subprocess.Popen(command, cwd=self._folder, env=told, stdout=stdout, stderr=stderr)
            try:
                code = process.wait(after_s)
            except subprocess.TimeoutExpired:
                process.kill()
                code = process.wait()
        return Ended(code, events_of(out.read_text()), err.read_text())

    def _phase(self, before: Books, after: Books) -> str:
        """How far a run had come, by its own log: the host has it line by line."""
        if len(after.runs) == len(before.runs):
            return "starting"
        run = after.runs[-1]
        job = next(job["name"] for job in after.jobs if job["id"] == run["job_id"])
        text = self._ground.log(job, run["id"])
        if '"type": "run_began"' not in text:
            return "recovering"
        return "ending" if '"type": "summary"' in text or run["ended_ms"] else "making images"

    # -- what is compared -----------------------------------------------------------------------

    def _look(self, books: Books, entries: Sequence[laws.Row], *, exact: bool) -> None:
        """The laws of every instant, and: what was done at an earlier kill was not asked for again."""
        self._hold(laws.at_every_instant(books, entries, self._files(), self._plan.cap_microusd))
        billed = Counter(map(laws.asked_of, entries))
        for asked, most in self._ceiling.items():
            if billed[asked] > most:
                self.report.counts["paid again"] += 1
                self._problem(f"law 3: {asked} was done, and was billed {billed[asked]} times instead of {most}")
        begun, in_batches = books.begun(), books.in_batches()
        for asked in books.done():
            # What was asked for by a run that is dead, or is in a batch of another job, may still come; what no attempt
            # is on record for may not.
            most = billed[asked] if exact and not in_batches[asked] else begun[asked]
            self._ceiling[asked] = min(most, self._ceiling.get(asked, most))

    def _entries(self) -> list[laws.Row]:
        """The bill of this round: a simulator may still work on what another has asked for."""
        digests = {laws.sha256_of(text) for text in self._texts}
        return [entry for entry in self._peer.entries() if entry["prompt_sha256"] in digests]

    def _books(self) -> Books:
        return self._ground.ledger.books()

    def _files(self) -> dict[str, str]:
        return self._ground.files.files()

    def _quiet(self) -> int:
        """Wait until the simulator works on nothing; how many requests it has seen by then."""
        patience_s, seen = 1.0, -1
        since = time.monotonic()
        while True:
            bill = self._peer.bill()
            under_way = bill["requests"] - bill["billed_requests"] - sum(bill["rejected"].values())
            if bill["requests"] != seen:
                since = time.monotonic()
            # A request whose sender died before it was read is never answered: with patience, that is rest as well.
            at_rest = under_way == self._at_rest and bill["requests"] == seen
            if at_rest or time.monotonic() - since > patience_s:
                self._at_rest = under_way
                return int(bill["requests"])
            seen = bill["requests"]
            time.sleep(0.02)

    # -- to the end -----------------------------------------------------------------------------

    def _finish(self) -> None:
        # Twice: what the budget of the first did not allow may be there for it once the second has made it.
        for job in self._jobs * len(self._jobs):
            self._to_its_end(job)
        requests = self._quiet()
        books, files = self._books(), self._images()
        for job in self._jobs:
            before = job.over
            ended = self._run(self._arguments(job), None)
            self.report.runs += 1
            self._ended(job, ended)
            if job.over != before:
                self._problem(f"{job.name} ended with {before}, and with {job.over} when it was run once more")
        if self._quiet() != requests:
            self.report.counts["sent by a further run"] += self._quiet() - requests
            self._problem("law 3: a further run sent requests, and there was nothing to do")
        if self._images() != files:
            self._problem("law 5: a further run changed images")
        entries, books = self._entries(), self._books()
        self._look(books, entries, exact=True)
        complete = all(job.over == 0 for job in self._jobs)
        reckoning = laws.reckon(books, entries, self._open)
        self._hold(reckoning.problems)
        self._hold(laws.taken_over(books, entries, self._whole))
        self._hold(laws.at_the_end(books, entries, self._files(), complete=complete))
        self._hold([f"a temporary file is left: {name}" for name in self._ground.left()])
        self._hold(laws.told(books, self._summaries))
        created = self._peer.call("GET", "/simulator/batches").json["creates"]
        if created != (known := sum(batch["batch_id"] is not None for batch in books.batches)):
            self._problem(f"law 3: {created} batches were created, and {known} are on record")
        self._count(books, entries, reckoning)

    def _to_its_end(self, job: _Job) -> None:
        """Resume until all that is wanted exists, or the budget has ended it for good."""
        for number in range(MOST_RESUMES):
            hold = self._plan.hold and number == 0
            ended = self._run(self._arguments(job, hold=hold), None)
            self.report.runs += 1
            self._ended(job, ended)
            self._say(f"{job.name}: to its end -> {ended.code}")
            self._look(self._books(), self._entries(), exact=False)
            if ended.code == 0:
                return
            if ended.code == 5:
                self._hold(self._really_spent(job))
                return
            if number == 2:
                self._peer.call("POST", "/simulator/faults", {"rules": []})
            again = ["retry", job.name, "--failed", "--in-doubt", "--output", self._ground.output, "--json"]
            if ended.code != 4 or self._run(again, None).code != 0:
                self._problem(f"{job.name} ended with {ended.code}: {ended.stderr[-600:]}")
                return
        self._problem(f"{job.name} never came to its end")

    def _really_spent(self, job: _Job) -> Iterator[str]:
        """A run that stops at its budget could not have paid for the worst case of one more."""
        books = self._books()
        mine = next(row["id"] for row in books.jobs if row["name"] == job.name)
        spent = sum(
            attempt["cost_microusd"] or attempt["doubt_microusd"] or 0
            for attempt in books.attempts
            if attempt["job_id"] == mine
        )
        cap = self._plan.cap_microusd
        if cap is None or spent + 2 * self._plan.worst_microusd <= cap:
            yield f"{job.name} stopped at its budget with {spent} of {cap} microusd spent"

    def _ended(self, job: _Job, ended: Ended, *, troubled: bool = False) -> None:
        """A run that came to its end by itself; one that lost its ledger or its store on the way says so, and ends."""
        unclean = "Traceback" in ended.stderr or "unexpected error" in ended.stderr
        if troubled and ended.code in (1, 2) and not unclean:
            job.over = None
            self.report.counts["ended by trouble"] += 1
            self._say(f"ended: {ended.stderr[-300:]}")
            return
        job.over = ended.code
        self._summaries += [event for event in ended.events if event["type"] == "summary"]
        known = {0, 5} if self._plan.cap_microusd is not None else {0}
        if self._plan.faults or self._plan.hold or troubled:
            known.add(4)
        if ended.code not in known or unclean or ended.count("summary") != 1:
            self._problem(f"a run of {job.name} ended with {ended.code}: {ended.stderr[-1200:]}")

    def _count(self, books: Books, entries: Sequence[laws.Row], reckoning: laws.Reckoning) -> None:
        died = [attempt for attempt in books.attempts if attempt["id"] in self._open]
        on_disk = set(self._images().values())
        bill = sum(entry["cost_microusd"] for entry in entries)
        self.report.counts.update(
            {
                "wanted": sum(bool(task["wanted"]) for task in books.tasks),
                "kept": len(books.assets),
                "reused": sum(asset["reused_from"] is not None for asset in books.assets),
                "superseded": sum("/superseded/" in asset["path"] for asset in books.assets),
                "served": sum(len(entry["images"]) for entry in entries),
                "adopted": reckoning.adopted,
                "in doubt": sum(attempt["doubt_microusd"] is not None for attempt in books.attempts),
                "in doubt by kills": sum(attempt["doubt_microusd"] is not None for attempt in died),
                "doubt microusd": books.doubt_microusd(),
                "settled microusd": books.settled_microusd(),
                "billed microusd": bill,
                "repeated": reckoning.lost_in_flight,
                "spoilt": reckoning.spoilt,
                "beyond": reckoning.beyond,
                "lost": sum(asset["sha256"] not in on_disk for asset in books.assets),
                "composites": len(books.renditions),
                "batches": sum(batch["state"] == "collected" for batch in books.batches),
                "over the cap": self._plan.cap_microusd is not None
                and bill > self._plan.cap_microusd * len(self._jobs),
                "capped rounds": self._plan.cap_microusd is not None,
                "ended at the cap": any(job.over == 5 for job in self._jobs),
            }
        )

    # -- the jobs -------------------------------------------------------------------------------

    def _edit(self, job: _Job) -> None:
        """Change the manifest as a person would between two nights."""
        renaming = ["pictures renamed"] if self._plan.from_pictures else []
        change = self._dice.choice(["names", "more", "another text", "fewer", *renaming])
        if job.over == 0 and change in ("names", "fewer", "pictures renamed"):
            change = "more"  # else there is nothing to be killed at
        match change:
            case "pictures renamed":
                new = f"picture {self._dice.getrandbits(32)}.png"
                (self._folder / self._picture).rename(self._folder / new)
                self._picture = new
            case "names":
                job.template = self._dice.choice(NAMES)
            case "more":
                at = len(job.texts)
                job.texts += [f"Added {at + n} of round {self._plan.seed}" for n in range(self._dice.randint(2, 8))]
            case "another text":
                for place in self._dice.sample(range(len(job.texts)), min(3, len(job.texts))):
                    job.texts[place] = f"Rewritten {self._dice.getrandbits(32)} of round {self._plan.seed}"
            case _:
                del job.texts[max(2, len(job.texts) - 2) :]
        job.edited, job.over = True, None
        self._texts.update(job.texts)
        self._say(f"{job.name}: edited ({change})")

    def _arguments(self, job: _Job, *, hold: bool | None = None) -> list[str]:
        more: dict[str, Any] = {
            "matrix": {"size": list(self._plan.sizes)},
            "settings": {"quality": "low"},
            "timeouts": {"first_byte_s": 20, "stall_s": 1.0},
        }
        if self._plan.from_pictures:
            more["edit"] = {
                "images": [self._picture],
                "references": [STYLE],
                "mask": {"box": [10, 20, 70, 60], "feather": 3},
                "composite": True,
            }
            more["renditions"] = [{"name": "card", "width": 40, "height": 30, "fit": "cover"}]
        if self._plan.cap_microusd is not None:
            more["budget"] = {"usd": f"{self._plan.cap_microusd / 1e6:.6f}", "per": "job"}
        if self._plan.per_batch is not None:
            more |= {"delivery": "batch", "batch": {"max_requests": self._plan.per_batch}}
        bench = dataclasses.replace(self._bench, prompts=tuple(job.texts))
        manifest = bench.write(concurrency=self._plan.concurrency, job=job.name, name=job.template, more=more)
        held = self._plan.hold if hold is None else hold
        wait = ["--wait"] if self._plan.per_batch is not None else []
        return [*bench.arguments(manifest), *wait, *(["--in-doubt", "hold"] if held else [])]

    def _images(self) -> dict[str, str]:
        return {
            path: digest
            for path, digest in self._files().items()
            if path.split("/")[1:2] in (["images"], ["superseded"])
        }

    def _hold(self, problems: Iterator[str] | list[str]) -> None:
        for problem in problems:
            self._problem(problem)

    def _problem(self, words: str) -> None:
        if words not in self.report.problems:
            self._say(f"PROBLEM: {words}")
            self.report.problems.append(words)

    def _say(self, words: str) -> None:
        self.report.story.append(words)


def _name(step: Step) -> str:
    return step.name if step.when in step.name else f"{step.name} ({step.when})"
