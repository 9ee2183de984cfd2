"""The keys of a manifest and their shapes, as frozen Pydantic models: a stranger's data comes in here.

Owns which keys exist, the kind and range of each value, and the defaults. Refuses to know the catalog (`judging`), the
file's places (`loading`), and how tasks come of it (`expansion`). It is long because every key of a manifest is here.
"""

from __future__ import annotations

from collections.abc import Iterable
from decimal import Decimal
from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import (
    AfterValidator,
    BaseModel,
    BeforeValidator,
    Discriminator,
    Field,
    PrivateAttr,
    Tag,
    model_validator,
)

from runner.catalog import BATCH_WINDOW_S, MOST_BATCH_REQUESTS, Delivery
from runner.manifest.durations import as_seconds, written
from runner.manifest.editing import EditSettings, PrepareSettings
from runner.manifest.mappings import (
    axes_of,
    combination_of,
    list_variables,
    mapping_of,
    scalar_variables,
    where_of,
    zip_group,
)
from runner.manifest.notifying import Notify
from runner.manifest.parts import Int, Part, Text
from runner.manifest.problems import Wrong
from runner.manifest.promoting import Promotion
from runner.manifest.rendering import Renditions, RenditionSettings
from runner.manifest.values import (
    Value,
    as_decimal,
    as_float,
    as_int,
    as_text,
    bucket_url,
    safe_job_name,
)
from runner.renditions.recipe import Recipe
from runner.tasks import Origin

if TYPE_CHECKING:
    from runner.manifest.binding import Binding

Compression = Annotated[int, Field(ge=0, le=100), BeforeValidator(as_int)]


def _listed(raw: object) -> object:
    return [raw] if isinstance(raw, dict) else raw


ScalarVars = Annotated[dict[str, Value], BeforeValidator(scalar_variables)]
ListVars = Annotated[dict[str, Value | tuple[Value, ...]], BeforeValidator(list_variables)]
Axes = Annotated[dict[str, tuple[Value, ...]], BeforeValidator(axes_of)]
ZipGroup = Annotated[dict[str, tuple[Value, ...]], BeforeValidator(zip_group)]
Combination = Annotated[dict[str, Value], BeforeValidator(combination_of)]
Where = Annotated[dict[str, tuple[str, ...]], BeforeValidator(where_of)]


class Settings(Part):
    """What every request asks for, unless a prompt or the matrix says otherwise. Left out: the API's own default."""

    size: Text | None = Field(default=None, description="auto, or WIDTHxHEIGHT in pixels", examples=["1024x1024"])
    quality: Text | None = Field(
        default=None,
        description="auto (may be billed as high), or a quality of the model",
        examples=["low", "medium", "high"],
    )
    background: Text | None = Field(default=None, description="auto, opaque, or transparent (png and webp only)")
    output_format: Text | None = Field(default=None, description="png, jpeg or webp", examples=["png", "jpeg", "webp"])
    output_compression: Compression | None = Field(default=None, description="0 to 100, for jpeg and webp")
    moderation: Text | None = Field(default=None, description="auto or low")


class PromptSettings(Settings):
    """Settings of one prompt; they win over the job's, and the matrix wins over them."""

    model: Text | None = Field(default=None, description="the model for this prompt")


class TextPrompt(Part):
    """A prompt written in the manifest. Its text is a template."""

    text: Text = Field(description="the prompt; {{ name }} is replaced by a variable or an axis of the matrix")
    id: Text | None = Field(
        default=None, description="names the prompt in file names and reports; by default made of its text"
    )
    vars: ListVars = Field(default={}, description="variables of the text; lists expand to every combination")
    settings: PromptSettings = Field(default=PromptSettings(), description="settings for this prompt alone")
    edit: EditSettings = Field(default=EditSettings(), description="the images that this prompt starts from")


