"""Every way in which Engram says no.

EngramError                      status  slug
├── BadRequest                   400     bad-request
├── Unauthorized                 401     unauthorized
├── Forbidden                    403     forbidden
│   └── CrossSite                403     cross-site
├── NotFound                     404     not-found
├── MethodNotAllowed             405     method-not-allowed
├── NotAcceptable                406     not-acceptable
├── RequestTimeout               408     request-timeout
├── Conflict                     409     conflict
│   ├── AlreadyExists            409     already-exists
│   ├── DatasetNotEmpty          409     dataset-not-empty
│   ├── DatasetInUse             409     dataset-in-use
│   ├── NoTrainedVersion         409     no-trained-version
│   ├── HorizonTooLong           409     horizon-too-long
│   ├── RequestAtWork            409     request-at-work
│   ├── TrainingEnded            409     training-ended
│   ├── VersionServes            409     version-serves
│   └── WorkspaceFull            409     workspace-full
├── BackupDamaged                422     backup-damaged
├── BodyTooLarge                 413     body-too-large
├── UnsupportedMediaType         415     unsupported-media-type
├── HostNotAllowed               421     host-not-allowed
├── InvalidRequest               422     invalid-request
│   ├── InvalidObservations      422     invalid-observations
│   ├── FreqUndetermined         422     freq-undetermined
│   ├── OffGrid                  422     off-grid
│   ├── DuplicateObservations    422     duplicate-observations
│   ├── SpanTooLong              422     span-too-long
│   ├── NothingToLearn           422     nothing-to-learn
│   ├── KeyReused                422     key-reused
│   ├── JsonTooDeep              422     json-too-deep
│   ├── NetworkTooLarge          422     network-too-large
│   ├── AnswerTooLarge           422     answer-too-large
│   ├── ContextTooShort          422     context-too-short
│   └── QuantileOutOfRange       422     quantile-out-of-range
├── RateLimited                  429     rate-limited
├── TooManyStreams               429     too-many-streams
├── QuotaUsedUp                  429     quota-used-up
├── HeadTooLarge                 431     head-too-large
├── TrainingFailed               500     training-failed        (a training's outcome, never an answer's status)
│   ├── TrainingDiverged         500     training-diverged
│   ├── OutOfMemory              500     out-of-memory
│   ├── TrialDropped             500     trial-dropped
│   ├── TimeLimitReached         500     time-limit
│   └── WorkerLost               500     worker-lost
├── InternalError                500     internal-error
│   └── ObservationsCorrupt      500     observations-corrupt
├── ArtifactCorrupt              500     artifact-corrupt
├── DiskFull                     507     disk-full
└── Unavailable                  503     unavailable
    ├── Overloaded               503     overloaded
    ├── PepperMissing            503     pepper-missing
    └── TooManyConnections       503     too-many-connections

An error carries a class per reason, the HTTP status on the class, a `detail` that says where, what was expected and what was
found, and the facts as fields. `docs/problems.md` says the cure of each. Standard library only.
"""

from collections.abc import Sequence
from typing import Any, ClassVar

Place = dict[str, Any]
"""Where one thing is wrong: {"pointer" | "row" + "column", "detail", ...}."""


class EngramError(Exception):
    """The root. `facts` become fields of the problem object; `errors` name the places."""

    status: ClassVar[int] = 500
    slug: ClassVar[str] = "internal-error"
    title: ClassVar[str] = "Internal error"

    def __init__(self, detail: str, *, errors: Sequence[Place] = (), **facts: Any) -> None:
        super().__init__(detail)
        self.detail = detail
        self.errors = list(errors)
        self.facts = facts

    def to_problem(self) -> dict[str, Any]:
        """The problem object (RFC 9457) without `instance` and `request_id`, which only the door knows."""
        problem: dict[str, Any] = {
            "type": f"/problems/{self.slug}",
            "title": self.title,
            "status": self.status,
            "detail": self.detail,
            **self.facts,
        }
        if self.errors:
            problem["errors"] = self.errors
        return problem


class BadRequest(EngramError):
    status, slug, title = 400, "bad-request", "The request could not be read"


class Unauthorized(EngramError):
    status, slug, title = 401, "unauthorized", "A valid key is needed"


class Forbidden(EngramError):
    status, slug, title = 403, "forbidden", "The key may not do this"


class CrossSite(Forbidden):
    slug, title = "cross-site", "Another site's page may not do this"


class NotFound(EngramError):
    status, slug, title = 404, "not-found", "There is no such thing"


class MethodNotAllowed(EngramError):
    status, slug, title = 405, "method-not-allowed", "The path does not take this method"


class NotAcceptable(EngramError):
    status, slug, title = 406, "not-acceptable", "No format that was asked for can be given"


class RequestTimeout(EngramError):
    status, slug, title = 408, "request-timeout", "The request was not sent in time"


