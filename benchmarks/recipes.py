"""Quality against the recipe of transformers' own example scripts: `Trainer` with its defaults, over 3 seeds.

usage: python benchmarks/recipes.py DATA FOLDER NAME...     NAME: of a job in benchmarks/jobs.py

DATA as there; FOLDER keeps what is done, training by training, so that it can be resumed. Both sides start from the
same base model and learn from the same rows for the same epochs; theirs, as the scripts do, uses its last weights, ours
those that did best on the validation rows. Ours is the stage that the road runs, under the job's params. Both run in
one thread, so that two jobs can run side by side. Labels of a regression are scaled as ours, and each batch has the
loss of our task.

Only quality is compared, so that theirs may learn as quickly as ours: its model and hyperparameters are those of
transformers, its arithmetic (AdamW, attention, products) is that of staytuned, which is the same up to rounding. The
first batch's answers are compared with those of the model as transformers makes it.

Bound: the mean over seeds of the first metric's difference on the test rows is no worse than 0.
"""

import statistics
import sys
from pathlib import Path
from typing import Any

import numpy
import torch
import transformers
from jobs import JOBS
from tasks import prepare
from tokenizers import Tokenizer

from staytuned import tasks
from staytuned.data.sides import TEST, TRAIN, rows_of
from staytuned.files import read_json, write_json
from staytuned.modelling.device import make_deterministic
from staytuned.modelling.examples import Examples
from staytuned.modelling.heads import backbone, with_quick_layers
from staytuned.modelling.unpadded import last_states
from staytuned.models import base_of
from staytuned.params import Params
from staytuned.predictor import Predictor
from staytuned.stages import encode, split, train, validate
from staytuned.tasks import Task
from staytuned.training.adamw import AdamW, sparse_embeddings
from staytuned.training.step import clip
from staytuned.workspace import Workspace

SEEDS = (1, 2, 3)
T_95 = 4.303  # Student's t, 2 degrees of freedom
THEIRS = {  # run_glue, run_classification, run_ner, run_qa
    "text-classification": "AutoModelForSequenceClassification",
    "text-regression": "AutoModelForSequenceClassification",
    "multi-label-classification": "AutoModelForSequenceClassification",
    "sentence-pairs": "AutoModelForSequenceClassification",
    "token-classification": "AutoModelForTokenClassification",
    "question-answering": "AutoModelForQuestionAnswering",
}
LANGUAGE = "language-modelling"  # run_mlm line by line, run_clm


class Theirs(torch.nn.Module):
    """A model of transformers with its own head, which answers as ours do."""

    def __init__(self, task: Task, base: Path, width: int) -> None:
        super().__init__()
        maker = getattr(transformers, THEIRS[task.options.name])
        self.model = maker.from_pretrained(base, num_labels=width, local_files_only=True, use_safetensors=True)

    def forward(
        self, attention_mask: torch.Tensor, allowed: torch.Tensor | None = None, **inputs: torch.Tensor
    ) -> torch.Tensor:
        """Logits in the shape that the task has them."""
        if allowed is None:
            states = last_states(self.model.base_model, attention_mask, **inputs)
            pooler = self.model.base_model.pooler
            read = states if pooler is None else pooler(states)
            return self.model.classifier(self.model.dropout(read))
        said = self.model(attention_mask=attention_mask, **inputs)  # their loss of a span sees padding too
        spans = torch.stack([said.start_logits, said.end_logits], dim=-1)
        return spans if self.training else spans.masked_fill(~allowed.unsqueeze(-1), torch.finfo(spans.dtype).min)

    @torch.no_grad()
    def check(self, attention_mask: torch.Tensor, allowed: torch.Tensor | None = None, **inputs: torch.Tensor) -> None:
        """Whether the answers are those of the model as transformers makes it."""
        if allowed is None:
            self.eval()
            own, theirs = self(attention_mask, **inputs), self.model(attention_mask=attention_mask, **inputs).logits
            real = attention_mask.bool() if own.ndim == 3 else slice(None)
            torch.testing.assert_close(own[real], theirs[real], atol=1e-5, rtol=1e-5)


class Recipe(transformers.Trainer):
    """`Trainer` on the batches and the loss of a task; masks of tokens are drawn anew each time."""

    def __init__(self, task: Task, examples: Examples, **options: Any) -> None:
        random = numpy.random.default_rng(options["args"].seed) if task.options.name == LANGUAGE else None

        def collate(places: list[int]) -> dict[str, Any]:
            return task.batch(examples, places, random)._asdict()

        super().__init__(train_dataset=range(len(examples)), data_collator=collate, **options)
        self.task = task

    def compute_loss(self, model: Any, inputs: dict[str, Any], *rest: Any, **more: Any) -> torch.Tensor:
        """The task's own mean loss."""
        return self.task.loss(model(**inputs["inputs"]), inputs["targets"])

    def _clip_grad_norm(self, model: torch.nn.Module) -> float:
        """As theirs, of sparse gradients too."""
        clip(model.parameters(), self.args.max_grad_norm)
        return 0.0