class FilePrompt(Part):
    """Prompts from a file, one a row. A row's text is sent as it is, unless `template` is given."""

    file: Text = Field(description="CSV, TSV, JSONL or TXT file, relative to the manifest")
    format: Literal["csv", "tsv", "jsonl", "txt"] | None = Field(
        default=None, description="by default from the file's ending"
    )
    text: Text | None = Field(
        default=None,
        description="the column of the prompt; by default prompt, text, title, caption, or the only column",
    )
    id: Text | None = Field(
        default=None, description="the column of the prompt's id; by default it is made of the text"
    )
    where: Where = Field(default={}, description="only rows whose column has this value, or one of these")
    offset: Annotated[int, Field(ge=0), BeforeValidator(as_int)] = Field(
        default=0, description="leave out the first rows"
    )
    limit: Annotated[int, Field(ge=1), BeforeValidator(as_int)] | None = Field(
        default=None, description="at most so many rows"
    )
    template: Text | None = Field(default=None, description="the prompt as a template of the row's columns and `text`")
    vars: ListVars = Field(default={}, description="variables of the template; lists expand to every combination")
    settings: PromptSettings = Field(default=PromptSettings(), description="settings for these prompts")
    edit: EditSettings = Field(default=EditSettings(), description="the images that these prompts start from")
    image: Text | None = Field(
        default=None, description="the column of the image that a row starts from; several are separated by |"
    )
    mask: Text | None = Field(default=None, description="the column of the mask of a row's image")


def _prompt_tag(raw: object) -> str:
    if isinstance(raw, FilePrompt) or (isinstance(raw, dict) and "file" in raw):
        return "<file>"
    return "<text>"


def _text_prompt(raw: object) -> object:
    if isinstance(raw, (dict, TextPrompt)):
        return raw
    text = as_text(raw)
    return {"text": text}


Prompt = Annotated[
    Annotated[TextPrompt, BeforeValidator(_text_prompt), Tag("<text>")] | Annotated[FilePrompt, Tag("<file>")],
    Discriminator(_prompt_tag),
]


def _prompt_list(raw: object) -> object:
    if raw is None or raw in ([], ()):
        raise Wrong("there are no prompts", hint="write at least one, e.g. `prompts: [A lighthouse at dusk]`")
    return raw if isinstance(raw, (list, tuple)) else [raw]


class Matrix(Part):
    """The combinations every prompt is made in: the product of the axes, less `exclude`, plus `include`."""

    axes: Axes = Field(default={}, alias="<axes>")
    """The single axes. They stand beside `zip`, `exclude` and `include`; the alias is no name a user can write."""
    zip: Annotated[tuple[ZipGroup, ...], BeforeValidator(_listed)] = ()
    exclude: Annotated[tuple[Combination, ...], BeforeValidator(_listed)] = ()
    include: Annotated[tuple[Combination, ...], BeforeValidator(_listed)] = ()

    @model_validator(mode="before")
    @classmethod
    def _part_axes(cls, raw: Any) -> Any:
        """Whatever is not one of the three words is an axis."""
        if isinstance(raw, Matrix):
            return raw
        axes = dict(mapping_of(raw, "the matrix"))
        words = {name: axes.pop(name, None) for name in ("zip", "exclude", "include")}
        return {"<axes>": axes, **{name: value for name, value in words.items() if value is not None}}


class Limits(Part):
    """How fast the provider may be asked. What is left out comes from the tier."""

    concurrency: Annotated[int, Field(ge=1, le=1024), BeforeValidator(as_int)] | None = Field(
        default=None, description="requests in flight at once"
    )
    images_per_minute: Annotated[float, Field(gt=0), BeforeValidator(as_float)] | None = None
    requests_per_minute: Annotated[float, Field(gt=0), BeforeValidator(as_float)] | None = None
    tokens_per_minute: Annotated[float, Field(gt=0), BeforeValidator(as_float)] | None = None
    tier: Int | None = Field(default=None, description="usage tier of your account: its limits are the defaults")


class Budget(Part):
    """The most that may be spent. The worst case is reserved before every request."""

    usd: Annotated[Decimal, Field(ge=0), BeforeValidator(as_decimal)] = Field(description="US dollars")
    per: Literal["run", "day", "month", "job"] = Field(
        default="run", description="what the cap is for (days and months: UTC)"
    )


