"""One evaluation, from its questions to figures that are kept and compared."""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from daemon.answer import Load, ask, folder_of, serving, shares_for
from daemon.evaluation import beir, noise, questions
from daemon.evaluation.answers import answered, spread
from daemon.evaluation.questions import Question, QuestionSet
from daemon.evaluation.retrieval import look, ranked, threshold
from daemon.operations import shapes
from daemon.runtime import Runtime, generation, ranking
from daemon.settings import Settings
from store.errors import UsageError
from store.memory import Memory
from store.opening import fingerprint
from store.types import Evaluation, State

MADE = 50  # questions made from the documents, where no number is asked for

Json = dict[str, Any]
UseModel = Callable[[Callable[[Load, Callable[[], bool]], Any]], Any]  # as `Runtime.with_model`
OnProgress = Callable[[str, int, int], None]  # the stage, how much of it is done, how much there is


def evaluate(
    runtime: Runtime,
    asked: str = "made",
    *,
    count: int | None = None,
    when: str | None = None,
    against: str | None = None,
    retrieval_only: bool = False,
    on_progress: OnProgress = lambda stage, done, total: None,
) -> tuple[Evaluation, Evaluation | None]:
    """Measure a state, keep the figures, and return them with those to compare them with.

    `asked` is a file of questions, a BEIR folder, "logged" or "made". `against` is the number of an evaluation, or the
    WHEN of a state that is asked the same questions; without it the last evaluation of such a set is taken, if there is
    one. Raises UsageError and NotFound before anything is measured.
    """
    memory, folder = runtime.memory, Path(asked)
    journal, other = memory.journal, _stored(runtime, against)
    use_model = None if retrieval_only else runtime.with_model

    def of(memory: Memory, chosen: QuestionSet, state: State, shown: Json) -> Evaluation:
        figures = measure(memory, use_model, runtime.settings, chosen.questions, state, on_progress)
        return journal.add_evaluation(
            Evaluation(
                evaluation=0,
                at=memory.clock(),
                state=shown,
                config=fingerprint(runtime.settings.model_dump(mode="json")),
                kind=chosen.kind,
                name=chosen.name,
                questions=len(chosen.questions),
                asked=chosen.fingerprint,
                metrics=figures,
            )
        )

    if beir.is_collection(folder):
        if when is not None or (against is not None and other is None):
            raise UsageError(f"{folder} has no past states; leave out --at, and give --against the number of a run")
        chosen = beir.read_questions(folder).sample(count)
        other = other or _last(runtime, chosen)
        with _throw_away(runtime, folder, on_progress) as collection:
            return of(collection, chosen, collection.state(), {}), other
    state = memory.state(when)
    chosen = choose(memory, state, asked, count)
    if against is not None and other is None:
        then = memory.state(against)
        # Documents are named by where they lie, which was perhaps elsewhere then.
        same = chosen if chosen.kind == "made" else choose(memory, then, asked, count)
        other = of(memory, same, then, described(then))
    other = other or _last(runtime, chosen)
    return of(memory, chosen, state, described(state)), other


def choose(memory: Memory, state: State, asked: str, count: int | None) -> QuestionSet:
    """The questions that `asked` names (see `evaluate`), at most `count`."""
    if asked == "made":
        return questions.made(memory, state, MADE if count is None else count)
    if asked == "logged":
        return questions.logged(memory, state).sample(count)
    paths = [one.path for one in memory.live_at(state.head).values()]
    return questions.from_file(Path(asked), paths).sample(count)


def described(state: State) -> Json:
    return {**shapes.state(state), "adapter": state.head.adapter, "query_adapter": state.head.query_adapter}


def _stored(runtime: Runtime, against: str | None) -> Evaluation | None:
    """The evaluation of this number; None where `against` is no number, but a state's WHEN."""
    if against is None or not against.isdigit():
        return None
    return runtime.memory.journal.evaluation(int(against))


def _last(runtime: Runtime, chosen: QuestionSet) -> Evaluation | None:
    """The last evaluation of a set of this kind and name."""
    stored = runtime.memory.journal.evaluations()
    return next((one for one in stored if (one.kind, one.name) == (chosen.kind, chosen.name)), None)


def measure(
    memory: Memory,
    use_model: UseModel | None,
    settings: Settings,
    questions: Sequence[Question],
    state: State,
    on_progress: Callable[[str, int, int], None],
) -> Json:
    """The figures of a state. Without a way to the language model, of retrieval only.

    `on_progress` is told the stage, how much of it is done, and how much there is. Nothing is kept as a retrieval.
    """
    memory.search(questions[0].text, 1, when=state)  # loads the embedder, which no question's time should show
    looked = []
    for number, question in enumerate(questions):
        on_progress("searching", number, len(questions))
        looked.append(look(memory, question, state))
    figures: Json = {
        "retrieval": ranked(looked),
        "threshold": threshold(looked, settings.retrieval.min_score),
        "latency": {"search": spread([one.seconds for one in looked])},
    }
    answerable = [one for one in looked if one.question.answers is not None]
    if use_model is None or not answerable:
        return figures

    def with_model(load: Load, _stop: Callable[[], bool]) -> Json:
        folder = folder_of(memory, serving(state, settings))
        load(folder)  # not in the first answer's time
        answers = []
        for number, one in enumerate(answerable):
            on_progress("answering", number, len(answerable))
            answers.append(ask(memory, load, settings, one.question.text, when=state))
        curve = noise.curve(
            lambda passages: load(folder, shares_for(folder, passages)), settings, answerable, on_progress
        )
        return {**answered(answerable, answers), "noise": curve}

    given: Json = use_model(with_model)
    return figures | given | {"latency": figures["latency"] | {"ask": given["latency"]["ask"]}}


@contextmanager
def _throw_away(runtime: Runtime, folder: Path, on_progress: OnProgress) -> Iterator[Memory]:
    """A memory of a BEIR folder's corpus, gone when the block ends."""
    settings = runtime.settings
    with tempfile.TemporaryDirectory(prefix="memex-eval-") as state_dir:
        made_as = generation(settings, runtime.embedder)
        with Memory(
            Path(state_dir),
            runtime.embedder,
            write=True,
            generation=made_as,
            ranking=ranking(settings),
            reranker=runtime.reranker,
        ) as memory:
            beir.load(folder, memory, settings, partial(on_progress, "embedding"))
            yield memory