def theirs(space: Workspace, params: Params, task: Task) -> torch.nn.Module:
    """The model after `Trainer` with its defaults but for the epochs."""
    arguments = transformers.TrainingArguments(
        output_dir=str(space.var / "trainer"),
        num_train_epochs=params.train.epochs,
        seed=params.train.seed,
        save_strategy="no",
        report_to="none",
        remove_unused_columns=False,
    )
    examples = Examples.read(space.encoded / f"{TRAIN}.arrow")
    task.look_at(examples)
    model = with_quick_layers(their_model(task, base_of(space, params)))
    if isinstance(model, Theirs):
        model.check(**task.batch(examples, list(range(8)), None).inputs)
    group = {"params": list(model.parameters()), "lr": arguments.learning_rate, "weight_decay": 0.0}
    optimizer = AdamW([group], sparse_embeddings(model))
    Recipe(task, examples, model=model, args=arguments, optimizers=(optimizer, None)).train()
    optimizer.settle()
    return model.eval()


def their_model(task: Task, base: Path) -> torch.nn.Module:
    """As transformers makes it for the task, with the dropout of the base model's own configuration."""
    if task.options.name == LANGUAGE:
        maker = getattr(transformers, task.kind)
        return task.model(maker.from_pretrained(base, local_files_only=True, use_safetensors=True), 0.0)
    width = task.model(backbone(task.kind, base, 0.0, pretrained=False), 0.0).head.out_features
    return Theirs(task, base, width)


def ours(space: Workspace, params: Params, task: Task) -> torch.nn.Module:
    """The model of the stage that the road runs."""
    train.run(space, params)
    return Predictor(space.candidate).model


def measured(space: Workspace, name: str, seed: int) -> dict[str, float]:
    """What one side achieves on the test rows with one seed; kept in the workspace."""
    done = space.var / "recipes" / f"{name}-{seed}.json"
    if not done.exists():
        params = Params.read(space.params)
        params = params.model_copy(update={"train": params.train.model_copy(update={"seed": seed})})
        make_deterministic(seed, params.train.threads)
        task = tasks.load(params)
        tokenizer = Tokenizer.from_file(str(base_of(space, params) / "tokenizer.json"))
        task.adapt(tokenizer, params.encode.max_tokens)
        model = {"ours": ours, "theirs": theirs}[name](space, params, task)
        frame, examples = rows_of(space, TEST), Examples.read(space.encoded / f"{TEST}.arrow")
        score = task.score(frame, task.predict(model, tokenizer, frame, examples))
        write_json(done, score)
    found: dict[str, float] = read_json(done)
    return found


def compare(data: Path, folder: Path, name: str) -> bool:
    """Both sides of one job; whether ours is no worse."""
    prepare(data, folder / name, name)
    space = Workspace(folder / name)
    params = Params.read(space.params)
    if not space.encoded.exists():
        for stage in (validate, split, encode):
            stage.run(space, params)
    found = [(measured(space, "ours", seed), measured(space, "theirs", seed)) for seed in SEEDS]
    metric = tasks.load(params).metrics[0]
    differences = [one[metric.name] - other[metric.name] for one, other in found]
    mean = statistics.mean(differences)
    half = T_95 * statistics.stdev(differences) / len(SEEDS) ** 0.5
    print(
        f"| {name} | {metric.title} | {statistics.mean(one[metric.name] for one, _ in found):.3f} | "
        f"{statistics.mean(other[metric.name] for _, other in found):.3f} | "
        f"{mean:+.3f} ({mean - half:+.3f} to {mean + half:+.3f}) |",
        flush=True,
    )
    return mean >= 0 if metric.higher_is_better else mean <= 0


if __name__ == "__main__":
    data, folder = Path(sys.argv[1]).resolve(), Path(sys.argv[2]).resolve()
    transformers.utils.logging.set_verbosity_error()
    print(
        "| job | metric | staytuned | Trainer's defaults | difference |",
        "|---|---|---|---|---|",
        sep="\n",
    )
    unknown = [name for name in sys.argv[3:] if JOBS[name].task not in {*THEIRS, LANGUAGE}]
    if unknown:
        sys.exit(f"transformers has no example script for {unknown}")
    better = [compare(data, folder, name) for name in sys.argv[3:]]  # all of them, whatever the first says
    sys.exit(not all(better))
