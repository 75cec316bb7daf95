"""Run a suite of attacks on the queries of a subject: the worst case of each query, resumable, in budget to the bit."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path

import torch
from torch import Tensor, nn

from saat.attacks.base import Attack
from saat.attacks.goals import SemanticGoal
from saat.attacks.objectives import flips_objective
from saat.attacks.threat import ThreatModel
from saat.attacks.universal import fit_universal
from saat.attacks.views import restart_draws
from saat.codes.bank import CodeBank
from saat.errors import SaatError
from saat.evaluation.deployment import Deployment
from saat.evaluation.guides import worst_codes
from saat.evaluation.metrics import RetrievalMetrics
from saat.evaluation.ranking import average_precision, count_by_distance
from saat.evaluation.suite import BLACK_BOX, MEMBERS, SUITES, SuiteBatch, round_to_8_bits
from saat.evaluation.trials import Trials, instability, run_trials
from saat.hamming import sign_codes
from saat.models.hash_model import encode_logits
from saat.recipes.claims import claim_measurement
from saat.recipes.kept import OF_MEMBERS, kept_tensors
from saat.recipes.outcome import SubjectCodes, measure
from saat.recipes.subject import Subject
from saat.runtime import derive_seed, progress
from saat.types import has_label

TRIAL_QUERIES = 100


@dataclass(frozen=True)
class SuiteOptions:
    """What a suite run needs to know.

    Args:
        suite: a name of `SUITES`.
        threat: how far images may move.
        steps: gradient steps of a search; members may take a part or a multiple of them.
        batch_size: queries at a time.
        precision: of the searches.
        seed: of all that is random.
        out: folder of the members' images; a run that was stopped goes on there.
        quiet: show no bars.
        surrogates: other models with their data, for the member `transfer`, which is left out without one.
    """

    suite: str
    threat: ThreatModel
    steps: int
    batch_size: int
    precision: str
    seed: int
    out: Path
    quiet: bool
    surrogates: tuple[Subject, ...] = ()

    def members(self) -> tuple[str, ...]:
        """Return the members that run."""
        return tuple(name for name in SUITES[self.suite] if name != "transfer" or self.surrogates)

    def surrogate_weights(self) -> list[str]:
        """Return the checksums of the surrogates' weights."""
        return [other.checksum for other in self.surrogates]

    def part_file(self, name: str, number: int) -> Path:
        """Return where what was found on a batch is kept."""
        return self.out / OF_MEMBERS / f"{self.suite}-{name}-{number:05d}.safetensors"


@dataclass(frozen=True)
class MemberResult:
    """What one member of the suite found.

    Args:
        metrics: of its images as saved in 8 bits.
        before_rounding: average precision by query of the images before that, float64 (Q,).
        model_evaluations: images that its searches sent through the model; without what `universal` learned from.
        seconds: wall time.
    """

    metrics: RetrievalMetrics
    before_rounding: Tensor
    model_evaluations: int
    seconds: float


@dataclass(frozen=True)
class SuiteResult:
    """The worst case over a suite.

    Args:
        images: uint8 (Q, 3, S, S), of each query the image of lowest average precision; clean where none is lower.
        codes: int8 (Q, K), of these images.
        members: results by member, in the order they ran.
        trials: of the first queries.
        any_code_map: the lowest MAP found for codes, whether an image can reach them or not.
        largest_change: of the saved images, in the threat's norm.
    """

    images: Tensor
    codes: Tensor
    members: Mapping[str, MemberResult]
    trials: Trials
    any_code_map: float
    largest_change: float

    def by_kind(self) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
        """Return average precision by query of the members that see gradients, and of those that do not."""
        values = {name: result.metrics.average_precision for name, result in self.members.items()}
        white = {name: value for name, value in values.items() if name not in BLACK_BOX}
        return white, {name: value for name, value in values.items() if name in BLACK_BOX}

    def before_rounding(self) -> Tensor:
        """Return the lowest average precision that a member found for each query before rounding, float64 (Q,)."""
        return torch.stack([member.before_rounding for member in self.members.values()]).amin(0)


