"""A cross-encoder reads query and passage together and puts the best candidates in a better order.

Any transformers model for sequence classification with one logit will do. It costs a run of the
model for each candidate. What it gains was never measured here: no such weights were to be had.
"""

from collections.abc import Sequence

import torch
from transformers import AutoConfig

from nanoscout.errors import UserError
from nanoscout.models.load import locate, quiet, readable
from nanoscout.records import Passage
from nanoscout.search.encoder import MAX_PASSAGE_CHARS, MAX_QUERY_CHARS, from_extra, passage_text
from nanoscout.search.one_core import on_one_core


class Reranker:
    """The model that `source` names: a folder, or a name on the hub.

    Raises UserError where the model is not there, does not load or is of another kind, and without
    the extra `dense`.
    """

    def __init__(self, source: str):
        library = from_extra("sentence_transformers")
        location, options = locate(source)
        with quiet(), readable(source):
            config = AutoConfig.from_pretrained(location, **options)
        kinds = config.architectures or ["a model of no named kind"]
        if not kinds[0].endswith("ForSequenceClassification") or config.num_labels != 1:
            raise UserError(
                f"model '{source}': no reranker: it must be a sequence classification with one "
                f"logit, and is {kinds[0]} with {config.num_labels}"
            )
        with quiet(), readable(source):
            self._model = library.CrossEncoder(location, **options)

    def scores(self, query: str, passages: Sequence[Passage]) -> list[float]:
        """The model's logit for each passage; on one core."""
        query = query[:MAX_QUERY_CHARS].encode(errors="replace").decode()
        pairs = [(query, passage_text(passage)[:MAX_PASSAGE_CHARS]) for passage in passages]
        scores = on_one_core(
            lambda: self._model.predict(
                pairs, activation_fn=torch.nn.Identity(), show_progress_bar=False
            )
        )
        return [float(score) for score in scores]
