"""How the checks run a `Pipeline`."""

from typing import Any

from pipelines import Pipeline

from pytest_bnconsistency.models import Subject


class PipelineSubject(Subject):
    mode = "learn"

    @classmethod
    def accepts(cls, model: Any) -> bool:
        return isinstance(model, Pipeline)

    def call(self, x: Any, training: bool | None) -> Any:
        return self.model.run(x) if training is None else self.model.run(x, learn=training)