def run_suite(options: SuiteOptions, subject: Subject, codes: SubjectCodes, device: torch.device) -> SuiteResult:
    """Run every member on every batch of labeled queries, and keep the worst case of each query.

    The folder must be that of this run: see `claim_folder`.
    """
    query = subject.splits.query
    rows = torch.arange(len(query))[has_label(query.labels)]
    batch_of = make_batches(options, subject, codes, device)

    def precisions(found: Tensor) -> Tensor:
        database = subject.splits.database
        return average_precision(count_by_distance(found[rows], query.labels[rows], codes.database, database.labels))

    clean = sign_codes(codes.query_logits)
    worst_images, worst = query.images.clone(), clean.clone()
    lowest = precisions(clean)
    members: dict[str, MemberResult] = {}
    for name in options.members():
        images, exact_codes = query.images.clone(), clean.clone()
        evaluations, seconds = 0, 0.0
        parts = torch.split(rows, options.batch_size)
        for number, part in enumerate(progress(parts, name, unit="batch", quiet=options.quiet)):
            batch = batch_of(part, worst_images)
            found = _member_on(options, name, number, batch, subject.model, query.images[part])
            images[part], exact_codes[part] = found["images"], found["codes"]
            evaluations += int(found["model_evaluations"])
            seconds += float(found["seconds"])
        _verified(options.threat, images, query.images, of=name)
        member_codes = sign_codes(encode_logits(subject.model, images, label=f"encode {name}", quiet=options.quiet))
        metrics = measure(subject, codes, member_codes)
        members[name] = MemberResult(metrics, precisions(exact_codes), evaluations, seconds)
        better = rows[metrics.average_precision < lowest]
        worst_images[better], worst[better] = images[better], member_codes[better]
        lowest = torch.minimum(lowest, metrics.average_precision)
    first = [batch_of(part, worst_images) for part in torch.split(rows[:TRIAL_QUERIES], options.batch_size)]
    return SuiteResult(
        images=worst_images,
        codes=worst,
        members=members,
        trials=_trials(options, subject, first),
        any_code_map=_any_code_map(options, first[0].deployment, worst[rows].to(device), query.labels[rows].to(device)),
        largest_change=_verified(options.threat, worst_images, query.images, of="the worst case"),
    )


def make_batches(
    options: SuiteOptions, subject: Subject, codes: SubjectCodes, device: torch.device
) -> Callable[[Tensor, Tensor], SuiteBatch]:
    """Return how to make a batch from rows of the queries and the worst images so far, uint8 (Q, 3, S, S)."""
    query = subject.splits.query
    bank = codes.bank(subject, device)
    deployment = Deployment(CodeBank(codes.database.to(device), subject.splits.database.labels.to(device)))
    surrogates = [(other.model, _train_bank(other, device, quiet=options.quiet)) for other in options.surrogates]

    @cache
    def universal() -> Attack:
        return _fit_universal(options, subject, bank)

    def batch_of(part: Tensor, worst: Tensor) -> SuiteBatch:
        return SuiteBatch(
            model=subject.view,
            bank=bank,
            deployment=deployment,
            images=(query.images[part].float() / 255.0).to(device),
            labels=query.labels[part].to(device),
            logits=codes.query_logits[part].to(device),
            best=(worst[part].float() / 255.0).to(device),
            threat=options.threat,
            steps=options.steps,
            precision=options.precision,
            seed=derive_seed(options.seed, "batch", int(part[0])),  # its own draws, whatever was resumed
            surrogates=surrogates,
            universal=universal,
        )

    return batch_of


