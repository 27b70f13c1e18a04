"""Evaluations: measure the pictures of an adapter or a base against the held-out ones of a dataset; list, look at, delete."""

from functools import partial

from fastapi import APIRouter, Response
from sqlalchemy.orm import Session

from api.datasets.summary import dataset_summary
from api.evaluations.schemas import EvaluationRequest, EvaluationView
from api.generations.resolve import ResolvedModel, find_model
from api.kit.answers import Listing, errors
from api.kit.auth import TenantId
from api.kit.dependencies import Resources, ResourcesDep, Transaction, after_commit, discard, owned, owned_rows
from api.kit.idempotency import Idempotent, created
from api.kit.pagination import PageQuery, page_of
from difffit_core.errors import SpecError
from difffit_core.evaluation.metrics import check_configured, check_metrics
from difffit_core.evaluation.spec import EvaluationSpec, drawn_by
from difffit_core.spec.job import DatasetSummary
from jobstore.kit.dispatch import wake
from jobstore.kit.ids import new_id
from jobstore.kit.objects import evaluation_prefix
from jobstore.kit.tables import Dataset, Evaluation, Job, Tenant
from jobstore.tenants.quotas import limits_of

router = APIRouter(prefix="/evaluations", tags=["evaluations"])

HELD_OUT = 0.1  # of each class, as a job does that says nothing else


@router.post("", status_code=202, dependencies=[Idempotent], responses=errors(400, 404, 409, 413, 415, 429))
def create_evaluation(
    request: EvaluationRequest, tenant: TenantId, session: Transaction, resources: ResourcesDep, response: Response
) -> EvaluationView:
    """Draw `samples` pictures with the held-out pictures' classes or captions, and compare the two by each of `metrics`."""
    model = find_model(session, resources, request, tenant)
    dataset = owned(session, Dataset, request.dataset, tenant, param="dataset", keep=True)
    summary = dataset_summary(dataset)
    _check(request, model, summary, resources)
    limits = limits_of(session.get_one(Tenant, tenant), resources.settings)
    resources.rates.check("generate_per_minute", tenant, limits.generate_per_minute)
    evaluation = Evaluation(
        id=new_id("eval"),
        tenant_id=tenant,
        adapter_id=model.adapter and model.adapter.id,
        base_model=model.base.id,
        dataset_id=dataset.id,
        task=model.task,
        status="queued",
        parameters=_spec(session, request, model, summary).model_dump(mode="json"),
    )
    session.add(evaluation)
    session.flush()
    created(session, f"/evaluations/{evaluation.id}")
    after_commit(session, partial(wake, "evaluate", evaluation.id))
    response.headers["location"] = f"/evaluations/{evaluation.id}"
    return EvaluationView.of(evaluation)


def _check(request: EvaluationRequest, model: ResolvedModel, dataset: DatasetSummary, resources: Resources) -> None:
    """Raise SpecError where a metric cannot be had of this model, or the dataset does not say what the model is to draw."""
    fields = drawn_by(model.task)
    check_metrics(request.metrics, has_pictures="file" in fields, has_captions="caption" in fields, param="metrics")
    check_configured(request.metrics, resources.settings.feature_weights, "metrics")
    missing = [field for field in fields if field not in dataset.holds]
    if missing:
        raise SpecError(
            f"A {model.task} model draws by each example's {missing[0]}, which not all of this dataset have.",
            code=f"no_{missing[0]}",
            param="dataset",
        )
    unknown = sorted(dataset.classes.keys() - set(model.class_names)) if model.task == "class-conditional" else []
    if unknown:
        raise SpecError(
            f"The dataset has the class {unknown[0]!r}, which this model cannot draw.", code="unknown_label", param="dataset"
        )


def _spec(session: Session, request: EvaluationRequest, model: ResolvedModel, dataset: DatasetSummary) -> EvaluationSpec:
    """With a value for every setting. What an adapter was trained on is not held out: its job says what was."""
    fraction, defaults = request.validation_fraction, model.base.defaults
    if fraction is None and model.adapter is not None:
        plan = session.get_one(Job, model.adapter.job_id).plan
        if plan.dataset.sha256 == dataset.sha256:
            fraction = plan.hyperparameters.validation_fraction
    return EvaluationSpec(
        metrics=list(dict.fromkeys(request.metrics)),
        samples=request.samples,
        steps=defaults.sample_steps if request.steps is None else request.steps,
        guidance_scale=defaults.guidance_scale if request.guidance_scale is None else request.guidance_scale,
        seed=request.seed,
        scheduler=request.scheduler or defaults.scheduler,
        validation_fraction=HELD_OUT if fraction is None else fraction,
    )


@router.get("", responses=errors(404))
def list_evaluations(page: PageQuery, tenant: TenantId, session: Transaction) -> Listing[EvaluationView]:
    """Evaluations, newest first."""
    rows, more = page_of(session, owned_rows(Evaluation, tenant), Evaluation, page)
    return Listing(data=[EvaluationView.of(row) for row in rows], has_more=more)


@router.get("/{evaluation_id}", responses=errors(404))
def get_evaluation(evaluation_id: str, tenant: TenantId, session: Transaction) -> EvaluationView:
    """One evaluation: how far it is, and its figures when it has succeeded."""
    return EvaluationView.of(owned(session, Evaluation, evaluation_id, tenant))


@router.delete("/{evaluation_id}", status_code=204, responses=errors(404))
def delete_evaluation(evaluation_id: str, tenant: TenantId, session: Transaction, resources: ResourcesDep) -> None:
    """Delete an evaluation; one that runs is stopped."""
    evaluation = owned(session, Evaluation, evaluation_id, tenant)
    session.delete(evaluation)
    discard(session, resources.store, (file.key for file in resources.store.list(evaluation_prefix(evaluation_id))))