class Retry(Part):
    """How often an image is tried again."""

    attempts: Annotated[int, Field(ge=1, le=20), BeforeValidator(as_int)] = Field(
        default=5, description="attempts that fail without being billed"
    )
    billed_attempts: Annotated[int, Field(ge=1, le=10), BeforeValidator(as_int)] = Field(
        default=3, description="attempts that may have been billed"
    )
    rate_limited_attempts: Annotated[int, Field(ge=1, le=10_000), BeforeValidator(as_int)] = Field(
        default=50, description="times told to slow down"
    )
    base_s: Annotated[float, Field(gt=0, le=3600), BeforeValidator(as_float)] = Field(
        default=1.0, description="longest first wait, seconds; then doubled"
    )
    max_s: Annotated[float, Field(gt=0, le=86_400), BeforeValidator(as_float)] = Field(
        default=60.0, description="longest wait, seconds"
    )


class Timeouts(Part):
    """How long a request may take, in seconds."""

    connect_s: Annotated[float, Field(gt=0, le=3600), BeforeValidator(as_float)] = Field(
        default=10.0, description="to connect"
    )
    first_byte_s: Annotated[float, Field(gt=0, le=3600), BeforeValidator(as_float)] = Field(
        default=300.0, description="until the answer begins"
    )
    stall_s: Annotated[float, Field(gt=0, le=3600), BeforeValidator(as_float)] = Field(
        default=60.0, description="between two pieces of the answer"
    )
    total_s: Annotated[float, Field(gt=0, le=86_400), BeforeValidator(as_float)] = Field(
        default=600.0, description="for the whole request"
    )


def _within_the_window(raw: object) -> object:
    value = as_seconds(raw)
    if not 0 < value <= BATCH_WINDOW_S:
        raise Wrong(
            f"`after` must be more than 0 and at most {written(BATCH_WINDOW_S)}, not {written(value)}",
            hint="a batch is over by then; without `after` falling back waits for that",
        )
    return value


class Batch(Part):
    """How a job goes through the Batch API. `after` is read as seconds, however it is written."""

    max_requests: Annotated[int, Field(ge=1, le=MOST_BATCH_REQUESTS), BeforeValidator(as_int)] = Field(
        default=2000, description="requests in one batch: smaller ones come home earlier"
    )
    fall_back: Literal["online", "none"] = Field(
        default="none", description="who makes what the batch did not deliver: online, at the online price, or nobody"
    )
    after: Annotated[float, BeforeValidator(_within_the_window)] | None = Field(
        default=None,
        description="fall back when a batch is this old, e.g. 20h or 90m; by default when it is over",
        examples=["20h", "90m", "1h30m"],
    )

    @model_validator(mode="after")
    def _after_is_for_falling_back(self) -> Self:
        if self.after is not None and self.fall_back != "online":
            raise Wrong(
                "`after` says when to fall back, and nothing falls back",
                hint="add `fall_back: online`, or remove `after`",
                path=("after",),
                at_key=True,
            )
        return self


class Output(Part):
    """Where images go, and how they are called."""

    dir: Annotated[Text, AfterValidator(bucket_url)] | None = Field(
        default=None,
        description="a prefix in a bucket that images go to, such as s3://bucket/prefix; "
        "--output and RUNNER_OUTPUT win over it, and choose a folder",
    )

    name: Text | None = Field(
        default=None,
        description="template of the path below the job's image folder, without extension; "
        "by default {{ prompt_id }}/{{ size }}-{{ quality }}-{{ sample }} with every further axis",
    )


def _version(raw: object) -> object:
    value = as_int(raw)
    if value != 1:
        raise Wrong(f"version {value} of the manifest format is not known", hint="this version reads `version: 1`")
    return value


def _budget(raw: object) -> object:
    return raw if isinstance(raw, (dict, Budget)) or raw is None else {"usd": raw}