def claim_folder(options: SuiteOptions, subject: Subject, codes: SubjectCodes) -> None:
    """Write down what the folder holds, so that no other run mixes its images with these.

    Raises:
        ArgumentError: the folder holds another run.
    """
    names = ("suite", "steps", "batch_size", "precision", "seed")
    told = vars(options.threat) | {name: getattr(options, name) for name in names}
    told["surrogates"] = options.surrogate_weights()
    claim_measurement(options.out, "suite", told, subject, codes)


def _member_on(
    options: SuiteOptions, name: str, number: int, batch: SuiteBatch, model: nn.Module, clean: Tensor
) -> dict[str, Tensor]:
    """Return what the member found on this batch, from its file if it has run before."""

    def make() -> dict[str, Tensor]:
        began = time.perf_counter()
        restart_draws(batch.model, options.seed, name, number)  # whatever ran before, or did not since it has its file
        found, cost = MEMBERS[name](batch)
        return {
            "codes": sign_codes(encode_logits(model, found.cpu(), label="", quiet=True)),
            "images": round_to_8_bits(found.cpu(), clean, options.threat),
            "model_evaluations": torch.tensor(cost.model_evaluations),
            "seconds": torch.tensor(time.perf_counter() - began),
        }

    return kept_tensors(options.part_file(name, number), make)


def _trials(options: SuiteOptions, subject: Subject, batches: Sequence[SuiteBatch]) -> Trials:
    """Return the trials of the first queries, from their file if they have run before."""
    path = options.out / OF_MEMBERS / f"{options.suite}-trials.safetensors"

    def make() -> dict[str, Tensor]:
        found = []
        for number, batch in enumerate(batches):
            restart_draws(batch.model, options.seed, "trials", number)
            stable = instability(subject.model, batch.images)  # of the model itself, not of a view
            found.append(replace(run_trials(batch), instability=stable))
        return Trials.joined(found).tensors()

    return Trials.of(kept_tensors(path, make))


def _train_bank(subject: Subject, device: torch.device, *, quiet: bool) -> CodeBank:
    train = subject.splits.train
    codes = sign_codes(encode_logits(subject.database_model, train.images, label="encode train", quiet=quiet))
    return CodeBank(codes.to(device), train.labels.to(device))


def _fit_universal(options: SuiteOptions, subject: Subject, bank: CodeBank) -> Attack:
    """Train one change for all images; its steps are those of one search, an epoch for twenty."""
    train = subject.splits.train
    labeled = has_label(train.labels)
    return fit_universal(
        subject.view,
        train.images[labeled],
        train.labels[labeled],
        SemanticGoal(bank, make_objective=flips_objective),
        options.threat,
        epochs=max(1, options.steps // 20),
        step_size=options.threat.epsilon / 8,
        seed=options.seed,
        precision=options.precision,
        quiet=options.quiet,
    )


def _any_code_map(options: SuiteOptions, deployment: Deployment, codes: Tensor, labels: Tensor) -> float:
    """Return the MAP of the worst codes of queries; each batch is kept, since over many items one takes minutes."""
    found = []
    parts = list(zip(torch.split(codes, options.batch_size), torch.split(labels, options.batch_size), strict=True))
    for number, part in enumerate(progress(parts, "any code", unit="batch", quiet=options.quiet)):

        def make(part: tuple[Tensor, Tensor] = part) -> dict[str, Tensor]:
            return {"average_precision": worst_codes(deployment, *part)[1].cpu()}

        found.append(kept_tensors(options.part_file("any-code", number), make)["average_precision"])
    return torch.cat(found).mean().item()


def _verified(threat: ThreatModel, images: Tensor, clean: Tensor, *, of: str) -> float:
    """Return the largest change of the images as they are saved; it is within the threat model, or saat is broken."""
    change = threat.size(images.float() / 255.0, clean.float() / 255.0)
    largest = float(change.max()) if len(change) else 0.0
    if largest > threat.epsilon + threat.tolerance:
        raise SaatError(f"saved images of {of} leave the threat model {threat}, by {largest}: please report this")
    return largest