class Conflict(EngramError):
    status, slug, title = 409, "conflict", "The state says no"


class AlreadyExists(Conflict):
    slug, title = "already-exists", "The name is taken"


class DatasetNotEmpty(Conflict):
    slug, title = "dataset-not-empty", "The dataset already holds observations"


class DatasetInUse(Conflict):
    slug, title = "dataset-in-use", "Versions were learned from the dataset"


class NoTrainedVersion(Conflict):
    slug, title = "no-trained-version", "The model has no version yet"


class HorizonTooLong(Conflict):
    slug, title = "horizon-too-long", "The horizon is beyond the trained one"


class RequestAtWork(Conflict):
    slug, title = "request-at-work", "The first request with this key is still at work"


class TrainingEnded(Conflict):
    slug, title = "training-ended", "The training has already ended"


class VersionServes(Conflict):
    slug, title = "version-serves", "The version serves"


class WorkspaceFull(Conflict):
    slug, title = "workspace-full", "The workspace may store no more"


class BackupDamaged(EngramError):
    status, slug, title = 422, "backup-damaged", "The file is no whole backup"


class BodyTooLarge(EngramError):
    status, slug, title = 413, "body-too-large", "The body is too large"


class UnsupportedMediaType(EngramError):
    status, slug, title = 415, "unsupported-media-type", "The body's type is not one that is read here"


class HostNotAllowed(EngramError):
    status, slug, title = 421, "host-not-allowed", "The service is not known by this name"


class InvalidRequest(EngramError):
    status, slug, title = 422, "invalid-request", "The request is not valid"


class InvalidObservations(InvalidRequest):
    slug, title = "invalid-observations", "The observations are not valid"


class FreqUndetermined(InvalidRequest):
    slug, title = "freq-undetermined", "The frequency could not be determined"


class OffGrid(InvalidRequest):
    slug, title = "off-grid", "A timestamp does not lie on the dataset's grid"


class DuplicateObservations(InvalidRequest):
    slug, title = "duplicate-observations", "Two observations for one step"


class SpanTooLong(InvalidRequest):
    slug, title = "span-too-long", "The series would span too many steps"


class NothingToLearn(InvalidRequest):
    slug, title = "nothing-to-learn", "No series can be learned from"


class KeyReused(InvalidRequest):
    slug, title = "key-reused", "The Idempotency-Key came with another request"


class JsonTooDeep(InvalidRequest):
    slug, title = "json-too-deep", "The JSON is nested too deep"


class NetworkTooLarge(InvalidRequest):
    slug, title = "network-too-large", "The network would be too large"


class AnswerTooLarge(InvalidRequest):
    slug, title = "answer-too-large", "The answer would be too large"


class ContextTooShort(InvalidRequest):
    slug, title = "context-too-short", "There is nothing to forecast from"


class QuantileOutOfRange(InvalidRequest):
    slug, title = "quantile-out-of-range", "The quantile level was not learned"


class RateLimited(EngramError):
    status, slug, title = 429, "rate-limited", "Too many requests"


class TooManyStreams(EngramError):
    status, slug, title = 429, "too-many-streams", "The workspace follows too many streams"


class QuotaUsedUp(EngramError):
    status, slug, title = 429, "quota-used-up", "The workspace has used up what it may"


class HeadTooLarge(EngramError):
    status, slug, title = 431, "head-too-large", "The head of the request is too large"


class TrainingFailed(EngramError):
    """How a training ends badly; it stands in the training's `problem`, it is no answer's status."""

    slug, title = "training-failed", "The training failed"


class TrainingDiverged(TrainingFailed):
    slug, title = "training-diverged", "The loss stopped being a number"


class OutOfMemory(TrainingFailed):
    slug, title = "out-of-memory", "The training needed more memory than there is"


class TrialDropped(TrainingFailed):
    slug, title = "trial-dropped", "The trial was not worth its end"


class TimeLimitReached(TrainingFailed):
    slug, title = "time-limit", "The training reached its time limit"


class WorkerLost(TrainingFailed):
    slug, title = "worker-lost", "The worker was lost too often"


class InternalError(EngramError):
    slug, title = "internal-error", "Something went wrong in the service"


class ObservationsCorrupt(InternalError):
    slug, title = "observations-corrupt", "Stored observations are damaged"


class ArtifactCorrupt(EngramError):
    slug, title = "artifact-corrupt", "The stored artifact is damaged"


class DiskFull(EngramError):
    status, slug, title = 507, "disk-full", "There is no room left to store this"


class Unavailable(EngramError):
    status, slug, title = 503, "unavailable", "The service cannot answer right now"


class Overloaded(Unavailable):
    slug, title = "overloaded", "More is asked than can be answered right now"


class PepperMissing(Unavailable):
    slug, title = "pepper-missing", "Keys cannot be checked or made here"


class TooManyConnections(Unavailable):
    slug, title = "too-many-connections", "The service holds as many connections as it may"