class Manifest(Part):
    """A batch job: the images that are wanted, and how to get them."""

    version: Annotated[Literal[1], BeforeValidator(_version)] = Field(default=1, description="of the manifest format")
    name: Annotated[Text, AfterValidator(safe_job_name)] = Field(
        description="names the job, its folder and its ledger entries"
    )
    description: Text | None = Field(default=None, description="for people")
    provider: Text | None = Field(default=None, description="who serves the API, by its name in the catalog")
    model: Text = Field(default="gpt-image-1-mini", description="the model")
    fallback_model: Text | None = Field(default=None, description="used once the model has been shut down")
    edition: Text | None = Field(default=None, description="change it to get fresh images of unchanged requests")
    vars: ScalarVars = Field(default={}, description="variables for every template of the job")
    prompts: Annotated[tuple[Prompt, ...], BeforeValidator(_prompt_list)] = Field(description="what the images show")
    matrix: Matrix = Field(default=Matrix(), description="sizes, qualities, ...")
    samples: Annotated[int, Field(ge=1, le=1000), BeforeValidator(as_int)] = Field(
        default=1, description="images of every combination"
    )
    settings: Settings = Field(default=Settings(), description="defaults of every request")
    edit: EditSettings = Field(default=EditSettings(), description="the images that the job starts from")
    output: Output = Field(default=Output(), description="how images are called")
    renditions: Renditions = Field(
        default=(), description="pictures that are made of every image, cut to a size; they cost nothing"
    )
    limits: Limits = Field(default=Limits(), description="how fast the provider may be asked")
    budget: Annotated[Budget | None, BeforeValidator(_budget)] = Field(
        default=None, description="the most that may be spent"
    )
    retry: Retry = Field(default=Retry(), description="how often an image is tried again")
    timeouts: Timeouts = Field(default=Timeouts(), description="how long a request may take")
    delivery: Delivery = Field(
        default="online",
        description="online: a request for each image, at once; batch: in files, within 24 hours, at half the price",
    )
    batch: Batch = Field(default=Batch(), description="how batch delivery goes")
    notify: Notify | None = Field(default=None, description="who hears of a run's end")
    promotion: Promotion | None = Field(default=None, description="what the prompts were chosen from (runner promote)")

    _binding: Binding | None = PrivateAttr(None)

    @property
    def binding(self) -> Binding:
        """What is known beside the values: places, folder, combinations. Only a loaded manifest has it."""
        if self._binding is None:
            raise TypeError("this manifest was not loaded: use manifest.load or manifest.loads")
        return self._binding

    def bind(self, binding: Binding) -> None:
        """Attach what loading found out; once, by the loader."""
        self._binding = binding

    def origin_of(self, *path: str | int) -> Origin:
        """Where a key (or list entry) stands, or the nearest one above it; a `--set` is its own source."""
        return self.binding.document.origin(path, at_key=True)

    @property
    def recipes(self) -> tuple[Recipe, ...]:
        """How the renditions of this job are made, in the manifest's order."""
        return tuple(one.recipe for one in self.renditions)

    @property
    def models(self) -> tuple[str, ...]:
        """Every model that a task of this job asks for, in order of first use. The fallback is not among them."""
        return tuple(self.binding.models)

    def model_origin(self, name: str) -> Origin:
        """Where the model was asked for; for a model that nobody wrote, the top of the manifest."""
        if name == self.fallback_model and name not in self.binding.models:
            return self.binding.document.origin(("fallback_model",))
        return self.binding.document.origin(self.binding.models.get(name, ("model",)))

    def digest(self, *, simulated: bool) -> str:
        """SHA-256 (hex) of everything that decides the tasks, the prompt files' content included.

        The same digest means the same tasks, but for the lines they stand in. Reads the prompt files.

        Raises:
            ManifestError: a prompt file cannot be read.
        """
        from runner.manifest.resolving import digest

        return digest(self, simulated=simulated)


def known_keys(path: Iterable[str | int]) -> list[str]:
    """The keys that a mapping at `path` may have, for hints; empty where any key may stand."""
    keys = [part for part in path if isinstance(part, str)]
    parts: dict[str, type[BaseModel]] = {
        "settings": Settings,
        "limits": Limits,
        "budget": Budget,
        "retry": Retry,
        "timeouts": Timeouts,
        "batch": Batch,
        "output": Output,
        "notify": Notify,
        "edit": EditSettings,
        "renditions": RenditionSettings,
        "promotion": Promotion,
    }
    if not keys:
        return list(Manifest.model_fields)
    if keys[-2:] == ["edit", "prepare"]:
        return list(PrepareSettings.model_fields)
    if keys[0] != "prompts":
        return list(parts[keys[0]].model_fields) if keys[0] in parts and len(keys) == 1 else []
    if keys[-1] == "settings":
        return list(PromptSettings.model_fields)
    if keys[-1] == "edit":
        return list(EditSettings.model_fields)
    return list((FilePrompt if "<file>" in keys else TextPrompt).model_fields)
