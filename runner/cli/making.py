"""Commands around the work: init, doctor, simulate.

Owns their arguments. The first manifest's text is `templates/manifest.yaml`.
"""

from __future__ import annotations

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from runner.cli import console, options
from runner.errors import InputError


class Art(StrEnum):
    """What the simulator draws."""

    DRAWN = "drawn"
    FLAT = "flat"


def register(app: typer.Typer) -> None:
    """Add the commands of this module."""
    app.command(short_help="Write a first manifest.", epilog="Example: runner init jobs/spring.yaml")(init)
    app.command(
        short_help="Check key, network, model, disk, ledger, clock.",
        epilog="Example: runner doctor --provider cometapi",
    )(doctor)
    app.command(
        short_help="Serve a simulated Images API.",
        epilog="Example: runner simulate --port 8080 --latency p50=18,p95=46,scale=0.01 --images-per-minute 50",
    )(simulate)


def init(
    path: Annotated[Path, typer.Argument(help="The manifest to write.")] = Path("jobs/first.yaml"),
) -> None:
    """Write a first manifest to start from; an existing file is left alone."""
    import importlib.resources
    import re

    if path.suffix not in (".yaml", ".yml"):
        raise InputError(
            f"{path} does not end in .yaml", hint="a manifest is a YAML file: runner init jobs/spring.yaml"
        )
    name = re.sub(r"[^A-Za-z0-9._-]+", "-", path.stem).strip("-._") or "first"
    template = importlib.resources.files("runner.cli").joinpath("templates", "manifest.yaml").read_text("utf-8")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("x", encoding="utf-8") as file:
            file.write(template.replace("NAME", name))
    except FileExistsError:
        raise InputError(f"{path} exists already and was left as it is", hint="choose another name") from None
    except OSError as error:
        raise InputError(f"{path} cannot be written: {error.strerror}") from None
    console.out(f"wrote {path}")
    program = console.program()
    console.out(f"next: {program} plan {path}")
    console.out(f"      {program} run {path} --provider simulator     (free: nothing is sent to anyone)")
    console.out(f"      {program} run {path}                          (needs OPENAI_API_KEY)")


def doctor(
    model: Annotated[
        str, typer.Option("--model", metavar="NAME", help="The model to ask the provider about.")
    ] = "gpt-image-1-mini",
    provider: options.Provider = None,
    base_url: options.BaseUrl = None,
    api_key_env: options.ApiKeyEnv = None,
    output: options.Output = None,
    ledger: options.Ledger = None,
    catalog: options.CatalogFile = None,
    insecure: options.Insecure = False,
    json: options.Json = False,
) -> None:
    """Check what a run needs: folder, disk, ledger, key, reachability, model and its end, clock. Costs nothing."""
    from runner.checkup import examine

    chosen = options.gather(
        provider=provider,
        base_url=base_url,
        api_key_env=api_key_env,
        insecure=insecure,
        output=output,
        ledger=ledger,
        catalog=catalog,
    )
    failed = False
    colours = {"ok": "green", "warning": "yellow", "failed": "red"}
    for check in examine(chosen, model):
        failed = failed or check.verdict == "failed"
        if json:
            console.line({"type": "check", "name": check.name, "verdict": check.verdict, "message": check.message})
        else:
            verdict = console.paint(f"{check.verdict:<8}", colours[check.verdict])
            console.out(f"{verdict} {check.name:<9} {console.safe(check.message, keep_lines=True)}")
    raise typer.Exit(1 if failed else 0)


def simulate(
    host: Annotated[str, typer.Option("--host", metavar="HOST", help="Where to listen.")] = "127.0.0.1",
    port: Annotated[int, typer.Option("--port", metavar="N", min=0, max=65535, help="0 takes any free one.")] = 8080,
    latency: Annotated[
        str,
        typer.Option("--latency", metavar="SPEC", help="Seconds: 0.5, 0.2-1.5, p50=18,p95=46; ,scale=0.1 behind it."),
    ] = "0",
    images_per_minute: Annotated[
        int | None, typer.Option("--images-per-minute", metavar="N", min=1, help="Answer 429 above it.")
    ] = None,
    requests_per_minute: Annotated[
        int | None, typer.Option("--requests-per-minute", metavar="N", min=1, help="The same for requests.")
    ] = None,
    tokens_per_minute: Annotated[
        int | None, typer.Option("--tokens-per-minute", metavar="N", min=1, help="The same for tokens.")
    ] = None,
    window: Annotated[float, typer.Option("--window", metavar="S", help="Seconds over which the limits hold.")] = 60.0,
    payload_kb: Annotated[
        int | None,
        typer.Option("--payload-kb", metavar="KB", min=1, help="Fill images up to this size; they stay valid."),
    ] = None,
    art: Annotated[
        Art, typer.Option("--art", help="Pictures drawn from the prompt, or one for all (load tests).")
    ] = Art.DRAWN,
    seed: Annotated[
        int, typer.Option("--seed", metavar="N", help="What pictures, latencies and faults follow from.")
    ] = 0,
    fault: Annotated[
        list[str] | None,
        typer.Option(
            "--fault",
            metavar="RULE",
            help="KIND[:share=0.05][,after=10][,times=3][,match=REGEX][,only=batch][,value=X]",
        ),
    ] = None,
    batch_time: Annotated[
        float, typer.Option("--batch-time", metavar="S", min=0, help="Seconds a batch takes; 0: as few as it must.")
    ] = 0.0,
    batch_window: Annotated[
        float, typer.Option("--batch-window", metavar="S", help="Seconds after which a batch expires.")
    ] = 86_400.0,
    batch_queue_tokens: Annotated[
        int | None,
        typer.Option("--batch-queue-tokens", metavar="N", min=1, help="Prompt tokens that a model's batches can have."),
    ] = None,
    api_key: Annotated[
        str | None, typer.Option("--api-key", metavar="KEY", help="The one key to accept, instead of any.")
    ] = None,
    bill: Annotated[
        Path | None, typer.Option("--bill", metavar="FILE", help="Where to keep the bill's entries (JSON lines).")
    ] = None,
    catalog: options.CatalogFile = None,
    until_stdin_closes: Annotated[
        bool, typer.Option("--until-stdin-closes", help="End with the parent process.")
    ] = False,
    quiet: options.Quiet = False,
) -> None:
    """Serve a simulated Images API: real HTTP, real images, limits, faults, and a bill of its own.

    Its base URL is printed on stdout; the bill is at /simulator/bill and /simulator/bill/entries.
    """
    from runner.simulator import Settings, serve

    def ready(base_url: str) -> None:
        console.raw(base_url + "\n")
        if not quiet:
            root = base_url.removesuffix("/v1")
            console.note(f"simulating the Images API; its bill: {root}/simulator/bill")
            console.note(
                f"try: runner run JOB --provider simulator --base-url {base_url}     (Ctrl-C ends this server)"
            )

    serve(
        Settings(
            host=host,
            port=port,
            seed=seed,
            latency_s=latency,
            images_per_minute=images_per_minute,
            requests_per_minute=requests_per_minute,
            tokens_per_minute=tokens_per_minute,
            window_s=window,
            payload_kb=payload_kb,
            art=art.value,
            api_key=api_key,
            faults=tuple(fault or ()),
            batch_time_s=batch_time,
            batch_window_s=batch_window,
            batch_queue_tokens=batch_queue_tokens,
            bill_path=bill,
            catalog=catalog,
        ),
        on_ready=ready,
        stop_when_stdin_closes=until_stdin_closes,
    )
